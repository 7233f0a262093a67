//! One story each.

use super::*;
use crate::limits;
use crate::queue::WhenFull;
use crate::queue::directory::Lease;
use crate::queue::messages::Message;
use crate::queue::record;

fn attempt_of(deliveries: &[(Deliver, String)]) -> Vec<(u32, &str)> {
    deliveries.iter().map(|(deliver, body)| (deliver.lease.attempt, body.as_str())).collect()
}

fn lost(effects: &[(Effect, Vec<u8>)], seq: u64) -> Vec<LeaseId> {
    let settled = effects.iter().find_map(|(effect, _)| match effect {
        Effect::Settled(settled) if settled.seq == seq => Some(settled),
        _ => None,
    });
    settled.expect("an answer").lost.clone().unwrap_or_default().into_vec()
}

fn refusal(effects: &[(Effect, Vec<u8>)]) -> Option<Refused> {
    effects.iter().find_map(|(effect, _)| match effect {
        Effect::PublishRefused { refused, .. } => Some((**refused).clone()),
        _ => None,
    })
}

fn first_ids(effects: &[(Effect, Vec<u8>)]) -> Vec<u64> {
    let ids = effects.iter().filter_map(|(effect, _)| match effect {
        Effect::PublishAcked(acked) => Some(acked.first_id.0),
        _ => None,
    });
    ids.collect()
}

#[test]
fn entries_are_small() {
    assert!(size_of::<Message>() <= 96, "{}", size_of::<Message>());
    assert!(size_of::<Lease>() <= 32, "{}", size_of::<Lease>());
}

#[test]
fn a_publish_is_answered_and_delivered_after_its_commit() {
    let mut world = World::new();
    let (producer, consumer) = (world.attach("p"), world.attach("c"));
    world.subscribe(consumer, 1, "jobs", 10);
    world.released();
    world.publish(producer, "jobs", &["one", "two"]);
    assert!(world.released().is_empty(), "nothing leaves before the commit");
    let effects = world.commit();
    assert_eq!(first_ids(&effects), [1]);
    let got = deliveries(&effects);
    assert_eq!(attempt_of(&got), [(1, "one"), (1, "two")]);
    let seq = world.settle(consumer, &[got[0].0.lease, got[1].0.lease], Settlement::Ack);
    assert!(world.released().is_empty(), "an ack is answered after its commit");
    assert!(lost(&world.commit(), seq).is_empty());
    world.restart(0, Duration::ZERO);
    assert_eq!(world.stats("jobs").ready, 0);
    assert_eq!(world.brain.messages.len(), 0);
}

#[test]
fn what_is_durable_is_delivered_at_once() {
    let mut world = World::new();
    let conn = world.attach("c");
    world.publish(conn, "jobs", &["one"]);
    world.commit();
    world.subscribe(conn, 1, "jobs", 1);
    assert_eq!(deliveries(&world.released()).len(), 1, "a lease record delays nothing");
}

#[test]
fn higher_priorities_go_first_and_consumers_take_turns() {
    let mut world = World::new();
    let (one, two) = (world.attach("one"), world.attach("two"));
    for (priority, body) in [(1, "low"), (9, "high"), (1, "low too"), (9, "high too")] {
        let header = MessageHeader { priority, ..Default::default() };
        world.publish_with(one, "jobs", None, &[(header, body.as_bytes())]);
    }
    world.commit();
    // Both wait in line before anything is ready: take the messages away and bring them back.
    world.subscribe(one, 1, "other", 2);
    world.subscribe(two, 1, "other", 2);
    world.apply(|batch| {
        for conn in [one, two] {
            batch.commands.push(Command::Subscribe {
                conn,
                seq: 1,
                subscription: SubscriptionId(2),
                queue: name("jobs"),
                credit_messages: 2,
                credit_bytes: u64::MAX,
            });
        }
    });
    let got = deliveries(&world.commit());
    let order: Vec<_> = got.iter().map(|(deliver, body)| (deliver.conn == one, body.as_str())).collect();
    assert_eq!(order, [(true, "high"), (false, "high too"), (true, "low"), (false, "low too")]);
}

#[test]
fn a_failed_message_backs_off_with_jitter_and_dies_with_its_history() {
    let mut world = World::new();
    let conn = world.attach("worker");
    world.subscribe(conn, 1, "jobs", 1);
    world.publish(conn, "jobs", &["work"]);
    let mut got = deliveries(&world.commit());
    for attempt in 1..=5u64 {
        assert_eq!(attempt_of(&got), [(attempt as u32, "work")]);
        world.settle(conn, &[got[0].0.lease], nack(&format!("exit {attempt}")));
        world.commit();
        if attempt == 5 {
            break;
        }
        let base = 1000 << (attempt - 1);
        world.advance(Duration::from_millis(base - 1));
        assert!(deliveries(&world.commit()).is_empty(), "not before the backoff");
        world.advance(Duration::from_millis(base / 4 + 1));
        got = deliveries(&world.commit());
    }
    world.restart(0, Duration::ZERO);
    let dead = world.dead("jobs");
    assert_eq!((dead[0].reason, dead[0].last_error.as_str(), dead[0].attempts), ("attempts", "exit 5", 5));
    assert_eq!(dead[0].history.len(), 5);
    assert_eq!((dead[0].history[1].client.as_str(), dead[0].history[1].attempt), ("worker", 2));
    let (namespace, queue, selection) = (tenant(), name("jobs"), DeadSelection::One(MessageId(dead[0].id)));
    let to = Some(name("again"));
    let reply = world.operate(OperatorRequest::DeadRedrive { namespace, queue, selection, to, per_s: None });
    assert_eq!(reply, OperatorReply::Changed(1));
    world.restart(0, Duration::ZERO);
    assert_eq!((world.stats("again").ready, world.stats("jobs").dead), (1, 0));
}

#[test]
fn jitter_stays_within_its_bounds() {
    let mut seen = (u64::MAX, 0);
    for round in 0..200 {
        let mut world = World::new();
        world.brain.random = fastrand::Rng::with_seed(round);
        let conn = world.attach("worker");
        world.subscribe(conn, 1, "jobs", 1);
        world.publish(conn, "jobs", &["work"]);
        let got = deliveries(&world.commit());
        world.settle(conn, &[got[0].0.lease], nack(""));
        let until = world.brain.messages.iter().next().unwrap().1.until();
        let delay = world.now.time.millis_until(until);
        seen = (seen.0.min(delay), seen.1.max(delay));
    }
    assert!(seen.0 >= 1000 && seen.1 <= 1250, "{seen:?}");
    assert!(seen.0 < 1050 && seen.1 > 1200, "jitter uses its range: {seen:?}");
}

#[test]
fn an_expired_lease_counts_but_its_late_ack_counts_too() {
    let mut world = World::new();
    let conn = world.attach("c");
    world.subscribe(conn, 1, "jobs", 5);
    world.publish(conn, "jobs", &["late", "other"]);
    let got = deliveries(&world.commit());
    world.advance(Duration::from_secs(30));
    assert_eq!(world.stats("jobs").scheduled, 2, "a lease that expired is retried after its backoff");
    let seq = world.settle(conn, &[got[0].0.lease], Settlement::Ack);
    assert!(lost(&world.commit(), seq).is_empty());
    world.advance(Duration::from_secs(2));
    let again = deliveries(&world.commit());
    assert_eq!(attempt_of(&again), [(2, "other")]);
    let seq = world.settle(conn, &[got[1].0.lease], Settlement::Ack);
    assert_eq!(lost(&world.commit(), seq), [got[1].0.lease], "a newer attempt is under way");
}

