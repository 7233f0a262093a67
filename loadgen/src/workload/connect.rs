//! Holding sessions: each with its own client id, its mailbox subscription and a heartbeat.
//!
//! The sessions are shared out over as many threads as descriptor tables are needed ([`super::hold`]); this one starts
//! them, watches over the run and adds up what came of it.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use relaymesh::clock::{Clock, Time};
use relaymesh::host::DescriptorLimit;
use relaymesh::ids::ClientId;
use relaymesh::ids::QueueName;
use serde_json::json;

use super::hold::{Held, Live, Stage, hold_all, read};
use super::{run_prefix, silent};
use crate::descriptors::{HAS_PRIVATE_TABLES, connections_per_table};
use crate::fleet::{Identity, Share};
use crate::options::{Target, parse_duration, parse_topic};
use crate::plot::{Sample, Timeline};
use crate::progress::Progress;
use crate::report::{self, Delays, Report};
use crate::server::{Memory, Process, ServerCpu};
use crate::source::Sources;

/// How often the run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// How many sessions. More than a descriptor table holds are shared out over threads with a table each.
    #[arg(long, default_value = "1000", value_name = "N")]
    connections: NonZeroUsize,
    /// New sessions a second; as fast as it goes if not set.
    #[arg(long, default_value_t = 0, value_name = "PER_S")]
    ramp: u32,
    /// How long to hold them once all are there.
    #[arg(long, value_parser = parse_duration, default_value = "10s", value_name = "TIME")]
    hold: Duration,
    /// Each session's heartbeat; the sessions' heartbeats are spread over the interval.
    #[arg(long, value_parser = parse_duration, default_value = "60s", value_name = "TIME")]
    heartbeat: Duration,
    /// How often a connection that is refused, or gets no WELCOME, is tried again before it counts as failed. Each time it
    /// waits longer, at least until the slot that the server names, at most 30 s.
    #[arg(long, default_value_t = 3, value_name = "N")]
    retries: u32,
    /// Client ids are this and a number from 0, so that others can name them (`loadgen push`); drawn anew for each run if not
    /// set.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<ClientId>,
    /// Let every session listen to this topic. What `loadgen broadcast` sends to it while they are held is measured: how
    /// many deliveries, how many a second, how late the last one, and how long heartbeats took meanwhile.
    #[arg(long, value_parser = parse_topic, value_name = "NAME")]
    topic: Option<QueueName>,
    /// Once all are there, let so many of them fall silent: they keep their connections and read, but send no heartbeat any
    /// more. How long after its deadline (3 heartbeats missed, counted from the last) the server closes each of them is
    /// measured; exit code 1 if one is closed before its deadline, or never. --hold must leave time for it.
    #[arg(long, default_value_t = 0, value_name = "N")]
    fall_silent: usize,
    /// Draw sessions, memory and delay over the run into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What the watch over a run saw.
struct Watched {
    began: Memory,
    /// At the end of the hold, with all sessions there.
    ended: Memory,
    cpu: Option<Duration>,
    /// When all were there, from the run's beginning.
    held_from: Duration,
    held_for: Duration,
    /// Why some of the server's figures are not known.
    unknown: Option<anyhow::Error>,
    timeline: Timeline,
}

/// Shares `connections` out over as few descriptor tables as hold them.
///
/// # Errors
/// When one does not, and there are no others.
pub(super) fn share_out(connections: usize, limit: DescriptorLimit) -> anyhow::Result<Vec<Share>> {
    let each = connections_per_table(limit.soft);
    if each == 0 || !HAS_PRIVATE_TABLES && connections > each {
        bail!(
            "{connections} connections need more descriptors than the {} this process may have; raise `ulimit -n`",
            limit.soft
        );
    }
    let sources = Sources::draw();
    let threads = connections.div_ceil(each);
    let bound = |nth| connections * nth / threads;
    let share =
        |nth| Share { first: bound(nth), wanted: bound(nth + 1) - bound(nth), total: connections, sources };
    Ok((0..threads).map(share).collect())
}

