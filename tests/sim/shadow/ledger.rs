//! Every message, as those who published it and those who worked on it know it.

use std::collections::{BTreeMap, BTreeSet};

use relaymesh::client::Settlement;
use relaymesh::ids::{LeaseId, MessageId, Namespace, QueueName};
use relaymesh::mail::{DeadLetter, DeadSelection};

use super::bound::{Attributes, Bound};
use super::deaths::Deaths;
use super::timed::Timed;
use crate::actors::Operator;
use crate::plan::Plan;

pub(super) type FullName = (Namespace, QueueName);

/// The first key of what has none of its own: copies for queues of a topic, messages of schedules.
const OWN_KEYS: u64 = 1 << 48;

/// What is known of a message when it is published.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Its number in this world; no two messages share one.
    pub(crate) key: u64,
    pub(crate) queue: FullName,
    pub(crate) attempts_max: u32,
    pub(crate) can_expire: bool,
    /// Its deduplication id.
    pub(crate) dedup: Option<String>,
    /// Ready at once, for as long as it takes, whoever else is there.
    pub(crate) is_plain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody knows yet.
    Unanswered,
    /// On disk, as the server said.
    Answered,
    /// Not kept, as the server said.
    Refused,
    /// Its producer died before it was answered: it may be there once or not at all.
    Abandoned,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) facts: Facts,
    pub(super) fate: Fate,
    pub(super) id: Option<MessageId>,
    delivered: bool,
    /// Acked, as the server said: by this lease.
    acked: Option<LeaseId>,
    /// Acked, whether or not an answer came.
    pub(super) ack_sent: bool,
    /// Nacked, as the server said: by these attempts.
    nacked: BTreeSet<(u32, u32)>,
    rejected: Option<(u32, u32)>,
    pub(super) reject_sent: bool,
    /// A redrive that may have caught it.
    pub(super) redriven: u32,
    pub(super) purged: bool,
    in_dead_letters: bool,
}

impl Entry {
    /// What is selected of the dead letters of a queue is redriven; this message has that id, if any is known.
    fn redriving(&mut self, id: Option<MessageId>, queue: &FullName, selection: &DeadSelection) {
        // One that was redriven elsewhere before may be anywhere.
        let is_there = self.facts.queue == *queue || self.redriven > 0;
        let is_one = |ids: &[MessageId]| id.is_none_or(|own| ids.contains(&own));
        let is_meant = match selection {
            DeadSelection::All => true,
            DeadSelection::One(id) => is_one(&[*id]),
            DeadSelection::Ids(ids) => is_one(ids),
            DeadSelection::Matching(filter) => match filter.reason.as_deref() {
                Some("rejected") => self.reject_sent,
                Some("expired") => self.facts.can_expire,
                _ => true,
            },
        };
        self.redriven += u32::from(is_there && is_meant);
    }
}

/// Something the server said that a power loss may undo, where it says so before it syncs.
#[derive(Debug, Clone, Copy)]
enum Claim {
    Answered(u64),
    Identified(u64),
    Delivered(u64),
    Acked(u64),
    Nacked(u64, (u32, u32)),
    Rejected(u64),
}

/// All messages.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(super) entries: BTreeMap<u64, Entry>,
    /// Whose each id is: of those with one deduplication id, the one that was seen.
    pub(super) keys: BTreeMap<u64, u64>,
    pub(super) seen: BTreeMap<u64, u64>,
    pub(crate) bound: Bound,
    pub(crate) timed: Timed,
    pub(super) deaths: Deaths,
    next_own: u64,
    /// What operators redrove, and the latest that the wall clock had shown.
    redrives: Vec<(u64, FullName, DeadSelection)>,
    /// Attempts at messages of a work queue and of a mailbox.
    pub(super) attempts: (u32, u32),
    /// What was said since the first write that is not synced.
    claims: Vec<Claim>,
    pub(crate) deliveries: u64,
    /// Deliveries of messages larger than a frame.
    pub(crate) in_parts: u64,
    /// Dead letters that a queue keeps before it forgets the oldest.
    dead_max: u64,
}

/// When a lease began, among those of one message.
fn rank(lease: LeaseId) -> (u32, u32) {
    (lease.boot.0, lease.attempt)
}

