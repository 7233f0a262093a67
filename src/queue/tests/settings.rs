//! What a queue has of its own, and what messages say of themselves.

use super::*;

fn own(world: &mut World, queue: &str) -> Vec<(String, String)> {
    let reply = world.operate(OperatorRequest::QueueSettings { namespace: tenant(), queue: name(queue) });
    let OperatorReply::Settings(rows) = reply else { panic!("{reply:?}") };
    rows.into_iter().filter(|row| row.is_own).map(|row| (row.key, row.value)).collect()
}

#[test]
fn a_setting_holds_through_restarts_and_compactions_until_it_is_reset() {
    let mut world = World::new();
    assert!(matches!(
        world.set("jobs", &[("attempts", "1"), ("weight.gold", "3")]),
        OperatorReply::Settings(_)
    ));
    for round in 0..3 {
        match round {
            0 => {}
            1 => world.restart(0, Duration::from_secs(1)),
            _ => world.compact(100),
        }
        let conn = world.attach("worker");
        world.publish(conn, "jobs", &["once"]);
        world.subscribe(conn, 1, "jobs", 1);
        let effects = world.commit();
        let lease = deliveries(&effects)[0].0.lease;
        world.settle(conn, &[lease], nack("no"));
        world.commit();
        assert_eq!(world.dead("jobs").len(), round + 1, "one attempt is all there is");
    }
    let expected = [("attempts".to_owned(), "1".to_owned()), ("weight.gold".to_owned(), "3".to_owned())];
    assert_eq!(own(&mut world, "jobs"), expected);
    world.set("jobs", &[("attempts", ""), ("weight.gold", "")]);
    world.restart(0, Duration::from_secs(1));
    assert_eq!(own(&mut world, "jobs"), []);
}

#[test]
fn a_queue_with_settings_is_there_while_it_is_empty_and_goes_with_them() {
    let mut world = World::new();
    world.set("jobs", &[("attempts", "1")]);
    assert_eq!(world.brain.queues.slab.len(), 1);
    world.set("jobs", &[("attempts", "")]);
    assert_eq!(world.brain.queues.slab.len(), 0);
}

#[test]
fn all_changes_are_made_or_none() {
    let mut world = World::new();
    let reply = world.set("jobs", &[("attempts", "3"), ("colour", "red")]);
    assert!(matches!(reply, OperatorReply::Refused(refused) if refused.text.contains("colour")));
    let reply = world.set("jobs", &[("backoff_initial", "1h"), ("backoff_max", "1m")]);
    assert!(
        matches!(reply, OperatorReply::Refused(refused) if refused.text.contains("longer than backoff_max"))
    );
    let reply = world.set("topic/news", &[("attempts", "3")]);
    assert!(matches!(reply, OperatorReply::Refused(refused) if refused.text.contains("topic")));
    assert_eq!(own(&mut world, "jobs"), []);
    assert_eq!(world.brain.queues.slab.len(), 0, "a refused setting leaves no queue behind");
}

/// Compaction moves the settings behind the messages that were published under them.
#[test]
fn a_message_expires_as_its_queue_said_when_it_was_published() {
    let mut world = World::new();
    world.set("jobs", &[("ttl", "10s")]);
    world.set("device/phone", &[("ttl", "0")]);
    let conn = world.attach("producer");
    // The settings' records are the oldest ones; what was published stays where it is.
    world.publish(conn, "jobs", &["short"]);
    world.publish(conn, "device/phone", &["for ever"]);
    world.commit();
    world.compact(4);
    world.restart(0, Duration::from_secs(1));
    world.advance(Duration::from_secs(10));
    assert_eq!((world.stats("jobs").ready, world.stats("jobs").dead), (0, 1));
    world.advance(Duration::from_secs(30 * 86_400));
    assert_eq!((world.stats("device/phone").ready, world.stats("device/phone").dead), (1, 0));
}

#[test]
fn a_message_is_leased_and_retried_as_it_says_itself() {
    let mut world = World::new();
    let retry = proto::Retry {
        initial_ms: Some(5_000),
        factor_percent: Some(300),
        max_ms: Some(20_000),
        jitter_percent: Some(0),
    };
    let message = proto::Message { retry: Some(retry), lease_ms: 7_000, ..Default::default() };
    let (header, body) = encoded(&message);
    assert!(header.has_options);
    let conn = world.attach("worker");
    world.publish_with(conn, "jobs", None, &[(header, &body)]);
    world.commit();
    for (attempt, wait) in [5_000, 15_000, 20_000].into_iter().enumerate() {
        // What it says is in the message, wherever that lies.
        match attempt {
            1 => world.restart(0, Duration::from_secs(0)),
            2 => {
                world.compact(100);
                world.restart(0, Duration::from_secs(0));
            }
            _ => {}
        }
        world.advance(Duration::ZERO);
        let conn = world.attach("worker");
        world.subscribe(conn, 1, "jobs", 1);
        let effects = world.commit();
        let (deliver, _) = deliveries(&effects)[0];
        assert_eq!(deliver.lease_ms, 7_000);
        world.settle(conn, &[deliver.lease], nack("no"));
        assert_eq!(world.stats("jobs").scheduled, 1);
        world.advance(Duration::from_millis(wait - 1));
        assert_eq!(world.stats("jobs").scheduled, 1, "attempt {attempt} waits {wait} ms");
        let conn = world.attach("worker");
        world.advance(Duration::from_millis(1));
        assert_eq!(world.stats("jobs").ready, 1, "attempt {attempt} waits {wait} ms");
        world.detach(conn, false);
    }
}
