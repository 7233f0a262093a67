//! The operator binds topics, sets schedules and redrives some dead letters and not others, beside what it does at any time;
//! and producers publish to topics that are bound.

use relaymesh::client::Message;
use relaymesh::ids::{MessageId, Namespace, QueueName, ScheduleName};
use relaymesh::limits;
use relaymesh::mail::{
    BindingSpec, DeadFilter, DeadSelection, Misfire, OperatorRequest, ScheduleSpec, TargetFull,
};

use super::client::filler;
use super::operator::Asked;
use crate::finale::Phase;
use crate::scheduler::MS;
use crate::shadow::{Attributes, Binding, FILTERS, PATTERNS, Stage, TOPICS};
use crate::trace::note;
use crate::world::{Event, World};

impl World {
    /// The first of the operator's later turns.
    pub(crate) fn plan_later(&mut self) {
        if self.plan.later.seed.is_some() {
            self.scheduler.after(5 * MS, Event::LaterTurn);
        }
    }

    pub(crate) fn later_turn(&mut self) {
        let listening = self.server.as_ref().is_some_and(|server| server.is_listening);
        if listening && self.operator.asked_count() < 40 {
            if self.is_troubled() {
                self.wish();
            }
            self.ask_for_wishes();
            self.wake_shard(100);
        }
        if self.is_troubled() || !self.is_later_over() {
            let after = self.later_random.u64(MS..2 * self.plan.later.every);
            self.scheduler.after(after, Event::LaterTurn);
        }
    }

    /// Nothing will be published any more that is not asked for.
    pub(crate) fn is_later_over(&self) -> bool {
        let timed = &self.ledger.timed.all;
        self.phase != Phase::Troubled && timed.values().all(|schedule| schedule.stage == Stage::Gone)
    }

    /// Schedules end with the troubles.
    pub(crate) fn end_later(&mut self) {
        self.ledger.timed.all.values_mut().for_each(|schedule| schedule.stage.end());
    }

    /// What the operator wants anew.
    fn wish(&mut self) {
        let namespaces = ["red", "blue"];
        let namespace = namespaces[self.later_random.usize(0..self.plan.namespaces)];
        let namespace = Namespace::parse(namespace).expect("a good name");
        let bindings = &self.ledger.bound.bindings;
        let there =
            bindings.iter().filter(|of| matches!(of.stage, Stage::Wanted | Stage::Asked | Stage::There));
        let there = there.count();
        if there < self.plan.later.bindings {
            self.wish_binding(namespace.clone());
        } else if there > 0 && self.later_random.u8(0..6) == 0 {
            let bindings = &mut self.ledger.bound.bindings;
            let one = self.later_random.usize(0..bindings.len());
            bindings[one].stage.end();
        }
        let timed = &self.ledger.timed.all;
        let there =
            timed.values().filter(|of| matches!(of.stage, Stage::Wanted | Stage::Asked | Stage::There));
        if there.count() < self.plan.later.schedules {
            self.wish_schedule(namespace.clone());
        } else if !timed.is_empty() && self.later_random.u8(0..20) == 0 {
            let one = self.later_random.usize(0..timed.len());
            self.ledger.timed.all.values_mut().nth(one).into_iter().for_each(|one| one.stage.end());
        }
        if self.plan.later.selections && self.later_random.u8(0..3) == 0 {
            self.redrive_some();
        }
    }

    fn wish_binding(&mut self, namespace: Namespace) {
        let to = self.some_later_queue(&namespace);
        let random = &mut self.later_random;
        let binding = Binding {
            namespace,
            name: format!("binding-{}", self.ledger.bound.bindings.len()),
            pattern: random.usize(0..PATTERNS.len()),
            filter: random.usize(0..FILTERS.len()),
            to,
            waits: random.u8(0..4) > 0,
            stage: Stage::Wanted,
            was_asked: false,
        };
        self.ledger.bound.bindings.push(binding);
    }

    fn wish_schedule(&mut self, namespace: Namespace) {
        let queue = self.some_later_queue(&namespace);
        let key = self.next_key;
        self.next_key += 1;
        let name = ScheduleName::parse(&format!("schedule-{key}")).expect("a good name");
        let period_s = [2, 3, 5, 10][self.later_random.usize(0..4)];
        let misfire = Misfire::ALL[self.later_random.usize(0..3)];
        let wall = self.wall().0;
        self.ledger.timed.want(key, namespace, name, queue, period_s, misfire, wall);
    }

    fn some_later_queue(&mut self, namespace: &Namespace) -> QueueName {
        let devices =
            self.clients.iter().filter(|one| one.role == super::Role::Device && one.namespace == *namespace);
        let mailboxes: Vec<QueueName> = devices.map(|device| QueueName::mailbox(&device.id)).collect();
        if !mailboxes.is_empty() && self.later_random.u8(0..4) == 0 {
            return mailboxes[self.later_random.usize(0..mailboxes.len())].clone();
        }
        let number = self.later_random.usize(0..self.plan.queues);
        self.work_queue(number)
    }

