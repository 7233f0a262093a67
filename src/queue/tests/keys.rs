//! Whose turn it is: ordering keys, fairness keys and ageing.

use super::*;

fn message(payload: &str) -> proto::Message {
    proto::Message { payload: payload.into(), ..Default::default() }
}

fn ordered(payload: &str, key: &str) -> proto::Message {
    proto::Message { order_key: key.into(), ..message(payload) }
}

fn fair(payload: &str, key: &str) -> proto::Message {
    proto::Message { fair_key: key.into(), ..message(payload) }
}

/// A consumer with so much credit, and what it was delivered: payload and lease.
fn take(world: &mut World, conn: ConnKey) -> Vec<(String, LeaseId)> {
    let effects = world.commit();
    let one = |(effect, body): &(Effect, Vec<u8>)| match effect {
        Effect::Deliver(deliver) if deliver.conn == conn => {
            let message = proto::Message::decode(body.as_slice()).unwrap();
            Some((String::from_utf8(message.payload).unwrap(), deliver.lease))
        }
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

fn payloads(taken: &[(String, LeaseId)]) -> Vec<&str> {
    taken.iter().map(|(payload, _)| payload.as_str()).collect()
}

/// Acks each delivery as it comes, one at a time; returns the payloads in order.
fn drain(world: &mut World, conn: ConnKey) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let taken = take(world, conn);
        if taken.is_empty() {
            return seen;
        }
        for (payload, lease) in taken {
            seen.push(payload);
            world.settle(conn, &[lease], Settlement::Ack);
        }
    }
}

/// What an operator asks meanwhile delivers nothing.
fn unsubscribe(world: &mut World, conn: ConnKey) {
    let seq = world.seq();
    world.command(Command::Unsubscribe { conn, seq, subscription: SubscriptionId(1) });
}

#[test]
fn messages_of_an_ordering_key_go_one_at_a_time_in_order() {
    let mut world = World::new();
    let conn = world.attach("worker");
    for (payload, key) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"), ("b2", "b")] {
        world.publish_message(conn, "jobs", &ordered(payload, key));
    }
    world.publish_message(conn, "jobs", &message("free"));
    world.subscribe(conn, 1, "jobs", 10);
    let taken = take(&mut world, conn);
    assert_eq!(payloads(&taken), ["a1", "b1", "free"], "one of each key, and what has none");
    assert_eq!((world.stats("jobs").leased, world.stats("jobs").blocked), (3, 3));
    // An ack lets the next one of its key go on, and no other.
    world.settle(conn, &[taken[1].1], Settlement::Ack);
    assert_eq!(payloads(&take(&mut world, conn)), ["b2"]);
    // A retry keeps its place: the key waits for it.
    world.settle(
        conn,
        &[taken[0].1],
        Settlement::Nack { delay_ms: Some(5_000), error: "".into(), reject: false },
    );
    assert_eq!(payloads(&take(&mut world, conn)), [""; 0]);
    world.advance(Duration::from_secs(5));
    let again = take(&mut world, conn);
    assert_eq!(payloads(&again), ["a1"]);
    world.settle(conn, &[again[0].1], Settlement::Ack);
    assert_eq!(drain(&mut world, conn), ["a2", "a3"]);
}

#[test]
fn an_ordering_key_goes_on_after_a_restart_and_a_compaction_where_it_was() {
    for with_compaction in [false, true] {
        let mut world = World::new();
        let conn = world.attach("worker");
        for payload in ["1", "2", "3", "4"] {
            world.publish_message(conn, "jobs", &ordered(payload, "k"));
        }
        world.subscribe(conn, 1, "jobs", 10);
        let first = take(&mut world, conn);
        world.settle(conn, &[first[0].1], Settlement::Ack);
        let second = take(&mut world, conn);
        assert_eq!(payloads(&second), ["2"]);
        world.commit();
        if with_compaction {
            // What was published last lies first in the log now.
            world.compact(5);
        }
        world.restart(0, Duration::from_secs(1));
        let conn = world.attach("worker");
        world.subscribe(conn, 1, "jobs", 10);
        assert_eq!(drain(&mut world, conn), ["2", "3", "4"], "with compaction: {with_compaction}");
    }
}

