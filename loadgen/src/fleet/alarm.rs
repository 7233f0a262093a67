//! Wakes a poller to the microsecond: the poller's own timeout is rounded up to whole milliseconds, which would be added
//! to the delay of everything that is due in between.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};

/// What a poller says when the alarm rings.
pub(crate) const ALARM: Token = Token(usize::MAX);

#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Alarm {
    /// One that does not ring yet.
    pub(crate) fn new(registry: &Registry) -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        use std::os::fd::AsRawFd as _;

        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let number = timer.as_raw_fd();
        registry.register(&mut mio::unix::SourceFd(&number), ALARM, mio::Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// Rings once after `wait`, instead of when it was to ring before; not at all where the poller's own timeout is as
    /// good.
    pub(crate) fn ring_in(&self, wait: Duration) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        if wait.subsec_nanos().is_multiple_of(1_000_000) {
            return Ok(());
        }
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: never, it_value: wait },
        )?;
        Ok(())
    }
}

/// Elsewhere the poller's timeout has to do.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) struct Alarm;

#[cfg(not(target_os = "linux"))]
impl Alarm {
    pub(crate) fn new(_registry: &Registry) -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) fn ring_in(&self, _wait: Duration) -> io::Result<()> {
        Ok(())
    }
}
