//! One turn of the shard's thread, its committer and its housekeeper, as the engine does it.

use relaymesh::ids::LoopId;
use relaymesh::log::{Batch, Durability};
use relaymesh::mail::{CommandBatch, Effect};

use super::Server;
use crate::scheduler::{MS, Micros};
use crate::storage::Crash;
use crate::trace::note;
use crate::world::{Event, World};

/// Longest chore of the housekeeper.
pub(crate) const CHORE_MAX: Micros = 100 * MS;

impl World {
    pub(crate) fn shard_turn(&mut self, life: u32) {
        let now = self.scheduler.now;
        let Some(mut server) = self.server.take_if(|server| server.life == life) else { return };
        if server.shard_turn_at == Some(now) {
            server.shard_turn_at = None;
            self.apply_mail(&mut server);
            self.fire_timers(&mut server);
            self.after_shard_step(&mut server);
        }
        let shard_now = server.shard_now(now, self.wall());
        let until = server.shard.next_deadline().map(|at| shard_now.time.millis_until(at) * MS);
        let has_mail = !server.commands.is_empty() && !server.shard.is_congested();
        self.server = Some(server);
        if has_mail {
            self.wake_shard(20);
        }
        if let Some(until) = until {
            self.wake_shard(until.max(1));
        }
    }

    fn apply_mail(&mut self, server: &mut Server) {
        let shard_now = server.shard_now(self.scheduler.now, self.wall());
        while let Some(batch) = self.operator.take_requests() {
            self.apply(server, batch, shard_now);
        }
        let most = self.random.usize(1..8);
        for _ in 0..most {
            if server.shard.is_congested() {
                return;
            }
            let Some((from, batch)) = server.commands.pop_front() else { return };
            self.apply(server, batch, shard_now);
            // A loop whose batch was kept back may send it now.
            if server.loops[usize::from(from.0)].kept.is_some() {
                self.wake_loop_of(server, usize::from(from.0), 5);
            }
        }
    }

    fn apply(&mut self, server: &mut Server, mut batch: CommandBatch, now: relaymesh::clock::Now) {
        if self.trace.is_on() {
            for command in &batch.commands {
                note!(self, "shard {} applies {command:?}", now.time.0);
            }
        }
        self.watch.commands(now, &batch);
        self.planted.tamper(&mut batch, now.wall);
        server.shard.apply(now, &mut batch);
        server.shard.check_invariants();
    }

    fn fire_timers(&mut self, server: &mut Server) {
        let now = server.shard_now(self.scheduler.now, self.wall());
        if server.shard.next_deadline().is_some_and(|at| at <= now.time) {
            server.shard.expire(now);
            server.shard.check_invariants();
        }
    }

    /// Hands out work and lets effects go.
    fn after_shard_step(&mut self, server: &mut Server) {
        let life = server.life;
        let sealed = if server.committing.is_none() { server.shard.seal() } else { None };
        if server.committing.is_none() {
            self.check_sync_time(server, sealed.as_ref());
        }
        if let Some(batch) = sealed {
            note!(
                self,
                "{} of {} records, {} bytes",
                if batch.is_sync() { "sync" } else { "commit" },
                batch.records,
                batch.bytes()
            );
            server.committing = Some(batch);
            let (shortest, longest) = self.plan.commit;
            let takes = self.random.u64(shortest..=longest) + self.slow_disk();
            self.scheduler.after(takes, Event::Committed { life });
        }
        if server.chore.is_none()
            && let Some(chore) = server.shard.next_chore()
        {
            note!(self, "chore {}", brief(&chore));
            server.chore = Some(chore);
            let takes = self.random.u64(50..CHORE_MAX);
            self.scheduler.after(takes, Event::ChoreRun { life });
        }
        if !server.is_listening && server.committing.is_none() && server.shard.is_settled() {
            server.is_listening = true;
            self.watch.server_listens();
            note!(self, "server {life} listens");
        }
        self.let_effects_go(server);
    }

    /// Nothing is written any more, and nothing else waited for, once a sync is due.
    fn check_sync_time(&self, server: &Server, sealed: Option<&Batch>) {
        let (Some(since), Durability::Interval(interval)) = (server.unsynced_since, self.plan.durability)
        else {
            return;
        };
        // Shard time counts whole milliseconds.
        let latest = since + interval.as_micros() as Micros + 2 * MS;
        let is_late = self.scheduler.now > latest && !sealed.is_some_and(Batch::is_sync);
        assert!(!is_late, "a write of {since} is not synced at {}, after {interval:?}", self.scheduler.now);
    }

