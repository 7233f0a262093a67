//! A client that does nothing wrong, and measures how it is served meanwhile.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use relaymesh::wire::proto;
use relaymesh::wire::proto::Kind;

use crate::support::wire::{Wire, payload};

/// The slowest of a hundred pings, and ten times the typical one. A stall would be seconds.
const PING_P99_MAX: Duration = Duration::from_millis(500);
/// Where the machine is held up, how many times as long as those of a bare echo beside it pings may take instead.
const TIMES_BARE_MAX: u32 = 20;

/// The good client at work.
pub(crate) struct GoodClient<'scope> {
    stop: Arc<AtomicBool>,
    thread: Option<ScopedJoinHandle<'scope, Service>>,
}

/// How it was served.
#[derive(Debug, Default)]
pub(crate) struct Service {
    rounds: usize,
    ping: Quantiles,
    /// The same moments, measured with an echo that has nothing else to do: what the machine alone takes.
    bare: Quantiles,
}

/// Of many delays.
#[derive(Debug, Default)]
struct Quantiles {
    p50: Duration,
    p99: Duration,
}

impl Quantiles {
    fn of(mut delays: Vec<Duration>) -> Self {
        delays.sort_unstable();
        Self { p50: delays[delays.len() / 2], p99: delays[delays.len() * 99 / 100] }
    }
}

/// A connection to a thread that sends everything back.
fn bare_echo() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("a bound socket has an address"));
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client connects");
        stream.set_nodelay(true).expect("a socket takes its options");
        let mut ping = [0; 2];
        while stream.read_exact(&mut ping).is_ok() && stream.write_all(&ping).is_ok() {}
    });
    let client = client.expect("somebody listens");
    client.set_nodelay(true).expect("a socket takes its options");
    client
}

fn bare_ping(echo: &mut TcpStream) -> Duration {
    let start = Instant::now();
    echo.write_all(&[Kind::Ping as u8, 0]).expect("the echo reads");
    echo.read_exact(&mut [0; 2]).expect("the echo answers");
    start.elapsed()
}

/// Takes the server through its first allocations, so that they do not count as growth.
pub(crate) fn warm_up(server: SocketAddr) {
    let (mut wire, _) = Wire::welcome(server, "warm-up");
    wire.subscribe(1, "warm-up", 1000);
    for _ in 0..100 {
        round(&mut wire, "warm-up");
    }
}

/// Starts a good client that goes on until stopped.
pub(crate) fn start<'scope>(scope: &'scope Scope<'scope, '_>, server: SocketAddr) -> GoodClient<'scope> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = scope.spawn(move || {
        let (mut wire, _) = Wire::welcome(server, "good");
        wire.subscribe(1, "good-work", 1000);
        let mut echo = bare_echo();
        let (mut pings, mut bare) = (Vec::new(), Vec::new());
        while !stopped.load(Ordering::Relaxed) || pings.len() < 100 {
            pings.push(wire.ping());
            bare.push(bare_ping(&mut echo));
            round(&mut wire, "good-work");
            thread::sleep(Duration::from_millis(5));
        }
        Service { rounds: pings.len(), ping: Quantiles::of(pings), bare: Quantiles::of(bare) }
    });
    GoodClient { stop, thread: Some(thread) }
}

/// One message on its whole way: published, delivered, acked.
fn round(wire: &mut Wire, queue: &str) {
    let publish_seq = wire.send_publish(queue, &[b"good work"]);
    let (mut published, mut delivered) = (false, None);
    while !published || delivered.is_none() {
        let frame = wire.next();
        if frame.is(Kind::Deliver) {
            delivered = frame.parse::<proto::Deliver>(Kind::Deliver).deliveries.pop();
        } else {
            let ack: proto::PublishAck = frame.parse(Kind::PublishAck);
            assert_eq!((ack.seq, ack.refusal), (publish_seq, None));
            published = true;
        }
    }
    let delivery = delivered.expect("the loop ends with one");
    assert_eq!(payload(&delivery), b"good work");
    let seq = wire.send_ack(&[delivery.lease.expect("a delivery has a lease")], true);
    wire.expect_ok(seq);
}

impl GoodClient<'_> {
    /// Ends it and says how it was served; panics when it was not.
    pub(crate) fn stop(mut self) -> Service {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the good client was served")
    }
}

/// A test that failed beside it is not to wait for it.
impl Drop for GoodClient<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Service {
    /// Panics unless the pings and the work went on as if nobody else were there.
    pub(crate) fn assert_undisturbed(&self) {
        let Self { rounds, ping, bare } = self;
        assert!(*rounds >= 100, "work went on: {self:?}");
        let (p50_max, p99_max) = (PING_P99_MAX / 10, PING_P99_MAX);
        assert!(ping.p50 < p50_max.max(bare.p50 * TIMES_BARE_MAX), "{self:?}");
        assert!(ping.p99 < p99_max.max(bare.p99 * TIMES_BARE_MAX), "{self:?}");
    }
}
