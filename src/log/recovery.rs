//! What is read at start, and what is refused.
//!
//! The log is one chain of batches, each with the checksum of the one before. It ends where the next batch, behind the
//! last one or at the start of the next segment, is not whole. Every header found anywhere, whole segments scanned (but
//! for those that cannot have been used, because they and the one before them have no first batch),
//! says up to where the log was durable when it was written: if that is beyond the end, durable bytes were damaged and
//! the start is refused. Otherwise what lies beyond was never said to be durable, and is cut. Where durability is an
//! interval and the power went, that may be several batches, some of them whole behind one that is not: their headers
//! are wiped before anything new is written, so that none of them is ever taken for a successor of a new batch.
//!
//! What was read may lie in the page cache only, left there by a process that was killed. So it is synced before a
//! new batch names it as durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::book::{Book, FileKind, Segment, checkpoint_name, file_name, kind_of_file};
use super::checkpoint::{Checkpoint, HeadLen};
use super::chore::{Done, Preparation, Prepared};
use super::format::{self, BatchHeader, Flaw, Identity};
use super::loading::{Loaded, Piece, for_each_piece};
use super::storage::{Storage, StorageFile};
use super::{AlignedBuffer, Log, LogConfig, LogError, Position};
use crate::limits::LOG_BLOCK_BYTES;

const BLOCK: u64 = LOG_BLOCK_BYTES as u64;

/// What was found at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Segments that hold batches, and the one that is written to.
    pub segments: u64,
    /// Batches read.
    pub batches: u64,
    /// Segments of which the checkpoint was read.
    pub checkpoints: u64,
    /// Records read.
    pub records: u64,
    /// Bytes of their data.
    pub data_bytes: u64,
    /// What was cut off at the end, if there is a trace of it.
    pub cut: Option<Cut>,
    /// Whether commits go around the page cache; they cost more where they do not.
    pub is_direct: bool,
    /// The log was made just now.
    pub is_new: bool,
}

/// What was being written when the process or the machine stopped, and never said to be durable: one batch that nobody
/// was answered for, or, where durability is an interval, what was written since the last sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file name.
    pub file: String,
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its length in bytes, as far as known.
    pub bytes: u64,
}

impl Log {
    /// Reads the log of a directory, handing over each record in order, and makes it ready to be written. Makes the
    /// first segment of a new log.
    ///
    /// # Errors
    /// [`LogError`] says what is wrong and what to do. Nothing was changed then, but for what was to be cut.
    pub fn recover(
        storage: &dyn Storage,
        config: LogConfig,
        on_record: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<(Self, Recovery), LogError> {
        Self::recover_with(storage, config, None, &mut |position, record, _| on_record(position, record))
    }

    /// As [`Log::recover`], but of a segment with a checkpoint only the heads of the records are read, each handed over with
    /// the length of its record; `head_len` says what the head of a record is. Goes on to make checkpoints.
    ///
    /// # Errors
    /// As [`Log::recover`].
    pub fn recover_heads(
        storage: &dyn Storage,
        config: LogConfig,
        head_len: HeadLen,
        on_record: &mut OnRecord<'_>,
    ) -> Result<(Self, Recovery), LogError> {
        Self::recover_with(storage, config, Some(head_len), on_record)
    }

    fn recover_with(
        storage: &dyn Storage,
        config: LogConfig,
        head_len: Option<HeadLen>,
        on_record: &mut OnRecord<'_>,
    ) -> Result<(Self, Recovery), LogError> {
        let mut report = Recovery { is_direct: storage.is_direct(), ..Recovery::default() };
        let (numbers, mut checkpoints) = segment_numbers(storage, &config)?;
        let Some(&oldest) = numbers.first() else {
            report.is_new = true;
            report.segments = 1;
            return Ok((make(storage, config, head_len)?, report));
        };
        if head_len.is_none() {
            checkpoints.clear();
        }
        let mut walk = Walk::new(config, oldest, head_len);
        for_each_piece(storage, config.segment_bytes, &numbers, &checkpoints, |loaded| match loaded {
            Loaded::Piece(piece) => walk.piece(piece, &mut report, on_record),
            Loaded::Checkpoint(identity, file, checkpoint) => {
                walk.checkpoint(*identity, file, checkpoint, &mut report, on_record);
                Ok(())
            }
        })?;
        let log = walk.finish(&mut report)?;
        remove_leftovers(storage, &numbers)?;
        Ok((log, report))
    }
}

/// Takes each record with its position: its bytes, or as many as its checkpoint has, and how many it has in all.
type OnRecord<'a> = dyn FnMut(Position, &[u8], u32) + 'a;

fn list(storage: &dyn Storage) -> Result<Vec<super::Entry>, LogError> {
    storage.list().map_err(LogError::io("listing", "the log directory"))
}

/// The numbers of the segments, in order and without a gap, and how long the checkpoints are that some have.
fn segment_numbers(
    storage: &dyn Storage,
    config: &LogConfig,
) -> Result<(Vec<u64>, BTreeMap<u64, u64>), LogError> {
    let mut numbers = Vec::new();
    let mut checkpoints = BTreeMap::new();
    for entry in list(storage)? {
        match kind_of_file(&entry.name) {
            Some((number, FileKind::Segment)) => numbers.push((number, entry.bytes)),
            Some((_, FileKind::Unfinished)) => {}
            Some((number, FileKind::Checkpoint)) => {
                checkpoints.insert(number, entry.bytes);
            }
            None => return Err(LogError::Foreign { file: entry.name }),
        }
    }
    if let (true, Some((&number, _))) = (numbers.is_empty(), checkpoints.first_key_value()) {
        return Err(LogError::AllMissing { file: checkpoint_name(number) });
    }
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[1].0 != pair[0].0 + 1 {
            return Err(LogError::Missing { file: file_name(pair[0].0 + 1) });
        }
    }
    // A length that no segment shares with the configuration is the configuration's fault, told by the header.
    let same = numbers.iter().all(|n| n.1 == numbers[0].1);
    let odd = numbers.iter().find(|n| n.1 != config.segment_bytes && (!same || n.1 < BLOCK));
    match odd {
        Some(&(number, found)) => {
            Err(LogError::Length { file: file_name(number), found, expected: config.segment_bytes })
        }
        None => Ok((numbers.into_iter().map(|n| n.0).collect(), checkpoints)),
    }
}

