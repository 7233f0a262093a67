//! One thread's hostile clients, each in the same way until the server closes it.
//!
//! A silent one connects and says nothing: the server has to close it at its handshake deadline, and it sees that by
//! reading. A non-reader says HELLO, reads the WELCOME, subscribes to its mailbox, has somebody push it a message that fills
//! its small receive buffer and the server's send buffer ([`super::feeder`]), and reads nothing any more: the server has to
//! close it when nothing was taken for its write stall deadline. A server that resets it is seen at once. One that closes it
//! in order cannot tell it, for nothing that it sends arrives; so a non-reader whose deadline is over writes now and then:
//! once its socket is gone at the server, the answer is a reset.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use relaymesh::clock::{Clock, Time};
use relaymesh::ids::QueueName;
use relaymesh::wheel::Wheel;
use relaymesh::wire::{Codec, EMPTY_PING, Kind, ServerFrame, Split, encode, proto, split};
use socket2::Socket;

use super::feeder::Hungry;
use crate::descriptors::leave_shared_table;
use crate::options::Target;
use crate::report::Delays;
use crate::source::Sources;

const EVENTS_PER_TURN: usize = 1024;
/// Connections on their way at once: fewer than an accept queue holds.
const CONNECTING_MAX: usize = 512;
/// How small a non-reader makes its receive buffer, and its segments, which are those of an ordinary network: over loopback
/// they would be larger, and with them the server's send buffer. So few bytes fill both, and ten thousand such clients do not
/// fill the kernel's memory.
const DEAF_RECEIVE_BYTES: usize = 2048;
const DEAF_SEGMENT_BYTES: u32 = 1400;
/// A non-reader that is still there writes from this long after its deadline on: a server that closes it in order keeps the
/// socket for a second.
const PROBE_AFTER: Duration = Duration::from_millis(1250);
/// How often it then writes.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// A server counts from the beginning of the turn in which it heard of a client: this part of the deadline is not early.
const EARLY_PART: u32 = 20;
/// How long after its deadline a client that is still there counts as left.
const LEFT_AFTER: Duration = Duration::from_secs(30);
/// The longest sleep while clients come in: with a rate they come one by one rather than in crowds.
const COMING_TURN: Duration = Duration::from_millis(1);
/// The longest sleep.
const IDLE_TURN: Duration = Duration::from_millis(100);
/// Largest frame that a server says before it closes.
const LAST_FRAME_BYTES_MAX: usize = 4096;
/// Different reasons that are told apart.
const REASONS_MAX: usize = 16;

/// How a client is hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Says nothing.
    Silent,
    /// Never reads what it is pushed.
    Deaf,
}

/// The hostile clients of one thread.
#[derive(Debug)]
pub(super) struct Attack {
    pub(super) manner: Manner,
    pub(super) clients: usize,
    /// How many of them come in a second; 0 for as fast as it goes.
    pub(super) ramp: u32,
    /// Who pushes to those that do not read.
    pub(super) hungry: Option<Hungry>,
    /// The number of the first among all connections of the run, which decides where it comes from.
    pub(super) first: usize,
    pub(super) sources: Sources,
    /// Client ids are this and a number.
    pub(super) prefix: String,
    /// When the server has to close one, from when it began to be hostile.
    pub(super) deadline: Duration,
}

/// What came of them.
#[derive(Debug)]
pub(super) struct Attacked {
    /// Those that were there to be closed at their deadline.
    pub(super) open: u64,
    /// How long after its deadline each was gone, in microseconds.
    pub(super) late: Delays,
    /// Gone before their deadline.
    pub(super) early: u64,
    /// Never gone.
    pub(super) left: u64,
    /// What the server, or the system, said to those that were turned away or gone early.
    pub(super) reasons: BTreeMap<String, u64>,
}

impl Attacked {
    /// Nobody.
    pub(super) fn new() -> Self {
        Self { open: 0, late: Delays::new(), early: 0, left: 0, reasons: BTreeMap::new() }
    }

