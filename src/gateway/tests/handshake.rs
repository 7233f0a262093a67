use std::time::Duration;

use super::*;
use crate::config::Token;
use crate::ids::ShardId;
use crate::mail::{RefusalCode, Refused};
use crate::wire::EMPTY_PING;

#[test]
fn a_client_is_welcomed_once_its_shard_has_it() {
    let mut rig = Rig::new(config());
    let key = rig.accept();
    // Everything behind HELLO may come in the same write; what it causes goes behind WELCOME.
    let bytes = [hello("d1"), EMPTY_PING.to_vec(), publish(1, "jobs", &[b"x"])].concat();
    rig.receive(key, &bytes);
    assert!(rig.taken[key.slot as usize].is_empty());
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Attach(attach), Command::Publish(_)]
        if attach.client.as_str() == "d1" && attach.namespace.as_str() == "default"));
    rig.attach(key, 5);
    let frames = rig.frames(key.slot);
    let [Got::Welcome(welcome), Got::Pong] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((welcome.version, welcome.epoch, welcome.session_id), (1, 5, 7));
    assert_eq!((welcome.heartbeat_ms, welcome.dictionary), (1000, 0));
    assert_eq!(rig.metrics.handshakes.welcomed.value(), 1);
    assert_eq!(rig.metrics.connections_live.value(), 1);
    assert_eq!(rig.metrics.connections_handshaking.value(), 0);
}

#[test]
fn a_token_of_this_server_resumes() {
    let mut rig = Rig::new(config());
    let key = rig.accept();
    rig.receive(key, &hello("d1"));
    rig.attach(key, 5);
    let Got::Welcome(welcome) = rig.frames(key.slot).remove(0) else { panic!() };
    rig.commands();
    for (token, is_good) in [(welcome.resume_token.clone(), true), (vec![0; 32], false), (vec![1; 3], false)]
    {
        let key = rig.accept();
        let lease = proto::Lease { message_id: 4, attempt: 1, boot: 1 };
        let hello = proto::Hello {
            client_id: "d1".into(),
            resume_token: token,
            leases: vec![lease],
            ..Default::default()
        };
        rig.receive(key, &hello_of(hello));
        let commands = rig.commands();
        let [Command::Attach(attach)] = &commands[..] else { panic!("{commands:?}") };
        let resume = attach.resume.as_ref();
        assert_eq!(resume.map(|r| (r.epoch.0, r.session_id, r.leases.len())), is_good.then_some((5, 7, 1)));
    }
}

#[track_caller]
fn rejected(config: GatewayConfig, bytes: &[u8], code: proto::Code) {
    let mut rig = Rig::new(config);
    let key = rig.accept();
    rig.receive(key, bytes);
    let frames = rig.frames(key.slot);
    assert!(matches!(&frames[..], [Got::Reject(reject)] if reject.code() == code), "{frames:?}");
    assert_eq!(rig.closed, [key.slot]);
    assert!(rig.commands().is_empty());
}

#[test]
fn a_hello_that_will_not_do_is_rejected() {
    let shared = || GatewayConfig {
        ..GatewayConfig::new(Auth::Shared(Token::parse("secret").unwrap()), ResumeKey([1; 32]))
    };
    rejected(shared(), &hello("d1"), proto::Code::Unauthenticated);
    let versions =
        proto::Hello { version_min: 2, version_max: 3, client_id: "d".into(), ..Default::default() };
    rejected(config(), &frame(Kind::Hello, &versions), proto::Code::UnsupportedVersion);
    rejected(config(), &hello("a b"), proto::Code::Invalid);
    rejected(config(), &hello(""), proto::Code::Invalid);
}

