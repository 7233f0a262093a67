//! `relaymesh log` on a directory whose server was stopped, or killed.

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use relaymesh::log::{DiskStorage, Durability, Journal, Log, LogConfig};
use serde_json::Value;
use support::cli::relaymesh;
use support::eventually;
use support::process::Process;
use support::server::{Home, Server};
use support::wire::{Wire, payload};

const SEGMENT: usize = 4 << 20;

fn data(home: &Home) -> String {
    home.data().display().to_string()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

/// One kill after work on two queues and a mailbox.
fn worked_on() -> Home {
    let server = Server::start();
    for payload in ["one", "two", "three"] {
        server.publish("jobs", payload, &["--attr", "color=blue"]);
    }
    server.publish("other", "four", &["--delay", "1h", "--priority", "7"]);
    server.cli(&["push", "d1", "five"]).succeeds();
    server.cli(&["work", "jobs", "--exec", "cat", "--max", "1"]).succeeds();
    server.kill()
}

#[test]
fn a_log_is_verified_and_printed() {
    let home = worked_on();
    let data = data(&home);
    let verified = relaymesh(&["log", "verify", &data]).succeeds();
    assert!(verified.contains("publish 5") && verified.contains("000000000001.seg"), "{verified}");
    let verified = relaymesh(&["log", "verify", "--data-dir", &data, "--json"]).succeeds();
    let verified: Value = serde_json::from_str(&verified).expect("JSON");
    assert_eq!((&verified["ok"], &verified["records_by_kind"]["publish"]), (&true.into(), &5.into()));

    let all = relaymesh(&["log", "dump", &data]).succeeds();
    assert_eq!(all.lines().count() as u64, verified["records"].as_u64().expect("a number"), "{all}");
    assert!(all.contains("queue=jobs") && all.contains("queue=device/d1"), "{all}");
    assert!(!all.contains("three"), "payloads are not printed: {all}");

    let jobs = relaymesh(&["log", "dump", &data, "--queue", "jobs", "--payloads", "--json"]).succeeds();
    let jobs = json_lines(&jobs);
    let kinds: Vec<&str> = jobs.iter().map(|row| row["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "publish").count(), 3, "{kinds:?}");
    assert!(kinds.contains(&"leased") && kinds.contains(&"done"), "{kinds:?}");
    let message = &jobs[0]["messages"][0];
    assert_eq!((&message["payload_text"], &message["attributes"]["color"]), (&"one".into(), &"blue".into()));
    let mailbox = relaymesh(&["log", "dump", &data, "--queue", "device/d1", "--json"]).succeeds();
    assert_eq!(json_lines(&mailbox)[0]["kind"], "publish");
    assert!(json_lines(&mailbox)[0]["messages"][0]["bytes"].as_u64() > Some(4));
    let delayed =
        relaymesh(&["log", "dump", &data, "--kind", "publish", "--queue", "other", "--json"]).succeeds();
    assert_eq!(json_lines(&delayed)[0]["messages"][0]["delay_ms"], 3_600_000);
    for nothing in [["--segment", "2"], ["--queue", "nosuch"]] {
        let ended = relaymesh(&[&["log", "dump", &data], &nothing[..]].concat()).run();
        assert!(ended.status.success() && ended.stdout.is_empty(), "{ended:#?}");
        assert!(ended.stderr.contains("no record matches"), "{ended:#?}");
    }
    let refused = relaymesh(&["log", "dump", &data, "--kind", "nonsense"]).fails();
    assert!(refused.contains("publish") && refused.contains("snapshot"), "it names what there is: {refused}");

    let upgraded = relaymesh(&["log", "upgrade", &data]).succeeds();
    assert!(upgraded.contains("nothing to do"), "{upgraded}");
}

#[test]
fn a_directory_in_use_or_without_a_log_is_refused() {
    let server = Server::start();
    let path = data(server.home());
    for verb in ["verify", "dump", "upgrade"] {
        let refused = relaymesh(&["log", verb, &path]).fails();
        assert!(refused.contains(&format!("pid {}", server.id())), "{verb}: {refused}");
        let nowhere = server.home().path().join("nowhere");
        let refused = relaymesh(&["log", verb, &nowhere.display().to_string()]).fails();
        assert!(refused.contains("nowhere is not the data directory"), "{verb}: {refused}");
        assert!(!nowhere.exists(), "{verb} makes nothing");
    }
    server.publish("jobs", "still served", &[]);
}

#[test]
fn a_directory_that_is_none_or_another_is_told_from_a_damage() {
    let home = worked_on();
    let log = home.data().join("log");
    let told = relaymesh(&["log", "verify", &log.display().to_string()]).fails();
    assert!(told.contains("is not the data directory") && told.contains("/data may be it"), "{told}");
    let file = home.file("data/notes", "a file").display().to_string();
    let told = relaymesh(&["log", "verify", &file]).fails();
    assert!(told.contains("name a directory, not a file"), "{told}");
    assert_eq!(told.matches("os error").count(), 1, "{told}");
    fs::rename(home.data().join("notes"), log.join("notes")).expect("both are there");
    fs::remove_file(home.data().join("lock")).expect("it is there");
    let told = relaymesh(&["log", "verify", &data(&home)]).fails();
    assert!(told.contains("did not make") && !told.contains("damaged"), "{told}");
    assert!(!home.data().join("lock").exists(), "nothing is made");
    fs::remove_file(log.join("notes")).expect("it is there");
    relaymesh(&["log", "verify", &data(&home)]).succeeds();
    assert_eq!(home.serve().stat("jobs", "ready"), 2);
}

/// The file of a segment.
fn segment(home: &Home, number: u64) -> PathBuf {
    home.data().join("log").join(format!("{number:012}.seg"))
}

fn flip(home: &Home, number: u64, offset: usize) {
    let mut bytes = fs::read(segment(home, number)).expect("the segment is there");
    bytes[offset] ^= 4;
    fs::write(segment(home, number), bytes).expect("the segment can be written");
}

#[test]
fn every_damage_is_named_with_its_place_and_what_is_sound_is_printed() {
    let home = worked_on();
    let data = data(&home);
    let rows = json_lines(&relaymesh(&["log", "dump", &data, "--kind", "publish", "--json"]).succeeds());
    let offset = |row: usize| rows[row]["offset"].as_u64().expect("a number") as usize;
    flip(&home, 1, offset(1) + 8 + 20);
    flip(&home, 1, offset(3) + 8 + 20);
    let ended = relaymesh(&["log", "verify", &data]).run();
    assert!(!ended.status.success());
    for row in [1, 3] {
        let place = format!("000000000001.seg at byte {}", offset(row));
        assert!(ended.stdout.contains(&place), "{place}: {ended:#?}");
    }
    assert!(ended.stderr.contains("2 places"), "{ended:#?}");
    let ended = relaymesh(&["log", "verify", &data, "--json"]).run();
    assert!(!ended.status.success());
    let verified: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(verified["damages"][0]["offset"], offset(1));
    let ended = relaymesh(&["log", "dump", &data, "--kind", "publish", "--json"]).run();
    assert!(!ended.status.success() && ended.stderr.contains("does not match its checksum"), "{ended:#?}");
    let left = json_lines(&ended.stdout);
    assert_eq!(left.len(), 3, "what is sound is there");
    assert_eq!((&left[0]["behind_a_break"], &left[1]["behind_a_break"]), (&Value::Null, &true.into()));
    assert!(relaymesh(&["log", "upgrade", &data, "--force"]).fails().contains("damaged"));
    let refused = home.serve_refused();
    let named = format!("the log in {data}/log: 000000000001.seg is damaged");
    assert!(refused.stderr.contains(&named), "{refused:#?}");
    // Put right again it is as before.
    flip(&home, 1, offset(1) + 8 + 20);
    flip(&home, 1, offset(3) + 8 + 20);
    relaymesh(&["log", "verify", &data]).succeeds();
    assert_eq!(home.serve().stat("jobs", "ready"), 2);
}

#[test]
fn what_was_never_durable_is_no_damage_but_told() {
    let home = worked_on();
    let data = data(&home);
    let verified = relaymesh(&["log", "verify", &data, "--json"]).succeeds();
    let verified: Value = serde_json::from_str(&verified).expect("JSON");
    let end = verified["end"]["offset"].as_u64().expect("a number") as usize;
    // The last batch, as a power loss may leave it: its first sector is there.
    flip(&home, 1, end - 4096 + 100);
    let torn = relaymesh(&["log", "verify", &data]).succeeds();
    assert!(torn.contains(&format!("from byte {}", end - 4096)) && torn.contains("cut off"), "{torn}");
    let server = home.serve();
    assert!(server.log().contains("cut off"), "{}", server.log());
}

#[test]
fn a_damage_that_a_start_does_not_read_ends_the_server_when_it_does() {
    let server = Server::start();
    let (mut wire, _) = Wire::welcome(server.listen, "p");
    for number in 0..480_u32 {
        wire.publish("jobs", &[&vec![number as u8; 100_000]]);
    }
    let checkpoint = server.home().data().join("log/000000000001.heads");
    eventually("the first segment has a checkpoint", || checkpoint.exists());
    server.terminate();
    let home = server.home().clone();
    server.wait();
    let data = data(&home);
    flip(&home, 1, 100_000);
    let verified = relaymesh(&["log", "verify", &data]).fails();
    for part in ["a start does not read that far", "log dump"] {
        assert!(verified.contains(part), "{part}: {verified}");
    }
    let server = home.serve();
    let (mut worker, _) = Wire::welcome(server.listen, "w");
    worker.subscribe(1, "jobs", 10);
    let ended = server.wait();
    let place = format!("the log in {data}/log: 000000000001.seg is damaged");
    for part in [&*place, "restore the directory", "log dump", "A start alone does not help"] {
        assert!(ended.stderr.contains(part), "{part}: {ended:#?}");
    }
    assert!(!ended.stderr.contains("Look at the disk"), "{ended:#?}");
}

#[test]
fn after_a_clean_stop_damage_in_the_last_message_is_no_unfinished_write() {
    let server = Server::start();
    server.publish("jobs", "the last one", &[]);
    server.terminate();
    let home = server.home().clone();
    assert!(server.wait().status.success());
    let bytes = fs::read(segment(&home, 1)).expect("the segment is there");
    let at = bytes.windows(12).position(|found| found == b"the last one").expect("it is there");
    flip(&home, 1, at);
    assert!(home.serve_refused().stderr.contains("000000000001.seg is damaged"));
    relaymesh(&["log", "verify", &data(&home)]).fails();
    flip(&home, 1, at);
    assert_eq!(home.serve().stat("jobs", "ready"), 1);
}

#[test]
fn a_log_that_is_gone_is_told() {
    let home = worked_on();
    let server = home.serve();
    assert!(!server.log().contains("its log is gone"), "{}", server.log());
    let home = server.kill();
    fs::remove_dir_all(home.data().join("log")).expect("it is there");
    let server = home.serve();
    assert!(server.log().contains("its log is gone"), "{}", server.log());
}

/// A hundred messages of 100 KB in segments of 4 MiB, most of them acked: the payloads that are left.
fn backlog() -> (Home, Vec<Vec<u8>>) {
    let server = Server::start();
    let (mut wire, _) = Wire::welcome(server.listen, "p");
    let body = |number: u32| [&number.to_le_bytes()[..], &vec![number as u8; 100_000]].concat();
    for number in 0..120 {
        wire.publish("jobs", &[&body(number)]);
    }
    let (mut worker, _) = Wire::welcome(server.listen, "w");
    worker.subscribe(1, "jobs", 120);
    let mut left = Vec::new();
    for delivery in worker.deliveries(120) {
        let body = payload(&delivery);
        if body[0].is_multiple_of(4) {
            left.push(body);
        } else {
            assert_eq!(worker.ack(&[delivery.lease.expect("a lease")]), []);
        }
    }
    left.sort();
    (server.kill(), left)
}

fn take_all(server: &Server, count: usize) -> Vec<Vec<u8>> {
    let (mut worker, _) = Wire::welcome(server.listen, "w2");
    worker.subscribe(1, "jobs", 200);
    let mut found: Vec<_> = worker.deliveries(count).iter().map(payload).collect();
    assert!(worker.delivery_within(Duration::from_millis(200)).is_none(), "no more than those");
    found.sort();
    found
}

#[test]
fn an_upgrade_writes_all_that_lives_anew_however_often_it_is_killed() {
    let (home, left) = backlog();
    let data = data(&home);
    let mut seed = fastrand::Rng::with_seed(1);
    for _ in 0..6 {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_relaymesh"));
        let mut upgrade = Process::start(command.args(["log", "upgrade", &data, "--force"]));
        std::thread::sleep(Duration::from_millis(seed.u64(0..60)));
        upgrade.kill();
        relaymesh(&["log", "verify", &data]).succeeds();
    }
    let upgraded = relaymesh(&["log", "upgrade", &data, "--force", "--json"]).succeeds();
    let upgraded: Value = serde_json::from_str(&upgraded).expect("JSON");
    assert_eq!(upgraded["upgraded"], true);
    assert_eq!(upgraded["after"]["older_records"], 0);
    let dumped = json_lines(&relaymesh(&["log", "dump", &data, "--queue", "jobs", "--json"]).succeeds());
    let snapshots = dumped.iter().filter(|row| row["kind"] == "snapshot").count();
    assert_eq!((snapshots, dumped.len()), (left.len(), left.len()), "only what lives, each once");
    assert!(upgraded["after"]["data_bytes"].as_u64() < Some(left.len() as u64 * 100_000 + SEGMENT as u64));
    let server = home.serve();
    assert_eq!(server.stat("jobs", "ready"), left.len() as u64);
    assert!(take_all(&server, left.len()) == left, "the messages that were left, byte for byte");
    server.terminate();
    assert!(server.wait().status.success());
    relaymesh(&["log", "verify", &data]).succeeds();
}

/// Puts a record at the end of a log, as another version of the server may have.
fn append(home: &Home, record: &[u8]) {
    let storage = DiskStorage::open(&home.data(), Durability::Sync).expect("nobody has it");
    let config = LogConfig { segment_bytes: SEGMENT as u64, seed: 1, durability: Durability::Sync };
    let (mut log, _) = Log::recover(&storage, config, &mut |_, _| {}).expect("it is sound");
    log.append(&[record]);
    while let Some(batch) = log.seal() {
        batch.write().expect("the disk has room");
        log.batch_done(batch);
    }
}

#[test]
fn what_an_older_version_wrote_is_written_anew() {
    let home = worked_on();
    let data = data(&home);
    // A snapshot of the first version: message 100 on the queue `jobs`, whose payload is `old`.
    let start = [10 | 1 << 5, 100, 8, 0, 1, 0, 0, 4, 0, 0, 0, 0, 0, 0];
    let body = [10, 3, b'o', b'l', b'd'];
    append(&home, &[&start[..], b"\x07default\x04jobs", &[body.len() as u8], &body].concat());
    let upgraded = relaymesh(&["log", "upgrade", &data]).succeeds();
    assert!(upgraded.contains("1 record and 0 segments of those were of an older version"), "{upgraded}");
    assert!(relaymesh(&["log", "upgrade", &data]).succeeds().contains("nothing to do"));
    let server = home.serve();
    assert_eq!(take_all(&server, 3), [&b"old"[..], b"three", b"two"]);
}
