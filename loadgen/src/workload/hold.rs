//! One thread's sessions of `loadgen connect`, and what all threads of the run know of each other.
//!
//! [`Live`] holds what a thread tells the others while it goes; its own figures, a [`Held`], it hands over at the end.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use relaymesh::client::Event;
use relaymesh::clock::{Clock, Time};
use relaymesh::wire::proto;

use super::IDLE_TURN;
use super::heard::Heard;
use super::live_delays::LiveDelays;
use super::silent::{Detection, Silents};
use crate::descriptors::leave_shared_table;
use crate::fleet::{Ending, Fleet, Identity, Link, Share, Workload};
use crate::options::Target;
use crate::report::Delays;
use crate::stamp;

/// How long the last heartbeats of a run may take.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Different reasons that are told apart.
const REASONS_MAX: usize = 16;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Stage {
    /// Sessions come in.
    Opening,
    /// All are in; heartbeats count.
    Holding,
    /// The heartbeats on their way are awaited.
    Ending,
}

/// What the threads of a run tell each other.
#[derive(Debug)]
pub(super) struct Live {
    stage: AtomicU8,
    /// Sessions that were welcomed.
    pub(super) established: AtomicU64,
    /// Connections that got no WELCOME and are given up.
    pub(super) failed: AtomicU64,
    /// Attempts without WELCOME after which another was made.
    pub(super) retried: AtomicU64,
    /// Sessions that ended before the run did.
    pub(super) lost: AtomicU64,
    /// Heartbeats answered while holding.
    pub(super) answered: AtomicU64,
    /// When the last session was welcomed, in microseconds of the run's clock.
    pub(super) last_welcome_us: AtomicU64,
    /// The delays of these heartbeats.
    pub(super) delays: LiveDelays,
    /// How many sessions fall silent once all are in.
    pub(super) fall_silent: usize,
    /// The longest interval of one of these, in milliseconds.
    pub(super) silent_interval_ms: AtomicU64,
    /// Those that the server has closed since.
    pub(super) silent_gone: AtomicU64,
    /// When a broadcast was delivered last while holding, in microseconds of the run's clock.
    last_heard_us: AtomicU64,
}

impl Live {
    /// Of a run whose sessions begin to come in.
    pub(super) fn new() -> Self {
        Self {
            stage: AtomicU8::new(Stage::Opening as u8),
            established: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            last_welcome_us: AtomicU64::new(0),
            delays: LiveDelays::default(),
            fall_silent: 0,
            silent_interval_ms: AtomicU64::new(0),
            silent_gone: AtomicU64::new(0),
            last_heard_us: AtomicU64::new(0),
        }
    }

    /// As [`Live::new`], and so many of the sessions fall silent once all are in.
    pub(super) fn with_silent(fall_silent: usize) -> Self {
        Self { fall_silent, ..Self::new() }
    }

    /// Sessions that are there now.
    pub(super) fn sessions(&self) -> u64 {
        let ended = read(&self.lost) + read(&self.silent_gone);
        read(&self.established).saturating_sub(ended)
    }

    pub(super) fn enter(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    pub(super) fn is_in(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Relaxed) == stage as u8
    }
}

/// What was counted.
pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Counts one more.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How often what happened, in the server's or the system's words.
pub(super) type Reasons = BTreeMap<String, u64>;

/// What came of a thread's sessions.
pub(super) struct Held {
    pub(super) heartbeats: Delays,
    /// Those of them during which a broadcast was delivered to somebody.
    pub(super) heartbeats_meanwhile: Delays,
    /// How much later than due the heartbeats were sent, which is the generator's own doing.
    pub(super) lateness: Delays,
    pub(super) handshakes: Delays,
    /// Heartbeats that were not answered before the next was due, or before the end.
    pub(super) missed: u64,
    pub(super) delivered: u64,
    /// From when a push was due until it was here, of those that tell.
    pub(super) pushes: Delays,
    /// Broadcasts that came while holding.
    pub(super) heard: Heard,
    /// What came of those that fell silent.
    pub(super) detection: Detection,
    pub(super) reasons: Reasons,
}

