//! How much may go in and out: of a queue by its own rules, and of a namespace over all of its queues.
//!
//! A queue that must wait for its namespace stands in a line, one for publishes and one for deliveries. Only the first
//! goes on, and goes to the end when it has had its turn, so that the namespace's room and rates are shared evenly by the
//! queues that want them. It goes on when a message or a lease of the namespace ends, or when the namespace's timer
//! says that its rate brings more. A queue's own rates have a timer of the queue.

use std::collections::VecDeque;

use crate::clock::Time;
use crate::mail::{RefusalCode, Refused};
use crate::queue::config::NamespaceRules;
use crate::queue::queues::NamespaceId;
use crate::queue::rate::Bucket;
use crate::queue::timer::Timer;
use crate::queue::{Brain, Held, refused};
use crate::telemetry::LimitKind;
use crate::wheel::TimerId;

/// What was used of a queue's rates.
#[derive(Debug, Default)]
pub(super) struct Pace {
    publish: Bucket,
    deliver: Bucket,
    pub(super) timer: Option<(TimerId, Time)>,
}

/// A namespace's bounds, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Quota {
    pub(super) rules: NamespaceRules,
    /// What was set in place of the configuration: keys and values, by key.
    pub(super) settings: Vec<(Box<str>, Box<str>)>,
    /// The record that holds them.
    pub(super) held: Held,
    publish: Bucket,
    deliver: Bucket,
    /// Queues whose parked publishes wait, each once.
    pub(super) publishing: VecDeque<u32>,
    /// Queues whose deliveries wait, each once.
    pub(super) delivering: VecDeque<u32>,
    pub(super) timer: Option<(TimerId, Time)>,
}

/// A limit that was met, and when that is over, if time alone will do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    pub(super) limit: LimitKind,
    due: Option<Time>,
}

impl Met {
    /// Others wait before it.
    pub(super) const fn waiting() -> Self {
        Self::now(LimitKind::Waiting)
    }

    /// Whether the queue waits for its namespace.
    pub(super) const fn is_of_namespace(self) -> bool {
        matches!(
            self.limit,
            LimitKind::NamespaceMessages
                | LimitKind::NamespaceBytes
                | LimitKind::NamespacePublishRate
                | LimitKind::NamespaceWaiting
        )
    }

    const fn now(limit: LimitKind) -> Self {
        Self { limit, due: None }
    }
}

impl Quota {
    pub(super) fn new(rules: NamespaceRules) -> Self {
        Self { rules, ..Self::default() }
    }

    fn bounds_publishes(&self) -> bool {
        let NamespaceRules { messages_max, bytes_max, publish_per_s, .. } = self.rules;
        messages_max.or(bytes_max).or(publish_per_s).is_some()
    }

    fn bounds_deliveries(&self) -> bool {
        self.rules.leased_max.or(self.rules.deliver_per_s).is_some()
    }

    /// The bounds changed: rates begin anew.
    pub(super) fn reset_rates(&mut self) {
        (self.publish, self.deliver) = (Bucket::default(), Bucket::default());
    }
}

/// What other queues get when a publish is for one.
pub(super) const NOTHING: (u64, u64) = (0, 0);

/// How much does not fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Excess {
    pub(super) limit: LimitKind,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

fn never_fits(what: &str, name: &str, (messages, bytes): (u64, u64), max: (u64, u64)) -> Refused {
    let (messages_max, bytes_max) = max;
    let text = format!(
        "{messages} messages of {bytes} bytes together never fit {what}{name:?}, which holds at most {messages_max} \
         messages and {bytes_max} bytes"
    );
    refused(RefusalCode::LimitReached, text, 0)
}

impl Brain {
    /// Why so much can never be in the queue, if that is so.
    pub(super) fn never_fits(&self, queue: u32, messages: u64, bytes: u64) -> Option<Refused> {
        let entry = self.queues.at(queue);
        let rules = entry.rules(&self.config);
        if messages <= rules.messages_max && bytes <= rules.bytes_max {
            return self.never_fits_namespace(entry.namespace, messages, bytes);
        }
        Some(never_fits("", &entry.name, (messages, bytes), (rules.messages_max, rules.bytes_max)))
    }

