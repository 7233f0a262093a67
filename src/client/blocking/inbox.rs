//! What arrived and was not taken by the user yet.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::client::{Error, Message, SessionEvent, Settlement};
use crate::ids::{LeaseId, MessageId, QueueName, SubscriptionId};
use crate::limits::{BROADCASTS_KEPT_BYTES_MAX, BROADCASTS_KEPT_MAX};
use crate::wire::{self, proto};

/// Results of pipelined publishes that are kept until they are taken.
const OUTCOMES_MAX: usize = 65_536;

/// A message to work on.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// To be given to [`super::Client::ack`], `nack` or `extend`.
    pub lease: LeaseId,
    /// Where it came from.
    pub queue: QueueName,
    /// The subscription it came by.
    pub subscription: SubscriptionId,
    /// How long the lease lasts from its arrival.
    pub lease_for: Duration,
    /// What was published.
    pub message: Message,
}

impl Delivery {
    /// The message's id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.lease.message
    }

    /// Which attempt at the message this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.lease.attempt
    }
}

/// A message of a topic. Nobody waits for an answer to it.
#[derive(Debug, Clone)]
pub struct Broadcast {
    /// Where it came from: `topic/<name>`.
    pub queue: QueueName,
    /// The subscription it came by.
    pub subscription: SubscriptionId,
    /// What was published.
    pub message: Message,
}

impl Broadcast {
    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.queue.topic().unwrap_or_default()
    }
}

/// What [`super::Client::receive`] returns.
#[derive(Debug, Clone)]
pub enum Received {
    /// A message to work on.
    Delivery(Delivery),
    /// A message of a topic.
    Broadcast(Broadcast),
}

impl Received {
    /// The queue or topic it came from.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        match self {
            Self::Delivery(delivery) => &delivery.queue,
            Self::Broadcast(broadcast) => &broadcast.queue,
        }
    }

    /// What was published.
    #[must_use]
    pub fn message(&self) -> &Message {
        match self {
            Self::Delivery(delivery) => &delivery.message,
            Self::Broadcast(broadcast) => &broadcast.message,
        }
    }
}

/// Stands for a pipelined publish until its answer is taken.
#[must_use = "the publish may be refused: wait for it or flush"]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub(super) u64);

/// The results of publishes that nobody waited for one by one.
#[must_use = "publishes may have been refused"]
#[derive(Debug, Default)]
pub struct Flushed {
    /// Messages on disk, and those handed to topics.
    pub published: u64,
    /// Publishes of which nothing was kept.
    pub refused: Vec<(Receipt, Error)>,
}

/// What happens beside the calls, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The client is connected and welcome.
    Connected {
        /// It goes on where it was; false at the first connection.
        resumed: bool,
    },
    /// There is no connection; the next attempt follows.
    Retrying {
        /// The server's address.
        address: String,
        /// Why the connection ended or failed.
        why: String,
        /// In how long.
        after: Duration,
        /// The how manieth failure in a row.
        failures: u32,
    },
    /// An extension came too late: the message was, or will be, delivered again. It is told once of a lease, which cannot be
    /// extended any more; an ack still counts if it comes before that.
    LeasesOver {
        /// Which.
        leases: Vec<LeaseId>,
    },
    /// An ack or nack came too late: the message was, or will be, delivered again.
    LeasesLost {
        /// Which.
        leases: Vec<LeaseId>,
        /// It was sent twice, with a reconnect between: the first may have counted.
        uncertain: bool,
    },
    /// An ack, nack or extension was refused.
    SettleRefused {
        /// Which.
        leases: Vec<LeaseId>,
        /// Why, in words.
        text: String,
    },
}

/// What a publish was answered with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// 0 of a topic.
    pub(super) first_id: MessageId,
    messages: u32,
    /// Of a topic.
    pub(super) subscribers: u64,
}

type Outcome = Result<Answered, Error>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Bounded by the credit of the subscriptions.
    deliveries: VecDeque<Delivery>,
    /// Bounded by [`BROADCASTS_KEPT_MAX`] and [`BROADCASTS_KEPT_BYTES_MAX`].
    broadcasts: VecDeque<Broadcast>,
    broadcast_bytes: usize,
    broadcasts_missed: u64,
    /// The last one taken was a delivery.
    is_broadcasts_turn: bool,
    /// Bounded by [`OUTCOMES_MAX`] and a window.
    outcomes: BTreeMap<u64, Outcome>,
    queues: HashMap<SubscriptionId, QueueName>,
    subscribed: HashMap<SubscriptionId, Result<(), Error>>,
    awaited: Option<SubscriptionId>,
    failures: VecDeque<Error>,
    undecodable: Vec<LeaseId>,
    pongs: u64,
    news: bool,
}

