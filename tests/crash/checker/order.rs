//! When a message may be seen, and which first: delays, priorities, ordering keys.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{Copy, How, Key, Lease, Micros, Place, What};

use super::index::{Index, Message};
use super::{Found, Rule};

/// Clocks are read in milliseconds, on both sides of a restart.
const TOLERANCE: Micros = 20_000;

pub(super) fn check(index: &Index<'_>, found: &mut Found) {
    check_delays(index, found);
    for (&id, message) in &index.messages {
        check_retries(id, message, found);
    }
    check_priorities(index, found);
    check_keys(index, found);
}

/// Nothing is seen before its delay is over.
fn check_delays(index: &Index<'_>, found: &mut Found) {
    for published in index.publishes.values().filter(|published| published.publish.delay > 0) {
        let due = published.asked + published.publish.delay;
        for copy in &published.publish.copies {
            let Some(copied) = index.copies.get(&(copy.key, copy.place)) else { continue };
            let deliveries = copied.ids.iter().filter_map(|id| index.messages.get(id));
            let first = deliveries.flat_map(|message| &message.deliveries).map(|d| d.at).min();
            if let Some(at) = first.filter(|&at| at + TOLERANCE < due && !copy.expires) {
                let text = format!("it came {} ms before its delay was over", (due - at) / 1000);
                found.of_key(Rule::Early, copy.key, text);
            }
        }
    }
}

/// Nor before the delay of a nack that counted.
fn check_retries(id: u64, message: &Message, found: &mut Found) {
    for settle in &message.settles {
        let How::Nack { delay } = settle.how else { continue };
        if settle.answered.is_none() {
            continue;
        }
        let later = message.deliveries.iter().filter(|delivery| delivery.lease > settle.lease);
        let first = later.map(|delivery| delivery.at).min();
        // A redriven message comes at once.
        let due = settle.asked + delay;
        if let Some(at) = first.filter(|&at| at + TOLERANCE < due && message.moves.is_empty()) {
            let text = format!("it came again {} ms before its retry delay was over", (due - at) / 1000);
            found.of_id(Rule::Early, message.key, id, text);
        }
    }
}

/// A message's turn: the higher priority first, then the older.
type Turn = (std::cmp::Reverse<u8>, u64);

/// Where one consumer takes one message after another, none is overtaken that was there when it subscribed.
fn check_priorities(index: &Index<'_>, found: &mut Found) {
    let places = index.events().iter().filter_map(|event| match &event.what {
        What::Subscribe { place } => Some(*place),
        _ => None,
    });
    for place in places.collect::<BTreeSet<Place>>() {
        check_priorities_of(place, index, found);
    }
}

fn check_priorities_of(place: Place, index: &Index<'_>, found: &mut Found) {
    // What is published, what was when the consumer subscribed, and what was seen.
    let (mut published, mut waiting) = (BTreeSet::<Turn>::new(), BTreeSet::<Turn>::new());
    let mut turns: HashMap<u64, Turn> = HashMap::new();
    let mut seen: HashSet<u64> = HashSet::new();
    for event in index.events() {
        match &event.what {
            What::Published { op, first_id: Some(first_id) } => {
                let copies = index.publishes.get(op).map(|published| &published.publish.copies[..]);
                for (id, copy) in (*first_id..).zip(copies.unwrap_or_default()) {
                    if copy.place == place && !seen.contains(&id) {
                        let turn = (std::cmp::Reverse(copy.priority), id);
                        turns.insert(id, turn);
                        published.insert(turn);
                    }
                }
            }
            What::Subscribe { place: at } if *at == place => waiting.clone_from(&published),
            What::Delivered { place: at, key, id, .. } if *at == place && seen.insert(*id) => {
                let Some(turn) = turns.get(id) else { continue };
                published.remove(turn);
                waiting.remove(turn);
                if let Some(passed) = waiting.first().filter(|first| *first < turn) {
                    let text = format!("it came before the message with the id {}", passed.1);
                    found.of_id(Rule::Order, Some(*key), *id, text);
                }
            }
            _ => {}
        }
    }
}

/// The messages of one ordering key, by id.
#[derive(Default)]
struct Line {
    keys: BTreeMap<u64, Key>,
    /// Those whose ack nobody has sent so far.
    open: BTreeSet<u64>,
    /// The newest delivery of each boot.
    newest: HashMap<u32, u64>,
}

fn check_keys(index: &Index<'_>, found: &mut Found) {
    let mut lines: BTreeMap<(Place, u8), Line> = BTreeMap::new();
    let mut line_of: HashMap<u64, (Place, u8)> = HashMap::new();
    for published in index.publishes.values() {
        for &Copy { key, place, order, .. } in published.publish.copies.iter().filter(|copy| copy.order > 0) {
            let line = lines.entry((place, order)).or_default();
            for &id in index.copies.get(&(key, place)).into_iter().flat_map(|copied| &copied.ids) {
                line.keys.insert(id, key);
                line.open.insert(id);
                line_of.insert(id, (place, order));
            }
        }
    }
    let line = |id: &u64| line_of.get(id).copied();
    for event in index.events() {
        match &event.what {
            What::Settle { id, how: How::Ack | How::Forward | How::Reject, .. } => {
                if let Some(line) = line(id).and_then(|of| lines.get_mut(&of)) {
                    line.open.remove(id);
                }
            }
            What::Delivered { id, lease, .. } => {
                if let Some(line) = line(id).and_then(|of| lines.get_mut(&of)) {
                    line.delivered(*id, *lease, found);
                }
            }
            _ => {}
        }
    }
}

impl Line {
    fn delivered(&mut self, id: u64, lease: Lease, found: &mut Found) {
        let key = self.keys.get(&id).copied();
        if let Some(first) = self.open.first().filter(|&&first| first < id) {
            let text = format!("it came before its ordering key was done with the id {first}");
            found.of_id(Rule::Order, key, id, text);
        }
        let newest = self.newest.entry(lease.boot).or_insert(id);
        if *newest > id {
            let text = format!("its ordering key had come to the id {newest} in the same life");
            found.of_id(Rule::Order, key, id, text);
        }
        *newest = (*newest).max(id);
    }
}
