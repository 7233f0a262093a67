//! Dead letters through the built binary: what kills its worker, how attempts are told, searches, redrives at a rate,
//! retention, and the topic that tells of them.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::eventually;
use support::http;
use support::server::{Home, Server};

/// Retries that a test can wait for, and sessions that end as soon as their connection does.
const QUICK: &str = "[queue]\nlease = \"1h\"\nbackoff_initial = \"20ms\"\nbackoff_max = \"40ms\"\n[session]\ngrace = \"0s\"\n";

fn rows(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let rows = server.json(&[&["dead", "ls"], arguments].concat());
    rows["dead"].as_array().cloned().unwrap_or_else(|| panic!("{rows}"))
}

fn ids(rows: &[Value]) -> Vec<u64> {
    rows.iter().filter_map(|row| row["id"].as_u64()).collect()
}

/// Messages that were published to `queue` die, each with its payload as the error.
fn kill_all(server: &Server, queue: &str, count: u64) {
    let worker = server.cli(&["work", queue, "--exec", "cat >&2; exit 1"]).start();
    eventually("all are dead", || server.stat(queue, "dead") == count);
    drop(worker);
}

#[test]
fn a_message_that_kills_its_worker_ends_as_a_dead_letter_with_every_attempt() {
    let server = Home::new().config(QUICK).serve();
    let id = server.publish("jobs", "poison", &["--attempts", "2", "--attr", "kind=bad"]);
    for attempt in 1..=2 {
        // The command ends the one that runs it, which has no chance to say so.
        let worker = server.cli(&["work", "jobs", "--exec", "sleep 0.1; kill -9 $PPID"]).run();
        assert!(!worker.status.success(), "attempt {attempt}: {worker:#?}");
    }
    eventually("it is dead", || server.stat("jobs", "dead") == 1);
    let row = rows(&server, &["jobs"]).remove(0);
    assert_eq!((row["reason"].as_str(), row["attempts"].as_u64()), (Some("attempts"), Some(2)), "{row}");
    let history = row["history"].as_array().cloned().unwrap_or_default();
    assert_eq!(history.len(), 2, "{row}");
    for attempt in &history {
        assert!(attempt["error"].as_str().is_some_and(|error| error.contains("did not come back")), "{row}");
        assert!(attempt["lasted_ms"].as_u64().is_some_and(|ms| (100..30_000).contains(&ms)), "{row}");
        assert!(attempt["client"].as_str().is_some_and(|client| !client.is_empty()), "{row}");
    }
    // It is told the same after the server was killed.
    let home = server.kill();
    let server = home.serve();
    assert_eq!(rows(&server, &["jobs"])[0]["history"], row["history"]);
    let shown = server.cli(&["dead", "show", "jobs", "--id", &id.to_string()]).succeeds();
    assert!(shown.contains(" ms  ") && shown.contains("kind=bad") && shown.contains("poison"), "{shown}");
}

#[test]
fn a_command_rejects_a_message_by_its_exit_code() {
    let server = Home::new().config(QUICK).serve();
    let id = server.publish("jobs", "hopeless", &["--attempts", "5"]);
    let command = ["--exec", "echo no such order >&2; exit 65", "--reject-on", "65", "--reject-on", "66"];
    let said = server.cli(&[&["work", "jobs", "--max", "1"], &command[..]].concat()).run();
    assert!(said.status.success() && said.stderr.contains("is rejected: exit code 65"), "{said:#?}");
    let row = rows(&server, &["jobs", "--reason", "rejected"]).remove(0);
    assert_eq!((row["id"].as_u64(), row["attempts"].as_u64()), (Some(id), Some(1)), "{row}");
    assert_eq!(row["last_error"], "exit code 65: no such order", "{row}");

    let id = server.publish("other", "later", &[]);
    let next = ["work", "other", "--max", "1", "--publish-to", "next", "--exec"];
    server.cli(&[&next[..], &["exit 65", "--reject-on", "65"]].concat()).succeeds();
    assert_eq!(ids(&rows(&server, &["other", "--reason", "rejected"])), [id]);
    server.publish("third", "x", &["--attempts", "5"]);
    server.cli(&["work", "third", "--max", "1", "--exec", "exit 64", "--reject-on", "65"]).succeeds();
    assert_eq!(server.stat("third", "dead"), 0, "another code is a failure like any other");
}

