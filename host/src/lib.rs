//! One service as a process of its own: configuration, identity, log, port, signals.
//!
//! Every `main.rs` of the house is a call of [`main`]. The process ends when the service cannot go on:
//! nothing is answered that is not durable, and whoever started it starts it again.

pub mod leader;
mod metrics;
mod signals;
pub mod trust;

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use eventlog::{Clock, Log};
use identity::{Credentials, Live, MasterKey, Peer};
use proto::registry::v1::registry_client::RegistryClient;
use serde::{Deserialize, de::DeserializeOwned};
pub use signals::{Signals, shutdown, signals};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use transport::{Channel, InvalidServer, Protocols, Server};

#[derive(Parser, Debug)]
struct Arguments {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// The configuration file of a service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings<C> {
    /// Address and port to listen on, TCP and UDP.
    listen: SocketAddr,
    /// Folder for the service's own files. The log is not among them.
    data: PathBuf,
    /// Folder with `cert.pem`, `key.pem` and `caCert.pem`.
    identity: PathBuf,
    /// The log: `esdb://host:port` of `gaia log serve`, or a cluster of EventStoreDB. The identity is
    /// shown where the address names neither a certificate nor a user.
    log: String,
    /// File of the master key; the services that encrypt share it.
    master_key: Option<PathBuf>,
    /// Addresses of the services that this one calls, by name.
    #[serde(default)]
    services: BTreeMap<String, String>,
    /// What the service itself can be told.
    #[serde(default)]
    service: C,
}

/// What a process has before its service starts.
#[derive(Debug)]
pub struct Host {
    pub log: Log,
    pub clock: Clock,
    /// Folder for the service's own files; it exists.
    pub data: PathBuf,
    /// Fires when the process is asked to end; calls that run get a while, as long as the service goes on.
    pub shutdown: CancellationToken,
    /// File of the master key.
    master_key: PathBuf,
    /// Where it listens.
    listen: SocketAddr,
    live: Live,
    services: BTreeMap<String, String>,
    /// Every way to another service, of which there are few.
    channels: Arc<Mutex<Vec<Channel>>>,
}

/// Makes a way to the service at an address.
pub type Dial = Arc<dyn Fn(&str) -> Result<Channel, InvalidServer> + Send + Sync>;

impl Host {
    /// The way to another service.
    pub fn service(&self, name: &str) -> Result<Channel> {
        let address = self.services.get(name).with_context(|| {
            format!("the address of {name} is not configured: add it under [services]")
        })?;
        let channel = remote(address, name, &self.live)?;
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).push(channel.clone());
        Ok(channel)
    }

    /// The way to the scheduler that leads: at first the configured one, then whom the log names.
    pub fn scheduler(&self) -> Result<Channel> {
        let first = self.service(leader::SCHEDULER)?;
        let channel = leader::scheduler(first, self.log.clone(), self.live.clone());
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).push(channel.clone());
        Ok(channel)
    }

    /// Where other processes reach this one, if it listens at one address.
    pub fn address(&self) -> Result<String> {
        ensure!(
            !self.listen.ip().is_unspecified(),
            "this service listens at {}, which nobody can call: set `address` under [service] to the \
             https://host:port by which others reach it",
            self.listen
        );
        Ok(format!("https://{}", self.listen))
    }

    /// Makes ways to services of this name that come and go, over TCP.
    pub fn dial(&self, name: &'static str) -> Dial {
        let live = self.live.clone();
        Arc::new(move |address| {
            let tls = identity::live_client_tls(&live).map_err(|error| InvalidServer {
                text: address.to_owned(),
                why: format!("this service's credentials cannot be used: {error}"),
            })?;
            Channel::remote(address, name, tls, Protocols::Http2)
        })
    }

    pub fn master_key(&self) -> Result<MasterKey> {
        Ok(MasterKey::open_or_create(&self.master_key)?)
    }
}

