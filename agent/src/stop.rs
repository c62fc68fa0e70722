//! Stopping an attempt, and why.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Somebody wants the run to end.
    Cancelled,
    /// The attempt is not this worker's any more.
    Lost,
    /// The agent ends at once.
    Aborted,
    /// It printed nothing for so long.
    Silent(Duration),
    /// What the attempt prints cannot be kept.
    NoLog(String),
}

/// One for each attempt, shared by all that can stop it. The first reason counts, but one that
/// leaves no time comes before one that does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stopper {
    token: CancellationToken,
    forgotten: CancellationToken,
    why: Arc<Mutex<Option<Why>>>,
}

impl Stopper {
    pub(crate) fn stop(&self, why: Why) {
        {
            let mut known = self.why.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_none() || matches!(why, Why::Lost | Why::Aborted) {
                *known = Some(why.clone());
            }
        }
        if why == Why::Lost {
            self.forgotten.cancel();
        }
        self.token.cancel();
    }

    pub(crate) fn why(&self) -> Option<Why> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cancelled when nothing more shall be reported about the attempt.
    pub(crate) fn forgotten(&self) -> &CancellationToken {
        &self.forgotten
    }

    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Does the work unless it is stopped first.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, Trouble> {
        tokio::select! {
            biased;
            () = self.token.cancelled() => Err(Trouble::Stopped),
            done = work => Ok(done),
        }
    }
}

/// Why an attempt could not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is the pipeline's: every worker would fail in the same way.
    Pipeline(String),
    /// It is this worker's: another one may do better.
    Worker(String),
    /// The attempt was stopped; its [`Stopper`] knows why.
    Stopped,
}

impl Trouble {
    /// Something on this machine failed.
    pub(crate) fn io(what: impl std::fmt::Display, error: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded => {
                Self::Worker(format!("the disk of this worker is full: {what}: {error}"))
            }
            _ => Self::Worker(format!("{what}: {error}")),
        }
    }
}
