//! What was written once is read for ever, and what is read of the scheduler's.

use schema::golden::{Golden, recorded};
use uuid::Uuid;

use super::*;

fn log() -> LogId {
    LogId { run: RunId::from_uuid(Uuid::from_u128(7)), attempt: Attempt(2) }
}

/// What each line of `golden.txt` stands for.
fn events() -> Vec<Event> {
    let seal = Seal { size: 300, digest: Digest::from_bytes([9; 32]) };
    let lack = Lack { gaps: 2, dropped: 500, incomplete: "gone".into(), missing: 4 };
    let sealed = |lack| Event::LogSealed { log: log(), seal, lack, at: Timestamp(1_000) };
    vec![sealed(Lack::default()), sealed(lack)]
}

#[test]
fn events_are_stored_as_they_always_were() {
    let bytes = include_str!("golden.txt");
    Golden { bytes, events: events(), stream, encode, decode }.check("gaia.logs.events.v1");
    assert_eq!(stream(&events()[0]), "runlog-00000000-0000-0000-0000-000000000007");
}

#[test]
fn a_seal_without_its_digest_is_damage() {
    assert!(decode(&recorded("runlog-7", "LogSealed", 1, vec![])).is_err());
}

#[test]
fn the_turning_points_of_runs_are_read() {
    let run_id = || log().run.to_string();
    let requeued = RunRequeued { run_id: run_id(), attempt: 2, ..RunRequeued::default() };
    let finished = RunFinished { run_id: run_id(), ..RunFinished::default() };
    let cancelled = RunCancelled { run_id: run_id(), ..RunCancelled::default() };
    let submitted = RunSubmitted { run_id: run_id(), ..RunSubmitted::default() };
    for (event_type, data, fact) in [
        ("RunSubmitted", submitted.encode_to_vec(), Some(Fact::RunSubmitted(log().run))),
        ("RunRequeued", requeued.encode_to_vec(), Some(Fact::AttemptOver(log()))),
        ("RunFinished", finished.encode_to_vec(), Some(Fact::RunOver(log().run))),
        ("RunCancelled", cancelled.encode_to_vec(), Some(Fact::RunOver(log().run))),
        ("RunAssigned", vec![], None),
    ] {
        assert_eq!(decode(&recorded("run-7", event_type, 1, data)).unwrap(), fact);
    }
}
