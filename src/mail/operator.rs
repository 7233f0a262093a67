//! What an operator asks of a shard, and what it answers.

use serde::Serialize;

use crate::host::DiskState;
use crate::ids::{MessageId, Namespace, QueueName};
use crate::mail::{MessageHeader, Refused};

/// A request of the operator API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorRequest {
    /// Publishes one message. Answered with `Published` once durable, with `Broadcasted` when `queue` is a topic, or
    /// with `Refused`. Never parked.
    Publish {
        /// The tenant.
        namespace: Namespace,
        /// Where to.
        queue: QueueName,
        /// What the queue needs to know of it.
        header: MessageHeader,
        /// The encoded `Message`.
        body: Vec<u8>,
    },
    /// The names of all namespaces that were ever used since the start, in no order.
    Namespaces,
    /// The queues of a namespace that hold something or are consumed, mailboxes included when asked for.
    Queues {
        /// The tenant.
        namespace: Namespace,
        /// Include mailboxes.
        mailboxes: bool,
        /// Names after this one, in order.
        after: Option<String>,
        /// At most this many.
        limit: usize,
    },
    /// One queue. Answered with `Queues` of one row; a queue that does not exist has zeroes.
    Stats {
        /// The tenant.
        namespace: Namespace,
        /// Which.
        queue: QueueName,
    },
    /// Sets what a queue has of its own, all of the changes or none. Answered with `Settings` once durable.
    QueueSet {
        /// The tenant.
        namespace: Namespace,
        /// Which.
        queue: QueueName,
        /// Keys and their values; `None` goes back to the configuration's.
        changes: Vec<(String, Option<String>)>,
    },
    /// Every setting of a queue. Answered with `Settings`.
    QueueSettings {
        /// The tenant.
        namespace: Namespace,
        /// Which.
        queue: QueueName,
    },
    /// Sets the bounds of a namespace, all of the changes or none. Answered with `Namespace` once durable.
    NamespaceSet {
        /// The tenant.
        namespace: Namespace,
        /// Keys and their values; `None` goes back to the configuration's.
        changes: Vec<(String, Option<String>)>,
    },
    /// The bounds of a namespace and what it holds. Answered with `Namespace`.
    NamespaceSettings {
        /// The tenant.
        namespace: Namespace,
    },
    /// Says how much of the disk is free now. Answered with `Changed`.
    Disk {
        /// Which mark it is below.
        state: DiskState,
        /// What a client is told that is refused for it.
        text: String,
    },
    /// Dead letters of a queue, oldest id first, without payloads.
    DeadList {
        /// The tenant.
        namespace: Namespace,
        /// Which queue.
        queue: QueueName,
        /// Ids after this one.
        after: Option<MessageId>,
        /// At most this many.
        limit: usize,
    },
    /// One dead letter with its body. Answered with `Dead` of one row or none.
    DeadShow {
        /// The tenant.
        namespace: Namespace,
        /// Which queue.
        queue: QueueName,
        /// Which message.
        id: MessageId,
    },
    /// Puts dead letters back, ready, with their attempts anew. Answered with `Changed` once durable.
    DeadRedrive {
        /// The tenant.
        namespace: Namespace,
        /// The queue they died in.
        queue: QueueName,
        /// Which of them.
        selection: DeadSelection,
        /// Another queue to put them in.
        to: Option<QueueName>,
    },
    /// Forgets dead letters. Answered with `Changed` once durable.
    DeadPurge {
        /// The tenant.
        namespace: Namespace,
        /// The queue they died in.
        queue: QueueName,
        /// Which of them.
        selection: DeadSelection,
    },
}

/// Which dead letters of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadSelection {
    /// All of them.
    All,
    /// One.
    One(MessageId),
}

/// What the shard answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorReply {
    /// The message is on disk.
    Published(MessageId),
    /// The message was handed to so many subscriptions of its topic.
    Broadcasted(u64),
    /// Names of namespaces.
    Namespaces(Vec<String>),
    /// Rows of queues, in order of their names.
    Queues(Vec<QueueStats>),
    /// The settings of a queue.
    Settings(Vec<SettingRow>),
    /// The bounds of a namespace, and what it holds.
    Namespace(Vec<SettingRow>, NamespaceStats),
    /// Rows of dead letters.
    Dead(Vec<DeadLetter>),
    /// How many dead letters were changed.
    Changed(u64),
    /// The request was refused.
    Refused(Refused),
}

/// One queue in numbers; by default those of one that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct QueueStats {
    /// Its name.
    pub queue: String,
    /// Messages a consumer could have now.
    pub ready: u64,
    /// Messages that wait for their time: delayed or to be retried.
    pub scheduled: u64,
    /// Messages being worked on.
    pub leased: u64,
    /// Messages that wait for another of their ordering key.
    pub blocked: u64,
    /// Dead letters.
    pub dead: u64,
    /// Bytes of encoded messages, dead letters included.
    pub bytes: u64,
    /// Publishes that wait for room.
    pub parked: u64,
    /// Subscriptions of connected clients.
    pub consumers: u64,
    /// Age of the oldest ready message, in milliseconds; 0 when none is ready.
    pub oldest_ready_age_ms: u64,
}

/// What a namespace holds, all of its queues and mailboxes together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NamespaceStats {
    /// Messages that wait or are worked on.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those worked on.
    pub leased: u64,
    /// Bytes of publishes that wait for room.
    pub parked_bytes: u64,
    /// Work queues.
    pub queues: u64,
    /// Mailboxes that hold something.
    pub mailboxes: u64,
}

/// One setting of a queue or a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingRow {
    /// Its name.
    pub key: String,
    /// Its value, as it may be given.
    pub value: String,
    /// It was set for this queue or namespace; otherwise it is the configuration's.
    pub is_own: bool,
    /// What it is for.
    pub about: &'static str,
}

/// A message that died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Its id, which a redrive keeps.
    pub id: u64,
    /// The queue it died in.
    pub queue: String,
    /// `attempts`, `expired`, `overflow` or `rejected`.
    pub reason: &'static str,
    /// What the last attempt said, empty when it said nothing.
    pub last_error: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// Milliseconds since 1970.
    pub published_unix_ms: u64,
    /// Milliseconds since 1970.
    pub died_unix_ms: u64,
    /// Bytes of the encoded message.
    pub bytes: u64,
    /// The last attempts, oldest first, at most [`crate::limits::HISTORY_MAX`].
    pub history: Vec<FailedAttempt>,
    /// The encoded `Message`, in answer to `DeadShow` only.
    #[serde(skip)]
    pub body: Option<Vec<u8>>,
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedAttempt {
    /// Which, from 1.
    pub attempt: u32,
    /// The client that held the lease.
    pub client: String,
    /// When it failed, milliseconds since 1970.
    pub failed_unix_ms: u64,
    /// What it said, or that the lease expired.
    pub error: String,
}
