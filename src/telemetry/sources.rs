//! What each loop and each shard counts.

use std::sync::Arc;

use super::cell::{Counter, Gauge, Histogram};

/// Frame kinds are 0 to 19; one more for those unknown.
pub(super) const FRAME_KINDS: usize = 21;
/// `KIND_PONG` of the protocol.
const KIND_PONG: usize = 5;

/// Frames and bytes of each kind, by the kind's number.
#[derive(Debug, Default)]
pub struct FrameKinds {
    /// Frames.
    pub frames: [Counter; FRAME_KINDS],
    /// Their bytes on the wire.
    pub bytes: [Counter; FRAME_KINDS],
}

impl FrameKinds {
    /// Counts one frame of `kind` with `bytes` on the wire.
    pub fn count(&self, kind: u8, bytes: usize) {
        let kind = usize::from(kind).min(FRAME_KINDS - 1);
        self.frames[kind].inc();
        self.bytes[kind].add(bytes as u64);
    }

    /// Heartbeats answered.
    #[must_use]
    pub fn pongs(&self) -> u64 {
        self.frames[KIND_PONG].value()
    }
}

/// How an accept ended.
#[derive(Debug, Default)]
pub struct AcceptOutcome {
    /// Taken into the loop.
    pub accepted: Counter,
    /// Turned away: the loop holds as many sessions as it may.
    pub shed_sessions: Counter,
    /// Turned away: too many connections are in their handshake.
    pub shed_handshakes: Counter,
    /// Turned away after HELLO: more handshakes than the loop takes on.
    pub shed_admission: Counter,
    /// Turned away through the reserve descriptor.
    pub shed_descriptors: Counter,
    /// Turns that accepted fewer connections than they could have, because the loop was behind.
    pub slowed: Counter,
}

/// How a handshake ended.
#[derive(Debug, Default)]
pub struct HandshakeOutcome {
    /// Welcomed anew.
    pub welcomed: Counter,
    /// Welcomed and resumed.
    pub resumed: Counter,
    /// Refused: credential.
    pub unauthenticated: Counter,
    /// Refused: anything else in HELLO.
    pub refused: Counter,
    /// Not done within the deadline.
    pub timed_out: Counter,
    /// The client left or broke the protocol before.
    pub broken: Counter,
}

/// Counted by one loop: its reactor and its gateway.
#[derive(Debug, Default)]
pub struct LoopMetrics {
    /// Accepts by outcome.
    pub accepts: AcceptOutcome,
    /// Handshakes by outcome.
    pub handshakes: HandshakeOutcome,
    /// Connections that have not been welcomed.
    pub connections_handshaking: Gauge,
    /// Of these, clients that wait for their turn to come in.
    pub admission_waiting: Gauge,
    /// Connections with a session.
    pub connections_live: Gauge,
    /// Connections that have been told to go and are being flushed.
    pub connections_closing: Gauge,
    /// Connections closed, whatever the state.
    pub closed: Counter,
    /// Closed: silent for three heartbeats.
    pub closed_heartbeat: Counter,
    /// Closed: does not read what it is sent.
    pub closed_slow: Counter,
    /// Closed: protocol fault of the client.
    pub closed_fault: Counter,
    /// Closed by the client, in order, before it was told to go.
    pub closed_peer: Counter,
    /// Closed: the connection was reset.
    pub closed_failed: Counter,
    /// Closed: the system gave the client up, its probes or what was sent not being acknowledged.
    pub closed_unreachable: Counter,
    /// Frames received.
    pub received: FrameKinds,
    /// Frames sent.
    pub sent: FrameKinds,
    /// How far past its interval a heartbeat came, in milliseconds.
    pub heartbeat_lateness_ms: Histogram,
    /// How long after its deadline a silent session was closed, in milliseconds.
    pub detection_lateness_ms: Histogram,
    /// By how much heartbeat intervals are to be longer than agreed, in thousandths; 1000 is as agreed.
    pub heartbeat_stretch_permille: Gauge,
    /// PONGs that asked for another interval.
    pub intervals_asked: Counter,
    /// Reads of connections' sockets.
    pub socket_reads: Counter,
    /// Writes to connections' sockets.
    pub socket_writes: Counter,
    /// Length of the turn that read a PING and wrote its PONG, in microseconds.
    pub heartbeat_turnaround_us: Histogram,
    /// Turns of the loop.
    pub turns: Counter,
    /// Bytes of output waiting, all connections.
    pub output_bytes: Gauge,
    /// Bytes of partial frames waiting, all connections.
    pub partial_bytes: Gauge,
    /// Buffers kept for the next connection that needs one, in bytes.
    pub pooled_bytes: Gauge,
    /// Memory of the loop's sessions and their timers, in bytes, what waits for the next ones included.
    pub session_bytes: Gauge,
    /// Memory of its list of streams, likewise.
    pub stream_bytes: Gauge,
    /// Queue names kept.
    pub queue_names: Gauge,
    /// Closed sockets kept until what was said last has arrived.
    pub lingering: Gauge,
    /// Batches in the lane to the shard.
    pub command_lane_batches: Gauge,
    /// Batches in the lane from the shard.
    pub effect_lane_batches: Gauge,
    /// Commands without their answer.
    pub commands_unanswered: Gauge,
    /// Connections that are not read for now.
    pub reading_stopped: Gauge,
    /// Broadcasts handed to connections.
    pub broadcast_deliveries: Counter,
    /// Broadcasts that connections missed because too much waited for them.
    pub broadcast_missed: Counter,
    /// Deliveries handed back because the connection would not take them.
    pub deliveries_returned: Counter,
    /// Frames sent compressed.
    pub frames_compressed: Counter,
    /// By how many bytes compressing made them smaller.
    pub compression_saved_bytes: Counter,
    /// The newest order to drain that the loop obeyed; 0 before the first.
    pub drain_order: Gauge,
    /// 1 while clients are to be told to go.
    pub drain_running: Gauge,
    /// Clients to be told by the newest drain.
    pub drain_wanted: Gauge,
    /// Of these, clients that were told.
    pub drain_told: Gauge,
    /// Clients that were told and have not gone.
    pub drain_leaving: Gauge,
    /// 1 while the loop listens; a loop whose own table is full does not.
    pub listening: Gauge,
    /// Descriptors the loop has opened and not closed, as it counts them itself.
    pub descriptors: Gauge,
    /// Descriptors in the loop's own table that no connection owns, by [`LEAK_STATES`], as of the last comparison; the
    /// last two are connections whose descriptor is gone, and slots without a socket.
    pub leaked: [Gauge; LEAK_STATES.len()],
    /// The number of the loop's thread if its table of descriptors is its own, otherwise 0.
    pub table_of: Gauge,
}