#[test]
fn an_extended_lease_lasts_and_an_ack_counts_after_a_restart() {
    let mut world = World::new();
    let conn = world.attach("c");
    world.subscribe(conn, 1, "jobs", 5);
    world.publish(conn, "jobs", &["long"]);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.settle(conn, &[lease], Settlement::Extend { lease_ms: 3_600_000 });
    world.advance(Duration::from_secs(3000));
    assert_eq!(world.stats("jobs").leased, 1);
    world.restart(0, Duration::ZERO);
    assert_eq!(world.stats("jobs").ready, 1, "a restart ends every lease");
    let conn = world.attach("c");
    let seq = world.settle(conn, &[lease], Settlement::Ack);
    assert!(lost(&world.commit(), seq).is_empty());
    assert_eq!(world.brain.messages.len(), 0);
}

#[test]
fn returned_deliveries_are_first_again_and_do_not_count() {
    let mut world = World::new();
    let conn = world.attach("c");
    world.publish(conn, "jobs", &["a", "b", "c"]);
    world.commit();
    world.subscribe(conn, 1, "jobs", 2);
    let got = deliveries(&world.commit());
    let leases: Vec<_> = got.iter().map(|(deliver, _)| deliver.lease).collect();
    world.apply(|batch| {
        batch.commands.push(Command::Return { conn, leases: 2 });
        batch.leases.extend(&leases);
    });
    assert!(deliveries(&world.commit()).is_empty(), "stalled until it asks for more");
    world.command(Command::Resupply { conn });
    assert_eq!(attempt_of(&deliveries(&world.commit())), [(1, "a"), (1, "b")]);
    world.restart(0, Duration::ZERO);
    assert_eq!(world.brain.messages.iter().map(|(_, message)| message.spent).sum::<u16>(), 2);
}

/// As a message it has 16 bytes.
const BODY: &str = "fourteen bytes";

/// Room for ten deliveries of [`BODY`].
fn room_for_ten() -> QueueConfig {
    QueueConfig { delivery_room_bytes: 10 * (16 + limits::DELIVERY_OVERHEAD_BYTES), ..QueueConfig::default() }
}

fn asks_for_room(effects: &[(Effect, Vec<u8>)], conn: ConnKey) -> usize {
    effects.iter().filter(|(effect, _)| matches!(effect, Effect::RoomLow { conn: of } if *of == conn)).count()
}

#[test]
fn a_connection_is_sent_what_its_loop_has_room_for() {
    for body_memory_bytes_max in [0, 1 << 20] {
        let mut world = World::with(QueueConfig { body_memory_bytes_max, ..room_for_ten() });
        let (conn, other) = (world.attach("c"), world.attach("d"));
        world.publish(conn, "jobs", &[BODY; 40]);
        world.commit();
        world.subscribe(conn, 1, "jobs", 1000);
        let effects = world.commit();
        assert_eq!((deliveries(&effects).len(), asks_for_room(&effects, conn)), (10, 1));
        let asked_after = effects.iter().position(|(effect, _)| matches!(effect, Effect::RoomLow { .. }));
        // A body that is read back took its room when it was asked for.
        assert!(asked_after.is_some_and(|at| at < 10), "before there is none left");
        assert!(deliveries(&world.commit()).is_empty(), "until the loop says so");
        for _ in 0..2 {
            world.command(Command::Resupply { conn });
            let effects = world.commit();
            assert_eq!(
                (deliveries(&effects).len(), asks_for_room(&effects, conn)),
                (5, 1),
                "half of it at once"
            );
        }
        world.subscribe(other, 1, "jobs", 15);
        assert_eq!(deliveries(&world.commit()).len(), 10, "others have room of their own");
        world.subscribe(other, 2, "idle", 15);
        assert_eq!(deliveries(&world.commit()).len(), 0);
        let back = world.attach("c");
        world.subscribe(back, 1, "jobs", 1000);
        assert_eq!(deliveries(&world.commit()).len(), 10, "a new connection has it whole");
    }
}

#[test]
fn a_subscription_begun_without_room_waits_for_it() {
    let mut world = World::with(room_for_ten());
    let conn = world.attach("c");
    world.publish(conn, "jobs", &[BODY; 12]);
    world.publish(conn, "more", &[BODY]);
    world.publish(conn, "device/c", &[BODY]);
    world.commit();
    world.subscribe(conn, 1, "jobs", 1000);
    assert_eq!(deliveries(&world.commit()).len(), 10);
    world.subscribe(conn, 2, "more", 1000);
    world.subscribe(conn, 3, "device/c", 1000);
    world.command(Command::Credit { conn, subscription: SubscriptionId(2), messages: 5, bytes: 500 });
    assert!(deliveries(&world.commit()).is_empty());
    world.command(Command::Resupply { conn });
    assert_eq!(deliveries(&world.commit()).len(), 4, "all of its subscriptions go on");
}

#[test]
fn room_taken_for_a_body_that_is_not_wanted_any_more_is_given_back() {
    let mut world = World::with(QueueConfig { body_memory_bytes_max: 0, ..room_for_ten() });
    let conn = world.attach("c");
    world.publish(conn, "jobs", &[BODY; 10]);
    world.commit();
    world.subscribe(conn, 1, "jobs", 1000);
    assert_eq!(world.brain.reads.len(), 10);
    // The leases run out before the bodies are there, and again.
    for _ in 0..3 {
        world.advance(limits::LEASE);
        world.advance(limits::BACKOFF_MAX);
    }
    let effects = world.commit();
    assert_eq!((deliveries(&effects).len(), asks_for_room(&effects, conn)), (10, 1));
}

#[test]
fn a_message_larger_than_the_room_is_delivered_and_then_nothing() {
    let mut world = World::with(room_for_ten());
    let conn = world.attach("c");
    let large = "x".repeat(100_000);
    world.publish(conn, "jobs", &[&large, &large]);
    world.subscribe(conn, 1, "jobs", 1000);
    for _ in 0..2 {
        let effects = world.commit();
        assert_eq!((deliveries(&effects).len(), asks_for_room(&effects, conn)), (1, 1));
        world.command(Command::Resupply { conn });
    }
}

#[test]
fn a_newer_connection_takes_over_and_fences_the_older() {
    let mut world = World::new();
    let (older, first) = world.attach_with("d1", None);
    world.subscribe(older, 1, "device/d1", 5);
    world.publish(older, "device/d1", &["command"]);
    let lease = deliveries(&world.commit())[0].0.lease;
    let resume = Resume { epoch: first.epoch, session_id: first.session_id, leases: vec![lease] };
    let (newer, second) = world.attach_with("d1", Some(resume));
    assert!(second.resumed && second.epoch > first.epoch && second.session_id == first.session_id);
    world.settle(older, &[lease], Settlement::Ack);
    world.publish(older, "jobs", &["ghost"]);
    world.detach(older, true);
    assert!(world.commit().is_empty(), "a fenced connection is not answered");
    assert_eq!(world.stats("device/d1").leased, 1);
    let seq = world.settle(newer, &[lease], Settlement::Ack);
    assert!(lost(&world.commit(), seq).is_empty());
    // The token of the first epoch is not current any more.
    let stale = Resume { epoch: first.epoch, session_id: first.session_id, leases: vec![] };
    let (_, third) = world.attach_with("d1", Some(stale));
    assert!(!third.resumed && third.session_id != first.session_id);
}

