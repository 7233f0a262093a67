//! From the one configuration to what each part is told.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::engine::EngineConfig;
use crate::gateway::GatewayConfig;
use crate::host::doctor::{self, Machine};
use crate::host::{self, DescriptorLimit, TableNeeds, TablePlan, Tables};
use crate::ids::ShardId;
use crate::limits;
use crate::log::{Durability, LogConfig};
use crate::queue::{self, QueueConfig, QueueRules};
use crate::reactor::ReactorConfig;
use crate::session::ResumeKey;

/// How the sessions that were asked for are held, as far as there are descriptors for them; says in the log what is
/// wanting.
pub(super) fn table_plan(config: &Config, descriptors: DescriptorLimit) -> TablePlan {
    let needs = TableNeeds {
        sessions: config.max_sessions,
        loops: config.loops,
        limit: descriptors.soft,
        cores: host::cores() as u64,
        tables: config.descriptor_tables,
        can_be_private: host::private_tables_work(),
    };
    let plan = TablePlan::of(needs);
    if config.descriptor_tables == Tables::Private && !plan.is_private {
        tracing::warn!(
            "this system gives threads no descriptor tables of their own: all event loops share one"
        );
    }
    if plan.is_private {
        tracing::info!(
            loops = plan.loops,
            table = descriptors.soft,
            "every event loop has a descriptor table of its own"
        );
    }
    let wanted = config.max_sessions.max(plan.sessions);
    let missing: Vec<&str> = doctor::examine(&Machine::read(), wanted)
        .iter()
        .filter(|finding| finding.is_required && !finding.is_met())
        .map(|finding| finding.name)
        .collect();
    if let Some(limit) = plan.limit_needed {
        tracing::warn!(
            max_sessions = wanted,
            accepted = plan.sessions,
            "there are descriptors for fewer sessions: raise the limit of {} to {limit} (LimitNOFILE={limit} in the \
             service's unit, or `ulimit -n {limit}`){}",
            descriptors.soft,
            if config.loops == 0 { "" } else { ", or leave --loops away" }
        );
    } else if !missing.is_empty() {
        tracing::warn!(
            max_sessions = wanted,
            too_small = missing.join(", "),
            "this machine will not hold max_sessions: `relaymesh doctor --connections {wanted}` says what to change"
        );
    }
    plan
}

pub(super) fn reactor(config: &Config, plan: &TablePlan) -> ReactorConfig {
    ReactorConfig {
        listen: config.listen.address,
        loops: u16::try_from(plan.loops).unwrap_or(u16::MAX - 1),
        // More loops than cores have none of their own: there the system spreads them better.
        pin: plan.loops <= host::cores() as u64,
        private_tables: plan.is_private,
        heartbeat: config.session.heartbeat,
        sessions: plan.sessions,
    }
}

/// The sessions planned for hold for all loops together: a shard refuses the one beyond them, a loop only what it could
/// not hold by itself.
pub(super) fn gateway(config: &Config, resume_key: ResumeKey, plan: &TablePlan) -> Arc<GatewayConfig> {
    let mut gateway = GatewayConfig::new(config.auth.clone(), resume_key);
    gateway.shards = config.shards as u16;
    gateway.max_sessions = plan.sessions as usize;
    let cores = host::cores() as u64;
    (gateway.admissions_per_s, gateway.admission_burst) =
        admissions(config.session.admissions_per_s, plan.loops, cores);
    gateway.grace = config.session.grace;
    gateway.frame_bytes_max = config.session.frame_bytes_max as usize;
    gateway.message_bytes_max = config.message_bytes_max() as usize;
    gateway.handshake_deadline = config.session.handshake_deadline;
    gateway.write_stall_deadline = config.session.write_stall_deadline;
    gateway.rules.heartbeat = config.session.heartbeat;
    gateway.rules.heartbeat_min = config.session.heartbeat_min;
    gateway.rules.heartbeat_max = config.session.heartbeat_max;
    gateway.rules.pong_every_max = config.session.pong_every_max as u32;
    gateway.heartbeats_per_s = heartbeats_per_s(config.session.heartbeats_per_s, plan.loops, cores);
    let waves = waves(config.session.broadcast_deliveries_per_s, plan.loops, cores);
    gateway.broadcast_wave_sends = waves.sends;
    gateway.broadcast_pause_min = waves.pause_min;
    gateway.broadcast_pause_max = waves.pause_max;
    gateway.rules.publish_messages_max = config.session.publish_window_messages as u32;
    gateway.rules.publish_bytes_max = config.session.publish_window_bytes as u32;
    gateway.rules.compression = config.session.compression;
    Arc::new(gateway.one_of(plan.loops as usize))
}

/// What each loop takes on of the server's handshakes: so many a second, and at once.
fn admissions(per_s: u64, loops: u64, cores: u64) -> (u32, u32) {
    let all = if per_s == 0 { limits::ADMISSIONS_PER_CORE_S * cores } else { per_s };
    // The kernel spreads connections evenly over the loops, give or take what a burst takes.
    let each = u32::try_from(all.div_ceil(loops.max(1))).unwrap_or(u32::MAX);
    (each, (each / limits::ADMISSION_BURST_SHARE).max(limits::ADMISSION_BURST_MIN))
}

