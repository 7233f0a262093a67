//! One loop: `run` is a turn from top to bottom, and each step is a function below it, in that order.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll};

use super::audit;
use super::bound::LoopSockets;
use super::brain::LoopBrain;
use super::control::Wishes;
use super::lane::{Lanes, ShardLane};
use super::linger::Lingering;
use super::listener::{Accepted, Listener, Turned};
use super::platform::{self, Doorbell};
use super::stream::{Connections, Stream, cause_of, key_of, token_of};
use super::{LISTENER, WAKER};
use crate::clock::{Clock, Time};
use crate::gateway::{Action, CloseCause, SlotKey, accepts_of_turn};
use crate::host;
use crate::ids::LoopId;
use crate::limits;
use crate::mail::{Bell, CommandBatch};
use crate::telemetry::{LEAK_STATES, LoopMetrics};

/// stdin, stdout and stderr, which every table has.
const STANDARD: [RawFd; 3] = [0, 1, 2];

pub(super) struct EventLoop<B> {
    loop_id: LoopId,
    brain: B,
    poll: Poll,
    bell: Bell,
    doorbell: Arc<Doorbell>,
    listener: Listener,
    accepting: Accepting,
    connections: Connections,
    /// What all connections are read into; between reads, scratch for what is thrown away.
    read_buffer: Box<[u8]>,
    /// Closed at the end of the turn, so that no slot changes its tenant within one.
    doomed: Vec<(u32, CloseCause)>,
    lingering: Lingering,
    lanes: Lanes,
    metrics: Arc<LoopMetrics>,
    clock: Clock,
    /// Of the present turn.
    now: Time,
    wishes: Arc<Wishes>,
    draining: bool,
    /// The newest order to drain a share, as it came.
    obeyed: u64,
    /// How long the last turn took, without its sleep.
    last_turn: Duration,
    /// Heartbeats answered up to the last turn.
    pongs_counted: u64,
    /// Descriptors beside those of connections.
    own_descriptors: u64,
    /// The thread's number, if its table of descriptors is its own.
    table_of: Option<u64>,
    /// What waits in a listener that is closed is not lost.
    connections_migrate: bool,
    /// There are more loops than cores.
    shares_a_core: bool,
}

/// Where the loop stands with its listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepting {
    /// The backlog was empty; the next edge says otherwise.
    AwaitingEdge,
    /// There may be more to accept.
    Pending,
    /// Out of descriptors: until a connection closes, or this time.
    AwaitingDescriptor(Time),
    /// The table was full with `held` sockets and the others of the group take what comes: until a part of them has left,
    /// or at `until` a single one.
    OutOfGroup { held: usize, until: Time },
}

