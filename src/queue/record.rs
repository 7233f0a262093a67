//! What the brain writes to the log, byte by byte.
//!
//! The first byte is the record's kind in the low 5 bits and the layout's version above them: 1, or 2 where it says so.
//! `v` is an unsigned
//! LEB128 varint, `text` a `v` length and that many bytes of UTF-8. Times are shard [`Time`], walls ms since 1970.
//!
//! ```text
//!  1 boot      v boot
//!  2 clock     v time, v wall, v next message id
//!  3 publish   v time, v wall, v first id, text namespace, text queue, u64le producer (0: none)
//!              [v sequence, v unanswered from], v count            <- the head; the producer's mark needs it
//!              count × (u8 priority | options, v body length, [v delay] [v due wall] [v ttl] [v attempts max])
//!              count × body
//!            version 2, for what few publishes have:
//!              u8 parts (1 acks, 2 schedule, 4 targets, 8 dedup), and behind the producer, each if its bit is set:
//!              [v count, count × v message] [text schedule, v fired wall]
//!              [v targets, targets × (text queue, v ttl, v window)] [v window];
//!              behind v count, if there are targets, targets × count × u8: 1 the message goes there;
//!              and if there are targets and dedup, targets × count × u8: 1 its id is remembered there;
//!              behind each u8 priority | options a u8: 1 the message has options
//!  4 leased    v count, count × (v message, v attempt)             boot: that of the last boot record; version 2, for
//!              compaction may move that: v boot, then as version 1
//!  5 done      v count, count × v message                          acked or purged
//!  6 failed    v message, v attempt, v wall, u8 next (0 ready, 1 scheduled, 2 dead, 3 dead and holds its ordering key),
//!              v argument (time or reason),
//!              text client, text error; version 2: [v lasted + 1 (ms; 0: not known)]
//!  7 returned  v count, count × v message                          the newest attempt does not count
//!  8 died      v message, u8 reason, v wall                        without an attempt that failed
//!  9 redriven  v message, v time, text queue; version 2: [v order], its place among the messages of its ordering key
//! 10 snapshot  v message, v published wall, v attempt, v boot, v spent, v attempts max, u8 priority,
//!              u8 state (0 ready, 1 scheduled, 2 attempt open, 3 dead, 4 dead and holds its ordering key; 128 with an
//!              order), v argument (time or reason), [v order], v died wall, [version 2: v time (0: none) when it
//!              died, or before which a message with a due wall is not ready], [version 3: v published time],
//!              v expires (0: never), v due wall (0: none),
//!              v failures × (v attempt, v wall, text client, text error [version 2: v lasted + 1]),
//!              text namespace, text queue, v body length, body
//! 11 mark      text namespace, u64le producer, v unanswered from, v count, count × (v sequence, v first id, v count)
//! 12 retired   text namespace, u64le producer
//! 13 settings  text namespace, text queue, v count, count × (text key, text value)     all that were set; none: reset;
//!                                                                                     no queue: the namespace's
//! 14 schedule  text namespace, text name, u8 state (0 removed, and nothing follows; 1 active, 2 paused), text cron, text zone,
//!              text queue, u8 misfire (0 skip, 1 once, 2 all), v missed max, v since wall, v fired wall (0: never),
//!              v body length, body
//! 15 binding   text namespace, text name, text pattern, text filter, text queue, u8 when full (0 wait, 1 drop)
//!              takes the place of one of that name; an empty pattern ends it
//! 16 dedup     text namespace, text queue, v count, count × (v message, v expires, 16 bytes digest of its id)
//! 17 copies    v count, count × (all of a snapshot of version 2 but its kind and its body), body
//!              one message in several queues; version 2: of a snapshot of version 3
//! ```
//!
//! A publish of version 2 is one step of several: `acks` are done with it, `schedule` fired with it, and with `targets` its
//! messages go to each of these queues as far as it says so: target t has message m under the id first id + t × count + m,
//! and `ttl` is for those that name none (0: as the configuration says). `queue` is the topic then. The bytes that
//! say what goes where make sure that each copy has one of its own to keep the record alive, and so do those that say whose
//! id is remembered. The deduplication ids that its messages have are remembered for `window` ms, each target's for its own.
//!
//! Upgrade recipe: a new kind needs nothing, an older program refuses it as newer. A kind that changes gets the next
//! version; the decoder goes on reading the old one, and compaction writes what it moves in the newest.
//!
//! Everything but 1, 2, 3, 10, 11, 13 to 17 only amends what lies before it and is released as soon as it is written: the
//! log frees its oldest segment only, after its live records were written anew; a message as 10, or where several copies
//! share a body as 17, a publish's mark as 11, ids as 16.

