use super::*;
use crate::ids::{Boot, ProducerId, SubscriptionId};
use crate::wire::{ClientFrame, DeliverWriter, encode_publish_ack, encode_reply_ok};

fn welcome(window: u32) -> proto::Welcome {
    proto::Welcome {
        version: 1,
        session_id: 7,
        epoch: 1,
        heartbeat_ms: 1000,
        limits: Some(proto::Limits {
            frame_bytes_max: 4096,
            message_bytes_max: 3000,
            publish_messages_max: window,
            publish_bytes_max: 6000,
            batch_messages_max: 4,
            subscriptions_max: 2,
        }),
        resume_token: b"token".to_vec(),
        ..proto::Welcome::default()
    }
}

fn feed(machine: &mut Machine, now: Time, bytes: &[u8], chunk: usize) -> Vec<String> {
    let mut inbound = Inbound::new();
    let mut events = Vec::new();
    for mut input in bytes.chunks(chunk) {
        while let Some(event) = machine.next_event(now, &mut inbound, &mut input) {
            events.push(match event {
                Event::Delivered(view) => {
                    let lengths: Vec<_> =
                        view.deliveries().map(|d| (d.lease.message.0, d.message.len())).collect();
                    format!("Delivered {lengths:?}")
                }
                other => format!("{other:?}"),
            });
        }
        assert!(input.is_empty() || machine.is_closed());
    }
    events
}

fn welcomed(window: u32) -> (Machine, Vec<u8>) {
    let mut out = Vec::new();
    let mut machine = Machine::new(Time(0), &proto::Hello::default(), &mut out);
    let mut bytes = Vec::new();
    encode(&mut bytes, Kind::Welcome, &welcome(window));
    assert_eq!(feed(&mut machine, Time(0), &bytes, usize::MAX).len(), 1);
    out.clear();
    (machine, out)
}

fn lease(message: u64) -> LeaseId {
    LeaseId { message: MessageId(message), attempt: 1, boot: Boot(1) }
}

/// Decodes what the client sent; every frame must be one a server takes.
fn kinds(mut bytes: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::new();
    while let Ok(Split::Frame { frame, consumed }) = split(bytes, limits::FRAME_BYTES_MAX) {
        ClientFrame::decode(frame.kind, frame.payload).unwrap();
        kinds.push(frame.kind);
        bytes = &bytes[consumed..];
    }
    assert!(bytes.is_empty());
    kinds
}

#[test]
fn a_machine_is_small() {
    assert!(size_of::<Machine>() <= 192, "{} bytes", size_of::<Machine>());
}

#[test]
fn events_do_not_depend_on_how_the_bytes_are_cut() {
    let mut bytes = Vec::new();
    encode(&mut bytes, Kind::Welcome, &welcome(100));
    let asked = |machine: &mut Machine, out: &mut Vec<u8>| {
        machine.subscribe(SubscriptionId(1), "jobs", 8, 0, out).unwrap();
        machine.publish("jobs", None, b"one", out).unwrap();
        machine.publish("jobs", None, b"two", out).unwrap();
        machine.ack(&[lease(1)], false, out).unwrap();
    };
    let mut answers = Vec::new();
    encode_reply_ok(&mut answers, 1, 0);
    encode_publish_ack(&mut answers, 2, 1, 40, 2);
    let mut writer = DeliverWriter::begin(&mut answers, 4096);
    for (message, len) in [(5, 10), (6, 3000), (7, 0)] {
        assert!(writer.push(&mut answers, SubscriptionId(1), lease(message), 30_000, &vec![1; len]));
    }
    writer.finish(&mut answers);
    answers.extend_from_slice(&crate::wire::EMPTY_PONG);
    let reply = proto::Reply { seq: 4, lost: vec![lease(1).into()], ..proto::Reply::default() };
    encode(&mut answers, Kind::Reply, &reply);
    let goaway = proto::GoAway { code: 34, text: "drain".to_owned(), reconnect_after_ms: 9 };
    encode(&mut answers, Kind::GoAway, &goaway);

    let run = |chunk: usize| {
        let mut out = Vec::new();
        let mut machine = Machine::new(Time(0), &proto::Hello::default(), &mut out);
        let mut events = feed(&mut machine, Time(0), &bytes, chunk);
        asked(&mut machine, &mut out);
        events.extend(feed(&mut machine, Time(5), &answers, chunk));
        assert_eq!(machine.unanswered(), 0);
        assert_eq!(machine.partial.capacity(), 0, "an idle machine holds no input buffer");
        events
    };
    let whole = run(usize::MAX);
    assert_eq!(whole.len(), 7, "{whole:#?}");
    for chunk in 1..200 {
        assert_eq!(run(chunk), whole, "chunks of {chunk}");
    }
}

