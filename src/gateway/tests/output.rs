use super::*;
use crate::limits;
use crate::mail::{RefusalCode, Refused, Settled};
use crate::wire::{DICTIONARY_ID, EMPTY_PING};

/// A connection whose client has the dictionary, or has not.
fn live_with(rig: &mut Rig, dictionaries: Vec<u32>) -> SlotKey {
    let key = rig.accept();
    rig.receive(key, &hello_of(proto::Hello { client_id: "d".into(), dictionaries, ..Default::default() }));
    rig.attach(key, 1);
    rig.commands();
    rig.taken[key.slot as usize].clear();
    key
}

/// Text that compresses, and noise.
fn text(len: usize) -> Vec<u8> {
    (0..)
        .flat_map(|room: usize| format!("room {room}: {} degrees\n", room * room % 397).into_bytes())
        .take(len)
        .collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(5);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// Whether what the client got is compressed, and what it holds.
fn delivered(rig: &mut Rig, key: SlotKey) -> (bool, Vec<Vec<u8>>) {
    let bytes = std::mem::take(&mut rig.taken[key.slot as usize]);
    let mut codec = Codec::new();
    let Ok(Split::Frame { frame, consumed }) = split(&bytes, 1 << 24) else { panic!("no frame") };
    assert_eq!(consumed, bytes.len(), "one frame");
    let payload = codec.payload(frame, true, 1 << 20).expect("a payload that decompresses");
    let Ok(ServerFrame::Deliver(view)) = ServerFrame::decode(frame.kind, payload) else {
        panic!("no DELIVER")
    };
    (frame.compressed, view.deliveries().map(|delivery| delivery.message.to_vec()).collect())
}

#[test]
fn large_messages_are_compressed_for_clients_that_have_the_dictionary() {
    let bodies = |bodies: &[Vec<u8>]| bodies.to_vec();
    let small = text(limits::COMPRESS_BODY_BYTES_MIN - 1);
    for (dictionaries, agreed) in [(vec![9, DICTIONARY_ID], true), (vec![], false), (vec![9], false)] {
        for (sent, is_worth_it) in [
            (bodies(&[text(limits::COMPRESS_BODY_BYTES_MIN)]), true),
            (bodies(&[text(40_000), noise(20), text(2000)]), true),
            (vec![small.clone()], false),
            // Many small ones make a large frame; the time of each counts.
            (vec![small.clone(); 100], false),
            (bodies(&[noise(5000)]), false),
            (bodies(&[text(2000), noise(9000)]), false),
        ] {
            let mut rig = Rig::new(config());
            let key = live_with(&mut rig, dictionaries.clone());
            let effects = sent.iter().zip(1..).map(|(body, id)| delivery(key, id, body.len())).collect();
            rig.effects(effects, &sent.concat());
            let (is_compressed, got) = delivered(&mut rig, key);
            assert_eq!(got, sent);
            assert_eq!(is_compressed, agreed && is_worth_it, "{dictionaries:?} {:?}", sent[0].len());
            assert_eq!(rig.metrics.frames_compressed.value(), u64::from(is_compressed));
            assert_eq!(rig.metrics.compression_saved_bytes.value() > 0, is_compressed);
        }
    }
}

#[test]
fn a_server_that_is_told_not_to_compress_does_not() {
    let mut config = config();
    config.rules.compression = false;
    let mut rig = Rig::new(config);
    let key = live_with(&mut rig, vec![DICTIONARY_ID]);
    rig.effects(vec![delivery(key, 1, 5000)], &text(5000));
    assert!(!delivered(&mut rig, key).0);
}

#[test]
fn frames_behind_a_compressed_one_stay_whole() {
    let mut rig = Rig::new(config());
    let key = live_with(&mut rig, vec![DICTIONARY_ID]);
    rig.plugged.push(key.slot);
    rig.effects(vec![delivery(key, 1, 5000)], &text(5000));
    rig.receive(key, &EMPTY_PING);
    rig.effects(vec![delivery(key, 2, 3), delivery(key, 3, 9000)], &[&b"xyz"[..], &text(9000)].concat());
    rig.plugged.clear();
    rig.flush(key.slot);
    let bytes = std::mem::take(&mut rig.taken[key.slot as usize]);
    let (mut rest, mut codec, mut got) = (&bytes[..], Codec::new(), Vec::new());
    while let Ok(Split::Frame { frame, consumed }) = split(rest, 1 << 24) {
        let payload = codec.payload(frame, true, 1 << 20).expect("a payload that decompresses");
        ServerFrame::decode(frame.kind, payload).expect("a frame that decodes");
        got.push((frame.kind, frame.compressed));
        rest = &rest[consumed..];
    }
    assert_eq!(rest, b"");
    assert_eq!(got, [(Kind::Deliver, true), (Kind::Pong, false), (Kind::Deliver, true)]);
}

#[test]
fn deliveries_of_one_turn_share_a_frame() {
    let mut rig = Rig::new(config());
    let (a, b) = (rig.live("a"), rig.live("b"));
    let effects = vec![delivery(a, 1, 1), delivery(b, 2, 1), delivery(a, 3, 2), delivery(b, 4, 0)];
    rig.effects(effects, b"xyzz");
    assert_eq!(rig.frames(a.slot), [Got::Deliver(vec![b"x".to_vec(), b"zz".to_vec()])]);
    assert_eq!(rig.frames(b.slot), [Got::Deliver(vec![b"y".to_vec(), vec![]])]);
    assert_eq!(rig.gateway.buffers.in_use(), 0, "buffers exist only while something is unsent");
}

#[test]
fn deliveries_beyond_the_budget_come_back_and_are_asked_for_again() {
    let mut rig = Rig::new(config());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    let body = vec![7; 400 * 1024];
    let effects = (1..=5).map(|id| delivery(key, id, body.len())).collect();
    rig.effects(effects, &body.repeat(5));
    let returned = rig.gateway.commands()[0].leases.clone();
    assert_eq!(returned.iter().map(|lease| lease.message.0).collect::<Vec<_>>(), [4, 5]);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Return { leases: 2, .. }]), "{commands:?}");
    assert!(!rig.gateway.may_read(key.slot), "its replies would only add to it");
    rig.gateway.sent(rig.now, key.slot, 400 * 1024);
    assert!(rig.commands().is_empty());
    rig.gateway.sent(rig.now, key.slot, 400 * 1024);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Resupply { .. }]), "{commands:?}");
    assert!(rig.gateway.may_read(key.slot));
    rig.turn();
}