mod decode;
mod encode;

pub use decode::{decode, decode_head, head_len};
pub use encode::{
    encode_binding, encode_boot, encode_clock, encode_copies, encode_dedup, encode_died, encode_done,
    encode_failed, encode_leased, encode_mark, encode_publish, encode_redriven, encode_retired,
    encode_returned, encode_schedule, encode_settings, encode_snapshot,
};

use crate::clock::{Time, Wall};
use crate::ids::{Boot, ProducerId};
use crate::mail::{Misfire, ProducerSequence, PublishMessage, TargetFull};

const VERSION: u8 = 1;
/// Of a publish that has parts, or messages with options.
const VERSION_WITH_PARTS: u8 = 2;
/// Of a redrive that gives a message another place in its order.
const VERSION_WITH_ORDER: u8 = 2;
/// In a snapshot's state: it has an order.
const HAS_ORDER: u8 = 0x80;
/// Of what tells how long attempts lasted, and by shard time when a message died or may be ready.
const VERSION_WITH_TIMES: u8 = 2;
/// Of attempts that say in which boot they were begun.
const VERSION_WITH_BOOT: u8 = 2;
/// Of a snapshot that says by shard time when its message was published.
const VERSION_WITH_PUBLISHED: u8 = 3;
/// Of copies that say it.
const COPIES_WITH_PUBLISHED: u8 = 2;
const KIND_MASK: u8 = 0x1f;
const BOOT: u8 = 1;
const CLOCK: u8 = 2;
const PUBLISH: u8 = 3;
const LEASED: u8 = 4;
const DONE: u8 = 5;
const FAILED: u8 = 6;
const RETURNED: u8 = 7;
const DIED: u8 = 8;
const REDRIVEN: u8 = 9;
const SNAPSHOT: u8 = 10;
const MARK: u8 = 11;
const RETIRED: u8 = 12;
const SETTINGS: u8 = 13;
const SCHEDULE: u8 = 14;
const BINDING: u8 = 15;
const DEDUP: u8 = 16;
const COPIES: u8 = 17;

const PART_ACKS: u8 = 1;
const PART_SCHEDULE: u8 = 2;
const PART_TARGETS: u8 = 4;
const PART_DEDUP: u8 = 8;
const PARTS: u8 = PART_ACKS | PART_SCHEDULE | PART_TARGETS | PART_DEDUP;
const MORE_OPTIONS: u8 = 1;

const HAS_DELAY: u8 = 0x10;
const HAS_DUE: u8 = 0x20;
const HAS_TTL: u8 = 0x40;
const HAS_ATTEMPTS: u8 = 0x80;

/// Whether this record has a layout that is read and not written any more; `relaymesh log upgrade` writes such ones
/// anew.
#[must_use]
pub fn is_older(record: &[u8]) -> bool {
    record.first().is_some_and(|tag| tag >> 5 < oldest_written(tag & KIND_MASK))
}

/// The lowest version in which records of this kind are written.
const fn oldest_written(kind: u8) -> u8 {
    match kind {
        LEASED => VERSION_WITH_BOOT,
        FAILED => VERSION_WITH_TIMES,
        SNAPSHOT => VERSION_WITH_PUBLISHED,
        COPIES => COPIES_WITH_PUBLISHED,
        _ => VERSION,
    }
}

/// Why a message died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its attempts are used up.
    Attempts = 0,
    /// Its time to live passed.
    Expired = 1,
    /// It made room for another.
    Overflow = 2,
    /// A consumer refused it for good.
    Rejected = 3,
    /// The queue it was to go to never has room for a message of its size.
    TooLarge = 4,
}

impl Reason {
    /// As operators read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Expired => "expired",
            Self::Overflow => "overflow",
            Self::Rejected => "rejected",
            Self::TooLarge => "too_large",
        }
    }

    fn of(number: u64) -> Result<Self, RecordError> {
        Ok(match number {
            0 => Self::Attempts,
            1 => Self::Expired,
            2 => Self::Overflow,
            3 => Self::Rejected,
            4 => Self::TooLarge,
            _ => return Err(RecordError::Value),
        })
    }
}

/// Where a message stands, as far as a record says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A consumer could have it.
    Ready,
    /// It waits until this time.
    Scheduled(Time),
    /// An attempt was begun and neither failed nor succeeded.
    AttemptOpen,
    /// It died.
    Dead(Reason),
    /// It died, and the others of its ordering key wait for it.
    Holding(Reason),
}

