//! Bytes to frames and back.
//!
//! Owns the framing, the encoding of every frame, the compression dictionary and every limit on what a peer may
//! send. Knows no session, no socket and no clock: a [`Fault`] is a verdict on bytes, what follows from it is for
//! others to decide. The protocol's description for implementers is the comments in `proto/`.
//!
//! Receiving: [`split`] finds the first frame in a buffer, [`Codec::payload`] decompresses it when need be,
//! [`ClientFrame::decode`] (in a server) or [`ServerFrame::decode`] (in a client) says what it is, and
//! [`crate::message`] reads each message of a PUBLISH. What is larger than a frame is put together in [`Parts`]; nothing
//! else that is received is kept, and nothing is allocated for what a peer merely declares. Sending: an `encode`
//! function appends one frame to a buffer, after which [`Codec::compress_last_frame`] may make it smaller;
//! [`Codec::compress_messages`] only tries where that promises something.

mod client_frame;
mod codec;
mod deliver;
mod fault;
pub(crate) mod fields;
mod frame;
mod lease;
mod part;
mod publish;
mod server_frame;
mod settle;
mod varint;

#[cfg(test)]
mod tests;

pub use client_frame::ClientFrame;
pub use codec::{Codec, DICTIONARY, DICTIONARY_ID, compressible_bytes};
pub use deliver::{BroadcastDelivery, DeliverView, DeliverWriter, Delivery};
pub use fault::{Fault, Problem, clip};
pub use frame::{EMPTY_PING, EMPTY_PONG, Kind, RawFrame, Split, encode, split};
pub use part::{PartView, Parts, encode_part};
pub use publish::{
    PublishView, encode_ack_and_publish, encode_publish, encode_publish_ack, encode_publish_end,
    encode_reply_ok,
};
pub use server_frame::ServerFrame;
pub use settle::{SettleView, encode_ack};

/// The protocol's messages, generated from `proto/`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::invalid_html_tags)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/relaymesh.v1.rs"));
}
