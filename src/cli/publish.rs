//! `relaymesh publish`: puts one message on a queue, or on those that a topic is bound to.

use std::time::Duration;

use anyhow::Context;

use super::broadcast;
use super::out;
use super::payload::MessageArgs;
use super::reach::Reach;
use crate::client::{Client, Message};
use crate::ids::QueueName;

/// Put a message on a queue, or hand it to a topic. Prints its id once it is on disk; of a topic, how many queues and connected
/// subscribers it went to.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The queue; it comes into being with its first message. Or `topic/<name>`: the queues that `topic bind` bound to it.
    queue: QueueName,
    #[command(flatten)]
    message: MessageArgs,
    /// Print {"id": …}, of a topic {"subscribers": …}, instead of the bare number.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

const EXAMPLES: &str = "\
Examples:
  relaymesh publish jobs 'resize 17'
  relaymesh publish jobs @order.json --priority 7 --attr kind=order
  date | relaymesh publish jobs --delay 10s
  relaymesh publish topic/orders.eu.created @order.json --attr region=eu
  relaymesh publish jobs 'happy new year' --at 2027-01-01T00:00:00 --ttl 1h";

/// How long the goodbye may take once the message is on disk.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(topic) = args.queue.topic() {
        return broadcast::hand_on(&args.reach, topic, &args.message.into_message()?, args.json);
    }
    send(&args.reach, &args.queue, &args.message.into_message()?, args.json)
}

/// Publishes one message and prints its id.
pub(super) fn send(reach: &Reach, queue: &QueueName, message: &Message, json: bool) -> anyhow::Result<()> {
    let mut client = Client::connect(reach.once())?;
    let id = client
        .publish(queue.as_str(), message)
        .with_context(|| format!("{queue} did not take the message"))?;
    if json {
        out::line(format_args!("{}", serde_json::json!({ "id": id.0 })))?;
    } else {
        out::line(format_args!("{id}"))?;
    }
    // The message is on disk: whatever happens to the goodbye, the command did its work.
    let _ = client.close(GOODBYE);
    Ok(())
}
