//! What other threads may ask of a loop: to drain, to send a share of its clients away, or to stop.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::mail::{Bell, DrainOrder};

/// A handle on a running loop for any thread; clones speak to the same loop.
#[derive(Debug, Clone)]
pub struct LoopControl {
    wishes: Arc<Wishes>,
    bell: Bell,
}

/// What the loop sees of it.
#[derive(Debug)]
pub(super) struct Wishes {
    stop: AtomicBool,
    /// Over how many milliseconds to drain; [`NO_DRAIN`] until it is asked for.
    drain_over_ms: AtomicU64,
    /// Listings of the loop's own table that it is to compare with its connections: one at a time.
    listings: (Sender<Vec<RawFd>>, Receiver<Vec<RawFd>>),
    /// The newest [`DrainOrder`], packed; 0 before the first.
    order: AtomicU64,
}

const NO_DRAIN: u64 = u64::MAX;

impl LoopControl {
    pub(super) fn new(bell: Bell) -> Self {
        let wishes = Wishes {
            stop: AtomicBool::new(false),
            drain_over_ms: AtomicU64::new(NO_DRAIN),
            listings: bounded(1),
            order: AtomicU64::new(0),
        };
        Self { wishes: Arc::new(wishes), bell }
    }

    /// The loop tells its clients to go, in waves `over` this time, takes no more of them, and ends once they are
    /// gone. A second drain changes nothing.
    pub fn drain(&self, over: Duration) {
        let over_ms = u64::try_from(over.as_millis()).unwrap_or(NO_DRAIN).min(NO_DRAIN - 1);
        self.wishes.drain_over_ms.store(over_ms, Ordering::Relaxed);
        self.bell.ring();
    }

    /// The loop tells a share of its clients to go, and goes on. A newer order takes the place of the older.
    pub fn drain_share(&self, order: DrainOrder) {
        self.wishes.order.store(order.pack(), Ordering::Relaxed);
        self.bell.ring();
    }

    /// The loop ends after its present turn; its connections are closed as they are.
    pub fn stop(&self) {
        self.wishes.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
    }

    /// The loop compares `open`, which was found in its own table of descriptors ([`crate::host::descriptors_of`]), with what
    /// it knows, logs what leaked and shows it in [`crate::telemetry::LoopMetrics::leaked`]. A listing it has not got to
    /// yet stands, and this one is dropped.
    pub fn compare_descriptors(&self, open: Vec<RawFd>) {
        let _ = self.wishes.listings.0.try_send(open);
        self.bell.ring();
    }

    pub(super) fn wishes(&self) -> Arc<Wishes> {
        Arc::clone(&self.wishes)
    }
}

impl Wishes {
    pub(super) fn is_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether there is one for [`Wishes::next_listing`].
    pub(super) fn is_listed(&self) -> bool {
        !self.listings.1.is_empty()
    }

    pub(super) fn next_listing(&self) -> Option<Vec<RawFd>> {
        self.listings.1.try_recv().ok()
    }

    /// The newest order, if it is not that of `obeyed`, which is then it.
    pub(super) fn new_order(&self, obeyed: &mut u64) -> Option<DrainOrder> {
        let newest = self.order.load(Ordering::Relaxed);
        if newest == std::mem::replace(obeyed, newest) { None } else { DrainOrder::unpack(newest) }
    }

    /// Whether there is an order newer than `obeyed`.
    pub(super) fn has_order(&self, obeyed: u64) -> bool {
        self.order.load(Ordering::Relaxed) != obeyed
    }

    pub(super) fn drain_over(&self) -> Option<Duration> {
        match self.drain_over_ms.load(Ordering::Relaxed) {
            NO_DRAIN => None,
            over_ms => Some(Duration::from_millis(over_ms)),
        }
    }
}
