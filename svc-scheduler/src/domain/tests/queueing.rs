//! In which order runs go to workers, and what holds them back.

use super::*;

fn wish(n: u128, by: &str, spec: RunSpec) -> Vec<Fact> {
    let submitted = Event::RunSubmitted {
        run: run(n),
        number: RunNumber(n as u64),
        spec: Arc::new(spec),
        start_reason: "manual".into(),
        started_by: by.into(),
        at: at(n as u64 * 1_000),
    };
    own([submitted])
}

fn urgent(priority: i32) -> RunSpec {
    RunSpec { policy: Policy { priority, ..Policy::default() }, ..spec() }
}

fn grouped(group: &str) -> RunSpec {
    RunSpec {
        policy: Policy { groups: vec![group.parse().unwrap()], ..Policy::default() },
        ..spec()
    }
}

fn group(name: &str) -> Gate {
    Gate::Group(name.parse().unwrap())
}

fn limited(gate: Gate, running: u32, when_full: WhenFull) -> Vec<Fact> {
    let limit = Some(Limit { running, when_full });
    own([Event::LimitChanged { gate, limit, by: String::new(), note: String::new(), at: at(1) }])
}

fn order(given: impl IntoIterator<Item = Vec<Fact>>) -> Vec<u128> {
    let given: Vec<_> = given.into_iter().flatten().collect();
    let assigned = placing::assign_to(&State::replay(&given), &[1]);
    assigned.into_iter().map(|(run, _)| run).collect()
}

fn why(given: impl IntoIterator<Item = Vec<Fact>>, n: u128) -> Placement {
    let given: Vec<_> = given.into_iter().flatten().collect();
    let mut connected = Connected::default();
    connected.set(worker(1), Presence::Pushed);
    explain(&State::replay(&given), run(n), &connected).unwrap()
}

#[test]
fn what_runs_of_a_pipeline_have_in_common_is_kept_once() {
    let given = [wish(1, "a", spec()), wish(2, "a", spec()), wish(3, "b", urgent(1))].concat();
    let state = State::replay(&given);
    let is_shared = |one, other| {
        let [one, other] = [one, other].map(|n| state.run(run(n)).unwrap());
        Arc::ptr_eq(&one.spec, &other.spec) && Arc::ptr_eq(&one.started_by, &other.started_by)
    };
    assert!(is_shared(1, 2) && !is_shared(2, 3));
}

#[test]
fn a_point_of_priority_is_worth_a_minute_of_waiting() {
    let given = || [joined(1, 9, &["golang"]), wish(1, "a", urgent(0)), wish(2, "a", urgent(1))];
    assert_eq!(order(given()), [2, 1]);
    // 60 s after the first one it is too late to overtake it.
    let late = wish(62, "a", urgent(1));
    assert_eq!(order(given().into_iter().chain([late])), [2, 1, 62]);
    assert_eq!(
        order([joined(1, 9, &["golang"]), wish(1, "a", urgent(-1)), wish(2, "a", urgent(0))]),
        [2, 1]
    );
}

#[test]
fn a_priority_out_of_range_is_refused() {
    let refused = |priority| Err(Rejection::InvalidSpec(PolicyError::Priority(priority).into()));
    check([], submit(1, urgent(101)), refused(101));
    check([], submit(1, urgent(i32::MIN)), refused(i32::MIN));
}

#[test]
fn workers_are_shared_out_among_those_who_want_them() {
    let given = || {
        let many = (1..=4).flat_map(|n| wish(n, "ann", spec())).collect();
        [joined(1, 4, &["golang"]), many, wish(5, "bob", spec())]
    };
    assert_eq!(order(given()), [1, 5, 2, 3]);
    // What is on workers already counts.
    let running = own([assigned(1, 1, 9), assigned(2, 1, 9)]);
    assert_eq!(order(given().into_iter().chain([running])), [5, 3, 4]);
}

