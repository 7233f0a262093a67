//! What was published under which deduplication id, so that the same id is not kept twice within its queue's window.
//!
//! Each queue has a table of its own, from an id's digest to the message that was published with it. It remembers an id for
//! the window from the publish on, in shard time, whatever becomes of the message. An id keeps a few bytes of the record
//! that published it alive, and no body; compaction writes it anew as a record of its own. An entry takes 48 bytes and its
//! place in the index 6 to 11, however long the id is; the lists double as they grow, and shrink as they empty.
//!
//! The window of a queue being constant, ids expire in the order they were published in. Where it was shortened, younger
//! ids are no longer known once they have expired, but keep their place until those before them have.

use std::collections::{BTreeSet, VecDeque};
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::clock::Time;
use crate::log::Position;
use crate::mail::{PublishMessage, RefusalCode, Refused};
use crate::message::message_options;
use crate::queue::queues::NamespaceId;
use crate::queue::record::{self, DedupRecord, Digest, PublishRecord};
use crate::queue::{Brain, Held, Turn, refused, release};

/// Ids forgotten in one call, so that the others do not wait for a million of them.
const FORGOTTEN_AT_ONCE: usize = 1024;
/// Ids that expire within so many milliseconds are forgotten together.
const FORGET_EVERY_MS: u64 = 250;
/// A list with room for more than this is made smaller once it is a quarter full.
const KEPT_ROOM: usize = 1024;

/// One remembered id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) digest: Digest,
    /// The message that was published with it.
    pub(super) id: u64,
    pub(super) expires: Time,
    /// The record that proves it.
    pub(super) position: Position,
    /// Bytes of that record kept alive for it.
    pub(super) charge: u32,
}

const _: () = assert!(size_of::<Entry>() <= 48);

/// The ids of one queue.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// In the order they were published in; an entry that another one of the same id has replaced holds nothing.
    ring: VecDeque<Entry>,
    /// Numbers of the newest entry of each id.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Number of the ring's first entry; the others follow by 1, and around.
    first: u32,
}

impl Ids {
    fn at(&self, number: u32) -> &Entry {
        &self.ring[number.wrapping_sub(self.first) as usize]
    }

    fn find(&self, digest: &Digest) -> Option<&Entry> {
        let hash = self.hasher.hash_one(digest);
        self.index.find(hash, |&number| self.at(number).digest == *digest).map(|&number| self.at(number))
    }

    /// The message that was published with this id, as far as it is remembered.
    fn known(&self, digest: &Digest, now: Time) -> Option<u64> {
        self.find(digest).filter(|entry| entry.expires > now).map(|entry| entry.id)
    }

    /// Remembers an id in place of what was known of it. Returns what that kept alive.
    fn insert(&mut self, entry: Entry) -> Held {
        let number = self.first.wrapping_add(self.ring.len() as u32);
        let hash = self.hasher.hash_one(entry.digest);
        let Self { ring, index, hasher, first } = self;
        let at = |number: u32| number.wrapping_sub(*first) as usize;
        let Some(known) = index.find_mut(hash, |&known| ring[at(known)].digest == entry.digest) else {
            index.insert_unique(hash, number, |&known| hasher.hash_one(ring[at(known)].digest));
            ring.push_back(entry);
            return Held::default();
        };
        let old = &mut ring[at(*known)];
        // Only a replay comes to an id a second time, or to an older message after a newer one.
        if old.id > entry.id {
            return Held::default();
        }
        let freed = Held { position: old.position, len: std::mem::take(&mut old.charge) };
        if old.id == entry.id {
            *old = entry;
        } else {
            *known = number;
            ring.push_back(entry);
        }
        freed
    }

