//! What a run costs the server's process and the kernel, read from outside.
//!
//! The process is asked through `/proc` when its id is known, else through the server's own metrics. The kernel's
//! accounts are those of the machine that the load generator runs on.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use relaymesh::host;

use crate::options::Target;

const METRICS_PATIENCE: Duration = Duration::from_secs(10);
const RESIDENT_METRIC: &str = "relaymesh_process_resident_memory_bytes";
const CPU_METRIC: &str = "relaymesh_process_cpu_seconds_total";

/// Where the server's process can be asked.
#[derive(Debug, Clone)]
pub(crate) enum Process {
    /// On this machine.
    Local(u32),
    /// At its address for operators.
    Metrics(Metrics),
}

/// The server's own metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    url: String,
    /// What proves that one may; empty where the server is open.
    token: String,
    /// Reused, so that asking costs the server little.
    agent: ureq::Agent,
}

/// What they were at one moment, as OpenMetrics text.
#[derive(Debug, Clone)]
pub(crate) struct MetricsPage(String);

impl Metrics {
    /// `None` when the run was told of no address for operators.
    pub(crate) fn of(target: &Target) -> Option<Self> {
        let url = format!("http://{}/metrics", target.admin.as_ref()?);
        let agent = ureq::Agent::config_builder().timeout_global(Some(METRICS_PATIENCE)).build().into();
        Some(Self { url, token: target.token.clone(), agent })
    }

    /// Asks for all of them.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) fn read(&self) -> anyhow::Result<MetricsPage> {
        let Self { url, token, agent } = self;
        let mut request = agent.get(url);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let ask = || request.call()?.body_mut().read_to_string();
        ask().map(MetricsPage).with_context(|| format!("--admin: cannot read {url}"))
    }
}

impl MetricsPage {
    /// The value of one series: a metric's name, with its labels as they stand on the page.
    ///
    /// # Errors
    /// When the server does not tell it.
    pub(crate) fn value(&self, series: &str) -> anyhow::Result<f64> {
        sample(&self.0, series).with_context(|| format!("the server does not tell {series}"))
    }

    /// The sum over all series of metric `name` with `label` among their labels, as it stands on the page; 0 when there
    /// is none.
    pub(crate) fn sum(&self, name: &str, label: &str) -> f64 {
        let value = |line: &str| {
            let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.split_once("} ")?;
            let value = value.split_ascii_whitespace().next()?.parse::<f64>().ok()?;
            labels.split(',').any(|one| one == label).then_some(value)
        };
        self.0.lines().filter_map(value).sum()
    }
}

impl Process {
    /// `None` when the run was told of none.
    pub(crate) fn of(target: &Target) -> Option<Self> {
        if let Some(pid) = target.server_pid {
            return Some(Self::Local(pid));
        }
        Metrics::of(target).map(Self::Metrics)
    }

    /// Memory of it that is in RAM, in bytes.
    ///
    /// # Errors
    /// When the process is not there or does not say.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        match self {
            Self::Local(pid) => {
                let path = format!("/proc/{pid}/statm");
                let text =
                    fs::read_to_string(&path).with_context(|| format!("--server-pid {pid}: {path}"))?;
                let pages = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
                Ok(pages.with_context(|| format!("{path} is not as expected"))? * page_bytes())
            }
            Self::Metrics(metrics) => Ok(metrics.read()?.value(RESIDENT_METRIC)? as u64),
        }
    }

    /// Of that what no file holds: its heap and its stacks, in bytes; all of it where the system does not tell them apart.
    ///
    /// # Errors
    /// As [`Process::resident_bytes`].
    pub(crate) fn anonymous_bytes(&self) -> anyhow::Result<u64> {
        let Self::Local(pid) = self else { return self.resident_bytes() };
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("--server-pid {pid}: {path}"))?;
        match kib_of(&text, "RssAnon:") {
            Some(bytes) => Ok(bytes),
            None => self.resident_bytes(),
        }
    }

    /// Processor time that it has used since its start.
    ///
    /// # Errors
    /// As [`Process::resident_bytes`].
    fn cpu_time(&self) -> anyhow::Result<Duration> {
        match self {
            Self::Local(pid) => local_cpu_time(*pid),
            Self::Metrics(metrics) => {
                let seconds = metrics.read()?.value(CPU_METRIC)?;
                Duration::try_from_secs_f64(seconds).with_context(|| format!("{CPU_METRIC} is {seconds}"))
            }
        }
    }
}

/// The value of one series on a page of OpenMetrics.
fn sample(page: &str, name: &str) -> Option<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// What the threads of a process have run, to the nanosecond, from `/proc/<pid>/task/*/schedstat`. (The ticks in
/// `/proc/<pid>/stat` miss threads that run for less than a tick at a time.)
fn local_cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&tasks).with_context(|| format!("--server-pid {pid}: cannot read {tasks}"))?;
    let mut ran_ns = 0;
    for task in tasks {
        let path = task?.path().join("schedstat");
        // A thread may end while the others are read.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let first = text.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
        ran_ns += first.with_context(|| format!("{} is not as expected", path.display()))?;
    }
    Ok(Duration::from_nanos(ran_ns))
}

/// CPU time of the server's process from some moment on.
#[derive(Debug, Clone)]
pub(crate) struct ServerCpu {
    process: Process,
    start: Duration,
}

impl ServerCpu {
    /// Starts counting. `None` when the run was told of no process.
    ///
    /// # Errors
    /// When the process is not there.
    pub(crate) fn start(process: Option<&Process>) -> anyhow::Result<Option<Self>> {
        let Some(process) = process.cloned() else { return Ok(None) };
        Ok(Some(Self { start: process.cpu_time()?, process }))
    }

    /// What the server used since the start.
    ///
    /// # Errors
    /// As [`ServerCpu::start`].
    pub(crate) fn spent(&self) -> anyhow::Result<Duration> {
        Ok(self.process.cpu_time()?.saturating_sub(self.start))
    }
}

/// Memory at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Memory {
    /// The server's process; `None` when the run was told of none.
    pub(crate) resident: Option<u64>,
    /// What this machine's kernel accounts for: its slabs, and the buffers of TCP. `None` where it does not say.
    pub(crate) kernel: Option<u64>,
}

impl Memory {
    /// Reads it.
    ///
    /// # Errors
    /// When the process is not there or does not say.
    pub(crate) fn read(process: Option<&Process>) -> anyhow::Result<Self> {
        Ok(Self { resident: process.map(Process::resident_bytes).transpose()?, kernel: host::kernel_bytes() })
    }
}

/// The bytes in a line of `/proc` that gives them as `name  123 kB`.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests;
