//! What the process takes from its machine.

/// Read by the shell at scrape; a value that the machine does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ProcessStats {
    /// Memory now.
    pub memory: Memory,
    /// Memory when the process began to serve, before the first session.
    pub memory_at_start: Memory,
    /// Descriptors open in the table of the process; those of loops with tables of their own are not among them.
    pub open_descriptors: Option<u64>,
    /// Descriptors that may be open in one table.
    pub max_descriptors: Option<u64>,
    /// Processor time used, user and system, in seconds.
    pub cpu_seconds: Option<f64>,
}

/// Memory at one moment, in bytes; `None` where the machine does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// The process's own that is in RAM.
    pub resident: Option<u64>,
    /// The machine's kernel's: its slabs, and the buffers of TCP.
    pub kernel: Option<u64>,
}
