//! The event loop that drives the connections of a run, or of one thread's share of it.
//!
//! Each connection is the SDK's machine on a nonblocking socket. Sockets are edge-triggered: they are read until a
//! short read, and written once per turn. What the connections do is the [`Workload`]'s business, also what becomes of
//! the run when one is refused or lost.

mod alarm;
mod ending;
mod opening;
mod share;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use relaymesh::client::{Event, Inbound, Machine};
use relaymesh::clock::{Clock, Time};
use relaymesh::ids::ClientId;
use relaymesh::wheel::{TimerId, Wheel};
use relaymesh::wire::proto;

use crate::options::Target;
use crate::report::Delays;

pub(crate) use alarm::{ALARM, Alarm};
pub(crate) use ending::Ending;
pub(crate) use share::{Identity, Share};

use share::moment;

const READ_BUFFER_BYTES: usize = 256 * 1024;
const EVENTS_PER_TURN: usize = 1024;
/// Connections whose handshake is under way, over all threads of a run.
const HANDSHAKES_MAX: usize = 2048;
/// The longest sleep of a fleet that has nothing to do.
const IDLE_TURN: Duration = Duration::from_millis(100);
/// With a ramp, connections that fall due within this time are opened together.
const RAMP_TURN: Duration = Duration::from_millis(10);
/// Connections made again in a turn: what has arrived on the others is read in between, however many come back at once.
const RECONNECTS_PER_TURN: usize = 128;
/// A thread that is so late with a timer may be late with what has arrived as well.
const STALL: Duration = Duration::from_millis(100);
/// How long a connection waits before it is tried again, where the server named no slot; doubled each time.
const RETRY_INITIAL: Duration = Duration::from_millis(200);
/// The longest such wait, also where the server named a later slot.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the connections of a run do.
pub(crate) trait Workload {
    /// A connection was welcomed.
    ///
    /// # Errors
    /// Ends the run.
    fn welcomed(&mut self, link: &mut Link<'_>) -> anyhow::Result<()>;

    /// The server said something else on it.
    ///
    /// # Errors
    /// Ends the run.
    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()>;

    /// All connections are welcomed: the measurement begins. Called once, then [`Workload::start`] for each.
    fn begin(&mut self, now_us: u64);

    /// The connection may begin its work.
    ///
    /// # Errors
    /// Ends the run.
    fn start(&mut self, link: &mut Link<'_>) -> anyhow::Result<()>;

    /// Called every turn; returns when the next is wanted at the latest, or `None` when the run is over.
    fn turn(&mut self, now_us: u64) -> Option<Duration>;

    /// Connections to be called with [`Workload::start`] again, because they are due to send.
    fn next_due(&mut self, _now_us: u64) -> Option<usize> {
        None
    }

    /// The connection sent a heartbeat by itself, which was due at `due`.
    fn pinged(&mut self, _link: &mut Link<'_>, _due: Time) {}

    /// Whether a connection that was welcomed keeps silent from here on: it stays open and is read, but sends no heartbeat, and
    /// does not give up by itself.
    fn is_silent(&self, _number: usize) -> bool {
        false
    }

    /// A connection is being opened: what HELLO says beside the usual.
    fn hello(&mut self, _number: usize, _now_us: u64, _hello: &mut proto::Hello) {}

    /// What WELCOME said, before [`Workload::welcomed`].
    fn greeted(&mut self, _number: usize, _welcome: &proto::Welcome) {}

    /// A connection has ended, or got no WELCOME: when it is made again, if the workload decides that. Otherwise it is
    /// lost, or tried again as often as the run says.
    fn come_back(
        &mut self,
        _number: usize,
        _now: Time,
        _was_welcomed: bool,
        _ending: &Ending,
    ) -> Option<Time> {
        None
    }

    /// A connection got no WELCOME and is tried again.
    fn retried(&mut self, _number: usize) {}

    /// A connection got no WELCOME and is given up.
    ///
    /// # Errors
    /// Ends the run.
    fn failed(&mut self, number: usize, why: anyhow::Error) -> anyhow::Result<()> {
        Err(why.context(format!("connection {number}")))
    }

    /// A connection that was welcomed has ended.
    ///
    /// # Errors
    /// Ends the run.
    fn lost(&mut self, number: usize, _now_us: u64, ending: Ending) -> anyhow::Result<()> {
        Err(ending.why.context(format!("connection {number}")))
    }
}

/// One connection in the hands of a workload.
pub(crate) struct Link<'a> {
    /// Its number, from 0.
    pub(crate) number: usize,
    /// Its state; requests append to `out`.
    pub(crate) machine: &'a mut Machine,
    /// What is to be sent.
    pub(crate) out: &'a mut Vec<u8>,
    /// The time in milliseconds.
    pub(crate) now: Time,
    /// The time in microseconds.
    pub(crate) now_us: u64,
}

struct Connection {
    /// `None`: waits for its next attempt, or is given up or lost.
    stream: Option<TcpStream>,
    machine: Machine,
    out: Vec<u8>,
    sent: usize,
    dirty: bool,
    attempts: u32,
    started_us: u64,
    timer: Option<TimerId>,
}

/// The connections of a run, or a thread's share of them, and their loop.
pub(crate) struct Fleet {
    target: Target,
    identity: Identity,
    share: Share,
    poll: Poll,
    alarm: Alarm,
    clock: Clock,
    wheel: Wheel,
    inbound: Inbound,
    buffer: Vec<u8>,
    connections: Vec<Connection>,
    dirty: Vec<usize>,
    /// Connections whose time to be made again has come.
    coming_back: VecDeque<usize>,
    handshaking: usize,
    /// Connections that were welcomed or given up.
    settled: usize,
    /// How long each handshake took, from connecting to WELCOME.
    pub(crate) handshakes: Delays,
    last_answer_us: u64,
}

impl Fleet {
    /// Share of a run, none of its connections open yet. Times count from `clock`'s origin.
    ///
    /// # Errors
    /// When the system gives no poller.
    pub(crate) fn new(
        target: &Target,
        identity: Identity,
        share: Share,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let poll = Poll::new().context("cannot make a poller")?;
        Ok(Self {
            target: target.clone(),
            identity,
            share,
            alarm: Alarm::new(poll.registry()).context("cannot make a timer")?,
            poll,
            wheel: Wheel::new(clock.time()),
            clock,
            inbound: Inbound::new(),
            buffer: vec![0; READ_BUFFER_BYTES],
            connections: Vec::with_capacity(share.wanted),
            dirty: Vec::new(),
            coming_back: VecDeque::new(),
            handshaking: 0,
            settled: 0,
            handshakes: Delays::new(),
            last_answer_us: 0,
        })
    }

    /// Microseconds since the clock's origin.
    pub(crate) fn now_us(&self) -> u64 {
        self.clock.micros()
    }

    /// Opens all connections and waits until all are welcomed; returns how long that took.
    ///
    /// # Errors
    /// What the workload says of a connection that is refused or lost, or nothing moves for the target's patience.
    pub(crate) fn open(&mut self, workload: &mut impl Workload) -> anyhow::Result<Duration> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let start_us = self.now_us();
        self.last_answer_us = start_us;
        while self.settled < self.share.wanted {
            let wait = self.open_due(start_us, workload)?;
            self.flush(workload)?;
            self.turn(&mut events, wait, workload)?;
            self.check_patience("a handshake")?;
        }
        Ok(Duration::from_micros(self.now_us() - start_us))
    }

    /// Runs the workload on the open connections until it says it is over.
    ///
    /// # Errors
    /// As [`Fleet::open`], or nothing is answered for the target's patience.
    pub(crate) fn run(&mut self, workload: &mut impl Workload) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        workload.begin(self.now_us());
        for number in 0..self.connections.len() {
            self.start(number, workload)?;
        }
        self.last_answer_us = self.now_us();
        while let Some(timeout) = workload.turn(self.now_us()) {
            while let Some(number) = workload.next_due(self.clock.micros()) {
                self.start(number, workload)?;
            }
            self.flush(workload)?;
            self.turn(&mut events, timeout, workload)?;
            self.check_patience("an answer")?;
        }
        Ok(())
    }

