//! `relaymesh schedule`: messages that are published by the clock.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{ArgGroup, Subcommand};
use serde_json::{Value, json};

use super::operator::Operator;
use super::out;
use super::payload::{MessageArgs, Room, read_payload, refuse_repeated_attributes};
use super::reach::Reach;
use super::table;
use crate::clock::Clock;
use crate::config::units;
use crate::cron::Cron;
use crate::ids::{QueueName, ScheduleName};
use crate::limits::{PRIORITY_DEFAULT, SCHEDULE_MISSED_MAX, SCHEDULE_PREVIEW_MAX};
use crate::mail::Misfire;

/// Publish messages by the clock.
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
  relaymesh schedule add report --cron '0 8 * * mon-fri' --tz Europe/Berlin jobs 'make the report'
  relaymesh schedule add tick --cron '*/10 * * * * *' --misfire skip jobs tick --ttl 10s
  relaymesh schedule next --cron '30 2 * * *' --tz Europe/Berlin -n 3     # needs no server
  relaymesh schedule next report
  relaymesh schedule ls
  relaymesh schedule rm report

An expression has five fields: minute, hour, day of month, month, day of week; or six with the second before them; or it is
@hourly, @daily, @weekly, @monthly or @yearly. Where day of month and day of week are both given, either will do. A time of
day that the change of clocks leaves out comes due right after the gap, and one that comes twice the first time; an
expression with several times of day comes due at those there are, at both of those that come twice.
Each message has the attributes `schedule` (its name) and `scheduled_for` (the time, RFC 3339).";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a schedule, or replace the one of this name.
    Add(Box<AddArgs>),
    /// List schedules with the times they published for last and come due next.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one schedule with its message.
    Show {
        /// Its name.
        name: ScheduleName,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show when a schedule, or any expression, comes due next.
    #[command(group = ArgGroup::new("of").args(["name", "cron"]).required(true))]
    Next {
        /// A schedule of the server.
        #[arg(conflicts_with = "tz")]
        name: Option<ScheduleName>,
        /// Any cron expression; no server is asked.
        #[arg(long, value_name = "EXPRESSION")]
        cron: Option<String>,
        /// The time zone of the expression, of the IANA database.
        #[arg(long, value_name = "ZONE", default_value = "UTC")]
        tz: String,
        /// How many times, up to 1000.
        #[arg(
            short = 'n',
            long,
            value_name = "N",
            default_value_t = 5,
            value_parser = parse_count,
            allow_negative_numbers = true
        )]
        count: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Pause a schedule: nothing comes due until it is resumed.
    Pause {
        /// Its name.
        name: ScheduleName,
    },
    /// Resume a paused schedule; what would have come due meanwhile is not made up for.
    Resume {
        /// Its name.
        name: ScheduleName,
    },
    /// Remove a schedule. What it published stays.
    Rm {
        /// Its name.
        name: ScheduleName,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Its name: a-z, A-Z, 0-9, '.', '_' and '-', at most 128.
    name: ScheduleName,
    /// The queue to publish to, or `device/<id>` for a mailbox.
    queue: QueueName,
    /// When: minute, hour, day of month, month, day of week, such as '0 8 * * mon-fri'.
    #[arg(long, value_name = "EXPRESSION")]
    cron: String,
    /// The time zone of the expression, of the IANA database, such as Europe/Berlin.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: String,
    /// What becomes of times it missed by more than 5 s, because the server was down, the queue full or the clock set: skip
    /// them, publish once for all of them, or publish for all.
    #[arg(long, value_name = "POLICY", default_value = "once", value_parser = ["skip", "once", "all"])]
    misfire: String,
    /// How many missed times `all` makes up for, the newest, up to 1000.
    #[arg(
        long,
        value_name = "N",
        default_value_t = SCHEDULE_MISSED_MAX,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(SCHEDULE_MISSED_MAX)),
        allow_negative_numbers = true
    )]
    missed_max: u32,
    /// Add it paused.
    #[arg(long)]
    paused: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    message: MessageArgs,
}

