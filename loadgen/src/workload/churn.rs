//! Connect and reset: connections that come at a steady rate and end with a RST, and what of them stays at the server.
//!
//! Some are reset at once, some after HELLO and some after WELCOME ([`Mix`]). A warm-up comes first, so that the baseline is
//! a server that has seen this load; then the round that counts. After each, the server's own metrics say when nothing is
//! left of it: then descriptors and heap are read.

mod clients;

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use relaymesh::host::DescriptorLimit;
use serde_json::{Value, json};

use self::clients::{Churned, Clients};
use super::run_prefix;
use crate::options::{Target, parse_duration};
use crate::progress::Progress;
use crate::report::Report;
use crate::server::{Metrics, Process};
use crate::source::Sources;

/// How often the server is asked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How far above the baseline is still back at it.
const BACK_WITHIN: f64 = 1.01;
/// How long an allocator may take to give back what nobody uses any more, once nothing is left of the connections.
const GIVE_BACK_PATIENCE: Duration = Duration::from_secs(20);
const BUSY_SERIES: usize = 6;
/// Connections that a server is still busy with, by series of its metrics.
const BUSY_WITH: [&str; BUSY_SERIES] = [
    "relaymesh_connections{state=\"handshaking\"}",
    "relaymesh_connections{state=\"live\"}",
    "relaymesh_connections{state=\"closing\"}",
    "relaymesh_buffer_items{buffer=\"lingering_sockets\"}",
    "relaymesh_sessions{state=\"connected\"}",
    "relaymesh_sessions{state=\"grace\"}",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Connections a second.
    #[arg(long, default_value_t = 20_000, value_name = "PER_S")]
    rate: u32,
    /// How long.
    #[arg(long, value_parser = parse_duration, default_value = "60s", value_name = "TIME")]
    duration: Duration,
    /// How long before that, so that the baseline is a server that has seen this load.
    #[arg(long, value_parser = parse_duration, default_value = "15s", value_name = "TIME")]
    warm_up: Duration,
    /// Parts that are reset at once, after HELLO and after WELCOME.
    #[arg(long, default_value = "2:1:1", value_name = "A:B:C")]
    mix: Mix,
    /// Different client ids. A session outlives its connection, so the ids come again: the later one replaces the earlier.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    clients: u32,
    /// Threads that connect.
    #[arg(long, default_value_t = 2, value_name = "N")]
    threads: usize,
    /// How long a server may take until nothing is left of the connections: its grace period, and a little.
    #[arg(long, value_parser = parse_duration, default_value = "3m", value_name = "TIME")]
    settle: Duration,
}

/// How many of the connections are reset when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mix {
    at_once: u32,
    after_hello: u32,
    after_welcome: u32,
}

/// When a connection is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reset {
    AtOnce,
    AfterHello,
    AfterWelcome,
}

impl Mix {
    fn total(self) -> u64 {
        u64::from(self.at_once) + u64::from(self.after_hello) + u64::from(self.after_welcome)
    }

    /// When the connection of this number is reset: all kinds take turns.
    fn of(self, number: u64) -> Reset {
        let place = number % self.total();
        if place < u64::from(self.at_once) {
            Reset::AtOnce
        } else if place < u64::from(self.at_once) + u64::from(self.after_hello) {
            Reset::AfterHello
        } else {
            Reset::AfterWelcome
        }
    }
}

impl FromStr for Mix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
        let mix = match parts.as_deref() {
            Ok(&[at_once, after_hello, after_welcome]) => Self { at_once, after_hello, after_welcome },
            _ => bail!("three numbers are wanted, like 2:1:1"),
        };
        ensure!(mix.total() > 0, "one of the three parts must be more than 0");
        Ok(mix)
    }
}

/// What the server holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Holds {
    /// Descriptors open in all its tables.
    descriptors: f64,
    /// Its heap and stacks, in bytes.
    heap: u64,
    /// All of its memory that is in RAM, in bytes.
    resident: u64,
    /// How much it is busy with, by [`BUSY_WITH`].
    busy: [f64; BUSY_SERIES],
}

impl Holds {
    fn to_json(self) -> Value {
        json!({ "descriptors": self.descriptors, "heap_bytes": self.heap, "rss_bytes": self.resident })
    }

    fn to_line(self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Self { descriptors, heap, resident, .. } = self;
        format!("{descriptors} descriptors, heap {:.2} MiB, RSS {:.2} MiB", mib(heap), mib(resident))
    }

    /// Nothing more to do than at `baseline`.
    fn is_idle_as(&self, baseline: &Self) -> bool {
        self.busy.iter().zip(baseline.busy).all(|(&now, then)| now <= then)
    }

    fn is_back_at(&self, baseline: &Self) -> bool {
        self.are_descriptors_back_at(baseline) && self.is_heap_back_at(baseline)
    }

    fn are_descriptors_back_at(&self, baseline: &Self) -> bool {
        self.descriptors <= baseline.descriptors * BACK_WITHIN
    }

    fn is_heap_back_at(&self, baseline: &Self) -> bool {
        self.heap as f64 <= baseline.heap as f64 * BACK_WITHIN
    }
}

/// Where the server can be asked.
struct Server {
    metrics: Metrics,
    process: Process,
}

impl Server {
    fn holds(&self) -> anyhow::Result<Holds> {
        let page = self.metrics.read()?;
        let mut busy = [0.0; BUSY_SERIES];
        for (value, series) in busy.iter_mut().zip(BUSY_WITH) {
            *value = page.value(series)?;
        }
        let in_loops = page.sum("relaymesh_loop_descriptors", "counted_by=\"system\"");
        Ok(Holds {
            descriptors: page.value("relaymesh_process_open_descriptors")? + in_loops,
            heap: self.process.anonymous_bytes()?,
            resident: self.process.resident_bytes()?,
            busy,
        })
    }

