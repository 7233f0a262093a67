//! What the server itself tells.

use super::*;
use crate::limits::EVENTS_UNTOLD_MAX;
use crate::message::message_attributes;
use crate::queue::WhenFull;

fn bind(world: &mut World, pattern: &str, filter: &str, to: &str) {
    let binding = BindingSpec {
        name: None,
        pattern: pattern.into(),
        filter: filter.into(),
        to: name(to),
        when_full: None,
    };
    let reply = world.operate(OperatorRequest::Bind { namespace: tenant(), binding });
    assert!(matches!(reply, OperatorReply::Bindings(_)), "{reply:?}");
}

fn values(body: &[u8]) -> Vec<String> {
    message_attributes(body).map(|(name, value)| format!("{name}={value}")).collect()
}

/// What a queue holds, taken by a worker that was there before.
fn taken(world: &mut World, worker: ConnKey) -> Vec<Vec<String>> {
    let effects = world.commit();
    let leases: Vec<LeaseId> = deliveries(&effects).iter().map(|(deliver, _)| deliver.lease).collect();
    let bodies = effects.iter().filter(|(effect, _)| matches!(effect, Effect::Deliver(_)));
    let events = bodies.map(|(_, body)| values(body)).collect();
    if !leases.is_empty() {
        world.settle(worker, &leases, Settlement::Ack);
    }
    events
}

#[test]
fn who_comes_and_goes_is_told() {
    let mut world = World::new();
    bind(&mut world, "$sys.presence", "client = 'd1'", "presence");
    let worker = world.attach("worker");
    world.subscribe(worker, 1, "presence", 100);
    world.commit();
    let first = world.attach("d1");
    let second = world.attach("d1");
    world.detach(first, false);
    world.detach(second, false);
    world.attach("d2");
    world.advance(world.config.grace + Duration::from_secs(1));
    let third = world.attach("d1");
    world.detach(third, true);
    let told: Vec<String> = taken(&mut world, worker).into_iter().map(|event| event.join(" ")).collect();
    let expected = [
        "event=connected client=d1 reason=new",
        "event=disconnected client=d1 reason=taken_over",
        "event=connected client=d1 reason=new",
        "event=disconnected client=d1 reason=connection_lost",
        "event=ended client=d1 reason=grace_over",
        "event=connected client=d1 reason=new",
        "event=disconnected client=d1 reason=bye",
    ];
    assert_eq!(told, expected);
}

#[test]
fn after_a_restart_nobody_is_said_to_be_connected() {
    let mut world = World::new();
    bind(&mut world, "$sys.presence", "", "presence");
    world.attach("d1");
    world.commit();
    world.restart(0, Duration::ZERO);
    let worker = world.attach("worker");
    world.subscribe(worker, 1, "presence", 100);
    let told: Vec<String> = taken(&mut world, worker).into_iter().map(|event| event.join(" ")).collect();
    let of_worker = "event=connected client=worker reason=new";
    assert_eq!(told, ["event=connected client=d1 reason=new", "event=restarted", of_worker]);
    // Where nobody listens nothing is kept.
    let mut world = World::new();
    bind(&mut world, ">", "", "all");
    world.restart(0, Duration::ZERO);
    assert_eq!(world.stats("all").ready, 0);
}

#[test]
fn a_connected_subscriber_hears_at_once_and_nothing_is_kept() {
    let mut world = World::new();
    let watcher = world.attach("watcher");
    world.subscribe(watcher, 1, "topic/$sys.presence", 1);
    world.commit();
    let records = world.journal.records.len();
    let conn = world.conn();
    let client = ClientId::parse("d1").unwrap();
    world.command(Command::Attach(Box::new(Attach { conn, namespace: tenant(), client, resume: None })));
    let effects = world.released();
    let told = effects.iter().find_map(|(effect, _)| match effect {
        Effect::Broadcast { broadcast, .. } => Some(broadcast.clone()),
        _ => None,
    });
    let told = told.expect("an event");
    assert_eq!(values(&told.body), ["event=connected", "client=d1", "reason=new"]);
    let text = String::from_utf8_lossy(&told.body);
    assert!(text.contains("{\"client\":\"d1\",\"event\":\"connected\",\"reason\":\"new\"}"), "{text}");
    assert_eq!(world.journal.records.len(), records);
    // Nobody of another namespace listens.
    let (conn, client) = (world.conn(), ClientId::parse("d1").unwrap());
    let namespace = Namespace::parse("other").unwrap();
    world.command(Command::Attach(Box::new(Attach { conn, namespace, client, resume: None })));
    assert!(world.released().iter().all(|(effect, _)| !matches!(effect, Effect::Broadcast { .. })));
}

