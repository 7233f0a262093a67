//! `relaymesh log`: look at the log of a stopped server, and write it anew.

mod dump;
mod records;
mod upgrade;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::{layout, out};
use crate::log::{Damage, DiskStorage, Inspection};

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
    /// which may be that one is missing, and ends with the first.
    fn for_each_log(
        &self,
        json: bool,
        mut act: impl FnMut(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let shards = layout::shards_of(self.path())?.unwrap_or(1);
        let homes = layout::homes(self.path(), shards);
        if let [only] = &homes[..] {
            return act(only);
        }
        let mut outcome = layout::check_homes(self.path(), shards);
        for home in &homes {
            if !json {
                out::line(format_args!("{}:", home.display()))?;
            }
            outcome = outcome.and(act(home).with_context(|| home.display().to_string()));
        }
        outcome
    }
}

/// The log in this directory, to be read, once it is sure that no server has it.
fn open(home: &Path) -> anyhow::Result<DiskStorage> {
    Ok(DiskStorage::open_stopped(home)?)
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.verb {
        Verb::Verify(args) => args.home.for_each_log(args.json, |home| verify::run(args, home)),
        Verb::Dump(args) => args.home.for_each_log(args.json, |home| dump::run(args, home)),
        Verb::Upgrade(args) => args.home.for_each_log(args.json, |home| upgrade::run(args, home)),
    }
}

fn damage_line(damage: &Damage) -> String {
    format!("{} at byte {}: {}", damage.file, damage.offset, damage.what)
}

fn places(count: usize) -> String {
    if count == 1 { "1 place".to_owned() } else { format!("{count} places") }
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
