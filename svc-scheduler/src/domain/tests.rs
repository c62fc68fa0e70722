//! Examples of what is decided, one sentence each.

use eventlog::Fold;
use uuid::Uuid;

use super::*;

mod graph;
pub(crate) mod judge;
mod model;
mod numbering;
mod placing;
mod properties;
mod queueing;
mod retrying;
mod selectors;

const MAX: u32 = 5;

pub(crate) fn run(n: u128) -> RunId {
    RunId::from_uuid(Uuid::from_u128(n))
}

fn worker(n: u128) -> WorkerId {
    WorkerId::from_uuid(Uuid::from_u128(n))
}

fn token(n: u128) -> LeaseToken {
    LeaseToken::from_uuid(Uuid::from_u128(n))
}

fn at(millis: u64) -> Timestamp {
    Timestamp(millis)
}

fn job(id: u32, depends_on: &[u32]) -> JobSpec {
    JobSpec {
        id: JobId(id),
        title: format!("job {id}"),
        description: String::new(),
        depends_on: depends_on.iter().copied().map(JobId).collect(),
        arguments: vec![],
    }
}

/// Two jobs, one after the other.
fn spec() -> RunSpec {
    RunSpec {
        kind: RunKind::Pipeline,
        pipeline: ids::PipelineId(1),
        pipeline_name: "hello".into(),
        pipeline_type: "golang".into(),
        tags: vec![],
        pinned_worker: String::new(),
        artifact: Some(ids::Digest::of(b"binary")),
        artifact_size: 6,
        jobs: vec![job(1, &[]), job(2, &[1])],
        arguments: vec![],
        source_url: String::new(),
        source_branch: String::new(),
        selector: Selector::default(),
        policy: Policy::default(),
        not_before: None,
        rerun_of: None,
        done_jobs: vec![],
    }
}

fn build_spec() -> RunSpec {
    RunSpec { kind: RunKind::Build, artifact: None, jobs: vec![], ..spec() }
}

fn build() -> Build {
    let digest = ids::Digest::of(b"built");
    Build { digest, size: 5, commit: "abc".into(), jobs: vec![job(1, &[])] }
}

fn submit(n: u128, spec: RunSpec) -> Command {
    let (spec, start_reason, started_by) = (spec.into(), "manual".into(), "user:alice".into());
    Command::SubmitRun { run: run(n), spec, start_reason, started_by, at: at(n as u64) }
}

fn submitted_with(n: u128, number: u64, spec: RunSpec) -> Event {
    Event::RunSubmitted {
        run: run(n),
        number: RunNumber(number),
        spec: Arc::new(spec),
        start_reason: "manual".into(),
        started_by: "user:alice".into(),
        at: at(n as u64),
    }
}

pub(crate) fn submitted(n: u128) -> Event {
    submitted_with(n, n as u64, spec())
}

/// Its token is the attempt's number.
pub(crate) fn assigned(n: u128, attempt: u32, on: u128) -> Event {
    Event::RunAssigned {
        run: run(n),
        attempt: Attempt(attempt),
        worker: worker(on),
        token: token(attempt.into()),
        at: at(100),
    }
}

fn started(n: u128, attempt: u32) -> Event {
    Event::RunStarted { run: run(n), attempt: Attempt(attempt), at: at(200) }
}

pub(crate) fn requeued(n: u128, attempt: u32, reason: &str) -> Event {
    Event::RunRequeued {
        run: run(n),
        attempt: Attempt(attempt),
        reason: reason.into(),
        cause: Cause::Infrastructure,
        not_before: None,
        at: at(300),
    }
}

fn cancel_requested(n: u128) -> Event {
    Event::RunCancelRequested {
        run: run(n),
        by: "user:bob".into(),
        note: "oops".into(),
        at: at(250),
    }
}

fn cancelled(n: u128, reason: &str) -> Event {
    Event::RunCancelled { run: run(n), reason: reason.into(), at: at(300) }
}

fn finished(n: u128, attempt: u32, outcome: Outcome, reason: &str) -> Event {
    Event::RunFinished {
        run: run(n),
        attempt: Attempt(attempt),
        outcome,
        reason: reason.into(),
        stopped_early: false,
        build: None,
        at: at(300),
    }
}

fn job_started(n: u128, attempt: u32, id: u32, millis: u64) -> Event {
    let (attempt, at) = (Attempt(attempt), at(millis));
    Event::JobStarted { run: run(n), attempt, job: JobId(id), at }
}

