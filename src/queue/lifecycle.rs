//! The steps of a message's life: out of one state, into the next, with its timer.
//!
//! A step is [`Brain::leave`] and one of the `place_*`; each keeps the counts of its queue.

use std::time::Duration;

use crate::clock::{Now, Time, Wall};
use crate::limits::HISTORY_MAX;
use crate::log::Ticket;
use crate::message::RetryOptions;
use crate::queue::config::WhenFull;
use crate::queue::messages::{FailureKept, State};
use crate::queue::record::{self, FailedRecord, Reason, Standing};
use crate::queue::{Brain, Turn};

/// By so much a wall clock may run faster than the other one before that counts as a jump.
const WALL_DRIFT_MS: i64 = 500;
/// Between two lines of the log about forgotten dead letters.
const FORGOTTEN_LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What the history says of an attempt that a restart cut short.
pub(super) const CUT_SHORT: &str =
    "the server was restarted during the attempt, and the client did not go on with it";

/// Dead letters that were forgotten, as far as the log has to be told.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    unsaid: u64,
    next_line: Time,
}

/// When a failed message may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// At once: whoever worked on it is gone.
    Now,
    /// After this many milliseconds.
    After(u64),
    /// After the queue's backoff.
    Backoff,
    /// Never.
    Reject,
}

/// At which end of its list a message becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Front,
    Back,
}

impl Brain {
    /// A message's timer fired.
    pub(super) fn message_due(&mut self, slot: u32, turn: &mut Turn<'_>) {
        self.messages.at_mut(slot).timer = None;
        let message = self.messages.at(slot);
        let is_expired = message.expires != Time(0) && message.expires <= turn.now.time;
        match message.state {
            State::Leased => {
                self.metrics.leases_expired.inc();
                self.keep_taken(slot);
                self.fail(slot, "lease expired", Retry::Backoff, turn);
            }
            State::Ready | State::Scheduled | State::Blocked if is_expired => {
                self.die(slot, Reason::Expired, turn);
            }
            State::Scheduled => {
                // The wall clock may have jumped since this was timed.
                let due = self.messages.rare(slot).map_or(Wall(0), |rare| rare.due);
                let queue = message.queue;
                let until = match due.0.saturating_sub(turn.now.wall.0) {
                    0 => message.until(),
                    early => Time(turn.now.time.0.saturating_add(early)),
                };
                self.leave(slot);
                if until > turn.now.time {
                    self.place_scheduled(slot, until);
                } else {
                    self.note_ready(slot, turn.now.time);
                    self.place_ready(slot, End::Back);
                    self.mark_dirty(queue);
                }
            }
            State::Ready | State::Blocked | State::Dead | State::Free => {}
        }
    }

    /// Sees whether the wall clock jumped forward while messages wait for it: those whose time came are ready then. That it
    /// jumped back is noticed when they would be due.
    pub(super) fn look_at_wall(&mut self, now: Now) {
        self.wall_looked = now.time;
        let ahead_ms = now.wall.0.wrapping_sub(now.time.0) as i64;
        let jumped_ms = self.wall_ahead_ms.map_or(i64::MAX, |known| ahead_ms.saturating_sub(known));
        if (0..WALL_DRIFT_MS).contains(&jumped_ms) {
            return;
        }
        self.wall_ahead_ms = Some(ahead_ms);
        if jumped_ms < 0 {
            return;
        }
        for slot in self.messages.waiting_for_wall() {
            let Some(rare) = self.messages.rare(slot) else { continue };
            let wait_ms = rare.due.0.saturating_sub(now.wall.0);
            let until = Time(now.time.0.saturating_add(wait_ms)).max(rare.no_sooner);
            let message = self.messages.at(slot);
            match message.state {
                State::Blocked => self.messages.rare_mut(slot).until = until,
                State::Scheduled if until < message.until() => {
                    self.leave(slot);
                    self.place_scheduled(slot, until);
                }
                _ => {}
            }
        }
    }