/// Removes what was being made, and checkpoints whose segments are gone.
fn remove_leftovers(storage: &dyn Storage, segments: &[u64]) -> Result<(), LogError> {
    let is_leftover = |name: &str| match kind_of_file(name) {
        Some((_, FileKind::Unfinished)) => true,
        Some((number, FileKind::Checkpoint)) => segments.binary_search(&number).is_err(),
        _ => false,
    };
    for entry in list(storage)?.into_iter().filter(|entry| is_leftover(&entry.name)) {
        storage.remove(&entry.name).map_err(LogError::io("removing", &entry.name))?;
    }
    storage.sync_directory().map_err(LogError::io("syncing", "the log directory"))
}

/// A log with one segment.
fn make(storage: &dyn Storage, config: LogConfig, head_len: Option<HeadLen>) -> Result<Log, LogError> {
    remove_leftovers(storage, &[])?;
    let identity = Identity { segment: 1, salt: config.salt(1), segment_bytes: config.segment_bytes };
    let mut preparation = Preparation::new(identity);
    let file = loop {
        match preparation.step(storage)? {
            Done::Prepared { file, .. } => break file,
            Done::Zeroed(next) => preparation = next,
            _ => unreachable!("a preparation goes on or is done"),
        }
    };
    let mut book = Book::new(config.segment_bytes, 1);
    book.push(Segment::new(identity.salt));
    let last = BatchHeader::default();
    Ok(Log::new(Start { config, book, file, offset: BLOCK, prepared: VecDeque::new(), last, head_len }))
}

/// What a log starts from.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) config: LogConfig,
    pub(super) book: Book,
    /// The file of the newest segment.
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) offset: u64,
    pub(super) prepared: VecDeque<Prepared>,
    pub(super) last: BatchHeader,
    /// Checkpoints are made, of heads that are this long.
    pub(super) head_len: Option<HeadLen>,
}

/// Where the log ends, as far as it was followed.
struct End {
    segment: u64,
    offset: u64,
    flaw: Flaw,
    file: Arc<dyn StorageFile>,
}

/// How far the segment that is being read was followed.
struct At {
    /// Where the next batch begins, or would.
    offset: u64,
    /// Why there is none.
    flaw: Option<Flaw>,
    /// As in [`Cut`].
    cut_bytes: u64,
    /// Records up to there.
    records: u64,
}

