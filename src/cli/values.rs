//! What options are given: times, numbers and names as people type them.
//!
//! What may not be is refused here, before anything is sent, by a text that says what is allowed.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::config::units;
use crate::limits::{LEASE_MAX, LEASE_MIN};

/// The messages of a server count in it: what is shorter would be none.
const SHORTEST: Duration = Duration::from_millis(1);
/// `2027-01-31`.
const DAY_CHARS: usize = 10;

/// How long, in milliseconds at the least; or 0.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let time = units::parse_duration(text);
    let time = time.ok_or("a time is a number with its unit, such as 500ms, 10s, 5m or 2h")?;
    if time > Duration::ZERO && time < SHORTEST {
        return Err("1ms is the least, unless it is 0s".to_owned());
    }
    Ok(time)
}

/// How long a message may wait, where 0 would leave that to its queue.
pub(super) fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text).ok().filter(|&ttl| ttl >= SHORTEST);
    ttl.ok_or_else(|| {
        "1ms is the least; write it like 10s, 5m or 2h, or leave the option out for the queue's own"
            .to_owned()
    })
}

/// How long a lease lasts, within what a queue may be set to.
pub(super) fn parse_lease(text: &str) -> Result<Duration, String> {
    let lease = parse_duration(text).ok().filter(|lease| (LEASE_MIN..=LEASE_MAX).contains(lease));
    lease.ok_or_else(|| {
        let (min, max) = (units::show_duration(LEASE_MIN), units::show_duration(LEASE_MAX));
        format!("a lease lasts from {min} to {max}; leave the option out for the queue's own")
    })
}

/// A moment: RFC 3339, or without a zone in local time.
pub(super) fn parse_time(text: &str) -> Result<SystemTime, String> {
    let absolute = match text.parse::<Timestamp>() {
        Ok(timestamp) => return Ok(timestamp.into()),
        Err(error) => error,
    };
    let local = text.parse::<DateTime>().and_then(|local| local.to_zoned(TimeZone::system()));
    match local {
        Ok(zoned) => Ok(zoned.timestamp().into()),
        Err(error) => Err(why_no_time(text, &[absolute, error])),
    }
}

fn why_no_time(text: &str, errors: &[jiff::Error]) -> String {
    let day = text.get(..DAY_CHARS).filter(|day| is_like_a_day(day));
    match day {
        Some(day) if day.parse::<Date>().is_err() => format!("there is no day {day}"),
        Some(_) if errors.iter().any(jiff::Error::is_range) => {
            format!("out of range: the day has 24 hours, and the last time there is is {:.0}", Timestamp::MAX)
        }
        _ => "neither RFC 3339 (2027-01-31T18:00:00Z) nor a local date and time (2027-01-31T18:00:00)"
            .to_owned(),
    }
}

fn is_like_a_day(text: &str) -> bool {
    let is_like =
        |(at, byte): (usize, u8)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() };
    text.bytes().enumerate().all(is_like)
}

/// An attribute, whose value may be empty.
pub(super) fn parse_attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("an attribute is given as name=value".to_owned()),
    }
}

/// A text that would be none if it were empty.
pub(super) fn parse_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty; leave the option out to say nothing".to_owned());
    }
    Ok(text.to_owned())
}

/// The id of a message, or the number of a job.
pub(super) fn parse_id(text: &str) -> Result<u64, String> {
    units::parse_count(text).ok_or_else(|| "it is a whole number".to_owned())
}

/// How many, one at the least.
pub(super) fn parse_count(text: &str) -> Result<u64, String> {
    let count = units::parse_count(text).filter(|&count| count > 0);
    count.ok_or_else(|| "it is a whole number from 1 on".to_owned())
}

/// Of two values for one name, one would be forgotten without a word.
pub(super) fn refuse_repeated<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            bail!("the {what} {name:?} is given twice: give it once");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
