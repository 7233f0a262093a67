//! Deduplication ids, and publishes that ack what they were made of.

use prost::Message as _;

use super::*;
use crate::message::message_header;
use crate::wire::proto;

/// A message with this id, as a client encodes it, with its header.
fn with_id(dedup_id: &str, payload: &str) -> (MessageHeader, Vec<u8>) {
    let (dedup_id, payload) = (dedup_id.to_owned(), payload.into());
    let body = proto::Message { payload, dedup_id, ..Default::default() }.encode_to_vec();
    (message_header(&body, body.len()).unwrap(), body)
}

fn publish_ids(world: &mut World, conn: ConnKey, queue: &str, ids: &[&str], acks: &[LeaseId]) -> u64 {
    let messages: Vec<_> = ids.iter().map(|id| with_id(id, "work")).collect();
    let messages: Vec<_> = messages.iter().map(|(header, body)| (*header, body.as_slice())).collect();
    world.publish_acking(conn, queue, None, acks, &messages)
}

fn refusal(effects: &[(Effect, Vec<u8>)]) -> Option<Refused> {
    effects.iter().find_map(|(effect, _)| match effect {
        Effect::PublishRefused { refused, .. } => Some((**refused).clone()),
        _ => None,
    })
}

/// Requests and first ids of the publishes that were answered.
fn acked(effects: &[(Effect, Vec<u8>)]) -> Vec<(u64, u64)> {
    let acked = effects.iter().filter_map(|(effect, _)| match effect {
        Effect::PublishAcked(acked) => Some((acked.seq, acked.first_id.0)),
        _ => None,
    });
    acked.collect()
}

/// Ready again at once.
fn give_up() -> Settlement {
    Settlement::Nack { delay_ms: Some(0), error: "".into(), reject: false }
}

/// Publishes with these ids and returns the id of the first message, or why not.
fn publish(world: &mut World, conn: ConnKey, queue: &str, ids: &[&str]) -> Result<u64, Refused> {
    publish_ids(world, conn, queue, ids, &[]);
    let effects = world.commit();
    refusal(&effects).map_or_else(|| Ok(acked(&effects)[0].1), Err)
}

fn lease_all(world: &mut World, conn: ConnKey, queue: &str) -> Vec<LeaseId> {
    world.subscribe(conn, 1, queue, 100);
    let effects = world.commit();
    deliveries(&effects).into_iter().map(|(deliver, _)| deliver.lease).collect()
}

fn records_of(world: &World, kind: u8) -> usize {
    world.journal.records.values().filter(|(_, record)| record[0] & 0x1f == kind).count()
}

fn lost_of(effects: &[(Effect, Vec<u8>)]) -> Vec<LeaseId> {
    let lost = effects.iter().filter_map(|(effect, _)| match effect {
        Effect::LeasesLost(refused) => Some(refused.lost.to_vec()),
        _ => None,
    });
    lost.flatten().collect()
}

#[test]
fn an_id_is_answered_with_the_first_message_whatever_became_of_it_until_its_window_ends() {
    let mut world = World::new();
    world.set("jobs", &[("dedup_window", "10s")]);
    let conn = world.attach("producer");
    let first = publish(&mut world, conn, "jobs", &["order 1"]).unwrap();
    assert_eq!(publish(&mut world, conn, "jobs", &["order 1"]), Ok(first));
    assert_ne!(publish(&mut world, conn, "other", &["order 1"]), Ok(first), "ids are a queue's own");
    assert_eq!(world.stats("jobs").ready, 1);
    for lease in lease_all(&mut world, conn, "jobs") {
        world.settle(conn, &[lease], Settlement::Ack);
    }
    world.commit();
    assert_eq!(publish(&mut world, conn, "jobs", &["order 1"]), Ok(first), "done is no reason to forget");
    world.advance(Duration::from_millis(9_999));
    assert_eq!(publish(&mut world, conn, "jobs", &["order 1"]), Ok(first));
    world.advance(Duration::from_millis(1));
    let second = publish(&mut world, conn, "jobs", &["order 1"]).unwrap();
    assert!(second > first);
    assert_eq!(world.metrics.dedup_hits.value(), 3);
}

