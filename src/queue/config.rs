//! What a shard's brain may be told: bounds and the defaults of queues.

use std::time::Duration;

use crate::limits;

/// What happens to a publish that does not fit its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It stays unanswered until there is room.
    Wait,
    /// It is refused with `QueueFull`.
    Reject,
}

/// The rules of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRules {
    /// Messages that wait or are worked on; and, apart from them, dead letters, of which the oldest goes.
    pub messages_max: u64,
    /// Bytes of their encoded messages, counted likewise.
    pub bytes_max: u64,
    /// What happens to a publish beyond either.
    pub when_full: WhenFull,
    /// How long a message that names no ttl may wait; `None` for ever.
    pub ttl: Option<Duration>,
    /// Attempts at a message that names no number of its own, 1 to [`limits::ATTEMPTS_MAX`].
    pub attempts_max: u32,
    /// How long a lease lasts.
    pub lease: Duration,
    /// The first retry delay; each further one doubles.
    pub backoff_initial: Duration,
    /// The longest retry delay, before jitter.
    pub backoff_max: Duration,
}

/// The bounds of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Rules of a work queue.
    pub work_queue: QueueRules,
    /// Rules of a mailbox. It rejects when full: a device may be away for days, and whoever pushes to it needs the
    /// answer now.
    pub mailbox: QueueRules,
    /// Sessions, in their grace period or connected.
    pub sessions_max: usize,
    /// How long a session outlives its connection.
    pub grace: Duration,
    /// Namespaces of the shard.
    pub namespaces_max: usize,
    /// Work queues of one namespace.
    pub queues_per_namespace_max: usize,
    /// Mailboxes of one namespace that hold something.
    pub mailboxes_per_namespace_max: usize,
    /// Producers of one namespace whose marks are kept.
    pub producers_per_namespace_max: usize,
    /// Bytes of parked publishes of one namespace before its producers are not read any more and what its consumers
    /// publish is refused.
    pub parked_bytes_per_namespace_max: u64,
    /// Bytes of bodies kept in memory; beyond it they are read back from the log.
    pub body_memory_bytes_max: u64,
    /// How far ahead of the ids in use the log says that they are: what is lost with a power loss, as far as the log's
    /// durability allows it, leaves no id behind that is given again.
    pub ids_ahead: u64,
    /// Bodies being read back at once for deliveries.
    pub reads_max: usize,
    /// Largest encoded message of a topic, in bytes: one that is delivered in one frame.
    pub broadcast_bytes_max: usize,
    /// Dead letters that a redrive or a purge moves before others have their turn.
    pub operator_slice: usize,
    /// What a client that was refused for want of room is asked to wait.
    pub full_retry: Duration,
    /// A retry delay is lengthened by a random part of up to this many percent.
    pub backoff_jitter_percent: u32,
}

impl QueueRules {
    fn work_queue() -> Self {
        Self {
            messages_max: limits::QUEUE_MESSAGES_MAX,
            bytes_max: limits::QUEUE_BYTES_MAX,
            when_full: WhenFull::Wait,
            ttl: None,
            attempts_max: limits::ATTEMPTS,
            lease: limits::LEASE,
            backoff_initial: limits::BACKOFF_INITIAL,
            backoff_max: limits::BACKOFF_MAX,
        }
    }

    fn mailbox() -> Self {
        Self {
            messages_max: limits::MAILBOX_MESSAGES_MAX,
            bytes_max: limits::MAILBOX_BYTES_MAX,
            when_full: WhenFull::Reject,
            ttl: Some(limits::MAILBOX_TTL),
            ..Self::work_queue()
        }
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            work_queue: QueueRules::work_queue(),
            mailbox: QueueRules::mailbox(),
            sessions_max: 4_000_000,
            grace: limits::GRACE,
            namespaces_max: limits::NAMESPACES_MAX,
            queues_per_namespace_max: limits::QUEUES_PER_NAMESPACE_MAX,
            mailboxes_per_namespace_max: limits::MAILBOXES_PER_NAMESPACE_MAX,
            producers_per_namespace_max: limits::PRODUCERS_PER_NAMESPACE_MAX,
            parked_bytes_per_namespace_max: limits::PARKED_BYTES_PER_NAMESPACE_MAX,
            body_memory_bytes_max: limits::BODY_MEMORY_BYTES_MAX,
            ids_ahead: 0,
            reads_max: 256,
            broadcast_bytes_max: limits::FRAME_BYTES_MAX - limits::FRAME_OVERHEAD_BYTES,
            operator_slice: limits::OPERATOR_SLICE,
            full_retry: limits::QUEUE_FULL_RETRY,
            backoff_jitter_percent: limits::BACKOFF_JITTER_PERCENT,
        }
    }
}
