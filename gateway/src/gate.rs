//! The services behind the door, and the questions that more than one route asks them.

use std::{path::PathBuf, sync::Arc};

use eventlog::{Clock, Log};
use ids::{RunId, Timestamp, WorkerId};
use proto::{
    access::v1::access_client::AccessClient,
    artifacts::v1::artifacts_client::ArtifactsClient,
    common::v1::Lease,
    logs::v1::logs_client::LogsClient,
    pipelines::v1::pipelines_client::PipelinesClient,
    registry::v1::{ListWorkersRequest, registry_client::RegistryClient},
    scheduler::v1::{
        CheckLeaseRequest, GetRunRequest, ListRunsRequest, Run, RunState,
        scheduler_client::SchedulerClient,
    },
};
use tonic::{Code, Status};
use transport::Channel;

use crate::Config;

/// Largest answer of a service: a list of a thousand runs with their jobs.
const MAX_ANSWER: usize = 64 << 20;

/// What the gateway needs.
#[derive(Clone, Debug)]
pub struct Deps {
    pub registry: RegistryClient<Channel>,
    pub scheduler: SchedulerClient<Channel>,
    pub artifacts: ArtifactsClient<Channel>,
    pub logs: LogsClient<Channel>,
    pub pipelines: PipelinesClient<Channel>,
    pub access: AccessClient<Channel>,
    /// Only read, for the view of the events.
    pub log: Log,
    /// Signs the log's head; `None`: its files are not on this machine.
    pub witness: Option<Witness>,
    pub clock: Clock,
}

/// What the log's head is read from, and signed with.
#[derive(Clone, Debug)]
pub struct Witness {
    /// Folder of the log.
    pub log: PathBuf,
    /// Folder of the gateway's credentials, which are renewed while it runs.
    pub identity: PathBuf,
}

/// What every route shares. Clients are cloned for each call, as tonic wants it.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    deps: Arc<Deps>,
    config: Arc<Config>,
}

impl Gate {
    pub(crate) fn new(deps: Deps, config: Config) -> Self {
        let deps = Deps {
            registry: deps.registry.max_decoding_message_size(MAX_ANSWER),
            scheduler: deps.scheduler.max_decoding_message_size(MAX_ANSWER),
            artifacts: deps.artifacts.max_decoding_message_size(MAX_ANSWER),
            logs: deps.logs.max_decoding_message_size(MAX_ANSWER),
            pipelines: deps.pipelines.max_decoding_message_size(MAX_ANSWER),
            access: deps.access.max_decoding_message_size(MAX_ANSWER),
            ..deps
        };
        Self { deps: Arc::new(deps), config: Arc::new(config) }
    }

    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        self.deps.registry.clone()
    }

    pub(crate) fn scheduler(&self) -> SchedulerClient<Channel> {
        self.deps.scheduler.clone()
    }

    pub(crate) fn artifacts(&self) -> ArtifactsClient<Channel> {
        self.deps.artifacts.clone()
    }

    pub(crate) fn logs(&self) -> LogsClient<Channel> {
        self.deps.logs.clone()
    }

    pub(crate) fn pipelines(&self) -> PipelinesClient<Channel> {
        self.deps.pipelines.clone()
    }

    pub(crate) fn access(&self) -> AccessClient<Channel> {
        self.deps.access.clone()
    }

    pub(crate) fn log(&self) -> &Log {
        &self.deps.log
    }

    pub(crate) fn witness(&self) -> Option<&Witness> {
        self.deps.witness.as_ref()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.deps.clock.now()
    }

    /// Whether the registry still has the worker. Walks all workers, so only refusals and
    /// removals ask this.
    pub(crate) async fn is_registered(&self, worker: WorkerId) -> Result<bool, Status> {
        let workers =
            self.registry().list_workers(ListWorkersRequest::default()).await?.into_inner();
        let id = worker.to_string();
        Ok(workers.workers.iter().any(|known| known.worker_id == id))
    }

    /// Whether the worker registered with the secret, Gaia's way. Walks all workers, too.
    pub(crate) async fn is_of_gaia(&self, worker: WorkerId) -> Result<bool, Status> {
        let workers =
            self.registry().list_workers(ListWorkersRequest::default()).await?.into_inner();
        let id = worker.to_string();
        Ok(workers.workers.iter().any(|known| known.worker_id == id && !known.by_token))
    }

    /// The run that the lease is for. `FailedPrecondition`: it is not (any longer) the worker's.
    pub(crate) async fn leased_run(&self, worker: WorkerId, lease: Lease) -> Result<Run, Status> {
        let request = CheckLeaseRequest { worker_id: worker.to_string(), lease: Some(lease) };
        Ok(self.scheduler().check_lease(request).await?.into_inner())
    }

    /// An open run or build of the pipeline that the worker has now.
    pub(crate) async fn held_run(
        &self,
        worker: WorkerId,
        pipeline: u64,
    ) -> Result<Option<Run>, Status> {
        Ok(self.held_runs(worker, pipeline).await?.next())
    }

    pub(crate) async fn held_runs(
        &self,
        worker: WorkerId,
        pipeline: u64,
    ) -> Result<impl Iterator<Item = Run>, Status> {
        let request = ListRunsRequest {
            pipeline_id: pipeline,
            worker_id: worker.to_string(),
            with_builds: true,
            only_open: true,
            ..ListRunsRequest::default()
        };
        let runs = self.scheduler().list_runs(request).await?.into_inner().runs;
        Ok(runs.into_iter().filter(move |run| holds(run, worker)))
    }

    pub(crate) async fn run(&self, run: RunId) -> Result<Run, Status> {
        let request = GetRunRequest { run_id: run.to_string(), ..GetRunRequest::default() };
        Ok(self.scheduler().get_run(request).await?.into_inner())
    }

    /// Whether the log of this attempt may (still) be written by this worker, without proof by a
    /// token: it had the attempt, and the attempt ended not long ago.
    pub(crate) fn takes_late_log(&self, run: &Run, attempt: u32, worker: WorkerId) -> bool {
        let worker = worker.to_string();
        let its_own = run
            .attempts
            .iter()
            .find(|had| had.attempt == attempt && had.worker_id == worker && had.ended_at != 0);
        its_own
            .is_some_and(|had| self.now().since(Timestamp(had.ended_at)) <= self.config.late_log())
    }
}

/// Whether the run's present attempt is this worker's.
pub(crate) fn holds(run: &Run, worker: WorkerId) -> bool {
    let given = matches!(run.state(), RunState::Assigned | RunState::Running);
    let last = run.attempts.last();
    given && last.is_some_and(|last| last.ended_at == 0 && last.worker_id == worker.to_string())
}

pub(crate) fn is_terminal(run: &Run) -> bool {
    matches!(run.state(), RunState::Succeeded | RunState::Failed | RunState::Cancelled)
}

/// A service's refusal as it is; anything else (it is down, it is new, it broke) as `Unavailable`, so
/// that a worker comes again instead of giving up.
pub(crate) fn transient(status: Status) -> Status {
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Aborted => status,
        code => Status::unavailable(format!(
            "a service behind the gateway does not answer ({code:?}: {}): try again",
            status.message()
        )),
    }
}