    /// A batch was written, or what was written before is synced.
    fn note_written(&mut self, server: &mut Server, batch: &Batch) {
        if batch.is_sync() {
            server.unsynced_since = None;
        } else if self.plan.durability != Durability::Sync && server.unsynced_since.is_none() {
            server.unsynced_since = Some(self.scheduler.now);
            // All that was said so far is on disk.
            self.ledger.keep();
            self.watch.keep();
        }
    }

    fn let_effects_go(&mut self, server: &mut Server) {
        let now = server.shard_now(self.scheduler.now, self.wall());
        self.watch.turn(now);
        self.ledger.timed.look(now.wall.0);
        for index in 0..server.loops.len() {
            if let Some(mut batch) = server.shard.effects(LoopId(index as u16)) {
                if self.trace.is_on() {
                    for effect in &batch.effects {
                        note!(self, "shard {} says {effect:?}", now.time.0);
                    }
                }
                self.watch.effects(now, &batch);
                for effect in &batch.effects {
                    if let Effect::Deliver(deliver) = effect {
                        self.ledger.leased(deliver.lease.message.0);
                    }
                }
                server.loops[index].waiting.append(&mut batch);
            }
            let own = &mut server.loops[index];
            if !own.waiting.is_empty() && own.effects.len() < self.plan.lane_batches {
                own.effects.push_back(std::mem::take(&mut own.waiting));
                let delay = self.random.u64(0..100);
                self.wake_loop_of(server, index, delay);
            } else if !own.waiting.is_empty() {
                self.scheduler.after(MS, Event::ShardPoke { life: server.life });
            }
        }
        self.watch.turn_over();
        if let Some(batch) = server.shard.effects(LoopId::OPERATOR) {
            for effect in batch.effects {
                note!(self, "shard {} says {effect:?}", now.time.0);
                if let Some(effect) = self.planted.tamper_with_reply(effect, self.is_troubled()) {
                    self.operator.answered(effect, &mut self.ledger, now);
                }
            }
            // It may ask for the next page.
            self.scheduler.after(MS, Event::ShardPoke { life: server.life });
        }
    }

    /// The committer's write is over.
    pub(crate) fn committed(&mut self, life: u32) {
        let Some(mut server) = self.server.take_if(|server| server.life == life) else { return };
        if let Some(batch) = server.committing.take() {
            let now = server.shard_now(self.scheduler.now, self.wall());
            match batch.write() {
                Ok(()) => {
                    self.note_written(&mut server, &batch);
                    server.shard.batch_done(now, batch);
                }
                Err(error) => {
                    server.has_failed_sync = batch.is_sync();
                    note!(self, "commit failed: {error}");
                    server.shard.batch_failed(batch);
                    let idle = server.shard.seal().is_none() && server.shard.next_chore().is_none();
                    assert!(idle, "a log that failed goes on writing");
                    self.server = Some(server);
                    return self.fail_stop();
                }
            }
        }
        self.after_shard_step(&mut server);
        self.server = Some(server);
        self.wake_shard(10);
    }

    /// The housekeeper's work is over.
    pub(crate) fn chore_run(&mut self, life: u32) {
        let Some(mut server) = self.server.take_if(|server| server.life == life) else { return };
        let now = server.shard_now(self.scheduler.now, self.wall());
        if let Some(chore) = server.chore.take() {
            let done = chore.run(self.disk.storage());
            if let Err(error) = server.shard.chore_done(now, done) {
                note!(self, "chore failed: {error}");
                self.server = Some(server);
                return self.fail_stop();
            }
            server.shard.check_invariants();
        }
        self.after_shard_step(&mut server);
        self.server = Some(server);
        self.wake_shard(10);
    }

    /// The log failed: the process ends by itself.
    fn fail_stop(&mut self) {
        let crash = if self.random.bool() { Crash::Kill } else { Crash::PowerLoss };
        let down = self.random.u64(10 * MS..500 * MS);
        self.crash_server(crash, down);
    }

    /// A full effect lane is tried again.
    pub(crate) fn shard_poke(&mut self, life: u32) {
        if self.server.as_ref().is_some_and(|server| server.life == life) {
            self.wake_shard(0);
        }
    }

    /// As [`World::wake_loop`], for a server that is out of the world for the length of a step.
    fn wake_loop_of(&mut self, server: &mut Server, index: usize, delay: Micros) {
        let at = self.scheduler.now + delay;
        let own = &mut server.loops[index];
        if own.turn_at.is_none_or(|planned| planned > at) {
            own.turn_at = Some(at);
            self.scheduler.at(at, Event::LoopTurn { life: server.life, index });
        }
    }
}

/// The kind of a chore and no more: what it holds is long.
fn brief(chore: &relaymesh::log::Chore) -> String {
    format!("{chore:?}").chars().skip("Chore(".len()).take_while(char::is_ascii_alphabetic).collect()
}
