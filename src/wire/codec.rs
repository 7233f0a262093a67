//! Compressed payloads: zstd, magicless, with a dictionary both sides have.
//!
//! ```text
//!  varint    length of the payload once decompressed
//!  the rest  one zstd frame without magic number, checksum, content size and dictionary id
//! ```

use zstd::bulk::{Compressor, Decompressor};

use crate::limits;
use crate::wire::frame::{RawFrame, Split, split, write_compressed_header};
use crate::wire::varint::{put_varint, take_varint, varint_len};
use crate::wire::{Fault, Kind};

/// Which dictionary [`DICTIONARY`] is; rises whenever its bytes change. It also stands in the dictionary itself.
pub const DICTIONARY_ID: u32 = 1;

/// The dictionary, in zstd's format. Made by `cargo run --example train_dictionary`.
pub const DICTIONARY: &[u8] = include_bytes!("heartbeat.dict");

/// zstd's level. On heartbeats the highest levels win nothing over this one, and it stays cheap on large frames.
const LEVEL: i32 = 3;

/// Compresses and decompresses the frames of one thread. Its memory is taken on first use.
#[derive(Default)]
pub struct Codec {
    compressor: Option<Compressor<'static>>,
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
        let mut zstd_frame = packed;
        let bytes = take_varint(&mut zstd_frame).map_err(|_| Fault::Compression(kind))?;
        if bytes > payload_max as u64 {
            return Err(Fault::FrameTooLarge { kind, bytes, max: payload_max });
        }
        let len = bytes as usize;
        if len > packed.len().saturating_mul(limits::COMPRESSION_RATIO_MAX) {
            return Err(Fault::Bomb { kind, compressed: packed.len(), bytes });
        }
        if len == 0 || varint_len(bytes) != packed.len() - zstd_frame.len() {
            return Err(Fault::Compression(kind));
        }
        make_room(&mut self.plain, len);
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(new_decompressor().map_err(|_| Fault::Decompressor)?),
        };
        // A Vec's capacity may exceed what was asked of it, so that the length must be compared, too.
        match decompressor.decompress_to_buffer(zstd_frame, &mut self.plain) {
            Ok(written) if written == len => Ok(&self.plain),
            _ => Err(Fault::Compression(kind)),
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
        let length_len = varint_len(plain.len() as u64);
        // The smallest zstd frame has 5 bytes.
        if plain.len() <= length_len + 5 {
            return None;
        }
        make_room(&mut self.packed, plain.len() + length_len);
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(new_compressor().ok()?),
        };
        let written = compressor.compress_to_buffer(plain, &mut self.packed).ok()?;
        let packed_len = length_len + written;
        if packed_len >= plain.len() || plain.len() > packed_len * limits::COMPRESSION_RATIO_MAX {
            return None;
        }
        // The length goes to the end and is turned to the front: there is room for it.
        put_varint(&mut self.packed, plain.len() as u64);
        self.packed.rotate_right(length_len);
        Some(())
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

fn new_compressor() -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::with_dictionary(LEVEL, DICTIONARY)?;
    compressor.include_magicbytes(false)?;
    compressor.include_checksum(false)?;
    compressor.include_contentsize(false)?;
    compressor.include_dictid(false)?;
    Ok(compressor)
}

fn new_decompressor() -> std::io::Result<Decompressor<'static>> {
    let mut decompressor = Decompressor::with_dictionary(DICTIONARY)?;
    decompressor.include_magicbytes(false)?;
    Ok(decompressor)
}
