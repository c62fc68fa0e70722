//! Which jobs run, as seen from the end of a pipe: whose it may be what comes out.
//!
//! All jobs of a pipeline print into the same two pipes. A job has begun here before the pipeline hears
//! of it, and is over here only when all has been read that was in the pipe when it answered. A job
//! that follows another waits for that. So what is read while one job runs is that job's, or of a
//! process that an earlier job left behind; while several run it may be any of theirs, and all are named.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::Jobs;

/// How long a job waits for the output of the one before to be read. Longer when nobody takes the
/// output, and then both are named.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Change {
    Began(u32),
    Over(u32, oneshot::Sender<()>),
}

/// The plugin's side: says what begins and ends.
#[derive(Debug, Default)]
pub(super) struct Roster {
    pipes: Vec<mpsc::UnboundedSender<Change>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    running: usize,
    /// Of jobs that are over; ends when their output has been read.
    unread: Vec<oneshot::Receiver<()>>,
}

impl Roster {
    /// A further pipe.
    pub(super) fn pipe(&mut self) -> Running {
        let (sender, changes) = mpsc::unbounded_channel();
        self.pipes.push(sender);
        Running { changes, jobs: Jobs::from([]), over: Vec::new(), last: Vec::new() }
    }

    pub(super) async fn begin(&self, job: u32) {
        let unread = self.with(|known| {
            let alone = known.running == 0;
            known.running += 1;
            if alone { mem::take(&mut known.unread) } else { Vec::new() }
        });
        timeout(PATIENCE, join_all(unread)).await.ok();
        for pipe in &self.pipes {
            // A pipe that was closed brings nothing more.
            pipe.send(Change::Began(job)).ok();
        }
    }

    pub(super) fn end(&self, job: u32) {
        let told = self.pipes.iter().map(|pipe| {
            let (told, unread) = oneshot::channel();
            pipe.send(Change::Over(job, told)).ok();
            unread
        });
        let told: Vec<_> = told.collect();
        self.with(|known| {
            known.running = known.running.saturating_sub(1);
            known.unread = told;
        });
    }

    /// Nothing is half done while the lock is held, so a panic cannot leave it wrong.
    fn with<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The pipe's side.
#[derive(Debug)]
pub(super) struct Running {
    changes: mpsc::UnboundedReceiver<Change>,
    jobs: Jobs,
    /// Jobs that are over, but whose output may still be in the pipe.
    over: Vec<u32>,
    last: Vec<oneshot::Sender<()>>,
}

impl Running {
    /// Whose it may be what was just read.
    pub(super) fn jobs(&mut self) -> Jobs {
        while let Ok(change) = self.changes.try_recv() {
            self.take(change);
        }
        Arc::clone(&self.jobs)
    }

    /// The pipe was found empty.
    pub(super) fn found_empty(&mut self) {
        if !self.over.is_empty() {
            let over = mem::take(&mut self.over);
            self.jobs = self.jobs.iter().copied().filter(|job| !over.contains(job)).collect();
        }
        for told in self.last.drain(..) {
            // Nobody waits when no job follows.
            told.send(()).ok();
        }
    }

    /// Whether it matters that the pipe is empty.
    pub(super) fn asks(&self) -> bool {
        !self.last.is_empty()
    }

    /// Waits for a change. Pends for ever when there will be none.
    pub(super) async fn changed(&mut self) {
        match self.changes.recv().await {
            Some(change) => self.take(change),
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Began(job) => {
                self.over.retain(|over| *over != job);
                self.jobs = self.jobs.iter().copied().chain([job]).collect();
            }
            Change::Over(job, told) => {
                self.over.push(job);
                self.last.push(told);
            }
        }
    }
}
