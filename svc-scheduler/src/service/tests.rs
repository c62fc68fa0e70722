//! The running service, over its own protocol, on a log in memory.

use std::{future::Future, pin::pin, time::Duration};

use eventlog::{Clock, Expected, Log, Metadata, NewEvent};
use identity::Peer;
use ids::{EventId, RunId, WorkerId};
use prost::Message;
use proto::{
    common::v1::{self as common, Lease},
    registry::events::v1 as registry,
    scheduler::v1::{
        self as pb, Assignment, AttachWorkerRequest, Instruction, ReportedState, RunState,
        instruction, scheduler_client::SchedulerClient,
    },
};
use tonic::{Code, Status, Streaming};
use transport::Channel;
use uuid::Uuid;

use super::*;

mod bad_input;
mod numbers;
mod simulation;

/// The service, its log, and a client.
struct House {
    log: Log,
    client: SchedulerClient<Channel>,
    task: JoinHandle<Result<(), ServiceError>>,
}

impl House {
    async fn start() -> Self {
        Self::on(Log::in_memory(Clock::system()), Config::default()).await
    }

    async fn on(log: Log, config: Config) -> Self {
        let deps = Deps { log: log.clone(), clock: Clock::system() };
        let Service { router, task } = start(deps, config).await.unwrap();
        let channel = Channel::local(router, Peer::Service("gateway".into()));
        Self { log, client: SchedulerClient::new(channel), task }
    }

    /// A new process on the same log.
    async fn restart(self) -> Self {
        let Self { log, client, task } = self;
        drop(client);
        within(task).await.unwrap().unwrap();
        Self::on(log, Config::default()).await
    }

    async fn record(&self, worker: u128, event_type: &str, event: impl Message) {
        record(&self.log, worker, event_type, event).await;
    }

    /// What the registry records when a worker joins.
    async fn register(&self, worker: u128, slots: i32, tags: &[&str]) {
        let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
        let worker_id = worker_id(worker);
        let name = format!("w{worker}");
        let registered = registry::WorkerRegistered {
            worker_id: worker_id.clone(),
            name,
            tags: tags.clone(),
            ..Default::default()
        };
        self.record(worker, "WorkerRegistered", registered).await;
        let reported = registry::WorkerReported { worker_id, slots, tags, ..Default::default() };
        self.record(worker, "WorkerReported", reported).await;
    }

    async fn lose(&self, worker: u128) {
        let lost = registry::WorkerLost { worker_id: worker_id(worker), ..Default::default() };
        self.record(worker, "WorkerLost", lost).await;
    }

    async fn submit(&mut self, run: u128, tags: &[&str]) -> pb::Run {
        let request = pb::SubmitRunRequest {
            run_id: run_id(run),
            spec: Some(spec(tags)),
            start_reason: "manual".into(),
            caller: Some(common::Caller { name: "user:alice".into(), ..Default::default() }),
        };
        self.client.submit_run(request).await.unwrap().into_inner()
    }

    async fn attach(&mut self, worker: u128, held: &[Lease]) -> Line {
        let request = AttachWorkerRequest {
            worker_id: worker_id(worker),
            push: true,
            held: held.to_vec(),
            ..Default::default()
        };
        Line(self.client.attach_worker(request).await.unwrap().into_inner())
    }

    async fn report(
        &mut self,
        worker: u128,
        lease: &Lease,
        state: ReportedState,
    ) -> Result<bool, Status> {
        let request = pb::ReportRunRequest {
            worker_id: worker_id(worker),
            lease: Some(lease.clone()),
            report: Some(pb::RunReport { state: state.into(), ..Default::default() }),
            caller: None,
        };
        Ok(self.client.report_run(request).await?.into_inner().cancel_requested)
    }

    async fn get(&mut self, run: u128) -> pb::Run {
        self.client.get_run(named(run)).await.unwrap().into_inner()
    }

    async fn watch(&mut self, run: u128) -> Streaming<pb::Run> {
        self.client.watch_run(named(run)).await.unwrap().into_inner()
    }

