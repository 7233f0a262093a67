//! Frames beyond what a turn carries out: kept, and carried out in the turns that follow, so that a client which sends many
//! small ones at once holds up the others no longer than one that sends few.
//!
//! In a turn a connection has [`limits::FRAMES_PER_TURN_MAX`] frames as long as the loop has some of its
//! [`limits::FRAMES_PER_LOOP_TURN_MAX`] left, and [`limits::FRAMES_PER_TURN_MIN`] in any case. What is deferred goes first in
//! the next turn, in the order in which it came, and what is read then has what is left. So what a client says behind
//! nothing of its own is carried out in the turn that reads it, after at most the loop's frames and the least of each
//! connection that was read before it.

use crate::clock::Time;
use crate::gateway::table::{Deferred, IDLE};
use crate::gateway::{Action, Gateway, SlotKey};
use crate::limits;

impl Gateway {
    /// What was kept of the connection goes on next turn; it is not read until then.
    pub(super) fn defer(&mut self, slot: u32) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        let was_stopped = conn.is_stopped();
        conn.deferred = Deferred::Listed;
        self.deferred.push_back(SlotKey { slot, generation: conn.generation });
        self.reading_stopped(slot, was_stopped);
    }

    /// Whether something that was deferred can go on. The lane wakes the loop when it has room.
    pub(super) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty() && !self.is_lane_blocked
    }

    /// What was deferred goes on, and the next turn's frames are counted from here.
    pub(super) fn go_on_with_deferred(&mut self, now: Time) {
        self.frames_left = limits::FRAMES_PER_LOOP_TURN_MAX;
        if !self.has_deferred() {
            return;
        }
        // Those that are deferred anew come behind them.
        for _ in 0..self.deferred.len() {
            if self.frames_left == 0 {
                return;
            }
            let Some(key) = self.deferred.pop_front() else { return };
            self.go_on(now, key);
        }
    }

    fn go_on(&mut self, now: Time, key: SlotKey) {
        let Some(conn) = self.table.tenant_mut(key.slot, key.generation) else { return };
        if conn.deferred != Deferred::Listed {
            return;
        }
        if conn.is_held_up() {
            conn.deferred = Deferred::HeldUp;
            return;
        }
        conn.deferred = Deferred::Nothing;
        self.metrics.reading_stopped.sub(1);
        let kept = self.take_kept(key.slot);
        let (left, is_deferred) = match self.carry_out(now, key.slot, &kept) {
            Ok((rest, is_deferred)) => (rest.len(), is_deferred),
            Err(ending) => return self.end(now, key.slot, ending),
        };
        self.put_back(key.slot, kept, left);
        if is_deferred {
            self.defer(key.slot);
        }
        self.stop_in_a_crowd(key);
        if self.may_read(key.slot) {
            self.actions.push_back(Action::ResumeReading(key.slot));
        }
    }

    /// The last `left` bytes of what was taken are kept on.
    fn put_back(&mut self, slot: u32, mut kept: Vec<u8>, left: usize) {
        let Some(conn) = self.table.at_mut(slot).filter(|_| left > 0) else { return };
        if conn.busy == IDLE {
            conn.busy = self.buffers.take();
        }
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return };
        kept.drain(..kept.len() - left);
        busy.partial = kept;
        self.buffers.partial_bytes += left;
        self.metrics.partial_bytes.set(self.buffers.partial_bytes as u64);
    }
}
