//! Topics: which sessions are subscribed to which while their connections last, and what is broadcast to them.
//!
//! A session's subscriptions to topics are one number: sessions with the same topics under the same subscription numbers
//! share a set, so that a million devices that listen to the same cost two bytes each. There may be only so many sets; a
//! session that ends a subscription and would need one more keeps what is left by itself. A loop is told each connection's
//! set and passes broadcasts by its connections itself; all that is counted here is how many subscriptions a topic has on
//! which loop. Nothing of it is durable; what a publish to a topic puts on queues and mailboxes is for [`super::fanout`].

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use slab::Slab;

use crate::ids::{LoopId, ShardId, SubscriptionId, TopicId};
use crate::limits;
use crate::log::Ticket;
use crate::mail::{Broadcast, Effect, PublishMessage, RefusalCode, Refused, TopicSet, TopicSubscription};
use crate::queue::bindings::Wanted;
use crate::queue::pattern;
use crate::queue::queues::{NamesFull, NamespaceId};
use crate::queue::{Brain, Turn, refused};

/// One topic; it exists while somebody is subscribed to it.
#[derive(Debug)]
struct Topic {
    namespace: NamespaceId,
    name: Box<str>,
    /// Subscriptions by loop, none of them 0.
    loops: Vec<(LoopId, u32)>,
}

/// One set; it exists while a session has it.
#[derive(Debug)]
struct Set {
    shared: Arc<TopicSet>,
    namespace: NamespaceId,
    sessions: u32,
}

/// In a client's place: its set is its own, and no other session's.
const OWN: u16 = u16::MAX;

/// What a tenant has.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    topics: usize,
    /// Of them, those of the server itself.
    system: usize,
    sets: usize,
}

/// All topics and who is subscribed to them.
#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: HashMap<TopicId, Topic>,
    by_name: HashTable<TopicId>,
    sets: Slab<Set>,
    by_subscriptions: HashTable<u16>,
    hasher: DefaultHashBuilder,
    /// By client: 0 for no topic, or one more than its set's place, or [`OWN`]. As long as the last client that has any.
    of_client: Vec<u16>,
    /// By client: what an ended subscription left where there was no room for another set. Each is a part of a set that
    /// was taken, so at most as large as a session's subscriptions.
    own: HashMap<u32, Arc<TopicSet>>,
    /// By namespace.
    counts: Vec<Count>,
    /// By loop: charges of the broadcasts that it has not said to be done.
    underway: Vec<u64>,
    /// The same of each namespace that has any.
    underway_of: HashMap<(LoopId, NamespaceId), u64>,
    next_topic: u64,
    next_set: u64,
}

impl Topics {
    /// Nobody is subscribed to anything. Loops tell the topics and sets of all shards apart by their numbers.
    pub(super) fn new(shard: ShardId) -> Self {
        Self { next_topic: shard.first_number(), next_set: shard.first_number(), ..Self::default() }
    }

    /// What the client is subscribed to.
    pub(super) fn of(&self, client: u32) -> &[TopicSubscription] {
        self.set_of(client).map_or(&[], |set| &set.subscriptions)
    }

    fn set_of(&self, client: u32) -> Option<&Arc<TopicSet>> {
        match self.of_client.get(client as usize).copied().unwrap_or(0) {
            0 => None,
            OWN => self.own.get(&client),
            number => Some(&self.sets[usize::from(number) - 1].shared),
        }
    }

    /// Subscribes a client, connected to `on`, that is not subscribed to this topic and does not use this number.
    fn subscribe(
        &mut self,
        client: u32,
        on: LoopId,
        namespace: NamespaceId,
        number: SubscriptionId,
        name: &str,
    ) -> Result<Arc<TopicSet>, NamesFull> {
        let topic = self.open(namespace, name)?;
        let mut wanted = self.of(client).to_vec();
        let at = wanted.partition_point(|own| own.subscription < number);
        wanted.insert(at, TopicSubscription { subscription: number, topic });
        match self.intern(namespace, &wanted) {
            Ok(set) => {
                let shared = Arc::clone(&self.sets[usize::from(set) - 1].shared);
                self.count(topic, on, 1);
                self.assign(client, set);
                Ok(shared)
            }
            Err(full) => {
                self.forget_if_unused(topic);
                Err(full)
            }
        }
    }

