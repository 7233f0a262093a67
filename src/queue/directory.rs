//! Who is attached, over which connection and with which epoch.
//!
//! A client is found by its name, or by its connection: a list per loop says who is in which slot, and the client knows
//! its connection whole, so that what a replaced one still sends finds nobody.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::clock::Time;
use crate::ids::{ConnKey, LoopId, ProducerId, SubscriptionId};
use crate::limits;
use crate::paged::{Paged, PagedSlab};
use crate::queue::messages::{NIL, Taken};
use crate::queue::name::Name;
use crate::queue::queues::NamespaceId;
use crate::wheel::TimerId;

/// What a consumer is still willing to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
// There is one in each of a million clients: no byte for alignment.
#[repr(Rust, packed(4))]
pub(super) struct Credit {
    /// Below zero after a message larger than what was left; `i64::MAX` for no bound.
    bytes: i64,
    messages: u32,
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

/// What the loop of a connection is ready to take of deliveries, in units of 16 bytes, for there is one in each of a
/// million clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Room(u16);

impl Room {
    pub(super) const NONE: Self = Self(0);
    /// A megabyte or more is never used up.
    const UNBOUNDED: Self = Self(u16::MAX);
    const UNIT_BYTES: u32 = 16;

    pub(super) fn of_bytes(bytes: u32) -> Self {
        Self(u16::try_from(bytes.div_ceil(Self::UNIT_BYTES)).unwrap_or(u16::MAX))
    }

    /// What a delivery takes.
    pub(super) fn of_delivery(body_len: u32) -> Self {
        Self::of_bytes(body_len.saturating_add(limits::DELIVERY_OVERHEAD_BYTES))
    }

    pub(super) fn half(self) -> Self {
        Self(self.0.div_ceil(2))
    }

    /// One that is larger takes all there is.
    pub(super) fn take(&mut self, delivery: Self) {
        if *self != Self::UNBOUNDED {
            self.0 = self.0.saturating_sub(delivery.0);
        }
    }

    pub(super) fn give(&mut self, room: Self, max: Self) {
        self.0 = self.0.saturating_add(room.0).min(max.0);
    }
}

/// One session. Small, for there may be a million that do nothing.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: Name,
    pub(super) session_id: u64,
    /// What most clients have none of.
    pub(super) rest: Option<Box<Rest>>,
    /// Credit of the mailbox's subscription.
    pub(super) mailbox_credit: Credit,
    /// Counter of its connection's epoch, which is of this boot.
    pub(super) epoch: u32,
    pub(super) namespace: NamespaceId,
    slot: u32,
    generation: u32,
    /// First lease.
    pub(super) leases: u32,
    /// Its mailbox while that holds something and the client is subscribed to it.
    pub(super) mailbox_queue: u32,
    /// Runs while the connection is gone.
    pub(super) grace: Option<TimerId>,
    loop_id: LoopId,
    /// The mailbox's subscription; 0 for none.
    pub(super) mailbox_subscription: u16,
    /// While there is none it is stalled.
    pub(super) room: Room,
    pub(super) is_connected: bool,
    /// The loop was told that little room is left, or returned deliveries, and will say when there is more.
    pub(super) awaits_room: bool,
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

    /// Its connection's loop takes no more deliveries now.
    pub(super) fn is_stalled(&self) -> bool {
        self.room == Room::NONE
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

    /// To be called when something of the rest came to its end: a client that is idle again is as small as before.
    pub(super) fn drop_empty_rest(&mut self) {
        self.rest.take_if(|rest| {
            rest.subscriptions.is_empty()
                && rest.parked.is_empty()
                && !rest.reading_stopped
                && rest.turned_away.is_none()
        });
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
    pub(super) epoch: u32,
    pub(super) subscription: SubscriptionId,
    /// When it began; `Time(0)` for before the last restart, which nobody knows.
    pub(super) since: Time,
    /// Its body is being read: the delivery leaves when that has arrived.
    pub(super) is_reading: bool,
    /// Neighbours in the client's list.
    pub(super) next: u32,
    pub(super) prev: u32,
}

impl Lease {
    /// Whose credit its delivery used.
    pub(super) fn taken(&self) -> Taken {
        Taken { client: self.client, epoch: self.epoch, subscription: self.subscription }
    }
}

/// Clients by name and by connection.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) clients: PagedSlab<Client>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Who is in which slot of which loop, or [`NIL`].
    conns: Vec<Paged<u32>>,
}

/// What a client takes, in bytes, with a name of up to 22.
pub const CLIENT_BYTES: usize = PagedSlab::<Client>::ENTRY_BYTES;
/// What finding it by its connection takes, in bytes.
pub const CLIENT_BY_CONNECTION_BYTES: usize = size_of::<u32>();
/// What finding it by its name takes, in bytes: the table has room for 8 in 7 of its 2^n places, each a number and a byte
/// of its hash, so that it is 6 to 12 bytes; with a million clients 11.
pub const CLIENT_BY_NAME_BYTES: usize = 11;

impl Directory {
    #[inline]
    pub(super) fn at(&self, client: u32) -> &Client {
        &self.clients[client]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, client: u32) -> &mut Client {
        &mut self.clients[client]
    }

