//! Sessions that fall silent while they are held: they keep their sockets and read, but send no heartbeat any more. How
//! long after its deadline the server takes each of them for dead is what is measured, from outside.
//!
//! The deadline is the session contract's: so many of the intervals that hold for the session, counted from what it said
//! last.

use std::time::Duration;

use anyhow::ensure;
use relaymesh::limits::HEARTBEATS_MISSED_MAX;
use relaymesh::wire::proto::Code;
use serde_json::json;

use crate::fleet::{Ending, Share};
use crate::report::Report;

/// How late, in parts of its deadline, a silent session may be noticed: the goal, and what a hold must leave room for.
const LATE_MAX: f64 = 0.1;
/// How early, in parts of its deadline, is not yet too early: the server counts from its loop's turn, which may have begun
/// before the heartbeat was sent.
const EARLY_MAX: f64 = 0.01;

/// How long a session with this interval may be silent.
pub(super) fn deadline(interval: Duration) -> Duration {
    interval * HEARTBEATS_MISSED_MAX
}

/// Refuses a hold in which sessions that fall silent at its beginning are not all noticed.
///
/// # Errors
/// Names the hold that is needed.
pub(super) fn check_hold(hold: Duration, interval: Duration) -> anyhow::Result<()> {
    let deadline = deadline(interval);
    let needed = Duration::from_secs(deadline.mul_f64(1.0 + LATE_MAX).as_secs_f64().ceil() as u64);
    let [said, interval, deadline, wanted] =
        [hold, interval, deadline, needed].map(|time| humantime::format_duration(time).to_string());
    ensure!(
        hold >= needed,
        "--fall-silent: --hold {said} is too short; with a heartbeat of {interval} a silent session is gone after \
         {HEARTBEATS_MISSED_MAX} missed ones, {deadline}, and may be noticed a tenth later: --hold {wanted}"
    );
    Ok(())
}

/// One session that falls silent, or fell.
#[derive(Debug, Clone, Copy, Default)]
struct Silent {
    /// When it said what it said last, at the earliest: its PING, or HELLO.
    said_from_us: u64,
    /// At the latest: its PING, or the WELCOME it was answered with.
    said_until_us: u64,
    /// The interval by which the server measures its silence.
    interval: Duration,
    is_welcome: bool,
}

/// Those of a thread's sessions that fall silent: evenly spread over all sessions of the run.
#[derive(Debug)]
pub(super) struct Silents {
    share: Share,
    /// How many fall silent in the whole run.
    wanted: usize,
    /// How many of them have a lower number than this share's first session.
    before: usize,
    places: Vec<Silent>,
    /// From here on they are silent.
    has_begun: bool,
    detection: Detection,
}

impl Silents {
    /// Of a run in which `wanted` sessions fall silent, at most all.
    pub(super) fn new(share: Share, wanted: usize) -> Self {
        let until = |session: usize| session * wanted / share.total.max(1);
        let before = until(share.first);
        let places = vec![Silent::default(); until(share.first + share.wanted) - before];
        Self { share, wanted, before, places, has_begun: false, detection: Detection::default() }
    }

    /// The place of the share's session of this number, if it is one of them.
    fn place(&self, number: usize) -> Option<usize> {
        let until = |session: usize| session * self.wanted / self.share.total.max(1);
        let in_run = self.share.first + number;
        let place = until(in_run);
        (until(in_run + 1) > place).then(|| place - self.before)
    }

    fn at(&mut self, number: usize) -> Option<&mut Silent> {
        let place = self.place(number)?;
        self.places.get_mut(place)
    }

    /// All sessions are there: those chosen say nothing any more.
    pub(super) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Whether this session is silent now.
    pub(super) fn is_silent(&self, number: usize) -> bool {
        self.has_begun && self.place(number).is_some()
    }

    /// It said HELLO.
    pub(super) fn said_hello(&mut self, number: usize, now_us: u64) {
        if let Some(silent) = self.at(number) {
            *silent = Silent { said_from_us: now_us, ..Silent::default() };
        }
    }

    /// A session was welcomed and goes by this interval. Whether it is one of them.
    pub(super) fn welcomed(&mut self, number: usize, now_us: u64, interval: Duration) -> bool {
        let Some(silent) = self.at(number) else { return false };
        *silent = Silent { said_until_us: now_us, interval, is_welcome: true, ..*silent };
        true
    }

