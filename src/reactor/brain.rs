//! The seam between a loop and the brain that decides for it.

use std::time::Duration;

use crate::clock::Time;
use crate::mail::{CommandBatch, EffectBatch};

/// A connection by the brain's slab: `generation` tells the tenants of a slot apart, so that an event meant for an
/// earlier one cannot hit the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotKey {
    /// The place in the slab; dense from 0, because the loop keeps an array by it.
    pub slot: u32,
    /// Rises each time the slot is given to another connection.
    pub generation: u32,
}

/// The brain takes no connection now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Shed {
    /// What the client is told before the socket is closed; sent as far as the socket takes it at once.
    pub farewell: Vec<u8>,
}

/// What the brain wants done with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// There is output. Asked for once per turn and connection.
    Flush(u32),
    /// Send what can be sent at once, then close. The slot stays taken until [`LoopBrain::closed`].
    Close(u32),
    /// [`LoopBrain::may_read`] is false from now on.
    StopReading(u32),
    /// [`LoopBrain::may_read`] is true again, and what arrived meanwhile is to be read.
    ResumeReading(u32),
}

/// Why a socket is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCause {
    /// The peer closed it, or its sending half: every byte it sent was handed over before.
    Peer,
    /// The socket failed: reset, timed out, unreachable.
    Failed,
    /// The brain asked for it with [`Action::Close`].
    Local,
}

/// What a loop needs of its brain. The calls of one turn come in the order of this list; `now` never goes back.
///
/// It counts accepts, sheds and closes, whose reasons it knows; the loop counts its turns and the lane's depth.
/// The loop is generic over it, so that the calls are static; the only implementation outside tests is the gateway.
pub trait LoopBrain: Send + 'static {
    /// A connection was accepted.
    ///
    /// # Errors
    /// [`Shed`]: it is told and closed, and the brain hears no more of it.
    fn accept(&mut self, now: Time) -> Result<SlotKey, Shed>;

    /// A connection is turned away because the process is out of descriptors. Returns what to tell it.
    fn turn_away(&mut self, now: Time) -> Shed;

    /// Bytes of a connection, in order. Called only while [`LoopBrain::may_read`].
    fn receive(&mut self, now: Time, key: SlotKey, bytes: &[u8]);

    /// Whether this connection is to be read now.
    fn may_read(&self, slot: u32) -> bool;

    /// Effects from the shard.
    fn effects(&mut self, now: Time, batch: EffectBatch);

    /// What is due by `now` happens.
    fn expire(&mut self, now: Time);

    /// The next thing to do with a socket, until `None`.
    fn next_action(&mut self) -> Option<Action>;

    /// Output of a connection that the socket has not taken, or the first part of it. Empty when there is none.
    fn unsent(&self, slot: u32) -> &[u8];

    /// The socket took the first `n` bytes of [`LoopBrain::unsent`].
    fn sent(&mut self, now: Time, slot: u32, n: usize);

    /// The socket is gone and the slot free. Called exactly once for each connection accepted.
    fn closed(&mut self, now: Time, slot: u32, cause: CloseCause);

    /// The commands gathered so far; the loop takes them once a turn.
    fn commands(&mut self) -> &mut CommandBatch;

    /// The lane to the shard is full (nothing is read meanwhile, on no connection), or has room again.
    fn lane_blocked(&mut self, now: Time, blocked: bool);

    /// When [`LoopBrain::expire`] is to be called at the latest; may be early, never late.
    fn next_deadline(&self) -> Option<Time>;

    /// Connections taken, in whatever state.
    fn live(&self) -> usize;

    /// Tell the clients to go, in waves `over` this time, and take no more.
    fn begin_drain(&mut self, now: Time, over: Duration);

    /// The drain is over: no connection is left that is worth waiting for.
    fn is_drained(&self) -> bool;
}
