//! The task that writes one log: it takes what waits, writes it, syncs once, and answers then.
//!
//! Appends that come while the disk is busy share the next sync. Different logs are written in
//! parallel, and the file system lets their syncs share a commit. Readers have no part in it: they
//! only see the length that is published after each sync.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use proto::logs::v1::LogSpans;
use sha2::Sha256;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    domain::Seal,
    file::{LogFile, MOST_UNSYNCED, Place, Progress, Refusal},
    store::{Aside, Store},
};

/// How many wait at most before a caller waits too.
const INBOX: usize = 64;
/// Bytes after which nothing more is taken into a batch. One append has at most 1 MiB.
const FULL_BATCH: u64 = MOST_UNSYNCED - (1 << 20);

/// What a log is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Append(Piece),
    /// That the file is put in its place, unless the log would get shorter.
    Replace {
        aside: Arc<Aside>,
        seal: Seal,
        hash: Sha256,
    },
}

struct Request {
    wish: Wish,
    reply: Reply,
}

/// What is appended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    pub(crate) spans: Option<LogSpans>,
    pub(crate) end: Option<End>,
}

/// That nothing more comes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// The log is so.
    Whole(Seal),
    /// The log is incomplete.
    AsItIs,
}

type Reply = oneshot::Sender<Result<Written, Refusal>>;

/// What a log answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Everything before it is on disk.
    pub(crate) durable_offset: u64,
    /// The log is as its end says, and takes nothing more; this is still to be recorded.
    pub(crate) sealed: Option<Seal>,
}

/// A handle to an open log; cheap to clone. The log stays open while there are handles.
#[derive(Clone, Debug)]
pub(crate) struct OpenLog {
    place: Place,
    inbox: mpsc::Sender<Request>,
    progress: watch::Receiver<Progress>,
}

