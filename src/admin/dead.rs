//! Dead letters under `/api/v1/dead`: search, show, redrive, purge, and the redrives and purges under way.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, Query};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Answer, NamespaceParams, Params, QueueParams, admitted, ask, queue_name, rows, unexpected};
use super::error::ApiError;
use super::messages::with_payload;
use super::{Shared, State};
use crate::clock::Wall;
use crate::ids::MessageId;
use crate::limits::{DEAD_IDS_MAX, REDRIVE_PER_S_MAX};
use crate::mail::{DEAD_REASONS, DeadFilter, DeadJobRow, DeadSelection, OperatorReply, OperatorRequest};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/dead", get(list))
        .route("/dead/{id}", get(show))
        .route("/dead/redrive", post(redrive))
        .route("/dead/purge", post(purge))
        .route("/dead/jobs", get(jobs))
        .route("/dead/cancel", post(cancel))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    namespace: Option<String>,
    queue: Option<String>,
    after: Option<u64>,
    limit: Option<usize>,
    reason: Option<String>,
    since_unix_ms: Option<u64>,
    until_unix_ms: Option<u64>,
    attr: Option<String>,
    text: Option<String>,
}

/// Which dead letters are meant; the same names as in a listing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterBody {
    reason: Option<String>,
    since_unix_ms: Option<u64>,
    until_unix_ms: Option<u64>,
    attr: Option<String>,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectionBody {
    namespace: Option<String>,
    queue: String,
    id: Option<u64>,
    ids: Option<Vec<u64>>,
    #[serde(default)]
    all: bool,
    matching: Option<FilterBody>,
    to: Option<String>,
    per_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    namespace: Option<String>,
    job: u64,
}

async fn list(state: State, headers: HeaderMap, params: Params<ListParams>) -> Answer {
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    let queue = params.queue.as_deref().map(queue_name).transpose()?;
    let limit = rows(params.limit)?;
    let after = params.after.map(MessageId);
    let ListParams { reason, since_unix_ms, until_unix_ms, attr, text, .. } = params;
    let filter = filter(FilterBody { reason, since_unix_ms, until_unix_ms, attr, text })?;
    let request = OperatorRequest::DeadList { namespace, queue, filter, after, limit };
    let OperatorReply::DeadPage { rows, next } = ask(&state, request).await? else {
        return Err(unexpected());
    };
    Ok(Json(json!({"dead": rows, "next": next.map(|id| id.0)})))
}

async fn show(
    state: State,
    headers: HeaderMap,
    id: Result<Path<u64>, PathRejection>,
    params: Params<QueueParams>,
) -> Answer {
    let Path(id) = id?;
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    let queue = queue_name(&params.queue)?;
    let request = OperatorRequest::DeadShow { namespace, queue, id: MessageId(id) };
    let OperatorReply::Dead(mut rows) = ask(&state, request).await? else { return Err(unexpected()) };
    let letter = rows
        .pop()
        .ok_or_else(|| ApiError::not_found(format!("queue {} has no dead letter {id}", params.queue)))?;
    let body = letter.body.as_deref().unwrap_or_default();
    with_payload(json!(letter), body, state.config.message_bytes_max).map(Json)
}

async fn redrive(
    state: State,
    headers: HeaderMap,
    body: Result<Json<SelectionBody>, JsonRejection>,
) -> Answer {
    let Json(body) = body?;
    let namespace = admitted(&state, &headers, body.namespace.as_deref())?;
    let queue = queue_name(&body.queue)?;
    let to = body.to.as_deref().map(queue_name).transpose()?;
    let per_s = body.per_s;
    if let Some(rate) = per_s.filter(|rate| !(1..=REDRIVE_PER_S_MAX).contains(rate)) {
        let text = format!("per_s = {rate} is not allowed; it goes from 1 to {REDRIVE_PER_S_MAX}");
        return Err(ApiError::invalid(text));
    }
    let selection = selection(body)?;
    match ask(&state, OperatorRequest::DeadRedrive { namespace, queue, selection, to, per_s }).await? {
        OperatorReply::Jobs(rows) => one(rows).ok_or_else(unexpected),
        reply => changed(&reply),
    }
}

