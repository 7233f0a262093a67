//! A server of its own for each test, and `loadgen` run against it.
//!
//! The server is the `relaymesh` beside the built `loadgen`: `cargo test --workspace` has built it,
//! `cargo build --bin relaymesh` does too.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// What a step may take before it counts as stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A running server, ended with its test.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) listen: String,
    pub(crate) admin: String,
    pub(crate) data: TempDir,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_loadgen")).with_file_name("relaymesh");
        assert!(binary.exists(), "{} is not built: cargo build --bin relaymesh", binary.display());
        let data = TempDir::with_prefix("loadgen-test-").expect("a temporary directory can be made");
        let mut process = Command::new(binary)
            .env_clear()
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(data.path().join("data"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(process.stdout.take().expect("stdout was piped")).lines();
        let mut address = |prefix: &str| {
            let line = lines.find_map(|line| line.ok()?.strip_prefix(prefix).map(str::to_owned));
            line.unwrap_or_else(|| panic!("the server says {prefix:?}"))
        };
        let listen = address("listening on ");
        let admin = address("admin on ");
        Self { process, listen, admin, data }
    }

    /// One that is configured with this file.
    pub(crate) fn configured(text: &str) -> Self {
        let home = TempDir::with_prefix("loadgen-test-").expect("a temporary directory can be made");
        let config = home.path().join("relaymesh.toml");
        std::fs::write(&config, text).expect("a file can be written");
        Self::start(&["--config", &config.to_string_lossy()])
    }

    /// Runs `loadgen connect` against it; returns how it ended and what it wrote as JSON.
    pub(crate) fn connect(&self, arguments: &[&str]) -> (Output, Value) {
        self.load("connect", arguments)
    }

    /// The same for `loadgen <what>`.
    pub(crate) fn load(&self, what: &str, arguments: &[&str]) -> (Output, Value) {
        let running = self.start_load(what, arguments);
        let json = self.json_of(what);
        (running.wait_with_output().expect("loadgen ends"), read_json(&json))
    }

    /// Starts `loadgen <what>` against it.
    pub(crate) fn start_load(&self, what: &str, arguments: &[&str]) -> Child {
        loadgen()
            .args([what, "--connect", &self.listen, "--quiet", "--json"])
            .arg(self.json_of(what))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("loadgen starts")
    }

    /// Where `loadgen <what>` writes its result.
    pub(crate) fn json_of(&self, what: &str) -> PathBuf {
        self.data.path().join(format!("{what}.json"))
    }

    /// The value of one series of its metrics.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let url = format!("http://{}/metrics", self.admin);
        let page = ureq::get(&url)
            .call()
            .and_then(|mut answer| answer.body_mut().read_to_string())
            .expect("the server tells its metrics");
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("{series} is a metric:\n{page}"))
    }

    /// Waits until that many sessions are there.
    pub(crate) fn await_live(&self, sessions: u32) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric("relaymesh_connections{state=\"live\"}") != f64::from(sessions) {
            assert!(Instant::now() < deadline, "{sessions} sessions never were there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a run wrote as JSON; null when it wrote nothing.
pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap_or_default()).unwrap_or_default()
}

pub(crate) fn loadgen() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.env_clear().env("RUST_BACKTRACE", "1");
    command
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
