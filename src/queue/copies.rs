//! The copies of a message in several queues: one record that holds them, what of it each keeps alive, and its way through
//! recovery and compaction.

use crate::clock::{Now, Time, Wall};
use crate::ids::MessageId;
use crate::limits::FANOUT_SNAPSHOT_BYTES_MAX;
use crate::log::Position;
use crate::mail::ProducerSequence;
use crate::queue::bindings::Wanted;
use crate::queue::dedup::{Entry, digests, recorded_digests};
use crate::queue::fanout::Topical;
use crate::queue::marks::Run;
use crate::queue::publish::{Placed, TTL_NEVER};
use crate::queue::queues::NamespaceId;
use crate::queue::record::{
    self, Digest, PublishHead, PublishRecord, PublishedMessage, SnapshotRecord, Target,
};
use crate::queue::{Brain, Held, Turn, release};

/// A queue that copies go to.
struct Place {
    queue: u32,
    /// The time to live of messages that name none.
    ttl_ms: u64,
    /// How long ids are remembered.
    window_ms: u64,
}

impl Place {
    fn named<'a>(&self, queue: &'a str) -> Target<'a> {
        Target { queue, ttl_ms: self.ttl_ms, window_ms: self.window_ms }
    }
}

/// A record's copies, while their entries are made.
struct Copies<'a> {
    position: Position,
    first_id: u64,
    time: Time,
    wall: Wall,
    targets: &'a [Place],
    /// As in the record.
    takes: &'a [u8],
    remembers: &'a [u8],
    /// Of the messages' deduplication ids.
    digests: &'a [Option<Digest>],
    messages: &'a [PublishedMessage],
    bodies: &'a [u8],
    bodies_offset: u32,
}

impl Copies<'_> {
    /// How often each message is taken.
    fn counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.messages.len()];
        for takes in self.takes.chunks(self.messages.len()) {
            counts.iter_mut().zip(takes).for_each(|(count, &takes)| *count += u32::from(takes));
        }
        counts
    }

    /// Bytes beside a head of `head_len` that are no copy's: of messages that go nowhere, and that say so.
    fn unowned(&self, counts: &[u32]) -> u32 {
        let nowhere = self.messages.iter().zip(counts).filter(|(_, count)| **count == 0);
        let bytes: u32 = nowhere.map(|(message, _)| message.entry_len + message.message.body_len).sum();
        let remembered: u32 = self.remembers.iter().map(|&remembers| u32::from(remembers)).sum();
        bytes + (self.takes.len() + self.remembers.len()) as u32 - counts.iter().sum::<u32>() - remembered
    }
}

impl Brain {
    /// Writes messages down once and puts their copies on their queues. Returns the first one's id.
    pub(super) fn admit_copies(
        &mut self,
        topical: Topical<'_>,
        producer: Option<ProducerSequence>,
        targets: &[(u32, Wanted)],
        turn: &mut Turn<'_>,
    ) -> u64 {
        let Topical { namespace, topic, messages, bodies } = topical;
        self.append_clock_if_old(turn);
        let first_id = self.take_ids(targets.len() * messages.len(), turn);
        let digests = digests(messages, bodies);
        let places: Vec<Place> =
            targets.iter().map(|(queue, _)| self.place_in(*queue, !digests.is_empty())).collect();
        let named = targets.iter().zip(&places).map(|((_, wanted), place)| place.named(&wanted.to));
        let names: Vec<Target<'_>> = named.collect();
        let takes: Vec<u8> = targets.iter().flat_map(|(_, wanted)| &wanted.takes).copied().collect();
        // Nothing where no message has an id.
        let with_id = digests.iter().map(|digest| u8::from(digest.is_some()));
        let remembers: Vec<u8> = targets
            .iter()
            .flat_map(|(_, wanted)| wanted.takes.iter().zip(with_id.clone()).map(|(takes, has)| takes & has))
            .collect();
        let (time, wall) = (turn.now.time, turn.now.wall);
        let head = PublishHead {
            time,
            wall,
            first_id,
            namespace: &self.queues.tenant(namespace).name,
            queue: topic,
            producer,
            targets: &names,
            takes: &takes,
            remembers: &remembers,
            dedup_window_ms: places.iter().map(|place| place.window_ms).max().unwrap_or(0),
            ..PublishHead::default()
        };
        self.scratch.clear();
        let mut published = Vec::with_capacity(messages.len());
        let mut left = messages.iter();
        let head_len = record::encode_publish(&mut self.scratch, &head, messages, |entry_len| {
            published.extend(left.next().map(|&message| PublishedMessage { message, entry_len }));
        });
        let position = turn.journal.append(&[&self.scratch, bodies]);
        self.clock = (time, wall);
        let bodies_offset = self.scratch.len() as u32;
        let copies = Copies {
            position,
            first_id,
            time,
            wall,
            targets: &places,
            takes: &takes,
            remembers: &remembers,
            digests: &digests,
            messages: &published,
            bodies,
            bodies_offset,
        };
        let counts = copies.counts();
        let mut head_charge = head_len + copies.unowned(&counts);
        if let Some(producer) = producer {
            let (charge, count) = (std::mem::take(&mut head_charge), messages.len() as u32);
            let run = Run { sequence: producer.sequence, first_id, position, charge, count };
            self.remember(namespace, producer.producer, producer.unanswered_from, run, turn);
        }
        self.enter_copies(&copies, &counts, head_charge, Some(turn));
        self.metrics.published.add(messages.len() as u64);
        self.metrics.fanout_copies.add(u64::from(counts.iter().sum::<u32>()));
        for (queue, wanted) in targets {
            self.spend_publish(*queue, wanted.sums(messages).0);
            self.mark_dirty(*queue);
        }
        first_id
    }

