//! A client that does nothing wrong, and measures how it is served meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use relaymesh::wire::proto;
use relaymesh::wire::proto::Kind;

use crate::support::wire::{Wire, payload};

/// The slowest of a hundred pings. Generous: the tests share their machine, and a stall would be seconds.
const PING_P99_MAX: Duration = Duration::from_millis(500);

/// The good client at work.
pub(crate) struct GoodClient<'scope> {
    stop: Arc<AtomicBool>,
    thread: Option<ScopedJoinHandle<'scope, Service>>,
}

/// How it was served.
#[derive(Debug, Default)]
pub(crate) struct Service {
    rounds: usize,
    ping_p50: Duration,
    ping_p99: Duration,
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
        let mut pings = Vec::new();
        while !stopped.load(Ordering::Relaxed) || pings.len() < 100 {
            pings.push(wire.ping());
            round(&mut wire, "good-work");
            std::thread::sleep(Duration::from_millis(5));
        }
        pings.sort_unstable();
        let rounds = pings.len();
        Service { rounds, ping_p50: pings[rounds / 2], ping_p99: pings[rounds * 99 / 100] }
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
        assert!(self.rounds >= 100, "work went on: {self:?}");
        assert!(self.ping_p50 < PING_P99_MAX / 10 && self.ping_p99 < PING_P99_MAX, "{self:?}");
    }
}
