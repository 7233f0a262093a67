//! A publish on its way in: judged, then admitted, parked or refused as a whole.

use std::time::Duration;

use crate::clock::{Now, Time, Wall};
use crate::ids::{Boot, ConnKey, LeaseId, MessageId, ProducerId};
use crate::log::{Position, Room};
use crate::mail::{
    Effect, MessageHeader, ProducerSequence, Publish, PublishAcked, PublishMessage, RefusalCode, Refused,
};
use crate::message::{RetryOptions, message_options};
use crate::queue::ack_and_publish::{Asked, Asking, Asks, Freed};
use crate::queue::bodies::Place;
use crate::queue::config::WhenFull;
use crate::queue::dedup::{Entry, digests};
use crate::queue::marks::{Run, SEQUENCES_AHEAD_MAX, Verdict};
use crate::queue::messages::{Message, NIL, State};
use crate::queue::queues::{NamesFull, NamespaceId};
use crate::queue::record::{self, PublishHead};
use crate::queue::{Brain, Held, Turn, refused};

/// Where a message's record lies, while its entry is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) id: u64,
    pub(super) queue: u32,
    pub(super) position: Position,
    pub(super) body_offset: u32,
    pub(super) body_len: u32,
    pub(super) charge: u32,
    pub(super) time: Time,
}

impl Brain {
    /// A client's publish. One that comes over a replaced connection is dropped in silence.
    pub(super) fn publish(
        &mut self,
        publish: &Publish,
        acks: &[LeaseId],
        messages: &[PublishMessage],
        bodies: &[u8],
        turn: &mut Turn<'_>,
    ) {
        let Some(client) = self.directory.of_conn(publish.conn) else { return };
        if let Some(topic) = publish.queue.topic() {
            return self.publish_to_topic(client, publish, topic, messages, bodies, turn);
        }
        let namespace = self.directory.at(client).namespace;
        if self.is_answered_again(publish, namespace, bodies.len(), turn) {
            return;
        }
        let asked = Asked { publish, client, namespace, acks, bytes: bodies.len() };
        let digests = digests(messages, bodies);
        if !digests.is_empty() && self.is_known(&asked, &digests, turn) {
            return;
        }
        let Some(mut acked) = self.acked_with(&asked, turn) else { return };
        if publish.producer.is_some_and(|producer| self.follows_turned_away(client, producer)) {
            let refused = self.nowhere_to_park();
            return self.refuse(publish.conn, publish.seq, messages.len(), bodies.len(), refused, turn);
        }
        let freed = if acked.is_empty() {
            Freed::default()
        } else {
            self.freed_by(self.queues.find(namespace, publish.queue.as_str()), &acked)
        };
        let asking = Asking { producer: publish.producer, may_wait: freed.of_queue.0 == 0, freed };
        let ids: Vec<u64> = acked.iter().map(|&slot| self.messages.at(slot).id).collect();
        let judged = self.judge(namespace, publish.queue.as_str(), asking, messages, turn);
        // Whoever made room may have pushed a dead letter out whose ack comes late.
        let mut ids = ids.into_iter();
        acked.retain(|&slot| ids.next().and_then(|id| self.messages.find(MessageId(id))) == Some(slot));
        match judged {
            Ok((_, false)) if self.turns_away(client) => {
                if let Some(producer) = publish.producer {
                    self.turn_away(client, producer);
                }
                let refused = self.nowhere_to_park();
                self.refuse(publish.conn, publish.seq, messages.len(), bodies.len(), refused, turn);
            }
            Ok((queue, true)) => {
                if publish.replenish {
                    acked.iter().for_each(|&slot| self.replenish_settled(client, slot, turn));
                }
                let first_id = self.admit(queue, publish.producer, &acked, messages, bodies, turn);
                let count = publish.messages;
                turn.push_durable(answer(publish.conn, publish.seq, first_id.0, count, bodies.len()));
            }
            Ok((_, false)) if !acks.is_empty() && self.is_lapsed(&asked, turn) => {}
            Ok((queue, false)) => {
                let asks = Asks { acks: acks.into(), messages: messages.into(), bodies: bodies.into() };
                self.park(client, queue, publish, asks, turn);
            }
            Err(refused) => {
                self.refuse(publish.conn, publish.seq, messages.len(), bodies.len(), refused, turn)
            }
        }
    }

