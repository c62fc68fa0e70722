//! What follows when an attempt ends without a success, or takes too long.

use super::*;

fn with(policy: Policy) -> Vec<Fact> {
    own([submitted_with(1, 1, RunSpec { policy, ..spec() })])
}

/// By attempt 1, on worker 1.
fn running(policy: Policy) -> Vec<Vec<Fact>> {
    vec![joined(1, 1, &["golang"]), with(policy), own([assigned(1, 1, 1), started(1, 1)])]
}

fn again(attempt: u32, reason: &str, cause: Cause, not_before: Option<u64>) -> Event {
    let (reason, not_before) = (reason.to_owned(), not_before.map(at));
    Event::RunRequeued {
        run: run(1),
        attempt: Attempt(attempt),
        reason,
        cause,
        not_before,
        at: at(300),
    }
}

fn lost() -> Vec<Fact> {
    vec![fact(1, WorkerChange::Lost)]
}

fn on_lost(on_worker_lost: OnWorkerLost) -> Policy {
    Policy { on_worker_lost, ..Policy::default() }
}

#[test]
fn a_pipeline_says_what_happens_when_its_worker_is_lost() {
    let given = |policy| running(policy).into_iter().chain([lost()]);
    let requeued = again(1, "worker w1 was lost", Cause::Infrastructure, None);
    check(given(on_lost(OnWorkerLost::Requeue)), release(1), Ok(vec![requeued]));
    let reason = "worker w1 was lost; the run is not to be tried again after that";
    let failed = finished(1, 1, Outcome::Failed, reason);
    check(given(on_lost(OnWorkerLost::Fail)), release(1), Ok(vec![failed]));
    check(given(on_lost(OnWorkerLost::Wait)), release(1), Ok(vec![]));
}

#[test]
fn a_run_that_waits_for_its_worker_keeps_its_lease() {
    let given: Vec<_> = running(on_lost(OnWorkerLost::Wait)).into_iter().chain([lost()]).collect();
    let state = State::replay(&given.concat());
    assert_eq!(state.gone_holding().count(), 0);
    let why = explain(&state, run(1), &Connected::default()).unwrap();
    assert_eq!(
        why.summary,
        "the run is running on worker `w1`, which is lost; it waits for that to come back"
    );
    // It may end there all the same, be cancelled, or have to move.
    let done = reports(1, 1, report(Reported::Failed));
    check(given.clone(), done, Ok(vec![finished(1, 1, Outcome::Failed, "")]));
    let cancelled_run = given.iter().cloned().chain([own([cancel_requested(1)])]);
    let over = cancelled(1, "cancelled by user:bob: oops; worker w1 was lost");
    check(cancelled_run, release(1), Ok(vec![over]));
    let gone = given.into_iter().chain([vec![fact(1, WorkerChange::Deregistered)]]);
    let moved = again(1, "worker w1 was deregistered", Cause::Infrastructure, None);
    check(gone, release(1), Ok(vec![moved]));
}

#[test]
fn what_a_worker_gives_back_has_not_begun_and_may_move() {
    let back = again(1, "worker w1 gave it back", Cause::Infrastructure, None);
    check(
        running(on_lost(OnWorkerLost::Fail)),
        reports(1, 1, report(Reported::GivenBack)),
        Ok(vec![back]),
    );
}

#[test]
fn a_run_that_failed_by_itself_is_tried_again_as_often_as_it_may() {
    let policy = || Policy { retries: 2, retry_delay: 10, ..Policy::default() };
    let mut failed = report(Reported::Failed);
    failed.reason = "exit 1".into();
    let first = again(1, "exit 1 (retry 1 of 2)", Cause::Run, Some(10_300));
    check(running(policy()), reports(1, 1, failed.clone()), Ok(vec![first.clone()]));
    // The worker may say so twice.
    let after = running(policy()).into_iter().chain([own([first.clone()])]);
    check(after.clone(), reports(1, 1, failed.clone()), Ok(vec![]));
    let due = Event::RunDue { run: run(1), at: at(10_300) };
    let second_try = || after.clone().chain([own([due.clone(), assigned(1, 2, 1), started(1, 2)])]);
    let second = again(2, "exit 1 (retry 2 of 2)", Cause::Run, Some(20_300));
    check(second_try(), reports(1, 2, failed.clone()), Ok(vec![second.clone()]));
    let last_try =
        second_try().chain([own([second, due.clone(), assigned(1, 3, 1), started(1, 3)])]);
    check(
        last_try,
        reports(1, 3, failed.clone()),
        Ok(vec![finished(1, 3, Outcome::Failed, "exit 1")]),
    );
    check(
        running(Policy::default()),
        reports(1, 1, failed),
        Ok(vec![finished(1, 1, Outcome::Failed, "exit 1")]),
    );
}

