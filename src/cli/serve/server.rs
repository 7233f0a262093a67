//! The server put together, and taken apart in the right order.
//!
//! Up: the data directory is locked, the logs read, this boot counted on disk; only then are the loops bound, the
//! shards and the loops started, and readiness told. Down: readiness is taken back, the clients are told to go, the
//! loops end, then the shards write what is left.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::shards::{self, Engines, Homes};
use super::{audit, keyfile, settings};
use crate::admin::{self, AdminConfig, AdminHandle, Tell};
use crate::cli::{layout, out};
use crate::clock::{Clock, Time};
use crate::config::{self, Config};
use crate::gateway::Gateway;
use crate::host::{self, TablePlan};
use crate::reactor::{self, BoundLoop, LoopHandle, ShardLane};
use crate::session::ResumeKey;
use crate::telemetry::{Gauge, Lifecycle, LoopMetrics, ShardMetrics, SourceSet, Stage};

/// Room for what may happen while the main thread looks away.
const NEWS_MAX: usize = 16;

/// How often a drain says how far it is.
const TELL_DRAIN_EVERY: Duration = Duration::from_secs(1);

/// What the main thread waits for.
#[derive(Debug)]
pub(super) enum News {
    /// SIGTERM or SIGINT.
    ToldToEnd,
    /// The log failed: why, and what to do.
    LogFailed(String),
    /// A loop has drained.
    LoopEnded,
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    engines: Engines,
    loops: Vec<LoopHandle>,
    loop_metrics: Vec<Arc<LoopMetrics>>,
    admin: AdminHandle,
    lifecycle: Lifecycle,
    news: Receiver<News>,
    tell: Sender<News>,
    /// Ends the comparison of the loops' descriptors when it is dropped.
    _audit: Sender<()>,
    /// Last, so that the directory stays locked until everything has ended.
    _homes: Homes,
}

impl Server {
    pub(super) fn start(config: &Config) -> anyhow::Result<Self> {
        let descriptors = host::raise_descriptor_limit();
        host::large_pages_only_where_asked();
        let homes = Homes::open(config)?;
        let resume_key = keyfile::load_or_make(&config.data_dir)?;
        let plan = settings::table_plan(config, descriptors);
        let shard_metrics: Vec<_> = (0..config.shards).map(|_| Arc::new(ShardMetrics::default())).collect();
        let recovered = shards::recover(config, &homes, &shard_metrics, &plan)?;
        layout::note_homes(&config.data_dir, config.shards)?;

        let (tell, news) = bounded(NEWS_MAX);
        watch_signals(tell.clone()).context("cannot watch for signals")?;
        let bound = reactor::bind(&settings::reactor(config, &plan))?;
        let address = bound[0].address();
        let (operator_bell, rung) = admin::bell();
        let (engines, far_ends) = Engines::spawn(recovered, &bound, &operator_bell, &tell)?;

        let lifecycle = Lifecycle::default();
        let loop_metrics: Vec<_> = bound.iter().map(|_| Arc::new(LoopMetrics::default())).collect();
        let sources = SourceSet { loops: loop_metrics.clone(), shards: shard_metrics };
        let admin_config = AdminConfig::new(config);
        let controls: Vec<_> = bound.iter().map(BoundLoop::control).collect();
        let tell_loops = Tell::new(move |order| controls.iter().for_each(|loop_| loop_.drain_share(order)));
        let (asks, stage) = (far_ends.operator, lifecycle.clone());
        let admin = admin::spawn(admin_config, sources, asks, operator_bell, rung, stage, tell_loops)
            .with_context(|| {
                let address = config.listen.admin;
                format!("cannot listen for operators on {address}; choose another address with --admin")
            })?;
        let loops = spawn_loops(config, bound, far_ends.loops, &loop_metrics, resume_key, &plan)?;
        let controls = loops.iter().map(|handle| handle.control.clone()).collect();
        let audit = audit::start(controls, loop_metrics.clone())
            .context("cannot start the thread that compares descriptors")?;
        lifecycle.advance(Stage::Ready);
        // Whoever started the server need not listen to it.
        let _ = out::line(format_args!("listening on {address}\nadmin on {}", admin.address()));
        Ok(Self { engines, loops, loop_metrics, admin, lifecycle, news, tell, _audit: audit, _homes: homes })
    }

