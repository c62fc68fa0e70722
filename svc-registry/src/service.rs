//! What runs: the owner of the state, and the task that knows who is connected.

use axum::Router;
use eventlog::{
    Clock, Log, Origin, Rules, Stopped,
    owner::{OwnerError, Past},
};
use futures::future;
use identity::{Authority, MasterKey};
use proto::registry::v1::registry_server::RegistryServer;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::service::Routes;

use crate::{
    api::{Api, Secrets},
    codec,
    config::Config,
    domain::{self, Command, Event, Rejection, State},
    effects::end_pauses,
    presence,
};

pub(crate) type Owner = eventlog::Owner<State, Command, Event, Rejection>;

/// Largest request, in bytes.
const MAX_REQUEST: usize = 128 << 10;

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Deps {
    pub log: Log,
    pub clock: Clock,
    /// Seals the registration secret, and variables that are secret.
    pub master_key: MasterKey,
    /// Signs the certificates of workers.
    pub authority: Authority,
}

/// What runs.
#[derive(Debug)]
pub struct Service {
    /// The gRPC service `Registry`, for services of the house only.
    pub router: Router,
    /// Ends only when the process must stop, or every clone of the router is gone.
    pub task: JoinHandle<Result<(), RunError>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("start svc-registry")]
    Owner(#[from] OwnerError),
    #[error("start svc-registry")]
    Stopped(#[from] Stopped),
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("run svc-registry")]
    Owner(#[from] OwnerError),
    #[error("run svc-registry: a task of it failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Replays the log and starts the service. Every worker that was there has the grace time to attach.
pub async fn start(deps: Deps, config: Config) -> Result<Service, StartError> {
    let (owner, owner_task) = Owner::start(deps.log.clone(), rules()).await?;
    let secrets = Secrets::new(deps.master_key.clone());
    let (_, sealed) = secrets.make();
    let first = Command::CreateRegistrationSecret { sealed, at: deps.clock.now() };
    owner.ask(first, Origin::service("svc-registry")).await?.expect("is never refused");
    let (presence, presence_task) =
        presence::Task::new(owner.clone(), deps.clock.clone(), config.grace()).await?;
    let (used, unused) = oneshot::channel();
    let pauses = end_pauses(owner.clone(), presence.clone(), deps.clock.clone(), unused);
    let tasks = [tokio::spawn(presence_task.run()), tokio::spawn(pauses)];
    let task = tokio::spawn(run(owner_task, tasks));
    let clock = deps.clock.clone();
    let authority = deps.authority.dated_by(move || clock.now());
    let api = Api {
        owner,
        presence,
        past: Past::new(deps.log, &rules()),
        secrets,
        master_key: deps.master_key,
        clock: deps.clock,
        authority,
        config,
        _used: used,
    };
    let server = RegistryServer::new(api).max_decoding_message_size(MAX_REQUEST);
    let router = authz::guard(Routes::new(server).into_axum_router());
    Ok(Service { router, task })
}

pub(crate) fn rules() -> Rules<State, Command, Event, Rejection> {
    Rules {
        owns: codec::OWNS,
        follows: &[],
        decide: domain::decide,
        stream: codec::stream,
        encode: codec::encode,
        decode: codec::decode,
    }
}

/// The other tasks end quietly once the owner has stopped, so that its reason is what is told.
async fn run(
    owner: JoinHandle<Result<(), OwnerError>>,
    others: [JoinHandle<()>; 2],
) -> Result<(), RunError> {
    let owner = async { owner.await?.map_err(RunError::from) };
    let others = async { future::try_join_all(others).await.map_err(RunError::from) };
    future::try_join(owner, others).await.map(drop)
}

#[cfg(test)]
mod tests;
