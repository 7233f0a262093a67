use super::*;
use crate::wire::{EMPTY_PING, encode_part, encode_publish_end};

const FRAME: usize = 4096;

fn small() -> GatewayConfig {
    let mut config = GatewayConfig {
        frame_bytes_max: FRAME,
        message_bytes_max: 40_000,
        write_budget_bytes: 4096,
        ..config()
    };
    config.rules.publish_bytes_max = 60_000;
    config
}

/// A whole message with a payload of this many bytes.
fn body(payload: usize) -> Vec<u8> {
    let payload = (0..payload).map(|at| (at % 251) as u8).collect();
    prost::Message::encode_to_vec(&proto::Message { payload, ..Default::default() })
}

/// The PARTs of all but the last `end` bytes of `body`, and how many bytes they carry.
fn parts(body: &[u8], end: usize) -> (Vec<u8>, usize) {
    let (mut out, mut sent) = (Vec::new(), 0);
    while body.len() - sent > end {
        sent += encode_part(&mut out, &body[..body.len() - end + 1], sent, FRAME);
    }
    (out, sent)
}

fn end(seq: u64, queue: &str, body: &[u8], sent: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode_publish_end(&mut out, seq, queue, None, sent as u32, &body[sent..]);
    out
}

/// `body` in parts, and the PUBLISH that ends them.
fn publish_in_parts(rig: &mut Rig, key: SlotKey, seq: u64, queue: &str, body: &[u8]) {
    let (begun, sent) = parts(body, 100);
    rig.receive(key, &begun);
    rig.receive(key, &end(seq, queue, body, sent));
}

fn error(rig: &mut Rig, key: SlotKey) -> (proto::Code, String) {
    match rig.frames(key.slot).pop() {
        Some(Got::Error(error)) => (error.code(), error.text),
        other => panic!("no ERROR: {other:?}"),
    }
}

#[test]
fn a_message_in_parts_is_one_publish() {
    let mut rig = Rig::new(small());
    let key = rig.live("a");
    let body = body(30_000);
    let (begun, sent) = parts(&body, 100);
    // However it is cut, and whatever passes between.
    for piece in begun.chunks(1000) {
        rig.receive(key, piece);
    }
    assert_eq!(rig.metrics.partial_bytes.value() as usize, sent);
    rig.receive(key, &EMPTY_PING);
    rig.receive(key, &publish(1, "jobs", &[b"small"]));
    rig.receive(key, &end(2, "jobs", &body, sent));
    let bodies = rig.gateway.commands()[0].bodies.clone();
    assert!(bodies.ends_with(&body), "the message is not what was sent");
    let commands = rig.commands();
    assert!(
        matches!(&commands[..], [Command::Publish(first), Command::Publish(second)]
            if (first.seq, second.seq, second.messages) == (1, 2, 1)),
        "{commands:?}"
    );
    assert_eq!(rig.frames(key.slot), [Got::Pong]);
    assert_eq!(rig.metrics.partial_bytes.value(), 0);
    assert_eq!(rig.gateway.buffers.in_use(), 0, "buffers exist only while something is under way");
}

#[test]
fn parts_use_up_the_window_and_an_answer_gives_it_back() {
    let mut rig = Rig::new(small());
    let key = rig.live("a");
    let body = body(39_000);
    for seq in 1..4 {
        publish_in_parts(&mut rig, key, seq, "jobs", &body);
        let acked = crate::mail::PublishAcked {
            conn: conn(key),
            seq,
            more: 0,
            first_id: MessageId(seq),
            messages: 1,
            bytes: body.len() as u32,
        };
        rig.effects(vec![Effect::PublishAcked(acked)], &[]);
        assert!(matches!(rig.frames(key.slot)[..], [Got::PublishAck(_)]));
    }
    // Unanswered, it leaves no room for the parts of another.
    publish_in_parts(&mut rig, key, 4, "jobs", &body);
    rig.receive(key, &parts(&body, 100).0);
    let (code, text) = error(&mut rig, key);
    assert_eq!(code, proto::Code::WindowExceeded, "{text}");
    assert_eq!(rig.metrics.partial_bytes.value(), 0);
}

#[test]
fn a_refused_end_gives_the_window_back() {
    let mut rig = Rig::new(small());
    let key = rig.live("a");
    let body = body(39_000);
    for seq in 1..4 {
        publish_in_parts(&mut rig, key, seq, "no queue/has this name", &body);
        let frames = rig.frames(key.slot);
        assert!(matches!(&frames[..], [Got::PublishAck(ack)] if ack.refusal.is_some()), "{frames:?}");
    }
    assert_eq!(rig.metrics.partial_bytes.value(), 0);
    assert!(rig.closed.is_empty() && rig.commands().is_empty());
}

