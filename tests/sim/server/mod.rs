//! The server's process: one real shard and one or two real gateways, and what the shells around them do: lanes,
//! commits, chores, start, drain and death.

mod event_loop;
mod shard;
mod share_drain;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use relaymesh::clock::{Now, Time, Wall};
use relaymesh::engine::Shard;
use relaymesh::gateway::{CloseCause, Gateway, SlotKey};
use relaymesh::ids::LoopId;
use relaymesh::log::{Batch, Chore, Durability};
use relaymesh::mail::{CommandBatch, EffectBatch};
use relaymesh::telemetry::{LoopMetrics, ShardMetrics};

use crate::network::{ConnId, Side};
use crate::scheduler::{MS, Micros};
use crate::storage::Crash;
use crate::trace::note;
use crate::world::{Event, World};

pub(crate) use share_drain::ShareDrains;

/// A running server. Dropped when it dies.
pub(crate) struct Server {
    /// Tells this process from the ones before it: what was meant for those does not concern it.
    pub(crate) life: u32,
    pub(crate) shard: Shard,
    pub(crate) shard_metrics: Arc<ShardMetrics>,
    pub(crate) loops: Vec<Loop>,
    /// From the loops to the shard.
    commands: VecDeque<(LoopId, CommandBatch)>,
    committing: Option<Batch>,
    /// When the first batch was written that is not synced.
    unsynced_since: Option<Micros>,
    /// A sync failed: as after a power loss, nobody knows what of the unsynced is there.
    has_failed_sync: bool,
    chore: Option<Chore>,
    began: Micros,
    shard_origin: Time,
    shard_turn_at: Option<Micros>,
    /// The boot is durable: connections are taken.
    pub(crate) is_listening: bool,
    ends: BTreeMap<ConnId, (usize, SlotKey)>,
}

/// One event loop with its gateway.
pub(crate) struct Loop {
    id: LoopId,
    pub(crate) gateway: Gateway,
    pub(crate) metrics: Arc<LoopMetrics>,
    conns: BTreeMap<u32, LoopConn>,
    accepting: VecDeque<ConnId>,
    ready: VecDeque<SlotKey>,
    writable: VecDeque<u32>,
    effects: VecDeque<EffectBatch>,
    /// Effects that the full lane would not take.
    waiting: EffectBatch,
    /// Commands that the full lane would not take.
    kept: Option<CommandBatch>,
    doomed: Vec<(u32, CloseCause)>,
    /// Connections that were closed.
    ended: u64,
    turn_at: Option<Micros>,
}

struct LoopConn {
    conn: ConnId,
    key: SlotKey,
    is_queued: bool,
    write_blocked: bool,
    is_doomed: bool,
}

impl Server {
    /// The gateways' clock.
    fn loop_time(&self, now: Micros) -> Time {
        Time(1000 + (now - self.began) / MS)
    }

    fn shard_now(&self, now: Micros, wall: Wall) -> Now {
        Now { time: Time(self.shard_origin.0 + (now - self.began) / MS), wall }
    }

    /// Nothing waits to be written and nothing is on its way between loops and shard.
    pub(crate) fn is_settled(&self) -> bool {
        self.committing.is_none() && self.shard.is_settled() && self.commands.is_empty()
    }

    pub(crate) fn all_conns(&self) -> Vec<ConnId> {
        self.ends.keys().copied().collect()
    }
}

impl World {
    /// Starts the server from what is on its disk.
    pub(crate) fn start_server(&mut self) {
        if self.server.is_some() {
            return;
        }
        self.disk.sim.heal();
        self.disk.unlimit();
        self.life += 1;
        let (life, now) = (self.life, self.scheduler.now);
        let shard_metrics = Arc::new(ShardMetrics::default());
        let engine = self.plan.engine(&mut self.random);
        let wall = self.wall();
        let recovered = Shard::recover(self.disk.storage(), engine, Arc::clone(&shard_metrics), wall);
        let (shard, started) = recovered.unwrap_or_else(|error| panic!("the server cannot start: {error}"));
        note!(self, "server {life} starts: {:?} at {:?}, {:?}", started.boot, started.time, started.recovery);
        shard.check_invariants();
        self.watch.server_started(started.boot, started.time);
        self.ledger.server_started();
        self.ledger.timed.server_up(wall.0);
        let loops = (0..self.plan.loops).map(|id| self.new_loop(LoopId(id))).collect();
        self.server = Some(Server {
            life,
            shard,
            shard_metrics,
            loops,
            commands: VecDeque::new(),
            committing: None,
            unsynced_since: None,
            has_failed_sync: false,
            chore: None,
            began: now,
            shard_origin: started.time,
            shard_turn_at: None,
            is_listening: false,
            ends: BTreeMap::new(),
        });
        self.wake_shard(0);
    }

    fn new_loop(&mut self, id: LoopId) -> Loop {
        let metrics = Arc::new(LoopMetrics::default());
        let config = Arc::clone(&self.plan.gateway);
        let gateway = Gateway::new(id, config, Arc::clone(&metrics), self.random.u64(..), Time(1000));
        Loop {
            id,
            gateway,
            metrics,
            conns: BTreeMap::new(),
            accepting: VecDeque::new(),
            ready: VecDeque::new(),
            writable: VecDeque::new(),
            effects: VecDeque::new(),
            waiting: EffectBatch::default(),
            kept: None,
            doomed: Vec::new(),
            ended: 0,
            turn_at: None,
        }
    }

