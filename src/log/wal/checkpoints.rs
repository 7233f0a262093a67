//! Which segments get a checkpoint, and when.

use super::Log;
use crate::log::checkpoint::{CHECKPOINT_BEHIND, Making, RECORD_BYTES_MIN, Step};
use crate::log::chore::Work;

impl Log {
    /// The oldest segment without a checkpoint that is worth one, a step at a time and after all else.
    pub(super) fn next_checkpoint(&mut self) -> Option<Work> {
        let head_len = self.head_len?;
        if self.is_making {
            return None;
        }
        while self.making.is_none() {
            let segment = self.checkpointed_below.max(self.book.oldest());
            // One that is as far behind was synced before it was left, and all its batches are whole.
            if segment + CHECKPOINT_BEHIND > self.writing {
                return None;
            }
            self.checkpointed_below = segment + 1;
            let held = self.book.of_mut(segment);
            let is_large = held.records > 0 && held.written_end / held.records >= RECORD_BYTES_MIN;
            if is_large && held.live_bytes > 0 && !held.has_checkpoint {
                // It is not freed meanwhile.
                held.reads += 1;
                let end = held.written_end;
                self.making = Some(Box::new(Making::new(self.book.identity(segment), end, head_len)));
            }
        }
        self.is_making = true;
        self.making.take().map(Work::Checkpoint)
    }

    /// A step of a checkpoint is done.
    pub(super) fn checkpoint_stepped(&mut self, segment: u64, step: Step) {
        self.is_making = false;
        match step {
            Step::More(making) => self.making = Some(making),
            Step::Done => {
                let held = self.book.of_mut(segment);
                held.reads -= 1;
                held.has_checkpoint = true;
            }
        }
    }
}
