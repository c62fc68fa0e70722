//! Every service of the house, started and wired to each other without sockets.

use anyhow::{Context, Result};
use eventlog::{Clock, Log};
use identity::{Authority, MasterKey, Peer};
use proto::{
    access::v1::access_client::AccessClient, artifacts::v1::artifacts_client::ArtifactsClient,
    logs::v1::logs_client::LogsClient, pipelines::v1::pipelines_client::PipelinesClient,
    registry::v1::registry_client::RegistryClient,
    scheduler::v1::scheduler_client::SchedulerClient,
};
use secrecy::SecretString;
use tokio::task::{JoinHandle, JoinSet};
use transport::Channel;

use super::Data;

/// What the services stand on.
pub(super) struct Ground {
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) authority: Authority,
    pub(super) master_key: MasterKey,
    pub(super) registry: svc_registry::Config,
    /// A bucket for the binaries.
    pub(super) artifacts: Option<String>,
    /// A bucket for sealed logs.
    pub(super) logs: Option<String>,
}

pub(super) struct House {
    pub(super) gateway: axum::Router,
    pub(super) registry: Channel,
    pub(super) first_admin_password: Option<SecretString>,
    pub(super) tasks: JoinSet<Result<()>>,
}

impl House {
    pub(super) async fn start(ground: &Ground, data: &Data) -> Result<Self> {
        let mut tasks = JoinSet::new();
        let registry = registry(ground, &mut tasks).await?;
        let scheduler = scheduler(ground, &mut tasks).await?;
        let builds = SchedulerClient::new(called_by("svc-pipelines", scheduler.clone()));
        let (access, first_admin_password) = access(ground, data, &mut tasks).await?;
        let deps = gateway::Deps {
            registry: RegistryClient::new(registry.clone()),
            scheduler: SchedulerClient::new(inside(scheduler)),
            artifacts: ArtifactsClient::new(artifacts(ground, data, &mut tasks).await?),
            logs: LogsClient::new(logs(ground, data, &mut tasks).await?),
            pipelines: PipelinesClient::new(pipelines(ground, builds, &mut tasks).await?),
            access: AccessClient::new(access),
            log: ground.log.clone(),
            witness: Some(gateway::Witness {
                log: data.folder("log")?,
                identity: data.folder("gateway")?,
            }),
            clock: ground.clock.clone(),
        };
        let gateway = gateway::router(deps, gateway::Config::default());
        Ok(Self { gateway, registry, first_admin_password, tasks })
    }
}

type Tasks = JoinSet<Result<()>>;

/// A service's router, called directly by the gateway.
fn inside(router: axum::Router) -> Channel {
    called_by("gateway", router)
}

fn called_by(service: &str, router: axum::Router) -> Channel {
    Channel::local(router, Peer::Service(service.into()))
}

async fn registry(ground: &Ground, tasks: &mut Tasks) -> Result<Channel> {
    let deps = svc_registry::Deps {
        log: ground.log.clone(),
        clock: ground.clock.clone(),
        authority: ground.authority.clone(),
        master_key: ground.master_key.clone(),
    };
    let service = svc_registry::start(deps, ground.registry.clone()).await?;
    watch(tasks, "svc-registry", service.task);
    Ok(inside(service.router))
}

async fn scheduler(ground: &Ground, tasks: &mut Tasks) -> Result<axum::Router> {
    let deps = svc_scheduler::Deps { log: ground.log.clone(), clock: ground.clock.clone() };
    let service = svc_scheduler::start(deps, svc_scheduler::Config::default()).await?;
    watch(tasks, "svc-scheduler", service.task);
    Ok(service.router)
}

async fn artifacts(ground: &Ground, data: &Data, tasks: &mut Tasks) -> Result<Channel> {
    let deps = svc_artifacts::Deps { log: ground.log.clone(), clock: ground.clock.clone() };
    let data = data.folder("artifacts")?;
    let config = svc_artifacts::Config {
        data,
        bucket: ground.artifacts.clone(),
        ..svc_artifacts::Config::default()
    };
    let service = svc_artifacts::start(deps, config).await?;
    watch(tasks, "svc-artifacts", service.task);
    Ok(inside(service.router))
}

async fn logs(ground: &Ground, data: &Data, tasks: &mut Tasks) -> Result<Channel> {
    let deps = svc_logs::Deps { log: ground.log.clone(), clock: ground.clock.clone() };
    let data = data.folder("logs")?;
    let bucket = ground.logs.clone();
    let config = svc_logs::Config { data, bucket, ..svc_logs::Config::default() };
    let service = svc_logs::start(deps, config).await?;
    watch(tasks, "svc-logs", service.task);
    Ok(inside(service.router))
}

async fn pipelines(
    ground: &Ground,
    scheduler: SchedulerClient<Channel>,
    tasks: &mut Tasks,
) -> Result<Channel> {
    let deps = svc_pipelines::Deps {
        log: ground.log.clone(),
        clock: ground.clock.clone(),
        master_key: ground.master_key.clone(),
        scheduler,
    };
    let service = svc_pipelines::start(deps, svc_pipelines::Config::default()).await?;
    watch(tasks, "svc-pipelines", service.task);
    Ok(inside(service.router))
}

async fn access(
    ground: &Ground,
    data: &Data,
    tasks: &mut Tasks,
) -> Result<(Channel, Option<SecretString>)> {
    let deps = svc_access::Deps {
        log: ground.log.clone(),
        clock: ground.clock.clone(),
        master_key: ground.master_key.clone(),
        data: data.folder("access")?,
    };
    let config = svc_access::Config {
        admin_password: std::env::var("GAIA_ADMIN_PASSWORD").ok().map(SecretString::from),
        ..svc_access::Config::default()
    };
    let service = svc_access::start(deps, config).await?;
    watch(tasks, "svc-access", service.task);
    Ok((inside(service.router), service.first_admin_password))
}

/// A service's task ends only when the process must.
fn watch<E: std::error::Error + Send + Sync + 'static>(
    tasks: &mut Tasks,
    name: &'static str,
    task: JoinHandle<Result<(), E>>,
) {
    tasks.spawn(async move {
        let ended = task.await.with_context(|| format!("{name} panicked"))?;
        ended.with_context(|| format!("{name} cannot go on"))
    });
}