pub(crate) fn run(args: &Args, limit: DescriptorLimit) -> anyhow::Result<Report> {
    let target = &args.target;
    if args.fall_silent > 0 {
        let (silent, all) = (args.fall_silent, args.connections);
        ensure!(
            silent <= all.get(),
            "--fall-silent {silent}: there are only {all} sessions; see --connections"
        );
        silent::check_hold(args.hold, args.heartbeat)?;
    }
    let shares = share_out(args.connections.get(), limit)?;
    let identity = Identity {
        prefix: args.prefix.as_ref().map_or_else(|| run_prefix("hold"), ClientId::to_string),
        heartbeat: args.heartbeat,
        ramp: args.ramp,
        retries: args.retries,
        held: true,
        topic: args.topic.clone(),
    };
    let process = Process::of(target);
    let began = Memory::read(process.as_ref())?;
    let (clock, live) = (Clock::starting_at(Time(0)), Live::with_silent(args.fall_silent));
    let watch = Watch {
        args,
        live: &live,
        clock: &clock,
        process: process.as_ref(),
        timeline: Timeline::new(),
        p99_us: None,
    };
    let (watched, held) = hold_all(target, &identity, &shares, (&clock, &live), || watch.see_through(began));
    report(args, &live, &held?, &watched?, shares.len())
}

/// Looks at a run that the threads drive.
struct Watch<'a> {
    args: &'a Args,
    live: &'a Live,
    clock: &'a Clock,
    process: Option<&'a Process>,
    timeline: Timeline,
    /// The newest p99 of the heartbeats, in microseconds.
    p99_us: Option<u64>,
}

impl Watch<'_> {
    /// Sees the run through: until all sessions are there or given up, then for the time to hold them.
    fn see_through(mut self, began: Memory) -> anyhow::Result<Watched> {
        let total = self.args.connections.get() as u64;
        let progress = Progress::counting(total, "sessions", self.args.target.quiet);
        while self.settled() < total && !self.live.is_in(Stage::Ending) {
            let (failed, retried) = (read(&self.live.failed), read(&self.live.retried));
            if failed + retried > 0 {
                progress.say(format!("sessions, {failed} failed, {retried} tried again"));
            }
            progress.set(read(&self.live.established));
            self.sample();
            thread::sleep(LOOK_EVERY);
        }
        drop(progress);
        if self.args.fall_silent > 0 {
            // The server may have agreed on a longer interval than was asked for.
            let interval = Duration::from_millis(read(&self.live.silent_interval_ms));
            silent::check_hold(self.args.hold, interval)?;
        }
        let cpu = ServerCpu::start(self.process);
        let held_from = Duration::from_micros(self.clock.micros());
        self.live.enter(Stage::Holding);
        if !self.args.target.quiet {
            report::print(&mut io::stdout().lock(), &[format!("{} sessions are there", self.sessions())])?;
        }
        let held_for = self.watch_hold(held_from);
        // A server that cannot be asked any more does not take the run's other figures with it.
        let mut unknown = None;
        let cpu = cpu.and_then(|cpu| cpu.map(|cpu| cpu.spent()).transpose()).unwrap_or_else(|error| {
            unknown = Some(error);
            None
        });
        let ended = match Memory::read(self.process) {
            Ok(memory) => memory,
            Err(error) => {
                unknown = Some(error);
                Memory::read(None)?
            }
        };
        self.timeline.push(self.look(ended));
        Ok(Watched { began, ended, cpu, held_from, held_for, unknown, timeline: self.timeline })
    }

    /// Until the hold is over, or there is nothing to hold any more; returns how long it was.
    fn watch_hold(&mut self, held_from: Duration) -> Duration {
        let length = self.args.hold;
        let progress = Progress::timing(length, "holding", self.args.target.quiet);
        loop {
            let elapsed = Duration::from_micros(self.clock.micros()).saturating_sub(held_from);
            let (sessions, answered) = (self.sessions(), read(&self.live.answered));
            // With no session left there is nothing to hold.
            if elapsed >= length || sessions == 0 || self.live.is_in(Stage::Ending) {
                return elapsed;
            }
            self.sample();
            progress.set(elapsed.as_millis() as u64);
            let p99 = self.p99_us.map_or(String::new(), |us| format!(", p99 {us} us"));
            let gone = match (read(&self.live.silent_gone), self.args.fall_silent) {
                (_, 0) => String::new(),
                (gone, silent) => format!(", {gone} of {silent} silent ones detected"),
            };
            progress.say(format!("{sessions} held, {answered} heartbeats answered{p99}{gone}"));
            thread::sleep(LOOK_EVERY.min(length - elapsed));
        }
    }

    fn settled(&self) -> u64 {
        read(&self.live.established) + read(&self.live.failed)
    }

    fn sessions(&self) -> u64 {
        self.live.sessions()
    }

    /// Takes a sample when one is due.
    fn sample(&mut self) {
        if self.timeline.is_due(Duration::from_micros(self.clock.micros())) {
            let memory = Memory::read(self.process).unwrap_or_default();
            let sample = self.look(memory);
            self.p99_us = sample.delay_us.map(|[_, p99]| p99).or(self.p99_us);
            self.timeline.push(sample);
        }
    }

    fn look(&self, memory: Memory) -> Sample {
        let at = Duration::from_micros(self.clock.micros());
        Sample { at, sessions: self.sessions(), memory, delay_us: self.live.delays.take([0.5, 0.99]) }
    }
}