#[test]
fn what_is_wrong_with_parts_is_told() {
    let whole = body(30_000);
    let (begun, sent) = parts(&whole, 100);
    let part = |offset, data: &[u8]| frame(Kind::Part, &proto::Part { offset, data: data.to_vec() });
    let cases: [(&str, Vec<u8>, proto::Code, &str); 7] = [
        ("a part twice", [part(0, b"ab"), part(0, b"ab")].concat(), proto::Code::Invalid, "expected is 2"),
        ("a gap", [part(0, b"ab"), part(3, b"d")].concat(), proto::Code::Invalid, "Part.offset is 3"),
        ("no first part", part(1, b"b"), proto::Code::Invalid, "expected is 0"),
        ("an empty part", part(0, b""), proto::Code::Invalid, "Part.data is missing"),
        ("an end without parts", end(1, "jobs", &whole, sent), proto::Code::Invalid, "0 bytes came in parts"),
        (
            "an end that lacks a part",
            [begun.clone(), end(1, "jobs", &whole, sent + 1)].concat(),
            proto::Code::Invalid,
            "bytes came in parts",
        ),
        ("too much", parts(&vec![0; 50_000], 100).0, proto::Code::TooLarge, "at most 40000"),
    ];
    for (name, bytes, expected, said) in cases {
        let mut rig = Rig::new(small());
        let key = rig.live("a");
        rig.receive(key, &bytes);
        let (code, text) = error(&mut rig, key);
        assert_eq!(code, expected, "{name}: {text}");
        assert!(text.contains(said), "{name}: {text}");
        assert_eq!(rig.metrics.partial_bytes.value(), 0, "{name}");
        assert_eq!(rig.closed, [key.slot], "{name}");
    }
}

#[test]
fn unfinished_parts_are_forgotten_with_their_connection() {
    let mut rig = Rig::new(small());
    let key = rig.live("a");
    rig.receive(key, &parts(&body(30_000), 100).0);
    rig.gateway.closed(rig.now, key.slot, CloseCause::Peer);
    assert_eq!(rig.metrics.partial_bytes.value(), 0);
    assert!(matches!(rig.commands()[..], [Command::Detach(_)]));
    rig.turn();
}

#[test]
fn parts_that_do_not_go_on_end_the_connection() {
    let mut rig = Rig::new(small());
    let key = rig.live("a");
    let body = body(30_000);
    let (begun, _) = parts(&body, 100);
    // Two parts in time, then none.
    let mut rest = &begun[..];
    let deadline = u64::try_from(small().part_deadline.as_millis()).unwrap();
    for _ in 0..2 {
        let Ok(Split::Frame { consumed, .. }) = split(rest, FRAME) else { panic!("a part") };
        rig.receive(key, &rest[..consumed]);
        rest = &rest[consumed..];
        for _ in 0..deadline / 1000 - 1 {
            rig.wait(1000);
            rig.receive(key, &EMPTY_PING);
        }
    }
    assert!(rig.closed.is_empty(), "each part came in time");
    rig.wait(1000);
    let (code, text) = error(&mut rig, key);
    assert_eq!(code, proto::Code::Unexpected);
    assert!(text.contains("no part of an unfinished message came for 30s"), "{text}");
    assert_eq!(rig.closed, [key.slot]);
}

#[test]
fn unfinished_parts_have_a_budget_in_the_loop() {
    let mut rig = Rig::new(GatewayConfig { loop_partial_bytes_max: 50_000, ..small() });
    let (a, b) = (rig.live("a"), rig.live("b"));
    let (begun, _) = parts(&body(30_000), 100);
    rig.receive(a, &begun);
    rig.receive(b, &begun);
    assert!(matches!(rig.frames(b.slot)[..], [Got::GoAway(_)]));
    assert!(rig.metrics.partial_bytes.value() <= 30_000);
    assert_eq!(rig.closed, [b.slot]);
}

/// The message that these frames carry in parts; panics when they do not follow each other.
fn joined(frames: &[Got]) -> Vec<u8> {
    let mut whole = Vec::new();
    for frame in frames {
        match frame {
            Got::Part(offset, data) => {
                assert_eq!(*offset as usize, whole.len());
                whole.extend_from_slice(data);
            }
            Got::End(parts_bytes, data, _) => {
                assert_eq!(*parts_bytes as usize, whole.len());
                whole.extend_from_slice(data);
            }
            _ => {}
        }
    }
    assert!(matches!(frames.iter().rfind(|frame| !matches!(frame, Got::Pong)), Some(Got::End(..))));
    whole
}

