//! Bindings: which topics' messages go to which queues and mailboxes, and what operators do with them.
//!
//! A binding is durable, as the texts it was given; a filter that a later version does not read any more takes nothing rather
//! than everything. A publish finds its bindings with [`Trie::find`] and then asks each one's filter, so it costs as much as
//! there are bindings whose pattern takes the topic, whatever others there are.

use std::collections::BTreeMap;
use std::ops::Bound;

use slab::Slab;

use crate::ids::{ConnKey, Namespace, QueueName};
use crate::limits::{self, FILTER_LOOKS_MAX};
use crate::log::Ticket;
use crate::mail::{
    BindingRow, BindingSpec, Effect, OperatorReply, OperatorRequest, PublishMessage, RefusalCode, Refused,
    TargetFull,
};
use crate::message::message_attributes;
use crate::queue::filter::Filter;
use crate::queue::pattern::{self, Trie};
use crate::queue::queues::{NamesFull, NamespaceId};
use crate::queue::record::{self, BindingRecord};
use crate::queue::{Brain, Held, Turn, refused, release};

/// One binding.
#[derive(Debug)]
pub(super) struct Binding {
    namespace: NamespaceId,
    name: Box<str>,
    pattern: Box<str>,
    filter: Box<str>,
    reads: Reads,
    to: Box<str>,
    when_full: TargetFull,
    /// The record that holds it.
    pub(super) held: Held,
    taken: u64,
    dropped: u64,
}

/// A filter, read.
#[derive(Debug)]
enum Reads {
    All,
    Some(Filter),
    /// An earlier version understood it.
    None,
}

impl Reads {
    fn tests(&self) -> usize {
        match self {
            Self::Some(filter) => filter.tests(),
            Self::All | Self::None => 0,
        }
    }
}

/// A queue that messages of one publish go to.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) to: Box<str>,
    /// By message: 1 when it goes there.
    pub(super) takes: Vec<u8>,
    /// Otherwise it misses them when it is full.
    pub(super) waits: bool,
    /// Whose queue it is, and which of the messages each takes.
    bindings: Vec<(u32, Vec<u8>)>,
}

impl Wanted {
    /// How many messages, and their bytes.
    pub(super) fn sums(&self, messages: &[PublishMessage]) -> (u64, u64) {
        let taken = self.takes.iter().zip(messages).filter(|(takes, _)| **takes > 0);
        taken.fold((0, 0), |(count, bytes), (_, message)| (count + 1, bytes + u64::from(message.body_len)))
    }
}

/// Those of one tenant.
#[derive(Debug, Default)]
struct OfTenant {
    by_name: BTreeMap<Box<str>, u32>,
    trie: Trie,
    /// Those of system topics.
    system: usize,
}

/// All bindings.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    all: Slab<Binding>,
    /// By namespace.
    tenants: Vec<OfTenant>,
}

