//! What a message costs the queue's brain, with few and with many waiting: `cargo bench --bench queue`.
//!
//! Alone: no socket, no log, no other thread. As many commands as a busy loop hands over in a turn cross together, and
//! what they bring forth is taken from the outbox as the engine takes it. A row is one turn of [`TURN`] messages; its
//! throughput is in messages. Only the step that the row names is timed: the others bring the queue back to where it was,
//! so that as many messages wait at the end of a measurement as at its beginning.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use relaymesh::client::Message;
use relaymesh::clock::{Clock, Now, Time, Wall};
use relaymesh::host::Block;
use relaymesh::ids::{ClientId, ConnKey, LeaseId, LoopId, Namespace, QueueName, SubscriptionId};
use relaymesh::limits;
use relaymesh::log::{Journal, Position, ReadTicket, Room, Ticket};
use relaymesh::mail::{
    Attach, Command, CommandBatch, Effect, MessageHeader, Publish, PublishMessage, Settle, Settlement,
};
use relaymesh::queue::{Brain, Outbox, QueueConfig, Turn};
use relaymesh::telemetry::ShardMetrics;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages of one turn.
const TURN: usize = 256;
const BODY_BYTES: usize = 256;
/// Tenants of a queue, where there are some, each with as many messages.
const KEYS: usize = 100;
const FEW: usize = 1_000;
const MANY: usize = 1_000_000;
const LOOP: LoopId = LoopId(0);
const CONN: ConnKey = ConnKey { loop_id: LOOP, slot: 0, generation: 0 };
const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);
/// Of each turn of the mixed pipeline so many are nacked, to be tried again after [`RETRY_MS`].
const NACKED: usize = TURN / 16;
const RETRY_MS: u64 = 10;

criterion_group! {
    name = queue;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = steps
}
criterion_main!(queue);

/// A row and the step it times.
type Row = (&'static str, fn(&mut Shard) -> Duration);

fn steps(criterion: &mut Criterion) {
    for (waiting, keys) in [(FEW, 0), (MANY, 0), (FEW, KEYS), (MANY, KEYS)] {
        let mut shard = Shard::with(waiting, keys);
        let name = if keys == 0 { String::new() } else { format!(" with {keys} fairness keys") };
        let mut group = criterion.benchmark_group(format!("{waiting} waiting{name}"));
        group.throughput(Throughput::Elements(TURN as u64));
        let rows: [Row; 5] = [
            ("publish", publish),
            ("lease", lease),
            ("ack", ack),
            ("nack", nack),
            ("mixed: publish, ack, nack, lease", mixed),
        ];
        for (name, row) in rows {
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter_custom(|turns| (0..turns).map(|_| row(&mut shard)).sum());
            });
        }
        group.finish();
    }
}

fn publish(shard: &mut Shard) -> Duration {
    shard.publish(TURN);
    let took = shard.apply();
    shard.take(TURN);
    shard.settle(TURN, Settlement::Ack, false);
    shard.apply();
    took
}

fn lease(shard: &mut Shard) -> Duration {
    shard.publish(TURN);
    shard.apply();
    let took = shard.take(TURN);
    shard.settle(TURN, Settlement::Ack, false);
    shard.apply();
    took
}

fn ack(shard: &mut Shard) -> Duration {
    shard.publish(TURN);
    shard.apply();
    shard.take(TURN);
    shard.settle(TURN, Settlement::Ack, false);
    shard.apply()
}

/// What is nacked comes to the end of the queue, so that each message was nacked before it is done, and of many that wait half
/// have a failed attempt on record: that of a message which is leased next was written as long ago as it waited, and is in
/// no cache any more. With many waiting a nack costs these reads more than with few; with as many in the cache it is the same.
fn nack(shard: &mut Shard) -> Duration {
    shard.publish(TURN);
    shard.apply();
    shard.take(TURN);
    shard.settle(TURN, retry(1), false);
    let took = shard.apply();
    shard.pass(2);
    shard.take(TURN);
    shard.settle(TURN, Settlement::Ack, false);
    shard.apply();
    took
}

/// What a turn of a busy queue is: as much is published as is done, the credit of what was settled leases the next, and
/// what was nacked some turns ago falls due.
fn mixed(shard: &mut Shard) -> Duration {
    if shard.leases.is_empty() {
        shard.take(TURN);
    }
    shard.publish(TURN - NACKED);
    shard.settle(TURN - NACKED, Settlement::Ack, true);
    shard.settle(NACKED, retry(RETRY_MS), true);
    shard.pass(1) + shard.apply()
}

fn retry(delay_ms: u64) -> Settlement {
    Settlement::Nack { delay_ms: Some(delay_ms), error: "".into(), reject: false }
}

/// An encoded message, of the tenant `key` where there are tenants.
fn message(keys: usize, key: usize) -> Vec<u8> {
    let message = Message::new(vec![7; BODY_BYTES]);
    let message = if keys == 0 { message } else { message.fair_key(format!("tenant-{key}")) };
    message.encode(limits::MESSAGE_BYTES_MAX).expect("a small message")
}

/// Counts batches and keeps nothing.
#[derive(Debug, Default)]
struct Nowhere {
    position: u64,
    open: u64,
    committed: u64,
}

impl Journal for Nowhere {
    fn append(&mut self, parts: &[&[u8]]) -> Position {
        black_box(parts);
        self.position += 1;
        Position(self.position)
    }

    fn open_ticket(&self) -> Ticket {
        Ticket(self.open + 1)
    }

    fn committed(&self) -> Ticket {
        Ticket(self.committed)
    }

