//! Checkpoints: what a start needs of a segment that is full, without the bodies.
//!
//! A start replays every record, and most of a record may be a body that nobody wants yet. So when a log has grown long, the
//! housekeeper reads its full segments once more at leisure, checks them like a start, and writes beside each a file with
//! the heads of its records (how much of a record that is, [`HeadLen`] says). A start reads that file instead of the segment;
//! bodies are read when they are delivered, each checked by its record's own checksum then.
//!
//! - What is checked when: the newest [`CHECKPOINT_BEHIND`] segments and all without a checkpoint whole at each start, as ever;
//!   one with a checkpoint whole when that is written, its own header and the chain across it at each start, its bodies when
//!   they are read or moved, and all at once by `relaymesh log verify`.
//! - A checkpoint that is not whole, or of another salt, is as if it were not there. It goes before its segment does.
//! - It is written only where records have [`RECORD_BYTES_MIN`] on average: it is a small part of its segment then, and
//!   messages that are small cost nothing more. What they cost a start is not the disk's but the replay's time.

use super::book::{checkpoint_name, file_name};
use super::chore::scan;
use super::format::{BatchHeader, Identity};
use super::storage::Storage;
use super::{AlignedBuffer, LogError, Position};
use crate::limits::LOG_BLOCK_BYTES;

/// How many bytes at the start of a record a replay needs; its length for all of it.
pub type HeadLen = fn(&[u8]) -> usize;

/// Segments behind the newest one that are never worth a checkpoint: a start reads them in a moment.
pub(super) const CHECKPOINT_BEHIND: u64 = 8;
/// Bytes of a record, on average, from which on a segment gets a checkpoint.
pub(super) const RECORD_BYTES_MIN: u64 = 1024;

const MAGIC: &[u8; 8] = b"RMCHECKP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 128;
const ENTRY_BYTES: usize = 12;
const BLOCK: u64 = LOG_BLOCK_BYTES as u64;

/// A checkpoint that is being made.
#[derive(Debug)]
pub(super) struct Making {
    identity: Identity,
    head_len: HeadLen,
    /// How far the segment was read, and where its batches end.
    next: u64,
    end: u64,
    first: Option<BatchHeader>,
    last: BatchHeader,
    batches: u64,
    records: u64,
    data_bytes: u64,
    entries: Vec<u8>,
}

/// What came of a step.
#[derive(Debug)]
pub(super) enum Step {
    /// There is more to be read.
    More(Box<Making>),
    /// It is there, or nobody will miss it.
    Done,
}

impl Making {
    pub(super) fn new(identity: Identity, end: u64, head_len: HeadLen) -> Self {
        Self {
            identity,
            head_len,
            next: BLOCK,
            end,
            first: None,
            last: BatchHeader::default(),
            batches: 0,
            records: 0,
            data_bytes: 0,
            entries: Vec::new(),
        }
    }

    /// The segment it is of.
    pub(super) fn segment(&self) -> u64 {
        self.identity.segment
    }

    /// Reads on, and writes the file once all is read. That there is no room for it is no error: the segment is read instead.
    ///
    /// # Errors
    /// The segment cannot be read, or is damaged.
    pub(super) fn step(mut self: Box<Self>, storage: &dyn Storage) -> Result<Step, LogError> {
        let Self { identity, next, end, .. } = *self;
        let slice = scan(storage, identity, next, end, identity.position(end))?;
        for header in &slice.headers {
            self.first.get_or_insert(*header);
            self.last = *header;
            self.batches += 1;
        }
        for (position, record) in slice.records() {
            let head = &record[..(self.head_len)(record).min(record.len())];
            let offset = (position.0 % identity.segment_bytes) as u32;
            for number in [offset, record.len() as u32, head.len() as u32] {
                self.entries.extend_from_slice(&number.to_le_bytes());
            }
            self.entries.extend_from_slice(head);
            self.records += 1;
            self.data_bytes += record.len() as u64;
        }
        self.next = slice.next;
        if self.next < end {
            return Ok(Step::More(self));
        }
        let name = checkpoint_name(identity.segment);
        if self.write(storage, &name).is_err() {
            // What there is of it is not whole, and a start removes it otherwise.
            let _ = storage.remove(&name);
        }
        Ok(Step::Done)
    }

