//! What the brain writes to the log, byte by byte.
//!
//! The first byte is the record's kind in the low 5 bits and the layout's version (1) above them. `v` is an unsigned
//! LEB128 varint, `text` a `v` length and that many bytes of UTF-8. Times are shard [`Time`], walls ms since 1970.
//!
//! ```text
//!  1 boot      v boot
//!  2 clock     v time, v wall, v next message id
//!  3 publish   v time, v wall, v first id, text namespace, text queue, u64le producer (0: none)
//!              [v sequence, v unanswered from], v count            <- the head; the producer's mark needs it
//!              count × (u8 priority | options, v body length, [v delay] [v due wall] [v ttl] [v attempts max])
//!              count × body
//!  4 leased    v count, count × (v message, v attempt)             boot: that of the last boot record
//!  5 done      v count, count × v message                          acked or purged
//!  6 failed    v message, v attempt, v wall, u8 next (0 ready, 1 scheduled, 2 dead), v argument (time or reason),
//!              text client, text error
//!  7 returned  v count, count × v message                          the newest attempt does not count
//!  8 died      v message, u8 reason, v wall                        without an attempt that failed
//!  9 redriven  v message, v time, text queue
//! 10 snapshot  v message, v published wall, v attempt, v boot, v spent, v attempts max, u8 priority,
//!              u8 state (0 ready, 1 scheduled, 2 attempt open, 3 dead), v argument (time or reason), v died wall,
//!              v expires (0: never), v due wall (0: none), v failures × (v attempt, v wall, text client, text error),
//!              text namespace, text queue, v body length, body
//! 11 mark      text namespace, u64le producer, v unanswered from, v count, count × (v sequence, v first id, v count)
//! 12 retired   text namespace, u64le producer
//! ```
//!
//! Everything but 1, 2, 3, 10 and 11 only amends what lies before it and is released as soon as it is written: the
//! log frees its oldest segment only, after its live records were written anew as 10 and 11.

use crate::clock::{Time, Wall};
use crate::ids::{Boot, MessageId, ProducerId};
use crate::mail::{MessageHeader, ProducerSequence, PublishMessage};

const VERSION: u8 = 1;
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

const HAS_DELAY: u8 = 0x10;
const HAS_DUE: u8 = 0x20;
const HAS_TTL: u8 = 0x40;
const HAS_ATTEMPTS: u8 = 0x80;

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
        }
    }

    fn of(number: u64) -> Result<Self, RecordError> {
        Ok(match number {
            0 => Self::Attempts,
            1 => Self::Expired,
            2 => Self::Overflow,
            3 => Self::Rejected,
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
    Leased(Vec<(u64, u32)>),
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
}

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
}

/// Everything about one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord<'a> {
    /// Its id.
    pub id: u64,
    /// When it was published.
    pub published: Wall,
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
    /// When it expires; 0 for never.
    pub expires: Time,
    /// The wall clock it waits for; 0 for none.
    pub due: Wall,
    /// Attempts that failed, oldest first.
    pub failures: Vec<Failure<'a>>,
    /// The tenant.
    pub namespace: &'a str,
    /// The queue.
    pub queue: &'a str,
    /// The encoded message.
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

fn begin(out: &mut Vec<u8>, kind: u8) {
    out.push(kind | VERSION << 5);
}

/// Appends an unsigned LEB128 varint.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a boot record.
pub fn encode_boot(out: &mut Vec<u8>, boot: Boot) {
    begin(out, BOOT);
    put(out, u64::from(boot.0));
}

/// Appends a clock record.
pub fn encode_clock(out: &mut Vec<u8>, time: Time, wall: Wall, next_id: u64) {
    begin(out, CLOCK);
    put(out, time.0);
    put(out, wall.0);
    put(out, next_id);
}

/// What all messages of a publish share.
#[derive(Debug, Clone, Copy)]
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
}

