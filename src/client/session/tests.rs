use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::*;
use crate::ids::Boot;
use crate::wire::{
    ClientFrame, Codec, DeliverWriter, Kind, Parts, Split, encode, encode_publish_ack, encode_reply_ok, split,
};

/// A server in miniature: one queue, one client, everything durable at once.
#[derive(Default)]
struct Server {
    stored: BTreeMap<u64, Vec<u8>>,
    marks: HashMap<(u64, u64), u64>,
    ready: Vec<LeaseId>,
    leased: BTreeSet<(u64, u32)>,
    done: Vec<u64>,
    nacked: Vec<String>,
    /// Sequences refused once.
    refuse: BTreeSet<u64>,
    hellos: Vec<proto::Hello>,
    retired: Option<u64>,
    window: u32,
    /// Named in WELCOME; 0 for none.
    dictionary: u32,
    /// Frames that came compressed.
    compressed: usize,
    // One connection.
    received: Vec<u8>,
    incoming: Parts,
    out: Vec<u8>,
    credit: BTreeMap<u16, u32>,
    most_out: usize,
    /// Messages whose answer was not handed over yet: every receive ends with all answers handed over.
    unanswered: u32,
}

fn lease(message: u64) -> LeaseId {
    LeaseId { message: MessageId(message), attempt: 1, boot: Boot(1) }
}

impl Server {
    fn new() -> Self {
        Self { window: 64, ..Self::default() }
    }

    fn accept(&mut self) {
        self.received.clear();
        self.incoming = Parts::default();
        self.out.clear();
        self.credit.clear();
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        self.unanswered = 0;
        let received = std::mem::take(&mut self.received);
        let mut rest = &received[..];
        while let Split::Frame { frame, consumed } = split(rest, limits::FRAME_BYTES_MAX).unwrap() {
            self.compressed += usize::from(frame.compressed);
            let mut codec = Codec::new();
            let payload = codec.payload(frame, self.dictionary != 0, limits::FRAME_BYTES_MAX).unwrap();
            self.on_frame(ClientFrame::decode(frame.kind, payload).unwrap());
            rest = &rest[consumed..];
        }
        self.received = rest.to_vec();
        self.deliver();
    }

    fn on_frame(&mut self, frame: ClientFrame<'_>) {
        match frame {
            ClientFrame::Hello(hello) => self.on_hello(*hello),
            ClientFrame::Part(part) => self.incoming.push(&part, limits::MESSAGE_BYTES_MAX).unwrap(),
            ClientFrame::Publish(view) => {
                let mut messages: Vec<_> = view.messages().map(<[u8]>::to_vec).collect();
                if view.parts_bytes > 0 {
                    let whole =
                        self.incoming.finish(view.parts_bytes, &messages[0], limits::MESSAGE_BYTES_MAX);
                    messages[0] = whole.unwrap();
                }
                self.unanswered += messages.len() as u32;
                assert!(self.unanswered <= self.window, "the client exceeds its window");
                if self.refuse.remove(&view.sequence) {
                    let refusal = proto::Refusal { code: 35, text: "full".to_owned(), retry_after_ms: 5 };
                    let ack =
                        proto::PublishAck { seq: view.seq, refusal: Some(refusal), ..Default::default() };
                    return encode(&mut self.out, Kind::PublishAck, &ack);
                }
                let next = self.stored.len() as u64 + 1;
                let first = *self.marks.entry((view.producer_id, view.sequence)).or_insert(next);
                if first == next {
                    for (id, body) in (next..).zip(&messages) {
                        self.stored.insert(id, body.clone());
                    }
                }
                encode_publish_ack(&mut self.out, view.seq, 0, first, messages.len() as u32);
            }
            ClientFrame::Subscribe(subscribe) => {
                self.credit.insert(subscribe.subscription as u16, subscribe.credit_messages);
                encode_reply_ok(&mut self.out, subscribe.seq, 0);
            }
            ClientFrame::Credit(credit) => {
                *self.credit.get_mut(&(credit.subscription as u16)).unwrap() += credit.messages;
            }
            ClientFrame::Ack(view) => self.on_settle(view.seq, view.leases(), None),
            ClientFrame::Nack(view) => self.on_settle(view.seq, view.leases(), Some(view.error)),
            ClientFrame::Extend(view) => self.on_settle(view.seq, std::iter::empty(), None),
            ClientFrame::Unsubscribe(unsubscribe) => {
                self.credit.remove(&(unsubscribe.subscription as u16));
                encode_reply_ok(&mut self.out, unsubscribe.seq, 0);
            }
            ClientFrame::Ping(_) => self.out.extend_from_slice(&crate::wire::EMPTY_PONG),
            ClientFrame::Bye(bye) => self.retired = bye.retire_producer.then_some(bye.retired_producer_id),
        }
    }

    fn on_hello(&mut self, hello: proto::Hello) {
        let resumed = hello.resume_token == b"token";
        let kept: BTreeSet<_> = hello.leases.iter().map(|lease| (lease.message_id, lease.attempt)).collect();
        for &(message, attempt) in &self.leased {
            if !resumed || !kept.contains(&(message, attempt)) {
                self.ready.push(LeaseId { message: MessageId(message), attempt, boot: Boot(1) });
            }
        }
        if resumed {
            self.leased.retain(|lease| kept.contains(lease));
        } else {
            self.leased.clear();
        }
        let welcome = proto::Welcome {
            resumed,
            heartbeat_ms: 30_000,
            dictionary: self.dictionary,
            resume_token: b"token".to_vec(),
            limits: Some(proto::Limits {
                frame_bytes_max: limits::FRAME_BYTES_MAX as u32,
                message_bytes_max: limits::MESSAGE_BYTES_MAX as u32,
                publish_messages_max: self.window,
                publish_bytes_max: limits::PUBLISH_WINDOW_BYTES,
                batch_messages_max: 16,
                subscriptions_max: 4,
            }),
            ..proto::Welcome::default()
        };
        encode(&mut self.out, Kind::Welcome, &welcome);
        self.hellos.push(hello);
    }

