//! Topics as the shard knows them: who is subscribed, what is refused, and what each loop is handed.

use super::*;
use crate::limits;
use crate::mail::{Broadcast, TopicSet};

/// A connection on this loop, attached.
fn attach_on(world: &mut World, namespace: &str, client: &str, on: u16, slot: u32) -> ConnKey {
    let conn = ConnKey { loop_id: LoopId(on), slot, generation: 1 };
    let namespace = Namespace::parse(namespace).unwrap();
    let client = ClientId::parse(client).unwrap();
    world.command(Command::Attach(Box::new(Attach { conn, namespace, client, resume: None })));
    world.released();
    conn
}

fn attach(world: &mut World, client: &str, slot: u32) -> ConnKey {
    attach_on(world, TENANT, client, 0, slot)
}

/// What the connection is told of its topics, and why the request was refused.
type Answer = (Option<Option<Arc<TopicSet>>>, Option<Refused>);

fn answer(world: &mut World) -> Answer {
    let (mut topics, mut refused) = (None, None);
    let mut is_answered = false;
    for (effect, _) in world.released() {
        match effect {
            Effect::Topics { topics: told, .. } => {
                assert!(!is_answered, "the loop knows before the client does");
                topics = Some(told);
            }
            Effect::Settled(settled) => {
                is_answered = true;
                refused = settled.refused.map(|refused| *refused);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(is_answered);
    (topics, refused)
}

fn subscribe(world: &mut World, conn: ConnKey, number: u16, queue: &str) -> Answer {
    let seq = world.seq();
    let (subscription, queue) = (SubscriptionId(number), name(queue));
    let (credit_messages, credit_bytes) = (0, u64::MAX);
    world.command(Command::Subscribe { conn, seq, subscription, queue, credit_messages, credit_bytes });
    answer(world)
}

fn unsubscribe(world: &mut World, conn: ConnKey, number: u16) -> Answer {
    let seq = world.seq();
    world.command(Command::Unsubscribe { conn, seq, subscription: SubscriptionId(number) });
    answer(world)
}

/// The set that a subscription led to.
fn subscribed(world: &mut World, conn: ConnKey, number: u16, queue: &str) -> Arc<TopicSet> {
    match subscribe(world, conn, number, queue) {
        (Some(Some(set)), None) => set,
        other => panic!("{other:?}"),
    }
}

fn refused_with(answer: Answer) -> RefusalCode {
    assert!(answer.0.is_none(), "the loop was told of what was refused");
    answer.1.expect("a refusal").code
}

fn publish(world: &mut World, conn: ConnKey, queue: &str, header: MessageHeader, bodies: &[&[u8]]) {
    let seq = world.seq();
    let queue = name(queue);
    world.apply(|batch| {
        for body in bodies {
            batch.messages.push(PublishMessage { header, body_len: body.len() as u32 });
            batch.bodies.extend_from_slice(body);
        }
        let messages = bodies.len() as u32;
        batch.commands.push(Command::Publish(Publish {
            conn,
            seq,
            queue,
            producer: None,
            messages,
            acks: 0,
            replenish: false,
        }));
    });
}

/// What each loop was handed, and the answer.
type Handed<T> = (Vec<(u16, T)>, Result<u64, Refused>);

/// What the loops were handed, and the answer: to how many subscriptions, or why not.
fn handed(world: &mut World) -> Handed<Arc<Broadcast>> {
    let mut broadcasts = Vec::new();
    let mut outcome = None;
    for (effect, _) in world.released() {
        match effect {
            Effect::Broadcast { loop_id, broadcast } => broadcasts.push((loop_id.0, broadcast)),
            Effect::Broadcasted(answer) => outcome = Some(Ok(answer.subscribers)),
            Effect::PublishRefused { refused, .. } => outcome = Some(Err(*refused)),
            other => panic!("{other:?}"),
        }
    }
    (broadcasts, outcome.expect("an answer"))
}

fn broadcast(world: &mut World, conn: ConnKey, queue: &str, bodies: &[&[u8]]) -> Handed<Vec<u8>> {
    publish(world, conn, queue, MessageHeader::default(), bodies);
    let (broadcasts, outcome) = handed(world);
    (broadcasts.into_iter().map(|(on, broadcast)| (on, broadcast.body.to_vec())).collect(), outcome)
}

#[test]
fn sessions_with_the_same_topics_share_a_set() {
    let mut world = World::new();
    let (a, b, c) = (attach(&mut world, "a", 1), attach(&mut world, "b", 2), attach(&mut world, "c", 3));
    let set = subscribed(&mut world, a, 2, "topic/news");
    assert_eq!(subscribed(&mut world, b, 2, "topic/news").id, set.id);
    assert_ne!(subscribed(&mut world, c, 3, "topic/news").id, set.id, "another number is another set");
    let news = set.subscriptions[0].topic;
    // By number, whatever the order.
    let both = subscribed(&mut world, a, 1, "topic/weather");
    let numbers: Vec<u16> = both.subscriptions.iter().map(|own| own.subscription.0).collect();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(both.number_of(news), Some(SubscriptionId(2)));
    assert_eq!((world.metrics.topics.value(), world.metrics.topic_sets.value()), (2, 3));
    // Back to the one it shared.
    let (left, refused) = unsubscribe(&mut world, a, 1);
    assert_eq!((left.unwrap().unwrap().id, refused), (set.id, None));
    assert_eq!(unsubscribe(&mut world, a, 2), (Some(None), None));
    assert_eq!((world.metrics.topics.value(), world.metrics.topic_sets.value()), (1, 2));
}

#[test]
fn a_broadcast_goes_to_the_loops_that_have_subscribers_of_its_namespace() {
    let mut world = World::new();
    let a = attach_on(&mut world, TENANT, "a", 0, 1);
    let b = attach_on(&mut world, TENANT, "b", 0, 2);
    let c = attach_on(&mut world, TENANT, "c", 3, 1);
    let other = attach_on(&mut world, "other", "a", 2, 1);
    for conn in [a, b, c, other] {
        subscribed(&mut world, conn, 1, "topic/news");
    }
    let mine = subscribed(&mut world, a, 2, "topic/weather").subscriptions[0].topic;
    publish(&mut world, b, "topic/news", MessageHeader::default(), &[b"one", b"two"]);
    let (broadcasts, outcome) = handed(&mut world);
    assert_eq!(outcome, Ok(3));
    let got: Vec<_> = broadcasts.iter().map(|(on, broadcast)| (*on, &*broadcast.body)).collect();
    assert_eq!(got, [(0, &b"one"[..]), (0, b"two"), (3, b"one"), (3, b"two")]);
    assert!(broadcasts.iter().all(|(_, broadcast)| broadcast.topic == mine));
    assert!(Arc::ptr_eq(&broadcasts[0].1, &broadcasts[2].1), "the loops share the message");
    assert_eq!(broadcast(&mut world, other, "topic/news", &[b"x"]), (vec![(2, b"x".to_vec())], Ok(1)));
    assert_eq!(broadcast(&mut world, a, "topic/nobody", &[b"x"]), (vec![], Ok(0)));
    assert_eq!(world.metrics.broadcasts.value(), 4);
    assert_eq!(world.metrics.published.value(), 0);
}

#[test]
fn subscriptions_end_with_their_connection() {
    let mut world = World::new();
    let publisher = attach(&mut world, "p", 9);
    let gone = |world: &mut World| broadcast(world, publisher, "topic/news", &[b"x"]).1;
    let a = attach(&mut world, "a", 1);
    subscribed(&mut world, a, 1, "topic/news");
    assert_eq!(gone(&mut world), Ok(1));
    world.command(Command::Detach(Detach {
        conn: a,
        bye: false,
        reason: DetachReason::ConnectionLost,
        retired_producer: None,
    }));
    assert_eq!(gone(&mut world), Ok(0));
    // A take-over, to another loop.
    let a = attach_on(&mut world, TENANT, "a", 1, 1);
    subscribed(&mut world, a, 1, "topic/news");
    let newer = attach_on(&mut world, TENANT, "a", 2, 1);
    assert_eq!(gone(&mut world), Ok(0));
    subscribed(&mut world, newer, 1, "topic/news");
    assert_eq!(broadcast(&mut world, publisher, "topic/news", &[b"x"]).0, [(2, b"x".to_vec())]);
    world.command(Command::Detach(Detach {
        conn: newer,
        bye: true,
        reason: DetachReason::Bye,
        retired_producer: None,
    }));
    assert_eq!(gone(&mut world), Ok(0));
    assert_eq!((world.metrics.topics.value(), world.metrics.topic_sets.value()), (0, 0));
}

#[test]
fn a_topic_has_a_number_of_its_own_and_is_subscribed_to_once() {
    let mut world = World::new();
    let a = attach(&mut world, "a", 1);
    subscribed(&mut world, a, 1, "topic/news");
    assert_eq!(refused_with(subscribe(&mut world, a, 2, "topic/news")), RefusalCode::Invalid);
    for queue in ["topic/weather", "jobs", "device/a"] {
        assert_eq!(refused_with(subscribe(&mut world, a, 1, queue)), RefusalCode::Invalid, "{queue}");
    }
    assert_eq!(subscribe(&mut world, a, 2, "jobs"), (None, None));
    assert_eq!(refused_with(subscribe(&mut world, a, 2, "topic/weather")), RefusalCode::Invalid);
    for bad in ["topic/", "topic/a.*", "topic/>"] {
        assert_eq!(refused_with(subscribe(&mut world, a, 3, bad)), RefusalCode::Invalid, "{bad}");
        assert_eq!(broadcast(&mut world, a, bad, &[b"x"]).1.unwrap_err().code, RefusalCode::Invalid);
    }
    assert_eq!(refused_with(unsubscribe(&mut world, a, 7)), RefusalCode::Invalid);
    assert_eq!(unsubscribe(&mut world, a, 1), (Some(None), None));
    assert_eq!(refused_with(unsubscribe(&mut world, a, 1)), RefusalCode::Invalid);
}

#[test]
fn topics_count_among_the_subscriptions_of_a_session() {
    let mut world = World::new();
    let a = attach(&mut world, "a", 1);
    for number in 1..limits::SUBSCRIPTIONS_MAX as u16 {
        subscribed(&mut world, a, number, &format!("topic/{number}"));
    }
    assert_eq!(subscribe(&mut world, a, 100, "jobs"), (None, None));
    for queue in ["topic/one-more", "one-more"] {
        assert_eq!(refused_with(subscribe(&mut world, a, 101, queue)), RefusalCode::LimitReached);
    }
}

#[test]
fn what_only_a_queue_can_do_is_refused_of_a_topic() {
    let mut world = World::new();
    let a = attach(&mut world, "a", 1);
    subscribed(&mut world, a, 1, "topic/news");
    for header in [
        MessageHeader { delay_ms: 1, ..Default::default() },
        MessageHeader { due: Wall(1), ..Default::default() },
        MessageHeader { ttl_ms: 1, ..Default::default() },
        MessageHeader { attempts_max: 1, ..Default::default() },
    ] {
        publish(&mut world, a, "topic/news", header, &[b"x"]);
        let (broadcasts, outcome) = handed(&mut world);
        assert!(broadcasts.is_empty());
        assert_eq!(outcome.unwrap_err().code, RefusalCode::Invalid, "{header:?}");
    }
    publish(&mut world, a, "topic/news", MessageHeader { priority: 9, ..Default::default() }, &[b"x"]);
    assert_eq!(handed(&mut world).1, Ok(1));
    let fits = vec![0; world.config.broadcast_bytes_max];
    assert_eq!(broadcast(&mut world, a, "topic/news", &[&fits]).1, Ok(1));
    let too_large = vec![0; world.config.broadcast_bytes_max + 1];
    let (none, outcome) = broadcast(&mut world, a, "topic/news", &[b"x", &too_large]);
    assert_eq!((none.len(), outcome.unwrap_err().code), (0, RefusalCode::LimitReached));
}

fn done(world: &mut World, on: u16, namespace: u32, bytes: u64) {
    world.command(Command::BroadcastsDone { loop_id: LoopId(on), namespace, bytes });
}

#[test]
fn a_loop_that_is_behind_has_broadcasts_refused_until_it_is_not() {
    let mut world = World::new();
    let a = attach_on(&mut world, TENANT, "a", 0, 1);
    let b = attach_on(&mut world, TENANT, "b", 1, 1);
    subscribed(&mut world, a, 1, "topic/both");
    subscribed(&mut world, b, 1, "topic/both");
    subscribed(&mut world, b, 2, "topic/b");
    let each = limits::BROADCAST_CHARGE_BYTES_MIN as u64;
    let share = limits::BROADCAST_SHARE_OF_FREE;
    let room = limits::BROADCAST_BYTES_PER_LOOP_MAX / each * share / (share + 1);
    let mut mine = 0;
    for _ in 0..room {
        publish(&mut world, a, "topic/both", MessageHeader::default(), &[b"small"]);
        let (broadcasts, outcome) = handed(&mut world);
        assert_eq!(outcome, Ok(2));
        mine = broadcasts[0].1.namespace;
    }
    assert_eq!(world.metrics.broadcast_bytes.value(), 2 * room * each);
    let refused = broadcast(&mut world, a, "topic/both", &[b"one more"]).1.unwrap_err();
    assert_eq!(refused.code, RefusalCode::Overloaded);
    assert!(refused.retry_after_ms > 0);
    // Loop 0 has room, loop 1 not: all or none.
    done(&mut world, 0, mine, room * each);
    assert!(broadcast(&mut world, a, "topic/both", &[b"one more"]).1.is_err());
    assert!(broadcast(&mut world, a, "topic/b", &[b"one more"]).1.is_err());
    done(&mut world, 1, mine, each);
    let large = vec![7; 2 * each as usize];
    assert!(broadcast(&mut world, a, "topic/b", &[&large]).1.is_err(), "a large one counts all it has");
    assert_eq!(broadcast(&mut world, a, "topic/both", &[b"one more"]).1, Ok(2));
    done(&mut world, 0, mine, each);
    done(&mut world, 1, mine, room * each);
    assert_eq!(world.metrics.broadcast_bytes.value(), 0);
}

#[test]
fn namespaces_that_take_all_they_can_leave_room_for_the_next() {
    let mut world = World::new();
    let each = limits::BROADCAST_CHARGE_BYTES_MIN as u64;
    let max = limits::BROADCAST_BYTES_PER_LOOP_MAX;
    let body = vec![7; 16 * each as usize];
    let mut taken = Vec::new();
    for number in 0..20 {
        let conn = attach_on(&mut world, &format!("tenant{number}"), "a", 0, number);
        subscribed(&mut world, conn, 1, "topic/news");
        let (mut bytes, mut namespace) = (0, 0);
        loop {
            publish(&mut world, conn, "topic/news", MessageHeader::default(), &[&body]);
            let (broadcasts, outcome) = handed(&mut world);
            let Ok(subscribers) = outcome else { break };
            assert_eq!((subscribers, broadcasts.len()), (1, 1));
            namespace = broadcasts[0].1.namespace;
            bytes += 16 * each;
        }
        taken.push((namespace, bytes));
        let all: u64 = taken.iter().map(|(_, bytes)| bytes).sum();
        assert!(all < max && world.metrics.broadcast_bytes.value() == all);
        if number == 3 {
            // The first four took nearly all; the fifth has its own still, if only for small ones.
            let small = attach_on(&mut world, "small", "a", 0, 99);
            subscribed(&mut world, small, 1, "topic/news");
            publish(&mut world, small, "topic/news", MessageHeader::default(), &[b"x"]);
            let (broadcasts, outcome) = handed(&mut world);
            assert_eq!(outcome, Ok(1));
            done(&mut world, 0, broadcasts[0].1.namespace, each);
        }
    }
    assert!(taken[0].1 >= max * 3 / 4, "one alone has most: {taken:?}");
    for (namespace, bytes) in taken {
        done(&mut world, 0, namespace, bytes);
    }
    assert_eq!(world.metrics.broadcast_bytes.value(), 0);
    world.brain.check_invariants();
}

#[test]
fn an_unsubscription_is_never_refused() {
    let mut world = World::new();
    world.journal.forgetful = true;
    let (a, b, late) =
        (attach(&mut world, "a", 0), attach(&mut world, "b", 1), attach(&mut world, "late", 2));
    // Two share a set of three.
    for conn in [a, b] {
        for number in 1..=3 {
            subscribed(&mut world, conn, number, &format!("topic/t{number}"));
        }
    }
    let sets = |world: &World| world.metrics.topic_sets.value() as usize;
    assert_eq!(sets(&world), 1);
    for number in 3..=limits::TOPIC_SETS_PER_NAMESPACE_MAX as u32 + 1 {
        let conn = attach(&mut world, &format!("c{number}"), number);
        subscribed(&mut world, conn, number as u16, "topic/t1");
    }
    assert_eq!(sets(&world), limits::TOPIC_SETS_PER_NAMESPACE_MAX);
    assert_eq!(refused_with(subscribe(&mut world, late, 1, "topic/t1")), RefusalCode::LimitReached);
    let numbers = |answer: Answer| -> Vec<u16> {
        let (Some(Some(set)), None) = answer else { panic!("{answer:?}") };
        set.subscriptions.iter().map(|own| own.subscription.0).collect()
    };
    // What is left is another set, and there may be no more of these.
    assert_eq!(numbers(unsubscribe(&mut world, a, 2)), [1, 3]);
    world.brain.check_invariants();
    assert_eq!(sets(&world), limits::TOPIC_SETS_PER_NAMESPACE_MAX + 1);
    assert_eq!(broadcast(&mut world, b, "topic/t2", &[b"x"]).1, Ok(1));
    assert_eq!(broadcast(&mut world, b, "topic/t3", &[b"x"]).1, Ok(2));
    assert_eq!(refused_with(subscribe(&mut world, a, 2, "topic/t4")), RefusalCode::LimitReached);
    assert_eq!(numbers(unsubscribe(&mut world, a, 3)), [1]);
    assert_eq!(unsubscribe(&mut world, a, 1), (Some(None), None));
    world.brain.check_invariants();
    // The last session of a set makes the room for what is left of it.
    assert_eq!(numbers(unsubscribe(&mut world, b, 2)), [1, 3]);
    assert_eq!(sets(&world), limits::TOPIC_SETS_PER_NAMESPACE_MAX);
    // A set of its own goes with its connection.
    let c = attach(&mut world, "c", 30_000);
    assert_eq!(numbers(unsubscribe(&mut world, b, 3)), [1]);
    world.command(Command::Detach(Detach {
        conn: b,
        bye: false,
        reason: DetachReason::ConnectionLost,
        retired_producer: None,
    }));
    subscribed(&mut world, c, 1, "topic/t1");
    world.brain.check_invariants();
}

#[test]
fn topics_and_sets_of_a_namespace_are_bounded() {
    let mut world = World::new();
    // Each client stays subscribed under its own number to its own topic: a topic and a set each.
    world.journal.forgetful = true;
    let max = limits::TOPICS_PER_NAMESPACE_MAX.min(limits::TOPIC_SETS_PER_NAMESPACE_MAX) as u32;
    for number in 0..max {
        let conn = attach(&mut world, &format!("c{number}"), number);
        subscribed(&mut world, conn, 1, &format!("topic/{number}"));
    }
    let late = attach(&mut world, "late", max);
    for (number, queue) in [(1, "topic/new"), (2, "topic/0")] {
        assert_eq!(
            refused_with(subscribe(&mut world, late, number, queue)),
            RefusalCode::LimitReached,
            "{queue}"
        );
    }
    // What is there already takes nothing more, and another namespace has its own.
    subscribed(&mut world, late, 1, "topic/0");
    let other = attach_on(&mut world, "other", "late", 0, max + 1);
    subscribed(&mut world, other, 1, "topic/new");
    world.brain.check_invariants();
}

#[test]
fn an_operator_broadcasts_but_redrives_to_queues_only() {
    let mut world = World::new();
    let a = attach(&mut world, "a", 1);
    subscribed(&mut world, a, 1, "topic/news");
    let conn = ConnKey { loop_id: LoopId::OPERATOR, slot: 1, generation: 0 };
    let mut ask = |request| {
        world.command(Command::Operator { conn, request: Box::new(request) });
        let reply = |effect| match effect {
            Effect::Operator { reply, .. } => Some(*reply),
            _ => None,
        };
        world.released().into_iter().find_map(|(effect, _)| reply(effect)).expect("a reply")
    };
    let queue = name("topic/news");
    let publish = |header| OperatorRequest::Publish {
        namespace: tenant(),
        queue: queue.clone(),
        header,
        body: b"x".to_vec(),
    };
    assert_eq!(ask(publish(MessageHeader::default())), OperatorReply::Broadcasted(1));
    let delayed = ask(publish(MessageHeader { delay_ms: 5, ..Default::default() }));
    assert!(matches!(delayed, OperatorReply::Refused(Refused { code: RefusalCode::Invalid, .. })));
    let selection = DeadSelection::All;
    for (from, to) in [("jobs", Some(queue.clone())), ("topic/old", None)] {
        let redrive = OperatorRequest::DeadRedrive {
            namespace: tenant(),
            queue: name(from),
            selection: selection.clone(),
            to,
            per_s: None,
        };
        let refused = ask(redrive);
        assert!(matches!(refused, OperatorReply::Refused(Refused { code: RefusalCode::Invalid, .. })));
    }
}
