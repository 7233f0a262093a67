//! Limits, through the built binary: what a full queue, namespace or disk does, and how far the pressure of a slow consumer
//! goes and whom it spares.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use relaymesh::wire::proto;
use relaymesh::wire::proto::{Code, Kind};
use support::server::{Home, Server};
use support::wire::{Arrival, Wire, hello, payload};
use support::{PATIENCE, eventually, http};

const KIB: usize = 1 << 10;
const MIB: u64 = 1 << 20;
/// Long enough to see that something which should not come does not.
const A_WHILE: Duration = Duration::from_millis(300);

fn metric(server: &Server, name: &str) -> f64 {
    let text = http::get(server.admin, "/metrics").body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("there is no {name}"))
}

#[test]
fn the_limits_of_a_namespace_are_set_shown_kept_and_met() {
    let server = Server::start();
    server.cli(&["queue", "set", "strict", "when_full=reject"]).succeeds();
    server.cli(&["namespace", "set", "default", "messages_max=2", "leased_max=1"]).succeeds();
    server.publish("a", "1", &[]);
    server.publish("b", "2", &[]);
    let error = server.cli(&["publish", "strict", "no"]).fails();
    assert!(error.contains("the namespace \"default\" is full"), "{error}");
    assert!(metric(&server, "relaymesh_limits_reached_total{limit=\"namespace_messages\"}") >= 1.0);
    // Another namespace has its own room, and other words are refused.
    server.cli(&["publish", "strict", "yes", "--namespace", "other"]).succeeds();
    let error = server.cli(&["namespace", "set", "default", "messages=2"]).fails();
    assert!(error.contains("messages_max, bytes_max, leased_max"), "{error}");

    let server = server.kill().serve();
    let all = server.json(&["namespace", "settings", "default"]);
    assert_eq!(all["holds"]["messages"], 2);
    assert_eq!(all["settings"][0]["key"], "messages_max");
    assert_eq!((&all["settings"][0]["value"], &all["settings"][0]["is_own"]), (&"2".into(), &true.into()));
    let (mut wire, _) = Wire::welcome(server.listen, "w");
    wire.subscribe(1, "a", 5);
    let first = wire.deliveries(1).remove(0);
    wire.subscribe(2, "b", 5);
    assert_eq!(wire.delivery_within(A_WHILE), None, "one is leased already, in another queue");
    let seq = wire.send_ack(&[first.lease.expect("a lease")], false);
    let (mut is_acked, mut got) = (false, None);
    while !is_acked || got.is_none() {
        let frame = wire.next();
        if frame.is(Kind::Reply) {
            assert_eq!(frame.parse::<proto::Reply>(Kind::Reply).seq, seq);
            is_acked = true;
        } else {
            got = Some(payload(&frame.parse::<proto::Deliver>(Kind::Deliver).deliveries[0]));
        }
    }
    assert_eq!(got.as_deref(), Some(&b"2"[..]));
    server.cli(&["namespace", "set", "default", "messages_max="]).succeeds();
    server.publish("strict", "fits", &[]);
}

#[test]
fn a_full_queue_lets_its_oldest_message_die() {
    let server = Server::start();
    server.cli(&["queue", "set", "ring", "messages_max=2", "when_full=dead_letter_oldest"]).succeeds();
    let oldest = server.publish("ring", "1", &[]);
    server.publish("ring", "2", &[]);
    server.publish("ring", "3", &[]);
    assert_eq!((server.stat("ring", "ready"), server.stat("ring", "dead")), (2, 1));
    let dead = server.json(&["dead", "ls", "ring"]);
    assert_eq!((&dead["dead"][0]["id"], &dead["dead"][0]["reason"]), (&oldest.into(), &"overflow".into()));
}

#[test]
fn a_delivery_rate_is_kept() {
    let server = Server::start();
    server.cli(&["queue", "set", "jobs", "deliver_per_s=10"]).succeeds();
    let (mut wire, _) = Wire::welcome(server.listen, "w");
    wire.publish("jobs", &[b"x".as_slice(); 25]);
    let start = Instant::now();
    wire.subscribe(1, "jobs", 100);
    let mut got = 0;
    while got < 25 {
        got += wire.expect::<proto::Deliver>(Kind::Deliver).deliveries.len();
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1_400), "10 at once and 15 at 10 a second came within {took:?}");
}

#[test]
fn a_disk_below_its_marks_is_said_and_refuses() {
    // A mark that no disk is above.
    let of = |marks: &str| Home::new().config(&format!("[log]\nsegment_bytes = 4194304\n{marks}\n")).serve();
    let server = of("disk_reject = \"100%\"");
    let state = |state: &str| format!("relaymesh_disk_state{{state=\"{state}\"}}");
    eventually("the disk is looked at", || metric(&server, &state("reject")) > 0.5);
    assert!(metric(&server, "relaymesh_disk_free_bytes") > 0.0);
    let (mut wire, _) = Wire::welcome(server.listen, "p");
    wire.send_publish("jobs", &[b"no"]);
    let refusal = wire.expect::<proto::PublishAck>(Kind::PublishAck).refusal.expect("a refusal");
    assert_eq!(refusal.code(), Code::DiskFull);
    assert!(refusal.text.contains("log.disk_reject = 100%"), "{}", refusal.text);
    assert_eq!(http::get(server.admin, "/readyz").status, 200, "consumers make room");
    assert!(server.log().contains("little is free on the disk"), "{}", server.log());

    let server = of("disk_stop = \"100%\"");
    eventually("the disk is looked at", || metric(&server, &state("stop")) > 0.5);
    assert_eq!(http::get(server.admin, "/readyz").status, 503);
    let mut late = Wire::connect(server.listen);
    late.send(Kind::Hello, &hello("new"));
    assert_eq!(late.ending(PATIENCE).0, Some(Code::DiskFull));

    let server = of("disk_warn = \"0\"\ndisk_reject = \"0\"\ndisk_stop = \"0\"");
    eventually("the disk is looked at", || metric(&server, &state("fine")) > 0.5);
    server.publish("jobs", "yes", &[]);
}

