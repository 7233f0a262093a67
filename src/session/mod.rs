//! One client's state machine: handshake, sequence numbers, windows, resume.
//!
//! Owns what is particular to one client and decides what it may do next. It consumes [`Request`]s, which know no
//! protocol, so that another protocol can stand beside `wire`; it must not know its slot, other sessions, sockets or
//! frames. Order of calls: [`Session::new`], [`Session::hello`], [`Session::welcome`], then [`Session::admit`] for
//! each request and the `answered` functions for what the shard says, until [`Session::close`].

mod pace;
mod request;
mod resume;
mod state;

#[cfg(test)]
mod tests;

pub use pace::Stretch;
pub use request::{Denied, Hello, Publishing, Reason, Request, Settling, Subscribing, Verdict};
pub use resume::{ResumeKey, TOKEN_BYTES};
pub use state::{Attachment, Phase, Rules, Session, Welcome};
