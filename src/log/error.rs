//! What can go wrong with the log, and what to do about it.

use std::io;

/// Why the log cannot be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process holds the data directory.
    #[error(
        "the data directory {directory} is in use by another process{holder}; stop it, or choose another directory"
    )]
    Locked {
        /// The directory.
        directory: String,
        /// ` (pid N)`, or nothing where it is not known.
        holder: String,
    },
    /// The directory itself could not be used.
    #[error("{what} failed in {directory}: {cause}{}", remedy(cause))]
    Directory {
        /// The directory.
        directory: String,
        /// What was attempted.
        what: &'static str,
        /// Why it failed; the text has it, and as a source it would be told twice.
        cause: io::Error,
    },
    /// A data directory to be looked at that is none.
    #[error("{directory} is not the data directory of a server, which has a directory `log`{hint}")]
    NoLog {
        /// The directory.
        directory: String,
        /// Which may be meant, or nothing.
        hint: String,
    },
    /// A file operation failed. On a segment in use this ends the process: it is never retried.
    #[error("{what} of {file} failed: {cause}{}", remedy(cause))]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file's name in the log directory.
        file: String,
        /// Why it failed; the text has it, and as a source it would be told twice.
        cause: io::Error,
    },
    /// Bytes that were durable are not what was written.
    #[error(
        "{file} is damaged at byte {offset} ({flaw}), and the log says that everything below position {durable} was \
         durable; restore the directory from a copy, or move {file} and all later segments away to go on with \
         what lies before, losing what they hold (`relaymesh log dump` prints what can still be read)"
    )]
    Damaged {
        /// The segment's file name.
        file: String,
        /// Where the damage begins, in bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        flaw: String,
        /// The highest position the log names as durable.
        durable: u64,
    },
    /// Written by a newer version of this program.
    #[error(
        "{file} has log format {found}; this program reads up to {known}. Start the version that wrote it, or a newer one"
    )]
    Newer {
        /// The segment's file name.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// A segment between others, or the oldest one needed, is not there.
    #[error("{file} is missing from the log directory; put it back, or restore the directory from a copy")]
    Missing {
        /// The name the segment should have.
        file: String,
    },
    /// Checkpoints of segments, and no segment.
    #[error(
        "all segments are missing from the log directory, which still has {file}, made beside one; put them back, or \
         restore the directory from a copy; or, to begin anew without the messages they held, move the checkpoints \
         (*.heads) away"
    )]
    AllMissing {
        /// The name of a checkpoint.
        file: String,
    },
    /// A file that the log did not make.
    #[error("{file} in the log directory is not a segment; move it away")]
    Foreign {
        /// Its name.
        file: String,
    },
    /// A segment shorter or longer than it was made.
    #[error("{file} has {found} bytes where a segment has {expected}; restore it from a copy")]
    Length {
        /// The segment's file name.
        file: String,
        /// Its length in bytes.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// The configured segment size is not that of the log.
    #[error(
        "segment_bytes is {configured} but this log was made with {found}; set segment_bytes = {found}, it cannot change"
    )]
    SegmentBytes {
        /// What the configuration says.
        configured: u64,
        /// What the log was made with.
        found: u64,
    },
}

impl LogError {
    pub(super) fn io(what: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |cause| Self::Io { what, file, cause }
    }
}

/// What to do about it, where that is known.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "; let the user who runs this read and write it",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "; name a directory, not a file",
        io::ErrorKind::StorageFull => "; free some space",
        io::ErrorKind::ReadOnlyFilesystem => "; mount the file system so that it can be written",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_and_with_the_remedy() {
        let cause = || io::Error::from(rustix::io::Errno::ACCESS);
        let file = LogError::io("opening", "000000000001.seg")(cause());
        let directory =
            LogError::Directory { directory: "/data".to_owned(), what: "locking", cause: cause() };
        for error in [file, directory] {
            let told = format!("{:#}", anyhow::Error::from(error));
            assert_eq!(told.matches("ermission denied").count(), 1, "{told}");
            assert!(told.contains("read and write it"), "{told}");
        }
    }
}
