//! What happens when time passes: one timer a connection, looked at when it fires.

use crate::clock::Time;
use crate::gateway::drain::WAVE_KEY;
use crate::gateway::ending::{Cause, Ending, Farewell};
use crate::gateway::table::Conn;
use crate::gateway::{Gateway, entrance};
use crate::limits;
use crate::session::Phase;
use crate::wire::proto;

impl Gateway {
    /// What is due by `now` happens.
    pub fn expire(&mut self, now: Time) {
        self.go_on_with_deferred(now);
        self.send_outgoing(now);
        self.broadcast_wave(now);
        self.let_in_waiting(now);
        self.trim(now);
        self.metrics.pooled_bytes.set(self.buffers.pooled_bytes as u64);
        self.metrics.session_bytes.set((self.table.bytes() + self.wheel.bytes()) as u64);
        self.metrics.queue_names.set(self.names.len() as u64);
        // What is left is due at once, in the next turn: when thousands end together, the heartbeats of the others are
        // answered in between.
        let mut work = limits::EXPIRY_WORK_PER_TURN;
        while work > 0
            && let Some((_, key)) = self.wheel.pop_expired(now)
        {
            work -= 1;
            if key == WAVE_KEY {
                self.wave(now);
                continue;
            }
            // The timer is free: the connection has none until it gets the next.
            let Some(conn) = self.table.at_mut(key) else { continue };
            conn.timer = None;
            let due = self.deadline(key);
            if due <= now {
                work = work.saturating_sub(limits::EXPIRY_WORK_OF_AN_END);
                self.overdue(now, key, due);
            }
            self.rearm(key);
        }
    }

    /// When [`Gateway::expire`] is to be called at the latest; may be early, never late.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        // At once, when deferred frames or a message in parts go on.
        if self.has_deferred() || !self.outgoing.is_empty() {
            return Some(Time(0));
        }
        let trim = self.buffers.has_surplus().then_some(self.trimmed + limits::POOL_TRIM_INTERVAL);
        let others = self.next_admission().into_iter().chain(trim).chain(self.sweep.due());
        self.wheel.next_deadline().into_iter().chain(others).min()
    }

    /// Gives back the memory that only a storm had a use for.
    fn trim(&mut self, now: Time) {
        if self.trimmed + limits::POOL_TRIM_INTERVAL <= now && self.buffers.has_surplus() {
            self.trimmed = now;
            self.buffers.trim();
            self.actions.shrink_to(limits::POOLED_KEPT);
        }
    }

    /// When something is due on a connection as things stand.
    fn deadline(&self, slot: u32) -> Time {
        let Some(conn) = self.table.at(slot) else { return Time(u64::MAX) };
        let mark = conn.session.mark();
        let due = match conn.session.phase() {
            Phase::AwaitingHello | Phase::AwaitingAdmission | Phase::AwaitingAttach => {
                return mark + self.config.handshake_deadline;
            }
            Phase::Closing => return mark + limits::LAST_WORDS_DEADLINE,
            Phase::Leaving => mark + limits::LEAVE_DEADLINE,
            Phase::Live => mark.max(self.heard_from) + conn.session.silence_max(&self.config.rules),
        };
        let earlier = self.stall_deadline(conn).into_iter().chain(self.part_deadline(conn)).min();
        earlier.map_or(due, |earlier| due.min(earlier))
    }

    /// When the next part of a message that is published in parts must have come.
    fn part_deadline(&self, conn: &Conn) -> Option<Time> {
        let busy = self.buffers.at(conn.busy).filter(|busy| !busy.incoming.is_empty())?;
        Some(busy.grew_at.max(self.heard_from) + self.config.part_deadline)
    }

    fn stall_deadline(&self, conn: &Conn) -> Option<Time> {
        let since = self.buffers.at(conn.busy)?.stalled_since?;
        Some(since + self.config.write_stall_deadline)
    }

    /// Sets the connection's timer to its deadline.
    pub(super) fn rearm(&mut self, slot: u32) {
        let due = self.deadline(slot);
        let Some(conn) = self.table.at_mut(slot) else { return };
        if conn.is_dropped {
            return;
        }
        match conn.timer {
            Some(timer) => self.wheel.move_to(timer, due),
            None => conn.timer = Some(self.wheel.insert(due, slot)),
        }
    }

    fn overdue(&mut self, now: Time, slot: u32, due: Time) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        match conn.session.phase() {
            Phase::AwaitingHello | Phase::AwaitingAttach => {
                let text = format!("no WELCOME within {:?} of connecting", self.config.handshake_deadline);
                self.end(now, slot, Ending::reject(proto::Code::HandshakeTimeout, text).with_slot());
            }
            Phase::AwaitingAdmission => {
                self.metrics.accepts.shed_admission.inc();
                self.end(now, slot, entrance::no_admission());
            }
            Phase::Closing => self.queue_close(slot),
            Phase::Leaving => self.end(now, slot, Ending::new(Cause::Done, Farewell::Nothing)),
            Phase::Live => self.silent(now, slot, due),
        }
    }

    fn silent(&mut self, now: Time, slot: u32, due: Time) {
        let Some(conn) = self.table.at(slot) else { return };
        if self.stall_deadline(conn).is_some_and(|stall| stall <= now) {
            self.end(now, slot, Ending::new(Cause::Stalled, Farewell::Nothing));
        } else if self.is_lane_blocked || conn.is_stopped() {
            // It cannot be heard: its clock starts anew.
            if let Some(conn) = self.table.at_mut(slot) {
                conn.session.heard(now);
                if let Some(busy) = self.buffers.at_mut(conn.busy) {
                    busy.grew_at = now;
                }
            }
        } else if self.part_deadline(conn).is_some_and(|due| due <= now) {
            let text = format!("no part of an unfinished message came for {:?}", self.config.part_deadline);
            self.end(now, slot, Ending::error(Cause::Fault, proto::Code::Unexpected, text));
        } else {
            let text = format!(
                "nothing whole was heard for {:?}, {} heartbeats",
                conn.session.silence_max(&self.config.rules),
                limits::HEARTBEATS_MISSED_MAX
            );
            self.metrics.detection_lateness_ms.record(due.millis_until(now));
            self.end(now, slot, Ending::error(Cause::HeartbeatMissed, proto::Code::HeartbeatMissed, text));
        }
    }
}
