//! Good sessions beside hostile clients: the good ones' heartbeats before and through it, and the hostile ones' end.
//!
//! The good sessions are held as `connect` holds them. Once all are there their heartbeats are watched for a while alone,
//! and then in five phases of the attack ([`attack`]), each by itself: hostile clients come, at a rate, those that never
//! read first, each with a push that the server cannot write; all are there; the server closes the silent ones at their
//! deadline; only those that do not read are there; the server closes those.

mod attack;
mod feeder;

use std::sync::atomic::AtomicU64;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use relaymesh::clock::{Clock, Time};
use relaymesh::host::DescriptorLimit;
use serde_json::{Map, Value, json};

use self::attack::{Attack, Attacked, Manner, attack};
use super::connect::share_out;
use super::hold::{Held, Live, Stage, hold_all, read};
use super::run_prefix;
use crate::fleet::{Identity, Share};
use crate::options::{Target, parse_duration};
use crate::progress::Progress;
use crate::report::Report;
use crate::server::Metrics;

/// How often the run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What the system calls the priority of a thread that yields to all others.
#[cfg(target_os = "linux")]
const LOWEST_PRIORITY: i32 = 19;
/// Fewer heartbeats have no 99th percentile to speak of.
const HEARTBEATS_MIN: u64 = 100;
/// The server's metric of what waits for clients to read it.
const OUTPUT_METRIC: &str = "relaymesh_buffer_bytes{buffer=\"output\"}";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Sessions that are held as they should be, with heartbeats.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    good: usize,
    /// Connections that say nothing.
    #[arg(long, default_value_t = 15_000, value_name = "N")]
    silent: usize,
    /// Sessions that never read. Each is pushed a message through its mailbox, by a client of its own that does nothing
    /// else; the server cannot write it and has to keep it.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    non_readers: usize,
    /// Each good session's heartbeat.
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    heartbeat: Duration,
    /// How long the good sessions' heartbeats are watched before the attack.
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    before: Duration,
    /// The server's session.handshake_deadline: when it has to close a silent connection.
    #[arg(long, value_parser = parse_duration, default_value = "5s", value_name = "TIME")]
    handshake_deadline: Duration,
    /// The server's session.write_stall_deadline: when it has to close a session that does not read.
    #[arg(long, value_parser = parse_duration, default_value = "20s", value_name = "TIME")]
    write_stall_deadline: Duration,
    /// Bytes of the push to each non-reader: more than its receive buffer and the server's send buffer take, which both are
    /// made as small as they get (which is more with BBR than with CUBIC).
    #[arg(long, default_value_t = 64 * 1024, value_name = "BYTES")]
    fill: usize,
    /// Non-readers that come in a second and are pushed to; 0 for all at once. They come first.
    #[arg(long, default_value_t = 1_000, value_name = "PER_S")]
    non_reader_ramp: u32,
    /// Silent connections that come in a second, behind the non-readers; 0 for all at once. For all to be there together
    /// they have to come within the handshake deadline.
    #[arg(long, default_value_t = 5_000, value_name = "PER_S")]
    silent_ramp: u32,
    /// How long after its deadline a hostile client may be gone, at the 99th percentile, for the run to be a success. A
    /// server lets last words arrive for a second before it drops the socket.
    #[arg(long, value_parser = parse_duration, default_value = "3s", value_name = "TIME")]
    late_max: Duration,
    /// How many times its p99 from before the good sessions' heartbeat may take in each phase of the attack: while the
    /// hostile clients come (onset), while all are there (presence), while the silent ones are closed (silent_end), while
    /// only the others are there (non_readers_alone), while those are closed (non_readers_end).
    #[arg(long, default_value_t = 2.0, value_name = "TIMES")]
    ratio_max: f64,
}

/// The good sessions' heartbeats over some time.
#[derive(Debug, Clone, Copy, Default)]
struct Heartbeats {
    answered: u64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    took: Duration,
}

