//! A whole log written anew, on a directory that no server has.

use std::sync::Arc;

use super::{EngineConfig, Shard, ShardError, Started};
use crate::log::{Log, LogError, Storage};
use crate::telemetry::ShardMetrics;

/// Recovers the log and writes all that lives in it anew, as the records and segments of this version; `on_progress` is
/// told how many old segments are left. It is a start like any other: it counts as a boot, and what was leased is ready.
/// Interrupted at any time it leaves a log that is whole.
///
/// # Errors
/// [`ShardError`] as a start's, when a write fails, and when the disk has no room for a segment; then what was written
/// anew stays so, and the rest is as it was.
pub fn rewrite(
    storage: &dyn Storage,
    config: EngineConfig,
    on_progress: &mut dyn FnMut(u64),
) -> Result<Started, ShardError> {
    let metrics = Arc::new(ShardMetrics::default());
    let (mut shard, started, clock) = Shard::recover_now_to(storage, config, metrics, Log::rewrite)?;
    let mut left = u64::MAX;
    loop {
        while let Some(batch) = shard.seal() {
            batch.write()?;
            shard.batch_done(clock.now(), batch);
        }
        if shard.left_to_rewrite() < left {
            left = shard.left_to_rewrite();
            on_progress(left);
        }
        let Some(chore) = shard.next_chore() else { break };
        let done = chore.run(storage);
        shard.chore_done(clock.now(), done)?;
    }
    if left > 0 || !shard.is_settled() {
        let (what, file) = ("writing the log anew", format!("{left} segments of the log"));
        return Err(LogError::Io { what, file, cause: std::io::ErrorKind::StorageFull.into() }.into());
    }
    Ok(started)
}