/// Appends all of a publish record but the bodies, which follow as they are; hands each message's entry length to
/// `entry`, and returns the length of the head.
pub fn encode_publish(
    out: &mut Vec<u8>,
    head: &PublishHead<'_>,
    messages: &[PublishMessage],
    mut entry: impl FnMut(u32),
) -> u32 {
    begin(out, PUBLISH);
    put(out, head.time.0);
    put(out, head.wall.0);
    put(out, head.first_id);
    put_text(out, head.namespace);
    put_text(out, head.queue);
    match head.producer {
        Some(producer) => {
            out.extend_from_slice(&producer.producer.0.to_le_bytes());
            put(out, producer.sequence);
            put(out, producer.unanswered_from);
        }
        None => out.extend_from_slice(&0u64.to_le_bytes()),
    }
    put(out, messages.len() as u64);
    let head_len = out.len() as u32;
    let mut start = head_len;
    for message in messages {
        encode_entry(out, message);
        entry(out.len() as u32 - start);
        start = out.len() as u32;
    }
    head_len
}

fn encode_entry(out: &mut Vec<u8>, message: &PublishMessage) {
    let header = &message.header;
    let options = [
        (header.delay_ms, HAS_DELAY),
        (header.due.0, HAS_DUE),
        (header.ttl_ms, HAS_TTL),
        (u64::from(header.attempts_max), HAS_ATTEMPTS),
    ];
    let flags = options.iter().filter(|(value, _)| *value != 0).fold(0, |flags, (_, flag)| flags | flag);
    out.push(header.priority | flags);
    put(out, u64::from(message.body_len));
    if flags != 0 {
        for (value, _) in options.iter().filter(|(value, _)| *value != 0) {
            put(out, *value);
        }
    }
}

/// Appends a leased record.
pub fn encode_leased(out: &mut Vec<u8>, leases: &[(u64, u32)]) {
    begin(out, LEASED);
    put(out, leases.len() as u64);
    for &(message, attempt) in leases {
        put(out, message);
        put(out, u64::from(attempt));
    }
}

/// Appends a done record.
pub fn encode_done(out: &mut Vec<u8>, messages: &[u64]) {
    encode_ids(out, DONE, messages);
}

/// Appends a returned record.
pub fn encode_returned(out: &mut Vec<u8>, messages: &[u64]) {
    encode_ids(out, RETURNED, messages);
}

fn encode_ids(out: &mut Vec<u8>, kind: u8, messages: &[u64]) {
    begin(out, kind);
    put(out, messages.len() as u64);
    messages.iter().for_each(|&message| put(out, message));
}

/// Appends a failed record.
pub fn encode_failed(out: &mut Vec<u8>, failed: &FailedRecord<'_>) {
    begin(out, FAILED);
    put(out, failed.id);
    put(out, u64::from(failed.attempt));
    put(out, failed.wall.0);
    let (next, argument) = match failed.next {
        Standing::Ready | Standing::AttemptOpen => (0, 0),
        Standing::Scheduled(until) => (1, until.0),
        Standing::Dead(reason) => (2, reason as u64),
    };
    out.push(next);
    put(out, argument);
    put_text(out, failed.client);
    put_text(out, failed.error);
}

/// Appends a died record.
pub fn encode_died(out: &mut Vec<u8>, id: MessageId, reason: Reason, wall: Wall) {
    begin(out, DIED);
    put(out, id.0);
    out.push(reason as u8);
    put(out, wall.0);
}

/// Appends a redriven record.
pub fn encode_redriven(out: &mut Vec<u8>, id: MessageId, time: Time, queue: &str) {
    begin(out, REDRIVEN);
    put(out, id.0);
    put(out, time.0);
    put_text(out, queue);
}

/// Appends all of a snapshot record but the body, which follows as it is.
pub fn encode_snapshot(out: &mut Vec<u8>, snapshot: &SnapshotRecord<'_>) {
    begin(out, SNAPSHOT);
    let numbers = [
        snapshot.id,
        snapshot.published.0,
        u64::from(snapshot.attempt),
        u64::from(snapshot.boot.0),
        u64::from(snapshot.spent),
        u64::from(snapshot.attempts_max),
    ];
    numbers.into_iter().for_each(|number| put(out, number));
    let (state, argument) = match snapshot.standing {
        Standing::Ready => (0, 0),
        Standing::Scheduled(until) => (1, until.0),
        Standing::AttemptOpen => (2, 0),
        Standing::Dead(reason) => (3, reason as u64),
    };
    out.extend_from_slice(&[snapshot.priority, state]);
    let numbers = [argument, snapshot.died.0, snapshot.expires.0, snapshot.due.0];
    numbers.into_iter().for_each(|number| put(out, number));
    put(out, snapshot.failures.len() as u64);
    for failure in &snapshot.failures {
        put(out, u64::from(failure.attempt));
        put(out, failure.wall.0);
        put_text(out, failure.client);
        put_text(out, failure.error);
    }
    put_text(out, snapshot.namespace);
    put_text(out, snapshot.queue);
    put(out, snapshot.body.len() as u64);
}

