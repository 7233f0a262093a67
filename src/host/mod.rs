//! What the machine allows and what the process uses.
//!
//! Owns the questions to the operating system that are not about one socket: limits, memory, processor time, cores.
//! It must not know sessions. [`raise_descriptor_limit`] is called once, at start; the rest at any time, from any
//! thread. What a platform does not tell is `None`, never a guess.

mod block;
mod disk;
pub mod doctor;
mod kernel;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as platform;

#[cfg(any(not(target_os = "linux"), test))]
#[cfg_attr(target_os = "linux", allow(dead_code))]
mod portable;
#[cfg(not(target_os = "linux"))]
use portable as platform;
mod tables;

#[cfg(test)]
mod tests;

pub use block::Block;
pub use disk::{DiskSpace, DiskState, disk_flushes, disk_space};
pub use kernel::kernel_bytes;
pub use tables::{TableNeeds, TablePlan, Tables, own_descriptor_table, private_tables_work};

use std::num::NonZeroUsize;
use std::os::fd::RawFd;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// How many descriptors this process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// What holds now; `u64::MAX` when there is no limit.
    pub soft: u64,
    /// Up to what an unprivileged process may raise it; `u64::MAX` when there is no limit.
    pub hard: u64,
}

/// The limit on descriptors as it holds now.
#[must_use]
pub fn descriptor_limit() -> DescriptorLimit {
    let limit = getrlimit(Resource::Nofile);
    DescriptorLimit { soft: limit.current.unwrap_or(u64::MAX), hard: limit.maximum.unwrap_or(u64::MAX) }
}

/// Raises the soft limit on descriptors to the hard one, where the system lets us, and returns what holds then.
/// The caller compares `soft` with the sessions it was asked for and says so when they do not fit.
pub fn raise_descriptor_limit() -> DescriptorLimit {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // A refusal leaves the limit as it was, which is what the caller is told.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    descriptor_limit()
}

/// Descriptors open now in the table of the process's first thread, which all threads share that have none of their own;
/// `None` where the system does not tell.
#[must_use]
pub fn open_descriptors() -> Option<u64> {
    platform::open_descriptors()
}

/// Descriptors open now in the table of a thread of this process, by its [`thread_number`]; `None` where the system does
/// not tell, or the thread has ended.
#[must_use]
pub fn open_descriptors_of(thread: u64) -> Option<u64> {
    platform::open_descriptors_of(thread)
}

/// The numbers of these descriptors; `None` as with [`open_descriptors_of`]. Takes about a microsecond for each.
#[must_use]
pub fn descriptors_of(thread: u64) -> Option<Vec<RawFd>> {
    platform::descriptors_of(thread)
}

/// The system's number of the calling thread; `None` where the system does not tell.
#[must_use]
pub fn thread_number() -> Option<u64> {
    platform::thread_number()
}

/// Memory of this process that is in RAM, in bytes; `None` where the system does not tell.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    platform::resident_bytes()
}

/// Processor time all threads of this process have used since its start, user and system together.
#[must_use]
pub fn cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// Cores this process may use: at least 1, container quotas included.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Has the system back memory by large pages where [`Block`] asks for them and nowhere else: over a million small entries
/// they make resident what nobody has touched. Returns whether it worked. It need not where the system's own setting
/// is `madvise` or `never`, and cannot on Linux before 6.18 where that is `always`.
pub fn large_pages_only_where_asked() -> bool {
    platform::large_pages_only_where_asked()
}

/// Keeps the calling thread on the `nth` core the process may use, counted round from the start when there are
/// fewer. Returns whether it worked; a thread that is not pinned is slower, not wrong.
pub fn pin_thread(nth: usize) -> bool {
    platform::pin_thread(nth)
}
