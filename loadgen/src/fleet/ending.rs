//! How a connection ended.

use std::time::Duration;

use anyhow::anyhow;
use relaymesh::client::is_final;
use relaymesh::wire::proto::{self, Code};

/// Why, and what the server said of coming back.
pub(crate) struct Ending {
    pub(crate) why: anyhow::Error,
    /// The server's word with REJECT, GOAWAY or ERROR.
    pub(crate) code: Option<Code>,
    /// The server's slot for the next attempt, zero when it named none.
    pub(crate) come_back_after: Duration,
}

impl Ending {
    pub(super) fn rejected(reject: &proto::Reject) -> Self {
        Self {
            code: Some(reject.code()),
            come_back_after: Duration::from_millis(u64::from(reject.reconnect_after_ms)),
            why: anyhow!("refused: {}", reject.text),
        }
    }

    pub(super) fn sent_away(goaway: &proto::GoAway) -> Self {
        Self {
            code: Some(goaway.code()),
            come_back_after: Duration::from_millis(u64::from(goaway.reconnect_after_ms)),
            why: anyhow!("told to leave: {}", goaway.text),
        }
    }

    pub(super) fn told(error: &proto::Error) -> Self {
        let why = anyhow!("the server says: {}", error.text);
        Self { code: Some(error.code()), come_back_after: Duration::ZERO, why }
    }

    /// Whether another attempt would end alike.
    pub(crate) fn is_final(&self) -> bool {
        self.code.is_some_and(is_final)
    }
}

impl From<anyhow::Error> for Ending {
    fn from(why: anyhow::Error) -> Self {
        Self { why, code: None, come_back_after: Duration::ZERO }
    }
}
