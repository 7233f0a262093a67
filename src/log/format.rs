//! The bytes of a segment. Everything is little endian.
//!
//! ```text
//! segment   4 KiB header, then batches, each on a block of its own; what follows the last one is of no meaning:
//!           zeroes, or blocks of an earlier use of the file
//!
//! segment header (one block, written and synced before the file gets its name)
//!    0  magic     "RMSEGMNT"
//!    8  u32       format version
//!   12  u32       crc32c of the block with this field zero
//!   16  u64       segment number, its generation: never used twice in a data directory
//!   24  u64       salt, random
//!   32  u64       segment_bytes
//!   40            zero
//!
//! batch header (80 bytes, at the start of a block)
//!    0  magic     "RMBATCH1"
//!    8  u32       format version
//!   12  u32       crc32c of the header with this field zero, seeded with salt and position
//!   16  u64       segment number
//!   24  u64       the segment's salt
//!   32  u64       batch number, 1 more than that of the batch before
//!   40  u64       durable: everything below this position was durable when this was written
//!   48  u64       the oldest segment still needed when this was written
//!   56  u32       bytes of records
//!   60  u32       records
//!   64  u32       crc field of the batch before; a leftover of a cut tail fits no newer batch
//!   68            zero
//!   80            records, then zeroes up to the next block
//!
//! record
//!    0  u32       length of the data
//!    4  u32       crc32c of the data, seeded with salt, position and length
//!    8            data
//! ```
//!
//! A position is segment number × `segment_bytes` + offset in the file; that of a record is the one of its length.
//!
//! Upgrade recipe: a change of any of this raises [`FORMAT_VERSION`]. The new program goes on reading the old
//! version (keep its decoder beside the new one and choose by the segment header) and writes new segments only, so
//! that a log is converted as it is recycled. `relaymesh log upgrade` does it at once on a stopped directory: it recovers
//! the log with the old decoder and relocates every segment ([`Log::rewrite`](super::Log::rewrite)), so that what lives
//! is written with the new encoders, of the records too; an old segment goes once what replaces it is durable, and an
//! upgrade that was interrupted leaves a log that is whole, partly new, and may be upgraded again. An older program
//! refuses what is newer.

use super::Position;
use crate::limits::LOG_BLOCK_BYTES;

/// The version written into every segment and batch.
pub const FORMAT_VERSION: u32 = 1;

pub(super) const BATCH_HEADER_BYTES: usize = 80;
pub(super) const RECORD_HEADER_BYTES: usize = 8;
const SEGMENT_MAGIC: &[u8; 8] = b"RMSEGMNT";
const BATCH_MAGIC: &[u8; 8] = b"RMBATCH1";
const CRC_FIELD: std::ops::Range<usize> = 12..16;

/// Which segment bytes belong to, and what its checksums are seeded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) segment: u64,
    pub(super) salt: u64,
    pub(super) segment_bytes: u64,
}

impl Identity {
    pub(super) fn position(&self, offset: u64) -> u64 {
        self.segment * self.segment_bytes + offset
    }
}

/// What is wrong with some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// No header with the magic, the number and the salt of this segment.
    #[error("no header of this segment")]
    Foreign,
    /// The header does not match its checksum.
    #[error("a header with a wrong checksum")]
    Header,
    /// Of a newer version.
    #[error("format version {0}")]
    Newer(u32),
    /// The header names more bytes than there are.
    #[error("a batch of {0} bytes that goes beyond the end")]
    Short(usize),
    /// A record does not match its checksum or its batch.
    #[error("a wrong record {0} bytes into the batch")]
    Record(usize),
    /// The bytes behind the last record are not zero.
    #[error("padding that is not zero")]
    Padding,
}

/// The fields of a batch header that differ from batch to batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BatchHeader {
    pub(super) number: u64,
    pub(super) durable: u64,
    pub(super) oldest_segment: u64,
    pub(super) payload_bytes: u32,
    pub(super) records: u32,
    pub(super) previous_crc: u32,
    pub(super) crc: u32,
}

impl BatchHeader {
    /// Bytes of the whole batch on disk.
    pub(super) fn batch_bytes(&self) -> usize {
        (BATCH_HEADER_BYTES + self.payload_bytes as usize).next_multiple_of(LOG_BLOCK_BYTES)
    }
}

