//! What comes due by the wall clock: which times a schedule publishes for, and what becomes of those it missed.
//!
//! A time is missed when nothing was published for it until [`SCHEDULE_LATE`] later, or until the next one came due. The wall
//! clock is looked at whenever something should be due, and at least every [`SCHEDULE_LOOK`], because it may jump. A jump
//! forward makes what it passes over due, and missed; a jump back moves what was not published for, and nothing that was
//! is published for again: a schedule that fired at a wrong time in the future waits until that time, or is added anew.

use std::time::Duration;

use crate::clock::{Time, Wall};
use crate::limits::{SCHEDULE_LATE, SCHEDULE_LOOK, SCHEDULE_STEPS};
use crate::mail::{Misfire, PublishMessage, Refused};
use crate::queue::ack_and_publish::Asking;
use crate::queue::quota::Met;
use crate::queue::timer::Timer;
use crate::queue::{Brain, Turn};

/// Looks at a calendar that a publish counts as, and the bytes that count as one more.
const STEPS_PER_PUBLISH: usize = 20;
const BYTES_PER_STEP: usize = 64;
/// Between two lines of the log about missed times.
const MISSED_LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Why a message that is due is not published now.
enum HeldUp {
    /// It is told no, and asks again later.
    Refused(Refused),
    /// It waits for room in this queue.
    Waits(u32),
    /// It has its turn, and this is still in its way.
    Met(Met),
}

/// Which time to publish for.
enum Choice {
    Publish(Wall),
    /// None: all that is due is skipped.
    Skip,
}

impl Brain {
    /// The schedules' timer fired.
    pub(super) fn schedules_due(&mut self, turn: &mut Turn<'_>) {
        self.schedules.timer = None;
        let wall = turn.now.wall;
        if wall < self.schedules.looked {
            let slots: Vec<u32> = self.schedules.slab.iter().map(|(slot, _)| slot as u32).collect();
            slots.into_iter().for_each(|slot| self.time_schedule(slot));
        }
        self.schedules.looked = wall;
        let mut steps = 0;
        while steps < SCHEDULE_STEPS
            && let Some(&(at, slot)) = self.schedules.due.first()
            && at <= wall
        {
            steps += self.schedule_due(slot, None, turn).0;
        }
        self.set_schedules_timer(turn);
    }

    /// Sets the timer for the next look; at once while something is due.
    pub(super) fn set_schedules_timer(&mut self, turn: &Turn<'_>) {
        let first = self.schedules.due.first().map(|&(at, _)| at);
        let wait = first.map(|at| {
            let wait = Duration::from_millis(at.0.saturating_sub(turn.now.wall.0));
            // Not in this call any more: it may have done enough.
            wait.clamp(Duration::from_millis(1), SCHEDULE_LOOK)
        });
        match (self.schedules.timer, wait) {
            (Some(timer), Some(wait)) => self.wheel.move_to(timer, turn.now.time + wait),
            (None, Some(wait)) => {
                self.schedules.timer = Some(self.wheel.insert(turn.now.time + wait, Timer::Schedules.key()));
            }
            (Some(timer), None) => {
                self.wheel.cancel(timer);
                self.schedules.timer = None;
            }
            (None, None) => {}
        }
    }

    /// After the replay.
    pub(super) fn start_schedules(&mut self, turn: &mut Turn<'_>) {
        for (position, len) in self.schedules.held() {
            turn.journal.retain(position, len);
        }
        self.schedules.looked = turn.now.wall;
        let slots: Vec<u32> = self.schedules.slab.iter().map(|(slot, _)| slot as u32).collect();
        slots.into_iter().for_each(|slot| self.time_schedule(slot));
        self.set_schedules_timer(turn);
        self.count_schedules();
    }

    /// Finds anew what a schedule has to deal with next, from what the log knows.
    pub(super) fn time_schedule(&mut self, slot: u32) {
        let schedule = &mut self.schedules.slab[slot as usize];
        let cron = schedule.cron.as_ref().filter(|_| !schedule.is_paused);
        schedule.next = cron.and_then(|cron| cron.next_after(schedule.base()));
        (schedule.pending, schedule.counted) = (0, Wall(0));
        let next = schedule.next;
        self.let_go(slot);
        self.schedules.wait_until(slot, next);
    }

