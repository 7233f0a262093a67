//! Random operations against a plain account of what must be true, with restarts and compaction at random points.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::*;
use crate::host::DiskState;
use crate::message::message_header;
use crate::queue::messages::{NIL, State};
use crate::queue::{DeadHead, NamespaceRules, WhenFull};
use crate::wire::proto;

#[derive(Default)]
struct Account {
    /// Acked publishes: id to body; empty where that is not known.
    published: BTreeMap<u64, Vec<u8>>,
    /// Sent acks, purges and the like: may be gone.
    perhaps_done: BTreeSet<u64>,
    /// Answered acks: must be gone.
    done: BTreeSet<u64>,
    /// Publishes without an answer: seq to bodies.
    unanswered: BTreeMap<u64, Vec<Vec<u8>>>,
    /// Acks without an answer.
    settling: BTreeMap<u64, Vec<LeaseId>>,
    /// Of a producer: sequence to (first id, count).
    sequences: BTreeMap<u64, (u64, u32)>,
    /// Publishes of a producer by seq.
    producing: BTreeMap<u64, (u64, Vec<Vec<u8>>)>,
    /// Publishes with deduplication ids by seq: queue and id, and when they were sent.
    keyed: BTreeMap<u64, (String, Time)>,
    /// Message ids that were answered for them.
    keys: BTreeMap<u64, (String, Time)>,
    /// Ids whose publishes a crash left without an answer, as others are whose answer was not taken, and when the first of them was sent: they may have been kept.
    unheard: BTreeMap<String, Time>,
    /// Leases that publishes without an answer ack.
    acking: BTreeMap<u64, Vec<LeaseId>>,
}

struct Peer {
    name: String,
    conn: Option<ConnKey>,
    resume: Option<Attached>,
    leases: Vec<LeaseId>,
    returned: Vec<LeaseId>,
}

struct Run {
    world: World,
    random: fastrand::Rng,
    account: Account,
    peers: Vec<Peer>,
    bodies: u64,
    sequence: u64,
    /// Dead letters beyond their bound go, the oldest first; the account does not follow that.
    may_overflow: bool,
}

const QUEUES: [&str; 4] = ["a", "b", "device/p0", "device/p1"];
const PRODUCER: ProducerId = ProducerId(99);
const DEDUP_WINDOW: Duration = Duration::from_secs(20);

#[test]
fn random_operations_keep_every_promise() {
    let count = std::env::var("QUEUE_MODEL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    for seed in 0..count {
        let result = std::panic::catch_unwind(|| run(seed, 600));
        assert!(result.is_ok(), "seed {seed}");
    }
}

fn run(seed: u64, steps: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut config = QueueConfig::default();
    config.work_queue.messages_max = 20;
    config.mailbox.messages_max = 12;
    config.work_queue.attempts_max = 3;
    config.parked_bytes_per_namespace_max = 60;
    config.reads_max = 2;
    config.delivery_room_bytes = 200;
    config.work_queue.ageing = random.bool().then_some(Duration::from_secs(5));
    config.work_queue.dead_head = if random.bool() { DeadHead::Release } else { DeadHead::Hold };
    (config.work_queue.dedup_window, config.work_queue.dedup_ids_max) = (DEDUP_WINDOW, 6);
    (config.mailbox.dedup_window, config.mailbox.dedup_ids_max) = (DEDUP_WINDOW, 6);
    config.body_memory_bytes_max = random.choice([0, 100, 1 << 20]).unwrap();
    if random.bool() {
        limits(&mut random, &mut config);
    }
    let peers = (0..3)
        .map(|at| Peer { name: format!("p{at}"), conn: None, resume: None, leases: vec![], returned: vec![] })
        .collect();
    let mut run = Run {
        world: World::with(config),
        random,
        account: Account::default(),
        peers,
        bodies: 0,
        sequence: 1,
        may_overflow: false,
    };
    for _ in 0..steps {
        run.may_overflow |= run.is_near_overflow();
        run.step();
        let effects = run.world.released();
        run.take(effects);
    }
    run.crash(true);
}