/// Fills in the header of the batch in `batch`, which starts `offset` bytes into its segment; returns its checksum.
pub(super) fn write_batch_header(
    batch: &mut [u8],
    identity: &Identity,
    offset: u64,
    header: &BatchHeader,
) -> u32 {
    let bytes = &mut batch[..BATCH_HEADER_BYTES];
    bytes.fill(0);
    bytes[0..8].copy_from_slice(BATCH_MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&identity.segment.to_le_bytes());
    bytes[24..32].copy_from_slice(&identity.salt.to_le_bytes());
    bytes[32..40].copy_from_slice(&header.number.to_le_bytes());
    bytes[40..48].copy_from_slice(&header.durable.to_le_bytes());
    bytes[48..56].copy_from_slice(&header.oldest_segment.to_le_bytes());
    bytes[56..60].copy_from_slice(&header.payload_bytes.to_le_bytes());
    bytes[60..64].copy_from_slice(&header.records.to_le_bytes());
    bytes[64..68].copy_from_slice(&header.previous_crc.to_le_bytes());
    let crc = crc32c::crc32c_append(seed(identity.salt, identity.position(offset), 0), bytes);
    bytes[CRC_FIELD].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Reads the header of a batch that starts `offset` bytes into its segment, from the start of `bytes`.
pub(super) fn read_batch_header(bytes: &[u8], identity: &Identity, offset: u64) -> Result<BatchHeader, Flaw> {
    let Some(bytes) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else { return Err(Flaw::Foreign) };
    if &bytes[0..8] != BATCH_MAGIC
        || u64_at(bytes, 16) != identity.segment
        || u64_at(bytes, 24) != identity.salt
    {
        return Err(Flaw::Foreign);
    }
    let mut plain = *bytes;
    plain[CRC_FIELD].fill(0);
    let crc = crc32c::crc32c_append(seed(identity.salt, identity.position(offset), 0), &plain);
    if crc != u32_at(bytes, CRC_FIELD.start) {
        return Err(Flaw::Header);
    }
    let version = u32_at(bytes, 8);
    if version > FORMAT_VERSION {
        return Err(Flaw::Newer(version));
    }
    Ok(BatchHeader {
        number: u64_at(bytes, 32),
        durable: u64_at(bytes, 40),
        oldest_segment: u64_at(bytes, 48),
        payload_bytes: u32_at(bytes, 56),
        records: u32_at(bytes, 60),
        previous_crc: u32_at(bytes, 64),
        crc,
    })
}

/// Checks a whole batch at the start of `bytes`, `offset` bytes into its segment. Returns its header, after which its
/// records may be walked with [`records`].
pub(super) fn check_batch(bytes: &[u8], identity: &Identity, offset: u64) -> Result<BatchHeader, Flaw> {
    let header = read_batch_header(bytes, identity, offset)?;
    let Some(batch) = bytes.get(..header.batch_bytes()) else {
        return Err(Flaw::Short(header.batch_bytes()));
    };
    let payload_end = BATCH_HEADER_BYTES + header.payload_bytes as usize;
    let mut at = BATCH_HEADER_BYTES;
    let mut records = 0;
    while at < payload_end {
        let record = check_record(&batch[at..payload_end], identity, offset + at as u64);
        let Some(data) = record else { return Err(Flaw::Record(at)) };
        at += RECORD_HEADER_BYTES + data.len();
        records += 1;
    }
    if records != header.records {
        return Err(Flaw::Record(at));
    }
    if batch[payload_end..].iter().any(|&b| b != 0) {
        return Err(Flaw::Padding);
    }
    Ok(header)
}

/// The records of a batch that was checked, each with its offset in the batch.
pub(super) fn records<'a>(batch: &'a [u8], header: &BatchHeader) -> impl Iterator<Item = (usize, &'a [u8])> {
    let payload_end = BATCH_HEADER_BYTES + header.payload_bytes as usize;
    let mut at = BATCH_HEADER_BYTES;
    std::iter::from_fn(move || {
        if at >= payload_end {
            return None;
        }
        let start = at;
        let data_at = start + RECORD_HEADER_BYTES;
        at = data_at + u32_at(batch, start) as usize;
        Some((start, &batch[data_at..at]))
    })
}

/// The data of the record at the start of `bytes`, `offset` bytes into its segment, if it is all there and right.
pub(super) fn check_record<'a>(bytes: &'a [u8], identity: &Identity, offset: u64) -> Option<&'a [u8]> {
    let header = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    let len = u32_at(header, 0);
    let data = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + len as usize)?;
    (record_crc(identity, offset, data) == u32_at(header, 4)).then_some(data)
}

