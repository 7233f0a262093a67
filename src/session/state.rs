//! The states of a session and what leads from one to the next.
//!
//! ```text
//! AwaitingHello ─hello→ AwaitingAttach ─welcome→ Live ─leave→ Leaving
//!       │                │ put_off ↓↑ admitted │              │
//!       │                │ AwaitingAdmission   │              │
//!       └────────────────┴────────close────────┴──────────────┴──→ Closing
//! ```

use std::time::Duration;

use crate::clock::Time;
use crate::config::Auth;
use crate::ids::{ClientId, Namespace, QueueName};
use crate::limits;
use crate::mail::{Attached, Resume};
use crate::session::pace::Pace;
use crate::session::{Denied, Hello, Publishing, Reason, Request, ResumeKey, Stretch, TOKEN_BYTES, Verdict};

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The client has said nothing yet.
    AwaitingHello,
    /// The client proved who it is and waits for its turn among those that come in. Nothing of it is read meanwhile.
    AwaitingAdmission,
    /// The client proved who it is; its shard has not taken it in yet.
    AwaitingAttach,
    /// Requests.
    Live,
    /// The client was told to go; what is unanswered is still answered.
    Leaving,
    /// Nothing more; the last words are on their way.
    Closing,
}

/// What all sessions of a server have in common.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Who may come in.
    pub auth: Auth,
    /// Makes and checks resume tokens.
    pub resume_key: ResumeKey,
    /// The heartbeat of a client that wants none in particular.
    pub heartbeat: Duration,
    /// The shortest that is agreed to.
    pub heartbeat_min: Duration,
    /// The longest that is agreed to or asked for.
    pub heartbeat_max: Duration,
    /// Every so manieth PING is answered at the least, 1 to 16, with clients that want no more.
    pub pong_every_max: u32,
    /// Publish window: messages unanswered at once.
    pub publish_messages_max: u32,
    /// Publish window: bytes unanswered at once.
    pub publish_bytes_max: u32,
    /// Requests other than publishes unanswered at once.
    pub requests_max: u16,
    /// Whether frames may be compressed with clients that can.
    pub compression: bool,
}

/// A client that proved who it is, to be attached to its shard.
#[derive(Debug)]
pub struct Attachment {
    /// Its tenant.
    pub namespace: Namespace,
    /// Its name.
    pub client: ClientId,
    /// What it brings back, when its token is authentic.
    pub resume: Option<Resume>,
}

/// What the client is told when its shard has taken it in.
#[derive(Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The interval in milliseconds, as agreed or longer.
    pub heartbeat_ms: u32,
    /// Every so manieth PING is answered.
    pub pong_every: u32,
    /// Whether frames may be compressed.
    pub compression: bool,
    /// To come back with.
    pub resume_token: [u8; TOKEN_BYTES],
}

/// One client. A million of them lie side by side: every byte counts.
#[derive(Debug)]
pub struct Session {
    /// Before WELCOME: the accept. While live: when the client was last heard. After: when that state began.
    mark: Time,
    /// The next request's number.
    next_seq: u64,
    /// As agreed.
    heartbeat_ms: u32,
    unanswered_messages: u32,
    unanswered_bytes: u32,
    unanswered_publishes: u32,
    unanswered_requests: u16,
    phase: Phase,
    compression: bool,
    pace: Pace,
}

