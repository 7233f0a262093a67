//! The same where the system is not Linux: what a listener does not hand down is set on each connection.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;

use mio::net::TcpStream;
use socket2::{SockRef, Socket, TcpKeepalive};

use super::listener::KeepAlive;

pub(super) fn tune_listener(_socket: &Socket, _keep_alive: &KeepAlive) -> io::Result<()> {
    Ok(())
}

pub(super) fn tune_accepted(stream: &TcpStream, keep_alive: &KeepAlive) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(keep_alive.idle);
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Whether connections that wait in a listener go to the others of its group when it is closed.
pub(super) fn connections_migrate() -> bool {
    false
}

/// Asked of private tables alone, of which there are none here.
pub(super) fn tcp_state(_number: RawFd) -> Option<usize> {
    None
}

/// Wakes a loop from other threads.
#[derive(Debug)]
pub(super) struct Doorbell {
    button: UnixStream,
    chime: UnixStream,
}

impl Doorbell {
    pub(super) fn new() -> io::Result<Self> {
        let (button, chime) = UnixStream::pair()?;
        button.set_nonblocking(true)?;
        chime.set_nonblocking(true)?;
        Ok(Self { button, chime })
    }

    pub(super) fn number(&self) -> RawFd {
        self.chime.as_raw_fd()
    }

    pub(super) fn ring(&self) {
        // Full means that it was rung and not heard yet.
        let _ = (&self.button).write(&[1]);
    }

    /// What the loop does once woken: makes room, so that the next ring is an edge again.
    pub(super) fn hush(&self) {
        while matches!((&self.chime).read(&mut [0; 64]), Ok(64)) {}
    }
}