fn job_finished(n: u128, attempt: u32, id: u32, state: JobState, millis: u64) -> Event {
    Event::JobFinished {
        run: run(n),
        attempt: Attempt(attempt),
        job: JobId(id),
        state,
        message: String::new(),
        at: at(millis),
    }
}

fn report(state: Reported) -> Report {
    Report { state, jobs: vec![], reason: String::new(), stopped_early: false, build: None }
}

fn reported_job(id: u32, state: JobState) -> ReportedJob {
    ReportedJob {
        id: JobId(id),
        state,
        started_at: None,
        finished_at: None,
        message: String::new(),
    }
}

/// By worker 1, with the lease of the attempt.
fn reports(n: u128, attempt: u32, report: Report) -> Command {
    Command::ReportRun {
        run: run(n),
        worker: worker(1),
        lease: Some(Lease { attempt: Attempt(attempt), token: token(attempt.into()) }),
        report,
        max_attempts: MAX,
        at: at(300),
    }
}

fn fact(n: u128, change: WorkerChange) -> Fact {
    Fact::Worker(WorkerFact { worker: worker(n), change })
}

/// A worker named `w<n>`.
fn joined(n: u128, slots: u32, tags: &[&str]) -> Vec<Fact> {
    let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
    let (name, primary) = (format!("w{n}"), false);
    vec![
        fact(n, WorkerChange::Registered { name, tags: tags.clone(), primary }),
        fact(n, WorkerChange::Reported { slots, tags }),
    ]
}

pub(crate) fn own<const N: usize>(events: [Event; N]) -> Vec<Fact> {
    events.into_iter().map(Fact::Run).collect()
}

/// Given what happened, when this is asked for, then this follows.
#[track_caller]
fn check(
    given: impl IntoIterator<Item = Vec<Fact>>,
    when: Command,
    then: Result<Vec<Event>, Rejection>,
) {
    let given: Vec<_> = given.into_iter().flatten().collect();
    assert_eq!(decide(&State::replay(&given), when), then);
}

#[test]
fn a_retried_submission_changes_nothing() {
    check([own([submitted(1)])], submit(1, spec()), Ok(vec![]));
}

#[test]
fn the_first_sign_of_a_run_starts_it() {
    check(
        [own([submitted(1), assigned(1, 1, 1)])],
        reports(1, 1, report(Reported::Running)),
        Ok(vec![Event::RunStarted { run: run(1), attempt: Attempt(1), at: at(300) }]),
    );
    let running = own([submitted(1), assigned(1, 1, 1), started(1, 1)]);
    check([running], reports(1, 1, report(Reported::Running)), Ok(vec![]));
    let given = own([submitted(1), assigned(1, 1, 1)]);
    check([given], reports(1, 1, report(Reported::Received)), Ok(vec![]));
}

#[test]
fn jobs_are_followed_by_difference_and_never_go_back() {
    let given = || own([submitted(1), assigned(1, 1, 1), started(1, 1), job_started(1, 1, 1, 210)]);
    let mut said = report(Reported::Running);
    said.jobs = vec![reported_job(1, JobState::Succeeded), reported_job(2, JobState::Running)];
    check(
        [given()],
        reports(1, 1, said.clone()),
        Ok(vec![job_finished(1, 1, 1, JobState::Succeeded, 300), job_started(1, 1, 2, 300)]),
    );
    let known = own([job_finished(1, 1, 1, JobState::Succeeded, 220), job_started(1, 1, 2, 230)]);
    check([given(), known.clone()], reports(1, 1, said.clone()), Ok(vec![]));
    said.jobs = vec![reported_job(1, JobState::Running), reported_job(2, JobState::Waiting)];
    check([given(), known], reports(1, 1, said), Ok(vec![]));
}

#[test]
fn a_workers_clock_is_believed_only_within_reason() {
    let mut said = report(Reported::Running);
    said.jobs = vec![reported_job(1, JobState::Running), reported_job(2, JobState::Running)];
    said.jobs[0].started_at = Some(at(7));
    said.jobs[1].started_at = Some(at(240));
    check(
        [own([submitted(1), assigned(1, 1, 1), started(1, 1)])],
        reports(1, 1, said),
        Ok(vec![job_started(1, 1, 1, 100), job_started(1, 1, 2, 240)]),
    );
}

