//! One connection's state machine.
//!
//! Owns what a connection must remember: whether it was welcomed, which requests are unanswered, how much of the
//! windows is used, when the next heartbeat is due and a frame that arrived in part. It knows no socket, no clock
//! and no random source, and nothing that outlives the connection; that is [`super::Session`]'s.
//!
//! Order of calls: [`Machine::new`] writes HELLO. Received bytes go through [`Machine::next_event`] until it returns
//! `None`, which is when all of them are taken. [`Machine::handle_timeout`] is called at
//! [`Machine::next_deadline`]. Requests may be made at any time; each appends one frame to the buffer it is given,
//! which the owner writes to the socket. After [`Machine::is_closed`] turns true the owner closes the socket.
//!
//! A machine is small, so that a load generator can hold hundreds of thousands: it has no output buffer, and an
//! input buffer only while a frame is incomplete. What decompresses and joins frames is an [`Inbound`], one per
//! thread.
//!
//! ```text
//!  AwaitingWelcome ──WELCOME──▶ Welcomed ──GOAWAY──▶ Leaving
//!        │                         │                    │
//!        └── REJECT, ERROR, silence, nonsense, BYE ─────┴──▶ Closed
//! ```

mod requests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;
use crate::ids::{LeaseId, MessageId};
use crate::limits;
use crate::wire::{
    Codec, DICTIONARY_ID, DeliverView, Fault, Kind, Parts, RawFrame, ServerFrame, Split, encode, proto, split,
};

pub use requests::RequestError;

/// What the machines of one thread share for receiving: the codec, and the frame and the message that were last put
/// together.
#[derive(Debug, Default)]
pub struct Inbound {
    codec: Codec,
    joined: Vec<u8>,
    whole: Vec<u8>,
}

impl Inbound {
    /// One that holds no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The codec, for frames that are sent compressed.
    pub fn codec(&mut self) -> &mut Codec {
        &mut self.codec
    }
}

/// What the server said. Every received frame is one event.
#[derive(Debug)]
pub enum Event<'a> {
    /// The session is accepted.
    Welcomed(Box<proto::Welcome>),
    /// The session is refused; the connection is closed.
    Rejected(proto::Reject),
    /// The requests `seq` to `seq + more`, all publishes, are on disk; or one to a topic was handed on.
    PublishAcked {
        /// The first request answered.
        seq: u64,
        /// How many requests after it are answered as well.
        more: u32,
        /// Id of the first message of the first request; the others follow by 1. 0 of a topic.
        first_id: MessageId,
        /// Messages answered in all.
        messages: u32,
        /// Of a topic: the subscriptions it was handed to.
        subscribers: u64,
    },
    /// A publish was refused as a whole; nothing of it is kept.
    PublishRefused {
        /// The request.
        seq: u64,
        /// Why, and when to try again.
        refusal: proto::Refusal,
    },
    /// The requests `seq` to `seq + more`, none of them publishes, are carried out.
    Settled {
        /// The first request answered.
        seq: u64,
        /// How many requests after it are answered as well.
        more: u32,
        /// Leases of these requests that were not the newest; the others count.
        lost: Vec<LeaseId>,
    },
    /// The requests `seq` to `seq + more`, none of them publishes, were refused.
    Refused {
        /// The first request answered.
        seq: u64,
        /// How many requests after it were refused as well.
        more: u32,
        /// Why.
        code: proto::Code,
        /// Why, in words.
        text: String,
    },
    /// Messages, with the leases that go with them. One that came in parts is whole here.
    Delivered(DeliverView<'a>),
    /// The beginning of a message that a later delivery completes.
    Part,
    /// Answers a heartbeat.
    Pong {
        /// How long the answer took, in whole milliseconds; `None` when several answers were on their way.
        rtt: Option<Duration>,
    },
    /// The server wants the client to leave. What is unanswered may still be answered; nothing new is taken.
    GoAway(proto::GoAway),
    /// The server's last frame; the connection is closed.
    ServerError(proto::Error),
    /// The server broke the protocol; the connection is closed.
    Broken(Broken),
}

