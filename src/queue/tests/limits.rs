//! Limits of queues and namespaces: what is refused, what waits and what goes on when.

use super::*;
use crate::host::DiskState;
use crate::queue::{NamespaceRules, WhenFull};
use crate::telemetry::LimitKind;

fn refusal(effects: &[(Effect, Vec<u8>)]) -> Option<Refused> {
    effects.iter().find_map(|(effect, _)| match effect {
        Effect::PublishRefused { refused, .. } => Some((**refused).clone()),
        _ => None,
    })
}

fn acked(effects: &[(Effect, Vec<u8>)]) -> usize {
    let count = |effect: &Effect| match effect {
        Effect::PublishAcked(acked) => acked.more as usize + 1,
        _ => 0,
    };
    effects.iter().map(|(effect, _)| count(effect)).sum()
}

fn bodies(effects: &[(Effect, Vec<u8>)]) -> Vec<String> {
    deliveries(effects).into_iter().map(|(_, body)| body).collect()
}

fn leases(effects: &[(Effect, Vec<u8>)]) -> Vec<LeaseId> {
    deliveries(effects).iter().map(|(deliver, _)| deliver.lease).collect()
}

fn with_priority(world: &mut World, conn: ConnKey, queue: &str, priority: u8, body: &str) {
    let header = MessageHeader { priority, ..Default::default() };
    world.publish_with(conn, queue, None, &[(header, body.as_bytes())]);
}

fn dead_bodies(world: &mut World, queue: &str) -> Vec<String> {
    let ids: Vec<u64> = world.dead(queue).into_iter().map(|letter| letter.id).collect();
    let show = |id| OperatorRequest::DeadShow { namespace: tenant(), queue: name(queue), id: MessageId(id) };
    let mut bodies = Vec::new();
    for id in ids {
        let OperatorReply::Dead(rows) = world.operate(show(id)) else { panic!() };
        assert_eq!(rows[0].reason, "overflow");
        bodies.push(String::from_utf8(rows[0].body.clone().unwrap()).unwrap());
    }
    bodies
}

fn set_namespace(world: &mut World, settings: &[(&str, &str)]) -> OperatorReply {
    let changes = settings
        .iter()
        .map(|&(key, value)| (key.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty())))
        .collect();
    world.operate(OperatorRequest::NamespaceSet { namespace: tenant(), changes })
}

fn namespace(world: &mut World) -> (Vec<(String, String)>, NamespaceStats) {
    match world.operate(OperatorRequest::NamespaceSettings { namespace: tenant() }) {
        OperatorReply::Namespace(rows, stats) => {
            (rows.into_iter().filter(|row| row.is_own).map(|row| (row.key, row.value)).collect(), stats)
        }
        other => panic!("{other:?}"),
    }
}

fn reached(world: &World, limit: LimitKind) -> u64 {
    world.metrics.limits_reached[limit as usize].value()
}

#[test]
fn the_oldest_ready_messages_make_room_whatever_their_priority() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "3"), ("when_full", "dead_letter_oldest")]);
    let conn = world.attach("p");
    with_priority(&mut world, conn, "jobs", 9, "first, urgent");
    with_priority(&mut world, conn, "jobs", 1, "second");
    with_priority(&mut world, conn, "jobs", 9, "third");
    world.commit();
    world.publish(conn, "jobs", &["fourth"]);
    assert_eq!(acked(&world.commit()), 1);
    assert_eq!(dead_bodies(&mut world, "jobs"), ["first, urgent"]);
    world.publish(conn, "jobs", &["fifth"]);
    assert_eq!(acked(&world.commit()), 1);
    assert_eq!(dead_bodies(&mut world, "jobs"), ["first, urgent", "second"]);
    let stats = world.stats("jobs");
    assert_eq!((stats.ready, stats.dead), (3, 2));
    assert_eq!(reached(&world, LimitKind::Messages), 2);
    world.restart(0, Duration::ZERO);
    assert_eq!(world.stats("jobs").dead, 2);
}

