//! A loop's brain: the sessions of its connections, their deadlines, admission and drain.
//!
//! Owns every connection's state from accept to close, the timers and what waits to be sent. It is pure: it must not
//! know sockets, files, threads or the real time, and it reaches the shards only through the [`CommandBatch`]es it
//! fills, one a shard. Order of calls in a turn: [`Gateway::accept`] and [`Gateway::receive`] for what came,
//! [`Gateway::effects`] for what the shard says, [`Gateway::expire`] for what is due; then
//! [`Gateway::next_action`] until `None`, with [`Gateway::unsent`] and [`Gateway::sent`] for each flush and
//! [`Gateway::closed`] for each close, and the same again after each [`Gateway::carry_on`] that there is time for; then
//! [`Gateway::commands`] are taken; then sleep until [`Gateway::next_deadline`].

mod admission;
mod batches;
mod broadcast;
mod buffers;
mod config;
mod deadlines;
mod deferred;
mod drain;
mod effects;
mod ending;
mod entrance;
mod heartbeats;
mod names;
mod output;
mod pace;
mod parts;
mod receive;
mod table;
mod translate;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::Time;
use crate::ids::{LoopId, ShardId};
use crate::limits;
use crate::mail::{Attach, CommandBatch};
use crate::session::Phase;
use crate::telemetry::LoopMetrics;
use crate::wheel::Wheel;
use crate::wire::{Codec, Kind, proto};

use admission::Admission;
use batches::Batches;
use broadcast::{Memberships, Sweep};
use buffers::Buffers;
use drain::Drain;
use heartbeats::HeartbeatLoad;
use names::NameCache;
use table::{Deferred, Table};

pub use admission::accepts_of_turn;
pub use config::GatewayConfig;
use ending::{Ending, Farewell};
pub use table::CONN_BYTES;

/// A connection by its slot; `generation` tells the tenants of a slot apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotKey {
    /// The place in the slab; dense from 0.
    pub slot: u32,
    /// Rises each time the slot is given to another connection.
    pub generation: u32,
}

/// No connection is taken now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Shed {
    /// A whole REJECT frame, to be written as far as the socket takes it before it is closed.
    pub farewell: Vec<u8>,
}

/// What is to be done with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// There is output.
    Flush(u32),
    /// Send what can be sent at once, then close. The slot stays taken until [`Gateway::closed`].
    Close(u32),
    /// Close at once, and drop what the system still holds for a peer that takes nothing: it is told by a reset. The slot
    /// stays taken until [`Gateway::closed`].
    Abort(u32),
    /// [`Gateway::may_read`] is false from now on.
    StopReading(u32),
    /// It is true again; what arrived meanwhile is to be read.
    ResumeReading(u32),
}

/// Why a socket is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCause {
    /// The peer closed it.
    Peer,
    /// It failed.
    Failed,
    /// The system gave it up: neither its probes nor what was sent were acknowledged.
    Unreachable,
    /// [`Action::Close`] was carried out.
    Local,
    /// [`Action::Abort`] was carried out.
    Aborted,
}

/// The brain of one loop.
pub struct Gateway {
    loop_id: LoopId,
    config: Arc<GatewayConfig>,
    metrics: Arc<LoopMetrics>,
    table: Table,
    buffers: Buffers,
    /// When buffers without use were last given back.
    trimmed: Time,
    wheel: Wheel,
    codec: Codec,
    batches: Batches,
    names: NameCache,
    admission: Admission<(SlotKey, Box<Attach>)>,
    heartbeats: HeartbeatLoad,
    actions: VecDeque<Action>,
    /// Connections that were not welcomed yet.
    handshakes: usize,
    /// Commands without their answer, of connections that are still served.
    unanswered: usize,
    /// Publishes among them that wait in their shard for room in their queues. The shards' last words, which may lag.
    parked: usize,
    /// The same by shard.
    parked_in: Box<[u32]>,
    /// The lane to a shard is full.
    is_lane_blocked: bool,
    /// No silence before this counts: reading was stopped on all connections.
    heard_from: Time,
    /// Connections with a DELIVER that is not finished; empty between turns.
    open_delivers: Vec<u32>,
    /// Connections that would take deliveries again, once the loop's output has drained.
    starved: Vec<SlotKey>,
    /// Connections with a message in parts whose next part goes out next turn.
    outgoing: Vec<SlotKey>,
    /// Connections not read until commands were answered.
    crowd: Vec<SlotKey>,
    /// Connections whose deferred frames go on next turn, in their order.
    deferred: VecDeque<SlotKey>,
    /// Frames that the loop carries out in this turn before it defers nearly all.
    frames_left: usize,
    drain: Option<Drain>,
    /// Who is subscribed to which topics.
    memberships: Memberships,
    /// Broadcasts on their way to them.
    sweep: Sweep,
    /// The wheel holds the moment of the next wave.
    is_wave_set: bool,
    /// Clients that were told to go and have not gone.
    leaving: u64,
    random: fastrand::Rng,
}

