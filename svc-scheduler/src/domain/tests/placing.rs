//! Which run goes where, and what is said of one that waits.

use super::*;

fn primary(n: u128, slots: u32, tags: &[&str]) -> Vec<Fact> {
    let mut facts = joined(n, slots, tags);
    let tags = tags.iter().map(ToString::to_string).collect();
    facts[0] = fact(n, WorkerChange::Registered { name: format!("w{n}"), tags, primary: true });
    facts
}

fn attached(workers: &[u128]) -> Connected {
    present(&workers.iter().map(|&n| (n, Presence::Pushed)).collect::<Vec<_>>())
}

fn present(workers: &[(u128, Presence)]) -> Connected {
    let mut connected = Connected::default();
    for &(n, presence) in workers {
        connected.set(worker(n), presence);
    }
    connected
}

/// The pairs of run and worker that are assigned.
fn assign(given: impl IntoIterator<Item = Vec<Fact>>, connected: Connected) -> Vec<(u128, u128)> {
    let given: Vec<_> = given.into_iter().flatten().collect();
    assign_in(&State::replay(&given), connected)
}

pub(super) fn assign_to(state: &State, workers: &[u128]) -> Vec<(u128, u128)> {
    assign_in(state, attached(workers))
}

fn assign_in(state: &State, connected: Connected) -> Vec<(u128, u128)> {
    let tokens = (1..=50).map(token).collect();
    let connected = Arc::new(connected);
    let when = Command::AssignRuns { connected, tokens, at: at(400) };
    let events = decide(state, when).unwrap();
    let pair = |event: &Event| match event {
        Event::RunAssigned { run, worker, .. } => {
            (run.as_uuid().as_u128(), worker.as_uuid().as_u128())
        }
        other => panic!("{other:?}"),
    };
    events.iter().map(pair).collect()
}

fn wants(n: u128, tags: &[&str]) -> Vec<Fact> {
    let tags = tags.iter().map(ToString::to_string).collect();
    own([submitted_with(n, n as u64, RunSpec { tags, ..spec() })])
}

fn pinned(n: u128, pin: &str) -> Vec<Fact> {
    own([submitted_with(n, n as u64, RunSpec { pinned_worker: pin.into(), ..spec() })])
}