impl<B: LoopBrain> EventLoop<B> {
    #[expect(clippy::too_many_arguments, reason = "what a loop is made of, once")]
    pub(super) fn new(
        loop_id: LoopId,
        sockets: LoopSockets,
        bell: Bell,
        brain: B,
        lanes: Vec<ShardLane>,
        metrics: Arc<LoopMetrics>,
        clock: Clock,
        wishes: Arc<Wishes>,
    ) -> Self {
        metrics.table_of.set(sockets.table_of.unwrap_or(0));
        metrics.descriptors.set(sockets.own_descriptors);
        metrics.listening.set(1);
        Self {
            loop_id,
            brain,
            poll: sockets.poll,
            bell,
            doorbell: sockets.doorbell,
            listener: sockets.listener,
            accepting: Accepting::AwaitingEdge,
            connections: Connections::default(),
            read_buffer: vec![0; limits::READ_BUFFER_BYTES].into_boxed_slice(),
            doomed: Vec::new(),
            lingering: Lingering::default(),
            lanes: Lanes::new(lanes),
            metrics,
            now: clock.time(),
            clock,
            wishes,
            draining: false,
            obeyed: 0,
            last_turn: Duration::ZERO,
            pongs_counted: 0,
            own_descriptors: sockets.own_descriptors,
            table_of: sockets.table_of,
            connections_migrate: platform::connections_migrate(),
            shares_a_core: sockets.shares_a_core,
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(limits::EVENTS_PER_TURN_MAX);
        while !self.is_finished() {
            self.sleep(&mut events);
            let woken_us = self.clock.micros();
            self.now = self.clock.time();
            self.obey();
            self.sort(&events);
            self.read();
            self.take_effects();
            // After those who are here already: their heartbeats and acks go first.
            self.accept();
            let wave_until_us = self.clock.micros() + limits::BROADCAST_WAVE.as_micros() as u64;
            self.expire();
            self.act();
            while self.clock.micros() < wave_until_us && self.brain.carry_on(self.now) {
                self.act();
            }
            self.send_commands();
            self.count_turn(woken_us);
        }
        // Nothing is left of the connections: what the table holds beside the loop's own has leaked.
        if let Some(open) = self.table_of.and_then(host::descriptors_of) {
            self.compare_descriptors(open);
        }
    }

    /// What was found open in the loop's own table against what the loop knows: what differs has leaked.
    fn compare_descriptors(&mut self, mut open: Vec<RawFd>) {
        let mut known = STANDARD.to_vec();
        known.extend([self.poll.as_raw_fd(), self.doorbell.number()]);
        known.extend(self.listener.descriptors());
        known.extend(self.connections.descriptors().chain(self.lingering.descriptors()));
        // One of the standard ones that is closed is nobody's loss.
        open.extend(STANDARD);
        let mut leaks = audit::compare(&mut open, &mut known, platform::tcp_state);
        leaks[audit::NO_SOCKET] = self.brain.live().abs_diff(self.connections.live()) as u64;
        for ((&leaked, gauge), state) in leaks.iter().zip(&self.metrics.leaked).zip(LEAK_STATES) {
            if leaked > 0 && leaked != gauge.value() {
                let loop_id = self.loop_id.0;
                tracing::warn!(
                    loop_id,
                    state,
                    leaked,
                    "the event loop's table holds descriptors it does not know, or lacks some"
                );
            }
            gauge.set(leaked);
        }
    }

    fn descriptors(&self) -> u64 {
        self.own_descriptors - u64::from(!self.listener.is_open()) + self.held() as u64
    }

    /// Sockets of connections, those that linger included.
    fn held(&self) -> usize {
        self.connections.live() + self.lingering.len()
    }

    /// A heartbeat is answered in the turn that reads it, so the turn's length bounds how long that took.
    fn count_turn(&mut self, woken_us: u64) {
        let took_us = self.clock.micros() - woken_us;
        self.last_turn = Duration::from_micros(took_us);
        self.metrics.turns.inc();
        self.metrics.descriptors.set(self.descriptors());
        self.metrics.stream_bytes.set(self.connections.bytes() as u64);
        let pongs = self.metrics.sent.pongs();
        let answered = pongs - std::mem::replace(&mut self.pongs_counted, pongs);
        if answered > 0 {
            self.metrics.heartbeat_turnaround_us.record_many(took_us, answered);
        }
    }

    fn is_finished(&mut self) -> bool {
        let drained = self.draining
            && self.brain.is_drained()
            && self.brain.commands().iter().all(CommandBatch::is_empty)
            && !self.lanes.is_blocked()
            && self.lingering.is_empty();
        drained || self.wishes.is_stop()
    }

    /// Waits for events, the next deadline or the bell; not at all when there is work left.
    fn sleep(&mut self, events: &mut Events) {
        if self.shares_a_core && self.brain.handshakes() > 0 {
            // Of a crowd that comes in, each loop would be woken for every single client. The others that share the
            // core go first: a turn then deals with what has gathered meanwhile.
            thread::yield_now();
        }
        let timeout = if self.has_work() || self.lanes.expects_news(&self.clock) {
            Some(Duration::ZERO)
        } else {
            self.bell.about_to_sleep();
            // What was sent before the bell was armed rang nothing: look once more.
            if self.has_news() { Some(Duration::ZERO) } else { self.until_next_deadline() }
        };
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("the poller of loop {} failed: {error}", self.loop_id.0),
        }
        self.bell.awake();
    }

    fn has_work(&self) -> bool {
        self.accepting == Accepting::Pending
            || (self.connections.queued() > 0 && !self.lanes.is_blocked())
            || self.lanes.has_news()
            || self.wants_back()
    }

