//! Every key of the configuration: its name, its bounds, what it is for. Reading a file, checking a flag, the texts
//! of errors and the printed configuration all come from this one table.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::units::{
    parse_count, parse_durability, parse_duration, parse_size, show_durability, show_duration, show_size,
};
use super::{Config, Watermark, WhenFull};
use crate::host::Tables;
use crate::limits;
use crate::log::Durability;
use crate::telemetry::logging::{LogFormat, parse_filter};

/// One key.
pub(super) struct Key {
    /// Its name, after its section and a dot.
    pub(super) path: &'static str,
    /// What it is for, in one line.
    pub(super) about: &'static str,
    pub(super) kind: Kind,
}

type Field<T> = fn(&mut Config) -> &mut T;

/// What a key holds and where it is kept. Bounds are inclusive.
pub(super) enum Kind {
    Path(Field<PathBuf>),
    Address(Field<SocketAddr>),
    Count(Field<u64>, u64, u64),
    Size(Field<u64>, u64, u64),
    Time(Field<Duration>, Duration, Duration),
    Switch(Field<bool>),
    Durability(Field<Durability>),
    WhenFull(Field<WhenFull>),
    Watermark(Field<Watermark>),
    Tables(Field<Tables>),
    LogFilter(Field<String>),
    LogFormat(Field<LogFormat>),
}

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const DAY: u64 = 86_400;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// All of them but `[auth]`, which holds secrets and names. The top level comes first, sections stay together.
pub(super) const KEYS: &[Key] = &[
    Key {
        path: "data_dir",
        about: "Where messages are kept. One server at a time.",
        kind: Kind::Path(|c| &mut c.data_dir),
    },
    Key {
        path: "loops",
        about: "Event loops, each on a thread of its own; 0 for one per core, and more where max_sessions needs them.",
        kind: Kind::Count(|c| &mut c.loops, 0, limits::LOOPS_MAX),
    },
    Key {
        path: "shards",
        about: "Queue brains, each with a log and three threads of its own. A namespace, or a placement group of it such as \
                fleet:eu, is in one of them. For machines with cores to spare; a data directory keeps its number.",
        kind: Kind::Count(|c| &mut c.shards, 1, limits::SHARDS_MAX),
    },
    Key {
        path: "max_sessions",
        about: "Connections of the whole server, 0 for what its descriptors allow; beyond it clients are sent away.",
        kind: Kind::Count(|c| &mut c.max_sessions, 0, 16_000_000),
    },
    Key {
        path: "descriptor_tables",
        about: "Whether each loop has a table of descriptors of its own: \"auto\" where the system can.",
        kind: Kind::Tables(|c| &mut c.descriptor_tables),
    },
    Key {
        path: "listen.address",
        about: "Where clients connect.",
        kind: Kind::Address(|c| &mut c.listen.address),
    },
    Key {
        path: "listen.admin",
        about: "Where operators connect: metrics, health and the HTTP API.",
        kind: Kind::Address(|c| &mut c.listen.admin),
    },
    Key {
        path: "session.heartbeat",
        about: "How often a client says something when it has nothing to say; three missed close its connection.",
        kind: Kind::Time(|c| &mut c.session.heartbeat, limits::HEARTBEAT_MIN, limits::HEARTBEAT_MAX),
    },
    Key {
        path: "session.heartbeat_min",
        about: "The shortest heartbeat a client may have; one that asks for a shorter one gets this.",
        kind: Kind::Time(|c| &mut c.session.heartbeat_min, limits::HEARTBEAT_MIN, limits::HEARTBEAT_MAX),
    },
    Key {
        path: "session.heartbeat_max",
        about: "The longest heartbeat a client may have, or is asked for when there are too many.",
        kind: Kind::Time(|c| &mut c.session.heartbeat_max, limits::HEARTBEAT_MIN, limits::HEARTBEAT_MAX),
    },
    Key {
        path: "session.heartbeats_per_s",
        about: "Heartbeats a second of all clients, as agreed; with more, clients are asked for longer intervals, up to \
                session.heartbeat_max. 0 for 20000 a core.",
        kind: Kind::Count(|c| &mut c.session.heartbeats_per_s, 0, 1 << 32),
    },
    Key {
        path: "session.pong_every_max",
        about: "Of how many heartbeats one is answered, at the most, with clients that want it so; 1 answers each.",
        kind: Kind::Count(|c| &mut c.session.pong_every_max, 1, limits::PONG_EVERY_MAX as u64),
    },
    Key {
        path: "session.grace",
        about: "How long a session, with its leases, outlives its connection.",
        kind: Kind::Time(|c| &mut c.session.grace, secs(0), secs(DAY)),
    },
    Key {
        path: "session.handshake_deadline",
        about: "From accept to welcome.",
        kind: Kind::Time(|c| &mut c.session.handshake_deadline, Duration::from_millis(100), secs(60)),
    },
    Key {
        path: "session.admissions_per_s",
        about: "Handshakes a second that the server takes on, 0 for 20000 a core. Beyond it clients wait a moment, then are \
                told when to come back; those that resume go first.",
        kind: Kind::Count(|c| &mut c.session.admissions_per_s, 0, limits::ADMISSIONS_PER_S_MAX),
    },
    Key {
        path: "session.broadcast_deliveries_per_s",
        about: "Deliveries a second of what is published to topics, to all clients together, shared out evenly over the \
                loops; 0 for as many as keep heartbeats on time.",
        kind: Kind::Count(
            |c| &mut c.session.broadcast_deliveries_per_s,
            0,
            limits::BROADCAST_DELIVERIES_PER_S_MAX,
        ),
    },
    Key {
        path: "session.write_stall_deadline",
        about: "How long a client may read nothing of what waits for it before it is closed as too slow.",
        kind: Kind::Time(|c| &mut c.session.write_stall_deadline, secs(1), secs(3600)),
    },
    Key {
        path: "session.publish_window_messages",
        about: "Messages a client may publish before it has an answer.",
        kind: Kind::Count(
            |c| &mut c.session.publish_window_messages,
            limits::BATCH_MESSAGES_MAX as u64,
            limits::COMMANDS_UNANSWERED_MAX as u64,
        ),
    },
    Key {
        path: "session.publish_window_bytes",
        about: "Bytes of messages a client may publish before it has an answer. No message is larger.",
        kind: Kind::Size(|c| &mut c.session.publish_window_bytes, 64 << 10, 1 << 30),
    },
    Key {
        path: "session.frame_bytes_max",
        about: "Largest frame; a message that is not 1KiB smaller travels in parts.",
        kind: Kind::Size(
            |c| &mut c.session.frame_bytes_max,
            16 << 10,
            limits::FRAME_BYTES_MAX_CEILING as u64,
        ),
    },
    Key {
        path: "session.compression",
        about: "Whether large messages and heartbeats travel compressed, with clients that can.",
        kind: Kind::Switch(|c| &mut c.session.compression),
    },
    Key {
        path: "queue.messages_max",
        about: "Messages in one queue that wait or are worked on; dead letters have a bound of their own of the same size.",
        kind: Kind::Count(|c| &mut c.queue.messages_max, 1, 1 << 32),
    },
    Key {
        path: "queue.bytes_max",
        about: "Bytes of messages in one queue that wait or are worked on; the same again for its dead letters.",
        kind: Kind::Size(|c| &mut c.queue.bytes_max, 16 << 10, 1024 * TIB),
    },
    Key {
        path: "queue.attempts",
        about: "Attempts at a message before it is a dead letter.",
        kind: Kind::Count(|c| &mut c.queue.attempts, 1, limits::ATTEMPTS_MAX as u64),
    },
    Key {
        path: "queue.backoff_initial",
        about: "Wait before the second attempt; each further one doubles it.",
        kind: Kind::Time(|c| &mut c.queue.backoff_initial, Duration::from_millis(1), limits::NACK_DELAY_MAX),
    },
    Key {
        path: "queue.backoff_max",
        about: "Longest wait between attempts.",
        kind: Kind::Time(|c| &mut c.queue.backoff_max, Duration::from_millis(1), limits::NACK_DELAY_MAX),
    },
    Key {
        path: "queue.lease",
        about: "How long a consumer has for a message before another one gets it.",
        kind: Kind::Time(|c| &mut c.queue.lease, limits::LEASE_MIN, limits::LEASE_MAX),
    },
    Key {
        path: "queue.when_full",
        about: "\"wait\": a publish is answered once there is room; \"reject\": it is refused at once; \"dead_letter_oldest\": the \
                ready messages that wait longest become dead letters.",
        kind: Kind::WhenFull(|c| &mut c.queue.when_full),
    },
    Key {
        path: "mailbox.messages_max",
        about: "Messages in one mailbox that wait or are worked on; dead letters have a bound of their own of the same size.",
        kind: Kind::Count(|c| &mut c.mailbox.messages_max, 1, 1 << 32),
    },
    Key {
        path: "mailbox.bytes_max",
        about: "Bytes of messages in one mailbox that wait or are worked on; the same again for its dead letters.",
        kind: Kind::Size(|c| &mut c.mailbox.bytes_max, 16 << 10, 1024 * TIB),
    },
    Key {
        path: "mailbox.ttl",
        about: "How long a message may wait for its device.",
        kind: Kind::Time(|c| &mut c.mailbox.ttl, secs(1), limits::DELAY_MAX),
    },
    Key {
        path: "mailbox.when_full",
        about: "As queue.when_full. A device may be away for days, so its sender is better told at once.",
        kind: Kind::WhenFull(|c| &mut c.mailbox.when_full),
    },
    Key {
        path: "namespace.messages_max",
        about: "Messages that wait or are worked on in all queues and mailboxes of one namespace; 0 for no bound. Beyond it, and \
                beyond the others of this section, each queue does as its when_full says.",
        kind: Kind::Count(|c| &mut c.namespace.messages_max, 0, 1 << 32),
    },
    Key {
        path: "namespace.bytes_max",
        about: "Their bytes; 0 for no bound.",
        kind: Kind::Size(|c| &mut c.namespace.bytes_max, 0, 1024 * TIB),
    },
    Key {
        path: "namespace.leased_max",
        about: "Messages of one namespace that are leased at once; 0 for no bound.",
        kind: Kind::Count(|c| &mut c.namespace.leased_max, 0, 1 << 32),
    },
    Key {
        path: "namespace.publish_per_s",
        about: "Messages published a second in one namespace, a second's worth at once; 0 for no bound.",
        kind: Kind::Count(|c| &mut c.namespace.publish_per_s, 0, 1 << 32),
    },
    Key {
        path: "namespace.deliver_per_s",
        about: "Messages delivered a second in one namespace, a second's worth at once; 0 for no bound.",
        kind: Kind::Count(|c| &mut c.namespace.deliver_per_s, 0, 1 << 32),
    },
    Key {
        path: "memory.body_bytes_max",
        about: "Memory for message bodies; what has no room in it is read back from disk.",
        kind: Kind::Size(|c| &mut c.memory.body_bytes_max, 16 * MIB, 64 * TIB),
    },
    Key {
        path: "log.segment_bytes",
        about: "Size of one file of the log, a multiple of 4KiB. Fixed for the life of a data directory. A message has at \
                most a third of it.",
        kind: Kind::Size(|c| &mut c.log.segment_bytes, limits::SEGMENT_BYTES_MIN as u64, 1 << 30),
    },
    Key {
        path: "log.durability",
        about: "\"sync\": what is answered survives a power loss. \"interval(100ms)\": it is answered once written and \
                synced at most that much later; it survives kill -9, but a power loss may take what was answered within \
                the interval.",
        kind: Kind::Durability(|c| &mut c.log.durability),
    },
    Key {
        path: "log.disk_warn",
        about: "Free space of the data directory's disk below which the log says so.",
        kind: Kind::Watermark(|c| &mut c.log.disk_warn),
    },
    Key {
        path: "log.disk_reject",
        about: "Free space below which publishes are refused, until an eighth more than that is free; acks and the rest go on.",
        kind: Kind::Watermark(|c| &mut c.log.disk_reject),
    },
    Key {
        path: "log.disk_stop",
        about: "Free space below which new sessions are refused as well and /readyz says no; those who resume come in.",
        kind: Kind::Watermark(|c| &mut c.log.disk_stop),
    },
    Key {
        path: "drain.readiness_delay",
        about: "How long /readyz says no, when the server is told to end, before the first client is sent away.",
        kind: Kind::Time(|c| &mut c.drain.readiness_delay, secs(0), secs(600)),
    },
    Key {
        path: "drain.period",
        about: "Over which time clients are sent away when the server is told to end; longer where that were more a second \
                than session.admissions_per_s.",
        kind: Kind::Time(|c| &mut c.drain.period, secs(0), secs(3600)),
    },
    Key {
        path: "logging.filter",
        about: "What is logged: a level, or a list such as \"info,relaymesh::queue=debug\".",
        kind: Kind::LogFilter(|c| &mut c.logging.filter),
    },
    Key {
        path: "logging.format",
        about: "\"text\" for people, \"json\" for programs.",
        kind: Kind::LogFormat(|c| &mut c.logging.format),
    },
];