    /// The attempt at a leased message failed. Also takes a ready one whose attempt a restart cut short.
    pub(super) fn fail(&mut self, slot: u32, error: &str, retry: Retry, turn: &mut Turn<'_>) {
        let (holder, lasted_ms) = self.holder(slot, turn.now.time);
        self.abandon_read(slot);
        self.leave(slot);
        self.messages.at_mut(slot).attempt_open = false;
        let message = self.messages.at(slot);
        let (id, attempt, queue) = (message.id, message.attempt, message.queue);
        let is_spent = u32::from(message.spent) >= self.attempts_max(slot);
        let next = if retry == Retry::Reject || is_spent {
            let reason = if retry == Retry::Reject { Reason::Rejected } else { Reason::Attempts };
            if self.holds_key(slot) { Standing::Holding(reason) } else { Standing::Dead(reason) }
        } else {
            match self.retry_delay_ms(slot, retry) {
                0 => Standing::Ready,
                delay_ms => Standing::Scheduled(Time(turn.now.time.0.saturating_add(delay_ms))),
            }
        };
        let wall = turn.now.wall;
        self.append_amendment(turn, |out| {
            let failed = FailedRecord { id, attempt, wall, next, client: &holder, error, lasted_ms };
            record::encode_failed(out, &failed);
        });
        let kept = FailureKept { attempt, wall, client: holder, error: error.into(), lasted_ms };
        self.keep_failure(slot, kept);
        match next {
            Standing::Dead(reason) => self.place_dead(slot, reason, wall, turn),
            Standing::Holding(reason) => {
                self.messages.rare_mut(slot).holds_key = true;
                self.place_dead(slot, reason, wall, turn);
            }
            Standing::Scheduled(until) => self.place_scheduled(slot, until),
            Standing::Ready | Standing::AttemptOpen => self.place_ready(slot, End::Front),
        }
        self.mark_dirty(queue);
    }

    /// The newest attempt at a ready message, which a restart cut short, failed: nobody goes on with it. The message
    /// stays where it is.
    pub(super) fn end_cut_short(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let message = self.messages.at_mut(slot);
        debug_assert!(message.attempt_open);
        message.attempt_open = false;
        let (id, attempt, wall) = (message.id, message.attempt, turn.now.wall);
        self.append_amendment(turn, |out| {
            let (next, client, error) = (Standing::Ready, "", CUT_SHORT);
            let failed = FailedRecord { id, attempt, wall, next, client, error, lasted_ms: None };
            record::encode_failed(out, &failed);
        });
        let kept = FailureKept { attempt, wall, client: "".into(), error: CUT_SHORT.into(), lasted_ms: None };
        self.keep_failure(slot, kept);
    }

    /// The message is not to be delivered any more, without an attempt that failed now.
    pub(super) fn die(&mut self, slot: u32, reason: Reason, turn: &mut Turn<'_>) {
        if self.messages.at(slot).attempt_open {
            self.end_cut_short(slot, turn);
        }
        let message = self.messages.at(slot);
        let (id, queue, wall) = (message.lease().message, message.queue, turn.now.wall);
        self.append_amendment(turn, |out| record::encode_died(out, id, reason, wall));
        self.leave(slot);
        self.place_dead(slot, reason, wall, turn);
        self.mark_dirty(queue);
    }

    /// The message is gone, with everything it kept alive. Its `done` record is appended before this call returns to
    /// the engine.
    pub(super) fn finish_message(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let id = self.end_message(slot, turn);
        self.done.push(id);
    }

    /// The same where the caller writes down that it is done. Returns its id.
    pub(super) fn end_message(&mut self, slot: u32, turn: &mut Turn<'_>) -> u64 {
        self.abandon_read(slot);
        self.leave(slot);
        self.release_key(slot, turn);
        self.part_lane(slot);
        self.set_timer(slot, None);
        let message = self.messages.at(slot);
        let (id, queue) = (message.id, message.queue);
        turn.journal.release(message.position, message.charge);
        let bytes = u64::from(message.body_len);
        self.queues.at_mut(queue).bytes -= bytes;
        self.count_out(queue, bytes);
        self.messages.remove(slot);
        self.mark_dirty(queue);
        id
    }

