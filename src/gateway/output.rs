//! What waits to be sent: its budgets, and what happens when a client or the whole loop is above them.

use crate::clock::Time;
use crate::gateway::buffers::OpenDeliver;
use crate::gateway::ending::{Cause, Ending};
use crate::gateway::table::{Deferred, IDLE};
use crate::gateway::{Action, Gateway, SlotKey};
use crate::ids::ConnKey;
use crate::mail::{Command, Deliver};
use crate::session::Phase;
use crate::wire::{DeliverWriter, Kind, compressible_bytes, proto};

impl Gateway {
    /// Output that the socket has not taken.
    #[must_use]
    pub fn unsent(&self, slot: u32) -> &[u8] {
        match self.table.at(slot) {
            // Nothing goes before WELCOME.
            Some(conn) if conn.session.phase() != Phase::AwaitingAttach => {
                self.buffers.at(conn.busy).map_or(&[], |busy| busy.unsent())
            }
            _ => &[],
        }
    }

    /// The socket took the first `n` bytes of [`Gateway::unsent`]; may be called with 0 when it would take none.
    pub fn sent(&mut self, now: Time, slot: u32, n: usize) {
        let Some(conn) = self.table.at(slot) else { return };
        let phase = conn.session.phase();
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return };
        let n = n.min(busy.unsent_len());
        busy.taken += n;
        let left = busy.unsent_len();
        let is_new_stall = left > 0 && busy.stalled_since.is_none();
        if left > 0 && (n > 0 || is_new_stall) {
            busy.stalled_since = Some(now);
        }
        if left == 0 {
            busy.stalled_since = None;
        }
        // What was taken is forgotten when it is the larger part.
        if busy.taken >= left {
            busy.out.drain(..busy.taken);
            busy.taken = 0;
        }
        self.buffers.output_bytes -= n;
        self.metrics.output_bytes.set(self.buffers.output_bytes as u64);
        if left == 0 {
            self.release_buffers(slot);
        }
        if phase == Phase::Closing {
            if left == 0 {
                self.queue_close(slot);
            }
            return;
        }
        if is_new_stall {
            self.rearm(slot);
        }
        if left <= self.config.write_budget_bytes / 2 {
            self.list_outgoing(slot);
            self.output_drained(slot);
        }
        self.feed_starved();
    }

    /// Whether so little waits on the connection that it takes deliveries again.
    fn takes_deliveries(&self, slot: u32) -> bool {
        let busy = self.table.at(slot).and_then(|conn| self.buffers.at(conn.busy));
        let half = self.config.write_budget_bytes / 2;
        busy.is_none_or(|busy| busy.outgoing.is_none() && busy.unsent_len() <= half)
    }

    /// Appends what `write` writes, one frame of the kind it returns.
    #[inline]
    pub(super) fn append(&mut self, now: Time, slot: u32, write: impl FnOnce(&mut Vec<u8>) -> Option<Kind>) {
        self.finish_deliver(slot);
        let Some(conn) = self.table.at_mut(slot) else { return };
        if conn.busy == IDLE {
            conn.busy = self.buffers.take();
        }
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return };
        let before = busy.out.len();
        let kind = write(&mut busy.out);
        let written = busy.out.len() - before;
        self.buffers.output_bytes += written;
        if let Some(kind) = kind {
            self.count_sent(kind, written);
        }
        if written == 0 {
            self.release_buffers(slot);
        } else {
            self.output_grew(now, slot, written);
        }
    }

    /// Asks for a flush and enforces the budgets.
    pub(super) fn output_grew(&mut self, now: Time, slot: u32, written: usize) {
        self.metrics.output_bytes.set(self.buffers.output_bytes as u64);
        let Some(conn) = self.table.at_mut(slot) else { return };
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return };
        let unsent = busy.unsent_len();
        let phase = conn.session.phase();
        if phase == Phase::AwaitingAttach {
            return self.enforce_budgets(now, slot, unsent);
        }
        let outlived_a_turn = !conn.is_flushing && unsent > written && busy.stalled_since.is_none();
        if outlived_a_turn {
            busy.stalled_since = Some(now);
        }
        if !conn.is_flushing {
            conn.is_flushing = true;
            self.actions.push_back(Action::Flush(slot));
        }
        if phase == Phase::Closing {
            return;
        }
        if outlived_a_turn {
            self.rearm(slot);
        }
        self.enforce_budgets(now, slot, unsent);
    }

    fn enforce_budgets(&mut self, now: Time, slot: u32, unsent: usize) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        if unsent > self.config.write_backlog_bytes_max() {
            self.end(now, slot, too_slow(unsent));
        } else if unsent > self.config.write_budget_bytes && !conn.stopped_by_output {
            let was_stopped = conn.is_stopped();
            conn.stopped_by_output = true;
            self.reading_stopped(slot, was_stopped);
        }
    }

    /// A connection's output is small again.
    fn output_drained(&mut self, slot: u32) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        if conn.stopped_by_output {
            conn.stopped_by_output = false;
            self.reading_resumed(slot);
        }
        if !self.takes_deliveries(slot) {
            return;
        }
        let Some(conn) = self.table.at_mut(slot) else { return };
        if conn.is_starved && self.buffers.output_bytes < self.config.loop_output_bytes_max {
            conn.is_starved = false;
            let (shard, generation) = (conn.shard, conn.generation);
            let conn = ConnKey { loop_id: self.loop_id, slot, generation };
            self.batches.to(shard).commands.push(Command::Resupply { conn });
        } else if conn.is_starved {
            self.list_starved(slot);
        }
    }

    /// To be served again once the loop's output has drained.
    fn list_starved(&mut self, slot: u32) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        if !conn.is_listed {
            conn.is_listed = true;
            self.starved.push(SlotKey { slot, generation: conn.generation });
        }
    }

    /// Once the output of the whole loop has drained, those that were refused because of it are served again.
    pub(super) fn feed_starved(&mut self) {
        if self.starved.is_empty() || self.buffers.output_bytes > self.config.loop_output_bytes_max / 2 {
            return;
        }
        for key in std::mem::take(&mut self.starved) {
            let Some(conn) = self.table.tenant_mut(key.slot, key.generation) else { continue };
            conn.is_listed = false;
            // One whose own output is large is served when that has drained.
            if self.takes_deliveries(key.slot) {
                self.output_drained(key.slot);
            }
        }
    }

    /// Puts a delivery into the connection's output or hands it back. The connection is served.
    #[inline]
    pub(super) fn deliver(&mut self, now: Time, deliver: &Deliver, body: &[u8]) {
        let slot = deliver.conn.slot;
        let Some(conn) = self.table.at_mut(slot) else { return };
        let busy = self.buffers.at(conn.busy);
        let unsent = busy.map_or(0, |busy| busy.unsent_len());
        let is_full = unsent >= self.config.write_budget_bytes
            || busy.is_some_and(|busy| busy.outgoing.is_some())
            || self.buffers.output_bytes >= self.config.loop_output_bytes_max;
        if is_full || conn.session.phase() == Phase::Leaving {
            self.hand_back(deliver);
            return;
        }
        if conn.busy == IDLE {
            conn.busy = self.buffers.take();
        }
        if body.len() > self.config.whole_message_bytes_max() {
            return self.deliver_in_parts(now, deliver, body);
        }
        for _ in 0..2 {
            if self.join_deliver(deliver, body) {
                break;
            }
            // It did not fit the open frame; it fits an empty one.
            self.finish_deliver(slot);
        }
        let conn = self.table.at(slot);
        let after = conn.and_then(|conn| self.buffers.at(conn.busy)).map_or(0, |busy| busy.unsent_len());
        self.output_grew(now, slot, after.saturating_sub(unsent));
    }

    fn join_deliver(&mut self, deliver: &Deliver, body: &[u8]) -> bool {
        let slot = deliver.conn.slot;
        let Some(conn) = self.table.at(slot) else { return true };
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return true };
        let before = busy.out.len();
        let open = busy.deliver.get_or_insert_with(|| {
            self.open_delivers.push(slot);
            let start = busy.out.len();
            let writer = DeliverWriter::begin(&mut busy.out, self.config.frame_bytes_max);
            OpenDeliver { writer, start, compressible: 0 }
        });
        let is_in =
            open.writer.push(&mut busy.out, deliver.subscription, deliver.lease, deliver.lease_ms, body);
        if is_in && conn.session.may_compress() {
            open.compressible += compressible_bytes(body);
        }
        let growth = busy.out.len() - before;
        self.buffers.output_bytes += growth;
        is_in
    }

    /// Completes the connection's DELIVER, if one is open.
    pub(super) fn finish_deliver(&mut self, slot: u32) {
        let Some(busy) = self.table.at(slot).and_then(|conn| self.buffers.at_mut(conn.busy)) else { return };
        let Some(open) = busy.deliver.take() else { return };
        let before = busy.out.len();
        open.writer.finish(&mut busy.out);
        let plain = busy.out.len();
        self.codec.compress_messages(&mut busy.out, open.start, open.compressible);
        if busy.out.len() < plain {
            self.metrics.frames_compressed.inc();
            self.metrics.compression_saved_bytes.add((plain - busy.out.len()) as u64);
        }
        // Finishing may shorten the header's room.
        let (shrunk, written) = (before - busy.out.len(), busy.out.len() - open.start);
        self.buffers.output_bytes -= shrunk;
        if written > 0 {
            self.count_sent(Kind::Deliver, written);
        } else {
            self.release_buffers(slot);
        }
    }

    /// The shard waits to be told that what was delivered is on its way.
    pub(super) fn room_low(&mut self, conn: ConnKey) {
        let Some(tenant) = self.table.tenant_mut(conn.slot, conn.generation) else { return };
        if !tenant.session.is_served() {
            return;
        }
        tenant.is_starved = true;
        if self.takes_deliveries(conn.slot) {
            self.output_drained(conn.slot);
        }
    }

    /// The message is ready again without its attempt being counted.
    fn hand_back(&mut self, deliver: &Deliver) {
        self.metrics.deliveries_returned.inc();
        let takes_deliveries = self.takes_deliveries(deliver.conn.slot);
        let Some(conn) = self.table.at_mut(deliver.conn.slot) else { return };
        let batch = self.batches.to(conn.shard);
        batch.leases.push(deliver.lease);
        match batch.commands.last_mut() {
            Some(Command::Return { conn, leases }) if *conn == deliver.conn => *leases += 1,
            _ => batch.commands.push(Command::Return { conn: deliver.conn, leases: 1 }),
        }
        if !conn.is_starved && conn.session.phase() == Phase::Live {
            conn.is_starved = true;
            if takes_deliveries {
                // It may have nothing to drain.
                self.list_starved(deliver.conn.slot);
            }
        }
    }

    pub(super) fn discard_output(&mut self, slot: u32) {
        let Some(conn) = self.table.at(slot) else { return };
        self.buffers.drop_output(conn.busy);
        self.metrics.output_bytes.set(self.buffers.output_bytes as u64);
    }

    /// To be called after a stop was set.
    pub(super) fn reading_stopped(&mut self, slot: u32, was_stopped: bool) {
        if !was_stopped {
            self.metrics.reading_stopped.add(1);
            self.actions.push_back(Action::StopReading(slot));
        }
    }

    /// To be called after a stop was lifted.
    pub(super) fn reading_resumed(&mut self, slot: u32) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        if !conn.is_stopped() {
            self.metrics.reading_stopped.sub(1);
            self.actions.push_back(Action::ResumeReading(slot));
        } else if conn.deferred == Deferred::HeldUp && !conn.is_held_up() {
            conn.deferred = Deferred::Listed;
            self.deferred.push_back(SlotKey { slot, generation: conn.generation });
        }
    }
}

fn too_slow(unsent: usize) -> Ending {
    let text = format!("{unsent} bytes wait to be read by the client; read what is sent");
    Ending::error(Cause::TooSlow, proto::Code::TooSlow, text)
}
