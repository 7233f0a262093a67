//! Dead letters searched, redriven and purged, a slice at a time. What only the body says, an attribute, is read back from
//! the log where the body is not in memory; the job goes on when what it reads has arrived.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::{Now, Time, Wall};
use crate::ids::{ConnKey, MessageId, Namespace, QueueName};
use crate::limits::{OPERATOR_READS_MAX, PAGE_ROWS_MAX, READING_BYTES_MAX};
use crate::log::Ticket;
use crate::mail::{DeadFilter, DeadJobRow, DeadLetter, DeadSelection, OperatorReply, RefusalCode, Refused};
use crate::message::message_attributes;
use crate::queue::jobs::{LOOKS_PER_MOVE, Reads, Slice, Work};
use crate::queue::queues::NamesFull;
use crate::queue::record::{self, Reason};
use crate::queue::{Brain, Reading, Turn, refused};

/// A job that is held up by others, or by its rate, sleeps so long at the least.
const NAP: Duration = Duration::from_millis(10);
/// A redrive that is behind its rate makes up for this much.
const CATCH_UP_US: u64 = 100_000;

/// Dead letters of `queue` that go somewhere else.
#[derive(Debug)]
pub(super) struct DeadJob {
    queue: QueueName,
    /// The queue they go to; `None` forgets them.
    to: Option<QueueName>,
    filter: DeadFilter,
    /// Only these, where they are named.
    ids: Option<BTreeSet<u64>>,
    /// Ids that are left to look at: of those that were dead when it was asked, or died meanwhile.
    from: u64,
    until: u64,
    is_looked_through: bool,
    /// Ids that it looks for and has not moved yet.
    found: Vec<u64>,
    pace: Option<Pace>,
    /// Dead letters of the queue when it began.
    dead: u64,
    changed: u64,
    too_large: u64,
    /// Why it ended before all were moved.
    stopped: String,
    /// The batch of the log with the last change.
    written: Ticket,
}

/// How fast dead letters are redriven.
#[derive(Debug, Clone, Copy)]
struct Pace {
    per_s: u64,
    /// When the next one may be, in microseconds of shard time.
    next_us: u64,
}

/// A page of dead letters by id.
#[derive(Debug)]
pub(super) struct SearchJob {
    /// `None` for every queue of the namespace.
    queue: Option<QueueName>,
    filter: DeadFilter,
    limit: usize,
    /// The first id that may be on the page.
    first: u64,
    /// The place of the queue that is looked at, and the id there.
    place: usize,
    next: u64,
    /// Reads of others leave no room for its own now.
    is_held_up: bool,
    /// The first ids found so far.
    page: BTreeSet<u64>,
}

/// Whether a dead letter is one of those looked for.
enum Look {
    No,
    Yes,
    /// Its body says, which is not in memory.
    Read,
}

/// What a redrive did with a slice of dead letters.
#[derive(Debug, Default)]
struct Redriven {
    moved: u64,
    too_large: u64,
    /// The next one did not fit.
    is_full: bool,
}

impl Brain {
    /// Redrives the selected dead letters of a queue to `to`, or purges them.
    #[expect(clippy::too_many_arguments, reason = "what one request says")]
    pub(super) fn move_dead(
        &mut self,
        conn: ConnKey,
        namespace: Namespace,
        queue: QueueName,
        selection: DeadSelection,
        to: Option<QueueName>,
        per_s: Option<u64>,
        turn: &mut Turn<'_>,
    ) {
        let dead = self.find_queue(&namespace, &queue).map(|queue| &self.queues.at(queue).dead);
        let count = dead.map_or(0, |dead| dead.len() as u64);
        let newest = dead.and_then(|dead| dead.last_key_value()).map_or(0, |(&id, _)| id);
        let (filter, ids) = match selection {
            DeadSelection::All => (DeadFilter::default(), None),
            DeadSelection::One(id) => (DeadFilter::default(), Some(BTreeSet::from([id.0]))),
            DeadSelection::Ids(ids) => {
                (DeadFilter::default(), Some(ids.into_iter().map(|id| id.0).collect()))
            }
            DeadSelection::Matching(filter) => (filter, None),
        };
        let next_us = turn.now.time.0.saturating_mul(1000);
        let work = DeadJob {
            queue,
            to,
            filter,
            ids,
            from: 0,
            until: newest,
            is_looked_through: false,
            found: Vec::new(),
            pace: per_s.filter(|&per_s| per_s > 0).map(|per_s| Pace { per_s, next_us }),
            dead: count,
            changed: 0,
            too_large: 0,
            stopped: String::new(),
            written: Ticket::DURABLE,
        };
        self.begin_job(conn, namespace, Work::Dead(work), turn);
    }