/// Growth of `account` from `began` to `ended` for each of `count`.
fn growth_each(began: Option<u64>, ended: Option<u64>, count: u64) -> Option<f64> {
    let (began, ended) = (began?, ended?);
    (count > 0).then(|| (ended as f64 - began as f64) / count as f64)
}

fn report(
    args: &Args,
    live: &Live,
    held: &Held,
    watched: &Watched,
    threads: usize,
) -> anyhow::Result<Report> {
    let Args { target, connections, .. } = args;
    let (established, failed, lost) = (read(&live.established), read(&live.failed), read(&live.lost));
    let heartbeats = &held.heartbeats;
    let mut report = Report::new(target, "heartbeats", heartbeats.count(), watched.held_for, heartbeats);
    let took = Duration::from_micros(read(&live.last_welcome_us));
    let handshakes_per_s = established as f64 / took.as_secs_f64().max(1e-6);
    report.say(format!("{established} sessions set up in {took:.2?}: {handshakes_per_s:.0} a second"));
    report.say(format!("{failed} failed, {lost} lost, {} heartbeats missed", held.missed));
    for (reason, times) in &held.reasons {
        report.say(format!("  {times} × {reason}"));
    }
    report.set("connections", json!(connections));
    report.set("threads", json!(threads));
    report.set("established", json!(established));
    report.set("failed", json!(failed));
    report.set("retried", json!(read(&live.retried)));
    report.set("lost", json!(lost));
    report.set("reasons", json!(held.reasons));
    report.set("handshakes_per_s", json!(handshakes_per_s));
    report.set("handshake_us", held.handshakes.to_json());
    report.set("heartbeat_rtt_us", heartbeats.to_json());
    report.set("heartbeat_late_us", held.lateness.to_json());
    report.set("missed_heartbeats", json!(held.missed));
    report.set("delivered", json!(held.delivered));
    if held.pushes.count() > 0 {
        report.say(format!("{} pushes, delay in us: {}", held.pushes.count(), held.pushes.to_line()));
    }
    report.set("push", held.pushes.to_json_with_count());
    held.heard.tell(args.topic.as_ref(), &held.heartbeats_meanwhile, &mut report);
    held.detection.tell(args.fall_silent, &mut report);
    costs(&mut report, target, watched, live.sessions(), heartbeats);
    if let Some(why) = &watched.unknown {
        report.say(format!("not all the sessions cost the server is known: {why:#}"));
    }
    if let Some(path) = &args.plot {
        let title = format!("{established} sessions held for {:.0?}", watched.held_for);
        fs::write(path, watched.timeline.to_svg(&title, watched.held_from))
            .with_context(|| format!("cannot write --plot {}", path.display()))?;
    }
    if established == 0 {
        let (why, _) = held.reasons.first_key_value().map_or(("", &0), |(why, times)| (why.as_str(), times));
        report.fail(format!("none of {connections} sessions was established: {why}"));
    }
    Ok(report)
}

/// What the sessions cost the server and the kernel.
fn costs(report: &mut Report, target: &Target, watched: &Watched, sessions: u64, heartbeats: &Delays) {
    let Watched { began, ended, cpu, .. } = watched;
    let resident = growth_each(began.resident, ended.resident, sessions);
    // Over loopback both ends of a connection are in the same kernel's accounts.
    let ends = if target.connect.ip().is_loopback() { 2 } else { 1 };
    let kernel = growth_each(began.kernel, ended.kernel, sessions * ends);
    let cpu = cpu.filter(|_| heartbeats.count() > 0);
    let cpu_us = cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / heartbeats.count() as f64);
    if let Some(bytes) = resident {
        report.say(format!("server memory: {bytes:.0} bytes a session more than before the run"));
    }
    if let Some(bytes) = kernel {
        let of =
            if ends == 2 { "for each end of a connection, as both are here" } else { "for this end alone" };
        report.say(format!("kernel memory: {bytes:.0} bytes a session more than before the run, {of}"));
    }
    if let Some(us) = cpu_us {
        report.say(format!("server CPU: {us:.2} us a heartbeat"));
    }
    report.set("rss_bytes_per_session", json!(resident));
    report.set("kernel_bytes_per_session", json!(kernel));
    report.set("kernel_ends_per_session", json!(ends));
    report.set("cpu_us_per_heartbeat", json!(cpu_us));
}

#[cfg(test)]
mod tests;
