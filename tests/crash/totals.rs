//! What a campaign adds up to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::history::{History, How, Place, What};
use crate::round::files;
use crate::support::http;

/// Counts over all rounds.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) kills: u64,
    pub(crate) kills_of_starts: u64,
    pub(crate) kills_at_changes: u64,
    pub(crate) starts: Vec<Duration>,
    events: usize,
    breaches: usize,
    /// Of each queue: publishes answered, deliveries, and ends of deliveries answered.
    places: BTreeMap<Place, [u64; 3]>,
    /// Everything else that was answered, by what it is.
    others: BTreeMap<&'static str, u64>,
    /// Segments and checkpoints that were there at a kill.
    files: BTreeSet<String>,
    /// Records that compaction wrote anew, as far as the last look before each kill told.
    relocated: u64,
}

impl Totals {
    /// Looks at a server that is about to be killed.
    pub(crate) fn look_at(&mut self, data: &Path, admin: SocketAddr) {
        self.files.extend(files(data));
        let page = http::try_get(admin, "/metrics").map_or_else(String::new, |answer| answer.body);
        let line = page.lines().find_map(|line| line.strip_prefix("relaymesh_log_relocated_total "));
        self.relocated += line.and_then(|count| count.parse::<f64>().ok()).unwrap_or(0.0) as u64;
    }

    /// Adds a round.
    pub(crate) fn count(&mut self, history: &History, breaches: usize) {
        self.events += history.events.len();
        self.breaches += breaches;
        let mut publishes = BTreeMap::new();
        let mut others = BTreeMap::new();
        let mut places: BTreeMap<u64, Place> = BTreeMap::new();
        for event in &history.events {
            match &event.what {
                What::Publish(publish) => {
                    publishes.insert(publish.op, publish);
                }
                What::Published { op, .. } => {
                    if let Some(publish) = publishes.remove(op) {
                        for copy in &publish.copies {
                            self.places.entry(copy.place).or_default()[0] += 1;
                        }
                    } else {
                        self.add("publishes of known deduplication ids");
                    }
                }
                What::Delivered { place, id, .. } => {
                    self.places.entry(place).or_default()[1] += 1;
                    places.insert(*id, place);
                }
                What::Settle { op, id, how, .. } => {
                    others.insert(*op, ("", places.get(id).copied()));
                    if let How::Nack { .. } = how {
                        self.add("nacks");
                    }
                }
                What::Settled { op } => {
                    if let Some((_, Some(place))) = others.remove(op) {
                        self.places.entry(place).or_default()[2] += 1;
                    }
                }
                What::Refused { .. } => self.add("stages refused for a lost lease"),
                What::Move { op, to, .. } => {
                    others.insert(
                        *op,
                        (if to.is_some() { "dead letters redriven" } else { "dead letters purged" }, None),
                    );
                }
                What::Moved { op, changed } => {
                    if let Some((what, _)) = others.remove(op) {
                        *self.others.entry(what).or_default() += changed;
                    }
                }
                What::Bound { .. } => self.add("bindings made or ended"),
                What::Planned { .. } => self.add("schedules added or removed"),
                _ => {}
            }
        }
    }

    fn add(&mut self, what: &'static str) {
        *self.others.entry(what).or_default() += 1;
    }

    /// In a line.
    pub(crate) fn line(&self) -> String {
        let sum = |at: usize| self.places.values().map(|counts| counts[at]).sum::<u64>();
        format!(
            "{} messages published, {} deliveries, {} settled, {} events, {} breaches",
            sum(0),
            sum(1),
            sum(2),
            self.events,
            self.breaches
        )
    }

    /// There was load; in a long campaign, of every kind.
    pub(crate) fn assert_load(&self) {
        let is_long = self.kills >= 100;
        let idle = |[_, delivered, settled]: &[u64; 3]| *delivered == 0 || *settled == 0;
        let idle: Vec<_> =
            self.places.iter().filter(|(_, counts)| idle(counts)).map(|(place, _)| place).collect();
        let is_idle = if is_long { !idle.is_empty() } else { idle.len() == self.places.len() };
        assert!(!is_idle, "nothing happened in {idle:?}");
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut starts = self.starts.clone();
        starts.sort_unstable();
        let count = |ending: &str| self.files.iter().filter(|file| file.ends_with(ending)).count();
        writeln!(f, "{}", self.line())?;
        writeln!(
            f,
            "{} kills, {} of them during a start, {} when the log had just got or lost a file; {} segments, {} checkpoints, \
             {} records moved by compaction",
            self.kills,
            self.kills_of_starts,
            self.kills_at_changes,
            count(".seg"),
            count(".heads"),
            self.relocated
        )?;
        writeln!(
            f,
            "{} clean starts, from process to ready: median {:?}, longest {:?}",
            starts.len(),
            starts[starts.len() / 2],
            starts[starts.len() - 1]
        )?;
        for (place, [published, delivered, settled]) in &self.places {
            writeln!(
                f,
                "  {place:<12} {published:>8} published {delivered:>8} delivered {settled:>8} settled"
            )?;
        }
        for (what, count) in &self.others {
            writeln!(f, "  {count:>8} {what}")?;
        }
        Ok(())
    }
}

/// Lives of more than two seconds, with the longest time in which nothing was answered, in microseconds: what a machine that
/// held the server up looks like.
pub(crate) fn long_lives(history: &History) -> String {
    let mut text = String::new();
    let mut lives: BTreeMap<u32, Vec<&crate::history::Event>> = BTreeMap::new();
    for event in &history.events {
        lives.entry(event.life).or_default().push(event);
    }
    for (life, events) in lives {
        let (first, last) = (events[0].at, events[events.len() - 1].at);
        if last - first > 2_000_000 {
            let is_answer = |what: &What| {
                matches!(what, What::Ready | What::Killed | What::Published { .. } | What::Settled { .. })
            };
            let answers: Vec<u64> =
                events.iter().filter(|event| is_answer(&event.what)).map(|event| event.at).collect();
            let gap = answers.windows(2).map(|pair| (pair[1] - pair[0], pair[0])).max();
            text.push_str(&format!(
                "life {life}: {first} to {last}, {} answers, gap {gap:?}\n",
                answers.len()
            ));
        }
    }
    text
}
