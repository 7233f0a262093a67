//! What an operator sets for one queue in place of the configuration: every key, its bounds and what it is for.
//!
//! Settings are kept, and written to the log, as the texts they were given as: what was not set follows the configuration,
//! and a text that a later version does not allow any more is left out rather than guessed at.

use std::time::Duration;

use crate::config::units::{parse_count, parse_duration, parse_size, show_duration, show_size};
use crate::ids::{ConnKey, Namespace, QueueName};
use crate::limits;
use crate::mail::{Effect, OperatorReply, RefusalCode, Refused, SettingRow};
use crate::queue::config::{DeadHead, QueueRules, WhenFull};
use crate::queue::record::{self, SettingsRecord};
use crate::queue::{Brain, Held, Turn, refused, release};

/// What a queue has of its own.
#[derive(Debug)]
pub(super) struct Own {
    /// Keys and values, by key.
    pub(super) settings: Vec<(Box<str>, Box<str>)>,
    /// The configuration with them in place.
    pub(super) rules: QueueRules,
    /// The record that holds them.
    pub(super) held: Held,
}

/// One key. A key that ends in a dot is followed by a name.
struct Setting {
    key: &'static str,
    about: &'static str,
    kind: Kind,
}

type Field<T> = fn(&mut QueueRules) -> &mut T;

