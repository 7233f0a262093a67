//! Topics through the built binary: everybody who listens is told at once, and nothing is kept.

mod support;

use std::time::Duration;

use relaymesh::wire::proto;
use relaymesh::wire::proto::{Code, Kind};
use serde_json::json;
use support::http;
use support::server::{Home, Server};
use support::wire::{Wire, message, payload};
use support::{PATIENCE, eventually};

/// Long enough to see that something which should not come does not.
const A_WHILE: Duration = Duration::from_millis(300);

/// One number of the server's metrics; 0 when it is not there.
fn metric(server: &Server, name: &str) -> f64 {
    let page = http::get(server.admin, "/metrics").body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("metrics are numbers"))
}

fn topics(server: &Server) -> f64 {
    metric(server, "relaymesh_buffer_items{buffer=\"topics\"}")
}

/// The next frame, which is one message of a topic.
fn told(wire: &mut Wire) -> (u32, Vec<u8>) {
    let deliver: proto::Deliver = wire.expect(Kind::Deliver);
    let [delivery] = &deliver.deliveries[..] else { panic!("{deliver:?}") };
    assert_eq!((delivery.lease, delivery.lease_ms, delivery.parts_bytes), (None, 0, 0));
    (delivery.subscription, payload(delivery))
}

/// The refusal of a publish, and its text.
fn refusal(wire: &mut Wire, queue: &str, message: Vec<u8>) -> (Code, String) {
    let seq = wire.seq();
    let messages = vec![message];
    wire.send(Kind::Publish, &proto::Publish { seq, queue: queue.into(), messages, ..Default::default() });
    let ack: proto::PublishAck = wire.expect(Kind::PublishAck);
    let refusal = ack.refusal.unwrap_or_else(|| panic!("{queue} took what it should refuse: {seq}"));
    (refusal.code(), refusal.text)
}

#[test]
fn a_device_hears_what_is_broadcast_and_what_is_pushed() {
    let server = Server::start();
    let device = server.cli(&["device", "d1", "--topic", "news", "--topic", "weather"]).start();
    eventually("the device listens", || topics(&server) == 2.0);
    assert_eq!(server.cli(&["broadcast", "news", "one"]).succeeds().trim_end(), "1");
    assert_eq!(device.next_line(PATIENCE).as_deref(), Some("one"));
    assert_eq!(server.json(&["broadcast", "weather", "rain"]), json!({"subscribers": 1}));
    assert_eq!(device.next_line(PATIENCE).as_deref(), Some("rain"));
    let posted = http::post(server.admin, "/api/v1/publish?queue=topic/news", &[], b"by curl");
    assert_eq!((posted.status, posted.json()), (200, json!({"subscribers": 1})));
    assert_eq!(device.next_line(PATIENCE).as_deref(), Some("by curl"));
    server.cli(&["push", "d1", "for d1"]).succeeds();
    assert_eq!(device.next_line(PATIENCE).as_deref(), Some("for d1"));
    // Not his topic, not his namespace.
    assert_eq!(server.cli(&["broadcast", "other", "x"]).succeeds().trim_end(), "0");
    assert_eq!(server.cli(&["broadcast", "news", "x", "--namespace", "other"]).succeeds().trim_end(), "0");
    assert_eq!(device.line_within(A_WHILE), None);
    drop(device);
    eventually("it is forgotten", || topics(&server) == 0.0);
    assert_eq!(server.cli(&["broadcast", "news", "late"]).succeeds().trim_end(), "0");
}

#[test]
fn a_command_runs_on_a_broadcast_and_max_counts_it() {
    let server = Server::start();
    let command = "cat; echo \" $RELAYMESH_QUEUE $RELAYMESH_ATTR_KIND ${RELAYMESH_MESSAGE_ID-none}\"";
    let device = ["device", "d1", "--topic", "news", "--exec", command, "--max", "1"];
    let device = server.cli(&device).start();
    eventually("the device listens", || topics(&server) == 1.0);
    server.cli(&["broadcast", "news", "hello", "--attr", "kind=notice"]).succeeds();
    let ended = device.wait(PATIENCE);
    assert!(ended.status.success(), "{ended:#?}");
    assert_eq!(ended.stdout.trim_end(), "hello topic/news notice none");
}

