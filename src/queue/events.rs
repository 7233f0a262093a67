//! What the brain itself tells on topics of a namespace: `topic/$sys.…`, to which nobody else publishes.
//!
//! An event is a message without a payload, told once to whoever is subscribed at that moment. Nothing waits for it: one
//! that its topic has no room for is counted and forgotten.

use std::time::Duration;

use crate::clock::Time;
use crate::mail::{MessageHeader, PublishMessage, RefusalCode, Refused};
use crate::message::attributes_only;
use crate::queue::queues::NamespaceId;
use crate::queue::record::Reason;
use crate::queue::{Brain, Turn, refused};

/// What the name of every topic of the system starts with.
const PREFIX: &str = "$sys.";
/// Tells that dead letters of a queue begin to grow.
const DEAD: &str = "$sys.dead";
/// They begin to grow when none came for so long.
const GROWS_ANEW: Duration = Duration::from_secs(60);

/// Nobody but the brain publishes to topics of the system.
pub(super) fn check_is_for_users(topic: &str) -> Result<(), Refused> {
    if !topic.starts_with(PREFIX) {
        return Ok(());
    }
    let text =
        format!("topic/{topic} is the server's own: subscribe to it; choose a name without {PREFIX:?}");
    Err(refused(RefusalCode::Invalid, text, 0))
}

impl Brain {
    /// Tells an event on a topic of a namespace.
    pub(super) fn system_event(
        &mut self,
        namespace: NamespaceId,
        topic: &str,
        attributes: &[(&str, &str)],
        turn: &mut Turn<'_>,
    ) {
        let body = attributes_only(attributes);
        let message = PublishMessage { header: MessageHeader::default(), body_len: body.len() as u32 };
        if self.broadcast(namespace, topic, &[message], &body, turn).is_err() {
            self.metrics.system_events_refused.inc();
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
        self.system_event(namespace, DEAD, &attributes, turn);
    }
}
