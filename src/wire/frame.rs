//! Where one frame ends and the next begins.
//!
//! ```text
//!  byte 0        kind (low 6 bits) | 0x40 reserved | 0x80 compressed
//!  bytes 1..     length of the payload: LEB128 varint, 1 to 4 bytes, shortest form
//!  the rest      payload
//! ```

use std::fmt;

use prost::Message;

use crate::wire::Fault;
use crate::wire::varint::{VARINT_BYTES_MAX, put_varint, varint_len};

/// Set in a frame's first byte when its payload is compressed.
const COMPRESSED: u8 = 0x80;
/// Without meaning yet.
const RESERVED: u8 = 0x40;
/// The bits of the first byte that hold the kind.
const KIND_BITS: u8 = 0x3f;
/// Longest form of a frame's length, in bytes.
const LENGTH_BYTES_MAX: usize = 4;

/// A PING without telemetry, whole.
pub const EMPTY_PING: [u8; 2] = [Kind::Ping as u8, 0];
/// A PONG that asks for nothing, whole.
pub const EMPTY_PONG: [u8; 2] = [Kind::Pong as u8, 0];

macro_rules! kinds {
    ($($kind:ident = $number:literal $name:literal $from_client:literal,)*) => {
        /// What a frame is. The numbers are those of `proto::Kind`.
        #[allow(missing_docs)]
        #[repr(u8)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($kind = $number,)*
        }

        impl Kind {
            /// Every kind, by number.
            pub const ALL: [Self; 19] = [$(Self::$kind,)*];

            /// Its name in the protocol's description.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// Whether clients send it; the others come from the server only. PART comes from both.
            #[must_use]
            pub const fn is_from_client(self) -> bool {
                match self {
                    $(Self::$kind => $from_client,)*
                }
            }
        }

        impl TryFrom<u8> for Kind {
            type Error = Fault;
            fn try_from(number: u8) -> Result<Self, Fault> {
                match number {
                    $($number => Ok(Self::$kind),)*
                    _ => Err(Fault::UnknownKind(number)),
                }
            }
        }
    };
}

// Kind, number, name, whether clients send it.
kinds! {
    Hello = 1 "HELLO" true,
    Welcome = 2 "WELCOME" false,
    Reject = 3 "REJECT" false,
    Ping = 4 "PING" true,
    Pong = 5 "PONG" false,
    Publish = 6 "PUBLISH" true,
    PublishAck = 7 "PUBLISH_ACK" false,
    Subscribe = 8 "SUBSCRIBE" true,
    Unsubscribe = 9 "UNSUBSCRIBE" true,
    Reply = 10 "REPLY" false,
    Credit = 11 "CREDIT" true,
    Deliver = 12 "DELIVER" false,
    Ack = 13 "ACK" true,
    Nack = 14 "NACK" true,
    Extend = 15 "EXTEND" true,
    Bye = 16 "BYE" true,
    GoAway = 17 "GOAWAY" false,
    Error = 18 "ERROR" false,
    Part = 19 "PART" true,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frame as it lies in the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFrame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its payload must go through [`crate::wire::Codec::payload`].
    pub compressed: bool,
    /// The payload as sent.
    pub payload: &'a [u8],
}

/// The front of a receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split<'a> {
    /// A whole frame.
    Frame {
        /// The frame.
        frame: RawFrame<'a>,
        /// How many bytes of the buffer it takes.
        consumed: usize,
    },
    /// The frame goes on in bytes that have not arrived.
    NeedMore {
        /// Bytes of the whole frame, header included, as far as they are known: at least this many are needed.
        bytes: usize,
    },
}

/// Looks at the front of `buffer`. What is wrong with a header is told before its payload arrives.
///
/// # Errors
/// An unknown kind, the reserved bit, a length that is not in its shortest form or above `payload_max`.
#[inline]
pub fn split(buffer: &[u8], payload_max: usize) -> Result<Split<'_>, Fault> {
    let Some(&first) = buffer.first() else {
        return Ok(Split::NeedMore { bytes: 2 });
    };
    if first & RESERVED != 0 {
        return Err(Fault::ReservedBit(first));
    }
    let kind = Kind::try_from(first & KIND_BITS)?;
    let Some((payload_len, header_len)) = payload_len(kind, &buffer[1..], payload_max)? else {
        return Ok(Split::NeedMore { bytes: buffer.len() + 1 });
    };
    let consumed = header_len + payload_len;
    match buffer.get(header_len..consumed) {
        Some(payload) => {
            let frame = RawFrame { kind, compressed: first & COMPRESSED != 0, payload };
            Ok(Split::Frame { frame, consumed })
        }
        None => Ok(Split::NeedMore { bytes: consumed }),
    }
}

