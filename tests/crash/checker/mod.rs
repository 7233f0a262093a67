//! Whether a server that keeps its word could have shown its clients what they saw. Pure: a history goes in, breaches come out.
//!
//! A history ends with the queues drained: whatever was still there has been delivered and acked, or is among the dead
//! letters that were listed last. Clients may read late what was sent to them before a kill; so what only the time of
//! an arrival could show is shown by leases, or by the life of the server that the arrival's connection was made in.
//!
//! # What at-least-once permits
//!
//! | what | what may be seen | what is a breach |
//! |---|---|---|
//! | a publish | answered, or seen by anybody: it is there once. Not answered: it is there once, or not at all. A message that a producer sent again under its sequence or its deduplication id is the same message | [`Rule::Lost`], [`Rule::Doubled`], [`Rule::Answers`] when two answers name different messages, [`Rule::Stray`] where nobody put it, [`Rule::Damaged`], [`Rule::Ids`] when an id is given twice |
//! | a batch, and the copies that a topic makes | all of them or none, answered or not | [`Rule::Torn`] |
//! | a delivery | any number of times until an ack counts; each with a lease of its own (but to a session that resumes) | [`Rule::Leases`]: a lease given twice, or of another life |
//! | an ack | answered as counted: no lease of the message is newer. Not answered: it may come again or not | [`Rule::Redelivered`] |
//! | a reject | as an ack, until the dead letter is redriven | [`Rule::Redelivered`] |
//! | a nack | answered: the message comes again, and no sooner than it says. Not answered: the same, or at once | [`Rule::Early`] |
//! | ack and publish | the message is in one of the stages at any time: once it was seen in the next one, no lease of the earlier one is newer than those it was sent under. Refused: nothing of it is there | [`Rule::Between`] |
//! | a delay, a due time | first seen when it is over, after however many restarts | [`Rule::Early`] |
//! | priorities | a lone consumer with a credit of one sees first what it sees for the first time with the highest priority, and of one priority in the order of ids, as far as it was all there before it subscribed | [`Rule::Order`] |
//! | ordering keys | no message before an ack was sent for each one before it; and in one life none again after a later one. A kill may undo an ack that was not answered, and with it go back in the key | [`Rule::Order`] |
//! | attempts | in one life a message that is not redriven is delivered as often as it may, at most. A kill may take the last attempts with it before they are written down | [`Rule::Attempts`] |
//! | dead letters | a listing may run ahead of the disk; what was listed may be ready again after a kill, unless its death was answered | [`Rule::Reason`]: a reason that is not true |
//! | redrive, purge | answered with as many as were meant: they are not dead there any more, and what was purged is gone. Not answered: any of them may be moved or not, each once | [`Rule::Undone`] |
//! | a binding | made, answered, and not being ended: every publish from then on has a copy. Ended and answered: none has. In between: either, for both the publish and the binding | [`Rule::Bound`] |
//! | a schedule | one message at most for each second from when it was added to when it was removed. `all`: one for each. `once`, `skip`: one for each that the server was up for, as a publish shows that was asked for soon after it and answered. `skip`: none for one that is long past. Added or removed without an answer: either | [`Rule::Planned`] |

mod dead;
mod index;
mod leases;
mod messages;
mod order;
mod schedules;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::history::{History, Key, What};
use index::Index;

pub(crate) use leases::{MORTAL, RESUMED};

/// Which word was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rule {
    Lost,
    Doubled,
    Answers,
    Stray,
    Damaged,
    Ids,
    Torn,
    Leases,
    Redelivered,
    Between,
    Early,
    Order,
    Attempts,
    Reason,
    Undone,
    Bound,
    Planned,
}

/// A word that was broken, and what of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breach {
    pub(crate) rule: Rule,
    pub(crate) key: Option<Key>,
    pub(crate) id: Option<u64>,
    pub(crate) text: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)?;
        self.key.map_or(Ok(()), |key| write!(f, "; {key:?}"))?;
        self.id.map_or(Ok(()), |id| write!(f, "; id {id}"))
    }
}

