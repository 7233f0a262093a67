//! One session against a server in miniature, over connections that break where a test says.

mod leaving;
mod publishing;
mod receiving;

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
                    let refusal = proto::Refusal {
                        code: 35,
                        text: "full".to_owned(),
                        retry_after_ms: 5,
                        ..Default::default()
                    };
                    let ack =
                        proto::PublishAck { seq: view.seq, refusal: Some(refusal), ..Default::default() };
                    return encode(&mut self.out, Kind::PublishAck, &ack);
                }
                let is_new = !self.marks.contains_key(&(view.producer_id, view.sequence));
                let stands = |lease: &LeaseId| self.leased.contains(&(lease.message.0, lease.attempt));
                let lost: Vec<_> =
                    view.acks().filter(|lease| !stands(lease)).map(proto::Lease::from).collect();
                if is_new && !lost.is_empty() {
                    let refusal = proto::Refusal { code: 9, lost, ..Default::default() };
                    let ack =
                        proto::PublishAck { seq: view.seq, refusal: Some(refusal), ..Default::default() };
                    return encode(&mut self.out, Kind::PublishAck, &ack);
                }
                for lease in view.acks().filter(|_| is_new) {
                    self.leased.remove(&(lease.message.0, lease.attempt));
                    self.done.push(lease.message.0);
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
            ClientFrame::Extend(view) => self.on_extend(view.seq, view.leases()),
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

    fn on_extend(&mut self, seq: u64, leases: impl Iterator<Item = LeaseId>) {
        let is_lost = |lease: &LeaseId| !self.leased.contains(&(lease.message.0, lease.attempt));
        let lost = leases.filter(is_lost).map(Into::into).collect();
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
    /// Publishes what it is delivered to the next queue.
    passes_on: bool,
}

impl Client {
    fn new() -> Self {
        let session = Session::new(config(), 3);
        Self {
            session,
            inbound: Inbound::new(),
            now: Time(0),
            seen: Vec::new(),
            acks_at_once: false,
            passes_on: false,
        }
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
                        if self.passes_on {
                            let body = delivery.lease.message.0.to_le_bytes().to_vec();
                            let leases = [delivery.lease];
                            self.session.ack_and_publish(&leases, &jobs(), vec![body]).unwrap();
                        }
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

fn server_says<M: prost::Message>(client: &mut Client, kind: Kind, message: &M) {
    let mut bytes = Vec::new();
    encode(&mut bytes, kind, message);
    client.take(&bytes);
}
