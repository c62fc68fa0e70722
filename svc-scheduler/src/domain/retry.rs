//! What follows when an attempt ends without a success: another one, after a while, or the end.
//!
//! Whatever is a worker's or a network's fault (*infrastructure*) has a budget of its own; a run that
//! failed by itself, or took too long, has another one, which its pipeline chooses. Neither uses up the
//! other's.

use ids::{Attempt, RunId, Timestamp};

use super::{
    Event, Outcome,
    policy::OnWorkerLost,
    run::{Run, RunState},
    spec::RunKind,
    state::State,
    worker::Worker,
};

/// Why a run was queued again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Infrastructure,
    /// It failed by itself.
    Run,
}

/// Whether the run may have begun on the worker that does not go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The worker says that it does not do it.
    GivenBack,
    /// Nobody can tell.
    Lost,
}

/// Milliseconds.
const LONGEST_PAUSE: u64 = 60_000;
const LONGEST_RETRY_PAUSE: u64 = 3_600_000;

impl Run {
    /// Whether a worker that is gone loses this run.
    pub(super) fn leaves(&self, worker: &Worker) -> bool {
        worker.deregistered
            || worker.overdue
            || self.cancel_requested.is_some()
            || self.spec.policy.on_worker_lost != OnWorkerLost::Wait
    }

    /// 0: there was none.
    fn last_attempt(&self) -> Attempt {
        self.attempts.last().map_or(Attempt(0), |last| last.attempt)
    }

    fn requeued_for(&self, cause: Cause) -> u32 {
        self.attempts.iter().filter(|attempt| attempt.requeued == Some(cause)).count() as u32
    }
}

/// What follows when a worker does not go on with an attempt.
pub(super) fn end_attempt(
    state: &State,
    run: RunId,
    reason: &str,
    loss: Loss,
    max_attempts: u32,
    at: Timestamp,
) -> Option<Event> {
    let known = state.run(run)?;
    let attempt = known.current()?.attempt;
    if let Some(wish) = &known.cancel_requested {
        return Some(Event::RunCancelled { run, reason: format!("{wish}; {reason}"), at });
    }
    let policy = &known.spec.policy;
    if loss == Loss::Lost && policy.on_worker_lost == OnWorkerLost::Fail {
        let reason = format!("{reason}; the run is not to be tried again after that");
        return Some(failed(run, known, reason, at));
    }
    let earlier = known.requeued_for(Cause::Infrastructure);
    if earlier >= policy.infrastructure_retries.unwrap_or(max_attempts.saturating_sub(1)) {
        let reason = format!("given up after {attempt} attempts; the last one: {reason}");
        return Some(failed(run, known, reason, at));
    }
    // The first one at once: most often another worker is there.
    let pause = if earlier == 0 { 0 } else { doubled(1_000, earlier - 1, LONGEST_PAUSE) };
    Some(requeued(run, known, reason.to_owned(), Cause::Infrastructure, pause, at))
}

/// What follows when the run failed by itself: `None`, if it is not to be tried again.
pub(super) fn retry(id: RunId, run: &Run, reason: &str, at: Timestamp) -> Option<Event> {
    let (policy, earlier) = (&run.spec.policy, run.requeued_for(Cause::Run));
    if run.spec.kind != RunKind::Pipeline || earlier >= policy.retries {
        return None;
    }
    let reason = if reason.is_empty() { "the run failed" } else { reason };
    let reason = format!("{reason} (retry {} of {})", earlier + 1, policy.retries);
    let first = u64::from(policy.retry_delay) * 1_000;
    let pause = doubled(first, earlier, LONGEST_RETRY_PAUSE.max(first));
    Some(requeued(id, run, reason, Cause::Run, pause, at))
}

fn doubled(first: u64, times: u32, most: u64) -> u64 {
    first.saturating_mul(1_u64.checked_shl(times).unwrap_or(u64::MAX)).min(most)
}

fn requeued(
    id: RunId,
    run: &Run,
    reason: String,
    cause: Cause,
    pause: u64,
    at: Timestamp,
) -> Event {
    let attempt = run.last_attempt();
    let not_before = (pause > 0).then(|| Timestamp(at.0.saturating_add(pause)));
    Event::RunRequeued { run: id, attempt, reason, cause, not_before, at }
}

fn failed(run: RunId, known: &Run, reason: String, at: Timestamp) -> Event {
    let attempt = known.last_attempt();
    let outcome = Outcome::Failed;
    Event::RunFinished { run, attempt, outcome, reason, stopped_early: false, build: None, at }
}

/// Most runs whose time is up that one command ends.
const BATCH: usize = 256;

impl Run {
    /// When its time is up, in the state that it is in.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let timeouts = self.spec.policy.timeouts;
        let (since, seconds) = match self.state {
            RunState::Queued => {
                let since = self.attempts.last().and_then(|last| last.ended_at);
                let since = since.unwrap_or(self.submitted_at);
                (since.max(self.held_back_until), timeouts.queue)
            }
            RunState::Assigned => (self.attempts.last()?.assigned_at, timeouts.start),
            RunState::Running => (self.attempts.last()?.started_at?, timeouts.run),
            _ => return None,
        };
        (seconds > 0).then(|| Timestamp(since.0.saturating_add(u64::from(seconds) * 1_000)))
    }
}

/// Ends what has waited or run for too long, or was not begun.
pub(super) fn expire_timeouts(state: &State, max_attempts: u32, at: Timestamp) -> Vec<Event> {
    let due = state.deadlines().take_while(|(deadline, _)| *deadline <= at).take(BATCH);
    due.filter_map(|(_, id)| expire(state, id, max_attempts, at)).collect()
}

fn expire(state: &State, id: RunId, max_attempts: u32, at: Timestamp) -> Option<Event> {
    let run = state.run(id)?;
    let timeouts = run.spec.policy.timeouts;
    if run.state == RunState::Queued {
        let reason = format!("timed out: no worker took the run in {} s", timeouts.queue);
        return Some(failed(id, run, reason, at));
    }
    if run.state == RunState::Assigned {
        let worker = state.worker_name(run.current()?.worker);
        let seconds = timeouts.start;
        let reason = format!("timed out: worker {worker} did not begin the run in {seconds} s");
        return end_attempt(state, id, &reason, Loss::Lost, max_attempts, at);
    }
    let reason = format!("timed out: it ran for more than {} s", timeouts.run);
    if let Some(wish) = &run.cancel_requested {
        return Some(Event::RunCancelled { run: id, reason: format!("{wish}; {reason}"), at });
    }
    retry(id, run, &reason, at).or_else(|| Some(failed(id, run, reason, at)))
}