impl Held {
    pub(super) fn new() -> Self {
        Self {
            heartbeats: Delays::new(),
            heartbeats_meanwhile: Delays::new(),
            lateness: Delays::new(),
            handshakes: Delays::new(),
            missed: 0,
            delivered: 0,
            pushes: Delays::new(),
            heard: Heard::new(),
            detection: Detection::default(),
            reasons: Reasons::new(),
        }
    }

    /// Adds what came of another thread's.
    pub(super) fn add(&mut self, other: Self) {
        self.heartbeats.add(&other.heartbeats);
        self.heartbeats_meanwhile.add(&other.heartbeats_meanwhile);
        self.lateness.add(&other.lateness);
        self.handshakes.add(&other.handshakes);
        self.missed += other.missed;
        self.delivered += other.delivered;
        self.pushes.add(&other.pushes);
        self.heard.add(other.heard);
        self.detection.add(other.detection);
        for (reason, times) in other.reasons {
            *self.reasons.entry(reason).or_default() += times;
        }
    }

    fn because(&mut self, why: &anyhow::Error) {
        let reason = format!("{why:#}");
        let is_room = self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&reason);
        let reason = if is_room { reason } else { "other reasons".to_owned() };
        *self.reasons.entry(reason).or_default() += 1;
    }
}

struct Hold<'a> {
    live: &'a Live,
    held: Held,
    silents: Silents,
    /// When each session's heartbeat on its way was sent, if that was while holding; 0 for none.
    sent_us: Vec<u64>,
    /// How many of these there are.
    on_their_way: usize,
    holds: bool,
    ending_since_us: Option<u64>,
}

impl Hold<'_> {
    /// The heartbeat on its way, if there is one, is not answered any more.
    fn forget(&mut self, number: usize) {
        if std::mem::take(&mut self.sent_us[number]) != 0 {
            self.on_their_way -= 1;
            self.held.missed += 1;
        }
    }
}

impl Workload for Hold<'_> {
    fn hello(&mut self, number: usize, now_us: u64, _hello: &mut proto::Hello) {
        self.silents.said_hello(number, now_us);
    }

    fn welcomed(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        let interval = link.machine.heartbeat();
        if self.silents.welcomed(link.number, link.now_us, interval) {
            let interval_ms = interval.as_millis() as u64;
            self.live.silent_interval_ms.fetch_max(interval_ms, Ordering::Relaxed);
        }
        count(&self.live.established);
        self.live.last_welcome_us.fetch_max(link.now_us, Ordering::Relaxed);
        Ok(())
    }

    fn begin(&mut self, _now_us: u64) {}

    fn start(&mut self, _link: &mut Link<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn is_silent(&self, number: usize) -> bool {
        self.silents.is_silent(number)
    }

    fn pinged(&mut self, link: &mut Link<'_>, due: Time) {
        self.silents.pinged(link.number, link.now_us, link.machine.heartbeat());
        if !self.holds {
            return;
        }
        self.forget(link.number);
        self.sent_us[link.number] = link.now_us.max(1);
        self.on_their_way += 1;
        self.held.lateness.record(link.now_us.saturating_sub(due.0 * 1000));
    }

    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::Pong { .. } => {
                self.silents.ponged(link.number, link.machine.heartbeat());
                let sent_us = std::mem::take(&mut self.sent_us[link.number]);
                if sent_us != 0 {
                    let delay_us = link.now_us - sent_us;
                    self.on_their_way -= 1;
                    self.held.heartbeats.record(delay_us);
                    if read(&self.live.last_heard_us) >= sent_us {
                        self.held.heartbeats_meanwhile.record(delay_us);
                    }
                    self.live.delays.record(delay_us);
                    count(&self.live.answered);
                }
                Ok(())
            }
            Event::Delivered(view) => {
                let holds = self.live.is_in(Stage::Holding);
                for broadcast in view.broadcasts() {
                    if let (true, Some(sent_us)) = (holds, stamp::stamp_of(broadcast.message)) {
                        self.held.heard.record(sent_us, stamp::now_us());
                        self.live.last_heard_us.fetch_max(link.now_us, Ordering::Relaxed);
                    }
                }
                for delivery in view.deliveries() {
                    self.held.delivered += 1;
                    if let Some(due_us) = stamp::stamp_of(delivery.message) {
                        self.held.pushes.record(stamp::now_us().saturating_sub(due_us));
                    }
                    if !self.silents.is_silent(link.number) {
                        link.machine.ack(&[delivery.lease], true, link.out)?;
                    }
                }
                Ok(())
            }
            Event::Settled { .. } => Ok(()),
            Event::Refused { text, .. } => bail!("a request was refused: {text}"),
            event => bail!("unexpected while holding sessions: {event:?}"),
        }
    }

    fn retried(&mut self, _number: usize) {
        count(&self.live.retried);
    }

    fn failed(&mut self, _number: usize, why: anyhow::Error) -> anyhow::Result<()> {
        count(&self.live.failed);
        self.held.because(&why);
        Ok(())
    }

    fn lost(&mut self, number: usize, now_us: u64, ending: Ending) -> anyhow::Result<()> {
        if self.silents.ended(number, now_us, &ending) {
            count(&self.live.silent_gone);
            return Ok(());
        }
        count(&self.live.lost);
        self.forget(number);
        self.held.because(&ending.why.context("lost"));
        Ok(())
    }

    fn turn(&mut self, now_us: u64) -> Option<Duration> {
        self.holds = self.live.is_in(Stage::Holding);
        if self.holds {
            self.silents.begin();
        }
        if self.live.is_in(Stage::Ending) {
            let since_us = *self.ending_since_us.get_or_insert(now_us);
            let is_over = self.on_their_way == 0 || now_us - since_us > LAST_ANSWERS.as_micros() as u64;
            return (!is_over).then_some(IDLE_TURN);
        }
        Some(IDLE_TURN)
    }
}