    fn has_news(&self) -> bool {
        self.lanes.has_news()
            || self.wishes.is_stop()
            || self.wishes.is_listed()
            || (!self.draining && self.wishes.drain_over().is_some())
            || self.wishes.has_order(self.obeyed)
    }

    fn until_next_deadline(&self) -> Option<Duration> {
        let accept_again = match self.accepting {
            Accepting::AwaitingDescriptor(until) => Some(until),
            Accepting::OutOfGroup { until, .. } => (!self.draining).then_some(until),
            Accepting::AwaitingEdge | Accepting::Pending => None,
        };
        let deadlines = [self.brain.next_deadline(), self.lingering.next_deadline(), accept_again];
        let now = self.clock.time();
        deadlines.into_iter().flatten().min().map(|at| at - now)
    }

    /// Does what other threads asked for.
    fn obey(&mut self) {
        if let Some(open) = self.wishes.is_listed().then(|| self.wishes.next_listing()).flatten() {
            self.compare_descriptors(open);
        }
        if !self.draining
            && let Some(over) = self.wishes.drain_over()
        {
            self.draining = true;
            self.brain.begin_drain(self.now, over);
        }
        if let Some(order) = self.wishes.new_order(&mut self.obeyed) {
            self.brain.drain_share(self.now, order);
        }
    }

