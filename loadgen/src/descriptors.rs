//! A descriptor table of one's own for each thread that drives connections.
//!
//! RLIMIT_NOFILE bounds a table, not a process: threads with private tables hold as many connections each as one
//! process could otherwise. A thread leaves the shared table before it opens anything, so that every descriptor it
//! owns is made, used and closed in its own table; of the shared one it only sees copies of stdin, stdout and stderr.

use std::io;

/// Descriptors of a table that are not connections: the standard streams, the poller and some to spare.
const OWN_DESCRIPTORS: u64 = 32;

/// How many connections fit in a table that may hold `limit` descriptors.
pub(crate) fn connections_per_table(limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(OWN_DESCRIPTORS)).unwrap_or(usize::MAX)
}

/// Whether [`leave_shared_table`] gives a thread its own table here.
pub(crate) const HAS_PRIVATE_TABLES: bool = cfg!(target_os = "linux");

/// Gives the calling thread a table of its own with nothing but the standard streams in it. Called first of all in a
/// thread.
///
/// # Errors
/// When the system refuses.
#[cfg(target_os = "linux")]
pub(crate) fn leave_shared_table() -> io::Result<()> {
    const STDERR: std::os::fd::RawFd = 2;
    relaymesh::host::own_descriptor_table(STDERR)
}

/// There are no private tables here; the thread keeps the shared one.
#[cfg(not(target_os = "linux"))]
pub(crate) fn leave_shared_table() -> io::Result<()> {
    Ok(())
}