impl Heartbeats {
    fn to_json(self) -> Value {
        json!({
            "count": self.answered, "p50": self.p50_us, "p99": self.p99_us, "p999": self.p999_us,
            "took_s": self.took.as_secs_f64()
        })
    }

    /// How many times as long as before its 99th percentile takes.
    fn ratio(self, before: Self) -> f64 {
        self.p99_us as f64 / before.p99_us.max(1) as f64
    }
}

/// What the watch over a run saw.
struct Watched {
    before: Heartbeats,
    /// By their names, in their order.
    phases: Vec<(&'static str, Heartbeats)>,
    silent: Attacked,
    non_readers: Attacked,
    /// What the server kept for its clients to read when all were there, in bytes; `None` where it was not asked.
    unread_bytes: Option<f64>,
}

pub(crate) fn run(args: &Args, limit: DescriptorLimit) -> anyhow::Result<Report> {
    let target = &args.target;
    let shares = share_out(args.good, limit)?;
    let identity = Identity {
        prefix: run_prefix("good"),
        heartbeat: args.heartbeat,
        ramp: 0,
        retries: 3,
        held: true,
        topic: None,
    };
    let (clock, live) = (Clock::starting_at(Time(0)), Live::new());
    let watch = || see_through(args, limit, &live);
    let (watched, held) = hold_all(target, &identity, &shares, (&clock, &live), watch);
    let (watched, held) = (watched?, held?);
    Ok(report(args, &live, &held, &watched))
}

fn see_through(args: &Args, limit: DescriptorLimit, live: &Live) -> anyhow::Result<Watched> {
    let progress = Progress::counting(args.good as u64, "good sessions", args.target.quiet);
    let settled = || read(&live.established) + read(&live.failed);
    while settled() < args.good as u64 && !live.is_in(Stage::Ending) {
        progress.set(read(&live.established));
        thread::sleep(LOOK_EVERY);
    }
    drop(progress);
    live.enter(Stage::Holding);
    let before = watch(live, || thread::sleep(args.before)).1;
    let progress = Progress::timing(args.write_stall_deadline, "under attack", args.target.quiet);
    let watched = under_attack(args, limit, live, before);
    drop(progress);
    watched
}

/// Watches the heartbeats while `something` happens.
fn watch<T>(live: &Live, something: impl FnOnce() -> T) -> (T, Heartbeats) {
    let (start, answered) = (Instant::now(), read(&live.answered));
    let _ = live.delays.take([1.0]);
    let outcome = something();
    let [p50_us, p99_us, p999_us] = live.delays.take([0.5, 0.99, 0.999]).unwrap_or_default();
    let answered = read(&live.answered) - answered;
    (outcome, Heartbeats { answered, p50_us, p99_us, p999_us, took: start.elapsed() })
}

/// The attack, phase by phase, until the last hostile client is gone.
fn under_attack(
    args: &Args,
    limit: DescriptorLimit,
    live: &Live,
    before: Heartbeats,
) -> anyhow::Result<Watched> {
    let target = &args.target;
    let (hungry, fed) = feeder::waiting_line();
    // From behind the good sessions on, so that all have their own addresses.
    let non_readers = Crowd::of(args, limit, Manner::Deaf, Some(hungry))?;
    let silent = Crowd::of(args, limit, Manner::Silent, None)?;
    let metrics = Metrics::of(target);
    let (deaf_settled, silent_settled) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let mut phases = Vec::new();
        let ((non_readers, silent, deadlines), heartbeats) = watch(live, || {
            let deaf_since = Instant::now();
            let feeder = scope.spawn(move || feeder::feed(target, args.fill, &fed));
            let non_readers = non_readers.start(scope, target, &deaf_settled);
            non_readers.await_all(args.non_readers);
            // It ends once all are told of, and what it pushed is on disk.
            let fed = feeder.join().unwrap_or_else(|_| Err(anyhow!("the thread that pushes panicked")));
            let silent_since = Instant::now();
            let silent = silent.start(scope, target, &silent_settled);
            silent.await_all(args.silent);
            let deadlines = fed
                .map(|()| (silent_since + args.handshake_deadline, deaf_since + args.write_stall_deadline));
            (non_readers, silent, deadlines)
        });
        phases.push(("onset", heartbeats));
        let now = Instant::now();
        let (silent_deadline, deaf_deadline) = *deadlines.as_ref().unwrap_or(&(now, now));
        let (unread_bytes, heartbeats) = watch(live, || {
            let unread_bytes = metrics.map(|metrics| metrics.read()?.value(OUTPUT_METRIC)).transpose();
            sleep_until(silent_deadline.min(deaf_deadline));
            unread_bytes
        });
        phases.push(("presence", heartbeats));
        let (silent, heartbeats) = watch(live, || silent.join());
        phases.push(("silent_end", heartbeats));
        phases.push(("non_readers_alone", watch(live, || sleep_until(deaf_deadline)).1));
        let (non_readers, heartbeats) = watch(live, || non_readers.join());
        phases.push(("non_readers_end", heartbeats));
        deadlines?;
        let (silent, non_readers, unread_bytes) = (silent?, non_readers?, unread_bytes?);
        Ok(Watched { before, phases, silent, non_readers, unread_bytes })
    })
}