#[test]
fn a_job_that_the_run_does_not_have_is_refused_by_its_id() {
    let mut said = report(Reported::Running);
    said.jobs = vec![reported_job(9, JobState::Running)];
    check(
        [own([submitted(1), assigned(1, 1, 1)])],
        reports(1, 1, said),
        Err(Rejection::UnknownJob { run: run(1), job: JobId(9) }),
    );
}

#[test]
fn a_success_finishes_the_jobs_that_were_not_named() {
    check(
        [own([submitted(1), assigned(1, 1, 1), started(1, 1)])],
        reports(1, 1, report(Reported::Succeeded)),
        Ok(vec![
            job_finished(1, 1, 1, JobState::Succeeded, 300),
            job_finished(1, 1, 2, JobState::Succeeded, 300),
            finished(1, 1, Outcome::Succeeded, ""),
        ]),
    );
}

#[test]
fn what_was_never_begun_is_skipped_and_what_never_ended_failed() {
    let facts = own([
        submitted(1),
        assigned(1, 1, 1),
        started(1, 1),
        job_started(1, 1, 1, 210),
        finished(1, 1, Outcome::Failed, "the pipeline died"),
    ]);
    let state = State::replay(&facts);
    let jobs: Vec<_> = state.run(run(1)).unwrap().jobs.iter().map(|job| job.state).collect();
    assert_eq!(jobs, [JobState::Failed, JobState::Skipped]);
}

#[test]
fn another_attempt_begins_with_the_first_job() {
    let done = job_finished(1, 1, 1, JobState::Succeeded, 220);
    let facts = own([submitted(1), assigned(1, 1, 1), started(1, 1), done, requeued(1, 1, "lost")]);
    let state = State::replay(&facts);
    let again = state.run(run(1)).unwrap();
    assert_eq!(again.started_at, None);
    assert!(
        again.jobs.iter().all(|job| job.state == JobState::Waiting && job.finished_at.is_none())
    );
}

#[test]
fn a_worker_without_the_current_lease_cannot_finish_the_run() {
    let moved = || {
        let lost = requeued(1, 1, "worker w1 was lost");
        [joined(2, 1, &[]), own([submitted(1), assigned(1, 1, 1), lost, assigned(1, 2, 2)])]
    };
    let refused =
        |now: &str| Err(Rejection::StaleLease { run: run(1), worker: worker(1), now: now.into() });
    let now = "the current attempt is 2, on worker w2";
    check(moved(), reports(1, 1, report(Reported::Succeeded)), refused(now));
    // The other's token does not help: the lease is the worker's own.
    check(moved(), reports(1, 2, report(Reported::Succeeded)), refused(now));
    let wrong = Command::ReportRun {
        run: run(1),
        worker: worker(1),
        lease: Some(Lease { attempt: Attempt(1), token: token(99) }),
        report: report(Reported::Succeeded),
        max_attempts: MAX,
        at: at(300),
    };
    let now = "the current attempt is 1, on worker w1";
    check([joined(1, 1, &[]), own([submitted(1), assigned(1, 1, 1)])], wrong, refused(now));
}

#[test]
fn a_terminal_report_may_be_repeated_but_not_changed() {
    let ended = || {
        let end = finished(1, 1, Outcome::Failed, "exit 1");
        [own([submitted(1), assigned(1, 1, 1), started(1, 1), end])]
    };
    check(ended(), reports(1, 1, report(Reported::Failed)), Ok(vec![]));
    let refused = Err(Rejection::RunEnded { run: run(1), state: RunState::Failed });
    check(ended(), reports(1, 1, report(Reported::Succeeded)), refused.clone());
    check(ended(), reports(1, 1, report(Reported::Running)), refused);
}

#[test]
fn a_build_that_succeeded_must_bring_what_it_built() {
    let given = || [own([submitted_with(1, 0, build_spec()), assigned(1, 1, 1), started(1, 1)])];
    let why = "the build succeeded, but its worker sent no result";
    check(
        given(),
        reports(1, 1, report(Reported::Succeeded)),
        Ok(vec![finished(1, 1, Outcome::Failed, why)]),
    );
    let mut bad = report(Reported::Succeeded);
    bad.build = Some(Build { jobs: vec![job(1, &[1])], ..build() });
    let why = "the pipeline that was built is not valid: jobs wait for each other: job 1 → job 1";
    check(given(), reports(1, 1, bad), Ok(vec![finished(1, 1, Outcome::Failed, why)]));
    let mut good = report(Reported::Succeeded);
    good.build = Some(build());
    let end = Event::RunFinished {
        run: run(1),
        attempt: Attempt(1),
        outcome: Outcome::Succeeded,
        reason: String::new(),
        stopped_early: false,
        build: Some(Arc::new(build())),
        at: at(300),
    };
    check(given(), reports(1, 1, good), Ok(vec![end]));
}

