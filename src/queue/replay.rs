//! From the log back to where the shard stood: replay, start, and the writing anew of what an old segment holds.

use std::time::Duration;

use crate::clock::{Now, Time, Wall};
use crate::ids::{Boot, MessageId, ProducerId};
use crate::log::Position;
use crate::mail::{MessageHeader, ProducerSequence};
use crate::message::message_header;
use crate::queue::dedup::{Entry, recorded_digests};
use crate::queue::lifecycle::End;
use crate::queue::marks::{Mark, Run};
use crate::queue::messages::{FailureKept, State};
use crate::queue::publish::Placed;
use crate::queue::queues::NamespaceId;
use crate::queue::record::{
    self, FailedRecord, Failure, MarkRecord, PublishRecord, Record, RecordError, SnapshotRecord, Standing,
};
use crate::queue::{Brain, Held, Timer, Turn, release};

/// A record that could not be replayed.
#[derive(Debug, thiserror::Error)]
#[error("the log's record at position {} cannot be used", position.0)]
pub struct ReplayError {
    /// Where it lies.
    pub position: Position,
    /// What is wrong with it.
    #[source]
    pub source: RecordError,
}

impl Brain {
    /// Takes in one recovered record; all are replayed in order before [`Brain::start`].
    ///
    /// # Errors
    /// [`ReplayError`] when the record is not one this version writes.
    pub fn replay(&mut self, position: Position, bytes: &[u8]) -> Result<(), ReplayError> {
        self.replay_head(position, bytes, bytes.len() as u32)
    }

    /// As [`Brain::replay`] for a record of `len` bytes of which only the [head](record::head_len) is there: its bodies are
    /// read back from the log when they are needed.
    ///
    /// # Errors
    /// As [`Brain::replay`].
    pub fn replay_head(&mut self, position: Position, bytes: &[u8], len: u32) -> Result<(), ReplayError> {
        let decoded =
            record::decode_head(bytes, len as usize).map_err(|source| ReplayError { position, source })?;
        match decoded {
            Record::Boot(boot) => self.boot = self.boot.max(boot),
            Record::Clock { time, wall, next_id } => {
                self.replay_clock(time, wall);
                self.next_id = self.next_id.max(next_id);
            }
            Record::Publish(publish) => self.replay_publish(position, &publish),
            Record::Leased { boot, leases } => {
                let boot = boot.unwrap_or(self.boot);
                leases.into_iter().for_each(|(id, attempt)| self.replay_lease(id, attempt, boot));
            }
            Record::Done(ids) => ids.into_iter().for_each(|id| {
                if let Some(slot) = self.messages.find(MessageId(id)) {
                    self.forget(slot);
                }
            }),
            Record::Failed(failed) => self.replay_failed(&failed),
            Record::Returned(ids) => ids.into_iter().for_each(|id| {
                if let Some(slot) = self.messages.find(MessageId(id)) {
                    let message = self.messages.at_mut(slot);
                    message.attempt = message.attempt.saturating_sub(1);
                    message.spent = message.spent.saturating_sub(1);
                    message.attempt_open = false;
                }
            }),
            Record::Died { id, reason, wall } => {
                if let Some(slot) = self.messages.find(MessageId(id)) {
                    if self.messages.at(slot).state == State::Dead {
                        // For another reason now.
                        self.messages.rare_mut(slot).dead = Some((reason, wall));
                        return Ok(());
                    }
                    // A dead letter that has another reason now holds its ordering key as before.
                    let holds = self.messages.rare(slot).is_some_and(|rare| rare.holds_key);
                    let standing = if holds { Standing::Holding(reason) } else { Standing::Dead(reason) };
                    self.place_again(slot, standing, wall);
                }
            }
            Record::Redriven { id, time, queue, order } => {
                self.next_id = self.next_id.max(order.saturating_add(1));
                if let Some(slot) = self.messages.find(MessageId(id)) {
                    let namespace = self.queues.at(self.messages.at(slot).queue).namespace;
                    let target = self.reopen(namespace, queue);
                    self.bring_back(slot, target, time, order);
                }
            }
            Record::Snapshot(snapshot) => self.replay_snapshot(position, len, None, &snapshot),
            Record::Copies(copies) => self.replay_copies(position, bytes.len(), &copies),
            Record::Binding(binding) => {
                let held = Held { position, len: bytes.len() as u32 };
                self.replay_binding(held, &binding);
            }
            Record::Mark(mark) => self.replay_mark(position, bytes.len(), &mark),
            Record::Dedup(ids) => self.replay_dedup(position, bytes.len(), &ids),
            Record::Settings(settings) => {
                let held = Held { position, len: bytes.len() as u32 };
                self.replay_settings(held, &settings);
            }
            Record::Schedule(schedule) => {
                let held = Held { position, len: bytes.len() as u32 };
                self.replay_schedule(held, &schedule);
            }
            Record::Retired { namespace, producer } => {
                let namespace = self.intern_again(namespace);
                if self.marks.forget(namespace, producer).is_some() {
                    self.queues.tenant_mut(namespace).producers -= 1;
                }
            }
        }
        Ok(())
    }