    /// Ends one subscription of a client of this namespace. `None` when there is none of this number, otherwise what is left.
    fn unsubscribe(
        &mut self,
        client: u32,
        on: LoopId,
        namespace: NamespaceId,
        number: SubscriptionId,
    ) -> Option<Option<Arc<TopicSet>>> {
        let mut wanted = self.of(client).to_vec();
        let at = wanted.iter().position(|own| own.subscription == number)?;
        let topic = wanted.remove(at).topic;
        // Perhaps that makes the room for what is left.
        self.assign(client, 0);
        if !wanted.is_empty() {
            match self.intern(namespace, &wanted) {
                Ok(set) => self.assign(client, set),
                Err(_) => {
                    let shared = self.new_set(&wanted);
                    self.own.insert(client, shared);
                    self.of_client[client as usize] = OWN;
                }
            }
        }
        self.count(topic, on, -1);
        Some(self.set_of(client).cloned())
    }

    /// Ends all subscriptions of a client whose connection on `on` is gone.
    pub(super) fn leave(&mut self, client: u32, on: LoopId) {
        let Some(shared) = self.set_of(client).cloned() else { return };
        self.assign(client, 0);
        for own in &shared.subscriptions {
            self.count(own.topic, on, -1);
        }
    }

    /// The topic of this name, new or old.
    fn open(&mut self, namespace: NamespaceId, name: &str) -> Result<TopicId, NamesFull> {
        if let Some(topic) = self.find(namespace, name) {
            return Ok(topic);
        }
        let max = limits::TOPICS_PER_NAMESPACE_MAX;
        let count = self.count_of(namespace);
        if count.topics >= max {
            return Err(NamesFull { what: "topics of this namespace with subscriptions", max });
        }
        count.topics += 1;
        count.system += usize::from(pattern::is_system(name));
        let id = TopicId(self.next_topic);
        self.next_topic += 1;
        self.topics.insert(id, Topic { namespace, name: name.into(), loops: Vec::new() });
        let Self { topics, by_name, hasher, .. } = self;
        by_name.insert_unique(hasher.hash_one((namespace, name)), id, |id| {
            let topic = &topics[id];
            hasher.hash_one((topic.namespace, &*topic.name))
        });
        Ok(id)
    }

    /// Whether somebody is subscribed to a system topic of this tenant.
    pub(super) fn has_system(&self, namespace: NamespaceId) -> bool {
        self.counts.get(namespace as usize).is_some_and(|count| count.system > 0)
    }

    fn find(&self, namespace: NamespaceId, name: &str) -> Option<TopicId> {
        let is_it = |id: &TopicId| {
            let topic = &self.topics[id];
            topic.namespace == namespace && &*topic.name == name
        };
        self.by_name.find(self.hasher.hash_one((namespace, name)), is_it).copied()
    }

    /// One subscription more or less to a topic on a loop; one that has none is forgotten.
    fn count(&mut self, topic: TopicId, on: LoopId, change: i32) {
        let Some(entry) = self.topics.get_mut(&topic) else { return };
        let at = entry.loops.partition_point(|(loop_id, _)| *loop_id < on);
        if entry.loops.get(at).is_none_or(|(loop_id, _)| *loop_id != on) {
            entry.loops.insert(at, (on, 0));
        }
        let subscriptions = &mut entry.loops[at].1;
        *subscriptions = subscriptions.saturating_add_signed(change);
        if *subscriptions == 0 {
            entry.loops.remove(at);
        }
        self.forget_if_unused(topic);
    }

    fn forget_if_unused(&mut self, id: TopicId) {
        if self.topics.get(&id).is_none_or(|topic| !topic.loops.is_empty()) {
            return;
        }
        let Some(topic) = self.topics.remove(&id) else { return };
        let hash = self.hasher.hash_one((topic.namespace, &*topic.name));
        if let Ok(entry) = self.by_name.find_entry(hash, |&found| found == id) {
            entry.remove();
        }
        let count = self.count_of(topic.namespace);
        count.topics -= 1;
        count.system -= usize::from(pattern::is_system(&topic.name));
    }