#[test]
fn a_run_that_is_given_back_waits_for_another_attempt() {
    let mut said = report(Reported::GivenBack);
    said.reason = "no space left".into();
    let given = || [joined(1, 1, &[]), own([submitted(1), assigned(1, 1, 1)])];
    let back = requeued(1, 1, "worker w1 gave it back: no space left");
    check(given(), reports(1, 1, said.clone()), Ok(vec![back.clone()]));
    check(given().into_iter().chain([own([back])]), reports(1, 1, said), Ok(vec![]));
}

#[test]
fn after_too_many_attempts_a_run_has_failed() {
    let mut given = vec![joined(1, 1, &[]), own([submitted(1)])];
    for attempt in 1..MAX {
        given.push(own([assigned(1, attempt, 1), requeued(1, attempt, "")]));
    }
    given.push(own([assigned(1, MAX, 1)]));
    let reason = "given up after 5 attempts; the last one: worker w1 gave it back";
    check(
        given,
        reports(1, MAX, report(Reported::GivenBack)),
        Ok(vec![finished(1, MAX, Outcome::Failed, reason)]),
    );
}

fn cancel(n: u128) -> Command {
    Command::CancelRun { run: run(n), by: "user:bob".into(), note: "oops".into(), at: at(250) }
}

#[test]
fn a_cancel_ends_a_queued_run_and_asks_the_worker_of_a_held_one() {
    let reason = "cancelled by user:bob: oops".to_owned();
    let over = Event::RunCancelled { run: run(1), reason, at: at(250) };
    check([own([submitted(1)])], cancel(1), Ok(vec![over]));
    let held = || own([submitted(1), assigned(1, 1, 1)]);
    check([held()], cancel(1), Ok(vec![cancel_requested(1)]));
    check([held(), own([cancel_requested(1)])], cancel(1), Ok(vec![]));
    let ended = own([started(1, 1), finished(1, 1, Outcome::Succeeded, "")]);
    check([held(), ended], cancel(1), Ok(vec![]));
    check([], cancel(1), Err(Rejection::UnknownRun(run(1))));
}

#[test]
fn whatever_a_worker_says_after_a_cancel_the_run_is_cancelled() {
    let given = || {
        let asked = own([submitted(1), assigned(1, 1, 1), started(1, 1), cancel_requested(1)]);
        [joined(1, 1, &[]), asked]
    };
    let over = cancelled(1, "cancelled by user:bob: oops");
    for said in [Reported::Succeeded, Reported::Failed, Reported::Cancelled] {
        check(given(), reports(1, 1, report(said)), Ok(vec![over.clone()]));
        let ended = given().into_iter().chain([own([over.clone()])]);
        check(ended, reports(1, 1, report(said)), Ok(vec![]));
    }
    let back = cancelled(1, "cancelled by user:bob: oops; worker w1 gave it back");
    check(given(), reports(1, 1, report(Reported::GivenBack)), Ok(vec![back]));
}

fn release(n: u128) -> Command {
    Command::ReleaseWorker { worker: worker(n), max_attempts: MAX, at: at(300) }
}

#[test]
fn the_runs_of_a_lost_worker_are_queued_again_or_stay_cancelled() {
    let given = || {
        let held = own([submitted(1), assigned(1, 1, 1), submitted(2), assigned(2, 1, 1)]);
        [joined(1, 2, &[]), held, own([cancel_requested(2)])]
    };
    check(given(), release(1), Ok(vec![]));
    let lost = given().into_iter().chain([vec![fact(1, WorkerChange::Lost)]]);
    let reason = "worker w1 was lost";
    check(
        lost,
        release(1),
        Ok(vec![
            requeued(1, 1, reason),
            cancelled(2, &format!("cancelled by user:bob: oops; {reason}")),
        ]),
    );
    let out = given().into_iter().chain([vec![fact(1, WorkerChange::Deregistered)]]);
    let events = decide(&State::replay(&out.flatten().collect::<Vec<_>>()), release(1)).unwrap();
    assert_eq!(events[0], requeued(1, 1, "worker w1 was deregistered"));
}

