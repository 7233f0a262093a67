//! Where the process stands between its start and its end, seen by everyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// A stage of the process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Recovering; takes no client yet.
    Starting = 0,
    /// Takes clients.
    Ready = 1,
    /// Sends its clients away and ends.
    Draining = 2,
    /// A shard stopped after an error; the process is about to end. Final.
    Failed = 3,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Ready, Self::Draining, Self::Failed];

    /// Its name in the operator API and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }
}

/// The stage the process is in. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle(Arc<AtomicU8>);

impl Lifecycle {
    /// The stage now.
    #[must_use]
    pub fn stage(&self) -> Stage {
        let number = self.0.load(Ordering::Acquire);
        Stage::ALL.into_iter().find(|stage| *stage as u8 == number).unwrap_or(Stage::Failed)
    }

    /// Goes on to `stage`. The process only ever gets older: an earlier stage than the one it is in changes nothing.
    pub fn advance(&self, stage: Stage) {
        self.0.fetch_max(stage as u8, Ordering::AcqRel);
    }
}