#[test]
fn the_handshake_has_one_deadline() {
    let mut rig = Rig::new(config());
    let (silent, half, unattached) = (rig.accept(), rig.accept(), rig.accept());
    rig.receive(unattached, &hello("d1"));
    rig.commands();
    for at in 0..4 {
        rig.receive(half, &hello("d2")[at..=at]);
        rig.wait(1000);
    }
    rig.wait(999);
    assert!(rig.closed.is_empty());
    rig.wait(1);
    assert_eq!(rig.closed.len(), 3);
    for key in [silent, half, unattached] {
        let frames = rig.frames(key.slot);
        assert!(matches!(&frames[..], [Got::Reject(reject)]
            if reject.code() == proto::Code::HandshakeTimeout && reject.reconnect_after_ms > 0));
    }
    // The one that was on its way to its shard is taken back, once.
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Detach(detach)] if detach.conn == conn(unattached)));
    assert_eq!(rig.metrics.handshakes.timed_out.value(), 3);
    // What comes too late is nobody's.
    rig.attach(unattached, 1);
    assert_eq!(rig.gateway.live(), 0);
    assert_eq!(rig.metrics.partial_bytes.value(), 0);
}

#[test]
fn a_shard_may_refuse() {
    let mut rig = Rig::new(config());
    let key = rig.accept();
    rig.receive(key, &[hello("d1"), EMPTY_PING.to_vec()].concat());
    let refused = Refused { code: RefusalCode::LimitReached, text: "full".into(), retry_after_ms: 5000 };
    rig.effects(vec![Effect::AttachRefused { conn: conn(key), refused: Box::new(refused) }], &[]);
    let frames = rig.frames(key.slot);
    assert!(matches!(&frames[..], [Got::Reject(reject)]
        if reject.code() == proto::Code::LimitReached && reject.reconnect_after_ms >= 5000));
}

#[test]
fn a_full_loop_sheds_with_slots_that_spread() {
    let mut rig = Rig::new(GatewayConfig { max_handshakes: 2, admissions_per_s: 2, ..config() });
    let first = rig.accept();
    rig.accept();
    let mut last = 0;
    for _ in 0..20 {
        let shed = rig.gateway.accept(rig.now).unwrap_err();
        let [Got::Reject(reject)] = &parse(&shed.farewell)[..] else { panic!() };
        assert_eq!(reject.code(), proto::Code::Overloaded);
        last = reject.reconnect_after_ms;
    }
    assert!((9500..11_000).contains(&last), "{last}");
    assert_eq!(rig.metrics.accepts.shed_handshakes.value(), 20);
    rig.receive(first, &hello("d1"));
    rig.attach(first, 1);
    rig.accept();
    let mut rig = Rig::new(GatewayConfig { max_sessions: 1, ..config() });
    rig.accept();
    assert!(rig.gateway.accept(rig.now).is_err());
    assert_eq!(rig.metrics.accepts.shed_sessions.value(), 1);
}

#[test]
fn frames_are_small_and_plain_before_welcome() {
    for bytes in [[Kind::Hello as u8, 0x81, 0x20].as_slice(), &[Kind::Hello as u8, 0xff, 0xff, 0xff, 0x7f]] {
        let mut rig = Rig::new(config());
        let key = rig.accept();
        rig.receive(key, bytes);
        let frames = rig.frames(key.slot);
        assert!(matches!(&frames[..], [Got::Error(error)] if error.code() == proto::Code::TooLarge));
        assert_eq!(rig.closed, [key.slot]);
    }
    let mut rig = Rig::new(config());
    let key = rig.accept();
    rig.receive(key, &[Kind::Hello as u8 | 0x80, 2, 1, 1]);
    assert!(
        matches!(&rig.frames(key.slot)[..], [Got::Error(error)] if error.code() == proto::Code::Unexpected)
    );
    let mut rig = Rig::new(config());
    let key = rig.accept();
    rig.receive(key, &EMPTY_PING);
    assert!(
        matches!(&rig.frames(key.slot)[..], [Got::Error(error)] if error.code() == proto::Code::Unexpected)
    );
}

