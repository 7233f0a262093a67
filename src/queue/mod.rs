//! The shard's brain: the client directory and a message's life from schedule to dead letter.
//!
//! Pure: no socket, file, thread or clock of its own. It owns who is attached where and with which epoch, every
//! queue and message, leases, dead letters, producers' marks and parked publishes. It must not know connections,
//! frames or files. Order of calls: [`Brain::new`], [`Brain::replay`] for every recovered record, [`Brain::start`],
//! then any of [`Brain::apply`], [`Brain::expire`], [`Brain::go_on`], [`Brain::records_read`], [`Brain::relocate`] and
//! [`Brain::log_room_changed`]. What is to happen outside is appended to the journal and pushed to the outbox.

mod ack_and_publish;
mod bindings;
mod bodies;
mod config;
mod copies;
mod dead;
mod dedup;
mod directory;
mod disk;
mod events;
mod fanout;
pub mod filter;
mod firing;
mod index;
mod invariants;
mod jobs;
mod lanes;
mod lifecycle;
mod marks;
mod messages;
mod name;
mod namespaces;
mod operator;
mod outbox;
mod overflow;
mod parked;
pub mod pattern;
mod publish;
mod queues;
mod quota;
mod rate;
mod ready;
pub mod record;
mod replay;
mod retention;
mod ring;
mod schedules;
mod service;
mod sessions;
mod settings;
mod settle;
#[cfg(test)]
mod tests;
mod timer;
mod topics;
mod turns;

pub use config::{DeadHead, NamespaceRules, QueueConfig, QueueRules, WhenFull};
pub use directory::{CLIENT_BY_CONNECTION_BYTES, CLIENT_BY_NAME_BYTES, CLIENT_BYTES};
pub use outbox::Outbox;
pub use replay::ReplayError;
pub use schedules::{ATTRIBUTE_SCHEDULE, ATTRIBUTE_SCHEDULED_FOR};

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use slab::Slab;

use crate::clock::{Now, Time, Wall};
use crate::host::Block;
use crate::ids::{Boot, ConnKey, MessageId, SubscriptionId};
use crate::log::{Journal, Position, ReadTicket, Room, Ticket};
use crate::mail::{Command, CommandBatch, Effect, RefusalCode, Refused, Settled};
use crate::telemetry::ShardMetrics;
use crate::wheel::Wheel;

use bindings::Bindings;
use dedup::Forgetting;
use directory::{Directory, Lease, Subscription};
use disk::Disk;
use events::Events;
use jobs::Jobs;
use lanes::Lanes;
use lifecycle::Forgotten;
use marks::Marks;
use messages::Messages;
use parked::{Acking, LoopParked, Parked};
use queues::Queues;
use retention::Retention;
use schedules::Schedules;
use timer::Timer;
use topics::Topics;
use turns::Turns;

/// What a call of the brain works with.
pub struct Turn<'a> {
    /// The time of this turn.
    pub now: Now,
    /// Where records go.
    pub journal: &'a mut dyn Journal,
    /// Where effects go.
    pub outbox: &'a mut Outbox,
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Turn<'_> {
    /// Sends `effect` once everything appended this turn is durable.
    fn push_durable(&mut self, effect: Effect) {
        let after = self.journal.open_ticket();
        self.outbox.push(after, effect, &[]);
    }

    /// Sends `effect`, which says nothing that has to be durable first.
    fn push_now(&mut self, effect: Effect) {
        self.outbox.push(Ticket::DURABLE, effect, &[]);
    }

    fn settled(&mut self, after: Ticket, conn: ConnKey, seq: u64, refused: Option<Refused>) {
        let refused = refused.map(Box::new);
        self.outbox.push(after, Effect::Settled(Settled { conn, seq, more: 0, lost: None, refused }), &[]);
    }
}

/// Bytes of a record that the brain keeps alive.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    position: Position,
    len: u32,
}

/// What a read of the journal is for.
#[derive(Debug)]
enum Reading {
    /// The delivery of the leased message in this slot.
    Delivery { slot: u32 },
    /// A delivery under a lease that was given back since.
    Abandoned,
    /// A job that has to see whether this is one of the dead letters it looks for.
    Job { job: u64, message: MessageId },
    /// An operator who looks at a dead letter.
    ShowDead { conn: ConnKey, message: MessageId },
    /// An operator who looks at a message, whatever became of it.
    Show { conn: ConnKey, message: MessageId },
}

/// Credit on its way back to a consumer.
#[derive(Debug)]
struct Replenish {
    after: Ticket,
    client: u32,
    subscription: SubscriptionId,
    /// Counter of the epoch that took it.
    epoch: u32,
    messages: u32,
    bytes: u64,
}

