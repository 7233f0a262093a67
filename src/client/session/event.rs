//! What a session tells its owner.

use std::time::Duration;

use super::Settlement;
use crate::client::{Broken, Silence, Verdict};
use crate::ids::{LeaseId, MessageId, SubscriptionId};
use crate::wire::{BroadcastDelivery, DeliverView, Delivery, proto};

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The socket broke or could not be connected.
    #[error("the connection broke")]
    Broke,
    /// The server would not have the session.
    #[error("the server refused the session: {text} ({code:?})")]
    Rejected {
        /// Why.
        code: proto::Code,
        /// Why, in words.
        text: String,
    },
    /// The server wanted the client to leave.
    #[error("the server asked to leave: {text} ({code:?})")]
    GoAway {
        /// Why.
        code: proto::Code,
        /// Why, in words.
        text: String,
    },
    /// The server ended the connection over a fault.
    #[error("the server ended the connection: {text} ({code:?})")]
    ServerError {
        /// Which.
        code: proto::Code,
        /// Which, in words.
        text: String,
    },
    /// The server was silent.
    #[error(transparent)]
    Silent(#[from] Silence),
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(#[from] Broken),
    /// The client said BYE.
    #[error("the client said goodbye")]
    Bye,
}

/// What happened to the client.
#[derive(Debug)]
pub enum SessionEvent<'a> {
    /// Connected and welcome.
    Up {
        /// The session went on: leases held are still held. False at the first connection.
        resumed: bool,
    },
    /// A publish is on disk, or one to a topic was handed on.
    Published {
        /// As [`Session::publish`](crate::client::Session::publish) returned it.
        sequence: u64,
        /// How many messages it had.
        messages: u32,
        /// The id of the first one; the others follow by 1. 0 of a topic.
        first_id: MessageId,
        /// Of a topic: the subscriptions it was handed to, which may still miss it.
        subscribers: u64,
    },
    /// A publish was refused as a whole and is not on disk. Publishing it again gives it a new sequence.
    PublishRefused {
        /// As [`Session::publish`](crate::client::Session::publish) returned it.
        sequence: u64,
        /// How many messages it had.
        messages: u32,
        /// Why, and when to try again.
        refusal: proto::Refusal,
    },
    /// A subscription stands on this connection.
    Subscribed(SubscriptionId),
    /// A subscription was refused and is forgotten.
    SubscribeRefused {
        /// Which.
        subscription: SubscriptionId,
        /// Why.
        code: proto::Code,
        /// Why, in words.
        text: String,
    },
    /// A subscription ended.
    Unsubscribed(SubscriptionId),
    /// Messages to work on.
    Delivered(Deliveries<'a>),
    /// Leases were acked, nacked or extended, durably.
    Settled {
        /// Which.
        leases: Vec<LeaseId>,
        /// What was asked for.
        settlement: Settlement,
        /// Those that were not the newest of their message any more: for them nothing was done now.
        lost: Vec<LeaseId>,
        /// The request was sent again after a reconnect: what is in `lost` may have counted the first time.
        resent: bool,
    },
    /// A request to ack, nack or extend was refused.
    SettleRefused {
        /// Which leases.
        leases: Vec<LeaseId>,
        /// What was asked for.
        settlement: Settlement,
        /// Why.
        code: proto::Code,
        /// Why, in words.
        text: String,
    },
    /// The server answered a heartbeat.
    Pong {
        /// How long that took; `None` when several were on their way.
        rtt: Option<Duration>,
    },
    /// The connection is ending; [`Session::link`](crate::client::Session::link) says what to do.
    Ending(Ended),
    /// A frame with nothing to tell.
    Quiet,
}

/// The deliveries of one frame that are new to this client.
#[derive(Debug)]
pub struct Deliveries<'a> {
    pub(super) view: DeliverView<'a>,
    /// Leases held already.
    pub(super) repeated: Vec<LeaseId>,
}

impl<'a> Deliveries<'a> {
    /// Each delivery, in order.
    pub fn iter(&self) -> impl Iterator<Item = Delivery<'a>> + '_ {
        self.view.deliveries().filter(|delivery| !self.repeated.contains(&delivery.lease))
    }

    /// Each message of a topic, in order. There is nothing to answer.
    pub fn broadcasts(&self) -> impl Iterator<Item = BroadcastDelivery<'a>> + '_ {
        self.view.broadcasts()
    }
}

/// What [`Session::lost`](crate::client::Session::lost) found and decided.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Why the connection ended.
    pub why: Ended,
    /// Whether and when there will be another.
    pub verdict: Verdict,
}
