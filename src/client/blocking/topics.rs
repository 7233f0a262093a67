//! What the blocking client does with topics: subscribe to them, take what comes of them, and publish to them.

use std::time::Duration;

use super::inbox::{Inbox, Received};
use super::{Client, Error, Message};
use crate::ids::{QueueName, SubscriptionId};

impl Client {
    /// Hands a message to all sessions that are subscribed to a topic and connected, best effort, and waits until the server
    /// has sent it on its way. Returns to how many subscriptions. Sent again after a lost connection, it may arrive twice.
    ///
    /// # Errors
    /// [`Error::Refused`] when the server would not have it; it names a time to try again when too much is on its way.
    pub fn broadcast(&mut self, topic: &str, message: &Message) -> Result<u64, Error> {
        let receipt = self.publish_pipelined(&format!("{}{topic}", QueueName::TOPIC_PREFIX), message)?;
        self.wait_for_answer(receipt).map(|answered| answered.subscribers)
    }

    /// Subscribes to a topic and waits for the server's word. Its messages come with [`Client::receive`].
    ///
    /// # Errors
    /// [`Error::Refused`] when the server would not have it.
    pub fn subscribe_topic(&mut self, topic: &str) -> Result<SubscriptionId, Error> {
        self.subscribe(&format!("{}{topic}", QueueName::TOPIC_PREFIX), 1)
    }

    /// As [`Client::next`], messages of topics included. Of those that nobody takes, the newest
    /// [`crate::limits::BROADCASTS_KEPT_MAX`] are kept.
    ///
    /// # Errors
    /// As [`Client::next`].
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Option<Received>, Error> {
        self.next_of(timeout, Inbox::next_received)
    }

    /// Messages of topics that arrived and were forgotten because nobody took them in time.
    #[must_use]
    pub fn broadcasts_missed(&self) -> u64 {
        self.inbox.broadcasts_missed()
    }
}
