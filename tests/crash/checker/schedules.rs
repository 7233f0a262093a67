//! Schedules that fire each second: no second twice (that is [`Rule::Doubled`]), none that was not to be, none missing.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Micros, Misfire, What};

use super::index::Index;
use super::{Found, Rule};

/// A time is missed by [`Misfire::Skip`] when it is so long past, in milliseconds (`SCHEDULE_LATE`), with what a start takes.
const LATE_MS: u64 = 5_000 + 1_000;
/// A server that answers what it is asked for so long after a time, in milliseconds, has fired for it before.
const PROMPT_MS: u64 = 1_000;
/// A server that answered within so many milliseconds after a time was not held up until the time was missed.
const HELD_UP_MS: u64 = 4_000;
/// Clocks are read in milliseconds.
const TOLERANCE_MS: u64 = 2;

/// One schedule, in milliseconds since 1970.
struct Plan {
    misfire: Misfire,
    asked: u64,
    added: Option<u64>,
    /// Somebody was about to remove it.
    removing: Option<u64>,
    removed: Option<u64>,
    /// The last second it is known to have fired for.
    told: u64,
    /// By second: when its message was first seen; `None` if only its id was.
    fired: BTreeMap<u64, u64>,
}

pub(super) fn check(index: &Index<'_>, found: &mut Found) {
    let plans = plans(index, found);
    let up = Up::of(index);
    for (&schedule, plan) in &plans {
        check_fired(schedule, plan, &up.lives, found);
        check_missing(schedule, plan, &up, found);
    }
    check_listed(index, found);
}

fn plans(index: &Index<'_>, found: &mut Found) -> BTreeMap<u32, Plan> {
    let mut plans: BTreeMap<u32, Plan> = BTreeMap::new();
    let mut ops: BTreeMap<u64, (u32, bool)> = BTreeMap::new();
    for event in index.events() {
        let wall = index.history.wall_ms(event.at);
        match &event.what {
            What::Plan { op, schedule, misfire } => {
                ops.insert(*op, (*schedule, misfire.is_some()));
                if let Some(misfire) = *misfire {
                    let (added, removing, removed) = (None, None, None);
                    let new = Plan {
                        misfire,
                        asked: wall,
                        added,
                        removing,
                        removed,
                        told: 0,
                        fired: BTreeMap::new(),
                    };
                    plans.entry(*schedule).or_insert(new);
                } else if let Some(plan) = plans.get_mut(schedule) {
                    plan.removing = plan.removing.or(Some(wall));
                }
            }
            What::Planned { op } => {
                let Some(&(schedule, is_added)) = ops.get(op) else { continue };
                let Some(plan) = plans.get_mut(&schedule) else { continue };
                let when = if is_added { &mut plan.added } else { &mut plan.removed };
                *when = when.or(Some(wall));
            }
            What::Plans { schedules, .. } => {
                for (schedule, told) in schedules {
                    if let Some(plan) = plans.get_mut(schedule) {
                        plan.told = plan.told.max(*told);
                    }
                }
            }
            What::Delivered { key, id, .. } => {
                let Some((schedule, second)) = key.as_tick() else { continue };
                match plans.get_mut(&schedule) {
                    Some(plan) => {
                        plan.fired.entry(second).or_insert(wall);
                    }
                    None => found.of_id(Rule::Planned, Some(*key), *id, "nobody added its schedule"),
                }
            }
            _ => {}
        }
    }
    plans
}

/// Started, ready, killed, in milliseconds since 1970.
type Life = (u64, Option<u64>, u64);

/// When the server was up, and answered.
struct Up {
    lives: Vec<Life>,
    /// When each publish was asked for and answered, in milliseconds since 1970.
    answers: Vec<(u64, u64)>,
    /// When the history ends.
    now: u64,
}

