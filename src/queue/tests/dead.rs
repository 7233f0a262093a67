//! Attempts that failed, dead letters, how long they are kept, and who is told of them.

use super::*;
use crate::message::{event_message, message_attributes};
use crate::queue::record;

fn history(world: &mut World, queue: &str) -> Vec<FailedAttempt> {
    world.dead(queue).remove(0).history
}

fn reject(error: &str) -> Settlement {
    Settlement::Nack { delay_ms: None, error: error.into(), reject: true }
}

/// A message dies in `queue` for each of `bodies`, rejected with its own text.
fn kill(world: &mut World, queue: &str, bodies: &[&str]) {
    let conn = world.attach("killer");
    world.publish(conn, queue, bodies);
    world.subscribe(conn, 1, queue, 1000);
    for (deliver, body) in deliveries(&world.commit()) {
        world.settle(conn, &[deliver.lease], reject(&body));
    }
    world.detach(conn, true);
    world.commit();
}

fn ids(rows: &[DeadLetter]) -> Vec<u64> {
    rows.iter().map(|row| row.id).collect()
}

#[test]
fn the_history_says_how_long_each_attempt_took_through_restarts_and_compactions() {
    let mut world = World::new();
    world.set(
        "jobs",
        &[("attempts", "2"), ("lease", "30s"), ("backoff_initial", "1s"), ("backoff_jitter", "0")],
    );
    let conn = world.attach("worker");
    world.publish(conn, "jobs", &["work"]);
    world.subscribe(conn, 1, "jobs", 10);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.advance(Duration::from_millis(1234));
    world.settle(conn, &[lease], nack("slow"));
    world.commit();
    world.advance(Duration::from_secs(1));
    assert_eq!(deliveries(&world.commit()).len(), 1);
    world.advance(Duration::from_secs(30));
    world.commit();
    for round in 0..3 {
        let rows = world.dead("jobs");
        let seen: Vec<_> =
            rows[0].history.iter().map(|f| (f.attempt, f.lasted_ms, &*f.error, &*f.client)).collect();
        let expected = [(1, Some(1234), "slow", "worker"), (2, Some(30_000), "lease expired", "worker")];
        assert_eq!((seen, rows[0].history_left_out), (expected.to_vec(), 0), "round {round}");
        match round {
            0 => world.restart(0, Duration::from_secs(1)),
            _ => {
                let count = world.journal.records.len();
                world.compact(count);
                world.restart(0, Duration::from_secs(1));
            }
        }
    }
}

#[test]
fn the_history_is_bounded_and_says_how_much_it_left_out() {
    let mut world = World::new();
    world.set("jobs", &[("attempts", "11"), ("backoff_initial", "1ms"), ("backoff_max", "1ms")]);
    let conn = world.attach("worker");
    world.publish(conn, "jobs", &["work"]);
    world.subscribe(conn, 1, "jobs", 1000);
    for attempt in 1..=11 {
        world.advance(Duration::from_millis(5));
        let lease = deliveries(&world.commit())[0].0.lease;
        world.settle(conn, &[lease], nack(&format!("error {attempt}")));
    }
    let row = world.dead("jobs").remove(0);
    assert_eq!((row.attempts, row.history.len(), row.history_left_out), (11, crate::limits::HISTORY_MAX, 3));
    assert_eq!((row.history[0].attempt, &*row.last_error), (4, "error 11"));
}

#[test]
fn a_redriven_message_keeps_its_history() {
    let mut world = World::new();
    world.set("jobs", &[("attempts", "2"), ("backoff_initial", "1ms"), ("backoff_max", "1ms")]);
    let producer = world.attach("producer");
    world.publish(producer, "jobs", &["work"]);
    let fail = |world: &mut World, errors: [&str; 2]| {
        let conn = world.attach("worker");
        world.subscribe(conn, 1, "jobs", 1000);
        for error in errors {
            world.advance(Duration::from_millis(5));
            let lease = deliveries(&world.commit())[0].0.lease;
            world.settle(conn, &[lease], nack(error));
        }
        world.detach(conn, true);
    };
    fail(&mut world, ["a", "b"]);
    let selection = DeadSelection::One(MessageId(world.dead("jobs")[0].id));
    let (queue, to, per_s) = (name("jobs"), None, None);
    world.operate(OperatorRequest::DeadRedrive { namespace: tenant(), queue, selection, to, per_s });
    fail(&mut world, ["c", "d"]);
    for _ in 0..2 {
        let row = world.dead("jobs").remove(0);
        let said: Vec<_> = row.history.iter().map(|failed| (failed.attempt, &*failed.error)).collect();
        assert_eq!(said, [(1, "a"), (2, "b"), (3, "c"), (4, "d")]);
        assert_eq!((row.attempts, row.history_left_out), (2, 0), "its attempts were anew");
        world.restart(0, Duration::from_secs(1));
    }
}