    async fn cancel(&mut self, run: u128) -> pb::Run {
        let request = pb::CancelRunRequest {
            run: Some(named(run)),
            note: "wrong branch".into(),
            caller: Some(common::Caller { name: "user:alice".into(), ..Default::default() }),
        };
        self.client.cancel_run(request).await.unwrap().into_inner()
    }

    /// Waits until the scheduler knows of the worker, since facts of others come when they come.
    async fn wait_for_load(&mut self, worker: u128) -> pb::Load {
        within(async {
            loop {
                let loads = self.client.list_loads(pb::ListLoadsRequest::default()).await.unwrap();
                let loads = loads.into_inner().loads;
                match loads.into_iter().find(|load| load.worker_id == worker_id(worker)) {
                    Some(load) => return load,
                    None => tokio::task::yield_now().await,
                }
            }
        })
        .await
    }
}

/// What the registry says of a worker.
async fn record(log: &Log, worker: u128, event_type: &str, event: impl Message) {
    let new = NewEvent::new(
        EventId::from_uuid(Uuid::from_u128(rand_id())),
        event_type,
        event.encode_to_vec(),
        &Metadata { version: 1, ..Metadata::default() },
    );
    let stream = format!("worker-{}", worker_id(worker));
    log.append(stream, Expected::Any, vec![new]).await.unwrap();
}

/// What an attached worker hears.
struct Line(Streaming<Instruction>);

impl Line {
    async fn next(&mut self) -> Option<instruction::Instruction> {
        within(self.0.message()).await.unwrap().map(|next| next.instruction.unwrap())
    }

    async fn start(&mut self) -> (Lease, pb::Run) {
        match self.next().await {
            Some(instruction::Instruction::Start(Assignment { lease, run })) => {
                (lease.unwrap(), run.unwrap())
            }
            other => panic!("expected an assignment, got {other:?}"),
        }
    }

    async fn cancel(&mut self) -> Lease {
        match self.next().await {
            Some(instruction::Instruction::Cancel(lease)) => lease,
            other => panic!("expected a cancel, got {other:?}"),
        }
    }
}

async fn within<T>(wish: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), pin!(wish)).await.expect("it took 10 s")
}

/// Until the run is in the state.
async fn until(watched: &mut Streaming<pb::Run>, state: RunState) -> pb::Run {
    within(async {
        loop {
            let run = watched.message().await.unwrap().expect("the watch ended too early");
            if run.state() == state {
                return run;
            }
        }
    })
    .await
}

fn named(run: u128) -> pb::GetRunRequest {
    pb::GetRunRequest { run_id: run_id(run), ..Default::default() }
}

fn run_id(number: u128) -> String {
    RunId::from_uuid(Uuid::from_u128(number)).to_string()
}

fn worker_id(number: u128) -> String {
    WorkerId::from_uuid(Uuid::from_u128(number)).to_string()
}

#[expect(clippy::disallowed_methods, reason = "tests mint as they like")]
fn rand_id() -> u128 {
    Uuid::new_v4().as_u128()
}

