//! The log's bookkeeping. No file is touched here.

mod checkpoints;
mod relocation;

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::{Batch, How};
use super::book::{Book, Segment};
use super::checkpoint::{HeadLen, Making};
use super::chore::{
    Chore, ChoreDone, ChoreOutcome, Done, Preparation, Prepared, ReadAhead, Reading, Want, Work,
};
use super::format::{self, BATCH_HEADER_BYTES, BatchHeader, Identity, RECORD_HEADER_BYTES};
use super::recovery::Start;
use super::settings::{Durability, LogConfig, LogStats};
use super::storage::StorageFile;
use super::{AlignedBuffer, Journal, Position, ReadTicket, Room, Ticket};
use crate::limits::{LOG_BATCH_BYTES_MAX, LOG_BLOCK_BYTES, RESERVED_SEGMENTS, SPARE_SEGMENTS_MAX};

const BLOCK: u64 = LOG_BLOCK_BYTES as u64;
/// Segments kept prepared beyond the reserve, when the disk was seen to be too slow.
const AHEAD_MAX: usize = 4;
/// Buffers kept for the next batches.
const POOLED_BUFFERS_MAX: usize = 4;
/// Reads of one chore, and their bytes unless the first has more.
const READS_PER_CHORE_MAX: usize = 256;
const READ_BYTES_PER_CHORE_MAX: u64 = 1 << 20;

/// A batch that is being filled, or waits to be written.
#[derive(Debug)]
struct Piece {
    identity: Identity,
    offset: u64,
    bytes: AlignedBuffer,
    records: u32,
}

/// The log. See the module for the order of calls.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    book: Book,
    /// Batches of the open ticket; the last one takes the next record.
    open: VecDeque<Piece>,
    /// Batches of the ticket before, waiting for the committer.
    closed: VecDeque<Piece>,
    /// Where the next batch starts in the newest segment.
    offset: u64,
    open_ticket: Ticket,
    committed: Ticket,
    pool: Vec<AlignedBuffer>,
    last: BatchHeader,
    /// Where the batch written last ends, and the bytes of it and those before that are not synced.
    written_to: u64,
    unsynced_bytes: u64,
    /// Everything below is durable. Only this is ever named so: recovery refuses a log that ends before.
    synced_to: u64,
    /// Everything up to this ticket is durable.
    synced: Ticket,
    /// What the newest batch that was written names as needed, and the newest one that is durable.
    oldest_written: u64,
    oldest_durable: u64,
    /// The next batch is a sync, if there is anything to sync.
    sync_wanted: bool,
    /// The next batch has no record and is the last.
    concludes: bool,
    /// The segment that is written to; the newest one may be ahead of it.
    writing: u64,
    file: Arc<dyn StorageFile>,
    prepared: VecDeque<Prepared>,
    preparing: Option<Preparation>,
    space_busy: bool,
    ahead: usize,
    waited: bool,
    blocked: bool,
    reads: VecDeque<Want>,
    next_read: u64,
    read_ahead: Option<ReadAhead>,
    /// Segments below this one are relocated however little that frees.
    rewrite_below: u64,
    /// How much of a record a replay needs, where checkpoints are made.
    head_len: Option<HeadLen>,
    /// Segments below this one have a checkpoint, or are not worth one.
    checkpointed_below: u64,
    /// A checkpoint that is being made, and whether a step of it is under way.
    making: Option<Box<Making>>,
    is_making: bool,
    /// How far the oldest segment was handed out, while that is under way.
    scanned_to: Option<u64>,
    scan_busy: bool,
    /// A slice is being dealt with: what is appended and released now only moves.
    relocating: bool,
    /// Bytes that became useless and have not paid for a relocation yet.
    garbage: u64,
    failed: bool,
    stats: LogStats,
}

