//! One fault each.

use super::*;

fn is_of(id: u64) -> impl Fn(&What) -> bool {
    move |what| match what {
        What::Delivered { id: of, .. } | What::Settle { id: of, .. } => *of == id,
        _ => false,
    }
}

fn is_answer(of: u64) -> impl Fn(&What) -> bool {
    move |what| matches!(what, What::Published { op, .. } | What::Settled { op } if *op == of)
}

#[test]
fn a_lost_message() {
    assert_eq!(honest().without(is_of(PLAIN)).rules(), [Rule::Lost], "answered and never seen");
    let acks = |what: &What| matches!(what, What::Settle { id: PLAIN_ONCE, .. });
    assert_eq!(honest().without(acks).rules(), [Rule::Lost], "seen and never acked");
    // A batch, and the copies of a topic, of which nothing is left.
    let tale = honest().with(75, 1, published(9, 98));
    assert_eq!(tale.rules(), [Rule::Lost], "a batch");
    let gone = |what: &What| TOPICAL.iter().any(|&id| is_of(id)(what));
    let rules = honest().without(gone).rules();
    assert!(rules.contains(&Rule::Lost), "copies: {rules:?}");
    // Dead letters that nobody purged.
    let tale = honest().changed(|what| match what {
        What::Listed { asked, dead, .. } if *asked > 28_000_000 => {
            dead.clear();
            true
        }
        _ => false,
    });
    assert_eq!(tale.rules(), [Rule::Lost], "a dead letter");
}

#[test]
fn a_doubled_message() {
    let mut tale = honest();
    tale.work_as(13_000, 500, "plain", key(PLAIN), 900, lease(2, 1));
    assert_eq!(tale.rules(), [Rule::Doubled], "a publish");
    let mut tale = honest();
    tale.work_as(13_000, 500, "dedup", key(DEDUP), 900, lease(2, 1));
    assert_eq!(tale.rules(), [Rule::Doubled], "a deduplication id");
    let mut tale = honest();
    tale.work_as(13_000, 500, "stage-1", key(STAGED[0]), 900, lease(2, 1));
    assert_eq!(tale.rules(), [Rule::Doubled], "a stage");
    let mut tale = honest();
    tale.work_as(13_000, 500, "red", key(TOPICAL[0]), 900, lease(2, 1));
    assert_eq!(tale.rules(), [Rule::Doubled], "a copy");
    let mut tale = honest();
    tale.work_as(13_000, 500, "ticks", tick(3, 12), 900, lease(2, 1));
    assert_eq!(tale.rules(), [Rule::Doubled], "a firing");
}

#[test]
fn another_answer_to_the_same_publish() {
    let mut tale = honest().with(13_000, 2, published(10, 900));
    tale.work_as(13_010, 500, "dedup", key(DEDUP), 900, lease(2, 1));
    assert_eq!(tale.rules(), [Rule::Doubled, Rule::Answers]);
}

#[test]
fn a_message_that_nobody_published() {
    let mut tale = honest();
    tale.work(13_000, 500, "plain", 900, lease(2, 1));
    assert_eq!(tale.rules(), [Rule::Stray], "its key is not known");
    let mut tale = honest();
    tale.work_as(13_000, 500, "red", key(PLAIN), 900, lease(2, 1));
    assert_eq!(tale.rules(), [Rule::Stray], "it was for another queue");
    let mut tale = honest();
    tale.work_as(13_000, 500, "again", key(TRIED), TRIED, lease(2, 3));
    let rules = tale.rules();
    assert!(rules.contains(&Rule::Stray), "nobody redrove it: {rules:?}");
}

#[test]
fn another_payload() {
    let tale = honest().changed(|what| match what {
        What::Delivered { id: PLAIN_ONCE, intact, .. } => {
            *intact = false;
            true
        }
        _ => false,
    });
    assert_eq!(tale.rules(), [Rule::Damaged]);
}

#[test]
fn an_id_given_twice() {
    let mut tale = honest().with(13_000, 2, publish(501, vec![copy(900, "plain")]));
    tale.tell(13_001, 2, published(501, DEDUP));
    tale.tell(13_002, 2, delivered_as("plain", key(900), DEDUP, lease(1, 1)));
    assert!(tale.rules().contains(&Rule::Ids));
}