/// Bounds that are met often.
fn limits(random: &mut fastrand::Rng, config: &mut QueueConfig) {
    let policies = [WhenFull::Wait, WhenFull::Reject, WhenFull::DeadLetterOldest];
    config.work_queue.when_full = random.choice(policies).unwrap();
    config.mailbox.when_full = random.choice(policies).unwrap();
    config.work_queue.leased_max = random.choice([u64::MAX, 1, 3]).unwrap();
    config.work_queue.publish_per_s = random.choice([None, Some(1), Some(5)]).unwrap();
    config.work_queue.deliver_per_s = random.choice([None, Some(1), Some(5)]).unwrap();
    config.namespace = namespace_rules(random);
}

fn namespace_rules(random: &mut fastrand::Rng) -> NamespaceRules {
    let mut bound = |of: [u64; 2]| random.choice([None, Some(of[0]), Some(of[1])]).unwrap();
    NamespaceRules {
        messages_max: bound([5, 30]),
        bytes_max: bound([40, 300]),
        leased_max: bound([1, 3]),
        publish_per_s: bound([1, 4]),
        deliver_per_s: bound([1, 4]),
        weight: bound([2, 5]),
    }
}

impl Run {
    fn step(&mut self) {
        let at = self.random.usize(..self.peers.len());
        // Most of the time everyone is there and works.
        if self.peers[at].conn.is_none() && self.random.u8(..4) > 0 {
            self.attach(at);
            let queue = ["a", "b", "device/p0"][at];
            if let Some(conn) = self.peers[at].conn {
                self.world.subscribe(conn, 9, queue, 4);
            }
            return;
        }
        match self.random.u32(..100) {
            0..20 => self.publish(at),
            20..28 => self.attach(at),
            28..31 => self.detach(at),
            31..38 => {
                if let Some(conn) = self.peers[at].conn {
                    let queue = if self.random.bool() { "a" } else { "b" };
                    let queue =
                        if self.random.u8(..3) == 0 { format!("device/p{at}") } else { queue.to_owned() };
                    let (id, credit) = (self.random.u16(1..5), self.random.u32(0..6));
                    self.world.subscribe(conn, id, &queue, credit);
                }
            }
            38..41 => {
                if let Some(conn) = self.peers[at].conn {
                    let (seq, subscription) = (self.world.seq(), SubscriptionId(self.random.u16(1..5)));
                    self.world.command(Command::Unsubscribe { conn, seq, subscription });
                }
            }
            41..44 => {
                if let Some(conn) = self.peers[at].conn {
                    let subscription = SubscriptionId(self.random.u16(1..5));
                    self.world.command(Command::Credit { conn, subscription, messages: 2, bytes: 100 });
                }
            }
            44..55 => self.settle(at),
            55..60 => self.publish_with_id(at),
            60..64 => self.ack_and_publish(at),
            64..67 => self.give_back(at),
            67..70 => {
                if let Some(conn) = self.peers[at].conn {
                    self.world.command(Command::Resupply { conn });
                }
            }
            70..80 => {
                let by = Duration::from_millis(self.random.u64(..20_000));
                self.world.advance(by);
            }
            80..90 => {
                let effects = self.world.commit();
                self.take(effects);
            }
            90 if self.random.bool() => self.crash(false),
            91 if self.random.bool() => self.crash(true),
            90..95 => {
                let count = self.random.usize(..40);
                self.world.compact(count);
            }
            95..97 => self.operate(),
            97 if self.random.bool() => self.change_limits(),
            _ => {
                self.world.journal.room = if self.random.u8(..4) > 0 { Room::Open } else { Room::Reserved };
                self.world.turn(|brain, turn| brain.log_room_changed(turn));
            }
        }
    }

