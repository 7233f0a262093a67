use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::clock::Time;
use crate::config::{Auth, Token};
use crate::ids::{ClientId, ConnKey, Epoch, LoopId, Namespace, QueueName, SubscriptionId};
use crate::limits;
use crate::mail::Attached;

fn rules() -> Rules {
    Rules {
        auth: Auth::Open,
        resume_key: ResumeKey([7; 32]),
        heartbeat: limits::HEARTBEAT,
        heartbeat_min: limits::HEARTBEAT_MIN,
        heartbeat_max: limits::HEARTBEAT_MAX,
        pong_every_max: limits::PONG_EVERY_MAX,
        publish_messages_max: 4,
        publish_bytes_max: 100,
        requests_max: 2,
        compression: true,
    }
}

fn hello<'a>() -> Hello<'a> {
    Hello { client_id: "d1", ..Hello::default() }
}

fn live(rules: &Rules) -> Session {
    let mut session = Session::new(Time(0));
    session.hello(hello(), rules).expect("hello");
    session.welcome(Time(1), &attached(), Stretch::NONE, rules).expect("welcome");
    session
}

fn attached() -> Attached {
    Attached {
        conn: ConnKey { loop_id: LoopId(0), slot: 0, generation: 0 },
        namespace: Namespace::parse(Namespace::DEFAULT).unwrap(),
        client: ClientId::parse("d1").unwrap(),
        session_id: 3,
        epoch: Epoch(9),
        resumed: false,
    }
}

fn publish(seq: u64, messages: u32, bytes: u32) -> Request {
    let queue = QueueName::parse("jobs");
    Request::Publish(Publishing { seq, queue, producer: None, messages, bytes })
}

fn subscribe(seq: u64, queue: &str, credit_messages: u32) -> Request {
    let queue = QueueName::parse(queue);
    let subscription = SubscriptionId(1);
    Request::Subscribe(Subscribing { seq, subscription, queue, credit_messages, credit_bytes: 1 })
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() <= 40, "{}", size_of::<Session>());
}

#[test]
fn credentials_open_only_their_namespace() {
    let namespace = |name| Namespace::parse(name).unwrap();
    let one = Auth::PerNamespace(HashMap::from([(namespace("a"), Token::parse("secret").unwrap())]));
    assert!(one.allows(&namespace("a"), b"secret"));
    assert!(!one.allows(&namespace("a"), b"secreT"));
    assert!(!one.allows(&namespace("a"), b""));
    assert!(!one.allows(&namespace("b"), b"secret"));
    assert!(Auth::Shared(Token::parse("s").unwrap()).allows(&namespace("b"), b"s"));
    assert!(!Auth::Shared(Token::parse("s").unwrap()).allows(&namespace("b"), b"ss"));
    assert!(!format!("{one:?}").contains("secret"));
}

#[test]
fn a_resume_token_is_good_for_its_client_only() {
    let rules = rules();
    let key = &rules.resume_key;
    let (namespace, client) = (Namespace::parse("n").unwrap(), ClientId::parse("c").unwrap());
    let token = key.issue(&namespace, &client, Epoch(1 << 40 | 5), 77);
    assert_eq!(key.verify(&token, &namespace, &client), Some((Epoch(1 << 40 | 5), 77)));
    assert_eq!(key.verify(&token, &namespace, &ClientId::parse("d").unwrap()), None);
    assert_eq!(key.verify(&token, &Namespace::parse("m").unwrap(), &client), None);
    assert_eq!(key.verify(&token[1..], &namespace, &client), None);
    assert_eq!(ResumeKey([8; 32]).verify(&token, &namespace, &client), None);
    for byte in 0..token.len() {
        let mut forged = token;
        forged[byte] ^= 1;
        assert_eq!(key.verify(&forged, &namespace, &client), None, "byte {byte}");
    }
}

#[test]
fn the_heartbeat_is_clamped_and_three_are_missed() {
    let rules = rules();
    for (wanted_ms, agreed_ms) in [(0, 30_000), (1, 500), (45_000, 45_000), (u32::MAX, 3_600_000)] {
        let mut session = Session::new(Time(0));
        session.hello(Hello { heartbeat_ms: wanted_ms, ..hello() }, &rules).expect("hello");
        let welcome = session.welcome(Time(1), &attached(), Stretch::NONE, &rules).expect("welcome");
        assert_eq!(welcome.heartbeat_ms, agreed_ms);
        assert_eq!(session.silence_max(&rules).as_millis(), u128::from(agreed_ms) * 3);
    }
}

