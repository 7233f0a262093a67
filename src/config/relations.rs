//! Values that must go together.

use std::net::SocketAddr;
use std::time::Duration;

use super::units::{show_duration, show_size};
use super::{Config, ConfigError};
use crate::limits;

impl Config {
    pub(super) fn check_relations(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_heartbeats()?;
        let (initial, max) = (self.queue.backoff_initial, self.queue.backoff_max);
        if initial > max {
            return Err(ConfigError::Relation {
                key: "queue.backoff_initial",
                value: show_duration(initial),
                allowed: format!("at most {}", show_duration(max)),
                because: format!("queue.backoff_max is {}", show_duration(max)),
            });
        }
        let Config { listen, .. } = self;
        if listen.address == listen.admin && listen.admin.port() != 0 {
            return Err(ConfigError::Relation {
                key: "listen.admin",
                value: listen.admin.to_string(),
                allowed: "another address or port".into(),
                because: "listen.address is the same".into(),
            });
        }
        for (key, address) in [("listen.address", listen.address), ("listen.admin", listen.admin)] {
            if self.auth.is_open() && !is_loopback(address) {
                return Err(ConfigError::OpenBeyondLoopback { key, address });
            }
        }
        Ok(())
    }

    fn check_heartbeats(&self) -> Result<(), ConfigError> {
        let session = &self.session;
        let ordered = |key, value: Duration, allowed: &str, other: &str, bound: Duration, holds: bool| {
            if holds {
                return Ok(());
            }
            let (value, bound) = (show_duration(value), show_duration(bound));
            let (allowed, because) = (format!("{allowed} {bound}"), format!("{other} is {bound}"));
            Err(ConfigError::Relation { key, value, allowed, because })
        };
        let (usual, min, max) = (session.heartbeat, session.heartbeat_min, session.heartbeat_max);
        ordered("session.heartbeat", usual, "at least", "session.heartbeat_min", min, usual >= min)?;
        ordered("session.heartbeat", usual, "at most", "session.heartbeat_max", max, usual <= max)
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let at_least = |key, value: u64, min: u64, because: String| {
            if value >= min {
                return Ok(());
            }
            let (value, allowed) = (show_size(value), format!("at least {}", show_size(min)));
            Err(ConfigError::Relation { key, value, allowed, because })
        };
        let (segment, frame) = (self.log.segment_bytes, self.session.frame_bytes_max);
        if !segment.is_multiple_of(limits::LOG_BLOCK_BYTES as u64) {
            return Err(ConfigError::Relation {
                key: "log.segment_bytes",
                value: show_size(segment),
                allowed: format!("a multiple of {}", show_size(limits::LOG_BLOCK_BYTES as u64)),
                because: "the log is written in whole blocks".into(),
            });
        }
        let frames = format!("session.frame_bytes_max is {}", show_size(frame));
        at_least("log.segment_bytes", segment, 4 * frame, frames.clone())?;
        at_least("session.publish_window_bytes", self.session.publish_window_bytes, frame, frames.clone())?;
        // What travels in one frame fits every queue; a larger message may be refused for its size.
        let message = self.session.whole_message_bytes_max();
        at_least("queue.bytes_max", self.queue.bytes_max, message, frames.clone())?;
        if self.namespace.bytes_max > 0 {
            at_least("namespace.bytes_max", self.namespace.bytes_max, message, frames.clone())?;
        }
        at_least("mailbox.bytes_max", self.mailbox.bytes_max, message, frames)
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
