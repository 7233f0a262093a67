//! System topics: what the server itself tells of, as messages of topics that nobody else may publish to.
//!
//! | topic | attributes |
//! |---|---|
//! | `$sys.presence` | `event`: `connected` (`reason`: `new`, `resumed`), `disconnected` (`reason`: `taken_over`, or that of the connection's end), `ended` (`reason`: `grace_over`) or, without `client`, `restarted`; `client` |
//! | `$sys.limits` | `limit`: as in the metric of limits, or `disk_full`; `queue`; `outcome`: `wait`, `refused`, `missed` or `oldest_died` |
//! | `$sys.dead` | `event`: `dead_letters_growing`; `queue`; `reason` of the death; `dead`: how many there are; `at_unix_ms` |
//!
//! The payload says the same in JSON, for people. An event goes to who is subscribed and to the queues that are bound, like
//! any message of a topic, but never waits and pushes nothing out: a queue that is full misses it. It is told when the call
//! that it came up in has done the rest, so that nothing is put on a queue while that is looked at, or between two commands,
//! timers and queues once half of [`EVENTS_UNTOLD_MAX`] wait; what comes up beyond all of these is missed. Where nobody of a tenant listens to any system topic
//! an event costs a look at two numbers, so that a million clients may come back at once. Of a limit each queue is told
//! of at most once a second. A server that goes down tells of nobody: when it is back it says that it was restarted, and whoever
//! was connected comes anew.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Time;
use crate::limits::{EVENTS_UNTOLD_MAX, LIMITS_TOLD_MAX, PRIORITY_DEFAULT};
use crate::log::Ticket;
use crate::mail::{MessageHeader, PublishMessage};
use crate::message::event_message;
use crate::queue::fanout::{Asker, Judged, Topical};
use crate::queue::queues::NamespaceId;
use crate::queue::record::Reason;
use crate::queue::{Brain, Turn};
use crate::telemetry::LimitKind;

/// Who comes and goes.
const PRESENCE: &str = "$sys.presence";
/// Which limits are reached.
const LIMITS: &str = "$sys.limits";
/// Between two events of one limit of one queue.
const LIMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Tells that dead letters of a queue begin to grow.
const DEAD: &str = "$sys.dead";
/// They begin to grow when none came for so long.
const GROWS_ANEW: Duration = Duration::from_secs(60);

/// One event.
#[derive(Debug)]
struct Event {
    namespace: NamespaceId,
    topic: &'static str,
    /// The encoded message.
    body: Vec<u8>,
}

/// What is to be told, and was.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Of this call; at most [`EVENTS_UNTOLD_MAX`].
    untold: Vec<Event>,
    limits_told: LimitsTold,
}

