//! `relaymesh topic`: which topics reach which queues.

use anyhow::bail;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::operator::Operator;
use super::out;
use super::reach::Reach;
use super::table;
use crate::ids::QueueName;

/// Bind topics to queues and mailboxes: what is published to a topic is kept there for whoever comes for it.
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
  relaymesh topic bind 'orders.*.created' --to audit
  relaymesh topic bind 'orders.>' --filter \"region = 'eu' and total > 100\" --to europe --name big-in-europe
  relaymesh topic bind 'site.7.>' --to device/d1
  relaymesh topic bind '$sys.presence' --filter \"event = 'disconnected'\" --to watch
  relaymesh publish topic/orders.eu.created 'order 17' --attr region=eu --attr total=120
  relaymesh topic ls
  relaymesh topic unbind big-in-europe

Patterns: the tokens of a topic's name have dots between them; * stands for one token, > as the last for one or more.
Filters: NAME = 'text', !=, <, <=, >, >= (beside a number the attribute is compared as one, in double precision),
  NAME starts_with 'text', NAME exists; and, or, not and ( ). A test of an attribute that the message does not have is false.
Bounds of one publish: 4,096 queues that take it, 65,536 messages in all of them, and 1,048,576 attributes that filters look
  at (tests times attributes times messages).
The server's own topics: $sys.presence (event, client, reason), $sys.limits (limit, queue, outcome) and $sys.dead (event,
  queue, reason, dead, at_unix_ms).";

/// What becomes of a message that a bound queue has no room for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum WhenFull {
    /// It waits or is refused, for all who listen, as the queue's own when_full says.
    Wait,
    /// This queue misses it.
    Drop,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the bindings, with what each took and missed since the server started.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Bind the topics of a pattern to a queue or mailbox. A binding of the same name is replaced.
    Bind {
        /// A topic's name, in which * stands for one token and > for the rest.
        pattern: String,
        /// The queue, or `device/<id>` for a mailbox.
        #[arg(long, value_name = "QUEUE")]
        to: QueueName,
        /// Which messages, by their attributes; all if not given.
        #[arg(long, default_value = "")]
        filter: String,
        /// The binding's name; PATTERN:QUEUE if not given.
        #[arg(long)]
        name: Option<String>,
        /// What becomes of a message that the queue has no room for; wait if not given, for a mailbox drop.
        #[arg(long, value_enum)]
        when_full: Option<WhenFull>,
        /// Print the binding as JSON instead of its name.
        #[arg(long)]
        json: bool,
    },
    /// End a binding; what it put on its queue stays there.
    Unbind {
        /// Its name, as `topic ls` shows it.
        name: String,
    },
}

const HEAD: [&str; 7] = ["NAME", "PATTERN", "FILTER", "TO", "WHEN FULL", "TAKEN", "DROPPED"];
/// Longest text in a table; JSON has all of it.
const TEXT_CHARS_MAX: usize = 64;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let operator = Operator::new(&args.reach);
    match args.verb {
        Verb::Ls { json } => {
            let rows = operator.get_all("bindings", "bindings", &[])?;
            if json {
                out::line(format_args!("{:#}", json!({ "bindings": rows })))?;
            } else if rows.is_empty() {
                eprintln!("no topic is bound to a queue");
            } else {
                let cells: Vec<_> = rows.iter().map(cells).collect();
                out::text(format_args!("{}", table::render(&HEAD, &cells)))?;
            }
        }
        Verb::Bind { pattern, to, filter, name, when_full, json } => {
            let when_full = when_full.map(|when_full| match when_full {
                WhenFull::Wait => "wait",
                WhenFull::Drop => "drop",
            });
            let body = json!({
                "pattern": pattern, "to": to.as_str(), "filter": filter, "name": name, "when_full": when_full,
            });
            let binding = operator.post("bindings", body)?;
            if json {
                out::line(format_args!("{binding:#}"))?;
            } else {
                out::line(format_args!("{}", binding["name"].as_str().unwrap_or_default()))?;
            }
        }
        Verb::Unbind { name } => {
            let ended = operator.post("bindings/remove", json!({ "name": name }))?;
            if table::number(&ended, "changed") == 0 {
                bail!("there is no binding {name:?}; `relaymesh topic ls` lists them");
            }
        }
    }
    Ok(())
}

fn cells(row: &Value) -> Vec<String> {
    let text = |field| match table::text(row, field, TEXT_CHARS_MAX) {
        text if text.is_empty() => "-".to_owned(),
        text => text,
    };
    let count = |field| table::number(row, field).to_string();
    vec![
        text("name"),
        text("pattern"),
        text("filter"),
        text("to"),
        text("when_full"),
        count("taken"),
        count("dropped"),
    ]
}
