//! `relaymesh broadcast`: tells everybody who is subscribed to a topic and connected.

use std::time::Duration;

use anyhow::Context;

use super::out;
use super::payload::{Room, read_payload, refuse_repeated_attributes};
use super::reach::Reach;
use super::values::parse_attribute;
use crate::client::{Client, Message};

/// Hand a message to everybody who is subscribed to a topic and connected now. Prints to how many subscriptions it was
/// handed; whoever is too busy to take it misses it, and nothing is kept but by the queues that `topic bind` bound to it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The topic's name.
    topic: String,
    /// The payload itself, `-` for stdin, or `@FILE` for a file's content; a little less than 1 MiB unless the server takes
    /// larger frames. Without it stdin is read, unless that is a terminal.
    #[arg(value_name = "PAYLOAD|-|@FILE")]
    payload: Option<String>,
    /// An attribute, name=value. May be given several times, each name once.
    #[arg(long = "attr", value_name = "NAME=VALUE", value_parser = parse_attribute)]
    attributes: Vec<(String, String)>,
    /// Print {"subscribers": …} instead of the bare number.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

const EXAMPLES: &str = "\
Examples:
  relaymesh device d1 --topic news            (elsewhere) print what is told
  relaymesh broadcast news 'new firmware at noon' --attr kind=notice";

/// How long the goodbye may take once the message was handed on.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let Args { topic, payload, attributes, json, reach } = args;
    refuse_repeated_attributes(&attributes)?;
    let mut message = Message::new(read_payload(payload.as_deref(), Room::MESSAGE)?);
    for (name, value) in attributes {
        message = message.attribute(name, value);
    }
    hand_on(&reach, &topic, &message, json)
}

/// Publishes one message to a topic and prints how many it reached.
pub(super) fn hand_on(reach: &Reach, topic: &str, message: &Message, json: bool) -> anyhow::Result<()> {
    let mut client = Client::connect(reach.once())?;
    let subscribers = client
        .broadcast(topic, message)
        .with_context(|| format!("the topic {topic} did not take the message"))?;
    if json {
        out::line(format_args!("{}", serde_json::json!({ "subscribers": subscribers })))?;
    } else {
        out::line(format_args!("{subscribers}"))?;
    }
    // It is on its way: whatever happens to the goodbye, the command did its work.
    let _ = client.close(GOODBYE);
    Ok(())
}
