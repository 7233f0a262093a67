//! What a gateway is told when it starts.

use std::time::Duration;

use crate::config::Auth;
use crate::limits;
use crate::session::{ResumeKey, Rules};

/// Settings of a loop's gateway. The same for all loops but for `max_sessions`.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Shards behind the loops, at least 1.
    pub shards: u16,
    /// Connections of this loop, in whatever state.
    pub max_sessions: usize,
    /// Connections of this loop that were not welcomed yet.
    pub max_handshakes: usize,
    /// What all sessions have in common.
    pub rules: Rules,
    /// How long a session outlives its connection; told to clients.
    pub grace: Duration,
    /// Largest payload of a frame, in bytes.
    pub frame_bytes_max: usize,
    /// Largest encoded message, in bytes.
    pub message_bytes_max: usize,
    /// How long a client that began a message in parts may take from part to part.
    pub part_deadline: Duration,
    /// From accept to WELCOME.
    pub handshake_deadline: Duration,
    /// Output that may wait without a byte of it being taken.
    pub write_stall_deadline: Duration,
    /// Output of one connection, in bytes, beyond which nothing more is delivered to it.
    pub write_budget_bytes: usize,
    /// Output of all connections together, in bytes, beyond which nothing more is delivered.
    pub loop_output_bytes_max: usize,
    /// Partial frames and unfinished messages of all connections together, in bytes, beyond which whoever adds to them is closed.
    pub loop_partial_bytes_max: usize,
    /// Commands of this loop that may be unanswered.
    pub commands_unanswered_max: usize,
    /// Broadcasts handed to connections in one wave, at least 1.
    pub broadcast_wave_sends: usize,
    /// From one wave of broadcasts to the next at least, in whole milliseconds.
    pub broadcast_pause_min: Duration,
    /// The same at most, when waves begin late: zero for a loop that shares its core with no other.
    pub broadcast_pause_max: Duration,
    /// Handshakes a second that this loop takes on; clients that are sent away are asked to come back at this pace.
    pub admissions_per_s: u32,
    /// Handshakes it takes on at once after a quiet time, at least 2.
    pub admission_burst: u32,
    /// Heartbeats a second beyond which clients are asked for longer intervals.
    pub heartbeats_per_s: u32,
}

impl GatewayConfig {
    /// The defaults, with this authentication and key.
    #[must_use]
    pub fn new(auth: Auth, resume_key: ResumeKey) -> Self {
        Self {
            shards: 1,
            max_sessions: 1_000_000,
            max_handshakes: limits::HANDSHAKES_PER_LOOP_MAX,
            rules: Rules {
                auth,
                resume_key,
                heartbeat: limits::HEARTBEAT,
                heartbeat_min: limits::HEARTBEAT_MIN,
                heartbeat_max: limits::HEARTBEAT_MAX,
                pong_every_max: limits::PONG_EVERY_MAX,
                publish_messages_max: limits::PUBLISH_WINDOW_MESSAGES,
                publish_bytes_max: limits::PUBLISH_WINDOW_BYTES,
                requests_max: limits::REQUEST_WINDOW,
                compression: true,
            },
            grace: limits::GRACE,
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            message_bytes_max: limits::MESSAGE_BYTES_MAX,
            part_deadline: limits::PART_DEADLINE,
            handshake_deadline: limits::HANDSHAKE_DEADLINE,
            write_stall_deadline: limits::WRITE_STALL_DEADLINE,
            write_budget_bytes: limits::WRITE_BUDGET_BYTES,
            loop_output_bytes_max: limits::OUTPUT_BYTES_MAX,
            loop_partial_bytes_max: limits::PARTIAL_BYTES_MAX,
            commands_unanswered_max: limits::COMMANDS_UNANSWERED_MAX,
            broadcast_wave_sends: limits::BROADCAST_WAVE_SENDS,
            broadcast_pause_min: Duration::ZERO,
            broadcast_pause_max: Duration::ZERO,
            admissions_per_s: limits::ADMISSIONS_PER_CORE_S as u32,
            admission_burst: limits::ADMISSIONS_PER_CORE_S as u32 / limits::ADMISSION_BURST_SHARE,
            heartbeats_per_s: limits::HEARTBEATS_PER_S,
        }
    }

    /// The same for one of so many loops, which share what the server has for buffers. Frames and messages have their size
    /// by then: one of each fits every loop.
    #[must_use]
    pub fn one_of(self, loops: usize) -> Self {
        let share = |all: usize, least: usize| (all / loops.max(1)).max(least);
        let message = self.message_bytes_max;
        Self {
            loop_output_bytes_max: share(self.loop_output_bytes_max, message),
            loop_partial_bytes_max: share(self.loop_partial_bytes_max, message + self.frame_bytes_max),
            ..self
        }
    }

    /// Largest encoded message that is delivered in one frame, in bytes.
    #[must_use]
    pub fn whole_message_bytes_max(&self) -> usize {
        self.frame_bytes_max.saturating_sub(limits::FRAME_OVERHEAD_BYTES)
    }

    /// Output of one connection, in bytes, beyond which it is closed as too slow.
    #[must_use]
    pub fn write_backlog_bytes_max(&self) -> usize {
        self.write_budget_bytes + 2 * self.frame_bytes_max
    }
}
