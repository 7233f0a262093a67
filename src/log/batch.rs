//! What the committer's thread is handed: a batch to be written, or the word to sync what was written.

use std::sync::Arc;

use super::book::file_name;
use super::storage::StorageFile;
use super::{AlignedBuffer, LogError, Ticket};

/// A batch on its way to the disk.
#[derive(Debug)]
#[must_use]
pub struct Batch {
    /// What is committed with it, if it is the [last](Self::completes) of its ticket.
    pub ticket: Ticket,
    /// The ticket is committed once this batch is.
    pub completes: bool,
    /// Records in it.
    pub records: u32,
    pub(super) how: How,
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) oldest_segment: u64,
    pub(super) bytes: AlignedBuffer,
    pub(super) file: Arc<dyn StorageFile>,
}

/// What is done to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The bytes are durable on return.
    WriteDurably,
    /// The bytes are with the system on return, which outlives the process.
    Write,
    /// No bytes; all that was written before is durable on return.
    Sync,
}

impl Batch {
    /// Writes it, or syncs. Batches must be written one at a time in the order they were sealed, and after an error no
    /// other one may be written.
    ///
    /// # Errors
    /// [`LogError::Io`]: the process must stop. A sync that failed is not tried again: nobody knows what it left out.
    pub fn write(&self) -> Result<(), LogError> {
        self.write_telling(&mut || {})
    }

    /// As [`Batch::write`]; `written` is called when it will be durable in about as long as a thread takes to wake up, where
    /// the disk lets that be known.
    ///
    /// # Errors
    /// As [`Batch::write`].
    pub fn write_telling(&self, written: &mut dyn FnMut()) -> Result<(), LogError> {
        let (what, result) = match self.how {
            How::WriteDurably => {
                ("writing a batch", self.file.write_durable(self.offset, self.bytes.as_slice(), written))
            }
            How::Write => ("writing a batch", self.file.write(self.offset, self.bytes.as_slice())),
            How::Sync => ("syncing", self.file.sync()),
        };
        result.map_err(LogError::io(what, &file_name(self.segment)))
    }

    /// Its bytes on disk; a sync has none.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it writes nothing and makes durable what was written before.
    #[must_use]
    pub fn is_sync(&self) -> bool {
        self.how == How::Sync
    }
}