#[test]
fn room_is_given_once_the_output_is_small() {
    let mut rig = Rig::new(config());
    let key = rig.live("a");
    let low = |key| Effect::RoomLow { conn: conn(key) };
    rig.effects(vec![delivery(key, 1, 10), low(key)], &[7; 10]);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Resupply { conn: c }] if *c == conn(key)), "{commands:?}");
    let half = config().write_budget_bytes / 2;
    rig.plugged.push(key.slot);
    rig.effects(vec![delivery(key, 2, half + 1000), low(key)], &vec![7; half + 1000]);
    assert!(rig.commands().is_empty());
    rig.gateway.sent(rig.now, key.slot, 500);
    assert!(rig.commands().is_empty(), "more than half of the budget is unsent");
    rig.gateway.sent(rig.now, key.slot, 1000);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Resupply { .. }]), "{commands:?}");
    rig.gateway.sent(rig.now, key.slot, 1000);
    assert!(rig.commands().is_empty(), "once");
    // One that is gone is not spoken for.
    rig.effects(vec![low(SlotKey { generation: key.generation + 1, ..key })], &[]);
    assert!(rig.commands().is_empty());
    rig.turn();
}

#[test]
fn the_whole_loop_has_a_budget() {
    let mut rig = Rig::new(GatewayConfig { loop_output_bytes_max: 1000, ..config() });
    let (slow, idle) = (rig.live("slow"), rig.live("idle"));
    rig.plugged.push(slow.slot);
    rig.effects(vec![delivery(slow, 1, 1200), delivery(idle, 2, 10)], &[0; 1210]);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Return { conn: c, leases: 1 }] if *c == conn(idle)));
    rig.plugged.clear();
    rig.flush(slow.slot);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Resupply { conn: c }] if *c == conn(idle)), "{commands:?}");
    assert_eq!(rig.metrics.output_bytes.value(), 0);
}

