//! A loop's own listener, and the descriptor held in reserve for when the process has no more.
//!
//! All loops listen on one address with SO_REUSEPORT; the kernel spreads the connections over them. Order:
//! `bind`, then `accept` until nothing is left, and `shed` when a descriptor was wanting.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::platform;
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
    /// Probes come later than the heartbeats of clients that send them, so they cost nothing where those work.
    pub(super) fn beside_heartbeat(heartbeat: Duration) -> Self {
        let idle = limits::KEEPALIVE_IDLE_MIN.max(heartbeat * 3 / 2);
        Self {
            idle,
            interval: limits::KEEPALIVE_INTERVAL,
            retries: limits::KEEPALIVE_PROBES,
            user_timeout: idle + limits::KEEPALIVE_INTERVAL * limits::KEEPALIVE_PROBES,
        }
    }
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: TcpListener,
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

impl Listener {
    /// Listens on `address`. With `probe`, first makes sure that nobody else does: SO_REUSEPORT alone would let a
    /// second server of the same user take half of the connections in silence.
    pub(super) fn bind(address: SocketAddr, keep_alive: KeepAlive, probe: bool) -> io::Result<Self> {
        if probe {
            let alone = tcp_socket(address)?;
            alone.bind(&address.into())?;
        }
        let socket = tcp_socket(address)?;
        socket.set_reuse_port(true)?;
        platform::tune_listener(&socket, &keep_alive)?;
        socket.bind(&address.into())?;
        socket.listen(limits::LISTEN_BACKLOG)?;
        let reserve = Some(open_reserve()?);
        Ok(Self { socket: TcpListener::from_std(socket.into()), keep_alive, reserve })
    }

    pub(super) fn accept(&self) -> Accepted {
        match self.socket.accept() {
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
    /// Returns whether the reserve is in place again; if not, the descriptor went to somebody else.
    #[must_use]
    pub(super) fn shed(&mut self, farewell: &[u8], scratch: &mut [u8]) -> bool {
        self.reserve = None;
        if let Accepted::Stream(mut stream) = self.accept() {
            // Best effort, all of it. The reading takes what a client sends with its connect (HELLO): unread bytes
            // would turn the close into a reset, which may overtake the farewell.
            let _ = stream.write(farewell);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(scratch);
        }
        self.refill()
    }

    /// Makes sure there is a reserve. Returns whether there is.
    #[must_use]
    pub(super) fn refill(&mut self) -> bool {
        if self.reserve.is_none() {
            self.reserve = open_reserve().ok();
        }
        self.reserve.is_some()
    }
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
