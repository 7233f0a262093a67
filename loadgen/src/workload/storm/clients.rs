//! One thread's sessions of a storm: held, lost with the server, and back again as the policy says.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use relaymesh::client::{Backoff, Event, Policy as Reconnect, Verdict};
use relaymesh::clock::{Clock, Time};
use relaymesh::wire::proto;

use crate::descriptors::leave_shared_table;
use crate::fleet::{Ending, Fleet, Identity, Link, Share, Workload};
use crate::options::Target;
use crate::report::Delays;

/// Length of a resume token of this server.
const TOKEN_BYTES: usize = 32;
/// What a client that comes back at once waits: a turn of the loop that drives it.
const AT_ONCE: Duration = Duration::from_millis(1);
/// How often a thread looks at what the run wants of it.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Failed attempts that are told apart; those with more count as so many.
const ATTEMPTS_MAX: usize = 10_000;
/// Different reasons that are told apart.
const REASONS_MAX: usize = 16;

/// When a client whose connection ended comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[repr(u8)]
pub(crate) enum Policy {
    /// As the SDK does: exponential with jitter, and not before the slot that the server named.
    Slots,
    /// Exponential with jitter, whatever the server says.
    Jitter,
    /// At once.
    None,
}

impl Policy {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Jitter => "jitter",
            Self::None => "none",
        }
    }
}

/// What the threads of a storm tell each other.
#[derive(Debug)]
pub(super) struct Live {
    policy: AtomicU8,
    /// Rises each time the parts are called for.
    collect: AtomicU32,
    is_ending: AtomicBool,
    /// Sessions that are welcome now.
    pub(super) up: AtomicU64,
    /// Sessions that ended, in all.
    pub(super) lost: AtomicU64,
    /// Attempts without WELCOME, in all.
    pub(super) failed_attempts: AtomicU64,
    /// Clients that the server told never to come back.
    pub(super) given_up: AtomicU64,
    /// When the last session was welcomed, in microseconds of the run's clock.
    pub(super) last_welcome_us: AtomicU64,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            policy: AtomicU8::new(Policy::Slots as u8),
            collect: AtomicU32::new(0),
            is_ending: AtomicBool::new(false),
            up: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            failed_attempts: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            last_welcome_us: AtomicU64::new(0),
        }
    }

    pub(super) fn adopt(&self, policy: Policy) {
        self.policy.store(policy as u8, Ordering::Relaxed);
    }

    /// Every thread sends its part, and begins a new one.
    pub(super) fn call_for_parts(&self) {
        self.collect.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    fn policy(&self) -> Policy {
        let number = self.policy.load(Ordering::Relaxed);
        let all = [Policy::Slots, Policy::Jitter, Policy::None];
        all.into_iter().find(|policy| *policy as u8 == number).unwrap_or(Policy::Slots)
    }
}

/// What came of sessions since the parts were last called for.
#[derive(Debug)]
pub(super) struct Part {
    /// How many clients had as many failed attempts as the place says.
    attempts: Vec<u64>,
    pub(super) heartbeats: Delays,
    /// Why attempts failed, and how often.
    pub(super) reasons: BTreeMap<String, u64>,
}

impl Part {
    pub(super) fn new() -> Self {
        Self { attempts: Vec::new(), heartbeats: Delays::new(), reasons: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, other: Self) {
        for (attempts, clients) in other.attempts.into_iter().enumerate() {
            self.count_client(attempts, clients);
        }
        self.heartbeats.add(&other.heartbeats);
        for (reason, times) in other.reasons {
            *self.reasons.entry(reason).or_default() += times;
        }
    }

    pub(super) fn count_client(&mut self, attempts: usize, clients: u64) {
        let place = attempts.min(ATTEMPTS_MAX);
        if self.attempts.len() <= place {
            self.attempts.resize(place + 1, 0);
        }
        self.attempts[place] += clients;
    }

    /// Failed attempts a client: the mean, what 99 % do not exceed, and the most.
    pub(super) fn attempts(&self) -> (f64, usize, usize) {
        let clients: u64 = self.attempts.iter().sum();
        let all: u64 = self.attempts.iter().enumerate().map(|(n, clients)| n as u64 * clients).sum();
        let rank = (clients as f64 * 0.99).ceil() as u64;
        let mut below = 0;
        let p99 = self.attempts.iter().position(|&clients| {
            below += clients;
            below >= rank
        });
        let most = self.attempts.iter().rposition(|&clients| clients > 0).unwrap_or(0);
        (all as f64 / clients.max(1) as f64, p99.unwrap_or(0), most)
    }

    fn because(&mut self, why: &anyhow::Error) {
        let reason = format!("{why:#}");
        let is_room = self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&reason);
        let reason = if is_room { reason } else { "other reasons".to_owned() };
        *self.reasons.entry(reason).or_default() += 1;
    }
}

/// What is kept of one client; hundreds of thousands lie side by side.
#[derive(Debug, Clone, Default)]
struct Client {
    token: Option<[u8; TOKEN_BYTES]>,
    /// Attempts without WELCOME since the parts were last called for.
    failed: u32,
    /// While it is away.
    reconnect: Option<Box<Reconnect>>,
}

