//! Sockets that we closed and that live a moment longer, so that what was said last arrives.
//!
//! Closing a socket with unread input resets the connection, and a reset may destroy what the peer has not read yet:
//! the very frame that says why it is closed. So our half is ended first, and the socket is dropped when the peer
//! has ended its own, or after [`limits::LINGER`], with what came meanwhile read and thrown away. Nothing waits
//! for it: the brain's slot is free at once, and the poller's events for it are stale.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::stream::Stream;
use crate::clock::Time;
use crate::limits;

#[derive(Debug, Default)]
pub(super) struct Lingering {
    /// With the time each is dropped, in order; at most [`limits::LINGERING_MAX`], beyond it the oldest goes early.
    streams: VecDeque<(Time, Stream)>,
}

impl Lingering {
    /// Ends our half of `stream` and keeps it while its peer may have something to read. `scratch` is overwritten.
    pub(super) fn close(&mut self, now: Time, mut stream: Stream, scratch: &mut [u8]) {
        let peer_may_send = stream.finish().is_ok() && drain(&mut stream, scratch);
        if !peer_may_send {
            return;
        }
        if self.streams.len() >= limits::LINGERING_MAX {
            self.drop_oldest(scratch);
        }
        self.streams.push_back((now + limits::LINGER, stream));
    }

    /// Drops those whose time has come, as many as a turn may; what is left is due at once. Returns how many.
    pub(super) fn expire(&mut self, now: Time, scratch: &mut [u8]) -> usize {
        let ripe = self.streams.iter().take_while(|(at, _)| *at <= now);
        let due = ripe.take(limits::LINGERING_DROPS_PER_TURN).count();
        for _ in 0..due {
            self.drop_oldest(scratch);
        }
        due
    }

    /// Drops one before its time, to have its descriptor. Returns false when there is none.
    pub(super) fn drop_oldest(&mut self, scratch: &mut [u8]) -> bool {
        match self.streams.pop_front() {
            Some((_, mut stream)) => {
                drain(&mut stream, scratch);
                true
            }
            None => false,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.streams.front().map(|(at, _)| *at)
    }

    /// What they have open.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.streams.iter().map(|(_, stream)| stream.descriptor())
    }

    /// Sockets kept.
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }
}

/// Throws away input, one buffer of it at most. Returns false when there can be no more.
fn drain(stream: &mut Stream, scratch: &mut [u8]) -> bool {
    match stream.read(scratch) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}