    /// Lists dead letters of one queue, or of all of a namespace, with ids after `after`, at most `limit`.
    #[expect(clippy::too_many_arguments, reason = "what one request says")]
    pub(super) fn search_dead(
        &mut self,
        conn: ConnKey,
        namespace: Namespace,
        queue: Option<QueueName>,
        filter: DeadFilter,
        after: Option<MessageId>,
        limit: usize,
        turn: &mut Turn<'_>,
    ) {
        let first = after.map_or(0, |id| id.0.saturating_add(1));
        let (limit, page) = (limit.min(PAGE_ROWS_MAX), BTreeSet::new());
        let work = SearchJob { queue, filter, limit, first, place: 0, next: first, is_held_up: false, page };
        self.begin_job(conn, namespace, Work::Search(work), turn);
    }

    pub(super) fn dead_slice(
        &mut self,
        namespace: &Namespace,
        work: &mut DeadJob,
        reads: &mut Reads<'_>,
        turn: &mut Turn<'_>,
    ) -> Slice {
        let Some(queue) = self.find_queue(namespace, &work.queue) else { return work.finished() };
        let allowed = match work.allowed(turn.now.time, self.config.operator_slice) {
            Ok(allowed) => allowed,
            Err(at) => return Slice::Asleep(at),
        };
        let is_held_up = self.gather(queue, work, allowed, reads, turn);
        if *reads.under_way > 0 {
            return Slice::Reading;
        }
        work.found.sort_unstable();
        let count = work.found.len().min(allowed);
        let dead = &self.queues.at(queue).dead;
        let selected: Vec<(u64, u32)> =
            work.found.drain(..count).filter_map(|id| Some((id, *dead.get(&id)?))).collect();
        let done = match (&work.to, selected.first()) {
            (_, None) => Redriven::default(),
            (None, Some(_)) => {
                selected.iter().for_each(|&(_, slot)| self.finish_message(slot, turn));
                Redriven { moved: selected.len() as u64, ..Redriven::default() }
            }
            (Some(to), Some(&(_, first))) => match self.redrive(first, to, &selected, turn) {
                Ok(done) => done,
                Err(full) => return work.refused(self.names_full(full)),
            },
        };
        work.count(&done, turn);
        match &work.to {
            Some(to) if done.is_full => {
                let text = format!("{:?} is full", to.as_str());
                work.refused(refused(RefusalCode::QueueFull, text, self.full_retry_ms()))
            }
            _ if work.is_looked_through && work.found.is_empty() => work.finished(),
            _ if is_held_up && selected.is_empty() => Slice::Asleep(turn.now.time + NAP),
            _ => Slice::Unfinished,
        }
    }

