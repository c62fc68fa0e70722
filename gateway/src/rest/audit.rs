//! What happened to a run, across all streams; and the log's head, signed.

mod says;

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use eventlog::{Filter, Log, LogError, Recorded, SignedHead, files};
use futures::{StreamExt, TryStreamExt};
use identity::Credentials;
use ids::{Digest, RunId, Timestamp};
use prost::Message;
use proto::{
    pipelines::events::v1::{BuildFailed, BuildRequested, PipelineBuilt},
    scheduler::{
        events::v1::{RunAssigned, RunFinished, RunNumbered, RunRequeued, RunSubmitted},
        v1::{RunKind, RunSpec},
    },
};
use serde::{Deserialize, Serialize};
use tonic::Status;

use super::{Params, Query, event_json::EventJson, events::unreadable};
use crate::{
    error::ApiError,
    gate::{Gate, Witness},
    orders,
};

#[derive(Debug, Serialize)]
pub(crate) struct TrailJson {
    run: String,
    /// In the order in which they happened.
    events: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    #[serde(flatten)]
    event: EventJson,
    /// `run`, `worker`, `pipeline`, `artifact`, `log` or `vault`.
    about: &'static str,
    /// What its type alone does not say: which job, to whom, with what outcome or digest.
    says: String,
    /// Why it happened, or why it is here; empty where nobody said.
    why: String,
}

/// Every event that the run's story is made of.
pub(crate) async fn run(
    State(gate): State<Gate>,
    params: Params,
) -> Result<Json<TrailJson>, ApiError> {
    let run: RunId = params.get("uniqueid")?;
    let trail = Trail::of(gate.log(), run).await.map_err(unreadable)?;
    if trail.0.is_empty() {
        return Err(Status::not_found(format!("there is no run {run}")).into());
    }
    Ok(Json(TrailJson { run: run.to_string(), events: trail.0.into_values().collect() }))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Place {
    /// As of which event; absent: the last one.
    position: Option<u64>,
}

/// The head of the log, signed, to be kept elsewhere.
pub(crate) async fn head(
    State(gate): State<Gate>,
    Query(place): Query<Place>,
) -> Result<Json<SignedHead>, ApiError> {
    let Some(witness) = gate.witness().cloned() else {
        let message = "the log's files are not on the gateway's machine: run \
                       `gaia audit head --log DIR --identity DIR` where the log is served";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, message));
    };
    let now = gate.now();
    let signed = tokio::task::spawn_blocking(move || sign(&witness, place.position, now)).await;
    let signed = signed.map_err(|error| Status::internal(error.to_string()))??;
    Ok(Json(signed))
}

fn sign(witness: &Witness, position: Option<u64>, now: Timestamp) -> Result<SignedHead, ApiError> {
    let head = match position {
        Some(position) => files::head_at(&witness.log, position),
        None => files::head(&witness.log),
    };
    let head = head.map_err(|error| Status::unavailable(error.to_string()))?;
    let head = head.ok_or_else(|| {
        Status::not_found(match position {
            Some(position) => format!("the log has no event {position}"),
            None => "the log is empty: there is nothing to sign yet".into(),
        })
    })?;
    let credentials = Credentials::load(&witness.identity);
    let signed = credentials.and_then(|credentials| SignedHead::sign(head, now, &credentials));
    signed.map_err(|error| Status::internal(format!("sign the head: {error}")).into())
}

/// Events of its pipeline's numbers, on either side of its submission, among which a run's own is
/// looked for.
const NUMBERS: usize = 1_000;

/// By position, and what the run was to be.
struct Trail(BTreeMap<u64, Entry>, RunSpec);

/// The time that a worker had the run: from its order to the attempt's end.
struct Attempt {
    number: u32,
    worker: String,
    from: u64,
    to: u64,
}

impl Trail {
    async fn of(log: &Log, run: RunId) -> Result<Self, LogError> {
        let own = stream(log, &format!("run-{run}")).await?;
        let spec = own.iter().find_map(spec).unwrap_or_default();
        let mut trail = Self(BTreeMap::new(), spec.clone());
        let end = end(&own);
        let attempts = attempts(&own, end);
        for event in &own {
            trail.add("run", event, None);
        }
        for event in stream(log, &format!("runlog-{run}")).await? {
            trail.add("log", &event, None);
        }
        if trail.0.is_empty() {
            return Ok(trail);
        }
        // In old versions the submission says it; a build has none.
        let is_numbered = |event: &&Recorded| {
            let submitted: Option<RunSubmitted> = read("RunSubmitted", event);
            submitted.is_some_and(|it| it.number == 0) && spec.kind() == RunKind::Pipeline
        };
        if let Some(submitted) = own.first().filter(is_numbered) {
            trail.number(log, run, submitted.position).await?;
        }
        trail.pipeline(log, run, &spec).await?;
        if let Ok(digest) = Digest::try_from(&spec.artifact[..]) {
            for event in stream(log, &format!("artifact-{digest}")).await? {
                trail.add("artifact", &event, Some("the binary that ran".into()));
            }
        }
        for attempt in &attempts {
            trail.worker(log, attempt).await?;
        }
        for key in orders::vault_keys(&spec.jobs) {
            trail.secret(log, &key, &attempts).await?;
        }
        Ok(trail)
    }

