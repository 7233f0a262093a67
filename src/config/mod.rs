//! The configuration file, environment and flags, checked into one typed value.
//!
//! [`Config::load`] takes the defaults, lays the file over them and the flags over that, checks every value where it
//! stands and then those that must go together. Every error names the key, the value and what is allowed. All keys
//! are in `keys.rs`. This module does not know who uses the values.

mod args;
mod auth;
mod error;
mod file;
mod keys;
mod print;
mod relations;
pub(crate) mod units;
mod watermark;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use args::ServeArgs;
pub use auth::{Auth, Token};
pub use error::{ConfigError, Origin};
pub use watermark::Watermark;

use crate::host::Tables;
use crate::limits;
use crate::log::Durability;
use crate::telemetry::logging::LogFormat;
use keys::KEYS;

/// What a server is told. Every value is within its bounds and goes together with the others.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where messages are kept.
    pub data_dir: PathBuf,
    /// Event loops; 0 for one per core, and more where `max_sessions` needs a table of descriptors for each of more.
    pub loops: u64,
    /// Queue brains, each with a log of its own, 1 to [`limits::SHARDS_MAX`].
    pub shards: u64,
    /// Connections of the whole server; 0 for what the tables of descriptors hold.
    pub max_sessions: u64,
    /// Whether each loop has a table of descriptors of its own.
    pub descriptor_tables: Tables,
    /// Where it listens.
    pub listen: Listen,
    /// Who may come in.
    pub auth: Auth,
    /// What holds for a session.
    pub session: Session,
    /// What holds for a work queue.
    pub queue: Queue,
    /// What holds for a mailbox.
    pub mailbox: Mailbox,
    /// What holds for a namespace, all of its queues together.
    pub namespace: NamespaceBounds,
    /// Budgets of memory.
    pub memory: Memory,
    /// The log on disk.
    pub log: LogFiles,
    /// How it ends.
    pub drain: Drain,
    /// What it logs.
    pub logging: Logging,
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Clients.
    pub address: SocketAddr,
    /// Operators.
    pub admin: SocketAddr,
}

/// What holds for a session.
#[derive(Debug, Clone)]
pub struct Session {
    /// When the client asks for no other.
    pub heartbeat: Duration,
    /// The shortest a client may have.
    pub heartbeat_min: Duration,
    /// The longest a client may have, or is asked for.
    pub heartbeat_max: Duration,
    /// Heartbeats a second of all clients, beyond which they are asked for longer intervals; 0 for so many a core.
    pub heartbeats_per_s: u64,
    /// PINGs of which one is answered, at the most, with clients that want no more.
    pub pong_every_max: u64,
    /// How long it outlives its connection.
    pub grace: Duration,
    /// From accept to WELCOME.
    pub handshake_deadline: Duration,
    /// Handshakes a second of the whole server; 0 for [`limits::ADMISSIONS_PER_CORE_S`] a core.
    pub admissions_per_s: u64,
    /// Deliveries of broadcasts a second of the whole server; 0 for as many as keep heartbeats on time.
    pub broadcast_deliveries_per_s: u64,
    /// Output that waits without a byte of it being read.
    pub write_stall_deadline: Duration,
    /// Messages published without an answer.
    pub publish_window_messages: u64,
    /// Their bytes.
    pub publish_window_bytes: u64,
    /// Largest payload of a frame, in bytes.
    pub frame_bytes_max: u64,
    /// Whether frames may be compressed.
    pub compression: bool,
}

impl Session {
    /// Largest encoded message that fits one frame, in bytes.
    #[must_use]
    pub fn whole_message_bytes_max(&self) -> u64 {
        self.frame_bytes_max.saturating_sub(limits::FRAME_OVERHEAD_BYTES as u64)
    }
}

/// What holds for a work queue.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Messages that wait or are worked on; of dead letters as many again.
    pub messages_max: u64,
    /// Their bytes.
    pub bytes_max: u64,
    /// Attempts at a message that names no number of its own.
    pub attempts: u64,
    /// The first retry delay.
    pub backoff_initial: Duration,
    /// The longest retry delay.
    pub backoff_max: Duration,
    /// How long a lease lasts.
    pub lease: Duration,
    /// What happens to a publish that does not fit.
    pub when_full: WhenFull,
}

/// What holds for a mailbox; the rest is as for a work queue.
#[derive(Debug, Clone)]
pub struct Mailbox {
    /// Messages that wait or are worked on; of dead letters as many again.
    pub messages_max: u64,
    /// Their bytes.
    pub bytes_max: u64,
    /// How long a message may wait that names no ttl of its own.
    pub ttl: Duration,
    /// What happens to a publish that does not fit.
    pub when_full: WhenFull,
}

/// What holds for a namespace that has no bounds of its own; 0 for no bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct NamespaceBounds {
    /// Messages that wait or are worked on.
    pub messages_max: u64,
    /// Their bytes.
    pub bytes_max: u64,
    /// Messages leased at once.
    pub leased_max: u64,
    /// Messages published a second.
    pub publish_per_s: u64,
    /// Messages delivered a second.
    pub deliver_per_s: u64,
}

/// What happens to a publish that does not fit its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It stays unanswered until there is room.
    Wait,
    /// It is refused, with what to wait.
    Reject,
    /// The ready messages that wait longest become dead letters, reason `overflow`, as many as it takes; where too few are
    /// ready, and for a rate, it is refused.
    DeadLetterOldest,
}

impl WhenFull {
    /// The one of this name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Wait, Self::Reject, Self::DeadLetterOldest].into_iter().find(|policy| policy.as_str() == text)
    }

    /// Its name, in the configuration and where a queue has its own.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Reject => "reject",
            Self::DeadLetterOldest => "dead_letter_oldest",
        }
    }
}

