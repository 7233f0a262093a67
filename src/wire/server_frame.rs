//! What the server sends, decoded by a client.

use crate::limits;
use crate::wire::client_frame::{decode_flat, decode_walked};
use crate::wire::fields::{Fields, count};
use crate::wire::lease::decode_lease;
use crate::wire::{DeliverView, Fault, Kind, PartView, proto};

/// A frame from the server, every limit checked.
#[derive(Debug)]
pub enum ServerFrame<'a> {
    /// The session is accepted.
    Welcome(Box<proto::Welcome>),
    /// The session is refused.
    Reject(proto::Reject),
    /// Answers a heartbeat.
    Pong(proto::Pong),
    /// Answers publishes.
    PublishAck(proto::PublishAck),
    /// Answers other requests.
    Reply(proto::Reply),
    /// Messages for a consumer.
    Deliver(DeliverView<'a>),
    /// The next bytes of a message that is larger than a frame.
    Part(PartView<'a>),
    /// The client is to leave.
    GoAway(proto::GoAway),
    /// The last frame after a fault.
    Error(proto::Error),
}

impl<'a> ServerFrame<'a> {
    /// Decodes a decompressed payload.
    ///
    /// # Errors
    /// [`Fault`] says what the server did wrong.
    pub fn decode(kind: Kind, payload: &'a [u8]) -> Result<Self, Fault> {
        match kind {
            Kind::Deliver => DeliverView::decode(payload).map(Self::Deliver),
            Kind::PublishAck => decode_publish_ack(payload).map(Self::PublishAck),
            Kind::Reply => decode_reply(payload).map(Self::Reply),
            Kind::Pong => decode_flat("Pong", payload).map(Self::Pong),
            Kind::Part => PartView::decode(payload).map(Self::Part),
            Kind::Welcome => decode_welcome(payload).map(Self::Welcome),
            Kind::Reject => {
                check_text("Reject", "Reject.text", payload)?;
                decode_walked("Reject", payload).map(Self::Reject)
            }
            Kind::GoAway => {
                check_text("GoAway", "GoAway.text", payload)?;
                decode_walked("GoAway", payload).map(Self::GoAway)
            }
            Kind::Error => {
                check_text("Error", "Error.text", payload)?;
                decode_walked("Error", payload).map(Self::Error)
            }
            _ => Err(Fault::WrongSender(kind)),
        }
    }
}

/// Walks a message whose field 2 is the text beside a code.
fn check_text(message: &'static str, what: &'static str, payload: &[u8]) -> Result<(), Fault> {
    let mut fields = Fields::new(message, payload);
    while let Some(field) = fields.next()? {
        if field.number == 2 {
            field.text_at_most(what, limits::TEXT_BYTES_MAX)?;
        }
    }
    Ok(())
}

fn decode_welcome(payload: &[u8]) -> Result<Box<proto::Welcome>, Fault> {
    let mut fields = Fields::new("Welcome", payload);
    while let Some(field) = fields.next()? {
        if field.number == 8 {
            field.bytes_at_most("Welcome.resume_token", limits::RESUME_TOKEN_BYTES_MAX)?;
        }
    }
    decode_walked("Welcome", payload).map(Box::new)
}

fn decode_publish_ack(payload: &[u8]) -> Result<proto::PublishAck, Fault> {
    let mut lost = 0;
    let mut fields = Fields::new("PublishAck", payload);
    while let Some(field) = fields.next()? {
        if field.number == 5 {
            check_text("Refusal", "Refusal.text", field.bytes()?)?;
            check_lost(&mut lost, field.bytes()?)?;
        }
    }
    decode_walked("PublishAck", payload)
}

/// Counts the leases of a refusal; protobuf joins several of them into one.
fn check_lost(lost: &mut usize, refusal: &[u8]) -> Result<(), Fault> {
    let mut fields = Fields::new("Refusal", refusal);
    while let Some(field) = fields.next()? {
        if field.number == 4 {
            count(lost, "Refusal.lost", limits::BATCH_MESSAGES_MAX)?;
            decode_lease(field.bytes()?)?;
        }
    }
    Ok(())
}

fn decode_reply(payload: &[u8]) -> Result<proto::Reply, Fault> {
    let mut lost = 0;
    let mut fields = Fields::new("Reply", payload);
    while let Some(field) = fields.next()? {
        match field.number {
            4 => {
                field.text_at_most("Reply.text", limits::TEXT_BYTES_MAX)?;
            }
            5 => {
                count(&mut lost, "Reply.lost", limits::BATCH_MESSAGES_MAX)?;
                decode_lease(field.bytes()?)?;
            }
            _ => {}
        }
    }
    decode_walked("Reply", payload)
}
