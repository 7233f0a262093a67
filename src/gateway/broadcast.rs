//! Broadcasts on their way to the connections that are subscribed to their topics.
//!
//! One cursor goes round and round over the slots while there is a broadcast under way, wave by wave, so that reading,
//! heartbeats and acks go on between the waves ([`super::pace`] says when they leave). A wave is bounded in what it sends
//! and passes by; it comes in portions, each sent before the next, so that whoever knows the time ends it early where the
//! portions take long. A broadcast is done once the cursor is back where it was when that came;
//! whichever others came meanwhile are handed out on the same way, in the order in which they came, so that many small
//! ones cost one walk. What a connection is subscribed to stands beside the slab, two bytes a slot from the first
//! subscription on: the walk reads these alone.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::clock::Time;
use crate::gateway::Gateway;
use crate::gateway::config::GatewayConfig;
use crate::gateway::pace::{Pace, WHOLE};
use crate::ids::{ConnKey, SubscriptionId, TopicId};
use crate::limits;
use crate::mail::{Broadcast, Broadcasted, Command, TopicSet};
use crate::session::Phase;
use crate::wire::{DeliverWriter, Kind, compressible_bytes, encode, proto};

/// In a slot's place: its set is among those that have no place.
const OWN: u16 = u16::MAX;

/// Which topics the connections are subscribed to.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    /// By slot: 0 for no topic, or one more than its set's place, or [`OWN`]. Empty while nobody was ever subscribed to any.
    of_slot: Vec<u16>,
    /// At most [`limits::TOPIC_SETS_MAX`].
    sets: Vec<Option<Known>>,
    free: Vec<u16>,
    /// Places by the set's id.
    by_id: HashMap<u64, u16>,
    /// By slot, where there was no place left: what is left of their topics to connections that ended a subscription.
    own: HashMap<u32, Arc<TopicSet>>,
}

/// A set that connections of this loop have.
#[derive(Debug)]
struct Known {
    set: Arc<TopicSet>,
    connections: u32,
}

impl Memberships {
    /// The connection in `slot` is subscribed to these topics from now on, and to no others.
    pub(super) fn assign(&mut self, slot: u32, set: Option<Arc<TopicSet>>) {
        self.leave(slot);
        let Some(set) = set else { return };
        let at = slot as usize;
        if self.of_slot.len() <= at {
            self.of_slot.resize(at + 1, 0);
        }
        let known = self.by_id.get(&set.id).copied();
        if known.is_none() && self.free.is_empty() && self.sets.len() >= limits::TOPIC_SETS_MAX {
            self.own.insert(slot, set);
            self.of_slot[at] = OWN;
            return;
        }
        let place = known.unwrap_or_else(|| self.keep(set));
        if let Some(known) = &mut self.sets[usize::from(place)] {
            known.connections += 1;
        }
        self.of_slot[at] = place + 1;
    }

    /// Gives a place to a set; there is one.
    fn keep(&mut self, set: Arc<TopicSet>) -> u16 {
        let id = set.id;
        let known = Some(Known { set, connections: 0 });
        let place = match self.free.pop() {
            Some(place) => {
                self.sets[usize::from(place)] = known;
                place
            }
            None => {
                self.sets.push(known);
                // There are no more than TOPIC_SETS_MAX.
                (self.sets.len() - 1) as u16
            }
        };
        self.by_id.insert(id, place);
        place
    }

    /// The connection in `slot` is subscribed to nothing any more.
    pub(super) fn leave(&mut self, slot: u32) {
        let Some(number) = self.of_slot.get_mut(slot as usize).map(std::mem::take).filter(|&n| n > 0) else {
            return;
        };
        if number == OWN {
            self.own.remove(&slot);
            return;
        }
        let place = usize::from(number - 1);
        let Some(known) = &mut self.sets[place] else { return };
        known.connections -= 1;
        if known.connections == 0 {
            self.by_id.remove(&known.set.id);
            self.sets[place] = None;
            self.free.push(number - 1);
        }
    }

    pub(super) fn set_of(&self, slot: u32) -> Option<&TopicSet> {
        let number = self.of_slot.get(slot as usize).copied().filter(|&number| number > 0)?;
        if number == OWN {
            return self.own.get(&slot).map(|set| &**set);
        }
        self.sets[usize::from(number - 1)].as_ref().map(|known| &*known.set)
    }

    /// The first slot from `from` on, before `until`, that is subscribed to anything.
    fn next(&self, from: u32, until: u32) -> Option<u32> {
        let slots = &self.of_slot[from as usize..until as usize];
        // Bounded by the slab.
        slots.iter().position(|&number| number > 0).map(|at| from + at as u32)
    }

