//! Compressed payloads: one zstd frame each, magicless, with a dictionary both sides have. Its header holds the size
//! of what it decompresses to, and neither a checksum nor the dictionary's id.

use zstd::bulk::{Compressor, Decompressor};

use crate::limits;
use crate::wire::frame::{RawFrame, Split, split, write_compressed_header};
use crate::wire::{Fault, Kind};

/// Which dictionary [`DICTIONARY`] is; rises whenever its bytes change. It also stands in the dictionary itself.
pub const DICTIONARY_ID: u32 = 2;

/// The dictionary, in zstd's format. Made by `cargo run --example train_dictionary`.
pub const DICTIONARY: &[u8] = include_bytes!("heartbeat.dict");

/// zstd's level for payloads of up to [`SMALL_BYTES_MAX`], heartbeats that is: higher ones win nothing over it.
const LEVEL_SMALL: i32 = 5;
/// zstd's level for larger payloads: they are many bytes, and time on a loop's thread is dear.
const LEVEL: i32 = 1;
/// Largest payload that counts as small, in bytes.
const SMALL_BYTES_MAX: usize = 512;

/// Bytes looked at to tell what compresses from what does not: four runs of them, spread over the body.
const SAMPLE_BYTES: usize = 128;
/// Of [`SAMPLE_BYTES`] random bytes 101 are different ones, give or take 4; of base64 there are 55, of text 30.
const SAMPLE_VARIETY_MAX: u32 = 80;

/// How many bytes of an encoded `Message` are worth an attempt to compress them: all or none.
///
/// A body below [`limits::COMPRESS_BODY_BYTES_MIN`] never is, which costs one comparison. A larger one is looked at in
/// a few places: what is compressed or encrypted already shows as many different bytes as noise does.
#[inline]
#[must_use]
pub fn compressible_bytes(body: &[u8]) -> usize {
    if body.len() >= limits::COMPRESS_BODY_BYTES_MIN && !looks_like_noise(body) { body.len() } else { 0 }
}

fn looks_like_noise(body: &[u8]) -> bool {
    let mut seen = [0u64; 4];
    let run = SAMPLE_BYTES / 4;
    for quarter in 0..4 {
        let start = (body.len() - run) * quarter / 3;
        for &byte in &body[start..start + run] {
            seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }
    seen.iter().map(|bits| bits.count_ones()).sum::<u32>() > SAMPLE_VARIETY_MAX
}

/// Compresses and decompresses the frames of one thread. Its memory is taken on first use.
#[derive(Default)]
pub struct Codec {
    compressor: Option<Compressor<'static>>,
    small_compressor: Option<Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
    /// The last decompressed payload; at most the largest frame, given back down to
    /// [`limits::CODEC_SCRATCH_KEPT_BYTES`] at the next frame.
    plain: Vec<u8>,
    /// The last compressed payload; as `plain`.
    packed: Vec<u8>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").field("scratch_bytes", &self.scratch_bytes()).finish_non_exhaustive()
    }
}