#[test]
fn neither_kind_of_retry_uses_up_the_others() {
    let policy = || Policy { retries: 1, infrastructure_retries: Some(1), ..Policy::default() };
    let lost_once = || {
        let moved = again(1, "", Cause::Infrastructure, None);
        running(policy()).into_iter().chain([own([moved, assigned(1, 2, 1), started(1, 2)])])
    };
    let retried = again(2, "the run failed (retry 1 of 1)", Cause::Run, None);
    check(lost_once(), reports(1, 2, report(Reported::Failed)), Ok(vec![retried.clone()]));
    let both = lost_once().chain([own([retried, assigned(1, 3, 1), started(1, 3)])]);
    let reason = "given up after 3 attempts; the last one: worker w1 gave it back";
    check(
        both,
        reports(1, 3, report(Reported::GivenBack)),
        Ok(vec![finished(1, 3, Outcome::Failed, reason)]),
    );
    let none = Policy { infrastructure_retries: Some(0), ..Policy::default() };
    let reason = "given up after 1 attempts; the last one: worker w1 gave it back";
    check(
        running(none),
        reports(1, 1, report(Reported::GivenBack)),
        Ok(vec![finished(1, 1, Outcome::Failed, reason)]),
    );
}

#[test]
fn a_worker_that_cannot_is_asked_less_and_less_often() {
    let mut given = vec![
        joined(1, 1, &["golang"]),
        with(Policy { infrastructure_retries: Some(100), ..Policy::default() }),
    ];
    let mut pauses = vec![];
    for attempt in 1..=9 {
        given.push(own([assigned(1, attempt, 1)]));
        let state = State::replay(&given.concat());
        let events = decide(&state, reports(1, attempt, report(Reported::GivenBack))).unwrap();
        let Event::RunRequeued { not_before, .. } = &events[0] else { panic!("{events:?}") };
        pauses.push(not_before.map_or(0, |due| due.0 - 300));
        given.push(own([events[0].clone(), Event::RunDue { run: run(1), at: at(300) }]));
    }
    assert_eq!(pauses, [0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
}

#[test]
fn each_timeout_ends_a_run_with_its_own_reason() {
    let timeouts = |queue, run| Policy {
        timeouts: Timeouts { queue, run, ..Timeouts::default() },
        ..Policy::default()
    };
    let expire = |millis| Command::ExpireTimeouts { max_attempts: 3, at: at(millis) };
    let ended = |attempt, reason: &str, millis| {
        let mut end = finished(1, attempt, Outcome::Failed, reason);
        let Event::RunFinished { at: ended, .. } = &mut end else { unreachable!() };
        *ended = at(millis);
        end
    };
    // Submitted at 1 ms.
    check([with(timeouts(5, 9))], expire(5_000), Ok(vec![]));
    let queued = ended(0, "timed out: no worker took the run in 5 s", 5_001);
    check([with(timeouts(5, 9))], expire(5_001), Ok(vec![queued]));
    // Started at 200 ms.
    check(running(timeouts(5, 9)), expire(9_199), Ok(vec![]));
    let ran = ended(1, "timed out: it ran for more than 9 s", 9_200);
    check(running(timeouts(5, 9)), expire(9_200), Ok(vec![ran]));
    // What is only assigned has a timeout of its own, and a delay does not count.
    check([with(timeouts(5, 9)), own([assigned(1, 1, 1)])], expire(99_999), Ok(vec![]));
    let later = RunSpec { not_before: Some(at(60_000)), policy: timeouts(5, 9), ..spec() };
    check([own([submitted_with(1, 1, later)])], expire(64_999), Ok(vec![]));
}

#[test]
fn a_run_that_is_not_begun_in_time_moves_and_then_fails_with_a_reason_of_its_own() {
    let policy = |infrastructure_retries| Policy {
        timeouts: Timeouts { start: 5, ..Timeouts::default() },
        infrastructure_retries,
        ..Policy::default()
    };
    let given =
        |retries| vec![joined(1, 1, &["golang"]), with(policy(retries)), own([assigned(1, 1, 1)])];
    let assigned_at = {
        let state = State::replay(&given(None).concat());
        state.run(run(1)).unwrap().current().unwrap().assigned_at.0
    };
    let expire = |at| Command::ExpireTimeouts { max_attempts: 3, at: Timestamp(at) };
    let due = assigned_at + 5_000;
    check(given(None), expire(due - 1), Ok(vec![]));
    let why = "timed out: worker w1 did not begin the run in 5 s";
    let mut moved = again(1, why, Cause::Infrastructure, None);
    let Event::RunRequeued { at: when, .. } = &mut moved else { unreachable!() };
    *when = Timestamp(due);
    check(given(None), expire(due), Ok(vec![moved]));
    let reason = format!("given up after 1 attempts; the last one: {why}");
    let mut failed = finished(1, 1, Outcome::Failed, &reason);
    let Event::RunFinished { at: when, .. } = &mut failed else { unreachable!() };
    *when = Timestamp(due);
    check(given(Some(0)), expire(due), Ok(vec![failed]));
    // What was begun has other limits.
    let begun = given(None).into_iter().chain([own([started(1, 1)])]);
    check(begun, expire(due + 99_000), Ok(vec![]));
}

#[test]
fn a_run_that_took_too_long_may_be_tried_again_unless_it_was_to_stop() {
    let policy = || {
        let timeouts = Timeouts { run: 1, ..Timeouts::default() };
        Policy { retries: 1, timeouts, ..Policy::default() }
    };
    let expire = Command::ExpireTimeouts { max_attempts: 3, at: at(1_200) };
    let mut retried =
        again(1, "timed out: it ran for more than 1 s (retry 1 of 1)", Cause::Run, None);
    let Event::RunRequeued { at: when, .. } = &mut retried else { unreachable!() };
    *when = at(1_200);
    check(running(policy()), expire.clone(), Ok(vec![retried]));
    let stopping = running(policy()).into_iter().chain([own([cancel_requested(1)])]);
    let reason = "cancelled by user:bob: oops; timed out: it ran for more than 1 s".to_owned();
    check(stopping, expire, Ok(vec![Event::RunCancelled { run: run(1), reason, at: at(1_200) }]));
}

#[test]
fn a_policy_out_of_range_names_its_field() {
    let bad = [
        ("retries", Policy { retries: 101, ..Policy::default() }),
        ("retry_delay", Policy { retry_delay: u32::MAX, ..Policy::default() }),
        (
            "infrastructure_retries",
            Policy { infrastructure_retries: Some(101), ..Policy::default() },
        ),
        (
            "queue_timeout",
            Policy {
                timeouts: Timeouts { queue: u32::MAX, ..Timeouts::default() },
                ..Policy::default()
            },
        ),
        (
            "start_timeout",
            Policy {
                timeouts: Timeouts { start: MAX_TIMEOUT + 1, ..Timeouts::default() },
                ..Policy::default()
            },
        ),
        (
            "run_timeout",
            Policy {
                timeouts: Timeouts { run: MAX_TIMEOUT + 1, ..Timeouts::default() },
                ..Policy::default()
            },
        ),
        (
            "silence_timeout",
            Policy {
                timeouts: Timeouts { silence: MAX_TIMEOUT + 1, ..Timeouts::default() },
                ..Policy::default()
            },
        ),
    ];
    for (field, policy) in bad {
        let refused =
            decide(&State::default(), submit(1, RunSpec { policy, ..spec() })).unwrap_err();
        assert!(refused.to_string().starts_with(&format!("{field}: ")), "{refused}");
    }
}

#[test]
fn jobs_that_are_done_are_not_waited_for() {
    let repeats =
        |done: &[u32]| RunSpec { done_jobs: done.iter().copied().map(JobId).collect(), ..spec() };
    let refused = |error: SpecError| Err(Rejection::InvalidSpec(error));
    check([], submit(1, repeats(&[9])), refused(SpecError::UnknownDoneJob(JobId(9))));
    check([], submit(1, repeats(&[1, 2])), refused(SpecError::NothingToDo));
    let given = [own([submitted_with(1, 1, repeats(&[1])), assigned(1, 1, 1), started(1, 1)])];
    let state = State::replay(&given.concat());
    let states: Vec<_> = state.run(run(1)).unwrap().jobs.iter().map(|job| job.state).collect();
    assert_eq!(states, [JobState::Succeeded, JobState::Waiting]);
    check(
        given,
        reports(1, 1, report(Reported::Succeeded)),
        Ok(vec![
            job_finished(1, 1, 2, JobState::Succeeded, 300),
            finished(1, 1, Outcome::Succeeded, ""),
        ]),
    );
}

/// Found by the simulation, seed 351.
#[test]
fn a_clock_that_was_put_back_does_not_make_a_pause_longer() {
    let mut state = State::replay(&joined(1, 1, &["golang"]));
    let later = at(3_600_000);
    let requeued = |not_before, at| Event::RunRequeued {
        run: run(1),
        attempt: Attempt(1),
        reason: "it failed".into(),
        cause: Cause::Run,
        not_before: Some(not_before),
        at,
    };
    for event in [
        submitted_with(1, 1, spec()),
        submitted_with(2, 2, RunSpec { not_before: Some(later), ..spec() }),
        Event::RunAssigned {
            run: run(1),
            attempt: Attempt(1),
            worker: worker(1),
            token: token(1),
            at: later,
        },
        requeued(Timestamp(later.0 + 60_000), later),
    ] {
        state.evolve(&event.into());
    }
    assert_eq!(state.last_pause(), Some(later));
    let release = |at| decide(&state, Command::ReleaseDue { at });
    // A time that somebody chose is that time whatever the clock did.
    assert_eq!(release(at(5)), Ok(vec![Event::RunDue { run: run(1), at: at(5) }]));
    assert_eq!(release(later), Ok(vec![Event::RunDue { run: run(2), at: later }]));
}
