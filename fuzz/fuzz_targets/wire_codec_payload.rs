//! A compressed payload: `cargo +nightly fuzz run wire_codec_payload`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relaymesh::limits::{COMPRESSION_RATIO_MAX, FRAME_BYTES_MAX};
use relaymesh::wire::{Codec, Kind, RawFrame};

fuzz_target!(|payload: &[u8]| {
    let mut codec = Codec::new();
    let frame = RawFrame { kind: Kind::Ping, compressed: true, payload };
    assert!(codec.payload(frame, false, FRAME_BYTES_MAX).is_err());
    if let Ok(plain) = codec.payload(frame, true, FRAME_BYTES_MAX) {
        assert!(plain.len() <= FRAME_BYTES_MAX && plain.len() <= payload.len() * COMPRESSION_RATIO_MAX);
    }
    assert!(codec.scratch_bytes() <= FRAME_BYTES_MAX);
});
