//! PUBLISH and its answer: the frames a producer's throughput hangs on.

use crate::ids::LeaseId;
use crate::limits;
use crate::wire::fields::{Fields, count, in_range};
use crate::wire::frame::{ShortFrame, put_header};
use crate::wire::lease::{decode_lease, lease_field_len, put_lease_field};
use crate::wire::varint::{
    FIXED64, bytes_field_len, key, put_bytes_field, put_varint_field, varint_field_len,
};
use crate::wire::{Fault, Kind};

/// `Publish.messages`.
const MESSAGES: u32 = 3;
/// `Publish.acks`.
const ACKS: u32 = 8;
/// Bytes of the `Publish.producer_id` field.
const PRODUCER_FIELD_BYTES: usize = 9;

/// A PUBLISH, read in place. Everything about it is checked except the messages themselves
/// ([`crate::message::message_header`]) and the alphabet of the queue's name.
#[derive(Debug, Clone, Copy)]
pub struct PublishView<'a> {
    /// The client's number for this request.
    pub seq: u64,
    /// The queue or mailbox; 1 to [`limits::QUEUE_NAME_BYTES_MAX`] bytes.
    pub queue: &'a str,
    /// 0 when the producer wants no deduplication; the next two fields mean nothing then.
    pub producer_id: u64,
    /// Of the first message, at least 1.
    pub sequence: u64,
    /// The lowest unanswered sequence of this producer, 1 to `sequence`.
    pub unanswered_from: u64,
    /// Bytes of the only message that came before it in PARTs; 0 when every message is here as a whole.
    pub parts_bytes: u32,
    /// The credit of what is acked goes back to its subscriptions.
    pub replenish: bool,
    /// From the first message's or lease's field on.
    lists: Fields<'a>,
    message_count: usize,
    ack_count: usize,
    body_bytes: usize,
}

impl<'a> PublishView<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        let mut view = Self {
            seq: 0,
            queue: "",
            producer_id: 0,
            sequence: 0,
            unanswered_from: 0,
            parts_bytes: 0,
            replenish: false,
            lists: Fields::new("Publish", &[]),
            message_count: 0,
            ack_count: 0,
            body_bytes: 0,
        };
        let mut fields = Fields::new("Publish", payload);
        let mut field_at = fields;
        while let Some(field) = fields.next()? {
            match field.number {
                1 => view.seq = field.varint()?,
                2 => view.queue = field.text_at_most("Publish.queue", limits::QUEUE_NAME_BYTES_MAX)?,
                MESSAGES => {
                    if view.message_count + view.ack_count == 0 {
                        view.lists = field_at;
                    }
                    count(&mut view.message_count, "Publish.messages", limits::BATCH_MESSAGES_MAX)?;
                    view.body_bytes += field.bytes()?.len();
                }
                4 => view.producer_id = field.fixed64()?,
                5 => view.sequence = field.varint()?,
                6 => view.unanswered_from = field.varint()?,
                7 => view.parts_bytes = field.varint32("Publish.parts_bytes")?,
                ACKS => {
                    if view.message_count + view.ack_count == 0 {
                        view.lists = field_at;
                    }
                    count(&mut view.ack_count, "Publish.acks", limits::BATCH_MESSAGES_MAX)?;
                    decode_lease(field.bytes()?)?;
                }
                9 => view.replenish = field.flag()?,
                _ => {}
            }
            field_at = fields;
        }
        view.check()?;
        Ok(view)
    }

    fn check(&self) -> Result<(), Fault> {
        if self.message_count == 0 {
            return Err(Fault::Missing { what: "Publish.messages" });
        }
        if self.parts_bytes > 0 {
            in_range("count of Publish.messages with parts_bytes", self.message_count as u64, 1, 1)?;
        }
        if self.queue.is_empty() {
            return Err(Fault::Missing { what: "Publish.queue" });
        }
        if self.producer_id != 0 {
            let sequence_max = u64::MAX - limits::BATCH_MESSAGES_MAX as u64;
            in_range("Publish.sequence", self.sequence, 1, sequence_max)?;
            in_range("Publish.unanswered_from", self.unanswered_from, 1, self.sequence)?;
        }
        Ok(())
    }

    /// The encoded messages, in order.
    #[inline]
    pub fn messages(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut fields = self.lists;
        let mut left = self.message_count;
        std::iter::from_fn(move || {
            while left > 0 {
                // The fields were all walked once: they are sound.
                let field = fields.next().ok()??;
                if field.number == MESSAGES {
                    left -= 1;
                    return field.bytes().ok();
                }
            }
            None
        })
    }

    /// The leases to ack with it, in order.
    pub fn acks(&self) -> impl Iterator<Item = LeaseId> + use<'a> {
        let mut fields = self.lists;
        let mut left = self.ack_count;
        std::iter::from_fn(move || {
            while left > 0 {
                // The fields were all walked once: they are sound.
                let field = fields.next().ok()??;
                if field.number == ACKS {
                    left -= 1;
                    return decode_lease(field.bytes().ok()?).ok();
                }
            }
            None
        })
    }

    /// How many leases, at most [`limits::BATCH_MESSAGES_MAX`].
    #[inline]
    #[must_use]
    pub fn ack_count(&self) -> usize {
        self.ack_count
    }

    /// How many messages, 1 to [`limits::BATCH_MESSAGES_MAX`].
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.message_count
    }

    /// Bytes of the encoded messages together.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }
}

