//! Which workers have free slots, most first: so that placing a run need not look at all workers.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, btree_set},
};

use ids::WorkerId;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// Not 0.
    free: HashMap<WorkerId, u32>,
    most_first: BTreeSet<(Reverse<u32>, WorkerId)>,
    all: u64,
}

impl Room {
    pub(super) fn set(&mut self, worker: WorkerId, free: u32) {
        let before = self.on(worker);
        if before == free {
            return;
        }
        self.all = self.all - u64::from(before) + u64::from(free);
        self.most_first.remove(&(Reverse(before), worker));
        if free == 0 {
            self.free.remove(&worker);
        } else {
            self.free.insert(worker, free);
            self.most_first.insert((Reverse(free), worker));
        }
    }

    pub(super) fn on(&self, worker: WorkerId) -> u32 {
        self.free.get(&worker).copied().unwrap_or_default()
    }

    /// On all workers.
    pub(super) fn all(&self) -> u64 {
        self.all
    }

    pub(super) fn most_first(&self) -> MostFirst<'_> {
        self.most_first.iter()
    }
}

pub(super) type MostFirst<'a> = btree_set::Iter<'a, (Reverse<u32>, WorkerId)>;
