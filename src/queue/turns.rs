//! Which queue is served next: namespaces with something to serve take turns, by their weights, and within one its queues do,
//! so that no tenant's messages wait for another's backlog. What limits them all is the room in the outbox and the shard's
//! own time.

use std::collections::VecDeque;

use crate::queue::queues::NamespaceId;
use crate::queue::ring::{Flows, Ring, Share};

/// What a namespace of weight 1 takes in a turn, in costs of deliveries: a small part of what there is room for.
const TURN: u32 = 8;

/// Queues that wait to be served, each once.
#[derive(Debug, Default)]
pub(super) struct Turns {
    tenants: Tenants,
    ring: Ring,
}

/// By namespace.
#[derive(Debug, Default)]
struct Tenants(Vec<Waiting>);

#[derive(Debug)]
struct Waiting {
    queues: VecDeque<u32>,
    share: Share,
}

impl Turns {
    /// The namespace takes so many times as much in a turn as one of weight 1.
    pub(super) fn weigh(&mut self, namespace: NamespaceId, weight: u32) {
        self.tenants.open(namespace).share.weight = TURN * weight;
    }

    /// The queue waits behind the others of its namespace.
    pub(super) fn push(&mut self, namespace: NamespaceId, queue: u32) {
        let waiting = self.tenants.open(namespace);
        waiting.queues.push_back(queue);
        self.ring.enter(namespace, &mut waiting.share);
    }

    /// The queue to serve now, which does not wait any more.
    pub(super) fn next(&mut self) -> Option<u32> {
        let namespace = self.ring.whose_turn(&mut self.tenants)?;
        self.tenants.0[namespace as usize].queues.pop_front()
    }

    /// Something of this namespace was served; whether its turn goes on.
    pub(super) fn take(&mut self, namespace: NamespaceId, cost: u64) -> bool {
        let share = self.tenants.share_mut(namespace);
        share.take(cost);
        share.may_take()
    }

    /// Whether no queue waits.
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.0.iter().all(|waiting| waiting.queues.is_empty())
    }
}

impl Tenants {
    fn open(&mut self, namespace: NamespaceId) -> &mut Waiting {
        let at = namespace as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || Waiting { queues: VecDeque::new(), share: Share::new(TURN) });
        }
        &mut self.0[at]
    }
}

impl Flows for Tenants {
    fn share_mut(&mut self, namespace: u32) -> &mut Share {
        &mut self.0[namespace as usize].share
    }

    fn is_empty(&self, namespace: u32) -> bool {
        self.0[namespace as usize].queues.is_empty()
    }
}
