//! Every message, as those who published it and those who worked on it know it.

use std::collections::{BTreeMap, BTreeSet};

use relaymesh::client::Settlement;
use relaymesh::ids::{LeaseId, MessageId};
use relaymesh::mail::DeadLetter;

use crate::actors::Operator;
use crate::plan::Plan;

type FullName = (relaymesh::ids::Namespace, relaymesh::ids::QueueName);

/// What is known of a message when it is published.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Its number in this world; no two messages share one.
    pub(crate) key: u64,
    pub(crate) queue: FullName,
    pub(crate) attempts_max: u32,
    pub(crate) can_expire: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
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
struct Entry {
    facts: Facts,
    fate: Fate,
    id: Option<MessageId>,
    delivered: bool,
    /// Acked, as the server said: by this lease.
    acked: Option<LeaseId>,
    /// Acked, whether or not an answer came.
    ack_sent: bool,
    /// Nacked, as the server said: by these attempts.
    nacked: BTreeSet<(u32, u32)>,
    rejected: Option<(u32, u32)>,
    reject_sent: bool,
    /// A redrive that may have caught it.
    redriven: u32,
    purged: bool,
    in_dead_letters: bool,
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
    entries: BTreeMap<u64, Entry>,
    keys: BTreeMap<u64, u64>,
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
        let dead_max = plan.queue.work_queue.messages_max.min(plan.queue.mailbox.messages_max);
        Self {
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            claims: Vec::new(),
            deliveries: 0,
            in_parts: 0,
            dead_max,
        }
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
            let entry = self.entry(key);
            assert_eq!(entry.fate, Fate::Unanswered, "message {key} was answered twice");
            entry.fate = Fate::Answered;
            self.claims.push(Claim::Answered(key));
            self.identify(key, MessageId(id));
        }
    }

    pub(crate) fn refused(&mut self, keys: &[u64]) {
        for &key in keys {
            let entry = self.entry(key);
            assert!(!entry.delivered, "message {key} was delivered and its publish refused");
            entry.fate = Fate::Refused;
        }
    }

    pub(crate) fn abandoned(&mut self, keys: &[u64]) {
        keys.iter().for_each(|&key| self.entry(key).fate = Fate::Abandoned);
    }

    /// The server gave the message this id, once.
    fn identify(&mut self, key: u64, id: MessageId) {
        let entry = self.entry(key);
        if entry.id.is_none() {
            self.claims.push(Claim::Identified(key));
        }
        let entry = self.entry(key);
        let known = *entry.id.get_or_insert(id);
        assert_eq!(known, id, "message {key} is in the queue twice: a re-send was doubled");
        let owner = *self.keys.entry(id.0).or_insert(key);
        assert_eq!(owner, key, "messages {owner} and {key} have the same id {id}");
    }

    /// A message reached a consumer.
    pub(crate) fn delivered(&mut self, key: u64, queue: &FullName, lease: LeaseId) {
        self.deliveries += 1;
        self.identify(key, lease.message);
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

    /// An operator redrives: whatever dies in this queue may have another life.
    pub(crate) fn redriving(&mut self, queue: &FullName, id: Option<u64>) {
        for entry in self.entries.values_mut() {
            // One that was redriven elsewhere before may be anywhere.
            let is_there = entry.facts.queue == *queue || entry.redriven > 0;
            let is_meant = id.is_none_or(|id| entry.id.is_none_or(|own| own.0 == id));
            entry.redriven += u32::from(is_there && is_meant);
        }
    }

    pub(crate) fn purging(&mut self, id: u64) {
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
        self.check_dead(key, row);
    }

    /// And its body.
    pub(crate) fn dead_shown(&mut self, key: u64, queue: &FullName, row: &DeadLetter) {
        self.identify(key, MessageId(row.id));
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
        for (key, entry) in &self.entries {
            match entry.fate {
                Fate::Unanswered => panic!("the publish of message {key} was never answered"),
                Fate::Answered => {
                    let may_be_forgotten = forgets.contains(&entry.facts.queue);
                    let is_accounted_for =
                        entry.ack_sent || entry.in_dead_letters || entry.purged || may_be_forgotten;
                    assert!(is_accounted_for, "message {key} is lost: {entry:?}");
                }
                Fate::Refused | Fate::Abandoned => {}
            }
        }
    }

    /// Queues that had so many messages, each of which may have died, that the oldest dead letters were forgotten.
    fn forgetful_queues(&self) -> BTreeSet<FullName> {
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