/// A message whose worker dies of it each time, and never answers, ends as a dead letter too.
#[test]
fn a_message_that_kills_its_worker_dies_of_its_attempts() {
    for comes_back in [false, true] {
        let mut world = World::new();
        world.set("jobs", &[("attempts", "3"), ("lease", "1h")]);
        let producer = world.attach("producer");
        world.publish(producer, "jobs", &["poison"]);
        for attempt in 1..=3 {
            let conn = world.attach(if comes_back { "worker" } else { ["a", "b", "c"][attempt - 1] });
            world.subscribe(conn, 1, "jobs", 1);
            assert_eq!(deliveries(&world.commit()).len(), 1, "attempt {attempt}");
            world.advance(Duration::from_millis(10));
            world.detach(conn, false);
            if !comes_back {
                world.advance(world.config.grace);
            }
        }
        if comes_back {
            world.attach("worker");
        }
        world.commit();
        let history = history(&mut world, "jobs");
        let expected = if comes_back { "without its lease" } else { "did not come back" };
        assert!(history.iter().all(|failed| failed.error.contains(expected)), "{history:?}");
        let lasted = if comes_back { 10 } else { 10 + world.config.grace.as_millis() as u64 };
        assert!(history.iter().all(|failed| failed.lasted_ms == Some(lasted)), "{history:?}");
        assert_eq!((history.len(), world.dead("jobs")[0].reason), (3, "attempts"));
    }
}

#[test]
fn an_attempt_that_a_restart_cut_short_shows_in_the_history() {
    let mut world = World::new();
    world.set("jobs", &[("attempts", "2")]);
    for attempt in 1..=2 {
        let conn = world.attach("worker");
        if attempt == 1 {
            world.publish(conn, "jobs", &["work"]);
        }
        world.subscribe(conn, 1, "jobs", 1);
        assert_eq!(deliveries(&world.commit()).len(), 1);
        world.commit();
        world.restart(0, Duration::from_secs(1));
    }
    let conn = world.attach("another");
    world.subscribe(conn, 1, "jobs", 1);
    assert_eq!(deliveries(&world.commit()).len(), 0);
    for _ in 0..2 {
        let history = history(&mut world, "jobs");
        let seen: Vec<_> = history.iter().map(|failed| (failed.attempt, failed.lasted_ms)).collect();
        assert_eq!(seen, [(1, None), (2, None)]);
        assert!(history.iter().all(|failed| failed.error.contains("restarted")), "{history:?}");
        world.restart(0, Duration::ZERO);
    }
}

#[test]
fn a_resumed_attempt_is_not_cut_short_and_its_length_is_unknown() {
    let mut world = World::new();
    world.set("jobs", &[("attempts", "1")]);
    let (conn, attached) = world.attach_with("worker", None);
    world.publish(conn, "jobs", &["work"]);
    world.subscribe(conn, 1, "jobs", 1);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.commit();
    world.restart(0, Duration::from_secs(1));
    let resume = Resume { session_id: attached.session_id, epoch: attached.epoch, leases: vec![lease] };
    let (conn, _) = world.attach_with("worker", Some(resume));
    world.advance(Duration::from_secs(1));
    world.settle(conn, &[lease], nack("no"));
    world.commit();
    let history = history(&mut world, "jobs");
    assert_eq!((history.len(), history[0].lasted_ms, &*history[0].error), (1, None, "no"));
}

