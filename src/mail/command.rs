//! What a loop asks of a shard.

use crate::clock::Wall;
use crate::ids::{
    ClientId, ConnKey, Epoch, LeaseId, LoopId, Namespace, ProducerId, QueueName, SubscriptionId,
};
use crate::mail::OperatorRequest;

/// One thing asked of a shard. Which client asks is known from its connection, which the shard maps to the
/// client at [`Command::Attach`]; a command of a connection that was taken over or never attached is dropped.
#[derive(Debug)]
pub enum Command {
    /// An authenticated client said HELLO. Answered with `Attached` or `AttachRefused`.
    Attach(Box<Attach>),
    /// The connection is gone. Not answered.
    Detach(Detach),
    /// Answered with `PublishAcked` or `PublishRefused` once durable; where its queue is a topic, with `Broadcasted` or
    /// `PublishRefused`, at once unless a binding took it; with `LeasesLost` where it acks leases that are. Owns the batch's
    /// next `messages` messages and `acks` leases.
    Publish(Publish),
    /// Answered with `Settled`. Owns the batch's next `leases` leases.
    Settle(Settle),
    /// Answered with `Settled`, where `queue` is a topic with `Topics` before it.
    Subscribe {
        /// The consumer's connection.
        conn: ConnKey,
        /// The request, for its reply.
        seq: u64,
        /// The client's number for the subscription.
        subscription: SubscriptionId,
        /// What to consume from; of mailboxes the client's own.
        queue: QueueName,
        /// Messages it is willing to receive.
        credit_messages: u32,
        /// Bytes it is willing to receive; `u64::MAX` for no bound.
        credit_bytes: u64,
    },
    /// Answered with `Settled`, where the subscription is one to a topic with `Topics` before it.
    Unsubscribe {
        /// The consumer's connection.
        conn: ConnKey,
        /// The request, for its reply.
        seq: u64,
        /// The subscription to end.
        subscription: SubscriptionId,
    },
    /// Raises the credit of a subscription. Not answered.
    Credit {
        /// The consumer's connection.
        conn: ConnKey,
        /// Which subscription.
        subscription: SubscriptionId,
        /// Messages added.
        messages: u32,
        /// Bytes added.
        bytes: u64,
    },
    /// Deliveries that the connection would not take: they are ready again without the attempt being counted, and
    /// their credit is given back once the next `Resupply` of that connection says so. Owns `leases` leases.
    Return {
        /// The connection that would not take them.
        conn: ConnKey,
        /// How many of the batch's leases.
        leases: u32,
    },
    /// A connection whose room was low, or that returned deliveries, has little to send and takes more. Not answered.
    Resupply {
        /// The connection whose output has drained.
        conn: ConnKey,
    },
    /// A delivery is still on its way to its consumer, in parts: its lease lasts anew. Not answered.
    Renew {
        /// The connection it goes to.
        conn: ConnKey,
        /// Its lease.
        lease: LeaseId,
    },
    /// A loop has handed broadcasts of a tenant to all its subscribed connections. Not answered.
    BroadcastsDone {
        /// Which loop.
        loop_id: LoopId,
        /// Whose they were.
        namespace: u32,
        /// Their [charges](crate::mail::Broadcast::charge), together.
        bytes: u64,
    },
    /// From the operator API; `conn.slot` numbers the request. Answered with `Effect::Operator`.
    Operator {
        /// `conn.loop_id` is [`crate::ids::LoopId::OPERATOR`].
        conn: ConnKey,
        /// What is asked.
        request: Box<OperatorRequest>,
    },
}

/// A client that proved who it is.
#[derive(Debug)]
pub struct Attach {
    /// Its connection.
    pub conn: ConnKey,
    /// Its tenant.
    pub namespace: Namespace,
    /// Its name.
    pub client: ClientId,
    /// Set when it presented a resume token that is authentic; whether it is current is the shard's to say.
    pub resume: Option<Resume>,
}

/// What a resuming client brings back.
#[derive(Debug)]
pub struct Resume {
    /// The epoch its token was made for.
    pub epoch: Epoch,
    /// The session id its token was made for.
    pub session_id: u64,
    /// Leases it still holds.
    pub leases: Vec<LeaseId>,
}

/// A connection that is gone.
#[derive(Debug)]
pub struct Detach {
    /// Which.
    pub conn: ConnKey,
    /// The client said BYE: the session ends now instead of after the grace period.
    pub bye: bool,
    /// Why, for who watches.
    pub reason: DetachReason,
    /// A producer whose every sequence is answered, to be forgotten.
    pub retired_producer: Option<ProducerId>,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetachReason {
    /// The client said goodbye.
    Bye,
    /// The socket was closed or reset.
    ConnectionLost,
    /// The client's heartbeats stayed away.
    HeartbeatMissed,
    /// The client broke the protocol.
    Fault,
    /// The client did not take what it was sent.
    TooSlow,
    /// The server sent it away, to come back another time.
    SentAway,
}

impl DetachReason {
    /// As `$sys.presence` tells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bye => "bye",
            Self::ConnectionLost => "connection_lost",
            Self::HeartbeatMissed => "heartbeat_missed",
            Self::Fault => "fault",
            Self::TooSlow => "too_slow",
            Self::SentAway => "sent_away",
        }
    }
}

