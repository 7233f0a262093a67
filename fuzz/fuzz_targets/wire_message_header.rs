//! An encoded `Message`: `cargo +nightly fuzz run wire_message_header`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use relaymesh::limits::{MESSAGE_BYTES_MAX, PRIORITIES};
use relaymesh::message::message_header;
use relaymesh::wire::proto;

fuzz_target!(|body: &[u8]| {
    if let Ok(header) = message_header(body, MESSAGE_BYTES_MAX) {
        let message = proto::Message::decode(body).expect("prost takes it");
        assert!(usize::from(header.priority) < PRIORITIES);
        assert_eq!((header.delay_ms, header.ttl_ms), (message.delay_ms, message.ttl_ms));
    }
});
