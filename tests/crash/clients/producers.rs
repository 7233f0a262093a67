//! Producers: those that send again under their sequences what was not answered, and those that send each thing once.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use relaymesh::wire::proto;
use relaymesh::wire::proto::Kind;

use super::{
    BATCH, DELAYED, FLIP, GLANCE, HOARD, KEYED, LEASED, MORTAL, PLAIN, STAGES, Shared, TOPICAL, payload,
};
use crate::history::{Copy, Key, Micros, Place, Publish, What};
use crate::support::PATIENCE;
use crate::support::wire::{Arrival, Frame, Wire};

/// Publishes of one producer that may be unanswered at once.
const IN_FLIGHT_MAX: usize = 48;
/// Between two handfuls of publishes.
const PAUSE: Duration = Duration::from_micros(1500);
/// Ordering keys in use.
const ORDER_KEYS: u8 = 32;

/// A publish before it is sent.
pub(crate) struct Draft {
    pub(crate) to: String,
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) copies: Vec<Copy>,
    flips: Option<Place>,
    delay: Micros,
}

impl Draft {
    /// Messages to one queue.
    pub(crate) fn to_queue(place: Place, messages: Vec<(Key, proto::Message)>) -> Self {
        let copy = |(key, message): &(Key, proto::Message)| {
            let priority = message.priority.checked_sub(1).unwrap_or(4) as u8;
            let order = message.order_key.trim_start_matches("key-").parse().unwrap_or(0);
            let expires = message.ttl_ms > 0;
            Copy { key: *key, place, priority, order, expires }
        };
        let (copies, first) = (messages.iter().map(copy).collect(), &messages[0].1);
        let delay = Micros::from(first.delay_ms) * 1000;
        let messages = messages.iter().map(|(_, message)| message.encode_to_vec()).collect();
        Self { to: place.to_owned(), messages, copies, flips: None, delay }
    }

    /// A message to the queues that are bound to its topic.
    fn to_topic(key: Key, random: &mut fastrand::Rng) -> Self {
        let (is_red, size, shop) = (random.bool(), random.u32(0..100), random.u8(0..5));
        let colour = if is_red { "red" } else { "blue" };
        let mut message = plain(key);
        message.attributes.insert("colour".to_owned(), colour.to_owned());
        message.attributes.insert("size".to_owned(), size.to_string());
        let places = [true, is_red, !is_red && size > 50];
        let bound = TOPICAL.into_iter().zip(places).filter(|(_, bound)| *bound);
        let copy = |(place, _)| Copy { key, place, priority: 4, order: 0, expires: false };
        let copies = bound.map(copy).collect();
        let to = format!("topic/crash.shop{shop}.{colour}");
        Self { to, messages: vec![message.encode_to_vec()], copies, flips: Some(FLIP), delay: 0 }
    }

    /// Writes down that it is about to be sent.
    pub(crate) fn told(&self, op: u64, shared: &Shared, life: u32) {
        let (copies, flips, delay) = (self.copies.clone(), self.flips, self.delay);
        shared.see(life, What::Publish(Box::new(Publish { op, copies, flips, delay, acks: None })));
    }

    fn is_topical(&self) -> bool {
        self.to.starts_with("topic/")
    }
}

/// A message that only acks end; a crash uses up an attempt.
pub(crate) fn plain(key: Key) -> proto::Message {
    proto::Message { payload: payload(key), attempts_max: 1000, ..proto::Message::default() }
}

