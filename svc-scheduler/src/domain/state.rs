//! What the scheduler remembers, and the indexes that make every question cheap.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use eventlog::Fold;
use ids::{PipelineId, RunId, RunNumber, Timestamp, WorkerId};

use super::{
    Event, Fact, RunKind, Subject,
    limit::{Crowd, Gate, Limit},
    number::Numbers,
    queue::{Class, Owner, Place, Queue},
    room::Room,
    run::{Run, RunState},
    unstarted::Unstarted,
    worker::Worker,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    // From `run-*`.
    /// In boxes: a table that grows moves what is in it.
    runs: HashMap<RunId, Box<Run>>,
    by_pipeline: ByPipeline,
    by_time: BTreeSet<(Timestamp, RunId)>,
    /// Not ended.
    open: BTreeSet<(Timestamp, RunId)>,
    open_by_pipeline: ByPipeline,
    pub(super) queue: Queue,
    held: HashMap<WorkerId, BTreeSet<RunId>>,
    unstarted: Unstarted,
    /// Those that a worker ever had, by when they were submitted.
    by_worker: HashMap<WorkerId, BTreeSet<(Timestamp, RunId)>>,
    /// Held, but somebody wants them to stop.
    cancelling: BTreeSet<RunId>,
    finished: HashMap<WorkerId, u64>,
    /// When runs will have waited or run for too long.
    deadlines: BTreeSet<(Timestamp, RunId)>,
    /// Runs on workers, by who started them.
    shares: HashMap<Owner, u32>,
    // From both `run-*` and `numbers-*`.
    pub(super) numbers: Numbers,
    // From both `run-*` and `limit-*`.
    crowds: HashMap<Gate, Crowd>,
    crowded: BTreeSet<Gate>,
    // From `limit-*`.
    /// Every gate that ever had a limit.
    limited: BTreeSet<Gate>,
    // From `worker-*`.
    workers: BTreeMap<WorkerId, Worker>,
    // From both, a function of `held` and `workers`.
    gone_holding: BTreeSet<WorkerId>,
    /// Free slots of active workers.
    pub(super) room: Room,
}

/// Runs of a pipeline by when they were submitted.
type ByPipeline = BTreeSet<(PipelineId, Timestamp, RunId)>;

/// Which runs to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub pipeline: Option<PipelineId>,
    pub with_builds: bool,
    pub only_open: bool,
    /// Who has had an attempt of it.
    pub worker: Option<WorkerId>,
}

impl State {
    #[must_use]
    pub fn run(&self, id: RunId) -> Option<&Run> {
        self.runs.get(&id).map(|run| &**run)
    }

    /// In no order.
    pub fn runs(&self) -> impl Iterator<Item = (RunId, &Run)> {
        self.runs.iter().map(|(&id, run)| (id, &**run))
    }

    #[must_use]
    pub fn numbered(&self, pipeline: PipelineId, number: RunNumber) -> Option<RunId> {
        self.numbers.find(pipeline, number)
    }

