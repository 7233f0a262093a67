//! What the parts of a session's life cost with ten thousand sessions and with a million: `cargo bench --bench parts`.
//!
//! All sessions are visited, each once a round, in an order of its own that the next round repeats: for the memory that
//! is random access, and what was touched has left the caches before it is touched again. Each row is the median of its
//! rounds in processor time, for one operation. What a million costs more than ten thousand is waiting for memory.
//!
//! Rows marked `alone` are the worst case: nothing is known of an operation before its turn, and each waits for its
//! memory by itself. The others do what the server does. It is handed the events of a turn of a loop, here of
//! 64 sessions, and knows all of them before it looks at the first; the commands of a turn cross to the shard together;
//! timers fire as time passes, in which all sessions say something once in a minute of the server's time.
//!
//! The first rows are what the sessions take of RAM.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use prost::Message as _;
use relaymesh::clock::{Now, Time, Wall};
use relaymesh::config::Auth;
use relaymesh::gateway::{Action, Gateway, GatewayConfig, SlotKey};
use relaymesh::host;
use relaymesh::ids::{ClientId, ConnKey, Epoch, LoopId, Namespace, QueueName, SubscriptionId};
use relaymesh::log::{Journal, Position, ReadTicket, Room, Ticket};
use relaymesh::mail::{Attach, Attached, Command, CommandBatch, Effect, EffectBatch};
use relaymesh::queue::{Brain, Outbox, QueueConfig, Turn};
use relaymesh::session::ResumeKey;
use relaymesh::telemetry::{LoopMetrics, ShardMetrics};
use relaymesh::wheel::{TimerId, Wheel};
use relaymesh::wire::{self, EMPTY_PING, Kind, proto};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FEW: usize = 10_000;
const MANY: usize = 1_000_000;
/// Operations of a measurement; a million sessions are visited twice.
const OPERATIONS: usize = 2 * MANY;
const ROUNDS: usize = 5;
/// Sessions with something to say in one turn.
const PER_TURN: usize = 64;
const MINUTE_MS: u64 = 60_000;
const NOW: Time = Time(1000);
const LOOP: LoopId = LoopId(0);

fn main() {
    // First, while the allocator has nothing to give that was resident before.
    println!("bytes of RSS a session, with {MANY}");
    let before = host::resident_bytes().unwrap_or(0);
    let sessions = Sessions::new(MANY);
    let before = resident("a loop's brain", before);
    let shard = Shard::new(MANY);
    resident("a shard's directory", before);
    drop((sessions, shard));

    println!("\n{:44} {:>10} {:>10} {:>7}", "ns an operation, by sessions", "10,000", "1,000,000", "ratio");
    row("sessions: looked up, alone", |count| slab(count, false));
    row("sessions: looked up, those of a turn", |count| slab(count, true));
    row("wheel: a timer fires and is set again", wheel);
    row("directory: a client's connection, alone", |count| directory(count, 1, credit));
    row("directory: the same, a turn's commands", |count| directory(count, PER_TURN, credit));
    row("directory: a client's name, attached, alone", |count| directory(count, 1, attach));
    row("directory: the same, a turn's commands", |count| directory(count, PER_TURN, attach));
    row("gateway: PING, PONG and deadlines, alone", |count| gateway(count, false));
    row("gateway: the same, a turn's events", |count| gateway(count, true));
}

/// Measures with few and with many; the operation is handed the numbers of a turn's sessions.
fn row<T: FnMut(&[u32])>(name: &str, part: impl Fn(usize) -> T) {
    let [few, many] = [FEW, MANY].map(|sessions| nanos(sessions, part(sessions)));
    println!("{name:44} {few:>10.1} {many:>10.1} {:>6.2}x", many / few);
}

fn nanos(sessions: usize, mut turn: impl FnMut(&[u32])) -> f64 {
    let mut order: Vec<u32> = (0..).take(sessions).collect();
    Rng::with_seed(1).shuffle(&mut order);
    let mut round = |operations: usize| {
        let turns = order.chunks(PER_TURN).cycle().take(operations / PER_TURN);
        let before = host::cpu_time();
        turns.for_each(&mut turn);
        (host::cpu_time() - before).as_secs_f64() * 1e9 / operations as f64
    };
    round(sessions);
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round(OPERATIONS)).collect();
    rounds.sort_unstable_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// Prints by how much memory in RAM grew since it was `before`; returns what it is now.