/// Takes `value` if it is within `bounds`.
fn store<T: PartialOrd>(field: &mut T, value: Option<T>, min: &T, max: &T) -> bool {
    match value.filter(|value| (min..=max).contains(&value)) {
        Some(value) => {
            *field = value;
            true
        }
        None => false,
    }
}

fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

impl Kind {
    /// Sets the field to what `text` says; false when that is not allowed.
    pub(super) fn set(&self, config: &mut Config, text: &str) -> bool {
        fn parsed<T>(field: &mut T, value: Option<T>) -> bool {
            value.map(|value| *field = value).is_some()
        }
        match self {
            Self::Path(field) => parsed(field(config), (!text.is_empty()).then(|| text.into())),
            Self::Address(field) => parsed(field(config), text.parse().ok()),
            Self::Count(field, min, max) => store(field(config), parse_count(text), min, max),
            Self::Size(field, min, max) => store(field(config), parse_size(text), min, max),
            Self::Time(field, min, max) => store(field(config), parse_duration(text), min, max),
            Self::Switch(field) => parsed(field(config), parse_switch(text)),
            Self::Durability(field) => parsed(field(config), parse_durability(text)),
            Self::WhenFull(field) => parsed(field(config), WhenFull::parse(text)),
            Self::Watermark(field) => parsed(field(config), Watermark::parse(text)),
            Self::Tables(field) => parsed(field(config), Tables::parse(text)),
            Self::LogFilter(field) => parsed(field(config), parse_filter(text).ok().map(|_| text.to_owned())),
            Self::LogFormat(field) => parsed(field(config), text.parse().ok()),
        }
    }

