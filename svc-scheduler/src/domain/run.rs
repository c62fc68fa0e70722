//! One run: a fold of the events of its stream.

use std::sync::Arc;

use ids::{Attempt, JobId, LeaseToken, RunNumber, Timestamp, WorkerId};

use super::{
    Event, RunKind,
    limit::Gate,
    queue::Owner,
    retry::Cause,
    spec::{Build, RunSpec},
    worker::Requirement,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// 0: a build, or one that has none yet.
    pub number: RunNumber,
    pub spec: Arc<RunSpec>,
    pub state: RunState,
    /// Oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// In the order of the spec.
    pub jobs: Vec<Job>,
    pub start_reason: Arc<str>,
    /// Among whom workers are shared out.
    pub started_by: Owner,
    pub submitted_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Why it ended as it did.
    pub reason: String,
    pub stopped_early: bool,
    /// Why it must stop.
    pub cancel_requested: Option<String>,
    pub build: Option<Arc<Build>>,
    /// How many events it has; tells watchers whether it changed.
    pub revision: u32,
    /// When it may go on to a worker; `None`: now.
    pub(super) delayed_until: Option<Timestamp>,
    /// When its delay was or will be over.
    pub(super) held_back_until: Timestamp,
    pub(super) requirement: Arc<Requirement>,
    pub(super) gates: Arc<[Gate]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    Queued,
    Assigned,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunState {
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// A worker has it.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Assigned | Self::Running)
    }

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    pub attempt: Attempt,
    pub worker: WorkerId,
    pub token: LeaseToken,
    pub assigned_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Why it ended without ending the run; empty: it did not.
    pub requeue_reason: String,
    pub requeued: Option<Cause>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub state: JobState,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    Waiting,
    Running,
    Succeeded,
    Failed,
    /// Never begun, since the run ended before.
    Skipped,
}

impl JobState {
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped)
    }
}

impl Run {
    /// The attempt that a worker holds now.
    #[must_use]
    pub fn current(&self) -> Option<&AttemptRecord> {
        self.attempts.last().filter(|_| self.state.is_held())
    }

    /// What all runs have in common that wait for the same reason.
    #[must_use]
    pub fn waits_for(&self) -> (&Requirement, &[Gate], Option<Timestamp>) {
        (&self.requirement, &self.gates, self.delayed_until)
    }

    /// From when on it could be on a worker.
    pub(super) fn waits_since(&self) -> Timestamp {
        self.submitted_at.max(self.spec.not_before.unwrap_or_default())
    }

    /// `like`: an earlier run of the same pipeline. What the two have in common is kept once.
    pub(super) fn submitted(event: &Event, like: Option<&Self>) -> Option<Self> {
        let Event::RunSubmitted { number, spec, start_reason, started_by, at, .. } = event else {
            return None;
        };
        let same = like.filter(|like| like.spec == *spec);
        let spec = Arc::clone(same.map_or(spec, |same| &same.spec));
        let requirement = same.map(|same| Arc::clone(&same.requirement));
        let gates = same.map(|same| Arc::clone(&same.gates));
        Some(Self {
            number: *number,
            state: RunState::Queued,
            attempts: vec![],
            jobs: waiting(&spec),
            start_reason: shared(like.map(|like| &like.start_reason), start_reason),
            started_by: shared(like.map(|like| &like.started_by), started_by),
            submitted_at: *at,
            started_at: None,
            finished_at: None,
            reason: String::new(),
            stopped_early: false,
            cancel_requested: None,
            build: None,
            revision: 1,
            delayed_until: spec.not_before.filter(|due| due > at),
            held_back_until: spec.not_before.unwrap_or_default(),
            requirement: requirement.unwrap_or_else(|| Arc::new(Requirement::of(&spec))),
            gates: gates.unwrap_or_else(|| gates_of(&spec)),
            spec,
        })
    }

    pub(super) fn give_number(&mut self, number: RunNumber) {
        self.number = number;
        self.revision += 1;
    }