fn resident(name: &str, before: u64) -> u64 {
    let now = host::resident_bytes().unwrap_or(0);
    println!("{name:44} {:>10}", (now - before) / MANY as u64);
    now
}

/// A loop's brain with live sessions, in slots from 0.
struct Sessions {
    gateway: Gateway,
}

impl Sessions {
    fn new(count: usize) -> Self {
        let mut config = GatewayConfig::new(Auth::Open, ResumeKey([1; 32]));
        config.max_sessions = count;
        // All come at once, into the half of the bucket that is not for those who resume, and keep their interval.
        config.admission_burst = 2 * u32::try_from(count).expect("fewer than 2^31");
        config.heartbeats_per_s = config.admission_burst;
        let metrics = Arc::new(LoopMetrics::default());
        let gateway = Gateway::new(LOOP, Arc::new(config), Arc::clone(&metrics), 1, NOW);
        let mut sessions = Self { gateway };
        for number in 0..count {
            sessions.connect(number);
        }
        assert_eq!(metrics.connections_live.value(), count as u64, "all are live");
        sessions
    }

    /// The events of a turn are seen, as the loop does before it reads.
    fn expect(&self, turn: &[u32]) {
        turn.iter().for_each(|&number| self.gateway.expect(number));
    }

    fn ping(&mut self, now: Time, turn: &[u32]) {
        for &number in turn {
            self.gateway.receive(now, SlotKey { slot: number, generation: 0 }, &EMPTY_PING);
        }
        self.flush();
    }

    fn connect(&mut self, number: usize) {
        let key = self.gateway.accept(NOW).expect("room for a connection");
        let name = name_of(number);
        let hello = proto::Hello {
            version_min: 1,
            version_max: 1,
            client_id: name.clone(),
            heartbeat_ms: MINUTE_MS as u32,
            ..Default::default()
        };
        let mut frame = Vec::with_capacity(hello.encoded_len() + 8);
        wire::encode(&mut frame, Kind::Hello, &hello);
        self.gateway.receive(NOW, key, &frame);
        self.gateway.commands().iter_mut().for_each(CommandBatch::clear);
        let attached = Attached {
            conn: ConnKey { loop_id: LOOP, slot: key.slot, generation: key.generation },
            namespace: Namespace::parse(Namespace::DEFAULT).expect("a name"),
            client: ClientId::parse(&name).expect("a name"),
            session_id: number as u64,
            epoch: Epoch(number as u64),
            resumed: false,
        };
        let effects = vec![Effect::Attached(Box::new(attached))];
        self.gateway.effects(NOW, EffectBatch { effects, bodies: Vec::new() });
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(action) = self.gateway.next_action() {
            if let Action::Flush(slot) = action {
                let sent = black_box(self.gateway.unsent(slot)).len();
                self.gateway.sent(NOW, slot, sent);
            }
        }
    }
}

fn name_of(number: usize) -> String {
    format!("d-{number:08}")
}

fn slab(count: usize, is_expected: bool) -> impl FnMut(&[u32]) {
    let sessions = Sessions::new(count);
    move |turn| {
        if is_expected {
            sessions.expect(turn);
        }
        for &number in turn {
            black_box(sessions.gateway.may_read(number));
        }
    }
}

/// The server's time passes so that each session is heard once a minute, and what is due happens: each deadline is
/// three minutes after the session was heard, so that it is looked at once in two or three heartbeats.
fn gateway(count: usize, is_expected: bool) -> impl FnMut(&[u32]) {
    let mut sessions = Sessions::new(count);
    let mut heard = 0;
    move |turn| {
        heard += turn.len() as u64;
        let now = NOW + Duration::from_millis(heard * MINUTE_MS / count as u64);
        if is_expected {
            sessions.expect(turn);
        }
        sessions.ping(now, turn);
        while sessions.gateway.next_deadline().is_some_and(|at| at <= now) {
            sessions.gateway.expire(now);
        }
        sessions.flush();
    }
}

