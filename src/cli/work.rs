//! `relaymesh work`: takes messages off a queue and answers them.

use super::consume::{self, Plan};
use super::reach::Reach;
use super::values::parse_count;
use crate::ids::QueueName;

/// Take messages off a queue. Without --exec each payload is printed and the message is done. With --exec a command
/// runs for each: exit code 0 means done, a code of --reject-on that the message is not to be tried again, anything else
/// that it is retried later.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The queue.
    queue: QueueName,
    /// Run `sh -c CMD` for each message, its payload on stdin. RELAYMESH_MESSAGE_ID, RELAYMESH_ATTEMPT,
    /// RELAYMESH_QUEUE and RELAYMESH_ATTR_<NAME> are set. Its stdout is copied through in whole lines; when it fails,
    /// the last line of its stderr is kept with the message.
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// A command that exits with this code, 1 to 255, rejects its message: it becomes a dead letter at once and is not
    /// tried again. May be given several times.
    #[arg(
        long,
        value_name = "CODE",
        value_parser = clap::value_parser!(u8).range(1..),
        allow_negative_numbers = true,
        requires = "exec"
    )]
    reject_on: Vec<u8>,
    /// Publish what the command writes to its stdout to this queue, with the message's attributes, priority,
    /// keys and trace context, and ack the message in the same step: both are on disk, or neither. A refused publish
    /// counts as an attempt that failed.
    #[arg(long, value_name = "QUEUE", requires = "exec")]
    publish_to: Option<QueueName>,
    /// Messages taken at once.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=1024),
        allow_negative_numbers = true
    )]
    concurrency: u32,
    /// Stop after this many messages were answered.
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
  relaymesh work jobs                         print what comes
  relaymesh work jobs --exec 'sha256sum'      run a command on each message
  relaymesh work jobs --max 1 --json          take one message
  relaymesh work jobs --exec './check' --reject-on 65
                                              what exits with 65 is a dead letter at once
  relaymesh work raw --exec 'gzip -9' --publish-to packed
                                              one step of a pipeline

SIGINT and SIGTERM end it once what runs is finished and answered; a second one ends it at once, and
what ran is delivered again when its lease has expired.";

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let Args { queue, exec, reject_on, publish_to, concurrency, max, json, reach } = args;
    let plan = Plan { queue, topics: Vec::new(), exec, reject_on, publish_to, concurrency, max, json };
    consume::run(reach.stay(None), plan)
}
