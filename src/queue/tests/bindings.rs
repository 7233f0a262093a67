//! Topics that reach queues and mailboxes.

use prost::Message as _;

use super::*;
use crate::limits::{FANOUT_MESSAGES_MAX, FANOUT_QUEUES_MAX, FILTER_LOOKS_MAX};
use crate::message::{event_message, message_header};
use crate::queue::WhenFull;
use crate::queue::record::{self, Record};
use crate::wire::proto;

fn spec(pattern: &str, filter: &str, to: &str) -> BindingSpec {
    BindingSpec { name: None, pattern: pattern.into(), filter: filter.into(), to: name(to), when_full: None }
}

fn try_bind(world: &mut World, binding: BindingSpec) -> Result<BindingRow, Refused> {
    match world.operate(OperatorRequest::Bind { namespace: tenant(), binding }) {
        OperatorReply::Bindings(mut rows) => Ok(rows.remove(0)),
        OperatorReply::Refused(refused) => Err(refused),
        other => panic!("{other:?}"),
    }
}

fn bind(world: &mut World, pattern: &str, filter: &str, to: &str) -> BindingRow {
    try_bind(world, spec(pattern, filter, to)).unwrap()
}

fn unbind(world: &mut World, name: &str) -> u64 {
    match world.operate(OperatorRequest::Unbind { namespace: tenant(), name: name.into() }) {
        OperatorReply::Changed(count) => count,
        other => panic!("{other:?}"),
    }
}

fn rows(world: &mut World) -> Vec<BindingRow> {
    match world.operate(OperatorRequest::Bindings { namespace: tenant(), after: None, limit: 100 }) {
        OperatorReply::Bindings(rows) => rows,
        other => panic!("{other:?}"),
    }
}

fn encoded(payload: &str, attributes: &[(&str, &str)]) -> Vec<u8> {
    event_message(attributes, payload.as_bytes())
}

fn payload_of(body: &str) -> String {
    // A field of fewer than 128 bytes comes first.
    let len = usize::from(body.as_bytes()[1]);
    body[2..2 + len].to_owned()
}

/// A producer's sequence.
fn sequence(sequence: u64, unanswered_from: u64) -> Option<ProducerSequence> {
    Some(ProducerSequence { producer: ProducerId(9), sequence, unanswered_from })
}

fn publish_all(
    world: &mut World,
    conn: ConnKey,
    topic: &str,
    producer: Option<ProducerSequence>,
    bodies: &[Vec<u8>],
) -> u64 {
    let header = MessageHeader { priority: 4, ..Default::default() };
    let messages: Vec<_> = bodies.iter().map(|body| (header, body.as_slice())).collect();
    world.publish_with(conn, &format!("topic/{topic}"), producer, &messages)
}

fn publish(world: &mut World, conn: ConnKey, topic: &str, payload: &str, attributes: &[(&str, &str)]) -> u64 {
    publish_all(world, conn, topic, None, &[encoded(payload, attributes)])
}

type Answer = Result<(u64, u64), RefusalCode>;

/// What answers to publishes to topics say: the request, the first id and how many took it, or why not.
fn answers(effects: &[(Effect, Vec<u8>)]) -> Vec<(u64, Answer)> {
    effects
        .iter()
        .filter_map(|(effect, _)| match effect {
            Effect::Broadcasted(answer) => Some((answer.seq, Ok((answer.first_id.0, answer.subscribers)))),
            Effect::PublishRefused { seq, refused, .. } => Some((*seq, Err(refused.code))),
            _ => None,
        })
        .collect()
}

/// Everything a queue holds, taken and acked.
fn drain(world: &mut World, client: &str, queue: &str) -> Vec<String> {
    let conn = world.attach(client);
    world.subscribe(conn, 1, queue, 100);
    let mut payloads = Vec::new();
    loop {
        let taken = deliveries(&world.commit());
        if taken.is_empty() {
            break;
        }
        let leases: Vec<LeaseId> = taken.iter().map(|(deliver, _)| deliver.lease).collect();
        payloads.extend(taken.iter().map(|(_, body)| payload_of(body)));
        world.settle(conn, &leases, Settlement::Ack);
    }
    world.commit();
    world.detach(conn, true);
    world.commit();
    payloads
}

fn waiting(world: &mut World, queue: &str) -> u64 {
    let stats = world.stats(queue);
    stats.ready + stats.scheduled + stats.leased + stats.blocked
}

#[test]
fn a_publish_is_one_record_and_each_bound_queue_has_its_message() {
    let mut world = World::new();
    for (pattern, filter, to) in [
        ("orders.*.created", "", "audit"),
        ("orders.>", "region = 'eu'", "europe"),
        ("orders.>", "total > 100", "device/desk"),
        ("orders.us.*", "", "america"),
        // The same queue again: it gets the message once.
        (">", "", "audit"),
    ] {
        bind(&mut world, pattern, filter, to);
    }
    let conn = world.attach("shop");
    world.commit();
    let (records, payload) = (world.journal.records.len(), "x".repeat(100));
    let seq = publish(&mut world, conn, "orders.eu.created", &payload, &[("region", "eu"), ("total", "7")]);
    assert_eq!(answers(&world.released()), [], "not before it is durable");
    let published: Vec<Vec<u8>> =
        world.journal.records.values().skip(records).map(|(_, r)| r.clone()).collect();
    assert_eq!(published.len(), 1, "one record");
    let of_payload = published[0].windows(100).filter(|bytes| *bytes == payload.as_bytes()).count();
    assert_eq!(of_payload, 1, "with the body once");
    let answered = answers(&world.commit());
    let [(answered_seq, Ok((first_id, 2)))] = answered[..] else { panic!("{answered:?}") };
    assert!(answered_seq == seq && first_id > 0);
    assert_eq!(drain(&mut world, "a", "audit"), [payload.as_str()]);
    assert_eq!(drain(&mut world, "b", "europe"), [payload.as_str()]);
    assert_eq!((waiting(&mut world, "device/desk"), waiting(&mut world, "america")), (0, 0));
    assert_eq!(world.metrics.fanout_copies.value(), 2);
    assert_eq!(rows(&mut world).iter().map(|row| row.taken).sum::<u64>(), 3);
}

