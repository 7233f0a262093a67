//! What a run costs the server's process and the kernel, read from outside.
//!
//! The process is asked through `/proc` when its id is known, else through the server's own metrics. The kernel's
//! accounts are those of the machine that the load generator runs on.

use std::fs;
use std::time::Duration;

use anyhow::{Context, anyhow};
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
    Metrics {
        /// Where they are.
        url: String,
        /// What proves that one may; empty where the server is open.
        token: String,
        /// Reused, so that asking costs the server little.
        agent: ureq::Agent,
    },
}

impl Process {
    /// `None` when the run was told of none.
    pub(crate) fn of(target: &Target) -> Option<Self> {
        if let Some(pid) = target.server_pid {
            return Some(Self::Local(pid));
        }
        let agent = ureq::Agent::config_builder().timeout_global(Some(METRICS_PATIENCE)).build().into();
        let url = format!("http://{}/metrics", target.admin.as_ref()?);
        Some(Self::Metrics { url, token: target.token.clone(), agent })
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
            Self::Metrics { .. } => Ok(self.metric(RESIDENT_METRIC)? as u64),
        }
    }

    /// Processor time that it has used since its start.
    ///
    /// # Errors
    /// As [`Process::resident_bytes`].
    fn cpu_time(&self) -> anyhow::Result<Duration> {
        match self {
            Self::Local(pid) => local_cpu_time(*pid),
            Self::Metrics { .. } => {
                let seconds = self.metric(CPU_METRIC)?;
                Duration::try_from_secs_f64(seconds).with_context(|| format!("{CPU_METRIC} is {seconds}"))
            }
        }
    }

    fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let Self::Metrics { url, token, agent } = self else {
            return Err(anyhow!("no address for operators"));
        };
        let mut request = agent.get(url);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let ask = || request.call()?.body_mut().read_to_string();
        let page = ask().with_context(|| format!("--admin: cannot read {url}"))?;
        sample(&page, name).with_context(|| format!("{url} does not tell {name}"))
    }
}

/// The value of a metric without labels on a page of OpenMetrics.
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

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests;
