//! Heartbeat sizes, the dictionary, bombs and the codec's memory.

use prost::Message;

use crate::limits;
use crate::wire::codec::{Codec, DICTIONARY, DICTIONARY_ID};
use crate::wire::proto::{Code, Ping};
use crate::wire::{Fault, Kind, RawFrame, Split, encode, split};

fn one_frame(bytes: &[u8]) -> RawFrame<'_> {
    match split(bytes, limits::FRAME_BYTES_MAX) {
        Ok(Split::Frame { frame, consumed }) if consumed == bytes.len() => frame,
        other => panic!("not one whole frame: {other:?}"),
    }
}

fn compressed(kind: Kind, payload: &[u8]) -> RawFrame<'_> {
    RawFrame { kind, compressed: true, payload }
}

fn agent_heartbeat() -> Ping {
    let mut ping = Ping { time_s: 1_795_234_567, node: 4711, load_permille: 512, ..Ping::default() };
    for (name, value) in [
        ("uptime_s", 777_123),
        ("cpu_permille", 312),
        ("memory_permille", 641),
        ("disk_permille", 477),
        ("temperature_mc", 58_250),
        ("tasks_running", 12),
        ("tasks_done", 48_211),
        ("tasks_failed", 37),
        ("task_ms_p50", 84),
        ("task_ms_p99", 2310),
    ] {
        ping.push_reading(name, value);
    }
    ping
}

#[test]
fn a_three_field_heartbeat_is_at_most_17_bytes() {
    let mut out = Vec::new();
    let typical = Ping { time_s: 1_795_234_567, node: 4711, load_permille: 512, ..Ping::default() };
    encode(&mut out, Kind::Ping, &typical);
    assert_eq!(out.len(), 13);
    out.clear();
    let widest = Ping { time_s: 1_795_234_567, node: u32::MAX, load_permille: 1000, ..Ping::default() };
    encode(&mut out, Kind::Ping, &widest);
    assert_eq!(out.len(), 16);
    Codec::new().compress_last_frame(&mut out, 0);
    assert!(out.len() <= 17);
}

/// How small heartbeats become at large is held by `tests/heartbeat_sizes.rs`; this is one of them, exactly.
#[test]
fn a_heartbeat_with_190_bytes_of_telemetry_is_at_most_60_bytes() {
    let heartbeat = agent_heartbeat();
    let plain = heartbeat.encode_to_vec();
    let mut out = Vec::new();
    encode(&mut out, Kind::Ping, &heartbeat);
    let mut codec = Codec::new();
    codec.compress_last_frame(&mut out, 0);
    let frame = one_frame(&out);
    assert!(frame.compressed);
    assert_eq!(codec.payload(frame, true, limits::FRAME_BYTES_MAX), Ok(&plain[..]));
    assert_eq!((plain.len(), out.len()), (173, 52));
}

#[test]
fn compression_is_refused_before_it_is_agreed_on() {
    let mut out = Vec::new();
    encode(&mut out, Kind::Ping, &agent_heartbeat());
    let mut codec = Codec::new();
    codec.compress_last_frame(&mut out, 0);
    let fault = codec.payload(one_frame(&out), false, limits::FRAME_BYTES_MAX).unwrap_err();
    assert_eq!(fault, Fault::CompressedTooEarly(Kind::Ping));
    assert_eq!(fault.code(), Code::Unexpected);
}

#[test]
fn a_declared_size_beyond_the_limit_is_refused_before_decompression() {
    let mut codec = Codec::new();
    // 1 MiB + 1, followed by nothing that zstd would take.
    let fault = codec
        .payload(compressed(Kind::Publish, &[0xa0, 1, 0, 0x10, 0, 1, 2, 3]), true, limits::FRAME_BYTES_MAX)
        .unwrap_err();
    assert_eq!(fault.code(), Code::TooLarge);
    assert_eq!(fault.to_string(), "the payload of PUBLISH has 1048577 bytes; at most 1048576 are allowed");
    assert_eq!(codec.scratch_bytes(), 0);
}

/// A zstd frame of `plain` as any sender could make it, whose header says that it holds `declared` bytes.
fn zstd_frame(plain: &[u8], declared: u32) -> Vec<u8> {
    let mut compressor = zstd::bulk::Compressor::with_dictionary(3, DICTIONARY).unwrap();
    compressor.include_magicbytes(false).unwrap();
    compressor.include_contentsize(false).unwrap();
    compressor.include_dictid(false).unwrap();
    let made = compressor.compress(plain).unwrap();
    // A descriptor and a window: in their place a descriptor that says "one segment, 4 bytes of content size".
    assert_eq!(made[0], 0);
    [&[0xa0][..], &declared.to_le_bytes(), &made[2..]].concat()
}