#[test]
fn nobody_is_bound_and_all_is_as_it_was() {
    let mut world = World::new();
    bind(&mut world, "orders.>", "", "audit");
    let conn = world.attach("shop");
    world.commit();
    let records = world.journal.records.len();
    // Producers' sequences are ignored, for nothing is kept; the answer waits for nothing.
    for sequence in [1, 1] {
        let producer = Some(ProducerSequence { producer: ProducerId(9), sequence, unanswered_from: 1 });
        publish_all(&mut world, conn, "news", producer, &[encoded("x", &[])]);
        assert!(matches!(answers(&world.released())[..], [(_, Ok((0, 0)))]));
    }
    assert_eq!(world.journal.records.len(), records);
    let header = MessageHeader { delay_ms: 5, ..Default::default() };
    world.publish_with(conn, "topic/news", None, &[(header, b"")]);
    assert!(matches!(answers(&world.released())[..], [(_, Err(RefusalCode::Invalid))]));
    // With a queue that keeps it, it may wait.
    world.publish_with(conn, "topic/orders.x", None, &[(header, b"")]);
    assert!(matches!(answers(&world.commit())[..], [(_, Ok((_, 1)))]));
    assert_eq!(world.stats("audit").scheduled, 1);
}

#[test]
fn messages_of_a_batch_go_where_each_belongs() {
    let mut world = World::new();
    bind(&mut world, "t", "kind = 'a'", "as");
    bind(&mut world, "t", "kind exists", "all");
    let conn = world.attach("shop");
    world.commit();
    let batch: Vec<Vec<u8>> = [("1", "a"), ("2", "b"), ("3", ""), ("4", "a")]
        .iter()
        .map(
            |(payload, kind)| {
                if kind.is_empty() { encoded(payload, &[]) } else { encoded(payload, &[("kind", kind)]) }
            },
        )
        .collect();
    publish_all(&mut world, conn, "t", sequence(1, 1), &batch);
    assert!(matches!(answers(&world.commit())[..], [(_, Ok((_, 2)))]));
    world.restart(0, Duration::ZERO);
    world.compact(100);
    world.restart(0, Duration::ZERO);
    assert_eq!(drain(&mut world, "a", "as"), ["1", "4"]);
    assert_eq!(drain(&mut world, "b", "all"), ["1", "2", "4"]);
}

#[test]
fn bindings_and_copies_survive_restarts_and_compaction() {
    let mut world = World::new();
    bind(&mut world, "t.*", "n < 5", "a");
    let named =
        BindingSpec { name: Some("second".into()), when_full: Some(TargetFull::Drop), ..spec(">", "", "b") };
    try_bind(&mut world, named.clone()).unwrap();
    // In place of what it was.
    try_bind(&mut world, BindingSpec { pattern: "t.>".into(), ..named }).unwrap();
    bind(&mut world, "gone", "", "c");
    assert_eq!((unbind(&mut world, "gone:c"), unbind(&mut world, "gone:c")), (1, 0));
    let before = rows(&mut world);
    assert_eq!(before.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["second", "t.*:a"]);
    let conn = world.attach("shop");
    publish(&mut world, conn, "t.x", "one", &[("n", "3")]);
    world.commit();
    for _ in 0..3 {
        world.restart(0, Duration::from_secs(1));
        assert_eq!(rows(&mut world), before);
        world.compact(usize::MAX);
    }
    // Twice relocated, the copies still share one record.
    let shared = world.journal.records.values().filter(
        |(_, bytes)| matches!(record::decode(bytes), Ok(Record::Copies(copies)) if copies.len() == 2),
    );
    assert_eq!(shared.count(), 1);
    assert_eq!(drain(&mut world, "a", "a"), ["one"]);
    world.compact(usize::MAX);
    world.restart(0, Duration::from_secs(1));
    assert_eq!(drain(&mut world, "b", "b"), ["one"], "one copy is done, the other is not");
    let conn = world.attach("shop");
    publish(&mut world, conn, "t.y", "two", &[("n", "9")]);
    assert!(matches!(answers(&world.commit())[..], [(_, Ok((_, 1)))]));
}

#[test]
fn a_torn_record_leaves_all_copies_or_none() {
    for torn in [0, 1] {
        let mut world = World::new();
        bind(&mut world, "t", "", "a");
        bind(&mut world, "t", "", "b");
        let conn = world.attach("shop");
        world.commit();
        publish(&mut world, conn, "t", "x", &[]);
        world.restart(torn, Duration::ZERO);
        let held = (waiting(&mut world, "a"), waiting(&mut world, "b"));
        assert_eq!(held, (torn as u64, torn as u64));
    }
}

#[test]
fn a_publish_that_is_sent_again_is_in_each_queue_once() {
    let mut world = World::new();
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let conn = world.attach("shop");
    world.commit();
    let batch = [encoded("1", &[]), encoded("2", &[])];
    publish_all(&mut world, conn, "t", sequence(1, 1), &batch);
    let first = answers(&world.commit());
    publish_all(&mut world, conn, "t", sequence(1, 1), &batch);
    assert_eq!(answers(&world.commit())[0].1, first[0].1, "the same ids");
    world.restart(0, Duration::ZERO);
    world.compact(usize::MAX);
    world.restart(0, Duration::ZERO);
    let conn = world.attach("shop");
    publish_all(&mut world, conn, "t", sequence(1, 1), &batch);
    assert_eq!(answers(&world.commit())[0].1, first[0].1);
    // Also when nobody is bound any more.
    unbind(&mut world, "t:a");
    unbind(&mut world, "t:b");
    publish_all(&mut world, conn, "t", sequence(1, 1), &batch);
    assert!(matches!(answers(&world.commit())[..], [(_, Ok((id, 0)))] if Ok((id, 2)) == first[0].1));
    assert_eq!((waiting(&mut world, "a"), waiting(&mut world, "b")), (2, 2));
    bind(&mut world, "t", "", "a");
    publish_all(&mut world, conn, "t", sequence(2, 2), &batch);
    assert!(matches!(answers(&world.commit())[..], [(_, Err(RefusalCode::Invalid))]), "another batch");
}

