//! The crash campaign: SIGKILL at random moments under load, and no word the server gave is broken.
//!
//! `cargo test --release --test crash -- --ignored --nocapture` kills 200 times, `RELAYMESH_CRASH_KILLS` says
//! how often instead, `RELAYMESH_CRASH_SEED` repeats the moments of a run, `RELAYMESH_CRASH_DURABILITY` is what `serve
//! --durability` takes. A short campaign is part of every test
//! run. What is shown: every answered publish is there at the end or was acked, no answered ack is followed by
//! another delivery, no publish that was sent again is there twice, and every start is clean.
//!
//! A killed process leaves the page cache behind: what was written but not synced survives. What a power loss takes
//! is tried in the simulation, whose storage tells written from durable.

mod clients;
mod history;
#[path = "../support/mod.rs"]
mod support;

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use clients::Shared;
use history::Event;
use support::process::Process;
use support::server::{Home, Server};
use support::{eventually, http};

const PRODUCERS: usize = 6;
const WORKERS: usize = 6;
/// How long the server runs before it is killed, in milliseconds.
const UPTIME_MS: std::ops::Range<u64> = 5..350;
/// How long a start runs before it is killed, in milliseconds: within it the log is read.
const START_MS: std::ops::Range<u64> = 0..40;
/// What draining the queues may take at the end.
const DRAIN: Duration = Duration::from_secs(120);
/// How long nobody may see anything once the queues are empty: what is delivered again by mistake shows by then.
const QUIET: Duration = Duration::from_secs(2);
/// Small segments, so that a campaign passes through many of them.
const CONFIG: &str = "[log]\nsegment_bytes = 4194304\n";

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
    campaign(number_from("RELAYMESH_CRASH_KILLS", 200), durability.as_deref().unwrap_or("sync"));
}

fn campaign(kills: u64, durability: &str) {
    let seed = number_from("RELAYMESH_CRASH_SEED", fastrand::u64(..));
    println!("{kills} kills; RELAYMESH_CRASH_SEED={seed} repeats their moments");
    let started = Instant::now();
    let mut random = fastrand::Rng::with_seed(seed);
    let shared = Shared::new();
    let home = Home::new().config(CONFIG).arguments(&["--durability", durability]);
    let (producer_ids, worker_seeds): (Vec<u64>, Vec<u64>) =
        (0..PRODUCERS.max(WORKERS)).map(|_| (random.u64(1..), random.u64(..))).unzip();
    thread::scope(|scope| {
        let shared = &shared;
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|number| (number, producer_ids[number]))
            .map(|(number, id)| scope.spawn(move || clients::produce(shared, number, id)))
            .collect();
        for (number, seed) in worker_seeds.iter().copied().enumerate().take(WORKERS) {
            scope.spawn(move || clients::work(shared, number, seed));
        }
        // Whatever fails, the clients must end, or the scope waits for them for ever.
        let _stop = StopClients(shared);
        let mut starts = Vec::new();
        for kill in 1..=kills {
            starts.extend(kill_once(shared, &home, &mut random));
            if kill.is_multiple_of(20) {
                println!("{kill} kills, {} events, {:?}", shared.history().len(), started.elapsed());
            }
        }
        let (server, took) = start(shared, &home);
        starts.push(took);
        await_load(shared);
        shared.producers_stop.store(true, Ordering::Relaxed);
        for producer in producers {
            producer.join().expect("a producer saw nothing it must not see");
        }
        drain(shared, &server);
        report_starts(starts);
    });
    report(&shared, kills, started);
}

struct StopClients<'a>(&'a Shared);

impl Drop for StopClients<'_> {
    fn drop(&mut self) {
        *self.0.server.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.producers_stop.store(true, Ordering::Relaxed);
        self.0.workers_stop.store(true, Ordering::Relaxed);
    }
}

/// A server that is ready, and how long that took from the start of its process.
fn start(shared: &Shared, home: &Home) -> (Server, Duration) {
    let began = Instant::now();
    let server = home.serve();
    let took = began.elapsed();
    *shared.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server.listen);
    (server, took)
}

/// Waits until something was published and something acked since now, however slow the machine is.
fn await_load(shared: &Shared) {
    let mut seen = shared.history().len();
    let (mut published, mut acked) = (false, false);
    eventually("there is load", || {
        let history = shared.history();
        published |= history[seen..].iter().any(|event| matches!(event, Event::Published { .. }));
        acked |= history[seen..].iter().any(|event| matches!(event, Event::Acked { .. }));
        seen = history.len();
        published && acked
    });
}

/// One kill: of a server at work, most times after the work has begun, or one time in five of one that has just begun
/// to start. How long the start of the one at work took.
fn kill_once(shared: &Shared, home: &Home, random: &mut fastrand::Rng) -> Option<Duration> {
    if random.u8(0..5) == 0 {
        let mut process = Process::start(&mut home.command());
        thread::sleep(Duration::from_millis(random.u64(START_MS)));
        process.kill();
        None
    } else {
        let (server, took) = start(shared, home);
        if random.u8(0..4) > 0 {
            await_load(shared);
        }
        thread::sleep(Duration::from_millis(random.u64(UPTIME_MS)));
        *shared.server.lock().unwrap_or_else(PoisonError::into_inner) = None;
        server.kill();
        Some(took)
    }
}

fn report_starts(mut starts: Vec<Duration>) {
    starts.sort_unstable();
    println!(
        "{} clean starts, from process to ready: median {:?}, longest {:?}",
        starts.len(),
        starts[starts.len() / 2],
        starts[starts.len() - 1]
    );
}

/// Waits until the workers have acked whatever is still there: the queues hold nothing, and nobody has seen anything for
/// a while. Whether what was published is gone because it was acked, the history tells.
fn drain(shared: &Shared, server: &Server) {
    let deadline = Instant::now() + DRAIN;
    let mut seen = 0;
    let mut quiet_since = Instant::now();
    while Instant::now() < deadline {
        let events = shared.history().len();
        if events > seen || !clients::queues().all(|queue| is_empty(server, &queue)) {
            (seen, quiet_since) = (events, Instant::now());
        } else if quiet_since.elapsed() > QUIET {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("after {DRAIN:?} workers are still at work");
}

fn is_empty(server: &Server, queue: &str) -> bool {
    let answer = http::get(server.admin, &format!("/api/v1/queue-stats?queue={queue}"));
    let holds_none = |state: &&str| answer.json()[*state].as_u64() == Some(0);
    answer.status == 200 && ["ready", "scheduled", "leased"].iter().all(holds_none)
}

fn report(shared: &Shared, kills: u64, started: Instant) {
    let history = shared.history();
    let breaches = history::breaches(&history);
    let count = |is: fn(&Event) -> bool| history.iter().filter(|event| is(event)).count();
    let published = count(|event| matches!(event, Event::Published { .. }));
    let delivered = count(|event| matches!(event, Event::Delivered { .. }));
    let acked = count(|event| matches!(event, Event::Acked { .. }));
    println!(
        "{kills} kills in {:?}: {published} publishes and {acked} acks answered, {delivered} deliveries, {} breaches",
        started.elapsed(),
        breaches.len()
    );
    assert!(
        breaches.is_empty(),
        "{} breaches, the first: {:#?}",
        breaches.len(),
        &breaches[..breaches.len().min(10)]
    );
    assert!(published > 0 && acked > 0, "there was load");
}