#[test]
fn a_bomb_is_refused() {
    let mut codec = Codec::new();
    let bytes = limits::FRAME_BYTES_MAX;
    // Told the truth, it grows too much; told less, it does not fit; told more, it is too short.
    let honest = zstd_frame(&vec![0; bytes], bytes as u32);
    let fault = codec.payload(compressed(Kind::Publish, &honest), true, bytes).unwrap_err();
    assert!(matches!(fault, Fault::Bomb { bytes: 1_048_576, .. }), "{fault}");
    assert_eq!(codec.scratch_bytes(), 0);
    for length in [255, 256] {
        let lying = zstd_frame(&vec![0; bytes], length);
        let fault = codec.payload(compressed(Kind::Publish, &lying), true, bytes);
        assert_eq!(fault, Err(Fault::Compression(Kind::Publish)));
    }
    assert!(codec.scratch_bytes() < 1024);
    let text = b"some text, some text, some text";
    for length in [30, 32] {
        let lying = zstd_frame(text, length);
        let fault = codec.payload(compressed(Kind::Publish, &lying), true, bytes);
        assert_eq!(fault, Err(Fault::Compression(Kind::Publish)), "{length}");
    }
    let honest = zstd_frame(text, 31);
    assert_eq!(codec.payload(compressed(Kind::Publish, &honest), true, bytes), Ok(&text[..]));
}

#[test]
fn every_form_of_a_frame_header_is_read() {
    let text = b"some text, some text, some text and so on, some text".repeat(6);
    let mut codec = Codec::new();
    for (checksum, dictionary_id, window_log) in
        [(false, false, 20), (true, false, 20), (false, true, 20), (true, true, 20), (false, false, 10)]
    {
        for len in [40, 255, 256, 300] {
            let mut compressor = zstd::bulk::Compressor::with_dictionary(3, DICTIONARY).unwrap();
            compressor.include_magicbytes(false).unwrap();
            compressor.include_checksum(checksum).unwrap();
            compressor.include_dictid(dictionary_id).unwrap();
            compressor.set_parameter(zstd::zstd_safe::CParameter::WindowLog(window_log)).unwrap();
            let packed = compressor.compress(&text[..len]).unwrap();
            let read = codec.payload(compressed(Kind::Publish, &packed), true, limits::FRAME_BYTES_MAX);
            assert_eq!(read, Ok(&text[..len]), "{checksum} {dictionary_id} {window_log} {len}");
        }
    }
}

#[test]
fn a_broken_compressed_payload_is_refused() {
    let mut codec = Codec::new();
    // Empty; sizes that are missing, 0 or cut off; content that is no block.
    let broken: [&[u8]; 8] =
        [&[], &[0], &[0, 0], &[0x20], &[0x20, 0], &[0x60, 1], &[0xe0, 1, 0, 0], &[0x20, 9, 1, 2, 3, 4]];
    for broken in broken {
        let fault = codec.payload(compressed(Kind::Ack, broken), true, limits::FRAME_BYTES_MAX);
        assert_eq!(fault, Err(Fault::Compression(Kind::Ack)), "{broken:?}");
    }
}

#[test]
fn a_frame_that_would_not_shrink_or_would_grow_back_too_much_stays_as_it_is() {
    let mut codec = Codec::new();
    let noise: Vec<u8> = {
        let mut random = fastrand::Rng::with_seed(1);
        std::iter::repeat_with(|| random.u8(..)).take(500).collect()
    };
    for body in [&b""[..], b"abc", &noise, &vec![7; 100_000]] {
        let mut out = vec![1, 2, 3];
        crate::wire::encode_publish(&mut out, 1, "jobs", None, &[body]);
        let before = out.clone();
        codec.compress_last_frame(&mut out, 3);
        assert_eq!(out, before);
    }
}

#[test]
fn scratch_memory_is_given_back() {
    let mut codec = Codec::new();
    let mut random = fastrand::Rng::with_seed(2);
    let large: Vec<u8> = std::iter::repeat_with(|| random.u8(b'a'..b'e')).take(900_000).collect();
    let mut out = Vec::new();
    crate::wire::encode_publish(&mut out, 1, "jobs", None, &[&large]);
    codec.compress_last_frame(&mut out, 0);
    codec.payload(one_frame(&out), true, limits::FRAME_BYTES_MAX).unwrap();
    assert!(codec.scratch_bytes() > 900_000);
    out.clear();
    encode(&mut out, Kind::Ping, &agent_heartbeat());
    codec.compress_last_frame(&mut out, 0);
    codec.payload(one_frame(&out), true, limits::FRAME_BYTES_MAX).unwrap();
    assert!(codec.scratch_bytes() <= 2 * limits::CODEC_SCRATCH_KEPT_BYTES);
}

#[test]
fn the_dictionary_is_small_and_carries_its_id() {
    assert!(DICTIONARY.len() <= 4096, "{} bytes", DICTIONARY.len());
    assert_eq!(DICTIONARY[..4], 0xec30_a437_u32.to_le_bytes());
    assert_eq!(DICTIONARY[4..8], DICTIONARY_ID.to_le_bytes());
    // Peers with the same id hold the same bytes: other bytes need another id.
    assert_eq!((DICTIONARY_ID, crc32c::crc32c(DICTIONARY)), (2, 4_045_191_717));
}
