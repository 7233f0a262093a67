//! The operator API, as the commands use it.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, RequestBuilder};

use super::reach::Reach;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Rows asked for at once.
const PAGE_ROWS: &str = "1000";

/// Speaks to one server's operator API for one namespace.
pub(super) struct Operator<'a> {
    agent: Agent,
    reach: &'a Reach,
}

impl<'a> Operator<'a> {
    pub(super) fn new(reach: &'a Reach) -> Self {
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build();
        Self { agent: config.into(), reach }
    }

    /// GETs `path` with these query parameters and the namespace.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let request = self.agent.get(self.url(path)).query("namespace", self.reach.namespace.as_str());
        self.answer(self.asking(request, query).call())
    }

    /// GETs `path`, which concerns the whole server.
    pub(super) fn get_plain(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.asking(self.agent.get(self.url(path)), &[]).call())
    }

    /// DELETEs `path`, which concerns the whole server.
    pub(super) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.asking(self.agent.delete(self.url(path)), &[]).call())
    }

    /// DELETEs `path` of the namespace.
    pub(super) fn remove(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.agent.delete(self.url(path)).query("namespace", self.reach.namespace.as_str());
        self.answer(self.asking(request, &[]).call())
    }

    /// POSTs nothing to `path`, which concerns the whole server, with these query parameters.
    pub(super) fn post_query(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.answer(self.asking(self.agent.post(self.url(path)), query).send_empty())
    }

    fn asking<B>(&self, mut request: RequestBuilder<B>, query: &[(&str, &str)]) -> RequestBuilder<B> {
        for &(name, value) in query {
            request = request.query(name, value);
        }
        if !self.reach.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.reach.token));
        }
        request
    }

    /// GETs all pages of a listing and returns the rows of `field`.
    pub(super) fn get_all(
        &self,
        path: &str,
        field: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<Vec<Value>> {
        let mut rows = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut page_query = query.to_vec();
            page_query.push(("limit", PAGE_ROWS));
            page_query.extend(after.as_deref().map(|after| ("after", after)));
            let mut page = self.get(path, &page_query)?;
            match page[field].take() {
                Value::Array(more) => rows.extend(more),
                _ => bail!("the server's answer has no list of {field}: is it of this version?"),
            }
            let next = match page["next"].take() {
                Value::String(next) => next,
                Value::Number(next) => next.to_string(),
                _ => return Ok(rows),
            };
            if after.as_ref() == Some(&next) {
                bail!("the server gave the same page of {field} twice");
            }
            after = Some(next);
        }
    }

    /// POSTs an object, to which the namespace is added.
    pub(super) fn post(&self, path: &str, mut body: Value) -> anyhow::Result<Value> {
        body["namespace"] = self.reach.namespace.as_str().into();
        // A server that takes no body of this size says so and closes: its answer would be lost with what is written still.
        let request = self.agent.post(self.url(path)).header("expect", "100-continue");
        self.answer(self.asking(request, &[]).send_json(body))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1/{path}", self.reach.admin)
    }

    fn answer(&self, response: Result<Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Value> {
        let admin = &self.reach.admin;
        let mut response = response.with_context(|| {
            format!("cannot reach the operator API at {admin}; is the server running there?")
        })?;
        let status = response.status();
        let body: Result<Value, _> = response.body_mut().read_json();
        if status.is_success() {
            return body
                .with_context(|| format!("{admin} did not answer with JSON: is it the operator API?"));
        }
        let text = body.ok().and_then(|body| body["error"]["text"].as_str().map(str::to_owned));
        Err(match text {
            Some(text) => anyhow!("{text}"),
            None => anyhow!("{admin} answered {status}"),
        })
    }
}
