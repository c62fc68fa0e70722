//! The public door: Worker API, bulk transfers, REST. Holds no state.
//!
//! In reading order: [`Config`], [`Deps`] (the services behind the door), `peer` (who is calling),
//! `error` (how a refusal reads), `routes` and `door` (who is let in where, by the table of `authz`),
//! then what is behind: `watch` (a run, whichever scheduler leads), `worker_api` (Gaia's gRPC protocol, with `attachment`, `orders` and
//! `reports`), `bulk` (binaries and logs as plain HTTP bodies), and `rest`.
//!
//! Invariants:
//! - Nothing is remembered between two requests: a restarted gateway is the same gateway.
//! - Identity comes from the connection's certificate or a verified token, never from another header.
//! - No handler is entered before the table of `authz` has admitted the caller.
//! - A worker reads and writes only what its own leases cover; the scheduler decides which these are.

mod attachment;
mod bulk;
mod config;
mod door;
mod error;
mod gate;
mod limits;
mod orders;
mod peer;
mod reports;
mod rest;
mod routes;
mod upload;
mod watch;
mod worker_api;

use axum::{
    Router,
    extract::Request,
    http::{Method, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use proto::worker::worker_server::WorkerServer;

pub use config::Config;
pub use gate::{Deps, Witness};

use crate::{error::ApiError, gate::Gate, worker_api::WorkerApi};

/// Everything that the outside may call; for `transport::Server`, which puts the connection's
/// identity into every request.
pub fn router(deps: Deps, config: Config) -> Router {
    let gate = Gate::new(deps, config);
    let worker = WorkerServer::new(WorkerApi::new(gate.clone()))
        .max_decoding_message_size(worker_api::MAX_MESSAGE);
    let worker = Router::new()
        .route_service("/protobuf.Worker/{*method}", worker)
        .layer(from_fn(worker_api::count_refusals));
    routes::routes(&gate)
        .merge(authz::guard(worker).with_state(()))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown_route)
        .with_state(gate)
}

/// A run as the REST API shows it, for whoever replays the log and compares.
pub fn run_json(run: &proto::scheduler::v1::Run) -> serde_json::Value {
    rest::run_json(run.clone())
}

async fn unknown_route(request: Request) -> Response {
    let path = request.uri().path();
    let grpc = request.headers().get(header::CONTENT_TYPE);
    if grpc.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented(format!("no method `{path}` here"))
            .into_http::<axum::body::Body>();
    }
    let message = format!("no route `{path}`: check the path and the method");
    ApiError::new(StatusCode::NOT_FOUND, message).into_response()
}

async fn method_not_allowed(method: Method, request: Request) -> ApiError {
    let message = format!("`{}` takes no {method}: use another method", request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
