//! What writes: two threads take turns.
//!
//! One of them holds the [`Stager`]: it takes what waits in order of the calls, checks each append
//! against what is stored and what is staged, and encodes the next write. When the disk is free it
//! becomes the one that holds the [`Committer`]: one write, one sync, then the events are shown to
//! readers, then the callers are answered. Meanwhile the other thread stages. Whoever stages also
//! commits, so an append never changes threads between its call and its answer.

mod committer;
mod stager;

use std::{
    io, mem,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use bytestring::ByteString;
use tokio::sync::{oneshot, watch};

use super::{
    Options, Shared,
    format::{Said, SegmentHeader},
    inbox::{Inbox, Next},
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

/// Both threads' common work.
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

    /// Until the last handle is gone, or something fails.
    pub(super) fn run(&self) {
        let _end = End(self);
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.lock(&self.committer).stop(&error),
            }
        }
    }

    /// A thread that panicked in the middle of something has left it half done.
    fn lock<'a, T>(&self, part: &'a Mutex<T>) -> MutexGuard<'a, T> {
        part.lock().unwrap_or_else(|poisoned| {
            self.shared.cause.set("its writer panicked: this is a bug".into()).ok();
            self.inbox.stop();
            poisoned.into_inner()
        })
    }

    /// One write. `false`: there will be none any more.
    #[expect(clippy::disallowed_methods, reason = "paces the writer; nothing stored depends on it")]
    fn turn(&self) -> io::Result<bool> {
        let mut stager = self.lock(&self.stager);
        let mut requests = Vec::new();
        loop {
            match self.inbox.next(stager.staged.answers.len(), stager.is_full(), &mut requests) {
                Next::End => return Ok(false),
                Next::Write => break,
                Next::Stage => {
                    for request in requests.drain(..) {
                        stager.stage(request, &self.committer)?;
                    }
                }
            }
        }
        let mut committer = self.lock(&self.committer);
        let write = stager.take(committer.spare.take());
        drop(stager);
        let (answered, begun) = (write.answers.len(), Instant::now());
        committer.commit(write)?;
        drop(committer);
        self.inbox.wrote(answered, begun.elapsed());
        Ok(true)
    }

    /// Once both threads have ended.
    pub(super) fn finish(&self) {
        self.lock(&self.committer).finish();
    }
}

/// However a thread ends, nobody waits for it in vain.
struct End<'a>(&'a Writer);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let writer = self.0;
        if std::thread::panicking() || writer.shared.cause.get().is_some() {
            writer.shared.cause.set("its writer panicked: this is a bug".into()).ok();
            writer.inbox.stop();
            drop(mem::take(&mut writer.lock(&writer.stager).staged));
            writer.lock(&writer.committer).publish = None;
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
