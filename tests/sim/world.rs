//! One world: a seed, virtual time, a server, its clients, the network and the disk between them, what goes wrong, and
//! the shadow model that watches. Everything happens in [`World::run`], one event after the other.

use relaymesh::clock::{Time, Wall};
use relaymesh::ids::LeaseId;

use crate::actors::{Client, Operator};
use crate::finale::Phase;
use crate::network::{ConnId, Network, Side};
use crate::plan::Plan;
use crate::planted::Planted;
use crate::scheduler::{MS, Micros, Scheduler};
use crate::server::{Server, ShareDrains};
use crate::shadow::{Ledger, Watch};
use crate::storage::Disk;
use crate::trace::{Trace, Tracing};

/// What can happen next.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes, an end or a reset arrive.
    Arrive {
        conn: ConnId,
        side: Side,
    },
    /// The network takes bytes again.
    Writable {
        conn: ConnId,
        side: Side,
    },
    /// The first packet of a connection reaches the server.
    Syn {
        conn: ConnId,
    },
    Connected {
        client: usize,
        conn: ConnId,
    },
    ConnectFailed {
        client: usize,
        conn: ConnId,
    },
    ServerStart,
    LoopTurn {
        life: u32,
        index: usize,
    },
    ShardTurn {
        life: u32,
    },
    ShardPoke {
        life: u32,
    },
    Committed {
        life: u32,
    },
    ChoreRun {
        life: u32,
    },
    DrainCheck {
        life: u32,
    },
    ClientWake {
        client: usize,
    },
    /// A producer's next publish.
    Publish {
        client: usize,
        incarnation: u32,
    },
    /// Work on a delivery is done.
    Work {
        client: usize,
        incarnation: u32,
        lease: LeaseId,
        key: u64,
    },
    /// A client that crashed or was taken over comes back without its memory.
    Reborn {
        client: usize,
    },
    OperatorTurn,
    /// The operator looks after bindings and schedules.
    LaterTurn,
    /// A share of the sessions is to be sent away.
    ShareDrain,
    /// All of it must have been told.
    ShareDrainTold {
        order: u16,
    },
    /// And be gone.
    ShareDrainLeft {
        order: u16,
    },
    Trouble,
    TroubleEnds {
        what: crate::chaos::Passing,
    },
    FinaleCheck,
}

/// Events after which a world is taken to run in circles.
const EVENTS_MAX: u64 = 3_000_000;
/// What the wall clock shows when a world begins, in milliseconds since 1970.
const WALL_BEGINS: u64 = 1_800_000_000_000;

/// Everything there is.
pub(crate) struct World {
    pub(crate) scheduler: Scheduler<Event>,
    pub(crate) trace: Trace,
    pub(crate) plan: Plan,
    /// For whatever has no random source of its own.
    pub(crate) random: fastrand::Rng,
    pub(crate) network: Network,
    pub(crate) disk: Disk,
    pub(crate) server: Option<Server>,
    /// Servers started so far.
    pub(crate) life: u32,
    pub(crate) clients: Vec<Client>,
    pub(crate) operator: Operator,
    pub(crate) drains: ShareDrains,
    /// Theirs alone, so that worlds without them stay what they were.
    pub(crate) drain_random: fastrand::Rng,
    pub(crate) ledger: Ledger,
    pub(crate) watch: Watch,
    pub(crate) planted: Planted,
    pub(crate) phase: Phase,
    /// How far the wall clock was set off, in milliseconds.
    pub(crate) wall_offset: i64,
    pub(crate) slow_disk_until: Micros,
    pub(crate) next_key: u64,
    /// For what worlds learned later.
    pub(crate) later_random: fastrand::Rng,
}

/// What a world that ended well has to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    pub(crate) events: u64,
    pub(crate) messages: u64,
    pub(crate) deliveries: u64,
    pub(crate) in_parts: u64,
    pub(crate) broadcasts: u64,
    /// Shares of the sessions that were sent away, and how many clients those were.
    pub(crate) drains: u64,
    pub(crate) sent_away: u64,
    pub(crate) starts: u32,
    pub(crate) troubles: u64,
    /// Messages that schedules published, copies that topics' queues got, publishes whose deduplication id was known,
    /// messages with ordering keys, and dead letters that made room.
    pub(crate) firings: u64,
    pub(crate) copies: u64,
    pub(crate) duplicates: u64,
    pub(crate) ordered: u64,
    pub(crate) overflowed: u64,
    pub(crate) virtual_us: Micros,
    /// Lines of the event log and the hash over them.
    pub(crate) digest: (u64, u64),
}

