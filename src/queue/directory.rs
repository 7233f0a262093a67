//! Who is attached, over which connection and with which epoch.
//!
//! A client is found by its name, or by its connection: a vector per loop, indexed by slot and checked by generation,
//! so that what a replaced connection still sends finds nobody.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use crate::ids::{ConnKey, Epoch, LoopId, ProducerId, SubscriptionId};
use crate::queue::messages::NIL;
use crate::queue::queues::NamespaceId;
use crate::wheel::TimerId;

/// What a consumer is still willing to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Credit {
    /// Below zero after a message larger than what was left; `i64::MAX` for no bound.
    pub(super) bytes: i64,
    pub(super) messages: u32,
}

impl Credit {
    pub(super) fn new(messages: u32, bytes: u64) -> Self {
        let mut credit = Self::default();
        credit.add(messages, bytes);
        credit
    }

    pub(super) fn add(&mut self, messages: u32, bytes: u64) {
        self.messages = self.messages.saturating_add(messages).min(crate::limits::CREDIT_MESSAGES_MAX);
        self.bytes = self.bytes.saturating_add_unsigned(bytes);
    }

    pub(super) fn take(&mut self, bytes: u32) {
        self.messages -= 1;
        if self.bytes != i64::MAX {
            self.bytes -= i64::from(bytes);
        }
    }

    pub(super) fn is_open(self) -> bool {
        self.messages > 0 && self.bytes > 0
    }
}

/// One session. Small, for there may be a million that do nothing.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: Box<str>,
    pub(super) epoch: Epoch,
    pub(super) session_id: u64,
    /// What most clients have none of.
    pub(super) rest: Option<Box<Rest>>,
    /// Credit of the mailbox's subscription.
    pub(super) mailbox_credit: Credit,
    pub(super) namespace: NamespaceId,
    pub(super) slot: u32,
    pub(super) generation: u32,
    /// First lease.
    pub(super) leases: u32,
    /// Its mailbox while that holds something and the client is subscribed to it.
    pub(super) mailbox_queue: u32,
    /// Runs while the connection is gone.
    pub(super) grace: Option<TimerId>,
    pub(super) loop_id: LoopId,
    /// The mailbox's subscription; 0 for none.
    pub(super) mailbox_subscription: u16,
    pub(super) is_connected: bool,
    /// It returned deliveries and has not asked for more.
    pub(super) is_stalled: bool,
}

/// What only clients with work queues or parked publishes have.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Its subscriptions to work queues.
    pub(super) subscriptions: Vec<u32>,
    /// Its parked publishes, oldest first.
    pub(super) parked: VecDeque<u32>,
    /// It was told to stop being read.
    pub(super) reading_stopped: bool,
    /// The producer and the sequence of the publish that was refused for want of a place to be parked.
    pub(super) turned_away: Option<(ProducerId, u64)>,
}

impl Client {
    pub(super) fn conn(&self) -> ConnKey {
        ConnKey { loop_id: self.loop_id, slot: self.slot, generation: self.generation }
    }

    /// Whether it may have something to ack, now or soon.
    pub(super) fn is_consumer(&self) -> bool {
        self.leases != NIL
            || self.mailbox_subscription != 0
            || self.rest.as_ref().is_some_and(|rest| !rest.subscriptions.is_empty())
    }

    pub(super) fn rest_mut(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }
}

/// A subscription to a work queue.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) client: u32,
    pub(super) queue: u32,
    pub(super) id: SubscriptionId,
    pub(super) credit: Credit,
    /// In its queue's list of those with credit.
    pub(super) is_eager: bool,
    pub(super) next: u32,
    pub(super) prev: u32,
}

/// A lease that someone holds.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) message: u32,
    pub(super) client: u32,
    /// Counter of the epoch that took it; credit goes back to subscriptions of the same one only.
    pub(super) epoch: Epoch,
    pub(super) subscription: SubscriptionId,
    /// Neighbours in the client's list.
    pub(super) next: u32,
    pub(super) prev: u32,
}

#[derive(Debug, Clone, Copy)]
struct Attached {
    generation: u32,
    client: u32,
}

