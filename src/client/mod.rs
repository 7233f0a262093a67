//! The SDK: a pure connection machine, a reconnect policy and a blocking transport.
//!
//! Four layers, each usable alone:
//! - [`Machine`]: one connection, pure. For load generators and other event loops.
//! - [`Policy`]: when to connect again, pure.

mod machine;
mod message;
mod policy;
mod session;

pub use machine::{Broken, Event, Inbound, Machine, RequestError, Room, Silence};
pub use message::{Message, MessageError};
pub use policy::{
    Backoff, Jitter, Policy, RECONNECT_INITIAL, RECONNECT_MAX, STEADY_AFTER, Verdict, is_final,
};
pub use session::{
    Deliveries, Ended, Link, Lost, Session, SessionConfig, SessionEvent, Settlement, Unsendable,
};