/// Something to publish. `keys` gives as many new keys as it takes.
fn draft(keys: &mut impl FnMut() -> Key, random: &mut fastrand::Rng) -> Draft {
    let one = |place, message: proto::Message, key| Draft::to_queue(place, vec![(key, message)]);
    let key = keys();
    match random.u8(0..100) {
        0..36 => one(PLAIN[random.usize(0..2)], plain(key), key),
        36..44 => {
            let most = if random.u8(0..20) == 0 { 200 } else { 12 };
            let more = random.usize(1..most);
            let all = std::iter::once(key).chain((0..more).map(|_| keys()));
            Draft::to_queue(BATCH, all.map(|key| (key, plain(key))).collect())
        }
        44..56 => {
            let order_key = format!("key-{}", random.u8(1..=ORDER_KEYS));
            one(KEYED, proto::Message { order_key, ..plain(key) }, key)
        }
        56..64 => {
            let delay_ms = random.u64(20..700);
            let mut message = proto::Message { delay_ms, ..plain(key) };
            if random.bool() {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                (message.delay_ms, message.due_unix_ms) = (0, now.as_millis() as u64 + delay_ms);
            }
            let draft = one(DELAYED, message, key);
            Draft { delay: delay_ms * 1000, ..draft }
        }
        64..74 => one(STAGES[0], plain(key), key),
        74..77 => {
            let mortal = |key| proto::Message { attempts_max: 2, ..plain(key) };
            if key.0 % 4 < 3 {
                return one(MORTAL, mortal(key), key);
            }
            // The second one's time is over while it is behind the first one's delay.
            let (first, order_key) = (keys(), format!("mortal {}", key.0));
            let ahead = proto::Message { delay_ms: 200, order_key: order_key.clone(), ..mortal(first) };
            let behind = proto::Message { ttl_ms: 30, order_key, ..mortal(key) };
            Draft::to_queue(MORTAL, vec![(first, ahead), (key, behind)])
        }
        77..82 => one(LEASED, plain(key), key),
        82..86 => one(HOARD, plain(key.large()), key.large()),
        _ => Draft::to_topic(key, random),
    }
}

/// A publish that has no answer yet.
struct Sent {
    op: u64,
    draft: Draft,
    sequence: u64,
}

/// One producer's sequences, through all of its connections.
pub(crate) struct Marked {
    producer_id: u64,
    next_sequence: u64,
    unanswered: VecDeque<Sent>,
    /// Operations by the request that carries them on this connection.
    requests: HashMap<u64, u64>,
}

