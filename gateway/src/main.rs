//! The gateway as a process of its own: wiring only.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use eventlog::{Clock, Log};
use identity::Credentials;
use proto::{
    access::v1::access_client::AccessClient, artifacts::v1::artifacts_client::ArtifactsClient,
    logs::v1::logs_client::LogsClient, pipelines::v1::pipelines_client::PipelinesClient,
    registry::v1::registry_client::RegistryClient,
    scheduler::v1::scheduler_client::SchedulerClient,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use transport::{Channel, Protocols, Server};

/// The public door of a Gaia that runs as separate services.
#[derive(Parser)]
struct Arguments {
    /// TOML file with `listen`, `log`, `identity`, `[services]` and `[gateway]`.
    #[arg(long)]
    config: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: SocketAddr,
    /// `https://host:port` of the log server.
    log: String,
    /// Folder with cert.pem, key.pem and caCert.pem.
    identity: PathBuf,
    services: Services,
    #[serde(default)]
    gateway: gateway::Config,
}

/// `https://host:port` of each service.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Services {
    registry: String,
    scheduler: String,
    artifacts: String,
    logs: String,
    pipelines: String,
    access: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init("info");
    identity::install_crypto();
    let path = Arguments::parse().config;
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let settings: Settings =
        toml::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    let credentials = Credentials::load(&settings.identity)?;
    let deps = deps(&settings, &credentials)?;
    let server = Server::bind(settings.listen, &credentials)
        .await
        .with_context(|| format!("listen on {}", settings.listen))?;
    tracing::info!(address = %server.local_addr(), "the gateway listens");
    let shutdown = CancellationToken::new();
    let serving = server.serve(gateway::router(deps, settings.gateway), shutdown.clone());
    let stop = async {
        tokio::signal::ctrl_c().await.context("wait for the signal to stop")?;
        shutdown.cancel();
        anyhow::Ok(())
    };
    let (stopped, ()) = tokio::join!(stop, serving);
    stopped
}

fn deps(settings: &Settings, credentials: &Credentials) -> anyhow::Result<gateway::Deps> {
    let tls = identity::client_tls(credentials)?;
    let reach = |address: &str, name: &str| {
        Channel::remote(address, name, tls.clone(), Protocols::PreferHttp3)
            .with_context(|| format!("the address of {name}"))
    };
    let Services { registry, scheduler, artifacts, logs, pipelines, access } = &settings.services;
    Ok(gateway::Deps {
        registry: RegistryClient::new(reach(registry, "svc-registry")?),
        scheduler: SchedulerClient::new(reach(scheduler, "svc-scheduler")?),
        artifacts: ArtifactsClient::new(reach(artifacts, "svc-artifacts")?),
        logs: LogsClient::new(reach(logs, "svc-logs")?),
        pipelines: PipelinesClient::new(reach(pipelines, "svc-pipelines")?),
        access: AccessClient::new(reach(access, "svc-access")?),
        log: Log::remote(reach(&settings.log, "svc-log")?),
        clock: Clock::system(),
    })
}
