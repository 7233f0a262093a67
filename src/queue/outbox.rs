//! Effects on their way out, each kept until what it says is durable.
//!
//! The brain pushes while it runs; after each commit, and after each turn, the engine takes with
//! [`Outbox::release`] what each loop may have. Effects of one ticket keep their order.

use std::collections::VecDeque;

use crate::ids::LoopId;
use crate::limits;
use crate::log::Ticket;
use crate::mail::{Effect, EffectBatch, PublishAcked, Settled};

/// The effects of all loops that wait for their commit.
#[derive(Debug, Default)]
pub struct Outbox {
    /// By the loop's number; dense, for loops are numbered from 0 and there are few.
    loops: Vec<LoopOutbox>,
    /// The operator API's, whose number is the last one there is.
    operator: LoopOutbox,
    held: usize,
}

#[derive(Debug, Default)]
struct LoopOutbox {
    /// Something was ever sent to it.
    is_used: bool,
    /// Rising tickets.
    waiting: VecDeque<(Ticket, EffectBatch)>,
    /// Bodies in it.
    body_bytes: usize,
}

impl Outbox {
    /// An empty outbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `effect` until `after` is committed. `body` is the delivery's, empty for other effects. Consecutive
    /// answers of one connection become one.
    pub fn push(&mut self, after: Ticket, effect: Effect, body: &[u8]) {
        let lane = self.lane_for(effect.loop_id());
        lane.is_used = true;
        lane.body_bytes += body.len();
        let batch = lane.batch_after(after);
        batch.bodies.extend_from_slice(body);
        let joined = match (batch.effects.last_mut(), &effect) {
            (Some(Effect::PublishAcked(last)), Effect::PublishAcked(next)) => join_acked(last, next),
            (Some(Effect::Settled(last)), Effect::Settled(next)) => join_settled(last, next),
            _ => false,
        };
        if !joined {
            batch.effects.push(effect);
            self.held += 1;
        }
    }

    /// Takes everything for `loop_id` that waits for nothing later than `committed`, in order of the tickets.
    pub fn release(&mut self, committed: Ticket, loop_id: LoopId) -> Option<EffectBatch> {
        let lane = match loop_id {
            LoopId::OPERATOR => &mut self.operator,
            LoopId(number) => self.loops.get_mut(usize::from(number))?,
        };
        let mut released = EffectBatch::default();
        while let Some((_, batch)) = lane.waiting.pop_front_if(|(ticket, _)| *ticket <= committed) {
            let mut batch = batch;
            released.append(&mut batch);
        }
        self.held -= released.effects.len();
        lane.body_bytes -= released.bodies.len();
        (!released.is_empty()).then_some(released)
    }

    /// Whether anything for `loop_id` waits for a commit.
    #[must_use]
    pub fn holds_for(&self, loop_id: LoopId) -> bool {
        let lane = match loop_id {
            LoopId::OPERATOR => Some(&self.operator),
            LoopId(number) => self.loops.get(usize::from(number)),
        };
        lane.is_some_and(|lane| !lane.waiting.is_empty())
    }

    /// Whether so many bodies wait for `loop_id` that nothing more should be delivered to it. Bounds what the
    /// deliveries to a consumer with much credit cost, whether or not it reads them.
    #[inline]
    #[must_use]
    pub fn is_full(&self, loop_id: LoopId) -> bool {
        let lane = match loop_id {
            LoopId::OPERATOR => Some(&self.operator),
            LoopId(number) => self.loops.get(usize::from(number)),
        };
        lane.is_some_and(|lane| lane.body_bytes >= limits::DELIVERIES_HELD_BYTES_MAX)
    }

    /// The loops that were ever sent something.
    pub fn loops(&self) -> impl Iterator<Item = LoopId> + '_ {
        let numbered = (0..).map(LoopId).zip(&self.loops).chain([(LoopId::OPERATOR, &self.operator)]);
        numbered.filter(|(_, lane)| lane.is_used).map(|(loop_id, _)| loop_id)
    }

    fn lane_for(&mut self, loop_id: LoopId) -> &mut LoopOutbox {
        if loop_id == LoopId::OPERATOR {
            return &mut self.operator;
        }
        let at = usize::from(loop_id.0);
        if at >= self.loops.len() {
            self.loops.resize_with(at + 1, LoopOutbox::default);
        }
        &mut self.loops[at]
    }

    /// Effects kept.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }
}

impl LoopOutbox {
    fn batch_after(&mut self, after: Ticket) -> &mut EffectBatch {
        // Nearly always the newest ticket or the oldest: look from the back.
        let behind = self.waiting.iter().rev().take_while(|(ticket, _)| *ticket > after).count();
        let at = self.waiting.len() - behind;
        if at == 0 || self.waiting[at - 1].0 != after {
            self.waiting.insert(at, (after, EffectBatch::default()));
            return &mut self.waiting[at].1;
        }
        &mut self.waiting[at - 1].1
    }
}

fn join_acked(last: &mut PublishAcked, next: &PublishAcked) -> bool {
    let follows = last.conn == next.conn
        && last.seq + u64::from(last.more) + 1 == next.seq
        && last.first_id.0 + u64::from(last.messages) == next.first_id.0;
    let Some(bytes) = last.bytes.checked_add(next.bytes).filter(|_| follows) else { return false };
    last.more += next.more + 1;
    last.messages += next.messages;
    last.bytes = bytes;
    true
}

fn join_settled(last: &mut Settled, next: &Settled) -> bool {
    let plain = |settled: &Settled| settled.lost.is_none() && settled.refused.is_none();
    let follows = last.conn == next.conn && last.seq + u64::from(last.more) + 1 == next.seq;
    if !(follows && plain(last) && plain(next)) {
        return false;
    }
    last.more += next.more + 1;
    true
}
