//! Every bound of the process, with the relations between them held at compile time.
//!
//! A limit that a user may change is a key of the configuration whose default is the constant here.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// Names.

/// Longest namespace, in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 64;
/// Longest client id, in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 128;
/// Longest queue name, in bytes; a mailbox name is its prefix and a client id.
pub const QUEUE_NAME_BYTES_MAX: usize = 192;
/// Longest credential in HELLO, in bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 1024;
/// Longest resume token, in bytes.
pub const RESUME_TOKEN_BYTES_MAX: usize = 64;

// Frames.

/// Largest payload of a frame before the session is authenticated, in bytes.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 4 * KIB;
/// What may come behind a HELLO that waits for its turn.
pub const EARLY_BYTES_MAX: usize = 4 * HANDSHAKE_FRAME_BYTES_MAX;
/// Largest payload of a frame afterwards, in bytes, decompressed. Default of `frame_bytes_max`.
pub const FRAME_BYTES_MAX: usize = MIB;
/// Largest configurable `frame_bytes_max`.
pub const FRAME_BYTES_MAX_CEILING: usize = 16 * MIB;
/// Room a frame needs beside the one message it carries.
pub const FRAME_OVERHEAD_BYTES: usize = KIB;
/// Largest payload of a message, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 * MIB;
/// Room an encoded message has beside its payload: all its other fields at their largest fit.
pub const MESSAGE_OVERHEAD_BYTES: usize = 128 * KIB;
/// Largest encoded message, in bytes. What does not fit a frame travels in parts.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + MESSAGE_OVERHEAD_BYTES;
/// How long a client that began a message in parts may take from part to part.
pub const PART_DEADLINE: Duration = Duration::from_secs(30);
/// Messages in one PUBLISH; leases in one ACK, NACK or EXTEND; deliveries in one DELIVER.
pub const BATCH_MESSAGES_MAX: usize = 1024;
/// Leases a HELLO may list.
pub const HELLO_LEASES_MAX: usize = 256;
/// Dictionaries a HELLO may list.
pub const HELLO_DICTIONARIES_MAX: usize = 8;
/// Readings in one PING.
pub const PING_READINGS_MAX: usize = 64;
/// Longest name of a reading, in bytes.
pub const READING_NAME_BYTES_MAX: usize = 64;
/// Attributes of one message.
pub const ATTRIBUTES_MAX: usize = 64;
/// Name and value of one attribute together, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 1024;
/// Longest ordering key, in bytes.
pub const ORDER_KEY_BYTES_MAX: usize = 128;
/// Longest fairness key, in bytes.
pub const FAIR_KEY_BYTES_MAX: usize = 64;
/// Longest deduplication id, in bytes.
pub const DEDUP_ID_BYTES_MAX: usize = 128;
/// Longest trace context, in bytes.
pub const TRACE_CONTEXT_BYTES_MAX: usize = 256;
/// Longest text beside a code, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// Longest error kept of a failed attempt, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;
/// How many times its compressed size a payload may have: what bounds the work that a byte received can cause.
pub const COMPRESSION_RATIO_MAX: usize = 64;
/// Smallest encoded message for whose sake a frame is compressed, in bytes.
pub const COMPRESS_BODY_BYTES_MIN: usize = KIB;
/// Largest frame of messages that is compressed, in bytes: a few milliseconds of the thread that sends it.
pub const COMPRESS_FRAME_BYTES_MAX: usize = MIB + FRAME_OVERHEAD_BYTES;
/// Scratch memory a codec keeps between frames, for each direction; a larger frame's is given back.
pub const CODEC_SCRATCH_KEPT_BYTES: usize = 64 * KIB;

// Sessions.