/// Longest text in a table; JSON has all of it.
const CHARS_MAX: usize = 48;
const HEAD: [&str; 7] = ["NAME", "CRON", "TIME ZONE", "QUEUE", "MISFIRE", "LAST", "NEXT"];

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let operator = Operator::new(&args.reach);
    match args.verb {
        Verb::Add(args) => add(&operator, *args),
        Verb::Ls { json } => list(&operator, json),
        Verb::Show { name, json } => show(&operator, &name, json),
        Verb::Next { name, cron, tz, count, json } => {
            let times = match (name, cron) {
                (Some(name), _) => {
                    let query = [("count", &*count.to_string())];
                    let mut answer = operator.get(&format!("schedules/{name}/next"), &query)?;
                    if answer["paused"] == true {
                        eprintln!("{name} is paused");
                    }
                    answer["next"].take()
                }
                (None, Some(cron)) => coming(&cron, &tz, count)?,
                (None, None) => bail!("name a schedule, or give an expression with --cron"),
            };
            if json {
                return Ok(out::line(format_args!("{:#}", json!({ "next": times })))?);
            }
            for time in times.as_array().into_iter().flatten() {
                out::line(format_args!("{}", table::text(time, "local", CHARS_MAX)))?;
            }
            Ok(())
        }
        Verb::Pause { name } => operator.post(&format!("schedules/{name}/pause"), json!({})).map(|_| ()),
        Verb::Resume { name } => operator.post(&format!("schedules/{name}/resume"), json!({})).map(|_| ()),
        Verb::Rm { name } => operator.remove(&format!("schedules/{name}")).map(|_| ()),
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=SCHEDULE_PREVIEW_MAX).contains(count));
    count.ok_or_else(|| format!("a number from 1 to {SCHEDULE_PREVIEW_MAX}"))
}

/// When `cron` comes due next, as the server would tell it.
fn coming(cron: &str, zone: &str, count: usize) -> anyhow::Result<Value> {
    let cron = Cron::parse(cron, zone)?;
    let coming = std::iter::successors(cron.next_after(Clock::wall()), |&due| cron.next_after(due));
    Ok(coming.take(count).map(|due| json!({"unix_ms": due.0, "local": cron.local(due)})).collect())
}

fn add(operator: &Operator<'_>, args: AddArgs) -> anyhow::Result<()> {
    let body = json!({
        "name": args.name.as_str(),
        "cron": args.cron,
        "time_zone": args.tz,
        "queue": args.queue.as_str(),
        "misfire": args.misfire,
        "missed_max": args.missed_max,
        "paused": args.paused,
        "message": message(args.message)?,
    });
    let row = operator.post("schedules", body)?;
    if args.json {
        out::line(format_args!("{row:#}"))?;
    } else if row["paused"] == true {
        out::line(format_args!("{} is paused; `relaymesh schedule resume` starts it", args.name))?;
    } else {
        out::line(format_args!("{} comes due next at {}", args.name, time(&row, "next")))?;
    }
    Ok(())
}

/// The message as the operator API takes it.
fn message(args: MessageArgs) -> anyhow::Result<Value> {
    if args.at.is_some() {
        return Err(anyhow!("--at is for a message that is published once; a schedule says itself when"));
    }
    if args.dedup.is_some() {
        return Err(anyhow!(
            "--dedup would keep one message of a window; each of a schedule is one of its own"
        ));
    }
    let millis =
        |time: Option<Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let payload = read_payload(args.payload.as_deref(), Room::SCHEDULE)?;
    refuse_repeated_attributes(&args.attributes)?;
    let mut attributes = serde_json::Map::new();
    for (name, value) in args.attributes {
        attributes.insert(name, value.into());
    }
    let mut message = json!({ "payload_base64": BASE64.encode(payload), "attributes": attributes });
    let fields = [
        ("priority", args.priority.map(Value::from)),
        ("delay_ms", millis(args.delay).map(Value::from)),
        ("ttl_ms", millis(args.ttl).map(Value::from)),
        ("attempts", args.attempts.map(Value::from)),
        ("order_key", args.order_key.map(Value::from)),
        ("fair_key", args.fair_key.map(Value::from)),
        ("lease_ms", millis(args.lease).map(Value::from)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            message[name] = value;
        }
    }
    let retry = json!({
        "initial_ms": millis(args.retry_delay),
        "factor_percent": args.retry_factor,
        "max_ms": millis(args.retry_max),
        "jitter_percent": args.retry_jitter,
    });
    if retry.as_object().is_some_and(|retry| retry.values().any(|value| !value.is_null())) {
        message["retry"] = retry;
    }
    Ok(message)
}

