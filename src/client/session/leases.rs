//! The leases of a session: those out with the user, and those being settled.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::time::Duration;

use crate::client::Machine;
use crate::ids::{LeaseId, SubscriptionId};
use crate::limits;

/// What the user wants done with a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The work is done.
    Ack,
    /// The work failed.
    Nack {
        /// Instead of the queue's backoff.
        delay: Option<Duration>,
        /// Kept with the message, cut to 1,024 bytes.
        error: String,
        /// Never retry.
        reject: bool,
    },
    /// The lease is to last this long from when the server hears of it.
    Extend {
        /// 1 ms to 12 h.
        lease: Duration,
    },
}

/// A message out with the user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) subscription: SubscriptionId,
    pub(super) bytes: u32,
    /// It is acked with a publish that has no answer: it may be extended and not settled.
    is_acked_with: bool,
    /// An extension came too late: it is extended no more, and settling it may still count.
    is_late: bool,
}

/// A request to settle that has no answer.
#[derive(Debug)]
pub(super) struct Settling {
    /// Its number on this connection; 0 until it is sent.
    seq: u64,
    pub(super) leases: Vec<LeaseId>,
    pub(super) settlement: Settlement,
    /// It was sent on an earlier connection already.
    pub(super) resent: bool,
}

/// All leases. Those held are bounded by the credit of the subscriptions; each is acked or nacked once, and has at most
/// one extension waiting.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: HashMap<LeaseId, Held>,
    /// Rising in `seq` among those sent.
    settling: VecDeque<Settling>,
    /// How many of `settling`, at the front, were sent on this connection.
    sent: usize,
}

impl Leases {
    /// A delivery arrived. False when its lease is held already: it must not be handed out again. One that is being
    /// settled is not delivered, because a connection subscribes after it has sent every settlement.
    pub(super) fn delivered(&mut self, lease: LeaseId, subscription: SubscriptionId, bytes: u32) -> bool {
        match self.held.entry(lease) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(Held { subscription, bytes, is_acked_with: false, is_late: false });
                true
            }
        }
    }

    /// Takes an ack or nack. `None` when the lease is not held.
    pub(super) fn settle(&mut self, lease: LeaseId, settlement: Settlement) -> Option<Held> {
        if self.held.get(&lease)?.is_acked_with {
            return None;
        }
        let held = self.held.remove(&lease)?;
        self.push(lease, settlement);
        Some(held)
    }

    /// Whether all are held, and may be settled.
    pub(super) fn are_held(&self, leases: &[LeaseId]) -> bool {
        leases.iter().all(|lease| self.held.get(lease).is_some_and(|held| !held.is_acked_with))
    }

    /// These are acked with a publish, or are not after all.
    pub(super) fn ack_with(&mut self, leases: &[LeaseId], is_acked_with: bool) {
        for lease in leases {
            if let Some(held) = self.held.get_mut(lease) {
                held.is_acked_with = is_acked_with;
            }
        }
    }

    /// The lease is over: with the answer of the publish that acked it, or because it was lost.
    pub(super) fn over(&mut self, lease: LeaseId) -> Option<Held> {
        self.held.remove(&lease)
    }

    /// An extension of these came too late. Returns those of which that was not known.
    pub(super) fn too_late(&mut self, leases: Vec<LeaseId>) -> Vec<LeaseId> {
        let mut is_news = |lease: &LeaseId| {
            self.held.get_mut(lease).is_some_and(|held| !std::mem::replace(&mut held.is_late, true))
        };
        leases.into_iter().filter(|lease| is_news(lease)).collect()
    }

    /// Takes an extension, which replaces one that is still unsent. False when the lease is not held, or known to be over.
    pub(super) fn extend(&mut self, lease: LeaseId, settlement: Settlement) -> bool {
        if self.held.get(&lease).is_none_or(|held| held.is_late) {
            return false;
        }
        let unsent = self.settling.iter_mut().skip(self.sent);
        let mut waiting = unsent.filter(|settling| !settling.is_final() && settling.leases == [lease]);
        match waiting.next() {
            Some(waiting) => waiting.settlement = settlement,
            None => self.push(lease, settlement),
        }
        true
    }

    /// Joins the last request when that is unsent and asks for the same.
    fn push(&mut self, lease: LeaseId, settlement: Settlement) {
        let is_unsent = self.settling.len() > self.sent;
        match self.settling.back_mut() {
            Some(last)
                if is_unsent
                    && !last.resent
                    && settlement == Settlement::Ack
                    && last.settlement == Settlement::Ack
                    && last.leases.len() < limits::BATCH_MESSAGES_MAX =>
            {
                last.leases.push(lease);
            }
            _ => self.settling.push_back(Settling { seq: 0, leases: vec![lease], settlement, resent: false }),
        }
    }

    /// Sends what is unsent, as far as the server's window goes.
    pub(super) fn send(&mut self, machine: &mut Machine, out: &mut Vec<u8>) {
        let batch_max = machine.batch_messages_max();
        if batch_max == 0 {
            return;
        }
        while let Some(next) = self.settling.get_mut(self.sent) {
            if next.leases.len() > batch_max {
                // Joined for a server that takes more at once.
                let leases = next.leases.split_off(batch_max);
                let rest =
                    Settling { seq: 0, leases, settlement: next.settlement.clone(), resent: next.resent };
                self.settling.insert(self.sent + 1, rest);
                continue;
            }
            let leases = &next.leases;
            let sent = match &next.settlement {
                Settlement::Ack => machine.ack(leases, false, out),
                Settlement::Nack { delay, error, reject } => {
                    machine.nack(leases, false, *delay, error, *reject, out)
                }
                Settlement::Extend { lease } => machine.extend(leases, *lease, out),
            };
            let Ok(seq) = sent else { return };
            next.seq = seq;
            self.sent += 1;
        }
    }

    /// The request `seq` of this connection is answered.
    pub(super) fn answered(&mut self, seq: u64) -> Option<Settling> {
        let at = self.settling.iter().take(self.sent).position(|settling| settling.seq == seq)?;
        self.sent -= 1;
        self.settling.remove(at)
    }

    pub(super) fn connection_lost(&mut self) {
        for settling in self.settling.iter_mut().take(self.sent) {
            settling.seq = 0;
            settling.resent = true;
        }
        self.sent = 0;
    }

    /// The leases to list in a HELLO, the most important first: those whose settlement is on its way, then the oldest.
    pub(super) fn to_present(&self) -> impl Iterator<Item = LeaseId> {
        let settling = self.settling.iter().filter(|settling| settling.is_final());
        let held = self.held.iter().map(|(&lease, held)| (!held.is_acked_with, lease));
        let mut held: Vec<(bool, LeaseId)> = held.collect();
        // The order of a hash table must not decide which leases have room in a HELLO.
        held.sort_unstable_by_key(|&(later, lease)| (later, lease.message, lease.boot, lease.attempt));
        let held = held.into_iter().map(|(_, lease)| lease);
        settling.flat_map(|settling| settling.leases.iter().copied()).chain(held)
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn settling(&self) -> usize {
        self.settling.len()
    }
}

impl Settling {
    fn is_final(&self) -> bool {
        !matches!(self.settlement, Settlement::Extend { .. })
    }
}