#[test]
fn ids_survive_restarts_torn_ends_and_compactions_and_keep_no_body_alive() {
    for how in 0..4 {
        let mut world = World::new();
        world.set("jobs", &[("dedup_window", "1m")]);
        let conn = world.attach("producer");
        let first = publish(&mut world, conn, "jobs", &["a", "b", "c"]).unwrap();
        let leases = lease_all(&mut world, conn, "jobs");
        world.settle(conn, &leases, Settlement::Ack);
        world.commit();
        world.advance(Duration::from_secs(5));
        let last = publish(&mut world, conn, "jobs", &["d"]).unwrap();
        world.commit();
        // What is left to keep is some bytes of their entries.
        assert!(world.brain.held_bytes() < 200, "{}", world.brain.held_bytes());
        match how {
            0 => {}
            1 => world.restart(0, Duration::from_secs(1)),
            2 => {
                world.compact(1000);
                assert_eq!(records_of(&world, 16), 2);
                world.restart(0, Duration::from_secs(1));
            }
            _ => {
                // The older ones behind the younger.
                world.compact(6);
                world.restart(0, Duration::from_secs(1));
                world.compact(1000);
                world.restart(0, Duration::from_secs(1));
            }
        }
        let conn = world.attach("producer");
        assert_eq!(publish(&mut world, conn, "jobs", &["b"]), Ok(first + 1), "{how}");
        assert_eq!(publish(&mut world, conn, "jobs", &["a", "b", "c"]), Ok(first), "{how}");
        assert_eq!(publish(&mut world, conn, "jobs", &["d"]), Ok(last), "{how}");
        world.advance(Duration::from_secs(56));
        assert!(publish(&mut world, conn, "jobs", &["c"]).unwrap() > last, "{how}: it has expired");
        assert_eq!(publish(&mut world, conn, "jobs", &["d"]), Ok(last), "{how}: it has not");
    }
}

#[test]
fn ids_expire_over_a_restart_and_leave_no_queue_behind() {
    let mut world = World::new();
    let conn = world.attach("producer");
    publish(&mut world, conn, "jobs", &["a"]).unwrap();
    let leases = lease_all(&mut world, conn, "jobs");
    world.settle(conn, &leases, Settlement::Ack);
    world.detach(conn, true);
    world.commit();
    assert_eq!((world.brain.queues.slab.len(), world.metrics.dedup_ids.value()), (1, 1));
    world.restart(0, Duration::from_secs(200));
    assert_eq!((world.brain.queues.slab.len(), world.metrics.dedup_ids.value()), (1, 1));
    let deadline = world.brain.forgetting.next().unwrap();
    assert!(deadline <= world.now.time + Duration::from_secs(101), "somebody forgets them");
    world.restart(0, Duration::from_secs(100));
    assert_eq!((world.brain.queues.slab.len(), world.metrics.dedup_ids.value()), (0, 0));
    let conn = world.attach("producer");
    publish(&mut world, conn, "jobs", &["a"]).unwrap();
    let leases = lease_all(&mut world, conn, "jobs");
    world.settle(conn, &leases, Settlement::Ack);
    world.detach(conn, true);
    world.advance(Duration::from_secs(301));
    assert_eq!((world.brain.queues.slab.len(), world.metrics.dedup_ids.value()), (0, 0));
}

#[test]
fn a_changed_window_is_for_new_ids_and_both_hold_after_a_restart() {
    let mut world = World::new();
    world.set("jobs", &[("dedup_window", "100s")]);
    let conn = world.attach("producer");
    let long = publish(&mut world, conn, "jobs", &["long"]).unwrap();
    world.set("jobs", &[("dedup_window", "10s")]);
    let short = publish(&mut world, conn, "jobs", &["short"]).unwrap();
    world.restart(0, Duration::from_secs(9));
    let conn = world.attach("producer");
    assert_eq!(publish(&mut world, conn, "jobs", &["long"]), Ok(long));
    assert_eq!(publish(&mut world, conn, "jobs", &["short"]), Ok(short));
    world.advance(Duration::from_secs(1));
    assert!(publish(&mut world, conn, "jobs", &["short"]).unwrap() > short);
    world.advance(Duration::from_secs(89));
    assert_eq!(publish(&mut world, conn, "jobs", &["long"]), Ok(long));
    world.compact(1000);
    world.restart(0, Duration::from_secs(1));
    let conn = world.attach("producer");
    assert!(publish(&mut world, conn, "jobs", &["long"]).unwrap() > long);
}

