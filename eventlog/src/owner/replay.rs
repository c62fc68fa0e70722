//! The state that a log tells, up to its present end.

use futures::StreamExt;

use super::{
    OwnerError, Rules,
    task::{Revisions, is_in},
};
use crate::{
    Fold, Log,
    snapshot::{Snapshot, Snapshots},
};

pub(super) struct Replayed<S> {
    pub(super) state: S,
    pub(super) revisions: Revisions,
    /// Everything before this position is in it.
    pub(super) end: u64,
}

/// Goes on from the newest snapshot, if there are any, and saves one when that is due.
pub(super) async fn replay<S: Fold, C, E, R>(
    log: &Log,
    rules: &Rules<S, C, E, R>,
    snapshots: Option<&Snapshots<S>>,
) -> Result<Replayed<S>, OwnerError> {
    let snapshot = match snapshots {
        Some(snapshots) => snapshots.load(log).await?,
        None => None,
    };
    let Snapshot { next: from, mut state, mut revisions } = snapshot.unwrap_or_default();
    let wanted = [rules.owns, rules.follows].concat();
    let end = log.next_position().await?;
    let mut stored = log.read_all(from, &wanted);
    while let Some(recorded) = stored.next().await {
        let recorded = recorded?;
        if recorded.position >= end {
            break;
        }
        if let Some(event) = rules.decode(&recorded)? {
            state.evolve(&event);
        }
        if is_in(&recorded.stream, rules.owns) {
            revisions.set(&recorded.stream, recorded.revision);
        }
    }
    if let Some(snapshots) = snapshots.filter(|kept| kept.is_due(from, end)) {
        snapshots.save(log, end, &state, &revisions).await?;
    }
    Ok(Replayed { state, revisions, end })
}
