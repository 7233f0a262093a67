//! A segment of the log: `cargo +nightly fuzz run log_segment`. Random bytes rarely get past the checksums; begin with
//! `src/log/golden.seg` in the corpus.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relaymesh::log::decode_segment;

fuzz_target!(|bytes: &[u8]| {
    let (mut records, mut data_bytes, mut last) = (0, 0, None);
    let decoded = decode_segment(bytes, &mut |position, data| {
        assert!(last.is_none_or(|last| last < position), "positions rise");
        last = Some(position);
        records += 1;
        data_bytes += data.len() as u64;
    });
    match decoded {
        Ok(summary) => {
            assert_eq!((summary.records, summary.data_bytes), (records, data_bytes));
            assert!(data_bytes <= bytes.len() as u64 && summary.end <= bytes.len() as u64);
        }
        Err(_) => assert_eq!(records, 0, "a header that is refused gives no records"),
    }
});
