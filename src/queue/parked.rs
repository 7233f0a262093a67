//! Publishes that wait for room in their queue, unanswered, each within its producer's window.
//!
//! A namespace has a budget for them. Once it is spent, a connection that only publishes is not read any more: the
//! pressure reaches the producer. One that also consumes is read on, because its acks may be the very thing that makes
//! room; what it publishes meanwhile is refused instead, and so are the publishes it had sent before it could know of
//! the refusal, so that a producer that tries again keeps its order.

use std::collections::BTreeMap;

use crate::ids::{ConnKey, LeaseId, ProducerId};
use crate::log::Room;
use crate::mail::{Effect, ProducerSequence, Publish, PublishMessage, Refused};
use crate::queue::ack_and_publish::{Asked, Asks};
use crate::queue::config::WhenFull;
use crate::queue::dedup::digests;
use crate::queue::messages::NIL;
use crate::queue::publish::answer;
use crate::queue::quota::Met;
use crate::queue::{Brain, Turn};

/// One parked publish.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) client: u32,
    pub(super) queue: u32,
    pub(super) publish: Publish,
    pub(super) asks: Asks,
    /// Neighbours in the queue's list.
    pub(super) next: u32,
    prev: u32,
    /// Higher than that of all before it in any list.
    pub(super) place: u64,
}

/// Those of the parked publishes that ack, for they may go before others of their queue.
#[derive(Debug, Default)]
pub(super) struct Acking {
    /// By queue and place.
    pub(super) of: BTreeMap<(u32, u64), u32>,
    next_place: u64,
}

impl Acking {
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// A queue's first one from a place on, and its place.
    pub(super) fn next_of(&self, queue: u32, from: u64) -> Option<(u64, u32)> {
        let (&(_, place), &parked) = self.of.range((queue, from)..=(queue, u64::MAX)).next()?;
        Some((place, parked))
    }
}

impl Parked {
    /// What it takes of its namespace's budget, in bytes.
    pub(super) fn charge(&self) -> u64 {
        let Asks { acks, messages, bodies } = &self.asks;
        charge(acks, messages, bodies) + self.publish.queue.topic().map_or(0, |topic| topic.len() as u64)
    }
}

pub(super) fn charge(acks: &[LeaseId], messages: &[PublishMessage], bodies: &[u8]) -> u64 {
    (size_of::<Parked>() + size_of_val(acks) + size_of_val(messages) + bodies.len()) as u64
}

/// The parked publishes of one loop's connections.
#[derive(Debug)]
pub(super) struct LoopParked {
    /// Of the newest change.
    conn: ConnKey,
    pub(super) publishes: u32,
    /// The loop knows.
    is_told: bool,
}

impl Brain {
    /// Whether a publish of this client must not be parked: the budget is spent, and the client has to be read on.
    pub(super) fn turns_away(&self, client: u32) -> bool {
        let client = self.directory.at(client);
        let parked_bytes = self.queues.tenant(client.namespace).parked_bytes;
        parked_bytes > self.config.parked_bytes_per_namespace_max && client.is_consumer()
    }

    /// The client's producer is to try again; nothing that it had sent behind this goes before it.
    pub(super) fn turn_away(&mut self, client: u32, producer: ProducerSequence) {
        let turned_away = &mut self.directory.at_mut(client).rest_mut().turned_away;
        let is_earlier =
            |(of, first): (ProducerId, u64)| of == producer.producer && first <= producer.sequence;
        if !turned_away.is_some_and(is_earlier) {
            *turned_away = Some((producer.producer, producer.sequence));
        }
    }

    /// Whether a publish was sent before its producer could know that one before it was refused.
    pub(super) fn follows_turned_away(&mut self, client: u32, producer: ProducerSequence) -> bool {
        let entry = self.directory.at_mut(client);
        let Some(rest) = &mut entry.rest else { return false };
        let Some((_, first)) = rest.turned_away.filter(|(of, _)| *of == producer.producer) else {
            return false;
        };
        let follows = producer.sequence > first && producer.unanswered_from <= first;
        if !follows {
            rest.turned_away = None;
            entry.drop_empty_rest();
        }
        follows
    }

    pub(super) fn park(
        &mut self,
        client: u32,
        queue: u32,
        publish: &Publish,
        asks: Asks,
        turn: &mut Turn<'_>,
    ) {
        let publish = publish.clone();
        let parked = Parked { client, queue, publish, asks, next: NIL, prev: NIL, place: 0 };
        self.insert_parked(parked, turn);
    }

