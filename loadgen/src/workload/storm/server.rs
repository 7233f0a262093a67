//! The server that a storm kills or drains: a process of its own, started again where it was.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use relaymesh::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};

/// How often the server's processor time is read.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// How often a server that was told to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Lines of the server's log that a failure shows.
const LOG_LINES_SHOWN: usize = 5;

/// What is started, and where.
pub(super) struct Server {
    binary: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
    /// The directory is of this run alone, and goes with it.
    is_own: bool,
    pub(super) listen: SocketAddr,
    pub(super) admin: SocketAddr,
    running: Option<(Child, BufReader<ChildStdout>)>,
    /// The process, for whoever watches it; 0 while there is none.
    pub(super) pid: Arc<AtomicU32>,
}

impl Server {
    /// A server that is not started. Without `binary` it is the one beside this program, without `directory` it has one of
    /// its own among the temporary files.
    ///
    /// # Errors
    /// When there is no such program, or no directory can be made.
    pub(super) fn new(
        binary: Option<PathBuf>,
        arguments: Vec<String>,
        directory: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let binary = match binary {
            Some(binary) => binary,
            None => env::current_exe().context("cannot find this program")?.with_file_name("relaymesh"),
        };
        if !binary.exists() {
            bail!("{} is not there: build it, or name another with --server-bin", binary.display());
        }
        let is_own = directory.is_none();
        let directory = directory
            .unwrap_or_else(|| env::temp_dir().join(format!("relaymesh-storm-{:016x}", fastrand::u64(..))));
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Self {
            binary,
            arguments,
            directory,
            is_own,
            listen: anywhere,
            admin: anywhere,
            running: None,
            pid: Arc::new(AtomicU32::new(0)),
        })
    }

    /// Starts it and waits until it listens; the first time wherever there is room, then there again.
    ///
    /// # Errors
    /// When it ends instead.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut child = Command::new(&self.binary)
            .arg("serve")
            .args(&self.arguments)
            .args(["--listen", &self.listen.to_string(), "--admin", &self.admin.to_string(), "--data-dir"])
            .arg(self.directory.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.pid.store(child.id(), Ordering::Relaxed);
        let Some(stdout) = child.stdout.take() else { bail!("the server has no stdout") };
        let mut stdout = BufReader::new(stdout);
        let said = listens(&mut stdout);
        self.running = Some((child, stdout));
        match said? {
            Some((listen, admin)) => (self.listen, self.admin) = (listen, admin),
            None => bail!("the server ended at its start: {}", self.last_words()),
        }
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    pub(super) fn kill(&mut self) {
        if let Some((mut child, _)) = self.running.take() {
            self.pid.store(0, Ordering::Relaxed);
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits until it has drained.
    ///
    /// # Errors
    /// When it has not within `patience`, or failed.
    pub(super) fn drain(&mut self, clock: &Clock, patience: Duration) -> anyhow::Result<()> {
        let Some((mut child, _)) = self.running.take() else { return Ok(()) };
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let until = clock.time() + patience;
        let ended = loop {
            if let Some(ended) = child.try_wait()? {
                break ended;
            }
            if clock.time() >= until {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the server did not drain within {patience:?}; see --timeout");
            }
            thread::sleep(LOOK_EVERY);
        };
        self.pid.store(0, Ordering::Relaxed);
        if !ended.success() {
            bail!("the server did not drain ({ended}): {}", self.last_words());
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(LOG_LINES_SHOWN).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if self.is_own {
            // What stays is for the system to clear away.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Where the server says that it listens; `None` when it ends before.
fn listens(stdout: &mut impl BufRead) -> anyhow::Result<Option<(SocketAddr, SocketAddr)>> {
    let (mut listen, mut line) = (None, String::new());
    while stdout.read_line(&mut line)? > 0 {
        if let Some(address) = line.trim_end().strip_prefix("listening on ") {
            listen = Some(address.parse()?);
        } else if let Some(address) = line.trim_end().strip_prefix("admin on ") {
            let admin = address.parse()?;
            return Ok(listen.map(|listen| (listen, admin)));
        }
        line.clear();
    }
    Ok(None)
}

/// Processor time of the server while it is watched, in cores.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cpu {
    /// The most of any tenth of a second.
    pub(super) peak: f64,
    /// All of it, in seconds.
    pub(super) seconds: f64,
}

/// Reads the processor time of whatever process `pid` names, ten times a second, until `is_over`.
pub(super) fn watch_cpu(pid: &AtomicU32, is_over: &AtomicBool, clock: &Clock) -> Cpu {
    let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
    let mut cpu = Cpu::default();
    let mut last = (pid.load(Ordering::Relaxed), 0, clock.micros());
    last.1 = ticks_of(last.0).unwrap_or(0);
    while !is_over.load(Ordering::Relaxed) {
        thread::sleep(SAMPLE_EVERY);
        let (process, now_us) = (pid.load(Ordering::Relaxed), clock.micros());
        let ticks = ticks_of(process).unwrap_or(0);
        // Another process began from nothing.
        let before = if process == last.0 { last.1 } else { 0 };
        let seconds = ticks.saturating_sub(before) as f64 / ticks_per_s;
        cpu.seconds += seconds;
        cpu.peak = cpu.peak.max(seconds * 1e6 / (now_us - last.2).max(1) as f64);
        last = (process, ticks, now_us);
    }
    cpu
}

/// User and system time of a process, in ticks.
fn ticks_of(pid: u32) -> Option<u64> {
    parse_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of the program stands in brackets and may hold anything.
fn parse_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests;
