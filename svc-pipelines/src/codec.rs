//! The stored form of the events, and what is read of the scheduler's.

mod plan;

pub(crate) use plan::{schedules_from_proto, schedules_to_proto};

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::{Digest, PipelineId, RunId, Timestamp};
use prost::Message;
use proto::{common::v1 as common, pipelines::events::v1 as stored, scheduler};

use crate::domain::{
    ArgumentSpec, Build, Event, Fact, JobSpec, OnWorkerLost, Outcome, PipelineType, Policy, Sealed,
    Spec,
};

/// Streams that this service alone writes.
pub(crate) const OWNS: &[&str] = &["pipeline-"];
/// The scheduler's.
pub(crate) const FOLLOWS: &[&str] = &["run-"];

/// Gaia's reason of a start by a schedule.
pub(crate) const SCHEDULED: &str = "scheduled";

pub(crate) fn stream(event: &Event) -> String {
    format!("pipeline-{}", event.pipeline())
}

pub(crate) fn encode(event: &Event) -> Encoded {
    let version = match event {
        Event::PipelineCreated { .. } => 5,
        Event::PipelineChanged { .. } => 3,
        _ => 1,
    };
    let (event_type, data) = match event.clone() {
        Event::PipelineCreated { pipeline, spec, sealed, by, at } => {
            let created = stored::PipelineCreated {
                pipeline_id: pipeline.0,
                name: spec.name,
                r#type: spec.kind.to_string(),
                url: spec.url,
                branch: spec.branch,
                tags: spec.tags,
                pinned_worker: spec.pinned_worker,
                sealed_credentials: sealed.0.into(),
                created_by: by,
                at: at.0,
                selector: spec.selector,
                policy: Some(policy_to_proto(spec.policy)),
            };
            ("PipelineCreated", created.encode_to_vec())
        }
        Event::PipelineChanged {
            pipeline,
            name,
            tags,
            pinned_worker,
            selector,
            policy,
            by,
            at,
        } => {
            let (pipeline_id, policy, at) = (pipeline.0, Some(policy_to_proto(policy)), at.0);
            let changed = stored::PipelineChanged {
                pipeline_id,
                name,
                tags,
                pinned_worker,
                selector,
                policy,
                by,
                at,
            };
            ("PipelineChanged", changed.encode_to_vec())
        }
        Event::BuildRequested { pipeline, run, at } => {
            let (pipeline_id, run_id, at) = (pipeline.0, run.to_string(), at.0);
            let requested = stored::BuildRequested { pipeline_id, run_id, at };
            ("BuildRequested", requested.encode_to_vec())
        }
        Event::PipelineBuilt { pipeline, run, version, build, at } => {
            let (pipeline_id, run_id, at) = (pipeline.0, run.to_string(), at.0);
            let build = Some(build_to_proto(build));
            let stored = stored::PipelineBuilt { pipeline_id, run_id, version, build, at };
            ("PipelineBuilt", stored.encode_to_vec())
        }
        Event::BuildFailed { pipeline, run, reason, at } => {
            let (pipeline_id, run_id, at) = (pipeline.0, run.to_string(), at.0);
            let failed = stored::BuildFailed { pipeline_id, run_id, reason, at };
            ("BuildFailed", failed.encode_to_vec())
        }
        Event::PipelineDeleted { pipeline, by, at } => {
            let deleted = stored::PipelineDeleted { pipeline_id: pipeline.0, by, at: at.0 };
            ("PipelineDeleted", deleted.encode_to_vec())
        }
        Event::Plan(event) => plan::encode(event),
    };
    Encoded { event_type, version, data }
}

/// What the state folds of an event of the log; `None`: nothing.
pub fn decode(recorded: &Recorded) -> Result<Option<Fact>, DecodeError> {
    let is_in =
        |prefixes: &[&str]| prefixes.iter().any(|prefix| recorded.stream.starts_with(prefix));
    if !is_in(OWNS) && !is_in(FOLLOWS) {
        return Ok(None);
    }
    check_version(recorded)?;
    if is_in(OWNS) { Ok(decode_own(recorded)?.map(Fact::Pipeline)) } else { decode_run(recorded) }
}

