//! `relaymesh device`: is a device and answers what is pushed to it.

use std::time::Duration;

use super::consume::{self, Plan};
use super::reach::Reach;
use super::values::{parse_count, parse_duration};
use crate::client::Options;
use crate::ids::{ClientId, QueueName};

/// Be a device: stay connected, send heartbeats, and print or run what is pushed. What was pushed while the device
/// was away arrives first, in order.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The device's id. A second client of the same id takes its place.
    id: ClientId,
    /// Take what is broadcast to this topic too. May be given several times.
    #[arg(long = "topic", value_name = "NAME")]
    topics: Vec<String>,
    /// Run `sh -c CMD` for each message, its payload on stdin, as `relaymesh work` does. For a topic's message
    /// RELAYMESH_QUEUE is topic/<NAME>, and there is neither id nor attempt.
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// How often the device shows that it is alive: 500ms to 1h.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = parse_duration,
        allow_hyphen_values = true
    )]
    heartbeat: Duration,
    /// Messages taken at once; more than 1 gives up their order.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024),
        allow_negative_numbers = true
    )]
    concurrency: u32,
    /// Stop after this many messages were answered, those of topics counted.
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    max: Option<u64>,
    /// Print an object a line instead of bare payloads.
    #[arg(long, conflicts_with = "exec")]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

const EXAMPLES: &str = "\
Examples:
  relaymesh device d1                         print what is pushed
  relaymesh device d1 --exec 'cat'            run a command on each message
  relaymesh push d1 'hello'                   (elsewhere) push something to it
  relaymesh device d1 --topic news            print what is broadcast too";

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let Args { id, topics, exec, heartbeat, concurrency, max, json, reach } = args;
    let queue = QueueName::mailbox(&id);
    let options = Options { heartbeat: Some(heartbeat), ..reach.stay(Some(id)) };
    consume::run(
        options,
        Plan { queue, topics, exec, reject_on: Vec::new(), publish_to: None, concurrency, max, json },
    )
}