#[test]
fn a_message_that_was_not_ready_for_long_is_not_the_oldest() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "4"), ("when_full", "dead_letter_oldest"), ("attempts", "5")]);
    let (conn, worker) = (world.attach("p"), world.attach("w"));
    world.subscribe(worker, 1, "jobs", 1);
    with_priority(&mut world, conn, "jobs", 5, "retried");
    let lease = leases(&world.commit())[0];
    let late = Settlement::Nack { delay_ms: Some(60_000), error: "".into(), reject: false };
    let seq = world.seq();
    world.apply(|batch| {
        let settle = Settle { conn: worker, seq, settlement: late, leases: 1, replenish: false };
        batch.commands.push(Command::Settle(settle));
        batch.leases.push(lease);
    });
    let delayed = MessageHeader { priority: 9, delay_ms: 50_000, ..Default::default() };
    world.publish_with(conn, "jobs", None, &[(delayed, b"delayed")]);
    with_priority(&mut world, conn, "jobs", 1, "first");
    world.advance(Duration::from_secs(30));
    with_priority(&mut world, conn, "jobs", 0, "second");
    world.advance(Duration::from_secs(25));
    world.advance(Duration::from_secs(15));
    assert_eq!(world.stats("jobs").ready, 4);
    let mut dead = Vec::new();
    for (body, died) in [("a", "first"), ("b", "second"), ("c", "delayed"), ("d", "retried")] {
        with_priority(&mut world, conn, "jobs", 3, body);
        world.commit();
        dead.push(died);
        let mut found = dead_bodies(&mut world, "jobs");
        found.sort_by_key(|body| dead.iter().position(|dead| dead == body));
        assert_eq!(found, dead);
    }
}

#[test]
fn what_is_leased_or_scheduled_stays_and_a_publish_that_cannot_fit_kills_nobody() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "3"), ("when_full", "dead_letter_oldest")]);
    let (conn, worker) = (world.attach("p"), world.attach("w"));
    world.subscribe(worker, 1, "jobs", 1);
    world.publish(conn, "jobs", &["leased"]);
    let later = MessageHeader { delay_ms: 60_000, ..Default::default() };
    world.publish_with(conn, "jobs", None, &[(later, b"scheduled")]);
    world.publish(conn, "jobs", &["ready"]);
    world.commit();
    world.publish(conn, "jobs", &["two", "more"]);
    let refused = refusal(&world.released()).expect("one ready message does not make room for two");
    assert_eq!(refused.code, RefusalCode::QueueFull);
    assert!(refused.retry_after_ms > 0);
    assert_eq!(world.stats("jobs").dead, 0, "none died in vain");
    world.publish(conn, "jobs", &["new"]);
    assert_eq!(acked(&world.commit()), 1);
    assert_eq!(dead_bodies(&mut world, "jobs"), ["ready"]);
}

#[test]
fn bytes_make_room_too() {
    let mut world = World::new();
    world.set("jobs", &[("bytes_max", "10"), ("when_full", "dead_letter_oldest")]);
    let conn = world.attach("p");
    for body in ["aaa", "bb", "cccc"] {
        world.publish(conn, "jobs", &[body]);
    }
    world.publish(conn, "jobs", &["ddddd"]);
    assert_eq!(acked(&world.commit()), 4);
    assert_eq!(dead_bodies(&mut world, "jobs"), ["aaa", "bb"]);
    assert_eq!(reached(&world, LimitKind::Bytes), 1);
}

#[test]
fn a_crash_between_the_deaths_and_the_publish_leaves_dead_letters_and_an_unanswered_publish() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "1"), ("when_full", "dead_letter_oldest")]);
    let conn = world.attach("p");
    world.publish(conn, "jobs", &["old"]);
    assert_eq!(acked(&world.commit()), 1);
    world.publish(conn, "jobs", &["new"]);
    assert_eq!(acked(&world.released()), 0);
    // The death is written, the publish is not.
    world.restart(1, Duration::ZERO);
    let stats = world.stats("jobs");
    assert_eq!((stats.ready, stats.dead), (0, 1));
    assert_eq!(dead_bodies(&mut world, "jobs"), ["old"]);
}

