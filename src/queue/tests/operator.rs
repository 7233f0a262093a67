use std::io::Write;
use std::sync::Mutex;

use super::*;

/// A world in which a call moves two dead letters, or looks at sixteen queues.
fn sliced() -> World {
    World::with(QueueConfig { operator_slice: 2, ..QueueConfig::default() })
}

/// Leaves `count` dead letters in "jobs".
fn kill(world: &mut World, count: usize) -> ConnKey {
    let conn = world.attach("worker");
    world.subscribe(conn, 1, "jobs", 1000);
    for _ in 0..count {
        world.publish(conn, "jobs", &["work"]);
    }
    let got = deliveries(&world.commit());
    let leases: Vec<LeaseId> = got.iter().map(|(deliver, _)| deliver.lease).collect();
    assert_eq!(leases.len(), count);
    let rejected = Settlement::Nack { delay_ms: None, error: "no".into(), reject: true };
    world.settle(conn, &leases, rejected);
    world.commit();
    conn
}

fn ask(world: &mut World, request: OperatorRequest) -> ConnKey {
    let conn = ConnKey { loop_id: LoopId::OPERATOR, slot: world.seq() as u32, generation: 0 };
    world.command(Command::Operator { conn, request: Box::new(request) });
    conn
}

fn answer(effects: &[(Effect, Vec<u8>)], asker: ConnKey) -> Option<OperatorReply> {
    effects.iter().find_map(|(effect, _)| match effect {
        Effect::Operator { conn, reply } if *conn == asker => Some((**reply).clone()),
        _ => None,
    })
}

fn purge_all() -> OperatorRequest {
    OperatorRequest::DeadPurge { namespace: tenant(), queue: name("jobs"), selection: DeadSelection::All }
}

fn redrive_all(to: &str) -> OperatorRequest {
    let to = Some(name(to));
    OperatorRequest::DeadRedrive {
        namespace: tenant(),
        queue: name("jobs"),
        selection: DeadSelection::All,
        to,
        per_s: None,
    }
}

#[test]
fn a_purge_of_everything_is_done_in_slices_and_answered_once_durable() {
    for dead in 0..=5 {
        let mut world = sliced();
        let worker = kill(&mut world, dead);
        let asker = ask(&mut world, purge_all());
        let mut slices = 1;
        let mut effects = Vec::new();
        while world.brain.has_jobs() {
            let queue = world.brain.find_queue(&tenant(), &name("jobs")).unwrap();
            assert_eq!(world.brain.queues.at(queue).dead.len(), dead - 2 * slices, "two a call");
            assert_eq!(answer(&effects, asker), None);
            // Others have their turn between the slices.
            world.publish(worker, "jobs", &["more"]);
            effects.extend(world.commit());
            assert_eq!(deliveries(&effects).len(), slices);
            world.go_on();
            slices += 1;
        }
        assert_eq!(slices, dead.div_ceil(2).max(1));
        if dead > 0 {
            effects.extend(world.released());
            assert_eq!(answer(&effects, asker), None, "not before it is durable");
        }
        effects.extend(world.commit());
        assert_eq!(answer(&effects, asker), Some(OperatorReply::Changed(dead as u64)));
        world.restart(0, Duration::ZERO);
        assert_eq!(world.stats("jobs").dead, 0);
    }
}

#[test]
fn a_redrive_of_everything_goes_on_until_the_target_is_full() {
    let mut world = sliced();
    world.brain.config.work_queue.messages_max = 5;
    kill(&mut world, 5);
    world.brain.config.work_queue.messages_max = 3;
    let asker = ask(&mut world, redrive_all("again"));
    assert!(world.brain.has_jobs());
    world.go_on();
    assert!(!world.brain.has_jobs(), "the rest does not fit");
    assert_eq!(answer(&world.commit(), asker), Some(OperatorReply::Changed(3)));
    assert_eq!((world.stats("again").ready, world.stats("jobs").dead), (3, 2));
    let asker = ask(&mut world, redrive_all("again"));
    let OperatorReply::Refused(refused) = answer(&world.commit(), asker).unwrap() else { panic!("full") };
    assert_eq!(refused.code, RefusalCode::QueueFull);
}