    /// Why so much can never be in a namespace, in all of its queues together, if that is so.
    pub(super) fn never_fits_namespace(
        &self,
        namespace: NamespaceId,
        messages: u64,
        bytes: u64,
    ) -> Option<Refused> {
        let tenant = self.queues.tenant(namespace);
        let rules = &tenant.quota.rules;
        let max = (rules.messages_max.unwrap_or(u64::MAX), rules.bytes_max.unwrap_or(u64::MAX));
        (messages > max.0 || bytes > max.1)
            .then(|| never_fits("the namespace ", &tenant.name, (messages, bytes), max))
    }

    /// What of so much has no room in the queue or in its namespace, where other queues of that get `beside` with it.
    #[inline]
    pub(super) fn excess(&self, queue: u32, messages: u64, bytes: u64, beside: (u64, u64)) -> Option<Excess> {
        let entry = self.queues.at(queue);
        let tenant = self.queues.tenant(entry.namespace);
        if entry.has_room(&self.config, messages, bytes) && !tenant.quota.bounds_publishes() {
            return None;
        }
        let rules = entry.rules(&self.config);
        let over = |there: u64, more: u64, max: u64| (there + more).saturating_sub(max);
        let own = (
            over(entry.waiting(), messages, rules.messages_max),
            over(entry.bytes - entry.dead_bytes, bytes, rules.bytes_max),
        );
        let whole = &tenant.quota.rules;
        let of_all = (
            over(tenant.messages + beside.0, messages, whole.messages_max.unwrap_or(u64::MAX)),
            over(tenant.bytes + beside.1, bytes, whole.bytes_max.unwrap_or(u64::MAX)),
        );
        let limit = match (own, of_all) {
            ((0, 0), (0, 0)) => return None,
            ((1.., _), _) => LimitKind::Messages,
            ((0, 1..), _) => LimitKind::Bytes,
            (_, (1.., _)) => LimitKind::NamespaceMessages,
            (_, (0, _)) => LimitKind::NamespaceBytes,
        };
        Some(Excess { limit, messages: own.0.max(of_all.0), bytes: own.1.max(of_all.1) })
    }

    /// Whether there is no room for so much.
    pub(super) fn lacks_room(&self, queue: u32, messages: u64, bytes: u64) -> bool {
        self.excess(queue, messages, bytes, NOTHING).is_some()
    }

    /// Whether a publish may go in now.
    #[inline]
    pub(super) fn may_enter(&mut self, queue: u32, messages: u64, bytes: u64, now: Time) -> Result<(), Met> {
        if !self.queues.at(queue).has_line() {
            return self.may_let_in(queue, messages, bytes, now);
        }
        let limit =
            self.excess(queue, messages, bytes, NOTHING).map_or(LimitKind::Waiting, |excess| excess.limit);
        Err(Met::now(limit))
    }

    /// Whether a publish with nothing parked before it may go in now.
    pub(super) fn may_let_in(&mut self, queue: u32, messages: u64, bytes: u64, now: Time) -> Result<(), Met> {
        if let Some(excess) = self.excess(queue, messages, bytes, NOTHING) {
            return Err(Met::now(excess.limit));
        }
        // Before the namespace's line, which a queue that keeps to a rate of its own would leave when its turn comes.
        self.publish_rate_met(queue, messages, 0, now).map_or(Ok(()), Err)?;
        self.may_go_first(queue)
    }

    /// Whether a publish that gives back what it takes of the namespace may go in now: only those that wait for room in
    /// its own queue come before it.
    pub(super) fn may_pass(&mut self, queue: u32, messages: u64, bytes: u64, now: Time) -> Result<(), Met> {
        let entry = self.queues.at(queue);
        if let Some(first) = self.parked.get(entry.parked.0 as usize) {
            let (count, bytes) = (first.asks.messages.len() as u64, first.asks.bodies.len() as u64);
            if !entry.has_room(&self.config, count, bytes) {
                return Err(Met::waiting());
            }
        }
        self.may_go_free(queue, messages, bytes, now)
    }

    /// The same, whoever waits before it.
    pub(super) fn may_go_free(
        &mut self,
        queue: u32,
        messages: u64,
        bytes: u64,
        now: Time,
    ) -> Result<(), Met> {
        let entry = self.queues.at(queue);
        if !entry.has_room(&self.config, messages, bytes) {
            let is_full = !entry.has_room(&self.config, messages, 0);
            return Err(Met::now(if is_full { LimitKind::Messages } else { LimitKind::Bytes }));
        }
        self.publish_rate_met(queue, messages, 0, now).map_or(Ok(()), Err)
    }