    /// Forgets up to `most` ids that expired by `now`; hands what they kept alive to `release`. Returns how many.
    fn forget(&mut self, now: Time, most: usize, mut release: impl FnMut(Held)) -> usize {
        let mut forgotten = 0;
        while forgotten < most && self.ring.front().is_some_and(|entry| entry.expires <= now) {
            let Some(entry) = self.ring.pop_front() else { break };
            let number = self.first;
            self.first = number.wrapping_add(1);
            if let Ok(found) =
                self.index.find_entry(self.hasher.hash_one(entry.digest), |&found| found == number)
            {
                found.remove();
            }
            release(Held { position: entry.position, len: entry.charge });
            forgotten += 1;
        }
        if self.ring.capacity() > KEPT_ROOM && self.ring.len() < self.ring.capacity() / 4 {
            self.ring.shrink_to(2 * self.ring.len());
            let Self { ring, index, hasher, first } = self;
            index.shrink_to(2 * ring.len(), |&number| {
                hasher.hash_one(ring[number.wrapping_sub(*first) as usize].digest)
            });
        }
        forgotten
    }

    /// After a replay, which finds what compaction wrote anew behind what is younger: the order of time again, without
    /// what has expired by `now`.
    fn put_in_order(&mut self, now: Time) {
        let newest = |(at, entry): (usize, &Entry)| {
            let number = self.first.wrapping_add(at as u32);
            let hash = self.hasher.hash_one(entry.digest);
            let is_newest = self.index.find(hash, |&found| found == number).is_some();
            (is_newest && entry.expires > now).then_some(*entry)
        };
        let mut entries: Vec<Entry> = self.ring.iter().enumerate().filter_map(newest).collect();
        entries.sort_by_key(|entry| (entry.expires, entry.id));
        *self = Self::default();
        for entry in entries {
            let _ = self.insert(entry);
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.ring.iter()
    }

    pub(super) fn check(&self) {
        assert!(self.index.len() <= self.ring.len(), "more ids than entries");
        for (at, entry) in self.ring.iter().enumerate() {
            let newest = self.find(&entry.digest).expect("every id is in the index");
            let is_it = std::ptr::eq(newest, &raw const self.ring[at]);
            assert!(is_it || (entry.charge == 0 && newest.id > entry.id), "an id that was replaced");
        }
    }
}

/// When which queue next forgets ids: each queue that remembers some stands here once.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    due: BTreeSet<(Time, u32)>,
}

impl Forgetting {
    /// When [`Brain::forget_ids`] is next needed.
    pub(super) fn next(&self) -> Option<Time> {
        self.due.first().map(|&(at, _)| at)
    }

    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}

/// The digests of a publish's ids, in its order; `None` for a message without one. Empty where none has one.
#[inline]
pub(super) fn digests(messages: &[PublishMessage], bodies: &[u8]) -> Vec<Option<Digest>> {
    if messages.iter().any(|message| message.header.has_options) {
        digests_of(messages.iter(), bodies)
    } else {
        Vec::new()
    }
}

/// The same of a recovered record.
pub(super) fn recorded_digests(publish: &PublishRecord<'_>) -> Vec<Option<Digest>> {
    if publish.dedup_window_ms == 0 {
        return Vec::new();
    }
    digests_of(publish.messages.iter().map(|published| &published.message), publish.bodies)
}

fn digests_of<'a>(
    messages: impl Iterator<Item = &'a PublishMessage>,
    mut bodies: &[u8],
) -> Vec<Option<Digest>> {
    let digest = |message: &PublishMessage| {
        let (body, rest) = bodies.split_at(message.body_len as usize);
        bodies = rest;
        digest(message, body)
    };
    let digests: Vec<_> = messages.map(digest).collect();
    if digests.iter().all(Option::is_none) { Vec::new() } else { digests }
}

fn digest(message: &PublishMessage, body: &[u8]) -> Option<Digest> {
    if !message.header.has_options {
        return None;
    }
    let dedup_id = message_options(body).dedup_id;
    if dedup_id.is_empty() {
        return None;
    }
    // So long that two ids with one digest are not found, whoever looks for them.
    let mut digest = Digest::default();
    digest.copy_from_slice(&blake3::hash(dedup_id.as_bytes()).as_bytes()[..size_of::<Digest>()]);
    Some(digest)
}