    fn place_in(&self, queue: u32, has_ids: bool) -> Place {
        let window_ms = if has_ids { self.dedup_window_ms(queue) } else { 0 };
        Place { queue, ttl_ms: self.own_ttl_ms(queue), window_ms }
    }

    /// The time to live that a queue was set for messages that name none; 0 when it was set none.
    fn own_ttl_ms(&self, queue: u32) -> u64 {
        let own = self.queues.at(queue).own.as_ref().map(|own| own.rules.ttl);
        let ms = |ttl: Option<std::time::Duration>| {
            ttl.and_then(|ttl| u64::try_from(ttl.as_millis()).ok()).unwrap_or(TTL_NEVER)
        };
        own.map_or(0, ms)
    }

    /// Puts copies on their queues; in a replay without a turn.
    fn enter_copies(
        &mut self,
        copies: &Copies<'_>,
        counts: &[u32],
        mut head_charge: u32,
        turn: Option<&mut Turn<'_>>,
    ) {
        let &Copies { position, time, wall, .. } = copies;
        self.remember_copies(copies, turn);
        let mut is_first = vec![true; copies.messages.len()];
        let mut id = copies.first_id;
        for (place, takes) in copies.targets.iter().zip(copies.takes.chunks(counts.len())) {
            let (queue, mut start) = (place.queue, 0);
            for (at, published) in copies.messages.iter().enumerate() {
                let mut message = published.message;
                let (own_id, own_start, len) = (id, start, message.body_len as usize);
                (id, start) = (id + 1, start + len);
                if takes[at] == 0 {
                    continue;
                }
                let bytes = published.entry_len + message.body_len;
                let mut charge = 1 + bytes / counts[at];
                if std::mem::take(&mut is_first[at]) {
                    charge += bytes % counts[at];
                }
                charge += std::mem::take(&mut head_charge);
                if self.messages.find(MessageId(own_id)).is_some() {
                    continue;
                }
                if message.header.ttl_ms == 0 {
                    message.header.ttl_ms = place.ttl_ms;
                }
                let body_offset = copies.bodies_offset + own_start as u32;
                let placed = Placed {
                    id: own_id,
                    queue,
                    position,
                    body_offset,
                    body_len: message.body_len,
                    charge,
                    time,
                };
                let body = &copies.bodies[own_start..own_start + len];
                let slot = self.enter(&placed, &message.header, body);
                let until = self.until(slot, &message.header, time, wall);
                self.place_new(slot, until);
            }
        }
    }

    /// Remembers the ids of copies, each in the queue of its own; in a replay without a turn.
    fn remember_copies(&mut self, copies: &Copies<'_>, mut turn: Option<&mut Turn<'_>>) {
        let count = copies.digests.len().max(1);
        for (target, remembers) in copies.remembers.chunks(count).enumerate() {
            let Place { queue, window_ms, .. } = copies.targets[target];
            let expires = Time(copies.time.0.saturating_add(window_ms));
            for (at, digest) in copies.digests.iter().enumerate() {
                let Some(digest) = digest.filter(|_| remembers[at] > 0) else { continue };
                let id = copies.first_id + (target * count + at) as u64;
                let entry = Entry { digest, id, expires, position: copies.position, charge: 1 };
                match &mut turn {
                    Some(turn) => self.remember_id(queue, entry, turn),
                    None => self.replay_id(queue, entry),
                }
            }
        }
    }

    /// Takes in a recovered publish with targets.
    pub(super) fn replay_fanout(
        &mut self,
        position: Position,
        namespace: NamespaceId,
        publish: &PublishRecord<'_>,
    ) {
        let targets: Vec<Place> = publish
            .targets
            .iter()
            .map(|target| Place {
                queue: self.reopen(namespace, target.queue),
                ttl_ms: target.ttl_ms,
                window_ms: target.window_ms,
            })
            .collect();
        let digests = recorded_digests(publish);
        let copies = Copies {
            position,
            first_id: publish.first_id,
            time: publish.time,
            wall: publish.wall,
            targets: &targets,
            takes: publish.takes,
            remembers: publish.remembers,
            digests: &digests,
            messages: &publish.messages,
            bodies: publish.bodies,
            bodies_offset: publish.bodies_offset,
        };
        let counts = copies.counts();
        let mut head_charge = publish.head_len + copies.unowned(&counts);
        if let Some(producer) = publish.producer {
            let charge = std::mem::take(&mut head_charge);
            self.replay_run(position, namespace, publish, producer, charge);
        }
        self.enter_copies(&copies, &counts, head_charge, None);
    }

