//! What an attempt prints: masked, line by line where possible, into a file first.
//!
//! One task owns the file. Standard output, standard error and the agent's own notes are three lanes
//! with a masker each; a lane's line is written when it is whole, or after a moment of silence. Only
//! what is in the file is shipped, so a gateway that is away costs nothing but disk.

use std::{future, io, mem, path::PathBuf, time::Duration};

use ids::Digest;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::AsyncWriteExt as _,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    mask::{Masker, Secrets},
    runtime::{Output, Stream},
    stop::{Stopper, Why},
};

/// An unfinished line is shown after this long.
const IDLE: Duration = Duration::from_millis(100);
/// A line that is longer is shown in parts.
const LONGEST_LINE: usize = 64 * 1024;
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
    Note(String),
}

impl Log {
    /// A line of the agent itself.
    pub(crate) async fn note(&self, text: impl Into<String>) {
        // Refused only when the log was closed by force, and then nobody reads it.
        let _closed = self.entries.send(Entry::Note(text.into())).await;
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

/// How much of the log is in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) size: u64,
    /// The sha256 of all of it, when no more will come.
    pub(crate) end: Option<Digest>,
}

/// The task that owns the file.
#[derive(Debug)]
pub(crate) struct Spool {
    task: JoinHandle<()>,
    close: CancellationToken,
}

impl Spool {
    /// Begins a log. A disk that does not take it stops the attempt.
    pub(crate) async fn start(
        path: PathBuf,
        secrets: Secrets,
        limit: u64,
        stopper: Stopper,
    ) -> io::Result<(Self, Log, watch::Receiver<Progress>)> {
        let file = File::create(&path).await?;
        let (entries, receiver) = mpsc::channel(WAITING);
        let (progress, watcher) = watch::channel(Progress::default());
        let close = CancellationToken::new();
        let writer = Writer::new(file, limit, progress);
        let task = run(writer, Lanes::new(&secrets), receiver, stopper, close.clone());
        Ok((Self { task: tokio::spawn(task), close }, Log { entries }, watcher))
    }

    /// Waits for the last words. Whoever still holds the log after that is not heard any more.
    pub(crate) async fn finish(self, log: Log) {
        drop(log);
        let mut task = self.task;
        if timeout(LAST_WORDS, &mut task).await.is_ok() {
            return;
        }
        self.close.cancel();
        if let Err(error) = task.await {
            tracing::error!(%error, "the task that keeps a log failed");
        }
    }
}

async fn run(
    mut writer: Writer,
    mut lanes: Lanes,
    mut entries: mpsc::Receiver<Entry>,
    stopper: Stopper,
    close: CancellationToken,
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
        writer.write(lanes.ready(), &stopper).await;
    }
    lanes.finish();
    writer.write(lanes.ready(), &stopper).await;
    writer.finish(&stopper).await;
}

/// Cuts what comes into lines, without secrets.
#[derive(Debug)]
struct Lanes {
    secrets: Secrets,
    streams: [Lane; 2],
    /// To be written.
    ready: Vec<u8>,
    /// Whose line is not finished in what was written.
    open: Option<usize>,
}

#[derive(Debug)]
struct Lane {
    masker: Masker,
    /// Masked, not yet a line.
    line: Vec<u8>,
}

const NOTES: usize = 2;

impl Lanes {
    fn new(secrets: &Secrets) -> Self {
        let lane = || Lane { masker: Masker::new(secrets.clone()), line: Vec::new() };
        Self { secrets: secrets.clone(), streams: [lane(), lane()], ready: Vec::new(), open: None }
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Note(text) => {
                let line = format!("{}\n", self.secrets.mask(&text));
                self.show(NOTES, line.as_bytes());
            }
            Entry::Output(Output { stream, bytes }) => {
                let index = match stream {
                    Stream::Stdout => 0,
                    Stream::Stderr => 1,
                };
                let lane = &mut self.streams[index];
                lane.line.extend(lane.masker.push(&bytes));
                let whole =
                    lane.line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let length = if lane.line.len() > LONGEST_LINE { lane.line.len() } else { whole };
                let lines: Vec<u8> = lane.line.drain(..length).collect();
                self.show(index, &lines);
            }
        }
    }

    fn have_unfinished(&self) -> bool {
        self.streams.iter().any(|lane| !lane.line.is_empty())
    }

    /// Nothing came for a moment. What a masker still holds stays where it is.
    fn show_unfinished(&mut self) {
        for index in 0..self.streams.len() {
            let line = mem::take(&mut self.streams[index].line);
            self.show(index, &line);
        }
    }

    fn finish(&mut self) {
        for lane in &mut self.streams {
            let rest = lane.masker.finish();
            lane.line.extend(rest);
        }
        self.show_unfinished();
    }

    /// A line that another lane left open is ended first, so that lines never mix.
    fn show(&mut self, lane: usize, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        if self.open.is_some_and(|open| open != lane) {
            self.ready.push(b'\n');
        }
        self.ready.extend_from_slice(bytes);
        self.open = (*last != b'\n').then_some(lane);
    }

    fn ready(&mut self) -> Vec<u8> {
        mem::take(&mut self.ready)
    }
}

#[derive(Debug)]
struct Writer {
    file: File,
    size: u64,
    limit: u64,
    hash: Sha256,
    progress: watch::Sender<Progress>,
    /// The limit was reached, or the disk refused.
    closed: bool,
}

impl Writer {
    fn new(file: File, limit: u64, progress: watch::Sender<Progress>) -> Self {
        Self { file, size: 0, limit, hash: Sha256::new(), progress, closed: false }
    }

    async fn write(&mut self, mut bytes: Vec<u8>, stopper: &Stopper) {
        if self.closed || bytes.is_empty() {
            return;
        }
        if self.size + bytes.len() as u64 > self.limit {
            self.closed = true;
            let room = usize::try_from(self.limit - self.size).unwrap_or(usize::MAX);
            bytes.truncate(room);
            let note = format!("\nThe log reached {} bytes; the rest is dropped.\n", self.limit);
            bytes.extend_from_slice(note.as_bytes());
        }
        match self.append(&bytes).await {
            Ok(()) => {
                self.hash.update(&bytes);
                self.size += bytes.len() as u64;
                self.progress.send_modify(|progress| progress.size = self.size);
            }
            Err(error) => self.fail(&error, stopper),
        }
    }

    async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await?;
        self.file.flush().await
    }

    fn fail(&mut self, error: &io::Error, stopper: &Stopper) {
        self.closed = true;
        tracing::error!(%error, "cannot keep the log of a run");
        stopper.stop(Why::NoLog(format!("cannot keep the log on this worker: {error}")));
    }

    async fn finish(mut self, stopper: &Stopper) {
        if let Err(error) = self.file.sync_data().await {
            self.fail(&error, stopper);
        }
        let end = Digest::from_bytes(self.hash.finalize().into());
        self.progress.send_replace(Progress { size: self.size, end: Some(end) });
    }
}

#[cfg(test)]
mod tests;