/// Breaches as they are found.
#[derive(Debug, Default)]
struct Found(Vec<Breach>);

impl Found {
    fn of_key(&mut self, rule: Rule, key: Key, text: impl Into<String>) {
        self.0.push(Breach { rule, key: Some(key), id: None, text: text.into() });
    }

    fn of_id(&mut self, rule: Rule, key: Option<Key>, id: u64, text: impl Into<String>) {
        self.0.push(Breach { rule, key, id: Some(id), text: text.into() });
    }

    fn of_all(&mut self, rule: Rule, text: impl Into<String>) {
        self.0.push(Breach { rule, key: None, id: None, text: text.into() });
    }
}

/// Judges a history. Breaches come by rule.
pub(crate) fn breaches(history: &History) -> Vec<Breach> {
    let index = Index::new(history);
    let mut found = Found::default();
    messages::check(&index, &mut found);
    leases::check(&index, &mut found);
    order::check(&index, &mut found);
    dead::check(&index, &mut found);
    schedules::check(&index, &mut found);
    found.0.sort_by_key(|breach| (breach.rule, breach.key, breach.id));
    found.0
}

/// All that the history says of what was broken, a line an event, with the server's lives in between.
pub(crate) fn story(history: &History, breach: &Breach) -> String {
    let index = Index::new(history);
    let mut ids: Vec<u64> = breach.id.into_iter().collect();
    let mut ops = Vec::new();
    if let Some(key) = breach.key {
        ids.extend(index.messages.iter().filter(|(_, message)| message.key == Some(key)).map(|(&id, _)| id));
        let copies = index.copies.iter().filter(|((of, _), _)| *of == key);
        ops.extend(copies.flat_map(|(_, copy)| copy.ops.iter().copied()));
    }
    let plan = breach.key.and_then(Key::as_tick).map(|(schedule, _)| schedule);
    let mut lines = Vec::new();
    for event in &history.events {
        let is_of_it = match &event.what {
            What::Publish(publish) => ops.contains(&publish.op),
            What::Published { op, .. } | What::Refused { op } => ops.contains(op),
            What::Delivered { key, id, .. } => Some(*key) == breach.key || ids.contains(id),
            What::Settle { op, id, .. } => {
                let is_of_it = ids.contains(id);
                ops.extend(is_of_it.then_some(*op));
                is_of_it
            }
            What::Listed { dead, .. } => dead.iter().any(|dead| ids.contains(&dead.id)),
            What::Move { op, ids: moved, .. } => {
                let is_of_it = moved.iter().any(|id| ids.contains(id));
                ops.extend(is_of_it.then_some(*op));
                is_of_it
            }
            What::Plan { op, schedule, .. } => {
                ops.extend((Some(*schedule) == plan).then_some(*op));
                Some(*schedule) == plan
            }
            What::Bind { op, .. } if breach.rule == Rule::Bound => {
                ops.push(*op);
                true
            }
            What::Settled { op } | What::Moved { op, .. } | What::Planned { op } | What::Bound { op } => {
                ops.contains(op)
            }
            What::Started | What::Ready | What::Killed => true,
            _ => false,
        };
        if is_of_it {
            let text = format!("{:?}", event.what);
            let text = text.chars().take(400).collect::<String>();
            lines.push((event, text));
        }
    }
    told(&lines)
}

/// Lives in which nothing happened to it are left out.
fn told(lines: &[(&crate::history::Event, String)]) -> String {
    let is_life = |what: &What| matches!(what, What::Started | What::Ready | What::Killed);
    let near = |at: usize| {
        let around = &lines[at.saturating_sub(2)..(at + 3).min(lines.len())];
        around.iter().any(|(event, _)| !is_life(&event.what))
    };
    let mut text = String::new();
    for (at, (event, line)) in lines.iter().enumerate().filter(|&(at, _)| near(at)) {
        let _ = at;
        let (seconds, micros) = (event.at / 1_000_000, event.at % 1_000_000);
        text.push_str(&format!("  {seconds:4}.{micros:06} life {:4}  {line}\n", event.life));
    }
    text
}