/// Messages for one queue, all or none.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The producer's connection.
    pub conn: ConnKey,
    /// The request, for its reply.
    pub seq: u64,
    /// Where to.
    pub queue: QueueName,
    /// Set when the producer wants its re-sends deduplicated.
    pub producer: Option<ProducerSequence>,
    /// How many of the batch's messages, at least 1.
    pub messages: u32,
    /// How many of the batch's leases are acked with it.
    pub acks: u32,
    /// Give the credit of what is acked back to its subscriptions.
    pub replenish: bool,
}

/// Where a publish stands in its producer's own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerSequence {
    /// The producer.
    pub producer: ProducerId,
    /// The sequence of the first message; the others follow by 1. From 1.
    pub sequence: u64,
    /// The lowest sequence the producer has no answer for.
    pub unanswered_from: u64,
}

/// One message on its way into a queue. Its body lies in [`CommandBatch::bodies`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishMessage {
    /// What the queue needs to know of it.
    pub header: MessageHeader,
    /// Length of the encoded `Message` in bytes.
    pub body_len: u32,
}

/// The part of a message that the queue reads; checked against the limits where it entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageHeader {
    /// 0 to 9, higher first.
    pub priority: u8,
    /// Deliver no sooner than this after the publish.
    pub delay_ms: u64,
    /// Or no sooner than this; 0 when not asked for.
    pub due: Wall,
    /// Dead-letter as expired after this; 0 leaves it to the queue.
    pub ttl_ms: u64,
    /// 0 leaves it to the queue.
    pub attempts_max: u32,
    /// The message itself says more: a key, or how it is to be retried or leased ([`crate::message::message_options`]).
    pub has_options: bool,
}

/// What a consumer says about leases it holds.
#[derive(Debug)]
pub struct Settle {
    /// The consumer's connection.
    pub conn: ConnKey,
    /// The request, for its reply.
    pub seq: u64,
    /// What happens to them.
    pub settlement: Settlement,
    /// How many of the batch's leases.
    pub leases: u32,
    /// Give the credit of these deliveries back to their subscriptions, as far as their leases count.
    pub replenish: bool,
}

/// What happens to a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The work is done.
    Ack,
    /// The work failed.
    Nack {
        /// Instead of the queue's backoff.
        delay_ms: Option<u64>,
        /// Kept with the message, at most [`crate::limits::ERROR_TEXT_BYTES_MAX`] bytes; may be empty.
        error: Box<str>,
        /// Never retry.
        reject: bool,
    },
    /// The lease lasts this long from now on.
    Extend {
        /// In milliseconds, at least 1.
        lease_ms: u32,
    },
}

/// The commands of one turn of a loop.
#[derive(Debug, Default)]
pub struct CommandBatch {
    /// In the order the loop saw them.
    pub commands: Vec<Command>,
    /// The messages of the publishes, in order.
    pub messages: Vec<PublishMessage>,
    /// The leases of the settlements, returns and publishes, in order.
    pub leases: Vec<LeaseId>,
    /// The encoded messages, in order, end to end.
    pub bodies: Vec<u8>,
}

/// A batch being taken apart: hands each command the parts it owns.
#[derive(Debug)]
pub struct Drained<'a> {
    messages: &'a [PublishMessage],
    leases: &'a [LeaseId],
    bodies: &'a [u8],
}

impl CommandBatch {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Splits the batch into its commands and the parts they own.
    pub fn drain(&mut self) -> (std::vec::Drain<'_, Command>, Drained<'_>) {
        let drained = Drained { messages: &self.messages, leases: &self.leases, bodies: &self.bodies };
        (self.commands.drain(..), drained)
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.messages.clear();
        self.leases.clear();
        self.bodies.clear();
    }
}

impl<'a> Drained<'a> {
    /// The next `count` leases.
    pub fn leases(&mut self, count: u32) -> &'a [LeaseId] {
        let (taken, rest) = self.leases.split_at(count as usize);
        self.leases = rest;
        taken
    }

    /// The next `count` messages and their bodies, end to end.
    pub fn messages(&mut self, count: u32) -> (&'a [PublishMessage], &'a [u8]) {
        let (taken, rest) = self.messages.split_at(count as usize);
        self.messages = rest;
        let len: usize = taken.iter().map(|message| message.body_len as usize).sum();
        let (bodies, rest) = self.bodies.split_at(len);
        self.bodies = rest;
        (taken, bodies)
    }
}
