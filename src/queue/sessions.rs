//! Sessions come, are taken over, resumed, and end.

use crate::clock::Time;
use crate::ids::{ConnKey, Epoch, MessageId, QueueName, SubscriptionId};
use crate::limits::SUBSCRIPTIONS_MAX;
use crate::log::Ticket;
use crate::mail::{Attach, Attached, Detach, Effect, RefusalCode, Refused, Resume};
use crate::queue::directory::{Credit, Room, Subscription};
use crate::queue::lifecycle::Retry;
use crate::queue::messages::{NIL, State};
use crate::queue::queues::NamespaceId;
use crate::queue::{Brain, Timer, Turn, record, refused};

impl Brain {
    /// A client proved who it is: it gets a new epoch, and whichever connection it had before is told to go.
    pub(super) fn attach(&mut self, attach: &Attach, turn: &mut Turn<'_>) {
        let (client, resumed) = match self.admit_client(attach) {
            Ok(admitted) => admitted,
            Err(refused) => {
                let refused = Box::new(refused);
                return turn.push_now(Effect::AttachRefused { conn: attach.conn, refused });
            }
        };
        if self.directory.at(client).is_connected {
            self.metrics.take_overs.inc();
            turn.push_now(Effect::TakenOver { conn: self.directory.at(client).conn() });
            self.end_connection(client);
            self.presence(client, "disconnected", "taken_over");
        }
        self.stop_grace(client);
        self.epochs += 1;
        let epoch = Epoch::new(self.boot, self.epochs);
        match &attach.resume {
            Some(resume) if resumed => {
                self.metrics.resumes.inc();
                self.directory.at_mut(client).session_id = resume.session_id;
                self.keep_leases(client, resume, turn);
            }
            _ => {
                self.end_leases(client, "the client came back without its lease", turn);
                self.directory.at_mut(client).session_id = epoch.0;
            }
        }
        let entry = self.directory.at_mut(client);
        entry.epoch = self.epochs;
        entry.room = Room::of_bytes(self.config.delivery_room_bytes);
        entry.awaits_room = false;
        let session_id = entry.session_id;
        self.directory.connect(client, attach.conn);
        if let (Some(resume), true) = (&attach.resume, resumed) {
            self.take_up_leases(client, resume, turn);
        }
        let attached = Attached {
            conn: attach.conn,
            namespace: attach.namespace.clone(),
            client: attach.client.clone(),
            session_id,
            epoch,
            resumed,
        };
        turn.push_now(Effect::Attached(Box::new(attached)));
        self.presence(client, "connected", if resumed { "resumed" } else { "new" });
        self.metrics.sessions.set(self.directory.clients.len() as u64);
        self.metrics.directory_bytes.set(self.directory.bytes() as u64);
    }

    /// The client's entry, new or old, and whether its resume token is current.
    fn admit_client(&mut self, attach: &Attach) -> Result<(u32, bool), Refused> {
        let namespace = self
            .queues
            .intern(attach.namespace.as_str(), self.config.namespaces_max)
            .map_err(|full| self.names_full(full))?;
        if let Some(client) = self.directory.find(namespace, attach.client.as_str()) {
            let entry = self.directory.at(client);
            let epoch = Epoch::new(self.boot, entry.epoch);
            let is_current = |resume: &Resume| resume.epoch == epoch && resume.session_id == entry.session_id;
            return Ok((client, attach.resume.as_ref().is_some_and(is_current)));
        }
        let may_return = attach.resume.is_some();
        if self.disk.stops() && !may_return {
            let text = self.disk.text.to_string();
            return Err(refused(RefusalCode::DiskFull, text, self.full_retry_ms()));
        }
        let max = self.config.sessions_max;
        if self.directory.clients.len() >= max {
            let text = format!("the limit of {max} sessions is reached");
            return Err(refused(RefusalCode::LimitReached, text, self.full_retry_ms()));
        }
        // A session of an earlier boot lives on for the grace period: its connection was lost with that boot.
        let is_of_earlier_boot = attach.resume.as_ref().is_some_and(|resume| resume.epoch.boot() < self.boot);
        let resumed = is_of_earlier_boot && self.is_grace_after_start;
        Ok((self.directory.insert(namespace, attach.client.as_str()), resumed))
    }

