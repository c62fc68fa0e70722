//! What every worker held at a moment: less than the state, so that many moments can be kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use eventlog::Fold;
use ids::{RunId, WorkerId};
use proto::scheduler::v1 as pb;

use crate::domain::{Event, Fact, WorkerChange};

/// Who holds which runs, and has finished how many. Grows with workers and with what they hold, not with
/// runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loads {
    workers: BTreeMap<WorkerId, Load>,
    held: HashMap<RunId, WorkerId>,
    queued: u64,
}

#[derive(Clone, Debug, Default)]
struct Load {
    /// The registry has told of it.
    is_known: bool,
    is_removed: bool,
    runs: BTreeSet<RunId>,
    finished: u64,
}

impl Fold for Loads {
    type Event = Fact;

    fn evolve(&mut self, fact: &Fact) {
        match fact {
            Fact::Worker(fact) => {
                let load = self.load(fact.worker);
                load.is_known = true;
                load.is_removed |= fact.change == WorkerChange::Deregistered;
            }
            Fact::Run(event) => self.evolve_run(event),
        }
    }
}

impl Loads {
    fn evolve_run(&mut self, event: &Event) {
        match event {
            Event::RunSubmitted { .. } => self.queued += 1,
            Event::RunAssigned { run, worker, .. } => {
                self.queued = self.queued.saturating_sub(1);
                self.held.insert(*run, *worker);
                self.load(*worker).runs.insert(*run);
            }
            Event::RunRequeued { run, .. } => {
                self.leave(*run);
                self.queued += 1;
            }
            Event::RunCancelled { run, .. } | Event::RunFinished { run, .. } => {
                match self.leave(*run) {
                    Some(worker) => self.load(worker).finished += 1,
                    None => self.queued = self.queued.saturating_sub(1),
                }
            }
            _ => {}
        }
    }

    fn leave(&mut self, run: RunId) -> Option<WorkerId> {
        let worker = self.held.remove(&run)?;
        self.load(worker).runs.remove(&run);
        Some(worker)
    }

    fn load(&mut self, worker: WorkerId) -> &mut Load {
        self.workers.entry(worker).or_default()
    }

    /// Nobody is connected.
    pub(crate) fn shown(&self) -> pb::ListLoadsResponse {
        let known = self.workers.iter().filter(|(_, load)| load.is_known && !load.is_removed);
        let loads = known.map(|(id, load)| pb::Load {
            worker_id: id.to_string(),
            run_ids: load.runs.iter().map(ToString::to_string).collect(),
            finished_runs: load.finished,
            connected: false,
        });
        pb::ListLoadsResponse { loads: loads.collect(), queued: self.queued }
    }
}
