//! Clients told to go, a wave at a time: all of them before the server ends, or a share of them while it stays.
//!
//! Waves keep to the time that was asked for, but tell no more clients a second than this loop would take on itself
//! ([`super::admission`]): wherever they go next has about as much to do with each. The share is taken evenly over
//! the slots, so that it is one of every part of the sessions.

use std::time::Duration;

use crate::clock::Time;
use crate::gateway::ending::{Cause, Ending, Farewell};
use crate::gateway::{Gateway, translate};
use crate::limits;
use crate::mail::{DrainOrder, WHOLE_PPM};
use crate::session::Phase;
use crate::wire::proto;

/// The wheel's key for the next wave; no slot has it.
pub(super) const WAVE_KEY: u32 = u32::MAX;

/// From when the last client is told until the server has ended.
const AFTER_LAST: Duration =
    Duration::from_millis((limits::LEAVE_DEADLINE.as_millis() + limits::LINGER.as_millis()) as u64);

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    /// The server ends: nobody is taken in any more, and whoever is shaking hands is told as well.
    is_end: bool,
    began: Time,
    over_ms: u64,
    /// How many are to be told, and were.
    wanted: u64,
    told: u64,
    share_ppm: u32,
    /// Parts of the next one to be told, in millionths.
    due_ppm: u32,
    /// The first slot that was not looked at, and the first that was not there at the beginning.
    next_slot: u32,
    end_slot: u32,
    /// All were looked at.
    is_told: bool,
}

impl Drain {
    /// How many are to be told by the wave of `now`, at a pace of at most `per_second`; all at the end of the time.
    fn due(&self, now: Time, per_second: u64) -> u64 {
        let wave_ms = limits::DRAIN_WAVE.as_millis() as u64;
        let elapsed_ms = self.began.millis_until(now) + wave_ms;
        let in_time = self.wanted.saturating_mul(elapsed_ms).div_ceil(self.over_ms.max(1));
        let in_pace = per_second.saturating_mul(elapsed_ms).div_ceil(1000);
        in_time.min(in_pace).min(self.wanted)
    }

    /// Milliseconds until the last is told, at most.
    fn left_ms(&self, now: Time, per_second: u64) -> u64 {
        let at_pace_ms = self.wanted.saturating_mul(1000) / per_second.max(1);
        self.over_ms.max(at_pace_ms).saturating_sub(self.began.millis_until(now))
    }
}

impl Gateway {
    /// Takes no more connections and tells those there are to go, in waves `over` this time, each with the moment at
    /// which to come back. Once told, a connection has [`limits::LEAVE_DEADLINE`] to see what is unanswered.
    pub fn begin_drain(&mut self, now: Time, over: Duration) {
        if !self.is_ending() {
            self.start_drain(now, true, WHOLE_PPM, over);
        }
    }

    /// Tells a share of the sessions to go while the others stay and new ones are taken, or ends that. Nothing when
    /// the server ends.
    pub fn drain_share(&mut self, now: Time, order: DrainOrder) {
        if self.is_ending() {
            return;
        }
        self.drain = None;
        if order.share_ppm > 0 {
            self.start_drain(now, false, order.share_ppm.min(WHOLE_PPM), order.over);
        }
        self.note_drain();
        // Last: whoever sees the number sees what it began.
        self.metrics.drain_order.set(u64::from(order.number));
    }

    fn start_drain(&mut self, now: Time, is_end: bool, share_ppm: u32, over: Duration) {
        // What is left of a client after the whole ones is told by chance, so that small shares of many loops add up.
        let due_ppm = self.random.u32(..WHOLE_PPM);
        let there = if is_end { self.table.len() as u64 } else { self.metrics.connections_live.value() };
        // Those that an earlier drain told and that are still there are not told again.
        let sessions = there - self.leaving;
        let wanted = (sessions * u64::from(share_ppm) + u64::from(due_ppm)) / u64::from(WHOLE_PPM);
        self.drain = Some(Drain {
            is_end,
            began: now,
            over_ms: u64::try_from(over.as_millis()).unwrap_or(u64::MAX),
            wanted,
            told: 0,
            share_ppm,
            due_ppm,
            next_slot: 0,
            end_slot: self.table.slots(),
            is_told: false,
        });
        self.metrics.drain_wanted.set(wanted);
        self.metrics.drain_told.set(0);
        if !self.is_wave_set {
            self.is_wave_set = true;
            self.wheel.insert(now, WAVE_KEY);
        }
        self.expire(now);
    }

