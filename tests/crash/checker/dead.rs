//! Dead letters: for reasons that are true, and where redrives and purges left them.

use std::collections::BTreeSet;

use crate::history::{Dead, How, Micros, Place, What};

use super::index::{Index, Message};
use super::leases::{ATTEMPTS, MORTAL};
use super::{Found, Rule};

pub(super) fn check(index: &Index<'_>, found: &mut Found) {
    let expiring = expiring(index);
    for event in index.events() {
        if let What::Listed { place, asked, dead } = &event.what {
            for dead in dead {
                check_reason(index, dead, expiring.contains(&dead.id), found);
            }
            check_listing(index, place, *asked, dead, found);
        }
    }
    check_moved(index, found);
    for id in &expiring {
        let Some(message) = index.messages.get(id).filter(|message| message.moves.is_empty()) else {
            continue;
        };
        if !message.deliveries.is_empty() {
            found.of_id(Rule::Reason, message.key, *id, "it came after it had expired");
        }
    }
}

/// Messages that expire before their turn comes.
fn expiring(index: &Index<'_>) -> BTreeSet<u64> {
    let copies = index.publishes.values().flat_map(|published| &published.publish.copies);
    let copied = copies.filter(|copy| copy.expires).filter_map(|c| index.copies.get(&(c.key, c.place)));
    copied.flat_map(|copied| copied.ids.iter().copied()).collect()
}

fn check_reason(index: &Index<'_>, dead: &Dead, expires: bool, found: &mut Found) {
    let message = index.messages.get(&dead.id);
    let rejected = |message: &Message| message.settles.iter().any(|settle| settle.how == How::Reject);
    let (is_true, why) = match dead.reason.as_str() {
        "attempts" => (dead.attempts >= ATTEMPTS, "it was not tried so often"),
        "rejected" => (message.is_some_and(rejected), "nobody rejected it"),
        "expired" => (expires, "it was not to expire"),
        _ => (false, "nothing dies of that here"),
    };
    if !is_true {
        let key = message.and_then(|message| message.key);
        let text =
            format!("it is dead for the reason {:?} after {} attempts, {why}", dead.reason, dead.attempts);
        found.of_id(Rule::Reason, key, dead.id, text);
    }
}

/// What a redrive or a purge moved before a listing was asked for is not in it.
fn check_listing(index: &Index<'_>, place: Place, asked: Micros, dead: &[Dead], found: &mut Found) {
    for id in dead.iter().map(|dead| dead.id) {
        let Some(message) = index.messages.get(&id) else { continue };
        let moves = message.moves.iter().map(|op| &index.moves[op]);
        // A message that was redriven to its own queue may have died again.
        let gone = moves.into_iter().find(|moved| {
            moved.from == place
                && moved.to != Some(place)
                && moved.ids.contains(&id)
                && moved.was_whole().is_some_and(|at| at < asked)
                && !came_back(index, message, place, moved.asked)
        });
        if gone.is_some() {
            let text = format!("it is dead in {place} again, from where it was redriven or purged");
            found.of_id(Rule::Undone, message.key, id, text);
        }
    }
}

/// Whether a redrive from another queue may have brought it there after `since`.
fn came_back(index: &Index<'_>, message: &Message, place: Place, since: Micros) -> bool {
    let moves = message.moves.iter().map(|op| &index.moves[op]);
    moves.into_iter().any(|moved| moved.from != place && moved.to == Some(place) && moved.asked > since)
}

/// In no later life is a message delivered where it was redriven or purged from.
fn check_moved(index: &Index<'_>, found: &mut Found) {
    for moved in index.moves.values().filter(|moved| moved.to != Some(moved.from)) {
        let Some(answered) = moved.was_whole() else { continue };
        for id in moved.ids {
            let Some(message) = index.messages.get(id) else { continue };
            let again = message.deliveries.iter().find(|delivery| {
                delivery.life > moved.life
                    && delivery.at > answered
                    && (delivery.place == moved.from || moved.to.is_none())
            });
            if again.is_some() && !came_back(index, message, moved.from, moved.asked) {
                let what = moved.to.map_or("purged".to_owned(), |to| format!("redriven to {to}"));
                let text = format!("it was {what} and came again from {}", moved.from);
                found.of_id(Rule::Undone, message.key, *id, text);
            }
        }
        if moved.to.is_some_and(|to| to != MORTAL) {
            check_arrived(index, moved.ids, moved.to.unwrap_or_default(), found);
        }
    }
}

/// What was redriven to a queue is seen there, or is dead there.
fn check_arrived(index: &Index<'_>, ids: &[u64], to: Place, found: &mut Found) {
    for id in ids {
        let Some(message) = index.messages.get(id) else { continue };
        let arrived = message.is_dead || message.deliveries.iter().any(|delivery| delivery.place == to);
        let purged = message.moves.iter().any(|op| index.moves[op].to.is_none());
        if !arrived && !purged {
            let text = format!("it was redriven to {to} and is not there");
            found.of_id(Rule::Undone, message.key, *id, text);
        }
    }
}
