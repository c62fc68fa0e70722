//! What starts the service, and the task that owns its state.

use std::{convert::Infallible, sync::Arc};

use eventlog::{Clock, Log, Owner, Rules, owner::OwnerError};
use proto::artifacts::v1::artifacts_server::ArtifactsServer;
use tokio::task::JoinHandle;

use crate::{
    api::Api,
    blobs::{Blobs, FolderError},
    codec,
    config::Config,
    domain::{Command, Event, State, decide},
};

/// The one task that owns the state.
pub(crate) type Artifacts = Owner<State, Command, Event, Infallible>;

const RULES: Rules<State, Command, Event, Infallible> = Rules {
    owns: codec::OWNS,
    follows: &[],
    decide,
    stream: codec::stream,
    encode: codec::encode,
    decode: codec::decode,
};

/// Most bytes of one message of an upload.
const LARGEST_MESSAGE: usize = 4 << 20;

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
    /// Ends only when the service must stop the process, or when the router is gone.
    pub task: JoinHandle<Result<(), OwnerError>>,
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("start svc-artifacts")]
    Log(#[from] OwnerError),
    #[error("start svc-artifacts")]
    Folder(#[from] FolderError),
}

/// Replays the event log and starts the service.
pub async fn start(deps: Deps, config: Config) -> Result<Service, StartError> {
    let blobs = Arc::new(Blobs::open(&config)?);
    let (owner, task) = Artifacts::start(deps.log, RULES).await?;
    let known = owner.read(State::total_bytes).await;
    blobs.take(known.expect("a task that started just now runs"));
    let api = Api { owner, blobs, clock: deps.clock };
    let server = ArtifactsServer::new(api).max_decoding_message_size(LARGEST_MESSAGE);
    let router = tonic::service::Routes::new(server).into_axum_router();
    Ok(Service { router: authz::guard(router), task })
}
