//! What consumers say about their leases, and how credit comes back.

use crate::clock::Time;
use crate::ids::{ConnKey, LeaseId, SubscriptionId};
use crate::limits::{LEASE_MAX, NACK_DELAY_MAX};
use crate::log::Ticket;
use crate::mail::{Effect, Settle, Settled, Settlement};
use crate::queue::directory::{Client, Room};
use crate::queue::lifecycle::{End, Retry};
use crate::queue::messages::{NIL, State, Taken};
use crate::queue::{Brain, Reading, Replenish, Turn, record};

impl Brain {
    /// Acks, nacks or extends. What comes over a replaced connection is dropped in silence: that loop closes it.
    pub(super) fn settle(&mut self, settle: &Settle, leases: &[LeaseId], turn: &mut Turn<'_>) {
        let Some(client) = self.directory.of_conn(settle.conn) else { return };
        let mut lost = Vec::new();
        for &lease in leases {
            if !self.settle_one(client, lease, settle, turn) {
                lost.push(lease);
            }
        }
        self.metrics.leases_lost.add(lost.len() as u64);
        // An extension is not written down: a restart ends every lease anyway.
        let after = match settle.settlement {
            Settlement::Extend { .. } => Ticket::DURABLE,
            _ if lost.len() == leases.len() => Ticket::DURABLE,
            _ => turn.journal.open_ticket(),
        };
        let lost = (!lost.is_empty()).then(|| lost.into_boxed_slice());
        let settled = Settled { conn: settle.conn, seq: settle.seq, more: 0, lost, refused: None };
        turn.outbox.push(after, Effect::Settled(settled), &[]);
    }

    /// Whether the lease counted.
    fn settle_one(&mut self, client: u32, lease: LeaseId, settle: &Settle, turn: &mut Turn<'_>) -> bool {
        let Some(slot) = self.slot_under(client, lease) else { return false };
        let message = self.messages.at(slot);
        let (is_leased, was_open) = (message.state == State::Leased, message.attempt_open);
        let ends_it = match settle.settlement {
            Settlement::Ack => true,
            Settlement::Nack { .. } => is_leased || was_open,
            Settlement::Extend { .. } => false,
        };
        if settle.replenish && ends_it {
            self.replenish_settled(client, slot, turn);
        }
        match &settle.settlement {
            Settlement::Ack => {
                self.metrics.acks.inc();
                self.finish_message(slot, turn);
                true
            }
            Settlement::Nack { delay_ms, error, reject } if is_leased || was_open => {
                self.metrics.nacks.inc();
                let delay_max = u64::try_from(NACK_DELAY_MAX.as_millis()).unwrap_or(u64::MAX);
                let retry = match delay_ms {
                    _ if *reject => Retry::Reject,
                    Some(delay_ms) => Retry::After((*delay_ms).min(delay_max)),
                    None => Retry::Backoff,
                };
                self.fail(slot, error, retry, turn);
                true
            }
            Settlement::Extend { lease_ms } if is_leased => {
                let longest = turn.now.time + LEASE_MAX;
                let until = Time(turn.now.time.0 + u64::from(*lease_ms));
                self.set_timer(slot, Some(until.min(longest)));
                true
            }
            // The attempt ended as failed when its lease did.
            Settlement::Nack { .. } | Settlement::Extend { .. } => false,
        }
    }

    /// The message that a client may act on under this lease: it is the newest, and nobody else's.
    #[inline]
    pub(super) fn slot_under(&self, client: u32, lease: LeaseId) -> Option<u32> {
        let slot = self.messages.find(lease.message)?;
        let message = self.messages.at(slot);
        // Only a client of the message's tenant may act on it, whatever ids it guesses.
        let is_own = message.is_newest(lease)
            && self.queues.at(message.queue).namespace == self.directory.at(client).namespace;
        // While someone holds the lease, nobody else can act on it.
        let is_others = message.state == State::Leased && self.leases[message.next as usize].client != client;
        (is_own && !is_others).then_some(slot)
    }

    /// The credit of a message that `client` settles now comes back with the answer, if it was delivered to it.
    #[inline]
    pub(super) fn replenish_settled(&mut self, client: u32, slot: u32, turn: &mut Turn<'_>) {
        let message = self.messages.at(slot);
        let body_len = message.body_len;
        let taken = if message.state == State::Leased {
            self.leases[message.next as usize].taken()
        } else if let Some(taken) = self.take_late(client, slot) {
            taken
        } else {
            return;
        };
        self.replenish_after(turn.journal.open_ticket(), taken, body_len);
    }

