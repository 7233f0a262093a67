//! What is hand-written in `wire` says the same as prost, both ways, and takes any bytes without harm.
#![allow(missing_docs)]

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use relaymesh::ids::{Boot, LeaseId, MessageId, SubscriptionId};
use relaymesh::limits::{self, COMPRESS_BODY_BYTES_MIN, FRAME_BYTES_MAX};
use relaymesh::wire::proto::{self, Code};
use relaymesh::wire::{self, ClientFrame, Codec, DeliverWriter, Kind, Parts, RawFrame, ServerFrame, Split};

/// Numbers of every length that a varint can have.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(value, shift)| value >> shift)
}

fn number32() -> impl Strategy<Value = u32> {
    (any::<u32>(), 0u32..32).prop_map(|(value, shift)| value >> shift)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 120..300)]
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (number(), number32(), number32()).prop_map(|(message, attempt, boot)| LeaseId {
        message: MessageId(message),
        attempt,
        boot: Boot(boot),
    })
}

fn leases() -> impl Strategy<Value = Vec<LeaseId>> {
    vec(lease(), 1..20)
}

fn protos(leases: &[LeaseId]) -> Vec<proto::Lease> {
    leases.iter().map(|&lease| lease.into()).collect()
}

fn publish() -> impl Strategy<Value = proto::Publish> {
    let producer = (number(), 1u64..1 << 60, any::<prop::sample::Index>());
    let acks = (vec(lease(), 0..5), any::<bool>());
    (number(), "[!-~]{1,40}", vec(bytes(), 1..9), producer, acks).prop_map(
        |(seq, queue, messages, (producer_id, sequence, before), (acks, replenish))| proto::Publish {
            acks: protos(&acks),
            replenish,
            seq,
            queue,
            messages,
            producer_id,
            sequence,
            parts_bytes: 0,
            unanswered_from: 1 + before.index(sequence.min(1 << 40) as usize) as u64,
        },
    )
}

/// The fields of an encoded message, each with its key.
fn fields(encoded: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut rest = encoded;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let before = rest;
        let (number, wire_type) = prost::encoding::decode_key(&mut rest).expect("a key");
        let context = prost::encoding::DecodeContext::default();
        prost::encoding::skip_field(wire_type, number, &mut rest, context).expect("a field");
        fields.push((number, before[..before.len() - rest.len()].to_vec()));
    }
    fields
}

/// Another encoding that means the same: fields of different numbers in another order, unknown fields of every
/// wire type in between, and a scalar or text given once before its real value.
fn rewritten(encoded: &[u8], order: u64, earlier: &[(u32, &[u8])]) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(order);
    let mut by_number = fields(encoded);
    let mut numbers: Vec<u32> = by_number.iter().map(|(number, _)| *number).collect();
    numbers.dedup();
    random.shuffle(&mut numbers);
    by_number.sort_by_key(|(number, _)| numbers.iter().position(|n| n == number));
    // Fields 100 to 103, of wire types 0, 1, 2 and 5.
    let unknown: [&[u8]; 4] = [
        &[0xa0, 0x06, 0x96, 0x01],
        &[0xa9, 0x06, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xb2, 0x06, 3, 0xff, 0xff, 0xff],
        &[0xbd, 0x06, 1, 2, 3, 4],
    ];
    let mut out = Vec::new();
    for (number, field) in &by_number {
        out.extend_from_slice(unknown[random.usize(..4)]);
        for (_, earlier) in earlier.iter().filter(|(of, _)| of == number) {
            out.extend_from_slice(earlier);
        }
        out.extend_from_slice(field);
    }
    out.extend_from_slice(unknown[random.usize(..4)]);
    out
}

fn payload(frame: &[u8], kind: Kind) -> &[u8] {
    match wire::split(frame, FRAME_BYTES_MAX) {
        Ok(Split::Frame { frame: raw, consumed }) if consumed == frame.len() && raw.kind == kind => {
            raw.payload
        }
        other => panic!("not one whole {kind}: {other:?}"),
    }
}

