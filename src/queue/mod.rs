//! The shard's brain: the client directory and a message's life from schedule to dead letter.
//!
//! Pure: no socket, file, thread or clock of its own. It owns who is attached where and with which epoch, every
//! queue and message, leases, dead letters, producers' marks and parked publishes. It must not know connections,
//! frames or files. Order of calls: [`Brain::new`], [`Brain::replay`] for every recovered record, [`Brain::start`],
//! then any of [`Brain::apply`], [`Brain::expire`], [`Brain::record_read`], [`Brain::relocate`] and
//! [`Brain::log_room_changed`]. What is to happen outside is appended to the journal and pushed to the outbox.

mod config;
mod outbox;

pub use config::{QueueConfig, QueueRules, WhenFull};
pub use outbox::Outbox;

use std::sync::Arc;

use crate::clock::{Now, Time, Wall};
use crate::ids::Boot;
use crate::log::{Journal, Position, ReadTicket};
use crate::mail::CommandBatch;
use crate::telemetry::ShardMetrics;

/// What a call of the brain works with.
pub struct Turn<'a> {
    /// The time of this turn.
    pub now: Now,
    /// Where records go.
    pub journal: &'a mut dyn Journal,
    /// Where effects go.
    pub outbox: &'a mut Outbox,
}

/// A record that could not be replayed.
#[derive(Debug, thiserror::Error)]
#[error("the record at position {position:?} cannot be replayed: {what}")]
pub struct ReplayError {
    /// Where it lies.
    pub position: Position,
    /// What is wrong with it.
    pub what: &'static str,
}

/// One shard's brain.
#[derive(Debug)]
pub struct Brain {
    config: QueueConfig,
    metrics: Arc<ShardMetrics>,
}

impl Brain {
    /// A brain that knows nothing yet. `seed` feeds its jitter.
    #[must_use]
    pub fn new(config: QueueConfig, metrics: Arc<ShardMetrics>, _seed: u64) -> Self {
        Self { config, metrics }
    }
    /// Takes in one recovered record; all are replayed in order before [`Brain::start`].
    ///
    /// # Errors
    /// [`ReplayError`] when the record is not one this version knows.
    pub fn replay(&mut self, _position: Position, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }
    /// Ends the replay: counts this boot durably, makes leased messages ready and sets the timers.
    pub fn start(&mut self, _turn: &mut Turn<'_>) -> Boot {
        Boot(1)
    }
    /// After the replay: the time this shard's clock starts at.
    #[must_use]
    pub fn shard_time(&self, _wall: Wall) -> Time {
        Time(0)
    }
    /// Carries out the commands of one turn of a loop.
    pub fn apply(&mut self, batch: &mut CommandBatch, _turn: &mut Turn<'_>) {
        batch.clear();
    }
    /// Does what is due by now.
    pub fn expire(&mut self, _turn: &mut Turn<'_>) {}
    /// When [`Brain::expire`] is next needed; may be early, never late.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }
    /// A read of the journal arrived.
    pub fn record_read(&mut self, _ticket: ReadTicket, _bytes: &[u8], _turn: &mut Turn<'_>) {}
    /// Compaction: if this record is still needed for recovery, writes what replaces it and releases it.
    pub fn relocate(&mut self, _position: Position, _record: &[u8], _turn: &mut Turn<'_>) {}
    /// The disk is full, or has room again.
    pub fn log_room_changed(&mut self, _turn: &mut Turn<'_>) {
        self.metrics.parked_bytes.set(self.config.parked_bytes_per_namespace_max.min(0));
    }
    /// Panics with a message when the brain contradicts itself. For tests.
    pub fn check_invariants(&self) {}
}
