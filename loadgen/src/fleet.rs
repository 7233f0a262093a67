//! The event loop that drives all connections of a run.
//!
//! Each connection is the SDK's machine on a nonblocking socket. Sockets are edge-triggered: they are read until a
//! short read, and written once per turn. What the connections do is the [`Workload`]'s business.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use relaymesh::client::{Event, Inbound, Machine};
use relaymesh::clock::{Clock, Time};
use relaymesh::wheel::{TimerId, Wheel};
use relaymesh::wire::{DICTIONARY_ID, proto};
use socket2::{Domain, Protocol, Socket, Type};

use crate::options::Target;

const READ_BUFFER_BYTES: usize = 256 * 1024;
const EVENTS_PER_TURN: usize = 1024;
/// Connections from one source address, well below the ports it has.
const CONNECTIONS_PER_SOURCE: usize = 20_000;
/// Connections whose handshake is under way.
const HANDSHAKES_MAX: usize = 512;

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

/// How the connections of a run introduce themselves.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Client ids are this and the connection's number.
    pub(crate) prefix: String,
    /// The wanted heartbeat; zero leaves it to the server.
    pub(crate) heartbeat: Duration,
    /// New connections a second; 0 for as fast as it goes.
    pub(crate) ramp: u32,
}

struct Connection {
    stream: TcpStream,
    machine: Machine,
    out: Vec<u8>,
    sent: usize,
    dirty: bool,
    timer: Option<TimerId>,
}

/// The connections of a run and their loop.
pub(crate) struct Fleet {
    target: Target,
    identity: Identity,
    wanted: usize,
    poll: Poll,
    clock: Clock,
    wheel: Wheel,
    inbound: Inbound,
    buffer: Vec<u8>,
    connections: Vec<Connection>,
    dirty: Vec<usize>,
    welcomed: usize,
    handshake_started_us: Vec<u64>,
    /// How long each handshake took, in microseconds, from connecting to WELCOME.
    pub(crate) handshakes_us: Vec<u64>,
    last_answer_us: u64,
}

impl Fleet {
    /// `wanted` connections, none of them open yet.
    ///
    /// # Errors
    /// When the system gives no poller.
    pub(crate) fn new(target: &Target, identity: Identity, wanted: usize) -> anyhow::Result<Self> {
        let clock = Clock::starting_at(Time(0));
        Ok(Self {
            target: target.clone(),
            identity,
            wanted,
            poll: Poll::new().context("cannot make a poller")?,
            wheel: Wheel::new(clock.time()),
            clock,
            inbound: Inbound::new(),
            buffer: vec![0; READ_BUFFER_BYTES],
            connections: Vec::with_capacity(wanted),
            dirty: Vec::new(),
            welcomed: 0,
            handshake_started_us: Vec::with_capacity(wanted),
            handshakes_us: Vec::with_capacity(wanted),
            last_answer_us: 0,
        })
    }

    /// Microseconds since the fleet was made.
    pub(crate) fn now_us(&self) -> u64 {
        self.clock.micros()
    }

