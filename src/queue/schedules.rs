//! Schedules: what an operator set, kept in the log until it is removed.
//!
//! A schedule's record holds all of it with the newest time it published for. Each firing is part of the publish record of its
//! message, so that both are there or neither; the newest of them is kept alive by the schedule until a later one, or the
//! schedule's own record written anew, says the same. When something comes due is for [`super::firing`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use slab::Slab;

use crate::clock::{Time, Wall};
use crate::cron::Cron;
use crate::ids::{ConnKey, Namespace, ScheduleName};
use crate::limits::{
    ATTRIBUTES_MAX, PAGE_ROWS_MAX, SCHEDULE_BYTES_PER_NAMESPACE_MAX, SCHEDULE_MESSAGE_BYTES_MAX,
    SCHEDULE_MISSED_MAX, SCHEDULES_PER_NAMESPACE_MAX,
};
use crate::log::{Position, Ticket};
use crate::mail::{
    Effect, MessageHeader, Misfire, OperatorReply, OperatorRequest, RefusalCode, Refused, ScheduleRow,
    ScheduleSpec,
};
use crate::message::{append_attribute, message_attributes, message_header, message_options};
use crate::queue::queues::NamespaceId;
use crate::queue::record::{self, SchedulePlan, ScheduleRecord};
use crate::queue::{Brain, Held, Turn, refused, release};
use crate::wheel::TimerId;

/// The attribute that names the schedule of a message.
pub const ATTRIBUTE_SCHEDULE: &str = "schedule";
/// The attribute that says what time a message was scheduled for, in RFC 3339.
pub const ATTRIBUTE_SCHEDULED_FOR: &str = "scheduled_for";

/// One schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) namespace: NamespaceId,
    pub(super) name: Box<str>,
    pub(super) expression: Box<str>,
    pub(super) zone: Box<str>,
    pub(super) queue: Box<str>,
    pub(super) misfire: Misfire,
    pub(super) missed_max: u32,
    pub(super) is_paused: bool,
    /// `None` when this version cannot read it any more; it stays, and says so.
    pub(super) cron: Option<Cron>,
    pub(super) header: MessageHeader,
    body: Box<[u8]>,
    /// Nothing is due up to here: when it was set or resumed.
    since: Wall,
    /// The newest time it published for; 0 for none. Never goes back.
    fired: Wall,
    /// The first time that is not dealt with.
    pub(super) next: Option<Wall>,
    /// Its place among those that are due.
    pub(super) look_at: Option<Wall>,
    /// With [`Misfire::All`]: so many times from `next` to `counted` are due.
    pub(super) pending: u32,
    pub(super) counted: Wall,
    pub(super) held_up: Option<Box<str>>,
    /// The queue in whose line it waits for room.
    pub(super) in_line: Option<u32>,
    /// Its record.
    held: Held,
    /// The head of the record it fired with last, unless its own record says as much.
    fired_held: Held,
}

impl Schedule {
    /// Everything up to here is dealt with, as far as the log knows.
    pub(super) fn base(&self) -> Wall {
        self.since.max(self.fired)
    }

    /// What it takes of its namespace's bound, in bytes.
    fn charge(&self) -> usize {
        // The calendar, the places in the tables and what allocations cost.
        const BESIDES_BYTES: usize = 1024;
        let texts = self.name.len() + self.expression.len() + self.zone.len() + self.queue.len();
        size_of::<Self>() + BESIDES_BYTES + texts + self.body.len()
    }

    /// Bytes of its message, without what a firing adds.
    pub(super) fn body_len(&self) -> u64 {
        self.body.len() as u64
    }

    /// The message for the time `due`.
    pub(super) fn body_for(&self, due: Wall) -> Vec<u8> {
        let mut body = self.body.to_vec();
        append_attribute(&mut body, ATTRIBUTE_SCHEDULE, &self.name);
        let time = self.cron.as_ref().map(|cron| cron.local(due)).unwrap_or_default();
        append_attribute(&mut body, ATTRIBUTE_SCHEDULED_FOR, &time);
        body
    }

    fn is_as(&self, spec: &ScheduleSpec) -> bool {
        *self.expression == *spec.cron
            && *self.zone == *spec.time_zone
            && *self.queue == *spec.queue.as_str()
            && (self.misfire, self.missed_max) == (spec.misfire, spec.missed_max)
            && self.is_paused == spec.is_paused
            && *self.body == *spec.body
    }

