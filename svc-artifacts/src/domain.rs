//! Which blobs there are.
//!
//! Invariants:
//! - A blob is stored once; nothing about it ever changes.
//! - This module does no IO, reads no clock, and draws no random numbers.

use std::{collections::HashMap, convert::Infallible};

use eventlog::Fold;
use ids::{Digest, Timestamp};

/// A wish. None is ever refused: whether bytes fit their digest is found out before.
#[derive(Clone, Debug)]
pub enum Command {
    /// The file is complete and on disk.
    StoreArtifact { digest: Digest, size: u64, at: Timestamp },
}

/// A fact. It happened, is never refused, and is stored for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    ArtifactStored { digest: Digest, size: u64, at: Timestamp },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    artifacts: HashMap<Digest, Artifact>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Artifact {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    pub stored_at: Timestamp,
}

/// The facts that follow from `command`. Empty: it was already so.
pub fn decide(state: &State, command: Command) -> Result<Vec<Event>, Infallible> {
    let Command::StoreArtifact { digest, size, at } = command;
    Ok(match state.artifact(digest) {
        Some(_) => vec![],
        None => vec![Event::ArtifactStored { digest, size, at }],
    })
}

impl Fold for State {
    type Event = Event;

    fn evolve(&mut self, event: &Event) {
        let Event::ArtifactStored { digest, size, at } = *event;
        self.artifacts.insert(digest, Artifact { digest, size, stored_at: at });
    }
}

impl State {
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.artifacts.values().map(|artifact| artifact.size).sum()
    }

    #[must_use]
    pub fn artifact(&self, digest: Digest) -> Option<Artifact> {
        self.artifacts.get(&digest).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_blob_is_stored_once() {
        let digest = Digest::of(b"blob");
        let store = |at| Command::StoreArtifact { digest, size: 4, at: Timestamp(at) };
        let stored = Event::ArtifactStored { digest, size: 4, at: Timestamp(1) };
        assert_eq!(decide(&State::default(), store(1)), Ok(vec![stored.clone()]));
        assert_eq!(decide(&State::replay(&[stored]), store(2)), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn replaying_what_was_decided_gives_the_same_state(
            blobs in prop::collection::vec((0..5_u8, 0..100_u64), 0..30)
        ) {
            let (mut state, mut log) = (State::default(), vec![]);
            for (n, at) in blobs {
                let (digest, at) = (Digest::from_bytes([n; 32]), Timestamp(at));
                let before = state.artifact(digest);
                let Ok(events) =
                    decide(&state, Command::StoreArtifact { digest, size: n.into(), at });
                for event in events {
                    state.evolve(&event);
                    log.push(event);
                }
                prop_assert!(before.is_none() || before == state.artifact(digest));
            }
            prop_assert_eq!(State::replay(&log), state);
        }
    }
}
