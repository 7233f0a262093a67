//! Schedules, as a person sets them: through the built binary, its HTTP API and a server that is killed.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::cli::relaymesh;
use support::http;
use support::server::Server;
use support::{PATIENCE, eventually};

fn schedules(server: &Server) -> Vec<Value> {
    server.json(&["schedule", "ls"])["schedules"].as_array().cloned().expect("a list of schedules")
}

#[test]
fn a_preview_needs_no_server() {
    let lines = |arguments: &[&str]| -> Vec<String> {
        relaymesh(arguments).succeeds().lines().map(str::to_owned).collect()
    };
    let next = lines(&["schedule", "next", "--cron", "30 8 * * mon-fri", "--tz", "Europe/Berlin", "-n", "7"]);
    assert_eq!(next.len(), 7);
    assert!(next.iter().all(|time| time.contains("T08:30:00+0")), "{next:?}");
    assert!(next.is_sorted(), "{next:?}");
    let refused = relaymesh(&["schedule", "next", "--cron", "0 25 * * *"]).fails();
    assert!(
        refused.contains("field 2") && refused.contains("at character 3") && refused.contains("0 to 23"),
        "{refused}"
    );
    let refused = relaymesh(&["schedule", "next", "--cron", "@daily", "--tz", "Mars"]).fails();
    assert!(refused.contains("Europe/Berlin"), "{refused}");
}

#[test]
fn a_schedule_publishes_through_a_restart_and_tells_when() {
    let server = Server::start();
    let cron = ["--cron", "* * * * * *", "--tz", "Europe/Berlin", "--misfire", "all"];
    let mut add = vec!["schedule", "add", "tick", "jobs", "work", "--attr", "colour=red", "--priority", "9"];
    add.extend(cron);
    let first = server.json(&add)["next_unix_ms"].as_u64().expect("it comes due");
    let said = server.cli(&add).succeeds();
    assert!(said.contains("tick comes due next at 20"), "{said}");
    let done = server.cli(&["work", "jobs", "--exec", "cat; echo", "--max", "2"]).succeeds();
    assert_eq!(done.lines().collect::<Vec<_>>(), ["work", "work"]);

    let home = server.kill();
    std::thread::sleep(Duration::from_secs(3));
    let server = home.serve();
    let killed = schedules(&server)[0]["last_unix_ms"].as_u64().expect("it fired");
    eventually("it fires again", || schedules(&server)[0]["last_unix_ms"].as_u64() > Some(killed));
    server.cli(&["schedule", "pause", "tick"]).succeeds();
    let row = schedules(&server).remove(0);
    assert_eq!((row["paused"].as_bool(), row["next"].is_null()), (Some(true), true), "{row}");
    // One for each second, those that were missed included, and none twice.
    let last = row["last_unix_ms"].as_u64().expect("it fired");
    let waiting = server.stat("jobs", "ready") + server.stat("jobs", "leased");
    assert_eq!(waiting + 2, (last - first) / 1000 + 1, "{row}");
    let listed = server.cli(&["schedule", "ls"]).succeeds();
    assert!(listed.contains("paused") && listed.contains("Europe/Berlin"), "{listed}");

    let next = server.json(&["schedule", "next", "tick", "-n", "3"]);
    assert_eq!(next["next"].as_array().map(Vec::len), Some(3), "{next}");
    let shown = server.json(&["schedule", "show", "tick"]);
    assert_eq!(shown["message"]["payload_text"], "work");
    assert_eq!(shown["message"]["attributes"]["colour"], "red");
    assert_eq!(shown["message"]["priority"], 9);
    server.cli(&["schedule", "rm", "tick"]).succeeds();
    assert_eq!(schedules(&server).len(), 0);
    let refused = server.cli(&["schedule", "rm", "tick"]).fails();
    assert!(refused.contains("tick"), "{refused}");
}