fn check_publish(payload: &[u8], expected: &proto::Publish) {
    let ClientFrame::Publish(view) = ClientFrame::decode(Kind::Publish, payload).expect("a PUBLISH") else {
        panic!("another frame")
    };
    let read = proto::Publish {
        seq: view.seq,
        queue: view.queue.to_owned(),
        messages: view.messages().map(<[u8]>::to_vec).collect(),
        producer_id: view.producer_id,
        sequence: view.sequence,
        unanswered_from: view.unanswered_from,
        parts_bytes: view.parts_bytes,
        acks: view.acks().map(proto::Lease::from).collect(),
        replenish: view.replenish,
    };
    assert_eq!(view.ack_count(), expected.acks.len());
    assert_eq!(&read, expected);
    assert_eq!(view.message_count(), expected.messages.len());
    assert_eq!(view.body_bytes(), expected.messages.iter().map(Vec::len).sum::<usize>());
}

fn check_settle(kind: Kind, payload: &[u8], expected: &proto::Nack, lease_ms: u32) {
    let (ClientFrame::Ack(view) | ClientFrame::Nack(view) | ClientFrame::Extend(view)) =
        ClientFrame::decode(kind, payload).expect("a settlement")
    else {
        panic!("another frame")
    };
    let read = proto::Nack {
        seq: view.seq,
        leases: view.leases().map(proto::Lease::from).collect(),
        replenish: view.replenish,
        delay_ms: view.delay_ms,
        error: view.error.to_owned(),
        reject: view.reject,
    };
    assert_eq!((&read, view.lease_ms), (expected, lease_ms));
    assert_eq!(view.lease_count(), expected.leases.len());
}

