//! A brain over a journal in memory, with time and commits in the test's hand.

mod bindings;
mod dead;
mod dedup;
mod events;
mod keys;
mod limits;
mod model;
mod operator;
mod outbox;
mod records;
mod reference;
mod scenarios;
mod schedules;
mod settings;
mod topics;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Now, Time, Wall};
use crate::ids::*;
use crate::log::{Journal, Position, ReadTicket, Room, Ticket};
use crate::mail::*;
use crate::message::message_header;
use crate::queue::{Brain, Outbox, QueueConfig, Turn};
use crate::telemetry::ShardMetrics;
use crate::wire::proto;
use prost::Message as _;

/// Remembers records and checks what the brain says of them.
#[derive(Debug)]
pub(super) struct MemoryJournal {
    pub(super) records: BTreeMap<u64, (Ticket, Vec<u8>)>,
    live: HashMap<u64, u64>,
    reads: VecDeque<(ReadTicket, Vec<u8>)>,
    next_position: u64,
    next_read: u64,
    open: u64,
    open_records: usize,
    committed: u64,
    pub(super) room: Room,
    /// For measurements: keep nothing.
    pub(super) forgetful: bool,
}

impl MemoryJournal {
    pub(super) fn new() -> Self {
        Self {
            records: BTreeMap::new(),
            live: HashMap::new(),
            reads: VecDeque::new(),
            next_position: 1,
            next_read: 1,
            open: 1,
            open_records: 0,
            committed: 0,
            room: Room::Open,
            forgetful: false,
        }
    }

    pub(super) fn commit(&mut self) {
        if self.open_records > 0 {
            self.committed = self.open;
            self.open += 1;
            self.open_records = 0;
        }
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live.values().sum()
    }
}

impl Journal for MemoryJournal {
    fn append(&mut self, parts: &[&[u8]]) -> Position {
        let position = self.next_position;
        self.next_position += 1;
        self.open_records += 1;
        if !self.forgetful {
            let record = parts.concat();
            self.live.insert(position, record.len() as u64);
            self.records.insert(position, (Ticket(self.open), record));
        }
        Position(position)
    }

    fn open_ticket(&self) -> Ticket {
        Ticket(self.open)
    }

    fn committed(&self) -> Ticket {
        Ticket(self.committed)
    }

    fn retain(&mut self, position: Position, len: u32) {
        *self.live.entry(position.0).or_default() += u64::from(len);
        let (_, record) = &self.records[&position.0];
        assert!(self.live[&position.0] <= record.len() as u64, "more retained than there is");
    }

    fn release(&mut self, position: Position, len: u32) {
        if self.forgetful {
            return;
        }
        let live = self.live.get_mut(&position.0).expect("released a record that is not live");
        *live = live.checked_sub(u64::from(len)).expect("released more than the record has");
        if *live == 0 {
            self.live.remove(&position.0);
        }
    }

    fn room(&self) -> Room {
        self.room
    }

    fn read(&mut self, position: Position, offset: u32, len: u32) -> ReadTicket {
        let (_, record) = &self.records[&position.0];
        let bytes = record[offset as usize..(offset + len) as usize].to_vec();
        self.next_read += 1;
        self.reads.push_back((ReadTicket(self.next_read), bytes));
        ReadTicket(self.next_read)
    }
}

pub(super) struct World {
    pub(super) brain: Brain,
    pub(super) journal: MemoryJournal,
    pub(super) outbox: Outbox,
    pub(super) now: Now,
    pub(super) boot: Boot,
    pub(super) config: QueueConfig,
    pub(super) metrics: Arc<ShardMetrics>,
    batch: CommandBatch,
    next_slot: u32,
    next_seq: u64,
}

pub(super) const TENANT: &str = "acme";

pub(super) fn name(queue: &str) -> QueueName {
    QueueName::parse(queue).unwrap()
}

pub(super) fn tenant() -> Namespace {
    Namespace::parse(TENANT).unwrap()
}

