//! What is published arrives once and whole, whatever becomes of the connection.

use super::*;

/// Publishes five requests of 1 to 3 messages, one of them refused.
fn publish_all(client: &mut Client) -> Vec<u64> {
    let bodies = |request: u8| (0..request % 3 + 1).map(|message| vec![request, message]).collect();
    (0..5).map(|request| client.session.publish_batch(&jobs(), bodies(request)).unwrap()).collect()
}

fn check_published(client: &Client, server: &Server, sequences: &[u64], refused: u64) {
    assert_eq!(client.session.unanswered(), 0);
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for (request, &sequence) in (0u8..).zip(sequences) {
        let published: Vec<_> = client
            .seen
            .iter()
            .filter(|seen| matches!(seen, Seen::Published(s, ..) | Seen::Refused(s) if *s == sequence))
            .collect();
        let [answer] = published[..] else { panic!("sequence {sequence} has {} answers", published.len()) };
        if sequence == refused {
            assert_eq!(*answer, Seen::Refused(sequence));
            continue;
        }
        let messages = u32::from(request % 3 + 1);
        assert_eq!(*answer, Seen::Published(sequence, messages, expected.len() as u64 + 1));
        expected.extend((0..request % 3 + 1).map(|message| vec![request, message]));
    }
    assert_eq!(server.stored.values().cloned().collect::<Vec<_>>(), expected, "each once, in order");
}

#[test]
fn a_break_at_any_byte_neither_doubles_nor_loses_a_publish() {
    let refused = 4; // the third request; 1, 2 to 3 and 4 to 6 are the first three
    for (up, down) in (0..500).flat_map(|cut| [(cut, ALL), (ALL, cut)]) {
        let mut server = Server::new();
        let mut client = Client::new();
        let sequences = publish_all(&mut client);
        server.refuse = [refused].into();
        client.connection(&mut server, up, down, 7);
        // A refusal that was lost is no longer true the second time; make it stay.
        if !client.seen.contains(&Seen::Refused(refused)) {
            server.refuse = [refused].into();
        }
        if matches!(client.session.link(), Link::Connect { .. }) {
            client.connection(&mut server, ALL, ALL, 1);
        }
        check_published(&client, &server, &sequences, refused);
    }
}

#[test]
fn two_breaks_in_a_row_are_survived_as_well() {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..500 {
        let mut server = Server::new();
        server.window = random.u32(3..20);
        let mut client = Client::new();
        let sequences = publish_all(&mut client);
        for _ in 0..4 {
            if matches!(client.session.link(), Link::Connect { .. }) {
                let (up, down) = (random.usize(0..300), random.usize(0..200));
                client.connection(&mut server, up, down, random.usize(1..50));
            }
        }
        if matches!(client.session.link(), Link::Connect { .. }) {
            client.connection(&mut server, ALL, ALL, 9);
        }
        check_published(&client, &server, &sequences, u64::MAX);
        let froms: Vec<_> = server.marks.keys().map(|&(producer, _)| producer).collect();
        assert!(froms.windows(2).all(|pair| pair[0] == pair[1]), "one producer id for life");
    }
}

#[test]
fn more_than_the_window_is_not_taken() {
    let mut client = Client::new();
    for _ in 0..limits::PUBLISH_WINDOW_MESSAGES {
        client.session.publish(&jobs(), vec![1]).unwrap();
    }
    assert_eq!(client.session.publish(&jobs(), vec![1]), Err(Unsendable::Full));
    assert_eq!(client.session.room().messages, 0);
    let large = client.session.publish(&jobs(), vec![0; limits::MESSAGE_BYTES_MAX + 1]);
    assert!(matches!(large, Err(Unsendable::Message { .. })));
    assert!(matches!(client.session.publish_batch(&jobs(), Vec::new()), Err(Unsendable::Batch { .. })));
}

