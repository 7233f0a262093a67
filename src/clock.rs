//! The only place that asks what time it is.
//!
//! Everything that decides is handed a [`Time`]; only the shells own a [`Clock`]. Two clocks are kept apart:
//! [`Time`] never jumps and carries leases, delays, heartbeats and deadlines; [`Wall`] is what people read and
//! is used for absolute due times and for stamps.

use std::ops::{Add, Sub};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point on the monotonic clock, in milliseconds.
///
/// In a gateway it counts from the start of the process. In a shard it counts from the first start of the data
/// directory and goes on from where it was after a restart, so that it may be written to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time `later` is after this one, in milliseconds; 0 when it is not.
    #[must_use]
    pub const fn millis_until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_millis(earlier.millis_until(self))
    }
}

/// A point on the wall clock, in milliseconds since 1970. May jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub u64);

/// Both clocks read at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// The clock that never jumps.
    pub time: Time,
    /// The clock people read.
    pub wall: Wall,
}

impl Now {
    /// What the wall clock would have shown at `time`, had it always gone as it goes now.
    #[must_use]
    pub const fn wall_at(self, time: Time) -> Wall {
        Wall(self.wall.0.saturating_add(time.0).saturating_sub(self.time.0))
    }
}

/// Reads the time. One per thread that needs it, all counting from the same origin when cloned.
#[derive(Debug, Clone)]
pub struct Clock {
    origin: Instant,
    origin_time: Time,
}

impl Clock {
    /// A clock that shows `origin_time` now.
    #[must_use]
    pub fn starting_at(origin_time: Time) -> Self {
        Self { origin: Instant::now(), origin_time }
    }

    /// A clock that showed `origin_time` when this one was made.
    #[must_use]
    pub fn showing_at_origin(&self, origin_time: Time) -> Self {
        Self { origin: self.origin, origin_time }
    }

    /// The monotonic time.
    #[must_use]
    pub fn time(&self) -> Time {
        self.origin_time + self.origin.elapsed()
    }

    /// Microseconds since this clock's origin, for measuring durations.
    #[must_use]
    pub fn micros(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { time: self.time(), wall: Self::wall() }
    }

    /// The wall clock; 0 when it shows a time before 1970.
    #[must_use]
    pub fn wall() -> Wall {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Wall(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }
}