#[test]
fn dead_letters_are_forgotten_after_their_time() {
    let mut world = World::new();
    world.set("jobs", &[("dead_ttl", "10m")]);
    kill(&mut world, "jobs", &["a", "b"]);
    world.advance(Duration::from_secs(300));
    kill(&mut world, "jobs", &["c"]);
    // Time passes while the server is away, and what compaction moved keeps its time.
    let count = world.journal.records.len();
    world.compact(count);
    world.restart(0, Duration::from_secs(60));
    world.advance(Duration::from_secs(239));
    assert_eq!(world.stats("jobs").dead, 3);
    // One is gone from the front meanwhile.
    let first = world.dead("jobs")[0].id;
    let selection = DeadSelection::One(MessageId(first));
    world.operate(OperatorRequest::DeadPurge { namespace: tenant(), queue: name("jobs"), selection });
    world.advance(Duration::from_secs(1));
    assert_eq!((world.stats("jobs").dead, world.metrics.dead_forgotten.value()), (1, 1));
    world.advance(Duration::from_secs(299));
    assert_eq!(world.stats("jobs").dead, 1);
    world.advance(Duration::from_secs(1));
    assert_eq!((world.stats("jobs").dead, world.metrics.dead_forgotten.value()), (0, 2));
    world.commit();
    world.restart(0, Duration::ZERO);
    assert_eq!(world.stats("jobs").dead, 0);
}

/// Dead letters follow shard time: whoever sets the clock forgets none.
#[test]
fn a_jump_of_the_wall_clock_forgets_no_dead_letter() {
    let mut world = World::new();
    world.set("jobs", &[("dead_ttl", "10m")]);
    kill(&mut world, "jobs", &["a"]);
    world.now.wall.0 += 10 * 365 * 86_400_000;
    world.advance(Duration::from_secs(599));
    kill(&mut world, "other", &["x"]);
    assert_eq!(world.stats("jobs").dead, 1);
    world.now.wall.0 -= 20 * 365 * 86_400_000;
    world.restart(0, Duration::ZERO);
    assert_eq!(world.stats("jobs").dead, 1);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.stats("jobs").dead, 0);
}

const HOUR_MS: u64 = 3_600_000;

/// Leases one message of a queue, which has to have one.
fn lease_one(world: &mut World, conn: ConnKey, queue: &str) -> LeaseId {
    world.subscribe(conn, 1, queue, 1);
    deliveries(&world.commit())[0].0.lease
}

/// The newest clock of the log may be a second older than the newest death.
#[test]
fn who_dies_after_a_restart_died_later_also_where_the_wall_clock_went_back() {
    let mut world = World::new();
    let conn = world.attach("worker");
    world.publish(conn, "jobs", &["a", "b"]);
    let lease = lease_one(&mut world, conn, "jobs");
    world.advance(Duration::from_millis(900));
    world.settle(conn, &[lease], reject("no"));
    world.commit();
    let died = world.now.time;
    world.now.wall.0 -= HOUR_MS;
    world.restart(0, Duration::ZERO);
    assert_eq!(world.now.time, died);
    let conn = world.attach("worker");
    let second = lease_one(&mut world, conn, "jobs");
    world.settle(conn, &[second], reject("no"));
    world.set("jobs", &[("dead_messages_max", "1")]);
    world.advance(Duration::ZERO);
    assert_eq!(ids(&world.dead("jobs")), [second.message.0]);
}

/// Between the newest clock of the log and the death.
#[test]
fn a_wall_clock_set_right_before_a_death_moves_it_by_a_second_at_most() {
    for by_ms in [-(HOUR_MS as i64), HOUR_MS as i64] {
        let mut world = World::new();
        world.set("jobs", &[("dead_ttl", "10m")]);
        let conn = world.attach("worker");
        world.publish(conn, "jobs", &["a"]);
        let lease = lease_one(&mut world, conn, "jobs");
        world.now.wall.0 = world.now.wall.0.saturating_add_signed(by_ms);
        world.settle(conn, &[lease], reject("no"));
        // The log says so before it is restarted.
        world.advance(Duration::from_secs(1));
        world.publish(conn, "other", &["x"]);
        world.commit();
        world.restart(0, Duration::ZERO);
        world.advance(Duration::from_millis(598_999));
        assert_eq!(world.stats("jobs").dead, 1, "set by {by_ms} ms");
        world.advance(Duration::from_millis(1001));
        assert_eq!(world.stats("jobs").dead, 0, "set by {by_ms} ms");
    }
}

