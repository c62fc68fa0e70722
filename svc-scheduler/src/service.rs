//! The rules for the owner of the state, and what starts the service.

use std::time::Duration;

use axum::Router;
use eventlog::{
    Clock, Log, Origin, Rules,
    owner::{OwnerError, Past},
};
use proto::scheduler::v1::scheduler_server::SchedulerServer;
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Config,
    api::Api,
    codec,
    connections::Connections,
    domain::{Command, Event, Rejection, State, decide},
    door::{self, Standing},
    effects::Effects,
    rival::Seat,
    succession::Succession,
    watchers::Watchers,
};

pub(crate) type Owner = eventlog::Owner<State, Command, Event, Rejection>;

pub(crate) fn rules() -> Rules<State, Command, Event, Rejection> {
    Rules {
        owns: codec::OWN,
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
    #[error("leader_lease_millis is {}; it must be {} at least", .0.as_millis(), SHORTEST_LEASE.as_millis())]
    ShortLease(Duration),
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
    #[error(
        "another scheduler leads under this one's address, {0}: give each its own `address` under [service]"
    )]
    SameAddress(String),
}

/// Most bytes of one request: a spec, a report of all jobs.
const MAX_REQUEST: usize = 8 << 20;

/// Shorter, and a busy machine looks like a dead one.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// The only scheduler of its log. It leads at once.
pub async fn start(deps: Deps, config: Config) -> Result<Service, StartError> {
    check(&config)?;
    let (owner, owner_task) = Owner::start(deps.log.clone(), rules()).await?;
    let (router, work) = furnish(owner, owner_task, deps, config);
    Ok(Service { router: authz::guard(router), task: tokio::spawn(work) })
}

/// One of the schedulers of a log, of which one leads and the others stand by.
pub fn start_in_seat(deps: Deps, config: Config, seat: Seat) -> Result<Service, StartError> {
    check(&config)?;
    let (standing, known) = watch::channel(Standing::Open);
    let router = door::router(known, config.leader_lease);
    let task = tokio::spawn(Succession::new(deps, config, seat, standing).run());
    Ok(Service { router: authz::guard(router), task })
}

fn check(config: &Config) -> Result<(), StartError> {
    if config.max_infrastructure_attempts == 0 {
        return Err(StartError::NoAttempts);
    }
    if config.leader_lease < SHORTEST_LEASE {
        return Err(StartError::ShortLease(config.leader_lease));
    }
    Ok(())
}

/// What is around an owner of the state: its gRPC, and the work whose end is the service's. Dropped, the
/// work ends.
pub(crate) fn furnish(
    owner: Owner,
    owner_task: JoinHandle<Result<(), OwnerError>>,
    deps: Deps,
    config: Config,
) -> (Router, impl Future<Output = Result<(), ServiceError>>) {
    let (connections, notices) = Connections::new();
    let effects = Effects::new(owner.clone(), deps.clock.clone(), config.clone(), notices);
    let (watchers, watchers_task) = Watchers::start(owner.clone());
    let past = Past::new(deps.log, &rules());
    let api = Api { owner, past, clock: deps.clock, config, connections, watchers };
    let server = SchedulerServer::new(api).max_decoding_message_size(MAX_REQUEST);
    let router = tonic::service::Routes::new(server).into_axum_router();
    let others = [tokio::spawn(effects.run()), watchers_task].map(AbortOnDropHandle::new);
    (router, supervise(AbortOnDropHandle::new(owner_task), others))
}

/// What the scheduler does by itself.
pub(crate) fn origin() -> Origin {
    Origin::service("svc-scheduler")
}

/// The other tasks end quietly once the owner has stopped, so that its reason is what is told.
async fn supervise(
    owner: AbortOnDropHandle<Result<(), OwnerError>>,
    others: [AbortOnDropHandle<()>; 2],
) -> Result<(), ServiceError> {
    let owner = async { owner.await?.map_err(ServiceError::from) };
    let others = async { futures::future::try_join_all(others).await.map_err(ServiceError::from) };
    futures::future::try_join(owner, others).await.map(drop)
}

#[cfg(test)]
mod tests;
