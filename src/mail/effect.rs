//! What a shard answers, and what it sends to a connection by itself.

use std::sync::Arc;

use crate::ids::{ClientId, ConnKey, Epoch, LeaseId, LoopId, MessageId, Namespace, ShardId, SubscriptionId};
use crate::mail::{Broadcast, OperatorReply, TopicSet};

/// One thing a loop is to do. By the time an effect reaches a loop, what it says is durable.
#[derive(Debug)]
pub enum Effect {
    /// The client is welcome; its connection replaces any older one.
    Attached(Box<Attached>),
    /// The client is not welcome now.
    AttachRefused {
        /// Its connection.
        conn: ConnKey,
        /// Why.
        refused: Box<Refused>,
    },
    /// A newer connection of the same client took over: this one gets GOAWAY and closes.
    TakenOver {
        /// The older connection.
        conn: ConnKey,
    },
    /// Publishes are on disk.
    PublishAcked(PublishAcked),
    /// A publish was refused as a whole.
    PublishRefused {
        /// The producer's connection.
        conn: ConnKey,
        /// The request.
        seq: u64,
        /// Its messages, which leave the window.
        messages: u32,
        /// Their bytes, which leave the window.
        bytes: u32,
        /// Why.
        refused: Box<Refused>,
    },
    /// A publish was refused as a whole because leases it was to ack are over.
    LeasesLost(Box<LeasesLost>),
    /// A message for a consumer. Owns the batch's next `body_len` body bytes.
    Deliver(Deliver),
    /// Much was delivered to this connection: once it has little to send the loop says `Resupply`, and until then not much
    /// more comes.
    RoomLow {
        /// The consumer's connection.
        conn: ConnKey,
    },
    /// Answers requests other than publishes.
    Settled(Settled),
    /// Stop reading this connection: its namespace has spent its budget of parked publishes.
    StopReading {
        /// Which connection.
        conn: ConnKey,
    },
    /// Read it again.
    ResumeReading {
        /// Which connection.
        conn: ConnKey,
    },
    /// How many publishes of a loop's connections are parked now: they are answered only when their queues have room, and
    /// count no longer as commands that an answer is on its way for.
    Parked {
        /// One of the loop's connections, present or past.
        conn: ConnKey,
        /// The shard in which they wait.
        shard: ShardId,
        /// How many.
        publishes: u32,
    },
    /// What a connection is subscribed to from here on.
    Topics {
        /// Which connection.
        conn: ConnKey,
        /// `None` for no topic.
        topics: Option<Arc<TopicSet>>,
    },
    /// A message for all connections of a loop that are subscribed to its topic. The loop says `BroadcastsDone` once it has
    /// come by all of them.
    Broadcast {
        /// Which loop.
        loop_id: LoopId,
        /// The message.
        broadcast: Arc<Broadcast>,
    },
    /// Answers a publish to a topic.
    Broadcasted(Broadcasted),
    /// Answers the operator API.
    Operator {
        /// Echo of the request's.
        conn: ConnKey,
        /// The answer.
        reply: Box<OperatorReply>,
    },
}

/// A session as the shard knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The client's connection.
    pub conn: ConnKey,
    /// Its tenant, as it was attached.
    pub namespace: Namespace,
    /// Its name, as it was attached: a loop keeps none.
    pub client: ClientId,
    /// Stays the same through resumes.
    pub session_id: u64,
    /// Of this connection.
    pub epoch: Epoch,
    /// The session existed and the leases it listed are still held.
    pub resumed: bool,
}

/// Consecutive publishes of one connection, answered together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishAcked {
    /// The producer's connection.
    pub conn: ConnKey,
    /// The first request.
    pub seq: u64,
    /// How many requests after it.
    pub more: u32,
    /// The first message's id; the others follow by 1.
    pub first_id: MessageId,
    /// Messages in all.
    pub messages: u32,
    /// Bytes of their bodies in all.
    pub bytes: u32,
}