/// A world in which queues hold one message.
fn narrow(when_full: WhenFull) -> World {
    let mut config = QueueConfig::default();
    (config.work_queue.messages_max, config.work_queue.when_full) = (1, when_full);
    config.mailbox.messages_max = 1;
    World::with(config)
}

#[test]
fn a_queue_that_waits_holds_the_publish_and_what_follows_it() {
    let mut world = narrow(WhenFull::Wait);
    bind(&mut world, "t.*", "", "slow");
    bind(&mut world, "t.both", "", "fast");
    bind(&mut world, "t.other", "", "other");
    unbind(&mut world, "t.*:slow");
    bind(&mut world, "t.both", "", "slow");
    let conn = world.attach("shop");
    world.publish(conn, "slow", &["full"]);
    world.commit();
    let held = publish(&mut world, conn, "t.both", "first", &[]);
    let behind = publish(&mut world, conn, "t.other", "second", &[]);
    assert_eq!(answers(&world.commit()), []);
    assert_eq!((waiting(&mut world, "fast"), world.stats("slow").parked), (0, 2), "all or nothing, in order");
    // Another client's publishes are its own.
    let free = world.attach("free");
    publish(&mut world, free, "t.other", "elsewhere", &[]);
    assert_eq!(answers(&world.commit()).len(), 1);
    assert_eq!(drain(&mut world, "other", "other"), ["elsewhere"]);
    // As soon as there is room both go on.
    let worker = world.attach("worker");
    world.subscribe(worker, 1, "slow", 1);
    let full = deliveries(&world.commit());
    world.settle(worker, &[full[0].0.lease], Settlement::Ack);
    let answered: Vec<u64> = answers(&world.commit()).iter().map(|(seq, _)| *seq).collect();
    assert_eq!(answered, [held, behind]);
    assert_eq!((waiting(&mut world, "fast"), waiting(&mut world, "other")), (1, 1));
}

#[test]
fn a_publish_that_waits_moves_on_to_the_next_full_queue() {
    let mut world = narrow(WhenFull::Wait);
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let conn = world.attach("shop");
    world.publish(conn, "a", &["full"]);
    world.publish(conn, "b", &["full"]);
    world.commit();
    let first = publish(&mut world, conn, "t", "1", &[]);
    let second = publish(&mut world, conn, "t", "2", &[]);
    assert_eq!((world.stats("a").parked, world.stats("b").parked), (2, 0));
    let take = |world: &mut World, queue: &str| {
        let worker = world.attach(&format!("worker-{queue}"));
        world.subscribe(worker, 1, queue, 1);
        let taken = deliveries(&world.commit());
        world.settle(worker, &[taken[0].0.lease], Settlement::Ack);
        let effects = world.commit();
        world.detach(worker, true);
        answers(&effects).iter().map(|(seq, _)| *seq).collect::<Vec<_>>()
    };
    assert_eq!(take(&mut world, "a"), [] as [u64; 0]);
    assert_eq!((world.stats("a").parked, world.stats("b").parked), (0, 2), "in the same order");
    assert_eq!(take(&mut world, "b"), [first]);
    assert_eq!((waiting(&mut world, "a"), waiting(&mut world, "b")), (1, 1));
    // The queue that is waited for is not bound any more.
    let where_parked = if world.stats("a").parked == 1 { "t:a" } else { "t:b" };
    unbind(&mut world, where_parked);
    let other = if where_parked == "t:a" { "b" } else { "a" };
    assert_eq!(take(&mut world, other), [second]);
}

#[test]
fn two_that_wait_for_each_others_queues_both_come_through() {
    let mut world = narrow(WhenFull::Wait);
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let (one, two, filler) = (world.attach("one"), world.attach("two"), world.attach("filler"));
    world.publish(filler, "b", &["full"]);
    publish(&mut world, one, "t", "1", &[]);
    world.publish(filler, "a", &["full"]);
    publish(&mut world, two, "t", "2", &[]);
    world.commit();
    assert_eq!((world.stats("a").parked, world.stats("b").parked), (1, 1));
    let mut taken = Vec::new();
    for _ in 0..4 {
        for queue in ["a", "b"] {
            taken.extend(drain_raw(&mut world, queue));
        }
    }
    assert_eq!(taken.len(), 6, "{taken:?}");
    assert_eq!((world.stats("a").parked, world.stats("b").parked), (0, 0));
}

#[test]
fn what_waits_behind_in_the_same_line_is_not_waited_for_ahead_of_it() {
    let mut world = narrow(WhenFull::Wait);
    world.set("a", &[("messages_max", "2")]);
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let (shop, filler, worker) = (world.attach("shop"), world.attach("filler"), world.attach("bad"));
    world.subscribe(worker, 1, "x", 1);
    world.publish(filler, "x", &["dead"]);
    let taken = deliveries(&world.commit());
    let reject = Settlement::Nack { delay_ms: None, error: "no".into(), reject: true };
    world.settle(worker, &[taken[0].0.lease], reject);
    world.publish(filler, "a", &["one", "two"]);
    world.publish(filler, "b", &["full"]);
    publish(&mut world, shop, "t", "1", &[]);
    world.publish(filler, "a", &["large", "batch"]);
    publish(&mut world, shop, "t", "2", &[]);
    world.commit();
    // The first goes on to the other queue, and back when this one has been filled behind the batch.
    drain_raw(&mut world, "a");
    assert_eq!((world.stats("a").parked, world.stats("b").parked), (2, 1));
    let dead = world.dead("x")[0].id;
    redrive(&mut world, "x", dead, "a");
    drain_raw(&mut world, "b");
    assert_eq!((world.stats("a").parked, world.stats("b").parked), (3, 0));
    let mut of_b = Vec::new();
    for _ in 0..8 {
        drain_raw(&mut world, "a");
        of_b.extend(drain_raw(&mut world, "b").iter().map(|body| payload_of(body)));
    }
    assert_eq!(of_b, ["1", "2"]);
    assert_eq!((world.stats("a").parked, world.stats("b").parked), (0, 0));
}