    /// Serves until a signal comes, then drains. A second signal ends the drain at once.
    pub(super) fn run_until_told(self, drain: &config::Drain) -> anyhow::Result<()> {
        let Self { engines, loops, loop_metrics, admin, lifecycle, news, tell, _audit, _homes } = self;
        if let News::LogFailed(told) = news.recv()? {
            return Err(log_failed(&lifecycle, told));
        }
        let (period, readiness_delay) = (drain.period, drain.readiness_delay);
        tracing::info!(?period, "told to end: clients are sent away; a second signal ends at once");
        // Before anything else, so that whoever asks whether to send clients here hears no in time.
        lifecycle.advance(Stage::Draining);
        let controls: Vec<_> = loops.iter().map(|handle| handle.control.clone()).collect();
        match news.recv_timeout(readiness_delay) {
            Err(RecvTimeoutError::Timeout) => controls.iter().for_each(|control| control.drain(period)),
            Ok(News::LogFailed(told)) => return Err(log_failed(&lifecycle, told)),
            _ => controls.iter().for_each(reactor::LoopControl::stop),
        }
        thread::Builder::new().name("drain".into()).spawn(move || {
            for handle in loops {
                // A loop's panic ends the process: there is nothing to be joined then.
                let _ = handle.join.join();
            }
            let _ = tell.try_send(News::LoopEnded);
        })?;
        loop {
            match news.recv_timeout(TELL_DRAIN_EVERY) {
                Err(RecvTimeoutError::Timeout) => tell_drain(&loop_metrics),
                Ok(News::LogFailed(told)) => return Err(log_failed(&lifecycle, told)),
                Ok(News::ToldToEnd) => controls.iter().for_each(reactor::LoopControl::stop),
                Ok(News::LoopEnded) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        admin.stop();
        match engines.stop() {
            Ok(()) => tracing::info!("everything is written; the server ends"),
            Err(told) => return Err(log_failed(&lifecycle, told)),
        }
        Ok(())
    }
}

/// How far the drain is, in a line of the log.
fn tell_drain(loops: &[Arc<LoopMetrics>]) {
    let sum = |cell: fn(&LoopMetrics) -> &Gauge| loops.iter().map(|own| cell(own).value()).sum::<u64>();
    let (wanted, told) = (sum(|m| &m.drain_wanted), sum(|m| &m.drain_told));
    let (leaving, remaining) = (sum(|m| &m.drain_leaving), wanted.saturating_sub(told));
    tracing::info!(told, leaving, remaining, "draining");
}

fn log_failed(lifecycle: &Lifecycle, told: String) -> anyhow::Error {
    lifecycle.advance(Stage::Failed);
    anyhow!(told)
}

fn spawn_loops(
    config: &Config,
    bound: Vec<BoundLoop>,
    lanes: Vec<Vec<ShardLane>>,
    metrics: &[Arc<LoopMetrics>],
    resume_key: ResumeKey,
    plan: &TablePlan,
) -> anyhow::Result<Vec<LoopHandle>> {
    let gateway_config = settings::gateway(config, resume_key, plan);
    let clock = Clock::starting_at(Time(0));
    let mut handles = Vec::with_capacity(bound.len());
    for ((bound, lanes), metrics) in bound.into_iter().zip(lanes).zip(metrics) {
        let gateway = Gateway::new(
            bound.loop_id(),
            Arc::clone(&gateway_config),
            Arc::clone(metrics),
            fastrand::u64(..),
            clock.time(),
        );
        let handle = bound
            .spawn(gateway, lanes, Arc::clone(metrics), clock.clone())
            .context("cannot start the thread of an event loop")?;
        handles.push(handle);
    }
    Ok(handles)
}

fn watch_signals(tell: Sender<News>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            let _ = tell.try_send(News::ToldToEnd);
        }
    })?;
    Ok(())
}