    /// The leases that a resuming client does not list are delivered again in the same attempt.
    fn keep_leases(&mut self, client: u32, resume: &Resume, turn: &mut Turn<'_>) {
        let mut returned = Vec::new();
        for slot in self.leased_by(client) {
            let lease = self.messages.at(slot).lease();
            if !resume.leases.contains(&lease) {
                self.give_up_attempt(slot);
                returned.push(lease.message.0);
            }
        }
        if !returned.is_empty() {
            self.append_amendment(turn, |out| record::encode_returned(out, &returned));
        }
    }

    /// After a restart, a resuming client goes on with the attempts that it still works on and nobody else began.
    fn take_up_leases(&mut self, client: u32, resume: &Resume, turn: &mut Turn<'_>) {
        let namespace = self.directory.at(client).namespace;
        for &lease in &resume.leases {
            let Some(slot) = self.messages.find(lease.message) else { continue };
            let message = self.messages.at(slot);
            if message.state == State::Ready
                && message.attempt_open
                && message.is_newest(lease)
                && self.queues.at(message.queue).namespace == namespace
            {
                self.leave(slot);
                self.place_leased(slot, client, SubscriptionId(0), turn);
                let lease = self.messages.at(slot).next;
                self.leases[lease as usize].since = Time(0);
            }
        }
    }

    /// A connection is gone.
    pub(super) fn detach(&mut self, detach: &Detach, turn: &mut Turn<'_>) {
        let Some(client) = self.directory.of_conn(detach.conn) else { return };
        let namespace = self.directory.at(client).namespace;
        if let Some(producer) = detach.retired_producer
            && let Some(mark) = self.marks.forget(namespace, producer)
        {
            for run in mark.runs {
                turn.journal.release(run.position, run.charge);
            }
            let name = self.queues.tenant(namespace).name.clone();
            self.append_amendment(turn, |out| record::encode_retired(out, &name, producer));
            self.queues.tenant_mut(namespace).producers -= 1;
            self.metrics.producers.sub(1);
        }
        self.end_connection(client);
        self.presence(client, "disconnected", detach.reason.as_str());
        if detach.bye {
            self.end_session(client, "the client said goodbye", turn);
        } else {
            let timer = self.wheel.insert(turn.now.time + self.config.grace, Timer::Client(client).key());
            self.directory.at_mut(client).grace = Some(timer);
            self.metrics.sessions_in_grace.add(1);
        }
    }

    pub(super) fn grace_over(&mut self, client: u32, turn: &mut Turn<'_>) {
        self.directory.at_mut(client).grace = None;
        self.metrics.sessions_in_grace.sub(1);
        self.presence(client, "ended", "grace_over");
        self.end_session(client, "the client did not come back", turn);
    }

    /// Subscriptions and parked publishes end with their connection; leases do not.
    fn end_connection(&mut self, client: u32) {
        for index in self.subscriptions_of(client) {
            self.end_subscription(client, index);
        }
        self.end_mailbox_subscription(client);
        self.leave_topics(client);
        self.drop_parked(client);
        self.directory.disconnect(client);
        self.directory.at_mut(client).rest = None;
    }

    fn end_session(&mut self, client: u32, error: &str, turn: &mut Turn<'_>) {
        self.end_leases(client, error, turn);
        self.stop_grace(client);
        self.directory.remove(client);
        self.metrics.sessions.set(self.directory.clients.len() as u64);
    }

    fn stop_grace(&mut self, client: u32) {
        if let Some(timer) = self.directory.at_mut(client).grace.take() {
            self.wheel.cancel(timer);
            self.metrics.sessions_in_grace.sub(1);
        }
    }

    /// Whoever worked on these is gone: each is a failed attempt, tried again at once.
    fn end_leases(&mut self, client: u32, error: &str, turn: &mut Turn<'_>) {
        for slot in self.leased_by(client) {
            self.fail(slot, error, Retry::Now, turn);
        }
    }

    /// Newest lease first.
    fn leased_by(&self, client: u32) -> Vec<u32> {
        let mut slots = Vec::new();
        let mut at = self.directory.at(client).leases;
        while at != NIL {
            let lease = &self.leases[at as usize];
            slots.push(lease.message);
            at = lease.next;
        }
        slots.sort_unstable_by_key(|&slot| std::cmp::Reverse(MessageId(self.messages.at(slot).id)));
        slots
    }

