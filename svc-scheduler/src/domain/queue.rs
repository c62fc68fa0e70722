//! The runs that wait, by what they ask for. Nothing here costs more the more runs wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ids::{RunId, Timestamp, WorkerId};

use super::{run::Run, worker::Requirement};

/// Runs that every worker may or may not take alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) requirement: Arc<Requirement>,
    /// Workers that had it already, latest first: any other is better.
    pub(super) tried: Vec<WorkerId>,
}

impl Class {
    pub(super) fn of(run: &Run) -> Self {
        let mut tried = Vec::new();
        for attempt in run.attempts.iter().rev() {
            if !tried.contains(&attempt.worker) {
                tried.push(attempt.worker);
            }
        }
        Self { requirement: Arc::clone(&run.requirement), tried }
    }
}

/// The place in the line. A run that comes back keeps it.
pub(super) type Place = (Timestamp, RunId);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    lines: BTreeMap<Class, BTreeSet<Place>>,
    length: usize,
}

impl Queue {
    pub(super) fn insert(&mut self, class: Class, place: Place) {
        if self.lines.entry(class).or_default().insert(place) {
            self.length += 1;
        }
    }

    pub(super) fn remove(&mut self, class: &Class, place: &Place) {
        let Some(line) = self.lines.get_mut(class) else { return };
        if line.remove(place) {
            self.length -= 1;
        }
        if line.is_empty() {
            self.lines.remove(class);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = (&Class, &BTreeSet<Place>)> {
        self.lines.iter()
    }

    /// How many are before it in its line; counts no further than `most`.
    pub(super) fn position(&self, class: &Class, place: &Place, most: usize) -> usize {
        self.lines.get(class).map_or(0, |line| line.range(..place).take(most).count())
    }
}
