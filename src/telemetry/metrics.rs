//! Every metric's name, help, unit and labels, and their text as OpenMetrics.
//!
//! [`exposition`] is called once a scrape with what there is to show. The sums over loops and shards are made here,
//! so that counting stays free of them. A label's values are constants of this file, with one exception, the names of
//! queues, whose number is bounded by [`super::QueueLabels`].

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::{Registry, Unit};

use super::cell::{Counter, Gauge, Histogram};
use super::page::{Merged, Page, Scale, count};
use super::queue_labels::QueueRow;
use super::{FrameKinds, LEAK_STATES, LimitKind, LoopMetrics, ProcessStats, ShardMetrics, SourceSet, Stage};
use crate::host::DiskState;
use crate::limits;

/// The content type of [`exposition`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name starts with.
const PREFIX: &str = "relaymesh";

/// Frame kinds by their number; what is unknown is counted behind the last.
const KIND_NAMES: [&str; 21] = [
    "unspecified",
    "hello",
    "welcome",
    "reject",
    "ping",
    "pong",
    "publish",
    "publish_ack",
    "subscribe",
    "unsubscribe",
    "reply",
    "credit",
    "deliver",
    "ack",
    "nack",
    "extend",
    "bye",
    "goaway",
    "error",
    "part",
    "unknown",
];

/// What one scrape shows.
#[derive(Debug)]
pub struct Scrape {
    /// The counters of loops and shards.
    pub sources: SourceSet,
    /// Where the process stands.
    pub stage: Stage,
    /// How long it has run, in seconds.
    pub uptime_seconds: f64,
    /// What it takes from the machine.
    pub process: ProcessStats,
    /// Descriptors open in each loop's own table, by its number, as the system counts them; `None` for a loop that has no
    /// table of its own, or where the system does not tell.
    pub loop_tables: Vec<Option<u64>>,
    /// Bytes free on the disk of the data directory, and below which mark that is; `None` where it is not known.
    pub disk: Option<(u64, DiskState)>,
    /// Requests of the operator API that wait for their answer.
    pub operator_requests: usize,
    /// Connections of the operator API.
    pub operator_connections: usize,
    /// Queues with a label of their own and the bucket of the others; `None` when the shard did not answer in time.
    pub queues: Option<Vec<QueueRow>>,
}

/// `scrape` as OpenMetrics text, ending in `# EOF`.
///
/// # Errors
/// Never for want of data; only when text cannot be written to memory.
pub fn exposition(scrape: Scrape) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(scrape));
    let mut out = String::with_capacity(32 * 1024);
    text::encode(&mut out, &registry)?;
    Ok(out)
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.process(&mut page)?;
        self.connections(&mut page)?;
        self.frames(&mut page)?;
        self.loops(&mut page)?;
        self.tables(&mut page)?;
        self.drain(&mut page)?;
        self.sessions(&mut page)?;
        self.memory(&mut page)?;
        self.messages(&mut page)?;
        self.log(&mut page)?;
        self.buffers(&mut page)?;
        self.queues(&mut page)
    }
}

impl Scrape {
    fn loop_sum(&self, value: impl Fn(&LoopMetrics) -> u64) -> u64 {
        self.sources.loops.iter().map(|source| value(source)).sum()
    }

    fn shard_sum(&self, value: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.sources.shards.iter().map(|source| value(source)).sum()
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let stages = Stage::ALL.map(|stage| ([("stage", stage.as_str())], u64::from(stage == self.stage)));
        page.gauges("lifecycle_stage", "1 for the stage the process is in", None, &stages)?;
        page.gauge("uptime", "How long the process has run", Some(&Unit::Seconds), self.uptime_seconds)?;
        let process = &self.process;
        if let Some(bytes) = process.memory.resident {
            page.gauge("process_resident_memory", "Memory in RAM", Some(&Unit::Bytes), count(bytes))?;
        }
        if let Some(open) = process.open_descriptors {
            page.gauge(
                "process_open_descriptors",
                "Descriptors open in the table of the process; loops may have tables of their own",
                None,
                count(open),
            )?;
        }
        if let Some(max) = process.max_descriptors {
            page.gauge(
                "process_max_descriptors",
                "Descriptors that may be open in one table",
                None,
                count(max),
            )?;
        }
        if let Some(seconds) = process.cpu_seconds {
            page.counter(
                "process_cpu",
                "Processor time used, user and system",
                Some(&Unit::Seconds),
                seconds,
            )?;
        }
        Ok(())
    }

