use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use super::*;
use crate::ids::Boot;
use crate::wire::{
    ClientFrame, DeliverWriter, Kind, Split, encode, encode_publish_ack, encode_reply_ok, split,
};

/// Bodies stored and errors of nacks.
pub(crate) type Served = (Vec<Vec<u8>>, Vec<String>);

/// Serves connections one after the other: each answers up to its number of publishes, acks and nacks, then breaks.
/// Returns the bodies stored, each once, and the errors of nacks.
pub(crate) fn serve(answers: Vec<usize>) -> (String, JoinHandle<Served>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let mut stored: Vec<((u64, u64), Vec<u8>)> = Vec::new();
        let mut nacks = Vec::new();
        for budget in answers {
            let (mut stream, _) = listener.accept().unwrap();
            serve_one(&mut stream, budget, &mut stored, &mut nacks);
        }
        (stored.into_iter().map(|(_, body)| body).collect(), nacks)
    });
    (address, server)
}

fn serve_one(
    stream: &mut TcpStream,
    mut budget: usize,
    stored: &mut Vec<((u64, u64), Vec<u8>)>,
    nacks: &mut Vec<String>,
) {
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        received.extend_from_slice(&chunk[..read]);
        let mut out = Vec::new();
        let mut rest = &received[..];
        while let Split::Frame { frame, consumed } = split(rest, limits::FRAME_BYTES_MAX).unwrap() {
            rest = &rest[consumed..];
            match ClientFrame::decode(frame.kind, frame.payload).unwrap() {
                ClientFrame::Hello(_) => {
                    let limits = proto::Limits {
                        frame_bytes_max: limits::FRAME_BYTES_MAX as u32,
                        message_bytes_max: limits::MESSAGE_BYTES_MAX as u32,
                        publish_messages_max: 16,
                        publish_bytes_max: limits::PUBLISH_WINDOW_BYTES,
                        batch_messages_max: 16,
                        subscriptions_max: 1,
                    };
                    let welcome = proto::Welcome {
                        heartbeat_ms: 3_600_000,
                        limits: Some(limits),
                        ..Default::default()
                    };
                    encode(&mut out, Kind::Welcome, &welcome);
                }
                ClientFrame::Publish(view) => {
                    if budget == 0 {
                        return;
                    }
                    budget -= 1;
                    let key = (view.producer_id, view.sequence);
                    let at = stored.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                        stored.push((key, view.messages().next().unwrap().to_vec()));
                        stored.len() - 1
                    });
                    encode_publish_ack(&mut out, view.seq, 0, at as u64 + 1, 1);
                }
                ClientFrame::Subscribe(subscribe) => {
                    encode_reply_ok(&mut out, subscribe.seq, 0);
                    let mut writer = DeliverWriter::begin(&mut out, limits::FRAME_BYTES_MAX);
                    for message in 1..=u64::from(subscribe.credit_messages) {
                        let body = Message::new(format!("job {message}")).encode(1000).unwrap();
                        let lease = LeaseId { message: MessageId(message), attempt: 1, boot: Boot(1) };
                        assert!(writer.push(&mut out, SubscriptionId(1), lease, 30_000, &body));
                    }
                    writer.finish(&mut out);
                }
                ClientFrame::Ack(view) => encode_reply_ok(&mut out, view.seq, 0),
                ClientFrame::Nack(view) => {
                    nacks.push(view.error.to_owned());
                    encode_reply_ok(&mut out, view.seq, 0);
                }
                ClientFrame::Extend(view) => encode_reply_ok(&mut out, view.seq, 0),
                ClientFrame::Ping(_) => out.extend_from_slice(&crate::wire::EMPTY_PONG),
                ClientFrame::Bye(_) => return,
                _ => {}
            }
        }
        received = rest.to_vec();
        if stream.write_all(&out).is_err() {
            return;
        }
    }
}

fn quick(address: &str) -> Options {
    let backoff = Backoff { initial: Duration::from_millis(1), ..Backoff::default() };
    Options { backoff, offline_max: Some(SOON), ..Options::new(address) }
}

use super::super::Backoff;
use crate::limits;

/// Long, because machines may be held up; it costs nothing while all is well.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn publishes_wait_for_their_ids() {
    let (address, server) = serve(vec![ALL]);
    let mut client = Client::connect(quick(&address)).unwrap();
    assert_eq!(client.publish("jobs", &Message::new("one")).unwrap(), MessageId(1));
    let receipts: Vec<_> =
        (0..200).map(|n| client.publish_pipelined("jobs", &Message::new(n.to_string())).unwrap()).collect();
    assert_eq!(client.wait(receipts[7]).unwrap(), MessageId(9));
    assert!(matches!(client.wait(receipts[7]), Err(Error::UnknownReceipt)));
    assert_eq!(client.flush().unwrap().published, 199);
    assert!(client.ping(None).unwrap() < SOON);
    let left = client.close(SOON).unwrap();
    assert!(left.published == 0 && left.refused.is_empty());
    assert_eq!(server.join().unwrap().0.len(), 201);
}

