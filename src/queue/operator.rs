//! What operators ask: queues in numbers, messages and dead letters to look at, and a publish by hand.

use crate::clock::{Now, Time, Wall};
use crate::ids::{ConnKey, MessageId, Namespace, QueueName};
use crate::log::Ticket;
use crate::mail::{
    DeadLetter, Effect, FailedAttempt, MessageRow, OperatorReply, OperatorRequest, PublishMessage,
    QueueStats, RefusalCode,
};
use crate::queue::ack_and_publish::Asking;
use crate::queue::dedup::digests;
use crate::queue::fanout::Topical;
use crate::queue::lifecycle::End;
use crate::queue::messages::{FailureKept, State};
use crate::queue::record::Reason;
use crate::queue::{Brain, Reading, Turn, refused};

impl Brain {
    /// Answers one request of the operator API; a body that is not in memory is read back first.
    pub(super) fn operate(&mut self, conn: ConnKey, request: OperatorRequest, turn: &mut Turn<'_>) {
        let reply = match request {
            OperatorRequest::Publish { namespace, queue, header, body } => {
                let message = PublishMessage { header, body_len: body.len() as u32 };
                return self.operator_publish(conn, &namespace, &queue, message, &body, turn);
            }
            OperatorRequest::DeadRedrive { namespace, queue, selection, to, per_s } => {
                let to = to.unwrap_or_else(|| queue.clone());
                if to.topic().is_some() {
                    let text = format!("{to} is a topic, which keeps nothing; name a queue to redrive to");
                    let refused = refused(RefusalCode::Invalid, text, 0);
                    let reply = Box::new(OperatorReply::Refused(refused));
                    return turn.push_now(Effect::Operator { conn, reply });
                }
                let to = Some(to);
                return self.move_dead(conn, namespace, queue, selection, to, per_s, turn);
            }
            OperatorRequest::DeadPurge { namespace, queue, selection } => {
                return self.move_dead(conn, namespace, queue, selection, None, None, turn);
            }
            OperatorRequest::DeadShow { namespace, queue, id } => {
                let Some(reply) = self.show_dead(conn, &namespace, &queue, id, turn) else { return };
                reply
            }
            OperatorRequest::MessageShow { namespace, queue, id } => {
                let Some(reply) = self.show_message(conn, &namespace, &queue, id, turn) else { return };
                reply
            }
            OperatorRequest::Namespaces => OperatorReply::Namespaces(
                self.queues.tenants().map(|tenant| tenant.name.to_string()).collect(),
            ),
            OperatorRequest::Queues { namespace, mailboxes, after, limit } => {
                return self.list_queues(conn, namespace, mailboxes, after, limit, turn);
            }
            OperatorRequest::QueueSet { namespace, queue, changes } => {
                return self.set_queue(conn, &namespace, &queue, &changes, turn);
            }
            OperatorRequest::QueueSettings { namespace, queue } => {
                OperatorReply::Settings(self.settings_of(&namespace, &queue))
            }
            OperatorRequest::NamespaceSet { namespace, changes } => {
                return self.set_namespace(conn, &namespace, &changes, turn);
            }
            OperatorRequest::NamespaceSettings { namespace } => self.namespace_settings(&namespace),
            OperatorRequest::Disk { state, text } => return self.disk_changed(conn, state, &text, turn),
            request @ (OperatorRequest::ScheduleAdd { .. }
            | OperatorRequest::ScheduleRemove { .. }
            | OperatorRequest::SchedulePause { .. }
            | OperatorRequest::Schedules { .. }
            | OperatorRequest::ScheduleShow { .. }) => return self.operate_schedules(conn, request, turn),
            request @ (OperatorRequest::Bind { .. }
            | OperatorRequest::Unbind { .. }
            | OperatorRequest::Bindings { .. }) => return self.operate_bindings(conn, request, turn),
            OperatorRequest::Stats { namespace, queue } => {
                let found = self.find_queue(&namespace, &queue);
                let row = match found {
                    Some(queue) => self.stats(queue, turn),
                    None => QueueStats { queue: queue.to_string(), ..QueueStats::default() },
                };
                OperatorReply::Queues(vec![row])
            }
            OperatorRequest::DeadList { namespace, queue, filter, after, limit } => {
                return self.search_dead(conn, namespace, queue, filter, after, limit, turn);
            }
            OperatorRequest::DeadJobs { namespace } => OperatorReply::Jobs(self.dead_jobs(&namespace)),
            OperatorRequest::DeadCancel { namespace, job } => {
                OperatorReply::Jobs(self.cancel_job(&namespace, job, turn))
            }
        };
        turn.push_now(Effect::Operator { conn, reply: Box::new(reply) });
    }

    pub(super) fn find_queue(&self, namespace: &Namespace, queue: &QueueName) -> Option<u32> {
        self.queues.find(self.queues.find_namespace(namespace.as_str())?, queue.as_str())
    }

