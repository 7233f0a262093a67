//! Protobuf's variable-length integers and the few field encodings that the hand-written encoders need.

use crate::wire::fault::Problem;

/// Longest varint of 64 bits, in bytes.
pub(super) const VARINT_BYTES_MAX: usize = 10;

/// Wire types of protobuf.
pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const FIXED32: u8 = 5;

/// Bytes `value` takes as a varint.
#[inline]
pub(super) const fn varint_len(value: u64) -> usize {
    // 9/64 of the highest set bit's place is a seventh of it, rounded down, for all 64 places.
    ((63 - (value | 1).leading_zeros() as usize) * 9 + 73) / 64
}

/// Takes a varint off the front of `bytes`.
#[inline]
pub(super) fn take_varint(bytes: &mut &[u8]) -> Result<u64, Problem> {
    match bytes.split_first() {
        Some((&first, rest)) if first < 0x80 => {
            *bytes = rest;
            Ok(u64::from(first))
        }
        _ => take_long_varint(bytes),
    }
}

fn take_long_varint(bytes: &mut &[u8]) -> Result<u64, Problem> {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        // The tenth byte holds the 64th bit only.
        if at == VARINT_BYTES_MAX - 1 && byte > 1 {
            return Err(Problem::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(Problem::Truncated)
}

/// Appends `value` as a varint.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes a varint field takes; none when it has its default.
#[inline]
pub(super) const fn varint_field_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Bytes a field of `len` bytes takes.
#[inline]
pub(super) const fn bytes_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// The key of a field with a number below 16, which is one byte.
#[inline]
pub(super) const fn key(field: u8, wire_type: u8) -> u8 {
    debug_assert!(field < 16);
    field << 3 | wire_type
}

/// Appends a varint field, unless it has its default.
#[inline]
pub(super) fn put_varint_field(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(key(field, VARINT));
        put_varint(out, value);
    }
}

/// Appends a field of bytes, empty or not.
#[inline]
pub(super) fn put_bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(key(field, BYTES));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
