//! What the scheduler remembers, and the indexes that make every question cheap.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use eventlog::Fold;
use ids::{PipelineId, RunId, RunNumber, Timestamp, WorkerId};

use super::{
    Event, Fact, RunKind,
    queue::{Class, Place, Queue},
    run::{Run, RunState},
    worker::Worker,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    // From `run-*`.
    runs: HashMap<RunId, Run>,
    numbered: BTreeMap<(PipelineId, RunNumber), RunId>,
    by_pipeline: BTreeSet<(PipelineId, Timestamp, RunId)>,
    by_time: BTreeSet<(Timestamp, RunId)>,
    /// Not ended.
    open: BTreeSet<(Timestamp, RunId)>,
    pub(super) queue: Queue,
    held: HashMap<WorkerId, BTreeSet<RunId>>,
    /// Assigned, but not begun, by when they were assigned.
    unstarted: BTreeSet<(Timestamp, RunId)>,
    /// When a run was last assigned.
    last_assigned: Timestamp,
    /// Held, but somebody wants them to stop.
    cancelling: BTreeSet<RunId>,
    finished: HashMap<WorkerId, u64>,
    // From `worker-*`.
    workers: BTreeMap<WorkerId, Worker>,
    // From both, a function of `held` and `workers`.
    gone_holding: BTreeSet<WorkerId>,
    /// Active, with a free slot.
    roomy: BTreeSet<WorkerId>,
}

/// Which runs to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub pipeline: Option<PipelineId>,
    pub with_builds: bool,
    pub only_open: bool,
}

impl State {
    #[must_use]
    pub fn run(&self, id: RunId) -> Option<&Run> {
        self.runs.get(&id)
    }

    /// In no order.
    pub fn runs(&self) -> impl Iterator<Item = (RunId, &Run)> {
        self.runs.iter().map(|(&id, run)| (id, run))
    }

    #[must_use]
    pub fn numbered(&self, pipeline: PipelineId, number: RunNumber) -> Option<RunId> {
        self.numbered.get(&(pipeline, number)).copied()
    }

