//! The network between clients and the server: TCP as far as its users can tell.
//!
//! Bytes of one direction arrive in order, in pieces that have nothing to do with how they were written; directions
//! and connections overtake each other freely. A connection may be cut (both ends hear of it), go dark (neither does)
//! or stall for a while. Buffers are finite, so that a peer that does not read is felt by the writer.

use std::collections::VecDeque;

use crate::scheduler::{MS, Micros, SECOND, Scheduler};
use crate::world::Event;

/// How long a closed socket swallows what still arrives before it answers with a reset.
const LINGER: Micros = SECOND;
/// Pieces of one write; the rest goes in a few large ones.
const PIECES_MAX: usize = 16;

/// A connection; numbers are not used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnId(pub(crate) u32);

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(usize),
    Nothing,
    /// The peer closed; everything it sent was read.
    End,
    /// The connection was reset.
    Broken,
}

/// How the network behaves.
#[derive(Debug, Clone)]
pub(crate) struct NetworkPlan {
    /// Shortest and longest way of a piece.
    pub(crate) latency: (Micros, Micros),
    /// Bytes of one direction that are on their way or wait to be read.
    pub(crate) buffer: usize,
    /// One in this many pieces is late, as after a loss.
    pub(crate) late_one_in: u32,
    /// Longest piece.
    pub(crate) piece_max: usize,
}

#[derive(Debug)]
enum Flight {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    flying: VecDeque<(Micros, Flight)>,
    flying_bytes: usize,
    received: VecDeque<u8>,
    ended: bool,
    reset: bool,
    writer_waits: bool,
    /// The reader's end was closed at this moment.
    reader_gone: Option<Micros>,
    writer_gone: bool,
}

#[derive(Debug)]
struct Conn {
    client: usize,
    up: Pipe,
    down: Pipe,
    is_dark: bool,
    stalled_until: Micros,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Network {
    plan: NetworkPlan,
    conns: Vec<Conn>,
    random: fastrand::Rng,
}

impl Network {
    pub(crate) fn new(plan: NetworkPlan, random: fastrand::Rng) -> Self {
        Self { plan, conns: Vec::new(), random }
    }

    /// From now on everything goes through at once; what is dark stays dark.
    pub(crate) fn calm(&mut self) {
        self.plan.late_one_in = u32::MAX;
        self.plan.latency = (100, 2 * MS);
        self.plan.buffer = self.plan.buffer.max(64 << 10);
        self.conns.iter_mut().for_each(|conn| conn.stalled_until = 0);
    }

    /// A way through the network.
    pub(crate) fn latency(&mut self) -> Micros {
        let (shortest, longest) = self.plan.latency;
        self.random.u64(shortest..=longest)
    }

    /// A new connection of a client. The server's end exists once the server accepts it.
    pub(crate) fn open(&mut self, client: usize) -> ConnId {
        self.conns.push(Conn {
            client,
            up: Pipe::default(),
            down: Pipe::default(),
            is_dark: false,
            stalled_until: 0,
        });
        ConnId(self.conns.len() as u32 - 1)
    }

    /// Whose connection it is.
    pub(crate) fn client_of(&self, conn: ConnId) -> usize {
        self.conns[conn.0 as usize].client
    }

    fn pipe_from(&mut self, conn: ConnId, writer: Side) -> &mut Pipe {
        let conn = &mut self.conns[conn.0 as usize];
        match writer {
            Side::Client => &mut conn.up,
            Side::Server => &mut conn.down,
        }
    }

    /// Writes as much as fits. `None`: the connection is broken.
    pub(crate) fn write(
        &mut self,
        conn: ConnId,
        writer: Side,
        mut bytes: &[u8],
        scheduler: &mut Scheduler<Event>,
    ) -> Option<usize> {
        let buffer = self.plan.buffer;
        if self.pipe_from(conn, writer.peer()).reset {
            return None;
        }
        let pipe = self.pipe_from(conn, writer);
        if pipe.writer_gone {
            return None;
        }
        let room = buffer.saturating_sub(pipe.flying_bytes + pipe.received.len());
        pipe.writer_waits = room < bytes.len();
        bytes = &bytes[..bytes.len().min(room)];
        let written = bytes.len();
        let mut pieces = 0;
        while !bytes.is_empty() {
            pieces += 1;
            let most = if pieces < PIECES_MAX { self.plan.piece_max } else { bytes.len() };
            let len = self.random.usize(1..=most).min(bytes.len());
            let (piece, rest) = bytes.split_at(len);
            bytes = rest;
            self.send(conn, writer, Flight::Bytes(piece.to_vec()), scheduler);
        }
        Some(written)
    }

    fn send(&mut self, conn: ConnId, writer: Side, flight: Flight, scheduler: &mut Scheduler<Event>) {
        let mut way = self.latency();
        if self.random.u32(0..self.plan.late_one_in) == 0 {
            way += self.random.u64(1..=40) * 10 * MS;
        }
        let arrives = (scheduler.now + way).max(self.conns[conn.0 as usize].stalled_until);
        let pipe = self.pipe_from(conn, writer);
        // In order: nothing arrives before what was sent before it.
        let arrives = pipe.flying.back().map_or(arrives, |(last, _)| arrives.max(*last));
        if let Flight::Bytes(bytes) = &flight {
            pipe.flying_bytes += bytes.len();
        }
        pipe.flying.push_back((arrives, flight));
        scheduler.at(arrives, Event::Arrive { conn, side: writer.peer() });
    }

