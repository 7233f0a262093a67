//! What a client asks of the server. Each request appends one frame and returns its `seq`.

use std::time::Duration;

use prost::Message;

use super::{Machine, State, Unanswered};
use crate::clock::Time;
use crate::ids::{LeaseId, ProducerId, SubscriptionId};
use crate::limits;
use crate::wire::{
    Codec, EMPTY_PING, Kind, compressible_bytes, encode, encode_ack, encode_ack_and_publish, encode_part,
    proto,
};

/// Why a request was not made. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Only subscriptions may be asked for before WELCOME, and nothing after GOAWAY but settling leases.
    #[error("the connection does not take this request now")]
    NotNow,
    /// Wait for answers: the window of the server is used up.
    #[error("too much is unanswered; wait for answers")]
    WindowFull,
    /// One request cannot hold so much, whatever is unanswered.
    #[error("one request holds {count} {what}; 1 to {max} are allowed")]
    TooMuch {
        /// Of what: messages, bytes or leases.
        what: &'static str,
        /// How much it was.
        count: usize,
        /// How much is allowed.
        max: usize,
    },
}

impl Machine {
    /// Publishes one message, encoded as `body`, in parts where it does not fit a frame. `producer` is the producer id,
    /// this message's sequence and the lowest unanswered sequence.
    ///
    /// # Errors
    /// [`RequestError::WindowFull`]: try again after the next answer. [`RequestError::TooMuch`]: never.
    #[inline]
    pub fn publish(
        &mut self,
        queue: &str,
        producer: Option<(ProducerId, u64, u64)>,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<u64, RequestError> {
        if !self.needs_parts(queue, body, 0) {
            return self.publish_batch(queue, producer, &[body], out);
        }
        // With room without end it is never left half sent.
        self.publish_in_parts(queue, producer, &[], body, usize::MAX, out)?.ok_or(RequestError::NotNow)
    }

    /// As [`Machine::publish`], for a message that does not fit a frame: appends parts of it until `out` holds
    /// `out_soft_max` bytes or more. `None`: some are left, so that other frames may go before them; call again with the
    /// same message, and publish no other in parts before that one is sent. `acks` are acked in the step in which it appears.
    ///
    /// # Errors
    /// As [`Machine::publish`].
    pub fn publish_in_parts(
        &mut self,
        queue: &str,
        producer: Option<(ProducerId, u64, u64)>,
        acks: &[LeaseId],
        body: &[u8],
        out_soft_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<u64>, RequestError> {
        if self.state != State::Welcomed {
            return Err(RequestError::NotNow);
        }
        if self.outgoing_sent == 0 {
            self.check_acks(acks)?;
            let max = self.message_bytes_max.min(self.window.bytes) as usize;
            if body.len() > max {
                return Err(RequestError::TooMuch { what: "bytes of a message", count: body.len(), max });
            }
            if self.room.messages == 0 || body.len() > self.room.bytes as usize {
                return Err(RequestError::WindowFull);
            }
            self.room.messages -= 1;
            self.room.bytes -= body.len() as u32;
        }
        let end_max = self.bodies_bytes_max_for(queue, 1, acks.len()).min(PART_BYTES);
        let mut sent = self.outgoing_sent as usize;
        while body.len() - sent > end_max {
            if out.len() >= out_soft_max {
                self.outgoing_sent = sent as u32;
                return Ok(None);
            }
            sent += encode_part(out, body, sent, end_max);
        }
        self.outgoing_sent = 0;
        let seq = self.take_seq(1, body.len() as u32);
        let producer = producer.map(|(id, first, from)| (id.0, first, from));
        encode_ack_and_publish(out, seq, queue, producer, acks, &[&body[sent..]], sent as u32);
        Ok(Some(seq))
    }

    /// Publishes messages that fit a frame together, all or none, in the order given. `producer` is the producer id, the first message's
    /// sequence and the lowest unanswered sequence.
    ///
    /// # Errors
    /// As [`Machine::publish`].
    pub fn publish_batch(
        &mut self,
        queue: &str,
        producer: Option<(ProducerId, u64, u64)>,
        bodies: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<u64, RequestError> {
        self.ack_and_publish(queue, producer, &[], bodies, out)
    }

    /// As [`Machine::publish_batch`], acking `acks` in the step in which the messages appear: both, or neither. The credit
    /// of what is acked is the caller's to give back.
    ///
    /// # Errors
    /// As [`Machine::publish`].
    pub fn ack_and_publish(
        &mut self,
        queue: &str,
        producer: Option<(ProducerId, u64, u64)>,
        acks: &[LeaseId],
        bodies: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<u64, RequestError> {
        if self.state != State::Welcomed {
            return Err(RequestError::NotNow);
        }
        self.check_acks(acks)?;
        let body_bytes = self.check_bodies(queue, bodies, acks.len())?;
        let messages = bodies.len() as u32;
        if messages > self.room.messages || body_bytes > self.room.bytes as usize {
            return Err(RequestError::WindowFull);
        }
        self.room.messages -= messages;
        self.room.bytes -= body_bytes as u32;
        let seq = self.take_seq(messages as u16, body_bytes as u32);
        let producer = producer.map(|(id, first, from)| (id.0, first, from));
        encode_ack_and_publish(out, seq, queue, producer, acks, bodies, 0);
        Ok(seq)
    }

    fn check_acks(&self, acks: &[LeaseId]) -> Result<(), RequestError> {
        let max = usize::from(self.batch_messages_max);
        if acks.len() > max {
            return Err(RequestError::TooMuch { what: "leases", count: acks.len(), max });
        }
        Ok(())
    }

    /// Checks what no waiting changes; returns the bytes of all bodies.
    fn check_bodies(&self, queue: &str, bodies: &[&[u8]], acks: usize) -> Result<usize, RequestError> {
        let batch_max = usize::from(self.batch_messages_max).min(self.window.messages as usize);
        if bodies.is_empty() || bodies.len() > batch_max {
            return Err(RequestError::TooMuch { what: "messages", count: bodies.len(), max: batch_max });
        }
        let mut bytes = 0;
        for body in bodies {
            let max = self.message_bytes_max as usize;
            if body.len() > max {
                return Err(RequestError::TooMuch { what: "bytes of a message", count: body.len(), max });
            }
            bytes += body.len();
        }
        let max = self.bodies_bytes_max_for(queue, bodies.len(), acks);
        if bytes > max {
            return Err(RequestError::TooMuch { what: "bytes of messages", count: bytes, max });
        }
        Ok(bytes)
    }

    /// Whether `body` is too large for one frame with `acks` leases.
    #[inline]
    #[must_use]
    pub fn needs_parts(&self, queue: &str, body: &[u8], acks: usize) -> bool {
        body.len() > self.bodies_bytes_max_for(queue, 1, acks)
    }

    fn bodies_bytes_max_for(&self, queue: &str, count: usize, acks: usize) -> usize {
        bodies_bytes_max(self.frame_bytes_max, self.window.bytes, queue, (count, acks))
    }

    /// Bytes that `count` messages for `queue` may have together in one frame with `acks` leases.
    #[must_use]
    pub fn bodies_bytes_max(limits: &proto::Limits, queue: &str, count: usize, acks: usize) -> usize {
        bodies_bytes_max(limits.frame_bytes_max, limits.publish_bytes_max, queue, (count, acks))
    }

    /// Attaches to a queue as a consumer with this much credit. Allowed before WELCOME, so that HELLO and SUBSCRIBE
    /// share the first write.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn subscribe(
        &mut self,
        subscription: SubscriptionId,
        queue: &str,
        credit_messages: u32,
        credit_bytes: u64,
        out: &mut Vec<u8>,
    ) -> Result<u64, RequestError> {
        self.may_ask(matches!(self.state, State::Welcomed | State::AwaitingWelcome))?;
        let seq = self.take_seq(0, 0);
        let subscribe = proto::Subscribe {
            seq,
            subscription: u32::from(subscription.0),
            queue: queue.to_owned(),
            credit_messages,
            credit_bytes,
        };
        encode(out, Kind::Subscribe, &subscribe);
        Ok(seq)
    }

    /// Ends a subscription; its leases stay held.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn unsubscribe(
        &mut self,
        subscription: SubscriptionId,
        out: &mut Vec<u8>,
    ) -> Result<u64, RequestError> {
        self.may_ask(matches!(self.state, State::Welcomed | State::AwaitingWelcome))?;
        let seq = self.take_seq(0, 0);
        encode(out, Kind::Unsubscribe, &proto::Unsubscribe { seq, subscription: u32::from(subscription.0) });
        Ok(seq)
    }

    /// Raises a subscription's credit. Not answered.
    pub fn credit(&mut self, subscription: SubscriptionId, messages: u32, bytes: u64, out: &mut Vec<u8>) {
        let credit = proto::Credit { subscription: u32::from(subscription.0), messages, bytes };
        encode(out, Kind::Credit, &credit);
    }

    /// The work is done. `replenish` gives the deliveries' credit back to their subscriptions, with the answer; for
    /// leases that this names as lost there is [`Machine::credit`].
    ///
    /// # Errors
    /// [`RequestError`].
    #[inline]
    pub fn ack(
        &mut self,
        leases: &[LeaseId],
        replenish: bool,
        out: &mut Vec<u8>,
    ) -> Result<u64, RequestError> {
        self.may_settle(leases)?;
        let seq = self.take_seq(0, 0);
        encode_ack(out, seq, leases, replenish);
        Ok(seq)
    }

    /// The work failed. `delay` replaces the queue's backoff; `error` is kept with the message, cut to 1,024 bytes;
    /// `reject` makes them dead letters at once.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn nack(
        &mut self,
        leases: &[LeaseId],
        replenish: bool,
        delay: Option<Duration>,
        error: &str,
        reject: bool,
        out: &mut Vec<u8>,
    ) -> Result<u64, RequestError> {
        self.may_settle(leases)?;
        let seq = self.take_seq(0, 0);
        let delay = delay.map(|delay| delay.min(limits::NACK_DELAY_MAX).as_millis() as u64);
        let error = error[..error.floor_char_boundary(limits::ERROR_TEXT_BYTES_MAX)].to_owned();
        let leases = leases.iter().map(|&lease| lease.into()).collect();
        encode(out, Kind::Nack, &proto::Nack { seq, leases, replenish, delay_ms: delay, error, reject });
        Ok(seq)
    }

    /// Makes leases last for `lease` from now, 1 ms to 12 h; a value outside is brought inside.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn extend(
        &mut self,
        leases: &[LeaseId],
        lease: Duration,
        out: &mut Vec<u8>,
    ) -> Result<u64, RequestError> {
        self.may_settle(leases)?;
        let seq = self.take_seq(0, 0);
        let lease_ms = lease.min(limits::LEASE_MAX).as_millis().max(1) as u32;
        let leases = leases.iter().map(|&lease| lease.into()).collect();
        encode(out, Kind::Extend, &proto::Extend { seq, leases, lease_ms });
        Ok(seq)
    }

