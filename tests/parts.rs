//! Messages larger than a frame, end to end through the built binary: the command line, the wire, a kill and a restart.

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::limits::{MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use relaymesh::wire::proto::{self, Code, Kind};
use support::server::Home;
use support::wire::{Arrival, Wire, hello, payload};
use support::{PATIENCE, eventually};

/// A place with segments as they are by default: the largest message is a third of one.
fn large_home(config: &str) -> Home {
    Home::new().config(&format!("{config}[log]\nsegment_bytes = \"64MiB\"\n"))
}

/// Bytes that no compression makes small.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
    bytes
}

fn noise_file(home: &Home, name: &str, len: usize) -> PathBuf {
    home.file(name, noise(len))
}

fn sha256(file: &PathBuf) -> String {
    let summed = support::process::Process::start(
        std::process::Command::new("sha256sum").stdin(fs::File::open(file).expect("it was just written")),
    );
    summed.wait(PATIENCE).stdout.trim_end().to_owned()
}

fn at(file: &std::path::Path) -> String {
    format!("@{}", file.display())
}

/// Sends all of an encoded message but its end in PARTs, with what `between` sends after each.
fn send_parts(wire: &mut Wire, message: &[u8], part: usize, mut between: impl FnMut(&mut Wire)) -> usize {
    let mut sent = 0;
    while message.len() - sent > part {
        let data = message[sent..sent + part].to_vec();
        assert!(wire.send(Kind::Part, &proto::Part { offset: sent as u32, data }), "the server takes parts");
        sent += part;
        between(wire);
    }
    sent
}

fn send_end(wire: &mut Wire, queue: &str, message: &[u8], sent: usize) -> u64 {
    let seq = wire.seq();
    let publish = proto::Publish {
        seq,
        queue: queue.to_owned(),
        messages: vec![message[sent..].to_vec()],
        parts_bytes: sent as u32,
        ..Default::default()
    };
    wire.send(Kind::Publish, &publish);
    seq
}

fn encoded(payload: Vec<u8>) -> Vec<u8> {
    proto::Message { payload, ..Default::default() }.encode_to_vec()
}

/// Reads PARTs and the DELIVER that ends them; other frames in between are dropped.
fn delivered(wire: &mut Wire) -> (proto::Delivery, Vec<u8>, usize) {
    let (mut whole, mut parts) = (Vec::new(), 0);
    loop {
        let frame = wire.next();
        if frame.is(Kind::Part) {
            let part: proto::Part = frame.parse(Kind::Part);
            assert_eq!(part.offset as usize, whole.len());
            whole.extend(part.data);
            parts += 1;
        } else if frame.is(Kind::Deliver) {
            let mut deliver: proto::Deliver = frame.parse(Kind::Deliver);
            let delivery = deliver.deliveries.pop().expect("one delivery");
            assert!(deliver.deliveries.is_empty() && delivery.parts_bytes as usize == whole.len());
            whole.extend_from_slice(&delivery.message);
            return (delivery, whole, parts);
        }
    }
}

#[test]
fn the_largest_file_comes_out_as_it_went_in_and_a_byte_more_is_refused() {
    let server = large_home("").serve();
    let largest = noise_file(server.home(), "largest", PAYLOAD_BYTES_MAX);
    server.cli(&["publish", "jobs", &at(&largest), "--attr", "name=largest"]).succeeds();
    let summed = server.cli(&["work", "jobs", "--exec", "sha256sum", "--max", "1"]).succeeds();
    assert_eq!(summed.trim_end(), sha256(&largest));
    eventually("the work is done", || server.stat("jobs", "leased") + server.stat("jobs", "ready") == 0);

    let beyond = noise_file(server.home(), "beyond", PAYLOAD_BYTES_MAX + 1);
    let refused = server.cli(&["publish", "jobs", &at(&beyond)]).fails();
    assert!(refused.contains("16777216 bytes") && refused.contains("16MiB"), "{refused}");
    // A mailbox holds 1 MiB unless configured.
    let refused = server.cli(&["push", "d1", &at(&largest)]).fails();
    assert!(refused.contains("never fit") && refused.contains("1048576 bytes"), "{refused}");
}

#[test]
fn large_messages_survive_a_kill() {
    // Bodies are read back from disk.
    let home = large_home("[memory]\nbody_bytes_max = \"16MiB\"\n");
    let mut server = home.serve();
    let files: Vec<PathBuf> =
        (0..4).map(|n| noise_file(&home, &format!("file{n}"), PAYLOAD_BYTES_MAX - n * 1_000_003)).collect();
    for file in &files {
        server.cli(&["publish", "jobs", &at(file)]).succeeds();
        server = server.kill().serve();
    }
    let mut sums: Vec<String> = files.iter().map(sha256).collect();
    // One is worked on and acked, then all is killed again.
    let first = server.cli(&["work", "jobs", "--exec", "sha256sum", "--max", "1"]).succeeds();
    assert_eq!(first.trim_end(), sums.remove(0));
    server = server.kill().serve();
    assert_eq!(server.stat("jobs", "ready"), 3);
    let rest =
        server.cli(&["work", "jobs", "--exec", "sha256sum", "--max", "3", "--concurrency", "3"]).succeeds();
    let mut rest: Vec<&str> = rest.lines().collect();
    rest.sort_unstable();
    sums.sort();
    assert_eq!(rest, sums);
    eventually("all is done", || server.stat("jobs", "leased") + server.stat("jobs", "ready") == 0);
}