#[test]
fn an_attempt_that_the_servers_end_cut_short_counts_and_is_told() {
    let server = Home::new().config(QUICK).serve();
    server.publish("jobs", "slow", &["--attempts", "2"]);
    let mut worker = server.cli(&["work", "jobs", "--exec", "sleep 60"]).start();
    eventually("it is worked on", || server.stat("jobs", "leased") == 1);
    // The lease's record joins the next commit, which this waits for.
    server.publish("other", "x", &[]);
    let home = server.kill();
    worker.kill();
    let server = home.serve();
    kill_all(&server, "jobs", 1);
    let row = rows(&server, &["jobs"]).remove(0);
    let history = row["history"].as_array().cloned().unwrap_or_default();
    assert_eq!(history.len(), 2, "{row}");
    assert!(history[0]["error"].as_str().is_some_and(|error| error.contains("restarted")), "{row}");
    assert!(history[0]["lasted_ms"].is_null() && history[1]["lasted_ms"].is_u64(), "{row}");
}

#[test]
fn dead_letters_are_searched_and_a_selection_is_redriven_or_purged() {
    let server = Home::new().config(QUICK).serve();
    let publish = |queue: &str, payload: &str, region: &str| {
        let region = format!("region={region}");
        server.publish(queue, payload, &["--attempts", "1", "--attr", &region])
    };
    let first = publish("jobs", "timeout", "north");
    let second = publish("jobs", "no paper", "south");
    let third = publish("jobs", "timeout", "south");
    let elsewhere = publish("device/d1", "timeout", "north");
    kill_all(&server, "jobs", 3);
    server.publish("brief", "x", &["--ttl", "1ms"]);
    eventually("one expired", || server.stat("brief", "dead") == 1);
    let device = server.cli(&["device", "d1", "--exec", "cat >&2; exit 1"]).start();
    eventually("the device's is dead", || server.stat("device/d1", "dead") == 1);
    drop(device);

    let found = |arguments: &[&str]| ids(&rows(&server, arguments));
    assert_eq!(found(&["jobs", "--attr", "region=south"]), [second, third]);
    assert_eq!(found(&["jobs", "--text", "timeout"]), [first, third]);
    assert_eq!(found(&["--all-queues", "--text", "timeout"]), [first, third, elsewhere]);
    assert_eq!(found(&["--all-queues", "--attr", "region=north"]), [first, elsewhere]);
    assert_eq!(found(&["--all-queues", "--reason", "expired"]).len(), 1);
    assert_eq!(found(&["jobs", "--since", "1h"]).len(), 3);
    assert_eq!(found(&["jobs", "--until", "1h"]).len(), 0);
    let table = server.cli(&["dead", "ls", "--all-queues"]).succeeds();
    assert!(table.contains("QUEUE") && table.contains("device/d1") && table.contains("brief"), "{table}");
    let page = http::get(server.admin, "/api/v1/dead?attr=region%3Dnorth&limit=1").json();
    assert_eq!((page["dead"][0]["id"].as_u64(), page["next"].as_u64()), (Some(first), Some(first)), "{page}");

    // Nothing is changed by leaving something out, or by saying two things.
    server.cli(&["dead", "redrive", "jobs"]).fails();
    server.cli(&["dead", "redrive", "jobs", "--all", "--text", "timeout"]).fails();
    server.cli(&["dead", "ls", "jobs", "--reason", "boredom"]).fails();
    for verb in ["redrive", "purge"] {
        let said = server.cli(&["dead", verb, "jobs", "--text", ""]).fails();
        assert!(said.contains("empty"), "{said}");
        for matching in [r#"{"text":""}"#, r#"{"text":"","reason":"attempts"}"#, r#"{"attr":"=x"}"#, "{}"] {
            let body = format!(r#"{{"queue":"jobs","matching":{matching}}}"#);
            let json = [("content-type", "application/json")];
            let answer = http::post(server.admin, &format!("/api/v1/dead/{verb}"), &json, body.as_bytes());
            assert_eq!(answer.status, 400, "{matching}: {answer:?}");
        }
    }
    assert_eq!(found(&["jobs"]).len(), 3);
    let said = server.cli(&["dead", "redrive", "jobs", "--text", "timeout", "--to", "again"]).succeeds();
    assert!(said.starts_with("2 dead letters"), "{said}");
    assert_eq!((server.stat("again", "ready"), found(&["jobs"])), (2, vec![second]));
    kill_all(&server, "again", 2);
    let (first, third) = (first.to_string(), third.to_string());
    server.cli(&["dead", "purge", "again", "--id", &first, "--id", &third]).succeeds();
    assert_eq!(server.stat("again", "dead"), 0);
    server.cli(&["dead", "purge", "jobs", "--attr", "region=north"]).succeeds();
    assert_eq!(found(&["jobs"]), [second]);
}

/// The server says so without reading it, while the command is at writing it.
#[test]
fn a_selection_that_is_too_large_has_the_servers_answer() {
    let server = Server::start();
    let mut arguments = vec!["dead", "purge", "jobs"];
    (0..30_000).for_each(|_| arguments.extend(["--id", "18446744073709551615"]));
    let said = server.cli(&arguments).fails();
    assert!(!said.contains("cannot reach") && said.contains("65536"), "{said}");
}

#[test]
fn a_redrive_at_a_rate_is_seen_and_cancelled() {
    let server = Home::new().config(QUICK).serve();
    for _ in 0..20 {
        server.publish("jobs", "x", &["--ttl", "1ms"]);
    }
    eventually("all expired", || server.stat("jobs", "dead") == 20);
    let said = server.cli(&["dead", "redrive", "jobs", "--all", "--to", "again", "--rate", "5/s"]).succeeds();
    assert!(said.contains("job 1"), "{said}");
    eventually("some are back", || server.stat("again", "ready") >= 2);
    let listed = server.cli(&["dead", "jobs"]).succeeds();
    assert!(listed.contains("5/s") && listed.contains("of 20") && listed.contains("under way"), "{listed}");
    server.cli(&["dead", "jobs", "--cancel", "1"]).succeeds();
    let back = server.stat("again", "ready");
    assert!(back < 20, "{back} at 5 a second");
    let rows = server.json(&["dead", "jobs"]);
    assert_eq!(rows["jobs"][0]["state"], "cancelled", "{rows}");
    assert_eq!(rows["jobs"][0]["changed"].as_u64(), Some(back), "{rows}");
    let said = server.cli(&["dead", "jobs", "--cancel", "1"]).fails();
    assert!(said.contains("`relaymesh dead jobs`"), "{said}");
    assert_eq!(server.stat("jobs", "dead"), 20 - back);
}

#[test]
fn dead_letters_are_kept_as_long_as_set_and_a_topic_tells_that_they_grow() {
    let server = Home::new().config(QUICK).serve();
    let listener = server.cli(&["device", "watch", "--topic", "$sys.dead", "--max", "1", "--json"]).start();
    server.cli(&["queue", "set", "jobs", "dead_ttl=1s"]).succeeds();
    let (mut told, mut told_to) = (None, 0..1_000_000);
    eventually("the topic tells", || {
        // The listener may not have been there for the first one; another queue begins anew.
        let queue = format!("q{}", told_to.next().unwrap_or_default());
        server.publish(&queue, "x", &["--ttl", "1ms"]);
        told = listener.line_within(Duration::from_millis(500));
        told.is_some()
    });
    let line = told.unwrap_or_default();
    assert!(line.contains("dead_letters_growing") && line.contains("expired"), "{line}");
    let refused = server.cli(&["broadcast", "$sys.dead", "not mine"]).fails();
    assert!(refused.contains("server's own"), "{refused}");
    server.publish("jobs", "x", &["--ttl", "1ms"]);
    eventually("it is dead", || server.stat("jobs", "dead") == 1);
    eventually("it is forgotten", || server.stat("jobs", "dead") == 0);
    let metrics = http::get(server.admin, "/metrics").body;
    let forgotten = metrics.lines().find(|line| line.starts_with("relaymesh_dead_letters_forgotten_total"));
    let count = forgotten.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert_eq!(count, Some(1.0), "{forgotten:?}");
}