    /// A heartbeat ahead of its time, with telemetry if there is some. The next one is due an interval later.
    pub fn ping(&mut self, now: Time, telemetry: Option<&proto::Ping>, out: &mut Vec<u8>) {
        if matches!(self.state, State::AwaitingWelcome | State::Closed) {
            return;
        }
        match telemetry {
            Some(telemetry) if telemetry.encoded_len() > 0 => encode(out, Kind::Ping, telemetry),
            _ => out.extend_from_slice(&EMPTY_PING),
        }
        self.next_ping = now + self.heartbeat();
        self.pings_to_pong -= 1;
        if self.pings_to_pong == 0 {
            self.pings_to_pong = self.pong_every;
            self.ping_sent = now;
            self.pings_unanswered = self.pings_unanswered.saturating_add(1);
        }
    }

    /// Empty heartbeats until the last one is answered: none when the last one sent is, otherwise at most 15, of 2 bytes
    /// each.
    pub fn ask_for_pong(&mut self, now: Time, out: &mut Vec<u8>) {
        while self.pings_to_pong != self.pong_every
            && !matches!(self.state, State::AwaitingWelcome | State::Closed)
        {
            self.ping(now, None, out);
        }
    }

    /// Sends the next heartbeat at `at`, or an interval from now if that is sooner, and the others by intervals from there:
    /// who drives many connections spreads their heartbeats.
    pub fn next_ping_at(&mut self, now: Time, at: Time) {
        if self.state == State::Welcomed {
            self.next_ping = at.min(now + self.heartbeat());
        }
    }

