//! Who gets which message: parked publishes are let in, then ready messages go to consumers with credit in turn.

use crate::clock::Time;
use crate::ids::{ConnKey, LoopId, SubscriptionId};
use crate::limits;
use crate::log::ReadTicket;
use crate::mail::{Deliver, Effect};
use crate::queue::directory::Lease;
use crate::queue::lifecycle::{CUT_SHORT, Retry};
use crate::queue::messages::{NIL, State};
use crate::queue::record::Reason;
use crate::queue::{Brain, Reading, Turn, ready};

/// Who takes the next message.
#[derive(Debug, Clone, Copy)]
enum Consumer {
    /// The owner of the mailbox.
    Owner(u32),
    /// A subscription of a work queue.
    Subscribed(u32),
}

impl Brain {
    /// Does for a queue what its last changes made possible, and closes it when nothing is left of it.
    pub(super) fn serve(&mut self, queue: u32, turn: &mut Turn<'_>) {
        self.admit_parked(queue, turn);
        let is_bounded = self.bounds_deliveries(queue);
        let mut stays_in_line = false;
        while self.queues.at(queue).ready_count > 0 {
            let Some(consumer) = self.next_consumer(queue) else { break };
            let Some(slot) = self.choose(queue, turn.now.time) else { break };
            let message = self.messages.at(slot);
            if message.expires != Time(0) && message.expires <= turn.now.time {
                self.die(slot, Reason::Expired, turn);
                continue;
            }
            if u32::from(message.spent) >= self.attempts_max(slot) {
                if message.attempt_open {
                    self.fail(slot, CUT_SHORT, Retry::Now, turn);
                } else {
                    // Fewer attempts are allowed than when it was retried.
                    self.die(slot, Reason::Attempts, turn);
                }
                continue;
            }
            if !self.can_go_on(queue, slot, consumer, turn) {
                break;
            }
            if is_bounded && let Err(met) = self.may_deliver(queue, turn.now.time) {
                self.limit_reached(queue, met.limit, "wait", turn);
                stays_in_line = self.await_delivery(queue, met);
                break;
            }
            let message = self.messages.at(slot);
            let (namespace, cost) = (self.queues.at(queue).namespace, ready::cost(message.body_len));
            if message.attempt_open {
                self.end_cut_short(slot, turn);
            }
            self.deliver(slot, consumer, turn);
            let may_go_on = self.turns.take(namespace, cost);
            let is_passed = is_bounded && self.pass_deliver_turn(queue);
            if !may_go_on {
                // Others first; it waits to go on.
                self.mark_dirty(queue);
            }
            if is_passed || !may_go_on {
                stays_in_line = self.queues.at(queue).in_deliver_line;
                break;
            }
        }
        if !stays_in_line {
            self.leave_deliver_line(queue);
        }
        let entry = self.queues.at(queue);
        if entry.is_idle() && !entry.is_dirty {
            if entry.owner != NIL {
                self.directory.at_mut(entry.owner).mailbox_queue = NIL;
            }
            if entry.is_starved {
                self.starved.retain(|&starved| starved != queue);
            }
            if entry.is_held_back {
                self.held_back.retain(|&held_back| held_back != queue);
            }
            self.stop_pace(queue);
            self.forget_retention(queue);
            self.queues.close(queue);
        }
    }

    /// Whether nothing of the queue's own keeps it from delivering this message. Asked before its namespace's line, where
    /// a queue that cannot go on would only wait to leave it: two such lines would pass each other their queues for ever.
    fn can_go_on(&mut self, queue: u32, slot: u32, consumer: Consumer, turn: &Turn<'_>) -> bool {
        if turn.outbox.is_full(self.loop_of(consumer)) {
            self.hold_back(queue);
            return false;
        }
        let message = self.messages.at(slot);
        if message.body.is_memory() {
            // Those that are read come first; it goes on when they are there.
            return !self.queues.at(queue).ready.is_reading(self.lanes.flow_of(message.lane));
        }
        let has_room = self.has_room_to_read();
        if !has_room {
            self.starve(queue);
        }
        has_room
    }

    /// The message to be served next.
    fn choose(&mut self, queue: u32, now: Time) -> Option<u32> {
        let Self { queues, messages, config, .. } = self;
        let entry = queues.at_mut(queue);
        let ageing = entry.rules(config).ageing;
        entry.ready.next(messages, now, ageing)
    }

    fn loop_of(&self, consumer: Consumer) -> LoopId {
        let client = match consumer {
            Consumer::Owner(owner) => owner,
            Consumer::Subscribed(index) => self.subscriptions[index as usize].client,
        };
        self.directory.at(client).conn().loop_id
    }