    fn publish(&mut self, at: usize) {
        let Some(conn) = self.peers[at].conn else { return };
        let queue = *self.random.choice(&QUEUES).unwrap();
        let header = MessageHeader {
            priority: self.random.u8(..10),
            delay_ms: if self.random.u8(..4) == 0 { self.random.u64(..9_000) } else { 0 },
            due: Wall(if self.random.u8(..8) == 0 { self.world.now.wall.0 + 3_000 } else { 0 }),
            ttl_ms: if self.random.u8(..5) == 0 { self.random.u64(1..30_000) } else { 0 },
            attempts_max: self.random.u32(..3),
            has_options: false,
        };
        let (order_key, fair_key) = (self.key(&["x", "y"]), self.key(&["f", "g"]));
        // A re-send of what was answered, now and then.
        if self.random.u8(..6) == 0
            && let Some((&sequence, &(first_id, count))) = self.account.sequences.last_key_value()
        {
            let bodies = vec![b"again".to_vec(); count as usize];
            let seq = self.send(conn, queue, Some((sequence, sequence)), &header, &bodies);
            let effects = self.world.commit();
            let answer = effects.iter().find_map(|(effect, _)| match effect {
                Effect::PublishAcked(acked) if acked.seq == seq => Some((acked.first_id.0, acked.messages)),
                _ => None,
            });
            assert_eq!(answer, Some((first_id, count)), "a duplicate's answer");
            self.take(effects);
            return;
        }
        let bodies: Vec<Vec<u8>> = (0..self.random.u64(1..4))
            .map(|_| {
                self.bodies += 1;
                let payload = format!("body {}", self.bodies).into_bytes();
                let (order_key, fair_key) = (order_key.clone(), fair_key.clone());
                proto::Message { payload, order_key, fair_key, ..Default::default() }.encode_to_vec()
            })
            .collect();
        if self.random.bool() {
            let seq = self.send(conn, queue, None, &header, &bodies);
            self.account.unanswered.insert(seq, bodies);
        } else {
            let sequence = self.sequence;
            self.sequence += bodies.len() as u64;
            // As if the last answer was not heard.
            let unanswered_from = self.account.sequences.last_key_value().map_or(1, |(&last, _)| last);
            let seq = self.send(conn, queue, Some((sequence, unanswered_from)), &header, &bodies);
            self.account.producing.insert(seq, (sequence, bodies));
        }
    }

    /// One of `keys`, or none.
    fn key(&mut self, keys: &[&str]) -> String {
        let key = self.random.usize(..keys.len() + 2);
        keys.get(key).copied().unwrap_or_default().to_owned()
    }

    /// One of a few ids.
    fn publish_with_id(&mut self, at: usize) {
        let Some(conn) = self.peers[at].conn else { return };
        let queue = *self.random.choice(&QUEUES).unwrap();
        let dedup_id = format!("id {}", self.random.u8(..8));
        let key = format!("{queue} {dedup_id}");
        self.bodies += 1;
        let payload = format!("body {}", self.bodies).into_bytes();
        let body = proto::Message { payload, dedup_id, ..Default::default() }.encode_to_vec();
        let header = message_header(&body, body.len()).unwrap();
        let sent = self.world.now.time;
        let seq = self.send(conn, queue, None, &header, std::slice::from_ref(&body));
        self.account.unanswered.insert(seq, vec![body]);
        self.account.keyed.insert(seq, (key, sent));
    }

    /// Passes what a peer has on to another queue, or puts it back into the same one.
    fn ack_and_publish(&mut self, at: usize) {
        let Some(conn) = self.peers[at].conn else { return };
        let queue = *self.random.choice(&QUEUES).unwrap();
        let count = self.random.usize(..4).min(self.peers[at].leases.len());
        let acks = self.peers[at].leases[..count].to_vec();
        self.bodies += 1;
        let body = format!("body {}", self.bodies).into_bytes();
        let header = MessageHeader { priority: 4, ..Default::default() };
        let producer = self.random.bool().then(|| {
            self.sequence += 1;
            let unanswered_from = self.account.sequences.last_key_value().map_or(1, |(&last, _)| last);
            ProducerSequence { producer: PRODUCER, sequence: self.sequence - 1, unanswered_from }
        });
        let seq = self.world.publish_acking(conn, queue, producer, &acks, &[(header, &body)]);
        // They stay with the peer, who may settle them once more.
        self.account.perhaps_done.extend(acks.iter().map(|lease| lease.message.0));
        self.account.acking.insert(seq, acks);
        match producer {
            Some(producer) => _ = self.account.producing.insert(seq, (producer.sequence, vec![body])),
            None => _ = self.account.unanswered.insert(seq, vec![body]),
        }
    }

