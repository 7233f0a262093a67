//! What messages of the same keys share: the flow they are served in, and for an ordering key whose turn it is.
//!
//! A lane exists while a message of its keys does, dead letters included. The messages of one ordering key stand in one
//! lane whatever their fairness keys are, in the flow of the one that opened it, for they have to come one at a time: the
//! lane's head is in the life of any other message, all others are blocked behind it, in order of their arrival. While the
//! brain replays, no lane has a head; [`Brain::line_up`] finds them at the end, by the order the log gives.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use crate::clock::Time;
use crate::queue::config::DeadHead;
use crate::queue::lifecycle::End;
use crate::queue::messages::{NIL, State};
use crate::queue::queues::Queues;
use crate::queue::ready::PLAIN;
use crate::queue::{Brain, Turn};

/// The messages of one queue with the same keys.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) queue: u32,
    /// Where its ready messages wait.
    pub(super) flow: u32,
    /// Empty when its messages have none.
    order_key: Box<str>,
    fair_key: Box<str>,
    /// Its messages, dead ones included.
    messages: u32,
    /// Of an ordering key: the message that the others wait for, not blocked itself; [`NIL`] when there is none.
    pub(super) head: u32,
    /// The first and the last message behind it.
    pub(super) blocked: (u32, u32),
}

impl Lane {
    /// How many it has.
    pub(super) fn messages(&self) -> u32 {
        self.messages
    }

    pub(super) fn is_ordered(&self) -> bool {
        !self.order_key.is_empty()
    }
}

/// All lanes of the shard.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) slab: Slab<Lane>,
    by_keys: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Lanes {
    #[inline]
    pub(super) fn at(&self, lane: u32) -> &Lane {
        &self.slab[lane as usize]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, lane: u32) -> &mut Lane {
        &mut self.slab[lane as usize]
    }

    /// The flow of a message in this lane, or in none.
    #[inline]
    pub(super) fn flow_of(&self, lane: u32) -> u32 {
        if lane == NIL { PLAIN } else { self.at(lane).flow }
    }

    /// The lane of these keys, not both of them empty, for one message more.
    fn join(&mut self, queue: u32, order_key: &str, fair_key: &str, open_flow: impl FnOnce() -> u32) -> u32 {
        // An ordering key is one, whatever the fairness keys of its messages.
        let by = (queue, order_key, if order_key.is_empty() { fair_key } else { "" });
        let hash = self.hasher.hash_one(by);
        let is_it = |&lane: &u32| keys(self.at(lane)) == by;
        let found = self.by_keys.find(hash, is_it).copied();
        let lane = found.unwrap_or_else(|| {
            let lane = self.slab.insert(Lane {
                queue,
                flow: open_flow(),
                order_key: order_key.into(),
                fair_key: fair_key.into(),
                messages: 0,
                head: NIL,
                blocked: (NIL, NIL),
            }) as u32;
            let Self { slab, by_keys, hasher } = self;
            by_keys.insert_unique(hash, lane, |&lane| hasher.hash_one(keys(&slab[lane as usize])));
            lane
        });
        self.at_mut(lane).messages += 1;
        lane
    }

    /// A message of this lane is gone.
    fn part(&mut self, lane: u32, queues: &mut Queues) {
        let entry = self.at_mut(lane);
        entry.messages -= 1;
        if entry.messages > 0 {
            return;
        }
        let hash = self.hasher.hash_one(keys(self.at(lane)));
        if let Ok(entry) = self.by_keys.find_entry(hash, |&found| found == lane) {
            entry.remove();
        }
        let closed = self.slab.remove(lane as usize);
        queues.at_mut(closed.queue).ready.close_flow(closed.flow);
    }
}

fn keys(lane: &Lane) -> (u32, &str, &str) {
    let fair_key = if lane.is_ordered() { "" } else { &lane.fair_key };
    (lane.queue, &lane.order_key, fair_key)
}

impl Brain {
    /// Puts a message that is in none into the lane of its keys, if it has any.
    pub(super) fn join_lane(&mut self, slot: u32, order_key: &str, fair_key: &str) {
        if order_key.is_empty() && fair_key.is_empty() {
            return;
        }
        let Self { lanes, queues, config, .. } = self;
        let queue = self.messages.at(slot).queue;
        let lane = lanes.join(queue, order_key, fair_key, || {
            let entry = queues.at_mut(queue);
            let weight = entry.rules(config).weights.get(fair_key).copied().unwrap_or(1);
            entry.ready.open_flow(fair_key, weight)
        });
        self.messages.at_mut(slot).lane = lane;
    }

    /// Takes a message that is in no list out of its lane.
    pub(super) fn part_lane(&mut self, slot: u32) {
        let lane = std::mem::replace(&mut self.messages.at_mut(slot).lane, NIL);
        if lane != NIL {
            self.lanes.part(lane, &mut self.queues);
        }
    }

    /// Moves a dead letter to another queue, with its keys.
    pub(super) fn change_queue(&mut self, slot: u32, to: u32) {
        let message = self.messages.at_mut(slot);
        let bytes = u64::from(message.body_len);
        let lane = std::mem::replace(&mut message.lane, NIL);
        let from = std::mem::replace(&mut message.queue, to);
        self.queues.at_mut(from).bytes -= bytes;
        self.queues.at_mut(to).bytes += bytes;
        if lane != NIL {
            let entry = self.lanes.at(lane);
            let (order_key, fair_key) = (entry.order_key.clone(), entry.fair_key.clone());
            self.lanes.part(lane, &mut self.queues);
            self.join_lane(slot, &order_key, &fair_key);
        }
    }

