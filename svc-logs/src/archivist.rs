//! Puts sealed logs into archives, one at a time, behind everybody's back.
//!
//! ```text
//! raw ─► archive aside, synced, read again, held against the seal ─► renamed ─► raw removed
//! ```
//!
//! There is one whole copy at every moment. Whatever was interrupted is done at the next start.

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
    if seal.size < SHORTEST {
        return Ok(());
    }
    // One that is there was made by a life that was killed before the log went. It is read like a new one:
    // the log is the only other copy.
    if !archive::holds(&place.archive(), seal)? {
        let aside = store.aside();
        archive::write(&raw, seal, aside.path())?;
        fs::rename(aside.path(), place.archive())?;
    }
    // The new name must be on disk for good before the old one goes.
    sync_folder(&place.folder)?;
    fs::remove_file(place.path())?;
    sync_folder(&place.folder)
}
