//! The crash campaign: SIGKILL at random moments under load of everything the server does, and no word it gave is broken.
//!
//! `cargo test --release --test crash -- --ignored --nocapture` kills 1,000 times, `RELAYMESH_CRASH_KILLS` says how
//! often instead, `RELAYMESH_CRASH_SEED` repeats the moments of a run, `RELAYMESH_CRASH_DURABILITY` is what `serve
//! --durability` takes. A short campaign is part of every test run.
//!
//! Producers, workers and operators go on through the kills, with plain messages, batches, ordering keys, priorities,
//! delays, deduplication ids, topics with filters, stages that ack and publish, short leases, dead letters that are redriven
//! and purged, and schedules; one pair of them with the SDK. They write down what they ask for and what they see. A
//! campaign goes in rounds: after some kills nothing new is begun, the queues are emptied, and the [checker] judges the
//! history against what was promised; it says what at-least-once permits. It is itself tested with histories that have one fault
//! each, and in [`planted`] with a server whose log lost its end between a kill and a start.
//!
//! A killed process leaves the page cache behind: what was written but not synced survives. What a power loss takes
//! is tried in the simulation, whose storage tells written from durable.

mod checker;
mod clients;
mod history;
mod planted;
mod round;
#[path = "../support/mod.rs"]
mod support;
mod totals;

use std::net::TcpListener;
use std::time::Instant;

use round::Campaign;
use support::server::Home;

/// Kills of one round.
const ROUND_KILLS: u64 = 100;
/// Small segments, so that a campaign passes through many of them, their checkpoints and their compaction.
const CONFIG: &str =
    "[log]\nsegment_bytes = 4194304\n[queue]\nbackoff_initial = \"5ms\"\nbackoff_max = \"50ms\"\n";

fn number_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => {
            text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}; it must be a whole number"))
        }
        Err(_) => default,
    }
}

#[test]
fn five_kills_break_no_word() {
    campaign(5, "sync");
}

#[test]
fn kills_break_no_word_where_the_sync_comes_later() {
    campaign(3, "interval:10s");
}

#[test]
#[ignore = "takes minutes: the full campaign"]
fn many_kills_break_no_word() {
    let durability = std::env::var("RELAYMESH_CRASH_DURABILITY");
    campaign(number_from("RELAYMESH_CRASH_KILLS", 1000), durability.as_deref().unwrap_or("sync"));
}

/// A place for a server that listens at the same address in each of its lives, so that clients come back to it.
fn home(config: &str, durability: &str) -> (Home, String) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let listen = free.expect("there is a free port").to_string();
    let home = Home::new().config(config).arguments(&["--durability", durability, "--listen", &listen]);
    (home, listen)
}

fn campaign(kills: u64, durability: &str) {
    let seed = number_from("RELAYMESH_CRASH_SEED", fastrand::u64(..));
    println!("{kills} kills; RELAYMESH_CRASH_SEED={seed} repeats their moments");
    let started = Instant::now();
    let (home, listen) = home(CONFIG, durability);
    let mut campaign = Campaign::new(home, listen, seed);
    let mut left = kills;
    while left > 0 {
        // The last kill of a round ends it.
        let round = left.min(ROUND_KILLS);
        let history = campaign.round(round, &mut |_, _| {});
        left -= round;
        let breaches = checker::breaches(&history);
        campaign.totals.count(&history, breaches.len());
        println!("{} kills, {:?}: {}", kills - left, started.elapsed(), campaign.totals.line());
        if !breaches.is_empty() {
            println!("{}", totals::long_lives(&history));
        }
        for breach in breaches.iter().take(10) {
            println!("{breach}\n{}", checker::story(&history, breach));
        }
        assert!(breaches.is_empty(), "{} breaches; RELAYMESH_CRASH_SEED={seed}", breaches.len());
    }
    println!("{kills} kills in {:?}, RELAYMESH_CRASH_SEED={seed}", started.elapsed());
    println!("{}", campaign.totals);
    campaign.totals.assert_load();
}