fn decode_own(recorded: &Recorded) -> Result<Option<Event>, DecodeError> {
    let broken = |why: &dyn std::fmt::Display| DecodeError::new(recorded, why);
    let event = match &*recorded.event.event_type {
        "PipelineCreated" => created(read(recorded)?).map_err(|why| broken(&why))?,
        "PipelineChanged" => changed(read(recorded)?).map_err(|why| broken(&why))?,
        "BuildRequested" => {
            let requested: stored::BuildRequested = read(recorded)?;
            Event::BuildRequested {
                pipeline: PipelineId(requested.pipeline_id),
                run: run_id(recorded, &requested.run_id)?,
                at: Timestamp(requested.at),
            }
        }
        "PipelineBuilt" => {
            let event: stored::PipelineBuilt = read(recorded)?;
            let build = event.build.ok_or_else(|| broken(&"it has no build"))?;
            Event::PipelineBuilt {
                pipeline: PipelineId(event.pipeline_id),
                run: run_id(recorded, &event.run_id)?,
                version: event.version,
                build: build_from_proto(build).map_err(|why| broken(&why))?,
                at: Timestamp(event.at),
            }
        }
        "BuildFailed" => {
            let failed: stored::BuildFailed = read(recorded)?;
            Event::BuildFailed {
                pipeline: PipelineId(failed.pipeline_id),
                run: run_id(recorded, &failed.run_id)?,
                reason: failed.reason,
                at: Timestamp(failed.at),
            }
        }
        "PipelineDeleted" => {
            let deleted: stored::PipelineDeleted = read(recorded)?;
            Event::PipelineDeleted {
                pipeline: PipelineId(deleted.pipeline_id),
                by: deleted.by,
                at: Timestamp(deleted.at),
            }
        }
        _ => return plan::decode(recorded).map(|event| event.map(Event::Plan)),
    };
    Ok(Some(event))
}

