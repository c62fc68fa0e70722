//! Gaia's REST API under `/api/v1`, and what is ours beside it.
//!
//! In reading order: this file (routes, and what every handler takes), `session`, `pipelines`, `runs`
//! with `run_json` and `run_log`, `selectors`, `concurrency`, `workers`, `vault`, `events`
//! (with `event_json`, `moment` and `names`), `audit`.

mod audit;
mod concurrency;
mod event_json;
mod events;
mod moment;
mod names;
mod pipeline_json;
mod pipelines;
mod policy;
mod run_json;
mod run_log;
mod runs;
mod selectors;
mod session;
mod time;
mod vault;
mod workers;

use std::str::FromStr;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{StatusCode, header, request::Parts},
    response::sse::KeepAlive,
    routing::{delete, get, post, put},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use proto::{access::v1::AuthenticateRequest, common::v1::Caller};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tonic::{Code, Status};
use transport::Connection;

use crate::{error::ApiError, gate::Gate, limits, peer};

pub(crate) fn routes() -> Router<Gate> {
    let api = Router::new()
        .merge(access_routes())
        .merge(pipeline_routes())
        .merge(run_routes())
        .merge(worker_routes())
        .merge(log_routes());
    Router::new().nest("/api/v1", api).route("/healthz", get(healthz))
}

fn access_routes() -> Router<Gate> {
    Router::new()
        .route("/login", post(session::login))
        .route("/user/password", post(session::change_password))
        .route("/secrets", get(vault::list))
        .route("/secret", post(vault::create))
        .route("/secret/update", put(vault::update))
        .route("/secret/{key}", delete(vault::remove))
}

fn pipeline_routes() -> Router<Gate> {
    Router::new()
        .route("/pipeline", get(pipelines::list).post(pipelines::create))
        .route("/pipeline/created", get(pipelines::list_created))
        .route("/pipeline/latest", get(pipelines::list_with_latest_run))
        .route("/pipeline/name", get(pipelines::check_name))
        .route(
            "/pipeline/{pipelineid}",
            get(pipelines::show).put(pipelines::change).delete(pipelines::remove),
        )
        .route("/pipeline/{pipelineid}/start", post(pipelines::start))
        .route("/pipeline/{pipelineid}/pull", post(pipelines::pull))
}

fn run_routes() -> Router<Gate> {
    Router::new()
        .route("/pipelinerun/{pipelineid}", get(runs::list_of_pipeline))
        .route("/pipelinerun/{pipelineid}/latest", get(runs::latest_of_pipeline))
        .route("/pipelinerun/{pipelineid}/{runid}", get(runs::show))
        .route("/pipelinerun/{pipelineid}/{runid}/log", get(run_log::show))
        .route("/pipelinerun/{pipelineid}/{runid}/stop", post(runs::stop_by_number))
        .route("/pipelinerun/{pipelineid}/{runid}/placement", get(runs::placement))
        .route("/run", get(runs::list))
        .route("/run/{uniqueid}", get(runs::show))
        .route("/run/{uniqueid}/log", get(run_log::show))
        .route("/run/{uniqueid}/stop", post(runs::stop))
        .route("/run/{uniqueid}/placement", get(runs::placement))
        .route("/selector/check", post(selectors::check))
        .route("/limit", get(concurrency::list))
        .route("/limit/pipeline/{pipelineid}", put(concurrency::set).delete(concurrency::remove))
        .route("/limit/group/{group}", put(concurrency::set).delete(concurrency::remove))
}

fn worker_routes() -> Router<Gate> {
    Router::new()
        .route("/worker/register", post(workers::register))
        .route("/worker/secret", get(workers::show_secret).post(workers::reset_secret))
        .route("/worker/status", get(workers::overview))
        .route("/worker", get(workers::list))
        .route("/worker/{workerid}", delete(workers::deregister))
        .route("/worker/suspend/{workerid}", post(workers::suspend))
        .route("/worker/resume/{workerid}", post(workers::resume))
}

fn log_routes() -> Router<Gate> {
    Router::new()
        .route("/events", get(events::list))
        .route("/events/{event}", get(events::show))
        .route("/audit/run/{uniqueid}", get(audit::run))
        .route("/audit/head", get(audit::head))
}

pub(crate) fn run_json(run: proto::scheduler::v1::Run) -> Value {
    serde_json::to_value(run_json::RunJson::from(run)).expect("plain fields make JSON")
}

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Comments on an idle event stream, so that proxies and clients see that it lives.
fn keep_alive() -> KeepAlive {
    KeepAlive::default()
}

/// Somebody who showed a valid token.
#[derive(Debug)]
pub(crate) struct User {
    name: String,
    caller: Caller,
}

impl FromRequestParts<Gate> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, ApiError> {
        let token = bearer(parts).ok_or_else(|| {
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "no token was sent: log in with POST /api/v1/login, then send `Authorization: Bearer TOKEN`",
            )
        })?;
        let request = AuthenticateRequest { token };
        let session = gate.access().authenticate(request).await.map_err(|refusal| {
            if refusal.code() == Code::Unauthenticated {
                let message = format!("{}: log in with POST /api/v1/login", refusal.message());
                return ApiError::new(StatusCode::UNAUTHORIZED, message);
            }
            refusal.into()
        })?;
        let name = session.into_inner().username;
        let connection = connection(parts)?;
        Ok(Self { caller: peer::caller(connection, format!("user:{name}")), name })
    }
}

fn bearer(parts: &Parts) -> Option<String> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let fits = scheme.eq_ignore_ascii_case("bearer") && token.len() <= limits::TOKEN;
    fits.then(|| token.trim().to_owned())
}

fn connection(parts: &Parts) -> Result<&Connection, ApiError> {
    parts.extensions.get::<Connection>().ok_or_else(|| {
        Status::internal("the gateway does not know who is calling: serve it by transport::Server")
            .into()
    })
}

/// Somebody who need not say who they are: only where they call from is known.
#[derive(Debug)]
pub(crate) struct Anyone(Caller);

impl FromRequestParts<Gate> for Anyone {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, ApiError> {
        Ok(Self(peer::caller(connection(parts)?, String::new())))
    }
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
        let most = gate.config().max_body_bytes;
        let body = Limited::new(request.into_body(), most).collect().await;
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