    /// The number of the set of these subscriptions, new or old; a new one has no session yet.
    fn intern(
        &mut self,
        namespace: NamespaceId,
        subscriptions: &[TopicSubscription],
    ) -> Result<u16, NamesFull> {
        let hash = self.hasher.hash_one(subscriptions);
        let is_it =
            |&number: &u16| *self.sets[usize::from(number) - 1].shared.subscriptions == *subscriptions;
        if let Some(&number) = self.by_subscriptions.find(hash, is_it) {
            return Ok(number);
        }
        let all = self.sets.len();
        let count = self.count_of(namespace);
        let max = limits::TOPIC_SETS_PER_NAMESPACE_MAX;
        if count.sets >= max {
            let what = "different sets of topics and subscription numbers of this namespace's sessions";
            return Err(NamesFull { what, max });
        }
        if all >= limits::TOPIC_SETS_MAX {
            let what = "different sets of topics and subscription numbers of this server's sessions";
            return Err(NamesFull { what, max: limits::TOPIC_SETS_MAX });
        }
        count.sets += 1;
        let shared = self.new_set(subscriptions);
        // There are no more than TOPIC_SETS_MAX, and the slab fills its gaps first.
        let number = self.sets.insert(Set { shared, namespace, sessions: 0 }) as u16 + 1;
        let Self { sets, by_subscriptions, hasher, .. } = self;
        by_subscriptions.insert_unique(hash, number, |&number| {
            hasher.hash_one(&*sets[usize::from(number) - 1].shared.subscriptions)
        });
        Ok(number)
    }

    fn new_set(&mut self, subscriptions: &[TopicSubscription]) -> Arc<TopicSet> {
        let id = self.next_set;
        self.next_set += 1;
        Arc::new(TopicSet { id, subscriptions: subscriptions.into() })
    }

    /// Gives the client another set, or none; the one it had is forgotten with its last session.
    fn assign(&mut self, client: u32, number: u16) {
        let at = client as usize;
        if self.of_client.len() <= at {
            self.of_client.resize(at + 1, 0);
        }
        let old = std::mem::replace(&mut self.of_client[at], number);
        if number > 0 {
            self.sets[usize::from(number) - 1].sessions += 1;
        }
        if old == OWN {
            self.own.remove(&client);
        } else if old > 0 {
            let place = usize::from(old) - 1;
            self.sets[place].sessions -= 1;
            if self.sets[place].sessions == 0 {
                let hash = self.hasher.hash_one(&*self.sets[place].shared.subscriptions);
                if let Ok(entry) = self.by_subscriptions.find_entry(hash, |&found| found == old) {
                    entry.remove();
                }
                let set = self.sets.remove(place);
                self.count_of(set.namespace).sets -= 1;
            }
        }
    }

    fn count_of(&mut self, namespace: NamespaceId) -> &mut Count {
        let at = namespace as usize;
        if self.counts.len() <= at {
            self.counts.resize(at + 1, Count::default());
        }
        &mut self.counts[at]
    }

    fn underway_on(&mut self, on: LoopId) -> &mut u64 {
        let at = usize::from(on.0);
        if self.underway.len() <= at {
            self.underway.resize(at + 1, 0);
        }
        &mut self.underway[at]
    }