    fn connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let sum = |cell: fn(&LoopMetrics) -> &Gauge| self.loop_sum(|source| cell(source).value());
        let states = [
            ([("state", "handshaking")], sum(|m| &m.connections_handshaking)),
            ([("state", "live")], sum(|m| &m.connections_live)),
            ([("state", "closing")], sum(|m| &m.connections_closing)),
        ];
        page.gauges("connections", "Connections by state", None, &states)?;

        let sum = |cell: fn(&LoopMetrics) -> &Counter| self.loop_sum(|source| cell(source).value());
        page.counter("accepts", "Connections taken in", None, count(sum(|m| &m.accepts.accepted)))?;
        let sheds = [
            ([("reason", "sessions")], sum(|m| &m.accepts.shed_sessions)),
            ([("reason", "handshakes")], sum(|m| &m.accepts.shed_handshakes)),
            ([("reason", "admission")], sum(|m| &m.accepts.shed_admission)),
            ([("reason", "descriptors")], sum(|m| &m.accepts.shed_descriptors)),
        ];
        page.counters("sheds", "Connections turned away with a slot to come back", None, &sheds)?;
        let slowed = count(sum(|m| &m.accepts.slowed));
        page.counter(
            "accepts_slowed",
            "Turns of loops that accepted less because they were behind",
            None,
            slowed,
        )?;
        let handshakes = [
            ([("outcome", "welcomed")], sum(|m| &m.handshakes.welcomed)),
            ([("outcome", "resumed")], sum(|m| &m.handshakes.resumed)),
            ([("outcome", "unauthenticated")], sum(|m| &m.handshakes.unauthenticated)),
            ([("outcome", "refused")], sum(|m| &m.handshakes.refused)),
            ([("outcome", "timed_out")], sum(|m| &m.handshakes.timed_out)),
            ([("outcome", "broken")], sum(|m| &m.handshakes.broken)),
        ];
        page.counters("handshakes", "Handshakes ended", None, &handshakes)?;

