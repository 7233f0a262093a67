//! The bounded lanes. Each has one sender and one receiver; nobody ever blocks on one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::ids::LoopId;
use crate::limits::{COMMAND_LANE_BATCHES, EFFECT_LANE_BATCHES};
use crate::mail::{Bell, CommandBatch, EffectBatch};

/// The lane takes nothing more for now; the batch comes back.
#[derive(Debug)]
pub struct LaneFull<T>(pub T);

/// A loop's end of its lane to a shard.
#[derive(Debug)]
pub struct CommandSender {
    batches: Sender<CommandBatch>,
    bell: Bell,
    announced: Arc<AtomicBool>,
}

/// A shard's end of the lanes of all loops, drained in turn.
#[derive(Debug)]
pub struct CommandReceiver {
    lanes: Vec<CommandLane>,
    next: usize,
}

#[derive(Debug)]
struct CommandLane {
    loop_id: LoopId,
    batches: Receiver<CommandBatch>,
    /// Rung when a full lane takes batches again.
    sender_bell: Bell,
    /// A batch is about to come.
    announced: Arc<AtomicBool>,
}

/// A shard's end of its lane to a loop.
#[derive(Debug)]
pub struct EffectSender {
    loop_id: LoopId,
    batches: Sender<EffectBatch>,
    bell: Bell,
}

/// A loop's end of a shard's lane to it.
#[derive(Debug)]
pub struct EffectReceiver {
    batches: Receiver<EffectBatch>,
}

/// A lane from each of `loops` to one shard that `bell` wakes. A loop's own bell tells it that its lane, once
/// full, takes batches again.
#[must_use]
pub fn command_lanes(loops: &[(LoopId, Bell)], bell: &Bell) -> (Vec<CommandSender>, CommandReceiver) {
    let (senders, lanes) = loops
        .iter()
        .map(|(loop_id, sender_bell)| {
            let (sender, batches) = bounded(COMMAND_LANE_BATCHES);
            let (sender_bell, announced) = (sender_bell.clone(), Arc::new(AtomicBool::new(false)));
            let sender =
                CommandSender { batches: sender, bell: bell.clone(), announced: Arc::clone(&announced) };
            (sender, CommandLane { loop_id: *loop_id, batches, sender_bell, announced })
        })
        .unzip();
    (senders, CommandReceiver { lanes, next: 0 })
}

/// A lane from a shard to one loop that `bell` wakes.
#[must_use]
pub fn effect_lane(loop_id: LoopId, bell: Bell) -> (EffectSender, EffectReceiver) {
    let (batches, received) = bounded(EFFECT_LANE_BATCHES);
    (EffectSender { loop_id, batches, bell }, EffectReceiver { batches: received })
}

impl CommandSender {
    /// Sends a batch and wakes the shard. A shard that is gone swallows it: the process is ending.
    ///
    /// # Errors
    /// [`LaneFull`] hands the batch back; the loop's own bell rings when the lane takes batches again.
    pub fn send(&self, batch: CommandBatch) -> Result<(), LaneFull<CommandBatch>> {
        match self.batches.try_send(batch) {
            Err(TrySendError::Full(batch)) => Err(LaneFull(batch)),
            Ok(()) | Err(TrySendError::Disconnected(_)) => {
                self.bell.ring();
                Ok(())
            }
        }
    }

    /// Says that batches come within microseconds, until [`CommandSender::announced_all`]: a shard that sleeps wakes up while
    /// they are still being gathered.
    pub fn announce(&self) {
        self.announced.store(true, Ordering::Relaxed);
        self.bell.ring();
    }

    /// All that was announced was sent.
    pub fn announced_all(&self) {
        // After what was sent: a shard that sees this finds that.
        if self.announced.load(Ordering::Relaxed) {
            self.announced.store(false, Ordering::Release);
        }
    }

    /// Batches on their way, for the metrics.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.batches.len()
    }
}

impl CommandReceiver {
    /// The next batch, taking the lanes round robin, or `None` when all are empty.
    pub fn next_batch(&mut self) -> Option<(LoopId, CommandBatch)> {
        for _ in 0..self.lanes.len() {
            let lane = &self.lanes[self.next];
            self.next = (self.next + 1) % self.lanes.len();
            if let Ok(batch) = lane.batches.try_recv() {
                // Judged after the taking: a sender that fills the lane between a look before it and the taking
                // would fall asleep and never be rung.
                if lane.batches.len() + 1 >= COMMAND_LANE_BATCHES {
                    lane.sender_bell.ring();
                }
                return Some((lane.loop_id, batch));
            }
        }
        None
    }

    /// Whether every lane is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.batches.is_empty())
    }

    /// Whether a loop has announced more than it has sent. After a no, all of it is in the lanes.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.lanes.iter().any(|lane| lane.announced.load(Ordering::Acquire))
    }
}

impl EffectSender {
    /// The loop at the other end.
    #[must_use]
    pub fn loop_id(&self) -> LoopId {
        self.loop_id
    }

    /// Sends a batch and wakes the loop. A loop that is gone swallows it.
    ///
    /// # Errors
    /// [`LaneFull`] hands the batch back; keep it and join the next one to it.
    pub fn send(&self, batch: EffectBatch) -> Result<(), LaneFull<EffectBatch>> {
        match self.batches.try_send(batch) {
            Err(TrySendError::Full(batch)) => Err(LaneFull(batch)),
            Ok(()) | Err(TrySendError::Disconnected(_)) => {
                self.bell.ring();
                Ok(())
            }
        }
    }

    /// Batches on their way, for the metrics.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.batches.len()
    }
}

impl EffectReceiver {
    /// The next batch, or `None` when there is none now.
    #[must_use]
    pub fn next_batch(&self) -> Option<EffectBatch> {
        self.batches.try_recv().ok()
    }

    /// Whether there is nothing to receive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Batches on their way, for the metrics.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.batches.len()
    }
}