#[test]
fn no_more_than_leased_max_are_leased_at_once() {
    let mut world = World::new();
    world.set("jobs", &[("leased_max", "2"), ("lease", "1s")]);
    let (conn, worker) = (world.attach("p"), world.attach("w"));
    world.subscribe(worker, 1, "jobs", 10);
    world.publish(conn, "jobs", &["a", "b", "c", "d", "e"]);
    let got = world.commit();
    assert_eq!(bodies(&got), ["a", "b"]);
    assert!(reached(&world, LimitKind::Leased) > 0);
    world.settle(worker, &leases(&got)[..1], Settlement::Ack);
    assert_eq!(bodies(&world.commit()), ["c"], "an ack lets the next one out");
    let first = leases(&got)[1];
    world.settle(
        worker,
        &[first],
        Settlement::Nack { delay_ms: Some(60_000), error: "no".into(), reject: false },
    );
    assert_eq!(bodies(&world.commit()), ["d"], "a nack does");
    world.advance(Duration::from_millis(1_100));
    // Both leases expired; their messages wait for their backoff.
    assert_eq!(bodies(&world.commit()), ["e"], "the end of a lease does");
    world.set("jobs", &[("leased_max", "")]);
    world.publish(conn, "jobs", &["f", "g"]);
    assert_eq!(bodies(&world.commit()), ["f", "g"]);
}

#[test]
fn a_publish_over_the_rate_waits_for_its_token() {
    let mut world = World::new();
    world.set("jobs", &[("publish_per_s", "2")]);
    let conn = world.attach("p");
    for body in ["a", "b", "c", "d", "e"] {
        world.publish(conn, "jobs", &[body]);
    }
    assert_eq!(acked(&world.commit()), 2, "a second's worth at once");
    assert_eq!(world.stats("jobs").parked, 3);
    world.advance(Duration::from_millis(499));
    assert_eq!(acked(&world.commit()), 0);
    world.advance(Duration::from_millis(1));
    assert_eq!(acked(&world.commit()), 1);
    let next = world.turn(|brain, _| brain.next_deadline());
    // A wheel may be early.
    assert!(next.is_some_and(|at| at > world.now.time + Duration::from_millis(100)), "it polls: {next:?}");
    world.advance(Duration::from_secs(1));
    assert_eq!(acked(&world.commit()), 2);
    assert_eq!(reached(&world, LimitKind::PublishRate), 1);
    assert_eq!(reached(&world, LimitKind::Waiting), 2);
}

#[test]
fn a_publish_over_the_rate_of_a_queue_that_rejects_is_told_when_to_come_back() {
    for policy in ["reject", "dead_letter_oldest"] {
        let mut world = World::new();
        world.set("jobs", &[("publish_per_s", "4"), ("when_full", policy)]);
        let conn = world.attach("p");
        world.publish(conn, "jobs", &["a", "b", "c", "d"]);
        assert_eq!(acked(&world.commit()), 1);
        world.advance(Duration::from_millis(100));
        world.publish(conn, "jobs", &["e"]);
        let refused = refusal(&world.released()).expect("a refusal");
        assert_eq!((refused.code, refused.retry_after_ms), (RefusalCode::LimitReached, 150));
        assert_eq!(world.stats("jobs").dead, 0, "no rate is made by a death");
        world.advance(Duration::from_millis(150));
        world.publish(conn, "jobs", &["e"]);
        assert_eq!(acked(&world.commit()), 1);
    }
}

#[test]
fn what_only_a_rate_holds_up_is_said_of_the_rate_in_a_full_queue_too() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "2"), ("publish_per_s", "2"), ("when_full", "dead_letter_oldest")]);
    let conn = world.attach("p");
    world.publish(conn, "jobs", &["a"]);
    world.publish(conn, "jobs", &["b"]);
    world.publish(conn, "jobs", &["c"]);
    let refused = refusal(&world.released()).expect("a refusal");
    assert_eq!((refused.code, refused.retry_after_ms), (RefusalCode::LimitReached, 500));
    assert_eq!((reached(&world, LimitKind::PublishRate), reached(&world, LimitKind::Messages)), (1, 0));
    world.advance(Duration::from_millis(500));
    world.publish(conn, "jobs", &["c"]);
    assert_eq!((acked(&world.commit()), world.stats("jobs").dead), (3, 1));
}

