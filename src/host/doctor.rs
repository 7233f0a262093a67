//! What a machine needs to hold a number of sessions, beside what it has.
//!
//! [`Machine::read`] asks the system, [`examine`] decides without asking anything, and the callers show, apply or
//! write down what it says. A setting that the system does not have is never a finding.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs;
use std::io;

use super::{DescriptorLimit, TableNeeds, TablePlan, Tables};
use crate::limits;

/// Where Linux keeps its settings.
const SETTINGS: &str = "/proc/sys";

/// The settings looked at, as `sysctl` names them.
const SYSCTLS: [&str; 12] = [
    FILE_MAX,
    NR_OPEN,
    EPOLL_WATCHES,
    SOMAXCONN,
    SYN_BACKLOG,
    TCP_MEM,
    TCP_RMEM,
    TCP_WMEM,
    PORT_RANGE,
    CONNTRACK_MAX,
    MIGRATE_REQ,
    EHASH_ENTRIES,
];
const FILE_MAX: &str = "fs.file-max";
const NR_OPEN: &str = "fs.nr_open";
const EPOLL_WATCHES: &str = "fs.epoll.max_user_watches";
const SOMAXCONN: &str = "net.core.somaxconn";
const SYN_BACKLOG: &str = "net.ipv4.tcp_max_syn_backlog";
const TCP_MEM: &str = "net.ipv4.tcp_mem";
const TCP_RMEM: &str = "net.ipv4.tcp_rmem";
const TCP_WMEM: &str = "net.ipv4.tcp_wmem";
const PORT_RANGE: &str = "net.ipv4.ip_local_port_range";
const CONNTRACK_MAX: &str = "net.netfilter.nf_conntrack_max";
const MIGRATE_REQ: &str = "net.ipv4.tcp_migrate_req";
const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";
/// Negative, and so not read, in a network namespace that shares the table of the first one.
const EHASH_ENTRIES: &str = "net.ipv4.tcp_ehash_entries";

/// Where `serve` listens if not told otherwise: for clients and for operators.
const OWN_PORTS: [u64; 2] = [7400, 7480];

/// What a machine has.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Settings by their name, each the numbers in it. One that the system does not have is missing.
    pub sysctls: Vec<(&'static str, Vec<u64>)>,
    /// The ports that no outgoing connection takes, as the kernel lists them: `80,7000-7010`.
    pub reserved_ports: Option<String>,
    /// The limit on descriptors of a table.
    pub descriptors: Option<DescriptorLimit>,
    /// Threads may have tables of their own.
    pub has_private_tables: bool,
    /// Cores, of which each has a loop at least.
    pub cores: u64,
    /// Bytes of memory that programs could still have; `None` where the system does not tell.
    pub memory_available: Option<u64>,
    /// Bytes of a page, in which the system counts some settings.
    pub page_bytes: u64,
}

/// How a finding is set right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Nothing is wrong.
    Nothing,
    /// Give this setting this value.
    Sysctl(String),
    /// Raise the limit on descriptors to this.
    Descriptors(u64),
    /// Boot the kernel with this parameter: what it sets cannot be changed later.
    Boot(String),
    /// More of the machine: no setting helps.
    Machine(String),
}

/// One thing a number of sessions needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is, as `sysctl`, `ulimit` or a person calls it.
    pub name: &'static str,
    /// What the machine has.
    pub have: String,
    /// What the sessions need.
    pub need: String,
    /// Why.
    pub why: &'static str,
    /// What the setting should be, if it is one: what is needed, and never less than there is.
    pub value: Option<String>,
    /// What to do.
    pub fix: Fix,
    /// The sessions do not fit without it; otherwise they only suffer in a storm.
    pub is_required: bool,
}

impl Finding {
    /// Whether the machine has what is needed.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.fix == Fix::Nothing
    }
}

impl Machine {
    /// Asks the system.
    #[must_use]
    pub fn read() -> Self {
        let text = |name: &str| fs::read_to_string(format!("{SETTINGS}/{}", name.replace('.', "/"))).ok();
        let numbers = |name: &str| {
            text(name)?
                .split_ascii_whitespace()
                .map(|number| number.parse().ok())
                .collect::<Option<Vec<u64>>>()
        };
        Self {
            sysctls: SYSCTLS.iter().filter_map(|&name| Some((name, numbers(name)?))).collect(),
            reserved_ports: text(RESERVED_PORTS).map(|ports| ports.trim().to_owned()),
            descriptors: Some(super::descriptor_limit()),
            has_private_tables: super::private_tables_work(),
            cores: super::cores() as u64,
            memory_available: memory_available(),
            page_bytes: rustix::param::page_size() as u64,
        }
    }

    fn sysctl(&self, name: &str) -> Option<&[u64]> {
        self.sysctls.iter().find(|(own, _)| *own == name).map(|(_, numbers)| numbers.as_slice())
    }
}

