//! The shards of a server: where their logs are, how they start, and the lanes between them and everybody else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, bail, ensure};
use crossbeam_channel::Sender;

use super::server::News;
use super::{keyfile, settings};
use crate::admin::OperatorLane;
use crate::cli::layout;
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::engine::{Ended, Engine, EngineLanes, Shard};
use crate::host::TablePlan;
use crate::ids::{LoopId, ShardId};
use crate::log::{DirectoryLock, DiskStorage, Durability, LogError, Storage};
use crate::mail::{Bell, command_lanes, effect_lane};
use crate::reactor::{BoundLoop, ShardLane};
use crate::telemetry::ShardMetrics;

/// The logs of all shards, locked while this lives.
#[derive(Debug)]
pub(super) struct Homes {
    logs: Vec<Arc<DiskStorage>>,
    /// A server ran here before.
    is_used: bool,
    /// Of the data directory, where the logs lie below it.
    _lock: Option<DirectoryLock>,
}

impl Homes {
    /// Locks the data directory and makes what is missing.
    ///
    /// # Errors
    /// When the directory cannot be used, was made for another number of shards, or has lost one.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let directory = config.data_dir.as_path();
        // Where there is one log, it has the lock.
        let lock = if config.shards > 1 { Some(DirectoryLock::take(directory)?) } else { None };
        check_number(directory, config.shards)?;
        layout::check_homes(directory, config.shards)?;
        let open = |home: PathBuf| DiskStorage::open(&home, config.log.durability).map(Arc::new);
        let logs = layout::homes(directory, config.shards).into_iter().map(open);
        let is_used = keyfile::is_there(directory);
        Ok(Self { logs: logs.collect::<Result<_, _>>()?, is_used, _lock: lock })
    }
}

/// Refuses a number of shards that is not the directory's.
fn check_number(directory: &Path, wanted: u64) -> anyhow::Result<()> {
    let Some(has) = layout::shards_of(directory)? else { return layout::note_shards(directory, wanted) };
    ensure!(
        has == wanted,
        "shards is {wanted}, but {} was made for {has}, and in which shard a namespace lies follows from their number: \
         serve it with --shards {has}; or let consumers empty its queues, and begin with {wanted} in another directory",
        directory.display()
    );
    Ok(())
}

/// A shard that has read its log and does not run yet.
pub(super) struct Recovered {
    shard: Shard,
    /// There was no log.
    is_new: bool,
    /// The shard's own.
    clock: Clock,
    log: Arc<DiskStorage>,
    metrics: Arc<ShardMetrics>,
}

/// Reads all logs, side by side, and counts this boot on disk, before anybody is let in.
pub(super) fn recover(
    config: &Config,
    homes: &Homes,
    metrics: &[Arc<ShardMetrics>],
    plan: &TablePlan,
) -> anyhow::Result<Vec<Recovered>> {
    if let Durability::Interval(interval) = config.log.durability {
        tracing::warn!(
            ?interval,
            "log.durability: what is acknowledged survives the end of this process, but a power loss may take what \
             was acknowledged within the interval"
        );
    }
    thread::scope(|scope| {
        let readers: Vec<_> = (homes.logs.iter().zip(metrics).zip(0..))
            .map(|((log, metrics), number)| {
                scope.spawn(move || {
                    let recovered = recover_one(config, ShardId(number), log, metrics, plan)
                        .with_context(|| format!("the log in {}", log.directory().display()))?;
                    if homes.is_used && recovered.is_new {
                        tell_gone(log);
                    }
                    Ok(recovered)
                })
            })
            .collect();
        // A panic ends the process by itself.
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap_or_else(|_| bail!("a shard could not start")))
            .collect()
    })
}

fn recover_one(
    config: &Config,
    id: ShardId,
    log: &Arc<DiskStorage>,
    metrics: &Arc<ShardMetrics>,
    plan: &TablePlan,
) -> anyhow::Result<Recovered> {
    let since_start = Clock::starting_at(Time(0));
    let settings = settings::engine(config, id, plan);
    let (mut shard, started, clock) = Shard::recover_now(&**log, settings, Arc::clone(metrics))?;
    while let Some(batch) = shard.seal() {
        batch.write()?;
        shard.batch_done(clock.now(), batch);
    }
    let recovery = &started.recovery;
    tracing::info!(
        shard = id.0,
        boot = started.boot.0,
        segments = recovery.segments,
        records = recovery.records,
        checkpoints = recovery.checkpoints,
        took_ms = since_start.time().0,
        "the log is read"
    );
    if let Some(cut) = &recovery.cut {
        tracing::info!(
            ?cut,
            "what was written last is not whole and was cut off the end of the log: as far as the log says, the server \
             ended before it was done and answered nobody for it, unless log.durability was an interval and the machine \
             lost its power"
        );
    }
    if config.log.durability == Durability::Sync && !recovery.is_direct {
        tracing::warn!(
            "the file system of the data directory takes no direct writes: commits will be slower"
        );
    }
    let is_new = recovery.is_new;
    Ok(Recovered { shard, is_new, clock, log: Arc::clone(log), metrics: Arc::clone(metrics) })
}

