//! The operator's other wish: a share of the sessions is sent away while the server stays. Nobody but those clients may
//! notice: it ends in its time, tells no more and no fewer than its share, and whoever was told comes back (the finale
//! awaits that of everybody).

use std::time::Duration;

use relaymesh::limits::{DRAIN_WAVE, LEAVE_DEADLINE};
use relaymesh::mail::{DrainOrder, WHOLE_PPM};

use super::{Loop, Server};
use crate::scheduler::{MS, Micros, SECOND};
use crate::trace::note;
use crate::world::{Event, World};

/// From a moment on the gateways' clock to the turn of the loop that acts on it.
const TURN_MAX: Micros = 300 * MS;

/// The newest share drain, and what came of all of them.
#[derive(Debug, Default)]
pub(crate) struct ShareDrains {
    asked: Option<Asked>,
    /// Orders given, which numbers them.
    orders: u16,
    /// The server of this life was told to end: it obeys no order any more.
    ending_life: u32,
    /// Some server was told to drain, at least a share.
    pub(crate) has_drained: bool,
    /// Drains that were seen to end, and the clients they sent away.
    pub(crate) ended: u64,
    pub(crate) told: u64,
}

#[derive(Debug, Clone)]
struct Asked {
    life: u32,
    order: DrainOrder,
    /// Of each loop: its sessions that were not told to go, and the connections it had ended.
    began: Vec<(u64, u64)>,
}

impl ShareDrains {
    /// A server is told to end with all its sessions.
    pub(super) fn server_ends(&mut self, life: u32) {
        self.ending_life = life;
        self.has_drained = true;
    }
}

impl World {
    /// The first of them is asked for a while after the world began, if there are any.
    pub(crate) fn plan_share_drain(&mut self) {
        if let Some(every) = self.plan.share_drain_every {
            let after = self.drain_random.u64(0..2 * every);
            self.scheduler.after(after, Event::ShareDrain);
        }
    }

    /// An operator sends a share away; now and then what the last one began is called off.
    pub(crate) fn begin_share_drain(&mut self) {
        if !self.is_troubled() {
            return;
        }
        self.plan_share_drain();
        let share_ppm = match self.drain_random.u8(0..6) {
            0 => 0,
            1 => WHOLE_PPM,
            _ => self.drain_random.u32(1..WHOLE_PPM),
        };
        let over = Duration::from_millis(self.drain_random.u64(0..4000));
        let Some(server) = self.server.as_mut().filter(|server| server.is_listening) else { return };
        if server.life == self.drains.ending_life {
            return;
        }
        self.drains.orders += 1;
        self.drains.has_drained = true;
        let order = DrainOrder { number: self.drains.orders, share_ppm, over };
        // Those that the last one told and that are still there are not told again.
        let sessions = |own: &Loop| own.metrics.connections_live.value() - own.metrics.drain_leaving.value();
        let began = server.loops.iter().map(|own| (sessions(own), own.ended)).collect();
        let time = server.loop_time(self.scheduler.now);
        for (index, own) in server.loops.iter_mut().enumerate() {
            let order = DrainOrder::unpack(order.pack()).expect("it has a number");
            own.gateway.drain_share(time, self.planted.tamper_with_drain(index, order));
        }
        let (life, loops) = (server.life, server.loops.len());
        let asked = Asked { life, order, began };
        note!(self, "an operator drains {asked:?}");
        let until = over.as_micros() as Micros + self.paced(&asked) + wave() + TURN_MAX;
        self.drains.asked = Some(asked);
        (0..loops).for_each(|index| self.wake_loop(index, 0));
        self.scheduler.after(until, Event::ShareDrainTold { order: order.number });
    }

    /// What the pace of the slowest loop may add to a drain's time.
    fn paced(&self, asked: &Asked) -> Micros {
        let most = asked.began.iter().map(|(sessions, _)| *sessions).max().unwrap_or(0);
        most * SECOND / u64::from(self.plan.gateway.admissions_per_s.max(1))
    }

    /// The server that obeyed the order, if no other came since.
    fn obeying(&self, order: u16) -> Option<(&Server, &Asked)> {
        let asked = self.drains.asked.as_ref().filter(|asked| asked.order.number == order)?;
        let is_same = |server: &&Server| server.life == asked.life && server.life != self.drains.ending_life;
        Some((self.server.as_ref().filter(is_same)?, asked))
    }

    /// By now every client of the share has been told, and no other.
    pub(crate) fn check_share_drain_told(&mut self, order: u16) {
        let Some((server, asked)) = self.obeying(order) else { return };
        let mut told_in_all = 0;
        for (own, &(sessions, ended)) in server.loops.iter().zip(&asked.began) {
            let (metrics, share) = (&own.metrics, u64::from(asked.order.share_ppm));
            assert_eq!(metrics.drain_order.value(), u64::from(order), "a loop has not heard of the order");
            assert_eq!(metrics.drain_running.value(), 0, "the drain of a share does not end: {asked:?}");
            if share == 0 {
                continue;
            }
            let told = metrics.drain_told.value();
            let whole = u64::from(WHOLE_PPM);
            let most = (sessions * share).div_ceil(whole);
            assert!(told <= most, "{told} of {sessions} sessions were told to go, with {asked:?}");
            // Some may have left by themselves before it was their turn.
            let least = (sessions * share / whole).saturating_sub(own.ended - ended);
            assert!(told >= least, "only {told} of {sessions} sessions were told to go, with {asked:?}");
            told_in_all += told;
        }
        note!(self, "the drain told {told_in_all} clients to go");
        self.drains.told += told_in_all;
        let leave = LEAVE_DEADLINE.as_micros() as Micros + TURN_MAX;
        self.scheduler.after(leave, Event::ShareDrainLeft { order });
    }

    /// By now all that were told are gone.
    pub(crate) fn check_share_drain_left(&mut self, order: u16) {
        let Some((server, asked)) = self.obeying(order) else { return };
        for own in &server.loops {
            let leaving = own.metrics.drain_leaving.value();
            assert_eq!(leaving, 0, "{leaving} clients that were told to go are still there: {asked:?}");
        }
        self.drains.ended += 1;
    }
}

fn wave() -> Micros {
    DRAIN_WAVE.as_micros() as Micros
}
