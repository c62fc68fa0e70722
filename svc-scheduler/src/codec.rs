//! Events to and from their stored form.
//!
//! Reads every version ever written, writes the newest. Own events are in `run-*`, `limit-*` and
//! `numbers-*`; of `worker-*` only what placing runs needs is read.

use std::sync::Arc;

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::{Attempt, JobId, PipelineId, RunNumber, Timestamp};
use prost::Message;
use proto::{
    registry::events::v1 as registry,
    scheduler::{events::v1 as stored, v1 as pb},
};

use crate::{
    domain::{Cause, Event, Fact, Gate, Outcome, Subject, WorkerChange, WorkerFact},
    wire,
};

pub(crate) const RUNS: &str = "run-";
pub(crate) const LIMITS: &str = "limit-";
pub(crate) const NUMBERS: &str = "numbers-";
/// Beginnings of the names of the streams that the scheduler writes, but for the elections.
pub(crate) const OWN: &[&str] = &[RUNS, LIMITS, NUMBERS];
pub(crate) const WORKERS: &str = "worker-";

pub(crate) fn stream(event: &Event) -> String {
    subject_stream(event.subject())
}

pub(crate) fn subject_stream(subject: Subject<'_>) -> String {
    match subject {
        Subject::Run(run) => format!("{RUNS}{run}"),
        Subject::Numbers(pipeline) => format!("{NUMBERS}{pipeline}"),
        Subject::Gate(Gate::Pipeline(id)) => format!("{LIMITS}pipeline-{id}"),
        Subject::Gate(Gate::Group(name)) => format!("{LIMITS}group-{name}"),
    }
}

pub(crate) fn encode(event: &Event) -> Encoded {
    let run_id = event.run().map(|run| run.to_string()).unwrap_or_default();
    let (event_type, data) = match event {
        Event::RunNumbered { pipeline, number, run, at } => {
            let (pipeline_id, number, run_id) = (pipeline.0, number.0, run.to_string());
            let stored = stored::RunNumbered { pipeline_id, number, run_id, at: at.0 };
            ("RunNumbered", stored.encode_to_vec())
        }
        Event::RunSubmitted { number, spec, start_reason, started_by, at, .. } => {
            let (number, spec, at) = (number.0, Some(wire::spec(spec)), at.0);
            let (start_reason, started_by) = (start_reason.clone(), started_by.clone());
            let stored =
                stored::RunSubmitted { run_id, number, spec, start_reason, started_by, at };
            ("RunSubmitted", stored.encode_to_vec())
        }
        Event::RunAssigned { attempt, worker, token, at, .. } => {
            let (worker_id, lease_token) = (worker.to_string(), token.to_string());
            let (attempt, at) = (attempt.0, at.0);
            let stored = stored::RunAssigned { run_id, attempt, worker_id, lease_token, at };
            ("RunAssigned", stored.encode_to_vec())
        }
        Event::RunStarted { attempt, at, .. } => {
            let stored = stored::RunStarted { run_id, attempt: attempt.0, at: at.0 };
            ("RunStarted", stored.encode_to_vec())
        }
        Event::RunDue { at, .. } => ("RunDue", stored::RunDue { run_id, at: at.0 }.encode_to_vec()),
        Event::LimitChanged { gate, limit, by, note, at } => {
            let (gate, limit) = (Some(wire::gate(gate)), limit.map(wire::limit));
            let (by, note, at) = (by.clone(), note.clone(), at.0);
            let stored = stored::LimitChanged { gate, limit, by, note, at };
            ("LimitChanged", stored.encode_to_vec())
        }
        Event::JobStarted { attempt, job, at, .. } => {
            let (attempt, job_id, at) = (attempt.0, job.0, at.0);
            ("JobStarted", stored::JobStarted { run_id, attempt, job_id, at }.encode_to_vec())
        }
        Event::JobFinished { attempt, job, state, message, at, .. } => {
            let (attempt, job_id, at) = (attempt.0, job.0, at.0);
            let (state, message) = (wire::job_state(*state).into(), message.clone());
            let stored = stored::JobFinished { run_id, attempt, job_id, state, message, at };
            ("JobFinished", stored.encode_to_vec())
        }
        Event::RunRequeued { attempt, reason, cause, not_before, at, .. } => {
            let (attempt, reason, at) = (attempt.0, reason.clone(), at.0);
            let (cause, not_before) = (stored_cause(*cause).into(), wire::millis(*not_before));
            let stored = stored::RunRequeued { run_id, attempt, reason, at, cause, not_before };
            ("RunRequeued", stored.encode_to_vec())
        }
        Event::RunCancelRequested { by, note, at, .. } => {
            let (by, note, at) = (by.clone(), note.clone(), at.0);
            let stored = stored::RunCancelRequested { run_id, by, note, at };
            ("RunCancelRequested", stored.encode_to_vec())
        }
        Event::RunCancelled { reason, at, .. } => {
            let stored = stored::RunCancelled { run_id, reason: reason.clone(), at: at.0 };
            ("RunCancelled", stored.encode_to_vec())
        }
        Event::RunFinished { attempt, outcome, reason, stopped_early, build, at, .. } => {
            let stored = stored::RunFinished {
                run_id,
                attempt: attempt.0,
                state: outcome_state(*outcome).into(),
                reason: reason.clone(),
                stopped_early: *stopped_early,
                build: build.as_deref().map(wire::build),
                at: at.0,
            };
            ("RunFinished", stored.encode_to_vec())
        }
    };
    Encoded { event_type, version: version(event), data }
}