/// The checksum of a record that starts `offset` bytes into its segment.
pub(super) fn record_crc(identity: &Identity, offset: u64, data: &[u8]) -> u32 {
    crc32c::crc32c_append(seed(identity.salt, identity.position(offset), data.len() as u64), data)
}

/// The first block of a segment.
pub(super) fn segment_header(identity: &Identity) -> [u8; LOG_BLOCK_BYTES] {
    let mut block = [0; LOG_BLOCK_BYTES];
    block[0..8].copy_from_slice(SEGMENT_MAGIC);
    block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    block[16..24].copy_from_slice(&identity.segment.to_le_bytes());
    block[24..32].copy_from_slice(&identity.salt.to_le_bytes());
    block[32..40].copy_from_slice(&identity.segment_bytes.to_le_bytes());
    let crc = crc32c::crc32c(&block);
    block[CRC_FIELD].copy_from_slice(&crc.to_le_bytes());
    block
}

/// Reads the first block of a segment.
pub(super) fn read_segment_header(bytes: &[u8]) -> Result<Identity, Flaw> {
    let Some(block) = bytes.first_chunk::<LOG_BLOCK_BYTES>() else { return Err(Flaw::Foreign) };
    if &block[0..8] != SEGMENT_MAGIC {
        return Err(Flaw::Foreign);
    }
    let mut plain = *block;
    plain[CRC_FIELD].fill(0);
    if crc32c::crc32c(&plain) != u32_at(block, CRC_FIELD.start) {
        return Err(Flaw::Header);
    }
    let version = u32_at(block, 8);
    if version > FORMAT_VERSION {
        return Err(Flaw::Newer(version));
    }
    Ok(Identity { segment: u64_at(block, 16), salt: u64_at(block, 24), segment_bytes: u64_at(block, 32) })
}

/// The format version that the first block of a segment names.
pub(super) fn segment_version(bytes: &[u8]) -> u32 {
    bytes.get(..CRC_FIELD.start).map_or(0, |header| u32_at(header, 8))
}

/// The salt that the header of a batch names, checked or not, if there is one.
pub(super) fn batch_salt(bytes: &[u8]) -> Option<u64> {
    let bytes = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
    (&bytes[0..8] == BATCH_MAGIC).then(|| u64_at(bytes, 24))
}

/// How long the data of the record at the start of `bytes` is, as it says itself.
pub(super) fn record_len(bytes: &[u8]) -> usize {
    bytes.first_chunk().map_or(0, |len| u32::from_le_bytes(*len) as usize)
}

/// What [`decode_segment`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentSummary {
    /// Whole batches, one after the other from the start.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their data.
    pub data_bytes: u64,
    /// Where the first byte lies that is in no batch.
    pub end: u64,
}

/// Reads one segment by itself, as far as its batches go, handing every record to `on_record`. Takes any bytes.
///
/// # Errors
/// The [`Flaw`] of the segment header. What ends the batches is no error here.
pub fn decode_segment(
    bytes: &[u8],
    on_record: &mut dyn FnMut(Position, &[u8]),
) -> Result<SegmentSummary, Flaw> {
    let identity = read_segment_header(bytes)?;
    // Real ones are far below; this keeps positions within u64 for any bytes.
    if identity.segment > u64::from(u32::MAX) || identity.segment_bytes > u64::from(u32::MAX) {
        return Err(Flaw::Header);
    }
    let mut summary = SegmentSummary { end: LOG_BLOCK_BYTES as u64, ..SegmentSummary::default() };
    while let Some(rest) = bytes.get(summary.end as usize..) {
        let Ok(header) = check_batch(rest, &identity, summary.end) else { break };
        for (at, data) in records(rest, &header) {
            on_record(Position(identity.position(summary.end + at as u64)), data);
            summary.records += 1;
            summary.data_bytes += data.len() as u64;
        }
        summary.batches += 1;
        summary.end += header.batch_bytes() as u64;
    }
    Ok(summary)
}

/// What a checksum starts from. A block of another segment, place or length starts from something else.
fn seed(salt: u64, position: u64, len: u64) -> u32 {
    let mixed = (salt ^ position.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(len);
    (mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32) as u32
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}
