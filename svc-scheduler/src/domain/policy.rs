//! How a run is to be treated: how urgent it is, and what it must not run beside.

use super::limit::{Gate, GroupName};

/// The furthest that a priority may be from 0.
pub const MAX_PRIORITY: i32 = 100;
/// Most groups that a run is in.
pub const MAX_GROUPS: usize = 8;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Higher is sooner.
    pub priority: i32,
    /// Each once, sorted.
    pub groups: Vec<GroupName>,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error(
        "priority: {0} is out of range; use a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}"
    )]
    Priority(i32),
    #[error("groups: a run is in at most {MAX_GROUPS}, and {0} are named")]
    TooManyGroups(usize),
}

impl Policy {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&self.priority) {
            return Err(PolicyError::Priority(self.priority));
        }
        if self.groups.len() > MAX_GROUPS {
            return Err(PolicyError::TooManyGroups(self.groups.len()));
        }
        Ok(())
    }

    pub(super) fn gates(&self) -> impl Iterator<Item = Gate> {
        self.groups.iter().cloned().map(Gate::Group)
    }
}
