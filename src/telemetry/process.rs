//! What the process takes from its machine.

/// Read by the shell at scrape; a value that the machine does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ProcessStats {
    /// Memory in RAM, in bytes.
    pub resident_bytes: Option<u64>,
    /// Descriptors open in the table of the process; those of loops with tables of their own are not among them.
    pub open_descriptors: Option<u64>,
    /// Descriptors that may be open in one table.
    pub max_descriptors: Option<u64>,
    /// Processor time used, user and system, in seconds.
    pub cpu_seconds: Option<f64>,
}