#[test]
fn a_queue_that_is_told_to_reject_refuses_what_waits_for_it() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "1"), ("when_full", "wait")]);
    let conn = world.attach("p");
    world.publish(conn, "jobs", &["a"]);
    world.publish(conn, "jobs", &["b"]);
    world.commit();
    assert_eq!(world.stats("jobs").parked, 1);
    world.set("jobs", &[("when_full", "reject")]);
    assert_eq!((world.metrics.refused.value(), world.stats("jobs").parked), (1, 0));
}

#[test]
fn deliveries_keep_their_rate_without_polling() {
    let mut world = World::new();
    world.set("jobs", &[("deliver_per_s", "2")]);
    let (conn, worker) = (world.attach("p"), world.attach("w"));
    world.subscribe(worker, 1, "jobs", 10);
    world.publish(conn, "jobs", &["a", "b", "c", "d"]);
    assert_eq!(bodies(&world.commit()), ["a", "b"]);
    for expected in ["c", "d"] {
        world.advance(Duration::from_millis(499));
        assert!(bodies(&world.commit()).is_empty());
        world.advance(Duration::from_millis(1));
        assert_eq!(bodies(&world.commit()), [expected]);
    }
    // Unused for a while, it has a second's worth and no more.
    world.advance(Duration::from_secs(20));
    world.publish(conn, "jobs", &["e", "f", "g"]);
    assert_eq!(bodies(&world.commit()), ["e", "f"]);
}

#[test]
fn a_namespace_is_full_over_all_of_its_queues() {
    let mut world = World::new();
    set_namespace(&mut world, &[("messages_max", "3"), ("bytes_max", "1KiB")]);
    world.set("strict", &[("when_full", "reject")]);
    let (conn, worker) = (world.attach("p"), world.attach("w"));
    world.publish(conn, "a", &["1", "2"]);
    world.publish(conn, "b", &["3"]);
    assert_eq!(acked(&world.commit()), 2);
    world.publish(conn, "strict", &["no"]);
    let refused = refusal(&world.released()).expect("a refusal");
    assert_eq!(refused.code, RefusalCode::QueueFull);
    assert!(refused.text.contains("namespace \"acme\" is full"), "{}", refused.text);
    world.publish(conn, "c", &["waits"]);
    world.publish(conn, "d", &["waits too"]);
    assert_eq!(acked(&world.commit()), 0);
    // Room made in one queue lets another's publish in, the longest waiting first.
    world.subscribe(worker, 1, "a", 1);
    let got = world.commit();
    world.settle(worker, &leases(&got), Settlement::Ack);
    assert_eq!(acked(&world.commit()), 1);
    assert_eq!((world.stats("c").ready, world.stats("d").parked), (1, 1));
    let (_, stats) = namespace(&mut world);
    assert_eq!((stats.messages, stats.leased, stats.queues), (3, 1, 5));
    // A dead letter makes room as well: it has a bound of its own.
    let got = deliveries(&world.released());
    assert!(got.is_empty());
    set_namespace(&mut world, &[("messages_max", "4")]);
    assert_eq!(world.stats("d").ready, 1, "a higher bound lets in what waited");
    world.publish(conn, "e", &["a", "b", "c", "d", "e"]);
    let refused = refusal(&world.released()).expect("a refusal");
    assert_eq!((refused.code, refused.retry_after_ms), (RefusalCode::LimitReached, 0));
}

#[test]
fn queues_share_a_namespaces_leases_and_rate_in_turn() {
    for settings in [[("leased_max", "2")], [("deliver_per_s", "2")]] {
        let mut world = World::new();
        set_namespace(&mut world, &settings);
        let (conn, worker) = (world.attach("p"), world.attach("w"));
        for (id, queue) in [(1, "a"), (2, "b"), (3, "c")] {
            world.subscribe(worker, id, queue, 100);
        }
        // One has much more than the others.
        for queue in ["a", "a", "a", "a", "a", "a", "b", "c", "b", "c"] {
            world.publish(conn, queue, &[queue]);
        }
        let mut order = bodies(&world.commit());
        let mut held: VecDeque<LeaseId> = VecDeque::new();
        assert_eq!(order, ["a", "a"]);
        held.extend(
            world.brain.leases.iter().map(|(_, lease)| world.brain.messages.at(lease.message).lease()),
        );
        while order.len() < 10 {
            let lease = held.pop_front().expect("something is leased");
            world.settle(worker, &[lease], Settlement::Ack);
            let mut got = world.commit();
            world.advance(Duration::from_millis(500));
            got.extend(world.commit());
            held.extend(leases(&got));
            order.extend(bodies(&got));
        }
        assert_eq!(order[2..], ["a", "b", "c", "a", "b", "c", "a", "a"], "{settings:?}");
    }
}