    /// After the replay: the time this shard's clock starts at. Shard time stands still only where the wall clock
    /// went back.
    #[must_use]
    pub fn shard_time(&self, wall: Wall) -> Time {
        let (time, last) = self.clock;
        // Something may have died after the newest clock of the log, and what dies from now on died later.
        Time(time.0 + wall.0.saturating_sub(last.0)).max(self.last_death())
    }

    /// Ends the replay: tells the log what is still needed, counts this boot durably, makes leased messages ready and
    /// sets the timers. The boot must be committed before the first accept.
    pub fn start(&mut self, turn: &mut Turn<'_>) -> Boot {
        for (_, message) in self.messages.iter() {
            turn.journal.retain(message.position, message.charge);
        }
        for run in self.marks.table.values().flat_map(|mark| &mark.runs) {
            turn.journal.retain(run.position, run.charge);
        }
        for own in self.queues.slab.iter().filter_map(|(_, queue)| queue.own.as_ref()) {
            turn.journal.retain(own.held.position, own.held.len);
        }
        self.start_ids(turn);
        for quota in self.queues.tenants().map(|tenant| &tenant.quota).filter(|quota| quota.held.len > 0) {
            turn.journal.retain(quota.held.position, quota.held.len);
        }
        self.start_schedules(turn);
        for binding in self.bindings.iter() {
            turn.journal.retain(binding.held.position, binding.held.len);
        }
        self.metrics.bindings.set(self.bindings.len() as u64);
        self.boot = Boot(self.boot.0 + 1);
        self.append_clock(turn);
        self.append_boot(turn);
        self.line_up();
        self.sort_ready();
        self.is_started = true;
        self.messages.bodies.at_work();
        self.sort_dead(turn.now.time);
        self.wheel.insert(turn.now.time + self.config.grace, Timer::StartGrace.key());
        self.is_grace_after_start = true;
        let open: Vec<u32> = self.queues.slab.iter().map(|(queue, _)| queue as u32).collect();
        open.into_iter().for_each(|queue| self.mark_dirty(queue));
        self.metrics.producers.set(self.marks.table.len() as u64);
        self.tell_restarted();
        self.finish(turn);
        self.boot
    }

