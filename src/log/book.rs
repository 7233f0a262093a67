//! What is known of each segment in use: a few bytes, none per record.

use std::collections::VecDeque;

use super::format::Identity;
use super::{Position, Ticket};
use crate::limits::LOG_BLOCK_BYTES;

/// The name of a segment's file.
pub(super) fn file_name(segment: u64) -> String {
    format!("{segment:012}.seg")
}

/// The name of a segment's file while it is being prepared.
pub(super) fn unfinished_name(segment: u64) -> String {
    format!("{segment:012}.new")
}

/// The name of a segment's checkpoint.
pub(super) fn checkpoint_name(segment: u64) -> String {
    format!("{segment:012}.heads")
}

/// What a file of the log directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Segment,
    Unfinished,
    Checkpoint,
}

/// What a file is and of which segment; `None` for a name that the log does not give.
pub(super) fn kind_of_file(name: &str) -> Option<(u64, FileKind)> {
    let number = name.split_once('.')?.0.parse().ok()?;
    [
        (file_name(number), FileKind::Segment),
        (unfinished_name(number), FileKind::Unfinished),
        (checkpoint_name(number), FileKind::Checkpoint),
    ]
    .into_iter()
    .find_map(|(known, kind)| (known == name).then_some((number, kind)))
}

/// A segment that holds batches, or will hold those that are open.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) salt: u64,
    /// Bytes of records that were not released.
    pub(super) live_bytes: u64,
    /// Where the batches that were written end.
    pub(super) written_end: u64,
    /// All that was appended before the last release is durable once this is.
    pub(super) released_in: Ticket,
    /// Reads asked for and not answered.
    pub(super) reads: u32,
    /// Its records were handed out to be appended again.
    pub(super) relocated: bool,
    /// Records in it.
    pub(super) records: u64,
    /// It has a checkpoint.
    pub(super) has_checkpoint: bool,
}

impl Segment {
    pub(super) fn new(salt: u64) -> Self {
        Self {
            salt,
            live_bytes: 0,
            written_end: LOG_BLOCK_BYTES as u64,
            released_in: Ticket::DURABLE,
            reads: 0,
            relocated: false,
            records: 0,
            has_checkpoint: false,
        }
    }
}

/// The segments from the oldest that is needed to the one that is appended to.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) segment_bytes: u64,
    pub(super) live_bytes: u64,
    oldest: u64,
    segments: VecDeque<Segment>,
}

impl Book {
    pub(super) fn new(segment_bytes: u64, oldest: u64) -> Self {
        Self { segment_bytes, live_bytes: 0, oldest, segments: VecDeque::new() }
    }

    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// How many segments are in use.
    pub(super) fn segments(&self) -> u64 {
        self.segments.len() as u64
    }

    /// The segment that is appended to.
    pub(super) fn newest(&self) -> u64 {
        self.oldest + self.segments.len() as u64 - 1
    }

    pub(super) fn push(&mut self, segment: Segment) {
        self.segments.push_back(segment);
    }

    pub(super) fn free_oldest(&mut self) {
        self.segments.pop_front();
        self.oldest += 1;
    }

    pub(super) fn of(&self, segment: u64) -> Option<&Segment> {
        self.segments.get(usize::try_from(segment.checked_sub(self.oldest)?).ok()?)
    }

    /// # Panics
    /// When the segment is not in use: the caller has a position that it released before.
    pub(super) fn of_mut(&mut self, segment: u64) -> &mut Segment {
        let oldest = self.oldest;
        let index = segment.checked_sub(oldest).and_then(|i| usize::try_from(i).ok());
        let found = index.and_then(|i| self.segments.get_mut(i));
        found.unwrap_or_else(|| panic!("segment {segment} is not in use, the oldest is {oldest}"))
    }

    pub(super) fn identity(&self, segment: u64) -> Identity {
        let salt = self.of(segment).map_or(0, |s| s.salt);
        Identity { segment, salt, segment_bytes: self.segment_bytes }
    }

    /// The segment of a position and the offset in it.
    pub(super) fn place(&self, position: Position) -> (u64, u64) {
        (position.0 / self.segment_bytes, position.0 % self.segment_bytes)
    }

    pub(super) fn add_live(&mut self, segment: u64, bytes: u64) {
        self.of_mut(segment).live_bytes += bytes;
        self.live_bytes += bytes;
    }

    /// # Panics
    /// When more is released than was appended: recovery would miss records, so nothing goes on after that.
    pub(super) fn release(&mut self, segment: u64, bytes: u64, open: Ticket) {
        let held = self.of_mut(segment);
        assert!(held.live_bytes >= bytes, "more released in segment {segment} than was live");
        held.live_bytes -= bytes;
        held.released_in = open;
        self.live_bytes -= bytes;
    }

    /// The oldest segment that recovery needs, at most `newest`.
    pub(super) fn oldest_needed(&self, newest: u64) -> u64 {
        let dead = self.segments.iter().take_while(|s| s.live_bytes == 0).count() as u64;
        (self.oldest + dead).min(newest)
    }
}