    /// Waits until the server has nothing more to do than at `idle`; returns what it holds then.
    fn settled(&self, idle: &Holds, patience: Duration) -> anyhow::Result<Holds> {
        let start = Instant::now();
        loop {
            let now = self.holds()?;
            if now.is_idle_as(idle) {
                return Ok(now);
            }
            if start.elapsed() > patience {
                let busy = BUSY_WITH.iter().zip(now.busy).filter(|(_, count)| *count > 0.0);
                let busy: Vec<_> = busy.map(|(series, count)| format!("{series} {count}")).collect();
                bail!("after {patience:?} the server is still busy with {}; see --settle", busy.join(", "));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// As [`Server::settled`], and then for a while until it is back at `baseline` too.
    fn back(&self, baseline: &Holds, patience: Duration) -> anyhow::Result<Holds> {
        let mut now = self.settled(baseline, patience)?;
        let start = Instant::now();
        while !now.is_back_at(baseline) && start.elapsed() < GIVE_BACK_PATIENCE {
            thread::sleep(LOOK_EVERY);
            now = self.holds()?;
        }
        Ok(now)
    }
}

/// One round of connections, and the most that the server held meanwhile.
struct Round {
    churned: Churned,
    took: Duration,
    peak: Holds,
}

fn round(args: &Args, server: &Server, length: Duration, what: &'static str) -> anyhow::Result<Round> {
    let stop = AtomicBool::new(false);
    let sources = Sources::draw();
    let prefix = run_prefix("churn");
    let start = Instant::now();
    let progress = Progress::timing(length, what, args.target.quiet);
    let mut peak = server.holds()?;
    let churned = thread::scope(|scope| {
        let start_one = |nth| {
            let clients = Clients {
                target: &args.target,
                prefix: &prefix,
                ids: args.clients,
                mix: args.mix,
                nth,
                threads: args.threads,
                rate: args.rate,
                length,
                sources,
                stop: &stop,
            };
            scope.spawn(move || clients.churn())
        };
        let threads: Vec<_> = (0..args.threads).map(start_one).collect();
        let mut watched = Ok(());
        while watched.is_ok() && threads.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(LOOK_EVERY);
            progress.set(start.elapsed().as_millis() as u64);
            watched = server.holds().map(|now| {
                peak.descriptors = peak.descriptors.max(now.descriptors);
                peak.heap = peak.heap.max(now.heap);
                peak.resident = peak.resident.max(now.resident);
            });
        }
        // A server that cannot be asked is not worth more of it.
        stop.store(watched.is_err(), Ordering::Relaxed);
        let mut all = Churned::new();
        for thread in threads {
            all.add(thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the run panicked")))?);
        }
        watched.map(|()| all)
    })?;
    Ok(Round { churned, took: start.elapsed(), peak })
}

pub(crate) fn run(args: &Args, limit: DescriptorLimit) -> anyhow::Result<Report> {
    let Args { target, rate, threads, clients, .. } = args;
    ensure!(*rate > 0 && *threads > 0 && *clients > 0, "--rate, --threads and --clients must be at least 1");
    ensure!(limit.soft > 1024, "the limit of {} descriptors is too low for this", limit.soft);
    let metrics = Metrics::of(target).context("--admin is wanted: the server's metrics say what is left")?;
    let process = Process::of(target).context("--server-pid or --admin is wanted")?;
    let server = Server { metrics, process };
    let fresh = server.holds()?;
    let warm = round(args, &server, args.warm_up, "warm-up")?;
    let baseline = server.settled(&fresh, args.settle)?;
    let Round { churned, took, peak } = round(args, &server, args.duration, "connect and reset")?;
    let waited = Instant::now();
    let after = server.back(&baseline, args.settle)?;
    let waited = waited.elapsed();

    let took = took.min(args.duration.max(churned.last));
    let mut report = Report::new(target, "connections reset", churned.reset, took, &churned.connected);
    report.say(format!(
        "{} at once, {} after HELLO, {} after WELCOME; {} failed",
        churned.at_once, churned.after_hello, churned.after_welcome, churned.failed
    ));
    for (reason, times) in &churned.reasons {
        report.say(format!("  {times} × {reason}"));
    }
    report.say(format!("fresh:    {}", fresh.to_line()));
    report.say(format!(
        "baseline: {}, after a warm-up of {} such connections",
        baseline.to_line(),
        warm.churned.reset
    ));
    report.say(format!("at most:  {}", peak.to_line()));
    report.say(format!("after:    {}, {waited:.1?} later", after.to_line()));
    report.set("rate", json!(rate));
    report.set("failed", json!(churned.failed));
    report.set("reasons", json!(churned.reasons));
    report.set(
        "reset",
        json!({
            "at_once": churned.at_once, "after_hello": churned.after_hello, "after_welcome": churned.after_welcome
        }),
    );
    for (name, holds) in [("fresh", fresh), ("baseline", baseline), ("peak", peak), ("after", after)] {
        report.set(name, holds.to_json());
    }
    report.set("settled_after_s", json!(waited.as_secs_f64()));
    let mut faults = Vec::new();
    if !after.are_descriptors_back_at(&baseline) {
        faults.push(format!("{} descriptors more than before", after.descriptors - baseline.descriptors));
    }
    if !after.is_heap_back_at(&baseline) {
        faults.push(format!("{} bytes of heap more than before", after.heap - baseline.heap));
    }
    report.set("is_back", json!(faults.is_empty()));
    if !faults.is_empty() {
        report.fail(format!("the server is not back at its baseline: {}", faults.join(", ")));
    }
    Ok(report)
}

#[cfg(test)]
mod tests;