#[test]
fn hello_and_subscribe_share_the_first_write_and_nothing_else_does() {
    let mut out = Vec::new();
    let mut machine = Machine::new(
        Time(0),
        &proto::Hello {
            version_min: 1,
            version_max: 1,
            client_id: "a".to_owned(),
            ..proto::Hello::default()
        },
        &mut out,
    );
    assert_eq!(machine.subscribe(SubscriptionId(1), "jobs", 1, 0, &mut out), Ok(1));
    assert_eq!(machine.publish("jobs", None, b"x", &mut out), Err(RequestError::NotNow));
    assert_eq!(machine.ack(&[lease(1)], false, &mut out), Err(RequestError::NotNow));
    assert_eq!(kinds(&out), [Kind::Hello, Kind::Subscribe]);
}

#[test]
fn every_request_is_a_frame_that_a_server_takes() {
    let (mut machine, mut out) = welcomed(100);
    let producer = Some((ProducerId(9), 3, 2));
    let sub = SubscriptionId(1);
    machine.subscribe(sub, "jobs", 8, 100, &mut out).unwrap();
    machine.publish_batch("jobs", producer, &[b"a", b"b"], &mut out).unwrap();
    machine.credit(sub, 1, 1, &mut out);
    machine.ack(&[lease(1), lease(2)], true, &mut out).unwrap();
    machine.nack(&[lease(3)], false, Some(Duration::MAX), &"e".repeat(5000), true, &mut out).unwrap();
    machine.extend(&[lease(4)], Duration::ZERO, &mut out).unwrap();
    machine.extend(&[lease(4)], Duration::MAX, &mut out).unwrap();
    machine.ping(Time(1), None, &mut out);
    machine.ping(
        Time(1),
        Some(&proto::Ping { time_s: 1, node: 2, load_permille: 3, ..proto::Ping::default() }),
        &mut out,
    );
    assert_eq!(machine.unsubscribe(sub, &mut out), Ok(7));
    machine.bye(Some(ProducerId(9)), &mut out);
    let sent = [
        Kind::Subscribe,
        Kind::Publish,
        Kind::Credit,
        Kind::Ack,
        Kind::Nack,
        Kind::Extend,
        Kind::Extend,
        Kind::Ping,
        Kind::Ping,
        Kind::Unsubscribe,
        Kind::Bye,
    ];
    assert_eq!(kinds(&out), sent);
    assert!(machine.is_closed());
}

#[test]
fn the_publish_window_is_kept_in_messages_and_bytes() {
    let (mut machine, mut out) = welcomed(3);
    for _ in 0..3 {
        machine.publish("jobs", None, b"x", &mut out).unwrap();
    }
    let written = out.len();
    assert_eq!(machine.publish("jobs", None, b"x", &mut out), Err(RequestError::WindowFull));
    assert_eq!(out.len(), written);
    let mut answer = Vec::new();
    encode_publish_ack(&mut answer, 1, 1, 1, 2);
    feed(&mut machine, Time(0), &answer, usize::MAX);
    assert_eq!(machine.room(), Room { messages: 2, bytes: 5999 });
    machine.publish("jobs", None, &[0; 3000], &mut out).unwrap();
    assert_eq!(machine.publish("jobs", None, &[0; 3000], &mut out), Err(RequestError::WindowFull));
    machine.publish("jobs", None, &[0; 2999], &mut out).unwrap();
    let too_large = machine.publish("jobs", None, &[0; 3001], &mut out);
    assert!(matches!(too_large, Err(RequestError::TooMuch { count: 3001, max: 3000, .. })));
    let too_many = machine.publish_batch("jobs", None, &[&b"x"[..]; 5], &mut out);
    assert!(matches!(too_many, Err(RequestError::TooMuch { count: 5, .. })));
    let beyond_frame = machine.publish_batch("jobs", None, &[&[0; 2100][..], &[0; 2100]], &mut out);
    assert!(matches!(beyond_frame, Err(RequestError::TooMuch { count: 4200, .. })));
}

