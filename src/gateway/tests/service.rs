use super::*;
use crate::ids::{Boot, LeaseId, MessageId, ShardId};
use crate::mail::{LeasesLost, PublishAcked, RefusalCode, Refused, Settled, Settlement};
use crate::wire::{EMPTY_PING, encode_ack};

#[track_caller]
fn error(rig: &mut Rig, key: SlotKey, code: proto::Code) -> String {
    let frames = rig.frames(key.slot);
    let Some(Got::Error(error)) = frames.last() else { panic!("{frames:?}") };
    assert_eq!(error.code(), code);
    assert!(rig.closed.contains(&key.slot));
    let detached = rig.commands().iter().filter(|command| matches!(command, Command::Detach(_))).count();
    assert_eq!(detached, 1);
    error.text.clone()
}

fn lease(n: u64) -> LeaseId {
    LeaseId { message: MessageId(n), attempt: 1, boot: Boot(1) }
}

#[test]
fn publishes_and_settlements_reach_the_batch_flat_and_in_order() {
    let mut rig = Rig::new(config());
    let key = rig.live("d1");
    let mut bytes = publish(1, "jobs", &[b"a", b"bc"]);
    encode_ack(&mut bytes, 2, &[lease(5), lease(6)], true);
    bytes.extend(publish(3, "device/d2", &[b""]));
    let nack = proto::Nack {
        seq: 4,
        leases: vec![proto::Lease { message_id: 7, attempt: 1, boot: 1 }],
        delay_ms: Some(9),
        error: "e".into(),
        ..Default::default()
    };
    bytes.extend(frame(Kind::Nack, &nack));
    rig.receive(key, &bytes);
    let batch = &rig.gateway.commands()[0];
    assert_eq!(batch.messages.iter().map(|m| m.body_len).collect::<Vec<_>>(), [3, 4, 0]);
    assert_eq!(batch.bodies, b"\x0a\x01a\x0a\x02bc");
    assert_eq!(batch.leases, [lease(5), lease(6), lease(7)]);
    let commands = rig.commands();
    let [Command::Publish(p), Command::Settle(a), Command::Publish(_), Command::Settle(n)] = &commands[..]
    else {
        panic!("{commands:?}")
    };
    assert_eq!((p.seq, p.messages, p.queue.as_str(), p.producer), (1, 2, "jobs", None));
    assert_eq!((a.seq, a.leases, a.replenish, &a.settlement), (2, 2, true, &Settlement::Ack));
    assert_eq!(n.settlement, Settlement::Nack { delay_ms: Some(9), error: "e".into(), reject: false });
    assert_eq!(rig.metrics.commands_unanswered.value(), 4);
    let acked =
        PublishAcked { conn: conn(key), seq: 1, more: 0, first_id: MessageId(9), messages: 2, bytes: 7 };
    let ok = Settled { conn: conn(key), seq: 2, more: 0, lost: None, refused: None };
    let lost = Settled { conn: conn(key), seq: 4, more: 0, lost: Some([lease(7)].into()), refused: None };
    let refused = Box::new(Refused { code: RefusalCode::QueueFull, text: "full".into(), retry_after_ms: 3 });
    let refused = Effect::PublishRefused { conn: conn(key), seq: 3, messages: 1, bytes: 0, refused };
    rig.effects(vec![Effect::PublishAcked(acked), Effect::Settled(ok), refused, Effect::Settled(lost)], &[]);
    let frames = rig.frames(key.slot);
    let [Got::PublishAck(acked), Got::Reply(ok), Got::PublishAck(full), Got::Reply(lost)] = &frames[..]
    else {
        panic!("{frames:?}")
    };
    assert_eq!((acked.seq, acked.first_id, acked.messages), (1, 9, 2));
    assert_eq!((ok.seq, ok.code()), (2, proto::Code::Ok));
    assert_eq!(
        full.refusal.as_ref().map(|r| (r.code(), r.retry_after_ms)),
        Some((proto::Code::QueueFull, 3))
    );
    assert_eq!((lost.seq, lost.code(), lost.lost.len()), (4, proto::Code::LeaseLost, 1));
    assert_eq!(rig.metrics.commands_unanswered.value(), 0);
}

