//! Binaries and logs as plain HTTP bodies: what is large goes beside gRPC, so that any HTTP client can
//! resume it by offset.

mod artifacts;
mod logs;
mod range;

use axum::{
    Router,
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, request::Parts},
    routing::{get, put},
};
use ids::WorkerId;
use proto::{common::v1::Lease, scheduler::v1::Run};
use tonic::{Code, Status};

use crate::{error::ApiError, gate::Gate, limits, peer::WorkerPeer};

pub(crate) fn routes() -> Router<Gate> {
    let artifact = get(artifacts::read).head(artifacts::stat).put(artifacts::write);
    Router::new()
        .route("/artifacts/sha256/{digest}", artifact)
        .route("/runs/{run}/attempts/{attempt}/log", put(logs::append))
}

impl FromRequestParts<Gate> for WorkerPeer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, ApiError> {
        Self::of(&parts.extensions)
            .map_err(|refusal| ApiError::new(StatusCode::UNAUTHORIZED, refusal.to_string()))
    }
}

/// The lease that a request's headers name.
fn lease_of(headers: &HeaderMap) -> Result<Lease, ApiError> {
    let attempt = header(headers, "x-gaia-attempt")?;
    let attempt = attempt.parse().map_err(|_| {
        ApiError::bad_request(format!("header `x-gaia-attempt`: `{attempt}` is not a number"))
    })?;
    Ok(Lease {
        run_id: header(headers, "x-gaia-run")?,
        attempt,
        token: header(headers, "x-gaia-lease")?,
    })
}

fn header(headers: &HeaderMap, name: &str) -> Result<String, ApiError> {
    let value = headers.get(name).ok_or_else(|| {
        ApiError::bad_request(format!("header `{name}` is missing: send what the order said"))
    })?;
    let value = value.to_str().map_err(|_| {
        ApiError::bad_request(format!("header `{name}` is not a text: send what the order said"))
    })?;
    limits::text(name, value, limits::NAME)?;
    Ok(value.to_owned())
}

/// The run that the lease is for, if it is the worker's now.
async fn leased_run(gate: &Gate, worker: WorkerId, lease: Lease) -> Result<Run, ApiError> {
    gate.leased_run(worker, lease).await.map_err(stale)
}

/// A refused lease is the worker's to give up, whatever made the scheduler refuse it.
fn stale(refusal: Status) -> ApiError {
    match refusal.code() {
        Code::FailedPrecondition | Code::NotFound | Code::PermissionDenied => {
            ApiError::forbidden(refusal.message())
        }
        _ => refusal.into(),
    }
}
