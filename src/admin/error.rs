//! How a request is refused: a status, a code for programs and a text for people.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::shard_client::AskError;
use crate::mail::{RefusalCode, Refused};

/// A refused request.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    text: String,
    retry_after_ms: u32,
    /// A field of the answer beside the error.
    more: Option<(&'static str, Value)>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into(), retry_after_ms: 0, more: None }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", text)
    }

    pub(super) fn too_large(text: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", text)
    }

    pub(super) fn no_such_path() -> Self {
        Self::not_found("there is no such path; /api/v1/openapi.json lists them all")
    }

    pub(super) fn no_such_method() -> Self {
        let text = "the path does not take this method; /api/v1/openapi.json lists which it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
    }

    pub(super) fn unauthenticated() -> Self {
        let text = "the token is missing or wrong; send it as `authorization: Bearer TOKEN`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", text)
    }

    pub(super) fn concerns_all() -> Self {
        let text = "this concerns the clients of all namespaces, and the token opens one; on a server with a token for each \
                    namespace no token is enough for it";
        Self::new(StatusCode::FORBIDDEN, "forbidden", text)
    }

    pub(super) fn not_for_tenants() -> Self {
        let text = "the limits of a namespace are set by whoever runs the server, and the token opens one namespace; where each \
                    has a token of its own, they are those of [namespace] in the configuration";
        Self::new(StatusCode::FORBIDDEN, "forbidden", text)
    }

    pub(super) fn draining() -> Self {
        let text = "sessions are being sent away already; see `drain`, wait, or end that first (DELETE)";
        Self::new(StatusCode::CONFLICT, "draining", text)
    }

    /// With a field beside the error.
    pub(super) fn with(self, name: &'static str, value: Value) -> Self {
        Self { more: Some((name, value)), ..self }
    }

    pub(super) fn foreign_host() -> Self {
        let text = "the request came under a name that is not this machine's loopback, as a web page that was made to \
                    point here would send it; call 127.0.0.1, [::1] or localhost, or give the server a token";
        Self::new(StatusCode::FORBIDDEN, "foreign_host", text)
    }

    pub(super) fn cross_site() -> Self {
        let text = "the request comes from a web page of another site, which this server without a token does not \
                    serve; call it from a program, or give the server a token";
        Self::new(StatusCode::FORBIDDEN, "cross_site", text)
    }

    pub(super) fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match refused.code {
            RefusalCode::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
            RefusalCode::LimitReached => (StatusCode::TOO_MANY_REQUESTS, "limit_reached"),
            RefusalCode::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            RefusalCode::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            RefusalCode::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            RefusalCode::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
            RefusalCode::StaleSequence => (StatusCode::CONFLICT, "stale_sequence"),
        };
        Self { status, code, text: refused.text, retry_after_ms: refused.retry_after_ms, more: None }
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        let refused = Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", error.to_string());
        Self { retry_after_ms: 1000, ..refused }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::too_large(rejection.body_text()),
            _ => Self::invalid(rejection.body_text()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({"error": {"code": self.code, "text": self.text}});
        if let Some((name, value)) = self.more {
            body[name] = value;
        }
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.retry_after_ms > 0 {
            let seconds = self.retry_after_ms.div_ceil(1000);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
