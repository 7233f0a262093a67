//! The segmented write-ahead log of one shard. It keeps records and does not know what they mean, who wrote them or
//! which thread it runs on.
//!
//! [`Log`] is bookkeeping only: it fills batches, counts what is live in each segment and says what is to be done
//! next. The blocking work is in [`Batch::write`], which the committer's thread runs, and in [`Chore::run`], which the
//! housekeeper's thread runs. Order of calls:
//!
//! 1. [`Log::recover`] reads what is there and hands over every record in order; nothing counts as live yet.
//! 2. [`Journal::retain`] for each record (or part of one) that is still needed.
//! 3. Each turn: [`Journal::append`] and [`Journal::release`]; then [`Log::seal`] when the committer is idle; the
//!    batch is written and comes back to [`Log::batch_done`] (or [`Log::batch_failed`], after which the process
//!    stops). Batches are written one at a time, in the order they were sealed.
//!    With [`Durability::Interval`] a batch is committed once it is written. Then the owner says with
//!    [`Log::request_sync`] when the next batch is to be a sync: it writes nothing and makes durable what was written
//!    before. What has to do with the safety of the log itself waits for a sync in either case: the position named as
//!    durable, and the end of an old segment.
//! 4. [`Log::next_chore`] whenever the housekeeper is idle; what it returns comes back to [`Log::chore_done`].
//!
//! How a record dies: every append counts as live until [`Journal::release`] takes its bytes back, in one go or in
//! parts. A record that only cancels or amends an older one (an ack, a lease) is released at once: only the oldest
//! segment is ever freed, so it outlives what it cancels. A segment with nothing live is freed once all that was
//! appended before the last release is durable (synced, whatever a commit waits for). When the log is longer than twice its live bytes and
//! [`SPARE_SEGMENTS_MAX`](crate::limits::SPARE_SEGMENTS_MAX) segments, the records of its oldest segment are handed
//! out ([`ChoreOutcome::Relocation`]) to be appended again where they are still needed.
//!
//! A log that has grown long gets checkpoints (`checkpoint`), so that a start need not read every body:
//! [`Log::recover_heads`].

mod batch;
mod book;
mod buffer;
mod checkpoint;
mod chore;
mod disk;
mod error;
mod format;
mod inspect;
mod journal;
mod loading;
mod recovery;
mod settings;
#[doc(hidden)]
pub mod sim_storage;
mod storage;
#[cfg(test)]
mod tests;
mod wal;

pub use batch::Batch;
pub use buffer::AlignedBuffer;
pub use checkpoint::{HeadLen, decode_checkpoint};
pub use chore::{Chore, ChoreDone, ChoreOutcome, Reads, Relocation};
pub use disk::{DirectoryLock, DiskStorage};
pub use error::LogError;
pub use format::{FORMAT_VERSION, Flaw, SegmentSummary, decode_segment};
pub use inspect::{Damage, DamageKind, Inspection, Sighting, inspect};
pub use journal::{Journal, Position, ReadTicket, Room, Ticket};
pub use recovery::{Cut, Recovery};
pub use settings::{Durability, LogConfig, LogStats};
pub use storage::{Entry, Storage, StorageFile};
pub use wal::Log;
