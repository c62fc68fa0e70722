//! What operators do with workers: rename, tag, suspend, drain, resume, deregister. Each takes a
//! `note`, which says why.

use axum::{Json, extract::State, http::StatusCode};
use ids::WorkerId;
use proto::{
    registry::v1::{ChangeWorkerRequest, RenameWorkerRequest, TagWorkerRequest, Worker},
    scheduler::v1::ListLoadsRequest,
};
use serde::Deserialize;
use tonic::Code;

use super::{Params, Payload, Query, User, is_on, time::Time, workers::WorkerJson};
use crate::{error::ApiError, gate::Gate, limits};

type Answer = Result<Json<WorkerJson>, ApiError>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Change {
    note: String,
    /// End of a suspension.
    until: Time,
    /// Of a drain.
    deadline: Time,
    force: bool,
}

impl Change {
    fn read(payload: &Payload) -> Result<Self, ApiError> {
        let change: Self = payload.json_or_default()?;
        limits::text("note", &change.note, limits::NOTE)?;
        Ok(change)
    }
}

/// The worker as it is now, with what it runs.
async fn shown(gate: &Gate, worker: Worker) -> Answer {
    let loads = gate.scheduler().list_loads(ListLoadsRequest::default()).await?.into_inner().loads;
    let load = loads.iter().find(|load| load.worker_id == worker.worker_id);
    Ok(Json(WorkerJson::new(worker, load)))
}

fn request(
    user: User,
    params: &Params,
    note: String,
    until: u64,
) -> Result<ChangeWorkerRequest, ApiError> {
    let worker: WorkerId = params.get("workerid")?;
    let (worker_id, caller) = (worker.to_string(), Some(user.caller));
    Ok(ChangeWorkerRequest { worker_id, note, caller, until, force: false })
}

pub(crate) async fn suspend(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Answer {
    let Change { note, until, .. } = Change::read(&payload)?;
    let request = request(user, &params, note, until.read("until")?)?;
    let worker = gate.registry().suspend_worker(request).await?.into_inner();
    shown(&gate, worker).await
}

pub(crate) async fn drain(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Answer {
    let Change { note, deadline, .. } = Change::read(&payload)?;
    let request = request(user, &params, note, deadline.read("deadline")?)?;
    let worker = gate.registry().drain_worker(request).await?.into_inner();
    shown(&gate, worker).await
}

pub(crate) async fn resume(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Answer {
    let request = request(user, &params, Change::read(&payload)?.note, 0)?;
    let worker = gate.registry().resume_worker(request).await?.into_inner();
    shown(&gate, worker).await
}

#[derive(Debug, Deserialize)]
pub(crate) struct How {
    force: Option<String>,
}

pub(crate) async fn deregister(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    Query(how): Query<How>,
    payload: Payload,
) -> Result<(StatusCode, &'static str), ApiError> {
    // Gaia's status and text, for whatever names no worker.
    let unknown = (StatusCode::BAD_REQUEST, "worker is not registered");
    let Change { note, force, .. } = Change::read(&payload)?;
    let force = force || is_on(how.force.as_deref());
    // To the registry, who is gone already is gone as wished; to Gaia it was never there.
    match params.get::<WorkerId>("workerid") {
        Ok(worker) if gate.is_registered(worker).await? => {}
        _ => return Ok(unknown),
    }
    let request = ChangeWorkerRequest { force, ..request(user, &params, note, 0)? };
    match gate.registry().deregister_worker(request).await {
        Ok(_) => Ok((StatusCode::OK, "worker has been successfully deregistered")),
        Err(refusal) if refusal.code() == Code::NotFound => Ok(unknown),
        Err(refusal) => Err(refusal.into()),
    }
}

#[derive(Debug, Deserialize)]
struct Name {
    name: String,
    #[serde(default)]
    note: String,
}

pub(crate) async fn rename(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Answer {
    let Name { name, note } = payload.json()?;
    limits::text("name", &name, limits::NAME)?;
    limits::text("note", &note, limits::NOTE)?;
    let worker: WorkerId = params.get("workerid")?;
    let (worker_id, caller) = (worker.to_string(), Some(user.caller));
    let request = RenameWorkerRequest { worker_id, name, note, caller };
    let worker = gate.registry().rename_worker(request).await?.into_inner();
    shown(&gate, worker).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tags {
    add: Vec<String>,
    remove: Vec<String>,
    note: String,
}

pub(crate) async fn tag(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Answer {
    let Tags { add, remove, note } = payload.json()?;
    limits::tags(&add)?;
    limits::tags(&remove)?;
    limits::text("note", &note, limits::NOTE)?;
    let worker: WorkerId = params.get("workerid")?;
    let (worker_id, caller) = (worker.to_string(), Some(user.caller));
    let request = TagWorkerRequest { worker_id, add, remove, note, caller };
    let worker = gate.registry().tag_worker(request).await?.into_inner();
    shown(&gate, worker).await
}
