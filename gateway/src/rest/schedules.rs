//! When pipelines start by themselves, and the tokens with which others start them.

use axum::{Json, extract::State};
use ids::PipelineId;
use proto::pipelines::v1::{MissedTicks, ResetTriggerTokenRequest, Schedules};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Params, Payload, User};
use crate::{error::ApiError, gate::Gate, limits};

/// Most schedules that are looked at; the service takes fewer.
const MOST: usize = 100;

/// What is to be different.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Wish {
    /// Gaia's.
    periodicschedules: Option<Vec<String>>,
    time_zone: Option<String>,
    missed_ticks: Option<Missed>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Missed {
    Skip,
    Once,
}

impl Wish {
    /// `None`: they stay as they are.
    pub(super) fn apply(self, to: Option<Schedules>) -> Result<Option<Schedules>, ApiError> {
        let Self { periodicschedules: crons, time_zone, missed_ticks } = self;
        if crons.is_none() && time_zone.is_none() && missed_ticks.is_none() {
            return Ok(None);
        }
        let given = crons.as_deref().unwrap_or_default();
        if given.len() > MOST {
            let message =
                format!("`periodicschedules` has {} entries: leave some out", given.len());
            return Err(ApiError::bad_request(message));
        }
        given.iter().try_for_each(|cron| limits::text("periodicschedules", cron, limits::NAME))?;
        limits::text("time_zone", time_zone.as_deref().unwrap_or_default(), limits::NAME)?;
        let old = to.unwrap_or_default();
        let missed = missed_ticks.map(|missed| match missed {
            Missed::Skip => MissedTicks::Skip.into(),
            Missed::Once => MissedTicks::Once.into(),
        });
        Ok(Some(Schedules {
            crons: crons.unwrap_or(old.crons),
            time_zone: time_zone.unwrap_or(old.time_zone),
            missed: missed.unwrap_or(old.missed),
        }))
    }
}

pub(super) fn missed(schedules: &Schedules) -> Missed {
    match schedules.missed() {
        MissedTicks::Skip => Missed::Skip,
        MissedTicks::Once => Missed::Once,
    }
}

/// Gaia's list, or all that can be said.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Check {
    List(Vec<String>),
    Whole(Wish),
}

/// Gaia's answer to a list is null; to more, the next times.
pub(crate) async fn check(
    State(gate): State<Gate>,
    payload: Payload,
) -> Result<Json<Value>, ApiError> {
    let (wish, is_list) = match payload.json()? {
        Check::List(crons) => (Wish { periodicschedules: Some(crons), ..Wish::default() }, true),
        Check::Whole(wish) => (wish, false),
    };
    let schedules = wish.apply(None)?.unwrap_or_default();
    let next = gate.pipelines().check_schedules(schedules).await?.into_inner().next;
    Ok(Json(if is_list { Value::Null } else { json!({ "next": next }) }))
}

pub(crate) async fn reset_trigger_token(
    State(gate): State<Gate>,
    user: User,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let token = change_token(&gate, user, &params, false).await?;
    Ok(Json(json!({ "trigger_token": token })))
}

pub(crate) async fn remove_trigger_token(
    State(gate): State<Gate>,
    user: User,
    params: Params,
) -> Result<&'static str, ApiError> {
    change_token(&gate, user, &params, true).await?;
    Ok("Trigger token has been removed")
}

async fn change_token(
    gate: &Gate,
    user: User,
    params: &Params,
    remove: bool,
) -> Result<String, ApiError> {
    let id: PipelineId = params.get("pipelineid")?;
    let request = ResetTriggerTokenRequest { id: id.0, caller: Some(user.caller), remove };
    Ok(gate.pipelines().reset_trigger_token(request).await?.into_inner().token)
}
