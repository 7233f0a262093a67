//! From records to bytes. Everything appends to `out`.

use crate::clock::{Time, Wall};
use crate::ids::{Boot, MessageId, ProducerId};
use crate::mail::{PublishMessage, TargetFull};
use crate::queue::record::{
    BINDING, BOOT, BindingRecord, CLOCK, COPIES, COPIES_WITH_PUBLISHED, DEDUP, DIED, DONE, Digest, FAILED,
    FailedRecord, HAS_ATTEMPTS, HAS_DELAY, HAS_DUE, HAS_ORDER, HAS_TTL, LEASED, MARK, MORE_OPTIONS,
    MarkRecord, PART_ACKS, PART_DEDUP, PART_SCHEDULE, PART_TARGETS, PUBLISH, PublishHead, REDRIVEN, RETIRED,
    RETURNED, Reason, SCHEDULE, SETTINGS, SNAPSHOT, ScheduleRecord, SnapshotRecord, Standing, VERSION,
    VERSION_WITH_BOOT, VERSION_WITH_ORDER, VERSION_WITH_PARTS, VERSION_WITH_PUBLISHED, VERSION_WITH_TIMES,
};

fn begin(out: &mut Vec<u8>, kind: u8) {
    out.push(kind | VERSION << 5);
}

/// Appends an unsigned LEB128 varint.
fn put(out: &mut Vec<u8>, mut value: u64) {
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

/// Appends a number, or that it is not known.
fn put_known(out: &mut Vec<u8>, value: Option<u64>) {
    put(out, value.map_or(0, |value| value.saturating_add(1)));
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

/// Appends all of a publish record but the bodies, which follow as they are; hands each message's entry length to
/// `entry`, and returns the length of the head.
pub fn encode_publish(
    out: &mut Vec<u8>,
    head: &PublishHead<'_>,
    messages: &[PublishMessage],
    mut entry: impl FnMut(u32),
) -> u32 {
    let parts = parts_of(head);
    let is_plain = parts == 0 && !messages.iter().any(|message| message.header.has_options);
    if is_plain {
        begin(out, PUBLISH);
    } else {
        out.extend_from_slice(&[PUBLISH | VERSION_WITH_PARTS << 5, parts]);
    }
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
    if parts != 0 {
        encode_parts(out, head);
    }
    put(out, messages.len() as u64);
    let head_len = out.len() as u32;
    out.extend_from_slice(head.takes);
    out.extend_from_slice(head.remembers);
    let mut start = out.len() as u32;
    for message in messages {
        encode_entry(out, message, is_plain);
        entry(out.len() as u32 - start);
        start = out.len() as u32;
    }
    head_len
}

fn parts_of(head: &PublishHead<'_>) -> u8 {
    let has = |there: bool, part: u8| if there { part } else { 0 };
    has(!head.acks.is_empty(), PART_ACKS)
        | has(head.schedule.is_some(), PART_SCHEDULE)
        | has(!head.targets.is_empty(), PART_TARGETS)
        | has(head.dedup_window_ms > 0, PART_DEDUP)
}

fn encode_parts(out: &mut Vec<u8>, head: &PublishHead<'_>) {
    if !head.acks.is_empty() {
        put(out, head.acks.len() as u64);
        head.acks.iter().for_each(|&id| put(out, id));
    }
    if let Some((schedule, fired)) = head.schedule {
        put_text(out, schedule);
        put(out, fired.0);
    }
    if !head.targets.is_empty() {
        put(out, head.targets.len() as u64);
        for target in head.targets {
            put_text(out, target.queue);
            put(out, target.ttl_ms);
            put(out, target.window_ms);
        }
    }
    if head.dedup_window_ms > 0 {
        put(out, head.dedup_window_ms);
    }
}

fn encode_entry(out: &mut Vec<u8>, message: &PublishMessage, is_plain: bool) {
    let header = &message.header;
    let options = [
        (header.delay_ms, HAS_DELAY),
        (header.due.0, HAS_DUE),
        (header.ttl_ms, HAS_TTL),
        (u64::from(header.attempts_max), HAS_ATTEMPTS),
    ];
    let flags = options.iter().filter(|(value, _)| *value != 0).fold(0, |flags, (_, flag)| flags | flag);
    out.push(header.priority | flags);
    if !is_plain {
        out.push(if header.has_options { MORE_OPTIONS } else { 0 });
    }
    put(out, u64::from(message.body_len));
    if flags != 0 {
        for (value, _) in options.iter().filter(|(value, _)| *value != 0) {
            put(out, *value);
        }
    }
}

/// Appends a leased record.
pub fn encode_leased(out: &mut Vec<u8>, boot: Boot, leases: &[(u64, u32)]) {
    out.push(LEASED | VERSION_WITH_BOOT << 5);
    put(out, u64::from(boot.0));
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
    out.push(FAILED | VERSION_WITH_TIMES << 5);
    put(out, failed.id);
    put(out, u64::from(failed.attempt));
    put(out, failed.wall.0);
    let (next, argument) = match failed.next {
        Standing::Ready | Standing::AttemptOpen => (0, 0),
        Standing::Scheduled(until) => (1, until.0),
        Standing::Dead(reason) => (2, reason as u64),
        Standing::Holding(reason) => (3, reason as u64),
    };
    out.push(next);
    put(out, argument);
    put_text(out, failed.client);
    put_text(out, failed.error);
    put_known(out, failed.lasted_ms);
}

/// Appends a died record.
pub fn encode_died(out: &mut Vec<u8>, id: MessageId, reason: Reason, wall: Wall) {
    begin(out, DIED);
    put(out, id.0);
    out.push(reason as u8);
    put(out, wall.0);
}

/// Appends a redriven record.
pub fn encode_redriven(out: &mut Vec<u8>, id: MessageId, time: Time, queue: &str, order: u64) {
    let version = if order == 0 { VERSION } else { VERSION_WITH_ORDER };
    out.push(REDRIVEN | version << 5);
    put(out, id.0);
    put(out, time.0);
    put_text(out, queue);
    if order != 0 {
        put(out, order);
    }
}

/// Appends all of a snapshot record but the body, which follows as it is.
pub fn encode_snapshot(out: &mut Vec<u8>, snapshot: &SnapshotRecord<'_>) {
    out.push(SNAPSHOT | VERSION_WITH_PUBLISHED << 5);
    put_snapshot(out, snapshot);
}

/// Appends all of a copies record but the body, which follows as it is. The first of `copies` begins with the record.
/// Hands the length of what is each one's own to `own`.
pub fn encode_copies<'a>(
    out: &mut Vec<u8>,
    copies: impl ExactSizeIterator<Item = SnapshotRecord<'a>>,
    mut own: impl FnMut(u32),
) {
    let mut start = out.len();
    out.push(COPIES | COPIES_WITH_PUBLISHED << 5);
    put(out, copies.len() as u64);
    for copy in copies {
        put_snapshot(out, &copy);
        own((out.len() - start) as u32);
        start = out.len();
    }
}

fn put_snapshot(out: &mut Vec<u8>, snapshot: &SnapshotRecord<'_>) {
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
        Standing::Holding(reason) => (4, reason as u64),
    };
    let has_order = if snapshot.order == 0 { 0 } else { HAS_ORDER };
    out.extend_from_slice(&[snapshot.priority, state | has_order]);
    put(out, argument);
    if snapshot.order != 0 {
        put(out, snapshot.order);
    }
    let (time, published) = (snapshot.time.unwrap_or_default(), snapshot.published_time.unwrap_or_default());
    let numbers = [snapshot.died.0, time.0, published.0, snapshot.expires.0, snapshot.due.0];
    numbers.into_iter().for_each(|number| put(out, number));
    put(out, snapshot.failures.len() as u64);
    for failure in &snapshot.failures {
        put(out, u64::from(failure.attempt));
        put(out, failure.wall.0);
        put_text(out, failure.client);
        put_text(out, failure.error);
        put_known(out, failure.lasted_ms);
    }
    put_text(out, snapshot.namespace);
    put_text(out, snapshot.queue);
    put(out, u64::from(snapshot.body_len));
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

/// Appends a settings record.
pub fn encode_settings<'a>(
    out: &mut Vec<u8>,
    namespace: &str,
    queue: &str,
    settings: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) {
    begin(out, SETTINGS);
    put_text(out, namespace);
    put_text(out, queue);
    put(out, settings.len() as u64);
    for (key, value) in settings {
        put_text(out, key);
        put_text(out, value);
    }
}