#[test]
fn what_dies_after_it_was_asked_is_left_alone() {
    let mut world = sliced();
    let worker = kill(&mut world, 4);
    let asker = ask(&mut world, purge_all());
    world.publish(worker, "jobs", &["later"]);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.settle(worker, &[lease], Settlement::Nack { delay_ms: None, error: "no".into(), reject: true });
    world.go_on();
    assert_eq!(answer(&world.commit(), asker), Some(OperatorReply::Changed(4)));
    assert_eq!(world.stats("jobs").dead, 1);
}

#[test]
fn a_listing_looks_at_a_few_queues_in_a_call() {
    let mut world = sliced();
    let conn = world.attach("producer");
    let names: Vec<String> = (0..50).map(|number| format!("q{:02}", (number * 7) % 50)).collect();
    for queue in &names {
        world.publish(conn, queue, &["work"]);
        world.publish(conn, &format!("device/{queue}"), &["work"]);
    }
    world.commit();
    let list = |after: Option<&str>, limit| OperatorRequest::Queues {
        namespace: tenant(),
        mailboxes: false,
        after: after.map(str::to_owned),
        limit,
    };
    let rows = |reply: Option<OperatorReply>| match reply {
        Some(OperatorReply::Queues(rows)) => rows,
        other => panic!("{other:?}"),
    };
    let asker = ask(&mut world, list(Some("q09"), 12));
    let mut calls = 1;
    while world.brain.has_jobs() {
        world.go_on();
        calls += 1;
    }
    assert!(calls >= 100 / 16, "{calls}");
    let page = rows(answer(&world.released(), asker));
    let found: Vec<(&str, u64)> = page.iter().map(|row| (row.queue.as_str(), row.ready)).collect();
    let expected: Vec<String> = (10..22).map(|number| format!("q{number}")).collect();
    assert_eq!(found, expected.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>());
    // A full page stays full when one of its queues goes meanwhile, or the next page would never be asked for.
    let asker = ask(&mut world, list(None, 50));
    world.subscribe(conn, 1, "q49", 1);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.settle(conn, &[lease], Settlement::Ack);
    world.detach(conn, true);
    while world.brain.has_jobs() {
        world.go_on();
    }
    assert_eq!(rows(answer(&world.commit(), asker)).len(), 50);
}

#[test]
fn there_is_an_end_to_the_requests_under_way() {
    let mut world = sliced();
    let most = crate::limits::OPERATOR_JOBS_MAX;
    let dead = 2 * most + 100;
    kill(&mut world, dead);
    let asked: Vec<ConnKey> = (0..=most).map(|_| ask(&mut world, purge_all())).collect();
    assert_eq!(world.brain.jobs.len(), most);
    let Some(OperatorReply::Refused(refused)) = answer(&world.released(), asked[most]) else {
        panic!("one too many")
    };
    assert_eq!(refused.code, RefusalCode::LimitReached);
    while world.brain.has_jobs() {
        world.go_on();
    }
    let effects = world.commit();
    let changed = asked[..most].iter().map(|&conn| match answer(&effects, conn) {
        Some(OperatorReply::Changed(count)) => count,
        other => panic!("{other:?}"),
    });
    assert_eq!(changed.sum::<u64>(), dead as u64);
}

#[test]
fn forgotten_dead_letters_are_counted_and_logged_at_a_bounded_rate() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut config = QueueConfig::default();
        config.work_queue.messages_max = 10;
        let mut world = World::with(config);
        for round in 1..=5 {
            kill(&mut world, 8);
            assert_eq!(world.stats("jobs").dead, 10.min(round * 8));
        }
        assert_eq!(world.metrics.dead_forgotten.value(), 30);
        world.advance(Duration::from_secs(11));
        kill(&mut world, 2);
        assert_eq!(world.metrics.dead_forgotten.value(), 32);
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let said: Vec<&str> = text.lines().filter(|line| line.contains("were forgotten")).collect();
    assert_eq!(said.len(), 2, "{text}");
    assert!(said[0].contains("forgotten=1 ") && said[0].contains("queue=jobs"), "{}", said[0]);
    assert!(said[1].contains("forgotten=30 "), "{}", said[1]);
}

