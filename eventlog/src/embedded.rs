//! The log in files of one folder: nothing to install.
//!
//! What waits is checked against what is stored, written with one write and one sync, and only then
//! shown to readers and answered. Readers read the same files by themselves. In reading order:
//! [`format`] (the bytes), [`segment`] (the files), [`index`] (what is where), [`recover`] (what a
//! start does), [`inbox`] and [`writer`], [`reader`], [`scavenge`].
//!
//! Invariants:
//! - No reader sees an event that is not durable.
//! - After a failed write or sync nothing is written any more.
//! - A start never removes an acknowledged event: it cuts only an unfinished last write, and
//!   refuses a folder that is damaged anywhere else.

pub mod files;
mod format;
mod inbox;
mod index;
mod reader;
mod recover;
pub(crate) mod scavenge;
mod segment;
#[cfg(test)]
mod tests;
pub(crate) mod verify;
mod writer;

use std::{
    fs::TryLockError,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
};

use futures::{
    future::{BoxFuture, FutureExt},
    stream::{BoxStream, StreamExt},
};
use tokio::sync::{oneshot, watch};

use crate::{
    Clock,
    disk::{self, File},
    event::Recorded,
    filter::{Direction, Filter},
    log::{AppendError, Appended, LogError},
    retention::Standing,
    store::{Append, Store},
};
use format::Said;
use index::Index;
use recover::Recovered;
use writer::{Request, Writer};

/// Why a folder does not open as a log. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "another process uses this folder: {}; stop it, or choose another folder",
        .dir.display()
    )]
    InUse { dir: PathBuf },
    #[error(
        "`{}` has format {found}, and this program knows formats up to {known}: start the newer version that wrote it",
        .file.display()
    )]
    NewerFormat { file: PathBuf, found: u32, known: u32 },
    #[error(
        "`{}` is damaged at byte {offset}: {why}; nothing was changed: keep a copy of the folder, and restore it from a backup",
        .file.display()
    )]
    Damaged { file: PathBuf, offset: u64, why: String },
    #[error("{action} `{}`", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    fn damaged(file: &Path, offset: u64, why: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), offset, why: why.into() }
    }
}

/// How an embedded log uses its folder.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A segment that has reached this many bytes is sealed, and the next one begun; at most 1 GiB.
    pub segment_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 256 << 20 }
    }
}

pub(crate) struct Embedded {
    writer: Arc<Writer>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Locked as long as it is open; the system frees it however the process ends.
    lock: File,
    shared: Arc<Shared>,
}

/// What the writer tells its readers.
struct Shared {
    index: Index,
    /// Count of durable events.
    durable: watch::Receiver<u64>,
    /// Why the writer stopped.
    cause: OnceLock<String>,
}

impl Shared {
    fn stopped(&self) -> LogError {
        LogError::Stopped(self.cause.get().map_or("it was closed", String::as_str).to_owned())
    }
}

impl Embedded {
    pub(crate) fn open(dir: &Path, clock: Clock, options: Options) -> Result<Self, OpenError> {
        disk::create_dir_all(dir).map_err(|source| OpenError::io("create", dir, source))?;
        let lock = lock(dir)?;
        let recovered = recover::recover(dir)?;
        Self::start(dir, lock, recovered, clock, options)
    }

    fn start(
        dir: &Path,
        lock: File,
        recovered: Recovered,
        clock: Clock,
        options: Options,
    ) -> Result<Self, OpenError> {
        let next_position = recovered.index.next_position();
        let (publish, durable) = watch::channel(next_position);
        let shared = Arc::new(Shared { index: recovered.index, durable, cause: OnceLock::new() });
        let writer = Writer::new(
            dir.to_owned(),
            options,
            clock,
            recovered.tail,
            Arc::clone(&shared),
            publish,
        );
        let mut engine = Self { writer: Arc::new(writer), threads: Vec::new(), lock, shared };
        for number in 1..=inbox::THREADS {
            let writer = Arc::clone(&engine.writer);
            let thread = thread::Builder::new()
                .name(format!("log-writer-{number}"))
                .spawn(move || writer.run())
                .map_err(|source| OpenError::io("start the writer of", dir, source))?;
            engine.threads.push(thread);
        }
        Ok(engine)
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let file =
        File::open_or_create(&path).map_err(|source| OpenError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(OpenError::io("lock", &path, source)),
    }
}

impl Store for Embedded {
    fn append(&self, append: Append) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let (reply, answer) = oneshot::channel();
        let said = append.events.iter().map(Said::by).collect();
        self.writer.inbox.send(Request { append, said, reply });
        let (writer, shared) = (Arc::clone(&self.writer), Arc::clone(&self.shared));
        Box::pin(async move {
            // Not sooner: of appends that are made together, the first to be polled writes all.
            writer.lead().await;
            answer.await.unwrap_or_else(|_| Err(shared.stopped().into()))
        })
    }

    fn standing(&self, stream: &str) -> Standing {
        self.shared.index.standing(stream)
    }

    fn length(&self, stream: String) -> BoxFuture<'static, Result<u64, LogError>> {
        reader::length(Arc::clone(&self.shared), stream).boxed()
    }

    fn read_stream(
        &self,
        stream: String,
        from: Option<u64>,
        direction: Direction,
        limit: usize,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        reader::stream(Arc::clone(&self.shared), stream, from, direction, limit).boxed()
    }

    fn read_all(
        &self,
        from: Option<u64>,
        direction: Direction,
        filter: Filter,
        follow: bool,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        let shared = Arc::clone(&self.shared);
        match direction {
            Direction::Forward => reader::all(shared, from.unwrap_or(0), filter, follow).boxed(),
            Direction::Backward => reader::all_backward(shared, from, filter).boxed(),
        }
    }

    fn next_position(&self) -> BoxFuture<'static, Result<u64, LogError>> {
        let next = *self.shared.durable.borrow();
        Box::pin(async move { Ok(next) })
    }
}

impl Drop for Embedded {
    /// Waits for the writer, so that the folder is free when the last handle is gone.
    fn drop(&mut self) {
        self.writer.inbox.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the log's writer panicked");
            }
        }
        self.writer.finish();
        // Closing is not enough: a child process that is just being started has a copy.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "unlock the log's folder");
        }
    }
}