    /// One more than the last slot that may be subscribed to anything.
    fn slots(&self) -> u32 {
        self.of_slot.len() as u32
    }

    /// Panics unless exactly the slots that `is_live` have topics, and the sets are counted right.
    pub(super) fn check(&self, is_live: impl Fn(u32) -> bool) {
        let mut connections = vec![0; self.sets.len()];
        let mut own = 0;
        for (slot, &number) in (0..).zip(&self.of_slot) {
            assert!(number == 0 || is_live(slot), "slot {slot} is subscribed to topics and not served");
            if number == OWN {
                own += 1;
                assert!(self.own.contains_key(&slot), "slot {slot} has lost its topics");
            } else if number > 0 {
                connections[usize::from(number - 1)] += 1;
            }
        }
        for (known, counted) in self.sets.iter().zip(connections) {
            let noted = known.as_ref().map_or(0, |known| known.connections);
            assert_eq!(noted, counted, "the connections of a set are counted wrongly");
            assert!(known.as_ref().is_none_or(|known| known.connections > 0), "a set that nobody has");
        }
        assert_eq!(self.by_id.len() + self.free.len(), self.sets.len(), "sets are lost");
        assert_eq!(own, self.own.len(), "sets of connections that have none of their own");
    }
}

/// The broadcasts under way. What the shards let through at once bounds them.
#[derive(Debug)]
pub(super) struct Sweep {
    /// In the order in which they came, which is the order in which they are done.
    underway: VecDeque<Underway>,
    /// The slot that is next.
    cursor: u32,
    /// How many of those under way were handed to the connection in that slot already.
    done_here: usize,
    pace: Pace,
    /// What the wave of this turn may still do, until it is over.
    wave: Option<Share>,
}

#[derive(Debug)]
struct Underway {
    broadcast: Arc<Broadcast>,
    /// Where the cursor was when it came.
    start: u32,
    /// The cursor has passed the last slot since.
    is_round: bool,
    /// How many bytes of it are worth an attempt to compress them.
    compressible: usize,
    /// Its compressed DELIVER for the first subscription numbers that were met; `None` where that is no smaller. The plain
    /// one is written anew each time: a header of a few bytes beside the copy that is due anyway.
    compressed: Vec<(SubscriptionId, Option<Box<[u8]>>)>,
}

/// What a wave may still do.
#[derive(Debug, Clone, Copy)]
struct Share {
    sends: usize,
    bytes: usize,
    checks: usize,
    slots: usize,
}

impl Share {
    fn whole(config: &GatewayConfig) -> Self {
        Self {
            sends: config.broadcast_wave_sends,
            bytes: limits::BROADCAST_WAVE_BYTES,
            checks: limits::BROADCAST_WAVE_CHECKS,
            slots: limits::BROADCAST_WAVE_SLOTS,
        }
    }

    fn is_used_up(&self) -> bool {
        self.sends == 0 || self.bytes == 0 || self.checks == 0 || self.slots == 0
    }

    /// How many parts of a [`WHOLE`] wave were used.
    fn used(&self, whole: Self) -> u64 {
        let used = |left: usize, of: usize| of.saturating_sub(left) as u64 * WHOLE / of.max(1) as u64;
        used(self.sends, whole.sends)
            .max(used(self.bytes, whole.bytes))
            .max(used(self.checks, whole.checks))
            .max(used(self.slots, whole.slots))
    }
}

impl Sweep {
    pub(super) fn new(config: &GatewayConfig) -> Self {
        let pace = Pace::new(config.broadcast_pause_min, config.broadcast_pause_max);
        Self { underway: VecDeque::new(), cursor: 0, done_here: 0, pace, wave: None }
    }

    /// When the next wave is due; `None` when nothing is under way.
    pub(super) fn due(&self) -> Option<Time> {
        (!self.underway.is_empty()).then_some(self.pace.next())
    }

    /// Nothing is under way.
    fn is_idle(&self) -> bool {
        self.underway.is_empty()
    }

    /// Broadcasts that there is memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.underway.capacity()
    }

    /// Takes one off that was handed to all there are.
    fn next_finished(&mut self) -> Option<Underway> {
        let cursor = self.cursor;
        self.underway.pop_front_if(|first| first.is_round && first.start == cursor)
    }

    /// Moves the cursor to `slot`, or behind the last one to the first.
    fn move_to(&mut self, slot: u32, slots: u32) {
        self.cursor = slot;
        self.done_here = 0;
        if slot >= slots {
            self.cursor = 0;
            self.underway.iter_mut().for_each(|underway| underway.is_round = true);
        }
    }
}

