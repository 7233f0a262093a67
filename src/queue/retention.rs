//! How many dead letters a queue keeps, and for how long: each queue's in the order in which they died, and when the first
//! of them has been kept for long enough.
//!
//! A timer a queue, not a timer a message: it is set for the letter that is dead for longest and may be early, when that
//! one was redriven or purged meanwhile.

use std::collections::BTreeSet;

use crate::clock::{Time, Wall};
use crate::queue::messages::{NIL, State};
use crate::queue::{Brain, CLOCK_INTERVAL_MS, Turn};

/// The queues whose dead letters are to be looked at, by time; each at most once.
#[derive(Debug, Default)]
pub(super) struct Retention {
    due: BTreeSet<(Time, u32)>,
}

impl Retention {
    /// When the first queue is due.
    pub(super) fn next(&self) -> Option<Time> {
        self.due.first().map(|&(at, _)| at)
    }

    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}

impl Brain {
    /// The dead letter of a queue that died first.
    pub(super) fn longest_dead(&self, queue: u32) -> Option<u32> {
        let first = self.queues.at(queue).dead_ends.0;
        (first != NIL).then_some(first)
    }

    /// A message died now, later than all dead letters of its queue.
    pub(super) fn link_dead(&mut self, slot: u32) {
        let queue = self.messages.at(slot).queue;
        let ends = &mut self.queues.at_mut(queue).dead_ends;
        let last = std::mem::replace(&mut ends.1, slot);
        match last {
            NIL => ends.0 = slot,
            _ => self.messages.at_mut(last).next = slot,
        }
        let message = self.messages.at_mut(slot);
        (message.prev, message.next) = (last, NIL);
    }

    pub(super) fn unlink_dead(&mut self, slot: u32) {
        let message = self.messages.at(slot);
        let (queue, prev, next) = (message.queue, message.prev, message.next);
        let ends = &mut self.queues.at_mut(queue).dead_ends;
        match prev {
            NIL => ends.0 = next,
            _ => self.messages.at_mut(prev).next = next,
        }
        match next {
            NIL => ends.1 = prev,
            _ => self.messages.at_mut(next).prev = prev,
        }
    }

    /// After a replay, which comes upon dead letters in the order of their newest records.
    pub(super) fn sort_dead(&mut self, now: Time) {
        let queues: Vec<u32> = self.queues.slab.iter().map(|(queue, _)| queue as u32).collect();
        for queue in queues {
            let mut slots: Vec<u32> = self.queues.at(queue).dead.values().copied().collect();
            slots.sort_by_key(|&slot| (self.died(slot), self.messages.at(slot).id));
            self.queues.at_mut(queue).dead_ends = (NIL, NIL);
            slots.into_iter().for_each(|slot| self.link_dead(slot));
            self.time_retention(queue, now);
        }
    }

    pub(super) fn died(&self, slot: u32) -> Time {
        self.messages.rare(slot).map_or(Time(0), |rare| rare.died)
    }

    /// What shard time was when a record that stands where the replay is says that the wall clock stood so. Right to a
    /// second: when it was written the newest clock was no older, whatever the wall clock was set to since. 0 while the log
    /// has told of no clock, which [`Brain::time_first_deaths`] makes up for.
    pub(super) fn time_of_death(&self, wall: Wall) -> Time {
        let (time, at) = self.clock;
        if at == Wall(0) {
            return Time(0);
        }
        Time(time.0.saturating_add(wall.0.saturating_sub(at.0).min(CLOCK_INTERVAL_MS)))
    }

    /// This is the first clock that is left in the log: what died before it went by one whose segment is free by now.
    pub(super) fn time_first_deaths(&mut self, time: Time, wall: Wall) {
        let slots: Vec<u32> =
            self.queues.slab.iter().flat_map(|(_, queue)| queue.dead.values().copied()).collect();
        for slot in slots {
            let rare = self.messages.rare_mut(slot);
            if let (Some((_, died)), Time(0)) = (rare.dead, rare.died) {
                rare.died = Time(time.0.saturating_sub(wall.0.saturating_sub(died.0)));
            }
        }
    }

    /// The latest time at which one of the dead letters died.
    pub(super) fn last_death(&self) -> Time {
        let slots = self.queues.slab.iter().flat_map(|(_, queue)| queue.dead.values());
        slots.map(|&slot| self.died(slot)).max().unwrap_or_default()
    }

    /// Sets the time at which the dead letters of a queue are looked at next, for they, or its settings, changed.
    pub(super) fn time_retention(&mut self, queue: u32, now: Time) {
        let entry = self.queues.at(queue);
        let rules = entry.rules(&self.config);
        let at = match (self.longest_dead(queue), rules.dead_ttl) {
            (Some(_), _) if entry.has_too_many_dead(&self.config) => Some(now),
            (Some(first), Some(ttl)) => Some(self.died(first) + ttl),
            _ => None,
        };
        self.forget_retention(queue);
        if let Some(at) = at {
            self.retention.due.insert((at, queue));
            self.queues.at_mut(queue).retain_at = Some(at);
        }
    }

    /// The queue is looked at no more.
    pub(super) fn forget_retention(&mut self, queue: u32) {
        if let Some(at) = self.queues.at_mut(queue).retain_at.take() {
            self.retention.due.remove(&(at, queue));
        }
    }

    /// Forgets dead letters that were kept for long enough, or of which there are too many, as many as one call may; the
    /// next call goes on with the rest.
    pub(super) fn retain_due(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.time;
        let mut left = self.config.operator_slice;
        while left > 0
            && let Some(&(at, queue)) = self.retention.due.first()
            && at <= now
        {
            left -= 1;
            let mut forgotten = 0;
            while left > 0
                && let Some(first) = self.longest_dead(queue)
                && self.is_kept_no_longer(queue, first, now)
            {
                self.finish_message(first, turn);
                forgotten += 1;
                left -= 1;
            }
            if forgotten > 0 {
                self.say_forgotten(queue, forgotten, now);
            }
            self.time_retention(queue, now);
        }
    }

    fn is_kept_no_longer(&self, queue: u32, first: u32, now: Time) -> bool {
        let entry = self.queues.at(queue);
        let ttl = entry.rules(&self.config).dead_ttl;
        entry.has_too_many_dead(&self.config) || ttl.is_some_and(|ttl| self.died(first) + ttl <= now)
    }

    /// Panics unless every queue's dead letters are listed once, those that died earlier first.
    pub(super) fn check_dead(&self) {
        let mut timed = 0;
        for (index, queue) in &self.queues.slab {
            let (mut at, mut prev, mut count) = (queue.dead_ends.0, NIL, 0);
            while at != NIL {
                let message = self.messages.at(at);
                assert!(message.state == State::Dead && message.prev == prev, "dead list of {}", queue.name);
                let is_ordered = prev == NIL || self.died(prev) <= self.died(at);
                assert!(is_ordered, "dead letters of {} out of order", queue.name);
                (prev, at) = (at, message.next);
                count += 1;
            }
            assert_eq!((count, prev), (queue.dead.len(), queue.dead_ends.1), "dead list of {}", queue.name);
            if let Some(at) = queue.retain_at {
                timed += 1;
                assert!(self.retention.due.contains(&(at, index as u32)), "retention of {}", queue.name);
            }
            let is_timed = queue.dead.is_empty() || queue.retain_at.is_some();
            assert!(is_timed || queue.rules(&self.config).dead_ttl.is_none(), "{} is not timed", queue.name);
        }
        assert_eq!(timed, self.retention.len(), "retention of no queue");
    }
}