/// From accept to WELCOME.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Connections of one loop that have not been welcomed yet.
pub const HANDSHAKES_PER_LOOP_MAX: usize = 16 * KIB;
/// Heartbeat when neither side asks for another.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// Shortest heartbeat a client may ask for.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(500);
/// Longest heartbeat a client may ask for.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);
/// Silent heartbeats after which a connection is closed.
pub const HEARTBEATS_MISSED_MAX: u32 = 3;
/// PINGs of which one is answered, at the most.
pub const PONG_EVERY_MAX: u32 = 16;
/// Heartbeats a second and core beyond which a server that was not told otherwise asks for longer intervals: about a fifth
/// of a core's time.
pub const HEARTBEATS_PER_S: u32 = 20_000;
/// Share of that, in percent, to which the heartbeats of the next shorter interval must have fallen for it to be asked for.
pub const HEARTBEATS_SHORTER_PERCENT: u32 = 80;
/// How long a session outlives its connection.
pub const GRACE: Duration = Duration::from_secs(60);
/// How long output may wait without a byte of it being taken by the socket.
pub const WRITE_STALL_DEADLINE: Duration = Duration::from_secs(20);
/// Publish window: messages unanswered at once.
pub const PUBLISH_WINDOW_MESSAGES: u32 = 4096;
/// Publish window: bytes of messages unanswered at once, those of a message that is still coming in parts included.
/// The largest message and some small ones beside it.
pub const PUBLISH_WINDOW_BYTES: u32 = 20 * MIB as u32;
/// Requests other than PUBLISH that may be unanswered at once.
pub const REQUEST_WINDOW: u16 = 8192;
/// Subscriptions of one session.
pub const SUBSCRIPTIONS_MAX: usize = 64;
/// Most messages of credit a subscription may hold.
pub const CREDIT_MESSAGES_MAX: u32 = 65_536;
/// Output waiting for one connection beyond which nothing more is delivered to it; what is sent of a message in parts
/// at once.
pub const WRITE_BUDGET_BYTES: usize = 1024 * KIB;
/// Deliveries that a shard sends to one connection unasked. Before all of it is used it says so to the loop, which lets it
/// go on once at most half of the write budget is unsent. Together that is the budget: deliveries go back only beyond it, as
/// when a message is larger, or bodies that are read back come late.
pub const DELIVERY_ROOM_BYTES: u32 = 512 * KIB as u32;
/// What a delivery counts for beyond its body.
pub const DELIVERY_OVERHEAD_BYTES: u32 = 32;
/// Output waiting for one connection beyond which it is closed as too slow.
pub const WRITE_BACKLOG_BYTES_MAX: usize = WRITE_BUDGET_BYTES + 2 * FRAME_BYTES_MAX;

// A loop.

/// The buffer all connections of a loop are read into.
pub const READ_BUFFER_BYTES: usize = 256 * KIB;
/// What one connection may read in one turn before it waits for the next.
pub const READ_PER_TURN_BYTES_MAX: usize = READ_BUFFER_BYTES;
/// Connections accepted in one turn.
pub const ACCEPTS_PER_TURN_MAX: usize = 256;
/// Connections accepted in one turn of a loop that is behind with what it has.
pub const ACCEPTS_PER_TURN_MIN: usize = 16;
/// A turn that takes longer accepts fewer connections in the next one, in proportion.
pub const UNHURRIED_TURN: Duration = Duration::from_millis(5);
/// Events taken from the poller in one turn.
pub const EVENTS_PER_TURN_MAX: usize = 1024;
/// What all connections of a loop read in one turn, and with it the size of the turn's batch of commands; one
/// connection's share may go beyond it.
pub const READ_PER_LOOP_TURN_BYTES_MAX: usize = MIB;
/// Frames of one connection that are carried out in one turn: a tenth of a millisecond of PINGs, and all that a client
/// within its windows mostly has on the way. What came behind them waits for the next turn, and the connection is not read
/// meanwhile.
pub const FRAMES_PER_TURN_MAX: usize = 1024;
/// Frames of all connections of a loop in one turn, beyond which a connection has no more than [`FRAMES_PER_TURN_MIN`]: as
/// many as it reads bytes, at 64 bytes a frame.
pub const FRAMES_PER_LOOP_TURN_MAX: usize = READ_PER_LOOP_TURN_BYTES_MAX / 64;
/// Frames that every connection has in a turn in which it is read, whatever the others do.
pub const FRAMES_PER_TURN_MIN: usize = 16;
/// Batches of effects taken in one turn.
pub const EFFECT_BATCHES_PER_TURN_MAX: usize = 16;
/// Connections the kernel keeps for a loop until it accepts them; net.core.somaxconn bounds it further.
pub const LISTEN_BACKLOG: i32 = 65_535;
/// How long a loop waits before it accepts again when not even its reserve descriptor helped.
pub const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// A loop whose table was full listens again once one in so many of its sockets is free.
pub const REJOIN_AT_FREE_SHARE: usize = 64;
/// How often a loop's own count of its descriptors is compared with the system's.
pub const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// How long a socket that we closed is kept so that what was said last arrives.
pub const LINGER: Duration = Duration::from_secs(1);
/// Sockets of one loop that are kept so; beyond it the oldest is dropped early.
pub const LINGERING_MAX: usize = 1024;
/// Of these so many are dropped in one turn, once their time has come.
pub const LINGERING_DROPS_PER_TURN: usize = 64;
/// Shortest silence before the kernel probes a connection; one and a half heartbeats when that is longer.
pub const KEEPALIVE_IDLE_MIN: Duration = Duration::from_secs(60);
/// Between the kernel's probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The kernel's probes without an answer after which a connection is dead.
pub const KEEPALIVE_PROBES: u32 = 3;
/// Probes a second of all connections together, if none of them says anything by itself: with more connections than 60
/// times as many, the kernel waits longer before it probes.
pub const KEEPALIVE_PROBES_PER_S_MAX: u64 = 5_000;
/// The longest wait before a probe that the kernel takes.
pub const KEEPALIVE_IDLE_MAX: Duration = Duration::from_secs(32_767);

