//! Where the system is not Linux: what it does not tell in a portable way is left out.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

pub(super) fn open_descriptors() -> Option<u64> {
    Some(std::fs::read_dir("/dev/fd").ok()?.count() as u64)
}

pub(super) fn open_descriptors_of(_thread: u64) -> Option<u64> {
    None
}

pub(super) fn descriptors_of(_thread: u64) -> Option<Vec<RawFd>> {
    None
}

pub(super) fn thread_number() -> Option<u64> {
    None
}

/// One table for all threads: there is no other.
pub(super) fn own_descriptor_table(_keep: RawFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn resident_bytes() -> Option<u64> {
    None
}

pub(super) fn disk_flushes(_path: &Path) -> bool {
    false
}

pub(super) fn large_pages_only_where_asked() -> bool {
    false
}

pub(super) fn pin_thread(_nth: usize) -> bool {
    false
}
