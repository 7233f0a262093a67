//! Virtual time: what is to happen, in order of its moment; what falls on one moment, in an order of chance.
//!
//! An event only says "look now": what there is to see lies in the state it belongs to. So an event that comes too
//! early, twice or too late does no harm, and any order of events of one moment is a legal one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Microseconds since the world began.
pub(crate) type Micros = u64;

/// One millisecond.
pub(crate) const MS: Micros = 1000;
/// One second.
pub(crate) const SECOND: Micros = 1000 * MS;

/// What is to come.
#[derive(Debug)]
pub(crate) struct Scheduler<E> {
    pub(crate) now: Micros,
    waiting: BinaryHeap<Reverse<Entry<E>>>,
    random: fastrand::Rng,
    scheduled: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Micros,
    chance: u16,
    number: u64,
    event: E,
}

impl<E> Scheduler<E> {
    pub(crate) fn new(random: fastrand::Rng) -> Self {
        Self { now: 0, waiting: BinaryHeap::new(), random, scheduled: 0 }
    }

    /// Lets `event` happen at `at`, or now if that has passed.
    pub(crate) fn at(&mut self, at: Micros, event: E) {
        self.scheduled += 1;
        let (chance, number) = (self.random.u16(..), self.scheduled);
        self.waiting.push(Reverse(Entry { at: at.max(self.now), chance, number, event }));
    }

    /// Lets `event` happen in `delay`.
    pub(crate) fn after(&mut self, delay: Micros, event: E) {
        self.at(self.now + delay, event);
    }

    /// The next event; time moves to it.
    pub(crate) fn next(&mut self) -> Option<E> {
        let Reverse(entry) = self.waiting.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

impl<E> Entry<E> {
    fn rank(&self) -> (Micros, u16, u64) {
        (self.at, self.chance, self.number)
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl<E> Eq for Entry<E> {}