    /// What [`Kind::set`] takes, in words.
    pub(super) fn allowed(&self) -> String {
        match self {
            Self::Path(_) => "a path".into(),
            Self::Address(_) => "an IP address and a port, such as 127.0.0.1:7400 or [::1]:7400".into(),
            Self::Count(_, min, max) => format!("a whole number from {min} to {max}"),
            Self::Size(_, min, max) => {
                let (min, max) = (show_size(*min), show_size(*max));
                format!("a size from {min} to {max}, written like 64MiB or as a number of bytes")
            }
            Self::Time(_, min, max) => {
                let (min, max) = (show_duration(*min), show_duration(*max));
                format!("a duration from {min} to {max}, written like 500ms, 30s or 1h 30m")
            }
            Self::Switch(_) => "\"on\" or \"off\"".into(),
            Self::Durability(_) => {
                let (min, max) = (limits::DURABILITY_INTERVAL_MIN, limits::DURABILITY_INTERVAL_MAX);
                let (min, max) = (show_duration(min), show_duration(max));
                format!(
                    "\"sync\", or \"interval(TIME)\" or \"interval:TIME\" with a TIME from {min} to {max}, such as \
                     interval(100ms)"
                )
            }
            Self::WhenFull(_) => "\"wait\", \"reject\" or \"dead_letter_oldest\"".into(),
            Self::Watermark(_) => Watermark::ALLOWED.into(),
            Self::Tables(_) => "\"auto\", \"shared\" or \"private\"".into(),
            Self::LogFilter(_) => {
                "error, warn, info, debug or trace, or a list such as \"info,relaymesh::queue=debug\"".into()
            }
            Self::LogFormat(_) => "\"text\" or \"json\"".into(),
        }
    }

    /// The value in `config`, as TOML.
    pub(super) fn show(&self, config: &mut Config) -> String {
        let text = match self {
            Self::Count(field, ..) => return field(config).to_string(),
            Self::Path(field) => field(config).display().to_string(),
            Self::Address(field) => field(config).to_string(),
            Self::Size(field, ..) => show_size(*field(config)),
            Self::Time(field, ..) => show_duration(*field(config)),
            Self::Switch(field) => if *field(config) { "on" } else { "off" }.to_owned(),
            Self::Durability(field) => show_durability(*field(config)),
            Self::WhenFull(field) => field(config).as_str().to_owned(),
            Self::Watermark(field) => field(config).show(),
            Self::Tables(field) => field(config).as_str().to_owned(),
            Self::LogFilter(field) => field(config).clone(),
            Self::LogFormat(field) => field(config).as_str().to_owned(),
        };
        toml::Value::String(text).to_string()
    }
}