/// Descriptors a server needs beside its connections: the log, lanes, pollers, HTTP.
pub const OWN_DESCRIPTORS: u64 = 128;
/// Descriptors a loop needs beside its connections in a table of its own: the standard ones, its poller, listener, bell
/// and reserve.
pub const LOOP_DESCRIPTORS: u64 = 16;
/// How much of each loop's own table is planned for, in percent: the kernel spreads connections over the loops by
/// chance, and the fullest must still have room.
pub const TABLE_USE_PERCENT: u64 = 97;
/// Event loops of a server.
pub const LOOPS_MAX: u64 = 256;
/// Shards of a server.
pub const SHARDS_MAX: u64 = 64;
/// Sessions of a server that was not told how many, as far as the tables of descriptors hold them.
pub const SESSIONS_UNLESS_TOLD: u64 = 1_000_000;
/// What the kernel spends on an idle session: its socket and its place in a poller. Measured with a million.
pub const SESSION_KERNEL_BYTES: u64 = 4096;
/// What a server plans for an idle session in its own memory.
pub const SESSION_USER_BYTES: u64 = 300;
/// What a socket with a little to read or to send costs the kernel: a page.
pub const SESSION_SOCKET_BYTES_MAX: u64 = 4096;
/// What a server plans for itself, without sessions and messages.
pub const SERVER_BYTES: u64 = 256 * MIB as u64;

