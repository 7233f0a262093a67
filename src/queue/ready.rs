//! The ready messages of one queue, and whose turn it is.
//!
//! Messages with a fairness key are in the flow of that key, the others are in one of their own. Flows with messages stand
//! in a ring and are served by deficit round robin: on its turn a flow is given its weight, a delivery costs 1 and as much
//! again for each further [`COST_BYTES`] of the message, and the turn ends when nothing is left. What a large message cost
//! beyond that is owed. Within a flow the highest priority comes first, and of one priority whatever became ready first.
//!
//! A queue without fairness keys has one list a priority and no ring.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use slab::Slab;

use crate::clock::Time;
use crate::limits::PRIORITIES;
use crate::queue::messages::{Messages, NIL, State};

/// The flow of the messages without a fairness key.
pub(super) const PLAIN: u32 = u32::MAX;
/// A delivery costs 1 for each begun so many bytes.
pub(super) const COST_BYTES: u32 = 64 << 10;

/// The ready messages of one queue.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Of the messages without a fairness key.
    plain: Lists,
    /// There while a message of the queue has a fairness key.
    shares: Option<Box<Shares>>,
}

/// The turns of the flows of one queue.
#[derive(Debug, Default)]
struct Shares {
    flows: Slab<Flow>,
    by_key: HashMap<Box<str>, u32>,
    plain: Share,
    /// Flows with messages, whose turn it is first; also some that were emptied since.
    ring: VecDeque<u32>,
    /// The first of the ring was given its weight.
    is_turn_begun: bool,
    /// Of all flows.
    lanes: u32,
}

#[derive(Debug)]
struct Flow {
    key: Box<str>,
    lists: Lists,
    share: Share,
    /// Who may put messages into it.
    lanes: u32,
}

/// What a flow may take.
#[derive(Debug)]
struct Share {
    /// What it may still take in this turn; below zero what it owes.
    deficit: i64,
    weight: u32,
    in_ring: bool,
}

impl Default for Share {
    fn default() -> Self {
        Self { deficit: 0, weight: 1, in_ring: false }
    }
}

impl Ready {
    /// The message to serve next, the same until one was served or left. `None` when there is none. With `ageing`, a message
    /// counts one priority more for each such time since it was published.
    pub(super) fn next(&mut self, messages: &Messages, now: Time, ageing: Option<Duration>) -> Option<u32> {
        let flow = match &mut self.shares {
            None => PLAIN,
            Some(shares) => shares.whose_turn(&self.plain)?,
        };
        self.lists(flow).next(messages, now, ageing)
    }

    /// A message of this flow with `bytes` bytes is being delivered.
    pub(super) fn served(&mut self, flow: u32, bytes: u32) {
        if let Some(shares) = &mut self.shares {
            shares.share_mut(flow).deficit -= i64::from(bytes.div_ceil(COST_BYTES).max(1));
        }
    }

    pub(super) fn push_back(&mut self, messages: &mut Messages, slot: u32, flow: u32) {
        self.enter_ring(flow);
        self.lists_mut(flow).push_back(messages, slot);
    }

    pub(super) fn push_front(&mut self, messages: &mut Messages, slot: u32, flow: u32) {
        self.enter_ring(flow);
        self.lists_mut(flow).push_front(messages, slot);
    }

    pub(super) fn unlink(&mut self, messages: &mut Messages, slot: u32, flow: u32) {
        self.lists_mut(flow).unlink(messages, slot);
    }

    /// The first of each list.
    pub(super) fn heads(&self) -> impl Iterator<Item = u32> + '_ {
        let keyed = self.shares.iter().flat_map(|shares| shares.flows.iter().map(|(_, flow)| &flow.lists));
        std::iter::once(&self.plain).chain(keyed).flat_map(Lists::heads)
    }

    /// The flow of a fairness key, for one lane more; no key is [`PLAIN`].
    pub(super) fn open_flow(&mut self, key: &str, weight: u32) -> u32 {
        if key.is_empty() {
            return PLAIN;
        }
        let has_plain = !self.plain.is_empty();
        let shares = self.shares.get_or_insert_with(|| {
            let mut shares = Box::new(Shares::default());
            if has_plain {
                shares.enter_ring(PLAIN);
            }
            shares
        });
        let flow = shares.by_key.get(key).copied().unwrap_or_else(|| {
            let share = Share { weight, ..Share::default() };
            let flow = Flow { key: key.into(), lists: Lists::default(), share, lanes: 0 };
            let flow = shares.flows.insert(flow) as u32;
            shares.by_key.insert(key.into(), flow);
            flow
        });
        shares.flows[flow as usize].lanes += 1;
        shares.lanes += 1;
        flow
    }

    /// A lane of this flow is gone.
    pub(super) fn close_flow(&mut self, flow: u32) {
        let Some(shares) = self.shares.as_mut().filter(|_| flow != PLAIN) else { return };
        shares.flows[flow as usize].lanes -= 1;
        shares.lanes -= 1;
        shares.forget_if_unused(flow);
        if shares.lanes == 0 {
            self.shares = None;
        }
    }

    /// The weights were set anew.
    pub(super) fn weigh(&mut self, weights: &BTreeMap<Box<str>, u32>) {
        for (_, flow) in self.shares.iter_mut().flat_map(|shares| &mut shares.flows) {
            flow.share.weight = weights.get(&flow.key).copied().unwrap_or(1);
        }
    }

    fn enter_ring(&mut self, flow: u32) {
        if let Some(shares) = &mut self.shares {
            shares.enter_ring(flow);
        }
    }

    fn lists(&self, flow: u32) -> &Lists {
        match &self.shares {
            Some(shares) if flow != PLAIN => &shares.flows[flow as usize].lists,
            _ => &self.plain,
        }
    }

    fn lists_mut(&mut self, flow: u32) -> &mut Lists {
        match &mut self.shares {
            Some(shares) if flow != PLAIN => &mut shares.flows[flow as usize].lists,
            _ => &mut self.plain,
        }
    }
}