/// Appends a dedup record.
pub fn encode_dedup(
    out: &mut Vec<u8>,
    namespace: &str,
    queue: &str,
    ids: impl ExactSizeIterator<Item = (u64, Time, Digest)>,
) {
    begin(out, DEDUP);
    put_text(out, namespace);
    put_text(out, queue);
    put(out, ids.len() as u64);
    for (id, expires, digest) in ids {
        put(out, id);
        put(out, expires.0);
        out.extend_from_slice(&digest);
    }
}

/// Appends a schedule's record.
pub fn encode_schedule(out: &mut Vec<u8>, schedule: &ScheduleRecord<'_>) {
    begin(out, SCHEDULE);
    put_text(out, schedule.namespace);
    put_text(out, schedule.name);
    let Some(plan) = &schedule.plan else { return out.push(0) };
    out.push(if plan.is_paused { 2 } else { 1 });
    put_text(out, plan.cron);
    put_text(out, plan.zone);
    put_text(out, plan.queue);
    out.push(plan.misfire as u8);
    let numbers = [u64::from(plan.missed_max), plan.since.0, plan.fired.0, plan.body.len() as u64];
    numbers.into_iter().for_each(|number| put(out, number));
    out.extend_from_slice(plan.body);
}

/// Appends a binding record.
pub fn encode_binding(out: &mut Vec<u8>, binding: &BindingRecord<'_>) {
    begin(out, BINDING);
    for text in [binding.namespace, binding.name, binding.pattern, binding.filter, binding.queue] {
        put_text(out, text);
    }
    out.push(match binding.when_full {
        TargetFull::Wait => 0,
        TargetFull::Drop => 1,
    });
}

/// Appends a retired record.
pub fn encode_retired(out: &mut Vec<u8>, namespace: &str, producer: ProducerId) {
    begin(out, RETIRED);
    put_text(out, namespace);
    out.extend_from_slice(&producer.0.to_le_bytes());
}
