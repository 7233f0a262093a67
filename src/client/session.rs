//! One client across all its connections.
//!
//! Owns what survives a reconnect: the publishes without an answer, with their bodies and sequences; the leases held
//! and those being settled; the subscriptions; the resume token; and the reconnect [`Policy`]. It knows no socket
//! and no clock, and its only random numbers come from a seed.
//!
//! Order of calls: while [`Session::link`] says `Connect`, the owner connects a socket at that time and calls
//! [`Session::connected`], or [`Session::lost`] if it cannot. Received bytes go through [`Session::next_event`]
//! until `None`; then [`Session::transmit`] appends what may be sent now. [`Session::handle_timeout`] is called at
//! [`Session::next_deadline`]. When `link` says `Close`, or the socket broke, the owner closes it and calls
//! [`Session::lost`].
//!
//! What is kept, whatever breaks when:
//! - A publish is re-sent, in order, under its (producer id, sequence) until it is answered; the server tells a
//!   re-send from a new message by them. A refused one is handed back and never re-sent.
//! - An ack or nack is re-sent until it is answered, before anything is subscribed to again.
//! - A message that is delivered again under a lease still held is not handed out a second time.
//! - Credit is a count of messages out with the user: it is given back when a message is settled, once.

mod acking;
mod event;
mod leases;
mod publishes;
mod subscription;

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message as _;

use self::leases::{Held, Leases};
use self::publishes::{Answered, Publishes};
use self::subscription::Subscription;
use super::{Backoff, Event, Inbound, Machine, Policy, Room, Verdict};
use crate::clock::Time;
use crate::ids::{ClientId, LeaseId, MessageId, Namespace, ProducerId, QueueName, SubscriptionId};
use crate::limits;
use crate::wire::{Codec, DICTIONARY_ID, DeliverView, proto};

pub use self::event::{Deliveries, Ended, Lost, SessionEvent};
pub use self::leases::Settlement;
pub use self::publishes::Unsendable;

/// After GOAWAY, how long answers are waited for before the client leaves by itself.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// [`Session::transmit`] appends no further publish beyond this many bytes waiting to be written.
const TRANSMIT_BYTES_SOFT_MAX: usize = 256 << 10;

/// Who the client is and how it behaves.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The tenant.
    pub namespace: Namespace,
    /// The client's name, unique in its namespace: a second client of that name takes the session over.
    pub client_id: ClientId,
    /// What proves it, empty where the server is open.
    pub credential: Vec<u8>,
    /// The wanted heartbeat; `None` leaves it to the server.
    pub heartbeat: Option<Duration>,
    /// An answer is wanted to every so manieth heartbeat only, 1 to 16. With more than 1 it takes as many heartbeats more
    /// until a server that is gone without a word is taken for it.
    pub pong_every: u8,
    /// When to come back.
    pub backoff: Backoff,
    /// Whether large messages and telemetry travel compressed, if the server agrees.
    pub compression: bool,
}

/// What the owner is to do about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Connect at this time.
    Connect {
        /// When; at once if it has passed.
        at: Time,
    },
    /// Keep the connection.
    Open,
    /// Write what is waiting, close the socket, then call [`Session::lost`].
    Close,
    /// There will be no further connection.
    Over,
}

#[derive(Debug)]
enum State {
    Down { at: Time },
    Up(Box<Machine>),
    Over,
}

/// One client across all its connections.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    policy: Policy,
    state: State,
    publishes: Publishes,
    leases: Leases,
    /// For what is sent; it takes memory once something is compressed.
    codec: Codec,
    subscriptions: Vec<Subscription>,
    unsubscribing: VecDeque<(u64, SubscriptionId)>,
    next_subscription: u16,
    resume_token: Vec<u8>,
    has_been_up: bool,
    /// What the server last allowed.
    limits: proto::Limits,
    /// Why the present connection ends, and the slot that came with it.
    ending: Option<(Ended, u32)>,
    leave_by: Option<Time>,
    /// Events beyond the first of one frame: at most one for each request that was unanswered.
    ready: VecDeque<SessionEvent<'static>>,
}

