//! How much room a file system has.

use std::path::Path;

/// The room of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it, in bytes.
    pub total: u64,
    /// What this process may still take, in bytes.
    pub free: u64,
}

/// Below which mark the free space of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum DiskState {
    /// None.
    #[default]
    Fine,
    /// Somebody should look at it.
    Warn,
    /// Nothing is published.
    Reject,
    /// Nor does anybody come in, but those who resume a session.
    Stop,
}

impl DiskState {
    /// Every one, in order.
    pub const ALL: [Self; 4] = [Self::Fine, Self::Warn, Self::Reject, Self::Stop];

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warn => "warn",
            Self::Reject => "reject",
            Self::Stop => "stop",
        }
    }
}

/// Whether what is written to the disk of `path` is durable only after a second step, the flushing of the disk's own cache.
/// Not so where the disk has no cache that can be lost, or can write past it in one step, or the system does not tell.
#[must_use]
pub fn disk_flushes(path: &Path) -> bool {
    super::platform::disk_flushes(path)
}

/// The room of the file system that `path` is on; `None` where the system does not tell. May wait for that file system.
#[must_use]
pub fn disk_space(path: &Path) -> Option<DiskSpace> {
    let told = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.checked_mul(told.f_frsize);
    Some(DiskSpace { total: bytes(told.f_blocks)?, free: bytes(told.f_bavail)? })
}
