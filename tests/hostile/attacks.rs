//! The attacks: each opens what it needs, does its worst and checks how it was closed.
//!
//! Here are those that say something wrong. Those that are only slow are in `slow.rs`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use prost::Message as _;
use relaymesh::wire::proto::{Code, Kind};
use relaymesh::wire::{DICTIONARY, DICTIONARY_ID, EMPTY_PING, proto};

use crate::slow;
use crate::support::wire::{COMPRESSED, Wire, frame, hello, varint};

/// One attack on a server.
pub(crate) type Attack = fn(SocketAddr);

/// A refusal needs no deadline: it comes at once. What a machine that is held up may add to it.
const AT_ONCE: Duration = Duration::from_secs(60);

/// All of them with their names.
pub(crate) const ATTACKS: [(&str, Attack); 36] = [
    ("random bytes", random_bytes),
    ("4 GiB declared", |server| {
        refused_before(server, &[1, 0xff, 0xff, 0xff, 0xff, 0x0f], &[Code::TooLarge])
    }),
    ("256 MiB declared", |server| refused_before(server, &[1, 0xff, 0xff, 0xff, 0x7f], &[Code::TooLarge])),
    ("a length in a longer form", |server| refused_before(server, &[4, 0x80, 0x00], &[Code::Malformed])),
    ("an unknown kind", |server| refused_before(server, &[63, 0], &[Code::UnknownKind])),
    ("kind zero", |server| refused_before(server, &[0, 0], &[Code::UnknownKind])),
    ("the reserved bit", |server| refused_before(server, &[0x44, 0], &[Code::Malformed])),
    ("a ping before HELLO", |server| refused_before(server, &[4, 0], &[Code::Unexpected])),
    ("a HELLO above 4 KiB", hello_too_large),
    ("a HELLO with too many leases", hello_with_too_many_leases),
    ("a HELLO that is no message", |server| refused_before(server, &[1, 2, 0xff, 0xff], &[Code::Malformed])),
    ("a bomb before authentication", bomb_before_welcome),
    ("half a HELLO and silence", slow::half_a_hello),
    ("silence", slow::silence),
    ("a HELLO a byte now and then", slow::hello_in_drops),
    ("a second HELLO", second_hello),
    ("an unknown kind after WELCOME", |server| refused_after(server, &[63, 0], &[Code::UnknownKind])),
    ("frames only a server sends", server_frames),
    ("a bomb after authentication", bomb_after_welcome),
    ("compression not agreed on", compression_not_agreed_on),
    ("a wrong seq", wrong_seq),
    ("more than the window", more_than_the_window),
    ("a message that begins in its middle", |server| parts(server, &[(7, 3)], None, Code::Invalid)),
    ("a part twice", |server| parts(server, &[(0, 1000), (0, 1000)], None, Code::Invalid)),
    ("an end without a beginning", |server| parts(server, &[], Some(5), Code::Invalid)),
    ("an end that says another length", |server| parts(server, &[(0, 1000)], Some(999), Code::Invalid)),
    ("a part before HELLO", |server| {
        refused_before(server, &frame(Kind::Part as u8, &[0x12, 1, b'x']), &[Code::Unexpected])
    }),
    ("half a million empty leases", empty_submessages),
    ("a flood of pings", flood_of_pings),
    ("random bytes after WELCOME", random_bytes_after_welcome),
    ("silence after WELCOME", slow::silence_after_welcome),
    ("a frame in drops of one byte", slow::frame_in_drops),
    ("pings and never a read", slow::pings_without_reading),
    ("a subscription and never a read", slow::deliveries_without_reading),
    ("a subscription, pings and never a read", slow::crowd_without_reading),
    ("a subscription and a byte read now and then", slow::reading_in_drops),
];

/// Sends `bytes` first of all and is refused with one of `codes`.
fn refused_before(server: SocketAddr, bytes: &[u8], codes: &[Code]) {
    let mut wire = Wire::connect(server);
    wire.send_bytes(bytes);
    assert_refused(wire, codes);
}

/// Is welcomed, sends `bytes` and is refused with one of `codes`.
fn refused_after(server: SocketAddr, bytes: &[u8], codes: &[Code]) {
    let (mut wire, _) = Wire::welcome(server, &fresh_client());
    wire.send_bytes(bytes);
    assert_refused(wire, codes);
}