    /// The process dies where it stands and is started again after `down`.
    pub(crate) fn crash_server(&mut self, crash: Crash, down: Micros) {
        let Some(mut server) = self.server.take() else { return };
        note!(self, "server {} dies: {crash:?}, down for {down} us", server.life);
        let conns = server.all_conns().into_iter();
        let backlog = server.loops.iter_mut().flat_map(|own| own.accepting.drain(..));
        for conn in conns.chain(backlog) {
            match crash {
                // The kernel closes the sockets of a dead process.
                Crash::Kill => self.network.reset(conn, Side::Server, &mut self.scheduler),
                Crash::PowerLoss => self.network.vanish(conn, Side::Server, self.scheduler.now),
            }
        }
        // No more than what was answered since the first write that is not synced.
        if server.unsynced_since.is_some() && (crash == Crash::PowerLoss || server.has_failed_sync) {
            note!(self, "what is not synced may be lost");
            self.network.silence_server(self.scheduler.now);
            self.ledger.take_back();
            self.watch.take_back();
        }
        self.disk.crash(crash, server.committing.take(), server.chore.take());
        self.operator.server_gone(&mut self.ledger);
        self.ledger.timed.server_down(self.wall().0);
        self.scheduler.after(down, Event::ServerStart);
    }

    /// The clients are told to go and the server ends once they have.
    pub(crate) fn drain_server(&mut self, over: std::time::Duration) {
        let Some(server) = &mut self.server else { return };
        let time = server.loop_time(self.scheduler.now);
        server.loops.iter_mut().for_each(|own| own.gateway.begin_drain(time, over));
        let (life, loops) = (server.life, server.loops.len());
        self.drains.server_ends(life);
        note!(self, "server {life} drains over {over:?}");
        (0..loops).for_each(|index| self.wake_loop(index, 0));
        self.scheduler.after(100 * MS, Event::DrainCheck { life });
    }

    /// Ends a server that has drained; all it took is durable then.
    pub(crate) fn check_drain(&mut self, life: u32) {
        let Some(server) = self.server.as_mut().filter(|server| server.life == life) else { return };
        let is_drained = server.loops.iter().all(|own| own.gateway.is_drained());
        if is_drained && server.is_settled() && server.chore.is_none() {
            // All of it is synced: what comes next takes nothing.
            let is_synced_late = self.plan.durability != Durability::Sync;
            let crash = if is_synced_late { Crash::PowerLoss } else { Crash::Kill };
            self.crash_server(crash, 50 * MS);
        } else {
            if is_drained && server.shard.sync_now() {
                self.wake_shard(0);
            }
            self.scheduler.after(100 * MS, Event::DrainCheck { life });
        }
    }

    /// A client's first packet.
    pub(crate) fn syn_arrived(&mut self, conn: ConnId) {
        let way = self.network.latency();
        let client = self.network.client_of(conn);
        let taken = match &mut self.server {
            Some(server) if server.is_listening => {
                let index = self.random.usize(0..server.loops.len());
                server.loops[index].accepting.push_back(conn);
                Some(index)
            }
            _ => None,
        };
        match taken {
            Some(index) => {
                self.wake_loop(index, 50);
                self.scheduler.after(way, Event::Connected { client, conn });
            }
            None => self.scheduler.after(way, Event::ConnectFailed { client, conn }),
        }
    }

    /// Something arrived at the server's end of a connection.
    pub(crate) fn server_readable(&mut self, conn: ConnId) {
        let Some(server) = &mut self.server else { return };
        let Some(&(index, key)) = server.ends.get(&conn) else { return };
        server.loops[index].queue(key.slot);
        let delay = self.random.u64(0..100);
        self.wake_loop(index, delay);
    }

    /// The server's end of a connection takes bytes again.
    pub(crate) fn server_writable(&mut self, conn: ConnId) {
        let Some(server) = &mut self.server else { return };
        let Some(&(index, key)) = server.ends.get(&conn) else { return };
        server.loops[index].writable.push_back(key.slot);
        self.wake_loop(index, 10);
    }

    pub(crate) fn wake_loop(&mut self, index: usize, delay: Micros) {
        let at = self.scheduler.now + delay;
        let Some(server) = &mut self.server else { return };
        let (life, own) = (server.life, &mut server.loops[index]);
        if own.turn_at.is_none_or(|planned| planned > at) {
            own.turn_at = Some(at);
            self.scheduler.at(at, Event::LoopTurn { life, index });
        }
    }

    pub(crate) fn wake_shard(&mut self, delay: Micros) {
        let at = self.scheduler.now + delay;
        let Some(server) = &mut self.server else { return };
        if server.shard_turn_at.is_none_or(|planned| planned > at) {
            server.shard_turn_at = Some(at);
            self.scheduler.at(at, Event::ShardTurn { life: server.life });
        }
    }
}

impl Loop {
    fn queue(&mut self, slot: u32) {
        if let Some(conn) = self.conns.get_mut(&slot)
            && !conn.is_queued
        {
            conn.is_queued = true;
            self.ready.push_back(conn.key);
        }
    }
}