#[test]
fn a_publish_whose_filters_are_too_much_work_is_refused() {
    let mut world = World::new();
    let tests = |from: usize| {
        let tests: Vec<String> = (from..from + 70).map(|number| format!("attr={number}")).collect();
        tests.join(" or ")
    };
    for number in 0..16 {
        bind(&mut world, "t", &tests(1000 * number), &format!("q{number}"));
    }
    let conn = world.attach("shop");
    let body = encoded("x", &[("attr", "5")]);
    // 1,120 tests of one attribute of each message.
    let most = FILTER_LOOKS_MAX / 1120;
    publish_all(&mut world, conn, "t", None, &vec![body.clone(); most]);
    assert_eq!(answers(&world.commit())[0].1.unwrap().1, 1);
    publish_all(&mut world, conn, "t", None, &vec![body; most + 1]);
    assert_eq!(answers(&world.commit())[0].1, Err(RefusalCode::LimitReached));
    assert_eq!(waiting(&mut world, "q0"), most as u64);
}

#[test]
fn a_publish_to_a_topic_that_only_a_rate_holds_up_is_told_so() {
    let mut world = World::new();
    world.set("a", &[("messages_max", "2"), ("publish_per_s", "2"), ("when_full", "dead_letter_oldest")]);
    bind(&mut world, "t", "", "a");
    let conn = world.attach("shop");
    for payload in ["1", "2", "3"] {
        publish(&mut world, conn, "t", payload, &[]);
    }
    let told: Vec<Answer> = answers(&world.commit()).into_iter().map(|(_, answer)| answer).collect();
    // Of want of room it would be told QueueFull.
    assert!(told.contains(&Err(RefusalCode::LimitReached)), "{told:?}");
    assert_eq!(world.stats("a").dead, 0);
}

#[test]
fn a_publish_to_a_topic_waits_for_its_queues_turn_in_the_namespace() {
    let mut world = World::new();
    let changes = vec![("messages_max".to_owned(), Some("2".to_owned()))];
    world.operate(OperatorRequest::NamespaceSet { namespace: tenant(), changes });
    bind(&mut world, "t", "", "a");
    let conn = world.attach("shop");
    world.publish(conn, "a", &["full"]);
    world.publish(conn, "other", &["full"]);
    world.commit();
    world.publish(conn, "other", &["of", "two"]);
    let topical = world.attach("topical");
    publish(&mut world, topical, "t", "second", &[]);
    assert_eq!((world.stats("other").parked, world.stats("a").parked), (1, 1));
    // There is room for one: it is kept for the two that came before.
    drain_raw(&mut world, "a");
    assert_eq!((world.stats("other").parked, world.stats("a").parked), (1, 1));
    drain_raw(&mut world, "other");
    assert_eq!((world.stats("other").parked, world.stats("a").parked), (0, 1));
    drain_raw(&mut world, "other");
    assert_eq!((world.stats("other").parked, world.stats("a").parked), (0, 0));
}

fn redrive(world: &mut World, from: &str, id: u64, to: &str) {
    let selection = DeadSelection::One(MessageId(id));
    let (queue, to) = (name(from), Some(name(to)));
    world.operate(OperatorRequest::DeadRedrive { namespace: tenant(), queue, selection, to, per_s: None });
}

fn drain_raw(world: &mut World, queue: &str) -> Vec<String> {
    let worker = world.attach("worker");
    world.subscribe(worker, 1, queue, 1);
    let taken = deliveries(&world.commit());
    let leases: Vec<LeaseId> = taken.iter().map(|(deliver, _)| deliver.lease).collect();
    if !leases.is_empty() {
        world.settle(worker, &leases, Settlement::Ack);
    }
    world.commit();
    world.detach(worker, true);
    taken.into_iter().map(|(_, body)| body).collect()
}

#[test]
fn a_queue_that_does_not_wait_misses_what_it_has_no_room_for() {
    let mut world = narrow(WhenFull::Wait);
    bind(&mut world, "t", "", "a");
    // A mailbox is not waited for unless it is asked for.
    let mailbox = bind(&mut world, "t", "", "device/d1");
    assert_eq!(mailbox.when_full, TargetFull::Drop);
    let conn = world.attach("shop");
    world.publish(conn, "device/d1", &["full"]);
    world.commit();
    publish(&mut world, conn, "t", "1", &[]);
    assert!(matches!(answers(&world.commit())[..], [(_, Ok((_, 1)))]));
    assert_eq!(waiting(&mut world, "device/d1"), 1);
    assert_eq!(world.metrics.fanout_missed.value(), 1);
    assert_eq!(
        rows(&mut world).iter().map(|row| (row.taken, row.dropped)).collect::<Vec<_>>(),
        [(1, 0), (0, 1)]
    );
}

#[test]
fn a_queue_that_rejects_rejects_the_publish() {
    let mut world = narrow(WhenFull::Reject);
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let conn = world.attach("shop");
    world.publish(conn, "b", &["full"]);
    world.commit();
    publish(&mut world, conn, "t", "1", &[]);
    assert!(matches!(answers(&world.commit())[..], [(_, Err(RefusalCode::QueueFull))]));
    assert_eq!(waiting(&mut world, "a"), 0, "all or nothing");
    publish_all(&mut world, conn, "t", None, &[encoded("1", &[]), encoded("2", &[])]);
    assert!(matches!(answers(&world.commit())[..], [(_, Err(RefusalCode::LimitReached))]), "it never fits");
}

#[test]
fn a_connection_that_ends_takes_its_waiting_publishes_along() {
    let mut world = narrow(WhenFull::Wait);
    bind(&mut world, "t", "", "a");
    let conn = world.attach("shop");
    world.publish(conn, "a", &["full"]);
    publish(&mut world, conn, "t", "1", &[]);
    world.commit();
    assert_eq!(world.stats("a").parked, 1);
    world.detach(conn, false);
    assert_eq!((world.stats("a").parked, world.metrics.parked_bytes.value()), (0, 0));
}