    /// Panics when the counts are not what the clients say. `connected` gives each connected client and its loop.
    pub(super) fn check(&self, connected: &[(u32, LoopId)]) {
        let mut sessions = HashMap::new();
        let mut subscriptions = HashMap::new();
        for &(client, on) in connected {
            if let Some(set) = self.set_of(client) {
                *sessions.entry(set.id).or_insert(0) += 1;
                for own in &set.subscriptions {
                    *subscriptions.entry((own.topic, on)).or_insert(0) += 1;
                }
            }
        }
        let of_clients = self.of_client.iter().filter(|&&number| number > 0).count();
        assert_eq!(of_clients, sessions.values().sum::<usize>(), "topics of clients that are not connected");
        assert_eq!(sessions.len(), self.sets.len() + self.own.len(), "sets that no session has");
        let own = self.of_client.iter().filter(|&&number| number == OWN).count();
        assert_eq!(own, self.own.len(), "sets of sessions that have none of their own");
        assert_eq!(self.sets.len(), self.by_subscriptions.len(), "sets that are not found");
        for (_, set) in &self.sets {
            assert_eq!(sessions.get(&set.shared.id), Some(&(set.sessions as usize)), "{set:?} is miscounted");
        }
        assert_eq!(self.topics.len(), self.by_name.len(), "topics that are not found");
        let mut loops = 0;
        for (&id, topic) in &self.topics {
            assert!(!topic.loops.is_empty(), "{topic:?} has no subscription");
            for &(on, count) in &topic.loops {
                loops += 1;
                assert_eq!(subscriptions.get(&(id, on)), Some(&count), "{topic:?} is miscounted");
            }
        }
        assert_eq!(loops, subscriptions.len(), "subscriptions to no topic");
        let system = self.topics.values().filter(|topic| pattern::is_system(&topic.name)).count();
        assert_eq!(self.counts.iter().map(|count| count.system).sum::<usize>(), system, "system topics");
        let (topics, sets) = self.counts.iter().fold((0, 0), |sum, c| (sum.0 + c.topics, sum.1 + c.sets));
        assert_eq!((topics, sets), (self.topics.len(), self.sets.len()), "the tenants' counts are wrong");
    }
}

