//! PART: the beginning of a message that is larger than a frame, and how the whole is put together again.

use crate::wire::fields::Fields;
use crate::wire::frame::put_header;
use crate::wire::varint::{bytes_field_len, put_bytes_field, put_varint_field, varint_field_len};
use crate::wire::{Fault, Kind};

/// Room a PART needs beside its bytes of the message.
pub(super) const PART_OVERHEAD_BYTES: usize = 16;

/// A PART, read in place.
#[derive(Debug, Clone, Copy)]
pub struct PartView<'a> {
    /// Bytes of the message in the parts before.
    pub offset: u32,
    /// The next bytes; at least one.
    pub data: &'a [u8],
}

impl<'a> PartView<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        let mut part = Self { offset: 0, data: &[] };
        let mut fields = Fields::new("Part", payload);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => part.offset = field.varint32("Part.offset")?,
                2 => part.data = field.bytes()?,
                _ => {}
            }
        }
        if part.data.is_empty() { Err(Fault::Missing { what: "Part.data" }) } else { Ok(part) }
    }
}

/// Appends a PART with as many bytes of `message`, from `offset` on, as `frame_bytes_max` has room for; returns how many
/// that were. The rest, at least a byte, stays for the frame that ends the message.
pub fn encode_part(out: &mut Vec<u8>, message: &[u8], offset: usize, frame_bytes_max: usize) -> usize {
    let room = frame_bytes_max.saturating_sub(PART_OVERHEAD_BYTES).max(1);
    let end = (offset + room).min(message.len().saturating_sub(1));
    let bytes = &message[offset..end];
    let payload_len = varint_field_len(offset as u64) + bytes_field_len(bytes.len());
    out.reserve(payload_len + 5);
    put_header(out, Kind::Part, payload_len);
    put_varint_field(out, 1, offset as u64);
    put_bytes_field(out, 2, bytes);
    bytes.len()
}

/// The beginning of a message, as far as its parts have come. Its memory grows with the bytes that came, never with what
/// is declared.
#[derive(Debug, Default)]
pub struct Parts(Vec<u8>);

impl Parts {
    /// Takes the next part.
    ///
    /// # Errors
    /// It does not follow the parts before, or the message would have more than `message_bytes_max` bytes.
    pub fn push(&mut self, part: &PartView<'_>, message_bytes_max: usize) -> Result<(), Fault> {
        if part.offset as usize != self.0.len() {
            return Err(Fault::PartOffset { found: part.offset, expected: self.0.len() });
        }
        self.extend(part.data, message_bytes_max)
    }

    /// The whole message, of which `end` are the last bytes and `parts_bytes` came before. Nothing stays here.
    ///
    /// # Errors
    /// Other than `parts_bytes` came before, or the message has more than `message_bytes_max` bytes.
    pub fn finish(
        &mut self,
        parts_bytes: u32,
        end: &[u8],
        message_bytes_max: usize,
    ) -> Result<Vec<u8>, Fault> {
        if parts_bytes as usize != self.0.len() {
            return Err(Fault::PartsBytes { declared: parts_bytes, received: self.0.len() });
        }
        self.extend(end, message_bytes_max)?;
        Ok(std::mem::take(&mut self.0))
    }

    fn extend(&mut self, bytes: &[u8], message_bytes_max: usize) -> Result<(), Fault> {
        let len = self.0.len() + bytes.len();
        if len > message_bytes_max {
            let what = "a Message in parts";
            return Err(Fault::TooLong { what, bytes: len, max: message_bytes_max });
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    /// How many bytes have come.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no message is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}
