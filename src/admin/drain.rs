//! A share of the sessions is sent away at an operator's wish, and how far that is.
//!
//! The wish goes to every loop at once, as a [`DrainOrder`]; what comes of it is read from the loops' counters. One
//! drain runs at a time.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::Query;
use axum::http::HeaderMap;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Answer, Params, credential};
use super::error::ApiError;
use super::{Shared, State};
use crate::clock::Time;
use crate::limits::{DRAIN_OVER, DRAIN_OVER_MAX};
use crate::mail::{DrainOrder, WHOLE_PPM};
use crate::telemetry::{Gauge, LoopMetrics, Stage};

/// How often a drain that runs is told in the log.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often a drain that runs is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long an answer waits for the loops to hear of what was asked, and how often it looks.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
const HEARD_EVERY: Duration = Duration::from_millis(5);

/// Tells every loop.
pub struct Tell(Box<dyn Fn(DrainOrder) + Send + Sync>);

impl Tell {
    /// By calling `tell`.
    #[must_use]
    pub fn new(tell: impl Fn(DrainOrder) + Send + Sync + 'static) -> Self {
        Self(Box::new(tell))
    }
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell(..)")
    }
}

/// What was asked for last.
#[derive(Debug, Clone, Copy)]
struct Asked {
    order: DrainOrder,
    at: Time,
    is_cancelled: bool,
}

/// The way to the loops, and what was asked of them.
#[derive(Debug)]
pub(super) struct Drains {
    tell: Tell,
    /// Not on any message's path: one operator at a time.
    asked: Mutex<Option<Asked>>,
}

impl Drains {
    pub(super) fn new(tell: Tell) -> Self {
        Self { tell, asked: Mutex::new(None) }
    }

    fn asked(&self) -> Option<Asked> {
        // A poisoned lock means that another request panicked, which has ended the process.
        self.asked.lock().ok().and_then(|asked| *asked)
    }
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/drain", get(show).post(begin).delete(cancel))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginParams {
    share: f64,
    over: Option<String>,
}

async fn show(state: State, headers: HeaderMap) -> Answer {
    if !state.config.auth.allows_any(credential(&headers)) {
        return Err(ApiError::unauthenticated());
    }
    Ok(Json(progress(&state)))
}

async fn begin(state: State, headers: HeaderMap, params: Params<BeginParams>) -> Answer {
    admitted(&state, &headers)?;
    let Query(params) = params?;
    let order = Wanted::parse(&params)?;
    {
        let mut asked = state.drains.asked.lock().map_err(|_| ApiError::internal("a request panicked"))?;
        if state.lifecycle.stage() != Stage::Ready || is_running(&state, *asked) {
            return Err(ApiError::draining().with("drain", progress_of(&state, *asked)));
        }
        let number = asked.map_or(0, |asked| asked.order.number) % DrainOrder::NUMBER_MAX + 1;
        let order = DrainOrder { number, ..order };
        *asked = Some(Asked { order, at: state.clock.time(), is_cancelled: false });
        (state.drains.tell.0)(order);
    }
    let share = f64::from(order.share_ppm) / f64::from(WHOLE_PPM);
    tracing::info!(share, over = ?order.over, "a share of the sessions is sent away");
    tokio::spawn(watch(Arc::clone(&state)));
    await_heard(&state).await;
    Ok(Json(progress(&state)))
}

async fn cancel(state: State, headers: HeaderMap) -> Answer {
    admitted(&state, &headers)?;
    {
        let mut asked = state.drains.asked.lock().map_err(|_| ApiError::internal("a request panicked"))?;
        // One that is done, or not there, needs no end.
        if is_running(&state, *asked)
            && let Some(asked) = asked.as_mut()
        {
            let number = asked.order.number % DrainOrder::NUMBER_MAX + 1;
            (state.drains.tell.0)(DrainOrder { number, share_ppm: 0, over: Duration::ZERO });
            asked.order.number = number;
            asked.is_cancelled = true;
        }
    }
    await_heard(&state).await;
    Ok(Json(progress(&state)))
}

/// Whoever sends clients of every namespace away must be allowed into each.
fn admitted(state: &State, headers: &HeaderMap) -> Result<(), ApiError> {
    let auth = &state.config.auth;
    if auth.allows_all(credential(headers)) {
        Ok(())
    } else if auth.allows_any(credential(headers)) {
        Err(ApiError::concerns_all())
    } else {
        Err(ApiError::unauthenticated())
    }
}

struct Wanted;

