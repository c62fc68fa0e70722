//! What the scheduler decides, and what it remembers.
//!
//! ```text
//!          submit           assign            report             report
//! (unknown) ────▶ Queued ─────────▶ Assigned ───────▶ Running ─────────▶ Succeeded, Failed
//!                  ▲  │               │   │              │  │                 ▲
//!                  │  │ cancel        │   └──────────────┤  └─ too many ──────┤
//!                  │  ▼               │                  │     attempts       │
//!                  │ Cancelled ◀──────┴─ after a cancel ─┤                    │
//!                  └──── lost, given back, not begun ────┴────────────────────┘
//! ```
//!
//! Invariants:
//! - A terminal state never changes.
//! - A run has at most one live attempt; attempts count up from 1; each is recorded before its worker
//!   can hear of it, and fenced by its own token.
//! - Nobody who leads gives a worker more runs than it has slots for, with those that it knows of. What a
//!   leader before it gave at the last moment it knows when it has read it.
//! - A queue is never scanned: runs that ask for the same wait in one line ([`queue`]).
//! - No more runs of a pipeline or group are on workers than its limit says ([`limit`]).
//! - No two runs of a pipeline have the same number, whoever submitted them ([`number`]).
//! - Events of different streams may be folded in any order: the state of a run, of a worker, and of
//!   every index depends only on the order within each stream.
//! - This module does no IO and reads no clock. Time and fresh tokens come inside the command, and so
//!   does which workers are attached.

mod assign;
mod explain;
mod limit;
mod number;
mod policy;
mod queue;
mod report;
mod retry;
mod room;
mod run;
mod selector;
mod spec;
mod state;
mod unstarted;
mod worker;

use std::sync::Arc;

use ids::{Attempt, JobId, LeaseToken, PipelineId, RunId, RunNumber, Timestamp, WorkerId};

use retry::{Loss, end_attempt};

pub use explain::{FullGate, Missing, Placement, explain, placement};
pub use limit::{Gate, GroupName, InvalidGroup, Limit, LimitError, MAX_LIMIT, WhenFull};
pub use policy::{
    MAX_GROUPS, MAX_PRIORITY, MAX_RETRIES, MAX_RETRY_DELAY, MAX_TIMEOUT, OnWorkerLost, Policy,
    PolicyError, Timeouts,
};
pub use report::{Lease, Report, Reported, ReportedJob};
pub use retry::Cause;
pub use run::{AttemptRecord, Job, JobState, Run, RunState};
pub use selector::{
    Condition, Finding, MAX_SELECTOR, MAX_TERMS, Number, Offer, Relation, Selector, SelectorError,
    SelectorErrorKind, Severity, Unmet, lint,
};
pub use spec::{
    ArgumentSpec, ArgumentValue, Build, JobSpec, MAX_JOBS, MAX_SPEC_BYTES, MAX_TAGS, RunKind,
    RunSpec, SpecError,
};
pub use state::{Filter, State};
pub use worker::{Connected, Presence, Requirement, Worker, WorkerChange, WorkerFact};