    /// Whether no other queue of the namespace waits to let publishes in before this one.
    pub(super) fn may_go_first(&self, queue: u32) -> Result<(), Met> {
        let quota = &self.queues.tenant(self.queues.at(queue).namespace).quota;
        if quota.bounds_publishes() && quota.publishing.front().is_some_and(|&first| first != queue) {
            return Err(Met::now(LimitKind::NamespaceWaiting));
        }
        Ok(())
    }

    /// Whether copies may go in now, where other queues of the namespace get `beside` in the same publish. One that has
    /// waited is at the head of its own queue's line, and goes before those of the others.
    pub(super) fn may_enter_beside(
        &mut self,
        queue: u32,
        (messages, bytes): (u64, u64),
        beside: (u64, u64),
        has_waited: bool,
        now: Time,
    ) -> Result<(), Met> {
        if let Some(excess) = self.excess(queue, messages, bytes, beside) {
            return Err(Met::now(excess.limit));
        }
        if !has_waited {
            if self.queues.at(queue).has_line() {
                return Err(Met::now(LimitKind::Waiting));
            }
            self.may_go_first(queue)?;
        }
        self.publish_rate_met(queue, messages, beside.0, now).map_or(Ok(()), Err)
    }

    /// The rate that so many more messages would break now, where other queues of the namespace get `beside` with them.
    #[inline]
    pub(super) fn publish_rate_met(
        &mut self,
        queue: u32,
        messages: u64,
        beside: u64,
        now: Time,
    ) -> Option<Met> {
        let entry = self.queues.at(queue);
        let namespace = entry.namespace;
        if let Some(per_s) = entry.rules(&self.config).publish_per_s
            && let Some(at) = self.pace_mut(queue).publish.due(per_s, messages, now)
        {
            return Some(Met { limit: LimitKind::PublishRate, due: Some(at) });
        }
        let quota = &mut self.queues.tenant_mut(namespace).quota;
        let per_s = quota.rules.publish_per_s?;
        let at = quota.publish.due(per_s, messages + beside, now)?;
        Some(Met { limit: LimitKind::NamespacePublishRate, due: Some(at) })
    }

    /// Takes so many messages, which were published, off the rates.
    #[inline]
    pub(super) fn spend_publish(&mut self, queue: u32, messages: u64) {
        let entry = self.queues.at(queue);
        let (namespace, is_paced) = (entry.namespace, entry.rules(&self.config).publish_per_s.is_some());
        if is_paced {
            self.pace_mut(queue).publish.take(messages);
        }
        let quota = &mut self.queues.tenant_mut(namespace).quota;
        if quota.rules.publish_per_s.is_some() {
            quota.publish.take(messages);
        }
    }

    /// The answer to a publish that met a limit and is not parked.
    pub(super) fn refuse_full(&self, queue: u32, met: Met, now: Time) -> Refused {
        let entry = self.queues.at(queue);
        let (name, tenant) = (&entry.name, self.queues.tenant(entry.namespace));
        let (rules, whole) = (entry.rules(&self.config), &tenant.quota.rules);
        let no_bound =
            |bound: Option<u64>| bound.map_or_else(|| "any number of".to_owned(), |max| max.to_string());
        let code = if met.due.is_some() { RefusalCode::LimitReached } else { RefusalCode::QueueFull };
        let text = match met.limit {
            LimitKind::PublishRate => {
                let per_s = rules.publish_per_s.unwrap_or(0);
                format!("{name:?} takes {per_s} messages a second")
            }
            LimitKind::NamespacePublishRate => {
                let per_s = whole.publish_per_s.unwrap_or(0);
                format!("the namespace {:?} takes {per_s} messages a second", tenant.name)
            }
            LimitKind::NamespaceMessages | LimitKind::NamespaceBytes => format!(
                "the namespace {:?} is full: it holds {} messages of {} bytes, at most {} messages and {} bytes are \
                 allowed",
                tenant.name,
                tenant.messages,
                tenant.bytes,
                no_bound(whole.messages_max),
                no_bound(whole.bytes_max)
            ),
            LimitKind::NamespaceWaiting => {
                format!(
                    "the namespace {:?} is full: publishes to other queues of it wait for room",
                    tenant.name
                )
            }
            LimitKind::Waiting => format!("{name:?} is full: publishes wait for room in it"),
            _ => format!(
                "{name:?} is full: it holds {} messages of {} bytes, at most {} messages and {} bytes are allowed",
                entry.waiting(),
                entry.bytes - entry.dead_bytes,
                rules.messages_max,
                rules.bytes_max
            ),
        };
        let until_due = met.due.map(|at| u32::try_from(now.millis_until(at)).unwrap_or(u32::MAX));
        refused(code, text, until_due.unwrap_or_else(|| self.full_retry_ms()))
    }

