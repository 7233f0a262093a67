//! A publish that acks what it was made of, and one whose deduplication ids are known: what of them is judged, and how
//! they are answered.
//!
//! The leases stand in the record of the messages, so that a crash leaves both or neither. They are looked at when the
//! messages are let in; until then they go on as if nothing had been asked.
//!
//! # While it waits for room
//!
//! What is acked holds its consumer's credit until the answer. So a publish that acks waits only as long as all of its
//! leases stand: once one ends it is refused, and the credit comes back. Workers who pass messages on between full queues
//! would otherwise wait for each other with all of their credit, long after their messages were given to nobody.
//!
//! Its own acks must not be what it waits for. In the queue that the acked messages are of it has their room, and in the
//! namespace as well: if it has no more messages than it acks, and their bytes fit, it does not wait for the namespace, nor
//! behind those who do.

use crate::clock::Time;
use crate::ids::LeaseId;
use crate::log::Ticket;
use crate::mail::{Effect, LeasesLost, ProducerSequence, Publish, PublishMessage};
use crate::queue::messages::State;
use crate::queue::publish::answer;
use crate::queue::queues::NamespaceId;
use crate::queue::record::Digest;
use crate::queue::{Brain, Parked, Turn};

/// A publish while it is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) publish: &'a Publish,
    pub(super) client: u32,
    pub(super) namespace: NamespaceId,
    pub(super) acks: &'a [LeaseId],
    /// Of its bodies.
    pub(super) bytes: usize,
}

/// The parts of a publish that is kept for later.
#[derive(Debug, Default)]
pub(super) struct Asks {
    pub(super) acks: Box<[LeaseId]>,
    pub(super) messages: Box<[PublishMessage]>,
    pub(super) bodies: Box<[u8]>,
}

/// What someone who asks for room in a queue brings along.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asking {
    pub(super) producer: Option<ProducerSequence>,
    /// Where the queue lets its producers wait.
    pub(super) may_wait: bool,
    /// What is done with it.
    pub(super) freed: Freed,
}

/// Messages, and their bytes, that leave with a publish.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Freed {
    /// Of the queue it goes to.
    pub(super) of_queue: (u64, u64),
    /// Of all queues of its namespace.
    pub(super) of_all: (u64, u64),
}

impl Brain {
    /// Whether the publish was answered because its ids are known, or refused for what they say.
    pub(super) fn is_known(
        &mut self,
        asked: &Asked<'_>,
        digests: &[Option<Digest>],
        turn: &mut Turn<'_>,
    ) -> bool {
        let Publish { conn, seq, messages, .. } = *asked.publish;
        match self.judge_ids(asked.namespace, asked.publish.queue.as_str(), digests, turn) {
            Ok(None) => false,
            Ok(Some(first_id)) => {
                self.metrics.dedup_hits.inc();
                // The work was done before: whoever holds what it was made of is done with it too.
                let after = match self.ack_standing(asked, turn) {
                    0 => self.published_with(first_id + u64::from(messages) - 1),
                    _ => turn.journal.open_ticket(),
                };
                turn.outbox.push(after, answer(conn, seq, first_id, messages, asked.bytes), &[]);
                true
            }
            Err(refused) => {
                self.refuse(conn, seq, messages as usize, asked.bytes, refused, turn);
                true
            }
        }
    }

    /// Acks the leases that stand, without a publish. Returns how many.
    fn ack_standing(&mut self, asked: &Asked<'_>, turn: &mut Turn<'_>) -> usize {
        let mut acked = 0;
        for &lease in asked.acks {
            let Some(slot) = self.slot_under(asked.client, lease) else { continue };
            if asked.publish.replenish {
                self.replenish_settled(asked.client, slot, turn);
            }
            self.metrics.acks.inc();
            self.finish_message(slot, turn);
            acked += 1;
        }
        acked
    }

    /// The messages that are done with a publish, each once; `None` when it was refused because a lease is lost.
    #[inline]
    pub(super) fn acked_with(&mut self, asked: &Asked<'_>, turn: &mut Turn<'_>) -> Option<Vec<u32>> {
        if asked.acks.is_empty() {
            return Some(Vec::new());
        }
        let (mut slots, mut lost) = (Vec::with_capacity(asked.acks.len()), Vec::new());
        for &lease in asked.acks {
            match self.slot_under(asked.client, lease) {
                Some(slot) => slots.push(slot),
                None => lost.push(lease),
            }
        }
        if lost.is_empty() {
            slots.sort_unstable();
            slots.dedup();
            return Some(slots);
        }
        self.refuse_lost(asked.publish, asked.bytes, lost, turn);
        None
    }