    /// Opens all connections and waits until all are welcomed; returns how long that took.
    ///
    /// # Errors
    /// When one is refused or lost, or nothing moves for the target's patience.
    pub(crate) fn open(
        &mut self,
        workload: &mut impl Workload,
        opened: impl Fn(usize),
    ) -> anyhow::Result<Duration> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let start_us = self.now_us();
        self.last_answer_us = start_us;
        while self.welcomed < self.wanted {
            let elapsed_us = self.now_us() - start_us;
            let due = match u64::from(self.identity.ramp) {
                0 => self.wanted,
                ramp => (elapsed_us * ramp / 1_000_000) as usize + 1,
            };
            while self.connections.len() < due.min(self.wanted)
                && self.connections.len() - self.welcomed < HANDSHAKES_MAX
            {
                self.connect_next()?;
            }
            self.flush()?;
            self.turn(&mut events, Duration::from_millis(1), workload)?;
            opened(self.welcomed);
            self.check_patience("a handshake")?;
        }
        Ok(Duration::from_micros(self.now_us() - start_us))
    }

    /// Runs the workload on the open connections until it says it is over.
    ///
    /// # Errors
    /// When a connection is lost, or nothing is answered for the target's patience.
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
            self.flush()?;
            self.turn(&mut events, timeout, workload)?;
            self.check_patience("an answer")?;
        }
        Ok(())
    }

    /// Says goodbye on every connection.
    ///
    /// # Errors
    /// When a socket fails.
    pub(crate) fn close(mut self) -> anyhow::Result<()> {
        for number in 0..self.connections.len() {
            let connection = &mut self.connections[number];
            connection.machine.bye(None, &mut connection.out);
            self.mark_dirty(number);
        }
        self.flush()
    }

    fn start(&mut self, number: usize, workload: &mut impl Workload) -> anyhow::Result<()> {
        let (now, now_us) = (self.clock.time(), self.clock.micros());
        let Connection { machine, out, .. } = &mut self.connections[number];
        workload.start(&mut Link { number, machine, out, now, now_us })?;
        self.mark_dirty(number);
        Ok(())
    }

    fn connect_next(&mut self) -> anyhow::Result<()> {
        let number = self.connections.len();
        let stream = connect(self.target.connect, number)
            .with_context(|| format!("connection {number} to {}", self.target.connect))?;
        let mut stream = TcpStream::from_std(stream.into());
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        let hello = proto::Hello {
            version_min: 1,
            version_max: 1,
            namespace: self.target.namespace.to_string(),
            client_id: format!("{}{number}", self.identity.prefix),
            credential: self.target.token.clone().into_bytes(),
            heartbeat_ms: self.identity.heartbeat.as_millis() as u32,
            dictionaries: vec![DICTIONARY_ID],
            ..proto::Hello::default()
        };
        let mut out = Vec::new();
        let now = self.clock.time();
        let machine = Machine::new(now, &hello, &mut out);
        let timer = machine.next_deadline().map(|at| self.wheel.insert(at, number as u32));
        self.handshake_started_us.push(self.now_us());
        self.connections.push(Connection { stream, machine, out, sent: 0, dirty: false, timer });
        self.mark_dirty(number);
        Ok(())
    }

    fn turn(
        &mut self,
        events: &mut Events,
        timeout: Duration,
        workload: &mut impl Workload,
    ) -> anyhow::Result<()> {
        let timer = self.wheel.next_deadline().map_or(timeout, |at| at - self.clock.time());
        match self.poll.poll(events, Some(timeout.min(timer))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in events.iter() {
            let number = event.token().0;
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read(number, workload)?;
            }
            if event.is_writable() {
                self.mark_dirty(number);
            }
        }
        self.fire_timers()?;
        self.flush()
    }

    fn read(&mut self, number: usize, workload: &mut impl Workload) -> anyhow::Result<()> {
        loop {
            let connection = &mut self.connections[number];
            let read = match connection.stream.read(&mut self.buffer) {
                Ok(0) => bail!("connection {number}: the server closed it"),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).with_context(|| format!("connection {number}")),
            };
            let (now, now_us) = (self.clock.time(), self.clock.micros());
            self.last_answer_us = now_us;
            let mut input = &self.buffer[..read];
            loop {
                let Connection { machine, out, .. } = &mut self.connections[number];
                let Some(event) = machine.next_event(now, &mut self.inbound, &mut input) else { break };
                match event {
                    Event::Welcomed(_) => {
                        self.welcomed += 1;
                        self.handshakes_us.push(now_us - self.handshake_started_us[number]);
                        workload.welcomed(&mut Link { number, machine, out, now, now_us })?;
                    }
                    Event::Rejected(reject) => bail!("connection {number} was refused: {}", reject.text),
                    Event::ServerError(error) => {
                        bail!("connection {number}: the server says: {}", error.text)
                    }
                    Event::GoAway(goaway) => bail!("connection {number} is to leave: {}", goaway.text),
                    Event::Broken(broken) => bail!("connection {number}: {broken}"),
                    // Of a message that is delivered in parts a workload sees the whole.
                    Event::Part => {}
                    event => workload.event(&mut Link { number, machine, out, now, now_us }, event)?,
                }
            }
            self.mark_dirty(number);
            if read < self.buffer.len() {
                return Ok(());
            }
        }
    }

    fn fire_timers(&mut self) -> anyhow::Result<()> {
        let now = self.clock.time();
        while let Some((_, key)) = self.wheel.pop_expired(now) {
            let number = key as usize;
            let connection = &mut self.connections[number];
            connection
                .machine
                .handle_timeout(now, &mut connection.out)
                .with_context(|| format!("connection {number}"))?;
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

    fn flush(&mut self) -> anyhow::Result<()> {
        while let Some(number) = self.dirty.pop() {
            let connection = &mut self.connections[number];
            connection.dirty = false;
            while connection.sent < connection.out.len() {
                match connection.stream.write(&connection.out[connection.sent..]) {
                    Ok(sent) => connection.sent += sent,
                    // Connecting, or the socket is full: its next edge marks it dirty again.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                        ) =>
                    {
                        break;
                    }
                    Err(error) => return Err(error).with_context(|| format!("connection {number}")),
                }
            }
            if connection.sent == connection.out.len() {
                connection.sent = 0;
                connection.out.clear();
                if connection.out.capacity() > 4096 && self.wanted > 1000 {
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

/// Opens a socket to `to`. On loopback the source addresses are spread, so that ports do not run out.
fn connect(to: SocketAddr, number: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let IpAddr::V4(address) = to.ip()
        && address.is_loopback()
    {
        let source = number / CONNECTIONS_PER_SOURCE;
        let source = Ipv4Addr::new(127, 0, (source / 200) as u8, (source % 200) as u8 + 1);
        socket.bind(&SocketAddr::new(source.into(), 0).into())?;
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Ok(socket)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(socket),
    }
}
