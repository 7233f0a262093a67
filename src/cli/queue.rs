//! `relaymesh queue`: what waits where, and by which rules.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::operator::Operator;
use super::out;
use super::reach::Reach;
use super::shown::{self, Form, stamp};
use super::table;
use super::values::{parse_id, refuse_repeated};
use crate::ids::QueueName;

/// See what waits in queues, and set their rules.
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
  relaymesh queue stats jobs --json | jq .ready
  relaymesh queue show jobs --id 17           # where it stands, and what became of its attempts
  relaymesh queue set jobs attempts=3 backoff_initial=10s weight.gold=5
  relaymesh queue set jobs attempts=          # back to the server's configuration
  relaymesh queue settings jobs";

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
    /// Show one message, whether it waits, is worked on or is dead: its state, attempts and payload. `publish` prints ids.
    Show {
        /// The queue, or `device/<id>` for a mailbox.
        queue: QueueName,
        /// The message's id.
        #[arg(long, value_parser = parse_id, allow_negative_numbers = true)]
        id: u64,
        #[command(flatten)]
        form: Form,
    },
    /// Set rules of one queue, all that are given or none; they are kept through restarts.
    Set {
        /// The queue, or `device/<id>` for a mailbox.
        queue: QueueName,
        /// What to set; `queue settings` lists the keys. Without a value it goes back to the configuration's.
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_change)]
        changes: Vec<(String, Option<String>)>,
        /// Print all settings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the rules of one queue.
    Settings {
        /// The queue, or `device/<id>` for a mailbox.
        queue: QueueName,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

const HEAD: [&str; 10] = [
    "QUEUE",
    "READY",
    "SCHEDULED",
    "LEASED",
    "BLOCKED",
    "DEAD",
    "PARKED",
    "CONSUMERS",
    "SIZE",
    "OLDEST READY",
];
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
        Verb::Show { queue, id, form } => {
            let message = operator.get(&format!("messages/{id}"), &[("queue", queue.as_str())])?;
            shown::show(&message, &standing(&message), &form)?;
        }
        Verb::Set { queue, changes, json } => {
            let body = json!({ "queue": queue.as_str(), "settings": settings(changes)? });
            let all = operator.post("queue-settings", body)?;
            if json {
                out::line(format_args!("{all:#}"))?;
            }
        }
        Verb::Settings { queue, json } => {
            let all = operator.get("queue-settings", &[("queue", queue.as_str())])?;
            if json {
                out::line(format_args!("{all:#}"))?;
            } else {
                let rows = all["settings"].as_array().map(Vec::as_slice).unwrap_or_default();
                let rows: Vec<_> = rows.iter().map(setting_cells).collect();
                out::text(format_args!(
                    "{}",
                    table::render(&["KEY", "VALUE", "SET HERE", "WHAT IT IS"], &rows)
                ))?;
            }
        }
    }
    Ok(())
}

/// Where a message stands; only what there is to say.
fn standing(message: &Value) -> Vec<(&'static str, String)> {
    let text = |field| Some(table::text(message, field, usize::MAX)).filter(|text| !text.is_empty());
    let time = |field| message[field].as_u64().map(stamp);
    let lines = [
        ("state", text("state")),
        ("due", time("due_unix_ms")),
        ("worker", message["client"].as_str().and(text("client"))),
        ("since", time("leased_unix_ms")),
        ("last error", text("last_error")),
        ("published", time("published_unix_ms")),
        ("expires", time("expires_unix_ms")),
    ];
    lines.into_iter().filter_map(|(title, text)| Some((title, text?))).collect()
}

pub(super) fn parse_change(text: &str) -> Result<(String, Option<String>), String> {
    let (key, value) = text.split_once('=').ok_or("a setting is given as key=value, or key= to reset it")?;
    Ok((key.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty())))
}

/// As the operator API takes them; a key has one value.
pub(super) fn settings(changes: Vec<(String, Option<String>)>) -> anyhow::Result<Value> {
    refuse_repeated("setting", changes.iter().map(|(key, _)| key.as_str()))?;
    Ok(changes.into_iter().map(|(key, value)| (key, Value::from(value))).collect())
}

pub(super) fn setting_cells(row: &Value) -> Vec<String> {
    let text = |field| table::text(row, field, 2 * NAME_CHARS_MAX);
    let is_own = if row["is_own"] == true { "yes" } else { "-" };
    vec![text("key"), text("value"), is_own.to_owned(), text("about")]
}

fn cells(row: &Value) -> Vec<String> {
    let count = |field| table::number(row, field).to_string();
    let oldest = Duration::from_millis(table::number(row, "oldest_ready_age_ms"));
    vec![
        table::text(row, "queue", NAME_CHARS_MAX),
        count("ready"),
        count("scheduled"),
        count("leased"),
        count("blocked"),
        count("dead"),
        count("parked"),
        count("consumers"),
        table::size(table::number(row, "bytes")),
        if table::number(row, "ready") == 0 { "-".to_owned() } else { table::age(oldest) },
    ]
}
