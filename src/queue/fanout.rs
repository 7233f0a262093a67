//! A publish to a topic: who is connected hears of it, and the queues and mailboxes that it is bound to each get a copy.
//!
//! All copies are one record with each body in it once, so that they are there together or not at all, and it costs one
//! durable write however many there are. Each copy keeps its share of the record alive: a byte that says where it goes, and
//! an equal part of the message's bytes. Compaction writes what is left of a message anew as one record again.
//!
//! # A queue without room
//!
//! A queue that lets its oldest messages die has room, if they are enough. Else the binding says whether its queue misses
//! the messages then, or they wait for it. One that waits is treated as the queue's own rules say: the whole publish is
//! parked in the queue's line, or refused. Bounds of the namespace are for all copies together; queues that are waited for
//! come before those that may miss them. When it comes to the head of that line it
//! is looked at anew, bindings and all, and may move to the line of another queue; there it needs room only, for it
//! has waited already, so that two that wait for each other's queues both come through. A client's further publishes to
//! topics stay behind one that is parked, whichever queues they go to, so that each queue gets them in order.
//!
//! # Deduplication ids
//!
//! Each queue looks at them for itself: one that knows the id of a message, by a publish to it or to a topic, has that
//! already and is not given it again, and neither is the second of a batch with the same id. Who is connected hears of it
//! each time. A queue that can remember no more ids is as good as full.

use std::collections::BTreeSet;

use crate::ids::{ConnKey, MessageId};
use crate::limits::{FANOUT_MESSAGES_MAX, FANOUT_QUEUES_MAX};
use crate::log::Ticket;
use crate::mail::{Broadcasted, Effect, ProducerSequence, Publish, PublishMessage, RefusalCode, Refused};
use crate::queue::ack_and_publish::Asks;
use crate::queue::bindings::Wanted;
use crate::queue::config::WhenFull;
use crate::queue::dedup::digests;
use crate::queue::marks::Verdict;
use crate::queue::overflow::Doomed;
use crate::queue::publish::refuse_sequence;
use crate::queue::queues::NamespaceId;
use crate::queue::quota::Met;
use crate::queue::record::Digest;
use crate::queue::{Brain, Turn, pattern, refused, topics};

/// What becomes of a publish.
pub(super) enum Judged {
    /// These have room; those miss it.
    Admitted(Admitted),
    /// It waits for this queue, which met a limit.
    Waits(u32, Met),
}

/// Where a publish goes.
#[derive(Default)]
pub(super) struct Admitted {
    /// Queues and what each takes.
    targets: Vec<(u32, Wanted)>,
    /// With the queue and its limit, if it is that.
    missed: Vec<(Wanted, Option<(u32, Met)>)>,
    /// Queues that have all of it already.
    had: u64,
    /// The first and the newest message that a queue has already.
    known: Option<(u64, u64)>,
    /// Who dies to make room.
    doomed: Vec<(u32, Doomed)>,
    /// How much all of them take.
    sums: (u64, u64),
}

/// Messages on their way to their topic.
#[derive(Clone, Copy)]
pub(super) struct Topical<'a> {
    pub(super) namespace: NamespaceId,
    pub(super) topic: &'a str,
    pub(super) messages: &'a [PublishMessage],
    pub(super) bodies: &'a [u8],
}

/// What it led to.
pub(super) struct HandedOn {
    /// 0 when it is in no queue.
    pub(super) first_id: u64,
    /// Connected subscriptions and queues.
    pub(super) subscribers: u64,
    /// What the answer waits for.
    pub(super) after: Ticket,
}

/// Whose publish is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A client, who can wait.
    Client,
    /// A client whose publish has waited already.
    Parked,
    /// An operator, who gets an answer at once.
    Operator,
    /// The server itself: what does not fit is missed.
    System,
}

impl Asker {
    /// Whether a queue that has no room misses it.
    fn may_miss(self, wanted: &Wanted) -> bool {
        !wanted.waits || self == Self::System
    }
}

