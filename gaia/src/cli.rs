//! What can be typed, and where it goes.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    command::{
        artifact::{self, ArtifactCommand},
        audit::{self, AuditCommand},
        events::{self, EventsCommand},
        fleet::{self, FleetArgs},
        limit::{self, LimitCommand},
        login::{self, LoginArgs},
        pipeline::{self, PipelineCommand},
        run::{self, RunCommand},
        secret::{self, SecretCommand},
        selector::{self, SelectorCommand},
        trust::{self, RevokeArgs, RotateArgs},
        user::{self, UserCommand},
        worker::{self, WorkerCommand},
    },
    demo::{self, DemoArgs},
    dev::{self, DevArgs},
    log::{self, LogCommand},
    output::Output,
    profile::ServerArgs,
    server::{self, ServerConfig},
};

/// Distributes pipeline runs to workers on any network, remembers everything, loses nothing
#[derive(Parser, Debug)]
#[command(name = "gaia", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: ServerArgs,
    /// How answers are shown
    #[arg(long, global = true, value_enum, default_value_t, env = "GAIA_OUTPUT")]
    output: Output,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a server: all services, the public port, and an embedded agent
    Server(ServerConfig),
    /// Run an agent: it joins a server and does its work
    Agent(AgentArgs),
    /// Run everything with temporary data, for trying things out
    Dev(DevArgs),
    /// Show the whole system at work: a server, two agents, eight runs, a crash, a replay
    Demo(DemoArgs),
    /// Log in, for the commands below
    Login(LoginArgs),
    /// Workers: list, rename, tag, suspend, drain, resume, remove; their environment; join tokens
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// The workers at any point in time, and what each ran
    Fleet(FleetArgs),
    /// Pipelines: create, list, build, run, remove
    #[command(subcommand)]
    Pipeline(Box<PipelineCommand>),
    /// Runs: list, show, logs, cancel, watch, why
    #[command(subcommand)]
    Run(RunCommand),
    /// How many runs of a pipeline or group may run at once
    #[command(subcommand)]
    Limit(LimitCommand),
    /// Stored binaries
    #[command(subcommand)]
    Artifact(ArtifactCommand),
    /// Selectors: what they mean, and which workers suit them
    #[command(subcommand)]
    Selector(SelectorCommand),
    /// Secrets of the vault: set, list, remove
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Users: list, add, remove; their passwords and roles
    #[command(subcommand)]
    User(UserCommand),
    /// The event log as the server shows it
    #[command(subcommand)]
    Events(EventsCommand),
    /// What happened to a run, and who did it
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The event log's own files and its server
    #[command(subcommand)]
    Log(LogCommand),
    /// Certificates: list, revoke; roll over the CA; make those of separate services
    #[command(subcommand)]
    Cert(CertCommand),
}

