//! The ready messages of one queue, and whose turn it is.
//!
//! Messages with a fairness key are in the flow of that key, the others are in one of their own. Flows take turns
//! ([`Ring`]): a delivery costs 1, and as much again for each further [`COST_BYTES`] of the message. Within a flow the highest
//! priority comes first, and of one priority whatever became ready first.
//!
//! A queue without fairness keys has one list a priority and no ring.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use slab::Slab;

use crate::clock::Time;
use crate::limits::PRIORITIES;
use crate::queue::messages::{Messages, NIL, State};
use crate::queue::ring::{Flows, Ring, Share};

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
#[derive(Debug)]
struct Shares {
    keyed: Keyed,
    plain: Share,
    ring: Ring,
}

/// The flows of fairness keys.
#[derive(Debug, Default)]
struct Keyed {
    flows: Slab<Flow>,
    by_key: HashMap<Box<str>, u32>,
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

/// The flows of a queue as its ring sees them.
struct All<'a> {
    keyed: &'a mut Keyed,
    plain: (&'a mut Share, &'a Lists),
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
            shares.keyed.share_mut(flow, &mut shares.plain).take(cost(bytes));
        }
    }

    /// The body of a message of this flow, which was leased, is being read back.
    pub(super) fn read_begun(&mut self, flow: u32) {
        self.lists_mut(flow).reading += 1;
    }

    /// It is there, or not wanted any more.
    pub(super) fn read_ended(&mut self, flow: u32) {
        self.lists_mut(flow).reading -= 1;
    }

    /// Whether bodies of this flow are being read back: what comes after them waits, so that it does not overtake.
    pub(super) fn is_reading(&self, flow: u32) -> bool {
        self.lists(flow).reading > 0
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

    /// Bodies of all flows that are being read back.
    pub(super) fn reading(&self) -> u32 {
        let keyed = self.shares.iter().flat_map(|shares| shares.keyed.flows.iter());
        self.plain.reading + keyed.map(|(_, flow)| flow.lists.reading).sum::<u32>()
    }

    /// The first of each list.
    pub(super) fn heads(&self) -> impl Iterator<Item = u32> + '_ {
        let keyed =
            self.shares.iter().flat_map(|shares| shares.keyed.flows.iter().map(|(_, flow)| &flow.lists));
        std::iter::once(&self.plain).chain(keyed).flat_map(Lists::heads)
    }

    /// The flow of a fairness key, for one lane more; no key is [`PLAIN`].
    pub(super) fn open_flow(&mut self, key: &str, weight: u32) -> u32 {
        if key.is_empty() {
            return PLAIN;
        }
        let has_plain = !self.plain.is_empty();
        let shares = self.shares.get_or_insert_with(|| Box::new(Shares::new(has_plain)));
        shares.keyed.open(key, weight)
    }

    /// A lane of this flow is gone.
    pub(super) fn close_flow(&mut self, flow: u32) {
        let Some(shares) = self.shares.as_mut().filter(|_| flow != PLAIN) else { return };
        shares.keyed.close(flow);
        if shares.keyed.lanes == 0 {
            self.shares = None;
        }
    }

    /// The weights were set anew.
    pub(super) fn weigh(&mut self, weights: &BTreeMap<Box<str>, u32>) {
        for (_, flow) in self.shares.iter_mut().flat_map(|shares| &mut shares.keyed.flows) {
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
            Some(shares) if flow != PLAIN => &shares.keyed.flows[flow as usize].lists,
            _ => &self.plain,
        }
    }

    fn lists_mut(&mut self, flow: u32) -> &mut Lists {
        match &mut self.shares {
            Some(shares) if flow != PLAIN => &mut shares.keyed.flows[flow as usize].lists,
            _ => &mut self.plain,
        }
    }
}

/// What a delivery of so many bytes takes of its flow's turn.
pub(super) fn cost(bytes: u32) -> u64 {
    u64::from(bytes.div_ceil(COST_BYTES).max(1))
}

impl Shares {
    fn new(has_plain: bool) -> Self {
        let mut shares = Self { keyed: Keyed::default(), plain: Share::new(1), ring: Ring::default() };
        if has_plain {
            shares.enter_ring(PLAIN);
        }
        shares
    }

    fn enter_ring(&mut self, flow: u32) {
        let Self { keyed, plain, ring } = self;
        ring.enter(flow, keyed.share_mut(flow, plain));
    }

    fn whose_turn(&mut self, lists: &Lists) -> Option<u32> {
        let Self { keyed, plain, ring } = self;
        ring.whose_turn(&mut All { keyed, plain: (plain, lists) })
    }
}

impl Flows for All<'_> {
    fn share_mut(&mut self, flow: u32) -> &mut Share {
        self.keyed.share_mut(flow, self.plain.0)
    }

    fn is_empty(&self, flow: u32) -> bool {
        let lists = if flow == PLAIN { self.plain.1 } else { &self.keyed.flows[flow as usize].lists };
        lists.is_empty()
    }

    fn left(&mut self, flow: u32) {
        self.keyed.forget_if_unused(flow);
    }
}

impl Keyed {
    /// The flow of this key, for one lane more.
    fn open(&mut self, key: &str, weight: u32) -> u32 {
        let flow = self.by_key.get(key).copied().unwrap_or_else(|| {
            let flow = Flow { key: key.into(), lists: Lists::default(), share: Share::new(weight), lanes: 0 };
            let flow = self.flows.insert(flow) as u32;
            self.by_key.insert(key.into(), flow);
            flow
        });
        self.flows[flow as usize].lanes += 1;
        self.lanes += 1;
        flow
    }

    /// The share of a flow, which may be the one without a key.
    fn share_mut<'a>(&'a mut self, flow: u32, plain: &'a mut Share) -> &'a mut Share {
        if flow == PLAIN { plain } else { &mut self.flows[flow as usize].share }
    }

    fn close(&mut self, flow: u32) {
        self.flows[flow as usize].lanes -= 1;
        self.lanes -= 1;
        self.forget_if_unused(flow);
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
    /// Bodies of its messages that are being read back for deliveries.
    reading: u32,
}

impl Default for Lists {
    fn default() -> Self {
        Self { heads: [NIL; PRIORITIES], tails: [NIL; PRIORITIES], occupied: 0, reading: 0 }
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
