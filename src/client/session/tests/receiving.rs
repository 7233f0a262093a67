//! Subscriptions, their credit, and what becomes of each delivery and its lease.

use super::*;

#[test]
fn a_break_at_any_byte_hands_every_message_out_once_and_settles_it_once() {
    for (up, down) in (0..700).flat_map(|cut| [(cut, ALL), (ALL, cut)]) {
        let mut server = Server::new();
        server.ready = (1..=9).map(lease).collect();
        let mut client = Client::new();
        client.acks_at_once = true;
        client.session.subscribe(&jobs(), 4, 0, None).unwrap();
        client.connection(&mut server, up, down, 5);
        if matches!(client.session.link(), Link::Connect { .. }) {
            client.connection(&mut server, ALL, ALL, 64);
        }
        let mut delivered: Vec<_> = client.delivered().iter().map(|lease| lease.message.0).collect();
        delivered.sort_unstable();
        assert_eq!(delivered, (1..=9).collect::<Vec<_>>(), "cut at {up}, {down}");
        server.done.sort_unstable();
        assert_eq!(server.done, (1..=9).collect::<Vec<_>>(), "cut at {up}, {down}");
        assert!(server.most_out <= 4, "credit is kept across the break");
        assert_eq!((client.session.unanswered(), client.session.held()), (0, 0));
        // What is reported lost was sent twice: the first one counted.
        for seen in &client.seen {
            assert!(!matches!(seen, Seen::Settled(_, lost, false) if !lost.is_empty()), "{seen:?}");
        }
    }
}

#[test]
fn held_leases_are_presented_and_not_handed_out_again() {
    let mut server = Server::new();
    server.ready = (1..=300).map(lease).collect();
    let mut client = Client::new();
    client.session.subscribe(&jobs(), 300, 0, None).unwrap();
    client.connection(&mut server, ALL, ALL, ALL);
    assert_eq!(client.session.held(), 300);
    let _ = client.session.lost(client.now);
    client.connection(&mut server, ALL, ALL, ALL);
    let hello = server.hellos.last().unwrap();
    assert_eq!(
        (hello.leases.len(), hello.resume_token.as_slice()),
        (limits::HELLO_LEASES_MAX, &b"token"[..])
    );
    assert!(hello.encoded_len() <= limits::HANDSHAKE_FRAME_BYTES_MAX);
    // Those that did not fit are delivered again as credit comes back; the user works on them already.
    assert_eq!((server.leased.len(), server.ready.len()), (256, 44));
    let presented: Vec<_> = server.leased.iter().map(|&(message, _)| lease(message)).collect();
    let mut out = Vec::new();
    for held in presented {
        assert!(client.session.settle(held, Settlement::Ack));
        client.session.transmit(&mut out);
        server.receive(&out);
        out.clear();
        let answers = std::mem::take(&mut server.out);
        client.take(&answers);
    }
    assert_eq!((client.delivered().len(), client.session.held()), (300, 44));
    assert_eq!((server.leased.len(), server.ready.len()), (44, 0));
}

#[test]
fn what_was_joined_for_one_server_is_split_for_another() {
    let mut server = Server::new();
    server.ready = (1..=100).map(lease).collect();
    let mut client = Client::new();
    client.session.subscribe(&jobs(), 100, 0, None).unwrap();
    client.connection(&mut server, ALL, ALL, ALL);
    (1..=100).for_each(|message| assert!(client.session.settle(lease(message), Settlement::Ack)));
    assert_eq!(client.session.unanswered(), 1, "acks share a frame");
    let mut out = Vec::new();
    client.session.transmit(&mut out);
    server.receive(&out);
    let answers = std::mem::take(&mut server.out);
    client.take(&answers);
    assert_eq!((client.session.unanswered(), server.done.len()), (0, 100));
}

#[test]
fn a_hello_stays_within_the_handshakes_frame() {
    let mut client = Client::new();
    client.session.config.credential = vec![b'x'; 1024];
    client.session.resume_token = vec![1; 64];
    for message in 0..300 {
        let lease =
            LeaseId { message: MessageId(u64::MAX - message), attempt: u32::MAX, boot: Boot(u32::MAX) };
        assert!(client.session.leases.delivered(lease, SubscriptionId(1), 1));
    }
    let hello = client.session.hello();
    assert!(hello.encoded_len() <= limits::HANDSHAKE_FRAME_BYTES_MAX && hello.leases.len() > 100);
}

