//! Every limit, one below and one above, and what the fault says.

use prost::Message;

use crate::ids::{Boot, LeaseId, MessageId, SubscriptionId};
use crate::limits;
use crate::wire::proto::{self, Code};
use crate::wire::{ClientFrame, DeliverWriter, Fault, Kind, ServerFrame, Split, encode_publish, split};

fn refused<M: Message>(kind: Kind, message: &M) -> Fault {
    ClientFrame::decode(kind, &message.encode_to_vec()).unwrap_err()
}

fn taken<M: Message>(kind: Kind, message: &M) {
    let payload = message.encode_to_vec();
    let decoded = ClientFrame::decode(kind, &payload);
    assert!(decoded.is_ok(), "{decoded:?}");
}

fn leases(count: usize) -> Vec<proto::Lease> {
    vec![proto::Lease { message_id: 1, attempt: 1, boot: 1 }; count]
}

#[test]
fn a_bad_first_byte_is_refused_at_once() {
    for (byte, code) in [(0, Code::UnknownKind), (20, Code::UnknownKind), (0x80 | 63, Code::UnknownKind)] {
        assert_eq!(split(&[byte], 10).unwrap_err().code(), code);
    }
    assert_eq!(split(&[0x44], 10), Err(Fault::ReservedBit(0x44)));
    assert_eq!(split(&[], 10), Ok(Split::NeedMore { bytes: 2 }));
    assert_eq!(split(&[4], 10), Ok(Split::NeedMore { bytes: 2 }));
}

#[test]
fn a_length_is_judged_before_its_payload_arrives() {
    let max = limits::FRAME_BYTES_MAX;
    assert_eq!(split(&[6, 0x80, 0x80, 0x40], max), Ok(Split::NeedMore { bytes: 4 + max }));
    let fault = split(&[6, 0x81, 0x80, 0x40], max).unwrap_err();
    assert_eq!(fault, Fault::FrameTooLarge { kind: Kind::Publish, bytes: max as u64 + 1, max });
    assert_eq!(fault.code(), Code::TooLarge);
    // 4 GiB - 1, and a length of zeroes that would go on for ever.
    assert_eq!(split(&[6, 0xff, 0xff, 0xff, 0xff, 0x0f], max).unwrap_err().code(), Code::TooLarge);
    let endless = split(&[6, 0x80, 0x80, 0x80, 0x80], max).unwrap_err();
    assert_eq!(endless, Fault::LengthTooLong { kind: Kind::Publish, max });
    assert_eq!(split(&[6, 0x80, 0x80, 0x80], max), Ok(Split::NeedMore { bytes: 5 }));
    assert_eq!(split(&[6, 0x81, 0x00], max), Err(Fault::LengthForm(Kind::Publish)));
    assert!(split(&[1, 0x81, 0x20], limits::HANDSHAKE_FRAME_BYTES_MAX).is_err());
}

#[test]
fn hello_is_bounded() {
    let hello = |change: fn(&mut proto::Hello, usize), count: usize| {
        let mut hello = proto::Hello::default();
        change(&mut hello, count);
        hello
    };
    type Case = (fn(&mut proto::Hello, usize), usize);
    let cases: [Case; 6] = [
        (|hello, count| hello.namespace = "n".repeat(count), limits::NAMESPACE_BYTES_MAX),
        (|hello, count| hello.client_id = "c".repeat(count), limits::CLIENT_ID_BYTES_MAX),
        (|hello, count| hello.credential = vec![0; count], limits::CREDENTIAL_BYTES_MAX),
        (|hello, count| hello.dictionaries = vec![300; count], limits::HELLO_DICTIONARIES_MAX),
        (|hello, count| hello.resume_token = vec![0; count], limits::RESUME_TOKEN_BYTES_MAX),
        (|hello, count| hello.leases = leases(count), limits::HELLO_LEASES_MAX),
    ];
    for (change, max) in cases {
        taken(Kind::Hello, &hello(change, max));
        let fault = refused(Kind::Hello, &hello(change, max + 1));
        assert_eq!(fault.code(), Code::TooLarge, "{fault}");
        assert!(fault.to_string().contains(&max.to_string()), "{fault}");
    }
}