/// The newest version of each stored form.
fn version(event: &Event) -> u32 {
    match event {
        Event::RunSubmitted { .. } => 6,
        Event::RunRequeued { .. } => 2,
        _ => 1,
    }
}

fn outcome_state(outcome: Outcome) -> pb::RunState {
    match outcome {
        Outcome::Succeeded => pb::RunState::Succeeded,
        Outcome::Failed => pb::RunState::Failed,
    }
}

/// The fact that an event of the log stands for; `None`: not one that the scheduler needs.
pub fn decode(recorded: &Recorded) -> Result<Option<Fact>, DecodeError> {
    let (event_type, data) = (&*recorded.event.event_type, &recorded.event.data[..]);
    let is_own = OWN.iter().any(|own| recorded.stream.starts_with(own));
    if !is_own && !recorded.stream.starts_with(WORKERS) {
        return Ok(None);
    }
    check_version(recorded)?;
    let fact = if is_own {
        decode_own(event_type, data).map(|event| event.map(Fact::Run))
    } else {
        decode_worker(event_type, data).map(|fact| fact.map(Fact::Worker))
    };
    fact.map_err(|why| DecodeError::new(recorded, why))
}

/// Why the bytes of a known event cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Bytes(#[from] prost::DecodeError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error(transparent)]
    Id(#[from] ids::ParseIdError),
    #[error("RunFinished with state {0}")]
    Outcome(i32),
    #[error("RunRequeued with cause {0}")]
    Cause(i32),
}

fn decode_own(event_type: &str, data: &[u8]) -> Result<Option<Event>, Unreadable> {
    Ok(Some(match event_type {
        "RunSubmitted" => run_submitted(stored::RunSubmitted::decode(data)?)?,
        "RunNumbered" => {
            let stored::RunNumbered { pipeline_id, number, run_id, at } =
                stored::RunNumbered::decode(data)?;
            let (pipeline, number) = (PipelineId(pipeline_id), RunNumber(number));
            Event::RunNumbered { pipeline, number, run: run_id.parse()?, at: Timestamp(at) }
        }
        "RunAssigned" => run_assigned(stored::RunAssigned::decode(data)?)?,
        "RunStarted" => {
            let stored::RunStarted { run_id, attempt, at } = stored::RunStarted::decode(data)?;
            let (run, attempt) = (run_id.parse()?, Attempt(attempt));
            Event::RunStarted { run, attempt, at: Timestamp(at) }
        }
        "RunDue" => {
            let stored::RunDue { run_id, at } = stored::RunDue::decode(data)?;
            Event::RunDue { run: run_id.parse()?, at: Timestamp(at) }
        }
        "LimitChanged" => limit_changed(stored::LimitChanged::decode(data)?)?,
        "JobStarted" => {
            let stored::JobStarted { run_id, attempt, job_id, at } =
                stored::JobStarted::decode(data)?;
            let (run, attempt) = (run_id.parse()?, Attempt(attempt));
            Event::JobStarted { run, attempt, job: JobId(job_id), at: Timestamp(at) }
        }
        "JobFinished" => job_finished(stored::JobFinished::decode(data)?)?,
        "RunRequeued" => {
            let stored::RunRequeued { run_id, attempt, reason, at, cause, not_before } =
                stored::RunRequeued::decode(data)?;
            let (run, attempt) = (run_id.parse()?, Attempt(attempt));
            let (cause, not_before) = (read_cause(cause)?, wire::time(not_before));
            Event::RunRequeued { run, attempt, reason, cause, not_before, at: Timestamp(at) }
        }
        "RunCancelRequested" => {
            let stored::RunCancelRequested { run_id, by, note, at } =
                stored::RunCancelRequested::decode(data)?;
            Event::RunCancelRequested { run: run_id.parse()?, by, note, at: Timestamp(at) }
        }
        "RunCancelled" => {
            let stored::RunCancelled { run_id, reason, at } = stored::RunCancelled::decode(data)?;
            Event::RunCancelled { run: run_id.parse()?, reason, at: Timestamp(at) }
        }
        "RunFinished" => run_finished(stored::RunFinished::decode(data)?)?,
        _ => return Ok(None),
    }))
}

fn run_submitted(stored: stored::RunSubmitted) -> Result<Event, Unreadable> {
    let spec = stored.spec.ok_or(wire::WireError::Missing("spec"))?;
    Ok(Event::RunSubmitted {
        run: stored.run_id.parse()?,
        number: RunNumber(stored.number),
        spec: Arc::new(wire::read_spec(spec)?),
        start_reason: stored.start_reason,
        started_by: stored.started_by,
        at: Timestamp(stored.at),
    })
}