#[test]
fn a_drain_takes_the_runs_at_its_deadline_and_not_before() {
    let held = || [joined(1, 1, &[]), own([submitted(1), assigned(1, 1, 1), started(1, 1)])];
    let after = |changes: &[WorkerChange]| {
        let changes = changes.iter().map(|change| fact(1, change.clone())).collect();
        held().into_iter().chain([changes])
    };
    let (started, expired) = (WorkerChange::DrainStarted, WorkerChange::DrainExpired);
    check(after(std::slice::from_ref(&started)), release(1), Ok(vec![]));
    let over = [started.clone(), expired.clone()];
    let reason = "worker w1 was drained, and the deadline came";
    check(after(&over), release(1), Ok(vec![requeued(1, 1, reason)]));
    let resumed = [started, expired, WorkerChange::Resumed];
    check(after(&resumed), release(1), Ok(vec![]));
}

#[test]
fn a_worker_that_is_gone_and_holds_runs_is_outstanding_whatever_is_known_first() {
    let (held, lost) = (own([submitted(1), assigned(1, 1, 1)]), vec![fact(1, WorkerChange::Lost)]);
    for order in [[held.clone(), lost.clone()], [lost, held]] {
        let state = State::replay(&order.concat());
        assert_eq!(state.gone_holding().collect::<Vec<_>>(), [worker(1)]);
    }
}

#[test]
fn what_an_agent_had_begun_and_does_not_hold_is_lost() {
    let begun = || own([submitted(1), assigned(1, 1, 1), started(1, 1)]);
    let reconcile = |held: &[(u128, u32)]| Command::ReconcileWorker {
        worker: worker(1),
        held: held
            .iter()
            .map(|&(n, attempt)| {
                (run(n), Lease { attempt: Attempt(attempt), token: token(attempt.into()) })
            })
            .collect(),
        max_attempts: MAX,
        at: at(300),
    };
    let lost = requeued(1, 1, "the agent restarted and lost the run");
    check([begun()], reconcile(&[]), Ok(vec![lost.clone()]));
    check([begun()], reconcile(&[(1, 2)]), Ok(vec![lost]));
    check([begun()], reconcile(&[(1, 1)]), Ok(vec![]));
    // What it had not begun is sent again instead, unless somebody wants it to stop.
    let given = || own([submitted(1), assigned(1, 1, 1)]);
    check([given()], reconcile(&[]), Ok(vec![]));
    let over = "cancelled by user:bob: oops; the agent restarted and lost the run";
    check([given(), own([cancel_requested(1)])], reconcile(&[]), Ok(vec![cancelled(1, over)]));
}

#[test]
fn a_run_that_its_worker_does_not_begin_is_taken_back() {
    let expire = |attempt| Command::ExpireStart {
        run: run(1),
        attempt: Attempt(attempt),
        max_attempts: MAX,
        at: at(300),
    };
    let given = || [joined(1, 1, &[]), own([submitted(1), assigned(1, 1, 1)])];
    let back = requeued(1, 1, "worker w1 did not begin the run in time");
    check(given(), expire(1), Ok(vec![back]));
    check(given(), expire(2), Ok(vec![]));
    check(given().into_iter().chain([own([started(1, 1)])]), expire(1), Ok(vec![]));
}

#[test]
fn gaias_own_agents_report_without_a_lease() {
    let unnamed = |by: u128, said| Command::ReportRun {
        run: run(1),
        worker: worker(by),
        lease: None,
        report: report(said),
        max_attempts: MAX,
        at: at(200),
    };
    let given = || [joined(1, 1, &[]), own([submitted(1), assigned(1, 1, 1)])];
    check(given(), unnamed(1, Reported::Running), Ok(vec![started(1, 1)]));
    let now = "the current attempt is 1, on worker w1".into();
    let refused = Err(Rejection::StaleLease { run: run(1), worker: worker(2), now });
    check(given(), unnamed(2, Reported::Running), refused);
    let end = own([started(1, 1), finished(1, 1, Outcome::Succeeded, "")]);
    check(given().into_iter().chain([end]), unnamed(1, Reported::Succeeded), Ok(vec![]));
}
