//! svc-artifacts as a process of its own: wiring only.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use eventlog::{Clock, Log};
use identity::Credentials;
use serde::Deserialize;
use svc_artifacts::{Config, Deps};
use tokio_util::sync::CancellationToken;
use transport::{Channel, Protocols, Server};

/// Stores and streams blobs by sha256.
#[derive(Parser)]
struct Arguments {
    /// TOML file with `listen`, `data`, `log`, `identity` and `[svc-artifacts]`.
    #[arg(long)]
    config: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    listen: SocketAddr,
    /// The folder that `data` of `[svc-artifacts]` is in, unless it says another one.
    data: PathBuf,
    /// `https://host:port` of the log server.
    log: String,
    /// Folder with cert.pem, key.pem and caCert.pem.
    identity: PathBuf,
    #[serde(default)]
    svc_artifacts: Config,
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
    let log = Channel::remote(&settings.log, "svc-log", tls, Protocols::PreferHttp3)?;
    let deps = Deps { log: Log::remote(log), clock: Clock::system() };
    let mut config = settings.svc_artifacts;
    config.data = settings.data.join(config.data);
    let service = svc_artifacts::start(deps, config).await?;
    let server = Server::bind(settings.listen, &credentials).await.context("listen")?;
    tracing::info!(address = %server.local_addr(), "svc-artifacts listens");
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