    /// Puts a publish at the end of its queue's line.
    pub(super) fn insert_parked(&mut self, parked: Parked, turn: &mut Turn<'_>) {
        let (client, conn, charge) = (parked.client, parked.publish.conn, parked.charge());
        let entry = self.queues.at_mut(parked.queue);
        let last = entry.parked.1;
        let (queue, acks) = (parked.queue, !parked.asks.acks.is_empty());
        let place = self.acking.next_place;
        self.acking.next_place += 1;
        let parked = self.parked.insert(Parked { next: NIL, prev: last, place, ..parked }) as u32;
        if acks {
            self.acking.of.insert((queue, place), parked);
        }
        entry.parked.1 = parked;
        entry.parked_count += 1;
        let namespace = entry.namespace;
        match last {
            NIL => entry.parked.0 = parked,
            _ => self.parked[last as usize].next = parked,
        }
        self.count_parked(conn, 1);
        let tenant = self.queues.tenant_mut(namespace);
        tenant.parked_bytes += charge;
        let is_over = tenant.parked_bytes > self.config.parked_bytes_per_namespace_max;
        self.metrics.parked_bytes.add(charge);
        let entry = self.directory.at_mut(client);
        let is_consumer = entry.is_consumer();
        let rest = entry.rest_mut();
        rest.parked.push_back(parked);
        if is_over && !is_consumer && !rest.reading_stopped {
            rest.reading_stopped = true;
            turn.push_now(Effect::StopReading { conn });
        }
    }

    /// Lets in what fits now, in order.
    pub(super) fn admit_parked(&mut self, queue: u32, turn: &mut Turn<'_>) {
        if self.queues.at(queue).has_line() || self.queues.at(queue).in_publish_line {
            let stays_in_line = self.admit_some_parked(queue, turn);
            if !stays_in_line {
                self.leave_publish_line(queue);
            }
        }
    }

    /// Whether the rest waits for its turn among the queues of its namespace.
    fn admit_some_parked(&mut self, queue: u32, turn: &mut Turn<'_>) -> bool {
        while turn.journal.room() == Room::Open && !self.disk.refuses() {
            let entry = self.queues.at(queue);
            if entry.schedules.as_ref().is_some_and(|line| line.has_turn || entry.parked_count == 0) {
                if let Err(met) = self.fire_next(queue, turn) {
                    if self.let_in_free(queue, met, turn) {
                        continue;
                    }
                    return self.await_publish(queue, met);
                }
                if self.passes_on(queue, false) {
                    return true;
                }
                continue;
            }
            let first = entry.parked.0;
            let Some(parked) = self.parked.get(first as usize) else { return false };
            if parked.publish.queue.topic().is_some() {
                let client = parked.client;
                if let Some(met) = self.retry_fanout(first, turn) {
                    if self.let_in_free(queue, met, turn) {
                        continue;
                    }
                    return self.await_publish(queue, met);
                }
                self.read_on(client, turn);
                if self.passes_on(queue, true) {
                    return true;
                }
                continue;
            }
            let (count, bytes) = (parked.asks.messages.len() as u64, parked.asks.bodies.len() as u64);
            // It did when it came; its bounds may be others now.
            if let Some(refused) = self.never_fits(queue, count, bytes) {
                self.refuse_parked(first, refused, turn);
                continue;
            }
            if let Err(met) = self.may_let_in(queue, count, bytes, turn.now.time)
                && let Err(met) = self.make_room(queue, (count, bytes), met, turn)
            {
                if self.let_in_free(queue, met, turn) {
                    continue;
                }
                if self.queues.at(queue).rules(&self.config).when_full != WhenFull::Reject {
                    return self.await_publish(queue, met);
                }
                // It was to wait when it came.
                self.limit_reached(queue, met.limit, "refused", turn);
                let refused = self.refuse_full(queue, met, turn.now.time);
                self.refuse_parked(first, refused, turn);
                continue;
            }
            let parked = self.unpark(first);
            self.let_in(&parked, turn);
            self.read_on(parked.client, turn);
            if self.passes_on(queue, true) {
                return true;
            }
        }
        let entry = self.queues.at(queue);
        entry.in_publish_line && entry.has_line()
    }

    fn refuse_parked(&mut self, parked: u32, refused: Refused, turn: &mut Turn<'_>) {
        let parked = self.unpark(parked);
        let Parked { publish, asks, .. } = &parked;
        let (messages, bytes) = (asks.messages.len(), asks.bodies.len());
        self.refuse(publish.conn, publish.seq, messages, bytes, refused, turn);
        self.read_on(parked.client, turn);
    }