    fn record<'a>(&'a self, namespace: &'a str) -> ScheduleRecord<'a> {
        let plan = SchedulePlan {
            cron: &self.expression,
            zone: &self.zone,
            queue: &self.queue,
            misfire: self.misfire,
            missed_max: self.missed_max,
            is_paused: self.is_paused,
            since: self.since,
            fired: self.fired,
            body: &self.body,
        };
        ScheduleRecord { namespace, name: &self.name, plan: Some(plan) }
    }

    fn row(&self) -> ScheduleRow {
        let local = |wall: Wall| self.cron.as_ref().map(|cron| cron.local(wall));
        let fired = Some(self.fired).filter(|&fired| fired > Wall(0));
        let unreadable =
            "this version of the server cannot read the expression or the time zone; add it anew";
        let held_up = match &self.cron {
            None => Some(unreadable.to_owned()),
            Some(_) => self.held_up.as_deref().map(str::to_owned),
        };
        ScheduleRow {
            name: self.name.to_string(),
            cron: self.expression.to_string(),
            time_zone: self.zone.to_string(),
            queue: self.queue.to_string(),
            misfire: self.misfire.as_str(),
            missed_max: self.missed_max,
            paused: self.is_paused,
            last_unix_ms: fired.map(|fired| fired.0),
            last: fired.and_then(local),
            next_unix_ms: self.next.map(|next| next.0),
            next: self.next.and_then(local),
            held_up,
            bytes: self.body.len() as u64,
            body: None,
        }
    }
}

/// What the schedules of a namespace take.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    schedules: usize,
    bytes: usize,
}

/// All schedules of the shard.
#[derive(Debug, Default)]
pub(super) struct Schedules {
    pub(super) slab: Slab<Schedule>,
    by_name: BTreeMap<(NamespaceId, Box<str>), u32>,
    shares: BTreeMap<NamespaceId, Share>,
    /// When each is to be looked at next, by the wall clock. Without those that are paused or never come due.
    pub(super) due: BTreeSet<(Wall, u32)>,
    pub(super) timer: Option<TimerId>,
    /// The wall clock at the last look.
    pub(super) looked: Wall,
    /// The schedule whose message is being admitted, and the time it is for: its publish record says so.
    pub(super) firing: Option<(u32, Wall)>,
    pub(super) next_line: Time,
}

impl Schedules {
    fn find(&self, namespace: NamespaceId, name: &str) -> Option<u32> {
        // A name is short, and this is not on the path of a message.
        self.by_name.get(&(namespace, name.into())).copied()
    }

    fn insert(&mut self, schedule: Schedule) -> u32 {
        let key = (schedule.namespace, schedule.name.clone());
        let share = self.shares.entry(schedule.namespace).or_default();
        share.schedules += 1;
        share.bytes += schedule.charge();
        let slot = self.slab.insert(schedule) as u32;
        self.by_name.insert(key, slot);
        slot
    }

    fn remove(&mut self, slot: u32) -> Schedule {
        self.wait_until(slot, None);
        let schedule = self.slab.remove(slot as usize);
        self.by_name.remove(&(schedule.namespace, schedule.name.clone()));
        let share = self.shares.entry(schedule.namespace).or_default();
        share.schedules -= 1;
        share.bytes -= schedule.charge();
        if share.schedules == 0 {
            self.shares.remove(&schedule.namespace);
        }
        schedule
    }

    /// Looks at a schedule next at `wall`, or never.
    pub(super) fn wait_until(&mut self, slot: u32, wall: Option<Wall>) {
        let schedule = &mut self.slab[slot as usize];
        if let Some(old) = std::mem::replace(&mut schedule.look_at, wall) {
            self.due.remove(&(old, slot));
        }
        self.due.extend(wall.map(|wall| (wall, slot)));
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shares.values().map(|share| share.bytes as u64).sum()
    }

    /// Bytes of records that are kept alive.
    pub(super) fn held(&self) -> impl Iterator<Item = (Position, u32)> {
        let both = |(_, schedule): (usize, &Schedule)| [schedule.held, schedule.fired_held];
        self.slab.iter().flat_map(both).filter(|held| held.len > 0).map(|held| (held.position, held.len))
    }

    pub(super) fn check(&self) {
        assert!(self.firing.is_none(), "a firing was left behind");
        assert_eq!(self.slab.len(), self.by_name.len(), "schedules without a name");
        let waiting = self.slab.iter().filter_map(|(slot, schedule)| Some((schedule.look_at?, slot as u32)));
        assert_eq!(waiting.collect::<BTreeSet<_>>(), self.due, "what is due and who waits");
        for (slot, schedule) in &self.slab {
            assert_eq!(
                self.find(schedule.namespace, &schedule.name),
                Some(slot as u32),
                "a schedule is lost"
            );
            assert!(schedule.next.is_none_or(|next| next > schedule.base()), "{} fires twice", schedule.name);
        }
        let charges: usize = self.slab.iter().map(|(_, schedule)| schedule.charge()).sum();
        assert_eq!(self.bytes(), charges as u64, "bytes of schedules");
        assert_eq!(self.timer.is_some(), !self.due.is_empty(), "the schedules' timer");
    }
}

