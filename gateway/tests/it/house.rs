//! All services over a log in memory, and the gateway before them.

use ::identity::{Authority, MasterKey, Peer};
use axum::Router;
use eventlog::{Clock, Log};
use gateway::{Config, Deps};
use proto::{
    access::v1::access_client::AccessClient,
    artifacts::v1::artifacts_client::ArtifactsClient,
    logs::v1::logs_client::LogsClient,
    pipelines::v1::pipelines_client::PipelinesClient,
    registry::v1::registry_client::RegistryClient,
    scheduler::v1::scheduler_client::SchedulerClient,
    worker::{Job, PipelineRun},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;
use transport::Channel;

use crate::{
    agent::Agent,
    client::{Client, Events},
};

pub(crate) const PASSWORD: &str = "correct horse battery";

#[derive(Debug)]
pub(crate) struct House {
    pub(crate) router: Router,
    pub(crate) authority: Authority,
    pub(crate) admin: Client,
    /// The services themselves, as the gateway calls them.
    pub(crate) deps: Deps,
    /// Their routers, by the beginning of their paths.
    pub(crate) services: Vec<(&'static str, Router)>,
    pub(crate) data: TempDir,
}

impl House {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let data = tempfile::tempdir().unwrap();
        Self::over(Log::in_memory(Clock::system()), data, config).await
    }

    /// A worker is lost when it is gone for so many milliseconds.
    pub(crate) async fn with_grace(millis: u64) -> Self {
        let registry = svc_registry::Config { grace_ms: millis, ..Default::default() };
        let data = tempfile::tempdir().unwrap();
        Self::of(Log::in_memory(Clock::system()), data, Config::default(), registry).await
    }

    /// With the log in `log` of its folder.
    pub(crate) async fn on_disk() -> Self {
        let data = tempfile::tempdir().unwrap();
        let log = Log::open(&data.path().join("log"), Clock::system()).unwrap();
        Self::over(log, data, Config::default()).await
    }

    async fn over(log: Log, data: TempDir, config: Config) -> Self {
        Self::of(log, data, config, svc_registry::Config::default()).await
    }

    async fn of(log: Log, data: TempDir, config: Config, registry: svc_registry::Config) -> Self {
        let authority = Authority::open_or_create(&data.path().join("ca")).unwrap();
        let clock = Clock::system();
        let (deps, services) = services(log, &data, &authority, registry, clock).await;
        let router = gateway::router(deps.clone(), config);
        let channel = Channel::local(router.clone(), Peer::Anonymous);
        let admin = Client::new(channel).login("admin", PASSWORD).await;
        Self { router, authority, admin, deps, services, data }
    }

    pub(crate) fn channel(&self, peer: Peer) -> Channel {
        Channel::local(self.router.clone(), peer)
    }

    pub(crate) fn anonymous(&self) -> Client {
        Client::new(self.channel(Peer::Anonymous))
    }

    /// The registration secret.
    pub(crate) async fn secret(&self) -> String {
        self.admin.get("worker/secret").await.expect(200).text()
    }

    /// An agent that is there, with two slots.
    pub(crate) async fn agent(&self, name: &str) -> Agent {
        let mut agent = Agent::join(self, name, &["golang"]).await;
        agent.connect(2, &["golang"]).await;
        agent
    }

    /// Creates a pipeline, and has the agent build it. Answers its id.
    pub(crate) async fn pipeline(&self, name: &str, agent: &mut Agent, jobs: Vec<Job>) -> u64 {
        let body = json!({ "name": name, "type": "golang", "url": "https://example.org/it.git" });
        let created = self.admin.post("pipeline", body).await.expect(200).json();
        let order = agent.order().await;
        agent.build(&order, format!("the binary of {name}").as_bytes(), jobs).await;
        let id = created["id"].as_u64().unwrap();
        self.built(id).await;
        id
    }

    /// Waits until the pipeline's build is known as such.
    pub(crate) async fn built(&self, id: u64) -> Value {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
        crate::client::patiently(async {
            loop {
                tick.tick().await;
                let shown = self.admin.get(&format!("pipeline/{id}")).await.expect(200).json();
                if shown["buildstate"] != "building" {
                    return shown;
                }
            }
        })
        .await
    }

    /// Starts the pipeline; answers the run.
    pub(crate) async fn run(&self, pipeline: u64, body: Value) -> Value {
        self.admin.post(&format!("pipeline/{pipeline}/start"), body).await.expect(201).json()
    }

    /// The run that an order is for.
    pub(crate) async fn shown(&self, order: &PipelineRun) -> Value {
        self.admin.get(&format!("run/{}", order.unique_id)).await.expect(200).json()
    }

    pub(crate) async fn follow(&self, path: &str) -> Events {
        self.admin.follow(path, None).await
    }

    /// The run after its end.
    pub(crate) async fn ended(&self, run: &Value) -> Value {
        let mut events = self.follow(&format!("run/{}", run["uniqueid"].as_str().unwrap())).await;
        let mut last = Value::Null;
        while let Some(event) = events.next().await {
            last = event.json();
        }
        last
    }
}

pub(crate) async fn services(
    log: Log,
    data: &TempDir,
    authority: &Authority,
    config: svc_registry::Config,
    clock: Clock,
) -> (Deps, Vec<(&'static str, Router)>) {
    let master_key = MasterKey::open_or_create(&data.path().join("master.key")).unwrap();
    let mut routers = vec![];
    let mut inside = |prefix, router: Router| {
        routers.push((prefix, router.clone()));
        Channel::local(router, Peer::Service("gateway".into()))
    };
    let registry = svc_registry::Deps {
        log: log.clone(),
        clock: clock.clone(),
        master_key: master_key.clone(),
        authority: authority.clone(),
    };
    let registry = svc_registry::start(registry, config).await.unwrap();
    let scheduler = svc_scheduler::Deps { log: log.clone(), clock: clock.clone() };
    let scheduler =
        svc_scheduler::start(scheduler, svc_scheduler::Config::default()).await.unwrap();
    let scheduler = SchedulerClient::new(inside("/gaia.scheduler.", scheduler.router));
    let artifacts = svc_artifacts::Deps { log: log.clone(), clock: clock.clone() };
    let config = svc_artifacts::Config {
        data: data.path().join("artifacts"),
        max_artifact_bytes: 1_000_000,
        max_total_bytes: 1_500_000,
        ..Default::default()
    };
    let artifacts = svc_artifacts::start(artifacts, config).await.unwrap();
    let logs = svc_logs::Deps { log: log.clone(), clock: clock.clone() };
    let config = svc_logs::Config { data: data.path().join("logs"), ..Default::default() };
    let logs = svc_logs::start(logs, config).await.unwrap();
    let pipelines = svc_pipelines::Deps {
        log: log.clone(),
        clock: clock.clone(),
        master_key: master_key.clone(),
        scheduler: scheduler.clone(),
    };
    let pipelines =
        svc_pipelines::start(pipelines, svc_pipelines::Config::default()).await.unwrap();
    let access = svc_access::Deps {
        log: log.clone(),
        clock: clock.clone(),
        master_key,
        data: data.path().to_owned(),
    };
    let password = Some(SecretString::from(PASSWORD));
    let config = svc_access::Config { admin_password: password, ..Default::default() };
    let access = svc_access::start(access, config).await.unwrap();
    let deps = Deps {
        registry: RegistryClient::new(inside("/gaia.registry.", registry.router)),
        scheduler,
        artifacts: ArtifactsClient::new(inside("/gaia.artifacts.", artifacts.router)),
        logs: LogsClient::new(inside("/gaia.logs.", logs.router)),
        pipelines: PipelinesClient::new(inside("/gaia.pipelines.", pipelines.router)),
        access: AccessClient::new(inside("/gaia.access.", access.router)),
        log,
        witness: None,
        clock,
    };
    (deps, routers)
}
