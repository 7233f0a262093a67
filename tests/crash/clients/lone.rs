//! One who fills a queue with messages of all priorities, and then takes them one at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::wire::proto;
use relaymesh::wire::proto::Kind;

use super::producers::{Draft, Marked, plain};
use super::workers::order_of;
use super::{GLANCE, PRIO, Shared, read};
use crate::history::{How, What};
use crate::support::wire::{Arrival, Wire};

/// When nothing comes for so long, all of it was taken.
const IDLE: Duration = Duration::from_millis(80);

/// Fills and empties its queue until told to stop, and empties it then.
pub(crate) fn fill_and_empty(shared: &Shared, number: u64, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut marked = Marked::new(random.u64(1..));
    let mut last_key = 0;
    while !shared.is_ending() {
        let mut drafts: Vec<Draft> = Vec::new();
        for _ in 0..random.usize(2..5) {
            let messages = (0..random.usize(1..8)).map(|_| {
                last_key += 1;
                let key = shared.key(number, last_key);
                (key, proto::Message { priority: random.u32(1..=10), ..plain(key) })
            });
            drafts.push(Draft::to_queue(PRIO, messages.collect()));
        }
        fill(shared, &mut marked, drafts);
        empty(shared);
    }
}

/// Publishes all of it and waits until it is answered.
fn fill(shared: &Shared, marked: &mut Marked, mut drafts: Vec<Draft>) {
    while !shared.is_over() && (!drafts.is_empty() || marked.unanswered() > 0) {
        let Some((mut wire, life)) = shared.connect("lone-producer") else { continue };
        let mut is_up = marked.send_again(&mut wire);
        while is_up && !shared.is_over() && (!drafts.is_empty() || marked.unanswered() > 0) {
            if let Some(draft) = drafts.pop() {
                is_up = marked.publish(draft, &mut wire, life, shared);
                continue;
            }
            match wire.read_until(Instant::now() + GLANCE) {
                Arrival::Frame(frame) => marked.answered(&frame, life, shared),
                Arrival::Closed => is_up = false,
                Arrival::Nothing => {}
            }
        }
    }
}

/// Takes one message after another until there is none.
fn empty(shared: &Shared) {
    while !shared.is_over() {
        let Some((mut wire, life)) = shared.connect("lone-worker") else { continue };
        shared.see(life, What::Subscribe { place: PRIO });
        wire.send_subscribe(1, PRIO, 1);
        if take_all(shared, &mut wire, life) {
            return;
        }
    }
}

/// Whether nothing was left, rather than the connection having ended.
fn take_all(shared: &Shared, wire: &mut Wire, life: u32) -> bool {
    // Operations and leases by the acks in flight; the next message may come just before the answer to the last one's.
    let mut acks: BTreeMap<u64, (u64, proto::Lease)> = BTreeMap::new();
    let mut idle_since = Instant::now();
    while !shared.is_over() {
        match wire.read_until(Instant::now() + GLANCE) {
            Arrival::Frame(frame) if frame.is(Kind::Deliver) => {
                let deliver: proto::Deliver = frame.parse(Kind::Deliver);
                let [delivery] = &deliver.deliveries[..] else { panic!("one at a time: {deliver:?}") };
                let lease = delivery.lease.expect("a delivery from a queue has a lease");
                let message = proto::Message::decode(&delivery.message[..]).expect("a delivered Message");
                let ((key, intact), id, order) = (read(&message), lease.message_id, order_of(&lease));
                shared.see(life, What::Delivered { place: PRIO, key, id, lease: order, intact });
                let op = shared.op();
                shared.see(life, What::Settle { op, id, lease: order, how: How::Ack });
                acks.insert(wire.send_ack(&[lease], true), (op, lease));
                idle_since = Instant::now();
            }
            Arrival::Frame(frame) => {
                let reply: proto::Reply = frame.parse(Kind::Reply);
                for seq in reply.seq..=reply.seq + u64::from(reply.more) {
                    if let Some((op, lease)) = acks.remove(&seq)
                        && !reply.lost.contains(&lease)
                    {
                        shared.see(life, What::Settled { op });
                    }
                }
            }
            Arrival::Closed => return false,
            Arrival::Nothing if acks.is_empty() && idle_since.elapsed() > IDLE => return true,
            Arrival::Nothing => {}
        }
    }
    true
}