#[test]
fn a_take_over_is_announced() {
    let mut world = World::new();
    let older = world.attach("d1");
    let conn = world.conn();
    let attach = Attach { conn, namespace: tenant(), client: ClientId::parse("d1").unwrap(), resume: None };
    world.command(Command::Attach(Box::new(attach)));
    let effects = world.released();
    assert!(matches!(effects[0].0, Effect::TakenOver { conn } if conn == older), "{effects:?}");
    assert!(matches!(effects[1].0, Effect::Attached(_)));
    assert_eq!(world.metrics.take_overs.value(), 1);
}

#[test]
fn a_resume_keeps_what_it_lists_and_the_rest_comes_again_in_the_same_attempt() {
    let mut world = World::new();
    let (conn, attached) = world.attach_with("c", None);
    world.subscribe(conn, 1, "jobs", 5);
    world.publish(conn, "jobs", &["kept", "dropped"]);
    let got = deliveries(&world.commit());
    world.detach(conn, false);
    world.advance(Duration::from_secs(10));
    let leases = vec![got[0].0.lease];
    let resume = Resume { epoch: attached.epoch, session_id: attached.session_id, leases };
    let (conn, attached) = world.attach_with("c", Some(resume));
    assert!(attached.resumed);
    world.subscribe(conn, 1, "jobs", 5);
    assert_eq!(attempt_of(&deliveries(&world.commit())), [(1, "dropped")]);
    assert_eq!(world.stats("jobs").leased, 2);
}

#[test]
fn leases_end_with_grace_bye_or_a_fresh_hello() {
    for ending in ["grace", "bye", "hello"] {
        let mut config = QueueConfig::default();
        config.work_queue.lease = Duration::from_secs(600);
        let mut world = World::with(config);
        let conn = world.attach("c");
        world.subscribe(conn, 1, "jobs", 5);
        world.publish(conn, "jobs", &["work"]);
        world.commit();
        match ending {
            "bye" => world.detach(conn, true),
            "grace" => {
                world.detach(conn, false);
                world.advance(Duration::from_secs(59));
                assert_eq!(world.stats("jobs").leased, 1, "a disconnect changes no lease");
                world.advance(Duration::from_secs(1));
            }
            _ => {
                world.attach("c");
            }
        }
        let stats = world.stats("jobs");
        assert_eq!((stats.ready, stats.leased), (1, 0), "{ending}");
        let sessions = usize::from(ending == "hello");
        assert_eq!(world.brain.directory.clients.len(), sessions, "{ending}");
    }
}

#[test]
fn a_token_of_the_boot_before_resumes_and_takes_its_leases_up() {
    let mut world = World::new();
    let (conn, attached) = world.attach_with("c", None);
    world.subscribe(conn, 1, "jobs", 5);
    world.publish(conn, "jobs", &["work"]);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.restart(0, Duration::from_secs(3));
    let resume =
        || Some(Resume { epoch: attached.epoch, session_id: attached.session_id, leases: vec![lease] });
    let (_, again) = world.attach_with("c", resume());
    assert!(again.resumed && again.session_id == attached.session_id);
    assert_eq!(world.stats("jobs").leased, 1);
    world.restart(0, Duration::from_secs(3));
    world.advance(Duration::from_secs(61));
    assert!(!world.attach_with("c", resume()).1.resumed, "the grace period after the start is over");
}

#[test]
fn a_mailbox_waits_for_its_device_and_costs_nothing_while_empty() {
    let mut world = World::new();
    let pusher = world.attach("pusher");
    world.publish(pusher, "device/d1", &["hello"]);
    world.commit();
    world.restart(0, Duration::from_secs(5));
    let device = world.attach("d1");
    world.subscribe(device, 3, "device/d1", 1);
    let got = deliveries(&world.commit());
    assert_eq!((got[0].1.as_str(), got[0].0.subscription), ("hello", SubscriptionId(3)));
    world.settle(device, &[got[0].0.lease], Settlement::Ack);
    world.commit();
    assert_eq!(world.brain.queues.slab.len(), 0);
    let pusher = world.attach("pusher");
    world.publish(pusher, "device/d1", &["again"]);
    assert_eq!(
        deliveries(&world.commit()).len(),
        1,
        "its credit was replenished while the mailbox did not exist"
    );
}

#[test]
fn a_mailbox_is_consumed_by_its_own_client_only() {
    let mut world = World::new();
    // One with a name that lies in its entry, one whose name needs memory of its own.
    for (own, other) in [("d1", "d2"), ("a-name-of-many-characters-1", "a-name-of-many-characters-2")] {
        let device = world.attach(own);
        world.subscribe(device, 1, &format!("device/{other}"), 1);
        let refused = world.released().into_iter().find_map(|(effect, _)| match effect {
            Effect::Settled(settled) => settled.refused,
            _ => None,
        });
        let refused = refused.expect("a refusal");
        assert_eq!(refused.code, RefusalCode::Invalid);
        assert!(refused.text.contains("another client's mailbox"), "{}", refused.text);
        world.publish(device, &format!("device/{other}"), &["for another"]);
        assert!(deliveries(&world.commit()).is_empty());
        world.subscribe(device, 1, &format!("device/{own}"), 1);
        world.publish(device, &format!("device/{own}"), &["for me"]);
        assert_eq!(deliveries(&world.commit()).len(), 1);
    }
}

#[test]
fn a_client_that_is_idle_again_keeps_nothing_beside_its_entry() {
    let mut config = QueueConfig::default();
    config.work_queue.messages_max = 1;
    let mut world = World::with(config);
    let (conn, other) = (world.attach("c"), world.attach("d"));
    let has_rest =
        |world: &World| world.brain.directory.clients.iter().any(|(_, client)| client.rest.is_some());
    world.subscribe(conn, 1, "device/c", 1);
    assert!(!has_rest(&world), "a device needs its mailbox only");
    world.subscribe(conn, 2, "jobs", 1);
    assert!(has_rest(&world));
    let seq = world.seq();
    world.command(Command::Unsubscribe { conn, seq, subscription: SubscriptionId(2) });
    assert!(!has_rest(&world));
    world.publish(conn, "jobs", &["one"]);
    world.publish(conn, "jobs", &["parked"]);
    assert!(has_rest(&world));
    world.subscribe(other, 1, "jobs", 1);
    let got = deliveries(&world.commit());
    world.settle(other, &[got[0].0.lease], Settlement::Ack);
    let got = deliveries(&world.commit());
    assert_eq!(got[0].1, "parked");
    world.detach(other, true);
    assert!(!has_rest(&world));
}

