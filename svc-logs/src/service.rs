//! What starts the service, and the task that owns its state.

use std::sync::Arc;

use eventlog::{Clock, Log, Owner, Rules, Stopped, owner::OwnerError, snapshot::Snapshots};
use proto::logs::v1::logs_server::LogsServer;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    api::{Api, MOST_BYTES},
    archivist::Archivist,
    codec,
    config::Config,
    domain::{Command, Event, Rejection, State, decide},
    reader::Library,
    snapshot,
    standing::Standings,
    store::{PlaceError, Store},
};

/// The one task that owns the state.
pub(crate) type Logs = Owner<State, Command, Event, Rejection>;

pub(crate) const RULES: Rules<State, Command, Event, Rejection> = Rules {
    owns: codec::OWNS,
    follows: codec::FOLLOWS,
    decide,
    stream: codec::stream,
    encode: codec::encode,
    decode: codec::decode,
};

/// Most bytes of one message: the largest append and what is around it.
const LARGEST_MESSAGE: usize = MOST_BYTES + (16 << 10);

/// What the service needs of the house.
#[derive(Clone, Debug)]
pub struct Deps {
    pub log: Log,
    pub clock: Clock,
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
pub enum StartError {
    #[error("start svc-logs")]
    Log(#[from] OwnerError),
    #[error("start svc-logs")]
    Stopped(#[from] Stopped),
    #[error("start svc-logs")]
    Place(#[from] PlaceError),
}

/// Replays the event log, from the newest snapshot on, and starts the service.
pub async fn start(deps: Deps, config: Config) -> Result<Service, StartError> {
    let standings = Arc::new(Standings::default());
    let mut store = Store::open(&config, Arc::clone(&standings))?;
    let snapshots = Snapshots::new(&config.data, snapshot::FORM);
    let (owner, mut owner_task) = Logs::start_from(deps.log.clone(), RULES, snapshots).await?;
    if let Some(mut harmed) = store.harmed()? {
        let unsealed = move |state: &State| {
            harmed.retain(|(log, _)| state.seal(*log).is_none());
            harmed
        };
        store.note_harmed(owner.read(unsealed).await?)?;
    }
    let store = Arc::new(store);
    let library =
        Library { store, standings: Arc::clone(&standings), owner: owner.clone(), log: deps.log };
    let (archive, sealed) = mpsc::unbounded_channel();
    let archivist = Archivist { store: Arc::clone(&library.store), owner: owner.clone(), sealed };
    let api = Api { library, clock: deps.clock, most_bytes: config.max_log_bytes, archive };
    let server = LogsServer::new(api).max_decoding_message_size(LARGEST_MESSAGE);
    let router = tonic::service::Routes::new(server).into_axum_router();
    // Ends with the state's task, or when nothing can be sealed any more.
    let archiving = async move {
        archivist.run().await.ok();
        std::future::pending::<std::convert::Infallible>().await
    };
    let task = tokio::spawn(async move {
        let ended = tokio::select! {
            ended = &mut owner_task => ended,
            Stopped = standings.keep(owner) => owner_task.await,
            never = archiving => match never {},
        };
        ended.expect("the task that owns the state neither panics nor is aborted")
    });
    Ok(Service { router: authz::guard(router), task })
}
