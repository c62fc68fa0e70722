//! The fleet at any point in time, and what happened to one worker.

use axum::{Json, extract::State};
use eventlog::{Filter, Log, LogError, Recorded};
use futures::TryStreamExt as _;
use ids::WorkerId;
use proto::{
    registry::v1::{Change, ListChangesRequest},
    scheduler::v1::{ListRunsRequest, Run},
};
use serde::{Deserialize, Serialize};

use super::{
    Params, Query,
    events::unreadable,
    moment::Place,
    time::rfc3339,
    workers::{self, WorkerJson},
};
use crate::{error::ApiError, gate::Gate};

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    /// A position or a time; absent: now.
    at: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Fleet {
    /// The last event that had happened by then; `None`: there was none.
    position: Option<u64>,
    recorded_at: Option<u64>,
    /// As the list of workers said at that moment. What is not in the log is left at its least: nobody
    /// is connected, and the last contact is the last one that was stored.
    workers: Vec<WorkerJson>,
}

pub(crate) async fn fleet(
    State(gate): State<Gate>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Fleet>, ApiError> {
    let place: Option<Place> = wanted
        .at
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error| ApiError::bad_request(format!("`at`: {error}")))?;
    let end = match place {
        Some(place) => Some(place.end(gate.log()).await.map_err(unreadable)?),
        None => None,
    };
    let last = last(gate.log(), end).await.map_err(unreadable)?;
    Ok(Json(Fleet {
        position: last.as_ref().map(|event| event.position),
        recorded_at: last.as_ref().map(|event| event.recorded_at.as_millis()),
        workers: workers::shown(&gate, end).await?,
    }))
}

/// The last event of the log, or before its end then.
async fn last(log: &Log, end: Option<u64>) -> Result<Option<Recorded>, LogError> {
    if end == Some(0) {
        return Ok(None);
    }
    log.read_all_backward(end.map(|end| end - 1), Filter::default()).try_next().await
}

#[derive(Debug, Serialize)]
pub(crate) struct History {
    uniqueid: String,
    /// Oldest first; the newest thousand.
    changes: Vec<ChangeJson>,
    /// What it was given of runs, oldest first.
    runs: Vec<Stay>,
}

#[derive(Debug, Serialize)]
struct ChangeJson {
    position: u64,
    at: u64,
    time: String,
    r#type: String,
    actor: String,
    note: String,
    /// As it was after that.
    worker: Option<WorkerJson>,
}

impl From<Change> for ChangeJson {
    fn from(change: Change) -> Self {
        Self {
            position: change.position,
            at: change.at,
            time: rfc3339(change.at),
            r#type: change.what,
            actor: change.actor,
            note: change.note,
            worker: change.worker.map(|worker| WorkerJson::new(worker, None)),
        }
    }
}

/// An attempt of a run, from when to when the worker had it.
#[derive(Debug, Serialize)]
struct Stay {
    run: String,
    attempt: u32,
    assigned_at: u64,
    /// 0: not begun.
    started_at: u64,
    /// 0: it has it still.
    ended_at: u64,
    /// Why it ended without ending the run.
    reason: String,
}

pub(crate) async fn of_worker(
    State(gate): State<Gate>,
    params: Params,
) -> Result<Json<History>, ApiError> {
    let worker: WorkerId = params.get("workerid")?;
    let worker_id = worker.to_string();
    let changes = ListChangesRequest { worker_id: worker_id.clone() };
    let changes = gate.registry().list_changes(changes).await?.into_inner().changes;
    let runs = ListRunsRequest {
        worker_id: worker_id.clone(),
        with_builds: true,
        limit: RUNS,
        ..ListRunsRequest::default()
    };
    let runs = gate.scheduler().list_runs(runs).await?.into_inner().runs;
    let mut runs: Vec<_> = runs.into_iter().flat_map(|run| stays(run, &worker_id)).collect();
    runs.sort_by_key(|stay| stay.assigned_at);
    let changes = changes.into_iter().map(ChangeJson::from).collect();
    Ok(Json(History { uniqueid: worker_id, changes, runs }))
}

/// The newest of these are shown.
const RUNS: u32 = 1_000;

fn stays(run: Run, worker: &str) -> Vec<Stay> {
    let own = run.attempts.into_iter().filter(|attempt| attempt.worker_id == worker);
    let stay = |attempt: proto::scheduler::v1::Attempt| Stay {
        run: run.run_id.clone(),
        attempt: attempt.attempt,
        assigned_at: attempt.assigned_at,
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        reason: attempt.requeue_reason,
    };
    own.map(stay).collect()
}