#[test]
fn publish_is_bounded() {
    let publish = |count, queue: usize| proto::Publish {
        queue: "q".repeat(queue),
        messages: vec![Vec::new(); count],
        ..Default::default()
    };
    taken(Kind::Publish, &publish(limits::BATCH_MESSAGES_MAX, limits::QUEUE_NAME_BYTES_MAX));
    let fault = refused(Kind::Publish, &publish(limits::BATCH_MESSAGES_MAX + 1, 1));
    assert_eq!(fault.to_string(), "Publish.messages: more than the 1024 allowed");
    let fault = refused(Kind::Publish, &publish(1, limits::QUEUE_NAME_BYTES_MAX + 1));
    assert_eq!(fault.to_string(), "Publish.queue has 193 bytes; at most 192 are allowed");
    assert_eq!(refused(Kind::Publish, &publish(0, 1)), Fault::Missing { what: "Publish.messages" });
    assert_eq!(refused(Kind::Publish, &publish(1, 0)), Fault::Missing { what: "Publish.queue" });
    for (sequence, unanswered_from) in [(0, 0), (5, 0), (5, 6), (u64::MAX, 1)] {
        let publish = proto::Publish { producer_id: 1, sequence, unanswered_from, ..publish(1, 1) };
        assert_eq!(refused(Kind::Publish, &publish).code(), Code::Invalid);
    }
}

#[test]
fn settlements_are_bounded() {
    let most = limits::BATCH_MESSAGES_MAX;
    taken(Kind::Ack, &proto::Ack { leases: leases(most), ..Default::default() });
    let fault = refused(Kind::Ack, &proto::Ack { leases: leases(most + 1), ..Default::default() });
    assert_eq!(fault, Fault::TooMany { what: "Ack.leases", max: most });
    assert_eq!(refused(Kind::Ack, &proto::Ack::default()), Fault::Missing { what: "Ack.leases" });
    let nack = |delay_ms, error: usize| proto::Nack {
        leases: leases(1),
        delay_ms: Some(delay_ms),
        error: "e".repeat(error),
        ..Default::default()
    };
    let delay_max = limits::NACK_DELAY_MAX.as_millis() as u64;
    taken(Kind::Nack, &nack(delay_max, limits::ERROR_TEXT_BYTES_MAX));
    assert_eq!(refused(Kind::Nack, &nack(delay_max + 1, 0)).code(), Code::Invalid);
    assert_eq!(refused(Kind::Nack, &nack(0, limits::ERROR_TEXT_BYTES_MAX + 1)).code(), Code::TooLarge);
    let extend = |lease_ms| proto::Extend { leases: leases(1), lease_ms, ..Default::default() };
    let lease_max = limits::LEASE_MAX.as_millis() as u32;
    taken(Kind::Extend, &extend(lease_max));
    assert_eq!(refused(Kind::Extend, &extend(lease_max + 1)).code(), Code::Invalid);
    assert_eq!(refused(Kind::Extend, &extend(0)).code(), Code::Invalid);
}

#[test]
fn a_lease_that_does_not_fit_32_bits_is_refused_rather_than_cut() {
    for field in [0x10, 0x18] {
        // Field 2 or 3 with the value 2^32.
        let lease = [field, 0x80, 0x80, 0x80, 0x80, 0x10];
        let in_field = |key| [&[key, 6][..], &lease].concat();
        for (kind, key) in [(Kind::Ack, 0x12), (Kind::Nack, 0x12), (Kind::Extend, 0x12), (Kind::Hello, 0x4a)]
        {
            let fault = ClientFrame::decode(kind, &in_field(key)).unwrap_err();
            assert!(matches!(fault, Fault::OutOfRange { value: 0x1_0000_0000, .. }), "{fault}");
        }
        assert_eq!(ServerFrame::decode(Kind::Reply, &in_field(0x2a)).unwrap_err().code(), Code::Invalid);
        let delivery = [&[0x0a, 8][..], &in_field(0x0a)].concat();
        assert_eq!(ServerFrame::decode(Kind::Deliver, &delivery).unwrap_err().code(), Code::Invalid);
    }
}