#[test]
fn what_a_publish_acks_goes_with_it_and_what_is_lost_is_named() {
    let mut rig = Rig::new(config());
    let key = rig.live("d1");
    let acking = |seq, leases: &[LeaseId]| proto::Publish {
        seq,
        queue: "jobs".into(),
        messages: vec![b"\x0a\x01a".to_vec()],
        acks: leases.iter().map(|&lease| lease.into()).collect(),
        replenish: true,
        ..Default::default()
    };
    let mut bytes = frame(Kind::Publish, &acking(1, &[lease(5), lease(6)]));
    encode_ack(&mut bytes, 2, &[lease(7)], true);
    bytes.extend(publish(3, "jobs", &[b"b"]));
    rig.receive(key, &bytes);
    assert_eq!(rig.gateway.commands()[0].leases, [lease(5), lease(6), lease(7)]);
    let commands = rig.commands();
    let [Command::Publish(first), Command::Settle(ack), Command::Publish(plain)] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!((first.acks, first.replenish, ack.leases), (2, true, 1));
    assert_eq!((plain.acks, plain.replenish), (0, false));
    let lost = LeasesLost { conn: conn(key), seq: 1, messages: 1, bytes: 3, lost: [lease(6)].into() };
    rig.effects(vec![Effect::LeasesLost(Box::new(lost))], &[]);
    let frames = rig.frames(key.slot);
    let [Got::PublishAck(refused)] = &frames[..] else { panic!("{frames:?}") };
    let refusal = refused.refusal.as_ref().unwrap();
    assert_eq!((refused.seq, refusal.code()), (1, proto::Code::LeaseLost));
    assert_eq!(refusal.lost, [proto::Lease::from(lease(6))]);
    assert_eq!(rig.metrics.commands_unanswered.value(), 2);
    // One that is broken leaves none of its leases behind.
    let broken = proto::Publish { messages: vec![vec![0x0a, 9]], ..acking(4, &[lease(8)]) };
    rig.receive(key, &frame(Kind::Publish, &broken));
    assert!(rig.gateway.commands()[0].leases.is_empty());
    error(&mut rig, key, proto::Code::Malformed);
}

#[test]
fn a_seq_out_of_order_is_named_and_ends_it() {
    let mut rig = Rig::new(config());
    let key = rig.live("d1");
    rig.receive(key, &publish(2, "jobs", &[b"a"]));
    assert!(error(&mut rig, key, proto::Code::Invalid).contains("seq is 2; expected is 1"));
}

#[test]
fn a_window_that_is_exceeded_ends_it() {
    let mut config = config();
    config.rules.publish_messages_max = 2;
    let mut rig = Rig::new(config);
    let key = rig.live("d1");
    rig.receive(key, &publish(1, "jobs", &[b"a", b"b"]));
    rig.receive(key, &publish(2, "jobs", &[b"a"]));
    error(&mut rig, key, proto::Code::WindowExceeded);
    assert_eq!(rig.metrics.commands_unanswered.value(), 0);
    assert_eq!(rig.metrics.closed_fault.value(), 1);
}

#[test]
fn a_broken_message_takes_its_whole_publish_with_it() {
    let mut rig = Rig::new(config());
    let key = rig.live("d1");
    let messages = vec![vec![0x0a, 1, b'a'], vec![0x0a, 9]];
    let publish = proto::Publish { seq: 1, queue: "jobs".into(), messages, ..Default::default() };
    rig.receive(key, &frame(Kind::Publish, &publish));
    assert!(rig.gateway.commands()[0].messages.is_empty());
    assert!(rig.gateway.commands()[0].bodies.is_empty());
    error(&mut rig, key, proto::Code::Malformed);
}