    /// Notes what the events say. Nothing is read yet, so that all connections have their turn.
    fn sort(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                LISTENER if self.accepting == Accepting::AwaitingEdge => self.accepting = Accepting::Pending,
                LISTENER => {}
                WAKER => self.doorbell.hush(),
                token => self.sort_one(key_of(token), event),
            }
        }
    }

    fn sort_one(&mut self, key: SlotKey, event: &Event) {
        let Some(connection) = self.connections.of(key) else { return };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.brain.expect(key.slot);
            connection.readable = true;
            connection.peer_finished |= event.is_read_closed() || event.is_error();
        }
        let can_go_on_writing = connection.write_blocked && event.is_writable();
        let is_dead = event.is_error() || (event.is_read_closed() && event.is_write_closed());
        if can_go_on_writing {
            connection.write_blocked = false;
            self.flush(key.slot);
        }
        if is_dead && !self.brain.may_read(key.slot) {
            // Nobody would find out by reading.
            self.doom(key.slot, CloseCause::Failed);
        }
        self.close_if_gone(key);
        self.connections.queue(key.slot);
    }

    /// A client that went while it waited to be let in is let go: its session would take over from the connection with
    /// which it has come back.
    fn close_if_gone(&mut self, key: SlotKey) {
        let has_gone = self.connections.of(key).is_some_and(|connection| connection.peer_finished);
        if has_gone && self.brain.awaits_admission(key.slot) {
            self.doom(key.slot, CloseCause::Peer);
        }
    }

    fn accept(&mut self) {
        if self.draining && self.brain.is_drained() {
            // Nobody is left to be turned away for: those that come again and again would keep the loop for ever.
            self.stop_listening();
            return;
        }
        match self.accepting {
            Accepting::AwaitingDescriptor(until) if until <= self.now => self.accepting = Accepting::Pending,
            Accepting::OutOfGroup { .. } if self.wants_back() => self.rejoin(),
            Accepting::OutOfGroup { held, until } if until <= self.now => {
                self.accepting = Accepting::OutOfGroup { held, until: self.now + limits::ACCEPT_RETRY };
            }
            _ => {}
        }
        if self.accepting != Accepting::Pending {
            return;
        }
        let allowed = accepts_of_turn(self.last_turn, self.lanes.depth());
        if allowed < limits::ACCEPTS_PER_TURN_MAX {
            self.metrics.accepts.slowed.inc();
        }
        for _ in 0..allowed {
            match self.listener.accept() {
                Accepted::Stream(stream) => self.admit(stream),
                Accepted::Gone => {}
                Accepted::Nothing => {
                    self.accepting = Accepting::AwaitingEdge;
                    return;
                }
                Accepted::NoDescriptor => {
                    if !self.make_do() {
                        return;
                    }
                }
                Accepted::Failed(error) => {
                    tracing::warn!(loop_id = self.loop_id.0, %error, "cannot accept; trying again in a second");
                    self.accepting = Accepting::AwaitingDescriptor(self.now + limits::ACCEPT_RETRY);
                    return;
                }
            }
        }
    }

    fn stop_listening(&mut self) {
        self.listener.close();
        self.metrics.listening.set(0);
        self.accepting = Accepting::AwaitingEdge;
    }

    fn admit(&mut self, mut stream: TcpStream) {
        match self.brain.accept(self.now) {
            Ok(key) => {
                let both = Interest::READABLE | Interest::WRITABLE;
                match self.poll.registry().register(&mut stream, token_of(key), both) {
                    Ok(()) => self.connections.insert(key, Stream::Plain(stream)),
                    // The limit on watched descriptors, or memory: this connection ends before it began.
                    Err(_) => self.brain.closed(self.now, key.slot, CloseCause::Failed),
                }
            }
            Err(shed) => {
                let mut stream = Stream::Plain(stream);
                // What a fresh socket does not take at once, a client that is turned away can do without.
                let _ = stream.write(&shed.farewell);
                self.lingering.close(self.now, stream, &mut self.read_buffer);
            }
        }
    }

    /// Out of descriptors: frees one that only lingers, or uses the reserve to tell one client so. Returns whether it is
    /// of use to accept again at once.
    fn make_do(&mut self) -> bool {
        if self.lingering.drop_oldest(&mut self.read_buffer) {
            return true;
        }
        if self.connections_migrate && self.leave() {
            return false;
        }
        // Without a descriptor to give, the system does not say whether anybody waits at all: the reserve finds out.
        let farewell = || self.brain.turn_away(self.now).farewell;
        match self.listener.shed(farewell, &mut self.read_buffer) {
            Turned::Away => return true,
            Turned::Nobody if self.leave() => {}
            Turned::Nobody => self.accepting = Accepting::AwaitingEdge,
            Turned::NoReserve => {
                self.accepting = Accepting::AwaitingDescriptor(self.now + limits::ACCEPT_RETRY);
            }
        }
        false
    }

    /// The table is full: the others take what comes. Returns false where there are none, or they share the table.
    fn leave(&mut self) -> bool {
        if self.table_of.is_none() || self.draining || !self.listener.leave() {
            return false;
        }
        self.metrics.listening.set(0);
        self.accepting = Accepting::OutOfGroup { held: self.held(), until: self.now + limits::ACCEPT_RETRY };
        true
    }

    /// Whether there is room enough again to be worth it: not for every single connection that leaves.
    fn wants_back(&self) -> bool {
        let Accepting::OutOfGroup { held, until } = self.accepting else { return false };
        let free = held.saturating_sub(self.held());
        let is_time = until <= self.now && free > 0;
        !self.draining && (is_time || free > 1 + held / limits::REJOIN_AT_FREE_SHARE)
    }

    fn rejoin(&mut self) {
        match self.listener.rejoin(self.poll.registry()) {
            Ok(()) => {
                self.metrics.listening.set(1);
                self.accepting = Accepting::Pending;
            }
            Err(error) => {
                tracing::warn!(loop_id = self.loop_id.0, %error, "cannot listen again; trying again in a second");
                // One that is free then is enough.
                let until = self.now + limits::ACCEPT_RETRY;
                self.accepting = Accepting::OutOfGroup { held: self.held() + 1, until };
            }
        }
    }

    /// Reads the connections that wait for it, each once, until the turn's share is used up.
    fn read(&mut self) {
        let mut share = limits::READ_PER_LOOP_TURN_BYTES_MAX;
        let mut waiting = self.connections.queued();
        while waiting > 0 && share > 0 && !self.lanes.is_blocked() {
            let Some(key) = self.connections.next_ready() else { return };
            share = share.saturating_sub(self.read_one(key));
            waiting -= 1;
        }
    }

    /// Reads one connection: to the end of what is there, or its share of the turn, or until the brain has enough.
    /// Returns how many bytes came.
    fn read_one(&mut self, key: SlotKey) -> usize {
        let mut taken = 0;
        while taken < limits::READ_PER_TURN_BYTES_MAX && self.brain.may_read(key.slot) {
            let Some(connection) = self.connections.of(key) else { return taken };
            let Some(stream) = &mut connection.stream else { return taken };
            self.metrics.socket_reads.inc();
            match stream.read(&mut self.read_buffer) {
                Ok(0) => {
                    self.doom(key.slot, CloseCause::Peer);
                    return taken;
                }
                Ok(n) => {
                    taken += n;
                    let is_all = n < self.read_buffer.len() && !connection.peer_finished;
                    connection.readable = !is_all;
                    self.lanes.feed(&mut self.brain, self.now, key, &self.read_buffer[..n]);
                    if is_all {
                        return taken;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.readable = false;
                    return taken;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.doom(key.slot, cause_of(&error));
                    return taken;
                }
            }
        }
        self.close_if_gone(key);
        // Stopped by the brain, it stays readable and is queued by `Action::ResumeReading`.
        if self.brain.may_read(key.slot) {
            self.connections.queue(key.slot);
        }
        taken
    }

    fn take_effects(&mut self) {
        for _ in 0..limits::EFFECT_BATCHES_PER_TURN_MAX {
            let Some(batch) = self.lanes.next_effects() else { return };
            self.brain.effects(self.now, batch);
        }
    }

    fn expire(&mut self) {
        self.brain.expire(self.now);
        if self.lingering.expire(self.now, &mut self.read_buffer) > 0 {
            self.descriptor_came_free();
        }
    }

    /// Does what the brain asks for, and then closes what is to be closed, which may make it ask for more.
    fn act(&mut self) {
        loop {
            while let Some(action) = self.brain.next_action() {
                match action {
                    Action::Flush(slot) => self.flush(slot),
                    Action::Close(slot) => {
                        self.flush(slot);
                        self.doom(slot, CloseCause::Local);
                    }
                    Action::Abort(slot) => self.doom(slot, CloseCause::Aborted),
                    Action::StopReading(_) => {}
                    Action::ResumeReading(slot) => self.connections.queue(slot),
                }
            }
            if self.doomed.is_empty() {
                return;
            }
            self.bury();
        }
    }

    /// Writes until there is nothing left or the socket takes no more; then the next writable edge goes on.
    fn flush(&mut self, slot: u32) {
        let Some(connection) = self.connections.in_slot(slot) else { return };
        let Some(stream) = &mut connection.stream else { return };
        while !connection.write_blocked {
            let unsent = self.brain.unsent(slot);
            if unsent.is_empty() {
                return;
            }
            self.metrics.socket_writes.inc();
            match stream.write(unsent) {
                Ok(n) => {
                    // A write cut short has found the socket full: no need to ask again.
                    connection.write_blocked = n < unsent.len();
                    self.brain.sent(self.now, slot, n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.write_blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.doom(slot, cause_of(&error));
                    return;
                }
            }
        }
    }

    /// Closes a connection at the end of the turn.
    fn doom(&mut self, slot: u32, cause: CloseCause) {
        if self.connections.doom(slot) {
            self.doomed.push((slot, cause));
        }
    }

    fn bury(&mut self) {
        while let Some((slot, cause)) = self.doomed.pop() {
            match (self.connections.remove(slot), cause) {
                (Some(stream), CloseCause::Local) => {
                    self.lingering.close(self.now, stream, &mut self.read_buffer);
                }
                (Some(stream), CloseCause::Aborted) => stream.abort(),
                _ => {}
            }
            self.brain.closed(self.now, slot, cause);
        }
        self.descriptor_came_free();
    }

    fn descriptor_came_free(&mut self) {
        if matches!(self.accepting, Accepting::AwaitingDescriptor(_)) {
            self.accepting = Accepting::Pending;
        }
    }

    /// Sends the turn's commands down the lanes, once.
    fn send_commands(&mut self) {
        let was_blocked = self.lanes.is_blocked();
        self.lanes.send(self.brain.commands());
        if self.lanes.is_blocked() != was_blocked {
            self.brain.lane_blocked(self.now, self.lanes.is_blocked());
        }
        self.metrics.command_lane_batches.set(self.lanes.depth() as u64);
        self.metrics.effect_lane_batches.set(self.lanes.effects_waiting() as u64);
        self.metrics.lingering.set(self.lingering.len() as u64);
    }
}