fn memory_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What `sessions` live sessions need, in the order in which a connection meets it.
#[must_use]
pub fn examine(machine: &Machine, sessions: u64) -> Vec<Finding> {
    let backlog = (sessions / 16).clamp(4096, limits::LISTEN_BACKLOG as u64);
    let descriptors = sessions + limits::OWN_DESCRIPTORS;
    let plan = machine.descriptors.map(|limit| table_plan(machine, limit, sessions));
    let in_one_table = plan.map_or(descriptors, |(plan, limit)| match plan.limit_needed {
        None if plan.is_private => limit.min(descriptors),
        None => descriptors,
        Some(needed) => needed,
    });
    let pages = sessions * limits::SESSION_SOCKET_BYTES_MAX / machine.page_bytes.max(1);
    let mut findings = Vec::new();
    let mut at_least = |name, need: &[u64], why, is_required| {
        findings.extend(machine.sysctl(name).map(|have| {
            let value = numbers(&raised(have, need));
            let fix = if suffices(have, need) { Fix::Nothing } else { Fix::Sysctl(value.clone()) };
            let (have, need, value) = (numbers(have), numbers(need), Some(value));
            Finding { name, have, need, why, value, fix, is_required }
        }));
    };
    at_least(SOMAXCONN, &[backlog], "connections that wait to be accepted in a storm", false);
    at_least(SYN_BACKLOG, &[backlog], "connections half open in a storm", false);
    at_least(CONNTRACK_MAX, &[sessions + sessions / 4], "the firewall drops what it cannot track", true);
    at_least(NR_OPEN, &[in_one_table], "no limit on descriptors can be higher", true);
    at_least(FILE_MAX, &[descriptors + descriptors / 4], "open files of the whole machine", true);
    at_least(EPOLL_WATCHES, &[descriptors], "sockets that pollers watch", true);
    // No table is full before all are where each holds every session.
    let may_fill_one =
        |(plan, limit): (TablePlan, u64)| plan.is_private && sessions + limits::LOOP_DESCRIPTORS > limit;
    if plan.is_some_and(may_fill_one) {
        at_least(MIGRATE_REQ, &[1], "what waits for a loop whose table is full goes to another", false);
    }
    // Pressure and limit; what lies below the first is never touched by the kernel.
    at_least(TCP_MEM, &[0, pages, pages + pages / 2], "pages for what lies in sockets", false);
    findings.extend(small_buffers(machine, TCP_RMEM, "memory of each socket that has something to read"));
    findings.extend(small_buffers(machine, TCP_WMEM, "memory of each socket that has something to send"));
    findings.extend(hash_table(machine, sessions));
    findings.extend(port_range(machine));
    findings.extend(reserved_ports(machine));
    findings.extend(plan.map(|(plan, limit)| descriptor_finding(&plan, limit, descriptors)));
    findings.extend(machine.memory_available.map(|available| memory_finding(available, sessions)));
    findings
}

/// The kernel's settings for `sessions` sessions, as a file for `sysctl --load`, those that suffice included: the file
/// may be taken to another machine.
#[must_use]
pub fn sysctl_file(machine: &Machine, sessions: u64) -> String {
    // The limit of this machine says nothing about that one: there, one table may hold them all.
    let machine = &Machine { descriptors: None, ..machine.clone() };
    let mut text =
        format!("# What {sessions} RelayMesh sessions need of the kernel, by `relaymesh doctor`.\n");
    for finding in examine(machine, sessions) {
        if let Some(value) = finding.value {
            // A kernel without connection tracking has no such setting, and must not stumble over it.
            let optional = if finding.name == CONNTRACK_MAX { "-" } else { "" };
            let _ = write!(text, "\n# {}\n{optional}{} = {value}\n", finding.why, finding.name);
        }
    }
    text
}

/// Gives the running kernel the value of a setting. It lasts until the next start of the machine.
///
/// # Errors
/// When the kernel refuses: most often because the caller may not, or the setting belongs to another namespace.
pub fn apply(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("{SETTINGS}/{}", name.replace('.', "/")), value)
}

fn suffices(have: &[u64], need: &[u64]) -> bool {
    have.len() >= need.len() && have.iter().zip(need).all(|(have, need)| have >= need)
}

/// What the machine has, with what is too small raised.
fn raised(have: &[u64], need: &[u64]) -> Vec<u64> {
    let or_zero = |numbers: &[u64], at| numbers.get(at).copied().unwrap_or(0);
    (0..have.len().max(need.len())).map(|at| or_zero(have, at).max(or_zero(need, at))).collect()
}

