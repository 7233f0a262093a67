//! A loop's end of the lanes to and from the shard.
//!
//! Commands leave once a turn, as one batch. A full lane hands the batch back: it is kept here, further commands
//! gather in the brain, and the loop reads nothing until [`Lane::send`] got rid of it.

use crate::limits;
use crate::mail::{CommandBatch, CommandSender, EffectBatch, EffectReceiver};

/// The lanes between one loop and its shard.
#[derive(Debug)]
pub struct ShardLane {
    /// What the loop asks.
    pub commands: CommandSender,
    /// What it is answered.
    pub effects: EffectReceiver,
}

#[derive(Debug)]
pub(super) struct Lane {
    ends: ShardLane,
    kept: Option<CommandBatch>,
}

impl Lane {
    pub(super) fn new(ends: ShardLane) -> Self {
        Self { ends, kept: None }
    }

    /// Sends what was kept and then what is `gathered`, as far as the lane takes it. `gathered` is left empty, with
    /// room for as much as it held, when it was sent or is kept.
    pub(super) fn send(&mut self, gathered: &mut CommandBatch) {
        if let Some(batch) = self.kept.take() {
            self.offer(batch);
        }
        if self.kept.is_none() && !gathered.is_empty() {
            let roomy = with_room_of(gathered);
            self.offer(std::mem::replace(gathered, roomy));
        }
    }

    fn offer(&mut self, batch: CommandBatch) {
        if let Err(full) = self.ends.commands.send(batch) {
            self.kept = Some(full.0);
        }
    }

    /// Whether a batch is kept because the lane is full.
    pub(super) fn is_blocked(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether there is something to do now: effects have come, or a batch is kept and the lane has room.
    pub(super) fn has_news(&self) -> bool {
        !self.ends.effects.is_empty() || (self.is_blocked() && self.depth() < limits::COMMAND_LANE_BATCHES)
    }

    pub(super) fn next_effects(&self) -> Option<EffectBatch> {
        self.ends.effects.next_batch()
    }

    pub(super) fn effects_waiting(&self) -> usize {
        self.ends.effects.depth()
    }

    pub(super) fn depth(&self) -> usize {
        self.ends.commands.depth()
    }
}

/// The next turn is likely to gather about as much as this one; growing to it step by step would copy every body
/// several times.
fn with_room_of(batch: &CommandBatch) -> CommandBatch {
    CommandBatch {
        commands: Vec::with_capacity(batch.commands.len()),
        messages: Vec::with_capacity(batch.messages.len()),
        leases: Vec::with_capacity(batch.leases.len()),
        bodies: Vec::with_capacity(batch.bodies.len()),
    }
}