#[test]
fn a_limit_holds_runs_back_and_nothing_else() {
    let runs = [wish(1, "a", grouped("db")), wish(2, "a", grouped("DB")), wish(3, "a", spec())];
    let given = |limit| [vec![joined(1, 9, &["golang"]), limit], runs.to_vec()].concat();
    assert_eq!(order(given(limited(group("db"), 1, WhenFull::Queue))), [1, 3]);
    assert_eq!(order(given(limited(group("db"), 0, WhenFull::Queue))), [3]);
    let pipeline = Gate::Pipeline(ids::PipelineId(1));
    assert_eq!(order(given(limited(pipeline.clone(), 2, WhenFull::Queue))), [1, 2]);
    // A change applies to what waits, and none is no limit.
    let off = own([Event::LimitChanged {
        gate: pipeline.clone(),
        limit: None,
        by: String::new(),
        note: String::new(),
        at: at(2),
    }]);
    let given: Vec<_> =
        given(limited(pipeline, 0, WhenFull::Queue)).into_iter().chain([off]).collect();
    assert_eq!(order(given), [1, 2, 3]);
}

#[test]
fn what_is_too_much_for_a_limit_is_cancelled() {
    let given = |when_full| {
        let runs = (1..=3).flat_map(|n| wish(n, "a", grouped("db"))).collect();
        let held = own([assigned(1, 1, 1)]);
        [joined(1, 9, &["golang"]), runs, held, limited(group("db"), 1, when_full)]
    };
    let enforce = Command::EnforceLimits { at: at(250) };
    let (by, note) = ("a concurrency limit".to_owned(), "group `db` has too many runs".to_owned());
    let cancelled = |n| {
        let reason = format!("cancelled by {by}: {note}");
        Event::RunCancelled { run: run(n), reason, at: at(250) }
    };
    let stopped =
        Event::RunCancelRequested { run: run(1), by: by.clone(), note: note.clone(), at: at(250) };
    check(given(WhenFull::CancelOlder), enforce.clone(), Ok(vec![stopped, cancelled(2)]));
    check(given(WhenFull::CancelNewer), enforce.clone(), Ok(vec![cancelled(3), cancelled(2)]));
    check(given(WhenFull::Queue), enforce, Ok(vec![]));
    // Nothing goes to a worker that may have to stop at once.
    assert_eq!(order(given(WhenFull::CancelNewer)), []);
}

#[test]
fn a_start_that_is_planned_counts_for_a_limit_when_it_is_due() {
    let given = |when_full, more: Vec<Fact>| {
        let later = RunSpec { not_before: Some(at(60_000)), ..grouped("db") };
        let runs = [wish(1, "a", grouped("db")), wish(2, "a", later), own([assigned(1, 1, 1)])];
        [vec![joined(1, 9, &["golang"]), limited(group("db"), 1, when_full)], runs.to_vec()]
            .concat()
            .into_iter()
            .chain([more])
    };
    let ended = |when_full, more| {
        let state: Vec<_> = given(when_full, more).flatten().collect();
        let events = decide(&State::replay(&state), Command::EnforceLimits { at: at(70_000) });
        events.unwrap().iter().filter_map(Event::run).collect::<Vec<_>>()
    };
    let due = own([Event::RunDue { run: run(2), at: at(60_000) }]);
    for when_full in [WhenFull::CancelOlder, WhenFull::CancelNewer] {
        assert_eq!(ended(when_full, vec![]), []);
    }
    assert_eq!(ended(WhenFull::CancelNewer, due.clone()), [run(2)]);
    // It is the newest once it is due, whenever it was planned.
    let third = wish(3, "a", grouped("db"));
    let all = [third, due].concat();
    assert_eq!(ended(WhenFull::CancelOlder, all), [run(1), run(3)]);
    // One that waits to be tried again was there before.
    let again = Event::RunRequeued {
        run: run(1),
        attempt: Attempt(1),
        reason: "lost".into(),
        cause: Cause::Infrastructure,
        not_before: Some(at(90_000)),
        at: at(5_000),
    };
    let more = [own([again]), wish(4, "a", grouped("db"))].concat();
    assert_eq!(ended(WhenFull::CancelOlder, more), [run(1)]);
}

