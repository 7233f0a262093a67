//! Namespaces and queues by name. A mailbox is a queue that exists while it holds something.

use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use crate::clock::Time;
use crate::ids::QueueName;
use crate::queue::config::{NamespaceRules, QueueConfig, QueueRules};
use crate::queue::dedup::Ids;
use crate::queue::messages::NIL;
use crate::queue::quota::{Pace, Quota};
use crate::queue::ready::Ready;
use crate::queue::settings::Own;

/// A tenant's small number.
pub(super) type NamespaceId = u32;

/// One tenant's sums.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) name: Box<str>,
    pub(super) queues: usize,
    pub(super) mailboxes: usize,
    pub(super) producers: usize,
    pub(super) parked_bytes: u64,
    /// Messages that wait or are worked on.
    pub(super) messages: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Those worked on.
    pub(super) leased: u64,
    /// Its bounds, and who waits for them.
    pub(super) quota: Quota,
}

/// Schedules that wait for room in a queue.
#[derive(Debug, Default)]
pub(super) struct ScheduleLine {
    /// Each once; never empty.
    pub(super) slots: VecDeque<u32>,
    /// What went in last was a publish that had waited.
    pub(super) has_turn: bool,
}

/// One queue or mailbox.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) namespace: NamespaceId,
    pub(super) name: Box<str>,
    pub(super) is_mailbox: bool,
    /// Waits in the brain's list of queues to serve.
    pub(super) is_dirty: bool,
    /// Among the queues that wait until the outbox has room.
    pub(super) is_held_back: bool,
    /// Among the queues that wait for a free place among the reads.
    pub(super) is_starved: bool,
    pub(super) ready: Ready,
    pub(super) ready_count: u64,
    /// Messages that wait for another of their ordering key.
    pub(super) blocked_count: u64,
    pub(super) scheduled_count: u64,
    pub(super) leased_count: u64,
    /// Of messages in any state.
    pub(super) bytes: u64,
    /// Of dead letters.
    pub(super) dead_bytes: u64,
    /// Slots of dead letters by id.
    pub(super) dead: BTreeMap<u64, u32>,
    /// The one that is dead for longest and the last that died.
    pub(super) dead_ends: (u32, u32),
    /// When the last one died, `Time(0)` for never.
    pub(super) last_death: Time,
    /// When its dead letters are looked at next: some may have been kept for long enough.
    pub(super) retain_at: Option<Time>,
    /// First and last parked publish.
    pub(super) parked: (u32, u32),
    pub(super) parked_count: u64,
    /// Schedules that wait for room in it, while there are some.
    pub(super) schedules: Option<Box<ScheduleLine>>,
    /// Subscriptions with credit, first to last, served in turn.
    pub(super) eager: (u32, u32),
    /// Subscriptions in all.
    pub(super) subscriptions: u64,
    /// The client whose mailbox this is, while it is subscribed.
    pub(super) owner: u32,
    /// What was set for it.
    pub(super) own: Option<Box<Own>>,
    /// Deduplication ids it remembers.
    pub(super) dedup: Option<Box<Ids>>,
    /// What was used of its rates, once it has any.
    pub(super) pace: Option<Box<Pace>>,
    /// Among the queues of its namespace whose parked publishes wait for their turn.
    pub(super) in_publish_line: bool,
    /// Among the queues of its namespace whose deliveries wait for their turn.
    pub(super) in_deliver_line: bool,
}

impl Queue {
    pub(super) fn messages(&self) -> u64 {
        self.waiting() + self.dead.len() as u64
    }

    /// Messages that are not dead.
    pub(super) fn waiting(&self) -> u64 {
        self.ready_count + self.scheduled_count + self.leased_count + self.blocked_count
    }

    pub(super) fn rules<'a>(&'a self, config: &'a QueueConfig) -> &'a QueueRules {
        match &self.own {
            Some(own) => &own.rules,
            None if self.is_mailbox => &config.mailbox,
            None => &config.work_queue,
        }
    }

    /// Whether publishes or schedules wait for room in it.
    #[inline]
    pub(super) fn has_line(&self) -> bool {
        self.parked_count > 0 || self.schedules.is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.messages() == 0
            && !self.has_line()
            && self.subscriptions == 0
            && self.own.is_none()
            && self.dedup.is_none()
    }

    pub(super) fn has_too_many_dead(&self, config: &QueueConfig) -> bool {
        let rules = self.rules(config);
        self.dead.len() as u64 > rules.dead_messages_max.unwrap_or(rules.messages_max)
            || self.dead_bytes > rules.dead_bytes_max.unwrap_or(rules.bytes_max)
    }

    /// Whether so much more fits. Dead letters have a bound of their own: they must not keep new work out.
    pub(super) fn has_room(&self, config: &QueueConfig, messages: u64, bytes: u64) -> bool {
        let rules = self.rules(config);
        self.waiting() + messages <= rules.messages_max
            && self.bytes - self.dead_bytes + bytes <= rules.bytes_max
    }
}

/// Which bound a new name would break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NamesFull {
    pub(super) what: &'static str,
    pub(super) max: usize,
}

/// Every tenant and queue.
#[derive(Debug, Default)]
pub(super) struct Queues {
    tenants: Vec<Tenant>,
    tenant_ids: HashTable<u32>,
    pub(super) slab: Slab<Queue>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The configuration's bounds of a namespace.
    namespace: NamespaceRules,
}

