//! The SDK: what devices, agents and producers speak to a server with.
//!
//! Four layers, each of use alone; only the last knows a socket and a clock:
//! - [`Machine`]: one connection. For load generators and other event loops.
//! - [`Policy`]: when to connect again.
//! - [`Session`]: one client across its connections: re-sends what is unanswered, resumes, subscribes again.
//! - [`Client`]: a session on a blocking socket, for programs that do one thing at a time.
//!
//! It knows no module of the server but `wire` and what lies below it.
//!
//! ```no_run
//! use relaymesh::client::{Client, Error, Message, Nack, Options};
//! use std::time::Duration;
//!
//! fn main() -> Result<(), Error> {
//!     let mut client = Client::connect(Options::new("127.0.0.1:7400"))?;
//!     let id = client.publish("jobs", &Message::new("resize 17").priority(7))?;
//!     println!("message {id} is on disk");
//!
//!     client.subscribe("jobs", 8)?; // at most 8 messages out with us at a time
//!     while let Some(delivery) = client.next(Some(Duration::from_secs(1)))? {
//!         match std::str::from_utf8(delivery.message.payload()) {
//!             Ok(job) => {
//!                 println!("{job}");
//!                 client.ack(delivery.lease)?;
//!             }
//!             Err(error) => client.nack(delivery.lease, Nack { error: error.to_string(), ..Nack::default() })?,
//!         }
//!     }
//!     let left = client.close(Duration::from_secs(5))?; // waits for the answers to our acks
//!     assert!(left.refused.is_empty());
//!     Ok(())
//! }
//! ```

mod blocking;
mod error;
mod machine;
mod message;
mod policy;
mod session;

pub use blocking::{
    Broadcast, Client, Delivery, Flushed, Nack, Notice, OnNotice, Options, Receipt, Received, Waker,
};
pub use error::{Blame, Error};
pub use machine::{Broken, Event, Inbound, Machine, RequestError, Room, Silence};
pub use message::{Message, MessageError};
pub use policy::{
    Backoff, Jitter, Policy, RECONNECT_INITIAL, RECONNECT_MAX, STEADY_AFTER, Verdict, is_final,
};
pub use session::{
    Deliveries, Ended, Link, Lost, Session, SessionConfig, SessionEvent, Settlement, Unsendable,
};

#[cfg(test)]
pub(crate) use blocking::tests::serve as serve_in_miniature;
