//! What a shard's brain may be told: bounds and the defaults of queues.

use std::collections::BTreeMap;
use std::time::Duration;

pub use crate::config::WhenFull;
use crate::ids::ShardId;
use crate::limits;

/// What becomes of an ordering key whose first message died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadHead {
    /// The next one of the key is ready.
    Release,
    /// The key waits until the dead letter is redriven, and then comes first, or purged.
    Hold,
}

/// The rules of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRules {
    /// Messages that wait or are worked on; and, apart from them, dead letters, unless `dead_messages_max` says otherwise.
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
    /// The first retry delay.
    pub backoff_initial: Duration,
    /// Each further retry delay as a part of the one before, in percent: [`limits::BACKOFF_FACTOR_PERCENT`].
    pub backoff_factor_percent: u32,
    /// The longest retry delay, before jitter.
    pub backoff_max: Duration,
    /// A retry delay is lengthened by a random part of up to this many percent.
    pub backoff_jitter_percent: u32,
    /// Each time a ready message has waited so long since it was published it counts one priority more; `None` for never.
    pub ageing: Option<Duration>,
    /// What becomes of an ordering key whose first message died.
    pub dead_head: DeadHead,
    /// Messages leased at once.
    pub leased_max: u64,
    /// Messages published a second; `None` for no bound.
    pub publish_per_s: Option<u64>,
    /// Messages delivered a second; `None` for no bound.
    pub deliver_per_s: Option<u64>,
    /// Dead letters, of which the one that is dead for longest is forgotten first; `None` for `messages_max`.
    pub dead_messages_max: Option<u64>,
    /// Bytes of them, likewise; `None` for `bytes_max`.
    pub dead_bytes_max: Option<u64>,
    /// How long a dead letter is kept; `None` until it is redriven or purged, or there are too many.
    pub dead_ttl: Option<Duration>,
    /// How long a deduplication id is remembered.
    pub dedup_window: Duration,
    /// Deduplication ids remembered at once; beyond it a publish with another one is refused.
    pub dedup_ids_max: u64,
    /// Deliveries in one turn of a fairness key that is not named here, 1, or is: 1 to [`limits::WEIGHT_MAX`].
    pub weights: BTreeMap<Box<str>, u32>,
}

/// The bounds of a namespace, over all of its queues and mailboxes; `None` for no bound. And its weight beside others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NamespaceRules {
    /// Messages that wait or are worked on; dead letters have the bounds of their queues.
    pub messages_max: Option<u64>,
    /// Bytes of their encoded messages.
    pub bytes_max: Option<u64>,
    /// Messages leased at once.
    pub leased_max: Option<u64>,
    /// Messages published a second.
    pub publish_per_s: Option<u64>,
    /// Messages delivered a second.
    pub deliver_per_s: Option<u64>,
    /// Its share of what the shard delivers while others have messages too, 1 to [`limits::WEIGHT_MAX`]; `None` for 1.
    pub weight: Option<u64>,
}

/// The bounds of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Which shard it is.
    pub shard: ShardId,
    /// Rules of a work queue.
    pub work_queue: QueueRules,
    /// Rules of a mailbox. It rejects when full: a device may be away for days, and whoever pushes to it needs the
    /// answer now.
    pub mailbox: QueueRules,
    /// Rules of a namespace.
    pub namespace: NamespaceRules,
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
    /// Bytes of deliveries on their way to a connection before its loop is to say that it takes more; a mebibyte or more for
    /// no bound.
    pub delivery_room_bytes: u32,
    /// Largest encoded message of a topic, in bytes: one that is delivered in one frame.
    pub broadcast_bytes_max: usize,
    /// Dead letters that a redrive or a purge moves before others have their turn.
    pub operator_slice: usize,
    /// What a client that was refused for want of room is asked to wait.
    pub full_retry: Duration,
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
            backoff_factor_percent: limits::BACKOFF_FACTOR_DEFAULT_PERCENT,
            backoff_max: limits::BACKOFF_MAX,
            backoff_jitter_percent: limits::BACKOFF_JITTER_PERCENT,
            ageing: None,
            dead_head: DeadHead::Release,
            leased_max: u64::MAX,
            publish_per_s: None,
            deliver_per_s: None,
            dead_messages_max: None,
            dead_bytes_max: None,
            dead_ttl: None,
            dedup_window: limits::DEDUP_WINDOW,
            dedup_ids_max: limits::DEDUP_IDS_MAX,
            weights: BTreeMap::new(),
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
            shard: ShardId(0),
            work_queue: QueueRules::work_queue(),
            mailbox: QueueRules::mailbox(),
            namespace: NamespaceRules::default(),
            sessions_max: 4_000_000,
            grace: limits::GRACE,
            namespaces_max: limits::NAMESPACES_MAX,
            queues_per_namespace_max: limits::QUEUES_PER_NAMESPACE_MAX,
            mailboxes_per_namespace_max: limits::MAILBOXES_PER_NAMESPACE_MAX,
            producers_per_namespace_max: limits::PRODUCERS_PER_NAMESPACE_MAX,
            parked_bytes_per_namespace_max: limits::PARKED_BYTES_PER_NAMESPACE_MAX,
            body_memory_bytes_max: limits::BODY_MEMORY_BYTES_MAX,
            ids_ahead: 0,
            reads_max: 1024,
            delivery_room_bytes: limits::DELIVERY_ROOM_BYTES,
            broadcast_bytes_max: limits::FRAME_BYTES_MAX - limits::FRAME_OVERHEAD_BYTES,
            operator_slice: limits::OPERATOR_SLICE,
            full_retry: limits::QUEUE_FULL_RETRY,
        }
    }
}