#[test]
fn queues_that_cannot_go_on_do_not_pass_each_other_their_turns_for_ever() {
    let mut config = QueueConfig { body_memory_bytes_max: 0, reads_max: 1, ..QueueConfig::default() };
    config.work_queue.publish_per_s = Some(1);
    let mut world = World::with(config);
    set_namespace(&mut world, &[("leased_max", "2"), ("messages_max", "5")]);
    let (conn, worker) = (world.attach("p"), world.attach("w"));
    for _ in 0..2 {
        world.publish(conn, "first", &["first"]);
        world.advance(Duration::from_secs(1));
    }
    world.subscribe(worker, 1, "first", 1);
    let lease = leases(&world.commit())[0];
    world.command(Command::Credit { conn: worker, subscription: SubscriptionId(1), messages: 1, bytes: 100 });
    assert_eq!(world.brain.reads.len(), 1, "and no more at once");
    // These wait for a lease; the second one to a for that queue's rate, the second ones to b and c for the namespace.
    for (id, queue) in [(2, "a"), (3, "b"), (4, "c")] {
        world.subscribe(worker, id, queue, 100);
    }
    for queue in ["a", "a", "b", "c", "b", "c"] {
        world.publish(conn, queue, &[queue]);
    }
    // Now there is room for a lease and for a message, but not to read, and they keep to rates of their own.
    let seq = world.seq();
    world.apply(|batch| {
        let more = Command::Credit { conn: worker, subscription: SubscriptionId(3), messages: 1, bytes: 1 };
        let settlement = Settlement::Ack;
        let ack = Settle { conn: worker, seq, settlement, leases: 1, replenish: false };
        batch.commands.extend([more, Command::Settle(ack)]);
        batch.leases.push(lease);
    });
    assert_eq!(bodies(&world.commit()), ["first", "a"]);
    world.advance(Duration::from_secs(1));
    assert_eq!(acked(&world.commit()), 1);
}

#[test]
fn a_namespaces_publish_rate_lets_its_queues_in_by_turns() {
    let mut world = World::new();
    set_namespace(&mut world, &[("publish_per_s", "1")]);
    let conn = world.attach("p");
    for queue in ["a", "a", "a", "b", "b"] {
        world.publish(conn, queue, &["x"]);
    }
    assert_eq!(acked(&world.commit()), 1);
    for ready in [(2, 0), (2, 1), (3, 1), (3, 2)] {
        world.advance(Duration::from_secs(1));
        world.commit();
        assert_eq!((world.stats("a").ready, world.stats("b").ready), ready);
    }
    assert!(reached(&world, LimitKind::NamespacePublishRate) > 0);
}

