//! Where connections come from: sockets with a source address and port chosen here.
//!
//! The kernel's search for a free port becomes slow as an address fills up, and an address has fewer ports than the
//! server has sessions. So on loopback each 20,000 connections get an address of 127.0.0.0/8, and each connection its
//! port by its number, with nothing to search. Elsewhere address and port are the kernel's choice.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections from one source address.
const CONNECTIONS_PER_SOURCE: usize = 20_000;
/// The lowest port used.
const FIRST_PORT: usize = 5_000;
/// A connection that is tried again, or whose port is taken, moves on by [`CONNECTIONS_PER_SOURCE`] ports.
const PORTS_PER_CONNECTION: usize = 3;

const _: () = assert!(FIRST_PORT + PORTS_PER_CONNECTION * CONNECTIONS_PER_SOURCE <= 65_536);

/// The source addresses of a run: a part of 127.0.0.0/8 that is drawn anew for each, so that what an earlier run left
/// in TIME_WAIT is not in the way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources {
    network: u8,
}

impl Sources {
    pub(crate) fn draw() -> Self {
        Self { network: fastrand::u8(16..240) }
    }

    /// From where connection `number` comes at its `attempt`, from 0, when it goes to a loopback address.
    fn of(self, number: usize, attempt: usize) -> SocketAddr {
        let (source, place) = (number / CONNECTIONS_PER_SOURCE, number % CONNECTIONS_PER_SOURCE);
        let address = Ipv4Addr::new(127, self.network, (source / 250) as u8, (source % 250) as u8 + 1);
        let port = FIRST_PORT + attempt % PORTS_PER_CONNECTION * CONNECTIONS_PER_SOURCE + place;
        SocketAddr::new(address.into(), port as u16)
    }

    /// Opens a nonblocking socket to `to`; the connection may still be under way.
    ///
    /// # Errors
    /// When the system gives no socket, or the server refuses at once.
    pub(crate) fn connect(self, to: SocketAddr, number: usize, attempt: usize) -> io::Result<Socket> {
        self.connect_shaped(to, number, attempt, |_| Ok(()))
    }

    /// As [`Sources::connect`]; `shape` sets what else the socket is to have before it connects.
    ///
    /// # Errors
    /// As [`Sources::connect`], or what `shape` says.
    pub(crate) fn connect_shaped(
        self,
        to: SocketAddr,
        number: usize,
        attempt: usize,
        shape: impl Fn(&Socket) -> io::Result<()>,
    ) -> io::Result<Socket> {
        if !matches!(to.ip(), IpAddr::V4(address) if address.is_loopback()) {
            return open(to, None, shape);
        }
        let mut tried = 0;
        loop {
            let result = open(to, Some(self.of(number, attempt + tried)), &shape);
            tried += 1;
            match result {
                Err(error) if is_port_taken(&error) && tried < PORTS_PER_CONNECTION => {}
                result => return result,
            }
        }
    }
}

fn is_port_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn open(
    to: SocketAddr,
    from: Option<SocketAddr>,
    shape: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from {
        // A port that an earlier attempt left in TIME_WAIT may be used again.
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    shape(&socket)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket),
    }
}

#[cfg(test)]
mod tests;
