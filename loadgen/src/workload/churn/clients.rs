//! One thread's connections: each connects, says what it is to say, and is reset.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use relaymesh::clock::{Clock, Time};
use relaymesh::wire::{Kind, encode, proto};

use super::{Mix, Reset};
use crate::descriptors::leave_shared_table;
use crate::options::Target;
use crate::report::Delays;
use crate::source::Sources;

const EVENTS_PER_TURN: usize = 1024;
/// Connections of one thread that wait for something. Beyond it none is opened: the server is as far behind as that.
const WAITING_MAX: usize = 512;
/// How long a connection waits before it counts as failed; longer than the kernel takes to send a SYN again.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How many connections have addresses of their own before the first comes again.
const PLACES: u64 = 200_000;
/// What is read of a WELCOME.
const WELCOME_BYTES: usize = 1024;
/// Different reasons that are told apart.
const REASONS_MAX: usize = 16;
/// The longest sleep, and how often it is looked for connections that waited for too long.
const IDLE_TURN: Duration = Duration::from_millis(100);

/// What a thread is to do.
pub(super) struct Clients<'a> {
    pub(super) target: &'a Target,
    /// Client ids are this and one of `ids` numbers.
    pub(super) prefix: &'a str,
    pub(super) ids: u32,
    pub(super) mix: Mix,
    /// Which of the `threads` this is.
    pub(super) nth: usize,
    pub(super) threads: usize,
    /// Connections a second, of all threads.
    pub(super) rate: u32,
    pub(super) length: Duration,
    pub(super) sources: Sources,
    /// Ends it early.
    pub(super) stop: &'a AtomicBool,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Churned {
    pub(super) reset: u64,
    pub(super) at_once: u64,
    pub(super) after_hello: u64,
    pub(super) after_welcome: u64,
    pub(super) failed: u64,
    /// From when each was due until it was reset.
    pub(super) connected: Delays,
    /// When the last was, from the beginning.
    pub(super) last: Duration,
    pub(super) reasons: BTreeMap<String, u64>,
}

impl Churned {
    /// Nothing.
    pub(super) fn new() -> Self {
        Self {
            reset: 0,
            at_once: 0,
            after_hello: 0,
            after_welcome: 0,
            failed: 0,
            connected: Delays::new(),
            last: Duration::ZERO,
            reasons: BTreeMap::new(),
        }
    }

    /// Adds what came of another thread's.
    pub(super) fn add(&mut self, other: Self) {
        self.reset += other.reset;
        self.at_once += other.at_once;
        self.after_hello += other.after_hello;
        self.after_welcome += other.after_welcome;
        self.failed += other.failed;
        self.connected.add(&other.connected);
        self.last = self.last.max(other.last);
        for (reason, times) in other.reasons {
            *self.reasons.entry(reason).or_default() += times;
        }
    }
}

/// A connection that is not to be reset yet.
struct Waiting {
    stream: TcpStream,
    reset: Reset,
    hello_sent: bool,
    number: u64,
    due_us: u64,
}

struct Churn<'a> {
    clients: &'a Clients<'a>,
    poll: Poll,
    clock: Clock,
    waiting: Vec<Option<Waiting>>,
    free: Vec<usize>,
    churned: Churned,
}

impl Clients<'_> {
    /// Makes the thread's connections, in a descriptor table of its own.
    ///
    /// # Errors
    /// When the thread gets no table or no poller.
    pub(super) fn churn(&self) -> anyhow::Result<Churned> {
        leave_shared_table().context("cannot give a thread its own descriptor table")?;
        let mut churn = Churn {
            clients: self,
            poll: Poll::new().context("cannot make a poller")?,
            clock: Clock::starting_at(Time(0)),
            waiting: (0..WAITING_MAX).map(|_| None).collect(),
            free: (0..WAITING_MAX).collect(),
            churned: Churned::new(),
        };
        churn.run()?;
        Ok(churn.churned)
    }

    /// When this thread's connection of a number is due.
    fn due_us(&self, number: u64) -> u64 {
        let in_run = u128::from(number) * self.threads as u128 + self.nth as u128;
        (in_run * 1_000_000 / u128::from(self.rate)) as u64
    }

    fn hello(&self, number: u64) -> Vec<u8> {
        let id = (number * self.threads as u64 + self.nth as u64) % u64::from(self.ids);
        let hello = proto::Hello {
            version_min: 1,
            version_max: 1,
            namespace: self.target.namespace.to_string(),
            client_id: format!("{}{id}", self.prefix),
            credential: self.target.token.clone().into_bytes(),
            ..proto::Hello::default()
        };
        let mut out = Vec::new();
        encode(&mut out, Kind::Hello, &hello);
        out
    }
}

