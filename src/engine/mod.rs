//! The shell around a shard's brain: mail in, brain, log, effects out once they are durable.
//!
//! [`Shard`] joins the brain and the log and is still pure: it is handed the time and says what is to be written
//! and read. [`Engine`] runs one on four threads: the brain's own, the committer that writes batches, the housekeeper
//! that prepares, reads and recycles segments, and the provider of memory. The simulation runs the same [`Shard`] on none. This
//! module knows neither sockets nor what a message goes through.

mod config;
mod provider;
mod rewrite;
mod rhythm;
mod shard;
#[cfg(test)]
mod tests;
mod threads;

pub use config::EngineConfig;
pub use rewrite::rewrite;
pub use shard::{Shard, ShardError, Started};
pub use threads::{Ended, Engine, EngineLanes};