    /// Newest first.
    pub fn list(&self, filter: Filter) -> impl Iterator<Item = (RunId, &Run)> {
        let by_worker = filter.worker.map(|worker| self.by_worker.get(&worker));
        let ids: Box<dyn Iterator<Item = RunId>> = match (by_worker, filter.pipeline) {
            (Some(had), _) => Box::new(had.into_iter().flatten().rev().map(|&(_, id)| id)),
            (None, None) => {
                let runs = if filter.only_open { &self.open } else { &self.by_time };
                Box::new(runs.iter().rev().map(|&(_, id)| id))
            }
            (None, Some(pipeline)) => {
                let runs =
                    if filter.only_open { &self.open_by_pipeline } else { &self.by_pipeline };
                let (first, last) = (uuid::Uuid::nil(), uuid::Uuid::max());
                let from = (pipeline, Timestamp(0), RunId::from_uuid(first));
                let to = (pipeline, Timestamp(u64::MAX), RunId::from_uuid(last));
                Box::new(runs.range(from..=to).rev().map(|&(_, _, id)| id))
            }
        };
        ids.filter_map(|id| Some((id, self.run(id)?))).filter(move |(_, run)| {
            (filter.with_builds || run.spec.kind == RunKind::Pipeline)
                && filter.pipeline.is_none_or(|pipeline| run.spec.pipeline == pipeline)
                && (!filter.only_open || !run.state.is_terminal())
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

    /// The worker with this name or id.
    pub(super) fn pinned_worker(&self, pin: &str) -> Option<WorkerId> {
        self.workers().find(|(id, worker)| worker.is_called(*id, pin)).map(|(id, _)| id)
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

    /// Runs that their worker must be told to begin, but for the first so many that were assigned.
    pub fn unstarted(&self, first: u64) -> impl Iterator<Item = (RunId, &Run)> {
        self.unstarted.after(first).filter_map(|id| Some((id, self.run(id)?)))
    }

    /// How many were assigned so far.
    #[must_use]
    pub fn assigned(&self) -> u64 {
        self.unstarted.arrived()
    }

    #[must_use]
    pub fn unstarted_count(&self) -> usize {
        self.unstarted.len()
    }

    /// Runs that their worker must be told to stop.
    pub fn cancelling(&self) -> impl Iterator<Item = (RunId, &Run)> {
        self.cancelling.iter().filter_map(|id| Some((*id, self.run(*id)?)))
    }

    /// Workers whose runs must be taken away.
    pub fn gone_holding(&self) -> impl Iterator<Item = WorkerId> {
        self.gone_holding.iter().copied()
    }

    /// How many runs of this owner are on workers.
    #[must_use]
    pub fn share(&self, owner: &str) -> u32 {
        self.shares.get(owner).copied().unwrap_or_default()
    }

    #[must_use]
    pub fn limit(&self, gate: &Gate) -> Option<Limit> {
        self.crowds.get(gate)?.limit
    }

    /// With the runs that are on workers, and all that are due and have not ended.
    pub fn limits(&self) -> impl Iterator<Item = (&Gate, Limit, u32, usize)> {
        self.crowds
            .iter()
            .filter_map(|(gate, crowd)| Some((gate, crowd.limit?, crowd.held, crowd.staying.len())))
    }

    /// All that a command may still change, but for what does not exist yet.
    pub fn writable(&self) -> impl Iterator<Item = Subject<'_>> {
        let open = self.open.iter().map(|&(_, id)| Subject::Run(id));
        let numbers = self.numbers.pipelines().map(Subject::Numbers);
        open.chain(self.limited.iter().map(Subject::Gate)).chain(numbers)
    }

    pub(super) fn crowd(&self, gate: &Gate) -> Option<&Crowd> {
        self.crowds.get(gate)
    }

    /// Gates with runs that must end.
    pub(super) fn crowded(&self) -> impl Iterator<Item = (&Gate, &Crowd)> {
        self.crowded.iter().filter_map(|gate| Some((gate, self.crowds.get(gate)?)))
    }

    #[must_use]
    pub fn is_crowded(&self) -> bool {
        !self.crowded.is_empty()
    }

    /// When the next delayed run may start.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.queue.delayed().next().map(|(due, _)| due)
    }

    /// When the last run that waits to be tried again began to: in the future, if the clock was put back.
    #[must_use]
    pub fn last_pause(&self) -> Option<Timestamp> {
        self.queue.pauses().next().map(|(since, _)| since)
    }

    /// When runs will have waited or run for too long, soonest first.
    pub fn deadlines(&self) -> impl Iterator<Item = (Timestamp, RunId)> {
        self.deadlines.iter().copied()
    }

    /// Whether a run has no number.
    #[must_use]
    pub fn is_number_missing(&self) -> bool {
        self.numbers.is_missing()
    }

    /// Keeps what follows from both sides true; either may become known first.
    fn recheck(&mut self, id: WorkerId) {
        let held = self.held_count(id);
        let Some(worker) = self.workers.get(&id) else { return };
        let leaves = |run| self.runs.get(&run).is_some_and(|run| run.leaves(worker));
        if worker.is_gone() && self.held_by(id).any(leaves) {
            self.gone_holding.insert(id);
        } else {
            self.gone_holding.remove(&id);
        }
        let free = if worker.is_active() { worker.slots.saturating_sub(held) } else { 0 };
        self.room.set(id, free);
    }

    fn change_crowd(&mut self, gate: &Gate, change: impl FnOnce(&mut Crowd)) {
        let crowd = self.crowds.entry(gate.clone()).or_default();
        change(crowd);
        if crowd.is_crowded() {
            self.crowded.insert(gate.clone());
        } else {
            self.crowded.remove(gate);
        }
        if crowd.is_forgettable() {
            self.crowds.remove(gate);
        }
    }

    fn evolve_own(&mut self, event: &Event) {
        if let Event::LimitChanged { gate, limit, .. } = event {
            self.limited.insert(gate.clone());
            self.change_crowd(gate, |crowd| crowd.limit = *limit);
        }
        if let Event::RunNumbered { pipeline, number, run, .. } = event {
            let known = self.runs.get_mut(run);
            let submitted = known.as_ref().map(|known| known.spec.pipeline);
            if self.numbers.claim(*pipeline, *number, *run, submitted)
                && let Some(known) = known
            {
                known.give_number(*number);
            }
        }
        if let Some(run) = event.run() {
            self.evolve_run(run, event);
        }
    }

    fn evolve_run(&mut self, id: RunId, event: &Event) {
        if let Some(run) = self.runs.get_mut(&id) {
            // Its jobs move it nowhere.
            if matches!(event, Event::JobStarted { .. } | Event::JobFinished { .. }) {
                return run.evolve(event);
            }
            if let Event::RunAssigned { worker, .. } = event {
                self.by_worker.entry(*worker).or_default().insert((run.submitted_at, id));
            }
            let before = (Standing::of(id, run), Part::of(run));
            let deadline = run.deadline();
            run.evolve(event);
            if deadline != run.deadline() {
                deadline.map(|deadline| self.deadlines.remove(&(deadline, id)));
                self.deadlines.extend(run.deadline().map(|deadline| (deadline, id)));
            }
            let after = (Standing::of(id, run), Part::of(run));
            let (place, gates) = ((run.waits_since(), id), Arc::clone(&run.gates));
            let owner = Arc::clone(&run.started_by);
            if before.1 != after.1 {
                self.change_part(&gates, place, &owner, before.1, after.1);
            }
            if before.0 != after.0 {
                self.leave(id, before.0);
                self.enter(id, after.0);
            }
        } else if let Some(mut run) = Run::submitted(event, self.run_like(event)) {
            let (pipeline, place) = (run.spec.pipeline, (run.submitted_at, id));
            if run.spec.kind == RunKind::Pipeline {
                self.number(id, &mut run);
            }
            self.by_pipeline.insert((pipeline, run.submitted_at, id));
            self.by_time.insert(place);
            self.open.insert(place);
            self.open_by_pipeline.insert((pipeline, run.submitted_at, id));
            self.deadlines.extend(run.deadline().map(|deadline| (deadline, id)));
            let (standing, part) = (Standing::of(id, &run), Part::of(&run));
            let (gates, owner) = (Arc::clone(&run.gates), Arc::clone(&run.started_by));
            let since = (run.waits_since(), id);
            self.runs.insert(id, Box::new(run));
            self.change_part(&gates, since, &owner, Part::default(), part);
            self.enter(id, standing);
        }
    }

    /// The newest run of the pipeline of which this submits another.
    fn run_like(&self, event: &Event) -> Option<&Run> {
        let Event::RunSubmitted { spec, .. } = event else { return None };
        let filter =
            Filter { pipeline: Some(spec.pipeline), with_builds: true, ..Filter::default() };
        self.list(filter).next().map(|(_, run)| run)
    }

    fn number(&mut self, id: RunId, run: &mut Run) {
        let (pipeline, number, place) = (run.spec.pipeline, run.number, (run.submitted_at, id));
        if number > RunNumber(0) {
            let is_older_than = |other| {
                self.runs.get(&other).is_some_and(|known| place < (known.submitted_at, other))
            };
            self.numbers.submit_with(pipeline, number, id, is_older_than);
        } else if let Some(claimed) = self.numbers.submit(pipeline, id) {
            run.give_number(claimed);
        }
    }

    fn change_part(
        &mut self,
        gates: &[Gate],
        place: (Timestamp, RunId),
        owner: &Owner,
        before: Part,
        after: Part,
    ) {
        for gate in gates {
            self.change_crowd(gate, |crowd| {
                if after.stays {
                    crowd.staying.insert(place);
                } else {
                    crowd.staying.remove(&place);
                }
                crowd.held = crowd.held + u32::from(after.held) - u32::from(before.held);
            });
        }
        let share = self.shares.entry(Arc::clone(owner)).or_default();
        *share = *share + u32::from(after.held) - u32::from(before.held);
        if *share == 0 {
            self.shares.remove(owner);
        }
    }

    fn leave(&mut self, id: RunId, standing: Standing) {
        match standing {
            Standing::Queued { class, owner, place } => self.queue.remove(&class, &owner, &place),
            Standing::Delayed { until, since } => self.queue.undelay(until, since, id),
            Standing::Held { worker, .. } => {
                self.unstarted.remove(id);
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
            Standing::Queued { class, owner, place } => self.queue.insert(class, owner, place),
            Standing::Delayed { until, since } => self.queue.delay(until, since, id),
            Standing::Held { worker, unstarted, cancelling } => {
                self.held.entry(worker).or_default().insert(id);
                if unstarted {
                    self.unstarted.insert(id);
                }
                if cancelling {
                    self.cancelling.insert(id);
                }
                self.recheck(worker);
            }
            Standing::Ended { worker, place } => {
                self.open.remove(&(place.1, id));
                self.open_by_pipeline.remove(&place);
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
            Fact::Run(event) => self.evolve_own(event),
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
    Queued { class: Class, owner: Owner, place: Place },
    Delayed { until: Timestamp, since: Option<Timestamp> },
    Held { worker: WorkerId, unstarted: bool, cancelling: bool },
    Ended { worker: Option<WorkerId>, place: (PipelineId, Timestamp, RunId) },
}

/// Its part in what is counted; a function of the run alone.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Part {
    /// On a worker.
    held: bool,
    /// Has not ended, and is not to stop; nor is it only planned for later.
    stays: bool,
}

impl Part {
    fn of(run: &Run) -> Self {
        let is_planned = run.attempts.is_empty() && run.delayed_until.is_some();
        let stays = !run.state.is_terminal() && run.cancel_requested.is_none() && !is_planned;
        Self { held: run.state.is_held(), stays }
    }
}

impl Standing {
    fn of(id: RunId, run: &Run) -> Self {
        if let Some(attempt) = run.current() {
            let unstarted = run.state == RunState::Assigned;
            let cancelling = run.cancel_requested.is_some();
            return Self::Held { worker: attempt.worker, unstarted, cancelling };
        }
        if run.state == RunState::Queued {
            if let Some(until) = run.delayed_until {
                let since = run.attempts.last().and_then(|last| last.ended_at);
                return Self::Delayed { until, since };
            }
            let (class, owner) = (Class::of(run), Arc::clone(&run.started_by));
            return Self::Queued { class, owner, place: Place::of(id, run) };
        }
        // A run that was cancelled in the queue ended on no worker.
        let on = run.attempts.last().filter(|attempt| attempt.requeue_reason.is_empty());
        let place = (run.spec.pipeline, run.submitted_at, id);
        Self::Ended { worker: on.map(|attempt| attempt.worker), place }
    }
}
