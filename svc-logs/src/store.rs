//! The folder of all logs: which are open, which exist, and what is being written aside.
//!
//! Paths are made of typed ids only, so that no request can name another one.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ids::{Attempt, RunId};

use crate::{
    config::Config,
    domain::{LogId, Seal},
    file::Place,
    harm::{self, Harm},
    shelf::Shelf,
    standing::Standings,
    writer::{self, OpenLog},
};

/// Not the name of any run.
const ASIDE: &str = ".aside";

/// Why the folder or the bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("use {} for logs", .folder.display())]
    Folder {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("use a bucket for sealed logs")]
    Bucket(#[from] objects::OpenError),
}

pub(crate) struct Store {
    folder: PathBuf,
    shelf: Shelf,
    most_bytes: u64,
    idle: Duration,
    open: Mutex<HashMap<LogId, OpenLog>>,
    next_aside: AtomicU64,
    standings: Arc<Standings>,
    harm: Harm,
}

impl Store {
    /// Makes the folder if it is missing, and removes what was left half written aside.
    pub(crate) fn open(config: &Config, standings: Arc<Standings>) -> Result<Self, PlaceError> {
        let error = |source| PlaceError::Folder { folder: config.data.clone(), source };
        let aside = config.data.join(ASIDE);
        match fs::remove_dir_all(&aside) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
            _ => fs::create_dir_all(&aside).map_err(error)?,
        }
        let shelf = match &config.bucket {
            Some(bucket) => Shelf::Bucket(objects::bucket(bucket)?),
            None => Shelf::Folder(config.data.clone()),
        };
        Ok(Self {
            folder: config.data.clone(),
            shelf,
            most_bytes: config.max_log_bytes,
            idle: Duration::from_secs(config.idle_seconds.max(1)),
            open: Mutex::default(),
            next_aside: AtomicU64::new(0),
            standings,
            harm: Harm::default(),
        })
    }

    /// Logs whose ends a loss of power may have harmed since the last start, with their lengths. `None`:
    /// there was none.
    pub(crate) fn harmed(&mut self) -> Result<Option<Vec<(LogId, u64)>>, PlaceError> {
        let noted = Harm::read(&self.folder).map_err(|source| self.unusable(source))?;
        let is_known = noted.is_of(&harm::this_boot());
        self.harm = noted;
        if is_known {
            return Ok(None);
        }
        let length = |log| Ok((log, fs::metadata(self.place(log).path())?.len()));
        let logs = self.raw_logs().and_then(|logs| logs.into_iter().map(length).collect());
        logs.map(Some).map_err(|source| self.unusable(source))
    }

    /// Notes which of them were not sealed, before anybody writes.
    pub(crate) fn note_harmed(&mut self, unsealed: Vec<(LogId, u64)>) -> Result<(), PlaceError> {
        let harm = self.harm.after(harm::this_boot(), unsealed);
        harm.write(&self.folder).map_err(|source| self.unusable(source))?;
        self.harm = harm;
        Ok(())
    }

    fn unusable(&self, source: io::Error) -> PlaceError {
        PlaceError::Folder { folder: self.folder.clone(), source }
    }

    pub(crate) fn place(&self, log: LogId) -> Place {
        let folder = self.folder.join(log.run.to_string());
        let unsure = self.harm.of(log);
        Place { log, folder, shelf: self.shelf.clone(), most_bytes: self.most_bytes, unsure }
    }

    /// The log, if it is open.
    pub(crate) fn get(&self, log: LogId) -> Option<OpenLog> {
        self.lock().get(&log).filter(|open| !open.is_closed()).cloned()
    }

    /// Opens the log, unless somebody did in between.
    pub(crate) fn get_or_open(self: &Arc<Self>, log: LogId, sealed: Option<Seal>) -> OpenLog {
        let mut open = self.lock();
        if let Some(open) = open.get(&log).filter(|open| !open.is_closed()) {
            return open.clone();
        }
        let opened = writer::start(self.place(log), sealed, self.idle, Arc::downgrade(self));
        open.insert(log, opened.clone());
        opened
    }

    /// Lets go of a log, unless somebody uses it.
    pub(crate) fn forget_unused(&self, log: LogId) -> bool {
        let mut open = self.lock();
        let is_unused = open.get(&log).is_none_or(OpenLog::is_unused);
        if is_unused {
            open.remove(&log);
        }
        is_unused
    }

    /// Lets go of a log that is closed.
    pub(crate) fn forget_closed(&self, log: LogId) {
        let mut open = self.lock();
        if open.get(&log).is_some_and(OpenLog::is_closed) {
            open.remove(&log);
        }
    }

    /// A log appeared; who waits for one of its run should look.
    pub(crate) fn note(&self, log: LogId) {
        self.standings.note_log(log);
    }

    /// Whether sealed logs leave this machine.
    pub(crate) fn is_far(&self) -> bool {
        self.shelf.is_far()
    }

    /// The attempts of a run that have logs here, oldest first.
    pub(crate) fn attempts(&self, run: RunId) -> io::Result<Vec<Attempt>> {
        let entries = match fs::read_dir(self.folder.join(run.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries?,
        };
        let mut attempts = vec![];
        for entry in entries {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let attempt = name.strip_suffix(".log").or_else(|| name.strip_suffix(".log.zst"));
            attempts.extend(attempt.and_then(|attempt| attempt.parse::<Attempt>().ok()));
        }
        attempts.sort_unstable();
        // While it is put into an archive it is there twice.
        attempts.dedup();
        Ok(attempts)
    }

    /// All logs that are in no archive, in no order.
    pub(crate) fn raw_logs(&self) -> io::Result<Vec<LogId>> {
        let mut logs = vec![];
        for entry in fs::read_dir(&self.folder)? {
            let run = entry?.file_name().to_str().and_then(|name| name.parse::<RunId>().ok());
            let Some(run) = run else { continue };
            let raw = self.attempts(run)?.into_iter().map(|attempt| LogId { run, attempt });
            logs.extend(raw.filter(|log| self.place(*log).path().exists()));
        }
        Ok(logs)
    }

    /// A new file beside the logs.
    pub(crate) fn aside(&self) -> Aside {
        let number = self.next_aside.fetch_add(1, Ordering::Relaxed);
        Aside(self.folder.join(ASIDE).join(number.to_string()))
    }

    /// Nothing is half done while the lock is held, so a panic cannot leave the map wrong.
    fn lock(&self) -> MutexGuard<'_, HashMap<LogId, OpenLog>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path of a file that is being written; it is gone when this is dropped, unless it was moved.
#[derive(Debug)]
pub(crate) struct Aside(PathBuf);

impl Aside {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} stays until the next start: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::writer::{Piece, Wish};

    fn piece(offset: u64, data: &'static [u8]) -> Wish {
        Wish::Append(Piece { offset, data: Bytes::from_static(data), ..Piece::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_log_is_closed_and_goes_on_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().into(), ..Config::default() };
        let store = Arc::new(Store::open(&config, Arc::default()).unwrap());
        let log = LogId { run: RunId::from_uuid(uuid::Uuid::from_u128(1)), attempt: Attempt(1) };

        let open = store.get_or_open(log, None);
        open.ask(piece(0, b"one ")).await.unwrap();
        let mut progress = open.progress();
        drop(open);
        while progress.changed().await.is_ok() {}
        assert!(store.get(log).is_none());

        let again = store.get_or_open(log, None);
        let written = again.ask(piece(4, b"two")).await.unwrap();
        assert_eq!(written.durable_offset, 7);
        assert_eq!(fs::read(store.place(log).path()).unwrap(), b"one two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_followed_log_stays_open() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().into(), ..Config::default() };
        let store = Arc::new(Store::open(&config, Arc::default()).unwrap());
        let log = LogId { run: RunId::from_uuid(uuid::Uuid::from_u128(1)), attempt: Attempt(1) };
        let follower = store.get_or_open(log, None);
        follower.ask(piece(0, b"one ")).await.unwrap();
        tokio::time::advance(Duration::from_hours(1)).await;
        tokio::task::yield_now().await;
        assert!(store.get(log).is_some());
        assert!(!follower.is_closed());
    }

    /// A service that starts, with nothing sealed.
    fn start(config: &Config) -> Arc<Store> {
        let mut store = Store::open(config, Arc::default()).unwrap();
        if let Some(harmed) = store.harmed().unwrap() {
            store.note_harmed(harmed).unwrap();
        }
        Arc::new(store)
    }

    #[tokio::test]
    async fn what_is_here_counts_more_than_what_a_worker_sends_again_unless_the_power_was_lost_here()
     {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().into(), ..Config::default() };
        let log = LogId { run: RunId::from_uuid(uuid::Uuid::from_u128(1)), attempt: Attempt(1) };
        let again = async || start(&config).get_or_open(log, None).ask(piece(0, b"\0\0\0!")).await;
        let first = start(&config);
        first.get_or_open(log, None).ask(piece(0, b"one")).await.unwrap();

        // The worker's machine lost its power, and this service was restarted.
        assert_eq!(again().await.unwrap().durable_offset, 4);
        assert_eq!(fs::read(first.place(log).path()).unwrap(), b"one!");

        fs::write(folder.path().join(".boot"), "another boot\n").unwrap();
        assert_eq!(again().await.unwrap().durable_offset, 4);
        assert_eq!(fs::read(first.place(log).path()).unwrap(), b"\0\0\0!");
    }

    #[tokio::test]
    async fn a_log_that_its_disk_refused_is_let_go_of() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().into(), ..Config::default() };
        let store = Arc::new(Store::open(&config, Arc::default()).unwrap());
        let log = LogId { run: RunId::from_uuid(uuid::Uuid::from_u128(1)), attempt: Attempt(1) };
        fs::write(folder.path().join(log.run.to_string()), "no folder").unwrap();
        let open = store.get_or_open(log, None);
        open.ask(piece(0, b"one")).await.unwrap_err();
        let mut progress = open.progress();
        while progress.changed().await.is_ok() {}
        assert!(store.lock().is_empty(), "nobody would ever ask for it again");
    }

    #[test]
    fn what_was_left_aside_is_gone_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().into(), ..Config::default() };
        let store = Store::open(&config, Arc::default()).unwrap();
        let aside = store.aside();
        fs::write(aside.path(), "half").unwrap();
        std::mem::forget(aside);
        Store::open(&config, Arc::default()).unwrap();
        assert_eq!(fs::read_dir(folder.path().join(ASIDE)).unwrap().count(), 0);
    }
}