#[test]
fn what_is_connected_hears_of_it_when_it_is_durable() {
    let mut world = World::new();
    bind(&mut world, "t", "", "a");
    let conn = world.attach("shop");
    world.subscribe(conn, 1, "topic/t", 1);
    world.commit();
    publish(&mut world, conn, "t", "1", &[]);
    assert_eq!(world.released().len(), 0);
    let effects = world.commit();
    assert!(matches!(effects[0].0, Effect::Broadcast { .. }), "{effects:?}");
    assert!(matches!(answers(&effects)[..], [(_, Ok((_, 2)))]), "a subscription and a queue");
}

#[test]
fn a_queues_own_time_to_live_is_that_of_the_publish() {
    let mut world = World::new();
    world.set("a", &[("ttl", "10s")]);
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let conn = world.attach("shop");
    publish(&mut world, conn, "t", "1", &[]);
    world.commit();
    world.set("a", &[("ttl", "1h")]);
    world.restart(0, Duration::ZERO);
    world.advance(Duration::from_secs(11));
    assert_eq!((world.stats("a").dead, world.stats("b").dead), (1, 0));
}

#[test]
fn copies_keep_the_order_of_their_key_through_restarts() {
    let mut world = World::new();
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let conn = world.attach("shop");
    // Field 9, order_key.
    let body = |payload: &str| [encoded(payload, &[]), vec![9 << 3 | 2, 1, b'k']].concat();
    let header = MessageHeader { priority: 4, has_options: true, ..Default::default() };
    for payload in ["1", "2"] {
        world.publish_with(conn, "topic/t", None, &[(header, &body(payload))]);
    }
    world.commit();
    world.restart(0, Duration::ZERO);
    world.compact(usize::MAX);
    world.restart(0, Duration::ZERO);
    for queue in ["a", "b"] {
        assert_eq!(world.stats(queue).ready, 1, "one of a key at a time");
        assert_eq!(drain(&mut world, "w", queue), ["1", "2"]);
    }
}

#[test]
fn what_is_bound_badly_is_refused_with_its_place() {
    let mut world = World::new();
    for (binding, words) in [
        (spec("a..b", "", "q"), "column 3"),
        (spec("a.>.b", "", "q"), "column 3"),
        (spec("a", "region == 'eu'", "q"), "the filter at column 9"),
        (spec("a", "", "topic/b"), "is a topic"),
        (BindingSpec { name: Some(String::new()), ..spec("a", "", "q") }, "name has 1 to"),
        (spec(&"a".repeat(190), "", "q"), "at most 186"),
    ] {
        let refused = try_bind(&mut world, binding).unwrap_err();
        assert!(refused.code == RefusalCode::Invalid && refused.text.contains(words), "{refused:?}");
    }
    assert!(rows(&mut world).is_empty());
    let conn = world.attach("shop");
    for topic in ["a.*", "$sys.presence", ""] {
        publish(&mut world, conn, topic, "x", &[]);
        assert!(matches!(answers(&world.commit())[..], [(_, Err(RefusalCode::Invalid))]), "{topic}");
    }
}

#[test]
fn an_operator_publishes_to_a_topic_and_never_waits() {
    let mut world = narrow(WhenFull::Wait);
    bind(&mut world, "t", "", "a");
    let mut ask = || {
        let body = encoded("x", &[]);
        let header = MessageHeader::default();
        world.operate(OperatorRequest::Publish { namespace: tenant(), queue: name("topic/t"), header, body })
    };
    assert_eq!(ask(), OperatorReply::Broadcasted(1));
    assert!(matches!(ask(), OperatorReply::Refused(Refused { code: RefusalCode::QueueFull, .. })));
    assert_eq!(waiting(&mut world, "a"), 1);
}

#[test]
fn random_fanouts_restarts_and_compactions_lose_and_double_nothing() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        let queues = ["a", "b", "c", "d"];
        for (at, queue) in queues.iter().enumerate() {
            bind(&mut world, "t", &format!("n >= {at}"), queue);
        }
        let mut expected: HashMap<&str, Vec<String>> = HashMap::new();
        let mut number = 0;
        for _ in 0..60 {
            match random.u32(0..10) {
                0..4 => {
                    let conn = world.attach("shop");
                    let batch: Vec<(String, usize)> = (0..random.usize(1..4))
                        .map(|_| {
                            number += 1;
                            (format!("{number}-{}", "x".repeat(random.usize(0..20))), random.usize(0..5))
                        })
                        .collect();
                    let bodies: Vec<Vec<u8>> =
                        batch.iter().map(|(payload, n)| encoded(payload, &[("n", &n.to_string())])).collect();
                    publish_all(&mut world, conn, "t", sequence(number, number), &bodies);
                    number += 10;
                    assert_eq!(answers(&world.commit()).len(), 1);
                    for (at, queue) in queues.iter().enumerate() {
                        let taken =
                            batch.iter().filter(|(_, n)| *n >= at).map(|(payload, _)| payload.clone());
                        expected.entry(queue).or_default().extend(taken);
                    }
                }
                4..6 => {
                    let queue = queues[random.usize(0..4)];
                    assert_eq!(drain(&mut world, "w", queue), expected.remove(queue).unwrap_or_default());
                }
                6..9 => {
                    world.commit();
                    world.compact(random.usize(0..40));
                }
                _ => world.restart(0, Duration::from_millis(random.u64(0..3000))),
            }
        }
        for queue in queues {
            assert_eq!(
                drain(&mut world, "w", queue),
                expected.remove(queue).unwrap_or_default(),
                "seed {seed}"
            );
        }
    }
}

/// Publishes messages of these deduplication ids, each with its id as the payload.
fn publish_ids(world: &mut World, conn: ConnKey, to: &str, ids: &[&str]) -> Vec<(u64, Answer)> {
    let bodies: Vec<Vec<u8>> = ids
        .iter()
        .map(|id| {
            let (payload, dedup_id) = (id.as_bytes().to_vec(), (*id).to_owned());
            proto::Message { payload, dedup_id, ..Default::default() }.encode_to_vec()
        })
        .collect();
    let messages: Vec<_> =
        bodies.iter().map(|body| (message_header(body, body.len()).unwrap(), body.as_slice())).collect();
    world.publish_with(conn, to, None, &messages);
    answers(&world.commit())
}

