//! One turn of an event loop, as the reactor does it: read, take effects, accept, fire timers, carry out actions, send
//! the turn's commands.

use relaymesh::clock::Time;
use relaymesh::gateway::{Action, CloseCause, SlotKey};
use relaymesh::limits;
use relaymesh::mail::CommandBatch;

use super::{LoopConn, Server};
use crate::network::{ConnId, Read, Side};
use crate::scheduler::{MS, Micros};
use crate::trace::{fingerprint, note};
use crate::world::World;

impl World {
    pub(crate) fn loop_turn(&mut self, life: u32, index: usize) {
        let now = self.scheduler.now;
        let Some(mut server) = self.server.take_if(|server| server.life == life) else { return };
        if server.loops[index].turn_at == Some(now) {
            server.loops[index].turn_at = None;
            Turn { world: self, server: &mut server, index, now }.run();
        }
        let deadline = server.loops[index].gateway.next_deadline();
        let until = deadline.map(|at| server.loop_time(now).millis_until(at) * MS);
        // What is left to read, or effects beyond a turn's share.
        let own = &server.loops[index];
        let has_work = (!own.ready.is_empty() && own.kept.is_none()) || !own.effects.is_empty();
        self.server = Some(server);
        if has_work {
            self.wake_loop(index, 1);
        }
        if let Some(until) = until {
            self.wake_loop(index, until.max(1));
        }
    }
}

struct Turn<'a> {
    world: &'a mut World,
    server: &'a mut Server,
    index: usize,
    now: Micros,
}