/// One shard's brain.
#[derive(Debug)]
pub struct Brain {
    config: QueueConfig,
    metrics: Arc<ShardMetrics>,
    random: fastrand::Rng,
    queues: Queues,
    /// How much of the disk is free, as far as that matters.
    disk: Disk,
    messages: Messages,
    lanes: Lanes,
    directory: Directory,
    subscriptions: Slab<Subscription>,
    topics: Topics,
    bindings: Bindings,
    events: Events,
    leases: Slab<Lease>,
    parked: Slab<Parked>,
    acking: Acking,
    /// Who had a lease that ended in this call, while some did.
    lease_enders: Vec<u32>,
    /// At most one a loop.
    parked_by_loop: Vec<LoopParked>,
    marks: Marks,
    forgetting: Forgetting,
    schedules: Schedules,
    /// Keys are those of [`Timer`].
    wheel: Wheel,
    reads: HashMap<ReadTicket, Reading>,
    /// Bytes of those that are for deliveries.
    reading_bytes: u64,
    /// Queues whose next message waits for a free place among the reads, each once.
    starved: VecDeque<u32>,
    /// Queues whose next message waits until the outbox has room, each once.
    held_back: Vec<u32>,
    /// When memory was last given back to the system.
    trimmed: Time,
    /// Queues to serve before this call returns.
    turns: Turns,
    /// Requests of operators that take more than one call; at most [`crate::limits::OPERATOR_JOBS_MAX`].
    jobs: Jobs,
    forgotten: Forgotten,
    retention: Retention,
    boot: Boot,
    boot_held: Held,
    /// The replay is over.
    is_started: bool,
    /// Sessions of an earlier boot may still be resumed.
    is_grace_after_start: bool,
    /// Epochs given in this boot.
    epochs: u32,
    next_id: u64,
    /// When the wall clock was last looked at for messages that wait for it, and how far ahead of the shard's it was; `None`
    /// before the first look, for what was replayed was timed by other clocks.
    wall_looked: Time,
    wall_ahead_ms: Option<i64>,
    /// The newest clock known to be in the log.
    clock: (Time, Wall),
    clock_held: Held,
    /// First message id of each ticket that is not committed, oldest first.
    uncommitted: VecDeque<(Ticket, u64)>,
    /// Credit that comes back with answers which are not committed, in order of their tickets.
    replenishing: VecDeque<Replenish>,
    /// Records of this call not appended yet; both amend what earlier calls appended.
    leased: Vec<(u64, u32)>,
    done: Vec<u64>,
    scratch: Vec<u8>,
    entry_lens: Vec<u32>,
}

/// How old the newest clock in the log may be.
const CLOCK_INTERVAL_MS: u64 = 1000;
/// Between the steps in which memory that is not needed any more goes back to the system.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

impl Brain {
    /// A brain that knows nothing yet. `seed` feeds its jitter.
    #[must_use]
    pub fn new(config: QueueConfig, metrics: Arc<ShardMetrics>, seed: u64) -> Self {
        let body_memory_bytes_max = config.body_memory_bytes_max;
        let topics = Topics::new(config.shard);
        Self {
            queues: Queues::new(config.namespace),
            config,
            metrics,
            random: fastrand::Rng::with_seed(seed),
            disk: Disk::default(),
            messages: Messages::new(body_memory_bytes_max),
            lanes: Lanes::default(),
            directory: Directory::default(),
            subscriptions: Slab::new(),
            topics,
            bindings: Bindings::default(),
            events: Events::default(),
            leases: Slab::new(),
            parked: Slab::new(),
            acking: Acking::default(),
            lease_enders: Vec::new(),
            parked_by_loop: Vec::new(),
            marks: Marks::default(),
            forgetting: Forgetting::default(),
            schedules: Schedules::default(),
            wheel: Wheel::new(Time(0)),
            reads: HashMap::new(),
            reading_bytes: 0,
            starved: VecDeque::new(),
            held_back: Vec::new(),
            trimmed: Time(0),
            turns: Turns::default(),
            jobs: Jobs::default(),
            forgotten: Forgotten::default(),
            retention: Retention::default(),
            boot: Boot(0),
            boot_held: Held::default(),
            is_started: false,
            is_grace_after_start: false,
            epochs: 0,
            next_id: 1,
            wall_looked: Time(0),
            wall_ahead_ms: None,
            clock: (Time(0), Wall(0)),
            clock_held: Held::default(),
            uncommitted: VecDeque::new(),
            replenishing: VecDeque::new(),
            leased: Vec::new(),
            done: Vec::new(),
            scratch: Vec::new(),
            entry_lens: Vec::new(),
        }
    }