enum Kind {
    Count(Field<u64>, u64, u64),
    Size(Field<u64>, u64, u64),
    Percent(Field<u32>, u32, u32),
    Time(Field<Duration>, Duration, Duration),
    /// `0` for never.
    TimeOrNever(Field<Option<Duration>>, Duration),
    /// `0` for as many as something else says.
    CountOr(Field<Option<u64>>, &'static str),
    /// The same of bytes.
    SizeOr(Field<Option<u64>>, &'static str),
    /// `0` for no bound.
    Rate(Field<Option<u64>>),
    WhenFull,
    DeadHead,
    Weight,
}

const MILLISECOND: Duration = Duration::from_millis(1);
/// The weight of the fairness key after the dot.
const WEIGHT_PREFIX: &str = "weight.";

const SETTINGS: &[Setting] = &[
    Setting {
        key: "messages_max",
        about: "messages that wait or are worked on",
        kind: Kind::Count(|r| &mut r.messages_max, 1, 1 << 31),
    },
    Setting { key: "bytes_max", about: "their bytes", kind: Kind::Size(|r| &mut r.bytes_max, 1, 1 << 50) },
    Setting { key: "when_full", about: "what becomes of a publish that does not fit", kind: Kind::WhenFull },
    Setting {
        key: "ttl",
        about: "how long a message may wait that names no ttl; 0 for ever",
        kind: Kind::TimeOrNever(|r| &mut r.ttl, limits::DELAY_MAX),
    },
    Setting {
        key: "attempts",
        about: "attempts at a message that names no number",
        kind: Kind::Percent(|r| &mut r.attempts_max, 1, limits::ATTEMPTS_MAX),
    },
    Setting {
        key: "lease",
        about: "how long a lease lasts",
        kind: Kind::Time(|r| &mut r.lease, limits::LEASE_MIN, limits::LEASE_MAX),
    },
    Setting {
        key: "leased_max",
        about: "messages leased at once",
        kind: Kind::Count(|r| &mut r.leased_max, 1, u64::MAX),
    },
    Setting {
        key: "backoff_initial",
        about: "the first retry delay",
        kind: Kind::Time(|r| &mut r.backoff_initial, MILLISECOND, limits::NACK_DELAY_MAX),
    },
    Setting {
        key: "backoff_factor",
        about: "each further delay in percent of the one before",
        kind: Kind::Percent(
            |r| &mut r.backoff_factor_percent,
            limits::BACKOFF_FACTOR_PERCENT.0,
            limits::BACKOFF_FACTOR_PERCENT.1,
        ),
    },
    Setting {
        key: "backoff_max",
        about: "the longest retry delay",
        kind: Kind::Time(|r| &mut r.backoff_max, MILLISECOND, limits::NACK_DELAY_MAX),
    },
    Setting {
        key: "backoff_jitter",
        about: "the random part that is added to a delay, up to, in percent",
        kind: Kind::Percent(|r| &mut r.backoff_jitter_percent, 0, 100),
    },
    Setting {
        key: "ageing",
        about: "a ready message counts one priority more each time it has waited so long; 0 for never",
        kind: Kind::TimeOrNever(|r| &mut r.ageing, limits::DELAY_MAX),
    },
    Setting {
        key: "dead_head",
        about: "whether an ordering key goes on when its first message died in an attempt",
        kind: Kind::DeadHead,
    },
    Setting {
        key: "publish_per_s",
        about: "messages published a second; 0 for no bound",
        kind: Kind::Rate(|r| &mut r.publish_per_s),
    },
    Setting {
        key: "deliver_per_s",
        about: "messages delivered a second; 0 for no bound",
        kind: Kind::Rate(|r| &mut r.deliver_per_s),
    },
    Setting {
        key: "dead_messages_max",
        about: "dead letters kept, the last that died; 0 for as many as messages_max",
        kind: Kind::CountOr(|r| &mut r.dead_messages_max, "messages_max"),
    },
    Setting {
        key: "dead_bytes_max",
        about: "their bytes; 0 for as many as bytes_max",
        kind: Kind::SizeOr(|r| &mut r.dead_bytes_max, "bytes_max"),
    },
    Setting {
        key: "dead_ttl",
        about: "how long a dead letter is kept; 0 for ever",
        kind: Kind::TimeOrNever(|r| &mut r.dead_ttl, limits::DELAY_MAX),
    },
    Setting {
        key: "dedup_window",
        about: "how long a deduplication id is remembered",
        kind: Kind::Time(|r| &mut r.dedup_window, MILLISECOND, limits::DEDUP_WINDOW_MAX),
    },
    Setting {
        key: "dedup_ids_max",
        about: "deduplication ids remembered at once",
        kind: Kind::Count(|r| &mut r.dedup_ids_max, 1, 1 << 31),
    },
    Setting {
        key: WEIGHT_PREFIX,
        about: "turns of the fairness key after the dot, 1 if not set",
        kind: Kind::Weight,
    },
];

/// Lays one setting over `rules`.
///
/// # Errors
/// The text names the key, the value and what is allowed.
pub(super) fn apply(rules: &mut QueueRules, key: &str, value: &str) -> Result<(), String> {
    let Some(setting) = find(key) else {
        let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.shown()).collect();
        return Err(format!("{key:?} is no setting of a queue; there are {}", keys.join(", ")));
    };
    if setting.kind.set(rules, key, value) {
        return Ok(());
    }
    Err(format!("{key} = {value:?} is not allowed; it is {}", setting.kind.allowed()))
}

fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| match setting.kind {
        Kind::Weight => key.len() > WEIGHT_PREFIX.len() && key.starts_with(WEIGHT_PREFIX),
        _ => setting.key == key,
    })
}

/// What must hold between settings.
fn check_relations(rules: &QueueRules) -> Result<(), String> {
    if rules.backoff_initial > rules.backoff_max {
        let (initial, max) = (show_duration(rules.backoff_initial), show_duration(rules.backoff_max));
        return Err(format!("backoff_initial = {initial} is longer than backoff_max = {max}"));
    }
    Ok(())
}

impl Setting {
    fn shown(&self) -> &str {
        if matches!(self.kind, Kind::Weight) { "weight.<fairness key>" } else { self.key }
    }
}

