//! What a client asks for, whatever protocol it speaks.

use crate::ids::{LeaseId, NameError, ProducerId, QueueName, SubscriptionId};
use crate::mail::{ProducerSequence, Settlement};

/// Who the client says it is, and what it wants of the session.
#[derive(Debug, Clone, Default)]
pub struct Hello<'a> {
    /// Empty for the default one.
    pub namespace: &'a str,
    /// As chosen by the client.
    pub client_id: &'a str,
    /// What it proves itself with.
    pub credential: &'a [u8],
    /// The heartbeat it wants in milliseconds; 0 leaves it to the server.
    pub heartbeat_ms: u32,
    /// It wants an answer to every so manieth PING only; 0 and 1: to each.
    pub pong_every: u32,
    /// Client and server have a dictionary in common.
    pub compression: bool,
    /// Empty when it starts anew.
    pub resume_token: &'a [u8],
    /// Leases it still holds.
    pub leases: Vec<LeaseId>,
}

/// One thing a client wants.
#[derive(Debug)]
pub enum Request {
    /// To be known as alive.
    Ping,
    /// To put messages on a queue.
    Publish(Publishing),
    /// To send the next bytes of a message that a later publish ends.
    Part {
        /// How many.
        bytes: u32,
    },
    /// To consume from a queue.
    Subscribe(Subscribing),
    /// To consume no more.
    Unsubscribe {
        /// The client's number for the request.
        seq: u64,
        /// Which.
        subscription: SubscriptionId,
    },
    /// To receive more.
    Credit {
        /// On which subscription.
        subscription: SubscriptionId,
        /// Messages.
        messages: u32,
        /// Bytes.
        bytes: u64,
    },
    /// To say how work went.
    Settle(Settling),
    /// To leave for good.
    Bye {
        /// A producer to forget.
        retired_producer: Option<ProducerId>,
    },
}

/// Messages for a queue; the bodies stay with whoever received them.
#[derive(Debug)]
pub struct Publishing {
    /// The client's number for the request.
    pub seq: u64,
    /// Where to, or why the name is none.
    pub queue: Result<QueueName, NameError>,
    /// Set when re-sends are to be deduplicated.
    pub producer: Option<ProducerSequence>,
    /// How many.
    pub messages: u32,
    /// Bytes of their bodies in all, but for what came in parts before.
    pub bytes: u32,
}

/// A new consumer.
#[derive(Debug)]
pub struct Subscribing {
    /// The client's number for the request.
    pub seq: u64,
    /// The client's number for the subscription.
    pub subscription: SubscriptionId,
    /// What from, or why the name is none.
    pub queue: Result<QueueName, NameError>,
    /// Messages it is willing to receive.
    pub credit_messages: u32,
    /// Bytes it is willing to receive.
    pub credit_bytes: u64,
}

/// What is said about leases; the leases stay with whoever received them.
#[derive(Debug)]
pub struct Settling {
    /// The client's number for the request.
    pub seq: u64,
    /// What happens to them.
    pub settlement: Settlement,
    /// How many leases.
    pub leases: u32,
    /// Give their credit back.
    pub replenish: bool,
}

/// What becomes of a request that keeps to the protocol.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It goes on to where it is carried out.
    Pass,
    /// It is answered with a refusal that says this; the connection stays.
    Refuse(String),
}

/// Why a connection ends by its client's doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// For programs.
    pub reason: Reason,
    /// For people: what was wrong and what is allowed.
    pub text: String,
}

/// The kinds of [`Denied`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Something at the wrong time.
    Unexpected,
    /// A value that is not allowed.
    Invalid,
    /// The credential does not open the namespace.
    Unauthenticated,
    /// More unanswered than the window allows.
    WindowExceeded,
}
