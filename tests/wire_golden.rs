//! The format, pinned: one frame of every kind, byte by byte.
//!
//! What fails here breaks every client that was ever built. A new field gets a new line; an old line never changes.
#![allow(missing_docs)]

use prost::Message;
use relaymesh::ids::{Boot, LeaseId, MessageId, SubscriptionId};
use relaymesh::limits::FRAME_BYTES_MAX;
use relaymesh::wire::proto::{self, Code};
use relaymesh::wire::{self, ClientFrame, Codec, DeliverWriter, Kind, ServerFrame, Split};

const LEASE: LeaseId = LeaseId { message: MessageId(300), attempt: 2, boot: Boot(7) };

fn frame<M: Message>(kind: Kind, message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    wire::encode(&mut out, kind, message);
    out
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text() -> String {
    "why".to_owned()
}

fn message() -> proto::Message {
    proto::Message {
        payload: b"hello".to_vec(),
        attributes: [("k".to_owned(), "v".to_owned())].into(),
        priority: 8,
        delay_ms: 1000,
        due_unix_ms: 1_800_000_000_000,
        ttl_ms: 60_000,
        attempts_max: 3,
        trace_context: "00-ab".to_owned(),
        ..proto::Message::default()
    }
}

fn client_frames() -> Vec<(&'static str, Vec<u8>)> {
    let leases = vec![proto::Lease::from(LEASE)];
    let hello = proto::Hello {
        version_min: 1,
        version_max: 1,
        namespace: "acme".to_owned(),
        client_id: "d1".to_owned(),
        credential: b"secret".to_vec(),
        heartbeat_ms: 30_000,
        dictionaries: vec![1, 300],
        resume_token: vec![0xaa, 0xbb],
        leases: leases.clone(),
        pong_every: 4,
    };
    let mut ping =
        proto::Ping { time_s: 1_795_234_567, node: 4711, load_permille: 512, ..Default::default() };
    ping.push_reading("temperature_mc", -40);
    ping.push_reading("errors", 3);
    let body = message().encode_to_vec();
    let acking = proto::Publish {
        seq: 9,
        queue: "jobs".to_owned(),
        messages: vec![b"next".to_vec()],
        acks: leases.clone(),
        replenish: true,
        ..Default::default()
    };
    let nack = proto::Nack {
        seq: 5,
        leases: leases.clone(),
        replenish: true,
        delay_ms: Some(0),
        error: text(),
        reject: true,
    };
    vec![
        ("HELLO", frame(Kind::Hello, &hello)),
        ("PING empty", wire::EMPTY_PING.to_vec()),
        ("PING", frame(Kind::Ping, &ping)),
        (
            "PUBLISH",
            written(|out| wire::encode_publish(out, 1, "jobs", Some((0x0102_0304, 9, 8)), &[&body, b""])),
        ),
        (
            "SUBSCRIBE",
            frame(
                Kind::Subscribe,
                &proto::Subscribe {
                    seq: 2,
                    subscription: 1,
                    queue: "device/d1".to_owned(),
                    credit_messages: 100,
                    credit_bytes: 65_536,
                },
            ),
        ),
        ("UNSUBSCRIBE", frame(Kind::Unsubscribe, &proto::Unsubscribe { seq: 3, subscription: 1 })),
        ("CREDIT", frame(Kind::Credit, &proto::Credit { subscription: 1, messages: 10, bytes: 1024 })),
        ("ACK", written(|out| wire::encode_ack(out, 4, &[LEASE, LEASE], true))),
        ("NACK", frame(Kind::Nack, &nack)),
        ("EXTEND", frame(Kind::Extend, &proto::Extend { seq: 6, leases, lease_ms: 30_000 })),
        ("PUBLISH end", written(|out| wire::encode_publish_end(out, 7, "jobs", None, 300, b"end"))),
        (
            "PUBLISH acking",
            written(|out| wire::encode_ack_and_publish(out, 8, "jobs", None, &[LEASE, LEASE], &[b"next"], 0)),
        ),
        ("PUBLISH replenishing", frame(Kind::Publish, &acking)),
        ("BYE", frame(Kind::Bye, &proto::Bye { retire_producer: true, retired_producer_id: 0x0102_0304 })),
    ]
}

/// A DELIVER of whole messages, one that ends a message in parts, and one of a topic.
fn delivers() -> [Vec<u8>; 3] {
    let deliver = written(|out| {
        let mut writer = DeliverWriter::begin(out, FRAME_BYTES_MAX);
        assert!(writer.push(out, SubscriptionId(1), LEASE, 30_000, b"\x0a\x02hi"));
        assert!(writer.push(out, SubscriptionId(2), LEASE, 30_000, b""));
        writer.finish(out);
    });
    let deliver_end = written(|out| {
        let mut writer = DeliverWriter::begin(out, FRAME_BYTES_MAX);
        assert!(writer.push_end(out, SubscriptionId(1), LEASE, 30_000, 300, b"end"));
        writer.finish(out);
    });
    let deliver_topic = written(|out| {
        let mut writer = DeliverWriter::begin(out, FRAME_BYTES_MAX);
        assert!(writer.push_broadcast(out, SubscriptionId(3), b"\x0a\x02hi"));
        writer.finish(out);
    });
    [deliver, deliver_end, deliver_topic]
}

fn refusals() -> [proto::PublishAck; 2] {
    let refused = proto::Refusal {
        code: Code::QueueFull.into(),
        text: text(),
        retry_after_ms: 1000,
        ..Default::default()
    };
    let lost = proto::Refusal {
        code: Code::LeaseLost.into(),
        text: text(),
        retry_after_ms: 0,
        lost: vec![proto::Lease::from(LEASE)],
    };
    [refused, lost].map(|refusal| proto::PublishAck { seq: 9, refusal: Some(refusal), ..Default::default() })
}

fn server_frames() -> Vec<(&'static str, Vec<u8>)> {
    let limits = proto::Limits {
        frame_bytes_max: 1_048_576,
        message_bytes_max: 1_047_552,
        publish_messages_max: 4096,
        publish_bytes_max: 8_388_608,
        batch_messages_max: 1024,
        subscriptions_max: 64,
    };
    let welcome = proto::Welcome {
        version: 1,
        session_id: 77,
        epoch: 1 << 32 | 5,
        resumed: true,
        heartbeat_ms: 30_000,
        limits: Some(limits),
        dictionary: 1,
        resume_token: vec![0xcc],
        grace_ms: 60_000,
        pong_every: 4,
    };
    let [refused, lost] = refusals();
    let reply = proto::Reply {
        seq: 4,
        more: 0,
        code: Code::LeaseLost.into(),
        text: text(),
        lost: vec![proto::Lease::from(LEASE)],
    };
    let [deliver, deliver_end, deliver_topic] = delivers();
    let handed_on = proto::PublishAck { seq: 1, messages: 2, subscribers: 300, ..Default::default() };
    vec![
        ("WELCOME", frame(Kind::Welcome, &welcome)),
        (
            "REJECT",
            frame(
                Kind::Reject,
                &proto::Reject { code: Code::Overloaded.into(), text: text(), reconnect_after_ms: 1500 },
            ),
        ),
        ("PONG empty", wire::EMPTY_PONG.to_vec()),
        ("PONG", frame(Kind::Pong, &proto::Pong { heartbeat_ms: 60_000 })),
        ("PUBLISH_ACK", written(|out| wire::encode_publish_ack(out, 1, 2, 300, 3))),
        ("PUBLISH_ACK refused", frame(Kind::PublishAck, &refused)),
        ("PUBLISH_ACK lost", frame(Kind::PublishAck, &lost)),
        ("PUBLISH_ACK topic", frame(Kind::PublishAck, &handed_on)),
        ("REPLY ok", written(|out| wire::encode_reply_ok(out, 2, 1))),
        ("REPLY lost", frame(Kind::Reply, &reply)),
        ("DELIVER", deliver),
        ("DELIVER end", deliver_end),
        ("DELIVER topic", deliver_topic),
        (
            "GOAWAY",
            frame(
                Kind::GoAway,
                &proto::GoAway { code: Code::TakenOver.into(), text: text(), reconnect_after_ms: 0 },
            ),
        ),
        (
            "ERROR",
            frame(
                Kind::Error,
                &proto::Error { code: Code::Malformed.into(), text: text(), client_fault: true },
            ),
        ),
    ]
}

/// Those that come from either side.
fn frames_of_both() -> Vec<(&'static str, Vec<u8>)> {
    let message = [b'm'; 320];
    let mut out = Vec::new();
    let sent = wire::encode_part(&mut out, &message, 0, 316);
    assert_eq!(sent, 300);
    let mut next = Vec::new();
    assert_eq!(wire::encode_part(&mut next, &message, sent, 20), 4);
    vec![("PART", next)]
}

const GOLDEN: &str = include_str!("wire_golden.txt");

#[test]
fn every_kind_of_frame_is_what_it_was() {
    let frames: Vec<_> = client_frames().into_iter().chain(server_frames()).chain(frames_of_both()).collect();
    for kind in Kind::ALL {
        assert!(frames.iter().any(|(_, bytes)| bytes[0] == kind as u8), "no golden {kind}");
    }
    let now: String = frames.iter().map(|(name, bytes)| format!("{name}: {}\n", hex(bytes))).collect();
    assert!(now == GOLDEN, "the frames are now\n{now}");
}

#[test]
fn every_golden_frame_decodes_for_its_receiver_only() {
    for (name, bytes) in client_frames() {
        let Ok(Split::Frame { frame, consumed }) = wire::split(&bytes, FRAME_BYTES_MAX) else {
            panic!("{name} is no frame")
        };
        assert_eq!(consumed, bytes.len(), "{name}");
        assert!(frame.kind.is_from_client());
        assert!(ClientFrame::decode(frame.kind, frame.payload).is_ok(), "{name}");
        assert_eq!(ServerFrame::decode(frame.kind, frame.payload).unwrap_err().code(), Code::Unexpected);
    }
    for (name, bytes) in server_frames() {
        let Ok(Split::Frame { frame, consumed }) = wire::split(&bytes, FRAME_BYTES_MAX) else {
            panic!("{name} is no frame")
        };
        assert_eq!(consumed, bytes.len(), "{name}");
        assert!(!frame.kind.is_from_client());
        assert!(ServerFrame::decode(frame.kind, frame.payload).is_ok(), "{name}");
        assert_eq!(ClientFrame::decode(frame.kind, frame.payload).unwrap_err().code(), Code::Unexpected);
    }
}

#[test]
fn a_golden_part_decodes_for_both() {
    for (name, bytes) in frames_of_both() {
        let Ok(Split::Frame { frame, .. }) = wire::split(&bytes, FRAME_BYTES_MAX) else {
            panic!("{name} is no frame")
        };
        let Ok(ClientFrame::Part(part)) = ClientFrame::decode(frame.kind, frame.payload) else {
            panic!("{name} is none for a server")
        };
        assert_eq!((part.offset, part.data), (300, &b"mmmm"[..]));
        assert!(matches!(ServerFrame::decode(frame.kind, frame.payload), Ok(ServerFrame::Part(_))));
    }
}

/// A compressed frame as the first version wrote it. Another zstd may write another one; all must read this one.
#[test]
fn an_old_compressed_frame_is_still_read() {
    let golden = "84242040fd0000980d071b016b10e72418802a0780c60ace0d835203cc7a88a817142cfd5eca";
    let bytes: Vec<u8> = (0..golden.len() / 2)
        .map(|at| u8::from_str_radix(&golden[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let Ok(Split::Frame { frame, .. }) = wire::split(&bytes, FRAME_BYTES_MAX) else { panic!("no frame") };
    assert!(frame.compressed);
    let mut codec = Codec::new();
    let payload = codec.payload(frame, true, FRAME_BYTES_MAX).unwrap();
    assert_eq!(proto::Ping::decode(payload).unwrap(), telemetry());
}

fn telemetry() -> proto::Ping {
    let mut ping =
        proto::Ping { time_s: 1_795_234_567, node: 4711, load_permille: 512, ..Default::default() };
    ping.push_reading("uptime_s", 86_400);
    ping.push_reading("battery_permille", 871);
    ping.push_reading("temperature_mc", -5250);
    ping
}

#[test]
fn a_compressed_frame_made_now_is_no_larger_than_it_was() {
    let mut out = frame(Kind::Ping, &telemetry());
    Codec::new().compress_last_frame(&mut out, 0);
    assert!(out.len() <= 38, "{}", hex(&out));
}
