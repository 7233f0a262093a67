//! A message as a producer builds it and a consumer receives it. Encoded once; limits are checked before it is sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;

use crate::limits;
use crate::wire::proto;

/// What is published: a payload and how to treat it.
///
/// ```
/// use relaymesh::client::Message;
/// use std::time::Duration;
/// let message = Message::new("resize 17").priority(7).delay(Duration::from_secs(10)).attribute("kind", "image");
/// assert_eq!(message.payload(), b"resize 17");
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Message(proto::Message);

/// Why a message cannot be published. All are the caller's to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Payload and attributes are larger than the server takes.
    #[error(
        "the message has {bytes} bytes encoded; at most {max} are allowed: split it or store it elsewhere"
    )]
    TooLarge {
        /// Its encoded size in bytes.
        bytes: usize,
        /// Largest encoded message in bytes.
        max: usize,
    },
    /// The payload is larger than any server takes.
    #[error(
        "the payload has {0} bytes; at most {max} are allowed: split it or store it elsewhere",
        max = limits::PAYLOAD_BYTES_MAX
    )]
    Payload(usize),
    /// Too many attributes.
    #[error("the message has {count} attributes; at most {} are allowed", limits::ATTRIBUTES_MAX)]
    Attributes {
        /// How many it has.
        count: usize,
    },
    /// An attribute is too long.
    #[error(
        "attribute {name:?} has {bytes} bytes with its value; at most {} are allowed",
        limits::ATTRIBUTE_BYTES_MAX
    )]
    Attribute {
        /// Its name.
        name: String,
        /// Name and value together.
        bytes: usize,
    },
    /// A priority outside 0 to 9.
    #[error("priority {0} is not allowed; it goes from 0 to 9, higher first")]
    Priority(u32),
    /// A delay beyond the longest.
    #[error("a delay of {0} ms is too long; at most 366 days are allowed")]
    Delay(u64),
    /// Attempts above the limit.
    #[error("{0} attempts are too many; at most {max} are allowed", max = limits::ATTEMPTS_MAX)]
    Attempts(u32),
    /// A key or an id that is too long.
    #[error("the {name} has {bytes} bytes; at most {max} are allowed")]
    Key {
        /// Which.
        name: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// Longest allowed length in bytes.
        max: usize,
    },
    /// A lease beyond the longest.
    #[error("a lease of {0} ms is too long; at most 12 h are allowed")]
    Lease(u32),
    /// How to retry it lies outside its bounds.
    #[error("{name} = {value} is not allowed; it goes from {min} to {max}")]
    Retry {
        /// Which field.
        name: &'static str,
        /// What it holds.
        value: u64,
        /// Lowest allowed value.
        min: u64,
        /// Highest allowed value.
        max: u64,
    },
    /// A trace context beyond its limit.
    #[error("the trace context has {0} bytes; at most {max} are allowed", max = limits::TRACE_CONTEXT_BYTES_MAX)]
    TraceContext(usize),
}

