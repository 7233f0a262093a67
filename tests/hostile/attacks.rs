//! The attacks: each opens what it needs, does its worst and checks how it was closed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::wire::proto::{Code, Kind};
use relaymesh::wire::{DICTIONARY, DICTIONARY_ID, proto};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::wire::{COMPRESSED, Wire, frame, hello, payload, varint};

/// One attack on a server.
pub(crate) type Attack = fn(SocketAddr);

/// A refusal needs no deadline: it comes at once. What a shared machine may add to it.
const AT_ONCE: Duration = Duration::from_secs(5);
/// The configured handshake deadline.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// What may pass between a deadline and its effect on a shared machine.
const SLACK: Duration = Duration::from_secs(4);
/// Within this a connection whose client never reads is closed: the stall deadline of 20 s, and what precedes it.
const STALLED: Duration = Duration::from_secs(40);

/// All of them with their names.
pub(crate) const ATTACKS: [(&str, Attack); 27] = [
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
    ("half a HELLO and silence", half_a_hello),
    ("silence", |server| times_out(Wire::connect(server), HANDSHAKE, Code::HandshakeTimeout)),
    ("one byte now and then", slow_bytes),
    ("a second HELLO", second_hello),
    ("an unknown kind after WELCOME", |server| refused_after(server, &[63, 0], &[Code::UnknownKind])),
    ("frames only a server sends", server_frames),
    ("a bomb after authentication", bomb_after_welcome),
    ("compression not agreed on", compression_not_agreed_on),
    ("a wrong seq", wrong_seq),
    ("more than the window", more_than_the_window),
    ("half a million empty leases", empty_submessages),
    ("random bytes after WELCOME", random_bytes_after_welcome),
    ("silence after WELCOME", silence_after_welcome),
    ("pings and never a read", pings_without_reading),
    ("a subscription and never a read", deliveries_without_reading),
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

/// Is closed with `code` once `deadline` has passed and not before.
fn times_out(mut wire: Wire, deadline: Duration, code: Code) {
    let (found, after) = wire.ending(deadline + SLACK);
    assert_eq!(found, Some(code));
    assert!(after + Duration::from_millis(100) >= deadline, "closed after {after:?} already");
}

fn fresh_client() -> String {
    format!("hostile-{:016x}", fastrand::u64(..))
}

fn random_bytes(server: SocketAddr) {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut wire = Wire::connect(server);
        let bytes: Vec<u8> = (0..random.usize(2..16_000)).map(|_| random.u8(..)).collect();
        wire.send_bytes(&bytes);
        // The code may be lost where the server closes with bytes unread; that it closes may not.
        wire.ending(HANDSHAKE + SLACK);
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

fn half_a_hello(server: SocketAddr) {
    let whole = frame(Kind::Hello as u8, &hello(&fresh_client()).encode_to_vec());
    let mut wire = Wire::connect(server);
    wire.send_bytes(&whole[..whole.len() / 2]);
    times_out(wire, HANDSHAKE, Code::HandshakeTimeout);
}

fn slow_bytes(server: SocketAddr) {
    let whole = frame(Kind::Hello as u8, &hello(&fresh_client()).encode_to_vec());
    let mut wire = Wire::connect(server);
    let started = Instant::now();
    for byte in whole.chunks(1) {
        if !wire.send_bytes(byte) || started.elapsed() > HANDSHAKE {
            break;
        }
        thread::sleep(Duration::from_millis(200));
    }
    // What was sent into the closed connection may have cost the code, never the end.
    let (code, _) = wire.ending(SLACK);
    assert!(matches!(code, None | Some(Code::HandshakeTimeout)), "{code:?}");
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
    let mut payload = varint(declared);
    payload.extend(compressor.compress(&vec![0; len]).expect("zeroes compress"));
    payload
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

/// 1 MiB of empty sub-messages: 2 bytes each on the wire, dozens once decoded.
fn empty_submessages(server: SocketAddr) {
    for (kind, field) in
        [(Kind::Ack, 2_u8), (Kind::Nack, 2), (Kind::Extend, 2), (Kind::Ping, 4), (Kind::Publish, 3)]
    {
        let payload = [field << 3 | 2, 0].repeat((1 << 20) / 2);
        refused_after(server, &frame(kind as u8, &payload), &[Code::TooLarge]);
    }
}

fn silence_after_welcome(server: SocketAddr) {
    let hello = proto::Hello { heartbeat_ms: 500, ..hello(&fresh_client()) };
    let (wire, welcome) = Wire::welcome_with(server, &hello);
    assert_eq!(welcome.heartbeat_ms, 500);
    times_out(wire, Duration::from_millis(1500), Code::HeartbeatMissed);
}

/// A connection with a receive buffer as small as the system allows, so that a reader who does not read stalls soon.
fn narrow(server: SocketAddr) -> TcpStream {
    let socket =
        Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a receive buffer can be made small");
    socket.connect(&server.into()).expect("the server accepts");
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(STALLED)).expect("a timeout that is not zero");
    stream.set_read_timeout(Some(STALLED)).expect("a timeout that is not zero");
    stream
}

/// Waits without reading until the server has closed, and panics when it does not within [`STALLED`].
fn assert_closed_unread(mut stream: TcpStream, started: Instant) {
    // A peer that has closed takes nothing: writing finds out without reading a byte.
    while stream.write_all(&[Kind::Ping as u8, 0]).is_ok() {
        assert!(started.elapsed() < STALLED, "a reader that never reads is still connected");
        thread::sleep(Duration::from_millis(50));
    }
    let mut rest = [0; 64 * 1024];
    while let Ok(1..) = stream.read(&mut rest) {}
}

fn pings_without_reading(server: SocketAddr) {
    let mut stream = narrow(server);
    let started = Instant::now();
    stream
        .write_all(&frame(Kind::Hello as u8, &hello(&fresh_client()).encode_to_vec()))
        .expect("the server reads a HELLO");
    let pings = [Kind::Ping as u8, 0].repeat(32 * 1024);
    // Ends with an error when the server closes, or when it has stopped reading for the whole timeout.
    while stream.write_all(&pings).is_ok() {
        assert!(started.elapsed() < STALLED, "a reader that never reads is still served");
    }
    assert!(started.elapsed() < STALLED, "a reader that never reads is still connected");
}

fn deliveries_without_reading(server: SocketAddr) {
    const MESSAGES: usize = 64;
    let (mut publisher, _) = Wire::welcome(server, &fresh_client());
    let body = vec![7; 128 * 1024];
    for _ in 0..MESSAGES {
        publisher.publish("unread", &[&body]);
    }

    let client = fresh_client();
    let mut stream = narrow(server);
    let started = Instant::now();
    let subscribe = proto::Subscribe {
        seq: 1,
        subscription: 1,
        queue: "unread".to_owned(),
        credit_messages: 65_536,
        credit_bytes: 0,
    };
    let mut bytes = frame(Kind::Hello as u8, &hello(&client).encode_to_vec());
    bytes.extend(frame(Kind::Subscribe as u8, &subscribe.encode_to_vec()));
    stream.write_all(&bytes).expect("the server reads a HELLO");
    assert_closed_unread(stream, started);

    // Back as the same client without a token, so that what was leased is free again: nothing was lost.
    let (mut reader, _) = Wire::welcome(server, &client);
    reader.subscribe(1, "unread", MESSAGES as u32);
    let mut seen = 0;
    while seen < MESSAGES {
        let deliveries = reader.expect::<proto::Deliver>(Kind::Deliver).deliveries;
        assert!(deliveries.iter().all(|delivery| payload(delivery) == body));
        let leases: Vec<_> = deliveries.iter().filter_map(|delivery| delivery.lease).collect();
        seen += leases.len();
        let seq = reader.send_ack(&leases, false);
        let mut answered = false;
        while !answered {
            let next = reader.next();
            if next.is(Kind::Deliver) {
                seen += next.parse::<proto::Deliver>(Kind::Deliver).deliveries.len();
            } else {
                answered = next.parse::<proto::Reply>(Kind::Reply).seq == seq;
            }
        }
    }
}