#[test]
fn a_full_mailbox_rejects_and_a_full_queue_waits() {
    let mut config = QueueConfig::default();
    config.mailbox.messages_max = 1;
    config.work_queue.messages_max = 2;
    let mut world = World::with(config);
    let conn = world.attach("c");
    world.publish(conn, "device/d", &["one"]);
    world.commit();
    world.publish(conn, "device/d", &["two"]);
    let refused = refusal(&world.released()).unwrap();
    assert_eq!((refused.code, refused.retry_after_ms), (RefusalCode::QueueFull, 1000));
    assert!(refused.text.contains("at most 1 messages"), "{}", refused.text);

    world.publish(conn, "jobs", &["a", "b"]);
    world.publish(conn, "jobs", &["c", "d"]);
    world.publish(conn, "jobs", &["e"]);
    assert_eq!(first_ids(&world.commit()).len(), 1);
    assert_eq!(world.stats("jobs").parked, 2);
    world.publish(conn, "jobs", &["1", "2", "3"]);
    assert_eq!(refusal(&world.released()).unwrap().code, RefusalCode::LimitReached);
    world.subscribe(conn, 1, "jobs", 1);
    let got = deliveries(&world.commit());
    world.settle(conn, &[got[0].0.lease], Settlement::Ack);
    let effects = world.commit();
    assert!(
        first_ids(&effects).is_empty(),
        "the first parked one does not fit; the later one may not pass it"
    );
    let got = deliveries(&effects);
    world.settle(conn, &[got[0].0.lease], Settlement::Ack);
    assert_eq!(first_ids(&world.commit()).len(), 1);
    world.detach(conn, true);
    assert_eq!(world.stats("jobs").parked, 0, "a parked publish goes with its connection");
    assert_eq!(world.brain.config.work_queue.when_full, WhenFull::Wait);
}

#[test]
fn replenished_credit_comes_with_the_answer() {
    let mut world = World::new();
    let conn = world.attach("c");
    world.publish(conn, "jobs", &["a", "b", "c"]);
    world.subscribe(conn, 1, "jobs", 2);
    let got = deliveries(&world.commit());
    assert_eq!(attempt_of(&got), [(1, "a"), (1, "b")]);
    world.settle(conn, &[got[0].0.lease], Settlement::Ack);
    assert!(world.released().is_empty(), "what is unanswered stays within the credit");
    let effects = world.commit();
    assert!(effects.iter().any(|(effect, _)| matches!(effect, Effect::Settled(_))), "{effects:?}");
    assert_eq!(attempt_of(&deliveries(&effects)), [(1, "c")]);

    world.publish(conn, "jobs", &["d"]);
    world.commit();
    world.settle(conn, &[got[1].0.lease], Settlement::Ack);
    let again = world.attach("c");
    world.subscribe(again, 1, "jobs", 1);
    let effects = world.commit();
    assert_eq!(deliveries(&effects).len(), 1, "an older connection's credit is not the newer one's");
}

#[test]
fn an_ack_that_comes_late_gives_back_what_its_delivery_used() {
    let mut world = World::new();
    let conn = world.attach("c");
    world.publish(conn, "jobs", &["a", "b", "c", "d"]);
    world.subscribe(conn, 1, "jobs", 1);
    let work_too_long = |world: &mut World, effects: &[(Effect, Vec<u8>)], body: &str| {
        let got = deliveries(effects);
        assert_eq!(attempt_of(&got), [(1, body)]);
        world.advance(Duration::from_secs(30));
        assert_eq!(deliveries(&world.commit()).len(), 0, "{body:?} may be worked on still");
        assert_eq!(world.stats("jobs").leased, 0);
        got[0].0.lease
    };
    let effects = world.commit();
    let lease = work_too_long(&mut world, &effects, "a");
    world.settle(conn, &[lease], Settlement::Ack);
    assert!(deliveries(&world.released()).is_empty(), "it comes with the answer");
    let effects = world.commit();
    world.settle(conn, &[lease], Settlement::Ack);
    assert_eq!(deliveries(&world.commit()).len(), 0, "and once");

    let lease = work_too_long(&mut world, &effects, "b");
    world.settle(conn, &[lease], nack("too late"));
    assert_eq!(deliveries(&world.commit()).len(), 0, "it is named as lost");
    world.settle(conn, &[lease], Settlement::Ack);
    let effects = world.commit();

    let lease = work_too_long(&mut world, &effects, "c");
    world.publish_acking(conn, "next", None, &[lease], &[(MessageHeader::default(), b"of c")]);
    let effects = world.commit();

    let lease = work_too_long(&mut world, &effects, "d");
    let again = world.attach("c");
    world.subscribe(again, 1, "jobs", 1);
    world.settle(again, &[lease], Settlement::Ack);
    world.publish(again, "jobs", &["e", "f"]);
    world.commit();
    assert_eq!(world.stats("jobs").leased, 1, "an older connection's credit is not the newer one's");
}

#[test]
fn a_lease_that_ran_out_on_its_way_gives_its_credit_back() {
    let mut world = World::new();
    let conn = world.attach("c");
    world.publish(conn, "jobs", &["a", "b"]);
    world.subscribe(conn, 1, "jobs", 1);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.advance(Duration::from_secs(30));
    for _ in 0..2 {
        world.apply(|batch| {
            batch.commands.push(Command::Return { conn, leases: 1 });
            batch.leases.push(lease);
        });
    }
    world.command(Command::Resupply { conn });
    let got = deliveries(&world.commit());
    assert_eq!(attempt_of(&got), [(1, "b")], "nobody else can give it back");
    world.publish(conn, "jobs", &["c"]);
    assert_eq!(deliveries(&world.commit()).len(), 0, "once");
}

#[test]
fn a_late_ack_gives_nothing_back_for_others() {
    let mut world = World::new();
    let (conn, other) = (world.attach("c"), world.attach("o"));
    world.publish(conn, "jobs", &["a", "b", "c"]);
    world.subscribe(conn, 1, "jobs", 1);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.advance(Duration::from_secs(30));
    world.settle(other, &[lease], Settlement::Ack);
    assert_eq!(deliveries(&world.commit()).len(), 0, "whoever took it may be at work on it still");

    world.subscribe(other, 1, "jobs", 1);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.advance(Duration::from_secs(30));
    world.advance(Duration::from_secs(5));
    world.subscribe(conn, 2, "jobs", 2);
    let got = deliveries(&world.commit());
    assert_eq!(attempt_of(&got), [(1, "c"), (2, "b")]);
    world.publish(conn, "jobs", &["d"]);
    world.settle(other, &[lease], Settlement::Ack);
    assert_eq!(deliveries(&world.commit()).len(), 0, "another one has its message, and it is named as lost");
}

#[test]
fn a_spent_budget_of_parked_publishes_stops_the_reading() {
    let mut world = World::with(crowded());
    let (conn, worker) = (world.attach("c"), world.attach("w"));
    world.publish(conn, "jobs", &["x"]);
    world.publish(conn, "jobs", &["abc"]);
    assert!(!is_stopped(&world.released()));
    world.publish(conn, "jobs", &["def"]);
    assert!(is_stopped(&world.released()));
    world.subscribe(worker, 1, "jobs", 3);
    for round in 0..3 {
        let effects = world.commit();
        assert_eq!(is_resumed(&effects), round == 2, "round {round}");
        let got = deliveries(&effects);
        world.settle(worker, &[got[0].0.lease], Settlement::Ack);
    }
}

/// One message fills a queue, and one publish that is parked, of a few bytes, leaves the budget just unspent.
fn crowded() -> QueueConfig {
    let mut config = QueueConfig::default();
    config.work_queue.messages_max = 1;
    let message = PublishMessage { header: MessageHeader::default(), body_len: 0 };
    config.parked_bytes_per_namespace_max = crate::queue::parked::charge(&[], &[message], b"four");
    config
}

