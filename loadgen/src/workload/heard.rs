//! Broadcasts that held sessions heard: how many of them, how fast, and how late the last one.

use std::collections::BTreeMap;

use relaymesh::ids::QueueName;
use serde_json::json;

use crate::report::{Delays, Report};

/// Broadcasts that are told apart; the deliveries of others count in the delays alone.
const BROADCASTS_MAX: usize = 4096;

/// Deliveries of one broadcast, by how many microseconds after it was sent they came.
#[derive(Debug, Clone, Copy)]
struct Tally {
    deliveries: u64,
    first_us: u64,
    last_us: u64,
}

/// What a thread's sessions heard, or those of all threads.
#[derive(Debug)]
pub(super) struct Heard {
    /// By the moment of sending, which tells one from the other.
    tallies: BTreeMap<u64, Tally>,
    delays: Delays,
}

impl Heard {
    pub(super) fn new() -> Self {
        Self { tallies: BTreeMap::new(), delays: Delays::new() }
    }

    /// A broadcast that was sent at `sent_us` came at `now_us`.
    pub(super) fn record(&mut self, sent_us: u64, now_us: u64) {
        let delay_us = now_us.saturating_sub(sent_us);
        self.delays.record(delay_us);
        self.count(sent_us, Tally { deliveries: 1, first_us: delay_us, last_us: delay_us });
    }

    /// Adds what those of another thread heard.
    pub(super) fn add(&mut self, other: Self) {
        self.delays.add(&other.delays);
        other.tallies.into_iter().for_each(|(sent_us, tally)| self.count(sent_us, tally));
    }

    fn count(&mut self, sent_us: u64, more: Tally) {
        if let Some(tally) = self.tallies.get_mut(&sent_us) {
            tally.deliveries += more.deliveries;
            tally.first_us = tally.first_us.min(more.first_us);
            tally.last_us = tally.last_us.max(more.last_us);
        } else if self.tallies.len() < BROADCASTS_MAX {
            self.tallies.insert(sent_us, more);
        }
    }

    /// Microseconds in which deliveries came: from the first to the last of each broadcast, counted once where several
    /// were on their way.
    fn busy_us(&self) -> u64 {
        let (mut busy_us, mut until_us) = (0, 0);
        let mut spans: Vec<(u64, u64)> =
            self.tallies.iter().map(|(sent, tally)| (sent + tally.first_us, sent + tally.last_us)).collect();
        spans.sort_unstable();
        for (from_us, to_us) in spans {
            busy_us += to_us.saturating_sub(from_us.max(until_us));
            until_us = until_us.max(to_us);
        }
        busy_us
    }

    /// Tells it in a report, with the heartbeats during which something was delivered.
    pub(super) fn tell(&self, topic: Option<&QueueName>, meanwhile: &Delays, report: &mut Report) {
        let Some(topic) = topic.and_then(QueueName::topic) else { return };
        let (broadcasts, deliveries) = (self.tallies.len(), self.delays.count());
        let counts = || self.tallies.values().map(|tally| tally.deliveries);
        let per_s = (self.busy_us() > 0).then(|| deliveries as f64 * 1e6 / self.busy_us() as f64);
        let last_us = self.tallies.values().map(|tally| tally.last_us).max();
        report.say(format!("{broadcasts} broadcasts to {topic}: {deliveries} deliveries"));
        if let (Some(last_us), Some(fewest), Some(most)) = (last_us, counts().min(), counts().max()) {
            let rate = per_s.map_or(String::new(), |per_s| format!(", {per_s:.0} a second"));
            report.say(format!(
                "  {fewest} to {most} each{rate}; the last device {last_us} us after the sending"
            ));
            report.say(format!("  delay in us: {}", self.delays.to_line()));
            let heartbeats = meanwhile.count();
            report.say(format!("  {heartbeats} heartbeats meanwhile, in us: {}", meanwhile.to_line()));
        }
        report.set("broadcast_heartbeat_rtt_us", meanwhile.to_json_with_count());
        report.set(
            "broadcast",
            json!({
                "topic": topic,
                "broadcasts": broadcasts,
                "deliveries": deliveries,
                "fewest": counts().min(),
                "most": counts().max(),
                "per_s": per_s,
                "delay_us": self.delays.to_json(),
                "last_us": last_us,
            }),
        );
    }
}

#[cfg(test)]
mod tests;