impl Log {
    pub(super) fn new(start: Start) -> Self {
        let writing = start.book.newest();
        let end = start.book.identity(writing).position(start.offset);
        Self {
            config: start.config,
            open: VecDeque::new(),
            closed: VecDeque::new(),
            offset: start.offset,
            open_ticket: Ticket(1),
            committed: Ticket::DURABLE,
            pool: Vec::new(),
            last: start.last,
            written_to: end,
            unsynced_bytes: 0,
            synced_to: end,
            synced: Ticket::DURABLE,
            oldest_written: 0,
            oldest_durable: 0,
            sync_wanted: false,
            concludes: false,
            writing,
            file: start.file,
            prepared: start.prepared,
            preparing: None,
            space_busy: false,
            ahead: 1,
            waited: false,
            blocked: false,
            reads: VecDeque::new(),
            next_read: 0,
            read_ahead: Some(ReadAhead::default()),
            rewrite_below: 0,
            head_len: start.head_len,
            checkpointed_below: 0,
            making: None,
            is_making: false,
            scanned_to: None,
            scan_busy: false,
            relocating: false,
            // Nothing is known of what was there: each segment may be relocated once.
            garbage: start.book.segments() * start.config.segment_bytes,
            failed: false,
            stats: LogStats::default(),
            book: start.book,
        }
    }

    /// The next batch to be written. All that was appended up to the first call of a round gets one ticket; it may
    /// need several calls. One without records only says which segments are not needed any more. `None` when nothing
    /// waits, when no prepared segment is there, or after a failure.
    pub fn seal(&mut self) -> Option<Batch> {
        if self.failed {
            return None;
        }
        if self.sync_wanted && self.is_unsynced() {
            return Some(self.seal_sync());
        }
        if self.closed.is_empty() {
            if self.open.is_empty() {
                if !std::mem::take(&mut self.concludes) && !self.owes_word() {
                    return None;
                }
                self.start_piece(0);
            }
            self.close_offset();
            std::mem::swap(&mut self.closed, &mut self.open);
            self.open_ticket.0 += 1;
        }
        let segment = self.closed.front()?.identity.segment;
        if segment != self.writing {
            // What is not synced lies in one file only.
            if self.is_unsynced() {
                return Some(self.seal_sync());
            }
            if !self.move_on(segment) {
                return None;
            }
        }
        let mut piece = self.closed.pop_front()?;
        let oldest_segment = self.book.oldest_needed(segment);
        self.book.of_mut(segment).records += u64::from(piece.records);
        let header = BatchHeader {
            number: self.last.number + 1,
            durable: self.synced_to,
            oldest_segment,
            payload_bytes: (piece.bytes.len() - BATCH_HEADER_BYTES) as u32,
            records: piece.records,
            previous_crc: self.last.crc,
            crc: 0,
        };
        let unpadded = piece.bytes.len();
        piece.bytes.pad_to_block();
        self.garbage += (piece.bytes.len() - unpadded) as u64;
        let crc =
            format::write_batch_header(piece.bytes.as_mut_slice(), &piece.identity, piece.offset, &header);
        self.last = BatchHeader { crc, ..header };
        let how = match self.config.durability {
            Durability::Sync => How::WriteDurably,
            Durability::Interval(_) => How::Write,
        };
        Some(Batch {
            how,
            ticket: Ticket(self.open_ticket.0 - 1),
            completes: self.closed.is_empty(),
            records: piece.records,
            segment,
            offset: piece.offset,
            oldest_segment,
            bytes: piece.bytes,
            file: Arc::clone(&self.file),
        })
    }

    fn seal_sync(&mut self) -> Batch {
        self.sync_wanted = false;
        Batch {
            ticket: self.committed,
            completes: false,
            records: 0,
            how: How::Sync,
            segment: self.writing,
            offset: self.written_to % self.config.segment_bytes,
            oldest_segment: self.oldest_written,
            bytes: AlignedBuffer::default(),
            file: Arc::clone(&self.file),
        }
    }

    /// Lets the next batch be a sync, before whatever waits to be written; if nothing is unsynced, the first one after
    /// a batch that is. Whether that is news to a log with something to sync.
    pub fn request_sync(&mut self) -> bool {
        let is_new = !std::mem::replace(&mut self.sync_wanted, true);
        is_new && self.is_unsynced()
    }

    /// Lets one more batch be sealed, without records, that names all before it as durable: damage in what was written last
    /// is then told from a write that was cut short. Called when nothing waits to be written or synced and nothing more
    /// comes. Whether there is such a batch: where it would take another segment it is not worth it.
    pub fn conclude(&mut self) -> bool {
        let has_room = self.offset < self.config.segment_bytes && self.book.newest() == self.writing;
        let is_wanted = has_room && self.last.records > 0 && !self.concludes && !self.failed;
        self.concludes |= is_wanted;
        is_wanted
    }

    /// Whether a power loss would take something that was written.
    #[must_use]
    pub fn is_unsynced(&self) -> bool {
        self.unsynced_bytes > 0
    }

