//! Dead letters as the operator saw them: how long they are kept, who made room, and who might have died at all.

use std::collections::{BTreeMap, BTreeSet};

use relaymesh::clock::Now;
use relaymesh::mail::DeadLetter;

use super::ledger::{Fate, FullName, Ledger};
use crate::plan::Plan;

/// What a look at dead letters may be late or early: a step of the shard, and what a restart knows of a time of death.
const SLACK_MS: u64 = 3000;

/// What is known of them.
#[derive(Debug)]
pub(super) struct Deaths {
    /// How long they are kept.
    pub(super) ttl_ms: Option<u64>,
    pub(super) oldest_dies: bool,
    /// Nobody sets the wall clock.
    is_steady: bool,
    /// Bodies are read back, so that a lease may end before anyone sees it.
    reads_bodies: bool,
    /// Leases that were seen to begin, by message.
    leases: BTreeMap<u64, u32>,
    starts: u32,
    /// When those died that were seen.
    seen: BTreeMap<(FullName, u64), u64>,
    pub(super) any_purged: bool,
    pub(super) any_redriven: bool,
    /// Those that made room.
    pub(super) overflowed: BTreeSet<u64>,
}

impl Deaths {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            ttl_ms: plan.later.dead_ttl.map(|ttl| ttl.as_millis() as u64),
            oldest_dies: plan.later.oldest_dies,
            is_steady: plan.is_wall_steady(),
            reads_bodies: plan.queue.body_memory_bytes_max <= 1 << 20,
            leases: BTreeMap::new(),
            starts: 0,
            seen: BTreeMap::new(),
            any_purged: false,
            any_redriven: false,
            overflowed: BTreeSet::new(),
        }
    }
}

impl Ledger {
    /// The shard begins a lease.
    pub(crate) fn leased(&mut self, id: u64) {
        *self.deaths.leases.entry(id).or_default() += 1;
    }

    pub(crate) fn server_started(&mut self) {
        self.deaths.starts += 1;
    }

    pub(crate) fn is_wall_steady(&self) -> bool {
        self.deaths.is_steady
    }

    /// Whether a message that nobody can find may be a dead letter that was kept long enough.
    pub(super) fn may_have_died(&self, key: u64) -> bool {
        let entry = &self.entries[&key];
        let leases = entry.id.and_then(|id| self.deaths.leases.get(&id.0)).copied().unwrap_or(0);
        entry.facts.can_expire
            || entry.reject_sent
            || entry.redriven > 0
            || self.deaths.oldest_dies
            || self.deaths.reads_bodies
            || leases + self.deaths.starts >= entry.facts.attempts_max
    }

    /// The same of a message that no client and no operator saw: it may have been leased all the same, and each start counts
    /// an attempt that it cut short.
    pub(super) fn may_unseen_have_died(&self) -> bool {
        let unseen = self.deaths.leases.iter().filter(|(id, _)| !self.seen.contains_key(id));
        let leases = unseen.map(|(_, &leases)| leases).max().unwrap_or(0);
        let attempts_max = self.attempts.0.min(self.attempts.1);
        self.deaths.oldest_dies || self.deaths.reads_bodies || leases + self.deaths.starts >= attempts_max
    }

    /// The dead letters of a queue were listed; `is_all` when these are all of them.
    pub(crate) fn dead_listed(&mut self, queue: &FullName, rows: &[DeadLetter], is_all: bool, now: Now) {
        if let Some(ttl_ms) = self.deaths.ttl_ms.filter(|_| self.deaths.is_steady) {
            for row in rows {
                let kept_ms = now.wall.0.saturating_sub(row.died_unix_ms);
                assert!(kept_ms <= ttl_ms + SLACK_MS, "kept for {kept_ms} ms, {ttl_ms} are allowed: {row:?}");
            }
        }
        if is_all {
            self.check_kept(queue, rows, now);
            self.check_oldest(queue, rows);
        }
        for row in rows {
            self.deaths.seen.insert((queue.clone(), row.id), row.died_unix_ms);
        }
    }

    /// None is gone that should be there.
    fn check_kept(&mut self, queue: &FullName, rows: &[DeadLetter], now: Now) {
        let there: BTreeSet<u64> = rows.iter().map(|row| row.id).collect();
        let seen = self.deaths.seen.iter().filter(|((of, id), _)| of == queue && !there.contains(id));
        let gone: Vec<(u64, u64)> = seen.map(|((_, id), died)| (*id, *died)).collect();
        if gone.is_empty() {
            return;
        }
        let is_forgetful = self.forgetful_queues().contains(queue);
        for (id, died) in gone {
            self.deaths.seen.remove(&(queue.clone(), id));
            let Some(entry) = self.keys.get(&id).and_then(|key| self.entries.get(key)) else { continue };
            let is_over = self
                .deaths
                .ttl_ms
                .is_some_and(|ttl| !self.deaths.is_steady || now.wall.0 + SLACK_MS / 2 >= died + ttl);
            let is_excused = entry.ack_sent || entry.redriven > 0 || entry.purged || is_forgetful || is_over;
            assert!(
                is_excused,
                "the dead letter {id} is gone {} ms after it died, and nobody took it: {entry:?}",
                now.wall.0.saturating_sub(died)
            );
        }
    }

    /// Who made room was older than everyone who surely could have.
    fn check_oldest(&self, queue: &FullName, rows: &[DeadLetter]) {
        let is_known = self.deaths.starts == 1 && !self.deaths.reads_bodies && !self.deaths.any_redriven;
        if !self.deaths.oldest_dies || !is_known {
            return;
        }
        let there: BTreeSet<u64> = rows.iter().map(|row| row.id).collect();
        let Some(newest) = rows.iter().filter(|row| row.reason == "overflow").map(|row| row.id).max() else {
            return;
        };
        for (key, entry) in &self.entries {
            let Some(id) = entry.id.filter(|id| id.0 < newest) else { continue };
            let is_ready = entry.facts.queue == *queue
                && entry.fate == Fate::Answered
                && entry.facts.is_plain
                && !entry.purged
                && !self.deaths.leases.contains_key(&id.0);
            assert!(
                !is_ready || there.contains(&id.0),
                "message {key} is {id} and was ready all the time, but the younger {newest} made room"
            );
        }
    }

    pub(super) fn forget_deaths(&mut self) {
        self.deaths.seen.clear();
    }
}
