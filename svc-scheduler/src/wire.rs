//! Runs, specs and reports in the form that other services see, and that events store.

use std::collections::BTreeSet;

use ids::{
    Attempt, Digest, JobId, LeaseToken, ParseIdError, PipelineId, RunId, Timestamp, WorkerId,
};
use proto::{common::v1 as common, scheduler::v1 as pb};

use crate::domain::{
    self, ArgumentSpec, ArgumentValue, AttemptRecord, Build, FullGate, Gate, GroupName,
    InvalidGroup, Job, JobSpec, JobState, Lease, Limit, OnWorkerLost, Placement, Policy, Report,
    Reported, ReportedJob, Run, RunKind, RunSpec, RunState, Selector, SelectorError, State,
    Timeouts, WhenFull,
};

/// What arrived is not what the protocol says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field}: {why}")]
    Id { field: &'static str, why: ParseIdError },
    #[error("{field} has the unknown value {value}")]
    Unknown { field: &'static str, value: i32 },
    #[error("selector: {0}")]
    Selector(SelectorError),
    #[error("group: {0}")]
    Group(InvalidGroup),
}

impl WireError {
    /// One word for each reason, to count by.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing_field",
            Self::Id { .. } => "invalid_id",
            Self::Unknown { .. } => "unknown_value",
            Self::Selector(_) => "invalid_selector",
            Self::Group(_) => "invalid_group",
        }
    }
}

/// The run, from facts of the log alone: why a queued run waits is not among them.
#[must_use]
pub fn view(state: &State, id: RunId) -> Option<pb::Run> {
    Some(run(state, id, state.run(id)?))
}

pub(crate) fn run(state: &State, id: RunId, run: &Run) -> pb::Run {
    pb::Run {
        run_id: id.to_string(),
        number: run.number.0,
        spec: Some(spec(&run.spec)),
        state: run_state(run.state).into(),
        attempts: run.attempts.iter().map(|record| attempt(state, record)).collect(),
        jobs: run.jobs.iter().map(job).collect(),
        start_reason: run.start_reason.to_string(),
        started_by: run.started_by.to_string(),
        submitted_at: run.submitted_at.0,
        started_at: millis(run.started_at),
        finished_at: millis(run.finished_at),
        reason: run.reason.clone(),
        stopped_early: run.stopped_early,
        cancel_requested: run.cancel_requested.is_some(),
        build: run.build.as_deref().map(build),
    }
}

fn attempt(state: &State, record: &AttemptRecord) -> pb::Attempt {
    pb::Attempt {
        attempt: record.attempt.0,
        worker_id: record.worker.to_string(),
        worker_name: state.worker_name(record.worker),
        assigned_at: record.assigned_at.0,
        started_at: millis(record.started_at),
        ended_at: millis(record.ended_at),
        requeue_reason: record.requeue_reason.clone(),
    }
}

fn job(job: &Job) -> pb::JobStatus {
    pb::JobStatus {
        id: job.id.0,
        state: job_state(job.state).into(),
        started_at: millis(job.started_at),
        finished_at: millis(job.finished_at),
        message: job.message.clone(),
    }
}

pub(crate) fn millis(at: Option<Timestamp>) -> u64 {
    at.map_or(0, Timestamp::as_millis)
}

/// 0 stands for none.
pub(crate) fn time(millis: u64) -> Option<Timestamp> {
    (millis > 0).then_some(Timestamp(millis))
}

fn run_state(state: RunState) -> pb::RunState {
    match state {
        RunState::Queued => pb::RunState::Queued,
        RunState::Assigned => pb::RunState::Assigned,
        RunState::Running => pb::RunState::Running,
        RunState::Succeeded => pb::RunState::Succeeded,
        RunState::Failed => pb::RunState::Failed,
        RunState::Cancelled => pb::RunState::Cancelled,
    }
}

pub(crate) fn job_state(state: JobState) -> pb::JobState {
    match state {
        JobState::Waiting => pb::JobState::Waiting,
        JobState::Running => pb::JobState::Running,
        JobState::Succeeded => pb::JobState::Succeeded,
        JobState::Failed => pb::JobState::Failed,
        JobState::Skipped => pb::JobState::Skipped,
    }
}

