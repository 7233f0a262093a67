//! One message under `/api/v1/messages`: where it stands, what it carries and what became of its attempts.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query};
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde_json::{Value, json};

use super::api::{Answer, Params, QueueParams, admitted, ask, queue_name, unexpected};
use super::error::ApiError;
use super::{Shared, State};
use crate::ids::MessageId;
use crate::limits::PRIORITY_DEFAULT;
use crate::mail::{OperatorReply, OperatorRequest};
use crate::wire::proto;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/messages/{id}", get(show))
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
    let request = OperatorRequest::MessageShow { namespace, queue, id: MessageId(id) };
    let OperatorReply::Message(row) = ask(&state, request).await? else { return Err(unexpected()) };
    let row = row.ok_or_else(|| {
        let text = format!("queue {} has no message {id}; what was acked, or purged, is gone", params.queue);
        ApiError::not_found(text)
    })?;
    with_payload(json!(row), &row.body, state.config.message_bytes_max).map(Json)
}

/// The row of a message with what its `body` carries; a payload of more than `bytes_max` bytes by its size only.
pub(super) fn with_payload(mut row: Value, body: &[u8], bytes_max: usize) -> Result<Value, ApiError> {
    let message = proto::Message::decode(body)
        .map_err(|error| ApiError::internal(format!("the stored message cannot be read: {error}")))?;
    row["payload_bytes"] = message.payload.len().into();
    if message.payload.len() <= bytes_max {
        row["payload_base64"] = BASE64.encode(&message.payload).into();
        if let Ok(text) = std::str::from_utf8(&message.payload) {
            row["payload_text"] = text.into();
        }
    }
    row["attributes"] = json!(message.attributes);
    row["priority"] = message.priority.checked_sub(1).unwrap_or(PRIORITY_DEFAULT.into()).into();
    let keys = [
        ("order_key", message.order_key),
        ("fair_key", message.fair_key),
        ("dedup_id", message.dedup_id),
        ("trace_context", message.trace_context),
    ];
    for (name, value) in keys.into_iter().filter(|(_, value)| !value.is_empty()) {
        row[name] = value.into();
    }
    Ok(row)
}
