//! `relaymesh log`: look at the log of a stopped server, and write it anew.

mod dump;
mod records;
mod upgrade;
mod verify;

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::{layout, out};
use crate::log::{Damage, DiskStorage, Inspection, Sighting, inspect};

/// Check, print or upgrade the log of a server that is stopped.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  relaymesh log verify ./data                       every segment, batch and record; fails where one is damaged
  relaymesh log dump ./data --queue jobs --payloads all that is kept about the queue `jobs`
  relaymesh log upgrade ./data                      write what an older version wrote as this one would";

#[derive(Debug, Subcommand)]
enum Verb {
    Verify(verify::Args),
    Dump(dump::Args),
    Upgrade(upgrade::Args),
}

/// Where the log is: in the directory `log` of a data directory, or of the directory of each of its shards.
#[derive(Debug, clap::Args)]
struct Home {
    /// The data directory of a server that is stopped [default: ./data].
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The same, as `serve` has it; DIR goes first.
    #[arg(long, value_name = "DIR", env = "RELAYMESH_SERVE_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl Home {
    fn path(&self) -> &Path {
        self.dir.as_deref().or(self.data_dir.as_deref()).unwrap_or(Path::new("./data"))
    }

    /// Does the same with the log of each shard, whose directory is named where there are several. Goes on after a failure,
    /// which may be that one is missing, and ends with the first. What it reports as JSON becomes one document.
    fn for_each_log(
        &self,
        json: bool,
        mut act: impl FnMut(&Place<'_>, &mut Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let shards = layout::shards_of(self.path())?.unwrap_or(1);
        let homes = layout::homes(self.path(), shards);
        if let [only] = &homes[..] {
            let mut report = Value::Null;
            let outcome = act(&Place { home: only, shard: None }, &mut report);
            print_report(&report)?;
            return outcome;
        }
        let mut outcome = layout::check_homes(self.path(), shards);
        let mut reports = Vec::new();
        for (home, shard) in homes.iter().zip(0..) {
            if !json {
                out::line(format_args!("{}:", home.display()))?;
            }
            let mut report = Value::Null;
            let own = act(&Place { home, shard: Some(shard) }, &mut report);
            if !report.is_null() {
                report["shard"] = shard.into();
                reports.push(report);
            }
            outcome = outcome.and(own.with_context(|| home.display().to_string()));
        }
        if !reports.is_empty() {
            print_report(&json!({ "ok": outcome.is_ok(), "shards": reports }))?;
        }
        outcome
    }
}

/// The directory whose log is looked at, and which shard's it is where there are several.
struct Place<'a> {
    home: &'a Path,
    shard: Option<u64>,
}

fn print_report(report: &Value) -> io::Result<()> {
    if report.is_null() { Ok(()) } else { out::line(format_args!("{report:#}")) }
}

/// Looks at the log in this directory, once it is sure that no server has it.
fn look(
    home: &Path,
    on_record: &mut dyn FnMut(Sighting<'_>) -> Result<(), String>,
) -> anyhow::Result<Inspection> {
    let storage = DiskStorage::open_stopped(home)?;
    inspect(&storage, on_record).with_context(|| format!("the log in {}", storage.directory().display()))
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.verb {
        Verb::Verify(args) => {
            args.home.for_each_log(args.json, |place, report| verify::run(args, place, report))
        }
        Verb::Dump(args) => dump::run(args),
        Verb::Upgrade(args) => {
            args.home.for_each_log(args.json, |place, report| upgrade::run(args, place.home, report))
        }
    }
}

fn damage_line(damage: &Damage) -> String {
    format!("{} at byte {}: {}", damage.file, damage.offset, damage.what)
}

/// So many of these, in words.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn places(damages: &[Damage]) -> String {
    counted(damages.len() as u64, "place")
}

fn inspection_json(found: &Inspection) -> Value {
    let place = |place: &Option<(String, u64)>| {
        place.as_ref().map(|(file, offset)| json!({ "file": file, "offset": offset }))
    };
    let damage =
        |damage: &Damage| json!({ "file": damage.file, "offset": damage.offset, "what": damage.what });
    json!({
        "ok": found.damages.is_empty(),
        "segment_bytes": found.segment_bytes,
        "segments": found.segments,
        "unused_segments": found.unused,
        "unfinished_files": found.unfinished,
        "checkpoints": found.checkpoints,
        "useless_checkpoints": found.useless_checkpoints,
        "older_segments": found.older_segments,
        "batches": found.batches,
        "records": found.records,
        "data_bytes": found.data_bytes,
        "durable_below": place(&found.durable),
        "end": place(&found.end),
        "damages": found.damages.iter().map(damage).collect::<Vec<_>>(),
        "cut_at_next_start": found.cut.as_ref().map(|cut| {
            json!({ "file": cut.file, "offset": cut.offset, "bytes": cut.bytes })
        }),
    })
}
