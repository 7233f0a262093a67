//! The part of a published message that a queue needs to know, read in one pass.

use crate::clock::Wall;
use crate::limits;
use crate::mail::MessageHeader;
use crate::wire::Fault;
use crate::wire::fields::{Fields, count, in_range};

/// Reads and checks an encoded `Message`; the payload is not looked at.
///
/// # Errors
/// It has more than `message_bytes_max` bytes, is not a protobuf message, breaks one of the limits that stand in
/// `message.proto`, or uses the fields 9 to 15.
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
            9..=15 => return Err(Fault::Unsupported { field: field.number }),
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

/// Checks one entry of `Message.attributes`.
fn check_attribute(entry: &[u8]) -> Result<(), Fault> {
    const WHAT: &str = "name and value of an attribute in Message.attributes";
    let mut name_len = 0;
    let mut value_len = 0;
    let mut fields = Fields::new("Message.attributes", entry);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => name_len = field.text_at_most(WHAT, limits::ATTRIBUTE_BYTES_MAX)?.len(),
            2 => value_len = field.text_at_most(WHAT, limits::ATTRIBUTE_BYTES_MAX)?.len(),
            _ => {}
        }
    }
    let (bytes, max) = (name_len + value_len, limits::ATTRIBUTE_BYTES_MAX);
    if bytes > max { Err(Fault::TooLong { what: WHAT, bytes, max }) } else { Ok(()) }
}
