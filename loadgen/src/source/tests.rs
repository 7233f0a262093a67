use std::collections::HashSet;
use std::net::TcpListener;

use super::*;

#[test]
fn a_million_connections_have_a_million_sources_at_every_attempt() {
    let sources = Sources { network: 77 };
    for attempt in [0, 1, 2, 5] {
        let all: HashSet<SocketAddr> = (0..1_000_000).map(|number| sources.of(number, attempt)).collect();
        assert_eq!(all.len(), 1_000_000, "attempt {attempt}");
        assert!(all.iter().all(|from| from.ip().is_loopback() && from.port() >= 5_000));
    }
    assert_ne!(sources.of(7, 0), sources.of(7, 1));
}

#[test]
fn a_taken_port_is_left_to_its_owner() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let sources = Sources::draw();
    let _taken = TcpListener::bind(sources.of(3, 0)).unwrap();
    let socket = sources.connect(to, 3, 0).unwrap();
    assert_eq!(socket.local_addr().unwrap().as_socket(), Some(sources.of(3, 1)));
    let other = sources.connect(to, 4, 0).unwrap();
    assert_eq!(other.local_addr().unwrap().as_socket(), Some(sources.of(4, 0)));
}
