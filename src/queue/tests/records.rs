//! Properties of the records' bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::queue::record::{self, *};

fn header() -> impl Strategy<Value = MessageHeader> {
    (0..10u8, any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>()).prop_map(
        |(priority, delay_ms, due, ttl_ms, attempts_max, has_options)| MessageHeader {
            priority,
            delay_ms,
            due: Wall(due),
            ttl_ms,
            attempts_max,
            has_options,
        },
    )
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Ready),
        any::<u64>().prop_map(|until| Standing::Scheduled(Time(until))),
        Just(Standing::AttemptOpen),
        Just(Standing::Dead(Reason::Attempts)),
        Just(Standing::Dead(Reason::Expired)),
        Just(Standing::Dead(Reason::Overflow)),
        Just(Standing::Dead(Reason::Rejected)),
        Just(Standing::Holding(Reason::Attempts)),
        Just(Standing::Dead(Reason::TooLarge)),
    ]
}

/// Of a message that waits.
fn snapshot(body: &[u8]) -> SnapshotRecord<'_> {
    SnapshotRecord {
        id: 7,
        published: Wall(5),
        published_time: Some(Time(3)),
        attempt: 0,
        boot: Boot(0),
        spent: 0,
        attempts_max: 0,
        priority: 4,
        standing: Standing::Ready,
        died: Wall(0),
        time: None,
        expires: Time(0),
        due: Wall(0),
        order: 0,
        failures: Vec::new(),
        namespace: "n",
        queue: "q",
        body_len: body.len() as u32,
        body,
    }
}

