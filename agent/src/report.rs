//! Tells the server how an attempt is going, in order, until the server has heard it.
//!
//! The report is always the whole state, so what changes while the server is away or slow goes out
//! as one. A refusal because of the lease stops the attempt: it is somebody else's by now.

use std::time::Duration;

use proto::worker::{BuildResult, Job, PipelineRun};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use crate::{
    clock,
    order::{Lease, job_message},
    primary::Primary,
    retry::Pauses,
    runtime::{JobTransition, JobUpdate},
    stop::{Stopper, Why},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Longer reasons are cut: they end up in one event of the log.
const LONGEST_REASON: usize = 1900;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    Succeeded,
    /// A job asked for the run to end; that is no failure.
    StoppedEarly(String),
    Built(BuildResult),
    Failed(String),
    GivenBack(String),
    Cancelled(String),
}

/// What became of the last report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Acknowledged,
    Refused,
}

/// The newest state of an attempt, and the task that sends it.
#[derive(Debug)]
pub(crate) struct Reporter {
    state: watch::Sender<PipelineRun>,
    task: AbortOnDropHandle<Delivery>,
}

impl Reporter {
    /// Reports the attempt as begun.
    pub(crate) fn start(primary: Primary, order: &PipelineRun, stopper: Stopper) -> Self {
        let state = PipelineRun {
            status: "running".into(),
            start_date: clock::seconds(),
            jobs: order.jobs.iter().map(waiting).collect(),
            ..blank(order)
        };
        let (state, watcher) = watch::channel(state);
        let task = tokio::spawn(deliver(primary, watcher, stopper));
        Self { state, task: AbortOnDropHandle::new(task) }
    }

    /// The jobs, when the order did not have them.
    pub(crate) fn set_jobs(&self, jobs: &[proto::common::v1::JobSpec]) {
        let jobs = jobs.iter().map(|spec| waiting(&job_message(spec))).collect();
        self.state.send_modify(|run| run.jobs = jobs);
    }

    pub(crate) fn job(&self, update: &JobUpdate, message: &str) {
        self.state.send_modify(|run| {
            if let Some(job) = run.jobs.iter_mut().find(|job| job.unique_id == update.job) {
                change(job, &update.transition, message);
            }
        });
    }

    /// Says again what was said: the answer tells whether the attempt is still ours.
    pub(crate) fn repeat(&self) {
        self.state.send_modify(|_| {});
    }

    /// Reports how the attempt ended, and waits until the server has it.
    pub(crate) async fn finish(self, ending: Ending) -> Delivery {
        self.state.send_modify(|run| end(run, ending));
        self.task.await.unwrap_or(Delivery::Refused)
    }
}

/// What every report repeats of its order. Neither arguments nor environment: they are secrets.
fn blank(order: &PipelineRun) -> PipelineRun {
    PipelineRun {
        unique_id: order.unique_id.clone(),
        id: order.id,
        schedule_date: order.schedule_date,
        pipeline_id: order.pipeline_id,
        pipeline_name: order.pipeline_name.clone(),
        pipeline_type: order.pipeline_type.clone(),
        sha_sum: order.sha_sum.clone(),
        attempt: order.attempt,
        lease_token: order.lease_token.clone(),
        ..PipelineRun::default()
    }
}

fn waiting(job: &Job) -> Job {
    Job {
        unique_id: job.unique_id,
        title: job.title.clone(),
        description: job.description.clone(),
        depends_on: job.depends_on.clone(),
        status: "waiting for execution".into(),
        ..Job::default()
    }
}

fn change(job: &mut Job, transition: &JobTransition, message: &str) {
    let (status, fails) = match transition {
        JobTransition::Started => ("running", false),
        JobTransition::Succeeded | JobTransition::StoppedEarly { .. } => ("success", false),
        JobTransition::Failed { .. } | JobTransition::Cancelled => ("failed", true),
        JobTransition::Skipped => ("skipped", false),
    };
    match transition {
        JobTransition::Started => job.started_at = clock::millis(),
        JobTransition::Skipped => {}
        _ => job.finished_at = clock::millis(),
    }
    job.status = status.into();
    job.fail_pipeline = fails;
    message.clone_into(&mut job.message);
}