#[test]
fn names_that_will_not_do_are_refused_without_closing() {
    let mut rig = Rig::new(config());
    let key = rig.live("d1");
    let subscribe = |seq, queue: &str| {
        let subscribe = proto::Subscribe {
            seq,
            subscription: 1,
            queue: queue.into(),
            credit_messages: 5,
            ..Default::default()
        };
        frame(Kind::Subscribe, &subscribe)
    };
    let bytes = [publish(1, "a b", &[b"x"]), subscribe(2, "a b"), subscribe(3, "device/d1")].concat();
    rig.receive(key, &bytes);
    let frames = rig.frames(key.slot);
    let [Got::PublishAck(ack), Got::Reply(reply)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(ack.refusal.as_ref().map(proto::Refusal::code), Some(proto::Code::Invalid));
    assert_eq!((reply.seq, reply.code()), (2, proto::Code::Invalid));
    let commands = rig.commands();
    assert!(matches!(
        &commands[..],
        [Command::Subscribe { seq: 3, credit_messages: 5, credit_bytes: u64::MAX, .. }]
    ));
    let credit = proto::Credit { subscription: 1, messages: 1 << 20, bytes: 0 };
    rig.receive(key, &frame(Kind::Credit, &credit));
    error(&mut rig, key, proto::Code::Invalid);
}

#[test]
fn heartbeats_keep_it_and_three_missed_end_it() {
    let mut rig = Rig::new(config());
    let key = rig.live("d1");
    for _ in 0..10 {
        rig.wait(2900);
        rig.receive(key, &EMPTY_PING);
    }
    assert_eq!(rig.frames(key.slot), vec![Got::Pong; 10]);
    assert_eq!(rig.metrics.heartbeat_lateness_ms.sum(), 19_000);
    rig.wait(2999);
    assert!(rig.closed.is_empty());
    rig.wait(1);
    error(&mut rig, key, proto::Code::HeartbeatMissed);
    assert_eq!(rig.metrics.closed_heartbeat.value(), 1);
}

#[test]
fn a_frame_that_never_ends_is_silence() {
    let mut rig = Rig::new(config());
    let key = rig.live("d1");
    rig.receive(key, &[Kind::Publish as u8, 0xff, 0x7f]);
    for _ in 0..29 {
        rig.wait(100);
        rig.receive(key, &[0]);
    }
    assert_eq!(rig.metrics.partial_bytes.value(), 32);
    rig.wait(100);
    error(&mut rig, key, proto::Code::HeartbeatMissed);
    assert_eq!(rig.metrics.partial_bytes.value(), 0);
}

#[test]
fn silence_does_not_count_while_we_do_not_listen() {
    let mut rig = Rig::new(config());
    let key = rig.live("d1");
    rig.effects(vec![Effect::StopReading { conn: conn(key) }], &[]);
    assert!(!rig.gateway.may_read(key.slot));
    rig.wait(60_000);
    rig.effects(vec![Effect::ResumeReading { conn: conn(key) }], &[]);
    assert!(rig.gateway.may_read(key.slot));
    assert_eq!(rig.reading, [Action::StopReading(key.slot), Action::ResumeReading(key.slot)]);
    rig.gateway.lane_blocked(rig.now, true);
    rig.wait(60_000);
    rig.gateway.lane_blocked(rig.now, false);
    rig.wait(2999);
    assert!(rig.closed.is_empty());
    rig.wait(1);
    assert_eq!(rig.closed, [key.slot]);
}

#[test]
fn a_newer_connection_takes_over() {
    let mut rig = Rig::new(config());
    let key = rig.live("d1");
    rig.plugged.push(key.slot);
    rig.effects(vec![Effect::TakenOver { conn: conn(key) }], &[]);
    rig.receive(key, &publish(1, "jobs", &[b"a"]));
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Detach(_)]), "{commands:?}");
    rig.plugged.clear();
    rig.flush(key.slot);
    rig.turn();
    assert!(
        matches!(&rig.frames(key.slot)[..], [Got::GoAway(goaway)] if goaway.code() == proto::Code::TakenOver)
    );
    assert_eq!(rig.closed, [key.slot]);
    // The slot's next tenant hears nothing of what was meant for this one.
    let next = rig.accept();
    assert_eq!(next.slot, key.slot);
    rig.receive(key, &hello("d9"));
    rig.effects(vec![Effect::TakenOver { conn: conn(key) }], &[]);
    assert!(rig.commands().is_empty());
    assert_eq!(rig.gateway.live(), 1);
}

#[test]
fn bye_and_a_lost_socket_detach_once() {
    let mut rig = Rig::new(config());
    let (leaving, lost) = (rig.live("d1"), rig.live("d2"));
    let bye = proto::Bye { retire_producer: true, retired_producer_id: 6 };
    rig.receive(leaving, &frame(Kind::Bye, &bye));
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Detach(detach)]
        if detach.bye && detach.retired_producer.is_some_and(|producer| producer.0 == 6)));
    assert_eq!(rig.closed, [leaving.slot]);
    rig.receive(lost, &publish(1, "jobs", &[b"a"]));
    rig.commands();
    rig.gateway.closed(rig.now, lost.slot, CloseCause::Peer);
    rig.turn();
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Detach(detach)] if !detach.bye));
    assert_eq!(rig.metrics.connections_live.value(), 0);
    assert_eq!(rig.metrics.connections_closing.value(), 0);
    assert_eq!(rig.gateway.next_deadline(), None);
}