impl Gateway {
    /// A gateway without connections. `seed` only spreads the moments at which clients are asked to come back.
    #[must_use]
    pub fn new(
        loop_id: LoopId,
        config: Arc<GatewayConfig>,
        metrics: Arc<LoopMetrics>,
        seed: u64,
        now: Time,
    ) -> Self {
        // The other half of the places is for those that resume.
        let new_waiting_max = config.max_handshakes / 2;
        let admission =
            Admission::new(config.admissions_per_s, config.admission_burst, new_waiting_max, seed, now);
        let heartbeats = HeartbeatLoad::new(config.heartbeats_per_s);
        metrics.heartbeat_stretch_permille.set(heartbeats.stretch().permille());
        let sweep = Sweep::new(&config);
        let shards = config.shards;
        Self {
            loop_id,
            config,
            metrics,
            table: Table::default(),
            buffers: Buffers::default(),
            trimmed: now,
            wheel: Wheel::new(now),
            codec: Codec::new(),
            batches: Batches::new(shards),
            names: NameCache::default(),
            admission,
            heartbeats,
            actions: VecDeque::new(),
            handshakes: 0,
            unanswered: 0,
            parked: 0,
            parked_in: vec![0; usize::from(shards.max(1))].into(),
            is_lane_blocked: false,
            heard_from: Time(0),
            open_delivers: Vec::new(),
            starved: Vec::new(),
            outgoing: Vec::new(),
            crowd: Vec::new(),
            deferred: VecDeque::new(),
            frames_left: limits::FRAMES_PER_LOOP_TURN_MAX,
            drain: None,
            memberships: Memberships::default(),
            sweep,
            is_wave_set: false,
            leaving: 0,
            random: fastrand::Rng::with_seed(!seed),
        }
    }

    /// Takes a connection.
    ///
    /// # Errors
    /// [`Shed`] when the loop is full, has too many handshakes under way, or drains.
    pub fn accept(&mut self, now: Time) -> Result<SlotKey, Shed> {
        let accepts = &self.metrics.accepts;
        if self.is_ending() {
            let slot = self.slot_after_end(now);
            return Err(self.shed(slot, proto::Code::Draining, "the server is shutting down"));
        }
        if self.table.len() >= self.config.max_sessions {
            accepts.shed_sessions.inc();
            let slot = self.admission.slot(now);
            let text = "the server holds as many sessions as it may";
            return Err(self.shed(slot, proto::Code::Overloaded, text));
        }
        if self.handshakes >= self.config.max_handshakes {
            accepts.shed_handshakes.inc();
            let slot = self.admission.slot(now);
            let text = "too many connections are in their handshake";
            return Err(self.shed(slot, proto::Code::Overloaded, text));
        }
        accepts.accepted.inc();
        let key = self.table.insert(now);
        self.handshakes += 1;
        self.metrics.connections_handshaking.add(1);
        let timer = self.wheel.insert(now + self.config.handshake_deadline, key.slot);
        if let Some(conn) = self.table.at_mut(key.slot) {
            conn.timer = Some(timer);
        }
        Ok(key)
    }

    /// What to tell a connection that there is no descriptor for.
    pub fn turn_away(&mut self, now: Time) -> Shed {
        self.metrics.accepts.shed_descriptors.inc();
        let slot = self.admission.slot(now);
        self.shed(slot, proto::Code::Overloaded, "the server is out of descriptors")
    }

