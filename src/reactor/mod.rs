//! The event loops: the only place with mio and sockets.
//!
//! A loop is one thread with its own listener, poller, connections and brain. It owns when bytes are read and
//! written; it must not know what they mean, nor any rule of a queue. Order: [`bind`] makes the loops and settles
//! the address they share, their bells go into the lanes, [`BoundLoop::spawn`] starts each with its brain, and
//! [`LoopControl`] ends it. A turn of a loop reads from top to bottom in `event_loop`.
//!
//! Everything is edge-triggered and registered once in a connection's life; the bookkeeping that makes up for the
//! edges not taken (a read that was put off, a write that was cut short) is in `stream`.

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
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::{Interest, Poll, Token, Waker};

pub use brain::LoopBrain;
pub use control::LoopControl;
pub use lane::ShardLane;

use crate::clock::Clock;
use crate::host;
use crate::ids::LoopId;
use crate::mail::Bell;
use crate::telemetry::LoopMetrics;
use event_loop::EventLoop;
use listener::{KeepAlive, Listener};

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
    /// The server's heartbeat: the kernel's own probes come after one and a half of it.
    pub heartbeat: Duration,
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
}

/// A loop that listens (the kernel queues its connections) and does not run yet.
#[derive(Debug)]
pub struct BoundLoop {
    loop_id: LoopId,
    poll: Poll,
    listener: Listener,
    address: SocketAddr,
    bell: Bell,
    pin: bool,
}

/// A loop that runs.
#[derive(Debug)]
pub struct LoopHandle {
    /// Ends it.
    pub control: LoopControl,
    /// Ended when the loop has drained or was stopped. A panic never arrives here: it ends the process.
    pub join: JoinHandle<()>,
}

/// Makes the loops, all listening on one address.
///
/// # Errors
/// [`BindError`] when the address is taken or not allowed, or the system gives no descriptors.
pub fn bind(config: &ReactorConfig) -> Result<Vec<BoundLoop>, BindError> {
    let mut address = config.listen;
    let mut loops = Vec::with_capacity(usize::from(config.loops));
    for number in 0..config.loops.max(1) {
        let bound = bind_one(config, LoopId(number), address)?;
        address = bound.address;
        loops.push(bound);
    }
    Ok(loops)
}

fn bind_one(config: &ReactorConfig, loop_id: LoopId, address: SocketAddr) -> Result<BoundLoop, BindError> {
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Listen { address, source },
    };
    let keep_alive = KeepAlive::beside_heartbeat(config.heartbeat);
    let is_first = loop_id == LoopId(0);
    let mut listener = Listener::bind(address, keep_alive, is_first).map_err(refused)?;
    let address = listener.socket.local_addr().map_err(refused)?;
    let poll = Poll::new().map_err(BindError::Poller)?;
    poll.registry()
        .register(&mut listener.socket, LISTENER, Interest::READABLE)
        .map_err(BindError::Poller)?;
    let waker = Waker::new(poll.registry(), WAKER).map_err(BindError::Poller)?;
    let bell = Bell::new(move || {
        // Fails only for a poller that is gone, whose loop needs no waking.
        let _ = waker.wake();
    });
    Ok(BoundLoop { loop_id, poll, listener, address, bell, pin: config.pin })
}

impl BoundLoop {
    /// Its number.
    #[must_use]
    pub fn loop_id(&self) -> LoopId {
        self.loop_id
    }

    /// Where it listens: the port the kernel chose when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Wakes the loop; for the lanes that lead to it.
    #[must_use]
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Starts the loop's thread, `loop-<number>`. `clock` is the one the brain was made with.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn<B: LoopBrain>(
        self,
        brain: B,
        lane: ShardLane,
        metrics: Arc<LoopMetrics>,
        clock: Clock,
    ) -> io::Result<LoopHandle> {
        let control = LoopControl::new(self.bell.clone());
        let wishes = control.wishes();
        let join = thread::Builder::new().name(format!("loop-{}", self.loop_id.0)).spawn(move || {
            let _guard = EndsTheProcess;
            if self.pin && !host::pin_thread(usize::from(self.loop_id.0)) {
                tracing::info!(loop_id = self.loop_id.0, "the event loop runs without a core of its own");
            }
            EventLoop::new(self, brain, lane, metrics, clock, wishes).run();
        })?;
        Ok(LoopHandle { control, join })
    }
}

/// Brings the process down when its thread panics: the loop's connections would hang for ever otherwise, and their
/// leases with them. (A release build aborts by itself.)
struct EndsTheProcess;

impl Drop for EndsTheProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("an event loop panicked (see above); the process ends, so that its clients reconnect");
            std::process::abort();
        }
    }
}
