//! A worker's open `GetWork`: an attachment to the registry (its sign of life) and one to the
//! scheduler (what it must do), joined into one stream of orders.
//!
//! If either inner stream ends, so does the call, and the agent comes again: what it was assigned and
//! has not begun is sent anew.

use std::{future, time::Duration};

use futures::{StreamExt, stream, stream::BoxStream};
use proto::{
    access::v1::{ListSecretsRequest, ResolveSecretsRequest},
    common::v1::Lease,
    pipelines::v1::GetPipelineRequest,
    registry::v1::{
        AttachWorkerRequest as Presence, DetachWorkerRequest, ResolveEnvironmentRequest, Worker,
        WorkerState,
    },
    scheduler::v1::{
        Assignment, AttachWorkerRequest, Instruction, ReportRunRequest, ReportedState, Run,
        RunReport, RunSpec, instruction,
    },
    worker::{EnvironmentVariable, PipelineRun, WorkerInstance},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use transport::Heard;

use crate::{
    gate::{Gate, transient},
    limits,
    orders::{self, Secrets},
    peer::WorkerPeer,
};

pub(crate) type Orders = BoxStream<'static, Result<PipelineRun, Status>>;

/// Orders on their way to one worker; when it reads no further, neither does the gateway. In boxes: a
/// channel has room for many from the start.
type Waiting = mpsc::Sender<Box<Result<PipelineRun, Status>>>;
const WAITING_ORDERS: usize = 16;

/// For a worker that was deregistered to be told to stop its runs, before it is cut off.
const LAST_ORDERS: Duration = Duration::from_millis(500);

/// Without a sign of life for so long a worker counts as away. The transport makes one every 3 s, so a stall
/// of one second does no harm; and who counts as away has the rest of the grace time to come back.
const SILENCE: Duration = Duration::from_secs(5);

/// Gaia's agents stop for good when they read this, so nothing else may say it.
pub(crate) const NOT_REGISTERED: &str = "worker is not registered";

pub(crate) fn not_registered() -> Status {
    Status::unknown(NOT_REGISTERED)
}

#[derive(Debug)]
pub(crate) struct Attachment {
    gate: Gate,
    worker: WorkerPeer,
    instance: WorkerInstance,
    presence: Streaming<Worker>,
    /// `None`: within the process.
    heard: Option<Heard>,
}

impl Attachment {
    /// Tells the registry that the worker is here.
    pub(crate) async fn open(
        gate: Gate,
        worker: WorkerPeer,
        instance: WorkerInstance,
        heard: Option<Heard>,
    ) -> Result<Self, Status> {
        check(&instance)?;
        let request = Presence {
            worker_id: worker.id.to_string(),
            slots: instance.worker_slots.max(0),
            tags: instance.tags.clone(),
            detected_tags: instance.detected_tags.clone(),
            os: instance.os.clone(),
            arch: instance.arch.clone(),
            version: instance.version.clone(),
            caller: Some(worker.caller.clone()),
        };
        let attached = gate.registry().attach_worker(request).await.map_err(unknown_worker)?;
        let mut presence = attached.into_inner();
        // The first message says that the registry has the worker.
        match presence.message().await.map_err(unknown_worker)? {
            Some(state) if state.state() != WorkerState::Deregistered => {}
            Some(_) => return Err(not_registered()),
            None => return Err(ended("registry")),
        }
        Ok(Self { gate, worker, instance, presence, heard })
    }

    /// Orders as they are assigned, until the worker goes away or an attachment ends.
    pub(crate) async fn push(self) -> Result<Orders, Status> {
        let instructions = self.attach(true).await?;
        let (orders, receiver) = mpsc::channel(WAITING_ORDERS);
        tokio::spawn(self.drive(instructions, orders));
        Ok(ReceiverStream::new(receiver).map(|order| *order).boxed())
    }

    /// At most one run: a Gaia agent that cannot do one run of a reply forgets the others.
    pub(crate) async fn poll(self) -> Result<Orders, Status> {
        if self.instance.worker_slots <= 0 {
            return Ok(stream::empty().boxed());
        }
        let mut instructions = self.attach(false).await?;
        let mut order = None;
        while let Some(instruction) = instructions.message().await.map_err(transient)? {
            if let Some(instruction::Instruction::Start(assignment)) = instruction.instruction {
                order = order.or(self.begin_polled(assignment).await?);
            }
        }
        Ok(stream::iter(order.map(Ok)).boxed())
    }

    /// Gaia's agents read neither build orders nor values of arguments.
    async fn begin_polled(&self, assignment: Assignment) -> Result<Option<PipelineRun>, Status> {
        let spec = assignment.run.as_ref().and_then(|run| run.spec.as_ref());
        let needs_ours =
            spec.is_some_and(|spec| orders::is_build(spec) || orders::has_values(spec));
        if !needs_ours {
            return self.begin(assignment).await;
        }
        let reason = "it needs an agent that builds and takes arguments, which this one does not";
        let lease = assignment.lease.unwrap_or_default();
        self.end(lease, ReportedState::GivenBack, reason.to_owned()).await.map(|()| None)
    }

    async fn attach(&self, push: bool) -> Result<Streaming<Instruction>, Status> {
        let held = self.instance.held.iter().map(|held| Lease {
            run_id: held.run_id.clone(),
            attempt: held.attempt,
            token: held.lease_token.clone(),
        });
        let request = AttachWorkerRequest {
            worker_id: self.worker.id.to_string(),
            push,
            free_slots: self.instance.worker_slots,
            draining: self.instance.draining,
            held: held.collect(),
        };
        let attached = self.gate.scheduler().attach_worker(request).await;
        attached.map(tonic::Response::into_inner).map_err(unknown_worker)
    }

    async fn drive(mut self, mut instructions: Streaming<Instruction>, orders: Waiting) {
        let heard = self.heard.clone();
        let end = tokio::select! {
            end = self.relay(&mut instructions, &orders) => end,
            () = orders.closed() => return,
            silent = falls_silent(heard) => self.detach(silent).await,
        };
        tracing::debug!(worker = %self.worker.id, reason = end.message(), "GetWork ends");
        // If the worker is gone, it has nothing to learn.
        orders.send(Box::new(Err(end))).await.ok();
    }

    /// The connection may still be good for a worker that stood still.
    async fn detach(&self, silent: Duration) -> Status {
        let silent_ms = silent.as_millis() as u64;
        let request = DetachWorkerRequest { worker_id: self.worker.id.to_string(), silent_ms };
        if let Err(fault) = self.gate.registry().detach_worker(request).await {
            tracing::warn!(worker = %self.worker.id, %fault, "its grace time counts from now");
        }
        Status::unavailable(format!("nothing came from the worker for {} s", silent.as_secs()))
    }

    /// Passes on until something ends; says what.
    async fn relay(
        &mut self,
        instructions: &mut Streaming<Instruction>,
        orders: &Waiting,
    ) -> Status {
        let period = self.gate.config().keep_alive();
        let mut keep_alive = interval_at(Instant::now() + period, period);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let order = tokio::select! {
                state = self.presence.message() => match state {
                    Ok(Some(state)) if state.state() == WorkerState::Deregistered => {
                        if !state.forced {
                            timeout(LAST_ORDERS, stop_all(instructions, orders)).await.ok();
                        }
                        return not_registered();
                    }
                    Ok(Some(_)) => continue,
                    Ok(None) => return ended("registry"),
                    Err(refusal) => return unknown_worker(refusal),
                },
                instruction = instructions.message() => match instruction {
                    // In a box: it is large, and most workers are idle.
                    Ok(Some(instruction)) => match Box::pin(self.order(instruction)).await {
                        Ok(Some(order)) => order,
                        Ok(None) => continue,
                        Err(fault) => return fault,
                    },
                    Ok(None) => return ended("scheduler"),
                    Err(fault) => return Status::unavailable(fault.message()),
                },
                _ = keep_alive.tick() => orders::nothing(),
            };
            if orders.send(Box::new(Ok(order))).await.is_err() {
                return Status::cancelled("the worker is gone");
            }
        }
    }

    async fn order(&self, instruction: Instruction) -> Result<Option<PipelineRun>, Status> {
        match instruction.instruction {
            Some(instruction::Instruction::Start(assignment)) => self.begin(assignment).await,
            Some(instruction::Instruction::Cancel(lease)) => Ok(Some(orders::cancel(lease))),
            None => Ok(None),
        }
    }

    /// `None`: the run cannot begin, and the scheduler was told why.
    async fn begin(&self, assignment: Assignment) -> Result<Option<PipelineRun>, Status> {
        let lease = assignment.lease.unwrap_or_default();
        let run = assignment.run.unwrap_or_default();
        let spec = run.spec.clone().unwrap_or_default();
        let order = if orders::is_build(&spec) {
            self.begin_build(&lease, &run, &spec).await?
        } else {
            self.begin_run(&lease, &run, &spec).await?
        };
        let order = match order {
            Ok(order) => order,
            // Nobody else can do it either.
            Err(why) => return self.end(lease, ReportedState::Failed, why).await.map(|()| None),
        };
        match self.environment().await? {
            Ok(environment) => Ok(Some(PipelineRun { environment, ..order })),
            // Another worker has other variables.
            Err(why) => self.end(lease, ReportedState::GivenBack, why).await.map(|()| None),
        }
    }

    async fn begin_run(
        &self,
        lease: &Lease,
        run: &Run,
        spec: &RunSpec,
    ) -> Result<Result<PipelineRun, String>, Status> {
        let secrets = self.secrets(orders::vault_keys(&spec.jobs)).await?;
        Ok(secrets.map(|secrets| orders::start(lease.clone(), run, spec, &secrets)))
    }

    async fn begin_build(
        &self,
        lease: &Lease,
        run: &Run,
        spec: &RunSpec,
    ) -> Result<Result<PipelineRun, String>, Status> {
        let pipeline = GetPipelineRequest { id: spec.pipeline_id, name: String::new() };
        match self.gate.pipelines().get_credentials(pipeline).await {
            Ok(credentials) => {
                Ok(Ok(orders::build(lease.clone(), run, spec, credentials.into_inner())))
            }
            Err(refusal) if refusal.code() == Code::NotFound => {
                Ok(Err(format!("pipeline {} does not exist any more", spec.pipeline_id)))
            }
            Err(refusal) if is_for_good(refusal.code()) => Ok(Err(refusal.message().to_owned())),
            Err(fault) => Err(transient(fault)),
        }
    }

    /// What operators set for this worker or its tags. Gaia's own agents would not read it, and so not
    /// hide it in logs.
    async fn environment(&self) -> Result<Result<Vec<EnvironmentVariable>, String>, Status> {
        if !self.instance.push {
            return Ok(Ok(vec![]));
        }
        let request = ResolveEnvironmentRequest { worker_id: self.worker.id.to_string() };
        match self.gate.registry().resolve_environment(request).await {
            Ok(resolved) => {
                let variables = resolved.into_inner().variables.into_iter();
                Ok(Ok(variables.map(orders::variable).collect()))
            }
            Err(refusal) if is_for_good(refusal.code()) => Ok(Err(refusal.message().to_owned())),
            Err(refusal) => Err(unknown_worker(refusal)),
        }
    }

    /// The inner error says which key is missing.
    async fn secrets(&self, keys: Vec<String>) -> Result<Result<Secrets, String>, Status> {
        if keys.is_empty() {
            return Ok(Ok(Secrets::new()));
        }
        let request = ResolveSecretsRequest { keys: keys.clone() };
        match self.gate.access().resolve_secrets(request).await {
            Ok(resolved) => {
                let secrets = resolved.into_inner().secrets.into_iter();
                Ok(Ok(secrets.map(|secret| (secret.key, secret.value)).collect()))
            }
            Err(refusal) if refusal.code() == Code::NotFound => {
                let missing = self.missing_keys(keys).await?;
                Ok(Err(missing.unwrap_or_else(|| refusal.message().to_owned())))
            }
            Err(refusal) if is_for_good(refusal.code()) => Ok(Err(refusal.message().to_owned())),
            Err(fault) => Err(transient(fault)),
        }
    }

    async fn missing_keys(&self, keys: Vec<String>) -> Result<Option<String>, Status> {
        let known = self.gate.access().list_secrets(ListSecretsRequest {}).await;
        let known = known.map_err(transient)?.into_inner().secrets;
        let missing = keys.into_iter().find(|key| known.iter().all(|known| known.key != *key));
        Ok(missing.map(|key| missing_key(&key)))
    }

    /// Reports in the worker's place.
    async fn end(&self, lease: Lease, state: ReportedState, reason: String) -> Result<(), Status> {
        let report = RunReport { state: state.into(), reason, ..RunReport::default() };
        let request = ReportRunRequest {
            worker_id: self.worker.id.to_string(),
            lease: Some(lease),
            report: Some(report),
            caller: Some(self.worker.caller.clone()),
        };
        match self.gate.scheduler().report_run(request).await {
            Ok(_) => Ok(()),
            // The lease ended meanwhile, and with it the reason to tell.
            Err(refusal) if refusal.code() == Code::FailedPrecondition => Ok(()),
            Err(fault) => Err(transient(fault)),
        }
    }
}

