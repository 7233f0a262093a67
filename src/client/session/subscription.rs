//! One subscription of a session and its credit.

use crate::client::Machine;
use crate::ids::{QueueName, SubscriptionId};
use crate::limits;

/// A queue this client consumes from, on every connection.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    queue: QueueName,
    /// Credit that no delivery has used yet, whether the server was told of it or not: what a new connection starts
    /// with.
    open_messages: u32,
    /// Below zero after a message larger than what was left.
    open_bytes: i64,
    /// Whether bytes are bounded at all.
    bounds_bytes: bool,
    /// How many messages credit may still be given for; `None` for no end.
    budget: Option<u64>,
    /// The request on this connection; `None` until it is made.
    pub(super) seq: Option<u64>,
    /// The part of the open credit that this connection was not told of; bytes below zero were told of too early.
    owed_messages: u32,
    owed_bytes: i64,
}

impl Subscription {
    /// As [`super::Session::subscribe`] says.
    pub(super) fn new(
        id: SubscriptionId,
        queue: QueueName,
        credit_messages: u32,
        credit_bytes: u64,
        total: Option<u64>,
    ) -> Self {
        let total_now = total.map_or(u32::MAX, |total| u32::try_from(total).unwrap_or(u32::MAX));
        let open_messages = credit_messages.clamp(1, limits::CREDIT_MESSAGES_MAX).min(total_now);
        Self {
            id,
            queue,
            open_messages,
            open_bytes: i64::try_from(credit_bytes).unwrap_or(i64::MAX),
            bounds_bytes: credit_bytes > 0,
            budget: total.map(|total| total - u64::from(open_messages)),
            seq: None,
            owed_messages: 0,
            owed_bytes: 0,
        }
    }

    /// A delivery used credit.
    pub(super) fn used(&mut self, bytes: u32) {
        self.open_messages = self.open_messages.saturating_sub(1);
        self.open_bytes = self.open_bytes.saturating_sub(i64::from(bytes));
    }

    /// Takes one message out of the budget; false when it is spent.
    pub(super) fn may_go_on(&mut self) -> bool {
        match &mut self.budget {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// A message is settled: its credit is free again.
    pub(super) fn give_back(&mut self, bytes: u32) {
        self.open_messages += 1;
        self.open_bytes = self.open_bytes.saturating_add(i64::from(bytes));
        self.owed_messages += 1;
        self.owed_bytes = self.owed_bytes.saturating_add(i64::from(bytes));
    }

    pub(super) fn send(&mut self, machine: &mut Machine, out: &mut Vec<u8>) {
        if self.seq.is_none() {
            // 0 would lift the bound.
            let told = if self.bounds_bytes { self.open_bytes.max(1) } else { 0 };
            let bytes = told.unsigned_abs();
            self.seq = machine.subscribe(self.id, self.queue.as_str(), self.open_messages, bytes, out).ok();
            if self.seq.is_some() {
                (self.owed_messages, self.owed_bytes) = (0, (self.open_bytes - told).min(0));
            }
        } else if self.owed_messages > 0 {
            let told = self.owed_bytes.max(0);
            let bytes = if self.bounds_bytes { told.unsigned_abs() } else { 0 };
            machine.credit(self.id, self.owed_messages, bytes, out);
            self.owed_messages = 0;
            self.owed_bytes -= told;
        }
    }
}