pub(crate) fn read_job_state(value: i32) -> Result<JobState, WireError> {
    let state = pb::JobState::try_from(value);
    Ok(match state.map_err(|_| WireError::Unknown { field: "job state", value })? {
        pb::JobState::Waiting => JobState::Waiting,
        pb::JobState::Running => JobState::Running,
        pb::JobState::Succeeded => JobState::Succeeded,
        pb::JobState::Failed => JobState::Failed,
        pb::JobState::Skipped => JobState::Skipped,
    })
}

pub(crate) fn spec(spec: &RunSpec) -> pb::RunSpec {
    pb::RunSpec {
        kind: match spec.kind {
            RunKind::Pipeline => pb::RunKind::Pipeline.into(),
            RunKind::Build => pb::RunKind::Build.into(),
        },
        pipeline_id: spec.pipeline.0,
        pipeline_name: spec.pipeline_name.clone(),
        pipeline_type: spec.pipeline_type.clone(),
        tags: spec.tags.clone(),
        pinned_worker: spec.pinned_worker.clone(),
        artifact: digest(spec.artifact),
        artifact_size: spec.artifact_size,
        jobs: spec.jobs.iter().map(job_spec).collect(),
        arguments: spec.arguments.iter().map(argument).collect(),
        source_url: spec.source_url.clone(),
        source_branch: spec.source_branch.clone(),
        selector: spec.selector.to_string(),
        policy: Some(policy(&spec.policy)),
        not_before: millis(spec.not_before),
        rerun_of: spec.rerun_of.map(|run| run.to_string()).unwrap_or_default(),
        done_jobs: spec.done_jobs.iter().map(|job| job.0).collect(),
    }
}

pub(crate) fn read_spec(spec: pb::RunSpec) -> Result<RunSpec, WireError> {
    let unknown = WireError::Unknown { field: "kind", value: spec.kind };
    let artifact = match spec.artifact {
        none if none.is_empty() => None,
        bytes => Some(read_digest("artifact", &bytes)?),
    };
    let argument = |given: common::ArgumentValue| {
        let common::ArgumentValue { key, value } = given;
        ArgumentValue { key, value }
    };
    Ok(RunSpec {
        kind: match pb::RunKind::try_from(spec.kind).map_err(|_| unknown)? {
            pb::RunKind::Pipeline => RunKind::Pipeline,
            pb::RunKind::Build => RunKind::Build,
        },
        pipeline: PipelineId(spec.pipeline_id),
        pipeline_name: spec.pipeline_name,
        pipeline_type: spec.pipeline_type,
        tags: spec.tags,
        pinned_worker: spec.pinned_worker,
        artifact,
        artifact_size: spec.artifact_size,
        jobs: spec.jobs.into_iter().map(read_job_spec).collect(),
        arguments: spec.arguments.into_iter().map(argument).collect(),
        source_url: spec.source_url,
        source_branch: spec.source_branch,
        selector: Selector::read(&spec.selector).map_err(WireError::Selector)?,
        policy: read_policy(spec.policy.unwrap_or_default())?,
        not_before: time(spec.not_before),
        rerun_of: match spec.rerun_of.as_str() {
            "" => None,
            run => Some(read_run_id(run)?),
        },
        done_jobs: spec.done_jobs.into_iter().map(JobId).collect(),
    })
}

fn policy(policy: &Policy) -> common::RunPolicy {
    common::RunPolicy {
        priority: policy.priority,
        groups: policy.groups.iter().map(ToString::to_string).collect(),
        on_worker_lost: match policy.on_worker_lost {
            OnWorkerLost::Requeue => common::OnWorkerLost::Requeue.into(),
            OnWorkerLost::Fail => common::OnWorkerLost::Fail.into(),
            OnWorkerLost::Wait => common::OnWorkerLost::Wait.into(),
        },
        retries: policy.retries,
        retry_delay: policy.retry_delay,
        infrastructure_retries: policy.infrastructure_retries,
        queue_timeout: policy.timeouts.queue,
        run_timeout: policy.timeouts.run,
        silence_timeout: policy.timeouts.silence,
        start_timeout: policy.timeouts.start,
    }
}