    pub(super) fn find(&self, namespace: NamespaceId, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one((namespace, name));
        let is_it = |&client: &u32| {
            let client = self.at(client);
            client.namespace == namespace && client.name.is(name)
        };
        self.by_name.find(hash, is_it).copied()
    }

    /// The client that this connection is attached as, if it still is.
    #[inline]
    pub(super) fn of_conn(&self, conn: ConnKey) -> Option<u32> {
        let client = *self.conns.get(usize::from(conn.loop_id.0))?.get(conn.slot)?;
        let entry = self.clients.get(client)?;
        (entry.is_connected && entry.conn() == conn).then_some(client)
    }

    pub(super) fn insert(&mut self, namespace: NamespaceId, name: &str) -> u32 {
        let client = self.clients.insert(Client {
            name: Name::new(name),
            session_id: 0,
            rest: None,
            mailbox_credit: Credit::default(),
            epoch: 0,
            namespace,
            slot: 0,
            generation: 0,
            leases: NIL,
            mailbox_queue: NIL,
            grace: None,
            loop_id: LoopId(0),
            mailbox_subscription: 0,
            room: Room::NONE,
            is_connected: false,
            awaits_room: false,
        });
        let Self { by_name, hasher, clients, .. } = self;
        by_name.insert_unique(hasher.hash_one((namespace, name)), client, |&client| {
            let client = &clients[client];
            hasher.hash_one((client.namespace, client.name.as_str()))
        });
        client
    }

    pub(super) fn remove(&mut self, client: u32) {
        let Some(removed) = self.clients.remove(client) else { return };
        let hash = self.hasher.hash_one((removed.namespace, removed.name.as_str()));
        if let Ok(entry) = self.by_name.find_entry(hash, |&found| found == client) {
            entry.remove();
        }
    }

    pub(super) fn connect(&mut self, client: u32, conn: ConnKey) {
        let loop_index = usize::from(conn.loop_id.0);
        if self.conns.len() <= loop_index {
            self.conns.resize_with(loop_index + 1, Paged::default);
        }
        let slots = &mut self.conns[loop_index];
        slots.grow_to(conn.slot + 1, || NIL);
        slots[conn.slot] = client;
        let entry = self.at_mut(client);
        (entry.loop_id, entry.slot, entry.generation) = (conn.loop_id, conn.slot, conn.generation);
        entry.is_connected = true;
    }

    pub(super) fn disconnect(&mut self, client: u32) {
        let entry = self.at_mut(client);
        let conn = entry.conn();
        // The slot may have been given to another connection already.
        if std::mem::take(&mut entry.is_connected)
            && let Some(in_slot) = self.conns[usize::from(conn.loop_id.0)].get_mut(conn.slot)
            && *in_slot == client
        {
            *in_slot = NIL;
        }
    }

    /// Memory it takes, in bytes; names of more than 22 bytes come on top.
    pub(super) fn bytes(&self) -> usize {
        let conns: usize = self.conns.iter().map(Paged::bytes).sum();
        self.clients.bytes() + conns + self.by_name.allocation_size()
    }

    /// Panics unless every connected client, and no other, is found by its connection.
    pub(super) fn check(&self) {
        for (index, client) in self.clients.iter() {
            let found = self.of_conn(client.conn()) == Some(index);
            assert_eq!(
                client.is_connected, found,
                "the connection map and client {:?} disagree",
                client.name
            );
            let found = self.find(client.namespace, client.name.as_str());
            assert_eq!(found, Some(index), "a client's name is lost");
            assert_ne!(client.is_connected, client.grace.is_some(), "grace runs exactly while disconnected");
        }
        let attached = self.conns.iter().flat_map(Paged::iter).filter(|client| **client != NIL).count();
        let connected = self.clients.iter().filter(|(_, client)| client.is_connected).count();
        assert_eq!(attached, connected, "connections without a client");
    }
}
