//! The numbers of a pipeline's runs.
//!
//! A number is claimed in a stream of the pipeline's own, before its run is submitted. Whoever appends
//! there expects the claim before, so of two schedulers that both believe to lead, one gets the number;
//! the run that the other one submitted nevertheless has none until the leader claims one for it.
//!
//! Submissions of old versions carry their number; no later claim is for one of these.

use std::collections::{BTreeMap, HashMap};

use ids::{PipelineId, RunId, RunNumber, Timestamp};

use super::{Event, State};

/// Most runs that are numbered by one command.
const BATCH: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    given: BTreeMap<(PipelineId, RunNumber), RunId>,
    last: BTreeMap<PipelineId, RunNumber>,
    /// Claimed for runs that are not known.
    ahead: HashMap<RunId, (PipelineId, RunNumber)>,
    /// Runs that have none.
    missing: BTreeMap<RunId, PipelineId>,
}

impl Numbers {
    pub(super) fn find(&self, pipeline: PipelineId, number: RunNumber) -> Option<RunId> {
        self.given.get(&(pipeline, number)).copied()
    }

    pub(super) fn next(&self, pipeline: PipelineId) -> RunNumber {
        RunNumber(self.last.get(&pipeline).map_or(0, |last| last.0) + 1)
    }

    /// Whether a run that is not known has a number of this pipeline.
    pub(super) fn is_ahead(&self, pipeline: PipelineId, run: RunId) -> bool {
        self.ahead.get(&run).is_some_and(|(of, _)| *of == pipeline)
    }

    pub(super) fn is_missing(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Those that have runs with numbers.
    pub(super) fn pipelines(&self) -> impl Iterator<Item = PipelineId> {
        self.last.keys().copied()
    }

    fn give(&mut self, pipeline: PipelineId, number: RunNumber) {
        let last = self.last.entry(pipeline).or_insert(number);
        *last = number.max(*last);
    }

    /// `submitted`: of which pipeline the run is, if it is known. Answers whether it has the number now.
    pub(super) fn claim(
        &mut self,
        pipeline: PipelineId,
        number: RunNumber,
        run: RunId,
        submitted: Option<PipelineId>,
    ) -> bool {
        self.give(pipeline, number);
        self.given.insert((pipeline, number), run);
        if submitted.is_none() {
            self.ahead.insert(run, (pipeline, number));
        }
        submitted == Some(pipeline) && self.missing.remove(&run).is_some()
    }

    /// The number of a run that becomes known, if it was claimed.
    pub(super) fn submit(&mut self, pipeline: PipelineId, run: RunId) -> Option<RunNumber> {
        let claimed = self.ahead.remove(&run).filter(|(of, _)| *of == pipeline);
        if claimed.is_none() {
            self.missing.insert(run, pipeline);
        }
        claimed.map(|(_, number)| number)
    }

    /// The submission says it, as it did in old versions. Should two say the same, the older run has it.
    pub(super) fn submit_with(
        &mut self,
        pipeline: PipelineId,
        number: RunNumber,
        run: RunId,
        is_older_than: impl FnOnce(RunId) -> bool,
    ) {
        self.give(pipeline, number);
        let holder = self.given.entry((pipeline, number)).or_insert(run);
        if is_older_than(*holder) {
            *holder = run;
        }
    }
}

/// Claims numbers for runs that have none.
pub(super) fn number_runs(state: &State, at: Timestamp) -> Vec<Event> {
    let mut next = BTreeMap::new();
    let missing = state.numbers.missing.iter().take(BATCH);
    let claim = |(&run, &pipeline): (&RunId, &PipelineId)| {
        let number = next.entry(pipeline).or_insert_with(|| state.numbers.next(pipeline));
        let claimed = Event::RunNumbered { pipeline, number: *number, run, at };
        number.0 += 1;
        claimed
    };
    missing.map(claim).collect()
}
