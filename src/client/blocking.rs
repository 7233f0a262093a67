//! The blocking client: a [`Session`] on a `TcpStream`, one thread, one `poll`.
//!
//! Owns the socket, its buffers and the results that the user has not taken yet. It decides nothing: what to send,
//! when to reconnect and what an answer means is the session's. Every waiting call drives the connection. A program
//! that works for long between calls must call [`Client::drive`] at least once a heartbeat, or the server takes the
//! client for dead; worker threads hand their results to the owner and ring its [`Waker`].

mod acking;
mod inbox;
mod options;
mod socket;
mod topics;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use self::inbox::{Answered, Inbox};
use self::socket::{Readiness, WakeReceiver, connect, wait};
use super::{Ended, Error, Inbound, Link, Lost, Message, Session, SessionConfig, Settlement, Verdict};
use crate::clock::{Clock, Time};
use crate::ids::{ClientId, LeaseId, MessageId, QueueName, SubscriptionId};
use crate::wire::proto;

pub use self::inbox::{Broadcast, Delivery, Flushed, Notice, Receipt, Received};
pub use self::options::{Nack, OnNotice, Options};
pub use self::socket::Waker;

/// What is read from the socket at once.
const READ_BYTES: usize = 64 * 1024;
/// Pipelined publishes that are gathered before they are written.
const GATHERED_MAX: usize = 64;

/// A connected client.
///
/// Dropping it breaks the connection without BYE: the server keeps its leases through the grace period. Use
/// [`Client::close`] to end it properly.
pub struct Client {
    options: Options,
    session: Session,
    clock: Clock,
    inbound: Inbound,
    stream: Option<TcpStream>,
    /// Waiting to be written, from `written` on. Bounded by the session's windows.
    out: Vec<u8>,
    written: usize,
    input: Box<[u8]>,
    inbox: Inbox,
    wake: WakeReceiver,
    waker: Waker,
    rung: bool,
    /// Publishes taken since the last write.
    gathered: usize,
    offline_since: Option<Time>,
    last_failure: String,
    over: Option<Ended>,
    /// The queue last published to, so that its name is not checked each time.
    last_queue: Option<QueueName>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and waits to be welcome.
    ///
    /// # Errors
    /// The server cannot be reached (unless [`Options::retry_first`]) or refuses the client.
    pub fn connect(options: Options) -> Result<Self, Error> {
        let mut random = fastrand::Rng::new();
        let client_id = match &options.client_id {
            Some(client_id) => client_id.clone(),
            None => ClientId::parse(&format!("client-{:016x}", random.u64(..)))?,
        };
        let config = SessionConfig {
            namespace: options.namespace.clone(),
            client_id,
            credential: options.token.clone().into_bytes(),
            heartbeat: options.heartbeat,
            pong_every: options.pong_every,
            backoff: options.backoff,
            compression: options.compression,
        };
        let (waker, wake) = socket::wake_pair()?;
        let mut client = Self {
            options,
            session: Session::new(config, random.u64(..)),
            clock: Clock::starting_at(Time(0)),
            inbound: Inbound::new(),
            stream: None,
            out: Vec::new(),
            written: 0,
            input: vec![0; READ_BYTES].into_boxed_slice(),
            inbox: Inbox::default(),
            wake,
            waker,
            rung: false,
            gathered: 0,
            offline_since: Some(Time(0)),
            last_failure: String::new(),
            over: None,
            last_queue: None,
        };
        while !client.session.is_up() {
            client.turn(None)?;
        }
        Ok(client)
    }

    /// What other threads ring so that a waiting call returns.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Publishes a message and waits until it is on disk. Returns its id.
    ///
    /// # Errors
    /// [`Error::Refused`] when the server would not have it; a full queue that makes its producers wait makes this
    /// call wait.
    pub fn publish(&mut self, queue: &str, message: &Message) -> Result<MessageId, Error> {
        let receipt = self.publish_pipelined(queue, message)?;
        self.wait(receipt)
    }

    /// Publishes a message without waiting for the answer; waits only for room in the publish window. Up to 64 are
    /// gathered before they are written; every waiting call writes what is gathered.
    ///
    /// # Errors
    /// As [`Client::publish`], and [`Error::Unclaimed`] when results are never taken.
    pub fn publish_pipelined(&mut self, queue: &str, message: &Message) -> Result<Receipt, Error> {
        let body = message.encode(self.session.limits().message_bytes_max as usize)?;
        self.take_publish(queue, &[], vec![body])
    }