impl Codec {
    /// A codec that holds no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The frame's payload as its sender encoded it, decompressed when need be.
    ///
    /// `allow_compressed` is whether compression was agreed on; `payload_max` bounds the decompressed size, which is
    /// checked before decompression begins.
    ///
    /// # Errors
    /// Compressed too early, too large, growing by more than [`limits::COMPRESSION_RATIO_MAX`], or broken.
    #[inline]
    pub fn payload<'a>(
        &'a mut self,
        frame: RawFrame<'a>,
        allow_compressed: bool,
        payload_max: usize,
    ) -> Result<&'a [u8], Fault> {
        if !frame.compressed {
            return Ok(frame.payload);
        }
        if !allow_compressed {
            return Err(Fault::CompressedTooEarly(frame.kind));
        }
        self.decompress(frame.kind, frame.payload, payload_max)
    }

    fn decompress(&mut self, kind: Kind, packed: &[u8], payload_max: usize) -> Result<&[u8], Fault> {
        let bytes = content_size(packed).filter(|&bytes| bytes > 0).ok_or(Fault::Compression(kind))?;
        if bytes > payload_max as u64 {
            return Err(Fault::FrameTooLarge { kind, bytes, max: payload_max });
        }
        let len = bytes as usize;
        if len > packed.len().saturating_mul(limits::COMPRESSION_RATIO_MAX) {
            return Err(Fault::Bomb { kind, compressed: packed.len(), bytes });
        }
        make_room(&mut self.plain, len);
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(new_decompressor().map_err(|_| Fault::Decompressor)?),
        };
        // A Vec's capacity may exceed what was asked of it, so that the length must be compared, too.
        match decompressor.decompress_to_buffer(packed, &mut self.plain) {
            Ok(written) if written == len => Ok(&self.plain),
            _ => Err(Fault::Compression(kind)),
        }
    }

    /// As [`Codec::compress_last_frame`], for a frame of messages of which `compressible` bytes are worth it
    /// ([`compressible_bytes`], of all of them together): nothing is tried unless they are half of the frame, nor when
    /// it is so large that it would hold up the thread.
    #[inline]
    pub fn compress_messages(&mut self, out: &mut Vec<u8>, frame_start: usize, compressible: usize) {
        let frame_len = out.len() - frame_start;
        if 2 * compressible >= frame_len && frame_len <= limits::COMPRESS_FRAME_BYTES_MAX {
            self.compress_last_frame(out, frame_start);
        }
    }

    /// Replaces the frame that is the last in `out` and starts at `frame_start` by its compressed form, if that is
    /// smaller and allowed. The frame must be uncompressed.
    pub fn compress_last_frame(&mut self, out: &mut Vec<u8>, frame_start: usize) {
        let Ok(Split::Frame { frame, consumed }) =
            split(&out[frame_start..], limits::FRAME_BYTES_MAX_CEILING)
        else {
            debug_assert!(false, "compress_last_frame is given one whole frame");
            return;
        };
        debug_assert!(!frame.compressed && frame_start + consumed == out.len());
        let (kind, plain_len) = (frame.kind, frame.payload.len());
        if self.compress(frame.payload).is_none() {
            return;
        }
        let header_len = write_compressed_header(&mut out[frame_start..], kind, self.packed.len());
        let payload_at = frame_start + header_len;
        debug_assert!(self.packed.len() < plain_len);
        out[payload_at..payload_at + self.packed.len()].copy_from_slice(&self.packed);
        out.truncate(payload_at + self.packed.len());
    }

    /// Compresses `plain` into `self.packed`; `None` when it is not to be used.
    fn compress(&mut self, plain: &[u8]) -> Option<()> {
        // The smallest zstd frame has 5 bytes.
        if plain.len() <= 5 {
            return None;
        }
        // What does not become smaller does not fit.
        make_room(&mut self.packed, plain.len() - 1);
        let (compressor, level) = if plain.len() <= SMALL_BYTES_MAX {
            (&mut self.small_compressor, LEVEL_SMALL)
        } else {
            (&mut self.compressor, LEVEL)
        };
        let compressor = match compressor {
            Some(compressor) => compressor,
            none => none.insert(new_compressor(level).ok()?),
        };
        let packed_len = compressor.compress_to_buffer(plain, &mut self.packed).ok()?;
        (packed_len < plain.len() && plain.len() <= packed_len * limits::COMPRESSION_RATIO_MAX).then_some(())
    }

    /// Bytes of scratch memory held now.
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        self.plain.capacity() + self.packed.capacity()
    }
}

/// Empties `scratch` and gives it room for `len` bytes, giving back what a larger frame left behind.
fn make_room(scratch: &mut Vec<u8>, len: usize) {
    scratch.clear();
    if len <= limits::CODEC_SCRATCH_KEPT_BYTES && scratch.capacity() > limits::CODEC_SCRATCH_KEPT_BYTES {
        scratch.shrink_to(limits::CODEC_SCRATCH_KEPT_BYTES);
    }
    scratch.reserve_exact(len);
}

/// What the header of a magicless zstd frame says of the size of its content (RFC 8878, 3.1.1.1).
fn content_size(frame: &[u8]) -> Option<u64> {
    let (&descriptor, rest) = frame.split_first()?;
    let is_single_segment = descriptor & 0x20 != 0;
    let window_len = usize::from(!is_single_segment);
    let dictionary_id_len = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_len = match descriptor >> 6 {
        0 => usize::from(is_single_segment),
        flag => 1 << flag,
    };
    let mut bytes = [0; 8];
    bytes[..size_len].copy_from_slice(rest.get(window_len + dictionary_id_len..)?.get(..size_len)?);
    let size = u64::from_le_bytes(bytes);
    match size_len {
        0 => None,
        2 => Some(size + 256),
        _ => Some(size),
    }
}

fn new_compressor(level: i32) -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::with_dictionary(level, DICTIONARY)?;
    compressor.include_magicbytes(false)?;
    compressor.include_checksum(false)?;
    compressor.include_contentsize(true)?;
    compressor.include_dictid(false)?;
    Ok(compressor)
}

fn new_decompressor() -> std::io::Result<Decompressor<'static>> {
    let mut decompressor = Decompressor::with_dictionary(DICTIONARY)?;
    decompressor.include_magicbytes(false)?;
    Ok(decompressor)
}
