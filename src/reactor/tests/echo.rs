//! A brain that sends back what it receives, and keeps account of how it was called.

use std::collections::VecDeque;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::IntoRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use super::super::LoopBrain;
use crate::clock::Time;
use crate::gateway::{Action, CloseCause, Shed, SlotKey};
use crate::ids::{ConnKey, LoopId};
use crate::mail::{Command, CommandBatch, DrainOrder, EffectBatch};
use crate::telemetry::{Counter, Gauge};

/// Sent when the process is out of descriptors or the brain takes no more.
pub(super) const TURNED_AWAY: &[u8] = b"come back later";
/// Sent before the brain closes.
pub(super) const FAREWELL: &[u8] = b"farewell";
/// A read that starts with it makes the brain close the connection.
pub(super) const CLOSE_ME: u8 = b'!';
/// A read that starts with it makes the brain give the connection up.
pub(super) const ABORT_ME: u8 = b'#';
/// A read that starts with it makes the brain panic.
pub(super) const PANIC: u8 = b'?';
/// A read that starts with it makes the brain lose a file, and a connection to [`Echo::leaks_to`].
pub(super) const LEAK: u8 = b'~';
/// A read that starts with it makes the brain have the connection wait, unread, to be let in, for ever.
pub(super) const WAIT: u8 = b'_';
/// Output beyond which a connection is not read.
const OUTPUT_MAX: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) live: Gauge,
    pub(super) accepted: Counter,
    pub(super) turned_away: Counter,
    pub(super) closed: Counter,
    pub(super) closed_by_peer: Counter,
    pub(super) effects: Counter,
    pub(super) expired: Counter,
    pub(super) stops: Counter,
    pub(super) blocked: Gauge,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    taken: bool,
    closing: bool,
    dirty: bool,
    stopped: bool,
    stopped_at: Time,
    waiting: bool,
    output: Vec<u8>,
    sent: usize,
}

pub(super) struct Echo {
    loop_id: LoopId,
    slots: Vec<Slot>,
    free: Vec<u32>,
    actions: VecDeque<Action>,
    commands: CommandBatch,
    draining: bool,
    blocked: bool,
    seen: Arc<Seen>,
    /// One command for each read.
    pub(super) with_commands: bool,
    /// Connections it takes.
    pub(super) live_max: u64,
    /// Expires once at this time.
    pub(super) deadline: Option<Time>,
    /// Where it connects to with a socket that it forgets.
    pub(super) leaks_to: Option<SocketAddr>,
}

impl Echo {
    pub(super) fn new(loop_id: LoopId, seen: Arc<Seen>) -> Self {
        Self {
            loop_id,
            slots: vec![],
            free: vec![],
            actions: VecDeque::new(),
            commands: CommandBatch::default(),
            draining: false,
            blocked: false,
            seen,
            with_commands: false,
            live_max: u64::MAX,
            deadline: None,
            leaks_to: None,
        }
    }

    fn close(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        if !std::mem::replace(&mut slot.closing, true) {
            slot.output.extend_from_slice(FAREWELL);
            self.actions.push_back(Action::Close(number));
        }
    }
}

