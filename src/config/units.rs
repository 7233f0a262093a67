//! Durations and sizes as people write them.

use std::time::Duration;

use crate::limits::{DURABILITY_INTERVAL_MAX, DURABILITY_INTERVAL_MIN};
use crate::log::Durability;

/// Units of size, the longest names first.
const SIZE_UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Bytes, as in `64MiB`, `10 MB` or `4096`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let unit = SIZE_UNITS.iter().find(|(unit, _)| text.ends_with(unit));
    let (digits, factor) = match unit {
        Some((unit, factor)) => (text.strip_suffix(unit)?.trim_end(), *factor),
        None => (text, 1),
    };
    parse_count(digits)?.checked_mul(factor)
}

/// A size in the largest binary unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    match SIZE_UNITS[..4].iter().rev().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// A whole number; digits may be grouped by `_`.
pub(crate) fn parse_count(text: &str) -> Option<u64> {
    // `u64::from_str` would take a plus sign.
    text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.replace('_', "").parse().ok())?
}

/// A time, as in `30s`, `1h 30m` or `500ms`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

pub(crate) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// `sync`, `interval(100ms)`, or `interval:100ms`, which a shell takes without quotes. A number alone is milliseconds.
pub(super) fn parse_durability(text: &str) -> Option<Durability> {
    if text == "sync" {
        return Some(Durability::Sync);
    }
    let rest = text.strip_prefix("interval")?;
    let in_brackets = || rest.strip_prefix('(')?.strip_suffix(')');
    let time = rest.strip_prefix(':').or_else(in_brackets)?;
    let interval = match parse_count(time) {
        Some(millis) => Duration::from_millis(millis),
        None => parse_duration(time)?,
    };
    let is_allowed = (DURABILITY_INTERVAL_MIN..=DURABILITY_INTERVAL_MAX).contains(&interval);
    is_allowed.then_some(Durability::Interval(interval))
}

pub(super) fn show_durability(durability: Durability) -> String {
    match durability {
        Durability::Sync => "sync".to_owned(),
        Durability::Interval(interval) => format!("interval({})", show_duration(interval)),
    }
}
