//! One client id, several connections: who is served, what the older one is told, and which leases survive.

mod support;

use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::wire::proto;
use relaymesh::wire::proto::{Code, Kind};
use support::PATIENCE;
use support::server::Server;
use support::wire::{Arrival, Frame, Wire, frame, hello, message, payload};

/// Long enough to see that something which should not come does not.
const A_WHILE: Duration = Duration::from_millis(300);

fn resuming(client: &str, welcome: &proto::Welcome, leases: &[proto::Lease]) -> proto::Hello {
    proto::Hello { resume_token: welcome.resume_token.clone(), leases: leases.to_vec(), ..hello(client) }
}

fn extend(wire: &mut Wire, lease: proto::Lease, lease_ms: u32) {
    let seq = wire.seq();
    wire.send(Kind::Extend, &proto::Extend { seq, leases: vec![lease], lease_ms });
    wire.expect_ok(seq);
}

#[test]
fn the_older_connection_is_told_and_refused() {
    let server = Server::start();
    let (mut older, first) = Wire::welcome(server.listen, "robot");
    let (mut newer, second) = Wire::welcome(server.listen, "robot");
    assert!(second.epoch > first.epoch, "{first:?} then {second:?}");
    assert_eq!(older.ending(PATIENCE).0, Some(Code::TakenOver));

    older.send_publish("jobs", &[b"from the older one"]);
    newer.subscribe(1, "jobs", 10);
    assert_eq!(newer.delivery_within(A_WHILE), None, "what the older connection still sends is refused");
    newer.publish("jobs", &[b"from the newer one"]);
    assert_eq!(payload(&newer.deliveries(1)[0]), b"from the newer one");
}

#[test]
fn what_was_answered_before_a_takeover_is_kept() {
    let server = Server::start();
    let mut answered = Vec::new();
    for round in 0..20_u8 {
        let (mut older, _) = Wire::welcome(server.listen, "robot");
        let payloads: Vec<[u8; 2]> = (0..50).map(|number| [round, number]).collect();
        for payload in &payloads {
            older.send_publish("jobs", &[payload]);
        }
        let mut rest = payloads.into_iter();
        let mut answer = |next: Frame| {
            let ack: proto::PublishAck = next.parse(Kind::PublishAck);
            answered.extend(rest.by_ref().take(ack.messages as usize));
        };
        // Every other round something is answered before, however slow the disk is; the others leave it to chance.
        if round % 2 == 0 {
            answer(older.next());
        }
        let _ = Wire::welcome(server.listen, "robot");
        loop {
            let next = older.next();
            if next.is(Kind::Goaway) {
                break;
            }
            answer(next);
        }
    }
    let (mut reader, _) = Wire::welcome(server.listen, "reader");
    reader.subscribe(1, "jobs", 10_000);
    let mut delivered: Vec<Vec<u8>> = Vec::new();
    // All that was answered must come, however slow the machine is; then nothing twice for a while.
    let patience = |delivered: usize| if delivered < answered.len() { PATIENCE } else { A_WHILE };
    while let Arrival::Frame(frame) = reader.read_until(Instant::now() + patience(delivered.len())) {
        delivered.extend(frame.parse::<proto::Deliver>(Kind::Deliver).deliveries.iter().map(payload));
    }
    assert!(!answered.is_empty());
    for payload in &answered {
        let times = delivered.iter().filter(|found| found.as_slice() == payload).count();
        assert_eq!(times, 1, "answered payload {payload:?}");
    }
    delivered.sort_unstable();
    delivered.dedup();
    assert!(delivered.len() <= 20 * 50, "nothing is made up");
}

#[test]
fn a_resume_keeps_the_leases_it_lists() {
    let server = Server::start();
    let (mut worker, welcome) = Wire::welcome(server.listen, "worker");
    worker.publish("jobs", &[b"held", b"let go"]);
    worker.subscribe(1, "jobs", 2);
    let deliveries = worker.deliveries(2);
    let held = deliveries[0].lease.expect("a delivery has a lease");
    drop(worker);

    let (mut other, _) = Wire::welcome(server.listen, "other");
    other.subscribe(1, "jobs", 10);
    assert_eq!(other.delivery_within(A_WHILE), None, "a disconnect changes no lease");

    let (mut worker, again) = Wire::welcome_with(server.listen, &resuming("worker", &welcome, &[held]));
    assert!(again.resumed);
    assert_eq!(again.session_id, welcome.session_id);
    assert!(again.epoch > welcome.epoch);
    let freed = &other.deliveries(1)[0];
    assert_eq!(payload(freed), b"let go", "what a resume does not list is delivered again");
    assert_eq!(freed.lease.map(|lease| lease.attempt), deliveries[1].lease.map(|lease| lease.attempt));
    assert_eq!(other.delivery_within(A_WHILE), None, "what it lists is not");

    assert_eq!(worker.ack(&[held]), [], "the lease still counts");
    drop(worker);
    assert_eq!(other.delivery_within(A_WHILE), None);
}

