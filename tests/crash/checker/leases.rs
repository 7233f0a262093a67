//! Who may work on what: no delivery after an end that was answered, no lease twice, boots that rise with the lives.

use std::collections::{BTreeMap, HashMap};

use crate::history::{How, Lease, Place};

use super::index::{Delivery, Index, Message, Move};
use super::{Found, Rule};

/// The queue whose consumer resumes its session, and so gets what it may have missed again under the same lease.
pub(crate) const RESUMED: Place = "sdk";
/// How often a message may be tried in the queue where messages die.
pub(crate) const ATTEMPTS: u32 = 2;
/// The queue where messages die.
pub(crate) const MORTAL: Place = "mortal";

pub(super) fn check(index: &Index<'_>, found: &mut Found) {
    for (&id, message) in &index.messages {
        check_ends(id, message, index, found);
        check_twice(id, message, found);
        check_attempts(id, message, index, found);
    }
    check_boots(index, found);
}

/// No lease is newer than one whose ack, or whose reject, was answered as counted.
fn check_ends(id: u64, message: &Message, index: &Index<'_>, found: &mut Found) {
    let ends = message.settles.iter().filter(|settle| {
        settle.answered.is_some() && matches!(settle.how, How::Ack | How::Forward | How::Reject)
    });
    // The first one answered ends the message: that a later delivery was acked as well excuses nothing.
    let Some(first) = ends.min_by_key(|settle| settle.lease) else { return };
    let again = message.deliveries.iter().filter(|delivery| delivery.lease > first.lease);
    let excused = |delivery: &&Delivery| {
        let redrives = message.moves.iter().map(|op| &index.moves[op]).filter(|moved| moved.to.is_some());
        let may_lie_between = |moved: &Move<'_>| {
            moved.answered.is_none_or(|(answered, _)| answered > first.asked) && moved.asked < delivery.at
        };
        first.how == How::Reject && redrives.into_iter().any(may_lie_between)
    };
    if let Some(after) = again.filter(|delivery| !excused(delivery)).map(|delivery| delivery.lease).max() {
        let text = format!("its end under {:?} was answered, and it came again under {after:?}", first.lease);
        found.of_id(Rule::Redelivered, message.key, id, text);
    }
}

fn check_twice(id: u64, message: &Message, found: &mut Found) {
    let mut leases: Vec<Lease> =
        message.deliveries.iter().filter(|delivery| delivery.place != RESUMED).map(|d| d.lease).collect();
    leases.sort_unstable();
    if let Some(twice) = leases.windows(2).find(|pair| pair[0] == pair[1]) {
        let text = format!("{:?} was given twice", twice[0]);
        found.of_id(Rule::Leases, message.key, id, text);
    }
}

fn check_attempts(id: u64, message: &Message, index: &Index<'_>, found: &mut Found) {
    let redrives = message.moves.iter().filter(|op| index.moves[op].to.is_some()).count() as u32;
    let mut tried: BTreeMap<u32, u32> = BTreeMap::new();
    for delivery in message.deliveries.iter().filter(|delivery| delivery.place == MORTAL) {
        *tried.entry(delivery.lease.boot).or_default() += 1;
    }
    let allowed = ATTEMPTS * (1 + redrives);
    if let Some((boot, times)) = tried.into_iter().find(|&(_, times)| times > allowed) {
        let text = format!("it was delivered {times} times in boot {boot}, {allowed} are allowed");
        found.of_id(Rule::Attempts, message.key, id, text);
    }
}

/// A life of the server has one boot, and later lives have later ones.
fn check_boots(index: &Index<'_>, found: &mut Found) {
    let mut boots: HashMap<u32, u32> = HashMap::new();
    for (&id, message) in &index.messages {
        // A session that resumes does not know in which life it is.
        for delivery in message.deliveries.iter().filter(|delivery| delivery.place != RESUMED) {
            let boot = delivery.lease.boot;
            if *boots.entry(delivery.life).or_insert(boot) != boot {
                let text = format!("life {} gave a lease of another boot, {boot}", delivery.life);
                found.of_id(Rule::Leases, message.key, id, text);
            }
        }
    }
    let mut lives: Vec<(u32, u32)> = boots.into_iter().collect();
    lives.sort_unstable();
    for pair in lives.windows(2).filter(|pair| pair[0].1 >= pair[1].1) {
        let ((before, old), (after, new)) = (pair[0], pair[1]);
        found.of_all(Rule::Leases, format!("life {after} has boot {new}, life {before} had {old}"));
    }
}
