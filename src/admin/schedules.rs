//! Schedules over HTTP: add, list, show, pause, remove, and what comes due next.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, Query};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{
    Answer, NamespaceParams, PageParams, Params, admitted, ask, bounded, lease_ms, page, queue_name, rows,
    unexpected,
};
use super::error::ApiError;
use super::{Shared, State};
use crate::clock::{Clock, Wall};
use crate::cron::Cron;
use crate::ids::ScheduleName;
use crate::limits::{PRIORITY_DEFAULT, SCHEDULE_JSON_BYTES_MAX, SCHEDULE_MISSED_MAX, SCHEDULE_PREVIEW_MAX};
use crate::mail::{Misfire, OperatorReply, OperatorRequest, ScheduleRow, ScheduleSpec};
use crate::message::append_attribute;
use crate::wire::proto;

/// Coming times that are told when nobody says how many.
const PREVIEW_DEFAULT: usize = 5;

type Name = Result<Path<String>, PathRejection>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    let routes = Router::new()
        .route("/schedules", get(list).post(add))
        .route("/schedules/{name}", get(show).delete(remove))
        .route("/schedules/{name}/next", get(next))
        .route("/schedules/{name}/pause", post(pause))
        .route("/schedules/{name}/resume", post(resume));
    bounded(routes, SCHEDULE_JSON_BYTES_MAX, too_large)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NextParams {
    namespace: Option<String>,
    count: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    namespace: Option<String>,
    name: String,
    cron: String,
    time_zone: Option<String>,
    queue: String,
    misfire: Option<String>,
    missed_max: Option<u32>,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    message: MessageBody,
}

/// A message as JSON has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageBody {
    payload_text: Option<String>,
    payload_base64: Option<String>,
    /// In order, so that the same request makes the same message.
    #[serde(default)]
    attributes: BTreeMap<String, String>,
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
    lease_ms: u32,
    retry: Option<RetryBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryBody {
    initial_ms: Option<u64>,
    factor_percent: Option<u32>,
    max_ms: Option<u64>,
    jitter_percent: Option<u32>,
}

async fn list(state: State, headers: HeaderMap, params: Params<PageParams>) -> Answer {
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    let limit = rows(params.limit)?;
    let request = OperatorRequest::Schedules { namespace, after: params.after, limit };
    let OperatorReply::Schedules(rows) = ask(&state, request).await? else { return Err(unexpected()) };
    Ok(page("schedules", &rows, limit, |row| &row.name))
}

async fn add(state: State, headers: HeaderMap, body: Result<Json<AddBody>, JsonRejection>) -> Answer {
    let Json(body) = body?;
    let namespace = admitted(&state, &headers, body.namespace.as_deref())?;
    let zone = body.time_zone.unwrap_or_else(|| "UTC".to_owned());
    // Here, so that the queues need not search in vain for what never comes due.
    Cron::parse(&body.cron, &zone).map_err(|error| ApiError::invalid(error.to_string()))?;
    let misfire = body.misfire.as_deref().map_or(Ok(Misfire::default()), |text| {
        let unknown =
            || ApiError::invalid(format!("misfire = {text:?} is not allowed; it is skip, once or all"));
        Misfire::parse(text).ok_or_else(unknown)
    })?;
    let schedule = Box::new(ScheduleSpec {
        name: schedule_name(&body.name)?,
        cron: body.cron.trim().to_owned(),
        time_zone: zone,
        queue: queue_name(&body.queue)?,
        misfire,
        missed_max: body.missed_max.unwrap_or(SCHEDULE_MISSED_MAX),
        is_paused: body.paused,
        body: body.message.encode()?,
    });
    one(ask(&state, OperatorRequest::ScheduleAdd { namespace, schedule }).await?, &body.name)
        .map(|row| Json(json!(row)))
}

async fn show(state: State, headers: HeaderMap, name: Name, params: Params<NamespaceParams>) -> Answer {
    let (Path(name), Query(params)) = (name?, params?);
    let row = ask_one(&state, &headers, params.namespace.as_deref(), &name).await?;
    let message = shown(row.body.as_deref().unwrap_or_default())?;
    let mut row = json!(row);
    row["message"] = message;
    Ok(Json(row))
}

async fn remove(state: State, headers: HeaderMap, name: Name, params: Params<NamespaceParams>) -> Answer {
    let (Path(name), Query(params)) = (name?, params?);
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    let request = OperatorRequest::ScheduleRemove { namespace, name: schedule_name(&name)? };
    match ask(&state, request).await? {
        OperatorReply::Changed(0) => Err(missing(&name)),
        OperatorReply::Changed(count) => Ok(Json(json!({"changed": count}))),
        _ => Err(unexpected()),
    }
}