async fn falls_silent(heard: Option<Heard>) -> Duration {
    match heard {
        Some(heard) => heard.falls_silent(SILENCE).await,
        None => future::pending().await,
    }
}

/// Passes on what must be stopped, and nothing that would begin.
async fn stop_all(instructions: &mut Streaming<Instruction>, orders: &Waiting) {
    while let Ok(Some(instruction)) = instructions.message().await {
        if let Some(instruction::Instruction::Cancel(lease)) = instruction.instruction
            && orders.send(Box::new(Ok(orders::cancel(lease)))).await.is_err()
        {
            return;
        }
    }
}

pub(crate) fn missing_key(key: &str) -> String {
    format!("vault key `{key}` does not exist: create it with `gaia secret set {key}`")
}

fn ended(service: &str) -> Status {
    Status::unavailable(format!("the connection to the {service} ended: connect again"))
}

/// Asking again would be answered alike, and would end the worker's stream each time.
fn is_for_good(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::ResourceExhausted)
}

/// What the registry's refusal of an attachment means to the worker.
fn unknown_worker(refusal: Status) -> Status {
    match refusal.code() {
        Code::NotFound => not_registered(),
        _ => transient(refusal),
    }
}

fn check(instance: &WorkerInstance) -> Result<(), Status> {
    let names = [&instance.os, &instance.arch, &instance.version];
    let checked = limits::tags(&instance.tags);
    let checked = checked.and_then(|()| limits::tags(&instance.detected_tags)).and_then(|()| {
        names.iter().try_for_each(|name| limits::text("os, arch, version", name, limits::NAME))
    });
    checked.map_err(|refusal| Status::invalid_argument(refusal.message()))
}