#[test]
fn a_batch_is_new_or_a_known_one_and_nothing_between() {
    let mut world = World::new();
    let conn = world.attach("producer");
    let first = publish(&mut world, conn, "jobs", &["a", "b"]).unwrap();
    for mixed in [&["b", "a"][..], &["a", "c"], &["c", "a"], &["a", "b", "c"], &["a", "a"], &["a", ""]] {
        let refused = publish(&mut world, conn, "jobs", mixed).unwrap_err();
        assert_eq!(refused.code, RefusalCode::Invalid);
        assert!(refused.text.contains("one by one"), "{mixed:?}: {}", refused.text);
    }
    let refused = publish(&mut world, conn, "jobs", &["x", "x"]).unwrap_err();
    assert!(refused.code == RefusalCode::Invalid && refused.text.contains("same deduplication id"));
    assert_eq!(publish(&mut world, conn, "jobs", &["a", "b"]), Ok(first));
    assert_eq!(publish(&mut world, conn, "jobs", &["b"]), Ok(first + 1));
    let mixed = publish(&mut world, conn, "jobs", &["c", "", "d"]).unwrap();
    assert_eq!(publish(&mut world, conn, "jobs", &["d"]), Ok(mixed + 2));
    assert_eq!(world.stats("jobs").ready, 5);
}

#[test]
fn a_full_table_refuses_and_names_the_setting() {
    let mut world = World::new();
    world.set("jobs", &[("dedup_ids_max", "2"), ("dedup_window", "10s")]);
    let conn = world.attach("producer");
    let first = publish(&mut world, conn, "jobs", &["a", "b"]).unwrap();
    let refused = publish(&mut world, conn, "jobs", &["c"]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::LimitReached);
    assert!(refused.text.contains("dedup_ids_max"), "{}", refused.text);
    assert_eq!(refused.retry_after_ms, 10_000, "when the first one is forgotten");
    assert_eq!(publish(&mut world, conn, "jobs", &["a"]), Ok(first), "what it knows it still answers");
    world.publish(conn, "jobs", &["without an id"]);
    world.commit();
    assert_eq!(world.stats("jobs").ready, 3);
    // Also before the timer comes by.
    world.now.time = world.now.time + Duration::from_secs(10);
    assert!(publish(&mut world, conn, "jobs", &["c"]).is_ok());
}

#[test]
fn the_answer_to_a_duplicate_waits_for_the_commit_of_the_first() {
    let mut world = World::new();
    let conn = world.attach("producer");
    publish_ids(&mut world, conn, "jobs", &["a"], &[]);
    publish_ids(&mut world, conn, "jobs", &["a"], &[]);
    assert!(acked(&world.released()).is_empty());
    let answers = acked(&world.commit());
    assert_eq!(answers.iter().map(|&(_, id)| id).collect::<Vec<_>>(), [answers[0].1; 2]);
    publish_ids(&mut world, conn, "jobs", &["a"], &[]);
    assert_eq!(acked(&world.released()).len(), 1, "and for nothing after it");
}

#[test]
fn a_parked_duplicate_is_answered_with_the_one_that_was_parked_before_it() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "1")]);
    let conn = world.attach("producer");
    world.publish(conn, "jobs", &["full"]);
    publish_ids(&mut world, conn, "jobs", &["a"], &[]);
    publish_ids(&mut world, conn, "jobs", &["a"], &[]);
    world.commit();
    let worker = world.attach("worker");
    let mut answers = Vec::new();
    world.subscribe(worker, 1, "jobs", 1);
    for _ in 0..3 {
        let effects = world.commit();
        answers.extend(acked(&effects));
        for (deliver, _) in deliveries(&effects) {
            world.settle(worker, &[deliver.lease], Settlement::Ack);
        }
    }
    answers.extend(acked(&world.commit()));
    let ids: Vec<u64> = answers.iter().map(|&(_, id)| id).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    assert_eq!(world.stats("jobs").ready, 0, "it was there once");
}