impl Marked {
    pub(crate) fn new(producer_id: u64) -> Self {
        let (unanswered, requests) = (VecDeque::new(), HashMap::new());
        Self { producer_id, next_sequence: 1, unanswered, requests }
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Publishes something new; whether the connection still took it.
    pub(crate) fn publish(&mut self, draft: Draft, wire: &mut Wire, life: u32, shared: &Shared) -> bool {
        let (op, sequence) = (shared.op(), self.next_sequence);
        draft.told(op, shared, life);
        self.next_sequence += draft.messages.len() as u64;
        self.unanswered.push_back(Sent { op, draft, sequence });
        self.send(self.unanswered.len() - 1, wire)
    }

    /// Sends everything again that has no answer; whether the connection took it.
    pub(crate) fn send_again(&mut self, wire: &mut Wire) -> bool {
        self.requests.clear();
        (0..self.unanswered.len()).all(|at| self.send(at, wire))
    }

    fn send(&mut self, at: usize, wire: &mut Wire) -> bool {
        let (seq, unanswered_from, sent) = (wire.seq(), self.unanswered[0].sequence, &self.unanswered[at]);
        self.requests.insert(seq, sent.op);
        let publish = proto::Publish {
            seq,
            queue: sent.draft.to.clone(),
            messages: sent.draft.messages.clone(),
            producer_id: self.producer_id,
            sequence: sent.sequence,
            unanswered_from,
            ..proto::Publish::default()
        };
        wire.send(Kind::Publish, &publish)
    }

    /// Takes in a PUBLISH_ACK.
    pub(crate) fn answered(&mut self, frame: &Frame, life: u32, shared: &Shared) {
        let ack: proto::PublishAck = frame.parse(Kind::PublishAck);
        assert_eq!(ack.refusal, None, "nothing is refused here");
        let mut first_id = ack.first_id;
        for seq in ack.seq..=ack.seq + u64::from(ack.more) {
            let op = self.requests.remove(&seq).expect("an answer to a request");
            let at =
                self.unanswered.iter().position(|sent| sent.op == op).expect("answered once a connection");
            let draft = self.unanswered.remove(at).expect("it was found there").draft;
            let told = (!draft.is_topical()).then_some(first_id);
            first_id += draft.messages.len() as u64;
            shared.see(life, What::Published { op, first_id: told });
        }
    }
}

/// Publishes to everything until told to stop, and sends again what a crash left unanswered.
pub(crate) fn produce(shared: &Shared, number: u64, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let client = format!("producer-{number}");
    let mut marked = Marked::new(random.u64(1..));
    let mut last_key = 0;
    let mut keys = || {
        last_key += 1;
        shared.key(number, last_key)
    };
    while !(shared.is_ending() && marked.unanswered.is_empty() || shared.is_over()) {
        let Some((mut wire, life)) = shared.connect(&client) else { continue };
        let mut is_up = marked.send_again(&mut wire);
        let mut answered_at = Instant::now();
        while is_up && !shared.is_over() {
            let handful = if shared.is_ending() { 0 } else { random.usize(1..12) };
            for _ in 0..handful.min(IN_FLIGHT_MAX.saturating_sub(marked.unanswered.len())) {
                is_up &= marked.publish(draft(&mut keys, &mut random), &mut wire, life, shared);
            }
            if shared.is_ending() && marked.unanswered.is_empty() {
                return;
            }
            std::thread::sleep(PAUSE);
            match wire.read_until(Instant::now() + GLANCE) {
                Arrival::Frame(frame) if frame.is(Kind::PublishAck) => {
                    marked.answered(&frame, life, shared);
                    answered_at = Instant::now();
                }
                Arrival::Frame(frame) => panic!("a producer got {}", frame.describe()),
                Arrival::Closed => is_up = false,
                Arrival::Nothing => assert!(answered_at.elapsed() < PATIENCE, "nothing is answered any more"),
            }
        }
    }
}

/// Publishes to everything until told to stop, each thing once, whatever becomes of it.
pub(crate) fn produce_once(shared: &Shared, number: u64, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let client = format!("once-{number}");
    let mut last_key = 0;
    let mut keys = || {
        last_key += 1;
        shared.key(number, last_key)
    };
    while !shared.is_ending() {
        let Some((mut wire, life)) = shared.connect(&client) else { continue };
        let mut requests: HashMap<u64, (u64, usize, bool)> = HashMap::new();
        while !shared.is_ending() || !requests.is_empty() && !shared.is_over() {
            let draft = draft(&mut keys, &mut random);
            // What has an order of its own, or is known by its id alone, is for producers that know what became of it.
            let is_apt = !matches!(draft.copies[0].place, KEYED | MORTAL);
            if is_apt && requests.len() < IN_FLIGHT_MAX && !shared.is_ending() {
                let (op, seq) = (shared.op(), wire.seq());
                draft.told(op, shared, life);
                requests.insert(seq, (op, draft.messages.len(), draft.is_topical()));
                let (queue, messages) = (draft.to, draft.messages);
                wire.send(Kind::Publish, &proto::Publish { seq, queue, messages, ..Default::default() });
                std::thread::sleep(PAUSE / 4);
            }
            match wire.read_until(Instant::now() + GLANCE / 10) {
                Arrival::Frame(frame) if frame.is(Kind::PublishAck) => {
                    let ack: proto::PublishAck = frame.parse(Kind::PublishAck);
                    assert_eq!(ack.refusal, None, "nothing is refused here");
                    let mut first_id = ack.first_id;
                    for seq in ack.seq..=ack.seq + u64::from(ack.more) {
                        let (op, count, topical) = requests.remove(&seq).expect("an answer to a request");
                        shared.see(life, What::Published { op, first_id: (!topical).then_some(first_id) });
                        first_id += count as u64;
                    }
                }
                Arrival::Frame(frame) => panic!("a producer got {}", frame.describe()),
                Arrival::Closed => break,
                Arrival::Nothing => {}
            }
        }
    }
}