#[test]
fn answers_may_overtake_a_publish_that_waits() {
    let (mut machine, mut out) = welcomed(10);
    for _ in 0..4 {
        machine.publish("jobs", None, b"x", &mut out).unwrap();
    }
    let mut answers = Vec::new();
    encode_publish_ack(&mut answers, 3, 1, 1, 2);
    encode_publish_ack(&mut answers, 1, 1, 3, 2);
    assert_eq!(feed(&mut machine, Time(0), &answers, usize::MAX).len(), 2);
    assert_eq!((machine.unanswered(), machine.room().messages), (0, 10));
}

#[test]
fn an_answer_to_nothing_ends_the_connection() {
    let cases: [fn(&mut Vec<u8>); 5] = [
        |out| encode_publish_ack(out, 9, 0, 1, 1),
        |out| encode_publish_ack(out, 1, 1, 1, 2), // the second request is no publish
        |out| encode_publish_ack(out, 1, 0, 1, 2), // one message, two answered
        |out| encode_reply_ok(out, 1, 0),          // a publish
        |out| encode_reply_ok(out, 2, u32::MAX),
    ];
    for (at, answer) in cases.into_iter().enumerate() {
        let (mut machine, mut out) = welcomed(10);
        machine.publish("jobs", None, b"x", &mut out).unwrap();
        machine.subscribe(SubscriptionId(1), "jobs", 1, 0, &mut out).unwrap();
        let mut bytes = Vec::new();
        answer(&mut bytes);
        let events = feed(&mut machine, Time(0), &bytes, usize::MAX);
        assert!(events.len() == 1 && events[0].starts_with("Broken"), "case {at}: {events:?}");
        assert!(machine.is_closed());
    }
}

#[test]
fn frames_out_of_place_end_the_connection() {
    let mut early = Vec::new();
    encode_reply_ok(&mut early, 1, 0);
    let mut machine = Machine::new(Time(0), &proto::Hello::default(), &mut Vec::new());
    assert!(feed(&mut machine, Time(0), &early, 1)[0].contains("Unexpected(Reply)"));

    let (mut machine, _) = welcomed(1);
    let mut again = Vec::new();
    encode(&mut again, Kind::Welcome, &welcome(1));
    assert!(feed(&mut machine, Time(0), &again, 1)[0].contains("Unexpected(Welcome)"));

    let (mut machine, _) = welcomed(1);
    assert!(feed(&mut machine, Time(0), &[0x7f, 0xff], 1)[0].contains("Broken"));

    let mut machine = Machine::new(Time(0), &proto::Hello::default(), &mut Vec::new());
    let mut useless = Vec::new();
    encode(&mut useless, Kind::Welcome, &proto::Welcome { heartbeat_ms: 1, ..proto::Welcome::default() });
    assert!(feed(&mut machine, Time(0), &useless, 1)[0].contains("frame_bytes_max"));
}

#[test]
fn a_late_heartbeat_does_not_put_off_the_next() {
    let (mut machine, mut out) = welcomed(1);
    machine.handle_timeout(Time(1300), &mut out).unwrap();
    assert_eq!(machine.next_deadline(), Some(Time(2000)));
    feed(&mut machine, Time(1900), &crate::wire::EMPTY_PONG, 1);
    // Later than a whole interval: what was due meanwhile is not made up for.
    machine.handle_timeout(Time(3500), &mut out).unwrap();
    assert_eq!(machine.next_deadline(), Some(Time(4500)));
    assert_eq!(kinds(&out), [Kind::Ping, Kind::Ping]);
}

#[test]
fn the_moment_of_the_heartbeats_can_be_chosen_within_an_interval() {
    let (mut machine, mut out) = welcomed(1);
    machine.next_ping_at(Time(0), Time(400));
    assert_eq!(machine.next_deadline(), Some(Time(400)));
    machine.handle_timeout(Time(410), &mut out).unwrap();
    assert_eq!(machine.next_deadline(), Some(Time(1400)));
    machine.next_ping_at(Time(500), Time(9000));
    assert_eq!(machine.next_deadline(), Some(Time(1500)));
}