#[test]
fn half_a_batch() {
    assert_eq!(honest().without(is_of(BATCH[1])).rules(), [Rule::Torn], "not answered");
    assert_eq!(honest().without(is_of(TOPICAL[1])).rules(), [Rule::Torn], "copies");
}

#[test]
fn a_lease_given_twice_or_of_another_life() {
    let tale = honest().with(13_000, 1, delivered("plain", PLAIN_ONCE, lease(1, 1)));
    assert_eq!(tale.rules(), [Rule::Leases], "twice");
    let tale = honest().changed(|what| match what {
        What::Delivered { id, lease, .. } | What::Settle { id, lease, .. } if *id == BATCH[0] => {
            lease.boot = 1;
            true
        }
        _ => false,
    });
    assert_eq!(tale.rules(), [Rule::Leases], "of another life");
    let mut tale = honest();
    tale.0.iter_mut().for_each(|(_, _, what)| match what {
        What::Delivered { lease, .. } | What::Settle { lease, .. } if lease.boot == 2 => lease.boot = 1,
        _ => {}
    });
    assert!(tale.rules().contains(&Rule::Leases), "a boot that stands still");
}

#[test]
fn a_redelivery_after_an_answered_end() {
    let tale = honest().with(12_000, 2, delivered("plain", PLAIN, lease(2, 3)));
    assert_eq!(tale.rules(), [Rule::Redelivered], "after an ack");
    let mut tale = honest();
    tale.work(12_000, 500, "plain", PLAIN, lease(2, 3));
    assert_eq!(tale.rules(), [Rule::Redelivered], "that is acked again");
    let redrive = |what: &What| matches!(what, What::Move { op: 86, .. } | What::Moved { op: 86, .. });
    let mut tale =
        honest().without(redrive).without(|what| matches!(what, What::Delivered { place: "again", .. }));
    tale.work(12_000, 500, "mortal", REJECTED, lease(2, 2));
    assert_eq!(tale.rules(), [Rule::Redelivered], "after a reject");
    // Without the answer it is no breach.
    let tale = honest().with(12_000, 2, delivered("plain", PLAIN, lease(2, 3))).without(is_answer(3));
    assert_eq!(tale.rules(), []);
}

#[test]
fn a_message_in_two_stages_or_none() {
    let arrived = |what: &What| matches!(what, What::Delivered { place: "stage-1", .. });
    let tale = honest().without(arrived).without(is_answer(23)).without(is_answer(24));
    assert_eq!(tale.rules(), [Rule::Between], "in none");
    let tale = honest().without(is_answer(24)).with(13_000, 2, delivered("stage-0", STAGED[0], lease(2, 3)));
    assert_eq!(tale.rules(), [Rule::Between], "in two");
    let only_first = |what: &What| match what {
        What::Publish(publish) => publish.op == 23,
        What::Settle { op, .. } => *op == 24,
        What::Delivered { id, lease, .. } => *id == STAGED[0] && lease.boot == 2,
        _ => false,
    };
    let tale = honest().without(only_first).without(is_answer(23)).with(200, 1, What::Refused { op: 21 });
    assert_eq!(tale.rules(), [Rule::Between], "refused and there");
}

#[test]
fn a_delay_cut_short() {
    let early = |id: u64, ms: u64| {
        let mut tale = honest();
        let of = tale.0.iter_mut().filter(|(at, _, what)| *at > 500 && is_of(id)(what));
        of.for_each(|(at, ..)| *at = ms);
        tale
    };
    assert_eq!(early(DELAYED, 600).rules(), [Rule::Early], "its own");
    assert_eq!(early(RETRIED, 300).rules(), [Rule::Early], "after a nack");
    assert_eq!(early(RETRIED, 300).without(is_answer(53)).rules(), [], "after one without an answer");
}

