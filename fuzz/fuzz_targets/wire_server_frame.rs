//! The first byte is the kind, the rest the payload: `cargo +nightly fuzz run wire_server_frame`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use relaymesh::wire::{Kind, ServerFrame, proto};

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, payload)) = bytes.split_first() else { return };
    let Ok(kind) = Kind::try_from(kind) else { return };
    if let Ok(ServerFrame::Deliver(view)) = ServerFrame::decode(kind, payload) {
        let deliver = proto::Deliver::decode(payload).expect("prost takes it");
        assert_eq!(view.delivery_count(), deliver.deliveries.len());
        let (leased, told): (Vec<_>, Vec<_>) =
            deliver.deliveries.into_iter().partition(|delivery| delivery.lease.is_some());
        assert_eq!((view.deliveries().count(), view.broadcasts().count()), (leased.len(), told.len()));
        for (read, by_prost) in view.broadcasts().zip(told) {
            assert_eq!((read.message, by_prost.parts_bytes), (&*by_prost.message, 0));
        }
        for (read, by_prost) in view.deliveries().zip(leased) {
            assert_eq!(Some(proto::Lease::from(read.lease)), by_prost.lease);
            assert_eq!(read.message, by_prost.message);
            assert_eq!(read.parts_bytes, by_prost.parts_bytes);
        }
    }
});