        let (heartbeat, slow) = (sum(|m| &m.closed_heartbeat), sum(|m| &m.closed_slow));
        let (fault, peer) = (sum(|m| &m.closed_fault), sum(|m| &m.closed_peer));
        let (reset, unreachable) = (sum(|m| &m.closed_failed), sum(|m| &m.closed_unreachable));
        let named = heartbeat + slow + fault + peer + reset + unreachable;
        let other = sum(|m| &m.closed).saturating_sub(named);
        let closed = [
            ([("cause", "heartbeat")], heartbeat),
            ([("cause", "slow")], slow),
            ([("cause", "fault")], fault),
            ([("cause", "peer")], peer),
            ([("cause", "reset")], reset),
            ([("cause", "unreachable")], unreachable),
            ([("cause", "other")], other),
        ];
        page.counters("connections_closed", "Connections closed, by cause", None, &closed)
    }

    fn frames(&self, page: &mut Page<'_>) -> fmt::Result {
        let rows = |cell: fn(&FrameKinds, usize) -> &Counter| {
            let mut rows = Vec::with_capacity(2 * KIND_NAMES.len());
            for (kind, name) in KIND_NAMES.into_iter().enumerate() {
                let received = self.loop_sum(|source| cell(&source.received, kind).value());
                let sent = self.loop_sum(|source| cell(&source.sent, kind).value());
                rows.push(([("direction", "received"), ("kind", name)], received));
                rows.push(([("direction", "sent"), ("kind", name)], sent));
            }
            // A kind that only one side sends would be a row of zero for ever.
            rows.retain(|(_, value)| *value > 0);
            rows
        };
        page.counters(
            "frames",
            "Frames by kind and direction",
            None,
            &rows(|kinds, kind| &kinds.frames[kind]),
        )?;
        let bytes = rows(|kinds, kind| &kinds.bytes[kind]);
        page.counters(
            "frame",
            "Bytes of frames on the wire, by kind and direction",
            Some(&Unit::Bytes),
            &bytes,
        )?;
        let sum = |cell: fn(&LoopMetrics) -> &Counter| count(self.loop_sum(|source| cell(source).value()));
        page.counter("frames_compressed", "Frames sent compressed", None, sum(|m| &m.frames_compressed))?;
        let saved = sum(|m| &m.compression_saved_bytes);
        page.counter("compression_saved", "What compressing frames saved", Some(&Unit::Bytes), saved)
    }

    fn loops(&self, page: &mut Page<'_>) -> fmt::Result {
        let merged = |cell: fn(&LoopMetrics) -> &Histogram| {
            Merged::of(self.sources.loops.iter().map(|source| cell(source)))
        };
        page.histogram(
            "heartbeat_turnaround",
            "From the reading of a PING to the writing of its PONG",
            Scale::Micros,
            &merged(|m| &m.heartbeat_turnaround_us),
        )?;
        page.histogram(
            "heartbeat_lateness",
            "How far past its interval a heartbeat came",
            Scale::Millis,
            &merged(|m| &m.heartbeat_lateness_ms),
        )?;
        self.keepalive(page)?;
        page.counter(
            "loop_turns",
            "Turns of the event loops",
            None,
            count(self.loop_sum(|m| m.turns.value())),
        )?;
        let returned = self.loop_sum(|m| m.deliveries_returned.value());
        page.counter(
            "deliveries_returned",
            "Deliveries that a connection would not take",
            None,
            count(returned),
        )?;
        let delivered = count(self.loop_sum(|m| m.broadcast_deliveries.value()));
        page.counter("broadcast_deliveries", "Broadcasts handed to connections", None, delivered)?;
        let missed = count(self.loop_sum(|m| m.broadcast_missed.value()));
        page.counter("broadcast_missed", "Broadcasts that busy connections missed", None, missed)?;
        let stopped = self.loop_sum(|m| m.reading_stopped.value());
        page.gauge("connections_not_read", "Connections not read for now, to slow them", None, count(stopped))
    }

    fn keepalive(&self, page: &mut Page<'_>) -> fmt::Result {
        page.histogram(
            "heartbeat_detection_lateness",
            "How long after its deadline a silent session was closed",
            Scale::Millis,
            &Merged::of(self.sources.loops.iter().map(|source| &source.detection_lateness_ms)),
        )?;
        let stretches = self.sources.loops.iter().map(|source| source.heartbeat_stretch_permille.value());
        page.gauge(
            "heartbeat_stretch",
            "How many times as long as agreed heartbeat intervals are to be, in the loop where they are longest",
            None,
            count(stretches.max().unwrap_or(1000)) / 1e3,
        )?;
        let sum = |cell: fn(&LoopMetrics) -> &Counter| self.loop_sum(|source| cell(source).value());
        let asked = count(sum(|m| &m.intervals_asked));
        page.counter("heartbeat_intervals_asked", "PONGs that asked for another interval", None, asked)?;
        let calls = [
            ([("call", "read")], sum(|m| &m.socket_reads)),
            ([("call", "write")], sum(|m| &m.socket_writes)),
        ];
        page.counters("socket_calls", "Reads and writes of connections' sockets", None, &calls)
    }

    /// What a loop counts and what the system counts: they differ by what leaked, and by what happens just now.
    fn tables(&self, page: &mut Page<'_>) -> fmt::Result {
        let listening = count(self.loop_sum(|m| m.listening.value()));
        page.gauge("loops_listening", "Event loops whose tables have room for connections", None, listening)?;
        let numbers: Vec<String> = (0..self.sources.loops.len()).map(|number| number.to_string()).collect();
        let mut rows = Vec::with_capacity(2 * numbers.len());
        for (number, source) in numbers.iter().zip(&self.sources.loops) {
            rows.push(([("loop", number.as_str()), ("counted_by", "loop")], source.descriptors.value()));
        }
        for (number, open) in numbers.iter().zip(&self.loop_tables) {
            rows.extend(open.map(|open| ([("loop", number.as_str()), ("counted_by", "system")], open)));
        }
        let help = "Descriptors of a loop; the system counts those of a table of its own";
        page.gauges("loop_descriptors", help, None, &rows)?;
        let leaked = |(nth, state): (usize, &'static str)| {
            ([("state", state)], self.loop_sum(|m: &LoopMetrics| m.leaked[nth].value()))
        };
        let leaked: Vec<_> = LEAK_STATES.into_iter().enumerate().map(leaked).collect();
        let help = "Descriptors of loops that no connection owns, and connections without one, as of the last comparison";
        page.gauges("descriptors_leaked", help, None, &leaked)
    }

    /// The newest drain: before the server's end, or of a share of the sessions.
    fn drain(&self, page: &mut Page<'_>) -> fmt::Result {
        let sum = |cell: fn(&LoopMetrics) -> &Gauge| self.loop_sum(|source| cell(source).value());
        let (wanted, told) = (sum(|m| &m.drain_wanted), sum(|m| &m.drain_told));
        let states = [
            ([("state", "told")], told),
            ([("state", "leaving")], sum(|m| &m.drain_leaving)),
            ([("state", "remaining")], wanted.saturating_sub(told)),
        ];
        page.gauges(
            "drain_clients",
            "Clients of the newest drain: told to go, not gone yet, not told",
            None,
            &states,
        )?;
        let running = u64::from(sum(|m| &m.drain_running) > 0);
        page.gauge("drain_running", "1 while clients are to be told to go", None, count(running))
    }

    fn sessions(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = self.shard_sum(|m| m.sessions.value());
        let grace = self.shard_sum(|m| m.sessions_in_grace.value());
        let states = [([("state", "connected")], all.saturating_sub(grace)), ([("state", "grace")], grace)];
        page.gauges("sessions", "Sessions, connected or in their grace period", None, &states)?;
        let sum = |cell: fn(&ShardMetrics) -> &Counter| count(self.shard_sum(|source| cell(source).value()));
        page.counter("take_overs", "Connections replaced by a newer one", None, sum(|m| &m.take_overs))?;
        page.counter("resumes", "Sessions resumed", None, sum(|m| &m.resumes))
    }

    /// What the sessions take: of each loop as it counts itself, of all by the accounts of the process and the kernel.
    fn memory(&self, page: &mut Page<'_>) -> fmt::Result {
        type Part = (&'static str, fn(&LoopMetrics) -> &Gauge);
        const PARTS: [Part; 5] = [
            ("sessions", |m| &m.session_bytes),
            ("streams", |m| &m.stream_bytes),
            ("output", |m| &m.output_bytes),
            ("partial_frames", |m| &m.partial_bytes),
            ("pooled", |m| &m.pooled_bytes),
        ];
        let numbers: Vec<String> = (0..self.sources.loops.len()).map(|number| number.to_string()).collect();
        let mut rows = Vec::with_capacity(PARTS.len() * numbers.len());
        for (number, source) in numbers.iter().zip(&self.sources.loops) {
            rows.extend(
                PARTS.map(|(part, cell)| ([("loop", number.as_str()), ("part", part)], cell(source).value())),
            );
        }
        page.gauges("loop_memory", "Memory of a loop, by what it is for", Some(&Unit::Bytes), &rows)?;
        let directory = count(self.shard_sum(|m| m.directory_bytes.value()));
        page.gauge("directory_memory", "Memory of the client directory", Some(&Unit::Bytes), directory)?;

        let sessions = self.shard_sum(|m| m.sessions.value());
        if sessions == 0 {
            return Ok(());
        }
        let (now, start) = (self.process.memory, self.process.memory_at_start);
        let bodies = self.shard_sum(|m| m.body_memory_bytes.value());
        let each = |now: Option<u64>, start: Option<u64>, other: u64| {
            Some(count(now?.saturating_sub(start?).saturating_sub(other)) / count(sessions))
        };
        if let Some(bytes) = each(now.resident, start.resident, bodies) {
            let help = "Growth of memory in RAM since the start, message bodies apart, by session";
            page.gauge("session_user", help, Some(&Unit::Bytes), bytes)?;
        }
        if let Some(bytes) = each(now.kernel, start.kernel, 0) {
            let help = "Growth of the kernel's memory since the start, by session; clients on the same machine are in it";
            page.gauge("session_kernel", help, Some(&Unit::Bytes), bytes)?;
        }
        Ok(())
    }

    fn messages(&self, page: &mut Page<'_>) -> fmt::Result {
        let sum = |cell: fn(&ShardMetrics) -> &Counter| count(self.shard_sum(|source| cell(source).value()));
        page.counter("publishes", "Messages published, each on disk", None, sum(|m| &m.published))?;
        page.counter(
            "publish_duplicates",
            "Re-sent publishes found in their mark",
            None,
            sum(|m| &m.duplicates),
        )?;
        let hits = sum(|m| &m.dedup_hits);
        page.counter("publish_dedup_hits", "Publishes whose deduplication ids were known", None, hits)?;
        page.counter("publish_refusals", "Publishes refused", None, sum(|m| &m.refused))?;
        page.counter("leases", "Leases given", None, sum(|m| &m.leases))?;
        page.counter(
            "redeliveries",
            "Leases of a later attempt than the first",
            None,
            sum(|m| &m.redeliveries),
        )?;
        page.counter("acks", "Messages acked", None, sum(|m| &m.acks))?;
        page.counter("nacks", "Messages nacked", None, sum(|m| &m.nacks))?;
        page.counter("leases_expired", "Leases that expired", None, sum(|m| &m.leases_expired))?;
        page.counter("leases_lost", "Settlements of a lease not the newest", None, sum(|m| &m.leases_lost))?;
        page.counter("broadcasts", "Messages published to topics", None, sum(|m| &m.broadcasts))?;
        let firings = sum(|m| &m.schedule_firings);
        page.counter("schedule_firings", "Messages published by schedules", None, firings)?;
        let misfires = sum(|m| &m.schedule_misfires);
        page.counter("schedule_misfires", "Times a schedule passed over what it missed", None, misfires)?;
        let help = "Messages of topics that bindings put on queues";
        page.counter("fanout_copies", help, None, sum(|m| &m.fanout_copies))?;
        let help = "Messages of topics that bound queues missed because they were full";
        page.counter("fanout_missed", help, None, sum(|m| &m.fanout_missed))?;
        page.counter("redriven", "Dead letters put back", None, sum(|m| &m.redriven))?;
        let sum = |cell: fn(&ShardMetrics) -> &Counter| self.shard_sum(|source| cell(source).value());
        let dead = [
            ([("reason", "attempts")], sum(|m| &m.dead_attempts)),
            ([("reason", "expired")], sum(|m| &m.dead_expired)),
            ([("reason", "overflow")], sum(|m| &m.dead_overflow)),
            ([("reason", "rejected")], sum(|m| &m.dead_rejected)),
            ([("reason", "too_large")], sum(|m| &m.dead_too_large)),
        ];
        page.counters("dead_letters", "Messages that died, by reason", None, &dead)?;
        let limits = LimitKind::ALL.map(|limit| {
            let reached = |m: &ShardMetrics| m.limits_reached[limit as usize].value();
            ([("limit", limit.as_str())], self.shard_sum(reached))
        });
        page.counters("limits_reached", "Publishes and deliveries that met a limit", None, &limits)?;
        let forgotten = count(sum(|m| &m.dead_forgotten));
        page.counter("dead_letters_forgotten", "Dead letters beyond what a queue keeps", None, forgotten)?;
        let refused = count(sum(|m| &m.system_events_refused));
        page.counter(
            "system_events_refused",
            "Events of the system that their topic refused, or that were too many at once",
            None,
            refused,
        )?;
        let messages = self.shard_sum(|m| m.messages.value());
        page.gauge("messages", "Messages in any state, dead letters included", None, count(messages))?;
        let schedules = self.shard_sum(|m| m.schedules.value());
        page.gauge("schedules", "Schedules, paused ones too", None, count(schedules))?;
        let held_up = self.shard_sum(|m| m.schedules_held_up.value());
        page.gauge(
            "schedules_held_up",
            "Schedules whose queue does not take what is due",
            None,
            count(held_up),
        )?;
        let producers = self.shard_sum(|m| m.producers.value());
        page.gauge("producers", "Producers whose marks are kept", None, count(producers))
    }

    fn log(&self, page: &mut Page<'_>) -> fmt::Result {
        let merged = |cell: fn(&ShardMetrics) -> &Histogram| {
            Merged::of(self.sources.shards.iter().map(|source| cell(source)))
        };
        page.histogram(
            "commit_records",
            "Records in a commit",
            Scale::Count,
            &merged(|m| &m.commit_records),
        )?;
        page.histogram("commit_size", "Bytes in a commit", Scale::Bytes, &merged(|m| &m.commit_bytes))?;
        page.histogram(
            "commit_latency",
            "From handing a batch to the committer until what waits for it is answered",
            Scale::Micros,
            &merged(|m| &m.commit_latency_us),
        )?;
        page.histogram(
            "sync_latency",
            "Syncs of what was answered before, where log.durability is an interval",
            Scale::Micros,
            &merged(|m| &m.sync_latency_us),
        )?;
        let sum = |cell: fn(&ShardMetrics) -> &Counter| count(self.shard_sum(|source| cell(source).value()));
        page.counter("log_written", "Written to the log", Some(&Unit::Bytes), sum(|m| &m.log_written_bytes))?;
        page.counter(
            "log_relocated",
            "Records written again to free a segment",
            None,
            sum(|m| &m.log_relocated),
        )?;
        let sum = |cell: fn(&ShardMetrics) -> &Gauge| count(self.shard_sum(|source| cell(source).value()));
        page.gauge(
            "log_live",
            "Records that recovery needs",
            Some(&Unit::Bytes),
            sum(|m| &m.log_live_bytes),
        )?;
        page.gauge("log_segments", "Segments of the log", None, sum(|m| &m.log_segments))?;
        page.gauge(
            "log_unsynced",
            "Answered, and lost if the power went now; 0 unless log.durability is an interval",
            Some(&Unit::Bytes),
            sum(|m| &m.log_unsynced_bytes),
        )?;
        if let Some((free, state)) = self.disk {
            let help = "Free on the disk of the data directory";
            page.gauge("disk_free", help, Some(&Unit::Bytes), count(free))?;
            let states = DiskState::ALL.map(|each| ([("state", each.as_str())], u64::from(each == state)));
            page.gauges("disk_state", "1 for the mark that free space is below", None, &states)?;
        }
        page.gauge("disk_full", "Shards without room on disk for publishes", None, sum(|m| &m.disk_full))
    }

    /// Everything bounded: what lies in it, and where it is full.
    fn buffers(&self, page: &mut Page<'_>) -> fmt::Result {
        let (loops, shards) = (self.sources.loops.len() as u64, self.sources.shards.len() as u64);
        let on_loops = |cell: fn(&LoopMetrics) -> &Gauge| self.loop_sum(|source| cell(source).value());
        let on_shards = |cell: fn(&ShardMetrics) -> &Gauge| self.shard_sum(|source| cell(source).value());
        let bytes = [
            ([("buffer", "output")], on_loops(|m| &m.output_bytes)),
            ([("buffer", "partial_frames")], on_loops(|m| &m.partial_bytes)),
            ([("buffer", "pooled")], on_loops(|m| &m.pooled_bytes)),
            ([("buffer", "bodies")], on_shards(|m| &m.body_memory_bytes)),
            ([("buffer", "bodies_read_back")], on_shards(|m| &m.reading_bytes)),
            ([("buffer", "parked")], on_shards(|m| &m.parked_bytes)),
            ([("buffer", "broadcasts")], on_shards(|m| &m.broadcast_bytes)),
            ([("buffer", "schedules")], on_shards(|m| &m.schedule_bytes)),
            ([("buffer", "log_open_batch")], on_shards(|m| &m.log_open_bytes)),
        ];
        page.gauges("buffer", "Bytes in buffers", Some(&Unit::Bytes), &bytes)?;
        let items = [
            ([("buffer", "admission_waiting")], on_loops(|m| &m.admission_waiting)),
            ([("buffer", "queue_names")], on_loops(|m| &m.queue_names)),
            ([("buffer", "lingering_sockets")], on_loops(|m| &m.lingering)),
            ([("buffer", "command_lane_batches")], on_loops(|m| &m.command_lane_batches)),
            ([("buffer", "effect_lane_batches")], on_loops(|m| &m.effect_lane_batches)),
            ([("buffer", "commands_unanswered")], on_loops(|m| &m.commands_unanswered)),
            ([("buffer", "effects_held")], on_shards(|m| &m.effects_held)),
            ([("buffer", "dedup_ids")], on_shards(|m| &m.dedup_ids)),
            ([("buffer", "topics")], on_shards(|m| &m.topics)),
            ([("buffer", "topic_sets")], on_shards(|m| &m.topic_sets)),
            ([("buffer", "bindings")], on_shards(|m| &m.bindings)),
            ([("buffer", "limits_told")], on_shards(|m| &m.limits_told)),
            ([("buffer", "system_events")], on_shards(|m| &m.events_untold)),
            ([("buffer", "operator_requests")], self.operator_requests as u64),
            ([("buffer", "operator_jobs")], on_shards(|m| &m.operator_jobs)),
            ([("buffer", "operator_connections")], self.operator_connections as u64),
        ];
        page.gauges("buffer_items", "Items in bounded buffers", None, &items)?;
        let max = [
            ([("buffer", "queue_names")], loops * limits::CACHED_QUEUE_NAMES_MAX as u64),
            ([("buffer", "lingering_sockets")], loops * limits::LINGERING_MAX as u64),
            ([("buffer", "command_lane_batches")], loops * limits::COMMAND_LANE_BATCHES as u64),
            ([("buffer", "effect_lane_batches")], loops * limits::EFFECT_LANE_BATCHES as u64),
            ([("buffer", "commands_unanswered")], loops * limits::COMMANDS_UNANSWERED_MAX as u64),
            ([("buffer", "topic_sets")], shards * limits::TOPIC_SETS_MAX as u64),
            ([("buffer", "limits_told")], shards * limits::LIMITS_TOLD_MAX as u64),
            ([("buffer", "system_events")], shards * limits::EVENTS_UNTOLD_MAX as u64),
            ([("buffer", "operator_requests")], limits::OPERATOR_REQUESTS_MAX as u64),
            ([("buffer", "operator_jobs")], shards * limits::OPERATOR_JOBS_MAX as u64),
            ([("buffer", "operator_connections")], limits::HTTP_CONNECTIONS_MAX as u64),
        ];
        page.gauges("buffer_items_max", "Items at which a bounded buffer is full", None, &max)
    }

    fn queues(&self, page: &mut Page<'_>) -> fmt::Result {
        let known = u64::from(self.queues.is_some());
        page.gauge("queues_known", "0 when the shard did not list its queues in time", None, count(known))?;
        let rows = self.queues.as_deref().unwrap_or_default();
        let mut depth = Vec::with_capacity(5 * rows.len());
        for row in rows {
            for (state, messages) in row.depth() {
                depth.push((
                    [("namespace", row.namespace()), ("queue", row.queue()), ("state", state)],
                    messages,
                ));
            }
        }
        page.gauges("queue_depth", "Messages of a queue by state", None, &depth)?;
        let ages: Vec<_> = rows
            .iter()
            .map(|row| {
                let age_seconds = count(row.oldest_ready_age_ms) / 1e3;
                ([("namespace", row.namespace()), ("queue", row.queue())], age_seconds)
            })
            .collect();
        let help = "Age of the oldest ready message of a queue";
        page.gauges("queue_oldest_ready_age", help, Some(&Unit::Seconds), &ages)
    }
}
