//! Gaia's Worker API: what agents call. Every call is bound to the worker that the certificate names.

use axum::{middleware::Next, response::Response as AnyResponse};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use ids::WorkerId;
use proto::{
    Rpc,
    artifacts::v1::{GetArtifactRequest, StatArtifactRequest},
    common::v1::{Build, Lease},
    logs::v1::ReplaceLogRequest,
    pipelines::v1::GetPipelineRequest,
    registry::v1::ChangeWorkerRequest,
    scheduler::v1::{GetRunRequest, ReportRunRequest, Run},
    worker::{
        FileChunk, GitRepo, LogChunk, PipelineId, PipelineRun, PrivateKey, WorkerInstance,
        worker_server::Worker,
    },
};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    attachment::{Attachment, NOT_REGISTERED, Orders, not_registered},
    gate::{self, Gate, transient},
    orders,
    peer::WorkerPeer,
    reports, upload,
};

/// Largest message of a worker: a build's result with its jobs. Gaia's chunks have 64 KiB.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

/// Bytes of a piece of a binary; Gaia's size.
const CHUNK: usize = 64 << 10;

/// Gaia's words for a binary that is not for the worker.
const NO_SUCH_PIPELINE: &str = "failed to find related pipeline with given id";

#[derive(Debug)]
pub(crate) struct WorkerApi {
    gate: Gate,
}

impl WorkerApi {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { gate }
    }

    /// A refused lease, told as what it is: a worker that was deregistered has none, and must learn it.
    async fn refusal(&self, worker: WorkerId, refusal: Status) -> Status {
        let no_lease = matches!(
            refusal.code(),
            Code::NotFound | Code::FailedPrecondition | Code::PermissionDenied
        );
        if no_lease && let Ok(false) = self.gate.is_registered(worker).await {
            return not_registered();
        }
        transient(refusal)
    }

    /// The run whose binary the worker may have.
    async fn leased(&self, worker: WorkerId, wanted: &PipelineRun) -> Result<Run, Status> {
        let pipeline = u64::try_from(wanted.pipeline_id).unwrap_or(0);
        let run = if wanted.unique_id.is_empty() {
            self.gate.held_run(worker, pipeline).await?
        } else {
            Some(self.gate.leased_run(worker, reports::lease(wanted)).await?)
        };
        run.filter(|run| pipeline == 0 || pipeline_of(run) == pipeline)
            .ok_or_else(|| no_lease(wanted.pipeline_id))
    }

    /// Whether the worker needs the pipeline's repository now: to build it, or to run it as one of Gaia's
    /// agents, which builds again what its machine cannot run. How it joined decides which it is, not what it
    /// says of itself.
    async fn may_build(&self, worker: WorkerId, pipeline: u64) -> Result<bool, Status> {
        let held: Vec<_> = self.gate.held_runs(worker, pipeline).await?.collect();
        let is_build = |run: &Run| run.spec.as_ref().is_some_and(orders::is_build);
        Ok(held.iter().any(is_build) || !held.is_empty() && self.gate.is_of_gaia(worker).await?)
    }

    /// The attempt whose log a Gaia agent sends: the last that this worker had of the run.
    async fn logged_attempt(&self, worker: WorkerId, chunk: &LogChunk) -> Result<Lease, Status> {
        let request = GetRunRequest {
            run_id: String::new(),
            pipeline_id: u64::try_from(chunk.pipeline_id).unwrap_or(0),
            number: u64::try_from(chunk.run_id).unwrap_or(0),
        };
        let run = self.gate.scheduler().get_run(request).await?.into_inner();
        let id = worker.to_string();
        let attempt = run.attempts.iter().rev().find(|attempt| attempt.worker_id == id);
        let attempt = attempt.map_or(0, |attempt| attempt.attempt);
        if gate::holds(&run, worker) || self.gate.takes_late_log(&run, attempt, worker) {
            return Ok(Lease { run_id: run.run_id, attempt, token: String::new() });
        }
        Err(Status::permission_denied(format!(
            "run {} of pipeline {} is not this worker's: its log is refused",
            chunk.run_id, chunk.pipeline_id
        )))
    }

    /// The binary of a build came before its end is told; else all runs of it would fail.
    async fn check_stored(&self, build: &Build) -> Result<(), Status> {
        let request = StatArtifactRequest { digest: build.digest.clone() };
        match self.gate.artifacts().stat_artifact(request).await {
            Ok(stored) if stored.get_ref().size == build.size => return Ok(()),
            Err(fault) if !matches!(fault.code(), Code::NotFound | Code::DataLoss) => {
                return Err(transient(fault));
            }
            _ => {}
        }
        authz::count_rejection("gateway", "build_without_binary");
        Err(Status::invalid_argument(format!(
            "no binary of {} bytes with the digest of the build is stored: upload it before the \
             build's end is reported",
            build.size
        )))
    }

    async fn replace_log(
        &self,
        attempt: Lease,
        first: LogChunk,
        rest: Streaming<LogChunk>,
    ) -> Result<(), Status> {
        let ids = (first.run_id, first.pipeline_id);
        let chunks = stream::iter([Ok(first)]).chain(rest).map(move |chunk| {
            let chunk: LogChunk = chunk?;
            if (chunk.run_id, chunk.pipeline_id) == ids {
                Ok(ReplaceLogRequest {
                    run_id: attempt.run_id.clone(),
                    attempt: attempt.attempt,
                    data: chunk.chunk,
                })
            } else {
                Err(Status::unknown("corrupted chunk found in stream"))
            }
        });
        let upload = upload::upload(chunks);
        let mut logs = self.gate.logs();
        upload::outcome(logs.replace_log(upload.parts), upload.fault).await.map(drop)
    }

    async fn binary(
        &self,
        run: &Run,
    ) -> Result<BoxStream<'static, Result<FileChunk, Status>>, Status> {
        let digest = run.spec.as_ref().map(|spec| spec.artifact.clone()).unwrap_or_default();
        let request = GetArtifactRequest { digest, offset: 0, length: 0 };
        let pieces = self.gate.artifacts().get_artifact(request).await.map_err(transient)?;
        let chunks = pieces.into_inner().map_ok(|piece| stream::iter(chunks(piece.data)).map(Ok));
        Ok(chunks.try_flatten().map_err(transient).boxed())
    }
}