    pub(super) fn subscribe(
        &mut self,
        conn: ConnKey,
        seq: u64,
        id: SubscriptionId,
        name: &QueueName,
        credit: Credit,
        turn: &mut Turn<'_>,
    ) {
        let Some(client) = self.directory.of_conn(conn) else { return };
        let refused = self.try_subscribe(client, id, name, credit, turn).err();
        if refused.is_none() && name.topic().is_none() {
            // It will have something to ack.
            self.resume_reading(client, turn);
        }
        turn.settled(Ticket::DURABLE, conn, seq, refused);
    }

    fn try_subscribe(
        &mut self,
        client: u32,
        id: SubscriptionId,
        name: &QueueName,
        credit: Credit,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refused> {
        let invalid = |text: String| Err(refused(RefusalCode::Invalid, text, 0));
        let entry = self.directory.at(client);
        let namespace: NamespaceId = entry.namespace;
        let has_mailbox = entry.mailbox_subscription != 0;
        let topics = self.topics.of(client);
        let queues = entry.rest.as_ref().map_or(0, |rest| rest.subscriptions.len());
        let count = queues + usize::from(has_mailbox) + topics.len();
        let is_in_use = entry.mailbox_subscription == id.0
            || topics.iter().any(|own| own.subscription == id)
            || self.find_subscription(client, id).is_some();
        if id.0 == 0 || is_in_use {
            return invalid(format!("subscription {} is 0 or in use; choose another number", id.0));
        }
        if count >= SUBSCRIPTIONS_MAX {
            let text = format!("the limit of {SUBSCRIPTIONS_MAX} subscriptions of a session is reached");
            return Err(refused(RefusalCode::LimitReached, text, 0));
        }
        if let Some(topic) = name.topic() {
            return self.subscribe_topic(client, id, topic, turn);
        }
        if let Some(owner) = name.mailbox_owner() {
            if !entry.name.is(owner) {
                return invalid(format!(
                    "{name} is another client's mailbox; a client consumes its own only"
                ));
            }
            if has_mailbox {
                return invalid(format!("{name} is subscribed to already"));
            }
            let mailbox = self.queues.find(namespace, name.as_str());
            let entry = self.directory.at_mut(client);
            entry.mailbox_subscription = id.0;
            entry.mailbox_credit = credit;
            if let Some(mailbox) = mailbox {
                self.link_mailbox(client, mailbox);
                self.mark_dirty(mailbox);
            }
            return Ok(());
        }
        let queue = self
            .queues
            .open(namespace, name.as_str(), Some(&self.config))
            .map_err(|full| self.names_full(full))?;
        let index = self.subscriptions.insert(Subscription {
            client,
            queue,
            id,
            credit,
            is_eager: false,
            next: NIL,
            prev: NIL,
        }) as u32;
        self.queues.at_mut(queue).subscriptions += 1;
        let entry = self.directory.at_mut(client);
        entry.rest_mut().subscriptions.push(index);
        if credit.is_open() && !entry.is_stalled() {
            self.set_eager(index, true);
        }
        self.mark_dirty(queue);
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, conn: ConnKey, seq: u64, id: SubscriptionId, turn: &mut Turn<'_>) {
        let Some(client) = self.directory.of_conn(conn) else { return };
        let mut unknown = None;
        if id.0 != 0 && self.directory.at(client).mailbox_subscription == id.0 {
            self.end_mailbox_subscription(client);
        } else if let Some(index) = self.find_subscription(client, id) {
            self.end_subscription(client, index);
        } else if self.unsubscribe_topic(client, id, turn).is_none() {
            let text = format!("there is no subscription {}", id.0);
            unknown = Some(refused(RefusalCode::Invalid, text, 0));
        }
        turn.settled(Ticket::DURABLE, conn, seq, unknown);
    }

    fn end_subscription(&mut self, client: u32, index: u32) {
        self.set_eager(index, false);
        let ended = self.subscriptions.remove(index as usize);
        let entry = self.directory.at_mut(client);
        entry.rest_mut().subscriptions.retain(|&other| other != index);
        entry.drop_empty_rest();
        self.queues.at_mut(ended.queue).subscriptions -= 1;
        self.mark_dirty(ended.queue);
    }

    fn end_mailbox_subscription(&mut self, client: u32) {
        let entry = self.directory.at_mut(client);
        entry.mailbox_subscription = 0;
        entry.mailbox_credit = Credit::default();
        let queue = std::mem::replace(&mut entry.mailbox_queue, NIL);
        if queue != NIL {
            self.queues.at_mut(queue).owner = NIL;
        }
    }
}
