use super::*;
use crate::limits;
use crate::wire::EMPTY_PING;

fn live_with(rig: &mut Rig, hello: proto::Hello) -> (SlotKey, proto::Welcome) {
    let key = rig.accept();
    rig.receive(key, &hello_of(hello));
    rig.attach(key, 1);
    rig.commands();
    let mut frames = rig.frames(key.slot);
    let Some(Got::Welcome(welcome)) = frames.pop() else { panic!("{frames:?}") };
    (key, welcome)
}

fn of(client: &str, heartbeat_ms: u32, pong_every: u32) -> proto::Hello {
    proto::Hello { client_id: client.into(), heartbeat_ms, pong_every, ..Default::default() }
}

fn telemetry() -> Vec<u8> {
    let mut ping = proto::Ping { time_s: 5, ..Default::default() };
    ping.push_reading("uptime_s", 5);
    frame(Kind::Ping, &ping)
}

#[test]
fn every_kth_ping_is_answered_whatever_it_holds() {
    let mut rig = Rig::new(config());
    let (key, welcome) = live_with(&mut rig, of("d1", 1000, 4));
    assert_eq!(welcome.pong_every, 4);
    for ping in 1..=12 {
        rig.wait(1000);
        rig.receive(key, &if ping % 2 == 0 { telemetry() } else { EMPTY_PING.to_vec() });
        let answer = if ping % 4 == 0 { vec![Got::Pong] } else { vec![] };
        assert_eq!(rig.frames(key.slot), answer, "PING {ping}");
    }
    // Several in one read, and one in two.
    rig.receive(key, &[EMPTY_PING; 7].concat());
    assert_eq!(rig.frames(key.slot), [Got::Pong]);
    rig.receive(key, &EMPTY_PING[..1]);
    assert_eq!(rig.frames(key.slot), []);
    rig.receive(key, &EMPTY_PING[1..]);
    assert_eq!(rig.frames(key.slot), [Got::Pong]);
    rig.wait(2999);
    assert!(rig.closed.is_empty(), "heard is heard, answered or not");
    rig.wait(1);
    assert_eq!(rig.closed, [key.slot]);
}

#[test]
fn answers_are_left_out_only_as_agreed() {
    let mut config = config();
    config.rules.pong_every_max = 2;
    let mut rig = Rig::new(config);
    let (key, welcome) = live_with(&mut rig, of("d1", 1000, 16));
    assert_eq!(welcome.pong_every, 2);
    rig.receive(key, &[EMPTY_PING; 6].concat());
    assert_eq!(rig.frames(key.slot), vec![Got::Pong; 3]);
    let (key, welcome) = live_with(&mut rig, of("d2", 1000, 0));
    assert_eq!(welcome.pong_every, 0, "one is said by nothing");
    rig.receive(key, &[EMPTY_PING; 3].concat());
    assert_eq!(rig.frames(key.slot), vec![Got::Pong; 3]);
}

/// A heartbeat changes no timer: the wheel is the same before and after it, entry by entry.
#[test]
fn a_heartbeat_touches_no_timer() {
    let mut rig = Rig::new(config());
    let keys = [rig.live("d1"), rig.live("d2")];
    rig.wait(700);
    let before = format!("{:?}", rig.gateway.wheel);
    for _ in 0..10 {
        rig.now = Time(rig.now.0 + 100);
        for key in keys {
            rig.receive(key, &EMPTY_PING);
            rig.receive(key, &telemetry());
        }
    }
    assert_eq!(rig.frames(keys[0].slot), vec![Got::Pong; 20]);
    assert_eq!(format!("{:?}", rig.gateway.wheel), before);
}

fn five_where_there_is_room_for_four() -> (Rig, Vec<SlotKey>) {
    let mut rig = Rig::new(GatewayConfig { heartbeats_per_s: 4, ..config() });
    let keys: Vec<_> = (0..5).map(|number| rig.live(&format!("d{number}"))).collect();
    (rig, keys)
}

