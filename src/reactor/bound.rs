//! From nothing to a loop that runs: its thread makes whatever it needs by itself.
//!
//! With a table of its own, a thread's descriptors are its own from the first on: nothing of a loop stands in the table of
//! the others but its doorbell, so that a socket closed here is closed. The doorbell alone is made before, and has
//! the same number in both tables.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::unix::SourceFd;
use mio::{Interest, Poll};

use super::brain::LoopBrain;
use super::control::LoopControl;
use super::event_loop::EventLoop;
use super::lane::ShardLane;
use super::listener::{Group, KeepAlive, Listener};
use super::platform::Doorbell;
use super::{BindError, ReactorConfig, WAKER};
use crate::clock::Clock;
use crate::host;
use crate::ids::LoopId;
use crate::mail::Bell;
use crate::telemetry::LoopMetrics;

/// What a loop opens in a table that it shares: poller, listener, doorbell and reserve.
const OWN_IN_A_SHARED_TABLE: u64 = 4;

/// What a loop's thread is started with, once there is a brain for it.
type Job = Box<dyn FnOnce(LoopSockets) + Send>;

/// A loop that listens (the kernel queues its connections) and does not run yet. Dropped instead of started, it ends.
#[derive(Debug)]
pub struct BoundLoop {
    loop_id: LoopId,
    address: SocketAddr,
    bell: Bell,
    control: LoopControl,
    start: Sender<Job>,
    thread: JoinHandle<()>,
}

/// A loop that runs.
#[derive(Debug)]
pub struct LoopHandle {
    /// Ends it.
    pub control: LoopControl,
    /// Ended when the loop has drained or was stopped. A panic never arrives here: it ends the process.
    pub join: JoinHandle<()>,
}

/// What a loop's thread has opened.
#[derive(Debug)]
pub(super) struct LoopSockets {
    pub(super) poll: Poll,
    pub(super) listener: Listener,
    pub(super) doorbell: Arc<Doorbell>,
    /// How many descriptors that took, with those every table holds.
    pub(super) own_descriptors: u64,
    /// The thread's number, if its table is its own.
    pub(super) table_of: Option<u64>,
    /// The thread has no core of its own.
    pub(super) shares_a_core: bool,
}

/// Makes the loops, all listening on one address.
///
/// # Errors
/// [`BindError`] when the address is taken or not allowed, or the system gives no descriptors.
pub fn bind(config: &ReactorConfig) -> Result<Vec<BoundLoop>, BindError> {
    let mut config = config.clone();
    let group = Arc::new(Group::default());
    let mut loops = Vec::with_capacity(usize::from(config.loops));
    for number in 0..config.loops.max(1) {
        let bound = bind_one(&config, LoopId(number), &group)?;
        // The first one settles the port for all.
        config.listen = bound.address;
        loops.push(bound);
    }
    Ok(loops)
}

fn bind_one(config: &ReactorConfig, loop_id: LoopId, group: &Arc<Group>) -> Result<BoundLoop, BindError> {
    let doorbell = Arc::new(Doorbell::new().map_err(BindError::Poller)?);
    let (report, reported) = bounded(1);
    let (start, started) = bounded(1);
    let (own_config, shared) = (config.clone(), (Arc::clone(&doorbell), Arc::clone(group)));
    let thread = thread::Builder::new()
        .name(format!("loop-{}", loop_id.0))
        .spawn(move || {
            let _guard = EndsTheProcess;
            be_a_loop(&own_config, loop_id, shared, &report, &started);
        })
        .map_err(BindError::Thread)?;
    let ended = || BindError::Thread(io::Error::other("it ended before it listened"));
    let address = reported.recv().map_err(|_| ended())??;
    let bell = Bell::new(move || doorbell.ring());
    let control = LoopControl::new(bell.clone());
    Ok(BoundLoop { loop_id, address, bell, control, start, thread })
}

/// The whole life of a loop's thread.
fn be_a_loop(
    config: &ReactorConfig,
    loop_id: LoopId,
    (doorbell, group): (Arc<Doorbell>, Arc<Group>),
    report: &Sender<Result<SocketAddr, BindError>>,
    started: &Receiver<Job>,
) {
    match LoopSockets::open(config, loop_id == LoopId(0), doorbell, group) {
        Ok(sockets) => {
            // Whoever bound the loop waits for this.
            let _ = report.send(Ok(sockets.listener.address()));
            // Nobody has a brain for it when another loop could not be bound.
            let Ok(job) = started.recv() else { return };
            if config.pin && !host::pin_thread(usize::from(loop_id.0)) {
                tracing::info!(loop_id = loop_id.0, "the event loop runs without a core of its own");
            }
            job(sockets);
        }
        Err(error) => {
            let _ = report.send(Err(error));
        }
    }
}

impl LoopSockets {
    fn open(
        config: &ReactorConfig,
        is_first: bool,
        doorbell: Arc<Doorbell>,
        group: Arc<Group>,
    ) -> Result<Self, BindError> {
        if config.private_tables {
            host::own_descriptor_table(doorbell.number()).map_err(BindError::Table)?;
        }
        let address = config.listen;
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            _ => BindError::Listen { address, source },
        };
        let keep_alive = KeepAlive::tuned(config.heartbeat, config.sessions);
        let mut listener = Listener::bind(address, keep_alive, is_first, group).map_err(refused)?;
        let poll = Poll::new().map_err(BindError::Poller)?;
        let registry = poll.registry();
        listener.register(registry).map_err(BindError::Poller)?;
        let number: RawFd = doorbell.number();
        registry.register(&mut SourceFd(&number), WAKER, Interest::READABLE).map_err(BindError::Poller)?;
        let table_of = if config.private_tables { host::thread_number() } else { None };
        let own_descriptors = table_of.and_then(host::open_descriptors_of).unwrap_or(OWN_IN_A_SHARED_TABLE);
        let shares_a_core = !config.pin;
        Ok(Self { poll, listener, doorbell, own_descriptors, table_of, shares_a_core })
    }
}

impl BoundLoop {
    /// Its number.
    #[must_use]
    pub fn loop_id(&self) -> LoopId {
        self.loop_id
    }

    /// Where it listens: the port the kernel chose when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Wakes the loop; for the lanes that lead to it.
    #[must_use]
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// What may be asked of it, which it does once it runs.
    #[must_use]
    pub fn control(&self) -> LoopControl {
        self.control.clone()
    }

    /// Starts the loop on its thread, `loop-<number>`. `clock` is the one the brain was made with.
    ///
    /// # Errors
    /// When the thread has ended, which it does not by itself.
    pub fn spawn<B: LoopBrain>(
        self,
        brain: B,
        lanes: Vec<ShardLane>,
        metrics: Arc<LoopMetrics>,
        clock: Clock,
    ) -> io::Result<LoopHandle> {
        let Self { loop_id, bell, control, start, thread, .. } = self;
        let wishes = control.wishes();
        let job: Job = Box::new(move |sockets| {
            EventLoop::new(loop_id, sockets, bell, brain, lanes, metrics, clock, wishes).run();
        });
        start.send(job).map_err(|_| io::Error::other("the thread of the event loop has ended"))?;
        Ok(LoopHandle { control, join: thread })
    }
}

/// Brings the process down when its thread panics: the loop's connections would hang for ever otherwise, and their
/// leases with them. (A release build aborts by itself.)
struct EndsTheProcess;

impl Drop for EndsTheProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("an event loop panicked (see above); the process ends, so that its clients reconnect");
            std::process::abort();
        }
    }
}
