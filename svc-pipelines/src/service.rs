//! What starts the service, and the task that owns its state.

use eventlog::{Clock, Log, Owner, Rules, Stopped, owner::OwnerError};
use identity::MasterKey;
use proto::{
    pipelines::v1::pipelines_server::PipelinesServer,
    scheduler::v1::scheduler_client::SchedulerClient,
};
use tokio::task::JoinHandle;
use transport::Channel;

use crate::{
    api::Api,
    codec,
    config::Config,
    domain::{Command, Event, Rejection, State, decide},
    effects::Effects,
};

/// The one task that owns the state.
pub(crate) type Pipelines = Owner<State, Command, Event, Rejection>;

const RULES: Rules<State, Command, Event, Rejection> = Rules {
    owns: codec::OWNS,
    follows: codec::FOLLOWS,
    decide,
    stream: codec::stream,
    encode: codec::encode,
    decode: codec::decode,
};

/// Most bytes of one request; with it every event stays far below what the log takes.
const LARGEST_REQUEST: usize = 256 << 10;

/// What the service needs of the house.
#[derive(Clone, Debug)]
pub struct Deps {
    pub log: Log,
    pub clock: Clock,
    /// Seals the credentials of repositories.
    pub master_key: MasterKey,
    pub scheduler: SchedulerClient<Channel>,
}

/// The service as it runs.
#[derive(Debug)]
pub struct Service {
    /// Its gRPC service, for services of the house only.
    pub router: axum::Router,
    /// Ends only when the service must stop the process; aborting it stops the service.
    pub task: JoinHandle<Result<(), OwnerError>>,
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
#[error("start svc-pipelines")]
pub struct StartError(#[from] OwnerError);

/// Replays the log and starts the service.
pub async fn start(deps: Deps, config: Config) -> Result<Service, StartError> {
    let (owner, mut owner_task) = Pipelines::start(deps.log, RULES).await?;
    let effects = Effects::new(owner.clone(), deps.scheduler, deps.clock.clone(), &config);
    let api = Api::new(owner, deps.clock, deps.master_key);
    let server = PipelinesServer::new(api).max_decoding_message_size(LARGEST_REQUEST);
    let router = tonic::service::Routes::new(server).into_axum_router();
    let task = tokio::spawn(async move {
        // The effects end when the task that owns the state did, which then says why.
        let ended = tokio::select! {
            ended = &mut owner_task => ended,
            Stopped = effects.run() => owner_task.await,
        };
        ended.expect("the task that owns the state neither panics nor is aborted")
    });
    Ok(Service { router: authz::guard(router), task })
}
