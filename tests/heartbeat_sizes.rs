//! Heartbeats with telemetry on the wire: of 190 bytes at most 60 are left.

#[path = "../benches/telemetry.rs"]
mod telemetry;

use prost::Message as _;
use relaymesh::limits::FRAME_BYTES_MAX;
use relaymesh::wire::proto::Ping;
use relaymesh::wire::{self, Codec, Kind, Split};
use telemetry::{Fleet, STRANGER, protobuf_map_len, three_fields};

/// The size on the wire; what comes back is what was sent.
fn size(codec: &mut Codec, ping: &Ping) -> usize {
    let mut out = Vec::new();
    wire::encode(&mut out, Kind::Ping, ping);
    codec.compress_last_frame(&mut out, 0);
    let Ok(Split::Frame { frame, .. }) = wire::split(&out, FRAME_BYTES_MAX) else { panic!("no frame") };
    let payload = codec.payload(frame, true, FRAME_BYTES_MAX).expect("a payload that decompresses");
    assert_eq!(Ping::decode(payload).as_ref(), Ok(ping));
    out.len()
}

/// Fleets, nodes and values that the dictionary was not trained with.
#[test]
fn of_190_bytes_of_telemetry_at_most_60_are_left() {
    let mut random = fastrand::Rng::with_seed(190);
    let mut codec = Codec::new();
    let (mut of_190, mut largest) = (0, 0);
    for _ in 0..5000 {
        let ping = Fleet::draw(&mut random).heartbeat(&mut random);
        of_190 += usize::from((185..=195).contains(&protobuf_map_len(&ping)));
        largest = largest.max(size(&mut codec, &ping));
    }
    assert!(of_190 > 1000, "the others are smaller or larger: {of_190}");
    assert!(largest <= 60, "{largest} bytes");
}

#[test]
fn three_fields_are_at_most_17_bytes() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut codec = Codec::new();
    let mut largest = (0..5000).map(|_| size(&mut codec, &three_fields(&mut random))).max();
    let widest = Ping { time_s: u32::MAX, node: u32::MAX, load_permille: 1000, ..Ping::default() };
    largest = largest.max(Some(size(&mut codec, &widest)));
    assert!(largest.is_some_and(|largest| largest <= 17), "{largest:?} bytes");
    assert_eq!(size(&mut codec, &Ping::default()), 2);
}

#[test]
fn telemetry_of_other_names_becomes_no_larger() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut codec = Codec::new();
    for _ in 0..1000 {
        let stranger = Fleet::choice(STRANGER, &mut random).heartbeat(&mut random);
        let shuffled = Fleet::draw(&mut random).shuffled(&mut random).heartbeat(&mut random);
        for ping in [stranger, shuffled] {
            let mut plain = Vec::new();
            wire::encode(&mut plain, Kind::Ping, &ping);
            let on_the_wire = size(&mut codec, &ping);
            assert!(on_the_wire <= plain.len());
        }
    }
}
