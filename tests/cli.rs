//! What a person types, through the built binary: devices, work, dead letters, restarts, refusals.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::wire::proto;
use relaymesh::wire::proto::{Code, Kind};
use socket2::{Domain, Socket, Type};
use support::cli::relaymesh;
use support::http;
use support::server::{Home, Server};
use support::wire::{Wire, hello};
use support::{PATIENCE, eventually};

/// Retries that a test can wait for.
const QUICK_RETRIES: &str = "[queue]\nlease = \"1h\"\nbackoff_initial = \"50ms\"\nbackoff_max = \"100ms\"\n";
/// A drain that a test can wait for.
const QUICK_DRAIN: &str = "[drain]\nperiod = \"500ms\"\n";
/// Long enough to see that something which should not come does not.
const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn a_device_prints_what_is_pushed() {
    let server = Server::start();
    let device = server.cli(&["device", "d1", "--exec", "cat; echo"]).start();
    server.cli(&["push", "d1", "hello"]).succeeds();
    assert_eq!(device.next_line(PATIENCE).as_deref(), Some("hello"));
    // Killed before its ack it would be given hello again.
    eventually("hello is acked", || server.stat("device/d1", "leased") == 0);
    drop(device);

    server.cli(&["push", "d1", "while away"]).succeeds();
    let device = server.cli(&["device", "d1", "--exec", "cat", "--max", "1"]).succeeds();
    assert_eq!(device.trim_end(), "while away");
    eventually("the mailbox is empty", || server.stat("device/d1", "ready") == 0);
}

#[test]
fn a_push_reaches_its_own_device_only() {
    let server = Server::start();
    let other = server.cli(&["device", "d2"]).start();
    server.cli(&["push", "d1", "for d1"]).succeeds();
    let device = server.cli(&["device", "d1", "--max", "1"]).succeeds();
    assert_eq!(device.trim_end(), "for d1");
    assert_eq!(other.line_within(A_WHILE), None);
}

#[test]
fn work_runs_a_command_with_the_payload_on_stdin() {
    let server = Server::start();
    let payload = b"\x00 any bytes \xff\n";
    let file = server.home().file("payload", payload);
    server.cli(&["publish", "jobs", &format!("@{}", file.display())]).succeeds();
    let summed = server.cli(&["work", "jobs", "--exec", "sha256sum", "--max", "1"]).succeeds();
    let expected = support::process::Process::start(
        std::process::Command::new("sha256sum")
            .stdin(fs::File::open(&file).expect("the file was just written")),
    );
    assert_eq!(summed.trim_end(), expected.wait(PATIENCE).stdout.trim_end());
    eventually("the work is done", || server.stat("jobs", "leased") + server.stat("jobs", "ready") == 0);
}

#[test]
fn a_payload_comes_from_stdin_too() {
    let server = Server::start();
    let published = server.cli(&["publish", "jobs", "-"]).run_with_stdin(b"from stdin");
    assert!(published.status.success(), "{published:#?}");
    assert_eq!(
        server.cli(&["work", "jobs", "--exec", "cat", "--max", "1"]).succeeds().trim_end(),
        "from stdin"
    );
}

#[test]
fn what_fails_is_retried_then_dead_then_redriven() {
    let server = Home::new().config(QUICK_RETRIES).serve();
    let id = server.publish("jobs", "payload", &["--attempts", "2"]);
    let worker =
        server.cli(&["work", "jobs", "--exec", "echo first >&2; echo out of paper >&2; exit 7"]).start();
    eventually("it is dead", || server.stat("jobs", "dead") == 1);
    drop(worker);
    assert_eq!(
        server.stat("jobs", "ready") + server.stat("jobs", "scheduled") + server.stat("jobs", "leased"),
        0
    );

    let listed = server.cli(&["dead", "ls", "jobs"]).succeeds();
    assert!(listed.contains(&id.to_string()) && listed.contains("out of paper"), "{listed}");
    assert!(listed.contains('7'), "the exit code is named: {listed}");
    let rows = server.json(&["dead", "ls", "jobs"]);
    let row = rows.as_array().or_else(|| rows["dead"].as_array()).and_then(|rows| rows.first()).cloned();
    let row = row.unwrap_or_else(|| panic!("dead ls --json lists it: {rows}"));
    assert_eq!((row["id"].as_u64(), row["attempts"].as_u64()), (Some(id), Some(2)), "{row}");
    assert_eq!(row["reason"], "attempts");

    let shown = server.cli(&["dead", "show", "jobs", "--id", &id.to_string()]).succeeds();
    assert!(shown.contains("out of paper") && shown.contains("payload"), "{shown}");

    server.cli(&["dead", "redrive", "jobs", "--id", &id.to_string()]).succeeds();
    let done = server.cli(&["work", "jobs", "--exec", "cat", "--max", "1"]).succeeds();
    assert_eq!(done.trim_end(), "payload");
    eventually("nothing is left", || {
        ["ready", "scheduled", "leased", "dead"].iter().all(|field| server.stat("jobs", field) == 0)
    });
}

