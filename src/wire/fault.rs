//! What can be wrong with received bytes.

use crate::limits;
use crate::wire::{Kind, proto};

/// Why received bytes were refused. The connection they came on is of no use any more: a server answers with
/// [`Fault::to_error`] and closes.
///
/// The text (`Display`) says what was wrong and what is allowed. It never quotes more of the input than a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The first byte names no kind.
    #[error("frame kind {0} is unknown; kinds are 1 to 19")]
    UnknownKind(u8),
    /// The first byte has a bit set that has no meaning yet.
    #[error("the first byte of a frame, {0:#04x}, has bit 0x40 set, which is reserved and must be 0")]
    ReservedBit(u8),
    /// The length of a frame is not in its only allowed form.
    #[error("the length of {0} ends in a zero byte; a length must be a varint in its shortest form")]
    LengthForm(Kind),
    /// The length of a frame has no end within 4 bytes.
    #[error("the length of {kind} takes more than 4 bytes; its payload may have at most {max} bytes")]
    LengthTooLong {
        /// Of which frame.
        kind: Kind,
        /// Largest payload now, in bytes.
        max: usize,
    },
    /// A frame's payload is larger than it may be, as sent or once decompressed.
    #[error("the payload of {kind} has {bytes} bytes; at most {max} are allowed")]
    FrameTooLarge {
        /// Of which frame.
        kind: Kind,
        /// Declared length in bytes.
        bytes: u64,
        /// Largest payload now, in bytes.
        max: usize,
    },
    /// A frame that only the other side may send.
    #[error("{0} is sent by the other side only")]
    WrongSender(Kind),
    /// Compressed although compression was not agreed on.
    #[error("{0} is compressed; compression is allowed after a WELCOME that names a dictionary")]
    CompressedTooEarly(Kind),
    /// A compressed payload that would grow more than it may.
    #[error(
        "the payload of {kind} grows from {compressed} to {bytes} bytes; at most {max} times the compressed \
         size is allowed, send such a frame uncompressed",
        max = limits::COMPRESSION_RATIO_MAX
    )]
    Bomb {
        /// Of which frame.
        kind: Kind,
        /// Compressed size in bytes.
        compressed: usize,
        /// Declared size once decompressed, in bytes.
        bytes: u64,
    },
    /// A compressed payload that is none.
    #[error(
        "the compressed payload of {0} is broken; it must be one magicless zstd frame whose header holds the \
         content size, made with the dictionary of WELCOME"
    )]
    Compression(Kind),
    /// This process could not set up decompression.
    #[error("decompression is not available: zstd could not be set up")]
    Decompressor,
    /// Not the encoding of any protobuf message.
    #[error("{message} is not a protobuf message: {problem}")]
    Malformed {
        /// Which message.
        message: &'static str,
        /// What is broken.
        problem: Problem,
    },
    /// A field is encoded as another type.
    #[error("field {field} of {message} has the wrong wire type")]
    FieldType {
        /// Of which message.
        message: &'static str,
        /// The field's number.
        field: u32,
    },
    /// A text that is not UTF-8.
    #[error("field {field} of {message} is not UTF-8")]
    NotUtf8 {
        /// Of which message.
        message: &'static str,
        /// The field's number.
        field: u32,
    },
    /// A value that does not fit its field, or is not allowed in it.
    #[error("{what} is {value}; allowed are {min} to {max}")]
    OutOfRange {
        /// The message and the field.
        what: &'static str,
        /// The value found.
        value: u64,
        /// Lowest allowed.
        min: u64,
        /// Highest allowed.
        max: u64,
    },
    /// Something is longer than it may be.
    #[error("{what} has {bytes} bytes; at most {max} are allowed")]
    TooLong {
        /// The message and the field.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// Longest allowed, in bytes.
        max: usize,
    },
    /// A repeated field holds more than it may.
    #[error("{what}: more than the {max} allowed")]
    TooMany {
        /// The message and the field.
        what: &'static str,
        /// Most allowed.
        max: usize,
    },
    /// A field without which the frame means nothing.
    #[error("{what} is missing; at least one is needed")]
    Missing {
        /// The message and the field.
        what: &'static str,
    },
    /// A part of a message that does not go on where the parts before it ended.
    #[error("Part.offset is {found}; expected is {expected}, the bytes of this message in the parts before")]
    PartOffset {
        /// The offset it has.
        found: u32,
        /// The offset it must have.
        expected: usize,
    },
    /// The end of a message whose beginning is not what came in parts.
    #[error("parts_bytes is {declared}; {received} bytes came in parts")]
    PartsBytes {
        /// Bytes that were sent in parts, as the end says.
        declared: u32,
        /// Bytes that came.
        received: usize,
    },
    /// A field of a later version.
    #[error("field {field} of Message is not supported by this server; fields 9 to 15 must be absent")]
    Unsupported {
        /// The field's number.
        field: u32,
    },
}

/// How bytes fail to be a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A varint has no end within 10 bytes or 64 bits.
    #[error("a varint is longer than 64 bits")]
    Varint,
    /// The bytes end inside a field.
    #[error("it ends in the middle of a field")]
    Truncated,
    /// A field number outside 1 to 2^29 - 1.
    #[error("a field number is outside 1 to 536870911")]
    FieldNumber,
    /// Wire types 3, 4, 6 and 7.
    #[error("wire types other than 0, 1, 2 and 5 are not allowed")]
    WireType,
    /// The decoder of a whole message refused it.
    #[error("its fields do not decode")]
    Fields,
}

impl Fault {
    /// The code that says this to a program.
    #[must_use]
    pub fn code(&self) -> proto::Code {
        match self {
            Self::UnknownKind(_) => proto::Code::UnknownKind,
            Self::WrongSender(_) | Self::CompressedTooEarly(_) => proto::Code::Unexpected,
            Self::LengthTooLong { .. }
            | Self::FrameTooLarge { .. }
            | Self::Bomb { .. }
            | Self::TooLong { .. }
            | Self::TooMany { .. } => proto::Code::TooLarge,
            Self::OutOfRange { .. }
            | Self::Missing { .. }
            | Self::PartOffset { .. }
            | Self::PartsBytes { .. }
            | Self::Unsupported { .. } => proto::Code::Invalid,
            Self::Decompressor => proto::Code::Internal,
            Self::ReservedBit(_)
            | Self::LengthForm(_)
            | Self::Compression(_)
            | Self::Malformed { .. }
            | Self::FieldType { .. }
            | Self::NotUtf8 { .. } => proto::Code::Malformed,
        }
    }

    /// Whether whoever sent the bytes broke the protocol. As a server sees it that is the client; where a client
    /// decodes, it is the server. False where the receiving process failed by itself.
    #[must_use]
    pub fn client_fault(&self) -> bool {
        !matches!(self, Self::Decompressor)
    }

    /// The ERROR with which a server answers, whose text begins with whose fault it was.
    #[must_use]
    pub fn to_error(&self) -> proto::Error {
        let client_fault = self.client_fault();
        let whose = if client_fault { "the client broke the protocol" } else { "the server failed" };
        proto::Error { code: self.code().into(), text: format!("{whose}: {self}"), client_fault }
    }
}

/// As much of `text` as may stand beside a code: at most [`limits::TEXT_BYTES_MAX`] bytes, cut at a character.
#[must_use]
pub fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(limits::TEXT_BYTES_MAX)]
}
