//! Round trips, and the bytes of every version ever written.

use bytes::Bytes;
use eventlog::{Metadata, NewEvent};
use ids::EventId;
use proto::scheduler::{
    events::v1::{RunCancelled, RunFinished, RunSubmitted},
    v1::{RunKind, RunSpec, RunState},
};
use uuid::Uuid;

use super::*;

fn recorded(stream: &str, event_type: &str, data: impl Into<Bytes>) -> Recorded {
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

fn run() -> RunId {
    RunId::from_uuid(Uuid::from_u128(7))
}

fn build() -> Build {
    let argument = ArgumentSpec {
        description: "Version".into(),
        kind: "textfield".into(),
        key: "version".into(),
        default_value: "1".into(),
    };
    let job = JobSpec {
        id: 2,
        title: "Deploy".into(),
        description: "to the moon".into(),
        depends_on: vec![1],
        arguments: vec![argument],
    };
    Build {
        digest: Digest::from_bytes([9; 32]),
        size: 300,
        commit: "c0ffee".into(),
        jobs: vec![job],
    }
}

/// Each event and its bytes of version 1. What was written once is read for ever.
fn golden() -> Vec<(Event, &'static str)> {
    let (pipeline, at) = (PipelineId(3), Timestamp(1_000));
    let spec = Spec {
        name: "hello".into(),
        kind: PipelineType::Nodejs,
        url: "https://h/r".into(),
        branch: "main".into(),
        tags: vec!["gpu".into(), "eu".into()],
        pinned_worker: "big".into(),
    };
    let sealed = Sealed(vec![1, 2, 3]);
    vec![
        (
            Event::PipelineCreated { pipeline, spec, sealed, by: "user:ann".into(), at },
            "0803120568656c6c6f1a066e6f64656a73220b68747470733a2f2f682f722a046d61696e3203677075320265753a0362696742030102034a08757365723a616e6e50e807",
        ),
        (
            Event::BuildRequested { pipeline, run: run(), at },
            "0803122430303030303030302d303030302d303030302d303030302d30303030303030303030303718e807",
        ),
        (
            Event::PipelineBuilt { pipeline, run: run(), version: 4, build: build(), at },
            "0803122430303030303030302d303030302d303030302d303030302d3030303030303030303030371804226b0a20090909090909090909090909090909090909090909090909090909090909090910ac021a06633066666565223c080212064465706c6f791a0b746f20746865206d6f6f6e2201012a200a0756657273696f6e1209746578746669656c641a0776657273696f6e22013128e807",
        ),
        (
            Event::BuildFailed { pipeline, run: run(), reason: "no gcc".into(), at },
            "0803122430303030303030302d303030302d303030302d303030302d3030303030303030303030371a066e6f2067636320e807",
        ),
        (
            Event::PipelineDeleted { pipeline, by: "user:ann".into(), at },
            "08031208757365723a616e6e18e807",
        ),
    ]
}

#[test]
fn events_are_stored_as_they_always_were() {
    for (event, expected) in golden() {
        let encoded = encode(&event);
        let hex = format!("{:x}", Bytes::from(encoded.data.clone()));
        assert_eq!((encoded.version, hex.as_str()), (1, expected), "{event:?}");
        let back = decode(&recorded(&stream(&event), encoded.event_type, encoded.data)).unwrap();
        assert_eq!(back, Some(Fact::Pipeline(event)));
    }
}

#[test]
fn an_unknown_event_is_skipped_and_a_broken_one_is_not() {
    assert_eq!(decode(&recorded("pipeline-1", "PipelineRenamed", vec![1])).unwrap(), None);
    assert_eq!(decode(&recorded("worker-1", "PipelineDeleted", vec![1])).unwrap(), None);
    let broken = decode(&recorded("pipeline-1", "PipelineDeleted", vec![0xff])).unwrap_err();
    assert!(broken.to_string().contains("PipelineDeleted"), "{broken}");
}

fn run_event(event_type: &str, event: impl Message) -> Option<Fact> {
    decode(&recorded("run-7", event_type, event.encode_to_vec())).unwrap()
}

#[test]
fn of_submitted_runs_only_builds_matter() {
    let submitted = |kind: RunKind| RunSubmitted {
        run_id: run().to_string(),
        spec: Some(RunSpec { kind: kind.into(), pipeline_id: 3, ..RunSpec::default() }),
        ..RunSubmitted::default()
    };
    let noted = Fact::BuildSubmitted { run: run(), pipeline: PipelineId(3) };
    assert_eq!(run_event("RunSubmitted", submitted(RunKind::Build)), Some(noted));
    assert_eq!(run_event("RunSubmitted", submitted(RunKind::Pipeline)), None);
}

#[test]
fn an_end_of_a_run_is_an_outcome() {
    let finished = |state: RunState, reason: &str, build: Option<common::Build>| RunFinished {
        run_id: run().to_string(),
        state: state.into(),
        reason: reason.into(),
        build,
        ..RunFinished::default()
    };
    let failed = |reason: &str| Outcome::Failed(reason.into());
    let stored = build_to_proto(build());
    let no_digest = common::Build { digest: Bytes::new(), ..stored.clone() };
    for (event, outcome) in [
        (finished(RunState::Succeeded, "", Some(stored.clone())), Outcome::Built(build())),
        (finished(RunState::Failed, "no gcc", Some(stored)), failed("no gcc")),
        (finished(RunState::Failed, "", None), failed("the build failed; its log says why")),
        (
            finished(RunState::Succeeded, "", None),
            failed("the worker reported success, but not what it built"),
        ),
        (
            finished(RunState::Succeeded, "", Some(no_digest)),
            failed(
                "the worker's report is broken: `0 bytes` is not a valid digest: expected a sha256 of 32 bytes",
            ),
        ),
    ] {
        assert_eq!(run_event("RunFinished", event), Some(Fact::RunEnded { run: run(), outcome }));
    }
    let cancelled = RunCancelled { run_id: run().to_string(), reason: String::new(), at: 1 };
    let outcome = failed("the build was cancelled");
    assert_eq!(run_event("RunCancelled", cancelled), Some(Fact::RunEnded { run: run(), outcome }));
}
