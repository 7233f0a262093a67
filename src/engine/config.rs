//! What a shard is told at start.

use crate::log::LogConfig;
use crate::queue::QueueConfig;

/// The settings of one shard.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Its log.
    pub log: LogConfig,
    /// Its queues.
    pub queue: QueueConfig,
    /// For jitter.
    pub seed: u64,
}