fn again(encode: impl FnOnce(&mut Vec<u8>), expected: &Record<'_>) {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    assert_eq!(&record::decode(&bytes).unwrap(), expected);
    for end in 0..bytes.len() {
        assert!(record::decode(&bytes[..end]).is_err(), "{end} of {} bytes were a record", bytes.len());
    }
    bytes.push(0);
    assert!(record::decode(&bytes).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200), kind in 0..32u8) {
        let _ = record::decode(&bytes);
        for version in 1..4u8 {
            let mut tagged = vec![kind | version << 5];
            tagged.extend(&bytes);
            let _ = record::decode(&tagged);
        }
    }

    #[test]
    fn a_publish_comes_back_and_its_parts_add_up(
        time: u64, wall: u64, first_id in 0..u64::MAX / 2, sequence: u64, with_producer: bool,
        messages in vec((header(), vec(any::<u8>(), 0..50)), 1..20), acks in vec(any::<u64>(), 0..3), dedup_window_ms in prop_oneof![Just(0), 1..=u64::MAX],
        fired in proptest::option::of(any::<u64>()), targets in vec(any::<u64>(), 0..3), seed: u64,
    ) {
        let producer = with_producer
            .then_some(ProducerSequence { producer: ProducerId(5), sequence, unanswered_from: sequence / 2 });
        let (time, wall) = (Time(time), Wall(wall));
        let schedule = fired.map(|fired| ("nightly", Wall(fired)));
        let targets: Vec<Target<'_>> = targets
            .iter()
            .zip(["jobs", "audit"])
            .map(|(&ttl_ms, queue)| Target { queue, ttl_ms, window_ms: dedup_window_ms / 2 })
            .collect();
        let takes: Vec<u8> = (0..targets.len() * messages.len()).map(|at| (seed >> (at % 64)) as u8 & 1).collect();
        let remembers: Vec<u8> = if dedup_window_ms > 0 { takes.clone() } else { Vec::new() };
        let head = PublishHead {
            time, wall, first_id, namespace: "n", queue: "q", producer, acks: &acks, schedule, targets: &targets, takes: &takes,
            remembers: &remembers, dedup_window_ms,
        };
        let bodies: Vec<u8> = messages.iter().flat_map(|(_, body)| body.clone()).collect();
        let list: Vec<PublishMessage> = messages
            .iter()
            .map(|(header, body)| PublishMessage { header: *header, body_len: body.len() as u32 })
            .collect();
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        let head_len = encode_publish(&mut bytes, &head, &list, |len| entries.push(len));
        bytes.extend(&bodies);
        let Record::Publish(decoded) = record::decode(&bytes).unwrap() else { panic!("not a publish") };
        prop_assert_eq!(decoded.head_len, head_len);
        prop_assert_eq!(decoded.producer, producer);
        prop_assert_eq!((decoded.time, decoded.wall, decoded.first_id), (time, wall, first_id));
        prop_assert_eq!((&decoded.acks, decoded.schedule), (&acks, schedule));
        prop_assert_eq!(decoded.dedup_window_ms, dedup_window_ms);
        prop_assert_eq!((decoded.targets, decoded.takes), (targets, takes.as_slice()));
        prop_assert_eq!(decoded.remembers, remembers.as_slice());
        prop_assert_eq!((decoded.namespace, decoded.queue, decoded.bodies), ("n", "q", bodies.as_slice()));
        prop_assert_eq!(decoded.messages.iter().map(|m| m.message).collect::<Vec<_>>(), list);
        prop_assert_eq!(decoded.messages.iter().map(|m| m.entry_len).collect::<Vec<_>>(), entries.clone());
        let parts = head_len + (takes.len() + remembers.len()) as u32 + entries.iter().sum::<u32>() + bodies.len() as u32;
        prop_assert_eq!(parts as usize, bytes.len());
    }

    #[test]
    fn a_snapshot_comes_back(
        numbers: [u64; 4], small: [u32; 4], priority in 0..10u8, standing in standing(),
        failures in vec((any::<u32>(), any::<u64>(), "[a-z]{0,9}", ".{0,20}"), 0..8), body in vec(any::<u8>(), 0..99),
    ) {
        let snapshot = SnapshotRecord {
            id: numbers[0],
            published: Wall(numbers[1]),
            published_time: Some(Time(numbers[2] / 5)),
            attempt: small[0],
            boot: Boot(small[1]),
            spent: small[2],
            attempts_max: small[3],
            priority,
            standing,
            died: Wall(numbers[2]),
            time: Some(Time(numbers[1] / 2)).filter(|time| time.0 > 0),
            expires: Time(numbers[3]),
            due: Wall(numbers[0] / 3),
            order: numbers[1] % 3,
            failures: failures
                .iter()
                .map(|(attempt, wall, client, error)| {
                    let lasted_ms = Some(wall / 3).filter(|lasted| lasted % 2 == 0);
                    Failure { attempt: *attempt, wall: Wall(*wall), client, error, lasted_ms }
                })
                .collect(),
            namespace: "n",
            queue: "q",
            body_len: body.len() as u32,
            body: &body,
        };
        let encode = |out: &mut Vec<u8>| {
            encode_snapshot(out, &snapshot);
            out.extend(&body);
        };
        again(encode, &Record::Snapshot(Box::new(snapshot.clone())));
        let other = SnapshotRecord { id: small[0].into(), queue: "other", failures: Vec::new(), ..snapshot.clone() };
        let copies = [snapshot, other];
        let mut own = Vec::new();
        let mut bytes = Vec::new();
        encode_copies(&mut bytes, copies.iter().cloned(), |len| own.push(len));
        bytes.extend(&body);
        prop_assert_eq!(own.iter().sum::<u32>() as usize + body.len(), bytes.len());
        let copies: Vec<_> = copies.into_iter().zip(own).collect();
        again(|out| out.extend(&bytes), &Record::Copies(copies));
    }

    #[test]
    fn the_small_ones_come_back(
        id: u64, wall: u64, leases in vec((any::<u64>(), any::<u32>()), 0..40), ids in vec(any::<u64>(), 0..40),
        runs in vec((any::<u64>(), any::<u64>(), any::<u32>()), 0..20), error in ".{0,40}", boot: u32,
    ) {
        let (time, wall) = (Time(id / 2), Wall(wall));
        again(|out| encode_boot(out, Boot(boot)), &Record::Boot(Boot(boot)));
        again(|out| encode_clock(out, time, wall, id), &Record::Clock { time, wall, next_id: id });
        let begun = Record::Leased { boot: Some(Boot(boot)), leases: leases.clone() };
        again(|out| encode_leased(out, Boot(boot), &leases), &begun);
        again(|out| encode_done(out, &ids), &Record::Done(ids.clone()));
        again(|out| encode_returned(out, &ids), &Record::Returned(ids.clone()));
        let reason = Reason::Expired;
        again(|out| encode_died(out, MessageId(id), reason, wall), &Record::Died { id, reason, wall });
        again(|out| encode_redriven(out, MessageId(id), time, "q", 0), &Record::Redriven { id, time, queue: "q", order: 0 });
        again(|out| encode_redriven(out, MessageId(id), time, "q", 7), &Record::Redriven { id, time, queue: "q", order: 7 });
        for next in [Standing::Ready, Standing::Scheduled(time), Standing::Dead(Reason::Rejected), Standing::Holding(Reason::Attempts)] {
            for lasted_ms in [None, Some(0), Some(id / 2)] {
                let failed = FailedRecord { id, attempt: boot, wall, next, client: "c", error: &error, lasted_ms };
                again(|out| encode_failed(out, &failed), &Record::Failed(failed.clone()));
            }
        }
        let mark = MarkRecord { namespace: "n", producer: ProducerId(id), unanswered_from: 7, runs };
        again(|out| encode_mark(out, &mark), &Record::Mark(mark.clone()));
        let producer = ProducerId(id);
        again(|out| encode_retired(out, "n", producer), &Record::Retired { namespace: "n", producer });
        let ids = leases.iter().map(|&(id, small)| (id, Time(u64::from(small)), [small as u8; 16])).collect::<Vec<_>>();
        let record = DedupRecord { namespace: "n", queue: "q", ids: ids.clone() };
        again(|out| encode_dedup(out, "n", "q", ids.iter().copied()), &Record::Dedup(record));
        let queue = "device/d1";
        let when_full = if boot % 2 == 0 { TargetFull::Wait } else { TargetFull::Drop };
        let binding =
            BindingRecord { namespace: "n", name: "audit", pattern: "a.>", filter: &error, queue, when_full };
        again(|out| encode_binding(out, &binding), &Record::Binding(binding));
        let settings = vec![("attempts", "3"), ("weight.a", "")];
        let record = SettingsRecord { namespace: "n", queue: "q", settings: settings.clone() };
        let gone = ScheduleRecord { namespace: "n", name: "nightly", plan: None };
        again(|out| encode_schedule(out, &gone), &Record::Schedule(gone.clone()));
        for (misfire, is_paused) in [(Misfire::Skip, true), (Misfire::Once, false), (Misfire::All, false)] {
            let (cron, zone, queue, body) = ("0 8 * * *", "UTC", "q", error.as_bytes());
            let (since, fired) = (wall, Wall(id));
            let plan = SchedulePlan { cron, zone, queue, misfire, missed_max: boot, is_paused, since, fired, body };
            let record = ScheduleRecord { plan: Some(plan), ..gone.clone() };
            again(|out| encode_schedule(out, &record), &Record::Schedule(record.clone()));
        }
        again(|out| encode_settings(out, "n", "q", settings.iter().copied()), &Record::Settings(record));
    }
}

