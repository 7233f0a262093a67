//! `relaymesh log verify`: every segment, batch and record of a log, and all that is wrong with them.

use std::collections::BTreeMap;

use anyhow::bail;
use serde_json::{Value, json};

use super::{Home, Place, damage_line, inspection_json, places, records};
use crate::cli::{out, table};
use crate::log::{Damage, DamageKind, Inspection};
use crate::queue::record;

/// Check every segment, batch and record of a stopped server's log.
///
/// Names every damage with its segment, its offset in the file and what it is, and what the next start would cut off
/// because it was never said to be durable. Changes nothing. Ends with a failure when there is damage: a start would
/// refuse too, or the server end when it comes to read that message.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) home: Home,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args, place: &Place<'_>, json: &mut Value) -> anyhow::Result<()> {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let looked = super::look(place.home, &mut |sighting| {
        let record = record::decode(sighting.data).map_err(|error| error.to_string())?;
        *kinds.entry(records::kind(&record)).or_default() += 1;
        Ok(())
    });
    // Of several, one that cannot be read is one of the answers.
    if let (Err(error), true, Some(_)) = (&looked, args.json, place.shard) {
        *json = json!({ "ok": false, "error": format!("{error:#}") });
    }
    let found = looked?;
    if args.json {
        *json = inspection_json(&found);
        json["records_by_kind"] = json!(kinds);
    } else {
        out::text(format_args!("{}", report(&found, &kinds)))?;
    }
    if !found.damages.is_empty() {
        bail!(told(&found.damages));
    }
    Ok(())
}

/// What is wrong, what comes of it and what to do.
fn told(damages: &[Damage]) -> String {
    let mut kinds: Vec<DamageKind> = damages.iter().map(|damage| damage.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let comes = if kinds == [DamageKind::Unread] {
        "; a start does not read that far, and the server ends when it comes to read it"
    } else {
        ", and a start refuses it"
    };
    let is_damaged = kinds != [DamageKind::Foreign];
    let what = if is_damaged { "is damaged in" } else { "has files that it did not make in" };
    let mut remedies: Vec<&str> = kinds.into_iter().map(remedy).collect();
    remedies.dedup();
    format!("the log {what} {}{comes}: {}", places(damages), remedies.join("; "))
}

fn remedy(kind: DamageKind) -> &'static str {
    match kind {
        DamageKind::Missing => "put the missing segments back, or restore the directory from a copy",
        DamageKind::Foreign => "move the files away that the log did not make",
        DamageKind::Newer => "use the version that wrote it, or a newer one",
        DamageKind::Wrong | DamageKind::Unread => {
            "restore the directory from a copy, or move the first damaged segment and all later ones away to go on with \
             what lies before, losing what they hold (`relaymesh log dump` prints what can still be read)"
        }
    }
}

fn report(found: &Inspection, kinds: &BTreeMap<&str, u64>) -> String {
    let mut text = String::new();
    for damage in &found.damages {
        text += &format!("damage: {}\n", damage_line(damage));
    }
    if let Some(cut) = &found.cut {
        text += &format!(
            "{} from byte {}: {} would be cut off at the next start; it was never said to be durable\n",
            cut.file,
            cut.offset,
            table::size(cut.bytes)
        );
    }
    let place = |place: &Option<(String, u64)>| match place {
        Some((file, offset)) => format!("{file} byte {offset}"),
        None => "-".to_owned(),
    };
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let rows = [
        ("segments", format!("{}, {} unused", found.segments, found.unused)),
        ("checkpoints", format!("{}, {} useless", found.checkpoints, found.useless_checkpoints)),
        ("batches", found.batches.to_string()),
        ("records", found.records.to_string()),
        ("kinds", kinds.join(", ")),
        ("data", table::size(found.data_bytes)),
        ("durable to", place(&found.durable)),
        ("end", place(&found.end)),
    ];
    for (name, value) in rows {
        text += &format!("{name:<11} {value}\n");
    }
    text
}