impl Kind {
    fn set(&self, rules: &mut QueueRules, key: &str, text: &str) -> bool {
        match self {
            Self::Count(field, min, max) => within(field(rules), parse_count(text), *min, *max),
            Self::Size(field, min, max) => within(field(rules), parse_size(text), *min, *max),
            Self::Percent(field, min, max) => {
                let number = parse_count(text).and_then(|number| u32::try_from(number).ok());
                within(field(rules), number, *min, *max)
            }
            Self::Time(field, min, max) => within(field(rules), parse_duration(text), *min, *max),
            Self::TimeOrNever(field, max) => {
                let time = if text == "0" { Some(Duration::ZERO) } else { parse_duration(text) };
                let time = time.filter(|time| time <= max);
                time.map(|time| *field(rules) = Some(time).filter(|time| !time.is_zero())).is_some()
            }
            Self::CountOr(field, _) => {
                let count = parse_count(text).filter(|&count| count <= 1 << 31);
                count.map(|count| *field(rules) = Some(count).filter(|&count| count > 0)).is_some()
            }
            Self::SizeOr(field, _) => {
                let size = if text == "0" { Some(0) } else { parse_size(text) };
                let size = size.filter(|&size| size <= 1 << 50);
                size.map(|size| *field(rules) = Some(size).filter(|&size| size > 0)).is_some()
            }
            Self::Rate(field) => {
                parse_count(text).map(|rate| *field(rules) = Some(rate).filter(|&rate| rate > 0)).is_some()
            }
            Self::WhenFull => WhenFull::parse(text).map(|policy| rules.when_full = policy).is_some(),
            Self::DeadHead => DeadHead::parse(text).map(|policy| rules.dead_head = policy).is_some(),
            Self::Weight => {
                let weight = parse_count(text).and_then(|weight| u32::try_from(weight).ok());
                let weight = weight.filter(|weight| (1..=limits::WEIGHT_MAX).contains(weight));
                let name = key.strip_prefix(WEIGHT_PREFIX).unwrap_or_default();
                weight.map(|weight| rules.weights.insert(name.into(), weight)).is_some()
            }
        }
    }

    fn allowed(&self) -> String {
        match self {
            Self::Count(_, min, u64::MAX) => format!("a number from {min}"),
            Self::Count(_, min, max) => format!("a number from {min} to {max}"),
            Self::Size(_, min, max) => {
                format!("a size from {} to {}, such as 64MiB", show_size(*min), show_size(*max))
            }
            Self::Percent(_, min, max) => format!("a number from {min} to {max}"),
            Self::Time(_, min, max) => {
                format!("a time from {} to {}, such as 30s", show_duration(*min), show_duration(*max))
            }
            Self::TimeOrNever(_, max) => {
                format!("a time of at most {}, such as 30s, or 0", show_duration(*max))
            }
            Self::CountOr(_, other) => format!("a number of at most {}, or 0 for {other}", 1u64 << 31),
            Self::SizeOr(_, other) => format!("a size such as 64MiB, or 0 for {other}"),
            Self::Rate(_) => "a number, or 0 for no bound".to_owned(),
            Self::WhenFull => "wait, reject or dead_letter_oldest".to_owned(),
            Self::DeadHead => "release or hold".to_owned(),
            Self::Weight => format!("a number from 1 to {}", limits::WEIGHT_MAX),
        }
    }

    fn show(&self, rules: &mut QueueRules) -> String {
        match self {
            Self::Count(field, ..) => match *field(rules) {
                u64::MAX => "no bound".to_owned(),
                number => number.to_string(),
            },
            Self::Size(field, ..) => show_size(*field(rules)),
            Self::Percent(field, ..) => field(rules).to_string(),
            Self::Time(field, ..) => show_duration(*field(rules)),
            Self::TimeOrNever(field, _) => field(rules).map_or_else(|| "0".to_owned(), show_duration),
            Self::CountOr(field, _) | Self::Rate(field) => field(rules).unwrap_or(0).to_string(),
            Self::SizeOr(field, _) => field(rules).map_or_else(|| "0".to_owned(), show_size),
            Self::WhenFull => rules.when_full.as_str().to_owned(),
            Self::DeadHead => rules.dead_head.as_str().to_owned(),
            Self::Weight => String::new(),
        }
    }
}