fn read_policy(policy: common::RunPolicy) -> Result<Policy, WireError> {
    let groups: Result<BTreeSet<GroupName>, _> =
        policy.groups.iter().map(|name| name.parse()).collect();
    let groups = groups.map_err(WireError::Group)?;
    let value = policy.on_worker_lost;
    let lost = common::OnWorkerLost::try_from(value)
        .map_err(|_| WireError::Unknown { field: "on_worker_lost", value })?;
    Ok(Policy {
        priority: policy.priority,
        groups: groups.into_iter().collect(),
        on_worker_lost: match lost {
            common::OnWorkerLost::Requeue => OnWorkerLost::Requeue,
            common::OnWorkerLost::Fail => OnWorkerLost::Fail,
            common::OnWorkerLost::Wait => OnWorkerLost::Wait,
        },
        retries: policy.retries,
        retry_delay: policy.retry_delay,
        infrastructure_retries: policy.infrastructure_retries,
        timeouts: Timeouts {
            queue: policy.queue_timeout,
            start: policy.start_timeout,
            run: policy.run_timeout,
            silence: policy.silence_timeout,
        },
    })
}

fn full_gate(full: &FullGate) -> pb::FullLimit {
    pb::FullLimit { gate: Some(gate(&full.gate)), running: full.running, limit: full.limit }
}

pub(crate) fn gate(gate: &Gate) -> pb::Gate {
    let gate = match gate {
        Gate::Pipeline(id) => pb::gate::Gate::PipelineId(id.0),
        Gate::Group(name) => pb::gate::Gate::Group(name.to_string()),
    };
    pb::Gate { gate: Some(gate) }
}

pub(crate) fn read_gate(gate: pb::Gate) -> Result<Gate, WireError> {
    match gate.gate.ok_or(WireError::Missing("gate"))? {
        pb::gate::Gate::PipelineId(id) => Ok(Gate::Pipeline(PipelineId(id))),
        pb::gate::Gate::Group(name) => name.parse().map(Gate::Group).map_err(WireError::Group),
    }
}

pub(crate) fn limit(limit: Limit) -> pb::Limit {
    let when_full = match limit.when_full {
        WhenFull::Queue => pb::WhenFull::Queue,
        WhenFull::CancelOlder => pb::WhenFull::CancelOlder,
        WhenFull::CancelNewer => pb::WhenFull::CancelNewer,
    };
    pb::Limit { running: limit.running, when_full: when_full.into() }
}

pub(crate) fn read_limit(limit: pb::Limit) -> Result<Limit, WireError> {
    let value = limit.when_full;
    let when_full = pb::WhenFull::try_from(value)
        .map_err(|_| WireError::Unknown { field: "when_full", value })?;
    let when_full = match when_full {
        pb::WhenFull::Queue => WhenFull::Queue,
        pb::WhenFull::CancelOlder => WhenFull::CancelOlder,
        pb::WhenFull::CancelNewer => WhenFull::CancelNewer,
    };
    Ok(Limit { running: limit.running, when_full })
}

fn digest(digest: Option<Digest>) -> bytes::Bytes {
    digest.map_or_else(bytes::Bytes::new, |digest| digest.as_bytes().to_vec().into())
}

fn read_digest(field: &'static str, bytes: &[u8]) -> Result<Digest, WireError> {
    Digest::try_from(bytes).map_err(|why| WireError::Id { field, why })
}

fn argument(given: &ArgumentValue) -> common::ArgumentValue {
    common::ArgumentValue { key: given.key.clone(), value: given.value.clone() }
}

fn job_spec(job: &JobSpec) -> common::JobSpec {
    let argument = |argument: &ArgumentSpec| common::ArgumentSpec {
        description: argument.description.clone(),
        r#type: argument.kind.clone(),
        key: argument.key.clone(),
        default_value: argument.default_value.clone(),
    };
    common::JobSpec {
        id: job.id.0,
        title: job.title.clone(),
        description: job.description.clone(),
        depends_on: job.depends_on.iter().map(|id| id.0).collect(),
        arguments: job.arguments.iter().map(argument).collect(),
    }
}

fn read_job_spec(job: common::JobSpec) -> JobSpec {
    let argument = |argument: common::ArgumentSpec| ArgumentSpec {
        description: argument.description,
        kind: argument.r#type,
        key: argument.key,
        default_value: argument.default_value,
    };
    JobSpec {
        id: JobId(job.id),
        title: job.title,
        description: job.description,
        depends_on: job.depends_on.into_iter().map(JobId).collect(),
        arguments: job.arguments.into_iter().map(argument).collect(),
    }
}