    /// Whether the server ends: nobody is taken in any more.
    pub(super) fn is_ending(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.is_end)
    }

    /// Whether a drain before the server's end has come to its own: no connection is left.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is_ending() && self.table.len() == 0
    }

    /// When a client that came to a server which ends may find its successor, in milliseconds: those told last have their
    /// time to leave, and their sockets theirs to linger.
    pub(super) fn slot_after_end(&mut self, now: Time) -> u32 {
        let per_second = self.admission.per_second();
        let left_ms = self.drain.as_ref().map_or(0, |drain| drain.left_ms(now, per_second));
        let left_ms = u32::try_from(left_ms + AFTER_LAST.as_millis() as u64).unwrap_or(u32::MAX);
        left_ms.saturating_add(self.admission.slot(now))
    }

    /// Tells the next wave; its timer has fired.
    pub(super) fn wave(&mut self, now: Time) {
        self.is_wave_set = false;
        let per_second = self.admission.per_second();
        let Some(drain) = &self.drain else { return };
        let due = drain.due(now, per_second);
        // The last wave goes to the end: some may have left by themselves, and others come.
        let is_last = due >= drain.wanted && drain.is_end;
        let mut left = if is_last { u64::MAX } else { due.saturating_sub(drain.told) };
        while left > 0
            && let Some(slot) = self.next_to_tell()
        {
            if self.tell(now, slot) {
                left -= 1;
                if let Some(drain) = &mut self.drain {
                    drain.told += 1;
                }
            }
        }
        let Some(drain) = &mut self.drain else { return };
        drain.is_told |= drain.next_slot >= drain.end_slot || (!drain.is_end && drain.told >= drain.wanted);
        let (is_over, is_told) = (drain.is_told && !drain.is_end, drain.is_told);
        self.metrics.drain_told.set(drain.told);
        if is_told {
            // Some had left by themselves.
            self.metrics.drain_wanted.set(drain.told);
        }
        if is_over {
            self.drain = None;
        }
        if !is_told {
            self.is_wave_set = true;
            self.wheel.insert(now + limits::DRAIN_WAVE, WAVE_KEY);
        }
        self.note_drain();
    }

    /// The next slot whose client is among those to be told, in order.
    fn next_to_tell(&mut self) -> Option<u32> {
        let drain = self.drain.as_mut()?;
        while drain.next_slot < drain.end_slot {
            let slot = drain.next_slot;
            drain.next_slot += 1;
            if drain.is_end {
                return Some(slot);
            }
            if self.table.at(slot).is_none_or(|conn| conn.session.phase() != Phase::Live) {
                continue;
            }
            drain.due_ppm += drain.share_ppm;
            if drain.due_ppm >= WHOLE_PPM {
                drain.due_ppm -= WHOLE_PPM;
                return Some(slot);
            }
        }
        None
    }

    /// False when there was nobody to tell.
    fn tell(&mut self, now: Time, slot: u32) -> bool {
        let is_end = self.is_ending();
        let Some(conn) = self.table.at_mut(slot) else { return false };
        let text =
            if is_end { "the server is shutting down" } else { "the server sheds a part of its sessions" };
        let (text, code) = (text.to_owned(), proto::Code::Draining);
        match conn.session.phase() {
            Phase::AwaitingHello | Phase::AwaitingAdmission | Phase::AwaitingAttach => {
                let farewell = Farewell::Reject { code, text };
                let ending = Ending::new(Cause::Done, farewell);
                let reconnect_after_ms = Some(self.slot_after_end(now));
                self.end(now, slot, Ending { reconnect_after_ms, ..ending });
            }
            Phase::Live => {
                conn.session.leave(now);
                self.leaving += 1;
                let reconnect_after_ms = self.admission.slot(now);
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

    /// A client that was told has ended.
    pub(super) fn has_left(&mut self) {
        self.leaving -= 1;
        self.note_drain();
    }

    fn note_drain(&self) {
        let is_running = self.drain.as_ref().is_some_and(|drain| !drain.is_told);
        self.metrics.drain_running.set(u64::from(is_running));
        self.metrics.drain_leaving.set(self.leaving);
    }
}
