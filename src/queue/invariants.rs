//! What must be true between any two calls.

use std::collections::HashMap;

use crate::clock::Time;
use crate::queue::bodies::Bodies;
use crate::queue::directory::{Lease, Room};
use crate::queue::messages::{NIL, State};
use crate::queue::queues::Queue;
use crate::queue::{Brain, Reading};

impl Brain {
    /// Panics with a message when the brain contradicts itself. For tests; slow.
    pub fn check_invariants(&self) {
        self.check_messages();
        self.check_queues();
        self.check_leases();
        self.check_parked();
        self.check_lanes();
        self.check_reads();
        self.check_ids();
        self.check_namespaces();
        self.check_dead();
        self.directory.check();
        self.bindings.check();
        let connected = self.directory.clients.iter().filter(|(_, client)| client.is_connected);
        let on = |(at, client): (u32, &crate::queue::directory::Client)| (at, client.conn().loop_id);
        self.topics.check(&connected.map(on).collect::<Vec<_>>());
        assert!(
            self.done.is_empty() && self.leased.is_empty() && self.turns.is_empty(),
            "a call left work behind"
        );
        let timed = self.messages.iter().filter(|(_, message)| message.timer.is_some()).count();
        let graces = self.directory.clients.iter().filter(|(_, client)| client.grace.is_some()).count();
        let paced = self.queues.slab.iter().filter_map(|(_, queue)| queue.pace.as_ref());
        let paced = paced.filter(|pace| pace.timer.is_some()).count();
        let tenants = self.queues.tenants().filter(|tenant| tenant.quota.timer.is_some()).count();
        self.schedules.check();
        let schedules = usize::from(self.schedules.timer.is_some());
        let expected = timed + graces + paced + tenants + schedules + usize::from(self.is_grace_after_start);
        assert_eq!(self.wheel.len(), expected, "timers nobody owns");
    }

