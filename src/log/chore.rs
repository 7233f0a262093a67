//! The log's blocking work beside commits. Each chore carries all it needs and runs on any thread; at most one of each
//! kind is under way.

use std::sync::Arc;

use super::book::{file_name, unfinished_name};
use super::checkpoint::{self, Making, Step};
use super::format::{self, BatchHeader, Flaw, Identity};
use super::storage::{Storage, StorageFile};
use super::{AlignedBuffer, LogError, Position, ReadTicket};
use crate::limits::LOG_BLOCK_BYTES;

const BLOCK: u64 = LOG_BLOCK_BYTES as u64;
/// What a preparation writes in one chore, so that reads need not wait for long.
pub(super) const PREPARE_STEP_BYTES: u64 = 4 << 20;
/// What one write of zeroes has.
const ZERO_WRITE_BYTES: usize = 1 << 20;
/// What is read ahead of a sequential reader.
pub(super) const READ_AHEAD_BYTES: u64 = 256 << 10;
/// What one slice of a relocation has, unless one batch is larger.
pub(super) const RELOCATION_SLICE_BYTES: u64 = 1 << 20;

/// Work for the housekeeper's thread.
#[derive(Debug)]
#[must_use]
pub struct Chore(pub(super) Work);

/// A chore that was run, to be handed to [`Log::chore_done`](super::Log::chore_done).
#[derive(Debug)]
#[must_use]
pub struct ChoreDone(pub(super) Done);

/// What came of a chore.
#[derive(Debug)]
#[must_use]
pub enum ChoreOutcome {
    /// Nothing to be passed on; [`Journal::room`](super::Journal::room) may have changed.
    Quiet,
    /// Records that were asked for.
    Reads(Reads),
    /// Records of the oldest segment: those still needed are to be appended again and released where they were; then
    /// it goes back through [`Log::relocated`](super::Log::relocated).
    Relocation(Relocation),
    /// No segment could be prepared; the engine says when to try again with [`Log::retry_space`](super::Log::retry_space).
    NoSpace(LogError),
    /// A segment in use failed: the process must stop.
    Failed(LogError),
}

#[derive(Debug)]
pub(super) enum Work {
    Prepare(Preparation),
    Recycle { old: u64, identity: Identity },
    Remove { segment: u64 },
    Read(Reading),
    Scan { identity: Identity, from: u64, to: u64, durable: u64 },
    Checkpoint(Box<Making>),
}

#[derive(Debug)]
pub(super) enum Done {
    /// Some of the file is written.
    Zeroed(Preparation),
    /// The segment is ready for use.
    Prepared {
        identity: Identity,
        file: Arc<dyn StorageFile>,
    },
    PrepareFailed(LogError),
    Removed,
    Read(Reading, Reads),
    Scanned(Relocation),
    Checkpoint(u64, Step),
    Failed(LogError),
}

/// A segment that is ready for use.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) identity: Identity,
    pub(super) file: Arc<dyn StorageFile>,
}

impl Chore {
    /// Does the work. Blocks.
    pub fn run(self, storage: &dyn Storage) -> ChoreDone {
        ChoreDone(match self.0 {
            Work::Prepare(preparation) => {
                let name = unfinished_name(preparation.identity.segment);
                preparation.step(storage).unwrap_or_else(|error| {
                    // What there is of it would only take the space that others need; a start removes it otherwise.
                    let _ = storage.remove(&name);
                    Done::PrepareFailed(error)
                })
            }
            Work::Recycle { old, identity } => recycle(storage, old, identity).unwrap_or_else(Done::Failed),
            Work::Remove { segment } => match remove(storage, segment) {
                Ok(()) => Done::Removed,
                Err(error) => Done::Failed(error),
            },
            Work::Read(mut reading) => match reading.run(storage) {
                Ok(reads) => Done::Read(reading, reads),
                Err(error) => Done::Failed(error),
            },
            Work::Scan { identity, from, to, durable } => {
                scan(storage, identity, from, to, durable).map_or_else(Done::Failed, Done::Scanned)
            }
            Work::Checkpoint(making) => {
                let segment = making.segment();
                making.step(storage).map_or_else(Done::Failed, |step| Done::Checkpoint(segment, step))
            }
        })
    }
}

/// A segment on its way to be ready: written with zeroes a step at a time.
#[derive(Debug)]
pub(super) struct Preparation {
    pub(super) identity: Identity,
    pub(super) file: Option<Arc<dyn StorageFile>>,
    pub(super) written: u64,
}

impl Preparation {
    pub(super) fn new(identity: Identity) -> Self {
        Self { identity, file: None, written: 0 }
    }