fn spec(tags: &[&str]) -> pb::RunSpec {
    pb::RunSpec {
        pipeline_id: 1,
        pipeline_name: "hello".into(),
        pipeline_type: "golang".into(),
        tags: tags.iter().map(ToString::to_string).collect(),
        artifact: vec![7; 32].into(),
        jobs: vec![common::JobSpec { id: 1, title: "build".into(), ..Default::default() }],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_submitted_run_is_pushed_and_followed_to_its_end() {
    let mut house = House::start().await;
    house.register(1, 1, &["golang"]).await;
    let mut line = house.attach(1, &[]).await;
    let submitted = house.submit(1, &[]).await;
    assert_eq!((submitted.number, submitted.started_by.as_str()), (1, "user:alice"));
    let mut watched = house.watch(1).await;
    let (lease, run) = line.start().await;
    assert_eq!((run.run_id, lease.attempt), (run_id(1), 1));
    house.report(1, &lease, ReportedState::Running).await.unwrap();
    until(&mut watched, RunState::Running).await;
    house.report(1, &lease, ReportedState::Succeeded).await.unwrap();
    let ended = until(&mut watched, RunState::Succeeded).await;
    assert_eq!(ended.jobs[0].state(), pb::JobState::Succeeded);
    assert_eq!(within(watched.message()).await.unwrap(), None);
    let load = house.wait_for_load(1).await;
    assert_eq!((load.finished_runs, load.run_ids.len(), load.connected), (1, 0, true));
    let named = pb::GetRunRequest { pipeline_id: 1, number: 1, ..Default::default() };
    assert_eq!(house.client.get_run(named).await.unwrap().into_inner(), ended);
}

#[tokio::test]
async fn a_run_waits_for_a_slot_and_is_pushed_when_one_is_free() {
    let mut house = House::start().await;
    house.register(1, 1, &["golang"]).await;
    let mut line = house.attach(1, &[]).await;
    house.submit(1, &[]).await;
    house.submit(2, &[]).await;
    let (first, _) = line.start().await;
    assert_eq!(house.get(2).await.reason, "1 worker matches: 1 is busy");
    house.report(1, &first, ReportedState::Failed).await.unwrap();
    let (second, _) = line.start().await;
    assert_eq!(second.run_id, run_id(2));
}

#[tokio::test]
async fn what_was_not_begun_is_sent_again_after_a_restart_of_the_scheduler() {
    let mut house = House::start().await;
    house.register(1, 2, &["golang"]).await;
    let mut line = house.attach(1, &[]).await;
    house.submit(1, &[]).await;
    house.submit(2, &[]).await;
    let mut leases = [line.start().await.0, line.start().await.0];
    leases.sort_by(|a, b| a.run_id.cmp(&b.run_id));
    house.report(1, &leases[0], ReportedState::Running).await.unwrap();
    let before = [house.get(1).await, house.get(2).await];
    drop(line);
    let mut house = house.restart().await;
    assert_eq!([house.get(1).await, house.get(2).await], before);
    let mut line = house.attach(1, &leases[..1]).await;
    assert_eq!(line.start().await.0, leases[1]);
    house.report(1, &leases[0], ReportedState::Succeeded).await.unwrap();
}

#[tokio::test]
async fn a_start_under_a_known_id_is_no_second_one_also_after_a_restart() {
    let mut house = House::start().await;
    let first = house.submit(1, &[]).await;
    house.cancel(1).await;
    let length = house.log.next_position().await.unwrap();
    let mut house = house.restart().await;
    let again = house.submit(1, &[]).await;
    assert_eq!((again.run_id, again.number), (first.run_id, first.number));
    assert_eq!(again.state, i32::from(RunState::Cancelled));
    assert_eq!(house.log.next_position().await.unwrap(), length);
}

#[tokio::test]
async fn the_runs_of_a_lost_worker_move_and_the_old_lease_is_refused() {
    let mut house = House::start().await;
    house.register(1, 1, &["golang"]).await;
    let mut line = house.attach(1, &[]).await;
    house.submit(1, &[]).await;
    let (old, _) = line.start().await;
    house.report(1, &old, ReportedState::Running).await.unwrap();
    house.register(2, 1, &["golang"]).await;
    let mut other = house.attach(2, &[]).await;
    house.lose(1).await;
    let (new, run) = other.start().await;
    assert_eq!((new.attempt, run.attempts[0].requeue_reason.as_str()), (2, "worker w1 was lost"));
    // The worker is attached after all, so it hears that the run is no longer its own.
    assert_eq!(line.cancel().await, old);
    let refused = house.report(1, &old, ReportedState::Succeeded).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("attempt is 2, on worker w2"), "{refused}");
    house.report(2, &new, ReportedState::Succeeded).await.unwrap();
    assert_eq!(house.get(1).await.state(), RunState::Succeeded);
}

#[tokio::test]
async fn an_agent_that_restarted_gives_up_the_run_that_it_had_begun() {
    let mut house = House::start().await;
    house.register(1, 1, &["golang"]).await;
    let mut line = house.attach(1, &[]).await;
    house.submit(1, &[]).await;
    let (old, _) = line.start().await;
    house.report(1, &old, ReportedState::Running).await.unwrap();
    let mut line = house.attach(1, &[]).await;
    let (new, run) = line.start().await;
    assert_eq!(new.attempt, 2);
    assert_eq!(run.attempts[0].requeue_reason, "the agent restarted and lost the run");
    // And one that comes with a lease that is over is told to stop just that.
    drop(line);
    let mut line = house.attach(1, &[old.clone(), new]).await;
    assert_eq!(line.cancel().await, old);
}

#[tokio::test]
async fn a_cancel_reaches_the_worker_and_a_late_success_does_not_undo_it() {
    let mut house = House::start().await;
    house.register(1, 1, &["golang"]).await;
    let mut line = house.attach(1, &[]).await;
    house.submit(1, &[]).await;
    let (lease, _) = line.start().await;
    assert!(!house.report(1, &lease, ReportedState::Running).await.unwrap());
    assert!(house.cancel(1).await.cancel_requested);
    assert_eq!(line.cancel().await, lease);
    assert!(house.report(1, &lease, ReportedState::Running).await.unwrap());
    house.report(1, &lease, ReportedState::Succeeded).await.unwrap();
    let ended = house.get(1).await;
    assert_eq!(ended.state(), RunState::Cancelled);
    assert_eq!(ended.reason, "cancelled by user:alice: wrong branch");
    assert_eq!(house.cancel(1).await, ended);
}

#[tokio::test]
async fn a_worker_that_polls_gets_one_run_at_a_time() {
    let mut house = House::start().await;
    house.register(1, 0, &["golang"]).await;
    house.wait_for_load(1).await;
    house.submit(1, &[]).await;
    house.submit(2, &[]).await;
    let poll = AttachWorkerRequest { worker_id: worker_id(1), free_slots: 3, ..Default::default() };
    let mut line = Line(house.client.attach_worker(poll.clone()).await.unwrap().into_inner());
    let (lease, _) = line.start().await;
    assert_eq!(line.next().await, None);
    // Gaia's own agents know nothing of leases.
    let unnamed = Lease { run_id: lease.run_id, attempt: 0, token: String::new() };
    house.report(1, &unnamed, ReportedState::Running).await.unwrap();
    house.report(1, &unnamed, ReportedState::Succeeded).await.unwrap();
    let mut line = Line(house.client.attach_worker(poll).await.unwrap().into_inner());
    assert_eq!(line.start().await.0.run_id, run_id(2));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_polls_while_it_drains_is_not_waited_for() {
    let mut house = House::start().await;
    house.register(1, 0, &["golang"]).await;
    house.register(2, 1, &["golang"]).await;
    let mut line = house.attach(2, &[]).await;
    house.submit(1, &[]).await;
    let (lease, _) = line.start().await;
    let (worker_id, draining) = (worker_id(1), true);
    let poll = AttachWorkerRequest { worker_id, draining, free_slots: 1, ..Default::default() };
    let mut none = Line(house.client.attach_worker(poll).await.unwrap().into_inner());
    assert_eq!(none.next().await, None);
    // Any other worker that takes runs would be better than the one that had it.
    house.report(2, &lease, ReportedState::GivenBack).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(line.start().await.0.attempt, 2);
    assert!(begun.elapsed() < Config::default().poll_grace);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_not_begun_in_time_goes_to_another_worker() {
    let start_timeout = Duration::from_secs(5);
    let config = Config { start_timeout, ..Config::default() };
    let mut house = House::on(Log::in_memory(Clock::system()), config).await;
    house.register(1, 1, &["golang"]).await;
    let mut silent = house.attach(1, &[]).await;
    house.submit(1, &[]).await;
    let (old, _) = silent.start().await;
    house.register(2, 1, &["golang"]).await;
    let mut line = house.attach(2, &[]).await;
    let (new, _) = line.start().await;
    assert_eq!(new.attempt, 2);
    assert_eq!(silent.cancel().await, old);
    // Whoever says that it has the run keeps it.
    house.report(2, &new, ReportedState::Unspecified).await.unwrap();
    tokio::time::sleep(start_timeout * 10).await;
    assert_eq!(house.get(1).await.attempts.len(), 2);
}

#[tokio::test]
async fn a_waiting_run_says_why() {
    let mut house = House::start().await;
    house.register(1, 1, &["golang"]).await;
    house.register(2, 1, &["golang", "linux"]).await;
    house.wait_for_load(2).await;
    house.submit(1, &["GPU"]).await;
    let why = house.client.explain_run(named(1)).await.unwrap().into_inner();
    let expected =
        "no registered worker has `gpu` (2 workers lack it); the run waits until one joins";
    assert_eq!(why.summary, expected);
    assert_eq!((why.workers, why.matching), (2, 0));
    assert_eq!(why.missing, [pb::MissingTag { tag: "gpu".into(), workers: 2 }]);
    assert_eq!(house.get(1).await.reason, expected);
    let runs = house.client.list_runs(pb::ListRunsRequest::default()).await.unwrap();
    assert_eq!(runs.into_inner().runs[0].reason, expected);
}

#[tokio::test]
async fn bad_requests_are_named() {
    let mut house = House::start().await;
    let mut bad = spec(&[]);
    bad.jobs[0].depends_on = vec![9];
    let request = pb::SubmitRunRequest { spec: Some(bad), ..Default::default() };
    let refused = house.client.submit_run(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("job `build` depends on job 9"), "{refused}");
    let refused = house.client.get_run(named(5)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let numbered = pb::GetRunRequest { pipeline_id: 3, number: 8, ..Default::default() };
    let refused = house.client.get_run(numbered).await.unwrap_err();
    assert_eq!(refused.message(), "pipeline 3 has no run 8");
    let lease = Lease { run_id: run_id(5), attempt: 1, token: "x".into() };
    let refused = house.report(1, &lease, ReportedState::Running).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("lease.token: `x`"), "{refused}");
}

#[tokio::test]
async fn a_log_replays_to_what_the_service_answers() {
    let mut house = House::start().await;
    house.register(1, 2, &["golang"]).await;
    let mut line = house.attach(1, &[]).await;
    for run in 1..=3 {
        house.submit(run, &[]).await;
    }
    let (lease, _) = line.start().await;
    line.start().await;
    house.report(1, &lease, ReportedState::Succeeded).await.unwrap();
    line.start().await;
    let mut replayed = State::default();
    let mut events = house.log.read_all(0, &[]);
    while let Some(recorded) = futures::StreamExt::next(&mut events).await {
        if let Some(fact) = crate::decode(&recorded.unwrap()).unwrap() {
            eventlog::Fold::evolve(&mut replayed, &fact);
        }
    }
    assert_eq!(replayed.runs().count(), 3);
    for run in 1..=3 {
        let id = RunId::from_uuid(Uuid::from_u128(run));
        assert_eq!(crate::view(&replayed, id), Some(house.get(run).await));
    }
}

#[tokio::test]
async fn a_report_of_a_thousand_jobs_is_stored_whole() {
    let mut house = House::start().await;
    house.register(1, 1, &["golang"]).await;
    let mut line = house.attach(1, &[]).await;
    let mut large = spec(&[]);
    large.jobs = (1..=1_000).map(|id| common::JobSpec { id, ..Default::default() }).collect();
    let request =
        pb::SubmitRunRequest { run_id: run_id(1), spec: Some(large), ..Default::default() };
    house.client.submit_run(request).await.unwrap();
    let (lease, _) = line.start().await;
    let job =
        |id| pb::JobStatus { id, state: pb::JobState::Succeeded.into(), ..Default::default() };
    let report = pb::RunReport {
        state: ReportedState::Succeeded.into(),
        jobs: (1..=1_000).map(job).collect(),
        ..Default::default()
    };
    // Twice as many events as one append may hold.
    let request = pb::ReportRunRequest {
        worker_id: worker_id(1),
        lease: Some(lease),
        report: Some(report),
        caller: None,
    };
    house.client.report_run(request).await.unwrap();
    let stored = house.log.read_stream(format!("run-{}", run_id(1)), 0, usize::MAX);
    assert_eq!(futures::StreamExt::count(stored).await, 2_004);
    drop(line);
    let mut house = house.restart().await;
    assert_eq!(house.get(1).await.state(), RunState::Succeeded);
}
