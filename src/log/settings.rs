//! What the log is told, and what it tells of itself.

use std::time::Duration;

use super::format::{BATCH_HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::limits::LOG_BLOCK_BYTES;

/// When a commit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Once it is on disk: it survives a power loss.
    #[default]
    Sync,
    /// Once it is written: it survives the end of the process, however sudden. It is synced at most this much later,
    /// and a power loss takes what was not.
    Interval(Duration),
}

/// What the log is told at start.
#[derive(Debug, Clone, Copy)]
pub struct LogConfig {
    /// Bytes of one segment: a multiple of a block, at most 2 GiB. Fixed for the life of a log.
    pub segment_bytes: u64,
    /// Random; the salts of new segments come from it.
    pub seed: u64,
    /// What makes a ticket committed.
    pub durability: Durability,
}

impl LogConfig {
    /// The longest record that fits, in bytes.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.segment_bytes as usize - LOG_BLOCK_BYTES - BATCH_HEADER_BYTES - RECORD_HEADER_BYTES
    }

    /// The salt of a segment that was not prepared yet.
    pub(super) fn salt(&self, segment: u64) -> u64 {
        fastrand::Rng::with_seed(self.seed ^ segment.wrapping_mul(0x9E37_79B9_7F4A_7C15)).u64(..)
    }
}

/// Counts of the log, for its metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Bytes of records that were not released.
    pub live_bytes: u64,
    /// Segments on disk, prepared ones included.
    pub segments: u64,
    /// Of these, prepared and not in use.
    pub prepared: u64,
    /// Bytes written in batches since the start.
    pub written_bytes: u64,
    /// Records handed out to be appended again since the start.
    pub relocated: u64,
    /// Batches that had to wait for a segment to be prepared.
    pub waits: u64,
    /// Reads asked for and not answered.
    pub reads: u64,
    /// Bytes of batches that a power loss would take.
    pub unsynced_bytes: u64,
}
