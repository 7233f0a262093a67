//! What the reactor asks of Linux alone.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use mio::net::TcpStream;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use socket2::{Socket, TcpKeepalive};

use super::listener::KeepAlive;

/// Options of every connection, set on the listener: Linux hands them down to what is accepted from it, which saves
/// six system calls an accept.
pub(super) fn tune_listener(socket: &Socket, keep_alive: &KeepAlive) -> io::Result<()> {
    let probes = TcpKeepalive::new()
        .with_time(keep_alive.idle)
        .with_interval(keep_alive.interval)
        .with_retries(keep_alive.retries);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(keep_alive.user_timeout))
}

/// Options of one connection that the listener did not hand down: none here.
pub(super) fn tune_accepted(_stream: &TcpStream, _keep_alive: &KeepAlive) -> io::Result<()> {
    Ok(())
}

/// Whether connections that wait in a listener go to the others of its group when it is closed.
pub(super) fn connections_migrate() -> bool {
    std::fs::read("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.starts_with(b"1"))
}

/// The state of a TCP connection as the system numbers it, from 1 on; 0 for what is none; `None` when nothing is open under
/// that number.
#[allow(unsafe_code)]
pub(super) fn tcp_state(number: RawFd) -> Option<usize> {
    // The first byte of `tcp_info`, which is all that is asked for.
    let mut state = 0_u8;
    let mut length: libc::socklen_t = 1;
    // SAFETY: the pointers are to these two variables, and the system writes no more than `length` bytes. It takes any
    // number for a descriptor and refuses what is none.
    let result = unsafe {
        let value = std::ptr::from_mut(&mut state).cast();
        libc::getsockopt(number, libc::IPPROTO_TCP, libc::TCP_INFO, value, &raw mut length)
    };
    match result {
        0 => Some(usize::from(state)),
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::EBADF) => None,
        _ => Some(0),
    }
}

/// Wakes a loop from other threads, through the table they share. The loop's poller knows it by the same number, in the
/// loop's own table or in the shared one.
#[derive(Debug)]
pub(super) struct Doorbell {
    /// Closed with the last bell, which outlives the loop in the threads that ring it.
    counter: OwnedFd,
}

impl Doorbell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { counter: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)? })
    }

    pub(super) fn number(&self) -> RawFd {
        self.counter.as_raw_fd()
    }

    pub(super) fn ring(&self) {
        let one = 1_u64.to_ne_bytes();
        if write(&self.counter, &one) == Err(Errno::AGAIN) {
            // It was rung 2^64 - 2 times: from the start again.
            let _ = read(&self.counter, &mut [0_u8; 8]);
            let _ = write(&self.counter, &one);
        }
    }

    /// What the loop does once woken: nothing, for every ring is an edge of its own.
    pub(super) fn hush(&self) {}
}
