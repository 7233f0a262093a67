//! A log looked at from outside, while no server has it: every segment, batch and record, and all that is wrong.
//!
//! A start follows the chain of batches to its first break and then decides; this goes on behind each break, so that it
//! names every place. What it finds broken counts as the start would count it: below the highest position that any
//! header names as durable it is damage, and the start would refuse; beyond it is the end of what was being written,
//! and the start would cut it. A block behind a segment's last batch has no meaning and is not damage, whatever it holds.

use std::collections::{BTreeMap, BTreeSet};

use super::book::{FileKind, checkpoint_name, file_name, kind_of_file};
use super::checkpoint::Checkpoint;
use super::format::{self, BATCH_HEADER_BYTES, BatchHeader, Flaw, Identity};
use super::storage::Storage;
use super::{AlignedBuffer, Cut, LogError};
use crate::limits::LOG_BLOCK_BYTES;

const BLOCK: u64 = LOG_BLOCK_BYTES as u64;
/// Missing segments that are named one by one.
const MISSING_NAMED_MAX: usize = 1000;

/// A place that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file's name in the log directory.
    pub file: String,
    /// Where, in bytes from the start of the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// What is to be done depends on it.
    pub kind: DamageKind,
}

/// What a damage is to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamageKind {
    /// A segment is not there: a start refuses.
    Missing,
    /// A file that the log did not make: a start refuses.
    Foreign,
    /// Written by a newer version: a start refuses.
    Newer,
    /// Bytes are not as they were written: a start refuses.
    Wrong,
    /// The same, but a start reads the checkpoint of the segment instead: the server ends when it comes to read them.
    Unread,
}

/// A record whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub struct Sighting<'a> {
    /// The number of its segment.
    pub segment: u64,
    /// Where it lies, in bytes from the start of the segment's file.
    pub offset: u64,
    /// What was appended.
    pub data: &'a [u8],
    /// The chain of batches is broken before it: a start would refuse or cut before it came here.
    pub is_behind_a_break: bool,
}

/// What [`inspect`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// Bytes of one segment; 0 for a directory without any.
    pub segment_bytes: u64,
    /// Segments that hold batches.
    pub segments: u64,
    /// Segments made ready and not used yet.
    pub unused: u64,
    /// Files of segments that were being made; a start removes them.
    pub unfinished: u64,
    /// Segments with a checkpoint.
    pub checkpoints: u64,
    /// Checkpoints that are not whole: a start reads their segments instead.
    pub useless_checkpoints: u64,
    /// Segments of an older format version than this program writes.
    pub older_segments: u64,
    /// Whole batches in the chain.
    pub batches: u64,
    /// Records whose checksums are right.
    pub records: u64,
    /// Bytes of their data.
    pub data_bytes: u64,
    /// File and offset below which everything is named as durable, if a batch names any.
    pub durable: Option<(String, u64)>,
    /// File and offset of the end of the chain.
    pub end: Option<(String, u64)>,
    /// All that would make a start refuse, or end the server later, in order.
    pub damages: Vec<Damage>,
    /// What the next start would cut off: it was never said to be durable.
    pub cut: Option<Cut>,
}

/// What is said about each sound record; an error says what is wrong with its data.
type OnRecord<'a> = dyn FnMut(Sighting<'_>) -> Result<(), String> + 'a;