#[test]
fn subscriptions_are_1_to_65535_and_name_a_queue() {
    for (subscription, is_allowed) in [(0, false), (1, true), (65_535, true), (65_536, false)] {
        let queue = "q".to_owned();
        let frames = [
            (Kind::Subscribe, proto::Subscribe { subscription, queue, ..Default::default() }.encode_to_vec()),
            (Kind::Unsubscribe, proto::Unsubscribe { seq: 1, subscription }.encode_to_vec()),
            (Kind::Credit, proto::Credit { subscription, messages: 1, bytes: 1 }.encode_to_vec()),
        ];
        for (kind, payload) in frames {
            assert_eq!(ClientFrame::decode(kind, &payload).is_ok(), is_allowed, "{kind} {subscription}");
        }
    }
    let nameless = proto::Subscribe { subscription: 1, ..Default::default() };
    assert_eq!(refused(Kind::Subscribe, &nameless), Fault::Missing { what: "Subscribe.queue" });
}

#[test]
fn telemetry_is_bounded() {
    let ping = |count, name: usize| proto::Ping {
        names: vec!["n".repeat(name); count],
        values: vec![-1; count],
        ..Default::default()
    };
    taken(Kind::Ping, &ping(limits::PING_READINGS_MAX, limits::READING_NAME_BYTES_MAX));
    assert_eq!(refused(Kind::Ping, &ping(limits::PING_READINGS_MAX + 1, 1)).code(), Code::TooLarge);
    assert_eq!(refused(Kind::Ping, &ping(1, limits::READING_NAME_BYTES_MAX + 1)).code(), Code::TooLarge);
    let flood = proto::Ping { values: vec![0; 100_000], ..Default::default() };
    assert_eq!(refused(Kind::Ping, &flood).code(), Code::TooLarge);
}

#[test]
fn every_reading_has_a_name_and_a_value() {
    for (names, values) in [(0, 1), (1, 0), (2, 1), (3, 64)] {
        let ping = proto::Ping {
            names: vec!["n".to_owned(); names],
            values: vec![i64::MIN; values],
            ..Default::default()
        };
        let fault = refused(Kind::Ping, &ping);
        assert_eq!(fault.code(), Code::Invalid);
        let text = format!("the number of Ping.values is {values}; allowed are {names} to {names}");
        assert_eq!(fault.to_string(), text);
    }
    // A value cut off within the packed field.
    let fault = ClientFrame::decode(Kind::Ping, &[0x22, 1, b'n', 0x2a, 1, 0x80]).unwrap_err();
    assert_eq!(fault.code(), Code::Malformed);
    // Values that are not packed count as well.
    assert!(ClientFrame::decode(Kind::Ping, &[0x22, 1, b'n', 0x28, 2]).is_ok());
}

#[test]
fn a_mebibyte_of_empty_submessages_is_counted_not_decoded() {
    let flood: Vec<u8> = [0x4a, 0].repeat(limits::FRAME_BYTES_MAX / 2);
    let fault = ClientFrame::decode(Kind::Hello, &flood).unwrap_err();
    assert_eq!(fault, Fault::TooMany { what: "Hello.leases", max: limits::HELLO_LEASES_MAX });
    let flood: Vec<u8> = [0x2a, 0].repeat(limits::FRAME_BYTES_MAX / 2);
    let fault = ServerFrame::decode(Kind::Reply, &flood).unwrap_err();
    assert_eq!(fault, Fault::TooMany { what: "Reply.lost", max: limits::BATCH_MESSAGES_MAX });
}

