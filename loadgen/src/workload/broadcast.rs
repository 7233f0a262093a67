//! Broadcasts to a topic, each stamped with the moment of its sending, for the sessions of a `connect --topic`.

use std::time::Duration;

use anyhow::{bail, ensure};
use relaymesh::client::{Event, Message};
use relaymesh::clock::{Clock, Time};
use relaymesh::ids::QueueName;
use relaymesh::limits::MESSAGE_BYTES_MAX;
use relaymesh::wire::proto::Code;
use serde_json::json;

use super::{IDLE_TURN, Ticker, run_prefix};
use crate::fleet::{Fleet, Identity, Link, Share, Workload};
use crate::options::{Target, parse_topic};
use crate::progress::Progress;
use crate::report::{Delays, Report};
use crate::stamp::{self, STAMP_BYTES, restamp};

/// Between two broadcasts that are far apart the server shows by its answers to these that it is there.
const HEARTBEAT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// The topic.
    #[arg(long, value_parser = parse_topic, value_name = "NAME")]
    topic: QueueName,
    /// Payload of a broadcast, in bytes; at least 16, for its stamp.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    size: usize,
    /// How many broadcasts.
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u64,
    /// How many a second; each as soon as the one before was answered if not set.
    #[arg(long, value_name = "PER_S")]
    rate: Option<f64>,
}

struct Broadcasting<'a> {
    args: &'a Args,
    body: Vec<u8>,
    sent: u64,
    answered: u64,
    /// When the one without answer was sent.
    sent_us: Option<u64>,
    /// Nothing is sent before this.
    not_before_us: u64,
    start_us: u64,
    refused: u64,
    /// Of the last one that was answered.
    subscribers: u64,
    delays: Delays,
    progress: Progress,
    ticker: Ticker,
}

impl Broadcasting<'_> {
    fn due_us(&self) -> u64 {
        let paced = self.args.rate.map_or(0, |rate| (self.sent as f64 * 1e6 / rate) as u64);
        self.not_before_us.max(self.start_us + paced)
    }

    fn is_due(&self, now_us: u64) -> bool {
        self.sent_us.is_none() && self.sent < self.args.count && self.due_us() <= now_us
    }
}

impl Workload for Broadcasting<'_> {
    fn welcomed(&mut self, _link: &mut Link<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn begin(&mut self, now_us: u64) {
        self.start_us = now_us;
    }

    fn start(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        if self.is_due(link.now_us) {
            restamp(&mut self.body, stamp::now_us());
            link.machine.publish(self.args.topic.as_str(), None, &self.body, link.out)?;
            self.sent += 1;
            self.sent_us = Some(link.now_us);
        }
        Ok(())
    }

    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::PublishAcked { subscribers, .. } => {
                self.delays.record(link.now_us - self.sent_us.take().unwrap_or(link.now_us));
                self.answered += 1;
                self.subscribers = subscribers;
            }
            Event::PublishRefused { refusal, .. } if refusal.code() == Code::Overloaded => {
                self.sent_us = None;
                self.sent -= 1;
                self.refused += 1;
                self.not_before_us = link.now_us + u64::from(refusal.retry_after_ms) * 1000;
            }
            Event::PublishRefused { refusal, .. } => bail!("a broadcast was refused: {}", refusal.text),
            Event::Pong { .. } => {}
            event => bail!("unexpected while broadcasting: {event:?}"),
        }
        Ok(())
    }

    fn turn(&mut self, now_us: u64) -> Option<Duration> {
        if self.ticker.is_due(now_us) {
            self.progress.set(self.answered);
        }
        if self.answered >= self.args.count {
            return None;
        }
        let wait = Duration::from_micros(self.due_us().saturating_sub(now_us));
        Some(if self.sent_us.is_some() { IDLE_TURN } else { wait.min(IDLE_TURN) })
    }

    fn next_due(&mut self, now_us: u64) -> Option<usize> {
        self.is_due(now_us).then_some(0)
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let Args { target, size, count, rate, .. } = args;
    ensure!(*size >= STAMP_BYTES, "--size must be at least {STAMP_BYTES}, for the stamp");
    ensure!(*count > 0 && rate.is_none_or(|rate| rate > 0.0), "--count and --rate must be above 0");
    let mut payload = stamp::stamp(0).to_vec();
    payload.resize(*size, b'x');
    let identity = Identity::busy(run_prefix("broadcast"), HEARTBEAT);
    let mut fleet = Fleet::new(target, identity, Share::whole(1), Clock::starting_at(Time(0)))?;
    let mut work = Broadcasting {
        args,
        body: Message::new(payload).encode(MESSAGE_BYTES_MAX)?,
        sent: 0,
        answered: 0,
        sent_us: None,
        not_before_us: 0,
        start_us: 0,
        refused: 0,
        subscribers: 0,
        delays: Delays::new(),
        progress: Progress::counting(*count, "handed on", target.quiet),
        ticker: Ticker::default(),
    };
    fleet.open(&mut work)?;
    fleet.run(&mut work)?;
    let elapsed = Duration::from_micros(fleet.now_us() - work.start_us);
    let mut report = Report::new(target, "broadcasts", work.answered, elapsed, &work.delays);
    report
        .say(format!("handed to {} subscriptions, {} times refused for now", work.subscribers, work.refused));
    report.set("size", json!(size));
    report.set("subscribers", json!(work.subscribers));
    report.set("refused", json!(work.refused));
    fleet.close();
    Ok(report)
}