    /// Looks for the next `allowed` dead letters; bodies that have to be read are under way then. Returns whether reads of
    /// others leave no room for that now.
    fn gather(
        &mut self,
        queue: u32,
        work: &mut DeadJob,
        allowed: usize,
        reads: &mut Reads<'_>,
        turn: &mut Turn<'_>,
    ) -> bool {
        if work.is_looked_through || work.found.len() >= allowed {
            return false;
        }
        let looks = LOOKS_PER_MOVE * self.config.operator_slice;
        let most = if work.filter.is_any() { allowed - work.found.len() } else { looks };
        let dead = &self.queues.at(queue).dead;
        let (candidates, is_all): (Vec<(u64, u32)>, bool) = match &work.ids {
            Some(ids) => {
                let chunk: Vec<u64> = ids.range(work.from..).take(most).copied().collect();
                let is_all = chunk.len() < most || chunk.last() == ids.last();
                work.from = chunk.last().map_or(work.from, |last| last.saturating_add(1));
                (chunk.into_iter().filter_map(|id| Some((id, *dead.get(&id)?))).collect(), is_all)
            }
            None => {
                let chunk: Vec<_> =
                    dead.range(work.from..).take(most).map(|(&id, &slot)| (id, slot)).collect();
                let is_all = chunk.last().is_none_or(|&(last, _)| last >= work.until);
                (chunk.into_iter().filter(|&(id, _)| id <= work.until).collect(), is_all)
            }
        };
        for (id, slot) in candidates {
            if work.found.len() >= allowed {
                return false;
            }
            match self.look(slot, &work.filter) {
                Look::Yes => work.found.push(id),
                Look::Read if !self.may_read(reads) => return true,
                Look::Read => self.read_for(slot, reads, turn),
                Look::No => {}
            }
            work.from = work.from.max(id.saturating_add(1));
        }
        work.is_looked_through = is_all;
        false
    }

    /// Makes dead letters ready in the queue `to`, as many as fit; the rest stay dead. `first` is one of them.
    fn redrive(
        &mut self,
        first: u32,
        to: &QueueName,
        selected: &[(u64, u32)],
        turn: &mut Turn<'_>,
    ) -> Result<Redriven, NamesFull> {
        let from = self.messages.at(first).queue;
        let tenant = self.queues.at(from).namespace;
        let target = self.queues.open(tenant, to.as_str(), Some(&self.config))?;
        self.mark_dirty(target);
        self.mark_dirty(from);
        let mut done = Redriven::default();
        for &(_, slot) in selected {
            let message = self.messages.at(slot);
            let (id, bytes) = (message.lease().message, u64::from(message.body_len));
            if bytes > self.queues.at(target).rules(&self.config).bytes_max {
                self.mark_too_large(slot, turn);
                done.too_large += 1;
                continue;
            }
            if self.lacks_room(target, 1, bytes) {
                done.is_full = true;
                break;
            }
            let time = turn.now.time;
            let order = self.order_again(slot, target);
            self.append_amendment(turn, |out| record::encode_redriven(out, id, time, to.as_str(), order));
            if target != from {
                self.release_key(slot, turn);
            }
            self.bring_back(slot, target, time, order);
            done.moved += 1;
        }
        self.metrics.redriven.add(done.moved);
        Ok(done)
    }

    /// A dead letter stays one, for it never fits the queue it was to be put into.
    fn mark_too_large(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let rare = self.messages.rare_mut(slot);
        let wall = rare.dead.map_or(turn.now.wall, |(_, wall)| wall);
        rare.dead = Some((Reason::TooLarge, wall));
        let id = self.messages.at(slot).lease().message;
        self.append_amendment(turn, |out| record::encode_died(out, id, Reason::TooLarge, wall));
        self.metrics.dead_too_large.inc();
    }

    pub(super) fn search_slice(
        &mut self,
        namespace: &Namespace,
        work: &mut SearchJob,
        reads: &mut Reads<'_>,
        turn: &mut Turn<'_>,
    ) -> Slice {
        let tenant = self.queues.find_namespace(namespace.as_str());
        let only = match (&work.queue, tenant) {
            (Some(queue), Some(tenant)) => self.queues.find(tenant, queue.as_str()),
            _ => None,
        };
        let places = match (&work.queue, only) {
            _ if tenant.is_none() => 0,
            (Some(_), only) => usize::from(only.is_some()),
            (None, _) => self.queues.slab.capacity(),
        };
        work.is_held_up = false;
        let mut left = LOOKS_PER_MOVE * self.config.operator_slice;
        while left > 0 && work.place < places {
            left -= 1;
            let at = only.map_or(work.place, |only| only as usize);
            let is_ours = self.queues.slab.get(at).is_some_and(|queue| Some(queue.namespace) == tenant);
            if !is_ours || self.search_queue(at as u32, work, reads, &mut left, turn) {
                work.place += 1;
                work.next = work.first;
            }
        }
        match *reads.under_way {
            0 if work.is_held_up => Slice::Asleep(turn.now.time + NAP),
            0 if work.place < places => Slice::Unfinished,
            0 => self.found(work, turn.now),
            _ => Slice::Reading,
        }
    }

