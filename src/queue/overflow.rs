//! A queue that is full and lets its oldest messages die, so that what is published has room.

use crate::clock::Time;
use crate::queue::config::WhenFull;
use crate::queue::messages::NIL;
use crate::queue::quota::{Met, NOTHING};
use crate::queue::record::Reason;
use crate::queue::{Brain, Turn};
use crate::telemetry::LimitKind;

/// Messages, by slot, that die to make room.
#[derive(Debug)]
pub(super) struct Doomed {
    limit: LimitKind,
    victims: Vec<u32>,
}

impl Brain {
    /// Where a queue is to let its oldest messages die for what `met` a limit: lets ready ones die, those that wait longest,
    /// until so much has room; all that is needed or none. Leased and scheduled ones stay: somebody works on the former, and
    /// the latter have not begun to wait. A crash before the publish is on disk leaves the dead letters without it: it was
    /// not answered, and is sent again.
    ///
    /// # Errors
    /// There is no room, and what it waits for then.
    pub(super) fn make_room(
        &mut self,
        queue: u32,
        (messages, bytes): (u64, u64),
        met: Met,
        turn: &mut Turn<'_>,
    ) -> Result<(), Met> {
        if self.queues.at(queue).rules(&self.config).when_full != WhenFull::DeadLetterOldest {
            return Err(met);
        }
        let doomed = self.doomed(queue, (messages, bytes), NOTHING, met, turn.now.time)?;
        self.let_die(queue, doomed, turn);
        Ok(())
    }

    /// Whose death would make that room; nothing is changed.
    ///
    /// # Errors
    /// As [`Brain::make_room`].
    pub(super) fn doomed(
        &mut self,
        queue: u32,
        (messages, bytes): (u64, u64),
        beside: (u64, u64),
        met: Met,
        now: Time,
    ) -> Result<Doomed, Met> {
        // No rate is made by a death.
        self.publish_rate_met(queue, messages, beside.0, now).map_or(Ok(()), Err)?;
        let excess = self.excess(queue, messages, bytes, beside).ok_or(met)?;
        let mut heads: Vec<u32> = self.queues.at(queue).ready.heads().collect();
        let (mut victims, mut freed) = (Vec::new(), 0);
        while (victims.len() as u64) < excess.messages || freed < excess.bytes {
            // Each list begins with what is longest in it.
            let oldest = heads.iter_mut().min_by_key(|head| self.waits_since(**head)).ok_or(met)?;
            let message = self.messages.at(*oldest);
            victims.push(*oldest);
            freed += u64::from(message.body_len);
            *oldest = message.next;
            heads.retain(|&head| head != NIL);
        }
        Ok(Doomed { limit: excess.limit, victims })
    }

    /// Since when a ready message waits; of the same time the one published first comes first.
    fn waits_since(&self, slot: u32) -> (Time, u64) {
        let message = self.messages.at(slot);
        let ready = self.messages.rare(slot).map_or(Time(0), |rare| rare.ready);
        (ready.max(message.published), message.id)
    }

    /// Lets them die; nothing has changed since they were chosen.
    pub(super) fn let_die(&mut self, queue: u32, doomed: Doomed, turn: &mut Turn<'_>) {
        self.limit_reached(queue, doomed.limit, "oldest_died", turn);
        doomed.victims.into_iter().for_each(|slot| self.die(slot, Reason::Overflow, turn));
    }
}
