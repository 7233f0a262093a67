//! Workers: they take from all queues, and do with each message what its queue is there for.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::wire::proto;
use relaymesh::wire::proto::{Code, Kind};

use super::{DELAYED, GLANCE, HOARD, KEYED, LEASED, MORTAL, STAGES, Shared, WORKED, producers, read};
use crate::history::{Copy, How, Key, Lease, Place, Publish, What};
use crate::support::wire::{Arrival, Frame, Wire};

/// Messages of one queue that one worker has at once.
const CREDIT: u32 = 24;
/// Beyond it a worker that forgets messages forgets them for good.
const FORGOTTEN_MAX: usize = 64;

/// What is decided about a delivery.
enum Doing {
    Settle(How),
    Forward(Place),
    /// Nothing is said before its lease is over, and perhaps never.
    Forget,
}

/// A worker's connection.
struct Work<'a> {
    shared: &'a Shared,
    places: &'a [Place],
    life: u32,
    wire: Wire,
    /// What each request in flight is about.
    settles: HashMap<u64, Vec<(u64, proto::Lease)>>,
    forwards: HashMap<u64, Forwarded>,
    forgotten: VecDeque<(Instant, proto::Lease)>,
}

struct Forwarded {
    publish: u64,
    settle: u64,
}

/// Takes work from all queues until told to stop.
pub(crate) fn work(shared: &Shared, number: u64, seed: u64) {
    work_on(shared, number, seed, &WORKED);
}

/// Takes what was hoarded, once nothing new is begun.
pub(crate) fn unload(shared: &Shared, number: u64, seed: u64) {
    while !shared.is_ending() {
        std::thread::sleep(GLANCE);
    }
    work_on(shared, number, seed, &[HOARD]);
}

fn work_on(shared: &Shared, number: u64, seed: u64, places: &[Place]) {
    let mut random = fastrand::Rng::with_seed(seed);
    let client = format!("worker-{number}");
    while !shared.is_over() {
        let Some((wire, life)) = shared.connect(&client) else { continue };
        let (settles, forwards, forgotten) = (HashMap::new(), HashMap::new(), VecDeque::new());
        let mut work = Work { shared, places, life, wire, settles, forwards, forgotten };
        for (subscription, queue) in (1..).zip(places) {
            work.wire.send_subscribe(subscription, queue, CREDIT);
        }
        while !shared.is_over() {
            match work.wire.read_until(Instant::now() + GLANCE) {
                Arrival::Frame(frame) if frame.is(Kind::Deliver) => work.take(&frame, &mut random),
                Arrival::Frame(frame) if frame.is(Kind::Reply) => work.replied(&frame),
                Arrival::Frame(frame) if frame.is(Kind::PublishAck) => work.forwarded(&frame),
                Arrival::Frame(frame) => panic!("a worker got {}", frame.describe()),
                Arrival::Closed => break,
                Arrival::Nothing => {}
            }
            work.remember();
            // Now and then one dies without a word, and comes back.
            if random.u16(0..4000) == 0 {
                break;
            }
        }
    }
}

pub(crate) fn order_of(lease: &proto::Lease) -> Lease {
    Lease { boot: lease.boot, attempt: lease.attempt }
}

fn decide(place: Place, key: Key, random: &mut fastrand::Rng) -> Doing {
    let nack = |delay_ms: u64| Doing::Settle(How::Nack { delay: delay_ms * 1000 });
    if let Some(stage) = STAGES.iter().position(|stage| *stage == place)
        && let Some(next) = STAGES.get(stage + 1)
    {
        return Doing::Forward(next);
    }
    match (place, random.u8(0..100)) {
        (MORTAL, _) => match key.0 % 4 {
            1 => nack(random.u64(0..20)),
            2 => Doing::Settle(How::Reject),
            _ => Doing::Settle(How::Ack),
        },
        (LEASED, 0..30) => Doing::Forget,
        (KEYED, 0..15) => nack(random.u64(0..30)),
        (DELAYED, 0..20) => nack(random.u64(50..300)),
        (place, 0..5) if place.starts_with("plain") => nack(random.u64(0..100)),
        _ => Doing::Settle(How::Ack),
    }
}