/// The clock that a death was written after goes first when the log frees its oldest segment.
#[test]
fn a_death_at_the_beginning_of_the_log_keeps_its_time() {
    let mut world = World::new();
    world.set("jobs", &[("dead_ttl", "10s")]);
    let conn = world.attach("worker");
    world.publish(conn, "jobs", &["a"]);
    let lease = lease_one(&mut world, conn, "jobs");
    let count = world.journal.records.len();
    world.compact(count);
    world.settle(conn, &[lease], reject("no"));
    let died = world.now.time;
    world.advance(Duration::from_secs(2));
    world.publish(conn, "other", &["x"]);
    world.commit();
    // What is left begins with the message, as it was moved.
    let is_snapshot = |record: &[u8]| matches!(record::decode(record), Ok(record::Record::Snapshot(_)));
    let before = world.journal.records.values().position(|(_, record)| is_snapshot(record)).unwrap();
    world.compact(before);
    world.restart(0, Duration::ZERO);
    let slot = world.brain.messages.find(lease.message).unwrap();
    assert_eq!(world.brain.died(slot), died);
    world.advance(Duration::from_millis(7999));
    assert_eq!(world.stats("jobs").dead, 1);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.stats("jobs").dead, 0);
}

#[test]
fn retention_takes_a_slice_in_a_call_and_settings_act_at_once() {
    let mut world = World::with(QueueConfig { operator_slice: 3, ..QueueConfig::default() });
    kill(&mut world, "jobs", &["a", "b", "c", "d", "e", "f"]);
    world.set("jobs", &[("dead_ttl", "1s")]);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.stats("jobs").dead, 4);
    assert!(world.brain.next_deadline().unwrap() <= world.now.time, "the rest is due");
    world.advance(Duration::ZERO);
    assert_eq!(world.stats("jobs").dead, 2);
    world.set("jobs", &[("dead_ttl", "")]);
    world.advance(Duration::from_secs(100));
    assert_eq!(world.stats("jobs").dead, 2);
    world.set("jobs", &[("dead_messages_max", "1")]);
    world.advance(Duration::ZERO);
    assert_eq!(world.stats("jobs").dead, 1);
    world.set("jobs", &[("dead_messages_max", "100"), ("dead_bytes_max", "4")]);
    kill(&mut world, "jobs", &["gh", "ij"]);
    assert_eq!((world.stats("jobs").dead, world.stats("jobs").bytes), (2, 4), "the bytes are the bound");
}

/// Not the one with the smallest number, which may have died just now.
#[test]
fn what_is_dead_for_longest_is_forgotten_first() {
    let mut world = World::new();
    let conn = world.attach("worker");
    world.subscribe(conn, 1, "jobs", 1000);
    world.publish(conn, "jobs", &["a", "b", "c"]);
    let got = deliveries(&world.commit());
    world.set("jobs", &[("dead_messages_max", "2")]);
    for at in [1, 2, 0] {
        world.settle(conn, &[got[at].0.lease], reject("no"));
        world.advance(Duration::from_secs(1));
    }
    let expected = [got[0].0.lease.message.0, got[2].0.lease.message.0];
    assert_eq!(ids(&world.dead("jobs")), expected);
}

#[test]
fn a_topic_is_told_when_dead_letters_begin_to_grow() {
    let mut world = World::new();
    let listener = world.attach("listener");
    world.subscribe(listener, 1, "topic/$sys.dead", 1);
    world.commit();
    let conn = world.attach("worker");
    world.subscribe(conn, 1, "jobs", 1000);
    let mut told = Vec::new();
    let mut die = |world: &mut World| {
        world.publish(conn, "jobs", &["work"]);
        let lease = deliveries(&world.commit())[0].0.lease;
        world.settle(conn, &[lease], reject("no"));
        for (effect, _) in world.commit() {
            let Effect::Broadcast { broadcast, .. } = effect else { continue };
            let of = |name: &str| {
                let mut attributes = message_attributes(&broadcast.body);
                attributes.find(|(own, _)| *own == name).map(|(_, value)| value.to_owned()).unwrap()
            };
            assert_eq!((of("event"), of("queue")), ("dead_letters_growing".into(), "jobs".into()));
            told.push((of("reason"), of("dead"), of("at_unix_ms")));
        }
        told.len()
    };
    assert_eq!(die(&mut world), 1);
    // As long as they keep coming that is one beginning.
    for _ in 0..4 {
        world.advance(Duration::from_secs(59));
        assert_eq!(die(&mut world), 1);
    }
    world.advance(Duration::from_secs(60));
    assert_eq!(die(&mut world), 2);
    let at = world.now.wall.0.to_string();
    assert_eq!(told[1], ("rejected".to_owned(), "6".to_owned(), at));
    assert_eq!(world.metrics.system_events_refused.value(), 0);
}

