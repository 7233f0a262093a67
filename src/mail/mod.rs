//! What crosses between loops and shards, and the bounded lanes that carry it a batch at a time.
//!
//! A loop gathers the commands of one turn in a [`CommandBatch`] and sends it down its lane; a shard gathers the
//! effects for one loop in an [`EffectBatch`]. Batches are flat: variable parts (messages, leases, bodies) lie
//! side by side in the batch, in the order of the commands that own them, so that a message costs no allocation
//! on its way. This module does not know who sends or receives.

mod bell;
mod binding;
mod command;
mod drain;
mod effect;
mod lane;
mod operator;
mod schedule;
#[cfg(test)]
mod tests;
mod topic;

pub use bell::Bell;
pub use binding::{BindingRow, BindingSpec, TargetFull};
pub use command::{
    Attach, Command, CommandBatch, Detach, DetachReason, Drained, MessageHeader, ProducerSequence, Publish,
    PublishMessage, Resume, Settle, Settlement,
};
pub use drain::{DrainOrder, WHOLE_PPM};
pub use effect::{
    Attached, Broadcasted, Deliver, Effect, EffectBatch, LeasesLost, PublishAcked, RefusalCode, Refused,
    Settled,
};
pub use lane::{
    CommandReceiver, CommandSender, EffectReceiver, EffectSender, LaneFull, command_lanes, effect_lane,
};
pub use operator::{
    DEAD_REASONS, DeadFilter, DeadJobRow, DeadLetter, DeadSelection, FailedAttempt, MessageRow,
    NamespaceStats, OperatorReply, OperatorRequest, QueueStats, SettingRow,
};
pub use schedule::{Misfire, ScheduleRow, ScheduleSpec};
pub use topic::{Broadcast, TopicSet, TopicSubscription};
