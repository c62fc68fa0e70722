//! What followers wait on: which of a run's logs are over, and that a new one appeared.
//!
//! One task looks at the state whenever it changes, and only for the runs that are followed; a
//! follower is woken only if something changed for its run.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use eventlog::Stopped;
use ids::{Attempt, RunId};
use tokio::sync::watch;

use crate::{
    domain::{LogId, Over, State},
    service::Logs,
};

/// The runs that are followed.
#[derive(Debug, Default)]
pub(crate) struct Standings(Mutex<HashMap<RunId, watch::Sender<Over>>>);

impl Standings {
    /// Follows a run that the state knows to be open.
    pub(crate) async fn follow(
        &self,
        run: RunId,
        owner: &Logs,
    ) -> Result<watch::Receiver<Over>, Stopped> {
        let nothing = Over { through: Attempt(0), sealed: vec![] };
        let standing =
            self.lock().entry(run).or_insert_with(|| watch::Sender::new(nothing)).subscribe();
        // What happened before it was followed.
        self.update(vec![run], owner).await?;
        Ok(standing)
    }

    /// Wakes who waits for a log of this run to appear.
    pub(crate) fn note_log(&self, log: LogId) {
        if let Some(standing) = self.lock().get(&log.run) {
            standing.send_modify(|_| ());
        }
    }

    /// Ends only when the task that owns the state did.
    pub(crate) async fn keep(&self, owner: Logs) -> Stopped {
        let mut changes = owner.changes();
        loop {
            changes.borrow_and_update();
            let followed = self.followed();
            if !followed.is_empty() && self.update(followed, &owner).await.is_err() {
                return Stopped;
            }
            if changes.changed().await.is_err() {
                return Stopped;
            }
        }
    }

    fn followed(&self) -> Vec<RunId> {
        let mut standings = self.lock();
        standings.retain(|_, standing| standing.receiver_count() > 0);
        standings.keys().copied().collect()
    }

    async fn update(&self, runs: Vec<RunId>, owner: &Logs) -> Result<(), Stopped> {
        let look = |state: &State| -> Vec<_> {
            runs.into_iter().map(|run| (run, state.over(run))).collect()
        };
        for (run, over) in owner.read(look).await? {
            if let Some(standing) = self.lock().get(&run) {
                standing.send_if_modified(|standing| standing.grow(over));
            }
        }
        Ok(())
    }

    /// Nothing is half done while the lock is held, so a panic cannot leave the map wrong.
    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, watch::Sender<Over>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Over {
    /// Two who look at the state may tell in the wrong order what they saw.
    fn grow(&mut self, newer: Self) -> bool {
        let grows = newer.through > self.through || newer.sealed.len() > self.sealed.len();
        self.through = self.through.max(newer.through);
        if newer.sealed.len() > self.sealed.len() {
            self.sealed = newer.sealed;
        }
        grows
    }
}
