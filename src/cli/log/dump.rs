//! `relaymesh log dump`: the records of a log, one a line.

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};

use anyhow::bail;
use serde_json::Value;

use super::{Home, Place, damage_line, places, records};
use crate::ids::{Namespace, QueueName};
use crate::log::Sighting;
use crate::queue::record::{self, Record};

/// Print the records of a stopped server's log in order, one a line.
///
/// Records behind a damage are printed as well and marked; the damages go to stderr, and the command ends with a failure
/// then.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) home: Home,
    /// Only those of this segment.
    #[arg(long, value_name = "N")]
    segment: Option<u64>,
    /// Only those of this kind.
    #[arg(long, value_name = "KIND", value_parser = records::KINDS)]
    kind: Option<String>,
    /// Only those about messages that this queue or mailbox has or had.
    #[arg(long, value_name = "NAME", value_parser = QueueName::parse)]
    queue: Option<QueueName>,
    /// The namespace of the queue.
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = Namespace::parse, requires = "queue")]
    namespace: Namespace,
    /// Print attributes and payloads too, not only their lengths.
    #[arg(long)]
    payloads: bool,
    /// Print JSON, an object a line.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut printed = 0;
    let outcome = args.home.for_each_log(args.json, |place, _| dump(args, place, &mut printed));
    if printed == 0 && outcome.is_ok() {
        eprintln!("relaymesh: no record matches");
    }
    outcome
}

fn dump(args: &Args, place: &Place<'_>, printed: &mut u64) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut known = HashSet::new();
    let mut written = Ok(());
    let found = super::look(place.home, &mut |sighting| {
        let record = record::decode(sighting.data).map_err(|error| error.to_string())?;
        let is_of_queue = args.queue.as_ref().is_none_or(|queue| is_of(&record, args, queue, &mut known));
        let is_wanted = is_of_queue
            && args.segment.is_none_or(|segment| segment == sighting.segment)
            && args.kind.as_deref().is_none_or(|kind| kind == records::kind(&record));
        if is_wanted && written.is_ok() {
            *printed += 1;
            written = print(&mut out, place.shard, &sighting, &record, args);
        }
        Ok(())
    })?;
    written?;
    out.flush()?;
    found.damages.iter().for_each(|damage| eprintln!("relaymesh: damage: {}", damage_line(damage)));
    if !found.damages.is_empty() {
        bail!("the log is damaged in {}", places(&found.damages));
    }
    Ok(())
}

fn print(
    out: &mut impl Write,
    shard: Option<u64>,
    sighting: &Sighting<'_>,
    record: &Record<'_>,
    args: &Args,
) -> io::Result<()> {
    let fields = records::fields(record, args.payloads);
    let kind = records::kind(record);
    if args.json {
        let mut object = serde_json::Map::new();
        object.extend(shard.map(|shard| ("shard".to_owned(), shard.into())));
        object.insert("segment".to_owned(), sighting.segment.into());
        object.insert("offset".to_owned(), sighting.offset.into());
        object.insert("bytes".to_owned(), sighting.data.len().into());
        object.insert("kind".to_owned(), kind.into());
        if sighting.is_behind_a_break {
            object.insert("behind_a_break".to_owned(), true.into());
        }
        object.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        return writeln!(out, "{}", Value::Object(object));
    }
    let mark = if sighting.is_behind_a_break { " (behind a break)" } else { "" };
    write!(out, "{:>6}:{:<10}{mark} {kind:<8}", sighting.segment, sighting.offset)?;
    for (name, value) in fields {
        write!(out, " {}", records::in_words(name, &value))?;
    }
    writeln!(out)
}

/// Whether the record is about a message of the queue; `known` has the ids of those met so far.
fn is_of(record: &Record<'_>, args: &Args, queue: &QueueName, known: &mut HashSet<u64>) -> bool {
    let is_it = |namespace: &str, name: &str| namespace == args.namespace.as_str() && name == queue.as_str();
    let is_amended = records::ids(record).iter().any(|id| known.contains(id));
    match record {
        Record::Publish(publish) => {
            let count = publish.messages.len();
            let mut targets: Vec<&str> = publish.targets.iter().map(|target| target.queue).collect();
            if targets.is_empty() {
                targets.push(publish.queue);
            }
            let mut is_one = is_amended;
            for (first, target) in (publish.first_id..).step_by(count.max(1)).zip(targets) {
                if is_it(publish.namespace, target) {
                    known.extend((first..).take(count));
                    is_one = true;
                }
            }
            is_one
        }
        Record::Snapshot(snapshot) if is_it(snapshot.namespace, snapshot.queue) => {
            known.insert(snapshot.id);
            true
        }
        Record::Copies(copies) => {
            let own = copies.iter().filter(|(copy, _)| is_it(copy.namespace, copy.queue));
            let ids: Vec<u64> = own.map(|(copy, _)| copy.id).collect();
            known.extend(&ids);
            !ids.is_empty()
        }
        Record::Binding(binding) => is_it(binding.namespace, binding.queue),
        Record::Settings(settings) => is_it(settings.namespace, settings.queue),
        Record::Schedule(schedule) => {
            schedule.plan.as_ref().is_some_and(|plan| is_it(schedule.namespace, plan.queue))
        }
        Record::Dedup(dedup) => is_it(dedup.namespace, dedup.queue),
        Record::Redriven { id, queue: target, .. } if known.contains(id) || target == &queue.as_str() => {
            is_it(args.namespace.as_str(), target)
        }
        _ => is_amended,
    }
}
