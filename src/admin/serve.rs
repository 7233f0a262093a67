//! Connections of HTTP: how many, and for how long each.
//!
//! A connection beyond the bound waits in the kernel's backlog until another one ends. None may stay for ever,
//! whatever its client does or leaves undone, so that a slow or silent one cannot keep operators out.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::limits::ACCEPT_RETRY;

/// How long a connection may last, and a client be silent in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the connection, or the last answer, to the end of the next request's head.
    pub(super) head: Duration,
    /// From the connection until it takes no further request.
    pub(super) connection: Duration,
    /// From then until it is cut.
    pub(super) farewell: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            connection: Duration::from_secs(120),
            farewell: Duration::from_secs(30),
        }
    }
}

/// Serves `router`, at most as many connections at once as there are `slots`. Ends only with its own future.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    slots: Arc<Semaphore>,
    patience: Patience,
) -> io::Result<()> {
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, router.clone(), slot, patience));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "the operator API cannot accept; are there descriptors left?");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, _slot: OwnedSemaphorePermit, patience: Patience) {
    // Answers are written whole; a socket that refuses the option is closed already.
    let _ = stream.set_nodelay(true);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.head)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    // How a connection ends is its client's affair, here and below.
    if timeout(patience.connection, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(patience.farewell, connection).await;
    }
}
