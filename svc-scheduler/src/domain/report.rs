//! What follows from a worker's word about a run.
//!
//! A report says how things stand, not what changed, so it may be repeated, come late or skip steps:
//! the difference to what is known becomes events, and nothing ever goes backwards.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ids::{Attempt, JobId, LeaseToken, RunId, Timestamp, WorkerId};

use super::{
    Event, Outcome, Rejection,
    retry::{Cause, Loss, end_attempt, retry},
    run::{AttemptRecord, JobState, Run, RunState},
    spec::{Build, RunKind},
    state::State,
};

/// Proves that its bearer was given this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub attempt: Attempt,
    pub token: LeaseToken,
}

impl Lease {
    #[must_use]
    pub const fn of(record: &AttemptRecord) -> Self {
        Self { attempt: record.attempt, token: record.token }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub state: Reported,
    pub jobs: Vec<ReportedJob>,
    pub reason: String,
    pub stopped_early: bool,
    pub build: Option<Build>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It has the run and has not begun it.
    Received,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    GivenBack,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedJob {
    pub id: JobId,
    pub state: JobState,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub message: String,
}

/// Who reports about what, and when.
pub(super) struct Ask {
    pub(super) run: RunId,
    pub(super) worker: WorkerId,
    pub(super) lease: Option<Lease>,
    pub(super) max_attempts: u32,
    pub(super) at: Timestamp,
}

impl State {
    /// The live attempt of the run, if the worker holds it by this lease. `None` stands for whatever
    /// attempt it holds.
    pub fn check_lease(
        &self,
        run: RunId,
        worker: WorkerId,
        lease: Option<Lease>,
    ) -> Result<&AttemptRecord, Rejection> {
        let known = self.run(run).ok_or(Rejection::UnknownRun(run))?;
        let current = known.current().filter(|current| is_held(current, worker, lease));
        current.ok_or_else(|| Rejection::StaleLease { run, worker, now: self.standing(known) })
    }

    /// `the current attempt is 2, on worker b`
    fn standing(&self, run: &Run) -> String {
        match run.current() {
            Some(now) => {
                let worker = self.worker_name(now.worker);
                format!("the current attempt is {}, on worker {worker}", now.attempt)
            }
            None => {
                format!("the run is {} after {} attempts", run.state.word(), run.attempts.len())
            }
        }
    }
}

fn is_held(attempt: &AttemptRecord, worker: WorkerId, lease: Option<Lease>) -> bool {
    attempt.worker == worker && lease.is_none_or(|lease| lease == Lease::of(attempt))
}

pub(super) fn report_run(state: &State, ask: Ask, report: Report) -> Result<Vec<Event>, Rejection> {
    let current = match state.check_lease(ask.run, ask.worker, ask.lease) {
        Ok(current) => current,
        Err(refusal) => return answer_late(state, &ask, &report, refusal),
    };
    let run = state.run(ask.run).ok_or(Rejection::UnknownRun(ask.run))?;
    let mut events = vec![];
    if !matches!(report.state, Reported::Received | Reported::GivenBack) {
        if run.state == RunState::Assigned {
            events.push(Event::RunStarted { run: ask.run, attempt: current.attempt, at: ask.at });
        }
        Progress::of(run, current, &ask).report(&report.jobs, &mut events)?;
    }
    match report.state {
        Reported::Received | Reported::Running => {}
        Reported::GivenBack => {
            let worker = state.worker_name(ask.worker);
            let reason = with(&format!("worker {worker} gave it back"), &report.reason);
            let (loss, most) = (Loss::GivenBack, ask.max_attempts);
            events.extend(end_attempt(state, ask.run, &reason, loss, most, ask.at));
        }
        Reported::Succeeded | Reported::Failed | Reported::Cancelled => {
            if let Some(wish) = run.cancel_requested.clone() {
                events.push(Event::RunCancelled { run: ask.run, reason: wish, at: ask.at });
            } else if report.state == Reported::Cancelled {
                let reason = with("stopped by its worker", &report.reason);
                events.push(Event::RunCancelled { run: ask.run, reason, at: ask.at });
            } else {
                finish(run, current.attempt, &ask, report, &mut events);
            }
        }
    }
    Ok(events)
}

/// `what: reason`, or only `what`.
fn with(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
}

/// A report whose attempt is over: harmless if it only repeats what ended it.
fn answer_late(
    state: &State,
    ask: &Ask,
    report: &Report,
    refusal: Rejection,
) -> Result<Vec<Event>, Rejection> {
    let Some(run) = state.run(ask.run) else { return Err(refusal) };
    let mut attempts = run.attempts.iter().rev();
    let Some(attempt) = attempts.find(|attempt| is_held(attempt, ask.worker, ask.lease)) else {
        return Err(refusal);
    };
    if !attempt.requeue_reason.is_empty() {
        let repeats = match report.state {
            Reported::GivenBack => true,
            Reported::Failed => attempt.requeued == Some(Cause::Run),
            _ => false,
        };
        return if repeats { Ok(vec![]) } else { Err(refusal) };
    }
    let repeats = match run.state {
        RunState::Succeeded => report.state == Reported::Succeeded,
        RunState::Failed => match report.state {
            Reported::Failed | Reported::GivenBack => true,
            Reported::Succeeded => judge_build(run, report.build.as_ref()).is_err(),
            _ => false,
        },
        RunState::Cancelled => !matches!(report.state, Reported::Received | Reported::Running),
        RunState::Queued | RunState::Assigned | RunState::Running => return Err(refusal),
    };
    if repeats { Ok(vec![]) } else { Err(Rejection::RunEnded { run: ask.run, state: run.state }) }
}

fn finish(run: &Run, attempt: Attempt, ask: &Ask, report: Report, events: &mut Vec<Event>) {
    let (id, at) = (ask.run, ask.at);
    let Report { state, mut reason, stopped_early, build, .. } = report;
    let mut outcome = Outcome::Failed;
    if state == Reported::Succeeded {
        match judge_build(run, build.as_ref()) {
            Ok(()) => outcome = Outcome::Succeeded,
            Err(why) => reason = why,
        }
    }
    if outcome == Outcome::Failed
        && let Some(again) = retry(id, run, &reason, at)
    {
        events.push(again);
        return;
    }
    if outcome == Outcome::Succeeded && !stopped_early {
        finish_jobs(run, attempt, ask, events);
    }
    let is_build = run.spec.kind == RunKind::Build && outcome == Outcome::Succeeded;
    let build = build.filter(|_| is_build).map(Arc::new);
    events.push(Event::RunFinished { run: id, attempt, outcome, reason, stopped_early, build, at });
}

/// Whether a run that is said to have succeeded may count as such.
fn judge_build(run: &Run, build: Option<&Build>) -> Result<(), String> {
    if run.spec.kind == RunKind::Pipeline {
        return Ok(());
    }
    let build = build.ok_or("the build succeeded, but its worker sent no result")?;
    build.check().map_err(|error| format!("the pipeline that was built is not valid: {error}"))
}

/// A run that succeeded as a whole has no unfinished jobs, even if its worker did not name them all.
fn finish_jobs(run: &Run, attempt: Attempt, ask: &Ask, events: &mut Vec<Event>) {
    let said: HashSet<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::JobFinished { job, .. } => Some(*job),
            _ => None,
        })
        .collect();
    let unsaid = run.jobs.iter().filter(|job| !job.state.is_finished() && !said.contains(&job.id));
    events.extend(unsaid.map(|job| Event::JobFinished {
        run: ask.run,
        attempt,
        job: job.id,
        state: JobState::Succeeded,
        message: String::new(),
        at: ask.at,
    }));
}

