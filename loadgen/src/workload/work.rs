//! Working: every connection takes what its credit allows and acks each message in a frame of its own.
//!
//! Credit comes back with the answer to an ack: a message counts as in flight until its ack is on disk.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::bail;
use relaymesh::client::Event;
use relaymesh::clock::{Clock, Time};
use relaymesh::ids::{MessageId, SubscriptionId};
use serde_json::json;

use super::{IDLE_TURN, Ticker, run_prefix};
use crate::fleet::{Fleet, Identity, Link, Share, Workload};
use crate::options::{Load, Target};
use crate::progress::Progress;
use crate::report::{Delays, Report};
use crate::server::{Process, ServerCpu};
use crate::stamp;

const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    load: Load,
}

struct Work<'a> {
    args: &'a Args,
    /// When each unanswered ack was sent, a connection.
    acked_us: Vec<VecDeque<u64>>,
    delivered: u64,
    /// The newest message that each connection was given.
    newest: Vec<MessageId>,
    /// Messages that a connection was given after one that was published later.
    out_of_order: u64,
    answered: u64,
    lost: u64,
    start_us: u64,
    delays: Delays,
    /// How long the messages were under way that tell when they were due.
    under_way: Delays,
    progress: Progress,
    ticker: Ticker,
}

impl Workload for Work<'_> {
    fn welcomed(&mut self, _link: &mut Link<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn begin(&mut self, now_us: u64) {
        self.start_us = now_us;
    }

    fn start(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        let credit = self.args.load.in_flight;
        link.machine.subscribe(SUBSCRIPTION, self.args.load.queue.as_str(), credit, 0, link.out)?;
        // The subscription's own answer stands first.
        self.acked_us[link.number].push_back(link.now_us);
        Ok(())
    }

    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::Delivered(view) => {
                for delivery in view.deliveries() {
                    self.delivered += 1;
                    // Beyond the count nothing is taken: those leases end with the session.
                    if self.delivered > self.args.load.count {
                        continue;
                    }
                    let newest = &mut self.newest[link.number];
                    self.out_of_order += u64::from(delivery.lease.message < *newest);
                    *newest = delivery.lease.message.max(*newest);
                    if let Some(due_us) = stamp::stamp_of(delivery.message) {
                        self.under_way.record(stamp::now_us().saturating_sub(due_us));
                    }
                    link.machine.ack(&[delivery.lease], true, link.out)?;
                    self.acked_us[link.number].push_back(link.now_us);
                }
                Ok(())
            }
            Event::Settled { seq, more, lost } => {
                let mut answers = u64::from(more) + 1;
                let sent = &mut self.acked_us[link.number];
                if seq == 1 {
                    sent.pop_front();
                    answers -= 1;
                }
                for sent_us in sent.drain(..answers as usize) {
                    self.delays.record(link.now_us - sent_us);
                }
                self.lost += lost.len() as u64;
                self.answered += answers;
                Ok(())
            }
            Event::Refused { text, .. } => bail!("a request was refused: {text}"),
            Event::Pong { .. } => Ok(()),
            event => bail!("unexpected while working: {event:?}"),
        }
    }

    fn turn(&mut self, now_us: u64) -> Option<Duration> {
        if self.ticker.is_due(now_us) {
            self.progress.set(self.answered);
        }
        (self.answered < self.args.load.count).then_some(IDLE_TURN)
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let Args { target, load } = args;
    let Load { connections, count, in_flight, .. } = load;
    load.check()?;
    let identity = Identity::busy(run_prefix("work"), Duration::ZERO);
    let mut fleet = Fleet::new(target, identity, Share::whole(*connections), Clock::starting_at(Time(0)))?;
    let mut work = Work {
        args,
        acked_us: vec![VecDeque::new(); *connections],
        delivered: 0,
        newest: vec![MessageId(0); *connections],
        out_of_order: 0,
        answered: 0,
        lost: 0,
        start_us: 0,
        delays: Delays::new(),
        under_way: Delays::new(),
        progress: Progress::counting(*count, "acked", target.quiet),
        ticker: Ticker::default(),
    };
    fleet.open(&mut work)?;
    let cpu = ServerCpu::start(Process::of(target).as_ref())?;
    fleet.run(&mut work)?;
    let elapsed = Duration::from_micros(fleet.now_us() - work.start_us);
    let mut report = Report::new(target, "leases acked durably", work.answered, elapsed, &work.delays);
    report.server_cpu(cpu, work.answered, "a lease and ack")?;
    report.set("connections", json!(connections));
    report.set("in_flight", json!(in_flight));
    report.set("lost", json!(work.lost));
    report.set("out_of_order", json!(work.out_of_order));
    if work.out_of_order > 0 {
        report.say(format!("{} came after a message that was published later", work.out_of_order));
    }
    if work.under_way.count() > 0 {
        report.say(format!("from when a publish was due to its delivery, us: {}", work.under_way.to_line()));
        report.set("delivery_us", work.under_way.to_json());
    }
    if work.lost > 0 {
        report.say(format!("{} leases were lost before their ack", work.lost));
    }
    fleet.close();
    Ok(report)
}