    /// Compaction: for each part of this record that recovery still needs, writes what replaces it and releases it.
    pub fn relocate(&mut self, position: Position, bytes: &[u8], turn: &mut Turn<'_>) {
        self.begin(turn);
        match record::decode(bytes) {
            Ok(Record::Boot(_)) if self.boot_held.position == position => self.append_boot(turn),
            Ok(Record::Clock { .. }) if self.clock_held.position == position => self.append_clock(turn),
            Ok(Record::Publish(publish)) => {
                if publish.targets.is_empty() {
                    for id in (publish.first_id..).take(publish.messages.len()) {
                        self.relocate_message(position, id, bytes, turn);
                    }
                    let ids = (publish.first_id..).zip(recorded_digests(&publish));
                    let ids = ids.filter_map(|(id, digest)| Some((id, digest?)));
                    self.relocate_ids(position, (publish.namespace, publish.queue), ids, turn);
                } else {
                    self.relocate_fanout(position, &publish, bytes, turn);
                }
                if let Some(producer) = publish.producer {
                    self.relocate_mark(position, publish.namespace, producer.producer, turn);
                }
                if let Some((schedule, _)) = publish.schedule {
                    self.relocate_schedule(position, publish.namespace, schedule, turn);
                }
            }
            Ok(Record::Dedup(dedup)) => {
                let ids = dedup.ids.iter().map(|&(id, _, digest)| (id, digest));
                self.relocate_ids(position, (dedup.namespace, dedup.queue), ids, turn);
            }
            Ok(Record::Snapshot(snapshot)) => self.relocate_message(position, snapshot.id, bytes, turn),
            Ok(Record::Copies(copies)) => {
                self.relocate_copies(position, copies.iter().map(|(copy, _)| copy.id), bytes, turn);
            }
            Ok(Record::Binding(binding)) => {
                let held = Held { position, len: bytes.len() as u32 };
                self.relocate_binding(held, &binding, turn);
            }
            Ok(Record::Mark(mark)) => self.relocate_mark(position, mark.namespace, mark.producer, turn),
            Ok(Record::Schedule(schedule)) => {
                self.relocate_schedule(position, schedule.namespace, schedule.name, turn);
            }
            Ok(Record::Settings(settings)) => {
                let held = Held { position, len: bytes.len() as u32 };
                self.relocate_settings(held, &settings, turn);
            }
            // Everything else only amends what lies before it. What was replayed or written here decodes.
            Ok(_) | Err(_) => {}
        }
        self.finish(turn);
    }

    fn append_boot(&mut self, turn: &mut Turn<'_>) {
        let boot = self.boot;
        let held = self.append(turn, |out| record::encode_boot(out, boot));
        release(turn, std::mem::replace(&mut self.boot_held, held));
    }

    fn relocate_message(&mut self, position: Position, id: u64, bytes: &[u8], turn: &mut Turn<'_>) {
        let Some(slot) = self.messages.find(MessageId(id)) else { return };
        let message = self.messages.at(slot);
        if message.position != position {
            return;
        }
        let start = message.body_offset as usize;
        let Some(body) = bytes.get(start..start + message.body_len as usize) else { return };
        let old = Held { position, len: message.charge };
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        record::encode_snapshot(&mut head, &self.snapshot(slot, body, turn.now));
        let position = turn.journal.append(&[&head, body]);
        let message = self.messages.at_mut(slot);
        message.position = position;
        message.body_offset = head.len() as u32;
        message.charge = head.len() as u32 + message.body_len;
        self.scratch = head;
        release(turn, old);
    }

