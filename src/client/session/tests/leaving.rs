//! How a connection ends: the server sends the client away, or the client goes.

use super::*;

#[test]
fn taken_over_is_final_at_once() {
    let mut server = Server::new();
    let mut client = Client::new();
    client.session.publish(&jobs(), vec![1]).unwrap();
    client.connection(&mut server, ALL, ALL, ALL);
    let goaway = proto::GoAway { code: proto::Code::TakenOver.into(), ..proto::GoAway::default() };
    server_says(&mut client, Kind::GoAway, &goaway);
    assert_eq!(client.session.link(), Link::Close);
    assert_eq!(client.session.lost(client.now).verdict, Verdict::Final);
    assert_eq!(client.session.link(), Link::Over);
}

#[test]
fn a_goaway_waits_for_answers_and_keeps_the_slot() {
    let mut server = Server::new();
    let mut client = Client::new();
    client.connection(&mut server, ALL, ALL, ALL);
    client.session.publish(&jobs(), vec![1]).unwrap();
    let mut out = Vec::new();
    client.session.transmit(&mut out);
    let goaway = proto::GoAway {
        code: proto::Code::Draining.into(),
        reconnect_after_ms: 60_000,
        ..Default::default()
    };
    server_says(&mut client, Kind::GoAway, &goaway);
    assert_eq!(client.session.link(), Link::Open);
    server.receive(&out);
    let answers = std::mem::take(&mut server.out);
    client.take(&answers);
    assert!(matches!(client.seen.last(), Some(Seen::Published(1, 1, 1))));
    assert_eq!(client.session.link(), Link::Close);
    let lost = client.session.lost(client.now);
    assert!(matches!(lost.verdict, Verdict::Retry { after, .. } if after == Duration::from_secs(60)));
}

#[test]
fn a_goaway_does_not_wait_for_ever() {
    let mut server = Server::new();
    let mut client = Client::new();
    client.connection(&mut server, ALL, ALL, ALL);
    client.session.publish(&jobs(), vec![1]).unwrap();
    let mut out = Vec::new();
    client.session.transmit(&mut out);
    server_says(&mut client, Kind::GoAway, &proto::GoAway { code: 34, ..proto::GoAway::default() });
    let deadline = client.session.next_deadline().unwrap();
    assert_eq!(deadline, client.now + LEAVE_WITHIN);
    client.session.handle_timeout(deadline, &mut out);
    assert_eq!(client.session.link(), Link::Close);
}

#[test]
fn bye_retires_the_producer_only_when_everything_is_answered() {
    for answered in [true, false] {
        let mut server = Server::new();
        let mut client = Client::new();
        client.connection(&mut server, ALL, ALL, ALL);
        if !answered {
            client.session.publish(&jobs(), vec![1]).unwrap();
        }
        let mut out = Vec::new();
        client.session.bye(&mut out);
        server.receive(&out);
        assert_eq!(server.retired.is_some(), answered);
        assert_eq!(client.session.link(), Link::Close);
        assert_eq!(client.session.lost(client.now).verdict, Verdict::Final);
    }
}