/// The attack comes from elsewhere: where it shares the processors, what it takes itself is not to hold up the good
/// sessions. Where the system does not have this, it does.
fn let_others_go_first() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
}

fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// The hostile clients of one kind, before they come.
struct Crowd(Vec<Attack>);

impl Crowd {
    fn of(
        args: &Args,
        limit: DescriptorLimit,
        manner: Manner,
        hungry: Option<feeder::Hungry>,
    ) -> anyhow::Result<Self> {
        let (clients, first, ramp, deadline) = match manner {
            Manner::Silent => (args.silent, args.good, args.silent_ramp, args.handshake_deadline),
            Manner::Deaf => {
                let first = args.good + args.silent;
                (args.non_readers, first, args.non_reader_ramp, args.write_stall_deadline)
            }
        };
        let prefix = run_prefix("deaf");
        let attack = |share: Share| Attack {
            manner,
            clients: share.wanted,
            // Each thread's share of the rate.
            ramp: (u64::from(ramp) * share.wanted as u64).div_ceil(share.total as u64) as u32,
            hungry: hungry.clone(),
            first: first + share.first,
            sources: share.sources,
            prefix: prefix.clone(),
            deadline,
        };
        Ok(Self(share_out(clients, limit)?.into_iter().map(attack).collect()))
    }

    fn start<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        target: &'scope Target,
        settled: &'scope AtomicU64,
    ) -> Attackers<'scope> {
        let start = |each: Attack| scope.spawn(move || attack(each, target, settled));
        Attackers { threads: self.0.into_iter().map(start).collect(), settled }
    }
}

/// The same, once they come.
struct Attackers<'scope> {
    threads: Vec<ScopedJoinHandle<'scope, anyhow::Result<Attacked>>>,
    settled: &'scope AtomicU64,
}

