//! The runs that wait, by what they ask for and who wants them. Nothing here costs more the more runs
//! wait.
//!
//! A *line* holds the runs of one owner that every worker may or may not take alike and that go through
//! the same gates; whatever holds up its first run holds up all of them. A run's place in its line never
//! changes: a point of priority is worth a minute of waiting, for everybody and at all times, so that
//! ageing needs no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ids::{RunId, Timestamp, WorkerId};

use super::{limit::Gate, run::Run, worker::Requirement};

/// Milliseconds of waiting that a point of priority is worth.
const AGEING: i64 = 60_000;

/// Runs that every worker may or may not take alike, and that the same limits hold up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) requirement: Arc<Requirement>,
    pub(super) gates: Arc<[Gate]>,
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
        let (requirement, gates) = (Arc::clone(&run.requirement), Arc::clone(&run.gates));
        Self { requirement, gates, tried }
    }
}

/// The place in the line: smaller is earlier. A run that comes back keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Milliseconds since the epoch, moved by the priority.
    since: i64,
    pub(super) run: RunId,
}

impl Place {
    pub(super) fn of(id: RunId, run: &Run) -> Self {
        let ahead = i64::from(run.spec.policy.priority) * AGEING;
        let since = i64::try_from(run.waits_since().0).unwrap_or(i64::MAX);
        Self { since: since.saturating_sub(ahead), run: id }
    }
}

pub(super) type Owner = Arc<str>;
/// Of one owner, in order.
pub(super) type Line = BTreeSet<Place>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    lines: BTreeMap<Class, BTreeMap<Owner, Line>>,
    /// Not to be started before this time.
    delayed: BTreeSet<(Timestamp, RunId)>,
    /// Those of them that wait to be tried again, by when that began.
    pauses: BTreeSet<(Timestamp, RunId)>,
    length: usize,
}

impl Queue {
    pub(super) fn insert(&mut self, class: Class, owner: Owner, place: Place) {
        if self.lines.entry(class).or_default().entry(owner).or_default().insert(place) {
            self.length += 1;
        }
    }

    pub(super) fn remove(&mut self, class: &Class, owner: &Owner, place: &Place) {
        let Some(lines) = self.lines.get_mut(class) else { return };
        let Some(line) = lines.get_mut(owner) else { return };
        if line.remove(place) {
            self.length -= 1;
        }
        if line.is_empty() {
            lines.remove(owner);
        }
        if lines.is_empty() {
            self.lines.remove(class);
        }
    }

    /// `since`: when it began to wait to be tried again.
    pub(super) fn delay(&mut self, until: Timestamp, since: Option<Timestamp>, run: RunId) {
        self.delayed.insert((until, run));
        self.pauses.extend(since.map(|since| (since, run)));
    }

    pub(super) fn undelay(&mut self, until: Timestamp, since: Option<Timestamp>, run: RunId) {
        self.delayed.remove(&(until, run));
        since.map(|since| self.pauses.remove(&(since, run)));
    }

    /// Latest first.
    pub(super) fn pauses(&self) -> impl Iterator<Item = (Timestamp, RunId)> {
        self.pauses.iter().rev().copied()
    }

    /// Soonest first.
    pub(super) fn delayed(&self) -> impl Iterator<Item = (Timestamp, RunId)> {
        self.delayed.iter().copied()
    }

    /// The delayed ones too.
    pub(super) fn len(&self) -> usize {
        self.length + self.delayed.len()
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = (&Class, &BTreeMap<Owner, Line>)> {
        self.lines.iter()
    }

    /// The lines of all owners whose runs ask for the same.
    pub(super) fn of_class(&self, class: &Class) -> impl Iterator<Item = (&Owner, &Line)> {
        self.lines.get(class).into_iter().flatten()
    }
}