#[test]
fn a_limit_that_makes_no_sense_is_refused() {
    let set = |running, when_full| {
        let limit = Some(Limit { running, when_full });
        let (by, note) = (String::new(), String::new());
        Command::SetLimit { gate: group("db"), limit, by, note, at: at(1) }
    };
    let nothing = Err(Rejection::InvalidLimit(LimitError::Nothing));
    check([], set(0, WhenFull::CancelOlder), nothing);
    let many = Err(Rejection::InvalidLimit(LimitError::TooMany(MAX_LIMIT + 1)));
    check([], set(MAX_LIMIT + 1, WhenFull::Queue), many);
    check([limited(group("db"), 3, WhenFull::Queue)], set(3, WhenFull::Queue), Ok(vec![]));
    for bad in ["", "a b", "../x", &"x".repeat(65)] {
        assert!(bad.parse::<GroupName>().is_err(), "{bad}");
    }
}

#[test]
fn a_delayed_run_waits_for_its_time_and_keeps_no_one_waiting() {
    let later = RunSpec { not_before: Some(at(60_000)), ..spec() };
    let given = || [joined(1, 9, &["golang"]), wish(1, "a", later.clone()), wish(2, "a", spec())];
    assert_eq!(order(given()), [2]);
    assert_eq!(why(given(), 1).summary, "the run is delayed; its time has not come");
    assert_eq!(why(given(), 1).delayed_until, Some(at(60_000)));
    check(given(), Command::ReleaseDue { at: at(59_999) }, Ok(vec![]));
    let due = Event::RunDue { run: run(1), at: at(60_000) };
    check(given(), Command::ReleaseDue { at: at(60_000) }, Ok(vec![due.clone()]));
    assert_eq!(order(given().into_iter().chain([own([due])])), [2, 1]);
    let too_late = at(MAX_DELAY_DAYS * 86_400_000 + 2);
    let never = RunSpec { not_before: Some(too_late), ..spec() };
    check([], submit(1, never), Err(Rejection::TooLate(too_late)));
}

#[test]
fn a_run_that_waits_says_what_holds_it_back() {
    let runs = [wish(1, "a", grouped("db")), wish(2, "a", grouped("db"))];
    let held = own([assigned(1, 1, 1)]);
    let limit = limited(group("db"), 1, WhenFull::Queue);
    let full = why([vec![joined(1, 9, &["golang"]), limit], runs.to_vec(), vec![held]].concat(), 2);
    assert_eq!(full.summary, "group `db` has 1 of at most 1 running");
    assert_eq!(full.full_gates, [FullGate { gate: group("db"), running: 1, limit: 1 }]);

    let busy = [joined(1, 1, &["golang"]), wish(1, "ann", spec()), own([assigned(1, 1, 1)])];
    let waiting = [wish(2, "ann", spec()), wish(3, "bob", spec()), wish(4, "ann", urgent(7))];
    let behind = why(busy.iter().chain(&waiting).cloned(), 2);
    assert_eq!(
        behind.summary,
        "1 worker matches: 1 is busy; 2 runs before it, since ann has 1 run on workers and another user has fewer"
    );
    assert_eq!((behind.queue_position, behind.owner_running, behind.owners_before), (2, 1, 1));
    let first = why(busy.iter().chain(&waiting).cloned(), 3);
    assert_eq!((first.queue_position, first.summary.as_str()), (0, "1 worker matches: 1 is busy"));
    assert_eq!(why(busy.iter().chain(&waiting).cloned(), 4).priority, 7);
}
