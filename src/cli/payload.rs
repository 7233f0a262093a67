//! What is published: where the payload comes from, and the options of a message.

use std::fs;
use std::io::{IsTerminal, Read};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};

use super::values::{
    parse_attribute, parse_duration, parse_lease, parse_text, parse_time, parse_ttl, refuse_repeated,
};
use crate::client::Message;
use crate::config::units::show_size;
use crate::limits;

/// A message as the command line describes it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct MessageArgs {
    /// The payload itself, `-` for stdin, or `@FILE` for a file's content; at most 16 MiB, of a schedule a little less
    /// than 64 KiB. Without it stdin is read, unless that is a terminal.
    #[arg(value_name = "PAYLOAD|-|@FILE")]
    pub(super) payload: Option<String>,
    /// Deliver no sooner than in this long, such as 10s, 5m or 2h.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = parse_duration,
        allow_hyphen_values = true,
        conflicts_with = "at"
    )]
    pub(super) delay: Option<Duration>,
    /// Deliver no sooner than at this time: 2027-01-31T18:00:00Z, or without zone in local time.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub(super) at: Option<SystemTime>,
    /// 0 to 9, higher first; 4 if not given.
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u8).range(0..=9),
        allow_negative_numbers = true
    )]
    pub(super) priority: Option<u8>,
    /// Make it a dead letter when it is not done in this time, such as 1h.
    #[arg(long, value_name = "TIME", value_parser = parse_ttl, allow_hyphen_values = true)]
    pub(super) ttl: Option<Duration>,
    /// Attempts before it becomes a dead letter, 1 to 1000; the queue's own number if not given.
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::ATTEMPTS_MAX)),
        allow_negative_numbers = true
    )]
    pub(super) attempts: Option<u32>,
    /// Messages with the same key are delivered one at a time, in order; at most 128 bytes.
    #[arg(long, value_name = "KEY", value_parser = parse_text)]
    pub(super) order_key: Option<String>,
    /// The fairness keys of a queue are served in turn, whatever waits behind each; at most 64 bytes.
    #[arg(long, value_name = "KEY", value_parser = parse_text)]
    pub(super) fair_key: Option<String>,
    /// Within the queue's window a message with the same id is not kept again: the id of the first one is printed.
    #[arg(long, value_name = "ID", value_parser = parse_text)]
    pub(super) dedup: Option<String>,
    /// How long its leases last, such as 5m, 100ms at the least; as the queue says if not given.
    #[arg(long, value_name = "TIME", value_parser = parse_lease, allow_hyphen_values = true)]
    pub(super) lease: Option<Duration>,
    /// How long it waits after the first attempt that failed, such as 10s; as the queue says if not given.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    pub(super) retry_delay: Option<Duration>,
    /// Each further such delay in percent of the one before, 100 to 1000; as the queue says if not given.
    #[arg(
        long,
        value_name = "PERCENT",
        value_parser = clap::value_parser!(u32).range(100..=1000),
        allow_negative_numbers = true
    )]
    pub(super) retry_factor: Option<u32>,
    /// The longest such delay; as the queue says if not given.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    pub(super) retry_max: Option<Duration>,
    /// The random part added to such a delay, in percent, 0 to 100; as the queue says if not given.
    #[arg(
        long,
        value_name = "PERCENT",
        value_parser = clap::value_parser!(u32).range(0..=100),
        allow_negative_numbers = true
    )]
    pub(super) retry_jitter: Option<u32>,
    /// An attribute, name=value. May be given several times, each name once.
    #[arg(long = "attr", value_name = "NAME=VALUE", value_parser = parse_attribute)]
    pub(super) attributes: Vec<(String, String)>,
}

impl MessageArgs {
    /// Reads the payload and puts the message together.
    pub(super) fn into_message(self) -> anyhow::Result<Message> {
        let mut message = Message::new(read_payload(self.payload.as_deref(), Room::MESSAGE)?);
        if let Some(delay) = self.delay {
            message = message.delay(delay);
        }
        if let Some(at) = self.at {
            message = message.due(at);
        }
        if let Some(priority) = self.priority {
            message = message.priority(priority);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        if let Some(attempts) = self.attempts {
            message = message.attempts(attempts);
        }
        refuse_repeated_attributes(&self.attributes)?;
        for (name, value) in self.attributes.clone() {
            message = message.attribute(name, value);
        }
        Ok(self.with_options(message))
    }

    fn with_options(self, mut message: Message) -> Message {
        if let Some(key) = self.order_key {
            message = message.order_key(key);
        }
        if let Some(key) = self.fair_key {
            message = message.fair_key(key);
        }
        if let Some(id) = self.dedup {
            message = message.dedup_id(id);
        }
        if let Some(lease) = self.lease {
            message = message.lease(lease);
        }
        if let Some(delay) = self.retry_delay {
            message = message.retry_initial(delay);
        }
        if let Some(percent) = self.retry_factor {
            message = message.retry_factor(percent);
        }
        if let Some(delay) = self.retry_max {
            message = message.retry_max(delay);
        }
        if let Some(percent) = self.retry_jitter {
            message = message.retry_jitter(percent);
        }
        message
    }
}

pub(super) fn refuse_repeated_attributes(attributes: &[(String, String)]) -> anyhow::Result<()> {
    refuse_repeated("attribute", attributes.iter().map(|(name, _)| name.as_str()))
}

/// What a payload is for, and the most bytes that holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    name: &'static str,
    bytes_max: usize,
}

impl Room {
    pub(super) const MESSAGE: Self = Self { name: "one message", bytes_max: limits::PAYLOAD_BYTES_MAX };
    /// What it holds beside the payload is for the server to count.
    pub(super) const SCHEDULE: Self =
        Self { name: "the message of a schedule", bytes_max: limits::SCHEDULE_MESSAGE_BYTES_MAX };

    /// A payload that does not fit is refused before all of it is in memory.
    fn read(self, from: impl Read, name: &str) -> anyhow::Result<Vec<u8>> {
        let mut payload = Vec::new();
        let read = from.take(self.bytes_max as u64 + 1).read_to_end(&mut payload);
        read.with_context(|| format!("cannot read the payload from {name}"))?;
        if payload.len() > self.bytes_max {
            bail!(
                "the payload from {name} has more than {} bytes ({}), the most that {} holds",
                self.bytes_max,
                show_size(self.bytes_max as u64),
                self.name
            );
        }
        Ok(payload)
    }
}

pub(super) fn read_payload(source: Option<&str>, room: Room) -> anyhow::Result<Vec<u8>> {
    match source {
        Some("-") => room.read(std::io::stdin().lock(), "stdin"),
        Some(source) => match source.strip_prefix('@') {
            Some(path) => {
                let file =
                    fs::File::open(path).with_context(|| format!("cannot read the payload from {path}"))?;
                room.read(file, path)
            }
            None => room.read(source.as_bytes(), "the command line"),
        },
        None if std::io::stdin().is_terminal() => {
            bail!("no payload: give it as an argument, as @FILE, or pipe it in")
        }
        None => room.read(std::io::stdin().lock(), "stdin"),
    }
}

#[cfg(test)]
mod tests;
