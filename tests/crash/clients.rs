//! Producers and workers that go on through every crash, and write down what they see.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::wire::proto;
use relaymesh::wire::proto::Kind;

use crate::history::{Event, Lease};
use crate::support::PATIENCE;
use crate::support::wire::{Arrival, Frame, Wire, hello, payload};

/// Publishes of one producer that may be unanswered at once.
const IN_FLIGHT_MAX: usize = 64;
/// Queues the producers publish to.
const QUEUES: usize = 2;
/// How long a client waits for a word before it looks at what it was told to do.
const GLANCE: Duration = Duration::from_millis(50);

/// What the campaign and its clients share.
pub(crate) struct Shared {
    /// Where the server is; `None` while it is down.
    pub(crate) server: Mutex<Option<SocketAddr>>,
    /// What all clients saw.
    pub(crate) history: Mutex<Vec<Event>>,
    /// Producers publish nothing new and end once all is answered.
    pub(crate) producers_stop: AtomicBool,
    /// Workers end, and producers too, whatever is unanswered.
    pub(crate) workers_stop: AtomicBool,
}

impl Shared {
    /// Nobody is up yet.
    pub(crate) fn new() -> Self {
        Self {
            server: Mutex::new(None),
            history: Mutex::new(Vec::new()),
            producers_stop: AtomicBool::new(false),
            workers_stop: AtomicBool::new(false),
        }
    }

    /// The history so far.
    pub(crate) fn history(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, event: Event) {
        self.history().push(event);
    }

    /// A welcomed connection as soon as there is a server; `None` when none comes within a glance.
    fn connect(&self, client: &str) -> Option<Wire> {
        let server = *self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = server.and_then(|server| {
            let mut wire = Wire::try_connect(server).ok()?;
            wire.send(Kind::Hello, &hello(client));
            match wire.read_until(Instant::now() + PATIENCE) {
                Arrival::Frame(frame) if frame.is(Kind::Welcome) => Some(wire),
                _ => None,
            }
        });
        if attempt.is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        attempt
    }
}

/// The queues that are worked on.
pub(crate) fn queues() -> impl Iterator<Item = String> {
    (0..QUEUES).map(|number| format!("crash-{number}"))
}

/// Publishes under producer sequences until told to stop, and re-sends what a crash left unanswered.
pub(crate) fn produce(shared: &Shared, number: usize, producer_id: u64) {
    let client = format!("producer-{number}");
    let mut unanswered: VecDeque<u64> = VecDeque::new();
    let mut next_sequence = 1;
    loop {
        let stop = shared.producers_stop.load(Ordering::Relaxed);
        if (stop && unanswered.is_empty()) || shared.workers_stop.load(Ordering::Relaxed) {
            return;
        }
        let Some(mut wire) = shared.connect(&client) else { continue };
        // Sequences by the request that carries them on this connection.
        let mut requests: BTreeMap<u64, u64> = BTreeMap::new();
        let send = |wire: &mut Wire, requests: &mut BTreeMap<u64, u64>, sequence: u64, from: u64| {
            let seq = wire.seq();
            requests.insert(seq, sequence);
            wire.send(Kind::Publish, &publish(seq, &key(number, sequence), producer_id, sequence, from))
        };
        let first = unanswered.front().copied().unwrap_or(next_sequence);
        let mut answered_at = Instant::now();
        let mut up = unanswered.iter().all(|&sequence| send(&mut wire, &mut requests, sequence, first));
        while up {
            let stop = shared.producers_stop.load(Ordering::Relaxed);
            while up && !stop && unanswered.len() < IN_FLIGHT_MAX {
                unanswered.push_back(next_sequence);
                let first = unanswered[0];
                up = send(&mut wire, &mut requests, next_sequence, first);
                next_sequence += 1;
            }
            if stop && unanswered.is_empty() {
                return;
            }
            match wire.read_until(Instant::now() + GLANCE) {
                Arrival::Frame(frame) if frame.is(Kind::PublishAck) => {
                    answered(shared, number, &frame, &mut requests, &mut unanswered);
                    answered_at = Instant::now();
                }
                Arrival::Frame(frame) => panic!("a producer got {}", frame.describe()),
                Arrival::Closed => up = false,
                Arrival::Nothing => assert!(answered_at.elapsed() < PATIENCE, "nothing is answered any more"),
            }
        }
    }
}

fn key(producer: usize, sequence: u64) -> String {
    format!("producer {producer} sequence {sequence}")
}