#[test]
fn a_turn_out_of_order() {
    let swapped = |tale: Tale, [a, b]: [u64; 2]| {
        tale.changed(|what| match what {
            What::Delivered { key: of, id, .. } if [a, b].contains(id) => {
                *id = a + b - *id;
                *of = key(*id);
                true
            }
            What::Settle { id, .. } if [a, b].contains(id) => {
                *id = a + b - *id;
                true
            }
            _ => false,
        })
    };
    assert_eq!(swapped(honest(), PRIO).rules(), [Rule::Order], "a priority");
    assert!(swapped(honest(), KEYED).rules().contains(&Rule::Order), "an ordering key");
    let same = honest().changed(|what| match what {
        What::Publish(publish) if publish.copies[0].place == "prio" => {
            publish.copies[0].priority = 5;
            true
        }
        _ => false,
    });
    assert_eq!(same.rules(), [Rule::Order], "the older of one priority");
    let unacked = honest().without(|what| matches!(what, What::Settle { op: 62, .. }));
    assert_eq!(unacked.rules(), [Rule::Order], "before the first one's ack");
    let back = honest().with(340, 1, delivered("keyed", KEYED[0], lease(1, 2)));
    assert_eq!(back.rules(), [Rule::Order], "back in the same life");
}

#[test]
fn too_many_attempts() {
    let tale = honest().with(560, 1, delivered("mortal", TRIED, lease(1, 3)));
    assert_eq!(tale.rules(), [Rule::Attempts]);
}

#[test]
fn a_death_for_no_reason() {
    let because = |of: u64, why: &'static str, times: u32| {
        honest().changed(move |what| match what {
            What::Listed { dead, .. } => {
                let found = dead.iter_mut().find(|dead| dead.id == of);
                found.map(|dead| (dead.reason, dead.attempts) = (why.to_owned(), times)).is_some()
            }
            _ => false,
        })
    };
    assert_eq!(because(TRIED, "attempts", 1).rules(), [Rule::Reason], "too few attempts");
    assert_eq!(because(TRIED, "rejected", 2).rules(), [Rule::Reason], "not rejected");
    assert_eq!(because(TRIED, "expired", 2).rules(), [Rule::Reason], "not to expire");
    assert_eq!(because(EXPIRED, "overflow", 0).rules(), [Rule::Reason], "no overflow");
    let tale = honest().with(600, 1, delivered("mortal", EXPIRED, lease(1, 1)));
    assert_eq!(tale.rules(), [Rule::Reason], "delivered though it had expired");
}

#[test]
fn a_redrive_or_a_purge_undone() {
    let again = |id: u64, reason: &str| {
        let both = vec![dead(id, reason, 2), dead(EXPIRED, "expired", 0)];
        honest().with(29_500, 2, listed("mortal", 29_400, both)).rules()
    };
    assert_eq!(again(TRIED, "attempts"), [Rule::Undone], "a purge");
    assert_eq!(again(REJECTED, "rejected"), [Rule::Undone], "a redrive");
    let tale = honest().with(12_000, 2, delivered("mortal", TRIED, lease(2, 3)));
    assert_eq!(tale.rules(), [Rule::Undone], "purged and seen");
    let tale = honest().without(|what| matches!(what, What::Delivered { place: "again", .. }));
    assert_eq!(tale.rules(), [Rule::Undone], "redriven and nowhere");
    // A purge without an answer leaves both open.
    let both = vec![dead(TRIED, "attempts", 2), dead(EXPIRED, "expired", 0)];
    let tale = honest().without(|what| matches!(what, What::Moved { op: 88, .. }));
    assert_eq!(tale.with(29_500, 2, listed("mortal", 29_400, both)).rules(), []);
}

#[test]
fn a_binding_that_does_not_hold() {
    assert_eq!(honest().without(is_of(TOPICAL[2])).rules(), [Rule::Bound], "bound and not there");
    let mut tale = honest();
    tale.work_as(1_600, 500, "flip", key(UNBOUND), 53, lease(1, 1));
    assert_eq!(tale.rules(), [Rule::Bound], "not bound and there");
    let unanswered = honest().without(|what| matches!(what, What::Bound { op: 26 }));
    assert_eq!(unanswered.without(is_of(TOPICAL[2])).rules(), [], "either, when it was not answered");
}