    pub(super) fn snapshot<'a>(&'a self, slot: u32, body: &'a [u8], now: Now) -> SnapshotRecord<'a> {
        let message = self.messages.at(slot);
        let queue = self.queues.at(message.queue);
        let rare = self.messages.rare(slot);
        let dead = rare.and_then(|rare| rare.dead);
        let standing = match (message.state, dead) {
            (State::Dead, Some((reason, _))) if rare.is_some_and(|rare| rare.holds_key) => {
                Standing::Holding(reason)
            }
            (State::Dead, Some((reason, _))) => Standing::Dead(reason),
            (State::Scheduled, _) => Standing::Scheduled(message.until()),
            (State::Blocked, _) if rare.is_some_and(|rare| rare.until != Time(0)) => {
                Standing::Scheduled(rare.map_or(Time(0), |rare| rare.until))
            }
            (State::Leased, _) => Standing::AttemptOpen,
            _ if message.attempt_open => Standing::AttemptOpen,
            _ => Standing::Ready,
        };
        let failures = rare.map_or_else(Vec::new, |rare| {
            let failure = |kept: &'a FailureKept| Failure {
                attempt: kept.attempt,
                wall: kept.wall,
                client: &kept.client,
                error: &kept.error,
                lasted_ms: kept.lasted_ms,
            };
            rare.failures.iter().map(failure).collect()
        });
        SnapshotRecord {
            id: message.id,
            published: now.wall_at(message.published),
            published_time: Some(message.published),
            attempt: message.attempt,
            boot: message.boot,
            spent: u32::from(message.spent),
            attempts_max: u32::from(message.attempts_max),
            priority: message.priority,
            standing,
            died: dead.map_or(Wall(0), |(_, wall)| wall),
            time: rare.and_then(|rare| match dead {
                Some(_) => Some(rare.died),
                None => (rare.due != Wall(0)).then_some(rare.no_sooner),
            }),
            expires: message.expires,
            due: rare.map_or(Wall(0), |rare| rare.due),
            order: rare.map_or(0, |rare| rare.order),
            failures,
            namespace: &self.queues.tenant(queue.namespace).name,
            queue: &queue.name,
            body_len: message.body_len,
            body,
        }
    }

    /// Writes a producer's whole mark anew when any of its runs is kept by the record at `position`.
    fn relocate_mark(
        &mut self,
        position: Position,
        namespace: &str,
        producer: ProducerId,
        turn: &mut Turn<'_>,
    ) {
        let Some(tenant) = self.queues.find_namespace(namespace) else { return };
        let Some(mark) = self.marks.table.get_mut(&(tenant, producer)) else { return };
        if mark.runs.iter().all(|run| run.position != position) {
            return;
        }
        self.scratch.clear();
        let runs = mark.runs.iter().map(|run| (run.sequence, run.first_id, run.count)).collect();
        let unanswered_from = mark.unanswered_from;
        record::encode_mark(&mut self.scratch, &MarkRecord { namespace, producer, unanswered_from, runs });
        let position = turn.journal.append(&[&self.scratch]);
        // The last run goes last, so it keeps the whole record.
        let mut old = Vec::with_capacity(mark.runs.len());
        for run in &mut mark.runs {
            old.push(Held { position: run.position, len: run.charge });
            (run.position, run.charge) = (position, 0);
        }
        if let Some(last) = mark.runs.back_mut() {
            last.charge = self.scratch.len() as u32;
        }
        old.into_iter().for_each(|held| release(turn, held));
    }

    pub(super) fn intern_again(&mut self, namespace: &str) -> NamespaceId {
        // A lower limit than before must not keep what is there from coming back.
        self.queues.intern(namespace, usize::MAX).unwrap_or_default()
    }

    pub(super) fn reopen(&mut self, namespace: NamespaceId, queue: &str) -> u32 {
        self.queues.open(namespace, queue, None).unwrap_or_default()
    }

    /// When it was this time by the wall clock, as far as the newest clock of the log tells.
    fn time_at(&self, wall: Wall) -> Time {
        let (time, at) = self.clock;
        Time((time.0 + wall.0.saturating_sub(at.0)).saturating_sub(at.0.saturating_sub(wall.0)))
    }

    fn replay_clock(&mut self, time: Time, wall: Wall) {
        if self.clock.1 == Wall(0) {
            self.time_first_deaths(time, wall);
            // And when they were published, where an older record said that by the wall clock alone: nothing was
            // published later than now, so what is later is such a one.
            for slot in self.messages.slots() {
                let message = self.messages.at_mut(slot);
                if message.published > time {
                    let ago_ms = wall.0.saturating_sub(message.published.0);
                    message.published = Time(time.0.saturating_sub(ago_ms));
                }
            }
        }
        if time >= self.clock.0 {
            self.clock = (time, wall);
        }
    }

    fn replay_publish(&mut self, position: Position, publish: &PublishRecord<'_>) {
        self.replay_clock(publish.time, publish.wall);
        let ids = publish.messages.len() * publish.targets.len().max(1);
        self.next_id = self.next_id.max(publish.first_id + ids as u64);
        let namespace = self.intern_again(publish.namespace);
        for &id in &publish.acks {
            if let Some(slot) = self.messages.find(MessageId(id)) {
                self.forget(slot);
            }
        }
        if !publish.targets.is_empty() {
            return self.replay_fanout(position, namespace, publish);
        }
        let queue = self.reopen(namespace, publish.queue);
        let mut head_charge = publish.head_len;
        if let Some((schedule, due)) = publish.schedule {
            let head = Held { position, len: std::mem::take(&mut head_charge) };
            self.replay_firing(namespace, schedule, due, head);
        }
        if let Some(producer) = publish.producer {
            self.replay_run(position, namespace, publish, producer, std::mem::take(&mut head_charge));
        }
        let digests = recorded_digests(publish);
        let (mut body_offset, mut bodies) = (publish.bodies_offset, publish.bodies);
        for (at, published) in publish.messages.iter().enumerate() {
            let id = publish.first_id + at as u64;
            let message = &published.message;
            let mut charge = published.entry_len + message.body_len + std::mem::take(&mut head_charge);
            if let Some(&Some(digest)) = digests.get(at) {
                charge -= published.entry_len;
                let expires = Time(publish.time.0.saturating_add(publish.dedup_window_ms));
                let entry = Entry { digest, id, expires, position, charge: published.entry_len };
                self.replay_id(queue, entry);
            }
            // None of them where only the head is there.
            let (body, rest) = bodies.split_at(bodies.len().min(message.body_len as usize));
            bodies = rest;
            let (time, wall) = (publish.time, publish.wall);
            let body_len = message.body_len;
            let placed = Placed { id, queue, position, body_offset, body_len, charge, time };
            body_offset += body_len;
            if self.messages.find(MessageId(id)).is_some() {
                continue;
            }
            let slot = self.enter(&placed, &message.header, body);
            match self.until(slot, &message.header, time, wall) {
                Some(until) => self.place_scheduled(slot, until),
                None => self.place_ready(slot, End::Back),
            }
        }
    }

    /// The mark of a publish's producer, which keeps `charge` bytes of the record.
    pub(super) fn replay_run(
        &mut self,
        position: Position,
        namespace: NamespaceId,
        publish: &PublishRecord<'_>,
        producer: ProducerSequence,
        charge: u32,
    ) {
        let (sequence, count) = (producer.sequence, publish.messages.len() as u32);
        let run = Run { sequence, first_id: publish.first_id, position, charge, count };
        if self.marks.remember(namespace, producer.producer, producer.unanswered_from, run, |_| {}) {
            self.queues.tenant_mut(namespace).producers += 1;
        }
    }

    fn replay_lease(&mut self, id: u64, attempt: u32, boot: Boot) {
        let Some(slot) = self.messages.find(MessageId(id)) else { return };
        self.place_again(slot, Standing::AttemptOpen, Wall(0));
        let message = self.messages.at_mut(slot);
        message.attempt = attempt;
        message.boot = boot;
        message.spent = message.spent.saturating_add(1);
    }

    fn replay_failed(&mut self, failed: &FailedRecord<'_>) {
        let Some(slot) = self.messages.find(MessageId(failed.id)) else { return };
        self.place_again(slot, failed.next, failed.wall);
        let kept = FailureKept {
            attempt: failed.attempt,
            wall: failed.wall,
            client: failed.client.into(),
            error: failed.error.into(),
            lasted_ms: failed.lasted_ms,
        };
        self.keep_failure(slot, kept);
    }

    /// A message whose body is at the end of the record at `position`, which has `len` bytes; `charge` of them are its own,
    /// or all.
    pub(super) fn replay_snapshot(
        &mut self,
        position: Position,
        len: u32,
        charge: Option<u32>,
        snapshot: &SnapshotRecord<'_>,
    ) {
        self.next_id = self.next_id.max(snapshot.id + 1);
        if let Some(slot) = self.messages.find(MessageId(snapshot.id)) {
            self.forget(slot);
        }
        let namespace = self.intern_again(snapshot.namespace);
        let queue = self.reopen(namespace, snapshot.queue);
        let placed = Placed {
            id: snapshot.id,
            queue,
            position,
            body_offset: len - snapshot.body_len,
            body_len: snapshot.body_len,
            charge: charge.unwrap_or(len),
            time: snapshot.published_time.unwrap_or_else(|| self.time_at(snapshot.published)),
        };
        let (priority, attempts_max) = (snapshot.priority, snapshot.attempts_max);
        // Whether the message says more is in the message.
        let header = MessageHeader { priority, attempts_max, has_options: true, ..MessageHeader::default() };
        let slot = self.enter(&placed, &header, snapshot.body);
        let message = self.messages.at_mut(slot);
        message.attempt = snapshot.attempt;
        message.boot = snapshot.boot;
        message.spent = u16::try_from(snapshot.spent).unwrap_or(u16::MAX);
        message.expires = snapshot.expires;
        if snapshot.due != Wall(0) {
            // It may have asked for a delay as well. An older record leaves that to the message itself.
            let delay_ms =
                || message_header(snapshot.body, snapshot.body.len()).map_or(0, |header| header.delay_ms);
            let no_sooner = snapshot.time.unwrap_or_else(|| placed.time + Duration::from_millis(delay_ms()));
            self.messages.rare_mut(slot).no_sooner = no_sooner;
            self.messages.set_due(slot, snapshot.due);
        }
        if snapshot.order != 0 {
            self.messages.rare_mut(slot).order = snapshot.order;
        }
        for failure in &snapshot.failures {
            let (client, error) = (failure.client.into(), failure.error.into());
            let Failure { attempt, wall, lasted_ms, .. } = *failure;
            self.keep_failure(slot, FailureKept { attempt, wall, client, error, lasted_ms });
        }
        self.place_again(slot, snapshot.standing, snapshot.died);
        if matches!(snapshot.standing, Standing::Dead(_) | Standing::Holding(_)) {
            // It may have died long before the record was written.
            let guess = self.time_at(snapshot.died).min(self.time_of_death(snapshot.died));
            self.messages.rare_mut(slot).died = snapshot.time.unwrap_or(guess);
        }
    }

    fn replay_mark(&mut self, position: Position, len: usize, mark: &MarkRecord<'_>) {
        let namespace = self.intern_again(mark.namespace);
        let last = mark.runs.len().saturating_sub(1);
        let run = |(at, &(sequence, first_id, count)): (usize, &(u64, u64, u32))| Run {
            sequence,
            first_id,
            position,
            charge: if at == last { len as u32 } else { 0 },
            count,
        };
        let runs = mark.runs.iter().enumerate().map(run).collect();
        let mark_now = Mark { unanswered_from: mark.unanswered_from, runs };
        if self.marks.table.insert((namespace, mark.producer), mark_now).is_none() {
            self.queues.tenant_mut(namespace).producers += 1;
        }
        let above = mark.runs.iter().map(|&(_, first_id, count)| first_id + u64::from(count)).max();
        self.next_id = self.next_id.max(above.unwrap_or(0));
    }

    /// Puts a message where a record says it stands.
    fn place_again(&mut self, slot: u32, standing: Standing, died: Wall) {
        self.leave(slot);
        self.messages.at_mut(slot).attempt_open = standing == Standing::AttemptOpen;
        match standing {
            Standing::Ready | Standing::AttemptOpen => self.place_ready(slot, End::Back),
            Standing::Scheduled(until) => self.place_scheduled(slot, until),
            Standing::Dead(reason) | Standing::Holding(reason) => {
                self.set_dead(slot, reason, died, self.time_of_death(died));
                self.messages.rare_mut(slot).holds_key = matches!(standing, Standing::Holding(_));
                self.set_timer(slot, None);
            }
        }
    }

    fn forget(&mut self, slot: u32) {
        self.leave(slot);
        self.part_lane(slot);
        self.set_timer(slot, None);
        let message = self.messages.at(slot);
        let (queue, bytes) = (message.queue, u64::from(message.body_len));
        self.queues.at_mut(queue).bytes -= bytes;
        self.count_out(queue, bytes);
        self.messages.remove(slot);
    }

    /// Ready messages stand in the order of arrival again, wherever their newest records lie.
    fn sort_ready(&mut self) {
        let ready = |slot: &u32| self.messages.at(*slot).state == State::Ready;
        let mut slots: Vec<u32> = self.messages.slots().into_iter().filter(ready).collect();
        slots.sort_by_key(|&slot| self.messages.at(slot).id);
        for slot in slots {
            if self.messages.at(slot).is_rare {
                // As if it had been since then.
                self.messages.rare_mut(slot).ready = Time(0);
            }
            self.leave(slot);
            self.place_ready(slot, End::Back);
        }
    }
}
