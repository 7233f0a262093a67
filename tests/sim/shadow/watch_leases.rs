//! One lease as the watch knows it: who holds it and until when at least.

use relaymesh::clock::Time;
use relaymesh::ids::{LeaseId, SubscriptionId};

/// The newest lease of a message.
#[derive(Debug)]
pub(super) struct Holding<Client> {
    pub(super) holder: Client,
    pub(super) subscription: SubscriptionId,
    pub(super) lease: LeaseId,
    /// It does not end by itself before.
    until: Time,
    /// It was ended by what its holder said or did.
    is_over: bool,
}

impl<Client: std::fmt::Debug> Holding<Client> {
    pub(super) fn new(
        holder: Client,
        subscription: SubscriptionId,
        lease: LeaseId,
        granted_from: Time,
        lease_ms: u32,
    ) -> Self {
        let until = Time(granted_from.0 + u64::from(lease_ms));
        Self { holder, subscription, lease, until, is_over: false }
    }

    /// It may end at this time, or before.
    pub(super) fn ends_by(&mut self, at: Time) {
        self.until = self.until.min(at);
    }

    /// The server says that an extension counted, which was answered at `now`.
    pub(super) fn extended(&mut self, lease: LeaseId, _now: Time, _lease_ms: u32) {
        self.is_over |= self.lease != lease;
    }

    /// Whether `other` was given before this one.
    pub(super) fn is_newer_than(&self, other: LeaseId) -> bool {
        (self.lease.boot, self.lease.attempt) > (other.boot, other.attempt)
    }

    /// Panics when it still stands as another lease of its message is given.
    pub(super) fn check_over(&self, now: Time, next: LeaseId, key: u64) {
        assert!(
            self.is_over || now >= self.until,
            "message {key} is leased as {next:?} at {now:?} while {self:?} stands"
        );
    }
}
