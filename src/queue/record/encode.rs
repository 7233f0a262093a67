//! From records to bytes. Everything appends to `out`.

use crate::clock::{Time, Wall};
use crate::ids::{Boot, MessageId, ProducerId};
use crate::mail::PublishMessage;
use crate::queue::record::{
    BOOT, CLOCK, DIED, DONE, FAILED, FailedRecord, HAS_ATTEMPTS, HAS_DELAY, HAS_DUE, HAS_TTL, LEASED, MARK,
    MarkRecord, PUBLISH, PublishHead, REDRIVEN, RETIRED, RETURNED, Reason, SNAPSHOT, SnapshotRecord,
    Standing, VERSION,
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