#[test]
fn heartbeats_are_sent_each_interval_and_three_silent_ones_close() {
    let (mut machine, mut out) = welcomed(1);
    assert_eq!(machine.next_deadline(), Some(Time(1000)));
    machine.handle_timeout(Time(999), &mut out).unwrap();
    assert!(out.is_empty());
    machine.handle_timeout(Time(1000), &mut out).unwrap();
    assert_eq!(kinds(&out), [Kind::Ping]);
    let events = feed(&mut machine, Time(1030), &crate::wire::EMPTY_PONG, 1);
    assert_eq!(events, ["Pong { rtt: Some(30ms) }"]);
    for at in [2000, 3000, 4000] {
        assert_eq!(machine.next_deadline(), Some(Time(at)));
        machine.handle_timeout(Time(at), &mut out).unwrap();
    }
    assert_eq!(machine.handle_timeout(Time(5000), &mut out), Err(Silence::Heartbeats));
    assert!(machine.is_closed() && machine.next_deadline().is_none());
}

/// A machine that wants every so manieth PING answered, and was agreed with.
fn eliding(pong_every: u32) -> Machine {
    let mut out = Vec::new();
    let hello = proto::Hello { pong_every, ..proto::Hello::default() };
    let mut machine = Machine::new(Time(0), &hello, &mut out);
    let mut bytes = Vec::new();
    encode(&mut bytes, Kind::Welcome, &proto::Welcome { pong_every, ..welcome(1) });
    assert_eq!(feed(&mut machine, Time(0), &bytes, usize::MAX).len(), 1);
    machine
}

#[test]
fn a_server_that_answers_every_kth_is_not_taken_for_dead() {
    for k in 1..=16 {
        let mut machine = eliding(k);
        let (mut pings, mut pongs) = (0, 0);
        for tick in 1..=200_u64 {
            let mut out = Vec::new();
            assert_eq!(machine.next_deadline(), Some(Time(tick * 1000)));
            machine.handle_timeout(Time(tick * 1000), &mut out).unwrap();
            assert_eq!(kinds(&out), [Kind::Ping], "one a heartbeat while all is well");
            pings += 1;
            if pings % k == 0 {
                pongs += 1;
                let events = feed(&mut machine, Time(tick * 1000 + 9), &crate::wire::EMPTY_PONG, 1);
                assert_eq!(events, ["Pong { rtt: Some(9ms) }"]);
            }
        }
        assert_eq!(pongs, 200 / k);
    }
}

#[test]
fn a_server_that_is_gone_is_left_after_three_answers_too_few() {
    for k in 1..=16_u64 {
        let mut machine = eliding(k as u32);
        let mut answers_due = 0;
        let mut pings = 0;
        let left_at = loop {
            let now = machine.next_deadline().unwrap();
            let mut out = Vec::new();
            if machine.handle_timeout(now, &mut out).is_err() {
                break now;
            }
            pings += kinds(&out).len() as u64;
            assert!(out.len() as u64 <= 2 * k);
            answers_due = pings / k;
        };
        assert_eq!(left_at, Time((k + 2) * 1000), "every {k}.");
        assert_eq!(answers_due, 2, "and at the third the connection is closed");
    }
}

#[test]
fn heartbeats_of_ones_own_neither_hide_a_silence_nor_cause_one() {
    let mut machine = eliding(3);
    let mut out = Vec::new();
    for at in (100..5000).step_by(100) {
        machine.handle_timeout(Time(at), &mut out).unwrap();
        machine.ping(Time(at), None, &mut out);
    }
    assert_eq!(machine.next_deadline(), Some(Time(5000)));
    assert_eq!(machine.handle_timeout(Time(5000), &mut out), Err(Silence::Heartbeats));
}

#[test]
fn an_answer_can_be_had_when_it_is_wanted() {
    for k in 1..=16_u32 {
        let mut machine = eliding(k);
        for before in 0..40 {
            let mut out = Vec::new();
            machine.ping(Time(1), None, &mut out);
            machine.ask_for_pong(Time(1), &mut out);
            assert_eq!(machine.pings_to_pong, machine.pong_every);
            assert!(out.len() as u32 <= 2 * k, "{} bytes after {before}", out.len());
            let mut more = Vec::new();
            machine.ask_for_pong(Time(1), &mut more);
            assert!(more.is_empty(), "the last one is answered");
            (0..before % k).for_each(|_| machine.ping(Time(1), None, &mut more));
        }
    }
    let mut out = Vec::new();
    let hello = proto::Hello { pong_every: 4, ..proto::Hello::default() };
    let mut machine = Machine::new(Time(0), &hello, &mut out);
    out.clear();
    machine.ask_for_pong(Time(0), &mut out);
    assert!(out.is_empty(), "not before WELCOME");
}

