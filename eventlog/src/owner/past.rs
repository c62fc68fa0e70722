//! States of the past: the fold of the living one, over the log up to a position.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::Semaphore;

use super::{OwnerError, Rules};
use crate::{Fold, Log};

/// Looks back, for one caller at a time: each look reads the whole log up to where it looks. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Past {
    log: Log,
    looking: Arc<Semaphore>,
}

impl Past {
    #[must_use]
    pub fn new(log: Log) -> Self {
        Self { log, looking: Arc::new(Semaphore::new(1)) }
    }

    /// The state as it was when the log ended before this position.
    pub async fn before<S: Fold, C, E, R>(
        &self,
        rules: &Rules<S, C, E, R>,
        end: u64,
    ) -> Result<S, OwnerError> {
        let _turn = self.looking.acquire().await;
        let mut state = S::default();
        let wanted = [rules.owns, rules.follows].concat();
        let mut stored = self.log.read_all(0, &wanted);
        while let Some(recorded) = stored.next().await {
            let recorded = recorded?;
            if recorded.position >= end {
                break;
            }
            if let Some(event) = rules.decode(&recorded)? {
                state.evolve(&event);
            }
            // Others get their turn, however much there is.
            tokio::task::consume_budget().await;
        }
        Ok(state)
    }

    /// What looks are at.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }
}