    fn shed(&mut self, reconnect_after_ms: u32, code: proto::Code, text: &str) -> Shed {
        let mut farewell = Vec::new();
        let words = Farewell::Reject { code, text: text.to_owned() };
        translate::farewell(&mut farewell, words, reconnect_after_ms);
        self.metrics.sent.count(Kind::Reject as u8, farewell.len());
        Shed { farewell }
    }

    /// There will be bytes of this connection in the turn: what is known of it is on its way to the cache while the next
    /// event is looked at. Changes nothing.
    #[inline]
    pub fn expect(&self, slot: u32) {
        std::hint::black_box(self.table.at(slot).is_some());
    }

    /// Which shard the commands of this connection go to.
    #[must_use]
    pub fn shard(&self, slot: u32) -> ShardId {
        self.table.at(slot).map_or_else(ShardId::default, |conn| conn.shard)
    }

    /// Whether this connection is to be read, as far as it alone is concerned.
    #[must_use]
    pub fn may_read(&self, slot: u32) -> bool {
        self.table
            .at(slot)
            .is_some_and(|conn| !conn.is_stopped() && conn.session.phase() != Phase::AwaitingAdmission)
    }

    /// The next thing to do with a socket, until `None`.
    pub fn next_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let Action::Flush(slot) = action
            && let Some(conn) = self.table.at_mut(slot)
        {
            conn.is_flushing = false;
        }
        Some(action)
    }

    /// The commands gathered so far, a batch for each shard, to be taken once a turn.
    pub fn commands(&mut self) -> &mut [CommandBatch] {
        self.batches.all()
    }

    /// The lane to a shard is full, so that nothing is read on any connection, or has room again. Reading what
    /// arrived meanwhile is the caller's to remember.
    pub fn lane_blocked(&mut self, now: Time, blocked: bool) {
        if self.is_lane_blocked && !blocked {
            self.heard_from = now;
        }
        self.is_lane_blocked = blocked;
    }

    /// Connections taken, in whatever state.
    #[must_use]
    pub fn live(&self) -> usize {
        self.table.len()
    }

    /// Of these, those whose client has not been let in yet.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.handshakes
    }

    /// Panics when what is kept twice differs. For tests and simulation.
    pub fn check_invariants(&self) {
        self.buffers.check_invariants();
        let (mut taken, mut leaving, mut listed) = (0, 0, 0);
        let (mut handshakes, mut unanswered, mut timers, mut busy, mut waiting) = (0, 0, 0, 0, 0);
        for conn in (0..self.table.slots()).filter_map(|slot| self.table.at(slot)) {
            taken += 1;
            let phase = conn.session.phase();
            handshakes += usize::from(ending::is_handshake(phase));
            unanswered += conn.session.unanswered();
            timers += usize::from(conn.timer.is_some());
            busy += usize::from(conn.busy != table::IDLE);
            waiting += usize::from(phase == Phase::AwaitingAdmission);
            leaving += u64::from(phase == Phase::Leaving);
            assert!(conn.timer.is_some() || conn.is_dropped, "a connection without deadline");
            let is_held_up = conn.deferred != Deferred::HeldUp || conn.is_held_up();
            assert!(is_held_up, "a connection's frames are deferred for nothing");
            listed += usize::from(conn.deferred == Deferred::Listed);
        }
        assert_eq!(taken, self.table.len(), "connections are counted wrongly");
        // Those that left meanwhile are still in the list.
        assert!(listed <= self.deferred.len(), "a connection with deferred frames is not listed");
        assert_eq!(handshakes, self.handshakes, "handshakes are counted wrongly");
        assert!(waiting <= self.admission.waiting(), "a client waits for a token that is not meant for it");
        assert_eq!(unanswered, self.unanswered, "unanswered commands are counted wrongly");
        assert_eq!(busy, self.buffers.in_use(), "buffers are counted wrongly");
        assert_eq!(timers + usize::from(self.is_wave_set), self.wheel.len(), "timers are counted wrongly");
        assert_eq!(leaving, self.leaving, "clients that leave are counted wrongly");
        assert!(self.open_delivers.is_empty(), "a DELIVER was not finished");
        self.memberships.check(|slot| self.table.at(slot).is_some_and(|conn| conn.session.is_served()));
        assert!(self.names.len() <= limits::CACHED_QUEUE_NAMES_MAX, "too many names are kept");
    }
}
