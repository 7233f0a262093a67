//! What a published message says of itself, read where it lies.
//!
//! Knows the encoding of one message and neither frames nor queues. What every message may have is copied into a [`MessageHeader`]; what few have stays in the encoded message, where
//! [`message_options`] finds it again.

use std::time::Duration;

use prost::encoding::{WireType, encode_key, encode_varint};

use crate::clock::Wall;
use crate::limits;
use crate::mail::MessageHeader;
use crate::wire::Fault;
use crate::wire::fields::{Field, Fields, count, in_range};

/// Reads and checks an encoded `Message`; the payload is not looked at.
///
/// # Errors
/// It has more than `message_bytes_max` bytes, is not a protobuf message, breaks one of the limits that stand in
/// `message.proto`, or uses the fields 14 and 15.
pub fn message_header(body: &[u8], message_bytes_max: usize) -> Result<MessageHeader, Fault> {
    if body.len() > message_bytes_max {
        return Err(Fault::TooLong { what: "Message", bytes: body.len(), max: message_bytes_max });
    }
    let mut header = MessageHeader::default();
    let mut priority = 0;
    let mut attempts_max = 0;
    let mut attributes = 0;
    let mut fields = Fields::new("Message", body);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => {
                field.bytes_at_most("Message.payload", limits::PAYLOAD_BYTES_MAX)?;
            }
            2 => {
                count(&mut attributes, "Message.attributes", limits::ATTRIBUTES_MAX)?;
                check_attribute(field.bytes()?)?;
            }
            3 => priority = field.varint()?,
            4 => header.delay_ms = field.varint()?,
            5 => header.due = Wall(field.varint()?),
            6 => header.ttl_ms = field.varint()?,
            7 => attempts_max = field.varint()?,
            8 => {
                field.text_at_most("Message.trace_context", limits::TRACE_CONTEXT_BYTES_MAX)?;
            }
            9..=13 => {
                check_option(&field)?;
                header.has_options = true;
            }
            14..=15 => return Err(Fault::Unsupported { field: field.number }),
            _ => {}
        }
    }
    in_range("Message.priority (encoded as priority + 1)", priority, 0, limits::PRIORITIES as u64)?;
    in_range("Message.delay_ms", header.delay_ms, 0, limits::DELAY_MAX.as_millis() as u64)?;
    in_range("Message.attempts_max", attempts_max, 0, u64::from(limits::ATTEMPTS_MAX))?;
    header.priority = priority.checked_sub(1).map_or(limits::PRIORITY_DEFAULT, |priority| priority as u8);
    header.attempts_max = attempts_max as u32;
    Ok(header)
}

/// What few messages say of themselves. A text is empty, a number `None`, where it is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageOptions<'a> {
    /// Messages of a queue with the same one are delivered one at a time, in order.
    pub order_key: &'a str,
    /// Whose turn a delivery counts as.
    pub fair_key: &'a str,
    /// Messages of a queue with the same one are kept once.
    pub dedup_id: &'a str,
    /// How it is retried, as far as it does not leave that to its queue.
    pub retry: RetryOptions,
    /// How long its leases last.
    pub lease: Option<Duration>,
}

/// How a message wants to be retried; `None` leaves it to its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOptions {
    /// The first delay.
    pub initial: Option<Duration>,
    /// The next delay as a part of the one before, in percent.
    pub factor_percent: Option<u32>,
    /// The longest delay, before jitter.
    pub max: Option<Duration>,
    /// Up to this part of the delay is added at random, in percent.
    pub jitter_percent: Option<u32>,
}

/// The options of a message whose header was checked and has some; those it has not are left out.
#[must_use]
pub fn message_options(body: &[u8]) -> MessageOptions<'_> {
    let mut options = MessageOptions::default();
    let mut fields = Fields::new("Message", body);
    while let Ok(Some(field)) = fields.next() {
        let text =
            || field.bytes().ok().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        match field.number {
            9 => options.order_key = text(),
            10 => options.fair_key = text(),
            11 => options.dedup_id = text(),
            12 => options.retry = retry_options(field.bytes().unwrap_or_default()).unwrap_or_default(),
            13 => options.lease = field.varint().ok().filter(|&ms| ms > 0).map(Duration::from_millis),
            _ => {}
        }
    }
    options
}

