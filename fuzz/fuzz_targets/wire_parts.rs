//! Frames of a client, one after the other, as far as they are parts and ends of messages: what is put together is what
//! the parts carried, and memory stays with what came. `cargo +nightly fuzz run wire_parts`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relaymesh::wire::{ClientFrame, Parts, Split, split};

const MESSAGE_BYTES_MAX: usize = 1000;

fuzz_target!(|bytes: &[u8]| {
    let (mut parts, mut expected) = (Parts::default(), Vec::new());
    let mut rest = bytes;
    while let Ok(Split::Frame { frame, consumed }) = split(rest, 4096) {
        rest = &rest[consumed..];
        match ClientFrame::decode(frame.kind, frame.payload) {
            Ok(ClientFrame::Part(part)) => {
                let is_next = part.offset as usize == expected.len();
                let fits = expected.len() + part.data.len() <= MESSAGE_BYTES_MAX;
                assert_eq!(parts.push(&part, MESSAGE_BYTES_MAX).is_ok(), is_next && fits);
                if is_next && fits {
                    expected.extend_from_slice(part.data);
                }
            }
            Ok(ClientFrame::Publish(view)) if view.parts_bytes > 0 => {
                let end = view.messages().next().expect("it has one");
                if let Ok(whole) = parts.finish(view.parts_bytes, end, MESSAGE_BYTES_MAX) {
                    expected.extend_from_slice(end);
                    assert_eq!(whole, std::mem::take(&mut expected));
                }
            }
            _ => {}
        }
        assert_eq!(parts.len(), expected.len());
        assert!(parts.capacity() <= 2 * MESSAGE_BYTES_MAX);
    }
});
