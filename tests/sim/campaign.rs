//! Many worlds, as many at once as there are cores, and what came of them.

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::planted::{Flaw, Planted};
use crate::trace::Tracing;
use crate::world::{Outcome, World};

/// Failed seeds after which a campaign gives up.
const FAILURES_MAX: usize = 20;

/// A number in the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// Lives through the world of a seed; panics when something is not as it must be.
pub(crate) fn live(seed: u64, flaw: Flaw, tracing: Tracing) -> Outcome {
    World::new(seed, tracing, Planted::new(flaw)).run()
}

/// What is wrong with a seed's world, if anything is.
pub(crate) fn failure_of(seed: u64, flaw: Flaw) -> Option<String> {
    outcome_of(seed, flaw).err()
}

fn outcome_of(seed: u64, flaw: Flaw) -> Result<Outcome, String> {
    panic::catch_unwind(AssertUnwindSafe(|| live(seed, flaw, Tracing::Off))).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

/// Seeds that once failed: a number a line, what it found behind it.
pub(crate) fn regression_seeds() -> Vec<(u64, String)> {
    let lines =
        include_str!("../seeds/sim.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (seed, why) = line.split_once(' ').unwrap_or((line, ""));
            (seed.parse().unwrap_or_else(|_| panic!("tests/seeds/sim.txt: {line:?}")), why.trim().to_owned())
        })
        .collect()
}

/// What came of many worlds.
#[derive(Debug, Default)]
pub(crate) struct Campaign {
    seeds: u64,
    sum: Outcome,
    failures: Vec<(u64, String)>,
    took: Duration,
}

impl Campaign {
    /// Runs all of them.
    pub(crate) fn over(seeds: Range<u64>) -> Self {
        let began = Instant::now();
        let next = AtomicU64::new(seeds.start);
        let all = Mutex::new(Self::default());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            return;
                        }
                        let outcome = outcome_of(seed, Flaw::None);
                        let mut all = all.lock().expect("no thread panics with the lock");
                        all.take(seed, outcome);
                        if all.failures.len() >= FAILURES_MAX {
                            return;
                        }
                    }
                });
            }
        });
        let mut all = all.into_inner().expect("no thread panics with the lock");
        all.took = began.elapsed();
        all
    }

    fn take(&mut self, seed: u64, outcome: Result<Outcome, String>) {
        self.seeds += 1;
        match outcome {
            Ok(outcome) => {
                self.sum.events += outcome.events;
                self.sum.messages += outcome.messages;
                self.sum.deliveries += outcome.deliveries;
                self.sum.in_parts += outcome.in_parts;
                self.sum.broadcasts += outcome.broadcasts;
                self.sum.drains += outcome.drains;
                self.sum.sent_away += outcome.sent_away;
                self.sum.starts += outcome.starts;
                self.sum.troubles += outcome.troubles;
                self.sum.firings += outcome.firings;
                self.sum.copies += outcome.copies;
                self.sum.duplicates += outcome.duplicates;
                self.sum.ordered += outcome.ordered;
                self.sum.overflowed += outcome.overflowed;
                self.sum.virtual_us += outcome.virtual_us;
            }
            Err(why) => self.failures.push((seed, why)),
        }
    }

    /// Says how it went. Panics when a seed failed, after its last events were shown.
    pub(crate) fn report(mut self) {
        let Outcome {
            events,
            messages,
            deliveries,
            in_parts,
            broadcasts,
            drains,
            sent_away,
            starts,
            troubles,
            firings,
            copies,
            duplicates,
            ordered,
            overflowed,
            virtual_us,
            ..
        } = self.sum;
        println!(
            "{} seeds in {:.1} s: {messages} messages, {deliveries} deliveries, {in_parts} of them in parts, {broadcasts} broadcasts delivered, {sent_away} clients sent away by {drains} drains of a share, {firings} messages of schedules, {copies} copies by bindings, {duplicates} publishes of known deduplication ids, {ordered} deliveries in order of a key, {overflowed} messages that died for others, {troubles} troubles, {starts} starts of \
             the server, {events} events, {} hours of virtual time",
            self.seeds,
            self.took.as_secs_f64(),
            virtual_us / 3_600_000_000
        );
        assert!(self.seeds < 100 || in_parts > 0, "no message was delivered in parts");
        assert!(self.seeds < 100 || broadcasts > 0, "no broadcast was delivered");
        assert!(self.seeds < 100 || (drains > 0 && sent_away > 0), "no share of the sessions was drained");
        let later = [firings, copies, duplicates, ordered, overflowed];
        assert!(self.seeds < 100 || !later.contains(&0), "of {later:?} nothing happened once");
        self.failures.sort();
        for (seed, why) in &self.failures {
            println!("seed {seed} FAILED: {why}");
        }
        if let Some((seed, why)) = self.failures.first() {
            let again = panic::catch_unwind(|| live(*seed, Flaw::None, Tracing::Tail));
            let repeats = if again.is_err() { "" } else { " (and did not fail again: it does not repeat!)" };
            panic!(
                "{} of {} seeds failed, the first is {seed}: {why}{repeats}\nRELAYMESH_SIM_SEED={seed} cargo test --test sim",
                self.failures.len(),
                self.seeds
            );
        }
    }
}
