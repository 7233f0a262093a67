//! One shard: the brain, its log and the effects that wait for a commit. No thread, no file, no clock.
//!
//! [`Shard::recover`] first. Then, in any order: [`Shard::apply`] a batch of commands, [`Shard::expire`] at
//! [`Shard::next_deadline`], [`Shard::seal`] whenever no batch is being written and [`Shard::batch_done`] after it
//! was, [`Shard::next_chore`] and [`Shard::chore_done`] likewise; after each, [`Shard::effects`] for every loop.
//! A shard that is to end is told so with [`Shard::sync_now`] until it [is settled](Shard::is_settled).

use std::sync::Arc;
use std::time::Duration;

use super::EngineConfig;
use crate::clock::{Clock, Now, Time, Wall};
use crate::host::Block;
use crate::ids::{Boot, LoopId, ShardId};
use crate::limits;
use crate::log::{
    Batch, Chore, ChoreDone, ChoreOutcome, Durability, Journal, Log, LogError, Position, Recovery, Room,
    Storage,
};
use crate::mail::{CommandBatch, EffectBatch};
use crate::queue::record::head_len;
use crate::queue::{Brain, Outbox, ReplayError, Turn};
use crate::telemetry::ShardMetrics;

/// How long the log waits before it tries again to get space from a full disk.
const SPACE_RETRY: Duration = Duration::from_millis(500);

/// Why a shard could not start.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log is sound, but a record in it is not understood.
    #[error("the record at position {} of the log is not understood: {source}; it was written by a newer version of relaymesh or is damaged", position.0)]
    Record {
        /// Where the record lies.
        position: Position,
        /// What is wrong with it.
        source: ReplayError,
    },
}

/// What a start found.
#[derive(Debug)]
pub struct Started {
    /// The log's own account.
    pub recovery: Recovery,
    /// This start's generation; durable once the first batch is.
    pub boot: Boot,
    /// What the shard's clock showed when the start began.
    pub time: Time,
}

/// A queue brain with its log.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    brain: Brain,
    log: Log,
    outbox: Outbox,
    /// When to ask a full disk for space again.
    space_retry_at: Option<Time>,
    durability: Durability,
    /// When what was written is to be synced.
    sync_at: Option<Time>,
    /// Effects left since the brain was last asked for more.
    has_new_room: bool,
    metrics: Arc<ShardMetrics>,
}

impl Shard {
    /// Reads the log and brings the queues back to where they were. `wall` is what the wall clock shows now, before the log
    /// is read; the shard's clock shows [`Started::time`] at this moment, and goes on from here.
    ///
    /// # Errors
    /// [`ShardError`] when the log is damaged, foreign or newer than this version.
    pub fn recover(
        storage: &dyn Storage,
        config: EngineConfig,
        metrics: Arc<ShardMetrics>,
        wall: Wall,
    ) -> Result<(Self, Started), ShardError> {
        Self::recover_to(storage, config, metrics, wall, |_| {})
    }

    /// As [`Shard::recover`], by the clocks of this machine. Returns the shard's own as well, which goes on while the log is
    /// read: what is delayed waits meanwhile, too, and one that began afterwards would be behind all that the next start
    /// counts from this one.
    ///
    /// # Errors
    /// As [`Shard::recover`].
    pub fn recover_now(
        storage: &dyn Storage,
        config: EngineConfig,
        metrics: Arc<ShardMetrics>,
    ) -> Result<(Self, Started, Clock), ShardError> {
        Self::recover_now_to(storage, config, metrics, |_| {})
    }

    /// As [`Shard::recover_now`]; `begin` is handed the log before anything is appended to it.
    pub(super) fn recover_now_to(
        storage: &dyn Storage,
        config: EngineConfig,
        metrics: Arc<ShardMetrics>,
        begin: impl FnOnce(&mut Log),
    ) -> Result<(Self, Started, Clock), ShardError> {
        let (since_now, wall) = (Clock::starting_at(Time(0)), Clock::wall());
        let (shard, started) = Self::recover_to(storage, config, metrics, wall, begin)?;
        let clock = since_now.showing_at_origin(started.time);
        Ok((shard, started, clock))
    }