/// Name and value of every attribute of a message whose header was checked.
pub fn message_attributes(body: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let mut fields = Fields::new("Message", body);
    std::iter::from_fn(move || {
        while let Ok(Some(field)) = fields.next() {
            if field.number == 2 {
                return field.bytes().ok().and_then(|entry| attribute(entry).ok());
            }
        }
        None
    })
}

/// An encoded message that has these attributes, in this order, and this payload: what the server itself tells.
#[must_use]
pub fn event_message(attributes: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(64 + payload.len() * 2);
    if !payload.is_empty() {
        append_field(&mut message, 1, payload);
    }
    attributes.iter().for_each(|(name, value)| append_attribute(&mut message, name, value));
    message
}

/// Adds an attribute to an encoded message.
pub fn append_attribute(message: &mut Vec<u8>, name: &str, value: &str) {
    let mut entry = Vec::with_capacity(name.len() + value.len() + 8);
    append_field(&mut entry, 1, name.as_bytes());
    append_field(&mut entry, 2, value.as_bytes());
    append_field(message, 2, &entry);
}

fn append_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn check_option(field: &Field<'_>) -> Result<(), Fault> {
    match field.number {
        9 => field.text_at_most("Message.order_key", limits::ORDER_KEY_BYTES_MAX).map(|_| ()),
        10 => field.text_at_most("Message.fair_key", limits::FAIR_KEY_BYTES_MAX).map(|_| ()),
        11 => field.text_at_most("Message.dedup_id", limits::DEDUP_ID_BYTES_MAX).map(|_| ()),
        12 => retry_options(field.bytes()?).map(|_| ()),
        _ => in_range("Message.lease_ms", field.varint()?, 0, limits::LEASE_MAX.as_millis() as u64),
    }
}

fn retry_options(encoded: &[u8]) -> Result<RetryOptions, Fault> {
    let delay_max = limits::NACK_DELAY_MAX.as_millis() as u64;
    let (factor_min, factor_max) = limits::BACKOFF_FACTOR_PERCENT;
    let mut retry = RetryOptions::default();
    let mut fields = Fields::new("Retry", encoded);
    while let Some(field) = fields.next()? {
        let value = field.varint()?;
        match field.number {
            1 => {
                in_range("Retry.initial_ms", value, 0, delay_max)?;
                retry.initial = Some(Duration::from_millis(value));
            }
            2 => {
                in_range("Retry.factor_percent", value, factor_min.into(), factor_max.into())?;
                retry.factor_percent = Some(value as u32);
            }
            3 => {
                in_range("Retry.max_ms", value, 0, delay_max)?;
                retry.max = Some(Duration::from_millis(value));
            }
            4 => {
                in_range("Retry.jitter_percent", value, 0, 100)?;
                retry.jitter_percent = Some(value as u32);
            }
            _ => {}
        }
    }
    Ok(retry)
}

/// Checks one entry of `Message.attributes`.
fn check_attribute(entry: &[u8]) -> Result<(), Fault> {
    let (name, value) = attribute(entry)?;
    let (bytes, max) = (name.len() + value.len(), limits::ATTRIBUTE_BYTES_MAX);
    if bytes > max { Err(Fault::TooLong { what: ATTRIBUTE, bytes, max }) } else { Ok(()) }
}

const ATTRIBUTE: &str = "name and value of an attribute in Message.attributes";

fn attribute(entry: &[u8]) -> Result<(&str, &str), Fault> {
    let (mut name, mut value) = ("", "");
    let mut fields = Fields::new("Message.attributes", entry);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => name = field.text_at_most(ATTRIBUTE, limits::ATTRIBUTE_BYTES_MAX)?,
            2 => value = field.text_at_most(ATTRIBUTE, limits::ATTRIBUTE_BYTES_MAX)?,
            _ => {}
        }
    }
    Ok((name, value))
}
