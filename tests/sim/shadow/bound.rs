//! Bindings of topics as the operator asked for them, and the copies of a publish: which there must be, and which may be.
//!
//! A publish that was answered has reached every queue whose binding was there when it was handed over and was not asked to
//! end before its answer. It may have reached the queues of other bindings that take it, as far as those may have been
//! there at all; from no other queue does it ever come.

use std::collections::{BTreeMap, BTreeSet};

use relaymesh::ids::{Namespace, QueueName};

use super::asked::Stage;

/// Topics that are bound, without their prefix.
pub(crate) const TOPICS: [&str; 3] = ["e.a", "e.b", "e.a.x"];

/// A pattern and what it takes.
pub(crate) type Pattern = (&'static str, fn(&str) -> bool);

/// Those that bindings have.
pub(crate) const PATTERNS: [Pattern; 5] = [
    ("e.a", |topic| topic == "e.a"),
    ("e.*", |topic| topic.matches('.').count() == 1),
    ("e.>", |_| true),
    ("*.a.*", |topic| topic == "e.a.x"),
    ("e.b", |topic| topic == "e.b"),
];

/// What filters look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub(crate) kind: Option<&'static str>,
    pub(crate) n: u8,
}

/// A filter and what it takes.
pub(crate) type Filter = (&'static str, fn(Attributes) -> bool);

/// Those that bindings have.
pub(crate) const FILTERS: [Filter; 5] = [
    ("", |_| true),
    ("n < 5", |of| of.n < 5),
    ("kind = 'left' and n >= 3", |of| of.kind == Some("left") && of.n >= 3),
    ("not kind exists or kind starts_with 'ri'", |of| of.kind.is_none_or(|kind| kind.starts_with("ri"))),
    ("kind != 'left'", |of| of.kind.is_some_and(|kind| kind != "left")),
];

/// One binding.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) namespace: Namespace,
    pub(crate) name: String,
    pub(crate) pattern: usize,
    pub(crate) filter: usize,
    pub(crate) to: QueueName,
    /// Its queue is waited for; otherwise it may miss messages.
    pub(crate) waits: bool,
    pub(crate) stage: Stage,
    pub(crate) was_asked: bool,
}

impl Binding {
    fn takes(&self, namespace: &Namespace, topic: usize, attributes: Attributes) -> bool {
        self.namespace == *namespace
            && PATTERNS[self.pattern].1(TOPICS[topic])
            && FILTERS[self.filter].1(attributes)
    }

    fn may_be_there(&self) -> bool {
        self.was_asked && self.stage != Stage::Gone
    }
}

/// A message on its way to a topic.
#[derive(Debug)]
pub(super) struct Fanout {
    namespace: Namespace,
    topic: usize,
    attributes: Attributes,
    /// Numbers of the bindings that were surely there all the time.
    sure: BTreeSet<usize>,
    pub(super) is_decided: bool,
    /// Nobody waits for its answer any more; it may still reach the shard.
    pub(super) is_abandoned: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    pub(crate) bindings: Vec<Binding>,
    pub(super) fanouts: BTreeMap<u64, Fanout>,
    /// The key of each copy, by the message's own and its queue.
    pub(super) copies: BTreeMap<(u64, QueueName), u64>,
}

impl Bound {
    /// A message is handed over. Returns the queues that may get it.
    pub(super) fn handed_over(
        &mut self,
        key: u64,
        namespace: &Namespace,
        topic: usize,
        attributes: Attributes,
    ) -> Vec<QueueName> {
        let taking = self.bindings.iter().enumerate();
        let taking: Vec<(usize, &Binding)> =
            taking.filter(|(_, binding)| binding.takes(namespace, topic, attributes)).collect();
        let sure = taking.iter().filter(|(_, binding)| binding.stage == Stage::There && binding.waits);
        let sure = sure.map(|&(number, _)| number).collect();
        let may = taking.iter().filter(|(_, binding)| binding.may_be_there());
        let may = may.map(|(_, binding)| binding.to.clone()).collect();
        let fanout = Fanout {
            namespace: namespace.clone(),
            topic,
            attributes,
            sure,
            is_decided: false,
            is_abandoned: false,
        };
        self.fanouts.insert(key, fanout);
        may
    }

    /// A binding is asked for. Returns the messages that its queue may get now, for their fate is open, and whether
    /// that will stay so.
    pub(super) fn asking(&mut self, number: usize) -> Vec<(u64, QueueName, bool)> {
        let binding = &mut self.bindings[number];
        (binding.stage, binding.was_asked) = (Stage::Asked, true);
        self.open_to(number)
    }

    /// The messages that the queue of a binding may get while it is there, for their fate is open, and whether that will stay
    /// so.
    pub(super) fn open_to(&self, number: usize) -> Vec<(u64, QueueName, bool)> {
        let binding = &self.bindings[number];
        let open = self.fanouts.iter().filter(|(_, fanout)| !fanout.is_decided);
        let open = open.filter(|(_, of)| binding.takes(&of.namespace, of.topic, of.attributes));
        open.map(|(&key, of)| (key, binding.to.clone(), of.is_abandoned)).collect()
    }

    /// A binding is asked to end: nothing is sure of it any more.
    pub(crate) fn ending(&mut self, number: usize) {
        self.bindings[number].stage = Stage::Ending;
        self.fanouts.values_mut().for_each(|fanout| _ = fanout.sure.remove(&number));
    }

    /// The server answered for one binding: to the wish for it, or for its end.
    pub(crate) fn answered(&mut self, number: usize, is_end: bool) {
        self.bindings[number].stage.answered(is_end);
    }

    /// The copies of a message, each with its queue and whether there must be one.
    pub(super) fn copies_of(&self, key: u64) -> Vec<(u64, bool)> {
        let fanout = &self.fanouts[&key];
        let must: BTreeSet<&QueueName> =
            fanout.sure.iter().map(|&number| &self.bindings[number].to).collect();
        let own = self.copies.iter().filter(|((of, _), _)| *of == key);
        own.map(|((_, queue), &copy)| (copy, must.contains(queue))).collect()
    }

    /// As [`Ledger::take_back`](super::Ledger::take_back).
    pub(super) fn take_back(&mut self) {
        self.bindings.iter_mut().for_each(|binding| binding.stage.taken_back());
        self.fanouts.values_mut().for_each(|fanout| fanout.sure.clear());
    }
}