impl Session {
    /// A client that has never connected. The seed gives it its producer id and the jitter of its delays; no two
    /// clients may share one.
    #[must_use]
    pub fn new(config: SessionConfig, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let producer = ProducerId(random.u64(1..));
        let limits = proto::Limits {
            frame_bytes_max: limits::FRAME_BYTES_MAX as u32,
            message_bytes_max: limits::MESSAGE_BYTES_MAX as u32,
            publish_messages_max: limits::PUBLISH_WINDOW_MESSAGES,
            publish_bytes_max: limits::PUBLISH_WINDOW_BYTES,
            batch_messages_max: limits::BATCH_MESSAGES_MAX as u32,
            subscriptions_max: limits::SUBSCRIPTIONS_MAX as u32,
        };
        Self {
            policy: Policy::new(config.backoff, random.u64(..)),
            config,
            state: State::Down { at: Time(0) },
            publishes: Publishes::new(producer),
            leases: Leases::default(),
            codec: Codec::new(),
            subscriptions: Vec::new(),
            unsubscribing: VecDeque::new(),
            next_subscription: 1,
            resume_token: Vec::new(),
            has_been_up: false,
            limits,
            ending: None,
            leave_by: None,
            ready: VecDeque::new(),
        }
    }

    /// What the owner is to do about the connection.
    #[must_use]
    pub fn link(&self) -> Link {
        match &self.state {
            State::Down { at } => Link::Connect { at: *at },
            State::Up(machine) if machine.is_closed() => Link::Close,
            State::Up(_) if self.ending.is_some() && !(self.leave_by.is_some() && self.is_waiting()) => {
                Link::Close
            }
            State::Up(_) => Link::Open,
            State::Over => Link::Over,
        }
    }

    /// A socket is connected. Appends HELLO to `out`, which must be empty.
    pub fn connected(&mut self, now: Time, out: &mut Vec<u8>) {
        debug_assert!(out.is_empty(), "bytes of an older connection must not go to a new one");
        let machine = Machine::new(now, &self.hello(), out);
        self.state = State::Up(Box::new(machine));
        self.ending = None;
        self.leave_by = None;
    }

    fn hello(&self) -> proto::Hello {
        let heartbeat = self.config.heartbeat.map_or(0, |heartbeat| {
            heartbeat.clamp(limits::HEARTBEAT_MIN, limits::HEARTBEAT_MAX).as_millis() as u32
        });
        let mut hello = proto::Hello {
            version_min: 1,
            version_max: 1,
            namespace: self.config.namespace.as_str().to_owned(),
            client_id: self.config.client_id.as_str().to_owned(),
            credential: self.config.credential.clone(),
            heartbeat_ms: heartbeat,
            // One is the default.
            pong_every: if self.config.pong_every > 1 { u32::from(self.config.pong_every) } else { 0 },
            dictionaries: self.config.compression.then_some(DICTIONARY_ID).into_iter().collect(),
            resume_token: self.resume_token.clone(),
            leases: Vec::new(),
        };
        if !self.resume_token.is_empty() {
            let mut room = limits::HANDSHAKE_FRAME_BYTES_MAX.saturating_sub(hello.encoded_len());
            for lease in self.leases.to_present().take(limits::HELLO_LEASES_MAX) {
                let lease = proto::Lease::from(lease);
                // Key and length of a Lease take a byte each.
                let bytes = lease.encoded_len() + 2;
                if bytes > room {
                    break;
                }
                room -= bytes;
                hello.leases.push(lease);
            }
        }
        hello
    }

    /// The socket is closed, broke, or could not be connected. Whatever was waiting to be written is to be dropped:
    /// it will be made anew.
    pub fn lost(&mut self, now: Time) -> Lost {
        let (why, reconnect_after_ms) = self.ending.take().unwrap_or((Ended::Broke, 0));
        self.leave_by = None;
        self.publishes.connection_lost();
        self.leases.connection_lost();
        self.unsubscribing.clear();
        for subscription in &mut self.subscriptions {
            subscription.seq = None;
        }
        let verdict = match why {
            Ended::Bye => Verdict::Final,
            Ended::Rejected { code, .. } | Ended::GoAway { code, .. } | Ended::ServerError { code, .. } => {
                self.policy.lost(now, Some(code), reconnect_after_ms)
            }
            Ended::Broke | Ended::Silent(_) | Ended::Protocol(_) => self.policy.lost(now, None, 0),
        };
        self.state = match verdict {
            Verdict::Retry { at, .. } => State::Down { at },
            Verdict::Final => State::Over,
        };
        Lost { why, verdict }
    }

