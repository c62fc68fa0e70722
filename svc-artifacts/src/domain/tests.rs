//! What is stored, needed and removed.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn blob(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

fn run(n: u8) -> RunId {
    RunId::from_uuid(Uuid::from_u128(n.into()))
}

fn stored(n: u8, at: u64) -> Fact {
    Event::ArtifactStored { digest: blob(n), size: 4, at: Timestamp(at) }.into()
}

fn built(pipeline: u64, n: u8, at: u64) -> Fact {
    let pipeline = PipelineId(pipeline);
    Fact::PipelineBuilt { pipeline, artifact: blob(n), at: Timestamp(at) }
}

fn submitted(n: u8, artifact: u8) -> Fact {
    Fact::RunSubmitted { run: run(n), artifact: blob(artifact) }
}

fn over(n: u8, at: u64) -> Fact {
    Fact::RunOver { run: run(n), at: Timestamp(at) }
}

/// Whether it is removed when it must have been idle since `since`.
fn goes(given: &[Fact], since: u64) -> bool {
    let (idle_since, at) = (Timestamp(since), Timestamp(10_000));
    let command = Command::RemoveArtifact { digest: blob(1), idle_since, at };
    let state = State::replay(given);
    let Ok(events) = decide(&state, command);
    assert_eq!(state.idle(idle_since).contains(&blob(1)), !events.is_empty());
    !events.is_empty()
}

#[test]
fn a_blob_is_stored_once() {
    let store = |at| Command::StoreArtifact { digest: blob(1), size: 4, at: Timestamp(at) };
    let event = Event::ArtifactStored { digest: blob(1), size: 4, at: Timestamp(1) };
    assert_eq!(decide(&State::default(), store(1)), Ok(vec![event]));
    assert_eq!(decide(&State::replay(&[stored(1, 1)]), store(2)), Ok(vec![]));
}

#[test]
fn a_blob_that_is_stored_again_a_day_later_counts_as_new() {
    const DAY: u64 = 86_400_000;
    let store = |at| Command::StoreArtifact { digest: blob(1), size: 4, at: Timestamp(at) };
    let mut given = vec![stored(1, 1)];
    assert_eq!(decide(&State::replay(&given), store(DAY)), Ok(vec![]));
    assert_eq!(decide(&State::replay(&given), store(DAY + 1)).unwrap().len(), 1);
    given.push(submitted(1, 1));
    assert_eq!(decide(&State::replay(&given), store(DAY + 1)), Ok(vec![]));
    given.extend([over(1, 2), stored(1, DAY + 1)]);
    assert!(!goes(&given, DAY));
    assert!(goes(&given, DAY + 1));
}

#[test]
fn a_blob_goes_some_time_after_it_was_stored() {
    assert!(!goes(&[], 99));
    assert!(!goes(&[stored(1, 10)], 9));
    assert!(goes(&[stored(1, 10)], 10));
}

#[test]
fn what_a_run_needs_stays_until_some_time_after_the_run() {
    let mut given = vec![stored(1, 10), submitted(1, 1), submitted(2, 1), over(1, 20)];
    assert!(!goes(&given, 99));
    given.push(over(2, 30));
    assert!(!goes(&given, 29));
    assert!(goes(&given, 30));
}

#[test]
fn what_a_pipeline_was_built_to_stays_until_it_is_built_anew_or_deleted() {
    let mut given = vec![stored(1, 10), built(1, 1, 11), built(2, 1, 12), built(2, 1, 13)];
    assert!(!goes(&given, 99));
    given.push(built(1, 2, 20));
    assert!(!goes(&given, 99));
    given.push(Fact::PipelineDeleted { pipeline: PipelineId(2), at: Timestamp(30) });
    assert!(!goes(&given, 29));
    assert!(goes(&given, 30));
}

#[test]
fn a_run_that_came_just_then_keeps_what_was_removed() {
    let removed = Event::ArtifactRemoved { digest: blob(1), at: Timestamp(50) };
    let mut given = vec![stored(1, 10), removed.into()];
    let state = State::replay(&given);
    assert_eq!((state.artifact(blob(1)), state.count()), (None, 0));
    assert_eq!(state.kept(Timestamp(49)), [blob(1)]);
    assert_eq!(state.kept(Timestamp(50)), []);
    given.push(submitted(1, 1));
    let state = State::replay(&given);
    assert!(state.artifact(blob(1)).is_some());
    assert_eq!(state.kept(Timestamp(99)), [blob(1)]);
    let again = Command::StoreArtifact { digest: blob(1), size: 4, at: Timestamp(60) };
    assert_eq!(decide(&state, again).unwrap().len(), 1);
}

proptest! {
    /// Own facts and foreign ones arrive in any order (`Rules::follows`).
    #[test]
    fn the_order_of_own_and_foreign_facts_does_not_matter(
        own in prop::collection::vec((0..4_u8, any::<bool>()), 0..12),
        foreign in prop::collection::vec((0..4_u8, 0..4_u8, 0..4_u8), 0..20),
        mix in prop::collection::vec(any::<bool>(), 32)
    ) {
        let own: Vec<Fact> = own.iter().zip(0..).map(|((n, is_stored), at)| {
            let removed = Event::ArtifactRemoved { digest: blob(*n), at: Timestamp(at) };
            if *is_stored { stored(*n, at) } else { removed.into() }
        }).collect();
        let foreign: Vec<Fact> = foreign.iter().zip(0..).map(|((what, a, b), at)| match what {
            0 => submitted(*a, *b),
            1 => over(*a, at),
            2 => built(u64::from(*a), *b, at),
            _ => Fact::PipelineDeleted { pipeline: PipelineId((*a).into()), at: Timestamp(at) },
        }).collect();
        let apart: Vec<Fact> = foreign.iter().chain(&own).cloned().collect();
        let (mut own, mut foreign) = (own.into_iter().peekable(), foreign.into_iter().peekable());
        let (mut mixed, mut mix) = (vec![], mix.into_iter().cycle());
        while own.peek().is_some() || foreign.peek().is_some() {
            let first = if mix.next() == Some(true) { own.next() } else { foreign.next() };
            mixed.extend(first.or_else(|| own.next()).or_else(|| foreign.next()));
        }
        prop_assert_eq!(State::replay(&mixed), State::replay(&apart));
    }

    #[test]
    fn what_is_needed_is_never_decided_away(
        foreign in prop::collection::vec((any::<bool>(), 0..9_u8), 0..20), since: u64
    ) {
        let mut given = vec![stored(1, 1)];
        given.extend(foreign.iter().map(|(starts, n)| {
            if *starts { submitted(*n, 1) } else { over(*n, 2) }
        }));
        let state = State::replay(&given);
        if state.uses.is_needed(blob(1)) {
            prop_assert!(!goes(&given, since));
        }
    }
}