impl Session {
    /// A session whose connection was accepted at `now`.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            mark: now,
            next_seq: 1,
            heartbeat_ms: 0,
            unanswered_messages: 0,
            unanswered_bytes: 0,
            unanswered_publishes: 0,
            unanswered_requests: 0,
            phase: Phase::AwaitingHello,
            compression: false,
            pace: Pace::new(),
        }
    }

    /// What it waits for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it was welcomed and may be served.
    #[must_use]
    pub fn is_served(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Leaving)
    }

    /// When it was last heard, or when its state began.
    #[must_use]
    pub fn mark(&self) -> Time {
        self.mark
    }

    /// Whether compressed frames may come and go.
    #[must_use]
    pub fn may_compress(&self) -> bool {
        self.compression && self.is_served()
    }

    /// The interval agreed on with HELLO, in milliseconds.
    #[must_use]
    pub fn heartbeat_ms(&self) -> u32 {
        self.heartbeat_ms
    }

    /// The interval by which its silence is measured, in milliseconds: as agreed, or as it was asked for since.
    #[inline]
    fn interval_ms(&self, rules: &Rules) -> u32 {
        self.pace.interval_ms(self.heartbeat_ms, millis(rules.heartbeat_max))
    }

    /// How long its silence lasts before the connection is taken for dead.
    #[must_use]
    pub fn silence_max(&self, rules: &Rules) -> Duration {
        Duration::from_millis(u64::from(self.interval_ms(rules))) * limits::HEARTBEATS_MISSED_MAX
    }

    /// A whole frame came, or the clock starts anew because reading was stopped. Returns how long after the one before, in
    /// milliseconds.
    #[inline]
    pub fn heard(&mut self, now: Time) -> u64 {
        if self.phase != Phase::Live {
            return 0;
        }
        let gap_ms = self.mark.millis_until(now);
        self.mark = now;
        gap_ms
    }

    /// What was heard `gap_ms` after what came before is a PING. Returns how far past its interval it came, in
    /// milliseconds, and whether it shows that the client follows a shorter interval, so that its deadline is earlier now.
    #[inline]
    pub fn heartbeat(&mut self, gap_ms: u64, rules: &Rules) -> (u64, bool) {
        let late_ms = gap_ms.saturating_sub(u64::from(self.interval_ms(rules)));
        (late_ms, self.pace.follows(gap_ms, self.heartbeat_ms, millis(rules.heartbeat_max)))
    }

    /// Counts a PING; whether it is answered.
    #[inline]
    pub fn answers_ping(&mut self) -> bool {
        self.pace.ping()
    }

    /// The interval to ask for in a PONG so that it comes to `stretch`, in milliseconds; `None` when there is nothing to
    /// say. It counts as said.
    #[inline]
    pub fn ask_interval(&mut self, stretch: Stretch, rules: &Rules) -> Option<u32> {
        if self.phase != Phase::Live {
            return None;
        }
        self.pace.ask(stretch, self.heartbeat_ms, millis(rules.heartbeat_max))
    }

    /// The client says who it is.
    ///
    /// # Errors
    /// It said so before, a name is none, or the credential does not open the namespace.
    pub fn hello(&mut self, hello: Hello<'_>, rules: &Rules) -> Result<Attachment, Denied> {
        if self.phase != Phase::AwaitingHello {
            return Err(denied(
                Reason::Unexpected,
                "HELLO was said before; it is the first frame only".into(),
            ));
        }
        let invalid = |error: crate::ids::NameError| denied(Reason::Invalid, error.to_string());
        let namespace = if hello.namespace.is_empty() { Namespace::DEFAULT } else { hello.namespace };
        let namespace = Namespace::parse(namespace).map_err(invalid)?;
        let client = ClientId::parse(hello.client_id).map_err(invalid)?;
        if !rules.auth.allows(&namespace, hello.credential) {
            let text = "the credential does not open this namespace; give the token of this server".into();
            return Err(denied(Reason::Unauthenticated, text));
        }
        let leases = hello.leases;
        let resume = rules
            .resume_key
            .verify(hello.resume_token, &namespace, &client)
            .map(|(epoch, session_id)| Resume { epoch, session_id, leases });
        self.heartbeat_ms = agreed_heartbeat_ms(hello.heartbeat_ms, rules);
        let pong_every = hello.pong_every.min(rules.pong_every_max).min(u32::from(u8::MAX));
        self.pace.answer_every(pong_every as u8);
        self.compression = hello.compression && rules.compression;
        self.phase = Phase::AwaitingAttach;
        Ok(Attachment { namespace, client, resume })
    }

    /// The client, which said HELLO, waits for its turn.
    pub fn put_off(&mut self) {
        if self.phase == Phase::AwaitingAttach {
            self.phase = Phase::AwaitingAdmission;
        }
    }

    /// Its turn has come. False when it does not wait for it.
    pub fn admitted(&mut self) -> bool {
        let is_awaited = self.phase == Phase::AwaitingAdmission;
        if is_awaited {
            self.phase = Phase::AwaitingAttach;
        }
        is_awaited
    }

    /// The shard has taken the client in, whose interval is to be longer by `stretch` from the start. `None` when that was
    /// not awaited.
    pub fn welcome(
        &mut self,
        now: Time,
        attached: &Attached,
        stretch: Stretch,
        rules: &Rules,
    ) -> Option<Welcome> {
        if self.phase != Phase::AwaitingAttach {
            return None;
        }
        self.phase = Phase::Live;
        self.mark = now;
        self.pace.begin(stretch);
        let Attached { namespace, client, epoch, session_id, .. } = attached;
        let resume_token = rules.resume_key.issue(namespace, client, *epoch, *session_id);
        Some(Welcome {
            heartbeat_ms: self.interval_ms(rules),
            pong_every: u32::from(self.pace.pong_every()),
            compression: self.compression,
            resume_token,
        })
    }

    /// Judges a request and, when it passes, counts it as unanswered.
    ///
    /// # Errors
    /// The client broke the protocol: it is told and the connection closes.
    #[inline]
    pub fn admit(&mut self, request: &Request, rules: &Rules) -> Result<Verdict, Denied> {
        match request {
            Request::Publish(publish) => self.admit_publish(publish, rules),
            Request::Part { bytes } => {
                self.open_window(0, *bytes, rules)?;
                Ok(Verdict::Pass)
            }
            Request::Settle(settle) => {
                self.take_seq(settle.seq)?;
                self.open_request(rules)
            }
            Request::Subscribe(subscribe) => {
                self.take_seq(subscribe.seq)?;
                match subscribe_fault(&subscribe.queue, subscribe.credit_messages) {
                    Some(text) => Ok(Verdict::Refuse(text)),
                    None => self.open_request(rules),
                }
            }
            Request::Unsubscribe { seq, .. } => {
                self.take_seq(*seq)?;
                self.open_request(rules)
            }
            Request::Credit { messages, .. } if *messages > limits::CREDIT_MESSAGES_MAX => {
                Err(denied(Reason::Invalid, credit_text(*messages)))
            }
            Request::Credit { .. } | Request::Ping | Request::Bye { .. } => Ok(Verdict::Pass),
        }
    }

    #[inline]
    fn admit_publish(&mut self, publish: &Publishing, rules: &Rules) -> Result<Verdict, Denied> {
        self.take_seq(publish.seq)?;
        if let Err(error) = &publish.queue {
            return Ok(Verdict::Refuse(error.to_string()));
        }
        self.open_window(publish.messages, publish.bytes, rules)?;
        self.unanswered_publishes += 1;
        Ok(Verdict::Pass)
    }

    /// Takes this much of the publish window; [`Session::publishes_answered`] gives it back.
    #[inline]
    fn open_window(&mut self, messages: u32, bytes: u32, rules: &Rules) -> Result<(), Denied> {
        let messages = self.unanswered_messages.saturating_add(messages);
        let bytes = self.unanswered_bytes.saturating_add(bytes);
        if messages > rules.publish_messages_max || bytes > rules.publish_bytes_max {
            return Err(denied(
                Reason::WindowExceeded,
                format!(
                    "{messages} messages of {bytes} bytes would be unanswered; the publish window is {} messages \
                     and {} bytes",
                    rules.publish_messages_max, rules.publish_bytes_max
                ),
            ));
        }
        self.unanswered_messages = messages;
        self.unanswered_bytes = bytes;
        Ok(())
    }

    #[inline]
    fn take_seq(&mut self, found: u64) -> Result<(), Denied> {
        if found != self.next_seq {
            let text = format!("seq is {found}; expected is {}, each request's is one higher", self.next_seq);
            return Err(denied(Reason::Invalid, text));
        }
        self.next_seq += 1;
        Ok(())
    }

    #[inline]
    fn open_request(&mut self, rules: &Rules) -> Result<Verdict, Denied> {
        if self.unanswered_requests >= rules.requests_max {
            let text = format!("more than {} requests would be unanswered", rules.requests_max);
            return Err(denied(Reason::WindowExceeded, text));
        }
        self.unanswered_requests += 1;
        Ok(Verdict::Pass)
    }

    /// Publishes were answered.
    #[inline]
    pub fn publishes_answered(&mut self, publishes: u32, messages: u32, bytes: u32) {
        self.unanswered_publishes = self.unanswered_publishes.saturating_sub(publishes);
        self.unanswered_messages = self.unanswered_messages.saturating_sub(messages);
        self.unanswered_bytes = self.unanswered_bytes.saturating_sub(bytes);
    }

    /// Other requests were answered.
    #[inline]
    pub fn requests_answered(&mut self, requests: u32) {
        let requests = u16::try_from(requests).unwrap_or(u16::MAX);
        self.unanswered_requests = self.unanswered_requests.saturating_sub(requests);
    }

    /// Whether it waits for publishes, which may wait in turn for room in their queue.
    #[must_use]
    pub fn has_unanswered_publishes(&self) -> bool {
        self.unanswered_publishes > 0
    }

    /// Requests of any kind that have no answer yet.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered_publishes as usize + usize::from(self.unanswered_requests)
    }

    /// The client was told to go and has until later to see its answers.
    pub fn leave(&mut self, now: Time) {
        self.phase = Phase::Leaving;
        self.mark = now;
    }

    /// Nothing is served any more. Returns the state it ends in.
    pub fn close(&mut self, now: Time) -> Phase {
        self.mark = now;
        std::mem::replace(&mut self.phase, Phase::Closing)
    }
}

fn agreed_heartbeat_ms(wanted_ms: u32, rules: &Rules) -> u32 {
    let wanted = if wanted_ms == 0 { rules.heartbeat } else { Duration::from_millis(u64::from(wanted_ms)) };
    millis(wanted.max(rules.heartbeat_min).min(rules.heartbeat_max))
}

#[inline]
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn subscribe_fault(queue: &Result<QueueName, crate::ids::NameError>, credit_messages: u32) -> Option<String> {
    match queue {
        // A topic takes no credit, whatever it says.
        Ok(queue) if queue.topic().is_some() => None,
        Ok(_) => (credit_messages > limits::CREDIT_MESSAGES_MAX).then(|| credit_text(credit_messages)),
        Err(error) => Some(error.to_string()),
    }
}

fn credit_text(found: u32) -> String {
    format!("a credit of {found} messages is not allowed; at most {} are", limits::CREDIT_MESSAGES_MAX)
}

fn denied(reason: Reason, text: String) -> Denied {
    Denied { reason, text }
}

const _: () = assert!(size_of::<Session>() <= 40);
