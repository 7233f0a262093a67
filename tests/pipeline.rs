//! A pipeline of queues through the built binary: each step acks what it took and publishes what came of it in one, so that
//! nothing is lost or doubled whatever is killed.

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use support::PATIENCE;
use support::process::Process;
use support::server::{Home, Server};

const MESSAGES: usize = 40;
const KILLS: usize = 4;

/// A server at the same address each time, so that workers come back to it.
fn home() -> Home {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let listen = port.expect("there is a free port").to_string();
    Home::new().arguments(&["--listen", &listen])
}

fn step(server: &Server, from: &str, command: &str, to: &str) -> Process {
    let arguments = ["work", from, "--exec", command, "--publish-to", to, "--concurrency", "4"];
    server.cli(&arguments).start()
}

#[test]
fn a_pipeline_neither_loses_nor_doubles_whatever_is_killed() {
    let home = home();
    let mut server = home.serve();
    // A worker that is killed counts as an attempt.
    for queue in ["a", "b"] {
        server.cli(&["queue", "set", queue, "attempts=50"]).succeeds();
    }
    for number in 0..MESSAGES {
        let id = format!("order-{number}");
        for _ in 0..2 {
            // A producer that is not sure says it again.
            server.publish("a", &number.to_string(), &["--dedup", &id]);
        }
    }
    assert_eq!(server.stat("a", "ready"), MESSAGES as u64);
    let steady = step(&server, "b", "sleep 0.02; cat", "c");
    for kill in 0..KILLS {
        let mut worker = step(&server, "a", "sleep 0.02; cat", "b");
        thread::sleep(Duration::from_millis(150 + 90 * kill as u64));
        if kill % 2 == 1 {
            worker.kill();
            server = server.kill().serve();
        } else {
            server = server.kill().serve();
            worker.kill();
        }
    }
    let last = step(&server, "a", "cat", "b");
    let printed = server.cli(&["work", "c", "--max", &MESSAGES.to_string()]).succeeds();
    let numbers: Vec<usize> = printed.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(numbers.len(), MESSAGES, "{printed}");
    assert_eq!(
        numbers.iter().copied().collect::<BTreeSet<_>>(),
        (0..MESSAGES).collect(),
        "each of them once"
    );
    for worker in [steady, last] {
        worker.signal(rustix::process::Signal::TERM);
        let ended = worker.wait(PATIENCE);
        assert!(ended.status.success(), "{ended:#?}");
    }
    for queue in ["a", "b", "c"] {
        for state in ["ready", "leased", "scheduled", "dead"] {
            assert_eq!(server.stat(queue, state), 0, "{queue} {state}");
        }
    }
}

#[test]
fn what_cannot_be_published_is_an_attempt_that_failed() {
    let server = Server::start();
    server.publish("a", "one", &["--attempts", "1"]);
    server.cli(&["queue", "set", "b", "bytes_max=10B"]).succeeds();
    let worker = ["work", "a", "--exec", "seq 1 100", "--publish-to", "b", "--max", "1"];
    server.cli(&worker).succeeds();
    assert_eq!((server.stat("a", "dead"), server.stat("b", "ready")), (1, 0));
    let dead = server.json(&["dead", "ls", "a"]);
    assert!(dead.to_string().contains("cannot publish what came of it"), "{dead}");
}

/// What waits for room in the next queue is not an attempt that failed, whether it waits in the server or comes again, and
/// however much longer than a lease that takes.
#[test]
fn a_full_queue_is_waited_for_and_no_attempt_is_burnt() {
    for when_full in ["wait", "reject"] {
        let server = Server::start();
        server.cli(&["queue", "set", "b", "messages_max=2", &format!("when_full={when_full}")]).succeeds();
        server.cli(&["queue", "set", "a", "lease=600ms", "attempts=1"]).succeeds();
        for full in ["x", "y"] {
            server.publish("b", full, &[]);
        }
        for number in ["1", "2", "3"] {
            server.publish("a", number, &[]);
        }
        let worker = step(&server, "a", "cat", "b");
        // As long as three leases.
        thread::sleep(Duration::from_millis(1800));
        assert_eq!((server.stat("a", "leased"), server.stat("b", "ready")), (3, 2), "{when_full}");
        let printed = server.cli(&["work", "b", "--max", "5"]).succeeds();
        let lines: BTreeSet<&str> = printed.lines().collect();
        assert_eq!(lines, BTreeSet::from(["x", "y", "1", "2", "3"]), "{when_full}");
        assert_eq!(printed.lines().count(), 5, "{when_full}: {printed}");
        assert_eq!((server.stat("a", "dead"), server.stat("a", "leased")), (0, 0), "{when_full}");
        worker.signal(rustix::process::Signal::TERM);
        let ended = worker.wait(PATIENCE);
        assert!(ended.status.success() && !ended.stderr.contains("failed"), "{ended:#?}");
    }
}
