//! What goes in and out at the shard's door, in shard time: leases, credit, epochs, delays, expiry and order.
//!
//! An effect may be released later than it was made, because it waits for a commit. What follows from the moment of a
//! release is therefore only claimed where it holds for every moment at which the effect may have been made.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use relaymesh::clock::{Now, Time, Wall};
use relaymesh::ids::{Boot, ClientId, ConnKey, Epoch, LeaseId, Namespace, QueueName, SubscriptionId};
use relaymesh::mail::{
    Attach, Command, CommandBatch, Deliver, Effect, EffectBatch, MessageHeader, Publish, Settle, Settled,
    Settlement,
};
use relaymesh::wire::proto;

use super::Broadcasts;
use super::ids::Ids;
use super::keys::Keys;
use super::watch_leases::Holding;
use crate::plan::Plan;

type Conn = (u16, u32, u32);
type Client = (Namespace, ClientId);
type Key = u64;
/// Place in the order of service: priority, the highest is 0; id; key.
type Rank = (u8, u64, Key);

/// What a request asked for.
#[derive(Debug)]
enum Request {
    /// And what is acked with it.
    Publish(Vec<Key>, Vec<LeaseId>),
    /// So many messages, to a topic.
    Broadcast(u32),
    Settle {
        settlement: Settlement,
        leases: Vec<LeaseId>,
        applied: Time,
    },
    Other,
}

/// A message as the shard was given it.
#[derive(Debug)]
struct Message {
    queue: (Namespace, QueueName),
    header: MessageHeader,
    /// Applied for the first time: no admission was earlier.
    applied: Time,
    /// Its time to live began no later than so many milliseconds after its admission.
    wait_ms: u64,
    /// Its answer was released: no admission was later. And in which turn.
    answered: Option<(Time, u64)>,
    id: Option<u64>,
    /// It was leased once, or may have been without anyone seeing it.
    is_disturbed: bool,
    is_redriven: bool,
    /// It was there when the server started: its body is read from the log after its turn came, and others come meanwhile.
    is_read_back: bool,
}

/// A message that was sent, with its place in the order of service.
#[derive(Debug)]
struct Served {
    queue: (Namespace, QueueName),
    rank: Rank,
    /// It was never sent before: of those with its priority the oldest comes first.
    is_fresh: bool,
}

/// The door of the shard.
#[derive(Debug)]
pub(crate) struct Watch {
    grace_ms: u64,
    is_order_checked: bool,
    boot: Boot,
    /// The newest one that took connections.
    durable_boot: Boot,
    turn: u64,
    wall_max: Wall,
    /// The newest epoch of each client, and the step that gave it.
    epochs: BTreeMap<Client, (Epoch, u64)>,
    conns: BTreeMap<Conn, Client>,
    /// Who is attached where, as the shard was told last.
    current: BTreeMap<Client, Conn>,
    /// Connections that a newer one of their client took over, and the step in which.
    replaced: BTreeMap<Conn, u64>,
    requests: BTreeMap<(Conn, u64), Request>,
    /// Messages a subscription may still be sent.
    credits: BTreeMap<(Conn, SubscriptionId), i64>,
    messages: BTreeMap<Key, Message>,
    /// Ready for sure and never leased: by queue, then in the order of service.
    waiting: BTreeMap<(Namespace, QueueName), BTreeSet<Rank>>,
    /// Of the present step.
    served: Vec<Served>,
    holdings: BTreeMap<u64, Holding<Client>>,
    /// Acked, the ack's answer released.
    done: BTreeMap<u64, LeaseId>,
    /// Messages answered, and ids acked, since the first write that is not synced.
    answered_lately: Vec<Key>,
    done_lately: Vec<u64>,
    pub(crate) broadcasts: Broadcasts,
    ids: Ids,
    keys: Keys,
    /// Of a work queue and of a mailbox.
    attempts_max: (u32, u32),
    /// Their place in the order of service is not their own: another one's id, or others of their key before them.
    displaced: BTreeSet<Key>,
    /// Messages of a queue that is full make room by dying.
    oldest_dies: bool,
}

fn plain(conn: ConnKey) -> Conn {
    (conn.loop_id.0, conn.slot, conn.generation)
}

