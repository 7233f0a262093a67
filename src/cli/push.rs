//! `relaymesh push`: sends one message to a device's mailbox.

use super::payload::MessageArgs;
use super::publish;
use super::reach::Reach;
use crate::ids::{ClientId, QueueName};

/// Send a message to one device. It waits in the device's mailbox until the device is there. Prints its id once it
/// is on disk.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The device's id.
    id: ClientId,
    #[command(flatten)]
    message: MessageArgs,
    /// Print {"id": …} instead of the bare id.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

const EXAMPLES: &str = "\
Examples:
  relaymesh push d1 'reboot'
  relaymesh push d1 @firmware.json --ttl 1h";

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let mailbox = QueueName::mailbox(&args.id);
    publish::send(&args.reach, &mailbox, &args.message.into_message()?, args.json)
}