    /// Refuses a publish because these of its leases are over.
    fn refuse_lost(&mut self, publish: &Publish, bytes: usize, lost: Vec<LeaseId>, turn: &mut Turn<'_>) {
        self.metrics.leases_lost.add(lost.len() as u64);
        self.metrics.refused.inc();
        let Publish { conn, seq, messages, .. } = *publish;
        let (bytes, lost) = (bytes as u32, lost.into());
        let refused = Effect::LeasesLost(Box::new(LeasesLost { conn, seq, messages, bytes, lost }));
        turn.outbox.push(Ticket::DURABLE, refused, &[]);
    }

    /// Those of the leases that do not stand: this client does not hold them now.
    pub(super) fn lapsed(&self, client: u32, acks: &[LeaseId]) -> Vec<LeaseId> {
        let stands = |lease: &LeaseId| {
            let message = self.slot_under(client, *lease).map(|slot| self.messages.at(slot));
            message.is_some_and(|message| message.state == State::Leased)
        };
        acks.iter().copied().filter(|lease| !stands(lease)).collect()
    }

    /// Whether a publish that would have to wait was refused, for a lease of its own is over already.
    pub(super) fn is_lapsed(&mut self, asked: &Asked<'_>, turn: &mut Turn<'_>) -> bool {
        let lapsed = self.lapsed(asked.client, asked.acks);
        if lapsed.is_empty() {
            return false;
        }
        self.refuse_lost(asked.publish, asked.bytes, lapsed, turn);
        true
    }

    /// Leases of these clients ended in this call: their publishes that wait with one of them wait no more. Returns whether
    /// one did.
    pub(super) fn refuse_lapsed(&mut self, turn: &mut Turn<'_>) -> bool {
        if self.lease_enders.is_empty() {
            return false;
        }
        let mut enders = std::mem::take(&mut self.lease_enders);
        enders.sort_unstable();
        enders.dedup();
        let mut any = false;
        for client in enders {
            // It may be gone, and with it what it had parked.
            let rest = self.directory.clients.get(client).and_then(|client| client.rest.as_ref());
            let parked: Vec<u32> = rest.map_or_else(Vec::new, |rest| rest.parked.iter().copied().collect());
            for at in parked {
                let lapsed = self.lapsed(client, &self.parked[at as usize].asks.acks);
                if lapsed.is_empty() {
                    continue;
                }
                let Parked { publish, queue, asks, .. } = self.unpark(at);
                self.refuse_lost(&publish, asks.bodies.len(), lapsed, turn);
                self.read_on(client, turn);
                self.mark_dirty(queue);
                any = true;
            }
        }
        any
    }

    /// Messages that a record which is written says are done.
    #[inline]
    pub(super) fn end_acked(&mut self, acked: &[u32], turn: &mut Turn<'_>) {
        for &slot in acked {
            self.metrics.acks.inc();
            self.end_message(slot, turn);
        }
    }

    /// What leaves with a publish that acks these.
    pub(super) fn freed_by(&self, queue: Option<u32>, acked: &[u32]) -> Freed {
        let mut freed = Freed::default();
        for message in acked.iter().map(|&slot| self.messages.at(slot)) {
            // Dead letters have room of their own.
            if message.state == State::Dead {
                continue;
            }
            let plus = |sums: (u64, u64)| (sums.0 + 1, sums.1 + u64::from(message.body_len));
            freed.of_all = plus(freed.of_all);
            if Some(message.queue) == queue {
                freed.of_queue = plus(freed.of_queue);
            }
        }
        freed
    }

    /// Whether a publish gives back of the namespace what it takes, its messages and, unless there is room for them, its bytes.
    pub(super) fn is_covered(&self, queue: u32, (messages, bytes): (u64, u64), freed: Freed) -> bool {
        let freed = freed.of_all;
        if freed.0 == 0 || messages > freed.0 {
            return false;
        }
        let tenant = self.queues.tenant(self.queues.at(queue).namespace);
        let bytes_max = tenant.quota.rules.bytes_max.unwrap_or(u64::MAX);
        bytes <= freed.1 || (tenant.bytes - freed.1).saturating_add(bytes) <= bytes_max
    }

    /// Whether a parked publish gives back what it takes of the namespace, and fits its queue: it need not wait for those
    /// that wait for the namespace.
    pub(super) fn parked_goes_free(&mut self, parked: u32, now: Time) -> bool {
        let Parked { client, queue, asks, .. } = &self.parked[parked as usize];
        let (client, queue, count, bytes) =
            (*client, *queue, asks.messages.len() as u64, asks.bodies.len() as u64);
        let mut acked: Vec<u32> =
            asks.acks.iter().filter_map(|&lease| self.slot_under(client, lease)).collect();
        acked.sort_unstable();
        acked.dedup();
        let freed = self.freed_by(Some(queue), &acked);
        self.is_covered(queue, (count, bytes), freed) && self.may_go_free(queue, count, bytes, now).is_ok()
    }
}
