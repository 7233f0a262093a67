//! A client: a real SDK session, and what a transport does for it: connect, read, write, close, wait.

use std::collections::BTreeMap;

use prost::Message as _;
use relaymesh::client::{Ended, Inbound, Link, Session, SessionConfig, SessionEvent, Settlement, Verdict};
use relaymesh::ids::{ClientId, LeaseId, MessageId, Namespace, QueueName, SubscriptionId};
use relaymesh::wire::proto;

use crate::network::{ConnId, Read, Side};
use crate::scheduler::{MS, Micros, SECOND};
use crate::trace::{fingerprint, note};
use crate::world::{Event, World};

/// How long a client waits for a connection.
const CONNECT_TIMEOUT: Micros = 3 * SECOND;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Publishes to work queues and mailboxes.
    Producer,
    /// Works on queues.
    Worker,
    /// Works on its mailbox.
    Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    None,
    Connecting(ConnId),
    Open(ConnId),
}

/// One client.
pub(crate) struct Client {
    pub(crate) role: Role,
    pub(crate) namespace: Namespace,
    pub(crate) id: ClientId,
    /// Rises whenever it starts without its memory.
    pub(crate) incarnation: u32,
    /// Not crashed, not retired.
    pub(crate) is_alive: bool,
    pub(crate) session: Session,
    /// Credit of each subscription.
    pub(crate) credits: u32,
    /// What it subscribed to.
    pub(crate) subscribed: BTreeMap<SubscriptionId, QueueName>,
    /// Publishes without an answer: the messages of each, by its sequence.
    pub(crate) unanswered: BTreeMap<u64, Vec<u64>>,
    /// What is acked with those that pass a message on: its lease and its key.
    pub(crate) passing: BTreeMap<u64, (LeaseId, u64)>,
    /// Reads nothing before this moment.
    pub(crate) reads_again_at: Micros,
    /// No packet of it gets through before this moment.
    pub(crate) cut_off_until: Micros,
    inbound: Inbound,
    out: Vec<u8>,
    socket: Socket,
    wake_at: Option<Micros>,
}

/// A session's event with nothing borrowed.
#[derive(Debug)]
enum Happened {
    Up {
        resumed: bool,
    },
    Published {
        sequence: u64,
        first_id: MessageId,
    },
    PublishRefused {
        sequence: u64,
        code: proto::Code,
        text: String,
    },
    /// Deliveries, and messages of topics.
    Delivered(Vec<Delivered>, Vec<(SubscriptionId, Vec<u8>)>),
    Settled {
        leases: Vec<LeaseId>,
        settlement: Settlement,
        lost: Vec<LeaseId>,
        resent: bool,
    },
    Ending(Ended),
    Wrong(String),
}

/// One delivery.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) subscription: SubscriptionId,
    pub(crate) lease: LeaseId,
    pub(crate) lease_ms: u32,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn conn(&self) -> Option<ConnId> {
        match self.socket {
            Socket::Open(conn) | Socket::Connecting(conn) => Some(conn),
            Socket::None => None,
        }
    }

    /// Everything it asked for is answered and everything it was given is settled.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_alive || (self.session.is_up() && self.session.unanswered() == 0 && self.session.held() == 0)
    }
}

impl World {
    pub(crate) fn make_clients(&mut self) {
        let plan = &self.plan;
        let roles = std::iter::repeat_n(Role::Producer, plan.producers)
            .chain(std::iter::repeat_n(Role::Worker, plan.workers.max(plan.namespaces)))
            .chain(std::iter::repeat_n(Role::Device, plan.devices));
        let namespaces = plan.namespaces;
        for (number, role) in roles.collect::<Vec<_>>().into_iter().enumerate() {
            let namespace = Namespace::parse(["red", "blue"][number % namespaces]).expect("a good name");
            let id = ClientId::parse(&format!("{role:?}-{number}")).expect("a good name");
            self.add_client(role, namespace, id);
        }
    }

    /// A client that has no memory yet. Returns its number.
    pub(crate) fn add_client(&mut self, role: Role, namespace: Namespace, id: ClientId) -> usize {
        let session = self.new_session(&namespace, &id);
        let index = self.clients.len();
        self.clients.push(Client {
            role,
            namespace,
            id,
            incarnation: 0,
            is_alive: false,
            session,
            credits: 0,
            subscribed: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            passing: BTreeMap::new(),
            reads_again_at: 0,
            cut_off_until: 0,
            inbound: Inbound::new(),
            out: Vec::new(),
            socket: Socket::None,
            wake_at: None,
        });
        self.rebear(index);
        index
    }