impl Gateway {
    /// The shard says what a connection is subscribed to.
    pub(super) fn topics_changed(&mut self, conn: ConnKey, topics: Option<Arc<TopicSet>>) {
        let tenant = self.table.tenant_mut(conn.slot, conn.generation);
        if tenant.is_some_and(|tenant| tenant.session.is_served()) {
            self.memberships.assign(conn.slot, topics);
        }
    }

    /// A message for everybody subscribed to its topic; it leaves with the next waves.
    pub(super) fn take_broadcast(&mut self, broadcast: Arc<Broadcast>) {
        if self.sweep.is_idle() {
            self.sweep.pace.resume();
        }
        let (start, compressible) = (self.sweep.cursor, compressible_bytes(&broadcast.body));
        let underway = Underway { broadcast, start, is_round: false, compressible, compressed: Vec::new() };
        self.sweep.underway.push_back(underway);
    }

    /// A publish to a topic was handed on.
    pub(super) fn broadcasted(&mut self, now: Time, broadcasted: Broadcasted) {
        let Broadcasted { conn, seq, messages, bytes, first_id, subscribers } = broadcasted;
        if !self.publishes_answered(conn, 1, messages, bytes) {
            return;
        }
        let ack =
            proto::PublishAck { seq, messages, first_id: first_id.0, subscribers, ..Default::default() };
        self.append(now, conn.slot, |out| {
            encode(out, Kind::PublishAck, &ack);
            Some(Kind::PublishAck)
        });
        self.end_if_answered(now, conn.slot);
    }

    /// Begins a wave if one is due, with its first portion.
    pub(super) fn broadcast_wave(&mut self, now: Time) {
        self.sweep.wave = None;
        if self.sweep.due().is_some_and(|due| due <= now) {
            self.sweep.pace.begin(now, &mut self.random);
            self.sweep.wave = Some(Share::whole(&self.config));
            self.carry_on(now);
        }
    }

    /// Goes on with the wave of this turn, by a portion that is to be sent before the next. Returns false when there was
    /// nothing left to do of it.
    pub fn carry_on(&mut self, now: Time) -> bool {
        let Some(mut share) = self.sweep.wave.take() else { return false };
        // Moved out and back: it is read while connections are written to.
        let mut sweep = std::mem::replace(&mut self.sweep, Sweep::new(&self.config));
        let enough = share.sends.saturating_sub(limits::BROADCAST_PORTION_SENDS);
        while !sweep.is_idle() && !share.is_used_up() && share.sends > enough {
            let (cursor, slots) = (sweep.cursor, self.memberships.slots());
            if cursor < slots && self.memberships.set_of(cursor).is_some() {
                if !self.hand_out(now, &mut sweep, &mut share) {
                    break;
                }
                sweep.move_to(cursor + 1, slots);
            } else {
                self.pass_by(&mut sweep, &mut share);
            }
            while let Some(underway) = sweep.next_finished() {
                self.broadcast_done(&underway.broadcast);
            }
        }
        if sweep.is_idle() {
            sweep.pace.rest(share.used(Share::whole(&self.config)));
            // As many as the shard lets through at once make it long.
            sweep.underway = VecDeque::new();
        } else if !share.is_used_up() {
            sweep.wave = Some(share);
        }
        self.sweep = sweep;
        true
    }

    /// On to the next connection with topics, but not past the place where the oldest broadcast ends.
    fn pass_by(&self, sweep: &mut Sweep, share: &mut Share) {
        let (cursor, slots) = (sweep.cursor, self.memberships.slots());
        let oldest = sweep.underway.front().filter(|oldest| oldest.is_round && oldest.start > cursor);
        let until = oldest.map_or(slots, |oldest| oldest.start).min(cursor + share.slots as u32);
        let until = until.min(slots).max(cursor);
        let next = self.memberships.next(cursor.min(slots), until).unwrap_or(until);
        share.slots = share.slots.saturating_sub((next - cursor) as usize + 1);
        sweep.move_to(next, slots);
    }

    /// The shard that sent it is told how much of whose is done.
    fn broadcast_done(&mut self, broadcast: &Broadcast) {
        let charge = broadcast.charge();
        let commands = &mut self.batches.to(broadcast.shard).commands;
        match commands.last_mut() {
            Some(Command::BroadcastsDone { namespace, bytes, .. }) if *namespace == broadcast.namespace => {
                *bytes += charge;
            }
            _ => {
                let (loop_id, namespace) = (self.loop_id, broadcast.namespace);
                commands.push(Command::BroadcastsDone { loop_id, namespace, bytes: charge });
            }
        }
    }