impl World {
    pub(crate) fn new(seed: u64, tracing: Tracing, planted: Planted) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut plan = Plan::of(&mut random);
        if planted.is_none() {
            plan.add_later(seed);
        }
        let plan = planted.adapt(plan);
        let mut trace = Trace::new(seed, tracing);
        if trace.is_on() {
            trace.line(0, format_args!("{plan:?}"));
        }
        Self {
            scheduler: Scheduler::new(random.fork()),
            network: Network::new(plan.network.clone(), random.fork()),
            disk: Disk::new(planted.lie(), random.fork()),
            ledger: Ledger::new(&plan),
            watch: Watch::new(&plan),
            operator: Operator::new(random.fork()),
            drains: ShareDrains::default(),
            drain_random: fastrand::Rng::with_seed(!seed),
            clients: Vec::new(),
            server: None,
            life: 0,
            phase: Phase::Troubled,
            wall_offset: 0,
            slow_disk_until: 0,
            next_key: 1,
            later_random: fastrand::Rng::with_seed(plan.later.seed.unwrap_or(0)),
            trace,
            plan,
            random,
            planted,
        }
    }

    /// Lives through all of it. Panics when something is not as it must be.
    pub(crate) fn run(mut self) -> Outcome {
        self.start_server();
        self.make_clients();
        self.begin_troubles();
        self.scheduler.after(500 * MS, Event::OperatorTurn);
        self.plan_share_drain();
        self.plan_later();
        let mut events = 0;
        while self.phase != Phase::Over {
            let event = self.scheduler.next().expect("a check is always waiting");
            events += 1;
            assert!(events < EVENTS_MAX, "the world runs in circles: {events} events, {:?}", self.phase);
            self.happen(event);
        }
        Outcome {
            events,
            messages: self.ledger.messages(),
            deliveries: self.ledger.deliveries,
            in_parts: self.ledger.in_parts,
            broadcasts: self.watch.broadcasts.deliveries,
            drains: self.drains.ended,
            sent_away: self.drains.told,
            starts: self.life,
            troubles: self.planted.troubles,
            firings: self.ledger.timed.firings(),
            copies: self.ledger.copies(),
            duplicates: self.ledger.duplicates(),
            ordered: self.watch.ordered(),
            overflowed: self.ledger.overflowed(),
            virtual_us: self.scheduler.now,
            digest: self.trace.digest(),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { conn, side } => {
                if self.network.arrive(conn, side, &mut self.scheduler) {
                    match side {
                        Side::Server => self.server_readable(conn),
                        Side::Client => self.client_readable(conn),
                    }
                }
            }
            Event::Writable { conn, side: Side::Server } => self.server_writable(conn),
            Event::Writable { conn, side: Side::Client } => {
                let client = self.network.client_of(conn);
                self.step_client(client);
            }
            Event::Syn { conn } => self.syn_arrived(conn),
            Event::Connected { client, conn } => self.client_connected(client, conn),
            Event::ConnectFailed { client, conn } => self.client_connect_failed(client, conn),
            Event::ServerStart => self.start_server(),
            Event::LoopTurn { life, index } => self.loop_turn(life, index),
            Event::ShardTurn { life } => self.shard_turn(life),
            Event::ShardPoke { life } => self.shard_poke(life),
            Event::Committed { life } => self.committed(life),
            Event::ChoreRun { life } => self.chore_run(life),
            Event::DrainCheck { life } => self.check_drain(life),
            Event::ClientWake { client } => self.wake_client(client),
            Event::Publish { client, incarnation } => self.publish(client, incarnation),
            Event::Work { client, incarnation, lease, key } => self.work(client, incarnation, lease, key),
            Event::Reborn { client } => self.rebear(client),
            Event::OperatorTurn => self.operator_turn(),
            Event::LaterTurn => self.later_turn(),
            Event::ShareDrain => self.begin_share_drain(),
            Event::ShareDrainTold { order } => self.check_share_drain_told(order),
            Event::ShareDrainLeft { order } => self.check_share_drain_left(order),
            Event::Trouble => self.trouble(),
            Event::TroubleEnds { what } => self.trouble_ends(what),
            Event::FinaleCheck => self.finale_check(),
        }
    }

    /// The clients' clock.
    pub(crate) fn time(&self) -> Time {
        Time(self.scheduler.now / MS)
    }

    pub(crate) fn wall(&self) -> Wall {
        Wall((WALL_BEGINS + self.scheduler.now / MS).saturating_add_signed(self.wall_offset))
    }

    /// What a commit takes longer now.
    pub(crate) fn slow_disk(&mut self) -> Micros {
        if self.scheduler.now < self.slow_disk_until { self.random.u64(0..1000 * MS) } else { 0 }
    }

    /// Whether things may still go wrong and load is made.
    pub(crate) fn is_troubled(&self) -> bool {
        self.phase == Phase::Troubled
    }
}
