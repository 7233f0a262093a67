//! What operators ask that takes as long as there is much of it: redrives, purges, searches and listings. A slice in each
//! call of the brain, so that no message waits for all of it, and one answer at the end. One that is to take its time goes
//! on by itself, and is seen and ended by its number.

use std::collections::{BTreeSet, VecDeque};

use crate::clock::{Now, Time};
use crate::ids::{ConnKey, MessageId, Namespace};
use crate::limits::{OPERATOR_JOBS_ENDED_KEPT, OPERATOR_JOBS_MAX, OPERATOR_PACED_JOBS_MAX, PAGE_ROWS_MAX};
use crate::log::Ticket;
use crate::mail::{DeadJobRow, Effect, OperatorReply, QueueStats, RefusalCode};
use crate::queue::dead::{DeadJob, SearchJob};
use crate::queue::{Brain, Turn, refused};

/// So many queues, or dead letters that are searched, are looked at while one dead letter is moved.
pub(super) const LOOKS_PER_MOVE: usize = 8;

/// A request that is being carried out.
#[derive(Debug)]
struct Job {
    number: u64,
    /// Who waits for the answer; `None` for one that goes on by itself.
    conn: Option<ConnKey>,
    namespace: Namespace,
    began: Now,
    work: Work,
    /// Bodies on their way from the log.
    reading: usize,
}

#[derive(Debug)]
pub(super) enum Work {
    Dead(DeadJob),
    Search(SearchJob),
    List(ListJob),
}

/// A page of queues, by name.
#[derive(Debug)]
pub(super) struct ListJob {
    mailboxes: bool,
    after: Option<String>,
    limit: usize,
    /// The next place to look at.
    next: usize,
    /// The first names found so far.
    page: BTreeSet<Box<str>>,
}

/// How a slice ended.
pub(super) enum Slice {
    Unfinished,
    /// It goes on at this time.
    Asleep(Time),
    /// It goes on when the bodies that it reads have arrived.
    Reading,
    Finished(OperatorReply, Ticket),
}

/// A job's reads of bodies.
#[derive(Debug)]
pub(super) struct Reads<'a> {
    pub(super) job: u64,
    pub(super) under_way: &'a mut usize,
}

/// Requests of operators under way; together at most [`OPERATOR_JOBS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Jobs {
    ready: VecDeque<Job>,
    asleep: Vec<(Time, Job)>,
    reading: Vec<Job>,
    /// The last that ended, of those that took more than a slice; at most [`OPERATOR_JOBS_ENDED_KEPT`].
    ended: VecDeque<(Namespace, DeadJobRow)>,
    numbers: u64,
}

impl Jobs {
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.asleep.len() + self.reading.len()
    }

    fn iter(&self) -> impl Iterator<Item = &Job> {
        self.ready.iter().chain(self.asleep.iter().map(|(_, job)| job)).chain(&self.reading)
    }

    /// When the first one that sleeps goes on.
    pub(super) fn next(&self) -> Option<Time> {
        self.asleep.iter().map(|&(at, _)| at).min()
    }

    /// Those that slept until now go on.
    pub(super) fn wake(&mut self, now: Time) {
        self.ready.extend(self.asleep.extract_if(.., |(at, _)| *at <= now).map(|(_, job)| job));
    }

    fn remove(&mut self, is_it: impl Fn(&Job) -> bool) -> Option<Job> {
        if let Some(at) = self.ready.iter().position(&is_it) {
            return self.ready.remove(at);
        }
        if let Some(at) = self.asleep.iter().position(|(_, job)| is_it(job)) {
            return Some(self.asleep.remove(at).1);
        }
        let at = self.reading.iter().position(is_it)?;
        Some(self.reading.remove(at))
    }

    fn keep_ended(&mut self, namespace: &Namespace, row: DeadJobRow) {
        if self.ended.len() >= OPERATOR_JOBS_ENDED_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back((namespace.clone(), row));
    }
}

impl Job {
    fn is_paced(&self) -> bool {
        matches!(&self.work, Work::Dead(work) if work.is_paced())
    }

    /// Its row, if it is one of those that are listed.
    fn row(&self) -> Option<DeadJobRow> {
        match &self.work {
            Work::Dead(work) => Some(work.row(self.number, self.began.wall)),
            Work::Search(_) | Work::List(_) => None,
        }
    }
}

impl Brain {
    /// Whether requests of operators are under way: [`Brain::go_on`] is needed, as soon as the log takes more.
    #[must_use]
    pub fn has_jobs(&self) -> bool {
        !self.jobs.ready.is_empty()
    }

    /// Does the next slice of one request of an operator.
    pub fn go_on(&mut self, turn: &mut Turn<'_>) {
        let Some(job) = self.jobs.ready.pop_front() else { return };
        self.begin(turn);
        self.work_on(job, true, turn);
        self.finish(turn);
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
        self.begin_job(conn, namespace, Work::List(work), turn);
    }