    /// Adds what came of another thread's.
    pub(super) fn add(&mut self, other: Self) {
        self.open += other.open;
        self.late.add(&other.late);
        self.early += other.early;
        self.left += other.left;
        for (reason, times) in other.reasons {
            *self.reasons.entry(reason).or_default() += times;
        }
    }

    fn because(&mut self, reason: &str) {
        let is_room = self.reasons.len() < REASONS_MAX || self.reasons.contains_key(reason);
        let reason = if is_room { reason } else { "other reasons" };
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
    }
}

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    AwaitingWelcome,
    /// Hostile since then, in microseconds.
    Hostile {
        since_us: u64,
    },
}

struct Client {
    stream: TcpStream,
    /// When it began to connect: no server can have heard of it before.
    started_us: u64,
    stage: Stage,
    /// What it has to say and the socket has not taken.
    unsent: Vec<u8>,
}

struct Attackers<'a> {
    attack: Attack,
    target: &'a Target,
    /// `None` once all have been told of.
    hungry: Option<Hungry>,
    /// Clients of all threads that are hostile, or were turned away.
    settled: &'a AtomicU64,
    /// Those of this thread.
    settled_here: usize,
    poll: Poll,
    clock: Clock,
    wheel: Wheel,
    codec: Codec,
    buffer: Vec<u8>,
    /// By number; `None` once it is gone.
    clients: Vec<Option<Client>>,
    connecting: usize,
    /// Those that are not gone.
    there: usize,
    attacked: Attacked,
}

/// Makes the attack on a thread with a descriptor table of its own, until all clients are gone or count as left. Counts in
/// `settled` those that are hostile or were turned away.
///
/// # Errors
/// When the thread gets no table or no poller.
pub(super) fn attack(mut attack: Attack, target: &Target, settled: &AtomicU64) -> anyhow::Result<Attacked> {
    leave_shared_table().context("cannot give a thread its own descriptor table")?;
    super::let_others_go_first();
    let clock = Clock::starting_at(Time(0));
    let mut attackers = Attackers {
        clients: Vec::with_capacity(attack.clients),
        target,
        hungry: attack.hungry.take(),
        settled,
        settled_here: 0,
        poll: Poll::new().context("cannot make a poller")?,
        wheel: Wheel::new(clock.time()),
        clock,
        codec: Codec::new(),
        buffer: vec![0; LAST_FRAME_BYTES_MAX],
        attack,
        connecting: 0,
        there: 0,
        attacked: Attacked::new(),
    };
    attackers.run()?;
    Ok(attackers.attacked)
}