impl Churn<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let length_us = self.clients.length.as_micros() as u64;
        let (mut next, mut looked_us) = (0, 0);
        while !self.clients.stop.load(Ordering::Relaxed) {
            let now_us = self.clock.micros();
            let is_over = self.clients.due_us(next) >= length_us;
            if is_over && self.free.len() == WAITING_MAX {
                break;
            }
            while self.clients.due_us(next) <= now_us
                && self.clients.due_us(next) < length_us
                && !self.free.is_empty()
            {
                self.open(next)?;
                next += 1;
            }
            let until_due =
                Duration::from_micros(self.clients.due_us(next).saturating_sub(self.clock.micros()));
            let is_paced = !is_over && !self.free.is_empty();
            match self
                .poll
                .poll(&mut events, Some(if is_paced { until_due.min(IDLE_TURN) } else { IDLE_TURN }))
            {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in events.iter() {
                self.go_on(event.token().0);
            }
            if now_us - looked_us > IDLE_TURN.as_micros() as u64 {
                looked_us = now_us;
                self.give_up();
            }
        }
        self.churned.last = Duration::from_micros(self.clock.micros());
        Ok(())
    }

    fn open(&mut self, number: u64) -> anyhow::Result<()> {
        let Clients { sources, target, mix, nth, threads, .. } = self.clients;
        let place = (number % PLACES) as usize * threads + nth;
        // Its end is a RST: nothing of it stays here, not even its port.
        let reset_at_close = |socket: &socket2::Socket| socket.set_linger(Some(Duration::ZERO));
        let stream = match sources.connect_shaped(target.connect, place, 0, reset_at_close) {
            Ok(socket) => TcpStream::from_std(socket.into()),
            Err(error) => {
                self.fail(&error.to_string());
                return Ok(());
            }
        };
        let due_us = self.clients.due_us(number);
        let waiting = Waiting { stream, reset: mix.of(number), hello_sent: false, number, due_us };
        // On loopback most are connected by now, and need no poller.
        let Some(mut waiting) = self.advance(waiting) else { return Ok(()) };
        let Some(slot) = self.free.pop() else { bail!("more connections wait than there is room for") };
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut waiting.stream, Token(slot), both)?;
        self.waiting[slot] = Some(waiting);
        Ok(())
    }

    fn go_on(&mut self, slot: usize) {
        let Some(waiting) = self.waiting[slot].take() else { return };
        self.waiting[slot] = self.advance(waiting);
        if self.waiting[slot].is_none() {
            self.free.push(slot);
        }
    }

    /// Goes on with a connection as far as it goes; returns it if it has to wait.
    fn advance(&mut self, mut waiting: Waiting) -> Option<Waiting> {
        match self.step(&mut waiting) {
            Ok(true) => {
                match waiting.reset {
                    Reset::AtOnce => self.churned.at_once += 1,
                    Reset::AfterHello => self.churned.after_hello += 1,
                    Reset::AfterWelcome => self.churned.after_welcome += 1,
                }
                // Dropping it closes it, and closing it resets it.
                drop(waiting.stream);
                self.churned.reset += 1;
                self.churned.connected.record(self.clock.micros().saturating_sub(waiting.due_us));
                None
            }
            Ok(false) => Some(waiting),
            Err(error) => {
                self.fail(&format!("{error:#}"));
                None
            }
        }
    }

    /// Whether it is time to reset it.
    fn step(&mut self, waiting: &mut Waiting) -> anyhow::Result<bool> {
        let not_yet =
            |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected);
        if waiting.reset == Reset::AtOnce {
            if let Some(error) = waiting.stream.take_error()? {
                return Err(error.into());
            }
            return Ok(waiting.stream.peer_addr().is_ok());
        }
        if !waiting.hello_sent {
            // A fresh socket takes it whole.
            match waiting.stream.write(&self.clients.hello(waiting.number)) {
                Err(error) if not_yet(&error) => return Ok(false),
                result => result?,
            };
            waiting.hello_sent = true;
        }
        if waiting.reset == Reset::AfterHello {
            return Ok(true);
        }
        let mut buffer = [0; WELCOME_BYTES];
        match waiting.stream.read(&mut buffer) {
            Ok(0) => Err(anyhow!("closed before WELCOME")),
            Ok(_) if buffer[0] == Kind::Welcome as u8 => Ok(true),
            Ok(_) => Err(anyhow!("not welcomed")),
            Err(error) if not_yet(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Those that waited for too long have failed.
    fn give_up(&mut self) {
        let too_long_ago = self.clock.micros().saturating_sub(WAIT_MAX.as_micros() as u64);
        for slot in 0..self.waiting.len() {
            if self.waiting[slot].take_if(|waiting| waiting.due_us < too_long_ago).is_some() {
                self.free.push(slot);
                self.fail("nothing came of it in time");
            }
        }
    }

    fn fail(&mut self, reason: &str) {
        self.churned.failed += 1;
        let is_room = self.churned.reasons.len() < REASONS_MAX || self.churned.reasons.contains_key(reason);
        let reason = if is_room { reason } else { "other reasons" };
        *self.churned.reasons.entry(reason.to_owned()).or_default() += 1;
    }
}