#[test]
fn a_server_may_answer_more_often_than_asked_and_never_less() {
    for (asked, said, agreed) in
        [(4, 0, Some(1)), (4, 2, Some(2)), (4, 4, Some(4)), (4, 5, None), (0, 2, None)]
    {
        let hello = proto::Hello { pong_every: asked, ..proto::Hello::default() };
        let mut machine = Machine::new(Time(0), &hello, &mut Vec::new());
        let mut bytes = Vec::new();
        encode(&mut bytes, Kind::Welcome, &proto::Welcome { pong_every: said, ..welcome(1) });
        let events = feed(&mut machine, Time(0), &bytes, usize::MAX);
        match agreed {
            Some(agreed) => assert_eq!(machine.pong_every, agreed),
            None => assert!(machine.is_closed() && events[0].contains("pong_every"), "{events:?}"),
        }
    }
}

#[test]
fn the_interval_is_the_one_the_server_asked_for_last() {
    let mut machine = eliding(2);
    let mut out = Vec::new();
    machine.handle_timeout(Time(1000), &mut out).unwrap();
    machine.handle_timeout(Time(2000), &mut out).unwrap();
    let mut pong = Vec::new();
    encode(&mut pong, Kind::Pong, &proto::Pong { heartbeat_ms: 4000 });
    feed(&mut machine, Time(2010), &pong, usize::MAX);
    assert_eq!(machine.heartbeat(), Duration::from_secs(4));
    let first = machine.next_deadline().unwrap();
    assert!(first >= Time(2010) && first < Time(6010), "somewhere in the first one: {first:?}");
    machine.handle_timeout(first, &mut out).unwrap();
    assert_eq!(machine.next_deadline(), Some(first + Duration::from_secs(4)));
    feed(&mut machine, first, &crate::wire::EMPTY_PONG, usize::MAX);
    assert_eq!(machine.heartbeat(), Duration::from_secs(4), "an empty PONG changes nothing");
    let mut pong = Vec::new();
    encode(&mut pong, Kind::Pong, &proto::Pong { heartbeat_ms: 500 });
    feed(&mut machine, Time(6500), &pong, usize::MAX);
    assert_eq!(machine.next_deadline(), Some(Time(7000)), "a shorter one begins at once");
}

/// Clients that heard of a longer interval within one of the old ones are spread over all of the new.
#[test]
fn heartbeats_that_become_fewer_become_fewer_at_every_moment() {
    let mut pong = Vec::new();
    encode(&mut pong, Kind::Pong, &proto::Pong { heartbeat_ms: 8000 });
    let mut at = [0_u32; 8];
    for told_at in 0..1000 {
        let (mut machine, _) = welcomed(1);
        feed(&mut machine, Time(told_at), &pong, usize::MAX);
        at[(machine.next_deadline().unwrap().0 % 8000 / 1000) as usize] += 1;
    }
    assert!(at.iter().all(|&there| (100..150).contains(&there)), "{at:?}");
}

#[test]
fn a_server_that_does_not_welcome_in_time_is_left() {
    let mut out = Vec::new();
    let mut machine = Machine::new(Time(100), &proto::Hello::default(), &mut out);
    assert_eq!(machine.next_deadline(), Some(Time(5100)));
    assert_eq!(machine.handle_timeout(Time(5100), &mut out), Err(Silence::Handshake));
}

#[test]
fn after_goaway_leases_are_settled_and_nothing_new_is_asked() {
    let (mut machine, mut out) = welcomed(5);
    let mut bytes = Vec::new();
    encode(&mut bytes, Kind::GoAway, &proto::GoAway::default());
    feed(&mut machine, Time(0), &bytes, usize::MAX);
    assert_eq!(machine.publish("jobs", None, b"x", &mut out), Err(RequestError::NotNow));
    assert_eq!(machine.ack(&[lease(1)], false, &mut out), Ok(1));
    let mut reply = Vec::new();
    encode_reply_ok(&mut reply, 1, 0);
    assert_eq!(feed(&mut machine, Time(0), &reply, usize::MAX).len(), 1);
}

