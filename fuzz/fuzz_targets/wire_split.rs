//! A stream of frames: `cargo +nightly fuzz run wire_split`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relaymesh::limits::FRAME_BYTES_MAX;
use relaymesh::wire::{Split, split};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    loop {
        match split(rest, FRAME_BYTES_MAX) {
            Ok(Split::Frame { frame, consumed }) => {
                assert!(frame.payload.len() <= FRAME_BYTES_MAX && consumed >= 2 + frame.payload.len());
                rest = &rest[consumed..];
            }
            Ok(Split::NeedMore { bytes }) => {
                assert!(bytes > rest.len() && bytes <= 5 + FRAME_BYTES_MAX);
                return;
            }
            Err(fault) => {
                assert!(fault.to_error().client_fault);
                return;
            }
        }
    }
});