    fn write(&self, storage: &dyn Storage, name: &str) -> std::io::Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        let mut bytes = AlignedBuffer::with_capacity(HEADER_BYTES + self.entries.len());
        bytes.resize(HEADER_BYTES);
        bytes.extend(&self.entries);
        let header = bytes.as_mut_slice();
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers = [
            self.identity.segment,
            self.identity.salt,
            self.entries.len() as u64,
            self.end,
            self.batches,
            self.records,
            self.data_bytes,
            first.number,
            u64::from(first.previous_crc),
            self.last.number,
            self.last.oldest_segment,
            u64::from(self.last.crc),
        ];
        for (at, number) in (16..).step_by(8).zip(numbers) {
            header[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(header);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes.pad_to_block();
        let file = storage.create(name, bytes.len() as u64)?;
        file.write(0, bytes.as_slice())?;
        file.sync()?;
        storage.sync_directory()
    }
}

/// What a start reads instead of a segment.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) end: u64,
    pub(super) batches: u64,
    pub(super) records: u64,
    pub(super) data_bytes: u64,
    /// The number of its first batch, and the checksum of the batch before.
    pub(super) first: (u64, u32),
    pub(super) last: BatchHeader,
    bytes: AlignedBuffer,
    len: usize,
}

impl Checkpoint {
    /// The checkpoint of a segment, if there is one that is whole.
    pub(super) fn load(storage: &dyn Storage, identity: &Identity, file_bytes: u64) -> Option<Self> {
        let mut bytes = AlignedBuffer::default();
        bytes.resize((file_bytes / BLOCK * BLOCK) as usize);
        let file = storage.open(&checkpoint_name(identity.segment)).ok()?;
        file.read(0, bytes.as_mut_slice()).ok()?;
        Self::parse(bytes, identity)
    }

    fn parse(mut bytes: AlignedBuffer, identity: &Identity) -> Option<Self> {
        let header = bytes.as_slice().get(..HEADER_BYTES)?;
        let number = |index: usize| -> Option<u64> {
            header.get(16 + 8 * index..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
        };
        let version = u32::from_le_bytes(*header.get(8..)?.first_chunk()?);
        let crc = u32::from_le_bytes(*header.get(12..)?.first_chunk()?);
        let is_of_segment = number(0)? == identity.segment && number(1)? == identity.salt;
        if &header[..8] != MAGIC || version != VERSION || !is_of_segment {
            return None;
        }
        let len = HEADER_BYTES.checked_add(usize::try_from(number(2)?).ok()?)?;
        let end = number(3).filter(|&end| end <= identity.segment_bytes)?;
        let last = BatchHeader {
            number: number(9)?,
            durable: identity.position(end),
            oldest_segment: number(10)?,
            crc: u32::try_from(number(11)?).ok()?,
            ..BatchHeader::default()
        };
        let (batches, records, data_bytes) = (number(4)?, number(5)?, number(6)?);
        let first = (number(7)?, u32::try_from(number(8)?).ok()?);
        let whole = bytes.as_mut_slice().get_mut(..len)?;
        whole[12..16].fill(0);
        (crc32c::crc32c(whole) == crc).then_some(Self {
            end,
            batches,
            records,
            data_bytes,
            first,
            last,
            bytes,
            len,
        })
    }

    /// Position, head and length of each record, in order.
    pub(super) fn records(&self, identity: Identity) -> impl Iterator<Item = (Position, &[u8], u32)> {
        let mut rest = &self.bytes.as_slice()[HEADER_BYTES..self.len];
        std::iter::from_fn(move || {
            let (entry, behind) = rest.split_first_chunk::<ENTRY_BYTES>()?;
            let number = |at: usize| entry[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
            let (head, behind) = behind.split_at_checked(number(8) as usize)?;
            rest = behind;
            Some((Position(identity.position(u64::from(number(0)))), head, number(4)))
        })
    }
}

/// Reads the checkpoint of the segment that it says it is of, handing position, head and length of every record to
/// `on_record`. Takes any bytes. Whether it is whole; nothing is handed over otherwise.
pub fn decode_checkpoint(
    bytes: &[u8],
    segment_bytes: u32,
    on_record: &mut dyn FnMut(Position, &[u8], u32),
) -> bool {
    let number =
        |at: usize| bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map(|b| u64::from_le_bytes(*b));
    let (Some(segment), Some(salt)) = (number(16), number(24)) else { return false };
    // Real ones are far below; this keeps positions within u64 for any bytes.
    if segment > u64::from(u32::MAX) {
        return false;
    }
    let identity = Identity { segment, salt, segment_bytes: u64::from(segment_bytes) };
    let mut buffer = AlignedBuffer::with_capacity(bytes.len());
    buffer.extend(bytes);
    let Some(checkpoint) = Checkpoint::parse(buffer, &identity) else { return false };
    checkpoint.records(identity).for_each(|(position, head, len)| on_record(position, head, len));
    true
}

/// Takes away the checkpoint of a segment that is about to go.
pub(super) fn remove(storage: &dyn Storage, segment: u64) -> Result<(), LogError> {
    let name = checkpoint_name(segment);
    match storage.remove(&name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LogError::io("removing", &file_name(segment))(error))
        }
        _ => Ok(()),
    }
}