#[test]
fn a_crowd_is_asked_for_longer_intervals_once_each() {
    let (mut rig, keys) = five_where_there_is_room_for_four();
    for round in 0..3 {
        for key in &keys {
            rig.receive(*key, &EMPTY_PING);
            let answer = if round == 0 { Got::Interval(1414) } else { Got::Pong };
            assert_eq!(rig.frames(key.slot), [answer]);
        }
    }
    assert_eq!(rig.metrics.intervals_asked.value(), 5);
    assert_eq!(rig.metrics.heartbeat_stretch_permille.value(), 1414);
    rig.wait(3 * 1414 - 1);
    assert!(rig.closed.is_empty(), "silence is measured by the longer interval at once");
    rig.wait(1);
    assert_eq!(rig.closed.len(), 5);
    assert_eq!(rig.metrics.heartbeat_stretch_permille.value(), 1000, "the crowd has left");
    let (_, welcome) = live_with(&mut rig, of("d9", 1000, 0));
    assert_eq!(welcome.heartbeat_ms, 1000);
}

#[test]
fn who_comes_into_a_crowd_is_welcomed_with_the_longer_interval() {
    let (mut rig, _) = five_where_there_is_room_for_four();
    let (key, welcome) = live_with(&mut rig, of("d9", 2000, 0));
    assert_eq!(welcome.heartbeat_ms, 2828);
    rig.receive(key, &EMPTY_PING);
    assert_eq!(rig.frames(key.slot), [Got::Pong]);
}

#[test]
fn when_the_crowd_has_left_intervals_are_as_agreed_again() {
    let (mut rig, keys) = five_where_there_is_room_for_four();
    let key = keys[0];
    rig.receive(key, &EMPTY_PING);
    assert_eq!(rig.frames(key.slot), [Got::Interval(1414)]);
    for key in &keys[3..] {
        rig.receive(*key, &frame(Kind::Bye, &proto::Bye::default()));
    }
    // Three are left where four have room: the first to say something hears of it.
    rig.wait(1414);
    rig.receive(key, &EMPTY_PING);
    assert_eq!(rig.frames(key.slot), [Got::Interval(1000)]);
    // It has not read that yet, and says something at the old pace.
    rig.wait(1414);
    rig.receive(key, &EMPTY_PING);
    assert_eq!(rig.frames(key.slot), [Got::Pong], "said once");
    rig.closed.clear();
    rig.wait(3 * 1000 + 1);
    assert!(!rig.closed.contains(&key.slot), "it was not seen to follow");
    rig.receive(key, &EMPTY_PING);
    rig.wait(1000);
    rig.receive(key, &EMPTY_PING);
    assert_eq!(rig.frames(key.slot), vec![Got::Pong; 2]);
    rig.wait(2999);
    assert!(!rig.closed.contains(&key.slot));
    rig.wait(1);
    assert!(rig.closed.contains(&key.slot), "it follows, and is measured by what it follows");
    assert_eq!(rig.metrics.detection_lateness_ms.sum(), 0);
}

#[test]
fn a_new_interval_waits_for_the_pong_that_is_due() {
    let mut rig = Rig::new(GatewayConfig { heartbeats_per_s: 1, ..config() });
    let (key, _) = live_with(&mut rig, of("d1", 1000, 3));
    rig.live("d2");
    rig.receive(key, &[EMPTY_PING; 2].concat());
    assert_eq!(rig.frames(key.slot), []);
    rig.receive(key, &EMPTY_PING);
    assert_eq!(rig.frames(key.slot), [Got::Interval(2000)]);
}