fn numbers(numbers: &[u64]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Under pressure the kernel still grants each socket the first number, whatever there is.
fn small_buffers(machine: &Machine, name: &'static str, why: &'static str) -> Option<Finding> {
    const FLOOR_BYTES: u64 = 4096;
    let have = machine.sysctl(name)?;
    let (&floor, rest) = have.split_first()?;
    let need = numbers(&[&[floor.min(FLOOR_BYTES)], rest].concat());
    let fix = if floor <= FLOOR_BYTES { Fix::Nothing } else { Fix::Sysctl(need.clone()) };
    Some(Finding { name, have: numbers(have), value: Some(need.clone()), need, why, fix, is_required: false })
}

/// As many buckets as sessions: beyond that each packet's connection is looked for in a chain, and every link of it is an
/// access to memory. With eight sockets in a bucket that was a sixth of all processor time at the end of set-up.
fn hash_table(machine: &Machine, sessions: u64) -> Option<Finding> {
    let &[have] = machine.sysctl(EHASH_ENTRIES)? else { return None };
    let need = sessions.next_power_of_two();
    Some(Finding {
        name: EHASH_ENTRIES,
        have: have.to_string(),
        need: need.to_string(),
        why: "the kernel looks up the connection of each packet",
        value: None,
        fix: if have >= need { Fix::Nothing } else { Fix::Boot(format!("thash_entries={need}")) },
        is_required: false,
    })
}

/// From 1,024 up: what lies below is for the services of the machine.
fn port_range(machine: &Machine) -> Option<Finding> {
    const LOWEST: u64 = 1024;
    let have = machine.sysctl(PORT_RANGE)?;
    let &[low, high] = have else { return None };
    let need = format!("{LOWEST} 65535");
    Some(Finding {
        name: PORT_RANGE,
        have: numbers(have),
        value: Some(need.clone()),
        fix: if low <= LOWEST && high >= 65_535 { Fix::Nothing } else { Fix::Sysctl(need.clone()) },
        need,
        why: "outgoing connections of a load generator, for each of its addresses",
        is_required: false,
    })
}

/// An outgoing connection may take any port of the range, and a server that is started again could not listen there.
fn reserved_ports(machine: &Machine) -> Option<Finding> {
    let have = machine.reserved_ports.as_deref()?;
    let is_reserved = |port: u64| {
        have.split(',').any(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse().is_ok_and(|first| port >= first) && last.parse().is_ok_and(|last| port <= last)
        })
    };
    let missing: Vec<String> =
        OWN_PORTS.into_iter().filter(|&port| !is_reserved(port)).map(|port| port.to_string()).collect();
    let is_listed = !have.is_empty();
    let value = is_listed.then_some(have).into_iter().chain(missing.iter().map(String::as_str));
    let value = value.collect::<Vec<_>>().join(",");
    Some(Finding {
        name: RESERVED_PORTS,
        have: if is_listed { have.to_owned() } else { "none".to_owned() },
        need: OWN_PORTS.map(|port| port.to_string()).join(","),
        value: Some(value.clone()),
        fix: if missing.is_empty() { Fix::Nothing } else { Fix::Sysctl(value) },
        why: "ports that the server listens on, not to be taken by an outgoing connection",
        is_required: false,
    })
}

/// How `serve` would hold the sessions, and the limit it has for that: the soft one is raised at start as far as the hard
/// one allows.
fn table_plan(machine: &Machine, limit: DescriptorLimit, sessions: u64) -> (TablePlan, u64) {
    let needs = TableNeeds {
        sessions,
        loops: 0,
        limit: limit.hard,
        cores: machine.cores,
        tables: Tables::Auto,
        can_be_private: machine.has_private_tables,
    };
    (TablePlan::of(needs), limit.hard)
}

fn descriptor_finding(plan: &TablePlan, limit: u64, in_one_table: u64) -> Finding {
    let (need, fix) = match plan.limit_needed {
        None if plan.is_private => (format!("{in_one_table} over {} loops", plan.loops), Fix::Nothing),
        None => (in_one_table.to_string(), Fix::Nothing),
        Some(needed) if needed < in_one_table => {
            let loops = limits::LOOPS_MAX;
            (format!("{needed} for each of {loops} loops"), Fix::Descriptors(needed))
        }
        Some(needed) => (needed.to_string(), Fix::Descriptors(needed)),
    };
    Finding {
        name: "RLIMIT_NOFILE",
        have: if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() },
        need,
        why: if plan.is_private {
            "a descriptor for every session; serve gives each of its loops a table of its own"
        } else {
            "a descriptor for every session, and some for the log and the operators"
        },
        value: None,
        fix,
        is_required: true,
    }
}

fn memory_finding(available: u64, sessions: u64) -> Finding {
    let need = sessions * (limits::SESSION_KERNEL_BYTES + limits::SESSION_USER_BYTES) + limits::SERVER_BYTES;
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let more = format!("{} of memory more", mib(need.saturating_sub(available)));
    Finding {
        name: "memory",
        have: mib(available),
        need: mib(need),
        why: "idle sessions in the kernel and in the server; what is queued comes on top",
        value: None,
        fix: if available >= need { Fix::Nothing } else { Fix::Machine(more) },
        is_required: true,
    }
}