impl Watch {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            grace_ms: plan.queue.grace.as_millis() as u64,
            // A body that is read back is released later than its turn.
            is_order_checked: plan.queue.body_memory_bytes_max > 1 << 20,
            boot: Boot(0),
            durable_boot: Boot(0),
            turn: 0,
            wall_max: Wall(0),
            epochs: BTreeMap::new(),
            conns: BTreeMap::new(),
            current: BTreeMap::new(),
            replaced: BTreeMap::new(),
            requests: BTreeMap::new(),
            credits: BTreeMap::new(),
            messages: BTreeMap::new(),
            waiting: BTreeMap::new(),
            served: Vec::new(),
            holdings: BTreeMap::new(),
            done: BTreeMap::new(),
            answered_lately: Vec::new(),
            done_lately: Vec::new(),
            broadcasts: Broadcasts::default(),
            ids: Ids::new(plan.later.dedup_window.as_millis() as u64),
            keys: Keys::default(),
            attempts_max: (plan.queue.work_queue.attempts_max, plan.queue.mailbox.attempts_max),
            displaced: BTreeSet::new(),
            oldest_dies: plan.later.oldest_dies,
        }
    }

    /// As [`Ledger::keep`](super::Ledger::keep).
    pub(crate) fn keep(&mut self) {
        self.answered_lately.clear();
        self.done_lately.clear();
    }

    /// As [`Ledger::take_back`](super::Ledger::take_back).
    pub(crate) fn take_back(&mut self) {
        for key in self.answered_lately.drain(..) {
            if let Some(message) = self.messages.get_mut(&key) {
                (message.id, message.answered) = (None, None);
            }
        }
        for id in self.done_lately.drain(..) {
            self.done.remove(&id);
        }
        self.ids.take_back();
        self.keys.disturb();
    }

    /// A shard has recovered: what was on its way before is gone.
    pub(crate) fn server_started(&mut self, boot: Boot, _time: Time) {
        assert!(boot > self.durable_boot, "boot {boot:?} comes after {:?}", self.durable_boot);
        self.boot = boot;
        self.conns.clear();
        self.current.clear();
        self.replaced.clear();
        self.requests.clear();
        self.credits.clear();
        self.holdings.clear();
        self.keys.started();
        self.disturb();
        self.messages.values_mut().for_each(|message| message.is_read_back = true);
    }

    /// Connections are taken from here on: the boot is durable.
    pub(crate) fn server_listens(&mut self) {
        self.durable_boot = self.boot;
    }

    /// The shard made another step; its effects are let go next.
    pub(crate) fn turn(&mut self, now: Now) {
        self.turn += 1;
        self.wall_max = self.wall_max.max(now.wall);
    }

    /// Messages with ordering keys that were sent.
    pub(crate) fn ordered(&self) -> u64 {
        self.keys.sent
    }

    /// From here on nothing is known of the order in which these messages are served.
    fn disturb(&mut self) {
        self.waiting.clear();
        self.messages.values_mut().for_each(|message| message.is_disturbed = true);
    }

    /// Commands, as they are applied.
    pub(crate) fn commands(&mut self, now: Now, batch: &CommandBatch) {
        self.wall_max = self.wall_max.max(now.wall);
        let (mut leases, mut messages, mut bodies) =
            (&batch.leases[..], &batch.messages[..], &batch.bodies[..]);
        for command in &batch.commands {
            match command {
                Command::Attach(attach) => self.attach(now, attach),
                Command::Detach(detach) => {
                    if let Some(client) = self.attached(detach.conn) {
                        let until = if detach.bye { now.time.0 } else { now.time.0 + self.grace_ms };
                        self.end_leases(&client, Time(until), |_| true);
                        self.current.remove(&client);
                        self.disturb();
                    }
                }
                Command::Publish(publish) => {
                    let (own, rest) = messages.split_at(publish.messages as usize);
                    messages = rest;
                    let mut keys = Vec::new();
                    for message in own {
                        let (body, rest) = bodies.split_at(message.body_len as usize);
                        bodies = rest;
                        if publish.queue.topic().is_some() {
                            self.broadcast(publish, body);
                            continue;
                        }
                        keys.push(self.publish(now, publish, message.header, body));
                    }
                    let request = match publish.queue.topic() {
                        Some(_) => Request::Broadcast(publish.messages),
                        None => {
                            let (own, rest) = leases.split_at(publish.acks as usize);
                            leases = rest;
                            self.acked_with(now, own);
                            Request::Publish(keys, own.to_vec())
                        }
                    };
                    self.request(publish.conn, publish.seq, request);
                }
                Command::Settle(settle) => {
                    let (own, rest) = leases.split_at(settle.leases as usize);
                    leases = rest;
                    self.settle(now, settle, own);
                }
                Command::Return { conn, leases: count } => {
                    let (own, rest) = leases.split_at(*count as usize);
                    leases = rest;
                    for lease in own {
                        self.give_back(now, *conn, *lease);
                    }
                    self.disturb();
                }
                Command::Subscribe { conn, seq, subscription, credit_messages, .. } => {
                    self.request(*conn, *seq, Request::Other);
                    self.credits.insert((plain(*conn), *subscription), i64::from(*credit_messages));
                }
                Command::Unsubscribe { conn, seq, .. } => self.request(*conn, *seq, Request::Other),
                Command::Credit { conn, subscription, messages, .. } => {
                    let credit = self.credits.entry((plain(*conn), *subscription)).or_default();
                    *credit += i64::from(*messages);
                }
                // A renewed lease stands longer than is claimed here.
                Command::Resupply { .. } | Command::Renew { .. } | Command::BroadcastsDone { .. } => {}
                Command::Operator { request, .. } => {
                    if let relaymesh::mail::OperatorRequest::DeadRedrive { .. } = **request {
                        self.messages.values_mut().for_each(|message| message.is_redriven = true);
                        self.keys.disturb();
                    }
                }
            }
        }
    }

    fn attached(&self, conn: ConnKey) -> Option<Client> {
        let client = self.conns.get(&plain(conn))?;
        (self.current.get(client) == Some(&plain(conn))).then(|| client.clone())
    }

    fn request(&mut self, conn: ConnKey, seq: u64, request: Request) {
        if self.attached(conn).is_some() {
            let earlier = self.requests.insert((plain(conn), seq), request);
            assert!(earlier.is_none(), "{conn:?} sent two requests {seq}");
        }
    }

    fn attach(&mut self, now: Now, attach: &Attach) {
        let client = (attach.namespace.clone(), attach.client.clone());
        let known = self.epochs.get(&client).map(|(epoch, _)| *epoch);
        match attach.resume.as_ref().filter(|resume| Some(resume.epoch) == known) {
            Some(resume) => self.end_leases(&client, now.time, |lease| !resume.leases.contains(&lease)),
            None => self.end_leases(&client, now.time, |_| true),
        }
        self.conns.insert(plain(attach.conn), client.clone());
        if let Some(older) = self.current.insert(client, plain(attach.conn)) {
            // The next step is the first that knows of it.
            self.replaced.insert(older, self.turn + 1);
        }
        self.disturb();
    }

    fn end_leases(&mut self, client: &Client, at: Time, which: impl Fn(LeaseId) -> bool) {
        for holding in self.holdings.values_mut() {
            if holding.holder == *client && which(holding.lease) {
                holding.ends_by(at);
            }
        }
    }

    fn broadcast(&mut self, publish: &Publish, body: &[u8]) {
        if let Some((namespace, _)) = self.attached(publish.conn) {
            let (topic, key) = (publish.queue.clone(), crate::actors::key_of(body));
            self.broadcasts.published(namespace, topic, key);
        }
    }

    fn publish(&mut self, now: Now, publish: &Publish, header: MessageHeader, body: &[u8]) -> Key {
        let key = crate::actors::key_of(body);
        if let Some((namespace, _)) = self.attached(publish.conn) {
            let message = self.messages.entry(key).or_insert(Message {
                queue: (namespace, publish.queue.clone()),
                header,
                applied: now.time,
                wait_ms: 0,
                answered: None,
                id: None,
                is_disturbed: false,
                is_redriven: false,
                is_read_back: false,
            });
            // After a crash that lost it, shard time may begin before it.
            message.applied = message.applied.min(now.time);
            let wait_ms = header.delay_ms.max(header.due.0.saturating_sub(now.wall.0));
            message.wait_ms = message.wait_ms.max(wait_ms);
            let queue = message.queue.clone();
            self.take_options(now, key, queue, header, body);
        }
        key
    }

    /// What few messages say of themselves.
    fn take_options(
        &mut self,
        now: Now,
        key: Key,
        (namespace, queue): (Namespace, QueueName),
        header: MessageHeader,
        body: &[u8],
    ) {
        if !header.has_options {
            return;
        }
        let message = proto::Message::decode(body).expect("its key was read");
        if !message.dedup_id.is_empty() || !message.order_key.is_empty() {
            self.displaced.insert(key);
        }
        if !message.dedup_id.is_empty() {
            self.ids.applied(key, (namespace, queue, message.dedup_id), now.time);
        } else if !message.order_key.is_empty()
            && self.is_order_checked
            && !self.oldest_dies
            && (header.delay_ms, header.due, header.ttl_ms) == (0, Wall(0), 0)
        {
            let of_queue =
                if queue.mailbox_owner().is_some() { self.attempts_max.1 } else { self.attempts_max.0 };
            let attempts_max = if header.attempts_max == 0 { of_queue } else { header.attempts_max };
            self.keys.applied(key, (namespace, queue, message.order_key), attempts_max);
        }
    }

    fn settle(&mut self, now: Now, settle: &Settle, leases: &[LeaseId]) {
        for lease in leases {
            let may_end = match &settle.settlement {
                Settlement::Ack => true,
                Settlement::Nack { reject, .. } => *reject,
                Settlement::Extend { .. } => false,
            };
            if may_end {
                self.keys.ended(lease.message.0);
            }
            if let Some(holding) = self.holding(*lease) {
                match settle.settlement {
                    Settlement::Extend { lease_ms } => {
                        holding.extending(Time(now.time.0 + u64::from(lease_ms)))
                    }
                    Settlement::Ack | Settlement::Nack { .. } => holding.ends_by(now.time),
                }
            }
        }
        let settlement = settle.settlement.clone();
        let request = Request::Settle { settlement, leases: leases.to_vec(), applied: now.time };
        self.request(settle.conn, settle.seq, request);
    }

    /// A publish acks these, at some time from now on.
    fn acked_with(&mut self, now: Now, leases: &[LeaseId]) {
        for lease in leases {
            self.keys.ended(lease.message.0);
            if let Some(holding) = self.holding(*lease) {
                holding.ends_by(now.time);
            }
        }
    }

    /// What is known of a lease while it is the newest of its message.
    fn holding(&mut self, lease: LeaseId) -> Option<&mut Holding<Client>> {
        self.holdings.get_mut(&lease.message.0).filter(|holding| holding.lease == lease)
    }

    fn give_back(&mut self, now: Now, conn: ConnKey, lease: LeaseId) {
        if let Some(holding) = self.holding(lease) {
            holding.ends_by(now.time);
            let subscription = holding.subscription;
            *self.credits.entry((plain(conn), subscription)).or_default() += 1;
        }
    }

    /// Effects, as they leave.
    pub(crate) fn effects(&mut self, now: Now, batch: &EffectBatch) {
        let mut bodies = &batch.bodies[..];
        for effect in &batch.effects {
            match effect {
                Effect::Attached(attached) => {
                    let Some(client) = self.conns.get(&plain(attached.conn)).cloned() else {
                        panic!("{:?} was attached and never asked for it", attached.conn);
                    };
                    let (before, turn) = self.epochs.get(&client).copied().unwrap_or((Epoch(0), 0));
                    // Those of one step are seen loop by loop, not in their order.
                    let rises = attached.epoch > before || (turn == self.turn && attached.epoch != before);
                    assert!(rises, "the epoch of {client:?} fell from {before:?} to {:?}", attached.epoch);
                    self.epochs.insert(client, (attached.epoch.max(before), self.turn));
                    assert_eq!(attached.epoch.boot(), self.boot, "an epoch of another boot");
                }
                Effect::TakenOver { conn } => {
                    assert!(self.attached(*conn).is_none(), "{conn:?} was taken over by nobody");
                }
                Effect::PublishAcked(acked) => {
                    let mut id = acked.first_id.0;
                    for seq in acked.seq..=acked.seq + u64::from(acked.more) {
                        let keys = self.answered_publish(acked.conn, seq);
                        for key in keys {
                            self.published(now, key, id);
                            id += 1;
                        }
                    }
                    let count = id - acked.first_id.0;
                    assert_eq!(count, u64::from(acked.messages), "{acked:?} answers {count} messages");
                }
                Effect::PublishRefused { conn, seq, messages, .. } => {
                    let asked = match self.requests.remove(&(plain(*conn), *seq)) {
                        Some(Request::Publish(keys, _)) => keys.len(),
                        Some(Request::Broadcast(messages)) => messages as usize,
                        other => panic!("the publish {seq} of {conn:?} was refused: it is {other:?}"),
                    };
                    assert_eq!(asked, *messages as usize, "a refusal gives back another window");
                }
                Effect::LeasesLost(refused) => {
                    let request = self.requests.remove(&(plain(refused.conn), refused.seq));
                    let Some(Request::Publish(keys, leases)) = request else {
                        panic!("{refused:?} answers {request:?}")
                    };
                    assert_eq!(keys.len(), refused.messages as usize, "a refusal gives back another window");
                    let named = refused.lost.iter().all(|lease| leases.contains(lease));
                    assert!(named && !refused.lost.is_empty(), "{refused:?} names others than {leases:?}");
                }
                Effect::Broadcasted(answer) => {
                    match self.requests.remove(&(plain(answer.conn), answer.seq)) {
                        Some(Request::Broadcast(messages)) if messages == answer.messages => {}
                        other => panic!("{answer:?} answers {other:?}"),
                    }
                }
                Effect::Settled(settled) => self.settled(settled),
                Effect::Deliver(deliver) => {
                    let (body, rest) = bodies.split_at(deliver.body_len as usize);
                    bodies = rest;
                    self.deliver(now, deliver, crate::actors::key_of(body));
                }
                Effect::AttachRefused { .. }
                | Effect::RoomLow { .. }
                | Effect::StopReading { .. }
                | Effect::ResumeReading { .. }
                | Effect::Parked { .. }
                | Effect::Topics { .. }
                | Effect::Broadcast { .. } => {}
                Effect::Operator { .. } => panic!("an operator's answer went to a loop"),
            }
        }
    }

    fn answered_publish(&mut self, conn: ConnKey, seq: u64) -> Vec<Key> {
        match self.requests.remove(&(plain(conn), seq)) {
            Some(Request::Publish(keys, leases)) => {
                leases.into_iter().for_each(|lease| self.acked(lease));
                keys
            }
            other => panic!("the publish {seq} of {conn:?} was answered: it is {other:?}"),
        }
    }

    fn published(&mut self, now: Now, key: Key, id: u64) {
        let turn = self.turn;
        self.ids.seen(key, id, now.time);
        self.keys.kept(key, id);
        let has_own_place = !self.oldest_dies && !self.displaced.contains(&key);
        let is_deduplicated = self.ids.has(key);
        let Some(message) = self.messages.get_mut(&key) else { return };
        if message.answered.is_none() {
            self.answered_lately.push(key);
        }
        if is_deduplicated {
            // An answer that nobody heard may have been another one's.
            message.id = Some(id);
        }
        message.id.get_or_insert(id);
        assert_eq!(message.id, Some(id), "message {key} was answered with two ids");
        let header = message.header;
        message.answered.get_or_insert((now.time, turn));
        if has_own_place
            && !message.is_disturbed
            && header.delay_ms == 0
            && header.due == Wall(0)
            && header.ttl_ms == 0
        {
            let rank = (9 - header.priority, id, key);
            self.waiting.entry(message.queue.clone()).or_default().insert(rank);
        }
    }

    fn settled(&mut self, settled: &Settled) {
        for seq in settled.seq..=settled.seq + u64::from(settled.more) {
            let request = self.requests.remove(&(plain(settled.conn), seq));
            let (settlement, leases, applied) = match request {
                Some(Request::Settle { settlement, leases, applied }) => (settlement, leases, applied),
                Some(Request::Other) => continue,
                other => panic!("request {seq} of {:?} was answered: it is {other:?}", settled.conn),
            };
            let lost = settled.lost.as_deref().unwrap_or_default();
            for lease in leases {
                let counts = settled.refused.is_none() && !lost.contains(&lease);
                match settlement {
                    Settlement::Ack if counts => self.acked(lease),
                    Settlement::Extend { lease_ms } => {
                        if let Some(holding) = self.holding(lease) {
                            holding.extended(Time(applied.0 + u64::from(lease_ms)), counts);
                        }
                    }
                    Settlement::Ack | Settlement::Nack { .. } => {}
                }
            }
        }
    }

    /// An ack is answered.
    fn acked(&mut self, lease: LeaseId) {
        if !self.done.contains_key(&lease.message.0) {
            self.done_lately.push(lease.message.0);
        }
        let first = *self.done.entry(lease.message.0).or_insert(lease);
        assert_eq!(first, lease, "message {} was acked twice", lease.message);
    }

    fn deliver(&mut self, now: Now, deliver: &Deliver, key: Key) {
        let Deliver { conn, subscription, lease, lease_ms, .. } = *deliver;
        let id = lease.message.0;
        if let Some(acked) = self.done.get(&id) {
            panic!(
                "message {key} was acked under {acked:?}, the answer released, and is sent again as {lease:?}"
            );
        }
        let Some(client) = self.conns.get(&plain(conn)).cloned() else {
            panic!("message {key} is sent to {conn:?}, which is not attached");
        };
        let credit = self.credits.entry((plain(conn), subscription)).or_default();
        *credit -= 1;
        assert!(*credit >= 0, "{conn:?} is sent more than its credit on {subscription:?}");
        self.ids.seen(key, id, now.time);
        self.keys.sent(key, id);
        let granted_from = self.check_message(now, key, lease);
        if self.current.get(&client) != Some(&plain(conn)) {
            self.check_replaced(conn, key);
            return;
        }
        // Effects for several loops that waited for one commit are seen loop by loop, not in the order of their leases.
        if self.holdings.get(&id).is_some_and(|known| known.is_newer_than(lease)) {
            return;
        }
        let holding = Holding::new(client, subscription, lease, granted_from, lease_ms);
        if let Some(earlier) = self.holdings.insert(id, holding) {
            earlier.check_over(now.time, lease, key);
        }
    }

    /// A connection that was replaced is sent nothing, but for what waited for its commit since before.
    fn check_replaced(&self, conn: ConnKey, key: Key) {
        let since = self.replaced.get(&plain(conn)).copied().unwrap_or(u64::MAX);
        let answered = self.messages.get(&key).and_then(|message| message.answered);
        let waited = self.turn <= since || answered.is_none_or(|(_, turn)| turn >= since);
        assert!(waited, "message {key} is sent to {conn:?}, which a newer connection replaced");
    }

    /// Delay, expiry and order. Returns the earliest moment at which the lease may have been given.
    fn check_message(&mut self, now: Now, key: Key, lease: LeaseId) -> Time {
        // An operator's publish is not seen at this door.
        let Some(message) = self.messages.get_mut(&key) else { return Time(0) };
        let header = message.header;
        let due = Time(message.applied.0 + header.delay_ms);
        // What expired before it was due, and was redriven, is ready at once; and what was sent before has waited, even
        // if a crash has set shard time back since.
        let has_to_wait = lease.attempt == 1 && !message.is_redriven;
        let is_early = has_to_wait && now.time < due;
        assert!(!is_early, "message {key} is sent at {:?} and delayed until {due:?}", now.time);
        let is_early = has_to_wait && self.wall_max < header.due;
        assert!(!is_early, "message {key} is sent before it is due");
        let is_later = message.answered.filter(|(_, turn)| *turn < self.turn && self.is_order_checked);
        let granted_from = if is_later.is_some() { now.time } else { message.applied };
        if let Some((answered, _)) = message.answered
            && header.ttl_ms > 0
            && !message.is_redriven
        {
            let expires = Time(answered.0 + message.wait_ms + header.ttl_ms);
            assert!(
                granted_from <= expires,
                "message {key} expired at {expires:?} and is sent at {:?}",
                now.time
            );
        }
        let served = Served {
            queue: message.queue.clone(),
            rank: (9 - header.priority, lease.message.0, key),
            is_fresh: !message.is_disturbed && !message.is_redriven,
        };
        message.is_disturbed = true;
        if let Some(waiting) = self.waiting.get_mut(&served.queue) {
            waiting.remove(&served.rank);
        }
        if is_later.is_some() && !message.is_redriven && !message.is_read_back {
            self.served.push(served);
        }
        granted_from
    }

    /// All effects of a step were let go: what was served in it came before nothing that had waited longer.
    pub(crate) fn turn_over(&mut self) {
        for served in std::mem::take(&mut self.served) {
            let Some(first) = self.waiting.get(&served.queue).and_then(BTreeSet::first) else { continue };
            let was_ready = self.messages[&first.2].answered.is_some_and(|(_, turn)| turn < self.turn);
            let comes_first = first.0 < served.rank.0
                || (served.is_fresh && first.0 == served.rank.0 && first.1 < served.rank.1);
            assert!(!(was_ready && comes_first), "{served:?} is sent before {first:?}");
        }
    }
}
