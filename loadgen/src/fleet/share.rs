//! What a fleet is told of the run it is part of.

use std::time::Duration;

use relaymesh::clock::Time;
use relaymesh::ids::QueueName;

use crate::source::Sources;

/// How the connections of a run introduce themselves and come in.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Client ids are this and the connection's number in the run.
    pub(crate) prefix: String,
    /// The wanted heartbeat; zero leaves it to the server.
    pub(crate) heartbeat: Duration,
    /// New connections a second, over all threads; 0 for as fast as it goes.
    pub(crate) ramp: u32,
    /// How often a connection that got no WELCOME is tried again.
    pub(crate) retries: u32,
    /// Whether the sessions are held: each subscribes to its mailbox in one write with HELLO and has its first heartbeat
    /// at its own moment of the interval, so that they are spread however the sessions came in; and nothing is kept that
    /// an idle session does not need.
    pub(crate) held: bool,
    /// What every held session listens to beside its mailbox.
    pub(crate) topic: Option<QueueName>,
}

impl Identity {
    /// For a run whose connections are opened at once and never idle.
    pub(crate) fn busy(prefix: String, heartbeat: Duration) -> Self {
        Self { prefix, heartbeat, ramp: 0, retries: 0, held: false, topic: None }
    }
}

/// Which of a run's connections a fleet drives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// The number in the run of its connection 0.
    pub(crate) first: usize,
    /// How many are its.
    pub(crate) wanted: usize,
    /// How many the run has.
    pub(crate) total: usize,
    /// From where they come.
    pub(crate) sources: Sources,
}

impl Share {
    /// All of a run with one thread.
    pub(crate) fn whole(total: usize) -> Self {
        Self { first: 0, wanted: total, total, sources: Sources::draw() }
    }

    /// This share of a number that holds for the whole run.
    pub(super) fn of(self, whole: usize) -> usize {
        (whole * self.wanted).div_ceil(self.total.max(1))
    }
}

/// The next moment, after `now`, of a fleet's connection `number`. The connections of a run have one each, evenly spread
/// over every `interval`, and so have those of each share: its thread is busy all the time rather than all at once.
pub(super) fn moment(now: Time, interval: Duration, number: usize, share: &Share) -> Time {
    let interval_ms = (interval.as_millis() as u64).max(1);
    let place = number as u128 * share.total as u128 + share.first as u128;
    let places = share.wanted.max(1) as u128 * share.total.max(1) as u128;
    let phase_ms = (u128::from(interval_ms) * place / places) as u64;
    let round = now.0.saturating_sub(phase_ms) / interval_ms + 1;
    let at = phase_ms + round * interval_ms;
    Time(if phase_ms > now.0 { phase_ms } else { at })
}

#[cfg(test)]
mod tests;
