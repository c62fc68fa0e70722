//! gRPC in: parse, mint ids, stamp time, ask the owner, and say in the caller's terms what came of it.

use std::{collections::HashMap, sync::Arc};

use eventlog::{Clock, Origin, Stopped, owner::Past};
use futures::{StreamExt, stream};
use ids::{LeaseToken, PipelineId, RunId, RunNumber, WorkerId};
use proto::scheduler::v1::{self as pb, instruction, scheduler_server::Scheduler};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    Config,
    connections::{Connections, Notice},
    domain::{
        Command, Connected, Event, Filter, Gate, Lease, Limit, Presence, Rejection, Reported, Run,
        RunState, State, explain, placement,
    },
    selectors,
    service::Owner,
    views::Loads,
    watchers::Watchers,
    wire::{self, WireError, shorten},
};

/// Under which name rejections are counted.
const SERVICE: &str = "svc-scheduler";
/// Longest note or name of a caller, in bytes.
const MAX_NOTE: usize = 1 << 10;
/// Most runs in one list: nothing is decided while it is made.
const MAX_LISTED: usize = 10_000;
/// Most leases that a worker may say it holds.
const MAX_HELD: usize = 10_000;

#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) owner: Owner,
    pub(crate) past: Past<Loads>,
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    pub(crate) connections: Connections,
    pub(crate) watchers: Watchers,
}

/// How a caller names a run.
#[derive(Clone, Copy)]
enum Name {
    Id(RunId),
    Number(PipelineId, RunNumber),
}

impl Name {
    fn read(request: &pb::GetRunRequest) -> Result<Self, WireError> {
        if !request.run_id.is_empty() {
            return wire::read_run_id(&request.run_id).map(Self::Id);
        }
        if request.number == 0 {
            return Err(WireError::Missing("run_id, or pipeline_id and number,"));
        }
        Ok(Self::Number(PipelineId(request.pipeline_id), RunNumber(request.number)))
    }

