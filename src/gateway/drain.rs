//! Clients told to go, a wave at a time.

use std::time::Duration;

use crate::clock::Time;
use crate::gateway::ending::{Cause, Ending, Farewell};
use crate::gateway::{Gateway, translate};
use crate::limits;
use crate::session::Phase;
use crate::wire::proto;

/// The wheel's key for the next wave; no slot has it.
pub(super) const WAVE_KEY: u32 = u32::MAX;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    /// The first slot that was not told.
    next_slot: u32,
    per_wave: usize,
    /// All were told.
    pub(super) is_told: bool,
}

impl Gateway {
    /// Takes no more connections and tells those there are to go, in waves `over` this time, each with the moment at
    /// which to come back. Once told, a connection has [`limits::LEAVE_DEADLINE`] to see what is unanswered.
    pub fn begin_drain(&mut self, now: Time, over: Duration) {
        if self.drain.is_some() {
            return;
        }
        let waves = (over.as_millis() / limits::DRAIN_WAVE.as_millis()).max(1);
        let waves = usize::try_from(waves).unwrap_or(usize::MAX);
        let per_wave = self.table.len().div_ceil(waves).max(1);
        self.drain = Some(Drain { next_slot: 0, per_wave, is_told: false });
        self.wheel.insert(now, WAVE_KEY);
        self.expire(now);
    }

    /// Whether a drain has come to its end: no connection is left.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drain.is_some() && self.table.len() == 0
    }

    /// Tells the next wave; its timer has fired.
    pub(super) fn wave(&mut self, now: Time) {
        let Some(drain) = &self.drain else { return };
        let (mut slot, mut left) = (drain.next_slot, drain.per_wave);
        while left > 0 && slot < self.table.slots() {
            left -= usize::from(self.tell(now, slot));
            slot += 1;
        }
        let is_told = slot >= self.table.slots();
        if let Some(drain) = &mut self.drain {
            drain.next_slot = slot;
            drain.is_told = is_told;
        }
        if !is_told {
            self.wheel.insert(now + limits::DRAIN_WAVE, WAVE_KEY);
        }
    }

    /// False when there was nobody to tell.
    fn tell(&mut self, now: Time, slot: u32) -> bool {
        let Some(conn) = self.table.at_mut(slot) else { return false };
        let text = "the server is shutting down".to_owned();
        let code = proto::Code::Draining;
        match conn.session.phase() {
            Phase::AwaitingHello | Phase::AwaitingAttach => {
                let farewell = Farewell::Reject { code, text };
                self.end(now, slot, Ending::new(Cause::Done, farewell).with_slot());
            }
            Phase::Live => {
                conn.session.leave(now);
                let reconnect_after_ms = self.slots.draw(now);
                self.append(now, slot, |out| {
                    translate::farewell(out, Farewell::GoAway { code, text }, reconnect_after_ms)
                });
                self.rearm(slot);
                self.end_if_answered(now, slot);
            }
            Phase::Leaving | Phase::Closing => return false,
        }
        true
    }
}