    /// The lease of a message runs out. Its consumer may be at work on it still, so its credit stays used until that says
    /// that it is done.
    pub(super) fn keep_taken(&mut self, slot: u32) {
        if self.abandon_read(slot) {
            return;
        }
        let message = self.messages.at(slot);
        let (attempt, taken) = (message.attempt, self.leases[message.next as usize].taken());
        self.messages.rare_mut(slot).late = Some((attempt, taken));
    }

    /// The credit that the newest attempt still uses, its lease being over, if `client` took it; once.
    #[cold]
    fn take_late(&mut self, client: u32, slot: u32) -> Option<Taken> {
        let attempt = self.messages.at(slot).attempt;
        let (late, taken) = self.messages.rare(slot)?.late?;
        if late != attempt || taken.client != client {
            return None;
        }
        self.messages.rare_mut(slot).late = None;
        Some(taken)
    }

    /// Deliveries that the connection would not take: ready again at the front, the attempt not counted.
    pub(super) fn take_back(&mut self, conn: ConnKey, leases: &[LeaseId], turn: &mut Turn<'_>) {
        let Some(client) = self.directory.of_conn(conn) else { return };
        self.stall(client);
        self.directory.at_mut(client).awaits_room = true;
        let mut returned = Vec::with_capacity(leases.len());
        // Last delivered first, so that the first one is in front again.
        for &lease in leases.iter().rev() {
            let Some(slot) = self.messages.find(lease.message) else { continue };
            let message = self.messages.at(slot);
            if !message.is_newest(lease) {
                continue;
            }
            let body_len = message.body_len;
            if message.state != State::Leased {
                // It ran out on its way: nobody else can give its credit back.
                if let Some(Taken { client, subscription, epoch }) = self.take_late(client, slot) {
                    self.replenish(client, subscription, epoch, body_len);
                }
                continue;
            }
            let held = &self.leases[message.next as usize];
            if held.client != client {
                continue;
            }
            let (subscription, epoch) = (held.subscription, held.epoch);
            self.give_up_attempt(slot);
            self.replenish(client, subscription, epoch, body_len);
            returned.push(lease.message.0);
        }
        if !returned.is_empty() {
            self.append_amendment(turn, |out| record::encode_returned(out, &returned));
        }
    }

    /// A leased message is ready again as if the newest attempt had not been begun. The caller writes it down.
    pub(super) fn give_up_attempt(&mut self, slot: u32) {
        self.abandon_read(slot);
        self.leave(slot);
        let message = self.messages.at_mut(slot);
        message.attempt -= 1;
        message.spent -= 1;
        let queue = message.queue;
        self.place_ready(slot, End::Front);
        self.mark_dirty(queue);
    }

    /// A lease ends. If its body is still being read, it was never delivered: the read is for nothing, also because the
    /// next lease may have the same id, and nobody but us can give the credit back. Whether that is so.
    pub(super) fn abandon_read(&mut self, slot: u32) -> bool {
        let message = self.messages.at(slot);
        if message.state != State::Leased {
            return false;
        }
        let (body_len, lease) = (message.body_len, &self.leases[message.next as usize]);
        if !lease.is_reading {
            return false;
        }
        let Taken { client, subscription, epoch } = lease.taken();
        let is_its =
            |reading: &&mut Reading| matches!(reading, Reading::Delivery { slot: of } if *of == slot);
        if let Some(reading) = self.reads.values_mut().find(is_its) {
            *reading = Reading::Abandoned;
        }
        self.end_read(slot);
        if self.directory.at(client).epoch == epoch {
            self.add_room(client, Room::of_delivery(body_len));
        }
        self.replenish(client, subscription, epoch, body_len);
        true
    }

    /// Gives a delivery's credit back with the answer that the client waits for: what it can have unanswered stays
    /// within its credit, and the next delivery shares the answer's write.
    fn replenish_after(&mut self, after: Ticket, taken: Taken, bytes: u32) {
        let (Taken { client, subscription, epoch }, bytes) = (taken, u64::from(bytes));
        if let Some(last) = self.replenishing.back_mut()
            && (last.after, last.client, last.subscription, last.epoch)
                == (after, client, subscription, epoch)
        {
            last.messages += 1;
            last.bytes += bytes;
            return;
        }
        let replenish = Replenish { after, client, subscription, epoch, messages: 1, bytes };
        self.replenishing.push_back(replenish);
    }

    /// Gives back the credit whose answers leave now.
    pub(super) fn replenish_committed(&mut self, committed: Ticket) {
        while let Some(next) = self.replenishing.pop_front_if(|next| next.after <= committed) {
            let is_same = |client: &Client| client.epoch == next.epoch;
            if self.directory.clients.get(next.client).is_some_and(is_same) {
                self.raise_credit(next.client, next.subscription, next.messages, next.bytes);
            }
        }
    }

