//! `/api/v1/bindings`: which topics reach which queues and mailboxes.

use std::sync::Arc;

use axum::extract::Query;
use axum::extract::rejection::JsonRejection;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::api::{Answer, PageParams, Params, admitted, ask, page, queue_name, rows, unexpected};
use super::dead::changed;
use super::{Shared, State};
use crate::mail::{BindingSpec, OperatorReply, OperatorRequest, TargetFull};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/bindings", get(list).post(bind)).route("/bindings/remove", post(unbind))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BindBody {
    namespace: Option<String>,
    name: Option<String>,
    pattern: String,
    #[serde(default)]
    filter: String,
    to: String,
    when_full: Option<TargetFull>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnbindBody {
    namespace: Option<String>,
    name: String,
}

async fn list(state: State, headers: HeaderMap, params: Params<PageParams>) -> Answer {
    let Query(params) = params?;
    let namespace = admitted(&state, &headers, params.namespace.as_deref())?;
    let limit = rows(params.limit)?;
    let request = OperatorRequest::Bindings { namespace, after: params.after, limit };
    let OperatorReply::Bindings(rows) = ask(&state, request).await? else { return Err(unexpected()) };
    Ok(page("bindings", &rows, limit, |row| &row.name))
}

async fn bind(state: State, headers: HeaderMap, body: Result<Json<BindBody>, JsonRejection>) -> Answer {
    let Json(body) = body?;
    let namespace = admitted(&state, &headers, body.namespace.as_deref())?;
    let BindBody { name, pattern, filter, to, when_full, .. } = body;
    let binding = BindingSpec { name, pattern, filter, to: queue_name(&to)?, when_full };
    let reply = ask(&state, OperatorRequest::Bind { namespace, binding }).await?;
    let OperatorReply::Bindings(mut rows) = reply else { return Err(unexpected()) };
    rows.pop().map(|row| Json(json!(row))).ok_or_else(unexpected)
}

async fn unbind(state: State, headers: HeaderMap, body: Result<Json<UnbindBody>, JsonRejection>) -> Answer {
    let Json(body) = body?;
    let namespace = admitted(&state, &headers, body.namespace.as_deref())?;
    changed(&ask(&state, OperatorRequest::Unbind { namespace, name: body.name }).await?)
}
