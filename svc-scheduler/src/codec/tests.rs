//! The stored form of every event: it reads what it wrote, and what was ever written.

use ids::{Digest, LeaseToken, PipelineId, RunId, WorkerId};
use schema::golden::{Golden, recorded};
use uuid::Uuid;

use super::*;
use crate::domain::{
    ArgumentSpec, ArgumentValue, Build, JobSpec, JobState, Limit, OnWorkerLost, Policy, RunKind,
    RunSpec, Selector, Timeouts, WhenFull,
};

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

fn policy() -> Policy {
    Policy {
        priority: -3,
        groups: vec!["db".parse().unwrap()],
        on_worker_lost: OnWorkerLost::Wait,
        retries: 2,
        retry_delay: 30,
        infrastructure_retries: Some(0),
        timeouts: Timeouts { queue: 60, start: 90, run: 70, silence: 80 },
    }
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
        selector: Selector::parse("mem>=16 !slow ssd~10 tolerate:ci").unwrap(),
        policy: policy(),
        not_before: Some(Timestamp(900)),
        rerun_of: Some(run()),
        done_jobs: vec![JobId(3)],
    }
}

/// As it is since version 6.
fn without_number(mut event: Event) -> Event {
    if let Event::RunSubmitted { number, .. } = &mut event {
        *number = RunNumber(0);
    }
    event
}

/// Every event, with every field set: what each line of `golden.txt` stands for.
fn every_event() -> Vec<Event> {
    let (run, attempt, at) = (run(), Attempt(2), Timestamp(300));
    let text = |text: &str| text.to_owned();
    let build =
        Build { digest: Digest::from_bytes([2; 32]), size: 6, commit: "c".into(), jobs: jobs() };
    let worker = WorkerId::from_uuid(Uuid::from_u128(2));
    let token = LeaseToken::from_uuid(Uuid::from_u128(3));
    let submitted = |spec| Event::RunSubmitted {
        run,
        number: RunNumber(4),
        spec: Arc::new(spec),
        start_reason: text("manual"),
        started_by: text("user:a"),
        at,
    };
    let version_4 = || {
        let timeouts = Timeouts { start: 0, ..policy().timeouts };
        RunSpec { policy: Policy { timeouts, ..policy() }, ..spec() }
    };
    let version_3 = || {
        let Policy { priority, groups, .. } = policy();
        let policy = Policy { priority, groups, ..Policy::default() };
        RunSpec { policy, rerun_of: None, done_jobs: vec![], ..spec() }
    };
    let version_2 = || RunSpec { policy: Policy::default(), not_before: None, ..version_3() };
    let requeued = |cause, not_before| {
        let reason = text("r");
        Event::RunRequeued { run, attempt, reason, cause, not_before, at }
    };
    vec![
        submitted(RunSpec { selector: Selector::default(), ..version_2() }),
        submitted(version_2()),
        submitted(version_3()),
        submitted(version_4()),
        submitted(spec()),
        without_number(submitted(spec())),
        Event::RunNumbered { pipeline: PipelineId(9), number: RunNumber(4), run, at },
        Event::RunDue { run, at },
        Event::LimitChanged {
            gate: Gate::Group("db".parse().unwrap()),
            limit: Some(Limit { running: 7, when_full: WhenFull::CancelNewer }),
            by: text("user:a"),
            note: text("n"),
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
        requeued(Cause::Infrastructure, None),
        requeued(Cause::Run, Some(Timestamp(900))),
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

#[test]
fn events_are_stored_as_they_always_were_and_read_back() {
    let bytes = include_str!("golden.txt");
    let golden = Golden { bytes, events: every_event(), stream, encode, decode };
    golden.check("gaia.scheduler.events.v1");
}

#[test]
fn what_the_registry_says_of_a_worker_is_read() {
    let worker = WorkerId::from_uuid(Uuid::from_u128(2));
    let worker_id = worker.to_string();
    let read = |event_type, data| {
        let stream = format!("worker-{worker}");
        match decode(&recorded(&stream, event_type, 1, data)).unwrap() {
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
fn what_operators_did_with_a_worker_is_read() {
    let worker = WorkerId::from_uuid(Uuid::from_u128(2));
    let worker_id = || worker.to_string();
    let read = |event_type, data| {
        let stream = format!("worker-{worker}");
        match decode(&recorded(&stream, event_type, 1, data)).unwrap() {
            Some(Fact::Worker(fact)) if fact.worker == worker => fact.change,
            other => panic!("{other:?}"),
        }
    };
    let (name, note) = ("w".to_owned(), "n".to_owned());
    let renamed = registry::WorkerRenamed { worker_id: worker_id(), name, note, at: 3 };
    let change = WorkerChange::Renamed { name: "w".into() };
    assert_eq!(read("WorkerRenamed", renamed.encode_to_vec()), change);
    let (added, removed) = (vec!["gpu".to_owned()], vec!["-gpu".to_owned()]);
    let changed = registry::WorkerTagsChanged {
        worker_id: worker_id(),
        added: added.clone(),
        removed: removed.clone(),
        ..Default::default()
    };
    let change = WorkerChange::TagsChanged { added, removed };
    assert_eq!(read("WorkerTagsChanged", changed.encode_to_vec()), change);
    let started = registry::WorkerDrainStarted { worker_id: worker_id(), ..Default::default() };
    assert_eq!(read("WorkerDrainStarted", started.encode_to_vec()), WorkerChange::DrainStarted);
    let expired = registry::WorkerDrainExpired { worker_id: worker_id(), at: 3 };
    assert_eq!(read("WorkerDrainExpired", expired.encode_to_vec()), WorkerChange::DrainExpired);
}

#[test]
fn an_event_of_no_run_is_damage_and_a_newer_one_of_a_worker_refused() {
    let error = decode(&recorded("run-1", "RunStarted", 1, vec![])).unwrap_err().to_string();
    assert!(error.starts_with("decode event 9 (RunStarted in `run-1`)"), "{error}");
    let error = decode(&recorded("worker-1", "WorkerLost", 7, vec![])).unwrap_err().to_string();
    assert!(error.contains("it has version 7, and this program reads versions up to 1"), "{error}");
    assert_eq!(decode(&recorded("worker-1", "WorkerPondered", 7, vec![])).unwrap(), None);
}