    /// Whether the message has an ordering key.
    pub(super) fn is_ordered(&self, slot: u32) -> bool {
        let lane = self.messages.at(slot).lane;
        lane != NIL && self.lanes.at(lane).is_ordered()
    }

    /// Whether the death of this message, on which work had begun, makes its ordering key wait.
    pub(super) fn holds_key(&self, slot: u32) -> bool {
        let queue = self.messages.at(slot).queue;
        self.is_ordered(slot) && self.queues.at(queue).rules(&self.config).dead_head == DeadHead::Hold
    }

    /// A message comes into its queue, to wait `until` then: behind the others of its ordering key.
    pub(super) fn place_new(&mut self, slot: u32, until: Option<Time>) {
        let lane = self.messages.at(slot).lane;
        if lane != NIL && self.is_started {
            let entry = self.lanes.at_mut(lane);
            if entry.is_ordered() {
                if entry.head != NIL {
                    return self.place_blocked(slot, until);
                }
                entry.head = slot;
            }
        }
        match until {
            Some(until) => self.place_scheduled(slot, until),
            None => self.place_ready(slot, End::Back),
        }
    }

    /// Behind the last of its lane.
    fn place_blocked(&mut self, slot: u32, until: Option<Time>) {
        if let Some(until) = until {
            self.messages.rare_mut(slot).until = until;
        }
        let message = self.messages.at(slot);
        let (queue, expires) = (message.queue, message.expires);
        let lane = self.lanes.at_mut(message.lane);
        let last = std::mem::replace(&mut lane.blocked.1, slot);
        match last {
            NIL => lane.blocked.0 = slot,
            _ => self.messages.at_mut(last).next = slot,
        }
        let message = self.messages.at_mut(slot);
        (message.state, message.prev, message.next) = (State::Blocked, last, NIL);
        self.queues.at_mut(queue).blocked_count += 1;
        self.set_timer(slot, (expires != Time(0)).then_some(expires));
    }

    /// Out of the lane's list. The caller keeps the count.
    pub(super) fn unlink_blocked(&mut self, slot: u32) {
        let message = self.messages.at(slot);
        let (prev, next) = (message.prev, message.next);
        let lane = self.lanes.at_mut(message.lane);
        match prev {
            NIL => lane.blocked.0 = next,
            _ => self.messages.at_mut(prev).next = next,
        }
        match next {
            NIL => lane.blocked.1 = prev,
            _ => self.messages.at_mut(next).prev = prev,
        }
    }

    /// The message is done with its queue, for now or for good: if others of its key waited for it, the next one goes on.
    pub(super) fn release_key(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let lane = self.messages.at(slot).lane;
        if !self.is_head(slot) {
            return;
        }
        let first = self.lanes.at(lane).blocked.0;
        self.lanes.at_mut(lane).head = first;
        if first == NIL {
            return;
        }
        self.leave(first);
        let mut until = Time(0);
        if let Some((waited_until, due)) = self.messages.rare(first).map(|rare| (rare.until, rare.due)) {
            if waited_until != Time(0) {
                self.messages.rare_mut(first).until = Time(0);
            }
            // The wall clock may have gone back since that was timed.
            let early_ms = due.0.saturating_sub(turn.now.wall.0);
            let still = if early_ms == 0 { Time(0) } else { Time(turn.now.time.0.saturating_add(early_ms)) };
            until = waited_until.max(still);
        }
        if until > turn.now.time {
            self.place_scheduled(first, until);
        } else {
            self.note_ready(first, turn.now.time);
            self.place_ready(first, End::Back);
        }
        let queue = self.messages.at(first).queue;
        self.mark_dirty(queue);
    }

    /// The place of a redriven message among those of its ordering key: the last one, where it has to have another than it
    /// has; 0 otherwise.
    pub(super) fn order_again(&mut self, slot: u32, target: u32) -> u64 {
        let message = self.messages.at(slot);
        let holds = message.queue == target && self.is_head(slot);
        if holds || !self.is_ordered(slot) {
            return 0;
        }
        // Ids say who came when; this one is no message's.
        self.next_id += 1;
        self.next_id - 1
    }

    /// Where a message stands among those of its ordering key.
    pub(super) fn order_of(&self, slot: u32) -> (u64, u64) {
        let (id, order) = (self.messages.at(slot).id, self.messages.rare(slot).map_or(0, |rare| rare.order));
        // What was redriven comes before whatever had that number of its own, after a restart.
        (if order == 0 { id } else { order }, id)
    }

    /// Whether the others of its ordering key wait for this message.
    pub(super) fn is_head(&self, slot: u32) -> bool {
        let lane = self.messages.at(slot).lane;
        lane != NIL && self.lanes.at(lane).head == slot
    }

    /// After a replay: of each ordering key the first message goes on, the others wait.
    pub(super) fn line_up(&mut self) {
        let mut ordered = Vec::new();
        for (slot, message) in self.messages.iter() {
            let rare = self.messages.rare(slot);
            let waits = message.state != State::Dead || rare.is_some_and(|rare| rare.holds_key);
            if waits && message.lane != NIL && self.lanes.at(message.lane).is_ordered() {
                ordered.push((message.lane, self.order_of(slot), slot));
            }
        }
        ordered.sort_unstable();
        for (lane, _, slot) in ordered {
            if self.lanes.at(lane).head == NIL {
                self.lanes.at_mut(lane).head = slot;
                continue;
            }
            let message = self.messages.at(slot);
            let until = (message.state == State::Scheduled).then(|| message.until());
            self.leave(slot);
            self.place_blocked(slot, until);
        }
    }
}