    pub(super) fn evolve(&mut self, event: &Event) {
        self.revision += 1;
        match event {
            Event::RunSubmitted { .. } | Event::RunNumbered { .. } | Event::LimitChanged { .. } => {
            }
            Event::RunDue { .. } => self.delayed_until = None,
            Event::RunAssigned { attempt, worker, token, at, .. } => {
                self.state = RunState::Assigned;
                // Most have one, and are kept for ever.
                self.attempts.reserve_exact(1);
                self.attempts.push(AttemptRecord {
                    attempt: *attempt,
                    worker: *worker,
                    token: *token,
                    assigned_at: *at,
                    started_at: None,
                    ended_at: None,
                    requeue_reason: String::new(),
                    requeued: None,
                });
            }
            Event::RunStarted { at, .. } => {
                self.state = RunState::Running;
                self.started_at = Some(*at);
                if let Some(attempt) = self.attempts.last_mut() {
                    attempt.started_at = Some(*at);
                }
            }
            Event::JobStarted { job, at, .. } => {
                if let Some(job) = self.job_mut(*job) {
                    (job.state, job.started_at) = (JobState::Running, Some(*at));
                }
            }
            Event::JobFinished { job, state, message, at, .. } => {
                if let Some(job) = self.job_mut(*job) {
                    (job.state, job.finished_at) = (*state, Some(*at));
                    job.message.clone_from(message);
                }
            }
            Event::RunRequeued { reason, cause, not_before, at, .. } => {
                self.state = RunState::Queued;
                self.delayed_until = not_before.filter(|due| due > at);
                self.held_back_until = not_before.unwrap_or_default();
                self.started_at = None;
                self.jobs = waiting(&self.spec);
                if let Some(attempt) = self.attempts.last_mut() {
                    attempt.ended_at = Some(*at);
                    attempt.requeue_reason.clone_from(reason);
                    attempt.requeued = Some(*cause);
                }
            }
            Event::RunCancelRequested { by, note, .. } => {
                self.cancel_requested = Some(cancel_reason(by, note));
            }
            Event::RunCancelled { reason, at, .. } => self.end(RunState::Cancelled, reason, *at),
            Event::RunFinished { outcome, reason, stopped_early, build, at, .. } => {
                self.end((*outcome).into(), reason, *at);
                self.stopped_early = *stopped_early;
                self.build.clone_from(build);
            }
        }
    }

    fn end(&mut self, state: RunState, reason: &str, at: Timestamp) {
        if let Some(attempt) = self.attempts.last_mut().filter(|_| self.state.is_held()) {
            attempt.ended_at = Some(at);
        }
        self.state = state;
        reason.clone_into(&mut self.reason);
        self.finished_at = Some(at);
        for job in &mut self.jobs {
            match job.state {
                JobState::Waiting => job.state = JobState::Skipped,
                // Nobody will ever say how it went.
                JobState::Running => {
                    job.state = JobState::Failed;
                    job.finished_at = Some(at);
                    "the run ended before this job did".clone_into(&mut job.message);
                }
                JobState::Succeeded | JobState::Failed | JobState::Skipped => {}
            }
        }
    }

    fn job_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }
}

/// The text, as it is known already if it is the same.
fn shared(known: Option<&Arc<str>>, text: &str) -> Arc<str> {
    known.filter(|known| known[..] == *text).map_or_else(|| text.into(), Arc::clone)
}

/// What it goes through: nothing, if it is a build.
fn gates_of(spec: &RunSpec) -> Arc<[Gate]> {
    let of_pipeline = (spec.kind == RunKind::Pipeline).then_some(Gate::Pipeline(spec.pipeline));
    of_pipeline.into_iter().chain(spec.policy.gates()).collect()
}

/// What is said of a job that is not done again.
const DONE: &str = "it succeeded in the run that this one repeats";

fn waiting(spec: &RunSpec) -> Vec<Job> {
    let job = |id| Job {
        id,
        state: JobState::Waiting,
        started_at: None,
        finished_at: None,
        message: String::new(),
    };
    let with_state = |id| {
        if spec.done_jobs.contains(&id) {
            Job { state: JobState::Succeeded, message: DONE.to_owned(), ..job(id) }
        } else {
            job(id)
        }
    };
    spec.jobs.iter().map(|spec| with_state(spec.id)).collect()
}

/// `cancelled by user:alice: wrong branch`
pub(super) fn cancel_reason(by: &str, note: &str) -> String {
    let by = if by.is_empty() { "somebody" } else { by };
    if note.is_empty() {
        format!("cancelled by {by}")
    } else {
        format!("cancelled by {by}: {note}")
    }
}
