//! Segments, or their checkpoints, read at start, a piece ahead of the one that is being looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::book::file_name;
use super::checkpoint::Checkpoint;
use super::format::{self, Flaw, Identity};
use super::storage::{Storage, StorageFile};
use super::{AlignedBuffer, LogError};
use crate::host::Block;
use crate::limits::LOG_BLOCK_BYTES;

const BLOCK: u64 = LOG_BLOCK_BYTES as u64;
/// What one read has. Little memory is touched for the first time, which would take longer than the read. Tests have
/// batches that go over many pieces.
const PIECE_BYTES: usize = if cfg!(test) { 12 << 10 } else { 4 << 20 };

/// A part of a segment in memory. Those of one segment come in order, from the first block of batches to its end.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) identity: Identity,
    pub(super) file: Arc<dyn StorageFile>,
    /// Where it begins in the segment.
    pub(super) offset: u64,
    /// The next piece is of another segment.
    pub(super) is_last: bool,
    memory: Block,
    /// Where it lies in `memory`; before it is room for what the last piece left over.
    range: std::ops::Range<usize>,
}

/// What is handed over.
#[derive(Debug)]
pub(super) enum Loaded {
    Piece(Piece),
    /// Instead of all pieces of a segment.
    Checkpoint(Identity, Arc<dyn StorageFile>, Checkpoint),
}

impl Piece {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.range.clone()]
    }

    /// Puts `rest`, the bytes before it, in front.
    pub(super) fn join(&mut self, rest: &[u8]) {
        let start = self.range.start - rest.len();
        self.memory[start..self.range.start].copy_from_slice(rest);
        self.range.start = start;
        self.offset -= rest.len() as u64;
    }
}

/// Reads the segments of these numbers on a thread of its own and hands every piece to `take`; the checkpoint instead, where
/// there is one that is whole. `checkpoints` has the lengths of those to look at.
///
/// A segment whose first batch is not there was not used, or its beginning is damaged: it is read whole all the same.
/// When the one before it had no first batch either, it cannot have been used, and all there is of it is an empty piece.
///
/// # Errors
/// The first one of either side.
pub(super) fn for_each_piece(
    storage: &dyn Storage,
    segment_bytes: u64,
    numbers: &[u64],
    checkpoints: &BTreeMap<u64, u64>,
    mut take: impl FnMut(&mut Loaded) -> Result<(), LogError>,
) -> Result<(), LogError> {
    thread::scope(|scope| {
        // A piece is handed over when it is asked for: the reader is never more than one ahead.
        let (hand_over, pieces) = bounded(0);
        let (give_back, free) = bounded(2);
        let reader = Reader { storage, segment_bytes, checkpoints, free, hand_over, was_unused: false };
        thread::Builder::new()
            .name("log-reader".into())
            .spawn_scoped(scope, move || reader.read_all(numbers))
            .map_err(LogError::io("starting the thread that reads", "the log"))?;
        // The reader ends when it has read everything or failed, or when this side has and is gone.
        for piece in pieces {
            let mut piece = piece?;
            take(&mut piece)?;
            if let Loaded::Piece(piece) = piece {
                let _ = give_back.send(piece.memory);
            }
        }
        Ok(())
    })
}

struct Reader<'a> {
    storage: &'a dyn Storage,
    segment_bytes: u64,
    checkpoints: &'a BTreeMap<u64, u64>,
    free: Receiver<Block>,
    hand_over: Sender<Result<Loaded, LogError>>,
    /// The segment before has no first batch.
    was_unused: bool,
}

impl Reader<'_> {
    fn read_all(mut self, numbers: &[u64]) {
        for &number in numbers {
            match self.read_segment(number) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let _ = self.hand_over.send(Err(error));
                    return;
                }
            }
        }
    }

    /// Whether anybody wants more.
    fn read_segment(&mut self, number: u64) -> Result<bool, LogError> {
        let name = file_name(number);
        let file = self.storage.open(&name).map_err(LogError::io("opening", &name))?;
        let (identity, is_unused) = self.read_headers(number, &name, &*file)?;
        let length = self.checkpoints.get(&number);
        if let Some(checkpoint) = length.and_then(|&length| Checkpoint::load(self.storage, &identity, length))
        {
            self.was_unused = false;
            return Ok(self.hand_over.send(Ok(Loaded::Checkpoint(identity, file, checkpoint))).is_ok());
        }
        let was_unused = std::mem::replace(&mut self.was_unused, is_unused);
        let is_skipped = was_unused && is_unused;
        let mut offset = BLOCK;
        loop {
            let mut memory = match self.free.try_recv() {
                Ok(memory) => memory,
                Err(_) => self.memory().map_err(LogError::io("getting memory to read", &name))?,
            };
            let room = self.segment_bytes as usize;
            let left = if is_skipped { 0 } else { self.segment_bytes - offset };
            let range = room..room + PIECE_BYTES.min(left as usize);
            file.read(offset, &mut memory[range.clone()]).map_err(LogError::io("reading", &name))?;
            let is_last = range.len() as u64 == left;
            let piece =
                Piece { identity, file: Arc::clone(&file), offset, is_last, memory, range: range.clone() };
            if self.hand_over.send(Ok(Loaded::Piece(piece))).is_err() {
                return Ok(false);
            }
            if is_last {
                return Ok(true);
            }
            offset += range.len() as u64;
        }
    }

    /// Room for one piece behind all that may be left over of a segment. Only what is touched is ever resident.
    fn memory(&self) -> std::io::Result<Block> {
        Block::large(self.segment_bytes as usize + PIECE_BYTES)
    }

    /// Checks the segment's own header, and whether its first batch is there.
    fn read_headers(
        &self,
        number: u64,
        name: &str,
        file: &dyn StorageFile,
    ) -> Result<(Identity, bool), LogError> {
        let refuse = |flaw: Flaw| match flaw {
            Flaw::Newer(found) => {
                LogError::Newer { file: name.to_owned(), found, known: format::FORMAT_VERSION }
            }
            flaw => {
                LogError::Damaged { file: name.to_owned(), offset: 0, flaw: flaw.to_string(), durable: 0 }
            }
        };
        let mut blocks = AlignedBuffer::with_capacity(2 * LOG_BLOCK_BYTES);
        blocks.resize(2 * LOG_BLOCK_BYTES);
        file.read(0, blocks.as_mut_slice()).map_err(LogError::io("reading", name))?;
        let identity = format::read_segment_header(blocks.as_slice()).map_err(refuse)?;
        if identity.segment != number {
            return Err(refuse(Flaw::Foreign));
        }
        if identity.segment_bytes != self.segment_bytes {
            let (configured, found) = (self.segment_bytes, identity.segment_bytes);
            return Err(LogError::SegmentBytes { configured, found });
        }
        let first = format::read_batch_header(&blocks.as_slice()[LOG_BLOCK_BYTES..], &identity, BLOCK);
        Ok((identity, first.is_err()))
    }
}