    /// The batch is written, or the sync done.
    pub fn batch_done(&mut self, batch: Batch) {
        if batch.how != How::Sync {
            let end = batch.offset + batch.bytes.len() as u64;
            self.stats.written_bytes += batch.bytes.len() as u64;
            self.unsynced_bytes += batch.bytes.len() as u64;
            self.book.of_mut(batch.segment).written_end = end;
            self.written_to = self.book.identity(batch.segment).position(end);
            self.oldest_written = batch.oldest_segment;
            if batch.completes {
                self.committed = batch.ticket;
            }
        }
        if batch.how != How::Write {
            // One batch at a time: nothing was written since this one was sealed.
            self.synced_to = self.written_to;
            self.unsynced_bytes = 0;
            self.synced = self.committed;
            self.oldest_durable = self.oldest_written;
        }
        let is_usual = (LOG_BATCH_BYTES_MAX..=2 * LOG_BATCH_BYTES_MAX).contains(&batch.bytes.capacity());
        if self.pool.len() < POOLED_BUFFERS_MAX && is_usual {
            let mut buffer = batch.bytes;
            buffer.clear();
            self.pool.push(buffer);
        }
    }

    /// The batch could not be written or synced: nothing is sealed any more, and the process must stop.
    pub fn batch_failed(&mut self, _batch: Batch) {
        self.failed = true;
    }