#[test]
fn nothing_is_told_to_nobody() {
    let mut world = World::new();
    bind(&mut world, ">", "", "all");
    bind(&mut world, "*.presence", "", "all");
    let conn = world.attach("d1");
    world.detach(conn, true);
    assert_eq!(world.stats("all").ready, 0, "leading wildcards are not for the server's topics");
    assert_eq!(world.metrics.published.value(), 0);
}

#[test]
fn limits_are_told_of_once_a_second_a_queue() {
    let mut config = QueueConfig::default();
    (config.work_queue.messages_max, config.work_queue.when_full) = (1, WhenFull::Reject);
    let mut world = World::with(config);
    world.set("limits", &[("messages_max", "100")]);
    bind(&mut world, "$sys.limits", "", "limits");
    let worker = world.attach("worker");
    world.subscribe(worker, 1, "limits", 100);
    let conn = world.attach("shop");
    for queue in ["jobs", "other"] {
        for _ in 0..4 {
            world.publish(conn, queue, &["x"]);
        }
    }
    let told = taken(&mut world, worker);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], ["limit=messages", "queue=jobs", "outcome=refused"]);
    assert_eq!(told[1][1], "queue=other");
    world.advance(Duration::from_millis(1001));
    world.publish(conn, "jobs", &["x"]);
    assert_eq!(taken(&mut world, worker).len(), 1);
    // A publish that waits is told of as well.
    world.set("other", &[("when_full", "wait")]);
    world.publish(conn, "other", &["x"]);
    assert_eq!(taken(&mut world, worker)[0], ["limit=messages", "queue=other", "outcome=wait"]);
}

#[test]
fn an_event_waits_for_no_queue() {
    let mut config = QueueConfig::default();
    config.work_queue.messages_max = 1;
    let mut world = World::with(config);
    bind(&mut world, "$sys.>", "", "events");
    let conns: Vec<ConnKey> = (0..5).map(|number| world.attach(&format!("d{number}"))).collect();
    world.commit();
    let stats = world.stats("events");
    assert_eq!((stats.ready, stats.parked), (1, 0));
    assert_eq!(world.metrics.fanout_missed.value(), 4);
    world.detach(conns[0], true);
    assert_eq!(world.metrics.fanout_missed.value(), 5, "one for each, none for the limit that this reached");
}

#[test]
fn of_many_events_of_one_call_none_is_missed_and_few_wait() {
    let mut world = World::new();
    bind(&mut world, "$sys.presence", "", "presence");
    let clients = 2 * EVENTS_UNTOLD_MAX as u64 + 100;
    let conns: Vec<ConnKey> = (0..clients).map(|_| world.conn()).collect();
    world.apply(|batch| {
        for (number, &conn) in conns.iter().enumerate() {
            let client = ClientId::parse(&format!("d{number}")).unwrap();
            let attach = Attach { conn, namespace: tenant(), client, resume: None };
            batch.commands.push(Command::Attach(Box::new(attach)));
        }
    });
    assert_eq!(world.stats("presence").ready, clients);
    // All of them are gone at the same time.
    let reason = DetachReason::ConnectionLost;
    world.apply(|batch| {
        for &conn in &conns {
            let detach = Detach { conn, bye: false, reason, retired_producer: None };
            batch.commands.push(Command::Detach(detach));
        }
    });
    world.advance(world.config.grace + Duration::from_secs(1));
    assert_eq!(world.stats("presence").ready, 3 * clients);
    assert_eq!(world.metrics.system_events_refused.value(), 0);
    assert_eq!(world.metrics.events_untold.value(), 0);
}

#[test]
fn events_beyond_the_bound_are_missed_and_counted() {
    let mut world = World::new();
    bind(&mut world, "$sys.presence", "", "presence");
    let client = world.attach("d1");
    let client = world.brain.directory.of_conn(client).unwrap();
    let before = world.stats("presence").ready;
    world.turn(|brain, turn| {
        (0..EVENTS_UNTOLD_MAX + 5).for_each(|_| brain.presence(client, "connected", "new"));
        brain.expire(turn);
    });
    assert_eq!(world.stats("presence").ready - before, EVENTS_UNTOLD_MAX as u64);
    assert_eq!(world.metrics.system_events_refused.value(), 5);
}