impl OpenLog {
    pub(crate) async fn ask(&self, wish: Wish) -> Result<Written, Refusal> {
        let (reply, answer) = oneshot::channel();
        let closed = || Refusal::Closed(self.place.log);
        self.inbox.send(Request { wish, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// How far the log is, from now on. Ends when the log is closed.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Nobody but the store has it, and nothing waits.
    pub(crate) fn is_unused(&self) -> bool {
        self.inbox.strong_count() == 1 && self.inbox.capacity() == INBOX
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }
}

/// Opens a log and starts its task, which tells `store` when it is done.
pub(crate) fn start(
    place: Place,
    sealed: Option<Seal>,
    idle: Duration,
    store: Weak<Store>,
) -> OpenLog {
    let (inbox, requests) = mpsc::channel(INBOX);
    let (published, progress) = watch::channel(Progress::default());
    let task = Task { place: place.clone(), requests, published, idle, store };
    tokio::spawn(task.run(sealed));
    OpenLog { place, inbox, progress }
}

struct Task {
    place: Place,
    requests: mpsc::Receiver<Request>,
    published: watch::Sender<Progress>,
    idle: Duration,
    store: Weak<Store>,
}

impl Task {
    async fn run(mut self, sealed: Option<Seal>) {
        let place = self.place.clone();
        let opened = blocking(move || LogFile::open(place, sealed)).await;
        let mut file = match opened {
            Ok(file) => file,
            Err(error) => {
                let refusal = self.place.refusal(error);
                return self.close(&refusal);
            }
        };
        self.publish(file.progress());
        while let Some(batch) = self.next_batch().await {
            let (left, progress, answers) = blocking(move || write(file, batch)).await;
            self.publish(progress);
            for (reply, answer) in answers {
                // The caller may have gone away.
                reply.send(answer).ok();
            }
            match left {
                Ok(left) => file = left,
                Err(refusal) => return self.close(&refusal),
            }
        }
    }

    /// What waits, or comes before the log was idle for long; `None`: nobody wants the log any more.
    async fn next_batch(&mut self) -> Option<Vec<Request>> {
        let first = loop {
            if let Ok(first) = timeout(self.idle, self.requests.recv()).await {
                break first?;
            }
            let store = self.store.upgrade();
            if store.is_none_or(|store| store.forget_unused(self.place.log)) {
                return None;
            }
        };
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while bytes < FULL_BATCH
            && let Ok(next) = self.requests.try_recv()
        {
            bytes += next.bytes();
            batch.push(next);
        }
        Some(batch)
    }

    fn publish(&self, progress: Progress) {
        let appeared = progress.exists && !self.published.borrow().exists;
        self.published.send_replace(progress);
        if appeared && let Some(store) = self.store.upgrade() {
            store.note(self.place.log);
        }
    }

    /// Who waits is told why; who comes later opens the log again.
    fn close(mut self, refusal: &Refusal) {
        tracing::error!("the {} is closed: {}", self.place.log, chain(refusal));
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            request.reply.send(Err(refusal.clone())).ok();
        }
        if let Some(store) = self.store.upgrade() {
            store.forget_closed(self.place.log);
        }
    }
}

/// A message with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Request {
    fn bytes(&self) -> u64 {
        match &self.wish {
            Wish::Append(piece) => piece.data.len() as u64,
            Wish::Replace { .. } => 0,
        }
    }
}

type Answers = Vec<(Reply, Result<Written, Refusal>)>;

/// Does what the batch asks, with one sync. After an error of the disk the file is given up, and
/// nothing of the batch is acknowledged.
fn write(mut file: LogFile, batch: Vec<Request>) -> (Result<LogFile, Refusal>, Progress, Answers) {
    let (mut done, mut broken) = (vec![], None);
    for Request { wish, reply } in batch {
        let outcome = match (&broken, wish) {
            (Some(refusal), _) => (reply, None, Err(Refusal::clone(refusal))),
            (None, Wish::Append(piece)) => {
                let Piece { offset, data, spans, end } = piece;
                (reply, end, file.append(offset, &data, spans.as_ref()))
            }
            (None, Wish::Replace { aside, seal, hash }) => {
                (reply, None, file.replace(aside.path(), seal, hash))
            }
        };
        if let Err(refusal) = &outcome.2
            && refusal.is_of_the_disk()
        {
            broken = Some(refusal.clone());
        }
        done.push(outcome);
    }
    let synced = match broken {
        Some(refusal) => Err(refusal),
        None => file.sync(),
    };
    let answers = done
        .into_iter()
        .map(|(reply, end, outcome)| {
            let answer = outcome.and(synced.clone()).and_then(|()| file.written(end));
            (reply, answer)
        })
        .collect();
    let progress = file.progress();
    let left = match synced {
        Ok(()) => Ok(file),
        Err(refusal) => {
            file.give_up();
            Err(refusal)
        }
    };
    (left, progress, answers)
}

impl Refusal {
    /// It is not known any more what is stored.
    fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Io { .. })
    }
}

impl LogFile {
    fn written(&mut self, end: Option<End>) -> Result<Written, Refusal> {
        let sealed = match end {
            None => None,
            Some(End::Whole(seal)) => self.seal(seal)?.then_some(seal),
            Some(End::AsItIs) => Some(self.seal_as_it_is()?),
        };
        Ok(Written { durable_offset: self.progress().length, sealed })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("work on files neither panics nor is aborted")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use ids::{Attempt, RunId};

    use super::*;
    use crate::{domain::LogId, shelf::Shelf};

    #[test]
    fn of_a_batch_that_meets_a_full_disk_nothing_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogId { run: RunId::from_uuid(uuid::Uuid::nil()), attempt: Attempt(1) };
        let shelf = Shelf::Folder(folder.path().into());
        let place =
            Place { log, folder: folder.path().into(), shelf, most_bytes: 100, unsure: 0..0 };
        let mut file = LogFile::open(place, None).unwrap();
        // A device that is always full.
        file.write_to(File::options().read(true).write(true).open("/dev/full").unwrap());
        let (first, mut first_answer) = oneshot::channel();
        let (second, mut second_answer) = oneshot::channel();
        let append = |data: &'static [u8], reply| {
            let piece = Piece { data: Bytes::from_static(data), ..Piece::default() };
            Request { wish: Wish::Append(piece), reply }
        };
        let (left, progress, answers) =
            write(file, vec![append(b"one", first), append(b"", second)]);
        assert!(left.is_err());
        assert_eq!(progress.length, 0);
        for (reply, answer) in answers {
            reply.send(answer).unwrap();
        }
        for answer in [&mut first_answer, &mut second_answer] {
            assert!(matches!(answer.try_recv().unwrap(), Err(Refusal::Full { .. })));
        }
    }
}