/// Looks at the whole log of a directory and hands over every sound record in order; what `on_record` says against one
/// counts as damage. Changes nothing. Takes memory for one segment.
///
/// # Errors
/// Only where the directory cannot be read.
pub fn inspect(storage: &dyn Storage, on_record: &mut OnRecord<'_>) -> Result<Inspection, LogError> {
    let mut walk = Walk::default();
    let (mut numbers, mut checkpoints) = (Vec::new(), BTreeMap::new());
    for entry in storage.list().map_err(LogError::io("listing", "the log directory"))? {
        match kind_of_file(&entry.name) {
            Some((number, FileKind::Segment)) => numbers.push((number, entry.bytes)),
            Some((_, FileKind::Unfinished)) => walk.found.unfinished += 1,
            Some((number, FileKind::Checkpoint)) => {
                checkpoints.insert(number, entry.bytes);
            }
            None => {
                walk.damage(DamageKind::Foreign, entry.name, 0, "a file that the log did not make".to_owned())
            }
        }
    }
    if let (true, Some((&number, _))) = (numbers.is_empty(), checkpoints.first_key_value()) {
        walk.damage(
            DamageKind::Missing,
            checkpoint_name(number),
            0,
            "all segments are missing, and it was made beside one".to_owned(),
        );
    }
    numbers.sort_unstable();
    walk.found.segment_bytes = usual_length(&numbers);
    let mut buffer = AlignedBuffer::default();
    for (at, &(number, bytes)) in numbers.iter().enumerate() {
        let next = at.checked_sub(1).map_or(number, |before| numbers[before].0 + 1);
        if next < number {
            walk.missing(next, number - 1);
        }
        let name = file_name(number);
        buffer.clear();
        buffer.resize((bytes / BLOCK * BLOCK) as usize);
        let file = storage.open(&name).map_err(LogError::io("opening", &name))?;
        file.read(0, buffer.as_mut_slice()).map_err(LogError::io("reading", &name))?;
        if bytes != walk.found.segment_bytes {
            let expected = walk.found.segment_bytes;
            walk.damage(
                DamageKind::Wrong,
                name,
                bytes,
                format!("{bytes} bytes long where the other segments have {expected}"),
            );
        }
        walk.segment(number, buffer.as_slice(), on_record);
        if let Some(&length) = checkpoints.get(&number) {
            let identity = format::read_segment_header(buffer.as_slice()).ok();
            let checkpoint = identity.and_then(|identity| Checkpoint::load(storage, &identity, length));
            if checkpoint.is_some() && bytes == walk.found.segment_bytes {
                walk.spared.insert(number);
            }
            let found = &mut walk.found;
            *(if checkpoint.is_some() { &mut found.checkpoints } else { &mut found.useless_checkpoints }) +=
                1;
        }
    }
    walk.finish(numbers.first().map_or(0, |first| first.0));
    Ok(walk.found)
}

/// The length that most segments have.
fn usual_length(segments: &[(u64, u64)]) -> u64 {
    let count = |bytes: u64| segments.iter().filter(|segment| segment.1 == bytes).count();
    segments.iter().map(|segment| segment.1).max_by_key(|&bytes| (count(bytes), bytes)).unwrap_or(0)
}

/// A place: segment and offset in it.
type Place = (u64, u64);

/// Something broken, until it is known whether it matters.
struct Suspect {
    /// The batch, or where one should begin.
    at: Place,
    /// What is wrong, and at which offset.
    damages: Vec<(u64, String)>,
    /// Its header is sound.
    has_header: bool,
    /// There is a trace of a batch.
    is_trace: bool,
}

#[derive(Default)]
struct Walk {
    found: Inspection,
    /// The newest batch whose header was sound, in the chain or behind a break of it.
    last: Option<BatchHeader>,
    /// Where the last batch ends that a start would take.
    end: Option<Place>,
    /// What was met since the last whole batch. It means nothing if the next whole batch follows that one.
    pending: Vec<Suspect>,
    /// Breaks of the chain.
    breaks: Vec<Suspect>,
    /// Segments of which a start reads the checkpoint.
    spared: BTreeSet<u64>,
    /// Sound headers of batches, and where the last batch ends that any of them speaks of.
    headers: u64,
    reach: Place,
    /// Highest position named as durable, and highest segment named as the oldest one needed.
    durable: u64,
    oldest_needed: u64,
}

impl Walk {
    fn damage(&mut self, kind: DamageKind, file: String, offset: u64, what: String) {
        self.found.damages.push(Damage { file, offset, what, kind });
    }

    fn missing(&mut self, first: u64, last: u64) {
        for number in (first..=last).take(MISSING_NAMED_MAX) {
            self.damage(DamageKind::Missing, file_name(number), 0, "the segment is missing".to_owned());
        }
        self.forget_the_chain();
    }

    /// A whole segment cannot be read, which is damage enough: what lies behind it follows nothing that is there.
    fn forget_the_chain(&mut self) {
        self.last = None;
        self.pending.clear();
    }

