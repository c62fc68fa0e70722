//! Round trips, and the bytes of every version ever written.

use bytes::Bytes;
use eventlog::{Metadata, NewEvent};
use ids::EventId;
use uuid::Uuid;

use super::*;

fn recorded(stream: &str, event_type: &str, data: Vec<u8>) -> Recorded {
    Recorded {
        position: 0,
        stream: stream.into(),
        revision: 0,
        recorded_at: Timestamp(0),
        event: NewEvent::new(
            EventId::from_uuid(Uuid::nil()),
            event_type,
            data,
            &Metadata::default(),
        ),
    }
}

fn log() -> LogId {
    LogId { run: RunId::from_uuid(Uuid::from_u128(7)), attempt: Attempt(2) }
}

/// What was written once is read for ever.
#[test]
fn events_are_stored_as_they_always_were() {
    let seal = Seal { size: 300, digest: Digest::from_bytes([9; 32]) };
    let event = Event::LogSealed { log: log(), seal, at: Timestamp(1_000) };
    let encoded = encode(&event);
    let hex = format!("{:x}", Bytes::from(encoded.data.clone()));
    assert_eq!(
        (encoded.version, hex.as_str()),
        (
            1,
            "0a2430303030303030302d303030302d303030302d303030302d303030303030303030303037100218ac022220090909090909090909090909090909090909090909090909090909090909090928e807"
        )
    );
    assert_eq!(stream(&event), "runlog-00000000-0000-0000-0000-000000000007");
    let back = decode(&recorded(&stream(&event), encoded.event_type, encoded.data)).unwrap();
    assert_eq!(back, Some(Fact::Log(event)));
}

#[test]
fn an_unknown_event_is_skipped_and_a_broken_one_is_not() {
    assert_eq!(decode(&recorded("runlog-7", "LogRenamed", vec![1])).unwrap(), None);
    assert_eq!(decode(&recorded("run-7", "LogSealed", vec![1])).unwrap(), None);
    assert!(decode(&recorded("runlog-7", "LogSealed", vec![0xff])).is_err());
    assert!(decode(&recorded("runlog-7", "LogSealed", vec![])).is_err());
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
        assert_eq!(decode(&recorded("run-7", event_type, data)).unwrap(), fact);
    }
}
