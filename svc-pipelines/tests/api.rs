//! The service as its clients see it, over its own log, beside a scheduler that is played by the test.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eventlog::{Clock, Expected, Log, NewEvent, Recorded};
use futures::{StreamExt, stream::BoxStream};
use identity::{MasterKey, Peer};
use ids::{Digest, EventId, Timestamp};
use prost::Message;
use proto::{
    common::v1::{Build, Caller, JobSpec},
    pipelines::v1::{
        BuildPipelineRequest, BuildState, CreatePipelineRequest, Credentials, GetPipelineRequest,
        ListPipelinesRequest, Pipeline, Schedules, pipelines_client::PipelinesClient,
    },
    scheduler::{
        events::v1::{RunCancelled, RunFinished, RunSubmitted},
        v1::{
            self as wire, Run, RunState, SubmitRunRequest,
            scheduler_client::SchedulerClient,
            scheduler_server::{Scheduler, SchedulerServer},
        },
    },
};
use svc_pipelines::{Config, Deps, Service};
use tokio::{sync::watch, time::timeout};
use tonic::{Code, Request, Response, Status};
use transport::Channel;
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(10);
const SECRET: &str = "hunter2-hunter2";

#[tokio::test]
async fn a_created_pipeline_is_submitted_and_becomes_runnable() {
    let house = House::new();
    let mut life = house.start().await;

    let created = life.client.create_pipeline(request("Hello")).await.unwrap().into_inner();
    assert_eq!(created.id, 1);
    assert_eq!(created.build_state(), BuildState::Building);
    assert_eq!((created.created_at, created.created_by.as_str()), (1_000, "user:ann"));

    let submitted = house.submission(1).await;
    assert_eq!(submitted.run_id, created.build_run_id);
    assert_eq!(submitted.start_reason, "build");
    let spec = submitted.spec.unwrap();
    assert_eq!(spec.kind(), wire::RunKind::Build);
    assert_eq!(spec.pipeline_id, 1);
    assert_eq!(spec.source_url, "https://host/repository");
    assert_eq!(spec.source_branch, "main");
    assert_eq!(spec.tags, ["gpu"]);
    assert_eq!((spec.pinned_worker.as_str(), spec.selector.as_str()), ("big one", "mem>=16"));
    assert_eq!(spec.policy.unwrap().priority, 3);

    house.finish(&created.build_run_id, &[(1, &[]), (2, &[1])]).await;
    house.event("PipelineBuilt", 1).await;
    let built = life.get(1).await;
    assert_eq!(built.build_state(), BuildState::Built);
    assert_eq!(built.version, 1);
    assert_eq!(built.build.unwrap().jobs.len(), 2);
    assert_eq!(life.list().await.len(), 1);
}

#[tokio::test]
async fn a_build_that_ended_while_the_service_was_away_is_concluded() {
    let house = House::new();
    let mut life = house.start().await;
    let created = life.client.create_pipeline(request("Hello")).await.unwrap().into_inner();
    house.submission(1).await;
    life.stop().await;

    house.finish(&created.build_run_id, &[(1, &[1])]).await;
    let mut life = house.start().await;
    house.event("BuildFailed", 1).await;
    let failed = life.get(1).await;
    assert_eq!(failed.build_state(), BuildState::Failed);
    assert!(failed.build_error.contains("circle"), "{}", failed.build_error);
    assert_eq!(house.submissions.borrow().len(), 1, "what the scheduler has is not sent again");
}