    /// Gives a delivery's credit back to the subscription it came from, if that is still of the same connection.
    fn replenish(&mut self, client: u32, subscription: SubscriptionId, epoch: u32, bytes: u32) {
        if self.directory.at(client).epoch == epoch {
            self.raise_credit(client, subscription, 1, u64::from(bytes));
        }
    }

    /// A consumer's own wish for more.
    pub(super) fn add_credit(
        &mut self,
        conn: ConnKey,
        subscription: SubscriptionId,
        messages: u32,
        bytes: u64,
    ) {
        if let Some(client) = self.directory.of_conn(conn) {
            self.raise_credit(client, subscription, messages, bytes);
        }
    }

    fn raise_credit(&mut self, client: u32, subscription: SubscriptionId, messages: u32, bytes: u64) {
        if subscription.0 == 0 {
            return;
        }
        let entry = self.directory.at_mut(client);
        if entry.mailbox_subscription == subscription.0 {
            entry.mailbox_credit.add(messages, bytes);
            if entry.mailbox_queue != NIL {
                let queue = entry.mailbox_queue;
                self.mark_dirty(queue);
            }
            return;
        }
        let is_stalled = entry.is_stalled();
        let Some(index) = self.find_subscription(client, subscription) else { return };
        let entry = &mut self.subscriptions[index as usize];
        entry.credit.add(messages, bytes);
        let (queue, is_open) = (entry.queue, entry.credit.is_open());
        if is_open && !is_stalled {
            self.set_eager(index, true);
            self.mark_dirty(queue);
        }
    }

    /// A delivery takes room of the connection it goes to.
    pub(super) fn take_room(&mut self, client: u32, body_len: u32) {
        let entry = self.directory.at_mut(client);
        entry.room.take(Room::of_delivery(body_len));
        if entry.is_stalled() {
            self.stall(client);
        }
    }

    /// Half of the room is taken by what was delivered: more of it is asked for before there is none.
    pub(super) fn ask_for_room(&mut self, client: u32, after: Ticket, turn: &mut Turn<'_>) {
        let half = Room::of_bytes(self.config.delivery_room_bytes).half();
        let entry = self.directory.at_mut(client);
        if entry.room < half && !entry.awaits_room {
            entry.awaits_room = true;
            turn.outbox.push(after, Effect::RoomLow { conn: entry.conn() }, &[]);
        }
    }

    fn stall(&mut self, client: u32) {
        self.directory.at_mut(client).room = Room::NONE;
        for index in self.subscriptions_of(client) {
            self.set_eager(index, false);
        }
    }

    /// The connection has taken most of what was delivered.
    pub(super) fn resupply(&mut self, conn: ConnKey) {
        let Some(client) = self.directory.of_conn(conn) else { return };
        self.directory.at_mut(client).awaits_room = false;
        // Not all of it: what was delivered since room was asked for may still be on its way.
        self.add_room(client, Room::of_bytes(self.config.delivery_room_bytes).half());
    }

    fn add_room(&mut self, client: u32, room: Room) {
        let entry = self.directory.at_mut(client);
        let was_stalled = entry.is_stalled();
        entry.room.give(room, Room::of_bytes(self.config.delivery_room_bytes));
        if !was_stalled {
            return;
        }
        if entry.mailbox_queue != NIL {
            let queue = entry.mailbox_queue;
            self.mark_dirty(queue);
        }
        for index in self.subscriptions_of(client) {
            let subscription = &self.subscriptions[index as usize];
            let queue = subscription.queue;
            if subscription.credit.is_open() {
                self.set_eager(index, true);
                self.mark_dirty(queue);
            }
        }
    }

    /// A lease whose delivery is still on its way lasts anew, if it stands and is this connection's.
    pub(super) fn renew(&mut self, conn: ConnKey, lease: LeaseId, turn: &mut Turn<'_>) {
        let Some(client) = self.directory.of_conn(conn) else { return };
        let Some(slot) = self.messages.find(lease.message) else { return };
        let message = self.messages.at(slot);
        let is_newest = message.state == State::Leased && message.is_newest(lease);
        if !is_newest || self.leases[message.next as usize].client != client {
            return;
        }
        let lease_ms = self.lease_ms(slot);
        self.set_timer(slot, Some(Time(turn.now.time.0 + u64::from(lease_ms))));
    }

    pub(super) fn find_subscription(&self, client: u32, id: SubscriptionId) -> Option<u32> {
        let rest = self.directory.at(client).rest.as_ref()?;
        rest.subscriptions.iter().copied().find(|&index| self.subscriptions[index as usize].id == id)
    }

    pub(super) fn subscriptions_of(&self, client: u32) -> Vec<u32> {
        self.directory.at(client).rest.as_ref().map_or_else(Vec::new, |rest| rest.subscriptions.clone())
    }
}
