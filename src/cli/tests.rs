use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn every_command_of_the_manual_parses() {
    for line in [
        "relaymesh publish jobs hello --delay 10s --priority 7 --ttl 1h --attempts 5 --attr k=v --attr l=w",
        "relaymesh publish jobs @file --at 2027-01-31T18:00:00Z",
        "relaymesh publish jobs -",
        "relaymesh publish jobs",
        "relaymesh push d1 hello --token t",
        "relaymesh work jobs --exec cat --concurrency 8 --max 3",
        "relaymesh device d1 --heartbeat 500ms --max 1 --json",
        "relaymesh device d1 --topic news --topic site.7 --exec cat",
        "relaymesh broadcast news hello --attr k=v --json --token t",
        "relaymesh broadcast news -",
        "relaymesh queue ls --mailboxes --json",
        "relaymesh queue stats jobs --admin 127.0.0.1:1",
        "relaymesh queue --namespace other stats device/d1",
        "relaymesh namespace set acme messages_max=5 publish_per_s=",
        "relaymesh namespace settings acme --json",
        "relaymesh topic bind orders.*.created --to audit --filter region='eu' --name a --when-full drop --json",
        "relaymesh topic ls --namespace other --json",
        "relaymesh topic unbind a",
        "relaymesh publish topic/orders.7 x --attr k=v",
        "relaymesh dead ls jobs --json",
        "relaymesh dead show jobs --id 1 --payload",
        "relaymesh dead redrive jobs --all --to other",
        "relaymesh dead purge jobs --id 7 --namespace a",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn what_is_missing_is_named_with_all_that_will_do() {
    for (line, words) in [
        (
            "relaymesh dead redrive jobs",
            &["--id", "--reason", "--since", "--until", "--attr", "--text", "--all"][..],
        ),
        ("relaymesh dead purge jobs", &["--id", "--text", "--all"]),
        ("relaymesh dead ls", &["QUEUE", "--all-queues"]),
        ("relaymesh schedule next", &["NAME", "--cron"]),
    ] {
        let said = parse(line).unwrap_err().to_string();
        let (missing, _) = said.split_once("Usage").unwrap();
        assert!(words.iter().all(|word| missing.contains(word)), "{line}: {said}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for line in [
        "relaymesh publish jobs x --priority 10",
        "relaymesh publish jobs x --attempts 0",
        "relaymesh publish jobs x --delay 10s --at 2027-01-31T18:00:00Z",
        "relaymesh publish jobs x --delay soon",
        "relaymesh push a/b x",
        "relaymesh work jobs --concurrency 0",
        "relaymesh work jobs --json --exec cat",
        "relaymesh work jobs --exec cat --reject-on 0",
        "relaymesh work jobs --exec cat --reject-on 256",
        "relaymesh work jobs --reject-on 1",
        "relaymesh dead redrive jobs",
        "relaymesh dead purge jobs --id 1 --all",
        "relaymesh dead purge jobs --id 1 --text x",
        "relaymesh dead purge jobs --all --reason rejected",
        "relaymesh dead ls jobs --all-queues",
        "relaymesh schedule next report --cron @daily",
        "relaymesh schedule next report --tz UTC",
        "relaymesh queue ls --namespace UPPER",
        "relaymesh namespace set acme",
        "relaymesh namespace set acme messages_max",
        "relaymesh namespace set UPPER messages_max=5",
        "relaymesh topic bind orders.>",
        "relaymesh topic bind orders.> --to audit --when-full reject",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}