#[test]
fn bounds_and_a_crowd_decide_what_is_agreed() {
    let mut rules = rules();
    (rules.heartbeat_min, rules.heartbeat_max) = (Duration::from_secs(20), Duration::from_secs(60));
    rules.pong_every_max = 4;
    for (wanted_ms, agreed_ms, crowded_ms) in
        [(0, 30_000, 42_420), (1, 20_000, 28_280), (45_000, 45_000, 60_000), (u32::MAX, 60_000, 60_000)]
    {
        for (stretch, told_ms) in [(Stretch::NONE, agreed_ms), (Stretch::NONE.longer(), crowded_ms)] {
            let mut session = Session::new(Time(0));
            session.hello(Hello { heartbeat_ms: wanted_ms, ..hello() }, &rules).expect("hello");
            let welcome = session.welcome(Time(1), &attached(), stretch, &rules).expect("welcome");
            assert_eq!((welcome.heartbeat_ms, session.heartbeat_ms()), (told_ms, agreed_ms));
            assert_eq!(session.silence_max(&rules).as_millis(), u128::from(told_ms) * 3);
        }
    }
    for (wanted, agreed) in [(0, 1), (1, 1), (3, 3), (u32::MAX, 4)] {
        let mut session = Session::new(Time(0));
        session.hello(Hello { pong_every: wanted, ..hello() }, &rules).expect("hello");
        let welcome = session.welcome(Time(1), &attached(), Stretch::NONE, &rules).expect("welcome");
        assert_eq!(welcome.pong_every, agreed);
    }
}

#[test]
fn hello_is_said_once_with_good_names() {
    let rules = rules();
    let mut session = Session::new(Time(0));
    let bad = Hello { client_id: "a/b", ..hello() };
    assert_eq!(session.hello(bad, &rules).unwrap_err().reason, Reason::Invalid);
    let attachment = session.hello(hello(), &rules).expect("hello");
    assert_eq!(attachment.namespace.as_str(), Namespace::DEFAULT);
    assert!(attachment.resume.is_none());
    assert_eq!(session.hello(hello(), &rules).unwrap_err().reason, Reason::Unexpected);
}

#[test]
fn seq_rises_by_one_over_all_kinds() {
    let rules = rules();
    let mut session = live(&rules);
    assert_eq!(session.admit(&publish(1, 1, 1), &rules), Ok(Verdict::Pass));
    assert_eq!(session.admit(&subscribe(2, "jobs", 1), &rules), Ok(Verdict::Pass));
    let denied = session.admit(&publish(4, 1, 1), &rules).unwrap_err();
    assert_eq!(denied.reason, Reason::Invalid);
    assert!(denied.text.contains("seq is 4; expected is 3"), "{}", denied.text);
}

#[test]
fn windows_are_enforced_and_given_back() {
    let rules = rules();
    let mut session = live(&rules);
    assert_eq!(session.admit(&publish(1, 4, 10), &rules), Ok(Verdict::Pass));
    session.publishes_answered(1, 4, 10);
    assert_eq!(session.admit(&publish(2, 1, 100), &rules), Ok(Verdict::Pass));
    assert_eq!(session.admit(&publish(3, 1, 1), &rules).unwrap_err().reason, Reason::WindowExceeded);
    let mut session = live(&rules);
    for seq in 1..=2 {
        assert_eq!(session.admit(&subscribe(seq, "jobs", 1), &rules), Ok(Verdict::Pass));
    }
    assert_eq!(session.unanswered(), 2);
    let denied = session.admit(&subscribe(3, "jobs", 1), &rules).unwrap_err();
    assert_eq!(denied.reason, Reason::WindowExceeded);
}

#[test]
fn what_cannot_be_subscribed_to_is_refused() {
    let rules = rules();
    let mut session = live(&rules);
    assert_eq!(session.admit(&subscribe(1, "device/d1", 1), &rules), Ok(Verdict::Pass));
    assert!(matches!(session.admit(&subscribe(2, "no queue", 1), &rules), Ok(Verdict::Refuse(_))));
    assert!(matches!(session.admit(&subscribe(3, "jobs", 1 << 20), &rules), Ok(Verdict::Refuse(_))));
    assert_eq!(session.unanswered(), 1);
}