    /// Bytes of records the brain keeps alive.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let messages: u64 = self.messages.iter().map(|(_, message)| u64::from(message.charge)).sum();
        let runs = self.marks.table.values().flat_map(|mark| &mark.runs);
        let marks: u64 = runs.map(|run| u64::from(run.charge)).sum();
        let own = self.queues.slab.iter().filter_map(|(_, queue)| queue.own.as_ref());
        let settings: u64 = own.map(|own| u64::from(own.held.len)).sum();
        let ids = self.queues.slab.iter().filter_map(|(_, queue)| queue.dedup.as_ref());
        let ids: u64 = ids.flat_map(|ids| ids.entries()).map(|entry| u64::from(entry.charge)).sum();
        let quotas: u64 = self.queues.tenants().map(|tenant| u64::from(tenant.quota.held.len)).sum();
        let own = u64::from(self.boot_held.len) + u64::from(self.clock_held.len);
        let schedules: u64 = self.schedules.held().map(|(_, len)| u64::from(len)).sum();
        let bindings: u64 = self.bindings.iter().map(|binding| u64::from(binding.held.len)).sum();
        messages + marks + settings + schedules + ids + quotas + bindings + own
    }

    fn check_messages(&self) {
        let mut bodies = 0;
        let mut count = 0;
        for (slot, message) in self.messages.iter() {
            count += 1;
            bodies += if message.body.is_memory() { Bodies::cost(message.body_len) } else { 0 };
            assert_eq!(
                self.messages.find(message.lease().message),
                Some(slot),
                "message {} is lost",
                message.id
            );
            assert!(message.id < self.next_id, "message {} comes from the future", message.id);
            let wants_timer = match message.state {
                State::Ready | State::Blocked => message.expires != Time(0),
                State::Scheduled | State::Leased => true,
                State::Dead | State::Free => false,
            };
            assert_eq!(message.timer.is_some(), wants_timer, "timer of {:?} {}", message.state, message.id);
            let is_dead = self.messages.rare(slot).is_some_and(|rare| rare.dead.is_some());
            assert_eq!(is_dead, message.state == State::Dead, "message {} is dead and not dead", message.id);
        }
        assert_eq!(count, self.messages.len(), "messages are miscounted");
        assert_eq!(
            self.messages.waiting_for_wall().len(),
            self.messages.dues(),
            "messages that wait for a time of day"
        );
        assert_eq!(bodies, self.messages.bodies.live_bytes(), "body memory is miscounted");
        assert!(
            self.messages.bodies.held_bytes() <= self.config.body_memory_bytes_max,
            "too much body memory"
        );
    }

    fn check_queues(&self) {
        #[derive(Default, Debug, PartialEq, Eq)]
        struct Sums(u64, u64, u64, u64, u64, u64, u64);
        let mut sums: HashMap<u32, Sums> = HashMap::new();
        for (_, message) in self.messages.iter() {
            let sum = sums.entry(message.queue).or_default();
            sum.4 += u64::from(message.body_len);
            match message.state {
                State::Ready => sum.0 += 1,
                State::Scheduled => sum.1 += 1,
                State::Leased => sum.2 += 1,
                State::Dead => {
                    sum.3 += 1;
                    sum.5 += u64::from(message.body_len);
                }
                State::Blocked => sum.6 += 1,
                State::Free => {}
            }
        }
        for (index, queue) in &self.queues.slab {
            let expected = sums.remove(&(index as u32)).unwrap_or_default();
            let dead = queue.dead.len() as u64;
            let counted = (
                queue.ready_count,
                queue.scheduled_count,
                queue.leased_count,
                dead,
                queue.bytes,
                queue.dead_bytes,
                queue.blocked_count,
            );
            let counted = Sums(counted.0, counted.1, counted.2, counted.3, counted.4, counted.5, counted.6);
            assert_eq!(counted, expected, "counts of queue {}", queue.name);
            assert_eq!(
                queue.is_held_back,
                self.held_back.contains(&(index as u32)),
                "wait of {}",
                queue.name
            );
            let starved = self.starved.iter().filter(|&&starved| starved == index as u32).count();
            assert_eq!(usize::from(queue.is_starved), starved, "{} waits for reads", queue.name);
            assert!(!queue.is_idle(), "queue {} costs something while idle", queue.name);
            let mut ready = 0;
            for head in queue.ready.heads() {
                let (mut at, mut prev) = (head, NIL);
                while at != NIL {
                    let message = self.messages.at(at);
                    assert!(message.state == State::Ready && message.prev == prev, "list of {}", queue.name);
                    (prev, at) = (at, message.next);
                    ready += 1;
                }
            }
            assert_eq!(ready, queue.ready_count, "list of {} and its count", queue.name);
            assert!(queue.dead.iter().all(|(&id, &slot)| self.messages.at(slot).id == id), "dead letters");
            if queue.owner != NIL {
                assert_eq!(self.directory.at(queue.owner).mailbox_queue, index as u32, "mailbox owner");
            }
        }
        assert!(sums.is_empty(), "messages of no queue");
    }

    fn check_lanes(&self) {
        let mut messages: HashMap<u32, u32> = HashMap::new();
        let mut unblocked: HashMap<u32, u32> = HashMap::new();
        for (slot, message) in self.messages.iter().filter(|(_, message)| message.lane != NIL) {
            let lane = self.lanes.at(message.lane);
            assert_eq!(lane.queue, message.queue, "message {} in a lane of another queue", message.id);
            *messages.entry(message.lane).or_default() += 1;
            let holds = self.messages.rare(slot).is_some_and(|rare| rare.holds_key);
            if lane.is_ordered() && message.state != State::Blocked && (message.state != State::Dead || holds)
            {
                let other = unblocked.insert(message.lane, slot);
                assert_eq!(other, None, "two messages of one ordering key go on");
            }
        }
        assert_eq!(messages.len(), self.lanes.slab.len(), "lanes without a message");
        for (index, lane) in &self.lanes.slab {
            assert_eq!(messages[&(index as u32)], lane.messages(), "{lane:?} is miscounted");
            let head = unblocked.get(&(index as u32)).copied().unwrap_or(NIL);
            assert_eq!(lane.head, head, "the head of {lane:?}");
            assert!(head != NIL || lane.blocked == (NIL, NIL), "{lane:?} waits for nobody");
            let (mut at, mut prev) = (lane.blocked.0, NIL);
            let mut last = if head == NIL { (0, 0) } else { self.order_of(head) };
            while at != NIL {
                let message = self.messages.at(at);
                assert!(message.state == State::Blocked && message.prev == prev, "list of {lane:?}");
                let order = self.order_of(at);
                assert!(order > last, "{lane:?} is out of order");
                last = order;
                (prev, at) = (at, message.next);
            }
            assert_eq!(lane.blocked.1, prev, "the last of {lane:?}");
        }
    }

    fn check_leases(&self) {
        let mut listed = 0;
        for (index, client) in self.directory.clients.iter() {
            let mut at = client.leases;
            while at != NIL {
                let lease = &self.leases[at as usize];
                let message = self.messages.at(lease.message);
                assert!(
                    message.state == State::Leased && message.next == at,
                    "lease of message {}",
                    message.id
                );
                assert_eq!(lease.client, index, "lease in another client's list");
                listed += 1;
                at = lease.next;
            }
        }
        assert_eq!(listed, self.leases.len(), "leases nobody holds");
        self.check_rooms();
        for (index, subscription) in &self.subscriptions {
            let client = self.directory.at(subscription.client);
            let may_take = subscription.credit.is_open() && !client.is_stalled();
            assert_eq!(subscription.is_eager, may_take, "subscription {index} and its place in the line");
            assert!(client.is_connected, "a subscription outlived its connection");
            let queue = self.queues.at(subscription.queue);
            let waits = queue.is_starved
                || queue.is_held_back
                || queue.ready.reading() > 0
                || self.is_bounded_now(queue);
            assert!(!(may_take && queue.ready_count > 0 && !waits), "a message and a consumer do not meet");
        }
    }

    /// Whoever has little room left was asked about more, or is when a body that is being read for it is there.
    fn check_rooms(&self) {
        let whole = Room::of_bytes(self.config.delivery_room_bytes);
        for (index, client) in self.directory.clients.iter() {
            assert!(client.room <= whole, "more room than there is");
            let is_low = client.is_connected && client.room < whole.half();
            let is_read_for = |lease: &Lease| lease.client == index && lease.is_reading;
            let asks = client.awaits_room || self.leases.iter().any(|(_, lease)| is_read_for(lease));
            assert!(!is_low || asks, "nobody asks for room for {}", client.name.as_str());
        }
    }

    fn check_reads(&self) {
        let begun: u32 = self.queues.slab.iter().map(|(_, queue)| queue.ready.reading()).sum();
        let mut deliveries = 0;
        for reading in self.reads.values() {
            if let Reading::Delivery { slot } = *reading {
                let message = self.messages.at(slot);
                assert_eq!(message.state, State::Leased, "a body is read for a lease that ended");
                assert!(self.leases[message.next as usize].is_reading, "a body is read for nobody");
                deliveries += 1;
            }
        }
        assert_eq!(begun, deliveries, "reads nobody waits for");
        let waiting = self.leases.iter().filter(|(_, lease)| lease.is_reading).count();
        assert_eq!(waiting, deliveries as usize, "leases whose body nobody reads");
    }

    fn check_ids(&self) {
        let tables = self.queues.slab.iter().filter_map(|(_, queue)| queue.dedup.as_ref());
        let count = tables.inspect(|ids| ids.check()).count();
        assert_eq!(count, self.forgetting.len(), "tables of ids that nobody empties");
    }

    /// Whether a limit keeps what is ready from the queue's consumers, and something will end that.
    fn is_bounded_now(&self, queue: &Queue) -> bool {
        let is_leased_out = queue.leased_count >= queue.rules(&self.config).leased_max;
        let is_timed = queue.pace.as_ref().is_some_and(|pace| pace.timer.is_some());
        is_leased_out || is_timed || queue.in_deliver_line
    }

    fn check_namespaces(&self) {
        #[derive(Default, Debug, PartialEq, Eq)]
        struct Sums(u64, u64, u64);
        let mut sums: HashMap<u32, Sums> = HashMap::new();
        for (_, message) in self.messages.iter().filter(|(_, message)| message.state != State::Dead) {
            let sum = sums.entry(self.queues.at(message.queue).namespace).or_default();
            sum.0 += 1;
            sum.1 += u64::from(message.body_len);
            sum.2 += u64::from(message.state == State::Leased);
        }
        for (namespace, tenant) in self.queues.tenants().enumerate() {
            let namespace = namespace as u32;
            let counted = Sums(tenant.messages, tenant.bytes, tenant.leased);
            assert_eq!(counted, sums.remove(&namespace).unwrap_or_default(), "sums of {}", tenant.name);
            let of_it = || self.queues.slab.iter().filter(|(_, queue)| queue.namespace == namespace);
            for (line, in_line) in [
                (&tenant.quota.publishing, (|queue| queue.in_publish_line) as fn(&Queue) -> bool),
                (&tenant.quota.delivering, |queue| queue.in_deliver_line),
            ] {
                let mut listed: Vec<u32> = line.iter().copied().collect();
                listed.sort_unstable();
                let said: Vec<u32> =
                    of_it().filter(|(_, queue)| in_line(queue)).map(|(at, _)| at as u32).collect();
                assert_eq!(listed, said, "a line of {}", tenant.name);
            }
            // Whoever is first is woken by something.
            let quota = &tenant.quota;
            let leased_out = quota.rules.leased_max.is_some_and(|max| tenant.leased >= max);
            assert!(
                quota.delivering.is_empty() || leased_out || quota.timer.is_some(),
                "deliveries of {} wait for nothing",
                tenant.name
            );
        }
    }

    fn check_parked(&self) {
        let mut bytes: HashMap<u32, u64> = HashMap::new();
        for (_, parked) in &self.parked {
            let namespace = self.queues.at(parked.queue).namespace;
            *bytes.entry(namespace).or_default() += parked.charge();
        }
        for (namespace, tenant) in self.queues.tenants().enumerate() {
            let expected = bytes.get(&(namespace as u32)).copied().unwrap_or(0);
            assert_eq!(tenant.parked_bytes, expected, "parked bytes of {}", tenant.name);
        }
        for (_, queue) in &self.queues.slab {
            let (mut at, mut count) = (queue.parked.0, 0);
            while at != NIL {
                count += 1;
                at = self.parked[at as usize].next;
            }
            assert_eq!(count, queue.parked_count, "parked publishes of {}", queue.name);
        }
        let mut in_line: Vec<(u32, u32)> = Vec::new();
        for (at, queue) in &self.queues.slab {
            let Some(line) = &queue.schedules else { continue };
            assert!(!line.slots.is_empty(), "the empty line of {}", queue.name);
            in_line.extend(line.slots.iter().map(|&slot| (slot, at as u32)));
        }
        in_line.sort_unstable();
        let waiting = self.schedules.slab.iter().filter_map(|(slot, own)| Some((slot as u32, own.in_line?)));
        assert_eq!(in_line, waiting.collect::<Vec<_>>(), "schedules in line");
        let listed: usize = self
            .directory
            .clients
            .iter()
            .filter_map(|(_, client)| client.rest.as_ref())
            .map(|rest| rest.parked.len())
            .sum();
        assert_eq!(listed, self.parked.len(), "parked publishes of nobody");
        let acking = self.parked.iter().filter(|(_, parked)| !parked.asks.acks.is_empty());
        let acking = acking.map(|(at, parked)| ((parked.queue, parked.place), at as u32)).collect();
        assert_eq!(self.acking.of, acking, "parked publishes that ack");
        for (_, parked) in &self.parked {
            let lapsed = self.lapsed(parked.client, &parked.asks.acks);
            assert!(lapsed.is_empty(), "{:?} waits with {lapsed:?}, which are over", parked.publish);
            let next = self.parked.get(parked.next as usize);
            assert!(next.is_none_or(|next| next.place > parked.place), "{:?} passed another", parked.publish);
        }
        let told: u32 = self.parked_by_loop.iter().map(|own| own.publishes).sum();
        assert_eq!(told as usize, self.parked.len(), "parked publishes that loops are told of");
    }
}