/// Bytes that are no record of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It ends too early.
    #[error("the record ends too early")]
    Short,
    /// Something follows it.
    #[error("the record has bytes after its end")]
    Long,
    /// A varint is longer than 64 bits.
    #[error("a number has more than 64 bits")]
    Varint,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A field holds a value that no version writes.
    #[error("a field holds an impossible value")]
    Value,
    /// Its version is newer.
    #[error("a newer version wrote the record; start that version")]
    Version,
}

/// A decoded record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A boot was begun.
    Boot(Boot),
    /// The shard's clock stood here.
    Clock {
        /// Shard time.
        time: Time,
        /// The wall clock at that time.
        wall: Wall,
        /// No message before this record has this id or a higher one.
        next_id: u64,
    },
    /// Messages were published.
    Publish(PublishRecord<'a>),
    /// Attempts were begun: (message, attempt).
    Leased {
        /// In this boot; `None` for that of the last boot record.
        boot: Option<Boot>,
        /// Messages and attempts.
        leases: Vec<(u64, u32)>,
    },
    /// Messages are gone.
    Done(Vec<u64>),
    /// An attempt failed.
    Failed(FailedRecord<'a>),
    /// Attempts that do not count.
    Returned(Vec<u64>),
    /// A message died without an attempt.
    Died {
        /// Which.
        id: u64,
        /// Why.
        reason: Reason,
        /// When.
        wall: Wall,
    },
    /// A dead letter is ready again.
    Redriven {
        /// Which.
        id: u64,
        /// When.
        time: Time,
        /// In this queue.
        queue: &'a str,
        /// Its place among the messages of its ordering key, as if that were its id; 0 where it has the one it had.
        order: u64,
    },
    /// A whole message.
    Snapshot(Box<SnapshotRecord<'a>>),
    /// A producer's whole mark.
    Mark(MarkRecord<'a>),
    /// A producer is forgotten.
    Retired {
        /// Its tenant.
        namespace: &'a str,
        /// Which.
        producer: ProducerId,
    },
    /// What was set for a queue.
    Settings(SettingsRecord<'a>),
    /// Deduplication ids whose publishes are gone.
    Dedup(DedupRecord<'a>),
    /// A schedule was set, or removed.
    Schedule(ScheduleRecord<'a>),
    /// A topic was bound to a queue, or is not any more.
    Binding(BindingRecord<'a>),
    /// Whole messages with the same body, each with the bytes that are its own: all but the body's, and of the first the
    /// record's beside.
    Copies(Vec<(SnapshotRecord<'a>, u32)>),
}

/// A binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindingRecord<'a> {
    /// The tenant.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Which topics; empty when it ends.
    pub pattern: &'a str,
    /// Which of their messages; empty for all.
    pub filter: &'a str,
    /// Where they go.
    pub queue: &'a str,
    /// What becomes of a publish that the queue has no room for.
    pub when_full: TargetFull,
}

/// A queue that messages go to which were published to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Which.
    pub queue: &'a str,
    /// The time to live there of messages that name none, in milliseconds; 0 leaves it to the configuration.
    pub ttl_ms: u64,
    /// How long deduplication ids are remembered there, in milliseconds.
    pub window_ms: u64,
}

/// A whole schedule, or that there is none of this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRecord<'a> {
    /// The tenant.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// All of it; `None` when it was removed.
    pub plan: Option<SchedulePlan<'a>>,
}

/// What a schedule does, and did last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulePlan<'a> {
    /// A cron expression.
    pub cron: &'a str,
    /// A time zone of the IANA database.
    pub zone: &'a str,
    /// Where its messages go.
    pub queue: &'a str,
    /// What becomes of times it missed.
    pub misfire: Misfire,
    /// How many of them are made up for at most, where all are.
    pub missed_max: u32,
    /// Nothing comes due.
    pub is_paused: bool,
    /// Nothing was due up to here.
    pub since: Wall,
    /// The newest time it published for; 0 for none.
    pub fired: Wall,
    /// The encoded message.
    pub body: &'a [u8],
}

/// All settings of a queue that are its own; or, with no queue's name, those of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsRecord<'a> {
    /// The tenant.
    pub namespace: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// Keys and values, as they were given.
    pub settings: Vec<(&'a str, &'a str)>,
}

/// Deduplication ids that a queue remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupRecord<'a> {
    /// The tenant.
    pub namespace: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// Of each the message, until when it is remembered, and its digest.
    pub ids: Vec<(u64, Time, Digest)>,
}

/// Stands for a deduplication id.
pub type Digest = [u8; 16];

/// Messages published together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRecord<'a> {
    /// When.
    pub time: Time,
    /// When, as people read it.
    pub wall: Wall,
    /// The first message's id.
    pub first_id: u64,
    /// The tenant.
    pub namespace: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// The producer's own count.
    pub producer: Option<ProducerSequence>,
    /// Messages that are done with it.
    pub acks: Vec<u64>,
    /// The schedule that fired, and the wall clock it was due at.
    pub schedule: Option<(&'a str, Wall)>,
    /// The queues that messages go to; none for `queue` itself.
    pub targets: Vec<Target<'a>>,
    /// For each target and in it for each message: 1 when it goes there.
    pub takes: &'a [u8],
    /// The same, where ids are remembered: 1 when the message's is; empty otherwise.
    pub remembers: &'a [u8],
    /// How long the deduplication ids of its messages are remembered, in milliseconds; 0: they have none. With targets each
    /// of those says it.
    pub dedup_window_ms: u64,
    /// Length of the head in bytes.
    pub head_len: u32,
    /// The messages.
    pub messages: Vec<PublishedMessage>,
    /// Their bodies, end to end.
    pub bodies: &'a [u8],
    /// Where the bodies start in the record.
    pub bodies_offset: u32,
}

/// One message of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedMessage {
    /// What the producer asked for.
    pub message: PublishMessage,
    /// Bytes of the record's list that tell of it, its body not counted.
    pub entry_len: u32,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRecord<'a> {
    /// The message.
    pub id: u64,
    /// The attempt.
    pub attempt: u32,
    /// When it failed.
    pub wall: Wall,
    /// What became of the message.
    pub next: Standing,
    /// Who held the lease.
    pub client: &'a str,
    /// What it said.
    pub error: &'a str,
    /// How long the lease had lasted, in milliseconds, where that is known.
    pub lasted_ms: Option<u64>,
}

/// One failure of a message's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The attempt.
    pub attempt: u32,
    /// When it failed.
    pub wall: Wall,
    /// Who held the lease.
    pub client: &'a str,
    /// What it said.
    pub error: &'a str,
    /// How long the lease had lasted, in milliseconds, where that is known.
    pub lasted_ms: Option<u64>,
}

/// Everything about one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord<'a> {
    /// Its id.
    pub id: u64,
    /// When it was published, as people read it.
    pub published: Wall,
    /// The same in shard time, where the record says it: the wall clock may have been set since.
    pub published_time: Option<Time>,
    /// The newest attempt.
    pub attempt: u32,
    /// The boot that began it.
    pub boot: Boot,
    /// Attempts that count.
    pub spent: u32,
    /// Its own bound of attempts; 0 leaves it to the queue.
    pub attempts_max: u32,
    /// 0 to 9.
    pub priority: u8,
    /// Where it stands.
    pub standing: Standing,
    /// When it died; 0 unless dead.
    pub died: Wall,
    /// The same in shard time, where the record says it; of a message that waits for the wall clock, the time before which it
    /// is not ready although that came.
    pub time: Option<Time>,
    /// When it expires; 0 for never.
    pub expires: Time,
    /// The wall clock it waits for; 0 for none.
    pub due: Wall,
    /// Its place among the messages of its ordering key; 0 for that of its id.
    pub order: u64,
    /// Attempts that failed, oldest first.
    pub failures: Vec<Failure<'a>>,
    /// The tenant.
    pub namespace: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// Length of the encoded message.
    pub body_len: u32,
    /// The encoded message, where it is there.
    pub body: &'a [u8],
}

