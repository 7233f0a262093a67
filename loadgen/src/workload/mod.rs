//! What connections do: one kind of run a file.

pub(crate) mod broadcast;
pub(crate) mod churn;
pub(crate) mod connect;
pub(crate) mod echo;
pub(crate) mod fair;
mod heard;
mod hold;
pub(crate) mod hostile;
mod live_delays;
mod producer;
pub(crate) mod publish;
pub(crate) mod push;
mod silent;
pub(crate) mod storm;
pub(crate) mod work;

use std::time::Duration;

/// How long a turn may wait for events when nothing else is due.
const IDLE_TURN: Duration = Duration::from_millis(100);
/// How often the progress line moves.
const PROGRESS_EVERY_US: u64 = 100_000;

/// Says when it is time to draw the progress again.
#[derive(Debug, Default)]
struct Ticker {
    last_us: u64,
}

impl Ticker {
    fn is_due(&mut self, now_us: u64) -> bool {
        let due = now_us - self.last_us >= PROGRESS_EVERY_US;
        if due {
            self.last_us = now_us;
        }
        due
    }
}

/// A client id that no other run of this machine has.
fn run_prefix(kind: &str) -> String {
    format!("{kind}-{:08x}-", fastrand::u32(..))
}