#[test]
fn a_message_is_bounded() {
    let header = |message: proto::Message| {
        crate::message::message_header(&message.encode_to_vec(), limits::MESSAGE_BYTES_MAX)
    };
    let attributes = |count: usize, value: usize| proto::Message {
        attributes: (0..count).map(|at| (format!("{at:02}"), "v".repeat(value))).collect(),
        ..Default::default()
    };
    assert!(header(attributes(limits::ATTRIBUTES_MAX, 1)).is_ok());
    assert_eq!(header(attributes(limits::ATTRIBUTES_MAX + 1, 1)).unwrap_err().code(), Code::TooLarge);
    assert!(header(attributes(1, limits::ATTRIBUTE_BYTES_MAX - 2)).is_ok());
    assert_eq!(header(attributes(1, limits::ATTRIBUTE_BYTES_MAX - 1)).unwrap_err().code(), Code::TooLarge);
    let trace = |len: usize| proto::Message { trace_context: "t".repeat(len), ..Default::default() };
    assert!(header(trace(limits::TRACE_CONTEXT_BYTES_MAX)).is_ok());
    assert_eq!(header(trace(limits::TRACE_CONTEXT_BYTES_MAX + 1)).unwrap_err().code(), Code::TooLarge);
    let wrong = [
        proto::Message { priority: 11, ..Default::default() },
        proto::Message { delay_ms: limits::DELAY_MAX.as_millis() as u64 + 1, ..Default::default() },
        proto::Message { attempts_max: limits::ATTEMPTS_MAX + 1, ..Default::default() },
    ];
    for message in wrong {
        assert_eq!(header(message).unwrap_err().code(), Code::Invalid);
    }
    for field in 13..=16u8 {
        let is_reserved = (14..=15).contains(&field);
        let encoded = if field == 16 { vec![0x80, 0x01, 0] } else { vec![field << 3, 0] };
        assert_eq!(crate::message::message_header(&encoded, 100).is_err(), is_reserved, "field {field}");
    }
}

#[test]
fn the_options_of_a_message_are_bounded_and_found_again() {
    use std::time::Duration;
    let header = |message: &proto::Message| crate::message::message_header(&message.encode_to_vec(), 1 << 20);
    let text = |len: usize| "k".repeat(len);
    let too_long = [
        proto::Message { order_key: text(limits::ORDER_KEY_BYTES_MAX + 1), ..Default::default() },
        proto::Message { fair_key: text(limits::FAIR_KEY_BYTES_MAX + 1), ..Default::default() },
        proto::Message { dedup_id: text(limits::DEDUP_ID_BYTES_MAX + 1), ..Default::default() },
    ];
    for message in too_long {
        assert_eq!(header(&message).unwrap_err().code(), Code::TooLarge);
    }
    let retry = |retry: proto::Retry| proto::Message { retry: Some(retry), ..Default::default() };
    let out_of_bounds = [
        proto::Message { lease_ms: limits::LEASE_MAX.as_millis() as u32 + 1, ..Default::default() },
        retry(proto::Retry { initial_ms: Some(31 * 86_400_000), ..Default::default() }),
        retry(proto::Retry { factor_percent: Some(99), ..Default::default() }),
        retry(proto::Retry { jitter_percent: Some(101), ..Default::default() }),
    ];
    for message in out_of_bounds {
        assert_eq!(header(&message).unwrap_err().code(), Code::Invalid);
    }
    let mut message = retry(proto::Retry { jitter_percent: Some(0), max_ms: Some(7), ..Default::default() });
    message.order_key = text(limits::ORDER_KEY_BYTES_MAX);
    message.fair_key = "f".into();
    message.dedup_id = "d".into();
    message.attributes.insert("kind".into(), "image".into());
    assert!(header(&message).unwrap().has_options);
    let body = message.encode_to_vec();
    let options = crate::message::message_options(&body);
    assert_eq!((options.order_key, options.fair_key, options.dedup_id), (&*message.order_key, "f", "d"));
    assert_eq!((options.retry.max, options.retry.initial), (Some(Duration::from_millis(7)), None));
    assert_eq!((options.retry.jitter_percent, options.lease), (Some(0), None));
    assert_eq!(crate::message::message_attributes(&body).collect::<Vec<_>>(), [("kind", "image")]);
    assert!(!header(&proto::Message::default()).unwrap().has_options);
}

