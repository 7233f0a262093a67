//! Schedules: what comes due, what was missed, jumps of the wall clock, restarts and compactions.

use std::collections::BTreeMap;

use prost::Message as _;

use super::*;
use crate::cron::Cron;
use crate::wire::proto;

const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 366 * 24 * HOUR_MS;

fn named(name: &str) -> ScheduleName {
    ScheduleName::parse(name).unwrap()
}

fn spec(name: &str, cron: &str, misfire: Misfire) -> ScheduleSpec {
    let message = proto::Message { payload: b"work".to_vec(), priority: 8, ..Default::default() };
    ScheduleSpec {
        name: named(name),
        cron: cron.to_owned(),
        time_zone: "UTC".to_owned(),
        queue: super::name("jobs"),
        misfire,
        missed_max: 1000,
        is_paused: false,
        body: message.encode_to_vec(),
    }
}

fn add(world: &mut World, spec: ScheduleSpec) -> ScheduleRow {
    match world.operate(OperatorRequest::ScheduleAdd { namespace: tenant(), schedule: Box::new(spec) }) {
        OperatorReply::Schedules(mut rows) => rows.remove(0),
        other => panic!("{other:?}"),
    }
}

fn refused(world: &mut World, spec: ScheduleSpec) -> String {
    match world.operate(OperatorRequest::ScheduleAdd { namespace: tenant(), schedule: Box::new(spec) }) {
        OperatorReply::Refused(refused) => refused.text,
        other => panic!("{other:?}"),
    }
}

fn rows(world: &mut World) -> Vec<ScheduleRow> {
    let request = OperatorRequest::Schedules { namespace: tenant(), after: None, limit: 100 };
    match world.operate(request) {
        OperatorReply::Schedules(rows) => rows,
        other => panic!("{other:?}"),
    }
}

fn row(world: &mut World) -> ScheduleRow {
    rows(world).remove(0)
}

fn pause(world: &mut World, is_paused: bool) {
    let request = OperatorRequest::SchedulePause { namespace: tenant(), name: named("s"), is_paused };
    assert!(matches!(world.operate(request), OperatorReply::Schedules(rows) if rows.len() == 1));
}

/// Takes and acks all that is there: id, schedule and time of each message, in order of their ids.
fn take(world: &mut World) -> BTreeMap<u64, (String, String)> {
    let conn = world.attach("worker");
    world.subscribe(conn, 1, "jobs", 100_000);
    let mut taken = BTreeMap::new();
    loop {
        let effects = world.commit();
        let mut leases = Vec::new();
        for (effect, body) in &effects {
            let Effect::Deliver(deliver) = effect else { continue };
            let message = proto::Message::decode(body.as_slice()).unwrap();
            assert_eq!((message.payload.as_slice(), message.priority), (&b"work"[..], 8));
            let attribute = |name: &str| message.attributes[name].clone();
            taken.insert(deliver.lease.message.0, (attribute("schedule"), attribute("scheduled_for")));
            leases.push(deliver.lease);
        }
        if leases.is_empty() {
            break;
        }
        world.settle(conn, &leases, Settlement::Ack);
    }
    world.detach(conn, true);
    world.commit();
    taken
}

fn times(world: &mut World) -> Vec<String> {
    take(world).into_values().map(|(_, time)| time).collect()
}

/// Lets time pass, looked at as often as the brain asks.
fn run(world: &mut World, by: Duration) {
    let until = world.now.time + by;
    while world.now.time < until {
        let next = world
            .brain
            .next_deadline()
            .unwrap_or(until)
            .clamp(world.now.time + Duration::from_millis(1), until);
        world.advance(next - world.now.time);
    }
}

fn local(wall: u64) -> String {
    Cron::parse("@daily", "UTC").unwrap().local(Wall(wall))
}