    /// Replaces the PING just appended at `frame_start` by its compressed form, if the server named the dictionary
    /// and the frame becomes smaller.
    pub fn compress_ping(&self, codec: &mut Codec, out: &mut Vec<u8>, frame_start: usize) {
        if self.dictionary && out.len() - frame_start >= TELEMETRY_BYTES_MIN {
            codec.compress_last_frame(out, frame_start);
        }
    }

    /// The same for the PUBLISH of `bodies` that was just appended at `frame_start`, if trying is worth the time.
    #[inline]
    pub fn compress_publish(
        &self,
        codec: &mut Codec,
        bodies: &[Vec<u8>],
        out: &mut Vec<u8>,
        frame_start: usize,
    ) {
        if self.dictionary {
            let compressible = bodies.iter().map(|body| compressible_bytes(body)).sum();
            codec.compress_messages(out, frame_start, compressible);
        }
    }

    /// Says goodbye: the session ends, with all its leases. `retired` is a producer whose every sequence is
    /// answered. The connection is closed once the owner has written `out`.
    pub fn bye(&mut self, retired: Option<ProducerId>, out: &mut Vec<u8>) {
        if self.state == State::Closed {
            return;
        }
        let bye = proto::Bye {
            retire_producer: retired.is_some(),
            retired_producer_id: retired.map_or(0, |id| id.0),
        };
        encode(out, Kind::Bye, &bye);
        self.close();
    }

