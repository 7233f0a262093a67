//! Fairness: how long the messages of small tenants wait beside one tenant that publishes a thousand times more, against
//! the same total load spread evenly over all.
//!
//! Both runs have arrivals drawn at random with the same mean rate and fixed before the run, the same ones unless the large
//! tenant's come in bursts; they differ in whose each message is. What is told is the wait from when a message was due to its delivery, so a server that reads
//! late or lets the small ones stand behind the large one is charged for it ([`tenants`] says who does what).

mod tenants;

use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::ValueEnum;
use relaymesh::client::{Event, Message};
use relaymesh::clock::{Clock, Time};
use relaymesh::ids::{QueueName, SubscriptionId};
use relaymesh::limits::MESSAGE_BYTES_MAX;
use relaymesh::wire::{DeliverView, proto};
use serde_json::{Value, json};

use super::{IDLE_TURN, Ticker, run_prefix};
use crate::fleet::{Fleet, Identity, Link, Share, Workload};
use crate::options::{Target, parse_duration};
use crate::progress::Progress;
use crate::report::{Delays, Report};
use crate::stamp::{self, STAMP_BYTES};

use tenants::{Arrivals, Spread, Tenant, Worker};

const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);
/// What a payload has at least: when it was due, and whose it is.
const PAYLOAD_BYTES_MIN: usize = STAMP_BYTES + 4;
/// Messages that a tenant's agents hold at once, where each tenant has its own.
const CREDIT_OF_OWN: u32 = 256;
/// Publishes of one tenant without an answer.
const IN_FLIGHT_MAX: u32 = 1024;

/// What tells tenants apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// One queue, a fairness key for each tenant; all share the agents.
    Key,
    /// A namespace for each, with its own queue and agent. Its agents ack at once, and --rate must be near what the server
    /// can do for the run to show anything.
    Namespace,
    /// Nothing: one queue, in order of arrival. What the others are good for shows against this.
    Nothing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// How many tenants.
    #[arg(long, default_value = "100", value_name = "N")]
    tenants: NonZeroU32,
    /// How many times more than each of the others the first publishes.
    #[arg(long, default_value = "1000", value_name = "TIMES")]
    hot: NonZeroU32,
    /// How many of its messages fall due together. Where each comes by itself, a queue in order of arrival lets everybody
    /// wait alike; bursts are what the others would have to stand behind.
    #[arg(long, default_value = "1", value_name = "N")]
    burst: NonZeroU32,
    /// What tells them apart.
    #[arg(long, value_enum, default_value = "key")]
    by: By,
    /// Messages a second, of all tenants.
    #[arg(long, default_value = "9000", value_name = "PER_S")]
    rate: NonZeroU32,
    /// Messages a second that all agents together can work on.
    #[arg(long, default_value = "10000", value_name = "PER_S")]
    work_rate: NonZeroU32,
    /// Agents, each with one message at a time; not with --by namespace. So many times the pace of all is how long each has
    /// for the way of an ack and the next message; one that gets its message later has lost its turn.
    #[arg(long, default_value = "128", value_name = "N")]
    agents: NonZeroUsize,
    /// How long messages are published, in each of the two runs.
    #[arg(long, value_parser = parse_duration, default_value = "10s", value_name = "TIME")]
    duration: Duration,
    /// What is due so soon after the beginning is not counted.
    #[arg(long, value_parser = parse_duration, default_value = "1s", value_name = "TIME")]
    warm_up: Duration,
    /// The queue's name; each run adds its own ending.
    #[arg(long, default_value = "fair")]
    queue: QueueName,
    /// Bytes of each payload, at least the 20 that tell when it was due and whose it is.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    size: usize,
}

/// How long messages waited.
#[derive(Debug)]
struct Waits {
    hot: Delays,
    others: Delays,
}

/// A run with one spread of the load.
struct Fair<'a> {
    args: &'a Args,
    queue: String,
    arrivals: Arrivals,
    tenants: Vec<Tenant>,
    workers: Vec<Worker>,
    /// Tenants with something due and room to send it, each once.
    ready: VecDeque<usize>,
    /// Places in the agents' common pace that went by.
    ticks: u64,
    start_us: u64,
    /// What the machine's clock shows beyond the run's.
    stamps_ahead_us: u64,
    total: u64,
    done: u64,
    waits: Waits,
    progress: Progress,
    ticker: Ticker,
}