    /// Carries out the commands of one turn of a loop and empties the batch.
    pub fn apply(&mut self, batch: &mut CommandBatch, turn: &mut Turn<'_>) {
        self.begin(turn);
        let (commands, mut parts) = batch.drain();
        for command in commands {
            match command {
                Command::Publish(publish) => {
                    let (messages, bodies) = parts.messages(publish.messages);
                    let acks = if publish.acks == 0 { &[] } else { parts.leases(publish.acks) };
                    self.publish(&publish, acks, messages, bodies, turn);
                }
                Command::Settle(settle) => {
                    let leases = parts.leases(settle.leases);
                    self.settle(&settle, leases, turn);
                }
                Command::Return { conn, leases } => {
                    let leases = parts.leases(leases);
                    self.take_back(conn, leases, turn);
                }
                Command::Attach(attach) => self.attach(&attach, turn),
                Command::Detach(detach) => self.detach(&detach, turn),
                Command::Subscribe { conn, seq, subscription, queue, credit_messages, credit_bytes } => {
                    let credit = directory::Credit::new(credit_messages, credit_bytes);
                    self.subscribe(conn, seq, subscription, &queue, credit, turn);
                }
                Command::Unsubscribe { conn, seq, subscription } => {
                    self.unsubscribe(conn, seq, subscription, turn);
                }
                Command::Credit { conn, subscription, messages, bytes } => {
                    self.add_credit(conn, subscription, messages, bytes);
                }
                Command::Resupply { conn } => self.resupply(conn),
                Command::Renew { conn, lease } => self.renew(conn, lease, turn),
                Command::BroadcastsDone { loop_id, namespace, bytes } => {
                    self.broadcasts_done(loop_id, namespace, bytes);
                }
                Command::Operator { conn, request } => self.operate(conn, *request, turn),
            }
            self.tell_many_events(turn);
        }
        batch.clear();
        self.finish(turn);
    }

    /// How many bytes of memory should be touched and handed to [`Brain::supply_memory`], so that the brain itself
    /// need not wait for the system to give them.
    #[must_use]
    pub fn wanted_memory(&self) -> Option<usize> {
        self.messages.bodies.wanted()
    }

    /// Takes memory that was wanted.
    pub fn supply_memory(&mut self, memory: Block) {
        self.messages.bodies.supply(memory);
    }

    /// A batch is committed: credit that came back with its acks is used.
    pub fn committed(&mut self, turn: &mut Turn<'_>) {
        if !self.replenishing.is_empty() {
            self.begin(turn);
            self.finish(turn);
        }
    }

    /// Whether deliveries wait for room in the outbox: [`Brain::expire`] is needed once some was released.
    #[must_use]
    pub fn is_holding_back(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// Does what is due by now, and goes on with the deliveries that waited for room in the outbox.
    pub fn expire(&mut self, turn: &mut Turn<'_>) {
        self.begin(turn);
        if self.messages.dues() > 0 {
            self.look_at_wall(turn.now);
        }
        while let Some((_, key)) = self.wheel.pop_expired(turn.now.time) {
            match Timer::of(key) {
                Timer::Message(slot) => self.message_due(slot, turn),
                Timer::Client(client) => self.grace_over(client, turn),
                Timer::Queue(queue) => self.queue_due(queue),
                Timer::Namespace(namespace) => self.namespace_due(namespace),
                Timer::Schedules => self.schedules_due(turn),
                Timer::StartGrace => self.is_grace_after_start = false,
            }
            self.tell_many_events(turn);
        }
        self.forget_ids(turn);
        self.retain_due(turn);
        self.jobs.wake(turn.now.time);
        if self.messages.bodies.has_surplus() && self.trimmed + TRIM_INTERVAL <= turn.now.time {
            self.trimmed = turn.now.time;
            self.messages.bodies.trim();
        }
        // Who was first comes last, so that room for a single delivery goes round as well.
        let mut held_back = std::mem::take(&mut self.held_back);
        if !held_back.is_empty() {
            held_back.rotate_left(1);
        }
        for queue in held_back {
            self.queues.at_mut(queue).is_held_back = false;
            self.mark_dirty(queue);
        }
        self.finish(turn);
    }

    /// When [`Brain::expire`] is next needed; may be early, never late.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let trim = self.messages.bodies.has_surplus().then_some(self.trimmed + TRIM_INTERVAL);
        let wall = (self.messages.dues() > 0).then_some(self.wall_looked + crate::limits::SCHEDULE_LOOK);
        let own = [
            wall,
            self.wheel.next_deadline(),
            trim,
            self.forgetting.next(),
            self.retention.next(),
            self.jobs.next(),
        ];
        own.into_iter().flatten().min()
    }

    /// The disk is full, or has room again: parked publishes are looked at anew.
    pub fn log_room_changed(&mut self, turn: &mut Turn<'_>) {
        self.begin(turn);
        let is_full = turn.journal.room() == Room::Reserved;
        self.metrics.disk_full.set(u64::from(is_full));
        if !is_full {
            self.look_at_parked();
        }
        self.finish(turn);
    }