/// What the first version wrote is read for ever.
#[test]
fn the_first_version_of_failures_is_still_read() {
    let failed = [6 | 1 << 5, 7, 2, 9, 2, 3, 1, b'c', 2, b'n', b'o'];
    let expected = FailedRecord {
        id: 7,
        attempt: 2,
        wall: Wall(9),
        next: Standing::Dead(Reason::Rejected),
        client: "c",
        error: "no",
        lasted_ms: None,
    };
    assert_eq!(record::decode(&failed), Ok(Record::Failed(expected)));
    let snapshot = [
        10 | 1 << 5,
        7,
        8,
        2,
        1,
        2,
        0,
        4,
        3,
        3,
        9,
        0,
        0,
        1,
        2,
        9,
        1,
        b'c',
        2,
        b'n',
        b'o',
        1,
        b'n',
        1,
        b'q',
        1,
        b'x',
    ];
    let Ok(Record::Snapshot(decoded)) = record::decode(&snapshot) else { panic!("not a snapshot") };
    assert_eq!(
        (decoded.died, decoded.time, decoded.standing),
        (Wall(9), None, Standing::Dead(Reason::Rejected))
    );
    let failure = Failure { attempt: 2, wall: Wall(9), client: "c", error: "no", lasted_ms: None };
    assert_eq!((decoded.failures, decoded.queue, decoded.body), (vec![failure], "q", &b"x"[..]));
}

