//! A publish that acks what it was made of, and one whose deduplication ids are known: what of them is judged, and how
//! they are answered.
//!
//! The leases stand in the record of the messages, so that a crash leaves both or neither. They are looked at when the
//! messages are let in; until then they go on as if nothing had been asked.

use crate::ids::LeaseId;
use crate::log::Ticket;
use crate::mail::{Effect, LeasesLost, ProducerSequence, Publish, PublishMessage};
use crate::queue::messages::State;
use crate::queue::publish::answer;
use crate::queue::queues::NamespaceId;
use crate::queue::record::Digest;
use crate::queue::{Brain, Turn};

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
    /// Messages of that queue that are done with it, and their bytes.
    pub(super) freed: (u64, u64),
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
                self.replenish_settled(slot, turn);
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
        self.metrics.leases_lost.add(lost.len() as u64);
        self.metrics.refused.inc();
        let Publish { conn, seq, messages, .. } = *asked.publish;
        let (bytes, lost) = (asked.bytes as u32, lost.into());
        let refused = Effect::LeasesLost(Box::new(LeasesLost { conn, seq, messages, bytes, lost }));
        turn.outbox.push(Ticket::DURABLE, refused, &[]);
        None
    }

    /// Messages that a record which is written says are done.
    #[inline]
    pub(super) fn end_acked(&mut self, acked: &[u32], turn: &mut Turn<'_>) {
        for &slot in acked {
            self.metrics.acks.inc();
            self.end_message(slot, turn);
        }
    }

    /// Messages, and their bytes, that leave the queue of a publish with it.
    pub(super) fn freed_in(&self, namespace: NamespaceId, publish: &Publish, acked: &[u32]) -> (u64, u64) {
        let queue = self.queues.find(namespace, publish.queue.as_str());
        let messages = acked.iter().map(|&slot| self.messages.at(slot));
        // Dead letters have room of their own.
        let leaving = messages.filter(|message| Some(message.queue) == queue && message.state != State::Dead);
        leaving.fold((0, 0), |(count, bytes), message| (count + 1, bytes + u64::from(message.body_len)))
    }
}