fn is_stopped(effects: &[(Effect, Vec<u8>)]) -> bool {
    effects.iter().any(|(effect, _)| matches!(effect, Effect::StopReading { .. }))
}

fn is_resumed(effects: &[(Effect, Vec<u8>)]) -> bool {
    effects.iter().any(|(effect, _)| matches!(effect, Effect::ResumeReading { .. }))
}

#[test]
fn one_who_publishes_to_the_queue_it_empties_is_always_read() {
    let mut world = World::with(crowded());
    let conn = world.attach("c");
    world.subscribe(conn, 1, "jobs", 1);
    for body in ["x", "abc", "def"] {
        world.publish(conn, "jobs", &[body]);
    }
    let effects = world.commit();
    assert!(!is_stopped(&effects), "its acks have to be read");
    assert!(refusal(&effects).is_none());
    world.publish(conn, "jobs", &["ghi"]);
    let effects_of_fourth = world.released();
    let refused = refusal(&effects_of_fourth).expect("memory is bounded all the same");
    assert_eq!((refused.code, refused.retry_after_ms), (RefusalCode::QueueFull, 1000));
    // Its acks make room for what is parked, and then for more.
    let mut got = deliveries(&effects);
    for expected in ["x", "abc", "def", "ghi"] {
        assert_eq!(got[0].1, expected);
        if expected == "abc" {
            world.publish(conn, "jobs", &["ghi"]);
        }
        world.settle(conn, &[got[0].0.lease], Settlement::Ack);
        let effects = world.commit();
        assert!(refusal(&effects).is_none());
        got = deliveries(&effects);
    }
    assert_eq!(world.stats("jobs").parked, 0);
}

#[test]
fn one_who_is_not_read_and_turns_out_to_consume_is_read_again() {
    let mut world = World::with(crowded());
    let conn = world.attach("c");
    for body in ["x", "abc", "def"] {
        world.publish(conn, "jobs", &[body]);
    }
    assert!(is_stopped(&world.commit()));
    // It was on its way already when the reading stopped.
    world.subscribe(conn, 1, "jobs", 1);
    assert!(is_resumed(&world.released()));
}

#[test]
fn what_was_sent_behind_a_publish_turned_away_does_not_pass_it() {
    let mut world = World::with(crowded());
    let conn = world.attach("c");
    world.subscribe(conn, 1, "jobs", 1);
    let header = MessageHeader { priority: 4, ..Default::default() };
    let publish = |world: &mut World, sequence: u64, unanswered_from: u64| {
        let producer = ProducerSequence { producer: ProducerId(5), sequence, unanswered_from };
        world.publish_with(conn, "jobs", Some(producer), &[(header, format!("n{sequence}").as_bytes())]);
        refusal(&world.released()).is_some()
    };
    let refused: Vec<bool> = (1..=5).map(|sequence| publish(&mut world, sequence, 1)).collect();
    assert_eq!(refused, [false, false, false, true, true], "one fits, two are parked, the budget is spent");
    let take = |world: &mut World| {
        let got = deliveries(&world.commit());
        world.settle(conn, &[got[0].0.lease], Settlement::Ack);
        got[0].1.clone()
    };
    let mut taken: Vec<String> = (0..3).map(|_| take(&mut world)).collect();
    world.commit();
    assert!(publish(&mut world, 6, 4), "sent before 4 was known to be refused");
    assert!(publish(&mut world, 5, 4), "likewise, though there is room");
    assert!(!publish(&mut world, 4, 4), "tried again");
    assert!(!publish(&mut world, 5, 4));
    taken.extend((0..2).map(|_| take(&mut world)));
    assert_eq!(taken, ["n1", "n2", "n3", "n4", "n5"]);

    // Whoever gives a publish up says so by what it still waits for.
    for sequence in [6, 7, 8] {
        assert!(!publish(&mut world, sequence, 6));
    }
    assert!(publish(&mut world, 9, 6));
    (0..3).for_each(|_| drop(take(&mut world)));
    world.commit();
    assert!(!publish(&mut world, 10, 10), "9 is not tried again");
}

#[test]
fn a_loop_is_told_how_many_of_its_publishes_are_parked() {
    let mut config = QueueConfig::default();
    config.work_queue.messages_max = 1;
    let mut world = World::with(config);
    let (first, second) = (world.attach("a"), world.attach("b"));
    let told = |effects: &[(Effect, Vec<u8>)]| {
        effects.iter().rev().find_map(|(effect, _)| match effect {
            Effect::Parked { publishes, .. } => Some(*publishes),
            _ => None,
        })
    };
    world.publish(first, "jobs", &["fits"]);
    assert_eq!(told(&world.commit()), None);
    for (conn, parked) in [(first, 1), (second, 2), (second, 3)] {
        world.publish(conn, "jobs", &["waits"]);
        assert_eq!(told(&world.released()), Some(parked));
    }
    let worker = world.attach("w");
    world.subscribe(worker, 1, "jobs", 1);
    let got = deliveries(&world.commit());
    world.settle(worker, &[got[0].0.lease], Settlement::Ack);
    assert_eq!(told(&world.commit()), Some(2));
    world.detach(second, false);
    assert_eq!(told(&world.released()), Some(0));
}

#[test]
fn a_full_disk_refuses_publishes_and_lets_acks_through() {
    let mut world = World::new();
    let conn = world.attach("c");
    world.subscribe(conn, 1, "jobs", 1);
    world.publish(conn, "jobs", &["work"]);
    let got = deliveries(&world.commit());
    world.journal.room = Room::Reserved;
    world.publish(conn, "jobs", &["more"]);
    assert_eq!(refusal(&world.released()).unwrap().code, RefusalCode::DiskFull);
    let seq = world.settle(conn, &[got[0].0.lease], Settlement::Ack);
    assert!(lost(&world.commit(), seq).is_empty());
}

fn produce(world: &mut World, conn: ConnKey, sequence: u64, unanswered_from: u64, bodies: &[&str]) {
    let producer = Some(ProducerSequence { producer: ProducerId(7), sequence, unanswered_from });
    let messages: Vec<_> = bodies.iter().map(|body| (MessageHeader::default(), body.as_bytes())).collect();
    world.publish_with(conn, "jobs", producer, &messages);
}

