//! Who publishes when, and who works.
//!
//! Tenants publish on a connection each, so that one whose window is full holds up no other. Agents share a pace: each
//! place in it belongs to one of them in turn, and an agent is done with its message when its place comes. So all together
//! work at a fixed rate, however the messages are shared out.

use std::collections::VecDeque;

use fastrand::Rng;
use relaymesh::ids::LeaseId;

use crate::stamp::STAMP_BYTES;
use crate::workload::producer::Producer;

/// The same for both runs, so that their arrivals are the same.
const SEED: u64 = 1;

/// Whose the messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// Everybody's alike.
    Even,
    /// The first tenant has `times` as many as each other one, and its come `burst` together.
    Hot { times: u32, burst: u32 },
}

/// Messages falling due, at random with a fixed mean rate, as those of many that know nothing of each other do.
#[derive(Debug)]
pub(super) struct Arrivals {
    times: Rng,
    owners: Rng,
    tenants: u32,
    /// Between two moments at which something falls due, on average.
    gap_us: f64,
    /// The part of these at which it is the first tenant's.
    hot_part: f64,
    burst: u32,
    left: u64,
    next_us: f64,
    /// Messages of the first tenant that fall due at this moment as well.
    burst_left: u32,
}

impl Arrivals {
    /// `total` messages, `rate` a second on average.
    pub(super) fn new(tenants: u32, spread: Spread, rate: u32, total: u64) -> Self {
        let (times, burst) = match spread {
            Spread::Even => (1, 1),
            Spread::Hot { times, burst } => (times, burst),
        };
        let [hot, others] = [times, tenants - 1].map(f64::from);
        let (hot, others) = (hot / (hot + others) / f64::from(burst), others / (hot + others));
        let mut arrivals = Self {
            times: Rng::with_seed(SEED),
            owners: Rng::with_seed(SEED + 1),
            tenants,
            gap_us: 1e6 / (f64::from(rate) * (hot + others)),
            hot_part: hot / (hot + others),
            burst,
            left: total,
            next_us: 0.0,
            burst_left: 0,
        };
        arrivals.step();
        arrivals
    }

    fn step(&mut self) {
        self.next_us -= (1.0 - self.times.f64()).ln() * self.gap_us;
    }

    /// When the next one is due, in microseconds from the beginning; `None` when there is none.
    pub(super) fn next_us(&self) -> Option<u64> {
        (self.left > 0).then_some(self.next_us as u64)
    }

    /// The next one that is due by then: when, and whose.
    pub(super) fn next_by(&mut self, now_us: u64) -> Option<(u64, usize)> {
        let due_us = self.next_us().filter(|&due_us| due_us <= now_us)?;
        self.left -= 1;
        let is_burst = self.burst_left > 0;
        if is_burst {
            self.burst_left -= 1;
        }
        let tenant = if is_burst || self.owners.f64() < self.hot_part {
            if !is_burst {
                self.burst_left = self.burst - 1;
            }
            0
        } else {
            self.owners.u32(1..self.tenants)
        };
        if self.burst_left == 0 {
            self.step();
        }
        Some((due_us, tenant as usize))
    }
}

/// One that publishes.
#[derive(Debug)]
pub(super) struct Tenant {
    /// An encoded message.
    pub(super) body: Vec<u8>,
    pub(super) producer: Producer,
    /// When what is not sent yet was due.
    pub(super) due_us: VecDeque<u64>,
    /// It is among those that are to send.
    pub(super) is_ready: bool,
}

impl Tenant {
    pub(super) fn new(body: Vec<u8>, in_flight: u32) -> Self {
        Self { body, producer: Producer::new(in_flight), due_us: VecDeque::new(), is_ready: false }
    }
}

/// One that works.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) is_subscribed: bool,
    /// What it works on until its place in the pace.
    pub(super) holds: Option<LeaseId>,
}

/// Its namespace or its fairness key.
pub(super) fn name(tenant: u32) -> String {
    format!("tenant-{tenant}")
}

/// Whose a payload is.
pub(super) fn tenant_in(payload: &[u8]) -> Option<u32> {
    payload.get(STAMP_BYTES..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
