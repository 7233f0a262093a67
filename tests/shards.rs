//! A server of several shards: each namespace, and each placement group of one, is in its own shard, and nothing else shows.

mod support;

use support::cli::relaymesh;
use support::server::{Home, Server};
use support::{PATIENCE, eventually, http};

/// One in each of three shards, and a fourth beside the first.
const NAMESPACES: [(&str, u32); 4] = [("default", 0), ("fleet:us", 1), ("fleet:eu", 2), ("fleet", 0)];

fn three() -> Home {
    Home::new().arguments(&["--shards", "3"])
}

fn run(server: &Server, namespace: &str, arguments: &[&str]) -> String {
    server.cli(arguments).env("RELAYMESH_NAMESPACE", namespace).succeeds()
}

#[test]
fn the_same_names_in_different_shards_are_different_queues_and_survive_a_kill() {
    let server = three().serve();
    for (namespace, _) in NAMESPACES {
        run(&server, namespace, &["publish", "jobs", &format!("work of {namespace}")]);
        run(&server, namespace, &["push", "d1", &format!("to {namespace}")]);
        run(&server, namespace, &["publish", "doomed", &format!("bad of {namespace}"), "--attempts", "1"]);
        let nacked = server
            .cli(&["work", "doomed", "--exec", "false", "--max", "1"])
            .env("RELAYMESH_NAMESPACE", namespace);
        nacked.run();
    }
    let server = server.kill().serve();
    for (namespace, shard) in NAMESPACES {
        let queues = run(&server, namespace, &["queue", "ls", "--json"]);
        assert!(queues.contains("jobs") && queues.contains("doomed"), "{namespace}: {queues}");
        let dead = run(&server, namespace, &["dead", "ls", "doomed"]);
        assert!(dead.contains("attempts"), "{namespace}: {dead}");
        let put_back = run(&server, namespace, &["dead", "redrive", "doomed", "--all", "--to", "jobs"]);
        assert!(put_back.contains("1 dead letter"), "{namespace}: {put_back}");
        let worked = run(
            &server,
            namespace,
            &["work", "jobs", "--exec", "cat; echo", "--max", "2", "--concurrency", "1"],
        );
        let lines: Vec<_> = worked.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines, [format!("work of {namespace}"), format!("bad of {namespace}")]);
        let pushed = run(&server, namespace, &["device", "d1", "--max", "1"]);
        assert_eq!(pushed.trim(), format!("to {namespace}"));
        assert!(server.home().data().join(format!("shard-{shard}/log")).is_dir());
        run(&server, namespace, &["publish", "left", "x"]);
    }
    let metrics = http::get(server.admin, "/metrics").body;
    for (namespace, _) in NAMESPACES {
        let row =
            format!("relaymesh_queue_depth{{namespace=\"{namespace}\",queue=\"left\",state=\"ready\"}} 1");
        assert!(metrics.contains(&row), "{row} is missing");
    }
    assert!(metrics.contains("relaymesh_acks_total 12"), "the acks of all shards: {metrics}");
    assert_eq!(http::get(server.admin, "/healthz").status, 200);
}

#[test]
fn topics_of_different_shards_are_told_apart() {
    let server = three().serve();
    let devices: Vec<_> = NAMESPACES
        .map(|(namespace, _)| {
            let device =
                server.cli(&["device", "d1", "--topic", "news"]).env("RELAYMESH_NAMESPACE", namespace);
            (namespace, device.start())
        })
        .into();
    let topics = || {
        let page = http::get(server.admin, "/metrics").body;
        page.contains("relaymesh_buffer_items{buffer=\"topics\"} 4")
    };
    eventually("all devices listen", topics);
    for (namespace, _) in NAMESPACES {
        let told = run(&server, namespace, &["broadcast", "news", &format!("news of {namespace}")]);
        assert_eq!(told.trim(), "1", "{namespace}");
    }
    for (namespace, device) in &devices {
        assert_eq!(device.next_line(PATIENCE).as_deref(), Some(&*format!("news of {namespace}")));
        device.signal(rustix::process::Signal::INT);
    }
    for (namespace, device) in devices {
        assert_eq!(device.next_line(PATIENCE), None, "{namespace} heard what it should not");
    }
    let underway = || {
        let page = http::get(server.admin, "/metrics").body;
        page.contains("relaymesh_buffer_bytes{buffer=\"broadcasts\"} 0")
    };
    eventually("each shard is told that its broadcasts are done", underway);
}

#[test]
fn what_would_cross_shards_is_refused_with_the_remedy() {
    let server = three().serve();
    server.publish("jobs", "one", &[]);
    for arguments in [
        &["publish", ":eu/jobs", "x"][..],
        &["work", "jobs", "--exec", "cat", "--max", "1", "--publish-to", ":eu/next"],
        &["dead", "redrive", "jobs", "--all", "--to", ":eu/jobs"],
        &["topic", "bind", "news", "--to", ":eu/jobs"],
        &["topic", "bind", ":eu/orders.>", "--to", "jobs"],
        &["publish", "topic/:eu/orders.new", "x"],
        &["broadcast", ":eu/news", "x"],
    ] {
        let told = server.cli(arguments).fails();
        assert!(told.contains("TENANT:eu"), "{arguments:?}: {told}");
    }
    let posted = http::post(server.admin, "/api/v1/publish?queue=:eu/jobs", &[], b"x");
    assert!(posted.status == 400 && posted.body.contains("TENANT:eu"), "{posted:?}");
    assert_eq!(server.stat("jobs", "ready"), 1, "nothing happened to what is there");
}