    fn operator_publish(
        &mut self,
        conn: ConnKey,
        namespace: &Namespace,
        queue: &QueueName,
        message: PublishMessage,
        body: &[u8],
        turn: &mut Turn<'_>,
    ) {
        let namespace = self
            .queues
            .intern(namespace.as_str(), self.config.namespaces_max)
            .map_err(|full| self.names_full(full));
        if let (Ok(namespace), Some(topic)) = (&namespace, queue.topic()) {
            let topical = Topical { namespace: *namespace, topic, messages: &[message], bodies: body };
            let (after, reply) = match self.operator_publish_to_topic(topical, turn) {
                Ok(handed) => (handed.after, OperatorReply::Broadcasted(handed.subscribers)),
                Err(refused) => {
                    self.metrics.refused.inc();
                    (Ticket::DURABLE, OperatorReply::Refused(refused))
                }
            };
            return turn.outbox.push(after, Effect::Operator { conn, reply: Box::new(reply) }, &[]);
        }
        let digests = digests(&[message], body);
        let judged = namespace.and_then(|namespace| {
            if !digests.is_empty()
                && let Some(known) = self.judge_ids(namespace, queue.as_str(), &digests, turn)?
            {
                return Ok(Err(known));
            }
            self.judge(namespace, queue.as_str(), Asking::default(), &[message], turn).map(Ok)
        });
        match judged {
            Ok(Err(known)) => {
                self.metrics.dedup_hits.inc();
                let reply = Box::new(OperatorReply::Published(MessageId(known)));
                turn.outbox.push(self.published_with(known), Effect::Operator { conn, reply }, &[]);
            }
            Ok(Ok((queue, _))) => {
                let id = self.admit(queue, None, &[], &[message], body, turn);
                turn.push_durable(Effect::Operator { conn, reply: Box::new(OperatorReply::Published(id)) });
            }
            Err(refused) => {
                self.metrics.refused.inc();
                turn.push_now(Effect::Operator { conn, reply: Box::new(OperatorReply::Refused(refused)) });
            }
        }
    }

    pub(super) fn stats(&self, queue: u32, turn: &Turn<'_>) -> QueueStats {
        let entry = self.queues.at(queue);
        let published = entry.ready.heads().map(|slot| self.messages.at(slot).published).min();
        let mailbox_consumers = u64::from(entry.owner != crate::queue::messages::NIL);
        QueueStats {
            queue: entry.name.to_string(),
            ready: entry.ready_count,
            scheduled: entry.scheduled_count,
            leased: entry.leased_count,
            blocked: entry.blocked_count,
            dead: entry.dead.len() as u64,
            bytes: entry.bytes,
            parked: entry.parked_count,
            consumers: entry.subscriptions + mailbox_consumers,
            oldest_ready_age_ms: published.map_or(0, |published| published.millis_until(turn.now.time)),
        }
    }

    /// Attempts that failed, as far as they were kept, oldest first.
    fn history(&self, slot: u32) -> Vec<FailedAttempt> {
        let row = |failure: &FailureKept| FailedAttempt {
            attempt: failure.attempt,
            client: failure.client.to_string(),
            failed_unix_ms: failure.wall.0,
            error: failure.error.to_string(),
            lasted_ms: failure.lasted_ms,
        };
        self.messages.rare(slot).map_or_else(Vec::new, |rare| rare.failures.iter().map(row).collect())
    }

    pub(super) fn dead_letter(&self, slot: u32, now: Now) -> DeadLetter {
        let message = self.messages.at(slot);
        let rare = self.messages.rare(slot);
        let history = self.history(slot);
        let (reason, died) = rare.and_then(|rare| rare.dead).unwrap_or((Reason::Attempts, Wall(0)));
        DeadLetter {
            id: message.id,
            queue: self.queues.at(message.queue).name.to_string(),
            reason: reason.as_str(),
            last_error: history.last().map_or_else(String::new, |failure| failure.error.clone()),
            attempts: u32::from(message.spent),
            published_unix_ms: now.wall_at(message.published).0,
            died_unix_ms: died.0,
            bytes: u64::from(message.body_len),
            history_left_out: message.attempt.saturating_sub(history.len() as u32),
            history,
            body: None,
        }
    }

    fn find_dead(&self, namespace: &Namespace, queue: &QueueName, id: MessageId) -> Option<u32> {
        let queue = self.find_queue(namespace, queue)?;
        self.queues.at(queue).dead.get(&id.0).copied()
    }

    /// The body of a message, or `None` when it is read for `reading`.
    fn body_or_read(&mut self, slot: u32, reading: Reading, turn: &mut Turn<'_>) -> Option<Vec<u8>> {
        if let Some(body) = self.messages.body(slot) {
            return Some(body.to_vec());
        }
        let message = self.messages.at(slot);
        let read = turn.journal.read(message.position, message.body_offset, message.body_len);
        self.reads.insert(read, reading);
        None
    }