/// Counted by one shard: its brain and its log.
#[derive(Debug, Default)]
pub struct ShardMetrics {
    /// Sessions, connected or in their grace period.
    pub sessions: Gauge,
    /// Sessions whose connection is gone.
    pub sessions_in_grace: Gauge,
    /// Memory of the client directory, in bytes, what waits for the next clients included; long names come on top.
    pub directory_bytes: Gauge,
    /// Connections replaced by a newer one of the same client.
    pub take_overs: Counter,
    /// Sessions resumed.
    pub resumes: Counter,
    /// Messages published.
    pub published: Counter,
    /// Publishes answered from a producer's mark.
    pub duplicates: Counter,
    /// Publishes answered with what was published under the same deduplication ids before.
    pub dedup_hits: Counter,
    /// Deduplication ids remembered.
    pub dedup_ids: Gauge,
    /// Publishes refused.
    pub refused: Counter,
    /// Leases given.
    pub leases: Counter,
    /// Leases given at the second or later attempt.
    pub redeliveries: Counter,
    /// Messages acked.
    pub acks: Counter,
    /// Messages nacked.
    pub nacks: Counter,
    /// Leases that expired.
    pub leases_expired: Counter,
    /// Settlements of a lease that was not the newest.
    pub leases_lost: Counter,
    /// Dead letters: attempts used up.
    pub dead_attempts: Counter,
    /// Dead letters: expired.
    pub dead_expired: Counter,
    /// Dead letters: overflow.
    pub dead_overflow: Counter,
    /// Dead letters: rejected.
    pub dead_rejected: Counter,
    /// Dead letters: too large for the queue they were to go to.
    pub dead_too_large: Counter,
    /// Events of the system that no room was found for on their topic, or that came up beyond as many as may wait.
    pub system_events_refused: Counter,
    /// Dead letters forgotten because there were more than their queue keeps, or for longer.
    pub dead_forgotten: Counter,
    /// Dead letters redriven.
    pub redriven: Counter,
    /// Messages in any state.
    pub messages: Gauge,
    /// Bytes of message bodies in memory.
    pub body_memory_bytes: Gauge,
    /// Bytes of parked publishes.
    pub parked_bytes: Gauge,
    /// Producers whose marks are kept.
    pub producers: Gauge,
    /// Records in a commit.
    pub commit_records: Histogram,
    /// Bytes in a commit.
    pub commit_bytes: Histogram,
    /// From handing a batch to the committer until it is committed, in microseconds.
    pub commit_latency_us: Histogram,
    /// As long for a sync of what was committed before; there is none where a commit is one.
    pub sync_latency_us: Histogram,
    /// Bytes that were committed and would not survive a power loss.
    pub log_unsynced_bytes: Gauge,
    /// Bytes written to the log.
    pub log_written_bytes: Counter,
    /// Bytes of records that recovery needs.
    pub log_live_bytes: Gauge,
    /// Segments the log has.
    pub log_segments: Gauge,
    /// Records written again so that an old segment could be recycled.
    pub log_relocated: Counter,
    /// Messages handed to the subscribers of a topic.
    pub broadcasts: Counter,
    /// Charges of broadcasts that loops have not handed to all their connections, in bytes.
    pub broadcast_bytes: Gauge,
    /// Topics with subscriptions.
    pub topics: Gauge,
    /// Different sets of topics that sessions are subscribed to.
    pub topic_sets: Gauge,
    /// Schedules, paused ones too.
    pub schedules: Gauge,
    /// What they take of memory, in bytes.
    pub schedule_bytes: Gauge,
    /// Schedules that have something due which their queue does not take.
    pub schedules_held_up: Gauge,
    /// Messages that schedules published.
    pub schedule_firings: Counter,
    /// How often a schedule passed over times that it missed.
    pub schedule_misfires: Counter,
    /// Bindings of topics to queues.
    pub bindings: Gauge,
    /// Limits that `$sys.limits` told of lately.
    pub limits_told: Gauge,
    /// System events that came up in the current call of the brain and are not told yet.
    pub events_untold: Gauge,
    /// Messages that bindings put on queues.
    pub fanout_copies: Counter,
    /// Messages that a queue missed which was full.
    pub fanout_missed: Counter,
    /// Redrives, purges and listings of operators under way.
    pub operator_jobs: Gauge,
    /// Bodies asked for from the log and not there yet, in bytes.
    pub reading_bytes: Gauge,
    /// Written to the next batch of the log, which is not sealed yet, in bytes.
    pub log_open_bytes: Gauge,
    /// Effects kept until their commit or until the lane has room.
    pub effects_held: Gauge,
    /// 1 while the disk has no room for publishes.
    pub disk_full: Gauge,
    /// Times that a publish or a delivery met a limit, by [`LimitKind`].
    pub limits_reached: [Counter; LimitKind::ALL.len()],
}