#[test]
fn what_is_set_of_a_schedule_is_shown_and_no_more() {
    let server = Server::start();
    let set = [
        ("--priority", "9", "priority     9"),
        ("--delay", "2s", "delay        2s"),
        ("--ttl", "1h", "ttl          1h"),
        ("--attempts", "7", "attempts     7"),
        ("--lease", "90s", "lease        1m 30s"),
        ("--order-key", "o", "order key    o"),
        ("--fair-key", "f", "fair key     f"),
        ("--retry-delay", "0s", "retry delay  0s"),
        ("--retry-factor", "150", "retry factor 150 %"),
        ("--retry-max", "1m", "retry max    1m"),
        ("--retry-jitter", "0", "retry jitter 0 %"),
        ("--missed-max", "3", "missed max   3"),
    ];
    let add = |name| ["schedule", "add", name, "jobs", "x", "--cron", "@daily", "--paused"];
    let options = set.iter().flat_map(|(option, value, _)| [*option, *value]);
    let all: Vec<&str> = add("all").into_iter().chain(["--misfire", "all"]).chain(options).collect();
    let said = server.cli(&all).succeeds();
    assert!(said.contains("all is paused") && !said.contains(" - "), "{said}");
    let shown = server.cli(&["schedule", "show", "all"]).succeeds();
    for (_, _, line) in set {
        assert!(shown.lines().any(|shown| shown == line), "{line} in {shown}");
    }
    server.cli(&add("plain")).succeeds();
    let shown = server.cli(&["schedule", "show", "plain"]).succeeds();
    let labels: Vec<_> = shown.lines().filter_map(|line| line.split("  ").next()).collect();
    assert_eq!(labels, ["name", "cron", "time zone", "queue", "misfire", "last", "next", "payload"]);
}

#[test]
fn a_full_queue_is_told_and_the_metrics_know_it() {
    let server = Server::start();
    server.cli(&["queue", "set", "jobs", "messages_max=1"]).succeeds();
    server.cli(&["schedule", "add", "tick", "jobs", "x", "--cron", "* * * * * *"]).succeeds();
    eventually("it is held up", || schedules(&server)[0]["held_up"].is_string());
    let listed = server.cli(&["schedule", "ls"]).succeeds();
    assert!(listed.contains("tick is held up: \"jobs\" is full"), "{listed}");
    let metrics = http::get(server.admin, "/metrics").body;
    for line in
        ["relaymesh_schedules 1", "relaymesh_schedules_held_up 1", "relaymesh_schedule_firings_total 1"]
    {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let worker = server.cli(&["work", "jobs", "--exec", "cat; echo", "--max", "3"]).start();
    for _ in 0..3 {
        assert_eq!(worker.next_line(PATIENCE).as_deref(), Some("x"));
    }
}

#[test]
fn what_cannot_be_scheduled_is_refused_in_words() {
    let server = Server::start();
    for (arguments, text) in [
        (["jobs", "x", "--cron", "* * * 13 *"], "field 4"),
        (["jobs", "x", "--cron", "0 0 31 2 *"], "never comes due"),
        (["topic/news", "x", "--cron", "@daily"], "topic"),
        (["jobs", "x", "--cron", "@every5m"], "@daily"),
    ] {
        let mut all = vec!["schedule", "add", "s"];
        all.extend(arguments);
        let refused = server.cli(&all).fails();
        assert!(refused.contains(text), "{text}: {refused}");
    }
    let refused =
        server.cli(&["schedule", "add", "s", "jobs", "x", "--cron", "@daily", "--dedup", "1"]).fails();
    assert!(refused.contains("--dedup"), "{refused}");
    for size in [65_537, 300_000, 20 << 20] {
        let file = server.home().file("large", vec![b'x'; size]);
        let payload = format!("@{}", file.display());
        let refused = server.cli(&["schedule", "add", "s", "jobs", &payload, "--cron", "@daily"]).fails();
        assert!(refused.contains("65536 bytes") && refused.contains("schedule"), "{size}: {refused}");
    }
    let body = br#"{"name":"s","cron":"@daily","queue":"jobs","message":{"attributes":{"schedule":"mine"}}}"#;
    let answer = http::post(server.admin, "/api/v1/schedules", &[("content-type", "application/json")], body);
    assert!(
        answer.json()["error"]["text"].as_str().is_some_and(|text| text.contains("itself")),
        "{answer:?}"
    );
    assert_eq!(schedules(&server).len(), 0);
}