#[test]
fn a_loop_with_too_much_unanswered_stops_reading_who_adds_to_it() {
    let mut rig = Rig::new(GatewayConfig { commands_unanswered_max: 4, ..config() });
    let key = rig.live("d1");
    for seq in 1..=4 {
        assert!(rig.gateway.may_read(key.slot));
        rig.receive(key, &publish(seq, "jobs", &[b"a"]));
    }
    assert!(!rig.gateway.may_read(key.slot));
    let acked =
        PublishAcked { conn: conn(key), seq: 1, more: 1, first_id: MessageId(9), messages: 2, bytes: 6 };
    rig.effects(vec![Effect::PublishAcked(acked)], &[]);
    assert!(rig.gateway.may_read(key.slot));
    assert_eq!(rig.metrics.reading_stopped.value(), 0);
}

/// What waits for room in a full queue is not answered soon. Its producers may be the very ones whose acks make room.
#[test]
fn parked_publishes_make_no_crowd() {
    let mut rig = Rig::new(GatewayConfig { commands_unanswered_max: 4, ..config() });
    let (key, other) = (rig.live("d1"), rig.live("d2"));
    (1..=4).for_each(|seq| rig.receive(key, &publish(seq, "jobs", &[b"a"])));
    assert!(!rig.gateway.may_read(key.slot));
    rig.effects(vec![Effect::Parked { conn: conn(key), shard: ShardId(0), publishes: 4 }], &[]);
    assert!(rig.gateway.may_read(key.slot));
    (1..=3).for_each(|seq| rig.receive(other, &publish(seq, "jobs", &[b"a"])));
    assert!(rig.gateway.may_read(other.slot) && rig.gateway.may_read(key.slot));
    assert_eq!(rig.metrics.commands_unanswered.value(), 3);
    let mut ack = Vec::new();
    encode_ack(&mut ack, 5, &[lease(5)], true);
    rig.receive(key, &ack);
    assert!(matches!(&rig.commands()[..], [.., Command::Settle(_)]), "the ack is on its way");
    // Let in, they are on their way like others.
    rig.effects(vec![Effect::Parked { conn: conn(key), shard: ShardId(0), publishes: 0 }], &[]);
    rig.receive(other, &publish(4, "jobs", &[b"a"]));
    assert!(!rig.gateway.may_read(other.slot));
}

#[test]
fn compressed_frames_are_read_once_agreed_on() {
    let telemetry = proto::Ping {
        names: vec!["temperature".into(); 20],
        values: (0..20).collect(),
        ..Default::default()
    };
    let mut ping = frame(Kind::Ping, &telemetry);
    Codec::new().compress_last_frame(&mut ping, 0);
    assert_eq!(ping[0] & 0x80, 0x80);
    for (dictionaries, is_agreed) in [(vec![crate::wire::DICTIONARY_ID], true), (vec![], false)] {
        let mut rig = Rig::new(config());
        let key = rig.accept();
        rig.receive(
            key,
            &hello_of(proto::Hello { client_id: "d".into(), dictionaries, ..Default::default() }),
        );
        rig.attach(key, 1);
        rig.frames(key.slot);
        rig.receive(key, &ping);
        let frames = rig.frames(key.slot);
        assert_eq!(frames == [Got::Pong], is_agreed, "{frames:?}");
        assert_eq!(rig.closed.is_empty(), is_agreed);
    }
}

#[test]
fn loops_share_what_the_server_has_for_buffers() {
    let all = config();
    let of_two = all.clone().one_of(2);
    assert_eq!(of_two.loop_output_bytes_max, crate::limits::OUTPUT_BYTES_MAX / 2);
    assert_eq!(of_two.loop_partial_bytes_max, crate::limits::PARTIAL_BYTES_MAX / 2);
    // However many there are, each takes a message of the largest size, and a frame beside it.
    let of_many = all.clone().one_of(1000);
    assert_eq!(of_many.loop_output_bytes_max, all.message_bytes_max);
    assert_eq!(of_many.loop_partial_bytes_max, all.message_bytes_max + all.frame_bytes_max);
}