    fn on_settle(&mut self, seq: u64, leases: impl Iterator<Item = LeaseId>, error: Option<&str>) {
        let mut lost = Vec::new();
        for lease in leases {
            if self.leased.remove(&(lease.message.0, lease.attempt)) {
                match error {
                    None => self.done.push(lease.message.0),
                    Some(error) => self.nacked.push(error.to_owned()),
                }
            } else if let Some(at) = self.ready.iter().position(|ready| *ready == lease) {
                // Still the newest lease of its message: it counts.
                self.ready.remove(at);
                self.done.push(lease.message.0);
            } else {
                lost.push(lease.into());
            }
        }
        encode(&mut self.out, Kind::Reply, &proto::Reply { seq, lost, ..proto::Reply::default() });
    }

    fn deliver(&mut self) {
        let Some((&id, credit)) = self.credit.iter_mut().next() else { return };
        let mut writer = DeliverWriter::begin(&mut self.out, limits::FRAME_BYTES_MAX);
        while *credit > 0 && !self.ready.is_empty() {
            let lease = self.ready.remove(0);
            self.leased.insert((lease.message.0, lease.attempt));
            assert!(writer.push(&mut self.out, SubscriptionId(id), lease, 30_000, b"body"));
            *credit -= 1;
        }
        writer.finish(&mut self.out);
        self.most_out = self.most_out.max(self.leased.len());
    }
}

fn config() -> SessionConfig {
    SessionConfig {
        namespace: Namespace::parse("default").unwrap(),
        client_id: ClientId::parse("c").unwrap(),
        credential: Vec::new(),
        heartbeat: None,
        pong_every: 1,
        backoff: Backoff::default(),
        compression: true,
    }
}

fn jobs() -> QueueName {
    QueueName::parse("jobs").unwrap()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Up(bool),
    Published(u64, u32, u64),
    Refused(u64),
    Subscribed,
    Delivered(LeaseId),
    Settled(Vec<LeaseId>, Vec<LeaseId>, bool),
    Ending,
    Other,
}

/// One session and what its user saw.
struct Client {
    session: Session,
    inbound: Inbound,
    now: Time,
    seen: Vec<Seen>,
    acks_at_once: bool,
}

impl Client {
    fn new() -> Self {
        let session = Session::new(config(), 3);
        Self { session, inbound: Inbound::new(), now: Time(0), seen: Vec::new(), acks_at_once: false }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(event) = self.session.next_event(self.now, &mut self.inbound, &mut bytes) {
            let seen = match event {
                SessionEvent::Up { resumed } => Seen::Up(resumed),
                SessionEvent::Published { sequence, messages, first_id, .. } => {
                    Seen::Published(sequence, messages, first_id.0)
                }
                SessionEvent::PublishRefused { sequence, .. } => Seen::Refused(sequence),
                SessionEvent::Subscribed(_) => Seen::Subscribed,
                SessionEvent::Settled { leases, lost, resent, .. } => Seen::Settled(leases, lost, resent),
                SessionEvent::Ending(_) => Seen::Ending,
                SessionEvent::Delivered(deliveries) => {
                    for delivery in deliveries.iter() {
                        self.seen.push(Seen::Delivered(delivery.lease));
                        if self.acks_at_once {
                            assert!(self.session.settle(delivery.lease, Settlement::Ack));
                        }
                    }
                    continue;
                }
                _ => Seen::Other,
            };
            self.seen.push(seen);
        }
    }

    /// One connection that carries at most `up` and `down` bytes, then breaks if anything was cut off. Both ends
    /// talk until neither has anything to say; `chunk` bytes at a time arrive at the client.
    fn connection(&mut self, server: &mut Server, up: usize, down: usize, chunk: usize) {
        let Link::Connect { at } = self.session.link() else { panic!("{:?}", self.session.link()) };
        self.now = self.now.max(at);
        server.accept();
        let (mut up, mut down) = (up, down);
        let mut out = Vec::new();
        self.session.connected(self.now, &mut out);
        loop {
            self.session.transmit(&mut out);
            self.take(&[]);
            if out.is_empty() {
                return;
            }
            let carried = out.len().min(up);
            server.receive(&out[..carried]);
            up -= carried;
            let cut_up = carried < out.len();
            out.clear();
            let answers = std::mem::take(&mut server.out);
            let carried = answers.len().min(down);
            down -= carried;
            answers[..carried].chunks(chunk).for_each(|bytes| self.take(bytes));
            if cut_up || carried < answers.len() {
                let lost = self.session.lost(self.now);
                assert!(matches!(lost.verdict, Verdict::Retry { .. }), "{lost:?}");
                return;
            }
        }
    }

    fn delivered(&self) -> Vec<LeaseId> {
        self.seen
            .iter()
            .filter_map(|seen| if let Seen::Delivered(lease) = seen { Some(*lease) } else { None })
            .collect()
    }
}

const ALL: usize = usize::MAX;

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

fn server_says<M: prost::Message>(client: &mut Client, kind: Kind, message: &M) {
    let mut bytes = Vec::new();
    encode(&mut bytes, kind, message);
    client.take(&bytes);
}

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
