//! What an operator sets for one namespace in place of the configuration, and what it holds.
//!
//! Kept like the settings of a queue ([`super::settings`]): as texts, in a record of the same kind without a queue's name.

use crate::config::units::{parse_count, parse_size, show_size};
use crate::ids::{ConnKey, Namespace};
use crate::limits;
use crate::mail::{Effect, NamespaceStats, OperatorReply, RefusalCode, Refused, SettingRow};
use crate::queue::config::NamespaceRules;
use crate::queue::queues::NamespaceId;
use crate::queue::record::{self, SettingsRecord};
use crate::queue::{Brain, Held, Turn, refused, release};

/// One key.
struct Setting {
    key: &'static str,
    about: &'static str,
    kind: Kind,
    field: fn(&mut NamespaceRules) -> &mut Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// 0 is for none.
    Bound,
    /// In bytes.
    SizeBound,
    Weight,
}

impl Kind {
    fn parse(self, text: &str) -> Option<u64> {
        match self {
            Self::Bound => parse_count(text),
            Self::SizeBound => parse_size(text),
            Self::Weight => {
                parse_count(text).filter(|weight| (1..=u64::from(limits::WEIGHT_MAX)).contains(weight))
            }
        }
    }

    fn show(self, value: Option<u64>) -> String {
        match (self, value) {
            (Self::SizeBound, Some(size)) => show_size(size),
            (Self::Weight, None) => "1".to_owned(),
            (_, value) => value.unwrap_or(0).to_string(),
        }
    }

    fn allowed(self) -> String {
        match self {
            Self::Bound => "a number, or 0 for no bound".to_owned(),
            Self::SizeBound => "a size, such as 64MiB, or 0 for no bound".to_owned(),
            Self::Weight => format!("1 to {}", limits::WEIGHT_MAX),
        }
    }
}

const SETTINGS: [Setting; 6] = [
    Setting {
        key: "messages_max",
        about: "messages that wait or are worked on; 0 for no bound",
        kind: Kind::Bound,
        field: |rules| &mut rules.messages_max,
    },
    Setting {
        key: "bytes_max",
        about: "their bytes; 0 for no bound",
        kind: Kind::SizeBound,
        field: |rules| &mut rules.bytes_max,
    },
    Setting {
        key: "leased_max",
        about: "messages leased at once; 0 for no bound",
        kind: Kind::Bound,
        field: |rules| &mut rules.leased_max,
    },
    Setting {
        key: "publish_per_s",
        about: "messages published a second; 0 for no bound",
        kind: Kind::Bound,
        field: |rules| &mut rules.publish_per_s,
    },
    Setting {
        key: "deliver_per_s",
        about: "messages delivered a second; 0 for no bound",
        kind: Kind::Bound,
        field: |rules| &mut rules.deliver_per_s,
    },
    Setting {
        key: "weight",
        about: "its share of deliveries beside other namespaces that have messages",
        kind: Kind::Weight,
        field: |rules| &mut rules.weight,
    },
];

type Texts = Vec<(Box<str>, Box<str>)>;

fn find(key: &str) -> Result<&'static Setting, String> {
    let keys = SETTINGS.map(|setting| setting.key);
    let found = SETTINGS.iter().find(|setting| setting.key == key);
    found.ok_or_else(|| format!("{key:?} is no setting of a namespace; there are {}", keys.join(", ")))
}

/// Lays one setting over `rules`. The error names the key, the value and what is allowed.
fn apply(rules: &mut NamespaceRules, key: &str, value: &str) -> Result<(), String> {
    let setting = find(key)?;
    let Some(number) = setting.kind.parse(value) else {
        return Err(format!("{key} = {value:?} is not allowed; it is {}", setting.kind.allowed()));
    };
    *(setting.field)(rules) = Some(number).filter(|&number| number > 0);
    Ok(())
}

fn rows(mut rules: NamespaceRules, own: &Texts) -> Vec<SettingRow> {
    let row = |setting: &Setting| SettingRow {
        key: setting.key.to_owned(),
        value: setting.kind.show(*(setting.field)(&mut rules)),
        is_own: own.iter().any(|(key, _)| **key == *setting.key),
        about: setting.about,
    };
    SETTINGS.iter().map(row).collect()
}

fn weight_of(rules: &NamespaceRules) -> u32 {
    rules.weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1)
}

impl Brain {
    /// Sets, or with `None` resets, the bounds of a namespace; all of it or nothing. Answered once durable.
    pub(super) fn set_namespace(
        &mut self,
        conn: ConnKey,
        namespace: &Namespace,
        changes: &[(String, Option<String>)],
        turn: &mut Turn<'_>,
    ) {
        match self.try_set_namespace(namespace, changes, turn) {
            Ok(reply) => turn.push_durable(Effect::Operator { conn, reply: Box::new(reply) }),
            Err(refused) => {
                let reply = Box::new(OperatorReply::Refused(refused));
                turn.push_now(Effect::Operator { conn, reply });
            }
        }
    }

