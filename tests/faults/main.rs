//! The real server on a disk that fails: a file system that runs full, a write and a sync that the system refuses.
//!
//! What is promised: a full disk refuses publishes and nothing else, and opens again by itself; any other error ends the
//! process, which says why. Nothing that was answered is ever missing afterwards. The times are printed with
//! `--nocapture`; where a machine does not allow what a test needs, the test says so and passes.

#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use relaymesh::wire::proto::{self, Code, Kind};
use support::cli::relaymesh;
use support::process::{Ended, Process};
use support::server::{Home, Server};
use support::wire::{Arrival, Wire, payload};
use support::{PATIENCE, eventually};

/// What a machine that does other things as well may take for what takes much less than a second.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A payload that names itself and has this many bytes.
fn body(number: u32, len: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(len, number as u8);
    body
}

fn number_of(body: &[u8]) -> u32 {
    u32::from_le_bytes(*body.first_chunk().expect("a payload names itself"))
}

/// Publishes one message; what the server said against it, if anything.
fn publish(wire: &mut Wire, number: u32, len: usize) -> Result<(), proto::Refusal> {
    let seq = wire.send_publish("jobs", &[&body(number, len)]);
    let ack: proto::PublishAck = wire.expect(Kind::PublishAck);
    assert_eq!(ack.seq, seq);
    ack.refusal.map_or(Ok(()), Err)
}

/// All that is left in the queue after a start, each once.
fn left_in(server: &Server, count: u64) -> BTreeSet<u32> {
    let (mut wire, _) = Wire::welcome(server.listen, "the-last-one");
    wire.subscribe(1, "jobs", 10_000);
    let deliveries = wire.deliveries(count as usize);
    let found: BTreeSet<u32> = deliveries.iter().map(|delivery| number_of(&payload(delivery))).collect();
    assert_eq!(found.len(), deliveries.len(), "none is there twice");
    for delivery in &deliveries {
        let body_found = payload(delivery);
        assert_eq!(body_found, body(number_of(&body_found), body_found.len()), "as it was published");
    }
    found
}

/// A file system of its own in memory, gone when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a directory can be made");
        let mounted = Self::run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"], at);
        mounted.then(|| Self(at.to_owned()))
    }

    fn resize(&self, mib: u32) {
        assert!(Self::run("mount", &["-o", &format!("remount,size={mib}m")], &self.0), "it can be enlarged");
    }

    fn run(program: &str, arguments: &[&str], at: &Path) -> bool {
        let mut command = Command::new(program);
        let ended = command.args(arguments).arg(at).stdout(Stdio::null()).stderr(Stdio::null()).status();
        ended.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Self::run("umount", &["--lazy"], &self.0);
    }
}

/// What a test has that says nothing else, on a disk that is used to its last byte: what is refused before that is for
/// `tests/limits.rs`.
const WITHOUT_MARKS: &str = "[queue]\nlease = \"1h\"\n[session]\ngrace = \"1h\"\n[log]\nsegment_bytes = 4194304\n\
                             disk_warn = \"0\"\ndisk_reject = \"0\"\ndisk_stop = \"0\"\n";

#[test]
fn a_full_disk_refuses_publishes_and_nothing_else_and_opens_by_itself() {
    const LEN: usize = 60_000;
    let home = Home::new().config(WITHOUT_MARKS);
    let Some(disk) = SmallDisk::mount(&home.data(), 48) else {
        eprintln!("skipped: a tmpfs may not be mounted here (it takes root)");
        return;
    };
    let server = home.serve();
    let (mut producer, _) = Wire::welcome(server.listen, "producer");
    let mut answered = BTreeSet::new();
    let refusal = loop {
        let number = answered.len() as u32;
        match publish(&mut producer, number, LEN) {
            Ok(()) => assert!(answered.insert(number)),
            Err(refusal) => break refusal,
        }
        assert!(answered.len() * LEN < 48 << 20, "more than the disk has");
    };
    assert_eq!(refusal.code(), Code::DiskFull, "{refusal:?}");
    assert!(refusal.retry_after_ms > 0 && refusal.text.contains("the server's log says"), "{refusal:?}");
    eventually("the server's log says why", || server.log().contains("No space left on device"));
    // Acks go on, far more often than the segments that are left could take as publishes.
    let (mut worker, _) = Wire::welcome(server.listen, "worker");
    worker.subscribe(1, "jobs", 100);
    let deliveries = worker.deliveries(100);
    for delivery in deliveries.iter().step_by(2) {
        assert_eq!(worker.ack(&[delivery.lease.expect("a lease")]), []);
        answered.remove(&number_of(&payload(delivery)));
    }
    assert!(publish(&mut producer, 1_000_000, LEN).is_err(), "still full");

    disk.resize(96);
    let began = Instant::now();
    while let Err(refusal) = publish(&mut producer, 2_000_000, LEN) {
        assert_eq!(refusal.code(), Code::DiskFull, "{refusal:?}");
        assert!(began.elapsed() < AT_ONCE, "it never opens again");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("{} messages, full; open again {:?} after there was space", answered.len(), began.elapsed());
    answered.insert(2_000_000);
    let home = server.kill();
    relaymesh(&["log", "verify", &home.data().display().to_string()]).succeeds();
    let server = home.serve();
    assert_eq!(
        server.stat("jobs", "ready"),
        answered.len() as u64,
        "what was acked is gone, the rest is there"
    );
    assert_eq!(left_in(&server, answered.len() as u64), answered);
    server.kill();
}

#[test]
fn a_disk_without_room_for_the_first_segments_says_so() {
    let home = Home::new();
    let Some(_disk) = SmallDisk::mount(&home.data(), 2) else {
        eprintln!("skipped: a tmpfs may not be mounted here (it takes root)");
        return;
    };
    let refused = home.serve_refused();
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("No space left on device"), "{refused:#?}");
}