/// Each timer fires once in three minutes and is set again, as that of a session that is heard every minute.
fn wheel(count: usize) -> impl FnMut(&[u32]) {
    const PERIOD_MS: u64 = 3 * MINUTE_MS;
    let mut wheel = Wheel::new(Time(0));
    let mut timers: Vec<Option<TimerId>> = vec![None; count];
    let mut random = Rng::with_seed(2);
    for (key, timer) in (0..).zip(&mut timers) {
        *timer = Some(wheel.insert(Time(random.u64(1..=PERIOD_MS)), key));
    }
    let mut now = Time(0);
    move |turn| {
        for _ in turn {
            let key = loop {
                match wheel.pop_expired(now) {
                    Some((_, key)) => break key,
                    None => now = wheel.next_deadline().expect("all timers wait"),
                }
            };
            timers[key as usize] = Some(wheel.insert(Time(now.0 + PERIOD_MS), key));
        }
    }
}

/// Answers nothing and keeps nothing.
struct Nowhere;

impl Journal for Nowhere {
    fn append(&mut self, _parts: &[&[u8]]) -> Position {
        Position(1)
    }

    fn open_ticket(&self) -> Ticket {
        Ticket::DURABLE
    }

    fn committed(&self) -> Ticket {
        Ticket::DURABLE
    }

    fn release(&mut self, _position: Position, _len: u32) {}

    fn room(&self) -> Room {
        Room::Open
    }

    fn read(&mut self, _position: Position, _offset: u32, _len: u32) -> ReadTicket {
        ReadTicket(1)
    }
}

/// A shard's brain with a client on each connection, subscribed to its mailbox.
struct Shard {
    brain: Brain,
    outbox: Outbox,
    batch: CommandBatch,
}

impl Shard {
    fn new(count: usize) -> Self {
        let config = QueueConfig { sessions_max: count, ..QueueConfig::default() };
        let brain = Brain::new(config, Arc::new(ShardMetrics::default()), 1);
        let mut shard = Self { brain, outbox: Outbox::new(), batch: CommandBatch::default() };
        shard.turn(|brain, turn| {
            brain.start(turn);
        });
        for slot in (0..).take(count) {
            shard.batch.commands.push(attach(slot));
            let queue = QueueName::parse(&format!("device/{}", name_of(slot as usize))).expect("a name");
            shard.batch.commands.push(Command::Subscribe {
                conn: conn(slot),
                seq: 1,
                subscription: SubscriptionId(1),
                queue,
                credit_messages: 16,
                credit_bytes: u64::MAX,
            });
            shard.apply();
        }
        shard
    }

    fn turn(&mut self, act: impl FnOnce(&mut Brain, &mut Turn<'_>)) {
        let now = Now { time: NOW, wall: Wall(1) };
        act(&mut self.brain, &mut Turn { now, journal: &mut Nowhere, outbox: &mut self.outbox });
        black_box(self.outbox.release(Ticket::DURABLE, LOOP));
    }

    fn apply(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        self.turn(|brain, turn| brain.apply(&mut batch, turn));
        self.batch = batch;
    }
}

fn conn(slot: u32) -> ConnKey {
    ConnKey { loop_id: LOOP, slot, generation: 0 }
}

fn credit(slot: u32) -> Command {
    Command::Credit { conn: conn(slot), subscription: SubscriptionId(1), messages: 1, bytes: 0 }
}

fn attach(slot: u32) -> Command {
    Command::Attach(Box::new(Attach {
        conn: conn(slot),
        namespace: Namespace::parse(Namespace::DEFAULT).expect("a name"),
        client: ClientId::parse(&name_of(slot as usize)).expect("a name"),
        resume: None,
    }))
}

/// Commands cross to the shard in batches of so many.
fn directory(count: usize, batch: usize, command: fn(u32) -> Command) -> impl FnMut(&[u32]) {
    let mut shard = Shard::new(count);
    move |turn| {
        for batch in turn.chunks(batch) {
            shard.batch.commands.extend(batch.iter().map(|&slot| command(slot)));
            shard.apply();
        }
    }
}
