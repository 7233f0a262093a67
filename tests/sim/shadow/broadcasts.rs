//! What was published to topics, as the shard was given it, and what came of it: never to another topic or namespace,
//! never twice to one connection, and in the order in which it was published. That it comes at all is promised to nobody.

use std::collections::BTreeMap;

use relaymesh::ids::{Namespace, QueueName};

use crate::network::ConnId;

type FullName = (Namespace, QueueName);

/// Everything that was ever published to a topic.
#[derive(Debug, Default)]
pub(crate) struct Broadcasts {
    /// When each message was published, in the count of all; more than once if its producer sent it again.
    published: BTreeMap<u64, (FullName, Vec<u64>)>,
    count: u64,
    /// The last one that came over a connection.
    last: BTreeMap<(ConnId, QueueName), u64>,
    pub(crate) deliveries: u64,
}

impl Broadcasts {
    /// The shard is given the message `key`.
    pub(crate) fn published(&mut self, namespace: Namespace, topic: QueueName, key: u64) {
        self.count += 1;
        let entry = self.published.entry(key).or_insert_with(|| ((namespace, topic), Vec::new()));
        entry.1.push(self.count);
    }

    /// A client that is subscribed to `topic` got the message `key`.
    pub(crate) fn delivered(&mut self, conn: ConnId, namespace: &Namespace, topic: &QueueName, key: u64) {
        self.deliveries += 1;
        let Some((to, times)) = self.published.get(&key) else {
            panic!("the broadcast {key} came and was never published");
        };
        assert!(to.0 == *namespace, "the broadcast {key} for the namespace {} came to {namespace}", to.0);
        assert!(to.1 == *topic, "the broadcast {key} to {} came by a subscription to {topic}", to.1);
        let last = self.last.entry((conn, topic.clone())).or_default();
        let next = times.iter().copied().find(|time| time > last);
        *last = next.unwrap_or_else(|| {
            panic!("the broadcast {key} to {topic} came twice over {conn:?}, or behind a later one")
        });
    }
}
