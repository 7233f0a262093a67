//! What the kernel spends, by its own accounts.

#[cfg(test)]
mod tests;

use std::fs;

/// Memory of this machine's kernel in bytes: its slabs, where sockets and pollers lie, and the buffers of TCP. `None` where
/// the system does not tell.
#[must_use]
pub fn kernel_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let sockstat = fs::read_to_string("/proc/net/sockstat").ok()?;
    Some(slab_bytes(&meminfo)? + tcp_pages(&sockstat)? * rustix::param::page_size() as u64)
}

fn slab_bytes(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    Some(value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

fn tcp_pages(sockstat: &str) -> Option<u64> {
    let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    tcp.split_ascii_whitespace().skip_while(|&word| word != "mem").nth(1)?.parse().ok()
}