#[test]
fn a_producers_resend_is_answered_with_the_original_ids() {
    let mut world = World::new();
    let conn = world.attach("p");
    produce(&mut world, conn, 1, 1, &["a", "b"]);
    produce(&mut world, conn, 1, 1, &["a", "b"]);
    assert!(world.released().is_empty(), "a duplicate waits for its original's commit");
    assert_eq!(first_ids(&world.commit()), [1, 1]);
    // A gap may be used later; part of a known batch with something new may not.
    produce(&mut world, conn, 5, 1, &["e"]);
    produce(&mut world, conn, 3, 1, &["c", "d"]);
    assert_eq!(first_ids(&world.commit()), [3, 4]);
    produce(&mut world, conn, 2, 1, &["b", "c"]);
    assert_eq!(refusal(&world.released()).unwrap().code, RefusalCode::Invalid);
    // Everything is acked and its records are moved; the mark lives on.
    world.subscribe(conn, 1, "jobs", 10);
    let leases: Vec<_> = deliveries(&world.commit()).iter().map(|(deliver, _)| deliver.lease).collect();
    assert_eq!(leases.len(), 5);
    world.settle(conn, &leases, Settlement::Ack);
    world.commit();
    world.compact(100);
    world.restart(0, Duration::ZERO);
    let conn = world.attach("p");
    produce(&mut world, conn, 3, 3, &["c", "d"]);
    assert_eq!(first_ids(&world.commit()), [4]);
    produce(&mut world, conn, 6, 6, &["f"]);
    assert_eq!(first_ids(&world.commit()), [6]);
    produce(&mut world, conn, 3, 3, &["c", "d"]);
    assert_eq!(refusal(&world.released()).unwrap().code, RefusalCode::StaleSequence);
    let detach = Detach { conn, bye: true, reason: DetachReason::Bye, retired_producer: Some(ProducerId(7)) };
    world.command(Command::Detach(detach));
    world.commit();
    assert!(world.brain.marks.table.is_empty());
    world.restart(0, Duration::ZERO);
    assert!(world.brain.marks.table.is_empty(), "retired for good");
}

#[test]
fn bodies_beyond_the_budget_are_read_back() {
    let config = QueueConfig { body_memory_bytes_max: 11, reads_max: 1, ..QueueConfig::default() };
    let mut world = World::with(config);
    let conn = world.attach("c");
    world.publish(conn, "jobs", &["one", "two", "three"]);
    world.commit();
    assert_eq!(world.brain.messages.bodies.live_bytes(), 11, "the first, with its header");
    world.subscribe(conn, 1, "jobs", 10);
    assert_eq!((world.brain.reads.len(), world.brain.leases.len()), (1, 2), "one read at a time");
    let got = deliveries(&world.commit());
    assert_eq!(attempt_of(&got), [(1, "one"), (1, "two"), (1, "three")]);
}

#[test]
fn bodies_that_are_read_back_are_bounded_in_bytes() {
    let mut world = World::with(QueueConfig { body_memory_bytes_max: 0, ..roomy() });
    let conn = world.attach("c");
    let body = "x".repeat(limits::READING_BYTES_MAX as usize / 2);
    for _ in 0..5 {
        world.publish(conn, "jobs", &[&body]);
    }
    world.commit();
    world.subscribe(conn, 1, "jobs", 10);
    assert_eq!(world.brain.reads.len(), 2, "as many as there is room for");
    let mut got = Vec::new();
    // Returned while they were read, they are read again; the room is free all the same.
    world.detach(conn, true);
    world.serve_reads();
    let conn = world.attach("c");
    world.subscribe(conn, 1, "jobs", 10);
    while got.len() < 5 {
        assert!(world.brain.reads.len() <= 2);
        got.extend(
            deliveries(&world.commit()).into_iter().map(|(deliver, body)| (deliver.lease, body.len())),
        );
        world.advance(Duration::ZERO);
    }
    assert!(got.iter().all(|(_, len)| *len == body.len()));
    assert_eq!((world.brain.reads.len(), world.brain.reading_bytes), (0, 0));
    // One that is larger than all the room is read alone.
    let leases: Vec<_> = got.into_iter().map(|(lease, _)| lease).collect();
    world.settle(conn, &leases, Settlement::Ack);
    let largest = "x".repeat(limits::MESSAGE_BYTES_MAX);
    world.publish(conn, "jobs", &[&largest]);
    assert_eq!(deliveries(&world.commit()).len(), 1);
}

#[test]
fn a_delivery_still_on_its_way_keeps_its_lease() {
    let mut world = World::new();
    let (conn, other) = (world.attach("c"), world.attach("d"));
    world.subscribe(conn, 1, "jobs", 1);
    world.publish(conn, "jobs", &["work"]);
    let lease = deliveries(&world.commit())[0].0.lease;
    for _ in 0..10 {
        world.advance(limits::LEASE / 2);
        world.command(Command::Renew { conn, lease });
    }
    assert_eq!(world.stats("jobs").leased, 1);
    // Nobody else's word counts, nor one about an older lease.
    world.advance(limits::LEASE / 2);
    world.command(Command::Renew { conn: other, lease });
    world.command(Command::Renew { conn, lease: LeaseId { attempt: 2, ..lease } });
    world.advance(limits::LEASE / 2);
    assert_eq!(world.stats("jobs").leased, 0);
    world.command(Command::Renew { conn, lease });
    assert_eq!(world.stats("jobs").leased, 0);
}

#[test]
fn a_message_expires_unless_it_is_leased() {
    let mut world = World::new();
    let conn = world.attach("c");
    let header = MessageHeader { ttl_ms: 1000, ..Default::default() };
    world.publish_with(conn, "jobs", None, &[(header, b"leased"), (header, b"waiting")]);
    world.subscribe(conn, 1, "jobs", 1);
    world.commit();
    world.advance(Duration::from_millis(1000));
    let stats = world.stats("jobs");
    assert_eq!((stats.leased, stats.dead), (1, 1));
    assert_eq!(world.dead("jobs")[0].reason, "expired");
    world.advance(Duration::from_secs(29));
    world.advance(Duration::from_secs(2));
    assert_eq!(world.stats("jobs").dead, 2, "it expires when its lease is over");
}

#[test]
fn a_delay_survives_a_restart_and_a_due_time_follows_the_wall_clock() {
    let mut world = World::new();
    let conn = world.attach("c");
    let delayed = MessageHeader { delay_ms: 10_000, ..Default::default() };
    let due = MessageHeader { due: Wall(world.now.wall.0 + 10_000), ..Default::default() };
    world.publish_with(conn, "jobs", None, &[(delayed, b"delayed"), (due, b"due")]);
    world.commit();
    world.restart(0, Duration::from_secs(4));
    world.now.wall.0 -= 3_000;
    world.advance(Duration::from_secs(6));
    let stats = world.stats("jobs");
    assert_eq!((stats.ready, stats.scheduled), (1, 1), "the wall clock went back by 3 s");
    world.advance(Duration::from_secs(3));
    assert_eq!(world.stats("jobs").ready, 2);
}