impl Queues {
    pub(super) fn new(namespace: NamespaceRules) -> Self {
        Self { namespace, ..Self::default() }
    }

    /// Counts a message that waits or is worked on.
    #[inline]
    pub(super) fn count_in(&mut self, namespace: NamespaceId, bytes: u64) {
        let tenant = self.tenant_mut(namespace);
        tenant.messages += 1;
        tenant.bytes += bytes;
    }

    /// The message counted in does not wait any more. The queue whose parked publishes are next, if some wait for that.
    #[inline]
    pub(super) fn count_out(&mut self, namespace: NamespaceId, bytes: u64) -> Option<u32> {
        let tenant = self.tenant_mut(namespace);
        tenant.messages -= 1;
        tenant.bytes -= bytes;
        tenant.quota.publishing.front().copied()
    }

    pub(super) fn tenant(&self, id: NamespaceId) -> &Tenant {
        &self.tenants[id as usize]
    }

    pub(super) fn tenant_mut(&mut self, id: NamespaceId) -> &mut Tenant {
        &mut self.tenants[id as usize]
    }

    pub(super) fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.iter()
    }

    #[inline]
    pub(super) fn at(&self, queue: u32) -> &Queue {
        &self.slab[queue as usize]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, queue: u32) -> &mut Queue {
        &mut self.slab[queue as usize]
    }

    pub(super) fn find_namespace(&self, name: &str) -> Option<NamespaceId> {
        let hash = self.hasher.hash_one(name);
        self.tenant_ids.find(hash, |&id| &*self.tenants[id as usize].name == name).copied()
    }

    /// The number of a namespace, new or old.
    pub(super) fn intern(&mut self, name: &str, max: usize) -> Result<NamespaceId, NamesFull> {
        if let Some(id) = self.find_namespace(name) {
            return Ok(id);
        }
        if self.tenants.len() >= max {
            return Err(NamesFull { what: "namespaces of this server", max });
        }
        let id = self.tenants.len() as u32;
        self.tenants.push(Tenant {
            name: name.into(),
            queues: 0,
            mailboxes: 0,
            producers: 0,
            parked_bytes: 0,
            messages: 0,
            bytes: 0,
            leased: 0,
            quota: Quota::new(self.namespace),
        });
        let Self { tenants, tenant_ids, hasher, .. } = self;
        tenant_ids
            .insert_unique(hasher.hash_one(name), id, |&id| hasher.hash_one(&*tenants[id as usize].name));
        Ok(id)
    }

    pub(super) fn find(&self, namespace: NamespaceId, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one((namespace, name));
        let is_it = |&queue: &u32| {
            let queue = self.at(queue);
            queue.namespace == namespace && &*queue.name == name
        };
        self.by_name.find(hash, is_it).copied()
    }

    /// The queue of this name, new or old; a replay knows no bounds.
    pub(super) fn open(
        &mut self,
        namespace: NamespaceId,
        name: &str,
        bounds: Option<&QueueConfig>,
    ) -> Result<u32, NamesFull> {
        if let Some(queue) = self.find(namespace, name) {
            return Ok(queue);
        }
        let is_mailbox = name.starts_with(QueueName::MAILBOX_PREFIX);
        let tenant = &mut self.tenants[namespace as usize];
        let (count, max, what) = if is_mailbox {
            let max = bounds.map_or(usize::MAX, |bounds| bounds.mailboxes_per_namespace_max);
            (&mut tenant.mailboxes, max, "mailboxes of this namespace that hold something")
        } else {
            let max = bounds.map_or(usize::MAX, |bounds| bounds.queues_per_namespace_max);
            (&mut tenant.queues, max, "work queues of this namespace")
        };
        if *count >= max {
            return Err(NamesFull { what, max });
        }
        *count += 1;
        let queue = self.slab.insert(Queue {
            namespace,
            name: name.into(),
            is_mailbox,
            is_dirty: false,
            is_held_back: false,
            is_starved: false,
            ready: Ready::default(),
            ready_count: 0,
            blocked_count: 0,
            scheduled_count: 0,
            leased_count: 0,
            bytes: 0,
            dead_bytes: 0,
            dead: BTreeMap::new(),
            dead_ends: (NIL, NIL),
            last_death: Time(0),
            retain_at: None,
            parked: (NIL, NIL),
            parked_count: 0,
            schedules: None,
            eager: (NIL, NIL),
            subscriptions: 0,
            owner: NIL,
            own: None,
            dedup: None,
            pace: None,
            in_publish_line: false,
            in_deliver_line: false,
        }) as u32;
        let Self { slab, by_name, hasher, .. } = self;
        by_name.insert_unique(hasher.hash_one((namespace, name)), queue, |&queue| {
            let queue = &slab[queue as usize];
            hasher.hash_one((queue.namespace, &*queue.name))
        });
        Ok(queue)
    }

    /// Forgets an idle queue.
    pub(super) fn close(&mut self, queue: u32) {
        let closed = self.slab.remove(queue as usize);
        debug_assert!(closed.is_idle() && !closed.is_dirty);
        let hash = self.hasher.hash_one((closed.namespace, &*closed.name));
        if let Ok(entry) = self.by_name.find_entry(hash, |&found| found == queue) {
            entry.remove();
        }
        let tenant = &mut self.tenants[closed.namespace as usize];
        if closed.is_mailbox {
            tenant.mailboxes -= 1;
        } else {
            tenant.queues -= 1;
        }
    }
}
