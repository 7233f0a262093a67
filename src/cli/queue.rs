//! `relaymesh queue`: what waits where.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::operator::Operator;
use super::out;
use super::reach::Reach;
use super::table;
use crate::ids::QueueName;

/// See what waits in queues.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    reach: Reach,
}

const EXAMPLES: &str = "\
Examples:
  relaymesh queue ls
  relaymesh queue stats jobs
  relaymesh queue stats jobs --json | jq .ready";

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the queues that hold something or have consumers.
    Ls {
        /// List the mailboxes of devices as well.
        #[arg(long)]
        mailboxes: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one queue in numbers; one that does not exist has zeroes.
    Stats {
        /// The queue, or `device/<id>` for a mailbox.
        queue: QueueName,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

const HEAD: [&str; 9] =
    ["QUEUE", "READY", "SCHEDULED", "LEASED", "DEAD", "PARKED", "CONSUMERS", "SIZE", "OLDEST READY"];
/// Longest name in a table; JSON has all of it.
const NAME_CHARS_MAX: usize = 64;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let operator = Operator::new(&args.reach);
    match args.verb {
        Verb::Ls { mailboxes, json } => {
            let mailboxes = if mailboxes { "true" } else { "false" };
            let rows = operator.get_all("queues", "queues", &[("mailboxes", mailboxes)])?;
            if json {
                out::line(format_args!("{:#}", json!({ "queues": rows })))?;
            } else if rows.is_empty() {
                eprintln!("no queue holds anything");
            } else {
                out::text(format_args!(
                    "{}",
                    table::render(&HEAD, &rows.iter().map(cells).collect::<Vec<_>>())
                ))?;
            }
        }
        Verb::Stats { queue, json } => {
            let stats = operator.get("queue-stats", &[("queue", queue.as_str())])?;
            if json {
                out::line(format_args!("{stats:#}"))?;
            } else {
                out::text(format_args!("{}", table::render(&HEAD, &[cells(&stats)])))?;
            }
        }
    }
    Ok(())
}

fn cells(row: &Value) -> Vec<String> {
    let count = |field| table::number(row, field).to_string();
    let oldest = Duration::from_millis(table::number(row, "oldest_ready_age_ms"));
    vec![
        table::text(row, "queue", NAME_CHARS_MAX),
        count("ready"),
        count("scheduled"),
        count("leased"),
        count("dead"),
        count("parked"),
        count("consumers"),
        table::size(table::number(row, "bytes")),
        if table::number(row, "ready") == 0 { "-".to_owned() } else { table::age(oldest) },
    ]
}
