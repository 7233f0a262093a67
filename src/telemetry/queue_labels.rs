//! Which queues have a label of their own in the metrics.
//!
//! Users choose the names of queues, so their number must not become the number of series. The first queues seen keep
//! their label as long as they exist, so that a series does not come and go; the others share one row.

use std::collections::BTreeSet;

/// Both labels of the row that the queues without a label of their own share.
pub const OVERFLOW: &str = "other";

/// One queue, or all that have no label of their own, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueRow {
    /// The tenant and the queue.
    pub name: (String, String),
    /// Messages a consumer could have now.
    pub ready: u64,
    /// Messages that wait for their time.
    pub scheduled: u64,
    /// Messages being worked on.
    pub leased: u64,
    /// Messages that wait for another of their ordering key.
    pub blocked: u64,
    /// Dead letters.
    pub dead: u64,
    /// Age of the oldest ready message, in milliseconds.
    pub oldest_ready_age_ms: u64,
}

impl QueueRow {
    pub(super) fn namespace(&self) -> &str {
        &self.name.0
    }

    pub(super) fn queue(&self) -> &str {
        &self.name.1
    }

    pub(super) fn depth(&self) -> [(&'static str, u64); 5] {
        [
            ("ready", self.ready),
            ("scheduled", self.scheduled),
            ("leased", self.leased),
            ("blocked", self.blocked),
            ("dead", self.dead),
        ]
    }

    fn join(&mut self, row: &Self) {
        self.ready += row.ready;
        self.scheduled += row.scheduled;
        self.leased += row.leased;
        self.blocked += row.blocked;
        self.dead += row.dead;
        self.oldest_ready_age_ms = self.oldest_ready_age_ms.max(row.oldest_ready_age_ms);
    }
}

/// The queues with a label of their own, kept from scrape to scrape.
#[derive(Debug)]
pub struct QueueLabels {
    held: BTreeSet<(String, String)>,
    max: usize,
}

impl QueueLabels {
    /// At most `max` queues have a label of their own.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { held: BTreeSet::new(), max }
    }

    /// All of `rows` in at most `max + 1` rows.
    #[must_use]
    pub fn bound(&mut self, rows: Vec<QueueRow>) -> Vec<QueueRow> {
        // The queue that is really called so joins the shared row: a series must not appear twice.
        let overflow_name = (OVERFLOW.to_owned(), OVERFLOW.to_owned());
        let seen: BTreeSet<&(String, String)> = rows.iter().map(|row| &row.name).collect();
        self.held.retain(|name| seen.contains(name));
        for row in &rows {
            if self.held.len() < self.max && row.name != overflow_name {
                self.held.insert(row.name.clone());
            }
        }
        let mut overflow: Option<QueueRow> = None;
        let mut bounded = Vec::with_capacity(self.max.min(rows.len()) + 1);
        for row in rows {
            if self.held.contains(&row.name) {
                bounded.push(row);
            } else {
                let name = overflow_name.clone();
                overflow.get_or_insert_with(|| QueueRow { name, ..QueueRow::default() }).join(&row);
            }
        }
        bounded.extend(overflow);
        bounded
    }
}