async fn next(state: State, headers: HeaderMap, name: Name, params: Params<NextParams>) -> Answer {
    let (Path(name), Query(params)) = (name?, params?);
    let count = params.count.unwrap_or(PREVIEW_DEFAULT);
    if !(1..=SCHEDULE_PREVIEW_MAX).contains(&count) {
        let text = format!("count = {count} is not allowed; it goes from 1 to {SCHEDULE_PREVIEW_MAX}");
        return Err(ApiError::invalid(text));
    }
    let row = ask_one(&state, &headers, params.namespace.as_deref(), &name).await?;
    let cron =
        Cron::parse(&row.cron, &row.time_zone).map_err(|error| ApiError::internal(error.to_string()))?;
    // What is fired for is not fired for again, whatever the clock says.
    let from = Clock::wall().max(Wall(row.last_unix_ms.unwrap_or(0)));
    let coming = std::iter::successors(cron.next_after(from), |&due| cron.next_after(due));
    let told = |due: Wall| json!({"unix_ms": due.0, "local": cron.local(due)});
    let times: Vec<Value> = coming.take(count).map(told).collect();
    Ok(Json(json!({"next": times, "paused": row.paused})))
}

async fn pause(
    state: State,
    headers: HeaderMap,
    name: Name,
    body: Result<Json<NamespaceParams>, JsonRejection>,
) -> Answer {
    set_paused(&state, &headers, name, body, true).await
}

async fn resume(
    state: State,
    headers: HeaderMap,
    name: Name,
    body: Result<Json<NamespaceParams>, JsonRejection>,
) -> Answer {
    set_paused(&state, &headers, name, body, false).await
}

async fn set_paused(
    state: &State,
    headers: &HeaderMap,
    name: Name,
    body: Result<Json<NamespaceParams>, JsonRejection>,
    is_paused: bool,
) -> Answer {
    let (Path(name), Json(body)) = (name?, body?);
    let namespace = admitted(state, headers, body.namespace.as_deref())?;
    let request = OperatorRequest::SchedulePause { namespace, name: schedule_name(&name)?, is_paused };
    one(ask(state, request).await?, &name).map(|row| Json(json!(row)))
}

async fn ask_one(
    state: &State,
    headers: &HeaderMap,
    namespace: Option<&str>,
    name: &str,
) -> Result<ScheduleRow, ApiError> {
    let namespace = admitted(state, headers, namespace)?;
    let request = OperatorRequest::ScheduleShow { namespace, name: schedule_name(name)? };
    one(ask(state, request).await?, name)
}

fn one(reply: OperatorReply, name: &str) -> Result<ScheduleRow, ApiError> {
    match reply {
        OperatorReply::Schedules(mut rows) => rows.pop().ok_or_else(|| missing(name)),
        _ => Err(unexpected()),
    }
}

fn missing(name: &str) -> ApiError {
    ApiError::not_found(format!("this namespace has no schedule {name:?}"))
}

fn schedule_name(name: &str) -> Result<ScheduleName, ApiError> {
    ScheduleName::parse(name).map_err(|error| ApiError::invalid(error.to_string()))
}

impl MessageBody {
    fn encode(self) -> Result<Vec<u8>, ApiError> {
        let payload = match (self.payload_text, self.payload_base64) {
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("give payload_text or payload_base64, not both"));
            }
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => BASE64
                .decode(text)
                .map_err(|error| ApiError::invalid(format!("payload_base64 is no base64: {error}")))?,
            (None, None) => Vec::new(),
        };
        if self.priority.is_some_and(|priority| priority > 9) {
            return Err(ApiError::invalid("priority must be 0 to 9, higher first"));
        }
        let message = proto::Message {
            payload,
            priority: self.priority.map_or(0, |priority| priority + 1),
            delay_ms: self.delay_ms,
            ttl_ms: self.ttl_ms,
            attempts_max: self.attempts,
            order_key: self.order_key,
            fair_key: self.fair_key,
            lease_ms: lease_ms(self.lease_ms)?,
            retry: self.retry.map(|retry| proto::Retry {
                initial_ms: retry.initial_ms,
                factor_percent: retry.factor_percent,
                max_ms: retry.max_ms,
                jitter_percent: retry.jitter_percent,
            }),
            ..proto::Message::default()
        };
        let mut encoded = message.encode_to_vec();
        self.attributes.iter().for_each(|(name, value)| append_attribute(&mut encoded, name, value));
        Ok(encoded)
    }
}

/// A schedule's message, as it may be given.
fn shown(encoded: &[u8]) -> Result<Value, ApiError> {
    let message = proto::Message::decode(encoded)
        .map_err(|error| ApiError::internal(format!("the stored message cannot be read: {error}")))?;
    let priority = message.priority.checked_sub(1).unwrap_or(PRIORITY_DEFAULT.into());
    let mut shown = json!({
        "attributes": message.attributes,
        "priority": priority,
        "delay_ms": message.delay_ms,
        "ttl_ms": message.ttl_ms,
        "attempts": message.attempts_max,
        "order_key": message.order_key,
        "fair_key": message.fair_key,
        "lease_ms": message.lease_ms,
    });
    match std::str::from_utf8(&message.payload) {
        Ok(text) => shown["payload_text"] = text.into(),
        Err(_) => shown["payload_base64"] = BASE64.encode(&message.payload).into(),
    }
    if let Some(retry) = message.retry {
        shown["retry"] = json!({
            "initial_ms": retry.initial_ms,
            "factor_percent": retry.factor_percent,
            "max_ms": retry.max_ms,
            "jitter_percent": retry.jitter_percent,
        });
    }
    Ok(shown)
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::too_large(format!("the body is larger than the {bytes_max} bytes that a schedule may take"))
}
