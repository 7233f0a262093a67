//! Publishes that ack what they were made of: whose the leases are until the answer, and after it.

use super::publishes::Answered;
use super::{Session, SessionEvent, Unsendable};
use crate::ids::{LeaseId, QueueName};
use crate::wire::proto;

impl Session {
    /// As [`Session::publish_batch`], acking deliveries that are held in the step in which the messages appear: both will
    /// be on disk, or neither. They are held until that is answered, and may be extended meanwhile but not settled. If one
    /// of them is lost the publish is refused, and the others are still held.
    ///
    /// # Errors
    /// As [`Session::publish`], and [`Unsendable::NotHeld`].
    pub fn ack_and_publish(
        &mut self,
        leases: &[LeaseId],
        queue: &QueueName,
        bodies: Vec<Vec<u8>>,
    ) -> Result<u64, Unsendable> {
        if !self.leases.are_held(leases) {
            return Err(Unsendable::NotHeld);
        }
        let sequence = self.publishes.take(queue, leases, bodies, &self.limits)?;
        self.leases.ack_with(leases, true);
        Ok(sequence)
    }

    /// What is lost is over; the other leases that were to be acked with it are the user's again.
    pub(super) fn on_publish_refused(
        &mut self,
        answered: Answered,
        refusal: proto::Refusal,
    ) -> SessionEvent<'static> {
        let Answered { sequence, messages, acks } = answered;
        self.leases.ack_with(&acks, false);
        refusal.lost.iter().for_each(|lease| self.lease_over(lease.into()));
        SessionEvent::PublishRefused { sequence, messages, refusal }
    }

    /// Its credit is free for another delivery.
    pub(super) fn lease_over(&mut self, lease: LeaseId) {
        if let Some(held) = self.leases.over(lease) {
            self.give_back(&held);
        }
    }
}