impl Inbox {
    /// Files an event; returns what people should hear of it.
    pub(super) fn take(&mut self, event: SessionEvent<'_>) -> Option<Notice> {
        self.news = true;
        match event {
            SessionEvent::Up { resumed } => return Some(Notice::Connected { resumed }),
            SessionEvent::Published { sequence, messages, first_id, subscribers } => {
                self.outcomes.insert(sequence, Ok(Answered { first_id, messages, subscribers }));
            }
            SessionEvent::PublishRefused { sequence, refusal, .. } => {
                self.outcomes.insert(sequence, Err(refused(&refusal)));
            }
            SessionEvent::Subscribed(id) => {
                if self.awaited == Some(id) {
                    self.subscribed.insert(id, Ok(()));
                }
            }
            SessionEvent::SubscribeRefused { subscription, code, text } => {
                let error = Error::Refused { code, text, retry_after: None };
                if self.awaited == Some(subscription) {
                    self.subscribed.insert(subscription, Err(error));
                } else {
                    self.failures.push_back(error);
                }
            }
            SessionEvent::Delivered(deliveries) => {
                deliveries.iter().for_each(|delivery| self.deliver(&delivery));
                deliveries.broadcasts().for_each(|broadcast| self.keep_broadcast(&broadcast));
            }
            SessionEvent::Settled { lost, .. } if lost.is_empty() => {}
            SessionEvent::Settled { lost, settlement: Settlement::Extend { .. }, .. } => {
                return Some(Notice::LeasesOver { leases: lost });
            }
            SessionEvent::Settled { lost, resent, .. } => {
                return Some(Notice::LeasesLost { leases: lost, uncertain: resent });
            }
            SessionEvent::SettleRefused { leases, text, .. } => {
                return Some(Notice::SettleRefused { leases, text });
            }
            SessionEvent::Pong { .. } => self.pongs += 1,
            SessionEvent::Unsubscribed(_) | SessionEvent::Ending(_) | SessionEvent::Quiet => {}
        }
        None
    }

    fn deliver(&mut self, delivery: &wire::Delivery<'_>) {
        let queue = self.queues.get(&delivery.subscription).cloned();
        let (Some(queue), Ok(message)) = (queue, Message::decode(delivery.message)) else {
            self.undecodable.push(delivery.lease);
            return;
        };
        self.deliveries.push_back(Delivery {
            lease: delivery.lease,
            queue,
            subscription: delivery.subscription,
            lease_for: Duration::from_millis(u64::from(delivery.lease_ms)),
            message,
        });
    }

    /// One that does not decode is nobody's.
    fn keep_broadcast(&mut self, broadcast: &wire::BroadcastDelivery<'_>) {
        let subscription = broadcast.subscription;
        let queue = self.queues.get(&subscription).cloned();
        let (Some(queue), Ok(message)) = (queue, Message::decode(broadcast.message)) else { return };
        self.broadcast_bytes += message.payload().len();
        self.broadcasts.push_back(Broadcast { queue, subscription, message });
        while self.broadcasts.len() > BROADCASTS_KEPT_MAX
            || (self.broadcast_bytes > BROADCASTS_KEPT_BYTES_MAX && self.broadcasts.len() > 1)
        {
            self.broadcasts_missed += u64::from(self.next_broadcast().is_some());
        }
    }

    fn next_broadcast(&mut self) -> Option<Broadcast> {
        let broadcast = self.broadcasts.pop_front()?;
        self.broadcast_bytes -= broadcast.message.payload().len();
        Some(broadcast)
    }

    /// Deliveries and broadcasts take turns.
    pub(super) fn next_received(&mut self) -> Option<Received> {
        self.is_broadcasts_turn = !self.is_broadcasts_turn;
        if self.is_broadcasts_turn && !self.broadcasts.is_empty() || self.deliveries.is_empty() {
            return self.next_broadcast().map(Received::Broadcast);
        }
        self.next_delivery().map(Received::Delivery)
    }

    /// Broadcasts forgotten because nobody took them in time.
    pub(super) fn broadcasts_missed(&self) -> u64 {
        self.broadcasts_missed
    }

    /// From here on [`Inbox::has_news`] tells of what is filed.
    pub(super) fn start_round(&mut self) {
        self.news = false;
    }

    /// Whether something was filed in this round, so that whoever waits should look before waiting longer.
    pub(super) fn has_news(&self) -> bool {
        self.news
    }

    pub(super) fn check_room(&self) -> Result<(), Error> {
        if self.outcomes.len() < OUTCOMES_MAX { Ok(()) } else { Err(Error::Unclaimed(self.outcomes.len())) }
    }

    pub(super) fn take_outcome(&mut self, receipt: Receipt) -> Option<Result<Answered, Error>> {
        self.outcomes.remove(&receipt.0)
    }

    pub(super) fn take_outcomes(&mut self) -> Flushed {
        let mut flushed = Flushed::default();
        for (sequence, outcome) in std::mem::take(&mut self.outcomes) {
            match outcome {
                Ok(answered) => flushed.published += u64::from(answered.messages),
                Err(error) => flushed.refused.push((Receipt(sequence), error)),
            }
        }
        flushed
    }

    pub(super) fn subscribing(&mut self, id: SubscriptionId, queue: QueueName) {
        self.queues.insert(id, queue);
        self.awaited = Some(id);
    }

    pub(super) fn take_subscribed(&mut self, id: SubscriptionId) -> Option<Result<(), Error>> {
        let outcome = self.subscribed.remove(&id)?;
        self.awaited = None;
        Some(outcome)
    }

    pub(super) fn next_delivery(&mut self) -> Option<Delivery> {
        self.deliveries.pop_front()
    }

    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.failures.pop_front()
    }

    pub(super) fn take_undecodable(&mut self) -> Vec<LeaseId> {
        std::mem::take(&mut self.undecodable)
    }

    pub(super) fn pongs(&self) -> u64 {
        self.pongs
    }
}

fn refused(refusal: &proto::Refusal) -> Error {
    let after = u64::from(refusal.retry_after_ms);
    Error::Refused {
        code: refusal.code(),
        text: refusal.text.clone(),
        retry_after: (after > 0).then(|| Duration::from_millis(after)),
    }
}

#[cfg(test)]
mod tests;