/// Appends a PUBLISH of `bodies`, each an encoded `Message`.
///
/// `producer` is (producer id, sequence of the first body, lowest unanswered sequence). The caller keeps to the
/// limits of WELCOME.
#[inline]
pub fn encode_publish(
    out: &mut Vec<u8>,
    seq: u64,
    queue: &str,
    producer: Option<(u64, u64, u64)>,
    bodies: &[&[u8]],
) {
    encode(out, seq, queue, producer, bodies, 0, &[]);
}

/// Appends the PUBLISH that ends a message in parts: `end` is the rest behind the `parts_bytes` bytes that went in PARTs.
pub fn encode_publish_end(
    out: &mut Vec<u8>,
    seq: u64,
    queue: &str,
    producer: Option<(u64, u64, u64)>,
    parts_bytes: u32,
    end: &[u8],
) {
    encode(out, seq, queue, producer, &[end], parts_bytes, &[]);
}

/// Appends the PUBLISH of `bodies` that acks `leases`, at most [`limits::BATCH_MESSAGES_MAX`]. With `parts_bytes` it ends
/// one message in parts, as [`encode_publish_end`] does. The credit of what is acked is the client's to give back.
pub fn encode_ack_and_publish(
    out: &mut Vec<u8>,
    seq: u64,
    queue: &str,
    producer: Option<(u64, u64, u64)>,
    leases: &[LeaseId],
    bodies: &[&[u8]],
    parts_bytes: u32,
) {
    encode(out, seq, queue, producer, bodies, parts_bytes, leases);
}

fn encode(
    out: &mut Vec<u8>,
    seq: u64,
    queue: &str,
    producer: Option<(u64, u64, u64)>,
    bodies: &[&[u8]],
    parts_bytes: u32,
    acks: &[LeaseId],
) {
    let mut payload_len = varint_field_len(seq) + bytes_field_len(queue.len());
    payload_len += varint_field_len(u64::from(parts_bytes));
    payload_len += acks.iter().map(|&lease| lease_field_len(lease)).sum::<usize>();
    payload_len += bodies.iter().map(|body| bytes_field_len(body.len())).sum::<usize>();
    if let Some((_, sequence, unanswered_from)) = producer {
        payload_len += PRODUCER_FIELD_BYTES + varint_field_len(sequence) + varint_field_len(unanswered_from);
    }
    out.reserve(payload_len + 5);
    put_header(out, Kind::Publish, payload_len);
    let payload_at = out.len();
    put_varint_field(out, 1, seq);
    put_bytes_field(out, 2, queue.as_bytes());
    for body in bodies {
        put_bytes_field(out, 3, body);
    }
    if let Some((producer_id, sequence, unanswered_from)) = producer {
        out.push(key(4, FIXED64));
        out.extend_from_slice(&producer_id.to_le_bytes());
        put_varint_field(out, 5, sequence);
        put_varint_field(out, 6, unanswered_from);
    }
    put_varint_field(out, 7, u64::from(parts_bytes));
    for &lease in acks {
        put_lease_field(out, ACKS as u8, lease);
    }
    debug_assert_eq!(out.len() - payload_at, payload_len);
}

/// Appends a PUBLISH_ACK without refusal: the requests `seq` to `seq + more` are on disk, `messages` messages
/// whose ids follow `first_id`.
#[inline]
pub fn encode_publish_ack(out: &mut Vec<u8>, seq: u64, more: u32, first_id: u64, messages: u32) {
    let frame = ShortFrame::begin(out, Kind::PublishAck, 2 * 11 + 2 * 6);
    put_varint_field(out, 1, seq);
    put_varint_field(out, 2, u64::from(more));
    put_varint_field(out, 3, first_id);
    put_varint_field(out, 4, u64::from(messages));
    frame.finish(out);
}

/// Appends a REPLY of `CODE_OK` to the requests `seq` to `seq + more`.
#[inline]
pub fn encode_reply_ok(out: &mut Vec<u8>, seq: u64, more: u32) {
    let frame = ShortFrame::begin(out, Kind::Reply, 11 + 6);
    put_varint_field(out, 1, seq);
    put_varint_field(out, 2, u64::from(more));
    frame.finish(out);
}