impl Turn<'_> {
    fn time(&self) -> Time {
        self.server.loop_time(self.now)
    }

    fn own(&mut self) -> &mut super::Loop {
        &mut self.server.loops[self.index]
    }

    fn run(&mut self) {
        self.read();
        self.check();
        self.take_effects();
        self.accept();
        self.check();
        let time = self.time();
        self.own().gateway.expire(time);
        self.write_again();
        self.act();
        while self.own().gateway.carry_on(time) {
            self.act();
        }
        self.send_commands();
        self.check();
    }

    fn check(&mut self) {
        self.own().gateway.check_invariants();
    }

    fn accept(&mut self) {
        let time = self.time();
        while let Some(conn) = self.own().accepting.pop_front() {
            match self.own().gateway.accept(time) {
                Ok(key) => {
                    note!(
                        self.world,
                        "loop {} accepts {conn:?} as {}/{}",
                        self.index,
                        key.slot,
                        key.generation
                    );
                    let entry =
                        LoopConn { conn, key, is_queued: false, write_blocked: false, is_doomed: false };
                    self.own().conns.insert(key.slot, entry);
                    self.server.ends.insert(conn, (self.index, key));
                    if self.world.network.is_readable(conn, Side::Server) {
                        self.own().queue(key.slot);
                    }
                }
                Err(shed) => {
                    note!(self.world, "loop {} sheds {conn:?}", self.index);
                    let world = &mut *self.world;
                    world.network.write(conn, Side::Server, &shed.farewell, &mut world.scheduler);
                    world.network.close(conn, Side::Server, &mut world.scheduler);
                }
            }
        }
    }

    /// Every connection that waits for it once.
    fn read(&mut self) {
        for _ in 0..self.own().ready.len() {
            if self.own().kept.is_some() {
                return;
            }
            let Some(key) = self.own().ready.pop_front() else { return };
            let Some(conn) = self.own().conns.get_mut(&key.slot).filter(|conn| conn.key == key) else {
                continue;
            };
            conn.is_queued = false;
            let id = conn.conn;
            if !conn.is_doomed {
                self.read_one(id, key);
            }
        }
    }

    fn read_one(&mut self, conn: ConnId, key: SlotKey) {
        let time = self.time();
        let mut bytes = Vec::new();
        // A connection's share of a turn.
        for _ in 0..4 {
            if !self.own().gateway.may_read(key.slot) {
                return;
            }
            let max = self.world.random.usize(1..=limits::READ_BUFFER_BYTES);
            let world = &mut *self.world;
            match world.network.read(conn, Side::Server, max, &mut bytes, &mut world.scheduler) {
                Read::Bytes(_) => {
                    note!(world, "{conn:?} ▶ {} bytes {:08x}", bytes.len(), fingerprint(&bytes));
                    self.own().gateway.receive(time, key, &bytes);
                }
                Read::Nothing => return,
                Read::End => return self.doom(key.slot, CloseCause::Peer),
                Read::Broken => return self.doom(key.slot, CloseCause::Failed),
            }
        }
        self.own().queue(key.slot);
    }

    fn take_effects(&mut self) {
        let time = self.time();
        for _ in 0..limits::EFFECT_BATCHES_PER_TURN_MAX {
            let Some(batch) = self.own().effects.pop_front() else { return };
            self.own().gateway.effects(time, batch);
        }
    }

    fn write_again(&mut self) {
        while let Some(slot) = self.own().writable.pop_front() {
            if let Some(conn) = self.own().conns.get_mut(&slot) {
                conn.write_blocked = false;
                self.flush(slot);
            }
        }
    }

    fn act(&mut self) {
        loop {
            while let Some(action) = self.own().gateway.next_action() {
                match action {
                    Action::Flush(slot) => self.flush(slot),
                    Action::Close(slot) => {
                        self.flush(slot);
                        self.doom(slot, CloseCause::Local);
                    }
                    Action::Abort(slot) => self.doom(slot, CloseCause::Aborted),
                    Action::StopReading(_) => {}
                    Action::ResumeReading(slot) => self.own().queue(slot),
                }
            }
            if self.own().doomed.is_empty() {
                return;
            }
            self.bury();
        }
    }

    fn flush(&mut self, slot: u32) {
        let time = self.time();
        let Some(conn) = self.own().conns.get(&slot) else { return };
        let (id, mut is_blocked) = (conn.conn, conn.write_blocked);
        while !is_blocked {
            let world = &mut *self.world;
            let own = &mut self.server.loops[self.index];
            let unsent = own.gateway.unsent(slot);
            if unsent.is_empty() {
                return;
            }
            let Some(n) = world.network.write(id, Side::Server, unsent, &mut world.scheduler) else {
                return self.doom(slot, CloseCause::Failed);
            };
            note!(world, "{id:?} ◀ {n} of {} bytes {:08x}", unsent.len(), fingerprint(&unsent[..n]));
            is_blocked = n < unsent.len();
            own.gateway.sent(time, slot, n);
        }
        if let Some(conn) = self.own().conns.get_mut(&slot) {
            conn.write_blocked = true;
        }
    }

    fn doom(&mut self, slot: u32, cause: CloseCause) {
        let own = self.own();
        if let Some(conn) = own.conns.get_mut(&slot)
            && !conn.is_doomed
        {
            conn.is_doomed = true;
            own.doomed.push((slot, cause));
        }
    }

    fn bury(&mut self) {
        let time = self.time();
        while let Some((slot, cause)) = self.own().doomed.pop() {
            let Some(conn) = self.own().conns.remove(&slot) else { continue };
            self.server.ends.remove(&conn.conn);
            self.own().ended += 1;
            note!(self.world, "{:?} closed by the server: {cause:?}", conn.conn);
            let world = &mut *self.world;
            match cause {
                CloseCause::Aborted => world.network.reset(conn.conn, Side::Server, &mut world.scheduler),
                _ => world.network.close(conn.conn, Side::Server, &mut world.scheduler),
            }
            self.own().gateway.closed(time, slot, cause);
        }
    }

    fn send_commands(&mut self) {
        let time = self.time();
        let was_blocked = self.own().kept.is_some();
        if let Some(kept) = self.own().kept.take() {
            self.offer(kept);
        }
        if self.own().kept.is_none() && !self.own().gateway.commands()[0].is_empty() {
            let batch = std::mem::take(&mut self.own().gateway.commands()[0]);
            self.offer(batch);
        }
        let is_blocked = self.own().kept.is_some();
        if is_blocked != was_blocked {
            self.own().gateway.lane_blocked(time, is_blocked);
        }
    }

    fn offer(&mut self, batch: CommandBatch) {
        let id = self.own().id;
        let in_lane = self.server.commands.iter().filter(|(from, _)| *from == id).count();
        if in_lane >= self.world.plan.lane_batches {
            self.own().kept = Some(batch);
            return;
        }
        self.server.commands.push_back((id, batch));
        let (delay, world) = (self.world.random.u64(0..100), &mut *self.world);
        // The server is out of the world for the length of this turn.
        let at = world.scheduler.now + delay;
        if self.server.shard_turn_at.is_none_or(|planned| planned > at) {
            self.server.shard_turn_at = Some(at);
            world.scheduler.at(at, crate::world::Event::ShardTurn { life: self.server.life });
        }
    }
}