fn end(run: &mut PipelineRun, ending: Ending) {
    let (status, reason) = match ending {
        Ending::Succeeded => ("success", String::new()),
        Ending::StoppedEarly(reason) => {
            run.stopped_early = true;
            ("success", reason)
        }
        Ending::Built(result) => {
            run.build_result = Some(result);
            ("success", String::new())
        }
        Ending::Failed(reason) => ("failed", reason),
        Ending::GivenBack(reason) => ("reschedule", reason),
        Ending::Cancelled(reason) => ("cancelled", reason),
    };
    run.status = status.into();
    run.reason = shorten(reason);
    run.finish_date = clock::seconds();
    for job in run.jobs.iter_mut().filter(|job| job.status == "waiting for execution") {
        job.status = "skipped".into();
    }
}

/// Keeps the beginning, which says what failed, and the end, which says how.
fn shorten(reason: String) -> String {
    if reason.len() <= LONGEST_REASON {
        return reason;
    }
    let head = reason.floor_char_boundary(LONGEST_REASON / 4);
    let tail = reason.ceil_char_boundary(reason.len() - LONGEST_REASON / 4 * 3);
    format!("{} … {}", &reason[..head], &reason[tail..])
}

fn is_terminal(run: &PipelineRun) -> bool {
    !matches!(run.status.as_str(), "running" | "scheduled")
}

async fn deliver(
    primary: Primary,
    mut state: watch::Receiver<PipelineRun>,
    stopper: Stopper,
) -> Delivery {
    let mut pauses = Pauses::new();
    let mut bare = None;
    loop {
        let run = bare.clone().unwrap_or_else(|| state.borrow_and_update().clone());
        let terminal = is_terminal(&run);
        let lease = Lease::of(&run);
        let refusal = match timeout(PATIENCE, primary.update_work(run)).await {
            Ok(Ok(())) if terminal => return Delivery::Acknowledged,
            Ok(Ok(())) => None,
            Ok(Err(status)) if is_final(status.code()) => Some(status),
            failed => {
                tracing::debug!(?failed, "cannot report now");
                pauses.pause().await;
                continue;
            }
        };
        pauses.reset();
        if let Some(status) = refusal {
            let reason = status.message();
            tracing::warn!(?lease, code = ?status.code(), reason, "a report was refused");
            if terminal && status.code() == Code::InvalidArgument && bare.is_none() {
                bare = Some(bare_failure(&state.borrow(), reason));
                continue;
            }
            if terminal || status.code() != Code::InvalidArgument {
                stopper.stop(Why::Lost);
                return Delivery::Refused;
            }
        }
        if state.changed().await.is_err() {
            return Delivery::Refused;
        }
    }
}

/// An end that the server will take, where it does not take what the pipeline made of it: else the
/// run would be believed to go on.
fn bare_failure(run: &PipelineRun, refusal: &str) -> PipelineRun {
    PipelineRun {
        status: "failed".into(),
        reason: shorten(format!("the server does not take the report of the end: {refusal}")),
        jobs: vec![],
        build_result: None,
        ..run.clone()
    }
}

/// The same report will never be taken.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition | Code::NotFound | Code::PermissionDenied | Code::InvalidArgument
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_repeats_no_secrets() {
        let argument = proto::worker::Argument { value: "s3cret".into(), ..Default::default() };
        let job = waiting(&Job { unique_id: 1, args: vec![argument], ..Job::default() });
        assert!(job.args.is_empty());
    }

    #[test]
    fn a_long_reason_keeps_its_beginning_and_its_end() {
        let reason = shorten(format!("begin {} end", "ä".repeat(5000)));
        assert!(reason.starts_with("begin ") && reason.ends_with(" end"));
        assert!(reason.len() <= LONGEST_REASON + 10);
    }

    #[test]
    fn jobs_that_never_ran_are_skipped() {
        let mut run = PipelineRun { jobs: vec![waiting(&Job::default())], ..Default::default() };
        end(&mut run, Ending::Failed("x".into()));
        assert_eq!(run.jobs[0].status, "skipped");
        assert!(is_terminal(&run));
    }
}