#[test]
fn other_frames_pass_between_the_parts() {
    let server = large_home("").serve();
    let (mut producer, welcome) = Wire::welcome(server.listen, "producer");
    let limits = welcome.limits.expect("WELCOME carries the limits");
    assert_eq!(limits.message_bytes_max as usize, MESSAGE_BYTES_MAX);
    let message = encoded(noise(6_000_000));
    let mut small = Vec::new();
    let sent = send_parts(&mut producer, &message, 500_000, |wire| {
        wire.ping();
        small.push(wire.publish("jobs", &[b"small"]));
    });
    send_end(&mut producer, "large", &message, sent);
    let ack: proto::PublishAck = producer.expect(Kind::PublishAck);
    assert_eq!((ack.messages, ack.refusal), (1, None));

    let (mut worker, _) = Wire::welcome(server.listen, "worker");
    worker.subscribe(1, "large", 1);
    let (delivery, whole, parts) = delivered(&mut worker);
    assert!(whole == message, "the message is what was published");
    assert!(parts > 10, "in {parts} parts, each within the write budget");
    assert_eq!(delivery.lease.map(|lease| lease.message_id), Some(ack.first_id));
    assert!(worker.ack(&[delivery.lease.expect("a lease")]).is_empty());
    worker.subscribe(2, "jobs", 100);
    assert_eq!(
        worker.deliveries(small.len()).iter().map(payload).collect::<Vec<_>>(),
        vec![b"small"; small.len()]
    );
}

#[test]
fn credit_in_bytes_below_a_message_does_not_hold_it_up() {
    let server = large_home("").serve();
    let file = noise_file(server.home(), "file", 3_000_000);
    for _ in 0..3 {
        server.cli(&["publish", "jobs", &at(&file)]).succeeds();
    }
    let (mut worker, _) = Wire::welcome(server.listen, "worker");
    let seq = worker.seq();
    let subscribe = proto::Subscribe {
        seq,
        subscription: 1,
        queue: "jobs".into(),
        credit_messages: 10,
        credit_bytes: 1000,
    };
    worker.send(Kind::Subscribe, &subscribe);
    worker.expect_ok(seq);
    for _ in 0..3 {
        let (delivery, whole, _) = delivered(&mut worker);
        assert_eq!(whole.len(), 3_000_005);
        let until = Instant::now() + Duration::from_millis(200);
        while let Arrival::Frame(frame) = worker.read_until(until) {
            assert!(frame.is(Kind::Reply), "the credit is used up, and here is {}", frame.describe());
        }
        worker.send_ack(&[delivery.lease.expect("a lease")], true);
    }
}

#[test]
fn what_is_not_finished_is_forgotten_and_costs_what_was_sent() {
    let server = large_home("[session]\nheartbeat = \"500ms\"\n").serve();
    let message = encoded(noise(10 << 20));
    let (mut warm, _) = Wire::welcome(server.listen, "warm");
    let sent = send_parts(&mut warm, &message, 1 << 19, |_| {});
    send_end(&mut warm, "jobs", &message, sent);
    let _: proto::PublishAck = warm.expect(Kind::PublishAck);
    let before = server.resident_bytes();
    server.forget_peak();
    // Some break off, some fall silent; the largest declaration costs nothing.
    let hello = |client: String| proto::Hello { heartbeat_ms: 500, ..hello(&client) };
    for round in 0..10 {
        let (mut gone, _) = Wire::welcome_with(server.listen, &hello(format!("gone-{round}")));
        send_parts(&mut gone, &message, 1 << 19, |_| {});
        drop(gone);
    }
    let mut silent: Vec<Wire> = (0..3)
        .map(|n| {
            let (mut wire, _) = Wire::welcome_with(server.listen, &hello(format!("silent-{n}")));
            send_parts(&mut wire, &message[..2 << 20], 1 << 19, |_| {});
            wire
        })
        .collect();
    let endings: Vec<_> = silent.iter_mut().map(|wire| wire.ending(PATIENCE).0).collect();
    assert_eq!(endings, vec![Some(Code::HeartbeatMissed); 3]);
    let page = support::http::get(server.admin, "/metrics").body;
    let partial =
        page.lines().find(|line| line.contains("buffer=\"partial_frames\"")).expect("it is a metric");
    assert!(partial.ends_with(" 0.0"), "{partial}");
    if let (Some(before), Some(peak)) = (before, server.peak_bytes()) {
        assert!(peak < before + (96 << 20), "resident memory grew from {before} to {peak} bytes");
    }
    // And nothing of it is a message.
    assert_eq!(server.stat("jobs", "ready"), 1);
}

#[test]
fn more_than_the_largest_message_ends_the_connection() {
    let server = large_home("").serve();
    let (mut wire, _) = Wire::welcome(server.listen, "large");
    let data = vec![0; 1 << 19];
    for part in 0..=MESSAGE_BYTES_MAX / data.len() {
        wire.send(Kind::Part, &proto::Part { offset: (part * data.len()) as u32, data: data.clone() });
    }
    let (code, _) = wire.ending(PATIENCE);
    assert_eq!(code, Some(Code::TooLarge));

    // The payload's own limit is told as well: the message fits, its payload does not.
    let (mut wire, _) = Wire::welcome(server.listen, "large");
    let message = encoded(noise(PAYLOAD_BYTES_MAX + 1));
    let sent = send_parts(&mut wire, &message, 1 << 19, |_| {});
    send_end(&mut wire, "jobs", &message, sent);
    let (code, _) = wire.ending(PATIENCE);
    assert_eq!(code, Some(Code::TooLarge));
    assert_eq!(server.stat("jobs", "ready"), 0);
}
