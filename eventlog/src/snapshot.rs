//! Snapshots: a state as of a position, so that a start folds only what came later.
//!
//! A snapshot saves time and decides nothing. It is believed only if its checksum is right, the same
//! program made it, and the log still has the very event with which it ends; else it is removed and
//! the log is folded from its first event. It is saved by a start that folded much, when the state is
//! exactly what the log says, and replaced as a whole.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::UNIX_EPOCH,
};

use futures::StreamExt;
use prost::Message;
use sha2::{Digest as _, Sha256};
use tokio::task;

use crate::{
    Filter, Log,
    disk::{self, File},
    log::LogError,
    owner::Revisions,
};

const MAGIC: &[u8; 8] = b"GAIASNAP";
const CHECKSUM: usize = 32;

/// How a state becomes bytes and comes back.
#[derive(Debug)]
pub struct Form<S> {
    /// Of the state; also of the file.
    pub name: &'static str,
    /// Another one for every change of `encode` and `decode`.
    pub version: u32,
    pub encode: fn(&S) -> Vec<u8>,
    /// `None`: these bytes are no state.
    pub decode: fn(&[u8]) -> Option<S>,
}

/// Where snapshots of a state are kept, and when one is saved.
#[derive(Debug)]
pub struct Snapshots<S> {
    file: PathBuf,
    form: Form<S>,
    every: u64,
}

/// What a start goes on from.
pub(crate) struct Snapshot<S> {
    /// Everything before this position is in it.
    pub(crate) next: u64,
    pub(crate) state: S,
    pub(crate) revisions: Revisions,
}

impl<S: Default> Default for Snapshot<S> {
    fn default() -> Self {
        Self { next: 0, state: S::default(), revisions: Revisions::default() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(bytes = "vec", tag = "1")]
    made_by: Vec<u8>,
    #[prost(uint64, tag = "2")]
    next: u64,
    /// The last event before.
    #[prost(uint64, tag = "3")]
    last_position: u64,
    #[prost(bytes = "vec", tag = "4")]
    last_id: Vec<u8>,
    #[prost(uint64, tag = "5")]
    seed: u64,
    #[prost(fixed64, repeated, tag = "6")]
    streams: Vec<u64>,
    #[prost(uint64, repeated, tag = "7")]
    revisions: Vec<u64>,
    #[prost(bytes = "vec", tag = "8")]
    state: Vec<u8>,
}

/// Why a snapshot is not used.
enum Flaw {
    Unreadable(io::Error),
    Damaged,
    OtherProgram,
    OtherLog,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            Self::Damaged => f.write_str("it is damaged"),
            Self::OtherProgram => f.write_str("another version of the program made it"),
            Self::OtherLog => f.write_str("the log does not have the event with which it ends"),
        }
    }
}

impl<S> Snapshots<S> {
    /// In this folder, which is made if it is not there. A start that went through 100,000 positions
    /// saves one.
    #[must_use]
    pub fn new(dir: &Path, form: Form<S>) -> Self {
        Self { file: dir.join(format!("{}.snapshot", form.name)), form, every: 100_000 }
    }

    /// A start that went through so many positions saves one.
    #[must_use]
    pub fn every(self, positions: u64) -> Self {
        Self { every: positions, ..self }
    }

    pub(crate) fn is_due(&self, from: u64, to: u64) -> bool {
        to > from && to - from >= self.every
    }