pub(crate) fn build(build: &Build) -> common::Build {
    common::Build {
        digest: digest(Some(build.digest)),
        size: build.size,
        commit: build.commit.clone(),
        jobs: build.jobs.iter().map(job_spec).collect(),
    }
}

pub(crate) fn read_build(build: common::Build) -> Result<Build, WireError> {
    Ok(Build {
        digest: read_digest("build.digest", &build.digest)?,
        size: build.size,
        commit: build.commit,
        jobs: build.jobs.into_iter().map(read_job_spec).collect(),
    })
}

pub(crate) fn lease(run: RunId, lease: Lease) -> common::Lease {
    common::Lease {
        run_id: run.to_string(),
        attempt: lease.attempt.0,
        token: lease.token.to_string(),
    }
}

/// `None` for the lease: whatever attempt the worker holds.
pub(crate) fn read_lease(lease: &common::Lease) -> Result<(RunId, Option<Lease>), WireError> {
    let run = read_run_id(&lease.run_id)?;
    if lease.attempt == 0 && lease.token.is_empty() {
        return Ok((run, None));
    }
    let token: Result<LeaseToken, _> = lease.token.parse();
    let token = token.map_err(|why| WireError::Id { field: "lease.token", why })?;
    Ok((run, Some(Lease { attempt: Attempt(lease.attempt), token })))
}

pub(crate) fn read_run_id(text: &str) -> Result<RunId, WireError> {
    text.parse().map_err(|why| WireError::Id { field: "run_id", why })
}

pub(crate) fn read_worker_id(text: &str) -> Result<WorkerId, WireError> {
    text.parse().map_err(|why| WireError::Id { field: "worker_id", why })
}

/// Longest text that a worker can add to a run, in bytes.
const MAX_TEXT: usize = 4 << 10;

pub(crate) fn read_report(report: pb::RunReport) -> Result<Report, WireError> {
    let state = pb::ReportedState::try_from(report.state)
        .map_err(|_| WireError::Unknown { field: "report.state", value: report.state })?;
    let jobs: Result<_, _> = report.jobs.into_iter().map(read_reported_job).collect();
    Ok(Report {
        state: match state {
            pb::ReportedState::Unspecified => Reported::Received,
            pb::ReportedState::Running => Reported::Running,
            pb::ReportedState::Succeeded => Reported::Succeeded,
            pb::ReportedState::Failed => Reported::Failed,
            pb::ReportedState::Cancelled => Reported::Cancelled,
            pb::ReportedState::GivenBack => Reported::GivenBack,
        },
        jobs: jobs?,
        reason: shorten(report.reason, MAX_TEXT),
        stopped_early: report.stopped_early,
        build: report.build.map(read_build).transpose()?,
    })
}

fn read_reported_job(job: pb::JobStatus) -> Result<ReportedJob, WireError> {
    Ok(ReportedJob {
        id: JobId(job.id),
        state: read_job_state(job.state)?,
        started_at: time(job.started_at),
        finished_at: time(job.finished_at),
        message: shorten(job.message, MAX_TEXT),
    })
}

/// Cuts a text that is longer than `most` bytes, and shows that it was cut.
pub(crate) fn shorten(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = text.floor_char_boundary(most.saturating_sub('…'.len_utf8()));
        text.truncate(end);
        text.push('…');
    }
    text
}

pub(crate) fn placement(placement: Placement) -> pb::Placement {
    let missing =
        |domain::Missing { tag, workers }| pb::MissingTag { tag, workers: workers as u32 };
    pb::Placement {
        summary: placement.summary,
        workers: placement.workers as u32,
        matching: placement.matching as u32,
        matching_full: placement.full as u32,
        matching_suspended: placement.suspended as u32,
        matching_draining: placement.draining as u32,
        matching_not_connected: placement.not_connected as u32,
        missing: placement.missing.into_iter().map(missing).collect(),
        queue_position: placement.queue_position as u32,
        limits: placement.full_gates.iter().map(full_gate).collect(),
        delayed_until: millis(placement.delayed_until),
        priority: placement.priority,
        owner_running: placement.owner_running,
        owners_before: placement.owners_before as u32,
    }
}