impl Brain {
    /// Subscribes a connected client to a topic; the number is free and the client may have one more.
    pub(super) fn subscribe_topic(
        &mut self,
        client: u32,
        number: SubscriptionId,
        name: &str,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refused> {
        check_name(name)?;
        let entry = self.directory.at(client);
        let (conn, namespace) = (entry.conn(), entry.namespace);
        let found = self.topics.find(namespace, name);
        if found.is_some_and(|topic| self.topics.of(client).iter().any(|own| own.topic == topic)) {
            let text = format!("topic/{name} is subscribed to already");
            return Err(refused(RefusalCode::Invalid, text, 0));
        }
        let set = self
            .topics
            .subscribe(client, conn.loop_id, namespace, number, name)
            .map_err(|full| self.names_full(full))?;
        turn.push_now(Effect::Topics { conn, topics: Some(set) });
        self.show_topics();
        Ok(())
    }

    /// Ends a connected client's subscription to a topic. `None` when the number is not that of one.
    pub(super) fn unsubscribe_topic(
        &mut self,
        client: u32,
        number: SubscriptionId,
        turn: &mut Turn<'_>,
    ) -> Option<()> {
        let entry = self.directory.at(client);
        let (conn, namespace) = (entry.conn(), entry.namespace);
        let topics = self.topics.unsubscribe(client, conn.loop_id, namespace, number)?;
        turn.push_now(Effect::Topics { conn, topics });
        self.show_topics();
        Some(())
    }

    /// A client's connection is gone, and its subscriptions to topics with it.
    pub(super) fn leave_topics(&mut self, client: u32) {
        self.topics.leave(client, self.directory.at(client).conn().loop_id);
        self.show_topics();
    }

    /// Hands messages, which were checked, to all who are subscribed to a topic now, once `after` is committed. Returns how
    /// many subscriptions that are.
    pub(super) fn broadcast(
        &mut self,
        namespace: NamespaceId,
        name: &str,
        messages: &[PublishMessage],
        bodies: &[u8],
        after: Ticket,
        turn: &mut Turn<'_>,
    ) -> Result<u64, Refused> {
        self.metrics.broadcasts.add(messages.len() as u64);
        let Some(topic) = self.topics.find(namespace, name) else { return Ok(0) };
        let loops = self.topics.topics[&topic].loops.clone();
        let charge = messages.iter().map(|message| Broadcast::charge_of(message.body_len as usize)).sum();
        self.check_underway(namespace, &loops, charge)?;
        let (shard, mut left) = (self.config.shard, bodies);
        let mut broadcasts = Vec::with_capacity(messages.len());
        for message in messages {
            let (body, rest) = left.split_at(message.body_len as usize);
            left = rest;
            broadcasts.push(Arc::new(Broadcast { shard, topic, namespace, body: body.into() }));
        }
        for &(loop_id, _) in &loops {
            *self.topics.underway_on(loop_id) += charge;
            *self.topics.underway_of.entry((loop_id, namespace)).or_insert(0) += charge;
            self.metrics.broadcast_bytes.add(charge);
            for broadcast in &broadcasts {
                let broadcast = Arc::clone(broadcast);
                turn.outbox.push(after, Effect::Broadcast { loop_id, broadcast }, &[]);
            }
        }
        Ok(loops.iter().map(|&(_, subscriptions)| u64::from(subscriptions)).sum())
    }

    /// A namespace leaves room for the next one. A broadcast that is larger than all there may be passes alone.
    fn check_underway(
        &mut self,
        namespace: NamespaceId,
        loops: &[(LoopId, u32)],
        charge: u64,
    ) -> Result<(), Refused> {
        let max = limits::BROADCAST_BYTES_PER_LOOP_MAX;
        let mut is_full = |loop_id: LoopId| {
            let all = *self.topics.underway_on(loop_id) + charge;
            let own = self.topics.underway_of.get(&(loop_id, namespace)).copied().unwrap_or(0) + charge;
            all > charge && own > max.saturating_sub(all) * limits::BROADCAST_SHARE_OF_FREE
        };
        if !loops.iter().any(|&(loop_id, _)| is_full(loop_id)) {
            return Ok(());
        }
        let each = limits::BROADCAST_CHARGE_BYTES_MIN;
        let text = format!(
            "as many broadcasts as may be, {max} bytes of all namespaces at {each} each or more, are on their way already"
        );
        Err(refused(RefusalCode::Overloaded, text, self.full_retry_ms()))
    }

    /// A loop has handed on broadcasts of this charge and namespace.
    pub(super) fn broadcasts_done(&mut self, loop_id: LoopId, namespace: NamespaceId, bytes: u64) {
        *self.topics.underway_on(loop_id) -= bytes;
        if let Some(own) = self.topics.underway_of.get_mut(&(loop_id, namespace)) {
            *own -= bytes;
            if *own == 0 {
                self.topics.underway_of.remove(&(loop_id, namespace));
            }
        }
        self.metrics.broadcast_bytes.sub(bytes);
    }

    fn show_topics(&self) {
        self.metrics.topics.set(self.topics.topics.len() as u64);
        self.metrics.topic_sets.set((self.topics.sets.len() + self.topics.own.len()) as u64);
    }
}

/// A topic's name. Wildcards are for patterns, which are bound to queues and not subscribed to.
fn check_name(name: &str) -> Result<(), Refused> {
    let text = match name {
        "" => "topic/ names no topic; write topic/<name>".to_owned(),
        name if name.contains(['*', '>']) => {
            format!(
                "topic/{name} holds '*' or '>', which stand for other names only where topics are bound to a queue: \
                 relaymesh topic bind"
            )
        }
        _ => return Ok(()),
    };
    Err(refused(RefusalCode::Invalid, text, 0))
}

/// What must be true of a publish to a topic, whoever listens to that.
pub(super) fn check_published(
    name: &str,
    messages: &[PublishMessage],
    bytes_max: usize,
) -> Result<(), Refused> {
    check_name(name)?;
    if pattern::is_system(name) {
        let text = format!("topic/{name} is the server's own; subscribe to it, or bind it to a queue");
        return Err(refused(RefusalCode::Invalid, text, 0));
    }
    let Some(large) = messages.iter().find(|message| message.body_len as usize > bytes_max) else {
        return Ok(());
    };
    let text = format!(
        "the encoded message has {} bytes; a topic takes messages of up to {bytes_max}, for it sends none in parts",
        large.body_len
    );
    Err(refused(RefusalCode::LimitReached, text, 0))
}

/// What is asked for a message that waits needs a queue that keeps it.
pub(super) fn check_kept(messages: &[PublishMessage], wanted: &[Wanted]) -> Result<(), Refused> {
    let waits = |(at, message): (usize, &PublishMessage)| {
        let header = &message.header;
        let waits = header.delay_ms > 0 || header.due.0 > 0 || header.ttl_ms > 0 || header.attempts_max > 0;
        waits && !wanted.iter().any(|wanted| wanted.takes[at] > 0)
    };
    if !messages.iter().enumerate().any(waits) {
        return Ok(());
    }
    let text = "no queue is bound to this topic that takes the message, and nothing else keeps it: delay_ms, due_unix_ms, \
                ttl_ms and attempts_max are for queues";
    Err(refused(RefusalCode::Invalid, text.to_owned(), 0))
}
