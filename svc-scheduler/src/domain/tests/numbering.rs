//! Numbers of runs: each is one run's, whoever gave it.

use super::*;

fn numbered(n: u128, number: u64) -> Event {
    let (pipeline, number) = (ids::PipelineId(1), RunNumber(number));
    Event::RunNumbered { pipeline, number, run: run(n), at: at(n as u64) }
}

fn new(n: u128) -> Event {
    submitted_with(n, 0, spec())
}

fn number_of(state: &State, n: u128) -> u64 {
    state.run(run(n)).unwrap().number.0
}

#[test]
fn runs_of_a_pipeline_are_numbered_and_builds_are_not() {
    let third = || Ok(vec![numbered(3, 3), new(3)]);
    let given = [numbered(1, 1), new(1), numbered(2, 2), new(2)];
    check([own(given)], submit(3, spec()), third());
    // Those that were submitted before numbers were claimed.
    check([own([submitted(1), submitted(2)])], submit(3, spec()), third());
    let build = submitted_with(3, 0, build_spec());
    check([own([submitted(1)])], submit(3, build_spec()), Ok(vec![build]));
    let pipeline = ids::PipelineId(2);
    let other = RunSpec { pipeline, ..spec() };
    let first = Event::RunNumbered { pipeline, number: RunNumber(1), run: run(3), at: at(3) };
    let then = vec![first, submitted_with(3, 0, other.clone())];
    check([own([submitted(1)])], submit(3, other), Ok(then));
}

#[test]
fn a_number_that_was_claimed_before_a_crash_is_used() {
    check([own([numbered(1, 1)])], submit(1, spec()), Ok(vec![new(1)]));
    check([own([numbered(1, 1)])], submit(2, spec()), Ok(vec![numbered(2, 2), new(2)]));
    let other = RunSpec { pipeline: ids::PipelineId(2), ..spec() };
    let state = State::replay(&own([numbered(1, 1)]));
    let again = decide(&state, submit(1, other)).unwrap();
    assert_eq!(again.len(), 2, "a number of another pipeline is none: {again:?}");
}

#[test]
fn a_run_whose_claim_was_refused_gets_a_number_of_its_own() {
    let given = || own([numbered(2, 1), new(1), new(2), new(3)]);
    let state = State::replay(&given());
    assert_eq!([1, 2, 3].map(|n| number_of(&state, n)), [0, 1, 0]);
    assert!(state.is_number_missing());
    let claims = decide(&state, Command::NumberRuns { at: at(7) }).unwrap();
    let claim = |n, number| match numbered(n, number) {
        Event::RunNumbered { pipeline, number, run, .. } => {
            Event::RunNumbered { pipeline, number, run, at: at(7) }
        }
        other => other,
    };
    assert_eq!(claims, [claim(1, 2), claim(3, 3)]);
    let all: Vec<_> = given().into_iter().chain(claims.into_iter().map(Fact::Run)).collect();
    let state = State::replay(&all);
    assert!(!state.is_number_missing());
    assert_eq!([1, 2, 3].map(|n| number_of(&state, n)), [2, 1, 3]);
    assert_eq!(state.numbered(ids::PipelineId(1), RunNumber(2)), Some(run(1)));
    assert_eq!(decide(&state, Command::NumberRuns { at: at(8) }), Ok(vec![]));
}

#[test]
fn of_two_old_runs_with_one_number_the_older_is_found_by_it() {
    let old = |n| submitted_with(n, 1, spec());
    for given in [own([old(1), old(2)]), own([old(2), old(1)])] {
        let state = State::replay(&given);
        assert_eq!(state.numbered(ids::PipelineId(1), RunNumber(1)), Some(run(1)));
        assert!(!state.is_number_missing());
    }
}
