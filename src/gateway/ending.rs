//! How a connection ends.

use crate::clock::Time;
use crate::gateway::{Action, CloseCause, Gateway, table, translate};
use crate::ids::ProducerId;
use crate::mail::{Command, Detach, DetachReason};
use crate::session::{Denied, Phase};
use crate::wire::{Fault, Kind, clip, proto};

/// What ended it, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Unauthenticated,
    Refused,
    HandshakeTimeout,
    Fault,
    HeartbeatMissed,
    /// More waits for it than it may.
    TooSlow,
    /// It took nothing for so long that there is no use in telling it.
    Stalled,
    /// Taken over, drained, said BYE, shed: nobody is at fault.
    Done,
    /// The socket is gone.
    Gone,
}

/// The last words.
#[derive(Debug)]
pub(super) enum Farewell {
    Nothing,
    Reject { code: proto::Code, text: String },
    GoAway { code: proto::Code, text: String },
    Error(proto::Error),
}

/// An end and its words.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) cause: Cause,
    pub(super) farewell: Farewell,
    /// 0 leaves it to the client; where `None`, the gateway draws a slot.
    pub(super) reconnect_after_ms: Option<u32>,
    /// The client said BYE.
    pub(super) bye: bool,
    pub(super) retired_producer: Option<ProducerId>,
}

impl Ending {
    pub(super) fn new(cause: Cause, farewell: Farewell) -> Self {
        Self { cause, farewell, reconnect_after_ms: Some(0), bye: false, retired_producer: None }
    }

    pub(super) fn reject(code: proto::Code, text: String) -> Self {
        let cause = match code {
            proto::Code::Unauthenticated => Cause::Unauthenticated,
            proto::Code::HandshakeTimeout => Cause::HandshakeTimeout,
            _ => Cause::Refused,
        };
        Self::new(cause, Farewell::Reject { code, text })
    }

    pub(super) fn fault(fault: &Fault) -> Self {
        Self::new(Cause::Fault, Farewell::Error(fault.to_error()))
    }

    pub(super) fn error(cause: Cause, code: proto::Code, text: String) -> Self {
        Self::new(cause, Farewell::Error(proto::Error { code: code.into(), text, client_fault: true }))
    }

    pub(super) fn denied(denied: Denied) -> Self {
        Self::error(Cause::Fault, translate::denial_code(&denied), clip(&denied.text).to_owned())
    }

    pub(super) fn bye(retired_producer: Option<ProducerId>) -> Self {
        Self { bye: true, retired_producer, ..Self::new(Cause::Done, Farewell::Nothing) }
    }

    fn reason(&self) -> DetachReason {
        match self.cause {
            _ if self.bye => DetachReason::Bye,
            Cause::Gone => DetachReason::ConnectionLost,
            Cause::HeartbeatMissed => DetachReason::HeartbeatMissed,
            Cause::Fault => DetachReason::Fault,
            Cause::TooSlow | Cause::Stalled => DetachReason::TooSlow,
            Cause::Unauthenticated | Cause::Refused | Cause::HandshakeTimeout | Cause::Done => {
                DetachReason::SentAway
            }
        }
    }

    /// With a slot of the server's choice.
    pub(super) fn with_slot(self) -> Self {
        Self { reconnect_after_ms: None, ..self }
    }
}

pub(super) fn is_handshake(phase: Phase) -> bool {
    matches!(phase, Phase::AwaitingHello | Phase::AwaitingAdmission | Phase::AwaitingAttach)
}

impl Gateway {
    /// Ends a connection: the shard hears of it, the client gets its last words, the socket is closed once they are
    /// sent or [`limits::LAST_WORDS_DEADLINE`] is over.
    pub(super) fn end(&mut self, now: Time, slot: u32, ending: Ending) {
        let Some(phase) = self.retire(now, slot, &ending) else { return };
        if phase == Phase::AwaitingAttach {
            // Replies wait for a WELCOME that never comes.
            self.discard_output(slot);
        }
        let reconnect_after_ms = match ending.reconnect_after_ms {
            Some(ms) => ms,
            None => self.admission.slot(now),
        };
        if ending.cause == Cause::Stalled {
            return self.queue_end(slot, Action::Abort(slot));
        }
        let is_slow = ending.cause == Cause::TooSlow;
        self.append(now, slot, |out| translate::farewell(out, ending.farewell, reconnect_after_ms));
        if is_slow || self.unsent(slot).is_empty() {
            self.queue_close(slot);
        }
        self.rearm(slot);
    }

    /// The socket is gone and its slot free.
    pub fn closed(&mut self, now: Time, slot: u32, cause: CloseCause) {
        if self.table.at(slot).is_none() {
            return;
        }
        tracing::trace!(slot, ?cause, "connection closed");
        // A client that leaves between two frames has done nothing wrong.
        let was_open = self.retire(now, slot, &Ending::new(Cause::Gone, Farewell::Nothing)).is_some();
        match cause {
            CloseCause::Peer if was_open => self.metrics.closed_peer.inc(),
            CloseCause::Failed if was_open => self.metrics.closed_failed.inc(),
            CloseCause::Unreachable if was_open => self.metrics.closed_unreachable.inc(),
            _ => {}
        }
        self.metrics.connections_closing.sub(1);
        self.metrics.closed.inc();
        self.discard_output(slot);
        self.release_buffers(slot);
        if let Some(timer) = self.table.at_mut(slot).and_then(|conn| conn.timer.take()) {
            self.wheel.cancel(timer);
        }
        self.clear_stops(slot);
        self.table.remove(slot);
        self.feed_starved();
    }

