//! The log's directory on a real disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::ReadWriteFlags;

use super::storage::{Entry, Storage, StorageFile};
use super::{Durability, LogError};
use crate::host;
use crate::limits::LOG_BLOCK_BYTES;

/// What is made here is this user's alone.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Holds a data directory for this process until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl DirectoryLock {
    /// Takes the lock, making the directory if it is not there. The file `lock` in it holds the pid of its owner.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another process has it, [`LogError::Directory`] when the directory cannot be used.
    pub fn take(directory: &Path) -> Result<Self, LogError> {
        make_directory(directory).map_err(Self::failed(directory, "making the data directory"))?;
        Self::take_file(directory, true)
    }

    /// Takes the lock if there is one: who only looks makes none, and a directory without it no server has.
    fn take_if_there(directory: &Path) -> Result<Option<Self>, LogError> {
        if directory.join("lock").exists() { Self::take_file(directory, false).map(Some) } else { Ok(None) }
    }

    fn failed(directory: &Path, what: &'static str) -> impl FnOnce(io::Error) -> LogError {
        move |cause| LogError::Directory { directory: directory.display().to_string(), what, cause }
    }

    fn take_file(directory: &Path, may_make: bool) -> Result<Self, LogError> {
        let failed = |what| Self::failed(directory, what);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(may_make).truncate(false).mode(FILE_MODE);
        let mut file = options.open(directory.join("lock")).map_err(failed("opening the lock file"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let holder = if known { format!(" (pid {})", pid.trim()) } else { String::new() };
                return Err(LogError::Locked { directory: directory.display().to_string(), holder });
            }
            Err(error) => return Err(failed("locking")(error.into())),
        }
        file.set_len(0)
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
            .map_err(failed("writing the lock file"))?;
        Ok(Self(file))
    }
}

/// The directory `log` of a data directory, which is locked while this lives.
#[derive(Debug)]
pub struct DiskStorage {
    directory: PathBuf,
    is_direct: bool,
    /// See [`host::disk_flushes`].
    disk_flushes: bool,
    /// Files are only read.
    is_read_only: bool,
    /// None where nobody can write.
    _lock: Option<DirectoryLock>,
}

impl DiskStorage {
    /// Locks the data directory and makes what is missing. Where a commit does not wait for the disk, files are written
    /// through the page cache: then a write is a copy.
    ///
    /// # Errors
    /// As [`DirectoryLock::take`].
    pub fn open(data_directory: &Path, durability: Durability) -> Result<Self, LogError> {
        let lock = DirectoryLock::take(data_directory)?;
        let directory = data_directory.join("log");
        let failed = |what| {
            let directory = directory.display().to_string();
            move |cause| LogError::Directory { directory, what, cause }
        };
        make_directory(&directory).map_err(failed("making the log directory"))?;
        sync(data_directory).map_err(failed("syncing the data directory"))?;
        let is_direct = durability == Durability::Sync
            && probe_direct(data_directory).map_err(failed("trying direct writes"))?;
        let disk_flushes = host::disk_flushes(&directory);
        Ok(Self { directory, is_direct, disk_flushes, is_read_only: false, _lock: Some(lock) })
    }

    /// Locks a data directory that has a log, to look at it: files are opened to be read only, and nothing is made. A file
    /// system that cannot be written does without the lock.
    ///
    /// # Errors
    /// [`LogError::NoLog`] when there is no log, and as [`DirectoryLock::take`].
    pub fn open_stopped(data_directory: &Path) -> Result<Self, LogError> {
        let directory = data_directory.join("log");
        let failed = |what| {
            let directory = directory.display().to_string();
            move |cause| LogError::Directory { directory, what, cause }
        };
        match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_log(data_directory)),
            entries => entries.map_err(failed("reading"))?,
        };
        let lock = match DirectoryLock::take_if_there(data_directory) {
            Err(LogError::Directory { cause, .. }) if cause.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                None
            }
            lock => lock?,
        };
        Ok(Self { directory, is_direct: false, disk_flushes: false, is_read_only: true, _lock: lock })
    }

    /// Where the segments are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.is_read_only).mode(FILE_MODE);
        if self.is_direct {
            // The bits of the flag are what the system defines, whatever their sign.
            options.custom_flags(OFlags::DIRECT.bits().cast_signed());
        }
        options
    }

    fn file(&self, file: File) -> Arc<dyn StorageFile> {
        Arc::new(DiskFile { file, is_direct: self.is_direct, disk_flushes: self.disk_flushes })
    }
}