impl Bindings {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.all.iter().map(|(_, binding)| binding)
    }

    /// Whether a system topic of this tenant is bound.
    pub(super) fn has_system(&self, namespace: NamespaceId) -> bool {
        self.tenants.get(namespace as usize).is_some_and(|of| of.system > 0)
    }

    /// The tenants of which a system topic is bound.
    pub(super) fn with_system(&self) -> Vec<NamespaceId> {
        let bound = self.tenants.iter().enumerate().filter(|(_, of)| of.system > 0);
        bound.map(|(namespace, _)| namespace as NamespaceId).collect()
    }

    /// The queues that messages of a topic go to, by name, each with at least one of them.
    ///
    /// # Errors
    /// The filters would have to look at more than [`FILTER_LOOKS_MAX`] attributes.
    pub(super) fn wanted(
        &self,
        namespace: NamespaceId,
        topic: &str,
        messages: &[PublishMessage],
        bodies: &[u8],
    ) -> Result<Vec<Wanted>, Refused> {
        let Some(of) = self.tenants.get(namespace as usize).filter(|of| !of.by_name.is_empty()) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        of.trie.find(topic, |number| found.push(number));
        let tests = found.iter().map(|&number| self.at(number).reads.tests()).sum();
        let attributes = if tests > 0 { attributes_of(messages, bodies) } else { Vec::new() };
        check_looks(tests, &attributes)?;
        let mut wanted: BTreeMap<&str, Wanted> = BTreeMap::new();
        for number in found {
            let binding = self.at(number);
            let takes: Vec<u8> = match &binding.reads {
                Reads::All => vec![1; messages.len()],
                Reads::Some(filter) => {
                    attributes.iter().map(|attributes| u8::from(filter.takes(attributes))).collect()
                }
                Reads::None => continue,
            };
            if !takes.contains(&1) {
                continue;
            }
            let waits = binding.when_full == TargetFull::Wait;
            let entry = wanted.entry(&binding.to).or_insert_with(|| Wanted {
                to: binding.to.clone(),
                takes: vec![0; messages.len()],
                waits: false,
                bindings: Vec::new(),
            });
            entry.takes.iter_mut().zip(&takes).for_each(|(all, own)| *all |= own);
            entry.waits |= waits;
            entry.bindings.push((number, takes));
        }
        Ok(wanted.into_values().collect())
    }

    /// Counts what a queue took, or missed.
    pub(super) fn count(&mut self, wanted: &Wanted, is_taken: bool) {
        for (number, takes) in &wanted.bindings {
            let binding = &mut self.all[*number as usize];
            // Less what its queue had already.
            let count = takes.iter().zip(&wanted.takes).map(|(own, all)| u64::from(own & all)).sum::<u64>();
            *if is_taken { &mut binding.taken } else { &mut binding.dropped } += count;
        }
    }

    fn at(&self, number: u32) -> &Binding {
        &self.all[number as usize]
    }

    fn find(&self, namespace: NamespaceId, name: &str) -> Option<u32> {
        self.tenants.get(namespace as usize)?.by_name.get(name).copied()
    }

    fn of_mut(&mut self, namespace: NamespaceId) -> &mut OfTenant {
        let at = namespace as usize;
        if self.tenants.len() <= at {
            self.tenants.resize_with(at + 1, OfTenant::default);
        }
        &mut self.tenants[at]
    }

    /// There is none of this name.
    fn insert(&mut self, binding: Binding) -> u32 {
        let (name, pattern, namespace) = (binding.name.clone(), binding.pattern.clone(), binding.namespace);
        let number = self.all.insert(binding) as u32;
        let of = self.of_mut(namespace);
        of.trie.insert(&pattern, number);
        of.system += usize::from(pattern::is_system(&pattern));
        of.by_name.insert(name, number);
        number
    }

    fn remove(&mut self, number: u32) -> Binding {
        let binding = self.all.remove(number as usize);
        let of = self.of_mut(binding.namespace);
        of.trie.remove(&binding.pattern, number);
        of.system -= usize::from(pattern::is_system(&binding.pattern));
        of.by_name.remove(&binding.name);
        binding
    }

    fn row(&self, number: u32) -> BindingRow {
        let binding = self.at(number);
        BindingRow {
            name: binding.name.to_string(),
            pattern: binding.pattern.to_string(),
            filter: binding.filter.to_string(),
            to: binding.to.to_string(),
            when_full: binding.when_full,
            taken: binding.taken,
            dropped: binding.dropped,
        }
    }

    /// Panics when the lists contradict each other.
    pub(super) fn check(&self) {
        let listed: usize = self.tenants.iter().map(|of| of.by_name.len()).sum();
        assert_eq!(listed, self.all.len(), "bindings that are not found");
        for (number, binding) in &self.all {
            assert_eq!(self.find(binding.namespace, &binding.name), Some(number as u32), "{binding:?}");
        }
        for (namespace, of) in self.tenants.iter().enumerate() {
            let own = self.iter().filter(|binding| binding.namespace as usize == namespace);
            let system = own.filter(|binding| pattern::is_system(&binding.pattern)).count();
            assert_eq!(system, of.system, "bindings of system topics");
        }
    }
}

fn check_looks(tests: usize, attributes: &[Vec<(&str, &str)>]) -> Result<(), Refused> {
    // To find that there is none is a look as well.
    let looks = tests.saturating_mul(attributes.iter().map(|of_one| of_one.len().max(1)).sum());
    if looks <= FILTER_LOOKS_MAX {
        return Ok(());
    }
    let text = format!(
        "the filters bound to this topic have {tests} tests: with {} messages and their attributes that is {looks} looks, more \
         than the {FILTER_LOOKS_MAX} of one publish; publish fewer messages at once, or bind filters to narrower patterns",
        attributes.len()
    );
    Err(refused(RefusalCode::LimitReached, text, 0))
}