/// Appends a mark record.
pub fn encode_mark(out: &mut Vec<u8>, mark: &MarkRecord<'_>) {
    begin(out, MARK);
    put_text(out, mark.namespace);
    out.extend_from_slice(&mark.producer.0.to_le_bytes());
    put(out, mark.unanswered_from);
    put(out, mark.runs.len() as u64);
    for &(sequence, first_id, count) in &mark.runs {
        put(out, sequence);
        put(out, first_id);
        put(out, u64::from(count));
    }
}

/// Appends a retired record.
pub fn encode_retired(out: &mut Vec<u8>, namespace: &str, producer: ProducerId) {
    begin(out, RETIRED);
    put_text(out, namespace);
    out.extend_from_slice(&producer.0.to_le_bytes());
}

/// Takes a record apart.
///
/// # Errors
/// [`RecordError`] for bytes that no encoder of this version wrote.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let mut reader = Reader { bytes, at: 0 };
    let tag = reader.byte()?;
    if tag >> 5 != VERSION {
        return Err(RecordError::Version);
    }
    let record = match tag & KIND_MASK {
        BOOT => Record::Boot(Boot(reader.u32()?)),
        CLOCK => Record::Clock { time: Time(reader.v()?), wall: Wall(reader.v()?), next_id: reader.v()? },
        PUBLISH => Record::Publish(reader.publish()?),
        LEASED => Record::Leased(reader.list(2, |reader| Ok((reader.v()?, reader.u32()?)))?),
        DONE => Record::Done(reader.list(1, Reader::v)?),
        RETURNED => Record::Returned(reader.list(1, Reader::v)?),
        FAILED => Record::Failed(reader.failed()?),
        DIED => {
            let id = reader.v()?;
            let reason = Reason::of(u64::from(reader.byte()?))?;
            Record::Died { id, reason, wall: Wall(reader.v()?) }
        }
        REDRIVEN => Record::Redriven { id: reader.v()?, time: Time(reader.v()?), queue: reader.text()? },
        SNAPSHOT => Record::Snapshot(Box::new(reader.snapshot()?)),
        MARK => Record::Mark(MarkRecord {
            namespace: reader.text()?,
            producer: ProducerId(reader.u64le()?),
            unanswered_from: reader.v()?,
            runs: reader.list(3, |reader| Ok((reader.v()?, reader.v()?, reader.u32()?)))?,
        }),
        RETIRED => Record::Retired { namespace: reader.text()?, producer: ProducerId(reader.u64le()?) },
        _ => return Err(RecordError::Version),
    };
    if reader.at != bytes.len() {
        return Err(RecordError::Long);
    }
    Ok(record)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let end = self.at.checked_add(len).ok_or(RecordError::Short)?;
        let taken = self.bytes.get(self.at..end).ok_or(RecordError::Short)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        Ok(self.take(1)?[0])
    }

    fn u64le(&mut self) -> Result<u64, RecordError> {
        let bytes: [u8; 8] = self.take(8)?.try_into().map_err(|_| RecordError::Short)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn v(&mut self) -> Result<u64, RecordError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(RecordError::Varint);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(RecordError::Varint)
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        u32::try_from(self.v()?).map_err(|_| RecordError::Value)
    }

    fn text(&mut self) -> Result<&'a str, RecordError> {
        let len = self.u32()? as usize;
        std::str::from_utf8(self.take(len)?).map_err(|_| RecordError::Text)
    }

    /// A counted list whose items have at least `item_len_min` bytes, so that memory is only taken for what is there.
    fn list<T>(
        &mut self,
        item_len_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let count = self.u32()? as usize;
        if count > (self.bytes.len() - self.at) / item_len_min {
            return Err(RecordError::Short);
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn publish(&mut self) -> Result<PublishRecord<'a>, RecordError> {
        let (time, wall, first_id) = (Time(self.v()?), Wall(self.v()?), self.v()?);
        let (namespace, queue) = (self.text()?, self.text()?);
        let producer = match self.u64le()? {
            0 => None,
            id => Some(ProducerSequence {
                producer: ProducerId(id),
                sequence: self.v()?,
                unanswered_from: self.v()?,
            }),
        };
        let mut head_len = 0;
        let mut bodies_len = 0u64;
        let messages = self.list(2, |reader| {
            if head_len == 0 {
                head_len = reader.at as u32;
            }
            let message = reader.entry()?;
            bodies_len += u64::from(message.message.body_len);
            Ok(message)
        })?;
        let bodies_offset = self.at as u32;
        let bodies = self.take(usize::try_from(bodies_len).map_err(|_| RecordError::Short)?)?;
        let last_id = first_id.checked_add(messages.len() as u64);
        if messages.is_empty() || last_id.is_none() {
            return Err(RecordError::Value);
        }
        Ok(PublishRecord {
            time,
            wall,
            first_id,
            namespace,
            queue,
            producer,
            head_len,
            messages,
            bodies,
            bodies_offset,
        })
    }

    fn entry(&mut self) -> Result<PublishedMessage, RecordError> {
        let start = self.at;
        let flags = self.byte()?;
        let body_len = self.u32()?;
        let mut option = |flag: u8| if flags & flag == 0 { Ok(0) } else { self.v() };
        let header = MessageHeader {
            priority: flags & 0x0f,
            delay_ms: option(HAS_DELAY)?,
            due: Wall(option(HAS_DUE)?),
            ttl_ms: option(HAS_TTL)?,
            attempts_max: u32::try_from(option(HAS_ATTEMPTS)?).map_err(|_| RecordError::Value)?,
        };
        if header.priority > 9 {
            return Err(RecordError::Value);
        }
        let entry_len = (self.at - start) as u32;
        Ok(PublishedMessage { message: PublishMessage { header, body_len }, entry_len })
    }

    fn failed(&mut self) -> Result<FailedRecord<'a>, RecordError> {
        let (id, attempt, wall) = (self.v()?, self.u32()?, Wall(self.v()?));
        let (next, argument) = (self.byte()?, self.v()?);
        let next = match next {
            0 => Standing::Ready,
            1 => Standing::Scheduled(Time(argument)),
            2 => Standing::Dead(Reason::of(argument)?),
            _ => return Err(RecordError::Value),
        };
        Ok(FailedRecord { id, attempt, wall, next, client: self.text()?, error: self.text()? })
    }

    fn snapshot(&mut self) -> Result<SnapshotRecord<'a>, RecordError> {
        let (id, published) = (self.v()?, Wall(self.v()?));
        let (attempt, boot, spent, attempts_max) = (self.u32()?, Boot(self.u32()?), self.u32()?, self.u32()?);
        let (priority, state, argument) = (self.byte()?, self.byte()?, self.v()?);
        let standing = match state {
            0 => Standing::Ready,
            1 => Standing::Scheduled(Time(argument)),
            2 => Standing::AttemptOpen,
            3 => Standing::Dead(Reason::of(argument)?),
            _ => return Err(RecordError::Value),
        };
        if priority > 9 {
            return Err(RecordError::Value);
        }
        let (died, expires, due) = (Wall(self.v()?), Time(self.v()?), Wall(self.v()?));
        let failures = self.list(4, |reader| {
            let (attempt, wall) = (reader.u32()?, Wall(reader.v()?));
            Ok(Failure { attempt, wall, client: reader.text()?, error: reader.text()? })
        })?;
        let (namespace, queue) = (self.text()?, self.text()?);
        let body_len = self.u32()? as usize;
        let body = self.take(body_len)?;
        Ok(SnapshotRecord {
            id,
            published,
            attempt,
            boot,
            spent,
            attempts_max,
            priority,
            standing,
            died,
            expires,
            due,
            failures,
            namespace,
            queue,
            body,
        })
    }
}