#[test]
fn a_queue_waits_once_for_a_free_place_among_the_reads() {
    let mut world =
        World::with(QueueConfig { reads_max: 1, body_memory_bytes_max: 0, ..QueueConfig::default() });
    let conn = world.attach("worker");
    for queue in ["a", "b", "c"] {
        world.publish(conn, queue, &["one", "two", "three"]);
    }
    world.commit();
    for (id, queue) in [(1, "a"), (2, "b"), (3, "c")] {
        world.subscribe(conn, id, queue, 100);
    }
    // One body is being read, and whatever happens to the queues they wait for the next place once.
    for _ in 0..50 {
        world.publish(conn, "b", &["more"]);
        world.command(Command::Credit { conn, subscription: SubscriptionId(3), messages: 1, bytes: 0 });
    }
    assert!(world.brain.starved.len() <= 3, "{:?}", world.brain.starved);
    let mut got = 0;
    loop {
        match deliveries(&world.commit()).len() {
            0 => break,
            more => got += more,
        }
    }
    assert_eq!(got, 9 + 50);
}

fn shown(world: &mut World, queue: &str, id: u64) -> Option<MessageRow> {
    let (namespace, queue, id) = (tenant(), name(queue), MessageId(id));
    match world.operate(OperatorRequest::MessageShow { namespace, queue, id }) {
        OperatorReply::Message(row) => row.map(|row| *row),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_is_shown_wherever_it_stands() {
    // Without memory for bodies, each is read back from the log.
    for bytes_max in [1 << 20, 0] {
        let mut world =
            World::with(QueueConfig { body_memory_bytes_max: bytes_max, ..QueueConfig::default() });
        let settings = [("attempts", "2"), ("backoff_initial", "10s"), ("backoff_jitter", "0")];
        world.set("jobs", &settings);
        let conn = world.attach("worker");
        world.publish(conn, "jobs", &["work"]);
        world.commit();
        let row = shown(&mut world, "jobs", 1).unwrap();
        assert_eq!((row.id, &*row.queue, row.state, row.attempts), (1, "jobs", "ready", 0));
        assert_eq!((&*row.body, row.published_unix_ms), (&b"work"[..], world.now.wall.0));
        assert_eq!(
            (row.due_unix_ms, row.client, row.leased_unix_ms, row.expires_unix_ms),
            (None, None, None, None)
        );

        world.advance(Duration::from_millis(500));
        world.subscribe(conn, 1, "jobs", 10);
        let lease = deliveries(&world.commit())[0].0.lease;
        world.advance(Duration::from_millis(700));
        let row = shown(&mut world, "jobs", 1).unwrap();
        assert_eq!((row.state, row.client.as_deref(), row.attempts), ("leased", Some("worker"), 1));
        assert_eq!(row.leased_unix_ms, Some(world.now.wall.0 - 700));

        world.settle(conn, &[lease], nack("no paper"));
        world.commit();
        let row = shown(&mut world, "jobs", 1).unwrap();
        assert_eq!((row.state, row.due_unix_ms), ("scheduled", Some(world.now.wall.0 + 10_000)));
        assert_eq!((&*row.last_error, row.attempts, row.history_left_out), ("no paper", 1, 0));
        let seen: Vec<_> = row.history.iter().map(|f| (f.attempt, &*f.client, f.lasted_ms)).collect();
        assert_eq!(seen, [(1, "worker", Some(700))]);

        world.advance(Duration::from_secs(10));
        let lease = deliveries(&world.commit())[0].0.lease;
        world.settle(conn, &[lease], nack("again"));
        world.commit();
        let row = shown(&mut world, "jobs", 1).unwrap();
        assert_eq!((row.state, row.history.len(), &*row.body), ("dead", 2, &b"work"[..]));
        assert_eq!(shown(&mut world, "jobs", 2), None);
        assert_eq!(shown(&mut world, "others", 1), None, "it is not in that queue");
    }
}

#[test]
fn a_message_that_waits_for_the_wall_clock_is_shown_with_that() {
    let mut world = World::new();
    let conn = world.attach("worker");
    let due = world.now.wall.0 + 3_600_000;
    let message = proto::Message { due_unix_ms: due, ttl_ms: 60_000, ..Default::default() };
    world.publish_message(conn, "jobs", &message);
    world.commit();
    let row = shown(&mut world, "jobs", 1).unwrap();
    assert_eq!((row.state, row.due_unix_ms), ("scheduled", Some(due)));
    assert_eq!(row.expires_unix_ms, Some(due + 60_000));
    let later = proto::Message { due_unix_ms: due, delay_ms: 7_200_000, ..Default::default() };
    world.publish_message(conn, "jobs", &later);
    world.commit();
    assert_eq!(shown(&mut world, "jobs", 2).unwrap().due_unix_ms, Some(world.now.wall.0 + 7_200_000));
}