#[test]
fn a_clock_that_was_wrong_once_spoils_no_later_assignment() {
    let given = [joined(1, 2, &["golang"]), own([submitted(1), assigned(1, 1, 1)]), wants(2, &[])];
    let mut state = State::replay(&given.concat());
    let seen = state.assigned();
    let connected = Arc::new(attached(&[1]));
    let when = Command::AssignRuns { connected, tokens: vec![token(2)], at: at(1) };
    let events = decide(&state, when).unwrap();
    let [Event::RunAssigned { at: dated, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!(dated, at(1), "the other one was at 100");
    state.evolve(&events[0].clone().into());
    let new: Vec<_> = state.unstarted(seen).map(|(id, _)| id).collect();
    assert_eq!(new, [run(2)], "whoever looks for what is new finds it");
}

#[test]
fn the_runs_of_a_worker_are_found_by_it() {
    let tried = own([submitted(1), assigned(1, 1, 1), requeued(1, 1, "lost"), assigned(1, 2, 2)]);
    let state = State::replay(&[tried, own([submitted(2), assigned(2, 1, 1)])].concat());
    let of = |n| {
        let filter = Filter { worker: Some(worker(n)), ..Filter::default() };
        state.list(filter).map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!([of(1), of(2), of(3)], [vec![run(2), run(1)], vec![run(1)], vec![]]);
}

#[test]
fn a_worker_must_have_the_type_and_every_tag_whatever_the_case() {
    let workers = || [joined(1, 1, &["golang"]), joined(2, 1, &["GoLang", "GPU"])].concat();
    assert_eq!(assign([workers(), wants(1, &["gpu"])], attached(&[1, 2])), [(1, 2)]);
    assert_eq!(assign([workers(), wants(1, &["Gpu", "arm"])], attached(&[1, 2])), []);
    assert_eq!(assign([joined(1, 1, &["gpu"]), wants(1, &["gpu"])], attached(&[1])), []);
}

#[test]
fn a_negative_tag_of_a_worker_forbids_what_it_names() {
    for refusal in ["-golang", "!GoLang"] {
        let choosy = joined(1, 1, &["golang", refusal]);
        assert_eq!(assign([choosy, wants(1, &[])], attached(&[1])), []);
    }
}

#[test]
fn a_pinned_run_goes_to_that_worker_alone() {
    let workers = || [joined(1, 9, &["golang"]), joined(2, 1, &["golang"])].concat();
    assert_eq!(assign([workers(), pinned(1, "w2")], attached(&[1, 2])), [(1, 2)]);
    let id = worker(2).to_string();
    assert_eq!(assign([workers(), pinned(1, &id)], attached(&[1, 2])), [(1, 2)]);
    assert_eq!(assign([workers(), pinned(1, "w2")], attached(&[1])), []);
}

#[test]
fn a_pin_holds_when_the_worker_is_renamed() {
    let given = || joined(1, 1, &["golang"]);
    let named = submit(1, RunSpec { pinned_worker: "w1".into(), ..spec() });
    let state = State::replay(&given());
    let events = decide(&state, named).unwrap();
    let by_id = RunSpec { pinned_worker: worker(1).to_string(), ..spec() };
    assert!(events.contains(&submitted_with(1, 0, by_id)), "{events:?}");
    let renamed = vec![fact(1, WorkerChange::Renamed { name: "other".into() })];
    assert_eq!(
        assign([given(), events.into_iter().map(Fact::Run).collect(), renamed], attached(&[1])),
        [(1, 1)]
    );
}

#[test]
fn workers_that_are_not_there_get_nothing() {
    let given = || [joined(1, 1, &["golang"]), wants(1, &[])];
    assert_eq!(assign(given(), attached(&[1])), [(1, 1)]);
    assert_eq!(assign(given(), Connected::default()), []);
    assert_eq!(assign(given(), present(&[(1, Presence::Draining)])), []);
    assert_eq!(assign(given(), present(&[(1, Presence::Polled)])), []);
    for change in [
        WorkerChange::Suspended,
        WorkerChange::DrainStarted,
        WorkerChange::Lost,
        WorkerChange::Deregistered,
    ] {
        assert_eq!(assign(given().into_iter().chain([vec![fact(1, change)]]), attached(&[1])), []);
    }
    let back = vec![fact(1, WorkerChange::Lost), fact(1, WorkerChange::Returned)];
    assert_eq!(assign(given().into_iter().chain([back]), attached(&[1])), [(1, 1)]);
    let changes = [
        WorkerChange::Suspended,
        WorkerChange::DrainStarted,
        WorkerChange::DrainExpired,
        WorkerChange::Resumed,
    ];
    let back = changes.map(|change| fact(1, change)).to_vec();
    assert_eq!(assign(given().into_iter().chain([back]), attached(&[1])), [(1, 1)]);
}

#[test]
fn tags_and_names_that_operators_give_count_like_its_own() {
    let changed = |added: &[&str], removed: &[&str]| {
        let texts = |tags: &[&str]| tags.iter().map(ToString::to_string).collect::<Vec<_>>();
        let change = WorkerChange::TagsChanged { added: texts(added), removed: texts(removed) };
        vec![fact(1, change)]
    };
    let given = || vec![joined(1, 1, &["golang"]), wants(1, &["gpu"])];
    let placed = |more: Vec<Vec<Fact>>| assign(given().into_iter().chain(more), attached(&[1]));
    assert_eq!(placed(vec![]), []);
    assert_eq!(placed(vec![changed(&["GPU"], &[])]), [(1, 1)]);
    assert_eq!(placed(vec![changed(&["GPU"], &[]), changed(&[], &["GPU"])]), []);
    assert_eq!(placed(vec![changed(&["gpu", "-golang"], &[])]), []);
    // What the worker says of itself later does not undo it.
    let reported = WorkerChange::Reported { slots: 1, tags: vec!["golang".into()] };
    assert_eq!(placed(vec![changed(&["gpu"], &[]), vec![fact(1, reported)]]), [(1, 1)]);
    let renamed = vec![fact(1, WorkerChange::Renamed { name: "other".into() })];
    let pinned = [joined(1, 1, &["golang"]), pinned(1, "other"), renamed];
    assert_eq!(assign(pinned, attached(&[1])), [(1, 1)]);
}

#[test]
fn the_oldest_runs_fill_the_free_slots_and_spread() {
    let workers = [joined(1, 2, &["golang"]), joined(2, 1, &["golang"])].concat();
    let runs = (1..=5).rev().flat_map(|n| wants(n, &[])).collect();
    assert_eq!(assign([workers, runs], attached(&[1, 2])), [(1, 1), (2, 1), (3, 2)]);
}

#[test]
fn a_line_that_cannot_move_does_not_hold_up_the_others() {
    let runs = [wants(1, &["gpu"]), wants(2, &[])].concat();
    assert_eq!(assign([joined(1, 1, &["golang"]), runs], attached(&[1])), [(2, 1)]);
}

#[test]
fn a_run_that_comes_back_keeps_its_place() {
    let given = [
        joined(1, 1, &["golang"]),
        own([submitted(1), assigned(1, 1, 1), requeued(1, 1, ""), submitted(2)]),
    ];
    assert_eq!(assign(given, attached(&[1])), [(1, 1)]);
}

#[test]
fn another_worker_is_preferred_to_the_last_one_even_if_it_is_busy() {
    let back = own([submitted(1), assigned(1, 1, 1), requeued(1, 1, "")]);
    let both = || [joined(1, 5, &["golang"]), joined(2, 1, &["golang"]), back.clone()];
    assert_eq!(assign(both(), attached(&[1, 2])), [(1, 2)]);
    let busy = own([submitted(2), assigned(2, 1, 2)]);
    assert_eq!(assign(both().into_iter().chain([busy]), attached(&[1, 2])), []);
    assert_eq!(assign(both(), attached(&[1])), [(1, 1)]);
}

#[test]
fn once_all_have_tried_a_run_the_last_one_is_the_last_choice() {
    let tried = |workers: &[u128]| {
        let mut facts = own([submitted(1)]);
        for (attempt, &on) in (1..).zip(workers) {
            facts.extend(own([assigned(1, attempt, on), requeued(1, attempt, "")]));
        }
        [joined(1, 1, &["golang"]), joined(2, 1, &["golang"]), primary(3, 1, &["golang"]), facts]
    };
    // Two that cannot do it do not keep it from the primary.
    assert_eq!(assign(tried(&[1, 2]), attached(&[1, 2, 3])), [(1, 3)]);
    assert_eq!(assign(tried(&[2, 3, 1]), attached(&[1, 2, 3])), [(1, 2)]);
    assert_eq!(assign(tried(&[1, 2]), attached(&[2])), [(1, 2)]);
}

#[test]
fn the_primary_takes_only_what_no_other_worker_can() {
    let both = || [primary(1, 9, &["golang"]), joined(2, 1, &["golang"])].concat();
    assert_eq!(assign([both(), wants(1, &[])], attached(&[1, 2])), [(1, 2)]);
    let busy = || own([submitted(7), assigned(7, 1, 2)]);
    assert_eq!(assign([both(), busy(), wants(8, &[])], attached(&[1, 2])), []);
    // One that asked a moment ago is still there.
    let polled = present(&[(1, Presence::Pushed), (2, Presence::Polled)]);
    assert_eq!(assign([both(), wants(1, &[])], polled), []);
    assert_eq!(assign([both(), wants(1, &[])], attached(&[1])), [(1, 1)]);
    let suspended = vec![fact(2, WorkerChange::Suspended)];
    assert_eq!(assign([both(), suspended, wants(1, &[])], attached(&[1, 2])), [(1, 1)]);
}

#[test]
fn one_that_polls_gets_one_run_and_none_while_one_may_be_on_its_way() {
    let polls = |free| present(&[(1, Presence::Polls { free })]);
    let runs = || [wants(1, &[]), wants(2, &[])].concat();
    assert_eq!(assign([joined(1, 0, &["golang"]), runs()], polls(2)), [(1, 1)]);
    assert_eq!(assign([joined(1, 0, &["golang"]), runs()], polls(0)), []);
    let sent = own([submitted(1), assigned(1, 1, 1), submitted(2)]);
    assert_eq!(assign([joined(1, 0, &["golang"]), sent], polls(1)), []);
}

fn why(given: impl IntoIterator<Item = Vec<Fact>>, connected: Connected) -> Placement {
    let given: Vec<_> = given.into_iter().flatten().collect();
    explain(&State::replay(&given), run(1), &connected).unwrap()
}

#[test]
fn a_run_that_can_never_be_placed_says_what_is_missing() {
    let nobody = Connected::default;
    let none = why([wants(1, &["gpu"])], nobody());
    assert_eq!(none.summary, "no worker is registered; the run waits until one joins");
    let workers = || [joined(1, 1, &["golang"]), joined(2, 1, &["golang", "-gpu"])].concat();
    let gpu = why([workers(), wants(1, &["gpu"])], nobody());
    assert_eq!(
        gpu.summary,
        "no registered worker has `gpu` (1 worker lacks it, 1 worker refuses it); the run waits until one joins"
    );
    assert_eq!(gpu.missing, [Missing { tag: "gpu".into(), workers: 2 }]);
    let split = [joined(1, 1, &["golang"]), joined(2, 1, &["gpu"])].concat();
    assert_eq!(
        why([split, wants(1, &["gpu"])], nobody()).summary,
        "no registered worker suits all of `golang gpu`; the nearest is `w1`, which lacks `gpu`; the run waits until one joins"
    );
    assert_eq!(
        why([workers(), pinned(1, "w9")], nobody()).summary,
        "the run is pinned to worker `w9`, which is not registered"
    );
    let bare = joined(3, 1, &[]);
    assert_eq!(
        why([bare, pinned(1, "w3")], nobody()).summary,
        "the run is pinned to worker `w3`, which lacks `golang`"
    );
}

#[test]
fn a_run_that_waits_for_its_turn_says_what_the_matching_workers_do() {
    let workers = (1..=5).flat_map(|n| joined(n, 1, &["golang"])).collect();
    let changes = vec![
        fact(2, WorkerChange::Suspended),
        fact(3, WorkerChange::Lost),
        fact(5, WorkerChange::DrainStarted),
    ];
    let first = own([submitted_with(1, 1, spec())]);
    let older = own([submitted_with(0, 1, spec()), submitted(9), assigned(9, 1, 1)]);
    let waits = why([workers, changes, first, older], attached(&[1, 2, 5]));
    assert_eq!(
        waits.summary,
        "5 workers match: 1 is busy, 1 is suspended, 1 is draining, 2 are not connected; 1 run \
         before it"
    );
    assert_eq!((waits.workers, waits.matching, waits.full, waits.draining), (5, 5, 1, 1));
    assert_eq!((waits.suspended, waits.not_connected, waits.queue_position), (1, 2, 1));
}

#[test]
fn a_run_that_does_not_wait_says_where_it_is() {
    let on = |worker, spec| vec![worker, own([submitted_with(1, 1, spec), assigned(1, 1, 1)])];
    let text = |given: Vec<Vec<Fact>>| why(given, attached(&[1])).summary;
    let any = || on(joined(1, 1, &["golang"]), spec());
    let roomy = "on worker `w1`: none that suited it had more free slots";
    assert_eq!(text(any()), format!("the run is assigned {roomy}"));
    let over = any().into_iter().chain([own([cancelled(1, "")])]).collect();
    assert_eq!(text(over), format!("the run has ended: cancelled, {roomy}"));
    let unplaced = vec![own([submitted(1), cancelled(1, "")])];
    assert_eq!(text(unplaced), "the run has ended: cancelled");
    let pinned = RunSpec { pinned_worker: "w1".into(), ..spec() };
    let preferred = RunSpec { selector: Selector::parse("ssd~10").unwrap(), ..spec() };
    for (given, rule) in [
        (on(joined(1, 1, &["golang"]), pinned), "it is pinned to it"),
        (on(primary(1, 1, &["golang"]), spec()), "no other worker that took runs suited it"),
        (
            on(joined(1, 1, &["golang"]), preferred),
            "none that suited it and had room was preferred more",
        ),
    ] {
        assert_eq!(text(given), format!("the run is assigned on worker `w1`: {rule}"));
    }
}

/// A worker that polls is one of Gaia's own agents: it reads neither build orders nor values.
#[test]
fn a_build_waits_for_a_worker_that_is_pushed() {
    let build = || {
        let spec = RunSpec { kind: RunKind::Build, artifact: None, jobs: vec![], ..spec() };
        own([submitted_with(1, 1, spec)])
    };
    let workers = || [joined(1, 1, &["golang"]), joined(2, 1, &["golang"])].concat();
    let polls = (1, Presence::Polls { free: 1 });
    assert_eq!(assign([workers(), wants(1, &[])], present(&[polls])), [(1, 1)]);
    assert_eq!(assign([workers(), build()], present(&[polls])), []);
    assert_eq!(assign([workers(), build()], present(&[polls, (2, Presence::Pushed)])), [(1, 2)]);
}