impl Message {
    /// A message with this payload and every other field at its default.
    #[must_use]
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self(proto::Message { payload: payload.into(), ..proto::Message::default() })
    }

    /// 0 to 9, higher first; 4 if not set.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.priority = u32::from(priority) + 1;
        self
    }

    /// Deliver no sooner than this after the publish; at most 366 days.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.delay_ms = millis(delay);
        self
    }

    /// Deliver no sooner than this wall-clock time. A time before 1970 counts as no due time.
    #[must_use]
    pub fn due(mut self, due: SystemTime) -> Self {
        self.0.due_unix_ms = millis(due.duration_since(UNIX_EPOCH).unwrap_or_default());
        self
    }

    /// Becomes a dead letter, reason `expired`, when not done in this time; the queue's default if not set.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl_ms = millis(ttl);
        self
    }

    /// Attempts before it becomes a dead letter, 1 to 1,000; the queue's default if not set.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.0.attempts_max = attempts;
        self
    }

    /// Messages of a queue with the same ordering key are delivered one at a time, in order; at most 128 bytes.
    #[must_use]
    pub fn order_key(mut self, key: impl Into<String>) -> Self {
        self.0.order_key = key.into();
        self
    }

    /// Whose turn its delivery counts as: the fairness keys of a queue are served in turn; at most 64 bytes.
    #[must_use]
    pub fn fair_key(mut self, key: impl Into<String>) -> Self {
        self.0.fair_key = key.into();
        self
    }

    /// Within the queue's window a message with the same id is not kept again; at most 128 bytes.
    #[must_use]
    pub fn dedup_id(mut self, id: impl Into<String>) -> Self {
        self.0.dedup_id = id.into();
        self
    }

    /// How long its leases last, at most 12 h; as the queue says if not set.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.0.lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        self
    }

    /// The first retry delay, at most 30 days; as the queue says if not set, like the next three.
    #[must_use]
    pub fn retry_initial(mut self, delay: Duration) -> Self {
        self.0.retry.get_or_insert_default().initial_ms = Some(millis(delay));
        self
    }

    /// Each further retry delay in percent of the one before, 100 to 1,000.
    #[must_use]
    pub fn retry_factor(mut self, percent: u32) -> Self {
        self.0.retry.get_or_insert_default().factor_percent = Some(percent);
        self
    }

    /// The longest retry delay, before jitter; at most 30 days.
    #[must_use]
    pub fn retry_max(mut self, delay: Duration) -> Self {
        self.0.retry.get_or_insert_default().max_ms = Some(millis(delay));
        self
    }

    /// Up to this part of a retry delay is added at random, in percent, 0 to 100.
    #[must_use]
    pub fn retry_jitter(mut self, percent: u32) -> Self {
        self.0.retry.get_or_insert_default().jitter_percent = Some(percent);
        self
    }

    /// Adds an attribute, or replaces the one of that name.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.attributes.insert(name.into(), value.into());
        self
    }

    /// W3C `traceparent`, at most 256 bytes.
    #[must_use]
    pub fn trace(mut self, trace_context: impl Into<String>) -> Self {
        self.0.trace_context = trace_context.into();
        self
    }

    /// What comes of this message for the next queue it goes to: another payload with the same attributes, priority, keys and
    /// trace context. When and how often it is tried is that queue's affair.
    #[must_use]
    pub fn with_payload(&self, payload: impl Into<Vec<u8>>) -> Self {
        Self(proto::Message {
            payload: payload.into(),
            attributes: self.0.attributes.clone(),
            priority: self.0.priority,
            trace_context: self.0.trace_context.clone(),
            order_key: self.0.order_key.clone(),
            fair_key: self.0.fair_key.clone(),
            ..proto::Message::default()
        })
    }

    /// The payload's bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.payload
    }

    /// Name and value of every attribute, in no order.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The message with every field, as it is on the wire.
    #[must_use]
    pub fn as_proto(&self) -> &proto::Message {
        &self.0
    }

    /// The bytes that are published, after every limit a server holds was checked. `bytes_max` is the largest
    /// encoded message, as WELCOME told ([`limits::MESSAGE_BYTES_MAX`] unless configured).
    ///
    /// # Errors
    /// [`MessageError`] names the field and what is allowed.
    pub fn encode(&self, bytes_max: usize) -> Result<Vec<u8>, MessageError> {
        let message = &self.0;
        if message.priority > limits::PRIORITIES as u32 {
            return Err(MessageError::Priority(message.priority - 1));
        }
        if message.delay_ms > millis(limits::DELAY_MAX) {
            return Err(MessageError::Delay(message.delay_ms));
        }
        if message.attempts_max > limits::ATTEMPTS_MAX {
            return Err(MessageError::Attempts(message.attempts_max));
        }
        if message.attributes.len() > limits::ATTRIBUTES_MAX {
            return Err(MessageError::Attributes { count: message.attributes.len() });
        }
        let length = |(name, value): (&String, &String)| name.len() + value.len();
        if let Some(long) = message.attributes.iter().find(|&a| length(a) > limits::ATTRIBUTE_BYTES_MAX) {
            return Err(MessageError::Attribute { name: long.0.clone(), bytes: length(long) });
        }
        if message.trace_context.len() > limits::TRACE_CONTEXT_BYTES_MAX {
            return Err(MessageError::TraceContext(message.trace_context.len()));
        }
        check_options(message)?;
        if message.payload.len() > limits::PAYLOAD_BYTES_MAX {
            return Err(MessageError::Payload(message.payload.len()));
        }
        let bytes = message.encoded_len();
        if bytes > bytes_max {
            return Err(MessageError::TooLarge { bytes, max: bytes_max });
        }
        Ok(message.encode_to_vec())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        proto::Message::decode(bytes).map(Self)
    }
}

fn check_options(message: &proto::Message) -> Result<(), MessageError> {
    let keys = [
        ("ordering key", &message.order_key, limits::ORDER_KEY_BYTES_MAX),
        ("fairness key", &message.fair_key, limits::FAIR_KEY_BYTES_MAX),
        ("deduplication id", &message.dedup_id, limits::DEDUP_ID_BYTES_MAX),
    ];
    if let Some((name, key, max)) = keys.into_iter().find(|(_, key, max)| key.len() > *max) {
        return Err(MessageError::Key { name, bytes: key.len(), max });
    }
    if u64::from(message.lease_ms) > millis(limits::LEASE_MAX) {
        return Err(MessageError::Lease(message.lease_ms));
    }
    let Some(retry) = &message.retry else { return Ok(()) };
    let (factor_min, factor_max) = limits::BACKOFF_FACTOR_PERCENT;
    let delay_max = millis(limits::NACK_DELAY_MAX);
    let bounds = [
        ("the first retry delay in ms", retry.initial_ms, 0, delay_max),
        (
            "the retry factor in percent",
            retry.factor_percent.map(u64::from),
            factor_min.into(),
            factor_max.into(),
        ),
        ("the longest retry delay in ms", retry.max_ms, 0, delay_max),
        ("the retry jitter in percent", retry.jitter_percent.map(u64::from), 0, 100),
    ];
    for (name, value, min, max) in bounds {
        if let Some(value) = value.filter(|value| !(min..=max).contains(value)) {
            return Err(MessageError::Retry { name, value, min, max });
        }
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
