//! Limits of how many runs of a pipeline or of a group are on workers at once.

use axum::{Json, extract::State};
use ids::PipelineId;
use proto::{
    common::v1::Caller,
    pipelines::v1::GetPipelineRequest,
    scheduler::v1::{
        Gate as Limited, Limit, LimitedGate, SetLimitRequest, WhenFull, gate::Gate as Of,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Params, Payload, User};
use crate::{error::ApiError, gate::Gate, limits};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// Runs that may be on workers at once; 0 holds all back.
    running: u32,
    /// "queue", "cancel-older" or "cancel-newer".
    #[serde(default)]
    when_full: String,
    #[serde(default)]
    note: String,
}

pub(crate) async fn list(State(gate): State<Gate>) -> Result<Json<Value>, ApiError> {
    let limits = gate.scheduler().list_limits(proto::scheduler::v1::ListLimitsRequest {}).await?;
    Ok(Json(limits.into_inner().limits.iter().map(shown).collect()))
}

pub(crate) async fn set(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<Json<Value>, ApiError> {
    let Wish { running, when_full, note } = payload.json()?;
    limits::text("note", &note, limits::NOTE)?;
    let when_full = match when_full.as_str() {
        "" | "queue" => WhenFull::Queue,
        "cancel-older" => WhenFull::CancelOlder,
        "cancel-newer" => WhenFull::CancelNewer,
        other => {
            let other = limits::cut(other.to_owned(), 60);
            return Err(ApiError::bad_request(format!(
                "`when_full`: `{other}` is none of `queue`, `cancel-older` and `cancel-newer`"
            )));
        }
    };
    let limit = Limit { running, when_full: when_full.into() };
    change(&gate, user.caller, of(&gate, &params).await?, Some(limit), note).await
}

pub(crate) async fn remove(
    State(gate): State<Gate>,
    user: User,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    // One of a pipeline that is gone can be removed, too.
    let of = match params.find("group") {
        Some(group) => Of::Group(group.to_owned()),
        None => Of::PipelineId(params.get::<PipelineId>("pipelineid")?.0),
    };
    change(&gate, user.caller, of, None, String::new()).await
}

async fn of(gate: &Gate, params: &Params) -> Result<Of, ApiError> {
    if let Some(group) = params.find("group") {
        return Ok(Of::Group(group.to_owned()));
    }
    let id: PipelineId = params.get("pipelineid")?;
    gate.pipelines().get_pipeline(GetPipelineRequest { id: id.0, name: String::new() }).await?;
    Ok(Of::PipelineId(id.0))
}

async fn change(
    gate: &Gate,
    caller: Caller,
    of: Of,
    limit: Option<Limit>,
    note: String,
) -> Result<Json<Value>, ApiError> {
    let of = Some(Limited { gate: Some(of) });
    let request = SetLimitRequest { gate: of, limit, note, caller: Some(caller) };
    Ok(Json(shown(&gate.scheduler().set_limit(request).await?.into_inner())))
}

fn shown(limited: &LimitedGate) -> Value {
    let mut shown = json!({
        "running": limited.limit.map(|limit| limit.running),
        "when_full": limited.limit.map(|limit| when_full(limit.when_full())),
        "running_now": limited.running,
        "open": limited.open,
    });
    if let Some((key, value)) = named(limited.gate.as_ref()) {
        shown[key] = value;
    }
    shown
}

/// `pipelineid` or `group`.
pub(super) fn named(gate: Option<&Limited>) -> Option<(&'static str, Value)> {
    Some(match gate?.gate.as_ref()? {
        Of::PipelineId(id) => ("pipelineid", (*id).into()),
        Of::Group(name) => ("group", name.as_str().into()),
    })
}

fn when_full(when_full: WhenFull) -> &'static str {
    match when_full {
        WhenFull::Queue => "queue",
        WhenFull::CancelOlder => "cancel-older",
        WhenFull::CancelNewer => "cancel-newer",
    }
}