#[test]
fn a_delayed_message_makes_its_ordering_key_wait_and_one_behind_it_keeps_its_delay() {
    let mut world = World::new();
    let conn = world.attach("worker");
    world.publish_message(conn, "jobs", &proto::Message { delay_ms: 3_000, ..ordered("1", "k") });
    world.publish_message(conn, "jobs", &proto::Message { delay_ms: 9_000, ..ordered("2", "k") });
    world.publish_message(conn, "jobs", &ordered("3", "k"));
    world.subscribe(conn, 1, "jobs", 10);
    assert_eq!((world.stats("jobs").scheduled, world.stats("jobs").blocked), (1, 2));
    world.advance(Duration::from_secs(3));
    assert_eq!(drain(&mut world, conn), ["1"]);
    assert_eq!((world.stats("jobs").scheduled, world.stats("jobs").blocked), (1, 1));
    world.commit();
    world.restart(0, Duration::ZERO);
    world.advance(Duration::from_secs(5));
    let conn = world.attach("worker");
    world.subscribe(conn, 1, "jobs", 10);
    assert_eq!(drain(&mut world, conn), [""; 0]);
    world.advance(Duration::from_secs(1));
    assert_eq!(drain(&mut world, conn), ["2", "3"]);
}

#[test]
fn a_blocked_message_expires_in_its_place() {
    let mut world = World::new();
    let conn = world.attach("worker");
    world.publish_message(conn, "jobs", &ordered("1", "k"));
    world.publish_message(conn, "jobs", &proto::Message { ttl_ms: 1_000, ..ordered("2", "k") });
    world.publish_message(conn, "jobs", &ordered("3", "k"));
    world.commit();
    world.advance(Duration::from_secs(1));
    assert_eq!((world.stats("jobs").dead, world.stats("jobs").blocked), (1, 1));
    world.subscribe(conn, 1, "jobs", 10);
    assert_eq!(drain(&mut world, conn), ["1", "3"]);
}

#[test]
fn a_dead_head_releases_its_key_or_holds_it_as_the_queue_says() {
    for (policy, after_death, after_redrive) in
        [("release", vec!["2", "3"], vec!["1"]), ("hold", vec![], vec!["1", "2", "3"])]
    {
        for restarts in [false, true] {
            let mut world = World::new();
            world.set("jobs", &[("dead_head", policy)]);
            let mut conn = world.attach("worker");
            for payload in ["1", "2", "3"] {
                world.publish_message(conn, "jobs", &ordered(payload, "k"));
            }
            world.subscribe(conn, 1, "jobs", 10);
            let first = take(&mut world, conn);
            let reject = Settlement::Nack { delay_ms: None, error: "no".into(), reject: true };
            world.settle(conn, &[first[0].1], reject);
            if restarts {
                world.commit();
                world.compact(3);
                world.restart(0, Duration::from_secs(1));
                conn = world.attach("worker");
                world.subscribe(conn, 1, "jobs", 10);
            }
            assert_eq!(drain(&mut world, conn), after_death, "{policy}, restarts {restarts}");
            let (namespace, queue, selection) = (tenant(), name("jobs"), DeadSelection::All);
            unsubscribe(&mut world, conn);
            world.operate(OperatorRequest::DeadRedrive {
                namespace,
                queue,
                selection,
                to: None,
                per_s: None,
            });
            world.subscribe(conn, 1, "jobs", 10);
            assert_eq!(drain(&mut world, conn), after_redrive, "{policy}, restarts {restarts}");
        }
    }
}

