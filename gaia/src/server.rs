//! `gaia server`: every service in one process, one public port, and an embedded agent.
//!
//! The services call each other's generated clients on generated servers directly, without sockets.
//! When one of them cannot go on (the log refused an append), the whole process ends: nothing is
//! answered that is not durable, and a restart replays what is.

mod elsewhere;
mod house;

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use eventlog::{Clock, Log};
use host::trust::Renewal;
use identity::{Authority, Credentials, Live, MasterKey};
use proto::registry::v1::{CreateJoinTokenRequest, registry_client::RegistryClient};
use secrecy::{ExposeSecret, SecretString};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use transport::{Channel, Server, Watchlist};

use crate::span::Span;

use house::{Ground, House};

/// How long a certificate of `gaia cert service` lives; its service renews it.
const SERVICE_CERTIFICATE: Duration = Duration::from_hours(2160);
/// How long the token for the embedded agent lives.
const JOIN_IN: Duration = Duration::from_mins(10);

#[derive(Args, Clone, Debug)]
pub struct ServerConfig {
    /// Address and port to listen on: TCP for HTTP/1.1 and HTTP/2, UDP for HTTP/3
    #[arg(long, env = "GAIA_LISTEN", default_value = "0.0.0.0:8443", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Folder for everything that the server keeps
    #[arg(long, env = "GAIA_HOME_PATH", default_value = "gaia-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Further host name or address that the server's certificate shall hold; may be repeated
    #[arg(long = "hostname", env = "GAIA_HOSTNAME", value_name = "NAME", value_delimiter = ',')]
    pub hostnames: Vec<String>,
    /// Run no pipelines in the server itself, even if no worker can
    #[arg(long, env = "GAIA_PREVENT_PRIMARY_WORK")]
    pub prevent_primary_work: bool,
    /// Runs that the embedded agent takes at once [default: number of processors]
    #[arg(long, env = "GAIA_WORKER", value_name = "N")]
    pub slots: Option<u16>,
    /// Keep the log elsewhere: `esdb://host:port`, a server of `gaia log serve` or a cluster of
    /// EventStoreDB. It may hold a password, so better set GAIA_LOG_URL [default: in the data folder]
    #[arg(long, env = "GAIA_LOG_URL", hide_env_values = true, value_name = "URL")]
    pub log: Option<String>,
    /// Keep binaries in a bucket: `s3://<bucket>/<prefix>`. Endpoint, region and credentials are the usual
    /// variables AWS_* [default: in the data folder]
    #[arg(long, env = "GAIA_ARTIFACTS", value_name = "S3-URL")]
    pub artifacts: Option<String>,
    /// Keep logs in a bucket once they are sealed, like --artifacts [default: in the data folder]
    #[arg(long, env = "GAIA_LOGS", value_name = "S3-URL")]
    pub logs: Option<String>,
    /// Seconds without a sign of life after which a worker counts as lost; at least 5 if it falls silent
    #[arg(long, env = "GAIA_WORKER_GRACE", default_value = "10", value_name = "SECONDS")]
    pub worker_grace: u64,
    /// How long the certificate of a worker lives, which it renews by itself: 24h, 30m, 10s
    #[arg(long, env = "GAIA_WORKER_CERTIFICATE", default_value = "24h", value_name = "TIME")]
    pub worker_certificate: Span,
    /// How long the certificate of the server lives, which it renews by itself
    #[arg(long, env = "GAIA_SERVER_CERTIFICATE", default_value = "90d", value_name = "TIME")]
    pub server_certificate: Span,
    /// Let no worker register with the secret, as Gaia's own agents do: join tokens only
    #[arg(long, env = "GAIA_NO_REGISTRATION_SECRET")]
    pub no_registration_secret: bool,
}

/// Between two tries of the embedded agent to join.
const REJOIN: Duration = Duration::from_secs(1);
/// How long the embedded agent may take to give back what it holds.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// A server that answers.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    /// PEM.
    pub ca: String,
    /// Set at the first start only.
    pub first_admin_password: Option<SecretString>,
    /// They never end by themselves.
    services: JoinSet<Result<()>>,
    port: JoinSet<Result<()>>,
    /// Empty without an embedded agent.
    agent: JoinSet<Result<()>>,
    shutdown: CancellationToken,
    /// Closes the port, which the agent needs to the last.
    close: CancellationToken,
}