/// The library that makes the disk fail, built by the system's C compiler.
fn shim(home: &Home) -> Option<PathBuf> {
    let library = home.path().join("shim.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
    let built = command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !built {
        eprintln!("skipped: there is no C compiler `cc` for the library that makes the disk fail");
    }
    built.then_some(library)
}

/// Publishes until the connection ends; the numbers that were answered, and the one sent last.
fn publish_until_the_end(wire: &mut Wire, mut before_each: impl FnMut(u32)) -> BTreeSet<u32> {
    const IN_FLIGHT: usize = 16;
    let mut answered = BTreeSet::new();
    let mut sent = std::collections::VecDeque::new();
    for number in 0..5_000 {
        before_each(number);
        sent.push_back((wire.send_publish("jobs", &[&body(number, 10_000)]), number));
        while sent.len() >= IN_FLIGHT {
            match wire.read_until(Instant::now() + PATIENCE) {
                Arrival::Frame(frame) if frame.is(Kind::PublishAck) => {
                    let ack: proto::PublishAck = frame.parse(Kind::PublishAck);
                    assert_eq!(ack.refusal, None);
                    for _ in 0..=ack.more {
                        answered.extend(sent.pop_front().map(|sent| sent.1));
                    }
                }
                Arrival::Frame(frame) => assert!(frame.farewell().is_some(), "{}", frame.describe()),
                Arrival::Closed => return answered,
                Arrival::Nothing => panic!("neither an answer nor an end"),
            }
        }
    }
    panic!("the disk never failed");
}

/// The server ended by itself and said why; a start on a sound disk has all that was answered.
fn ended_and_lost_nothing(home: &Home, ended: &Ended, why: &str, answered: &BTreeSet<u32>) {
    assert!(ended.status.code().is_some_and(|code| code != 0), "it ended by itself: {ended:#?}");
    for part in [why, "Input/output error", "Nothing was acknowledged after this"] {
        assert!(ended.stderr.contains(part), "{part}: {ended:#?}");
    }
    assert!(!answered.is_empty());
    let server = home.serve();
    let found = left_in(&server, server.stat("jobs", "ready"));
    assert!(found.is_superset(answered), "{:?} are missing", answered.difference(&found).collect::<Vec<_>>());
    println!("{} answered, {} there after a restart", answered.len(), found.len());
    server.kill();
    relaymesh(&["log", "verify", &home.data().display().to_string()]).succeeds();
}

#[test]
fn a_write_of_a_batch_that_fails_ends_the_server_and_loses_nothing_answered() {
    let home = Home::new();
    let Some(library) = shim(&home) else { return };
    let mut command = home.command();
    command.env("LD_PRELOAD", &library).env("FAULT_BATCH_FROM", (1 << 20).to_string());
    let server = match home.await_ready(Process::start(&mut command)) {
        Ok(server) => server,
        Err(ended) if ended.status.code() == Some(77) => {
            eprintln!("skipped: the system allows no seccomp filter");
            return;
        }
        Err(ended) => panic!("{ended:#?}"),
    };
    if server.log().contains("takes no direct writes") {
        eprintln!("skipped: the temporary directory takes no direct writes");
        return;
    }
    let (mut wire, _) = Wire::welcome(server.listen, "producer");
    let mut last = Instant::now();
    let answered = publish_until_the_end(&mut wire, |_| last = Instant::now());
    let ended = server.wait();
    println!("ended {:?} after the last publish", last.elapsed());
    assert!(last.elapsed() < AT_ONCE);
    ended_and_lost_nothing(&home, &ended, "writing a batch", &answered);
}

#[test]
fn a_sync_that_fails_once_ends_the_server_though_the_next_would_succeed() {
    let home = Home::new().arguments(&["--durability", "interval:20ms"]);
    let Some(library) = shim(&home) else { return };
    let trigger = home.path().join("fail-the-next-sync");
    let mut command = home.command();
    command.env("LD_PRELOAD", &library).env("FAULT_SYNC_ONCE", &trigger).env("FAULT_SYNC_OF", ".seg");
    let server = home.await_ready(Process::start(&mut command)).unwrap_or_else(|ended| panic!("{ended:#?}"));
    let (mut wire, _) = Wire::welcome(server.listen, "producer");
    let mut failed_at = None;
    let answered = publish_until_the_end(&mut wire, |number| {
        if number == 200 {
            std::fs::write(&trigger, "").expect("a file can be written beside the data");
            // Gone once the sync has failed.
            eventually("a sync fails", || !trigger.exists());
            failed_at = Some(Instant::now());
        }
    });
    let ended = server.wait();
    let took = failed_at.expect("the sync failed").elapsed();
    println!("ended {took:?} after the sync failed");
    assert!(took < AT_ONCE);
    // The machine goes on, so what was written is there, whatever the sync says.
    ended_and_lost_nothing(&home, &ended, "syncing", &answered);
}

#[test]
fn a_segment_that_cannot_be_made_is_made_again_and_nothing_ends() {
    let home = Home::new();
    let Some(library) = shim(&home) else { return };
    let trigger = home.path().join("fail-the-next-sync");
    let mut command = home.command();
    command.env("LD_PRELOAD", &library).env("FAULT_SYNC_ONCE", &trigger).env("FAULT_SYNC_OF", ".new");
    let server = home.await_ready(Process::start(&mut command)).unwrap_or_else(|ended| panic!("{ended:#?}"));
    let (mut wire, _) = Wire::welcome(server.listen, "producer");
    let mut answered = BTreeSet::new();
    let (mut failed_at, mut refused) = (None, 0);
    std::fs::write(&trigger, "").expect("a file can be written beside the data");
    // Through several segments: for those that follow the prepared ones others are made.
    for number in 0..300 {
        while let Err(refusal) = publish(&mut wire, number, 60_000) {
            assert_eq!(refusal.code(), Code::DiskFull, "{refusal:?}");
            refused += 1;
            let since: &mut Instant = failed_at.get_or_insert_with(Instant::now);
            assert!(since.elapsed() < AT_ONCE, "it never opens again");
            std::thread::sleep(Duration::from_millis(5));
        }
        answered.insert(number);
    }
    assert!(!trigger.exists(), "a sync failed");
    println!("{refused} times refused, then open again");
    assert!(server.log().contains("Input/output error"), "{}", server.log());
    let home = server.kill();
    relaymesh(&["log", "verify", &home.data().display().to_string()]).succeeds();
    let server = home.serve();
    assert_eq!(left_in(&server, answered.len() as u64), answered);
}

#[test]
fn a_flush_that_fails_once_ends_the_server_and_loses_nothing_answered() {
    let home = Home::new();
    if !relaymesh::host::disk_flushes(home.path()) {
        eprintln!("skipped: the disk of the temporary directory does not flush");
        return;
    }
    let Some(library) = shim(&home) else { return };
    let trigger = home.path().join("fail-the-next-sync");
    let mut command = home.command();
    // The first segment: those that are prepared behind it are synced as well.
    let first = "000000000001.seg";
    command.env("LD_PRELOAD", &library).env("FAULT_SYNC_ONCE", &trigger).env("FAULT_SYNC_OF", first);
    let server = home.await_ready(Process::start(&mut command)).unwrap_or_else(|ended| panic!("{ended:#?}"));
    if server.log().contains("takes no direct writes") {
        eprintln!("skipped: the temporary directory takes no direct writes");
        return;
    }
    let (mut wire, _) = Wire::welcome(server.listen, "producer");
    let mut failed_at = None;
    let answered = publish_until_the_end(&mut wire, |number| {
        if number == 200 {
            std::fs::write(&trigger, "").expect("a file can be written beside the data");
            failed_at = Some(Instant::now());
        }
    });
    let ended = server.wait();
    assert!(!trigger.exists() && failed_at.expect("200 were published").elapsed() < AT_ONCE);
    ended_and_lost_nothing(&home, &ended, "writing a batch", &answered);
}
