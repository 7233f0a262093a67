//! Publishing: every connection keeps a number of publishes unanswered, one message a frame.
//!
//! Each connection is a producer with its own id and sequences, as the SDK's are, so that what is measured includes
//! the deduplication of re-sends.

use std::time::Duration;

use anyhow::bail;
use relaymesh::client::{Event, Message};
use relaymesh::clock::{Clock, Time};
use relaymesh::limits::MESSAGE_BYTES_MAX;
use serde_json::json;

use super::producer::Producer;
use super::{IDLE_TURN, Ticker, run_prefix};
use crate::fleet::{Fleet, Identity, Link, Share, Workload};
use crate::options::{Load, Target};
use crate::progress::Progress;
use crate::report::{Delays, Report};
use crate::server::{Process, ServerCpu};
use crate::stamp::{self, STAMP_BYTES};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    load: Load,
    /// Bytes of each payload, up to 16 MiB; what does not fit a frame goes in parts, and the server's publish window may
    /// allow fewer in flight.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    size: usize,
    /// Publishes a second over all connections, delays counted from when each was due; as fast as it goes if not set. Each
    /// payload of 16 bytes or more tells when, so that `work` reports how long it was under way.
    #[arg(long, value_name = "PER_S")]
    rate: Option<u32>,
}

struct Publish<'a> {
    args: &'a Args,
    body: Vec<u8>,
    producers: Vec<Producer>,
    sent: u64,
    answered: u64,
    start_us: u64,
    /// What the machine's clock shows beyond the run's.
    stamps_ahead_us: u64,
    delays: Delays,
    progress: Progress,
    ticker: Ticker,
    next_producer: usize,
}

impl Publish<'_> {
    /// When the next publish is due, with a rate.
    fn due_us(&self) -> Option<u64> {
        self.args.rate.map(|rate| self.start_us + self.sent * 1_000_000 / u64::from(rate.max(1)))
    }

    fn publish_one(&mut self, link: &mut Link<'_>, started_us: u64) -> anyhow::Result<()> {
        if self.args.rate.is_some() {
            stamp::restamp(&mut self.body, started_us + self.stamps_ahead_us);
        }
        let queue = self.args.load.queue.as_str();
        self.producers[link.number].publish(link, queue, &self.body, started_us)?;
        self.sent += 1;
        Ok(())
    }

    /// Whether this connection has room for one more: `--in-flight`, and the server's window in bytes.
    fn has_room(&self, link: &Link<'_>) -> bool {
        let in_flight = self.producers[link.number].in_flight();
        // The first is published whatever its size, so that one that never fits is refused by name.
        let fits = in_flight == 0 || link.machine.room().bytes as usize >= self.body.len();
        in_flight < self.args.load.in_flight as usize && fits
    }

    /// Publishes on this connection while its window, the count and the rate allow it.
    fn fill(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        while self.sent < self.args.load.count && self.has_room(link) {
            match self.due_us() {
                Some(due_us) if due_us > link.now_us => return Ok(()),
                Some(due_us) => {
                    self.publish_one(link, due_us)?;
                    // The others have their turn.
                    if self.args.load.connections > 1 {
                        return Ok(());
                    }
                }
                None => self.publish_one(link, link.now_us)?,
            }
        }
        Ok(())
    }
}

impl Workload for Publish<'_> {
    fn welcomed(&mut self, _link: &mut Link<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn begin(&mut self, now_us: u64) {
        self.start_us = now_us;
        self.stamps_ahead_us = stamp::now_us() - now_us;
    }

    fn start(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        self.fill(link)
    }

    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::PublishAcked { messages, .. } => {
                for started_us in self.producers[link.number].answered(messages) {
                    self.delays.record(link.now_us.saturating_sub(started_us));
                }
                self.answered += u64::from(messages);
                self.fill(link)
            }
            Event::PublishRefused { refusal, .. } => bail!("a publish was refused: {}", refusal.text),
            Event::Pong { .. } => Ok(()),
            event => bail!("unexpected while publishing: {event:?}"),
        }
    }

    fn turn(&mut self, now_us: u64) -> Option<Duration> {
        if self.ticker.is_due(now_us) {
            self.progress.set(self.answered);
        }
        if self.answered >= self.args.load.count {
            return None;
        }
        let due = self.due_us().filter(|_| self.sent < self.args.load.count);
        Some(due.map_or(IDLE_TURN, |due| Duration::from_micros(due.saturating_sub(now_us)).min(IDLE_TURN)))
    }

    fn next_due(&mut self, now_us: u64) -> Option<usize> {
        let is_due = self.due_us()? <= now_us && self.sent < self.args.load.count;
        let in_flight = self.args.load.in_flight as usize;
        let connections = self.producers.len();
        let free = |number: &usize| self.producers[*number].in_flight() < in_flight;
        let from = self.next_producer;
        let number = (0..connections).map(|step| (from + step) % connections).find(free);
        self.next_producer = (from + 1) % connections;
        number.filter(|_| is_due)
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let Args { target, load, size, .. } = args;
    let Load { connections, count, in_flight, .. } = load;
    load.check()?;
    let mut payload: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(*size).collect();
    if args.rate.is_some() && *size >= STAMP_BYTES {
        payload[..STAMP_BYTES].copy_from_slice(&stamp::stamp(0));
    }
    let body = Message::new(payload).encode(MESSAGE_BYTES_MAX)?;
    let identity = Identity::busy(run_prefix("publish"), Duration::ZERO);
    let mut fleet = Fleet::new(target, identity, Share::whole(*connections), Clock::starting_at(Time(0)))?;
    let producer = || Producer::new(*in_flight);
    let mut publish = Publish {
        args,
        body,
        producers: std::iter::repeat_with(producer).take(*connections).collect(),
        sent: 0,
        answered: 0,
        start_us: 0,
        stamps_ahead_us: 0,
        delays: Delays::new(),
        progress: Progress::counting(*count, "published", target.quiet),
        ticker: Ticker::default(),
        next_producer: 0,
    };
    fleet.open(&mut publish)?;
    let cpu = ServerCpu::start(Process::of(target).as_ref())?;
    fleet.run(&mut publish)?;
    let elapsed = Duration::from_micros(fleet.now_us() - publish.start_us);
    let mut report = Report::new(target, "durable publishes", publish.answered, elapsed, &publish.delays);
    report.server_cpu(cpu, publish.answered, "a publish")?;
    report.set("connections", json!(connections));
    report.set("in_flight", json!(in_flight));
    report.set("size", json!(size));
    report.set("latency_from", json!(if args.rate.is_some() { "due" } else { "sent" }));
    fleet.close();
    Ok(report)
}
