//! A loop's own listener, and the descriptor held in reserve for when the process has no more.
//!
//! All loops listen on one address with SO_REUSEPORT; the kernel spreads the connections over them. Order:
//! `bind`, then `accept` until nothing is left, and `shed` when a descriptor was wanting. A loop whose own table is full
//! leaves the group with `leave`, so that the others get what it cannot take, and comes back with `rejoin`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::{LISTENER, platform};
use crate::limits;

/// When a silent peer counts as dead, as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeepAlive {
    /// Silence before the first probe.
    pub(super) idle: Duration,
    /// Between probes.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(super) interval: Duration,
    /// Probes without an answer.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(super) retries: u32,
    /// How long sent bytes may stay unacknowledged.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(super) user_timeout: Duration,
}

impl KeepAlive {
    /// For a server of so many sessions. Probes come later than the heartbeats of clients that send them, so they cost
    /// nothing where those work; and with many sessions that are silent for long, so late that they stay few.
    pub(super) fn tuned(heartbeat: Duration, sessions: u64) -> Self {
        let few = Duration::from_millis(sessions.saturating_mul(1000) / limits::KEEPALIVE_PROBES_PER_S_MAX);
        let idle = limits::KEEPALIVE_IDLE_MIN.max(heartbeat * 3 / 2).max(few).min(limits::KEEPALIVE_IDLE_MAX);
        Self {
            idle,
            interval: limits::KEEPALIVE_INTERVAL,
            retries: limits::KEEPALIVE_PROBES,
            user_timeout: idle + limits::KEEPALIVE_INTERVAL * limits::KEEPALIVE_PROBES,
        }
    }
}

/// The loops that listen on one address: at least one always does, so that whoever comes is told something.
#[derive(Debug, Default)]
pub(super) struct Group {
    listening: AtomicUsize,
}

impl Group {
    fn join(&self) {
        self.listening.fetch_add(1, Ordering::Relaxed);
    }

    /// False for the last one, which stays.
    fn leave(&self) -> bool {
        let others = |listening: usize| if listening > 1 { Some(listening - 1) } else { None };
        self.listening.fetch_update(Ordering::Relaxed, Ordering::Relaxed, others).is_ok()
    }
}

#[derive(Debug)]
pub(super) struct Listener {
    /// `None` while the loop is not in the group.
    socket: Option<TcpListener>,
    address: SocketAddr,
    group: Arc<Group>,
    keep_alive: KeepAlive,
    /// Closed for a moment to take a connection for which there is no other descriptor.
    reserve: Option<File>,
}

/// What came of one accept.
#[derive(Debug)]
#[must_use]
pub(super) enum Accepted {
    Stream(TcpStream),
    /// The backlog is empty.
    Nothing,
    /// This connection failed before it was taken; the next may not.
    Gone,
    /// The process or the system is out of descriptors.
    NoDescriptor,
    /// The system lacks something else, memory most likely.
    Failed(io::Error),
}

/// What came of turning one connection away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Turned {
    /// It is gone.
    Away,
    /// None was waiting.
    Nobody,
    /// The reserve did not help: nobody can be told for now.
    NoReserve,
}

impl Listener {
    /// Listens on `address`. With `probe`, first makes sure that nobody else does: SO_REUSEPORT alone would let a
    /// second server of the same user take half of the connections in silence.
    pub(super) fn bind(
        address: SocketAddr,
        keep_alive: KeepAlive,
        probe: bool,
        group: Arc<Group>,
    ) -> io::Result<Self> {
        if probe {
            let alone = tcp_socket(address)?;
            alone.bind(&address.into())?;
        }
        let socket = listen(address, &keep_alive)?;
        let address = socket.local_addr()?;
        let reserve = Some(open_reserve()?);
        group.join();
        Ok(Self { socket: Some(socket), address, group, keep_alive, reserve })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is in the group.
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// What it has open.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let socket = self.socket.as_ref().map(AsRawFd::as_raw_fd);
        socket.into_iter().chain(self.reserve.as_ref().map(AsRawFd::as_raw_fd))
    }

    /// To be told of connections, once.
    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        registry.register(socket, LISTENER, Interest::READABLE)
    }

    /// Closes the socket unless it is the group's last; returns whether it did. Connections that wait in it go to the
    /// others where [`platform::connections_migrate`], otherwise they are reset. Only of use if no other table holds
    /// the socket.
    pub(super) fn leave(&mut self) -> bool {
        let left = self.group.leave();
        if left {
            self.socket = None;
        }
        left
    }

    /// Closes the socket for good, the group's last or not.
    pub(super) fn close(&mut self) {
        if self.socket.take().is_some() {
            self.group.leave();
        }
    }

    /// Listens again.
    pub(super) fn rejoin(&mut self, registry: &Registry) -> io::Result<()> {
        let mut socket = listen(self.address, &self.keep_alive)?;
        registry.register(&mut socket, LISTENER, Interest::READABLE)?;
        self.socket = Some(socket);
        self.group.join();
        Ok(())
    }

    pub(super) fn accept(&self) -> Accepted {
        let Some(socket) = &self.socket else { return Accepted::Nothing };
        match socket.accept() {
            Ok((stream, _)) => match platform::tune_accepted(&stream, &self.keep_alive) {
                Ok(()) => Accepted::Stream(stream),
                Err(_) => Accepted::Gone,
            },
            Err(error) => Self::judge(error),
        }
    }

    fn judge(error: io::Error) -> Accepted {
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => Accepted::Nothing,
            Some(Errno::MFILE | Errno::NFILE) => Accepted::NoDescriptor,
            // The last four are how Linux passes on what happened to the connection on the network.
            Some(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::PROTO
                | Errno::PERM
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP,
            ) => Accepted::Gone,
            _ => Accepted::Failed(error),
        }
    }

    /// Takes one connection with the reserve descriptor, tells it `farewell` and closes it. `scratch` is overwritten.
    pub(super) fn shed(&mut self, farewell: impl FnOnce() -> Vec<u8>, scratch: &mut [u8]) -> Turned {
        if !self.refill() {
            return Turned::NoReserve;
        }
        self.reserve = None;
        let turned = match self.accept() {
            Accepted::Stream(mut stream) => {
                // Best effort, all of it. The reading takes what a client sends with its connect (HELLO): unread bytes
                // would turn the close into a reset, which may overtake the farewell.
                let _ = stream.write(&farewell());
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read(scratch);
                Turned::Away
            }
            Accepted::Gone => Turned::Away,
            Accepted::Nothing => Turned::Nobody,
            // The descriptor went to somebody else, or more is wanting than that.
            Accepted::NoDescriptor | Accepted::Failed(_) => Turned::NoReserve,
        };
        if self.refill() { turned } else { Turned::NoReserve }
    }

    /// Makes sure there is a reserve. Returns whether there is.
    fn refill(&mut self) -> bool {
        if self.reserve.is_none() {
            self.reserve = open_reserve().ok();
        }
        self.reserve.is_some()
    }
}

/// One more in the group of `address`.
fn listen(address: SocketAddr, keep_alive: &KeepAlive) -> io::Result<TcpListener> {
    let socket = tcp_socket(address)?;
    socket.set_reuse_port(true)?;
    platform::tune_listener(&socket, keep_alive)?;
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier process that are still ending do not keep the address.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn open_reserve() -> io::Result<File> {
    File::open("/dev/null")
}
