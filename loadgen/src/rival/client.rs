//! The connections to another server, their loop, and what is measured.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use relaymesh::clock::{Clock, Time};

use super::{Args, Heard, Protocol, What};
use crate::fleet::{ALARM, Alarm};
use crate::report::Delays;
use crate::stamp::{self, STAMP_BYTES};

const READ_BUFFER_BYTES: usize = 256 * 1024;
const EVENTS_PER_TURN: usize = 1024;
/// The longest sleep of a run that waits for answers.
const IDLE_TURN: Duration = Duration::from_millis(100);

struct Connection {
    stream: TcpStream,
    protocol: Box<dyn Protocol>,
    /// What came and is not a whole answer yet.
    input: Vec<u8>,
    output: Vec<u8>,
    /// Since when each publish, or each message held, has no answer; oldest first.
    unanswered_us: VecDeque<u64>,
    /// Messages asked for that did not come yet.
    asked: usize,
}

/// A run against another server.
pub(super) struct Run<'a> {
    args: &'a Args,
    connections: Vec<Connection>,
    poll: Poll,
    alarm: Alarm,
    clock: Clock,
    payload: Vec<u8>,
    heard: Heard,
    buffer: Vec<u8>,
    start_us: u64,
    /// What the machine's clock shows beyond the run's.
    stamps_ahead_us: u64,
    sent: u64,
    /// Messages that came or were asked for.
    taken: u64,
    next_publisher: usize,
    pub(super) answered: u64,
    /// From sending to answer, or with a rate from when it was due.
    pub(super) delays: Delays,
    /// From when a message was due to its delivery.
    pub(super) under_way: Delays,
}

