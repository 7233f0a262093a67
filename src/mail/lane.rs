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

/// What one end of a lane says ahead of what it sends, so that the other end wakes up meanwhile.
#[derive(Debug, Clone, Default)]
struct Announcement(Arc<AtomicBool>);

impl Announcement {
    fn make(&self, bell: &Bell) {
        self.0.store(true, Ordering::Relaxed);
        bell.ring();
    }

    /// All that was announced was sent: who sees this finds that.
    fn fulfil(&self) {
        if self.0.load(Ordering::Relaxed) {
            self.0.store(false, Ordering::Release);
        }
    }

    fn is_made(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A loop's end of its lane to a shard.
#[derive(Debug)]
pub struct CommandSender {
    batches: Sender<CommandBatch>,
    bell: Bell,
    announced: Announcement,
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
    announced: Announcement,
}

/// A shard's end of its lane to a loop.
#[derive(Debug)]
pub struct EffectSender {
    loop_id: LoopId,
    batches: Sender<EffectBatch>,
    bell: Bell,
    announced: Announcement,
}

/// A loop's end of a shard's lane to it.
#[derive(Debug)]
pub struct EffectReceiver {
    batches: Receiver<EffectBatch>,
    announced: Announcement,
}

/// A lane from each of `loops` to one shard that `bell` wakes. A loop's own bell tells it that its lane, once
/// full, takes batches again.
#[must_use]
pub fn command_lanes(loops: &[(LoopId, Bell)], bell: &Bell) -> (Vec<CommandSender>, CommandReceiver) {
    let (senders, lanes) = loops
        .iter()
        .map(|(loop_id, sender_bell)| {
            let (sender, batches) = bounded(COMMAND_LANE_BATCHES);
            let (sender_bell, announced) = (sender_bell.clone(), Announcement::default());
            let sender = CommandSender { batches: sender, bell: bell.clone(), announced: announced.clone() };
            (sender, CommandLane { loop_id: *loop_id, batches, sender_bell, announced })
        })
        .unzip();
    (senders, CommandReceiver { lanes, next: 0 })
}

/// A lane from a shard to one loop that `bell` wakes.
#[must_use]
pub fn effect_lane(loop_id: LoopId, bell: Bell) -> (EffectSender, EffectReceiver) {
    let (batches, received) = bounded(EFFECT_LANE_BATCHES);
    let announced = Announcement::default();
    let sender = EffectSender { loop_id, batches, bell, announced: announced.clone() };
    (sender, EffectReceiver { batches: received, announced })
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
        self.announced.make(&self.bell);
    }

    /// All that was announced was sent.
    pub fn announced_all(&self) {
        self.announced.fulfil();
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
        self.lanes.iter().any(|lane| lane.announced.is_made())
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

    /// Says that effects come as soon as a commit is flushed, until [`EffectSender::announced_all`]: a loop that sleeps
    /// wakes up meanwhile.
    pub fn announce(&self) {
        self.announced.make(&self.bell);
    }

    /// All that was announced was sent.
    pub fn announced_all(&self) {
        self.announced.fulfil();
    }

    /// Batches on their way, for the metrics.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.batches.len()
    }
}

impl EffectReceiver {
    /// Whether the shard has announced more than it has sent. After a no, all of it is in the lane.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.announced.is_made()
    }

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