/// Clients by name and by connection.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) clients: Slab<Client>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    conns: Vec<Vec<Attached>>,
}

/// What an idle session costs the shard beside the bytes of its name: its entry, its place in the two tables.
pub(super) const IDLE_SESSION_BYTES: usize = size_of::<Client>() + size_of::<Attached>() + 11;
const _: () = assert!(IDLE_SESSION_BYTES + 32 <= 150, "an idle session is too large");

impl Directory {
    #[inline]
    pub(super) fn at(&self, client: u32) -> &Client {
        &self.clients[client as usize]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, client: u32) -> &mut Client {
        &mut self.clients[client as usize]
    }

    pub(super) fn find(&self, namespace: NamespaceId, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one((namespace, name));
        let is_it = |&client: &u32| {
            let client = self.at(client);
            client.namespace == namespace && &*client.name == name
        };
        self.by_name.find(hash, is_it).copied()
    }

    /// The client that this connection is attached as, if it still is.
    #[inline]
    pub(super) fn of_conn(&self, conn: ConnKey) -> Option<u32> {
        let attached = self.conns.get(usize::from(conn.loop_id.0))?.get(conn.slot as usize)?;
        (attached.client != NIL && attached.generation == conn.generation).then_some(attached.client)
    }

    pub(super) fn insert(&mut self, namespace: NamespaceId, name: &str) -> u32 {
        let client = self.clients.insert(Client {
            name: name.into(),
            epoch: Epoch(0),
            session_id: 0,
            rest: None,
            mailbox_credit: Credit::default(),
            namespace,
            slot: 0,
            generation: 0,
            leases: NIL,
            mailbox_queue: NIL,
            grace: None,
            loop_id: LoopId(0),
            mailbox_subscription: 0,
            is_connected: false,
            is_stalled: false,
        }) as u32;
        let Self { by_name, hasher, clients, .. } = self;
        by_name.insert_unique(hasher.hash_one((namespace, name)), client, |&client| {
            let client = &clients[client as usize];
            hasher.hash_one((client.namespace, &*client.name))
        });
        client
    }

    pub(super) fn remove(&mut self, client: u32) {
        let removed = self.clients.remove(client as usize);
        let hash = self.hasher.hash_one((removed.namespace, &*removed.name));
        if let Ok(entry) = self.by_name.find_entry(hash, |&found| found == client) {
            entry.remove();
        }
    }

    pub(super) fn connect(&mut self, client: u32, conn: ConnKey) {
        let loop_index = usize::from(conn.loop_id.0);
        if self.conns.len() <= loop_index {
            self.conns.resize_with(loop_index + 1, Vec::new);
        }
        let slots = &mut self.conns[loop_index];
        if slots.len() <= conn.slot as usize {
            slots.resize(conn.slot as usize + 1, Attached { generation: 0, client: NIL });
        }
        slots[conn.slot as usize] = Attached { generation: conn.generation, client };
        let entry = self.at_mut(client);
        (entry.loop_id, entry.slot, entry.generation) = (conn.loop_id, conn.slot, conn.generation);
        entry.is_connected = true;
    }

    pub(super) fn disconnect(&mut self, client: u32) {
        let conn = self.at(client).conn();
        self.at_mut(client).is_connected = false;
        // The slot may have been given to another connection already.
        if self.of_conn(conn) == Some(client) {
            self.conns[usize::from(conn.loop_id.0)][conn.slot as usize].client = NIL;
        }
    }

    /// Panics unless every connected client, and no other, is found by its connection.
    pub(super) fn check(&self) {
        for (index, client) in &self.clients {
            let found = self.of_conn(client.conn()) == Some(index as u32);
            assert_eq!(client.is_connected, found, "the connection map and client {} disagree", client.name);
            assert_eq!(
                self.find(client.namespace, &client.name),
                Some(index as u32),
                "a client's name is lost"
            );
            assert_ne!(client.is_connected, client.grace.is_some(), "grace runs exactly while disconnected");
        }
        let attached = self.conns.iter().flatten().filter(|attached| attached.client != NIL).count();
        let connected = self.clients.iter().filter(|(_, client)| client.is_connected).count();
        assert_eq!(attached, connected, "connections without a client");
    }
}
