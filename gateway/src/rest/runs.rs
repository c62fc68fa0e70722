//! Runs: by Gaia's numbers or by their unique id.

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures::StreamExt;
use ids::{PipelineId, RunId, RunNumber};
use proto::scheduler::v1::{CancelRunRequest, GetRunRequest, ListRunsRequest};
use serde::Deserialize;

use super::{Params, Payload, Query, User, is_on, keep_alive, run_json::RunJson, wants_events};
use crate::{error::ApiError, gate::Gate, limits, watch::Watch};

/// Runs in one answer, unless another limit is given.
const USUAL: u32 = 100;
const USUAL_OF_PIPELINE: u32 = 1_000;

/// The run that the path names, by either kind of name.
pub(super) fn named(params: &Params) -> Result<GetRunRequest, ApiError> {
    if params.find("uniqueid").is_some() {
        let run: RunId = params.get("uniqueid")?;
        return Ok(GetRunRequest { run_id: run.to_string(), ..GetRunRequest::default() });
    }
    let pipeline: PipelineId = params.get("pipelineid")?;
    let number: RunNumber = params.get("runid")?;
    Ok(GetRunRequest { run_id: String::new(), pipeline_id: pipeline.0, number: number.0 })
}

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    /// 0: all.
    limit: Option<u32>,
    /// Only of this pipeline.
    #[serde(default)]
    pipeline: u64,
    open: Option<String>,
    builds: Option<String>,
}

impl Wanted {
    fn of(&self, pipeline: u64, usual: u32) -> ListRunsRequest {
        ListRunsRequest {
            pipeline_id: pipeline,
            limit: self.limit.unwrap_or(usual),
            with_builds: is_on(self.builds.as_deref()),
            only_open: is_on(self.open.as_deref()),
            worker_id: String::new(),
        }
    }
}

async fn runs(gate: &Gate, request: ListRunsRequest) -> Result<Vec<RunJson>, ApiError> {
    let runs = gate.scheduler().list_runs(request).await?.into_inner().runs;
    Ok(runs.into_iter().map(RunJson::from).collect())
}

pub(crate) async fn list(
    State(gate): State<Gate>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<RunJson>>, ApiError> {
    Ok(Json(runs(&gate, wanted.of(wanted.pipeline, USUAL)).await?))
}

pub(crate) async fn list_of_pipeline(
    State(gate): State<Gate>,
    params: Params,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<RunJson>>, ApiError> {
    let pipeline: PipelineId = params.get("pipelineid")?;
    Ok(Json(runs(&gate, wanted.of(pipeline.0, USUAL_OF_PIPELINE)).await?))
}

/// The newest run; `null` before the first.
pub(crate) async fn latest_of_pipeline(
    State(gate): State<Gate>,
    params: Params,
) -> Result<Json<Option<RunJson>>, ApiError> {
    let pipeline: PipelineId = params.get("pipelineid")?;
    Ok(Json(latest(&gate, pipeline.0).await?))
}

pub(crate) async fn latest(gate: &Gate, pipeline: u64) -> Result<Option<RunJson>, ApiError> {
    let request = ListRunsRequest { pipeline_id: pipeline, limit: 1, ..ListRunsRequest::default() };
    Ok(runs(gate, request).await?.into_iter().next())
}

/// The run now; as events, also after every change, until it ended.
pub(crate) async fn show(
    State(gate): State<Gate>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let wanted = named(&params)?;
    if !wants_events(&headers) {
        let run = gate.scheduler().get_run(wanted).await?.into_inner();
        return Ok(Json(RunJson::from(run)).into_response());
    }
    let events = Watch::start(&gate, wanted).await?.into_stream().map(|change| match change {
        Ok(run) => Event::default().event("run").json_data(RunJson::from(run)),
        Err(fault) => Ok(Event::default().event("error").data(limits::one_line(fault.message()))),
    });
    Ok(Sse::new(events).keep_alive(keep_alive()).into_response())
}

#[derive(Debug, Default, Deserialize)]
struct Stop {
    #[serde(default)]
    note: String,
}

pub(crate) async fn stop(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<Json<RunJson>, ApiError> {
    let Stop { note } = payload.json_or_default()?;
    limits::text("note", &note, limits::NOTE)?;
    let run = Some(named(&params)?);
    let request = CancelRunRequest { run, note, caller: Some(user.caller) };
    Ok(Json(gate.scheduler().cancel_run(request).await?.into_inner().into()))
}

/// Gaia's route, with Gaia's answer.
pub(crate) async fn stop_by_number(
    gate: State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<&'static str, ApiError> {
    drop(stop(gate, user, params, payload).await?);
    Ok("pipeline successfully stopped")
}