impl Brain {
    /// Answers what concerns schedules.
    pub(super) fn operate_schedules(&mut self, conn: ConnKey, request: OperatorRequest, turn: &mut Turn<'_>) {
        let rows = match request {
            OperatorRequest::ScheduleAdd { namespace, schedule } => {
                return self.add_schedule(conn, &namespace, &schedule, turn);
            }
            OperatorRequest::ScheduleRemove { namespace, name } => {
                return self.remove_schedule(conn, &namespace, &name, turn);
            }
            OperatorRequest::SchedulePause { namespace, name, is_paused } => {
                return self.pause_schedule(conn, &namespace, &name, is_paused, turn);
            }
            OperatorRequest::Schedules { namespace, after, limit } => {
                self.list_schedules(&namespace, after.as_deref(), limit)
            }
            OperatorRequest::ScheduleShow { namespace, name } => self.show_schedule(&namespace, &name),
            _ => return,
        };
        turn.push_now(Effect::Operator { conn, reply: Box::new(OperatorReply::Schedules(rows)) });
    }

    fn add_schedule(
        &mut self,
        conn: ConnKey,
        namespace: &Namespace,
        spec: &ScheduleSpec,
        turn: &mut Turn<'_>,
    ) {
        let (reply, after) = match self.try_add_schedule(namespace, spec, turn) {
            Ok(slot) => {
                let row = self.schedules.slab[slot as usize].row();
                (OperatorReply::Schedules(vec![row]), turn.journal.open_ticket())
            }
            Err(refused) => (OperatorReply::Refused(refused), Ticket::DURABLE),
        };
        turn.outbox.push(after, Effect::Operator { conn, reply: Box::new(reply) }, &[]);
    }

    fn try_add_schedule(
        &mut self,
        namespace: &Namespace,
        spec: &ScheduleSpec,
        turn: &mut Turn<'_>,
    ) -> Result<u32, Refused> {
        let invalid = |text: String| refused(RefusalCode::Invalid, text, 0);
        let cron = Cron::parse(&spec.cron, &spec.time_zone).map_err(|error| invalid(error.to_string()))?;
        let header = check_spec(spec).map_err(invalid)?;
        let namespace = self
            .queues
            .intern(namespace.as_str(), self.config.namespaces_max)
            .map_err(|full| self.names_full(full))?;
        let schedule = Schedule {
            namespace,
            name: spec.name.as_str().into(),
            expression: spec.cron.as_str().into(),
            zone: spec.time_zone.as_str().into(),
            queue: spec.queue.as_str().into(),
            misfire: spec.misfire,
            missed_max: spec.missed_max,
            is_paused: spec.is_paused,
            cron: Some(cron),
            header,
            body: spec.body.as_slice().into(),
            since: turn.now.wall,
            fired: Wall(0),
            next: None,
            look_at: None,
            pending: 0,
            counted: Wall(0),
            held_up: None,
            in_line: None,
            held: Held::default(),
            fired_held: Held::default(),
        };
        let known = self.schedules.find(namespace, spec.name.as_str());
        let old = known.map(|slot| &self.schedules.slab[slot as usize]);
        if let (Some(slot), Some(true)) = (known, old.map(|old| old.is_as(spec))) {
            // A commit without a record never comes, and the answer waits for one.
            self.append_schedule(slot, turn);
            return Ok(slot);
        }
        let share = self.schedules.shares.get(&namespace).copied().unwrap_or_default();
        let bytes = share.bytes + schedule.charge() - old.map_or(0, Schedule::charge);
        if known.is_none() && share.schedules >= SCHEDULES_PER_NAMESPACE_MAX {
            let text =
                format!("the limit of {SCHEDULES_PER_NAMESPACE_MAX} schedules of this namespace is reached");
            return Err(refused(RefusalCode::LimitReached, text, 0));
        }
        if bytes > SCHEDULE_BYTES_PER_NAMESPACE_MAX {
            let text = format!(
                "the schedules of this namespace would take {bytes} bytes; at most {SCHEDULE_BYTES_PER_NAMESPACE_MAX} \
                 are allowed"
            );
            return Err(refused(RefusalCode::LimitReached, text, 0));
        }
        let old = known.map(|slot| {
            self.let_go(slot);
            self.schedules.remove(slot)
        });
        let slot = self.schedules.insert(schedule);
        self.append_schedule(slot, turn);
        if let Some(old) = old {
            release(turn, old.held);
            release(turn, old.fired_held);
        }
        self.time_schedule(slot);
        self.set_schedules_timer(turn);
        self.count_schedules();
        Ok(slot)
    }

