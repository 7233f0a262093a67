//! The first byte is the kind, the rest the payload: `cargo +nightly fuzz run wire_client_frame`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use relaymesh::wire::{ClientFrame, Kind, proto};

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, payload)) = bytes.split_first() else { return };
    let Ok(kind) = Kind::try_from(kind) else { return };
    match ClientFrame::decode(kind, payload) {
        // What was taken, prost takes too, and reads the same.
        Ok(ClientFrame::Ping(payload)) => assert!(proto::Ping::decode(payload).is_ok()),
        Ok(ClientFrame::Publish(view)) => {
            let publish = proto::Publish::decode(payload).expect("prost takes it");
            assert!(view.messages().eq(publish.messages.iter().map(Vec::as_slice)));
            assert_eq!((view.seq, view.queue), (publish.seq, publish.queue.as_str()));
            assert!(view.acks().map(proto::Lease::from).eq(publish.acks));
            assert_eq!((view.parts_bytes, view.replenish), (publish.parts_bytes, publish.replenish));
            assert!(view.parts_bytes == 0 || view.message_count() == 1);
        }
        Ok(ClientFrame::Ack(view)) => {
            let ack = proto::Ack::decode(payload).expect("prost takes it");
            assert!(view.leases().map(proto::Lease::from).eq(ack.leases));
        }
        Ok(ClientFrame::Nack(view)) => {
            let nack = proto::Nack::decode(payload).expect("prost takes it");
            assert!(view.leases().map(proto::Lease::from).eq(nack.leases));
            assert_eq!((view.delay_ms, view.error), (nack.delay_ms, nack.error.as_str()));
        }
        Ok(ClientFrame::Part(part)) => {
            let by_prost = proto::Part::decode(payload).expect("prost takes it");
            assert_eq!((part.offset, part.data), (by_prost.offset, &by_prost.data[..]));
        }
        Ok(_) => {}
        Err(fault) => assert!(fault.to_error().text.len() <= relaymesh::limits::TEXT_BYTES_MAX),
    }
});