    fn new_session(&mut self, namespace: &Namespace, id: &ClientId) -> Session {
        let config = SessionConfig {
            namespace: namespace.clone(),
            client_id: id.clone(),
            credential: Vec::new(),
            heartbeat: Some(self.plan.heartbeat),
            pong_every: self.plan.pong_every,
            backoff: self.plan.backoff,
            compression: true,
        };
        Session::new(config, self.random.u64(..))
    }

    /// The client starts, without memory of an earlier life.
    pub(crate) fn rebear(&mut self, index: usize) {
        if self.clients[index].is_alive {
            return;
        }
        let (namespace, id) = (self.clients[index].namespace.clone(), self.clients[index].id.clone());
        let session = self.new_session(&namespace, &id);
        let client = &mut self.clients[index];
        client.session = session;
        client.incarnation += 1;
        client.is_alive = true;
        client.credits = 0;
        client.subscribed.clear();
        client.out.clear();
        client.socket = Socket::None;
        note!(self, "client {index} ({id}) is born, incarnation {}", self.clients[index].incarnation);
        match self.clients[index].role {
            Role::Producer => self.start_producing(index),
            Role::Worker | Role::Device => self.start_working(index),
        }
        if self.clients[index].role == Role::Worker && self.plan.workers_publish {
            self.start_producing(index);
        }
        self.step_client(index);
    }

