//! Bytes to frames and back.

/// The protocol's messages, generated from `proto/`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/relaymesh.v1.rs"));
}