    /// All queues with parked publishes are served in this call.
    fn look_at_parked(&mut self) {
        let waiting: std::collections::BTreeSet<u32> =
            self.parked.iter().map(|(_, parked)| parked.queue).collect();
        waiting.into_iter().for_each(|queue| self.mark_dirty(queue));
    }

    /// Goes on with what waited for the commit of a ticket.
    fn begin(&mut self, turn: &mut Turn<'_>) {
        let committed = turn.journal.committed();
        while self.uncommitted.pop_front_if(|(ticket, _)| *ticket <= committed).is_some() {}
        self.replenish_committed(committed);
    }

    /// Serves the queues that changed and appends what this call gathered.
    fn finish(&mut self, turn: &mut Turn<'_>) {
        loop {
            while let Some(queue) = self.turns.next() {
                self.queues.at_mut(queue).is_dirty = false;
                self.serve(queue, turn);
                self.tell_many_events(turn);
            }
            if self.refuse_lapsed(turn) || self.tell_events(turn) {
                continue;
            }
            // A free place among the reads goes on to the next queue when one has no use for it any more.
            if !self.has_room_to_read() {
                break;
            }
            let Some(queue) = self.starved.pop_front() else { break };
            self.queues.at_mut(queue).is_starved = false;
            self.mark_dirty(queue);
        }
        self.append_done(turn);
        self.append_leased(turn);
        self.tell_parked(turn);
        self.metrics.messages.set(self.messages.len() as u64);
        self.metrics.reading_bytes.set(self.reading_bytes);
        self.metrics.body_memory_bytes.set(self.messages.bodies.held_bytes());
        self.metrics.effects_held.set(turn.outbox.held() as u64);
        self.metrics.operator_jobs.set(self.jobs.len() as u64);
    }

    fn append_done(&mut self, turn: &mut Turn<'_>) {
        if !self.done.is_empty() {
            let mut done = std::mem::take(&mut self.done);
            self.append_amendment(turn, |out| record::encode_done(out, &done));
            done.clear();
            self.done = done;
        }
    }

    fn append_leased(&mut self, turn: &mut Turn<'_>) {
        if !self.leased.is_empty() {
            let mut leased = std::mem::take(&mut self.leased);
            let boot = self.boot;
            self.append_amendment(turn, |out| record::encode_leased(out, boot, &leased));
            leased.clear();
            self.leased = leased;
        }
    }

    /// Appends a record that only amends earlier ones; nothing keeps it alive.
    fn append_amendment(&mut self, turn: &mut Turn<'_>, encode: impl FnOnce(&mut Vec<u8>)) {
        let held = self.append(turn, encode);
        turn.journal.release(held.position, held.len);
    }

    fn append(&mut self, turn: &mut Turn<'_>, encode: impl FnOnce(&mut Vec<u8>)) -> Held {
        self.append_clock_if_old(turn);
        self.scratch.clear();
        encode(&mut self.scratch);
        let position = turn.journal.append(&[&self.scratch]);
        Held { position, len: self.scratch.len() as u32 }
    }

    fn append_clock_if_old(&mut self, turn: &mut Turn<'_>) {
        if self.clock.0.millis_until(turn.now.time) >= CLOCK_INTERVAL_MS {
            self.append_clock(turn);
        }
    }

    fn append_clock(&mut self, turn: &mut Turn<'_>) {
        self.scratch.clear();
        let next_id = self.next_id + self.config.ids_ahead;
        record::encode_clock(&mut self.scratch, turn.now.time, turn.now.wall, next_id);
        let position = turn.journal.append(&[&self.scratch]);
        release(turn, self.clock_held);
        self.clock = (turn.now.time, turn.now.wall);
        self.clock_held = Held { position, len: self.scratch.len() as u32 };
    }

    /// What a delivery of this message has to wait for.
    fn published_with(&self, id: u64) -> Ticket {
        let with = self.uncommitted.iter().rev().find(|(_, first)| *first <= id);
        with.map_or(Ticket::DURABLE, |(ticket, _)| *ticket)
    }

    fn mark_dirty(&mut self, queue: u32) {
        let entry = self.queues.at_mut(queue);
        if !entry.is_dirty {
            entry.is_dirty = true;
            self.turns.push(entry.namespace, queue);
        }
    }

    fn full_retry_ms(&self) -> u32 {
        u32::try_from(self.config.full_retry.as_millis()).unwrap_or(u32::MAX)
    }
}

fn release(turn: &mut Turn<'_>, held: Held) {
    if held.len > 0 {
        turn.journal.release(held.position, held.len);
    }
}

fn refused(code: RefusalCode, text: String, retry_after_ms: u32) -> Refused {
    Refused { code, text, retry_after_ms }
}
