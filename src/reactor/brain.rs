//! The seam between a loop and the brain that decides for it.
//!
//! The reactor keeps an array by [`SlotKey::slot`], which is therefore dense from 0, and trusts that a slot stays
//! taken until [`LoopBrain::closed`].

use std::time::Duration;

use crate::clock::Time;
use crate::gateway::{Action, CloseCause, Gateway, Shed, SlotKey};
use crate::ids::ShardId;
use crate::mail::{CommandBatch, DrainOrder, EffectBatch};

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

    /// There will be something to read on this connection in the turn. Only a hint.
    fn expect(&self, _slot: u32) {}

    /// Bytes of a connection, in order. Called only while [`LoopBrain::may_read`], and with the rest of what was read then.
    fn receive(&mut self, now: Time, key: SlotKey, bytes: &[u8]);

    /// Which shard the commands of this connection go to. Only a hint.
    fn shard(&self, _slot: u32) -> ShardId {
        ShardId::default()
    }

    /// Whether this connection is to be read now.
    fn may_read(&self, slot: u32) -> bool;

    /// Whether this connection waits, unread, to be let in: if its peer goes, nothing else tells the brain.
    fn awaits_admission(&self, _slot: u32) -> bool {
        false
    }

    /// Effects from a shard.
    fn effects(&mut self, now: Time, batch: EffectBatch);

    /// What is due by `now` happens.
    fn expire(&mut self, now: Time);

    /// The next thing to do with a socket, until `None`.
    fn next_action(&mut self) -> Option<Action>;

    /// Goes on with what [`LoopBrain::expire`] has begun, if there is time for it; what is to be done with sockets for that
    /// comes from [`LoopBrain::next_action`] then. Returns false when there is no more of it.
    fn carry_on(&mut self, _now: Time) -> bool {
        false
    }

    /// Output of a connection that the socket has not taken, or the first part of it. Empty when there is none.
    fn unsent(&self, slot: u32) -> &[u8];

    /// The socket took the first `n` bytes of [`LoopBrain::unsent`].
    fn sent(&mut self, now: Time, slot: u32, n: usize);

    /// The socket is gone and the slot free. Called exactly once for each connection accepted.
    fn closed(&mut self, now: Time, slot: u32, cause: CloseCause);

    /// The commands gathered so far, a batch for each shard; the loop takes them once a turn.
    fn commands(&mut self) -> &mut [CommandBatch];

    /// The lane to a shard is full (nothing is read meanwhile, on no connection), or has room again.
    fn lane_blocked(&mut self, now: Time, blocked: bool);

    /// When [`LoopBrain::expire`] is to be called at the latest; may be early, never late.
    fn next_deadline(&self) -> Option<Time>;

    /// Connections taken, in whatever state.
    fn live(&self) -> usize;

    /// Of these, those whose client has not been let in yet.
    fn handshakes(&self) -> usize;

    /// Tell the clients to go, in waves `over` this time, and take no more.
    fn begin_drain(&mut self, now: Time, over: Duration);

    /// Tell a share of the clients to go and stay, or end that.
    fn drain_share(&mut self, now: Time, order: DrainOrder);

    /// The drain is over: no connection is left that is worth waiting for.
    fn is_drained(&self) -> bool;
}

impl LoopBrain for Gateway {
    fn accept(&mut self, now: Time) -> Result<SlotKey, Shed> {
        Gateway::accept(self, now)
    }

    fn turn_away(&mut self, now: Time) -> Shed {
        Gateway::turn_away(self, now)
    }

    fn expect(&self, slot: u32) {
        Gateway::expect(self, slot)
    }

    fn receive(&mut self, now: Time, key: SlotKey, bytes: &[u8]) {
        Gateway::receive(self, now, key, bytes)
    }

    fn shard(&self, slot: u32) -> ShardId {
        Gateway::shard(self, slot)
    }

    fn may_read(&self, slot: u32) -> bool {
        Gateway::may_read(self, slot)
    }

    fn awaits_admission(&self, slot: u32) -> bool {
        Gateway::awaits_admission(self, slot)
    }

    fn effects(&mut self, now: Time, batch: EffectBatch) {
        Gateway::effects(self, now, batch)
    }

    fn expire(&mut self, now: Time) {
        Gateway::expire(self, now)
    }

    fn next_action(&mut self) -> Option<Action> {
        Gateway::next_action(self)
    }

    fn carry_on(&mut self, now: Time) -> bool {
        Gateway::carry_on(self, now)
    }

    fn unsent(&self, slot: u32) -> &[u8] {
        Gateway::unsent(self, slot)
    }

    fn sent(&mut self, now: Time, slot: u32, n: usize) {
        Gateway::sent(self, now, slot, n)
    }

    fn closed(&mut self, now: Time, slot: u32, cause: CloseCause) {
        Gateway::closed(self, now, slot, cause)
    }

    fn commands(&mut self) -> &mut [CommandBatch] {
        Gateway::commands(self)
    }

    fn lane_blocked(&mut self, now: Time, blocked: bool) {
        Gateway::lane_blocked(self, now, blocked)
    }

    fn next_deadline(&self) -> Option<Time> {
        Gateway::next_deadline(self)
    }

    fn live(&self) -> usize {
        Gateway::live(self)
    }

    fn handshakes(&self) -> usize {
        Gateway::handshakes(self)
    }

    fn begin_drain(&mut self, now: Time, over: Duration) {
        Gateway::begin_drain(self, now, over)
    }

    fn drain_share(&mut self, now: Time, order: DrainOrder) {
        Gateway::drain_share(self, now, order)
    }

    fn is_drained(&self) -> bool {
        Gateway::is_drained(self)
    }
}
