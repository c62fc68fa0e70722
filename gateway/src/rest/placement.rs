//! Why a run waits, or where it went: now, or live.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use proto::scheduler::v1::{GetRunRequest, Placement, Run};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::{Code, Status};

use super::{Params, keep_alive, run_json, runs::named, wants_events};
use crate::{error::ApiError, gate::Gate, limits, watch::Watch};

/// What decides is the whole queue and every worker, so it is asked for now and then.
const PAUSE: Duration = Duration::from_millis(500);

/// As it is; as events, also whenever it is another, until the run ended.
pub(crate) async fn show(
    State(gate): State<Gate>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let wanted = named(&params)?;
    if !wants_events(&headers) {
        let placement = gate.scheduler().explain_run(wanted).await?.into_inner();
        return Ok(Json(run_json::placement(placement)).into_response());
    }
    let live = Live::start(gate, wanted).await?;
    let events = live.into_stream().map(|placement| match placement {
        Ok(placement) => {
            Event::default().event("placement").json_data(run_json::placement(placement))
        }
        Err(fault) => Ok(Event::default().event("error").data(limits::one_line(fault.message()))),
    });
    Ok(Sse::new(events).keep_alive(keep_alive()).into_response())
}

struct Live {
    gate: Gate,
    wanted: GetRunRequest,
    /// Tells at once that the run went on, and when it ended.
    changes: BoxStream<'static, Result<Run, Status>>,
    pause: Interval,
    /// What was told last.
    last: Option<Placement>,
    has_ended: bool,
}

impl Live {
    async fn start(gate: Gate, wanted: GetRunRequest) -> Result<Self, Status> {
        let changes = Watch::start(&gate, wanted.clone()).await?.into_stream().boxed();
        let mut pause = interval(PAUSE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { gate, wanted, changes, pause, last: None, has_ended: false })
    }

    async fn next(&mut self) -> Result<Option<Placement>, Status> {
        while !self.has_ended {
            tokio::select! {
                change = self.changes.next() => self.has_ended = change.transpose()?.is_none(),
                _ = self.pause.tick() => {}
            }
            let placement = match self.gate.scheduler().explain_run(self.wanted.clone()).await {
                Ok(placement) => placement.into_inner(),
                // The next leader says it.
                Err(fault) if fault.code() == Code::Unavailable && !self.has_ended => continue,
                Err(fault) => return Err(fault),
            };
            if self.last.as_ref() != Some(&placement) {
                self.last = Some(placement.clone());
                return Ok(Some(placement));
            }
        }
        Ok(None)
    }

    /// Ends with the run, or with the error after which there is no more to hear.
    fn into_stream(self) -> impl Stream<Item = Result<Placement, Status>> {
        stream::unfold(Some(self), |live| async {
            let mut live = live?;
            match live.next().await {
                Ok(placement) => Some((Ok(placement?), Some(live))),
                Err(fault) => Some((Err(fault), None)),
            }
        })
    }
}
