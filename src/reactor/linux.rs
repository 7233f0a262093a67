//! What the reactor asks of Linux alone.

use std::io;

use mio::net::TcpStream;
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