    fn segment(&mut self, number: u64, bytes: &[u8], on_record: &mut OnRecord<'_>) {
        let file = file_name(number);
        let identity = match format::read_segment_header(bytes) {
            Ok(identity) if identity.segment == number && identity.segment_bytes == bytes.len() as u64 => {
                identity
            }
            Ok(other) if other.segment == number => {
                let what = format!("the header of a segment of {} bytes", other.segment_bytes);
                self.damage(DamageKind::Wrong, file, 0, what);
                other
            }
            Err(Flaw::Newer(found)) => {
                let known = format::FORMAT_VERSION;
                self.damage(
                    DamageKind::Newer,
                    file,
                    0,
                    format!("log format {found}; this program reads up to {known}"),
                );
                return self.forget_the_chain();
            }
            refused => {
                let flaw = refused.err().unwrap_or(Flaw::Foreign);
                self.damage(DamageKind::Wrong, file, 0, format!("{flaw} (the segment's own header)"));
                let Some(identity) = identity_by_batches(number, bytes) else {
                    return self.forget_the_chain();
                };
                identity
            }
        };
        self.found.older_segments += u64::from(format::segment_version(bytes) < format::FORMAT_VERSION);
        let before = self.headers;
        let mut at = BLOCK;
        while at < bytes.len() as u64 {
            at = self.batch(&bytes[at as usize..], &identity, at, on_record);
        }
        *(if self.headers > before { &mut self.found.segments } else { &mut self.found.unused }) += 1;
    }

    /// Looks at what begins at `at`; returns where to look next.
    fn batch(&mut self, bytes: &[u8], identity: &Identity, at: u64, on_record: &mut OnRecord<'_>) -> u64 {
        let place = (identity.segment, at);
        let header = match format::read_batch_header(bytes, identity, at) {
            Ok(header) => header,
            Err(flaw) => {
                // Where a batch was awaited this may be the end of the segment; the blocks that follow say nothing new.
                let is_trace = matches!(flaw, Flaw::Header | Flaw::Newer(_));
                if self.pending.last().is_none_or(|last| last.at.0 != place.0 || last.has_header) {
                    let damages = vec![(at, flaw.to_string())];
                    self.pending.push(Suspect { at: place, damages, has_header: false, is_trace });
                }
                return at + BLOCK;
            }
        };
        self.durable = self.durable.max(header.durable);
        self.oldest_needed = self.oldest_needed.max(header.oldest_segment);
        self.headers += 1;
        let end = at + header.batch_bytes() as u64;
        self.reach = self.reach.max((place.0, end));
        let checked = format::check_batch(bytes, identity, at);
        self.link(place, &header, checked.is_ok());
        let is_behind_a_break = !self.breaks.is_empty() || !self.pending.is_empty() || checked.is_err();
        let mut seen = |record: usize, data: &[u8], found: &mut Inspection| {
            let offset = at + record as u64;
            found.records += 1;
            found.data_bytes += data.len() as u64;
            let sighting = Sighting { segment: place.0, offset, data, is_behind_a_break };
            if let Err(what) = on_record(sighting) {
                found.damages.push(Damage {
                    file: file_name(place.0),
                    offset,
                    what,
                    kind: DamageKind::Wrong,
                });
            }
        };
        if checked.is_ok() {
            format::records(bytes, &header).for_each(|(record, data)| seen(record, data, &mut self.found));
            self.found.batches += 1;
            if !is_behind_a_break {
                self.end = Some((place.0, end));
            }
            self.last = Some(header);
            return end;
        }
        let damages = flaws_of_batch(bytes, identity, at, &header, |record, data| {
            seen(record, data, &mut self.found);
        });
        self.pending.push(Suspect { at: place, damages, has_header: true, is_trace: true });
        // The header is right, and with it the length.
        if end <= identity.segment_bytes { end } else { at + BLOCK }
    }

    /// Decides about what was pending when a batch with a sound header is met.
    fn link(&mut self, place: Place, header: &BatchHeader, is_whole: bool) {
        let follows =
            |before: &BatchHeader| header.number == before.number + 1 && header.previous_crc == before.crc;
        if self.last.as_ref().is_some_and(follows) {
            // A batch that nobody was answered for may be left behind where a segment ends.
            self.pending.clear();
            return;
        }
        let is_first = self.last.is_none() && self.pending.is_empty();
        if is_first || !is_whole {
            return;
        }
        let before = self.last.map_or(0, |last| last.number);
        if self.pending.is_empty() {
            let what = format!("batch {} does not follow batch {before}", header.number);
            let damages = vec![(place.1, what)];
            self.pending.push(Suspect { at: place, damages, has_header: true, is_trace: true });
        }
        // With fewer batches missing than places where one is not, some of these are only where a segment ends.
        let missing = header.number.saturating_sub(before + 1).max(1);
        let is_end = |suspect: &Suspect| !suspect.is_trace && suspect.at.1 != BLOCK;
        while self.pending.len() as u64 > missing
            && let Some(at) = self.pending.iter().position(is_end)
        {
            self.pending.remove(at);
        }
        self.breaks.append(&mut self.pending);
    }