/// A loop's part of the heartbeats a second that the server is to take; 0 leaves it to the number of cores.
fn heartbeats_per_s(told: u64, loops: u64, cores: u64) -> u32 {
    let all = if told == 0 { u64::from(limits::HEARTBEATS_PER_S) * cores } else { told };
    u32::try_from(all / loops.max(1)).unwrap_or(u32::MAX).max(1)
}

/// How a loop sends its part of a broadcast.
#[derive(Debug, PartialEq, Eq)]
struct Waves {
    sends: usize,
    pause_min: Duration,
    pause_max: Duration,
}

/// The waves of a server with so many loops and cores that is to make no more than `per_s` deliveries a second; 0 leaves it
/// to the loops, which pause where they share cores.
fn waves(per_s: u64, loops: u64, cores: u64) -> Waves {
    let loops = u32::try_from(loops.max(1)).unwrap_or(u32::MAX);
    let cores = u32::try_from(cores.max(1)).unwrap_or(u32::MAX);
    let shares = if loops > cores { loops * limits::BROADCAST_LEAST_SHARE } else { 0 };
    let pause_max = limits::BROADCAST_WAVE * shares / cores;
    let pause_min = if loops > cores { limits::BROADCAST_PAUSE_MIN } else { Duration::ZERO };
    if per_s == 0 {
        return Waves { sends: limits::BROADCAST_WAVE_SENDS, pause_min, pause_max };
    }
    // A few waves a second at the least, so that a low rate comes in small waves. Pauses are whole milliseconds.
    let sends = (per_s / u64::from(loops) / 8).clamp(1, limits::BROADCAST_WAVE_SENDS as u64);
    let told = Duration::from_millis((sends * u64::from(loops) * 1000).div_ceil(per_s));
    let pause_min = pause_min.max(told);
    Waves { sends: sends as usize, pause_min, pause_max: pause_max.max(pause_min) }
}

/// Of one shard; they share the memory for bodies.
pub(super) fn engine(config: &Config, shard: ShardId, plan: &TablePlan) -> EngineConfig {
    let default = QueueConfig::default();
    let work_queue = QueueRules {
        messages_max: config.queue.messages_max,
        bytes_max: config.queue.bytes_max,
        when_full: config.queue.when_full,
        attempts_max: config.queue.attempts as u32,
        lease: config.queue.lease,
        backoff_initial: config.queue.backoff_initial,
        backoff_max: config.queue.backoff_max,
        ..default.work_queue
    };
    let mailbox = QueueRules {
        messages_max: config.mailbox.messages_max,
        bytes_max: config.mailbox.bytes_max,
        when_full: config.mailbox.when_full,
        ttl: Some(config.mailbox.ttl),
        ..work_queue.clone()
    };
    let durability = config.log.durability;
    // What a power loss may take had ids; they are not given again.
    let ids_ahead = if durability == Durability::Sync { 0 } else { limits::IDS_AHEAD };
    let queue = QueueConfig {
        shard,
        work_queue,
        mailbox,
        namespace: namespace(config),
        sessions_max: plan.sessions as usize,
        grace: config.session.grace,
        body_memory_bytes_max: config.memory.body_bytes_max / config.shards,
        ids_ahead,
        broadcast_bytes_max: config.session.frame_bytes_max as usize - limits::FRAME_OVERHEAD_BYTES,
        ..default
    };
    let log = LogConfig { segment_bytes: config.log.segment_bytes, seed: fastrand::u64(..), durability };
    EngineConfig { log, queue, seed: fastrand::u64(..) }
}

fn namespace(config: &Config) -> queue::NamespaceRules {
    let bound = |number: u64| Some(number).filter(|&number| number > 0);
    queue::NamespaceRules {
        messages_max: bound(config.namespace.messages_max),
        bytes_max: bound(config.namespace.bytes_max),
        leased_max: bound(config.namespace.leased_max),
        publish_per_s: bound(config.namespace.publish_per_s),
        deliver_per_s: bound(config.namespace.deliver_per_s),
        weight: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn loops_with_a_core_each_send_wave_after_wave_and_others_pause() {
        let most = limits::BROADCAST_WAVE_SENDS;
        for (loops, cores) in [(1, 1), (2, 2), (2, 64)] {
            let waves = waves(0, loops, cores);
            assert_eq!(waves, Waves { sends: most, pause_min: ms(0), pause_max: ms(0) }, "{loops} {cores}");
        }
        assert_eq!(waves(0, 52, 2), Waves { sends: most, pause_min: ms(1), pause_max: ms(104) });
    }

    #[test]
    fn a_rate_is_shared_out_over_the_loops() {
        for (per_s, loops) in [(1, 1), (1, 52), (100, 2), (999, 7), (20_000, 2), (50_000, 52), (1 << 26, 1)] {
            let Waves { sends, pause_min, pause_max } = waves(per_s, loops, 2);
            assert!((1..=limits::BROADCAST_WAVE_SENDS).contains(&sends) && pause_min <= pause_max);
            let of_all = sends as f64 * loops as f64 / pause_min.as_secs_f64();
            assert!(of_all <= per_s as f64 * 1.001, "{per_s} over {loops}: {of_all}");
            // What a whole millisecond takes away.
            assert!(of_all >= per_s as f64 * 0.8 || pause_min <= ms(4), "{per_s} over {loops}: {of_all}");
        }
    }
}