impl Ledger {
    pub(crate) fn new(plan: &Plan) -> Self {
        let (work_queue, mailbox) = (&plan.queue.work_queue, &plan.queue.mailbox);
        let dead_max = work_queue.dead_messages_max.unwrap_or(work_queue.messages_max);
        let dead_max = dead_max.min(mailbox.dead_messages_max.unwrap_or(mailbox.messages_max));
        Self {
            seen: BTreeMap::new(),
            bound: Bound::default(),
            timed: Timed::default(),
            deaths: Deaths::new(plan),
            next_own: OWN_KEYS,
            redrives: Vec::new(),
            attempts: (work_queue.attempts_max, mailbox.attempts_max),
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            claims: Vec::new(),
            deliveries: 0,
            in_parts: 0,
            dead_max,
        }
    }

    /// Copies of topics' messages that were delivered.
    pub(crate) fn copies(&self) -> u64 {
        self.bound.copies.values().filter(|copy| self.entries[copy].delivered).count() as u64
    }

    /// Publishes that were answered with another's id.
    pub(crate) fn duplicates(&self) -> u64 {
        let is_anothers =
            |(key, entry): &(&u64, &Entry)| entry.id.is_some_and(|id| self.keys.get(&id.0) != Some(key));
        self.entries.iter().filter(is_anothers).count() as u64
    }

    pub(crate) fn overflowed(&self) -> u64 {
        self.deaths.overflowed.len() as u64
    }

    pub(crate) fn messages(&self) -> u64 {
        self.entries.len() as u64
    }

    /// All that was said so far holds, whatever happens.
    pub(crate) fn keep(&mut self) {
        self.claims.clear();
    }

    /// What was said since need not hold: it was lost, or it was not.
    pub(crate) fn take_back(&mut self) {
        for claim in std::mem::take(&mut self.claims) {
            match claim {
                Claim::Answered(key) => self.entry(key).fate = Fate::Abandoned,
                Claim::Identified(key) => self.entry(key).id = None,
                Claim::Delivered(key) => self.entry(key).delivered = false,
                Claim::Acked(key) => self.entry(key).acked = None,
                Claim::Nacked(key, attempt) => drop(self.entry(key).nacked.remove(&attempt)),
                Claim::Rejected(key) => self.entry(key).rejected = None,
            }
        }
        self.bound.take_back();
        for number in 0..self.bound.bindings.len() {
            // Its end may be among what was lost, and what is sent again finds it there.
            let binding = &self.bound.bindings[number];
            if binding.was_asked {
                let namespace = binding.namespace.clone();
                let open = self.bound.open_to(number);
                self.may_get(namespace, open);
            }
        }
        self.timed.take_back();
        self.forget_deaths();
    }

    /// The server died with all questions that it was asked.
    pub(crate) fn unanswered(&mut self) {
        self.bound.bindings.iter_mut().for_each(|binding| binding.stage.unanswered());
        self.timed.all.values_mut().for_each(|schedule| schedule.stage.unanswered());
    }

    /// A producer hands a message over that is for whoever is bound to a topic.
    pub(crate) fn handed_over(
        &mut self,
        key: u64,
        namespace: &Namespace,
        topic: usize,
        attributes: Attributes,
    ) {
        for queue in self.bound.handed_over(key, namespace, topic, attributes) {
            self.copy(key, (namespace.clone(), queue), Fate::Unanswered);
        }
    }

    /// A binding is asked for.
    pub(crate) fn binding(&mut self, number: usize) {
        let namespace = self.bound.bindings[number].namespace.clone();
        let open = self.bound.asking(number);
        self.may_get(namespace, open);
    }

    fn may_get(&mut self, namespace: Namespace, open: Vec<(u64, QueueName, bool)>) {
        for (key, queue, is_abandoned) in open {
            let fate = if is_abandoned { Fate::Abandoned } else { Fate::Unanswered };
            self.copy(key, (namespace.clone(), queue), fate);
        }
    }

    /// A queue may get a message of a topic.
    fn copy(&mut self, key: u64, queue: FullName, fate: Fate) {
        let place = (key, queue.1.clone());
        if self.bound.copies.contains_key(&place) {
            return;
        }
        let own = self.make_own(queue, fate);
        self.bound.copies.insert(place, own);
    }

    fn make_own(&mut self, queue: FullName, fate: Fate) -> u64 {
        let key = self.next_own;
        self.next_own += 1;
        let is_mailbox = queue.1.mailbox_owner().is_some();
        let attempts_max = if is_mailbox { self.attempts.1 } else { self.attempts.0 };
        let (dedup, is_plain) = (None, false);
        self.published(Facts { key, queue, attempts_max, can_expire: false, dedup, is_plain });
        self.entry(key).fate = fate;
        key
    }

