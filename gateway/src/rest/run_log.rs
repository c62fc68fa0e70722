//! What a run prints: as Gaia's JSON, as plain text, or live; and the lines of it that hold a text, or
//! that one stream or job printed.

mod follow;
mod search;
mod view;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response, sse::Sse},
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use ids::Digest;
use proto::{
    logs::v1::{GetLogRequest, GetLogResponse, ReadLogRequest, ReadLogResponse},
    scheduler::v1::Run,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tonic::{Code, Status};

use follow::Place;
use search::{MOST, Search};
use view::{View, Wish};

use super::{Params, Query, is_on, keep_alive, runs, wants_events};
use crate::{
    error::ApiError,
    gate::{Gate, is_terminal},
    limits,
};

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    raw: Option<String>,
    follow: Option<String>,
    search: Option<String>,
    /// What is known of the log without its bytes.
    about: Option<String>,
    /// 0 or absent: the newest.
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    offset: u64,
    timestamps: Option<String>,
    stream: Option<String>,
    job: Option<String>,
    unsure: Option<String>,
}

/// Gaia's answer, and which attempt it is of.
#[derive(Debug, Serialize)]
struct LogJson {
    log: String,
    finished: bool,
    attempt: u32,
    /// The log is longer; `?raw=1` gives all of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

pub(crate) async fn show(
    State(gate): State<Gate>,
    params: Params,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let run = gate.scheduler().get_run(runs::named(&params)?).await?.into_inner();
    let place = Place { attempt: wanted.attempt, offset: wanted.offset };
    if is_on(wanted.about.as_deref()) {
        return Ok(Json(about(&gate, &run, wanted.attempt).await?).into_response());
    }
    let Wanted { timestamps, stream, job, unsure, .. } = wanted;
    let view = Wish { timestamps, stream, job, unsure }.view(jobs(&run))?;
    if wants_events(&headers) || is_on(wanted.follow.as_deref()) {
        let place = headers
            .get("last-event-id")
            .map_or(Ok(place), |id| Place::parse(id.to_str().unwrap_or_default()))?;
        return Ok(Sse::new(follow::follow(gate, run, place, view))
            .keep_alive(keep_alive())
            .into_response());
    }
    if let Some(text) = wanted.search {
        return Ok(Json(find(&gate, &run, wanted.attempt, &text).await?).into_response());
    }
    let pieces = read(&gate, &run, place, view).await?;
    if is_on(wanted.raw.as_deref()) {
        let headers = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        return Ok((headers, Body::from_stream(pieces.map_ok(|piece| piece.data))).into_response());
    }
    Ok(Json(whole(&gate, &run, pieces).await?).into_response())
}

/// The lines of the log as it is now that hold the text.
async fn find(gate: &Gate, run: &Run, attempt: u32, text: &str) -> Result<Value, ApiError> {
    limits::text("search", text, limits::NAME)?;
    if text.is_empty() || text.contains('\n') {
        return Err(ApiError::bad_request(
            "`search`: is looked for in each line: give a text without a line break",
        ));
    }
    let mut pieces = read(gate, run, Place { attempt, offset: 0 }, None).await?;
    let (mut search, mut attempt) = (Search::new(text), attempt);
    while let Some(piece) = pieces.try_next().await? {
        attempt = piece.attempt;
        search.push(&piece.data);
        if search.is_full() {
            break;
        }
    }
    search.finish();
    let truncated = search.is_full();
    search.matches.truncate(MOST);
    Ok(json!({ "attempt": attempt, "matches": search.matches, "truncated": truncated }))
}

/// Titles and ids.
fn jobs(run: &Run) -> impl Iterator<Item = (&str, u32)> {
    let jobs = run.spec.iter().flat_map(|spec| &spec.jobs);
    jobs.map(|job| (job.title.as_str(), job.id))
}

/// How large the log is, and once nothing more is taken what it was sealed with, and what it lacks.
async fn about(gate: &Gate, run: &Run, attempt: u32) -> Result<Value, ApiError> {
    let request = GetLogRequest { run_id: run.run_id.clone(), attempt };
    let known = match gate.logs().get_log(request).await {
        Ok(known) => known.into_inner(),
        Err(refusal) if refusal.code() == Code::NotFound => GetLogResponse::default(),
        Err(fault) => return Err(fault.into()),
    };
    let sealed = known.sealed.map(|end| {
        let sha256 = Digest::try_from(&end.sha256[..]).map(|digest| digest.to_string());
        json!({
            "size": end.size,
            "sha256": sha256.unwrap_or_default(),
            "gaps": end.gaps,
            "dropped": end.dropped,
            "incomplete": end.incomplete,
            "missing": end.missing,
        })
    });
    Ok(json!({
        "attempt": known.attempt,
        "size": known.size,
        "finished": is_terminal(run),
        "sealed": sealed,
    }))
}

/// The log as it is now; without pieces if there is none yet.
async fn read(
    gate: &Gate,
    run: &Run,
    place: Place,
    mut view: Option<View>,
) -> Result<impl Stream<Item = Result<ReadLogResponse, Status>> + Unpin + Send + use<>, ApiError> {
    let request = ReadLogRequest {
        run_id: run.run_id.clone(),
        attempt: place.attempt,
        // How the byte before it ends tells a view whether a line begins.
        offset: place.offset.saturating_sub(view.is_some().into()),
        follow: false,
        spans: view.is_some(),
    };
    let pieces = match gate.logs().read_log(request).await {
        Ok(pieces) => Some(pieces.into_inner()),
        Err(refusal) if refusal.code() == Code::NotFound => None,
        Err(fault) => return Err(fault.into()),
    };
    Ok(stream::iter(pieces).flatten().map_ok(move |piece| match &mut view {
        Some(view) => {
            let known = place.offset.saturating_sub(piece.offset) as usize;
            let data = view.push(&piece, known.min(piece.data.len())).into();
            ReadLogResponse { data, ..piece }
        }
        None => piece,
    }))
}

async fn whole(
    gate: &Gate,
    run: &Run,
    mut pieces: impl Stream<Item = Result<ReadLogResponse, Status>> + Unpin,
) -> Result<LogJson, ApiError> {
    let most = gate.config().max_json_log_bytes;
    let (mut log, mut attempt, mut truncated) = (Vec::new(), 0, false);
    while let Some(piece) = pieces.try_next().await? {
        attempt = piece.attempt;
        let room = most - log.len();
        truncated = piece.data.len() > room;
        log.extend_from_slice(&piece.data[..piece.data.len().min(room)]);
        if truncated {
            break;
        }
    }
    let log = String::from_utf8_lossy(&log).into_owned();
    Ok(LogJson { log, finished: is_terminal(run), attempt, truncated })
}