    /// An answer to a publish with a deduplication id. Whether it is one to another publish than this, or may be.
    fn take_keyed(&mut self, seq: u64, id: u64) -> bool {
        let Some((key, sent)) = self.account.keyed.remove(&seq) else { return false };
        if let Some((known, _)) = self.account.keys.get(&id) {
            assert_eq!(*known, key, "{id} was answered for another id");
            return true;
        }
        let now = self.world.now.time;
        for (earlier, (_, sent)) in self.account.keys.iter().filter(|(_, (known, _))| *known == key) {
            assert!(*sent + DEDUP_WINDOW <= now, "{key} was kept as {earlier} and {id} within its window");
        }
        // What was kept may be another one, whose answer nobody heard.
        let same = self.account.keyed.values().filter(|(asked, _)| *asked == key).map(|(_, sent)| *sent);
        let unheard = self.account.unheard.get(&key).copied().into_iter().chain(same).min();
        self.account.keys.insert(id, (key, unheard.unwrap_or(sent).min(sent)));
        if unheard.is_some() {
            self.account.published.insert(id, Vec::new());
        }
        unheard.is_some()
    }

    fn send(
        &mut self,
        conn: ConnKey,
        queue: &str,
        sequence: Option<(u64, u64)>,
        header: &MessageHeader,
        bodies: &[Vec<u8>],
    ) -> u64 {
        let producer = sequence.map(|(sequence, unanswered_from)| ProducerSequence {
            producer: PRODUCER,
            sequence,
            unanswered_from,
        });
        let header_of = |body: &[u8]| match message_header(body, body.len()) {
            Ok(own) => MessageHeader { has_options: own.has_options, ..*header },
            Err(_) => *header,
        };
        let messages: Vec<_> = bodies.iter().map(|body| (header_of(body), body.as_slice())).collect();
        self.world.publish_with(conn, queue, producer, &messages)
    }

    fn attach(&mut self, at: usize) {
        let resume = match &self.peers[at].resume {
            Some(attached) if self.random.bool() => Some(Resume {
                epoch: attached.epoch,
                session_id: attached.session_id,
                leases: self.peers[at].leases.iter().copied().filter(|_| self.random.bool()).collect(),
            }),
            _ => None,
        };
        let held = resume.as_ref().map_or(vec![], |resume| resume.leases.clone());
        let effects = self.world.released();
        self.take(effects);
        let name = self.peers[at].name.clone();
        let (conn, attached) = self.world.attach_with(&name, resume);
        let peer = &mut self.peers[at];
        peer.leases = if attached.resumed { held } else { vec![] };
        (peer.conn, peer.resume) = (Some(conn), Some(attached));
    }

    fn detach(&mut self, at: usize) {
        let Some(conn) = self.peers[at].conn.take() else { return };
        let bye = self.random.bool();
        self.world.detach(conn, bye);
        if bye {
            (self.peers[at].resume, self.peers[at].leases) = (None, vec![]);
        }
    }

    fn settle(&mut self, at: usize) {
        let Some(conn) = self.peers[at].conn else { return };
        if self.peers[at].leases.is_empty() {
            return;
        }
        let lease = self.random.usize(..self.peers[at].leases.len());
        let lease = self.peers[at].leases.swap_remove(lease);
        let settlement = match self.random.u8(..10) {
            0..6 => Settlement::Ack,
            6..8 => nack("no luck"),
            8 => Settlement::Nack { delay_ms: Some(500), error: "".into(), reject: self.random.bool() },
            _ => Settlement::Extend { lease_ms: 50_000 },
        };
        let is_ack = settlement == Settlement::Ack;
        let seq = self.world.settle(conn, &[lease], settlement);
        if is_ack {
            self.account.perhaps_done.insert(lease.message.0);
            self.account.settling.insert(seq, vec![lease]);
        }
    }