    fn remove_schedule(
        &mut self,
        conn: ConnKey,
        namespace: &Namespace,
        name: &ScheduleName,
        turn: &mut Turn<'_>,
    ) {
        let Some(slot) = self.find_schedule(namespace.as_str(), name.as_str()) else {
            return turn.push_now(Effect::Operator { conn, reply: Box::new(OperatorReply::Changed(0)) });
        };
        self.append_amendment(turn, |out| {
            let gone = ScheduleRecord { namespace: namespace.as_str(), name: name.as_str(), plan: None };
            record::encode_schedule(out, &gone);
        });
        self.let_go(slot);
        let old = self.schedules.remove(slot);
        release(turn, old.held);
        release(turn, old.fired_held);
        self.set_schedules_timer(turn);
        self.count_schedules();
        turn.push_durable(Effect::Operator { conn, reply: Box::new(OperatorReply::Changed(1)) });
    }

    /// Pauses or resumes a schedule. What came due while it was paused is not missed.
    fn pause_schedule(
        &mut self,
        conn: ConnKey,
        namespace: &Namespace,
        name: &ScheduleName,
        is_paused: bool,
        turn: &mut Turn<'_>,
    ) {
        let Some(slot) = self.find_schedule(namespace.as_str(), name.as_str()) else {
            let reply = Box::new(OperatorReply::Schedules(Vec::new()));
            return turn.push_now(Effect::Operator { conn, reply });
        };
        let schedule = &mut self.schedules.slab[slot as usize];
        if schedule.is_paused != is_paused {
            schedule.is_paused = is_paused;
            schedule.since = turn.now.wall;
            self.time_schedule(slot);
            self.set_schedules_timer(turn);
        }
        // Also where nothing changed: the answer waits for a commit, and one without a record never comes.
        self.append_schedule(slot, turn);
        let row = self.schedules.slab[slot as usize].row();
        turn.push_durable(Effect::Operator { conn, reply: Box::new(OperatorReply::Schedules(vec![row])) });
    }

    fn list_schedules(&self, namespace: &Namespace, after: Option<&str>, limit: usize) -> Vec<ScheduleRow> {
        let Some(namespace) = self.queues.find_namespace(namespace.as_str()) else { return Vec::new() };
        let from = match after {
            Some(after) => Bound::Excluded((namespace, after.into())),
            None => Bound::Included((namespace, "".into())),
        };
        let later = self.schedules.by_name.range((from, Bound::Unbounded));
        let own = later.take_while(|((of, _), _)| *of == namespace).take(limit.min(PAGE_ROWS_MAX));
        own.map(|(_, &slot)| self.schedules.slab[slot as usize].row()).collect()
    }

    fn show_schedule(&self, namespace: &Namespace, name: &ScheduleName) -> Vec<ScheduleRow> {
        let found = self.find_schedule(namespace.as_str(), name.as_str());
        let schedule = found.map(|slot| &self.schedules.slab[slot as usize]);
        schedule.map(|own| ScheduleRow { body: Some(own.body.to_vec()), ..own.row() }).into_iter().collect()
    }

    fn find_schedule(&self, namespace: &str, name: &str) -> Option<u32> {
        self.schedules.find(self.queues.find_namespace(namespace)?, name)
    }

    /// Writes all of a schedule; nothing else of it is needed any more.
    fn append_schedule(&mut self, slot: u32, turn: &mut Turn<'_>) {
        self.append_clock_if_old(turn);
        let schedule = &self.schedules.slab[slot as usize];
        let namespace = &self.queues.tenant(schedule.namespace).name;
        self.scratch.clear();
        record::encode_schedule(&mut self.scratch, &schedule.record(namespace));
        let position = turn.journal.append(&[&self.scratch]);
        let held = Held { position, len: self.scratch.len() as u32 };
        let schedule = &mut self.schedules.slab[slot as usize];
        release(turn, std::mem::replace(&mut schedule.held, held));
        release(turn, std::mem::take(&mut schedule.fired_held));
    }

