//! The segmented write-ahead log of one shard. It keeps records and does not know what they mean.

mod journal;

pub use journal::{Journal, Position, ReadTicket, Room, Ticket};