    fn release(&mut self, _position: Position, _len: u32) {}

    fn room(&self) -> Room {
        Room::Open
    }

    fn read(&mut self, _position: Position, _offset: u32, _len: u32) -> ReadTicket {
        unreachable!("all bodies are in memory")
    }
}

/// A brain with one client, which publishes to a queue and consumes from it.
struct Shard {
    brain: Brain,
    journal: Nowhere,
    outbox: Outbox,
    now: Now,
    clock: Clock,
    batch: CommandBatch,
    queue: QueueName,
    /// The encoded messages that are published, in turn.
    bodies: Vec<Vec<u8>>,
    has_keys: bool,
    leases: VecDeque<LeaseId>,
    seq: u64,
}

impl Shard {
    fn with(waiting: usize, keys: usize) -> Self {
        let brain = Brain::new(QueueConfig::default(), Arc::new(ShardMetrics::default()), 1);
        let mut shard = Self {
            brain,
            journal: Nowhere::default(),
            outbox: Outbox::new(),
            now: Now { time: Time(1000), wall: Wall(1) },
            clock: Clock::starting_at(Time(0)),
            batch: CommandBatch::default(),
            queue: QueueName::parse("load").expect("a name"),
            bodies: (0..keys.max(1)).map(|key| message(keys, key)).collect(),
            has_keys: keys > 0,
            leases: VecDeque::new(),
            seq: 1,
        };
        shard.turn(|brain, turn, _| {
            brain.start(turn);
        });
        shard.batch.commands.push(Command::Attach(Box::new(Attach {
            conn: CONN,
            namespace: Namespace::parse(Namespace::DEFAULT).expect("a name"),
            client: ClientId::parse("bench").expect("a name"),
            resume: None,
        })));
        shard.batch.commands.push(Command::Subscribe {
            conn: CONN,
            seq: 1,
            subscription: SUBSCRIPTION,
            queue: shard.queue.clone(),
            credit_messages: 0,
            credit_bytes: u64::MAX,
        });
        shard.apply();
        let mut missing = waiting;
        while missing > 0 {
            let next = missing.min(TURN);
            shard.publish(next);
            shard.apply();
            missing -= next;
        }
        shard
    }

    /// Time passes, and what falls due meanwhile happens.
    fn pass(&mut self, ms: u64) -> Duration {
        self.now.time = self.now.time + Duration::from_millis(ms);
        self.turn(|brain, turn, _| brain.expire(turn))
    }

    /// Leases so many messages.
    fn take(&mut self, messages: usize) -> Duration {
        let messages = u32::try_from(messages).expect("a turn's");
        let credit = Command::Credit { conn: CONN, subscription: SUBSCRIPTION, messages, bytes: 0 };
        self.batch.commands.push(credit);
        let before = self.leases.len();
        let took = self.apply();
        assert_eq!(self.leases.len() - before, messages as usize, "all of them are delivered at once");
        took
    }

    /// Asks for publishes, one message each.
    fn publish(&mut self, messages: usize) {
        let attempts_max = limits::ATTEMPTS_MAX;
        let has_options = self.has_keys;
        let header = MessageHeader { priority: 4, attempts_max, has_options, ..MessageHeader::default() };
        for _ in 0..messages {
            let body = &self.bodies[self.seq as usize % self.bodies.len()];
            self.seq += 1;
            self.batch.commands.push(Command::Publish(Publish {
                conn: CONN,
                seq: self.seq,
                queue: self.queue.clone(),
                producer: None,
                messages: 1,
                acks: 0,
                replenish: false,
            }));
            self.batch.messages.push(PublishMessage { header, body_len: body.len() as u32 });
            self.batch.bodies.extend_from_slice(body);
        }
    }

    /// Asks for so many of the leases that are held to be settled, each in a command of its own.
    fn settle(&mut self, leases: usize, settlement: Settlement, replenish: bool) {
        for _ in 0..leases {
            self.seq += 1;
            let settlement = settlement.clone();
            let settle = Settle { conn: CONN, seq: self.seq, settlement, leases: 1, replenish };
            self.batch.commands.push(Command::Settle(settle));
            self.batch.leases.push(self.leases.pop_front().expect("as many are held"));
        }
    }

    fn apply(&mut self) -> Duration {
        self.turn(|brain, turn, batch| brain.apply(batch, turn))
    }

    /// Lets the brain act and takes what comes of it, as the engine does before and after the commit; returns the time
    /// that took.
    fn turn(&mut self, act: impl FnOnce(&mut Brain, &mut Turn<'_>, &mut CommandBatch)) -> Duration {
        let start_us = self.clock.micros();
        let mut turn = Turn { now: self.now, journal: &mut self.journal, outbox: &mut self.outbox };
        act(&mut self.brain, &mut turn, &mut self.batch);
        self.journal.open += 1;
        self.journal.committed = self.journal.open;
        let mut turn = Turn { now: self.now, journal: &mut self.journal, outbox: &mut self.outbox };
        self.brain.committed(&mut turn);
        let released = self.outbox.release(Ticket(u64::MAX), LOOP);
        let took = Duration::from_micros(self.clock.micros() - start_us);
        for effect in released.into_iter().flat_map(|batch| batch.effects) {
            if let Effect::Deliver(deliver) = effect {
                self.leases.push_back(deliver.lease);
            }
        }
        // As the engine has another thread do.
        if let Some(bytes) = self.brain.wanted_memory() {
            let mut block = Block::new(bytes).expect("memory");
            block.touch();
            self.brain.supply_memory(block);
        }
        took
    }
}
