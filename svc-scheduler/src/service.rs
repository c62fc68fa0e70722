//! The rules for the owner of the state, and what starts the service.

use eventlog::{
    Clock, Log, Rules,
    owner::{OwnerError, Past},
};
use proto::scheduler::v1::scheduler_server::SchedulerServer;
use tokio::task::{JoinError, JoinHandle};

use crate::{
    Config,
    api::Api,
    codec,
    connections::Connections,
    domain::{Command, Event, Rejection, State, decide},
    effects::Effects,
    watchers::Watchers,
};

pub(crate) type Owner = eventlog::Owner<State, Command, Event, Rejection>;

pub(crate) fn rules() -> Rules<State, Command, Event, Rejection> {
    Rules {
        owns: &[codec::RUNS, codec::LIMITS],
        follows: &[codec::WORKERS],
        decide,
        stream: codec::stream,
        encode: codec::encode,
        decode: codec::decode,
    }
}

/// What the service needs of the world.
#[derive(Clone, Debug)]
pub struct Deps {
    pub log: Log,
    pub clock: Clock,
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// Its gRPC, for services of the house only.
    pub router: axum::Router,
    /// Ends when the router and all its clones are gone, or with why the process must stop.
    pub task: JoinHandle<Result<(), ServiceError>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("max_infrastructure_attempts is 0; a run needs at least 1 attempt")]
    NoAttempts,
    #[error(transparent)]
    Owner(#[from] OwnerError),
}

/// Why the service cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Owner(#[from] OwnerError),
    #[error("a task of the scheduler died")]
    Died(#[from] JoinError),
}

/// Most bytes of one request: a spec, a report of all jobs.
const MAX_REQUEST: usize = 8 << 20;

pub async fn start(deps: Deps, config: Config) -> Result<Service, StartError> {
    if config.max_infrastructure_attempts == 0 {
        return Err(StartError::NoAttempts);
    }
    let (owner, owner_task) = Owner::start(deps.log.clone(), rules()).await?;
    let (connections, notices) = Connections::new();
    let effects = Effects::new(owner.clone(), deps.clock.clone(), config.clone(), notices);
    let (watchers, watchers_task) = Watchers::start(owner.clone());
    let past = Past::new(deps.log);
    let api = Api { owner, past, clock: deps.clock, config, connections, watchers };
    let server = SchedulerServer::new(api).max_decoding_message_size(MAX_REQUEST);
    let router = tonic::service::Routes::new(server).into_axum_router();
    let tasks = [tokio::spawn(effects.run()), watchers_task];
    let task = tokio::spawn(supervise(owner_task, tasks));
    Ok(Service { router: authz::guard(router), task })
}

/// The other tasks end quietly once the owner has stopped, so that its reason is what is told.
async fn supervise(
    owner: JoinHandle<Result<(), OwnerError>>,
    others: [JoinHandle<()>; 2],
) -> Result<(), ServiceError> {
    let owner = async { owner.await?.map_err(ServiceError::from) };
    let others = async { futures::future::try_join_all(others).await.map_err(ServiceError::from) };
    futures::future::try_join(owner, others).await.map(drop)
}

#[cfg(test)]
mod tests;