/// Sessions that were welcomed at one moment; nothing is checked meanwhile, for there are many.
fn crowd(rig: &mut Rig, sessions: u32, heartbeat_ms: u32) -> Vec<SlotKey> {
    let keys = (0..sessions).map(|number| {
        let key = rig.gateway.accept(rig.now).expect("room for a connection");
        rig.gateway.receive(rig.now, key, &hello_of(of(&format!("d{number}"), heartbeat_ms, 0)));
        let (namespace, client) =
            (Namespace::parse(Namespace::DEFAULT).unwrap(), ClientId::parse("d1").unwrap());
        let (session_id, epoch) = (7, Epoch(1));
        let attached = Attached { conn: conn(key), namespace, client, session_id, epoch, resumed: false };
        let effects = vec![Effect::Attached(Box::new(attached))];
        rig.gateway.effects(rig.now, EffectBatch { effects, bodies: Vec::new() });
        carry_out(rig);
        key
    });
    keys.collect()
}

/// Carries out the actions; how many connections were closed.
fn carry_out(rig: &mut Rig) -> usize {
    let mut closed = 0;
    while let Some(action) = rig.gateway.next_action() {
        let (Action::Flush(slot) | Action::Close(slot)) = action else { panic!("{action:?}") };
        let unsent = rig.gateway.unsent(slot).len();
        rig.gateway.sent(rig.now, slot, unsent);
        if let Action::Close(slot) = action {
            rig.gateway.closed(rig.now, slot, CloseCause::Local);
            closed += 1;
        }
    }
    rig.gateway.commands()[0].clear();
    closed
}

/// What a turn costs by itself, and what the end of a connection with its frame, its close and its bookkeeping costs: more
/// than either does.
const TURN_US: u64 = 50;
const END_US: u64 = 30;

/// A network that takes a hundred thousand sessions with it at one moment: all are found within 10 % of their deadline,
/// and what the others say is read every few milliseconds meanwhile.
#[test]
fn a_hundred_thousand_silent_sessions_are_found_in_time_and_beside_others() {
    const SILENT: u32 = 120_000;
    let mut config = config();
    config.max_sessions = 200_000;
    config.max_handshakes = 200_000;
    config.admission_burst = 400_000;
    config.heartbeats_per_s = 1_000_000;
    let mut rig = Rig::new(config);
    let silent = crowd(&mut rig, SILENT, 30_000);
    let speaking = crowd(&mut rig, 100, 500);
    let due = Time(rig.now.0 + 90_000);
    let mut now_us = rig.now.0 * 1000;
    let (mut closed, mut longest_turn_us, mut next_ping) = (0, 0, rig.now);
    while closed < silent.len() {
        if next_ping <= rig.now {
            next_ping = Time(next_ping.0 + 500);
            for key in &speaking {
                rig.gateway.receive(rig.now, *key, &EMPTY_PING);
            }
        }
        rig.gateway.expire(rig.now);
        let ended = carry_out(&mut rig);
        assert!(ended == 0 || rig.now >= due, "{ended} ended before their deadline");
        closed += ended;
        assert!(ended <= limits::EXPIRY_WORK_PER_TURN / limits::EXPIRY_WORK_OF_AN_END, "{ended} in one turn");
        let turn_us = TURN_US + END_US * ended as u64;
        longest_turn_us = longest_turn_us.max(turn_us);
        let wake = rig.gateway.next_deadline().map_or(next_ping, |at| at.min(next_ping));
        now_us = (now_us + turn_us).max(wake.0 * 1000);
        rig.now = Time(now_us / 1000);
    }
    let took = due.millis_until(rig.now);
    assert!(took <= 9000, "{took} ms after the deadline, which 10 % of are 9000");
    assert!(longest_turn_us <= 2_000, "a turn of {longest_turn_us} us");
    let lateness = &rig.metrics.detection_lateness_ms;
    assert_eq!(lateness.counts().iter().sum::<u64>(), u64::from(SILENT));
    assert!(lateness.sum() <= 9000 * u64::from(SILENT));
    assert_eq!(rig.metrics.closed_heartbeat.value(), u64::from(SILENT));
    assert!(speaking.iter().all(|key| rig.gateway.may_read(key.slot)), "the others are there");
    rig.gateway.check_invariants();
}