/// Output waiting for all connections of a server, messages sent in parts included, beyond which nothing more is delivered.
/// Each loop has its share, and room for one message at least.
pub const OUTPUT_BYTES_MAX: usize = 512 * MIB;
/// Partial frames and unfinished messages in parts of all connections of a server; whoever adds more is closed. Each loop
/// has its share, and room for one frame and one message at least.
pub const PARTIAL_BYTES_MAX: usize = 512 * MIB;
/// Memory a loop keeps in buffers that nobody uses for the moment.
pub const POOLED_BYTES_MAX: usize = 4 * MIB;
/// What of it a loop keeps for good; the rest goes back when a while has passed without a use for it.
pub const POOLED_KEPT_BYTES: usize = 32 * KIB;
/// How many such buffers a loop keeps for good.
pub const POOLED_KEPT: usize = 64;
/// How long buffers may lie unused before they are given back.
pub const POOL_TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// Queue names a loop keeps, so that a publish to one of them needs no memory of its own.
pub const CACHED_QUEUE_NAMES_MAX: usize = 4096;
/// Handshakes a second a server takes on for each core, where it is not told. More than a core does with its clients on
/// the same machine (the goal is 30,000 on two), so that it bounds a storm and not a server that keeps up.
pub const ADMISSIONS_PER_CORE_S: u64 = 20_000;
/// Most handshakes a second a server may be told to take on.
pub const ADMISSIONS_PER_S_MAX: u64 = 10_000_000;
/// The part of a second's handshakes that a loop takes on at once.
pub const ADMISSION_BURST_SHARE: u32 = 4;
/// Handshakes that a loop takes on at once at the least: many loops have a small part of the rate each, and what they get
/// of a crowd differs.
pub const ADMISSION_BURST_MIN: u32 = 32;
/// Furthest slot a client is given to come back.
pub const READMISSION_MAX: Duration = Duration::from_secs(600);
/// What a client that was told to go has to see its answers.
pub const LEAVE_DEADLINE: Duration = Duration::from_secs(2);
/// What the last words to a client have to be taken by its socket.
pub const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(2);
/// Work of deadlines that one turn does before others are served: so many deadlines looked at and found later.
pub const EXPIRY_WORK_PER_TURN: usize = 8192;
/// What a deadline that has passed counts for among them: it ends a connection, with a frame and the close of a socket.
/// So a turn ends 64: two milliseconds, after which the heartbeats of the others are answered.
pub const EXPIRY_WORK_OF_AN_END: usize = 128;
/// Clients are told of a drain in waves this far apart.
pub const DRAIN_WAVE: Duration = Duration::from_millis(100);
/// Over which time a share of the sessions is sent away, where an operator does not say.
pub const DRAIN_OVER: Duration = Duration::from_secs(30);
/// Longest such time.
pub const DRAIN_OVER_MAX: Duration = Duration::from_secs(86_400);

// Mail.

/// Batches of commands a loop may have on their way to a shard.
pub const COMMAND_LANE_BATCHES: usize = 64;
/// Commands of one loop that may be unanswered, parked publishes apart; each reserves the slot of its reply.
pub const COMMANDS_UNANSWERED_MAX: usize = 256 * KIB;
/// Batches of effects on their way to a loop; beyond it the shard keeps them, joined, in its outbox.
pub const EFFECT_LANE_BATCHES: usize = 64;
/// Requests of the operator API that may be unanswered.
pub const OPERATOR_REQUESTS_MAX: usize = 256;

// Queues.