    /// Publishes messages, all or none, without waiting for the answer. Their ids follow each other by 1 from the
    /// one that [`Client::wait`] returns.
    ///
    /// # Errors
    /// As [`Client::publish_pipelined`], and [`Error::Batch`] for a batch that one request does not hold.
    pub fn publish_batch(&mut self, queue: &str, messages: &[Message]) -> Result<Receipt, Error> {
        let bytes_max = self.session.limits().message_bytes_max as usize;
        let bodies: Result<Vec<_>, _> = messages.iter().map(|message| message.encode(bytes_max)).collect();
        self.take_publish(queue, &[], bodies?)
    }

    fn take_publish(
        &mut self,
        queue: &str,
        leases: &[LeaseId],
        bodies: Vec<Vec<u8>>,
    ) -> Result<Receipt, Error> {
        self.inbox.check_room()?;
        let queue = self.queue_name(queue)?;
        let window = *self.session.limits();
        let bytes: usize = bodies.iter().map(Vec::len).sum();
        let has_room =
            |room: super::Room| bodies.len() <= room.messages as usize && bytes <= room.bytes as usize;
        let can_ever = bytes <= window.publish_bytes_max as usize
            && bodies.len() <= window.publish_messages_max as usize;
        while can_ever && !has_room(self.session.room()) {
            self.turn(None)?;
        }
        let sequence = self.session.ack_and_publish(leases, &queue, bodies)?;
        self.gathered += 1;
        if self.gathered >= GATHERED_MAX {
            self.turn(Some(Duration::ZERO))?;
        }
        Ok(Receipt(sequence))
    }

    fn queue_name(&mut self, queue: &str) -> Result<QueueName, Error> {
        match &self.last_queue {
            Some(last) if last.as_str() == queue => Ok(last.clone()),
            _ => Ok(self.last_queue.insert(QueueName::parse(queue)?).clone()),
        }
    }

    /// Waits for the answer to one publish; returns the id of its first message.
    ///
    /// # Errors
    /// [`Error::Refused`], or the connection is over.
    pub fn wait(&mut self, receipt: Receipt) -> Result<MessageId, Error> {
        self.wait_for_answer(receipt).map(|answered| answered.first_id)
    }

    fn wait_for_answer(&mut self, receipt: Receipt) -> Result<Answered, Error> {
        loop {
            if let Some(outcome) = self.inbox.take_outcome(receipt) {
                return outcome;
            }
            if !self.session.is_unanswered(receipt.0) {
                return Err(Error::UnknownReceipt);
            }
            self.turn(None)?;
        }
    }

    /// Waits until every publish, ack, nack and extension is answered; hands out the results not taken yet.
    ///
    /// # Errors
    /// The connection is over. A refused publish is no error of this call: it is in the result.
    pub fn flush(&mut self) -> Result<Flushed, Error> {
        while self.session.unanswered() > 0 {
            self.turn(None)?;
        }
        Ok(self.inbox.take_outcomes())
    }

    /// Attaches to a queue as a consumer and waits for the server's word. At most `credit` messages are out with
    /// this client at any time.
    ///
    /// # Errors
    /// [`Error::Refused`] when the server would not have it.
    pub fn subscribe(&mut self, queue: &str, credit: u32) -> Result<SubscriptionId, Error> {
        self.subscribe_up_to(queue, credit, None)
    }

