//! Messages that are larger than a frame: put together as they come from a producer, cut up as they go to a consumer.

use crate::clock::Time;
use crate::gateway::buffers::Outgoing;
use crate::gateway::ending::Ending;
use crate::gateway::table::IDLE;
use crate::gateway::{Gateway, SlotKey};
use crate::mail::{Command, Deliver};
use crate::wire::{DeliverWriter, Kind, PartView, PublishView, encode_part};

/// Room a DELIVER needs beside the one message it ends.
const DELIVERY_OVERHEAD_BYTES: usize = 128;

impl Gateway {
    /// Keeps the next bytes of a message, which the session has counted against the publish window.
    pub(super) fn take_part(&mut self, now: Time, slot: u32, part: &PartView<'_>) -> Result<(), Ending> {
        let Some(conn) = self.table.at_mut(slot) else { return Ok(()) };
        if conn.busy == IDLE {
            conn.busy = self.buffers.take();
        }
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return Ok(()) };
        let is_first = busy.incoming.is_empty();
        busy.incoming.push(part, self.config.message_bytes_max).map_err(|fault| Ending::fault(&fault))?;
        busy.grew_at = now;
        self.buffers.partial_bytes += part.data.len();
        self.metrics.partial_bytes.set(self.buffers.partial_bytes as u64);
        if is_first {
            self.rearm(slot);
        }
        self.check_partial_budget()
    }

    /// The whole message that a PUBLISH ends.
    pub(super) fn finish_parts(&mut self, slot: u32, view: &PublishView<'_>) -> Result<Vec<u8>, Ending> {
        let index = self.table.at(slot).map_or(IDLE, |conn| conn.busy);
        let end = view.messages().next().unwrap_or_default();
        let max = self.config.message_bytes_max;
        let whole = match self.buffers.at_mut(index) {
            Some(busy) => {
                let received = busy.incoming.len();
                let whole = busy.incoming.finish(view.parts_bytes, end, max);
                self.buffers.partial_bytes -= received - busy.incoming.len();
                whole
            }
            None => crate::wire::Parts::default().finish(view.parts_bytes, end, max),
        };
        self.metrics.partial_bytes.set(self.buffers.partial_bytes as u64);
        self.release_buffers(slot);
        whole.map_err(|fault| Ending::fault(&fault))
    }

    /// The request that was to end a message was refused: what came of it is of no use and leaves the window.
    pub(super) fn forget_parts(&mut self, slot: u32) {
        let Some(conn) = self.table.at_mut(slot) else { return };
        // Bounded by the publish window.
        let bytes = self.buffers.drop_incoming(conn.busy) as u32;
        conn.session.publishes_answered(0, 0, bytes);
        self.metrics.partial_bytes.set(self.buffers.partial_bytes as u64);
        self.release_buffers(slot);
    }

    /// Begins to deliver a message that is larger than a frame. The connection has buffers and no other such message.
    pub(super) fn deliver_in_parts(&mut self, now: Time, deliver: &Deliver, body: &[u8]) {
        let slot = deliver.conn.slot;
        self.finish_deliver(slot);
        let Some(conn) = self.table.at_mut(slot) else { return };
        // Finishing may have given them back.
        if conn.busy == IDLE {
            conn.busy = self.buffers.take();
        }
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return };
        let (deliver, body) = (*deliver, Box::from(body));
        busy.outgoing = Some(Box::new(Outgoing { deliver, body, sent: 0, leased_at: now, is_listed: false }));
        self.buffers.output_bytes += deliver.body_len as usize;
        self.send_parts(now, slot);
    }

    /// The connection's message in parts, if it has one, goes on next turn, so that one fast reader does not hold up the
    /// others.
    pub(super) fn list_outgoing(&mut self, slot: u32) {
        let Some(conn) = self.table.at(slot) else { return };
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return };
        if let Some(outgoing) = &mut busy.outgoing
            && !outgoing.is_listed
        {
            outgoing.is_listed = true;
            self.outgoing.push(SlotKey { slot, generation: conn.generation });
        }
    }

    /// The messages in parts that were waiting for this turn go on.
    pub(super) fn send_outgoing(&mut self, now: Time) {
        for key in std::mem::take(&mut self.outgoing) {
            if let Some(conn) = self.table.tenant_mut(key.slot, key.generation)
                && let Some(busy) = self.buffers.at_mut(conn.busy)
                && let Some(outgoing) = &mut busy.outgoing
            {
                outgoing.is_listed = false;
                self.send_parts(now, key.slot);
            }
        }
    }

    /// Puts as much of the connection's message in parts among its output as the write budget allows.
    fn send_parts(&mut self, now: Time, slot: u32) {
        let half = self.config.write_budget_bytes / 2;
        let room = half.saturating_sub(DELIVERY_OVERHEAD_BYTES).min(self.config.whole_message_bytes_max());
        loop {
            let Some(conn) = self.table.at(slot) else { return };
            let shard = conn.shard;
            let Some(busy) = self.buffers.at_mut(conn.busy) else { return };
            let unsent = busy.unsent_len();
            let Some(outgoing) = busy.outgoing.as_mut().filter(|_| unsent <= half) else { return };
            let Outgoing { deliver, body, sent, leased_at, .. } = &mut **outgoing;
            let age_ms = leased_at.millis_until(now) as u32;
            if age_ms >= deliver.lease_ms / 4 {
                // It was handed out when its first part was; a slow connection must not use it up.
                *leased_at = now;
                let (conn, lease) = (deliver.conn, deliver.lease);
                self.batches.to(shard).commands.push(Command::Renew { conn, lease });
            }
            let before = busy.out.len();
            let (kind, taken) = if body.len() - *sent > room.max(1) {
                (Kind::Part, encode_part(&mut busy.out, body, *sent, room))
            } else {
                let mut writer = DeliverWriter::begin(&mut busy.out, self.config.frame_bytes_max);
                let Deliver { subscription, lease, .. } = *deliver;
                let lease_ms = deliver.lease_ms - leased_at.millis_until(now) as u32;
                // Bounded by the largest message.
                let parts_bytes = *sent as u32;
                let end = &body[*sent..];
                let is_in = writer.push_end(&mut busy.out, subscription, lease, lease_ms, parts_bytes, end);
                debug_assert!(is_in, "an empty frame takes what is no larger than a whole message");
                writer.finish(&mut busy.out);
                (Kind::Deliver, end.len())
            };
            *sent += taken;
            if kind == Kind::Deliver {
                busy.outgoing = None;
            }
            let written = busy.out.len() - before;
            self.buffers.output_bytes = self.buffers.output_bytes + written - taken;
            self.count_sent(kind, written);
            self.output_grew(now, slot, written);
        }
    }
}