#[tonic::async_trait]
impl Worker for WorkerApi {
    type GetWorkStream = Orders;
    type StreamBinaryStream = BoxStream<'static, Result<FileChunk, Status>>;

    async fn get_work(
        &self,
        request: Request<WorkerInstance>,
    ) -> Result<Response<Self::GetWorkStream>, Status> {
        let worker = caller(&request)?;
        let heard = request.extensions().get().cloned();
        let instance = request.into_inner();
        let push = instance.push;
        let attachment = Attachment::open(self.gate.clone(), worker, instance, heard).await?;
        let orders = if push { attachment.push().await? } else { attachment.poll().await? };
        Ok(Response::new(orders))
    }

    async fn update_work(&self, request: Request<PipelineRun>) -> Result<Response<()>, Status> {
        let worker = caller(&request)?;
        let run = request.into_inner();
        let lease = reports::lease(&run);
        let report = reports::report(run)
            .inspect_err(|_| authz::count_rejection("gateway", "invalid_report"))?;
        if let Some(build) = &report.build {
            self.check_stored(build).await?;
        }
        let request = ReportRunRequest {
            worker_id: worker.id.to_string(),
            lease: Some(lease),
            report: Some(report),
            caller: Some(worker.caller),
        };
        match self.gate.scheduler().report_run(request).await {
            Ok(_) => Ok(Response::new(())),
            Err(refusal) => Err(self.refusal(worker.id, refusal).await),
        }
    }

    async fn stream_binary(
        &self,
        request: Request<PipelineRun>,
    ) -> Result<Response<Self::StreamBinaryStream>, Status> {
        let worker = caller(&request)?;
        match self.leased(worker.id, request.get_ref()).await {
            Ok(run) => Ok(Response::new(self.binary(&run).await?)),
            Err(refusal) => Err(match self.refusal(worker.id, refusal).await {
                unknown if unknown.code() == Code::NotFound => Status::unknown(NO_SUCH_PIPELINE),
                refusal => refusal,
            }),
        }
    }

    async fn stream_logs(
        &self,
        request: Request<Streaming<LogChunk>>,
    ) -> Result<Response<()>, Status> {
        let worker = caller(&request)?;
        let mut chunks = request.into_inner();
        let Some(first) = chunks.message().await? else {
            return if self.gate.is_registered(worker.id).await.map_err(transient)? {
                Ok(Response::new(()))
            } else {
                Err(not_registered())
            };
        };
        match self.logged_attempt(worker.id, &first).await {
            Ok(attempt) => {
                self.replace_log(attempt, first, chunks).await?;
                Ok(Response::new(()))
            }
            Err(refusal) => Err(self.refusal(worker.id, refusal).await),
        }
    }