    pub(super) fn step(mut self, storage: &dyn Storage) -> Result<Done, LogError> {
        let name = unfinished_name(self.identity.segment);
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                storage.create(&name, self.identity.segment_bytes).map_err(LogError::io("making", &name))?
            }
        };
        let mut zeroes = AlignedBuffer::with_capacity(ZERO_WRITE_BYTES);
        zeroes.resize(ZERO_WRITE_BYTES);
        let until = (self.written + PREPARE_STEP_BYTES).min(self.identity.segment_bytes);
        while self.written < until {
            let bytes = ZERO_WRITE_BYTES.min((until - self.written) as usize);
            file.write(self.written, &zeroes.as_slice()[..bytes])
                .map_err(LogError::io("writing zeroes", &name))?;
            self.written += bytes as u64;
        }
        if self.written < self.identity.segment_bytes {
            self.file = Some(file);
            return Ok(Done::Zeroed(self));
        }
        finish(storage, self.identity, file)
    }
}

/// Gives the file its header, makes all of it durable, then gives it its name.
fn finish(storage: &dyn Storage, identity: Identity, file: Arc<dyn StorageFile>) -> Result<Done, LogError> {
    let unfinished = unfinished_name(identity.segment);
    let mut block = AlignedBuffer::with_capacity(LOG_BLOCK_BYTES);
    block.extend(&format::segment_header(&identity));
    file.write(0, block.as_slice()).map_err(LogError::io("writing the header", &unfinished))?;
    file.sync().map_err(LogError::io("syncing", &unfinished))?;
    storage
        .rename(&unfinished, &file_name(identity.segment))
        .and_then(|()| storage.sync_directory())
        .map_err(LogError::io("renaming", &unfinished))?;
    Ok(Done::Prepared { identity, file })
}

fn recycle(storage: &dyn Storage, old: u64, identity: Identity) -> Result<Done, LogError> {
    checkpoint::remove(storage, old)?;
    let (old, unfinished) = (file_name(old), unfinished_name(identity.segment));
    // The old name must be gone for good before the header changes: a named segment always has its own header.
    storage
        .rename(&old, &unfinished)
        .and_then(|()| storage.sync_directory())
        .map_err(LogError::io("renaming", &old))?;
    let file = storage.open(&unfinished).map_err(LogError::io("opening", &unfinished))?;
    finish(storage, identity, file)
}

fn remove(storage: &dyn Storage, segment: u64) -> Result<(), LogError> {
    checkpoint::remove(storage, segment)?;
    let name = file_name(segment);
    storage.remove(&name).and_then(|()| storage.sync_directory()).map_err(LogError::io("removing", &name))
}

/// Records that were read, in the order asked.
#[derive(Debug, Default)]
pub struct Reads {
    bytes: Vec<u8>,
    parts: Vec<(ReadTicket, usize)>,
}

impl Reads {
    /// What was read, by the ticket it was asked under.
    pub fn iter(&self) -> impl Iterator<Item = (ReadTicket, &[u8])> {
        let mut at = 0;
        self.parts.iter().map(move |&(ticket, len)| {
            at += len;
            (ticket, &self.bytes[at - len..at])
        })
    }
}

/// One read: a part of one record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) ticket: ReadTicket,
    pub(super) position: Position,
    pub(super) skip: u32,
    pub(super) len: u32,
}

/// Some reads of records that were written, and the buffer that the last ones left behind.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) wants: Vec<(Want, Identity, u64)>,
    pub(super) ahead: ReadAhead,
}

/// Bytes of one segment that were written.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    buffer: AlignedBuffer,
    segment: u64,
    start: u64,
    /// The record whose checksum was seen to be right: parts of it need not be checked again.
    checked: Option<Position>,
}

impl Reading {
    fn run(&mut self, storage: &dyn Storage) -> Result<Reads, LogError> {
        let bytes = self.wants.iter().map(|(want, ..)| want.len as usize).sum();
        let mut reads =
            Reads { bytes: Vec::with_capacity(bytes), parts: Vec::with_capacity(self.wants.len()) };
        let mut open: Option<(u64, Arc<dyn StorageFile>)> = None;
        for &(want, identity, end) in &self.wants {
            let offset = want.position.0 % identity.segment_bytes;
            let mut load = |ahead: &mut ReadAhead, bytes: u64| {
                if ahead.covers(identity.segment, offset, bytes) {
                    return Ok(());
                }
                let name = file_name(identity.segment);
                let file = match open.take() {
                    Some((segment, file)) if segment == identity.segment => file,
                    _ => storage.open(&name).map_err(LogError::io("opening", &name))?,
                };
                ahead
                    .fill(&*file, identity.segment, offset, bytes, end)
                    .map_err(LogError::io("reading", &name))?;
                open = Some((identity.segment, file));
                Ok(())
            };
            load(&mut self.ahead, format::RECORD_HEADER_BYTES as u64)?;
            let record_bytes = self.ahead.record_bytes(offset);
            load(&mut self.ahead, record_bytes)?;
            let data = self.ahead.data(want, &identity, offset).ok_or_else(|| LogError::Damaged {
                file: file_name(identity.segment),
                offset,
                flaw: "a record read back does not match its checksum".to_owned(),
                durable: identity.position(end),
            })?;
            reads.bytes.extend_from_slice(data);
            reads.parts.push((want.ticket, data.len()));
        }
        Ok(reads)
    }
}