#[test]
fn everybody_on_every_loop_is_told_once_and_in_order() {
    let server = Home::new().arguments(&["--loops", "4"]).serve();
    let mut listeners: Vec<Wire> = (0..40)
        .map(|number| {
            let (mut wire, _) = Wire::welcome(server.listen, &format!("d{number}"));
            // Its number is the client's own, its credit is of no interest.
            wire.subscribe(1 + number % 3, "topic/news", 0);
            wire
        })
        .collect();
    let (mut publisher, _) = Wire::welcome(server.listen, "publisher");
    for round in 0..50_u8 {
        let seq = publisher.send_publish("topic/news", &[&[round, 0], &[round, 1]]);
        let ack: proto::PublishAck = publisher.expect(Kind::PublishAck);
        let handed = (ack.seq, ack.messages, ack.first_id, ack.subscribers, ack.refusal);
        assert_eq!(handed, (seq, 2, 0, 40, None));
    }
    for (number, wire) in (0..).zip(&mut listeners) {
        for round in 0..50_u8 {
            for part in 0..2 {
                assert_eq!(told(wire), (1 + number % 3, vec![round, part]));
            }
        }
        assert_eq!(wire.delivery_within(Duration::from_millis(10)), None);
        wire.ping();
    }
    assert_eq!(metric(&server, "relaymesh_broadcast_deliveries_total"), 40.0 * 100.0);
    assert_eq!(metric(&server, "relaymesh_broadcast_missed_total"), 0.0);
    eventually("all is handed on", || {
        metric(&server, "relaymesh_buffer_bytes{buffer=\"broadcasts\"}") == 0.0
    });
}

#[test]
fn what_a_topic_cannot_do_is_refused_and_says_so() {
    let server = Server::start();
    let (mut wire, _) = Wire::welcome(server.listen, "d1");
    wire.subscribe(1, "topic/news", 8);
    let delayed = proto::Message { delay_ms: 5, ..Default::default() };
    let (code, text) = refusal(&mut wire, "topic/news", prost::Message::encode_to_vec(&delayed));
    assert_eq!(code, Code::Invalid);
    assert!(text.contains("delay_ms"), "{text}");
    for name in ["topic/", "topic/a.*"] {
        assert_eq!(refusal(&mut wire, name, message(b"x")).0, Code::Invalid, "{name}");
    }
    // Twice, and with a number in use.
    for (number, queue) in [(2, "topic/news"), (1, "topic/other"), (1, "jobs")] {
        let seq = wire.send_subscribe(number, queue, 8);
        let reply: proto::Reply = wire.expect(Kind::Reply);
        assert_eq!((reply.seq, reply.code()), (seq, Code::Invalid), "{queue}");
    }
    let seq = wire.seq();
    wire.send(Kind::Unsubscribe, &proto::Unsubscribe { seq, subscription: 1 });
    wire.expect_ok(seq);
    wire.send_publish("topic/news", &[b"to nobody"]);
    assert_eq!(wire.expect::<proto::PublishAck>(Kind::PublishAck).subscribers, 0);
    // Too large for a frame: it came in parts and goes nowhere.
    let large = server.home().file("large", vec![b'x'; 1200 << 10]);
    let large = format!("@{}", large.display());
    let error = server.cli(&["broadcast", "news", &large]).fails();
    assert!(error.contains("in parts"), "{error}");
    let error = server.cli(&["publish", "topic/news", "hello", "--ttl", "1h"]).fails();
    assert!(error.contains("no queue is bound to this topic"), "{error}");
    let posted = http::post(server.admin, "/api/v1/publish?queue=topic/news&ttl_ms=5", &[], b"x");
    assert_eq!(posted.status, 400);
    assert_eq!(wire.delivery_within(A_WHILE), None);
}