    /// Takes the next event off the received bytes. `None`: all of them are taken, or the connection is ending.
    pub fn next_event<'a, 'i: 'a>(
        &mut self,
        now: Time,
        inbound: &'a mut Inbound,
        input: &mut &'i [u8],
    ) -> Option<SessionEvent<'a>> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        let State::Up(machine) = &mut self.state else { return None };
        let event = machine.next_event(now, inbound, input)?;
        Some(self.on_event(now, event))
    }

    fn on_event<'a>(&mut self, now: Time, event: Event<'a>) -> SessionEvent<'a> {
        match event {
            Event::Welcomed(welcome) => self.on_welcome(now, *welcome),
            Event::PublishAcked { seq, more, first_id, subscribers, .. } => {
                self.on_published(seq, more, first_id, subscribers)
            }
            Event::PublishRefused { seq, refusal } => match self.publishes.answered(seq) {
                Some(answered) => self.on_publish_refused(answered, refusal),
                None => SessionEvent::Quiet,
            },
            Event::Settled { seq, more, lost } => self.on_replies(seq, more, &lost, None),
            Event::Refused { seq, more, code, text } => self.on_replies(seq, more, &[], Some((code, text))),
            Event::Delivered(view) => self.on_delivered(view),
            Event::Part => SessionEvent::Quiet,
            Event::Pong { rtt } => SessionEvent::Pong { rtt },
            Event::GoAway(goaway) => {
                let (code, after) = (goaway.code(), goaway.reconnect_after_ms);
                let is_final = super::is_final(code);
                self.leave_by = (!is_final).then(|| now + LEAVE_WITHIN);
                self.ends(Ended::GoAway { code, text: goaway.text }, after)
            }
            Event::Rejected(reject) => {
                let (code, after) = (reject.code(), reject.reconnect_after_ms);
                self.ends(Ended::Rejected { code, text: reject.text }, after)
            }
            Event::ServerError(error) => {
                let code = error.code();
                self.ends(Ended::ServerError { code, text: error.text }, 0)
            }
            Event::Broken(broken) => self.ends(Ended::Protocol(broken), 0),
        }
    }

    fn ends<'a>(&mut self, why: Ended, reconnect_after_ms: u32) -> SessionEvent<'a> {
        self.ending = Some((why.clone(), reconnect_after_ms));
        SessionEvent::Ending(why)
    }

    fn is_waiting(&self) -> bool {
        matches!(&self.state, State::Up(machine) if machine.unanswered() > 0)
    }

    fn on_welcome<'a>(&mut self, now: Time, welcome: proto::Welcome) -> SessionEvent<'a> {
        self.policy.welcomed(now);
        self.resume_token = welcome.resume_token;
        self.has_been_up = true;
        self.limits = welcome.limits.unwrap_or_default();
        SessionEvent::Up { resumed: welcome.resumed }
    }

    fn on_published<'a>(
        &mut self,
        seq: u64,
        more: u32,
        first_id: MessageId,
        subscribers: u64,
    ) -> SessionEvent<'a> {
        let mut next_id = first_id;
        for seq in seq..=seq + u64::from(more) {
            if let Some(Answered { sequence, messages, acks }) = self.publishes.answered(seq) {
                acks.into_iter().for_each(|lease| self.lease_over(lease));
                let first_id = next_id;
                self.ready.push_back(SessionEvent::Published { sequence, messages, first_id, subscribers });
                next_id = MessageId(next_id.0 + u64::from(messages));
            }
        }
        self.after_answer()
    }

    fn give_back(&mut self, held: &Held) {
        if let Some(subscription) = self.subscription(held.subscription)
            && subscription.may_go_on()
        {
            subscription.give_back(held.bytes);
        }
    }

    fn on_replies<'a>(
        &mut self,
        seq: u64,
        more: u32,
        lost: &[LeaseId],
        refused: Option<(proto::Code, String)>,
    ) -> SessionEvent<'a> {
        for seq in seq..=seq + u64::from(more) {
            let event = self.on_reply(seq, lost, refused.clone());
            self.ready.push_back(event);
        }
        self.after_answer()
    }

    fn on_reply(
        &mut self,
        seq: u64,
        lost: &[LeaseId],
        refused: Option<(proto::Code, String)>,
    ) -> SessionEvent<'static> {
        if let Some(settling) = self.leases.answered(seq) {
            let leases::Settling { leases, settlement, resent, .. } = settling;
            if let Some((code, text)) = refused {
                return SessionEvent::SettleRefused { leases, settlement, code, text };
            }
            let mut lost: Vec<LeaseId> =
                lost.iter().copied().filter(|lease| leases.contains(lease)).collect();
            if matches!(settlement, Settlement::Extend { .. }) {
                lost = self.leases.too_late(lost);
            }
            return SessionEvent::Settled { leases, settlement, lost, resent };
        }
        if let Some(at) = self.unsubscribing.iter().position(|&(asked, _)| asked == seq) {
            let id = self.unsubscribing.remove(at).map_or(SubscriptionId(0), |(_, id)| id);
            return SessionEvent::Unsubscribed(id);
        }
        let Some(at) = self.subscriptions.iter().position(|subscription| subscription.seq == Some(seq))
        else {
            return SessionEvent::Quiet;
        };
        match refused {
            None => SessionEvent::Subscribed(self.subscriptions[at].id),
            Some((code, text)) => {
                let subscription = self.subscriptions.remove(at).id;
                SessionEvent::SubscribeRefused { subscription, code, text }
            }
        }
    }

    /// The first of the events that an answer gave.
    fn after_answer<'a>(&mut self) -> SessionEvent<'a> {
        self.ready.pop_front().unwrap_or(SessionEvent::Quiet)
    }

    fn on_delivered<'a>(&mut self, view: DeliverView<'a>) -> SessionEvent<'a> {
        let mut repeated = Vec::new();
        for delivery in view.deliveries() {
            let bytes = delivery.message.len() as u32;
            let is_new = self.leases.delivered(delivery.lease, delivery.subscription, bytes);
            if !is_new {
                repeated.push(delivery.lease);
            }
            if let Some(subscription) = self.subscription(delivery.subscription) {
                subscription.used(bytes);
                if !is_new {
                    subscription.give_back(bytes);
                }
            }
        }
        SessionEvent::Delivered(Deliveries { view, repeated })
    }

    fn subscription(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.id == id)
    }

    /// Appends what may be sent now to `out`. To be called after requests were made and after events.
    pub fn transmit(&mut self, out: &mut Vec<u8>) {
        let State::Up(machine) = &mut self.state else { return };
        if machine.is_closed() {
            return;
        }
        // Settlements first: what is done must not be delivered again by a subscription that follows. While some do
        // not fit the server's window no subscription does either.
        self.leases.send(machine, out);
        if machine.is_welcomed() {
            for subscription in &mut self.subscriptions {
                subscription.send(machine, out);
            }
            let (refused, leases) = (&mut self.ready, &mut self.leases);
            let tell = |unsent: Answered, text| {
                let Answered { sequence, messages, acks } = unsent;
                leases.ack_with(&acks, false);
                let code = proto::Code::TooLarge.into();
                let refusal = proto::Refusal { code, text, ..Default::default() };
                refused.push_back(SessionEvent::PublishRefused { sequence, messages, refusal });
            };
            self.publishes.send(machine, &mut self.codec, TRANSMIT_BYTES_SOFT_MAX, out, tell);
        }
    }

    /// When [`Session::handle_timeout`] is to be called. [`Link::Connect`] has a time of its own.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let State::Up(machine) = &self.state else { return None };
        machine.next_deadline().into_iter().chain(self.leave_by).min()
    }

    /// Sends a heartbeat that is due, or ends the connection after a silence or when a leave takes too long.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<u8>) {
        let State::Up(machine) = &mut self.state else { return };
        if let Err(silence) = machine.handle_timeout(now, out) {
            // What GOAWAY said stays the reason when the server is silent after it.
            self.ending.get_or_insert((Ended::Silent(silence), 0));
        }
        self.leave_by = self.leave_by.filter(|&by| now < by);
    }

    /// Takes a message, encoded as `body`, for `queue`. Returns its sequence, under which its answer will come.
    ///
    /// # Errors
    /// [`Unsendable::Full`]: wait for answers first; the others never go away.
    pub fn publish(&mut self, queue: &QueueName, body: Vec<u8>) -> Result<u64, Unsendable> {
        self.publish_batch(queue, vec![body])
    }

    /// Takes messages for `queue`, which will be on disk all or none. Returns the sequence of the first; the
    /// others follow by 1.
    ///
    /// # Errors
    /// As [`Session::publish`].
    pub fn publish_batch(&mut self, queue: &QueueName, bodies: Vec<Vec<u8>>) -> Result<u64, Unsendable> {
        self.publishes.take(queue, &[], bodies, &self.limits)
    }

    /// Attaches to a queue as a consumer, on this connection and all later ones. At most `credit_messages` messages
    /// of at most `credit_bytes` together (0: no bound) will be out with the user at any time, and `total` (`None`: no
    /// end) over all. `None` when the client has as many subscriptions as the server allows.
    pub fn subscribe(
        &mut self,
        queue: &QueueName,
        credit_messages: u32,
        credit_bytes: u64,
        total: Option<u64>,
    ) -> Option<SubscriptionId> {
        if self.subscriptions.len() >= self.limits.subscriptions_max as usize {
            return None;
        }
        let id = SubscriptionId(self.next_subscription);
        self.next_subscription = self.next_subscription.checked_add(1).unwrap_or(1);
        self.subscriptions.push(Subscription::new(id, queue.clone(), credit_messages, credit_bytes, total));
        Some(id)
    }

    /// Ends a subscription. Its leases stay held. False when there is no such subscription.
    pub fn unsubscribe(&mut self, subscription: SubscriptionId, out: &mut Vec<u8>) -> bool {
        let Some(at) = self.subscriptions.iter().position(|own| own.id == subscription) else { return false };
        let removed = self.subscriptions.remove(at);
        if let State::Up(machine) = &mut self.state
            && removed.seq.is_some()
            && let Ok(seq) = machine.unsubscribe(subscription, out)
        {
            self.unsubscribing.push_back((seq, subscription));
        } else {
            self.ready.push_back(SessionEvent::Unsubscribed(subscription));
        }
        true
    }

    /// Acks, nacks or extends a lease. False when it is not held, because it was settled before.
    pub fn settle(&mut self, lease: LeaseId, settlement: Settlement) -> bool {
        if let Settlement::Extend { .. } = settlement {
            return self.leases.extend(lease, settlement);
        }
        let Some(held) = self.leases.settle(lease, settlement) else { return false };
        self.give_back(&held);
        true
    }

    /// A heartbeat ahead of its time, with telemetry if there is some. Nothing while not connected.
    pub fn ping(&mut self, now: Time, telemetry: Option<&proto::Ping>, out: &mut Vec<u8>) {
        if let State::Up(machine) = &mut self.state {
            let frame_start = out.len();
            machine.ping(now, telemetry, out);
            machine.compress_ping(&mut self.codec, out, frame_start);
        }
    }

    /// As many empty heartbeats as it takes for the last one sent to be answered; none where each is.
    pub fn ask_for_pong(&mut self, now: Time, out: &mut Vec<u8>) {
        if let State::Up(machine) = &mut self.state {
            machine.ask_for_pong(now, out);
        }
    }

    /// Ends the client: with BYE on an open connection, after which its leases are free, else at once. Publishes
    /// and settlements without an answer are given up; wait for [`Session::unanswered`] to reach 0 first.
    pub fn bye(&mut self, out: &mut Vec<u8>) {
        if let State::Up(machine) = &mut self.state {
            if machine.is_welcomed() {
                machine.bye(self.publishes.is_empty().then(|| self.publishes.producer()), out);
            }
            self.ending = Some((Ended::Bye, 0));
            self.leave_by = None;
        } else {
            self.state = State::Over;
        }
    }

    /// Publishes and settlements without an answer, sent or not.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.publishes.len() + self.leases.settling()
    }

    /// Whether the publish of this sequence has no answer yet.
    #[must_use]
    pub fn is_unanswered(&self, sequence: u64) -> bool {
        self.publishes.contains(sequence)
    }

    /// Whether a server ever accepted the session.
    #[must_use]
    pub fn has_been_up(&self) -> bool {
        self.has_been_up
    }

    /// Messages delivered and not settled by the user.
    #[must_use]
    pub fn held(&self) -> usize {
        self.leases.held()
    }

    /// How much more [`Session::publish`] takes now.
    #[must_use]
    pub fn room(&self) -> Room {
        self.publishes.room(&self.limits)
    }

    /// What the server allows; its defaults until it was heard.
    #[must_use]
    pub fn limits(&self) -> &proto::Limits {
        &self.limits
    }

    /// Whether the client is connected and welcome.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(&self.state, State::Up(machine) if machine.is_welcomed())
    }
}

#[cfg(test)]
mod tests;
