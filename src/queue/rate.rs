//! Rates in whole numbers on the shard's time: token buckets that hold what a second brings.

use crate::clock::Time;

/// Tokens of one message.
const MESSAGE: u64 = 1000;

/// What was taken of a rate and has not come back. Full to begin with, also after a restart.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    /// Tokens that were missing at `at`. They may be more than the bucket holds, and are then paid back first: a batch
    /// larger than a second's worth goes through a full bucket, and the rate still holds.
    missing: u64,
    at: Time,
}

impl Bucket {
    /// When so many messages may be taken at `per_s` a second; `None` for at once.
    pub(super) fn due(&mut self, per_s: u64, messages: u64, now: Time) -> Option<Time> {
        // `per_s` messages a second are as many tokens a millisecond.
        let back = self.at.millis_until(now).saturating_mul(per_s);
        (self.missing, self.at) = (self.missing.saturating_sub(back), now);
        let holds = per_s.saturating_mul(MESSAGE);
        let missing_max = holds - messages.saturating_mul(MESSAGE).min(holds);
        let too_many = self.missing.saturating_sub(missing_max);
        (too_many > 0).then(|| Time(now.0.saturating_add(too_many.div_ceil(per_s.max(1)))))
    }

    /// Takes so many messages, which were due.
    pub(super) fn take(&mut self, messages: u64) {
        self.missing = self.missing.saturating_add(messages.saturating_mul(MESSAGE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages let through one by one, by time, when there are always more.
    fn through(per_s: u64, batch: u64, until: u64) -> Vec<u64> {
        let (mut bucket, mut now, mut times) = (Bucket::default(), Time(1_000_000), Vec::new());
        while now.0 < 1_000_000 + until {
            match bucket.due(per_s, batch, now) {
                None => {
                    bucket.take(batch);
                    times.push(now.0 - 1_000_000);
                }
                Some(at) => {
                    assert!(at > now, "a bucket that is never due");
                    now = at;
                }
            }
        }
        times
    }

    #[test]
    fn a_second_at_once_and_then_the_rate() {
        let times = through(100, 1, 10_000);
        assert_eq!(times.iter().filter(|&&at| at == 0).count(), 100);
        assert_eq!(times.len(), 100 + 999);
        assert_eq!(times[100..104], [10, 20, 30, 40]);
        // More than one a millisecond, and a rate that does not divide a second.
        assert_eq!(through(7_000, 1, 1_000).len(), 7_000 + 999 * 7);
        assert_eq!(through(7, 1, 100_000).len(), 7 + 699);
    }

    #[test]
    fn a_batch_larger_than_a_second_goes_through_whole_and_is_paid_back() {
        assert_eq!(through(10, 100, 30_000), [0, 10_000, 20_000]);
        assert_eq!(through(1, 1, 5_000), [0, 1_000, 2_000, 3_000, 4_000]);
    }

    #[test]
    fn it_is_due_neither_early_nor_late() {
        let mut bucket = Bucket::default();
        bucket.take(10);
        let due = bucket.due(10, 1, Time(50));
        // 50 ms before the first look brought half a message back.
        assert_eq!(due, Some(Time(100)));
        assert_eq!(bucket.due(10, 1, Time(99)), Some(Time(100)));
        assert_eq!(bucket.due(10, 1, Time(100)), None);
        assert_eq!(bucket.due(u64::MAX, u64::MAX, Time(101)), None);
    }
}