    /// Something went in that had waited: a publish, or a schedule's. Whether it is the turn of another queue of the
    /// namespace now.
    fn passes_on(&mut self, queue: u32, was_publish: bool) -> bool {
        let entry = self.queues.at_mut(queue);
        if let Some(line) = &mut entry.schedules {
            line.has_turn = was_publish;
        }
        entry.has_line() && self.pass_publish_turn(queue)
    }

    /// Where the first of a queue's line waits for its namespace: lets in one that acks as much as it takes, which need not
    /// wait for that. Whether there was one.
    fn let_in_free(&mut self, queue: u32, met: Met, turn: &mut Turn<'_>) -> bool {
        if !met.is_of_namespace() {
            return false;
        }
        let mut from = 0;
        while let Some((place, parked)) = self.acking.next_of(queue, from) {
            if self.parked_goes_free(parked, turn.now.time) {
                let parked = self.unpark(parked);
                self.let_in(&parked, turn);
                self.read_on(parked.client, turn);
                return true;
            }
            from = place + 1;
        }
        false
    }

    /// A client whose last parked publish was answered is read again.
    pub(super) fn read_on(&mut self, client: u32, turn: &mut Turn<'_>) {
        if self.directory.at(client).rest.as_ref().is_none_or(|rest| rest.parked.is_empty()) {
            self.resume_reading(client, turn);
        }
    }

    /// What was asked is judged again: what waited before it may have had the same ids, and its leases may be lost.
    fn let_in(&mut self, parked: &Parked, turn: &mut Turn<'_>) {
        let Parked { client, queue, publish, asks: Asks { acks, messages, bodies }, .. } = parked;
        let namespace = self.queues.at(*queue).namespace;
        let asked = Asked { publish, client: *client, namespace, acks, bytes: bodies.len() };
        let digests = digests(messages, bodies);
        if !digests.is_empty() && self.is_known(&asked, &digests, turn) {
            return;
        }
        let Some(acked) = self.acked_with(&asked, turn) else { return };
        if publish.replenish {
            acked.iter().for_each(|&slot| self.replenish_settled(*client, slot, turn));
        }
        let first_id = self.admit(*queue, publish.producer, &acked, messages, bodies, turn);
        turn.push_durable(answer(publish.conn, publish.seq, first_id.0, publish.messages, bodies.len()));
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

    pub(super) fn resume_reading(&mut self, client: u32, turn: &mut Turn<'_>) {
        let client = self.directory.at_mut(client);
        let conn = client.conn();
        if let Some(rest) = &mut client.rest
            && std::mem::take(&mut rest.reading_stopped)
        {
            turn.push_now(Effect::ResumeReading { conn });
        }
        client.drop_empty_rest();
    }

    fn count_parked(&mut self, conn: ConnKey, change: i32) {
        let known = self.parked_by_loop.iter().position(|own| own.conn.loop_id == conn.loop_id);
        let at = known.unwrap_or_else(|| {
            self.parked_by_loop.push(LoopParked { conn, publishes: 0, is_told: true });
            self.parked_by_loop.len() - 1
        });
        let own = &mut self.parked_by_loop[at];
        *own = LoopParked { conn, publishes: own.publishes.wrapping_add_signed(change), is_told: false };
    }

    /// Tells the loops how many publishes of theirs are parked, where that has changed.
    pub(super) fn tell_parked(&mut self, turn: &mut Turn<'_>) {
        let shard = self.config.shard;
        for own in self.parked_by_loop.iter_mut().filter(|own| !own.is_told) {
            own.is_told = true;
            turn.push_now(Effect::Parked { conn: own.conn, shard, publishes: own.publishes });
        }
    }

    pub(super) fn unpark(&mut self, parked: u32) -> Parked {
        let parked_at = parked;
        let parked = self.parked.remove(parked as usize);
        self.acking.of.remove(&(parked.queue, parked.place));
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
        self.queues.tenant_mut(namespace).parked_bytes -= parked.charge();
        self.metrics.parked_bytes.sub(parked.charge());
        self.count_parked(parked.publish.conn, -1);
        let entry = self.directory.at_mut(parked.client);
        let rest = entry.rest_mut();
        // Nearly always the first: a client's publishes to one queue are let in in order.
        if let Some(at) = rest.parked.iter().position(|&waiting| waiting == parked_at) {
            rest.parked.remove(at);
        }
        entry.drop_empty_rest();
        parked
    }
}