#[derive(Args, Clone, Debug)]
struct AgentArgs {
    /// Name of the worker [default: the host's name]
    #[arg(long, env = "GAIA_WORKER_NAME", default_value = "")]
    name: String,
    /// Token to join with; needed once, `gaia worker token create` makes it
    // Takes the place of the token of a login, which an agent has no use for.
    #[arg(
        id = "token",
        long = "token",
        env = "GAIA_JOIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    join_token: Option<String>,
    /// Secret to register with instead, Gaia's way; `gaia worker secret` shows it
    #[arg(long, env = "GAIA_WORKER_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Tag to offer beside the detected languages, `-python` to deny one; may be repeated
    #[arg(long = "tag", env = "GAIA_WORKER_TAGS", value_name = "TAG", value_delimiter = ',')]
    tags: Vec<String>,
    /// Runs that it takes at once [default: number of processors]
    #[arg(long, env = "GAIA_WORKER", value_name = "N")]
    slots: Option<u16>,
    /// Folder for its identity, binaries and logs
    #[arg(long, env = "GAIA_HOME_PATH", default_value = "gaia-agent", value_name = "DIR")]
    home: PathBuf,
    /// Bytes of binaries that it keeps, and as many of what was prepared of them; the least recently used go first
    /// [default: 10 GiB]
    #[arg(long, env = "GAIA_CACHE_LIMIT", value_name = "BYTES")]
    cache_limit: Option<u64>,
    /// Bytes of one run's log that may wait on its disk for the server [default: 256 MiB]
    #[arg(long, env = "GAIA_SPOOL_LIMIT", value_name = "BYTES")]
    spool_limit: Option<u64>,
    /// What happens when so much waits
    #[arg(long, value_enum, default_value_t, env = "GAIA_SPOOL_FULL")]
    spool_full: SpoolFull,
    /// Protocols to reach the server by
    #[arg(long, value_enum, default_value_t, env = "GAIA_PROTOCOLS")]
    protocols: Protocols,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Protocols {
    /// HTTP/3, and HTTP/2 where UDP does not pass
    #[default]
    Auto,
    Http2,
    Http3,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SpoolFull {
    /// The job waits: nothing is missing
    #[default]
    Block,
    /// What the job prints is dropped, and the log says how much
    Drop,
}

#[derive(Subcommand, Debug)]
enum CertCommand {
    /// List the certificates that have not expired
    Ls,
    /// Refuse certificates from now on, and cut off who uses them
    Revoke(RevokeArgs),
    /// Let a new CA take over; the old one is believed for a while
    RotateCa(RotateArgs),
    /// Make the identity of a service; makes the CA too, if there is none
    Service {
        /// gateway, log, svc-registry, svc-scheduler, …
        name: String,
        /// Folder of the CA
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Folder to write cert.pem, key.pem and caCert.pem to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Further host name or address; may be repeated
        #[arg(long = "hostname", value_name = "NAME")]
        hostnames: Vec<String>,
    },
}

/// Parses the command line, does what it says, and prints an error once.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    identity::install_crypto();
    telemetry::init(default_filter(&cli.command));
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(dispatch(cli));
    // Tasks that still wait for a peer must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a command shows of its own works, where `GAIA_LOG` says nothing else.
fn default_filter(command: &Command) -> &'static str {
    match command {
        Command::Server(_) | Command::Agent(_) | Command::Log(LogCommand::Serve(_)) => {
            "info,quinn=warn,h2=warn,hyper=warn,rustls=warn"
        }
        _ => "error",
    }
}

/// The answer is the exit code.
async fn dispatch(cli: Cli) -> Result<u8> {
    let Cli { command, server, output } = cli;
    let done = match command {
        Command::Server(config) => server::run(config, host::shutdown()?).await,
        Command::Agent(args) => run_agent(args, &server).await,
        Command::Dev(args) => dev::run(args, host::shutdown()?).await,
        Command::Demo(args) => return demo::run(args, &server, host::shutdown()?).await,
        Command::Login(args) => login::login(args, &server).await,
        Command::Worker(command) => worker::worker(command, &server.client()?, output).await,
        Command::Fleet(args) => fleet::fleet(args, &server.client()?, output).await,
        Command::Pipeline(command) => {
            return pipeline::pipeline(*command, &server.client()?, output).await;
        }
        Command::Run(command) => return run::run(command, &server.client()?, output).await,
        Command::Secret(command) => secret::secret(command, &server.client()?, output).await,
        Command::User(command) => user::user(command, &server.client()?, output).await,
        Command::Artifact(command) => artifact::artifact(command, &server.client()?, output).await,
        Command::Limit(command) => limit::limit(command, &server.client()?, output).await,
        Command::Selector(command) => {
            return selector::selector(command, &server.client()?, output).await;
        }
        Command::Events(command) => events::events(command, &server.client()?, output).await,
        Command::Audit(command) => audit::audit(command, &server, output).await,
        Command::Log(command) => return log::log(command, output).await,
        Command::Cert(command) => cert(command, &server, output).await,
    };
    done.map(|()| 0)
}

async fn run_agent(args: AgentArgs, server: &ServerArgs) -> Result<()> {
    let address = server.server.clone().context("name the server: --server URL")?;
    let usual = agent::Config::default();
    let config = agent::Config {
        server: address,
        name: args.name,
        token: args.join_token.unwrap_or_default(),
        secret: args.secret.unwrap_or_default(),
        tags: args.tags,
        slots: args.slots.map_or(0, u32::from),
        home: args.home,
        ca_certificate: ca_certificate(server),
        protocols: match args.protocols {
            Protocols::Auto => agent::Protocols::PreferHttp3,
            Protocols::Http2 => agent::Protocols::Http2,
            Protocols::Http3 => agent::Protocols::Http3,
        },
        cache_limit: args.cache_limit.unwrap_or(usual.cache_limit),
        spool_limit: args.spool_limit.unwrap_or(usual.spool_limit),
        spool_full: match args.spool_full {
            SpoolFull::Block => agent::WhenFull::Block,
            SpoolFull::Drop => agent::WhenFull::Drop,
        },
        ..usual
    };
    let signals = host::signals()?;
    Ok(agent::run_until(config, signals.shutdown, signals.abort).await?)
}

/// The agent reads the file itself, and only when it joins.
fn ca_certificate(server: &ServerArgs) -> String {
    server.ca_cert.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

async fn cert(command: CertCommand, server: &ServerArgs, output: Output) -> Result<()> {
    match command {
        CertCommand::Ls => trust::certificates(&server.client()?, output).await,
        CertCommand::Revoke(args) => trust::revoke(args, &server.client()?, output).await,
        CertCommand::RotateCa(args) => trust::rotate(args, &server.client()?, output).await,
        CertCommand::Service { name, ca, out, hostnames } => {
            server::issue_service(&ca, &name, &hostnames, &out)?;
            eprintln!("The identity of {name} is in {}.", out.display());
            Ok(())
        }
    }
}