    /// The first parked publish of a queue met a limit. Whether the queue waits for its namespace.
    pub(super) fn await_publish(&mut self, queue: u32, met: Met) -> bool {
        match met.limit {
            LimitKind::PublishRate => {
                self.wake_queue(queue, met.due);
                false
            }
            _ if met.is_of_namespace() => {
                let namespace = self.queues.at(queue).namespace;
                if !std::mem::replace(&mut self.queues.at_mut(queue).in_publish_line, true) {
                    self.queues.tenant_mut(namespace).quota.publishing.push_back(queue);
                }
                self.wake_namespace(namespace, met.due);
                true
            }
            // An ack makes room, which is looked at then.
            _ => false,
        }
    }

    /// A queue in its namespace's line has had its turn. Whether another one is next.
    pub(super) fn pass_publish_turn(&mut self, queue: u32) -> bool {
        let entry = self.queues.at(queue);
        let line = &mut self.queues.tenant_mut(entry.namespace).quota.publishing;
        let is_passed = pass_turn(line, queue);
        is_passed.map(|next| self.mark_dirty(next)).is_some()
    }

    pub(super) fn leave_publish_line(&mut self, queue: u32) {
        let entry = self.queues.at_mut(queue);
        if std::mem::take(&mut entry.in_publish_line) {
            let namespace = entry.namespace;
            let line = &mut self.queues.tenant_mut(namespace).quota.publishing;
            line.retain(|&waiting| waiting != queue);
            let next = line.front().copied();
            next.into_iter().for_each(|next| self.mark_dirty(next));
        }
    }

    /// Whether anything but credit bounds what a queue delivers.
    #[inline]
    pub(super) fn bounds_deliveries(&self, queue: u32) -> bool {
        let entry = self.queues.at(queue);
        let rules = entry.rules(&self.config);
        rules.leased_max != u64::MAX
            || rules.deliver_per_s.is_some()
            || self.queues.tenant(entry.namespace).quota.bounds_deliveries()
    }

    /// Whether a queue may deliver one message now.
    pub(super) fn may_deliver(&mut self, queue: u32, now: Time) -> Result<(), Met> {
        let entry = self.queues.at(queue);
        let (namespace, leased) = (entry.namespace, entry.leased_count);
        let rules = entry.rules(&self.config);
        let rate = rules.deliver_per_s;
        if leased >= rules.leased_max {
            return Err(Met::now(LimitKind::Leased));
        }
        if let Some(per_s) = rate
            && let Some(at) = self.pace_mut(queue).deliver.due(per_s, 1, now)
        {
            return Err(Met { limit: LimitKind::DeliverRate, due: Some(at) });
        }
        let tenant = self.queues.tenant_mut(namespace);
        let (leased, quota) = (tenant.leased, &mut tenant.quota);
        if quota.bounds_deliveries() && quota.delivering.front().is_some_and(|&first| first != queue) {
            return Err(Met::now(LimitKind::NamespaceWaiting));
        }
        if quota.rules.leased_max.is_some_and(|max| leased >= max) {
            return Err(Met::now(LimitKind::NamespaceLeased));
        }
        match quota.rules.deliver_per_s.and_then(|per_s| quota.deliver.due(per_s, 1, now)) {
            Some(at) => Err(Met { limit: LimitKind::NamespaceDeliverRate, due: Some(at) }),
            None => Ok(()),
        }
    }

    /// A queue with something to deliver met a limit. Whether it waits for its namespace.
    pub(super) fn await_delivery(&mut self, queue: u32, met: Met) -> bool {
        match met.limit {
            LimitKind::DeliverRate => {
                self.wake_queue(queue, met.due);
                false
            }
            LimitKind::NamespaceLeased | LimitKind::NamespaceDeliverRate | LimitKind::NamespaceWaiting => {
                let namespace = self.queues.at(queue).namespace;
                if !std::mem::replace(&mut self.queues.at_mut(queue).in_deliver_line, true) {
                    self.queues.tenant_mut(namespace).quota.delivering.push_back(queue);
                }
                self.wake_namespace(namespace, met.due);
                true
            }
            // The end of a lease lets the queue be looked at.
            _ => false,
        }
    }