/// The world's clock begins at 2001-09-09T01:46:40Z.
#[test]
fn it_publishes_at_its_times_and_says_which() {
    let mut world = World::new();
    let added = add(&mut world, spec("s", "*/10 * * * * *", Misfire::Once));
    assert_eq!((added.last, added.next.as_deref()), (None, Some("2001-09-09T01:46:50+00:00")));
    run(&mut world, Duration::from_millis(9_999));
    assert_eq!(world.stats("jobs").ready, 0);
    run(&mut world, Duration::from_millis(1));
    assert_eq!(world.stats("jobs").ready, 1, "to the millisecond");
    run(&mut world, Duration::from_secs(25));
    let expected = ["2001-09-09T01:46:50+00:00", "2001-09-09T01:47:00+00:00", "2001-09-09T01:47:10+00:00"];
    assert_eq!(times(&mut world), expected);
    let row = row(&mut world);
    assert_eq!(row.last.as_deref(), Some("2001-09-09T01:47:10+00:00"));
    assert_eq!(row.next.as_deref(), Some("2001-09-09T01:47:20+00:00"));
    assert_eq!(world.metrics.schedule_firings.value(), 3);
    assert_eq!(world.metrics.schedule_misfires.value(), 0);
}

#[test]
fn what_was_missed_while_the_server_was_down_is_dealt_with_by_its_policy() {
    for (misfire, expected) in [
        (Misfire::Skip, vec![]),
        (Misfire::Once, vec!["02:40"]),
        (Misfire::All, vec!["01:50", "02:00", "02:10", "02:20", "02:30", "02:40"]),
    ] {
        let mut world = World::new();
        add(&mut world, spec("s", "*/10 * * * *", misfire));
        world.restart(0, Duration::from_millis(HOUR_MS));
        run(&mut world, Duration::from_secs(5));
        let expected: Vec<String> =
            expected.iter().map(|time| format!("2001-09-09T{time}:00+00:00")).collect();
        assert_eq!(times(&mut world), expected, "{misfire:?}");
        // 02:50 comes as if nothing had been.
        run(&mut world, Duration::from_secs(600));
        assert_eq!(times(&mut world), ["2001-09-09T02:50:00+00:00"], "{misfire:?}");
    }
}

#[test]
fn a_little_late_is_not_missed() {
    let mut world = World::new();
    add(&mut world, spec("s", "50 46 1 * * *", Misfire::Skip));
    // It is looked at a millisecond after the start.
    world.restart(0, Duration::from_millis(14_999));
    run(&mut world, Duration::from_secs(1));
    assert_eq!(times(&mut world), ["2001-09-09T01:46:50+00:00"]);
    let mut world = World::new();
    add(&mut world, spec("s", "50 46 1 * * *", Misfire::Skip));
    world.restart(0, Duration::from_millis(15_000));
    run(&mut world, Duration::from_secs(1));
    assert_eq!(times(&mut world).len(), 0);
}

#[test]
fn of_more_missed_ones_than_it_may_make_up_for_the_newest_come() {
    for (missed_max, minutes) in [(5, 30), (5, 6), (5, 5), (5, 4), (1, 3), (1000, 2000)] {
        let mut world = World::new();
        add(&mut world, ScheduleSpec { missed_max, ..spec("s", "* * * * *", Misfire::All) });
        world.restart(0, Duration::from_secs(60 * minutes));
        let end = world.now.wall.0;
        run(&mut world, Duration::from_secs(15));
        let newest = end / 60_000;
        let first = newest + 1 - minutes.min(u64::from(missed_max));
        let expected: Vec<String> = (first..=newest).map(|minute| local(minute * 60_000)).collect();
        assert_eq!(times(&mut world), expected, "{missed_max} of {minutes}");
    }
}

#[test]
fn a_jump_of_ten_years_is_bounded_and_a_jump_back_fires_nothing_again() {
    let mut world = World::new();
    add(&mut world, spec("s", "* * * * *", Misfire::All));
    run(&mut world, Duration::from_secs(60));
    assert_eq!(times(&mut world).len(), 1);
    world.now.wall.0 += 10 * YEAR_MS;
    let published = |world: &World| world.metrics.schedule_firings.value();
    let mut before = published(&world);
    let until = world.now.time + Duration::from_secs(10);
    while world.now.time < until {
        world.advance(Duration::from_millis(1));
        let now = published(&world);
        assert!(now - before <= 100, "{} in one call", now - before);
        before = now;
    }
    assert_eq!(times(&mut world).len(), 1000);
    let last = row(&mut world).last_unix_ms.unwrap();
    assert!(world.now.wall.0 - last < 60_000);
    world.now.wall.0 -= 10 * YEAR_MS;
    run(&mut world, Duration::from_secs(600));
    assert_eq!(times(&mut world).len(), 0);
    // After a restart it knows as much; added anew it begins again.
    world.restart(0, Duration::from_secs(100));
    run(&mut world, Duration::from_secs(600));
    assert_eq!(times(&mut world).len(), 0);
    assert!(row(&mut world).next_unix_ms.unwrap() > last);
    add(&mut world, spec("s", "* * * * *", Misfire::Once));
    run(&mut world, Duration::from_secs(60));
    assert_eq!(times(&mut world).len(), 1);
}

