//! `loadgen hostile`: good sessions beside clients that say nothing or never read.

mod support;

use serde_json::Value;
use support::{Server, stderr};

/// Deadlines that are soon over.
const SHORT: &str = "[session]\nhandshake_deadline = \"1s\"\nwrite_stall_deadline = \"2s\"\n";

const SMALL: [&str; 12] = [
    "--good",
    "100",
    "--silent",
    "60",
    "--non-readers",
    "40",
    "--heartbeat",
    "500ms",
    "--before",
    "2s",
    "--ratio-max",
    "1000000",
];

fn counts(told: &Value, kind: &str) -> [u64; 4] {
    ["open", "gone", "early", "left"]
        .map(|name| told[kind][name].as_u64().unwrap_or_else(|| panic!("{told}")))
}

#[test]
fn hostile_clients_are_gone_at_their_deadlines_and_good_ones_stay() {
    let server = Server::configured(SHORT);
    let mut arguments = SMALL.to_vec();
    arguments.extend(["--admin", &server.admin]);
    arguments.extend(["--handshake-deadline", "1s", "--write-stall-deadline", "2s", "--late-max", "25s"]);
    let (output, told) = server.load("hostile", &arguments);
    assert!(output.status.success(), "{} {told}", stderr(&output));
    assert_eq!(counts(&told, "silent"), [60, 60, 0, 0], "{told}");
    assert_eq!(counts(&told, "non_readers"), [40, 40, 0, 0], "{told}");
    let good = &told["good"];
    assert_eq!(
        (&good["established"], &good["lost"], &good["missed_heartbeats"]),
        (&100.into(), &0.into(), &0.into())
    );
    let phases = ["before", "onset", "presence", "silent_end", "non_readers_alone", "non_readers_end"];
    for phase in phases {
        let heartbeats = &told["phases"][phase];
        assert!(heartbeats["count"].is_u64() && heartbeats["p99_ratio"].is_f64(), "{phase}: {told}");
    }
    for phase in ["before", "presence", "non_readers_alone"] {
        assert!(told["phases"][phase]["count"].as_u64().unwrap() >= 50, "{phase}: {told}");
    }
    let each = told["unread_bytes"].as_f64().unwrap() / 40.0;
    assert!(each >= 1000.0, "{each} bytes for each that does not read: {told}");
    assert_eq!(server.metric("relaymesh_connections_closed_total{cause=\"slow\"}"), 40.0);
    assert_eq!(server.metric("relaymesh_handshakes_total{outcome=\"timed_out\"}"), 60.0);
}

#[test]
fn a_server_that_closes_too_early_fails_the_run() {
    let server = Server::configured(SHORT);
    let mut arguments = SMALL.to_vec();
    // It closes at 1 s and 2 s.
    arguments.extend(["--handshake-deadline", "3s", "--write-stall-deadline", "6s"]);
    let (output, told) = server.load("hostile", &arguments);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(counts(&told, "silent"), [60, 0, 60, 0], "{told}");
    assert_eq!(counts(&told, "non_readers"), [40, 0, 40, 0], "{told}");
    assert!(stderr(&output).contains("60 silent were closed before their deadline"), "{}", stderr(&output));
}
