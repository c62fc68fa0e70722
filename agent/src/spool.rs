//! What an attempt prints: masked, line by line where possible, onto the disk first.
//!
//! One task owns the files. Standard output, standard error and the agent's own notes are three lanes
//! with a masker each; a lane's line is written when it is whole, or after a moment of silence. Only
//! what is on disk is shipped, so a gateway that is away costs nothing but disk, and of that
//! no more than the bounds allow.
//!
//! In reading order: `lanes` makes lines, `spans` is where they came from and when, `writer` keeps the
//! bounds, `segments` are the files, `ledger` reads the spans of what is shipped.

mod lanes;
mod ledger;
mod segments;
mod spans;
mod writer;

use std::{
    future, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ids::Digest;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{clock, mask::Secrets, runtime::Output, stop::Stopper};
use lanes::Lanes;
use writer::{Impatience, Writer};

pub(crate) use ledger::Ledger;
pub(crate) use segments::{Shelf, Tail};
pub(crate) use writer::Bounds;

/// An unfinished line is shown after this long.
const IDLE: Duration = Duration::from_millis(100);
/// What may wait for the disk; then the pipeline waits too.
const WAITING: usize = 256;
/// For output that is still in a pipe when the process has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where an attempt's output goes. Cheap to clone; the log ends when all clones are gone.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    entries: mpsc::Sender<Entry>,
}

#[derive(Debug)]
enum Entry {
    Output(Output),
    Note { text: String, at: u64 },
}

impl Log {
    /// A line of the agent itself.
    pub(crate) async fn note(&self, text: impl Into<String>) {
        // Refused only when the log was closed by force, and then nobody reads it.
        let note = Entry::Note { text: text.into(), at: now() };
        let _closed = self.entries.send(note).await;
    }

    pub(crate) async fn output(&self, output: Output) {
        let _closed = self.entries.send(Entry::Output(output)).await;
    }

    /// For a process's output; the log stays open for as long as the answer is held.
    pub(crate) fn pipe(&self) -> mpsc::Sender<Output> {
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let log = self.clone();
        tokio::spawn(async move {
            while let Some(output) = receiver.recv().await {
                log.output(output).await;
            }
        });
        sender
    }
}

/// How much of the log is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) size: u64,
    /// What was dropped for want of room.
    pub(crate) gaps: Gaps,
    /// The job waits until the server has taken more of the log.
    pub(crate) blocked: bool,
    /// The sha256 of all of it, when no more will come.
    pub(crate) end: Option<Digest>,
}

/// Places where something was dropped, and how many bytes in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

/// Milliseconds since the epoch.
fn now() -> u64 {
    u64::try_from(clock::millis()).unwrap_or(0)
}

/// What the one needs who brings the log to the server.
#[derive(Debug)]
pub(crate) struct Shipment {
    pub(crate) shelf: Shelf,
    /// The oldest byte that is on disk.
    pub(crate) first: u64,
    pub(crate) progress: watch::Receiver<Progress>,
    /// Why the log ends before its attempt did; empty: it does not.
    pub(crate) incomplete: &'static str,
    /// The server has everything before this offset; when this is dropped, it will get no more.
    pub(crate) acknowledged: watch::Sender<u64>,
}

/// The task that owns the files.
#[derive(Debug)]
pub(crate) struct Spool {
    task: JoinHandle<()>,
    impatience: Impatience,
    progress: watch::Receiver<Progress>,
    /// Something is being written just now.
    writing: Arc<AtomicBool>,
}

impl Spool {
    /// Begins a log. A disk that does not take it stops the attempt.
    pub(crate) async fn start(
        shelf: Shelf,
        secrets: Secrets,
        bounds: Bounds,
        stopper: Stopper,
    ) -> io::Result<(Self, Log, Shipment)> {
        let (entries, receiver) = mpsc::channel(WAITING);
        let (published, progress) = watch::channel(Progress::default());
        let (acknowledged, known) = watch::channel(0);
        let impatience = Impatience { stopper, close: CancellationToken::new() };
        let writer = Writer::create(shelf.clone(), bounds, published, known, impatience.clone());
        let writing = Arc::new(AtomicBool::new(false));
        let (lanes, close) = (Lanes::new(&secrets), impatience.close.clone());
        let task = run(writer.await?, lanes, receiver, close, Arc::clone(&writing));
        let shipment =
            Shipment { shelf, first: 0, progress: progress.clone(), incomplete: "", acknowledged };
        let spool = Self { task: tokio::spawn(task), impatience, progress, writing };
        Ok((spool, Log { entries }, shipment))
    }

    /// Waits for the last words, for room for them, and for a slow disk. Whoever still holds the log after
    /// that, and says nothing, is not heard any more.
    pub(crate) async fn finish(self, log: Log) {
        drop(log);
        let mut task = self.task;
        let mut size = self.progress.borrow().size;
        while timeout(LAST_WORDS, &mut task).await.is_err() {
            let Progress { size: now, blocked, .. } = *self.progress.borrow();
            let waits = blocked && !self.impatience.stopper.token().is_cancelled();
            let works = now > size || (self.writing.load(Relaxed) && !blocked);
            size = now;
            if !waits && !works {
                self.impatience.close.cancel();
                if let Err(error) = (&mut task).await {
                    tracing::error!(%error, "the task that keeps a log failed");
                }
                return;
            }
        }
    }
}

async fn run(
    mut writer: Writer,
    mut lanes: Lanes,
    mut entries: mpsc::Receiver<Entry>,
    close: CancellationToken,
    writing: Arc<AtomicBool>,
) {
    let mut batch = Vec::with_capacity(WAITING);
    // When an unfinished line will be shown.
    let mut due: Option<Instant> = None;
    loop {
        let waited = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            count = entries.recv_many(&mut batch, WAITING) => match count {
                0 => break,
                _ => batch.drain(..).for_each(|entry| lanes.take(entry)),
            },
            () = waited => lanes.show_unfinished(),
            () = close.cancelled(), if !entries.is_closed() => entries.close(),
        }
        let next = || due.filter(|due| *due > Instant::now()).unwrap_or(Instant::now() + IDLE);
        due = lanes.have_unfinished().then(next);
        writing.store(true, Relaxed);
        writer.write(lanes.ready()).await;
        writing.store(false, Relaxed);
    }
    lanes.finish();
    writer.write(lanes.ready()).await;
    writer.finish().await;
}

#[cfg(test)]
mod tests;
