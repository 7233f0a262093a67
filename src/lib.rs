//! RelayMesh: a gateway for device connections with a durable queue behind it. This page is the code map.
//!
//! ```text
//!  sockets ⇄ reactor ─ gateway   ⇄ mail ⇄   engine ─ queue ⇄ log ⇄ disk
//!            (shell)   (brain)              (shell)  (brain)  (durable)
//!            one thread per loop            a shard: a brain thread and a committer thread
//!                     admin · telemetry · host   (control plane, on tokio, never on a loop)
//! ```
//!
//! # Floors
//!
//! From the top down. Imports point down, or sideways where that makes no circle; `tests/style` reads this table
//! and holds the source to it.
//!
//! ```text
//! main
//! cli
//! reactor
//! gateway · engine
//! session · queue · client · admin
//! wire · log · mail · config
//! host · telemetry · limits · ids · clock · wheel
//! ```
pub mod admin;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod engine;
pub mod gateway;
pub mod host;
pub mod ids;
pub mod limits;
pub mod log;
pub mod mail;
pub mod queue;
pub mod reactor;
pub mod session;
pub mod telemetry;
pub mod wheel;
pub mod wire;
