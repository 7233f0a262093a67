//! What clients saw, and whether a server that keeps its word could have shown them that.

use std::collections::BTreeMap;

/// One thing a client saw or did. Each message carries a key of its own as its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A publish was answered: the message is on disk under this id.
    Published { key: String, id: u64 },
    /// A message was delivered.
    Delivered { key: String, id: u64, lease: Lease },
    /// A worker is about to send an ack; whether it counts is open until it is answered.
    AckSent { key: String },
    /// An ack was answered as counted.
    Acked { key: String, lease: Lease },
}

/// Which of a message's leases, ordered by when they were given: by generation, then by attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lease {
    pub(crate) boot: u32,
    pub(crate) attempt: u32,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Breach {
    /// The publish was answered, no ack was ever sent, and at the end the message was not there.
    Lost { key: String },
    /// Delivered under a lease newer than one whose ack was answered.
    Redelivered { key: String, acked: Lease, delivered: Lease },
    /// One publish became two messages.
    Doubled { key: String, ids: Vec<u64> },
}

#[derive(Default)]
struct Message {
    ids: Vec<u64>,
    published: bool,
    ack_sent: bool,
    /// The earliest lease whose ack was answered.
    acked: Option<Lease>,
    newest: Option<Lease>,
}

/// Judges a history that ends with the queues drained: whatever was still there has been delivered and acked.
///
/// Events of different clients may stand in any order: nothing here depends on when something was seen, only on
/// the order the server itself gave its leases.
pub(crate) fn breaches(history: &[Event]) -> Vec<Breach> {
    let mut messages: BTreeMap<&str, Message> = BTreeMap::new();
    for event in history {
        let (Event::Published { key, .. }
        | Event::Delivered { key, .. }
        | Event::AckSent { key }
        | Event::Acked { key, .. }) = event;
        let message = messages.entry(key).or_default();
        match event {
            Event::Published { id, .. } => {
                message.published = true;
                note(&mut message.ids, *id);
            }
            Event::Delivered { id, lease, .. } => {
                note(&mut message.ids, *id);
                message.newest = message.newest.max(Some(*lease));
            }
            Event::AckSent { .. } => message.ack_sent = true,
            // The first one answered ends the message: that a later delivery was acked as well excuses nothing.
            Event::Acked { lease, .. } => {
                message.acked = Some(message.acked.map_or(*lease, |first| first.min(*lease)));
            }
        }
    }
    let mut breaches = Vec::new();
    for (key, message) in messages {
        let key = key.to_owned();
        if message.published && !message.ack_sent {
            breaches.push(Breach::Lost { key: key.clone() });
        }
        if let (Some(acked), Some(delivered)) = (message.acked, message.newest)
            && delivered > acked
        {
            breaches.push(Breach::Redelivered { key: key.clone(), acked, delivered });
        }
        if message.ids.len() > 1 {
            breaches.push(Breach::Doubled { key, ids: message.ids });
        }
    }
    breaches
}

fn note(ids: &mut Vec<u64>, id: u64) {
    if !ids.contains(&id) {
        ids.push(id);
    }
}

mod tests {
    use super::*;

    fn published(id: u64) -> Event {
        Event::Published { key: "k".to_owned(), id }
    }

    fn delivered(id: u64, boot: u32, attempt: u32) -> Event {
        Event::Delivered { key: "k".to_owned(), id, lease: Lease { boot, attempt } }
    }

    fn ack_sent() -> Event {
        Event::AckSent { key: "k".to_owned() }
    }

    fn acked(boot: u32, attempt: u32) -> Event {
        Event::Acked { key: "k".to_owned(), lease: Lease { boot, attempt } }
    }

    #[test]
    fn an_honest_history_passes() {
        let redelivered_before_the_ack =
            [published(1), delivered(1, 1, 1), ack_sent(), delivered(1, 2, 2), ack_sent(), acked(2, 2)];
        assert_eq!(breaches(&redelivered_before_the_ack), []);
        let seen_late = [published(1), ack_sent(), acked(2, 2), delivered(1, 2, 2), delivered(1, 1, 1)];
        assert_eq!(breaches(&seen_late), [], "a client may read late what was sent before");
        assert_eq!(
            breaches(&[delivered(1, 1, 1), ack_sent()]),
            [],
            "an unanswered ack may have counted or not"
        );
    }

    #[test]
    fn a_lost_message_is_found() {
        assert_eq!(breaches(&[published(1)]), [Breach::Lost { key: "k".to_owned() }]);
        assert_eq!(breaches(&[published(1), delivered(1, 1, 1)]), [Breach::Lost { key: "k".to_owned() }]);
    }

    #[test]
    fn a_redelivery_after_an_answered_ack_is_found() {
        let (first, second) = (Lease { boot: 1, attempt: 1 }, Lease { boot: 2, attempt: 1 });
        let found =
            breaches(&[published(1), delivered(1, 1, 1), ack_sent(), acked(1, 1), delivered(1, 2, 1)]);
        assert_eq!(found, [Breach::Redelivered { key: "k".to_owned(), acked: first, delivered: second }]);
    }

    #[test]
    fn a_redelivery_that_is_acked_again_is_found() {
        let (first, second) = (Lease { boot: 1, attempt: 1 }, Lease { boot: 2, attempt: 2 });
        let breach = Breach::Redelivered { key: "k".to_owned(), acked: first, delivered: second };
        let mut history = [
            published(1),
            delivered(1, 1, 1),
            ack_sent(),
            acked(1, 1),
            delivered(1, 2, 2),
            ack_sent(),
            acked(2, 2),
        ];
        assert_eq!(breaches(&history), std::slice::from_ref(&breach));
        history.reverse();
        assert_eq!(breaches(&history), [breach], "in whatever order the clients were asked");
    }

    #[test]
    fn a_doubled_publish_is_found() {
        let found = breaches(&[published(2), delivered(1, 1, 1), delivered(2, 1, 1), ack_sent()]);
        assert_eq!(found, [Breach::Doubled { key: "k".to_owned(), ids: vec![2, 1] }]);
    }
}
