//! What workers and devices do with what they are given.

use std::time::Duration;

use relaymesh::client::Settlement;
use relaymesh::ids::{LeaseId, QueueName, SubscriptionId};

use super::Role;
use super::client::{Delivered, key_of};
use crate::scheduler::{MS, Micros, SECOND};
use crate::trace::note;
use crate::world::{Event, World};

impl World {
    /// Subscribes: a device to its mailbox, a worker to every queue of its namespace.
    pub(super) fn start_working(&mut self, index: usize) {
        let queues: Vec<QueueName> = match self.clients[index].role {
            Role::Device => vec![QueueName::mailbox(&self.clients[index].id)],
            _ => (0..self.plan.queues).map(|number| self.work_queue(number)).collect(),
        };
        let (credit, credit_bytes) = (self.plan.work.credit, self.plan.work.credit_bytes);
        let client = &mut self.clients[index];
        for queue in queues {
            let subscription = client.session.subscribe(&queue, credit, credit_bytes, None);
            client.subscribed.insert(subscription.expect("there is room for a few subscriptions"), queue);
            client.credits += credit;
        }
        self.listen(index);
    }

    /// Subscribes to some topics, so that clients share some sets of them and differ in others.
    fn listen(&mut self, index: usize) {
        for number in (0..self.plan.topics).filter(|number| number % 2 == 0 || index.is_multiple_of(2)) {
            let topic = self.topic(number);
            let client = &mut self.clients[index];
            let subscription = client.session.subscribe(&topic, 1, 0, None);
            client.subscribed.insert(subscription.expect("there is room for a few subscriptions"), topic);
        }
    }

    /// Messages of topics came: there is nothing to answer.
    pub(super) fn told(&mut self, index: usize, broadcasts: Vec<(SubscriptionId, Vec<u8>)>) {
        let client = &self.clients[index];
        for (subscription, body) in broadcasts {
            let topic = &client.subscribed[&subscription];
            let conn = client.conn().expect("it came over a connection");
            self.watch.broadcasts.delivered(conn, &client.namespace, topic, key_of(&body));
        }
    }

    pub(super) fn delivered(&mut self, index: usize, deliveries: Vec<Delivered>) {
        for delivery in deliveries {
            let Delivered { subscription, lease, lease_ms, body } = delivery;
            let key = key_of(&body);
            self.ledger.in_parts += u64::from(body.len() > self.plan.gateway.whole_message_bytes_max());
            let client = &self.clients[index];
            let queue = client.subscribed.get(&subscription);
            let queue =
                queue.unwrap_or_else(|| panic!("client {index} has no subscription {subscription:?}"));
            let queue = (client.namespace.clone(), queue.clone());
            let key = self.ledger.key_in(&queue, key, lease.message, &body);
            let client = &self.clients[index];
            self.ledger.delivered(key, &queue, lease);
            let incarnation = client.incarnation;
            let takes = self.work_takes(lease_ms);
            self.scheduler.after(takes, Event::Work { client: index, incarnation, lease, key });
        }
        let (held, credits) = (self.clients[index].session.held(), self.clients[index].credits as usize);
        assert!(held <= credits, "client {index} holds {held} messages with a credit of {credits}");
    }

    fn work_takes(&mut self, lease_ms: u32) -> Micros {
        if !self.is_troubled() {
            return self.random.u64(0..2 * MS);
        }
        if self.random.u32(0..100) < self.plan.work.forgotten {
            // The worker thinks of it again when the lease is long over.
            return Micros::from(lease_ms) * MS + self.random.u64(0..4 * SECOND);
        }
        self.random.u64(0..=self.plan.work.work_max)
    }

    /// The work on a delivery is done, or needs more time.
    pub(crate) fn work(&mut self, index: usize, incarnation: u32, lease: LeaseId, key: u64) {
        if !self.clients[index].is_alive || self.clients[index].incarnation != incarnation {
            return;
        }
        let settlement = self.judge();
        note!(self, "client {index} says of {key} ({lease:?}): {settlement:?}");
        if settlement == Settlement::Ack && self.passes_on(index, lease, key) {
            return self.step_client(index);
        }
        if let Settlement::Extend { lease: more } = settlement {
            // A lease that is known to be over is not extended, and the work goes on all the same.
            self.clients[index].session.settle(lease, settlement);
            let takes = self.random.u64(0..more.as_micros() as u64);
            self.scheduler.after(takes, Event::Work { client: index, incarnation, lease, key });
        } else {
            self.ledger.settling(lease, &settlement);
            let is_taken = self.clients[index].session.settle(lease, settlement);
            assert!(is_taken, "client {index} lost hold of {lease:?}");
        }
        self.step_client(index);
    }

    /// Sometimes what comes of the work is another message, and the ack goes with it. False when it does not, or there is
    /// no room for it.
    fn passes_on(&mut self, index: usize, lease: LeaseId, key: u64) -> bool {
        if !self.is_troubled() || self.random.u8(0..4) > 0 {
            return false;
        }
        let namespace = self.clients[index].namespace.clone();
        let queue = self.some_queue(&namespace);
        let (facts, body) = self.some_message(&namespace, &queue, false);
        let client = &mut self.clients[index];
        let Ok(sequence) = client.session.ack_and_publish(&[lease], &queue, vec![body]) else { return false };
        note!(self, "client {index} passes {key} on as {sequence}: {facts:?}");
        let client = &mut self.clients[index];
        client.unanswered.insert(sequence, vec![facts.key]);
        client.passing.insert(sequence, (lease, key));
        self.ledger.settling(lease, &Settlement::Ack);
        self.ledger.published(facts);
        true
    }

    fn judge(&mut self) -> Settlement {
        if !self.is_troubled() {
            return Settlement::Ack;
        }
        let (work, random) = (&self.plan.work, &mut self.random);
        let mut hits = |percent| random.u32(0..100) < percent;
        if hits(work.extended) {
            return Settlement::Extend { lease: Duration::from_millis(random.u64(1..5000)) };
        }
        if hits(work.rejected) {
            return Settlement::Nack { delay: None, error: "never again".into(), reject: true };
        }
        if hits(work.nacked) {
            let delay = random.bool().then(|| Duration::from_millis(random.u64(0..3000)));
            return Settlement::Nack { delay, error: "not now".into(), reject: false };
        }
        Settlement::Ack
    }
}