#[test]
fn a_purged_dead_head_releases_the_key_that_it_held() {
    let mut world = World::new();
    world.set("jobs", &[("dead_head", "hold")]);
    let conn = world.attach("worker");
    world.publish_message(conn, "jobs", &ordered("1", "k"));
    world.publish_message(conn, "jobs", &ordered("2", "k"));
    world.subscribe(conn, 1, "jobs", 10);
    let first = take(&mut world, conn);
    world.settle(conn, &[first[0].1], Settlement::Nack { delay_ms: None, error: "".into(), reject: true });
    assert_eq!(drain(&mut world, conn), [""; 0]);
    let (namespace, queue, selection) = (tenant(), name("jobs"), DeadSelection::All);
    unsubscribe(&mut world, conn);
    world.operate(OperatorRequest::DeadPurge { namespace, queue, selection });
    world.subscribe(conn, 1, "jobs", 10);
    assert_eq!(drain(&mut world, conn), ["2"]);
}

#[test]
fn a_redriven_message_goes_to_the_end_of_its_key_and_stays_there() {
    for restarts in [false, true] {
        let mut world = World::new();
        let mut conn = world.attach("worker");
        world.publish_message(conn, "jobs", &ordered("1", "k"));
        world.publish_message(conn, "jobs", &ordered("2", "k"));
        world.publish_message(conn, "jobs", &ordered("3", "k"));
        world.subscribe(conn, 1, "jobs", 10);
        let first = take(&mut world, conn);
        world.settle(
            conn,
            &[first[0].1],
            Settlement::Nack { delay_ms: None, error: "".into(), reject: true },
        );
        let second = take(&mut world, conn);
        assert_eq!(payloads(&second), ["2"]);
        let (namespace, queue, selection) = (tenant(), name("jobs"), DeadSelection::All);
        world.operate(OperatorRequest::DeadRedrive { namespace, queue, selection, to: None, per_s: None });
        world.publish_message(conn, "jobs", &ordered("4", "k"));
        world.settle(conn, &[second[0].1], Settlement::Ack);
        let third = take(&mut world, conn);
        assert_eq!(payloads(&third), ["3"]);
        if restarts {
            world.compact(4);
            world.restart(0, Duration::from_secs(1));
            conn = world.attach("worker");
            world.subscribe(conn, 1, "jobs", 10);
            assert_eq!(drain(&mut world, conn), ["3", "1", "4"]);
        } else {
            world.settle(conn, &[third[0].1], Settlement::Ack);
            assert_eq!(drain(&mut world, conn), ["1", "4"]);
        }
    }
}

#[test]
fn fairness_keys_take_turns_by_their_weights_whatever_waits_behind_each() {
    let mut world = World::new();
    world.set("jobs", &[("weight.gold", "3")]);
    let conn = world.attach("worker");
    for at in 0..20 {
        world.publish_message(conn, "jobs", &fair(&format!("hot{at}"), "hot"));
    }
    for at in 0..4 {
        world.publish_message(conn, "jobs", &fair(&format!("cold{at}"), "cold"));
        world.publish_message(conn, "jobs", &message(&format!("none{at}")));
    }
    for at in 0..9 {
        world.publish_message(conn, "jobs", &fair(&format!("gold{at}"), "gold"));
    }
    world.subscribe(conn, 1, "jobs", 12);
    let taken = take(&mut world, conn);
    let count = |prefix: &str| taken.iter().filter(|(payload, _)| payload.starts_with(prefix)).count();
    assert_eq!((count("hot"), count("cold"), count("none"), count("gold")), (2, 2, 2, 6), "{taken:?}");
    // A weight that is set anew counts for what is waiting already.
    world.set("jobs", &[("weight.gold", "1"), ("weight.hot", "2")]);
    let leases: Vec<LeaseId> = taken.iter().map(|(_, lease)| *lease).collect();
    world.settle(conn, &leases[..10], Settlement::Ack);
    let taken = take(&mut world, conn);
    let count = |prefix: &str| taken.iter().filter(|(payload, _)| payload.starts_with(prefix)).count();
    assert_eq!((count("hot"), count("cold"), count("none"), count("gold")), (4, 2, 2, 2), "{taken:?}");
}