impl Attackers<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while self.clients.len() < self.attack.clients || self.there > 0 {
            let due = self.due();
            while self.clients.len() < due && self.connecting < CONNECTING_MAX {
                self.connect()?;
            }
            if self.settled_here == self.attack.clients {
                self.hungry = None;
            }
            let idle = if self.clients.len() < self.attack.clients { COMING_TURN } else { IDLE_TURN };
            let wait = self.wheel.next_deadline().map_or(idle, |at| (at - self.clock.time()).min(idle));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in events.iter() {
                self.go_on(event);
            }
            while let Some((_, number)) = self.wheel.pop_expired(self.clock.time()) {
                self.look_after(number as usize);
            }
        }
        Ok(())
    }

    /// How many are to have come by now.
    fn due(&self) -> usize {
        if self.attack.ramp == 0 {
            return self.attack.clients;
        }
        let due = self.clock.micros() * u64::from(self.attack.ramp) / 1_000_000 + 1;
        self.attack.clients.min(usize::try_from(due).unwrap_or(usize::MAX))
    }

    /// One more is hostile, or was turned away.
    fn settle(&mut self) {
        self.settled_here += 1;
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        let number = self.clients.len();
        let shape = |socket: &Socket| {
            if self.attack.manner != Manner::Silent {
                socket.set_recv_buffer_size(DEAF_RECEIVE_BYTES)?;
                #[cfg(unix)]
                socket.set_tcp_mss(DEAF_SEGMENT_BYTES)?;
            }
            Ok(())
        };
        let in_run = self.attack.first + number;
        let started_us = self.clock.micros();
        let socket = match self.attack.sources.connect_shaped(self.target.connect, in_run, 0, shape) {
            Ok(socket) => socket,
            Err(error) => {
                self.attacked.because(&error.to_string());
                self.settle();
                self.clients.push(None);
                return Ok(());
            }
        };
        let mut stream = TcpStream::from_std(socket.into());
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(number), both)?;
        self.clients.push(Some(Client { stream, started_us, stage: Stage::Connecting, unsent: Vec::new() }));
        self.connecting += 1;
        self.there += 1;
        Ok(())
    }

    /// The poller has something to say about a client.
    fn go_on(&mut self, event: &Event) {
        let number = event.token().0;
        let Some(Some(client)) = self.clients.get_mut(number) else { return };
        if event.is_error() {
            let why = client.stream.take_error().ok().flatten();
            return self.gone(number, why.map_or("reset".to_owned(), |error| error.to_string()));
        }
        match client.stage {
            Stage::Connecting if client.stream.peer_addr().is_err() => {}
            Stage::Connecting => self.connected(number),
            Stage::AwaitingWelcome => self.read_welcome(number),
            Stage::Hostile { .. } if self.attack.manner == Manner::Silent => self.read_end(number),
            Stage::Hostile { .. } if event.is_read_closed() => self.gone(number, "closed".to_owned()),
            Stage::Hostile { .. } => self.send(number),
        }
    }

    fn connected(&mut self, number: usize) {
        self.connecting -= 1;
        if self.attack.manner == Manner::Silent {
            return self.be_hostile(number);
        }
        let hello = proto::Hello {
            version_min: 1,
            version_max: 1,
            namespace: self.target.namespace.to_string(),
            client_id: self.client_id(number),
            credential: self.target.token.clone().into_bytes(),
            ..proto::Hello::default()
        };
        let Some(Some(client)) = self.clients.get_mut(number) else { return };
        client.stage = Stage::AwaitingWelcome;
        encode(&mut client.unsent, Kind::Hello, &hello);
        self.send(number);
    }

    fn client_id(&self, number: usize) -> String {
        format!("{}{}", self.attack.prefix, self.attack.first + number)
    }

    fn read_welcome(&mut self, number: usize) {
        let Some(Some(client)) = self.clients.get_mut(number) else { return };
        match client.stream.read(&mut self.buffer) {
            Ok(0) => self.gone(number, "closed before WELCOME".to_owned()),
            Ok(read) if self.buffer.first() == Some(&(Kind::Welcome as u8)) && read > 1 => {
                let mailbox = format!("{}{}", QueueName::MAILBOX_PREFIX, self.client_id(number));
                let subscribe = proto::Subscribe {
                    seq: 1,
                    subscription: 1,
                    queue: mailbox,
                    credit_messages: 1,
                    credit_bytes: 0,
                };
                let Some(Some(client)) = self.clients.get_mut(number) else { return };
                encode(&mut client.unsent, Kind::Subscribe, &subscribe);
                self.be_hostile(number);
                self.send(number);
                self.ask_for_a_push(number);
            }
            Ok(read) => {
                let why = self.last_words(read);
                self.gone(number, why);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.gone(number, error.to_string()),
        }
    }

    fn ask_for_a_push(&mut self, number: usize) {
        let client_id = self.client_id(number);
        // A feeder that is gone says why itself.
        if let Some(hungry) = &self.hungry {
            let _ = hungry.send(client_id);
        }
    }

    /// Its deadline runs: for a silent one since it connected, for another from now on.
    fn be_hostile(&mut self, number: usize) {
        let now_us = self.clock.micros();
        let Some(Some(client)) = self.clients.get_mut(number) else { return };
        let (since_us, look) = match self.attack.manner {
            Manner::Silent => (client.started_us, self.attack.deadline + LEFT_AFTER),
            Manner::Deaf => (now_us, self.attack.deadline + PROBE_AFTER),
        };
        client.stage = Stage::Hostile { since_us };
        self.attacked.open += 1;
        self.settle();
        self.wheel.insert(self.clock.time() + look, number as u32);
    }

    /// Sends what it has to say, as far as the socket takes it.
    fn send(&mut self, number: usize) {
        let Some(Some(client)) = self.clients.get_mut(number) else { return };
        while !client.unsent.is_empty() {
            match client.stream.write(&client.unsent) {
                Ok(sent) if sent == client.unsent.len() => client.unsent = Vec::new(),
                Ok(sent) => drop(client.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.gone(number, error.to_string()),
            }
        }
    }

    /// Reads what is said to a silent client: nothing but its end.
    fn read_end(&mut self, number: usize) {
        loop {
            let Some(Some(client)) = self.clients.get_mut(number) else { return };
            match client.stream.read(&mut self.buffer) {
                Ok(0) => return self.gone(number, "closed".to_owned()),
                Ok(read) => {
                    let why = self.last_words(read);
                    self.attacked.because(&why);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.gone(number, error.to_string()),
            }
        }
    }

    /// What a REJECT, ERROR or GOAWAY in the buffer says.
    fn last_words(&mut self, read: usize) -> String {
        let Ok(Split::Frame { frame, .. }) = split(&self.buffer[..read], LAST_FRAME_BYTES_MAX) else {
            return "no whole frame".to_owned();
        };
        let kind = frame.kind;
        let payload = self.codec.payload(frame, false, LAST_FRAME_BYTES_MAX);
        match payload.and_then(|payload| ServerFrame::decode(kind, payload)) {
            Ok(ServerFrame::Reject(reject)) => reject.text,
            Ok(ServerFrame::Error(error)) => error.text,
            Ok(ServerFrame::GoAway(goaway)) => goaway.text,
            _ => format!("{kind:?}"),
        }
    }

    /// Its timer fired: it is time to see whether it is still there.
    fn look_after(&mut self, number: usize) {
        let Some(Some(client)) = self.clients.get_mut(number) else { return };
        let Stage::Hostile { since_us } = client.stage else { return };
        let is_over = self.late_us(since_us) >= LEFT_AFTER.as_micros() as i64;
        let Some(Some(client)) = self.clients.get_mut(number) else { return };
        // A silent one is looked after only once, and says nothing then either.
        if is_over || self.attack.manner == Manner::Silent {
            self.attacked.left += 1;
            self.there -= 1;
            self.clients[number] = None;
            return;
        }
        match client.stream.write(&EMPTY_PING) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => self.gone(number, error.to_string()),
            _ => {
                self.wheel.insert(self.clock.time() + PROBE_EVERY, number as u32);
            }
        }
    }

    /// How long ago the deadline was of one that is hostile since then; less than 0 for one whose is to come.
    fn late_us(&self, since_us: u64) -> i64 {
        let deadline_us = since_us + self.attack.deadline.as_micros() as u64;
        self.clock.micros().cast_signed() - deadline_us.cast_signed()
    }

    /// The server, or the system, has ended it.
    fn gone(&mut self, number: usize, why: String) {
        let Some(client) = self.clients.get_mut(number).and_then(Option::take) else { return };
        self.there -= 1;
        match client.stage {
            Stage::Hostile { since_us } => {
                let late_us = self.late_us(since_us);
                if late_us >= -((self.attack.deadline / EARLY_PART).as_micros() as i64) {
                    self.attacked.late.record(late_us.try_into().unwrap_or(0));
                } else {
                    self.attacked.early += 1;
                    self.attacked.because(&why);
                }
            }
            stage => {
                self.connecting -= usize::from(stage == Stage::Connecting);
                self.settle();
                self.attacked.because(&why);
            }
        }
    }
}
