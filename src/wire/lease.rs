//! The `Lease` message, which hot frames carry by the hundred.

use crate::ids::{Boot, LeaseId, MessageId};
use crate::wire::Fault;
use crate::wire::fields::Fields;
use crate::wire::varint::{BYTES, key, put_varint, put_varint_field, varint_field_len, varint_len};

/// A lease none of whose fields was seen.
pub(super) const BLANK: LeaseId = LeaseId { message: MessageId(0), attempt: 0, boot: Boot(0) };

/// Largest encoded `Lease`, in bytes.
pub(super) const LEASE_BYTES_MAX: usize = 11 + 6 + 6;

/// Decodes an encoded `Lease` over `lease`, as protobuf merges a message into one already seen.
#[inline]
pub(super) fn merge_lease(lease: &mut LeaseId, encoded: &[u8]) -> Result<(), Fault> {
    let mut fields = Fields::new("Lease", encoded);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => lease.message = MessageId(field.varint()?),
            2 => lease.attempt = field.varint32("Lease.attempt")?,
            3 => lease.boot = Boot(field.varint32("Lease.boot")?),
            _ => {}
        }
    }
    Ok(())
}

/// Decodes an encoded `Lease`.
#[inline]
pub(super) fn decode_lease(encoded: &[u8]) -> Result<LeaseId, Fault> {
    let mut lease = BLANK;
    merge_lease(&mut lease, encoded)?;
    Ok(lease)
}

/// Bytes of an encoded `Lease`.
#[inline]
pub(super) fn lease_len(lease: LeaseId) -> usize {
    varint_field_len(lease.message.0)
        + varint_field_len(u64::from(lease.attempt))
        + varint_field_len(u64::from(lease.boot.0))
}

/// Bytes of a field that holds a `Lease`.
#[inline]
pub(super) fn lease_field_len(lease: LeaseId) -> usize {
    let len = lease_len(lease);
    1 + varint_len(len as u64) + len
}

/// Appends a field that holds a `Lease`.
#[inline]
pub(super) fn put_lease_field(out: &mut Vec<u8>, field: u8, lease: LeaseId) {
    out.push(key(field, BYTES));
    put_varint(out, lease_len(lease) as u64);
    put_varint_field(out, 1, lease.message.0);
    put_varint_field(out, 2, u64::from(lease.attempt));
    put_varint_field(out, 3, u64::from(lease.boot.0));
}

const _: () = assert!(LEASE_BYTES_MAX < 128, "the length of a Lease takes one byte");

impl From<LeaseId> for crate::wire::proto::Lease {
    fn from(lease: LeaseId) -> Self {
        Self { message_id: lease.message.0, attempt: lease.attempt, boot: lease.boot.0 }
    }
}

impl From<&crate::wire::proto::Lease> for LeaseId {
    fn from(lease: &crate::wire::proto::Lease) -> Self {
        Self { message: MessageId(lease.message_id), attempt: lease.attempt, boot: Boot(lease.boot) }
    }
}
