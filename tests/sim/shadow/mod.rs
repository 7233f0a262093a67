//! The shadow model: what must be true, kept apart from the product and far simpler than it.
//!
//! [`Ledger`] stands where the users stand: it knows every message from its publish to its ack, end to end, across all
//! crashes. [`Watch`] stands at the shard's door: it sees every command as it is applied and every effect as it leaves,
//! in shard time. Both panic with a sentence that says what was promised and what happened.

mod asked;
mod bound;
mod broadcasts;
mod deaths;
mod ids;
mod keys;
mod ledger;
mod timed;
mod watch;
mod watch_leases;

pub(crate) use asked::Stage;
pub(crate) use bound::{Attributes, Binding, FILTERS, PATTERNS, TOPICS};
pub(crate) use broadcasts::Broadcasts;
pub(crate) use ledger::{Facts, Ledger};
pub(crate) use watch::Watch;
