//! A real server on ports of its own and a data directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use tempfile::TempDir;

use super::PATIENCE;
use super::process::{Ended, Process};

/// What a test has that says nothing else: leases and sessions that outlast any hold-up, so that nothing is delivered
/// again by itself, and segments that a slow disk writes soon.
const UNHURRIED: &str =
    "[queue]\nlease = \"1h\"\n[session]\ngrace = \"1h\"\n[log]\nsegment_bytes = 4194304\n";

/// The place a server keeps its data, which outlives its process.
#[derive(Clone)]
pub(crate) struct Home {
    directory: Arc<TempDir>,
    config: String,
    arguments: Vec<String>,
}

/// A server that is ready.
pub(crate) struct Server {
    process: Option<Process>,
    /// Where clients connect.
    pub(crate) listen: SocketAddr,
    /// Where the operator API is.
    pub(crate) admin: SocketAddr,
    home: Home,
}

impl Home {
    /// An empty place with the default configuration, but unhurried.
    pub(crate) fn new() -> Self {
        let directory = TempDir::with_prefix("relaymesh-test-").expect("a temporary directory can be made");
        Self { directory: Arc::new(directory), config: UNHURRIED.to_owned(), arguments: Vec::new() }
    }

    /// With these lines as the configuration file.
    pub(crate) fn config(mut self, config: &str) -> Self {
        config.clone_into(&mut self.config);
        self
    }

    /// With these arguments to `serve`, besides the data directory and the ports.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    /// Where the data is.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A file beside the data.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, content).expect("a file can be written beside the data");
        path
    }

    /// A path beside the data.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `relaymesh serve` on this place with free ports, not started yet.
    pub(crate) fn command(&self) -> Command {
        let config = self.file("relaymesh.toml", &self.config);
        let mut command = Command::new(env!("CARGO_BIN_EXE_relaymesh"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.arg("serve").arg("--config").arg(config).arg("--data-dir").arg(self.data());
        if !self.arguments.iter().any(|argument| argument == "--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(["--admin", "127.0.0.1:0"]).args(&self.arguments);
        command
    }

    /// Starts a server and waits until it is ready.
    pub(crate) fn serve(&self) -> Server {
        let process = Process::start(&mut self.command());
        self.await_ready(process).unwrap_or_else(|ended| panic!("serve did not start: {ended:#?}"))
    }

    /// Starts a server that is expected to refuse.
    pub(crate) fn serve_refused(&self) -> Ended {
        Process::start(&mut self.command()).wait(PATIENCE)
    }

    /// Waits until `process` has said where it listens.
    ///
    /// # Errors
    /// How it ended, when it ended instead.
    pub(crate) fn await_ready(&self, process: Process) -> Result<Server, Box<Ended>> {
        let (mut listen, mut admin) = (None, None);
        while listen.is_none() || admin.is_none() {
            let Some(line) = process.next_line(PATIENCE) else {
                return Err(Box::new(process.wait(PATIENCE)));
            };
            if let Some(address) = line.strip_prefix("listening on ") {
                listen = address.trim().parse().ok();
            } else if let Some(address) = line.strip_prefix("admin on ") {
                admin = address.trim().parse().ok();
            }
        }
        let (listen, admin) = (listen.expect("the loop ends with it"), admin.expect("the loop ends with it"));
        Ok(Server { process: Some(process), listen, admin, home: self.clone() })
    }
}

impl Server {
    /// A server as of [`Home::new`].
    pub(crate) fn start() -> Self {
        Home::new().serve()
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("a server has its process until it is consumed")
    }

    /// The place of its data.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process().id()
    }

    /// What it has said on stderr so far.
    pub(crate) fn log(&self) -> String {
        self.process().stderr()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Home {
        self.process.take().expect("not consumed yet").kill();
        self.home.clone()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self) -> Ended {
        self.process.take().expect("not consumed yet").wait(PATIENCE)
    }

    /// Resident memory of the process in bytes, or `None` where the system does not tell.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.process().id())).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    /// The most resident memory the process had since it started or since [`Server::forget_peak`], in bytes, or `None`
    /// where the system does not tell.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process().id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib << 10)
    }

    /// Starts the peak anew at what is resident now, where the system can.
    pub(crate) fn forget_peak(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.process().id()), "5");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(process) = &self.process
        {
            let log = process.stderr();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("the server's last lines:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}
