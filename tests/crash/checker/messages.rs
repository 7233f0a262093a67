//! What is there: nothing lost, nothing doubled, batches and copies whole, stages and bindings kept.

use crate::history::{Key, Micros, Place, What};

use super::index::{Copied, Index, Published};
use super::{Found, Rule};

pub(super) fn check(index: &Index<'_>, found: &mut Found) {
    check_ids(index, found);
    check_answers(index, found);
    for (&(key, place), copied) in &index.copies {
        check_copy(index, key, place, copied, found);
    }
    let bindings = Binding::all(index);
    for published in index.publishes.values() {
        check_publish(index, published, found);
        check_binding(index, published, &bindings, found);
    }
    for event in index.events() {
        if let What::Delivered { key, id, intact: false, .. } = &event.what {
            found.of_id(Rule::Damaged, Some(*key), *id, "it arrived with another payload");
        }
    }
}

/// An id is of one message only.
fn check_ids(index: &Index<'_>, found: &mut Found) {
    let mut owner: std::collections::HashMap<u64, Key> = std::collections::HashMap::new();
    for (&(key, _), copied) in &index.copies {
        for &id in &copied.ids {
            let first = *owner.entry(id).or_insert(key);
            if first != key {
                found.of_id(Rule::Ids, Some(key), id, format!("the id is also that of {first:?}"));
            }
        }
    }
}

fn check_answers(index: &Index<'_>, found: &mut Found) {
    for published in index.publishes.values().filter(|published| published.first_ids.len() > 1) {
        let (key, ids) = (published.publish.copies[0].key, &published.first_ids);
        found.of_key(Rule::Answers, key, format!("a publish was answered with the ids {ids:?}"));
    }
}

fn check_copy(index: &Index<'_>, key: Key, place: Place, copied: &Copied, found: &mut Found) {
    if copied.ids.len() > 1 {
        found.of_key(Rule::Doubled, key, format!("it is in {place} under the ids {:?}", copied.ids));
    }
    if copied.ops.is_empty() && key.as_tick().is_none() && !was_brought(index, copied, place) {
        let flips = index.publishes.values().any(|published| {
            published.publish.flips == Some(place)
                && published.publish.copies.iter().any(|copy| copy.key == key)
        });
        if !flips {
            found.of_key(Rule::Stray, key, format!("nobody put it into {place}"));
        }
    }
    // What was seen is on disk, whether its publish was answered or not.
    let is_open = |id: &&u64| index.messages.get(id).is_some_and(|message| !message.is_ended(&index.moves));
    if let Some(&id) = copied.ids.iter().find(is_open) {
        let text = format!("it was in {place}, nobody acked it, and it is there no more");
        found.of_id(Rule::Lost, Some(key), id, text);
    }
    check_stage(index, key, place, copied, found);
}

/// Whether all of its ids may have come from a redrive to `place`.
fn was_brought(index: &Index<'_>, copied: &Copied, place: Place) -> bool {
    copied.ids.iter().all(|id| {
        let message = index.messages.get(id);
        message.is_some_and(|message| message.moves.iter().any(|op| index.moves[op].to == Some(place)))
    })
}

/// A message that goes through stages is in one of them.
fn check_stage(index: &Index<'_>, key: Key, place: Place, copied: &Copied, found: &mut Found) {
    let forwards = copied.ops.iter().filter_map(|op| {
        let published = &index.publishes[op];
        published.publish.acks.map(|acked| (published, acked))
    });
    let forwards: Vec<_> = forwards.collect();
    let Some(&(_, (from, _))) = forwards.first() else { return };
    if index.exists(key, place) {
        let newest_sent = forwards.iter().map(|(_, (_, lease))| *lease).max();
        let earlier = index.messages.get(&from);
        let newest_seen = earlier.and_then(|message| message.deliveries.iter().map(|d| d.lease).max());
        if newest_seen > newest_sent {
            let text =
                format!("it is in {place} and came again in the stage before, where it has the id {from}");
            found.of_key(Rule::Between, key, text);
        }
        let all_refused = copied.ops.len() == forwards.len() && forwards.iter().all(|(p, _)| p.is_refused);
        if all_refused {
            found.of_key(Rule::Between, key, format!("it is in {place}, whose publish was refused"));
        }
    } else {
        // The stage before is left with a publish to this one only, and all stages are empty.
        found.of_key(Rule::Between, key, format!("it left the stage before and is not in {place}"));
    }
}

