//! From the one configuration to what each part is told.

use std::sync::Arc;

use crate::config::{Config, WhenFull};
use crate::engine::EngineConfig;
use crate::gateway::GatewayConfig;
use crate::host::doctor::{self, Machine};
use crate::host::{self, DescriptorLimit};
use crate::limits;
use crate::log::{Durability, LogConfig};
use crate::queue::{self, QueueConfig, QueueRules};
use crate::reactor::ReactorConfig;
use crate::session::ResumeKey;

pub(super) fn reactor(config: &Config) -> ReactorConfig {
    let loops = if config.loops == 0 { host::cores() as u64 } else { config.loops };
    ReactorConfig {
        listen: config.listen.address,
        loops: u16::try_from(loops).unwrap_or(u16::MAX - 1),
        pin: true,
        heartbeat: config.session.heartbeat,
    }
}

/// How many connections the server will hold: what was asked for, as far as there are descriptors for it.
pub(super) fn sessions_max(config: &Config, descriptors: DescriptorLimit) -> usize {
    let room = descriptors.soft.saturating_sub(limits::OWN_DESCRIPTORS).max(1);
    let sessions_max = config.max_sessions.min(room);
    let missing: Vec<&str> = doctor::examine(&Machine::read(), config.max_sessions)
        .iter()
        .filter(|finding| finding.is_required && !finding.is_met())
        .map(|finding| finding.name)
        .collect();
    if !missing.is_empty() {
        tracing::warn!(
            max_sessions = config.max_sessions,
            accepted = sessions_max,
            too_small = missing.join(", "),
            "this machine will not hold max_sessions: `relaymesh doctor --connections {}` says what to change",
            config.max_sessions
        );
    }
    sessions_max as usize
}

/// `sessions_max` holds for all loops together: the shard refuses the session beyond it, a loop only what it could
/// not hold by itself.
pub(super) fn gateway(config: &Config, resume_key: ResumeKey, sessions_max: usize) -> Arc<GatewayConfig> {
    let mut gateway = GatewayConfig::new(config.auth.clone(), resume_key);
    gateway.max_sessions = sessions_max;
    gateway.grace = config.session.grace;
    gateway.frame_bytes_max = config.session.frame_bytes_max as usize;
    gateway.message_bytes_max = config.message_bytes_max() as usize;
    gateway.handshake_deadline = config.session.handshake_deadline;
    gateway.write_stall_deadline = config.session.write_stall_deadline;
    gateway.rules.heartbeat = config.session.heartbeat;
    gateway.rules.publish_messages_max = config.session.publish_window_messages as u32;
    gateway.rules.publish_bytes_max = config.session.publish_window_bytes as u32;
    gateway.rules.compression = config.session.compression;
    Arc::new(gateway)
}

pub(super) fn engine(config: &Config, sessions_max: usize) -> EngineConfig {
    let work_queue = QueueRules {
        messages_max: config.queue.messages_max,
        bytes_max: config.queue.bytes_max,
        when_full: when_full(config.queue.when_full),
        ttl: None,
        attempts_max: config.queue.attempts as u32,
        lease: config.queue.lease,
        backoff_initial: config.queue.backoff_initial,
        backoff_max: config.queue.backoff_max,
    };
    let mailbox = QueueRules {
        messages_max: config.mailbox.messages_max,
        bytes_max: config.mailbox.bytes_max,
        when_full: when_full(config.mailbox.when_full),
        ttl: Some(config.mailbox.ttl),
        ..work_queue.clone()
    };
    let durability = config.log.durability;
    // What a power loss may take had ids; they are not given again.
    let ids_ahead = if durability == Durability::Sync { 0 } else { limits::IDS_AHEAD };
    let queue = QueueConfig {
        work_queue,
        mailbox,
        sessions_max,
        grace: config.session.grace,
        body_memory_bytes_max: config.memory.body_bytes_max,
        ids_ahead,
        ..QueueConfig::default()
    };
    let log = LogConfig { segment_bytes: config.log.segment_bytes, seed: fastrand::u64(..), durability };
    EngineConfig { log, queue, seed: fastrand::u64(..) }
}

fn when_full(policy: WhenFull) -> queue::WhenFull {
    match policy {
        WhenFull::Wait => queue::WhenFull::Wait,
        WhenFull::Reject => queue::WhenFull::Reject,
    }
}