/// That there is no log to be looked at. Who names the directory `log` itself means the one above.
fn no_log(data_directory: &Path) -> LogError {
    let above = data_directory.canonicalize().ok().filter(|path| path.ends_with("log"));
    let above = above.as_deref().and_then(Path::parent);
    LogError::NoLog {
        directory: data_directory.display().to_string(),
        hint: above.map_or_else(String::new, |above| format!("; {} may be it", above.display())),
    }
}

/// Makes a directory, and those above it, for nobody but this user: messages are kept in it.
fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)
}

/// Whether files in `directory` may be opened around the page cache.
fn probe_direct(directory: &Path) -> io::Result<bool> {
    let path = directory.join("probe");
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .custom_flags(OFlags::DIRECT.bits().cast_signed());
    let is_direct = match options.open(&path) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => false,
        Err(error) => return Err(error),
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(is_direct),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

impl Storage for DiskStorage {
    fn list(&self) -> io::Result<Vec<Entry>> {
        fs::read_dir(&self.directory)?
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                Ok(Entry { name, bytes: entry.metadata()?.len() })
            })
            .collect()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.options().create(true).truncate(true).open(self.directory.join(name))?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // Only a hint where the filesystem cannot reserve.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(self.file(file)),
            Err(error) => Err(error.into()),
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(self.options().open(self.directory.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync(&self.directory)
    }

    fn is_direct(&self) -> bool {
        self.is_direct
    }
}

#[derive(Debug)]
struct DiskFile {
    file: File,
    is_direct: bool,
    disk_flushes: bool,
}

impl DiskFile {
    /// Writes around the page cache.
    fn write_direct(&self, offset: u64, bytes: &[u8], flags: ReadWriteFlags) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let part = [IoSlice::new(&bytes[done..])];
            match rustix::io::pwritev2(&self.file, &part, offset + done as u64, flags) {
                Ok(written) if written > 0 && written.is_multiple_of(LOG_BLOCK_BYTES) => done += written,
                Ok(written) if done + written == bytes.len() => done += written,
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl StorageFile for DiskFile {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_durable(&self, offset: u64, bytes: &[u8], written: &mut dyn FnMut()) -> io::Result<()> {
        if !self.is_direct {
            self.file.write_all_at(bytes, offset)?;
            return self.file.sync_data();
        }
        if !self.disk_flushes {
            // Per write, because what a synced write needs of the file's times is less than O_SYNC would write.
            return self.write_direct(offset, bytes, ReadWriteFlags::DSYNC);
        }
        // What the system would do for that flag on such a disk, one after the other.
        self.write_direct(offset, bytes, ReadWriteFlags::empty())?;
        written();
        self.file.sync_data()
    }

    fn sync(&self) -> io::Result<()> {
        // A file's length and place count as data where they are needed to read it again; its times do not.
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durable_write_takes_two_steps_where_the_disk_flushes() {
        let home = tempfile::tempdir().unwrap();
        let mut storage = DiskStorage::open(home.path(), Durability::Sync).unwrap();
        let mut bytes = crate::log::AlignedBuffer::with_capacity(LOG_BLOCK_BYTES);
        bytes.resize(LOG_BLOCK_BYTES);
        for (flushes, steps) in [(false, 0), (true, 1)] {
            storage.disk_flushes = flushes;
            bytes.as_mut_slice().fill(7 + u8::from(flushes));
            let file = storage.create("000000000001.seg", 2 * LOG_BLOCK_BYTES as u64).unwrap();
            let mut told = 0;
            file.write_durable(LOG_BLOCK_BYTES as u64, bytes.as_slice(), &mut || told += 1).unwrap();
            assert_eq!(told, if storage.is_direct { steps } else { 0 });
            let found = fs::read(home.path().join("log/000000000001.seg")).unwrap();
            assert_eq!(&found[LOG_BLOCK_BYTES..], bytes.as_slice());
        }
    }
}