/// All of a publish's copies are there, or none of an unanswered one.
fn check_publish(index: &Index<'_>, published: &Published<'_>, found: &mut Found) {
    let copies = &published.publish.copies;
    if published.publish.acks.is_some() {
        // Each try to forward a message is one of several publishes of the same copy.
        return;
    }
    let missing: Vec<_> = copies.iter().filter(|copy| !index.exists(copy.key, copy.place)).collect();
    let Some(first) = missing.first() else { return };
    if published.answered.is_some() && missing.len() == copies.len() {
        let text = format!("it was answered and is not in {}", first.place);
        found.of_key(Rule::Lost, first.key, text);
    } else if missing.len() < copies.len() {
        let (there, all) = (copies.len() - missing.len(), copies.len());
        let text = format!("{there} of {all} of its publish are there, and it is not in {}", first.place);
        found.of_key(Rule::Torn, first.key, text);
    }
}

/// The binding that comes and goes, each time it was asked to.
struct Binding {
    place: Place,
    stands: bool,
    asked: Micros,
    answered: Option<Micros>,
}

impl Binding {
    fn all(index: &Index<'_>) -> Vec<Self> {
        let mut all: Vec<(u64, Self)> = Vec::new();
        for event in index.events() {
            match &event.what {
                What::Bind { op, place, stands } => {
                    let binding = Self { place, stands: *stands, asked: event.at, answered: None };
                    all.push((*op, binding));
                }
                What::Bound { op } => {
                    if let Some((_, binding)) = all.iter_mut().find(|(of, _)| of == op) {
                        binding.answered = Some(event.at);
                    }
                }
                _ => {}
            }
        }
        all.into_iter().map(|(_, binding)| binding).collect()
    }

    /// Whether the binding stood all the time from `from` to `until`; `None` when that is open.
    fn stood(all: &[Self], place: Place, from: Micros, until: Micros) -> Option<bool> {
        let of_place = all.iter().filter(|binding| binding.place == place);
        let mut known = None;
        for binding in of_place {
            if binding.asked > until {
                break;
            }
            // What is asked for may be in effect from then on, and is from its answer on.
            known = match binding.answered {
                Some(answered) if answered < from => Some(binding.stands),
                _ if known == Some(binding.stands) => known,
                _ => None,
            };
        }
        known
    }
}

fn check_binding(index: &Index<'_>, published: &Published<'_>, bindings: &[Binding], found: &mut Found) {
    let Some(place) = published.publish.flips else { return };
    let until = published.answered.unwrap_or(Micros::MAX);
    let stood = Binding::stood(bindings, place, published.asked, until);
    let there: Vec<bool> =
        published.publish.copies.iter().map(|copy| index.exists(copy.key, place)).collect();
    let mut keys: Vec<Key> = published.publish.copies.iter().map(|copy| copy.key).collect();
    keys.dedup();
    let key = keys[0];
    if there.iter().any(|&one| one) && !there.iter().all(|&one| one) {
        found.of_key(Rule::Torn, key, format!("only some of its publish is in {place}"));
    }
    match stood {
        Some(true) if published.answered.is_some() && !there[0] => {
            found.of_key(Rule::Bound, key, format!("{place} was bound and did not get it"));
        }
        Some(false) if there[0] => {
            found.of_key(Rule::Bound, key, format!("{place} was not bound and got it"));
        }
        _ => {}
    }
}