proptest! {
    #[test]
    fn publish_is_written_as_prost_reads_it(publish in publish()) {
        let bodies: Vec<&[u8]> = publish.messages.iter().map(Vec::as_slice).collect();
        let has_producer = publish.producer_id != 0;
        let producer = has_producer.then_some((publish.producer_id, publish.sequence, publish.unanswered_from));
        let mut out = Vec::new();
        let leases: Vec<LeaseId> = publish.acks.iter().map(LeaseId::from).collect();
        wire::encode_ack_and_publish(&mut out, publish.seq, &publish.queue, producer, &leases, &bodies, 0);
        let mut expected = proto::Publish { replenish: false, ..publish.clone() };
        if !has_producer {
            (expected.sequence, expected.unanswered_from) = (0, 0);
        }
        let payload = payload(&out, Kind::Publish);
        prop_assert_eq!(proto::Publish::decode(payload).unwrap(), expected.clone());
        prop_assert_eq!(payload, expected.encode_to_vec());
        check_publish(payload, &expected);
    }

    #[test]
    fn publish_is_read_as_prost_reads_it(publish in publish(), order: u64) {
        let earlier: [(u32, &[u8]); 4] =
            [(1, &[8, 0xff, 1]), (2, &[0x12, 1, b'x']), (4, &[0x21, 9, 9, 9, 9, 9, 9, 9, 9]), (5, &[0x28, 0x7f])];
        let bytes = rewritten(&publish.encode_to_vec(), order, &earlier);
        prop_assert_eq!(proto::Publish::decode(&bytes[..]).unwrap(), publish.clone());
        check_publish(&bytes, &publish);
    }

    #[test]
    fn ack_is_written_and_read_as_prost_does(seq in number(), leases in leases(), replenish: bool, order: u64) {
        let mut out = Vec::new();
        wire::encode_ack(&mut out, seq, &leases, replenish);
        let ack = proto::Ack { seq, leases: protos(&leases), replenish };
        let payload = payload(&out, Kind::Ack);
        prop_assert_eq!(payload, ack.encode_to_vec());
        let expected = proto::Nack { seq, leases: ack.leases.clone(), replenish, ..Default::default() };
        check_settle(Kind::Ack, payload, &expected, 0);
        let bytes = rewritten(payload, order, &[(1, &[8, 0xff, 1]), (3, &[0x18, 0])]);
        prop_assert_eq!(proto::Ack::decode(&bytes[..]).unwrap(), ack);
        check_settle(Kind::Ack, &bytes, &expected, 0);
    }

    #[test]
    fn nack_and_extend_are_read_as_prost_reads_them(
        seq in number(), leases in leases(), replenish: bool, reject: bool, error in "\\PC{0,60}",
        delay_ms in prop::option::of(0u64..limits::NACK_DELAY_MAX.as_millis() as u64 + 1),
        lease_ms in 1u32..limits::LEASE_MAX.as_millis() as u32 + 1, order: u64,
    ) {
        let nack = proto::Nack { seq, leases: protos(&leases), replenish, delay_ms, error, reject };
        let earlier: [(u32, &[u8]); 3] = [(4, &[0x20, 0xff, 1]), (5, &[0x2a, 1, b'x']), (6, &[0x30, 0])];
        let bytes = rewritten(&nack.encode_to_vec(), order, &earlier);
        prop_assert_eq!(proto::Nack::decode(&bytes[..]).unwrap(), nack.clone());
        check_settle(Kind::Nack, &bytes, &nack, 0);
        let extend = proto::Extend { seq, leases: nack.leases.clone(), lease_ms };
        let bytes = rewritten(&extend.encode_to_vec(), order, &[(3, &[0x18, 5])]);
        prop_assert_eq!(proto::Extend::decode(&bytes[..]).unwrap(), extend);
        let expected = proto::Nack { seq, leases: nack.leases, ..Default::default() };
        check_settle(Kind::Extend, &bytes, &expected, lease_ms);
    }

    #[test]
    fn deliver_is_written_and_read_as_prost_does(
        deliveries in vec((lease(), 1u16.., number32(), bytes()), 1..20),
        before in bytes(), room in 1usize..4000, order: u64,
    ) {
        let mut out = before.clone();
        let mut writer = DeliverWriter::begin(&mut out, room);
        let mut expected = proto::Deliver::default();
        for (lease, subscription, lease_ms, message) in deliveries {
            let mut with = expected.clone();
            with.deliveries.push(proto::Delivery {
                lease: Some(lease.into()),
                subscription: u32::from(subscription),
                lease_ms,
                message: message.clone(),
                parts_bytes: 0,
            });
            // Prost leaves an empty message out; the writer does not.
            let len = with.encoded_len() + with.deliveries.iter().filter(|d| d.message.is_empty()).count() * 2;
            let taken = writer.push(&mut out, SubscriptionId(subscription), lease, lease_ms, &message);
            prop_assert_eq!(taken, len <= room);
            if taken {
                expected = with;
            }
        }
        writer.finish(&mut out);
        prop_assert_eq!(&out[..before.len()], &before[..]);
        if expected.deliveries.is_empty() {
            prop_assert_eq!(out, before);
            return Ok(());
        }
        let payload = payload(&out[before.len()..], Kind::Deliver);
        prop_assert_eq!(proto::Deliver::decode(payload).unwrap(), expected.clone());
        for bytes in [payload.to_vec(), rewritten(&expected.encode_to_vec(), order, &[])] {
            let ServerFrame::Deliver(view) = ServerFrame::decode(Kind::Deliver, &bytes).unwrap() else {
                panic!("another frame")
            };
            let read = view.deliveries().map(|delivery| proto::Delivery {
                lease: Some(delivery.lease.into()),
                subscription: u32::from(delivery.subscription.0),
                lease_ms: delivery.lease_ms,
                message: delivery.message.to_vec(),
                parts_bytes: delivery.parts_bytes,
            });
            prop_assert_eq!(&proto::Deliver { deliveries: read.collect() }, &expected);
            prop_assert_eq!(view.delivery_count(), expected.deliveries.len());
        }
    }

    #[test]
    fn a_topics_delivery_is_written_and_read_as_prost_does(
        deliveries in vec((prop::option::of(lease()), 1u16.., bytes()), 1..20), order: u64,
    ) {
        let mut out = Vec::new();
        let mut writer = DeliverWriter::begin(&mut out, FRAME_BYTES_MAX);
        let mut expected = proto::Deliver::default();
        for (lease, number, message) in &deliveries {
            let subscription = SubscriptionId(*number);
            let is_in = match lease {
                Some(lease) => writer.push(&mut out, subscription, *lease, 5, message),
                None => writer.push_broadcast(&mut out, subscription, message),
            };
            prop_assert!(is_in);
            expected.deliveries.push(proto::Delivery {
                lease: lease.map(Into::into),
                subscription: u32::from(*number),
                lease_ms: if lease.is_some() { 5 } else { 0 },
                message: message.clone(),
                parts_bytes: 0,
            });
        }
        writer.finish(&mut out);
        let payload = payload(&out, Kind::Deliver);
        prop_assert_eq!(proto::Deliver::decode(payload).unwrap(), expected.clone());
        for bytes in [payload.to_vec(), rewritten(&expected.encode_to_vec(), order, &[])] {
            let ServerFrame::Deliver(view) = ServerFrame::decode(Kind::Deliver, &bytes).unwrap() else {
                panic!("another frame")
            };
            let told: Vec<_> = view.broadcasts().map(|told| (told.subscription.0, told.message.to_vec())).collect();
            let leased: Vec<_> = view.deliveries().map(|own| (own.subscription.0, own.message.to_vec())).collect();
            let of = |is_leased: bool| -> Vec<_> {
                let own = deliveries.iter().filter(|(lease, ..)| lease.is_some() == is_leased);
                own.map(|(_, number, message)| (*number, message.clone())).collect()
            };
            prop_assert_eq!((told, leased), (of(false), of(true)));
        }
        // What has no lease comes whole.
        for half in [
            proto::Delivery { subscription: 1, parts_bytes: 7, ..Default::default() },
            proto::Delivery { subscription: 1, lease_ms: 7, ..Default::default() },
        ] {
            let deliver = proto::Deliver { deliveries: vec![half] }.encode_to_vec();
            prop_assert!(ServerFrame::decode(Kind::Deliver, &deliver).is_err());
        }
    }

    #[test]
    fn a_message_in_parts_comes_out_as_it_went_in(
        message in vec(any::<u8>(), 2..3000), room in 20usize..600, wrong in any::<prop::sample::Index>(),
    ) {
        let mut parts = Parts::default();
        let mut sent = 0;
        while message.len() - sent > room {
            let mut out = Vec::new();
            let taken = wire::encode_part(&mut out, &message, sent, room);
            let payload = payload(&out, Kind::Part);
            prop_assert!(payload.len() <= room && taken > 0);
            let expected = proto::Part { offset: sent as u32, data: message[sent..sent + taken].to_vec() };
            prop_assert_eq!(proto::Part::decode(payload).unwrap(), expected.clone());
            prop_assert_eq!(payload, expected.encode_to_vec());
            let Ok(ClientFrame::Part(part)) = ClientFrame::decode(Kind::Part, payload) else {
                panic!("no part")
            };
            // A part at any other place is refused, and changes nothing.
            let elsewhere = wrong.index(5000) as u32;
            if elsewhere != part.offset {
                let fault = parts.push(&wire::PartView { offset: elsewhere, ..part }, message.len());
                prop_assert_eq!(fault.unwrap_err().code(), Code::Invalid);
            }
            parts.push(&part, message.len()).unwrap();
            sent += taken;
            prop_assert_eq!(parts.len(), sent);
        }
        let end = &message[sent..];
        prop_assert!(parts.finish(sent as u32 + 1, end, message.len()).is_err());
        prop_assert_eq!(parts.finish(sent as u32, end, message.len() - 1).unwrap_err().code(), Code::TooLarge);
        prop_assert_eq!(parts.finish(sent as u32, end, message.len()).unwrap(), message);
        prop_assert!(parts.is_empty());
    }

    #[test]
    fn the_end_of_a_message_in_parts_is_written_as_prost_reads_it(
        end in bytes(), parts_bytes in 1u32.., lease in lease(), sequence in 1u64..1 << 60,
    ) {
        let mut out = Vec::new();
        let producer = Some((7, sequence, 1));
        wire::encode_publish_end(&mut out, 3, "jobs", producer, parts_bytes, &end);
        let expected = proto::Publish {
            seq: 3,
            queue: "jobs".to_owned(),
            messages: vec![end.clone()],
            producer_id: 7,
            sequence,
            unanswered_from: 1,
            parts_bytes,
            ..Default::default()
        };
        prop_assert_eq!(payload(&out, Kind::Publish), expected.encode_to_vec());
        check_publish(payload(&out, Kind::Publish), &expected);
        let two = proto::Publish { messages: vec![end.clone(); 2], ..expected };
        prop_assert!(ClientFrame::decode(Kind::Publish, &two.encode_to_vec()).is_err(), "two ends");

        let mut out = Vec::new();
        let mut writer = DeliverWriter::begin(&mut out, FRAME_BYTES_MAX);
        prop_assert!(writer.push_end(&mut out, SubscriptionId(1), lease, 9, parts_bytes, &end));
        prop_assert!(!writer.push_end(&mut out, SubscriptionId(1), lease, 9, parts_bytes, &end), "not alone");
        writer.finish(&mut out);
        let by_prost = proto::Deliver::decode(payload(&out, Kind::Deliver)).unwrap();
        prop_assert_eq!(&by_prost.deliveries[0].message, &end);
        prop_assert_eq!(by_prost.deliveries[0].parts_bytes, parts_bytes);
        let ServerFrame::Deliver(view) = ServerFrame::decode(Kind::Deliver, payload(&out, Kind::Deliver)).unwrap()
        else {
            panic!("another frame")
        };
        prop_assert_eq!(view.parts_bytes(), parts_bytes);
        let whole = view.completed(b"the whole").deliveries().next().unwrap();
        prop_assert_eq!((whole.message, whole.parts_bytes, whole.lease), (&b"the whole"[..], 0, lease));
    }

    #[test]
    fn a_lease_in_two_parts_is_merged(lease in lease()) {
        let delivery = [
            proto::Delivery {
                lease: Some(proto::Lease { message_id: 1, attempt: lease.attempt, boot: 0 }),
                subscription: 1,
                ..Default::default()
            },
            proto::Delivery {
                lease: Some(proto::Lease { message_id: lease.message.0, attempt: 0, boot: lease.boot.0 }),
                ..Default::default()
            },
        ];
        let joined = delivery.map(|part| part.encode_to_vec()).concat();
        let by_prost = proto::Delivery::decode(&joined[..]).unwrap().lease.unwrap();
        let mut bytes = Vec::new();
        prost::encoding::bytes::encode(1, &joined, &mut bytes);
        let ServerFrame::Deliver(view) = ServerFrame::decode(Kind::Deliver, &bytes).unwrap() else {
            panic!("another frame")
        };
        let read: Vec<_> = view.deliveries().map(|delivery| proto::Lease::from(delivery.lease)).collect();
        prop_assert_eq!(read, [by_prost]);
    }

    #[test]
    fn short_answers_are_written_as_prost_writes_them(
        seq in number(), more in number32(), first_id in number(), messages in number32(),
    ) {
        let mut out = Vec::new();
        wire::encode_publish_ack(&mut out, seq, more, first_id, messages);
        let ack = proto::PublishAck { seq, more, first_id, messages, ..Default::default() };
        prop_assert_eq!(payload(&out, Kind::PublishAck), ack.encode_to_vec());
        out.clear();
        wire::encode_reply_ok(&mut out, seq, more);
        let reply = proto::Reply { seq, more, ..Default::default() };
        prop_assert_eq!(payload(&out, Kind::Reply), reply.encode_to_vec());
    }

    #[test]
    fn a_message_header_is_read_as_prost_reads_it(
        payload in bytes(), attributes in prop::collection::hash_map("\\PC{0,20}", "\\PC{0,20}", 0..6),
        priority in 0u32..11, delay_ms in 0u64..limits::DELAY_MAX.as_millis() as u64 + 1, due_unix_ms in number(),
        ttl_ms in number(), attempts_max in 0u32..limits::ATTEMPTS_MAX + 1, trace_context in "[ -~]{0,64}",
        keys in ("\\PC{0,20}", "\\PC{0,20}", "\\PC{0,20}"), lease_ms in 0u32..1000, order: u64,
    ) {
        let (order_key, fair_key, dedup_id) = keys;
        let message = proto::Message {
            payload, attributes, priority, delay_ms, due_unix_ms, ttl_ms, attempts_max, trace_context, order_key, fair_key,
            dedup_id, retry: None, lease_ms,
        };
        let earlier: [(u32, &[u8]); 3] = [(3, &[0x18, 99]), (7, &[0x38, 0xff, 0x7f]), (8, &[0x42, 1, b'x'])];
        let bytes = rewritten(&message.encode_to_vec(), order, &earlier);
        prop_assert_eq!(&proto::Message::decode(&bytes[..]).unwrap(), &message);
        let header = relaymesh::message::message_header(&bytes, bytes.len()).unwrap();
        prop_assert_eq!(u32::from(header.priority), priority.checked_sub(1).unwrap_or(4));
        let read = (header.delay_ms, header.due.0, header.ttl_ms, header.attempts_max);
        prop_assert_eq!(read, (delay_ms, due_unix_ms, ttl_ms, attempts_max));
        prop_assert!(relaymesh::message::message_header(&bytes, bytes.len() - 1).is_err());
        let options = relaymesh::message::message_options(&bytes);
        let keys = (options.order_key, options.fair_key, options.dedup_id);
        prop_assert_eq!(keys, (&*message.order_key, &*message.fair_key, &*message.dedup_id));
        prop_assert_eq!(options.lease.map_or(0, |lease| lease.as_millis()), u128::from(lease_ms));
        let has_keys = !(keys.0.is_empty() && keys.1.is_empty() && keys.2.is_empty());
        prop_assert_eq!(header.has_options, has_keys || lease_ms > 0);
    }

    #[test]
    fn dictionaries_are_read_packed_and_unpacked(numbers in vec(number32(), 0..12)) {
        let mut packed = Vec::new();
        prost::encoding::uint32::encode_packed(7, &numbers, &mut packed);
        let mut unpacked = Vec::new();
        prost::encoding::uint32::encode_repeated(7, &numbers, &mut unpacked);
        for bytes in [packed, unpacked] {
            match ClientFrame::decode(Kind::Hello, &bytes) {
                Ok(ClientFrame::Hello(hello)) => {
                    prop_assert!(numbers.len() <= limits::HELLO_DICTIONARIES_MAX);
                    prop_assert_eq!(&hello.dictionaries, &numbers);
                }
                Ok(_) => panic!("another frame"),
                Err(fault) => {
                    prop_assert!(numbers.len() > limits::HELLO_DICTIONARIES_MAX);
                    prop_assert_eq!(fault.code(), Code::TooLarge);
                }
            }
        }
    }

    #[test]
    fn a_frame_is_found_whole_however_it_arrives(body in vec(any::<u8>(), 0..20_000), cut: prop::sample::Index) {
        let mut out = Vec::new();
        wire::encode_publish(&mut out, 1, "jobs", None, &[&body]);
        let cut = cut.index(out.len());
        let Ok(Split::NeedMore { bytes }) = wire::split(&out[..cut], FRAME_BYTES_MAX) else {
            panic!("a frame out of {cut} bytes of {}", out.len())
        };
        prop_assert!(bytes > cut && bytes <= out.len());
        out.extend_from_slice(b"the next");
        let Ok(Split::Frame { consumed, .. }) = wire::split(&out, FRAME_BYTES_MAX) else { panic!("no frame") };
        prop_assert_eq!(consumed, out.len() - 8);
    }

    #[test]
    fn compression_gives_back_what_was_sent(body in vec(b'a'..b'f', 0..3000), before in bytes()) {
        let mut codec = Codec::new();
        let mut out = before.clone();
        wire::encode_publish(&mut out, 1, "jobs", None, &[&body]);
        let plain = out.clone();
        codec.compress_last_frame(&mut out, before.len());
        prop_assert!(out.len() <= plain.len());
        prop_assert_eq!(&out[..before.len()], &before[..]);
        let Ok(Split::Frame { frame, consumed }) = wire::split(&out[before.len()..], FRAME_BYTES_MAX) else {
            panic!("no frame")
        };
        prop_assert_eq!(consumed, out.len() - before.len());
        prop_assert_eq!(frame.compressed, out.len() < plain.len());
        let read = codec.payload(frame, true, FRAME_BYTES_MAX).unwrap();
        prop_assert_eq!(read, payload(&plain[before.len()..], Kind::Publish));
    }

    #[test]
    fn messages_are_compressed_only_where_it_is_worth_it(
        bodies in vec((0usize..4000, any::<bool>()), 1..8),
        seed in any::<u64>(),
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let bodies: Vec<Vec<u8>> = bodies
            .into_iter()
            .map(|(len, is_text)| (0..len).map(|_| if is_text { random.u8(b'a'..b'q') } else { random.u8(..) }).collect())
            .collect();
        let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        let compressible: usize = bodies.iter().map(|body| wire::compressible_bytes(body)).sum();
        for body in &bodies {
            let worth = wire::compressible_bytes(body);
            prop_assert!(worth == 0 || worth == body.len() && worth >= COMPRESS_BODY_BYTES_MIN);
        }
        let mut out = Vec::new();
        wire::encode_publish(&mut out, 1, "jobs", None, &bodies);
        let plain = out.clone();
        let mut codec = Codec::new();
        codec.compress_messages(&mut out, 0, compressible);
        let Ok(Split::Frame { frame, consumed }) = wire::split(&out, FRAME_BYTES_MAX) else { panic!("no frame") };
        prop_assert_eq!(consumed, out.len());
        // Letters out of 16 go into half the bytes.
        prop_assert_eq!(frame.compressed, 2 * compressible >= plain.len());
        prop_assert!(!frame.compressed || out.len() < plain.len());
        prop_assert_eq!(codec.payload(frame, true, FRAME_BYTES_MAX).unwrap(), payload(&plain, Kind::Publish));
    }

    #[test]
    fn any_bytes_are_taken_without_harm(bytes in vec(any::<u8>(), 0..200)) {
        let _ = wire::split(&bytes, FRAME_BYTES_MAX);
        let _ = relaymesh::message::message_header(&bytes, FRAME_BYTES_MAX);
        for kind in Kind::ALL {
            let _ = ClientFrame::decode(kind, &bytes);
            let _ = ServerFrame::decode(kind, &bytes);
        }
        let frame = RawFrame { kind: Kind::Publish, compressed: true, payload: &bytes };
        let _ = Codec::new().payload(frame, true, FRAME_BYTES_MAX);
    }

    #[test]
    fn a_checked_ping_decodes(bytes in vec(any::<u8>(), 0..30), time_s in number32()) {
        let mut ping = proto::Ping { time_s, ..Default::default() }.encode_to_vec();
        ping.extend_from_slice(&bytes);
        if let Ok(ClientFrame::Ping(payload)) = ClientFrame::decode(Kind::Ping, &ping) {
            prop_assert!(proto::Ping::decode(payload).is_ok());
        }
    }
}
