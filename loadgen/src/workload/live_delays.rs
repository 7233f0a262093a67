//! Delays that many threads count and one looks at while they go on: within a sixty-fourth.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of a doubling.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.ilog2();
/// Up to 2^33 us, more than an hour.
const BUCKETS: usize = (33 - STEP_BITS as usize + 1) * STEPS as usize;

/// How many delays fell into which bucket.
#[derive(Debug)]
pub(super) struct LiveDelays([AtomicU64; BUCKETS]);

impl Default for LiveDelays {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl LiveDelays {
    /// Counts one delay in microseconds.
    pub(super) fn record(&self, us: u64) {
        self.0[bucket(us)].fetch_add(1, Ordering::Relaxed);
    }

    /// The given quantiles, in microseconds, of what was counted since this was last asked; `None` when nothing was.
    pub(super) fn take<const N: usize>(&self, quantiles: [f64; N]) -> Option<[u64; N]> {
        let counts: Vec<u64> = self.0.iter().map(|count| count.swap(0, Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        Some(quantiles.map(|quantile| {
            let rank = ((total as f64 * quantile).ceil() as u64).clamp(1, total);
            let mut below = 0;
            let at = counts.iter().position(|&count| {
                below += count;
                below >= rank
            });
            highest_us(at.unwrap_or(BUCKETS - 1))
        }))
    }
}

fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let octave = us.ilog2() - STEP_BITS;
    let step = (us >> octave) - STEPS;
    ((u64::from(octave) + 1) * STEPS + step).min(BUCKETS as u64 - 1) as usize
}

/// The largest delay that falls into a bucket.
fn highest_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let octave = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << octave) - 1
}

#[cfg(test)]
mod tests;