    async fn deregister(&self, request: Request<WorkerInstance>) -> Result<Response<()>, Status> {
        let worker = caller(&request)?;
        let own = worker.id.to_string();
        let named = &request.get_ref().unique_id;
        if !named.is_empty() && !named.eq_ignore_ascii_case(&own) {
            return Err(Status::permission_denied(
                "a worker may deregister itself alone: send its own id",
            ));
        }
        let request = ChangeWorkerRequest {
            worker_id: own,
            note: "the worker asked for it".to_owned(),
            caller: Some(worker.caller),
            ..ChangeWorkerRequest::default()
        };
        match self.gate.registry().deregister_worker(request).await {
            Ok(_) => Ok(Response::new(())),
            Err(refusal) if refusal.code() == Code::NotFound => Err(not_registered()),
            Err(fault) => Err(transient(fault)),
        }
    }

    async fn get_git_repo(
        &self,
        request: Request<PipelineId>,
    ) -> Result<Response<GitRepo>, Status> {
        let worker = caller(&request)?;
        let id = request.into_inner().id;
        let unknown = || Status::unknown(format!("pipeline for id {id} not found"));
        let wanted = GetPipelineRequest {
            id: u64::try_from(id).ok().filter(|id| *id != 0).ok_or_else(unknown)?,
            name: String::new(),
        };
        let is_for_it = self.may_build(worker.id, wanted.id).await.map_err(transient)?;
        let pipeline = match self.gate.pipelines().get_pipeline(wanted.clone()).await {
            Ok(pipeline) => pipeline.into_inner(),
            Err(refusal) => {
                return Err(match self.refusal(worker.id, refusal).await {
                    refusal if refusal.code() == Code::NotFound => unknown(),
                    refusal => refusal,
                });
            }
        };
        if !is_for_it {
            return Err(self.refusal(worker.id, no_lease(id)).await);
        }
        let credentials = self.gate.pipelines().get_credentials(wanted).await.map_err(transient)?;
        Ok(Response::new(repository(pipeline.url, pipeline.branch, credentials.into_inner())))
    }
}

/// Counts who was let in at the door by the certificate, and is no worker any more or has not the lease
/// that the call needs.
pub(crate) async fn count_refusals(request: axum::extract::Request, next: Next) -> AnyResponse {
    let rpc = Rpc::of_path(request.uri().path());
    let response = next.run(request).await;
    if let Some(rpc) = rpc
        && let Some(refusal) = Status::from_header_map(response.headers())
    {
        match refusal.code() {
            Code::PermissionDenied | Code::FailedPrecondition | Code::NotFound => {
                authz::count(rpc.path(), "no_lease");
            }
            Code::Unknown if refusal.message() == NO_SUCH_PIPELINE => {
                authz::count(rpc.path(), "no_lease");
            }
            Code::Unknown if refusal.message() == NOT_REGISTERED => {
                authz::count(rpc.path(), "not_registered");
            }
            _ => {}
        }
    }
    response
}

fn caller<T>(request: &Request<T>) -> Result<WorkerPeer, Status> {
    Ok(WorkerPeer::of(request.extensions())?)
}

fn no_lease(pipeline: i64) -> Status {
    Status::permission_denied(format!(
        "this worker has no run of pipeline {pipeline} now: it gets the pipeline's binary only for a run \
         that it was given, and the repository only for a build"
    ))
}

fn pipeline_of(run: &Run) -> u64 {
    run.spec.as_ref().map_or(0, |spec| spec.pipeline_id)
}

fn repository(
    url: String,
    branch: String,
    credentials: proto::pipelines::v1::Credentials,
) -> GitRepo {
    let by_key = !credentials.private_key.is_empty();
    let private_key = PrivateKey {
        key: credentials.private_key,
        username: if by_key { credentials.username.clone() } else { String::new() },
        password: if by_key { credentials.password.clone() } else { String::new() },
    };
    GitRepo {
        private_key: Some(private_key),
        username: if by_key { String::new() } else { credentials.username },
        password: if by_key { String::new() } else { credentials.password },
        url,
        selected_branch: branch,
        branches: vec![],
        localdest: String::new(),
    }
}

/// A piece as Gaia's agents want it.
fn chunks(mut data: Bytes) -> Vec<FileChunk> {
    let mut chunks = Vec::with_capacity(data.len() / CHUNK + 1);
    while !data.is_empty() {
        let chunk = data.split_to(data.len().min(CHUNK));
        chunks.push(FileChunk { chunk });
    }
    chunks
}
