//! Schedules as the operator set them, and the messages that they published: each is for a time of its schedule that has
//! come, for each time there is at most one, and which of the missed times there are is as the misfire policy says.

use std::collections::BTreeMap;

use relaymesh::ids::{Namespace, QueueName, ScheduleName};
use relaymesh::mail::Misfire;
use relaymesh::wire::proto;

use super::asked::Stage;

/// A schedule is late by this when a time of it counts as missed.
const LATE_MS: u64 = 5000;

/// One schedule. Its number is the key in the payload of its messages.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub(crate) namespace: Namespace,
    pub(crate) name: ScheduleName,
    pub(crate) queue: QueueName,
    pub(crate) period_s: u64,
    pub(crate) misfire: Misfire,
    pub(crate) stage: Stage,
    /// The wall clock was never before this since it was asked for, until it was answered.
    since: u64,
    /// It was there all the time from its first message on.
    is_whole: bool,
    /// The keys of its messages, by the times they are for.
    fired: BTreeMap<u64, u64>,
}

/// All schedules.
#[derive(Debug, Default)]
pub(crate) struct Timed {
    pub(crate) all: BTreeMap<u64, Schedule>,
    wall: u64,
    pub(super) wall_max: u64,
    /// From when to when the server was down, by a wall clock that was not set.
    downs: Vec<(u64, u64)>,
    down_since: Option<u64>,
}

impl Timed {
    /// The shard looks at the wall clock.
    pub(crate) fn look(&mut self, wall: u64) {
        self.wall = wall;
        self.wall_max = self.wall_max.max(wall);
        for schedule in self.all.values_mut().filter(|schedule| schedule.stage == Stage::Asked) {
            schedule.since = schedule.since.min(wall);
        }
    }

    /// The server dies, or has started.
    pub(crate) fn server_down(&mut self, wall: u64) {
        self.down_since = Some(wall);
    }

    pub(crate) fn server_up(&mut self, wall: u64) {
        self.downs.extend(self.down_since.take().map(|since| (since, wall)));
    }

    #[expect(clippy::too_many_arguments, reason = "what a schedule is")]
    pub(crate) fn want(
        &mut self,
        key: u64,
        namespace: Namespace,
        name: ScheduleName,
        queue: QueueName,
        period_s: u64,
        misfire: Misfire,
        wall: u64,
    ) {
        let schedule = Schedule {
            namespace,
            name,
            queue,
            period_s,
            misfire,
            stage: Stage::Wanted,
            since: wall,
            is_whole: true,
            fired: BTreeMap::new(),
        };
        self.all.insert(key, schedule);
    }

    /// The server answered for one schedule.
    pub(crate) fn answered(&mut self, key: u64, is_end: bool) {
        let Some(schedule) = self.all.get_mut(&key) else { return };
        schedule.stage.answered(is_end);
    }

    /// As [`Ledger::take_back`](super::Ledger::take_back).
    pub(super) fn take_back(&mut self) {
        for schedule in self.all.values_mut() {
            schedule.stage.taken_back();
            schedule.is_whole = false;
        }
    }

    /// A message of a schedule was seen. Returns its key, and the time it is for if it was not known; `new` is a free one.
    pub(super) fn fired(&mut self, number: u64, message: &proto::Message, new: u64) -> (u64, Option<u64>) {
        let schedule = self.all.get_mut(&number).expect("the caller found it");
        let name = &schedule.name;
        let told = |attribute: &str| message.attributes.get(attribute).cloned().unwrap_or_default();
        assert_eq!(told("schedule"), name.as_str(), "a message of another schedule than {name}");
        let text = told("scheduled_for");
        let time = text.parse::<jiff::Timestamp>();
        let time = time.unwrap_or_else(|error| panic!("{name} published for {text:?}: {error}"));
        let time = time.as_millisecond() as u64;
        assert!(
            time.is_multiple_of(schedule.period_s * 1000),
            "{name} published for {text}, which is no time of every {} s",
            schedule.period_s
        );
        assert!(time <= self.wall_max, "{name} published for {text} before that came");
        assert!(time > schedule.since, "{name} published for {text}, before it was set");
        let new_for = (!schedule.fired.contains_key(&time)).then_some(time);
        (*schedule.fired.entry(time).or_insert(new), new_for)
    }

    /// All messages were seen that there are. `is_steady` when nobody set the wall clock, `is_complete` when none was
    /// purged or forgotten.
    pub(super) fn check(&self, is_steady: bool, is_complete: bool) {
        for schedule in self.all.values() {
            let Schedule { name, period_s, misfire, fired, is_whole, .. } = schedule;
            let period = period_s * 1000;
            if *misfire == Misfire::All && is_complete && *is_whole {
                let holes = fired.keys().zip(fired.keys().skip(1)).find(|(at, next)| **at + period < **next);
                assert!(
                    holes.is_none(),
                    "{name} makes up for every missed time, but not for those in {holes:?}"
                );
            }
            if *misfire == Misfire::All || !is_steady {
                continue;
            }
            for &(down, up) in &self.downs {
                for time in fired.keys().filter(|&&time| time > down) {
                    // Of those that were missed, the latest alone may be made up for.
                    assert!(
                        time + period > up,
                        "{name} ({misfire:?}) published for {time}, missed from {down} to {up}"
                    );
                    let is_late = *misfire == Misfire::Skip && time + LATE_MS < up;
                    assert!(
                        !is_late,
                        "{name} skips what it missed, and published for {time}, down from {down} to {up}"
                    );
                }
            }
        }
    }

    pub(crate) fn firings(&self) -> u64 {
        self.all.values().map(|schedule| schedule.fired.len() as u64).sum()
    }
}