    /// The message for the time `due` was written with a record whose head is `held`.
    pub(super) fn schedule_fired(&mut self, slot: u32, due: Wall, held: Held, turn: &mut Turn<'_>) {
        let schedule = &mut self.schedules.slab[slot as usize];
        schedule.fired = schedule.fired.max(due);
        release(turn, std::mem::replace(&mut schedule.fired_held, held));
    }

    /// Compaction comes to a record that holds a schedule, or its newest firing.
    pub(super) fn relocate_schedule(
        &mut self,
        position: Position,
        namespace: &str,
        name: &str,
        turn: &mut Turn<'_>,
    ) {
        let Some(slot) = self.find_schedule(namespace, name) else { return };
        let schedule = &self.schedules.slab[slot as usize];
        let is_at = |held: Held| held.len > 0 && held.position == position;
        if is_at(schedule.held) || is_at(schedule.fired_held) {
            self.append_schedule(slot, turn);
        }
    }

    /// Takes in a recovered schedule, or that it was removed.
    pub(super) fn replay_schedule(&mut self, held: Held, record: &ScheduleRecord<'_>) {
        let namespace = self.intern_again(record.namespace);
        if let Some(slot) = self.schedules.find(namespace, record.name) {
            self.schedules.remove(slot);
        }
        let Some(plan) = &record.plan else { return };
        let cron = Cron::parse(plan.cron, plan.zone);
        let header = message_header(plan.body, usize::MAX);
        let faults =
            [cron.as_ref().err().map(ToString::to_string), header.as_ref().err().map(ToString::to_string)];
        for fault in faults.into_iter().flatten() {
            tracing::warn!(
                namespace = record.namespace,
                schedule = record.name,
                "the schedule rests, add it anew: {fault}"
            );
        }
        self.schedules.insert(Schedule {
            namespace,
            name: record.name.into(),
            expression: plan.cron.into(),
            zone: plan.zone.into(),
            queue: plan.queue.into(),
            misfire: plan.misfire,
            missed_max: plan.missed_max,
            is_paused: plan.is_paused,
            cron: cron.ok().filter(|_| header.is_ok()),
            header: header.unwrap_or_default(),
            body: plan.body.into(),
            since: plan.since,
            fired: plan.fired,
            next: None,
            look_at: None,
            pending: 0,
            counted: Wall(0),
            held_up: None,
            in_line: None,
            held,
            fired_held: Held::default(),
        });
    }

    /// A recovered publish says that a schedule fired for `due`.
    pub(super) fn replay_firing(&mut self, namespace: NamespaceId, name: &str, due: Wall, head: Held) {
        if let Some(slot) = self.schedules.find(namespace, name) {
            let schedule = &mut self.schedules.slab[slot as usize];
            schedule.fired = schedule.fired.max(due);
            schedule.fired_held = head;
        }
    }

    pub(super) fn count_schedules(&self) {
        self.metrics.schedules.set(self.schedules.slab.len() as u64);
        self.metrics.schedule_bytes.set(self.schedules.bytes());
    }
}

/// The header of its message.
fn check_spec(spec: &ScheduleSpec) -> Result<MessageHeader, String> {
    if spec.queue.topic().is_some() {
        return Err(format!("{} is a topic; a schedule publishes to a queue or a mailbox", spec.queue));
    }
    if !(1..=SCHEDULE_MISSED_MAX).contains(&spec.missed_max) {
        return Err(format!(
            "missed_max = {} is not allowed; it goes from 1 to {SCHEDULE_MISSED_MAX}",
            spec.missed_max
        ));
    }
    let header = message_header(&spec.body, SCHEDULE_MESSAGE_BYTES_MAX).map_err(|fault| fault.to_string())?;
    if header.due > Wall(0) {
        return Err(
            "the message has a due time of its own; when it is published is the schedule's to say".into()
        );
    }
    if !message_options(&spec.body).dedup_id.is_empty() {
        return Err(
            "the message has a deduplication id, with which only the first of a window would be kept; each message \
             of a schedule is one of its own"
                .into(),
        );
    }
    let names = [ATTRIBUTE_SCHEDULE, ATTRIBUTE_SCHEDULED_FOR];
    let mut attributes = 0;
    for (name, _) in message_attributes(&spec.body) {
        attributes += 1;
        if names.contains(&name) {
            return Err(format!("the attribute {name:?} is set by the schedule itself"));
        }
    }
    if attributes + names.len() > ATTRIBUTES_MAX {
        return Err(format!(
            "the message has {attributes} attributes; at most {} are allowed, for the schedule adds {}",
            ATTRIBUTES_MAX - names.len(),
            names.len()
        ));
    }
    Ok(header)
}