    /// Opens the connections at their pace and keeps them up until the workload says it is over.
    ///
    /// # Errors
    /// What the workload says of a connection that is refused or lost.
    pub(crate) fn hold(&mut self, workload: &mut impl Workload) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let start_us = self.now_us();
        while let Some(timeout) = workload.turn(self.now_us()) {
            let wait = self.open_due(start_us, workload)?;
            self.flush(workload)?;
            self.turn(&mut events, timeout.min(wait), workload)?;
        }
        Ok(())
    }

    /// Says goodbye on every connection and closes them.
    pub(crate) fn close(mut self) {
        for connection in &mut self.connections {
            let Some(stream) = &mut connection.stream else { continue };
            connection.machine.bye(None, &mut connection.out);
            // A server that does not take it now sees the end of the stream instead.
            let _ = stream.write(&connection.out[connection.sent..]);
        }
    }

    fn start(&mut self, number: usize, workload: &mut impl Workload) -> anyhow::Result<()> {
        let (now, now_us) = (self.clock.time(), self.clock.micros());
        let Connection { machine, out, .. } = &mut self.connections[number];
        workload.start(&mut Link { number, machine, out, now, now_us })?;
        self.mark_dirty(number);
        Ok(())
    }

    /// Opens the connections that are due; returns when to call again at the latest.
    fn open_due(&mut self, start_us: u64, workload: &mut impl Workload) -> anyhow::Result<Duration> {
        let opened = self.connections.len();
        let elapsed_us = self.now_us() - start_us;
        let due = match u64::from(self.identity.ramp) {
            0 => self.share.wanted,
            ramp => {
                let whole = usize::try_from(elapsed_us * ramp / 1_000_000).unwrap_or(usize::MAX);
                self.share.of(whole.min(self.share.total).max(1))
            }
        };
        let due = due.min(self.share.wanted);
        let handshakes_max = self.share.of(HANDSHAKES_MAX).max(1);
        for number in opened..due {
            if self.handshaking >= handshakes_max {
                break;
            }
            self.connect(number, workload)?;
        }
        let is_paced = self.connections.len() < self.share.wanted && self.handshaking < handshakes_max;
        Ok(if is_paced { RAMP_TURN } else { IDLE_TURN })
    }

    /// Makes an attempt of connection `number`, its first when it has no place yet.
    fn connect(&mut self, number: usize, workload: &mut impl Workload) -> anyhow::Result<()> {
        let (now, now_us) = (self.clock.time(), self.now_us());
        let in_run = self.share.first + number;
        let client = ClientId::parse(&format!("{}{in_run}", self.identity.prefix))?;
        let mut hello = opening::hello(&self.target, &self.identity, &client);
        workload.hello(number, now_us, &mut hello);
        let mut out = Vec::new();
        let mut machine = Machine::new(now, &hello, &mut out);
        if self.identity.held {
            opening::subscribe(&self.identity, &client, &mut machine, &mut out)?;
        }
        let timer = machine.next_deadline().map(|at| self.wheel.insert(at, number as u32));
        let attempts = self.connections.get(number).map_or(0, |connection| connection.attempts);
        let connection = Connection {
            stream: None,
            machine,
            out,
            sent: 0,
            dirty: false,
            attempts: attempts + 1,
            started_us: now_us,
            timer,
        };
        match self.connections.get_mut(number) {
            Some(place) => *place = connection,
            None => self.connections.push(connection),
        }
        self.handshaking += 1;
        match self.open_socket(number, in_run, attempts) {
            Ok(stream) => self.connections[number].stream = Some(stream),
            Err(error) => return self.end(number, error.into(), workload),
        }
        self.mark_dirty(number);
        Ok(())
    }

    fn open_socket(&self, number: usize, in_run: usize, attempt: u32) -> anyhow::Result<TcpStream> {
        let to = self.target.connect;
        let socket = self.share.sources.connect(to, in_run, attempt as usize);
        let mut stream =
            TcpStream::from_std(socket.with_context(|| format!("cannot connect to {to}"))?.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(number), interest)?;
        Ok(stream)
    }

    /// The connection is over: it is tried again, or the workload is told.
    fn end(&mut self, number: usize, ending: Ending, workload: &mut impl Workload) -> anyhow::Result<()> {
        let connection = &mut self.connections[number];
        if let Some(timer) = connection.timer.take() {
            self.wheel.cancel(timer);
        }
        let was_welcomed = connection.machine.heartbeat() > Duration::ZERO;
        // Closing takes it out of the poller too. What the poller has said about it already finds no stream.
        connection.stream = None;
        (connection.out, connection.sent) = (Vec::new(), 0);
        if let Some(at) = workload.come_back(number, self.clock.time(), was_welcomed, &ending) {
            connection.timer = Some(self.wheel.insert(at, number as u32));
            self.handshaking -= usize::from(!was_welcomed);
            return Ok(());
        }
        if was_welcomed {
            return workload.lost(number, self.clock.micros(), ending);
        }
        self.handshaking -= 1;
        if ending.is_final() || connection.attempts > self.identity.retries {
            self.settled += 1;
            return workload.failed(number, ending.why);
        }
        let wait = RETRY_INITIAL * 2_u32.saturating_pow(connection.attempts - 1);
        let wait = wait.max(ending.come_back_after).min(RETRY_MAX).mul_f64(1.0 + 0.3 * fastrand::f64());
        connection.timer = Some(self.wheel.insert(self.clock.time() + wait, number as u32));
        workload.retried(number);
        Ok(())
    }

    fn turn(
        &mut self,
        events: &mut Events,
        timeout: Duration,
        workload: &mut impl Workload,
    ) -> anyhow::Result<()> {
        let timer = self.wheel.next_deadline().map_or(timeout, |at| at - self.clock.time());
        let wait = if self.coming_back.is_empty() { timeout.min(timer) } else { Duration::ZERO };
        self.alarm.ring_in(wait)?;
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in events.iter().filter(|event| event.token() != ALARM) {
            let number = event.token().0;
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read(number, workload)?;
            }
            if event.is_writable() {
                self.mark_dirty(number);
            }
        }
        self.fire_timers(workload)?;
        self.reconnect(workload)?;
        self.flush(workload)
    }

    /// Makes some of the connections again whose time has come.
    fn reconnect(&mut self, workload: &mut impl Workload) -> anyhow::Result<()> {
        for _ in 0..RECONNECTS_PER_TURN {
            let Some(number) = self.coming_back.pop_front() else { break };
            self.connect(number, workload)?;
        }
        Ok(())
    }

    fn read(&mut self, number: usize, workload: &mut impl Workload) -> anyhow::Result<()> {
        loop {
            let Some(stream) = &mut self.connections[number].stream else { return Ok(()) };
            let read = match stream.read(&mut self.buffer) {
                Ok(0) => return self.end(number, anyhow!("the server closed it").into(), workload),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return self.end(number, anyhow::Error::from(error).into(), workload),
            };
            if let Some(ending) = self.take(number, read, workload)? {
                return self.end(number, ending, workload);
            }
            self.mark_dirty(number);
            if read < self.buffer.len() {
                return Ok(());
            }
        }
    }

    /// Takes the `read` bytes in the buffer; returns how the connection ended if it did.
    ///
    /// # Errors
    /// What the workload says.
    fn take(
        &mut self,
        number: usize,
        read: usize,
        workload: &mut impl Workload,
    ) -> anyhow::Result<Option<Ending>> {
        let (now, now_us) = (self.clock.time(), self.clock.micros());
        self.last_answer_us = now_us;
        let mut input = &self.buffer[..read];
        loop {
            let Connection { machine, out, timer, started_us, .. } = &mut self.connections[number];
            let Some(event) = machine.next_event(now, &mut self.inbound, &mut input) else { return Ok(None) };
            match event {
                Event::Welcomed(welcome) => {
                    workload.greeted(number, &welcome);
                    self.handshaking -= 1;
                    self.settled += 1;
                    self.handshakes.record(now_us - *started_us);
                    if self.identity.held {
                        machine.next_ping_at(now, moment(now, machine.heartbeat(), number, &self.share));
                    }
                    if let (Some(timer), Some(at)) = (*timer, machine.next_deadline()) {
                        self.wheel.move_to(timer, at);
                    }
                    workload.welcomed(&mut Link { number, machine, out, now, now_us })?;
                }
                Event::Rejected(reject) => {
                    return Ok(Some(Ending::rejected(&reject)));
                }
                Event::ServerError(error) => {
                    return Ok(Some(Ending::told(&error)));
                }
                Event::GoAway(goaway) => return Ok(Some(Ending::sent_away(&goaway))),
                Event::Broken(broken) => return Ok(Some(anyhow::Error::from(broken).into())),
                // Of a message that is delivered in parts a workload sees the whole.
                Event::Part => {}
                event => workload.event(&mut Link { number, machine, out, now, now_us }, event)?,
            }
        }
    }

    fn fire_timers(&mut self, workload: &mut impl Workload) -> anyhow::Result<()> {
        let (now, now_us) = (self.clock.time(), self.now_us());
        while let Some((_, key)) = self.wheel.pop_expired(now) {
            let number = key as usize;
            self.connections[number].timer = None;
            if self.connections[number].stream.is_none() {
                self.coming_back.push_back(number);
                continue;
            }
            let machine = &self.connections[number].machine;
            let is_welcome = !machine.heartbeat().is_zero();
            if is_welcome && workload.is_silent(number) {
                continue;
            }
            if !is_welcome || machine.next_deadline().is_some_and(|due| due + STALL < now) {
                // What it waits for may be here and not yet read.
                self.read(number, workload)?;
                if self.connections[number].stream.is_none() {
                    continue;
                }
            }
            let connection = &mut self.connections[number];
            let Connection { machine, out, .. } = connection;
            let before = out.len();
            let due = machine.next_deadline().unwrap_or(now);
            let result = machine.handle_timeout(now, out);
            if let Err(silence) = result {
                self.end(number, anyhow::Error::from(silence).into(), workload)?;
                continue;
            }
            if out.len() > before {
                workload.pinged(&mut Link { number, machine, out, now, now_us }, due);
            }
            connection.timer = connection.machine.next_deadline().map(|at| self.wheel.insert(at, key));
            self.mark_dirty(number);
        }
        Ok(())
    }

    fn mark_dirty(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        if !connection.dirty && !connection.out.is_empty() {
            connection.dirty = true;
            self.dirty.push(number);
        }
    }

    fn flush(&mut self, workload: &mut impl Workload) -> anyhow::Result<()> {
        while let Some(number) = self.dirty.pop() {
            let connection = &mut self.connections[number];
            connection.dirty = false;
            if let Err(error) = connection.write() {
                // What the server said before it closed tells more than that it closed.
                self.read(number, workload)?;
                if self.connections[number].stream.is_some() {
                    self.end(number, anyhow::Error::from(error).into(), workload)?;
                }
                continue;
            }
            if connection.sent == connection.out.len() {
                connection.sent = 0;
                connection.out.clear();
                if self.identity.held || connection.out.capacity() > 4096 && self.share.wanted > 1000 {
                    connection.out = Vec::new();
                }
            }
        }
        Ok(())
    }

    fn check_patience(&self, what: &str) -> anyhow::Result<()> {
        let waited = Duration::from_micros(self.now_us() - self.last_answer_us);
        if self.target.patience < waited && !self.connections.is_empty() {
            bail!("the server did not give {what} for {waited:.1?}; see --patience");
        }
        Ok(())
    }
}

impl Connection {
    /// Writes what the socket takes. While it is connecting or full it takes nothing; its next edge marks it dirty
    /// again.
    fn write(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.sent < self.out.len() {
            match stream.write(&self.out[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
