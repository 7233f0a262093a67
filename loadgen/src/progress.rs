//! The line that moves while a run goes on.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far a run is. Draws nothing when its output is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Counts `what` up to `total`.
    pub(crate) fn counting(total: u64, what: &'static str, quiet: bool) -> Self {
        let template = "{elapsed_precise} [{wide_bar}] {human_pos}/{human_len} {msg} {per_sec} eta {eta}";
        Self::new(total, template, what, quiet)
    }

    /// Counts milliseconds up to `length`.
    pub(crate) fn timing(length: Duration, what: &'static str, quiet: bool) -> Self {
        Self::new(length.as_millis() as u64, "{elapsed_precise} [{wide_bar}] {msg}", what, quiet)
    }

    fn new(total: u64, template: &str, what: &'static str, quiet: bool) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(total) };
        bar.set_length(total);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Self { bar }
    }

    pub(crate) fn set(&self, position: u64) {
        self.bar.set_position(position);
    }

    pub(crate) fn say(&self, text: String) {
        self.bar.set_message(text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