#[test]
fn a_jump_is_seen_within_a_second_whatever_comes_next() {
    let mut world = World::new();
    add(&mut world, spec("s", "0 0 1 1 *", Misfire::Once));
    run(&mut world, Duration::from_secs(10));
    world.now.wall.0 += YEAR_MS;
    run(&mut world, Duration::from_millis(1_001));
    assert_eq!(times(&mut world), ["2002-01-01T00:00:00+00:00"]);
}

#[test]
fn a_jump_back_moves_what_was_not_published_for() {
    let mut world = World::new();
    add(&mut world, spec("s", "*/10 * * * *", Misfire::Skip));
    world.now.wall.0 += YEAR_MS;
    run(&mut world, Duration::from_secs(2));
    assert_eq!(times(&mut world).len(), 0, "skipped");
    world.now.wall.0 -= YEAR_MS;
    run(&mut world, Duration::from_secs(600));
    assert_eq!(times(&mut world), ["2001-09-09T01:50:00+00:00"]);
    // An hour back: what was published for comes not again, what comes after does.
    world.now.wall.0 -= HOUR_MS;
    run(&mut world, Duration::from_millis(HOUR_MS));
    assert_eq!(times(&mut world).len(), 0);
    run(&mut world, Duration::from_secs(600));
    assert_eq!(times(&mut world), ["2001-09-09T02:00:00+00:00"]);
}

/// However much of the last turn's records survives, the message and the firing are there or neither is.
#[test]
fn a_firing_is_torn_from_its_message_nowhere() {
    for torn in 0..4 {
        let mut world = World::new();
        add(&mut world, spec("s", "*/10 * * * *", Misfire::All));
        world.now.wall.0 += 30 * 60_000;
        world.advance(Duration::from_secs(1));
        assert_eq!(world.stats("jobs").ready, 3);
        // Asking committed that. Three more are not.
        world.now.wall.0 += 30 * 60_000;
        world.advance(Duration::from_secs(1));
        world.restart(torn, Duration::from_secs(1));
        run(&mut world, Duration::from_secs(2));
        let first = 1_000_000_000_000 / 600_000 + 1;
        let expected: Vec<String> = (first..first + 6).map(|slot| local(slot * 600_000)).collect();
        assert_eq!(times(&mut world), expected, "{torn} records");
    }
}

#[test]
fn what_it_fired_for_is_known_after_the_message_is_gone_and_the_log_was_compacted() {
    for compactions in 0..3 {
        let mut world = World::new();
        add(&mut world, spec("s", "*/10 * * * *", Misfire::All));
        for _ in 0..3 {
            run(&mut world, Duration::from_secs(600));
            assert_eq!(times(&mut world).len(), 1);
            for _ in 0..compactions {
                world.compact(100);
            }
        }
        world.restart(0, Duration::from_secs(1));
        assert_eq!(row(&mut world).last.as_deref(), Some("2001-09-09T02:10:00+00:00"));
        run(&mut world, Duration::from_secs(1));
        assert_eq!(times(&mut world).len(), 0);
        world.compact(1);
        world.compact(2);
        world.restart(0, Duration::from_secs(600));
        run(&mut world, Duration::from_secs(1));
        assert_eq!(times(&mut world), ["2001-09-09T02:20:00+00:00"]);
    }
}

/// The log may come to the record of a firing before it comes to the schedule's own.
#[test]
fn the_record_of_a_firing_may_be_compacted_by_itself() {
    let mut world = World::new();
    add(&mut world, spec("s", "*/10 * * * *", Misfire::All));
    run(&mut world, Duration::from_secs(600));
    assert_eq!(times(&mut world).len(), 1);
    let records = world.journal.records.iter();
    let is_firing = |bytes: &[u8]| match crate::queue::record::decode(bytes) {
        Ok(crate::queue::record::Record::Publish(publish)) => publish.schedule.is_some(),
        _ => false,
    };
    let firing = records.map(|(&at, (_, record))| (at, record.clone())).find(|(_, record)| is_firing(record));
    let (position, record) = firing.expect("it fired");
    world.turn(|brain, turn| brain.relocate(Position(position), &record, turn));
    world.journal.commit();
    world.journal.records.remove(&position);
    // The log checks that nothing is kept alive that is gone.
    world.restart(0, Duration::from_secs(1));
    run(&mut world, Duration::from_secs(2));
    assert_eq!(row(&mut world).last.as_deref(), Some("2001-09-09T01:50:00+00:00"));
    assert_eq!(times(&mut world).len(), 0);
}