    fn find(self, state: &State) -> Result<(RunId, &Run), Status> {
        let id = match self {
            Self::Id(id) => Some(id),
            Self::Number(pipeline, number) => state.numbered(pipeline, number),
        };
        let found = id.and_then(|id| Some((id, state.run(id)?)));
        found.ok_or_else(|| match self {
            Self::Id(id) => Rejection::UnknownRun(id).into(),
            Self::Number(pipeline, number) => {
                Status::not_found(format!("pipeline {pipeline} has no run {number}"))
            }
        })
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Instructions = stream::BoxStream<'static, Result<pb::Instruction, Status>>;

impl Api {
    /// Asks, and looks at the state right after; one round for both.
    async fn ask_and_read<T: Send + 'static>(
        &self,
        command: Command,
        origin: Origin,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<(Vec<Event>, T), Status> {
        let (answer, seen) = futures::join!(self.owner.ask(command, origin), self.owner.read(look));
        Ok((answer.map_err(stopped)??, seen.map_err(stopped)?))
    }

    /// The run as clients see it; a queued one says why it waits.
    async fn find<T: Send + 'static>(
        &self,
        name: Name,
        then: impl FnOnce(&State, RunId, &Run, &Connected) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let connected = self.connections.connected();
        let look = move |state: &State| {
            let (id, run) = name.find(state)?;
            Ok(then(state, id, run, &connected))
        };
        self.owner.read(look).await.map_err(stopped)?
    }

    async fn push(
        &self,
        request: pb::AttachWorkerRequest,
        worker: WorkerId,
    ) -> Answer<Instructions> {
        if request.held.len() > MAX_HELD {
            return Err(Status::invalid_argument(format!("held has more than {MAX_HELD} leases")));
        }
        let mut held = vec![];
        for lease in &request.held {
            let (run, lease) = wire::read_lease(lease)?;
            held.push((run, lease.ok_or(WireError::Missing("held.token"))?));
        }
        let reconcile = Command::ReconcileWorker {
            worker,
            held: held.clone(),
            max_attempts: self.config.max_infrastructure_attempts,
            at: self.clock.now(),
        };
        let origin = Origin { actor: format!("worker:{worker}"), ..Origin::default() };
        let look = move |state: &State| -> (Vec<_>, Vec<_>) {
            let is_current = |&(run, lease): &(RunId, Lease)| {
                state.check_lease(run, worker, Some(lease)).is_ok()
            };
            held.into_iter().partition(is_current)
        };
        let (_, (current, stale)) = self.ask_and_read(reconcile, origin, look).await?;
        let current = current.into_iter().map(|(run, lease)| (run, lease.attempt)).collect();
        let stop = |(run, lease)| {
            let stop = instruction::Instruction::Cancel(wire::lease(run, lease));
            pb::Instruction { instruction: Some(stop) }
        };
        let first = stale.into_iter().map(stop).collect();
        let line = self.connections.attach(worker, request.draining, current, first);
        Ok(Response::new(line.boxed()))
    }

    /// At most one run, decided now: who polls is not there between two polls.
    async fn poll(
        &self,
        request: pb::AttachWorkerRequest,
        worker: WorkerId,
    ) -> Answer<Instructions> {
        self.connections.notify(Notice::Polled { worker, draining: request.draining });
        let free = u32::try_from(request.free_slots).unwrap_or_default();
        if request.draining || free == 0 {
            return Ok(Response::new(stream::empty().boxed()));
        }
        let mut connected = Connected::clone(&self.connections.connected());
        connected.set(worker, Presence::Polls { free });
        #[expect(clippy::disallowed_methods, reason = "the edge where leases get their tokens")]
        let tokens = (0..64).map(|_| LeaseToken::from_uuid(Uuid::new_v4())).collect();
        let assign =
            Command::AssignRuns { connected: Arc::new(connected), tokens, at: self.clock.now() };
        let origin = Origin { actor: format!("worker:{worker}"), ..Origin::default() };
        let events = self.owner.ask(assign, origin).await.map_err(stopped)??;
        let given = events.into_iter().find_map(|event| match event {
            Event::RunAssigned { run, attempt, worker: to, token, .. } if to == worker => {
                Some((run, Lease { attempt, token }))
            }
            _ => None,
        });
        let Some((run, lease)) = given else {
            return Ok(Response::new(stream::empty().boxed()));
        };
        self.connections.notify(Notice::Given { run, attempt: lease.attempt });
        let run_now =
            self.owner.read(move |state| wire::view(state, run)).await.map_err(stopped)?;
        let start = pb::Assignment { lease: Some(wire::lease(run, lease)), run: run_now };
        let start = pb::Instruction { instruction: Some(instruction::Instruction::Start(start)) };
        Ok(Response::new(stream::iter([Ok(start)]).boxed()))
    }
}

/// The run as clients see it, which says why it waits.
fn show(state: &State, id: RunId, run: &Run, connected: &Connected) -> pb::Run {
    let mut shown = wire::run(state, id, run);
    if run.state == RunState::Queued {
        shown.reason = explain(state, id, connected).map_or_else(String::new, |why| why.summary);
    }
    shown
}

fn list(state: &State, filter: Filter, limit: usize, connected: &Connected) -> Vec<pb::Run> {
    let mut reasons = HashMap::new();
    let runs = state.list(filter).take(limit).map(|(id, run)| {
        let mut shown = wire::run(state, id, run);
        if run.state == RunState::Queued {
            let reason = || placement(state, run, connected).summary;
            shown.reason.clone_from(reasons.entry(run.waits_for()).or_insert_with(reason));
        }
        shown
    });
    runs.collect()
}

#[tonic::async_trait]
impl Scheduler for Api {
    async fn submit_run(&self, request: Request<pb::SubmitRunRequest>) -> Answer<pb::Run> {
        let request = request.into_inner();
        let run = match request.run_id.as_str() {
            #[expect(clippy::disallowed_methods, reason = "the edge where runs get their ids")]
            "" => RunId::from_uuid(Uuid::now_v7()),
            text => wire::read_run_id(text)?,
        };
        let spec = wire::read_spec(request.spec.ok_or(WireError::Missing("spec"))?)?.into();
        let start_reason = match request.start_reason {
            none if none.is_empty() => "manual".to_owned(),
            reason => shorten(reason, MAX_NOTE),
        };
        let origin = Origin::from(request.caller);
        let started_by = shorten(origin.actor.clone(), MAX_NOTE);
        let at = self.clock.now();
        let submit = Command::SubmitRun { run, spec, start_reason, started_by, at };
        let look = move |state: &State| wire::view(state, run);
        let (_, shown) = self.ask_and_read(submit, origin, look).await?;
        shown.map(Response::new).ok_or_else(|| Rejection::UnknownRun(run).into())
    }

    async fn get_run(&self, request: Request<pb::GetRunRequest>) -> Answer<pb::Run> {
        self.find(Name::read(request.get_ref())?, show).await.map(Response::new)
    }

