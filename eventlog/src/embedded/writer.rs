//! What writes: two threads of the log's own, or whoever appends; see [`inbox`](super::inbox).
//!
//! Whoever it is takes what waits in order of the calls. The [`Stager`] checks each append against what
//! is stored and what is staged, and encodes the next write. When the disk is free, the [`Committer`]
//! makes one write and one sync of it, then shows the events to readers, then answers the callers.
//! Meanwhile somebody else may stage.

mod committer;
mod space;
mod stager;

use std::{
    collections::VecDeque,
    io, mem,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytestring::ByteString;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{oneshot, watch},
    task,
};

use super::{
    Options, Shared,
    format::{Said, SegmentHeader},
    inbox::{Inbox, Lead},
    index::{IdDigest, Index},
    recover::Tail,
};
use crate::{
    Clock,
    event::NewEvent,
    log::{AppendError, Appended},
    retention::subject,
    store::Append,
};
use committer::Committer;
use stager::Stager;

/// No more than about this goes into one write.
const WRITE: usize = 8 << 20;
/// Nor more than this many appends.
const APPENDS: usize = 8_192;

pub(super) type Reply = oneshot::Sender<Result<Appended, AppendError>>;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) append: Append,
    pub(super) said: Vec<Said>,
    pub(super) reply: Reply,
}

pub(super) struct Writer {
    pub(super) inbox: Inbox,
    stager: Mutex<Stager>,
    committer: Mutex<Committer>,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(
        dir: PathBuf,
        options: Options,
        clock: Clock,
        tail: Tail,
        shared: Arc<Shared>,
        publish: watch::Sender<u64>,
    ) -> Self {
        let next_position = *publish.borrow();
        let committer = Committer::new(dir, Arc::clone(&shared), publish, &tail);
        let stager = Stager::new(clock, Arc::clone(&shared), options, tail, next_position);
        let (stager, committer) = (Mutex::new(stager), Mutex::new(committer));
        Self { inbox: Inbox::default(), stager, committer, shared }
    }

    /// What a thread of the log does until the last handle is gone, or something fails.
    pub(super) fn run(&self) {
        while let Some(requests) = self.inbox.next() {
            self.write(requests.into());
        }
    }

    /// Writes what waits if that is up to the caller, who appends.
    pub(super) async fn lead(&self) {
        let may_block = Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        let mut lead = self.inbox.lead(may_block, false);
        if matches!(lead, Lead::Yield) {
            task::yield_now().await;
            lead = self.inbox.lead(may_block, true);
        }
        if let Lead::Write(requests) = lead {
            self.write(requests.into());
        }
    }

    /// Makes them durable, with what comes meanwhile, and answers them.
    fn write(&self, mut requests: VecDeque<Request>) {
        let _end = End(self);
        if self.try_write(&mut requests).is_err() {
            // Unless the disk was it, which has said why.
            self.shared.cause.set(PANICKED.into()).ok();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "paces the writer; nothing stored depends on it")]
    fn try_write(&self, requests: &mut VecDeque<Request>) -> io::Result<()> {
        let mut stager = self.stager.lock().map_err(|_| panicked())?;
        let mut disk = Disk { committer: &self.committer, held: None };
        stager.stage(requests, &mut disk)?;
        disk.wait()?;
        requests.extend(self.inbox.begin());
        stager.stage(requests, &mut disk)?;
        let committer = disk.wait()?;
        let write = stager.take(committer.spare.take());
        drop(stager);
        let (answered, begun) = (write.answers.len(), Instant::now());
        committer.commit(write)?;
        self.inbox.wrote(answered, begun.elapsed());
        Ok(())
    }

    /// Once nobody writes any more.
    pub(super) fn finish(&self) {
        self.committer.lock().unwrap_or_else(PoisonError::into_inner).finish();
    }
}

/// The right to write, once the write before has ended.
struct Disk<'a> {
    committer: &'a Mutex<Committer>,
    held: Option<MutexGuard<'a, Committer>>,
}

impl Disk<'_> {
    fn wait(&mut self) -> io::Result<&mut Committer> {
        if self.held.is_none() {
            self.held = Some(self.committer.lock().map_err(|_| panicked())?);
        }
        self.held.as_deref_mut().ok_or_else(panicked)
    }

    fn stop(&mut self, error: &io::Error) {
        let lock = || self.committer.lock().unwrap_or_else(PoisonError::into_inner);
        self.held.get_or_insert_with(lock).stop(error);
    }
}

const PANICKED: &str = "its writer panicked: this is a bug";

fn panicked() -> io::Error {
    io::Error::other(PANICKED)
}

/// However a write ends, nobody waits for it in vain.
struct End<'a>(&'a Writer);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let writer = self.0;
        if std::thread::panicking() || writer.shared.cause.get().is_some() {
            writer.shared.cause.set(PANICKED.into()).ok();
            writer.inbox.stop();
            let mut stager = writer.stager.lock().unwrap_or_else(PoisonError::into_inner);
            drop(mem::take(&mut stager.staged));
            drop(stager);
            writer.committer.lock().unwrap_or_else(PoisonError::into_inner).publish = None;
        }
    }
}

/// The next write.
#[derive(Default)]
pub(super) struct Staged {
    bytes: Vec<u8>,
    /// Where each record starts in the file.
    offsets: Vec<u32>,
    ids: Vec<IdDigest>,
    appends: Vec<StagedAppend>,
    answers: Vec<(Reply, Result<Appended, AppendError>)>,
    next_position: u64,
    /// The segment is full after it; how the next one begins.
    then: Option<SegmentHeader>,
}

struct StagedAppend {
    stream: ByteString,
    /// Of its first event.
    revision: u64,
    /// What says something about a stream, and its revision.
    notes: Vec<(u64, NewEvent)>,
    /// How many of `offsets` are its.
    records: usize,
    /// Where its last record ends.
    end: u32,
}

impl Staged {
    /// Of each note, how many events the stream has that it says something about.
    fn lengths_of_subjects(&self, index: &Index) -> io::Result<Vec<u64>> {
        let notes = self
            .appends
            .iter()
            .flat_map(|append| append.notes.iter().map(|_| subject(&append.stream)));
        notes.map(|subject| subject.map_or(Ok(0), |subject| index.length(subject))).collect()
    }

    /// Empty, but with its room.
    fn clear(&mut self) {
        self.bytes.clear();
        self.offsets.clear();
        self.ids.clear();
        self.appends.clear();
        self.answers.clear();
        self.then = None;
    }
}