impl Fair<'_> {
    /// What was due by now waits for its tenant's connection.
    fn admit(&mut self, now_us: u64) {
        while let Some((due_us, tenant)) = self.arrivals.next_by(now_us - self.start_us) {
            let waiting = &mut self.tenants[tenant];
            waiting.due_us.push_back(self.start_us + due_us);
            if !std::mem::replace(&mut waiting.is_ready, true) {
                self.ready.push_back(tenant);
            }
        }
    }

    /// Sends what is due of this connection's tenant.
    fn publish(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        let tenant = &mut self.tenants[link.number];
        tenant.is_ready = false;
        while tenant.producer.in_flight() < IN_FLIGHT_MAX as usize
            && let Some(due_us) = tenant.due_us.pop_front()
        {
            stamp::restamp(&mut tenant.body, due_us + self.stamps_ahead_us);
            tenant.producer.publish(link, &self.queue, &tenant.body, due_us)?;
        }
        Ok(())
    }

    /// When an agent of the shared ones may next finish a message, and which.
    fn tick(&self) -> Option<(u64, usize)> {
        if self.args.by == By::Namespace {
            return None;
        }
        let at_us = self.start_us + self.ticks * 1_000_000 / u64::from(self.args.work_rate.get());
        Some((at_us, (self.ticks % self.workers.len() as u64) as usize))
    }

    fn delivered(&mut self, link: &mut Link<'_>, view: &DeliverView<'_>) -> anyhow::Result<()> {
        for delivery in view.deliveries() {
            let payload = stamp::payload(delivery.message).unwrap_or_default();
            let Some((due_us, tenant)) = stamp::stamp_in(payload).zip(tenants::tenant_in(payload)) else {
                bail!("a message of another run: use another --queue");
            };
            if due_us >= self.start_us + self.stamps_ahead_us + self.args.warm_up.as_micros() as u64 {
                let waits = if tenant == 0 { &mut self.waits.hot } else { &mut self.waits.others };
                waits.record(stamp::now_us().saturating_sub(due_us));
            }
            if self.args.by == By::Namespace {
                link.machine.ack(&[delivery.lease], true, link.out)?;
            } else {
                self.workers[link.number - self.tenants.len()].holds = Some(delivery.lease);
            }
        }
        Ok(())
    }
}

impl Workload for Fair<'_> {
    fn hello(&mut self, number: usize, _now_us: u64, hello: &mut proto::Hello) {
        if self.args.by == By::Namespace {
            hello.namespace = tenants::name((number % self.tenants.len()) as u32);
        }
    }

    fn welcomed(&mut self, _link: &mut Link<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn begin(&mut self, now_us: u64) {
        self.start_us = now_us;
        self.stamps_ahead_us = stamp::now_us() - now_us;
    }

    fn start(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        let Some(worker) = link.number.checked_sub(self.tenants.len()) else { return self.publish(link) };
        let worker = &mut self.workers[worker];
        if !worker.is_subscribed {
            worker.is_subscribed = true;
            let credit = if self.args.by == By::Namespace { CREDIT_OF_OWN } else { 1 };
            link.machine.subscribe(SUBSCRIPTION, &self.queue, credit, 0, link.out)?;
        } else if let Some(lease) = worker.holds.take() {
            link.machine.ack(&[lease], true, link.out)?;
        }
        Ok(())
    }

    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::PublishAcked { messages, .. } => {
                drop(self.tenants[link.number].producer.answered(messages));
                self.publish(link)
            }
            Event::Delivered(view) => self.delivered(link, &view),
            Event::Settled { seq, more, lost } => {
                ensure!(
                    lost.is_empty(),
                    "a lease was lost before its ack: fewer --agents hold it for less long"
                );
                // The subscription's own answer stands first.
                self.done += u64::from(more) + u64::from(seq != 1);
                Ok(())
            }
            Event::PublishRefused { refusal, .. } => bail!("a publish was refused: {}", refusal.text),
            Event::Refused { text, .. } => bail!("a request was refused: {text}"),
            Event::Pong { .. } => Ok(()),
            event => bail!("unexpected in a run about fairness: {event:?}"),
        }
    }

    fn turn(&mut self, now_us: u64) -> Option<Duration> {
        if self.ticker.is_due(now_us) {
            self.progress.set(self.done);
        }
        let next = self.arrivals.next_us().map(|at| self.start_us + at);
        let tick = self.tick().map(|(at_us, _)| at_us);
        let next = next.into_iter().chain(tick).min();
        let wait = next.map_or(IDLE_TURN, |at| Duration::from_micros(at.saturating_sub(now_us)));
        (self.done < self.total).then_some(wait.min(IDLE_TURN))
    }

    fn next_due(&mut self, now_us: u64) -> Option<usize> {
        self.admit(now_us);
        if let Some(tenant) = self.ready.pop_front() {
            return Some(tenant);
        }
        while let Some((_, worker)) = self.tick().filter(|(at_us, _)| *at_us <= now_us) {
            self.ticks += 1;
            if self.workers[worker].holds.is_some() {
                return Some(self.tenants.len() + worker);
            }
        }
        None
    }
}