    /// Looks at the dead letters of a queue, as many as are left to look at now. Returns whether that were all.
    fn search_queue(
        &mut self,
        queue: u32,
        work: &mut SearchJob,
        reads: &mut Reads<'_>,
        left: &mut usize,
        turn: &mut Turn<'_>,
    ) -> bool {
        let dead = self.queues.at(queue).dead.range(work.next..);
        let chunk: Vec<(u64, u32)> = dead.take(*left + 1).map(|(&id, &slot)| (id, slot)).collect();
        for (id, slot) in chunk {
            if work.is_beyond(id) {
                return true;
            }
            if *left == 0 {
                return false;
            }
            match self.look(slot, &work.filter) {
                Look::Yes => work.offer(id),
                Look::Read if !self.may_read(reads) => {
                    (*left, work.is_held_up) = (0, true);
                    return false;
                }
                Look::Read => self.read_for(slot, reads, turn),
                Look::No => {}
            }
            work.next = id.saturating_add(1);
            *left -= 1;
        }
        true
    }

    /// The page as it is now. What was brought back meanwhile is missing; `next` says that there may be more all the same.
    fn found(&self, work: &SearchJob, now: Now) -> Slice {
        let rows = work.page.iter().filter_map(|&id| {
            let slot = self.messages.find(MessageId(id))?;
            self.messages.rare(slot)?.dead?;
            Some(self.dead_letter(slot, now))
        });
        let rows: Vec<DeadLetter> = rows.collect();
        let next = work.page.last().filter(|_| work.page.len() >= work.limit).map(|&id| MessageId(id));
        Slice::Finished(OperatorReply::DeadPage { rows, next }, Ticket::DURABLE)
    }

    fn look(&self, slot: u32, filter: &DeadFilter) -> Look {
        if filter.is_any() {
            return Look::Yes;
        }
        let Some(rare) = self.messages.rare(slot) else { return Look::No };
        let Some((reason, died)) = rare.dead else { return Look::No };
        let is_said = |text: &String| {
            rare.failures
                .iter()
                .any(|failed| failed.error.contains(&**text) || failed.client.contains(&**text))
        };
        let is_it = filter.reason.as_deref().is_none_or(|wanted| wanted == reason.as_str())
            && filter.since.is_none_or(|since| died >= since)
            && filter.until.is_none_or(|until| died < until)
            && filter.text.as_ref().is_none_or(is_said);
        match (&filter.attribute, self.messages.body(slot)) {
            _ if !is_it => Look::No,
            (None, _) => Look::Yes,
            (Some(attribute), Some(body)) if has_attribute(body, attribute) => Look::Yes,
            (Some(_), Some(_)) => Look::No,
            (Some(_), None) => Look::Read,
        }
    }

    /// Half of what may be read at once is left to deliveries.
    fn may_read(&self, reads: &Reads<'_>) -> bool {
        *reads.under_way < OPERATOR_READS_MAX
            && self.reads.len() < self.config.reads_max.div_ceil(2)
            && self.reading_bytes < READING_BYTES_MAX / 2
    }

    fn read_for(&mut self, slot: u32, reads: &mut Reads<'_>, turn: &mut Turn<'_>) {
        let message = self.messages.at(slot);
        let read = turn.journal.read(message.position, message.body_offset, message.body_len);
        self.reading_bytes += u64::from(message.body_len);
        let message = message.lease().message;
        self.reads.insert(read, Reading::Job { job: reads.job, message });
        *reads.under_way += 1;
    }
}

