//! ACK, NACK and EXTEND: what a consumer says about leases it holds.

use crate::ids::LeaseId;
use crate::limits;
use crate::wire::fields::{Field, Fields, count, in_range};
use crate::wire::frame::put_header;
use crate::wire::lease::{decode_lease, lease_field_len, put_lease_field};
use crate::wire::varint::{put_varint_field, varint_field_len};
use crate::wire::{Fault, Kind};

/// The field of the leases, in all three messages.
const LEASES: u32 = 2;

/// An ACK, NACK or EXTEND, read in place and checked. Fields that the frame does not have keep their default.
#[derive(Debug, Clone, Copy)]
pub struct SettleView<'a> {
    /// The client's number for this request.
    pub seq: u64,
    /// ACK and NACK: give the credit of the deliveries back.
    pub replenish: bool,
    /// NACK: instead of the queue's backoff; at most [`limits::NACK_DELAY_MAX`].
    pub delay_ms: Option<u64>,
    /// NACK: why it failed; at most [`limits::ERROR_TEXT_BYTES_MAX`] bytes.
    pub error: &'a str,
    /// NACK: never retry.
    pub reject: bool,
    /// EXTEND: 1 ms to [`limits::LEASE_MAX`].
    pub lease_ms: u32,
    /// From the first lease's field on.
    leases: Fields<'a>,
    lease_count: usize,
}

impl<'a> SettleView<'a> {
    pub(super) fn decode_ack(payload: &'a [u8]) -> Result<Self, Fault> {
        Self::decode("Ack", "Ack.leases", payload, |view, field| {
            if field.number == 3 {
                view.replenish = field.flag()?;
            }
            Ok(())
        })
    }

    pub(super) fn decode_nack(payload: &'a [u8]) -> Result<Self, Fault> {
        let view = Self::decode("Nack", "Nack.leases", payload, |view, field| {
            match field.number {
                3 => view.replenish = field.flag()?,
                4 => view.delay_ms = Some(field.varint()?),
                5 => view.error = field.text_at_most("Nack.error", limits::ERROR_TEXT_BYTES_MAX)?,
                6 => view.reject = field.flag()?,
                _ => {}
            }
            Ok(())
        })?;
        if let Some(delay_ms) = view.delay_ms {
            in_range("Nack.delay_ms", delay_ms, 0, limits::NACK_DELAY_MAX.as_millis() as u64)?;
        }
        Ok(view)
    }

    pub(super) fn decode_extend(payload: &'a [u8]) -> Result<Self, Fault> {
        let view = Self::decode("Extend", "Extend.leases", payload, |view, field| {
            if field.number == 3 {
                view.lease_ms = field.varint32("Extend.lease_ms")?;
            }
            Ok(())
        })?;
        in_range("Extend.lease_ms", u64::from(view.lease_ms), 1, limits::LEASE_MAX.as_millis() as u64)?;
        Ok(view)
    }

    #[inline]
    fn decode(
        message: &'static str,
        leases: &'static str,
        payload: &'a [u8],
        mut other_field: impl FnMut(&mut Self, Field<'a>) -> Result<(), Fault>,
    ) -> Result<Self, Fault> {
        let mut view = Self {
            seq: 0,
            replenish: false,
            delay_ms: None,
            error: "",
            reject: false,
            lease_ms: 0,
            leases: Fields::new(message, &[]),
            lease_count: 0,
        };
        let mut fields = Fields::new(message, payload);
        let mut field_at = fields;
        while let Some(field) = fields.next()? {
            match field.number {
                1 => view.seq = field.varint()?,
                LEASES => {
                    if view.lease_count == 0 {
                        view.leases = field_at;
                    }
                    count(&mut view.lease_count, leases, limits::BATCH_MESSAGES_MAX)?;
                    decode_lease(field.bytes()?)?;
                }
                _ => other_field(&mut view, field)?,
            }
            field_at = fields;
        }
        if view.lease_count == 0 { Err(Fault::Missing { what: leases }) } else { Ok(view) }
    }

    /// The leases, in order.
    #[inline]
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> + use<'a> {
        let mut fields = self.leases;
        let mut left = self.lease_count;
        std::iter::from_fn(move || {
            while left > 0 {
                // The fields were all walked once: they are sound.
                let field = fields.next().ok()??;
                if field.number == LEASES {
                    left -= 1;
                    return decode_lease(field.bytes().ok()?).ok();
                }
            }
            None
        })
    }

    /// How many leases, 1 to [`limits::BATCH_MESSAGES_MAX`].
    #[must_use]
    pub fn lease_count(&self) -> usize {
        self.lease_count
    }
}

/// Appends an ACK of `leases`, at most [`limits::BATCH_MESSAGES_MAX`].
pub fn encode_ack(out: &mut Vec<u8>, seq: u64, leases: &[LeaseId], replenish: bool) {
    let leases_len: usize = leases.iter().map(|&lease| lease_field_len(lease)).sum();
    let payload_len = varint_field_len(seq) + leases_len + varint_field_len(u64::from(replenish));
    out.reserve(payload_len + 5);
    put_header(out, Kind::Ack, payload_len);
    let payload_at = out.len();
    put_varint_field(out, 1, seq);
    for &lease in leases {
        put_lease_field(out, 2, lease);
    }
    put_varint_field(out, 3, u64::from(replenish));
    debug_assert_eq!(out.len() - payload_at, payload_len);
}