    /// Deals with one time of a schedule, which has its turn in the line of the queue `has_turn`. Returns how much that was, in
    /// looks at a calendar, and what is in its way then.
    fn schedule_due(
        &mut self,
        slot: u32,
        has_turn: Option<u32>,
        turn: &mut Turn<'_>,
    ) -> (usize, Option<Met>) {
        let wall = turn.now.wall;
        let Some(due) = self.schedules.slab[slot as usize].next else {
            // Nobody without a next time waits for one.
            self.let_go(slot);
            self.schedules.wait_until(slot, None);
            return (1, None);
        };
        if due > wall {
            // Its turn came, and the clock went back meanwhile.
            self.let_go(slot);
            self.schedules.wait_until(slot, Some(due));
            return (1, None);
        }
        let (choice, steps) = self.choose_time(slot, due, wall, turn.now.time);
        let steps = steps + STEPS_PER_PUBLISH;
        let Choice::Publish(chosen) = choice else {
            self.go_on_after(slot, wall);
            return (steps, None);
        };
        let body = self.schedules.slab[slot as usize].body_for(chosen);
        let steps = steps + body.len() / BYTES_PER_STEP;
        match self.fire(slot, chosen, &body, has_turn, turn) {
            Ok(()) => {
                // Of those that are made up for one by one it was said when they were chosen.
                if chosen > self.schedules.slab[slot as usize].next.unwrap_or(chosen) {
                    self.say_missed(slot, due, chosen, turn.now.time);
                }
                self.go_on_after(slot, chosen);
                return (steps, None);
            }
            Err(HeldUp::Met(met)) => return (steps, Some(met)),
            Err(HeldUp::Waits(queue)) => {
                let text = format!("{:?} is full: it waits for room in it", self.queues.at(queue).name);
                self.hold_up(slot, text);
                self.stand_in_line(slot, queue);
            }
            Err(HeldUp::Refused(refused)) => {
                self.leave_line(slot);
                self.hold_up(slot, refused.text);
            }
        }
        let look_ms = SCHEDULE_LOOK.as_millis() as u64;
        self.schedules.wait_until(slot, Some(Wall(wall.0.saturating_add(look_ms))));
        (steps, None)
    }

    /// Publishes the message for the time `due`, in one record with the firing.
    fn fire(
        &mut self,
        slot: u32,
        due: Wall,
        body: &[u8],
        has_turn: Option<u32>,
        turn: &mut Turn<'_>,
    ) -> Result<(), HeldUp> {
        let schedule = &self.schedules.slab[slot as usize];
        let message = PublishMessage { header: schedule.header, body_len: body.len() as u32 };
        let (namespace, queue) = (schedule.namespace, schedule.queue.clone());
        let queue = match (has_turn, schedule.in_line) {
            (None, Some(queue)) => return Err(HeldUp::Waits(queue)),
            (None, None) => {
                let asking = Asking { may_wait: true, ..Asking::default() };
                let judged = self.judge(namespace, &queue, asking, &[message], turn);
                match judged.map_err(HeldUp::Refused)? {
                    (queue, true) => queue,
                    (queue, false) => return Err(HeldUp::Waits(queue)),
                }
            }
            (Some(queue), _) => {
                let bytes = u64::from(message.body_len);
                if let Some(refused) = self.never_fits(queue, 1, bytes) {
                    return Err(HeldUp::Refused(refused));
                }
                self.may_let_in(queue, 1, bytes, turn.now.time).map_err(HeldUp::Met)?;
                queue
            }
        };
        self.schedules.firing = Some((slot, due));
        self.admit(queue, None, &[], &[message], body, turn);
        self.schedules.firing = None;
        self.metrics.schedule_firings.inc();
        Ok(())
    }