/// The service ends between the time that came and the scheduler that takes its run.
#[tokio::test]
async fn what_a_schedule_started_is_neither_lost_nor_doubled() {
    let house = House::new();
    let mut life = house.start().await;
    let schedules = Schedules { crons: vec!["0 * * * *".into()], ..Schedules::default() };
    let wish = CreatePipelineRequest { schedules: Some(schedules), ..request("Hello") };
    let created = life.client.create_pipeline(wish).await.unwrap().into_inner();
    assert_eq!(created.next_start_at, 60_000);
    house.submission(1).await;
    house.finish(&created.build_run_id, &[(1, &[])]).await;
    house.event("PipelineBuilt", 1).await;

    house.moods.send_replace(Mood::Unreachable);
    house.time.store(60_500, Ordering::SeqCst);
    house.event("ScheduleFired", 1).await;
    house.refusals(2).await;
    life.stop().await;
    house.moods.send_replace(Mood::Willing);
    let mut life = house.start().await;
    let started = house.submission(2).await;
    house.event("StartConfirmed", 1).await;
    assert_eq!(started.start_reason, "scheduled");
    let spec = started.spec.unwrap();
    assert_eq!((spec.kind(), spec.pipeline_id), (wire::RunKind::Pipeline, 1));
    assert_eq!((spec.artifact_size, spec.jobs.len()), (6, 1));
    assert_eq!((spec.tags, spec.policy.unwrap().priority), (vec!["gpu".to_owned()], 3));
    assert_eq!(life.get(1).await.next_start_at, 120_000);
    life.stop().await;

    let mut life = house.start().await;
    house.time.store(120_000, Ordering::SeqCst);
    let second = house.submission(3).await;
    assert_ne!(second.run_id, started.run_id);
    assert_eq!(life.get(1).await.next_start_at, 180_000);
    assert_eq!(house.submissions.borrow().len(), 3, "a build and two starts");
}

#[tokio::test]
async fn an_unreachable_scheduler_gets_the_build_later() {
    let house = House::new();
    house.moods.send_replace(Mood::Unreachable);
    let mut life = house.start().await;
    let created = life.client.create_pipeline(request("Hello")).await.unwrap().into_inner();
    house.refusals(2).await;
    life.stop().await;

    let life = house.start().await;
    house.moods.send_replace(Mood::Willing);
    assert_eq!(house.submission(1).await.run_id, created.build_run_id);
    drop(life);
}

#[tokio::test]
async fn a_build_that_the_scheduler_refuses_fails_with_its_reason() {
    let house = House::new();
    house.moods.send_replace(Mood::Refusing);
    let mut life = house.start().await;
    life.client.create_pipeline(request("Hello")).await.unwrap();
    house.event("BuildFailed", 1).await;
    let failed = life.get(1).await;
    assert!(failed.build_error.contains("tags are silly"), "{}", failed.build_error);
}

#[tokio::test]
async fn a_cancelled_rebuild_keeps_the_version() {
    let house = House::new();
    let mut life = house.start().await;
    let created = life.client.create_pipeline(request("Hello")).await.unwrap().into_inner();
    house.submission(1).await;
    house.finish(&created.build_run_id, &[(1, &[])]).await;
    house.event("PipelineBuilt", 1).await;

    let again = life.build(1).await.unwrap();
    assert_ne!(again.build_run_id, created.build_run_id);
    assert_eq!(life.build(1).await.unwrap(), again, "a build in progress is not doubled");
    house.submission(2).await;
    house.cancel(&again.build_run_id).await;
    house.event("BuildFailed", 1).await;
    let failed = life.get(1).await;
    assert_eq!(failed.version, 1);
    assert_eq!(failed.build_state(), BuildState::Failed);
    assert_eq!(failed.build_error, "the build was cancelled: enough");
    assert!(failed.build.is_some());
}

#[tokio::test]
async fn deleting_cancels_the_build_and_frees_the_name() {
    let house = House::new();
    let mut life = house.start().await;
    let created = life.client.create_pipeline(request("Hello")).await.unwrap().into_inner();
    house.submission(1).await;
    let delete = || BuildPipelineRequest { id: 1, caller: Some(caller()) };
    let deleted = life.client.delete_pipeline(delete()).await.unwrap().into_inner();
    assert_eq!(life.client.delete_pipeline(delete()).await.unwrap().into_inner(), deleted);
    house.event("RunCancelled", 1).await;
    assert_eq!(*house.cancelled.borrow(), std::slice::from_ref(&created.build_run_id));

    assert!(life.list().await.is_empty());
    let gone = life.client.get_pipeline(GetPipelineRequest { id: 1, ..Default::default() }).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    assert_eq!(life.build(1).await.unwrap_err().code(), Code::NotFound);
    let again = life.client.create_pipeline(request("hello")).await.unwrap().into_inner();
    assert_eq!(again.id, 2);
}