impl<'a> Run<'a> {
    /// Opens the connections.
    ///
    /// # Errors
    /// When the server does not take them.
    pub(super) fn open(args: &'a Args) -> anyhow::Result<Self> {
        let poll = Poll::new().context("cannot make a poller")?;
        let (to, load) = (args.target.connect, &args.load);
        let mut connections = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            let stream =
                std::net::TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(number), interest)?;
            let mut protocol = args.server.protocol(load.queue.as_str(), number);
            let mut output = Vec::new();
            protocol.greet(args.what, &mut output);
            let (input, unanswered_us) = (Vec::new(), VecDeque::new());
            connections.push(Connection { stream, protocol, input, output, unanswered_us, asked: 0 });
        }
        Ok(Self {
            args,
            connections,
            alarm: Alarm::new(poll.registry()).context("cannot make a timer")?,
            poll,
            clock: Clock::starting_at(Time(0)),
            payload: std::iter::repeat_with(|| fastrand::u8(..)).take(args.size).collect(),
            heard: Heard::default(),
            buffer: vec![0; READ_BUFFER_BYTES],
            start_us: 0,
            stamps_ahead_us: 0,
            sent: 0,
            taken: 0,
            next_publisher: 0,
            answered: 0,
            delays: Delays::new(),
            under_way: Delays::new(),
        })
    }

    /// Sends the load and waits for all its answers; returns how long that took, in microseconds.
    ///
    /// # Errors
    /// When the server refuses something, closes a connection, or says nothing for the target's patience.
    pub(super) fn drive(&mut self) -> anyhow::Result<u64> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        self.start_us = self.clock.micros();
        self.stamps_ahead_us = stamp::now_us() - self.start_us;
        let mut heard_at_us = self.start_us;
        for number in 0..self.connections.len() {
            self.fill(number);
            self.connections[number].flush()?;
        }
        while self.answered < self.args.load.count {
            let wait = self.publish_due()?;
            self.alarm.ring_in(wait)?;
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            let before = self.answered;
            for event in events.iter().filter(|event| event.token() != ALARM) {
                let number = event.token().0;
                if event.is_readable() {
                    self.read(number)?;
                    self.fill(number);
                }
                self.connections[number].flush()?;
            }
            let now_us = self.clock.micros();
            if self.answered > before {
                heard_at_us = now_us;
            } else if Duration::from_micros(now_us - heard_at_us) > self.args.target.patience {
                bail!("the server gave no answer for {:.1?}; see --patience", self.args.target.patience);
            }
        }
        Ok(self.clock.micros() - self.start_us)
    }

    /// When the next publish is due, with a rate.
    fn due_us(&self) -> Option<u64> {
        let rate =
            self.args.rate.filter(|_| self.args.what == What::Publish && self.sent < self.args.load.count)?;
        Some(self.start_us + self.sent * 1_000_000 / u64::from(rate))
    }

    fn has_room(&self, number: usize) -> bool {
        self.connections[number].unanswered_us.len() < self.args.load.in_flight as usize
    }

    /// Sends what is due, in turns over the connections that have room; returns how long nothing else is.
    fn publish_due(&mut self) -> anyhow::Result<Duration> {
        while let Some(due_us) = self.due_us() {
            let now_us = self.clock.micros();
            if due_us > now_us {
                return Ok(Duration::from_micros(due_us - now_us).min(IDLE_TURN));
            }
            let connections = self.connections.len();
            let from = self.next_publisher;
            let mut places = (0..connections).map(|step| (from + step) % connections);
            let Some(number) = places.find(|&number| self.has_room(number)) else { break };
            self.next_publisher = (number + 1) % connections;
            self.publish(number, due_us);
            // Those that are late together go together.
            if self.due_us().is_none_or(|next_us| next_us > now_us) || connections > 1 {
                self.connections[number].flush()?;
            }
        }
        for connection in &mut self.connections {
            connection.flush()?;
        }
        Ok(IDLE_TURN)
    }

    fn publish(&mut self, number: usize, started_us: u64) {
        if self.args.rate.is_some() {
            let due_us = started_us + self.stamps_ahead_us;
            self.payload[..STAMP_BYTES].copy_from_slice(&stamp::stamp(due_us));
        }
        let Connection { protocol, output, unanswered_us, .. } = &mut self.connections[number];
        protocol.publish(&self.payload, output);
        unanswered_us.push_back(started_us);
        self.sent += 1;
    }

    /// Sends what the window allows, without a rate.
    fn fill(&mut self, number: usize) {
        match self.args.what {
            What::Work => self.ask(number),
            What::Publish if self.args.rate.is_none() => {
                let now_us = self.clock.micros();
                while self.has_room(number) && self.sent < self.args.load.count {
                    self.publish(number, now_us);
                }
            }
            What::Publish => {}
        }
    }

    /// Asks for messages once half the window is free, as consumers that take several at once do.
    fn ask(&mut self, number: usize) {
        let window = self.args.load.in_flight as usize;
        let Connection { protocol, output, unanswered_us, asked, .. } = &mut self.connections[number];
        let room = window.saturating_sub(unanswered_us.len() + *asked);
        let left = self.args.load.count - self.taken;
        if room * 2 < window || left == 0 || protocol.asks_once() && *asked > 0 {
            return;
        }
        let room = room.min(usize::try_from(left).unwrap_or(usize::MAX));
        protocol.ask(room, output);
        *asked += room;
        self.taken += room as u64;
    }

    fn read(&mut self, number: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[number];
        loop {
            match connection.stream.read(&mut self.buffer) {
                Ok(0) => bail!("the server closed connection {number}"),
                Ok(read) => connection.input.extend_from_slice(&self.buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).with_context(|| format!("connection {number}")),
            }
        }
        let Connection { protocol, input, output, unanswered_us, asked, .. } = connection;
        let heard = &mut self.heard;
        let taken = protocol.hear(input, heard, output)?;
        input.drain(..taken);
        let now_us = self.clock.micros();
        for _ in 0..heard.published + heard.acked {
            let since_us = unanswered_us.pop_front().context("an answer that nobody asked for")?;
            self.delays.record(now_us.saturating_sub(since_us));
            self.answered += 1;
        }
        for due_us in &heard.delivered {
            unanswered_us.push_back(now_us);
            *asked = asked.checked_sub(1).context("a message that nobody asked for")?;
            if let Some(due_us) = due_us {
                self.under_way.record((now_us + self.stamps_ahead_us).saturating_sub(*due_us));
            }
        }
        if heard.is_ask_over {
            self.taken -= std::mem::take(asked) as u64;
        }
        (heard.published, heard.acked, heard.is_ask_over) = (0, 0, false);
        heard.delivered.clear();
        Ok(())
    }
}

impl Connection {
    /// Writes what the socket takes; the rest goes with its next edge.
    fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.stream.write(&self.output[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.output.drain(..sent);
        Ok(())
    }
}