    /// What becomes of a publish to a topic is known. Whether it is one.
    fn decide(&mut self, key: u64, fate: Fate) -> bool {
        let Some(fanout) = self.bound.fanouts.get_mut(&key) else { return false };
        fanout.is_abandoned = fate == Fate::Abandoned;
        fanout.is_decided = !fanout.is_abandoned;
        for (copy, must_be) in self.bound.copies_of(key) {
            let entry = self.entry(copy);
            assert!(
                fate != Fate::Refused || !entry.delivered,
                "message {key} was delivered from {:?} and its publish to a topic refused",
                entry.facts.queue
            );
            entry.fate = if fate == Fate::Answered && !must_be { Fate::Abandoned } else { fate };
            if entry.fate == Fate::Answered {
                self.claims.push(Claim::Answered(copy));
            }
        }
        true
    }

    /// The key of what came from a queue with `key` in its payload: a copy of a topic's message and a message of a schedule
    /// have others.
    pub(crate) fn key_in(&mut self, queue: &FullName, key: u64, id: MessageId, body: &[u8]) -> u64 {
        if self.bound.fanouts.contains_key(&key) {
            let copy = self.bound.copies.get(&(key, queue.1.clone())).copied();
            return copy.unwrap_or_else(|| {
                panic!("message {key} of a topic came to {queue:?}, and no binding took it there")
            });
        }
        let Some(schedule) = self.timed.all.get(&key) else { return key };
        let home = (schedule.namespace.clone(), schedule.queue.clone());
        let message = <relaymesh::wire::proto::Message as prost::Message>::decode(body);
        let message = message.expect("it was decoded before");
        let (own, new_for) = self.timed.fired(key, &message, self.next_own);
        if let Some(time) = new_for {
            let made = self.make_own(home, Fate::Abandoned);
            assert_eq!(made, own, "keys are given one by one");
            // It may have died, and been redriven, before anyone saw it.
            let redrives = std::mem::take(&mut self.redrives);
            for (_, from, selection) in redrives.iter().filter(|(until, ..)| time <= *until) {
                self.entry(own).redriving(Some(id), from, selection);
            }
            self.redrives = redrives;
        }
        own
    }

    fn entry(&mut self, key: u64) -> &mut Entry {
        self.entries.get_mut(&key).unwrap_or_else(|| panic!("message {key} was never published"))
    }

    fn of_lease(&mut self, lease: LeaseId) -> &mut Entry {
        let key = self.keys.get(&lease.message.0).copied();
        let key = key.unwrap_or_else(|| panic!("{lease:?} was settled and never delivered"));
        self.entry(key)
    }