#[test]
fn nobody_else_publishes_to_the_topics_of_the_system() {
    let mut world = World::new();
    let conn = world.attach("client");
    world.publish(conn, "topic/$sys.dead", &["x"]);
    let refused = world.commit().into_iter().find_map(|(effect, _)| match effect {
        Effect::PublishRefused { refused, .. } => Some(*refused),
        _ => None,
    });
    let refused = refused.expect("refused");
    assert!(refused.code == RefusalCode::Invalid && refused.text.contains("server's own"), "{refused:?}");
    let (namespace, queue) = (tenant(), name("topic/$sys.dead"));
    let header = MessageHeader::default();
    let reply = world.operate(OperatorRequest::Publish { namespace, queue, header, body: b"x".to_vec() });
    assert!(matches!(reply, OperatorReply::Refused(refused) if refused.code == RefusalCode::Invalid));
}

/// An encoded message with one attribute.
fn with_region(region: &str) -> Vec<u8> {
    event_message(&[("kind", "report"), ("region", region)], b"")
}

/// Five dead letters in "jobs" and two in "other", some from the north, at different times.
fn scene(config: QueueConfig) -> (World, Vec<u64>) {
    let mut world = World::with(config);
    let conn = world.attach("worker");
    for queue in ["jobs", "jobs", "other", "jobs", "jobs", "other", "jobs"] {
        let region = with_region(if world.brain.next_id.is_multiple_of(2) { "north" } else { "south" });
        world.publish_with(conn, queue, None, &[(MessageHeader::default(), &region)]);
    }
    world.subscribe(conn, 1, "jobs", 100);
    world.subscribe(conn, 2, "other", 100);
    let mut leases: Vec<LeaseId> =
        deliveries(&world.commit()).iter().map(|(deliver, _)| deliver.lease).collect();
    leases.sort_by_key(|lease| lease.message);
    for lease in &leases {
        world.advance(Duration::from_secs(1));
        world.settle(conn, &[*lease], reject(&format!("error {}", lease.message.0)));
    }
    world.detach(conn, true);
    world.commit();
    (world, leases.into_iter().map(|lease| lease.message.0).collect())
}

/// With bodies in memory and without, in slices of all sizes.
fn scenes() -> Vec<QueueConfig> {
    let mut configs = Vec::new();
    for body_memory_bytes_max in [0, 1 << 20] {
        for (operator_slice, reads_max) in [(1, 1), (1, 256), (1024, 2), (1024, 256)] {
            configs.push(QueueConfig {
                body_memory_bytes_max,
                operator_slice,
                reads_max,
                ..QueueConfig::default()
            });
        }
    }
    configs
}

fn north() -> DeadFilter {
    DeadFilter { attribute: Some(("region".into(), "north".into())), ..DeadFilter::default() }
}

/// All pages of `limit`.
fn search(world: &mut World, queue: Option<&str>, filter: &DeadFilter, limit: usize) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (queue, filter) = (queue.map(name), filter.clone());
        let request = OperatorRequest::DeadList { namespace: tenant(), queue, filter, after, limit };
        let OperatorReply::DeadPage { rows, next } = world.operate(request) else { panic!("no page") };
        assert!(rows.len() <= limit);
        found.extend(ids(&rows));
        match next {
            None => return found,
            next => after = next,
        }
    }
}

#[test]
fn dead_letters_are_found_by_queue_reason_time_attribute_and_text() {
    for config in scenes() {
        let (mut world, all) = scene(config);
        let even = |ids: &[u64]| -> Vec<u64> { ids.iter().copied().filter(|id| id % 2 == 0).collect() };
        let jobs: Vec<u64> = [0, 1, 3, 4, 6].map(|at| all[at]).into();
        let any = DeadFilter::default();
        let died: Vec<u64> = world.dead("jobs").iter().map(|row| row.died_unix_ms).collect();
        for limit in [1, 2, 100] {
            assert_eq!(search(&mut world, Some("jobs"), &any, limit), jobs);
            assert_eq!(search(&mut world, None, &any, limit), all);
            assert_eq!(search(&mut world, Some("jobs"), &north(), limit), even(&jobs));
            assert_eq!(search(&mut world, None, &north(), limit), even(&all));
            assert!(search(&mut world, Some("nothing"), &any, limit).is_empty());
            let since = DeadFilter { since: Some(Wall(died[3])), ..DeadFilter::default() };
            assert_eq!(search(&mut world, None, &since, limit), all[4..]);
            let until = DeadFilter { until: Some(Wall(died[3])), ..north() };
            assert_eq!(search(&mut world, None, &until, limit), even(&all[..4]));
            let text = DeadFilter { text: Some(format!("error {}", all[3])), ..DeadFilter::default() };
            assert_eq!(search(&mut world, None, &text, limit), all[3..4]);
            let client = DeadFilter { text: Some("work".into()), ..DeadFilter::default() };
            assert_eq!(search(&mut world, None, &client, limit), all);
            for (reason, found) in [("rejected", &all[..]), ("expired", &[])] {
                let reason = DeadFilter { reason: Some(reason.into()), ..DeadFilter::default() };
                assert_eq!(search(&mut world, None, &reason, limit), found);
            }
        }
        assert!(world.brain.reads.is_empty() && world.brain.reading_bytes == 0);
    }
}

