//! Storms: the server is killed or drained with all its sessions on it and started again, and they come back.
//!
//! The sessions are shared out over threads with a descriptor table each ([`clients`]); one agent keeps a durable queue
//! going through it all ([`traffic`]); the server is a process of this run ([`server`]). This one drives the storms,
//! one for each policy by which clients come back, and sets the results side by side.

mod clients;
mod server;
mod traffic;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use relaymesh::clock::{Clock, Time};
use relaymesh::host::DescriptorLimit;
use serde_json::{Value, json};

use self::clients::{Live, Part, Policy, drive};
use self::server::{Cpu, Server, watch_cpu};
use self::traffic::{Agent, Asks, Window};
use super::connect::share_out;
use super::run_prefix;
use crate::fleet::Identity;
use crate::options::{Target, parse_duration};
use crate::progress::Progress;
use crate::report::{Delays, Report};

/// How often the run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What threads may take to hand in what they counted.
const PARTS_WITHIN: Duration = Duration::from_secs(60);
/// How long all sessions may take to be there if the run is not told: this, and so much for each of them. A machine whose
/// two cores the generator shares with the server takes on about 10,000 a second.
const TIMEOUT_MIN: Duration = Duration::from_secs(120);
const TIMEOUT_EACH: Duration = Duration::from_micros(600);
const QUEUE: &str = "storm";

/// Kill or drain a server with all its sessions on it, start it again, and see how they come back.
///
/// The server is started by the run, with a data directory of its own; `--connect` and `--admin` do not matter. With
/// `--policy all` the same sessions go through one storm for each policy.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// How many sessions.
    #[arg(long, default_value = "1000", value_name = "N")]
    connections: NonZeroUsize,
    /// When clients come back: in the server's slots (as the SDK does), exponentially with jitter whatever the server
    /// says, or at once; all, one after the other.
    #[arg(long, value_enum, default_value = "all")]
    policy: Policies,
    /// End the server with SIGKILL, as when none is said.
    #[arg(long, conflicts_with = "drain")]
    kill: bool,
    /// End the server with SIGTERM: it tells its clients to go, and when to come back.
    #[arg(long)]
    drain: bool,
    /// How long the server stays away before it is started again.
    #[arg(long, value_parser = parse_duration, default_value = "0s", value_name = "TIME")]
    down: Duration,
    /// How long all is left in peace before each storm: a client that was back for 10 s begins anew with its delays.
    #[arg(long, value_parser = parse_duration, default_value = "10s", value_name = "TIME")]
    calm: Duration,
    /// Each session's heartbeat.
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    heartbeat: Duration,
    /// Messages a second of the agent whose traffic is to survive.
    #[arg(long, default_value_t = 200, value_name = "PER_S")]
    rate: u32,
    /// How long it may take until all sessions are set up, and until all are back from a storm, counted from the server's end;
    /// what it takes to drain the server included. 2 minutes and another for each 100,000 sessions unless given. A storm after
    /// which not all are back by then is over, and the run a failure.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// The server's program; the relaymesh beside this one if not set.
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// What the server is told beside where it listens, in one argument: --server-args '--loops 2'.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, default_value = "")]
    server_args: String,
    /// Where the server keeps its data; a temporary directory, removed afterwards, if not set.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policies {
    Slots,
    Jitter,
    None,
    All,
}

impl Policies {
    fn each(self) -> &'static [Policy] {
        match self {
            Self::Slots => &[Policy::Slots],
            Self::Jitter => &[Policy::Jitter],
            Self::None => &[Policy::None],
            Self::All => &[Policy::Slots, Policy::Jitter, Policy::None],
        }
    }
}

impl Args {
    fn timeout(&self) -> Duration {
        self.timeout.unwrap_or_else(|| TIMEOUT_MIN + TIMEOUT_EACH * self.connections.get() as u32)
    }
}

/// What a run is doing, for the line that moves.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Step {
    SetUp,
    Ending,
    Away,
    Starting,
    Back,
}

impl Step {
    const ALL: [Self; 5] = [Self::SetUp, Self::Ending, Self::Away, Self::Starting, Self::Back];

    fn name(self) -> &'static str {
        match self {
            Self::SetUp => "sessions set up",
            Self::Ending => "the server ends, sessions left",
            Self::Away => "the server is away, sessions left",
            Self::Starting => "the server starts, sessions left",
            Self::Back => "sessions back",
        }
    }
}