/// A wish. It can be refused.
#[derive(Clone, Debug)]
pub enum Command {
    SubmitRun {
        run: RunId,
        spec: Arc<RunSpec>,
        start_reason: String,
        started_by: String,
        at: Timestamp,
    },
    CancelRun {
        run: RunId,
        by: String,
        note: String,
        at: Timestamp,
    },
    /// `None`: there is no limit any more.
    SetLimit {
        gate: Gate,
        limit: Option<Limit>,
        by: String,
        note: String,
        at: Timestamp,
    },
    /// Ends what the limits do not allow.
    EnforceLimits {
        at: Timestamp,
    },
    /// Claims numbers for runs that were submitted and have none.
    NumberRuns {
        at: Timestamp,
    },
    /// Lets delayed runs go whose time has come.
    ReleaseDue {
        at: Timestamp,
    },
    /// Ends what has waited or run for too long, or was not begun.
    ExpireTimeouts {
        max_attempts: u32,
        at: Timestamp,
    },
    /// Gives queued runs to attached workers, at most one for each token.
    AssignRuns {
        connected: Arc<Connected>,
        tokens: Vec<LeaseToken>,
        at: Timestamp,
    },
    ReportRun {
        run: RunId,
        worker: WorkerId,
        /// `None` stands for whatever attempt the worker holds.
        lease: Option<Lease>,
        report: Report,
        max_attempts: u32,
        at: Timestamp,
    },
    /// The worker attached and holds just these: what it had begun and does not hold is lost.
    ReconcileWorker {
        worker: WorkerId,
        held: Vec<(RunId, Lease)>,
        max_attempts: u32,
        at: Timestamp,
    },
    /// Takes all runs away from a worker that is lost, deregistered, or overdue with its drain.
    ReleaseWorker {
        worker: WorkerId,
        max_attempts: u32,
        at: Timestamp,
    },
    /// Takes the run away from a worker that did not begin it in time.
    ExpireStart {
        run: RunId,
        attempt: Attempt,
        max_attempts: u32,
        at: Timestamp,
    },
}

/// A fact about a run, a limit, or the numbers of a pipeline's runs. It happened, is never refused, and is stored for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The run has this number, whether it is submitted yet or not.
    RunNumbered {
        pipeline: PipelineId,
        number: RunNumber,
        run: RunId,
        at: Timestamp,
    },
    RunSubmitted {
        run: RunId,
        /// 0 but in old versions.
        number: RunNumber,
        spec: Arc<RunSpec>,
        start_reason: String,
        started_by: String,
        at: Timestamp,
    },
    RunAssigned {
        run: RunId,
        attempt: Attempt,
        worker: WorkerId,
        token: LeaseToken,
        at: Timestamp,
    },
    RunStarted {
        run: RunId,
        attempt: Attempt,
        at: Timestamp,
    },
    /// A delayed run waits for nothing but a worker now.
    RunDue {
        run: RunId,
        at: Timestamp,
    },
    LimitChanged {
        gate: Gate,
        limit: Option<Limit>,
        by: String,
        note: String,
        at: Timestamp,
    },
    JobStarted {
        run: RunId,
        attempt: Attempt,
        job: JobId,
        at: Timestamp,
    },
    JobFinished {
        run: RunId,
        attempt: Attempt,
        job: JobId,
        state: JobState,
        message: String,
        at: Timestamp,
    },
    RunRequeued {
        run: RunId,
        attempt: Attempt,
        reason: String,
        cause: Cause,
        /// When it may be tried again; `None`: at once.
        not_before: Option<Timestamp>,
        at: Timestamp,
    },
    RunCancelRequested {
        run: RunId,
        by: String,
        note: String,
        at: Timestamp,
    },
    RunCancelled {
        run: RunId,
        reason: String,
        at: Timestamp,
    },
    RunFinished {
        run: RunId,
        attempt: Attempt,
        outcome: Outcome,
        reason: String,
        stopped_early: bool,
        build: Option<Arc<Build>>,
        at: Timestamp,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
}

impl From<Outcome> for RunState {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed => Self::Failed,
        }
    }
}

impl Event {
    #[must_use]
    pub const fn subject(&self) -> Subject<'_> {
        match self {
            Self::LimitChanged { gate, .. } => Subject::Gate(gate),
            Self::RunNumbered { pipeline, .. } => Subject::Numbers(*pipeline),
            Self::RunSubmitted { run, .. }
            | Self::RunAssigned { run, .. }
            | Self::RunStarted { run, .. }
            | Self::RunDue { run, .. }
            | Self::JobStarted { run, .. }
            | Self::JobFinished { run, .. }
            | Self::RunRequeued { run, .. }
            | Self::RunCancelRequested { run, .. }
            | Self::RunCancelled { run, .. }
            | Self::RunFinished { run, .. } => Subject::Run(*run),
        }
    }

    /// `None`: it is about a limit or numbers.
    #[must_use]
    pub const fn run(&self) -> Option<RunId> {
        match self.subject() {
            Subject::Run(run) => Some(run),
            Subject::Gate(_) | Subject::Numbers(_) => None,
        }
    }
}

