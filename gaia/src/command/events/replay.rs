//! `gaia events replay`: what the runs and workers were at a moment, folded from the events up to it.

use anyhow::{Context, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use eventlog::{Fold, Metadata, NewEvent, Recorded};
use ids::Timestamp;
use proto::registry::v1::Worker;
use serde::Serialize;
use serde_json::Value;

use super::{Wanted, each, moment, now};
use crate::{
    api::{Event, Run},
    client::Client,
    output::{Output, table, time},
};

/// What can be folded from events alone.
#[derive(Debug, Default)]
pub(crate) struct Past {
    pub(crate) scheduler: svc_scheduler::domain::State,
    pub(crate) registry: svc_registry::domain::State,
    pub(crate) events: u64,
    last: Option<(u64, u64)>,
}

impl Past {
    pub(crate) fn take(&mut self, event: &Recorded) -> Result<()> {
        if let Some(fact) = svc_scheduler::decode(event)? {
            self.scheduler.evolve(&fact);
        }
        if let Some(fact) = svc_registry::decode(event)? {
            self.registry.evolve(&fact);
        }
        self.events += 1;
        self.last = Some((event.position, event.recorded_at.as_millis()));
        Ok(())
    }

    /// The runs as the REST API shows them, oldest first.
    pub(crate) fn runs(&self) -> Vec<Value> {
        let ids = self.scheduler.runs().map(|(id, _)| id);
        let views = ids.filter_map(|id| svc_scheduler::view(&self.scheduler, id));
        let mut views: Vec<_> = views.collect();
        views.sort_by_key(|run| (run.submitted_at, run.run_id.clone()));
        views.iter().map(gateway::run_json).collect()
    }

    /// The workers, by name. Who was connected is not in the log; who was lost is.
    pub(crate) fn workers(&self) -> Vec<Worker> {
        let mut workers = svc_registry::view(self.registry.workers(), |_| None);
        workers.sort_by(|a, b| (&a.name, &a.worker_id).cmp(&(&b.name, &b.worker_id)));
        workers
    }
}

/// The event as it was recorded, with what the server withholds left blank.
pub(crate) fn recorded(event: &Event) -> Result<Recorded> {
    let data = BASE64_STANDARD
        .decode(&event.data)
        .with_context(|| format!("decode the bytes of event {}", event.position))?;
    Ok(Recorded {
        position: event.position,
        stream: event.stream.as_str().into(),
        revision: event.revision,
        recorded_at: Timestamp(event.recorded_at),
        event: NewEvent::new(
            event.id.parse().with_context(|| format!("read event id {}", event.id))?,
            event.event_type.clone(),
            data,
            &Metadata {
                version: event.version,
                actor: event.actor.clone(),
                address: event.address.clone(),
                certificate: event.certificate.clone(),
                ..Metadata::default()
            },
        ),
    })
}

#[derive(Serialize)]
struct Then {
    /// The last event that was folded, and when it was recorded.
    position: Option<u64>,
    recorded_at: Option<u64>,
    runs: Vec<Value>,
    workers: Vec<Value>,
}

pub(super) async fn replay(
    at: Option<&str>,
    open: bool,
    client: &Client,
    output: Output,
) -> Result<()> {
    let to = at.map(|at| moment::for_server(at, now())).transpose()?;
    let wanted =
        Wanted { from: "0", to: to.as_deref(), stream: "run-*,numbers-*,worker-*", event_type: "" };
    let mut past = Past::default();
    each(client, wanted, |event| past.take(&recorded(&event)?)).await?;
    let is_open =
        |run: &Value| !["success", "failed", "cancelled"].iter().any(|over| run["status"] == *over);
    let runs: Vec<Value> = past.runs().into_iter().filter(|run| !open || is_open(run)).collect();
    let workers = past.workers();
    let then = Then {
        position: past.last.map(|(position, _)| position),
        recorded_at: past.last.map(|(_, at)| at),
        runs,
        workers: workers.iter().map(worker_json).collect(),
    };
    output.show(&then, |then| text(then, &workers))
}

fn worker_json(worker: &Worker) -> Value {
    serde_json::json!({
        "uniqueid": worker.worker_id,
        "name": worker.name,
        "status": status(worker),
        "slots": worker.slots,
        "tags": worker.tags,
        "os": worker.os,
        "arch": worker.arch,
    })
}

fn status(worker: &Worker) -> String {
    let name = worker.state().as_str_name().to_lowercase();
    name.strip_prefix("worker_state_").unwrap_or(&name).to_owned()
}

fn text(then: &Then, workers: &[Worker]) -> String {
    let (Some(position), Some(at)) = (then.position, then.recorded_at) else {
        return "Nothing had happened by then.".into();
    };
    let runs: Vec<Run> =
        then.runs.iter().filter_map(|run| serde_json::from_value(run.clone()).ok()).collect();
    let names = |id: &str| {
        let known = workers.iter().find(|worker| worker.worker_id == id);
        known.map_or_else(|| id.to_owned(), |worker| worker.name.clone())
    };
    let runs = table(
        ["RUN", "PIPELINE", "STATUS", "ATTEMPT", "WORKER", "SUBMITTED", "FINISHED"],
        runs.iter().map(|run| {
            let last = run.attempts.last();
            [
                run.uniqueid.clone(),
                format!("{}/{}", run.pipelinename, run.id),
                run.state(),
                last.map_or("–".into(), |attempt| attempt.attempt.to_string()),
                last.map_or("–".into(), |attempt| names(&attempt.workerid)),
                time(run.submitted_at),
                time(run.finished_at),
            ]
        }),
    );
    let workers = table(
        ["WORKER", "ID", "STATUS", "SLOTS", "TAGS"],
        workers.iter().map(|worker| {
            [
                worker.name.clone(),
                worker.worker_id.clone(),
                status(worker),
                worker.slots.to_string(),
                worker.tags.join(" "),
            ]
        }),
    );
    format!("After event {position}, recorded {}:\n\n{runs}\n\n{workers}", time(at))
}