fn assert_refused(mut wire: Wire, codes: &[Code]) {
    let (code, _) = wire.ending(AT_ONCE);
    assert!(code.is_some_and(|code| codes.contains(&code)), "closed with {code:?}, expected {codes:?}");
}

pub(crate) fn fresh_client() -> String {
    format!("hostile-{:016x}", fastrand::u64(..))
}

fn random_bytes(server: SocketAddr) {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut wire = Wire::connect(server);
        let bytes: Vec<u8> = (0..random.usize(2..16_000)).map(|_| random.u8(..)).collect();
        wire.send_bytes(&bytes);
        // The code may be lost where the server closes with bytes unread; that it closes may not.
        wire.ending(AT_ONCE);
    }
}

fn random_bytes_after_welcome(server: SocketAddr) {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut wire, _) = Wire::welcome(server, &fresh_client());
        wire.send_bytes(&[0x40 | random.u8(..)]);
        let bytes: Vec<u8> = (0..random.usize(2..100_000)).map(|_| random.u8(..)).collect();
        wire.send_bytes(&bytes);
        wire.ending(AT_ONCE);
    }
}

fn hello_too_large(server: SocketAddr) {
    let mut bytes = vec![Kind::Hello as u8];
    bytes.extend(varint(4097));
    refused_before(server, &bytes, &[Code::TooLarge]);
}

fn hello_with_too_many_leases(server: SocketAddr) {
    // Field 9, empty, again and again: the smallest way to declare many.
    let payload = [0x4a, 0x00].repeat(2000);
    refused_before(server, &frame(Kind::Hello as u8, &payload), &[Code::TooLarge]);
}

fn second_hello(server: SocketAddr) {
    let again = frame(Kind::Hello as u8, &hello(&fresh_client()).encode_to_vec());
    refused_after(server, &again, &[Code::Unexpected]);
}

fn server_frames(server: SocketAddr) {
    for kind in
        [Kind::Welcome, Kind::Pong, Kind::PublishAck, Kind::Reply, Kind::Deliver, Kind::Goaway, Kind::Error]
    {
        refused_after(server, &frame(kind as u8, &[]), &[Code::Unexpected]);
    }
}

/// A compressed payload that grows to `len` zero bytes and says it grows to `declared`.
fn bomb(len: usize, declared: u64) -> Vec<u8> {
    let mut compressor = zstd::bulk::Compressor::with_dictionary(3, DICTIONARY).expect("zstd can be set up");
    for parameter in [
        zstd::zstd_safe::CParameter::Format(zstd::zstd_safe::FrameFormat::Magicless),
        zstd::zstd_safe::CParameter::ContentSizeFlag(false),
        zstd::zstd_safe::CParameter::ChecksumFlag(false),
        zstd::zstd_safe::CParameter::DictIdFlag(false),
    ] {
        compressor.set_parameter(parameter).expect("zstd knows the parameter");
    }
    let made = compressor.compress(&vec![0; len]).expect("zeroes compress");
    // A descriptor and a window: in their place a descriptor that says "one segment, 8 bytes of content size".
    [&[0xe0][..], &declared.to_le_bytes(), &made[2..]].concat()
}

fn bomb_before_welcome(server: SocketAddr) {
    let payload = bomb(16 << 20, 16 << 20);
    assert!(payload.len() < 4096, "{} bytes must fit a frame", payload.len());
    refused_before(server, &frame(Kind::Hello as u8 | COMPRESSED, &payload), &[Code::Unexpected]);
}

fn bomb_after_welcome(server: SocketAddr) {
    for (len, declared, codes) in [
        (256 << 20, 256 << 20, &[Code::TooLarge][..]),
        (64 << 20, 1 << 20, &[Code::Malformed, Code::TooLarge]),
        (64 << 20, 100, &[Code::Malformed, Code::TooLarge]),
        (1 << 20, u64::MAX, &[Code::Malformed, Code::TooLarge]),
        // No larger than a frame may be, from a hundredth of its bytes.
        (1 << 20, 1 << 20, &[Code::TooLarge]),
    ] {
        let hello = proto::Hello { dictionaries: vec![DICTIONARY_ID], ..hello(&fresh_client()) };
        let (mut wire, welcome) = Wire::welcome_with(server, &hello);
        assert_eq!(welcome.dictionary, DICTIONARY_ID);
        wire.send_bytes(&frame(Kind::Ping as u8 | COMPRESSED, &bomb(len, declared)));
        assert_refused(wire, codes);
    }
}

