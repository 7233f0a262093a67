//! Topics as shards and loops speak of them: what a session is subscribed to, and what is broadcast.

use crate::ids::{ShardId, SubscriptionId, TopicId};
use crate::limits;

/// One topic that a session is subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicSubscription {
    /// The client's number for it.
    pub subscription: SubscriptionId,
    /// Which topic.
    pub topic: TopicId,
}

/// All topics that a session is subscribed to. Sessions with the same topics under the same numbers share one.
#[derive(Debug, PartialEq, Eq)]
pub struct TopicSet {
    /// Never given again while the process lives.
    pub id: u64,
    /// By rising number, at least one, each topic once.
    pub subscriptions: Box<[TopicSubscription]>,
}

impl TopicSet {
    /// Under which number the session is subscribed to `topic`, if it is.
    #[must_use]
    pub fn number_of(&self, topic: TopicId) -> Option<SubscriptionId> {
        self.subscriptions.iter().find(|own| own.topic == topic).map(|own| own.subscription)
    }
}

/// A message for all sessions that are subscribed to a topic; the loops share it.
#[derive(Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// The shard that sent it, and is told once all have it.
    pub shard: ShardId,
    /// Which topic.
    pub topic: TopicId,
    /// Whose it is: the shard's own number of the tenant.
    pub namespace: u32,
    /// The encoded `Message`.
    pub body: Box<[u8]>,
}

impl Broadcast {
    /// What it counts against [`limits::BROADCAST_BYTES_PER_LOOP_MAX`] on each of its loops, in bytes.
    #[must_use]
    pub fn charge(&self) -> u64 {
        Self::charge_of(self.body.len())
    }

    /// What one with so many bytes counts: small ones more than they have, so that their number is bounded too.
    #[must_use]
    pub fn charge_of(body_len: usize) -> u64 {
        body_len.max(limits::BROADCAST_CHARGE_BYTES_MIN) as u64
    }
}
