//! One at a time for each digest: whoever comes second waits and finds the work done.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ids::Digest;
use tokio::sync::OwnedMutexGuard;

#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>);

impl Flights {
    /// Held until the answer is dropped.
    pub(crate) async fn enter(&self, digest: Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody but the map holds these.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(digest).or_default())
        };
        lock.lock_owned().await
    }

    /// Somebody is at it.
    pub(crate) fn is_taken(&self, digest: Digest) -> bool {
        let locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.get(&digest).is_some_and(|lock| Arc::strong_count(lock) > 1)
    }
}