#[test]
fn queues_are_listed_in_pages_by_name() {
    let mut world = World::new();
    let conn = world.attach("c");
    for queue in ["b", "a", "device/x", "c"] {
        world.publish(conn, queue, &["x"]);
    }
    let mut page = |after: Option<&str>, mailboxes| {
        let (namespace, after) = (tenant(), after.map(str::to_owned));
        match world.operate(OperatorRequest::Queues { namespace, mailboxes, after, limit: 2 }) {
            OperatorReply::Queues(rows) => rows.into_iter().map(|row| row.queue).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page(None, false), ["a", "b"]);
    assert_eq!(page(Some("b"), true), ["c", "device/x"]);
    assert_eq!(page(Some("b"), false), ["c"]);
}

#[test]
fn another_tenant_cannot_act_on_a_lease() {
    let mut world = World::new();
    let conn = world.attach("c");
    world.subscribe(conn, 1, "jobs", 1);
    world.publish(conn, "jobs", &["work"]);
    let lease = deliveries(&world.commit())[0].0.lease;
    let stranger = world.conn();
    let (namespace, client) = (Namespace::parse("other").unwrap(), ClientId::parse("c").unwrap());
    let attach = Attach { conn: stranger, namespace, client, resume: None };
    world.command(Command::Attach(Box::new(attach)));
    world.released();
    let seq = world.settle(stranger, &[lease], Settlement::Ack);
    assert_eq!(lost(&world.commit(), seq), [lease]);
}

#[test]
fn ids_and_boots_never_repeat() {
    let mut world = World::new();
    let mut last = 0;
    for boot in 1..4 {
        assert_eq!(world.boot, Boot(boot));
        let conn = world.attach("c");
        world.subscribe(conn, 1, "jobs", 1);
        world.publish(conn, "jobs", &["work"]);
        let effects = world.commit();
        let id = first_ids(&effects)[0];
        assert!(id > last);
        last = id;
        world.settle(conn, &[deliveries(&effects)[0].0.lease], Settlement::Ack);
        world.commit();
        // Everything but what is live goes.
        world.compact(1000);
        world.restart(0, Duration::ZERO);
    }
}

#[test]
fn a_large_credit_is_served_as_the_outbox_drains() {
    let mut world = World::with(roomy());
    let (producer, consumer) = (world.attach("p"), world.attach("c"));
    let body = "x".repeat(1 << 20);
    for _ in 0..10 {
        world.publish(producer, "jobs", &[&body]);
    }
    world.commit();
    world.subscribe(consumer, 1, "jobs", 1000);
    let mut got = Vec::new();
    let mut rounds = 0;
    while got.len() < 10 {
        let released = deliveries(&world.released());
        let bytes: usize = released.iter().map(|(_, body)| body.len()).sum();
        assert!((1..=limits::DELIVERIES_HELD_BYTES_MAX).contains(&bytes), "{bytes} bytes at once");
        got.extend(released.into_iter().map(|(deliver, _)| deliver.lease.message.0));
        assert_eq!(world.brain.is_holding_back(), got.len() < 10);
        world.advance(Duration::ZERO);
        rounds += 1;
    }
    assert!(got.is_sorted(), "{got:?}");
    assert!(rounds > 2 && !world.brain.is_holding_back());
}

#[test]
fn a_queue_that_is_held_back_may_go_away() {
    let mut world = World::with(roomy());
    let (producer, consumer) = (world.attach("p"), world.attach("c"));
    let body = "x".repeat(1 << 20);
    for _ in 0..5 {
        world.publish(producer, "jobs", &[&body]);
    }
    world.commit();
    world.subscribe(consumer, 1, "jobs", 1000);
    assert!(world.brain.is_holding_back());
    world.detach(consumer, true);
    world.released();
    let consumer = world.attach("c");
    world.subscribe(consumer, 1, "jobs", 1000);
    let leases: Vec<_> = deliveries(&world.released()).iter().map(|(deliver, _)| deliver.lease).collect();
    world.settle(consumer, &leases, Settlement::Ack);
    let rest = deliveries(&world.commit());
    let leases: Vec<_> = rest.iter().map(|(deliver, _)| deliver.lease).collect();
    world.settle(consumer, &leases, Settlement::Ack);
    world.detach(consumer, true);
    world.commit();
    world.advance(Duration::ZERO);
    assert!(!world.brain.is_holding_back());
}

#[test]
fn what_is_in_memory_does_not_overtake_what_is_read_back() {
    let mut world = World::new();
    let conn = world.attach("worker");
    world.publish(conn, "jobs", &["1", "2", "3", "4"]);
    world.commit();
    for id in [1, 3] {
        let slot = world.brain.messages.find(MessageId(id)).unwrap();
        world.brain.messages.drop_body(slot);
    }
    world.subscribe(conn, 1, "jobs", 10);
    assert_eq!(deliveries(&world.released()).len(), 0, "the first one is being read");
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(deliveries(&world.commit()).into_iter().map(|(_, body)| body));
    }
    assert_eq!(seen, ["1", "2", "3", "4"]);
}

#[test]
fn a_lease_whose_read_is_abandoned_lets_the_others_go_on() {
    let mut world = World::new();
    let (first, second) = (world.attach("first"), world.attach("second"));
    world.publish(first, "jobs", &["1", "2"]);
    world.commit();
    let slot = world.brain.messages.find(MessageId(1)).unwrap();
    world.brain.messages.drop_body(slot);
    world.subscribe(first, 1, "jobs", 1);
    world.subscribe(second, 1, "jobs", 1);
    assert_eq!(deliveries(&world.released()).len(), 0);
    // The lease ends before its body is there.
    world.detach(first, true);
    let seen: Vec<String> = deliveries(&world.commit()).into_iter().map(|(_, body)| body).collect();
    assert_eq!(seen, ["1"], "it is tried again first");
}

/// The boot record lies behind the record of the lease then.
#[test]
fn a_late_ack_counts_although_compaction_moved_the_record_of_its_boot() {
    let mut world = World::new();
    let conn = world.attach("worker");
    world.publish(conn, "jobs", &["x"]);
    world.commit();
    world.subscribe(conn, 1, "jobs", 1);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.compact(2);
    world.restart(0, Duration::from_secs(1));
    let conn = world.attach("worker");
    let seq = world.settle(conn, &[lease], Settlement::Ack);
    let settled = world.commit().into_iter().find_map(|(effect, _)| match effect {
        Effect::Settled(settled) if settled.seq == seq => Some(settled),
        _ => None,
    });
    assert!(settled.unwrap().lost.is_none(), "the lease is the newest");
}

const HOUR_MS: u64 = 3_600_000;
const TEN_YEARS_MS: u64 = 10 * 366 * 24 * HOUR_MS;

/// Jumps of the wall clock, in milliseconds.
const JUMPS: [i64; 4] = [HOUR_MS as i64, -(HOUR_MS as i64), TEN_YEARS_MS as i64, -(TEN_YEARS_MS as i64)];

fn jump(world: &mut World, by_ms: i64) {
    world.now.wall.0 = world.now.wall.0.saturating_add_signed(by_ms);
    world.turn(|brain, turn| brain.expire(turn));
}

#[test]
fn a_wall_clock_that_jumps_moves_no_lease_delay_backoff_or_expiry() {
    for by_ms in JUMPS {
        let mut world = World::new();
        let conn = world.attach("worker");
        world.publish(conn, "leased", &["x"]);
        let delayed = MessageHeader { delay_ms: 30_000, ..Default::default() };
        let mortal = MessageHeader { ttl_ms: 30_000, ..Default::default() };
        world.publish_with(conn, "delayed", None, &[(delayed, b"x")]);
        world.publish_with(conn, "mortal", None, &[(mortal, b"x")]);
        world.subscribe(conn, 1, "leased", 1);
        assert_eq!(deliveries(&world.commit())[0].0.lease_ms, 30_000);
        jump(&mut world, by_ms);
        world.advance(Duration::from_millis(29_999));
        let states = |world: &mut World| {
            let (leased, delayed) = (world.stats("leased").leased, world.stats("delayed").scheduled);
            (leased, delayed, world.stats("mortal").ready)
        };
        assert_eq!(states(&mut world), (1, 1, 1), "a jump of {by_ms} ms");
        world.advance(Duration::from_millis(1));
        assert_eq!(states(&mut world), (0, 0, 0), "a jump of {by_ms} ms");
        // The lease that expired waits for its backoff, of a second and up to a quarter more.
        jump(&mut world, -by_ms);
        world.advance(Duration::from_millis(999));
        assert_eq!(world.stats("leased").scheduled, 1);
        world.advance(Duration::from_millis(251));
        assert_eq!(world.stats("leased").scheduled, 0);
    }
}