fn tell_gone(log: &DiskStorage) {
    tracing::warn!(
        directory = %log.directory().display(),
        "a server ran on this data directory before, but its log is gone: this one starts empty. If there were messages, \
         stop it and restore the log from a copy"
    );
}

/// Shards that run.
#[derive(Debug)]
pub(super) struct Engines(Vec<(Engine, Arc<DiskStorage>)>);

/// The ends of the lanes that are not the shards', each by shard.
#[derive(Debug)]
pub(super) struct FarEnds {
    /// Of each loop.
    pub(super) loops: Vec<Vec<ShardLane>>,
    pub(super) operator: Vec<OperatorLane>,
}

impl Engines {
    /// Starts the threads of all shards. What becomes of a log that fails is told.
    pub(super) fn spawn(
        recovered: Vec<Recovered>,
        bound: &[BoundLoop],
        operator_bell: &Bell,
        tell: &Sender<News>,
    ) -> anyhow::Result<(Self, FarEnds)> {
        let mut far = FarEnds { loops: bound.iter().map(|_| Vec::new()).collect(), operator: Vec::new() };
        let mut engines = Vec::with_capacity(recovered.len());
        for Recovered { shard, clock, log, metrics, .. } in recovered {
            let (failed, own) = (tell.clone(), Arc::clone(&log));
            let engine = Engine::spawn(
                shard,
                Arc::clone(&log) as Arc<dyn Storage>,
                clock,
                metrics,
                |bell| far.lay_lanes(bell, bound, operator_bell),
                move |error| {
                    let _ = failed.try_send(News::LogFailed(why_it_ends(&own, error)));
                },
            );
            engines.push((engine.context("cannot start a shard's threads")?, log));
        }
        Ok((Self(engines), far))
    }

    /// Lets all finish what they were sent, write it, and end; a log that failed is told.
    ///
    /// # Errors
    /// Why the first log failed that did, and what to do.
    pub(super) fn stop(self) -> Result<(), String> {
        // One after the other: they write at the same time, and the slowest is waited for anyway.
        let mut outcome = Ok(());
        for (engine, log) in self.0 {
            if let Ended::Failed(error) = engine.stop() {
                outcome = outcome.and(Err(why_it_ends(&log, &error)));
            }
        }
        outcome
    }
}

/// Where and why a log failed, and what to do.
fn why_it_ends(log: &DiskStorage, error: &LogError) -> String {
    let next = match error {
        LogError::Damaged { .. } => {
            "A start alone does not help: the server ends again when it comes to read that place"
        }
        _ => {
            "Look at the disk, then start the server again: it recovers everything it acknowledged, but for what was not \
             synced where log.durability is an interval"
        }
    };
    format!("the log in {}: {error}. Nothing was acknowledged after this. {next}", log.directory().display())
}

impl FarEnds {
    /// Lanes between one more shard, which `shard_bell` wakes, and everybody.
    fn lay_lanes(&mut self, shard_bell: &Bell, bound: &[BoundLoop], operator_bell: &Bell) -> EngineLanes {
        let mut ends: Vec<(LoopId, Bell)> =
            bound.iter().map(|bound| (bound.loop_id(), bound.bell())).collect();
        ends.push((LoopId::OPERATOR, operator_bell.clone()));
        let (senders, receiver) = command_lanes(&ends, shard_bell);
        let mut near = EngineLanes { commands: receiver, effects: Vec::with_capacity(ends.len()) };
        for ((loop_id, bell), commands) in ends.into_iter().zip(senders) {
            let (sender, effects) = effect_lane(loop_id, bell);
            near.effects.push(sender);
            match self.loops.get_mut(usize::from(loop_id.0)) {
                Some(lanes) => lanes.push(ShardLane { commands, effects }),
                None => self.operator.push(OperatorLane { commands, effects }),
            }
        }
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_number_of_shards() {
        for (kept, others) in [(4, [1, 3]), (1, [2, 64])] {
            let home = tempfile::tempdir().unwrap();
            check_number(home.path(), kept).unwrap();
            std::fs::create_dir(home.path().join("log")).unwrap();
            std::fs::write(home.path().join("log/000000000001.seg"), "").unwrap();
            check_number(home.path(), kept).unwrap();
            for other in others {
                let error = check_number(home.path(), other).unwrap_err().to_string();
                let remedy = format!("--shards {kept}");
                assert!(error.contains(&format!("shards is {other}")) && error.contains(&remedy), "{error}");
            }
        }
    }
}