/// Attempts at a message. Default of `attempts_max`.
pub const ATTEMPTS: u32 = 5;
/// Highest `attempts_max`.
pub const ATTEMPTS_MAX: u32 = 1000;
/// First retry delay.
pub const BACKOFF_INITIAL: Duration = Duration::from_secs(1);
/// Longest retry delay.
pub const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// Each further retry delay as a part of the one before, in percent.
pub const BACKOFF_FACTOR_DEFAULT_PERCENT: u32 = 200;
/// Lowest and highest such part.
pub const BACKOFF_FACTOR_PERCENT: (u32, u32) = (100, 1000);
/// A retry delay is lengthened by a random part of up to this many percent.
pub const BACKOFF_JITTER_PERCENT: u32 = 25;
/// How long a lease lasts. Default of `lease`.
pub const LEASE: Duration = Duration::from_secs(30);
/// Shortest lease that may be asked for: one that is over before its message arrives is of use to nobody.
pub const LEASE_MIN: Duration = Duration::from_millis(100);
/// Longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);
/// Longest delay of a message.
pub const DELAY_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Longest delay of a nack.
pub const NACK_DELAY_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Priorities are 0 to 9.
pub const PRIORITIES: usize = 10;
/// Priority of a message that names none.
pub const PRIORITY_DEFAULT: u8 = 4;
/// Messages in one queue. Default of `messages_max`.
pub const QUEUE_MESSAGES_MAX: u64 = 20_000_000;
/// Bytes in one queue. Default of `bytes_max`.
pub const QUEUE_BYTES_MAX: u64 = 16 << 30;
/// Messages in one mailbox.
pub const MAILBOX_MESSAGES_MAX: u64 = 1000;
/// Bytes in one mailbox.
pub const MAILBOX_BYTES_MAX: u64 = MIB as u64;
/// How long a message may wait in a mailbox.
pub const MAILBOX_TTL: Duration = Duration::from_secs(7 * 86_400);
/// Mailboxes of one namespace that hold something.
pub const MAILBOXES_PER_NAMESPACE_MAX: usize = 1_000_000;
/// Work queues of one namespace.
pub const QUEUES_PER_NAMESPACE_MAX: usize = 10_000;
/// Namespaces of one shard.
pub const NAMESPACES_MAX: usize = 10_000;
/// Attempts kept in a message's history.
pub const HISTORY_MAX: usize = 8;
/// How long a deduplication id is remembered.
pub const DEDUP_WINDOW: Duration = Duration::from_secs(300);
/// Longest such window.
pub const DEDUP_WINDOW_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Deduplication ids of one queue that are remembered at once; beyond it a publish with another one is refused.
pub const DEDUP_IDS_MAX: u64 = 1_000_000;
/// Settings of one queue, its weights included.
pub const QUEUE_SETTINGS_MAX: usize = 1024;
/// Highest weight of a fairness key.
pub const WEIGHT_MAX: u32 = 1000;
/// Producers of one namespace whose marks are kept.
pub const PRODUCERS_PER_NAMESPACE_MAX: usize = 1_000_000;
/// Bytes of publishes parked because their queue is full, a namespace, with what each costs beside its messages. Beyond
/// it the sockets of its producers are not read any more, and what its consumers publish is refused.
pub const PARKED_BYTES_PER_NAMESPACE_MAX: u64 = 64 * MIB as u64;
/// Bytes of message bodies kept in memory; beyond it they are read back from the log.
pub const BODY_MEMORY_BYTES_MAX: u64 = 1024 * MIB as u64;
/// How long a client that was refused for a full queue is asked to wait.
pub const QUEUE_FULL_RETRY: Duration = Duration::from_secs(1);

// Topics.

