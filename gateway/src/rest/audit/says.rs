//! What an event of a run's trail says beside its type, in a few words.

use eventlog::Recorded;
use ids::Digest;
use proto::{
    artifacts::events::v1::ArtifactStored,
    logs::events::v1::LogSealed,
    pipelines::events::v1::PipelineBuilt,
    scheduler::{
        events::v1::{
            JobFinished, JobStarted, RunAssigned, RunFinished, RunNumbered, RunRequeued,
            RunStarted, RunSubmitted,
        },
        v1::{JobState, RunSpec, RunState},
    },
};

use super::read;

/// `spec`: of the run whose trail it is. Empty: the type says it all.
pub(super) fn says(event: &Recorded, spec: &RunSpec) -> String {
    of_run(event).or_else(|| of_job(event, spec)).or_else(|| of_bytes(event)).unwrap_or_default()
}

fn of_run(event: &Recorded) -> Option<String> {
    Some(match &*event.event.event_type {
        "RunNumbered" => {
            let RunNumbered { pipeline_id, number, .. } = read("RunNumbered", event)?;
            format!("run {number} of pipeline {pipeline_id}")
        }
        "RunSubmitted" => {
            let RunSubmitted { spec, .. } = read("RunSubmitted", event)?;
            let spec = spec?;
            let what = if spec.artifact.is_empty() { "build of " } else { "" };
            let digest = digest(&spec.artifact).map(|digest| format!(", {digest}"));
            format!("{what}{}{}", spec.pipeline_name, digest.unwrap_or_default())
        }
        "RunAssigned" => {
            let RunAssigned { attempt, worker_id, .. } = read("RunAssigned", event)?;
            format!("attempt {attempt} to worker {worker_id}")
        }
        "RunStarted" => {
            let RunStarted { attempt, .. } = read("RunStarted", event)?;
            format!("attempt {attempt}")
        }
        "RunRequeued" => {
            let RunRequeued { attempt, .. } = read("RunRequeued", event)?;
            format!("attempt {attempt} is over")
        }
        "RunFinished" => {
            let finished: RunFinished = read("RunFinished", event)?;
            let outcome = match finished.state() {
                RunState::Succeeded => "succeeded",
                _ => "failed",
            };
            format!("attempt {} {outcome}", finished.attempt)
        }
        _ => return None,
    })
}

fn of_job(event: &Recorded, spec: &RunSpec) -> Option<String> {
    let name = |id| match spec.jobs.iter().find(|job| job.id == id) {
        Some(job) => format!("job `{}`", job.title),
        None => format!("job {id}"),
    };
    if let Some(JobStarted { job_id, attempt, .. }) = read("JobStarted", event) {
        return Some(format!("{}, attempt {attempt}", name(job_id)));
    }
    let finished: JobFinished = read("JobFinished", event)?;
    let outcome = match finished.state() {
        JobState::Succeeded => "succeeded",
        JobState::Skipped => "was skipped",
        _ => "failed",
    };
    Some(format!("{} {outcome}, attempt {}", name(finished.job_id), finished.attempt))
}

fn of_bytes(event: &Recorded) -> Option<String> {
    if let Some(LogSealed { attempt, size, sha256, .. }) = read("LogSealed", event) {
        return Some(format!("attempt {attempt}: {size} bytes, {}", digest(&sha256)?));
    }
    if let Some(ArtifactStored { digest: stored, size, .. }) = read("ArtifactStored", event) {
        return Some(format!("{size} bytes, {}", digest(&stored)?));
    }
    let PipelineBuilt { run_id, build, .. } = read("PipelineBuilt", event)?;
    Some(format!("by run {run_id}, {}", digest(&build?.digest)?))
}

fn digest(bytes: &[u8]) -> Option<String> {
    Digest::try_from(bytes).ok().map(|digest| format!("sha256 {digest}"))
}
