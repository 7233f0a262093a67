//! Which records are handed out to be appended again, so that their segment can be freed.

use super::{BLOCK, Log};
use crate::limits::RESERVED_SEGMENTS;
use crate::log::Relocation;
use crate::log::chore::Work;

impl Log {
    /// Right after the recovery: what was recovered is to be written anew, all of it, as the records that this program
    /// writes. The segments that hold it are relocated one after the other, each freed once what replaces it is durable,
    /// so that the log is whole at any time; it takes no more space than two segments beyond what it has.
    ///
    /// # Panics
    /// When something was appended before.
    pub fn rewrite(&mut self) {
        assert!(self.open.is_empty() && self.closed.is_empty(), "nothing is appended before");
        self.rewrite_below = self.book.newest() + 1;
        // The next record begins a new segment.
        self.offset = self.config.segment_bytes;
    }

    /// How many segments are still to be written anew after [`Log::rewrite`].
    #[must_use]
    pub fn left_to_rewrite(&self) -> u64 {
        self.rewrite_below.saturating_sub(self.book.oldest())
    }

    /// Takes back a slice whose records were dealt with.
    pub fn relocated(&mut self, slice: Relocation) {
        self.stats.relocated += slice.records().count() as u64;
        self.scan_busy = false;
        self.relocating = false;
        self.scanned_to = Some(slice.next);
        let oldest = self.book.oldest();
        let segment = self.book.of_mut(oldest);
        if slice.next >= segment.written_end {
            segment.relocated = true;
            self.scanned_to = None;
        }
    }

    /// The oldest segments hold nothing that is needed, and no batch says so: what freed them was released and nothing
    /// written since. They stay until one does, on an idle server for ever. Where the log is beyond its bound, or the
    /// disk is full, a batch without records is worth its write.
    pub(super) fn owes_word(&self) -> bool {
        let is_wanted = self.blocked || self.segments_total() > self.segments_allowed();
        is_wanted && self.book.oldest_needed(self.writing) > self.last.oldest_segment
    }

    pub(super) fn next_scan(&mut self) -> Option<Work> {
        let oldest = self.book.oldest();
        let segment = self.book.of(oldest)?;
        if self.scan_busy || oldest >= self.writing || segment.live_bytes == 0 || segment.relocated {
            return None;
        }
        let (total, allowed) = (self.segments_total(), self.segments_allowed());
        let short = self.prepared.len() < RESERVED_SEGMENTS + self.ahead;
        let soon = self.offset > self.config.segment_bytes / 4;
        if self.scanned_to.is_none() && oldest >= self.rewrite_below {
            // Moving what lives makes room only where something died: without that it would go on for ever.
            let cost = segment.live_bytes + 2 * BLOCK;
            if self.garbage < cost || (total <= allowed && !(total == allowed && short && soon)) {
                return None;
            }
            self.garbage -= cost;
        }
        let (from, to) = (self.scanned_to.unwrap_or(BLOCK), segment.written_end);
        let identity = self.book.identity(oldest);
        self.scan_busy = true;
        let durable = self.last.durable;
        Some(Work::Scan { identity, from, to, durable })
    }
}
