//! Bindings of topics to queues and mailboxes, as operators speak of them.

use serde::{Deserialize, Serialize};

use crate::ids::QueueName;

/// What an operator binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingSpec {
    /// Its name, unique in its namespace; without one it is made of the pattern and the queue.
    pub name: Option<String>,
    /// Names of topics, with wildcards.
    pub pattern: String,
    /// Which of their messages, by attributes; empty for all.
    pub filter: String,
    /// The queue or mailbox that gets them.
    pub to: QueueName,
    /// `None` for the default: a queue is waited for, a mailbox is not.
    pub when_full: Option<TargetFull>,
}

/// What becomes of a publish to a topic when a queue that it is bound to has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetFull {
    /// What the queue's own `when_full` says becomes of all of it: it waits, or is refused, for every subscriber.
    Wait,
    /// This queue misses it, the others do not.
    Drop,
}

/// One binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BindingRow {
    /// Its name.
    pub name: String,
    /// Names of topics, with wildcards.
    pub pattern: String,
    /// Which of their messages; empty for all.
    pub filter: String,
    /// The queue or mailbox that gets them.
    pub to: String,
    /// What becomes of a publish that it has no room for.
    pub when_full: TargetFull,
    /// Messages it put on its queue since the server started or it was bound.
    pub taken: u64,
    /// Messages its queue missed in that time because it was full.
    pub dropped: u64,
}