#[test]
fn a_schedule_that_fires_wrongly() {
    let fired = |schedule: u32, second: u64, ms: u64| {
        let mut tale = honest();
        let id = tick_id(schedule, second);
        let boot = if ms < 10_000 { 1 } else { 2 };
        tale.work_as(ms, 500, "ticks", tick(schedule, second), id, lease(boot, 1));
        tale.rules()
    };
    assert_eq!(fired(1, 2, 3_500), [Rule::Planned], "before it was added");
    assert_eq!(fired(3, 22, 22_005), [Rule::Planned], "after it was removed");
    assert_eq!(fired(7, 12, 12_005), [Rule::Planned], "never added");
    let early = honest().without(|what| matches!(what, What::Delivered { key, .. } if *key == tick(3, 20)));
    let early = early.with(19_500, 2, delivered_as("ticks", tick(3, 20), tick_id(3, 20), lease(2, 1)));
    assert_eq!(early.rules(), [Rule::Planned], "before its time");
}

#[test]
fn a_schedule_that_does_not_fire() {
    let missing = |schedule: u32, second: u64| honest().without(is_of(tick_id(schedule, second))).rules();
    assert_eq!(missing(3, 10), [Rule::Planned], "one of all, missed while it was down");
    assert_eq!(missing(3, 20), [Rule::Planned], "one of all, the last");
    assert_eq!(missing(1, 14), [Rule::Planned], "one that the server was up for");
    assert_eq!(missing(1, 10), [], "one that it was not up for");
    let held_up = honest().without(is_of(tick_id(1, 14))).without(|what| match what {
        What::Publish(publish) => (2_013..2_018).contains(&publish.op),
        What::Published { op, .. } => (2_013..2_018).contains(op),
        What::Delivered { id, .. } | What::Settle { id, .. } => (5_013..5_018).contains(id),
        _ => false,
    });
    assert_eq!(held_up.rules(), [], "one that it was held up at");
    let is_of_second = |key: &Key| key.as_tick().is_some_and(|(schedule, _)| schedule == 2);
    let silent = honest().without(|what| matches!(what, What::Delivered { key, .. } if is_of_second(key)));
    assert_eq!(silent.rules(), [Rule::Planned], "all of them");
}

#[test]
fn a_time_long_past_that_was_to_be_skipped() {
    // Down from 10 s to 19 s: what came due at 11 s is skipped, what came due at 18 s is not.
    let mut tale = honest().without(|what| {
        let in_between = |id: &u64| {
            let (schedule, second) = (*id / TICKS, *id % TICKS);
            (1..=3).contains(&schedule) && (10..20).contains(&second) && *id >= TICKS
        };
        matches!(what, What::Delivered { id, .. } | What::Settle { id, .. } if in_between(id))
    });
    tale.0.iter_mut().for_each(|(ms, life, what)| {
        if *life == 2 && (10_000..19_000).contains(ms) && !matches!(what, What::Killed) {
            *ms += 9_000;
        }
    });
    for second in 10..20 {
        let id = tick_id(3, second);
        tale.work_as(19_500, 700 + second, "ticks", tick(3, second), id, lease(2, 1));
    }
    tale.work_as(19_500, 720, "ticks", tick(1, 18), tick_id(1, 18), lease(2, 1));
    assert_eq!(tale.clone().rules(), []);
    tale.work_as(19_500, 721, "ticks", tick(1, 11), tick_id(1, 11), lease(2, 1));
    assert_eq!(tale.rules(), [Rule::Planned]);
}

#[test]
fn a_schedule_that_is_listed_wrongly() {
    let listed = |ms: u64, schedules: &[u32]| {
        let schedules = schedules.iter().map(|&schedule| (schedule, 0)).collect();
        honest().with(ms, 2, What::Plans { asked: (ms - 1) * 1000, schedules }).rules()
    };
    assert_eq!(listed(15_000, &[1, 2]), [Rule::Planned], "added and not there");
    assert_eq!(listed(22_000, &[2]), [Rule::Planned], "removed and there");
    assert_eq!(listed(15_000, &[1, 2, 3]), []);
}
