//! What operators ask that takes as long as there is much of it: redrives, purges and listings. A slice in each call
//! of the brain, so that no message waits for all of it, and one answer at the end.

use std::collections::BTreeSet;

use crate::ids::{ConnKey, Namespace, QueueName};
use crate::limits::{OPERATOR_JOBS_MAX, PAGE_ROWS_MAX};
use crate::log::Ticket;
use crate::mail::{DeadSelection, Effect, OperatorReply, QueueStats, RefusalCode};
use crate::queue::queues::NamesFull;
use crate::queue::{Brain, Turn, record, refused};

/// So many queues are looked at while one dead letter is moved.
const LOOKS_PER_MOVE: usize = 8;

/// A request that is being carried out.
#[derive(Debug)]
pub(super) struct Job {
    conn: ConnKey,
    namespace: Namespace,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Dead(DeadJob),
    List(ListJob),
}

/// Dead letters of `queue` that go somewhere else.
#[derive(Debug)]
struct DeadJob {
    queue: QueueName,
    /// The queue they go to; `None` forgets them.
    to: Option<QueueName>,
    /// Ids that are left to look at: of those that were dead when it was asked, or died meanwhile.
    from: u64,
    until: u64,
    changed: u64,
    /// The batch of the log with the last change.
    written: Ticket,
}

/// A page of queues, by name.
#[derive(Debug)]
struct ListJob {
    mailboxes: bool,
    after: Option<String>,
    limit: usize,
    /// The next place to look at.
    next: usize,
    /// The first names found so far.
    page: BTreeSet<Box<str>>,
}

/// How a slice ended.
enum Slice {
    Unfinished,
    Finished(OperatorReply, Ticket),
}

impl Brain {
    /// Whether requests of operators are under way: [`Brain::go_on`] is needed, as soon as the log takes more.
    #[must_use]
    pub fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Does the next slice of one request of an operator.
    pub fn go_on(&mut self, turn: &mut Turn<'_>) {
        let Some(job) = self.jobs.pop_front() else { return };
        self.begin(turn);
        self.work_on(job, turn);
        self.finish(turn);
    }

    /// Redrives the selected dead letters of a queue to `to`, or purges them.
    pub(super) fn move_dead(
        &mut self,
        conn: ConnKey,
        namespace: Namespace,
        queue: QueueName,
        selection: DeadSelection,
        to: Option<QueueName>,
        turn: &mut Turn<'_>,
    ) {
        let (from, until) = match selection {
            DeadSelection::One(id) => (id.0, id.0),
            DeadSelection::All => {
                let dead = self.find_queue(&namespace, &queue).map(|queue| &self.queues.at(queue).dead);
                (0, dead.and_then(|dead| dead.last_key_value()).map_or(0, |(&id, _)| id))
            }
        };
        let work = DeadJob { queue, to, from, until, changed: 0, written: Ticket::DURABLE };
        self.begin_job(Job { conn, namespace, work: Work::Dead(work) }, turn);
    }

    /// Lists queues after the name `after`, at most `limit`.
    pub(super) fn list_queues(
        &mut self,
        conn: ConnKey,
        namespace: Namespace,
        mailboxes: bool,
        after: Option<String>,
        limit: usize,
        turn: &mut Turn<'_>,
    ) {
        let limit = limit.min(PAGE_ROWS_MAX);
        let work = ListJob { mailboxes, after, limit, next: 0, page: BTreeSet::new() };
        self.begin_job(Job { conn, namespace, work: Work::List(work) }, turn);
    }

    fn begin_job(&mut self, job: Job, turn: &mut Turn<'_>) {
        if self.jobs.len() < OPERATOR_JOBS_MAX {
            return self.work_on(job, turn);
        }
        let text = format!("{OPERATOR_JOBS_MAX} redrives, purges and listings are under way already");
        let refused = refused(RefusalCode::LimitReached, text, self.full_retry_ms());
        turn.push_now(Effect::Operator { conn: job.conn, reply: Box::new(OperatorReply::Refused(refused)) });
    }

    /// A slice of `job`, which then waits for the next one or is answered.
    fn work_on(&mut self, mut job: Job, turn: &mut Turn<'_>) {
        let slice = match &mut job.work {
            Work::Dead(work) => self.dead_slice(&job.namespace, work, turn),
            Work::List(work) => self.list_slice(&job.namespace, work, turn),
        };
        match slice {
            Slice::Unfinished => self.jobs.push_back(job),
            Slice::Finished(reply, after) => {
                turn.outbox.push(after, Effect::Operator { conn: job.conn, reply: Box::new(reply) }, &[]);
            }
        }
    }

