//! `loadgen push` beside a `connect` that holds the devices, and `publish` and `work` at a rate.

mod support;

use serde_json::Value;
use support::{Server, read_json, stderr};

fn number(told: &Value, name: &str) -> u64 {
    told[name].as_u64().unwrap_or_else(|| panic!("{name} is a number: {told}"))
}

#[test]
fn pushes_reach_devices_that_another_process_holds() {
    let server = Server::start(&[]);
    let holding = server.start_load(
        "connect",
        &["--connections", "50", "--prefix", "device-", "--hold", "5s", "--heartbeat", "1s"],
    );
    server.await_live(50);
    // More for each mailbox than the credit of its device: what is acked makes room.
    let arguments = ["--prefix", "device-", "--devices", "50", "--rate", "1000", "--duration", "2s"];
    let (output, pushed) = server.load("push", &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!((number(&pushed, "count"), number(&pushed, "refused")), (2000, 0), "{pushed}");
    assert!((1.9..60.0).contains(&pushed["elapsed_s"].as_f64().unwrap()), "at its rate: {pushed}");
    assert!(number(&pushed["latency_us"], "p50") > 0, "{pushed}");

    let output = holding.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let held = read_json(&server.json_of("connect"));
    assert_eq!(number(&held, "delivered"), 2000, "{held}");
    assert_eq!(number(&held["push"], "count"), 2000, "each tells when it was due: {held}");
    let percentiles = ["p50", "p90", "p99", "p999", "max"].map(|name| number(&held["push"], name));
    assert!(percentiles.is_sorted() && percentiles[0] > 0, "{held}");
    // A push counts from when it was due on this machine's clock, whatever process sent it.
    assert!(percentiles[4] < 60_000_000, "{held}");
    assert_eq!(number(&held, "missed_heartbeats"), 0, "{held}");
}

#[test]
fn pushes_that_a_full_mailbox_refuses_make_the_run_a_failure() {
    let server = Server::configured("[mailbox]\nmessages_max = 10\n");
    let arguments = ["--prefix", "nobody-", "--devices", "1", "--rate", "100", "--duration", "500ms"];
    let (output, pushed) = server.load("push", &arguments);
    assert_eq!((number(&pushed, "count"), number(&pushed, "refused")), (10, 40), "{pushed}");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("40 of 50 pushes were refused"), "{}", stderr(&output));
}

#[test]
fn work_tells_how_long_messages_at_a_rate_were_under_way() {
    let server = Server::start(&[]);
    let working = server.start_load("work", &["--count", "500"]);
    let (output, published) = server.load("publish", &["--count", "500", "--rate", "500", "--size", "64"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let per_s = published["per_s"].as_f64().unwrap();
    assert!(per_s < 550.0, "no faster than the rate: {published}");
    let output = working.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let worked = read_json(&server.json_of("work"));
    assert!(number(&worked["delivery_us"], "p50") > 0, "{worked}");
    assert!(number(&worked["delivery_us"], "max") < 60_000_000, "{worked}");

    // Without a rate nothing is due, and nothing is told.
    let (output, _) = server.load("publish", &["--count", "10"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (output, worked) = server.load("work", &["--count", "10"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(worked["delivery_us"].is_null(), "{worked}");
}