#[test]
fn a_selection_is_redriven_or_purged_and_the_rest_left() {
    for config in scenes() {
        let (mut world, all) = scene(config);
        let north = DeadSelection::Matching(north());
        let (namespace, queue) = (tenant(), name("jobs"));
        let to = Some(name("again"));
        let redrive =
            OperatorRequest::DeadRedrive { namespace, queue, selection: north.clone(), to, per_s: None };
        let (of_north, of_south): (Vec<u64>, Vec<u64>) =
            [0, 1, 3, 4, 6].map(|at| all[at]).iter().partition(|id| *id % 2 == 0);
        let count = of_north.len() as u64;
        assert_eq!(world.operate(redrive.clone()), OperatorReply::Changed(count));
        assert_eq!((world.stats("again").ready, ids(&world.dead("jobs"))), (count, of_south.clone()));
        assert_eq!(world.operate(redrive), OperatorReply::Changed(0));
        // Named ones, of which one is not there and one in another queue.
        let named = [of_south[0], all[5], 999].map(MessageId).to_vec();
        let (namespace, queue) = (tenant(), name("jobs"));
        let purge = OperatorRequest::DeadPurge { namespace, queue, selection: DeadSelection::Ids(named) };
        assert_eq!(world.operate(purge), OperatorReply::Changed(1));
        world.restart(0, Duration::ZERO);
        assert_eq!(ids(&world.dead("jobs")), of_south[1..]);
        assert_eq!((world.stats("again").ready, world.stats("other").dead), (count, 2));
    }
}

fn redrive_at(world: &mut World, to: &str, per_s: u64) -> DeadJobRow {
    let (namespace, queue, to) = (tenant(), name("jobs"), Some(name(to)));
    let selection = DeadSelection::All;
    let request = OperatorRequest::DeadRedrive { namespace, queue, selection, to, per_s: Some(per_s) };
    let OperatorReply::Jobs(rows) = world.operate(request) else { panic!("no job") };
    rows[0].clone()
}

fn jobs(world: &mut World) -> Vec<DeadJobRow> {
    let OperatorReply::Jobs(rows) = world.operate(OperatorRequest::DeadJobs { namespace: tenant() }) else {
        panic!("no jobs")
    };
    rows
}

#[test]
fn a_redrive_with_a_rate_keeps_to_it_and_shows_how_far_it_is() {
    for (per_s, total) in [(10, 40), (1000, 1000)] {
        let mut world = World::new();
        let bodies = vec!["x"; total];
        kill(&mut world, "jobs", &bodies);
        let job = redrive_at(&mut world, "again", per_s);
        assert_eq!((job.state, job.dead, job.per_s), ("under way", total as u64, Some(per_s)));
        let began = world.now.time;
        for _ in 0..100_000 {
            let Some(next) = world.brain.jobs.next() else { break };
            let wait = world.now.time.millis_until(next);
            assert!(wait >= 10, "it sleeps {wait} ms");
            world.advance(Duration::from_millis(wait));
            while world.brain.has_jobs() {
                world.go_on();
            }
            let (moved, elapsed) = (world.stats("again").ready, began.millis_until(world.now.time));
            assert!(moved <= 1 + elapsed * per_s / 1000, "{moved} after {elapsed} ms");
            assert_eq!(jobs(&mut world)[0].changed, moved);
        }
        let elapsed = began.millis_until(world.now.time);
        let expected = total as u64 * 1000 / per_s;
        assert!((expected * 9 / 10..=expected + 20).contains(&elapsed), "{elapsed} ms for {expected}");
        let row = jobs(&mut world).remove(0);
        assert_eq!(
            (row.state, row.changed, row.ended_unix_ms),
            ("done", total as u64, Some(world.now.wall.0))
        );
        assert_eq!(world.stats("jobs").dead, 0);
    }
}

