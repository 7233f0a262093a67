//! A loop's ends of the lanes to and from the shards.
//!
//! Commands leave once a turn, as one batch a shard, or sooner where much has come and the shard waits for it. A full lane
//! hands the batch back: it is kept here, further commands gather in the brain, and the loop reads nothing until
//! [`Lanes::send`] got rid of it.

use super::brain::LoopBrain;
use crate::clock::{Clock, Time};
use crate::gateway::SlotKey;
use crate::limits;
use crate::mail::{CommandBatch, CommandSender, EffectBatch, EffectReceiver};

/// So much that came at once are commands: heartbeats are smaller.
const ANNOUNCED_BYTES_MIN: usize = 1024;
/// Of what came at once, so much is decoded before its commands are sent, if their shard has nothing else to do: an eighth,
/// and no less than this. Where one part ends and the next begins, a frame is copied.
const PART_BYTES_MIN: usize = 8 * 1024;
const PARTS: usize = 8;
/// How long effects that were announced are waited for awake, in microseconds: a disk flushes its cache in 40 to 80.
const ANNOUNCED_WAIT_US: u64 = 100;

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
    /// Until when effects that were announced are waited for awake, in microseconds; set while they are announced.
    announced_until_us: Option<u64>,
}

#[derive(Debug)]
struct Lane {
    ends: ShardLane,
    kept: Option<CommandBatch>,
}

impl Lanes {
    /// One for each shard, in their order.
    pub(super) fn new(lanes: Vec<ShardLane>) -> Self {
        Self {
            lanes: lanes.into_iter().map(|ends| Lane { ends, kept: None }).collect(),
            next: 0,
            announced_until_us: None,
        }
    }

    /// Sends each shard what was kept for it and then what is `gathered`, as far as its lane takes it. A batch is left empty,
    /// with room for as much as it held, when it was sent or is kept.
    pub(super) fn send(&mut self, gathered: &mut [CommandBatch]) {
        for (lane, gathered) in self.lanes.iter_mut().zip(gathered) {
            lane.send(gathered);
            lane.ends.commands.announced_all();
        }
    }

    /// Hands the brain what was read from a connection. To decode much takes about as long as its shard takes to wake up: that
    /// is woken before, and is handed the first commands while the others are being decoded.
    pub(super) fn feed<B: LoopBrain>(&mut self, brain: &mut B, now: Time, key: SlotKey, bytes: &[u8]) {
        if bytes.len() < ANNOUNCED_BYTES_MIN {
            return brain.receive(now, key, bytes);
        }
        let shard = brain.shard(key.slot).index();
        let Some(lane) = self.lanes.get_mut(shard) else { return brain.receive(now, key, bytes) };
        lane.ends.commands.announce();
        for (at, part) in bytes.chunks((bytes.len() / PARTS).max(PART_BYTES_MIN)).enumerate() {
            if at > 0
                && lane.is_empty()
                && let Some(gathered) = brain.commands().get_mut(shard)
            {
                lane.send(gathered);
            }
            brain.receive(now, key, part);
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

    /// Whether effects come so soon that to fall asleep and be woken would take longer.
    pub(super) fn expects_news(&mut self, clock: &Clock) -> bool {
        if !self.lanes.iter().any(|lane| lane.ends.effects.is_announced()) {
            self.announced_until_us = None;
            return false;
        }
        let now_us = clock.micros();
        now_us < *self.announced_until_us.get_or_insert(now_us + ANNOUNCED_WAIT_US)
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

    fn is_empty(&self) -> bool {
        self.kept.is_none() && self.ends.commands.depth() == 0
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LoopId;
    use crate::mail::{Bell, EffectSender, command_lanes, effect_lane};

    fn lanes() -> (Lanes, EffectSender) {
        let bell = Bell::new(|| {});
        let (mut senders, _) = command_lanes(&[(LoopId(0), bell.clone())], &bell);
        let (sender, effects) = effect_lane(LoopId(0), bell);
        (Lanes::new(vec![ShardLane { commands: senders.remove(0), effects }]), sender)
    }

    #[test]
    fn what_is_announced_is_expected_for_a_while() {
        let clock = Clock::starting_at(Time(0));
        let (mut lanes, sender) = lanes();
        assert!(!lanes.expects_news(&clock));
        for _ in 0..2 {
            sender.announce();
            let began_us = clock.micros();
            while lanes.expects_news(&clock) {}
            assert!(clock.micros() >= began_us + ANNOUNCED_WAIT_US);
            assert!(!lanes.expects_news(&clock), "still announced, and not waited for once more");
            sender.announced_all();
            assert!(!lanes.expects_news(&clock));
        }
    }

    #[test]
    fn what_was_announced_and_sent_is_expected_no_longer() {
        let clock = Clock::starting_at(Time(0));
        let (mut lanes, sender) = lanes();
        sender.announce();
        sender.send(EffectBatch::default()).unwrap();
        sender.announced_all();
        assert!(!lanes.expects_news(&clock) && lanes.has_news());
    }
}
