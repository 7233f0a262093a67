//! How far something that an operator wants has come: a binding, a schedule.

/// From the wish to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not asked for, or nobody knows.
    Wanted,
    /// Asked for, not answered.
    Asked,
    /// Durable, as the server said.
    There,
    /// Not wanted any more.
    Unwanted,
    /// Asked to end, not answered.
    Ending,
    /// Gone for good, as the server said.
    Gone,
}

impl Stage {
    /// The server answered to the wish, or to that for its end. An answer to the first may come when the second is on its way.
    pub(super) fn answered(&mut self, is_end: bool) {
        *self = match (*self, is_end) {
            (Self::Asked, false) => Self::There,
            (Self::Ending, true) => Self::Gone,
            (other, _) => other,
        };
    }

    /// The server died: what was not answered may be so or not.
    pub(crate) fn unanswered(&mut self) {
        *self = match *self {
            Self::Asked => Self::Wanted,
            Self::Ending => Self::Unwanted,
            other => other,
        };
    }

    /// What was said may have been lost.
    pub(crate) fn taken_back(&mut self) {
        *self = match *self {
            Self::There => Self::Wanted,
            Self::Gone => Self::Unwanted,
            other => other,
        };
    }

    /// It is to end.
    pub(crate) fn end(&mut self) {
        if matches!(self, Self::Wanted | Self::Asked | Self::There) {
            *self = Self::Unwanted;
        }
    }
}
