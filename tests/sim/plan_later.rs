//! What worlds learned later: deduplication ids, ordering keys, bindings, schedules, dead letters that go by themselves.
//!
//! About every second world has some of it, by its seed; the others, those of the seeds kept before it among them, are what
//! they were.

use std::time::Duration;

use relaymesh::queue::WhenFull;

use crate::chaos::Trouble;
use crate::plan::Plan;
use crate::scheduler::{MS, Micros, SECOND};

/// What a world has of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Later {
    /// Seed of all that is decided about it while the world lives; `None` when there is nothing of it.
    pub(crate) seed: Option<u64>,
    /// In percent of the publishes.
    pub(crate) dedup_ids: u32,
    pub(crate) dedup_window: Duration,
    /// In percent of the messages.
    pub(crate) order_keys: u32,
    /// Bindings at a time.
    pub(crate) bindings: usize,
    pub(crate) schedules: usize,
    /// How long dead letters are kept.
    pub(crate) dead_ttl: Option<Duration>,
    /// Of a full queue the oldest messages die.
    pub(crate) oldest_dies: bool,
    /// Redrives of some dead letters and not others.
    pub(crate) selections: bool,
    /// Average time from one thing an operator does about it to the next.
    pub(crate) every: Micros,
    /// How far the wall clock is set at most, in milliseconds.
    pub(crate) clock_jump_ms: i64,
}

impl Later {
    pub(crate) const fn is_bound(&self) -> bool {
        self.bindings > 0
    }
}

impl Plan {
    /// What the world of this seed has of it.
    pub(crate) fn add_later(&mut self, seed: u64) {
        if seed % 11 < 5 {
            let mut random = fastrand::Rng::with_seed(seed ^ 0x1a7e_5eed);
            self.later(&mut random);
        }
    }

    pub(crate) fn later(&mut self, random: &mut fastrand::Rng) {
        self.later.seed = Some(random.u64(..));
        self.later.every = random.u64(100..1500) * MS;
        self.later.clock_jump_ms = [5000, 5000, 60_000][random.usize(0..3)];
        if random.bool() {
            self.dedup(random);
        }
        if random.bool() {
            self.later.order_keys = random.u32(10..80);
        }
        if random.bool() {
            self.later.bindings = random.usize(1..=6);
            self.queue.broadcast_bytes_max = self.gateway.whole_message_bytes_max();
        }
        if random.bool() {
            self.later.schedules = random.usize(1..=4);
        }
        self.later.selections = random.bool();
        match random.u8(0..6) {
            0 | 1 => self.keep_dead_for(Duration::from_secs(random.u64(2..20))),
            2 => self.let_oldest_die(random),
            _ => {}
        }
    }

    pub(crate) fn dedup(&mut self, random: &mut fastrand::Rng) {
        self.later.dedup_ids = random.u32(10..80);
        let (window, most) =
            (Duration::from_millis(random.u64(500..15_000)), [3, 30, 1000][random.usize(0..3)]);
        self.later.dedup_window = window;
        for rules in [&mut self.queue.work_queue, &mut self.queue.mailbox] {
            (rules.dedup_window, rules.dedup_ids_max) = (window, most);
        }
    }

    pub(crate) fn keep_dead_for(&mut self, ttl: Duration) {
        self.later.dead_ttl = Some(ttl);
        self.queue.work_queue.dead_ttl = Some(ttl);
        self.queue.mailbox.dead_ttl = Some(ttl);
    }

    pub(crate) fn let_oldest_die(&mut self, random: &mut fastrand::Rng) {
        self.later.oldest_dies = true;
        let rules = &mut self.queue.work_queue;
        rules.when_full = WhenFull::DeadLetterOldest;
        rules.messages_max = random.u64(6..20);
        rules.dead_messages_max = Some(100_000);
        self.work.work_max = self.work.work_max.max(SECOND);
    }

    /// Whether nobody sets the wall clock.
    pub(crate) fn is_wall_steady(&self) -> bool {
        !self.troubles.contains(&Trouble::ClockSet)
    }
}
