//! What an operator asks of a shard, and what it answers.

use serde::Serialize;

use crate::clock::Wall;
use crate::host::DiskState;
use crate::ids::{MessageId, Namespace, QueueName, ScheduleName};
use crate::mail::{BindingRow, BindingSpec, MessageHeader, Refused, ScheduleRow, ScheduleSpec};

/// A request of the operator API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorRequest {
    /// Publishes one message. Answered with `Published` once durable; when `queue` is a topic with `Broadcasted`, once
    /// durable where a binding took it; or with `Refused`. Never parked.
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
    /// Binds topics to a queue, in place of the binding of the same name. Answered with `Bindings` of one row once durable.
    Bind {
        /// The tenant.
        namespace: Namespace,
        /// What is bound.
        binding: BindingSpec,
    },
    /// Ends a binding. Answered with `Changed`, of 0 when there is none of this name, once durable.
    Unbind {
        /// The tenant.
        namespace: Namespace,
        /// Which.
        name: String,
    },
    /// The bindings of a namespace. Answered with `Bindings`.
    Bindings {
        /// The tenant.
        namespace: Namespace,
        /// Names after this one, in order.
        after: Option<String>,
        /// At most this many.
        limit: usize,
    },
    /// Adds a schedule, or replaces the one of its name, of which nothing is remembered; one that is the same stays as it
    /// is. Answered with `Schedules` of one row once durable.
    ScheduleAdd {
        /// The tenant.
        namespace: Namespace,
        /// What it is to be.
        schedule: Box<ScheduleSpec>,
    },
    /// Forgets a schedule. Answered with `Changed` once durable.
    ScheduleRemove {
        /// The tenant.
        namespace: Namespace,
        /// Which.
        name: ScheduleName,
    },
    /// Pauses a schedule, or resumes it; what came due meanwhile is not missed. Answered with `Schedules` of one row, once
    /// durable, or none.
    SchedulePause {
        /// The tenant.
        namespace: Namespace,
        /// Which.
        name: ScheduleName,
        /// Pause, or resume.
        is_paused: bool,
    },
    /// The schedules of a namespace. Answered with `Schedules`.
    Schedules {
        /// The tenant.
        namespace: Namespace,
        /// Names after this one, in order.
        after: Option<String>,
        /// At most this many.
        limit: usize,
    },
    /// One schedule with its message. Answered with `Schedules` of one row or none.
    ScheduleShow {
        /// The tenant.
        namespace: Namespace,
        /// Which.
        name: ScheduleName,
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
    /// Dead letters, oldest id first, without payloads. Answered with `DeadPage`.
    DeadList {
        /// The tenant.
        namespace: Namespace,
        /// Which queue; `None` for all.
        queue: Option<QueueName>,
        /// Which of them.
        filter: DeadFilter,
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
    /// One message with its body, whether it waits, is worked on or is dead. Answered with `Message`.
    MessageShow {
        /// The tenant.
        namespace: Namespace,
        /// Which queue.
        queue: QueueName,
        /// Which message.
        id: MessageId,
    },
    /// Puts dead letters back, ready, with their attempts anew. Answered with `Changed` once durable; with a rate at once,
    /// with `Jobs` of one row, and goes on until it is done, cancelled or ended by a restart.
    DeadRedrive {
        /// The tenant.
        namespace: Namespace,
        /// The queue they died in.
        queue: QueueName,
        /// Which of them.
        selection: DeadSelection,
        /// Another queue to put them in.
        to: Option<QueueName>,
        /// At most so many a second.
        per_s: Option<u64>,
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
    /// Redrives and purges under way, and those that ended last. Answered with `Jobs`.
    DeadJobs {
        /// The tenant.
        namespace: Namespace,
    },
    /// Ends a redrive or a purge; what it did stays. Answered with `Jobs` of one row, or none when it is not under way.
    DeadCancel {
        /// The tenant.
        namespace: Namespace,
        /// Its number.
        job: u64,
    },
}

impl OperatorRequest {
    /// Whom it concerns; `None` where it concerns all namespaces.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Publish { namespace, .. }
            | Self::Queues { namespace, .. }
            | Self::Stats { namespace, .. }
            | Self::QueueSet { namespace, .. }
            | Self::QueueSettings { namespace, .. }
            | Self::Bind { namespace, .. }
            | Self::Unbind { namespace, .. }
            | Self::Bindings { namespace, .. }
            | Self::ScheduleAdd { namespace, .. }
            | Self::ScheduleRemove { namespace, .. }
            | Self::SchedulePause { namespace, .. }
            | Self::Schedules { namespace, .. }
            | Self::ScheduleShow { namespace, .. }
            | Self::NamespaceSet { namespace, .. }
            | Self::NamespaceSettings { namespace, .. }
            | Self::DeadList { namespace, .. }
            | Self::DeadShow { namespace, .. }
            | Self::MessageShow { namespace, .. }
            | Self::DeadRedrive { namespace, .. }
            | Self::DeadPurge { namespace, .. }
            | Self::DeadJobs { namespace, .. }
            | Self::DeadCancel { namespace, .. } => Some(namespace),
            Self::Namespaces | Self::Disk { .. } => None,
        }
    }
}

/// Which dead letters of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadSelection {
    /// All of them.
    All,
    /// One.
    One(MessageId),
    /// These.
    Ids(Vec<MessageId>),
    /// Those that a filter lets through.
    Matching(DeadFilter),
}