#[test]
fn a_directory_is_served_with_its_number_of_shards_and_no_other() {
    let server = three().serve();
    server.publish("jobs", "one", &[]);
    let home = server.kill();
    for (other, wanted) in [(&["--shards", "2"][..], "shards is 2"), (&[], "shards is 1")] {
        let told = home.clone().arguments(other).serve_refused();
        let is_told = told.stderr.contains(wanted) && told.stderr.contains("--shards 3");
        assert!(!told.status.success() && is_told, "{told:#?}");
    }
    let server = home.serve();
    assert_eq!(server.stat("jobs", "ready"), 1);

    let server = Server::start();
    server.publish("jobs", "one", &[]);
    let home = server.kill();
    let told = home.clone().arguments(&["--shards", "3"]).serve_refused();
    assert!(!told.status.success() && told.stderr.contains("--shards 1"), "{told:#?}");
    assert_eq!(home.serve().stat("jobs", "ready"), 1);
    for wrong in ["0", "65", "many"] {
        let told = three().arguments(&["--shards", wrong]).serve_refused();
        assert!(!told.status.success() && told.stderr.contains("shards is"), "{told:#?}");
    }
}

/// A start and `log verify` say the same, in which all of these words are.
fn assert_both_refuse(home: &Home, words: &[&str]) {
    let data = home.data().display().to_string();
    for told in [home.serve_refused(), relaymesh(&["log", "verify", &data]).run()] {
        let is_told = words.iter().all(|word| told.stderr.contains(word));
        assert!(!told.status.success() && is_told, "{words:?}: {told:#?}");
    }
}

#[test]
fn a_shard_that_is_gone_or_in_the_place_of_another_is_refused() {
    let server = three().serve();
    for (namespace, _) in NAMESPACES {
        run(&server, namespace, &["publish", "jobs", "x"]);
    }
    let home = server.kill();
    let path = |name: &str| home.data().join(name);
    let rename = |from: &str, to: &str| std::fs::rename(path(from), path(to)).unwrap();
    rename("shard-1", "away");
    assert_both_refuse(&home, &["shard-1 has no log", "restore it from a copy"]);
    assert!(!path("shard-1").exists(), "nothing is made in its place");
    rename("shard-2", "shard-1");
    rename("away", "shard-2");
    assert_both_refuse(&home, &["shard-1/shard says \"2\"", "the name of shard 1"]);
    rename("shard-1", "away");
    rename("shard-2", "shard-1");
    rename("away", "shard-2");
    rename("shards", "away");
    let without_number = home.clone().arguments(&[]);
    assert_both_refuse(&without_number, &["data/shards is missing", "write 3 into it"]);
    assert!(!path("log").exists(), "no log is made beside the shards");
    std::fs::write(path("shards"), "3").unwrap();
    let server = home.serve();
    for (namespace, _) in NAMESPACES {
        assert!(run(&server, namespace, &["queue", "ls"]).contains("jobs"), "{namespace}");
    }
}

#[test]
fn the_log_of_every_shard_is_verified_and_printed() {
    let server = three().serve();
    for (namespace, _) in NAMESPACES {
        run(&server, namespace, &["publish", "jobs", &format!("of {namespace}")]);
    }
    let home = server.kill();
    let data = home.data().display().to_string();
    let verified = relaymesh(&["log", "verify", &data]).succeeds();
    for shard in 0..3 {
        assert!(verified.contains(&format!("shard-{shard}:")), "{verified}");
    }
    for (namespace, _) in NAMESPACES {
        let arguments =
            ["log", "dump", &data, "--namespace", namespace, "--queue", "jobs", "--payloads", "--json"];
        let dumped = relaymesh(&arguments).succeeds();
        let payloads: Vec<_> = dumped.lines().filter(|line| line.contains("payload_text")).collect();
        assert!(payloads.len() == 1 && payloads[0].contains(&format!("of {namespace}\"")), "{dumped}");
    }
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("one JSON document");
    let verified = json(&relaymesh(&["log", "verify", &data, "--json"]).succeeds());
    assert_eq!((&verified["ok"], &verified["shards"][2]["shard"]), (&true.into(), &2.into()), "{verified}");
    let upgraded = json(&relaymesh(&["log", "upgrade", &data, "--json"]).succeeds());
    assert_eq!(upgraded["shards"][1]["upgraded"], false, "{upgraded}");
    let dumped = relaymesh(&["log", "dump", &data, "--json"]).succeeds();
    let shards: std::collections::BTreeSet<_> =
        dumped.lines().map(|line| json(line)["shard"].as_u64()).collect();
    assert_eq!(shards.into_iter().collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    // A byte in the middle of what one shard wrote.
    let segment = home.data().join("shard-1/log/000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(11).position(|found| found == b"of fleet:us").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let told = relaymesh(&["log", "verify", &data]).fails();
    assert!(told.contains("shard-1"), "{told}");
    let refused = home.serve_refused();
    assert!(
        refused.stderr.contains(&format!("the log in {data}/shard-1/log: 000000000001.seg")),
        "{refused:#?}"
    );
}

#[test]
fn the_token_of_a_tenant_opens_its_groups() {
    let config = "[auth.namespaces]\nfleet = \"one\"\nother = \"two\"\n";
    let server = three().config(config).serve();
    let publish = |namespace: &str, token: &str| {
        let cli = server.cli(&["publish", "jobs", "x"]).env("RELAYMESH_NAMESPACE", namespace);
        cli.env("RELAYMESH_TOKEN", token)
    };
    for namespace in ["fleet", "fleet:eu", "fleet:us"] {
        publish(namespace, "one").succeeds();
        publish(namespace, "two").fails();
    }
    let told = publish("fleet:EU", "one").fails();
    assert!(told.contains("placement group"), "{told}");
    let told = three().config("[auth.namespaces]\n\"fleet:eu\" = \"one\"\n").serve_refused();
    assert!(told.stderr.contains("without a placement group"), "{told:#?}");
}