/// A publish that was refused for the leases it was to ack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasesLost {
    /// The producer's connection.
    pub conn: ConnKey,
    /// The request.
    pub seq: u64,
    /// Its messages, which leave the window.
    pub messages: u32,
    /// Their bytes, which leave the window.
    pub bytes: u32,
    /// Those that are lost; the others stand.
    pub lost: Box<[LeaseId]>,
}

/// A publish to a topic that was handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broadcasted {
    /// The producer's connection.
    pub conn: ConnKey,
    /// The request.
    pub seq: u64,
    /// Its messages, which leave the window.
    pub messages: u32,
    /// Their bytes, which leave the window.
    pub bytes: u32,
    /// The id of the first message in the first queue it is bound to; 0 when it went to none.
    pub first_id: MessageId,
    /// Subscriptions there were to the topic, and queues that bindings put it on.
    pub subscribers: u64,
}

/// One delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deliver {
    /// The consumer's connection.
    pub conn: ConnKey,
    /// Its subscription.
    pub subscription: SubscriptionId,
    /// The lease that goes with it.
    pub lease: LeaseId,
    /// How long the lease lasts.
    pub lease_ms: u32,
    /// Length of the encoded `Message` in bytes.
    pub body_len: u32,
}

/// Consecutive requests of one connection, answered together with one result.
#[derive(Debug)]
pub struct Settled {
    /// The client's connection.
    pub conn: ConnKey,
    /// The first request.
    pub seq: u64,
    /// How many requests after it.
    pub more: u32,
    /// Leases that were not the newest; `None` when all counted.
    pub lost: Option<Box<[LeaseId]>>,
    /// Set when the request was refused as a whole.
    pub refused: Option<Box<Refused>>,
}

/// Why a shard refused something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For programs.
    pub code: RefusalCode,
    /// For people: what was wrong and what is allowed.
    pub text: String,
    /// Do not try again sooner; 0 when trying again unchanged is of no use.
    pub retry_after_ms: u32,
}

/// The reasons a shard has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// The queue or mailbox is full and its policy is to reject.
    QueueFull,
    /// No room to make it durable.
    DiskFull,
    /// Another bound is reached.
    LimitReached,
    /// A field holds a value that is not allowed here.
    Invalid,
    /// A producer sequence below what the producer said was answered.
    StaleSequence,
    /// The shard is shutting down.
    Draining,
    /// As much of the kind is under way already as may be.
    Overloaded,
}

impl Effect {
    /// The loop it is for.
    #[must_use]
    pub fn loop_id(&self) -> LoopId {
        let conn = match self {
            Self::Broadcast { loop_id, .. } => return *loop_id,
            Self::Attached(attached) => &attached.conn,
            Self::PublishAcked(acked) => &acked.conn,
            Self::Deliver(deliver) => &deliver.conn,
            Self::Settled(settled) => &settled.conn,
            Self::Broadcasted(broadcasted) => &broadcasted.conn,
            Self::LeasesLost(refused) => &refused.conn,
            Self::AttachRefused { conn, .. }
            | Self::TakenOver { conn }
            | Self::PublishRefused { conn, .. }
            | Self::RoomLow { conn }
            | Self::StopReading { conn }
            | Self::ResumeReading { conn }
            | Self::Parked { conn, .. }
            | Self::Topics { conn, .. }
            | Self::Operator { conn, .. } => conn,
        };
        conn.loop_id
    }
}

/// The effects for one loop.
#[derive(Debug, Default)]
pub struct EffectBatch {
    /// In order.
    pub effects: Vec<Effect>,
    /// The bodies of the deliveries, in order, end to end.
    pub bodies: Vec<u8>,
}

impl EffectBatch {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }

    /// Moves everything of `later` behind what is here.
    pub fn append(&mut self, later: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, later);
        } else {
            self.effects.append(&mut later.effects);
            self.bodies.append(&mut later.bodies);
        }
    }
}
