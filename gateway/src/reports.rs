//! What a worker reports, as the scheduler reads it. Pure.
//!
//! Gaia's agents repeat themselves, know no attempts and send year 1 for "not yet".

use prost::Message;
use proto::{
    common::v1::{ArgumentSpec, Build, JobSpec, Lease},
    scheduler::v1::{JobState, JobStatus, ReportedState, RunReport},
    worker::{Argument, BuildResult, Job, PipelineRun},
};
use tonic::Status;

use crate::{limits, orders};

/// The attempt that the report is about.
pub(crate) fn lease(run: &PipelineRun) -> Lease {
    Lease { run_id: run.unique_id.clone(), attempt: run.attempt, token: run.lease_token.clone() }
}

pub(crate) fn report(run: PipelineRun) -> Result<RunReport, Status> {
    let state = match run.status.as_str() {
        // It has arrived and has not begun, which changes nothing.
        "not scheduled" | "scheduled" => ReportedState::Unspecified,
        "running" => ReportedState::Running,
        "success" => ReportedState::Succeeded,
        "failed" => ReportedState::Failed,
        "cancelled" => ReportedState::Cancelled,
        "reschedule" => ReportedState::GivenBack,
        other => {
            let other = limits::cut(other.to_owned(), 60);
            return Err(Status::invalid_argument(format!(
                "`{other}` is not a status of a run: send scheduled, running, success, failed, \
                 cancelled or reschedule"
            )));
        }
    };
    if run.jobs.len() > limits::JOBS {
        return Err(Status::invalid_argument(format!(
            "run {} has {} jobs, at most {} are taken",
            limits::cut(run.unique_id, 60),
            run.jobs.len(),
            limits::JOBS
        )));
    }
    let jobs: Result<Vec<_>, Status> = run.jobs.into_iter().map(job).collect();
    let mut jobs = jobs?;
    jobs.retain(|job| job.state() != JobState::Waiting);
    let report = RunReport {
        state: state.into(),
        jobs,
        reason: limits::cut(run.reason, limits::NOTE),
        stopped_early: run.stopped_early,
        build: None,
    };
    match run.build_result {
        Some(result) => with_build(report, result),
        None => Ok(report),
    }
}

/// A build whose jobs are too big to store has failed: sending it again would not help.
fn with_build(report: RunReport, result: BuildResult) -> Result<RunReport, Status> {
    let build = build(result)?;
    let (jobs, bytes) = (build.jobs.len(), build.encoded_len());
    if jobs <= limits::JOBS && bytes <= limits::BUILD {
        return Ok(RunReport { build: Some(build), ..report });
    }
    let reason = format!(
        "the pipeline declares {jobs} jobs in {bytes} bytes, at most {} jobs in {} bytes are taken: \
         split the pipeline",
        limits::JOBS,
        limits::BUILD
    );
    Ok(RunReport { state: ReportedState::Failed.into(), reason, ..report })
}

fn build(result: BuildResult) -> Result<Build, Status> {
    if result.sha_sum.len() != 32 {
        return Err(Status::invalid_argument(format!(
            "`sha_sum` of the build has {} bytes: send the sha256 of the binary, 32 bytes",
            result.sha_sum.len()
        )));
    }
    Ok(Build {
        digest: result.sha_sum.into(),
        size: result.size,
        commit: limits::cut(result.commit, limits::NAME),
        jobs: result.jobs.into_iter().map(declared).collect(),
    })
}

fn declared(job: Job) -> JobSpec {
    JobSpec {
        id: job.unique_id,
        title: job.title,
        description: job.description,
        depends_on: job.depends_on.into_iter().map(|before| before.unique_id).collect(),
        arguments: job.args.into_iter().map(argument).collect(),
    }
}

fn argument(argument: Argument) -> ArgumentSpec {
    let mut spec = ArgumentSpec {
        description: argument.description,
        r#type: argument.r#type,
        key: argument.key,
        default_value: String::new(),
    };
    if !orders::is_vault(&spec) {
        spec.default_value = argument.value;
    }
    spec
}

fn job(job: Job) -> Result<JobStatus, Status> {
    let state = match job.status.as_str() {
        "running" => JobState::Running,
        "success" => JobState::Succeeded,
        "failed" => JobState::Failed,
        "skipped" => JobState::Skipped,
        // Gaia's agents leave it empty when they give a run back.
        "" | "waiting for execution" => JobState::Waiting,
        other => {
            let other = limits::cut(other.to_owned(), 60);
            return Err(Status::invalid_argument(format!(
                "`{other}` is not a status of job {}: send waiting for execution, running, success, \
                 failed or skipped",
                job.unique_id
            )));
        }
    };
    Ok(JobStatus {
        id: job.unique_id,
        state: state.into(),
        started_at: u64::try_from(job.started_at).unwrap_or(0),
        finished_at: u64::try_from(job.finished_at).unwrap_or(0),
        message: limits::cut(job.message, limits::NOTE / 2),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(status: &str) -> PipelineRun {
        PipelineRun { status: status.into(), ..PipelineRun::default() }
    }

    #[test]
    fn a_run_that_only_waits_at_the_worker_has_arrived() {
        for status in ["not scheduled", "scheduled"] {
            assert_eq!(report(run(status)).unwrap().state(), ReportedState::Unspecified);
        }
    }

    #[test]
    fn a_rescheduled_run_is_given_back() {
        let given_back = report(run("reschedule")).unwrap();
        assert_eq!(given_back.state(), ReportedState::GivenBack);
    }

    #[test]
    fn an_unknown_status_is_named() {
        let refusal = report(run("paused")).unwrap_err();
        assert!(refusal.message().contains("`paused`"), "{refusal}");
        let jobs = |status: &str| vec![Job { status: status.into(), ..Job::default() }];
        let report = |status| report(PipelineRun { jobs: jobs(status), ..run("running") });
        let refusal = report("resting").unwrap_err();
        assert!(refusal.message().contains("`resting` is not a status of job 0"), "{refusal}");
        for waits in ["", "waiting for execution"] {
            assert_eq!(report(waits).unwrap().jobs, []);
        }
    }

    #[test]
    fn times_before_the_epoch_count_as_not_yet() {
        let failed = Job {
            status: "failed".into(),
            started_at: -62_135_596_800,
            finished_at: 5,
            ..Job::default()
        };
        let waiting = Job { status: String::new(), ..Job::default() };
        let report = report(PipelineRun { jobs: vec![failed, waiting], ..run("running") });
        let jobs = report.unwrap().jobs;
        assert_eq!(jobs.len(), 1);
        assert_eq!((jobs[0].started_at, jobs[0].finished_at), (0, 5));
    }

    #[test]
    fn a_build_too_big_to_store_fails_with_a_reason() {
        let job = Job { title: "x".repeat(limits::BUILD), ..Job::default() };
        let result =
            BuildResult { sha_sum: vec![0; 32], jobs: vec![job], ..BuildResult::default() };
        let report = report(PipelineRun { build_result: Some(result), ..run("success") }).unwrap();
        assert_eq!(report.state(), ReportedState::Failed);
        assert!(report.reason.contains("split the pipeline"));
    }

    #[test]
    fn a_vault_argument_keeps_no_default() {
        let vault =
            Argument { r#type: "vault".into(), value: "leak".into(), ..Argument::default() };
        assert_eq!(argument(vault).default_value, "");
    }
}