/// It must not make up at once for the time in which it was held up.
#[test]
fn a_redrive_that_was_held_up_does_not_make_up_for_it_at_once() {
    let mut world = World::new();
    kill(&mut world, "jobs", &["x"; 100]);
    redrive_at(&mut world, "again", 20);
    world.advance(Duration::from_secs(4));
    while world.brain.has_jobs() {
        world.go_on();
    }
    assert!((2..=4).contains(&world.stats("again").ready), "{}", world.stats("again").ready);
}

#[test]
fn a_redrive_is_cancelled_or_ended_by_a_restart_and_what_it_did_stays() {
    let mut world = World::new();
    kill(&mut world, "jobs", &["x"; 100]);
    let job = redrive_at(&mut world, "again", 10).job;
    world.advance(Duration::from_secs(1));
    while world.brain.has_jobs() {
        world.go_on();
    }
    let moved = world.stats("again").ready;
    assert!((1..100).contains(&moved), "{moved}");
    let cancel = OperatorRequest::DeadCancel { namespace: tenant(), job };
    let OperatorReply::Jobs(rows) = world.operate(cancel.clone()) else { panic!("no job") };
    assert_eq!((rows[0].state, rows[0].changed), ("cancelled", moved));
    assert_eq!(world.operate(cancel), OperatorReply::Jobs(Vec::new()), "it is gone");
    assert_eq!(jobs(&mut world).len(), 1);
    world.advance(Duration::from_secs(60));
    assert!(!world.brain.has_jobs() && world.brain.jobs.len() == 0);
    redrive_at(&mut world, "again", 10);
    world.restart(0, Duration::from_secs(1));
    world.advance(Duration::from_secs(60));
    assert_eq!(jobs(&mut world), []);
    assert_eq!((world.stats("again").ready, world.stats("jobs").dead), (moved + 1, 99 - moved));
}

#[test]
fn redrives_with_a_rate_leave_room_for_other_requests() {
    let mut world = World::new();
    kill(&mut world, "jobs", &["x"; 100]);
    for _ in 0..crate::limits::OPERATOR_PACED_JOBS_MAX {
        redrive_at(&mut world, "again", 1);
    }
    let (namespace, queue, to) = (tenant(), name("jobs"), Some(name("again")));
    let selection = DeadSelection::All;
    let one_more = OperatorRequest::DeadRedrive { namespace, queue, selection, to, per_s: Some(1) };
    let reply = world.operate(one_more);
    assert!(matches!(reply, OperatorReply::Refused(refused) if refused.code == RefusalCode::LimitReached));
    assert!(world.dead("jobs").len() > 80);
}

#[test]
fn what_never_fits_another_queue_stays_dead_as_too_large() {
    let mut world = World::new();
    kill(&mut world, "jobs", &["small", "much too large", "tiny"]);
    let died = world.dead("jobs")[1].died_unix_ms;
    world.set("narrow", &[("bytes_max", "9")]);
    world.advance(Duration::from_secs(5));
    let (namespace, queue, selection) = (tenant(), name("jobs"), DeadSelection::All);
    let to = Some(name("narrow"));
    let redrive = OperatorRequest::DeadRedrive { namespace, queue, selection, to, per_s: None };
    assert_eq!(world.operate(redrive.clone()), OperatorReply::Changed(2));
    for round in 0..3 {
        let rows = world.dead("jobs");
        assert_eq!((rows.len(), rows[0].reason, rows[0].died_unix_ms), (1, "too_large", died), "{round}");
        assert_eq!(rows[0].last_error, "much too large", "its history stays");
        if round == 1 {
            let count = world.journal.records.len();
            world.compact(count);
        }
        world.restart(0, Duration::ZERO);
    }
    let reply = world.operate(redrive);
    assert!(matches!(reply, OperatorReply::Refused(refused) if refused.text.contains("never fit")));
}

#[test]
fn every_reason_can_be_searched_for() {
    use crate::queue::record::Reason;
    let all = [Reason::Attempts, Reason::Expired, Reason::Overflow, Reason::Rejected, Reason::TooLarge];
    assert_eq!(all.map(Reason::as_str), DEAD_REASONS);
}