fn run_assigned(stored: stored::RunAssigned) -> Result<Event, Unreadable> {
    Ok(Event::RunAssigned {
        run: stored.run_id.parse()?,
        attempt: Attempt(stored.attempt),
        worker: stored.worker_id.parse()?,
        token: stored.lease_token.parse()?,
        at: Timestamp(stored.at),
    })
}

fn limit_changed(stored: stored::LimitChanged) -> Result<Event, Unreadable> {
    Ok(Event::LimitChanged {
        gate: wire::read_gate(stored.gate.ok_or(wire::WireError::Missing("gate"))?)?,
        limit: stored.limit.map(wire::read_limit).transpose()?,
        by: stored.by,
        note: stored.note,
        at: Timestamp(stored.at),
    })
}

fn job_finished(stored: stored::JobFinished) -> Result<Event, Unreadable> {
    Ok(Event::JobFinished {
        run: stored.run_id.parse()?,
        attempt: Attempt(stored.attempt),
        job: JobId(stored.job_id),
        state: wire::read_job_state(stored.state)?,
        message: stored.message,
        at: Timestamp(stored.at),
    })
}

fn run_finished(stored: stored::RunFinished) -> Result<Event, Unreadable> {
    Ok(Event::RunFinished {
        run: stored.run_id.parse()?,
        attempt: Attempt(stored.attempt),
        outcome: read_outcome(stored.state)?,
        reason: stored.reason,
        stopped_early: stored.stopped_early,
        build: stored.build.map(wire::read_build).transpose()?.map(Arc::new),
        at: Timestamp(stored.at),
    })
}

fn stored_cause(cause: Cause) -> stored::RequeueCause {
    match cause {
        Cause::Infrastructure => stored::RequeueCause::Infrastructure,
        Cause::Run => stored::RequeueCause::Run,
    }
}

fn read_cause(cause: i32) -> Result<Cause, Unreadable> {
    match stored::RequeueCause::try_from(cause) {
        Ok(stored::RequeueCause::Infrastructure) => Ok(Cause::Infrastructure),
        Ok(stored::RequeueCause::Run) => Ok(Cause::Run),
        Err(_) => Err(Unreadable::Cause(cause)),
    }
}

fn read_outcome(state: i32) -> Result<Outcome, Unreadable> {
    match pb::RunState::try_from(state) {
        Ok(pb::RunState::Succeeded) => Ok(Outcome::Succeeded),
        Ok(pb::RunState::Failed) => Ok(Outcome::Failed),
        _ => Err(Unreadable::Outcome(state)),
    }
}

fn decode_worker(event_type: &str, data: &[u8]) -> Result<Option<WorkerFact>, Unreadable> {
    let (worker, change) = match event_type {
        "WorkerRegistered" => {
            let registry::WorkerRegistered { worker_id, name, tags, primary, .. } =
                registry::WorkerRegistered::decode(data)?;
            (worker_id, WorkerChange::Registered { name, tags, primary })
        }
        "WorkerReported" => {
            let stored = registry::WorkerReported::decode(data)?;
            let slots = u32::try_from(stored.slots).unwrap_or_default();
            let system = [("os", stored.os), ("arch", stored.arch)];
            let known = system.into_iter().filter(|(_, value)| !value.is_empty());
            // Its own tags come after, so that they have the last word.
            let tags = known.map(|(key, value)| format!("{key}={value}")).chain(stored.tags);
            (stored.worker_id, WorkerChange::Reported { slots, tags: tags.collect() })
        }
        "WorkerRenamed" => {
            let registry::WorkerRenamed { worker_id, name, .. } =
                registry::WorkerRenamed::decode(data)?;
            (worker_id, WorkerChange::Renamed { name })
        }
        "WorkerTagsChanged" => {
            let registry::WorkerTagsChanged { worker_id, added, removed, .. } =
                registry::WorkerTagsChanged::decode(data)?;
            (worker_id, WorkerChange::TagsChanged { added, removed })
        }
        "WorkerSuspended" => {
            (registry::WorkerSuspended::decode(data)?.worker_id, WorkerChange::Suspended)
        }
        "WorkerDrainStarted" => {
            (registry::WorkerDrainStarted::decode(data)?.worker_id, WorkerChange::DrainStarted)
        }
        "WorkerDrainExpired" => {
            (registry::WorkerDrainExpired::decode(data)?.worker_id, WorkerChange::DrainExpired)
        }
        "WorkerResumed" => {
            (registry::WorkerResumed::decode(data)?.worker_id, WorkerChange::Resumed)
        }
        "WorkerLost" => (registry::WorkerLost::decode(data)?.worker_id, WorkerChange::Lost),
        "WorkerReturned" => {
            (registry::WorkerReturned::decode(data)?.worker_id, WorkerChange::Returned)
        }
        "WorkerDeregistered" => {
            (registry::WorkerDeregistered::decode(data)?.worker_id, WorkerChange::Deregistered)
        }
        _ => return Ok(None),
    };
    Ok(Some(WorkerFact { worker: worker.parse()?, change }))
}

#[cfg(test)]
mod tests;
