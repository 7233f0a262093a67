//! When a cron expression comes due in a time zone.
//!
//! Pure: the time zones are part of the program, no file of the system is read, so that a schedule means the same on every
//! machine. An expression has five fields (minute, hour, day of month, month, day of week), or six with seconds before them,
//! or is `@daily` and the like. Where day of month and day of week are both given either will do, as cron always had it.
//!
//! Where clocks change: an expression with one time of day (`30 2 * * *`) comes due once on every day: at the first moment after
//! the gap if that time is left out, and the first time if it comes twice. Any other one comes due at every local time it names:
//! not at those that are left out, and both times at those that come twice.

use std::fmt::Write as _;

use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, Zoned};

use crate::clock::Wall;
use crate::limits;

const NICKNAMES: [&str; 6] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];
const SECOND_MS: u64 = 1000;
/// Changes of the clocks behind which a search that was led astray is taken up again.
const CHANGES_MAX: usize = 4;

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Cron {
    pattern: croner::Cron,
    zone: TimeZone,
}

/// Why an expression or a time zone was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The expression is too long.
    #[error("the cron expression has {0} bytes; at most {max} are allowed", max = limits::CRON_BYTES_MAX)]
    Long(usize),
    /// A character that no expression has.
    #[error("the cron expression has {found:?} at character {at}, which no expression has")]
    Character {
        /// Which character, from 1.
        at: usize,
        /// The character.
        found: char,
    },
    /// A name with an @ that is none of the known ones.
    #[error("{0:?} is no cron expression; there are {names}", names = NICKNAMES.join(", "))]
    Nickname(String),
    /// Too few or too many fields.
    #[error(
        "the cron expression has {0} fields; it needs 5 (minute, hour, day of month, month, day of week), or 6 with \
         the second before them"
    )]
    Fields(usize),
    /// A field that cannot be read.
    #[error("field {number} of the cron expression, {text:?} at character {at}, is no {name}: {why}")]
    Field {
        /// Which, from 1.
        number: usize,
        /// Where it begins, in characters from 1.
        at: usize,
        /// What stands there.
        text: String,
        /// What it should be.
        name: &'static str,
        /// What is wrong with it, or else what is allowed there.
        why: String,
    },
    /// The fields do not go together.
    #[error("the cron expression cannot be used: {0}")]
    Whole(String),
    /// No such time zone.
    #[error("{0:?} is no time zone; give one of the IANA database, such as UTC or Europe/Berlin")]
    Zone(String),
    /// It never comes due.
    #[error("the cron expression never comes due: no month has such a day")]
    Never,
}