#[test]
fn a_queue_that_knows_an_id_misses_its_copy() {
    let mut world = World::new();
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let conn = world.attach("shop");
    world.commit();
    publish_ids(&mut world, conn, "b", &["x"]);
    assert!(matches!(publish_ids(&mut world, conn, "topic/t", &["x", "y", "y"])[..], [(_, Ok((_, 2)))]));
    assert_eq!((waiting(&mut world, "a"), waiting(&mut world, "b")), (2, 2));
    assert_eq!(rows(&mut world).iter().map(|row| row.taken).collect::<Vec<_>>(), [2, 1]);
    // What was published to a topic is known like anything else, whatever became of it.
    assert_eq!(drain(&mut world, "w", "a"), ["x", "y"]);
    for round in 0..3 {
        let conn = world.attach("shop");
        world.commit();
        let again = publish_ids(&mut world, conn, "topic/t", &["x", "y"]);
        assert!(matches!(again[..], [(_, Ok((1.., 2)))]), "{again:?}");
        publish_ids(&mut world, conn, "a", &["y"]);
        assert_eq!((waiting(&mut world, "a"), waiting(&mut world, "b")), (0, 2), "round {round}");
        assert_eq!(world.metrics.dedup_ids.value(), 4);
        world.restart(0, Duration::ZERO);
        world.compact(if round == 0 { 0 } else { usize::MAX });
        world.restart(0, Duration::ZERO);
    }
    world.advance(QueueConfig::default().work_queue.dedup_window + Duration::from_secs(1));
    let conn = world.attach("shop");
    publish_ids(&mut world, conn, "topic/t", &["x"]);
    assert_eq!((waiting(&mut world, "a"), waiting(&mut world, "b")), (1, 3));
}

#[test]
fn a_queue_that_remembers_no_more_ids_is_as_good_as_full() {
    let mut world = World::new();
    world.set("a", &[("dedup_ids_max", "1")]);
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let conn = world.attach("shop");
    world.commit();
    publish_ids(&mut world, conn, "topic/t", &["x"]);
    assert!(matches!(
        publish_ids(&mut world, conn, "topic/t", &["y"])[..],
        [(_, Err(RefusalCode::LimitReached))]
    ));
    assert_eq!(waiting(&mut world, "b"), 1, "all or nothing");
    unbind(&mut world, "t:a");
    let drop = BindingSpec { when_full: Some(TargetFull::Drop), ..spec("t", "", "a") };
    try_bind(&mut world, drop).unwrap();
    assert!(matches!(publish_ids(&mut world, conn, "topic/t", &["y"])[..], [(_, Ok((_, 1)))]));
    assert_eq!((waiting(&mut world, "a"), waiting(&mut world, "b")), (1, 2));
}

fn set_namespace(world: &mut World, key: &str, value: &str) {
    let changes = vec![(key.to_owned(), Some(value.to_owned()))];
    world.operate(OperatorRequest::NamespaceSet { namespace: tenant(), changes });
}

#[test]
fn the_bounds_of_a_namespace_are_for_all_copies_together() {
    let mut world = World::new();
    set_namespace(&mut world, "messages_max", "3");
    let drop = |to: &str| BindingSpec { when_full: Some(TargetFull::Drop), ..spec("t", "", to) };
    try_bind(&mut world, drop("a")).unwrap();
    bind(&mut world, "t", "", "b");
    bind(&mut world, "t", "", "c");
    bind(&mut world, "wide", "", "b");
    bind(&mut world, "wide", "", "c");
    bind(&mut world, "wide", "", "d");
    bind(&mut world, "wide", "", "e");
    let conn = world.attach("shop");
    world.publish(conn, "x", &["other"]);
    world.commit();
    // Those that are waited for come first.
    publish(&mut world, conn, "t", "1", &[]);
    assert!(matches!(answers(&world.commit())[..], [(_, Ok((_, 2)))]));
    let held = (waiting(&mut world, "a"), waiting(&mut world, "b"), waiting(&mut world, "c"));
    assert_eq!(held, (0, 1, 1));
    publish(&mut world, conn, "wide", "never", &[]);
    assert!(matches!(answers(&world.commit())[..], [(_, Err(RefusalCode::LimitReached))]));
    // The next one waits until there is room for both, whatever goes first.
    let seq = publish(&mut world, conn, "t", "2", &[]);
    world.publish(conn, "x", &["behind"]);
    assert_eq!(answers(&world.commit()), []);
    assert_eq!(drain_raw(&mut world, "x"), ["other"]);
    assert_eq!(drain(&mut world, "w", "b"), ["1", "2"]);
    assert_eq!(drain(&mut world, "w", "c"), ["1", "2"]);
    assert!(seq > 0);
    assert_eq!(drain_raw(&mut world, "x"), ["behind"]);
    assert_eq!(world.metrics.parked_bytes.value(), 0);
}

#[test]
fn copies_are_paced_by_the_rates_of_their_queues_and_namespace() {
    let mut world = World::new();
    world.set("slow", &[("publish_per_s", "1")]);
    bind(&mut world, "t", "", "fast");
    bind(&mut world, "t", "", "slow");
    let conn = world.attach("shop");
    world.commit();
    let first = publish(&mut world, conn, "t", "1", &[]);
    let second = publish(&mut world, conn, "t", "2", &[]);
    assert_eq!(answers(&world.commit()).iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [first]);
    world.advance(Duration::from_millis(900));
    assert_eq!((waiting(&mut world, "fast"), answers(&world.commit()).len()), (1, 0));
    world.advance(Duration::from_millis(200));
    assert_eq!(answers(&world.commit()).iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [second]);
    assert_eq!((waiting(&mut world, "fast"), waiting(&mut world, "slow")), (2, 2));
    // A namespace that takes two a second takes one publish of two copies.
    world.set("slow", &[("publish_per_s", "1000")]);
    set_namespace(&mut world, "publish_per_s", "2");
    publish(&mut world, conn, "t", "3", &[]);
    publish(&mut world, conn, "t", "4", &[]);
    assert_eq!(answers(&world.commit()).len(), 1);
    world.advance(Duration::from_millis(1001));
    assert_eq!(answers(&world.commit()).len(), 1);
    assert_eq!((waiting(&mut world, "fast"), waiting(&mut world, "slow")), (4, 4));
}