fn has_attribute(body: &[u8], (name, value): &(String, String)) -> bool {
    message_attributes(body).any(|(own, its)| own == name && its == value)
}

impl DeadJob {
    pub(super) fn is_paced(&self) -> bool {
        self.pace.is_some()
    }

    /// How many may be moved now, or when the next one may.
    fn allowed(&mut self, now: Time, most: usize) -> Result<usize, Time> {
        let Some(pace) = &mut self.pace else { return Ok(most) };
        let now_us = now.0.saturating_mul(1000);
        pace.next_us = pace.next_us.max(now_us.saturating_sub(CATCH_UP_US));
        if pace.next_us > now_us {
            return Err(Time(pace.next_us.div_ceil(1000)).max(now + NAP));
        }
        let allowed = 1 + (now_us - pace.next_us).saturating_mul(pace.per_s) / 1_000_000;
        Ok(usize::try_from(allowed).unwrap_or(most).min(most))
    }

    fn count(&mut self, done: &Redriven, turn: &Turn<'_>) {
        let count = done.moved + done.too_large;
        if count > 0 {
            self.changed += done.moved;
            self.too_large += done.too_large;
            // Also for what is appended when this call ends.
            self.written = turn.journal.open_ticket();
        }
        if let Some(pace) = &mut self.pace {
            pace.next_us += (count * 1_000_000).div_ceil(pace.per_s);
        }
    }

    fn finished(&mut self) -> Slice {
        if self.too_large > 0 {
            let text = match self.too_large {
                1 => "one dead letter never fits the queue; it stays where it is, with the reason too_large"
                    .to_owned(),
                many => format!(
                    "{many} dead letters never fit the queue; they stay where they are, with the reason too_large"
                ),
            };
            return self.refused(refused(RefusalCode::LimitReached, text, 0));
        }
        Slice::Finished(OperatorReply::Changed(self.changed), self.written)
    }

    /// It goes no further. Whoever waits is refused only when nothing was moved.
    fn refused(&mut self, mut refused: Refused) -> Slice {
        self.stopped.clone_from(&refused.text);
        if self.changed > 0 {
            return Slice::Finished(OperatorReply::Changed(self.changed), self.written);
        }
        refused.text.push_str("; nothing was redriven");
        Slice::Finished(OperatorReply::Refused(refused), self.written)
    }

    pub(super) fn was_read(&mut self, message: MessageId, body: &[u8]) {
        if self.filter.attribute.as_ref().is_none_or(|attribute| has_attribute(body, attribute)) {
            self.found.push(message.0);
        }
    }

    /// How many were moved, and when that is durable.
    pub(super) fn so_far(&self) -> (u64, Ticket) {
        (self.changed, self.written)
    }

    pub(super) fn row(&self, job: u64, began: Wall) -> DeadJobRow {
        DeadJobRow {
            job,
            action: if self.to.is_some() { "redrive" } else { "purge" },
            queue: self.queue.to_string(),
            to: self.to.as_ref().map(QueueName::to_string),
            per_s: self.pace.map(|pace| pace.per_s),
            state: "under way",
            text: self.stopped.clone(),
            dead: self.dead,
            changed: self.changed,
            too_large: self.too_large,
            began_unix_ms: began.0,
            ended_unix_ms: None,
        }
    }
}

impl SearchJob {
    /// Whether neither this id nor a later one can be on the page.
    fn is_beyond(&self, id: u64) -> bool {
        self.page.len() >= self.limit && self.page.last().is_none_or(|&last| id > last)
    }

    fn offer(&mut self, id: u64) {
        self.page.insert(id);
        if self.page.len() > self.limit {
            self.page.pop_last();
        }
    }

    pub(super) fn was_read(&mut self, message: MessageId, body: &[u8]) {
        if self.filter.attribute.as_ref().is_none_or(|attribute| has_attribute(body, attribute)) {
            self.offer(message.0);
        }
    }
}