#[test]
fn credit_follows_what_is_settled_up_to_the_total() {
    let mut server = Server::new();
    server.ready = (1..=9).map(lease).collect();
    let mut client = Client::new();
    client.acks_at_once = true;
    client.session.subscribe(&jobs(), 2, 0, Some(5)).unwrap();
    client.connection(&mut server, ALL, ALL, ALL);
    assert_eq!((server.done.len(), client.delivered().len(), server.ready.len()), (5, 5, 4));
}

#[test]
fn a_settlement_is_taken_once_and_an_extension_only_while_held() {
    let mut server = Server::new();
    server.ready = vec![lease(1), lease(2)];
    let mut client = Client::new();
    client.session.subscribe(&jobs(), 2, 0, None).unwrap();
    client.connection(&mut server, ALL, ALL, ALL);
    let extend = || Settlement::Extend { lease: Duration::from_secs(9) };
    assert!(client.session.settle(lease(1), extend()));
    assert!(client.session.settle(lease(1), extend()));
    assert_eq!(client.session.unanswered(), 1, "an extension replaces one that waits");
    let nack = Settlement::Nack { delay: None, error: "no".to_owned(), reject: false };
    assert!(client.session.settle(lease(1), nack));
    assert!(!client.session.settle(lease(1), Settlement::Ack));
    assert!(!client.session.settle(lease(1), extend()));
    assert!(!client.session.settle(lease(3), Settlement::Ack));
    let mut out = Vec::new();
    client.session.transmit(&mut out);
    server.receive(&out);
    assert_eq!(server.nacked, ["no"]);
}

#[test]
fn nothing_is_subscribed_to_before_every_settlement_is_sent() {
    let mut server = Server::new();
    let many = u64::from(limits::REQUEST_WINDOW) + 1;
    let mut client = Client::new();
    client.session.subscribe(&jobs(), 1, 0, None).unwrap();
    for message in 1..=many {
        server.leased.insert((message, 1));
        assert!(client.session.leases.delivered(lease(message), SubscriptionId(1), 1));
        let nack = Settlement::Nack { delay: None, error: message.to_string(), reject: false };
        assert!(client.session.settle(lease(message), nack));
    }
    assert!(client.session.unanswered() > usize::from(limits::REQUEST_WINDOW));
    let mut out = Vec::new();
    client.session.connected(client.now, &mut out);
    server.accept();
    server.receive(&out);
    let answers = std::mem::take(&mut server.out);
    client.take(&answers);
    out.clear();
    client.session.transmit(&mut out);
    server.receive(&out);
    assert!(server.credit.is_empty(), "the last settlement does not fit the window");
    let answers = std::mem::take(&mut server.out);
    client.take(&answers);
    out.clear();
    client.session.transmit(&mut out);
    server.receive(&out);
    assert_eq!(server.credit.len(), 1);
}

#[test]
fn a_message_above_the_credit_in_bytes_uses_it_up_and_gives_it_back() {
    let mut subscription = Subscription::new(SubscriptionId(1), jobs(), 8, 1000, None);
    let (mut machine, mut out) =
        (Machine::new(Time(0), &proto::Hello::default(), &mut Vec::new()), Vec::new());
    let told = |out: &mut Vec<u8>| {
        let Ok(Split::Frame { frame, .. }) = split(out, limits::FRAME_BYTES_MAX) else { panic!("no frame") };
        let bytes = match ClientFrame::decode(frame.kind, frame.payload) {
            Ok(ClientFrame::Subscribe(subscribe)) => subscribe.credit_bytes,
            Ok(ClientFrame::Credit(credit)) => credit.bytes,
            other => panic!("{other:?}"),
        };
        out.clear();
        bytes
    };
    subscription.send(&mut machine, &mut out);
    assert_eq!(told(&mut out), 1000);
    subscription.used(5_000_000);
    // A new connection begins with what is open, of which 0 would mean no bound.
    subscription.seq = None;
    subscription.send(&mut machine, &mut out);
    assert_eq!(told(&mut out), 1);
    subscription.give_back(5_000_000);
    subscription.send(&mut machine, &mut out);
    assert_eq!(told(&mut out), 999, "the server counts from what it was told");
    subscription.used(10);
    subscription.give_back(10);
    subscription.send(&mut machine, &mut out);
    assert_eq!(told(&mut out), 10);
}