    fn give_back(&mut self, at: usize) {
        let Some(conn) = self.peers[at].conn else { return };
        let leases = std::mem::take(&mut self.peers[at].leases);
        let count = leases.len() as u32;
        self.peers[at].returned.extend(&leases);
        self.world.apply(|batch| {
            batch.commands.push(Command::Return { conn, leases: count });
            batch.leases.extend(leases);
        });
    }

    fn operate(&mut self) {
        let queue = *self.random.choice(&QUEUES).unwrap();
        let dead = self.world.dead(queue);
        let Some(first) = dead.first() else { return };
        let (namespace, queue_name) = (tenant(), name(queue));
        if self.random.u8(..3) == 0 {
            let id = MessageId(first.id);
            let reply = self.world.operate(OperatorRequest::DeadShow { namespace, queue: queue_name, id });
            let OperatorReply::Dead(rows) = reply else { panic!("{reply:?}") };
            if let Some(body) = self.account.published.get(&first.id).filter(|body| !body.is_empty()) {
                assert_eq!(rows[0].body.as_ref(), Some(body));
            }
        } else if self.random.bool() {
            let to = self.random.bool().then(|| name("b"));
            let selection = DeadSelection::All;
            self.world.operate(OperatorRequest::DeadRedrive {
                namespace,
                queue: queue_name,
                selection,
                to,
                per_s: None,
            });
        } else {
            let selection = DeadSelection::One(MessageId(first.id));
            self.account.perhaps_done.insert(first.id);
            self.world.operate(OperatorRequest::DeadPurge { namespace, queue: queue_name, selection });
            self.account.done.insert(first.id);
        }
    }

    fn change_limits(&mut self) {
        if self.random.bool() {
            let state = *self.random.choice(&DiskState::ALL[..3]).unwrap();
            self.world.operate(OperatorRequest::Disk { state, text: "little is left".to_owned() });
            return;
        }
        let keys = ["messages_max", "bytes_max", "leased_max", "publish_per_s", "deliver_per_s"];
        let value = |random: &mut fastrand::Rng| random.bool().then(|| random.u64(..40).to_string());
        let changes = keys.map(|key| (key.to_owned(), value(&mut self.random))).to_vec();
        let reply = self.world.operate(OperatorRequest::NamespaceSet { namespace: tenant(), changes });
        assert!(matches!(reply, OperatorReply::Namespace(..)), "{reply:?}");
    }

    fn take(&mut self, effects: Vec<(Effect, Vec<u8>)>) {
        for (effect, body) in effects {
            match effect {
                Effect::PublishAcked(acked) => {
                    // Request numbers rise by 2, so nothing is joined.
                    assert_eq!(acked.more, 0);
                    let bodies = match self.account.producing.remove(&acked.seq) {
                        Some((sequence, bodies)) => {
                            let count = bodies.len() as u32;
                            self.account.sequences.insert(sequence, (acked.first_id.0, count));
                            bodies
                        }
                        None => self.account.unanswered.remove(&acked.seq).unwrap_or_default(),
                    };
                    let acks = self.account.acking.remove(&acked.seq).unwrap_or_default();
                    self.account.done.extend(acks.iter().map(|lease| lease.message.0));
                    if self.take_keyed(acked.seq, acked.first_id.0) {
                        continue;
                    }
                    for (id, body) in (acked.first_id.0..).zip(bodies) {
                        let earlier = self.account.published.insert(id, body);
                        assert!(earlier.is_none(), "id {id} was given twice");
                    }
                }
                Effect::Deliver(deliver) => {
                    let id = deliver.lease.message.0;
                    assert!(
                        !self.account.done.contains(&id),
                        "{id} was delivered after its ack was answered"
                    );
                    if let Some(published) = self.account.published.get(&id).filter(|body| !body.is_empty()) {
                        assert_eq!(*published, body, "the body of {id}");
                    }
                    if let Some(peer) = self.peers.iter_mut().find(|peer| peer.conn == Some(deliver.conn)) {
                        peer.leases.push(deliver.lease);
                    }
                }
                Effect::Settled(settled) => {
                    let leases = self.account.settling.remove(&settled.seq).unwrap_or_default();
                    let lost = settled.lost.unwrap_or_default();
                    let counted = leases.iter().filter(|lease| !lost.contains(lease));
                    self.account.done.extend(counted.map(|lease| lease.message.0));
                }
                _ => {}
            }
        }
    }