/// Topics of one namespace that somebody is subscribed to.
pub const TOPICS_PER_NAMESPACE_MAX: usize = 10_000;
/// Different sets of topics that sessions of one namespace are subscribed to, with their subscription numbers.
pub const TOPIC_SETS_PER_NAMESPACE_MAX: usize = 10_000;
/// The same for all namespaces of a shard. A session's set is a number of 16 bits.
pub const TOPIC_SETS_MAX: usize = 50_000;
/// Bindings of topics to queues and mailboxes in one namespace.
pub const BINDINGS_PER_NAMESPACE_MAX: usize = 10_000;
/// Longest name of a binding, in bytes: that of one that is not given any is its pattern and its queue.
pub const BINDING_NAME_BYTES_MAX: usize = 2 * QUEUE_NAME_BYTES_MAX;
/// Longest filter of a binding, in bytes.
pub const FILTER_BYTES_MAX: usize = 1024;
/// How deep parentheses and `not` of a filter may be nested.
pub const FILTER_DEPTH_MAX: usize = 32;
/// Tokens of a topic's name that a pattern may ask for.
pub const TOPIC_TOKENS_MAX: usize = 32;
/// Queues and mailboxes that one publish to a topic reaches; one that would reach more is refused.
pub const FANOUT_QUEUES_MAX: usize = 4096;
/// Messages that one publish to a topic becomes, in all of them together.
pub const FANOUT_MESSAGES_MAX: usize = 65_536;
/// Attributes that the filters of one publish to a topic, or of one event, look at: each test at each attribute of each
/// message. One that asks for more is refused, for nobody else of the shard is served meanwhile.
pub const FILTER_LOOKS_MAX: usize = 1 << 20;
/// Bytes of what a record of compaction says of the copies of one message, beside the message.
pub const FANOUT_SNAPSHOT_BYTES_MAX: usize = 512 * KIB;
/// Limits of queues that `$sys.limits` told of in the last second; beyond it no others are told of.
pub const LIMITS_TOLD_MAX: usize = 1024;
/// System events that came up and are not told yet; as soon as there are half as many they are told between two commands.
pub const EVENTS_UNTOLD_MAX: usize = 1024;
/// Bytes of broadcasts on their way to the connections of one loop, each counting at least
/// [`BROADCAST_CHARGE_BYTES_MIN`]; beyond it a publish to a topic is refused. One that is larger passes alone.
pub const BROADCAST_BYTES_PER_LOOP_MAX: u64 = 16 * MIB as u64;
/// A namespace may have so many times as much of them under way as it leaves free: four fifths are one's alone, and however
/// many take what they can, the next finds room.
pub const BROADCAST_SHARE_OF_FREE: u64 = 4;
/// What a broadcast counts at least.
pub const BROADCAST_CHARGE_BYTES_MIN: usize = 4 * KIB;
/// Broadcasts that a loop hands to connections in one wave: about a millisecond of writes, after which it reads, answers
/// heartbeats and goes on.
pub const BROADCAST_WAVE_SENDS: usize = 64;
/// Broadcasts of a wave that are written before the time is looked at.
pub const BROADCAST_PORTION_SENDS: usize = 16;
/// How long a wave may go on with further portions.
pub const BROADCAST_WAVE: Duration = Duration::from_millis(1);
/// A wave that begins so much later than due was late: whatever came for its loop meanwhile has waited as long.
pub const BROADCAST_LATE: Duration = Duration::from_millis(3);
/// From one wave to the next at least, where loops share cores.
pub const BROADCAST_PAUSE_MIN: Duration = Duration::from_millis(1);
/// Where loops share cores, a loop may pause until it uses one of so many parts of its share of them for waves.
pub const BROADCAST_LEAST_SHARE: u32 = 4;
/// Deliveries a second that a server may be held to.
pub const BROADCAST_DELIVERIES_PER_S_MAX: u64 = 100_000_000;
/// Bytes that a loop adds to the output of connections in one wave of broadcasts.
pub const BROADCAST_WAVE_BYTES: usize = MIB;
/// How often a loop compares a connection's topics with a broadcast's in one wave.
pub const BROADCAST_WAVE_CHECKS: usize = 32 * KIB;
/// Slots that a loop passes in one wave on its way to the next subscribed connection.
pub const BROADCAST_WAVE_SLOTS: usize = 256 * KIB;
/// Subscription numbers for which a loop keeps a broadcast's compressed frame; to others it goes as it is.
pub const BROADCAST_FRAMES_MAX: usize = 2;
/// Broadcasts that a blocking client keeps until they are taken; beyond it the oldest is forgotten.
pub const BROADCASTS_KEPT_MAX: usize = 1024;
/// Bytes of payloads among them.
pub const BROADCASTS_KEPT_BYTES_MAX: usize = 16 * MIB;

/// How far ahead of the ids in use the log says that they are, where durability is an interval: more than can be
/// published in the longest one, so that no id that a power loss takes is given again.
pub const IDS_AHEAD: u64 = 1 << 28;

// Schedules.

/// Longest cron expression, in bytes.
pub const CRON_BYTES_MAX: usize = 256;
/// Longest name of a schedule, in bytes.
pub const SCHEDULE_NAME_BYTES_MAX: usize = 128;
/// Schedules of one namespace.
pub const SCHEDULES_PER_NAMESPACE_MAX: usize = 10_000;
/// Bytes of memory that the schedules of one namespace take.
pub const SCHEDULE_BYTES_PER_NAMESPACE_MAX: usize = 32 * MIB;
/// Largest encoded message of a schedule: it stays in memory.
pub const SCHEDULE_MESSAGE_BYTES_MAX: usize = 64 * KIB;
/// Largest JSON body of a request that adds a schedule: a message in base64, its attributes and the schedule.
pub const SCHEDULE_JSON_BYTES_MAX: usize = 4 * SCHEDULE_MESSAGE_BYTES_MAX;
/// What a schedule comes due at is missed when it is this late.
pub const SCHEDULE_LATE: Duration = Duration::from_secs(5);
/// How often the wall clock is looked at while there are schedules, so that a jump is noticed; and how often a schedule whose
/// queue is full is tried again.
pub const SCHEDULE_LOOK: Duration = Duration::from_secs(1);
/// Default, and most, of the missed messages that a schedule with misfire policy `all` makes up for.
pub const SCHEDULE_MISSED_MAX: u32 = 1000;
/// What schedules may do in one call of the shard, in looks at a calendar of about a microsecond each.
pub const SCHEDULE_STEPS: usize = 2000;
/// Coming times of one preview.
pub const SCHEDULE_PREVIEW_MAX: usize = 1000;