    fn finish(&mut self, first: u64) {
        let segment_bytes = self.found.segment_bytes.max(BLOCK);
        let named = |place: Place| (file_name(place.0), place.1);
        self.found.end = self.end.map(named);
        if self.durable > 0 {
            self.found.durable = Some(named((self.durable / segment_bytes, self.durable % segment_bytes)));
        }
        if first > self.oldest_needed && self.oldest_needed > 0 {
            self.missing(self.oldest_needed, first - 1);
        }
        let (breaks, pending) = (std::mem::take(&mut self.breaks), std::mem::take(&mut self.pending));
        // Behind the last whole batch there is something to be cut only from the segment on that has a trace of it.
        let traced = pending.iter().find(|suspect| suspect.is_trace).map_or(u64::MAX, |suspect| suspect.at.0);
        let pending = pending.into_iter().filter(|suspect| {
            suspect.at.0 >= traced || suspect.at.0 * segment_bytes + suspect.at.1 < self.durable
        });
        let mut cut_at = None;
        for Suspect { at, damages, .. } in breaks.into_iter().chain(pending.collect::<Vec<_>>()) {
            if at.0 * segment_bytes + at.1 >= self.durable {
                cut_at = cut_at.or(Some(at));
                continue;
            }
            let kind = if self.spared.contains(&at.0) { DamageKind::Unread } else { DamageKind::Wrong };
            let damages = damages.into_iter();
            damages.for_each(|(offset, what)| self.damage(kind, file_name(at.0), offset, what));
        }
        if let Some((segment, offset)) = cut_at {
            let reach = self.reach.0.saturating_sub(segment) * segment_bytes + self.reach.1;
            let bytes = if self.reach > (segment, offset) { reach - offset } else { BLOCK };
            self.found.cut = Some(Cut { file: file_name(segment), offset, bytes });
        }
        self.found.damages.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    }
}

/// What a batch says of its segment, where the segment's own header is gone.
fn identity_by_batches(number: u64, bytes: &[u8]) -> Option<Identity> {
    let segment_bytes = bytes.len() as u64;
    (BLOCK..segment_bytes).step_by(LOG_BLOCK_BYTES).find_map(|at| {
        let batch = &bytes[at as usize..];
        let identity = Identity { segment: number, salt: format::batch_salt(batch)?, segment_bytes };
        format::read_batch_header(batch, &identity, at).is_ok().then_some(identity)
    })
}

/// All that is wrong with a batch whose header is right: a wrong record is stepped over where its length leads to a right
/// one or to the end. The right ones go to `on_record`, with their offsets in the batch.
pub(super) fn flaws_of_batch(
    bytes: &[u8],
    identity: &Identity,
    offset: u64,
    header: &BatchHeader,
    mut on_record: impl FnMut(usize, &[u8]),
) -> Vec<(u64, String)> {
    let Some(batch) = bytes.get(..header.batch_bytes()) else {
        return vec![(offset, Flaw::Short(header.batch_bytes()).to_string())];
    };
    let mut flaws = Vec::new();
    let payload_end = BATCH_HEADER_BYTES + header.payload_bytes as usize;
    let (mut at, mut records) = (BATCH_HEADER_BYTES, 0);
    while at < payload_end {
        let rest = &batch[at..payload_end];
        records += 1;
        if let Some(data) = format::check_record(rest, identity, offset + at as u64) {
            on_record(at, data);
            at += format::RECORD_HEADER_BYTES + data.len();
            continue;
        }
        flaws.push((offset + at as u64, "a record does not match its checksum".to_owned()));
        let after = at + format::RECORD_HEADER_BYTES + format::record_len(rest);
        let is_right = after == payload_end
            || batch[..payload_end]
                .get(after..)
                .is_some_and(|next| format::check_record(next, identity, offset + after as u64).is_some());
        if !is_right {
            let lost = u64::from(header.records).saturating_sub(records);
            if lost > 0 {
                let what = format!("{lost} records of the batch cannot be told apart behind a wrong one");
                flaws.push((offset + at as u64, what));
            }
            return flaws;
        }
        at = after;
    }
    if records != u64::from(header.records) {
        flaws.push((offset, format!("{records} records where the batch says {}", header.records)));
    }
    if let Some(padding) = batch[payload_end..].iter().position(|&byte| byte != 0) {
        flaws.push((offset + (payload_end + padding) as u64, Flaw::Padding.to_string()));
    }
    flaws
}
