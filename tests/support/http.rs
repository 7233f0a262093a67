//! HTTP as `curl` would speak it to the operator API.

use std::net::SocketAddr;

use serde_json::Value;

use super::PATIENCE;

/// A status and a body.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body as text.
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("JSON expected: {error}: {self:?}"))
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder();
    config.http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into()
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Option<Answer> {
    let mut response = result.ok()?;
    let status = response.status().as_u16();
    Some(Answer { status, body: response.body_mut().read_to_string().ok()? })
}

/// GET, or `None` when nobody answers.
pub(crate) fn try_get(server: SocketAddr, path: &str) -> Option<Answer> {
    answer(agent().get(format!("http://{server}{path}")).call())
}

/// GET.
pub(crate) fn get(server: SocketAddr, path: &str) -> Answer {
    try_get(server, path).unwrap_or_else(|| panic!("GET {path} is answered"))
}

/// POST with these headers, or `None` when nobody answers.
pub(crate) fn try_post(
    server: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<Answer> {
    let mut request = agent().post(format!("http://{server}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request.send(body))
}

/// POST with these headers.
pub(crate) fn post(server: SocketAddr, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_post(server, path, headers, body).unwrap_or_else(|| panic!("POST {path} is answered"))
}

/// DELETE, or `None` when nobody answers.
pub(crate) fn try_delete(server: SocketAddr, path: &str) -> Option<Answer> {
    answer(agent().delete(format!("http://{server}{path}")).call())
}
