//! Connecting, and waiting for the socket or a wake-up.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Makes a waiting call of its [`super::Client`] return. Cheap to clone and to ring.
#[derive(Debug, Clone)]
pub struct Waker(Arc<UnixStream>);

impl Waker {
    /// Rings. What rings twice before the client looks counts once.
    pub fn wake(&self) {
        // A full pipe rings already; a closed one has nobody to wake.
        let _ = (&*self.0).write(&[1]);
    }
}

/// The client's end of its [`Waker`].
#[derive(Debug)]
pub(super) struct WakeReceiver(UnixStream);

impl WakeReceiver {
    /// Takes what rang, so that a wait waits again.
    pub(super) fn silence(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.0.read(&mut bytes), Ok(read) if read == bytes.len()) {}
    }
}

/// A socket pair does on every system what an eventfd does on Linux.
pub(super) fn wake_pair() -> io::Result<(Waker, WakeReceiver)> {
    let (sender, receiver) = UnixStream::pair()?;
    sender.set_nonblocking(true)?;
    receiver.set_nonblocking(true)?;
    Ok((Waker(Arc::new(sender)), WakeReceiver(receiver)))
}

/// Tries every address of `address` in turn, each for up to `timeout`.
pub(super) fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// What [`wait`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Readiness {
    /// Bytes, an end or an error wait to be read from the socket.
    pub(super) readable: bool,
    /// The waker rang.
    pub(super) woken: bool,
}

/// Waits for the socket to be readable (and writable, where wanted), for the waker, or for `timeout`. A signal ends
/// the wait as well.
pub(super) fn wait(
    socket: Option<(&TcpStream, bool)>,
    wake: &WakeReceiver,
    timeout: Option<Duration>,
) -> io::Result<Readiness> {
    let wake = PollFd::new(&wake.0, PollFlags::IN);
    let mut both;
    let mut alone;
    let fds = match socket {
        Some((stream, writing)) => {
            let out = if writing { PollFlags::OUT } else { PollFlags::empty() };
            both = [wake, PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN | out)];
            &mut both[..]
        }
        None => {
            alone = [wake];
            &mut alone[..]
        }
    };
    // Beyond what a timespec holds nothing is ever waited for.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let waiting = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
    Ok(Readiness {
        woken: fds[0].revents().intersects(waiting),
        readable: fds.get(1).is_some_and(|socket| socket.revents().intersects(waiting)),
    })
}
