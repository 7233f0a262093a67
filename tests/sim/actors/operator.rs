//! The operator: looks at queues, redrives, purges and publishes over the shard's own lane.

use std::collections::BTreeMap;

use relaymesh::clock::Now;
use relaymesh::ids::{ConnKey, LoopId, MessageId, Namespace, QueueName};
use relaymesh::limits;
use relaymesh::mail::{
    Command, CommandBatch, DeadFilter, DeadLetter, DeadSelection, Effect, MessageHeader, OperatorReply,
    OperatorRequest, QueueStats, RefusalCode,
};
use relaymesh::message::message_header;

use super::client::key_of;
use crate::scheduler::MS;
use crate::shadow::Ledger;
use crate::trace::note;
use crate::world::{Event, World};

/// A queue with its tenant.
pub(crate) type FullName = (Namespace, QueueName);

/// What was asked, as far as the answer needs it.
#[derive(Debug)]
pub(super) enum Asked {
    Publish(u64),
    Stats(Namespace),
    /// Whether it is the first page.
    Dead(FullName, bool),
    Show(FullName),
    Change,
    /// To be or to end: the binding of this number, the schedule with this key.
    Binding(usize),
    Schedule(u64),
}

/// The operator.
#[derive(Debug)]
pub(crate) struct Operator {
    random: fastrand::Rng,
    next: u32,
    asked: BTreeMap<u32, Asked>,
    batch: CommandBatch,
    /// The last answers, until taken.
    pub(crate) stats: Vec<(Namespace, Vec<QueueStats>)>,
    pub(crate) dead: Vec<(FullName, DeadLetter)>,
    pub(crate) shown: Vec<(FullName, u64, DeadLetter)>,
    pub(crate) changed: u64,
}

impl Operator {
    pub(crate) fn new(random: fastrand::Rng) -> Self {
        Self {
            random,
            next: 1,
            asked: BTreeMap::new(),
            batch: CommandBatch::default(),
            stats: Vec::new(),
            dead: Vec::new(),
            shown: Vec::new(),
            changed: 0,
        }
    }

    pub(super) fn ask(&mut self, asked: Asked, request: OperatorRequest) {
        let conn = ConnKey { loop_id: LoopId::OPERATOR, slot: self.next, generation: 0 };
        self.asked.insert(self.next, asked);
        self.next += 1;
        self.batch.commands.push(Command::Operator { conn, request: Box::new(request) });
    }

    pub(super) fn asked_count(&self) -> usize {
        self.asked.len()
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }

    /// What was asked since the last time, for the shard.
    pub(crate) fn take_requests(&mut self) -> Option<CommandBatch> {
        (!self.batch.is_empty()).then(|| std::mem::take(&mut self.batch))
    }

    /// The server died with all questions.
    pub(crate) fn server_gone(&mut self, ledger: &mut Ledger) {
        for asked in std::mem::take(&mut self.asked).into_values() {
            if let Asked::Publish(key) = asked {
                ledger.abandoned(&[key]);
            }
        }
        self.batch.clear();
        ledger.unanswered();
    }

    pub(crate) fn ask_stats(&mut self, namespace: &Namespace) {
        let request = OperatorRequest::Queues {
            namespace: namespace.clone(),
            mailboxes: true,
            after: None,
            limit: 1000,
        };
        self.ask(Asked::Stats(namespace.clone()), request);
    }

    pub(crate) fn ask_dead(&mut self, queue: &FullName) {
        self.ask_dead_after(queue, None);
    }

    fn ask_dead_after(&mut self, full: &FullName, after: Option<MessageId>) {
        let full = full.clone();
        let (namespace, queue) = full.clone();
        self.ask(
            Asked::Dead(full, after.is_none()),
            OperatorRequest::DeadList {
                namespace,
                queue: Some(queue),
                filter: DeadFilter::default(),
                after,
                limit: limits::PAGE_ROWS_MAX,
            },
        );
    }

    pub(crate) fn ask_show(&mut self, (namespace, queue): &FullName, id: u64) {
        let full = (namespace.clone(), queue.clone());
        let (namespace, queue) = full.clone();
        let id = MessageId(id);
        self.ask(Asked::Show(full), OperatorRequest::DeadShow { namespace, queue, id });
    }

    pub(crate) fn ask_purge(&mut self, (namespace, queue): &FullName, selection: DeadSelection) {
        let (namespace, queue) = (namespace.clone(), queue.clone());
        self.ask(Asked::Change, OperatorRequest::DeadPurge { namespace, queue, selection });
    }

    /// One with a rate goes on after its answer; it soon ends.
    pub(super) fn ask_redrive(
        &mut self,
        from: &FullName,
        selection: DeadSelection,
        to: Option<QueueName>,
        per_s: Option<u64>,
    ) {
        let (namespace, queue) = from.clone();
        self.ask(Asked::Change, OperatorRequest::DeadRedrive { namespace, queue, selection, to, per_s });
    }

