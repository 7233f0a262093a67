//! Everything that a seed decides before its world begins: sizes, rates, rules, which faults there are.
//!
//! Each seed draws a world of its own character (a swarm of worlds finds more than one average world): in some nothing
//! fails but the disk, in some there is one slow worker, in some everything breaks at once.

use std::sync::Arc;
use std::time::Duration;

use relaymesh::client::{Backoff, Jitter};
use relaymesh::config::Auth;
use relaymesh::engine::EngineConfig;
use relaymesh::gateway::GatewayConfig;
use relaymesh::limits;
use relaymesh::log::{Durability, LogConfig};
use relaymesh::queue::{NamespaceRules, QueueConfig, QueueRules, WhenFull};
use relaymesh::session::ResumeKey;

use crate::chaos::Trouble;
use crate::network::NetworkPlan;
use crate::plan_later::Later;
use crate::scheduler::{MS, Micros, SECOND};

/// One world's character.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) loops: u16,
    pub(crate) gateway: Arc<GatewayConfig>,
    pub(crate) queue: QueueConfig,
    pub(crate) segment_bytes: u64,
    pub(crate) durability: Durability,
    pub(crate) network: NetworkPlan,
    /// Shortest and longest commit.
    pub(crate) commit: (Micros, Micros),
    /// Batches of commands that the lane to the shard takes.
    pub(crate) lane_batches: usize,
    pub(crate) producers: usize,
    pub(crate) workers: usize,
    /// Workers publish as well, to the queues that they empty.
    pub(crate) workers_publish: bool,
    pub(crate) devices: usize,
    pub(crate) namespaces: usize,
    pub(crate) queues: usize,
    /// Topics that everybody listens to and producers publish to.
    pub(crate) topics: usize,
    pub(crate) load: LoadPlan,
    pub(crate) work: WorkPlan,
    pub(crate) backoff: Backoff,
    pub(crate) heartbeat: Duration,
    /// Of how many heartbeats clients want an answer to one.
    pub(crate) pong_every: u8,
    /// Average time from one drain of a share of the sessions to the next, where there are some.
    pub(crate) share_drain_every: Option<Micros>,
    /// How long things go wrong.
    pub(crate) duration: Micros,
    /// What goes wrong.
    pub(crate) troubles: Vec<Trouble>,
    /// Average time from one trouble to the next.
    pub(crate) trouble_every: Micros,
    pub(crate) later: Later,
}

/// What producers do.
#[derive(Debug, Clone)]
pub(crate) struct LoadPlan {
    /// Average time from one publish to the next, one producer.
    pub(crate) every: Micros,
    pub(crate) batch_max: usize,
    pub(crate) body_max: usize,
    /// Some messages are larger than a frame.
    pub(crate) is_large: bool,
    /// In percent of the messages.
    pub(crate) delayed: u32,
    pub(crate) due: u32,
    pub(crate) expiring: u32,
    pub(crate) prioritized: u32,
    pub(crate) bounded_attempts: u32,
    pub(crate) to_devices: u32,
}

/// What workers and devices do.
#[derive(Debug, Clone)]
pub(crate) struct WorkPlan {
    pub(crate) credit: u32,
    pub(crate) credit_bytes: u64,
    /// Longest work on one message.
    pub(crate) work_max: Micros,
    /// In percent of the deliveries.
    pub(crate) nacked: u32,
    pub(crate) rejected: u32,
    pub(crate) extended: u32,
    /// Neither acked nor nacked: left to the lease.
    pub(crate) forgotten: u32,
}

