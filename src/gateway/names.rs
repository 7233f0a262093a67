//! Queue names seen lately, checked once and shared.

use hashbrown::HashSet;

use crate::ids::{NameError, QueueName};
use crate::limits;

/// A bounded set of names; emptied when full.
#[derive(Debug, Default)]
pub(super) struct NameCache(HashSet<QueueName>);

impl NameCache {
    /// The name as a [`QueueName`]; needs memory only when it was not seen lately.
    pub(super) fn parse(&mut self, name: &str) -> Result<QueueName, NameError> {
        if let Some(known) = self.0.get(name) {
            return Ok(known.clone());
        }
        let parsed = QueueName::parse(name)?;
        // A mailbox is pushed to now and then and there are a million of them: only work queues are worth a place.
        if parsed.mailbox_owner().is_none() {
            if self.0.len() >= limits::CACHED_QUEUE_NAMES_MAX {
                self.0.clear();
            }
            self.0.insert(parsed.clone());
        }
        Ok(parsed)
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
