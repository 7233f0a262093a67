//! What the log needs of a directory: few operations, each either done durably or not at all trusted.

use std::fmt;
use std::io;
use std::sync::Arc;

/// A file of the log directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The files of one log directory.
pub trait Storage: fmt::Debug + Send + Sync {
    /// All files, in any order.
    ///
    /// # Errors
    /// Whatever the system says.
    fn list(&self) -> io::Result<Vec<Entry>>;
    /// Makes a file, or empties the one that is there, and reserves `bytes` of space for it where that is possible.
    ///
    /// # Errors
    /// Whatever the system says; `StorageFull` when there is no space.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens a file that is there.
    ///
    /// # Errors
    /// Whatever the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Renames a file; durable after [`Storage::sync_directory`].
    ///
    /// # Errors
    /// Whatever the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; durable after [`Storage::sync_directory`].
    ///
    /// # Errors
    /// Whatever the system says.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// Whatever the system says.
    fn sync_directory(&self) -> io::Result<()>;
    /// Whether writes go around the page cache. Where they do not, a commit costs more.
    fn is_direct(&self) -> bool;
}

/// One open file. All offsets, lengths and the memory itself are multiples of a log block.
pub trait StorageFile: fmt::Debug + Send + Sync {
    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; else whatever the system says.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes without waiting for the disk.
    ///
    /// # Errors
    /// Whatever the system says; `StorageFull` when there is no space.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes into blocks that were written before; durable on return. `written` is called when the bytes are on the disk
    /// and only its cache is still to be flushed, where that is a step of its own.
    ///
    /// # Errors
    /// Whatever the system says; afterwards nothing is known of the blocks.
    fn write_durable(&self, offset: u64, bytes: &[u8], written: &mut dyn FnMut()) -> io::Result<()>;
    /// Makes all writes durable.
    ///
    /// # Errors
    /// Whatever the system says; afterwards nothing is known of what was written.
    fn sync(&self) -> io::Result<()>;
}