#[test]
fn a_session_that_is_resumed_subscribes_again() {
    let server = Server::start();
    let (mut older, welcome) = Wire::welcome(server.listen, "d1");
    older.subscribe(1, "topic/news", 8);
    // The subscription ended with its connection, also where the session goes on.
    let hello = proto::Hello { resume_token: welcome.resume_token, ..support::wire::hello("d1") };
    let (mut newer, resumed) = Wire::welcome_with(server.listen, &hello);
    assert!(resumed.resumed);
    newer.send_publish("topic/news", &[b"to nobody"]);
    assert_eq!(newer.expect::<proto::PublishAck>(Kind::PublishAck).subscribers, 0);
    newer.subscribe(9, "topic/news", 8);
    newer.send_publish("topic/news", &[b"to myself"]);
    assert_eq!(newer.expect::<proto::PublishAck>(Kind::PublishAck).subscribers, 1);
    assert_eq!(told(&mut newer), (9, b"to myself".to_vec()));
}

#[test]
fn what_is_bound_to_a_topic_keeps_its_messages_through_kill_9() {
    let server = Server::start();
    let filter = "region = 'eu' and total > 100";
    let bound =
        server.cli(&["topic", "bind", "orders.*.created", "--filter", filter, "--to", "audit"]).succeeds();
    assert_eq!(bound.trim_end(), "orders.*.created:audit");
    server.cli(&["topic", "bind", "orders.>", "--to", "device/d1", "--name", "d1"]).succeeds();
    let rows = server.json(&["topic", "ls"]);
    assert_eq!(rows["bindings"][1]["filter"], filter, "{rows}");
    assert_eq!(
        (&rows["bindings"][0]["when_full"], &rows["bindings"][1]["when_full"]),
        (&json!("drop"), &json!("wait"))
    );
    let order =
        ["publish", "topic/orders.7.created", "order 17", "--attr", "region=eu", "--attr", "total=120"];
    assert_eq!(server.cli(&order).succeeds().trim_end(), "2");
    assert_eq!(server.json(&["publish", "topic/orders.7.paid", "paid"]), json!({"subscribers": 1}));
    let refused = server.cli(&["topic", "bind", "a", "--filter", "total > ", "--to", "audit"]).fails();
    assert!(refused.contains("the filter at column 9: expected a text"), "{refused}");
    let refused = server.cli(&["publish", "topic/$sys.presence", "x"]).fails();
    assert!(refused.contains("the server's own"), "{refused}");
    let server = server.kill().serve();
    assert_eq!(server.cli(&["work", "audit", "--max", "1"]).succeeds().trim_end(), "order 17");
    let pushed = server.cli(&["device", "d1", "--max", "2"]).succeeds();
    assert_eq!(pushed.lines().collect::<Vec<_>>(), ["order 17", "paid"]);
    server.cli(&["topic", "unbind", "d1"]).succeeds();
    let refused = server.cli(&["topic", "unbind", "d1"]).fails();
    assert!(refused.contains("no binding"), "{refused}");
    assert_eq!(server.json(&["publish", "topic/orders.7.paid", "paid"]), json!({"subscribers": 0}));
}

#[test]
fn presence_is_heard_and_kept() {
    let server = Server::start();
    let bind = ["topic", "bind", "$sys.presence", "--filter", "client = 'd7'", "--to", "watch"];
    server.cli(&bind).succeeds();
    let listener = server.cli(&["device", "ear", "--topic", "$sys.presence"]).start();
    eventually("the device listens", || topics(&server) == 1.0);
    server.cli(&["push", "d7", "hello"]).succeeds();
    server.cli(&["device", "d7", "--max", "1"]).succeeds();
    let told = server.cli(&["work", "watch", "--max", "2"]).succeeds();
    let events: Vec<serde_json::Value> =
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0], json!({"client": "d7", "event": "connected", "reason": "new"}));
    assert_eq!(events[1], json!({"client": "d7", "event": "disconnected", "reason": "bye"}));
    let heard = std::iter::from_fn(|| listener.next_line(PATIENCE))
        .find(|line| line.contains("disconnected") && line.contains("d7"));
    assert!(heard.is_some());
}