    /// Whether the publish was answered because its producer had sent it before, or cannot have.
    fn is_answered_again(
        &mut self,
        publish: &Publish,
        namespace: NamespaceId,
        bytes: usize,
        turn: &mut Turn<'_>,
    ) -> bool {
        let Some(producer) = publish.producer else { return false };
        match self.marks.verdict(namespace, producer, publish.messages) {
            Verdict::New => false,
            Verdict::Duplicate(first_id) => {
                self.metrics.duplicates.inc();
                let last_id = first_id + u64::from(publish.messages) - 1;
                let after = self.published_with(last_id);
                let acked = answer(publish.conn, publish.seq, first_id, publish.messages, bytes);
                turn.outbox.push(after, acked, &[]);
                true
            }
            unusable => {
                let refused = refuse_sequence(unusable, producer);
                self.refuse(publish.conn, publish.seq, publish.messages as usize, bytes, refused, turn);
                true
            }
        }
    }

    /// The queue, and whether the messages may go in now; `false` lets them be parked.
    pub(super) fn judge(
        &mut self,
        namespace: NamespaceId,
        name: &str,
        asking: Asking,
        messages: &[PublishMessage],
        turn: &mut Turn<'_>,
    ) -> Result<(u32, bool), Refused> {
        self.check_disk(namespace, name, turn)?;
        self.judge_producer(namespace, asking.producer)?;
        let queue =
            self.queues.open(namespace, name, Some(&self.config)).map_err(|full| self.names_full(full))?;
        // An idle queue that takes nothing is closed again at the end of this call.
        self.mark_dirty(queue);
        let (count, bytes): (u64, u64) =
            (messages.len() as u64, messages.iter().map(|m| u64::from(m.body_len)).sum());
        if let Some(refused) = self.never_fits(queue, count, bytes) {
            return Err(refused);
        }
        let freed = asking.freed.of_queue;
        let (more, more_bytes) = (count.saturating_sub(freed.0), bytes.saturating_sub(freed.1));
        // What takes no more than it gives back takes nothing from those that wait.
        let is_exchange = freed.0 > 0 && more == 0 && more_bytes == 0;
        let entered = if is_exchange {
            Ok(())
        } else if self.is_covered(queue, (count, bytes), asking.freed) {
            self.may_pass(queue, more, more_bytes, turn.now.time)
        } else {
            self.may_enter(queue, more, more_bytes, turn.now.time)
        };
        let entered = entered.or_else(|met| self.make_room(queue, (more, more_bytes), met, turn));
        let Err(met) = entered else { return Ok((queue, true)) };
        let waits = asking.may_wait && self.queues.at(queue).rules(&self.config).when_full == WhenFull::Wait;
        self.limit_reached(queue, met.limit, if waits { "wait" } else { "refused" }, turn);
        if waits {
            return Ok((queue, false));
        }
        Err(self.refuse_full(queue, met, turn.now.time))
    }

