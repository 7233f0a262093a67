//! The shadow model: what must be true, kept apart from the product and far simpler than it.
//!
//! [`Ledger`] stands where the users stand: it knows every message from its publish to its ack, end to end, across all
//! crashes. [`Watch`] stands at the shard's door: it sees every command as it is applied and every effect as it leaves,
//! in shard time. Both panic with a sentence that says what was promised and what happened.

mod broadcasts;
mod ledger;
mod watch;
mod watch_leases;

pub(crate) use broadcasts::Broadcasts;
pub(crate) use ledger::{Facts, Ledger};
pub(crate) use watch::Watch;
