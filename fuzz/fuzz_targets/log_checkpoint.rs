//! A checkpoint of a segment: `cargo +nightly fuzz run log_checkpoint`. Its checksum is put right, so that what follows is
//! looked at.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relaymesh::log::decode_checkpoint;

/// Where the checksum lies, how long what follows the header is, and how long the header is.
const CRC: std::ops::Range<usize> = 12..16;
const LEN: std::ops::Range<usize> = 32..40;
const HEADER_BYTES: usize = 128;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HEADER_BYTES {
        bytes[..CRC.start].copy_from_slice(b"RMCHECKP\x01\0\0\0");
        let len = u64::from_le_bytes(bytes[LEN].try_into().unwrap());
        let whole = (HEADER_BYTES as u64).saturating_add(len).min(bytes.len() as u64) as usize;
        bytes[CRC].fill(0);
        let crc = crc32c::crc32c(&bytes[..whole]);
        bytes[CRC].copy_from_slice(&crc.to_le_bytes());
    }
    let mut heads = 0;
    let is_whole = decode_checkpoint(&bytes, 1 << 26, &mut |_, head, _| heads += head.len());
    assert!(heads <= bytes.len() && (is_whole || heads == 0));
});
