//! How often a client is to be heard, and which of its PINGs are answered: rules on two bytes a session.
//!
//! The interval is the one agreed on with HELLO, longer by a [`Stretch`] while the loop has more heartbeats than it is to
//! take. A new interval is said once, in a PONG. Until the client was seen to follow it, its silence is measured by the
//! longer of both, so that nobody is taken for dead by mistake.
//!
//! Which PINGs are answered needs no word: both sides count those of the connection.

/// How much longer than agreed an interval is: in steps of the square root of 2, up to 181 times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stretch(u8);

/// Thousandths by step.
const FACTORS_PERMILLE: [u64; 16] = [
    1000, 1414, 2000, 2828, 4000, 5657, 8000, 11_314, 16_000, 22_627, 32_000, 45_255, 64_000, 90_510,
    128_000, 181_019,
];

/// The most by which an interval is made shorter at once: by half. A client that has not read of it yet is heard well
/// within three of the new ones.
const STEPS_DOWN_MAX: u8 = 2;

impl Stretch {
    /// As agreed.
    pub const NONE: Self = Self(0);
    /// The largest.
    pub const MAX: Self = Self(FACTORS_PERMILLE.len() as u8 - 1);

    /// By how much it is longer, in thousandths.
    #[must_use]
    pub fn permille(self) -> u64 {
        FACTORS_PERMILLE[usize::from(self.0)]
    }

    /// The next larger one; the largest stays.
    #[must_use]
    pub fn longer(self) -> Self {
        Self(self.0 + 1).min(Self::MAX)
    }

    /// The next smaller one; none stays.
    #[must_use]
    pub fn shorter(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// `agreed_ms` so much longer, at most `max_ms`; never shorter than agreed.
    #[must_use]
    pub fn of(self, agreed_ms: u32, max_ms: u32) -> u32 {
        let stretched = u64::from(agreed_ms) * self.permille() / 1000;
        u32::try_from(stretched).unwrap_or(u32::MAX).min(max_ms).max(agreed_ms)
    }
}

/// What a session remembers of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// Low half: the stretch the client was asked for last. High half: the longest it may still go by.
    stretch: u8,
    /// Low half: PINGs from one answered to the next, less one. High half: those to go before the next is answered.
    pongs: u8,
}

impl Pace {
    /// As agreed, with an answer to each PING.
    pub(super) const fn new() -> Self {
        Self { stretch: 0, pongs: 0 }
    }

    /// Every `pong_every`-th PING is answered, 1 to 16; the count begins.
    pub(super) fn answer_every(&mut self, pong_every: u8) {
        let between = pong_every.clamp(1, 16) - 1;
        self.pongs = between << 4 | between;
    }

    /// Every which PING is answered.
    pub(super) fn pong_every(self) -> u8 {
        (self.pongs & 0xf) + 1
    }

    /// Counts a PING; whether it is answered.
    #[inline]
    pub(super) fn ping(&mut self) -> bool {
        let (to_go, between) = (self.pongs >> 4, self.pongs & 0xf);
        let is_answered = to_go == 0;
        let to_go = if is_answered { between } else { to_go - 1 };
        self.pongs = to_go << 4 | between;
        is_answered
    }

    fn asked(self) -> Stretch {
        Stretch(self.stretch & 0xf)
    }

    fn longest(self) -> Stretch {
        Stretch(self.stretch >> 4).max(self.asked())
    }

    fn set(&mut self, asked: Stretch, longest: Stretch) {
        self.stretch = longest.0 << 4 | asked.0;
    }

    /// The client begins with this one.
    pub(super) fn begin(&mut self, stretch: Stretch) {
        self.set(stretch, stretch);
    }

    /// The interval by which its silence is measured.
    #[inline]
    pub(super) fn interval_ms(self, agreed_ms: u32, max_ms: u32) -> u32 {
        if self.stretch == 0 { agreed_ms } else { self.longest().of(agreed_ms, max_ms) }
    }

    /// A PING came `gap_ms` after what was heard before. Whether it shows that the client follows the shorter interval it
    /// was asked for, by which its silence is measured from here on.
    #[inline]
    pub(super) fn follows(&mut self, gap_ms: u64, agreed_ms: u32, max_ms: u32) -> bool {
        let (asked, longest) = (self.asked(), self.longest());
        if asked == longest {
            return false;
        }
        let halfway = (u64::from(asked.of(agreed_ms, max_ms)) + u64::from(longest.of(agreed_ms, max_ms))) / 2;
        let follows = gap_ms <= halfway;
        if follows {
            self.set(asked, asked);
        }
        follows
    }

    /// The interval to ask for now, where the client goes by another one than `wanted`; counted as said. A longer one is
    /// asked for at once; a shorter one in steps, the next once the client was seen to follow the last.
    pub(super) fn ask(&mut self, wanted: Stretch, agreed_ms: u32, max_ms: u32) -> Option<u32> {
        let (asked, longest) = (self.asked(), self.longest());
        let next = if wanted > asked {
            wanted
        } else if wanted < asked && longest == asked {
            wanted.max(Stretch(asked.0.saturating_sub(STEPS_DOWN_MAX)))
        } else {
            return None;
        };
        let (before_ms, next_ms) = (asked.of(agreed_ms, max_ms), next.of(agreed_ms, max_ms));
        if before_ms == next_ms {
            // Both are the longest there is: nothing to say, nothing to wait for.
            self.set(next, if longest == asked { next } else { longest });
            return None;
        }
        self.set(next, longest.max(next));
        Some(next_ms)
    }
}

#[cfg(test)]
mod tests;