    /// The session ends, once. Returns the state it was in, `None` when it had ended before.
    fn retire(&mut self, now: Time, slot: u32, ending: &Ending) -> Option<Phase> {
        let conn = self.table.at_mut(slot)?;
        if conn.session.phase() == Phase::Closing {
            return None;
        }
        let unanswered = conn.session.unanswered();
        let agreed_ms = conn.session.heartbeat_ms();
        conn.session.publishes_answered(u32::MAX, u32::MAX, u32::MAX);
        conn.session.requests_answered(u32::MAX);
        let phase = conn.session.close(now);
        conn.is_starved = false;
        let (generation, shard, busy) = (conn.generation, conn.shard, conn.busy);
        self.memberships.leave(slot);
        self.buffers.drop_partial(busy);
        self.metrics.partial_bytes.set(self.buffers.partial_bytes as u64);
        self.release_buffers(slot);
        self.answered(unanswered);
        if !matches!(phase, Phase::AwaitingHello | Phase::AwaitingAdmission) {
            let conn = crate::ids::ConnKey { loop_id: self.loop_id, slot, generation };
            let (bye, reason, retired_producer) = (ending.bye, ending.reason(), ending.retired_producer);
            let detach = Detach { conn, bye, reason, retired_producer };
            self.batches.to(shard).commands.push(Command::Detach(detach));
        }
        if phase == Phase::Leaving {
            self.has_left();
        }
        self.clear_stops(slot);
        if !is_handshake(phase) {
            self.heartbeats_left(agreed_ms);
        }
        self.count_end(phase, ending.cause);
        Some(phase)
    }

    fn count_end(&mut self, phase: Phase, cause: Cause) {
        let metrics = &self.metrics;
        metrics.connections_closing.add(1);
        if is_handshake(phase) {
            self.handshakes -= 1;
            metrics.connections_handshaking.sub(1);
            match cause {
                Cause::Unauthenticated => metrics.handshakes.unauthenticated.inc(),
                Cause::HandshakeTimeout => metrics.handshakes.timed_out.inc(),
                Cause::Refused | Cause::Done => metrics.handshakes.refused.inc(),
                _ => metrics.handshakes.broken.inc(),
            }
        } else {
            metrics.connections_live.sub(1);
        }
        match cause {
            Cause::HeartbeatMissed => metrics.closed_heartbeat.inc(),
            Cause::TooSlow | Cause::Stalled => metrics.closed_slow.inc(),
            Cause::Fault => metrics.closed_fault.inc(),
            _ => {}
        }
    }

    /// Asks for the socket to be closed, once. The connection needs no deadline from here on.
    pub(super) fn queue_close(&mut self, slot: u32) {
        self.queue_end(slot, Action::Close(slot));
    }

    fn queue_end(&mut self, slot: u32, action: Action) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        if conn.is_dropped {
            return;
        }
        conn.is_dropped = true;
        if let Some(timer) = conn.timer.take() {
            self.wheel.cancel(timer);
        }
        self.actions.push_back(action);
    }

    /// A connection that was told to go is ended as soon as nothing is unanswered.
    pub(super) fn end_if_answered(&mut self, now: Time, slot: u32) {
        let Some(conn) = self.table.at(slot) else { return };
        if conn.session.phase() == Phase::Leaving && conn.session.unanswered() == 0 {
            self.end(now, slot, Ending::new(Cause::Done, Farewell::Nothing));
        }
    }

    /// Everything of the loop that waits for the answers of commands goes on when there is room.
    pub(super) fn answered(&mut self, count: usize) {
        self.unanswered -= count;
        self.note_unanswered();
        if self.crowd.is_empty() || self.on_their_way() > self.config.commands_unanswered_max / 4 * 3 {
            return;
        }
        for key in std::mem::take(&mut self.crowd) {
            if let Some(conn) = self.table.tenant_mut(key.slot, key.generation)
                && conn.stopped_by_crowd
            {
                conn.stopped_by_crowd = false;
                self.reading_resumed(key.slot);
            }
        }
    }

    /// Commands whose answers are on their way: all without an answer but those that a full queue holds up, which the shard
    /// bounds.
    #[inline]
    pub(super) fn on_their_way(&self) -> usize {
        self.unanswered.saturating_sub(self.parked)
    }

    #[inline]
    pub(super) fn note_unanswered(&self) {
        self.metrics.commands_unanswered.set(self.on_their_way() as u64);
    }

    fn clear_stops(&mut self, slot: u32) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        if conn.is_stopped() {
            (conn.stopped_by_shard, conn.stopped_by_output, conn.stopped_by_crowd) = (false, false, false);
            conn.deferred = table::Deferred::Nothing;
            self.metrics.reading_stopped.sub(1);
        }
    }

    pub(super) fn release_buffers(&mut self, slot: u32) {
        if let Some(conn) = self.table.at_mut(slot)
            && conn.busy != table::IDLE
            && self.buffers.give_back(conn.busy)
        {
            conn.busy = table::IDLE;
        }
    }

    /// Counts a frame that was appended to a connection's output.
    pub(super) fn count_sent(&self, kind: Kind, bytes: usize) {
        self.metrics.sent.count(kind as u8, bytes);
    }
}
