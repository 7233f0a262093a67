//! From bytes to records. No input panics, and memory is taken only for what is there.

use crate::clock::{Time, Wall};
use crate::ids::{Boot, ProducerId};
use crate::mail::{MessageHeader, Misfire, ProducerSequence, PublishMessage, TargetFull};
use crate::message::message_header;
use crate::queue::record::{
    BINDING, BOOT, BindingRecord, CLOCK, COPIES, COPIES_WITH_PUBLISHED, DEDUP, DIED, DONE, DedupRecord,
    Digest, FAILED, FailedRecord, Failure, HAS_ATTEMPTS, HAS_DELAY, HAS_DUE, HAS_ORDER, HAS_TTL, KIND_MASK,
    LEASED, MARK, MORE_OPTIONS, MarkRecord, PART_ACKS, PART_DEDUP, PART_SCHEDULE, PART_TARGETS, PARTS,
    PUBLISH, PublishRecord, PublishedMessage, REDRIVEN, RETIRED, RETURNED, Reason, Record, RecordError,
    SCHEDULE, SETTINGS, SNAPSHOT, SchedulePlan, ScheduleRecord, SettingsRecord, SnapshotRecord, Standing,
    Target, VERSION, VERSION_WITH_BOOT, VERSION_WITH_ORDER, VERSION_WITH_PARTS, VERSION_WITH_PUBLISHED,
    VERSION_WITH_TIMES,
};

/// Takes a record apart.
///
/// # Errors
/// [`RecordError`] for bytes that no encoder of this version wrote.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    decode_head(bytes, bytes.len())
}

/// How much of a record a replay needs, if not all: that of a publish or of a snapshot whose messages have no options ends
/// before the bodies.
#[must_use]
pub fn head_len(record: &[u8]) -> usize {
    const PLAIN_PUBLISH: u8 = PUBLISH | VERSION << 5;
    const NEWEST_SNAPSHOT: u8 = SNAPSHOT | VERSION_WITH_PUBLISHED << 5;
    let tag = record.first().copied().unwrap_or_default();
    match (tag, decode(record)) {
        (PLAIN_PUBLISH, Ok(Record::Publish(publish))) => publish.bodies_offset as usize,
        (NEWEST_SNAPSHOT, Ok(Record::Snapshot(snapshot))) if has_no_options(snapshot.body) => {
            record.len() - snapshot.body.len()
        }
        _ => record.len(),
    }
}

fn has_no_options(body: &[u8]) -> bool {
    message_header(body, body.len()).is_ok_and(|header| !header.has_options)
}