    async fn list_runs(
        &self,
        request: Request<pb::ListRunsRequest>,
    ) -> Answer<pb::ListRunsResponse> {
        let pb::ListRunsRequest { pipeline_id, limit, with_builds, only_open, worker_id } =
            request.into_inner();
        let pipeline = (pipeline_id > 0).then_some(PipelineId(pipeline_id));
        let had = !worker_id.is_empty();
        let worker = had.then(|| wire::read_worker_id(&worker_id)).transpose()?;
        let filter = Filter { pipeline, with_builds, only_open, worker };
        let limit = if limit == 0 { MAX_LISTED } else { MAX_LISTED.min(limit as usize) };
        let connected = self.connections.connected();
        let look = move |state: &State| list(state, filter, limit, &connected);
        let runs = self.owner.read(look).await.map_err(stopped)?;
        Ok(Response::new(pb::ListRunsResponse { runs }))
    }

    type WatchRunStream = stream::BoxStream<'static, Result<pb::Run, Status>>;

    async fn watch_run(&self, request: Request<pb::GetRunRequest>) -> Answer<Self::WatchRunStream> {
        let name = Name::read(request.get_ref())?;
        let look = |state: &State, id, run: &Run, connected: &Connected| {
            (id, run.revision, run.state, show(state, id, run, connected))
        };
        let (id, revision, state, shown) = self.find(name, look).await?;
        if state.is_terminal() {
            return Ok(Response::new(stream::iter([Ok(shown)]).boxed()));
        }
        let told = self.watchers.watch(id, revision, shown);
        Ok(Response::new(WatchStream::new(told).map(Ok).boxed()))
    }

    async fn cancel_run(&self, request: Request<pb::CancelRunRequest>) -> Answer<pb::Run> {
        let request = request.into_inner();
        let name = Name::read(&request.run.ok_or(WireError::Missing("run"))?)?;
        let run = self.find(name, |_, id, _, _| id).await?;
        let origin = Origin::from(request.caller);
        let by = shorten(origin.actor.clone(), MAX_NOTE);
        let note = shorten(request.note, MAX_NOTE);
        let cancel = Command::CancelRun { run, by, note, at: self.clock.now() };
        let look = move |state: &State| wire::view(state, run);
        let (_, shown) = self.ask_and_read(cancel, origin, look).await?;
        shown.map(Response::new).ok_or_else(|| Rejection::UnknownRun(run).into())
    }

    async fn explain_run(&self, request: Request<pb::GetRunRequest>) -> Answer<pb::Placement> {
        let look =
            |state: &State, id, _: &Run, connected: &Connected| explain(state, id, connected);
        let placement = self.find(Name::read(request.get_ref())?, look).await?;
        let placement = placement.ok_or_else(|| Status::internal("the run vanished"))?;
        Ok(Response::new(wire::placement(placement)))
    }

    type AttachWorkerStream = Instructions;

    async fn attach_worker(
        &self,
        request: Request<pb::AttachWorkerRequest>,
    ) -> Answer<Instructions> {
        let request = request.into_inner();
        let worker = wire::read_worker_id(&request.worker_id)?;
        // One that is not known yet may have registered a moment ago.
        let is_out =
            move |state: &State| state.worker(worker).is_some_and(|known| known.deregistered);
        if self.owner.read(is_out).await.map_err(stopped)? {
            return Err(Status::not_found(format!(
                "worker {worker} was deregistered; register it again"
            )));
        }
        if request.push {
            self.push(request, worker).await
        } else {
            self.poll(request, worker).await
        }
    }

    async fn report_run(
        &self,
        request: Request<pb::ReportRunRequest>,
    ) -> Answer<pb::ReportRunResponse> {
        let request = request.into_inner();
        let worker = wire::read_worker_id(&request.worker_id)?;
        let (run, lease) = wire::read_lease(&request.lease.ok_or(WireError::Missing("lease"))?)?;
        let report = wire::read_report(request.report.ok_or(WireError::Missing("report"))?)?;
        let received = report.state == Reported::Received;
        let max_attempts = self.config.max_infrastructure_attempts;
        let at = self.clock.now();
        let command = Command::ReportRun { run, worker, lease, report, max_attempts, at };
        let look = move |state: &State| {
            let run = state.run(run).filter(|run| run.state.is_held());
            let cancel_requested = run.is_some_and(|run| run.cancel_requested.is_some());
            (cancel_requested, run.and_then(Run::current).map(|current| current.attempt))
        };
        let origin = Origin::from(request.caller);
        let (_, (cancel_requested, current)) = self.ask_and_read(command, origin, look).await?;
        let attempt = lease.map(|lease| lease.attempt).or(current);
        if let Some(attempt) = attempt.filter(|_| received) {
            self.connections.notify(Notice::Received { run, attempt });
        }
        Ok(Response::new(pb::ReportRunResponse { cancel_requested }))
    }

