//! What stands in a loop's own table of descriptors and belongs to nobody, and what should stand there and does not.
//!
//! Whoever lists the table takes milliseconds for it and is no loop; the loop compares the listing with its connections
//! between two of its steps. It alone opens and closes in that table, so that nothing changes meanwhile, and what came and
//! went since the listing is told from what leaked by asking the system for that descriptor.

use std::os::fd::RawFd;

use crate::telemetry::LEAK_STATES;

/// A connection's descriptor is not open any more.
pub(super) const GONE: usize = LEAK_STATES.len() - 2;
/// The brain holds a slot without a socket.
pub(super) const NO_SOCKET: usize = LEAK_STATES.len() - 1;

/// How many descriptors leaked, by [`LEAK_STATES`].
pub(super) type Leaks = [u64; LEAK_STATES.len()];

/// Compares what was found `open` a while ago with what is `known` now. `state_of` says in which of the first states a
/// descriptor is now, `None` when it is not open.
pub(super) fn compare(
    open: &mut [RawFd],
    known: &mut [RawFd],
    state_of: impl Fn(RawFd) -> Option<usize>,
) -> Leaks {
    let mut leaks = [0; LEAK_STATES.len()];
    open.sort_unstable();
    known.sort_unstable();
    for &number in open.iter().filter(|number| known.binary_search(number).is_err()) {
        if let Some(state) = state_of(number) {
            leaks[state.min(GONE - 1)] += 1;
        }
    }
    for &number in known.iter().filter(|number| open.binary_search(number).is_err()) {
        leaks[GONE] += u64::from(state_of(number).is_none());
    }
    leaks
}
