//! DELIVER: messages on their way to a consumer.

use crate::ids::{LeaseId, SubscriptionId};
use crate::limits;
use crate::wire::fields::{Fields, count};
use crate::wire::frame::OpenFrame;
use crate::wire::lease::{BLANK, lease_field_len, merge_lease, put_lease_field};
use crate::wire::varint::{
    BYTES, bytes_field_len, key, put_bytes_field, put_varint, put_varint_field, varint_field_len, varint_len,
};
use crate::wire::{Fault, Kind};

/// `Deliver.deliveries`.
const DELIVERIES: u32 = 1;

/// One message with the lease that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The subscription it is for.
    pub subscription: SubscriptionId,
    /// To be acked, nacked or extended.
    pub lease: LeaseId,
    /// How long the lease lasts from now on.
    pub lease_ms: u32,
    /// The encoded `Message`.
    pub message: &'a [u8],
}

/// A DELIVER, read in place and checked.
#[derive(Debug, Clone, Copy)]
pub struct DeliverView<'a> {
    deliveries: Fields<'a>,
    delivery_count: usize,
}

impl<'a> DeliverView<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        let deliveries = Fields::new("Deliver", payload);
        let mut delivery_count = 0;
        let mut fields = deliveries;
        while let Some(field) = fields.next()? {
            if field.number == DELIVERIES {
                count(&mut delivery_count, "Deliver.deliveries", limits::BATCH_MESSAGES_MAX)?;
                decode_delivery(field.bytes()?)?;
            }
        }
        Ok(Self { deliveries, delivery_count })
    }

    /// The deliveries, in order.
    pub fn deliveries(&self) -> impl Iterator<Item = Delivery<'a>> + use<'a> {
        let mut fields = self.deliveries;
        let mut left = self.delivery_count;
        std::iter::from_fn(move || {
            while left > 0 {
                // The fields were all walked once: they are sound.
                let field = fields.next().ok()??;
                if field.number == DELIVERIES {
                    left -= 1;
                    return decode_delivery(field.bytes().ok()?).ok();
                }
            }
            None
        })
    }

    /// How many deliveries, at most [`limits::BATCH_MESSAGES_MAX`].
    #[must_use]
    pub fn delivery_count(&self) -> usize {
        self.delivery_count
    }
}

fn decode_delivery(encoded: &[u8]) -> Result<Delivery<'_>, Fault> {
    let mut delivery = Delivery { subscription: SubscriptionId(0), lease: BLANK, lease_ms: 0, message: &[] };
    let mut subscription = 0;
    let mut has_lease = false;
    let mut fields = Fields::new("Delivery", encoded);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => {
                has_lease = true;
                merge_lease(&mut delivery.lease, field.bytes()?)?;
            }
            2 => subscription = field.varint()?,
            3 => delivery.lease_ms = field.varint32("Delivery.lease_ms")?,
            4 => delivery.message = field.bytes()?,
            _ => {}
        }
    }
    if !has_lease {
        return Err(Fault::Missing { what: "Delivery.lease" });
    }
    delivery.subscription = subscription_id("Delivery.subscription", subscription)?;
    Ok(delivery)
}

/// The checked number of a subscription.
pub(super) fn subscription_id(what: &'static str, value: u64) -> Result<SubscriptionId, Fault> {
    match u16::try_from(value) {
        Ok(number) if number > 0 => Ok(SubscriptionId(number)),
        _ => Err(Fault::OutOfRange { what, value, min: 1, max: u64::from(u16::MAX) }),
    }
}

/// Writes one DELIVER: [`DeliverWriter::begin`], then [`DeliverWriter::push`] until it refuses or nothing is left,
/// then [`DeliverWriter::finish`]. Nothing else may be appended to `out` meanwhile.
#[must_use = "a frame that is not finished is broken"]
pub struct DeliverWriter {
    frame: OpenFrame,
    frame_bytes_max: usize,
    deliveries: usize,
}

impl DeliverWriter {
    /// Starts a frame whose payload is to have at most `frame_bytes_max` bytes.
    pub fn begin(out: &mut Vec<u8>, frame_bytes_max: usize) -> Self {
        Self { frame: OpenFrame::begin(out, Kind::Deliver), frame_bytes_max, deliveries: 0 }
    }

    /// Appends a delivery of `body`, an encoded `Message`. False, and nothing is written, when it does not fit this
    /// frame any more. An empty frame takes any body of up to `frame_bytes_max` less
    /// [`limits::FRAME_OVERHEAD_BYTES`].
    #[must_use = "what was not taken needs another frame"]
    #[inline]
    pub fn push(
        &mut self,
        out: &mut Vec<u8>,
        subscription: SubscriptionId,
        lease: LeaseId,
        lease_ms: u32,
        body: &[u8],
    ) -> bool {
        let delivery_len = lease_field_len(lease)
            + varint_field_len(u64::from(subscription.0))
            + varint_field_len(u64::from(lease_ms))
            + bytes_field_len(body.len());
        let field_len = 1 + varint_len(delivery_len as u64) + delivery_len;
        let fits = self.frame.payload_len(out) + field_len <= self.frame_bytes_max;
        if !fits || self.deliveries == limits::BATCH_MESSAGES_MAX {
            return false;
        }
        self.deliveries += 1;
        out.reserve(field_len);
        out.push(key(1, BYTES));
        put_varint(out, delivery_len as u64);
        put_lease_field(out, 1, lease);
        put_varint_field(out, 2, u64::from(subscription.0));
        put_varint_field(out, 3, u64::from(lease_ms));
        put_bytes_field(out, 4, body);
        true
    }

    /// How many deliveries the frame holds.
    #[must_use]
    pub fn delivery_count(&self) -> usize {
        self.deliveries
    }

    /// Completes the frame. One without deliveries leaves nothing in `out`.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.deliveries == 0 {
            self.frame.abandon(out);
        } else {
            self.frame.finish(out);
        }
    }
}