fn publish(seq: u64, key: &str, producer_id: u64, sequence: u64, unanswered_from: u64) -> proto::Publish {
    // Padded to different lengths, so that messages cross blocks at every offset.
    let padding = usize::try_from(sequence * 37 % 400).expect("below 400");
    let payload = format!("{key}|{}", "x".repeat(padding)).into_bytes();
    // A crash uses up an attempt; only acks are to end a message here.
    let message = proto::Message { payload, attempts_max: 1000, ..Default::default() };
    proto::Publish {
        seq,
        queue: format!("crash-{}", sequence as usize % QUEUES),
        messages: vec![message.encode_to_vec()],
        producer_id,
        sequence,
        unanswered_from,
        ..Default::default()
    }
}

fn answered(
    shared: &Shared,
    number: usize,
    frame: &Frame,
    requests: &mut BTreeMap<u64, u64>,
    unanswered: &mut VecDeque<u64>,
) {
    let ack: proto::PublishAck = frame.parse(Kind::PublishAck);
    assert_eq!(ack.refusal, None, "nothing is refused here");
    assert_eq!(ack.messages, ack.more + 1, "one message a request");
    for offset in 0..=u64::from(ack.more) {
        let sequence = requests.remove(&(ack.seq + offset)).expect("an answer to a request");
        unanswered.retain(|&open| open != sequence);
        shared.see(Event::Published { key: key(number, sequence), id: ack.first_id + offset });
    }
}

/// Takes work from all queues until told to stop; acks most of it and nacks the rest.
pub(crate) fn work(shared: &Shared, number: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let client = format!("worker-{number}");
    while !shared.workers_stop.load(Ordering::Relaxed) {
        let Some(mut wire) = shared.connect(&client) else { continue };
        for (subscription, queue) in (1..).zip(queues()) {
            wire.send_subscribe(subscription, &queue, 64);
        }
        // What each ack in flight is about.
        let mut acks: BTreeMap<u64, Vec<(String, proto::Lease)>> = BTreeMap::new();
        while !shared.workers_stop.load(Ordering::Relaxed) {
            match wire.read_until(Instant::now() + GLANCE) {
                Arrival::Frame(frame) if frame.is(Kind::Deliver) => {
                    settle(shared, &mut wire, &frame, &mut acks, &mut random);
                }
                Arrival::Frame(frame) if frame.is(Kind::Reply) => replied(shared, &frame, &mut acks),
                Arrival::Frame(frame) => panic!("a worker got {}", frame.describe()),
                Arrival::Closed => break,
                Arrival::Nothing => {}
            }
        }
    }
}

fn settle(
    shared: &Shared,
    wire: &mut Wire,
    frame: &Frame,
    acks: &mut BTreeMap<u64, Vec<(String, proto::Lease)>>,
    random: &mut fastrand::Rng,
) {
    let mut done = Vec::new();
    for delivery in frame.parse::<proto::Deliver>(Kind::Deliver).deliveries {
        let text = String::from_utf8(payload(&delivery)).expect("payloads are text");
        let key = text.split('|').next().expect("a payload begins with its key").to_owned();
        let lease = delivery.lease.expect("a delivery has a lease");
        shared.see(Event::Delivered { key: key.clone(), id: lease.message_id, lease: order_of(&lease) });
        if random.u8(0..20) == 0 {
            let seq = wire.seq();
            let leases = vec![lease];
            let nack = proto::Nack {
                seq,
                leases,
                replenish: true,
                delay_ms: Some(random.u64(0..100)),
                ..Default::default()
            };
            wire.send(Kind::Nack, &nack);
        } else {
            shared.see(Event::AckSent { key: key.clone() });
            done.push((key, lease));
        }
    }
    if !done.is_empty() {
        let leases: Vec<proto::Lease> = done.iter().map(|(_, lease)| *lease).collect();
        let seq = wire.send_ack(&leases, true);
        acks.insert(seq, done);
    }
}

fn replied(shared: &Shared, frame: &Frame, acks: &mut BTreeMap<u64, Vec<(String, proto::Lease)>>) {
    let reply: proto::Reply = frame.parse(Kind::Reply);
    assert!(reply.text.is_empty() || !reply.lost.is_empty(), "nothing is refused here: {reply:?}");
    for seq in reply.seq..=reply.seq + u64::from(reply.more) {
        for (key, lease) in acks.remove(&seq).unwrap_or_default() {
            if !reply.lost.contains(&lease) {
                shared.see(Event::Acked { key, lease: order_of(&lease) });
            }
        }
    }
}

fn order_of(lease: &proto::Lease) -> Lease {
    Lease { boot: lease.boot, attempt: lease.attempt }
}
