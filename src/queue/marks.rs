//! What each producer was answered, so that its re-sends are not published twice.
//!
//! A mark holds a run for each publish whose last sequence is not below what the producer said was answered. A run
//! keeps the head of the record that published it alive, so that a mark never outlives its evidence in the log.

use std::collections::{HashMap, VecDeque};

use hashbrown::DefaultHashBuilder;

use crate::ids::ProducerId;
use crate::log::Position;
use crate::mail::ProducerSequence;
use crate::queue::queues::NamespaceId;

/// How far a sequence may lie above the lowest unanswered one: bounds the runs of a mark.
pub(super) const SEQUENCES_AHEAD_MAX: u64 = 65_536;

/// One publish of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) sequence: u64,
    pub(super) first_id: u64,
    pub(super) position: Position,
    /// Bytes of that record kept alive for it.
    pub(super) charge: u32,
    pub(super) count: u32,
}

impl Run {
    fn end(&self) -> u64 {
        self.sequence + u64::from(self.count)
    }
}

/// One producer.
#[derive(Debug, Default)]
pub(super) struct Mark {
    pub(super) unanswered_from: u64,
    /// Rising sequences, not overlapping.
    pub(super) runs: VecDeque<Run>,
}

/// What the mark says of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not seen before.
    New,
    /// Published before, with this first id.
    Duplicate(u64),
    /// Below what the producer said was answered.
    Stale,
    /// Some of its sequences were published in another batch.
    Mixed,
    /// Too far above the lowest unanswered sequence.
    TooFar,
}

/// All producers of the shard.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) table: HashMap<(NamespaceId, ProducerId), Mark, DefaultHashBuilder>,
}

impl Marks {
    pub(super) fn verdict(&self, namespace: NamespaceId, publish: ProducerSequence, count: u32) -> Verdict {
        let end = publish.sequence.saturating_add(u64::from(count));
        if publish.sequence == 0 || publish.sequence < publish.unanswered_from {
            return Verdict::Stale;
        }
        let Some(mark) = self.table.get(&(namespace, publish.producer)) else {
            return if end - publish.unanswered_from > SEQUENCES_AHEAD_MAX {
                Verdict::TooFar
            } else {
                Verdict::New
            };
        };
        if let Some(known) = mark.overlapping(publish.sequence, end) {
            let is_within = known.sequence <= publish.sequence && end <= known.end();
            return match is_within {
                true => Verdict::Duplicate(known.first_id + (publish.sequence - known.sequence)),
                false => Verdict::Mixed,
            };
        }
        if publish.sequence < mark.unanswered_from {
            return Verdict::Stale;
        }
        if end - publish.unanswered_from.max(mark.unanswered_from) > SEQUENCES_AHEAD_MAX {
            return Verdict::TooFar;
        }
        Verdict::New
    }

    /// Remembers a publish and hands the runs that are not needed any more to `release`. Says whether the producer
    /// is new.
    pub(super) fn remember(
        &mut self,
        namespace: NamespaceId,
        producer: ProducerId,
        unanswered_from: u64,
        run: Run,
        release: impl FnMut(Run),
    ) -> bool {
        let len = self.table.len();
        let mark = self.table.entry((namespace, producer)).or_default();
        let at = match mark.runs.back() {
            Some(last) if run.sequence <= last.sequence => {
                mark.runs.partition_point(|known| known.sequence < run.sequence)
            }
            _ => mark.runs.len(),
        };
        mark.runs.insert(at, run);
        mark.trim(unanswered_from, release);
        self.table.len() > len
    }

    pub(super) fn forget(&mut self, namespace: NamespaceId, producer: ProducerId) -> Option<Mark> {
        self.table.remove(&(namespace, producer))
    }
}

impl Mark {
    fn overlapping(&self, start: u64, end: u64) -> Option<Run> {
        if self.runs.back().is_none_or(|last| last.end() <= start) {
            return None;
        }
        let at = self.runs.partition_point(|known| known.end() <= start);
        self.runs.get(at).copied().filter(|known| known.sequence < end)
    }

    fn trim(&mut self, unanswered_from: u64, mut release: impl FnMut(Run)) {
        self.unanswered_from = self.unanswered_from.max(unanswered_from);
        // The last run stays whatever happens: it is what proves `unanswered_from` after a restart.
        while self.runs.len() > 1 && self.runs[0].end() <= self.unanswered_from {
            if let Some(run) = self.runs.pop_front() {
                release(run);
            }
        }
    }
}
