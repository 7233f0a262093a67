//! Holding sessions: each with its own client id, its mailbox subscription and a heartbeat.

use std::time::Duration;

use anyhow::bail;
use relaymesh::client::Event;
use relaymesh::host::DescriptorLimit;
use relaymesh::ids::{ClientId, QueueName, SubscriptionId};
use serde_json::json;

use super::{IDLE_TURN, Ticker, run_prefix};
use crate::fleet::{Fleet, Identity, Link, Workload};
use crate::options::{Target, parse_duration};
use crate::progress::Progress;
use crate::report::{Delays, Report};

const MAILBOX: SubscriptionId = SubscriptionId(1);
/// Messages a held session is willing to receive.
const MAILBOX_CREDIT: u32 = 8;
/// Descriptors the run itself needs.
const OWN_DESCRIPTORS: u64 = 32;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// How many sessions.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    connections: usize,
    /// New sessions a second; as fast as it goes if not set.
    #[arg(long, default_value_t = 0, value_name = "PER_S")]
    ramp: u32,
    /// How long to hold them once all are there.
    #[arg(long, value_parser = parse_duration, default_value = "10s", value_name = "TIME")]
    hold: Duration,
    /// Each session's heartbeat.
    #[arg(long, value_parser = parse_duration, default_value = "60s", value_name = "TIME")]
    heartbeat: Duration,
}

struct Hold {
    prefix: String,
    length_us: u64,
    heartbeat_us: u64,
    start_us: u64,
    /// When each session's next heartbeat is due; they are spread over the interval.
    due_us: Vec<u64>,
    /// Sessions in the order of their heartbeats.
    next: usize,
    awaited_us: Vec<u64>,
    delays: Delays,
    delivered: u64,
    progress: Progress,
    ticker: Ticker,
}

impl Workload for Hold {
    fn welcomed(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        let client = ClientId::parse(&format!("{}{}", self.prefix, link.number))?;
        let mailbox = QueueName::mailbox(&client);
        link.machine.subscribe(MAILBOX, mailbox.as_str(), MAILBOX_CREDIT, 0, link.out)?;
        Ok(())
    }

    fn begin(&mut self, now_us: u64) {
        self.start_us = now_us;
        let sessions = self.due_us.len() as u64;
        for (number, due_us) in self.due_us.iter_mut().enumerate() {
            *due_us = now_us + self.heartbeat_us * (number as u64 + 1) / sessions;
        }
    }

    /// Sends the heartbeat that is due.
    fn start(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        let due_us = &mut self.due_us[link.number];
        if *due_us > link.now_us {
            return Ok(());
        }
        if self.awaited_us[link.number] == 0 {
            self.awaited_us[link.number] = *due_us;
        }
        *due_us += self.heartbeat_us;
        link.machine.ping(link.now, None, link.out);
        Ok(())
    }

    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::Pong { .. } => {
                let awaited_us = std::mem::take(&mut self.awaited_us[link.number]);
                if awaited_us != 0 {
                    self.delays.record(link.now_us - awaited_us);
                }
                Ok(())
            }
            Event::Delivered(view) => {
                for delivery in view.deliveries() {
                    self.delivered += 1;
                    link.machine.ack(&[delivery.lease], true, link.out)?;
                }
                Ok(())
            }
            Event::Settled { .. } => Ok(()),
            Event::Refused { text, .. } => bail!("a request was refused: {text}"),
            event => bail!("unexpected while holding sessions: {event:?}"),
        }
    }

    fn turn(&mut self, now_us: u64) -> Option<Duration> {
        let elapsed_us = now_us - self.start_us;
        if self.ticker.is_due(now_us) {
            self.progress.set(elapsed_us / 1000);
            self.progress.say(format!("{} heartbeats answered", self.delays.count()));
        }
        let left_us = self.length_us.checked_sub(elapsed_us).filter(|&left| left > 0)?;
        let heartbeat_us = self.due_us[self.next].saturating_sub(now_us);
        Some(Duration::from_micros(left_us.min(heartbeat_us)).min(IDLE_TURN))
    }

    fn next_due(&mut self, now_us: u64) -> Option<usize> {
        let number = self.next;
        if self.due_us[number] > now_us {
            return None;
        }
        self.next = (number + 1) % self.due_us.len();
        Some(number)
    }
}

pub(crate) fn run(args: &Args, limit: DescriptorLimit) -> anyhow::Result<Report> {
    let Args { target, connections, ramp, hold, heartbeat } = args;
    if *connections == 0 {
        bail!("--connections must be at least 1");
    }
    if *connections as u64 + OWN_DESCRIPTORS > limit.soft {
        bail!(
            "{connections} connections need more descriptors than the {} this process may have; raise `ulimit -n`",
            limit.soft
        );
    }
    let prefix = run_prefix("hold");
    let identity = Identity { prefix: prefix.clone(), heartbeat: *heartbeat, ramp: *ramp };
    let mut fleet = Fleet::new(target, identity, *connections)?;
    let mut work = Hold {
        prefix,
        length_us: hold.as_micros() as u64,
        heartbeat_us: heartbeat.as_micros() as u64,
        start_us: 0,
        due_us: vec![0; *connections],
        next: 0,
        awaited_us: vec![0; *connections],
        delays: Delays::new(),
        delivered: 0,
        progress: Progress::timing(*hold, "holding", target.quiet),
        ticker: Ticker::default(),
    };
    let opening = Progress::counting(*connections as u64, "sessions", target.quiet);
    let took = fleet.open(&mut work, |welcomed| opening.set(welcomed as u64))?;
    drop(opening);
    fleet.run(&mut work)?;
    let elapsed = Duration::from_micros(fleet.now_us() - work.start_us);
    let mut report = Report::new(target, "heartbeats", work.delays.count(), elapsed, &work.delays);
    let mut handshakes = Delays::new();
    fleet.handshakes_us.iter().for_each(|&us| handshakes.record(us));
    let handshakes_per_s = *connections as f64 / took.as_secs_f64();
    report.say(format!("{connections} sessions set up in {took:.2?}: {handshakes_per_s:.0} a second"));
    report.set("established", json!(connections));
    report.set("failed", json!(0));
    report.set("handshakes_per_s", json!(handshakes_per_s));
    report.set("handshake_us", handshakes.to_json());
    report.set("heartbeat_rtt_us", work.delays.to_json());
    report.set("missed_heartbeats", json!(work.awaited_us.iter().filter(|&&us| us != 0).count()));
    report.set("delivered", json!(work.delivered));
    fleet.close()?;
    Ok(report)
}