    /// As [`Shard::recover`]; `begin` is handed the log before anything is appended to it.
    fn recover_to(
        storage: &dyn Storage,
        config: EngineConfig,
        metrics: Arc<ShardMetrics>,
        wall: Wall,
        begin: impl FnOnce(&mut Log),
    ) -> Result<(Self, Started), ShardError> {
        let id = config.queue.shard;
        let mut brain = Brain::new(config.queue, Arc::clone(&metrics), config.seed);
        let mut refused = None;
        let (mut log, recovery) =
            Log::recover_heads(storage, config.log, head_len, &mut |position, head, len| {
                if refused.is_none()
                    && let Err(source) = brain.replay_head(position, head, len)
                {
                    refused = Some(ShardError::Record { position, source });
                }
            })?;
        if let Some(error) = refused {
            return Err(error);
        }
        begin(&mut log);
        let time = brain.shard_time(wall);
        let mut shard = Self {
            id,
            brain,
            log,
            outbox: Outbox::new(),
            space_retry_at: None,
            durability: config.log.durability,
            sync_at: None,
            has_new_room: false,
            metrics,
        };
        let boot = shard.turn(Now { time, wall }, |brain, turn| brain.start(turn));
        // No boot may ever follow itself, whatever a power loss takes: tokens, epochs and leases carry its number.
        shard.log.request_sync();
        Ok((shard, Started { recovery, boot, time }))
    }

    /// Which of the server's it is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Carries out a batch of commands and empties it.
    pub fn apply(&mut self, now: Now, batch: &mut CommandBatch) {
        self.turn(now, |brain, turn| brain.apply(batch, turn));
    }

    /// Fires the timers that are due, and goes on with what operators asked for.
    pub fn expire(&mut self, now: Now) {
        if self.space_retry_at.is_some_and(|at| at <= now.time) {
            self.space_retry_at = None;
            self.log.retry_space();
        }
        if self.sync_at.take_if(|at| *at <= now.time).is_some() {
            self.log.request_sync();
        }
        self.has_new_room = false;
        self.turn(now, |brain, turn| brain.expire(turn));
        if self.brain.has_jobs() && !self.is_congested() {
            self.turn(now, |brain, turn| brain.go_on(turn));
        }
    }