impl Up {
    fn of(index: &Index<'_>) -> Self {
        let wall_ms = |at: Micros| index.history.wall_ms(at);
        let now = wall_ms(index.events().last().map_or(0, |event| event.at));
        let mut lives: Vec<Life> = Vec::new();
        for event in index.events() {
            match &event.what {
                What::Started => lives.push((wall_ms(event.at), None, now)),
                What::Ready => lives.last_mut().into_iter().for_each(|life| life.1 = Some(wall_ms(event.at))),
                What::Killed => lives.last_mut().into_iter().for_each(|life| life.2 = wall_ms(event.at)),
                _ => {}
            }
        }
        let answers = index.publishes.values();
        let answers = answers.filter_map(|of| Some((wall_ms(of.asked), wall_ms(of.answered?)))).collect();
        Self { lives, answers, now }
    }
}

fn check_fired(schedule: u32, plan: &Plan, lives: &[Life], found: &mut Found) {
    for (&second, &seen) in &plan.fired {
        let (due, key) = (second * 1000, crate::history::Key::tick(schedule, second));
        let wrong = if due + TOLERANCE_MS < plan.asked {
            "it is for a time before its schedule was added"
        } else if plan.removed.is_some_and(|removed| due > removed + TOLERANCE_MS) {
            "it is for a time after its schedule was removed"
        } else if seen + TOLERANCE_MS < due {
            "it came before its time"
        } else if plan.misfire == Misfire::Skip
            && !lives.iter().any(|&(started, _, killed)| started <= due + LATE_MS && due <= killed)
        {
            "it is for a time that was long past when the server came up, and was to be skipped"
        } else {
            continue;
        };
        found.of_key(Rule::Planned, key, wrong);
    }
}

fn check_missing(schedule: u32, plan: &Plan, up: &Up, found: &mut Found) {
    let Some(added) = plan.added else { return };
    let first = added / 1000 + 1;
    let last = plan.fired.last_key_value().map_or(0, |(&second, _)| second).max(plan.told);
    let until = plan.removing.unwrap_or(u64::MAX);
    let was_working = |second: &u64| {
        let (due, by) = (second * 1000 + PROMPT_MS, second * 1000 + HELD_UP_MS);
        let covers = |&(_, ready, killed): &Life| {
            ready.is_some_and(|ready| ready <= second * 1000) && by.min(until) <= killed
        };
        let answers = |&(asked, answered): &(u64, u64)| due <= asked && answered <= by.min(until);
        up.lives.iter().any(covers) && up.answers.iter().any(answers)
    };
    let due = (first..=last.max(until.min(up.now) / 1000)).filter(|second| {
        let is_made_up_for = plan.misfire == Misfire::All && *second <= last;
        (is_made_up_for || was_working(second)) && !plan.fired.contains_key(second)
    });
    for second in due {
        let key = crate::history::Key::tick(schedule, second);
        found.of_key(Rule::Planned, key, "its time came and its message did not");
    }
}

/// What was added is listed, what was removed is not.
fn check_listed(index: &Index<'_>, found: &mut Found) {
    let mut asked: BTreeMap<u64, (u32, bool, Micros)> = BTreeMap::new();
    let mut known: BTreeMap<u32, (Micros, Option<bool>)> = BTreeMap::new();
    for event in index.events() {
        match &event.what {
            What::Plan { op, schedule, misfire } => {
                asked.insert(*op, (*schedule, misfire.is_some(), event.at));
                known.insert(*schedule, (event.at, None));
            }
            What::Planned { op } => {
                let Some(&(schedule, stands, _)) = asked.get(op) else { continue };
                known.insert(schedule, (event.at, Some(stands)));
            }
            What::Plans { asked, schedules } => {
                let listed: BTreeSet<u32> = schedules.iter().map(|&(schedule, _)| schedule).collect();
                for (&schedule, &(at, stands)) in &known {
                    let is_wrong = stands.is_some_and(|stands| stands != listed.contains(&schedule));
                    if is_wrong && at < *asked {
                        let text =
                            format!("schedule {schedule} was to stand: {stands:?}; it is not as listed");
                        found.of_all(Rule::Planned, text);
                    }
                }
            }
            _ => {}
        }
    }
}