    /// The client is gone with its memory. What becomes of its unanswered publishes nobody will ever tell it.
    pub(crate) fn bury_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.is_alive = false;
        client.incarnation += 1;
        client.socket = Socket::None;
        client.out.clear();
        client.passing.clear();
        for keys in std::mem::take(&mut client.unanswered).into_values() {
            self.ledger.abandoned(&keys);
        }
        note!(self, "client {index} is gone");
    }

    pub(crate) fn client_connected(&mut self, index: usize, conn: ConnId) {
        let now = self.time();
        let client = &mut self.clients[index];
        if client.socket != Socket::Connecting(conn) {
            return self.network.reset(conn, Side::Client, &mut self.scheduler);
        }
        client.socket = Socket::Open(conn);
        client.out.clear();
        client.session.connected(now, &mut client.out);
        self.step_client(index);
    }

    pub(crate) fn client_connect_failed(&mut self, index: usize, conn: ConnId) {
        if self.clients[index].socket == Socket::Connecting(conn) {
            self.connection_lost(index);
            self.step_client(index);
        }
    }

    pub(crate) fn wake_client(&mut self, index: usize) {
        let now = self.scheduler.now;
        if self.clients[index].wake_at == Some(now) {
            self.clients[index].wake_at = None;
            let time = self.time();
            let client = &mut self.clients[index];
            if client.is_alive && client.session.next_deadline().is_some_and(|at| at <= time) {
                client.session.handle_timeout(time, &mut client.out);
            }
            self.read_client(index);
            self.step_client(index);
        }
    }

    fn plan_wake(&mut self, index: usize, at: Micros) {
        let at = at.max(self.scheduler.now + 1);
        let client = &mut self.clients[index];
        if client.wake_at.is_none_or(|planned| planned > at) {
            client.wake_at = Some(at);
            self.scheduler.at(at, Event::ClientWake { client: index });
        }
    }

    /// Something arrived at a client's end.
    pub(crate) fn client_readable(&mut self, conn: ConnId) {
        let index = self.network.client_of(conn);
        if self.clients[index].socket == Socket::Open(conn) {
            self.read_client(index);
            self.step_client(index);
        }
    }

    fn read_client(&mut self, index: usize) {
        let mut bytes = Vec::new();
        while let Socket::Open(conn) = self.clients[index].socket {
            if self.clients[index].reads_again_at > self.scheduler.now {
                return self.plan_wake(index, self.clients[index].reads_again_at);
            }
            let max = self.random.usize(1..64 << 10);
            match self.network.read(conn, Side::Client, max, &mut bytes, &mut self.scheduler) {
                Read::Bytes(_) => {
                    note!(self, "client {index} ◀ {} bytes {:08x}", bytes.len(), fingerprint(&bytes));
                    self.take_bytes(index, &bytes);
                }
                Read::Nothing => return,
                Read::End | Read::Broken => return self.connection_lost(index),
            }
        }
    }

    fn take_bytes(&mut self, index: usize, bytes: &[u8]) {
        let time = self.time();
        let mut rest = bytes;
        loop {
            let client = &mut self.clients[index];
            let mut input = rest;
            let event = client.session.next_event(time, &mut client.inbound, &mut input);
            let event = match event {
                Some(event) => owned(event),
                None => return,
            };
            rest = &rest[rest.len() - input.len()..];
            if let Some(event) = event {
                self.client_event(index, event);
            }
            if !self.clients[index].is_alive {
                return;
            }
        }
    }

    fn client_event(&mut self, index: usize, event: Happened) {
        note!(self, "client {index}: {event:?}");
        match event {
            Happened::Up { resumed } => {
                let client = &self.clients[index];
                assert!(!resumed || client.incarnation > 0, "client {index} resumed what it never had");
            }
            Happened::Published { sequence, first_id } => {
                let keys = self.clients[index].unanswered.remove(&sequence);
                let keys =
                    keys.unwrap_or_else(|| panic!("publish {sequence} of client {index} answered twice"));
                self.ledger.answered(&keys, first_id);
                if let Some((lease, _)) = self.clients[index].passing.remove(&sequence) {
                    self.ledger.settled(lease, &Settlement::Ack, false, true);
                }
            }
            Happened::PublishRefused { sequence, code, text } => {
                use proto::Code::{DiskFull, Draining, LimitReached, Overloaded, QueueFull, TooLarge};
                // Too large is said by the session itself, of what it took before it knew the server's limits.
                let is_excused =
                    matches!(code, QueueFull | DiskFull | LimitReached | Draining | TooLarge | Overloaded);
                let passed = self.clients[index].passing.remove(&sequence);
                let is_excused = is_excused || (code == proto::Code::LeaseLost && passed.is_some());
                assert!(is_excused, "a good publish of client {index} was refused: {text} ({code:?})");
                let keys = self.clients[index].unanswered.remove(&sequence);
                let keys =
                    keys.unwrap_or_else(|| panic!("publish {sequence} of client {index} answered twice"));
                self.ledger.refused(&keys);
                if let Some((lease, key)) = passed.filter(|_| code != proto::Code::LeaseLost) {
                    // It is held again, and somebody has to say what becomes of it.
                    let incarnation = self.clients[index].incarnation;
                    self.scheduler.after(MS, Event::Work { client: index, incarnation, lease, key });
                }
            }
            Happened::Delivered(deliveries, broadcasts) => {
                self.told(index, broadcasts);
                self.delivered(index, deliveries);
            }
            Happened::Settled { leases, settlement, lost, resent } => {
                for lease in leases {
                    self.ledger.settled(lease, &settlement, lost.contains(&lease), resent);
                }
            }
            Happened::Ending(why) => self.check_ending(index, &why),
            Happened::Wrong(what) => panic!("client {index}: {what}"),
        }
    }

    /// A server never ends the connection of a client that keeps to the protocol, but for these reasons.
    fn check_ending(&self, index: usize, why: &Ended) {
        use proto::Code::{
            DiskFull, Draining, HeartbeatMissed, LimitReached, Overloaded, TakenOver, TooSlow,
        };
        let client = &self.clients[index];
        let has_rival =
            self.clients.iter().filter(|other| other.id == client.id).count() > 1 || client.incarnation > 1;
        let is_excused = match why {
            Ended::Rejected { code, .. } => {
                matches!(
                    code,
                    Draining | Overloaded | DiskFull | LimitReached | proto::Code::HandshakeTimeout
                )
            }
            Ended::GoAway { code, .. } => match code {
                TakenOver => has_rival,
                Draining => self.drains.has_drained,
                code => matches!(code, Overloaded),
            },
            Ended::ServerError { code, .. } => matches!(code, HeartbeatMissed | TooSlow),
            Ended::Protocol(_) => false,
            Ended::Broke | Ended::Silent(_) | Ended::Bye => true,
        };
        assert!(is_excused, "the connection of client {index} ended for no good reason: {why}");
    }

    /// Does what the session wants done about its connection, and writes what it has to say.
    pub(crate) fn step_client(&mut self, index: usize) {
        for _ in 0..8 {
            if !self.clients[index].is_alive {
                return;
            }
            let link = self.clients[index].session.link();
            match (link, self.clients[index].socket) {
                (Link::Connect { at }, Socket::None) if at <= self.time() => return self.connect(index),
                (Link::Connect { at }, Socket::None) => return self.plan_wake(index, at.0 * MS),
                (Link::Connect { .. }, Socket::Connecting(_)) => return,
                (Link::Open, Socket::Open(_)) => {
                    if !self.write_client(index) {
                        continue;
                    }
                    if let Some(at) = self.clients[index].session.next_deadline() {
                        self.plan_wake(index, at.0 * MS);
                    }
                    return;
                }
                (Link::Close, Socket::Open(_)) => {
                    if self.write_client(index) {
                        self.connection_lost(index);
                    }
                }
                (Link::Over, _) => return self.session_over(index),
                (link, socket) => panic!("client {index}: the session says {link:?} with {socket:?}"),
            }
        }
    }

    fn connect(&mut self, index: usize) {
        let conn = self.network.open(index);
        self.clients[index].socket = Socket::Connecting(conn);
        let (now, cut_off_until) = (self.scheduler.now, self.clients[index].cut_off_until);
        let way = self.network.latency();
        note!(self, "client {index} connects as {conn:?}");
        if cut_off_until > now + CONNECT_TIMEOUT {
            self.scheduler.after(CONNECT_TIMEOUT, Event::ConnectFailed { client: index, conn });
        } else {
            self.scheduler.at(cut_off_until.max(now) + way, Event::Syn { conn });
        }
    }

    /// Writes what there is. False when the connection turned out to be broken.
    fn write_client(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let Socket::Open(conn) = client.socket else { return true };
        client.session.transmit(&mut client.out);
        // What turned out to be unsendable is an event of its own.
        self.take_bytes(index, &[]);
        let client = &mut self.clients[index];
        if client.out.is_empty() {
            return true;
        }
        let Some(n) = self.network.write(conn, Side::Client, &client.out, &mut self.scheduler) else {
            self.connection_lost(index);
            return false;
        };
        note!(self, "client {index} ▶ {n} bytes {:08x}", fingerprint(&self.clients[index].out[..n]));
        self.clients[index].out.drain(..n);
        true
    }

    fn connection_lost(&mut self, index: usize) {
        let time = self.time();
        let client = &mut self.clients[index];
        if let Socket::Open(conn) = client.socket {
            self.network.close(conn, Side::Client, &mut self.scheduler);
        }
        client.socket = Socket::None;
        client.out.clear();
        let lost = client.session.lost(time);
        note!(self, "client {index} lost its connection: {lost:?}");
        if let Verdict::Final = lost.verdict {
            let is_taken_over = matches!(&lost.why, Ended::GoAway { code: proto::Code::TakenOver, .. });
            assert!(is_taken_over, "client {index} gives up: {}", lost.why);
        }
    }

    /// It was taken over. Sometimes it comes back to take over in turn.
    fn session_over(&mut self, index: usize) {
        self.bury_client(index);
        if self.is_troubled() && self.random.u8(0..3) == 0 {
            let after = self.random.u64(100 * MS..5 * SECOND);
            self.scheduler.after(after, Event::Reborn { client: index });
        }
    }
}

