//! Schedules, as operators set them and see them.

use serde::Serialize;

use crate::ids::{QueueName, ScheduleName};

/// What becomes of times a schedule missed: the server was down, the queue full, or the wall clock jumped over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Misfire {
    /// Nothing.
    Skip = 0,
    /// One message for all of them.
    #[default]
    Once = 1,
    /// A message for each, up to a bound.
    All = 2,
}

impl Misfire {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Skip, Self::Once, Self::All];

    /// As it is set.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }

    /// The policy of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text)
    }
}

/// A schedule as an operator sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleSpec {
    /// Its name, unique in its namespace.
    pub name: ScheduleName,
    /// A cron expression.
    pub cron: String,
    /// A time zone of the IANA database.
    pub time_zone: String,
    /// Where its messages go: a queue or a mailbox.
    pub queue: QueueName,
    /// What becomes of times it missed.
    pub misfire: Misfire,
    /// With [`Misfire::All`]: missed times that are made up for at most, the newest; 1 to
    /// [`crate::limits::SCHEDULE_MISSED_MAX`].
    pub missed_max: u32,
    /// Nothing comes due.
    pub is_paused: bool,
    /// The encoded `Message`; each one published has `schedule` and `scheduled_for` among its attributes besides.
    pub body: Vec<u8>,
}

/// A schedule as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleRow {
    /// Its name.
    pub name: String,
    /// Its cron expression.
    pub cron: String,
    /// The time zone that is read in.
    pub time_zone: String,
    /// Where its messages go.
    pub queue: String,
    /// `skip`, `once` or `all`.
    pub misfire: &'static str,
    /// Missed times that `all` makes up for at most.
    pub missed_max: u32,
    /// Nothing comes due until it is resumed.
    pub paused: bool,
    /// The newest time that it published for, in milliseconds since 1970.
    pub last_unix_ms: Option<u64>,
    /// The same in its time zone, RFC 3339.
    pub last: Option<String>,
    /// The first time that it has not published for, in milliseconds since 1970; in the past while it is held up.
    pub next_unix_ms: Option<u64>,
    /// The same in its time zone, RFC 3339.
    pub next: Option<String>,
    /// Why what is due is not published; it is tried again every second.
    pub held_up: Option<String>,
    /// Bytes of its encoded message.
    pub bytes: u64,
    /// The encoded `Message`, in answer to `ScheduleShow` only.
    #[serde(skip)]
    pub body: Option<Vec<u8>>,
}