    /// Whether the disk takes messages.
    pub(super) fn check_disk(
        &mut self,
        namespace: NamespaceId,
        name: &str,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refused> {
        let text = if turn.journal.room() == Room::Reserved {
            "the log cannot grow now: its disk is full or cannot be written, and the server's log says which; acks go on \
             meanwhile"
                .to_owned()
        } else if self.disk.refuses() {
            self.disk.text.to_string()
        } else {
            return Ok(());
        };
        self.disk_limit_reached(namespace, name, turn.now.time);
        Err(refused(RefusalCode::DiskFull, text, self.full_retry_ms()))
    }

    pub(super) fn judge_producer(
        &self,
        namespace: NamespaceId,
        producer: Option<ProducerSequence>,
    ) -> Result<(), Refused> {
        let Some(producer) = producer else { return Ok(()) };
        let max = self.config.producers_per_namespace_max;
        if self.queues.tenant(namespace).producers < max
            || self.marks.table.contains_key(&(namespace, producer.producer))
        {
            return Ok(());
        }
        Err(self.names_full(NamesFull { what: "producers of this namespace that were not retired", max }))
    }

    pub(super) fn names_full(&self, full: NamesFull) -> Refused {
        let text = format!("the limit of {} {} is reached", full.max, full.what);
        refused(RefusalCode::LimitReached, text, self.full_retry_ms())
    }

    pub(super) fn nowhere_to_park(&self) -> Refused {
        let text = "the queue is full, and as many publishes of this namespace wait for room as may; take messages from the \
                    queues that are full, then publish again";
        refused(RefusalCode::QueueFull, text.to_owned(), self.full_retry_ms())
    }

    pub(super) fn refuse(
        &mut self,
        conn: ConnKey,
        seq: u64,
        messages: usize,
        bytes: usize,
        refused: Refused,
        turn: &mut Turn<'_>,
    ) {
        self.metrics.refused.inc();
        let refused = Box::new(refused);
        let (messages, bytes) = (messages as u32, bytes as u32);
        turn.push_now(Effect::PublishRefused { conn, seq, messages, bytes, refused });
    }

    /// Writes the messages down and puts them on their queue; those in the slots of `acked` are done with it. Returns the
    /// first one's id; the others follow by 1.
    pub(super) fn admit(
        &mut self,
        queue: u32,
        producer: Option<ProducerSequence>,
        acked: &[u32],
        messages: &[PublishMessage],
        bodies: &[u8],
        turn: &mut Turn<'_>,
    ) -> MessageId {
        self.append_clock_if_old(turn);
        let mut with_ttl = Vec::new();
        let messages = match &self.queues.at(queue).own {
            Some(own) => {
                // A replay must find the same, whichever settings it has taken in by then.
                with_ttl.extend(messages.iter().map(|message| with_own_ttl(*message, own.rules.ttl)));
                &with_ttl
            }
            None => messages,
        };
        let digests = digests(messages, bodies);
        let dedup_window_ms = if digests.is_empty() { 0 } else { self.dedup_window_ms(queue) };
        let acks: Vec<u64> = acked.iter().map(|&slot| self.messages.at(slot).id).collect();
        let first_id = self.take_ids(messages.len(), turn);
        let entry = self.queues.at(queue);
        let namespace = entry.namespace;
        let head = PublishHead {
            time: turn.now.time,
            wall: turn.now.wall,
            first_id,
            namespace: &self.queues.tenant(namespace).name,
            queue: &entry.name,
            producer,
            acks: &acks,
            dedup_window_ms,
            schedule: self
                .schedules
                .firing
                .map(|(schedule, due)| (&*self.schedules.slab[schedule as usize].name, due)),
            ..PublishHead::default()
        };
        self.scratch.clear();
        self.entry_lens.clear();
        let entry_lens = &mut self.entry_lens;
        let head_len = record::encode_publish(&mut self.scratch, &head, messages, |len| entry_lens.push(len));
        let position = turn.journal.append(&[&self.scratch, bodies]);
        self.clock = (turn.now.time, turn.now.wall);
        self.end_acked(acked, turn);
        let head = Held { position, len: head_len };
        let mut head_charge =
            self.charge_head(head, namespace, producer, (first_id, messages.len() as u32), turn);
        let (time, wall) = (turn.now.time, turn.now.wall);
        let (mut body_offset, mut start) = (self.scratch.len() as u32, 0);
        for (at, message) in messages.iter().enumerate() {
            let body_len = message.body_len as usize;
            let mut charge = self.entry_lens[at] + message.body_len + std::mem::take(&mut head_charge);
            let id = first_id + at as u64;
            if let Some(&Some(digest)) = digests.get(at) {
                charge -= self.entry_lens[at];
                let expires = Time(time.0.saturating_add(dedup_window_ms));
                let entry = Entry { digest, id, expires, position, charge: self.entry_lens[at] };
                self.remember_id(queue, entry, turn);
            }
            let placed =
                Placed { id, queue, position, body_offset, body_len: message.body_len, charge, time };
            let slot = self.enter(&placed, &message.header, &bodies[start..start + body_len]);
            let until = self.until(slot, &message.header, time, wall);
            self.place_new(slot, until);
            start += body_len;
            body_offset += message.body_len;
        }
        self.spend_publish(queue, messages.len() as u64);
        self.metrics.published.add(messages.len() as u64);
        self.mark_dirty(queue);
        MessageId(first_id)
    }

    /// The head of a publish lives as long as its schedule or the producer's mark needs it; otherwise as the first message,
    /// which takes what is returned.
    fn charge_head(
        &mut self,
        head: Held,
        namespace: NamespaceId,
        producer: Option<ProducerSequence>,
        (first_id, count): (u64, u32),
        turn: &mut Turn<'_>,
    ) -> u32 {
        let mut left = head.len;
        if let Some((schedule, due)) = self.schedules.firing {
            let held = Held { len: std::mem::take(&mut left), ..head };
            self.schedule_fired(schedule, due, held, turn);
        }
        if let Some(producer) = producer {
            let charge = std::mem::take(&mut left);
            let run = Run { sequence: producer.sequence, first_id, position: head.position, charge, count };
            self.remember(namespace, producer.producer, producer.unanswered_from, run, turn);
        }
        left
    }

    /// Ids for messages that are written down now.
    #[inline]
    pub(super) fn take_ids(&mut self, count: usize, turn: &mut Turn<'_>) -> u64 {
        let first_id = self.next_id;
        self.next_id += count as u64;
        let ticket = turn.journal.open_ticket();
        if self.uncommitted.back().is_none_or(|(last, _)| *last != ticket) {
            self.uncommitted.push_back((ticket, first_id));
        }
        first_id
    }

    pub(super) fn remember(
        &mut self,
        namespace: NamespaceId,
        producer: ProducerId,
        unanswered_from: u64,
        run: Run,
        turn: &mut Turn<'_>,
    ) {
        let is_new = self.marks.remember(namespace, producer, unanswered_from, run, |old| {
            if old.charge > 0 {
                turn.journal.release(old.position, old.charge);
            }
        });
        if is_new {
            self.queues.tenant_mut(namespace).producers += 1;
            self.metrics.producers.add(1);
        }
    }

    /// Makes the entry of a message, in no state yet.
    pub(super) fn enter(&mut self, placed: &Placed, header: &MessageHeader, body: &[u8]) -> u32 {
        let queue = self.queues.at_mut(placed.queue);
        queue.bytes += u64::from(placed.body_len);
        let namespace = queue.namespace;
        self.queues.count_in(namespace, u64::from(placed.body_len));
        let rules = self.queues.at(placed.queue).rules(&self.config);
        let ttl_ms = match header.ttl_ms {
            0 => rules.ttl.map_or(TTL_NEVER, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(TTL_NEVER)),
            own => own,
        };
        let expires = if ttl_ms == TTL_NEVER { Time(0) } else { Time(placed.time.0.saturating_add(ttl_ms)) };
        let message = Message {
            id: placed.id,
            body: Place::LOG,
            position: placed.position,
            published: placed.time,
            expires,
            next: NIL,
            prev: NIL,
            queue: placed.queue,
            lane: NIL,
            body_offset: placed.body_offset,
            body_len: placed.body_len,
            charge: placed.charge,
            attempt: 0,
            boot: Boot(0),
            timer: None,
            spent: 0,
            attempts_max: u16::try_from(header.attempts_max).unwrap_or(u16::MAX),
            priority: header.priority,
            state: State::Free,
            attempt_open: false,
            is_rare: false,
        };
        let slot = self.messages.insert(message, body);
        if header.has_options {
            self.take_options(slot, body);
        }
        slot
    }

    /// Notes what few messages say of themselves.
    fn take_options(&mut self, slot: u32, body: &[u8]) {
        let options = message_options(body);
        if options.retry != RetryOptions::default() || options.lease.is_some() {
            let rare = self.messages.rare_mut(slot);
            (rare.retry, rare.lease) = (options.retry, options.lease);
        }
        self.join_lane(slot, options.order_key, options.fair_key);
    }

    /// Until when a message that was published at `time` has to wait; its time to live begins then. Notes a due time on the
    /// wall clock, for the timer to look at again.
    pub(super) fn until(
        &mut self,
        slot: u32,
        header: &MessageHeader,
        time: Time,
        wall: Wall,
    ) -> Option<Time> {
        let mut wait_ms = header.delay_ms;
        if header.due > wall {
            if self.is_started {
                // It is timed by the wall clock as it goes now, whichever way it jumped since the last look.
                self.look_at_wall(Now { time, wall });
            }
            wait_ms = wait_ms.max(header.due.0 - wall.0);
            self.messages.set_due(slot, header.due);
            self.messages.rare_mut(slot).no_sooner = Time(time.0.saturating_add(header.delay_ms));
        }
        if wait_ms == 0 {
            return None;
        }
        let message = self.messages.at_mut(slot);
        if message.expires != Time(0) {
            message.expires.0 = message.expires.0.saturating_add(wait_ms);
        }
        Some(Time(time.0.saturating_add(wait_ms)))
    }
}

/// What a record says of a message that never expires although its queue's default says when.
pub(super) const TTL_NEVER: u64 = u64::MAX;

fn with_own_ttl(mut message: PublishMessage, ttl: Option<Duration>) -> PublishMessage {
    if message.header.ttl_ms == 0 {
        let own = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(TTL_NEVER));
        message.header.ttl_ms = own.unwrap_or(TTL_NEVER);
    }
    message
}

pub(super) fn answer(conn: ConnKey, seq: u64, first_id: u64, messages: u32, bytes: usize) -> Effect {
    let first_id = MessageId(first_id);
    Effect::PublishAcked(PublishAcked { conn, seq, more: 0, first_id, messages, bytes: bytes as u32 })
}

pub(super) fn refuse_sequence(verdict: Verdict, producer: ProducerSequence) -> Refused {
    let ProducerSequence { sequence, unanswered_from, .. } = producer;
    match verdict {
        Verdict::Mixed => refused(
            RefusalCode::Invalid,
            format!("the batch at sequence {sequence} holds sequences that were published in another batch"),
            0,
        ),
        Verdict::TooFar => refused(
            RefusalCode::Invalid,
            format!(
                "sequence {sequence} lies more than {SEQUENCES_AHEAD_MAX} above unanswered_from {unanswered_from}"
            ),
            0,
        ),
        _ => refused(
            RefusalCode::StaleSequence,
            format!("sequence {sequence} lies below one that this producer said was answered"),
            0,
        ),
    }
}
