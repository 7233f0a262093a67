//! `relaymesh dead`: messages that died, why, and how to bring them back.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::bail;
use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Subcommand};
use serde_json::{Value, json};

use super::operator::Operator;
use super::out;
use super::reach::Reach;
use super::shown::{self, Form, stamp};
use super::table;
use super::values::{parse_attribute, parse_id, parse_text, parse_time};
use crate::clock::Clock;
use crate::config::units::parse_duration;
use crate::ids::QueueName;
use crate::limits::REDRIVE_PER_S_MAX;
use crate::mail::DEAD_REASONS;

/// See messages that died (attempts used up, expired, overflowed, rejected, too large), bring them back or forget them.
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
  relaymesh dead ls --all-queues --reason rejected --since 2h --attr region=north
  relaymesh dead show jobs --id 17             payload, attributes and every attempt
  relaymesh dead redrive jobs --id 17          put one back, its attempts anew
  relaymesh dead redrive jobs --text timeout   put back those whose history says so
  relaymesh dead redrive jobs --all --to slow --rate 100/s
                                               put all into another queue, at most 100 a second
  relaymesh dead jobs                          how far such redrives are; --cancel N ends one
  relaymesh dead purge jobs --all";

#[derive(Debug, Subcommand)]
enum Verb {
    /// List dead letters, oldest id first.
    #[command(group = ArgGroup::new("where").args(["queue", "all_queues"]).required(true))]
    Ls {
        /// The queue, or `device/<id>` for a mailbox.
        queue: Option<QueueName>,
        /// Those of every queue and mailbox of the namespace.
        #[arg(long)]
        all_queues: bool,
        #[command(flatten)]
        filter: Filter,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one dead letter with its attempts and its payload.
    Show {
        /// The queue it died in.
        queue: QueueName,
        /// Its id.
        #[arg(long, value_parser = parse_id, allow_negative_numbers = true)]
        id: u64,
        #[command(flatten)]
        form: Form,
    },
    /// Put dead letters back, ready, with their attempts anew. They keep their ids and their history. It stops when the queue is full; what
    /// never fits it stays dead with the reason too_large.
    Redrive {
        /// The queue they died in.
        queue: QueueName,
        #[command(flatten)]
        which: Which,
        /// Put them into this queue instead.
        #[arg(long, value_name = "QUEUE")]
        to: Option<QueueName>,
        /// At most so many a second. The command does not wait for it: `dead jobs` shows how far it is. A restart of the
        /// server ends it; what it put back stays.
        #[arg(long, value_name = "N/s", value_parser = parse_rate, allow_negative_numbers = true)]
        rate: Option<u64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List redrives and purges that are under way, and the last ones that ended.
    Jobs {
        /// End this one; what it did stays.
        #[arg(long, value_name = "JOB", value_parser = parse_id, allow_negative_numbers = true)]
        cancel: Option<u64>,
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

/// By their ids, by what is known of them, or all: never all by leaving something out.
#[derive(Debug, Clone, clap::Args)]
#[command(group = ArgGroup::new("which").args(WHICH).required(true).multiple(true))]
struct Which {
    /// The one of this id; may be given many times.
    #[arg(long, value_parser = parse_id, allow_negative_numbers = true, conflicts_with_all = FILTERS)]
    id: Vec<u64>,
    /// All of them.
    #[arg(long, conflicts_with = "id", conflicts_with_all = FILTERS)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

const FILTERS: [&str; 5] = ["reason", "since", "until", "attr", "text"];
const WHICH: [&str; 7] = ["id", "reason", "since", "until", "attr", "text", "all"];

/// Dead letters that are all of what is said here.
#[derive(Debug, Clone, clap::Args)]
struct Filter {
    /// Those that died for this reason.
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(DEAD_REASONS))]
    reason: Option<String>,
    /// Those that died then or later: a time, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = parse_when, allow_hyphen_values = true)]
    since: Option<u64>,
    /// Those that died earlier: likewise.
    #[arg(long, value_name = "TIME", value_parser = parse_when, allow_hyphen_values = true)]
    until: Option<u64>,
    /// Those with this attribute.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_attribute)]
    attr: Option<(String, String)>,
    /// Those with this in an error, or in the name of a client, of their attempts.
    #[arg(long, value_name = "TEXT", value_parser = parse_text)]
    text: Option<String>,
}

impl Filter {
    /// Names and values, as the operator API takes them.
    fn said(&self) -> Vec<(&'static str, Value)> {
        let attr = self.attr.as_ref().map(|(name, value)| format!("{name}={value}"));
        let said = [
            ("reason", self.reason.clone().map(Value::from)),
            ("since_unix_ms", self.since.map(Value::from)),
            ("until_unix_ms", self.until.map(Value::from)),
            ("attr", attr.map(Value::from)),
            ("text", self.text.clone().map(Value::from)),
        ];
        said.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// A time, or how long ago it was, in milliseconds since 1970.
fn parse_when(text: &str) -> Result<u64, String> {
    if let Some(ago) = parse_duration(text) {
        return Ok(Clock::wall().0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
    }
    let time = parse_time(text).map_err(|error| format!("not how long ago, such as 2h, and {error}"))?;
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let rate = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    let rate = rate.filter(|rate| (1..=REDRIVE_PER_S_MAX).contains(rate));
    rate.ok_or_else(|| format!("a rate goes from 1/s to {REDRIVE_PER_S_MAX}/s"))
}

/// Longest error in a table; `dead show` and JSON have all of it.
const ERROR_CHARS_MAX: usize = 80;
/// Longest name of a queue in a table with the queues of all dead letters.
const QUEUE_CHARS_MAX: usize = 40;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let operator = Operator::new(&args.reach);
    match args.verb {
        Verb::Ls { queue, filter, json, .. } => list(&operator, queue.as_ref(), &filter, json),
        Verb::Show { queue, id, form } => show(&operator, &queue, id, &form),
        Verb::Redrive { queue, which, to, rate, json } => {
            let mut body = which.body(&queue)?;
            if let Some(to) = &to {
                body["to"] = to.as_str().into();
            }
            if let Some(rate) = rate {
                body["per_s"] = rate.into();
            }
            let answer = operator.post("dead/redrive", body)?;
            if rate.is_some() && !json {
                let job = table::number(&answer, "job");
                let text = "shows how far it is";
                return Ok(out::line(format_args!("job {job} is under way; `relaymesh dead jobs` {text}"))?);
            }
            report(&answer, &which, "put back into", to.as_ref().unwrap_or(&queue), json)
        }
        Verb::Jobs { cancel, json } => jobs(&operator, cancel, json),
        Verb::Purge { queue, which, json } => {
            let answer = operator.post("dead/purge", which.body(&queue)?)?;
            report(&answer, &which, "forgotten in", &queue, json)
        }
    }
}

impl Which {
    fn body(&self, queue: &QueueName) -> anyhow::Result<Value> {
        let mut body = json!({ "queue": queue.as_str() });
        let said = self.filter.said();
        match (&self.id[..], self.all, said.is_empty()) {
            ([], true, true) => body["all"] = true.into(),
            ([], false, false) => body["matching"] = said.into_iter().collect(),
            (&[id], false, true) => body["id"] = id.into(),
            ([_, ..], false, true) => body["ids"] = self.id.clone().into(),
            _ => bail!("say which: --all, or --id, or some of --reason, --since, --until, --attr and --text"),
        }
        Ok(body)
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
    match which.id[..] {
        // One that takes its time has an answer of its own.
        [id] if changed == 0 && answer["job"].is_null() => {
            bail!("no dead letter has id {id} there; `relaymesh dead ls` lists them")
        }
        _ => Ok(()),
    }
}

fn jobs(operator: &Operator<'_>, cancel: Option<u64>, json: bool) -> anyhow::Result<()> {
    let rows = match cancel {
        Some(job) => vec![operator.post("dead/cancel", json!({ "job": job }))?],
        None => operator.get("dead/jobs", &[])?["jobs"].as_array().cloned().unwrap_or_default(),
    };
    if json {
        return Ok(out::line(format_args!("{:#}", json!({ "jobs": rows })))?);
    }
    if rows.is_empty() {
        eprintln!("no redrives or purges are under way");
        return Ok(());
    }
    let cells = |row: &Value| {
        let rate = row["per_s"].as_u64().map_or_else(|| "-".to_owned(), |rate| format!("{rate}/s"));
        let (state, text) = (table::text(row, "state", 16), table::text(row, "text", ERROR_CHARS_MAX));
        vec![
            table::number(row, "job").to_string(),
            table::text(row, "action", 16),
            table::text(row, "queue", QUEUE_CHARS_MAX),
            table::text(row, "to", QUEUE_CHARS_MAX),
            rate,
            format!("{} of {}", table::number(row, "changed"), table::number(row, "dead")),
            if text.is_empty() { state } else { format!("{state}: {text}") },
        ]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    let head = ["JOB", "ACTION", "QUEUE", "TO", "RATE", "DONE", "STATE"];
    Ok(out::text(format_args!("{}", table::render(&head, &rows)))?)
}

fn list(
    operator: &Operator<'_>,
    queue: Option<&QueueName>,
    filter: &Filter,
    json: bool,
) -> anyhow::Result<()> {
    let said: Vec<(&str, String)> = filter
        .said()
        .into_iter()
        .map(|(name, value)| (name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    let mut query: Vec<(&str, &str)> = said.iter().map(|(name, value)| (*name, value.as_str())).collect();
    query.extend(queue.map(|queue| ("queue", queue.as_str())));
    let rows = operator.get_all("dead", "dead", &query)?;
    if json {
        return Ok(out::line(format_args!("{:#}", json!({ "dead": rows })))?);
    }
    if rows.is_empty() {
        match queue {
            Some(queue) if said.is_empty() => eprintln!("no dead letters in {queue}"),
            _ => eprintln!("no such dead letters"),
        }
        return Ok(());
    }
    let now = Clock::wall().0;
    let cells = |row: &Value| {
        let died = now.saturating_sub(table::number(row, "died_unix_ms"));
        let mut cells = vec![table::number(row, "id").to_string()];
        if queue.is_none() {
            cells.push(table::text(row, "queue", QUEUE_CHARS_MAX));
        }
        cells.extend([
            table::text(row, "reason", 16),
            table::number(row, "attempts").to_string(),
            format!("{} ago", table::age(Duration::from_millis(died))),
            table::size(table::number(row, "bytes")),
            table::text(row, "last_error", ERROR_CHARS_MAX),
        ]);
        cells
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    let mut head = vec!["ID", "QUEUE", "REASON", "ATTEMPTS", "DIED", "SIZE", "LAST ERROR"];
    if queue.is_some() {
        head.remove(1);
    }
    Ok(out::text(format_args!("{}", table::render(&head, &rows)))?)
}

fn show(operator: &Operator<'_>, queue: &QueueName, id: u64, form: &Form) -> anyhow::Result<()> {
    let letter = operator.get(&format!("dead/{id}"), &[("queue", queue.as_str())])?;
    let text = |field: &str| table::text(&letter, field, usize::MAX);
    let own = [
        ("reason", text("reason")),
        ("last error", text("last_error")),
        ("published", stamp(table::number(&letter, "published_unix_ms"))),
        ("died", stamp(table::number(&letter, "died_unix_ms"))),
    ];
    shown::show(&letter, &own, form)
}