impl Plan {
    /// The world of a seed.
    pub(crate) fn of(random: &mut fastrand::Rng) -> Self {
        // Drawn aside, so that the other worlds of kept seeds stay as they were.
        let mut aside = fastrand::Rng::with_seed(!random.clone().u64(..));
        let workers_publish = aside.u8(0..6) == 1;
        let commit_max = [MS, 5 * MS, 30 * MS, 200 * MS][random.usize(0..4)];
        let mut plan = Self {
            loops: random.u16(1..=2),
            gateway: Arc::new(gateway(random)),
            queue: queue(random),
            segment_bytes: [64, 64, 128, 256][random.usize(0..4)] << 10,
            durability: Durability::Sync,
            network: network(random),
            commit: (50, commit_max),
            lane_batches: [1, 2, 64][random.usize(0..3)],
            producers: random.usize(1..=4),
            workers: random.usize(1..=4),
            workers_publish,
            devices: random.usize(0..=3),
            namespaces: 1 + usize::from(random.u8(0..4) == 0),
            queues: random.usize(1..=3),
            topics: 0,
            load: load(random),
            work: work(random),
            backoff: Backoff {
                initial: Duration::from_millis(random.u64(20..500)),
                max: Duration::from_millis(random.u64(500..4000)),
                jitter: if random.bool() { Jitter::Added } else { Jitter::Full },
                steady_after: Duration::from_secs(2),
            },
            heartbeat: Duration::from_millis(random.u64(500..4000)),
            pong_every: 1,
            share_drain_every: None,
            duration: random.u64(5..40) * SECOND,
            troubles: troubles(random),
            trouble_every: random.u64(300..6000) * MS,
            later: Later::default(),
        };
        if workers_publish {
            plan.crowd(&mut aside);
        } else {
            // Messages that travel in parts, where the network takes them in a world's time.
            plan.load.is_large = aside.u8(0..3) == 0 && plan.network.buffer >= 4 << 10;
        }
        plan.durability = durability(&mut aside);
        if aside.u8(0..3) == 0 {
            plan.broadcast(&mut aside);
        }
        if !workers_publish {
            plan.pace(&mut aside);
            plan.bound(&mut aside);
            if aside.u8(0..3) == 0 {
                plan.share_drain_every = Some(aside.u64(1..10) * SECOND);
            }
        }
        plan
    }

    /// Topics, and waves of few connections with pauses between them.
    pub(crate) fn broadcast(&mut self, random: &mut fastrand::Rng) {
        self.topics = random.usize(1..=3);
        let broadcast_wave_sends = random.usize(1..=4);
        let broadcast_pause_max = Duration::from_millis(random.u64(0..=40));
        let gateway = GatewayConfig::clone(&self.gateway);
        self.queue.broadcast_bytes_max = gateway.whole_message_bytes_max();
        self.gateway = Arc::new(GatewayConfig { broadcast_wave_sends, broadcast_pause_max, ..gateway });
    }

    /// Answers that are left out, and loops that have more heartbeats than they are to take.
    fn pace(&mut self, random: &mut fastrand::Rng) {
        if random.u8(0..4) == 0 {
            self.pong_every = random.u8(2..=5);
        }
        if random.u8(0..4) == 0 {
            let mut gateway = GatewayConfig::clone(&self.gateway);
            gateway.heartbeats_per_s = random.u32(1..=4);
            gateway.rules.heartbeat_max = Duration::from_secs(5);
            self.gateway = Arc::new(gateway);
        }
    }

    /// Leases, rates and namespaces that are bounded.
    fn bound(&mut self, random: &mut fastrand::Rng) {
        if random.u8(0..3) > 0 {
            return;
        }
        let mut per_s = || (random.u8(0..2) == 0).then(|| random.u64(8..60));
        let (publish_per_s, deliver_per_s) = (per_s(), per_s());
        let of_all = (per_s(), per_s());
        let rules = QueueRules { publish_per_s, deliver_per_s, ..self.queue.work_queue.clone() };
        self.queue.work_queue = QueueRules { leased_max: [1, 4, u64::MAX][random.usize(0..3)], ..rules };
        self.queue.namespace = NamespaceRules {
            messages_max: [None, Some(60)][random.usize(0..2)],
            bytes_max: None,
            leased_max: [None, Some(2), Some(9)][random.usize(0..3)],
            publish_per_s: of_all.0,
            deliver_per_s: of_all.1,
            weight: None,
        };
    }

    /// Queues that are always full, budgets that are always spent, and workers that publish to the queues they empty. Nothing
    /// fails, and no silence ends a connection within the world's patience: one that is wrongly not read is so for ever.
    fn crowd(&mut self, random: &mut fastrand::Rng) {
        self.queue.work_queue.messages_max = random.u64(12..40);
        self.queue.work_queue.when_full = WhenFull::Wait;
        self.queue.parked_bytes_per_namespace_max = random.u64(100..4000);
        let commands_unanswered_max = random.usize(4..20);
        self.gateway =
            Arc::new(GatewayConfig { commands_unanswered_max, ..GatewayConfig::clone(&self.gateway) });
        self.heartbeat = Duration::from_secs(600);
        self.load.every = random.u64(20..200) * MS;
        self.work.work_max = self.work.work_max.min(SECOND);
        self.troubles.clear();
    }

    pub(crate) fn engine(&self, random: &mut fastrand::Rng) -> EngineConfig {
        let (segment_bytes, durability) = (self.segment_bytes, self.durability);
        let ids_ahead = if durability == Durability::Sync { 0 } else { limits::IDS_AHEAD };
        EngineConfig {
            log: LogConfig { segment_bytes, seed: random.u64(..), durability },
            queue: QueueConfig { ids_ahead, ..self.queue.clone() },
            seed: random.u64(..),
        }
    }
}