impl ReadAhead {
    fn covers(&self, segment: u64, offset: u64, bytes: u64) -> bool {
        self.segment == segment
            && offset >= self.start
            && offset + bytes <= self.start + self.buffer.len() as u64
    }

    /// Reads on from the block of `offset`: at least `bytes` of it as far as `end`, where what was written ends.
    fn fill(
        &mut self,
        file: &dyn StorageFile,
        segment: u64,
        offset: u64,
        bytes: u64,
        end: u64,
    ) -> std::io::Result<()> {
        let start = offset / BLOCK * BLOCK;
        let until = (offset + bytes.max(READ_AHEAD_BYTES)).next_multiple_of(BLOCK).min(end).max(start);
        self.checked = None;
        self.segment = 0;
        self.buffer.resize((until - start) as usize);
        file.read(start, self.buffer.as_mut_slice())?;
        (self.segment, self.start) = (segment, start);
        Ok(())
    }

    /// Bytes of the record at `offset`, as it says itself.
    fn record_bytes(&self, offset: u64) -> u64 {
        let at = (offset - self.start) as usize;
        let len = self.buffer.as_slice().get(at..).and_then(|b| b.first_chunk());
        format::RECORD_HEADER_BYTES as u64 + u64::from(len.map_or(0, |b| u32::from_le_bytes(*b)))
    }

    fn data(&mut self, want: Want, identity: &Identity, offset: u64) -> Option<&[u8]> {
        let record = self.buffer.as_slice().get((offset - self.start) as usize..)?;
        if self.checked != Some(want.position) {
            format::check_record(record, identity, offset)?;
            self.checked = Some(want.position);
        }
        record[format::RECORD_HEADER_BYTES..].get(want.skip as usize..want.skip as usize + want.len as usize)
    }
}

/// Some records of the oldest segment, to be appended again where they are still needed. Goes back to the log with
/// [`Log::relocated`](super::Log::relocated).
#[derive(Debug)]
pub struct Relocation {
    buffer: AlignedBuffer,
    records: Vec<(Position, usize, usize)>,
    pub(super) headers: Vec<BatchHeader>,
    pub(super) next: u64,
}

impl Relocation {
    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = (Position, &[u8])> {
        self.records.iter().map(|&(position, at, len)| (position, &self.buffer.as_slice()[at..at + len]))
    }
}

pub(super) fn scan(
    storage: &dyn Storage,
    identity: Identity,
    from: u64,
    to: u64,
    durable: u64,
) -> Result<Relocation, LogError> {
    let name = file_name(identity.segment);
    let file = storage.open(&name).map_err(LogError::io("opening", &name))?;
    let mut slice =
        Relocation { buffer: AlignedBuffer::default(), records: Vec::new(), headers: Vec::new(), next: from };
    let mut bytes = RELOCATION_SLICE_BYTES;
    loop {
        slice.buffer.resize(bytes.min(to - from) as usize);
        file.read(from, slice.buffer.as_mut_slice()).map_err(LogError::io("reading", &name))?;
        while slice.next < to {
            let at = (slice.next - from) as usize;
            let batch = &slice.buffer.as_slice()[at..];
            let flaw = match format::check_batch(batch, &identity, slice.next) {
                Ok(header) => {
                    for (record, data) in format::records(batch, &header) {
                        let position = Position(identity.position(slice.next + record as u64));
                        let data_at = at + record + format::RECORD_HEADER_BYTES;
                        slice.records.push((position, data_at, data.len()));
                    }
                    slice.headers.push(header);
                    slice.next += header.batch_bytes() as u64;
                    continue;
                }
                // The next slice begins with this batch.
                Err(Flaw::Short(_)) if at > 0 => break,
                Err(_) if batch.is_empty() => break,
                Err(Flaw::Short(needed)) if from + needed as u64 <= to && bytes < needed as u64 => {
                    bytes = needed as u64;
                    break;
                }
                Err(flaw) => flaw,
            };
            return Err(LogError::Damaged {
                file: name,
                offset: slice.next,
                flaw: flaw.to_string(),
                durable,
            });
        }
        if slice.next > from {
            return Ok(slice);
        }
    }
}