impl LoopBrain for Echo {
    fn accept(&mut self, _now: Time) -> Result<SlotKey, Shed> {
        if self.draining || self.seen.live.value() >= self.live_max {
            return Err(Shed { farewell: TURNED_AWAY.to_vec() });
        }
        self.seen.live.add(1);
        self.seen.accepted.inc();
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap()
        });
        let slot = &mut self.slots[number as usize];
        assert!(!slot.taken);
        *slot = Slot { generation: slot.generation + 1, taken: true, ..Slot::default() };
        Ok(SlotKey { slot: number, generation: slot.generation })
    }

    fn turn_away(&mut self, _now: Time) -> Shed {
        self.seen.turned_away.inc();
        Shed { farewell: TURNED_AWAY.to_vec() }
    }

    fn receive(&mut self, now: Time, key: SlotKey, bytes: &[u8]) {
        assert!(!self.blocked, "read although the lane is full");
        assert!(!bytes.is_empty());
        let slot = &mut self.slots[key.slot as usize];
        assert!(slot.taken && slot.generation == key.generation, "bytes for another tenant");
        assert!(
            !slot.stopped || slot.stopped_at == now,
            "read although stopped, and not with what was read before"
        );
        if slot.closing {
            return;
        }
        assert!(bytes[0] != PANIC, "as asked for");
        if self.with_commands {
            let conn = ConnKey { loop_id: self.loop_id, slot: key.slot, generation: key.generation };
            self.commands.commands.push(Command::Resupply { conn });
        }
        if let (LEAK, Some(to)) = (bytes[0], self.leaks_to) {
            let _ = TcpStream::connect(to).unwrap().into_raw_fd();
            let _ = File::open("/dev/null").unwrap().into_raw_fd();
        }
        slot.waiting |= bytes[0] == WAIT;
        if bytes[0] == ABORT_ME {
            self.actions.push_back(Action::Abort(key.slot));
            return;
        }
        if bytes[0] == CLOSE_ME {
            self.close(key.slot);
            return;
        }
        slot.output.extend_from_slice(bytes);
        if slot.output.len() - slot.sent > OUTPUT_MAX {
            slot.stopped = true;
            slot.stopped_at = now;
            self.seen.stops.inc();
            self.actions.push_back(Action::StopReading(key.slot));
        }
        if !std::mem::replace(&mut slot.dirty, true) {
            self.actions.push_back(Action::Flush(key.slot));
        }
    }

    fn may_read(&self, slot: u32) -> bool {
        let slot = &self.slots[slot as usize];
        !slot.stopped && !slot.closing && !slot.waiting
    }

    fn awaits_admission(&self, slot: u32) -> bool {
        self.slots[slot as usize].waiting
    }

    fn effects(&mut self, _now: Time, _batch: EffectBatch) {
        self.seen.effects.inc();
    }

    fn expire(&mut self, now: Time) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            self.seen.expired.inc();
        }
    }

    fn next_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if let Some(Action::Flush(slot)) = action {
            self.slots[slot as usize].dirty = false;
        }
        action
    }

    fn unsent(&self, slot: u32) -> &[u8] {
        let slot = &self.slots[slot as usize];
        &slot.output[slot.sent..]
    }

    fn sent(&mut self, _now: Time, number: u32, n: usize) {
        let slot = &mut self.slots[number as usize];
        slot.sent += n;
        if slot.sent == slot.output.len() {
            slot.output.clear();
            slot.sent = 0;
            if std::mem::replace(&mut slot.stopped, false) {
                self.actions.push_back(Action::ResumeReading(number));
            }
        }
    }

    fn closed(&mut self, _now: Time, slot: u32, cause: CloseCause) {
        assert!(std::mem::replace(&mut self.slots[slot as usize].taken, false), "closed once");
        self.free.push(slot);
        self.seen.live.sub(1);
        self.seen.closed.inc();
        if cause == CloseCause::Peer {
            self.seen.closed_by_peer.inc();
        }
    }

    fn commands(&mut self) -> &mut [CommandBatch] {
        std::slice::from_mut(&mut self.commands)
    }

    fn lane_blocked(&mut self, _now: Time, blocked: bool) {
        self.blocked = blocked;
        self.seen.blocked.set(u64::from(blocked));
    }

    fn next_deadline(&self) -> Option<Time> {
        self.deadline
    }

    fn live(&self) -> usize {
        usize::try_from(self.seen.live.value()).unwrap()
    }

    fn handshakes(&self) -> usize {
        0
    }

    fn begin_drain(&mut self, _now: Time, _over: Duration) {
        self.draining = true;
        for slot in 0..self.slots.len() {
            if self.slots[slot].taken {
                self.close(u32::try_from(slot).unwrap());
            }
        }
    }

    fn drain_share(&mut self, _now: Time, _order: DrainOrder) {}

    fn is_drained(&self) -> bool {
        self.draining && self.seen.live.value() == 0
    }
}