/// A limit of a queue, or of a namespace over all of its queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// `messages_max` of a queue.
    Messages,
    /// `bytes_max` of a queue.
    Bytes,
    /// `leased_max` of a queue.
    Leased,
    /// `publish_per_s` of a queue.
    PublishRate,
    /// `deliver_per_s` of a queue.
    DeliverRate,
    /// None by itself: publishes that came before wait for room in the queue.
    Waiting,
    /// `messages_max` of a namespace.
    NamespaceMessages,
    /// `bytes_max` of a namespace.
    NamespaceBytes,
    /// `leased_max` of a namespace.
    NamespaceLeased,
    /// `publish_per_s` of a namespace.
    NamespacePublishRate,
    /// `deliver_per_s` of a namespace.
    NamespaceDeliverRate,
    /// None by itself: other queues of the namespace wait for their turn.
    NamespaceWaiting,
}

impl LimitKind {
    /// Every one, in order.
    pub const ALL: [Self; 12] = [
        Self::Messages,
        Self::Bytes,
        Self::Leased,
        Self::PublishRate,
        Self::DeliverRate,
        Self::Waiting,
        Self::NamespaceMessages,
        Self::NamespaceBytes,
        Self::NamespaceLeased,
        Self::NamespacePublishRate,
        Self::NamespaceDeliverRate,
        Self::NamespaceWaiting,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::Leased => "leased",
            Self::PublishRate => "publish_rate",
            Self::DeliverRate => "deliver_rate",
            Self::Waiting => "waiting",
            Self::NamespaceMessages => "namespace_messages",
            Self::NamespaceBytes => "namespace_bytes",
            Self::NamespaceLeased => "namespace_leased",
            Self::NamespacePublishRate => "namespace_publish_rate",
            Self::NamespaceDeliverRate => "namespace_deliver_rate",
            Self::NamespaceWaiting => "namespace_waiting",
        }
    }
}

/// What became of a descriptor that leaked, or of the connection that should have one. From 1 on the numbers are those of
/// the system for the states of a TCP connection.
pub const LEAK_STATES: [&str; 15] = [
    "no_tcp_socket",
    "established",
    "syn_sent",
    "syn_received",
    "fin_wait_1",
    "fin_wait_2",
    "time_wait",
    "closed",
    "close_wait",
    "last_ack",
    "listening",
    "closing",
    "new_syn_received",
    "descriptor_gone",
    "no_socket",
];

/// What the admin thread reads at scrape.
#[derive(Debug, Clone, Default)]
pub struct SourceSet {
    /// One per loop, by its number.
    pub loops: Vec<Arc<LoopMetrics>>,
    /// One per shard, by its number.
    pub shards: Vec<Arc<ShardMetrics>>,
}