    /// Takes in what has arrived at `side`. Whether that end has something to look at.
    pub(crate) fn arrive(&mut self, conn: ConnId, side: Side, scheduler: &mut Scheduler<Event>) -> bool {
        let now = scheduler.now;
        let (is_dark, stalled_until) = {
            let conn = &self.conns[conn.0 as usize];
            (conn.is_dark, conn.stalled_until)
        };
        let pipe = self.pipe_from(conn, side.peer());
        if stalled_until > now && !pipe.flying.is_empty() {
            scheduler.at(stalled_until, Event::Arrive { conn, side });
            return false;
        }
        let (mut news, mut unwanted) = (false, false);
        while let Some((_, flight)) = pipe.flying.pop_front_if(|(at, _)| *at <= now) {
            if let Flight::Bytes(bytes) = &flight {
                pipe.flying_bytes -= bytes.len();
            }
            if is_dark {
                continue;
            }
            match (pipe.reader_gone, flight) {
                (None, Flight::Bytes(bytes)) => pipe.received.extend(bytes),
                (None, Flight::End) => pipe.ended = true,
                (None, Flight::Reset) => {
                    pipe.reset = true;
                    pipe.received.clear();
                }
                (Some(since), Flight::Bytes(_)) => unwanted |= now >= since + LINGER,
                (Some(_), Flight::End | Flight::Reset) => {}
            }
            news |= pipe.reader_gone.is_none();
        }
        if unwanted {
            self.send(conn, side, Flight::Reset, scheduler);
        }
        news
    }

    /// Whether a read at `side` would find something.
    pub(crate) fn is_readable(&mut self, conn: ConnId, side: Side) -> bool {
        let pipe = self.pipe_from(conn, side.peer());
        !pipe.received.is_empty() || pipe.ended || pipe.reset
    }

    /// Reads up to `max` bytes into `into`, which is emptied first.
    pub(crate) fn read(
        &mut self,
        conn: ConnId,
        side: Side,
        max: usize,
        into: &mut Vec<u8>,
        scheduler: &mut Scheduler<Event>,
    ) -> Read {
        into.clear();
        let way = self.latency();
        let pipe = self.pipe_from(conn, side.peer());
        if pipe.reset {
            return Read::Broken;
        }
        if pipe.received.is_empty() {
            return if pipe.ended { Read::End } else { Read::Nothing };
        }
        let len = pipe.received.len().min(max.max(1));
        into.extend(pipe.received.drain(..len));
        if std::mem::take(&mut pipe.writer_waits) {
            scheduler.after(way, Event::Writable { conn, side: side.peer() });
        }
        Read::Bytes(len)
    }

    /// Closes one end: what it wrote still arrives, then the end does.
    pub(crate) fn close(&mut self, conn: ConnId, side: Side, scheduler: &mut Scheduler<Event>) {
        if self.pipe_from(conn, side).writer_gone {
            return;
        }
        self.send(conn, side, Flight::End, scheduler);
        self.abandon(conn, side, scheduler.now);
    }

    /// One end is gone and the other one is told at once.
    pub(crate) fn reset(&mut self, conn: ConnId, side: Side, scheduler: &mut Scheduler<Event>) {
        if self.pipe_from(conn, side).writer_gone {
            return;
        }
        self.send(conn, side, Flight::Reset, scheduler);
        self.abandon(conn, side, scheduler.now);
    }

    /// One end is gone and says nothing: its machine lost its power. What comes for it later is answered with a reset.
    pub(crate) fn vanish(&mut self, conn: ConnId, side: Side, now: Micros) {
        self.pipe_from(conn, side).flying.clear();
        self.pipe_from(conn, side).flying_bytes = 0;
        self.abandon(conn, side, now.saturating_sub(LINGER));
    }

    /// The server's machine lost its power, and with it what it had said and nobody has read.
    pub(crate) fn silence_server(&mut self, now: Micros) {
        for conn in 0..self.conns.len() as u32 {
            self.vanish(ConnId(conn), Side::Server, now);
            self.pipe_from(ConnId(conn), Side::Server).received.clear();
        }
    }

    fn abandon(&mut self, conn: ConnId, side: Side, now: Micros) {
        self.pipe_from(conn, side).writer_gone = true;
        let reading = self.pipe_from(conn, side.peer());
        reading.reader_gone = Some(now);
        reading.received.clear();
    }

    /// Both ends hear that the connection broke; what was on its way is lost.
    pub(crate) fn cut(&mut self, conn: ConnId, scheduler: &mut Scheduler<Event>) {
        for side in [Side::Client, Side::Server] {
            let pipe = self.pipe_from(conn, side);
            pipe.flying.clear();
            pipe.flying_bytes = 0;
            if !pipe.writer_gone {
                self.send(conn, side, Flight::Reset, scheduler);
            }
        }
    }

    /// Nothing gets through any more and neither end is told.
    pub(crate) fn darken(&mut self, conn: ConnId) {
        self.conns[conn.0 as usize].is_dark = true;
    }

    /// Nothing arrives before `until`; nothing is lost.
    pub(crate) fn stall(&mut self, conn: ConnId, until: Micros) {
        self.conns[conn.0 as usize].stalled_until = until;
    }
}
