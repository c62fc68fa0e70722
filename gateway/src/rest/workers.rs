//! Workers: joining, and seeing them.

use std::collections::HashMap;

use axum::{
    Form, Json,
    body::Body,
    extract::{FromRequest, Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use proto::{
    common::v1::Caller,
    registry::v1::{
        GetRegistrationSecretRequest, Label, LabelSource, ListWorkersRequest,
        RegisterWorkerRequest, ResetRegistrationSecretRequest, Worker, WorkerState,
    },
    scheduler::v1::{ListLoadsRequest, ListLoadsResponse, Load},
};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{Anyone, Payload, User, time::rfc3339};
use crate::{error::ApiError, gate::Gate, limits};

/// What Gaia's agents read of the answer to a registration. Base64 of PEM.
#[derive(Debug, Serialize)]
struct Registered {
    uniqueid: String,
    cert: String,
    key: String,
    cacert: String,
}

/// Gaia's agents print a refusal as it comes, so here it is text.
pub(crate) async fn register(
    State(gate): State<Gate>,
    Anyone(caller): Anyone,
    headers: HeaderMap,
    payload: Payload,
) -> Response {
    match admit(&gate, caller, &headers, payload).await {
        Ok(registered) => Json(registered).into_response(),
        Err(refusal) => (refusal.status(), refusal.message().to_owned()).into_response(),
    }
}

async fn admit(
    gate: &Gate,
    caller: Caller,
    headers: &HeaderMap,
    payload: Payload,
) -> Result<Registered, ApiError> {
    let fields = fields(headers, payload).await?;
    let request = RegisterWorkerRequest { caller: Some(caller), ..fields };
    let registered =
        gate.registry().register_worker(request).await.map_err(|refusal| match refusal.code() {
            Code::PermissionDenied => ApiError::forbidden("wrong global worker secret provided"),
            _ => refusal.into(),
        })?;
    let registered = registered.into_inner();
    Ok(Registered {
        uniqueid: registered.worker_id,
        cert: BASE64_STANDARD.encode(registered.certificate),
        key: BASE64_STANDARD.encode(registered.key),
        cacert: BASE64_STANDARD.encode(registered.ca_certificate),
    })
}

/// JSON or form: Gaia's agents send the one, Gaia's server takes the other. Names in any case.
async fn fields(headers: &HeaderMap, payload: Payload) -> Result<RegisterWorkerRequest, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let fields = if kind.unwrap_or_default().starts_with("application/x-www-form-urlencoded") {
        form(payload).await?
    } else {
        flat(payload.json()?)
    };
    let mut wanted = RegisterWorkerRequest::default();
    for (name, value) in fields {
        match name.to_ascii_lowercase().as_str() {
            "secret" => wanted.secret = value,
            "name" => wanted.name = value,
            "tags" => wanted.tags.extend(split(&value)),
            // It only asks for less: what no other worker can do.
            "primary" => wanted.primary = value == "true",
            _ => {}
        }
    }
    limits::text("secret", &wanted.secret, limits::PASSWORD)?;
    limits::text("name", &wanted.name, limits::NAME)?;
    limits::tags(&wanted.tags)?;
    Ok(wanted)
}

async fn form(Payload(bytes): Payload) -> Result<Vec<(String, String)>, ApiError> {
    let request = Request::post("/")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(bytes))
        .expect("the request is made of constants");
    let form = Form::<Vec<(String, String)>>::from_request(request, &()).await;
    form.map(|form| form.0).map_err(|error| ApiError::bad_request(format!("the form: {error}")))
}

fn flat(object: serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let mut fields = vec![];
    for (name, value) in object {
        match value {
            Value::String(text) => fields.push((name, text)),
            Value::Bool(on) => fields.push((name, on.to_string())),
            Value::Array(texts) => {
                let texts = texts.iter().filter_map(Value::as_str);
                fields.extend(texts.map(|text| (name.clone(), text.to_owned())));
            }
            _ => {}
        }
    }
    fields
}

fn split(tags: &str) -> impl Iterator<Item = String> {
    tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned)
}

pub(crate) async fn show_secret(State(gate): State<Gate>) -> Result<String, ApiError> {
    let secret = gate.registry().get_registration_secret(GetRegistrationSecretRequest {}).await?;
    Ok(secret.into_inner().secret)
}

pub(crate) async fn reset_secret(
    State(gate): State<Gate>,
    user: User,
) -> Result<&'static str, ApiError> {
    let request = ResetRegistrationSecretRequest { caller: Some(user.caller) };
    gate.registry().reset_registration_secret(request).await?;
    Ok("global worker registration secret has been successfully reset")
}