impl Attackers<'_> {
    /// Returns when all are hostile or were turned away, or nobody comes any more.
    fn await_all(&self, clients: usize) {
        let has_ended = || self.threads.iter().all(ScopedJoinHandle::is_finished);
        while read(self.settled) < clients as u64 && !has_ended() {
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Returns when all are gone.
    fn join(self) -> anyhow::Result<Attacked> {
        let mut all = Attacked::new();
        for thread in self.threads {
            all.add(thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the attack panicked")))?);
        }
        Ok(all)
    }
}

fn report(args: &Args, live: &Live, held: &Held, watched: &Watched) -> Report {
    let Watched { before, phases, silent, non_readers, unread_bytes } = watched;
    let (established, failed, lost) = (read(&live.established), read(&live.failed), read(&live.lost));
    let took = before.took + phases.iter().map(|(_, heartbeats)| heartbeats.took).sum::<Duration>();
    let mut report = Report::new(&args.target, "heartbeats", held.heartbeats.count(), took, &held.heartbeats);
    report.say(format!(
        "good: {established} held, {failed} failed, {lost} lost, {} heartbeats missed",
        held.missed
    ));
    for (reason, times) in &held.reasons {
        report.say(format!("  {times} × {reason}"));
    }
    report.set(
        "good",
        json!({
            "established": established, "failed": failed, "lost": lost, "missed_heartbeats": held.missed
        }),
    );
    let mut faults = tell_phases(args, &mut report, *before, phases);
    if let Some(bytes) = unread_bytes {
        let each = bytes / args.non_readers.max(1) as f64;
        report.say(format!(
            "unread at the server with all of them there: {bytes} bytes, {each:.0} a non-reader"
        ));
        report.set("unread_bytes", json!(bytes));
        if each < 1.0 {
            faults.push(
                "the server kept nothing for the non-readers: all of it was sent; see --fill".to_owned(),
            );
        }
    }
    for (name, of, wanted) in
        [("silent", silent, args.silent), ("non_readers", non_readers, args.non_readers)]
    {
        tell(&mut report, name, of);
        faults.extend(attack_faults(args, name, of, wanted as u64));
    }
    if failed + lost + held.missed > 0 {
        faults.push("not all good sessions were held with all their heartbeats".to_owned());
    }
    report.set("faults", json!(faults));
    if !faults.is_empty() {
        report.fail(faults.join("; "));
    }
    report
}

/// The heartbeats phase by phase, and what is not as it should be with them.
fn tell_phases(
    args: &Args,
    report: &mut Report,
    before: Heartbeats,
    phases: &[(&'static str, Heartbeats)],
) -> Vec<String> {
    let (mut faults, mut told, mut worst) = (Vec::new(), Map::new(), 0.0_f64);
    for (name, of) in [("before", before)].iter().chain(phases) {
        let Heartbeats { answered, p50_us, p99_us, p999_us, took } = *of;
        let ratio = of.ratio(before);
        report.say(format!(
            "heartbeat, {name}: p50 {p50_us} us, p99 {p99_us} us, p99.9 {p999_us} us, p99 ÷ before {ratio:.2} \
             ({answered} in {took:.1?})"
        ));
        let mut fields = of.to_json();
        fields["p99_ratio"] = json!(ratio);
        told.insert((*name).to_owned(), fields);
        if answered < HEARTBEATS_MIN {
            continue;
        }
        worst = worst.max(ratio);
        if ratio >= args.ratio_max {
            faults.push(format!("{name}: the p99 of the good sessions' heartbeats grew {ratio:.2} times"));
        }
    }
    if before.answered < HEARTBEATS_MIN {
        faults.push("there were too few heartbeats to compare; see --heartbeat and --before".to_owned());
    }
    report.set("phases", Value::from(told));
    report.set("p99_ratio", json!(worst));
    faults
}

fn tell(report: &mut Report, name: &str, of: &Attacked) {
    let Attacked { open, late, early, left, reasons } = of;
    let gone = late.count();
    report.say(format!("{name}: {open} open, {gone} gone at their deadline, {early} before, {left} left"));
    report.say(format!("  gone after the deadline, us: {}", late.to_line()));
    for (reason, times) in reasons {
        report.say(format!("  {times} × {reason}"));
    }
    report.set(name, json!({
        "open": open, "gone": gone, "early": early, "left": left, "late_us": late.to_json(), "reasons": reasons
    }));
}

/// What is not as it should be with the hostile clients of one kind.
fn attack_faults(args: &Args, name: &str, of: &Attacked, wanted: u64) -> Vec<String> {
    let late = of.late.at(0.99);
    let is_late = late > args.late_max;
    let faults = [
        (of.open < wanted, format!("{} of {wanted} {name} were turned away", wanted - of.open.min(wanted))),
        (of.early > 0, format!("{} {name} were closed before their deadline", of.early)),
        (of.left > 0, format!("{} {name} were never closed", of.left)),
        (is_late, format!("{name} were closed {late:.1?} after their deadline")),
    ];
    faults.into_iter().filter_map(|(is_one, fault)| is_one.then_some(fault)).collect()
}