/// The jobs of an attempt, and how far they are.
struct Progress<'a> {
    ask: &'a Ask,
    current: &'a AttemptRecord,
    jobs: HashMap<JobId, JobState>,
}

impl<'a> Progress<'a> {
    fn of(run: &Run, current: &'a AttemptRecord, ask: &'a Ask) -> Self {
        Self { ask, current, jobs: run.jobs.iter().map(|job| (job.id, job.state)).collect() }
    }

    fn report(&mut self, jobs: &[ReportedJob], events: &mut Vec<Event>) -> Result<(), Rejection> {
        for job in jobs {
            self.report_one(job, events)?;
        }
        Ok(())
    }

    fn report_one(&mut self, job: &ReportedJob, events: &mut Vec<Event>) -> Result<(), Rejection> {
        let (run, attempt) = (self.ask.run, self.current.attempt);
        let unknown = Rejection::UnknownJob { run, job: job.id };
        let (started, finished) = (self.within(job.started_at), self.within(job.finished_at));
        let known = self.jobs.get_mut(&job.id).ok_or(unknown)?;
        let ran = matches!(job.state, JobState::Running | JobState::Succeeded | JobState::Failed);
        if *known == JobState::Waiting && ran {
            *known = JobState::Running;
            events.push(Event::JobStarted { run, attempt, job: job.id, at: started });
        }
        if !known.is_finished() && job.state.is_finished() {
            *known = job.state;
            let (state, message) = (job.state, job.message.clone());
            let at = finished;
            events.push(Event::JobFinished { run, attempt, job: job.id, state, message, at });
        }
        Ok(())
    }

    /// A worker's clock may be wrong; its times are believed as far as they can be true.
    fn within(&self, said: Option<Timestamp>) -> Timestamp {
        let latest = self.ask.at.max(self.current.assigned_at);
        said.map_or(latest, |said| said.clamp(self.current.assigned_at, latest))
    }
}