    /// A message was delivered. Whether it is the turn of another queue of the namespace now.
    pub(super) fn pass_deliver_turn(&mut self, queue: u32) -> bool {
        let entry = self.queues.at(queue);
        let (namespace, is_paced) = (entry.namespace, entry.rules(&self.config).deliver_per_s.is_some());
        if is_paced {
            self.pace_mut(queue).deliver.take(1);
        }
        let quota = &mut self.queues.tenant_mut(namespace).quota;
        if quota.rules.deliver_per_s.is_some() {
            quota.deliver.take(1);
        }
        let is_passed = pass_turn(&mut quota.delivering, queue);
        is_passed.map(|next| self.mark_dirty(next)).is_some()
    }

    pub(super) fn leave_deliver_line(&mut self, queue: u32) {
        let entry = self.queues.at_mut(queue);
        if std::mem::take(&mut entry.in_deliver_line) {
            let namespace = entry.namespace;
            let line = &mut self.queues.tenant_mut(namespace).quota.delivering;
            line.retain(|&waiting| waiting != queue);
            let next = line.front().copied();
            next.into_iter().for_each(|next| self.mark_dirty(next));
        }
    }

    /// A message is gone or dead: who waits for its namespace's room is looked at.
    #[inline]
    pub(super) fn count_out(&mut self, queue: u32, bytes: u64) {
        let namespace = self.queues.at(queue).namespace;
        if let Some(next) = self.queues.count_out(namespace, bytes) {
            self.mark_dirty(next);
        }
    }

    /// A lease has ended: who waits for that is looked at.
    #[inline]
    pub(super) fn count_lease_out(&mut self, namespace: NamespaceId) {
        let tenant = self.queues.tenant_mut(namespace);
        tenant.leased -= 1;
        if let Some(&next) = tenant.quota.delivering.front() {
            self.mark_dirty(next);
        }
    }

    /// A queue's rates bring more.
    pub(super) fn queue_due(&mut self, queue: u32) {
        self.pace_mut(queue).timer = None;
        self.mark_dirty(queue);
    }

    /// A namespace's rates bring more.
    pub(super) fn namespace_due(&mut self, namespace: NamespaceId) {
        self.queues.tenant_mut(namespace).quota.timer = None;
        self.look_at_lines(namespace);
    }

    /// Who is first in a line of the namespace is served in this call.
    pub(super) fn look_at_lines(&mut self, namespace: NamespaceId) {
        let quota = &self.queues.tenant(namespace).quota;
        let firsts = [quota.publishing.front().copied(), quota.delivering.front().copied()];
        firsts.into_iter().flatten().for_each(|queue| self.mark_dirty(queue));
    }

    /// A queue is closed, or has other rules: its rates begin anew.
    pub(super) fn stop_pace(&mut self, queue: u32) {
        if let Some(pace) = self.queues.at_mut(queue).pace.take()
            && let Some((timer, _)) = pace.timer
        {
            self.wheel.cancel(timer);
        }
    }

    fn pace_mut(&mut self, queue: u32) -> &mut Pace {
        self.queues.at_mut(queue).pace.get_or_insert_default()
    }

    fn wake_queue(&mut self, queue: u32, due: Option<Time>) {
        let Some(at) = due else { return };
        let pace = self.queues.at_mut(queue).pace.get_or_insert_default();
        match &mut pace.timer {
            Some((timer, set)) if at < *set => {
                self.wheel.move_to(*timer, at);
                *set = at;
            }
            Some(_) => {}
            none => *none = Some((self.wheel.insert(at, Timer::Queue(queue).key()), at)),
        }
    }

    fn wake_namespace(&mut self, namespace: NamespaceId, due: Option<Time>) {
        let Some(at) = due else { return };
        match &mut self.queues.tenant_mut(namespace).quota.timer {
            Some((timer, set)) if at < *set => {
                self.wheel.move_to(*timer, at);
                *set = at;
            }
            Some(_) => {}
            none => *none = Some((self.wheel.insert(at, Timer::Namespace(namespace).key()), at)),
        }
    }
}

/// `queue` goes from the front of the line to its end. Who is next, if that is another one.
fn pass_turn(line: &mut VecDeque<u32>, queue: u32) -> Option<u32> {
    if line.front() != Some(&queue) || line.len() < 2 {
        return None;
    }
    line.rotate_left(1);
    line.front().copied()
}
