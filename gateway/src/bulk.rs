//! Binaries and logs as plain HTTP bodies: what is large goes beside gRPC, so that any HTTP client can
//! resume it by offset.

pub(crate) mod artifacts;
pub(crate) mod chunks;
pub(crate) mod logs;
mod range;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};
use ids::{Attempt, RunId};
use proto::{common::v1::Lease, scheduler::v1::Run};
use tonic::{Code, Status};

use crate::{error::ApiError, gate::Gate, limits, peer::WorkerPeer, rest::Params};

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

/// The run that the lease of the headers is for, if it is the worker's now.
pub(crate) async fn present_lease(
    gate: &Gate,
    worker: &WorkerPeer,
    parts: &mut Parts,
) -> Result<Run, ApiError> {
    let lease = lease_of(&parts.headers)?;
    gate.leased_run(worker.id, lease).await.map_err(stale)
}

/// The attempt of the path is the worker's, or was not long ago: what was spooled while the line was
/// dead may still arrive.
pub(crate) async fn own_attempt(
    gate: &Gate,
    worker: &WorkerPeer,
    parts: &mut Parts,
) -> Result<(), ApiError> {
    let params = Params::from_request_parts(parts, gate).await?;
    let (run, lease) = attempt_of(&params, &parts.headers)?;
    let Err(refusal) = gate.leased_run(worker.id, lease.clone()).await else {
        return Ok(());
    };
    if refusal.code() == Code::FailedPrecondition {
        let run = gate.run(run).await?;
        if gate.takes_late_log(&run, lease.attempt, worker.id) {
            return Ok(());
        }
    }
    Err(stale(refusal))
}

/// The attempt that the path names, with the lease token of the headers.
fn attempt_of(params: &Params, headers: &HeaderMap) -> Result<(RunId, Lease), ApiError> {
    let run: RunId = params.get("run")?;
    let attempt: Attempt = params.get("attempt")?;
    let token = header(headers, "x-gaia-lease")?;
    Ok((run, Lease { run_id: run.to_string(), attempt: attempt.0, token }))
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
