//! The connections of a loop, by slot.

use crate::clock::Time;
use crate::gateway::SlotKey;
use crate::ids::ShardId;
use crate::paged::Paged;
use crate::session::Session;
use crate::wheel::TimerId;

/// No buffers.
pub(super) const IDLE: u32 = u32::MAX;

/// One connection. A million of them lie side by side, each in a line of the cache of its own: what a heartbeat looks
/// at costs one access to memory.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Conn {
    pub(super) session: Session,
    pub(super) generation: u32,
    /// Where its client is attached, once it said who it is.
    pub(super) shard: ShardId,
    /// Index of its buffers, or [`IDLE`].
    pub(super) busy: u32,
    pub(super) timer: Option<TimerId>,
    pub(super) is_taken: bool,
    /// `Action::Flush` is queued.
    pub(super) is_flushing: bool,
    /// `Action::Close` or `Action::Abort` is queued.
    pub(super) is_dropped: bool,
    /// The shard wants it not to be read.
    pub(super) stopped_by_shard: bool,
    /// Its output is above its budget.
    pub(super) stopped_by_output: bool,
    /// The loop has too many commands unanswered.
    pub(super) stopped_by_crowd: bool,
    /// More came than a turn carries out.
    pub(super) deferred: Deferred,
    /// Much was delivered, or handed back; the shard waits for `Resupply`.
    pub(super) is_starved: bool,
    /// It is in the loop's list of the starved.
    pub(super) is_listed: bool,
}

/// Whether frames of a connection, kept with its partial one, wait for a turn to carry them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deferred {
    /// None.
    Nothing,
    /// It is in the loop's list of those that go on next turn.
    Listed,
    /// It is listed again once nothing else stops it.
    HeldUp,
}

/// What a connection takes of its loop's table, in bytes.
pub const CONN_BYTES: usize = size_of::<Conn>();
const _: () = assert!(CONN_BYTES == 64);

impl Conn {
    /// Nothing of it is read.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_held_up() || self.deferred != Deferred::Nothing
    }

    /// Nothing of it is carried out either.
    pub(super) fn is_held_up(&self) -> bool {
        self.stopped_by_shard || self.stopped_by_output || self.stopped_by_crowd
    }
}

/// The slab. Slots are dense from 0 and used again; the generation tells their tenants apart.
#[derive(Debug, Default)]
pub(super) struct Table {
    conns: Paged<Conn>,
    free: Vec<u32>,
}

impl Table {
    pub(super) fn insert(&mut self, now: Time) -> SlotKey {
        let slot = self.free.pop().unwrap_or_else(|| self.conns.push(vacant()));
        let conn = &mut self.conns[slot];
        let generation = conn.generation;
        *conn = Conn { session: Session::new(now), generation, is_taken: true, ..vacant() };
        SlotKey { slot, generation }
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let conn = &mut self.conns[slot];
        conn.is_taken = false;
        conn.generation = conn.generation.wrapping_add(1);
        self.free.push(slot);
    }

    /// The connection in `slot`, if it is taken.
    #[inline]
    pub(super) fn at(&self, slot: u32) -> Option<&Conn> {
        self.conns.get(slot).filter(|conn| conn.is_taken)
    }

    /// As [`Table::at`], to change.
    #[inline]
    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut Conn> {
        self.conns.get_mut(slot).filter(|conn| conn.is_taken)
    }

    /// The connection in `slot` if it is that of `generation`.
    #[inline]
    pub(super) fn tenant_mut(&mut self, slot: u32, generation: u32) -> Option<&mut Conn> {
        self.at_mut(slot).filter(|conn| conn.generation == generation)
    }

    pub(super) fn len(&self) -> usize {
        self.conns.len() as usize - self.free.len()
    }

    /// One more than the highest slot ever used.
    pub(super) fn slots(&self) -> u32 {
        self.conns.len()
    }

    /// Memory it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.conns.bytes() + self.free.capacity() * size_of::<u32>()
    }
}

fn vacant() -> Conn {
    Conn {
        session: Session::new(Time(0)),
        generation: 0,
        shard: ShardId(0),
        busy: IDLE,
        timer: None,
        is_taken: false,
        is_flushing: false,
        is_dropped: false,
        stopped_by_shard: false,
        stopped_by_output: false,
        stopped_by_crowd: false,
        deferred: Deferred::Nothing,
        is_starved: false,
        is_listed: false,
    }
}