    /// The queue goes on once a read has arrived.
    fn starve(&mut self, queue: u32) {
        let entry = self.queues.at_mut(queue);
        if !entry.is_starved {
            entry.is_starved = true;
            self.starved.push_back(queue);
        }
    }

    /// The queue goes on once the outbox has room.
    fn hold_back(&mut self, queue: u32) {
        let entry = self.queues.at_mut(queue);
        if !entry.is_held_back {
            entry.is_held_back = true;
            self.held_back.push(queue);
        }
    }

    fn next_consumer(&mut self, queue: u32) -> Option<Consumer> {
        let entry = self.queues.at(queue);
        if !entry.is_mailbox {
            return (entry.eager.0 != NIL).then_some(Consumer::Subscribed(entry.eager.0));
        }
        let owner = match entry.owner {
            NIL => {
                let name = entry.name.strip_prefix(crate::ids::QueueName::MAILBOX_PREFIX)?;
                let owner = self.directory.find(entry.namespace, name)?;
                if self.directory.at(owner).mailbox_subscription == 0 {
                    return None;
                }
                self.link_mailbox(owner, queue);
                owner
            }
            owner => owner,
        };
        let client = self.directory.at(owner);
        let may_take = client.is_connected && !client.is_stalled() && client.mailbox_credit.is_open();
        may_take.then_some(Consumer::Owner(owner))
    }

    pub(super) fn link_mailbox(&mut self, owner: u32, queue: u32) {
        self.queues.at_mut(queue).owner = owner;
        self.directory.at_mut(owner).mailbox_queue = queue;
    }

    fn deliver(&mut self, slot: u32, consumer: Consumer, turn: &mut Turn<'_>) {
        let body_len = self.messages.at(slot).body_len;
        let (client, subscription) = match consumer {
            Consumer::Owner(owner) => {
                let client = self.directory.at_mut(owner);
                client.mailbox_credit.take(body_len);
                (owner, SubscriptionId(client.mailbox_subscription))
            }
            Consumer::Subscribed(index) => {
                let subscription = &mut self.subscriptions[index as usize];
                subscription.credit.take(body_len);
                let (client, id) = (subscription.client, subscription.id);
                // To the end of the line, or out of it.
                self.set_eager(index, false);
                if self.subscriptions[index as usize].credit.is_open() {
                    self.set_eager(index, true);
                }
                (client, id)
            }
        };
        self.take_room(client, body_len);
        self.leave(slot);
        let flow = self.lanes.flow_of(self.messages.at(slot).lane);
        let queue = self.messages.at(slot).queue;
        self.queues.at_mut(queue).ready.served(flow, body_len);
        let message = self.messages.at_mut(slot);
        message.attempt += 1;
        message.spent = message.spent.saturating_add(1);
        message.boot = self.boot;
        let (id, attempt, has_body) = (message.id, message.attempt, message.body.is_memory());
        self.place_leased(slot, client, subscription, turn);
        self.leased.push((id, attempt));
        self.metrics.leases.inc();
        if attempt > 1 {
            self.metrics.redeliveries.inc();
        }
        let lease = self.messages.at(slot).lease();
        if has_body {
            let conn = self.directory.at(client).conn();
            let lease_ms = self.lease_ms(slot);
            let after = self.ticket_of(slot);
            let body = self.messages.body(slot).unwrap_or_default();
            let deliver = Deliver { conn, subscription, lease, lease_ms, body_len };
            turn.outbox.push(after, Effect::Deliver(deliver), body);
            self.ask_for_room(client, after, turn);
        } else {
            let message = self.messages.at(slot);
            let read = turn.journal.read(message.position, message.body_offset, body_len);
            self.leases[message.next as usize].is_reading = true;
            self.reads.insert(read, Reading::Delivery { slot });
            self.queues.at_mut(queue).ready.read_begun(flow);
            self.reading_bytes += u64::from(body_len);
        }
    }

    /// The attempt number is the caller's affair.
    pub(super) fn place_leased(
        &mut self,
        slot: u32,
        client: u32,
        subscription: SubscriptionId,
        turn: &mut Turn<'_>,
    ) {
        let holder = self.directory.at_mut(client);
        let (first, epoch) = (holder.leases, holder.epoch);
        let lease = self.leases.insert(Lease {
            message: slot,
            client,
            epoch,
            subscription,
            since: turn.now.time,
            is_reading: false,
            next: first,
            prev: NIL,
        }) as u32;
        holder.leases = lease;
        if first != NIL {
            self.leases[first as usize].prev = lease;
        }
        let message = self.messages.at_mut(slot);
        message.state = State::Leased;
        message.next = lease;
        message.attempt_open = false;
        let queue = message.queue;
        let entry = self.queues.at_mut(queue);
        entry.leased_count += 1;
        let namespace = entry.namespace;
        self.queues.tenant_mut(namespace).leased += 1;
        let deadline = Time(turn.now.time.0 + u64::from(self.lease_ms(slot)));
        self.set_timer(slot, Some(deadline));
    }