impl Wanted {
    fn parse(params: &BeginParams) -> Result<DrainOrder, ApiError> {
        let share = params.share;
        if !(share > 0.0 && share <= 1.0) {
            let text = format!("share = {share} is not allowed; it is above 0 and at most 1");
            return Err(ApiError::invalid(text));
        }
        let over = params.over.as_deref().map_or(Ok(DRAIN_OVER), |over| {
            let parsed = humantime::parse_duration(over).ok().filter(|over| *over <= DRAIN_OVER_MAX);
            parsed.ok_or_else(|| {
                let max = humantime::format_duration(DRAIN_OVER_MAX);
                ApiError::invalid(format!(
                    "over = {over:?} is not allowed; it is a duration of at most {max}, written like 30s"
                ))
            })
        })?;
        // Within 0 and a million.
        let share_ppm = ((share * f64::from(WHOLE_PPM)).round() as u32).max(1);
        Ok(DrainOrder { number: 0, share_ppm, over })
    }
}

fn sum(state: &Shared, cell: fn(&LoopMetrics) -> &Gauge) -> u64 {
    state.sources.loops.iter().map(|source| cell(source).value()).sum()
}

/// Whether every loop has heard of the newest order.
fn is_heard(state: &Shared, asked: Asked) -> bool {
    let number = u64::from(asked.order.number);
    state.sources.loops.iter().all(|source| source.drain_order.value() == number)
}

/// Until every loop has heard of the newest order, so that the answer counts what came of it.
async fn await_heard(state: &State) {
    let until = state.clock.time() + HEARD_WITHIN;
    while state.drains.asked().is_some_and(|asked| !is_heard(state, asked)) && state.clock.time() < until {
        tokio::time::sleep(HEARD_EVERY).await;
    }
}

fn is_running(state: &Shared, asked: Option<Asked>) -> bool {
    let has_unheard = asked.is_some_and(|asked| !is_heard(state, asked));
    has_unheard || sum(state, |m| &m.drain_running) + sum(state, |m| &m.drain_leaving) > 0
}

fn progress(state: &Shared) -> Value {
    progress_of(state, state.drains.asked())
}

fn progress_of(state: &Shared, asked: Option<Asked>) -> Value {
    let is_end = state.lifecycle.stage() == Stage::Draining;
    let drain_state = match asked {
        _ if is_end => "shutting_down",
        None => "idle",
        Some(asked) if asked.is_cancelled => "cancelled",
        asked if is_running(state, asked) => "running",
        Some(_) => "done",
    };
    let is_heard = asked.is_none_or(|asked| is_heard(state, asked));
    // Before every loop has heard, some would count for the drain before.
    let count = |cell| if is_heard || is_end { sum(state, cell) } else { 0 };
    let (wanted, told) = (count(|m: &LoopMetrics| &m.drain_wanted), count(|m| &m.drain_told));
    let share =
        asked.filter(|_| !is_end).map(|asked| f64::from(asked.order.share_ppm) / f64::from(WHOLE_PPM));
    json!({
        "state": drain_state,
        "share": share,
        "over_ms": asked.filter(|_| !is_end).map(|asked| asked.order.over.as_millis() as u64),
        "elapsed_ms": asked.filter(|_| !is_end).map(|asked| asked.at.millis_until(state.clock.time())),
        "wanted": wanted,
        "told": told,
        "leaving": count(|m| &m.drain_leaving),
        "remaining": if drain_state == "cancelled" { 0 } else { wanted.saturating_sub(told) },
        "connections": sum(state, |m| &m.connections_live),
    })
}

/// Says in the log how a drain goes, until it is over.
async fn watch(state: Arc<Shared>) {
    let Some(began) = state.drains.asked() else { return };
    let mut told_at = began.at;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let asked = state.drains.asked();
        let is_over = !is_running(&state, asked) || state.lifecycle.stage() != Stage::Ready;
        let now = state.clock.time();
        if !is_over && now < told_at + TELL_EVERY {
            continue;
        }
        told_at = now;
        let (told, leaving) = (sum(&state, |m| &m.drain_told), sum(&state, |m| &m.drain_leaving));
        let remaining = sum(&state, |m| &m.drain_wanted).saturating_sub(told);
        if is_over {
            let is_cancelled = asked.is_some_and(|asked| asked.is_cancelled);
            tracing::info!(told, is_cancelled, "no more sessions are sent away");
            return;
        }
        tracing::info!(told, leaving, remaining, "sessions are being sent away");
    }
}