impl Default for At {
    fn default() -> Self {
        Self { offset: BLOCK, flaw: None, cut_bytes: 0, records: 0 }
    }
}

/// Follows the chain from segment to segment.
struct Walk {
    config: LogConfig,
    head_len: Option<HeadLen>,
    book: Book,
    last: Option<BatchHeader>,
    at: At,
    /// What the last piece had of a batch that goes on in the next one.
    rest: Vec<u8>,
    end: Option<End>,
    /// Segments behind the end; the chain may still go on in the first of them.
    behind: VecDeque<Prepared>,
    /// Batch headers that a later batch need not overwrite: file, segment and offset of each.
    leftovers: Vec<(Arc<dyn StorageFile>, u64, u64)>,
    cut: Option<Cut>,
    /// Highest position named as durable, and highest segment named as the oldest one needed.
    durable: u64,
    oldest_needed: u64,
}

impl Walk {
    fn new(config: LogConfig, oldest: u64, head_len: Option<HeadLen>) -> Self {
        Self {
            config,
            head_len,
            book: Book::new(config.segment_bytes, oldest),
            last: None,
            at: At::default(),
            rest: Vec::new(),
            end: None,
            behind: VecDeque::new(),
            leftovers: Vec::new(),
            cut: None,
            durable: 0,
            oldest_needed: 0,
        }
    }

    /// Follows the chain over a whole segment by its checkpoint. The segment was durable when that was written.
    fn checkpoint(
        &mut self,
        identity: Identity,
        file: &Arc<dyn StorageFile>,
        checkpoint: &Checkpoint,
        report: &mut Recovery,
        on_record: &mut OnRecord<'_>,
    ) {
        self.note(&checkpoint.last);
        let follows = match self.last {
            Some(last) => checkpoint.first == (last.number + 1, last.crc),
            None => identity.segment == self.book.oldest(),
        };
        if !follows || !self.behind.is_empty() {
            // The chain ended before: that this segment is durable refuses the start.
            self.behind.push_back(Prepared { identity, file: Arc::clone(file) });
            return;
        }
        checkpoint.records(identity).for_each(|(position, head, len)| on_record(position, head, len));
        report.checkpoints += 1;
        report.batches += checkpoint.batches;
        report.records += checkpoint.records;
        report.data_bytes += checkpoint.data_bytes;
        let mut segment = Segment::new(identity.salt);
        segment.written_end = checkpoint.end;
        segment.records = checkpoint.records;
        segment.has_checkpoint = true;
        self.book.push(segment);
        self.last = Some(checkpoint.last);
        let (segment, offset) = (identity.segment, checkpoint.end);
        self.end = Some(End { segment, offset, flaw: Flaw::Foreign, file: Arc::clone(file) });
    }

    /// Follows the chain through a piece, then looks for what lies beyond its end.
    fn piece(
        &mut self,
        piece: &mut Piece,
        report: &mut Recovery,
        on_record: &mut OnRecord<'_>,
    ) -> Result<(), LogError> {
        piece.join(&self.rest);
        self.rest.clear();
        if self.at.flaw.is_none() {
            self.at.flaw = self.follow(piece, report, on_record);
        }
        let Some(flaw) = self.at.flaw else {
            self.rest.extend_from_slice(&piece.bytes()[(self.at.offset - piece.offset) as usize..]);
            return Ok(());
        };
        let At { offset, .. } = self.at;
        let is_behind = offset == BLOCK && self.end.is_some();
        self.scan(piece, is_behind)?;
        if !piece.is_last {
            return Ok(());
        }
        let At { cut_bytes, records, .. } = std::mem::take(&mut self.at);
        let (identity, file) = (piece.identity, Arc::clone(&piece.file));
        let number = identity.segment;
        // What was cut may begin in the segment after the one that the log ends in.
        if !is_behind || (self.behind.is_empty() && cut_bytes > 0) {
            self.cut = (cut_bytes > 0).then(|| Cut { file: file_name(number), offset, bytes: cut_bytes });
        }
        if is_behind {
            self.behind.push_back(Prepared { identity, file });
            return Ok(());
        }
        let mut segment = Segment::new(identity.salt);
        segment.written_end = offset;
        segment.records = records;
        self.book.push(segment);
        self.end = Some(End { segment: number, offset, flaw, file });
        Ok(())
    }