    fn may_ask(&self, state_allows: bool) -> Result<(), RequestError> {
        if !state_allows {
            return Err(RequestError::NotNow);
        }
        if self.others_unanswered >= u32::from(limits::REQUEST_WINDOW) {
            return Err(RequestError::WindowFull);
        }
        Ok(())
    }

    fn may_settle(&self, leases: &[LeaseId]) -> Result<(), RequestError> {
        self.may_ask(matches!(self.state, State::Welcomed | State::Leaving))?;
        let max = usize::from(self.batch_messages_max);
        if leases.is_empty() || leases.len() > max {
            return Err(RequestError::TooMuch { what: "leases", count: leases.len(), max });
        }
        Ok(())
    }

    fn take_seq(&mut self, messages: u16, body_bytes: u32) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.others_unanswered += u32::from(messages == 0);
        self.unanswered.push_back(Unanswered { seq, body_bytes, messages });
        seq
    }
}

fn bodies_bytes_max(
    frame_bytes_max: u32,
    window_bytes: u32,
    queue: &str,
    (count, acks): (usize, usize),
) -> usize {
    let lists = count * BODY_FIELD_BYTES_MAX + acks * ACK_FIELD_BYTES_MAX;
    let overhead = PUBLISH_FIELDS_BYTES_MAX + queue.len() + lists;
    (frame_bytes_max as usize).saturating_sub(overhead).min(window_bytes as usize)
}

/// Room in a PUBLISH for everything but the queue's name and the messages: the fields `seq`, `producer_id`,
/// `sequence`, `unanswered_from`, `parts_bytes`, and the header of `queue`.
const PUBLISH_FIELDS_BYTES_MAX: usize = 11 + 9 + 11 + 11 + 5 + 3;
/// Smallest PING that is worth compressing: one that holds more than the three fields without a name.
const TELEMETRY_BYTES_MIN: usize = 32;
/// Key and length of one message in a PUBLISH.
const BODY_FIELD_BYTES_MAX: usize = 5;
/// Key, length and fields of one lease in a PUBLISH.
const ACK_FIELD_BYTES_MAX: usize = 2 + 11 + 6 + 6;
/// Most bytes of a message that go in one part: a slow connection's heartbeats wait for no more than this.
const PART_BYTES: usize = 256 << 10;

const _: () = assert!(
    PUBLISH_FIELDS_BYTES_MAX + BODY_FIELD_BYTES_MAX + limits::QUEUE_NAME_BYTES_MAX
        <= limits::FRAME_OVERHEAD_BYTES
);