/// What an event is about: each has a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    Run(RunId),
    Gate(&'a Gate),
    /// Of the pipeline's runs.
    Numbers(PipelineId),
}

/// What the state folds: its own events and what the registry says of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Run(Event),
    Worker(WorkerFact),
}

impl From<Event> for Fact {
    fn from(event: Event) -> Self {
        Self::Run(event)
    }
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error(transparent)]
    InvalidSpec(#[from] SpecError),
    #[error(
        "the run is pinned to worker `{pin}`, which is not registered; `gaia worker ls` shows which are"
    )]
    UnknownPin { pin: String },
    #[error(transparent)]
    InvalidLimit(#[from] LimitError),
    #[error("not_before: {} is more than {MAX_DELAY_DAYS} days ahead", .0.0)]
    TooLate(Timestamp),
    #[error("there is no run {0}")]
    UnknownRun(RunId),
    #[error("run {run} has no job {job}")]
    UnknownJob { run: RunId, job: JobId },
    /// `now` says who has the run.
    #[error("worker {worker} does not hold this lease of run {run}: {now}; stop working on it")]
    StaleLease { run: RunId, worker: WorkerId, now: String },
    #[error("run {run} has already {}; what it did is not changed any more", .state.word())]
    RunEnded { run: RunId, state: RunState },
}

impl Rejection {
    /// One word for each reason, to count by.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::InvalidSpec(SpecError::Policy(_)) => "invalid_policy",
            Self::InvalidSpec(_) => "invalid_spec",
            Self::UnknownPin { .. } => "unknown_pin",
            Self::InvalidLimit(_) => "invalid_limit",
            Self::TooLate(_) => "too_late",
            Self::UnknownRun(_) => "unknown_run",
            Self::UnknownJob { .. } => "unknown_job",
            Self::StaleLease { .. } => "stale_lease",
            Self::RunEnded { .. } => "run_ended",
        }
    }
}

/// The facts that follow from `command`, given everything known so far.
///
/// An empty answer means that the wish was already true, so retries are harmless.
pub fn decide(state: &State, command: Command) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::SubmitRun { run, spec, start_reason, started_by, at } => {
            submit_run(state, run, spec, start_reason, started_by, at)
        }
        Command::CancelRun { run, by, note, at } => cancel_run(state, run, by, note, at),
        Command::SetLimit { gate, limit, by, note, at } => {
            limit::set_limit(state, gate, limit, by, note, at)
        }
        Command::EnforceLimits { at } => Ok(limit::enforce_limits(state, at)),
        Command::ExpireTimeouts { max_attempts, at } => {
            Ok(retry::expire_timeouts(state, max_attempts, at))
        }
        Command::NumberRuns { at } => Ok(number::number_runs(state, at)),
        Command::ReleaseDue { at } => Ok(release_due(state, at)),
        Command::AssignRuns { connected, tokens, at } => {
            Ok(assign::assign_runs(state, &connected, tokens, at))
        }
        Command::ReportRun { run, worker, lease, report, max_attempts, at } => {
            let ask = report::Ask { run, worker, lease, max_attempts, at };
            report::report_run(state, ask, report)
        }
        Command::ReconcileWorker { worker, held, max_attempts, at } => {
            Ok(reconcile_worker(state, worker, &held, max_attempts, at))
        }
        Command::ReleaseWorker { worker, max_attempts, at } => {
            Ok(release_worker(state, worker, max_attempts, at))
        }
        Command::ExpireStart { run, attempt, max_attempts, at } => {
            Ok(expire_start(state, run, attempt, max_attempts, at))
        }
    }
}

/// How far ahead a start may be.
pub const MAX_DELAY_DAYS: u64 = 366;
/// Most runs that are released by one command.
const RELEASE_BATCH: usize = 256;

