//! How many event loops a number of sessions takes, and whether each needs a table of descriptors of its own.
//!
//! The system bounds the descriptors of one table, and usually all threads of a process share one: its lock too, and the
//! wait while it grows. Where the system can, each loop gets its own: capacity is then loops × limit, and what is open in
//! it is the loop's. [`TablePlan::of`] decides without asking anything; [`own_descriptor_table`] is the step a loop's
//! thread takes before it opens anything.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::RawFd;
use std::thread;

use super::platform;
use crate::limits::{LOOP_DESCRIPTORS, LOOPS_MAX, OWN_DESCRIPTORS, SESSIONS_UNLESS_TOLD, TABLE_USE_PERCENT};

/// Whether each loop has a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tables {
    /// Wherever the system can.
    #[default]
    Auto,
    /// Never.
    Shared,
    /// As with `Auto`, and a warning where the system cannot.
    Private,
}

impl Tables {
    /// The one of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Auto, Self::Shared, Self::Private].into_iter().find(|tables| tables.as_str() == text)
    }

    /// Its name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Shared => "shared",
            Self::Private => "private",
        }
    }
}

/// What a plan is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableNeeds {
    /// Sessions there are to be; 0 for what the tables hold.
    pub sessions: u64,
    /// Loops there are to be; 0 for as many as it takes, at least one per core.
    pub loops: u64,
    /// Descriptors that may be open in one table.
    pub limit: u64,
    /// Cores of the machine.
    pub cores: u64,
    /// What was asked for.
    pub tables: Tables,
    /// Threads may have tables of their own, see [`private_tables_work`].
    pub can_be_private: bool,
}

/// How the sessions are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablePlan {
    /// Event loops, at least 1.
    pub loops: u64,
    /// Each with a table of its own.
    pub is_private: bool,
    /// Sessions that are planned for, all loops together: those asked for, unless they do not fit.
    pub sessions: u64,
    /// What the limit on descriptors must be for all that were asked for; `None` when they fit.
    pub limit_needed: Option<u64>,
}

impl TablePlan {
    /// Unless asked for otherwise: a table for each of as many loops as it takes, and at least one loop per core.
    #[must_use]
    pub fn of(needs: TableNeeds) -> Self {
        let TableNeeds { sessions, loops, limit, cores, tables, can_be_private } = needs;
        let is_private = can_be_private && tables != Tables::Shared;
        let or_asked = |chosen: u64| if loops == 0 { chosen } else { loops }.clamp(1, LOOPS_MAX);
        let loops_of_tables = or_asked(sessions.div_ceil(room_of_one_of_many(limit).max(1)).max(cores));
        let room = if is_private {
            room_of_tables(loops_of_tables, limit)
        } else {
            limit.saturating_sub(OWN_DESCRIPTORS).max(1)
        };
        let wanted = if sessions == 0 { room.min(SESSIONS_UNLESS_TOLD) } else { sessions };
        let limit_needed = (wanted > room).then(|| {
            let loops = if loops == 0 { LOOPS_MAX } else { loops_of_tables };
            limit_for(wanted, loops, is_private)
        });
        Self {
            loops: if is_private { loops_of_tables } else { or_asked(cores) },
            is_private,
            sessions: wanted.min(room),
            limit_needed,
        }
    }
}

/// Sessions planned for so many loops, each with a table of its own.
fn room_of_tables(loops: u64, limit: u64) -> u64 {
    // A loop that is alone gets every connection; of many, one gets more than its part.
    let each = if loops == 1 { limit.saturating_sub(LOOP_DESCRIPTORS) } else { room_of_one_of_many(limit) };
    loops.saturating_mul(each).max(1)
}

fn room_of_one_of_many(limit: u64) -> u64 {
    // A system without a limit counts in u64::MAX.
    (limit.saturating_sub(LOOP_DESCRIPTORS) / 100).saturating_mul(TABLE_USE_PERCENT)
        + limit.saturating_sub(LOOP_DESCRIPTORS) % 100 * TABLE_USE_PERCENT / 100
}

/// The lowest limit on descriptors with which so many loops hold the sessions.
fn limit_for(sessions: u64, loops: u64, is_private: bool) -> u64 {
    if !is_private {
        return sessions + OWN_DESCRIPTORS;
    }
    let each =
        if loops == 1 { sessions } else { (sessions.div_ceil(loops) * 100).div_ceil(TABLE_USE_PERCENT) };
    // The other threads have a table too.
    (each + LOOP_DESCRIPTORS).max(OWN_DESCRIPTORS)
}

/// Gives the calling thread a table of descriptors of its own that holds nothing but the standard ones and `keep`, under
/// the number it has. What other threads open or close from now on is not in it, nor the other way round.
///
/// From now on the thread takes no signals: a handler of the process may write to a descriptor by its number, which
/// means something else here. And it must own nothing that closes a descriptor opened before.
///
/// # Errors
/// When the system has no such thing (Linux does, from 5.9 on) or does not allow it. The table is as it was then.
pub fn own_descriptor_table(keep: RawFd) -> io::Result<()> {
    platform::own_descriptor_table(keep)
}

/// Whether a thread may have a table of its own here; found out by a thread that tries.
#[must_use]
pub fn private_tables_work() -> bool {
    const STDERR: RawFd = 2;
    let trial = thread::Builder::new().name("table".into()).spawn(|| own_descriptor_table(STDERR).is_ok());
    trial.is_ok_and(|trial| trial.join().unwrap_or(false))
}