/// Holds the sessions of all `shares`, each in a thread of its own, while `watch` looks on; they end when it returns.
/// Returns what it saw and what came of the sessions.
pub(super) fn hold_all<S>(
    target: &Target,
    identity: &Identity,
    shares: &[Share],
    (clock, live): (&Clock, &Live),
    watch: impl FnOnce() -> S,
) -> (S, anyhow::Result<Held>) {
    let all_have_tables = Barrier::new(shares.len() + 1);
    thread::scope(|scope| {
        let start = |&share| {
            let tables = &all_have_tables;
            scope.spawn(move || hold(target, identity, share, clock, live, tables))
        };
        let threads: Vec<_> = shares.iter().map(start).collect();
        all_have_tables.wait();
        let seen = watch();
        live.enter(Stage::Ending);
        let mut held = Ok(Held::new());
        for thread in threads {
            let of_thread = thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the run panicked")));
            match (&mut held, of_thread) {
                (Ok(held), Ok(of_thread)) => held.add(of_thread),
                (Ok(_), Err(error)) => held = Err(error),
                (Err(_), _) => {}
            }
        }
        (seen, held)
    })
}

/// Drives a share of the run's sessions to the run's end, in a thread and a descriptor table of its own.
///
/// # Errors
/// When the thread gets no table or no poller, or the server breaks the protocol. The others are told to end then.
fn hold(
    target: &Target,
    identity: &Identity,
    share: Share,
    clock: &Clock,
    live: &Live,
    all_have_tables: &Barrier,
) -> anyhow::Result<Held> {
    let table = leave_shared_table();
    all_have_tables.wait();
    let result = match table {
        Ok(()) => hold_share(target, identity, share, clock, live),
        Err(error) => Err(error).context("cannot give a thread its own descriptor table"),
    };
    if result.is_err() {
        live.enter(Stage::Ending);
    }
    result
}

fn hold_share(
    target: &Target,
    identity: &Identity,
    share: Share,
    clock: &Clock,
    live: &Live,
) -> anyhow::Result<Held> {
    let mut fleet = Fleet::new(target, identity.clone(), share, clock.clone())?;
    let mut work = Hold {
        live,
        held: Held::new(),
        silents: Silents::new(share, live.fall_silent),
        sent_us: vec![0; share.wanted],
        on_their_way: 0,
        holds: false,
        ending_since_us: None,
    };
    fleet.hold(&mut work)?;
    work.held.missed += work.on_their_way as u64;
    work.held.handshakes.add(&fleet.handshakes);
    work.held.detection = work.silents.into_detection();
    fleet.close();
    Ok(work.held)
}

#[cfg(test)]
mod tests;
