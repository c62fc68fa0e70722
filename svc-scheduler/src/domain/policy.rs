//! How a run is to be treated: how urgent it is, and what it must not run beside.

use super::limit::{Gate, GroupName};

/// The furthest that a priority may be from 0.
pub const MAX_PRIORITY: i32 = 100;
/// Most groups that a run is in.
pub const MAX_GROUPS: usize = 8;
/// Most retries of either kind.
pub const MAX_RETRIES: u32 = 100;
/// Longest delay before a first retry, in seconds.
pub const MAX_RETRY_DELAY: u32 = 86_400;
/// Longest timeout, in seconds.
pub const MAX_TIMEOUT: u32 = 30 * 86_400;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Higher is sooner.
    pub priority: i32,
    /// Each once, sorted.
    pub groups: Vec<GroupName>,
    pub on_worker_lost: OnWorkerLost,
    /// How often it is tried again when it failed by itself.
    pub retries: u32,
    /// Seconds before the first of these; each further one waits twice as long.
    pub retry_delay: u32,
    /// How often it is tried again when its worker could not do it; `None`: as the server is set.
    pub infrastructure_retries: Option<u32>,
    pub timeouts: Timeouts,
}

/// In seconds; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// To wait for a worker, without the time of a delay.
    pub queue: u32,
    /// Of an attempt that its worker has, to begin; beside what the server grants a worker to say that
    /// it has it.
    pub start: u32,
    /// Of one attempt, from its start.
    pub run: u32,
    /// To print nothing; the worker sees to it.
    pub silence: u32,
}

/// What happens to a run whose worker is lost and that may have begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnWorkerLost {
    /// It is tried again.
    #[default]
    Requeue,
    /// It has failed: it never begins twice.
    Fail,
    /// It stays with the worker until that comes back, or is deregistered.
    Wait,
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
    #[error("{field}: {value} is more than {most}")]
    TooMuch { field: &'static str, value: u32, most: u32 },
}

impl Policy {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&self.priority) {
            return Err(PolicyError::Priority(self.priority));
        }
        if self.groups.len() > MAX_GROUPS {
            return Err(PolicyError::TooManyGroups(self.groups.len()));
        }
        let Self { retries, retry_delay, infrastructure_retries, timeouts, .. } = self;
        let bounds = [
            ("retries", *retries, MAX_RETRIES),
            ("retry_delay", *retry_delay, MAX_RETRY_DELAY),
            ("infrastructure_retries", infrastructure_retries.unwrap_or_default(), MAX_RETRIES),
            ("queue_timeout", timeouts.queue, MAX_TIMEOUT),
            ("start_timeout", timeouts.start, MAX_TIMEOUT),
            ("run_timeout", timeouts.run, MAX_TIMEOUT),
            ("silence_timeout", timeouts.silence, MAX_TIMEOUT),
        ];
        let too_much = bounds.into_iter().find(|(_, value, most)| value > most);
        match too_much {
            Some((field, value, most)) => Err(PolicyError::TooMuch { field, value, most }),
            None => Ok(()),
        }
    }

    pub(super) fn gates(&self) -> impl Iterator<Item = Gate> {
        self.groups.iter().cloned().map(Gate::Group)
    }
}