impl Work<'_> {
    fn see(&self, what: What) {
        self.shared.see(self.life, what);
    }

    fn take(&mut self, frame: &Frame, random: &mut fastrand::Rng) {
        let mut done = Vec::new();
        for delivery in frame.parse::<proto::Deliver>(Kind::Deliver).deliveries {
            let place = self.places[delivery.subscription as usize - 1];
            let lease = delivery.lease.expect("a delivery from a queue has a lease");
            let message = proto::Message::decode(&delivery.message[..]).expect("a delivered Message");
            let (key, intact) = read(&message);
            let (id, order) = (lease.message_id, order_of(&lease));
            self.see(What::Delivered { place, key, id, lease: order, intact });
            match decide(place, key, random) {
                Doing::Settle(How::Ack) => done.push(lease),
                Doing::Settle(how) => self.nack(lease, how),
                Doing::Forward(next) => self.forward(lease, key, next),
                Doing::Forget => self.forget(lease, &delivery, random),
            }
        }
        if !done.is_empty() {
            self.ack(&done);
        }
    }

    fn settle(&self, lease: &proto::Lease, how: How) -> u64 {
        let op = self.shared.op();
        self.see(What::Settle { op, id: lease.message_id, lease: order_of(lease), how });
        op
    }

    fn ack(&mut self, leases: &[proto::Lease]) {
        let ops = leases.iter().map(|lease| (self.settle(lease, How::Ack), *lease)).collect();
        let seq = self.wire.send_ack(leases, true);
        self.settles.insert(seq, ops);
    }

    fn nack(&mut self, lease: proto::Lease, how: How) {
        let op = self.settle(&lease, how);
        let seq = self.wire.seq();
        let delay_ms = match how {
            How::Nack { delay } => Some(delay / 1000),
            _ => None,
        };
        let (reject, error) = (how == How::Reject, "as it was told".to_owned());
        let nack = proto::Nack { seq, leases: vec![lease], replenish: true, delay_ms, error, reject };
        self.settles.insert(seq, vec![(op, lease)]);
        self.wire.send(Kind::Nack, &nack);
    }

    fn forward(&mut self, lease: proto::Lease, key: Key, next: Place) {
        let publish = self.shared.op();
        let copies = vec![Copy { key, place: next, priority: 4, order: 0, expires: false }];
        let acks = Some((lease.message_id, order_of(&lease)));
        self.see(What::Publish(Box::new(Publish { op: publish, copies, flips: None, delay: 0, acks })));
        let settle = self.settle(&lease, How::Forward);
        let seq = self.wire.seq();
        self.forwards.insert(seq, Forwarded { publish, settle });
        let publish = proto::Publish {
            seq,
            queue: next.to_owned(),
            messages: vec![producers::plain(key).encode_to_vec()],
            acks: vec![lease],
            replenish: true,
            ..proto::Publish::default()
        };
        self.wire.send(Kind::Publish, &publish);
    }

    fn forget(&mut self, lease: proto::Lease, delivery: &proto::Delivery, random: &mut fastrand::Rng) {
        if self.forgotten.len() < FORGOTTEN_MAX {
            self.forgotten.push_back((Instant::now() + Duration::from_millis(random.u64(100..900)), lease));
        }
        let credit = proto::Credit { subscription: delivery.subscription, messages: 1, bytes: 0 };
        self.wire.send(Kind::Credit, &credit);
    }

    /// Some of what was forgotten is acked after all, in time or too late.
    fn remember(&mut self) {
        while let Some((at, lease)) = self.forgotten.front().copied()
            && at <= Instant::now()
        {
            self.forgotten.pop_front();
            if lease.message_id.is_multiple_of(2) {
                let op = self.settle(&lease, How::Ack);
                let seq = self.wire.send_ack(&[lease], false);
                self.settles.insert(seq, vec![(op, lease)]);
            }
        }
    }

    fn replied(&mut self, frame: &Frame) {
        let reply: proto::Reply = frame.parse(Kind::Reply);
        let is_told = reply.code() == Code::Ok || !reply.lost.is_empty();
        assert!(is_told, "nothing is refused here: {reply:?}");
        for seq in reply.seq..=reply.seq + u64::from(reply.more) {
            for (op, lease) in self.settles.remove(&seq).unwrap_or_default() {
                if !reply.lost.contains(&lease) {
                    self.see(What::Settled { op });
                }
            }
        }
    }

    fn forwarded(&mut self, frame: &Frame) {
        let ack: proto::PublishAck = frame.parse(Kind::PublishAck);
        for (offset, seq) in (ack.seq..=ack.seq + u64::from(ack.more)).enumerate() {
            let Forwarded { publish, settle } = self.forwards.remove(&seq).expect("an answer to a request");
            match &ack.refusal {
                None => {
                    self.see(What::Published { op: publish, first_id: Some(ack.first_id + offset as u64) });
                    self.see(What::Settled { op: settle });
                }
                Some(refusal) if refusal.code() == Code::LeaseLost => self.see(What::Refused { op: publish }),
                Some(refusal) => panic!("a stage was refused: {refusal:?}"),
            }
        }
    }
}