struct Storm<'a> {
    live: &'a Live,
    clients: Vec<Client>,
    /// When each session's heartbeat on its way was sent; 0 for none.
    sent_us: Vec<u64>,
    part: Part,
    collected: u32,
    parts: SyncSender<Part>,
    random: fastrand::Rng,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Workload for Storm<'_> {
    fn welcomed(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        count(&self.live.up);
        self.live.last_welcome_us.fetch_max(link.now_us, Ordering::Relaxed);
        Ok(())
    }

    fn begin(&mut self, _now_us: u64) {}

    fn start(&mut self, _link: &mut Link<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn hello(&mut self, number: usize, _now_us: u64, hello: &mut proto::Hello) {
        hello.resume_token = self.clients[number].token.map_or_else(Vec::new, |token| token.to_vec());
    }

    fn greeted(&mut self, number: usize, welcome: &proto::Welcome) {
        let client = &mut self.clients[number];
        client.token = welcome.resume_token.as_slice().try_into().ok();
        client.reconnect = None;
    }

    fn come_back(&mut self, number: usize, now: Time, was_welcomed: bool, ending: &Ending) -> Option<Time> {
        let client = &mut self.clients[number];
        if was_welcomed {
            self.live.up.fetch_sub(1, Ordering::Relaxed);
            count(&self.live.lost);
            self.sent_us[number] = 0;
        } else {
            client.failed += 1;
            count(&self.live.failed_attempts);
            self.part.because(&ending.why);
        }
        if ending.is_final() {
            return None;
        }
        let slot_ms = match self.live.policy() {
            Policy::None => return Some(now + AT_ONCE),
            Policy::Jitter => 0,
            Policy::Slots => ending.come_back_after.as_millis() as u32,
        };
        let seed = self.random.u64(..);
        let reconnect =
            client.reconnect.get_or_insert_with(|| Box::new(Reconnect::new(Backoff::default(), seed)));
        match reconnect.lost(now, ending.code, slot_ms) {
            Verdict::Retry { at, .. } => Some(at),
            Verdict::Final => None,
        }
    }

    fn pinged(&mut self, link: &mut Link<'_>, _due: Time) {
        self.sent_us[link.number] = link.now_us.max(1);
    }

    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::Pong { .. } => {
                let sent_us = std::mem::take(&mut self.sent_us[link.number]);
                if sent_us != 0 {
                    self.part.heartbeats.record(link.now_us - sent_us);
                }
            }
            Event::Delivered(view) => {
                for delivery in view.deliveries() {
                    link.machine.ack(&[delivery.lease], true, link.out)?;
                }
            }
            Event::Refused { text, .. } => self.part.because(&anyhow!("a request was refused: {text}")),
            _ => {}
        }
        Ok(())
    }

    fn failed(&mut self, _number: usize, why: anyhow::Error) -> anyhow::Result<()> {
        count(&self.live.given_up);
        self.part.because(&why.context("given up"));
        Ok(())
    }

    fn lost(&mut self, number: usize, _now_us: u64, ending: Ending) -> anyhow::Result<()> {
        self.failed(number, ending.why)
    }

    fn turn(&mut self, _now_us: u64) -> Option<Duration> {
        let called = self.live.collect.load(Ordering::Relaxed);
        if called != self.collected {
            self.collected = called;
            let mut part = std::mem::replace(&mut self.part, Part::new());
            for client in &mut self.clients {
                part.count_client(std::mem::take(&mut client.failed) as usize, 1);
            }
            // Nobody waits for it when the run ends early.
            let _ = self.parts.send(part);
        }
        (!self.live.is_ending()).then_some(LOOK_EVERY)
    }
}

/// Drives a share of the run's sessions to the run's end, in a thread and a descriptor table of its own.
///
/// # Errors
/// When the thread gets no table or no poller, or the server breaks the protocol. The others are told to end then.
pub(super) fn drive(
    target: &Target,
    identity: &Identity,
    share: Share,
    clock: &Clock,
    live: &Live,
    all_have_tables: &Barrier,
    parts: SyncSender<Part>,
) -> anyhow::Result<()> {
    let table = leave_shared_table();
    all_have_tables.wait();
    let result = table
        .context("cannot give a thread its own descriptor table")
        .and_then(|()| drive_share(target, identity, share, clock, live, parts));
    if result.is_err() {
        live.end();
    }
    result
}

fn drive_share(
    target: &Target,
    identity: &Identity,
    share: Share,
    clock: &Clock,
    live: &Live,
    parts: SyncSender<Part>,
) -> anyhow::Result<()> {
    let mut fleet = Fleet::new(target, identity.clone(), share, clock.clone())?;
    let mut work = Storm {
        live,
        clients: vec![Client::default(); share.wanted],
        sent_us: vec![0; share.wanted],
        part: Part::new(),
        collected: 0,
        parts,
        random: fastrand::Rng::new(),
    };
    fleet.hold(&mut work)?;
    fleet.close();
    Ok(())
}

#[cfg(test)]
mod tests;
