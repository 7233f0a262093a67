//! Every metric of the process: where it is counted, and (in one file) its name, help and labels.
//!
//! Counting is one relaxed atomic store by the thread that owns the metric: no lock, no shared cache line between
//! loops. The admin thread reads at scrape.

mod cell;
mod sources;

pub use cell::{Counter, Gauge, Histogram};
pub use sources::{AcceptOutcome, FrameKinds, HandshakeOutcome, LoopMetrics, ShardMetrics, SourceSet};
