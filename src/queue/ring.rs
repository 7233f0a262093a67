//! Deficit round robin: whose turn it is among flows of any kind.
//!
//! On its turn a flow is given its weight and may take until that is used up; what it took beyond is owed, and what it
//! left is lost when it has nothing more to be served. So each gets its share of what is served, by its weight, whatever
//! waits in the others.

use std::collections::VecDeque;

/// The flows with something to serve, whose turn it is first; also some that were emptied since.
#[derive(Debug, Default)]
pub(super) struct Ring {
    order: VecDeque<u32>,
    /// The first was given its weight.
    is_turn_begun: bool,
}

/// What a flow may take.
#[derive(Debug)]
pub(super) struct Share {
    /// What it may still take in this turn; below zero what it owes.
    deficit: i64,
    /// What it is given on its turn, at least 1.
    pub(super) weight: u32,
    pub(super) in_ring: bool,
}

/// Who takes turns.
pub(super) trait Flows {
    fn share_mut(&mut self, flow: u32) -> &mut Share;
    /// Nothing of it is to be served.
    fn is_empty(&self, flow: u32) -> bool;
    /// It left the ring.
    fn left(&mut self, _flow: u32) {}
}

impl Share {
    pub(super) fn new(weight: u32) -> Self {
        Self { deficit: 0, weight, in_ring: false }
    }

    /// It took something.
    pub(super) fn take(&mut self, cost: u64) {
        self.deficit = self.deficit.saturating_sub_unsigned(cost);
    }

    /// Whether its turn goes on.
    pub(super) fn may_take(&self) -> bool {
        self.deficit > 0
    }
}

impl Ring {
    /// The flow has something to be served, perhaps since long.
    pub(super) fn enter(&mut self, flow: u32, share: &mut Share) {
        if !share.in_ring {
            share.in_ring = true;
            self.order.push_back(flow);
        }
    }

    /// The flow to be served, the same until its turn is over.
    pub(super) fn whose_turn(&mut self, flows: &mut impl Flows) -> Option<u32> {
        loop {
            let flow = *self.order.front()?;
            let is_empty = flows.is_empty(flow);
            let share = flows.share_mut(flow);
            if is_empty {
                self.order.pop_front();
                self.is_turn_begun = false;
                share.in_ring = false;
                share.deficit = share.deficit.min(0);
                flows.left(flow);
                continue;
            }
            if !std::mem::replace(&mut self.is_turn_begun, true) {
                share.deficit += i64::from(share.weight);
            }
            if share.may_take() {
                return Some(flow);
            }
            self.order.rotate_left(1);
            self.is_turn_begun = false;
        }
    }
}

#[cfg(test)]
mod tests;