#[test]
fn what_does_not_fit_a_frame_is_published_in_parts() {
    let (mut machine, mut out) = welcomed(100);
    let limits = welcome(100).limits.unwrap();
    let fits = Machine::bodies_bytes_max(&limits, "jobs", 1, 0);
    machine.message_bytes_max = 6000;
    machine.publish("jobs", None, &vec![1; fits], &mut out).unwrap();
    assert_eq!(kinds(&out), [Kind::Publish]);
    assert!(out.len() <= 4096 + 3);
    out.clear();
    let (mut machine, mut out) = welcomed(100);
    machine.message_bytes_max = 6000;
    assert_eq!(machine.publish("jobs", None, &vec![1; fits + 1], &mut out), Ok(1));
    assert_eq!(kinds(&out), [Kind::Part, Kind::Publish]);
    assert_eq!(machine.room(), Room { messages: 99, bytes: 6000 - fits as u32 - 1 });
    assert_eq!(machine.publish("jobs", None, &[1; 5900], &mut out), Err(RequestError::WindowFull));
    let too_large = machine.publish("jobs", None, &[1; 6001], &mut out);
    assert!(matches!(too_large, Err(RequestError::TooMuch { count: 6001, max: 6000, .. })));
}

#[test]
fn a_delivery_in_parts_is_whole_however_it_is_cut() {
    let body: Vec<u8> = (0..10_000).map(|at| at as u8).collect();
    let mut bytes = Vec::new();
    let mut sent = 0;
    while body.len() - sent > 3000 {
        sent += crate::wire::encode_part(&mut bytes, &body, sent, 4000);
        bytes.extend_from_slice(&crate::wire::EMPTY_PONG);
        // A whole message may pass between the parts of another.
        let mut writer = DeliverWriter::begin(&mut bytes, 4096);
        assert!(writer.push(&mut bytes, SubscriptionId(1), lease(1), 1000, b"small"));
        writer.finish(&mut bytes);
    }
    let mut writer = DeliverWriter::begin(&mut bytes, 4096);
    assert!(writer.push_end(&mut bytes, SubscriptionId(1), lease(2), 1000, sent as u32, &body[sent..]));
    writer.finish(&mut bytes);
    for chunk in [1, 7, 1000, usize::MAX] {
        let (mut machine, _) = welcomed(100);
        let mut inbound = Inbound::new();
        let mut whole = Vec::new();
        for mut input in bytes.chunks(chunk) {
            while let Some(event) = machine.next_event(Time(0), &mut inbound, &mut input) {
                let Event::Delivered(view) = event else { continue };
                whole.extend(view.deliveries().map(|delivery| (delivery.lease, delivery.message.to_vec())));
            }
        }
        assert!(!machine.is_closed());
        let small = (lease(1), b"small".to_vec());
        assert!(whole == [small.clone(), small, (lease(2), body.clone())], "cut at {chunk}");
        assert_eq!(machine.incoming.capacity(), 0, "an idle machine holds no part");
    }
}

#[test]
fn parts_that_make_no_message_break_the_connection() {
    let part = |offset, data: &[u8]| {
        let mut bytes = Vec::new();
        encode(&mut bytes, Kind::Part, &proto::Part { offset, data: data.to_vec() });
        bytes
    };
    let end = |parts_bytes| {
        let mut bytes = Vec::new();
        let mut writer = DeliverWriter::begin(&mut bytes, 4096);
        assert!(writer.push_end(&mut bytes, SubscriptionId(1), lease(2), 1000, parts_bytes, b"end"));
        writer.finish(&mut bytes);
        bytes
    };
    for bytes in
        [part(1, b"a"), [part(0, b"a"), part(0, b"a")].concat(), end(4), [part(0, b"a"), end(2)].concat()]
    {
        let (mut machine, _) = welcomed(100);
        let events = feed(&mut machine, Time(0), &bytes, usize::MAX);
        assert!(events.last().is_some_and(|event| event.contains("Broken")), "{events:?}");
        assert!(machine.is_closed() && machine.incoming.is_empty());
    }
    // More than any message has, without end.
    let (mut machine, _) = welcomed(100);
    let data = vec![0; 4000];
    let mut offset = 0;
    while !machine.is_closed() {
        assert!(offset <= limits::MESSAGE_BYTES_MAX, "{offset} bytes are kept");
        feed(&mut machine, Time(0), &part(offset as u32, &data), usize::MAX);
        offset += data.len();
    }
}