#[test]
fn a_large_message_is_delivered_in_parts_within_the_budget() {
    let mut rig = Rig::new(small());
    let (key, other) = (rig.live("a"), rig.live("b"));
    let body = body(30_000);
    rig.effects(vec![delivery(key, 1, body.len()), delivery(other, 2, 1)], &[&body[..], b"x"].concat());
    assert_eq!(rig.frames(other.slot), [Got::Deliver(vec![b"x".to_vec()])]);
    let mut turns = 0;
    while rig.gateway.next_deadline() == Some(Time(0)) {
        assert!(rig.gateway.unsent(key.slot).len() <= small().write_budget_bytes);
        // Whatever comes between has its place between two parts.
        rig.receive(key, &EMPTY_PING);
        rig.gateway.expire(rig.now);
        rig.turn();
        turns += 1;
    }
    assert!(turns > 5, "all of it went in {turns} turns");
    let frames = rig.frames(key.slot);
    assert_eq!(joined(&frames), body);
    let pongs_between = frames[1..frames.len() - 1].contains(&Got::Pong);
    assert!(pongs_between, "no PONG came before the end");
    assert_eq!(rig.metrics.output_bytes.value(), 0);
    assert_eq!(rig.gateway.buffers.in_use(), 0);
    assert!(rig.commands().is_empty());
}

#[test]
fn while_a_large_message_is_on_its_way_others_go_back_and_come_again() {
    let mut rig = Rig::new(small());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    let body = body(30_000);
    let effects = vec![delivery(key, 1, body.len()), delivery(key, 2, 1), delivery(key, 3, body.len())];
    rig.effects(effects, &[&body[..], b"x", &body].concat());
    assert!(rig.metrics.output_bytes.value() as usize > body.len(), "what waits is counted");
    assert!(rig.gateway.unsent(key.slot).len() <= small().write_budget_bytes, "but not all is output");
    let returned: Vec<_> = rig.gateway.commands()[0].leases.iter().map(|lease| lease.message.0).collect();
    assert_eq!(returned, [2, 3]);
    assert!(matches!(&rig.commands()[..], [Command::Return { leases: 2, .. }]));
    assert!(rig.gateway.may_read(key.slot), "its acks are still heard");
    rig.plugged.clear();
    rig.flush(key.slot);
    rig.turn();
    assert!(rig.commands().is_empty(), "nothing is asked for before all of it is out");
    rig.wait(1);
    assert_eq!(joined(&rig.frames(key.slot)), body);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Resupply { .. }]), "{commands:?}");
}

#[test]
fn a_slow_reader_does_not_lose_the_lease_of_what_it_is_being_sent() {
    let mut rig = Rig::new(small());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    let body = body(30_000);
    rig.effects(vec![delivery(key, 1, body.len())], &body);
    let mut renewed = 0;
    let mut taken = Vec::new();
    // A quarter of the output every 5 s, of which the lease has 30.
    while !rig.gateway.unsent(key.slot).is_empty() {
        for _ in 0..5 {
            rig.wait(1000);
            rig.receive(key, &EMPTY_PING);
        }
        let unsent = rig.gateway.unsent(key.slot).to_vec();
        let some = unsent.len().min(2048);
        taken.extend_from_slice(&unsent[..some]);
        rig.gateway.sent(rig.now, key.slot, some);
        rig.gateway.expire(rig.now);
        renewed += rig.commands().iter().filter(|c| matches!(c, Command::Renew { .. })).count();
    }
    assert!((5..20).contains(&renewed), "renewed {renewed} times in 75 s");
    let frames = parse(&taken);
    assert_eq!(joined(&frames), body);
    let left = frames.iter().find_map(|frame| match frame {
        Got::End(_, _, lease_ms) => Some(*lease_ms),
        _ => None,
    });
    assert!(left.is_some_and(|left| (22_500..=30_000).contains(&left)), "{left:?} ms are left of the lease");
}

#[test]
fn a_large_message_ends_with_its_connection() {
    let mut rig = Rig::new(small());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    let body = body(30_000);
    rig.effects(vec![delivery(key, 1, body.len())], &body);
    rig.receive(key, &[63, 0]);
    rig.plugged.clear();
    rig.flush(key.slot);
    rig.turn();
    let frames = rig.frames(key.slot);
    assert!(matches!(frames.last(), Some(Got::Error(_))), "the last words come after whole frames");
    assert_eq!(rig.metrics.output_bytes.value(), 0);
    assert_eq!(rig.closed, [key.slot]);
    assert_eq!(rig.gateway.buffers.in_use(), 0);
}
