//! Pushing: messages at a steady rate to the mailboxes of random devices, whose sessions another process holds.
//!
//! Each payload tells when it was due, so that the holding `connect` reports how long it was under way. Here it is
//! reported how long each took to be on disk.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{bail, ensure};
use relaymesh::client::{Event, Message};
use relaymesh::clock::{Clock, Time};
use relaymesh::ids::{ClientId, QueueName};
use relaymesh::limits::MESSAGE_BYTES_MAX;
use serde_json::json;

use super::producer::Producer;
use super::{IDLE_TURN, Ticker, run_prefix};
use crate::fleet::{Fleet, Identity, Link, Share, Workload};
use crate::options::{Target, parse_duration};
use crate::progress::Progress;
use crate::report::{Delays, Report};
use crate::server::{Process, ServerCpu};
use crate::stamp::{self, STAMP_BYTES};

/// Publishes without an answer; well within the server's window.
const IN_FLIGHT_MAX: u32 = 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// What `connect` was given as its --prefix.
    #[arg(long, value_name = "TEXT")]
    prefix: ClientId,
    /// Devices to choose from: the first N of that `connect`.
    #[arg(long, default_value = "1000", value_name = "N")]
    devices: NonZeroU32,
    /// Pushes a second.
    #[arg(long, default_value = "1000", value_name = "PER_S")]
    rate: NonZeroU32,
    /// How long.
    #[arg(long, value_parser = parse_duration, default_value = "60s", value_name = "TIME")]
    duration: Duration,
    /// Bytes of each payload, at least the 16 that tell when it was due.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    size: usize,
}

struct Push<'a> {
    args: &'a Args,
    total: u64,
    /// An encoded message; its stamp is changed for each.
    body: Vec<u8>,
    /// The mailbox of the device that is pushed to.
    mailbox: String,
    producer: Producer,
    sent: u64,
    answered: u64,
    refused: u64,
    /// Why the last of them was.
    refusal: String,
    start_us: u64,
    /// What the machine's clock shows beyond the run's.
    stamps_ahead_us: u64,
    delays: Delays,
    progress: Progress,
    ticker: Ticker,
}

impl Push<'_> {
    /// When the next is due; `None` when all are sent.
    fn due_us(&self) -> Option<u64> {
        (self.sent < self.total)
            .then(|| self.start_us + self.sent * 1_000_000 / u64::from(self.args.rate.get()))
    }

    fn has_room(&self) -> bool {
        self.producer.in_flight() < IN_FLIGHT_MAX as usize
    }

    /// Sends all that are due.
    fn push_due(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        while let Some(due_us) = self.due_us().filter(|&due_us| due_us <= link.now_us && self.has_room()) {
            let device = fastrand::u32(..self.args.devices.get());
            self.mailbox.clear();
            write!(self.mailbox, "{}{}{device}", QueueName::MAILBOX_PREFIX, self.args.prefix)?;
            stamp::restamp(&mut self.body, due_us + self.stamps_ahead_us);
            self.producer.publish(link, &self.mailbox, &self.body, due_us)?;
            self.sent += 1;
        }
        Ok(())
    }
}

impl Workload for Push<'_> {
    fn welcomed(&mut self, _link: &mut Link<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn begin(&mut self, now_us: u64) {
        self.start_us = now_us;
        self.stamps_ahead_us = stamp::now_us() - now_us;
    }

    fn start(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        self.push_due(link)
    }

    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::PublishAcked { messages, .. } => {
                for due_us in self.producer.answered(messages) {
                    self.delays.record(link.now_us.saturating_sub(due_us));
                }
                self.answered += u64::from(messages);
                self.push_due(link)
            }
            Event::PublishRefused { refusal, .. } => {
                self.refused += self.producer.answered(1).count() as u64;
                self.refusal = refusal.text;
                self.push_due(link)
            }
            Event::Pong { .. } => Ok(()),
            event => bail!("unexpected while pushing: {event:?}"),
        }
    }

    fn turn(&mut self, now_us: u64) -> Option<Duration> {
        let done = self.answered + self.refused;
        if self.ticker.is_due(now_us) {
            self.progress.set(done);
        }
        let until_due = |due_us: u64| Duration::from_micros(due_us.saturating_sub(now_us)).min(IDLE_TURN);
        let wait = self.due_us().filter(|_| self.has_room()).map_or(IDLE_TURN, until_due);
        (done < self.total).then_some(wait)
    }

    fn next_due(&mut self, now_us: u64) -> Option<usize> {
        let is_due = self.due_us().is_some_and(|due_us| due_us <= now_us);
        (is_due && self.has_room()).then_some(0)
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let Args { target, prefix, devices, rate, duration, size } = args;
    ensure!(
        *size >= STAMP_BYTES,
        "--size must be at least {STAMP_BYTES}: each payload tells when it was due"
    );
    // The longest of the names, so that none is refused later.
    ClientId::parse(&format!("{prefix}{devices}"))?;
    let total = (duration.as_secs_f64() * f64::from(rate.get())) as u64;
    ensure!(total > 0, "--duration is too short for --rate {rate}");
    let mut payload = stamp::stamp(0).to_vec();
    payload.resize_with(*size, || fastrand::u8(..));
    let identity = Identity::busy(run_prefix("push"), Duration::ZERO);
    let mut fleet = Fleet::new(target, identity, Share::whole(1), Clock::starting_at(Time(0)))?;
    let mut push = Push {
        args,
        total,
        body: Message::new(payload).encode(MESSAGE_BYTES_MAX)?,
        mailbox: String::new(),
        producer: Producer::new(IN_FLIGHT_MAX),
        sent: 0,
        answered: 0,
        refused: 0,
        refusal: String::new(),
        start_us: 0,
        stamps_ahead_us: 0,
        delays: Delays::new(),
        progress: Progress::counting(total, "pushed", target.quiet),
        ticker: Ticker::default(),
    };
    fleet.open(&mut push)?;
    let cpu = ServerCpu::start(Process::of(target).as_ref())?;
    fleet.run(&mut push)?;
    let elapsed = Duration::from_micros(fleet.now_us() - push.start_us);
    let mut report = Report::new(target, "durable pushes", push.answered, elapsed, &push.delays);
    report.server_cpu(cpu, push.answered, "a push")?;
    report.set("devices", json!(devices));
    report.set("rate", json!(rate));
    report.set("size", json!(size));
    report.set("refused", json!(push.refused));
    report.set("latency_from", json!("due"));
    if push.refused > 0 {
        report.fail(format!(
            "{} of {total} pushes were refused, the last because {}",
            push.refused, push.refusal
        ));
    }
    fleet.close();
    Ok(report)
}