#[tokio::test]
async fn credentials_come_back_and_are_nowhere_in_the_log() {
    let house = House::new();
    let mut life = house.start().await;
    life.client.create_pipeline(request("Hello")).await.unwrap();
    life.client
        .create_pipeline(CreatePipelineRequest { credentials: None, ..request("Open") })
        .await
        .unwrap();
    life.stop().await;

    let mut life = house.start().await;
    let by_name = GetPipelineRequest { name: "hELLO".into(), ..Default::default() };
    let credentials = life.client.get_credentials(by_name).await.unwrap().into_inner();
    assert_eq!(credentials, request("").credentials.unwrap());
    let open = GetPipelineRequest { name: "Open".into(), ..Default::default() };
    let credentials = life.client.get_credentials(open).await.unwrap().into_inner();
    assert_eq!(credentials, Credentials::default());

    let events: Vec<_> = house.log.read_all(0, &[]).map(Result::unwrap).collect().await;
    for event in &events {
        let holds = |secret: &str| {
            event.event.data.windows(secret.len()).any(|bytes| bytes == secret.as_bytes())
                || format!("{:?}", svc_pipelines::decode(event)).contains(secret)
        };
        assert!(!holds(SECRET) && !holds("BEGIN KEY"), "{event:?}");
    }
}

