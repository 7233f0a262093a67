//! The loops' tables of descriptors, looked at from outside now and then.
//!
//! The counts are compared first, which costs nothing; only where they differ is a table listed, and its loop asked which of
//! these it does not know. A loop at work opens and closes between the two counts, so that a difference alone says little.

use std::sync::Arc;
use std::thread;
use std::{io, iter};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::host;
use crate::limits::AUDIT_EVERY;
use crate::reactor::LoopControl;
use crate::telemetry::LoopMetrics;

/// Looks at the tables of these loops every [`AUDIT_EVERY`] until what it returns is dropped.
///
/// # Errors
/// When the system refuses a thread.
pub(super) fn start(loops: Vec<LoopControl>, metrics: Vec<Arc<LoopMetrics>>) -> io::Result<Sender<()>> {
    let (stop, stopped) = bounded(0);
    thread::Builder::new().name("audit".into()).spawn(move || {
        while stopped.recv_timeout(AUDIT_EVERY) == Err(RecvTimeoutError::Timeout) {
            iter::zip(&loops, &metrics).for_each(|(control, metrics)| look(control, metrics));
        }
    })?;
    Ok(stop)
}

fn look(control: &LoopControl, metrics: &LoopMetrics) {
    let thread = metrics.table_of.value();
    // 0: the table is shared with others, whose descriptors a loop does not know.
    if thread == 0 || host::open_descriptors_of(thread).is_none_or(|open| open == metrics.descriptors.value())
    {
        return;
    }
    if let Some(open) = host::descriptors_of(thread) {
        control.compare_descriptors(open);
    }
}