#[test]
fn a_large_message_costs_its_fairness_key_more_turns() {
    let mut world = World::with(roomy());
    let conn = world.attach("worker");
    let large = "l".repeat(4 * 64 * 1024 - 100);
    for _ in 0..4 {
        world.publish_message(conn, "jobs", &fair(&large, "large"));
        for at in 0..4 {
            world.publish_message(conn, "jobs", &fair(&format!("small{at}"), "small"));
        }
    }
    world.subscribe(conn, 1, "jobs", 10);
    let taken = take(&mut world, conn);
    let large = taken.iter().filter(|(payload, _)| payload.starts_with('l')).count();
    assert_eq!((large, taken.len()), (2, 10));
}

#[test]
fn within_a_fairness_key_priority_comes_first() {
    let mut world = World::new();
    let conn = world.attach("worker");
    for (payload, priority) in [("low", 1), ("high", 10), ("middle", 5)] {
        world.publish_message(conn, "jobs", &proto::Message { priority, ..fair(payload, "a") });
    }
    world.publish_message(conn, "jobs", &proto::Message { priority: 1, ..fair("other", "b") });
    world.subscribe(conn, 1, "jobs", 10);
    let taken = take(&mut world, conn);
    assert_eq!(payloads(&taken), ["high", "other", "middle", "low"]);
}

#[test]
fn an_ordering_key_keeps_its_order_whatever_its_messages_fairness_keys_are() {
    let mut world = World::new();
    let conn = world.attach("worker");
    for (payload, fair_key) in [("1", "a"), ("2", "b"), ("3", "")] {
        world.publish_message(
            conn,
            "jobs",
            &proto::Message { fair_key: fair_key.into(), ..ordered(payload, "k") },
        );
    }
    world.subscribe(conn, 1, "jobs", 10);
    assert_eq!(drain(&mut world, conn), ["1", "2", "3"]);
}

#[test]
fn nothing_is_left_of_keys_whose_messages_are_gone() {
    let mut world = World::new();
    let conn = world.attach("worker");
    for at in 0..50 {
        let key = format!("key{at}");
        world.publish_message(conn, "jobs", &fair("x", &key));
        world.publish_message(conn, "jobs", &ordered("y", &key));
    }
    assert_eq!(world.brain.lanes.slab.len(), 100);
    world.subscribe(conn, 1, "jobs", 10);
    assert_eq!(drain(&mut world, conn).len(), 100);
    assert_eq!(world.brain.lanes.slab.len(), 0);
}

#[test]
fn a_low_priority_that_aged_is_not_starved() {
    for (ageing, expected) in [("0", ["new", "new", "new", "old"]), ("10s", ["old", "new", "new", "new"])] {
        let mut world = World::new();
        world.set("jobs", &[("ageing", ageing)]);
        let conn = world.attach("worker");
        world.publish_message(conn, "jobs", &proto::Message { priority: 1, ..message("old") });
        world.advance(Duration::from_secs(60));
        // The wall clock moves nothing.
        world.now.wall.0 -= 3_600_000;
        for _ in 0..3 {
            world.publish_message(conn, "jobs", &proto::Message { priority: 6, ..message("new") });
        }
        world.subscribe(conn, 1, "jobs", 10);
        assert_eq!(payloads(&take(&mut world, conn)), expected, "ageing {ageing}");
    }
}