/// Of connections that take whatever is delivered at once.
pub(super) fn roomy() -> QueueConfig {
    QueueConfig { delivery_room_bytes: u32::MAX, ..QueueConfig::default() }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(QueueConfig::default())
    }

    pub(super) fn with(config: QueueConfig) -> Self {
        let metrics = Arc::new(ShardMetrics::default());
        let brain = Brain::new(config.clone(), metrics.clone(), 7);
        let now = Now { time: Time(5_000), wall: Wall(1_000_000_000_000) };
        let mut world = Self {
            brain,
            journal: MemoryJournal::new(),
            outbox: Outbox::new(),
            now,
            boot: Boot(0),
            config,
            metrics,
            batch: CommandBatch::default(),
            next_slot: 0,
            next_seq: 0,
        };
        world.boot = world.turn(|brain, turn| brain.start(turn));
        world.journal.commit();
        world
    }

    pub(super) fn turn<T>(&mut self, act: impl FnOnce(&mut Brain, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn { now: self.now, journal: &mut self.journal, outbox: &mut self.outbox };
        let done = act(&mut self.brain, &mut turn);
        if !self.journal.forgetful {
            self.brain.check_invariants();
            assert_eq!(self.journal.live_bytes(), self.brain.held_bytes(), "live bytes of the log");
        }
        done
    }

    pub(super) fn apply(&mut self, fill: impl FnOnce(&mut CommandBatch)) {
        let mut batch = std::mem::take(&mut self.batch);
        fill(&mut batch);
        self.turn(|brain, turn| brain.apply(&mut batch, turn));
        self.batch = batch;
    }

    pub(super) fn command(&mut self, command: Command) {
        self.apply(|batch| batch.commands.push(command));
    }

    /// Serves the reads, commits, and takes what is released.
    pub(super) fn commit(&mut self) -> Vec<(Effect, Vec<u8>)> {
        self.serve_reads();
        self.journal.commit();
        self.turn(|brain, turn| brain.committed(turn));
        self.released()
    }

    pub(super) fn serve_reads(&mut self) {
        while !self.journal.reads.is_empty() {
            let read = std::mem::take(&mut self.journal.reads);
            let read = read.iter().map(|(ticket, bytes)| (*ticket, bytes.as_slice()));
            self.turn(|brain, turn| brain.records_read(read, turn));
        }
    }

    /// What may leave without another commit.
    pub(super) fn released(&mut self) -> Vec<(Effect, Vec<u8>)> {
        let loops: Vec<LoopId> = self.outbox.loops().collect();
        let mut effects = Vec::new();
        for loop_id in loops {
            let Some(batch) = self.outbox.release(self.journal.committed(), loop_id) else { continue };
            let mut bodies = batch.bodies.as_slice();
            for effect in batch.effects {
                let len = if let Effect::Deliver(deliver) = &effect { deliver.body_len as usize } else { 0 };
                let (body, rest) = bodies.split_at(len);
                bodies = rest;
                effects.push((effect, body.to_vec()));
            }
        }
        effects
    }

    /// Does a slice of an operator's request.
    pub(super) fn go_on(&mut self) {
        self.turn(|brain, turn| brain.go_on(turn));
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now.time = self.now.time + by;
        self.now.wall.0 += by.as_millis() as u64;
        self.turn(|brain, turn| brain.expire(turn));
    }

    /// Loses what is not committed, but for the first `torn` records, and starts anew after `gap`.
    pub(super) fn restart(&mut self, torn: usize, gap: Duration) {
        let committed = self.journal.committed();
        let durable = self.journal.records.values().filter(|(ticket, _)| *ticket <= committed).count();
        let kept: BTreeMap<_, _> =
            std::mem::take(&mut self.journal.records).into_iter().take(durable + torn).collect();
        let next_position = self.journal.next_position;
        self.journal = MemoryJournal { records: kept, next_position, ..MemoryJournal::new() };
        self.outbox = Outbox::new();
        self.metrics = Arc::new(ShardMetrics::default());
        self.brain = Brain::new(self.config.clone(), self.metrics.clone(), 8);
        for (&position, (ticket, record)) in &mut self.journal.records {
            *ticket = Ticket::DURABLE;
            self.brain.replay(Position(position), record).unwrap();
        }
        let wall = Wall(self.now.wall.0 + gap.as_millis() as u64);
        self.now = Now { time: self.brain.shard_time(wall), wall };
        self.boot = self.turn(|brain, turn| brain.start(turn));
        self.journal.commit();
    }

    /// Relocates the oldest `count` records, as the log does before it frees a segment.
    pub(super) fn compact(&mut self, count: usize) {
        let oldest: Vec<(u64, Vec<u8>)> =
            self.journal.records.iter().take(count).map(|(&at, (_, record))| (at, record.clone())).collect();
        for (position, record) in &oldest {
            self.turn(|brain, turn| brain.relocate(Position(*position), record, turn));
        }
        self.serve_reads();
        self.journal.commit();
        for (position, record) in oldest {
            assert!(!self.journal.live.contains_key(&position), "still live: {record:?}");
            self.journal.records.remove(&position);
        }
    }

    pub(super) fn conn(&mut self) -> ConnKey {
        self.next_slot += 1;
        ConnKey { loop_id: LoopId(0), slot: self.next_slot, generation: 3 }
    }

    pub(super) fn seq(&mut self) -> u64 {
        self.next_seq += 2;
        self.next_seq
    }

    pub(super) fn attach_with(&mut self, client: &str, resume: Option<Resume>) -> (ConnKey, Attached) {
        let conn = self.conn();
        let client = ClientId::parse(client).unwrap();
        self.command(Command::Attach(Box::new(Attach { conn, namespace: tenant(), client, resume })));
        let attached = self.released().into_iter().find_map(|(effect, _)| match effect {
            Effect::Attached(attached) if attached.conn == conn => Some(*attached),
            _ => None,
        });
        (conn, attached.expect("attached"))
    }

    pub(super) fn attach(&mut self, client: &str) -> ConnKey {
        self.attach_with(client, None).0
    }

    pub(super) fn detach(&mut self, conn: ConnKey, bye: bool) {
        let reason = if bye { DetachReason::Bye } else { DetachReason::ConnectionLost };
        self.command(Command::Detach(Detach { conn, bye, reason, retired_producer: None }));
    }

    pub(super) fn publish_with(
        &mut self,
        conn: ConnKey,
        queue: &str,
        producer: Option<ProducerSequence>,
        messages: &[(MessageHeader, &[u8])],
    ) -> u64 {
        self.publish_acking(conn, queue, producer, &[], messages)
    }

    pub(super) fn publish_acking(
        &mut self,
        conn: ConnKey,
        queue: &str,
        producer: Option<ProducerSequence>,
        acks: &[LeaseId],
        messages: &[(MessageHeader, &[u8])],
    ) -> u64 {
        let seq = self.seq();
        let (messages_len, acks_len) = (messages.len() as u32, acks.len() as u32);
        let queue = name(queue);
        let publish =
            Publish { conn, seq, queue, producer, messages: messages_len, acks: acks_len, replenish: true };
        self.apply(|batch| {
            batch.leases.extend_from_slice(acks);
            batch.commands.push(Command::Publish(publish));
            for (header, body) in messages {
                batch.messages.push(PublishMessage { header: *header, body_len: body.len() as u32 });
                batch.bodies.extend_from_slice(body);
            }
        });
        seq
    }

    pub(super) fn publish(&mut self, conn: ConnKey, queue: &str, bodies: &[&str]) -> u64 {
        let header = MessageHeader { priority: 4, ..Default::default() };
        let messages: Vec<_> = bodies.iter().map(|body| (header, body.as_bytes())).collect();
        self.publish_with(conn, queue, None, &messages)
    }

    /// Publishes one message as a client encodes it.
    pub(super) fn publish_message(&mut self, conn: ConnKey, queue: &str, message: &proto::Message) -> u64 {
        let (header, body) = encoded(message);
        self.publish_with(conn, queue, None, &[(header, &body)])
    }

    pub(super) fn subscribe(&mut self, conn: ConnKey, id: u16, queue: &str, credit_messages: u32) {
        let seq = self.seq();
        self.command(Command::Subscribe {
            conn,
            seq,
            subscription: SubscriptionId(id),
            queue: name(queue),
            credit_messages,
            credit_bytes: u64::MAX,
        });
    }

    pub(super) fn settle(&mut self, conn: ConnKey, leases: &[LeaseId], settlement: Settlement) -> u64 {
        let seq = self.seq();
        let settle = Settle { conn, seq, settlement, leases: leases.len() as u32, replenish: true };
        self.apply(|batch| {
            batch.commands.push(Command::Settle(settle));
            batch.leases.extend_from_slice(leases);
        });
        seq
    }

    pub(super) fn operate(&mut self, request: OperatorRequest) -> OperatorReply {
        let conn = ConnKey { loop_id: LoopId::OPERATOR, slot: self.seq() as u32, generation: 0 };
        self.command(Command::Operator { conn, request: Box::new(request) });
        for _ in 0..1000 {
            while self.brain.has_jobs() {
                self.go_on();
            }
            let reply = self.commit().into_iter().find_map(|(effect, _)| match effect {
                Effect::Operator { conn: to, reply } if to == conn => Some(*reply),
                _ => None,
            });
            if let Some(reply) = reply {
                return reply;
            }
        }
        panic!("no answer");
    }

    /// Sets what a queue has of its own; an empty value resets it.
    pub(super) fn set(&mut self, queue: &str, settings: &[(&str, &str)]) -> OperatorReply {
        let changes = settings
            .iter()
            .map(|&(key, value)| (key.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty())))
            .collect();
        self.operate(OperatorRequest::QueueSet { namespace: tenant(), queue: name(queue), changes })
    }

    pub(super) fn stats(&mut self, queue: &str) -> QueueStats {
        match self.operate(OperatorRequest::Stats { namespace: tenant(), queue: name(queue) }) {
            OperatorReply::Queues(mut rows) => rows.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn dead(&mut self, queue: &str) -> Vec<DeadLetter> {
        let (namespace, queue) = (tenant(), name(queue));
        match self.operate(OperatorRequest::DeadList {
            namespace,
            queue: Some(queue),
            filter: DeadFilter::default(),
            after: None,
            limit: 100,
        }) {
            OperatorReply::DeadPage { rows, .. } => rows,
            other => panic!("{other:?}"),
        }
    }
}

/// A message as a client encodes it, with its header.
pub(super) fn encoded(message: &proto::Message) -> (MessageHeader, Vec<u8>) {
    let body = message.encode_to_vec();
    (message_header(&body, body.len()).unwrap(), body)
}

pub(super) fn deliveries(effects: &[(Effect, Vec<u8>)]) -> Vec<(Deliver, String)> {
    effects
        .iter()
        .filter_map(|(effect, body)| match effect {
            Effect::Deliver(deliver) => Some((*deliver, String::from_utf8_lossy(body).into_owned())),
            _ => None,
        })
        .collect()
}

pub(super) fn nack(error: &str) -> Settlement {
    Settlement::Nack { delay_ms: None, error: error.into(), reject: false }
}