/// The same message as the versions of a snapshot say it, and the copies of one as theirs.
#[test]
fn older_snapshots_are_read_and_counted_as_older() {
    let head = |published_time: &[u8]| {
        let start = [7, 8, 2, 1, 2, 0, 4, 3, 3, 9, 5];
        let end = [0, 0, 0, 1, b'n', 1, b'q', 1];
        [&start[..], published_time, &end].concat()
    };
    let whole = |tag: &[u8], published_time: &[u8]| [tag, &head(published_time), b"x"].concat();
    let second = whole(&[10 | 2 << 5], &[]);
    let third = whole(&[10 | 3 << 5], &[6]);
    let first_copies = whole(&[17 | 1 << 5, 1], &[]);
    let second_copies = whole(&[17 | 2 << 5, 1], &[6]);
    let snapshot = |bytes: &[u8]| match record::decode(bytes) {
        Ok(Record::Snapshot(snapshot)) => (snapshot.published, snapshot.published_time, snapshot.time),
        Ok(Record::Copies(copies)) => (copies[0].0.published, copies[0].0.published_time, copies[0].0.time),
        other => panic!("{other:?}"),
    };
    for old in [&second, &first_copies] {
        assert_eq!(snapshot(old), (Wall(8), None, Some(Time(5))));
        assert!(is_older(old));
    }
    for new in [&third, &second_copies] {
        assert_eq!(snapshot(new), (Wall(8), Some(Time(6)), Some(Time(5))));
        assert!(!is_older(new));
    }
    // What most of the log consists of is as it always was.
    assert!(!is_older(&[3 | 1 << 5]) && !is_older(&[3 | 2 << 5]) && !is_older(&[5 | 1 << 5]));
    // Failures and leases have changed.
    assert!(is_older(&[6 | 1 << 5]) && is_older(&[4 | 1 << 5]) && !is_older(&[4 | 2 << 5]));
}

#[test]
fn a_newer_version_says_so() {
    assert_eq!(record::decode(&[2 << 5 | 1, 1]), Err(RecordError::Version));
    assert_eq!(record::decode(&[]), Err(RecordError::Short));
}

/// Of what a start may leave in the log: the bodies of messages that say all in the heads of their records. What goes to
/// several queues is needed whole, for the options of its messages are in their bodies.
#[test]
fn a_snapshot_is_replayed_by_its_head_unless_its_message_has_options() {
    let record = |message: proto::Message| {
        let body = message.encode_to_vec();
        let snapshot = snapshot(&body);
        let mut bytes = Vec::new();
        encode_snapshot(&mut bytes, &snapshot);
        let body_at = bytes.len();
        bytes.extend(&body);
        let Ok(Record::Snapshot(whole)) = record::decode(&bytes) else { panic!("not a snapshot") };
        assert_eq!(*whole, snapshot);
        let head = head_len(&bytes);
        let Ok(Record::Snapshot(head_only)) = decode_head(&bytes[..head], bytes.len()) else {
            panic!("no head")
        };
        let is_whole = head == bytes.len();
        assert_eq!(*head_only, SnapshotRecord { body: if is_whole { &body } else { &[] }, ..*whole });
        (head, body_at, bytes.len())
    };
    let (head, body_at, _) =
        record(proto::Message { payload: b"hello".to_vec(), ttl_ms: 9, ..Default::default() });
    assert_eq!(head, body_at);
    let keyed = proto::Message { payload: b"hello".to_vec(), order_key: "k".into(), ..Default::default() };
    let (head, _, whole) = record(keyed);
    assert_eq!(head, whole);
}

#[test]
fn a_plain_publish_is_replayed_by_its_head_and_a_fanout_whole() {
    let message = PublishMessage { header: MessageHeader::default(), body_len: 5 };
    let record = |head: &PublishHead<'_>, message: PublishMessage| {
        let mut bytes = Vec::new();
        encode_publish(&mut bytes, head, &[message], |_| {});
        let bodies_at = bytes.len();
        bytes.extend(b"hello");
        (bytes, bodies_at)
    };
    let plain = PublishHead { first_id: 7, namespace: "n", queue: "q", ..PublishHead::default() };
    let (bytes, bodies_at) = record(&plain, message);
    assert_eq!(head_len(&bytes), bodies_at);
    let Ok(Record::Publish(whole)) = record::decode(&bytes) else { panic!("not a publish") };
    let Ok(Record::Publish(head)) = decode_head(&bytes[..bodies_at], bytes.len()) else { panic!("no head") };
    assert_eq!(head, PublishRecord { bodies: &[], ..whole });
    let targets = [Target { queue: "audit", ttl_ms: 0, window_ms: 0 }];
    let fanout = PublishHead { targets: &targets, takes: &[1], ..plain };
    let acking = PublishHead { acks: &[3], ..plain };
    let options =
        PublishMessage { header: MessageHeader { has_options: true, ..message.header }, body_len: 5 };
    for (head, message) in [(&fanout, message), (&acking, message), (&plain, options)] {
        let (bytes, _) = record(head, message);
        assert_eq!(head_len(&bytes), bytes.len(), "{head:?}");
    }
}