    /// The shard answers.
    pub(crate) fn answered(&mut self, effect: Effect, ledger: &mut Ledger, now: Now) {
        let Effect::Operator { conn, reply } = effect else {
            panic!("the operator was sent {effect:?}");
        };
        let asked = self.asked.remove(&conn.slot);
        let asked =
            asked.unwrap_or_else(|| panic!("the operator never asked {}, or was answered before", conn.slot));
        match (asked, *reply) {
            (Asked::Publish(key), OperatorReply::Published(id)) => ledger.answered(&[key], id),
            (Asked::Publish(key), OperatorReply::Refused(refused)) => {
                let is_excused = matches!(
                    refused.code,
                    RefusalCode::QueueFull | RefusalCode::DiskFull | RefusalCode::LimitReached
                );
                assert!(is_excused, "the operator's good publish was refused: {refused:?}");
                ledger.refused(&[key]);
            }
            (Asked::Stats(namespace), OperatorReply::Queues(rows)) => self.stats.push((namespace, rows)),
            (Asked::Dead(queue, is_first), OperatorReply::DeadPage { rows, next }) => {
                ledger.dead_listed(&queue, &rows, is_first && next.is_none(), now);
                if next.is_some() {
                    self.ask_dead_after(&queue, next);
                }
                for row in rows {
                    ledger.dead_seen(&queue, &row);
                    self.dead.push((queue.clone(), row));
                }
            }
            (Asked::Show(queue), OperatorReply::Dead(mut rows)) => {
                assert!(rows.len() <= 1, "one dead letter was asked for");
                if let Some(row) = rows.pop() {
                    let body = row.body.as_deref().expect("a dead letter that is shown has its body");
                    let key = ledger.key_in(&queue, key_of(body), MessageId(row.id), body);
                    ledger.dead_shown(key, &queue, &row);
                    self.shown.push((queue, key, row));
                }
            }
            (Asked::Change, OperatorReply::Changed(count)) => self.changed += count,
            (Asked::Binding(number), reply @ (OperatorReply::Bindings(_) | OperatorReply::Changed(_))) => {
                ledger.bound.answered(number, matches!(reply, OperatorReply::Changed(_)));
            }
            (Asked::Schedule(key), reply @ (OperatorReply::Schedules(_) | OperatorReply::Changed(_))) => {
                ledger.timed.answered(key, matches!(reply, OperatorReply::Changed(_)));
            }
            (Asked::Change, OperatorReply::Refused(_) | OperatorReply::Jobs(_)) => {}
            (asked, reply) => panic!("the operator asked {asked:?} and was answered {reply:?}"),
        }
    }
}

impl World {
    /// Every queue and mailbox that may hold something.
    pub(crate) fn all_queues(&self) -> Vec<FullName> {
        let mut all: Vec<FullName> = Vec::new();
        for client in &self.clients {
            let queues = client.subscribed.values().filter(|queue| queue.topic().is_none());
            all.extend(queues.map(|queue| (client.namespace.clone(), queue.clone())));
            let queues = 0..self.plan.queues;
            all.extend(queues.map(|number| (client.namespace.clone(), self.work_queue(number))));
        }
        all.sort();
        all.dedup();
        all
    }

    /// Something an operator may do at any time.
    pub(crate) fn operator_turn(&mut self) {
        if !self.is_troubled() {
            return;
        }
        let after = self.operator.random.u64(200 * MS..4000 * MS);
        self.scheduler.after(after, Event::OperatorTurn);
        let listening = self.server.as_ref().is_some_and(|server| server.is_listening);
        if !listening || self.operator.asked.len() > 50 {
            return;
        }
        let queues = self.all_queues();
        let queue = queues[self.operator.random.usize(0..queues.len())].clone();
        let known = self.operator.dead.last().map(|(queue, row)| (queue.clone(), row.id));
        match self.operator.random.u8(0..9) {
            0 => self.operator.ask_stats(&queue.0),
            1..=3 => self.operator.ask_dead(&queue),
            4 => self.operator_publishes(queue),
            5 => {
                let to = self.operator.random.bool().then(|| self.work_queue(0));
                let to = to.filter(|_| queue.1.mailbox_owner().is_none() && !self.plan.later.is_bound());
                if self.plan.later.oldest_dies {
                    return;
                }
                self.ledger.redriving(&queue, &DeadSelection::All);
                let per_s = known.filter(|(_, id)| id % 2 == 0).map(|_| 500);
                self.operator.ask_redrive(&queue, DeadSelection::All, to, per_s);
            }
            6 => {
                if let Some((queue, id)) = known.filter(|_| !self.plan.later.oldest_dies) {
                    let one = DeadSelection::One(MessageId(id));
                    self.ledger.redriving(&queue, &one);
                    self.operator.ask_redrive(&queue, one, None, None);
                }
            }
            7 => {
                if let Some((queue, id)) = known {
                    self.ledger.purging(id);
                    let one = DeadSelection::One(MessageId(id));
                    self.operator.ask_purge(&queue, one);
                }
            }
            _ => {
                if let Some((queue, id)) = known {
                    self.operator.ask_show(&queue, id);
                }
            }
        }
        note!(self, "the operator asks {:?}", self.operator.asked.last_key_value());
        self.wake_shard(100);
    }

    fn operator_publishes(&mut self, (namespace, queue): FullName) {
        let (facts, body) = self.some_message(&namespace, &queue, false);
        let key = facts.key;
        self.ledger.published(facts);
        let header: MessageHeader =
            message_header(&body, limits::MESSAGE_BYTES_MAX).expect("the message is good");
        self.operator.ask(Asked::Publish(key), OperatorRequest::Publish { namespace, queue, header, body });
    }
}