#[test]
fn a_takeover_delivers_nothing_twice_within_its_lease() {
    let server = Server::start();
    let (mut older, welcome) = Wire::welcome(server.listen, "worker");
    older.publish("jobs", &[b"once"]);
    older.subscribe(1, "jobs", 10);
    let lease = older.deliveries(1)[0].lease.expect("a delivery has a lease");

    let (mut newer, again) = Wire::welcome_with(server.listen, &resuming("worker", &welcome, &[lease]));
    assert!(again.resumed);
    newer.subscribe(1, "jobs", 10);
    assert_eq!(older.ending(PATIENCE).0, Some(Code::TakenOver));
    assert_eq!(newer.delivery_within(A_WHILE), None, "the lease lasts");

    extend(&mut newer, lease, 200);
    let second = newer.delivery_within(PATIENCE).expect("beyond its lease it is delivered again");
    assert_eq!(second.lease.map(|lease| lease.attempt), Some(2));
    assert_eq!(newer.ack(&[lease]), [lease], "the first lease is lost");
    assert_eq!(newer.ack(&[second.lease.expect("a delivery has a lease")]), []);
}

#[test]
fn a_hello_without_token_ends_the_leases() {
    let server = Server::start();
    let (mut worker, _) = Wire::welcome(server.listen, "worker");
    worker.publish("jobs", &[b"job"]);
    worker.subscribe(1, "jobs", 1);
    worker.deliveries(1);
    let (mut anew, welcome) = Wire::welcome(server.listen, "worker");
    assert!(!welcome.resumed);
    anew.subscribe(1, "jobs", 1);
    assert_eq!(payload(&anew.deliveries(1)[0]), b"job");
}

#[test]
fn a_bye_ends_the_leases() {
    let server = Server::start();
    let (mut worker, _) = Wire::welcome(server.listen, "worker");
    worker.publish("jobs", &[b"job"]);
    worker.subscribe(1, "jobs", 1);
    worker.deliveries(1);
    let (mut other, _) = Wire::welcome(server.listen, "other");
    other.subscribe(1, "jobs", 1);
    worker.send(Kind::Bye, &proto::Bye::default());
    worker.ending(PATIENCE);
    assert_eq!(payload(&other.deliveries(1)[0]), b"job");
}

#[test]
fn a_forged_token_resumes_nothing() {
    let server = Server::start();
    let (mut worker, welcome) = Wire::welcome(server.listen, "worker");
    worker.publish("jobs", &[b"job"]);
    worker.subscribe(1, "jobs", 1);
    let lease = worker.deliveries(1)[0].lease.expect("a delivery has a lease");
    drop(worker);
    let mut forged = resuming("worker", &welcome, &[lease]);
    *forged.resume_token.last_mut().expect("a token has bytes") ^= 1;
    let (mut anew, welcome) = Wire::welcome_with(server.listen, &forged);
    assert!(!welcome.resumed, "{welcome:?}");
    anew.subscribe(1, "jobs", 1);
    assert_eq!(payload(&anew.deliveries(1)[0]), b"job", "its leases are over");

    let (_, of_another) = Wire::welcome_with(server.listen, &resuming("thief", &welcome, &[lease]));
    assert!(!of_another.resumed, "a token is good for its own client only");
}

#[test]
fn a_token_and_its_lease_are_good_after_a_restart() {
    let server = Server::start();
    let (mut worker, welcome) = Wire::welcome(server.listen, "worker");
    worker.publish("jobs", &[b"done before", b"open"]);
    worker.subscribe(1, "jobs", 2);
    let deliveries = worker.deliveries(2);
    // A lease's record joins the next commit without anyone waiting for it; an answered publish says that commit is
    // done. (An answered EXTEND would not: it is a matter of memory alone.)
    worker.publish("elsewhere", &[b"later"]);
    let done = deliveries[0].lease.expect("a delivery has a lease");

    let server = server.kill().serve();
    // The server knows no session yet: all that speaks for a client is its token.
    let (_, of_another) = Wire::welcome_with(server.listen, &resuming("thief", &welcome, &[done]));
    assert!(!of_another.resumed, "a token is good for its own client only");
    let (mut worker, again) = Wire::welcome_with(server.listen, &resuming("worker", &welcome, &[done]));
    assert!(again.resumed && again.epoch > welcome.epoch, "{welcome:?} then {again:?}");
    let (mut other, _) = Wire::welcome(server.listen, "other");
    other.subscribe(1, "jobs", 10);
    let second = &other.deliveries(1)[0];
    assert_eq!(payload(second), b"open", "what the worker still works on is nobody else's");
    assert_eq!(worker.ack(&[done]), [], "an ack counts after a restart while its lease is the newest");
    assert_eq!(other.delivery_within(A_WHILE), None, "what was acked does not come back");
    assert!(
        second.lease.map(|lease| lease.boot) > Some(done.boot),
        "a lease names the generation that gave it"
    );
}

#[test]
fn a_hello_and_what_follows_may_share_the_first_write() {
    let server = Server::start();
    let (mut publisher, _) = Wire::welcome(server.listen, "publisher");
    publisher.publish("device/d1", &[b"waiting"]);

    let subscribe = proto::Subscribe {
        seq: 1,
        subscription: 1,
        queue: "device/d1".to_owned(),
        credit_messages: 1,
        credit_bytes: 0,
    };
    let mut first_write = frame(Kind::Hello as u8, &hello("d1").encode_to_vec());
    first_write.extend([Kind::Ping as u8, 0]);
    first_write.extend(frame(Kind::Subscribe as u8, &subscribe.encode_to_vec()));
    let mut device = Wire::connect(server.listen);
    device.send_bytes(&first_write);
    device.expect::<proto::Welcome>(Kind::Welcome);
    assert!(device.next().is(Kind::Pong), "the ping could be answered before HELLO was");
    device.expect_ok(1);
    assert_eq!(device.deliveries(1)[0].message, message(b"waiting"), "bodies arrive as they were encoded");
}