    /// Takes in recovered copies of one message.
    pub(super) fn replay_copies(
        &mut self,
        position: Position,
        len: usize,
        copies: &[(SnapshotRecord<'_>, u32)],
    ) {
        let Some((first, _)) = copies.first() else { return };
        let shares = shares(first.body_len, copies.iter().map(|(_, own)| *own));
        for ((copy, _), charge) in copies.iter().zip(shares) {
            self.replay_snapshot(position, len as u32, Some(charge), copy);
        }
    }

    /// Compaction comes to a record of several copies: what is left of each message goes into one record again.
    pub(super) fn relocate_fanout(
        &mut self,
        position: Position,
        publish: &PublishRecord<'_>,
        bytes: &[u8],
        turn: &mut Turn<'_>,
    ) {
        let count = publish.messages.len() as u64;
        for message in 0..count {
            let targets = 0..publish.targets.len() as u64;
            let ids = targets.map(|target| publish.first_id + target * count + message);
            self.relocate_copies(position, ids, bytes, turn);
        }
        let digests = recorded_digests(publish);
        for (target, first_id) in publish.targets.iter().zip((publish.first_id..).step_by(count as usize)) {
            let ids = (first_id..).zip(&digests).filter_map(|(id, digest)| Some((id, (*digest)?)));
            self.relocate_ids(position, (publish.namespace, target.queue), ids, turn);
        }
    }

    /// Writes the messages of these ids, as far as the record at `position` holds them, anew with the body they share.
    pub(super) fn relocate_copies(
        &mut self,
        position: Position,
        ids: impl Iterator<Item = u64>,
        bytes: &[u8],
        turn: &mut Turn<'_>,
    ) {
        let slots: Vec<u32> = ids
            .filter_map(|id| self.messages.find(MessageId(id)))
            .filter(|&slot| self.messages.at(slot).position == position)
            .collect();
        let Some(&first) = slots.first() else { return };
        let message = self.messages.at(first);
        let (start, len) = (message.body_offset as usize, message.body_len as usize);
        let Some(body) = bytes.get(start..start + len) else { return };
        let mut left = slots.as_slice();
        while !left.is_empty() {
            let (now, later) = left.split_at(self.copies_of_one_record(left, body, turn.now));
            self.relocate_together(now, body, turn);
            left = later;
        }
    }

    /// How many of these go into one record: what failed attempts said may make them many bytes.
    fn copies_of_one_record(&self, slots: &[u32], body: &[u8], now: Now) -> usize {
        let mut bytes = 0;
        let fits = |slot: &&u32| {
            let snapshot = self.snapshot(**slot, body, now);
            let texts =
                snapshot.failures.iter().map(|failure| failure.client.len() + failure.error.len() + 32);
            bytes += 128 + snapshot.queue.len() + snapshot.namespace.len() + texts.sum::<usize>();
            bytes <= FANOUT_SNAPSHOT_BYTES_MAX
        };
        slots.iter().take_while(fits).count().max(1)
    }

    fn relocate_together(&mut self, slots: &[u32], body: &[u8], turn: &mut Turn<'_>) {
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        let mut own = Vec::with_capacity(slots.len());
        if let [slot] = slots {
            record::encode_snapshot(&mut head, &self.snapshot(*slot, body, turn.now));
            own.push(head.len() as u32);
        } else {
            let now = turn.now;
            let snapshots = slots.iter().map(|&slot| self.snapshot(slot, body, now));
            record::encode_copies(&mut head, snapshots, |len| own.push(len));
        }
        let position = turn.journal.append(&[&head, body]);
        for (&slot, charge) in slots.iter().zip(shares(body.len() as u32, own.into_iter())) {
            let message = self.messages.at_mut(slot);
            let old = Held { position: message.position, len: message.charge };
            (message.position, message.body_offset, message.charge) = (position, head.len() as u32, charge);
            release(turn, old);
        }
        self.scratch = head;
    }
}

/// What each of several copies keeps alive: its own bytes and an equal part of the body's, the first what is left over.
fn shares(body_len: u32, own: impl ExactSizeIterator<Item = u32>) -> impl Iterator<Item = u32> {
    let count = own.len().max(1) as u32;
    let mut rest = body_len % count;
    own.map(move |own| own + body_len / count + std::mem::take(&mut rest))
}
