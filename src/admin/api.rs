//! The JSON API under `/api/v1`, described by `openapi.json`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::{Bytes, HttpBody as _};
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request};
use axum::http::{HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ApiError;
use super::{AdminConfig, Shared, State};
use crate::ids::{Namespace, QueueName};
use crate::limits::{HTTP_JSON_BYTES_MAX, LEASE_MAX, LEASE_MIN, PAGE_ROWS_MAX};
use crate::mail::{OperatorReply, OperatorRequest};
use crate::message::message_header;
use crate::wire::proto;

/// Headers that begin so become attributes of the message.
const ATTRIBUTE_HEADER: &str = "x-relaymesh-attr-";
const ROWS_DEFAULT: usize = 100;

pub(super) type Params<T> = Result<Query<T>, QueryRejection>;
pub(super) type Answer = Result<Json<Value>, ApiError>;

pub(super) fn routes(config: &AdminConfig) -> Router<Arc<Shared>> {
    let publish = Router::new().route("/publish", post(publish));
    let publish = bounded(publish, config.message_bytes_max, message_too_large);
    let api = Router::new()
        .route("/status", get(status))
        .route("/openapi.json", get(openapi))
        .route("/queues", get(queues))
        .route("/queue-stats", get(queue_stats))
        .route("/queue-settings", get(queue_settings).post(queue_set))
        .route("/namespace-settings", get(namespace_settings).post(namespace_set))
        .merge(super::messages::routes())
        .merge(super::dead::routes())
        .merge(super::bindings::routes())
        .merge(super::drain::routes());
    let api = bounded(api, HTTP_JSON_BYTES_MAX, selection_too_large);
    Router::new().nest("/api/v1", api.merge(publish).merge(super::schedules::routes()))
}

/// `routes`, with bodies of at most `bytes_max`. One that says that it is larger is refused before any of it is read;
/// one that does not say, when it turns out to be.
pub(super) fn bounded(
    routes: Router<Arc<Shared>>,
    bytes_max: usize,
    too_large: fn(usize) -> ApiError,
) -> Router<Arc<Shared>> {
    let refuse_early = move |request: Request, next: Next| async move {
        if request.body().size_hint().lower() > bytes_max as u64 {
            return too_large(bytes_max).into_response();
        }
        next.run(request).await
    };
    routes.layer(DefaultBodyLimit::max(bytes_max)).layer(middleware::from_fn(refuse_early))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueuesParams {
    namespace: Option<String>,
    #[serde(default)]
    mailboxes: bool,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueueParams {
    pub(super) namespace: Option<String>,
    pub(super) queue: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishParams {
    namespace: Option<String>,
    queue: String,
    priority: Option<u32>,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    ttl_ms: u64,
    #[serde(default)]
    attempts: u32,
    #[serde(default)]
    order_key: String,
    #[serde(default)]
    fair_key: String,
    #[serde(default)]
    dedup_id: String,
    #[serde(default)]
    lease_ms: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsBody {
    namespace: Option<String>,
    queue: String,
    /// `null` goes back to the configuration's.
    settings: HashMap<String, Option<String>>,
}

/// Whose, where nothing else is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamespaceParams {
    pub(super) namespace: Option<String>,
}

/// Which page of a namespace's rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    pub(super) namespace: Option<String>,
    pub(super) after: Option<String>,
    pub(super) limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamespaceBody {
    namespace: Option<String>,
    /// `null` goes back to the configuration's.
    settings: HashMap<String, Option<String>>,
}

async fn status(state: State, headers: HeaderMap) -> Answer {
    if !state.config.auth.allows_any(credential(&headers)) {
        return Err(ApiError::unauthenticated());
    }
    let sessions: u64 = state.sources.shards.iter().map(|shard| shard.sessions.value()).sum();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "stage": state.lifecycle.stage().as_str(),
        "uptime_ms": state.clock.time().0,
        "sessions": sessions,
    })))
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

async fn queues(state: State, headers: HeaderMap, params: Params<QueuesParams>) -> Answer {
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    let limit = rows(params.limit)?;
    let request =
        OperatorRequest::Queues { namespace, mailboxes: params.mailboxes, after: params.after, limit };
    let OperatorReply::Queues(rows) = ask(&state, request).await? else { return Err(unexpected()) };
    Ok(page("queues", &rows, limit, |row| &row.queue))
}

async fn queue_stats(state: State, headers: HeaderMap, params: Params<QueueParams>) -> Answer {
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    let queue = queue_name(&params.queue)?;
    let reply = ask(&state, OperatorRequest::Stats { namespace, queue }).await?;
    let OperatorReply::Queues(mut rows) = reply else { return Err(unexpected()) };
    rows.pop().map(|row| Json(json!(row))).ok_or_else(unexpected)
}

async fn queue_settings(state: State, headers: HeaderMap, params: Params<QueueParams>) -> Answer {
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    let queue = queue_name(&params.queue)?;
    settings(ask(&state, OperatorRequest::QueueSettings { namespace, queue }).await?)
}

async fn queue_set(
    state: State,
    headers: HeaderMap,
    body: Result<Json<SettingsBody>, JsonRejection>,
) -> Answer {
    let Json(body) = body?;
    let namespace = admitted(&state, &headers, body.namespace.as_deref())?;
    let queue = queue_name(&body.queue)?;
    let changes = body.settings.into_iter().collect();
    settings(ask(&state, OperatorRequest::QueueSet { namespace, queue, changes }).await?)
}

async fn namespace_settings(state: State, headers: HeaderMap, params: Params<NamespaceParams>) -> Answer {
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    settings(ask(&state, OperatorRequest::NamespaceSettings { namespace }).await?)
}

/// A limit that whoever it limits may lift is none: this is for those who may enter every namespace.
async fn namespace_set(
    state: State,
    headers: HeaderMap,
    body: Result<Json<NamespaceBody>, JsonRejection>,
) -> Answer {
    let Json(body) = body?;
    let namespace = admitted(&state, &headers, body.namespace.as_deref())?;
    if !state.config.auth.allows_all(credential(&headers)) {
        return Err(ApiError::not_for_tenants());
    }
    let changes = body.settings.into_iter().collect();
    settings(ask(&state, OperatorRequest::NamespaceSet { namespace, changes }).await?)
}

fn settings(reply: OperatorReply) -> Answer {
    match reply {
        OperatorReply::Settings(rows) => Ok(Json(json!({"settings": rows}))),
        OperatorReply::Namespace(rows, holds) => Ok(Json(json!({"settings": rows, "holds": holds}))),
        _ => Err(unexpected()),
    }
}

async fn publish(
    state: State,
    headers: HeaderMap,
    params: Params<PublishParams>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    let queue = queue_name(&params.queue)?;
    let bytes_max = state.config.message_bytes_max;
    let payload = body.map_err(|_| message_too_large(bytes_max))?;
    if params.priority.is_some_and(|priority| priority > 9) {
        return Err(ApiError::invalid("priority must be 0 to 9, higher first"));
    }
    let message = proto::Message {
        payload: payload.into(),
        attributes: attributes(&headers)?,
        priority: params.priority.map_or(0, |priority| priority + 1),
        delay_ms: params.delay_ms,
        ttl_ms: params.ttl_ms,
        attempts_max: params.attempts,
        order_key: params.order_key,
        fair_key: params.fair_key,
        dedup_id: params.dedup_id,
        lease_ms: lease_ms(params.lease_ms)?,
        ..proto::Message::default()
    };
    let body = message.encode_to_vec();
    if body.len() > bytes_max {
        return Err(message_too_large(bytes_max));
    }
    let header = message_header(&body, bytes_max).map_err(|fault| ApiError::invalid(fault.to_string()))?;
    match ask(&state, OperatorRequest::Publish { namespace, queue, header, body }).await? {
        OperatorReply::Published(id) => Ok(Json(json!({"id": id.0}))),
        OperatorReply::Broadcasted(subscribers) => Ok(Json(json!({"subscribers": subscribers}))),
        _ => Err(unexpected()),
    }
}

/// How long the leases of a message last; 0 leaves that to its queue.
pub(super) fn lease_ms(asked: u32) -> Result<u32, ApiError> {
    let (min, max) = (LEASE_MIN.as_millis(), LEASE_MAX.as_millis());
    if asked > 0 && !(min..=max).contains(&u128::from(asked)) {
        let text = format!(
            "lease_ms = {asked} is not allowed; it goes from {min} to {max}, or is 0 for the queue's own"
        );
        return Err(ApiError::invalid(text));
    }
    Ok(asked)
}

/// The namespace asked for, if the credential opens it.
pub(super) fn admitted(
    state: &State,
    headers: &HeaderMap,
    namespace: Option<&str>,
) -> Result<Namespace, ApiError> {
    let namespace = Namespace::parse(namespace.unwrap_or(Namespace::DEFAULT))
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let allowed = state.config.auth.allows(&namespace, credential(headers));
    allowed.then_some(namespace).ok_or_else(ApiError::unauthenticated)
}

pub(super) fn credential(headers: &HeaderMap) -> &[u8] {
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    given.strip_prefix(b"Bearer ").unwrap_or_default()
}

pub(super) async fn ask(state: &State, request: OperatorRequest) -> Result<OperatorReply, ApiError> {
    match state.shard.ask(request).await? {
        OperatorReply::Refused(refused) => Err(refused.into()),
        reply => Ok(reply),
    }
}

pub(super) fn queue_name(name: &str) -> Result<QueueName, ApiError> {
    QueueName::parse(name).map_err(|error| ApiError::invalid(error.to_string()))
}

pub(super) fn rows(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit.unwrap_or(ROWS_DEFAULT) {
        limit @ 1..=PAGE_ROWS_MAX => Ok(limit),
        limit => Err(ApiError::invalid(format!(
            "limit = {limit} is not allowed; it goes from 1 to {PAGE_ROWS_MAX}"
        ))),
    }
}

/// A page of rows that go by names, and where the next one begins if this is not the last.
pub(super) fn page<Row: Serialize>(
    what: &str,
    rows: &[Row],
    limit: usize,
    name: impl Fn(&Row) -> &str,
) -> Json<Value> {
    let next = rows.last().filter(|_| rows.len() == limit).map(name);
    Json(json!({what: rows, "next": next}))
}

fn attributes(headers: &HeaderMap) -> Result<HashMap<String, String>, ApiError> {
    let mut attributes = HashMap::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(ATTRIBUTE_HEADER) {
            let value = value.to_str().map_err(|_| {
                ApiError::invalid(format!("the header {ATTRIBUTE_HEADER}{name} must be printable ASCII"))
            })?;
            attributes.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(attributes)
}

fn selection_too_large(bytes_max: usize) -> ApiError {
    ApiError::too_large(format!("the body is larger than the {bytes_max} bytes that this request may carry"))
}

fn message_too_large(bytes_max: usize) -> ApiError {
    ApiError::too_large(format!(
        "the message is larger than the {bytes_max} bytes that one request may publish; `relaymesh publish` takes more"
    ))
}

pub(super) fn unexpected() -> ApiError {
    ApiError::internal("the queues gave an answer to another question; this is a fault of the server")
}
