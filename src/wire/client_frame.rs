//! What a client sends, decoded by the server.
//!
//! The frames of the message path are read in place. The others become prost structs, but only after a walk over
//! their fields has counted what repeats and measured what is bounded: prost allocates for each of a million empty
//! sub-messages, the walk does not.

use prost::Message;

use crate::limits;
use crate::wire::deliver::subscription_id;
use crate::wire::fault::Problem;
use crate::wire::fields::{Fields, count};
use crate::wire::lease::decode_lease;
use crate::wire::{Fault, Kind, PartView, PublishView, SettleView, proto};

/// A frame from a client, every limit checked but those that need a session or a clock.
#[derive(Debug)]
pub enum ClientFrame<'a> {
    /// The first frame.
    Hello(Box<proto::Hello>),
    /// A heartbeat: the payload, checked to decode as a [`proto::Ping`] for whoever wants its telemetry.
    Ping(&'a [u8]),
    /// Messages for a queue.
    Publish(PublishView<'a>),
    /// The next bytes of a message that is larger than a frame.
    Part(PartView<'a>),
    /// A new consumer. The subscription is 1 to 65,535.
    Subscribe(proto::Subscribe),
    /// A consumer that ends. The subscription is 1 to 65,535.
    Unsubscribe(proto::Unsubscribe),
    /// More credit. The subscription is 1 to 65,535.
    Credit(proto::Credit),
    /// Work is done.
    Ack(SettleView<'a>),
    /// Work failed.
    Nack(SettleView<'a>),
    /// Work takes longer.
    Extend(SettleView<'a>),
    /// The client leaves.
    Bye(proto::Bye),
}

impl<'a> ClientFrame<'a> {
    /// Decodes a decompressed payload.
    ///
    /// # Errors
    /// [`Fault`] says what the client did wrong.
    #[inline]
    pub fn decode(kind: Kind, payload: &'a [u8]) -> Result<Self, Fault> {
        match kind {
            Kind::Publish => Ok(Self::Publish(PublishView::decode(payload)?)),
            Kind::Ack => Ok(Self::Ack(SettleView::decode_ack(payload)?)),
            Kind::Ping => check_ping(payload).map(|()| Self::Ping(payload)),
            Kind::Nack => Ok(Self::Nack(SettleView::decode_nack(payload)?)),
            Kind::Extend => Ok(Self::Extend(SettleView::decode_extend(payload)?)),
            _ => Self::decode_rare(kind, payload),
        }
    }

    fn decode_rare(kind: Kind, payload: &'a [u8]) -> Result<Self, Fault> {
        match kind {
            Kind::Part => PartView::decode(payload).map(Self::Part),
            Kind::Hello => decode_hello(payload).map(Self::Hello),
            Kind::Subscribe => decode_subscribe(payload).map(Self::Subscribe),
            Kind::Unsubscribe => {
                let message: proto::Unsubscribe = decode_flat("Unsubscribe", payload)?;
                subscription_id("Unsubscribe.subscription", u64::from(message.subscription))?;
                Ok(Self::Unsubscribe(message))
            }
            Kind::Credit => {
                let message: proto::Credit = decode_flat("Credit", payload)?;
                subscription_id("Credit.subscription", u64::from(message.subscription))?;
                Ok(Self::Credit(message))
            }
            Kind::Bye => decode_flat("Bye", payload).map(Self::Bye),
            _ => Err(Fault::WrongSender(kind)),
        }
    }
}

/// Decodes a message whose payload was walked before.
pub(super) fn decode_walked<M: Message + Default>(message: &'static str, payload: &[u8]) -> Result<M, Fault> {
    M::decode(payload).map_err(|_| Fault::Malformed { message, problem: Problem::Fields })
}

/// Decodes a message that holds numbers only.
pub(super) fn decode_flat<M: Message + Default>(message: &'static str, payload: &[u8]) -> Result<M, Fault> {
    let mut fields = Fields::new(message, payload);
    while fields.next()?.is_some() {}
    decode_walked(message, payload)
}

fn decode_hello(payload: &[u8]) -> Result<Box<proto::Hello>, Fault> {
    let mut dictionaries = 0;
    let mut leases = 0;
    let mut fields = Fields::new("Hello", payload);
    while let Some(field) = fields.next()? {
        match field.number {
            3 => {
                field.text_at_most("Hello.namespace", limits::NAMESPACE_BYTES_MAX)?;
            }
            4 => {
                field.text_at_most("Hello.client_id", limits::CLIENT_ID_BYTES_MAX)?;
            }
            5 => {
                field.bytes_at_most("Hello.credential", limits::CREDENTIAL_BYTES_MAX)?;
            }
            7 => {
                let max = limits::HELLO_DICTIONARIES_MAX;
                field.count_numbers(&mut dictionaries, "Hello.dictionaries", max)?;
            }
            8 => {
                field.bytes_at_most("Hello.resume_token", limits::RESUME_TOKEN_BYTES_MAX)?;
            }
            9 => {
                count(&mut leases, "Hello.leases", limits::HELLO_LEASES_MAX)?;
                // Prost would cut what does not fit 32 bits, and a cut lease may be another one.
                decode_lease(field.bytes()?)?;
            }
            _ => {}
        }
    }
    decode_walked("Hello", payload).map(Box::new)
}

fn decode_subscribe(payload: &[u8]) -> Result<proto::Subscribe, Fault> {
    let mut fields = Fields::new("Subscribe", payload);
    while let Some(field) = fields.next()? {
        if field.number == 3 {
            field.text_at_most("Subscribe.queue", limits::QUEUE_NAME_BYTES_MAX)?;
        }
    }
    let message: proto::Subscribe = decode_walked("Subscribe", payload)?;
    subscription_id("Subscribe.subscription", u64::from(message.subscription))?;
    if message.queue.is_empty() { Err(Fault::Missing { what: "Subscribe.queue" }) } else { Ok(message) }
}

/// Checks a heartbeat's telemetry without keeping any of it.
#[inline]
fn check_ping(payload: &[u8]) -> Result<(), Fault> {
    let (mut names, mut values) = (0, 0);
    let mut fields = Fields::new("Ping", payload);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => field.fixed32()?,
            2 | 3 => {
                field.varint()?;
            }
            4 => {
                count(&mut names, "Ping.names", limits::PING_READINGS_MAX)?;
                field.text_at_most("Ping.names", limits::READING_NAME_BYTES_MAX)?;
            }
            5 => field.count_numbers(&mut values, "Ping.values", limits::PING_READINGS_MAX)?,
            _ => {}
        }
    }
    if names == values {
        Ok(())
    } else {
        let (value, names) = (values as u64, names as u64);
        Err(Fault::OutOfRange { what: "the number of Ping.values", value, min: names, max: names })
    }
}

impl proto::Ping {
    /// Adds a reading; a heartbeat holds at most [`limits::PING_READINGS_MAX`], each name having at most
    /// [`limits::READING_NAME_BYTES_MAX`] bytes.
    pub fn push_reading(&mut self, name: impl Into<String>, value: i64) {
        self.names.push(name.into());
        self.values.push(value);
    }
}
