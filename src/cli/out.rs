//! Results on stdout.

use std::fmt;
use std::io::{self, Write as _};

/// Prints a line.
///
/// # Errors
/// When stdout takes no more. That its reader has seen enough (`| head`) is for [`is_reader_gone`] to tell.
pub(super) fn line(what: fmt::Arguments<'_>) -> io::Result<()> {
    text(format_args!("{what}\n"))
}

/// Prints text as it is. Errors as [`line`].
pub(super) fn text(what: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_fmt(what)?;
    stdout.flush()
}

/// Whether a command failed only because nobody reads what it prints.
pub(super) fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
