//! What every run is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use relaymesh::ids::{Namespace, QueueName};

/// Where the server is and what comes of the run.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// The server's address.
    #[arg(long, env = "RELAYMESH_CONNECT", default_value = "127.0.0.1:7400", value_name = "ADDR")]
    pub(crate) connect: SocketAddr,
    /// The server's address for operators (HTTP): its memory and CPU time are read from its metrics. (On the same
    /// machine --server-pid tells them more exactly.)
    #[arg(long, env = "RELAYMESH_ADMIN", value_name = "ADDR")]
    pub(crate) admin: Option<String>,
    /// The tenant.
    #[arg(long, env = "RELAYMESH_NAMESPACE", default_value = Namespace::DEFAULT)]
    pub(crate) namespace: Namespace,
    /// The token, where the server wants one.
    #[arg(long, env = "RELAYMESH_TOKEN", default_value = "", hide_env_values = true)]
    pub(crate) token: String,
    /// Write the result here as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// The server's process id: its CPU time a request, and memory a session, is reported as well.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Give up when nothing is answered for this long.
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    pub(crate) patience: Duration,
    /// No progress line.
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// How many messages go through which queue, on how many connections.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// The queue.
    #[arg(long, default_value = "load")]
    pub(crate) queue: QueueName,
    /// How many messages, over all connections.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub(crate) count: u64,
    /// Messages without an answer, a connection: publishes on their way, or leases held.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub(crate) in_flight: u32,
    /// How many connections.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) connections: usize,
}

impl Load {
    /// Refuses a load that would never end.
    ///
    /// # Errors
    /// When one of the numbers is 0.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let is_some = self.in_flight > 0 && self.connections > 0 && self.count > 0;
        ensure!(is_some, "--in-flight, --connections and --count must be at least 1");
        Ok(())
    }
}

/// A duration as people write it: `10s`, `5m`, `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 500ms, 10s or 5m"))
}

/// A topic by its bare name.
pub(crate) fn parse_topic(name: &str) -> Result<QueueName, String> {
    QueueName::parse(&format!("{}{name}", QueueName::TOPIC_PREFIX)).map_err(|error| error.to_string())
}