#[test]
fn a_removed_schedule_stays_away() {
    let mut world = World::new();
    add(&mut world, spec("s", "*/10 * * * *", Misfire::All));
    run(&mut world, Duration::from_secs(600));
    let remove = || OperatorRequest::ScheduleRemove { namespace: tenant(), name: named("s") };
    assert_eq!(world.operate(remove()), OperatorReply::Changed(1));
    assert_eq!(world.operate(remove()), OperatorReply::Changed(0));
    assert!(world.brain.schedules.timer.is_none(), "nobody looks at the clock for nothing");
    assert_eq!(times(&mut world).len(), 1);
    world.restart(0, Duration::from_secs(3600));
    run(&mut world, Duration::from_secs(600));
    world.compact(1000);
    world.restart(0, Duration::from_secs(3600));
    assert_eq!(rows(&mut world), []);
    assert_eq!(times(&mut world).len(), 0);
}

#[test]
fn the_same_again_forgets_nothing_and_another_begins_anew() {
    let mut world = World::new();
    add(&mut world, spec("s", "*/10 * * * *", Misfire::All));
    run(&mut world, Duration::from_secs(600));
    let row = add(&mut world, spec("s", "*/10 * * * *", Misfire::All));
    assert_eq!(row.last.as_deref(), Some("2001-09-09T01:50:00+00:00"));
    let row = add(&mut world, spec("s", "0 * * * *", Misfire::All));
    assert_eq!((row.last, row.next.as_deref()), (None, Some("2001-09-09T02:00:00+00:00")));
    assert_eq!(rows(&mut world).len(), 1);
    world.restart(0, Duration::ZERO);
    assert_eq!(rows(&mut world)[0].cron, "0 * * * *");
}

#[test]
fn a_full_queue_holds_it_up_and_its_policy_says_what_comes_then() {
    for (misfire, expected) in [
        (Misfire::Skip, vec!["01:50"]),
        (Misfire::Once, vec!["01:50", "02:20"]),
        (Misfire::All, vec!["01:50", "02:00", "02:10", "02:20"]),
    ] {
        let mut world = World::new();
        world.set("jobs", &[("messages_max", "1")]);
        add(&mut world, spec("s", "*/10 * * * *", misfire));
        run(&mut world, Duration::from_secs(600));
        assert_eq!((world.stats("jobs").ready, row(&mut world).held_up), (1, None));
        run(&mut world, Duration::from_secs(202));
        assert!(row(&mut world).held_up.unwrap().contains("full"), "{misfire:?}");
        assert_eq!(world.metrics.schedules_held_up.value(), 1);
        run(&mut world, Duration::from_secs(1700));
        assert_eq!(row(&mut world).held_up.is_none(), misfire == Misfire::Skip);
        let mut taken = Vec::new();
        for _ in 0..5 {
            taken.extend(times(&mut world));
            run(&mut world, Duration::from_secs(2));
        }
        let expected: Vec<String> =
            expected.iter().map(|time| format!("2001-09-09T{time}:00+00:00")).collect();
        assert_eq!(taken, expected, "{misfire:?}");
        assert_eq!((row(&mut world).held_up, world.metrics.schedules_held_up.value()), (None, 0));
    }
}

/// What is leased next, by its schedule or its body, and done.
fn next_done(world: &mut World, worker: ConnKey) -> String {
    let effects = world.commit();
    let mut done = Vec::new();
    for (effect, body) in &effects {
        let Effect::Deliver(deliver) = effect else { continue };
        let message = proto::Message::decode(body.as_slice()).unwrap();
        let schedule = message.attributes.get("schedule").cloned();
        done.push((deliver.lease, schedule.unwrap_or_else(|| String::from_utf8(message.payload).unwrap())));
    }
    let (lease, name) = done.pop().expect("one is leased at a time");
    assert!(done.is_empty());
    world.settle(worker, &[lease], Settlement::Ack);
    name
}