impl Running {
    /// An address that works on this machine.
    pub fn url(&self) -> String {
        let host = match self.address.ip() {
            ip if ip.is_unspecified() => "localhost".to_owned(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            std::net::IpAddr::V4(ip) => ip.to_string(),
        };
        format!("https://{host}:{}", self.address.port())
    }

    /// Runs until `shutdown` fires or a part cannot go on. Then the agent gives back what it holds,
    /// the port closes, and the services are left: whatever they answered is durable.
    pub async fn finish(mut self) -> Result<()> {
        // One part's end is everybody's: a server without its scheduler only looks alive.
        let outcome = tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            Some(ended) = self.services.join_next() => flat(ended),
            Some(ended) = self.port.join_next() => flat(ended),
            Some(ended) = self.agent.join_next() => flat(ended),
        };
        self.shutdown.cancel();
        let agent = tokio::time::timeout(GIVE_BACK, self.agent.join_next()).await;
        if agent.is_err() {
            tracing::warn!("the embedded agent could not give back its runs; others will get them");
        }
        self.close.cancel();
        let port = self.port.join_next().await.map_or(Ok(()), flat);
        outcome.and(agent.ok().flatten().map_or(Ok(()), flat)).and(port)
    }
}

fn flat(ended: Result<Result<()>, JoinError>) -> Result<()> {
    ended.context("a part of the server panicked")?
}

/// Starts everything and answers when the port is open.
pub async fn start(config: ServerConfig, shutdown: CancellationToken) -> Result<Running> {
    let data = Data::prepare(&config.data)?;
    let clock = Clock::system();
    let authority = Authority::open_or_create(&data.folder("ca")?)?;
    let ground = Ground {
        log: open_log(&config, &data, &authority, clock.clone())?,
        clock,
        authority,
        master_key: MasterKey::open_or_create(&data.0.join("master.key"))?,
        registry: svc_registry::Config {
            grace_ms: config.worker_grace.saturating_mul(1_000),
            certificate_seconds: config.worker_certificate.as_secs(),
            service_certificate_seconds: config.server_certificate.as_secs(),
            registration_secret: !config.no_registration_secret,
            ..svc_registry::Config::default()
        },
        artifacts: config.artifacts.clone(),
        logs: config.logs.clone(),
    };
    let house = House::start(&ground, &data).await?;
    let House { gateway, tasks: mut services, first_admin_password, registry } = house;
    let live = identify(&ground.authority, &config, &data)?;
    let server = Server::bind_live(config.listen, &live)
        .await
        .with_context(|| format!("listen on {}", config.listen))?;
    let address = server.local_addr();
    trust(&mut services, registry.clone(), live, &data, server.watchlist()).await;
    keep_log_certificate(&mut services, &config, &data, &ground.authority);

    let close = CancellationToken::new();
    let stop = close.clone();
    let mut port = JoinSet::new();
    port.spawn(async move {
        server.serve(gateway, stop).await;
        Ok(())
    });
    let running = Running {
        address,
        ca: ground.authority.ca_pem(),
        first_admin_password,
        services,
        port,
        agent: JoinSet::new(),
        shutdown,
        close,
    };
    embed_agent(running, config, &data, registry).await
}

/// A fresh certificate for the port.
fn identify(authority: &Authority, config: &ServerConfig, data: &Data) -> Result<Live> {
    let valid = config.server_certificate.into();
    let place = data.0.join("gateway");
    let issued = authority.renew_service(&place, "gateway", &config.hostnames, valid)?;
    Ok(Live::new(issued.credentials)?)
}

/// Keeps the port's certificate fresh; answers when it is known who is revoked.
async fn trust(
    services: &mut JoinSet<Result<()>>,
    registry: Channel,
    live: Live,
    data: &Data,
    watchlist: Watchlist,
) {
    let registry = RegistryClient::new(registry);
    let renewal = Renewal { registry, live, place: data.0.join("gateway"), channels: vec![] };
    let mut background = JoinSet::new();
    let known = host::trust::keep(&mut background, renewal, watchlist);
    services.spawn(async move {
        background.join_all().await;
        Ok(())
    });
    host::trust::wait(known).await;
}