/// What one queue says to a publish.
enum Space {
    Fits(u32, Option<Doomed>),
    Misses(Option<(u32, Met)>),
    Waits(u32, Met),
}

impl Brain {
    /// A client's publish to a topic. Its producer's sequences are for what is kept: they are ignored unless a queue takes it.
    pub(super) fn publish_to_topic(
        &mut self,
        client: u32,
        publish: &Publish,
        topic: &str,
        messages: &[PublishMessage],
        bodies: &[u8],
        turn: &mut Turn<'_>,
    ) {
        let Publish { conn, seq, producer, .. } = *publish;
        let topical = Topical { namespace: self.directory.at(client).namespace, topic, messages, bodies };
        match self.try_publish_to_topic(client, publish, topical, turn) {
            Ok(Some(handed)) => answer(conn, seq, topical, handed, turn),
            Ok(None) => {}
            Err(refused) => {
                if refused.code == RefusalCode::QueueFull
                    && self.turns_away(client)
                    && let Some(producer) = producer
                {
                    self.turn_away(client, producer);
                }
                self.refuse(conn, seq, messages.len(), bodies.len(), refused, turn);
            }
        }
    }

    /// `None` when it was parked.
    fn try_publish_to_topic(
        &mut self,
        client: u32,
        publish: &Publish,
        topical: Topical<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Option<HandedOn>, Refused> {
        topics::check_published(topical.topic, topical.messages, self.config.broadcast_bytes_max)?;
        if publish.acks > 0 {
            let text = "what is acked with a publish goes on in a queue: publish to a queue, not to a topic";
            return Err(refused(RefusalCode::Invalid, text.to_owned(), 0));
        }
        let wanted = self.wanted(topical)?;
        if let Some(producer) = publish.producer {
            match self.marks.verdict(topical.namespace, producer, publish.messages) {
                Verdict::Duplicate(first_id) => {
                    self.metrics.duplicates.inc();
                    let (subscribers, after) = (wanted.len() as u64, self.published_with(first_id));
                    return Ok(Some(HandedOn { first_id, subscribers, after }));
                }
                Verdict::New => {}
                _ if wanted.is_empty() => {}
                unusable => return Err(refuse_sequence(unusable, producer)),
            }
            if !wanted.is_empty() && self.follows_turned_away(client, producer) {
                return Err(self.nowhere_to_park());
            }
        }
        let judged = match self.parked_before(client, publish.seq) {
            Some(queue) if !wanted.is_empty() => Judged::Waits(queue, Met::waiting()),
            _ => self.judge_fanout(topical, publish.producer, wanted, Asker::Client, turn)?,
        };
        match judged {
            Judged::Admitted(admitted) => self.hand_on(topical, publish.producer, admitted, turn).map(Some),
            Judged::Waits(queue, met) if self.turns_away(client) => {
                self.limit_reached(queue, met.limit, "refused", turn);
                Err(self.nowhere_to_park())
            }
            Judged::Waits(queue, met) => {
                self.limit_reached(queue, met.limit, "wait", turn);
                let (messages, bodies) = (topical.messages.into(), topical.bodies.into());
                self.park(client, queue, publish, Asks { acks: [].into(), messages, bodies }, turn);
                // What it waits for may be a time, which is noted when the queue is served.
                self.mark_dirty(queue);
                Ok(None)
            }
        }
    }

    /// An operator's publish to a topic, which never waits.
    pub(super) fn operator_publish_to_topic(
        &mut self,
        topical: Topical<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<HandedOn, Refused> {
        topics::check_published(topical.topic, topical.messages, self.config.broadcast_bytes_max)?;
        let wanted = self.wanted(topical)?;
        match self.judge_fanout(topical, None, wanted, Asker::Operator, turn)? {
            Judged::Admitted(admitted) => self.hand_on(topical, None, admitted, turn),
            Judged::Waits(..) => Err(self.nowhere_to_park()),
        }
    }

    /// A parked publish to a topic is at the head of its queue's line. Returns what it met if it stays there.
    pub(super) fn retry_fanout(&mut self, parked: u32, turn: &mut Turn<'_>) -> Option<Met> {
        let entry = &mut self.parked[parked as usize];
        let (client, queue, publish) = (entry.client, entry.queue, entry.publish.clone());
        if let Err(met) = self.may_go_first(queue) {
            return Some(met);
        }
        // What it takes is given back before it is looked at again.
        let asks = std::mem::take(&mut self.parked[parked as usize].asks);
        let namespace = self.directory.at(client).namespace;
        let topic = publish.queue.topic().unwrap_or_default();
        let topical = Topical { namespace, topic, messages: &asks.messages, bodies: &asks.bodies };
        let handed = match self.parked_before(client, publish.seq) {
            // Also where that is this line: it goes behind.
            Some(queue) => Ok(Err((queue, None))),
            None => self.hand_on_parked(topical, publish.producer, turn),
        };
        let (messages, bytes) = (asks.messages.len(), asks.bodies.len());
        self.parked[parked as usize].asks = asks;
        // A bound of the namespace can be waited for in any queue's line.
        if let Ok(Err((other, Some(met)))) = handed
            && (other == queue || met.is_of_namespace())
        {
            return Some(met);
        }
        let mut parked = self.unpark(parked);
        match handed {
            Ok(Err((other, _))) => {
                parked.queue = other;
                self.insert_parked(parked, turn);
                if other != queue {
                    self.mark_dirty(other);
                }
            }
            Ok(Ok(handed)) => {
                let Asks { messages, bodies, .. } = &parked.asks;
                let topical = Topical { namespace, topic, messages, bodies };
                answer(publish.conn, publish.seq, topical, handed, turn);
            }
            Err(refused) => self.refuse(publish.conn, publish.seq, messages, bytes, refused, turn),
        }
        None
    }

    /// Hands on what has waited, or says which queue it waits for.
    fn hand_on_parked(
        &mut self,
        topical: Topical<'_>,
        producer: Option<ProducerSequence>,
        turn: &mut Turn<'_>,
    ) -> Result<Result<HandedOn, (u32, Option<Met>)>, Refused> {
        let wanted = self.wanted(topical)?;
        match self.judge_fanout(topical, producer, wanted, Asker::Parked, turn)? {
            Judged::Admitted(admitted) => self.hand_on(topical, producer, admitted, turn).map(Ok),
            Judged::Waits(queue, met) => Ok(Err((queue, Some(met)))),
        }
    }

    /// The queue in whose line the client's last publish to a topic before `seq` waits, if one does.
    fn parked_before(&self, client: u32, seq: u64) -> Option<u32> {
        let parked = &self.directory.at(client).rest.as_ref()?.parked;
        let topical = parked.iter().map(|&parked| &self.parked[parked as usize]);
        let before =
            topical.filter(|parked| parked.publish.queue.topic().is_some() && parked.publish.seq < seq);
        before.max_by_key(|parked| parked.publish.seq).map(|parked| parked.queue)
    }

    fn wanted(&self, topical: Topical<'_>) -> Result<Vec<Wanted>, Refused> {
        self.bindings.wanted(topical.namespace, topical.topic, topical.messages, topical.bodies)
    }

    /// Where messages go now, or which queue they wait for. `wanted` may be nothing.
    pub(super) fn judge_fanout(
        &mut self,
        topical: Topical<'_>,
        producer: Option<ProducerSequence>,
        mut wanted: Vec<Wanted>,
        from: Asker,
        turn: &mut Turn<'_>,
    ) -> Result<Judged, Refused> {
        topics::check_kept(topical.messages, &wanted)?;
        let mut admitted = Admitted::default();
        if wanted.is_empty() {
            return Ok(Judged::Admitted(admitted));
        }
        self.check_disk(topical.namespace, topical.topic, turn)?;
        self.judge_producer(topical.namespace, producer)?;
        let copies = wanted.len() * topical.messages.len();
        if wanted.len() > FANOUT_QUEUES_MAX || copies > FANOUT_MESSAGES_MAX {
            let text = format!(
                "{} messages for {} queues are more than one publish to a topic may be: {FANOUT_QUEUES_MAX} queues, and \
                 {FANOUT_MESSAGES_MAX} messages in all of them",
                topical.messages.len(),
                wanted.len()
            );
            return Err(refused(RefusalCode::LimitReached, text, 0));
        }
        wanted.sort_by_key(|wanted| !wanted.waits);
        let wanted = self.drop_all_known(topical, wanted, &mut admitted, from, turn)?;
        let waiting = wanted.iter().filter(|wanted| !from.may_miss(wanted));
        let (count, bytes) = waiting.map(|wanted| wanted.sums(topical.messages)).fold((0, 0), plus);
        if let Some(never) = self.never_fits_namespace(topical.namespace, count, bytes) {
            return Err(of_topic(never, topical));
        }
        for wanted in wanted {
            match self.judge_target(topical, &wanted, admitted.sums, from, turn)? {
                Space::Fits(queue, doomed) => {
                    admitted.sums = plus(admitted.sums, wanted.sums(topical.messages));
                    admitted.doomed.extend(doomed.map(|doomed| (queue, doomed)));
                    admitted.targets.push((queue, wanted));
                }
                Space::Misses(met) => admitted.missed.push((wanted, met)),
                Space::Waits(queue, met) => return Ok(Judged::Waits(queue, met)),
            }
        }
        Ok(Judged::Admitted(admitted))
    }

    /// Leaves away what queues have already by its deduplication ids. Returns what is left, for queues that can remember
    /// the others.
    fn drop_all_known(
        &mut self,
        topical: Topical<'_>,
        wanted: Vec<Wanted>,
        admitted: &mut Admitted,
        from: Asker,
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Wanted>, Refused> {
        let digests = digests(topical.messages, topical.bodies);
        if digests.is_empty() {
            return Ok(wanted);
        }
        let mut left = Vec::with_capacity(wanted.len());
        for mut wanted in wanted {
            match self.drop_known(&digests, &mut wanted, admitted, topical.namespace, turn) {
                Ok(()) if wanted.takes.contains(&1) => left.push(wanted),
                Ok(()) => admitted.had += 1,
                Err(_) if from.may_miss(&wanted) => admitted.missed.push((wanted, None)),
                Err(refused) => return Err(refused),
            }
        }
        Ok(left)
    }

    /// The same of one queue.
    ///
    /// # Errors
    /// The queue can remember no more of them.
    fn drop_known(
        &mut self,
        digests: &[Option<Digest>],
        wanted: &mut Wanted,
        admitted: &mut Admitted,
        namespace: NamespaceId,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refused> {
        let found = self.queues.find(namespace, &wanted.to);
        let mut new = BTreeSet::new();
        for (takes, digest) in wanted.takes.iter_mut().zip(digests).filter(|(takes, _)| **takes > 0) {
            let Some(digest) = digest else { continue };
            let known = found.and_then(|queue| self.known_in(queue, digest, turn.now.time));
            if let Some(id) = known {
                let (first, newest) = admitted.known.unwrap_or((id, id));
                admitted.known = Some((first, newest.max(id)));
            }
            if known.is_some() || !new.insert(digest) {
                *takes = 0;
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        self.judge_more_ids(found, &wanted.to, new.len() as u64, turn)
    }

    /// What a queue says to its copies, when `beside` go to others.
    fn judge_target(
        &mut self,
        topical: Topical<'_>,
        wanted: &Wanted,
        beside: (u64, u64),
        from: Asker,
        turn: &mut Turn<'_>,
    ) -> Result<Space, Refused> {
        let may_miss = from.may_miss(wanted);
        let sums = wanted.sums(topical.messages);
        let queue = match self.queues.open(topical.namespace, &wanted.to, Some(&self.config)) {
            Ok(queue) => queue,
            Err(_) if may_miss => return Ok(Space::Misses(None)),
            Err(full) => return Err(self.names_full(full)),
        };
        if self.queues.at(queue).is_idle() {
            // It is closed again at the end of this call if it takes nothing. One that is waited for must not be served again
            // on that account: nothing has changed for it.
            self.mark_dirty(queue);
        }
        if let Some(never) = self.never_fits(queue, sums.0, sums.1) {
            return if may_miss { Ok(Space::Misses(None)) } else { Err(of_topic(never, topical)) };
        }
        let now = turn.now.time;
        let entered = self.may_enter_beside(queue, sums, beside, from == Asker::Parked, now);
        let Err(mut met) = entered else { return Ok(Space::Fits(queue, None)) };
        let when_full = self.queues.at(queue).rules(&self.config).when_full;
        if when_full == WhenFull::DeadLetterOldest && from != Asker::System {
            match self.doomed(queue, sums, beside, met, now) {
                Ok(doomed) => return Ok(Space::Fits(queue, Some(doomed))),
                Err(instead) => met = instead,
            }
        }
        if may_miss {
            return Ok(Space::Misses(Some((queue, met))));
        }
        if matches!(from, Asker::Client | Asker::Parked) && when_full == WhenFull::Wait {
            return Ok(Space::Waits(queue, met));
        }
        self.limit_reached(queue, met.limit, "refused", turn);
        Err(of_topic(self.refuse_full(queue, met, now), topical))
    }

    /// Puts messages on the queues that have room for them, and tells who is connected.
    ///
    /// # Errors
    /// None is kept, and as many broadcasts as may be are on their way. Where some are kept, who is connected misses them.
    pub(super) fn hand_on(
        &mut self,
        topical: Topical<'_>,
        producer: Option<ProducerSequence>,
        admitted: Admitted,
        turn: &mut Turn<'_>,
    ) -> Result<HandedOn, Refused> {
        let Topical { namespace, topic, messages, bodies } = topical;
        for (missed, limit) in &admitted.missed {
            self.bindings.count(missed, false);
            self.metrics.fanout_missed.add(missed.sums(messages).0);
            if let Some((queue, met)) = limit
                && !pattern::is_system(topic)
            {
                self.limit_reached(*queue, met.limit, "missed", turn);
            }
        }
        if admitted.targets.is_empty() {
            let (first_id, newest) = admitted.known.unwrap_or_default();
            let after = if newest > 0 { self.published_with(newest) } else { Ticket::DURABLE };
            let connected = self.broadcast(namespace, topic, messages, bodies, after, turn)?;
            return Ok(HandedOn { first_id, subscribers: connected + admitted.had, after });
        }
        for (queue, doomed) in admitted.doomed {
            self.let_die(queue, doomed, turn);
        }
        admitted.targets.iter().for_each(|(_, wanted)| self.bindings.count(wanted, true));
        let first_id = self.admit_copies(topical, producer, &admitted.targets, turn);
        let after = turn.journal.open_ticket();
        let connected = self.broadcast(namespace, topic, messages, bodies, after, turn).unwrap_or(0);
        Ok(HandedOn {
            first_id,
            subscribers: connected + admitted.had + admitted.targets.len() as u64,
            after,
        })
    }
}

fn plus(sums: (u64, u64), more: (u64, u64)) -> (u64, u64) {
    (sums.0 + more.0, sums.1 + more.1)
}

/// Why a publish to a topic is refused on account of a queue.
fn of_topic(because: Refused, topical: Topical<'_>) -> Refused {
    Refused { text: format!("{}; topic/{} is bound to it", because.text, topical.topic), ..because }
}

/// Answers a publish to a topic.
fn answer(conn: ConnKey, seq: u64, topical: Topical<'_>, handed: HandedOn, turn: &mut Turn<'_>) {
    let (messages, bytes) = (topical.messages.len() as u32, topical.bodies.len() as u32);
    let HandedOn { first_id, subscribers, after } = handed;
    let first_id = MessageId(first_id);
    let answer = Broadcasted { conn, seq, messages, bytes, first_id, subscribers };
    turn.outbox.push(after, Effect::Broadcasted(answer), &[]);
}