    /// It is the turn of the schedules that wait for room in a queue: the first of them publishes.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn fire_next(&mut self, queue: u32, turn: &mut Turn<'_>) -> Result<(), Met> {
        let line = self.queues.at(queue).schedules.as_ref();
        let Some(&slot) = line.and_then(|line| line.slots.front()) else { return Ok(()) };
        // Before anything is looked up in a calendar.
        let bytes = self.schedules.slab[slot as usize].body_len();
        let met = match self.may_let_in(queue, 1, bytes, turn.now.time) {
            Ok(()) => self.schedule_due(slot, Some(queue), turn).1,
            Err(met) => Some(met),
        };
        self.set_schedules_timer(turn);
        let Some(met) = met else { return Ok(()) };
        // What comes later does not pass it.
        if let Some(line) = &mut self.queues.at_mut(queue).schedules {
            line.has_turn = true;
        }
        Err(met)
    }

    fn hold_up(&mut self, slot: u32, because: String) {
        if self.schedules.slab[slot as usize].held_up.replace(because.into()).is_none() {
            self.metrics.schedules_held_up.add(1);
        }
    }

    fn stand_in_line(&mut self, slot: u32, queue: u32) {
        let in_line = &mut self.schedules.slab[slot as usize].in_line;
        if in_line.is_none() {
            *in_line = Some(queue);
            self.queues.at_mut(queue).schedules.get_or_insert_default().slots.push_back(slot);
            self.mark_dirty(queue);
        }
    }

    fn leave_line(&mut self, slot: u32) {
        let Some(queue) = self.schedules.slab[slot as usize].in_line.take() else { return };
        let entry = self.queues.at_mut(queue);
        if let Some(line) = &mut entry.schedules {
            line.slots.retain(|&waiting| waiting != slot);
            if line.slots.is_empty() {
                entry.schedules = None;
            }
        }
        // It may have been what kept the queue, or what others waited behind.
        self.mark_dirty(queue);
    }

    /// Everything up to `dealt` is dealt with.
    fn go_on_after(&mut self, slot: u32, dealt: Wall) {
        let schedule = &mut self.schedules.slab[slot as usize];
        schedule.next = schedule.cron.as_ref().and_then(|cron| cron.next_after(dealt));
        schedule.pending = schedule.pending.saturating_sub(1);
        let next = schedule.next;
        self.let_go(slot);
        self.schedules.wait_until(slot, next);
    }

    /// It is not held up any more.
    pub(super) fn let_go(&mut self, slot: u32) {
        self.leave_line(slot);
        if self.schedules.slab[slot as usize].held_up.take().is_some() {
            self.metrics.schedules_held_up.sub(1);
        }
    }

    /// Which of the times from `due` to `wall` to publish for next, and in how many looks that was found.
    fn choose_time(&mut self, slot: u32, due: Wall, wall: Wall, now: Time) -> (Choice, usize) {
        let schedule = &self.schedules.slab[slot as usize];
        let latest = schedule.cron.as_ref().and_then(|cron| cron.latest_until(wall));
        let latest = latest.map_or(due, |latest| latest.max(due));
        let is_late = Duration::from_millis(wall.0.saturating_sub(latest.0)) > SCHEDULE_LATE;
        match schedule.misfire {
            Misfire::All => {
                let (due, steps) = self.choose_of_all(slot, due, latest, now);
                (Choice::Publish(due), steps)
            }
            Misfire::Skip if is_late => {
                self.say_missed(slot, due, latest, now);
                (Choice::Skip, 1)
            }
            Misfire::Skip | Misfire::Once => (Choice::Publish(latest), 1),
        }
    }

    /// The oldest of the times from `due` to `latest` that is made up for: of more than the bound, the newest are.
    fn choose_of_all(&mut self, slot: u32, due: Wall, latest: Wall, now: Time) -> (Wall, usize) {
        let schedule = &mut self.schedules.slab[slot as usize];
        let Some(cron) = &schedule.cron else { return (due, 1) };
        let (max, mut steps, mut oldest) = (schedule.missed_max, 1, due);
        // Those that came due since the last look; no more of them than it takes to know that they are too many.
        let mut new = 0;
        while schedule.pending == 0 || (schedule.counted < latest && new <= max) {
            let next = if schedule.pending == 0 { Some(due) } else { cron.next_after(schedule.counted) };
            let Some(next) = next.filter(|&next| next <= latest) else { break };
            schedule.counted = next;
            schedule.pending += 1;
            new += 1;
        }
        steps += new as usize;
        if schedule.counted < latest {
            (schedule.counted, schedule.pending, oldest) = (latest, 1, latest);
            while schedule.pending < max
                && let Some(before) = cron.latest_until(Wall(oldest.0 - 1)).filter(|&before| before >= due)
            {
                oldest = before;
                schedule.pending += 1;
            }
            steps += schedule.pending as usize;
        }
        while schedule.pending > max
            && let Some(next) = cron.next_after(oldest)
        {
            oldest = next;
            schedule.pending -= 1;
            steps += 1;
        }
        schedule.next = Some(oldest);
        if oldest > due {
            self.say_missed(slot, due, oldest, now);
        }
        (oldest, steps)
    }

    /// Counts that times from `from` on were passed over, and logs it now and then.
    fn say_missed(&mut self, slot: u32, from: Wall, until: Wall, now: Time) {
        self.metrics.schedule_misfires.inc();
        if self.schedules.next_line > now {
            return;
        }
        self.schedules.next_line = now + MISSED_LINE_INTERVAL;
        let schedule = &self.schedules.slab[slot as usize];
        let local = |wall| schedule.cron.as_ref().map(|cron| cron.local(wall)).unwrap_or_default();
        tracing::warn!(
            namespace = %self.queues.tenant(schedule.namespace).name,
            schedule = %schedule.name,
            misfire = schedule.misfire.as_str(),
            from = local(from),
            until = local(until),
            "a schedule passes over times that it missed, as its misfire policy says"
        );
    }
}