#[test]
fn an_operators_publish_knows_the_ids_too() {
    let mut world = World::new();
    let conn = world.attach("producer");
    let first = publish(&mut world, conn, "jobs", &["a"]).unwrap();
    let (header, body) = with_id("a", "by hand");
    let reply =
        world.operate(OperatorRequest::Publish { namespace: tenant(), queue: name("jobs"), header, body });
    assert!(matches!(reply, OperatorReply::Published(id) if id.0 == first), "{reply:?}");
    let (header, body) = with_id("b", "by hand");
    let reply =
        world.operate(OperatorRequest::Publish { namespace: tenant(), queue: name("jobs"), header, body });
    assert!(matches!(reply, OperatorReply::Published(id) if id.0 == first + 1), "{reply:?}");
    assert_eq!(publish(&mut world, conn, "jobs", &["b"]), Ok(first + 1));
}

/// Whatever is torn off, the work is in one of the two queues, once.
#[test]
fn an_ack_and_its_publish_are_one_step_however_it_is_torn() {
    for torn in 0..3 {
        let mut world = World::new();
        let conn = world.attach("worker");
        world.publish(conn, "raw", &["one", "two"]);
        let leases = lease_all(&mut world, conn, "raw");
        world.commit();
        let before = world.journal.records.len();
        let header = MessageHeader { priority: 4, ..Default::default() };
        let producer = ProducerSequence { producer: ProducerId(5), sequence: 1, unanswered_from: 1 };
        let batch = [(header, &b"both"[..]), (header, b"of them")];
        world.publish_acking(conn, "done", Some(producer), &leases, &batch);
        assert_eq!(world.journal.records.len(), before + 1, "one record");
        if torn == 2 {
            let effects = world.commit();
            assert_eq!(acked(&effects).len(), 1);
        }
        world.restart(torn.min(1), Duration::from_secs(0));
        let (raw, done) = (world.stats("raw").ready, world.stats("done").ready);
        assert_eq!((raw, done), if torn == 0 { (2, 0) } else { (0, 2) }, "torn {torn}");
        // The producer comes back and has no answer: it is neither lost nor doubled.
        let conn = world.attach("worker");
        world.publish_acking(conn, "done", Some(producer), &leases, &batch);
        let effects = world.commit();
        assert_eq!((acked(&effects).len(), lost_of(&effects).len()), (1, 0));
        assert_eq!((world.stats("raw").ready, world.stats("done").ready), (0, 2));
    }
}

#[test]
fn a_lost_lease_stops_all_of_it_and_is_named() {
    let mut world = World::new();
    let (first, second) = (world.attach("first"), world.attach("second"));
    world.publish(first, "raw", &["one", "two", "three"]);
    let leases = lease_all(&mut world, first, "raw");
    world.settle(first, &leases[1..2], give_up());
    assert_eq!(deliveries(&world.commit()).len(), 1, "the message is delivered again");
    let header = MessageHeader { priority: 4, ..Default::default() };
    let before = world.journal.records.len();
    world.publish_acking(first, "done", None, &leases, &[(header, b"all three")]);
    let effects = world.released();
    assert_eq!(lost_of(&effects), leases[1..2]);
    assert_eq!(world.journal.records.len(), before, "nothing is written");
    // Another client's lease is none of one's own.
    world.publish_acking(second, "done", None, &leases[..1], &[(header, b"stolen")]);
    assert_eq!(lost_of(&world.released()), leases[..1]);
    // A lease that is named twice counts once.
    world.publish_acking(
        first,
        "done",
        None,
        &[leases[0], leases[2], leases[0]],
        &[(header, b"two of them")],
    );
    assert_eq!(acked(&world.commit()).len(), 1);
    assert_eq!((world.stats("raw").leased, world.stats("done").ready), (1, 1));
    assert_eq!((world.metrics.acks.value(), world.metrics.leases_lost.value()), (2, 2));
}