/// A producer's answered and unanswered sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkRecord<'a> {
    /// The tenant.
    pub namespace: &'a str,
    /// Which.
    pub producer: ProducerId,
    /// Sequences below are answered.
    pub unanswered_from: u64,
    /// Runs of (first sequence, first id, count).
    pub runs: Vec<(u64, u64, u32)>,
}

/// What all messages of a publish share.
#[derive(Debug, Clone, Copy, Default)]
pub struct PublishHead<'a> {
    /// When.
    pub time: Time,
    /// When, as people read it.
    pub wall: Wall,
    /// The first message's id.
    pub first_id: u64,
    /// The tenant.
    pub namespace: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// The producer's own count.
    pub producer: Option<ProducerSequence>,
    /// Messages that are done with it.
    pub acks: &'a [u64],
    /// The schedule that fired, and the wall clock it was due at.
    pub schedule: Option<(&'a str, Wall)>,
    /// The queues that messages go to; none for `queue` itself.
    pub targets: &'a [Target<'a>],
    /// For each target and in it for each message: 1 when it goes there.
    pub takes: &'a [u8],
    /// The same, where ids are remembered: 1 when the message's is; empty otherwise.
    pub remembers: &'a [u8],
    /// How long the deduplication ids of its messages are remembered, in milliseconds; 0: they have none. With targets each
    /// of those says it.
    pub dedup_window_ms: u64,
}