#[test]
fn schedules_take_turns_with_the_producers_that_wait() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "1"), ("when_full", "wait")]);
    let (producer, worker) = (world.attach("p"), world.attach("w"));
    let waiting = proto::Message { payload: b"parked".to_vec(), priority: 8, ..Default::default() };
    for _ in 0..20 {
        world.publish_message(producer, "jobs", &waiting);
    }
    for schedule in ["s1", "s2"] {
        add(&mut world, spec(schedule, "*/10 * * * * *", Misfire::Once));
    }
    run(&mut world, Duration::from_secs(11));
    assert_eq!(world.metrics.schedules_held_up.value(), 2);
    assert!(rows(&mut world)[1].held_up.as_ref().unwrap().contains("full"));
    world.subscribe(worker, 1, "jobs", 1);
    let mut served = Vec::new();
    for _ in 0..6 {
        served.push(next_done(&mut world, worker));
        // The producers ask for more as fast as they are answered, so that one waits always.
        world.publish_message(producer, "jobs", &waiting);
    }
    assert_eq!(served, ["parked", "parked", "s1", "parked", "s2", "parked"]);
    assert_eq!(world.metrics.schedules_held_up.value(), 0);
    assert_eq!(world.stats("jobs").parked, 20 - 4 + 6 - 1);
}

#[test]
fn a_schedule_that_waits_is_no_newcomers_to_pass_and_gives_its_place_back() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "1"), ("when_full", "wait")]);
    let (producer, worker) = (world.attach("p"), world.attach("w"));
    let message = proto::Message { payload: b"new".to_vec(), priority: 8, ..Default::default() };
    world.publish_message(producer, "jobs", &message);
    world.subscribe(worker, 1, "jobs", 1);
    let lease = deliveries(&world.commit())[0].0.lease;
    add(&mut world, spec("s", "*/10 * * * * *", Misfire::Once));
    run(&mut world, Duration::from_secs(11));
    assert_eq!(world.metrics.schedules_held_up.value(), 1);
    // The ack and a publish come together: the publish would have the room before anybody looks at who waits.
    let (seq, conn) = (world.seq(), worker);
    let (header, body) = encoded(&message);
    world.apply(|batch| {
        let settle = Settle { conn, seq, settlement: Settlement::Ack, leases: 1, replenish: true };
        batch.commands.push(Command::Settle(settle));
        batch.leases.push(lease);
        let queue = super::name("jobs");
        let publish = Publish {
            conn: producer,
            seq: 99,
            queue,
            producer: None,
            messages: 1,
            acks: 0,
            replenish: false,
        };
        batch.commands.push(Command::Publish(publish));
        batch.messages.push(PublishMessage { header, body_len: body.len() as u32 });
        batch.bodies.extend_from_slice(&body);
    });
    assert_eq!(next_done(&mut world, worker), "s");
    assert_eq!(next_done(&mut world, worker), "new");
    // One that waits and is removed is in nobody's way.
    world.publish_message(producer, "jobs", &message);
    let lease = deliveries(&world.commit())[0].0.lease;
    run(&mut world, Duration::from_secs(11));
    assert_eq!(world.metrics.schedules_held_up.value(), 1);
    world.operate(OperatorRequest::ScheduleRemove { namespace: tenant(), name: named("s") });
    world.publish_message(producer, "jobs", &message);
    world.settle(worker, &[lease], Settlement::Ack);
    assert_eq!(next_done(&mut world, worker), "new");
    assert_eq!(world.stats("jobs").ready, 0);
}

#[test]
fn a_schedule_waits_for_its_turn_in_its_namespace() {
    let mut world = World::new();
    world.set("jobs", &[("when_full", "wait")]);
    world.set("others", &[("when_full", "wait")]);
    let reply = world.operate(OperatorRequest::NamespaceSet {
        namespace: tenant(),
        changes: vec![("messages_max".to_owned(), Some("1".to_owned()))],
    });
    assert!(matches!(reply, OperatorReply::Namespace(..)), "{reply:?}");
    let (producer, worker) = (world.attach("p"), world.attach("w"));
    let message = proto::Message { payload: b"other".to_vec(), priority: 8, ..Default::default() };
    for _ in 0..5 {
        world.publish_message(producer, "others", &message);
    }
    add(&mut world, spec("s", "*/10 * * * * *", Misfire::Once));
    run(&mut world, Duration::from_secs(11));
    assert_eq!(world.metrics.schedules_held_up.value(), 1);
    world.subscribe(worker, 1, "others", 1);
    world.subscribe(worker, 2, "jobs", 1);
    let served: Vec<String> = (0..3).map(|_| next_done(&mut world, worker)).collect();
    assert!(served.contains(&"s".to_owned()), "{served:?}");
}