#[test]
fn the_oldest_of_a_bound_queue_dies_only_if_the_copies_go_in() {
    let mut world = narrow(WhenFull::Reject);
    world.set("old", &[("when_full", "dead_letter_oldest")]);
    bind(&mut world, "t", "", "old");
    bind(&mut world, "t", "", "strict");
    bind(&mut world, "$sys.dead", "", "old");
    let conn = world.attach("shop");
    world.publish(conn, "old", &["oldest"]);
    world.publish(conn, "strict", &["full"]);
    world.commit();
    publish(&mut world, conn, "t", "1", &[]);
    assert!(matches!(answers(&world.commit())[..], [(_, Err(RefusalCode::QueueFull))]));
    assert_eq!(world.dead("old").len(), 0);
    drain_raw(&mut world, "strict");
    publish(&mut world, conn, "t", "2", &[]);
    assert!(matches!(answers(&world.commit())[..], [(_, Ok((_, 2)))]));
    assert_eq!(world.dead("old").len(), 1, "and what tells of it pushes nobody out");
    assert_eq!((waiting(&mut world, "old"), waiting(&mut world, "strict")), (1, 1));
}

#[test]
fn copies_have_lanes_and_are_redriven_like_others() {
    let mut world = World::new();
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let (conn, worker) = (world.attach("shop"), world.attach("worker"));
    world.subscribe(worker, 1, "a", 10);
    world.commit();
    let body = proto::Message { order_key: "k".into(), payload: b"1".into(), ..Default::default() };
    let body = body.encode_to_vec();
    let header = message_header(&body, body.len()).unwrap();
    world.publish_with(conn, "topic/t", None, &[(header, &body), (header, &body)]);
    let first = deliveries(&world.commit());
    assert_eq!(first.len(), 1, "one of a key at a time");
    let reject = Settlement::Nack { delay_ms: None, error: "no".into(), reject: true };
    world.settle(worker, &[first[0].0.lease], reject);
    world.commit();
    world.restart(0, Duration::ZERO);
    world.compact(usize::MAX);
    world.restart(0, Duration::ZERO);
    let dead = world.dead("a");
    assert_eq!(dead.len(), 1);
    redrive(&mut world, "a", dead[0].id, "b");
    assert_eq!((waiting(&mut world, "a"), waiting(&mut world, "b")), (1, 3));
    let conn = world.attach("w2");
    world.subscribe(conn, 1, "b", 10);
    assert_eq!(deliveries(&world.commit()).len(), 1, "one of a key at a time there as well");
}

/// What is bound to a topic, without what `World` checks after each step: there is much of it.
fn bind_many(world: &mut World, topic: &str, queues: usize) {
    world.journal.forgetful = true;
    for number in 0..queues {
        let binding = spec(topic, "", &format!("{topic}-{number}"));
        world.operate(OperatorRequest::Bind { namespace: tenant(), binding });
    }
}

#[test]
fn a_publish_reaches_so_many_queues_and_no_more() {
    let mut world = World::new();
    bind_many(&mut world, "wide", FANOUT_QUEUES_MAX);
    let conn = world.attach("shop");
    publish(&mut world, conn, "wide", "x", &[]);
    assert!(matches!(answers(&world.commit())[..], [(_, Ok((_, 4096)))]));
    try_bind(&mut world, spec("wide", "", "one-more")).unwrap();
    publish(&mut world, conn, "wide", "x", &[]);
    assert!(matches!(answers(&world.commit())[..], [(_, Err(RefusalCode::LimitReached))]));
    assert_eq!(world.metrics.fanout_copies.value(), 4096, "all or nothing");
}

#[test]
fn a_publish_becomes_so_many_messages_and_no_more() {
    let mut world = World::new();
    bind_many(&mut world, "deep", 4);
    let conn = world.attach("shop");
    let batch = |count: usize| vec![Vec::new(); count];
    publish_all(&mut world, conn, "deep", None, &batch(FANOUT_MESSAGES_MAX / 4 + 1));
    assert!(matches!(answers(&world.commit())[..], [(_, Err(RefusalCode::LimitReached))]));
    publish_all(&mut world, conn, "deep", None, &batch(FANOUT_MESSAGES_MAX / 4));
    assert!(matches!(answers(&world.commit())[..], [(_, Ok((_, 4)))]));
}

#[test]
fn a_full_disk_refuses_what_would_be_kept_and_tells_who_is_connected_of_the_rest() {
    let mut world = World::new();
    bind(&mut world, "t", "", "a");
    let conn = world.attach("shop");
    world.commit();
    world.journal.room = Room::Reserved;
    publish(&mut world, conn, "t", "kept", &[]);
    publish(&mut world, conn, "u", "told", &[]);
    let answered = answers(&world.commit());
    assert!(matches!(answered[..], [(_, Err(RefusalCode::DiskFull)), (_, Ok((0, 0)))]), "{answered:?}");
    assert_eq!(waiting(&mut world, "a"), 0);
}

#[test]
fn a_new_producer_of_copies_counts_like_any_other() {
    let mut world = World::with(QueueConfig { producers_per_namespace_max: 1, ..QueueConfig::default() });
    bind(&mut world, "t", "", "a");
    let conn = world.attach("shop");
    let of =
        |producer| Some(ProducerSequence { producer: ProducerId(producer), sequence: 1, unanswered_from: 1 });
    publish_all(&mut world, conn, "t", of(1), &[encoded("1", &[])]);
    publish_all(&mut world, conn, "t", of(2), &[encoded("2", &[])]);
    let answered = answers(&world.commit());
    assert_eq!(answered.iter().filter(|(_, answer)| *answer == Err(RefusalCode::LimitReached)).count(), 1);
    assert_eq!(drain(&mut world, "w", "a"), ["1"]);
}

