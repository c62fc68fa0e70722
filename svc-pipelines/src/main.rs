//! svc-pipelines as a process of its own: wiring only.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use eventlog::{Clock, Log};
use identity::{Credentials, MasterKey};
use proto::scheduler::v1::scheduler_client::SchedulerClient;
use serde::Deserialize;
use svc_pipelines::{Config, Deps};
use tokio_util::sync::CancellationToken;
use transport::{Channel, Protocols, Server};

/// Creates pipelines from git, has them built, knows their versions and jobs.
#[derive(Parser)]
struct Arguments {
    /// TOML file with `listen`, `data`, `log`, `identity`, `[services]`, `[svc-pipelines]`.
    #[arg(long)]
    config: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    listen: SocketAddr,
    /// The folder of the master key, `master.key`; it is made if it is missing.
    data: PathBuf,
    /// `https://host:port` of the log server.
    log: String,
    /// Folder with cert.pem, key.pem and caCert.pem.
    identity: PathBuf,
    services: Services,
    #[serde(default)]
    svc_pipelines: Config,
}

/// `https://host:port` of the services that this one needs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Services {
    scheduler: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init("info");
    identity::install_crypto();
    let path = Arguments::parse().config;
    let read = || format!("read {}", path.display());
    let text = fs::read_to_string(&path).with_context(read)?;
    let settings: Settings = toml::from_str(&text).with_context(read)?;
    let credentials = Credentials::load(&settings.identity)?;
    let tls = identity::client_tls(&credentials)?;
    let reach =
        |address: &str, name| Channel::remote(address, name, tls.clone(), Protocols::PreferHttp3);
    let deps = Deps {
        log: Log::remote(reach(&settings.log, "svc-log")?),
        clock: Clock::system(),
        master_key: MasterKey::open_or_create(&settings.data.join("master.key"))?,
        scheduler: SchedulerClient::new(reach(&settings.services.scheduler, "svc-scheduler")?),
    };
    let service = svc_pipelines::start(deps, settings.svc_pipelines).await?;
    let server = Server::bind(settings.listen, &credentials).await.context("listen")?;
    tracing::info!(address = %server.local_addr(), "svc-pipelines listens");
    let shutdown = CancellationToken::new();
    let serving = server.serve(service.router, shutdown.clone());
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            shutdown.cancel();
        }
    });
    tokio::select! {
        ended = service.task => Ok(ended??),
        () = serving => Ok(()),
    }
}