fn compression_not_agreed_on(server: SocketAddr) {
    let bytes = frame(Kind::Ping as u8 | COMPRESSED, &bomb(100, 100));
    refused_after(server, &bytes, &[Code::Unexpected]);
}

fn wrong_seq(server: SocketAddr) {
    for seq in [0, 2, u64::MAX] {
        let (mut wire, _) = Wire::welcome(server, &fresh_client());
        let subscribe = proto::Subscribe {
            seq,
            subscription: 1,
            queue: "jobs".to_owned(),
            credit_messages: 1,
            credit_bytes: 0,
        };
        wire.send(Kind::Subscribe, &subscribe);
        assert_refused(wire, &[Code::Unexpected, Code::Invalid, Code::Malformed]);
    }
}

fn more_than_the_window(server: SocketAddr) {
    let (mut wire, welcome) = Wire::welcome(server, &fresh_client());
    let limits = welcome.limits.expect("WELCOME carries the limits");
    let batch = limits.batch_messages_max as usize;
    let mut bytes = Vec::new();
    // In one write: the server has no moment to answer any of it in between.
    for seq in 1..=u64::from(limits.publish_messages_max) / batch as u64 + 2 {
        let messages = vec![Vec::new(); batch];
        let publish = proto::Publish { seq, queue: "window".to_owned(), messages, ..Default::default() };
        bytes.extend(frame(Kind::Publish as u8, &publish.encode_to_vec()));
    }
    wire.send_bytes(&bytes);
    assert_refused(wire, &[Code::WindowExceeded]);
}

/// Sends PARTs of these offsets and lengths, then an end that says so many bytes went before.
fn parts(server: SocketAddr, parts: &[(u32, usize)], end: Option<u32>, code: Code) {
    let (mut wire, _) = Wire::welcome(server, &fresh_client());
    for &(offset, len) in parts {
        wire.send(Kind::Part, &proto::Part { offset, data: vec![0; len] });
    }
    if let Some(parts_bytes) = end {
        let messages = vec![b"end".to_vec()];
        let queue = "parts".to_owned();
        wire.send(
            Kind::Publish,
            &proto::Publish { seq: 1, queue, messages, parts_bytes, ..Default::default() },
        );
    }
    assert_refused(wire, &[code]);
}

/// Pings without end, and every PONG is read: many turns' worth at once, which are all answered, and nothing else.
fn flood_of_pings(server: SocketAddr) {
    const PINGS: usize = 1 << 18;
    let (mut wire, _) = Wire::welcome(server, &fresh_client());
    let mut sender = wire.sender();
    let sender = thread::spawn(move || sender.write_all(&EMPTY_PING.repeat(PINGS)));
    for _ in 0..PINGS {
        assert!(wire.next().is(Kind::Pong));
    }
    sender.join().expect("the sender runs").expect("the server reads all of it");
}

/// 1 MiB of empty sub-messages: 2 bytes each on the wire, dozens once decoded. All at once, so that a server that
/// decodes before it counts shows it in its memory.
fn empty_submessages(server: SocketAddr) {
    let victims: Vec<_> =
        [(Kind::Ack, 2_u8), (Kind::Nack, 2), (Kind::Extend, 2), (Kind::Ping, 4), (Kind::Publish, 3)]
            .into_iter()
            .map(|(kind, field)| {
                let (mut wire, welcome) = Wire::welcome(server, &fresh_client());
                let len = welcome.limits.expect("WELCOME carries the limits").frame_bytes_max as usize;
                wire.send_bytes(&frame(kind as u8, &[field << 3 | 2, 0].repeat(len / 2)));
                wire
            })
            .collect();
    for wire in victims {
        assert_refused(wire, &[Code::TooLarge]);
    }
}