/// The payload's length and the header's, or `None` when the length goes on in bytes that have not arrived.
#[inline]
fn payload_len(kind: Kind, bytes: &[u8], max: usize) -> Result<Option<(usize, usize)>, Fault> {
    let mut len = 0usize;
    for (at, &byte) in bytes.iter().take(LENGTH_BYTES_MAX).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * at);
        if len > max {
            return Err(Fault::FrameTooLarge { kind, bytes: len as u64, max });
        }
        if byte & 0x80 == 0 {
            return if byte == 0 && at > 0 { Err(Fault::LengthForm(kind)) } else { Ok(Some((len, at + 2))) };
        }
    }
    if bytes.len() >= LENGTH_BYTES_MAX { Err(Fault::LengthTooLong { kind, max }) } else { Ok(None) }
}

/// Appends a frame's first byte and length.
#[inline]
pub(super) fn put_header(out: &mut Vec<u8>, kind: Kind, payload_len: usize) {
    debug_assert!(payload_len < 1 << (7 * LENGTH_BYTES_MAX), "a payload beyond what a length can say");
    out.push(kind as u8);
    put_varint(out, payload_len as u64);
}

/// Writes a frame's first byte and length over the front of `out`; returns how many bytes they take.
pub(super) fn write_compressed_header(out: &mut [u8], kind: Kind, payload_len: usize) -> usize {
    out[0] = kind as u8 | COMPRESSED;
    let mut rest = payload_len;
    let mut at = 1;
    while rest >= 0x80 {
        out[at] = (rest & 0x7f) as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    out[at] = rest as u8;
    at + 1
}

/// Appends one whole frame.
pub fn encode<M: Message>(out: &mut Vec<u8>, kind: Kind, message: &M) {
    let payload_len = message.encoded_len();
    out.reserve(1 + LENGTH_BYTES_MAX + payload_len);
    put_header(out, kind, payload_len);
    // Goes by remaining capacity, which a Vec always has.
    message.encode_raw(out);
}

/// A frame of one byte of length whose payload is written before its length is known.
///
/// For payloads that can never reach 128 bytes.
pub(super) struct ShortFrame {
    length_at: usize,
}

impl ShortFrame {
    /// Largest payload, in bytes.
    pub(super) const PAYLOAD_MAX: usize = 127;

    #[inline]
    pub(super) fn begin(out: &mut Vec<u8>, kind: Kind, payload_max: usize) -> Self {
        debug_assert!(payload_max <= Self::PAYLOAD_MAX);
        out.reserve(2 + payload_max);
        out.push(kind as u8);
        out.push(0);
        Self { length_at: out.len() - 1 }
    }

    #[inline]
    pub(super) fn finish(self, out: &mut [u8]) {
        let payload_len = out.len() - self.length_at - 1;
        debug_assert!(payload_len <= Self::PAYLOAD_MAX);
        out[self.length_at] = payload_len as u8;
    }
}

/// A frame whose payload is written before its length is known, of any length.
pub(super) struct OpenFrame {
    start: usize,
}

impl OpenFrame {
    /// Room left for the length: enough for 2 MiB, so that a large payload stays where it was written and only one
    /// below 16 KiB is moved (by a byte or two, once) to keep the length in its shortest form.
    const LENGTH_ROOM: usize = 3;

    pub(super) fn begin(out: &mut Vec<u8>, kind: Kind) -> Self {
        let start = out.len();
        out.extend_from_slice(&[kind as u8, 0, 0, 0]);
        Self { start }
    }

    /// Bytes of payload written so far.
    #[inline]
    pub(super) fn payload_len(&self, out: &[u8]) -> usize {
        out.len() - self.start - 1 - Self::LENGTH_ROOM
    }

    /// Takes the whole frame back.
    pub(super) fn abandon(self, out: &mut Vec<u8>) {
        out.truncate(self.start);
    }

    pub(super) fn finish(self, out: &mut Vec<u8>) {
        let payload_at = self.start + 1 + Self::LENGTH_ROOM;
        let payload_len = out.len() - payload_at;
        let needed = varint_len(payload_len as u64);
        let moved_to = self.start + 1 + needed;
        if needed < Self::LENGTH_ROOM {
            out.copy_within(payload_at.., moved_to);
            out.truncate(moved_to + payload_len);
        } else if needed > Self::LENGTH_ROOM {
            out.resize(moved_to + payload_len, 0);
            out.copy_within(payload_at..payload_at + payload_len, moved_to);
        }
        let mut rest = payload_len;
        for at in 0..needed {
            let more = if at + 1 < needed { 0x80 } else { 0 };
            out[self.start + 1 + at] = (rest & 0x7f) as u8 | more;
            rest >>= 7;
        }
    }
}

const _: () = assert!(LENGTH_BYTES_MAX < VARINT_BYTES_MAX);
const _: () = assert!(crate::limits::FRAME_BYTES_MAX_CEILING < 1 << (7 * LENGTH_BYTES_MAX));