    /// Whether a consumer ever acked the message, answered or not.
    pub(crate) fn is_ack_sent(&self, key: u64) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.ack_sent)
    }

    /// A producer hands a message to its session.
    pub(crate) fn published(&mut self, facts: Facts) {
        let entry = Entry {
            fate: Fate::Unanswered,
            id: None,
            delivered: false,
            acked: None,
            ack_sent: false,
            nacked: BTreeSet::new(),
            rejected: None,
            reject_sent: false,
            redriven: 0,
            purged: false,
            in_dead_letters: false,
            facts,
        };
        self.entries.insert(entry.facts.key, entry);
    }

    /// The publish is on disk, says the server: the messages have ids from `first_id` on.
    pub(crate) fn answered(&mut self, keys: &[u64], first_id: MessageId) {
        for (&key, id) in keys.iter().zip(first_id.0..) {
            if self.decide(key, Fate::Answered) {
                continue;
            }
            let entry = self.entry(key);
            assert_eq!(entry.fate, Fate::Unanswered, "message {key} was answered twice");
            entry.fate = Fate::Answered;
            self.claims.push(Claim::Answered(key));
            self.identify(key, MessageId(id), false);
        }
    }

    pub(crate) fn refused(&mut self, keys: &[u64]) {
        for &key in keys {
            if self.decide(key, Fate::Refused) {
                continue;
            }
            let entry = self.entry(key);
            assert!(!entry.delivered, "message {key} was delivered and its publish refused");
            entry.fate = Fate::Refused;
        }
    }

    pub(crate) fn abandoned(&mut self, keys: &[u64]) {
        for &key in keys {
            if !self.decide(key, Fate::Abandoned) {
                self.entry(key).fate = Fate::Abandoned;
            }
        }
    }

    /// The server gave the message this id, once; or, as an answer, the id of another one with its deduplication id.
    fn identify(&mut self, key: u64, id: MessageId, is_seen: bool) {
        let entry = self.entry(key);
        if entry.id.is_none() {
            self.claims.push(Claim::Identified(key));
        }
        let entry = self.entry(key);
        let known = *entry.id.get_or_insert(id);
        assert_eq!(known, id, "message {key} is in the queue twice: a re-send was doubled");
        let owner = *self.keys.entry(id.0).or_insert(key);
        let (one, other) = (&self.entries[&owner].facts, &self.entries[&key].facts);
        let is_same =
            owner == key || (one.dedup.is_some() && (&one.dedup, &one.queue) == (&other.dedup, &other.queue));
        assert!(is_same, "messages {owner} and {key} have the same id {id}");
        if is_seen {
            let first = *self.seen.entry(id.0).or_insert(key);
            assert_eq!(first, key, "{id} is message {first}, and then message {key}");
            self.keys.insert(id.0, key);
        }
    }

    /// A message reached a consumer.
    pub(crate) fn delivered(&mut self, key: u64, queue: &FullName, lease: LeaseId) {
        self.deliveries += 1;
        self.identify(key, lease.message, true);
        let entry = self.entry(key);
        assert_ne!(entry.fate, Fate::Refused, "message {key} was refused and then delivered");
        assert_eq!(entry.facts.queue.0, queue.0, "message {key} left its namespace");
        let is_home = entry.facts.queue == *queue || entry.redriven > 0;
        assert!(
            is_home,
            "message {key} was published to {:?} and delivered from {queue:?}",
            entry.facts.queue
        );
        if let Some(acked) = entry.acked {
            assert!(
                rank(lease) <= rank(acked),
                "message {key} was acked under {acked:?}, the ack answered, and delivered again under {lease:?}"
            );
        }
        let allowed = entry.facts.attempts_max * (1 + entry.redriven);
        if let Some(&last) = entry.nacked.last()
            && rank(lease) > last
        {
            let failed = entry.nacked.len();
            assert!(
                failed < allowed as usize,
                "message {key} failed {failed} times, may be tried {allowed} times and was delivered again"
            );
        }
        if let Some(rejected) = entry.rejected {
            assert!(
                rank(lease) <= rejected || entry.redriven > 0,
                "message {key} was rejected for good and delivered again under {lease:?}"
            );
        }
        if !std::mem::replace(&mut entry.delivered, true) {
            self.claims.push(Claim::Delivered(key));
        }
    }

    /// A consumer is about to ack or nack.
    pub(crate) fn settling(&mut self, lease: LeaseId, settlement: &Settlement) {
        let entry = self.of_lease(lease);
        match settlement {
            Settlement::Ack => entry.ack_sent = true,
            Settlement::Nack { reject, .. } => entry.reject_sent |= reject,
            Settlement::Extend { .. } => {}
        }
    }

    /// The server answered an ack, nack or extension.
    pub(crate) fn settled(&mut self, lease: LeaseId, settlement: &Settlement, is_lost: bool, _resent: bool) {
        if is_lost {
            return;
        }
        let entry = self.of_lease(lease);
        let key = entry.facts.key;
        match settlement {
            Settlement::Ack => {
                let before = entry.acked.replace(lease);
                let first = before.unwrap_or(lease);
                assert_eq!(
                    rank(first),
                    rank(lease),
                    "message {key} was acked twice, the second time by {lease:?}"
                );
                if before.is_none() {
                    self.claims.push(Claim::Acked(key));
                }
            }
            Settlement::Nack { reject, .. } => {
                let after_ack = entry.acked.is_some_and(|acked| rank(acked) < rank(lease));
                assert!(!after_ack, "message {key} was acked and then nacked under {lease:?}");
                if *reject {
                    entry.rejected = Some(rank(lease));
                    self.claims.push(Claim::Rejected(key));
                }
                if self.entry(key).nacked.insert(rank(lease)) {
                    self.claims.push(Claim::Nacked(key, rank(lease)));
                }
            }
            Settlement::Extend { .. } => {}
        }
    }

    /// An operator redrives: whatever dies in this queue and is selected may have another life.
    pub(crate) fn redriving(&mut self, queue: &FullName, selection: &DeadSelection) {
        self.deaths.any_redriven = true;
        self.entries.values_mut().for_each(|entry| entry.redriving(entry.id, queue, selection));
        self.redrives.push((self.timed.wall_max, queue.clone(), selection.clone()));
    }

    pub(crate) fn purging(&mut self, id: u64) {
        self.deaths.any_purged = true;
        if let Some(&key) = self.keys.get(&id) {
            self.entry(key).purged = true;
        } else {
            // Not known by its id: any of those that were never delivered.
            let unknown = self.entries.values_mut().filter(|entry| entry.id.is_none());
            unknown.for_each(|entry| entry.purged = true);
        }
    }

    /// An operator sees a dead letter.
    pub(crate) fn dead_seen(&mut self, queue: &FullName, row: &DeadLetter) {
        assert_eq!(row.queue, queue.1.as_str(), "a dead letter of another queue");
        let Some(&key) = self.keys.get(&row.id) else { return };
        if self.entries[&key].facts.dedup.is_some() && !self.seen.contains_key(&row.id) {
            // It may be another one with its deduplication id.
            return;
        }
        self.check_dead(key, row);
    }

    /// And its body.
    pub(crate) fn dead_shown(&mut self, key: u64, queue: &FullName, row: &DeadLetter) {
        self.identify(key, MessageId(row.id), true);
        assert_eq!(self.entry(key).facts.queue.0, queue.0, "dead letter {key} left its namespace");
        self.check_dead(key, row);
    }

    fn check_dead(&mut self, key: u64, row: &DeadLetter) {
        let entry = self.entry(key);
        assert_ne!(entry.fate, Fate::Refused, "message {key} was refused and is a dead letter");
        assert!(
            entry.acked.is_none(),
            "message {key} was acked, the ack answered, and is a dead letter: {row:?}"
        );
        match row.reason {
            "attempts" => {
                let max = entry.facts.attempts_max;
                assert!(
                    row.attempts >= max,
                    "message {key} died of {} attempts, {max} are allowed",
                    row.attempts
                );
            }
            "expired" => assert!(entry.facts.can_expire, "message {key} expired and has no time to live"),
            "rejected" => assert!(entry.reject_sent, "nobody rejected message {key}"),
            "overflow" if self.deaths.oldest_dies => _ = self.deaths.overflowed.insert(row.id),
            other => panic!("message {key} died of {other}, which no queue here does"),
        }
    }

    /// Nothing is on its way any more: every message must be where its story says. `operator` has just been shown
    /// every dead letter.
    pub(crate) fn check_all(&mut self, operator: &Operator) {
        self.entries.values_mut().for_each(|entry| entry.in_dead_letters = false);
        for (_, key, _) in &operator.shown {
            self.entry(*key).in_dead_letters = true;
        }
        let forgets = self.forgetful_queues();
        let any_forgotten = self.deaths.ttl_ms.is_some() && self.may_unseen_have_died();
        let is_complete = forgets.is_empty() && !self.deaths.any_purged && !any_forgotten;
        self.timed.check(self.is_wall_steady(), is_complete);
        for (key, entry) in &self.entries {
            match entry.fate {
                Fate::Unanswered => panic!("the publish of message {key} was never answered"),
                Fate::Answered => {
                    // One whose deduplication id was known is another one.
                    let owner = entry.id.and_then(|id| self.keys.get(&id.0)).unwrap_or(key);
                    let entry = &self.entries[owner];
                    let is_kept_no_longer = self.deaths.ttl_ms.is_some() && self.may_have_died(*owner);
                    let may_be_forgotten = forgets.contains(&entry.facts.queue) || is_kept_no_longer;
                    let is_accounted_for =
                        entry.ack_sent || entry.in_dead_letters || entry.purged || may_be_forgotten;
                    assert!(is_accounted_for, "message {key} is lost: {entry:?}");
                }
                Fate::Refused | Fate::Abandoned => {}
            }
        }
    }

    /// Queues that had so many messages, each of which may have died, that the oldest dead letters were forgotten.
    pub(super) fn forgetful_queues(&self) -> BTreeSet<FullName> {
        let mut mortal: BTreeMap<FullName, u64> = BTreeMap::new();
        let any_redriven = self.entries.values().any(|entry| entry.redriven > 0);
        for entry in self.entries.values() {
            *mortal.entry(entry.facts.queue.clone()).or_default() += 1;
        }
        let total: u64 = mortal.values().sum();
        // What is redriven elsewhere may die there.
        let is_forgetful =
            |count: u64| if any_redriven { total > self.dead_max } else { count > self.dead_max };
        mortal.into_iter().filter(|(_, count)| is_forgetful(*count)).map(|(queue, _)| queue).collect()
    }
}