    /// It sent a PING and goes by this interval.
    pub(super) fn pinged(&mut self, number: usize, now_us: u64, interval: Duration) {
        if let Some(silent) = self.at(number) {
            *silent = Silent { said_from_us: now_us, said_until_us: now_us, interval, ..*silent };
        }
    }

    /// A PONG came, which may have named another interval. Until the server sees that a shorter one is followed it
    /// measures by the longer.
    pub(super) fn ponged(&mut self, number: usize, interval: Duration) {
        if let Some(silent) = self.at(number) {
            silent.interval = silent.interval.max(interval);
        }
    }

    /// A session has ended. Whether that was because it is silent; then it is counted here and nowhere else.
    pub(super) fn ended(&mut self, number: usize, now_us: u64, ending: &Ending) -> bool {
        let is_for_silence = ending.code.is_none_or(|code| code == Code::HeartbeatMissed);
        if !self.is_silent(number) || !is_for_silence {
            return false;
        }
        let Some(silent) = self.at(number).filter(|silent| silent.is_welcome) else { return false };
        silent.is_welcome = false;
        let silent = *silent;
        let deadline_us = deadline(silent.interval).as_micros() as f64;
        let at_most_us = now_us.saturating_sub(silent.said_from_us) as f64;
        let at_least_us = now_us.saturating_sub(silent.said_until_us) as f64;
        if at_most_us < deadline_us * (1.0 - EARLY_MAX) {
            self.detection.early += 1;
        } else {
            self.detection.late_percent.push(100.0 * (at_least_us / deadline_us - 1.0).max(0.0));
        }
        self.detection.deadline = self.detection.deadline.max(deadline(silent.interval));
        true
    }

    /// What came of them, now that the run is over.
    pub(super) fn into_detection(mut self) -> Detection {
        let open = self.places.iter().filter(|silent| silent.is_welcome);
        self.detection.undetected = if self.has_begun { open.count() as u64 } else { 0 };
        self.detection
    }
}

/// What came of the sessions that fell silent, of a thread or of all.
#[derive(Debug, Default)]
pub(super) struct Detection {
    /// How much later than its deadline each was noticed, in percent of that; at most as many as fell silent.
    late_percent: Vec<f64>,
    /// Closed before their deadline.
    early: u64,
    /// Never closed.
    undetected: u64,
    /// The longest deadline.
    deadline: Duration,
}

impl Detection {
    /// Adds what came of another thread's.
    pub(super) fn add(&mut self, other: Self) {
        self.late_percent.extend(other.late_percent);
        self.early += other.early;
        self.undetected += other.undetected;
        self.deadline = self.deadline.max(other.deadline);
    }

    /// p50, p99 and the most; `None` when none was noticed.
    fn percentiles(&self) -> Option<[f64; 3]> {
        let mut sorted = self.late_percent.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            let rank = (sorted.len() as f64 * quantile).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied()
        };
        Some([at(0.5)?, at(0.99)?, at(1.0)?])
    }

    /// Tells it in a report, which is a failure if one was closed too early or never.
    pub(super) fn tell(&self, wanted: usize, report: &mut Report) {
        if wanted == 0 {
            return;
        }
        let Self { late_percent, early, undetected, deadline } = self;
        let detected = late_percent.len();
        let within = late_percent.iter().filter(|&&late| late <= 100.0 * LATE_MAX).count();
        report.say(format!(
            "{wanted} fell silent: {detected} detected, {undetected} undetected, {early} closed before their deadline"
        ));
        let percentiles = self.percentiles();
        if let Some([p50, p99, most]) = percentiles {
            report.say(format!(
                "  later than their deadline of {}, in % of it: p50 {p50:.2}  p99 {p99:.2}  max {most:.2}; {within} within {:.0}",
                humantime::format_duration(*deadline),
                100.0 * LATE_MAX,
            ));
        }
        let thousandths = |percent: f64| (percent * 1000.0).round() / 1000.0;
        let lateness = percentiles.map(|all| all.map(thousandths));
        let lateness = lateness.map(|[p50, p99, max]| json!({ "p50": p50, "p99": p99, "max": max }));
        report.set(
            "fall_silent",
            json!({
                "wanted": wanted,
                "detected": detected,
                "undetected": undetected,
                "early": early,
                "within_goal": within,
                "deadline_ms": deadline.as_millis() as u64,
                "lateness_percent": lateness,
            }),
        );
        if early + undetected > 0 {
            report.fail(format!(
                "of {wanted} silent sessions {early} were closed before their deadline and {undetected} never"
            ));
        }
    }
}

#[cfg(test)]
mod tests;