/// Which dead letters are looked for: those that are all of what is said here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadFilter {
    /// One of [`DEAD_REASONS`].
    pub reason: Option<String>,
    /// Died then or later.
    pub since: Option<Wall>,
    /// Died earlier.
    pub until: Option<Wall>,
    /// Has an attribute of this name and value.
    pub attribute: Option<(String, String)>,
    /// Has this in an error, or in the name of a client, of its history.
    pub text: Option<String>,
}

impl DeadFilter {
    /// Whether every dead letter passes.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// What the shard answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorReply {
    /// The message is on disk.
    Published(MessageId),
    /// The message was handed to so many subscriptions of its topic, queues that it is bound to included.
    Broadcasted(u64),
    /// Names of namespaces.
    Namespaces(Vec<String>),
    /// Rows of queues, in order of their names.
    Queues(Vec<QueueStats>),
    /// The settings of a queue.
    Settings(Vec<SettingRow>),
    /// Bindings, in order of their names.
    Bindings(Vec<BindingRow>),
    /// Rows of schedules, in order of their names.
    Schedules(Vec<ScheduleRow>),
    /// The bounds of a namespace, and what it holds.
    Namespace(Vec<SettingRow>, NamespaceStats),
    /// A message, if the queue has it.
    Message(Option<Box<MessageRow>>),
    /// A dead letter, or none.
    Dead(Vec<DeadLetter>),
    /// Rows of dead letters.
    DeadPage {
        /// Oldest id first.
        rows: Vec<DeadLetter>,
        /// There may be more after this one.
        next: Option<MessageId>,
    },
    /// Rows of redrives and purges, by number.
    Jobs(Vec<DeadJobRow>),
    /// How many dead letters were changed.
    Changed(u64),
    /// The request was refused.
    Refused(Refused),
}

impl OperatorReply {
    /// What two shards answered to the same request: all names and counts together, and a refusal where there is one.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Namespaces(mut names), Self::Namespaces(others)) => {
                names.extend(others);
                Self::Namespaces(names)
            }
            (Self::Changed(count), Self::Changed(others)) => Self::Changed(count + others),
            (_, Self::Refused(refused)) => Self::Refused(refused),
            (own, _) => own,
        }
    }
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

/// Why messages die: their attempts were used up, their time to live passed, they made room for others, a consumer refused
/// them for good, or the queue they were to go to never has room for one of their size.
pub const DEAD_REASONS: [&str; 5] = ["attempts", "expired", "overflow", "rejected", "too_large"];

/// A message as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MessageRow {
    /// Its id.
    pub id: u64,
    /// The queue it is in.
    pub queue: String,
    /// `ready`, `scheduled`, `leased`, `blocked` or `dead`, as the numbers of its queue count it.
    pub state: &'static str,
    /// When it is due, if it is scheduled, in milliseconds since 1970.
    pub due_unix_ms: Option<u64>,
    /// Who works on it, if it is leased.
    pub client: Option<String>,
    /// Since when, in milliseconds since 1970.
    pub leased_unix_ms: Option<u64>,
    /// What the last attempt that failed said, empty when it said nothing.
    pub last_error: String,
    /// How many attempts count, one under way included.
    pub attempts: u32,
    /// Milliseconds since 1970.
    pub published_unix_ms: u64,
    /// When its time to live ends, in milliseconds since 1970; it does not while it is leased or dead.
    pub expires_unix_ms: Option<u64>,
    /// Bytes of the encoded message.
    pub bytes: u64,
    /// Failed attempts before those of `history`, which were not kept.
    pub history_left_out: u32,
    /// The last attempts that failed, oldest first, at most [`crate::limits::HISTORY_MAX`].
    pub history: Vec<FailedAttempt>,
    /// The encoded `Message`.
    #[serde(skip)]
    pub body: Vec<u8>,
}

/// A message that died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Its id, which a redrive keeps.
    pub id: u64,
    /// The queue it died in.
    pub queue: String,
    /// One of [`DEAD_REASONS`].
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
    /// Attempts before those of `history`, which were not kept.
    pub history_left_out: u32,
    /// The last attempts, oldest first, at most [`crate::limits::HISTORY_MAX`].
    pub history: Vec<FailedAttempt>,
    /// The encoded `Message`, in answer to `DeadShow` only.
    #[serde(skip)]
    pub body: Option<Vec<u8>>,
}

/// A redrive or a purge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadJobRow {
    /// Its number, from 1 after each start.
    pub job: u64,
    /// `redrive` or `purge`.
    pub action: &'static str,
    /// The queue with the dead letters.
    pub queue: String,
    /// Where they go.
    pub to: Option<String>,
    /// Its rate, in dead letters a second.
    pub per_s: Option<u64>,
    /// `under way`, `done`, `stopped` or `cancelled`.
    pub state: &'static str,
    /// Why it stopped.
    pub text: String,
    /// Dead letters of the queue when it began.
    pub dead: u64,
    /// So many it has moved.
    pub changed: u64,
    /// So many never fit the queue they were to go to.
    pub too_large: u64,
    /// Milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Milliseconds since 1970.
    pub ended_unix_ms: Option<u64>,
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedAttempt {
    /// Which, from 1.
    pub attempt: u32,
    /// The client that held the lease.
    pub client: String,
    /// When it failed, or was found to have failed, milliseconds since 1970.
    pub failed_unix_ms: u64,
    /// How long the lease had lasted, in milliseconds; `None` where a restart cut the attempt short.
    pub lasted_ms: Option<u64>,
    /// What it said, or that the lease expired.
    pub error: String,
}
