//! What can go wrong for a user of [`super::Client`], split by whose it is to act.

use std::io;
use std::time::Duration;

use super::{Ended, MessageError, Unsendable};
use crate::ids::NameError;
use crate::wire::proto::Code;

/// Why a call failed. [`Error::blame`] says whose it is to act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A queue, client id or namespace has no valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The message breaks a limit.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The batch breaks a limit.
    #[error(transparent)]
    Batch(#[from] Unsendable),
    /// More results of pipelined publishes are kept than the client has room for.
    #[error("{0} results of pipelined publishes are not taken: call flush or wait")]
    Unclaimed(usize),
    /// The receipt is not of this client, or its result was taken before.
    #[error("there is no result for this receipt: it was taken before, or another client gave the receipt")]
    UnknownReceipt,
    /// As many subscriptions as the server allows.
    #[error("the client has {0} subscriptions, as many as the server allows: end one first")]
    Subscriptions(usize),
    /// The delivery was acked or nacked before, or cannot be extended because its lease is over.
    #[error("the delivery was acked or nacked before, or its lease is over")]
    NotHeld,
    /// The server refused the request. Nothing of it was kept.
    #[error("the server refused: {text} ({code:?}){}", again(*.retry_after))]
    Refused {
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
        /// When to try again; `None`: unchanged it would be refused again.
        retry_after: Option<Duration>,
    },
    /// The server cannot be reached.
    #[error("cannot reach {address}: {source}; is the server running there?")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The session is over for good.
    #[error("{why}{}", advice(.why))]
    Ended {
        /// Why.
        why: Ended,
    },
    /// There was no connection for longer than [`super::Options::offline_max`].
    #[error("no connection to {address} for {} s: {why}", .offline.as_secs())]
    Offline {
        /// Where the server was looked for.
        address: String,
        /// For how long.
        offline: Duration,
        /// What the last attempt said.
        why: String,
    },
    /// Something was not answered in the time the call was given.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// This process cannot wait on its sockets.
    #[error("cannot wait for the connection: {0}")]
    Io(#[from] io::Error),
}

/// Whose it is to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The caller: change the call.
    Caller,
    /// The server, or who runs it: try later, or look there.
    Server,
    /// What lies between them.
    Network,
}

impl Error {
    /// Whose it is to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Name(_)
            | Self::Message(_)
            | Self::Batch(_)
            | Self::Unclaimed(_)
            | Self::UnknownReceipt
            | Self::Subscriptions(_)
            | Self::NotHeld => Blame::Caller,
            Self::Refused { code, .. } => blame(*code),
            Self::Ended { why } => match why {
                Ended::Rejected { code, .. }
                | Ended::GoAway { code, .. }
                | Ended::ServerError { code, .. } => blame(*code),
                Ended::Protocol(_) => Blame::Server,
                Ended::Bye => Blame::Caller,
                Ended::Broke | Ended::Silent(_) => Blame::Network,
            },
            Self::Unreachable { .. } | Self::Offline { .. } | Self::TimedOut(_) | Self::Io(_) => {
                Blame::Network
            }
        }
    }
}

/// The client's codes come before the server's, as the contract numbers them.
fn blame(code: Code) -> Blame {
    if (code as i32) < Code::TakenOver as i32 || code == Code::TakenOver {
        Blame::Caller
    } else {
        Blame::Server
    }
}

fn again(retry_after: Option<Duration>) -> String {
    retry_after.map_or(String::new(), |after| format!("; try again in {:.1} s", after.as_secs_f64()))
}

fn advice(ended: &Ended) -> &'static str {
    let (Ended::Rejected { code, .. } | Ended::GoAway { code, .. } | Ended::ServerError { code, .. }) = ended
    else {
        return "";
    };
    match code {
        Code::TakenOver => "; another client uses this client id: give each its own",
        Code::Unauthenticated => "; check the token and the namespace",
        Code::UnsupportedVersion => "; use a client of the server's version",
        _ => "",
    }
}
