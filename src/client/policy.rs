//! When to come back: the reconnect policy, pure and seeded.
//!
//! It owns how many connections failed in a row and the random part of a delay. It knows no socket and no clock.
//! Order of calls: [`Policy::welcomed`] when the server accepts, [`Policy::lost`] once per connection that ended
//! or was never made; its [`Verdict`] says when to try again, or that nothing will help.

use std::time::Duration;

use crate::clock::Time;
use crate::wire::proto::Code;

/// First delay after a connection was lost; each further one doubles.
pub const RECONNECT_INITIAL: Duration = Duration::from_millis(500);
/// Longest delay the client chooses by itself, before the random part.
pub const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// A connection that stayed welcome this long counts as good: the next loss starts at the first delay again.
pub const STEADY_AFTER: Duration = Duration::from_secs(10);

/// How a delay is made random, so that clients which fail together do not return together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jitter {
    /// The delay times 1 + U[0, 0.3].
    #[default]
    Added,
    /// U[0, 1] times the delay: spreads best, may return at once.
    Full,
}

/// The numbers of a [`Policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// First delay.
    pub initial: Duration,
    /// Longest delay, before the random part.
    pub max: Duration,
    /// The random part.
    pub jitter: Jitter,
    /// How long a connection must have been welcome for the delays to start anew.
    pub steady_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: RECONNECT_INITIAL,
            max: RECONNECT_MAX,
            jitter: Jitter::Added,
            steady_after: STEADY_AFTER,
        }
    }
}

/// What to do after a connection was lost.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Connect again at this time.
    Retry {
        /// When.
        at: Time,
        /// That is, in this long.
        after: Duration,
        /// The how manieth failure in a row this was, from 1.
        failures: u32,
    },
    /// Do not come back: the same would happen again.
    Final,
}

/// Decides when a client connects again.
#[derive(Debug, Clone)]
pub struct Policy {
    backoff: Backoff,
    failures: u32,
    welcomed_at: Option<Time>,
    random: fastrand::Rng,
}

impl Policy {
    /// A policy with its own random numbers; clients must not share a seed.
    #[must_use]
    pub fn new(backoff: Backoff, seed: u64) -> Self {
        Self { backoff, failures: 0, welcomed_at: None, random: fastrand::Rng::with_seed(seed) }
    }

    /// The server accepted the session.
    pub fn welcomed(&mut self, now: Time) {
        self.welcomed_at = Some(now);
    }

    /// A connection ended or could not be made. `code` is what the server said with REJECT, GOAWAY or ERROR, if
    /// it said anything; `reconnect_after_ms` the slot it gave, 0 for none.
    pub fn lost(&mut self, now: Time, code: Option<Code>, reconnect_after_ms: u32) -> Verdict {
        let welcomed_at = self.welcomed_at.take();
        if code.is_some_and(is_final) {
            return Verdict::Final;
        }
        if welcomed_at.is_some_and(|at| now - at >= self.backoff.steady_after) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let own = self.draw_delay();
        let after = own.max(Duration::from_millis(u64::from(reconnect_after_ms)));
        Verdict::Retry { at: now + after, after, failures: self.failures }
    }

    fn draw_delay(&mut self) -> Duration {
        let doublings = (self.failures - 1).min(31);
        let base = self.backoff.initial.saturating_mul(1 << doublings).min(self.backoff.max);
        let drawn = self.random.f64();
        base.mul_f64(match self.backoff.jitter {
            Jitter::Added => 1.0 + 0.3 * drawn,
            Jitter::Full => drawn,
        })
    }
}

/// Whether the server's word ends the client: another connection would hear the same.
#[must_use]
pub fn is_final(code: Code) -> bool {
    matches!(code, Code::TakenOver | Code::Unauthenticated | Code::UnsupportedVersion | Code::Invalid)
}

#[cfg(test)]
mod tests;
