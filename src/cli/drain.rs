//! `relaymesh drain`: send a share of the sessions away.

use std::thread;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;

use super::operator::Operator;
use super::reach::Reach;
use super::values::parse_duration;
use super::{out, table};

/// Send a share of a server's sessions away, to rebalance a group of servers.
///
/// The server stays ready and takes new connections meanwhile. Each client that is sent away is told when to come back, to
/// whatever server its address then leads to. The command says how far it is until it is done; ended early, the
/// server goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// How much of the sessions: 10% or 0.1. Without it the command says how far the newest drain is.
    #[arg(long, value_name = "SHARE", value_parser = parse_share, allow_hyphen_values = true)]
    share: Option<f64>,
    /// Over which time; longer where that were more a second than the server takes on itself [default: 30s].
    #[arg(
        long,
        value_name = "TIME",
        value_parser = parse_duration,
        allow_hyphen_values = true,
        requires = "share"
    )]
    over: Option<Duration>,
    /// End the drain that runs; who was told goes.
    #[arg(long, conflicts_with = "share")]
    cancel: bool,
    /// Print JSON, once it is done.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

const EXAMPLES: &str = "\
Examples:
  relaymesh drain --share 10% --over 1m
  relaymesh drain                            how far it is
  relaymesh drain --cancel";

/// How often the command asks how far the drain is.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// A part of a whole: `10%` or `0.1`.
fn parse_share(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let share = match text.strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| percent / 100.0),
        None => number(text),
    };
    let share = share.filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "a share is above 0 and at most all: write it like 10% or 0.1".to_owned())
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let operator = Operator::new(&args.reach);
    let mut progress = match args.share {
        Some(share) => {
            let share = share.to_string();
            let over = args.over.map(|over| humantime::format_duration(over).to_string());
            let mut query = vec![("share", share.as_str())];
            query.extend(over.as_deref().map(|over| ("over", over)));
            operator.post_query("drain", &query)?
        }
        None if args.cancel => operator.delete("drain")?,
        None => operator.get_plain("drain")?,
    };
    while args.share.is_some() && progress["state"] == "running" {
        if !args.json {
            out::line(format_args!("{}", line(&progress)))?;
        }
        thread::sleep(ASK_EVERY);
        progress = operator.get_plain("drain")?;
    }
    if args.json {
        out::line(format_args!("{progress:#}"))?;
    } else {
        out::line(format_args!("{}", line(&progress)))?;
    }
    if args.share.is_some() && progress["state"] != "done" {
        bail!("the drain did not come to its end: {}", table::text(&progress, "state", 32));
    }
    Ok(())
}

/// How far a drain is, for people.
fn line(progress: &Value) -> String {
    let count = |field| table::number(progress, field);
    format!(
        "{}: {} of {} told, {} of them still here, {} to be told; {} connected",
        table::text(progress, "state", 32),
        count("told"),
        count("wanted"),
        count("leaving"),
        count("remaining"),
        count("connections"),
    )
}

#[cfg(test)]
mod tests;