/// Budgets of memory.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Bytes of message bodies kept in memory.
    pub body_bytes_max: u64,
}

/// The log on disk.
#[derive(Debug, Clone)]
pub struct LogFiles {
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// When a publish, an ack and the like are answered.
    pub durability: Durability,
    /// Free space of the disk below which the log says so.
    pub disk_warn: Watermark,
    /// Below which publishes are refused.
    pub disk_reject: Watermark,
    /// Below which new sessions are refused as well.
    pub disk_stop: Watermark,
}

/// How a server ends.
#[derive(Debug, Clone)]
pub struct Drain {
    /// How long the server says that it is not ready before it sends the first client away.
    pub readiness_delay: Duration,
    /// Over which time clients are sent away, and longer where that were more a second than `admissions_per_s`.
    pub period: Duration,
}

/// What a server logs.
#[derive(Debug, Clone)]
pub struct Logging {
    /// A level, or a list of `module=level`.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        let on_loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            data_dir: "./data".into(),
            loops: 0,
            shards: 1,
            max_sessions: 0,
            descriptor_tables: Tables::Auto,
            listen: Listen { address: on_loopback(7400), admin: on_loopback(7480) },
            auth: Auth::Open,
            session: Session {
                heartbeat: limits::HEARTBEAT,
                heartbeat_min: limits::HEARTBEAT_MIN,
                heartbeat_max: limits::HEARTBEAT_MAX,
                heartbeats_per_s: 0,
                pong_every_max: u64::from(limits::PONG_EVERY_MAX),
                grace: limits::GRACE,
                handshake_deadline: limits::HANDSHAKE_DEADLINE,
                admissions_per_s: 0,
                broadcast_deliveries_per_s: 0,
                write_stall_deadline: limits::WRITE_STALL_DEADLINE,
                publish_window_messages: u64::from(limits::PUBLISH_WINDOW_MESSAGES),
                publish_window_bytes: u64::from(limits::PUBLISH_WINDOW_BYTES),
                frame_bytes_max: limits::FRAME_BYTES_MAX as u64,
                compression: true,
            },
            queue: Queue {
                messages_max: limits::QUEUE_MESSAGES_MAX,
                bytes_max: limits::QUEUE_BYTES_MAX,
                attempts: u64::from(limits::ATTEMPTS),
                backoff_initial: limits::BACKOFF_INITIAL,
                backoff_max: limits::BACKOFF_MAX,
                lease: limits::LEASE,
                when_full: WhenFull::Wait,
            },
            mailbox: Mailbox {
                messages_max: limits::MAILBOX_MESSAGES_MAX,
                bytes_max: limits::MAILBOX_BYTES_MAX,
                ttl: limits::MAILBOX_TTL,
                when_full: WhenFull::Reject,
            },
            namespace: NamespaceBounds::default(),
            memory: Memory { body_bytes_max: limits::BODY_MEMORY_BYTES_MAX },
            log: LogFiles {
                segment_bytes: limits::SEGMENT_BYTES as u64,
                durability: Durability::Sync,
                disk_warn: Watermark::new(10, 4 << 30),
                disk_reject: Watermark::new(5, 2 << 30),
                disk_stop: Watermark::new(2, 1 << 30),
            },
            drain: Drain { readiness_delay: Duration::from_millis(200), period: Duration::from_secs(10) },
            logging: Logging { filter: "info".into(), format: LogFormat::Text },
        }
    }
}

impl Config {
    /// Largest encoded message, in bytes: one must fit the publish window, and a segment several times.
    #[must_use]
    pub fn message_bytes_max(&self) -> u64 {
        let of_segment = self.log.segment_bytes / limits::MESSAGES_PER_SEGMENT_MIN as u64;
        (limits::MESSAGE_BYTES_MAX as u64).min(of_segment).min(self.session.publish_window_bytes)
    }

    /// The configuration that `args`, and the file they name, make.
    ///
    /// # Errors
    /// The first thing that is wrong, as [`ConfigError`] says it.
    pub fn load(args: &ServeArgs) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(path) = &args.config {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                what: "configuration file",
                path: path.clone(),
                source,
            })?;
            config.apply_file(path, &text)?;
        }
        config.apply_flags(args)?;
        config.check_relations()?;
        Ok(config)
    }

    fn apply_flags(&mut self, args: &ServeArgs) -> Result<(), ConfigError> {
        for given in args.given() {
            let key =
                KEYS.iter().find(|key| key.path == given.key).expect("a test holds every flag to a key");
            if !key.kind.set(self, given.value) {
                return Err(ConfigError::Value {
                    origin: Origin::Flag { flag: given.flag, env: given.env },
                    key: key.path.to_owned(),
                    value: format!("{:?}", given.value),
                    allowed: key.kind.allowed(),
                });
            }
        }
        if let Some(text) = &args.token {
            let wrong = |value: &str, allowed: &str| ConfigError::Value {
                origin: Origin::Flag { flag: "--token", env: "RELAYMESH_SERVE_TOKEN" },
                key: "auth.token".to_owned(),
                value: value.to_owned(),
                allowed: allowed.to_owned(),
            };
            if matches!(self.auth, Auth::PerNamespace(_)) {
                let allowed =
                    "none, because the file gives each namespace a token of its own in auth.namespaces";
                return Err(wrong("given", allowed));
            }
            self.auth = Auth::Shared(Token::parse(text).ok_or_else(|| wrong("not a token", Token::ALLOWED))?);
        }
        Ok(())
    }
}