// The log.

/// What a batch starts on and what the disk is written in.
pub const LOG_BLOCK_BYTES: usize = 4 * KIB;
/// Default of `segment_bytes`.
pub const SEGMENT_BYTES: usize = 64 * MIB;
/// A message has at most this part of a segment, so that little of one stays empty behind the last that fits.
pub const MESSAGES_PER_SEGMENT_MIN: usize = 3;
/// Smallest configurable segment.
pub const SEGMENT_BYTES_MIN: usize = 4 * MIB;
/// Largest batch of one commit, unless one record is larger.
pub const LOG_BATCH_BYTES_MAX: usize = 2 * MIB;
/// Bodies of deliveries to one loop that a shard keeps for their commit or because the lane is full; beyond it nothing
/// more is handed out to that loop. What one commit publishes and the next one gathers passes without waiting. A message
/// that is larger passes alone.
pub const DELIVERIES_HELD_BYTES_MAX: usize = 2 * LOG_BATCH_BYTES_MAX;
/// Shortest interval of durability.
pub const DURABILITY_INTERVAL_MIN: Duration = Duration::from_millis(1);
/// Longest interval of durability.
pub const DURABILITY_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Bodies being read back at once for deliveries; one that is larger is read alone.
pub const READING_BYTES_MAX: u64 = 16 * MIB as u64;
/// Segments kept ready for acks when the disk is full.
pub const RESERVED_SEGMENTS: usize = 2;
/// Segments the log may have beyond twice its live bytes.
pub const SPARE_SEGMENTS_MAX: usize = 4;

// The operator API.

/// Redrives, purges and listings of operators that a shard carries out at once; those whose asker gave up count.
pub const OPERATOR_JOBS_MAX: usize = OPERATOR_REQUESTS_MAX;
/// Of those, redrives with a rate, which go on after they were answered.
pub const OPERATOR_PACED_JOBS_MAX: usize = 16;
/// Redrives and purges that are listed after they ended.
pub const OPERATOR_JOBS_ENDED_KEPT: usize = 16;
/// Bodies that one of them, or a search, has read back from the log at once.
pub const OPERATOR_READS_MAX: usize = 64;
/// Dead letters that one request names by their ids.
pub const DEAD_IDS_MAX: usize = 1000;
/// Highest rate of a redrive, in dead letters a second.
pub const REDRIVE_PER_S_MAX: u64 = 1_000_000;
/// Dead letters that one of them moves before others have their turn.
pub const OPERATOR_SLICE: usize = 1024;
/// Connections of the operator API; beyond it they wait in the kernel. More than there may be requests, so that a
/// health check finds room while all of those wait.
pub const HTTP_CONNECTIONS_MAX: usize = 2 * OPERATOR_REQUESTS_MAX;
/// Largest JSON body of an HTTP request: a selection of dead letters is a few names.
pub const HTTP_JSON_BYTES_MAX: usize = 64 << 10;
/// Largest message in the body of an HTTP request, and largest payload that a response shows, at the default frame size.
pub const HTTP_BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES;
/// Queues with a label of their own in the metrics; the others share one.
pub const QUEUE_LABELS_MAX: usize = 100;
/// Rows of one page of a listing.
pub const PAGE_ROWS_MAX: usize = 1000;

