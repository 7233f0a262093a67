//! What goes wrong, and when: a trouble every now and then until the world's time of trouble is over.

use std::time::Duration;

use relaymesh::log::sim_storage::Fault;

use crate::actors::Role;
use crate::finale::Phase;
use crate::network::ConnId;
use crate::scheduler::{MS, Micros, SECOND};
use crate::storage::Crash;
use crate::trace::note;
use crate::world::{Event, World};

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A connection breaks; both ends hear of it.
    Cut,
    /// A connection goes dark; neither end hears of it.
    Dark,
    /// A client is cut off for a while; nothing it sends is lost.
    CutOff,
    /// The server is cut off from everyone for a while.
    Partition,
    ServerKilled,
    PowerLoss,
    /// The server is told to stop and started again.
    Drained,
    WriteFails,
    SyncFails,
    DiskFull,
    DiskSlow,
    ClientCrashes,
    TakeOver,
    SlowReader,
    /// The wall clock is set.
    ClockSet,
}

/// A trouble that ends by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Passing {
    DiskFull,
}

impl Trouble {
    /// All of them.
    pub(crate) const ALL: [Self; 15] = [
        Self::Cut,
        Self::Dark,
        Self::CutOff,
        Self::Partition,
        Self::ServerKilled,
        Self::PowerLoss,
        Self::Drained,
        Self::WriteFails,
        Self::SyncFails,
        Self::DiskFull,
        Self::DiskSlow,
        Self::ClientCrashes,
        Self::TakeOver,
        Self::SlowReader,
        Self::ClockSet,
    ];
}

/// Clients, rivals included, that a world has at most.
const CLIENTS_MAX: usize = 20;

impl World {
    pub(crate) fn begin_troubles(&mut self) {
        self.scheduler.at(self.plan.duration, Event::FinaleCheck);
        self.plan_trouble();
    }

    fn plan_trouble(&mut self) {
        let after = self.random.u64(0..2 * self.plan.trouble_every);
        self.scheduler.after(after, Event::Trouble);
    }

    pub(crate) fn trouble(&mut self) {
        if self.phase != Phase::Troubled || self.plan.troubles.is_empty() {
            return;
        }
        let what = self.plan.troubles[self.random.usize(0..self.plan.troubles.len())];
        note!(self, "trouble: {what:?}");
        self.planted.troubles += 1;
        match what {
            Trouble::Cut => {
                if let Some(conn) = self.some_conn() {
                    self.network.cut(conn, &mut self.scheduler);
                }
            }
            Trouble::Dark => {
                if let Some(conn) = self.some_conn() {
                    self.network.darken(conn);
                }
            }
            Trouble::CutOff => {
                let client = self.random.usize(0..self.clients.len());
                let until = self.scheduler.now + self.some_while();
                self.cut_off(client, until);
            }
            Trouble::Partition => {
                let until = self.scheduler.now + self.some_while();
                (0..self.clients.len()).for_each(|client| self.cut_off(client, until));
            }
            Trouble::ServerKilled => self.stop_server(Crash::Kill),
            Trouble::PowerLoss => self.stop_server(Crash::PowerLoss),
            Trouble::Drained => self.drain_server(Duration::from_millis(self.random.clone().u64(0..3000))),
            Trouble::WriteFails => self.disk.sim.fail(Fault::FailWrite, self.random.u32(0..20)),
            Trouble::SyncFails => self.disk.sim.fail(Fault::FailSync, self.random.u32(0..6)),
            Trouble::DiskFull => {
                self.disk.limit(self.random.u64(0..2 * self.plan.segment_bytes));
                let after = self.some_while();
                self.scheduler.after(after, Event::TroubleEnds { what: Passing::DiskFull });
            }
            Trouble::DiskSlow => self.slow_disk_until = self.scheduler.now + self.some_while(),
            Trouble::ClientCrashes => self.crash_client(),
            Trouble::TakeOver => self.add_rival(),
            Trouble::SlowReader => {
                let client = self.random.usize(0..self.clients.len());
                self.clients[client].reads_again_at = self.scheduler.now + self.some_while();
            }
            Trouble::ClockSet => self.wall_offset += self.clock_jump(),
        }
        self.plan_trouble();
    }

    pub(crate) fn trouble_ends(&mut self, what: Passing) {
        match what {
            Passing::DiskFull => self.disk.unlimit(),
        }
    }

    /// Nothing goes wrong any more, and what is wrong is put right.
    pub(crate) fn end_troubles(&mut self) {
        self.disk.sim.heal();
        self.disk.unlimit();
        self.network.calm();
        self.slow_disk_until = 0;
        for index in 0..self.clients.len() {
            self.clients[index].reads_again_at = 0;
            self.clients[index].cut_off_until = 0;
            if let Some(conn) = self.clients[index].conn() {
                // What was held back comes through now.
                for side in [crate::network::Side::Client, crate::network::Side::Server] {
                    self.scheduler.after(0, Event::Arrive { conn, side });
                }
                self.client_readable(conn);
            }
        }
    }

    fn clock_jump(&mut self) -> i64 {
        let far = self.plan.later.clock_jump_ms;
        if far == 0 { self.random.i64(-5000..5000) } else { self.later_random.i64(-far..far) }
    }

    fn some_while(&mut self) -> Micros {
        self.random.u64(10 * MS..[SECOND, 5 * SECOND, 20 * SECOND][self.random.clone().usize(0..3)])
    }

    fn some_conn(&mut self) -> Option<ConnId> {
        let conns: Vec<ConnId> = self.clients.iter().filter_map(|client| client.conn()).collect();
        (!conns.is_empty()).then(|| conns[self.random.usize(0..conns.len())])
    }

    fn cut_off(&mut self, client: usize, until: Micros) {
        self.clients[client].cut_off_until = until;
        if let Some(conn) = self.clients[client].conn() {
            self.network.stall(conn, until);
        }
    }

    fn stop_server(&mut self, crash: Crash) {
        let down = self.random.u64(10 * MS..3 * SECOND);
        self.crash_server(crash, down);
    }

    /// A client dies with all it remembers; sometimes the server hears of it, sometimes it does not.
    fn crash_client(&mut self) {
        let client = self.random.usize(0..self.clients.len());
        if !self.clients[client].is_alive {
            return;
        }
        if let Some(conn) = self.clients[client].conn() {
            if self.random.bool() {
                self.network.reset(conn, crate::network::Side::Client, &mut self.scheduler);
            } else {
                self.network.vanish(conn, crate::network::Side::Client, self.scheduler.now);
            }
        }
        self.bury_client(client);
        let after = self.random.u64(MS..5 * SECOND);
        self.scheduler.after(after, Event::Reborn { client });
    }

    /// Someone else comes with the name of a client.
    fn add_rival(&mut self) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        let original = &self.clients[self.random.usize(0..self.clients.len())];
        let (role, namespace, id) = (original.role, original.namespace.clone(), original.id.clone());
        debug_assert!(matches!(role, Role::Producer | Role::Worker | Role::Device));
        let rival = self.add_client(role, namespace, id);
        note!(self, "client {rival} is a rival");
    }
}
