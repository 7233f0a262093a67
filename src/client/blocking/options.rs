//! How a client is set up.

use std::time::Duration;

use super::Notice;
use crate::client::Backoff;
use crate::ids::{ClientId, Namespace};
use crate::limits;

/// Hears what happens beside the calls.
pub type OnNotice = Box<dyn FnMut(&Notice) + Send>;

/// Where to connect, as whom and how. Start from [`Options::new`].
pub struct Options {
    /// `host:port`.
    pub address: String,
    /// The tenant; `default` unless changed.
    pub namespace: Namespace,
    /// The client's name; random unless changed. Devices have a name of their own.
    pub client_id: Option<ClientId>,
    /// The token, empty where the server is open.
    pub token: String,
    /// The wanted heartbeat; `None` leaves it to the server.
    pub heartbeat: Option<Duration>,
    /// An answer is wanted to every so manieth heartbeat only, 1 (unless changed) to 16. It saves the device what it
    /// receives; with more than 1 it takes as many heartbeats more until a server that is gone without a word is taken
    /// for it.
    pub pong_every: u8,
    /// How long one attempt to connect may take; 5 s unless changed.
    pub connect_timeout: Duration,
    /// When to connect again.
    pub backoff: Backoff,
    /// Whether large messages and telemetry travel compressed, if the server agrees; true unless changed.
    pub compression: bool,
    /// Whether [`Client::connect`](crate::client::Client::connect) keeps trying when the first attempt fails; false unless changed.
    pub retry_first: bool,
    /// A call fails when there was no connection for this long; `None`, as at first: never.
    pub offline_max: Option<Duration>,
    /// Hears of connections made and lost, and of lost leases.
    pub on_notice: Option<OnNotice>,
}

impl Options {
    /// The defaults, with the server at `address` (`host:port`).
    ///
    /// # Panics
    /// Never: the default namespace is a valid name.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            namespace: Namespace::parse(Namespace::DEFAULT).expect("the default namespace is a valid name"),
            client_id: None,
            token: String::new(),
            heartbeat: None,
            pong_every: 1,
            connect_timeout: limits::HANDSHAKE_DEADLINE,
            backoff: Backoff::default(),
            compression: true,
            retry_first: false,
            offline_max: None,
            on_notice: None,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the token.
        f.debug_struct("Options")
            .field("address", &self.address)
            .field("namespace", &self.namespace)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// A failed request to the queue, as [`Client::nack`](crate::client::Client::nack) tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nack {
    /// Kept with the message; cut to 1,024 bytes.
    pub error: String,
    /// Instead of the queue's backoff.
    pub delay: Option<Duration>,
    /// Never retry: to the dead letters at once.
    pub reject: bool,
}