    /// Hands the connection at the cursor what it is subscribed to of all that is under way. False when its output is full
    /// of what this very portion put there: it goes on with the next, when the socket has had its chance.
    fn hand_out(&mut self, now: Time, sweep: &mut Sweep, share: &mut Share) -> bool {
        let slot = sweep.cursor;
        let mut is_first = true;
        for at in sweep.done_here..sweep.underway.len() {
            share.checks = share.checks.saturating_sub(1);
            let underway = &mut sweep.underway[at];
            let topic = underway.broadcast.topic;
            let Some(subscription) = self.subscription_of(slot, topic) else { continue };
            if !self.takes_broadcasts(slot) {
                if !is_first {
                    sweep.done_here = at;
                    return false;
                }
                self.metrics.broadcast_missed.inc();
                continue;
            }
            is_first = false;
            let bytes = self.send_broadcast(now, slot, subscription, underway);
            self.metrics.broadcast_deliveries.inc();
            share.sends = share.sends.saturating_sub(1);
            share.bytes = share.bytes.saturating_sub(bytes);
        }
        true
    }

    fn subscription_of(&self, slot: u32, topic: TopicId) -> Option<SubscriptionId> {
        let is_live = self.table.at(slot).is_some_and(|conn| conn.session.phase() == Phase::Live);
        self.memberships.set_of(slot).filter(|_| is_live)?.number_of(topic)
    }

    fn takes_broadcasts(&self, slot: u32) -> bool {
        let busy = self.table.at(slot).and_then(|conn| self.buffers.at(conn.busy));
        let unsent = busy.map_or(0, |busy| busy.unsent_len());
        unsent < self.config.write_budget_bytes
            && self.buffers.output_bytes < self.config.loop_output_bytes_max
    }

    /// Appends the DELIVER; returns its length.
    fn send_broadcast(
        &mut self,
        now: Time,
        slot: u32,
        subscription: SubscriptionId,
        underway: &mut Underway,
    ) -> usize {
        let may_compress = self.table.at(slot).is_some_and(|conn| conn.session.may_compress());
        let (before, body_len) = (self.buffers.output_bytes, underway.broadcast.body.len());
        if may_compress
            && underway.compressible > 0
            && let Some(frame) = self.compress_broadcast(subscription, underway)
        {
            self.append(now, slot, |out| {
                out.extend_from_slice(frame);
                Some(Kind::Deliver)
            });
            let saved = body_len.saturating_sub(frame.len());
            self.metrics.frames_compressed.inc();
            self.metrics.compression_saved_bytes.add(saved as u64);
        } else {
            let (body, frame_bytes_max) = (&underway.broadcast.body, self.config.frame_bytes_max);
            self.append(now, slot, |out| {
                write_broadcast(out, frame_bytes_max, subscription, body);
                Some(Kind::Deliver)
            });
        }
        self.buffers.output_bytes.saturating_sub(before)
    }

    /// The compressed DELIVER for a subscription number; `None` where it is no smaller, or too many are kept already.
    fn compress_broadcast<'a>(
        &mut self,
        subscription: SubscriptionId,
        underway: &'a mut Underway,
    ) -> Option<&'a [u8]> {
        let Underway { broadcast, compressible, compressed, .. } = underway;
        let at = match compressed.iter().position(|(number, _)| *number == subscription) {
            Some(at) => at,
            None if compressed.len() < limits::BROADCAST_FRAMES_MAX => {
                let mut frame = Vec::new();
                write_broadcast(&mut frame, self.config.frame_bytes_max, subscription, &broadcast.body);
                let plain_len = frame.len();
                self.codec.compress_messages(&mut frame, 0, *compressible);
                let is_smaller = frame.len() < plain_len;
                compressed.push((subscription, is_smaller.then(|| frame.into_boxed_slice())));
                compressed.len() - 1
            }
            None => return None,
        };
        compressed[at].1.as_deref()
    }
}

fn write_broadcast(out: &mut Vec<u8>, frame_bytes_max: usize, subscription: SubscriptionId, body: &[u8]) {
    let mut writer = DeliverWriter::begin(out, frame_bytes_max);
    let is_in = writer.push_broadcast(out, subscription, body);
    debug_assert!(is_in, "the shard takes no message for a topic that does not fit a frame");
    writer.finish(out);
}
