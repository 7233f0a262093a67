//! A connection's publishes that have no answer, and the marks by which the server would know a re-send.

use std::collections::VecDeque;

use relaymesh::ids::ProducerId;

use crate::fleet::Link;

/// What one connection publishes.
#[derive(Debug)]
pub(super) struct Producer {
    id: ProducerId,
    next_sequence: u64,
    /// When each unanswered publish was sent, or was due with a rate.
    started_us: VecDeque<u64>,
}

impl Producer {
    /// One that nobody has heard of, with room for `in_flight` publishes without an answer.
    pub(super) fn new(in_flight: u32) -> Self {
        Self {
            id: ProducerId(fastrand::u64(1..)),
            next_sequence: 1,
            started_us: VecDeque::with_capacity(in_flight as usize),
        }
    }

    /// Publishes without an answer.
    pub(super) fn in_flight(&self) -> usize {
        self.started_us.len()
    }

    /// Publishes one message, which counts as started at `started_us`.
    ///
    /// # Errors
    /// When the server's window is full, or the message never fits.
    pub(super) fn publish(
        &mut self,
        link: &mut Link<'_>,
        queue: &str,
        body: &[u8],
        started_us: u64,
    ) -> anyhow::Result<()> {
        let sequence = self.next_sequence;
        let unanswered_from = sequence - self.started_us.len() as u64;
        link.machine.publish(queue, Some((self.id, sequence, unanswered_from)), body, link.out)?;
        self.next_sequence += 1;
        self.started_us.push_back(started_us);
        Ok(())
    }

    /// The oldest `messages` publishes are answered. Returns when they were started.
    pub(super) fn answered(&mut self, messages: u32) -> impl Iterator<Item = u64> + '_ {
        self.started_us.drain(..messages as usize)
    }
}