/// When each limit of a queue was last told of; at most [`LIMITS_TOLD_MAX`].
#[derive(Debug, Default)]
struct LimitsTold(HashMap<(NamespaceId, Box<str>, &'static str), Time>);

impl LimitsTold {
    /// Whether it is to be told now.
    fn is_news(&mut self, namespace: NamespaceId, queue: &str, limit: &'static str, now: Time) -> bool {
        let is_recent = |told: Time| told + LIMIT_INTERVAL > now;
        let key = (namespace, queue.into(), limit);
        if self.0.get(&key).is_some_and(|&told| is_recent(told)) {
            return false;
        }
        if self.0.len() >= LIMITS_TOLD_MAX {
            self.0.retain(|_, told| is_recent(*told));
        }
        let has_room = self.0.len() < LIMITS_TOLD_MAX;
        if has_room {
            self.0.insert(key, now);
        }
        has_room
    }
}

impl Brain {
    /// Has who listens to a system topic of this tenant told at the end of this call; costs nothing when nobody does.
    pub(super) fn system_event(
        &mut self,
        namespace: NamespaceId,
        topic: &'static str,
        attributes: &[(&str, &str)],
    ) {
        if !self.has_system_listener(namespace) {
            return;
        }
        if self.events.untold.len() >= EVENTS_UNTOLD_MAX {
            self.metrics.system_events_refused.inc();
            return;
        }
        let payload: serde_json::Map<String, serde_json::Value> =
            attributes.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
        let body = event_message(attributes, serde_json::Value::from(payload).to_string().as_bytes());
        self.events.untold.push(Event { namespace, topic, body });
        self.metrics.events_untold.set(self.events.untold.len() as u64);
    }

    /// Tells what came up, if that is much, between two steps of a call: nothing is being looked at.
    #[inline]
    pub(super) fn tell_many_events(&mut self, turn: &mut Turn<'_>) {
        if self.events.untold.len() >= EVENTS_UNTOLD_MAX / 2 {
            self.tell_events(turn);
        }
    }

    /// Tells what came up in this call. Returns whether that was anything.
    pub(super) fn tell_events(&mut self, turn: &mut Turn<'_>) -> bool {
        let untold = std::mem::take(&mut self.events.untold);
        if untold.is_empty() {
            return false;
        }
        self.metrics.events_untold.set(0);
        untold.iter().for_each(|event| self.tell_event(event, turn));
        true
    }

    fn tell_event(&mut self, event: &Event, turn: &mut Turn<'_>) {
        let &Event { namespace, topic, ref body } = event;
        let header = MessageHeader { priority: PRIORITY_DEFAULT, ..MessageHeader::default() };
        let messages = [PublishMessage { header, body_len: body.len() as u32 }];
        let topical = Topical { namespace, topic, messages: &messages, bodies: body };
        let wanted = self.bindings.wanted(namespace, topic, &messages, body);
        let told =
            match wanted.and_then(|wanted| self.judge_fanout(topical, None, wanted, Asker::System, turn)) {
                Ok(Judged::Admitted(admitted)) => self.hand_on(topical, None, admitted, turn).map(drop),
                // Where nothing can be kept, who is connected hears of it all the same.
                Ok(Judged::Waits(..)) | Err(_) => {
                    self.broadcast(namespace, topic, &messages, body, Ticket::DURABLE, turn).map(drop)
                }
            };
        // As many broadcasts as may be are on their way: this one is missed.
        if told.is_err() {
            self.metrics.system_events_refused.inc();
        }
    }

    /// Whether anything of this tenant is subscribed to a system topic, or bound to one.
    pub(super) fn has_system_listener(&self, namespace: NamespaceId) -> bool {
        self.topics.has_system(namespace) || self.bindings.has_system(namespace)
    }

    /// The server is back: nobody is connected any more.
    pub(super) fn tell_restarted(&mut self) {
        for namespace in self.bindings.with_system() {
            self.system_event(namespace, PRESENCE, &[("event", "restarted")]);
        }
    }

    /// A client came or went.
    pub(super) fn presence(&mut self, client: u32, event: &str, reason: &str) {
        let entry = self.directory.at(client);
        let namespace = entry.namespace;
        if self.has_system_listener(namespace) {
            let name = entry.name.as_str().to_owned();
            let attributes = [("event", event), ("client", name.as_str()), ("reason", reason)];
            self.system_event(namespace, PRESENCE, &attributes);
        }
    }

    /// A message of this queue died: told if it is the first one in a while.
    pub(super) fn tell_growing(&mut self, queue: u32, reason: Reason, turn: &mut Turn<'_>) {
        let now = turn.now.time;
        let entry = self.queues.at_mut(queue);
        let last = std::mem::replace(&mut entry.last_death, now);
        if last != Time(0) && now < last + GROWS_ANEW {
            return;
        }
        let (namespace, name, dead) = (entry.namespace, entry.name.clone(), entry.dead.len());
        let attributes = [
            ("event", "dead_letters_growing"),
            ("queue", &*name),
            ("reason", reason.as_str()),
            ("dead", &dead.to_string()),
            ("at_unix_ms", &turn.now.wall.0.to_string()),
        ];
        self.system_event(namespace, DEAD, &attributes);
    }

    /// A limit held up a publish or a delivery, or refused it, and this came of it. Called each time; `queue` is the one it
    /// is about.
    pub(super) fn limit_reached(
        &mut self,
        queue: u32,
        limit: LimitKind,
        outcome: &'static str,
        turn: &mut Turn<'_>,
    ) {
        self.metrics.limits_reached[limit as usize].inc();
        let entry = self.queues.at(queue);
        let namespace = entry.namespace;
        if self.has_system_listener(namespace) {
            let name = entry.name.clone();
            self.tell_limit(namespace, &name, limit.as_str(), outcome, turn.now.time);
        }
    }

    /// A publish to this queue or topic was refused because the disk is full.
    pub(super) fn disk_limit_reached(&mut self, namespace: NamespaceId, name: &str, now: Time) {
        if self.has_system_listener(namespace) {
            self.tell_limit(namespace, name, "disk_full", "refused", now);
        }
    }

    fn tell_limit(
        &mut self,
        namespace: NamespaceId,
        queue: &str,
        limit: &'static str,
        outcome: &'static str,
        now: Time,
    ) {
        if self.events.limits_told.is_news(namespace, queue, limit, now) {
            self.metrics.limits_told.set(self.events.limits_told.0.len() as u64);
            let attributes = [("limit", limit), ("queue", queue), ("outcome", outcome)];
            self.system_event(namespace, LIMITS, &attributes);
        }
    }
}
