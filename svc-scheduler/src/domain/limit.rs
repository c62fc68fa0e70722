//! How many runs of a pipeline or of a named group may be on workers at once, and what happens to those
//! that are too many. A limit is a fact of its own, so a change of it applies to what waits already.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use ids::{PipelineId, RunId, Timestamp};

use super::{Event, Rejection, run::cancel_reason, state::State};

/// The most that a limit can be.
pub const MAX_LIMIT: u32 = 100_000;
/// Who cancels what is too much.
const LIMITS: &str = "a concurrency limit";
/// Most runs that one command cancels.
const BATCH: usize = 256;

/// What a limit is about. A run goes through the gate of its pipeline and of each of its groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gate {
    Pipeline(PipelineId),
    Group(GroupName),
}

/// 1 to 64 letters from a to z, digits, `.`, `_` and `-`; in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a group; use 1 to 64 letters from a to z, digits, `.`, `_` and `-`")]
pub struct InvalidGroup(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Runs that may be on workers at once; 0: none is started.
    pub running: u32,
    pub when_full: WhenFull,
}

/// What happens to runs that would be too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// They wait.
    Queue,
    /// Whatever was started before them ends.
    CancelOlder,
    /// They end.
    CancelNewer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("running: {0} is more than {MAX_LIMIT}")]
    TooMany(u32),
    #[error("running: 0 holds all runs back, which does not go with cancelling; use `queue`")]
    Nothing,
}

/// The runs of a gate that have not ended. One that is planned for later counts when it is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Crowd {
    pub(super) limit: Option<Limit>,
    /// Without those that are to stop; oldest first, by when they were due.
    pub(super) staying: BTreeSet<(Timestamp, RunId)>,
    /// On workers, those that are to stop, too.
    pub(super) held: u32,
}

impl Crowd {
    /// Whether so many more may go to workers.
    pub(super) fn has_room_for(&self, more: u32) -> bool {
        self.limit.is_none_or(|limit| self.held + more <= limit.running) && !self.is_crowded()
    }

    /// Somebody must go.
    pub(super) fn is_crowded(&self) -> bool {
        self.limit.is_some_and(|limit| {
            limit.when_full != WhenFull::Queue && self.staying.len() > limit.running as usize
        })
    }

    pub(super) fn is_forgettable(&self) -> bool {
        *self == Self::default()
    }

    /// Who must go.
    fn excess(&self) -> Vec<RunId> {
        let Some(limit) = self.limit.filter(|_| self.is_crowded()) else { return vec![] };
        let count = (self.staying.len() - limit.running as usize).min(BATCH);
        let ids = self.staying.iter().map(|(_, id)| *id);
        match limit.when_full {
            WhenFull::Queue => vec![],
            WhenFull::CancelOlder => ids.take(count).collect(),
            WhenFull::CancelNewer => ids.rev().take(count).collect(),
        }
    }
}

pub(super) fn set_limit(
    state: &State,
    gate: Gate,
    limit: Option<Limit>,
    by: String,
    note: String,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    if let Some(limit) = limit {
        limit.check()?;
    }
    if state.limit(&gate) == limit {
        return Ok(vec![]);
    }
    Ok(vec![Event::LimitChanged { gate, limit, by, note, at }])
}

/// Ends what the limits do not allow to wait or to go on.
pub(super) fn enforce_limits(state: &State, at: Timestamp) -> Vec<Event> {
    let mut seen = BTreeSet::new();
    let mut events = vec![];
    for (gate, crowd) in state.crowded() {
        for id in crowd.excess() {
            let Some(run) = state.run(id).filter(|_| seen.insert(id)) else { continue };
            let (by, note) = (LIMITS.to_owned(), format!("{gate} has too many runs"));
            events.push(if run.state.is_held() {
                Event::RunCancelRequested { run: id, by, note, at }
            } else {
                Event::RunCancelled { run: id, reason: cancel_reason(&by, &note), at }
            });
        }
    }
    events
}

impl Limit {
    fn check(self) -> Result<(), LimitError> {
        if self.running > MAX_LIMIT {
            return Err(LimitError::TooMany(self.running));
        }
        if self.running == 0 && self.when_full != WhenFull::Queue {
            return Err(LimitError::Nothing);
        }
        Ok(())
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pipeline(id) => write!(f, "pipeline {id}"),
            Self::Group(name) => write!(f, "group `{name}`"),
        }
    }
}

impl FromStr for GroupName {
    type Err = InvalidGroup;

    fn from_str(text: &str) -> Result<Self, InvalidGroup> {
        let name = text.trim().to_ascii_lowercase();
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=64).contains(&name.len()) || !name.chars().all(is_fine) {
            let start: String = name.chars().take(80).collect();
            return Err(InvalidGroup(start.escape_debug().to_string()));
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