#[test]
fn a_message_that_is_to_be_retried_is_shown_with_its_history() {
    let server = Home::new().serve();
    server.cli(&["queue", "set", "jobs", "backoff_initial=1h", "backoff_max=1h"]).succeeds();
    let id = server.publish("jobs", "payload", &["--attr", "region=north"]).to_string();
    server.cli(&["work", "jobs", "--exec", "echo out of paper >&2; exit 7", "--max", "1"]).run();
    let shown = server.cli(&["queue", "show", "jobs", "--id", &id]).succeeds();
    for part in ["scheduled", "due", "exit code 7: out of paper", "region=north", "attempts    1", "payload"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let row = server.json(&["queue", "show", "jobs", "--id", &id]);
    assert_eq!(
        (row["state"].as_str(), row["history"].as_array().map(Vec::len)),
        (Some("scheduled"), Some(1))
    );
    let payload = server.cli(&["queue", "show", "jobs", "--id", &id, "--payload"]).succeeds();
    assert_eq!(payload.trim_end(), "payload");
    let said = server.cli(&["queue", "show", "others", "--id", &id]).fails();
    assert!(said.contains("others") && said.contains(&id) && said.contains("acked"), "{said}");
}

#[test]
fn dead_letters_are_purged() {
    let server = Home::new().config(QUICK_RETRIES).serve();
    for _ in 0..3 {
        server.publish("jobs", "payload", &["--attempts", "1"]);
    }
    let worker = server.cli(&["work", "jobs", "--exec", "false"]).start();
    eventually("all are dead", || server.stat("jobs", "dead") == 3);
    drop(worker);
    let first = server.json(&["dead", "ls", "jobs"]);
    let rows = first.as_array().or_else(|| first["dead"].as_array()).cloned().unwrap_or_default();
    assert_eq!(rows.len(), 3, "{first}");
    server.cli(&["dead", "purge", "jobs", "--id", &rows[0]["id"].to_string()]).succeeds();
    assert_eq!(server.stat("jobs", "dead"), 2);
    server.cli(&["dead", "purge", "jobs"]).fails();
    server.cli(&["dead", "purge", "jobs", "--all"]).succeeds();
    assert_eq!(server.stat("jobs", "dead"), 0);
}

#[test]
fn priority_goes_first_and_a_delay_is_waited_for() {
    let server = Server::start();
    server.publish("jobs", "much later", &["--delay", "1h", "--priority", "9"]);
    server.publish("jobs", "low", &["--priority", "1"]);
    server.publish("jobs", "normal", &[]);
    server.publish("jobs", "high", &["--priority", "8"]);
    let work = ["work", "jobs", "--exec", "cat; echo", "--concurrency", "1", "--max"];
    let worked = server.cli(&[&work[..], &["3"]].concat()).succeeds();
    assert_eq!(worked.split_whitespace().collect::<Vec<_>>(), ["high", "normal", "low"]);
    assert_eq!((server.stat("jobs", "scheduled"), server.stat("jobs", "ready")), (1, 0));

    // Before the server hears of it: its time cannot have begun earlier.
    let asked = Instant::now();
    server.publish("jobs", "soon", &["--delay", "700ms"]);
    let worked = server.cli(&[&work[..], &["1"]].concat()).succeeds();
    assert_eq!(worked.trim_end(), "soon");
    assert!(asked.elapsed() >= Duration::from_millis(700), "it came before its time");
}

/// The lease is shorter than the command line asks for, as another client may.
#[test]
fn a_lease_that_is_lost_is_said_once_and_the_result_still_tried() {
    let server = Server::start();
    let (mut producer, _) = Wire::welcome(server.listen, "producer");
    let brief = proto::Message { payload: b"x".to_vec(), lease_ms: 1, ..Default::default() };
    let (seq, messages) = (producer.seq(), vec![brief.encode_to_vec()]);
    let publish = proto::Publish { seq, queue: "jobs".into(), messages, ..Default::default() };
    producer.send(Kind::Publish, &publish);
    producer.expect::<proto::PublishAck>(Kind::PublishAck);
    let ended = server.cli(&["work", "jobs", "--exec", "sleep 0.5", "--max", "1"]).run();
    assert!(ended.status.success(), "{ended:#?}");
    let said: Vec<_> = ended.stderr.lines().collect();
    assert!(said.len() == 1 && said[0].contains("is over, or another's now"), "{said:?}");
    assert_eq!(server.stat("jobs", "ready") + server.stat("jobs", "scheduled"), 0, "the ack counted");
}

#[test]
fn what_an_option_cannot_be_is_refused_with_what_it_can() {
    for (arguments, words) in [
        (&["--lease", "99ms"][..], "100ms to 12h"),
        (&["--lease", "0s"], "leave the option out"),
        (&["--ttl", "0s"], "leave the option out"),
        (&["--ttl", "500us"], "1ms is the least"),
        (&["--delay", "500us"], "1ms is the least"),
        (&["--retry-delay", "500us"], "1ms is the least"),
        (&["--delay", "-5s"], "such as 500ms"),
        (&["--priority", "-1"], "0..=9"),
        (&["--at", "2030-02-30T00:00:00Z"], "no day 2030-02-30"),
        (&["--at", "9999-12-31T23:59:59Z"], "out of range"),
        (&["--attr", "a=1", "--attr", "a=2"], "\"a\" is given twice"),
        (&["--dedup", ""], "empty"),
        (&["--order-key", ""], "empty"),
        (&["--fair-key", ""], "empty"),
    ] {
        let said = relaymesh(&[&["publish", "jobs", "x"], arguments].concat()).fails();
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    for (arguments, words) in [
        (&["queue", "set", "jobs", "attempts=3", "attempts=4"][..], "\"attempts\" is given twice"),
        (
            &["namespace", "set", "acme", "publish_per_s=1", "publish_per_s="],
            "\"publish_per_s\" is given twice",
        ),
        (&["broadcast", "news", "x", "--attr", "a=1", "--attr", "a=1"], "\"a\" is given twice"),
        (&["schedule", "next", "--cron", "@daily", "-n", "-1"], "1 to 1000"),
        (&["dead", "redrive", "jobs", "--id", "-1"], "whole number"),
        (&["dead", "ls", "jobs", "--since", "-5m"], "how long ago"),
        (&["work", "jobs", "--max", "-1"], "from 1 on"),
    ] {
        let said = relaymesh(arguments).fails();
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn http_refuses_a_lease_that_no_queue_may_have() {
    let server = Server::start();
    let bad = http::post(server.admin, "/api/v1/publish?queue=jobs&lease_ms=99", &[], b"x");
    assert!(bad.status == 400 && bad.body.contains("100 to 43200000"), "{bad:?}");
    let body = br#"{"name":"s","cron":"@daily","queue":"jobs","message":{"lease_ms":1}}"#;
    let bad = http::post(server.admin, "/api/v1/schedules", &[("content-type", "application/json")], body);
    assert!(bad.status == 400 && bad.body.contains("100 to 43200000"), "{bad:?}");
    let good = http::post(server.admin, "/api/v1/publish?queue=jobs&lease_ms=100", &[], b"x");
    assert_eq!(good.status, 200, "{good:?}");
}

#[test]
fn queues_are_listed_with_their_numbers() {
    let server = Server::start();
    server.publish("alpha", "1", &[]);
    server.publish("alpha", "2", &["--delay", "1h"]);
    server.publish("beta", "3", &[]);
    let stats = server.json(&["queue", "stats", "alpha"]);
    for (field, number) in [("ready", 1), ("scheduled", 1), ("leased", 0), ("dead", 0)] {
        assert_eq!(stats[field].as_u64(), Some(number), "{field} of {stats}");
    }
    let listed = server.cli(&["queue", "ls"]).succeeds();
    assert!(listed.contains("alpha") && listed.contains("beta"), "{listed}");
    let listed = server.json(&["queue", "ls"]).to_string();
    assert!(listed.contains("alpha") && listed.contains("beta"), "{listed}");

    let (mut worker, _) = Wire::welcome(server.listen, "worker");
    worker.subscribe(1, "alpha", 1);
    worker.deliveries(1);
    assert_eq!((server.stat("alpha", "ready"), server.stat("alpha", "leased")), (0, 1));
}

#[test]
fn namespaces_are_apart() {
    let server = Server::start();
    server.publish("jobs", "ours", &[]);
    let theirs = server.cli(&["queue", "stats", "jobs", "--namespace", "other", "--json"]).succeeds();
    assert!(theirs.replace(' ', "").contains("\"ready\":0"), "{theirs}");
    assert_eq!(server.stat("jobs", "ready"), 1);
}

#[test]
fn http_publishes_like_curl() {
    let server = Server::start();
    let api = http::get(server.admin, "/api/v1/openapi.json");
    assert_eq!(api.status, 200, "{api:?}");
    let answer = http::post(server.admin, "/api/v1/publish?queue=jobs", &[], b"by curl");
    assert!((200..300).contains(&answer.status), "{answer:?}");
    assert!(answer.json()["id"].is_u64(), "{answer:?}");
    assert_eq!(server.cli(&["work", "jobs", "--exec", "cat", "--max", "1"]).succeeds().trim_end(), "by curl");
}

#[test]
fn health_metrics_and_errors_over_http() {
    let server = Server::start();
    assert_eq!(http::get(server.admin, "/healthz").status, 200);
    assert_eq!(http::get(server.admin, "/readyz").status, 200);
    let metrics = http::get(server.admin, "/metrics");
    assert!(metrics.body.trim_end().ends_with("# EOF"), "OpenMetrics text has an end");
    let names = metrics.body.lines().filter(|line| !line.starts_with('#'));
    assert!(names.clone().count() > 20);
    assert!(names.clone().all(|line| line.starts_with("relaymesh_")), "{:?}", names.clone().next());
    assert_eq!(http::get(server.admin, "/api/v1/nothing").status, 404);
    let bad = http::post(server.admin, "/api/v1/publish?queue=two%20words", &[], b"x");
    assert!((400..500).contains(&bad.status), "{bad:?}");
}

#[test]
fn a_restart_keeps_everything() {
    let server = Server::start();
    let ids: Vec<u64> = (0..20).map(|number| server.publish("jobs", &format!("job {number}"), &[])).collect();
    server.cli(&["push", "d1", "mail"]).succeeds();
    server.publish("later", "delayed", &["--delay", "1h"]);
    let first = server.cli(&["work", "jobs", "--exec", "cat", "--concurrency", "1", "--max", "1"]).succeeds();
    assert_eq!(first.trim_end(), "job 0");

    let server = server.kill().serve();
    assert_eq!(server.stat("later", "scheduled"), 1);
    assert_eq!(server.cli(&["device", "d1", "--max", "1"]).succeeds().trim_end(), "mail");
    let (mut worker, _) = Wire::welcome(server.listen, "worker");
    worker.subscribe(1, "jobs", 100);
    let found: Vec<u64> =
        worker.deliveries(19).iter().filter_map(|delivery| Some(delivery.lease?.message_id)).collect();
    assert_eq!(found, ids[1..], "in order, and what was acked does not come back");
    assert!(server.publish("jobs", "after", &[]) > ids[19], "ids go on rising");
}

#[test]
fn sigterm_drains() {
    let server = Home::new().config(QUICK_DRAIN).serve();
    let (mut device, _) = Wire::welcome(server.listen, "d1");
    let (mut busy, _) = Wire::welcome(server.listen, "busy");
    busy.publish("jobs", &[b"kept"]);
    server.terminate();
    let goaway = loop {
        let frame = device.next();
        if frame.is(Kind::Goaway) {
            break frame.parse::<proto::GoAway>(Kind::Goaway);
        }
    };
    assert_eq!(goaway.code(), Code::Draining, "{goaway:?}");
    assert_eq!(busy.ending(PATIENCE).0, Some(Code::Draining));
    let home = server.home().clone();
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
    let server = home.serve();
    assert_eq!(server.stat("jobs", "ready"), 1);
}

#[test]
fn readiness_turns_false_before_clients_are_told() {
    // Many clients, so that telling them takes its time.
    let server = Home::new().config(QUICK_DRAIN).serve();
    let mut clients: Vec<Wire> =
        (0..50).map(|number| Wire::welcome(server.listen, &format!("d{number}")).0).collect();
    server.terminate();
    let (code, _) = clients[0].ending(PATIENCE);
    assert_eq!(code, Some(Code::Draining));
    // Either it still answers and says no, or it is already gone: never a yes.
    if let Some(answer) = http::try_get(server.admin, "/readyz") {
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    for client in &mut clients[1..] {
        assert_eq!(client.ending(PATIENCE).0, Some(Code::Draining));
    }
    assert_eq!(server.wait().status.code(), Some(0));
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let server = Server::start();
    let second = server.home().serve_refused();
    assert_ne!(second.status.code(), Some(0));
    assert!(second.status.code().is_some(), "{second:#?}");
    let data = server.home().data().display().to_string();
    assert!(second.stderr.contains(&data), "names the directory: {}", second.stderr);
    assert!(
        second.stderr.to_lowercase().contains("another process") || second.stderr.contains("in use"),
        "{}",
        second.stderr
    );
    server.publish("jobs", "the first goes on", &[]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound socket has an address").to_string();
    let ended = Home::new().arguments(&["--listen", &address]).serve_refused();
    assert!(ended.status.code().is_some_and(|code| code != 0), "{ended:#?}");
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
}

#[test]
fn beyond_loopback_a_token_is_needed() {
    let ended = Home::new().arguments(&["--listen", "0.0.0.0:0"]).serve_refused();
    assert!(ended.status.code().is_some_and(|code| code != 0), "{ended:#?}");
    assert!(ended.stderr.contains("token"), "says what to do: {}", ended.stderr);
}

#[test]
fn a_token_opens_and_a_wrong_one_does_not() {
    let server = Home::new().arguments(&["--token", "open-sesame"]).serve();
    for credential in ["", "open-sesam", "open-sesame "] {
        let mut wire = Wire::connect(server.listen);
        wire.send(Kind::Hello, &proto::Hello { credential: credential.into(), ..hello("d1") });
        assert_eq!(wire.ending(PATIENCE).0, Some(Code::Unauthenticated), "{credential:?}");
    }
    let said = server.cli(&["publish", "jobs", "x"]).fails();
    assert!(said.contains("token"), "says what to do: {said}");
    server.cli(&["publish", "jobs", "x", "--token", "wrong"]).fails();
    server.cli(&["publish", "jobs", "x", "--token", "open-sesame"]).succeeds();
    server.cli(&["publish", "jobs", "x"]).env("RELAYMESH_TOKEN", "open-sesame").succeeds();
    assert_eq!(http::get(server.admin, "/api/v1/queues").status, 401);
    server.cli(&["queue", "ls"]).fails();
    let stats = server.cli(&["queue", "stats", "jobs", "--json", "--token", "open-sesame"]).succeeds();
    assert!(stats.replace(' ', "").contains("\"ready\":2"), "{stats}");
}

#[test]
fn a_wrong_configuration_is_named() {
    for (config, words) in [
        ("[session]\nhandshake_dedline = \"1s\"\n", &["handshake_dedline", "handshake_deadline"][..]),
        ("[session]\nhandshake_deadline = \"soon\"\n", &["handshake_deadline", "soon"]),
        ("[nonsense]\nkey = 1\n", &["nonsense"]),
        ("[log]\nsegment_bytes = 17\n", &["segment_bytes", "17"]),
        ("this is not TOML", &["relaymesh.toml"]),
    ] {
        let ended = Home::new().config(config).serve_refused();
        assert!(ended.status.code().is_some_and(|code| code != 0), "{config:?}: {ended:#?}");
        for word in words {
            assert!(ended.stderr.contains(word), "{config:?} should be told about {word}: {}", ended.stderr);
        }
    }
    let missing = relaymesh(&["serve", "--config", "/nowhere/relaymesh.toml"]).fails();
    assert!(missing.contains("/nowhere/relaymesh.toml"), "{missing}");
}

#[test]
fn a_newer_format_is_refused() {
    let server = Server::start();
    server.publish("jobs", "x", &[]);
    let home = server.kill();
    let mut changed = 0;
    for entry in fs::read_dir(home.data().join("log")).expect("the log directory").flatten() {
        let Ok(mut bytes) = fs::read(entry.path()) else { continue };
        if bytes.starts_with(b"RMSEGMNT") {
            bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
            bytes[12..16].fill(0);
            let checksum = crc32c::crc32c(&bytes[..4096]);
            bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
            fs::write(entry.path(), bytes).expect("a segment can be rewritten");
            changed += 1;
        }
    }
    assert!(changed > 0, "there are segments");
    let ended = home.serve_refused();
    assert!(ended.status.code().is_some_and(|code| code != 0), "{ended:#?}");
    assert!(ended.stderr.contains("format 2"), "{}", ended.stderr);
}

#[test]
fn damage_in_what_was_durable_is_refused() {
    let server = Server::start();
    for number in 0..10 {
        server.publish("jobs", &format!("job {number}"), &[]);
    }
    let home = server.kill();
    let mut damaged = None;
    for entry in fs::read_dir(home.data().join("log")).expect("the log directory").flatten() {
        let Ok(mut bytes) = fs::read(entry.path()) else { continue };
        if let Some(at) = bytes.windows(5).position(|window| window == b"job 2") {
            bytes[at] ^= 1;
            fs::write(entry.path(), bytes).expect("a segment can be rewritten");
            damaged = Some(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let damaged = damaged.expect("the payload is in the log");
    let ended = home.serve_refused();
    assert!(ended.status.code().is_some_and(|code| code != 0), "{ended:#?}");
    assert!(ended.stderr.contains(&damaged), "names the segment {damaged}: {}", ended.stderr);
}

#[test]
fn every_verb_explains_itself() {
    let verbs: [(&[&str], &[&str]); 15] = [
        (&[], &["serve", "publish", "work", "device", "push", "queue", "dead"]),
        (
            &["serve"],
            &["--config", "--data-dir", "--listen", "--admin", "--loops", "--max-sessions", "--token"],
        ),
        (&["publish"], &["--delay", "--at", "--priority", "--ttl", "--attempts", "--attr", "--namespace"]),
        (&["work"], &["--exec", "--concurrency", "--max", "--connect", "--token"]),
        (&["device"], &["--exec", "--heartbeat", "--max"]),
        (&["push"], &["--connect", "--namespace", "--token"]),
        (&["queue"], &["ls", "stats"]),
        (&["queue", "ls"], &["--json", "--admin"]),
        (&["queue", "stats"], &["--json", "--admin"]),
        (&["queue", "show"], &["--id", "--json", "--payload"]),
        (&["dead"], &["ls", "show", "redrive", "purge", "jobs"]),
        (&["dead", "ls"], &["--json", "--all-queues", "--reason", "--since", "--until", "--attr", "--text"]),
        (&["dead", "show"], &["--id", "--json"]),
        (&["dead", "redrive"], &["--id", "--all", "--to", "--rate", "restart"]),
        (&["dead", "purge"], &["--id", "--all"]),
    ];
    for (verb, words) in verbs {
        let mut arguments = verb.to_vec();
        arguments.push("--help");
        let help = relaymesh(&arguments).succeeds();
        assert!(!help.contains("may be told"), "{verb:?} --help speaks to users:\n{help}");
        for word in words {
            assert!(help.contains(word), "{verb:?} --help should mention {word}:\n{help}");
        }
    }
    assert!(relaymesh(&["--version"]).succeeds().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn errors_say_what_is_wrong() {
    // Bound and not listening: nobody answers there, and nobody else can be given the port meanwhile.
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    nobody.bind(&any.into()).expect("a free port");
    let address = nobody.local_addr().ok().and_then(|address| address.as_socket());
    let address = address.expect("a bound socket has an address").to_string();
    let said = relaymesh(&["publish", "jobs", "x", "--connect", &address]).fails();
    assert!(said.contains(&address), "{said}");
    let said = relaymesh(&["queue", "ls", "--admin", &address]).fails();
    assert!(said.contains(&address), "{said}");

    let server = Server::start();
    let said = server.cli(&["publish", "two words", "x"]).fails();
    assert!(said.contains("two words"), "{said}");
    let said = server.cli(&["publish", "jobs", "@/nowhere/file"]).fails();
    assert!(said.contains("/nowhere/file"), "{said}");
    let said = server.cli(&["publish", "jobs", "x", "--priority", "10"]).fails();
    assert!(said.contains("10") && said.contains('9'), "{said}");
    let said = server.cli(&["dead", "show", "jobs", "--id", "12345"]).fails();
    assert!(said.contains("12345"), "{said}");
}

#[test]
fn a_taken_port_of_the_operators_is_told_with_the_option_that_chooses_another() {
    let server = Server::start();
    let (data, admin) = (server.home().path().join("other"), server.admin.to_string());
    let data = data.display().to_string();
    let told =
        relaymesh(&["serve", "--data-dir", &data, "--listen", "127.0.0.1:0", "--admin", &admin]).fails();
    assert!(told.contains(&admin) && told.contains("choose another address with --admin"), "{told}");
}