#[test]
fn a_full_disk_holds_it_up() {
    let mut world = World::new();
    add(&mut world, spec("s", "*/10 * * * *", Misfire::Once));
    world.journal.room = Room::Reserved;
    run(&mut world, Duration::from_secs(601));
    assert!(row(&mut world).held_up.unwrap().contains("disk"));
    world.journal.room = Room::Open;
    run(&mut world, Duration::from_secs(2));
    assert_eq!(times(&mut world), ["2001-09-09T01:50:00+00:00"]);
}

/// A schedule that is held up for long takes no more than its bound, and no more work each second than what came due.
#[test]
fn what_piles_up_behind_a_full_queue_is_bounded() {
    let mut world = World::new();
    world.set("jobs", &[("messages_max", "1")]);
    add(&mut world, ScheduleSpec { missed_max: 7, ..spec("s", "* * * * *", Misfire::All) });
    run(&mut world, Duration::from_secs(40 * 60));
    let newest = world.now.wall.0 / 60_000;
    let mut taken = Vec::new();
    for _ in 0..12 {
        taken.extend(times(&mut world));
        run(&mut world, Duration::from_millis(1100));
    }
    let expected: Vec<String> = (newest - 6..=newest).map(|minute| local(minute * 60_000)).collect();
    assert_eq!(taken[1..], expected);
}

#[test]
fn a_paused_schedule_misses_nothing() {
    let mut world = World::new();
    add(&mut world, spec("s", "*/10 * * * *", Misfire::All));
    pause(&mut world, true);
    run(&mut world, Duration::from_secs(1200));
    world.restart(0, Duration::from_secs(1200));
    run(&mut world, Duration::from_secs(2));
    let paused = row(&mut world);
    assert_eq!((paused.paused, paused.next), (true, None));
    pause(&mut world, false);
    run(&mut world, Duration::from_secs(600));
    assert_eq!(times(&mut world), ["2001-09-09T02:30:00+00:00"]);
}

#[test]
fn what_a_schedule_cannot_do_is_refused_with_the_reason() {
    let mut world = World::new();
    let good = || spec("s", "* * * * *", Misfire::Once);
    let with = |message: proto::Message| ScheduleSpec { body: message.encode_to_vec(), ..good() };
    let attributes = |names: &[String]| names.iter().map(|name| (name.clone(), String::new())).collect();
    let many: Vec<String> = (0..crate::limits::ATTRIBUTES_MAX - 1).map(|at| format!("a{at}")).collect();
    for (spec, text) in [
        (ScheduleSpec { cron: "0 25 * * *".into(), ..good() }, "field 2"),
        (ScheduleSpec { time_zone: "Mars".into(), ..good() }, "time zone"),
        (ScheduleSpec { queue: super::name("topic/news"), ..good() }, "topic"),
        (ScheduleSpec { missed_max: 0, ..good() }, "missed_max"),
        (ScheduleSpec { missed_max: 1001, ..good() }, "missed_max"),
        (ScheduleSpec { body: vec![255], ..good() }, "Message"),
        (with(proto::Message { due_unix_ms: 5, ..Default::default() }), "due time"),
        (with(proto::Message { dedup_id: "x".into(), ..Default::default() }), "deduplication"),
        (
            with(proto::Message { attributes: attributes(&["schedule".into()]), ..Default::default() }),
            "itself",
        ),
        (with(proto::Message { attributes: attributes(&many), ..Default::default() }), "attributes"),
        (with(proto::Message { payload: vec![0; 65_536], ..Default::default() }), "65536"),
    ] {
        let refused = refused(&mut world, spec);
        assert!(refused.contains(text), "{text}: {refused}");
    }
    assert_eq!(rows(&mut world), []);
    add(&mut world, with(proto::Message { attributes: attributes(&many[1..]), ..Default::default() }));
}