/// What came of one storm. Times count from the moment the server was told to end, or killed.
struct Storm {
    policy: Policy,
    /// When the server listened again.
    listening: Duration,
    /// When the last session was back; `None` when some never were.
    back: Option<Duration>,
    sessions_back: u64,
    part: Part,
    cpu: Cpu,
    window: Window,
}

/// What the storms of a run share.
struct Run<'a> {
    args: &'a Args,
    clock: &'a Clock,
    live: &'a Live,
    threads: usize,
    parts: Receiver<Part>,
    traffic: Asks,
}

pub(crate) fn run(args: &Args, limit: DescriptorLimit) -> anyhow::Result<Report> {
    let sessions = args.connections.get();
    let shares = share_out(sessions, limit)?;
    let mut server = Server::new(args.server_bin.clone(), server_arguments(args), args.data_dir.clone())?;
    server.start()?;
    let target = Target {
        connect: server.listen,
        admin: Some(server.admin.to_string()),
        server_pid: None,
        ..args.target.clone()
    };
    let identity = Identity {
        prefix: run_prefix("storm"),
        heartbeat: args.heartbeat,
        ramp: 0,
        retries: 0,
        held: true,
        topic: None,
    };
    let agent = Agent {
        connect: server.listen.to_string(),
        namespace: target.namespace.clone(),
        token: target.token.clone(),
        client: run_prefix("agent"),
        queue: QUEUE.to_owned(),
        rate: args.rate,
    };
    let (clock, live) = (Clock::starting_at(Time(0)), Live::new());
    let all_have_tables = Barrier::new(shares.len() + 1);
    let (traffic, asked) = Asks::new();
    let (send_part, parts) = sync_channel(shares.len());
    let storms = thread::scope(|scope| {
        let threads: Vec<_> = (shares.iter())
            .map(|&share| {
                let (target, identity, clock, live) = (&target, &identity, &clock, &live);
                let (tables, parts) = (&all_have_tables, send_part.clone());
                scope.spawn(move || drive(target, identity, share, clock, live, tables, parts))
            })
            .collect();
        all_have_tables.wait();
        let (agent, agents_clock) = (&agent, &clock);
        let agent = scope.spawn(move || traffic::run(agent, agents_clock, &asked));
        let run = Run { args, clock: &clock, live: &live, threads: shares.len(), parts, traffic };
        let storms = run.storms(&mut server);
        // The agent ends when nobody can ask it any more.
        drop(run);
        live.end();
        let mut ended = vec![agent.join()];
        ended.extend(threads.into_iter().map(thread::ScopedJoinHandle::join));
        for of_thread in ended {
            of_thread.unwrap_or_else(|_| Err(anyhow!("a thread of the run panicked")))?;
        }
        storms
    })?;
    let left = left_in_queue(&target)?;
    report(args, &target, &storms, left)
}

