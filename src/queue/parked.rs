//! Publishes that wait for room in their queue, unanswered, each within its producer's window.

use crate::ids::ConnKey;
use crate::log::Room;
use crate::mail::{Effect, ProducerSequence, Publish, PublishMessage};
use crate::queue::messages::NIL;
use crate::queue::publish::acked;
use crate::queue::{Brain, Turn};

/// One parked publish.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) client: u32,
    pub(super) queue: u32,
    conn: ConnKey,
    seq: u64,
    producer: Option<ProducerSequence>,
    messages: Box<[PublishMessage]>,
    pub(super) bodies: Box<[u8]>,
    /// Neighbours in the queue's list.
    pub(super) next: u32,
    prev: u32,
}

impl Brain {
    pub(super) fn park(
        &mut self,
        client: u32,
        queue: u32,
        publish: &Publish,
        messages: &[PublishMessage],
        bodies: &[u8],
        turn: &mut Turn<'_>,
    ) {
        let entry = self.queues.at_mut(queue);
        let last = entry.parked.1;
        let parked = self.parked.insert(Parked {
            client,
            queue,
            conn: publish.conn,
            seq: publish.seq,
            producer: publish.producer,
            messages: messages.into(),
            bodies: bodies.into(),
            next: NIL,
            prev: last,
        }) as u32;
        entry.parked.1 = parked;
        entry.parked_count += 1;
        let namespace = entry.namespace;
        match last {
            NIL => entry.parked.0 = parked,
            _ => self.parked[last as usize].next = parked,
        }
        let tenant = self.queues.tenant_mut(namespace);
        tenant.parked_bytes += bodies.len() as u64;
        let is_over = tenant.parked_bytes > self.config.parked_bytes_per_namespace_max;
        self.metrics.parked_bytes.add(bodies.len() as u64);
        let rest = self.directory.at_mut(client).rest_mut();
        rest.parked.push_back(parked);
        if is_over && !rest.reading_stopped {
            rest.reading_stopped = true;
            turn.push_now(Effect::StopReading { conn: publish.conn });
        }
    }

    /// Lets in what fits now, in order.
    pub(super) fn admit_parked(&mut self, queue: u32, turn: &mut Turn<'_>) {
        while turn.journal.room() == Room::Open {
            let entry = self.queues.at(queue);
            let first = entry.parked.0;
            let Some(parked) = self.parked.get(first as usize) else { return };
            let (count, bytes) = (parked.messages.len() as u64, parked.bodies.len() as u64);
            if !entry.has_room(&self.config, count, bytes) {
                return;
            }
            let parked = self.unpark(first);
            let first_id = self.admit(queue, parked.producer, &parked.messages, &parked.bodies, turn);
            turn.push_durable(acked(parked.conn, parked.seq, first_id.0, count as u32, parked.bodies.len()));
            self.resume_reading(parked.client, turn);
        }
    }

    /// A connection is gone: nobody waits for its publishes any more.
    pub(super) fn drop_parked(&mut self, client: u32) {
        while let Some(&parked) = self.directory.at(client).rest.as_ref().and_then(|rest| rest.parked.front())
        {
            let queue = self.unpark(parked).queue;
            self.mark_dirty(queue);
        }
        if let Some(rest) = &mut self.directory.at_mut(client).rest {
            rest.reading_stopped = false;
        }
    }

    fn resume_reading(&mut self, client: u32, turn: &mut Turn<'_>) {
        let client = self.directory.at_mut(client);
        let conn = client.conn();
        if let Some(rest) = &mut client.rest
            && rest.reading_stopped
            && rest.parked.is_empty()
        {
            rest.reading_stopped = false;
            turn.push_now(Effect::ResumeReading { conn });
        }
    }

    fn unpark(&mut self, parked: u32) -> Parked {
        let parked_at = parked;
        let parked = self.parked.remove(parked as usize);
        let entry = self.queues.at_mut(parked.queue);
        entry.parked_count -= 1;
        match parked.prev {
            NIL => entry.parked.0 = parked.next,
            prev => self.parked[prev as usize].next = parked.next,
        }
        match parked.next {
            NIL => entry.parked.1 = parked.prev,
            next => self.parked[next as usize].prev = parked.prev,
        }
        let namespace = entry.namespace;
        let bytes = parked.bodies.len() as u64;
        self.queues.tenant_mut(namespace).parked_bytes -= bytes;
        self.metrics.parked_bytes.sub(bytes);
        let rest = self.directory.at_mut(parked.client).rest_mut();
        // Nearly always the first: a client's publishes to one queue are let in in order.
        if let Some(at) = rest.parked.iter().position(|&waiting| waiting == parked_at) {
            rest.parked.remove(at);
        }
        parked
    }
}
