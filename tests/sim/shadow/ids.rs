//! Deduplication ids at the shard's door: what was kept under one id, and that no two messages were within its window.

use std::collections::BTreeMap;

use relaymesh::clock::Time;
use relaymesh::ids::{Namespace, QueueName};

/// An id of a queue.
type Group = (Namespace, QueueName, String);

/// A message that was kept under an id.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// It was kept no earlier and no later than that.
    from: Time,
    until: Time,
}

#[derive(Debug, Default)]
struct Known {
    /// When each message with this id was first given to the shard.
    applied: BTreeMap<u64, Time>,
    /// Which message of the queue it is, or was answered with.
    resolved: BTreeMap<u64, u64>,
    kept: BTreeMap<u64, Kept>,
}

/// All ids.
#[derive(Debug)]
pub(super) struct Ids {
    window_ms: u64,
    groups: BTreeMap<Group, Known>,
    of: BTreeMap<u64, Group>,
    latest: Time,
}

impl Ids {
    pub(super) fn new(window_ms: u64) -> Self {
        Self { window_ms, groups: BTreeMap::new(), of: BTreeMap::new(), latest: Time(0) }
    }

    /// The shard is given the message `key` with an id.
    pub(super) fn applied(&mut self, key: u64, group: Group, now: Time) {
        self.latest = self.latest.max(now);
        let applied = &mut self.groups.entry(group.clone()).or_default().applied;
        let first = applied.entry(key).or_insert(now);
        *first = (*first).min(now);
        self.of.insert(key, group);
    }

    pub(super) fn has(&self, key: u64) -> bool {
        self.of.contains_key(&key)
    }

    /// The message `key` was delivered as `id`, or answered with it.
    pub(super) fn seen(&mut self, key: u64, id: u64, now: Time) {
        self.latest = self.latest.max(now);
        let (Some(group), latest) = (self.of.get(&key), self.latest) else { return };
        let known = self.groups.get_mut(group).expect("it was made with the key");
        known.resolved.insert(key, id);
        if known.kept.contains_key(&id) {
            return;
        }
        // Whose publish it is may not be known: the earliest of those that are not another's.
        let may_be_its = |key: &u64| known.resolved.get(key).is_none_or(|other| *other == id);
        let from = known.applied.iter().filter(|(key, _)| may_be_its(key)).map(|(_, at)| *at).min();
        let kept = Kept { from: from.unwrap_or(latest), until: latest };
        let earlier = known.kept.range(..id).next_back();
        let later = known.kept.range(id..).next();
        let pairs =
            [earlier.map(|(other, of)| (*other, *of, kept)), later.map(|(other, of)| (*other, kept, *of))];
        for (other, first, second) in pairs.into_iter().flatten() {
            let opens = Time(first.from.0 + self.window_ms);
            assert!(
                second.until >= opens,
                "the deduplication id {group:?} was kept twice within its window, as {other} and {id}: {first:?}, {second:?}"
            );
        }
        known.kept.insert(id, kept);
    }

    /// As [`Ledger::take_back`](super::Ledger::take_back): what was said may be lost, and said anew.
    pub(super) fn take_back(&mut self) {
        for known in self.groups.values_mut() {
            known.kept.clear();
            known.resolved.clear();
        }
    }
}
