//! A record of the queue's log: `cargo +nightly fuzz run queue_record`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relaymesh::queue::record::{Record, decode, encode_boot, encode_dedup, encode_done, encode_leased, encode_returned};

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = decode(bytes) else { return };
    // Nothing is made up: every list has its items in the record, and a publish all its bodies.
    let mut again = Vec::new();
    match &record {
        Record::Boot(boot) => encode_boot(&mut again, *boot),
        Record::Leased { boot: Some(boot), leases } => encode_leased(&mut again, *boot, leases),
        Record::Done(ids) => encode_done(&mut again, ids),
        Record::Returned(ids) => encode_returned(&mut again, ids),
        Record::Dedup(dedup) => {
            encode_dedup(&mut again, dedup.namespace, dedup.queue, dedup.ids.iter().copied());
        }
        Record::Publish(publish) => {
            let bodies: usize = publish.messages.iter().map(|entry| entry.message.body_len as usize).sum();
            assert!(!publish.messages.is_empty() && publish.messages.len() <= bytes.len());
            assert_eq!(bodies, publish.bodies.len());
            assert_eq!(publish.bodies_offset as usize + bodies, bytes.len());
            return;
        }
        Record::Snapshot(snapshot) => {
            assert!(snapshot.failures.len() <= bytes.len() && bytes.ends_with(snapshot.body));
            return;
        }
        _ => return,
    }
    // What was written again reads the same, and is no longer: the encoders use the shortest numbers.
    assert!(again.len() <= bytes.len());
    assert_eq!(decode(&again), Ok(record));
});
