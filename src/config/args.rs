//! The flags of `serve` and their environment variables.

use std::path::PathBuf;

/// Run the server, until it is told to end (SIGINT or SIGTERM).
///
/// A flag outranks its environment variable, and both outrank the configuration file.
// The variables start with RELAYMESH_SERVE_, so that what a shell sets for the client commands never changes a server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// The configuration file (TOML); `--print-config` shows every key
    #[arg(long, value_name = "FILE", env = "RELAYMESH_SERVE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where messages are kept [default: ./data]
    #[arg(long, value_name = "DIR", env = "RELAYMESH_SERVE_DATA_DIR")]
    pub data_dir: Option<String>,
    /// Where clients connect [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR", env = "RELAYMESH_SERVE_LISTEN")]
    pub listen: Option<String>,
    /// Where operators connect: metrics, health, HTTP API [default: 127.0.0.1:7480]
    #[arg(long, value_name = "ADDR", env = "RELAYMESH_SERVE_ADMIN")]
    pub admin: Option<String>,
    /// When a publish or an ack is answered: sync, once it is on disk, or interval:TIME, once it is written. Then it
    /// survives kill -9, but a power loss may take what was answered within TIME, 1ms to 10s [default: sync]
    #[arg(long, value_name = "sync|interval:TIME", env = "RELAYMESH_SERVE_DURABILITY")]
    pub durability: Option<String>,
    /// Event loops [default: one per core, and more where their descriptor tables cannot hold --max-sessions]
    #[arg(long, value_name = "N", env = "RELAYMESH_SERVE_LOOPS")]
    pub loops: Option<String>,
    /// Queue brains, each with a log of its own; a namespace, or a placement group of it such as fleet:eu, is in one of
    /// them. A data directory keeps its number [default: 1]
    #[arg(long, value_name = "N", env = "RELAYMESH_SERVE_SHARDS")]
    pub shards: Option<String>,
    /// Connections of the whole server [default: what the descriptor tables hold, up to 1000000]
    #[arg(long, value_name = "N", env = "RELAYMESH_SERVE_MAX_SESSIONS")]
    pub max_sessions: Option<String>,
    /// Whether each loop has a table of descriptors of its own: auto, where the system can, shared or private
    /// [default: auto]
    #[arg(long, value_name = "WHICH", env = "RELAYMESH_SERVE_DESCRIPTOR_TABLES")]
    pub descriptor_tables: Option<String>,
    /// Compress large messages and heartbeats, with clients that can: on or off [default: on]
    #[arg(long, value_name = "SWITCH", env = "RELAYMESH_SERVE_COMPRESSION")]
    pub compression: Option<String>,
    /// The token that clients and operators must present; needed beyond loopback. Others on this machine can read
    /// a command line: prefer the variable or `auth.token_file`
    #[arg(long, value_name = "TOKEN", env = "RELAYMESH_SERVE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or a list such as info,relaymesh::queue=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "RELAYMESH_LOG")]
    pub log: Option<String>,
    /// How a line of the log looks: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "RELAYMESH_SERVE_LOG_FORMAT")]
    pub log_format: Option<String>,
    /// Print the configuration that holds, as commented TOML, and end
    #[arg(long)]
    pub print_config: bool,
}

/// One flag that stands for a key.
pub(super) struct FlagValue<'a> {
    pub(super) key: &'static str,
    pub(super) flag: &'static str,
    pub(super) env: &'static str,
    pub(super) value: &'a str,
}

impl ServeArgs {
    /// The flags that were given, but the token.
    pub(super) fn given(&self) -> impl Iterator<Item = FlagValue<'_>> {
        [
            ("data_dir", "--data-dir", "RELAYMESH_SERVE_DATA_DIR", &self.data_dir),
            ("listen.address", "--listen", "RELAYMESH_SERVE_LISTEN", &self.listen),
            ("listen.admin", "--admin", "RELAYMESH_SERVE_ADMIN", &self.admin),
            ("log.durability", "--durability", "RELAYMESH_SERVE_DURABILITY", &self.durability),
            ("loops", "--loops", "RELAYMESH_SERVE_LOOPS", &self.loops),
            ("shards", "--shards", "RELAYMESH_SERVE_SHARDS", &self.shards),
            ("max_sessions", "--max-sessions", "RELAYMESH_SERVE_MAX_SESSIONS", &self.max_sessions),
            (
                "descriptor_tables",
                "--descriptor-tables",
                "RELAYMESH_SERVE_DESCRIPTOR_TABLES",
                &self.descriptor_tables,
            ),
            ("session.compression", "--compression", "RELAYMESH_SERVE_COMPRESSION", &self.compression),
            ("logging.filter", "--log", "RELAYMESH_LOG", &self.log),
            ("logging.format", "--log-format", "RELAYMESH_SERVE_LOG_FORMAT", &self.log_format),
        ]
        .into_iter()
        .filter_map(|(key, flag, env, value)| {
            value.as_deref().map(|value| FlagValue { key, flag, env, value })
        })
    }
}
