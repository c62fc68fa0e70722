//! Which blobs there are, and which are needed.
//!
//! ```text
//!            stored                     nothing needs it any more
//!  (unknown) ──────▶ Artifact ────────────────────────────────────▶ removed
//!                       ▲            stored, or needed, again          │
//!                       └──────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - A blob's bytes never change. What is stored again is kept as long as if it were new.
//! - What a run that has not ended or the present build of a pipeline is of is never removed.
//! - This module does no IO, reads no clock, and draws no random numbers.

mod uses;

use std::{collections::HashMap, convert::Infallible, time::Duration};

use eventlog::Fold;
use ids::{Digest, PipelineId, RunId, Timestamp};

use uses::Uses;

/// How long it is known that a blob was removed. Its bytes go earlier than that.
const REMEMBER: Duration = Duration::from_hours(24);

/// What is stored again after this time without being needed counts as new.
const FRESH: Duration = Duration::from_hours(24);

/// A wish. None is ever refused: whether bytes fit their digest is found out before.
#[derive(Clone, Debug)]
pub enum Command {
    /// All of it is in the store.
    StoreArtifact { digest: Digest, size: u64, at: Timestamp },
    /// If nothing needs it, nor did after `idle_since`.
    RemoveArtifact { digest: Digest, idle_since: Timestamp, at: Timestamp },
}

/// A fact. It happened, is never refused, and is stored for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    ArtifactStored { digest: Digest, size: u64, at: Timestamp },
    ArtifactRemoved { digest: Digest, at: Timestamp },
}

/// Everything that the state folds: what this service decided, and who needs which blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Artifact(Event),
    RunSubmitted {
        run: RunId,
        artifact: Digest,
    },
    RunOver {
        run: RunId,
        at: Timestamp,
    },
    /// From now on the pipeline's runs are of this blob.
    PipelineBuilt {
        pipeline: PipelineId,
        artifact: Digest,
        at: Timestamp,
    },
    PipelineDeleted {
        pipeline: PipelineId,
        at: Timestamp,
    },
}

impl From<Event> for Fact {
    fn from(event: Event) -> Self {
        Self::Artifact(event)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    artifacts: HashMap<Digest, Artifact>,
    /// Not long ago, and when.
    removed: HashMap<Digest, (Artifact, Timestamp)>,
    uses: Uses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Artifact {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    pub stored_at: Timestamp,
}

/// The facts that follow from `command`. Empty: it was already so, or must not be.
pub fn decide(state: &State, command: Command) -> Result<Vec<Event>, Infallible> {
    Ok(match command {
        Command::StoreArtifact { digest, size, at } if !state.is_fresh(digest, at) => {
            vec![Event::ArtifactStored { digest, size, at }]
        }
        Command::RemoveArtifact { digest, idle_since, at }
            if state.artifacts.get(&digest).is_some_and(|it| state.is_idle(it, idle_since)) =>
        {
            vec![Event::ArtifactRemoved { digest, at }]
        }
        _ => vec![],
    })
}

impl Fold for State {
    type Event = Fact;

    fn evolve(&mut self, fact: &Fact) {
        match *fact {
            Fact::Artifact(Event::ArtifactStored { digest, size, at }) => {
                self.removed.remove(&digest);
                self.artifacts.insert(digest, Artifact { digest, size, stored_at: at });
            }
            Fact::Artifact(Event::ArtifactRemoved { digest, at }) => {
                self.removed.retain(|_, (_, removed)| at.since(*removed) < REMEMBER);
                if let Some(artifact) = self.artifacts.remove(&digest) {
                    self.removed.insert(digest, (artifact, at));
                }
            }
            Fact::RunSubmitted { run, artifact } => self.uses.run(run, artifact),
            Fact::RunOver { run, at } => self.uses.run_over(run, at),
            Fact::PipelineBuilt { pipeline, artifact, at } => {
                self.uses.built(pipeline, artifact, at);
            }
            Fact::PipelineDeleted { pipeline, at } => self.uses.deleted(pipeline, at),
        }
    }
}

impl State {
    /// One that was removed just when a run came that needs it is there as long as its bytes are.
    #[must_use]
    pub fn artifact(&self, digest: Digest) -> Option<Artifact> {
        let again = || self.needed_again().find(|artifact| artifact.digest == digest);
        self.artifacts.get(&digest).copied().or_else(again)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.artifacts.len()
    }

    /// What nothing needs, nor did after this time.
    #[must_use]
    pub fn idle(&self, since: Timestamp) -> Vec<Digest> {
        let idle = self.artifacts.values().filter(|artifact| self.is_idle(artifact, since));
        idle.map(|artifact| artifact.digest).collect()
    }

    /// It is there, and not about to go.
    fn is_fresh(&self, digest: Digest, at: Timestamp) -> bool {
        let since = Timestamp(at.0.saturating_sub(FRESH.as_millis() as u64));
        self.artifacts.get(&digest).is_some_and(|artifact| !self.is_idle(artifact, since))
    }

    fn is_idle(&self, artifact: &Artifact, since: Timestamp) -> bool {
        let last = self.uses.ended(artifact.digest).max(artifact.stored_at);
        !self.uses.is_needed(artifact.digest) && last <= since
    }

    /// What was removed just when a run came that needs it.
    pub fn needed_again(&self) -> impl Iterator<Item = Artifact> + '_ {
        let removed = self.removed.values().map(|(artifact, _)| *artifact);
        removed.filter(|artifact| self.uses.is_needed(artifact.digest))
    }

    /// Whose bytes stay: what there is, and what was removed after this time or is needed again.
    #[must_use]
    pub fn kept(&self, removed_after: Timestamp) -> Vec<Digest> {
        let removed = self.removed.values().filter(|(_, at)| *at > removed_after);
        let removed = removed.map(|(artifact, _)| artifact.digest);
        let again = self.needed_again().map(|artifact| artifact.digest);
        self.artifacts.keys().copied().chain(removed).chain(again).collect()
    }

    /// With their sizes.
    #[must_use]
    pub fn artifacts(&self) -> Vec<Artifact> {
        self.artifacts.values().copied().collect()
    }
}

#[cfg(test)]
mod tests;
