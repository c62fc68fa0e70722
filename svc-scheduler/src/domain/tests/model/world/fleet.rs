//! What the registry says of a worker, and may say next.

use super::*;

/// A worker, as the registry's events leave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is true or not whatever the others are")]
pub(in super::super) struct Fleet {
    pub(in super::super) paused: bool,
    pub(in super::super) draining: bool,
    pub(in super::super) overdue: bool,
    pub(in super::super) lost: bool,
    pub(in super::super) gone: bool,
}

impl Fleet {
    pub(in super::super) fn is_active(self) -> bool {
        self == Self::default()
    }

    pub(super) fn take(&mut self, change: &WorkerChange) {
        match change {
            WorkerChange::Suspended => {
                (self.paused, self.draining, self.overdue) = (true, false, false);
            }
            WorkerChange::DrainStarted => (self.paused, self.draining) = (false, true),
            WorkerChange::DrainExpired => self.overdue = true,
            WorkerChange::Resumed => {
                (self.paused, self.draining, self.overdue) = (false, false, false);
            }
            WorkerChange::Lost => self.lost = true,
            WorkerChange::Returned => self.lost = false,
            WorkerChange::Deregistered => self.gone = true,
            _ => {}
        }
    }

    /// What the registry may say next.
    pub(super) fn changes(self) -> Vec<WorkerChange> {
        if self.gone {
            return vec![];
        }
        let mut next = vec![WorkerChange::Deregistered];
        next.push(if self.lost { WorkerChange::Returned } else { WorkerChange::Lost });
        if self.draining && !self.overdue {
            next.push(WorkerChange::DrainExpired);
        }
        if self.paused || self.draining {
            next.push(WorkerChange::Resumed);
        } else {
            next.extend([WorkerChange::Suspended, WorkerChange::DrainStarted]);
        }
        next
    }
}