/// How the server broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Its bytes are no frames.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It answered what was not asked.
    #[error("the server answered request {seq}, which is not unanswered")]
    Answer {
        /// The first such request.
        seq: u64,
    },
    /// A frame at the wrong time.
    #[error("the server sent {0} at the wrong time")]
    Unexpected(Kind),
    /// WELCOME allows less than a connection needs.
    #[error("WELCOME holds {what} = {value}, with which no connection can work")]
    Limits {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

/// Why the machine closed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// No WELCOME in time.
    #[error("the server did not answer HELLO within {} s", limits::HANDSHAKE_DEADLINE.as_secs())]
    Handshake,
    /// Three heartbeats were not answered, and nothing else was heard.
    #[error("nothing was heard from the server though {} heartbeats were due", limits::HEARTBEATS_MISSED_MAX)]
    Heartbeats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitingWelcome,
    Welcomed,
    /// After GOAWAY.
    Leaving,
    Closed,
}

/// An unanswered request.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    seq: u64,
    body_bytes: u32,
    /// 0 for every request but PUBLISH.
    messages: u16,
}

/// How much more may be published now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Messages.
    pub messages: u32,
    /// Bytes of encoded messages.
    pub bytes: u32,
}

/// One connection as the client sees it.
#[derive(Debug)]
pub struct Machine {
    /// In the order of `seq`. Bounded by the publish window and [`limits::REQUEST_WINDOW`].
    unanswered: VecDeque<Unanswered>,
    /// The front of a frame whose rest has not arrived; at most one frame.
    partial: Vec<u8>,
    /// The beginning of a message that is delivered in parts; at most [`limits::MESSAGE_BYTES_MAX`].
    incoming: Parts,
    /// Bytes that went in parts, of the message that is being published so.
    outgoing_sent: u32,
    next_seq: u64,
    last_heard: Time,
    next_ping: Time,
    ping_sent: Time,
    /// PINGs without their PONG, of those that get one.
    pings_unanswered: u32,
    heartbeat_ms: u32,
    window: Room,
    room: Room,
    others_unanswered: u32,
    frame_bytes_max: u32,
    message_bytes_max: u32,
    batch_messages_max: u16,
    /// The server named our dictionary: frames may be compressed.
    dictionary: bool,
    /// Before WELCOME: what HELLO asked for. Afterwards: every so manieth PING is answered.
    pong_every: u8,
    /// PINGs up to the next one that is answered, with that.
    pings_to_pong: u8,
    state: State,
}

impl Machine {
    /// A connection whose socket is open. Appends HELLO to `out`.
    #[must_use]
    pub fn new(now: Time, hello: &proto::Hello, out: &mut Vec<u8>) -> Self {
        encode(out, Kind::Hello, hello);
        let none = Room { messages: 0, bytes: 0 };
        Self {
            unanswered: VecDeque::new(),
            partial: Vec::new(),
            incoming: Parts::default(),
            outgoing_sent: 0,
            next_seq: 1,
            last_heard: now,
            next_ping: now + limits::HANDSHAKE_DEADLINE,
            ping_sent: now,
            pings_unanswered: 0,
            heartbeat_ms: 0,
            window: none,
            room: none,
            others_unanswered: 0,
            frame_bytes_max: limits::HANDSHAKE_FRAME_BYTES_MAX as u32,
            message_bytes_max: 0,
            batch_messages_max: 0,
            dictionary: false,
            pong_every: hello.pong_every.clamp(1, limits::PONG_EVERY_MAX) as u8,
            pings_to_pong: 1,
            state: State::AwaitingWelcome,
        }
    }