#[test]
fn credit_comes_back_with_the_answer() {
    let mut world = World::new();
    let conn = world.attach("worker");
    world.publish(conn, "raw", &["one", "two"]);
    world.subscribe(conn, 1, "raw", 1);
    let effects = world.commit();
    let leases: Vec<_> = deliveries(&effects).into_iter().map(|(deliver, _)| deliver.lease).collect();
    assert_eq!(leases.len(), 1);
    let header = MessageHeader { priority: 4, ..Default::default() };
    world.publish_acking(conn, "done", None, &leases, &[(header, b"one")]);
    assert!(deliveries(&world.released()).is_empty());
    let effects = world.commit();
    assert_eq!((acked(&effects).len(), deliveries(&effects).len()), (1, 1));
}

/// A worker with a lease of "raw", which it wants to pass on to "done", which is full; and someone else.
fn parked_with_its_lease() -> (World, ConnKey, ConnKey, Vec<LeaseId>) {
    let mut world = World::new();
    world.set("done", &[("messages_max", "1")]);
    let (conn, other) = (world.attach("worker"), world.attach("other"));
    world.publish(conn, "raw", &["one"]);
    world.publish(conn, "done", &["full"]);
    let leases = lease_all(&mut world, conn, "raw");
    world.publish_acking(conn, "done", None, &leases, &[(PLAIN, b"next")]);
    assert!(acked(&world.commit()).is_empty());
    assert_eq!((world.stats("done").parked, world.stats("raw").leased), (1, 1));
    (world, conn, other, leases)
}

const PLAIN: MessageHeader =
    MessageHeader { priority: 4, delay_ms: 0, due: Wall(0), ttl_ms: 0, attempts_max: 0, has_options: false };

/// Takes what is in "done" and acks it.
fn make_room(world: &mut World, other: ConnKey) -> Vec<(Effect, Vec<u8>)> {
    let taken = lease_all(world, other, "done");
    assert_eq!(taken.len(), 1);
    world.settle(other, &taken, Settlement::Ack);
    world.commit()
}

#[test]
fn a_parked_publish_waits_as_long_as_its_leases_are_extended() {
    let (mut world, conn, other, leases) = parked_with_its_lease();
    let lease = world.config.work_queue.lease;
    for _ in 0..5 {
        world.settle(conn, &leases, Settlement::Extend { lease_ms: lease.as_millis() as u32 });
        world.advance(lease * 2 / 3);
    }
    assert_eq!((world.stats("done").parked, world.stats("raw").leased), (1, 1));
    let effects = make_room(&mut world, other);
    assert_eq!((acked(&effects).len(), lost_of(&effects).len()), (1, 0));
    assert_eq!((world.stats("done").parked, world.stats("raw").leased), (0, 0));
}

/// However a lease ends, what waits with it is refused and its client has its credit for something else.
#[test]
fn a_parked_publish_whose_lease_ends_waits_no_more() {
    for way in ["expired", "nacked", "acked"] {
        let (mut world, conn, other, leases) = parked_with_its_lease();
        match way {
            "expired" => world.advance(world.config.work_queue.lease),
            "nacked" => _ = world.settle(conn, &leases, give_up()),
            _ => _ = world.settle(conn, &leases, Settlement::Ack),
        }
        let effects = world.commit();
        assert_eq!(lost_of(&effects), leases, "{way}");
        assert_eq!(world.stats("done").parked, 0, "{way}");
        assert!(acked(&make_room(&mut world, other)).is_empty(), "{way}");
        assert_eq!(world.stats("done").ready, 0, "{way}");
    }
}