/// Elsewhere, its certificate lives as long as the server's own.
fn open_log(
    config: &ServerConfig,
    data: &Data,
    authority: &Authority,
    clock: Clock,
) -> Result<Log> {
    match &config.log {
        Some(url) => {
            elsewhere::open(url, &data.elsewhere(), authority, config.server_certificate.into())
        }
        None => Ok(Log::open(&data.folder("log")?, clock)?),
    }
}

/// Keeps the certificate fresh that a log elsewhere is shown.
fn keep_log_certificate(
    services: &mut JoinSet<Result<()>>,
    config: &ServerConfig,
    data: &Data,
    authority: &Authority,
) {
    if config.log.is_some() {
        let (place, authority) = (data.elsewhere(), authority.clone());
        let valid = config.server_certificate.into();
        services.spawn(async move {
            elsewhere::keep_fresh(&place, &authority, valid).await;
            Ok(())
        });
    }
}

/// The primary remains a worker: what no other worker can do, it does itself.
async fn embed_agent(
    mut running: Running,
    config: ServerConfig,
    data: &Data,
    registry: Channel,
) -> Result<Running> {
    if config.prevent_primary_work {
        return Ok(running);
    }
    let home = data.folder("primary")?;
    let token = if agent::has_joined(&home) {
        String::new()
    } else {
        primary_token(registry.clone()).await?
    };
    let agent = agent::Config {
        server: running.url(),
        name: "primary".into(),
        token,
        home,
        slots: config.slots.map_or(0, u32::from),
        primary: true,
        ..agent::Config::default()
    };
    let shutdown = running.shutdown.clone();
    running.agent.spawn(async move {
        // A server that shall end waits for no run.
        let mut agent = agent;
        let ended = loop {
            let ended = agent::run_until(agent.clone(), shutdown.clone(), shutdown.clone()).await;
            match ended {
                // The server was off for longer than a certificate can be renewed by; or its CA is believed
                // no more, and then its own certificate takes a moment to be replaced.
                Err(agent::AgentError::Expired { .. } | agent::AgentError::UnknownCa { .. }) => {
                    agent.token = primary_token(registry.clone()).await?;
                    tokio::time::sleep(REJOIN).await;
                }
                ended => break ended,
            }
        };
        if let Err(error) = ended {
            let error = anyhow::Error::from(error);
            tracing::error!("the server goes on without its embedded agent: {error:#}");
            shutdown.cancelled().await;
        }
        Ok(())
    });
    Ok(running)
}

/// Lets the embedded agent join, once.
async fn primary_token(registry: Channel) -> Result<String> {
    let request = CreateJoinTokenRequest {
        name: "primary".into(),
        valid_ms: u64::try_from(JOIN_IN.as_millis()).expect("ten minutes"),
        primary: true,
        ..CreateJoinTokenRequest::default()
    };
    let created = RegistryClient::new(registry).create_join_token(request).await;
    Ok(created.context("make a join token for the embedded agent")?.into_inner().token)
}

/// The data folder.
struct Data(PathBuf);

impl Data {
    fn prepare(path: &Path) -> Result<Self> {
        make_private(path).with_context(|| format!("create the data folder {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// The identity that a log elsewhere is shown.
    fn elsewhere(&self) -> PathBuf {
        self.0.join("server")
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        make_private(&path).with_context(|| format!("create the folder {}", path.display()))?;
        Ok(path)
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Runs a server in the foreground, for people and for service managers.
pub async fn run(config: ServerConfig, shutdown: CancellationToken) -> Result<()> {
    let data = config.data.clone();
    let running = start(config, shutdown).await?;
    if let Some(password) = &running.first_admin_password {
        eprintln!(
            "\n  First start. The administrator is `admin`, the password is shown this once:\n\n      {}\n",
            password.expose_secret()
        );
    }
    eprintln!("  CA certificate for agents and clients: {}", data.join("ca/ca.pem").display());
    // The line that scripts wait for.
    println!("gaia is ready at {}", running.url());
    running.finish().await
}

/// Credentials of a service, for a deployment with separate processes.
pub fn issue_service(
    ca: &Path,
    name: &str,
    hostnames: &[String],
    out: &Path,
) -> Result<Credentials> {
    let authority = Authority::open_or_create(ca)?;
    Ok(authority.renew_service(out, name, hostnames, SERVICE_CERTIFICATE)?.credentials)
}
