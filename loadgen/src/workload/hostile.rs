//! Good sessions beside hostile clients: the good ones' heartbeats before and during, and the hostile ones' end.
//!
//! The good sessions are held as `connect` holds them. Once all are there their heartbeats are watched for a while alone,
//! and then while the attack goes on ([`attack`]): clients that say nothing, and sessions that never read.

mod attack;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use relaymesh::clock::{Clock, Time};
use relaymesh::host::DescriptorLimit;
use serde_json::{Value, json};

use self::attack::{Attack, Attacked, Manner, attack};
use super::connect::share_out;
use super::hold::{Held, Live, Stage, hold_all, read};
use super::run_prefix;
use crate::fleet::Identity;
use crate::options::{Target, parse_duration};
use crate::progress::Progress;
use crate::report::Report;

/// How often the run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

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
    /// Sessions that never read: each is sent a message through its mailbox that the server cannot write.
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
    /// Bytes of the message that each non-reader is sent, so that its receive buffer and the server's send buffer are full.
    #[arg(long, default_value_t = 96 * 1024, value_name = "BYTES")]
    fill: usize,
    /// Hostile clients of each kind that come in a second.
    #[arg(long, default_value_t = 5_000, value_name = "PER_S")]
    attack_rate: u32,
    /// How long after its deadline a hostile client may be gone, at the 99th percentile, for the run to be a success. A
    /// server lets last words arrive for a second before it drops the socket.
    #[arg(long, value_parser = parse_duration, default_value = "3s", value_name = "TIME")]
    late_max: Duration,
    /// How many times its p99 from before the good sessions' heartbeat may take during the attack.
    #[arg(long, default_value_t = 2.0, value_name = "TIMES")]
    ratio_max: f64,
}

/// The good sessions' heartbeats over some time.
#[derive(Debug, Clone, Copy, Default)]
struct Heartbeats {
    answered: u64,
    p50_us: u64,
    p99_us: u64,
    took: Duration,
}

impl Heartbeats {
    fn to_json(self) -> Value {
        json!({
            "count": self.answered, "p50": self.p50_us, "p99": self.p99_us, "took_s": self.took.as_secs_f64()
        })
    }
}

/// What the watch over a run saw.
struct Watched {
    before: Heartbeats,
    during: Heartbeats,
    silent: Attacked,
    non_readers: Attacked,
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
    let ((silent, non_readers), during) = watch(live, || attack_all(args, limit));
    drop(progress);
    Ok(Watched { before, during, silent: silent?, non_readers: non_readers? })
}

/// Watches the heartbeats while `something` happens.
fn watch<T>(live: &Live, something: impl FnOnce() -> T) -> (T, Heartbeats) {
    let (start, answered) = (Instant::now(), read(&live.answered));
    let _ = live.delays.take([1.0]);
    let outcome = something();
    let [p50_us, p99_us] = live.delays.take([0.5, 0.99]).unwrap_or_default();
    let answered = read(&live.answered) - answered;
    (outcome, Heartbeats { answered, p50_us, p99_us, took: start.elapsed() })
}

type Outcome = anyhow::Result<Attacked>;

/// All hostile clients at once, until the last one is gone.
fn attack_all(args: &Args, limit: DescriptorLimit) -> (Outcome, Outcome) {
    let deaf = Manner::Deaf { message_bytes: args.fill };
    // From behind the good sessions on, so that all have their own addresses.
    let of = |manner, clients, first, deadline| -> anyhow::Result<Vec<Attack>> {
        let prefix = run_prefix("deaf");
        let attack = |share: crate::fleet::Share| Attack {
            manner,
            clients: share.wanted,
            // Each thread's share of the rate.
            per_s: (u64::from(args.attack_rate) * share.wanted as u64).div_ceil(share.total as u64) as u32,
            first: first + share.first,
            sources: share.sources,
            prefix: prefix.clone(),
            deadline,
        };
        Ok(share_out(clients, limit)?.into_iter().map(attack).collect())
    };
    let silent = of(Manner::Silent, args.silent, args.good, args.handshake_deadline);
    let non_readers = of(deaf, args.non_readers, args.good + args.silent, args.write_stall_deadline);
    thread::scope(|scope| {
        let start = |attacks: anyhow::Result<Vec<Attack>>| {
            let start = |each: Attack| scope.spawn(move || attack(&each, &args.target));
            attacks.map(|attacks| attacks.into_iter().map(start).collect::<Vec<_>>())
        };
        let (silent, non_readers) = (start(silent), start(non_readers));
        let join = |threads: anyhow::Result<Vec<thread::ScopedJoinHandle<'_, Outcome>>>| {
            let mut all = Attacked::new();
            for thread in threads? {
                all.add(thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the attack panicked")))?);
            }
            Ok(all)
        };
        (join(silent), join(non_readers))
    })
}

fn report(args: &Args, live: &Live, held: &Held, watched: &Watched) -> Report {
    let Watched { before, during, silent, non_readers } = watched;
    let (established, failed, lost) = (read(&live.established), read(&live.failed), read(&live.lost));
    let took = before.took + during.took;
    let mut report = Report::new(&args.target, "heartbeats", held.heartbeats.count(), took, &held.heartbeats);
    report.say(format!(
        "good: {established} held, {failed} failed, {lost} lost, {} heartbeats missed",
        held.missed
    ));
    for (reason, times) in &held.reasons {
        report.say(format!("  {times} × {reason}"));
    }
    let ratio = during.p99_us as f64 / before.p99_us.max(1) as f64;
    for (when, of) in [("before", before), ("during", during)] {
        let Heartbeats { answered, p50_us, p99_us, took } = of;
        report.say(format!("heartbeat {when}: p50 {p50_us} us, p99 {p99_us} us ({answered} in {took:.1?})"));
        report.set(when, of.to_json());
    }
    report.say(format!("p99 during ÷ before: {ratio:.2}"));
    report.set(
        "good",
        json!({
            "established": established, "failed": failed, "lost": lost, "missed_heartbeats": held.missed
        }),
    );
    report.set("p99_ratio", json!(ratio));
    let mut faults = Vec::new();
    for (name, of, wanted) in
        [("silent", silent, args.silent), ("non_readers", non_readers, args.non_readers)]
    {
        tell(&mut report, name, of);
        faults.extend(attack_faults(args, name, of, wanted as u64));
    }
    if failed + lost + held.missed > 0 {
        faults.push("not all good sessions were held with all their heartbeats".to_owned());
    }
    if before.answered == 0 || during.answered == 0 {
        faults.push("there were no heartbeats to compare; see --heartbeat and --before".to_owned());
    } else if ratio >= args.ratio_max {
        faults.push(format!("the p99 of the good sessions' heartbeats grew {ratio:.2} times"));
    }
    report.set("faults", json!(faults));
    if !faults.is_empty() {
        report.fail(faults.join("; "));
    }
    report
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