    pub(super) fn end_lease(&mut self, lease: u32) {
        let ended = self.leases.remove(lease as usize);
        debug_assert!(!ended.is_reading, "its read is abandoned first");
        if !self.acking.is_empty() {
            self.lease_enders.push(ended.client);
        }
        match ended.prev {
            NIL => self.directory.at_mut(ended.client).leases = ended.next,
            prev => self.leases[prev as usize].next = ended.next,
        }
        if ended.next != NIL {
            self.leases[ended.next as usize].prev = ended.prev;
        }
    }

    pub(super) fn lease_ms(&self, slot: u32) -> u32 {
        let own = self.messages.rare(slot).and_then(|rare| rare.lease);
        let of_queue = || self.queues.at(self.messages.at(slot).queue).rules(&self.config).lease;
        let lease = own.unwrap_or_else(of_queue);
        u32::try_from(lease.as_millis()).unwrap_or(u32::MAX)
    }

    /// Puts a subscription at the end of its queue's line, or takes it out of it.
    pub(super) fn set_eager(&mut self, index: u32, eager: bool) {
        let subscription = &self.subscriptions[index as usize];
        if subscription.is_eager == eager {
            return;
        }
        let (prev, next) = (subscription.prev, subscription.next);
        let queue = self.queues.at_mut(subscription.queue);
        if eager {
            let last = std::mem::replace(&mut queue.eager.1, index);
            match last {
                NIL => queue.eager.0 = index,
                _ => self.subscriptions[last as usize].next = index,
            }
            let subscription = &mut self.subscriptions[index as usize];
            (subscription.prev, subscription.next) = (last, NIL);
        } else {
            match prev {
                NIL => queue.eager.0 = next,
                _ => self.subscriptions[prev as usize].next = next,
            }
            match next {
                NIL => queue.eager.1 = prev,
                _ => self.subscriptions[next as usize].prev = prev,
            }
        }
        self.subscriptions[index as usize].is_eager = eager;
    }

    /// Reads of the journal arrived.
    pub fn records_read<'a>(
        &mut self,
        reads: impl Iterator<Item = (ReadTicket, &'a [u8])>,
        turn: &mut Turn<'_>,
    ) {
        self.begin(turn);
        for (ticket, bytes) in reads {
            let reading = self.reads.remove(&ticket);
            if let Some(Reading::Delivery { .. } | Reading::Abandoned | Reading::Job { .. }) = reading {
                self.reading_bytes -= bytes.len() as u64;
            }
            match reading {
                Some(Reading::Delivery { slot }) => {
                    self.end_read(slot);
                    self.deliver_read(slot, bytes, turn);
                }
                Some(Reading::ShowDead { conn, message }) => self.dead_read(conn, message, bytes, turn),
                Some(Reading::Show { conn, message }) => self.message_read(conn, message, bytes, turn),
                Some(Reading::Job { job, message }) => self.job_read(job, message, bytes),
                Some(Reading::Abandoned) | None => {}
            }
        }
        self.finish(turn);
    }

    /// Whether another body may be read back for a delivery.
    pub(super) fn has_room_to_read(&self) -> bool {
        self.reads.len() < self.config.reads_max && self.reading_bytes < limits::READING_BYTES_MAX
    }

    /// The body of a leased message is there, or not wanted any more.
    pub(super) fn end_read(&mut self, slot: u32) {
        let message = self.messages.at(slot);
        let (queue, flow) = (message.queue, self.lanes.flow_of(message.lane));
        self.leases[message.next as usize].is_reading = false;
        self.queues.at_mut(queue).ready.read_ended(flow);
        self.mark_dirty(queue);
    }

    /// Sends the body of a leased message, which was read back, if its connection is still the one that took it.
    fn deliver_read(&mut self, slot: u32, bytes: &[u8], turn: &mut Turn<'_>) {
        let message = self.messages.at(slot);
        let (id, body_len) = (message.lease(), message.body_len);
        let lease = &self.leases[message.next as usize];
        let (subscription, epoch, holder) = (lease.subscription, lease.epoch, lease.client);
        let client = self.directory.at(holder);
        let conn: ConnKey = client.conn();
        if !client.is_connected || client.epoch != epoch || bytes.len() != body_len as usize {
            return;
        }
        let lease_ms = self.lease_ms(slot);
        self.set_timer(slot, Some(Time(turn.now.time.0 + u64::from(lease_ms))));
        let deliver = Deliver { conn, subscription, lease: id, lease_ms, body_len };
        let after = self.ticket_of(slot);
        turn.outbox.push(after, Effect::Deliver(deliver), bytes);
        self.ask_for_room(holder, after, turn);
    }
}
