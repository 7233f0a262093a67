//! A shard on its threads.
//!
//! The brain's thread owns the shard. It sleeps until its bell rings or a deadline comes, and then does one turn:
//! take what the committer and the housekeeper finished, apply the mail, fire timers, hand the committer the next
//! batch, let effects go. Commits need no timer: whatever arrived while one batch was being written is the next, and what a
//! loop has announced and is still decoding joins it. Where nothing arrives meanwhile, commit after commit, because all
//! who publish wait for their answers, there is nothing to do beside the writing, and the brain's thread does that itself.
//! Where those who are answered come back at once, it lets the loops wake up while the disk flushes and is itself still awake
//! when they do: to be woken takes an idle core half as long as a commit.

use std::hint;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::Shard;
use super::provider::Provider;
use super::rhythm::Rhythm;
use crate::clock::Clock;
use crate::host::{self, Block};
use crate::log::{Batch, Chore, ChoreDone, LogError, Storage};
use crate::mail::{Bell, CommandReceiver, EffectBatch, EffectSender};
use crate::telemetry::ShardMetrics;

/// Batches of commands applied in one turn before effects are let go.
const BATCHES_PER_TURN_MAX: usize = 64;

/// How long a commit waits for mail that was announced, and the brain's thread for it awake, in microseconds: about as long as
/// the commit itself takes. To go without it would make two commits of one, where everybody waits for both.
const ANNOUNCED_WAIT_US: u64 = 150;

/// The shard's ends of its lanes.
#[derive(Debug)]
pub struct EngineLanes {
    /// From the loops and the operator API.
    pub commands: CommandReceiver,
    /// To each of them.
    pub effects: Vec<EffectSender>,
}

/// How a shard ended.
#[derive(Debug)]
pub enum Ended {
    /// It was stopped; everything is durable.
    Stopped,
    /// The log failed. Nothing was answered since; the process must end and a restart will recover.
    Failed(LogError),
}

/// A running shard.
#[derive(Debug)]
pub struct Engine {
    stop: Arc<AtomicBool>,
    bell: Bell,
    brain: JoinHandle<Ended>,
}

impl Engine {
    /// Starts the threads of `shard`. `make_lanes` is handed the bell that wakes the shard. `on_failure` is called
    /// on the brain's thread the moment the log fails.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn spawn(
        shard: Shard,
        storage: Arc<dyn Storage>,
        clock: Clock,
        metrics: Arc<ShardMetrics>,
        lanes: impl FnOnce(&Bell) -> EngineLanes,
        on_failure: impl FnOnce(&LogError) + Send + 'static,
    ) -> io::Result<Self> {
        let number = shard.id().0;
        let stop = Arc::new(AtomicBool::new(false));
        let (lanes_sender, lanes_received) = bounded(1);
        let stop_seen = Arc::clone(&stop);
        // The bell needs the thread's handle, and the lanes need the bell: the thread waits for its lanes.
        let brain = thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
            let Ok((lanes, bell)) = lanes_received.recv() else { return Ended::Stopped };
            let turn = BrainThread::start(shard, storage, clock, metrics, lanes, bell, stop_seen);
            let ended = turn.and_then(|mut brain| brain.run());
            match ended {
                Ok(()) => Ended::Stopped,
                Err(error) => {
                    on_failure(&error);
                    Ended::Failed(error)
                }
            }
        })?;
        let bell = Bell::unparking(brain.thread().clone());
        // The thread is waiting for exactly this: the send cannot fail.
        let _ = lanes_sender.send((lanes(&bell), bell.clone()));
        Ok(Self { stop, bell, brain })
    }

    /// Lets the shard finish what it was sent, write it, and end.
    pub fn stop(self) -> Ended {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
        // A panic of the brain has already been reported by the panic hook.
        self.brain.join().unwrap_or(Ended::Stopped)
    }
}

