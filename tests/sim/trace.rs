//! The event log of one world: nothing while it is off, else a line for everything that happens, the last ones kept
//! for a failure and all of them in a hash, by which two runs of one seed are compared.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use crate::scheduler::Micros;

/// Lines shown when a world fails.
const TAIL_LINES: usize = 150;

/// What becomes of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracing {
    /// They are not even made.
    Off,
    /// They go into the hash; the last ones are shown if the world panics.
    Tail,
    /// They are printed as well.
    Print,
    /// They go into the hash and are never shown.
    Hash,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Trace {
    tracing: Tracing,
    seed: u64,
    hash: u64,
    lines: u64,
    tail: VecDeque<String>,
}

impl Trace {
    pub(crate) fn new(seed: u64, tracing: Tracing) -> Self {
        Self { tracing, seed, hash: 0xcbf2_9ce4_8422_2325, lines: 0, tail: VecDeque::new() }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.tracing != Tracing::Off
    }

    pub(crate) fn line(&mut self, now: Micros, what: fmt::Arguments<'_>) {
        let mut line = if self.tail.len() < TAIL_LINES {
            String::new()
        } else {
            self.tail.pop_front().unwrap_or_default()
        };
        line.clear();
        // Writing to a string cannot fail.
        let _ = write!(line, "{:>6}.{:06} {what}", now / 1_000_000, now % 1_000_000);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.lines += 1;
        if self.tracing == Tracing::Print {
            println!("{line}");
        }
        self.tail.push_back(line);
    }

    /// Stands for all lines and their order.
    pub(crate) fn digest(&self) -> (u64, u64) {
        (self.lines, self.hash)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() && self.tracing == Tracing::Tail {
            eprintln!("---- seed {}: the last {} of {} events", self.seed, self.tail.len(), self.lines);
            self.tail.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("---- seed {}: repeat with RELAYMESH_SIM_SEED={0} cargo test --test sim", self.seed);
        }
    }
}

/// A short name for bytes, so that the log tells different bytes apart.
pub(crate) fn fingerprint(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Adds a line to a world's log, made only when that is on.
macro_rules! note {
    ($world:expr, $($what:tt)*) => {
        if $world.trace.is_on() {
            let now = $world.scheduler.now;
            $world.trace.line(now, format_args!($($what)*));
        }
    };
}
pub(crate) use note;