    /// Asks for what is wanted and for the end of what is not. Nobody hears of the answers to what a server took with it.
    fn ask_for_wishes(&mut self) {
        for number in 0..self.ledger.bound.bindings.len() {
            match self.ledger.bound.bindings[number].stage {
                Stage::Wanted if self.is_troubled() => {
                    self.ledger.binding(number);
                    let binding = &self.ledger.bound.bindings[number];
                    note!(self, "the operator binds {binding:?}");
                    let spec = BindingSpec {
                        name: Some(binding.name.clone()),
                        pattern: PATTERNS[binding.pattern].0.to_owned(),
                        filter: FILTERS[binding.filter].0.to_owned(),
                        to: binding.to.clone(),
                        when_full: Some(if binding.waits { TargetFull::Wait } else { TargetFull::Drop }),
                    };
                    let namespace = binding.namespace.clone();
                    let request = OperatorRequest::Bind { namespace, binding: spec };
                    self.operator.ask(Asked::Binding(number), request);
                }
                Stage::Unwanted => {
                    self.ledger.bound.ending(number);
                    let binding = &self.ledger.bound.bindings[number];
                    note!(self, "the operator unbinds {}", binding.name);
                    let (namespace, name) = (binding.namespace.clone(), binding.name.clone());
                    self.operator.ask(Asked::Binding(number), OperatorRequest::Unbind { namespace, name });
                }
                _ => {}
            }
        }
        let is_troubled = self.is_troubled();
        for (&key, schedule) in &mut self.ledger.timed.all {
            let (namespace, name) = (schedule.namespace.clone(), schedule.name.clone());
            match schedule.stage {
                Stage::Wanted if is_troubled => {
                    schedule.stage = Stage::Asked;
                    let spec = ScheduleSpec {
                        name,
                        cron: format!("*/{} * * * * *", schedule.period_s),
                        time_zone: "UTC".to_owned(),
                        queue: schedule.queue.clone(),
                        misfire: schedule.misfire,
                        missed_max: limits::SCHEDULE_MISSED_MAX,
                        is_paused: false,
                        body: Message::new(key.to_le_bytes())
                            .encode(limits::MESSAGE_BYTES_MAX)
                            .expect("it is small"),
                    };
                    let request = OperatorRequest::ScheduleAdd { namespace, schedule: Box::new(spec) };
                    self.operator.ask(Asked::Schedule(key), request);
                }
                Stage::Wanted | Stage::Unwanted => {
                    schedule.stage = Stage::Ending;
                    let request = OperatorRequest::ScheduleRemove { namespace, name };
                    self.operator.ask(Asked::Schedule(key), request);
                }
                _ => {}
            }
        }
    }

    /// Redrives those of the dead letters that are of one kind, or every second that was seen last.
    fn redrive_some(&mut self) {
        let queues = self.all_queues();
        let queue = queues[self.later_random.usize(0..queues.len())].clone();
        let dead = self.operator.dead.iter().filter(|(of, _)| *of == queue);
        let ids: Vec<MessageId> = dead.map(|(_, row)| MessageId(row.id)).step_by(2).collect();
        let reason = ["rejected", "expired", "attempts"][self.later_random.usize(0..3)];
        let filter = DeadFilter { reason: Some(reason.to_owned()), ..DeadFilter::default() };
        let selection = match self.later_random.u8(0..2) {
            0 if !ids.is_empty() => DeadSelection::Ids(ids),
            _ => DeadSelection::Matching(filter),
        };
        if self.plan.later.oldest_dies {
            return;
        }
        let is_mailbox = queue.1.mailbox_owner().is_some();
        let is_elsewhere = !self.plan.later.is_bound() && !is_mailbox && self.later_random.bool();
        let to = is_elsewhere.then(|| self.work_queue(0));
        note!(self, "the operator redrives {selection:?} of {queue:?} to {to:?}");
        self.ledger.redriving(&queue, &selection);
        self.operator.ask_redrive(&queue, selection, to, None);
    }

    /// Publishes to a topic that is bound, or was, or may be.
    pub(super) fn publish_bound(&mut self, index: usize, incarnation: u32) {
        let namespace = self.clients[index].namespace.clone();
        let topic = self.later_random.usize(0..TOPICS.len());
        let name = QueueName::parse(&format!("topic/{}", TOPICS[topic])).expect("a good name");
        let count = self.later_random.usize(1..=self.plan.load.batch_max.min(4));
        let (mut keys, mut bodies) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let key = self.next_key;
            self.next_key += 1;
            let random = &mut self.later_random;
            let kind = [None, Some("left"), Some("right")][random.usize(0..3)];
            let attributes = Attributes { kind, n: random.u8(0..10) };
            let mut payload = key.to_le_bytes().to_vec();
            payload.extend(filler(key).take(random.usize(0..=self.plan.load.body_max)));
            let message = Message::new(payload).attribute("n", attributes.n.to_string());
            let mut body = message.encode(limits::MESSAGE_BYTES_MAX).expect("it is small");
            if let Some(kind) = kind {
                // Behind the other, and not in a table with it, which has another order each time.
                let kind = Message::new(Vec::new()).attribute("kind", kind);
                body.extend(kind.encode(limits::MESSAGE_BYTES_MAX).expect("it is small"));
            }
            bodies.push(body);
            keys.push((key, attributes));
        }
        if let Ok(sequence) = self.clients[index].session.publish_batch(&name, bodies) {
            note!(self, "client {index} publishes {sequence} to {name}: {keys:?}");
            for &(key, attributes) in &keys {
                self.ledger.handed_over(key, &namespace, topic, attributes);
            }
            let keys = keys.into_iter().map(|(key, _)| key).collect();
            self.clients[index].unanswered.insert(sequence, keys);
        }
        self.published(index, incarnation);
    }
}
