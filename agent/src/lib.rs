//! A worker: joins a server, takes orders, builds and runs pipelines, reports how it goes.
//!
//! In reading order: [`Config`]; `home`, the folder on disk; `processes`, what attempts started; `join`, how an identity is got, and `renew`,
//! how it is kept; `session` keeps the server's orders coming; `desk` holds the table of attempts; `attempt` is one of them from
//! order to last report, by way of `run` or `build`. What these use: `primary` and `http` to talk to
//! the server, `cache`, `assembly`, `upload`, `unpack`, `prepare` and `kept` for binaries, `spool`, `mask`, `shipping` and `leftovers` for logs, `report`
//! for progress, `command` for tools, and [`runtime`] to host the pipeline itself.
//!
//! Invariants: an attempt ends in one last report, and that only after its whole log was acknowledged;
//! no secret reaches the disk in a log; nothing that an attempt started outlives it; what the agent
//! itself was trusted with is in no pipeline's environment.

mod assembly;
mod attempt;
mod build;
mod cache;
mod clock;
mod command;
mod config;
mod desk;
mod flights;
mod git;
mod home;
mod http;
mod join;
mod kept;
mod languages;
mod leftovers;
pub mod mask;
mod order;
mod prepare;
mod primary;
mod processes;
mod python;
mod renew;
mod report;
mod retry;
mod run;
pub mod runtime;
mod session;
mod shipping;
mod site;
mod spool;
mod stop;
mod unpack;
mod upload;
mod workshop;

use std::{io, path::PathBuf};

use tokio_util::sync::CancellationToken;

pub use config::{Config, Protocols, WhenFull};
pub use home::has_joined;

use desk::{Closed, Desk};
use home::{Home, Identity};
use primary::{Ended, Primary};
use retry::Pauses;
use workshop::Workshop;

/// Why an agent cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the agent's home {}: {source}", .path.display())]
    Home { path: PathBuf, source: io::Error },
    #[error("another agent uses the home {}: stop it, or give this one a home of its own", .path.display())]
    HomeInUse { path: PathBuf },
    #[error(transparent)]
    Server(#[from] transport::InvalidServer),
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error(
        "the stored worker id `{worker}` is unusable: remove the folder `identity` in the agent's home and join again"
    )]
    BadIdentity { worker: String },
    #[error(
        "this agent has not joined a server yet: give it a join token (`gaia worker token create` makes one)"
    )]
    NoToken,
    #[error(transparent)]
    Token(#[from] identity::ParseTokenError),
    #[error("to join, the agent must know whom to trust: give it the server's CA certificate")]
    NoCa,
    #[error("the CA certificate {}: {source}", .path.display())]
    Ca { path: PathBuf, source: io::Error },
    #[error(
        "{server} does not accept the registration secret: ask its administrator for the current one"
    )]
    WrongSecret { server: String },
    #[error("{server} does not let this agent join: {why}")]
    Refused { server: String, why: String },
    #[error(
        "{server} does not know this worker any more: give the agent a join token to join again"
    )]
    NotRegistered { server: String },
    #[error(
        "{server} has revoked this worker's certificate: give the agent a join token to join again"
    )]
    Revoked { server: String },
    #[error(
        "this worker's certificate expired while the agent was away from {server}, too long ago to renew it: give the agent a join token to join again"
    )]
    Expired { server: String },
    #[error(
        "the certificate of {server} is of no CA that this agent knows: check the address; if the CA was rolled over, give the agent a join token to join again"
    )]
    UnknownCa { server: String },
}

/// Works until `shutdown`; then takes nothing new, finishes what it holds, and returns.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), AgentError> {
    run_until(config, shutdown, CancellationToken::new()).await
}

/// Like [`run`], but `abort` ends running work at once (it is given back to the server).
pub async fn run_until(
    config: Config,
    shutdown: CancellationToken,
    abort: CancellationToken,
) -> Result<(), AgentError> {
    identity::install_crypto();
    let home = Home::open(&config.home)?;
    let tags = languages::tags(&config.tags);
    tracing::info!(tags = ?tags.all, slots = config.slots(), "this machine's tags");
    let workshop = Workshop::new(config, home);
    let config = &workshop.config;
    let mut pauses = Pauses::new();
    let mut anew = false;
    loop {
        let identity = tokio::select! {
            identity = identity(&workshop, &tags.all, anew) => identity?,
            () = shutdown.cancelled() => return Ok(()),
            () = abort.cancelled() => return Ok(()),
        };
        let primary = Primary::new(config, &identity)?;
        let desk = Desk::new(workshop.clone(), primary);
        match desk.work(tags.clone(), &shutdown, &abort).await {
            Closed::Drained => return Ok(()),
            Closed::Ended(Ended::UnknownCa) => {
                anew = join::names_another_ca(config, &identity.credentials);
                if !anew {
                    return Err(useless(Ended::UnknownCa, config));
                }
                pauses.pause().await;
                continue;
            }
            Closed::Failed(error) => {
                tracing::error!(error, "the connection to the server failed; opening it again");
            }
            Closed::Ended(ended) => {
                workshop.home.forget_identity()?;
                let why = useless(ended, config);
                if config.secret.is_empty() && config.token.is_empty() {
                    return Err(why);
                }
                tracing::warn!("{why}; joining again");
            }
        }
        anew = false;
        pauses.pause().await;
    }
}

fn useless(ended: Ended, config: &Config) -> AgentError {
    let server = config.server.clone();
    match ended {
        Ended::NotRegistered => AgentError::NotRegistered { server },
        Ended::Revoked => AgentError::Revoked { server },
        Ended::Expired => AgentError::Expired { server },
        Ended::UnknownCa => AgentError::UnknownCa { server },
    }
}

/// The stored one, or a new one by joining; that also if it shall be got `anew`, and can be.
async fn identity(
    workshop: &Workshop,
    tags: &[String],
    anew: bool,
) -> Result<Identity, AgentError> {
    let stored = workshop.home.identity();
    if let (Some(identity), false) = (&stored, anew) {
        return Ok(identity.clone());
    }
    let joined = match (join::join(&workshop.config, &workshop.home, tags).await, stored) {
        (Ok(joined), _) => joined,
        (Err(error), Some(stored)) => {
            tracing::error!("cannot join the server of another CA: {error}");
            return Ok(stored);
        }
        (Err(error), None) => return Err(error),
    };
    workshop.home.save_identity(&joined)?;
    tracing::info!(worker = joined.worker, server = workshop.config.server, "joined");
    Ok(joined)
}