fn created(created: stored::PipelineCreated) -> Result<Event, String> {
    let kind = PipelineType::named(&created.r#type)
        .ok_or_else(|| format!("`{}` is no type of pipeline", created.r#type))?;
    Ok(Event::PipelineCreated {
        pipeline: PipelineId(created.pipeline_id),
        spec: Spec {
            name: created.name,
            kind,
            url: created.url,
            branch: created.branch,
            tags: created.tags,
            pinned_worker: created.pinned_worker,
            selector: created.selector,
            policy: policy_from_proto(created.policy.unwrap_or_default())?,
        },
        sealed: Sealed(created.sealed_credentials.into()),
        by: created.created_by,
        at: Timestamp(created.at),
    })
}

fn changed(changed: stored::PipelineChanged) -> Result<Event, String> {
    Ok(Event::PipelineChanged {
        pipeline: PipelineId(changed.pipeline_id),
        name: changed.name,
        tags: changed.tags,
        pinned_worker: changed.pinned_worker,
        selector: changed.selector,
        policy: policy_from_proto(changed.policy.unwrap_or_default())?,
        by: changed.by,
        at: Timestamp(changed.at),
    })
}

/// How runs end, and which builds the scheduler has.
fn decode_run(recorded: &Recorded) -> Result<Option<Fact>, DecodeError> {
    use scheduler::{
        events::v1::{RunCancelled, RunFinished, RunSubmitted},
        v1::RunKind,
    };
    let fact = match &*recorded.event.event_type {
        "RunSubmitted" => {
            let submitted: RunSubmitted = read(recorded)?;
            let run = run_id(recorded, &submitted.run_id)?;
            let spec = submitted.spec.unwrap_or_default();
            let pipeline = PipelineId(spec.pipeline_id);
            match spec.kind() {
                RunKind::Build => Fact::BuildSubmitted { run, pipeline },
                RunKind::Pipeline if submitted.start_reason == SCHEDULED => {
                    Fact::StartSubmitted { run, pipeline }
                }
                RunKind::Pipeline => return Ok(None),
            }
        }
        "RunFinished" => {
            let finished: RunFinished = read(recorded)?;
            Fact::RunEnded { run: run_id(recorded, &finished.run_id)?, outcome: outcome(finished) }
        }
        "RunCancelled" => {
            let cancelled: RunCancelled = read(recorded)?;
            let reason = match cancelled.reason.as_str() {
                "" => "the build was cancelled".into(),
                reason => format!("the build was cancelled: {reason}"),
            };
            Fact::RunEnded {
                run: run_id(recorded, &cancelled.run_id)?,
                outcome: Outcome::Failed(reason),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(fact))
}

fn outcome(finished: scheduler::events::v1::RunFinished) -> Outcome {
    if finished.state() != scheduler::v1::RunState::Succeeded {
        return Outcome::Failed(match finished.reason.as_str() {
            "" => "the build failed; its log says why".into(),
            reason => reason.into(),
        });
    }
    match finished.build.map(build_from_proto) {
        Some(Ok(build)) => Outcome::Built(build),
        Some(Err(error)) => Outcome::Failed(format!("the worker's report is broken: {error}")),
        None => Outcome::Failed("the worker reported success, but not what it built".into()),
    }
}

fn read<M: Message + Default>(recorded: &Recorded) -> Result<M, DecodeError> {
    M::decode(&recorded.event.data[..]).map_err(|error| DecodeError::new(recorded, error))
}

fn run_id(recorded: &Recorded, text: &str) -> Result<RunId, DecodeError> {
    text.parse().map_err(|error: ids::ParseIdError| DecodeError::new(recorded, error))
}

pub(crate) fn policy_to_proto(policy: Policy) -> common::RunPolicy {
    common::RunPolicy {
        priority: policy.priority,
        groups: policy.groups,
        on_worker_lost: match policy.on_worker_lost {
            OnWorkerLost::Requeue => common::OnWorkerLost::Requeue.into(),
            OnWorkerLost::Fail => common::OnWorkerLost::Fail.into(),
            OnWorkerLost::Wait => common::OnWorkerLost::Wait.into(),
        },
        retries: policy.retries,
        retry_delay: policy.retry_delay,
        infrastructure_retries: policy.infrastructure_retries,
        queue_timeout: policy.queue_timeout,
        run_timeout: policy.run_timeout,
        silence_timeout: policy.silence_timeout,
        start_timeout: policy.start_timeout,
    }
}

/// The error: a value that is none of the protocol.
pub(crate) fn policy_from_proto(policy: common::RunPolicy) -> Result<Policy, String> {
    let on_worker_lost = match common::OnWorkerLost::try_from(policy.on_worker_lost) {
        Ok(common::OnWorkerLost::Requeue) => OnWorkerLost::Requeue,
        Ok(common::OnWorkerLost::Fail) => OnWorkerLost::Fail,
        Ok(common::OnWorkerLost::Wait) => OnWorkerLost::Wait,
        Err(error) => return Err(format!("on_worker_lost: {error}")),
    };
    Ok(Policy {
        priority: policy.priority,
        groups: policy.groups,
        on_worker_lost,
        retries: policy.retries,
        retry_delay: policy.retry_delay,
        infrastructure_retries: policy.infrastructure_retries,
        queue_timeout: policy.queue_timeout,
        run_timeout: policy.run_timeout,
        silence_timeout: policy.silence_timeout,
        start_timeout: policy.start_timeout,
    })
}

pub(crate) fn build_to_proto(build: Build) -> common::Build {
    let argument = |argument: ArgumentSpec| common::ArgumentSpec {
        description: argument.description,
        r#type: argument.kind,
        key: argument.key,
        default_value: argument.default_value,
    };
    let job = |job: JobSpec| common::JobSpec {
        id: job.id,
        title: job.title,
        description: job.description,
        depends_on: job.depends_on,
        arguments: job.arguments.into_iter().map(argument).collect(),
    };
    common::Build {
        digest: build.digest.as_bytes().to_vec().into(),
        size: build.size,
        commit: build.commit,
        jobs: build.jobs.into_iter().map(job).collect(),
    }
}

fn build_from_proto(build: common::Build) -> Result<Build, ids::ParseIdError> {
    let argument = |argument: common::ArgumentSpec| ArgumentSpec {
        description: argument.description,
        kind: argument.r#type,
        key: argument.key,
        default_value: argument.default_value,
    };
    let job = |job: common::JobSpec| JobSpec {
        id: job.id,
        title: job.title,
        description: job.description,
        depends_on: job.depends_on,
        arguments: job.arguments.into_iter().map(argument).collect(),
    };
    Ok(Build {
        digest: Digest::try_from(&build.digest[..])?,
        size: build.size,
        commit: build.commit,
        jobs: build.jobs.into_iter().map(job).collect(),
    })
}

#[cfg(test)]
mod tests;