#[test]
fn a_large_message_is_sent_again_from_its_first_part() {
    let mut server = Server::new();
    let mut client = Client::new();
    let large: Vec<u8> = (0..3_000_000).map(|at| (at % 251) as u8).collect();
    client.session.publish(&jobs(), vec![1]).unwrap();
    let sequence = client.session.publish(&jobs(), large.clone()).unwrap();
    client.session.publish(&jobs(), vec![2]).unwrap();
    // Broken within the first part, between two, and within the last frame.
    for up in [100_000, 1_200_000, 2_999_900] {
        client.connection(&mut server, up, ALL, ALL);
        assert!(client.session.is_unanswered(sequence));
    }
    client.connection(&mut server, ALL, ALL, ALL);
    let stored: Vec<_> = server.stored.into_values().collect();
    assert!(stored == [vec![1], large, vec![2]], "each once, in order, whole");
    assert_eq!(client.session.unanswered(), 0);
}

#[test]
fn a_large_message_leaves_room_for_other_frames_between_its_parts() {
    let mut server = Server::new();
    let mut client = Client::new();
    client.connection(&mut server, ALL, ALL, ALL);
    client.session.publish(&jobs(), vec![7; limits::MESSAGE_BYTES_MAX]).unwrap();
    // One that begins when the other has ended, as far as the window goes.
    client.session.publish(&jobs(), vec![8; 2_000_000]).unwrap();
    let (mut rounds, mut out) = (0, Vec::new());
    while client.session.unanswered() > 0 {
        out.clear();
        client.session.transmit(&mut out);
        assert!(!out.is_empty() && out.len() < 3 * TRANSMIT_BYTES_SOFT_MAX, "{} bytes at once", out.len());
        client.session.ping(client.now, None, &mut out);
        server.receive(&out);
        client.take(&std::mem::take(&mut server.out));
        rounds += 1;
    }
    assert!(rounds > 30, "all of it in {rounds} rounds");
    assert_eq!(server.stored[&1].len(), limits::MESSAGE_BYTES_MAX);
    assert!(server.stored[&2] == [8; 2_000_000]);
}

#[test]
fn a_smaller_window_after_a_reconnect_is_kept_and_everything_still_arrives() {
    let mut server = Server::new();
    let mut client = Client::new();
    for message in 0..60 {
        client.session.publish(&jobs(), vec![message]).unwrap();
    }
    client.connection(&mut server, 40, ALL, ALL);
    server.window = 2;
    client.connection(&mut server, ALL, ALL, ALL);
    assert_eq!(server.stored.len(), 60);
    assert_eq!(client.session.unanswered(), 0);
}

#[test]
fn large_publishes_and_telemetry_are_compressed_if_the_server_agrees() {
    let text = |len| {
        (0..).flat_map(|line: u32| format!("line {line}; ").into_bytes()).take(len).collect::<Vec<u8>>()
    };
    for (dictionary, expected) in [(DICTIONARY_ID, 3), (0, 0), (DICTIONARY_ID + 1, 0)] {
        let mut server = Server { dictionary, ..Server::new() };
        let mut client = Client::new();
        client.connection(&mut server, ALL, ALL, ALL);
        assert_eq!(server.hellos[0].dictionaries, [DICTIONARY_ID]);
        client.session.publish(&jobs(), text(2000)).unwrap();
        client.session.publish(&jobs(), text(200)).unwrap();
        client.session.publish_batch(&jobs(), vec![text(1500), text(10)]).unwrap();
        let mut out = Vec::new();
        client.session.transmit(&mut out);
        let mut ping = proto::Ping::default();
        (0..10).for_each(|value| ping.push_reading("uptime_s", value));
        client.session.ping(client.now, Some(&ping), &mut out);
        client.session.ping(client.now, None, &mut out);
        server.receive(&out);
        assert_eq!(server.compressed, expected, "dictionary {dictionary}");
        let bodies = [text(2000), text(200), text(1500), text(10)];
        assert!(server.stored.values().eq(&bodies));
    }
}

#[test]
fn a_client_that_is_told_not_to_compress_names_no_dictionary() {
    let mut server = Server::new();
    let mut client = Client::new();
    client.session = Session::new(SessionConfig { compression: false, ..config() }, 3);
    client.connection(&mut server, ALL, ALL, ALL);
    assert!(server.hellos[0].dictionaries.is_empty());
}
