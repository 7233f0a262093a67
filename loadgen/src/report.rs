//! What came of a run: printed for people, written as JSON for programs.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::options::Target;
use crate::server::ServerCpu;

/// Delays in microseconds, up to ten minutes, to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Delays(Histogram<u64>);

const DELAY_US_MAX: u64 = 600_000_000;

impl Delays {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, DELAY_US_MAX, 3).expect("the bounds are in order"))
    }

    /// Counts one delay in microseconds.
    pub(crate) fn record(&mut self, us: u64) {
        self.0.saturating_record(us.max(1));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The delay that is reached by this part of them, 0 to 1.
    pub(crate) fn at(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    /// Counts what another thread counted as well.
    pub(crate) fn add(&mut self, other: &Self) {
        // Both have the bounds of `new`, without which the other's could be out of range.
        let _ = self.0.add(&other.0);
    }

    /// The percentiles in a line for people.
    pub(crate) fn to_line(&self) -> String {
        let percentiles = self.percentiles().map(|(name, us)| format!("{name} {us}"));
        percentiles.join("  ")
    }

    /// p50, p90, p99, p999 and max, in microseconds.
    fn percentiles(&self) -> [(&'static str, u64); 5] {
        let at = |quantile| self.0.value_at_quantile(quantile);
        [("p50", at(0.5)), ("p90", at(0.9)), ("p99", at(0.99)), ("p999", at(0.999)), ("max", self.0.max())]
    }

    /// As [`Delays::to_json`], with how many there are.
    pub(crate) fn to_json_with_count(&self) -> Value {
        let mut fields = self.to_json();
        fields["count"] = json!(self.count());
        fields
    }

    pub(crate) fn to_json(&self) -> Value {
        self.percentiles()
            .into_iter()
            .map(|(name, us)| (name.to_owned(), json!(us)))
            .collect::<Map<_, _>>()
            .into()
    }
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Report {
    fields: Map<String, Value>,
    lines: Vec<String>,
    json: Option<PathBuf>,
    failure: Option<String>,
}

impl Report {
    /// `count` operations, called `what`, were answered in `elapsed`; `delays` are theirs.
    pub(crate) fn new(target: &Target, what: &str, count: u64, elapsed: Duration, delays: &Delays) -> Self {
        let per_s = count as f64 / elapsed.as_secs_f64().max(1e-9);
        let mut report =
            Self { fields: Map::new(), lines: Vec::new(), json: target.json.clone(), failure: None };
        report.lines.push(format!("{count} {what} in {:.3} s: {per_s:.0} a second", elapsed.as_secs_f64()));
        report.lines.push(format!("delay in us: {}", delays.to_line()));
        report.set("count", json!(count));
        report.set("elapsed_s", json!(elapsed.as_secs_f64()));
        report.set("per_s", json!(per_s));
        report.set("latency_us", delays.to_json());
        report
    }

    /// Adds a field to the JSON.
    pub(crate) fn set(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    /// Adds a line for people.
    pub(crate) fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Adds what the server's process used for each of `count` operations.
    ///
    /// # Errors
    /// When its process is gone.
    pub(crate) fn server_cpu(
        &mut self,
        cpu: Option<ServerCpu>,
        count: u64,
        what: &str,
    ) -> anyhow::Result<()> {
        let Some(cpu) = cpu else { return Ok(()) };
        let each_us = cpu.spent()?.as_secs_f64() * 1e6 / count.max(1) as f64;
        self.say(format!("server CPU: {each_us:.2} us {what}"));
        self.set("server_cpu_us_per_op", json!(each_us));
        Ok(())
    }

    /// Makes the run a failure all the same, once its report is printed and written.
    pub(crate) fn fail(&mut self, why: String) {
        self.failure = Some(why);
    }

    /// Prints and writes it.
    ///
    /// # Errors
    /// When the file cannot be written, or the run is a failure.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        print(&mut io::stdout().lock(), &self.lines)?;
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&Value::from(self.fields))?;
            fs::write(path, text + "\n")
                .with_context(|| format!("cannot write --json {}", path.display()))?;
        }
        if let Some(why) = self.failure {
            bail!(why);
        }
        Ok(())
    }
}

/// Prints lines. That the reader has seen enough (`| head`) is no failure: the run goes on, and its file is written.
///
/// # Errors
/// Whatever else the system says.
pub(crate) fn print(out: &mut impl Write, lines: &[String]) -> io::Result<()> {
    match lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed(io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_leaves_is_no_failure() {
        let lines = ["one".to_owned(), "two".to_owned()];
        print(&mut Closed(io::ErrorKind::BrokenPipe), &lines).unwrap();
        print(&mut Closed(io::ErrorKind::StorageFull), &lines).unwrap_err();
        let mut out = Vec::new();
        print(&mut out, &lines).unwrap();
        assert_eq!(out, b"one\ntwo\n");
    }
}