/// Gaia's worker, and what is ours.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerJson {
    uniqueid: String,
    name: String,
    status: &'static str,
    slots: i32,
    registerdate: String,
    lastcontact: String,
    finishedruns: u64,
    tags: Vec<String>,
    /// The same, with who gave each.
    labels: Vec<LabelJson>,
    /// Our word for its state: Gaia has three only.
    state: &'static str,
    connected: bool,
    primary: bool,
    /// Ids of the runs that it has now.
    runs: Vec<String>,
    os: String,
    arch: String,
    version: String,
    /// Why it is suspended or draining, and until when; 0: until somebody resumes it.
    note: String,
    until: u64,
    drain_expired: bool,
    registered_at: u64,
    last_contact_at: u64,
    certificate_expires_at: u64,
}

#[derive(Debug, Serialize)]
struct LabelJson {
    tag: String,
    source: &'static str,
}

impl From<Label> for LabelJson {
    fn from(label: Label) -> Self {
        let source = match label.source() {
            LabelSource::Detected => "detected",
            LabelSource::Configured => "configured",
            LabelSource::Operator => "operator",
            LabelSource::Unspecified => "",
        };
        Self { tag: label.tag, source }
    }
}

impl WorkerJson {
    pub(super) fn new(worker: Worker, load: Option<&Load>) -> Self {
        Self {
            status: status(worker.state()),
            state: state(worker.state()),
            labels: worker.labels.into_iter().map(LabelJson::from).collect(),
            until: worker.until,
            drain_expired: worker.drain_expired,
            uniqueid: worker.worker_id,
            name: worker.name,
            slots: worker.slots,
            registerdate: rfc3339(worker.registered_at),
            lastcontact: rfc3339(worker.last_contact_at),
            finishedruns: load.map_or(0, |load| load.finished_runs),
            tags: worker.tags,
            connected: worker.connected,
            primary: worker.primary,
            runs: load.map(|load| load.run_ids.clone()).unwrap_or_default(),
            os: worker.os,
            arch: worker.arch,
            version: worker.version,
            note: worker.note,
            registered_at: worker.registered_at,
            last_contact_at: worker.last_contact_at,
            certificate_expires_at: worker.certificate_expires_at,
        }
    }
}

/// Gaia's words.
fn status(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Active => "active",
        WorkerState::Suspended | WorkerState::Draining => "suspended",
        _ => "inactive",
    }
}

pub(super) fn state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Active => "active",
        WorkerState::Suspended => "suspended",
        WorkerState::Draining => "draining",
        WorkerState::Lost => "lost",
        WorkerState::Deregistered => "deregistered",
        WorkerState::Unspecified => "unknown",
    }
}

/// Now, or when the log ended before this position.
async fn all(gate: &Gate, before: Option<u64>) -> Result<(Vec<Worker>, ListLoadsResponse), Status> {
    let (mut registry, mut scheduler) = (gate.registry(), gate.scheduler());
    let (workers, loads) = tokio::try_join!(
        registry.list_workers(ListWorkersRequest { before }),
        scheduler.list_loads(ListLoadsRequest { before }),
    )?;
    Ok((workers.into_inner().workers, loads.into_inner()))
}

/// No workers are `null`, as Gaia says it.
pub(crate) async fn list(
    State(gate): State<Gate>,
) -> Result<Json<Option<Vec<WorkerJson>>>, ApiError> {
    let workers = shown(&gate, None).await?;
    Ok(Json((!workers.is_empty()).then_some(workers)))
}

pub(super) async fn shown(gate: &Gate, before: Option<u64>) -> Result<Vec<WorkerJson>, ApiError> {
    let (workers, loads) = all(gate, before).await?;
    let loads: HashMap<_, _> = loads.loads.iter().map(|load| (&load.worker_id, load)).collect();
    let shown = workers.into_iter().map(|worker| {
        let load = loads.get(&worker.worker_id).copied();
        WorkerJson::new(worker, load)
    });
    Ok(shown.collect())
}

pub(crate) async fn overview(State(gate): State<Gate>) -> Result<Json<Value>, ApiError> {
    let (workers, loads) = all(&gate, None).await?;
    let count = |wanted: &str| workers.iter().filter(|w| status(w.state()) == wanted).count();
    Ok(Json(json!({
        "activeworker": count("active"),
        "suspendedworker": count("suspended"),
        "inactiveworker": count("inactive"),
        "finishedruns": loads.loads.iter().map(|load| load.finished_runs).sum::<u64>(),
        "queuesize": loads.queued,
        "runningruns": loads.loads.iter().map(|load| load.run_ids.len()).sum::<usize>(),
    })))
}
