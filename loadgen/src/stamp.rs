//! A moment in a payload, so that whoever receives it knows how long it was under way.
//!
//! It is told on the machine's monotonic clock, which all processes of a machine share: sender and receiver need not be
//! one process, but they must be on one machine.

use std::ops::Range;

use rustix::time::{ClockId, clock_gettime};

/// What a stamp takes at the beginning of a payload.
pub(crate) const STAMP_BYTES: usize = 16;

const MAGIC: [u8; 8] = *b"rmstamp1";
/// Key of `Message.payload`, which is first in an encoded message.
const PAYLOAD_KEY: u8 = 0x0a;
/// What a length takes at most.
const LENGTH_BYTES_MAX: usize = 5;

/// The machine's monotonic clock in microseconds.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}

/// A stamp that says `us`.
pub(crate) fn stamp(us: u64) -> [u8; STAMP_BYTES] {
    let mut stamp = [0; STAMP_BYTES];
    stamp[..8].copy_from_slice(&MAGIC);
    stamp[8..].copy_from_slice(&us.to_le_bytes());
    stamp
}

/// What the payload of an encoded message is stamped with; `None` when it is not.
pub(crate) fn stamp_of(message: &[u8]) -> Option<u64> {
    stamp_in(payload(message)?)
}

/// The payload of an encoded message, when it is first in it, where every encoder puts it.
pub(crate) fn payload(message: &[u8]) -> Option<&[u8]> {
    message.get(payload_of(message)?)
}

/// What a bare payload is stamped with; `None` when it is not.
pub(crate) fn stamp_in(payload: &[u8]) -> Option<u64> {
    let (magic, rest) = payload.split_first_chunk::<8>()?;
    let us = rest.first_chunk::<8>()?;
    (*magic == MAGIC).then_some(u64::from_le_bytes(*us))
}

/// Makes the stamp of an encoded message say `us`. Does nothing to one without a stamp.
pub(crate) fn restamp(message: &mut [u8], us: u64) {
    if stamp_of(message).is_some()
        && let Some(payload) = payload_of(message)
    {
        message[payload][..STAMP_BYTES].copy_from_slice(&stamp(us));
    }
}

/// Where the payload of an encoded message lies, when it is first in it, where every encoder puts it.
fn payload_of(message: &[u8]) -> Option<Range<usize>> {
    let encoded = message.strip_prefix(&[PAYLOAD_KEY])?;
    let last = encoded.iter().take(LENGTH_BYTES_MAX).position(|byte| byte & 0x80 == 0)?;
    let length = encoded[..=last].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    let begin = 1 + last + 1;
    Some(begin..begin + length)
}

#[cfg(test)]
mod tests;
