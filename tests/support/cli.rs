//! The commands a person types against a server.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::PATIENCE;
use super::process::{Ended, Process};
use super::server::Server;

/// One command line.
pub(crate) struct Cli {
    command: Command,
}

/// `relaymesh` with `arguments`, knowing no server.
pub(crate) fn relaymesh(arguments: &[&str]) -> Cli {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relaymesh"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(arguments).stdin(Stdio::null());
    Cli { command }
}

impl Server {
    /// `relaymesh` with `arguments` against this server.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Cli {
        let mut cli = relaymesh(arguments);
        cli.command.env("RELAYMESH_CONNECT", self.listen.to_string());
        cli.command.env("RELAYMESH_ADMIN", self.admin.to_string());
        cli
    }

    /// Publishes one payload and returns its id as printed.
    pub(crate) fn publish(&self, queue: &str, payload: &str, options: &[&str]) -> u64 {
        let mut arguments = vec!["publish", queue, payload];
        arguments.extend(options);
        let id = self.cli(&arguments).succeeds();
        id.trim().parse().unwrap_or_else(|_| panic!("publish prints the id, not {id:?}"))
    }

    /// `relaymesh ... --json`, parsed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let text = self.cli(&arguments).succeeds();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{arguments:?} prints JSON: {error}\n{text}"))
    }

    /// One number of `queue stats --json`.
    pub(crate) fn stat(&self, queue: &str, field: &str) -> u64 {
        let stats = self.json(&["queue", "stats", queue]);
        stats[field].as_u64().unwrap_or_else(|| panic!("queue stats has {field}: {stats}"))
    }
}

impl Cli {
    /// With an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it and leaves it running.
    pub(crate) fn start(mut self) -> Process {
        Process::start(&mut self.command)
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Ended {
        self.start().wait(PATIENCE)
    }

    /// Runs it to its end with `input` on stdin.
    pub(crate) fn run_with_stdin(mut self, input: &[u8]) -> Ended {
        let mut file = tempfile::tempfile().expect("a temporary file can be made");
        file.write_all(input).expect("a temporary file can be written");
        std::io::Seek::rewind(&mut file).expect("a file can be rewound");
        self.command.stdin(file);
        self.run()
    }

    /// Runs it, which must succeed, and returns its stdout.
    pub(crate) fn succeeds(self) -> String {
        let name = format!("{:?}", self.command);
        let ended = self.run();
        assert!(ended.status.success(), "{name} failed: {ended:#?}");
        ended.stdout
    }

    /// Runs it, which must fail with a word on stderr and nothing on stdout, and returns stderr.
    pub(crate) fn fails(self) -> String {
        let name = format!("{:?}", self.command);
        let ended = self.run();
        assert!(!ended.status.success(), "{name} should have failed: {ended:#?}");
        assert!(ended.status.code().is_some(), "{name} ended by a signal: {ended:#?}");
        assert!(!ended.stderr.trim().is_empty(), "{name} failed silently");
        assert!(!ended.stderr.contains("panicked"), "{name} panicked: {}", ended.stderr);
        ended.stderr
    }
}