/// A thread that does one thing at a time for the brain.
#[derive(Debug)]
struct Worker<Job, Done> {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl<Job: Send + 'static, Done: Send + 'static> Worker<Job, Done> {
    fn spawn(
        name: String,
        bell: Bell,
        mut work: impl FnMut(Job) -> Done + Send + 'static,
    ) -> Result<Self, LogError> {
        let (jobs, to_do) = bounded::<Job>(1);
        let (finished, done) = bounded(1);
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                loop {
                    let job = match to_do.try_recv() {
                        Ok(job) => job,
                        // To wait in the channel would be to look again and again for a while.
                        Err(TryRecvError::Empty) => {
                            thread::park();
                            continue;
                        }
                        Err(TryRecvError::Disconnected) => return,
                    };
                    if finished.send(work(job)).is_err() {
                        return;
                    }
                    bell.ring();
                }
            })
            .map_err(|cause| LogError::Io { what: "starting the thread of", file: name, cause })?;
        Ok(Self { jobs: Some(jobs), done, busy: false, thread: Some(thread) })
    }

    /// Only when not busy: the channel of one has room then.
    fn give(&mut self, job: Job) {
        if let Some(jobs) = &self.jobs {
            self.busy = jobs.send(job).is_ok();
        }
        self.wake();
    }

    fn take(&mut self) -> Option<Done> {
        match self.done.try_recv() {
            Ok(done) => {
                self.busy = false;
                Some(done)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

impl<Job, Done> Worker<Job, Done> {
    /// Takes no more jobs.
    fn retire(&mut self) {
        self.jobs = None;
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl<Job, Done> Drop for Worker<Job, Done> {
    fn drop(&mut self) {
        self.retire();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Written {
    batch: Batch,
    result: Result<(), LogError>,
}

struct BrainThread {
    shard: Shard,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    commands: CommandReceiver,
    loops: Vec<LoopOutlet>,
    bell: Bell,
    stop: Arc<AtomicBool>,
    committer: Worker<Batch, Written>,
    /// Until when mail that was announced is waited for, in microseconds; set while that is so.
    announced_until_us: Option<u64>,
    rhythm: Rhythm,
    /// While this thread waits awake, there is another core for those it waits for.
    may_wait_awake: bool,
    housekeeper: Worker<Chore, ChoreDone>,
    provider: Worker<usize, io::Result<Block>>,
}

/// The way to one loop, and what its full lane would not take.
struct LoopOutlet {
    sender: EffectSender,
    waiting: EffectBatch,
}

impl BrainThread {
    fn start(
        shard: Shard,
        storage: Arc<dyn Storage>,
        clock: Clock,
        metrics: Arc<ShardMetrics>,
        lanes: EngineLanes,
        bell: Bell,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, LogError> {
        let number = shard.id().0;
        let committer = Worker::spawn(format!("committer-{number}"), bell.clone(), |batch: Batch| {
            let result = batch.write();
            Written { batch, result }
        })?;
        let housekeeper =
            Worker::spawn(format!("housekeeper-{number}"), bell.clone(), move |chore: Chore| {
                chore.run(&*storage)
            })?;
        let mut provider = Provider::new(clock.clone());
        let provider =
            Worker::spawn(format!("provider-{number}"), bell.clone(), move |bytes| provider.provide(bytes))?;
        // One of the lanes is the operator's.
        let may_wait_awake = host::cores() > 1 && lanes.effects.len() <= host::cores() + 1;
        let outlet = |sender| LoopOutlet { sender, waiting: EffectBatch::default() };
        Ok(Self {
            shard,
            clock,
            metrics,
            commands: lanes.commands,
            loops: lanes.effects.into_iter().map(outlet).collect(),
            bell,
            stop,
            committer,
            announced_until_us: None,
            rhythm: Rhythm::default(),
            may_wait_awake,
            housekeeper,
            provider,
        })
    }

    fn run(&mut self) -> Result<(), LogError> {
        loop {
            let mut worked = self.take_finished()?;
            worked |= self.apply_mail();
            worked |= self.fire_timers();
            if self.await_announced() {
                continue;
            }
            worked |= self.give_work()?;
            self.send_effects();
            if worked {
                continue;
            }
            if self.stop.load(Ordering::Acquire) {
                let is_done = self.is_done();
                if is_done && !self.shard.conclude() {
                    return Ok(());
                }
                if is_done || self.shard.sync_now() {
                    continue;
                }
            }
            if !self.await_return() {
                self.sleep();
            }
        }
    }

    /// Takes what the committer and the housekeeper finished.
    fn take_finished(&mut self) -> Result<bool, LogError> {
        let mut worked = false;
        if let Some(written) = self.committer.take() {
            worked = true;
            self.commit_done(written)?;
        }
        if let Some(done) = self.housekeeper.take() {
            worked = true;
            self.shard.chore_done(self.clock.now(), done)?;
        }
        match self.provider.take() {
            Some(Ok(block)) => self.shard.supply_memory(block),
            Some(Err(error)) => {
                tracing::warn!(%error, "no memory for more messages: their bodies are read back from the log");
                self.provider.retire();
            }
            None => {}
        }
        Ok(worked)
    }

    fn commit_done(&mut self, Written { batch, result }: Written) -> Result<(), LogError> {
        if let Err(error) = result {
            self.shard.batch_failed(batch);
            return Err(error);
        }
        let took_us = self.rhythm.commit_done(self.clock.micros());
        let latency =
            if batch.is_sync() { &self.metrics.sync_latency_us } else { &self.metrics.commit_latency_us };
        latency.record(took_us);
        self.shard.batch_done(self.clock.now(), batch);
        Ok(())
    }

    fn apply_mail(&mut self) -> bool {
        for applied in 0..BATCHES_PER_TURN_MAX {
            if self.shard.is_congested() {
                return applied > 0;
            }
            let Some((_, mut batch)) = self.commands.next_batch() else { return applied > 0 };
            self.rhythm.mail_came(self.clock.micros());
            self.shard.apply(self.clock.now(), &mut batch);
        }
        true
    }

    fn fire_timers(&mut self) -> bool {
        let now = self.clock.now();
        let due = self.shard.next_deadline().is_some_and(|at| at <= now.time);
        if due {
            self.shard.expire(now);
        }
        due
    }

    /// Whether a batch was written at once.
    fn give_work(&mut self) -> Result<bool, LogError> {
        let mut is_written = false;
        if !self.committer.busy
            && let Some(batch) = self.shard.seal()
        {
            if !batch.is_sync() {
                self.metrics.commit_records.record(u64::from(batch.records));
                self.metrics.commit_bytes.record(batch.bytes() as u64);
                self.metrics.log_written_bytes.add(batch.bytes() as u64);
            }
            self.rhythm.commit_began(self.clock.micros());
            if self.rhythm.is_calm() && !batch.is_sync() {
                // Everybody waits for this commit: to hand it to another thread and be woken again would only make it longer.
                self.send_effects();
                let result = batch.write_telling(&mut || self.announce_effects());
                if !self.commands.is_empty() {
                    self.rhythm.mail_came(self.clock.micros());
                }
                self.commit_done(Written { batch, result })?;
                is_written = true;
            } else {
                self.committer.give(batch);
            }
        }
        if !self.housekeeper.busy
            && let Some(chore) = self.shard.next_chore()
        {
            self.housekeeper.give(chore);
        }
        if !self.provider.busy
            && let Some(bytes) = self.shard.wanted_memory()
        {
            self.provider.give(bytes);
        }
        Ok(is_written)
    }

    /// Wakes the loops for what waits for the commit under way. Not for who takes their time after the answer as well: they
    /// would have it a little sooner, at the price of a loop awake for nothing else.
    fn announce_effects(&self) {
        let waiting = |outlet: &&LoopOutlet| self.shard.holds_for(outlet.sender.loop_id());
        if self.may_wait_awake && self.rhythm.is_prompt() {
            self.loops.iter().filter(waiting).for_each(|outlet| outlet.sender.announce());
        }
    }

    fn send_effects(&mut self) {
        for outlet in &mut self.loops {
            // While a lane is full its effects stay in the outbox, which bounds them.
            if outlet.waiting.is_empty()
                && let Some(effects) = self.shard.effects(outlet.sender.loop_id())
            {
                outlet.waiting = effects;
            }
            if !outlet.waiting.is_empty()
                && let Err(full) = outlet.sender.send(std::mem::take(&mut outlet.waiting))
            {
                outlet.waiting = full.0;
            }
            outlet.sender.announced_all();
        }
    }

    fn is_done(&self) -> bool {
        self.shard.is_settled() && !self.committer.busy && !self.housekeeper.busy && self.commands.is_empty()
    }

    /// Waits, awake, for mail that a loop is just gathering: it joins the commit that would begin now, and to fall asleep
    /// and be woken again takes longer. Returns whether some has come.
    fn await_announced(&mut self) -> bool {
        if self.committer.busy || self.shard.is_congested() {
            return false;
        }
        if self.announced_until_us.is_none() {
            if !self.commands.is_announced() {
                return false;
            }
            self.announced_until_us = Some(self.clock.micros() + ANNOUNCED_WAIT_US);
        }
        // Deliveries wait for nothing.
        self.send_effects();
        while self.announced_until_us.is_some_and(|until_us| self.clock.micros() < until_us) {
            let is_more = self.commands.is_announced();
            if !self.commands.is_empty() {
                return true;
            }
            if !is_more {
                break;
            }
            // The loop may want this very core.
            thread::yield_now();
        }
        self.announced_until_us = None;
        false
    }

    /// Waits, awake, for those who were just answered, as long as they are likely to come back at once. Returns whether there
    /// is something to do.
    fn await_return(&mut self) -> bool {
        let Some(until_us) = self.rhythm.return_until_us().filter(|_| self.may_wait_awake) else {
            return false;
        };
        while self.clock.micros() < until_us {
            if self.has_news() || self.commands.is_announced() {
                return true;
            }
            // Not by yielding the core: a thread of the background that took it would keep it for a millisecond.
            hint::spin_loop();
        }
        self.rhythm.nobody_returned();
        false
    }

    fn has_news(&self) -> bool {
        let mail = !self.commands.is_empty() && !self.shard.is_congested();
        let finished = !self.committer.done.is_empty() || !self.housekeeper.done.is_empty();
        mail || finished || self.stop.load(Ordering::Acquire) && self.is_done()
    }

    fn sleep(&mut self) {
        self.bell.about_to_sleep();
        if self.has_news() {
            self.bell.awake();
            return;
        }
        // A lane that would not take effects is tried again soon: its loop has no reason to ring.
        let blocked = self.loops.iter().any(|outlet| !outlet.waiting.is_empty());
        let retry = blocked.then_some(Duration::from_millis(1));
        let timer = self.shard.next_deadline().map(|at| at - self.clock.time());
        match timer.into_iter().chain(retry).min() {
            Some(timeout) => thread::park_timeout(timeout.max(Duration::from_micros(200))),
            None => thread::park(),
        }
        self.bell.awake();
    }
}
