//! Every metric of the process: where it is counted, and (in `metrics.rs`) its name, help and labels.
//!
//! Counting is one relaxed atomic store by the thread that owns the metric: no lock, no shared cache line between
//! loops. The admin thread reads at scrape. Beside the metrics stand the set-up of logging and the [`Lifecycle`]
//! that everyone sees.

mod cell;
mod lifecycle;
pub mod logging;
mod metrics;
mod page;
mod process;
mod queue_labels;
mod sources;

pub use cell::{Counter, Gauge, Histogram};
pub use lifecycle::{Lifecycle, Stage};
pub use metrics::{CONTENT_TYPE, Scrape, exposition};
pub use process::{Memory, ProcessStats};
pub use queue_labels::{OVERFLOW, QueueLabels, QueueRow};
pub use sources::{
    AcceptOutcome, FrameKinds, HandshakeOutcome, LEAK_STATES, LimitKind, LoopMetrics, ShardMetrics, SourceSet,
};

#[cfg(test)]
mod tests;
