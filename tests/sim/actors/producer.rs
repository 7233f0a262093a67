//! What producers publish.

use std::time::{Duration, SystemTime};

use relaymesh::client::{Message, Unsendable};
use relaymesh::ids::{Namespace, QueueName};
use relaymesh::limits;

use super::Role;
use super::client::filler;
use crate::scheduler::Micros;
use crate::shadow::Facts;
use crate::trace::note;
use crate::world::{Event, World};

/// The largest payload in a world with large messages; the gateways take no more, and a frame holds less.
const LARGE_MAX: usize = 16_000;

impl World {
    pub(super) fn start_producing(&mut self, index: usize) {
        let after = self.until_next_publish();
        let incarnation = self.clients[index].incarnation;
        self.scheduler.after(after, Event::Publish { client: index, incarnation });
    }

    fn until_next_publish(&mut self) -> Micros {
        self.random.u64(1..2 * self.plan.load.every)
    }

    pub(crate) fn publish(&mut self, index: usize, incarnation: u32) {
        let client = &self.clients[index];
        if !self.is_troubled() || !client.is_alive || client.incarnation != incarnation {
            return;
        }
        let namespace = client.namespace.clone();
        if self.plan.topics > 0 && self.random.u8(0..3) == 0 {
            return self.broadcast(index, incarnation);
        }
        if self.plan.later.is_bound() && self.later_random.u8(0..3) == 0 {
            return self.publish_bound(index, incarnation);
        }
        let queue = self.some_queue(&namespace);
        let has_id = self.later_random.u32(0..100) < self.plan.later.dedup_ids;
        let count = if has_id { 1 } else { self.random.usize(1..=self.plan.load.batch_max) };
        let messages: Vec<_> = (0..count).map(|_| self.some_message(&namespace, &queue, has_id)).collect();
        let (facts, bodies): (Vec<_>, Vec<_>) = messages.into_iter().unzip();
        match self.clients[index].session.publish_batch(&queue, bodies) {
            Ok(sequence) => {
                note!(self, "client {index} publishes {sequence}: {facts:?}");
                let keys = facts.iter().map(|facts| facts.key).collect();
                self.clients[index].unanswered.insert(sequence, keys);
                facts.into_iter().for_each(|facts| self.ledger.published(facts));
            }
            Err(Unsendable::Full | Unsendable::Batch { .. } | Unsendable::Bytes { .. }) => {}
            Err(error) => panic!("client {index}: {error}"),
        }
        self.published(index, incarnation);
    }

    pub(super) fn published(&mut self, index: usize, incarnation: u32) {
        let after = self.until_next_publish();
        self.scheduler.after(after, Event::Publish { client: index, incarnation });
        self.step_client(index);
    }

    /// Publishes to a topic. What the ledger keeps is for what is kept.
    fn broadcast(&mut self, index: usize, incarnation: u32) {
        let number = self.random.usize(0..self.plan.topics);
        let topic = self.topic(number);
        let count = self.random.usize(1..=self.plan.load.batch_max);
        let body = |world: &mut Self| {
            let key = world.next_key;
            world.next_key += 1;
            let mut payload = key.to_le_bytes().to_vec();
            payload.extend(filler(key).take(world.random.usize(0..=world.plan.load.body_max)));
            Message::new(payload).encode(limits::MESSAGE_BYTES_MAX).expect("it is small")
        };
        let bodies = (0..count).map(|_| body(self)).collect();
        if let Ok(sequence) = self.clients[index].session.publish_batch(&topic, bodies) {
            note!(self, "client {index} publishes {sequence} to {topic}");
            self.clients[index].unanswered.insert(sequence, Vec::new());
        }
        self.published(index, incarnation);
    }

    pub(super) fn topic(&self, number: usize) -> QueueName {
        QueueName::parse(&format!("topic/t{number}")).expect("a good name")
    }

    /// A queue or mailbox of the namespace.
    pub(super) fn some_queue(&mut self, namespace: &Namespace) -> QueueName {
        let devices =
            self.clients.iter().filter(|one| one.role == Role::Device && one.namespace == *namespace);
        let mailboxes: Vec<QueueName> = devices.map(|device| QueueName::mailbox(&device.id)).collect();
        if !mailboxes.is_empty() && self.random.u32(0..100) < self.plan.load.to_devices {
            return mailboxes[self.random.usize(0..mailboxes.len())].clone();
        }
        let number = self.random.usize(0..self.plan.queues);
        self.work_queue(number)
    }

    pub(super) fn work_queue(&self, number: usize) -> QueueName {
        QueueName::parse(&format!("jobs-{number}")).expect("a good name")
    }

    /// A message and what the shadow model has to know of it.
    pub(super) fn some_message(
        &mut self,
        namespace: &Namespace,
        queue: &QueueName,
        has_id: bool,
    ) -> (Facts, Vec<u8>) {
        let key = self.next_key;
        self.next_key += 1;
        let wall = self.wall();
        let (load, random) = (self.plan.load.clone(), &mut self.random);
        let mut hits = |percent| random.u32(0..100) < percent;
        let (is_delayed, is_due, expires, is_prioritized, is_bounded) = (
            hits(load.delayed),
            hits(load.due),
            hits(load.expiring),
            hits(load.prioritized),
            hits(load.bounded_attempts),
        );
        let mut payload = key.to_le_bytes().to_vec();
        let body_max = if load.is_large { LARGE_MAX } else { load.body_max };
        payload.extend(filler(key).take(random.usize(0..=body_max)));
        let mut message = Message::new(payload);
        if is_delayed {
            message = message.delay(Duration::from_millis(random.u64(1..8000)));
        }
        if is_due {
            message =
                message.due(SystemTime::UNIX_EPOCH + Duration::from_millis(wall.0 + random.u64(1..5000)));
        }
        if expires {
            message = message.ttl(Duration::from_millis(random.u64(1..10_000)));
        }
        if is_prioritized {
            message = message.priority(random.u8(0..=9));
        }
        if is_bounded {
            message = message.attempts(random.u32(1..4));
        }
        if has_id {
            message = message.dedup_id(format!("order-{}", self.later_random.u8(0..12)));
        } else if self.later_random.u32(0..100) < self.plan.later.order_keys {
            message = message.order_key(["x", "y", "z"][self.later_random.usize(0..3)]);
        }
        let rules = if queue.mailbox_owner().is_some() {
            &self.plan.queue.mailbox
        } else {
            &self.plan.queue.work_queue
        };
        let fields = message.as_proto();
        let facts = Facts {
            key,
            queue: (namespace.clone(), queue.clone()),
            attempts_max: if fields.attempts_max == 0 { rules.attempts_max } else { fields.attempts_max },
            can_expire: fields.ttl_ms > 0,
            dedup: has_id.then(|| fields.dedup_id.clone()),
            is_plain: !(is_delayed || is_due || expires || has_id) && fields.order_key.is_empty(),
        };
        let body = message.encode(limits::MESSAGE_BYTES_MAX).expect("all its fields are within their limits");
        (facts, body)
    }
}
