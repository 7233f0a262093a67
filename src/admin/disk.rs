//! How much of the data directory's disk is free: looked at a few times a second, told to the shard when a mark is crossed.
//!
//! Off the way of any message: a file system that takes long to answer holds up nobody.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::config::{Config, Watermark};
use crate::host::{self, DiskSpace, DiskState};
use crate::mail::{OperatorReply, OperatorRequest};
use crate::telemetry::Gauge;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A mark is left behind once this part of it more is free, so that what comes and goes near it changes nothing.
const MARGIN: u64 = 8;
const MIB: u64 = 1 << 20;

/// What is watched, and below how much free space what is done.
#[derive(Debug, Clone)]
pub struct DiskMarks {
    /// A place on the disk.
    pub directory: PathBuf,
    /// A line in the log.
    pub warn: Watermark,
    /// Publishes are refused.
    pub reject: Watermark,
    /// New sessions are refused as well.
    pub stop: Watermark,
}

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct DiskSeen {
    /// Whether anything was.
    is_known: Gauge,
    free: Gauge,
    state: Gauge,
}

impl DiskSeen {
    /// Bytes that are free, and the state; `None` where the system does not tell.
    pub(super) fn read(&self) -> Option<(u64, DiskState)> {
        (self.is_known.value() > 0).then(|| (self.free.value(), self.state()))
    }

    pub(super) fn state(&self) -> DiskState {
        DiskState::ALL.into_iter().find(|state| *state as u64 == self.state.value()).unwrap_or_default()
    }
}

impl DiskMarks {
    /// What `config` says of it.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            directory: config.data_dir.clone(),
            warn: config.log.disk_warn,
            reject: config.log.disk_reject,
            stop: config.log.disk_stop,
        }
    }

    /// The state with so much space, after `before`.
    fn state(&self, space: DiskSpace, before: DiskState) -> DiskState {
        let is_below = |state: DiskState, mark: Watermark| {
            let mark = mark.of(space.total);
            // Whoever is below a mark has to come above it by more.
            let mark =
                if before >= state { mark.saturating_add(mark / MARGIN).min(space.total) } else { mark };
            space.free < mark
        };
        if is_below(DiskState::Stop, self.stop) {
            DiskState::Stop
        } else if is_below(DiskState::Reject, self.reject) {
            DiskState::Reject
        } else if is_below(DiskState::Warn, self.warn) {
            DiskState::Warn
        } else {
            DiskState::Fine
        }
    }

    /// What clients are told in this state.
    fn text(&self, state: DiskState, space: DiskSpace) -> String {
        let (key, mark) = match state {
            DiskState::Stop => ("log.disk_stop", self.stop),
            DiskState::Reject => ("log.disk_reject", self.reject),
            DiskState::Warn | DiskState::Fine => ("log.disk_warn", self.warn),
        };
        format!(
            "the disk has {} MiB free, less than {key} = {}; free some, or let consumers ack what there is: that \
             goes on meanwhile",
            space.free / MIB,
            mark.show()
        )
    }
}

/// Watches for as long as it is polled.
pub(super) async fn watch(shared: Arc<Shared>) {
    let Some(marks) = &shared.config.disk else { return std::future::pending().await };
    let seen = &shared.disk;
    loop {
        let directory = marks.directory.clone();
        let space = tokio::task::spawn_blocking(move || host::disk_space(&directory)).await;
        if let Some(space) = space.ok().flatten() {
            seen.free.set(space.free);
            seen.is_known.set(1);
            let (before, state) = (seen.state(), marks.state(space, seen.state()));
            if state != before {
                let request = OperatorRequest::Disk { state, text: marks.text(state, space) };
                // A shard that does not answer in time is told again.
                if let Ok(OperatorReply::Changed(_)) = shared.shard.ask(request).await {
                    seen.state.set(state as u64);
                    say(marks, state, space);
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn say(marks: &DiskMarks, state: DiskState, space: DiskSpace) {
    let free_mib = space.free / MIB;
    let text = match state {
        DiskState::Fine => {
            tracing::info!(free_mib, "the disk of the data directory has room again");
            return;
        }
        DiskState::Warn => "publishes go on until log.disk_reject",
        DiskState::Reject => "publishes are refused; acks and the rest go on",
        DiskState::Stop => "publishes and new sessions are refused; acks and those who resume go on",
    };
    let (warn, reject, stop) = (marks.warn.show(), marks.reject.show(), marks.stop.show());
    tracing::warn!(free_mib, warn, reject, stop, "little is free on the disk of the data directory: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn marks() -> DiskMarks {
        let mark = |percent, bytes| Watermark { percent: Some(percent), bytes: Some(bytes) };
        DiskMarks {
            directory: PathBuf::new(),
            warn: mark(10, 4 * GIB),
            reject: mark(5, 2 * GIB),
            stop: mark(2, GIB),
        }
    }

    #[test]
    fn a_mark_is_crossed_where_it_stands_and_left_behind_a_little_above() {
        let marks = marks();
        let mut state = DiskState::Fine;
        let mut at = |free_mib: u64| {
            state = marks.state(DiskSpace { total: 1000 * GIB, free: free_mib * MIB }, state);
            state
        };
        let (warn, reject, stop) = (4096, 2048, 1024);
        assert_eq!(at(warn), DiskState::Fine);
        assert_eq!(at(warn - 1), DiskState::Warn);
        assert_eq!(at(warn), DiskState::Warn);
        assert_eq!(at(reject), DiskState::Warn);
        assert_eq!(at(reject - 1), DiskState::Reject);
        assert_eq!(at(stop - 1), DiskState::Stop);
        assert_eq!(at(stop + stop / 8 - 1), DiskState::Stop);
        assert_eq!(at(stop + stop / 8), DiskState::Reject);
        assert_eq!(at(reject + reject / 8 - 1), DiskState::Reject);
        assert_eq!(at(reject + reject / 8), DiskState::Warn);
        assert_eq!(at(warn + warn / 8 - 1), DiskState::Warn);
        assert_eq!(at(warn + warn / 8), DiskState::Fine);
        assert_eq!(at(0), DiskState::Stop);
        assert_eq!(at(1000 * 1024), DiskState::Fine);
    }

    #[test]
    fn a_small_disk_goes_by_the_share() {
        let marks = marks();
        let space = |free| DiskSpace { total: 100 * MIB, free };
        assert_eq!(marks.state(space(10 * MIB), DiskState::Fine), DiskState::Fine);
        assert_eq!(marks.state(space(6 * MIB), DiskState::Fine), DiskState::Warn);
        assert_eq!(marks.state(space(4 * MIB), DiskState::Fine), DiskState::Reject);
        assert_eq!(marks.state(space(MIB), DiskState::Fine), DiskState::Stop);
        assert_eq!(marks.state(space(100 * MIB), DiskState::Stop), DiskState::Fine);
    }

    #[test]
    fn a_disk_that_must_be_free_altogether_stops_at_once_and_one_without_marks_never() {
        let all = Watermark { percent: Some(100), bytes: None };
        let none = Watermark { percent: None, bytes: Some(0) };
        let marks = |mark| DiskMarks { directory: PathBuf::new(), warn: mark, reject: mark, stop: mark };
        let space = DiskSpace { total: GIB, free: GIB - 1 };
        assert_eq!(marks(all).state(space, DiskState::Fine), DiskState::Stop);
        assert_eq!(marks(none).state(DiskSpace { free: 0, ..space }, DiskState::Fine), DiskState::Fine);
        assert!(marks(all).text(DiskState::Reject, space).contains("log.disk_reject = 100%"));
    }
}
