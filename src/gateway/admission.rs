//! When those who are sent away may come back.

use crate::clock::Time;
use crate::limits;

/// Hands out moments to reconnect, so many a second, so that a crowd that is sent away comes back in a row.
#[derive(Debug)]
pub(super) struct Slots {
    interval_us: u64,
    next_us: u64,
    random: fastrand::Rng,
}

impl Slots {
    pub(super) fn new(per_second: u32, seed: u64) -> Self {
        let interval_us = 1_000_000 / u64::from(per_second.max(1));
        Self { interval_us, next_us: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// Milliseconds from now to the next free slot, at least 1, with a jitter of up to an eighth and 100 ms.
    pub(super) fn draw(&mut self, now: Time) -> u32 {
        let now_us = now.0.saturating_mul(1000);
        let furthest_us = u64::try_from(limits::READMISSION_MAX.as_micros()).unwrap_or(u64::MAX);
        let slot_us = self.next_us.clamp(now_us, now_us.saturating_add(furthest_us));
        self.next_us = slot_us.saturating_add(self.interval_us);
        let wait_ms = (slot_us - now_us) / 1000;
        let wait_ms = wait_ms + 1 + self.random.u64(..=wait_ms / 8 + 100);
        u32::try_from(wait_ms).unwrap_or(u32::MAX)
    }
}