impl Brain {
    /// What the ids of a publish say: `None` that none is known, or the id of the first message of those that were
    /// published in its place.
    pub(super) fn judge_ids(
        &mut self,
        namespace: NamespaceId,
        name: &str,
        digests: &[Option<Digest>],
        turn: &mut Turn<'_>,
    ) -> Result<Option<u64>, Refused> {
        let now = turn.now.time;
        let found = self.queues.find(namespace, name);
        let ids = found.and_then(|queue| self.queues.at(queue).dedup.as_ref());
        let known = |digest: &Option<Digest>| digest.and_then(|digest| ids?.known(&digest, now));
        if let Some(first_known) = digests.iter().find_map(known) {
            let first = known(&digests[0]).unwrap_or(0);
            if (first..).zip(digests).all(|(id, digest)| known(digest) == Some(id)) {
                return Ok(Some(first));
            }
            let text = format!(
                "a deduplication id of the batch is known, of message {first_known}, and others are not, or of messages that \
                 were not published in this order; publish its messages one by one"
            );
            return Err(refused(RefusalCode::Invalid, text, 0));
        }
        let mut own: Vec<&Digest> = digests.iter().flatten().collect();
        own.sort_unstable();
        if own.windows(2).any(|pair| pair[0] == pair[1]) {
            let text =
                "two messages of the batch have the same deduplication id; publish one of them".to_owned();
            return Err(refused(RefusalCode::Invalid, text, 0));
        }
        self.judge_more_ids(found, name, own.len() as u64, turn)?;
        Ok(None)
    }

    /// The message that this queue knows under an id.
    pub(super) fn known_in(&self, queue: u32, digest: &Digest, now: Time) -> Option<u64> {
        self.queues.at(queue).dedup.as_ref()?.known(digest, now)
    }

