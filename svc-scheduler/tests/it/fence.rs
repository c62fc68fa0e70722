//! A leader that was paused is asked for everything, and writes nothing.

use std::time::Duration;

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use nix::sys::signal::Signal;
use proto::{
    common::v1::Lease,
    scheduler::v1::{
        self as pb, AttachWorkerRequest, ReportRunRequest, ReportedState, RunReport, instruction,
        scheduler_client::SchedulerClient,
    },
};
use tonic::{Status, Streaming};
use transport::Channel;

use crate::house::{House, run_id, soon, start_of, worker_id};

type Client = SchedulerClient<Channel>;

async fn attach(
    client: &Client,
    worker: u128,
    push: bool,
    held: Vec<Lease>,
) -> Result<Streaming<pb::Instruction>, Status> {
    let worker_id = worker_id(worker);
    let request = AttachWorkerRequest { worker_id, push, free_slots: 5, draining: false, held };
    Ok(client.clone().attach_worker(request).await?.into_inner())
}

async fn report(client: &Client, lease: Lease, state: ReportedState) -> Result<(), Status> {
    let request = ReportRunRequest {
        worker_id: worker_id(1),
        lease: Some(lease),
        report: Some(RunReport { state: state.into(), ..Default::default() }),
        caller: None,
    };
    client.clone().report_run(request).await.map(drop)
}

async fn cancel(client: &Client, run: u128) -> Result<(), Status> {
    let request = pb::CancelRunRequest {
        run: Some(pb::GetRunRequest { run_id: run_id(run), ..Default::default() }),
        ..Default::default()
    };
    client.clone().cancel_run(request).await.map(drop)
}

async fn limit(client: &Client, pipeline: u64) -> Result<(), Status> {
    let request = pb::SetLimitRequest {
        gate: Some(pb::Gate { gate: Some(pb::gate::Gate::PipelineId(pipeline)) }),
        limit: Some(pb::Limit { running: 100, ..Default::default() }),
        ..Default::default()
    };
    client.clone().set_limit(request).await.map(drop)
}

async fn state(client: &Client, run: u128) -> Result<pb::RunState, Status> {
    let request = pb::GetRunRequest { run_id: run_id(run), ..Default::default() };
    Ok(client.clone().get_run(request).await?.into_inner().state())
}

/// Of the run that the worker is told to begin next.
async fn told(line: &mut Streaming<pb::Instruction>) -> Lease {
    match soon(line.message()).await.unwrap().unwrap().instruction.unwrap() {
        instruction::Instruction::Start(start) => start.lease.unwrap(),
        instruction::Instruction::Cancel(lease) => panic!("cancel {lease:?}"),
    }
}

/// Each kind of command that callers have, and looks.
fn everything(client: &Client, lease: &Lease) -> Vec<BoxFuture<'static, Result<(), Status>>> {
    let submit = |run| {
        let mut client = client.clone();
        async move { client.submit_run(start_of(run_id(run))).await.map(drop) }.boxed()
    };
    let attach = |worker, push| {
        let client = client.clone();
        async move { attach(&client, worker, push, vec![]).await.map(drop) }.boxed()
    };
    let cancel = |run| {
        let client = client.clone();
        async move { cancel(&client, run).await }.boxed()
    };
    let limit = |pipeline| {
        let client = client.clone();
        async move { limit(&client, pipeline).await }.boxed()
    };
    let (reporter, lease, looker) = (client.clone(), lease.clone(), client.clone());
    vec![
        submit(9),
        submit(1),
        cancel(1),
        cancel(2),
        limit(1),
        limit(7),
        attach(1, true),
        attach(2, true),
        attach(2, false),
        async move { report(&reporter, lease, ReportedState::Succeeded).await }.boxed(),
        async move { state(&looker, 1).await.map(drop) }.boxed(),
    ]
}

#[tokio::test]
async fn a_paused_leader_that_is_asked_for_everything_writes_nothing() {
    let house = House::start(Duration::from_millis(500));
    let old = house.scheduler().await;
    house.leads(&old).await;
    house.register(1, 1).await;
    house.register(2, 5).await;
    limit(&old.client, 1).await.unwrap();
    let mut line = attach(&old.client, 1, true, vec![]).await.unwrap();
    for run in 1..=3 {
        old.client.clone().submit_run(start_of(run_id(run))).await.unwrap();
    }
    let lease = told(&mut line).await;
    report(&old.client, lease.clone(), ReportedState::Running).await.unwrap();
    let new = house.scheduler().await;
    new.stands_by().await;

    old.pause().await;
    let asking = old.client.clone();
    let asked = everything(&old.client, &lease);
    let all = tokio::spawn(join_all(asked));
    house.leads(&new).await;
    assert_eq!(state(&new.client, 1).await.unwrap(), pb::RunState::Running);
    let end = house.log.next_position().await.unwrap();
    old.signal(Signal::SIGCONT);
    for (number, answer) in soon(all).await.unwrap().into_iter().enumerate() {
        assert!(answer.is_err(), "the old leader answered number {number}");
    }
    old.stands_by().await;
    assert!(state(&asking, 1).await.is_err());
    assert_eq!(house.log.next_position().await.unwrap(), end, "the old leader wrote");
    // Its workers heard that it is over, and go on where they were.
    soon(async { while let Ok(Some(_)) = line.message().await {} }).await;
    let mut line = attach(&new.client, 1, true, vec![lease.clone()]).await.unwrap();
    report(&new.client, lease, ReportedState::Succeeded).await.unwrap();
    assert_eq!(told(&mut line).await.run_id, run_id(2));
    assert_eq!(state(&new.client, 1).await.unwrap(), pb::RunState::Succeeded);
}

#[tokio::test]
async fn an_idle_leader_and_its_standby_write_nothing() {
    let house = House::start(Duration::from_secs(2));
    let leader = house.scheduler().await;
    house.leads(&leader).await;
    let standby = house.scheduler().await;
    standby.stands_by().await;
    let end = house.log.next_position().await.unwrap();
    assert_eq!(end, 1, "an election, and nothing else");
    // The word of the leader goes on for longer than its lease.
    let mut beats = house.beats(&leader).await;
    for _ in 0..6 {
        assert!(soon(beats.message()).await.unwrap().unwrap().leads);
    }
    let refused = standby.client.clone().list_limits(pb::ListLimitsRequest {}).await.unwrap_err();
    assert!(refused.message().contains(&leader.address), "{refused}");
    assert_eq!(house.log.next_position().await.unwrap(), end);
}

#[tokio::test]
async fn a_leader_that_is_asked_to_end_makes_room_at_once() {
    // Whoever had to wait for this lease would wait too long for the test.
    let house = House::start(Duration::from_mins(10));
    let old = house.scheduler().await;
    house.leads(&old).await;
    old.client.clone().submit_run(start_of(run_id(1))).await.unwrap();
    let mut line = attach(&old.client, 1, true, vec![]).await.unwrap();
    let new = house.scheduler().await;
    new.stands_by().await;
    old.signal(Signal::SIGTERM);
    house.leads(&new).await;
    soon(async { while let Ok(Some(_)) = line.message().await {} }).await;
    assert_eq!(state(&new.client, 1).await.unwrap(), pb::RunState::Queued);
}