fn within<T: PartialOrd>(field: &mut T, value: Option<T>, min: T, max: T) -> bool {
    let value = value.filter(|value| *value >= min && *value <= max);
    value.map(|value| *field = value).is_some()
}

impl DeadHead {
    fn parse(text: &str) -> Option<Self> {
        [Self::Release, Self::Hold].into_iter().find(|policy| policy.as_str() == text)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Hold => "hold",
        }
    }
}

impl Brain {
    /// Sets, or with `None` resets, what a queue has of its own; all of it or nothing. Answered once durable.
    pub(super) fn set_queue(
        &mut self,
        conn: ConnKey,
        namespace: &Namespace,
        queue: &QueueName,
        changes: &[(String, Option<String>)],
        turn: &mut Turn<'_>,
    ) {
        let reply = match self.try_set_queue(namespace, queue, changes, turn) {
            Ok(rows) => OperatorReply::Settings(rows),
            Err(refused) => {
                return turn
                    .push_now(Effect::Operator { conn, reply: Box::new(OperatorReply::Refused(refused)) });
            }
        };
        turn.push_durable(Effect::Operator { conn, reply: Box::new(reply) });
    }

    fn try_set_queue(
        &mut self,
        namespace: &Namespace,
        name: &QueueName,
        changes: &[(String, Option<String>)],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<SettingRow>, Refused> {
        let invalid = |text: String| refused(RefusalCode::Invalid, text, 0);
        if name.topic().is_some() {
            return Err(invalid(format!("{name} is a topic, which keeps nothing; settings are for queues")));
        }
        let namespace = self
            .queues
            .intern(namespace.as_str(), self.config.namespaces_max)
            .map_err(|full| self.names_full(full))?;
        let own =
            self.queues.find(namespace, name.as_str()).and_then(|queue| self.queues.at(queue).own.as_ref());
        let mut settings = own.map_or_else(Vec::new, |own| own.settings.clone());
        for (key, value) in changes {
            let at = settings.binary_search_by(|(own, _)| (**own).cmp(key));
            match (at, value) {
                (Ok(at), Some(value)) => settings[at].1 = value.as_str().into(),
                (Err(at), Some(value)) => settings.insert(at, (key.as_str().into(), value.as_str().into())),
                (Ok(at), None) => drop(settings.remove(at)),
                (Err(_), None) if find(key).is_some() => {}
                (Err(_), None) => apply(&mut self.config.work_queue.clone(), key, "").map_err(invalid)?,
            }
        }
        if settings.len() > limits::QUEUE_SETTINGS_MAX {
            let text = format!("a queue has at most {} settings", limits::QUEUE_SETTINGS_MAX);
            return Err(refused(RefusalCode::LimitReached, text, 0));
        }
        let mut rules = self.default_rules(name.as_str()).clone();
        for (key, value) in &settings {
            apply(&mut rules, key, value).map_err(invalid)?;
        }
        check_relations(&rules).map_err(invalid)?;
        let queue = self
            .queues
            .open(namespace, name.as_str(), Some(&self.config))
            .map_err(|full| self.names_full(full))?;
        self.mark_dirty(queue);
        self.queues.at_mut(queue).ready.weigh(&rules.weights);
        self.replace_own(queue, settings, rules, turn);
        Ok(self.setting_rows(queue))
    }

    fn replace_own(
        &mut self,
        queue: u32,
        settings: Vec<(Box<str>, Box<str>)>,
        rules: QueueRules,
        turn: &mut Turn<'_>,
    ) {
        self.stop_pace(queue);
        let old = self.queues.at_mut(queue).own.take().map_or_else(Held::default, |own| own.held);
        let is_reset = settings.is_empty();
        self.queues.at_mut(queue).own = Some(Box::new(Own { settings, rules, held: Held::default() }));
        self.append_settings(queue, turn);
        release(turn, old);
        if is_reset && let Some(own) = self.queues.at_mut(queue).own.take() {
            // Only amends; nothing is left to keep it for.
            release(turn, own.held);
        }
        self.time_retention(queue, turn.now.time);
    }

    fn append_settings(&mut self, queue: u32, turn: &mut Turn<'_>) {
        self.scratch.clear();
        let entry = self.queues.at(queue);
        let Some(own) = &entry.own else { return };
        let namespace = &self.queues.tenant(entry.namespace).name;
        let pairs = own.settings.iter().map(|(key, value)| (&**key, &**value));
        record::encode_settings(&mut self.scratch, namespace, &entry.name, pairs);
        let position = turn.journal.append(&[&self.scratch]);
        let held = Held { position, len: self.scratch.len() as u32 };
        if let Some(own) = &mut self.queues.at_mut(queue).own {
            own.held = held;
        }
    }

    /// Compaction comes to a record of settings.
    pub(super) fn relocate_settings(&mut self, held: Held, record: &SettingsRecord<'_>, turn: &mut Turn<'_>) {
        if record.queue.is_empty() {
            return self.relocate_namespace(held, record, turn);
        }
        let found = self.queues.find_namespace(record.namespace);
        let Some(queue) = found.and_then(|namespace| self.queues.find(namespace, record.queue)) else {
            return;
        };
        if self.queues.at(queue).own.as_ref().is_some_and(|own| own.held.position == held.position) {
            self.append_settings(queue, turn);
            release(turn, held);
        }
    }

    /// Takes in a recovered record of settings, `held` by the log.
    pub(super) fn replay_settings(&mut self, held: Held, record: &SettingsRecord<'_>) {
        if record.queue.is_empty() {
            return self.replay_namespace(held, record);
        }
        let namespace = self.intern_again(record.namespace);
        let queue = self.reopen(namespace, record.queue);
        if record.settings.is_empty() {
            self.queues.at_mut(queue).own = None;
            return;
        }
        let mut rules = self.default_rules(record.queue).clone();
        for (key, value) in &record.settings {
            if let Err(text) = apply(&mut rules, key, value) {
                tracing::warn!(queue = record.queue, "a setting is left out: {text}");
            }
        }
        let settings = record.settings.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        self.queues.at_mut(queue).own = Some(Box::new(Own { settings, rules, held }));
    }

    /// Every setting of a queue, its own or the configuration's.
    pub(super) fn settings_of(&self, namespace: &Namespace, name: &QueueName) -> Vec<SettingRow> {
        match self.find_queue(namespace, name) {
            Some(queue) => self.setting_rows(queue),
            None => rows(self.default_rules(name.as_str()), &[]),
        }
    }

    fn setting_rows(&self, queue: u32) -> Vec<SettingRow> {
        let entry = self.queues.at(queue);
        let own = entry.own.as_ref().map_or(&[][..], |own| &own.settings);
        rows(entry.rules(&self.config), own)
    }

    pub(super) fn default_rules(&self, queue: &str) -> &QueueRules {
        let is_mailbox = queue.starts_with(QueueName::MAILBOX_PREFIX);
        if is_mailbox { &self.config.mailbox } else { &self.config.work_queue }
    }
}

fn rows(rules: &QueueRules, own: &[(Box<str>, Box<str>)]) -> Vec<SettingRow> {
    let mut rules = rules.clone();
    let is_own = |key: &str| own.iter().any(|(own, _)| **own == *key);
    let fixed = SETTINGS.iter().filter(|setting| !matches!(setting.kind, Kind::Weight));
    let mut rows: Vec<SettingRow> = fixed
        .map(|setting| SettingRow {
            key: setting.key.to_owned(),
            value: setting.kind.show(&mut rules),
            is_own: is_own(setting.key),
            about: setting.about,
        })
        .collect();
    let about = SETTINGS.last().map_or("", |setting| setting.about);
    rows.extend(rules.weights.iter().map(|(key, weight)| SettingRow {
        key: format!("{WEIGHT_PREFIX}{key}"),
        value: weight.to_string(),
        is_own: true,
        about,
    }));
    rows
}

#[cfg(test)]
mod tests;