#[test]
fn what_was_sent_to_a_topic_behind_a_publish_turned_away_does_not_pass_it() {
    let mut config = QueueConfig { parked_bytes_per_namespace_max: 1, ..QueueConfig::default() };
    config.work_queue.messages_max = 1;
    let mut world = World::with(config);
    bind(&mut world, "t", "", "slow");
    bind(&mut world, "u", "", "fast");
    // Who consumes is read on, so that what it publishes is refused once the budget is spent.
    let conn = world.attach("shop");
    world.subscribe(conn, 1, "elsewhere", 1);
    world.publish(conn, "slow", &["full"]);
    publish_all(&mut world, conn, "t", sequence(1, 1), &[encoded("parked", &[])]);
    publish_all(&mut world, conn, "t", sequence(2, 1), &[encoded("refused", &[])]);
    let answered = answers(&world.commit());
    assert!(matches!(answered[..], [(_, Err(RefusalCode::QueueFull))]), "{answered:?}");
    assert_eq!(world.stats("slow").parked, 1);
    // There is room for all now, and the third was sent before the refusal of the second could be known.
    assert_eq!(drain_raw(&mut world, "slow"), ["full"]);
    publish_all(&mut world, conn, "u", sequence(3, 1), &[encoded("third", &[])]);
    let answered = answers(&world.commit());
    assert!(matches!(answered[..], [(_, Err(RefusalCode::QueueFull))]), "{answered:?}");
    // Once that is known, it goes on.
    publish_all(&mut world, conn, "u", sequence(4, 4), &[encoded("fourth", &[])]);
    assert_eq!(answers(&world.commit()).len(), 1);
    assert_eq!(drain(&mut world, "w", "fast"), ["fourth"]);
}

#[test]
fn an_event_of_the_server_lets_nobody_die() {
    let mut world = narrow(WhenFull::DeadLetterOldest);
    bind(&mut world, "$sys.presence", "", "events");
    world.attach("first");
    world.attach("second");
    world.commit();
    assert_eq!((waiting(&mut world, "events"), world.dead("events").len()), (1, 0));
    assert_eq!(world.metrics.fanout_missed.value(), 1);
}

#[test]
fn the_answer_to_what_all_queues_have_waits_for_the_commit_of_what_they_have() {
    let mut world = World::new();
    bind(&mut world, "t", "", "a");
    let conn = world.attach("shop");
    world.commit();
    let (header, body) = super::encoded(&proto::Message { dedup_id: "x".into(), ..Default::default() });
    world.publish_with(conn, "topic/t", None, &[(header, &body)]);
    world.publish_with(conn, "topic/t", None, &[(header, &body)]);
    assert_eq!(answers(&world.released()), []);
    let answered = answers(&world.commit());
    assert_eq!(answered.len(), 2);
    assert_eq!(answered[0].1, answered[1].1, "both say where it is");
}

#[test]
fn a_message_that_has_a_time_to_live_keeps_it_in_every_queue() {
    let mut world = World::new();
    world.set("a", &[("ttl", "10s")]);
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let conn = world.attach("shop");
    let body = encoded("1", &[]);
    let own = MessageHeader { priority: 4, ttl_ms: 60_000, ..Default::default() };
    world.publish_with(conn, "topic/t", None, &[(own, &body)]);
    world.commit();
    for is_again in [false, true] {
        if is_again {
            world.restart(0, Duration::ZERO);
        }
        world.advance(Duration::from_secs(11));
        assert_eq!((world.stats("a").ready, world.stats("b").ready), (1, 1), "after a restart: {is_again}");
    }
    world.advance(Duration::from_secs(49));
    assert_eq!((world.stats("a").dead, world.stats("b").dead), (1, 1));
}

#[test]
fn each_queue_remembers_the_ids_of_copies_for_its_own_window() {
    let mut world = World::new();
    world.set("a", &[("dedup_window", "10s")]);
    world.set("b", &[("dedup_window", "60s")]);
    bind(&mut world, "t", "", "a");
    bind(&mut world, "t", "", "b");
    let mut conn = world.attach("shop");
    publish_ids(&mut world, conn, "topic/t", &["x", "y"]);
    for (round, id) in ["x", "y"].into_iter().enumerate() {
        // What the record of the publish says counts, not what the queue was told since.
        world.set("a", &[("dedup_window", "1h")]);
        if round == 1 {
            world.restart(0, Duration::ZERO);
            conn = world.attach("shop");
        }
        world.advance(Duration::from_secs(if round == 0 { 11 } else { 1 }));
        publish_ids(&mut world, conn, "topic/t", &[id]);
        assert_eq!((waiting(&mut world, "a"), waiting(&mut world, "b")), (3 + round as u64, 2), "{id}");
    }
}

/// What many attempts said of many copies is more than one record should have.
#[test]
fn copies_with_much_history_are_moved_in_several_records() {
    const QUEUES: usize = 100;
    let mut config = QueueConfig::default();
    (config.work_queue.attempts_max, config.work_queue.backoff_jitter_percent) = (100, 0);
    let mut world = World::with(config);
    let names: Vec<String> = (0..QUEUES).map(|number| format!("q-{number}")).collect();
    names.iter().for_each(|queue| _ = bind(&mut world, "t", "", queue));
    let conn = world.attach("shop");
    publish(&mut world, conn, "t", "1", &[]);
    let error = "e".repeat(1000);
    for queue in &names {
        let conn = world.attach("worker");
        world.subscribe(conn, 1, queue, 1);
        for _ in 0..8 {
            let leases: Vec<LeaseId> =
                deliveries(&world.commit()).iter().map(|(deliver, _)| deliver.lease).collect();
            let again = Settlement::Nack { delay_ms: Some(0), error: error.as_str().into(), reject: false };
            world.settle(conn, &leases, again);
        }
        world.detach(conn, true);
    }
    world.commit();
    world.compact(usize::MAX);
    let copies: Vec<usize> = (world.journal.records.values())
        .filter(|(_, record)| matches!(record::decode(record), Ok(Record::Copies(_))))
        .map(|(_, record)| record.len())
        .collect();
    let bound = crate::limits::FANOUT_SNAPSHOT_BYTES_MAX + 1000;
    assert!(copies.len() > 1 && copies.iter().all(|&len| len <= bound), "{copies:?}");
    world.restart(0, Duration::ZERO);
    let left: Vec<u64> = names.iter().map(|queue| waiting(&mut world, queue)).collect();
    assert_eq!(left, [1; QUEUES]);
}