    /// Bytes that wait to be sealed.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.open.iter().chain(&self.closed).map(|piece| piece.bytes.len()).sum()
    }

    /// Counts for the metrics.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        LogStats {
            live_bytes: self.book.live_bytes,
            segments: self.segments_total(),
            prepared: self.prepared.len() as u64,
            reads: self.reads.len() as u64,
            unsynced_bytes: self.unsynced_bytes,
            ..self.stats
        }
    }

    /// Says that space may be there again: a preparation that failed is tried once more. Called on a timer while
    /// [`Journal::room`] is [`Room::Reserved`].
    pub fn retry_space(&mut self) {
        // A segment that is under way has the next number already; its end looks here again.
        if self.blocked && self.preparing.is_none() && !self.space_busy {
            self.preparing = Some(self.preparation());
        }
    }

    /// The next thing to be done beside commits, if there is one.
    pub fn next_chore(&mut self) -> Option<Chore> {
        if self.failed {
            return None;
        }
        let work = self.next_reading().or_else(|| self.next_space());
        let work = work.or_else(|| self.next_scan()).or_else(|| self.next_checkpoint());
        work.map(Chore)
    }

    /// Takes note of a chore that was run.
    pub fn chore_done(&mut self, done: ChoreDone) -> ChoreOutcome {
        match done.0 {
            Done::Zeroed(preparation) => {
                self.space_busy = false;
                self.preparing = Some(preparation);
            }
            Done::Prepared { identity, file } => {
                self.space_busy = false;
                self.prepared.push_back(Prepared { identity, file });
                self.blocked &= self.prepared.len() <= RESERVED_SEGMENTS;
                if self.blocked {
                    self.retry_space();
                }
            }
            Done::PrepareFailed(error) => {
                self.space_busy = false;
                self.blocked = true;
                return ChoreOutcome::NoSpace(error);
            }
            Done::Removed => {
                self.space_busy = false;
                self.retry_space();
            }
            Done::Read(reading, reads) => {
                for (want, identity, _) in &reading.wants {
                    debug_assert_eq!(want.position.0 / self.config.segment_bytes, identity.segment);
                    self.book.of_mut(identity.segment).reads -= 1;
                }
                self.read_ahead = Some(reading.ahead);
                return ChoreOutcome::Reads(reads);
            }
            Done::Scanned(slice) => {
                self.relocating = true;
                return ChoreOutcome::Relocation(slice);
            }
            Done::Checkpoint(segment, step) => self.checkpoint_stepped(segment, step),
            Done::Failed(error) => {
                self.failed = true;
                return ChoreOutcome::Failed(error);
            }
        }
        ChoreOutcome::Quiet
    }

    /// Takes the next prepared segment into use. The reserve is left alone while there is hope for more.
    fn move_on(&mut self, segment: u64) -> bool {
        let reserve = if self.blocked { 0 } else { RESERVED_SEGMENTS };
        if self.prepared.len() <= reserve {
            if !self.waited {
                self.waited = true;
                self.stats.waits += 1;
                self.ahead = (self.ahead + 1).min(AHEAD_MAX);
            }
            return false;
        }
        let Some(next) = self.prepared.pop_front() else { return false };
        assert_eq!(next.identity.segment, segment, "segments are used in the order they were prepared");
        self.waited = false;
        self.writing = segment;
        self.file = next.file;
        true
    }

    fn segments_total(&self) -> u64 {
        self.writing - self.book.oldest() + 1 + self.prepared.len() as u64
    }

    fn segments_allowed(&self) -> u64 {
        2 * self.book.live_bytes / self.config.segment_bytes + SPARE_SEGMENTS_MAX as u64
    }

    fn preparation(&self) -> Preparation {
        Preparation::new(self.next_identity())
    }

    /// What the next segment to be prepared will be.
    fn next_identity(&self) -> Identity {
        let segment = self.prepared.back().map_or(self.writing, |p| p.identity.segment) + 1;
        // One that is appended to already has its salt.
        let salt = self.book.of(segment).map_or_else(|| self.config.salt(segment), |s| s.salt);
        Identity { segment, salt, segment_bytes: self.config.segment_bytes }
    }

    /// Frees the oldest segment if nothing in it is needed, or prepares one if too few are.
    fn next_space(&mut self) -> Option<Work> {
        if self.space_busy {
            return None;
        }
        let work = self.next_free().or_else(|| {
            let started = self.preparing.take();
            if started.is_some() {
                return started.map(Work::Prepare);
            }
            let wanted = self.prepared.len() < RESERVED_SEGMENTS + self.ahead && !self.blocked;
            // Beyond the bound an old segment is awaited instead, as long as that does not hold up commits.
            let within = self.segments_total() < self.segments_allowed() || self.waited || self.is_short();
            (wanted && within).then(|| Work::Prepare(self.preparation()))
        });
        self.space_busy = work.is_some();
        work
    }

    /// The next segment will be needed before the oldest one can be had for it.
    fn is_short(&self) -> bool {
        let segment_bytes = self.config.segment_bytes;
        let relocates = self.scan_busy || self.scanned_to.is_some();
        let oldest_bytes = self.book.of(self.book.oldest()).map_or(0, |s| s.live_bytes);
        self.prepared.len() <= RESERVED_SEGMENTS
            && (self.offset > segment_bytes / 2 || (relocates && self.offset + oldest_bytes > segment_bytes))
    }

    fn next_free(&mut self) -> Option<Work> {
        // A file under preparation has the next number already.
        if self.preparing.is_some() && !self.blocked {
            return None;
        }
        let excess = self.segments_total() > self.segments_allowed();
        let oldest = self.book.oldest();
        if self.is_dead(oldest) {
            let enough = self.prepared.len() >= RESERVED_SEGMENTS + self.ahead
                || (excess && self.prepared.len() > RESERVED_SEGMENTS);
            let identity = self.next_identity();
            self.book.free_oldest();
            self.scanned_to = None;
            self.preparing = None;
            return Some(if enough && !self.blocked {
                Work::Remove { segment: oldest }
            } else {
                Work::Recycle { old: oldest, identity }
            });
        }
        let trim = excess && !self.blocked && !self.waited && self.prepared.len() > RESERVED_SEGMENTS + 1;
        // A segment whose salt is in use by waiting records stays.
        let spare = self.prepared.back().map(|p| p.identity.segment).filter(|&s| s > self.book.newest());
        let segment = spare.filter(|_| trim)?;
        self.prepared.pop_back();
        Some(Work::Remove { segment })
    }

    /// Nothing in it is needed, and all that made it so is durable, the log's own word for it included.
    fn is_dead(&self, oldest: u64) -> bool {
        self.book.of(oldest).is_some_and(|segment| {
            segment.live_bytes == 0
                && segment.reads == 0
                && segment.released_in <= self.synced
                && oldest < self.writing
                && oldest < self.oldest_durable
                && !self.scan_busy
        })
    }

    fn next_reading(&mut self) -> Option<Work> {
        let mut bytes = 0;
        let mut wants = Vec::new();
        while let Some(&want) = self.reads.front() {
            let (segment, offset) = self.book.place(want.position);
            let end = self.book.of_mut(segment).written_end;
            bytes += u64::from(want.len);
            let full =
                wants.len() >= READS_PER_CHORE_MAX || (bytes > READ_BYTES_PER_CHORE_MAX && !wants.is_empty());
            if offset >= end || full || self.read_ahead.is_none() {
                break;
            }
            wants.push((want, self.book.identity(segment), end));
            self.reads.pop_front();
        }
        if wants.is_empty() {
            return None;
        }
        self.read_ahead.take().map(|ahead| Work::Read(Reading { wants, ahead }))
    }

    /// The batch that takes a record of `bytes`, its header included; a new one if it does not fit the last.
    fn piece_for(&mut self, bytes: usize) -> &mut Piece {
        let segment_bytes = self.config.segment_bytes;
        let fits = self.open.back().is_some_and(|piece| {
            let end = piece.bytes.len() + bytes;
            end <= LOG_BATCH_BYTES_MAX
                && piece.offset + end as u64 <= segment_bytes
                && piece.identity.segment == self.book.newest()
        });
        if !fits {
            self.start_piece(bytes);
        }
        self.open.back_mut().expect("one was there or was just started")
    }

    #[cold]
    fn start_piece(&mut self, bytes: usize) {
        self.close_offset();
        let needed = (BATCH_HEADER_BYTES + bytes) as u64;
        if self.offset + needed > self.config.segment_bytes {
            assert!(BLOCK + needed <= self.config.segment_bytes, "a record is larger than a segment");
            let segment = self.book.newest() + 1;
            let known = self.prepared.iter().find(|p| p.identity.segment == segment);
            let salt = known.map_or_else(|| self.config.salt(segment), |p| p.identity.salt);
            self.book.push(Segment::new(salt));
            if !self.relocating {
                // What is too short for the next record is of no use to anyone.
                self.garbage += self.config.segment_bytes - self.offset;
            }
            self.offset = BLOCK;
        }
        let capacity = (BATCH_HEADER_BYTES + bytes).max(LOG_BATCH_BYTES_MAX);
        let pooled = self.pool.pop_if(|buffer| buffer.capacity() >= capacity);
        let mut buffer = pooled.unwrap_or_else(|| AlignedBuffer::with_capacity(capacity));
        buffer.resize(BATCH_HEADER_BYTES);
        let identity = self.book.identity(self.book.newest());
        self.open.push_back(Piece { identity, offset: self.offset, bytes: buffer, records: 0 });
    }

    /// Moves the place of the next batch behind the newest one, which takes no more records.
    fn close_offset(&mut self) {
        if let Some(piece) = self.open.back() {
            self.offset = piece.offset + piece.bytes.len().next_multiple_of(LOG_BLOCK_BYTES) as u64;
        }
    }
}