/// Takes a record of `len` bytes apart of which only the [head](head_len) is there; its bodies are empty.
///
/// # Errors
/// As [`decode`].
pub fn decode_head(bytes: &[u8], len: usize) -> Result<Record<'_>, RecordError> {
    let absent = len.checked_sub(bytes.len()).ok_or(RecordError::Long)?;
    let mut reader = Reader { bytes, at: 0, absent };
    let tag = reader.byte()?;
    match (tag >> 5, tag & KIND_MASK) {
        (VERSION, _)
        | (VERSION_WITH_PARTS, PUBLISH)
        | (VERSION_WITH_ORDER, REDRIVEN)
        | (VERSION_WITH_TIMES, FAILED | SNAPSHOT)
        | (VERSION_WITH_PUBLISHED, SNAPSHOT)
        | (COPIES_WITH_PUBLISHED, COPIES)
        | (VERSION_WITH_BOOT, LEASED) => {}
        _ => return Err(RecordError::Version),
    }
    let record = match tag & KIND_MASK {
        BOOT => Record::Boot(Boot(reader.u32()?)),
        CLOCK => Record::Clock { time: Time(reader.v()?), wall: Wall(reader.v()?), next_id: reader.v()? },
        PUBLISH => Record::Publish(reader.publish(tag >> 5)?),
        LEASED => Record::Leased {
            boot: if tag >> 5 == VERSION_WITH_BOOT { Some(Boot(reader.u32()?)) } else { None },
            leases: reader.list(2, |reader| Ok((reader.v()?, reader.u32()?)))?,
        },
        DONE => Record::Done(reader.list(1, Reader::v)?),
        RETURNED => Record::Returned(reader.list(1, Reader::v)?),
        FAILED => Record::Failed(reader.failed(tag >> 5)?),
        DIED => {
            let id = reader.v()?;
            let reason = Reason::of(u64::from(reader.byte()?))?;
            Record::Died { id, reason, wall: Wall(reader.v()?) }
        }
        REDRIVEN => Record::Redriven {
            id: reader.v()?,
            time: Time(reader.v()?),
            queue: reader.text()?,
            order: if tag >> 5 == VERSION_WITH_ORDER { reader.v()? } else { 0 },
        },
        SNAPSHOT => Record::Snapshot(Box::new(reader.snapshot(tag >> 5)?)),
        MARK => Record::Mark(MarkRecord {
            namespace: reader.text()?,
            producer: ProducerId(reader.u64le()?),
            unanswered_from: reader.v()?,
            runs: reader.list(3, |reader| Ok((reader.v()?, reader.v()?, reader.u32()?)))?,
        }),
        RETIRED => Record::Retired { namespace: reader.text()?, producer: ProducerId(reader.u64le()?) },
        SCHEDULE => Record::Schedule(reader.schedule()?),
        SETTINGS => Record::Settings(SettingsRecord {
            namespace: reader.text()?,
            queue: reader.text()?,
            settings: reader.list(2, |reader| Ok((reader.text()?, reader.text()?)))?,
        }),
        DEDUP => Record::Dedup(DedupRecord {
            namespace: reader.text()?,
            queue: reader.text()?,
            ids: reader.list(18, |reader| Ok((reader.v()?, Time(reader.v()?), reader.digest()?)))?,
        }),
        BINDING => Record::Binding(reader.binding()?),
        COPIES => Record::Copies(reader.copies(tag >> 5)?),
        _ => return Err(RecordError::Version),
    };
    if reader.at != bytes.len() || reader.absent != 0 {
        return Err(RecordError::Long);
    }
    Ok(record)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes of bodies that were left away behind these.
    absent: usize,
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

    fn digest(&mut self) -> Result<Digest, RecordError> {
        self.take(size_of::<Digest>())?.try_into().map_err(|_| RecordError::Short)
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

    /// A number of things that have at least `item_len_min` bytes each.
    fn count(&mut self, item_len_min: usize) -> Result<usize, RecordError> {
        let count = self.u32()? as usize;
        let is_there = count <= (self.bytes.len() - self.at) / item_len_min;
        is_there.then_some(count).ok_or(RecordError::Short)
    }

    /// A counted list whose items have at least `item_len_min` bytes, so that memory is only taken for what is there.
    fn list<T>(
        &mut self,
        item_len_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let count = self.count(item_len_min)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn publish(&mut self, version: u8) -> Result<PublishRecord<'a>, RecordError> {
        let is_plain = version == VERSION;
        let parts = if is_plain { 0 } else { self.byte()? };
        if parts & !PARTS != 0 {
            return Err(RecordError::Version);
        }
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
        let acks = if parts & PART_ACKS != 0 { self.list(1, Self::v)? } else { Vec::new() };
        let schedule = if parts & PART_SCHEDULE != 0 { Some((self.text()?, Wall(self.v()?))) } else { None };
        let target = |reader: &mut Self| {
            Ok(Target { queue: reader.text()?, ttl_ms: reader.v()?, window_ms: reader.v()? })
        };
        let targets = if parts & PART_TARGETS != 0 { self.list(3, target)? } else { Vec::new() };
        let dedup_window_ms = if parts & PART_DEDUP != 0 { self.v()? } else { 0 };
        let count = self.count(2)?;
        let head_len = self.at as u32;
        let copies = targets.len().checked_mul(count).ok_or(RecordError::Short)?;
        let takes = self.take(copies)?;
        let remembers = self.take(if parts & PART_DEDUP != 0 { copies } else { 0 })?;
        let mut messages = Vec::with_capacity(count);
        let mut bodies_len = 0u64;
        for _ in 0..count {
            let message = self.entry(is_plain)?;
            bodies_len += u64::from(message.message.body_len);
            messages.push(message);
        }
        let bodies_offset = self.at as u32;
        let bodies = self.bodies(usize::try_from(bodies_len).map_err(|_| RecordError::Short)?)?;
        let ids = (messages.len() as u64).checked_mul(targets.len().max(1) as u64);
        let last_id = ids.and_then(|ids| first_id.checked_add(ids));
        if messages.is_empty() || last_id.is_none() || takes.iter().any(|&takes| takes > 1) {
            return Err(RecordError::Value);
        }
        Ok(PublishRecord {
            time,
            wall,
            first_id,
            namespace,
            queue,
            producer,
            acks,
            schedule,
            targets,
            takes,
            remembers,
            dedup_window_ms,
            head_len,
            messages,
            bodies,
            bodies_offset,
        })
    }

    /// The end of a record, unless it was left away.
    fn bodies(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let is_absent = self.absent > 0 && self.absent == len;
        self.absent -= if is_absent { len } else { 0 };
        self.take(if is_absent { 0 } else { len })
    }

    fn entry(&mut self, is_plain: bool) -> Result<PublishedMessage, RecordError> {
        let start = self.at;
        let flags = self.byte()?;
        let more = if is_plain { 0 } else { self.byte()? };
        let body_len = self.u32()?;
        let mut option = |flag: u8| if flags & flag == 0 { Ok(0) } else { self.v() };
        let header = MessageHeader {
            priority: flags & 0x0f,
            delay_ms: option(HAS_DELAY)?,
            due: Wall(option(HAS_DUE)?),
            ttl_ms: option(HAS_TTL)?,
            attempts_max: u32::try_from(option(HAS_ATTEMPTS)?).map_err(|_| RecordError::Value)?,
            has_options: more & MORE_OPTIONS != 0,
        };
        if header.priority > 9 || more & !MORE_OPTIONS != 0 {
            return Err(RecordError::Value);
        }
        let entry_len = (self.at - start) as u32;
        Ok(PublishedMessage { message: PublishMessage { header, body_len }, entry_len })
    }

    fn schedule(&mut self) -> Result<ScheduleRecord<'a>, RecordError> {
        let (namespace, name) = (self.text()?, self.text()?);
        let is_paused = match self.byte()? {
            0 => return Ok(ScheduleRecord { namespace, name, plan: None }),
            state @ 1..=2 => state == 2,
            _ => return Err(RecordError::Value),
        };
        let (cron, zone, queue) = (self.text()?, self.text()?, self.text()?);
        let misfire = self.byte()?;
        let misfire = Misfire::ALL.into_iter().find(|known| *known as u8 == misfire);
        let misfire = misfire.ok_or(RecordError::Value)?;
        let (missed_max, since, fired) = (self.u32()?, Wall(self.v()?), Wall(self.v()?));
        let body_len = self.u32()? as usize;
        let body = self.take(body_len)?;
        let plan = SchedulePlan { cron, zone, queue, misfire, missed_max, is_paused, since, fired, body };
        Ok(ScheduleRecord { namespace, name, plan: Some(plan) })
    }

    /// A number that may be unknown; version 1 never says it.
    fn known(&mut self, version: u8) -> Result<Option<u64>, RecordError> {
        if version == VERSION { Ok(None) } else { Ok(self.v()?.checked_sub(1)) }
    }

    fn failed(&mut self, version: u8) -> Result<FailedRecord<'a>, RecordError> {
        let (id, attempt, wall) = (self.v()?, self.u32()?, Wall(self.v()?));
        let (next, argument) = (self.byte()?, self.v()?);
        let next = match next {
            0 => Standing::Ready,
            1 => Standing::Scheduled(Time(argument)),
            2 => Standing::Dead(Reason::of(argument)?),
            3 => Standing::Holding(Reason::of(argument)?),
            _ => return Err(RecordError::Value),
        };
        let (client, error) = (self.text()?, self.text()?);
        Ok(FailedRecord { id, attempt, wall, next, client, error, lasted_ms: self.known(version)? })
    }

    fn binding(&mut self) -> Result<BindingRecord<'a>, RecordError> {
        let (namespace, name) = (self.text()?, self.text()?);
        let (pattern, filter, queue) = (self.text()?, self.text()?, self.text()?);
        let when_full = match self.byte()? {
            0 => TargetFull::Wait,
            1 => TargetFull::Drop,
            _ => return Err(RecordError::Value),
        };
        Ok(BindingRecord { namespace, name, pattern, filter, queue, when_full })
    }

    fn copies(&mut self, version: u8) -> Result<Vec<(SnapshotRecord<'a>, u32)>, RecordError> {
        let snapshot_version =
            if version < COPIES_WITH_PUBLISHED { VERSION_WITH_TIMES } else { VERSION_WITH_PUBLISHED };
        let mut start = 0;
        let mut body_len = None;
        let mut copies = self.list(17, |reader| {
            let copy = reader.snapshot_head(snapshot_version)?;
            if *body_len.get_or_insert(copy.body_len) != copy.body_len {
                return Err(RecordError::Value);
            }
            let own = (reader.at - std::mem::replace(&mut start, reader.at)) as u32;
            Ok((copy, own))
        })?;
        let body = self.take(body_len.ok_or(RecordError::Value)? as usize)?;
        copies.iter_mut().for_each(|(copy, _)| copy.body = body);
        Ok(copies)
    }

    fn snapshot(&mut self, version: u8) -> Result<SnapshotRecord<'a>, RecordError> {
        let snapshot = self.snapshot_head(version)?;
        Ok(SnapshotRecord { body: self.bodies(snapshot.body_len as usize)?, ..snapshot })
    }

    /// All of a snapshot but its body.
    fn snapshot_head(&mut self, version: u8) -> Result<SnapshotRecord<'a>, RecordError> {
        let (id, published) = (self.v()?, Wall(self.v()?));
        let (attempt, boot, spent, attempts_max) = (self.u32()?, Boot(self.u32()?), self.u32()?, self.u32()?);
        let (priority, state, argument) = (self.byte()?, self.byte()?, self.v()?);
        let order = if state & HAS_ORDER == 0 { 0 } else { self.v()? };
        let standing = match state & !HAS_ORDER {
            0 => Standing::Ready,
            1 => Standing::Scheduled(Time(argument)),
            2 => Standing::AttemptOpen,
            3 => Standing::Dead(Reason::of(argument)?),
            4 => Standing::Holding(Reason::of(argument)?),
            _ => return Err(RecordError::Value),
        };
        if priority > 9 {
            return Err(RecordError::Value);
        }
        let died = Wall(self.v()?);
        let time = if version < VERSION_WITH_TIMES { 0 } else { self.v()? };
        let published_time = if version < VERSION_WITH_PUBLISHED { None } else { Some(Time(self.v()?)) };
        let (expires, due) = (Time(self.v()?), Wall(self.v()?));
        let failures = self.list(4, |reader| {
            let (attempt, wall) = (reader.u32()?, Wall(reader.v()?));
            let (client, error) = (reader.text()?, reader.text()?);
            Ok(Failure { attempt, wall, client, error, lasted_ms: reader.known(version)? })
        })?;
        let (namespace, queue) = (self.text()?, self.text()?);
        let body_len = self.u32()?;
        Ok(SnapshotRecord {
            id,
            published,
            published_time,
            attempt,
            boot,
            spent,
            attempts_max,
            priority,
            standing,
            died,
            time: (time > 0).then_some(Time(time)),
            expires,
            due,
            order,
            failures,
            namespace,
            queue,
            body_len,
            body: &[],
        })
    }
}