#[test]
fn a_drain_tells_in_waves_and_lets_answers_out() {
    let mut rig = Rig::new(config());
    let keys: Vec<_> = (0..40).map(|i| rig.live(&format!("d{i}"))).collect();
    let handshaking = rig.accept();
    rig.receive(keys[0], &publish(1, "jobs", &[b"x"]));
    rig.gateway.begin_drain(rig.now, Duration::from_secs(1));
    rig.turn();
    assert!(rig.gateway.accept(rig.now).is_err());
    let told = rig.taken.iter().filter(|bytes| !bytes.is_empty()).count();
    assert_eq!(told, 5);
    assert_eq!(rig.closed.len(), 4, "one waits for its answer");
    let acked = crate::mail::PublishAcked {
        conn: conn(keys[0]),
        seq: 1,
        more: 0,
        first_id: crate::ids::MessageId(9),
        messages: 1,
        bytes: 3,
    };
    rig.effects(vec![Effect::PublishAcked(acked)], &[]);
    let frames = rig.frames(keys[0].slot);
    assert!(matches!(&frames[..], [Got::GoAway(goaway), Got::PublishAck(_)]
        if goaway.code() == proto::Code::Draining && goaway.reconnect_after_ms > 0));
    assert!(rig.closed.contains(&keys[0].slot));
    assert!(!rig.gateway.is_drained());
    rig.wait(1000);
    assert!(rig.gateway.is_drained());
    assert!(matches!(&rig.frames(handshaking.slot)[..], [Got::Reject(_)]));
    assert_eq!(rig.gateway.next_deadline(), None);
}

#[test]
fn a_client_speaks_to_the_shard_of_its_namespace_alone() {
    let mut rig = Rig::new(GatewayConfig { shards: 3, ..config() });
    let namespaces = ["default", "fleet", "fleet:eu", "fleet:us"];
    let shard_of = |name: &str| Namespace::parse(name).unwrap().shard(3);
    let clients = namespaces.map(|namespace| {
        let key = rig.accept();
        let hello = proto::Hello { client_id: "c".into(), namespace: namespace.into(), ..Default::default() };
        rig.receive(key, &hello_of(hello));
        (key, shard_of(namespace))
    });
    let attached = clients.map(|(_, shard)| shard);
    assert!(
        (0..3).all(|shard| attached.contains(&ShardId(shard))),
        "the names are badly chosen: {attached:?}"
    );
    for (key, shard) in clients {
        let commands: Vec<_> = rig.gateway.commands().iter_mut().map(std::mem::take).collect();
        for (other, batch) in (0..).map(ShardId).zip(&commands) {
            let wanted =
                |conn: ConnKey| clients.iter().any(|(key, own)| key.slot == conn.slot && *own == other);
            assert!(batch.commands.iter().all(|command| match command {
                Command::Attach(attach) => wanted(attach.conn),
                Command::Publish(publish) => wanted(publish.conn) && batch.bodies == b"\x0a\x01x",
                _ => false,
            }));
        }
        rig.attach(key, 1);
        rig.receive(key, &publish(1, "jobs", &[b"x"]));
        let publishes = |batch: &CommandBatch| batch.messages.len();
        assert_eq!(rig.gateway.commands().iter().map(publishes).sum::<usize>(), 1);
        assert_eq!(rig.gateway.commands()[shard.index()].messages.len(), 1);
    }
}

#[test]
fn what_is_parked_is_told_by_each_shard_for_itself() {
    let mut rig = Rig::new(GatewayConfig { shards: 2, ..config() });
    let key = rig.accept();
    let parked = |shard, publishes| Effect::Parked { conn: conn(key), shard: ShardId(shard), publishes };
    for (effect, all) in [(parked(0, 3), 3), (parked(1, 2), 5), (parked(0, 1), 3), (parked(1, 0), 1)] {
        rig.effects(vec![effect], &[]);
        assert_eq!(rig.gateway.parked, all);
    }
}
