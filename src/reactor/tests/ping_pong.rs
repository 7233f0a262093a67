//! The bare loop's round trips, without a protocol: `cargo test --lib ping_pong -- --ignored --nocapture`.

use std::io::{Read, Write};
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::*;

const CONNECTIONS: usize = 100;
const ROUND_TRIPS: usize = 1_000_000;

#[test]
#[ignore = "a measurement"]
fn ping_pong() {
    let running = start(1);
    let mut poll = Poll::new().unwrap();
    let mut streams: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let stream = std::net::TcpStream::connect(running.address).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream.set_nodelay(true).unwrap();
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(number), Interest::READABLE).unwrap();
            stream
        })
        .collect();
    let (begun, used) = (Instant::now(), host::cpu_time());
    for stream in &mut streams {
        assert_eq!(stream.write(b"ab").unwrap(), 2);
    }
    let mut events = Events::with_capacity(CONNECTIONS);
    let mut done = 0;
    while done < ROUND_TRIPS {
        poll.poll(&mut events, None).unwrap();
        for event in &events {
            let stream = &mut streams[event.token().0];
            assert_eq!(stream.read(&mut [0; 16]).unwrap(), 2);
            assert_eq!(stream.write(b"ab").unwrap(), 2);
            done += 1;
        }
    }
    let took = begun.elapsed();
    let turns = running.metrics[0].turns.value();
    println!(
        "{CONNECTIONS} connections: {:.0} round trips a second, {:.2} µs of processor each with the client, {:.1} a turn",
        done as f64 / took.as_secs_f64(),
        (host::cpu_time() - used).as_secs_f64() * 1e6 / done as f64,
        done as f64 / turns as f64,
    );
    running.stop();
}
