//! From HELLO to the shard: who is let in at once, who waits for a token on its connection, who is sent away.

use std::time::Duration;

use crate::clock::Time;
use crate::gateway::admission::{Rank, Ruling};
use crate::gateway::ending::Ending;
use crate::gateway::{Gateway, SlotKey, translate};
use crate::ids::ConnKey;
use crate::limits;
use crate::mail::{Attach, Command};
use crate::session::Phase;
use crate::wire::{clip, proto};

impl Gateway {
    pub(super) fn hello(&mut self, now: Time, slot: u32, hello: &proto::Hello) -> Result<(), Ending> {
        let Some(conn) = self.table.at_mut(slot) else { return Ok(()) };
        let is_first = conn.session.phase() == Phase::AwaitingHello;
        let came = conn.session.mark();
        let hello = translate::hello(hello)?;
        let attachment = conn.session.hello(hello, &self.config.rules).map_err(|denied| {
            if is_first {
                Ending::reject(translate::denial_code(&denied), clip(&denied.text).to_owned())
            } else {
                Ending::denied(denied)
            }
        })?;
        let shard = attachment.namespace.shard(self.config.shards);
        conn.shard = shard;
        let key = SlotKey { slot, generation: conn.generation };
        let attach = Box::new(Attach {
            conn: ConnKey { loop_id: self.loop_id, slot, generation: key.generation },
            namespace: attachment.namespace,
            client: attachment.client,
            resume: attachment.resume,
        });
        let rank = if attach.resume.is_some() { Rank::Resume } else { Rank::New };
        match self.admission.rule(now, rank, self.patience(now, came)) {
            Ruling::LetIn => self.batches.to(shard).commands.push(Command::Attach(attach)),
            Ruling::Wait => {
                if let Some(conn) = self.table.at_mut(slot) {
                    conn.session.put_off();
                }
                self.admission.wait(rank, (key, attach));
                self.note_waiting();
            }
            Ruling::Shed => {
                // The shard never hears of it.
                if let Some(conn) = self.table.at_mut(slot) {
                    conn.session.put_off();
                }
                self.metrics.accepts.shed_admission.inc();
                return Err(no_admission());
            }
        }
        Ok(())
    }

    /// How long a client that came then may wait for its token: what follows has half of the handshake's time.
    fn patience(&self, now: Time, came: Time) -> Duration {
        // A client gives up after its own deadline, whatever this server's is.
        let deadline = self.config.handshake_deadline.min(limits::HANDSHAKE_DEADLINE);
        (deadline / 2).saturating_sub(now - came)
    }

    /// Whether nothing of the connection is read because it waits for a token.
    #[must_use]
    pub fn awaits_admission(&self, slot: u32) -> bool {
        self.table.at(slot).is_some_and(|conn| conn.session.phase() == Phase::AwaitingAdmission)
    }

    /// Those that wait are let in as far as there are tokens, and what came behind their HELLO is carried out.
    pub(super) fn let_in_waiting(&mut self, now: Time) {
        if self.admission.waiting() == 0 {
            return;
        }
        while !self.is_lane_blocked
            && let Some((key, attach)) = self.admission.next(now)
        {
            let conn = self.table.tenant_mut(key.slot, key.generation);
            let Some(shard) = conn.and_then(|conn| conn.session.admitted().then_some(conn.shard)) else {
                self.admission.give_back();
                continue;
            };
            self.batches.to(shard).commands.push(Command::Attach(attach));
            let early = self.take_kept(key.slot);
            match self.frames(now, key.slot, &early) {
                Ok(()) if !self.may_read(key.slot) => {}
                Ok(()) => self.actions.push_back(crate::gateway::Action::ResumeReading(key.slot)),
                Err(ending) => self.end(now, key.slot, ending),
            }
        }
        self.note_waiting();
    }

    /// What came of the connection and was not carried out: behind a HELLO that was not let in, or beyond a turn's frames.
    pub(super) fn take_kept(&mut self, slot: u32) -> Vec<u8> {
        let index = self.table.at(slot).map_or(crate::gateway::table::IDLE, |conn| conn.busy);
        let Some(busy) = self.buffers.at_mut(index) else { return Vec::new() };
        let kept = std::mem::take(&mut busy.partial);
        self.buffers.partial_bytes -= kept.len();
        self.metrics.partial_bytes.set(self.buffers.partial_bytes as u64);
        self.release_buffers(slot);
        kept
    }

    /// When the next of those that wait has its token.
    pub(super) fn next_admission(&self) -> Option<Time> {
        // A full lane lets nobody in; it wakes the loop when it has room.
        if self.is_lane_blocked { None } else { self.admission.next_at() }
    }

    fn note_waiting(&self) {
        self.metrics.admission_waiting.set(self.admission.waiting() as u64);
    }
}

/// For a client that there is no token for soon.
pub(super) fn no_admission() -> Ending {
    let text = "more clients come than the server takes on at once; come back then".to_owned();
    Ending::reject(proto::Code::Overloaded, text).with_slot()
}