    /// Newest first.
    pub fn list(&self, filter: Filter) -> impl Iterator<Item = (RunId, &Run)> {
        let ids: Box<dyn Iterator<Item = RunId>> = match (filter.only_open, filter.pipeline) {
            (true, _) => Box::new(self.open.iter().rev().map(|&(_, id)| id)),
            (false, None) => Box::new(self.by_time.iter().rev().map(|&(_, id)| id)),
            (false, Some(pipeline)) => {
                let (first, last) = (uuid::Uuid::nil(), uuid::Uuid::max());
                let from = (pipeline, Timestamp(0), RunId::from_uuid(first));
                let to = (pipeline, Timestamp(u64::MAX), RunId::from_uuid(last));
                Box::new(self.by_pipeline.range(from..=to).rev().map(|&(_, _, id)| id))
            }
        };
        ids.filter_map(|id| Some((id, self.runs.get(&id)?))).filter(move |(_, run)| {
            (filter.with_builds || run.spec.kind == RunKind::Pipeline)
                && filter.pipeline.is_none_or(|pipeline| run.spec.pipeline == pipeline)
        })
    }

    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// Without the deregistered ones.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        let known = self.workers.iter().map(|(&id, worker)| (id, worker));
        known.filter(|(_, worker)| !worker.deregistered)
    }

    /// Whether a run that is pinned so can be placed. One that is not pinned can.
    pub(super) fn is_known_pin(&self, pin: &str) -> bool {
        pin.is_empty() || self.workers().any(|(id, worker)| worker.is_called(id, pin))
    }

    /// Its name, else its id.
    #[must_use]
    pub fn worker_name(&self, id: WorkerId) -> String {
        match self.workers.get(&id) {
            Some(worker) if !worker.name.is_empty() => worker.name.clone(),
            _ => id.to_string(),
        }
    }

    pub fn held_by(&self, worker: WorkerId) -> impl Iterator<Item = RunId> {
        self.held.get(&worker).into_iter().flatten().copied()
    }

    #[must_use]
    pub fn held_count(&self, worker: WorkerId) -> u32 {
        self.held.get(&worker).map_or(0, |runs| runs.len() as u32)
    }

    /// Runs that ended on it.
    #[must_use]
    pub fn finished_by(&self, worker: WorkerId) -> u64 {
        self.finished.get(&worker).copied().unwrap_or_default()
    }

    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Runs that were assigned at this time or later, and that their worker must be told to begin.
    pub fn unstarted(&self, since: Timestamp) -> impl Iterator<Item = (RunId, &Run)> {
        let since = (since, RunId::from_uuid(uuid::Uuid::nil()));
        let assigned = self.unstarted.range(since..);
        assigned.filter_map(|(_, id)| Some((*id, self.runs.get(id)?)))
    }

    /// When a run was last assigned; no later assignment has an earlier time.
    #[must_use]
    pub const fn last_assigned(&self) -> Timestamp {
        self.last_assigned
    }

    #[must_use]
    pub fn unstarted_count(&self) -> usize {
        self.unstarted.len()
    }

    /// Runs that their worker must be told to stop.
    pub fn cancelling(&self) -> impl Iterator<Item = (RunId, &Run)> {
        self.cancelling.iter().filter_map(|id| Some((*id, self.runs.get(id)?)))
    }

    /// Lost or deregistered workers whose runs must be taken away.
    pub fn gone_holding(&self) -> impl Iterator<Item = WorkerId> {
        self.gone_holding.iter().copied()
    }

    /// Active workers with a free slot.
    pub(super) fn roomy(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.roomy.iter().filter_map(|&id| Some((id, self.workers.get(&id)?)))
    }

    pub(super) fn next_number(&self, pipeline: PipelineId) -> RunNumber {
        let range = (pipeline, RunNumber(0))..=(pipeline, RunNumber(u64::MAX));
        let last = self.numbered.range(range).next_back();
        RunNumber(last.map_or(0, |((_, number), _)| number.0) + 1)
    }

    /// Keeps what follows from both sides true; either may become known first.
    fn recheck(&mut self, id: WorkerId) {
        let held = self.held_count(id);
        let Some(worker) = self.workers.get(&id) else { return };
        if held > 0 && worker.is_gone() {
            self.gone_holding.insert(id);
        } else {
            self.gone_holding.remove(&id);
        }
        if held < worker.slots && worker.is_active() {
            self.roomy.insert(id);
        } else {
            self.roomy.remove(&id);
        }
    }

    fn evolve_run(&mut self, event: &Event) {
        let id = event.run();
        if let Event::RunAssigned { at, .. } = event {
            self.last_assigned = self.last_assigned.max(*at);
        }
        if let Some(run) = self.runs.get_mut(&id) {
            let before = Standing::of(id, run);
            run.evolve(event);
            let after = Standing::of(id, run);
            if before != after {
                self.leave(id, before);
                self.enter(id, after);
            }
        } else if let Some(run) = Run::submitted(event) {
            let (pipeline, place) = (run.spec.pipeline, (run.submitted_at, id));
            if run.spec.kind == RunKind::Pipeline {
                self.numbered.insert((pipeline, run.number), id);
            }
            self.by_pipeline.insert((pipeline, run.submitted_at, id));
            self.by_time.insert(place);
            self.open.insert(place);
            let standing = Standing::of(id, &run);
            self.runs.insert(id, run);
            self.enter(id, standing);
        }
    }

    fn leave(&mut self, id: RunId, standing: Standing) {
        match standing {
            Standing::Queued { class, place } => self.queue.remove(&class, &place),
            Standing::Held { worker, assigned_at, .. } => {
                self.unstarted.remove(&(assigned_at, id));
                self.cancelling.remove(&id);
                if let Some(runs) = self.held.get_mut(&worker) {
                    runs.remove(&id);
                    if runs.is_empty() {
                        self.held.remove(&worker);
                    }
                }
                self.recheck(worker);
            }
            Standing::Ended { .. } => {}
        }
    }

    fn enter(&mut self, id: RunId, standing: Standing) {
        match standing {
            Standing::Queued { class, place } => self.queue.insert(class, place),
            Standing::Held { worker, assigned_at, unstarted, cancelling } => {
                self.held.entry(worker).or_default().insert(id);
                if unstarted {
                    self.unstarted.insert((assigned_at, id));
                }
                if cancelling {
                    self.cancelling.insert(id);
                }
                self.recheck(worker);
            }
            Standing::Ended { worker, place } => {
                self.open.remove(&place);
                if let Some(worker) = worker {
                    *self.finished.entry(worker).or_default() += 1;
                }
            }
        }
    }
}

impl Fold for State {
    type Event = Fact;

    fn evolve(&mut self, fact: &Fact) {
        match fact {
            Fact::Run(event) => self.evolve_run(event),
            Fact::Worker(fact) => {
                self.workers.entry(fact.worker).or_default().evolve(&fact.change);
                self.recheck(fact.worker);
            }
        }
    }
}

/// Where a run belongs in the indexes; a function of the run alone.
#[derive(PartialEq, Eq)]
enum Standing {
    Queued { class: Class, place: Place },
    Held { worker: WorkerId, assigned_at: Timestamp, unstarted: bool, cancelling: bool },
    Ended { worker: Option<WorkerId>, place: Place },
}

impl Standing {
    fn of(id: RunId, run: &Run) -> Self {
        let place = (run.submitted_at, id);
        if let Some(attempt) = run.current() {
            let unstarted = run.state == RunState::Assigned;
            let cancelling = run.cancel_requested.is_some();
            let (worker, assigned_at) = (attempt.worker, attempt.assigned_at);
            return Self::Held { worker, assigned_at, unstarted, cancelling };
        }
        if run.state == RunState::Queued {
            return Self::Queued { class: Class::of(run), place };
        }
        // A run that was cancelled in the queue ended on no worker.
        let on = run.attempts.last().filter(|attempt| attempt.requeue_reason.is_empty());
        Self::Ended { worker: on.map(|attempt| attempt.worker), place }
    }
}