    /// Takes a message out of the state it is in; one of the `place_*`, or its end, must follow.
    pub(super) fn leave(&mut self, slot: u32) {
        let message = self.messages.at(slot);
        let (id, state, lease, bytes) =
            (message.id, message.state, message.next, u64::from(message.body_len));
        let flow = self.lanes.flow_of(message.lane);
        let queue = self.queues.at_mut(message.queue);
        match state {
            State::Ready => {
                queue.ready.unlink(&mut self.messages, slot, flow);
                queue.ready_count -= 1;
            }
            State::Scheduled => queue.scheduled_count -= 1,
            State::Blocked => {
                queue.blocked_count -= 1;
                self.unlink_blocked(slot);
            }
            State::Leased => {
                queue.leased_count -= 1;
                let namespace = queue.namespace;
                self.end_lease(lease);
                self.count_lease_out(namespace);
            }
            State::Dead => {
                queue.dead.remove(&id);
                queue.dead_bytes -= bytes;
                let namespace = queue.namespace;
                self.queues.count_in(namespace, bytes);
                self.unlink_dead(slot);
            }
            State::Free => {}
        }
    }

    pub(super) fn place_ready(&mut self, slot: u32, end: End) {
        if self.messages.at(slot).is_rare {
            // What it waited for came; a wall clock that goes back makes it wait no more.
            self.messages.set_due(slot, Wall(0));
        }
        let message = self.messages.at(slot);
        let (expires, flow) = (message.expires, self.lanes.flow_of(message.lane));
        let queue = self.queues.at_mut(message.queue);
        queue.ready_count += 1;
        match end {
            End::Front => queue.ready.push_front(&mut self.messages, slot, flow),
            End::Back => queue.ready.push_back(&mut self.messages, slot, flow),
        }
        self.set_timer(slot, (expires != Time(0)).then_some(expires));
    }

    /// A message is ready from now on that was not when it was published. Only who lets the oldest die asks since when.
    pub(super) fn note_ready(&mut self, slot: u32, since: Time) {
        let message = self.messages.at(slot);
        let rules = self.queues.at(message.queue).rules(&self.config);
        if message.is_rare || rules.when_full == WhenFull::DeadLetterOldest {
            self.messages.rare_mut(slot).ready = since;
        }
    }

    pub(super) fn place_scheduled(&mut self, slot: u32, until: Time) {
        let message = self.messages.at_mut(slot);
        message.set_until(until);
        let first = if message.expires == Time(0) { until } else { until.min(message.expires) };
        let queue = message.queue;
        self.queues.at_mut(queue).scheduled_count += 1;
        self.set_timer(slot, Some(first));
    }

    /// Dead letters are bounded like the queue itself; beyond it the oldest is forgotten.
    pub(super) fn place_dead(&mut self, slot: u32, reason: Reason, wall: Wall, turn: &mut Turn<'_>) {
        self.set_dead(slot, reason, wall, turn.now.time);
        if !self.messages.rare(slot).is_some_and(|rare| rare.holds_key) {
            self.release_key(slot, turn);
        }
        self.set_timer(slot, None);
        match reason {
            Reason::Attempts => self.metrics.dead_attempts.inc(),
            Reason::Expired => self.metrics.dead_expired.inc(),
            Reason::Overflow => self.metrics.dead_overflow.inc(),
            Reason::Rejected => self.metrics.dead_rejected.inc(),
            Reason::TooLarge => self.metrics.dead_too_large.inc(),
        }
        let queue = self.messages.at(slot).queue;
        self.tell_growing(queue, reason, turn);
        let mut forgotten = 0;
        while self.queues.at(queue).has_too_many_dead(&self.config)
            && let Some(oldest) = self.longest_dead(queue)
        {
            self.finish_message(oldest, turn);
            forgotten += 1;
        }
        if forgotten > 0 {
            self.say_forgotten(queue, forgotten, turn.now.time);
        }
        if self.queues.at(queue).retain_at.is_none() {
            self.time_retention(queue, turn.now.time);
        }
    }

    /// Counts dead letters that are gone for good, and logs them now and then.
    pub(super) fn say_forgotten(&mut self, queue: u32, forgotten: u64, now: Time) {
        self.metrics.dead_forgotten.add(forgotten);
        self.forgotten.unsaid += forgotten;
        if self.forgotten.next_line > now {
            return;
        }
        let unsaid = std::mem::take(&mut self.forgotten.unsaid);
        self.forgotten.next_line = now + FORGOTTEN_LINE_INTERVAL;
        let queue = self.queues.at(queue);
        tracing::warn!(
            forgotten = unsaid,
            namespace = %self.queues.tenant(queue.namespace).name,
            queue = %queue.name,
            "dead letters were forgotten, the last one of this queue: it keeps as many as dead_messages_max and \
             dead_bytes_max, or else messages_max and bytes_max, allow, for dead_ttl; redrive or purge what it holds, or \
             raise them"
        );
    }

