//! The answers Linux gives.

use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub(super) fn open_descriptors() -> Option<u64> {
    // Since Linux 6.2 the size of this directory is the number of descriptors. Counting its entries instead takes
    // about a second for a million of them and is left to older kernels.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        // The directory that is listed counts itself.
        0 => Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1)),
        open => Some(open),
    }
}

pub(super) fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
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
