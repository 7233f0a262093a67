//! Records of the queue as people and programs read them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde_json::{Value, json};

use crate::cli::{shown, table};
use crate::clock::Time;
use crate::queue::record::{
    DedupRecord, Digest, PublishRecord, Record, ScheduleRecord, SnapshotRecord, Standing, Target,
};
use crate::wire::proto;

/// What `--kind` takes.
pub(super) const KINDS: [&str; 17] = [
    "boot", "clock", "publish", "leased", "done", "failed", "returned", "died", "redriven", "snapshot",
    "mark", "retired", "settings", "schedule", "dedup", "binding", "copies",
];

/// The name of a record's kind.
pub(super) fn kind(record: &Record<'_>) -> &'static str {
    match record {
        Record::Boot(_) => "boot",
        Record::Clock { .. } => "clock",
        Record::Publish(_) => "publish",
        Record::Leased { .. } => "leased",
        Record::Done(_) => "done",
        Record::Failed(_) => "failed",
        Record::Returned(_) => "returned",
        Record::Died { .. } => "died",
        Record::Redriven { .. } => "redriven",
        Record::Snapshot(_) => "snapshot",
        Record::Mark(_) => "mark",
        Record::Retired { .. } => "retired",
        Record::Settings(_) => "settings",
        Record::Schedule(_) => "schedule",
        Record::Dedup(_) => "dedup",
        Record::Binding(_) => "binding",
        Record::Copies(_) => "copies",
    }
}

/// The messages that a record amends.
pub(super) fn ids(record: &Record<'_>) -> Vec<u64> {
    match record {
        Record::Leased { leases, .. } => leases.iter().map(|lease| lease.0).collect(),
        Record::Done(ids) | Record::Returned(ids) => ids.clone(),
        Record::Publish(publish) => publish.acks.clone(),
        Record::Failed(failed) => vec![failed.id],
        Record::Died { id, .. } | Record::Redriven { id, .. } => vec![*id],
        _ => Vec::new(),
    }
}

type Fields = Vec<(&'static str, Value)>;

/// What a record says, in the order of the record. Times of the shard's clock are ms, those of the wall clock ms since
/// 1970.
pub(super) fn fields(record: &Record<'_>, payloads: bool) -> Fields {
    match record {
        Record::Boot(boot) => vec![("boot", boot.0.into())],
        Record::Clock { time, wall, next_id } => {
            vec![("time_ms", time.0.into()), ("wall_unix_ms", wall.0.into()), ("next_id", (*next_id).into())]
        }
        Record::Publish(publish) => publish_fields(publish, payloads),
        Record::Leased { boot, leases } => {
            let lease = |&(id, attempt): &(u64, u32)| json!({ "id": id, "attempt": attempt });
            let mut fields = vec![("leases", leases.iter().map(lease).collect())];
            fields.extend(boot.map(|boot| ("boot", boot.0.into())));
            fields
        }
        Record::Done(ids) | Record::Returned(ids) => vec![("ids", ids.clone().into())],
        Record::Failed(failed) => {
            let mut fields = vec![
                ("id", failed.id.into()),
                ("attempt", failed.attempt.into()),
                ("failed_unix_ms", failed.wall.0.into()),
            ];
            fields.extend(standing(failed.next));
            fields.extend([("client", failed.client.into()), ("error", failed.error.into())]);
            fields
        }
        Record::Died { id, reason, wall } => {
            vec![("id", (*id).into()), ("reason", reason.as_str().into()), ("died_unix_ms", wall.0.into())]
        }
        Record::Redriven { id, time, queue, order } => {
            let mut fields =
                vec![("id", (*id).into()), ("time_ms", time.0.into()), ("queue", (*queue).into())];
            fields.extend((*order != 0).then(|| ("order", (*order).into())));
            fields
        }
        Record::Snapshot(snapshot) => snapshot_fields(snapshot, payloads),
        Record::Mark(mark) => {
            let run = |&(sequence, first_id, count): &(u64, u64, u32)| json!({ "sequence": sequence, "first_id": first_id, "count": count });
            vec![
                ("namespace", mark.namespace.into()),
                ("producer", mark.producer.0.into()),
                ("unanswered_from", mark.unanswered_from.into()),
                ("runs", mark.runs.iter().map(run).collect()),
            ]
        }
        Record::Retired { namespace, producer } => {
            vec![("namespace", (*namespace).into()), ("producer", producer.0.into())]
        }
        Record::Settings(settings) => {
            let own: serde_json::Map<_, _> =
                settings.settings.iter().map(|&(key, value)| (key.to_owned(), value.into())).collect();
            vec![
                ("namespace", settings.namespace.into()),
                ("queue", settings.queue.into()),
                ("settings", own.into()),
            ]
        }
        Record::Schedule(schedule) => schedule_fields(schedule),
        Record::Dedup(dedup) => dedup_fields(dedup),
        Record::Binding(binding) => vec![
            ("namespace", binding.namespace.into()),
            ("name", binding.name.into()),
            ("pattern", binding.pattern.into()),
            ("filter", binding.filter.into()),
            ("queue", binding.queue.into()),
            ("when_full", json!(binding.when_full)),
        ],
        Record::Copies(copies) => copies_fields(copies, payloads),
    }
}

fn schedule_fields(schedule: &ScheduleRecord<'_>) -> Fields {
    let mut fields = vec![("namespace", schedule.namespace.into()), ("name", schedule.name.into())];
    match &schedule.plan {
        None => fields.push(("removed", true.into())),
        Some(plan) => fields.extend([
            ("cron", plan.cron.into()),
            ("zone", plan.zone.into()),
            ("queue", plan.queue.into()),
            ("misfire", plan.misfire.as_str().into()),
            ("missed_max", plan.missed_max.into()),
            ("paused", plan.is_paused.into()),
            ("since_unix_ms", plan.since.0.into()),
            ("fired_unix_ms", plan.fired.0.into()),
            ("bytes", plan.body.len().into()),
        ]),
    }
    fields
}

fn publish_fields(publish: &PublishRecord<'_>, payloads: bool) -> Fields {
    let mut fields = vec![
        ("time_ms", publish.time.0.into()),
        ("published_unix_ms", publish.wall.0.into()),
        ("namespace", publish.namespace.into()),
        ("queue", publish.queue.into()),
    ];
    if let Some(producer) = publish.producer {
        fields.push(("producer", producer.producer.0.into()));
        fields.push(("sequence", producer.sequence.into()));
        fields.push(("unanswered_from", producer.unanswered_from.into()));
    }
    if !publish.acks.is_empty() {
        fields.push(("acks", publish.acks.clone().into()));
    }
    if let Some((schedule, fired)) = publish.schedule {
        fields.extend([("schedule", schedule.into()), ("fired_unix_ms", fired.0.into())]);
    }
    if !publish.targets.is_empty() {
        // The messages of the second target have the ids that follow, and so on.
        let count = publish.messages.len().max(1);
        let ids = (publish.first_id..).step_by(count);
        let targets = publish.targets.iter().zip(ids).zip(publish.takes.chunks(count));
        let target = |((target, first), takes): ((&Target<'_>, u64), &[u8])| {
            let ids = (first..).zip(takes).filter(|(_, takes)| **takes > 0).map(|(id, _)| id);
            json!({ "queue": target.queue, "ids": ids.collect::<Vec<_>>() })
        };
        fields.push(("targets", targets.map(target).collect()));
    }
    let mut bodies = publish.bodies;
    let messages = (publish.first_id..).zip(&publish.messages).map(|(id, published)| {
        let header = &published.message.header;
        let (body, rest) = bodies.split_at(published.message.body_len as usize);
        bodies = rest;
        let mut message = json!({ "id": id, "priority": header.priority, "bytes": body.len() });
        let options = [
            ("delay_ms", header.delay_ms),
            ("due_unix_ms", header.due.0),
            ("ttl_ms", header.ttl_ms),
            ("attempts_max", u64::from(header.attempts_max)),
        ];
        for (name, value) in options.into_iter().filter(|option| option.1 != 0) {
            message[name] = value.into();
        }
        if payloads {
            carried(body).into_iter().for_each(|(name, value)| message[name] = value);
        }
        message
    });
    fields.push(("messages", messages.collect()));
    fields
}

fn dedup_fields(dedup: &DedupRecord<'_>) -> Fields {
    let id = |(message, expires, _): &(u64, Time, Digest)| json!({ "id": message, "expires_ms": expires.0 });
    vec![
        ("namespace", dedup.namespace.into()),
        ("queue", dedup.queue.into()),
        ("ids", dedup.ids.iter().map(id).collect()),
    ]
}

fn copies_fields(copies: &[(SnapshotRecord<'_>, u32)], payloads: bool) -> Fields {
    let object = |(copy, _): &(SnapshotRecord<'_>, u32)| {
        let fields = snapshot_fields(copy, payloads).into_iter();
        Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect())
    };
    vec![("copies", copies.iter().map(object).collect())]
}

fn snapshot_fields(snapshot: &SnapshotRecord<'_>, payloads: bool) -> Fields {
    let mut fields = vec![
        ("id", snapshot.id.into()),
        ("namespace", snapshot.namespace.into()),
        ("queue", snapshot.queue.into()),
        ("published_unix_ms", snapshot.published.0.into()),
        ("attempt", snapshot.attempt.into()),
        ("boot", snapshot.boot.0.into()),
        ("attempts_counted", snapshot.spent.into()),
        ("attempts_max", snapshot.attempts_max.into()),
        ("priority", snapshot.priority.into()),
    ];
    fields.extend(standing(snapshot.standing));
    let options = [
        ("died_unix_ms", snapshot.died.0),
        ("expires_ms", snapshot.expires.0),
        ("due_unix_ms", snapshot.due.0),
        ("order", snapshot.order),
    ];
    fields.extend(options.into_iter().filter(|option| option.1 != 0).map(|(name, at)| (name, at.into())));
    if !snapshot.failures.is_empty() {
        let failure = |failure: &crate::queue::record::Failure<'_>| {
            json!({
                "attempt": failure.attempt, "failed_unix_ms": failure.wall.0, "client": failure.client,
                "error": failure.error,
            })
        };
        fields.push(("history", snapshot.failures.iter().map(failure).collect()));
    }
    fields.push(("bytes", snapshot.body.len().into()));
    if payloads {
        fields.extend(carried(snapshot.body));
    }
    fields
}

fn standing(standing: Standing) -> Fields {
    match standing {
        Standing::Ready => vec![("state", "ready".into())],
        Standing::Scheduled(until) => vec![("state", "scheduled".into()), ("until_ms", until.0.into())],
        Standing::AttemptOpen => vec![("state", "leased".into())],
        Standing::Holding(reason) => {
            vec![("state", "dead".into()), ("reason", reason.as_str().into()), ("holds_its_key", true.into())]
        }
        Standing::Dead(reason) => vec![("state", "dead".into()), ("reason", reason.as_str().into())],
    }
}

/// What an encoded message carries: text where it is text.
fn carried(body: &[u8]) -> Fields {
    let Ok(message) = proto::Message::decode(body) else {
        return vec![("message_base64", STANDARD.encode(body).into())];
    };
    let mut fields = Vec::new();
    if !message.attributes.is_empty() {
        fields.push(("attributes", json!(message.attributes)));
    }
    fields.push(match std::str::from_utf8(&message.payload) {
        Ok(text) => ("payload_text", text.into()),
        Err(_) => ("payload_base64", STANDARD.encode(&message.payload).into()),
    });
    fields
}

/// A field for people: `name=value`, a wall clock's time as a date.
pub(super) fn in_words(name: &str, value: &Value) -> String {
    match (name.strip_suffix("_unix_ms"), value) {
        (Some(name), Value::Number(at)) => format!("{name}={}", shown::stamp(at.as_u64().unwrap_or(0))),
        (None, Value::String(text)) if !text.is_empty() && !text.contains(is_awkward) => {
            format!("{name}={}", table::clean(text, usize::MAX))
        }
        _ => format!("{name}={value}"),
    }
}

/// Whether a text with this character is better quoted.
fn is_awkward(character: char) -> bool {
    character.is_whitespace() || character.is_control() || matches!(character, '"' | '=' | '\\')
}
