//! The answers Linux gives.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

pub(super) fn open_descriptors() -> Option<u64> {
    descriptors_in("/proc/self/fd", true)
}

pub(super) fn open_descriptors_of(thread: u64) -> Option<u64> {
    descriptors_in(&format!("/proc/self/task/{thread}/fd"), thread_number() == Some(thread))
}

pub(super) fn descriptors_of(thread: u64) -> Option<Vec<RawFd>> {
    let entries = fs::read_dir(format!("/proc/self/task/{thread}/fd")).ok()?;
    Some(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

fn descriptors_in(directory: &str, is_own: bool) -> Option<u64> {
    // Since Linux 6.2 the size of this directory is the number of descriptors. Counting its entries instead takes
    // about a second for a million of them and is left to older kernels.
    match fs::metadata(directory).ok()?.len() {
        // While it is listed, the directory itself is open in the table of whoever lists it.
        0 => Some((fs::read_dir(directory).ok()?.count() as u64).saturating_sub(u64::from(is_own))),
        open => Some(open),
    }
}

pub(super) fn thread_number() -> Option<u64> {
    u64::try_from(gettid().as_raw_nonzero().get()).ok()
}

pub(super) fn own_descriptor_table(keep: RawFd) -> io::Result<()> {
    block_signals()?;
    let keep = u32::try_from(keep).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Copies the table up to `keep` only, and so takes the first step everywhere `unshare` itself is forbidden, which it
    // is in many containers.
    close_range(keep + 1, u32::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    const FIRST_NOT_STANDARD: u32 = 3;
    if keep > FIRST_NOT_STANDARD {
        close_range(FIRST_NOT_STANDARD, keep - 1, 0)?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn close_range(first: u32, last: u32, flags: u32) -> io::Result<()> {
    // SAFETY: takes three numbers and touches no memory. What it closes is owned by nobody here: the first call makes the
    // table a copy that only this thread has, and the thread was started without descriptors of its own.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// All but those by which the system reports a fault of this very thread.
#[allow(unsafe_code)]
fn block_signals() -> io::Result<()> {
    const FAULTS: [i32; 7] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];
    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` makes the set whole before anything reads it, and all pointers are to it.
    let refused = unsafe {
        libc::sigfillset(signals.as_mut_ptr());
        for fault in FAULTS {
            libc::sigdelset(signals.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), std::ptr::null_mut())
    };
    if refused == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(refused)) }
}

pub(super) fn disk_flushes(path: &Path) -> bool {
    let Ok(device) = fs::metadata(path).map(|found| found.dev()) else { return false };
    let device = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    // A part of a disk has no queue: that of the disk is one above.
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| queue_flushes(&Path::new(&device).join(queue)))
        .unwrap_or(false)
}

/// As [`disk_flushes`], of what the system tells of a disk's queue in this directory; `None` when there is nothing.
pub(super) fn queue_flushes(queue: &Path) -> Option<bool> {
    let says = |name: &str, what: &str| Some(fs::read_to_string(queue.join(name)).ok()?.trim() == what);
    Some(says("write_cache", "write back")? && !says("fua", "1")?)
}

pub(super) fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[allow(unsafe_code)]
pub(super) fn large_pages_only_where_asked() -> bool {
    /// Of Linux 6.18: all but what was asked for with MADV_HUGEPAGE.
    const EXCEPT_ADVISED: libc::c_ulong = 1 << 1;
    const NONE: libc::c_ulong = 0;
    // SAFETY: takes numbers and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1 as libc::c_ulong, EXCEPT_ADVISED, NONE, NONE) == 0 }
}

pub(super) fn pin_thread(nth: usize) -> bool {
    let Ok(allowed) = sched_getaffinity(None) else { return false };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    if cores.is_empty() {
        return false;
    }
    let mut chosen = CpuSet::new();
    chosen.set(cores[nth % cores.len()]);
    sched_setaffinity(None, &chosen).is_ok()
}