    fn dead_slice(&mut self, namespace: &Namespace, work: &mut DeadJob, turn: &mut Turn<'_>) -> Slice {
        let found = self.find_queue(namespace, &work.queue).filter(|_| work.from <= work.until);
        let selected: Vec<(u64, u32)> = found.map_or_else(Vec::new, |queue| {
            let dead = self.queues.at(queue).dead.range(work.from..=work.until);
            dead.take(self.config.operator_slice).map(|(&id, &slot)| (id, slot)).collect()
        });
        let Some(&(last, _)) = selected.last() else { return work.finished() };
        let moved = match &work.to {
            None => {
                selected.iter().for_each(|&(_, slot)| self.finish_message(slot, turn));
                selected.len()
            }
            Some(to) => match self.redrive(selected[0].1, to, &selected, turn) {
                Ok(moved) => moved,
                Err(full) if work.changed == 0 => {
                    return Slice::Finished(OperatorReply::Refused(self.names_full(full)), Ticket::DURABLE);
                }
                Err(_) => 0,
            },
        };
        if moved > 0 {
            work.changed += moved as u64;
            // Also for what is appended when this call ends.
            work.written = turn.journal.open_ticket();
        }
        if moved == selected.len() && last < work.until {
            work.from = last + 1;
            return Slice::Unfinished;
        }
        match &work.to {
            Some(to) if work.changed == 0 => {
                let text = format!("{:?} is full; nothing was redriven", to.as_str());
                let refused = refused(RefusalCode::QueueFull, text, self.full_retry_ms());
                Slice::Finished(OperatorReply::Refused(refused), Ticket::DURABLE)
            }
            _ => work.finished(),
        }
    }

    /// Makes dead letters ready in the queue `to`, as many as fit; the rest stay dead. `first` is one of them.
    fn redrive(
        &mut self,
        first: u32,
        to: &QueueName,
        selected: &[(u64, u32)],
        turn: &mut Turn<'_>,
    ) -> Result<usize, NamesFull> {
        let from = self.messages.at(first).queue;
        let tenant = self.queues.at(from).namespace;
        let target = self.queues.open(tenant, to.as_str(), Some(&self.config))?;
        self.mark_dirty(target);
        self.mark_dirty(from);
        let mut moved = 0;
        for &(_, slot) in selected {
            let message = self.messages.at(slot);
            let (id, bytes) = (message.lease().message, u64::from(message.body_len));
            if self.lacks_room(target, 1, bytes) {
                break;
            }
            let time = turn.now.time;
            let order = self.order_again(slot, target);
            self.append_amendment(turn, |out| record::encode_redriven(out, id, time, to.as_str(), order));
            if target != from {
                self.release_key(slot, turn);
            }
            self.bring_back(slot, target, time, order);
            moved += 1;
        }
        self.metrics.redriven.add(moved as u64);
        Ok(moved)
    }

    fn list_slice(&mut self, namespace: &Namespace, work: &mut ListJob, turn: &Turn<'_>) -> Slice {
        let Some(tenant) = self.queues.find_namespace(namespace.as_str()) else {
            return Slice::Finished(OperatorReply::Queues(Vec::new()), Ticket::DURABLE);
        };
        let places = self.queues.slab.capacity();
        let until = places.min(work.next + LOOKS_PER_MOVE * self.config.operator_slice);
        for queue in (work.next..until).filter_map(|place| self.queues.slab.get(place)) {
            if queue.namespace == tenant && (work.mailboxes || !queue.is_mailbox) {
                work.offer(&queue.name);
            }
        }
        work.next = until;
        if until < places {
            return Slice::Unfinished;
        }
        let rows = work.page.iter().map(|name| match self.queues.find(tenant, name) {
            Some(queue) => self.stats(queue, turn),
            // It was emptied meanwhile. A page that is shorter than asked for would look like the last one.
            None => QueueStats { queue: name.to_string(), ..QueueStats::default() },
        });
        Slice::Finished(OperatorReply::Queues(rows.collect()), Ticket::DURABLE)
    }
}

impl DeadJob {
    fn finished(&self) -> Slice {
        Slice::Finished(OperatorReply::Changed(self.changed), self.written)
    }
}

impl ListJob {
    /// Takes a name in if it belongs to the page as far as is known.
    fn offer(&mut self, name: &str) {
        let is_after = self.after.as_deref().is_none_or(|after| name > after);
        let is_full = self.page.len() >= self.limit;
        if !is_after || is_full && self.page.last().is_none_or(|last| name >= &**last) {
            return;
        }
        self.page.insert(name.into());
        if is_full {
            self.page.pop_last();
        }
    }
}
