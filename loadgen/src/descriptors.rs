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

/// Gives the calling thread a copy of the descriptor table that it shared. Called first of all in a thread.
///
/// # Errors
/// When the system refuses.
#[cfg(target_os = "linux")]
pub(crate) fn leave_shared_table() -> io::Result<()> {
    // The safe form is deprecated because a descriptor that is moved to another thread afterwards means something else
    // there. None is: a fleet is made, used and dropped by the thread that called this.
    #[expect(deprecated, reason = "no descriptor crosses from or to a thread that has left the shared table")]
    Ok(rustix::thread::unshare(rustix::thread::UnshareFlags::FILES)?)
}

/// There are no private tables here; the thread keeps the shared one.
#[cfg(not(target_os = "linux"))]
pub(crate) fn leave_shared_table() -> io::Result<()> {
    Ok(())
}
