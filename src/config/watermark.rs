//! Marks of free space on a disk, as a share of it, in bytes, or the lesser of both.

use super::units::{parse_count, parse_size, show_size};

/// So much of a disk should be free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    /// Of the whole file system, in percent.
    pub percent: Option<u64>,
    /// In bytes. With both, what is less on the disk at hand: a share of a small disk, not more than this of a large one.
    pub bytes: Option<u64>,
}

impl Watermark {
    /// What is written between a share and a size.
    const OR: &'static str = " or ";
    /// What a text of one may say.
    pub(super) const ALLOWED: &'static str = "free space as a share such as 5%, a size such as 2GiB, \"5% or 2GiB\" \
                                              for what is less, or 0 for never";

    pub(super) const fn new(percent: u64, bytes: u64) -> Self {
        Self { percent: Some(percent), bytes: Some(bytes) }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some((share, size)) = text.split_once(Self::OR) {
            return Some(Self { percent: Some(parse_percent(share)?), bytes: Some(parse_size(size)?) });
        }
        match parse_percent(text) {
            Some(percent) => Some(Self { percent: Some(percent), bytes: None }),
            None => Some(Self { percent: None, bytes: Some(parse_size(text)?) }),
        }
    }

    /// As it may be written.
    #[must_use]
    pub fn show(&self) -> String {
        let share = self.percent.map(|percent| format!("{percent}%"));
        let size = self.bytes.map(|bytes| if bytes == 0 { "0".to_owned() } else { show_size(bytes) });
        share.into_iter().chain(size).collect::<Vec<_>>().join(Self::OR)
    }

    /// Bytes that should be free on a disk of `total` bytes.
    #[must_use]
    pub fn of(&self, total: u64) -> u64 {
        let share = self.percent.map(|percent| total / 100 * percent + total % 100 * percent / 100);
        share.into_iter().chain(self.bytes).min().unwrap_or(0)
    }
}

fn parse_percent(text: &str) -> Option<u64> {
    parse_count(text.trim().strip_suffix('%')?).filter(|percent| *percent <= 100)
}
