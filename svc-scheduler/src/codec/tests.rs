//! The stored form of every event: it reads what it wrote, and what was ever written.

use eventlog::{Metadata, NewEvent};
use ids::{Digest, EventId, LeaseToken, PipelineId, RunId, WorkerId};
use uuid::Uuid;

use super::*;
use crate::domain::{ArgumentSpec, ArgumentValue, Build, JobSpec, JobState, RunKind, RunSpec};

fn recorded(stream: &str, event_type: &str, data: Vec<u8>) -> Recorded {
    let metadata = Metadata { version: 1, ..Metadata::default() };
    let id = EventId::from_uuid(Uuid::nil());
    let event = NewEvent::new(id, event_type, data, &metadata);
    let (position, revision, recorded_at) = (7, 0, Timestamp(0));
    Recorded { position, stream: stream.into(), revision, recorded_at, event }
}

fn run() -> RunId {
    RunId::from_uuid(Uuid::from_u128(1))
}

fn jobs() -> Vec<JobSpec> {
    vec![JobSpec {
        id: JobId(3),
        title: "t".into(),
        description: "d".into(),
        depends_on: vec![JobId(2)],
        arguments: vec![ArgumentSpec {
            description: "a".into(),
            kind: "textfield".into(),
            key: "k".into(),
            default_value: "v".into(),
        }],
    }]
}

fn spec() -> RunSpec {
    RunSpec {
        kind: RunKind::Build,
        pipeline: PipelineId(9),
        pipeline_name: "n".into(),
        pipeline_type: "golang".into(),
        tags: vec!["x".into()],
        pinned_worker: "w".into(),
        artifact: Some(Digest::from_bytes([1; 32])),
        artifact_size: 5,
        jobs: jobs(),
        arguments: vec![ArgumentValue { key: "k".into(), value: "v".into() }],
        source_url: "u".into(),
        source_branch: "b".into(),
    }
}

/// Every event, with every field set.
fn every_event() -> Vec<Event> {
    let (run, attempt, at) = (run(), Attempt(2), Timestamp(300));
    let text = |text: &str| text.to_owned();
    let build =
        Build { digest: Digest::from_bytes([2; 32]), size: 6, commit: "c".into(), jobs: jobs() };
    let worker = WorkerId::from_uuid(Uuid::from_u128(2));
    let token = LeaseToken::from_uuid(Uuid::from_u128(3));
    vec![
        Event::RunSubmitted {
            run,
            number: RunNumber(4),
            spec: Arc::new(spec()),
            start_reason: text("manual"),
            started_by: text("user:a"),
            at,
        },
        Event::RunAssigned { run, attempt, worker, token, at },
        Event::RunStarted { run, attempt, at },
        Event::JobStarted { run, attempt, job: JobId(3), at },
        Event::JobFinished {
            run,
            attempt,
            job: JobId(3),
            state: JobState::Failed,
            message: text("m"),
            at,
        },
        Event::RunRequeued { run, attempt, reason: text("r"), at },
        Event::RunCancelRequested { run, by: text("user:a"), note: text("n"), at },
        Event::RunCancelled { run, reason: text("r"), at },
        Event::RunFinished {
            run,
            attempt,
            outcome: Outcome::Succeeded,
            reason: text("r"),
            stopped_early: true,
            build: Some(Arc::new(build)),
            at,
        },
    ]
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2);
    digits.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn events_are_stored_as_they_always_were_and_read_back() {
    let golden: Vec<_> = include_str!("version-1.txt").lines().collect();
    let events = every_event();
    assert_eq!(golden.len(), events.len());
    for (event, expected) in events.into_iter().zip(golden) {
        let Encoded { event_type, version, data } = encode(&event);
        assert_eq!((format!("{event_type} {}", hex(&data)).as_str(), version), (expected, 1));
        let (event_type, stored) = expected.split_once(' ').unwrap();
        let read = decode(&recorded(&stream(&event), event_type, unhex(stored)));
        assert_eq!(read.unwrap(), Some(Fact::Run(event)));
    }
}

#[test]
fn what_the_registry_says_of_a_worker_is_read() {
    let worker = WorkerId::from_uuid(Uuid::from_u128(2));
    let worker_id = worker.to_string();
    let read = |event_type, data| {
        let stream = format!("worker-{worker}");
        match decode(&recorded(&stream, event_type, data)).unwrap() {
            Some(Fact::Worker(fact)) if fact.worker == worker => fact.change,
            other => panic!("{other:?}"),
        }
    };
    let tags = vec!["golang".to_owned()];
    let registered = registry::WorkerRegistered {
        worker_id: worker_id.clone(),
        name: "w".into(),
        tags: tags.clone(),
        primary: true,
        ..Default::default()
    };
    assert_eq!(
        read("WorkerRegistered", registered.encode_to_vec()),
        WorkerChange::Registered { name: "w".into(), tags: tags.clone(), primary: true }
    );
    let reported = registry::WorkerReported {
        worker_id: worker_id.clone(),
        slots: -1,
        tags: tags.clone(),
        ..Default::default()
    };
    assert_eq!(
        read("WorkerReported", reported.encode_to_vec()),
        WorkerChange::Reported { slots: 0, tags }
    );
    // The others have the id alone in common, as their first field.
    let other = registry::WorkerReturned { worker_id, at: 3 }.encode_to_vec();
    for (event_type, change) in
        [("WorkerReturned", WorkerChange::Returned), ("WorkerResumed", WorkerChange::Resumed)]
    {
        assert_eq!(read(event_type, other.clone()), change);
    }
    let lost = registry::WorkerLost { worker_id: worker.to_string(), ..Default::default() };
    assert_eq!(read("WorkerLost", lost.encode_to_vec()), WorkerChange::Lost);
    let out = registry::WorkerDeregistered { worker_id: worker.to_string(), ..Default::default() };
    assert_eq!(read("WorkerDeregistered", out.encode_to_vec()), WorkerChange::Deregistered);
    let paused = registry::WorkerSuspended { worker_id: worker.to_string(), ..Default::default() };
    assert_eq!(read("WorkerSuspended", paused.encode_to_vec()), WorkerChange::Suspended);
}

#[test]
fn what_is_not_needed_is_skipped_and_what_is_damaged_is_named() {
    assert_eq!(decode(&recorded("run-1", "RunPondered", vec![])).unwrap(), None);
    assert_eq!(decode(&recorded("worker-1", "WorkerPondered", vec![])).unwrap(), None);
    assert_eq!(decode(&recorded("runlog-1", "RunStarted", vec![])).unwrap(), None);
    for data in [vec![0xff], vec![]] {
        let error = decode(&recorded("run-1", "RunStarted", data)).unwrap_err().to_string();
        assert!(error.starts_with("decode event 7 (RunStarted in `run-1`)"), "{error}");
    }
}
