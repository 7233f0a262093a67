//! Wakes a sleeping thread, once.
//!
//! A thread that serves lanes sleeps in its own way (a loop in its poller, a shard parked). Ringing costs a system
//! call only when the thread is asleep: before it sleeps it says so with [`Bell::about_to_sleep`], then looks at
//! its lanes once more, so that what was sent in between is seen by one side or the other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// A handle to wake one thread. Clones ring the same bell.
#[derive(Clone)]
pub struct Bell {
    shared: Arc<Shared>,
}

struct Shared {
    asleep: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Bell {
    /// A bell that calls `wake` to end the thread's sleep. The thread counts as awake.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared { asleep: AtomicBool::new(false), wake: Box::new(wake) }) }
    }

    /// A bell for a thread that sleeps in [`std::thread::park`] or `park_timeout`.
    #[must_use]
    pub fn unparking(thread: std::thread::Thread) -> Self {
        Self::new(move || thread.unpark())
    }

    /// Call after sending. Wakes the thread if it is, or is about to go, asleep.
    pub fn ring(&self) {
        // Orders the send before the look at the flag; pairs with the fence in `about_to_sleep`.
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed) && self.shared.asleep.swap(false, Ordering::AcqRel) {
            (self.shared.wake)();
        }
    }

    /// The thread announces its sleep. It must look at its lanes once more before it sleeps.
    pub fn about_to_sleep(&self) {
        self.shared.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The thread is awake again, for whatever reason.
    pub fn awake(&self) {
        self.shared.asleep.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("asleep", &self.shared.asleep).finish_non_exhaustive()
    }
}
