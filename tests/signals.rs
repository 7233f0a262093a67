//! Signals and long work, through the built binary: what is in flight is finished or given back, a lease lasts as long as
//! the work on it.

mod support;

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use support::process::Process;
use support::server::{Home, Server};
use support::wire::{Wire, payload};
use support::{PATIENCE, eventually, http};

/// A command that says it has begun, and ends once `gate` is open.
fn gated(gate: &Gate) -> String {
    format!(
        "echo begun $RELAYMESH_ATTEMPT; while [ ! -e {} ]; do sleep 0.05; done; cat; echo",
        gate.0.display()
    )
}

/// A file whose coming ends the commands that wait for it; at the latest with the test, so that none outlives it.
struct Gate(PathBuf);

impl Gate {
    fn of(server: &Server) -> Self {
        Self(server.home().path().join("gate"))
    }

    fn open(&self) {
        fs::write(&self.0, "").expect("a file can be written beside the data");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "");
        // A command that is still there looks every now and then, and then does nothing that anybody waits for.
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

fn line(process: &Process) -> Option<String> {
    process.next_line(PATIENCE)
}

fn finishes_what_it_has_begun(queue: &str, consumer: &[&str], signal: Signal) {
    let server = Server::start();
    let gate = Gate::of(&server);
    server.publish(queue, "first", &[]);
    let command = gated(&gate);
    let consumer = server.cli(&[consumer, &["--exec", &command]].concat()).start();
    assert_eq!(line(&consumer).as_deref(), Some("begun 1"));

    consumer.signal(signal);
    eventually("it takes nothing more", || server.stat(queue, "consumers") == 0);
    server.publish(queue, "second", &[]);
    assert_eq!((server.stat(queue, "leased"), server.stat(queue, "ready")), (1, 1), "the work goes on");
    gate.open();
    assert_eq!(line(&consumer).as_deref(), Some("first"));
    let ended = consumer.wait(PATIENCE);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), ""), "{ended:#?}");
    // Its last answer was confirmed before it ended, and what it had not begun is there for others.
    assert_eq!((server.stat(queue, "leased"), server.stat(queue, "ready")), (0, 1));
}

#[test]
fn work_that_is_told_to_end_finishes_what_it_has_begun() {
    for signal in [Signal::TERM, Signal::INT] {
        finishes_what_it_has_begun("jobs", &["work", "jobs", "--concurrency", "1"], signal);
    }
}

#[test]
fn a_device_that_is_told_to_end_finishes_what_it_has_begun() {
    finishes_what_it_has_begun("device/d1", &["device", "d1"], Signal::TERM);
}

#[test]
fn a_second_signal_ends_work_at_once() {
    let server = Server::start();
    let gate = Gate::of(&server);
    server.publish("jobs", "never done", &[]);
    let mut worker = server.cli(&["work", "jobs", "--exec", &gated(&gate)]).start();
    assert_eq!(line(&worker).as_deref(), Some("begun 1"));
    worker.signal(Signal::TERM);
    eventually("it takes nothing more", || server.stat("jobs", "consumers") == 0);
    worker.signal(Signal::TERM);
    // Its command holds stdout open as long as it lives.
    eventually("it ends", || !worker.is_running());
    gate.open();
    let ended = worker.wait(PATIENCE);
    assert_eq!(ended.status.code(), Some(130), "{ended:#?}");
    assert_eq!(server.stat("jobs", "leased"), 1, "nobody said that it was done");
}

#[test]
fn idle_consumers_end_when_told() {
    let server = Server::start();
    for (queue, consumer) in [("jobs", &["work", "jobs"]), ("device/d1", &["device", "d1"])] {
        for exec in [&[][..], &["--exec", "cat"]] {
            let consumer = server.cli(&[consumer, exec].concat()).start();
            eventually("it waits for messages", || is_consumed(&server, queue));
            consumer.signal(Signal::INT);
            let ended = consumer.wait(PATIENCE);
            assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        }
    }
}

/// Whether somebody waits for the messages of `queue`, shown by one that is printed.
fn is_consumed(server: &Server, queue: &str) -> bool {
    server.publish(queue, "x", &[]);
    eventually("it is taken", || server.stat(queue, "ready") + server.stat(queue, "leased") == 0);
    true
}

/// Work of two and a half leases, with somebody else waiting for the message all the time.
fn keeps_its_lease(queue: &str, consumer: &[&str]) -> bool {
    let server = Home::new().config("[queue]\nlease = \"2s\"\n[log]\nsegment_bytes = 4194304\n").serve();
    server.publish(queue, "long", &[]);
    let command = "echo begun $RELAYMESH_ATTEMPT; sleep 5; cat; echo";
    let consumer = server.cli(&[consumer, &["--exec", command]].concat()).start();
    assert_eq!(line(&consumer).as_deref(), Some("begun 1"));
    let is_kept = line(&consumer).as_deref() == Some("long");
    if is_kept {
        eventually("it is acked", || server.stat(queue, "leased") == 0);
        assert_eq!(server.stat(queue, "ready") + server.stat(queue, "scheduled"), 0);
    }
    is_kept
}

/// A machine that is held up for the second that an extension is early may lose a lease. Not every time.
fn keeps_its_lease_once_in_three(queue: &str, consumer: &[&str]) {
    assert!((0..3).any(|_| keeps_its_lease(queue, consumer)), "the message was delivered again");
}

#[test]
fn work_extends_the_leases_of_commands_that_take_long() {
    // The other place of its two is free for the message, should the lease end.
    keeps_its_lease_once_in_three("jobs", &["work", "jobs", "--concurrency", "2"]);
}

#[test]
fn a_device_extends_the_leases_of_commands_that_take_long() {
    keeps_its_lease_once_in_three("device/d1", &["device", "d1"]);
}

#[test]
fn sigint_drains_a_server_and_a_second_one_ends_it_at_once() {
    let server = Home::new().config("[drain]\nperiod = \"1h\"\n").serve();
    let mut clients: Vec<Wire> = (0..20).map(|n| Wire::welcome(server.listen, &format!("c{n}")).0).collect();
    clients[0].publish("jobs", &[b"kept"]);
    server.signal(Signal::INT);
    eventually("it is not ready any more", || http::get(server.admin, "/readyz").status == 503);
    server.signal(Signal::INT);
    let home = server.home().clone();
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
    let server = home.serve();
    let (mut reader, _) = Wire::welcome(server.listen, "reader");
    reader.subscribe(1, "jobs", 1);
    assert_eq!(payload(&reader.deliveries(1)[0]), b"kept");
}