impl Journal for Log {
    fn append(&mut self, parts: &[&[u8]]) -> Position {
        let data_bytes: usize = parts.iter().map(|part| part.len()).sum();
        let piece = self.piece_for(RECORD_HEADER_BYTES + data_bytes);
        let at = piece.bytes.len();
        piece.bytes.extend(&(data_bytes as u64).to_le_bytes());
        for part in parts {
            piece.bytes.extend(part);
        }
        let offset = piece.offset + at as u64;
        let record = &mut piece.bytes.as_mut_slice()[at..];
        let crc = format::record_crc(&piece.identity, offset, &record[RECORD_HEADER_BYTES..]);
        record[4..RECORD_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        piece.records += 1;
        let (segment, position) = (piece.identity.segment, piece.identity.position(offset));
        self.book.add_live(segment, data_bytes as u64);
        Position(position)
    }

    fn open_ticket(&self) -> Ticket {
        self.open_ticket
    }

    fn committed(&self) -> Ticket {
        self.committed
    }

    fn retain(&mut self, position: Position, len: u32) {
        let (segment, _) = self.book.place(position);
        self.book.add_live(segment, u64::from(len));
    }

    fn release(&mut self, position: Position, len: u32) {
        let (segment, _) = self.book.place(position);
        self.book.release(segment, u64::from(len), self.open_ticket);
        if !self.relocating {
            self.garbage += u64::from(len);
        }
    }

    fn room(&self) -> Room {
        if self.blocked { Room::Reserved } else { Room::Open }
    }

    fn read(&mut self, position: Position, offset: u32, len: u32) -> ReadTicket {
        let (segment, _) = self.book.place(position);
        self.book.of_mut(segment).reads += 1;
        let ticket = ReadTicket(self.next_read);
        self.next_read += 1;
        self.reads.push_back(Want { ticket, position, skip: offset, len });
        ticket
    }
}
