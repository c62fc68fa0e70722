//! Puts sealed logs into archives, one at a time, behind everybody's back.
//!
//! ```text
//! raw ─► archive aside, synced, read again, held against the seal ─► on the shelf ─► raw removed
//! ```
//!
//! There is one whole copy at every moment; what went over a network to its shelf is read again there. Whatever was interrupted is done at the next start.

use std::{fs, fs::File, io, sync::Arc};

use eventlog::Stopped;
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{
    archive,
    domain::{LogId, Seal},
    file::sync_folder,
    service::Logs,
    store::Store,
};

/// Shorter logs stay as they are: they would take a block of the disk either way.
const SHORTEST: u64 = 4 << 10;

pub(crate) struct Archivist {
    pub(crate) store: Arc<Store>,
    pub(crate) owner: Logs,
    /// Logs that were sealed.
    pub(crate) sealed: mpsc::UnboundedReceiver<LogId>,
}

impl Archivist {
    /// First what earlier lives left, then what is sealed from now on.
    pub(crate) async fn run(mut self) -> Result<(), Stopped> {
        let store = Arc::clone(&self.store);
        let left = spawn_blocking(move || store.raw_logs()).await;
        match left.expect("work on files neither panics nor is aborted") {
            Ok(left) => {
                for log in left {
                    self.archive(log).await?;
                }
            }
            Err(error) => tracing::warn!(%error, "look for logs to compress"),
        }
        while let Some(log) = self.sealed.recv().await {
            self.archive(log).await?;
        }
        Ok(())
    }

    async fn archive(&self, log: LogId) -> Result<(), Stopped> {
        let Some(seal) = self.owner.read(move |state| state.seal(log)).await? else {
            return Ok(());
        };
        let store = Arc::clone(&self.store);
        let done = spawn_blocking(move || archive(&store, log, seal)).await;
        if let Err(error) = done.expect("work on files neither panics nor is aborted") {
            tracing::warn!(%error, "the {log} stays as it is, and is compressed after the next start");
        }
        Ok(())
    }
}

fn archive(store: &Store, log: LogId, seal: Seal) -> io::Result<()> {
    let place = store.place(log);
    let raw = match File::open(place.path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        raw => raw?,
    };
    if seal.size < SHORTEST && !place.shelf.is_far() {
        return Ok(());
    }
    // One that is there was made by a life that was killed before the log went. It is read like a new one:
    // the log is the only other copy.
    if !archive::holds(&place.shelf, log, seal)? {
        let aside = store.aside();
        archive::write(&raw, seal, aside.path())?;
        place.shelf.put(log, aside.path())?;
        if place.shelf.is_far() && !archive::holds(&place.shelf, log, seal)? {
            let what = "what arrived in the bucket does not hold it";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
    }
    fs::remove_file(place.path())?;
    sync_folder(&place.folder)
}

#[cfg(test)]
mod tests {
    use ids::{Attempt, Digest, RunId};

    use super::*;
    use crate::Config;

    #[test]
    fn a_log_that_is_not_as_it_was_sealed_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().into(), ..Config::default() };
        let store = Store::open(&config, Arc::default()).unwrap();
        let log = LogId { run: RunId::from_uuid(uuid::Uuid::nil()), attempt: Attempt(1) };
        let place = store.place(log);
        fs::create_dir(&place.folder).unwrap();
        let text = b"hello\n".repeat(1000);
        fs::write(place.path(), &text).unwrap();
        let size = text.len() as u64;
        archive(&store, log, Seal { size, digest: Digest::of(b"other") }).unwrap_err();
        assert_eq!(fs::read(place.path()).unwrap(), text);
        assert!(place.shelf.open(log).is_err(), "no archive of what was not sealed");
        archive(&store, log, Seal { size, digest: Digest::of(&text) }).unwrap();
        assert!(!place.path().exists());
        assert!(
            archive::holds(&place.shelf, log, Seal { size, digest: Digest::of(&text) }).unwrap()
        );
    }
}
