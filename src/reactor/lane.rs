//! A loop's ends of the lanes to and from the shards.
//!
//! Commands leave once a turn, as one batch a shard. A full lane hands the batch back: it is kept here, further commands
//! gather in the brain, and the loop reads nothing until [`Lanes::send`] got rid of it.

use crate::ids::ShardId;
use crate::limits;
use crate::mail::{CommandBatch, CommandSender, EffectBatch, EffectReceiver};

/// The lanes between one loop and one shard.
#[derive(Debug)]
pub struct ShardLane {
    /// What the loop asks.
    pub commands: CommandSender,
    /// What it is answered.
    pub effects: EffectReceiver,
}

/// Those between one loop and all shards.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Box<[Lane]>,
    /// Whose effects are taken next.
    next: usize,
}

#[derive(Debug)]
struct Lane {
    ends: ShardLane,
    kept: Option<CommandBatch>,
}

impl Lanes {
    /// One for each shard, in their order.
    pub(super) fn new(lanes: Vec<ShardLane>) -> Self {
        Self { lanes: lanes.into_iter().map(|ends| Lane { ends, kept: None }).collect(), next: 0 }
    }

    /// Sends each shard what was kept for it and then what is `gathered`, as far as its lane takes it. A batch is left empty,
    /// with room for as much as it held, when it was sent or is kept.
    pub(super) fn send(&mut self, gathered: &mut [CommandBatch]) {
        for (lane, gathered) in self.lanes.iter_mut().zip(gathered) {
            lane.send(gathered);
        }
    }

    /// Wakes a shard for what is about to be sent to it in this turn.
    pub(super) fn announce(&self, shard: ShardId) {
        if let Some(lane) = self.lanes.get(shard.index()) {
            lane.ends.commands.announce();
        }
    }

    /// Whether a batch is kept because its lane is full.
    pub(super) fn is_blocked(&self) -> bool {
        self.lanes.iter().any(|lane| lane.kept.is_some())
    }

    /// Whether there is something to do now: effects have come, or a batch is kept and its lane has room.
    pub(super) fn has_news(&self) -> bool {
        self.lanes.iter().any(Lane::has_news)
    }

    /// The next batch of effects, taking the shards round robin.
    pub(super) fn next_effects(&mut self) -> Option<EffectBatch> {
        for _ in 0..self.lanes.len() {
            let lane = &self.lanes[self.next];
            self.next = (self.next + 1) % self.lanes.len();
            if let Some(batch) = lane.ends.effects.next_batch() {
                return Some(batch);
            }
        }
        None
    }

    /// Batches of effects that wait, of all shards.
    pub(super) fn effects_waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.ends.effects.depth()).sum()
    }

    /// Batches of commands on their way in the fullest lane.
    pub(super) fn depth(&self) -> usize {
        self.lanes.iter().map(|lane| lane.ends.commands.depth()).max().unwrap_or(0)
    }
}

impl Lane {
    fn send(&mut self, gathered: &mut CommandBatch) {
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

    fn has_news(&self) -> bool {
        let has_room = self.ends.commands.depth() < limits::COMMAND_LANE_BATCHES;
        !self.ends.effects.is_empty() || (self.kept.is_some() && has_room)
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
