//! `loadgen storm` through the binary, which starts the built server itself.
//!
//! The server is the `relaymesh` beside the built `loadgen`: `cargo test --workspace` has built it,
//! `cargo build --bin relaymesh` does too.

use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Runs a storm with 200 sessions; returns how it ended and what it wrote as JSON.
fn storm(arguments: &[&str]) -> (Output, Value) {
    let directory = TempDir::with_prefix("loadgen-test-").expect("a temporary directory can be made");
    let json = directory.path().join("result.json");
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .args(["storm", "--connections", "200", "--rate", "50", "--calm", "100ms", "--quiet", "--json"])
        .arg(&json)
        .args(arguments)
        .output()
        .expect("loadgen starts");
    let text = std::fs::read_to_string(&json).unwrap_or_default();
    (output, serde_json::from_str(&text).unwrap_or_default())
}

fn check(storm: &Value, policy: &str) {
    assert_eq!((&storm["policy"], &storm["sessions_back"]), (&policy.into(), &200.into()), "{storm}");
    let seconds = |name: &str| storm[name].as_f64().unwrap_or_else(|| panic!("{name} is a number: {storm}"));
    assert!(seconds("all_back_s") >= seconds("listening_s") && seconds("server_cpu_s") > 0.0, "{storm}");
    let traffic = &storm["traffic"];
    assert_eq!(traffic["lost"], 0, "{storm}");
    assert!(traffic["delivered"].as_u64() > Some(0), "{storm}");
    // Whoever publishes through a server that is away waits for it.
    assert!(traffic["deliver_us"]["max"].as_u64() > Some(100_000), "{storm}");
}

#[test]
fn all_come_back_from_a_kill_by_every_policy_and_nothing_is_lost() {
    let (output, told) = storm(&["--kill", "--policy", "all", "--down", "300ms"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&told["connections"], &told["lost_messages"]), (&200.into(), &0.into()), "{told}");
    let storms = told["storms"].as_array().unwrap();
    for (storm, policy) in storms.iter().zip(["slots", "jitter", "none"]) {
        check(storm, policy);
    }
    let mean = |storm: &Value| storm["failed_attempts"]["mean"].as_f64().unwrap();
    assert_eq!(storms.len(), 3);
    assert!(mean(&storms[2]) > 3.0 && mean(&storms[2]) > mean(&storms[0]), "who does not wait fails: {told}");
    for line in ["0 lost messages", "slots ", "jitter ", "none "] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn all_come_back_from_a_drain() {
    let (output, told) = storm(&["--drain", "--policy", "slots"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check(&told["storms"][0], "slots");
    assert_eq!((&told["ending"], &told["lost_messages"]), (&"drained".into(), &0.into()), "{told}");
}

#[test]
fn a_server_that_is_not_there_or_ends_at_once_is_told_in_a_line() {
    for arguments in [&["--server-bin", "/nowhere/relaymesh"][..], &["--server-args", "--loops many"]] {
        let (output, _) = storm(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.starts_with("loadgen: "), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
}