fn attributes_of<'a>(messages: &[PublishMessage], bodies: &'a [u8]) -> Vec<Vec<(&'a str, &'a str)>> {
    let mut left = bodies;
    let of = |message: &PublishMessage| {
        let (body, rest) = left.split_at(message.body_len as usize);
        left = rest;
        message_attributes(body).collect()
    };
    messages.iter().map(of).collect()
}

impl Brain {
    /// What operators ask about bindings.
    pub(super) fn operate_bindings(&mut self, conn: ConnKey, request: OperatorRequest, turn: &mut Turn<'_>) {
        match request {
            OperatorRequest::Bind { namespace, binding } => self.bind(conn, &namespace, binding, turn),
            OperatorRequest::Unbind { namespace, name } => self.unbind(conn, &namespace, &name, turn),
            OperatorRequest::Bindings { namespace, after, limit } => {
                let reply = Box::new(self.bindings_of(&namespace, after.as_deref(), limit));
                turn.push_now(Effect::Operator { conn, reply });
            }
            _ => {}
        }
    }

    /// Binds what an operator asks for; answered once durable.
    fn bind(&mut self, conn: ConnKey, namespace: &Namespace, spec: BindingSpec, turn: &mut Turn<'_>) {
        match self.try_bind(namespace, spec, turn) {
            Ok(row) => {
                let reply = Box::new(OperatorReply::Bindings(vec![row]));
                turn.push_durable(Effect::Operator { conn, reply });
            }
            Err(refused) => {
                let reply = Box::new(OperatorReply::Refused(refused));
                turn.push_now(Effect::Operator { conn, reply });
            }
        }
    }

    fn try_bind(
        &mut self,
        namespace: &Namespace,
        spec: BindingSpec,
        turn: &mut Turn<'_>,
    ) -> Result<BindingRow, Refused> {
        let invalid = |text: String| refused(RefusalCode::Invalid, text, 0);
        pattern::check(&spec.pattern).map_err(invalid)?;
        let max = limits::QUEUE_NAME_BYTES_MAX - QueueName::TOPIC_PREFIX.len();
        if spec.pattern.len() > max || !spec.pattern.chars().all(|c| c.is_ascii_graphic()) {
            return Err(invalid(format!(
                "a pattern has at most {max} characters, printable ASCII without spaces"
            )));
        }
        let reads = read_filter(&spec.filter).map_err(invalid)?;
        if spec.to.topic().is_some() {
            return Err(invalid(format!("{} is a topic; topics are bound to queues and mailboxes", spec.to)));
        }
        let name = spec.name.unwrap_or_else(|| format!("{}:{}", spec.pattern, spec.to));
        let max = limits::BINDING_NAME_BYTES_MAX;
        if name.is_empty() || name.len() > max || !name.chars().all(|c| c.is_ascii_graphic()) {
            let text = format!("a binding's name has 1 to {max} characters, printable ASCII without spaces");
            return Err(invalid(text));
        }
        let namespace = self
            .queues
            .intern(namespace.as_str(), self.config.namespaces_max)
            .map_err(|full| self.names_full(full))?;
        let (old, max) = (self.bindings.find(namespace, &name), limits::BINDINGS_PER_NAMESPACE_MAX);
        if old.is_none() && self.bindings.of_mut(namespace).by_name.len() >= max {
            return Err(self.names_full(NamesFull { what: "bindings of this namespace", max }));
        }
        let is_mailbox = spec.to.mailbox_owner().is_some();
        let default = if is_mailbox { TargetFull::Drop } else { TargetFull::Wait };
        let binding = Binding {
            namespace,
            name: name.into(),
            pattern: spec.pattern.into(),
            filter: spec.filter.into(),
            reads,
            to: spec.to.as_str().into(),
            when_full: spec.when_full.unwrap_or(default),
            held: Held::default(),
            taken: 0,
            dropped: 0,
        };
        if let Some(old) = old {
            self.end_binding(old, turn);
        }
        let number = self.bindings.insert(binding);
        self.append_binding(number, turn);
        self.metrics.bindings.set(self.bindings.len() as u64);
        Ok(self.bindings.row(number))
    }