    /// As [`Client::subscribe`], for no more than `total` messages.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub fn subscribe_up_to(
        &mut self,
        queue: &str,
        credit: u32,
        total: Option<u64>,
    ) -> Result<SubscriptionId, Error> {
        let queue = QueueName::parse(queue)?;
        let max = self.session.limits().subscriptions_max as usize;
        let id = self.session.subscribe(&queue, credit, 0, total).ok_or(Error::Subscriptions(max))?;
        self.inbox.subscribing(id, queue);
        loop {
            if let Some(outcome) = self.inbox.take_subscribed(id) {
                return outcome.map(|()| id);
            }
            self.turn(None)?;
        }
    }

    /// Ends a subscription. What it delivered stays with the client.
    ///
    /// # Errors
    /// The connection is over.
    pub fn unsubscribe(&mut self, subscription: SubscriptionId) -> Result<(), Error> {
        self.session.unsubscribe(subscription, &mut self.out);
        self.turn(Some(Duration::ZERO))
    }

    /// The next message. `None` when there was none within `timeout` (`None`: no bound) or the [`Waker`] rang.
    ///
    /// # Errors
    /// The connection is over, or a subscription was refused after a reconnect.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Delivery>, Error> {
        self.next_of(timeout, Inbox::next_delivery)
    }

    fn next_of<T>(
        &mut self,
        timeout: Option<Duration>,
        take: impl Fn(&mut Inbox) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let until = timeout.map(|timeout| self.clock.time() + timeout);
        loop {
            if let Some(taken) = take(&mut self.inbox) {
                return Ok(Some(taken));
            }
            if let Some(failure) = self.inbox.take_failure() {
                return Err(failure);
            }
            // Also when it rang during another call: a wait must not begin then.
            if std::mem::take(&mut self.rung) {
                return Ok(None);
            }
            let now = self.clock.time();
            if until.is_some_and(|until| now >= until) {
                // What came at the last moment still counts.
                self.turn(Some(Duration::ZERO))?;
                return Ok(take(&mut self.inbox));
            }
            self.turn(until.map(|until| until - now))?;
        }
    }

    /// Does what is due on the connection for up to `timeout`, until something arrives or the [`Waker`] rings.
    ///
    /// # Errors
    /// The connection is over.
    pub fn drive(&mut self, timeout: Duration) -> Result<(), Error> {
        self.turn(Some(timeout))?;
        self.rung = false;
        Ok(())
    }

    /// The work is done. Written at once; [`Client::flush`] waits for the answer, after which the message is never
    /// delivered again.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when it was acked or nacked before.
    pub fn ack(&mut self, lease: LeaseId) -> Result<(), Error> {
        self.settle(lease, Settlement::Ack)
    }

    /// The work failed; the message is retried or becomes a dead letter.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when it was acked or nacked before.
    pub fn nack(&mut self, lease: LeaseId, nack: Nack) -> Result<(), Error> {
        let Nack { error, delay, reject } = nack;
        self.settle(lease, Settlement::Nack { delay, error, reject })
    }

    /// The work takes longer: the lease is to last this long from now.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when it was acked or nacked before, or the lease is known to be over.
    pub fn extend(&mut self, lease: LeaseId, by: Duration) -> Result<(), Error> {
        self.settle(lease, Settlement::Extend { lease: by })
    }

    fn settle(&mut self, lease: LeaseId, settlement: Settlement) -> Result<(), Error> {
        if !self.session.settle(lease, settlement) {
            return Err(Error::NotHeld);
        }
        self.turn(Some(Duration::ZERO))
    }

    /// Sends a heartbeat, with telemetry if there is some, and waits for its answer: the round trip, in whole
    /// milliseconds.
    ///
    /// # Errors
    /// The connection is over.
    pub fn ping(&mut self, telemetry: Option<&proto::Ping>) -> Result<Duration, Error> {
        loop {
            while !self.session.is_up() {
                self.turn(None)?;
            }
            let (before, sent) = (self.inbox.pongs(), self.clock.time());
            self.session.ping(sent, telemetry, &mut self.out);
            self.session.ask_for_pong(sent, &mut self.out);
            while self.session.is_up() {
                self.turn(None)?;
                if self.inbox.pongs() > before {
                    return Ok(self.clock.time() - sent);
                }
            }
        }
    }

    /// Messages delivered to this client and not acked or nacked.
    #[must_use]
    pub fn held(&self) -> usize {
        self.session.held()
    }

    /// Publishes, acks, nacks and extensions without an answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.session.unanswered()
    }

    /// Waits up to `within` for every answer, then says BYE: the session ends and whatever it still holds is free
    /// for others. Hands out the results that were not taken.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when something was left unanswered; the client said BYE all the same.
    pub fn close(mut self, within: Duration) -> Result<Flushed, Error> {
        let until = self.clock.time() + within;
        while self.session.unanswered() > 0 && self.clock.time() < until {
            let left = until - self.clock.time();
            self.turn(Some(left))?;
        }
        let unanswered = self.session.unanswered();
        self.session.bye(&mut self.out);
        while self.stream.is_some() && self.written < self.out.len() && self.clock.time() < until {
            let left = until - self.clock.time();
            self.write();
            if let Some(stream) = &self.stream
                && self.written < self.out.len()
            {
                wait(Some((stream, true)), &self.wake, Some(left))?;
            }
        }
        if let Some(stream) = &self.stream {
            // Nothing more is wanted from a connection that ends; a failure here changes nothing.
            let _ = stream.shutdown(Shutdown::Write);
        }
        if unanswered > 0 { Err(Error::TimedOut(within)) } else { Ok(self.inbox.take_outcomes()) }
    }

    /// One round: connect if it is time, write, wait for up to `timeout`, read.
    fn turn(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        if let Some(over) = &self.over {
            return Err(Error::Ended { why: over.clone() });
        }
        self.check_offline()?;
        match self.session.link() {
            Link::Over => Err(Error::Ended { why: self.over.clone().unwrap_or(Ended::Bye) }),
            Link::Close => {
                self.write();
                self.disconnect()
            }
            Link::Connect { at } => {
                let now = self.clock.time();
                if now >= at {
                    return self.try_connect();
                }
                let wait_for = timeout.map_or(at - now, |timeout| timeout.min(at - now));
                let ready = wait(None, &self.wake, Some(wait_for))?;
                self.note(ready);
                Ok(())
            }
            Link::Open => self.exchange(timeout),
        }
    }

    fn exchange(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        self.inbox.start_round();
        self.send();
        let now = self.clock.time();
        let until_deadline = self.session.next_deadline().map(|deadline| deadline - now);
        let wait_for = if self.inbox.has_news() {
            Some(Duration::ZERO)
        } else {
            timeout.into_iter().chain(until_deadline).min()
        };
        let Some(stream) = &self.stream else { return self.disconnect() };
        let is_writing = self.written < self.out.len();
        let ready = wait(Some((stream, is_writing)), &self.wake, wait_for)?;
        self.note(ready);
        if ready.readable && !self.read() {
            return self.disconnect();
        }
        // After reading, so that what waited in the socket counts as heard.
        self.session.handle_timeout(self.clock.time(), &mut self.out);
        self.send();
        if self.session.link() != Link::Open {
            self.write();
            return self.disconnect();
        }
        Ok(())
    }

    /// Keeps in mind that the waker rang, whichever call was waiting.
    fn note(&mut self, ready: Readiness) {
        if ready.woken {
            self.wake.silence();
            self.rung = true;
        }
    }

    /// Encodes what the session wants to send and writes as much as the socket takes.
    fn send(&mut self) {
        self.gathered = 0;
        loop {
            let before = self.out.len();
            self.session.transmit(&mut self.out);
            let has_more = self.out.len() > before;
            self.write();
            // A session gives a part of what it has at a time; while the socket takes all of it, there may be more.
            if !has_more || !self.out.is_empty() {
                break;
            }
        }
        // Requests that were refused before they were sent are told here.
        self.take_events(&[]);
    }

    fn write(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while self.written < self.out.len() {
            match stream.write(&self.out[self.written..]) {
                Ok(written) if written > 0 => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A broken socket is found by reading, which also finds what the server said before it closed.
                _ => break,
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
    }

    /// Reads until the socket has nothing more. False when it is closed or broken.
    fn read(&mut self) -> bool {
        loop {
            let Some(stream) = &mut self.stream else { return false };
            match stream.read(&mut self.input) {
                Ok(0) => return false,
                Ok(read) => {
                    let input = std::mem::take(&mut self.input);
                    self.take_events(&input[..read]);
                    self.input = input;
                    if read < READ_BYTES {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    self.last_failure = error.to_string();
                    return false;
                }
            }
        }
    }

    fn take_events(&mut self, mut bytes: &[u8]) {
        let now = self.clock.time();
        while let Some(event) = self.session.next_event(now, &mut self.inbound, &mut bytes) {
            let notice = self.inbox.take(event);
            if let Some(notice) = notice {
                if matches!(notice, Notice::Connected { .. }) {
                    self.offline_since = None;
                }
                self.tell(&notice);
            }
        }
        for lease in self.inbox.take_undecodable() {
            let error = "the message does not decode".to_owned();
            self.session.settle(lease, Settlement::Nack { delay: None, error, reject: true });
        }
    }

    fn try_connect(&mut self) -> Result<(), Error> {
        match connect(&self.options.address, self.options.connect_timeout) {
            Ok(stream) => {
                self.out.clear();
                self.written = 0;
                self.session.connected(self.clock.time(), &mut self.out);
                self.stream = Some(stream);
                Ok(())
            }
            Err(source) => {
                self.last_failure = source.to_string();
                if !self.options.retry_first && !self.session.has_been_up() {
                    return Err(Error::Unreachable { address: self.options.address.clone(), source });
                }
                self.disconnect()
            }
        }
    }

    /// Drops the socket and asks the session what follows.
    fn disconnect(&mut self) -> Result<(), Error> {
        self.stream = None;
        self.out.clear();
        self.written = 0;
        let now = self.clock.time();
        let Lost { why, verdict } = self.session.lost(now);
        self.offline_since.get_or_insert(now);
        let described = match (&why, self.last_failure.is_empty()) {
            (Ended::Broke, false) => self.last_failure.clone(),
            _ => why.to_string(),
        };
        self.last_failure.clear();
        match verdict {
            Verdict::Retry { after, failures, .. } => {
                let address = self.options.address.clone();
                self.tell(&Notice::Retrying { address, why: described.clone(), after, failures });
                self.last_failure = described;
                Ok(())
            }
            Verdict::Final => {
                self.over = Some(why.clone());
                Err(Error::Ended { why })
            }
        }
    }

    fn check_offline(&self) -> Result<(), Error> {
        let (Some(since), Some(max)) = (self.offline_since, self.options.offline_max) else { return Ok(()) };
        let offline = self.clock.time() - since;
        if offline < max {
            return Ok(());
        }
        let (address, why) = (self.options.address.clone(), self.last_failure.clone());
        Err(Error::Offline { address, offline, why })
    }

    fn tell(&mut self, notice: &Notice) {
        if let Some(on_notice) = &mut self.options.on_notice {
            on_notice(notice);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
