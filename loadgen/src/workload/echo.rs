//! Ping-pong: every connection has one PING on its way and sends the next when the PONG is there.

use std::time::Duration;

use anyhow::bail;
use relaymesh::client::Event;
use relaymesh::clock::{Clock, Time};
use serde_json::json;

use super::{IDLE_TURN, Ticker, run_prefix};
use crate::fleet::{Fleet, Identity, Link, Share, Workload};
use crate::options::{Target, parse_duration};
use crate::progress::Progress;
use crate::report::{Delays, Report};
use crate::server::{Process, ServerCpu};

/// How long a heartbeat of a connection that plays ping-pong is: it must not send one by itself.
const HEARTBEAT: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// How many connections.
    #[arg(long, default_value_t = 100, value_name = "N")]
    connections: usize,
    /// How long to play.
    #[arg(long, value_parser = parse_duration, default_value = "10s", value_name = "TIME")]
    duration: Duration,
}

struct Echo {
    length_us: u64,
    start_us: u64,
    sent_us: Vec<u64>,
    delays: Delays,
    progress: Progress,
    ticker: Ticker,
}

impl Workload for Echo {
    fn welcomed(&mut self, _link: &mut Link<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn begin(&mut self, now_us: u64) {
        self.start_us = now_us;
    }

    fn start(&mut self, link: &mut Link<'_>) -> anyhow::Result<()> {
        self.sent_us[link.number] = link.now_us;
        link.machine.ping(link.now, None, link.out);
        Ok(())
    }

    fn event(&mut self, link: &mut Link<'_>, event: Event<'_>) -> anyhow::Result<()> {
        let Event::Pong { .. } = event else { bail!("unexpected in ping-pong: {event:?}") };
        self.delays.record(link.now_us - self.sent_us[link.number]);
        self.start(link)
    }

    fn turn(&mut self, now_us: u64) -> Option<Duration> {
        let elapsed_us = now_us - self.start_us;
        if self.ticker.is_due(now_us) {
            self.progress.set(elapsed_us / 1000);
            self.progress.say(format!("{} round trips", self.delays.count()));
        }
        let left = self.length_us.checked_sub(elapsed_us).filter(|&left| left > 0)?;
        Some(Duration::from_micros(left).min(IDLE_TURN))
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let Args { target, connections, duration } = args;
    let identity = Identity::busy(run_prefix("echo"), HEARTBEAT);
    let mut fleet = Fleet::new(target, identity, Share::whole(*connections), Clock::starting_at(Time(0)))?;
    let mut echo = Echo {
        length_us: duration.as_micros() as u64,
        start_us: 0,
        sent_us: vec![0; *connections],
        delays: Delays::new(),
        progress: Progress::timing(*duration, "ping-pong", target.quiet),
        ticker: Ticker::default(),
    };
    let opening = fleet.open(&mut echo)?;
    let cpu = ServerCpu::start(Process::of(target).as_ref())?;
    fleet.run(&mut echo)?;
    let elapsed = Duration::from_micros(fleet.now_us() - echo.start_us);
    let count = echo.delays.count();
    let mut report = Report::new(target, "round trips", count, elapsed, &echo.delays);
    report.server_cpu(cpu, count, "a ping")?;
    report.set("connections", json!(connections));
    report.set("handshakes_per_s", json!(*connections as f64 / opening.as_secs_f64()));
    fleet.close();
    Ok(report)
}
