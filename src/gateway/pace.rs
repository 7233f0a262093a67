//! When the waves of broadcasts leave, so that what the loops do for them keeps nobody's heartbeat waiting.
//!
//! Between two waves a loop looks at its sockets. Where it has a core to itself that is all there is to it: wave follows on
//! wave. Where loops share cores, a heartbeat waits for the waves of the other loops too, and so each of them pauses. How
//! late a loop begins a wave, against when it was due, is how long whatever came meanwhile has waited for it: a wave that
//! is late makes the pauses longer at once, waves in time make them shorter bit by bit. The longest pause leaves a loop a
//! fixed part of its share of the cores, so that a broadcast comes to its end however busy these are.

use std::time::Duration;

use crate::clock::Time;
use crate::limits;

/// Out of how many parts the share of a wave is that was used.
pub(super) const WHOLE: u64 = 1024;

#[derive(Debug)]
pub(super) struct Pace {
    /// From the beginning of a wave to that of the next.
    pause: Duration,
    least: Duration,
    most: Duration,
    /// When the present wave began, or the last one.
    begun: Time,
    /// No wave begins before this.
    next: Time,
    /// Nothing was under way before the next wave: that it begins late says nothing.
    is_first: bool,
}

impl Pace {
    /// Between these pauses; it begins in the middle.
    pub(super) fn new(least: Duration, most: Duration) -> Self {
        let most = most.max(least);
        Self { pause: (least + most) / 2, least, most, begun: Time(0), next: Time(0), is_first: true }
    }

    /// When the next wave is due, while there is anything to send.
    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// There is something to send again. It begins at once, unless that were sooner than a pause after what was last.
    pub(super) fn resume(&mut self) {
        self.is_first = true;
    }

    /// A wave begins, which is due. `random` spreads the loops, which are all told of a broadcast at the same time.
    pub(super) fn begin(&mut self, now: Time, random: &mut fastrand::Rng) {
        self.begun = now;
        if std::mem::take(&mut self.is_first) {
            let share = u32::try_from(random.u64(0..WHOLE)).unwrap_or(0);
            self.next = now + self.least.max(self.pause * share / WHOLE as u32);
            return;
        }
        let changed = if self.next + limits::BROADCAST_LATE <= now {
            (self.pause * 3 / 2).max(limits::BROADCAST_PAUSE_MIN)
        } else {
            self.pause - self.pause / 32
        };
        self.pause = changed.clamp(self.least, self.most);
        self.next = now + self.pause;
    }

    /// The present wave was the last, and took so many parts of a [`WHOLE`] one: what comes next waits that much less.
    pub(super) fn rest(&mut self, used: u64) {
        let used = u32::try_from(used.min(WHOLE)).unwrap_or(0);
        self.next = self.next.min(self.begun + self.pause * used / WHOLE as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Waves that begin so much later than due, or in time.
    fn waves(pace: &mut Pace, count: usize, late: Duration) {
        let mut random = fastrand::Rng::with_seed(1);
        (0..count).for_each(|_| pace.begin(pace.next() + late, &mut random));
    }

    #[test]
    fn late_waves_make_the_pauses_longer_and_waves_in_time_shorter_within_their_bounds() {
        let mut pace = Pace::new(ms(2), ms(100));
        pace.resume();
        waves(&mut pace, 1, ms(1000));
        assert_eq!(pace.pause, ms(51), "the first is late for nobody");
        let just_in_time = limits::BROADCAST_LATE - ms(1);
        waves(&mut pace, 1, just_in_time);
        assert!(pace.pause < ms(51) && pace.pause > ms(45));
        waves(&mut pace, 1, limits::BROADCAST_LATE);
        assert!(pace.pause > ms(70));
        waves(&mut pace, 10, limits::BROADCAST_LATE);
        assert_eq!(pace.pause, ms(100));
        waves(&mut pace, 1000, just_in_time);
        assert_eq!(pace.pause, ms(2));
        // From the shortest it comes back.
        waves(&mut pace, 20, ms(5000));
        assert_eq!(pace.pause, ms(100));
    }

    #[test]
    fn without_bounds_a_wave_is_due_at_once() {
        let mut pace = Pace::new(Duration::ZERO, Duration::ZERO);
        let mut random = fastrand::Rng::with_seed(1);
        for now in [Time(5), Time(6), Time(900)] {
            pace.begin(now, &mut random);
            assert_eq!(pace.next(), now);
        }
    }

    #[test]
    fn after_a_small_last_wave_the_next_waits_little() {
        let mut pace = Pace::new(ms(64), ms(64));
        let mut random = fastrand::Rng::with_seed(1);
        pace.is_first = false;
        pace.begin(Time(1000), &mut random);
        assert_eq!(pace.next(), Time(1064));
        pace.rest(WHOLE / 16);
        assert_eq!(pace.next(), Time(1004));
        pace.rest(2 * WHOLE);
        assert_eq!(pace.next(), Time(1004), "never longer");
    }
}