    /// What of a death a replay repeats.
    pub(super) fn set_dead(&mut self, slot: u32, reason: Reason, wall: Wall, time: Time) {
        let rare = self.messages.rare_mut(slot);
        (rare.dead, rare.died) = (Some((reason, wall)), time);
        let message = self.messages.at_mut(slot);
        message.state = State::Dead;
        message.attempt_open = false;
        self.link_dead(slot);
        let message = self.messages.at(slot);
        let (id, queue, bytes) = (message.id, message.queue, u64::from(message.body_len));
        self.count_out(queue, bytes);
        let queue = self.queues.at_mut(queue);
        queue.dead.insert(id, slot);
        queue.dead_bytes += bytes;
    }

    pub(super) fn keep_failure(&mut self, slot: u32, failure: FailureKept) {
        let failures = &mut self.messages.rare_mut(slot).failures;
        if failures.len() >= HISTORY_MAX {
            failures.remove(0);
        }
        // Most have one, and a list that grows by itself begins with room for four.
        failures.reserve_exact(1);
        failures.push(failure);
    }

    pub(super) fn set_timer(&mut self, slot: u32, at: Option<Time>) {
        let timer = &mut self.messages.at_mut(slot).timer;
        match (*timer, at) {
            (Some(waiting), Some(at)) => self.wheel.move_to(waiting, at),
            (None, Some(at)) => *timer = Some(self.wheel.insert(at, slot)),
            (Some(waiting), None) => {
                self.wheel.cancel(waiting);
                *timer = None;
            }
            (None, None) => {}
        }
    }

    pub(super) fn attempts_max(&self, slot: u32) -> u32 {
        let message = self.messages.at(slot);
        match message.attempts_max {
            0 => self.queues.at(message.queue).rules(&self.config).attempts_max,
            own => u32::from(own),
        }
    }

    /// What a delivery of this message waits for: its own publish.
    pub(super) fn ticket_of(&self, slot: u32) -> Ticket {
        self.published_with(self.messages.at(slot).id)
    }

    /// Who holds the lease of a message, and for how many milliseconds it did, as far as that is known.
    fn holder(&self, slot: u32, now: Time) -> (Box<str>, Option<u64>) {
        let message = self.messages.at(slot);
        if message.state != State::Leased {
            return ("".into(), None);
        }
        let lease = &self.leases[message.next as usize];
        let lasted_ms = (lease.since != Time(0)).then(|| lease.since.millis_until(now));
        (self.directory.at(lease.client).name.as_str().into(), lasted_ms)
    }

    fn retry_delay_ms(&mut self, slot: u32, retry: Retry) -> u64 {
        let message = self.messages.at(slot);
        match retry {
            Retry::Now | Retry::Reject => 0,
            Retry::After(delay_ms) => delay_ms,
            Retry::Backoff => {
                let rules = self.queues.at(message.queue).rules(&self.config);
                let own = self.messages.rare(slot).map_or_else(RetryOptions::default, |rare| rare.retry);
                let initial = own.initial.unwrap_or(rules.backoff_initial);
                let longest = own.max.unwrap_or(rules.backoff_max).max(initial);
                let factor_percent = own.factor_percent.unwrap_or(rules.backoff_factor_percent);
                let jitter_percent = own.jitter_percent.unwrap_or(rules.backoff_jitter_percent);
                let delay_ms = backoff_ms(initial, factor_percent, longest, message.spent);
                delay_ms + self.jitter_ms(delay_ms, jitter_percent)
            }
        }
    }

    fn jitter_ms(&mut self, delay_ms: u64, percent: u32) -> u64 {
        let most = delay_ms.saturating_mul(u64::from(percent)) / 100;
        self.random.u64(0..=most)
    }
}

/// The delay after `attempts` attempts that failed, at least one.
fn backoff_ms(initial: Duration, factor_percent: u32, longest: Duration, attempts: u16) -> u64 {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (mut delay_ms, longest_ms) = (millis(initial), millis(longest));
    for _ in 1..attempts {
        if delay_ms >= longest_ms || factor_percent <= 100 {
            break;
        }
        // Rounded up, so that the shortest delay grows as well.
        delay_ms = delay_ms.saturating_mul(u64::from(factor_percent)).div_ceil(100);
    }
    delay_ms.min(longest_ms)
}
