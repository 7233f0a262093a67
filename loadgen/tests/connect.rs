//! `loadgen connect` through the binary, against the built server.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Server, loadgen, stderr};
use tempfile::TempDir;

#[test]
fn sessions_are_held_and_their_account_is_written() {
    let server = Server::start(&[]);
    let pid = server.process.id().to_string();
    for source in [["--server-pid", &pid], ["--admin", &server.admin]] {
        let plot = server.data.path().join("plot.svg");
        let mut arguments = vec!["--connections", "300", "--hold", "2500ms", "--heartbeat", "1s"];
        arguments.extend(["--plot", plot.to_str().unwrap()]);
        arguments.extend(source);
        let (output, told) = server.connect(&arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(told["established"], 300, "{told}");
        for none in ["failed", "retried", "lost", "missed_heartbeats", "delivered"] {
            assert_eq!(told[none], 0, "{none}: {told}");
        }
        let heartbeats = told["count"].as_u64().unwrap();
        assert!((600..=900).contains(&heartbeats), "each session has one a second: {told}");
        let number = |name: &str| told[name].as_f64().unwrap_or_else(|| panic!("{name} is a number: {told}"));
        assert!(number("handshakes_per_s") > 0.0 && number("cpu_us_per_heartbeat") > 0.0, "{told}");
        for tells_some in ["rss_bytes_per_session", "kernel_bytes_per_session"] {
            number(tells_some);
        }
        let percentiles = ["p50", "p90", "p99", "p999", "max"].map(|name| &told["heartbeat_rtt_us"][name]);
        let percentiles = percentiles.map(|us| us.as_u64().unwrap());
        assert!(percentiles.is_sorted() && percentiles[0] > 0, "{told}");
        let drawn = std::fs::read_to_string(&plot).unwrap();
        assert_eq!(drawn.matches("<polyline").count(), 5, "sessions, both memories, both delays: {drawn}");
    }
}

/// A limit on descriptors that is far below the sessions: each thread has a table of its own.
#[test]
#[cfg(target_os = "linux")]
fn sessions_beyond_one_descriptor_table_are_shared_out() {
    let server = Server::start(&[]);
    let json = server.data.path().join("result.json");
    let run = format!(
        "ulimit -n 100 && exec {} connect --connect {} --connections 400 --hold 200ms --quiet --json {}",
        env!("CARGO_BIN_EXE_loadgen"),
        server.listen,
        json.display()
    );
    let output = Command::new("sh").args(["-c", &run]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!((&told["established"], &told["failed"]), (&400.into(), &0.into()), "{told}");
    assert_eq!(told["threads"], 6, "{told}");
}

#[test]
fn connections_that_are_refused_are_reported_and_the_others_held() {
    let server = Server::start(&["--max-sessions", "50"]);
    let arguments = ["--connections", "80", "--retries", "0", "--hold", "1500ms", "--heartbeat", "1s"];
    let (output, told) = server.connect(&arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!((&told["established"], &told["failed"]), (&50.into(), &30.into()), "{told}");
    assert_eq!(told["missed_heartbeats"], 0, "{told}");
    assert!(told["count"].as_u64().unwrap() >= 50, "those that were welcomed are held: {told}");
    let reasons = told["reasons"].as_object().unwrap();
    assert_eq!(reasons.values().map(|times| times.as_u64().unwrap()).sum::<u64>(), 30, "{told}");
    assert!(reasons.keys().all(|reason| reason.starts_with("refused: ")), "{told}");
}

#[test]
fn sessions_that_a_dying_server_takes_along_are_lost_and_the_run_goes_on() {
    let mut server = Server::start(&[]);
    let json = server.data.path().join("result.json");
    let run = loadgen()
        .args([
            "connect",
            "--connect",
            &server.listen,
            "--connections",
            "60",
            "--hold",
            "10m",
            "--heartbeat",
            "1s",
        ])
        .args(["--quiet", "--json"])
        .arg(&json)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    server.await_live(60);
    server.process.kill().unwrap();
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(
        (&told["established"], &told["failed"], &told["lost"]),
        (&60.into(), &0.into(), &60.into()),
        "{told}"
    );
    assert!(told["reasons"].as_object().unwrap().keys().all(|reason| reason.starts_with("lost: ")), "{told}");
}

#[test]
fn without_a_server_one_line_says_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let json = TempDir::with_prefix("loadgen-test-").unwrap();
    let output = loadgen()
        .args(["connect", "--connections", "3", "--retries", "1", "--connect", &nobody.to_string(), "--json"])
        .arg(json.path().join("result.json"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("loadgen: none of 3 sessions was established: "), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    let told = std::fs::read_to_string(json.path().join("result.json")).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["failed"], &told["retried"]), (&3.into(), &3.into()), "{told}");

    let output = loadgen().args(["echo", "--connect", &nobody.to_string()]).output().unwrap();
    let said = stderr(&output);
    assert!(said.starts_with("loadgen: connection ") && said.trim_end().lines().count() == 1, "{said}");
}

#[test]
fn sessions_that_fall_silent_are_detected_at_their_deadline_and_counted_by_themselves() {
    let server = Server::start(&["--loops", "2"]);
    let arguments = ["--connections", "200", "--heartbeat", "2s", "--hold", "9s", "--fall-silent", "100"];
    let (output, told) = server.connect(&arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(told["established"], 200, "{told}");
    for none in ["failed", "retried", "lost", "missed_heartbeats"] {
        assert_eq!(told[none], 0, "{none}: {told}");
    }
    assert_eq!(told["reasons"].as_object().map(serde_json::Map::len), Some(0), "{told}");
    let silent = &told["fall_silent"];
    for (name, value) in
        [("wanted", 100), ("detected", 100), ("undetected", 0), ("early", 0), ("deadline_ms", 6000)]
    {
        assert_eq!(silent[name], value, "{name}: {told}");
    }
    let percent = ["p50", "p99", "max"].map(|name| silent["lateness_percent"][name].as_f64().unwrap());
    // The goal is 10, on a machine that is not also busy with other tests.
    assert!(percent.is_sorted() && percent[2] < 50.0, "{told}");
    let beats = told["count"].as_u64().unwrap();
    assert!((300..=550).contains(&beats), "half of them go on for four heartbeats and a half each: {told}");
}

#[test]
fn a_hold_too_short_for_silent_sessions_is_refused_with_the_one_that_is_needed() {
    let server = Server::start(&["--loops", "1"]);
    let refused = |heartbeat: &str, hold: &str, silent: &str| {
        let arguments =
            ["--connections", "5", "--heartbeat", heartbeat, "--hold", hold, "--fall-silent", silent];
        let (output, _) = server.connect(&arguments);
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let said = refused("60s", "30s", "1");
    assert!(said.contains("--hold 30s is too short") && said.contains("--hold 3m 18s"), "{said}");
    // What was agreed on says it where nothing was asked for: 30 s.
    let said = refused("0s", "30s", "1");
    assert!(said.contains("heartbeat of 30s") && said.contains("--hold 1m 39s"), "{said}");
    let said = refused("1s", "1m", "6");
    assert!(said.contains("only 5 sessions"), "{said}");
}

#[test]
fn broadcasts_to_held_sessions_are_measured_where_they_arrive() {
    let server = Server::start(&["--loops", "2"]);
    let held = server.data.path().join("held.json");
    let mut holding = loadgen()
        .args(["connect", "--connect", &server.listen, "--topic", "news", "--json"])
        .arg(&held)
        .args(["--connections", "200", "--hold", "5s", "--heartbeat", "1s"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("loadgen starts");
    // From here on it counts what its sessions hear.
    let mut said = BufReader::new(holding.stdout.take().expect("it was piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it says something");
    assert_eq!(line, "200 sessions are there\n");
    let told = server.data.path().join("told.json");
    let broadcast = |arguments: &[&str]| -> Value {
        let output = loadgen()
            .args(["broadcast", "--connect", &server.listen, "--quiet", "--topic", "news", "--json"])
            .arg(&told)
            .args(arguments)
            .output()
            .expect("loadgen starts");
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str(&std::fs::read_to_string(&told).unwrap()).unwrap()
    };
    let sent = broadcast(&["--count", "5", "--rate", "20", "--size", "200"]);
    assert_eq!((&sent["count"], &sent["subscribers"]), (&5.into(), &200.into()), "{sent}");
    let per_s = sent["per_s"].as_f64().unwrap();
    assert!(per_s < 30.0, "no faster than the rate: {sent}");
    std::io::copy(&mut said, &mut std::io::sink()).expect("it is read to its end");
    assert!(holding.wait().expect("it ends").success());
    let held: Value = serde_json::from_str(&std::fs::read_to_string(&held).unwrap()).unwrap();
    let heard = &held["broadcast"];
    let number = |name: &str| heard[name].as_u64().unwrap_or_else(|| panic!("{name}: {held}"));
    assert_eq!(number("broadcasts"), 5, "{held}");
    assert_eq!((number("fewest"), number("most")), (200, 200), "{held}");
    assert_eq!(number("deliveries"), 200 * number("broadcasts"), "{held}");
    assert!(heard["per_s"].as_f64().unwrap() > 0.0, "{held}");
    let delay = |name: &str| heard["delay_us"][name].as_u64().unwrap();
    assert!(delay("p50") > 0 && delay("p50") <= delay("p99"), "{held}");
    assert!(number("last_us") < 60_000_000, "{held}");
    let meanwhile = &held["broadcast_heartbeat_rtt_us"];
    assert!(meanwhile["count"].as_u64().unwrap() <= held["count"].as_u64().unwrap(), "{held}");
    assert!(
        meanwhile["max"].as_u64().unwrap() <= held["heartbeat_rtt_us"]["max"].as_u64().unwrap(),
        "{held}"
    );
    assert_eq!((&held["missed_heartbeats"], &held["lost"]), (&0.into(), &0.into()), "{held}");
}