    fn crash(&mut self, is_clean: bool) {
        if is_clean {
            // The leases that the first commit's credit began are written with the second.
            for _ in 0..2 {
                let effects = self.world.commit();
                self.take(effects);
            }
        }
        let before = is_clean.then(|| picture(&self.world.brain));
        let lines_before = is_clean.then(|| lines(&self.world.brain));
        let torn = if is_clean { 0 } else { self.random.usize(..6) };
        self.world.restart(torn, Duration::from_millis(self.random.u64(..2_000)));
        if let Some(before) = before {
            let after = picture(&self.world.brain);
            for (id, was) in &before {
                assert_eq!(after.get(id), Some(was), "message {id} before and after a restart");
            }
            assert_eq!(before.len(), after.len(), "messages came out of nowhere");
            assert_eq!(
                lines_before,
                Some(lines(&self.world.brain)),
                "ordering keys before and after a restart"
            );
        }
        let there: BTreeSet<u64> = self.world.brain.messages.iter().map(|(_, message)| message.id).collect();
        for id in self.account.published.keys() {
            let must = !self.account.perhaps_done.contains(id);
            assert!(!must || there.contains(id) || self.may_overflow, "publish {id} was answered and lost");
        }
        for id in &self.account.done {
            assert!(!there.contains(id), "ack of {id} was answered and forgotten");
        }
        for peer in &mut self.peers {
            peer.conn = None;
        }
        self.account.unanswered.clear();
        self.account.producing.clear();
        self.account.settling.clear();
        for (key, sent) in std::mem::take(&mut self.account.keyed).into_values() {
            self.account.unheard.entry(key).or_insert(sent);
        }
        self.account.acking.clear();
    }

    fn is_near_overflow(&self) -> bool {
        let brain = &self.world.brain;
        brain.queues.slab.iter().any(|(_, queue)| queue.messages() >= queue.rules(&brain.config).messages_max)
    }
}

/// The ids of the messages of each ordering key, in the order in which they go on.
fn lines(brain: &Brain) -> BTreeSet<Vec<u64>> {
    let line = |lane: &crate::queue::lanes::Lane| {
        let mut ids: Vec<u64> = Vec::new();
        if lane.head != NIL {
            ids.push(brain.messages.at(lane.head).id);
        }
        let mut at = lane.blocked.0;
        while at != NIL {
            ids.push(brain.messages.at(at).id);
            at = brain.messages.at(at).next;
        }
        ids
    };
    brain.lanes.slab.iter().filter(|(_, lane)| lane.is_ordered()).map(|(_, lane)| line(lane)).collect()
}

/// What a restart must not change, message by message. Leased ones become ready, and scheduled ones may be due.
fn picture(brain: &Brain) -> BTreeMap<u64, String> {
    let one = |(slot, message): (u32, &crate::queue::messages::Message)| {
        let rare = brain.messages.rare(slot);
        let open = message.state == State::Leased || message.attempt_open;
        let text = format!(
            "{} {:?} open {open} attempt {} spent {} priority {} expires {} failures {:?} died {:?} bytes {}",
            brain.queues.at(message.queue).name,
            message.state == State::Dead,
            message.attempt,
            message.spent,
            message.priority,
            message.expires.0,
            rare.map(|rare| rare.failures.iter().map(|f| (f.attempt, f.error.clone())).collect::<Vec<_>>())
                .unwrap_or_default(),
            rare.and_then(|rare| rare.dead),
            message.body_len,
        );
        (message.id, text)
    };
    brain.messages.iter().map(one).collect()
}
