//! Runs that are assigned and not begun, in the order in which that came to be known.

use std::collections::{BTreeMap, HashMap};

use ids::RunId;

/// Its order is no part of the state: two are equal if they hold the same runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Unstarted {
    /// How many have come so far.
    arrived: u64,
    by_arrival: BTreeMap<u64, RunId>,
    arrivals: HashMap<RunId, u64>,
}

impl PartialEq for Unstarted {
    fn eq(&self, other: &Self) -> bool {
        let is_there = |run| other.arrivals.contains_key(run);
        self.arrivals.len() == other.arrivals.len() && self.arrivals.keys().all(is_there)
    }
}

impl Eq for Unstarted {}

impl Unstarted {
    pub(super) fn insert(&mut self, run: RunId) {
        self.by_arrival.insert(self.arrived, run);
        self.arrivals.insert(run, self.arrived);
        self.arrived += 1;
    }

    pub(super) fn remove(&mut self, run: RunId) {
        if let Some(arrival) = self.arrivals.remove(&run) {
            self.by_arrival.remove(&arrival);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.arrivals.len()
    }

    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// But for the first so many that came.
    pub(super) fn after(&self, first: u64) -> impl Iterator<Item = RunId> {
        self.by_arrival.range(first..).map(|(_, run)| *run)
    }
}
