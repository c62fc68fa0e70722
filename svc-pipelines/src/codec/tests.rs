//! What was written once is read for ever, and what is read of the scheduler's.

use bytes::Bytes;
use proto::scheduler::{
    events::v1::{RunCancelled, RunFinished, RunSubmitted},
    v1::{RunKind, RunSpec, RunState},
};
use schema::golden::{Golden, recorded};
use uuid::Uuid;

use super::*;
use crate::domain::{MissedTicks, SchedulesWish, schedule};

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

fn policy() -> Policy {
    Policy {
        on_worker_lost: OnWorkerLost::Fail,
        retries: 2,
        retry_delay: 30,
        infrastructure_retries: Some(0),
        queue_timeout: 60,
        start_timeout: 90,
        run_timeout: 70,
        silence_timeout: 80,
        ..first_policy()
    }
}

/// As it was before it had a start timeout.
fn second_policy() -> Policy {
    Policy { start_timeout: 0, ..policy() }
}

/// As it was before it had retries and timeouts.
fn first_policy() -> Policy {
    Policy { priority: -3, groups: vec!["db".into()], ..Policy::default() }
}

/// What each line of `golden.txt` stands for.
fn events() -> Vec<Event> {
    let (pipeline, at) = (PipelineId(3), Timestamp(1_000));
    let spec = Spec {
        name: "hello".into(),
        kind: PipelineType::Nodejs,
        url: "https://h/r".into(),
        branch: "main".into(),
        tags: vec!["gpu".into(), "eu".into()],
        pinned_worker: "big".into(),
        selector: "mem>=16".into(),
        policy: policy(),
    };
    let changed = |policy| Event::PipelineChanged {
        pipeline,
        name: "new".into(),
        tags: vec!["eu".into()],
        pinned_worker: "big".into(),
        selector: "ssd".into(),
        policy,
        by: "user:ann".into(),
        at,
    };
    let created = |spec| {
        let (sealed, by) = (Sealed(vec![1, 2, 3]), "user:ann".into());
        Event::PipelineCreated { pipeline, spec, sealed, by, at }
    };
    vec![
        // Version 1 had no selector, version 2 no policy.
        created(Spec { selector: String::new(), policy: Policy::default(), ..spec.clone() }),
        created(Spec { policy: Policy::default(), ..spec.clone() }),
        created(Spec { policy: first_policy(), ..spec.clone() }),
        created(Spec { policy: second_policy(), ..spec.clone() }),
        created(spec),
        changed(first_policy()),
        changed(second_policy()),
        changed(policy()),
        Event::BuildRequested { pipeline, run: run(), at },
        Event::PipelineBuilt { pipeline, run: run(), version: 4, build: build(), at },
        Event::BuildFailed { pipeline, run: run(), reason: "no gcc".into(), at },
        Event::PipelineDeleted { pipeline, by: "user:ann".into(), at },
    ]
    .into_iter()
    .chain(plan_events().map(Event::Plan))
    .collect()
}

fn plan_events() -> [schedule::Event; 8] {
    let (pipeline, at, tick) = (PipelineId(3), Timestamp(1_000), Timestamp(2_000));
    let (by, cron) = (|| "user:ann".to_owned(), || "@every 1h".to_owned());
    let wish = SchedulesWish {
        crons: vec!["0 0 3 * * *".into(), cron()],
        time_zone: "Europe/Berlin".into(),
        missed: MissedTicks::Once,
    };
    let schedules = wish.read().unwrap();
    let hash = Digest::from_bytes([9; 32]);
    [
        schedule::Event::SchedulesSet { pipeline, schedules, by: by(), at },
        schedule::Event::ScheduleFired { pipeline, cron: cron(), tick, run: run(), at },
        schedule::Event::TickSkipped { pipeline, cron: cron(), tick, reason: "away".into(), at },
        schedule::Event::StartRefused { pipeline, run: run(), reason: "no".into(), at },
        schedule::Event::TriggerTokenSet { pipeline, hash: Some(hash), by: by(), at },
        schedule::Event::TriggerTokenSet { pipeline, hash: None, by: by(), at },
        schedule::Event::ScheduleRewound { pipeline, cron: cron(), covered: tick, at },
        schedule::Event::StartConfirmed { pipeline, run: run(), at },
    ]
}

#[test]
fn events_are_stored_as_they_always_were() {
    let bytes = include_str!("golden.txt");
    Golden { bytes, events: events(), stream, encode, decode }.check("gaia.pipelines.events.v1");
}

fn run_event(event_type: &str, event: impl Message) -> Option<Fact> {
    decode(&recorded("run-7", event_type, 1, event.encode_to_vec())).unwrap()
}

#[test]
fn of_submitted_runs_only_builds_and_scheduled_ones_matter() {
    let submitted = |kind: RunKind| RunSubmitted {
        run_id: run().to_string(),
        spec: Some(RunSpec { kind: kind.into(), pipeline_id: 3, ..RunSpec::default() }),
        ..RunSubmitted::default()
    };
    let noted = Fact::BuildSubmitted { run: run(), pipeline: PipelineId(3) };
    assert_eq!(run_event("RunSubmitted", submitted(RunKind::Build)), Some(noted));
    assert_eq!(run_event("RunSubmitted", submitted(RunKind::Pipeline)), None);
    let mut scheduled = submitted(RunKind::Pipeline);
    scheduled.start_reason = SCHEDULED.into();
    let noted = Fact::StartSubmitted { run: run(), pipeline: PipelineId(3) };
    assert_eq!(run_event("RunSubmitted", scheduled), Some(noted));
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