/// Name and allowed values of each field of an expression with seconds.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0 to 59, with * , - and /"),
    ("minute", "0 to 59, with * , - and /"),
    ("hour", "0 to 23, with * , - and /"),
    ("day of month", "1 to 31, L for the last one, with * , - and /"),
    ("month", "1 to 12 or jan to dec, with * , - and /"),
    ("day of week", "0 to 7 or sun to sat, both 0 and 7 being Sunday, with * , - and /, and fri#2 or friL"),
];

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Cron {
    /// Reads an expression and finds its time zone.
    ///
    /// # Errors
    /// [`CronError`] says what is wrong, where, and what is allowed.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, CronError> {
        if expression.len() > limits::CRON_BYTES_MAX {
            return Err(CronError::Long(expression.len()));
        }
        let is_strange = |c: &(usize, char)| !(c.1.is_ascii_graphic() || c.1 == ' ' || c.1 == '\t');
        if let Some((at, found)) = expression.chars().enumerate().find(is_strange) {
            return Err(CronError::Character { at: at + 1, found });
        }
        let expression = expression.trim();
        if expression.starts_with('@') && !NICKNAMES.iter().any(|name| name.eq_ignore_ascii_case(expression))
        {
            return Err(CronError::Nickname(expression.to_owned()));
        }
        let known = TimeZoneDatabase::bundled().get(zone);
        let zone = known.map_err(|_| CronError::Zone(zone.chars().take(limits::CRON_BYTES_MAX).collect()))?;
        let pattern = parser().parse(expression).map_err(|error| locate(expression, &error.to_string()))?;
        let cron = Self { pattern, zone };
        // Any time will do: leap years come back.
        cron.next_after(Wall(0)).map(|_| cron).ok_or(CronError::Never)
    }

    /// The first time it comes due after `wall`, in whole seconds; `None` if it never does.
    #[must_use]
    pub fn next_after(&self, wall: Wall) -> Option<Wall> {
        let from = self.zoned(wall)?;
        let search = |from: &Zoned, is_inclusive| self.pattern.find_next_occurrence(from, is_inclusive).ok();
        let next = search(&from, false).or_else(|| {
            // A zone that leaves a whole day out leads the search astray; behind that day it goes on.
            let mut changes = self.zone.following(from.timestamp()).take(CHANGES_MAX);
            changes.find_map(|change| search(&change.timestamp().to_zoned(self.zone.clone()), true))
        });
        wall_of(&next?).filter(|&next| next > wall)
    }

    /// The last time it came due up to `wall`, in whole seconds; `None` if it never did.
    #[must_use]
    pub fn latest_until(&self, wall: Wall) -> Option<Wall> {
        let from = self.zoned(wall)?;
        let search = |from: &Zoned| self.pattern.find_previous_occurrence(from, true).ok();
        let latest = search(&from).or_else(|| {
            let mut changes = self.zone.preceding(from.timestamp()).take(CHANGES_MAX);
            changes.find_map(|change| {
                let before = change.timestamp().checked_sub(SignedDuration::from_secs(1)).ok()?;
                search(&before.to_zoned(self.zone.clone()))
            })
        });
        wall_of(&latest?).filter(|&latest| latest <= wall)
    }

    /// `wall` as its time zone writes it, in RFC 3339 to the second: `2026-03-29T03:00:00+02:00`.
    #[must_use]
    pub fn local(&self, wall: Wall) -> String {
        let mut text = String::new();
        if let Some(zoned) = self.zoned(wall) {
            // Formatting a time that exists into memory does not fail.
            let _ = write!(text, "{}", zoned.strftime("%Y-%m-%dT%H:%M:%S%:z"));
        }
        text
    }

    /// The whole second that `wall` lies in.
    fn zoned(&self, wall: Wall) -> Option<Zoned> {
        let second = i64::try_from(wall.0 / SECOND_MS).ok()?;
        Some(Timestamp::from_second(second).ok()?.to_zoned(self.zone.clone()))
    }
}

fn wall_of(zoned: &Zoned) -> Option<Wall> {
    u64::try_from(zoned.timestamp().as_second()).ok().map(|second| Wall(second * SECOND_MS))
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build()
}

/// Which field of an expression is to blame.
fn locate(expression: &str, error: &str) -> CronError {
    let fields: Vec<&str> = expression.split_ascii_whitespace().collect();
    if fields.len() != 5 && fields.len() != 6 {
        return CronError::Fields(fields.len());
    }
    let names = &FIELDS[FIELDS.len() - fields.len()..];
    for (index, text) in fields.iter().enumerate() {
        let mut alone = vec!["*"; fields.len()];
        alone[index] = text;
        if parser().parse(&alone.join(" ")).is_err() {
            // It is ASCII, so that bytes are characters.
            let at = text.as_ptr() as usize - expression.as_ptr() as usize + 1;
            let (name, allowed) = names[index];
            let why = text.split(',').find_map(misused);
            let why = why.unwrap_or_else(|| format!("it is {allowed}"));
            return CronError::Field { number: index + 1, at, text: (*text).to_owned(), name, why };
        }
    }
    CronError::Whole(error.to_owned())
}

/// What is wrong with one part of a field, where it is how numbers and names are put together.
fn misused(part: &str) -> Option<String> {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|step| step.parse() == Ok(0)) {
        return Some(format!("the step of {part} is 0; the least is 1"));
    }
    match range.split_once('-') {
        Some((first, last)) if place(first)? > place(last)? => {
            Some(format!("the range {range} ends before it begins"))
        }
        None if step.is_some() && place(range).is_some() => {
            Some(format!("{part} has a step without a range; write * or a range, such as 5-59, before the /"))
        }
        _ => None,
    }
}

/// A number, or what a name stands for.
fn place(text: &str) -> Option<usize> {
    let find = |names: &[&str]| names.iter().position(|name| name.eq_ignore_ascii_case(text));
    text.parse().ok().or_else(|| find(&MONTHS).map(|at| at + 1)).or_else(|| find(&DAYS))
}

#[cfg(test)]
mod tests;