    async fn check_lease(&self, request: Request<pb::CheckLeaseRequest>) -> Answer<pb::Run> {
        let request = request.into_inner();
        let worker = wire::read_worker_id(&request.worker_id)?;
        let (run, lease) = wire::read_lease(&request.lease.ok_or(WireError::Missing("lease"))?)?;
        let look = move |state: &State| {
            state.check_lease(run, worker, lease)?;
            wire::view(state, run).ok_or(Rejection::UnknownRun(run))
        };
        let shown = self.owner.read(look).await.map_err(stopped)??;
        Ok(Response::new(shown))
    }

    async fn set_limit(&self, request: Request<pb::SetLimitRequest>) -> Answer<pb::LimitedGate> {
        let request = request.into_inner();
        let gate = wire::read_gate(request.gate.ok_or(WireError::Missing("gate"))?)?;
        let limit = request.limit.map(wire::read_limit).transpose()?;
        let origin = Origin::from(request.caller);
        let by = shorten(origin.actor.clone(), MAX_NOTE);
        let note = shorten(request.note, MAX_NOTE);
        let set = Command::SetLimit { gate: gate.clone(), limit, by, note, at: self.clock.now() };
        let look = move |state: &State| {
            let known = state.limits().find(|(known, ..)| **known == gate);
            known.map_or_else(
                || pb::LimitedGate { gate: Some(wire::gate(&gate)), ..Default::default() },
                limited,
            )
        };
        let (_, shown) = self.ask_and_read(set, origin, look).await?;
        Ok(Response::new(shown))
    }

    async fn list_limits(
        &self,
        _: Request<pb::ListLimitsRequest>,
    ) -> Answer<pb::ListLimitsResponse> {
        let look = |state: &State| {
            let mut limits: Vec<_> = state.limits().collect();
            limits.sort_by(|one, other| one.0.cmp(other.0));
            limits.into_iter().map(limited).collect()
        };
        let limits = self.owner.read(look).await.map_err(stopped)?;
        Ok(Response::new(pb::ListLimitsResponse { limits }))
    }

    async fn check_selector(
        &self,
        request: Request<pb::CheckSelectorRequest>,
    ) -> Answer<pb::CheckSelectorResponse> {
        let request = request.into_inner();
        let look = move |state: &State| selectors::check(state, request);
        Ok(Response::new(self.owner.read(look).await.map_err(stopped)?))
    }

    async fn list_loads(
        &self,
        request: Request<pb::ListLoadsRequest>,
    ) -> Answer<pb::ListLoadsResponse> {
        if let Some(end) = request.into_inner().before {
            let loads = self.past.before(end).await;
            let loads = loads.map_err(|error| Status::unavailable(error.to_string()))?;
            return Ok(Response::new(loads.shown()));
        }
        let connected = self.connections.connected();
        let look = move |state: &State| loads(state, &connected);
        Ok(Response::new(self.owner.read(look).await.map_err(stopped)?))
    }
}

fn loads(state: &State, connected: &Connected) -> pb::ListLoadsResponse {
    pb::ListLoadsResponse {
        loads: state.workers().map(|(id, _)| load(state, id, connected)).collect(),
        queued: state.queued() as u64,
    }
}

fn limited((gate, limit, running, open): (&Gate, Limit, u32, usize)) -> pb::LimitedGate {
    pb::LimitedGate {
        gate: Some(wire::gate(gate)),
        limit: Some(wire::limit(limit)),
        running,
        open: open as u32,
    }
}

fn load(state: &State, worker: WorkerId, connected: &Connected) -> pb::Load {
    pb::Load {
        worker_id: worker.to_string(),
        run_ids: state.held_by(worker).map(|run| run.to_string()).collect(),
        finished_runs: state.finished_by(worker),
        connected: connected.get(worker).is_some(),
    }
}

fn stopped(stopped: Stopped) -> Status {
    Status::unavailable(stopped.to_string())
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        authz::count_rejection(SERVICE, error.reason());
        Self::invalid_argument(error.to_string())
    }
}

impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        authz::count_rejection(SERVICE, rejection.reason());
        let text = rejection.to_string();
        match rejection {
            Rejection::InvalidSpec(_) | Rejection::UnknownJob { .. } => {
                Self::invalid_argument(text)
            }
            Rejection::InvalidLimit(_) | Rejection::TooLate(_) => Self::invalid_argument(text),
            Rejection::UnknownPin { .. } => Self::failed_precondition(text),
            Rejection::UnknownRun(_) => Self::not_found(text),
            Rejection::StaleLease { .. } | Rejection::RunEnded { .. } => {
                Self::failed_precondition(text)
            }
        }
    }
}