const ALL: usize = usize::MAX;

#[test]
fn broken_connections_are_made_again_and_nothing_is_doubled() {
    let (address, server) = serve(vec![3, 0, 20, ALL]);
    let mut client = Client::connect(quick(&address)).unwrap();
    for n in 0..100 {
        let _ = client.publish_pipelined("jobs", &Message::new(n.to_string())).unwrap();
    }
    assert_eq!(client.flush().unwrap().published, 100);
    let _ = client.close(SOON).unwrap();
    let stored = server.join().unwrap().0;
    let payloads: Vec<_> =
        stored.iter().map(|body| Message::decode(body).unwrap().payload().to_vec()).collect();
    assert_eq!(payloads, (0..100).map(|n| n.to_string().into_bytes()).collect::<Vec<_>>());
}

#[test]
fn deliveries_are_acked_nacked_and_extended() {
    let (address, server) = serve(vec![ALL]);
    let mut client = Client::connect(quick(&address)).unwrap();
    client.subscribe("jobs", 3).unwrap();
    assert!(matches!(client.subscribe("jobs", 3), Err(Error::Subscriptions(1))));
    let first = client.next(Some(SOON)).unwrap().unwrap();
    assert_eq!((first.message.payload(), first.attempt(), first.queue.as_str()), (&b"job 1"[..], 1, "jobs"));
    client.extend(first.lease, SOON).unwrap();
    client.ack(first.lease).unwrap();
    assert!(matches!(client.ack(first.lease), Err(Error::NotHeld)));
    let second = client.next(Some(SOON)).unwrap().unwrap();
    client.nack(second.lease, Nack { error: "broken".to_owned(), ..Nack::default() }).unwrap();
    let _ = client.flush().unwrap();
    assert_eq!((client.held(), client.unanswered()), (1, 0));
    let _ = client.close(SOON).unwrap();
    assert_eq!(server.join().unwrap().1, ["broken"]);
}

#[test]
fn waiting_ends_with_its_time_and_with_the_waker() {
    let (address, server) = serve(vec![ALL]);
    let mut client = Client::connect(quick(&address)).unwrap();
    let clock = Clock::starting_at(Time(0));
    assert!(client.next(Some(Duration::from_millis(50))).unwrap().is_none());
    assert!(clock.time() >= Time(45));
    let waker = client.waker();
    let ringer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        waker.wake();
    });
    assert!(client.next(None).unwrap().is_none());
    ringer.join().unwrap();
    // A ring that another call saw still ends the next wait.
    client.waker().wake();
    client.publish("jobs", &Message::new("x")).unwrap();
    let before = clock.time();
    assert!(client.next(Some(SOON)).unwrap().is_none());
    assert!(clock.time() - before < SOON, "the ring was overlooked");
    // And counts once.
    let before = clock.time();
    assert!(client.next(Some(Duration::from_millis(50))).unwrap().is_none());
    assert!(clock.time() - before >= Duration::from_millis(45));
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_server_that_is_not_there_is_an_error_with_its_address() {
    // Bound and not listening: nobody answers there, and nobody else can be given the port meanwhile.
    let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    nobody.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = nobody.local_addr().unwrap().as_socket().unwrap().to_string();
    let error = Client::connect(quick(&address)).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }));
    assert!(error.to_string().contains(&address), "{error}");
    assert_eq!(error.blame(), super::super::Blame::Network);
    let patient =
        Options { retry_first: true, offline_max: Some(Duration::from_millis(60)), ..quick(&address) };
    assert!(matches!(Client::connect(patient), Err(Error::Offline { .. })));
}

#[test]
fn a_refusal_is_final_and_says_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut out = Vec::new();
        let reject = proto::Reject {
            code: proto::Code::Unauthenticated.into(),
            text: "the token is wrong".to_owned(),
            reconnect_after_ms: 0,
        };
        encode(&mut out, Kind::Reject, &reject);
        stream.write_all(&out).unwrap();
        let _ = stream.read(&mut [0; 1024]);
    });
    let error = Client::connect(quick(&address)).unwrap_err();
    server.join().unwrap();
    let text = error.to_string();
    assert!(text.contains("the token is wrong") && text.contains("check the token"), "{text}");
    assert_eq!(error.blame(), super::super::Blame::Caller);
}
