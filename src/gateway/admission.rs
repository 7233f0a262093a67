//! A loop's budget of handshakes: who is let in now, who waits, who is sent away and when to come back.
//!
//! One token bucket, from which a HELLO takes a token as its client goes on to the shard. Part of the bucket is kept for
//! clients that resume, so that they are let in before new ones. When it is empty a client waits on its connection,
//! as long as its token comes well within the handshake's deadline: that costs a socket for a moment, where sending it
//! away costs both sides another connection. Beyond that it is sent away with a slot, new clients first. Slots are tokens
//! of the same bucket that are still to come, those who wait here served before: each slot is one token later than the
//! one before, and a client comes no sooner than its slot, so those who come back find what was promised.
//!
//! How many connections a turn accepts is decided here as well ([`accepts_of_turn`]). Pure: no clock, no sockets.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;
use crate::limits;

/// Who is let in first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// With an authentic resume token: it was here before.
    Resume,
    /// Anybody else.
    New,
}

/// What becomes of a client that said HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Ruling {
    /// It has its token.
    LetIn,
    /// It is to be given to [`Admission::wait`].
    Wait,
    /// Away, with a slot.
    Shed,
}

/// The budget, and those that wait for a token of it.
#[derive(Debug)]
pub(super) struct Admission<W> {
    /// Tokens a second, which is thousandths of a token a millisecond.
    per_second: u64,
    /// Thousandths of a token in the bucket.
    level: u64,
    level_max: u64,
    filled_at: Time,
    resuming: VecDeque<W>,
    new: VecDeque<W>,
    new_waiting_max: usize,
    /// From when on tokens are not promised, in microseconds.
    unpromised_us: u64,
    random: fastrand::Rng,
}

/// A whole token, in the thousandths that are counted.
const TOKEN: u64 = 1000;

impl<W> Admission<W> {
    /// A full bucket of `burst` tokens, at least 2. At most `new_waiting_max` clients that do not resume wait at once.
    /// `seed` spreads the slots.
    pub(super) fn new(per_second: u32, burst: u32, new_waiting_max: usize, seed: u64, now: Time) -> Self {
        let level_max = u64::from(burst.max(2)) * TOKEN;
        Self {
            per_second: u64::from(per_second.max(1)),
            level: level_max,
            level_max,
            filled_at: now,
            resuming: VecDeque::new(),
            new: VecDeque::new(),
            new_waiting_max,
            unpromised_us: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Tokens a second.
    pub(super) fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Clients that wait, those included that left meanwhile.
    pub(super) fn waiting(&self) -> usize {
        self.resuming.len() + self.new.len()
    }

    /// Rules on a client that can wait for `patience`; a new one gives up half of it to those that resume.
    pub(super) fn rule(&mut self, now: Time, rank: Rank, patience: Duration) -> Ruling {
        self.fill(now);
        let (ahead, patience) = match rank {
            Rank::Resume => (self.resuming.len(), patience),
            Rank::New => (self.waiting(), patience / 2),
        };
        let lacking = self.lacking(rank, ahead);
        if lacking == 0 && ahead == 0 {
            self.level -= TOKEN;
            return Ruling::LetIn;
        }
        let has_place = rank == Rank::Resume || self.new.len() < self.new_waiting_max;
        let is_soon = u128::from(lacking / self.per_second) < patience.as_millis();
        if has_place && is_soon { Ruling::Wait } else { Ruling::Shed }
    }

    /// Takes one that [`Admission::rule`] lets wait.
    pub(super) fn wait(&mut self, rank: Rank, waiter: W) {
        match rank {
            Rank::Resume => self.resuming.push_back(waiter),
            Rank::New => self.new.push_back(waiter),
        }
    }

    /// The next of those that wait, with its token, if there is one: those that resume first.
    pub(super) fn next(&mut self, now: Time) -> Option<W> {
        self.fill(now);
        if self.lacking(self.next_rank()?, 0) > 0 {
            return None;
        }
        let waiter = self.resuming.pop_front().or_else(|| self.new.pop_front());
        self.level -= TOKEN;
        waiter
    }

    /// Gives back the token of a client that had left.
    pub(super) fn give_back(&mut self) {
        self.level = (self.level + TOKEN).min(self.level_max);
    }

    /// When [`Admission::next`] has the next one; `None` when nobody waits.
    pub(super) fn next_at(&self) -> Option<Time> {
        let lacking = self.lacking(self.next_rank()?, 0);
        Some(self.filled_at + Duration::from_millis(lacking.div_ceil(self.per_second)))
    }

    /// Promises a token to come: milliseconds from now, at least 1, with a jitter of up to an eighth and 100 ms, which
    /// only ever delays.
    pub(super) fn slot(&mut self, now: Time) -> u32 {
        let now_us = now.0.saturating_mul(1000);
        let furthest_us = u64::try_from(limits::READMISSION_MAX.as_micros()).unwrap_or(u64::MAX);
        let until = now_us.saturating_add(furthest_us);
        let behind_waiting_us = now_us + self.waiting() as u64 * 1_000_000 / self.per_second;
        let slot_us = self.unpromised_us.max(behind_waiting_us).min(until);
        self.unpromised_us = slot_us + 1_000_000_u64.div_ceil(self.per_second);
        let wait_ms = (slot_us - now_us) / 1000;
        let wait_ms = wait_ms + 1 + self.random.u64(..=wait_ms / 8 + 100);
        u32::try_from(wait_ms).unwrap_or(u32::MAX)
    }

    fn next_rank(&self) -> Option<Rank> {
        match (self.resuming.is_empty(), self.new.is_empty()) {
            (false, _) => Some(Rank::Resume),
            (true, false) => Some(Rank::New),
            (true, true) => None,
        }
    }

    /// Thousandths of a token that must come before one of this rank behind `ahead` others has its own.
    fn lacking(&self, rank: Rank, ahead: usize) -> u64 {
        let kept = match rank {
            Rank::Resume => 0,
            Rank::New => self.level_max / 2,
        };
        (kept + (ahead as u64 + 1) * TOKEN).saturating_sub(self.level)
    }

    fn fill(&mut self, now: Time) {
        let tokens = self.filled_at.millis_until(now).saturating_mul(self.per_second);
        self.level = self.level.saturating_add(tokens).min(self.level_max);
        self.filled_at = self.filled_at.max(now);
    }
}

/// How many connections a loop accepts in a turn, by how long its last turn took and how many batches lie in its lane to
/// the shard. A loop that is behind lets the sessions it has go first, their heartbeats and acks, and takes new
/// connections as it catches up; never none, so that nobody waits in the kernel for ever.
#[must_use]
pub fn accepts_of_turn(last_turn: Duration, lane_batches: usize) -> usize {
    if lane_batches * 4 >= limits::COMMAND_LANE_BATCHES * 3 {
        return limits::ACCEPTS_PER_TURN_MIN;
    }
    let allowed = limits::ACCEPTS_PER_TURN_MAX as u128 * limits::UNHURRIED_TURN.as_micros();
    let share = allowed / last_turn.max(limits::UNHURRIED_TURN).as_micros();
    usize::try_from(share)
        .unwrap_or(limits::ACCEPTS_PER_TURN_MAX)
        .clamp(limits::ACCEPTS_PER_TURN_MIN, limits::ACCEPTS_PER_TURN_MAX)
}

#[cfg(test)]
mod tests;
