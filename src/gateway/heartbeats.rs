//! How many heartbeats a loop is to take, how much longer its clients' intervals are for that, and the PONGs that say so.

use crate::clock::Time;
use crate::gateway::Gateway;
use crate::limits;
use crate::session::Stretch;
use crate::wire::{EMPTY_PONG, Kind, encode, proto};

/// Heartbeats a second are counted in these.
const MICRO: u64 = 1_000_000;

/// The heartbeats that the sessions of a loop agreed on, against those it is to take. Nothing is measured: what was agreed
/// on says how many come.
#[derive(Debug)]
pub(super) struct HeartbeatLoad {
    /// Taken as they come, in millionths a second.
    room: u64,
    /// At the agreed intervals, in millionths a second.
    agreed: u64,
    stretch: Stretch,
}

impl HeartbeatLoad {
    pub(super) fn new(per_s: u32) -> Self {
        Self { room: u64::from(per_s.max(1)) * MICRO, agreed: 0, stretch: Stretch::NONE }
    }

    /// By how much intervals are to be longer than agreed.
    #[inline]
    pub(super) fn stretch(&self) -> Stretch {
        self.stretch
    }

    /// A session with this interval came.
    pub(super) fn joined(&mut self, interval_ms: u32) {
        self.agreed += of_one(interval_ms);
        self.settle();
    }

    /// It left.
    pub(super) fn left(&mut self, interval_ms: u32) {
        self.agreed -= of_one(interval_ms);
        self.settle();
    }

    /// The smallest stretch with which there is room. It is given up only once the next smaller one leaves some, so that
    /// sessions which come and go change nothing.
    fn settle(&mut self) {
        while self.stretch < Stretch::MAX && !self.has_room(self.stretch, 100) {
            self.stretch = self.stretch.longer();
        }
        while self.stretch > Stretch::NONE
            && self.has_room(self.stretch.shorter(), limits::HEARTBEATS_SHORTER_PERCENT)
        {
            self.stretch = self.stretch.shorter();
        }
    }

    fn has_room(&self, stretch: Stretch, percent: u32) -> bool {
        let room = u128::from(self.room) * u128::from(stretch.permille()) * u128::from(percent);
        u128::from(self.agreed) * 1000 * 100 <= room
    }
}

fn of_one(interval_ms: u32) -> u64 {
    1000 * MICRO / u64::from(interval_ms.max(1))
}

impl Gateway {
    /// A PING came `gap_ms` after what was heard before.
    #[inline]
    pub(super) fn heartbeat(&mut self, slot: u32, gap_ms: u64) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        let (late_ms, is_due_earlier) = conn.session.heartbeat(gap_ms, &self.config.rules);
        self.metrics.heartbeat_lateness_ms.record(late_ms);
        if is_due_earlier {
            self.rearm(slot);
        }
    }

    /// Answers a PING, if it is one that is answered: with the interval the client is to change to, if there is one.
    #[inline]
    pub(super) fn pong(&mut self, now: Time, slot: u32) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        if !conn.session.answers_ping() {
            return;
        }
        match conn.session.ask_interval(self.heartbeats.stretch(), &self.config.rules) {
            None => self.append(now, slot, |out| {
                out.extend_from_slice(&EMPTY_PONG);
                Some(Kind::Pong)
            }),
            Some(heartbeat_ms) => {
                self.metrics.intervals_asked.inc();
                self.append(now, slot, |out| {
                    encode(out, Kind::Pong, &proto::Pong { heartbeat_ms });
                    Some(Kind::Pong)
                });
            }
        }
    }

    /// A session with this interval is served from here on.
    pub(super) fn heartbeats_joined(&mut self, interval_ms: u32) {
        self.heartbeats.joined(interval_ms);
        self.metrics.heartbeat_stretch_permille.set(self.heartbeats.stretch().permille());
    }

    /// It is not any more.
    pub(super) fn heartbeats_left(&mut self, interval_ms: u32) {
        self.heartbeats.left(interval_ms);
        self.metrics.heartbeat_stretch_permille.set(self.heartbeats.stretch().permille());
    }
}

#[cfg(test)]
mod tests;
