//! What the scheduler knows of workers: a fold of the registry's facts, and which runs they suit.

use std::collections::{BTreeMap, BTreeSet};

use ids::WorkerId;

use super::{
    selector::{Offer, Selector},
    spec::{RunKind, RunSpec},
};

/// What the registry recorded about a worker, as far as placing runs needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerFact {
    pub worker: WorkerId,
    pub change: WorkerChange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerChange {
    Registered {
        name: String,
        tags: Vec<String>,
        primary: bool,
    },
    Reported {
        slots: u32,
        tags: Vec<String>,
    },
    Renamed {
        name: String,
    },
    /// What operators say of its tags.
    TagsChanged {
        added: Vec<String>,
        removed: Vec<String>,
    },
    Suspended,
    DrainStarted,
    /// The deadline of its drain came.
    DrainExpired,
    Resumed,
    Lost,
    Returned,
    Deregistered,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is true or not whatever the others are")]
pub struct Worker {
    pub name: String,
    /// Runs that it can hold at once.
    pub slots: u32,
    /// Takes only what no other worker can.
    pub primary: bool,
    pub suspended: bool,
    pub draining: bool,
    /// It has been draining for too long.
    pub overdue: bool,
    pub lost: bool,
    pub deregistered: bool,
    /// As it said itself, and as operators did.
    own_tags: Vec<String>,
    operator_tags: Vec<String>,
    /// What all of its tags say.
    offer: Offer,
}

impl Worker {
    pub(super) fn evolve(&mut self, change: &WorkerChange) {
        match change {
            WorkerChange::Registered { name, tags, primary } => {
                self.name.clone_from(name);
                self.primary = *primary;
                self.own_tags.clone_from(tags);
            }
            WorkerChange::Reported { slots, tags } => {
                self.slots = *slots;
                self.own_tags.clone_from(tags);
            }
            WorkerChange::Renamed { name } => self.name.clone_from(name),
            WorkerChange::TagsChanged { added, removed } => {
                self.operator_tags.retain(|tag| !removed.contains(tag));
                self.operator_tags.extend_from_slice(added);
            }
            WorkerChange::Suspended => self.pause(true, false),
            WorkerChange::DrainStarted => self.pause(false, true),
            WorkerChange::DrainExpired => self.overdue = self.draining,
            WorkerChange::Resumed => self.pause(false, false),
            WorkerChange::Lost => self.lost = true,
            WorkerChange::Returned => self.lost = false,
            WorkerChange::Deregistered => {
                self.deregistered = true;
                (self.own_tags, self.operator_tags) = Default::default();
            }
        }
        self.sort_tags();
    }

    fn pause(&mut self, suspended: bool, draining: bool) {
        (self.suspended, self.draining, self.overdue) = (suspended, draining, false);
    }

    fn sort_tags(&mut self) {
        self.offer = Offer::of(self.own_tags.iter().chain(&self.operator_tags));
    }

    /// Its runs must go elsewhere.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.lost || self.deregistered || self.overdue
    }

    /// May be given new runs.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.suspended && !self.draining && !self.is_gone()
    }

    /// Whether a run that wants this may run here, free or not.
    #[must_use]
    pub fn suits(&self, id: WorkerId, requirement: &Requirement) -> bool {
        requirement.selector.suits(&self.offer) && self.is_pinned_by(id, requirement)
    }

    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Whether it may take what is pinned so; what is not pinned, any worker may take.
    #[must_use]
    pub fn is_pinned_by(&self, id: WorkerId, requirement: &Requirement) -> bool {
        requirement.pin.is_empty() || self.is_called(id, &requirement.pin)
    }

    /// By its name or its id.
    pub(super) fn is_called(&self, id: WorkerId, name: &str) -> bool {
        name == self.name || name.parse() == Ok(id)
    }
}

/// What a run asks of its worker; runs that ask the same wait in one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// With the pipeline's type and its tags.
    pub selector: Selector,
    /// Id or name of the only worker; empty: any.
    pub pin: String,
    /// Not for a worker that polls: such are Gaia's own agents, which build nothing, read no values of
    /// arguments, and do all jobs.
    pub pushed: bool,
}

impl Requirement {
    #[must_use]
    pub fn of(spec: &RunSpec) -> Self {
        let tags = spec.tags.iter().chain([&spec.pipeline_type]);
        let selector = spec.selector.clone().with_tags(tags);
        let pushed = spec.kind == RunKind::Build || spec.has_values() || !spec.done_jobs.is_empty();
        Self { selector, pin: spec.pinned_worker.clone(), pushed }
    }
}

/// Which workers are attached at this moment. Not a fact of the log: it comes with the command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    present: BTreeMap<WorkerId, Presence>,
    /// Those of them that ask just now.
    polling: BTreeSet<WorkerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Takes runs as they come, up to its slots.
    Pushed,
    /// Asks for one run now, having `free` room.
    Polls { free: u32 },
    /// Asked a moment ago and will ask again.
    Polled,
    /// Attached, but wants nothing new.
    Draining,
}

impl Presence {
    /// Whether a worker that is there in this way may take a run that wants this.
    #[must_use]
    pub fn suits(self, requirement: &Requirement) -> bool {
        !(requirement.pushed && matches!(self, Self::Polls { .. } | Self::Polled))
    }
}

impl Connected {
    pub fn set(&mut self, worker: WorkerId, presence: Presence) {
        self.present.insert(worker, presence);
        if matches!(presence, Presence::Polls { .. }) {
            self.polling.insert(worker);
        } else {
            self.polling.remove(&worker);
        }
    }

    pub fn remove(&mut self, worker: WorkerId) {
        self.present.remove(&worker);
        self.polling.remove(&worker);
    }

    #[must_use]
    pub fn get(&self, worker: WorkerId) -> Option<Presence> {
        self.present.get(&worker).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, Presence)> {
        self.present.iter().map(|(&worker, &presence)| (worker, presence))
    }

    /// Who asks just now, and how much room each has.
    pub(super) fn polling(&self) -> impl Iterator<Item = (WorkerId, u32)> {
        self.polling.iter().filter_map(|&worker| match self.get(worker)? {
            Presence::Polls { free } => Some((worker, free)),
            Presence::Pushed | Presence::Polled | Presence::Draining => None,
        })
    }
}
