//! Where the server is and who asks.

use std::time::Duration;

use clap::builder::TypedValueParser as _;

use crate::client::{Notice, Options};
use crate::ids::{ClientId, LeaseId, Namespace};

/// Options of every command that speaks to a server.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server")]
pub(super) struct Reach {
    /// Address of the server for clients.
    #[arg(
        long,
        value_name = "ADDR",
        env = "RELAYMESH_CONNECT",
        default_value = "127.0.0.1:7400",
        global = true
    )]
    pub(super) connect: String,
    /// Address of the server for operators (HTTP).
    #[arg(
        long,
        value_name = "ADDR",
        env = "RELAYMESH_ADMIN",
        default_value = "127.0.0.1:7480",
        global = true
    )]
    pub(super) admin: String,
    /// The tenant: a-z, 0-9, '.', '_' and '-'. TENANT:GROUP for one of its placement groups.
    #[arg(long, value_name = "NAME", env = "RELAYMESH_NAMESPACE", default_value = "default", global = true)]
    pub(super) namespace: Namespace,
    /// What proves that you may; not needed on an open server.
    #[arg(
        long,
        env = "RELAYMESH_TOKEN",
        default_value = "",
        hide_env_values = true,
        hide_default_value = true,
        global = true
    )]
    pub(super) token: String,
    /// Compress large messages, if the server agrees: on or off.
    #[arg(
        long,
        value_name = "SWITCH",
        env = "RELAYMESH_COMPRESSION",
        default_value = "on",
        value_parser = clap::builder::PossibleValuesParser::new(["on", "off"])
            .map(|text| text == "on"),
        action = clap::ArgAction::Set,
        hide_possible_values = true,
        global = true
    )]
    pub(super) compression: bool,
}

/// How long a command that wants one answer goes on without a connection it once had.
const ONE_ANSWER_OFFLINE_MAX: Duration = Duration::from_secs(30);

impl Reach {
    /// For a command that wants one answer and fails when there is no server.
    pub(super) fn once(&self) -> Options {
        Options { offline_max: Some(ONE_ANSWER_OFFLINE_MAX), ..self.options() }
    }

    /// For a command that stays, and waits for a server that is away.
    pub(super) fn stay(&self, client_id: Option<ClientId>) -> Options {
        Options { client_id, retry_first: true, ..self.options() }
    }

    fn options(&self) -> Options {
        Options {
            namespace: self.namespace.clone(),
            token: self.token.clone(),
            compression: self.compression,
            on_notice: Some(Box::new(|notice| {
                if let Some(line) = line(notice) {
                    eprintln!("relaymesh: {line}");
                }
            })),
            ..Options::new(self.connect.clone())
        }
    }
}

/// What people read of a notice; nothing of what is as it should be.
fn line(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Connected { resumed: false } => None,
        Notice::Connected { resumed: true } => Some("connected again".to_owned()),
        Notice::Retrying { address, why, after, failures } => Some(format!(
            "no connection to {address}: {why}; attempt {} in {:.1} s",
            failures + 1,
            after.as_secs_f64()
        )),
        Notice::LeasesOver { leases } => Some(format!(
            "the lease of message {} is over, or another's now: it may be delivered again while it is worked on",
            ids(leases)
        )),
        Notice::LeasesLost { leases, uncertain } => {
            let end = if *uncertain { ", or it was counted before the reconnect" } else { "" };
            Some(format!("too late for message {}: its lease is over, or another's now{end}", ids(leases)))
        }
        Notice::SettleRefused { leases, text } => {
            Some(format!("the server would not settle message {}: {text}", ids(leases)))
        }
    }
}

fn ids(leases: &[LeaseId]) -> String {
    leases.iter().map(|lease| lease.message.to_string()).collect::<Vec<_>>().join(", ")
}