    /// When [`Shard::expire`] is to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        // At once, when deliveries waited for the effects that have left.
        let held_back = (self.has_new_room && self.brain.is_holding_back()).then_some(Time(0));
        // Also at once, when an operator's request goes on: the committer rings when the log takes more again.
        let jobs = (self.brain.has_jobs() && !self.is_congested()).then_some(Time(0));
        let own = self.space_retry_at.into_iter().chain(self.sync_at).chain(held_back).chain(jobs);
        self.brain.next_deadline().into_iter().chain(own).min()
    }

    /// Whether so much waits for the committer that no more commands should be taken.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.log.open_bytes() >= 2 * limits::LOG_BATCH_BYTES_MAX
    }

    /// Whether nothing waits to be written or synced.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.log.open_bytes() == 0 && !self.log.is_unsynced()
    }

    /// Lets what was written be synced without waiting for its time. Whether there is a batch to seal that was not there
    /// before.
    pub fn sync_now(&mut self) -> bool {
        self.log.request_sync()
    }

    /// At the end, when all is settled: lets one last batch name all before it as durable. Whether there is one to seal.
    pub fn conclude(&mut self) -> bool {
        self.log.conclude()
    }

    /// The next batch to write, or `None`. One at a time.
    pub fn seal(&mut self) -> Option<Batch> {
        self.log.seal()
    }

    /// The batch is committed: what waited for it may leave.
    pub fn batch_done(&mut self, now: Now, batch: Batch) {
        self.log.batch_done(batch);
        match self.durability {
            Durability::Interval(interval) if self.log.is_unsynced() => {
                self.sync_at.get_or_insert(now.time + interval);
            }
            Durability::Interval(_) | Durability::Sync => self.sync_at = None,
        }
        self.turn(now, |brain, turn| brain.committed(turn));
        self.publish_stats();
    }

    /// The batch could not be written or synced; nothing is sealed and nothing that is not committed leaves any more.
    pub fn batch_failed(&mut self, batch: Batch) {
        self.log.batch_failed(batch);
    }

    /// The next piece of blocking work beside commits, or `None`. One at a time.
    pub fn next_chore(&mut self) -> Option<Chore> {
        self.log.next_chore()
    }

    /// The chore is done.
    ///
    /// # Errors
    /// [`LogError`]: a segment in use failed, the process must stop.
    pub fn chore_done(&mut self, now: Now, done: ChoreDone) -> Result<(), LogError> {
        let room = self.log.room();
        match self.log.chore_done(done) {
            ChoreOutcome::Quiet => {}
            ChoreOutcome::Reads(reads) => {
                self.turn(now, |brain, turn| brain.records_read(reads.iter(), turn));
            }
            ChoreOutcome::Relocation(slice) => {
                self.turn(now, |brain, turn| {
                    for (position, record) in slice.records() {
                        brain.relocate(position, record, turn);
                    }
                });
                self.metrics.log_relocated.add(slice.records().count() as u64);
                self.log.relocated(slice);
            }
            ChoreOutcome::NoSpace(error) => {
                // It is tried again and again.
                if room == Room::Open {
                    tracing::warn!(
                        %error,
                        "no new segment for the log: publishes are refused until one can be made, and acks go on as long as \
                         the two reserved ones last"
                    );
                }
                self.space_retry_at = Some(now.time + SPACE_RETRY);
            }
            ChoreOutcome::Failed(error) => return Err(error),
        }
        if self.log.room() != room {
            let is_full = self.log.room() == Room::Reserved;
            self.metrics.disk_full.set(u64::from(is_full));
            if !is_full {
                tracing::info!("the log has a new segment: publishes are taken again");
            }
            self.turn(now, |brain, turn| brain.log_room_changed(turn));
        }
        self.publish_stats();
        Ok(())
    }

    /// How many bytes of memory should be made ready for [`Shard::supply_memory`], if any.
    #[must_use]
    pub fn wanted_memory(&self) -> Option<usize> {
        self.brain.wanted_memory()
    }

    /// Takes memory that was wanted.
    pub fn supply_memory(&mut self, memory: Block) {
        self.brain.supply_memory(memory);
    }

    /// What may leave for `loop_id` now, or `None`.
    pub fn effects(&mut self, loop_id: LoopId) -> Option<EffectBatch> {
        let released = self.outbox.release(self.log.committed(), loop_id);
        if released.is_some() {
            self.has_new_room = true;
            self.metrics.effects_held.set(self.outbox.held() as u64);
        }
        released
    }

    /// Whether anything for `loop_id` waits for a commit.
    #[must_use]
    pub fn holds_for(&self, loop_id: LoopId) -> bool {
        self.outbox.holds_for(loop_id)
    }

    /// Segments that are still to be written anew.
    pub(super) fn left_to_rewrite(&self) -> u64 {
        self.log.left_to_rewrite()
    }

    /// Panics when the brain contradicts itself; for tests.
    pub fn check_invariants(&self) {
        self.brain.check_invariants();
    }

    fn turn<R>(&mut self, now: Now, step: impl FnOnce(&mut Brain, &mut Turn<'_>) -> R) -> R {
        let mut turn = Turn { now, journal: &mut self.log, outbox: &mut self.outbox };
        step(&mut self.brain, &mut turn)
    }

    fn publish_stats(&self) {
        let stats = self.log.stats();
        self.metrics.log_live_bytes.set(stats.live_bytes);
        self.metrics.log_segments.set(stats.segments);
        self.metrics.log_open_bytes.set(self.log.open_bytes() as u64);
        self.metrics.log_unsynced_bytes.set(stats.unsynced_bytes);
        self.metrics.effects_held.set(self.outbox.held() as u64);
    }
}
