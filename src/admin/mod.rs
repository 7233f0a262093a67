//! HTTP for operators: metrics, health, readiness and the JSON API.
//!
//! Owns one thread with a tokio runtime of its own, its listener, and a lane to each shard. It must not know slabs or
//! client sockets: everything it tells comes from atomics or from the shards' answers. [`bell`] first, for the lane;
//! then [`spawn`]; [`AdminHandle::stop`] ends it.

mod api;
mod bindings;
mod browser;
mod dead;
mod disk;
mod drain;
mod error;
mod messages;
mod pages;
mod schedules;
mod serve;
mod shard_client;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::{Router, middleware};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::clock::{Clock, Time};
use crate::config::{Auth, Config};
use crate::host;
use crate::limits::{HTTP_CONNECTIONS_MAX, QUEUE_LABELS_MAX};
use crate::mail::{Bell, CommandSender, EffectReceiver};
use crate::telemetry::{Lifecycle, Memory, QueueLabels, SourceSet};
pub use disk::DiskMarks;
pub use drain::Tell;

use disk::DiskSeen;
use drain::Drains;
use error::ApiError;
use serve::Patience;
use shard_client::ShardClient;

/// How long a request waits for the shard.
const SHARD_DEADLINE: Duration = Duration::from_secs(10);

/// What the API is told at start.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who may use it.
    pub auth: Auth,
    /// Largest encoded message that a request may publish, and largest payload that a response shows, in bytes. A
    /// request is held in memory as a whole, and there may be many: no more than a frame holds.
    pub message_bytes_max: usize,
    /// How long a request waits for the shard.
    pub shard_deadline: Duration,
    /// The disk to watch, if any.
    pub disk: Option<DiskMarks>,
}

impl AdminConfig {
    /// What `config` says of it.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            listen: config.listen.admin,
            auth: config.auth.clone(),
            message_bytes_max: config.session.whole_message_bytes_max() as usize,
            shard_deadline: SHARD_DEADLINE,
            disk: Some(DiskMarks::new(config)),
        }
    }
}

/// The API's end of the lanes to and from one shard.
#[derive(Debug)]
pub struct OperatorLane {
    /// What is asked.
    pub commands: CommandSender,
    /// What is answered.
    pub effects: EffectReceiver,
}

/// Wakes the API when the shard has answered.
#[derive(Debug, Clone, Default)]
pub struct Rung(Arc<Notify>);

/// A bell for the operator's lane, and what it rings.
#[must_use]
pub fn bell() -> (Bell, Rung) {
    let rung = Rung::default();
    let notify = Arc::clone(&rung.0);
    (Bell::new(move || notify.notify_one()), rung)
}

/// A running API.
#[derive(Debug)]
pub struct AdminHandle {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What every request sees.
#[derive(Debug)]
struct Shared {
    config: AdminConfig,
    shard: ShardClient,
    /// One for each connection that may be open.
    slots: Arc<Semaphore>,
    sources: SourceSet,
    lifecycle: Lifecycle,
    drains: Drains,
    disk: DiskSeen,
    clock: Clock,
    memory_at_start: Memory,
    /// Not on any message's path: one scrape at a time.
    labels: Mutex<QueueLabels>,
}

type State = axum::extract::State<Arc<Shared>>;

fn memory() -> Memory {
    Memory { resident: host::resident_bytes(), kernel: host::kernel_bytes() }
}

/// Starts the API on a thread of its own. There is a lane for each shard, in their order; all ring `bell`.
///
/// # Errors
/// When it cannot listen, or the system gives no thread.
pub fn spawn(
    config: AdminConfig,
    sources: SourceSet,
    lanes: Vec<OperatorLane>,
    bell: Bell,
    rung: Rung,
    lifecycle: Lifecycle,
    tell_loops: Tell,
) -> io::Result<AdminHandle> {
    let listener = TcpListener::bind(config.listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel();
    // Nobody was let in yet.
    let memory_at_start = memory();
    let thread = thread::Builder::new().name("admin".into()).spawn(move || {
        let serving = async move {
            let (shard, serving_shard) = shard_client::start(lanes, bell, rung, config.shard_deadline);
            let slots = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
            let shared = Arc::new(Shared {
                config,
                shard,
                slots: Arc::clone(&slots),
                sources,
                lifecycle,
                drains: Drains::new(tell_loops),
                disk: DiskSeen::default(),
                clock: Clock::starting_at(Time(0)),
                memory_at_start,
                labels: Mutex::new(QueueLabels::new(QUEUE_LABELS_MAX)),
            });
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                served = serve::serve(listener, router(Arc::clone(&shared)), slots, Patience::default()) => served,
                () = disk::watch(shared) => Ok(()),
                () = serving_shard => Ok(()),
                _ = stopped => Ok(()),
            }
        };
        if let Err(error) = runtime.block_on(serving) {
            tracing::error!(%error, "the operator API ended; the gateway goes on without it");
        }
    })?;
    Ok(AdminHandle { address, stop, thread })
}

impl AdminHandle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it; requests on their way are dropped.
    pub fn stop(self) {
        // It may have ended by itself.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn router(shared: Arc<Shared>) -> Router {
    pages::routes()
        .merge(api::routes(&shared.config))
        .fallback(|| async { ApiError::no_such_path() })
        .method_not_allowed_fallback(|| async { ApiError::no_such_method() })
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), browser::refuse_foreign_pages))
        .with_state(shared)
}