fn list(operator: &Operator<'_>, json: bool) -> anyhow::Result<()> {
    let rows = operator.get_all("schedules", "schedules", &[])?;
    if json {
        out::line(format_args!("{:#}", json!({ "schedules": rows })))?;
    } else if rows.is_empty() {
        eprintln!("there are no schedules");
    } else {
        out::text(format_args!("{}", table::render(&HEAD, &rows.iter().map(cells).collect::<Vec<_>>())))?;
        for row in &rows {
            if row["held_up"].is_string() {
                let (name, why) =
                    (table::text(row, "name", CHARS_MAX), table::text(row, "held_up", 4 * CHARS_MAX));
                out::line(format_args!("{name} is held up: {why}"))?;
            }
        }
    }
    Ok(())
}

fn cells(row: &Value) -> Vec<String> {
    let text = |field| table::text(row, field, CHARS_MAX);
    let next = if row["paused"] == true { "paused".to_owned() } else { time(row, "next") };
    vec![
        text("name"),
        text("cron"),
        text("time_zone"),
        text("queue"),
        text("misfire"),
        time(row, "last"),
        next,
    ]
}

fn time(row: &Value, field: &str) -> String {
    row[field].as_str().map_or_else(|| "-".to_owned(), |text| table::clean(text, CHARS_MAX))
}

fn show(operator: &Operator<'_>, name: &ScheduleName, json: bool) -> anyhow::Result<()> {
    let row = operator.get(&format!("schedules/{name}"), &[])?;
    if json {
        return Ok(out::line(format_args!("{row:#}"))?);
    }
    let full = usize::MAX;
    let text = |field| table::text(&row, field, full);
    let mut lines = vec![
        ("name", text("name")),
        ("cron", text("cron")),
        ("time zone", text("time_zone")),
        ("queue", text("queue")),
        ("misfire", text("misfire")),
    ];
    if row["misfire"] == Misfire::All.as_str() {
        lines.push(("missed max", table::number(&row, "missed_max").to_string()));
    }
    lines.push(("last", time(&row, "last")));
    let next = if row["paused"] == true { "paused".to_owned() } else { time(&row, "next") };
    lines.push(("next", next));
    if row["held_up"].is_string() {
        lines.push(("held up", text("held_up")));
    }
    lines.extend(options(&row["message"]));
    for (name, value) in row["message"]["attributes"].as_object().into_iter().flatten() {
        let value = table::clean(value.as_str().unwrap_or_default(), full);
        lines.push(("attribute", format!("{}={value}", table::clean(name, full))));
    }
    let payload = row["message"]["payload_text"].as_str();
    let payload = payload.map(|text| table::clean(text, full));
    lines.push(("payload", payload.unwrap_or_else(|| "not text; --json has it in base64".to_owned())));
    let mut out = std::io::stdout().lock();
    for (label, value) in lines {
        writeln!(out, "{label:<12} {value}")?;
    }
    Ok(out.flush()?)
}

/// What is set of a message; the rest is its queue's to say.
fn options(message: &Value) -> Vec<(&'static str, String)> {
    let number = |row: &Value, field| row[field].as_u64();
    let is_set = |&value: &u64| value > 0;
    let time = |ms| units::show_duration(Duration::from_millis(ms));
    let percent = |percent| format!("{percent} %");
    let key = |field| Some(table::text(message, field, usize::MAX)).filter(|key| !key.is_empty());
    let retry = &message["retry"];
    let priority = number(message, "priority").filter(|&priority| priority != u64::from(PRIORITY_DEFAULT));
    let said = [
        ("priority", priority.map(|priority| priority.to_string())),
        ("delay", number(message, "delay_ms").filter(is_set).map(time)),
        ("ttl", number(message, "ttl_ms").filter(is_set).map(time)),
        ("attempts", number(message, "attempts").filter(is_set).map(|attempts| attempts.to_string())),
        ("lease", number(message, "lease_ms").filter(is_set).map(time)),
        ("order key", key("order_key")),
        ("fair key", key("fair_key")),
        ("retry delay", number(retry, "initial_ms").map(time)),
        ("retry factor", number(retry, "factor_percent").map(percent)),
        ("retry max", number(retry, "max_ms").map(time)),
        ("retry jitter", number(retry, "jitter_percent").map(percent)),
    ];
    said.into_iter().filter_map(|(label, text)| Some((label, text?))).collect()
}
