//! What starts the service, and the task that owns its state.

use std::{convert::Infallible, fs, io, path::PathBuf, sync::Arc, time::Duration};

use eventlog::{Clock, Log, Owner, Rules, Stopped, owner::OwnerError};
use objects::OpenError;
use proto::artifacts::v1::artifacts_server::ArtifactsServer;
use tokio::{sync::Mutex, task::JoinHandle};

use crate::{
    api::Api,
    codec,
    config::Config,
    domain::{Command, Event, State, decide},
    error::BlobError,
    garbage::Garbage,
    store::Store,
};

/// The one task that owns the state.
pub(crate) type Artifacts = Owner<State, Command, Event, Infallible>;

const RULES: Rules<State, Command, Event, Infallible> = Rules {
    owns: codec::OWNS,
    follows: codec::FOLLOWS,
    decide,
    stream: codec::stream,
    encode: codec::encode,
    decode: codec::decode,
};

/// Most bytes of one message: a manifest and what is around it.
const LARGEST_MESSAGE: usize = chunks::manifest::LARGEST_MANIFEST + (1 << 20);

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
    #[error("start svc-artifacts")]
    Log(#[from] OwnerError),
    #[error("start svc-artifacts")]
    Place(#[from] OpenError),
    #[error("start svc-artifacts: remove {}", .0.display())]
    Leftovers(PathBuf, #[source] io::Error),
    #[error("start svc-artifacts: list what is in {0}")]
    Objects(String, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Replays the event log, looks at what is stored, and starts the service.
pub async fn start(deps: Deps, config: Config) -> Result<Service, StartError> {
    let store = Arc::new(open(&config).await?);
    let (owner, mut owner_task) = Artifacts::start(deps.log, RULES).await?;
    let garbage = Arc::new(Garbage {
        owner: owner.clone(),
        store: Arc::clone(&store),
        clock: deps.clock.clone(),
        keep: Duration::from_hours(24 * u64::from(config.keep_days)),
        turn: Mutex::new(()),
    });
    let (clock, most_bytes) = (deps.clock, config.max_artifact_bytes);
    let api = Api { owner, store, clock, most_bytes, garbage: Arc::clone(&garbage) };
    let server = ArtifactsServer::new(api)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE);
    let router = tonic::service::Routes::new(server).into_axum_router();
    let task = tokio::spawn(async move {
        let ended = tokio::select! {
            ended = &mut owner_task => ended,
            Stopped = garbage.keep_clean() => owner_task.await,
        };
        ended.expect("the task that owns the state neither panics nor is aborted")
    });
    Ok(Service { router: authz::guard(router), task })
}

async fn open(config: &Config) -> Result<Store, StartError> {
    let (objects, place) = if let Some(bucket) = &config.bucket {
        (objects::bucket(bucket)?, bucket.clone())
    } else {
        // Where earlier versions kept what was on its way.
        let incoming = config.data.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StartError::Leftovers(incoming, error));
            }
            _ => (objects::folder(&config.data)?, config.data.display().to_string()),
        }
    };
    let opened = Store::open(objects, place.clone(), config.max_total_bytes).await;
    opened.map_err(|error| match error {
        BlobError::Store { source, .. } => StartError::Objects(place, Box::new(source)),
        error => StartError::Objects(place, Box::new(error)),
    })
}
