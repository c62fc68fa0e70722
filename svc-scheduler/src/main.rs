//! The scheduler as a process of its own: wiring only.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::Parser as _;
use eventlog::{Clock, Log};
use tokio_util::sync::CancellationToken;
use transport::{Channel, Protocols, Server};

/// Queues runs, leases them to workers, and knows how each ended.
#[derive(clap::Parser)]
struct Arguments {
    /// TOML file with `listen`, `log`, `identity` and `[scheduler]`.
    #[arg(long)]
    config: PathBuf,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: SocketAddr,
    /// `https://host:port` of the log server.
    log: String,
    /// Folder with cert.pem, key.pem and caCert.pem.
    identity: PathBuf,
    #[serde(default)]
    scheduler: svc_scheduler::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init("info");
    identity::install_crypto();
    let path = Arguments::parse().config;
    let read = || format!("read {}", path.display());
    let settings: Settings =
        toml::from_str(&std::fs::read_to_string(&path).with_context(read)?).with_context(read)?;
    let credentials = identity::Credentials::load(&settings.identity)?;
    let tls = identity::client_tls(&credentials)?;
    let log = Channel::remote(&settings.log, "svc-log", tls, Protocols::PreferHttp3)?;
    let deps = svc_scheduler::Deps { log: Log::remote(log), clock: Clock::system() };
    let service = svc_scheduler::start(deps, settings.scheduler).await?;
    let server = Server::bind(settings.listen, &credentials).await?;
    tracing::info!(address = %server.local_addr(), "the scheduler listens");
    let shutdown = CancellationToken::new();
    let serving = server.serve(service.router, shutdown.clone());
    let stop = async {
        let _cancel = shutdown.drop_guard();
        tokio::select! {
            ended = service.task => ended?.context("the scheduler stopped"),
            signal = tokio::signal::ctrl_c() => signal.context("wait for the signal to stop"),
        }
    };
    tokio::join!(stop, serving).0
}