    /// Ends the binding of this name; answered once durable.
    fn unbind(&mut self, conn: ConnKey, namespace: &Namespace, name: &str, turn: &mut Turn<'_>) {
        let tenant = self.queues.find_namespace(namespace.as_str());
        let found = tenant.and_then(|tenant| self.bindings.find(tenant, name));
        if let Some(number) = found {
            self.end_binding(number, turn);
            let ended = BindingRecord {
                namespace: namespace.as_str(),
                name,
                pattern: "",
                filter: "",
                queue: "",
                when_full: TargetFull::Wait,
            };
            self.append_amendment(turn, |out| record::encode_binding(out, &ended));
            self.metrics.bindings.set(self.bindings.len() as u64);
        }
        let reply = Box::new(OperatorReply::Changed(u64::from(found.is_some())));
        // Where nothing was written there is no commit to wait for.
        let after = if found.is_some() { turn.journal.open_ticket() } else { Ticket::DURABLE };
        turn.outbox.push(after, Effect::Operator { conn, reply }, &[]);
    }

    /// A binding is gone; whoever waited for its queue on its account waits no more.
    fn end_binding(&mut self, number: u32, turn: &mut Turn<'_>) {
        let ended = self.bindings.remove(number);
        release(turn, ended.held);
        if let Some(queue) = self.queues.find(ended.namespace, &ended.to) {
            self.mark_dirty(queue);
        }
    }

    fn bindings_of(&self, namespace: &Namespace, after: Option<&str>, limit: usize) -> OperatorReply {
        let tenant = self.queues.find_namespace(namespace.as_str());
        let of = tenant.and_then(|tenant| self.bindings.tenants.get(tenant as usize));
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = of.map_or_else(Vec::new, |of| {
            let page = of.by_name.range::<str, _>((after, Bound::Unbounded));
            page.take(limit.min(limits::PAGE_ROWS_MAX))
                .map(|(_, &number)| self.bindings.row(number))
                .collect()
        });
        OperatorReply::Bindings(rows)
    }

    fn append_binding(&mut self, number: u32, turn: &mut Turn<'_>) {
        self.scratch.clear();
        let binding = self.bindings.at(number);
        let record = BindingRecord {
            namespace: &self.queues.tenant(binding.namespace).name,
            name: &binding.name,
            pattern: &binding.pattern,
            filter: &binding.filter,
            queue: &binding.to,
            when_full: binding.when_full,
        };
        record::encode_binding(&mut self.scratch, &record);
        let position = turn.journal.append(&[&self.scratch]);
        self.bindings.all[number as usize].held = Held { position, len: self.scratch.len() as u32 };
    }

    /// Compaction comes to the record of a binding.
    pub(super) fn relocate_binding(&mut self, held: Held, record: &BindingRecord<'_>, turn: &mut Turn<'_>) {
        let tenant = self.queues.find_namespace(record.namespace);
        let found = tenant.and_then(|tenant| self.bindings.find(tenant, record.name));
        if let Some(number) = found.filter(|&number| self.bindings.at(number).held.position == held.position)
        {
            self.append_binding(number, turn);
            release(turn, held);
        }
    }

    /// Takes in a recovered record of a binding, `held` by the log.
    pub(super) fn replay_binding(&mut self, held: Held, record: &BindingRecord<'_>) {
        let namespace = self.intern_again(record.namespace);
        if let Some(old) = self.bindings.find(namespace, record.name) {
            self.bindings.remove(old);
        }
        if record.pattern.is_empty() {
            return;
        }
        let reads = read_filter(record.filter).unwrap_or_else(|text| {
            tracing::warn!(binding = record.name, "it takes nothing until it is bound anew: {text}");
            Reads::None
        });
        self.bindings.insert(Binding {
            namespace,
            name: record.name.into(),
            pattern: record.pattern.into(),
            filter: record.filter.into(),
            reads,
            to: record.queue.into(),
            when_full: record.when_full,
            held,
            taken: 0,
            dropped: 0,
        });
    }
}

fn read_filter(text: &str) -> Result<Reads, String> {
    if text.trim().is_empty() {
        return Ok(Reads::All);
    }
    Filter::parse(text).map(Reads::Some).map_err(|error| error.to_string())
}
