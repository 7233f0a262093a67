//! What every run is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use relaymesh::ids::Namespace;

/// Where the server is and what comes of the run.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// The server's address.
    #[arg(long, env = "RELAYMESH_CONNECT", default_value = "127.0.0.1:7400", value_name = "ADDR")]
    pub(crate) connect: SocketAddr,
    /// The tenant.
    #[arg(long, env = "RELAYMESH_NAMESPACE", default_value = Namespace::DEFAULT)]
    pub(crate) namespace: Namespace,
    /// The token, where the server wants one.
    #[arg(long, env = "RELAYMESH_TOKEN", default_value = "", hide_env_values = true)]
    pub(crate) token: String,
    /// Write the result here as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// The server's process id: its CPU time a request is reported as well.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Give up when nothing is answered for this long.
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    pub(crate) patience: Duration,
    /// No progress line.
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// A duration as people write it: `10s`, `5m`, `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 500ms, 10s or 5m"))
}