#[test]
fn a_namespace_has_so_many_schedules_of_so_many_bytes() {
    let mut world = World::new();
    let payload = vec![0; 60_000];
    let body = proto::Message { payload, ..Default::default() }.encode_to_vec();
    let large =
        |at: usize| ScheduleSpec { body: body.clone(), ..spec(&format!("s{at}"), "@daily", Misfire::Once) };
    let mut at = 0;
    let text = loop {
        match world
            .operate(OperatorRequest::ScheduleAdd { namespace: tenant(), schedule: Box::new(large(at)) })
        {
            OperatorReply::Refused(refused) => break refused.text,
            _ => at += 1,
        }
    };
    assert!(text.contains("bytes") && (400..600).contains(&at), "{at}: {text}");
    assert!(world.metrics.schedule_bytes.value() <= crate::limits::SCHEDULE_BYTES_PER_NAMESPACE_MAX as u64);

    let mut world = World::new();
    world.journal.forgetful = true;
    let small = |at: usize| spec(&format!("s{at}"), "@daily", Misfire::Once);
    for at in 0..crate::limits::SCHEDULES_PER_NAMESPACE_MAX {
        add(&mut world, small(at));
    }
    assert!(refused(&mut world, small(10_000)).contains("10000"));
    add(&mut world, ScheduleSpec { cron: "@hourly".into(), ..small(17) });
}

#[test]
fn they_are_listed_by_name_and_page() {
    let mut world = World::new();
    for name in ["c", "a", "b"] {
        add(&mut world, spec(name, "@daily", Misfire::Once));
    }
    let mut page = |after: Option<&str>, limit| {
        let after = after.map(str::to_owned);
        match world.operate(OperatorRequest::Schedules { namespace: tenant(), after, limit }) {
            OperatorReply::Schedules(rows) => rows.into_iter().map(|row| row.name).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page(None, 2), ["a", "b"]);
    assert_eq!(page(Some("b"), 2), ["c"]);
}

/// Whatever happens, no time is published for twice, none out of order, and with `all` and no bound reached none is left out.
#[test]
fn through_jumps_restarts_and_compactions_each_time_comes_once() {
    for seed in 0..150 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        let misfire = Misfire::ALL[seed as usize % 3];
        let start = world.now.wall.0;
        add(&mut world, spec("s", "*/5 * * * *", misfire));
        let (mut seen, mut farthest) = (BTreeMap::new(), start);
        for _ in 0..60 {
            match random.u8(0..10) {
                0 => world.restart(random.usize(0..3), Duration::from_secs(random.u64(0..1_000))),
                1 => world.compact(random.usize(0..20)),
                2 => world.now.wall.0 += random.u64(0..2 * HOUR_MS),
                3 => world.now.wall.0 -= random.u64(0..HOUR_MS),
                4 => drop(world.commit()),
                5 => seen.extend(take(&mut world)),
                6 => {
                    world.journal.room = [Room::Reserved, Room::Open][random.usize(0..2)];
                    world.turn(|brain, turn| brain.log_room_changed(turn));
                }
                _ => run(&mut world, Duration::from_secs(random.u64(0..400))),
            }
            farthest = farthest.max(world.now.wall.0);
        }
        world.journal.room = Room::Open;
        run(&mut world, Duration::from_secs(3));
        farthest = farthest.max(world.now.wall.0);
        seen.extend(take(&mut world));
        let times: Vec<String> = seen.into_values().map(|(_, time)| time).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "seed {seed}, {misfire:?}: {times:?}");
        // What the clock showed before it went back was looked at, unless the server was down.
        if misfire == Misfire::All && farthest == world.now.wall.0 {
            let due = (start / 300_000 + 1..=farthest / 300_000).map(|slot| local(slot * 300_000));
            assert_eq!(times, due.collect::<Vec<_>>(), "seed {seed}");
        }
    }
}

/// What was asked before may not be durable yet, and an answer that waits must have something to wait for.
#[test]
fn what_changes_nothing_is_answered_as_well() {
    let mut world = World::new();
    for _ in 0..2 {
        assert_eq!(add(&mut world, spec("s", "@hourly", Misfire::Once)).name, "s");
    }
    for is_paused in [true, true, false, false] {
        pause(&mut world, is_paused);
    }
    assert_eq!(rows(&mut world).len(), 1);
    world.restart(0, Duration::ZERO);
    assert!(!row(&mut world).paused);
}
