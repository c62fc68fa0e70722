//! A run as JSON: Gaia's fields, and what is ours.

use proto::scheduler::v1::{
    Attempt, FullLimit, JobState, JobStatus, Placement, Run, RunKind, RunSpec, RunState,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    concurrency,
    pipeline_json::{JobJson, ResultJson, jobs},
    policy::PolicyJson,
    time::rfc3339,
};
use crate::orders;

#[derive(Debug, Serialize)]
pub(crate) struct RunJson {
    uniqueid: String,
    id: u64,
    pipelineid: u64,
    startdate: String,
    started_reason: String,
    finishdate: String,
    scheduledate: String,
    status: &'static str,
    jobs: Vec<RunJobJson>,
    pipelinetype: String,
    pipelinetags: Vec<String>,
    pipelinename: String,
    /// "pipeline" or "build".
    kind: &'static str,
    /// The only worker that may take it; empty: any.
    worker: String,
    /// What it asks of its worker beside type and tags.
    selector: String,
    policy: PolicyJson,
    /// Milliseconds since the epoch; 0: at once.
    not_before: u64,
    /// The run that this one repeats; empty: none.
    rerun_of: String,
    started_by: String,
    attempts: Vec<AttemptJson>,
    reason: String,
    stoppedearly: bool,
    cancelrequested: bool,
    /// Milliseconds since the epoch; 0: not yet.
    submitted_at: u64,
    started_at: u64,
    finished_at: u64,
    /// What a build produced.
    build: Option<ResultJson>,
}

#[derive(Debug, Serialize)]
struct RunJobJson {
    #[serde(flatten)]
    job: JobJson,
    status: &'static str,
    failpipeline: bool,
    started_at: u64,
    finished_at: u64,
    message: String,
}

#[derive(Debug, Serialize)]
struct AttemptJson {
    attempt: u32,
    workerid: String,
    workername: String,
    assigned_at: u64,
    started_at: u64,
    ended_at: u64,
    /// Why it ended without ending the run.
    reason: String,
}

impl From<Run> for RunJson {
    fn from(run: Run) -> Self {
        let status = status(&run);
        let spec = run.spec.unwrap_or_default();
        Self {
            jobs: run_jobs(&spec, &run.jobs, run.state == i32::from(RunState::Failed)),
            uniqueid: run.run_id,
            id: run.number,
            pipelineid: spec.pipeline_id,
            startdate: rfc3339(run.started_at),
            started_reason: run.start_reason,
            finishdate: rfc3339(run.finished_at),
            scheduledate: rfc3339(run.submitted_at),
            status,
            kind: if spec.kind() == RunKind::Build { "build" } else { "pipeline" },
            pipelinetype: spec.pipeline_type,
            pipelinetags: spec.tags,
            pipelinename: spec.pipeline_name,
            worker: spec.pinned_worker,
            selector: spec.selector,
            policy: spec.policy.into(),
            not_before: spec.not_before,
            rerun_of: spec.rerun_of,
            started_by: run.started_by,
            attempts: run.attempts.into_iter().map(AttemptJson::from).collect(),
            reason: run.reason,
            stoppedearly: run.stopped_early,
            cancelrequested: run.cancel_requested,
            submitted_at: run.submitted_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            build: run.build.map(ResultJson::from),
        }
    }
}

impl From<Attempt> for AttemptJson {
    fn from(attempt: Attempt) -> Self {
        Self {
            attempt: attempt.attempt,
            workerid: attempt.worker_id,
            workername: attempt.worker_name,
            assigned_at: attempt.assigned_at,
            started_at: attempt.started_at,
            ended_at: attempt.ended_at,
            reason: attempt.requeue_reason,
        }
    }
}

/// Gaia's words.
pub(super) fn status(run: &Run) -> &'static str {
    match run.state() {
        RunState::Unspecified | RunState::Queued => "not scheduled",
        RunState::Assigned => "scheduled",
        RunState::Running => "running",
        RunState::Succeeded => "success",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
    }
}

fn run_jobs(spec: &RunSpec, states: &[JobStatus], run_failed: bool) -> Vec<RunJobJson> {
    // A secret's value is not in a run, and its place stays empty.
    let declared = jobs(&spec.jobs, |argument| {
        if orders::is_vault(argument) { String::new() } else { orders::plain_value(spec, argument) }
    });
    let with_state = |job: JobJson| {
        let state = states.iter().find(|state| state.id == job.id).cloned().unwrap_or_default();
        RunJobJson {
            status: job_status(state.state()),
            failpipeline: run_failed && state.state() == JobState::Failed,
            started_at: state.started_at,
            finished_at: state.finished_at,
            message: state.message,
            job,
        }
    };
    declared.into_iter().map(with_state).collect()
}

fn job_status(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting for execution",
        JobState::Running => "running",
        JobState::Succeeded => "success",
        JobState::Failed => "failed",
        JobState::Skipped => "skipped",
    }
}

fn full_limit(full: &FullLimit) -> Value {
    let mut shown = json!({ "running_now": full.running, "running": full.limit });
    if let Some((key, value)) = concurrency::named(full.gate.as_ref()) {
        shown[key] = value;
    }
    shown
}

/// Why a run waits.
pub(super) fn placement(placement: Placement) -> Value {
    let missing = placement.missing.iter();
    json!({
        "summary": placement.summary,
        "workers": placement.workers,
        "matching": placement.matching,
        "matching_full": placement.matching_full,
        "matching_suspended": placement.matching_suspended,
        "matching_draining": placement.matching_draining,
        "matching_not_connected": placement.matching_not_connected,
        "missing": missing
            .map(|missing| json!({ "tag": missing.tag, "workers": missing.workers }))
            .collect::<Vec<_>>(),
        "queue_position": placement.queue_position,
        "limits": placement.limits.iter().map(full_limit).collect::<Vec<_>>(),
        "delayed_until": placement.delayed_until,
        "priority": placement.priority,
        "owner_running": placement.owner_running,
        "owners_before": placement.owners_before,
    })
}