    /// The answer, or `None` when it has to wait for the body.
    fn show_dead(
        &mut self,
        conn: ConnKey,
        namespace: &Namespace,
        queue: &QueueName,
        id: MessageId,
        turn: &mut Turn<'_>,
    ) -> Option<OperatorReply> {
        let Some(slot) = self.find_dead(namespace, queue, id) else {
            return Some(OperatorReply::Dead(Vec::new()));
        };
        let body = self.body_or_read(slot, Reading::ShowDead { conn, message: id }, turn)?;
        let row = DeadLetter { body: Some(body), ..self.dead_letter(slot, turn.now) };
        Some(OperatorReply::Dead(vec![row]))
    }

    pub(super) fn dead_read(&mut self, conn: ConnKey, id: MessageId, bytes: &[u8], turn: &mut Turn<'_>) {
        let dead = self.messages.find(id).filter(|&slot| self.messages.at(slot).state == State::Dead);
        let row =
            dead.map(|slot| DeadLetter { body: Some(bytes.to_vec()), ..self.dead_letter(slot, turn.now) });
        let reply = Box::new(OperatorReply::Dead(row.into_iter().collect()));
        turn.push_now(Effect::Operator { conn, reply });
    }

    /// The answer, or `None` when it has to wait for the body.
    fn show_message(
        &mut self,
        conn: ConnKey,
        namespace: &Namespace,
        queue: &QueueName,
        id: MessageId,
        turn: &mut Turn<'_>,
    ) -> Option<OperatorReply> {
        let queue = self.find_queue(namespace, queue);
        let found = self.messages.find(id).filter(|&slot| Some(self.messages.at(slot).queue) == queue);
        let Some(slot) = found else { return Some(OperatorReply::Message(None)) };
        let body = self.body_or_read(slot, Reading::Show { conn, message: id }, turn)?;
        let row = self.message_row(slot, body, turn.now);
        Some(OperatorReply::Message(Some(Box::new(row))))
    }

    pub(super) fn message_read(&mut self, conn: ConnKey, id: MessageId, bytes: &[u8], turn: &mut Turn<'_>) {
        let found = self.messages.find(id);
        let row = found.map(|slot| Box::new(self.message_row(slot, bytes.to_vec(), turn.now)));
        turn.push_now(Effect::Operator { conn, reply: Box::new(OperatorReply::Message(row)) });
    }

    fn message_row(&self, slot: u32, body: Vec<u8>, now: Now) -> MessageRow {
        let message = self.messages.at(slot);
        let lease = (message.state == State::Leased).then(|| &self.leases[message.next as usize]);
        let history = self.history(slot);
        MessageRow {
            id: message.id,
            queue: self.queues.at(message.queue).name.to_string(),
            state: message.state.as_str(),
            due_unix_ms: (message.state == State::Scheduled).then(|| self.due(slot, now).0),
            client: lease.map(|lease| self.directory.at(lease.client).name.as_str().to_owned()),
            leased_unix_ms: lease
                .filter(|lease| lease.since > Time(0))
                .map(|lease| now.wall_at(lease.since).0),
            last_error: history.last().map_or_else(String::new, |failure| failure.error.clone()),
            attempts: u32::from(message.spent),
            published_unix_ms: now.wall_at(message.published).0,
            expires_unix_ms: (message.expires > Time(0)).then(|| now.wall_at(message.expires).0),
            bytes: u64::from(message.body_len),
            history_left_out: history.first().map_or(0, |first| first.attempt.saturating_sub(1)),
            history,
            body,
        }
    }

    /// What the wall clock will show when this scheduled message is due, as far as it is known now.
    fn due(&self, slot: u32, now: Now) -> Wall {
        match self.messages.rare(slot) {
            Some(rare) if rare.due > Wall(0) => rare.due.max(now.wall_at(rare.no_sooner)),
            _ => now.wall_at(self.messages.at(slot).until()),
        }
    }

    /// A dead letter is ready again, in `queue`, with its attempts anew and the time to live of that queue, for its own is
    /// over. What is known of its earlier attempts is kept. With an ordering key it stands behind the others, unless they wait
    /// for it; `order` is its new place among them, 0 for the one it had.
    pub(super) fn bring_back(&mut self, slot: u32, queue: u32, time: Time, order: u64) {
        self.leave(slot);
        let rare = self.messages.rare_mut(slot);
        rare.dead = None;
        rare.holds_key = false;
        if order != 0 {
            rare.order = order;
        }
        let ttl = self.queues.at(queue).rules(&self.config).ttl;
        let message = self.messages.at_mut(slot);
        message.spent = 0;
        message.attempt_open = false;
        message.expires = ttl.map_or(Time(0), |ttl| time + ttl);
        if message.queue != queue {
            self.change_queue(slot, queue);
        }
        self.note_ready(slot, time);
        if self.is_head(slot) {
            self.place_ready(slot, End::Back);
        } else {
            self.place_new(slot, None);
        }
    }
}