#[test]
fn a_namespaces_settings_hold_through_restarts_and_compactions_until_they_are_reset() {
    let mut world = World::new();
    let expected = [("bytes_max", "64KiB"), ("messages_max", "2")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    set_namespace(&mut world, &[("messages_max", "2"), ("bytes_max", "64KiB")]);
    let mut got = namespace(&mut world).0;
    for round in 0..3 {
        match round {
            0 => {}
            1 => world.restart(0, Duration::from_secs(1)),
            _ => world.compact(100),
        }
        got = namespace(&mut world).0;
        got.sort();
        assert_eq!(got, expected, "{round}");
    }
    drop(got);
    let conn = world.attach("p");
    world.publish(conn, "jobs", &["a"]);
    world.publish(conn, "jobs", &["b", "c"]);
    assert_eq!(acked(&world.commit()), 1);
    set_namespace(&mut world, &[("messages_max", ""), ("bytes_max", "")]);
    assert!(namespace(&mut world).0.is_empty());
    assert_eq!(world.stats("jobs").ready, 3);
    world.restart(0, Duration::from_secs(1));
    assert!(namespace(&mut world).0.is_empty());
    for (wrong, what) in [(("messages", "1"), "no setting of a namespace"), (("bytes_max", "many"), "a size")]
    {
        let OperatorReply::Refused(refused) = set_namespace(&mut world, &[wrong]) else { panic!() };
        assert!(refused.text.contains(what), "{}", refused.text);
    }
}

#[test]
fn a_parked_publish_that_can_never_fit_any_more_is_refused_and_keeps_nobody_out() {
    let namespace = NamespaceRules { messages_max: Some(4), ..NamespaceRules::default() };
    let config = QueueConfig { namespace, ..QueueConfig::default() };
    let mut world = World::with(config);
    let conn = world.attach("p");
    world.publish(conn, "a", &["1"]);
    world.publish(conn, "b", &["2", "3", "4", "5"]);
    world.publish(conn, "c", &["6"]);
    assert_eq!(acked(&world.commit()), 1, "those before it wait, so does the third");
    set_namespace(&mut world, &[("messages_max", "3")]);
    assert_eq!(world.stats("c").ready, 1);
    assert_eq!(world.stats("b").parked, 0);
}

#[test]
fn overflow_makes_room_in_a_full_namespace() {
    let mut world = World::new();
    set_namespace(&mut world, &[("messages_max", "2")]);
    world.set("ring", &[("when_full", "dead_letter_oldest")]);
    let conn = world.attach("p");
    world.publish(conn, "other", &["o"]);
    world.publish(conn, "ring", &["1"]);
    world.publish(conn, "ring", &["2"]);
    assert_eq!(acked(&world.commit()), 3);
    assert_eq!((world.stats("ring").ready, world.stats("ring").dead, world.stats("other").ready), (1, 1, 1));
    // It never takes from others.
    world.publish(conn, "ring", &["3", "4"]);
    assert_eq!(refusal(&world.released()).map(|refused| refused.code), Some(RefusalCode::QueueFull));
}

fn disk(world: &mut World, state: DiskState) {
    let text = "the disk has too little room".to_owned();
    assert_eq!(world.operate(OperatorRequest::Disk { state, text }), OperatorReply::Changed(1));
}

#[test]
fn a_disk_below_its_marks_refuses_publishes_and_then_new_sessions_and_goes_on_by_itself() {
    let mut config = QueueConfig::default();
    config.work_queue.messages_max = 1;
    let mut world = World::with(config);
    let (conn, first) = world.attach_with("c", None);
    world.subscribe(conn, 1, "jobs", 1);
    world.publish(conn, "jobs", &["work"]);
    let got = world.commit();
    world.publish(conn, "jobs", &["parked"]);
    disk(&mut world, DiskState::Warn);
    world.publish(conn, "fine", &["x"]);
    assert_eq!(acked(&world.commit()), 1);
    disk(&mut world, DiskState::Reject);
    world.publish(conn, "jobs", &["more"]);
    let refused = refusal(&world.released()).expect("a refusal");
    assert_eq!((refused.code, &*refused.text), (RefusalCode::DiskFull, "the disk has too little room"));
    world.settle(conn, &leases(&got), Settlement::Ack);
    assert_eq!(acked(&world.commit()), 0, "what is parked waits for the disk");
    assert_eq!(world.attach_with("new", None).1.epoch.boot(), world.boot);
    disk(&mut world, DiskState::Stop);
    let late = world.conn();
    let attach = |conn, client: &str, resume| {
        let client = ClientId::parse(client).unwrap();
        Command::Attach(Box::new(Attach { conn, namespace: tenant(), client, resume }))
    };
    world.command(attach(late, "newer", None));
    let refused = world.released().into_iter().find_map(|(effect, _)| match effect {
        Effect::AttachRefused { conn, refused } if conn == late => Some(refused.code),
        _ => None,
    });
    assert_eq!(refused, Some(RefusalCode::DiskFull));
    let resume = Resume { epoch: first.epoch, session_id: first.session_id, leases: vec![] };
    let (conn, attached) = world.attach_with("c", Some(resume));
    assert!(attached.resumed, "those who resume come in");
    disk(&mut world, DiskState::Fine);
    world.publish(conn, "jobs", &["again"]);
    assert_eq!(acked(&world.commit()), 1);
    assert_eq!(world.brain.config.work_queue.when_full, WhenFull::Wait);
}