/// Messages acked so far, when nothing more comes for a while.
fn acked(wire: &mut Wire, count: &mut u32, at_least: u32) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let until = if *count < at_least { deadline } else { Instant::now() + A_WHILE };
        match wire.read_until(until) {
            Arrival::Frame(frame) => {
                let ack: proto::PublishAck = frame.parse(Kind::PublishAck);
                assert_eq!(ack.refusal, None);
                *count += ack.messages;
            }
            Arrival::Nothing if *count >= at_least => return,
            other => panic!("{count} of {at_least} were acked, then {other:?}"),
        }
    }
}

/// One slow consumer, a producer that sends all that its window allows, a queue of 50: the producer is answered at the
/// consumer's pace, the rest waits with it, its heartbeats go on, and another namespace notices nothing.
#[test]
fn pressure_reaches_the_producer_and_nobody_else() {
    const ROOM: u32 = 50;
    const SENT: u32 = 1000;
    const TAKEN: u32 = 100;
    let server = Server::start();
    server.cli(&["queue", "--namespace", "busy", "set", "jobs", "messages_max=50"]).succeeds();
    let of = |namespace: &str, client: &str| {
        let hello = proto::Hello { namespace: namespace.to_owned(), ..hello(client) };
        Wire::welcome_with(server.listen, &hello).0
    };
    let (mut producer, mut consumer) = (of("busy", "producer"), of("busy", "consumer"));
    let mut neighbour = of("calm", "neighbour");
    neighbour.publish("jobs", &[b"before"]);
    let body = vec![7; 4 * KIB];
    let before = server.resident_bytes();
    for _ in 0..SENT {
        producer.send_publish("jobs", &[&body]);
    }
    let mut answered = 0;
    acked(&mut producer, &mut answered, ROOM);
    assert_eq!(answered, ROOM, "what fits is answered, the rest waits");
    let bytes = metric(&server, "relaymesh_buffer_bytes{buffer=\"parked\"}");
    assert!(bytes >= f64::from(SENT - ROOM) * body.len() as f64, "{bytes} bytes are parked");
    producer.ping();

    consumer.subscribe(1, "jobs", 1);
    for taken in 1..=TAKEN {
        let delivery = consumer.deliveries(1).remove(0);
        // The neighbour is served while all this waits.
        neighbour.publish("jobs", &[b"meanwhile"]);
        let seq = consumer.send_ack(&[delivery.lease.expect("a lease")], false);
        consumer.expect_ok(seq);
        if taken < TAKEN {
            consumer.send(Kind::Credit, &proto::Credit { subscription: 1, messages: 1, bytes: 0 });
        }
    }
    acked(&mut producer, &mut answered, ROOM + TAKEN);
    assert_eq!(answered, ROOM + TAKEN, "one is answered for each that was taken");
    producer.ping();
    if let (Some(before), Some(after)) = (before, server.resident_bytes()) {
        let grown = after.saturating_sub(before) / MIB;
        assert!(grown < 64, "the server grew by {grown} MiB over 4 MB of publishes");
    }
    // Whoever waits may leave; what it had parked goes with it.
    drop(producer);
    eventually("nothing is parked", || metric(&server, "relaymesh_buffer_bytes{buffer=\"parked\"}") < 0.5);
}

/// Four times as many bytes as memory may hold go in and come out whole.
#[test]
fn bodies_beyond_their_memory_are_read_back() {
    const BUDGET: u64 = 16 * MIB;
    const MESSAGES: usize = 256;
    let config = "[queue]\nlease = \"1h\"\n[memory]\nbody_bytes_max = \"16MiB\"\n";
    let server = Home::new().config(config).serve();
    let (mut wire, _) = Wire::welcome(server.listen, "both");
    let body = |at: usize| vec![at as u8; 256 * KIB];
    let held = || metric(&server, "relaymesh_buffer_bytes{buffer=\"bodies\"}") as u64;
    for at in 0..MESSAGES {
        wire.publish("jobs", &[&body(at)]);
    }
    assert!(held() <= BUDGET, "{} bytes of bodies are in memory", held());
    let before = server.resident_bytes();
    server.forget_peak();
    wire.subscribe(1, "jobs", 16);
    let mut seen = BTreeSet::new();
    while seen.len() < MESSAGES {
        let frame = wire.next();
        if frame.is(Kind::Reply) {
            continue;
        }
        for delivery in frame.parse::<proto::Deliver>(Kind::Deliver).deliveries {
            // What the connection's output had no room for comes later: in no order.
            let payload = payload(&delivery);
            let at = usize::from(payload[0]);
            assert!(payload == body(at) && seen.insert(at), "message {at} came back as another");
            wire.send_ack(&[delivery.lease.expect("a lease")], true);
        }
        if seen.len() % 32 == 0 {
            assert!(held() <= BUDGET, "{} bytes of bodies are in memory", held());
        }
    }
    if let (Some(before), Some(peak)) = (before, server.peak_bytes()) {
        let grown = peak.saturating_sub(before) / MIB;
        assert!(grown < 64, "the server grew by {grown} MiB while it read back");
    }
}
