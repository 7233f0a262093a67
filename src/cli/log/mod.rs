//! `relaymesh log`: look at the log of a stopped server, and write it anew.

mod dump;
mod records;
mod upgrade;
mod verify;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

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

/// Where the log is: in the directory `log` of a data directory.
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

    /// Its log to be read, once it is sure that no server has it.
    fn open(&self) -> anyhow::Result<DiskStorage> {
        Ok(DiskStorage::open_stopped(self.path())?)
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.verb {
        Verb::Verify(args) => verify::run(args),
        Verb::Dump(args) => dump::run(args),
        Verb::Upgrade(args) => upgrade::run(args),
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
