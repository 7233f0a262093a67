//! RelayMesh: a gateway for device connections with a durable queue behind it. This page is the code map.
//!
//! ```text
//!  sockets ⇄ reactor ─ gateway   ⇄ mail ⇄   engine ─ queue ⇄ log ⇄ disk
//!            (shell)   (brain)              (shell)  (brain)  (durable)
//!            one thread per loop            a shard: a brain thread and a committer thread
//!                     admin · telemetry · host   (control plane, on tokio, never on a loop)
//! ```
//!
//! # The way of a message
//!
//! A producer's bytes arrive in [`reactor`], which hands them to [`gateway`]; that splits and checks frames with
//! [`wire`], asks the [`session`] whether they are allowed, and puts a command into the turn's batch. The batch
//! crosses in [`mail`] to the shard of the client's namespace. There [`engine`] gives it to [`queue`], which appends a record to [`log`] and
//! leaves an effect in its outbox. The committer writes the batch; when it is durable the effect crosses back, and the
//! gateway writes PUBLISH_ACK. A delivery goes the same way back, without waiting for the record of its lease.
//!
//! | module | owns | must not know |
//! |---|---|---|
//! | [`cli`] | the commands a person types, one verb a file | how anything is done |
//! | [`reactor`] | sockets, the poller, when bytes are read and written | what they mean, queue rules |
//! | [`gateway`] | a loop's sessions, timers, admission, drain | mio, files, real time |
//! | [`session`] | one client's state machine | its slot, other sessions, sockets, frames |
//! | [`engine`] | a shard's threads; what is released when | sockets |
//! | [`queue`] | the client directory and a message's life | connections, frames, files |
//! | [`log`] | the write-ahead log over a small storage trait | what its records mean |
//! | [`mail`] | what crosses between loops and shards | who sends, who receives |
//! | [`message`] | what one encoded message says of itself | frames, queues |
//! | [`wire`] | bytes to frames and back | sessions, sockets, the clock |
//! | [`client`] | the SDK | the server's modules but `wire` |
//! | [`admin`] | HTTP for operators | slabs, client sockets |
//! | [`telemetry`] | every metric's cell and name, logging | what users choose |
//! | [`host`] | what the machine allows and the process uses | sessions |
//! | [`config`], [`limits`], [`ids`], [`clock`], [`cron`], [`wheel`], [`paged`] | checked settings; bounds; names; the only `now`; calendars; timers; lists of a million | everything above |
//!
//! # Floors
//!
//! From the top down. Imports point down, or sideways where that makes no circle; `tests/style` reads this table
//! and holds the source to it.
//!
//! ```text
//! main
//! cli
//! reactor
//! gateway · engine
//! session · queue · client · admin
//! wire · message · log · mail · config
//! host · telemetry · limits · ids · clock · cron · wheel · paged
//! ```
//!
//! Absences, held by the same test: `queue` and `gateway` never import each other; mio is named in `reactor` alone,
//! the current time is asked in `clock` alone; no lock on the path of a message; no unbounded channel; no shared
//! mutable cell; no module called util, common or helpers; `unsafe` in `host` and `reactor` only.
//!
//! # Every buffer
//!
//! | buffer | bound | metric | when it is full |
//! |---|---|---|---|
//! | a loop's read buffer | [`limits::READ_BUFFER_BYTES`], one a loop | its size never changes | the rest stays in the socket |
//! | partial frames, messages coming in parts, and frames beyond a turn's [`limits::FRAMES_PER_TURN_MAX`] | a frame, a message and a read buffer each, the message within the publish window; a loop's share of [`limits::PARTIAL_BYTES_MAX`] | `relaymesh_buffer_bytes{buffer="partial_frames"}` | whoever adds to them is told to leave |
//! | output of a connection | [`limits::WRITE_BUDGET_BYTES`] | `relaymesh_buffer_bytes{buffer="output"}` | deliveries go back to the queue, the socket is not read; closed beyond [`limits::WRITE_BACKLOG_BYTES_MAX`], or when stalled |
//! | a message going out in parts | one a connection, [`limits::MESSAGE_BYTES_MAX`]; counted in the loop's output | the same | further deliveries go back to the queue |
//! | output of a loop | its share of [`limits::OUTPUT_BYTES_MAX`] | the same | deliveries go back to the queue |
//! | pooled buffers of a loop | [`limits::POOLED_BYTES_MAX`] | `relaymesh_buffer_bytes{buffer="pooled"}` | freed; after a while without use all but [`limits::POOLED_KEPT_BYTES`] are |
//! | queue names of a loop | [`limits::CACHED_QUEUE_NAMES_MAX`] | `relaymesh_buffer_items{buffer="queue_names"}` | forgotten |
//! | handshakes of a loop | [`limits::HANDSHAKES_PER_LOOP_MAX`] | `relaymesh_connections{state="handshaking"}` | shed with a slot to come back |
//! | clients of a loop that wait to come in | they are among its handshakes; what is admitted in half of [`limits::HANDSHAKE_DEADLINE`] | `relaymesh_buffer_items{buffer="admission_waiting"}` | shed with a slot to come back, those that resume last |
//! | publishes of a session | [`limits::PUBLISH_WINDOW_MESSAGES`], [`limits::PUBLISH_WINDOW_BYTES`] | `relaymesh_buffer_items{buffer="commands_unanswered"}`, of all sessions | ERROR, closed |
//! | other requests of a session | [`limits::REQUEST_WINDOW`] | the same | ERROR, closed |
//! | commands of a loop without an answer, not parked | [`limits::COMMANDS_UNANSWERED_MAX`] | `relaymesh_buffer_items{buffer="commands_unanswered"}` | connections that add to them are not read |
//! | lane from a loop to a shard | [`limits::COMMAND_LANE_BATCHES`] | `relaymesh_buffer_items{buffer="command_lane_batches"}` | the loop reads nothing |
//! | lane from a shard to a loop | [`limits::EFFECT_LANE_BATCHES`] | `relaymesh_buffer_items{buffer="effect_lane_batches"}` | the shard keeps the effects, joined |
//! | deliveries on their way from a shard to one connection | [`limits::DELIVERY_ROOM_BYTES`] and one message | `relaymesh_buffer_items{buffer="effects_held"}`, of all connections | the shard delivers no more to it until its loop says that it has little to send |
//! | bodies on their way from a shard to one loop | [`limits::DELIVERIES_HELD_BYTES_MAX`] and one message | `relaymesh_buffer_items{buffer="effects_held"}` | the queue delivers no more to that loop until effects have left |
//! | other effects kept by the shard | the windows of all sessions | the same | – |
//! | the log's open batch | twice [`limits::LOG_BATCH_BYTES_MAX`] and one turn of a loop | `relaymesh_buffer_bytes{buffer="log_open_batch"}` | the shard takes no mail |
//! | messages of a queue or mailbox | configured | `relaymesh_queue_depth` | `wait` parks the publish, `reject` refuses it, `dead_letter_oldest` lets others die |
//! | messages of a namespace | configured; none by default | `relaymesh_limits_reached_total` | the same, as the queue says |
//! | queues that wait for their namespace's room or rate | each once in a line for publishes and one for deliveries | the same | – |
//! | parked publishes | the producers' windows; [`limits::PARKED_BYTES_PER_NAMESPACE_MAX`] a namespace | `relaymesh_buffer_bytes{buffer="parked"}` | those connections are not read; what consumers publish is refused, for their acks make room |
//! | bodies in memory | `memory.body_bytes_max`, in equal shares where there are several shards | `relaymesh_buffer_bytes{buffer="bodies"}` | read back from the log |
//! | bodies being read back | [`limits::READING_BYTES_MAX`] and one message a shard | `relaymesh_buffer_bytes{buffer="bodies_read_back"}` | their queues wait |
//! | broadcasts on their way to the connections of a loop | [`limits::BROADCAST_BYTES_PER_LOOP_MAX`] of each shard, each counting at least [`limits::BROADCAST_CHARGE_BYTES_MIN`]; the loops share the messages and keep up to [`limits::BROADCAST_FRAMES_MAX`] compressed frames of each; a namespace has at most [`limits::BROADCAST_SHARE_OF_FREE`] times what it leaves free | `relaymesh_buffer_bytes{buffer="broadcasts"}` | a publish to a topic is refused; what is under way passes by connections above their output's bound, which miss it |
//! | topics with subscriptions | [`limits::TOPICS_PER_NAMESPACE_MAX`] a namespace | `relaymesh_buffer_items{buffer="topics"}` | a subscription to another is refused |
//! | sets of topics that sessions are subscribed to | [`limits::TOPIC_SETS_PER_NAMESPACE_MAX`] a namespace, [`limits::TOPIC_SETS_MAX`] a shard; beyond it one a session, of at most [`limits::SUBSCRIPTIONS_MAX`] topics | `relaymesh_buffer_items{buffer="topic_sets"}` | a subscription that makes another is refused; what is left when one ends is the session's own |
//! | bindings of topics to queues | [`limits::BINDINGS_PER_NAMESPACE_MAX`] a namespace, each with a filter of up to [`limits::FILTER_BYTES_MAX`]; a publish reaches at most [`limits::FANOUT_QUEUES_MAX`] queues | `relaymesh_buffer_items{buffer="bindings"}` | another is refused, and so is a publish that would reach more |
//! | system events of one call of the queue that are not told yet | [`limits::EVENTS_UNTOLD_MAX`] a shard; told when the call has done the rest, or once half of them wait | `relaymesh_buffer_items{buffer="system_events"}` | those beyond are missed: `relaymesh_system_events_refused_total` |
//! | limits that `$sys.limits` told of in the last second | [`limits::LIMITS_TOLD_MAX`] a shard | `relaymesh_buffer_items{buffer="limits_told"}` | others are not told of |
//! | dead letters of a queue | `dead_messages_max` and `dead_bytes_max` of the queue, or as many again as its messages | `relaymesh_queue_depth{state="dead"}` | what is dead for longest is forgotten |
//! | producers' marks | [`limits::PRODUCERS_PER_NAMESPACE_MAX`] | `relaymesh_producers` | a new producer is refused |
//! | deduplication ids of a queue, 54 to 59 bytes each and twice that while a list has just grown | configured: `dedup_ids_max`, each for `dedup_window` | `relaymesh_buffer_items{buffer="dedup_ids"}`, of all queues | a publish with another id is refused |
//! | schedules | [`limits::SCHEDULES_PER_NAMESPACE_MAX`] and [`limits::SCHEDULE_BYTES_PER_NAMESPACE_MAX`] a namespace | `relaymesh_buffer_bytes{buffer="schedules"}` | another one is refused |
//! | requests of operators | [`limits::OPERATOR_REQUESTS_MAX`] | `relaymesh_buffer_items{buffer="operator_requests"}` | 503 |
//! | redrives, purges, searches and listings of a shard | [`limits::OPERATOR_JOBS_MAX`], those with a rate [`limits::OPERATOR_PACED_JOBS_MAX`]; of those that ended the last [`limits::OPERATOR_JOBS_ENDED_KEPT`] are listed | `relaymesh_buffer_items{buffer="operator_jobs"}` | 429 |
//! | connections of operators | [`limits::HTTP_CONNECTIONS_MAX`] | `relaymesh_buffer_items{buffer="operator_connections"}` | they wait in the kernel |
//! | closed sockets that linger | [`limits::LINGERING_MAX`] | `relaymesh_buffer_items{buffer="lingering_sockets"}` | closed at once |
//!
//! # What an idle session costs
//!
//! A device that is connected, subscribed to its mailbox, and silent between two heartbeats. `tests/style` holds the sizes
//! of the types to this table.
//!
//! | what | where | bytes |
//! |---|---|---|
//! | its connection and session: one line of the cache | [`gateway`] | 64 |
//! | its deadline | [`wheel`] | 19 |
//! | its stream | [`reactor`] | 12 |
//! | the client with a name of up to 22 bytes, its mailbox's subscription and credit | [`queue`] | 88 |
//! | the client's place among the connections | [`queue`] | 4 |
//! | the client's place among the names | [`queue`] | 11 |
//! | in all | | 198 |
//!
//! Sessions, timers and clients lie in lists that grow a page at a time ([`paged`]), so that nothing of them is copied and left
//! behind as they grow; the table of names doubles. Beside its timers a wheel has up to 136 bytes for each of its slots that
//! is in use, which are fewer than two hundred however many its timers are.
//! A connection has buffers only while something is half received or half sent, and what a storm took of them is
//! given back when it is over. A name of more than 22 bytes takes memory of its own. What RSS shows beyond
//! this is the allocator's: the rest of its pages, and what each thread keeps for itself.

pub mod admin;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod cron;
pub mod engine;
pub mod gateway;
pub mod host;
pub mod ids;
pub mod limits;
pub mod log;
pub mod mail;
pub mod message;
pub mod paged;
pub mod queue;
pub mod reactor;
pub mod session;
pub mod telemetry;
pub mod wheel;
pub mod wire;