fn submit_run(
    state: &State,
    run: RunId,
    spec: Arc<RunSpec>,
    start_reason: String,
    started_by: String,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    if state.run(run).is_some() {
        return Ok(vec![]);
    }
    spec.check()?;
    let latest = Timestamp(at.0.saturating_add(MAX_DELAY_DAYS * 86_400_000));
    if let Some(late) = spec.not_before.filter(|due| *due > latest) {
        return Err(Rejection::TooLate(late));
    }
    let spec = spec::pinned_by_id(state, spec)?;
    let pipeline = spec.pipeline;
    // Somebody may have claimed it and got no further.
    let is_claimed = spec.kind == RunKind::Build || state.numbers.is_ahead(pipeline, run);
    let number = RunNumber(0);
    let submitted = Event::RunSubmitted { run, number, spec, start_reason, started_by, at };
    if is_claimed {
        return Ok(vec![submitted]);
    }
    let number = state.numbers.next(pipeline);
    Ok(vec![Event::RunNumbered { pipeline, number, run, at }, submitted])
}

fn cancel_run(
    state: &State,
    run: RunId,
    by: String,
    note: String,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let known = state.run(run).ok_or(Rejection::UnknownRun(run))?;
    Ok(match known.state {
        RunState::Queued => {
            vec![Event::RunCancelled { run, reason: run::cancel_reason(&by, &note), at }]
        }
        state if state.is_held() && known.cancel_requested.is_none() => {
            vec![Event::RunCancelRequested { run, by, note, at }]
        }
        _ => vec![],
    })
}

fn release_due(state: &State, at: Timestamp) -> Vec<Event> {
    let due = state.queue.delayed().take_while(|(due, _)| *due <= at);
    // A pause that begins later than now was measured by a clock that was put back since: who knows how
    // long it would take.
    let odd = state.queue.pauses().take_while(|(since, _)| *since > at);
    let odd =
        odd.filter(|(_, run)| state.run(*run).is_some_and(|run| run.delayed_until > Some(at)));
    let runs = due.chain(odd).map(|(_, run)| run).take(RELEASE_BATCH);
    runs.map(|run| Event::RunDue { run, at }).collect()
}

fn reconcile_worker(
    state: &State,
    worker: WorkerId,
    held: &[(RunId, Lease)],
    max_attempts: u32,
    at: Timestamp,
) -> Vec<Event> {
    let is_lost = |run: &RunId| {
        let Some(known) = state.run(*run) else { return false };
        let begun = known.state == RunState::Running || known.cancel_requested.is_some();
        let current = known.current().map(|attempt| (*run, Lease::of(attempt)));
        begun && !current.is_some_and(|lease| held.contains(&lease))
    };
    let reason = "the agent restarted and lost the run";
    let lost = state.held_by(worker).filter(is_lost);
    lost.filter_map(|run| end_attempt(state, run, reason, Loss::Lost, max_attempts, at)).collect()
}

fn release_worker(state: &State, id: WorkerId, max_attempts: u32, at: Timestamp) -> Vec<Event> {
    let Some(worker) = state.worker(id).filter(|worker| worker.is_gone()) else { return vec![] };
    let how = match worker {
        Worker { deregistered: true, .. } => "was deregistered",
        Worker { lost: true, .. } => "was lost",
        _ => "was drained, and the deadline came",
    };
    let reason = format!("worker {} {how}", worker.name);
    let leaves = |run: &RunId| state.run(*run).is_some_and(|run| run.leaves(worker));
    let held = state.held_by(id).filter(leaves);
    held.filter_map(|run| end_attempt(state, run, &reason, Loss::Lost, max_attempts, at)).collect()
}

fn expire_start(
    state: &State,
    run: RunId,
    attempt: Attempt,
    max_attempts: u32,
    at: Timestamp,
) -> Vec<Event> {
    let waiting = state.run(run).filter(|known| known.state == RunState::Assigned);
    let Some(current) = waiting.and_then(Run::current).filter(|now| now.attempt == attempt) else {
        return vec![];
    };
    let reason =
        format!("worker {} did not begin the run in time", state.worker_name(current.worker));
    end_attempt(state, run, &reason, Loss::Lost, max_attempts, at).into_iter().collect()
}

#[cfg(test)]
pub(crate) mod tests;
