//! What operators ask of every loop: to send a part of its clients away.

use std::time::Duration;

/// A whole, in [`DrainOrder::share_ppm`].
pub const WHOLE_PPM: u32 = 1_000_000;

/// A share of the sessions is to be sent away while the server stays. It takes the place of the order before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOrder {
    /// Tells it from the one before; 1 to [`DrainOrder::NUMBER_MAX`], then 1 again.
    pub number: u16,
    /// How many of a million sessions, up to [`WHOLE_PPM`]; 0 ends the order before it.
    pub share_ppm: u32,
    /// Over which time.
    pub over: Duration,
}

impl DrainOrder {
    /// The highest number.
    pub const NUMBER_MAX: u16 = (1 << NUMBER_BITS) - 1;

    /// One number, so that a loop reads the order whole; never 0. Times count in milliseconds, up to 49 days.
    #[must_use]
    pub fn pack(self) -> u64 {
        let over_ms = u32::try_from(self.over.as_millis()).unwrap_or(u32::MAX);
        let number = u64::from(self.number.clamp(1, Self::NUMBER_MAX));
        let share = u64::from(self.share_ppm.min(WHOLE_PPM));
        number << (SHARE_BITS + OVER_BITS) | share << OVER_BITS | u64::from(over_ms)
    }

    /// What [`DrainOrder::pack`] made; `None` for 0.
    #[must_use]
    pub fn unpack(packed: u64) -> Option<Self> {
        let share_ppm = (packed >> OVER_BITS & ((1 << SHARE_BITS) - 1)) as u32;
        let over = Duration::from_millis(packed & ((1 << OVER_BITS) - 1));
        let number = (packed >> (SHARE_BITS + OVER_BITS)) as u16;
        (packed != 0).then_some(Self { number, share_ppm, over })
    }
}

const NUMBER_BITS: u32 = 12;
const SHARE_BITS: u32 = 20;
const OVER_BITS: u32 = 32;

const _: () = assert!(NUMBER_BITS + SHARE_BITS + OVER_BITS == u64::BITS && WHOLE_PPM < 1 << SHARE_BITS);