    /// Takes the next frame off `input`. `None`: all of it is taken, or the connection is closed.
    #[must_use = "the event may end the connection"]
    pub fn next_event<'a, 'i: 'a>(
        &mut self,
        now: Time,
        inbound: &'a mut Inbound,
        input: &mut &'i [u8],
    ) -> Option<Event<'a>> {
        if self.state == State::Closed {
            return None;
        }
        if !input.is_empty() {
            self.last_heard = now;
        }
        match self.take_frame(now, inbound, input) {
            Ok(event) => event,
            Err(broken) => {
                self.close();
                Some(Event::Broken(broken))
            }
        }
    }

    fn take_frame<'a, 'i: 'a>(
        &mut self,
        now: Time,
        inbound: &'a mut Inbound,
        input: &mut &'i [u8],
    ) -> Result<Option<Event<'a>>, Broken> {
        let payload_max = self.payload_max();
        if inbound.whole.capacity() > 0 {
            // It was taken out of the last event; the next such message may be long in coming.
            inbound.whole = Vec::new();
        }
        if self.partial.is_empty() {
            let bytes = *input;
            if bytes.is_empty() {
                return Ok(None);
            }
            return match split(bytes, payload_max)? {
                Split::Frame { frame, consumed } => {
                    *input = &bytes[consumed..];
                    self.frame(now, &mut inbound.codec, &mut inbound.whole, frame).map(Some)
                }
                Split::NeedMore { .. } => {
                    self.partial.extend_from_slice(bytes);
                    *input = &[];
                    Ok(None)
                }
            };
        }
        while let Split::NeedMore { bytes: needed } = split(&self.partial, payload_max)? {
            let missing = needed.saturating_sub(self.partial.len()).max(1);
            let (taken, rest) = input.split_at(missing.min(input.len()));
            self.partial.extend_from_slice(taken);
            *input = rest;
            if taken.len() < missing {
                return Ok(None);
            }
        }
        inbound.joined = std::mem::take(&mut self.partial);
        match split(&inbound.joined, payload_max)? {
            Split::Frame { frame, .. } => {
                self.frame(now, &mut inbound.codec, &mut inbound.whole, frame).map(Some)
            }
            // The loop above ended because the frame is whole.
            Split::NeedMore { .. } => Ok(None),
        }
    }

    fn payload_max(&self) -> usize {
        // The server's own frames obey `frame_bytes_max`, which is only known once WELCOME is read.
        if self.state == State::AwaitingWelcome {
            limits::HANDSHAKE_FRAME_BYTES_MAX
        } else {
            self.frame_bytes_max as usize
        }
    }

    fn frame<'a>(
        &mut self,
        now: Time,
        codec: &'a mut Codec,
        whole: &'a mut Vec<u8>,
        frame: RawFrame<'a>,
    ) -> Result<Event<'a>, Broken> {
        let kind = frame.kind;
        let payload = codec.payload(frame, self.dictionary, self.payload_max())?;
        let frame = ServerFrame::decode(kind, payload)?;
        let early = matches!(frame, ServerFrame::Welcome(_) | ServerFrame::Reject(_));
        let any_time = matches!(frame, ServerFrame::Error(_) | ServerFrame::GoAway(_));
        if !any_time && early != (self.state == State::AwaitingWelcome) {
            return Err(Broken::Unexpected(kind));
        }
        match frame {
            ServerFrame::Welcome(welcome) => self.welcomed(now, welcome),
            ServerFrame::Reject(reject) => {
                self.close();
                Ok(Event::Rejected(reject))
            }
            ServerFrame::PublishAck(ack) => self.publish_answered(ack),
            ServerFrame::Reply(reply) => self.replied(reply),
            ServerFrame::Deliver(view) if view.parts_bytes() == 0 => Ok(Event::Delivered(view)),
            ServerFrame::Deliver(view) => {
                let end = view.deliveries().next().map_or(&[][..], |delivery| delivery.message);
                *whole = self.incoming.finish(view.parts_bytes(), end, limits::MESSAGE_BYTES_MAX)?;
                Ok(Event::Delivered(view.completed(whole)))
            }
            ServerFrame::Part(part) => {
                self.incoming.push(&part, limits::MESSAGE_BYTES_MAX)?;
                Ok(Event::Part)
            }
            ServerFrame::Pong(pong) => Ok(self.ponged(now, pong)),
            ServerFrame::GoAway(goaway) => {
                self.state = State::Leaving;
                Ok(Event::GoAway(goaway))
            }
            ServerFrame::Error(error) => {
                self.close();
                Ok(Event::ServerError(error))
            }
        }
    }

    fn welcomed<'a>(&mut self, now: Time, welcome: Box<proto::Welcome>) -> Result<Event<'a>, Broken> {
        let limits = welcome.limits.unwrap_or_default();
        for (what, value) in [
            ("heartbeat_ms", welcome.heartbeat_ms),
            ("frame_bytes_max", limits.frame_bytes_max),
            ("message_bytes_max", limits.message_bytes_max),
            ("publish_messages_max", limits.publish_messages_max),
            ("publish_bytes_max", limits.publish_bytes_max),
            ("batch_messages_max", limits.batch_messages_max),
        ] {
            if value == 0 {
                return Err(Broken::Limits { what, value: 0 });
            }
        }
        let pong_every = welcome.pong_every.max(1);
        if pong_every > u32::from(self.pong_every) {
            return Err(Broken::Limits { what: "pong_every", value: u64::from(pong_every) });
        }
        self.pong_every = pong_every as u8;
        self.pings_to_pong = self.pong_every;
        self.state = State::Welcomed;
        self.heartbeat_ms = welcome.heartbeat_ms;
        self.next_ping = now + Duration::from_millis(u64::from(self.heartbeat_ms));
        self.window = Room { messages: limits.publish_messages_max, bytes: limits.publish_bytes_max };
        self.room = self.window;
        self.frame_bytes_max = limits.frame_bytes_max.min(limits::FRAME_BYTES_MAX_CEILING as u32);
        self.message_bytes_max = limits.message_bytes_max;
        self.batch_messages_max = limits.batch_messages_max.min(limits::BATCH_MESSAGES_MAX as u32) as u16;
        self.dictionary = welcome.dictionary == DICTIONARY_ID;
        Ok(Event::Welcomed(welcome))
    }

    fn publish_answered<'a>(&mut self, ack: proto::PublishAck) -> Result<Event<'a>, Broken> {
        let proto::PublishAck { seq, more, first_id, messages, refusal, subscribers } = ack;
        let answered = self.answer(seq, more, true)?;
        if let Some(refusal) = refusal {
            return Ok(Event::PublishRefused { seq, refusal });
        }
        if answered != u64::from(messages) {
            return Err(Broken::Answer { seq });
        }
        Ok(Event::PublishAcked { seq, more, first_id: MessageId(first_id), messages, subscribers })
    }

    fn replied<'a>(&mut self, reply: proto::Reply) -> Result<Event<'a>, Broken> {
        let code = reply.code();
        let proto::Reply { seq, more, text, lost, .. } = reply;
        self.answer(seq, more, false)?;
        if code == proto::Code::Ok || code == proto::Code::LeaseLost {
            return Ok(Event::Settled { seq, more, lost: lost.iter().map(LeaseId::from).collect() });
        }
        Ok(Event::Refused { seq, more, code, text })
    }

    /// Takes the requests `seq` to `seq + more` off the unanswered ones; returns how many messages they had.
    /// Answers mostly come in order; a publish that waits for room in its queue is overtaken.
    fn answer(&mut self, seq: u64, more: u32, publishes: bool) -> Result<u64, Broken> {
        let broken = Broken::Answer { seq };
        let at = match self.unanswered.front() {
            Some(first) if first.seq == seq => 0,
            _ => self.unanswered.binary_search_by_key(&seq, |request| request.seq).map_err(|_| broken)?,
        };
        let mut messages = 0;
        for expected in seq..=seq.saturating_add(u64::from(more)) {
            let Some(request) = self.unanswered.get(at).copied() else { return Err(Broken::Answer { seq }) };
            if request.seq != expected || (request.messages > 0) != publishes {
                return Err(Broken::Answer { seq: expected });
            }
            if at == 0 {
                self.unanswered.pop_front();
            } else {
                self.unanswered.remove(at);
            }
            messages += u64::from(request.messages);
            if publishes {
                self.room.messages += u32::from(request.messages);
                self.room.bytes += request.body_bytes;
            } else {
                self.others_unanswered -= 1;
            }
        }
        Ok(messages)
    }

    fn ponged<'a>(&mut self, now: Time, pong: proto::Pong) -> Event<'a> {
        let rtt = (self.pings_unanswered == 1).then(|| now - self.ping_sent);
        self.pings_unanswered = self.pings_unanswered.saturating_sub(1);
        if pong.heartbeat_ms != 0 {
            let is_longer = pong.heartbeat_ms > self.heartbeat_ms;
            self.heartbeat_ms = pong.heartbeat_ms;
            let after_ms = if is_longer { drawn_below(now.0, pong.heartbeat_ms) } else { pong.heartbeat_ms };
            self.next_ping = now + Duration::from_millis(u64::from(after_ms));
        }
        Event::Pong { rtt }
    }

    /// When [`Machine::handle_timeout`] is to be called; `None` once closed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        match self.state {
            State::Closed => None,
            State::AwaitingWelcome => Some(self.next_ping),
            State::Welcomed | State::Leaving => {
                Some(self.next_ping.min(self.last_heard + self.silence_max()))
            }
        }
    }

    /// Sends the heartbeat that is due, or closes after a silence. Early and repeated calls do nothing.
    ///
    /// # Errors
    /// [`Silence`]: the connection is closed now.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<u8>) -> Result<(), Silence> {
        if self.next_deadline().is_none_or(|due| now < due) {
            return Ok(());
        }
        if self.state == State::AwaitingWelcome {
            self.close();
            return Err(Silence::Handshake);
        }
        if now - self.last_heard >= self.silence_max() {
            self.close();
            return Err(Silence::Heartbeats);
        }
        let (due, is_answer_late) = (self.next_ping, self.pings_unanswered > 0);
        self.ping(now, None, out);
        if is_answer_late {
            // A server that is alive says so now: three of its answers are missed in as many intervals, however few
            // it gives otherwise.
            self.ask_for_pong(now, out);
        }
        // The next keeps to its moment however late this one is: a client that drives many connections and stalls once
        // would send all that fell due meanwhile together from then on.
        if due + self.heartbeat() > now {
            self.next_ping = due + self.heartbeat();
        }
        Ok(())
    }

    /// How long the server may be silent. Where it answers each PING: three intervals. Where it does not, those before the
    /// first answer that may be missed come on top.
    fn silence_max(&self) -> Duration {
        self.heartbeat() * (u32::from(self.pong_every) - 1 + limits::HEARTBEATS_MISSED_MAX)
    }

    /// The interval between heartbeats; zero before WELCOME.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(u64::from(self.heartbeat_ms))
    }

    /// Whether WELCOME arrived and the connection is of use.
    #[must_use]
    pub fn is_welcomed(&self) -> bool {
        self.state == State::Welcomed
    }

    /// Whether the owner is to close the socket (after it wrote what is in its buffer).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Requests without an answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// How much more may be published now.
    #[must_use]
    pub fn room(&self) -> Room {
        self.room
    }

    /// Messages that one PUBLISH, and leases that one ACK, NACK or EXTEND may hold; 0 before WELCOME.
    #[must_use]
    pub fn batch_messages_max(&self) -> usize {
        usize::from(self.batch_messages_max)
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.partial = Vec::new();
        self.incoming = Parts::default();
        self.unanswered = VecDeque::new();
    }
}

/// A part of the interval, as good as random: what arrives at different milliseconds is spread evenly. All clients are asked
/// for a longer interval within one of the old ones, and would keep to so short a stretch of each new one for ever.
fn drawn_below(millis: u64, interval_ms: u32) -> u32 {
    let drawn = millis.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((drawn * u64::from(interval_ms)) >> 32) as u32
}

#[cfg(test)]
mod tests;