/// Runs one service until it is asked to end or cannot go on. `start` answers with the service's
/// router and the task whose end is the service's end.
pub fn main<C, F, E>(name: &'static str, start: impl FnOnce(Host, C) -> F) -> ExitCode
where
    C: DeserializeOwned + Default,
    F: Future<Output = Result<(axum::Router, JoinHandle<Result<(), E>>)>>,
    E: Error + Send + Sync + 'static,
{
    let arguments = Arguments::parse();
    telemetry::init("info,quinn=warn,h2=warn,hyper=warn,rustls=warn");
    identity::install_crypto();
    let run = || -> Result<()> {
        let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
        let outcome = runtime.block_on(run(name, &arguments.config, start));
        runtime.shutdown_background();
        outcome
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run<C, F, E>(
    name: &'static str,
    path: &Path,
    start: impl FnOnce(Host, C) -> F,
) -> Result<()>
where
    C: DeserializeOwned + Default,
    F: Future<Output = Result<(axum::Router, JoinHandle<Result<(), E>>)>>,
    E: Error + Send + Sync + 'static,
{
    let settings: Settings<C> = read(path)?;
    let live = Live::new(Credentials::load(&settings.identity)?)?;
    fs::create_dir_all(&settings.data)
        .with_context(|| format!("create the data folder {}", settings.data.display()))?;
    let channels = Arc::new(Mutex::new(vec![]));
    let shutdown = shutdown()?;
    let server = Server::bind_live(settings.listen, &live)
        .await
        .with_context(|| format!("listen on {}", settings.listen))?;
    let host = Host {
        listen: server.local_addr(),
        shutdown: shutdown.clone(),
        log: Log::esdb(&settings.log, Some(&settings.identity))?,
        clock: Clock::system(),
        master_key: settings.master_key.unwrap_or_else(|| settings.data.join("master.key")),
        data: settings.data,
        live: live.clone(),
        services: settings.services,
        channels: Arc::clone(&channels),
    };
    let registry = host.service("svc-registry").ok().map(RegistryClient::new);
    let (router, task) = start(host, settings.service).await?;
    let mut background = JoinSet::new();
    if let Some(registry) = registry {
        let channels = channels.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (live, place) = (live.clone(), settings.identity);
        let renewal = trust::Renewal { registry, live, place, channels };
        // Workers come by the gateway; it serves none before it knows who is revoked.
        server.watchlist().doubt_workers(name == "gateway");
        trust::keep(&mut background, renewal, server.watchlist());
    }
    let router = if name == "gateway" { router } else { router.merge(metrics::router()) };
    tracing::info!("{name} is ready at https://{}", server.local_addr());
    let serving = tokio::spawn(server.serve(router, shutdown));
    tokio::select! {
        outcome = serving => outcome.context("serve"),
        ended = task => ended.context("the service panicked")?.context("the service cannot go on"),
    }
}

fn read<C: DeserializeOwned + Default>(path: &Path) -> Result<Settings<C>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("read {}", path.display()))
}

/// The way to a service of the house.
pub fn remote(address: &str, name: &str, live: &Live) -> Result<Channel> {
    debug_assert!(
        matches!(live.credentials().peer(), Ok(Peer::Service(_))),
        "services call services"
    );
    let tls = identity::live_client_tls(live)?;
    Ok(Channel::remote(address, name, tls, Protocols::PreferHttp3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Own {
        grace_seconds: u64,
    }

    fn parse(text: &str) -> Result<Settings<Own>> {
        let folder = std::env::temp_dir().join(format!("gaia-host-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}.toml", text.len()));
        fs::write(&path, text)?;
        let settings = read(&path);
        fs::remove_file(&path)?;
        settings
    }

    const GOOD: &str = "listen = '127.0.0.1:1'\ndata = 'd'\nidentity = 'i'\nlog = 'esdb://l:1'\n";

    #[test]
    fn a_service_may_be_told_nothing_of_its_own() {
        assert_eq!(parse(GOOD).unwrap().service.grace_seconds, 0);
        let own = parse(&format!("{GOOD}[service]\ngrace_seconds = 3\n")).unwrap();
        assert_eq!(own.service.grace_seconds, 3);
    }

    #[test]
    fn a_misspelt_setting_is_named() {
        let error = parse(&format!("{GOOD}[service]\ngrace_secs = 3\n")).unwrap_err();
        assert!(format!("{error:#}").contains("grace_secs"), "{error:#}");
    }
}