    pub(super) fn begin_job(&mut self, conn: ConnKey, namespace: Namespace, work: Work, turn: &mut Turn<'_>) {
        self.jobs.numbers += 1;
        let number = self.jobs.numbers;
        let mut job = Job { number, conn: Some(conn), namespace, began: turn.now, work, reading: 0 };
        let full = |max: usize, what: &str| Some(format!("{max} {what} are under way already"));
        let full = if self.jobs.len() >= OPERATOR_JOBS_MAX {
            full(OPERATOR_JOBS_MAX, "redrives, purges and listings")
        } else if job.is_paced()
            && self.jobs.iter().filter(|job| job.is_paced()).count() >= OPERATOR_PACED_JOBS_MAX
        {
            full(OPERATOR_PACED_JOBS_MAX, "redrives with a rate")
        } else {
            None
        };
        if let Some(text) = full {
            let refused = refused(RefusalCode::LimitReached, text, self.full_retry_ms());
            let reply = Box::new(OperatorReply::Refused(refused));
            return turn.push_now(Effect::Operator { conn, reply });
        }
        let is_paced = job.is_paced();
        if is_paced && let Some(row) = job.row() {
            job.conn = None;
            let reply = Box::new(OperatorReply::Jobs(vec![row]));
            turn.push_now(Effect::Operator { conn, reply });
        }
        self.work_on(job, is_paced, turn);
    }

    /// A slice of `job`, which then waits for the next one or is answered. One that `is_known` by its number is listed for a
    /// while after it ended.
    fn work_on(&mut self, mut job: Job, is_known: bool, turn: &mut Turn<'_>) {
        let mut reads = Reads { job: job.number, under_way: &mut job.reading };
        let slice = match &mut job.work {
            Work::Dead(work) => self.dead_slice(&job.namespace, work, &mut reads, turn),
            Work::Search(work) => self.search_slice(&job.namespace, work, &mut reads, turn),
            Work::List(work) => self.list_slice(&job.namespace, work, turn),
        };
        match slice {
            Slice::Unfinished => self.jobs.ready.push_back(job),
            Slice::Asleep(at) => self.jobs.asleep.push((at, job)),
            Slice::Reading => self.jobs.reading.push(job),
            Slice::Finished(reply, after) => {
                if is_known && let Some(row) = job.row() {
                    let text = match &reply {
                        OperatorReply::Refused(refused) => refused.text.clone(),
                        _ => row.text.clone(),
                    };
                    let state = if text.is_empty() { "done" } else { "stopped" };
                    let ended_unix_ms = Some(turn.now.wall.0);
                    let row = DeadJobRow { state, text, ended_unix_ms, ..row };
                    self.jobs.keep_ended(&job.namespace, row);
                }
                if let Some(conn) = job.conn {
                    turn.outbox.push(after, Effect::Operator { conn, reply: Box::new(reply) }, &[]);
                }
            }
        }
    }

    /// A body arrived that a job reads to see whether its message is one of those it looks for.
    pub(super) fn job_read(&mut self, number: u64, message: MessageId, bytes: &[u8]) {
        // It may have been ended meanwhile.
        let Some(at) = self.jobs.reading.iter().position(|job| job.number == number) else { return };
        let job = &mut self.jobs.reading[at];
        job.reading -= 1;
        match &mut job.work {
            Work::Dead(work) => work.was_read(message, bytes),
            Work::Search(work) => work.was_read(message, bytes),
            Work::List(_) => {}
        }
        if job.reading == 0 {
            let job = self.jobs.reading.swap_remove(at);
            self.jobs.ready.push_back(job);
        }
    }

    /// Redrives and purges of a namespace: those under way, and the last ones that ended.
    pub(super) fn dead_jobs(&self, namespace: &Namespace) -> Vec<DeadJobRow> {
        let ended = self.jobs.ended.iter().filter(|(own, _)| own == namespace).map(|(_, row)| row.clone());
        let under_way = self.jobs.iter().filter(|job| job.namespace == *namespace).filter_map(Job::row);
        let mut rows: Vec<DeadJobRow> = ended.chain(under_way).collect();
        rows.sort_by_key(|row| row.job);
        rows
    }

    /// Ends a redrive or a purge where it is. What it has moved stays moved.
    pub(super) fn cancel_job(
        &mut self,
        namespace: &Namespace,
        number: u64,
        turn: &mut Turn<'_>,
    ) -> Vec<DeadJobRow> {
        let is_it = |job: &Job| {
            job.number == number && job.namespace == *namespace && matches!(job.work, Work::Dead(_))
        };
        let Some(job) = self.jobs.remove(is_it) else { return Vec::new() };
        let Work::Dead(work) = &job.work else { return Vec::new() };
        if let Some(conn) = job.conn {
            let (changed, after) = work.so_far();
            let reply = Box::new(OperatorReply::Changed(changed));
            turn.outbox.push(after, Effect::Operator { conn, reply }, &[]);
        }
        let ended_unix_ms = Some(turn.now.wall.0);
        let row = DeadJobRow { state: "cancelled", ended_unix_ms, ..work.row(number, job.began.wall) };
        self.jobs.keep_ended(namespace, row.clone());
        vec![row]
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