#[test]
fn what_is_no_protobuf_is_refused() {
    let broken: [&[u8]; 10] = [
        &[0x08],
        &[0x08, 0x80],
        &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        &[0x00, 0x00],
        &[0x0b, 0x0c],
        &[0x0f],
        &[0x12, 0x05, b'a'],
        &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x21, 1, 2, 3],
        &[0x80, 0x80, 0x80, 0x80, 0x10, 0x00],
    ];
    for bytes in broken {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_from_client()) {
            let fault = ClientFrame::decode(kind, bytes).unwrap_err();
            assert_eq!(fault.code(), Code::Malformed, "{kind} {bytes:02x?}: {fault}");
        }
    }
    assert_eq!(ClientFrame::decode(Kind::Publish, &[0x12, 1, 0xff]).unwrap_err().code(), Code::Malformed);
    assert_eq!(ClientFrame::decode(Kind::Publish, &[0x0a, 0]).unwrap_err().code(), Code::Malformed);
}

#[test]
fn an_error_says_whose_fault_it_is_and_fits() {
    let error = split(&[0x3f], 10).unwrap_err().to_error();
    assert_eq!(error.text, "the client broke the protocol: frame kind 63 is unknown; kinds are 1 to 19");
    assert!(error.client_fault && error.code == i32::from(Code::UnknownKind));
    let own = Fault::Decompressor.to_error();
    assert!(!own.client_fault && own.text.starts_with("the server failed"));
    assert_eq!(crate::wire::clip(&"ä".repeat(300)).len(), limits::TEXT_BYTES_MAX);
}

#[test]
fn a_deliver_frame_has_the_shortest_length_at_every_size() {
    let lease = LeaseId { message: MessageId(1), attempt: 1, boot: Boot(1) };
    for body_len in [0, 90, 100, 110, 16_300, 16_400, 2_097_100, 2_097_200] {
        let body = vec![7; body_len];
        let mut out = Vec::new();
        let mut writer = DeliverWriter::begin(&mut out, limits::FRAME_BYTES_MAX_CEILING);
        assert!(writer.push(&mut out, SubscriptionId(1), lease, 1, &body));
        writer.finish(&mut out);
        let Ok(Split::Frame { frame, consumed }) = split(&out, limits::FRAME_BYTES_MAX_CEILING) else {
            panic!("no frame of {body_len} bytes")
        };
        assert_eq!(consumed, out.len());
        let Ok(ServerFrame::Deliver(view)) = ServerFrame::decode(frame.kind, frame.payload) else {
            panic!("no DELIVER of {body_len} bytes")
        };
        assert!(view.deliveries().all(|delivery| delivery.message == body));
    }
}

#[test]
fn a_deliver_frame_is_bounded() {
    let lease = LeaseId { message: MessageId(u64::MAX), attempt: u32::MAX, boot: Boot(u32::MAX) };
    let mut out = Vec::new();
    let mut writer = DeliverWriter::begin(&mut out, limits::FRAME_BYTES_MAX);
    let largest = vec![0; limits::FRAME_BYTES_MAX - limits::FRAME_OVERHEAD_BYTES];
    assert!(writer.push(&mut out, SubscriptionId(u16::MAX), lease, u32::MAX, &largest));
    assert!(!writer.push(&mut out, SubscriptionId(1), lease, 1, &[0; 1000]));
    writer.finish(&mut out);
    assert!(matches!(split(&out, limits::FRAME_BYTES_MAX), Ok(Split::Frame { .. })));
    out.clear();
    let mut writer = DeliverWriter::begin(&mut out, limits::FRAME_BYTES_MAX);
    for _ in 0..limits::BATCH_MESSAGES_MAX {
        assert!(writer.push(&mut out, SubscriptionId(1), lease, 1, b"x"));
    }
    assert!(!writer.push(&mut out, SubscriptionId(1), lease, 1, b"x"));
    writer.finish(&mut out);
    out.clear();
    DeliverWriter::begin(&mut out, 100).finish(&mut out);
    assert!(out.is_empty());
    // The largest message that travels whole fits a PUBLISH, too.
    let queue = "q".repeat(limits::QUEUE_NAME_BYTES_MAX);
    let most = u64::MAX;
    encode_publish(&mut out, most, &queue, Some((most, most, most)), &[&largest]);
    assert!(matches!(split(&out, limits::FRAME_BYTES_MAX), Ok(Split::Frame { .. })));
}