#[test]
fn what_would_have_to_wait_with_a_lease_that_is_over_is_refused() {
    for is_full in [true, false] {
        let mut world = World::new();
        world.set("done", &[("messages_max", "1")]);
        let conn = world.attach("worker");
        world.publish(conn, "raw", &["one"]);
        if is_full {
            world.publish(conn, "done", &["full"]);
        }
        let leases = lease_all(&mut world, conn, "raw");
        world.advance(world.config.work_queue.lease);
        world.publish_acking(conn, "done", None, &leases, &[(PLAIN, b"next")]);
        let effects = world.commit();
        // Where nobody waits, an ack that comes late still counts.
        assert_eq!((acked(&effects).len(), lost_of(&effects).len()), if is_full { (0, 1) } else { (1, 0) });
        assert_eq!(world.stats("done").parked, 0);
    }
}

/// Two queues that are full and a worker of each, who passes on to the other: they do not wait for each other for ever.
#[test]
fn workers_between_full_queues_get_their_credit_back() {
    let mut world = World::new();
    world.set("a", &[("messages_max", "2")]);
    world.set("b", &[("messages_max", "2")]);
    let (left, right) = (world.attach("left"), world.attach("right"));
    world.publish(left, "a", &["one", "two"]);
    world.publish(left, "b", &["one", "two"]);
    for (conn, from, to) in [(left, "a", "b"), (right, "b", "a")] {
        for lease in lease_all(&mut world, conn, from) {
            world.publish_acking(conn, to, None, &[lease], &[(PLAIN, b"x")]);
        }
    }
    assert!(acked(&world.commit()).is_empty());
    assert_eq!(world.brain.parked.len(), 4);
    world.advance(world.config.work_queue.lease);
    assert!(world.brain.parked.is_empty());
    assert_eq!((world.stats("a").parked, world.stats("b").parked), (0, 0));
}

/// What acks as much of the namespace as it takes is not what fills it.
#[test]
fn a_full_namespace_lets_messages_pass_from_queue_to_queue() {
    let mut world = World::new();
    let (conn, other, producer) = (world.attach("worker"), world.attach("other"), world.attach("producer"));
    world.set("done", &[("messages_max", "1")]);
    world.publish(conn, "raw", &["one", "two", "three"]);
    let leases = lease_all(&mut world, conn, "raw");
    let changes = vec![("messages_max".to_owned(), Some("3".to_owned()))];
    world.operate(OperatorRequest::NamespaceSet { namespace: tenant(), changes });
    // Into an empty queue, past one who waits for the namespace.
    world.publish(producer, "done", &["waits"]);
    world.publish_acking(conn, "done", None, &leases[..1], &[(PLAIN, b"passes")]);
    let effects = world.commit();
    assert_eq!(acked(&effects).len(), 1);
    assert_eq!((world.stats("done").parked, world.stats("done").ready), (1, 1));
    // Two that take more than they give wait; one that waits for its queue's own room goes on before who waits for the
    // namespace.
    let both = [(PLAIN, &b"too"[..]), (PLAIN, b"many")];
    world.publish_acking(conn, "other", None, &leases[1..2], &both);
    world.publish_acking(conn, "done", None, &leases[2..], &[(PLAIN, b"passes too")]);
    assert!(acked(&world.commit()).is_empty());
    assert_eq!((world.stats("done").parked, world.stats("other").parked), (2, 1));
    world.publish(producer, "raw", &["takes what becomes free"]);
    let taken = lease_all(&mut world, other, "done");
    let changes = vec![("messages_max".to_owned(), Some("2".to_owned()))];
    world.operate(OperatorRequest::NamespaceSet { namespace: tenant(), changes });
    world.settle(other, &taken, Settlement::Ack);
    let effects = world.commit();
    assert_eq!((acked(&effects).len(), lost_of(&effects).len()), (1, 0), "{effects:?}");
    assert_eq!((world.stats("done").parked, world.stats("raw").leased), (1, 1));
}