    /// Hands over the records of the batches in a piece. Returns what ends the chain in this segment, or `None` when the
    /// next piece may go on with it.
    fn follow(&mut self, piece: &Piece, report: &mut Recovery, on_record: &mut OnRecord<'_>) -> Option<Flaw> {
        let identity = piece.identity;
        // Behind the end the chain goes on in the next segment or not at all.
        while self.behind.is_empty() {
            let offset = self.at.offset;
            let batch = &piece.bytes()[(offset - piece.offset) as usize..];
            let header = match format::check_batch(batch, &identity, offset) {
                Ok(header) => header,
                Err(Flaw::Short(_)) if !piece.is_last => return None,
                Err(_) if batch.is_empty() && !piece.is_last => return None,
                Err(flaw) => return Some(flaw),
            };
            let follows = match self.last {
                Some(last) => header.number == last.number + 1 && header.previous_crc == last.crc,
                None => identity.segment == self.book.oldest(),
            };
            if !follows {
                break;
            }
            for (at, data) in format::records(batch, &header) {
                on_record(Position(identity.position(offset + at as u64)), data, data.len() as u32);
                self.at.records += 1;
                report.records += 1;
                report.data_bytes += data.len() as u64;
            }
            report.batches += 1;
            self.at.offset += header.batch_bytes() as u64;
            self.last = Some(header);
            self.note(&header);
        }
        Some(Flaw::Foreign)
    }

    /// Looks for headers behind the end of the chain, and notes how many bytes from there the batches they speak of
    /// reach.
    fn scan(&mut self, piece: &Piece, is_behind: bool) -> Result<(), LogError> {
        let (identity, end) = (&piece.identity, self.at.offset);
        let until = piece.offset + piece.bytes().len() as u64;
        for at in (end.max(piece.offset)..until).step_by(LOG_BLOCK_BYTES) {
            match format::read_batch_header(&piece.bytes()[(at - piece.offset) as usize..], identity, at) {
                Ok(header) => {
                    self.note(&header);
                    // The one at the end itself is not whole, or follows nothing.
                    if at > end || is_behind {
                        self.leftovers.push((Arc::clone(&piece.file), identity.segment, at));
                    }
                    self.at.cut_bytes = at + header.batch_bytes() as u64 - end;
                }
                Err(Flaw::Newer(found)) => {
                    let file = file_name(identity.segment);
                    return Err(LogError::Newer { file, found, known: format::FORMAT_VERSION });
                }
                Err(Flaw::Header) if at == end => self.at.cut_bytes = BLOCK,
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn note(&mut self, header: &BatchHeader) {
        self.durable = self.durable.max(header.durable);
        self.oldest_needed = self.oldest_needed.max(header.oldest_segment);
    }

    /// Makes sure that no batch is made of what lies beyond the end, and that all before it is durable.
    fn settle(&self, end: &End) -> Result<(), LogError> {
        let mut zeroes = AlignedBuffer::with_capacity(LOG_BLOCK_BYTES);
        zeroes.resize(LOG_BLOCK_BYTES);
        for (file, segment, offset) in &self.leftovers {
            let written = file.write(*offset, zeroes.as_slice());
            written.map_err(LogError::io("wiping what was cut", &file_name(*segment)))?;
        }
        for same in self.leftovers.chunk_by(|a, b| a.1 == b.1) {
            let (file, segment, _) = &same[0];
            file.sync().map_err(LogError::io("syncing", &file_name(*segment)))?;
        }
        end.file.sync().map_err(LogError::io("syncing", &file_name(end.segment)))
    }

    fn finish(mut self, report: &mut Recovery) -> Result<Log, LogError> {
        let end = self.end.take().expect("there is a segment, and the first one sets the end");
        let file = file_name(end.segment);
        if self.book.oldest() > self.oldest_needed && self.oldest_needed > 0 {
            return Err(LogError::Missing { file: file_name(self.oldest_needed) });
        }
        if self.durable > end.segment * self.config.segment_bytes + end.offset {
            let flaw = end.flaw.to_string();
            return Err(LogError::Damaged { file, offset: end.offset, flaw, durable: self.durable });
        }
        self.settle(&end)?;
        report.segments = end.segment - self.book.oldest() + 1;
        report.cut = self.cut.take();
        Ok(Log::new(Start {
            config: self.config,
            book: self.book,
            file: end.file,
            offset: end.offset,
            prepared: self.behind,
            last: self.last.unwrap_or_default(),
            head_len: self.head_len,
        }))
    }
}
