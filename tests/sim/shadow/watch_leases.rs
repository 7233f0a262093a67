//! One lease as the watch knows it: who holds it and until when at least.

use relaymesh::clock::Time;
use relaymesh::ids::{LeaseId, SubscriptionId};

/// The newest lease of a message.
#[derive(Debug)]
pub(super) struct Holding<Client> {
    pub(super) holder: Client,
    pub(super) subscription: SubscriptionId,
    pub(super) lease: LeaseId,
    /// It does not run out before.
    until: Time,
    /// But from here on it may have been ended by what its holder said or did.
    ended: Time,
    /// Extensions that are not answered.
    extensions: u32,
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
        Self { holder, subscription, lease, until, ended: Time(u64::MAX), extensions: 0 }
    }

    /// It may end at this time, or before.
    pub(super) fn ends_by(&mut self, at: Time) {
        self.ended = self.ended.min(at);
    }

    /// Its holder asks for it to last until `until`. Whether that counts is not known yet.
    pub(super) fn extending(&mut self, until: Time) {
        self.until = self.until.min(until);
        self.extensions += 1;
    }

    /// An extension until `until` is answered.
    pub(super) fn extended(&mut self, until: Time, counts: bool) {
        self.extensions = self.extensions.saturating_sub(1);
        if counts && self.extensions == 0 {
            self.until = until;
        }
    }

    /// Whether `other` was given before this one.
    pub(super) fn is_newer_than(&self, other: LeaseId) -> bool {
        (self.lease.boot, self.lease.attempt) > (other.boot, other.attempt)
    }

    /// Panics when it still stands as another lease of its message is given.
    pub(super) fn check_over(&self, now: Time, next: LeaseId, key: u64) {
        assert!(
            now >= self.until.min(self.ended),
            "message {key} is leased as {next:?} at {now:?} while {self:?} stands"
        );
    }
}
