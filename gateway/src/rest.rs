//! Gaia's REST API under `/api/v1`, and what is ours beside it.
//!
//! In reading order: this file (what every handler takes), `session`, `users`, `pipelines`, `schedules`,
//! `starts`, `runs` with `run_json` and `run_log`, `selectors`, `concurrency`, `workers`, `history`,
//! `operator`, `environment`, `trust`,
//! `vault`, `events` (with `event_json`, `moment` and `names`), `audit`.

pub(crate) mod audit;
pub(crate) mod concurrency;
pub(crate) mod environment;
mod event_json;
pub(crate) mod events;
pub(crate) mod garbage;
pub(crate) mod history;
mod moment;
mod names;
pub(crate) mod operator;
mod pipeline_json;
pub(crate) mod pipelines;
pub(crate) mod placement;
mod policy;
mod run_json;
pub(crate) mod run_log;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod selectors;
pub(crate) mod session;
pub(crate) mod starts;
mod time;
pub(crate) mod trust;
pub(crate) mod users;
pub(crate) mod vault;
pub(crate) mod workers;

use std::str::FromStr;

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, sse::KeepAlive},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    door::{Anyone, MostBytes, User},
    error::ApiError,
    gate::Gate,
    limits,
};

pub(crate) fn run_json(run: proto::scheduler::v1::Run) -> Value {
    serde_json::to_value(run_json::RunJson::from(run)).expect("plain fields make JSON")
}

pub(crate) async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// In the text format of Prometheus.
pub(crate) async fn metrics() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], authz::metrics())
}

/// Comments on an idle event stream, so that proxies and clients see that it lives.
fn keep_alive() -> KeepAlive {
    KeepAlive::default()
}

/// The variable parts of the path.
#[derive(Debug)]
pub(crate) struct Params(RawPathParams);

impl Params {
    /// The part of this name; a 400 that names it if it does not parse.
    pub(crate) fn get<T>(&self, name: &str) -> Result<T, ApiError>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        let text = self.find(name).unwrap_or_default();
        text.parse().map_err(|error| ApiError::bad_request(format!("{error}: correct the path")))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, text)| text)
    }
}

impl FromRequestParts<Gate> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, gate).await;
        params.map(Self).map_err(|error| ApiError::bad_request(error.to_string()))
    }
}

/// What stands after the `?`.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Gate> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, ApiError> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        let query = query.map_err(|error| {
            ApiError::bad_request(format!(
                "query `{}`: {error}",
                parts.uri.query().unwrap_or_default()
            ))
        })?;
        Ok(Self(query.0))
    }
}

/// A switch in a query: `?raw`, `?raw=1`, `?raw=true`.
fn is_on(switch: Option<&str>) -> bool {
    switch.is_some_and(|value| matches!(value, "" | "1" | "true" | "yes" | "on"))
}

/// Whether the client wants events as they happen.
fn wants_events(headers: &axum::http::HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// A body of at most the configured size.
#[derive(Debug)]
pub(crate) struct Payload(Bytes);

impl Payload {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.0).map_err(|error| {
            ApiError::bad_request(format!("the body is not the JSON expected: {error}"))
        })
    }

    /// An absent body stands for the default.
    pub(crate) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        match self.0.trim_ascii() {
            b"" | b"null" => Ok(T::default()),
            _ => self.json(),
        }
    }
}

impl FromRequest<Gate> for Payload {
    type Rejection = ApiError;

    async fn from_request(request: Request, gate: &Gate) -> Result<Self, ApiError> {
        let MostBytes(most) =
            request.extensions().get().copied().unwrap_or(MostBytes(gate.config().max_body_bytes));
        let body = Limited::new(request.into_body(), most).collect();
        let body = timeout(limits::BODY, body).await.map_err(|_| {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come whole in time")
        })?;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the body has more than {most} bytes: send less"),
                )
            } else {
                ApiError::bad_request(format!("the body broke off: {error}"))
            }
        })?;
        Ok(Self(body.to_bytes()))
    }
}