    fn add(&mut self, about: &'static str, event: &Recorded, why: Option<String>) {
        let (position, says) = (event.position, says::says(event, &self.1));
        let event = EventJson::from(event);
        let why = why.unwrap_or_else(|| event.why().to_owned());
        self.0.entry(position).or_insert(Entry { event, about, says, why });
    }

    /// Its number was claimed just before it was submitted, or, at a take-over, soon after.
    async fn number(&mut self, log: &Log, run: RunId, submitted: u64) -> Result<(), LogError> {
        let numbers = format!("numbers-{}", self.1.pipeline_id);
        let filter = || Filter::streams(&[&numbers]);
        let near = log
            .read_all_backward(Some(submitted), filter())
            .take(NUMBERS)
            .chain(log.read_all(submitted, filter()).take(NUMBERS));
        let is_its = |event: &Recorded| {
            let claimed: Option<RunNumbered> = read("RunNumbered", event);
            claimed.is_some_and(|claimed| claimed.run_id == run.to_string())
        };
        let found = near.try_filter(|event| std::future::ready(is_its(event)));
        if let Some(event) = std::pin::pin!(found).try_next().await? {
            self.add("run", &event, None);
        }
        Ok(())
    }

    /// How the pipeline came to be, and the build that made the binary, or that this run is.
    async fn pipeline(&mut self, log: &Log, run: RunId, spec: &RunSpec) -> Result<(), LogError> {
        let events = stream(log, &format!("pipeline-{}", spec.pipeline_id)).await?;
        let build = events.iter().find_map(|event| {
            let built: PipelineBuilt = read("PipelineBuilt", event)?;
            let digest = built.build.map(|build| build.digest).unwrap_or_default();
            (!digest.is_empty() && digest == spec.artifact).then_some(built.run_id)
        });
        let builds = [build.unwrap_or_default(), run.to_string()];
        for event in &events {
            let belongs = match build_of(event) {
                Some(build) => builds.contains(&build),
                None => &*event.event.event_type == "PipelineCreated",
            };
            if belongs {
                self.add("pipeline", event, None);
            }
        }
        Ok(())
    }

    /// How the worker came to be, what it last said of itself, and what befell it meanwhile.
    async fn worker(&mut self, log: &Log, attempt: &Attempt) -> Result<(), LogError> {
        let events = stream(log, &format!("worker-{}", attempt.worker)).await?;
        let last = |event_type: &str| {
            let known = events.iter().filter(|event| event.position < attempt.from);
            known.rev().find(|event| event.event.event_type == event_type)
        };
        let why = || Some(format!("it had attempt {}", attempt.number));
        for event in ["WorkerRegistered", "WorkerReported"].into_iter().filter_map(last) {
            self.add("worker", event, why());
        }
        for event in &events {
            if (attempt.from..=attempt.to).contains(&event.position) {
                self.add("worker", event, None);
            }
        }
        Ok(())
    }

    /// Who last set the secret before its value went out with an order.
    async fn secret(&mut self, log: &Log, key: &str, attempts: &[Attempt]) -> Result<(), LogError> {
        let events = stream(log, &format!("secret-{key}")).await?;
        for attempt in attempts {
            let known = events.iter().filter(|event| event.position < attempt.from);
            if let Some(event) = known.last() {
                let (number, worker) = (attempt.number, &attempt.worker);
                let why = format!("its value went to worker {worker} with attempt {number}");
                match self.0.get_mut(&event.position) {
                    Some(entry) => entry.why = format!("{}; {why}", entry.why),
                    None => self.add("vault", event, Some(why)),
                }
            }
        }
        Ok(())
    }
}

async fn stream(log: &Log, name: &str) -> Result<Vec<Recorded>, LogError> {
    log.read_stream(name, 0, usize::MAX).try_collect().await
}

/// The event's message, if it is of this type and sound.
fn read<M: Message + Default>(event_type: &str, event: &Recorded) -> Option<M> {
    let is_it = event.event.event_type == event_type;
    is_it.then(|| M::decode(event.event.data.clone()).ok()).flatten()
}

fn spec(event: &Recorded) -> Option<RunSpec> {
    read::<RunSubmitted>("RunSubmitted", event)?.spec
}

/// The last position of a run that is over.
fn end(own: &[Recorded]) -> u64 {
    let is_end =
        |event: &&Recorded| matches!(&*event.event.event_type, "RunFinished" | "RunCancelled");
    own.iter().find(is_end).map_or(u64::MAX, |event| event.position)
}

fn attempts(own: &[Recorded], end: u64) -> Vec<Attempt> {
    let over = |number: u32| {
        own.iter().find_map(|event| {
            let requeued = read("RunRequeued", event).map(|event: RunRequeued| event.attempt);
            let finished = read("RunFinished", event).map(|event: RunFinished| event.attempt);
            (requeued.or(finished) == Some(number)).then_some(event.position)
        })
    };
    let assigned = own.iter().filter_map(|event| {
        let RunAssigned { attempt, worker_id, .. } = read("RunAssigned", event)?;
        let to = over(attempt).unwrap_or(end);
        Some(Attempt { number: attempt, worker: worker_id, from: event.position, to })
    });
    assigned.collect()
}

/// The run of a build that the pipeline's event is about.
fn build_of(event: &Recorded) -> Option<String> {
    read("BuildRequested", event)
        .map(|event: BuildRequested| event.run_id)
        .or_else(|| read("PipelineBuilt", event).map(|event: PipelineBuilt| event.run_id))
        .or_else(|| read("BuildFailed", event).map(|event: BuildFailed| event.run_id))
}