async fn purge(state: State, headers: HeaderMap, body: Result<Json<SelectionBody>, JsonRejection>) -> Answer {
    let Json(body) = body?;
    let namespace = admitted(&state, &headers, body.namespace.as_deref())?;
    if body.to.is_some() || body.per_s.is_some() {
        let text = "`to` and `per_s` belong to a redrive; a purge forgets the dead letters";
        return Err(ApiError::invalid(text));
    }
    let (queue, selection) = (queue_name(&body.queue)?, selection(body)?);
    changed(&ask(&state, OperatorRequest::DeadPurge { namespace, queue, selection }).await?)
}

async fn jobs(state: State, headers: HeaderMap, params: Params<NamespaceParams>) -> Answer {
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    match ask(&state, OperatorRequest::DeadJobs { namespace }).await? {
        OperatorReply::Jobs(rows) => Ok(Json(json!({"jobs": rows}))),
        _ => Err(unexpected()),
    }
}

async fn cancel(state: State, headers: HeaderMap, body: Result<Json<CancelBody>, JsonRejection>) -> Answer {
    let Json(CancelBody { namespace, job }) = body?;
    let namespace = admitted(&state, &headers, namespace.as_deref())?;
    let OperatorReply::Jobs(rows) = ask(&state, OperatorRequest::DeadCancel { namespace, job }).await? else {
        return Err(unexpected());
    };
    let text = || {
        format!(
            "no redrive or purge {job} is under way; `relaymesh dead jobs` or GET /api/v1/dead/jobs lists them"
        )
    };
    one(rows).ok_or_else(|| ApiError::not_found(text()))
}

fn one(mut rows: Vec<DeadJobRow>) -> Option<Json<Value>> {
    rows.pop().map(|row| Json(json!(row)))
}

pub(super) fn changed(reply: &OperatorReply) -> Answer {
    match reply {
        OperatorReply::Changed(count) => Ok(Json(json!({"changed": count}))),
        _ => Err(unexpected()),
    }
}

fn filter(body: FilterBody) -> Result<DeadFilter, ApiError> {
    let FilterBody { reason, since_unix_ms, until_unix_ms, attr, text } = body;
    if let Some(reason) = reason.as_deref().filter(|reason| !DEAD_REASONS.contains(reason)) {
        let reasons = DEAD_REASONS.join(", ");
        return Err(ApiError::invalid(format!("reason = {reason:?} is not known; there are {reasons}")));
    }
    let attribute = attr.map(|attr| match attr.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(ApiError::invalid(format!("attr = {attr:?} is not name=value"))),
    });
    let attribute = attribute.transpose()?;
    // Everything has it in its history: it would be all, by leaving something out.
    if text.as_deref() == Some("") {
        return Err(ApiError::invalid("text is empty; leave it out, or say what to look for"));
    }
    Ok(DeadFilter { reason, since: since_unix_ms.map(Wall), until: until_unix_ms.map(Wall), attribute, text })
}

fn selection(body: SelectionBody) -> Result<DeadSelection, ApiError> {
    match (body.id, body.ids, body.all, body.matching) {
        (Some(id), None, false, None) => Ok(DeadSelection::One(MessageId(id))),
        (None, Some(ids), false, None) if (1..=DEAD_IDS_MAX).contains(&ids.len()) => {
            Ok(DeadSelection::Ids(ids.into_iter().map(MessageId).collect()))
        }
        (None, Some(ids), false, None) => {
            Err(ApiError::invalid(format!("`ids` has {} ids; 1 to {DEAD_IDS_MAX} are allowed", ids.len())))
        }
        (None, None, true, None) => Ok(DeadSelection::All),
        (None, None, false, Some(matching)) => match filter(matching)? {
            // Never all by leaving something out.
            filter if filter.is_any() => Err(ApiError::invalid("`matching` says nothing; say `all: true`")),
            filter => Ok(DeadSelection::Matching(filter)),
        },
        _ => Err(ApiError::invalid(
            "name dead letters with `id`, `ids` or `matching`, or say `all: true`; one of these",
        )),
    }
}
