//! The connections of one loop: their streams by slot, and which of them have something to read.
//!
//! It must not know the brain or the poller. An entry is made by `insert` with the brain's key, found again by that
//! key in an event's token, and ends with `remove`. A stale token finds nothing.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::Duration;

use mio::Token;
use mio::net::TcpStream;
use socket2::SockRef;

use crate::gateway::{CloseCause, SlotKey};
use crate::limits;
use crate::paged::Paged;

/// A connection's byte stream. A TLS stream would be a second variant that holds a number into a side slab, so that a
/// plain one stays as small as its descriptor.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
}

impl Stream {
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
        }
    }

    pub(super) fn descriptor(&self) -> RawFd {
        match self {
            Self::Plain(stream) => stream.as_raw_fd(),
        }
    }

    /// Closes it with a reset: the system does not go on offering what was written to a peer that takes none of it.
    pub(super) fn abort(self) {
        match self {
            // Where that cannot be asked for, it is closed as any other.
            Self::Plain(stream) => {
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// Ends our half of the stream after what was written.
    pub(super) fn finish(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

/// What the loop keeps for one slot; a million of them count, so it is 12 bytes in a release build.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) stream: Option<Stream>,
    generation: u32,
    /// An edge said there is something to read, and no read has found the end of it yet.
    pub(super) readable: bool,
    /// The peer ended its half: a short read is not the end of the reading.
    pub(super) peer_finished: bool,
    /// The socket took less than it was given; the next writable edge goes on.
    pub(super) write_blocked: bool,
    /// It is among `Connections::ready`, or will be closed at the end of the turn.
    duty: Duty,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Duty {
    #[default]
    Idle,
    /// In the queue of those to be read.
    Queued,
    /// To be closed at the end of the turn; neither read nor queued any more.
    Doomed,
}

/// What a connection takes of its loop's list of streams, in bytes; more in a debug build.
pub const CONNECTION_BYTES: usize = size_of::<Connection>();
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(debug_assertions)))]
const _: () = assert!(CONNECTION_BYTES == 12);

/// The connections of one loop.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// By slot.
    entries: Paged<Connection>,
    /// Those to be read, in the order in which they asked. Each at most once, so bounded by the connections.
    ready: VecDeque<SlotKey>,
    /// Entries with a stream.
    live: usize,
}

impl Connections {
    /// Takes in a stream under the key the brain gave it.
    pub(super) fn insert(&mut self, key: SlotKey, stream: Stream) {
        self.entries.grow_to(key.slot + 1, Connection::default);
        let entry = &mut self.entries[key.slot];
        assert!(entry.stream.is_none(), "the brain gave slot {} twice", key.slot);
        *entry = Connection { stream: Some(stream), generation: key.generation, ..Connection::default() };
        self.live += 1;
    }

    /// Takes a stream out; its key finds nothing from now on.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Stream> {
        let entry = self.entries.get_mut(slot)?;
        let stream = entry.stream.take();
        self.live -= usize::from(stream.is_some());
        *entry = Connection { generation: entry.generation, ..Connection::default() };
        stream
    }

    /// What they have open.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.entries.iter().filter_map(|entry| entry.stream.as_ref()).map(Stream::descriptor)
    }

    /// Streams taken in and not out again.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Memory of all entries, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.entries.bytes()
    }

    /// The connection in a slot, whichever it is.
    pub(super) fn in_slot(&mut self, slot: u32) -> Option<&mut Connection> {
        self.entries.get_mut(slot).filter(|entry| entry.stream.is_some())
    }

    /// The connection with this key, unless it is gone.
    pub(super) fn of(&mut self, key: SlotKey) -> Option<&mut Connection> {
        self.in_slot(key.slot).filter(|entry| entry.generation == key.generation)
    }

    /// Puts a connection behind those that wait to be read, unless it waits already.
    pub(super) fn queue(&mut self, slot: u32) {
        let Some(entry) = self.entries.get_mut(slot) else { return };
        if entry.stream.is_some() && entry.readable && entry.duty == Duty::Idle {
            entry.duty = Duty::Queued;
            self.ready.push_back(SlotKey { slot, generation: entry.generation });
        }
    }

    /// How many wait to be read.
    pub(super) fn queued(&self) -> usize {
        self.ready.len()
    }

    /// The next connection to be read. One that was closed meanwhile, or is to be, is passed over.
    pub(super) fn next_ready(&mut self) -> Option<SlotKey> {
        while let Some(key) = self.ready.pop_front() {
            if self.ready.is_empty() {
                // A storm makes it as long as there are connections; what the events of a turn need is kept.
                self.ready.shrink_to(limits::EVENTS_PER_TURN_MAX);
            }
            if let Some(entry) = self.of(key)
                && entry.duty == Duty::Queued
            {
                entry.duty = Duty::Idle;
                return Some(key);
            }
        }
        None
    }

    /// Marks a connection to be closed. Returns false when it is marked already, or gone.
    pub(super) fn doom(&mut self, slot: u32) -> bool {
        match self.in_slot(slot) {
            Some(entry) if entry.duty != Duty::Doomed => {
                entry.duty = Duty::Doomed;
                true
            }
            _ => false,
        }
    }
}

/// A connection's key as the poller carries it.
pub(super) fn token_of(key: SlotKey) -> Token {
    Token((key.generation as usize) << 32 | key.slot as usize)
}

/// The key a token was made of.
pub(super) fn key_of(token: Token) -> SlotKey {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the token")]
    SlotKey { slot: token.0 as u32, generation: (token.0 >> 32) as u32 }
}

/// Why a connection is gone whose socket says this.
pub(super) fn cause_of(error: &io::Error) -> CloseCause {
    match error.kind() {
        // The last two are what the network said meanwhile.
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            CloseCause::Unreachable
        }
        _ => CloseCause::Failed,
    }
}