    /// Whether the queue of this name, if it was found, can remember so many more ids.
    pub(super) fn judge_more_ids(
        &mut self,
        found: Option<u32>,
        name: &str,
        wanted: u64,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refused> {
        let max = match found {
            Some(queue) => self.queues.at(queue).rules(&self.config).dedup_ids_max,
            None => self.default_rules(name).dedup_ids_max,
        };
        if let Some(queue) = found
            && self.remembered(queue) + wanted > max
        {
            self.forget_of(queue, FORGOTTEN_AT_ONCE, turn);
        }
        if found.map_or(0, |queue| self.remembered(queue)) + wanted <= max {
            return Ok(());
        }
        let text = format!(
            "{name:?} remembers at most {max} deduplication ids, each as long as its dedup_window was when it came: wait until \
             some have expired, or raise its dedup_ids_max"
        );
        let oldest = found.and_then(|queue| self.queues.at(queue).dedup.as_ref()?.ring.front());
        let until_ms = oldest.map_or(0, |oldest| turn.now.time.millis_until(oldest.expires));
        let retry_ms = u32::try_from(until_ms).unwrap_or(u32::MAX).max(self.full_retry_ms());
        Err(refused(RefusalCode::LimitReached, text, retry_ms))
    }

    fn remembered(&self, queue: u32) -> u64 {
        self.queues.at(queue).dedup.as_ref().map_or(0, |ids| ids.ring.len() as u64)
    }

    /// How long ids that are published to this queue now are remembered.
    pub(super) fn dedup_window_ms(&self, queue: u32) -> u64 {
        let window = self.queues.at(queue).rules(&self.config).dedup_window;
        u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Remembers an id that was published now.
    pub(super) fn remember_id(&mut self, queue: u32, entry: Entry, turn: &mut Turn<'_>) {
        let expires = entry.expires;
        let (freed, is_new) = self.insert_id(queue, entry);
        release(turn, freed);
        self.metrics.dedup_ids.add(1);
        if is_new {
            self.forgetting.due.insert((forget_at(expires), queue));
        }
    }

    fn insert_id(&mut self, queue: u32, entry: Entry) -> (Held, bool) {
        let ids = &mut self.queues.at_mut(queue).dedup;
        let is_new = ids.is_none();
        (ids.get_or_insert_default().insert(entry), is_new)
    }

    /// Forgets what is due to be.
    pub(super) fn forget_ids(&mut self, turn: &mut Turn<'_>) {
        let mut most = FORGOTTEN_AT_ONCE;
        while most > 0
            && let Some(&(at, queue)) = self.forgetting.due.first()
            && at <= turn.now.time
        {
            most -= self.forget_of(queue, most, turn);
            self.forgetting.due.remove(&(at, queue));
            let Some(first) = self.queues.at(queue).dedup.as_ref().and_then(|ids| ids.ring.front()) else {
                // Perhaps nothing is left of the queue either.
                self.queues.at_mut(queue).dedup = None;
                self.mark_dirty(queue);
                continue;
            };
            let is_behind = first.expires <= turn.now.time;
            let next = if is_behind { turn.now.time } else { forget_at(first.expires) };
            self.forgetting.due.insert((next, queue));
        }
    }

    fn forget_of(&mut self, queue: u32, most: usize, turn: &mut Turn<'_>) -> usize {
        let now = turn.now.time;
        let Some(ids) = &mut self.queues.at_mut(queue).dedup else { return 0 };
        let forgotten = ids.forget(now, most, |held| release(turn, held));
        self.metrics.dedup_ids.sub(forgotten as u64);
        forgotten
    }

    /// Compaction comes to a record at `position` with the ids of these messages of a queue.
    pub(super) fn relocate_ids(
        &mut self,
        position: Position,
        (namespace, name): (&str, &str),
        ids: impl Iterator<Item = (u64, Digest)>,
        turn: &mut Turn<'_>,
    ) {
        let found = self.queues.find_namespace(namespace);
        let Some(queue) = found.and_then(|namespace| self.queues.find(namespace, name)) else { return };
        let Some(table) = &mut self.queues.at_mut(queue).dedup else { return };
        let is_kept_by_it = |(id, digest): (u64, Digest)| {
            table.find(&digest).copied().filter(|entry| (entry.id, entry.position) == (id, position))
        };
        let entries: Vec<Entry> = ids.filter_map(is_kept_by_it).collect();
        if entries.is_empty() {
            return;
        }
        self.scratch.clear();
        let written = entries.iter().map(|entry| (entry.id, entry.expires, entry.digest));
        record::encode_dedup(&mut self.scratch, namespace, name, written);
        let (new, len) = (turn.journal.append(&[&self.scratch]), self.scratch.len());
        for (at, entry) in entries.iter().enumerate() {
            let _ = table.insert(Entry { position: new, charge: charge(at, entries.len(), len), ..*entry });
        }
        for entry in &entries {
            release(turn, Held { position, len: entry.charge });
        }
    }

    /// Takes in an id as a recovered record has it.
    pub(super) fn replay_id(&mut self, queue: u32, entry: Entry) {
        // What that record still holds is told to the log at the end of the replay.
        let _ = self.insert_id(queue, entry);
    }

    /// Takes in a recovered record of ids, of `len` bytes.
    pub(super) fn replay_dedup(&mut self, position: Position, len: usize, record: &DedupRecord<'_>) {
        let namespace = self.intern_again(record.namespace);
        let queue = self.reopen(namespace, record.queue);
        for (at, &(id, expires, digest)) in record.ids.iter().enumerate() {
            self.next_id = self.next_id.max(id + 1);
            let charge = charge(at, record.ids.len(), len);
            self.replay_id(queue, Entry { digest, id, expires, position, charge });
        }
    }

    /// Ends the replay: what has expired meanwhile is forgotten, and the log is told what the others keep alive.
    pub(super) fn start_ids(&mut self, turn: &mut Turn<'_>) {
        let mut remembered = 0;
        for (index, queue) in &mut self.queues.slab {
            let Some(ids) = &mut queue.dedup else { continue };
            ids.put_in_order(turn.now.time);
            let Some(first) = ids.ring.front() else {
                queue.dedup = None;
                continue;
            };
            self.forgetting.due.insert((forget_at(first.expires), index as u32));
            remembered += ids.ring.len() as u64;
            for entry in ids.entries().filter(|entry| entry.charge > 0) {
                turn.journal.retain(entry.position, entry.charge);
            }
        }
        self.metrics.dedup_ids.set(remembered);
    }
}

fn forget_at(expires: Time) -> Time {
    Time(expires.0.saturating_add(FORGET_EVERY_MS))
}

/// What an id keeps alive of a record of `count` ids: a byte, and the first one the rest.
fn charge(at: usize, count: usize, record_len: usize) -> u32 {
    if at == 0 { (record_len - (count - 1)) as u32 } else { 1 }
}

#[cfg(test)]
mod tests;
