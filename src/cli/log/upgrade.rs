//! `relaymesh log upgrade`: what an older version wrote, written as this one would.

use std::path::Path;

use anyhow::bail;
use serde_json::{Value, json};

use super::{Home, counted, damage_line, places};
use crate::cli::out;
use crate::engine::{self, EngineConfig};
use crate::log::{DiskStorage, Durability, Inspection, LogConfig};
use crate::queue::{QueueConfig, record};

/// Write all that lives in a stopped server's log anew where an older version wrote any of it.
///
/// Segments and records of older versions are read all the same, and are rewritten as the log is recycled; this does it at
/// once, so that a later version may forget how to read them. A log that is damaged is refused. Each old segment is freed
/// once what replaces it is on disk: interrupted at any time, the log is whole, and the upgrade may be run again. It counts
/// as a start of the server.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) home: Home,
    /// Write everything anew even if nothing is of an older version; the log is as small as it can be afterwards.
    #[arg(long)]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What is there, and how many records of older versions.
struct Found {
    log: Inspection,
    older_records: u64,
}

pub(super) fn run(args: &Args, home: &Path, json: &mut Value) -> anyhow::Result<()> {
    let before = look(home)?;
    let is_needed = before.older_records > 0 || before.log.older_segments > 0;
    if !is_needed && !args.force {
        return report(args, &before, None, json);
    }
    let storage = DiskStorage::open(home, Durability::Sync)?;
    let log = LogConfig {
        segment_bytes: before.log.segment_bytes,
        seed: fastrand::u64(..),
        durability: Durability::Sync,
    };
    // Bodies are moved as they are read; none needs to stay in memory.
    let queue = QueueConfig { body_memory_bytes_max: 0, ..QueueConfig::default() };
    let config = EngineConfig { log, queue, seed: fastrand::u64(..) };
    engine::rewrite(&storage, config, &mut |left| {
        if left > 0 && !args.json {
            eprintln!("{} left", counted(left, "segment"));
        }
    })?;
    drop(storage);
    let after = look(home)?;
    if after.older_records > 0 || after.log.older_segments > 0 {
        bail!("{} of an older version left; run the upgrade again", counted(after.older_records, "record"));
    }
    report(args, &before, Some(&after), json)
}

fn look(home: &Path) -> anyhow::Result<Found> {
    let mut older_records = 0;
    let log = super::look(home, &mut |sighting| {
        record::decode(sighting.data).map_err(|error| error.to_string())?;
        older_records += u64::from(record::is_older(sighting.data));
        Ok(())
    })?;
    if let Some(first) = log.damages.first() {
        bail!(
            "the log is damaged in {}, first in {}; `relaymesh log verify` names them all",
            places(&log.damages),
            damage_line(first)
        );
    }
    Ok(Found { log, older_records })
}

fn report(args: &Args, before: &Found, after: Option<&Found>, json: &mut Value) -> anyhow::Result<()> {
    if args.json {
        let counts = |found: &Found| {
            json!({
                "segments": found.log.segments, "records": found.log.records, "data_bytes": found.log.data_bytes,
                "older_segments": found.log.older_segments, "older_records": found.older_records,
            })
        };
        let (was, now) = (counts(before), after.map(counts));
        *json = json!({ "upgraded": now.is_some(), "before": was, "after": now });
        return Ok(());
    }
    let (segments, records) = (|count| counted(count, "segment"), |count| counted(count, "record"));
    match after {
        None => out::line(format_args!(
            "nothing to do: {} and {}, all of the newest version",
            segments(before.log.segments),
            records(before.log.records)
        ))?,
        Some(after) => out::line(format_args!(
            "written anew: {} in {}, where {} in {} were; {} and {} of those were of an older version",
            records(after.log.records),
            segments(after.log.segments),
            before.log.records,
            before.log.segments,
            records(before.older_records),
            segments(before.log.older_segments)
        ))?,
    }
    Ok(())
}