#[test]
fn a_refused_subscription_is_forgotten() {
    let mut client = Client::new();
    let mut server = Server::new();
    client.connection(&mut server, ALL, ALL, ALL);
    client.session.subscribe(&jobs(), 1, 0, None).unwrap();
    client.session.transmit(&mut Vec::new());
    let reply = proto::Reply { seq: 1, code: proto::Code::Invalid.into(), ..proto::Reply::default() };
    server_says(&mut client, Kind::Reply, &reply);
    assert!(client.session.subscriptions.is_empty());
}

#[test]
fn a_break_at_any_byte_passes_every_message_on_once() {
    for (up, down) in (0..900).flat_map(|cut| [(cut, ALL), (ALL, cut)]) {
        let mut server = Server::new();
        server.ready = (1..=9).map(lease).collect();
        let mut client = Client::new();
        client.passes_on = true;
        client.session.subscribe(&jobs(), 4, 0, None).unwrap();
        client.connection(&mut server, up, down, 5);
        if matches!(client.session.link(), Link::Connect { .. }) {
            client.connection(&mut server, ALL, ALL, 64);
        }
        server.done.sort_unstable();
        assert_eq!(server.done, (1..=9).collect::<Vec<_>>(), "cut at {up}, {down}");
        let mut passed: Vec<_> = server.stored.values().cloned().collect();
        passed.sort_unstable();
        let expected: Vec<Vec<u8>> = (1..=9u64).map(|id| id.to_le_bytes().to_vec()).collect();
        assert_eq!(passed, expected, "cut at {up}, {down}");
        assert!(server.most_out <= 4, "credit is kept across the break");
        assert_eq!((client.session.unanswered(), client.session.held()), (0, 0));
    }
}

#[test]
fn what_a_publish_acks_is_held_until_its_answer_and_after_a_refusal() {
    let mut server = Server::new();
    server.ready = (1..=2).map(lease).collect();
    let mut client = Client::new();
    client.session.subscribe(&jobs(), 2, 0, None).unwrap();
    client.connection(&mut server, ALL, ALL, ALL);
    let leases: Vec<LeaseId> = client.delivered();
    let body = || vec![b"next".to_vec()];
    let sequence = client.session.ack_and_publish(&leases, &jobs(), body()).unwrap();
    assert_eq!(client.session.held(), 2);
    assert!(!client.session.settle(leases[0], Settlement::Ack), "the publish acks it");
    assert!(client.session.settle(leases[0], Settlement::Extend { lease: Duration::from_secs(9) }));
    assert_eq!(client.session.ack_and_publish(&leases, &jobs(), body()), Err(Unsendable::NotHeld));
    // The server lost one of them: that one is over, the other is held again.
    server.leased.remove(&(leases[0].message.0, leases[0].attempt));
    let mut out = Vec::new();
    client.session.transmit(&mut out);
    server.receive(&out);
    let answers = std::mem::take(&mut server.out);
    client.take(&answers);
    assert!(client.seen.contains(&Seen::Refused(sequence)));
    assert!(server.stored.is_empty() && server.done.is_empty(), "nothing was done");
    assert_eq!(client.session.held(), 1);
    assert!(!client.session.settle(leases[0], Settlement::Ack));
    assert!(client.session.settle(leases[1], Settlement::Ack));
}

#[test]
fn a_lease_that_is_over_is_told_once_and_extended_no_more() {
    let mut server = Server::new();
    server.ready = vec![lease(1)];
    let mut client = Client::new();
    client.session.subscribe(&jobs(), 1, 0, None).unwrap();
    client.connection(&mut server, ALL, ALL, ALL);
    let extend = || Settlement::Extend { lease: Duration::from_secs(9) };
    let mut out = Vec::new();
    // Two are under way when the first is answered.
    for _ in 0..2 {
        assert!(client.session.settle(lease(1), extend()));
        client.session.transmit(&mut out);
    }
    server.leased.clear();
    server.receive(&out);
    client.seen.clear();
    client.take(&std::mem::take(&mut server.out));
    let over = |lost| Seen::Settled(vec![lease(1)], lost, false);
    assert_eq!(client.seen, [over(vec![lease(1)]), over(Vec::new())]);
    assert!(!client.session.settle(lease(1), extend()));
    assert_eq!(client.session.held(), 1);
    assert!(client.session.settle(lease(1), Settlement::Ack), "what came of it may still count");
}