/// What the server is told beside where it listens.
fn server_arguments(args: &Args) -> Vec<String> {
    let mut arguments: Vec<String> = args.server_args.split_ascii_whitespace().map(str::to_owned).collect();
    if !arguments.iter().any(|argument| argument.starts_with("--max-sessions")) {
        // The agent's as well, and some for those that come back before the server has seen them go.
        let sessions = args.connections.get() + args.connections.get() / 50 + 100;
        arguments.extend(["--max-sessions".to_owned(), sessions.to_string()]);
    }
    arguments
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Run<'_> {
    /// All storms, once all sessions are there; fewer when the sessions do not come back any more.
    fn storms(&self, server: &mut Server) -> anyhow::Result<Vec<Storm>> {
        if !self.watched(|_| self.await_sessions(0, self.clock.time()))? {
            bail!(
                "only {} of {} sessions were set up within {:?}; see --timeout",
                read(&self.live.up),
                self.args.connections,
                self.args.timeout()
            );
        }
        let mut storms = Vec::new();
        for &policy in self.args.policy.each() {
            // Those that an earlier storm left outside come in as the SDK does.
            self.live.adopt(Policy::Slots);
            if !self.watched(|_| self.await_sessions(0, self.clock.time()))? {
                break;
            }
            storms.push(self.storm(policy, server)?);
        }
        Ok(storms)
    }

    fn storm(&self, policy: Policy, server: &mut Server) -> anyhow::Result<Storm> {
        thread::sleep(self.args.calm);
        // What is on its way belongs to the calm before.
        self.traffic.settle(self.args.timeout())?;
        self.live.adopt(policy);
        self.parts()?;
        let (lost_before, is_over) = (read(&self.live.lost), AtomicBool::new(false));
        let pid = Arc::clone(&server.pid);
        self.traffic.begin()?;
        let began_us = self.clock.micros();
        let (course, cpu) = thread::scope(|scope| {
            let watch = scope.spawn(|| watch_cpu(&pid, &is_over, self.clock));
            let course = self.watched(|step| self.course(server, lost_before, began_us, step));
            is_over.store(true, Ordering::Relaxed);
            (course, watch.join().unwrap_or_default())
        });
        let (listening, is_back) = course?;
        let back_us = read(&self.live.last_welcome_us).saturating_sub(began_us);
        let sessions_back = read(&self.live.up);
        let window = self.traffic.settle(self.args.timeout())?;
        let back = is_back.then(|| Duration::from_micros(back_us));
        Ok(Storm { policy, listening, back, sessions_back, part: self.parts()?, cpu, window })
    }

    /// Ends the server, starts it again and waits for the sessions. Returns when it listened again and whether all came.
    fn course(
        &self,
        server: &mut Server,
        lost_before: u64,
        began_us: u64,
        step: &AtomicU8,
    ) -> anyhow::Result<(Duration, bool)> {
        let began = self.clock.time();
        let enter = |next: Step| step.store(next as u8, Ordering::Relaxed);
        enter(Step::Ending);
        if self.args.drain {
            server.drain(self.clock, self.args.timeout())?;
        } else {
            server.kill();
        }
        enter(Step::Away);
        thread::sleep(self.args.down);
        enter(Step::Starting);
        server.start()?;
        let listening = Duration::from_micros(self.clock.micros() - began_us);
        enter(Step::Back);
        let sessions = self.args.connections.get() as u64;
        let is_back = self.await_sessions(lost_before + sessions, began)?;
        Ok((listening, is_back))
    }

    /// Waits until all sessions are there and so many were lost in all. False when it takes too long from `since` on.
    fn await_sessions(&self, lost: u64, since: Time) -> anyhow::Result<bool> {
        let total = self.args.connections.get() as u64;
        loop {
            let up = read(&self.live.up);
            if up >= total && read(&self.live.lost) >= lost {
                return Ok(true);
            }
            if self.live.is_ending() {
                bail!("a thread of the run ended early");
            }
            let given_up = read(&self.live.given_up);
            if up + given_up >= total && given_up > 0 || self.clock.time() >= since + self.args.timeout() {
                return Ok(false);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Shows how far the run is while it does something, which tells its [`Step`].
    fn watched<T>(&self, something: impl FnOnce(&AtomicU8) -> T) -> T {
        let (step, is_over) = (AtomicU8::new(Step::SetUp as u8), AtomicBool::new(false));
        thread::scope(|scope| {
            let drawing = scope.spawn(|| {
                let total = self.args.connections.get() as u64;
                let progress = Progress::counting(total, Step::SetUp.name(), self.args.target.quiet);
                while !is_over.load(Ordering::Relaxed) {
                    let number = step.load(Ordering::Relaxed);
                    let now = Step::ALL.into_iter().find(|step| *step as u8 == number);
                    let failed = read(&self.live.failed_attempts);
                    progress.set(read(&self.live.up));
                    progress.say(format!("{}, {failed} attempts failed", now.unwrap_or(Step::SetUp).name()));
                    thread::sleep(LOOK_EVERY);
                }
            });
            let outcome = something(&step);
            is_over.store(true, Ordering::Relaxed);
            // A line that is not drawn is no reason to fail.
            let _ = drawing.join();
            outcome
        })
    }

    /// What the threads counted since they were last asked.
    fn parts(&self) -> anyhow::Result<Part> {
        self.live.call_for_parts();
        let mut all = Part::new();
        for _ in 0..self.threads {
            all.add(self.parts.recv_timeout(PARTS_WITHIN).context("a thread of the run does not answer")?);
        }
        Ok(all)
    }
}

/// Messages left in the agent's queue, in any state, when all of them were acked.
fn left_in_queue(target: &Target) -> anyhow::Result<u64> {
    let admin = target.admin.as_deref().unwrap_or_default();
    let url = format!("http://{admin}/api/v1/queue-stats");
    let mut answer = ureq::get(url)
        .query("queue", QUEUE)
        .query("namespace", target.namespace.as_str())
        .header("authorization", format!("Bearer {}", target.token))
        .call()
        .context("cannot ask the server what is left in the queue")?;
    let stats: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
    let count = |state: &str| stats[state].as_u64().unwrap_or(0);
    Ok(["ready", "scheduled", "leased", "dead"].into_iter().map(count).sum())
}

fn report(args: &Args, target: &Target, storms: &[Storm], left: u64) -> anyhow::Result<Report> {
    let sessions = args.connections.get() as u64;
    let Some(first) = storms.first() else { bail!("no storm was run") };
    let took = first.back.unwrap_or(args.timeout());
    let what = format!("sessions back ({})", first.policy.name());
    let mut report = Report::new(target, &what, first.sessions_back, took, &first.window.delivered);
    let ending = if args.drain { "drained" } else { "killed" };
    report.say(format!(
        "{sessions} sessions, the server {ending}; delays of the surviving traffic in ms, from due to delivered:"
    ));
    report.say(HEAD.to_owned());
    storms.iter().for_each(|storm| report.say(storm.to_line()));
    let lost = storms.iter().map(|storm| storm.window.lost).sum::<u64>() + left;
    report.say(format!("{lost} lost messages"));
    report.set("connections", json!(args.connections));
    report.set("ending", json!(ending));
    report.set("lost_messages", json!(lost));
    report.set("storms", storms.iter().map(Storm::to_json).collect());
    if lost > 0 {
        report.fail(format!("{lost} acknowledged messages were never delivered, or never acked"));
    }
    for storm in storms.iter().filter(|storm| storm.back.is_none()) {
        let (back, policy) = (storm.sessions_back, storm.policy.name());
        report.fail(format!("{back} of {sessions} sessions came back with {policy}; see --timeout"));
    }
    if let Some(next) = args.policy.each().get(storms.len()) {
        report.fail(format!("the sessions never were all there for a storm with {}", next.name()));
    }
    Ok(report)
}

const HEAD: &str = "policy   listening    all back  attempts failed: mean  p99   max  peak cores  cpu s   delay p50       p99       max";

impl Storm {
    fn to_line(&self) -> String {
        let (mean, p99, most) = self.part.attempts();
        let back =
            self.back.map_or_else(|| "never".to_owned(), |back| format!("{:.2} s", back.as_secs_f64()));
        let [p50_ms, p99_ms, max_ms] = millis(&self.window.delivered);
        format!(
            "{:<6} {:>9.2} s {back:>11} {mean:>22.2} {p99:>4} {most:>5} {:>11.2} {:>6.1} {p50_ms:>11.1} {p99_ms:>9.1} \
             {max_ms:>9.1}",
            self.policy.name(),
            self.listening.as_secs_f64(),
            self.cpu.peak,
            self.cpu.seconds,
        )
    }

    fn to_json(&self) -> Value {
        let (mean, p99, most) = self.part.attempts();
        let Window { published, delivered, duplicates, refused, lost } = &self.window;
        json!({
            "policy": self.policy.name(),
            "listening_s": self.listening.as_secs_f64(),
            "all_back_s": self.back.map(|back| back.as_secs_f64()),
            "sessions_back": self.sessions_back,
            "failed_attempts": {"mean": mean, "p99": p99, "max": most},
            "reasons": self.part.reasons,
            "server_peak_cores": self.cpu.peak,
            "server_cpu_s": self.cpu.seconds,
            "traffic": {
                "published": published.count(),
                "publish_us": published.to_json(),
                "delivered": delivered.count(),
                "deliver_us": delivered.to_json(),
                "duplicates": duplicates,
                "refused": refused,
                "lost": lost,
            },
            "heartbeat_rtt_us": self.part.heartbeats.to_json(),
        })
    }
}

/// Median, p99 and longest delay in milliseconds.
fn millis(delays: &Delays) -> [f64; 3] {
    let all = delays.to_json();
    ["p50", "p99", "max"].map(|name| all[name].as_u64().unwrap_or(0) as f64 / 1000.0)
}
