//! How much of the disk is free, as the brain is told: below one mark nothing is published, below another nobody new comes
//! in. What makes room (acks, and the sessions that bring them) goes on.

use crate::host::DiskState;
use crate::ids::ConnKey;
use crate::mail::{Effect, OperatorReply};
use crate::queue::{Brain, Turn};

/// What the brain was told last.
#[derive(Debug, Default)]
pub(super) struct Disk {
    state: DiskState,
    /// What a client is told that is refused for it.
    pub(super) text: Box<str>,
}

impl Disk {
    /// Nothing is published.
    #[inline]
    pub(super) fn refuses(&self) -> bool {
        self.state >= DiskState::Reject
    }

    /// Nobody comes in but those who resume.
    pub(super) fn stops(&self) -> bool {
        self.state >= DiskState::Stop
    }
}

impl Brain {
    /// Takes in how much is free now; what was parked meanwhile goes in when there is room again.
    pub(super) fn disk_changed(&mut self, conn: ConnKey, state: DiskState, text: &str, turn: &mut Turn<'_>) {
        self.disk = Disk { state, text: text.into() };
        if !self.disk.refuses() {
            self.look_at_parked();
        }
        turn.push_now(Effect::Operator { conn, reply: Box::new(OperatorReply::Changed(1)) });
    }
}