#[test]
fn what_is_due_by_the_wall_clock_follows_its_jumps() {
    let due_in = |world: &mut World, conn: ConnKey, ms: u64| {
        let header = MessageHeader { due: Wall(world.now.wall.0 + ms), ..Default::default() };
        world.publish_with(conn, "jobs", None, &[(header, b"x")]);
        world.commit();
    };
    // Forward: its time has come, and is noticed without anything else to do.
    let mut world = World::new();
    let conn = world.attach("worker");
    due_in(&mut world, conn, HOUR_MS);
    let looked_at = world.brain.next_deadline().unwrap();
    assert!(looked_at <= world.now.time + Duration::from_secs(1), "{looked_at:?}");
    jump(&mut world, HOUR_MS as i64 - 1_000);
    assert_eq!(world.stats("jobs").scheduled, 1);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.stats("jobs").ready, 1);
    // Back: it waits for its time, also across a restart.
    let mut world = World::new();
    let conn = world.attach("worker");
    due_in(&mut world, conn, 5_000);
    jump(&mut world, -(HOUR_MS as i64));
    world.advance(Duration::from_secs(6));
    assert_eq!(world.stats("jobs").scheduled, 1);
    world.restart(0, Duration::from_secs(1));
    world.advance(Duration::from_secs(1));
    assert_eq!(world.stats("jobs").scheduled, 1);
    world.advance(Duration::from_millis(HOUR_MS));
    assert_eq!(world.stats("jobs").ready, 1);
    // Once somebody had it, nothing takes that back.
    let conn = world.attach("worker");
    world.subscribe(conn, 1, "jobs", 1);
    let lease = deliveries(&world.commit())[0].0.lease;
    world.settle(conn, &[lease], nack("again"));
    jump(&mut world, -(TEN_YEARS_MS as i64));
    world.advance(Duration::from_secs(2));
    assert_eq!(world.stats("jobs").scheduled, 0, "a retry waits for its backoff alone");
    // Back while nothing waits, and forward again.
    let mut world = World::new();
    let conn = world.attach("worker");
    due_in(&mut world, conn, 1_000);
    world.advance(Duration::from_secs(1));
    jump(&mut world, -(HOUR_MS as i64));
    due_in(&mut world, conn, 5_000);
    jump(&mut world, HOUR_MS as i64);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.stats("jobs").ready, 2);
    // The same between two looks, while another one waits.
    due_in(&mut world, conn, 10 * HOUR_MS);
    world.now.wall.0 -= HOUR_MS;
    due_in(&mut world, conn, 5_000);
    world.now.wall.0 += HOUR_MS;
    world.advance(Duration::from_secs(1));
    assert_eq!((world.stats("jobs").ready, world.stats("jobs").scheduled), (3, 1));
}

/// What was timed by the clocks of another life is looked at anew after a start.
#[test]
fn a_due_time_that_came_has_come_after_a_restart_too() {
    // The wall clock shows what the shard's does then, as on the first day of a server.
    let mut world = World::new();
    world.advance(Duration::from_millis(2 * HOUR_MS));
    world.now.wall = Wall(world.now.time.0 - HOUR_MS);
    let conn = world.attach("c");
    let due = MessageHeader { due: Wall(world.now.wall.0 + HOUR_MS), ..Default::default() };
    world.publish_with(conn, "jobs", None, &[(due, b"x")]);
    jump(&mut world, HOUR_MS as i64);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.stats("jobs").ready, 1);
    world.publish(conn, "other", &["x"]);
    world.commit();
    world.restart(0, Duration::ZERO);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.stats("jobs").ready, 1);
}

/// It is moved when the wall clock has just been set forward, and the newest clock of the log is from before.
#[test]
fn a_message_that_is_moved_still_waits_for_its_due_time_alone() {
    let mut world = World::new();
    let conn = world.attach("c");
    let due = MessageHeader { due: Wall(world.now.wall.0 + 5_000), ..Default::default() };
    world.publish_with(conn, "jobs", None, &[(due, b"x")]);
    jump(&mut world, -(HOUR_MS as i64));
    world.advance(Duration::from_secs(6));
    let count = world.journal.records.len();
    let is_publish = |record: &[u8]| matches!(record::decode(record), Ok(record::Record::Publish(_)));
    let before = world.journal.records.values().position(|(_, record)| is_publish(record)).unwrap();
    world.compact(before);
    world.now.wall.0 += HOUR_MS;
    world.compact(count - before);
    world.publish(conn, "other", &["x"]);
    world.commit();
    world.restart(0, Duration::ZERO);
    world.advance(Duration::from_secs(1));
    assert_eq!((world.stats("jobs").ready, world.stats("jobs").scheduled), (1, 0));
}

/// The snapshot of a message says by the wall clock when it was published, and that may have been set since.
#[test]
fn a_message_that_is_moved_is_as_old_as_before() {
    for by_ms in JUMPS {
        let mut world = World::new();
        let conn = world.attach("c");
        world.publish(conn, "jobs", &["x"]);
        world.advance(Duration::from_secs(100));
        let count = world.journal.records.len();
        world.now.wall.0 = world.now.wall.0.saturating_add_signed(by_ms);
        world.compact(count);
        world.publish(conn, "other", &["x"]);
        world.commit();
        world.restart(0, Duration::ZERO);
        assert_eq!(world.stats("jobs").oldest_ready_age_ms, 100_000, "a jump of {by_ms} ms");
    }
}

#[test]
fn a_time_to_live_begins_when_the_message_is_due() {
    let mut world = World::new();
    let conn = world.attach("p");
    let now = world.now.wall.0;
    let delayed = MessageHeader { delay_ms: 5000, ttl_ms: 1000, ..Default::default() };
    let due = MessageHeader { due: Wall(now + 5000), ttl_ms: 1000, ..Default::default() };
    let plain = MessageHeader { ttl_ms: 1000, ..Default::default() };
    for (header, body) in [(delayed, b"delayed"), (due, b"due....")] {
        world.publish_with(conn, "jobs", None, &[(header, body)]);
    }
    world.publish_with(conn, "jobs", None, &[(plain, b"plain")]);
    world.set("mail", &[("ttl", "1s")]);
    let by_rule = MessageHeader { delay_ms: 5000, ..Default::default() };
    world.publish_with(conn, "mail", None, &[(by_rule, b"by rule")]);
    world.commit();
    let counts = |world: &mut World, queue: &str| {
        let stats = world.stats(queue);
        (stats.scheduled, stats.ready, stats.dead)
    };
    world.advance(Duration::from_millis(4900));
    assert_eq!((counts(&mut world, "jobs"), counts(&mut world, "mail")), ((2, 0, 1), (1, 0, 0)));
    world.restart(0, Duration::ZERO);
    world.advance(Duration::from_millis(1000));
    assert_eq!((counts(&mut world, "jobs"), counts(&mut world, "mail")), ((0, 2, 1), (0, 1, 0)));
    world.advance(Duration::from_millis(200));
    assert_eq!((counts(&mut world, "jobs"), counts(&mut world, "mail")), ((0, 0, 3), (0, 0, 1)));
}