/// `None` when there is nothing to be done about it.
fn owned(event: SessionEvent<'_>) -> Option<Happened> {
    Some(match event {
        SessionEvent::Up { resumed } => Happened::Up { resumed },
        SessionEvent::Published { sequence, first_id, .. } => Happened::Published { sequence, first_id },
        SessionEvent::PublishRefused { sequence, refusal, .. } => {
            let code = refusal.code();
            Happened::PublishRefused { sequence, code, text: refusal.text }
        }
        SessionEvent::Delivered(deliveries) => {
            let own = deliveries.iter().map(|delivery| Delivered {
                subscription: delivery.subscription,
                lease: delivery.lease,
                lease_ms: delivery.lease_ms,
                body: delivery.message.to_vec(),
            });
            let told = deliveries.broadcasts().map(|told| (told.subscription, told.message.to_vec()));
            Happened::Delivered(own.collect(), told.collect())
        }
        SessionEvent::Settled { leases, settlement, lost, resent } => {
            Happened::Settled { leases, settlement, lost, resent }
        }
        SessionEvent::SettleRefused { code, text, .. } => {
            Happened::Wrong(format!("a settlement was refused: {text} ({code:?})"))
        }
        SessionEvent::SubscribeRefused { code, text, .. } => {
            Happened::Wrong(format!("a subscription was refused: {text} ({code:?})"))
        }
        SessionEvent::Ending(why) => Happened::Ending(why),
        SessionEvent::Subscribed(_)
        | SessionEvent::Unsubscribed(_)
        | SessionEvent::Pong { .. }
        | SessionEvent::Quiet => return None,
    })
}

/// The message's own number, after its payload was seen to be what was published.
pub(crate) fn key_of(body: &[u8]) -> u64 {
    let message =
        proto::Message::decode(body).unwrap_or_else(|error| panic!("a body is no message: {error}"));
    let payload = message.payload;
    let (key, rest) = payload.split_first_chunk::<8>().expect("every payload begins with its key");
    let key = u64::from_le_bytes(*key);
    assert!(
        rest.iter().copied().eq(filler(key).take(rest.len())),
        "the payload of message {key} was changed"
    );
    key
}

/// What follows the key in a payload: letters that compress to half, so that large ones travel compressed.
pub(super) fn filler(key: u64) -> impl Iterator<Item = u8> {
    (0u64..).map(move |at| b'a' + ((key ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as u8)
}