fn percent(random: &mut fastrand::Rng, max: u32) -> u32 {
    if random.bool() { 0 } else { random.u32(0..=max) }
}

/// Some worlds are answered before they are synced.
fn durability(random: &mut fastrand::Rng) -> Durability {
    match random.u8(0..4) {
        0 => Durability::Interval(Duration::from_millis([2, 50, 500, 5000][random.usize(0..4)])),
        _ => Durability::Sync,
    }
}

fn gateway(random: &mut fastrand::Rng) -> GatewayConfig {
    let mut config = GatewayConfig::new(Auth::Open, ResumeKey([7; 32]));
    config.max_sessions = 200;
    // A record of one frame must fit a segment.
    config.frame_bytes_max = random.usize(5..=16) << 10;
    // As long on the wire as what WELCOME said before: worlds stay what they were.
    config.message_bytes_max = 16_300;
    config.write_budget_bytes = random.usize(1..=32) << 10;
    config.loop_output_bytes_max = random.usize(8..=256) << 10;
    config.write_stall_deadline = Duration::from_secs(random.u64(2..20));
    config.rules.publish_messages_max = random.u32(4..200);
    config.rules.publish_bytes_max = 64 << 10;
    config.commands_unanswered_max = random.usize(4..200);
    config.admissions_per_s = random.u32(5..1000);
    config.admission_burst = config.admissions_per_s / 4;
    config.max_handshakes = random.usize(2..50);
    config
}

fn queue(random: &mut fastrand::Rng) -> QueueConfig {
    let default = QueueConfig::default();
    let small = random.u8(0..3) == 0;
    let rules = |random: &mut fastrand::Rng, from: &QueueRules, when_full| QueueRules {
        messages_max: if small { random.u64(12..40) } else { 100_000 },
        when_full,
        attempts_max: random.u32(1..6),
        lease: Duration::from_millis(random.u64(500..8000)),
        backoff_initial: Duration::from_millis(random.u64(10..1500)),
        backoff_max: Duration::from_millis(random.u64(1500..4000)),
        ..from.clone()
    };
    let when_full = if random.bool() { WhenFull::Wait } else { WhenFull::Reject };
    let grace = Duration::from_millis(random.u64(1000..15_000));
    QueueConfig {
        work_queue: rules(random, &default.work_queue, when_full),
        mailbox: rules(random, &default.mailbox, WhenFull::Reject),
        grace,
        operator_slice: 2,
        full_retry: Duration::from_millis(200),
        parked_bytes_per_namespace_max: if random.bool() {
            random.u64(100..4000)
        } else {
            default.parked_bytes_per_namespace_max
        },
        body_memory_bytes_max: [0, 2 << 10, default.body_memory_bytes_max][random.usize(0..3)],
        reads_max: random.usize(1..20),
        delivery_room_bytes: random.u32(1..8192),
        ..default
    }
}

fn network(random: &mut fastrand::Rng) -> NetworkPlan {
    NetworkPlan {
        latency: (20, [200, 2 * MS, 20 * MS, 150 * MS][random.usize(0..4)]),
        buffer: [600, 4 << 10, 64 << 10][random.usize(0..3)],
        late_one_in: [10, 100, u32::MAX][random.usize(0..3)],
        piece_max: [3, 100, 1500, 64 << 10][random.usize(0..4)],
    }
}

fn load(random: &mut fastrand::Rng) -> LoadPlan {
    LoadPlan {
        every: random.u64(20..1500) * MS,
        batch_max: if random.bool() { 1 } else { random.usize(1..=12) },
        body_max: [40, 300, 4000][random.usize(0..3)],
        is_large: false,
        delayed: percent(random, 40),
        due: percent(random, 20),
        expiring: percent(random, 30),
        prioritized: percent(random, 100),
        bounded_attempts: percent(random, 40),
        to_devices: random.u32(0..60),
    }
}

fn work(random: &mut fastrand::Rng) -> WorkPlan {
    WorkPlan {
        credit: random.u32(1..=24),
        credit_bytes: if random.bool() { 0 } else { random.u64(1..20_000) },
        work_max: [MS, 50 * MS, SECOND, 6 * SECOND][random.usize(0..4)],
        nacked: percent(random, 40),
        rejected: percent(random, 10),
        extended: percent(random, 30),
        forgotten: percent(random, 20),
    }
}

/// Any number of kinds, each as likely as the other.
fn troubles(random: &mut fastrand::Rng) -> Vec<Trouble> {
    let one_in = random.u8(1..=4);
    Trouble::ALL.into_iter().filter(|_| random.u8(0..one_in) == 0).collect()
}
