//! The same where the system is not Linux: what a listener does not hand down is set on each connection.

use std::io;

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
