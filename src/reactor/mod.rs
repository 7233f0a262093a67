//! The event loops: the only place with mio and sockets.
//!
//! A loop is one thread with its own listener, poller, connections and brain. It owns when bytes are read and
//! written; it must not know what they mean, nor any rule of a queue. Order: [`bind`] starts the threads, each of which
//! makes its own sockets, in a table of its own where that is asked for, and settles the address they share; their
//! bells go into the lanes, [`BoundLoop::spawn`] hands each its brain, and [`LoopControl`] ends it. A turn of a loop
//! reads from top to bottom in `event_loop`.
//!
//! Everything is edge-triggered and registered once in a connection's life; the bookkeeping that makes up for the
//! edges not taken (a read that was put off, a write that was cut short) is in `stream`.

mod audit;
mod bound;
mod brain;
mod control;
mod event_loop;
mod lane;
mod linger;
mod listener;
mod stream;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as platform;

#[cfg(any(not(target_os = "linux"), test))]
#[cfg_attr(target_os = "linux", allow(dead_code))]
mod portable;
#[cfg(not(target_os = "linux"))]
use portable as platform;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::Token;

pub use bound::{BoundLoop, LoopHandle, bind};
pub use brain::LoopBrain;
pub use control::LoopControl;
pub use lane::ShardLane;
pub use stream::CONNECTION_BYTES;

/// No connection has these: their slots would be the last ones of a slab of four thousand million.
const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

/// What the loops are to be.
#[derive(Debug, Clone)]
pub struct ReactorConfig {
    /// Where clients connect. Port 0 lets the kernel choose one for all loops.
    pub listen: SocketAddr,
    /// How many loops, at least 1.
    pub loops: u16,
    /// Keep each loop's thread on a core of its own.
    pub pin: bool,
    /// Give each loop's thread a table of descriptors of its own; see [`crate::host::own_descriptor_table`].
    pub private_tables: bool,
    /// The server's heartbeat: the kernel's own probes come after one and a half of it.
    pub heartbeat: Duration,
    /// Sessions planned for, all loops together: with many of them the kernel's probes come later.
    pub sessions: u64,
}

/// Why the loops could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("{address} is in use by another process; stop it or choose another address with --listen")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system refused the address.
    #[error("cannot listen on {address}; choose another address with --listen")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused a poller: out of descriptors most likely.
    #[error("cannot make a poller for an event loop")]
    Poller(#[source] io::Error),
    /// The system refused a table of descriptors.
    #[error(
        "cannot give an event loop a descriptor table of its own; ask for fewer sessions with --max-sessions"
    )]
    Table(#[source] io::Error),
    /// The system refused a thread.
    #[error("cannot start the thread of an event loop")]
    Thread(#[source] io::Error),
}
