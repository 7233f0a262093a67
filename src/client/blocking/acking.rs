//! Publishing what became of deliveries, and acking them in the same step.

use super::{Client, Error, Message, Receipt};
use crate::ids::{LeaseId, MessageId};

impl Client {
    /// Publishes a message and acks the deliveries it was made of, both on disk or neither, and waits for that: a message
    /// on its way through several queues is neither lost nor doubled. Returns the message's id.
    ///
    /// # Errors
    /// As [`Client::publish`]. Refused with [`LEASE_LOST`](crate::wire::proto::Code::LeaseLost), some of the deliveries went
    /// to others: nothing was done, and the rest of them are still held. Refused otherwise, all are.
    pub fn ack_and_publish(
        &mut self,
        leases: &[LeaseId],
        queue: &str,
        message: &Message,
    ) -> Result<MessageId, Error> {
        let receipt = self.ack_and_publish_pipelined(leases, queue, message)?;
        self.wait(receipt)
    }

    /// As [`Client::ack_and_publish`], without waiting for the answer; until it is there the deliveries are held, and may be
    /// extended but not acked or nacked.
    ///
    /// # Errors
    /// As [`Client::publish_pipelined`], and [`Error::Batch`] for a delivery that is not held.
    pub fn ack_and_publish_pipelined(
        &mut self,
        leases: &[LeaseId],
        queue: &str,
        message: &Message,
    ) -> Result<Receipt, Error> {
        let body = message.encode(self.session.limits().message_bytes_max as usize)?;
        self.take_publish(queue, leases, vec![body])
    }

    /// The answer to one publish, if it is there; its first message's id. Does nothing on the connection.
    pub fn answer(&mut self, receipt: Receipt) -> Option<Result<MessageId, Error>> {
        let outcome = self.inbox.take_outcome(receipt)?;
        Some(outcome.map(|answered| answered.first_id))
    }
}