#[test]
fn a_message_that_takes_the_place_of_what_it_was_made_of_has_its_room() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "2")]);
    let (conn, producer) = (world.attach("worker"), world.attach("producer"));
    world.publish(conn, "jobs", &["a", "b"]);
    let leases = lease_all(&mut world, conn, "jobs");
    let header = MessageHeader { priority: 4, ..Default::default() };
    // Before it, others wait for room; what it takes is its own.
    world.publish(producer, "jobs", &["waiting"]);
    world.publish_acking(conn, "jobs", None, &leases[..1], &[(header, b"A")]);
    let effects = world.commit();
    assert_eq!(acked(&effects).len(), 1);
    // What takes more would wait for its own acks.
    world.publish_acking(conn, "jobs", None, &leases[1..], &[(header, b"B"), (header, b"C")]);
    let refused = refusal(&world.released()).unwrap();
    assert_eq!(refused.code, RefusalCode::QueueFull);
    assert_eq!(world.stats("jobs").leased, 2, "nothing was acked");
}

#[test]
fn a_duplicate_acks_what_it_was_made_of() {
    let mut world = World::new();
    let conn = world.attach("worker");
    let first = publish(&mut world, conn, "done", &["one"]).unwrap();
    world.publish(conn, "raw", &["one"]);
    let leases = lease_all(&mut world, conn, "raw");
    for _ in 0..2 {
        // The second time the lease is over, which changes nothing.
        publish_ids(&mut world, conn, "done", &["one"], &leases);
        assert!(acked(&world.commit()).iter().any(|&(_, id)| id == first));
        assert_eq!((world.stats("raw").leased, world.stats("done").ready), (0, 1));
    }
    world.restart(0, Duration::from_secs(0));
    assert_eq!(world.stats("raw").ready, 0);
}

#[test]
fn a_topic_acks_nothing() {
    let mut world = World::new();
    let conn = world.attach("worker");
    world.publish(conn, "raw", &["one"]);
    let leases = lease_all(&mut world, conn, "raw");
    let header = MessageHeader { priority: 4, ..Default::default() };
    world.publish_acking(conn, "topic/news", None, &leases, &[(header, b"news")]);
    let refused = refusal(&world.released()).unwrap();
    assert_eq!(refused.code, RefusalCode::Invalid);
    assert_eq!(world.stats("raw").leased, 1);
}

/// A batch is in one record, whose checksum is over all of it: a torn one is none.
#[test]
fn of_a_batch_all_messages_appear_or_none() {
    for torn in 0..2 {
        let mut world = World::new();
        let conn = world.attach("producer");
        let before = world.journal.records.len();
        world.publish(conn, "jobs", &["one", "two", "three"]);
        assert_eq!(world.journal.records.len(), before + 1);
        world.restart(torn, Duration::ZERO);
        assert_eq!(world.stats("jobs").ready, 3 * torn as u64);
    }
    // Half a record is no record, wherever it ends.
    let mut world = World::new();
    let conn = world.attach("producer");
    world.publish(conn, "jobs", &["one", "two", "three"]);
    let (_, record) = world.journal.records.values().last().unwrap().clone();
    for end in 0..record.len() {
        assert!(crate::queue::record::decode(&record[..end]).is_err(), "{end} of {} bytes", record.len());
    }
}

/// A message that makes room is one dead letter more, and the one too many may be what is acked.
#[test]
fn a_dead_letter_that_is_forgotten_for_a_publish_which_acks_it_late_is_done_once() {
    let mut world = World::new();
    world.set(
        "jobs",
        &[("messages_max", "1"), ("dead_messages_max", "1"), ("when_full", "dead_letter_oldest")],
    );
    let conn = world.attach("worker");
    world.publish(conn, "jobs", &["dead"]);
    let leases = lease_all(&mut world, conn, "jobs");
    let reject = Settlement::Nack { delay_ms: None, error: "".into(), reject: true };
    world.settle(conn, &leases, reject);
    let seq = world.seq();
    world.command(Command::Unsubscribe { conn, seq, subscription: SubscriptionId(1) });
    world.publish(conn, "jobs", &["makes room"]);
    world.publish_acking(conn, "jobs", None, &leases, &[(PLAIN, b"next")]);
    assert_eq!(acked(&world.commit()).len(), 2);
    assert_eq!((world.stats("jobs").ready, world.stats("jobs").dead), (1, 1));
    world.compact(100);
    world.restart(0, Duration::ZERO);
    assert_eq!((world.stats("jobs").ready, world.stats("jobs").dead), (1, 1));
}
