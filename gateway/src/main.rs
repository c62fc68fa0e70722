//! The gateway as a process of its own.

use std::{convert::Infallible, future::pending, process::ExitCode};

use anyhow::Result;
use gateway::{Config, Deps};
use host::Host;
use proto::{
    access::v1::access_client::AccessClient, artifacts::v1::artifacts_client::ArtifactsClient,
    logs::v1::logs_client::LogsClient, pipelines::v1::pipelines_client::PipelinesClient,
    registry::v1::registry_client::RegistryClient,
    scheduler::v1::scheduler_client::SchedulerClient,
};

pub(crate) fn main() -> ExitCode {
    host::main("gateway", |host: Host, config: Config| async move {
        let router = gateway::router(deps(host)?, config);
        // It has no task that could fail: it ends when it is asked to.
        Ok((router, tokio::spawn(pending::<Result<(), Infallible>>())))
    })
}

fn deps(host: Host) -> Result<Deps> {
    Ok(Deps {
        registry: RegistryClient::new(host.service("svc-registry")?),
        scheduler: SchedulerClient::new(host.scheduler()?),
        artifacts: ArtifactsClient::new(host.service("svc-artifacts")?),
        logs: LogsClient::new(host.service("svc-logs")?),
        pipelines: PipelinesClient::new(host.service("svc-pipelines")?),
        access: AccessClient::new(host.service("svc-access")?),
        log: host.log,
        // The process that serves the log has its files: `gaia audit head --log` is for there.
        witness: None,
        clock: host.clock,
    })
}