    fn try_set_namespace(
        &mut self,
        namespace: &Namespace,
        changes: &[(String, Option<String>)],
        turn: &mut Turn<'_>,
    ) -> Result<OperatorReply, Refused> {
        let invalid = |text: String| refused(RefusalCode::Invalid, text, 0);
        let found = self.queues.find_namespace(namespace.as_str());
        let mut settings = found.map_or_else(Vec::new, |id| self.queues.tenant(id).quota.settings.clone());
        for (key, value) in changes {
            find(key).map_err(invalid)?;
            let at = settings.binary_search_by(|(own, _)| (**own).cmp(key));
            match (at, value) {
                (Ok(at), Some(value)) => settings[at].1 = value.as_str().into(),
                (Err(at), Some(value)) => settings.insert(at, (key.as_str().into(), value.as_str().into())),
                (Ok(at), None) => drop(settings.remove(at)),
                (Err(_), None) => {}
            }
        }
        let mut rules = self.config.namespace;
        for (key, value) in &settings {
            apply(&mut rules, key, value).map_err(invalid)?;
        }
        let id = self
            .queues
            .intern(namespace.as_str(), self.config.namespaces_max)
            .map_err(|full| self.names_full(full))?;
        let is_reset = settings.is_empty();
        let quota = &mut self.queues.tenant_mut(id).quota;
        let old = std::mem::take(&mut quota.held);
        (quota.settings, quota.rules) = (settings, rules);
        quota.reset_rates();
        self.turns.weigh(id, weight_of(&rules));
        self.append_namespace(id, turn);
        release(turn, old);
        if is_reset {
            // Only amends; nothing is left to keep it for.
            release(turn, std::mem::take(&mut self.queues.tenant_mut(id).quota.held));
        }
        // Who waited may have no reason to any more.
        let of_it = self.queues.slab.iter().filter(|(_, queue)| queue.namespace == id);
        let of_it: Vec<u32> = of_it.map(|(queue, _)| queue as u32).collect();
        of_it.into_iter().for_each(|queue| self.mark_dirty(queue));
        Ok(self.namespace_settings(namespace))
    }

    fn append_namespace(&mut self, namespace: NamespaceId, turn: &mut Turn<'_>) {
        self.scratch.clear();
        let tenant = self.queues.tenant_mut(namespace);
        let pairs = tenant.quota.settings.iter().map(|(key, value)| (&**key, &**value));
        record::encode_settings(&mut self.scratch, &tenant.name, "", pairs);
        let position = turn.journal.append(&[&self.scratch]);
        tenant.quota.held = Held { position, len: self.scratch.len() as u32 };
    }

    pub(super) fn relocate_namespace(
        &mut self,
        held: Held,
        record: &SettingsRecord<'_>,
        turn: &mut Turn<'_>,
    ) {
        let Some(namespace) = self.queues.find_namespace(record.namespace) else { return };
        let kept = self.queues.tenant(namespace).quota.held;
        if kept.len > 0 && kept.position == held.position {
            self.append_namespace(namespace, turn);
            release(turn, held);
        }
    }

    pub(super) fn replay_namespace(&mut self, held: Held, record: &SettingsRecord<'_>) {
        let namespace = self.intern_again(record.namespace);
        let mut rules = self.config.namespace;
        for (key, value) in &record.settings {
            if let Err(text) = apply(&mut rules, key, value) {
                tracing::warn!(namespace = record.namespace, "a setting is left out: {text}");
            }
        }
        let settings: Texts =
            record.settings.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        let quota = &mut self.queues.tenant_mut(namespace).quota;
        quota.held = if settings.is_empty() { Held::default() } else { held };
        (quota.settings, quota.rules) = (settings, rules);
        self.turns.weigh(namespace, weight_of(&rules));
    }

    /// The bounds of a namespace, its own or the configuration's, and what it holds.
    pub(super) fn namespace_settings(&self, namespace: &Namespace) -> OperatorReply {
        let Some(id) = self.queues.find_namespace(namespace.as_str()) else {
            let rows = rows(self.config.namespace, &Texts::new());
            return OperatorReply::Namespace(rows, NamespaceStats::default());
        };
        let tenant = self.queues.tenant(id);
        let stats = NamespaceStats {
            messages: tenant.messages,
            bytes: tenant.bytes,
            leased: tenant.leased,
            parked_bytes: tenant.parked_bytes,
            queues: tenant.queues as u64,
            mailboxes: tenant.mailboxes as u64,
        };
        OperatorReply::Namespace(rows(tenant.quota.rules, &tenant.quota.settings), stats)
    }
}