/// The message of a tenant, encoded; its stamp is changed for each.
fn body(args: &Args, tenant: u32) -> anyhow::Result<Vec<u8>> {
    let mut payload = stamp::stamp(0).to_vec();
    payload.extend_from_slice(&tenant.to_le_bytes());
    payload.resize_with(args.size, || fastrand::u8(..));
    let message = Message::new(payload);
    let message = if args.by == By::Key { message.fair_key(tenants::name(tenant)) } else { message };
    Ok(message.encode(MESSAGE_BYTES_MAX)?)
}

fn measure(args: &Args, spread: Spread) -> anyhow::Result<(Waits, Duration, u64)> {
    let tenants = args.tenants.get();
    let total = (args.duration.as_secs_f64() * f64::from(args.rate.get())) as u64;
    let workers = if args.by == By::Namespace { tenants as usize } else { args.agents.get() };
    let identity = Identity::busy(run_prefix("fair"), Duration::ZERO);
    let connections = tenants as usize + workers;
    let mut fleet =
        Fleet::new(&args.target, identity, Share::whole(connections), Clock::starting_at(Time(0)))?;
    let bodies = (0..tenants).map(|tenant| body(args, tenant)).collect::<anyhow::Result<Vec<_>>>()?;
    let (name, what) = match spread {
        Spread::Even => ("even", "messages spread evenly"),
        Spread::Hot { .. } => ("hot", "messages, most of one tenant"),
    };
    let mut fair = Fair {
        args,
        queue: format!("{}-{name}", args.queue),
        arrivals: Arrivals::new(tenants, spread, args.rate.get(), total),
        tenants: bodies.into_iter().map(|body| Tenant::new(body, IN_FLIGHT_MAX)).collect(),
        workers: std::iter::repeat_with(Worker::default).take(workers).collect(),
        ready: VecDeque::new(),
        ticks: 0,
        start_us: 0,
        stamps_ahead_us: 0,
        total,
        done: 0,
        waits: Waits { hot: Delays::new(), others: Delays::new() },
        progress: Progress::counting(total, what, args.target.quiet),
        ticker: Ticker::default(),
    };
    fleet.open(&mut fair)?;
    fleet.run(&mut fair)?;
    let elapsed = Duration::from_micros(fleet.now_us() - fair.start_us);
    fleet.close();
    Ok((fair.waits, elapsed, total))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    ensure!(args.tenants.get() > 1, "--tenants must be at least 2: one is compared with the others");
    ensure!(args.size >= PAYLOAD_BYTES_MIN, "--size must be at least {PAYLOAD_BYTES_MIN}");
    ensure!(args.warm_up < args.duration, "--warm-up must be shorter than --duration");
    let (even, _, _) = measure(args, Spread::Even)?;
    let (hot, elapsed, total) =
        measure(args, Spread::Hot { times: args.hot.get(), burst: args.burst.get() })?;
    // Spread evenly, the first tenant is one of them.
    let mut spread = even.others;
    spread.add(&even.hot);
    let mut report = Report::new(&args.target, "messages worked on", total, elapsed, &hot.others);
    let ratio = |quantile: f64| hot.others.at(quantile).as_secs_f64() / spread.at(quantile).as_secs_f64();
    let (p50, p99) = (ratio(0.5), ratio(0.99));
    let rows = [
        ("even", "all, spread evenly", &spread),
        ("others", "the others beside it", &hot.others),
        ("hot", "the one that publishes more", &hot.hot),
    ];
    report.say("wait in us, from when a message was due to its delivery:".to_owned());
    for (name, title, waits) in rows {
        report.say(format!("  {title:28} {:>9}: {}", waits.count(), waits.to_line()));
        report.set(name, waits.to_json_with_count());
    }
    report.say(format!("the others' wait over the even one: p50 {p50:.2} x, p99 {p99:.2} x"));
    report.set("ratio", json!({"p50": p50, "p99": p99}));
    let by = args.by.to_possible_value().map_or(Value::Null, |by| json!(by.get_name()));
    report.set("by", by);
    report.set("tenants", json!(args.tenants));
    report.set("hot_times", json!(args.hot));
    report.set("burst", json!(args.burst));
    report.set("rate", json!(args.rate));
    report.set("work_rate", json!(args.work_rate));
    Ok(report)
}
