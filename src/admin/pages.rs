//! What monitoring reads: metrics, health and readiness. Open to everyone who reaches the address; nothing of what
//! users store is in it but the names of queues.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::time::timeout;

use super::error::ApiError;
use super::{Shared, State};
use crate::host::{self, DiskState};
use crate::ids::{Namespace, QueueName};
use crate::limits::{HTTP_CONNECTIONS_MAX, PAGE_ROWS_MAX};
use crate::mail::{OperatorReply, OperatorRequest, QueueStats};
use crate::telemetry::{self, CONTENT_TYPE, LoopMetrics, ProcessStats, QueueRow, Scrape, Stage};

/// How long a scrape or a health check waits for the shard.
const GLANCE: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
}

async fn metrics(state: State) -> Result<Response, ApiError> {
    // A shard that is late must not hold up the counters, which need none.
    let queues = timeout(GLANCE, queue_rows(&state)).await.ok().flatten();
    let scrape = Scrape {
        sources: state.sources.clone(),
        stage: state.lifecycle.stage(),
        uptime_seconds: state.clock.time().0 as f64 / 1000.0,
        process: ProcessStats {
            memory: super::memory(),
            memory_at_start: state.memory_at_start,
            open_descriptors: host::open_descriptors(),
            max_descriptors: Some(host::descriptor_limit().soft),
            cpu_seconds: Some(host::cpu_time().as_secs_f64()),
        },
        loop_tables: state.sources.loops.iter().map(|source| table_of(source)).collect(),
        disk: state.disk.read(),
        operator_requests: state.shard.waiting(),
        operator_connections: HTTP_CONNECTIONS_MAX - state.slots.available_permits(),
        queues,
    };
    let text = telemetry::exposition(scrape).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// Descriptors in a loop's own table, if it has one.
fn table_of(source: &LoopMetrics) -> Option<u64> {
    let thread = source.table_of.value();
    if thread == 0 { None } else { host::open_descriptors_of(thread) }
}

/// The work queues of all namespaces, in a bounded number of rows; `None` when the shard is late.
async fn queue_rows(state: &State) -> Option<Vec<QueueRow>> {
    let OperatorReply::Namespaces(namespaces) =
        state.shard.glance(GLANCE, OperatorRequest::Namespaces).await.ok()?
    else {
        return None;
    };
    let mut rows = Vec::new();
    for name in namespaces {
        let namespace = Namespace::parse(&name).ok()?;
        let mut after = None;
        loop {
            let (namespace, limit) = (namespace.clone(), PAGE_ROWS_MAX);
            let request = OperatorRequest::Queues { namespace, mailboxes: false, after, limit };
            let OperatorReply::Queues(page) = state.shard.glance(GLANCE, request).await.ok()? else {
                return None;
            };
            after = page.last().filter(|_| page.len() == limit).map(|last| last.queue.clone());
            rows.extend(page.into_iter().map(|stats| row(&name, stats)));
            if after.is_none() {
                break;
            }
        }
    }
    // A poisoned lock means that another scrape panicked, which has ended the process.
    Some(state.labels.lock().ok()?.bound(rows))
}

fn row(namespace: &str, stats: QueueStats) -> QueueRow {
    QueueRow {
        name: (namespace.to_owned(), stats.queue),
        ready: stats.ready,
        scheduled: stats.scheduled,
        leased: stats.leased,
        blocked: stats.blocked,
        dead: stats.dead,
        oldest_ready_age_ms: stats.oldest_ready_age_ms,
    }
}

/// Whether the process is worth keeping: the shard answers, or there is none yet.
async fn healthz(state: State) -> (StatusCode, &'static str) {
    let (Ok(namespace), Ok(queue)) = (Namespace::parse(Namespace::DEFAULT), QueueName::parse("health"))
    else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "no default namespace\n");
    };
    let answers =
        state.shard.glance_at_all(GLANCE, OperatorRequest::Stats { namespace, queue }).await.is_ok();
    match (state.lifecycle.stage(), answers) {
        (Stage::Failed, _) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the log failed: the process is about to end\n")
        }
        (_, false) => (StatusCode::SERVICE_UNAVAILABLE, "the queues do not answer\n"),
        (_, true) => (StatusCode::OK, "ok\n"),
    }
}

/// Whether clients should be sent here.
async fn readyz(state: State) -> (StatusCode, &'static str) {
    let stage = state.lifecycle.stage();
    if stage == Stage::Ready && state.disk.state() == DiskState::Stop {
        return (StatusCode::SERVICE_UNAVAILABLE, "disk_full");
    }
    let status = if stage == Stage::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, stage.as_str())
}
