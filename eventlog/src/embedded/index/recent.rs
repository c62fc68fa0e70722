//! The ids of the newest events, so that a retry without an expected revision is recognised.

use std::collections::{HashMap, VecDeque};

use ids::EventId;

/// Half of an id's bytes folded onto the other half. Who finds one looks at the event itself, so two ids
/// with the same digest only make a log forget the older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::embedded) struct IdDigest(pub(super) u64);

impl IdDigest {
    pub(in crate::embedded) fn of(id: EventId) -> Self {
        let (high, low) = id.as_uuid().as_u64_pair();
        Self(high ^ low)
    }
}

#[derive(Debug, Default)]
pub(in crate::embedded) struct RecentIds {
    positions: HashMap<IdDigest, u64>,
    order: VecDeque<(IdDigest, u64)>,
}

impl RecentIds {
    pub(in crate::embedded) const MOST: usize = 1 << 17;

    pub(in crate::embedded) fn push(&mut self, id: IdDigest, position: u64) {
        if self.order.len() == Self::MOST
            && let Some((oldest, at)) = self.order.pop_front()
            && self.positions.get(&oldest) == Some(&at)
        {
            self.positions.remove(&oldest);
        }
        self.positions.insert(id, position);
        self.order.push_back((id, position));
    }

    /// Where the newest event with such an id is.
    pub(in crate::embedded) fn position(&self, id: EventId) -> Option<u64> {
        self.positions.get(&IdDigest::of(id)).copied()
    }
}
