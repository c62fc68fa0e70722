//! What was: the workers at a moment, and what happened to one of them.

use std::collections::VecDeque;

use eventlog::{
    Fold, Recorded,
    owner::{OwnerError, Past},
};
use futures::StreamExt as _;
use ids::WorkerId;
use proto::registry::v1 as wire;
use tonic::Status;

use crate::{
    codec,
    domain::{Event, Workers},
    views::{view, view_of},
};

/// Changes in one answer.
const MOST: usize = 1_000;

/// The workers as they were when the log ended before this position.
pub(super) async fn workers(past: &Past<Workers>, end: u64) -> Result<Vec<wire::Worker>, Status> {
    let workers = past.before(end).await.map_err(unreadable)?;
    Ok(view(&workers, |_| None))
}

/// What happened to the worker, and what it was after each; the newest of it.
pub(super) async fn changes(
    past: &Past<Workers>,
    worker: WorkerId,
) -> Result<Vec<wire::Change>, Status> {
    let mut stored = past.log().read_stream(format!("worker-{worker}"), 0, usize::MAX);
    let mut state = Workers::default();
    let mut changes = VecDeque::new();
    while let Some(recorded) = stored.next().await {
        let recorded = recorded.map_err(unreadable)?;
        let Some(event) = codec::decode(&recorded).map_err(unreadable)? else { continue };
        state.evolve(&event);
        if changes.len() == MOST {
            changes.pop_front();
        }
        changes.push_back(change(&state, worker, &recorded, &event));
    }
    Ok(changes.into())
}

fn change(state: &Workers, worker: WorkerId, recorded: &Recorded, event: &Event) -> wire::Change {
    wire::Change {
        position: recorded.position,
        at: recorded.recorded_at.as_millis(),
        what: recorded.event.event_type.to_string(),
        actor: recorded.event.metadata().actor,
        note: note(event).to_owned(),
        worker: state.get(worker).map(|known| view_of(worker, known, None)),
    }
}

fn note(event: &Event) -> &str {
    match event {
        Event::WorkerRenamed { note, .. }
        | Event::WorkerTagsChanged { note, .. }
        | Event::WorkerSuspended { note, .. }
        | Event::WorkerDrainStarted { note, .. }
        | Event::WorkerResumed { note, .. }
        | Event::WorkerDeregistered { note, .. } => note,
        _ => "",
    }
}

fn unreadable(error: impl Into<OwnerError>) -> Status {
    Status::unavailable(format!("svc-registry: read the log: {}", error.into()))
}