#[tokio::test]
async fn sealed_credentials_belong_to_their_pipeline_alone() {
    let house = House::new();
    let mut life = house.start().await;
    life.client.create_pipeline(request("Hello")).await.unwrap();
    life.stop().await;

    // Somebody who can write to the log gives another pipeline the same seal.
    let stored: Vec<_> = house.log.read_all(0, &["pipeline-1"]).map(Result::unwrap).collect().await;
    let mut stolen =
        proto::pipelines::events::v1::PipelineCreated::decode(stored[0].event.data.clone())
            .unwrap();
    (stolen.pipeline_id, stolen.name) = (2, "Thief".into());
    house.append("pipeline-2", "PipelineCreated", stolen).await;
    let mut life = house.start().await;
    let thief = GetPipelineRequest { id: 2, ..Default::default() };
    let refused = life.client.get_credentials(thief).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn bad_requests_are_refused_by_field_and_change_nothing() {
    let house = House::new();
    let mut life = house.start().await;
    let key = |private_key: &str| {
        Some(Credentials { private_key: private_key.into(), ..Credentials::default() })
    };
    let cases = [
        ("name", CreatePipelineRequest { name: "a/b".into(), ..request("") }),
        ("type", CreatePipelineRequest { r#type: "cobol".into(), ..request("a") }),
        ("url", CreatePipelineRequest { url: "ext::sh".into(), ..request("a") }),
        ("branch", CreatePipelineRequest { branch: "-b".into(), ..request("a") }),
        ("tags", CreatePipelineRequest { tags: vec![String::new()], ..request("a") }),
        (
            "credentials.private_key",
            CreatePipelineRequest { credentials: key(SECRET), ..request("a") },
        ),
        (
            "credentials.private_key",
            CreatePipelineRequest { credentials: key(&"x".repeat(40_000)), ..request("a") },
        ),
    ];
    for (field, request) in cases {
        let refused = life.client.create_pipeline(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(&format!("{field}: ")), "{}", refused.message());
        assert!(!refused.message().contains(SECRET));
    }
    let neither = life.client.get_pipeline(GetPipelineRequest::default()).await.unwrap_err();
    assert_eq!(neither.code(), Code::InvalidArgument);
    assert_eq!(house.log.next_position().await.unwrap(), 0);
}

#[tokio::test]
async fn many_who_create_at_once_get_different_ids_and_one_gets_the_name() {
    let house = House::new();
    let life = house.start().await;
    let create = |name: String| {
        let mut client = life.client.clone();
        async move { client.create_pipeline(request(&name)).await.map(Response::into_inner) }
    };
    let all = futures::future::join_all((0..20).map(|n| create(format!("p{n}")))).await;
    let ids: HashSet<_> = all.into_iter().map(|created| created.unwrap().id).collect();
    assert_eq!(ids, (1..=20).collect());

    let same = futures::future::join_all((0..20).map(|_| create("same".into()))).await;
    let (created, refused): (Vec<_>, Vec<_>) = same.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 1);
    assert!(refused.into_iter().all(|refused| refused.unwrap_err().code() == Code::AlreadyExists));
}

#[tokio::test]
async fn only_services_of_the_house_are_let_in() {
    let house = House::new();
    let life = house.start().await;
    for peer in
        [Peer::Anonymous, Peer::Worker("0190a0c0-0000-7000-8000-000000000001".parse().unwrap())]
    {
        let mut client = PipelinesClient::new(Channel::local(life.service.router.clone(), peer));
        let refused = client.list_pipelines(ListPipelinesRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
}

/// What outlives the service: the log, the master key, and the scheduler.
struct House {
    /// Milliseconds since the epoch.
    time: Arc<AtomicU64>,
    folder: tempfile::TempDir,
    log: Log,
    moods: watch::Sender<Mood>,
    submissions: watch::Sender<Vec<SubmitRunRequest>>,
    cancelled: watch::Sender<Vec<String>>,
    refusals: watch::Sender<u32>,
}

#[derive(Clone, Copy)]
enum Mood {
    Willing,
    Unreachable,
    Refusing,
}

/// The service between a start and a stop.
struct Life {
    service: Service,
    client: PipelinesClient<Channel>,
}

impl House {
    fn new() -> Self {
        Self {
            time: Arc::new(AtomicU64::new(1_000)),
            folder: tempfile::tempdir().unwrap(),
            log: Log::in_memory(clock()),
            moods: watch::Sender::new(Mood::Willing),
            submissions: watch::Sender::default(),
            cancelled: watch::Sender::default(),
            refusals: watch::Sender::default(),
        }
    }

    async fn start(&self) -> Life {
        let scheduler = SchedulerServer::new(PlayedScheduler {
            log: self.log.clone(),
            mood: self.moods.subscribe(),
            submissions: self.submissions.clone(),
            cancelled: self.cancelled.clone(),
            refusals: self.refusals.clone(),
        });
        let router = tonic::service::Routes::new(scheduler).into_axum_router();
        let peer = Peer::Service("svc-pipelines".into());
        let deps = Deps {
            log: self.log.clone(),
            clock: self.clock(),
            master_key: MasterKey::open_or_create(&self.folder.path().join("master.key")).unwrap(),
            scheduler: SchedulerClient::new(Channel::local(router, peer)),
        };
        let service = svc_pipelines::start(deps, Config::default()).await.unwrap();
        let gateway = Peer::Service("gateway".into());
        let client = PipelinesClient::new(Channel::local(service.router.clone(), gateway));
        Life { service, client }
    }

    fn clock(&self) -> Clock {
        let time = self.time.clone();
        Clock::from_fn(move || Timestamp(time.load(Ordering::SeqCst)))
    }

    async fn submission(&self, number: usize) -> SubmitRunRequest {
        let mut submissions = self.submissions.subscribe();
        let found = submissions.wait_for(|submissions| submissions.len() >= number);
        timeout(DEADLINE, found).await.expect("a submission in time").unwrap()[number - 1].clone()
    }

    async fn refusals(&self, number: u32) {
        let mut refusals = self.refusals.subscribe();
        let enough = refusals.wait_for(|refusals| *refusals >= number);
        timeout(DEADLINE, enough).await.expect("refusals in time").unwrap();
    }

    /// Waits until the log holds so many of them.
    async fn event(&self, event_type: &str, number: usize) {
        let events = self.log.subscribe(0, &[]).map(Result::unwrap);
        let mut found = events
            .filter(|event: &Recorded| std::future::ready(event.event.event_type == event_type))
            .skip(number - 1)
            .boxed();
        timeout(DEADLINE, found.next()).await.expect("the event in time").unwrap();
    }

    async fn append(&self, stream: &str, event_type: &str, event: impl Message) {
        append(&self.log, stream, event_type, event).await;
    }

    async fn finish(&self, run: &str, jobs: &[(u32, &[u32])]) {
        let job = |&(id, on): &(u32, &[u32])| JobSpec {
            id,
            title: format!("job {id}"),
            depends_on: on.to_vec(),
            ..JobSpec::default()
        };
        let finished = RunFinished {
            run_id: run.into(),
            attempt: 1,
            state: RunState::Succeeded.into(),
            build: Some(Build {
                digest: Digest::of(b"binary").as_bytes().to_vec().into(),
                size: 6,
                commit: "c0ffee".into(),
                jobs: jobs.iter().map(job).collect(),
            }),
            ..RunFinished::default()
        };
        self.append(&format!("run-{run}"), "RunFinished", finished).await;
    }

    async fn cancel(&self, run: &str) {
        cancel(&self.log, run).await;
    }
}

async fn cancel(log: &Log, run: &str) {
    let cancelled = RunCancelled { run_id: run.into(), reason: "enough".into(), at: 2_000 };
    append(log, &format!("run-{run}"), "RunCancelled", cancelled).await;
}

#[expect(clippy::disallowed_methods, reason = "a test is an edge too")]
async fn append(log: &Log, stream: &str, event_type: &str, event: impl Message) {
    let event = NewEvent::new(
        EventId::from_uuid(Uuid::now_v7()),
        event_type,
        event.encode_to_vec(),
        &eventlog::Metadata::default(),
    );
    log.append(stream, Expected::Any, vec![event]).await.unwrap();
}

impl Life {
    async fn stop(self) {
        self.service.task.abort();
        self.service.task.await.unwrap_err();
    }

    async fn get(&mut self, id: u64) -> Pipeline {
        let request = GetPipelineRequest { id, ..GetPipelineRequest::default() };
        self.client.get_pipeline(request).await.unwrap().into_inner()
    }

    async fn list(&mut self) -> Vec<Pipeline> {
        self.client.list_pipelines(ListPipelinesRequest {}).await.unwrap().into_inner().pipelines
    }

    async fn build(&mut self, id: u64) -> Result<Pipeline, Status> {
        let request = BuildPipelineRequest { id, caller: Some(caller()) };
        self.client.build_pipeline(request).await.map(Response::into_inner)
    }
}

fn clock() -> Clock {
    Clock::from_fn(|| Timestamp(1_000))
}

fn caller() -> Caller {
    Caller { name: "user:ann".into(), ..Caller::default() }
}

fn request(name: &str) -> CreatePipelineRequest {
    CreatePipelineRequest {
        name: name.into(),
        r#type: "golang".into(),
        url: "https://host/repository".into(),
        branch: "refs/heads/main".into(),
        tags: vec!["gpu".into()],
        credentials: Some(Credentials {
            username: "ann".into(),
            password: SECRET.into(),
            private_key: "-----BEGIN KEY-----\n".into(),
        }),
        caller: Some(caller()),
        pinned_worker: "big one".into(),
        selector: "mem>=16".into(),
        policy: Some(proto::common::v1::RunPolicy { priority: 3, ..Default::default() }),
        schedules: None,
    }
}

/// Plays the scheduler's part towards this service: what it answers, and what it writes.
struct PlayedScheduler {
    log: Log,
    mood: watch::Receiver<Mood>,
    submissions: watch::Sender<Vec<SubmitRunRequest>>,
    cancelled: watch::Sender<Vec<String>>,
    refusals: watch::Sender<u32>,
}

fn not_played<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not needed here"))
}

#[tonic::async_trait]
impl Scheduler for PlayedScheduler {
    type WatchRunStream = BoxStream<'static, Result<Run, Status>>;
    type AttachWorkerStream = BoxStream<'static, Result<wire::Instruction, Status>>;

    async fn submit_run(
        &self,
        request: Request<SubmitRunRequest>,
    ) -> Result<Response<Run>, Status> {
        let request = request.into_inner();
        let mood = *self.mood.borrow();
        match mood {
            Mood::Willing => {}
            Mood::Unreachable => {
                self.refusals.send_modify(|refusals| *refusals += 1);
                return Err(Status::unavailable("nobody home"));
            }
            Mood::Refusing => return Err(Status::invalid_argument("tags are silly")),
        }
        let run_id = request.run_id.clone();
        let submitted = RunSubmitted {
            run_id: run_id.clone(),
            spec: request.spec.clone(),
            start_reason: request.start_reason.clone(),
            ..RunSubmitted::default()
        };
        append(&self.log, &format!("run-{run_id}"), "RunSubmitted", submitted).await;
        self.submissions.send_modify(|submissions| submissions.push(request));
        Ok(Response::new(Run { run_id, ..Run::default() }))
    }

    async fn cancel_run(
        &self,
        request: Request<wire::CancelRunRequest>,
    ) -> Result<Response<Run>, Status> {
        let run_id = request.into_inner().run.unwrap().run_id;
        self.cancelled.send_modify(|cancelled| cancelled.push(run_id.clone()));
        cancel(&self.log, &run_id).await;
        Ok(Response::new(Run { run_id, ..Run::default() }))
    }

    async fn get_run(&self, _: Request<wire::GetRunRequest>) -> Result<Response<Run>, Status> {
        not_played()
    }

    async fn list_runs(
        &self,
        _: Request<wire::ListRunsRequest>,
    ) -> Result<Response<wire::ListRunsResponse>, Status> {
        not_played()
    }

    async fn watch_run(
        &self,
        _: Request<wire::GetRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        not_played()
    }

    async fn explain_run(
        &self,
        _: Request<wire::GetRunRequest>,
    ) -> Result<Response<wire::Placement>, Status> {
        not_played()
    }

    async fn attach_worker(
        &self,
        _: Request<wire::AttachWorkerRequest>,
    ) -> Result<Response<Self::AttachWorkerStream>, Status> {
        not_played()
    }

    async fn report_run(
        &self,
        _: Request<wire::ReportRunRequest>,
    ) -> Result<Response<wire::ReportRunResponse>, Status> {
        not_played()
    }

    async fn check_lease(
        &self,
        _: Request<wire::CheckLeaseRequest>,
    ) -> Result<Response<Run>, Status> {
        not_played()
    }

    async fn set_limit(
        &self,
        _: Request<wire::SetLimitRequest>,
    ) -> Result<Response<wire::LimitedGate>, Status> {
        not_played()
    }

    async fn list_limits(
        &self,
        _: Request<wire::ListLimitsRequest>,
    ) -> Result<Response<wire::ListLimitsResponse>, Status> {
        not_played()
    }

    async fn check_selector(
        &self,
        _: Request<wire::CheckSelectorRequest>,
    ) -> Result<Response<wire::CheckSelectorResponse>, Status> {
        not_played()
    }

    async fn list_loads(
        &self,
        _: Request<wire::ListLoadsRequest>,
    ) -> Result<Response<wire::ListLoadsResponse>, Status> {
        not_played()
    }
}
