//! DELIVER: messages on their way to a consumer.

use crate::ids::{LeaseId, SubscriptionId};
use crate::limits;
use crate::wire::fields::{Fields, count, in_range};
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
    /// The encoded `Message`; where `parts_bytes` is not 0, its end only, until [`DeliverView::completed`].
    pub message: &'a [u8],
    /// Bytes of the message that came before in PARTs; 0 when it is here as a whole.
    pub parts_bytes: u32,
}

/// One message of a topic: nobody waits for an answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BroadcastDelivery<'a> {
    /// The subscription it is for.
    pub subscription: SubscriptionId,
    /// The encoded `Message`.
    pub message: &'a [u8],
}

/// What one `Delivery` of a DELIVER says.
#[derive(Debug, Clone, Copy)]
enum Decoded<'a> {
    Leased(Delivery<'a>),
    Broadcast(BroadcastDelivery<'a>),
}

/// A DELIVER, read in place and checked.
#[derive(Debug, Clone, Copy)]
pub struct DeliverView<'a> {
    deliveries: Fields<'a>,
    delivery_count: usize,
    /// What the delivery with `parts_bytes` carries, once it was put together.
    whole: &'a [u8],
    parts_bytes: u32,
}

impl<'a> DeliverView<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        let deliveries = Fields::new("Deliver", payload);
        let mut delivery_count = 0;
        let mut parts_bytes = 0;
        let mut fields = deliveries;
        while let Some(field) = fields.next()? {
            if field.number == DELIVERIES {
                count(&mut delivery_count, "Deliver.deliveries", limits::BATCH_MESSAGES_MAX)?;
                if let Decoded::Leased(delivery) = decode_delivery(field.bytes()?)? {
                    parts_bytes = parts_bytes.max(delivery.parts_bytes);
                }
            }
        }
        if parts_bytes > 0 {
            in_range("count of Deliver.deliveries with parts_bytes", delivery_count as u64, 1, 1)?;
        }
        Ok(Self { deliveries, delivery_count, whole: &[], parts_bytes })
    }

    /// Bytes of the only message that came before it in PARTs; 0 when every message is here as a whole.
    #[must_use]
    pub fn parts_bytes(&self) -> u32 {
        self.parts_bytes
    }

    /// The same, its only delivery with all of its message, which is `whole`.
    #[must_use]
    pub fn completed(self, whole: &'a [u8]) -> Self {
        Self { whole, parts_bytes: 0, ..self }
    }

    /// The deliveries that have a lease, in order.
    pub fn deliveries(&self) -> impl Iterator<Item = Delivery<'a>> + use<'a> {
        let whole = self.whole;
        self.all().filter_map(move |decoded| {
            let Decoded::Leased(delivery) = decoded else { return None };
            let is_completed = delivery.parts_bytes > 0 && !whole.is_empty();
            Some(if is_completed {
                Delivery { message: whole, parts_bytes: 0, ..delivery }
            } else {
                delivery
            })
        })
    }

    /// Those of topics, which have none, in order.
    pub fn broadcasts(&self) -> impl Iterator<Item = BroadcastDelivery<'a>> + use<'a> {
        self.all().filter_map(|decoded| match decoded {
            Decoded::Leased(_) => None,
            Decoded::Broadcast(broadcast) => Some(broadcast),
        })
    }

    fn all(&self) -> impl Iterator<Item = Decoded<'a>> + use<'a> {
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

    /// How many deliveries of either kind, at most [`limits::BATCH_MESSAGES_MAX`].
    #[must_use]
    pub fn delivery_count(&self) -> usize {
        self.delivery_count
    }
}

fn decode_delivery(encoded: &[u8]) -> Result<Decoded<'_>, Fault> {
    let mut delivery =
        Delivery { subscription: SubscriptionId(0), lease: BLANK, lease_ms: 0, message: &[], parts_bytes: 0 };
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
            5 => delivery.parts_bytes = field.varint32("Delivery.parts_bytes")?,
            _ => {}
        }
    }
    delivery.subscription = subscription_id("Delivery.subscription", subscription)?;
    if has_lease {
        return Ok(Decoded::Leased(delivery));
    }
    // What has no lease is a topic's, which sends nothing in parts.
    if delivery.parts_bytes > 0 || delivery.lease_ms > 0 {
        return Err(Fault::Missing { what: "Delivery.lease" });
    }
    let Delivery { subscription, message, .. } = delivery;
    Ok(Decoded::Broadcast(BroadcastDelivery { subscription, message }))
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
        self.put(out, subscription, Some(lease), lease_ms, body, 0)
    }

    /// As [`DeliverWriter::push`], for a message of a topic, which has no lease.
    #[must_use = "what was not taken needs another frame"]
    pub fn push_broadcast(&mut self, out: &mut Vec<u8>, subscription: SubscriptionId, body: &[u8]) -> bool {
        self.put(out, subscription, None, 0, body, 0)
    }

    /// As [`DeliverWriter::push`], for the end of a message in parts, behind the `parts_bytes` bytes that went in PARTs.
    /// Such a delivery is the only one of its frame.
    #[must_use = "what was not taken needs another frame"]
    pub fn push_end(
        &mut self,
        out: &mut Vec<u8>,
        subscription: SubscriptionId,
        lease: LeaseId,
        lease_ms: u32,
        parts_bytes: u32,
        end: &[u8],
    ) -> bool {
        self.deliveries == 0 && self.put(out, subscription, Some(lease), lease_ms, end, parts_bytes)
    }

    #[inline]
    fn put(
        &mut self,
        out: &mut Vec<u8>,
        subscription: SubscriptionId,
        lease: Option<LeaseId>,
        lease_ms: u32,
        body: &[u8],
        parts_bytes: u32,
    ) -> bool {
        let delivery_len = lease.map_or(0, lease_field_len)
            + varint_field_len(u64::from(subscription.0))
            + varint_field_len(u64::from(lease_ms))
            + bytes_field_len(body.len())
            + varint_field_len(u64::from(parts_bytes));
        let field_len = 1 + varint_len(delivery_len as u64) + delivery_len;
        let fits = self.frame.payload_len(out) + field_len <= self.frame_bytes_max;
        if !fits || self.deliveries == limits::BATCH_MESSAGES_MAX {
            return false;
        }
        self.deliveries += 1;
        out.reserve(field_len);
        out.push(key(1, BYTES));
        put_varint(out, delivery_len as u64);
        if let Some(lease) = lease {
            put_lease_field(out, 1, lease);
        }
        put_varint_field(out, 2, u64::from(subscription.0));
        put_varint_field(out, 3, u64::from(lease_ms));
        put_bytes_field(out, 4, body);
        put_varint_field(out, 5, u64::from(parts_bytes));
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
