//! The commands of a turn, by the shard that each goes to.

use crate::ids::ShardId;
use crate::mail::CommandBatch;

/// A batch a shard.
#[derive(Debug)]
pub(super) struct Batches(Box<[CommandBatch]>);

impl Batches {
    /// Empty ones for so many shards, at least one.
    pub(super) fn new(shards: u16) -> Self {
        Self((0..shards.max(1)).map(|_| CommandBatch::default()).collect())
    }

    /// What goes to `shard`, which is one of them.
    #[inline]
    pub(super) fn to(&mut self, shard: ShardId) -> &mut CommandBatch {
        &mut self.0[shard.index()]
    }

    /// All of them, in the order of the shards.
    pub(super) fn all(&mut self) -> &mut [CommandBatch] {
        &mut self.0
    }
}
