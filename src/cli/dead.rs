//! `relaymesh dead`: messages that died, why, and how to bring them back.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::operator::Operator;
use super::out;
use super::reach::Reach;
use super::table;
use crate::clock::Clock;
use crate::ids::QueueName;

/// See messages that died (attempts used up, expired, overflowed, rejected), bring them back or forget them.
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
  relaymesh dead ls jobs
  relaymesh dead show jobs --id 17
  relaymesh dead redrive jobs --id 17          put one back, its attempts anew
  relaymesh dead redrive jobs --all --to slow  put all into another queue
  relaymesh dead purge jobs --all";

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the dead letters of a queue, oldest id first.
    Ls {
        /// The queue, or `device/<id>` for a mailbox.
        queue: QueueName,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one dead letter with its attempts and its payload.
    Show {
        /// The queue it died in.
        queue: QueueName,
        /// Its id.
        #[arg(long)]
        id: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print nothing but the payload, byte for byte.
        #[arg(long, conflicts_with = "json")]
        payload: bool,
    },
    /// Put dead letters back, ready, with their attempts anew. They keep their ids.
    Redrive {
        /// The queue they died in.
        queue: QueueName,
        #[command(flatten)]
        which: Which,
        /// Put them into this queue instead.
        #[arg(long, value_name = "QUEUE")]
        to: Option<QueueName>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forget dead letters for good.
    Purge {
        /// The queue they died in.
        queue: QueueName,
        #[command(flatten)]
        which: Which,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// One or all: never all by leaving something out.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The one of this id.
    #[arg(long)]
    id: Option<u64>,
    /// All of them.
    #[arg(long)]
    all: bool,
}

/// Longest error in a table; `dead show` and JSON have all of it.
const ERROR_CHARS_MAX: usize = 80;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let operator = Operator::new(&args.reach);
    match args.verb {
        Verb::Ls { queue, json } => list(&operator, &queue, json),
        Verb::Show { queue, id, json, payload } => show(&operator, &queue, id, json, payload),
        Verb::Redrive { queue, which, to, json } => {
            let mut body = which.body(&queue);
            if let Some(to) = &to {
                body["to"] = to.as_str().into();
            }
            let answer = operator.post("dead/redrive", body)?;
            report(&answer, &which, "put back into", to.as_ref().unwrap_or(&queue), json)
        }
        Verb::Purge { queue, which, json } => {
            let answer = operator.post("dead/purge", which.body(&queue))?;
            report(&answer, &which, "forgotten in", &queue, json)
        }
    }
}

impl Which {
    fn body(&self, queue: &QueueName) -> Value {
        match self.id {
            Some(id) => json!({ "queue": queue.as_str(), "id": id }),
            None => json!({ "queue": queue.as_str(), "all": true }),
        }
    }
}

fn report(answer: &Value, which: &Which, done: &str, queue: &QueueName, json: bool) -> anyhow::Result<()> {
    let changed = table::number(answer, "changed");
    if json {
        out::line(format_args!("{answer:#}"))?;
    } else {
        let letters = if changed == 1 { "dead letter" } else { "dead letters" };
        out::line(format_args!("{changed} {letters} {done} {queue}"))?;
    }
    match which.id {
        Some(id) if changed == 0 => bail!("no dead letter has id {id} there; `relaymesh dead ls` lists them"),
        _ => Ok(()),
    }
}

fn list(operator: &Operator<'_>, queue: &QueueName, json: bool) -> anyhow::Result<()> {
    let rows = operator.get_all("dead", "dead", &[("queue", queue.as_str())])?;
    if json {
        out::line(format_args!("{:#}", json!({ "dead": rows })))?;
    } else if rows.is_empty() {
        eprintln!("no dead letters in {queue}");
    } else {
        let now = Clock::wall().0;
        let cells = |row: &Value| {
            let died = now.saturating_sub(table::number(row, "died_unix_ms"));
            vec![
                table::number(row, "id").to_string(),
                table::text(row, "reason", 16),
                table::number(row, "attempts").to_string(),
                format!("{} ago", table::age(Duration::from_millis(died))),
                table::size(table::number(row, "bytes")),
                table::text(row, "last_error", ERROR_CHARS_MAX),
            ]
        };
        let rows: Vec<_> = rows.iter().map(cells).collect();
        out::text(format_args!(
            "{}",
            table::render(&["ID", "REASON", "ATTEMPTS", "DIED", "SIZE", "LAST ERROR"], &rows)
        ))?;
    }
    Ok(())
}

fn show(
    operator: &Operator<'_>,
    queue: &QueueName,
    id: u64,
    json: bool,
    payload: bool,
) -> anyhow::Result<()> {
    let letter = operator.get(&format!("dead/{id}"), &[("queue", queue.as_str())])?;
    if json {
        out::line(format_args!("{letter:#}"))?;
        return Ok(());
    }
    let shown = letter["payload_base64"].as_str();
    let bytes = STANDARD.decode(shown.unwrap_or_default())?;
    let size = table::number(&letter, "payload_bytes");
    let mut out = std::io::stdout().lock();
    if payload {
        if shown.is_none() {
            anyhow::bail!(
                "the payload has {size} bytes, too many to be shown: redrive the message to a queue and work on it"
            );
        }
        out.write_all(&bytes)?;
        return Ok(out.flush()?);
    }
    let full = usize::MAX;
    writeln!(out, "id          {}", table::number(&letter, "id"))?;
    writeln!(out, "queue       {}", table::text(&letter, "queue", full))?;
    writeln!(out, "reason      {}", table::text(&letter, "reason", full))?;
    writeln!(out, "last error  {}", table::text(&letter, "last_error", full))?;
    writeln!(out, "published   {}", stamp(table::number(&letter, "published_unix_ms")))?;
    writeln!(out, "died        {}", stamp(table::number(&letter, "died_unix_ms")))?;
    writeln!(out, "size        {}", table::size(table::number(&letter, "bytes")))?;
    for (name, value) in letter["attributes"].as_object().into_iter().flatten() {
        let value = table::clean(value.as_str().unwrap_or_default(), full);
        writeln!(out, "attribute   {}={value}", table::clean(name, full))?;
    }
    writeln!(out, "attempts    {}", table::number(&letter, "attempts"))?;
    for attempt in letter["history"].as_array().into_iter().flatten() {
        let number = table::number(attempt, "attempt");
        let when = stamp(table::number(attempt, "failed_unix_ms"));
        let (client, error) = (table::text(attempt, "client", full), table::text(attempt, "error", full));
        writeln!(out, "  {number:>3}  {when}  {client}  {error}")?;
    }
    match std::str::from_utf8(&bytes) {
        _ if shown.is_none() => writeln!(out, "payload     {size} bytes, too many to be shown")?,
        Ok(text) => writeln!(out, "payload     {}", table::clean(text, full))?,
        Err(_) => writeln!(out, "payload     {} bytes, not text; --payload prints them", bytes.len())?,
    }
    Ok(())
}

/// A time as people write it, in UTC.
pub(super) fn stamp(unix_ms: u64) -> String {
    let timestamp = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    timestamp.map_or_else(|| "-".to_owned(), |timestamp| timestamp.to_string())
}