/// As long as there is little room on the way to a loop, it goes round among the namespaces.
#[test]
fn a_namespace_with_a_backlog_leaves_room_for_the_others() {
    let mut world = World::with(roomy());
    let client = |world: &mut World, namespace: &str| {
        let conn = world.conn();
        let namespace = Namespace::parse(namespace).unwrap();
        let client = ClientId::parse("worker").unwrap();
        world.command(Command::Attach(Box::new(Attach { conn, namespace, client, resume: None })));
        conn
    };
    let (hot, cold) = (client(&mut world, "hot"), client(&mut world, "cold"));
    let large = "l".repeat(60_000);
    for _ in 0..300 {
        world.publish(hot, "jobs", &[&large]);
    }
    for _ in 0..20 {
        world.publish(cold, "jobs", &["small"]);
    }
    world.commit();
    world.subscribe(hot, 1, "jobs", 1_000);
    world.subscribe(cold, 1, "jobs", 1_000);
    // The hot one came first and has filled the outbox.
    let count = |effects: &[(Effect, Vec<u8>)], conn: ConnKey| {
        deliveries(effects).iter().filter(|(deliver, _)| deliver.conn == conn).count()
    };
    let effects = world.released();
    assert_eq!((count(&effects, hot), count(&effects, cold)), (70, 0));
    world.advance(Duration::ZERO);
    let effects = world.released();
    assert_eq!(count(&effects, cold), 20);
    assert!(count(&effects, hot) > 60);
}

/// Where there is little room, the namespaces get it by their weights, after a restart too.
#[test]
fn namespaces_take_turns_by_their_weights() {
    let mut world = World::with(roomy());
    let heavy = Namespace::parse("heavy").unwrap();
    let weigh = |weight: &str| OperatorRequest::NamespaceSet {
        namespace: heavy.clone(),
        changes: vec![("weight".to_owned(), Some(weight.to_owned()))],
    };
    for wrong in ["0", "1001", "much"] {
        let OperatorReply::Refused(refused) = world.operate(weigh(wrong)) else { panic!("{wrong}") };
        assert!(refused.text.contains("1 to 1000"), "{}", refused.text);
    }
    let reply = world.operate(weigh("3"));
    let OperatorReply::Namespace(rows, _) = reply else { panic!("{reply:?}") };
    assert!(rows.iter().any(|row| row.key == "weight" && row.value == "3" && row.is_own));
    world.commit();
    world.restart(0, Duration::ZERO);
    let large = "l".repeat(60_000);
    let clients = ["heavy", "light"].map(|namespace| {
        let conn = world.conn();
        let namespace = Namespace::parse(namespace).unwrap();
        let client = ClientId::parse("worker").unwrap();
        world.command(Command::Attach(Box::new(Attach { conn, namespace, client, resume: None })));
        for _ in 0..400 {
            world.publish(conn, "jobs", &[&large]);
        }
        conn
    });
    world.commit();
    for conn in clients {
        world.subscribe(conn, 1, "jobs", 1_000);
    }
    // Who came first has filled the outbox.
    world.released();
    let mut counts = [0, 0];
    for _ in 0..4 {
        world.advance(Duration::ZERO);
        let effects = world.released();
        for (count, conn) in counts.iter_mut().zip(clients) {
            *count += deliveries(&effects).iter().filter(|(deliver, _)| deliver.conn == conn).count();
        }
    }
    let [heavy, light] = counts;
    assert!(light > 40 && (2 * light..=4 * light).contains(&heavy), "{counts:?}");
}

#[test]
fn a_wall_clock_that_went_back_is_waited_for_behind_a_key_too() {
    let mut world = World::new();
    let conn = world.attach("worker");
    let due = world.now.wall.0 + 5_000;
    world.publish_message(conn, "jobs", &ordered("first", "a"));
    world.publish_message(conn, "jobs", &proto::Message { due_unix_ms: due, ..ordered("due", "a") });
    world.subscribe(conn, 1, "jobs", 10);
    let taken = take(&mut world, conn);
    assert_eq!(payloads(&taken), ["first"]);
    world.advance(Duration::from_secs(6));
    world.now.wall = Wall(due - 3_000);
    world.settle(conn, &[taken[0].1], Settlement::Ack);
    assert!(take(&mut world, conn).is_empty());
    world.advance(Duration::from_millis(2_999));
    assert!(take(&mut world, conn).is_empty());
    world.advance(Duration::from_millis(1));
    assert_eq!(payloads(&take(&mut world, conn)), ["due"]);
}