    pub(crate) async fn load(&self, log: &Log) -> Result<Option<Snapshot<S>>, LogError> {
        match self.try_load(log).await? {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(Flaw::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(flaw) => {
                let (file, name) = (self.file.display(), self.form.name);
                tracing::info!(%file, "the snapshot of {name} is not used, since {flaw}");
                remove(&self.file);
                Ok(None)
            }
        }
    }

    async fn try_load(&self, log: &Log) -> Result<Result<Snapshot<S>, Flaw>, LogError> {
        let file = self.file.clone();
        let stored = match blocking(move || read(&file)).await? {
            Ok(stored) => stored,
            Err(flaw) => return Ok(Err(flaw)),
        };
        if stored.made_by != self.fingerprint() {
            return Ok(Err(Flaw::OtherProgram));
        }
        let mut last = log.read_all_backward(Some(stored.last_position), Filter::default());
        let is_there = match last.next().await.transpose()? {
            Some(last) => {
                last.position == stored.last_position
                    && last.event.id.as_uuid().as_bytes()[..] == stored.last_id
            }
            None => false,
        };
        if !is_there {
            return Ok(Err(Flaw::OtherLog));
        }
        let last = stored.streams.into_iter().zip(stored.revisions);
        let revisions = Revisions::restored(stored.seed, last.collect());
        Ok((self.form.decode)(&stored.state)
            .map(|state| Snapshot { next: stored.next, state, revisions })
            .ok_or(Flaw::Damaged))
    }

    /// Saves what the log says before `next`. A failure costs only time at the next start.
    pub(crate) async fn save(
        &self,
        log: &Log,
        next: u64,
        state: &S,
        revisions: &Revisions,
    ) -> Result<(), LogError> {
        let Some(last) = next.checked_sub(1) else { return Ok(()) };
        let mut last = log.read_all_backward(Some(last), Filter::default());
        let Some(last) = last.next().await.transpose()? else { return Ok(()) };
        let (seed, known) = revisions.stored();
        let stored = Stored {
            made_by: self.fingerprint(),
            next,
            last_position: last.position,
            last_id: last.event.id.as_uuid().as_bytes().to_vec(),
            seed,
            streams: known.keys().copied().collect(),
            revisions: known.values().copied().collect(),
            state: (self.form.encode)(state),
        };
        let file = self.file.clone();
        if let Err(error) = blocking(move || write(&file, &stored)).await? {
            tracing::warn!(%error, file = %self.file.display(), "save a snapshot");
        }
        Ok(())
    }

    /// The file, to be removed should what it says prove wrong.
    pub(crate) fn file(&self) -> PathBuf {
        self.file.clone()
    }

    /// Of the code that makes it.
    fn fingerprint(&self) -> Vec<u8> {
        let hash = Sha256::new()
            .chain_update(self.form.name)
            .chain_update(self.form.version.to_le_bytes())
            .chain_update(program());
        hash.finalize().to_vec()
    }
}

pub(crate) fn remove(file: &Path) {
    match disk::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, file = %file.display(), "remove a snapshot");
        }
        _ => {}
    }
}

/// Tells this program from the one before it: its version, length, and when its file was written.
fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let file = env::current_exe().and_then(fs::metadata);
        let length = file.as_ref().map_or(0, fs::Metadata::len);
        let written = file.and_then(|file| file.modified()).ok();
        let written = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        format!("{} {length} {}", env!("CARGO_PKG_VERSION"), written.as_nanos()).into_bytes()
    })
}

fn read(file: &Path) -> Result<Stored, Flaw> {
    let bytes = disk::read(file).map_err(Flaw::Unreadable)?;
    let rest = bytes.strip_prefix(MAGIC).ok_or(Flaw::Damaged)?;
    let (checksum, body) = rest.split_at_checked(CHECKSUM).ok_or(Flaw::Damaged)?;
    if Sha256::digest(body)[..] != *checksum {
        return Err(Flaw::Damaged);
    }
    Stored::decode(body).map_err(|_| Flaw::Damaged)
}

fn write(file: &Path, stored: &Stored) -> io::Result<()> {
    let dir = disk::parent(file);
    disk::create_dir_all(dir)?;
    let new = file.with_extension("new");
    let body = stored.encode_to_vec();
    let to = File::create(&new)?;
    to.write_all_at(&[&MAGIC[..], &Sha256::digest(&body), &body].concat(), 0)?;
    to.sync_all()?;
    disk::rename(&new, file)?;
    disk::sync_dir(dir)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LogError> {
    let done = task::spawn_blocking(work).await;
    done.map_err(|error| LogError::Stopped(format!("a snapshot was not finished: {error}")))
}