#[test]
fn who_reads_nothing_is_closed_for_it() {
    let mut rig = Rig::new(config());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    rig.effects(vec![delivery(key, 1, 10)], &[0; 10]);
    rig.gateway.sent(rig.now, key.slot, 3);
    // It is alive, but does not read.
    for _ in 0..19 {
        rig.wait(1000);
        rig.receive(key, &EMPTY_PING);
    }
    assert!(rig.closed.is_empty());
    rig.wait(1000);
    assert_eq!(rig.closed, [key.slot]);
    assert_eq!(rig.metrics.closed_slow.value(), 1);
}

#[test]
fn a_backlog_has_an_end() {
    let mut rig = Rig::new(config());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    // What it asked for is answered although it is not read any more.
    let refused = Refused { code: RefusalCode::Invalid, text: "x".repeat(512), retry_after_ms: 0 };
    for seq in 1..10_000 {
        if rig.closed.is_empty() {
            let refused = Some(Box::new(refused.clone()));
            let settled = Settled { conn: conn(key), seq, more: 0, lost: None, refused };
            rig.effects(vec![Effect::Settled(settled)], &[]);
            let waiting = rig.metrics.output_bytes.value() as usize;
            assert!(waiting <= config().write_backlog_bytes_max() + 2);
        }
    }
    assert_eq!(rig.closed, [key.slot]);
    assert_eq!(rig.metrics.output_bytes.value(), 0);
}

#[test]
fn last_words_linger_for_a_while_only() {
    let mut rig = Rig::new(config());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    rig.receive(key, &[63, 0]);
    assert!(rig.closed.is_empty());
    rig.wait(u64::try_from(limits::LAST_WORDS_DEADLINE.as_millis()).unwrap());
    assert_eq!(rig.closed, [key.slot]);
}

/// Connections that say nothing for an hour, each with a slot of its own.
fn many(rig: &mut Rig, count: u32) -> Vec<SlotKey> {
    let connect = |n| {
        let key = rig.accept();
        let hello =
            proto::Hello { client_id: format!("d{n}"), heartbeat_ms: 3_600_000, ..Default::default() };
        rig.receive(key, &hello_of(hello));
        rig.attach(key, 1);
        key
    };
    (0..count).map(connect).collect()
}

/// Something to send to each of them, all at once.
fn storm(rig: &mut Rig, keys: &[SlotKey]) {
    const BODY: usize = 1000;
    let effects = keys.iter().map(|&key| delivery(key, 1, BODY)).collect();
    rig.effects(effects, &vec![7; BODY * keys.len()]);
}

#[test]
fn what_a_storm_took_is_given_back_once_it_lies_idle() {
    let mut rig = Rig::new(GatewayConfig { max_sessions: 200, ..config() });
    let keys = many(&mut rig, 200);
    let interval = u64::try_from(limits::POOL_TRIM_INTERVAL.as_millis()).unwrap();
    // As long as it is of use it is kept.
    for _ in 0..10 {
        storm(&mut rig, &keys);
        rig.wait(interval / 3);
    }
    let pooled = rig.gateway.buffers.pooled_bytes;
    assert!(pooled >= 200 * 1000, "{pooled} bytes");
    // One buffer that is in use, even the last, keeps no other.
    rig.plugged = keys.iter().map(|key| key.slot).collect();
    storm(&mut rig, &keys);
    rig.plugged = vec![keys[100].slot];
    keys.iter().for_each(|key| rig.flush(key.slot));
    rig.turn();
    for _ in 0..4 {
        rig.wait(interval / 2);
        storm(&mut rig, &keys[..10]);
    }
    assert!(rig.gateway.buffers.pooled_bytes <= limits::POOLED_KEPT_BYTES);
    assert_eq!(rig.metrics.pooled_bytes.value() as usize, rig.gateway.buffers.pooled_bytes);
    rig.plugged.clear();
    rig.flush(keys[100].slot);
    rig.wait(2 * interval);
    assert!(rig.gateway.buffers.entries() <= limits::POOLED_KEPT, "{}", rig.gateway.buffers.entries());
    assert!(!rig.gateway.buffers.has_surplus(), "a quiet loop sleeps");
    storm(&mut rig, &keys);
    assert_eq!(rig.gateway.buffers.in_use(), 0);
}
