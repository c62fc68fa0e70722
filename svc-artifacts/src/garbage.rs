//! Removes what nothing needs any more, in two steps that may end anywhere.
//!
//! A blob that neither a run that has not ended nor the present build of a pipeline is of, for as long as
//! is configured, is removed by an event; then it is not there any more. Its bytes go an hour later at
//! the earliest, and with them every object that no blob is made of: what a run needs that was submitted
//! in that very moment is stored again before. Which objects those are is found anew each time, so a crash
//! leaves nothing behind, and what an upload has sent or counts on stays for a day.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use eventlog::{Clock, Origin, Stopped};
use ids::{Digest, Timestamp};
use tokio::{sync::Mutex, time::sleep};

use crate::{
    domain::{Command, State},
    error::BlobError,
    incoming,
    service::Artifacts,
    store::{Key, Kind, Listed, Store},
};

const NAME: &str = "svc-artifacts";
const PAUSE: Duration = Duration::from_hours(1);
/// Between the removal of a blob and that of its bytes.
const REPENT: Duration = Duration::from_hours(1);
/// For an upload, with all its breaks.
const UPLOAD: Duration = Duration::from_hours(24);
/// Objects that are removed while uploads wait.
const AT_ONCE: usize = 64;

pub(crate) struct Garbage {
    pub(crate) owner: Artifacts,
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Clock,
    /// How long a blob that nothing needs is kept.
    pub(crate) keep: Duration,
    /// One collection at a time.
    pub(crate) turn: Mutex<()>,
}

/// What was, or would be, removed, and what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) artifacts: u64,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) kept_artifacts: u64,
    pub(crate) kept_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Store(#[from] BlobError),
}

impl Garbage {
    /// Ends only when the task that owns the state did.
    pub(crate) async fn keep_clean(&self) -> Stopped {
        let kept: Result<Infallible, Stopped> = async {
            self.convert().await?;
            loop {
                sleep(PAUSE).await;
                match self.collect(false, Origin::service(NAME)).await {
                    Ok(figures) => tracing::info!(?figures, "collected garbage"),
                    Err(CollectError::Store(error)) => {
                        tracing::warn!("cannot collect garbage, later again: {error}");
                    }
                    Err(CollectError::Stopped(stopped)) => return Err(stopped),
                }
            }
        }
        .await;
        match kept {
            Err(stopped) => stopped,
        }
    }

    /// Cuts whole blobs of earlier versions into chunks, so that they are not moved whole any more.
    async fn convert(&self) -> Result<(), Stopped> {
        for artifact in self.owner.read(State::artifacts).await? {
            let (digest, size) = (artifact.digest, artifact.size);
            let is_whole = self.store.size((Kind::Whole, digest)) == Some(size);
            if !is_whole || self.store.size((Kind::Manifest, digest)).is_some() {
                continue;
            }
            match incoming::convert(&self.store, digest, size, self.clock.now()).await {
                Ok(()) => tracing::info!(%digest, "a blob of an earlier version is in chunks now"),
                Err(error) => tracing::warn!(%digest, "the blob stays whole: {error}"),
            }
        }
        Ok(())
    }

    pub(crate) async fn collect(
        &self,
        dry_run: bool,
        origin: Origin,
    ) -> Result<Figures, CollectError> {
        let _turn = self.turn.lock().await;
        let now = self.clock.now();
        let going = self.remove_idle(before(now, self.keep), dry_run, now, origin).await?;
        // Listed before it is asked what is needed: what comes later is not in the list.
        let listed = self.store.list().await?;
        let repent = before(now, if dry_run { Duration::ZERO } else { REPENT });
        let kept = self.owner.read(move |state| state.kept(repent)).await?;
        let gone: &[Digest] = if dry_run { &going } else { &[] };
        let kept = kept.into_iter().filter(|digest| !gone.contains(digest));
        let needed = self.needed(kept.collect()).await?;
        let useless = |object: &&Listed| {
            !needed.contains(&object.key) && now.since(object.modified) >= UPLOAD
        };
        let useless: Vec<Listed> = listed.iter().filter(useless).copied().collect();
        let removed = if dry_run { useless } else { self.remove(&useless, now).await? };
        let bytes = removed.iter().map(|object| object.bytes).sum();
        let left = self.owner.read(State::count).await? as u64;
        Ok(Figures {
            artifacts: going.len() as u64,
            objects: removed.len() as u64,
            bytes,
            kept_artifacts: if dry_run { left - going.len() as u64 } else { left },
            kept_bytes: self.store.taken().saturating_sub(if dry_run { bytes } else { 0 }),
        })
    }

    /// Answers with what was, or would be, removed.
    async fn remove_idle(
        &self,
        since: Timestamp,
        dry_run: bool,
        at: Timestamp,
        origin: Origin,
    ) -> Result<Vec<Digest>, Stopped> {
        let idle = self.owner.read(move |state| state.idle(since)).await?;
        if dry_run {
            return Ok(idle);
        }
        let mut removed = vec![];
        for digest in idle {
            let command = Command::RemoveArtifact { digest, idle_since: since, at };
            let Ok(events) = self.owner.ask(command, origin.clone()).await?;
            removed.extend(events.first().map(|_| digest));
        }
        let again = self.owner.read(|state| state.needed_again().collect::<Vec<_>>()).await?;
        for artifact in again {
            let (digest, size) = (artifact.digest, artifact.size);
            let is_there = [Kind::Manifest, Kind::Whole]
                .into_iter()
                .any(|kind| self.store.size((kind, digest)).is_some());
            if is_there {
                let command = Command::StoreArtifact { digest, size, at };
                let Ok(_) = self.owner.ask(command, Origin::service(NAME)).await?;
            }
        }
        Ok(removed)
    }

    /// The objects that these blobs are made of.
    async fn needed(&self, kept: Vec<Digest>) -> Result<HashSet<Key>, BlobError> {
        let mut needed = HashSet::new();
        for digest in kept {
            if self.store.size((Kind::Manifest, digest)).is_none() {
                needed.insert((Kind::Whole, digest));
                continue;
            }
            needed.insert((Kind::Manifest, digest));
            match self.store.manifest(digest).await {
                Ok(manifest) => {
                    let chunks = manifest.chunks().iter();
                    needed.extend(chunks.map(|chunk| (Kind::Chunk, chunk.digest)));
                }
                // Whoever needs it will be told; there is nothing to protect.
                Err(BlobError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(needed)
    }

    async fn remove(&self, useless: &[Listed], now: Timestamp) -> Result<Vec<Listed>, BlobError> {
        let pinned_since = before(now, UPLOAD);
        let mut removed = vec![];
        for some in useless.chunks(AT_ONCE) {
            removed.extend(self.store.remove(some, pinned_since).await?);
        }
        self.store.unpin(pinned_since);
        Ok(removed)
    }
}

fn before(now: Timestamp, time: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(time.as_millis() as u64))
}
