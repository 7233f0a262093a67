//! What the tests through the built binary share: a server process, the commands a person types, a client of
//! the wire written from `proto/` alone, and HTTP.
//!
//! Nothing here waits by sleeping: a server is ready when it prints where it listens, a process has ended when
//! its output has.

// Every test binary compiles all of this and uses its part.
#![allow(dead_code)]

pub(crate) mod cli;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod server;
pub(crate) mod wire;

use std::time::{Duration, Instant};

/// What a step of a test may take before it counts as stuck. It costs nothing while all is well, and machines are shared
/// and their disks may be slow: no test may depend on anything happening sooner.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until `holds` does; panics with `what` when it never does.
///
/// For state that is only seen by asking (a queue's numbers). Where an event tells, wait for the event.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