impl Shares {
    fn share_mut(&mut self, flow: u32) -> &mut Share {
        if flow == PLAIN { &mut self.plain } else { &mut self.flows[flow as usize].share }
    }

    fn enter_ring(&mut self, flow: u32) {
        let share = self.share_mut(flow);
        if !share.in_ring {
            share.in_ring = true;
            self.ring.push_back(flow);
        }
    }

    /// The flow to be served; it has messages.
    fn whose_turn(&mut self, plain: &Lists) -> Option<u32> {
        loop {
            let flow = *self.ring.front()?;
            let lists = if flow == PLAIN { plain } else { &self.flows[flow as usize].lists };
            if lists.is_empty() {
                self.ring.pop_front();
                self.is_turn_begun = false;
                let share = self.share_mut(flow);
                share.in_ring = false;
                // What is left of a turn is not saved up; what is owed stays owed.
                share.deficit = share.deficit.min(0);
                self.forget_if_unused(flow);
                continue;
            }
            let is_turn_begun = std::mem::replace(&mut self.is_turn_begun, true);
            let share = self.share_mut(flow);
            if !is_turn_begun {
                share.deficit += i64::from(share.weight);
            }
            if share.deficit > 0 {
                return Some(flow);
            }
            self.ring.rotate_left(1);
            self.is_turn_begun = false;
        }
    }

    fn forget_if_unused(&mut self, flow: u32) {
        if flow == PLAIN {
            return;
        }
        let entry = &self.flows[flow as usize];
        if entry.lanes == 0 && !entry.share.in_ring {
            let removed = self.flows.remove(flow as usize);
            self.by_key.remove(&removed.key);
        }
    }
}

/// The ready messages of one flow: a list a priority.
#[derive(Debug)]
struct Lists {
    heads: [u32; PRIORITIES],
    tails: [u32; PRIORITIES],
    occupied: u16,
}

impl Default for Lists {
    fn default() -> Self {
        Self { heads: [NIL; PRIORITIES], tails: [NIL; PRIORITIES], occupied: 0 }
    }
}

impl Lists {
    fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// Of the highest priority, the one longest in its list.
    #[inline]
    fn next(&self, messages: &Messages, now: Time, ageing: Option<Duration>) -> Option<u32> {
        let top = (u16::BITS - self.occupied.leading_zeros()).checked_sub(1)?;
        match ageing {
            // The only list there is, however old its messages are.
            Some(ageing) if self.occupied != 1 << top => self.next_aged(messages, now, ageing),
            _ => Some(self.heads[top as usize]),
        }
    }

    /// Of the highest priority with what its age adds, the oldest.
    fn next_aged(&self, messages: &Messages, now: Time, ageing: Duration) -> Option<u32> {
        let step_ms = u64::try_from(ageing.as_millis()).unwrap_or(u64::MAX).max(1);
        self.heads().max_by_key(|&head| {
            let message = messages.at(head);
            let age_ms = message.published.millis_until(now);
            (u64::from(message.priority) + age_ms / step_ms, age_ms)
        })
    }

    fn heads(&self) -> impl Iterator<Item = u32> + '_ {
        self.heads.iter().copied().filter(|&head| head != NIL)
    }

    fn push_back(&mut self, messages: &mut Messages, slot: u32) {
        let priority = messages.at(slot).priority as usize;
        let tail = std::mem::replace(&mut self.tails[priority], slot);
        let message = messages.at_mut(slot);
        message.state = State::Ready;
        message.prev = tail;
        message.next = NIL;
        match tail {
            NIL => self.heads[priority] = slot,
            _ => messages.at_mut(tail).next = slot,
        }
        self.occupied |= 1 << priority;
    }

    fn push_front(&mut self, messages: &mut Messages, slot: u32) {
        let priority = messages.at(slot).priority as usize;
        let head = std::mem::replace(&mut self.heads[priority], slot);
        let message = messages.at_mut(slot);
        message.state = State::Ready;
        message.prev = NIL;
        message.next = head;
        match head {
            NIL => self.tails[priority] = slot,
            _ => messages.at_mut(head).prev = slot,
        }
        self.occupied |= 1 << priority;
    }

    fn unlink(&mut self, messages: &mut Messages, slot: u32) {
        let message = messages.at(slot);
        let (priority, prev, next) = (message.priority as usize, message.prev, message.next);
        match prev {
            NIL => self.heads[priority] = next,
            _ => messages.at_mut(prev).next = next,
        }
        match next {
            NIL => self.tails[priority] = prev,
            _ => messages.at_mut(next).prev = prev,
        }
        if self.heads[priority] == NIL {
            self.occupied &= !(1 << priority);
        }
    }
}