const _: () = {
    // Keys and lengths take at most 12 bytes of an attribute, and 128 of all fields that are numbers or lengths.
    let keys_max = ORDER_KEY_BYTES_MAX + FAIR_KEY_BYTES_MAX + DEDUP_ID_BYTES_MAX;
    let fields_max = ATTRIBUTES_MAX * (ATTRIBUTE_BYTES_MAX + 12) + TRACE_CONTEXT_BYTES_MAX + keys_max + 128;
    assert!(fields_max <= MESSAGE_OVERHEAD_BYTES);
    assert!(MESSAGE_BYTES_MAX <= PUBLISH_WINDOW_BYTES as usize);
    assert!(MESSAGE_BYTES_MAX <= PARTIAL_BYTES_MAX && MESSAGE_BYTES_MAX <= OUTPUT_BYTES_MAX);
    assert!(MESSAGE_BYTES_MAX * MESSAGES_PER_SEGMENT_MIN <= SEGMENT_BYTES);
    // A record has a head, and a snapshot the errors of failed attempts.
    assert!(SEGMENT_BYTES_MIN / MESSAGES_PER_SEGMENT_MIN + 64 * KIB <= SEGMENT_BYTES_MIN);
    assert!(FRAME_OVERHEAD_BYTES < FRAME_BYTES_MAX);
    assert!(POOLED_KEPT_BYTES < POOLED_BYTES_MAX);
    assert!(FRAME_BYTES_MAX <= FRAME_BYTES_MAX_CEILING);
    assert!(WRITE_BUDGET_BYTES < WRITE_BACKLOG_BYTES_MAX);
    assert!(DELIVERY_ROOM_BYTES as usize <= WRITE_BUDGET_BYTES / 2);
    assert!(READ_PER_TURN_BYTES_MAX <= READ_PER_LOOP_TURN_BYTES_MAX);
    assert!(ACCEPTS_PER_TURN_MIN > 0 && ACCEPTS_PER_TURN_MIN <= ACCEPTS_PER_TURN_MAX);
    assert!(FRAMES_PER_TURN_MIN > 0 && FRAMES_PER_TURN_MIN <= FRAMES_PER_TURN_MAX);
    assert!(FRAMES_PER_TURN_MAX <= FRAMES_PER_LOOP_TURN_MAX);
    assert!(EFFECT_BATCHES_PER_TURN_MAX <= EFFECT_LANE_BATCHES);
    assert!(HTTP_BODY_BYTES_MAX as u64 <= MAILBOX_BYTES_MAX);
    assert!(PUBLISH_WINDOW_BYTES as usize >= FRAME_BYTES_MAX);
    assert!(LOG_BATCH_BYTES_MAX > FRAME_BYTES_MAX + LOG_BLOCK_BYTES);
    assert!(LOG_BATCH_BYTES_MAX * 2 <= SEGMENT_BYTES_MIN);
    assert!(TOPIC_SETS_PER_NAMESPACE_MAX <= TOPIC_SETS_MAX && TOPIC_SETS_MAX < u16::MAX as usize - 1);
    assert!(BROADCAST_PORTION_SENDS > 0 && BROADCAST_PORTION_SENDS <= BROADCAST_WAVE_SENDS);
    assert!(FRAME_BYTES_MAX <= BROADCASTS_KEPT_BYTES_MAX);
    // A publish to a topic, its copies and the names of its queues are one record.
    let fanout = FANOUT_QUEUES_MAX * (QUEUE_NAME_BYTES_MAX + 12) + FANOUT_MESSAGES_MAX;
    assert!(fanout + FRAME_BYTES_MAX < LOG_BATCH_BYTES_MAX);
    assert!(FANOUT_SNAPSHOT_BYTES_MAX + FRAME_BYTES_MAX < LOG_BATCH_BYTES_MAX);
    assert!(SEGMENT_BYTES.is_multiple_of(LOG_BLOCK_BYTES));
    assert!(RESERVED_SEGMENTS < SPARE_SEGMENTS_MAX);
    assert!(BATCH_MESSAGES_MAX <= PUBLISH_WINDOW_MESSAGES as usize);
    assert!(LEASE.as_secs() <= LEASE_MAX.as_secs());
    assert!(LEASE_MIN.as_millis() <= LEASE.as_millis());
    assert!(HEARTBEAT_MIN.as_millis() < HEARTBEAT.as_millis());
    assert!(PONG_EVERY_MAX <= 16, "a session has four bits for it");
};
