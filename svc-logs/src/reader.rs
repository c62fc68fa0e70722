//! Reads a log from an offset, and follows it while it grows.
//!
//! Readers read from the file, each at its own pace: a slow one delays neither the writer nor the
//! others. A follower is woken by the length that the writer publishes, and ends when the log is
//! sealed or its attempt is over, after the last byte that was stored by then.

use std::{io, sync::Arc};

use eventlog::{Fold, Log, Stopped};
use futures::{Stream, StreamExt, stream};
use ids::{Attempt, RunId};
use proto::logs::v1::ReadLogResponse;
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
};
use tonic::Status;

use crate::{
    api::stopped,
    codec,
    content::Content,
    domain::{Lack, LogId, Over, Seal, State},
    file::Progress,
    service::Logs,
    spans::SpanReader,
    standing::Standings,
    store::Store,
    writer::OpenLog,
};

/// Most bytes of one answer.
const CHUNK: u64 = 256 << 10;
/// More than any run has events.
const MOST_EVENTS: usize = 1 << 20;

/// What reading needs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Library {
    pub(crate) store: Arc<Store>,
    pub(crate) standings: Arc<Standings>,
    pub(crate) owner: Logs,
    pub(crate) log: Log,
}

/// What somebody wants to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) run: RunId,
    /// 0: the newest that has a log.
    pub(crate) attempt: Attempt,
    pub(crate) offset: u64,
    /// Where it came from too.
    pub(crate) spans: bool,
}

type Chunk = Result<ReadLogResponse, Status>;

impl Library {
    /// What is stored now.
    pub(crate) async fn read(
        &self,
        wanted: Wanted,
    ) -> Result<impl Stream<Item = Chunk> + Send + use<>, Status> {
        let Some(log) = self.find(wanted).await? else { return Err(unknown(wanted)) };
        let place = self.store.place(log);
        let beside = wanted.spans.then(|| SpanReader::new(place.spans()));
        let content = blocking(move || Content::open(&place)).await?;
        let stored = self.stored(log, &content).await?;
        if let Some(seal) = self.owner.read(move |state| state.seal(log)).await.map_err(stopped)?
            && stored < seal.size
        {
            return Err(Status::data_loss(format!(
                "the {log} was sealed with {} bytes, but only {stored} are left of it",
                seal.size
            )));
        }
        let pages = Pages { log, content: Some(content), beside };
        Ok(stream::try_unfold((pages, wanted.offset), move |(mut pages, at)| async move {
            let chunk = pages.read(at, stored).await?;
            Ok((!chunk.data.is_empty()).then(|| {
                let next = at + chunk.data.len() as u64;
                (chunk, (pages, next))
            }))
        }))
    }

    /// Bytes that may be read.
    async fn stored(&self, log: LogId, content: &Content) -> Result<u64, Status> {
        Ok(match self.store.get(log) {
            Some(open) => settled(&mut open.progress()).await.length,
            None => content.size().map_err(|error| failed(&error))?,
        })
    }

    /// How large a log is, and what it was sealed with.
    pub(crate) async fn look_up(
        &self,
        wanted: Wanted,
    ) -> Result<(LogId, u64, Option<(Seal, Lack)>), Status> {
        let Some(log) = self.find(wanted).await? else { return Err(unknown(wanted)) };
        let sealed = self.owner.read(move |state| state.sealed(log).cloned());
        if let Some(sealed) = sealed.await.map_err(stopped)? {
            return Ok((log, sealed.0.size, Some(sealed)));
        }
        let place = self.store.place(log);
        let content = blocking(move || Content::open(&place)).await?;
        Ok((log, self.stored(log, &content).await?, None))
    }

    /// What is stored now and what is stored later, until the log will not grow any more.
    pub(crate) async fn follow(
        self,
        wanted: Wanted,
    ) -> Result<stream::BoxStream<'static, Chunk>, Status> {
        if !self.is_open(wanted.run).await? {
            return Ok(self.read(wanted).await?.boxed());
        }
        let standing = self.standings.follow(wanted.run, &self.owner).await.map_err(stopped)?;
        let follower =
            Follower { library: self, wanted, standing, offset: wanted.offset, followed: None };
        Ok(stream::try_unfold(follower, |mut follower| async {
            Ok(follower.next().await?.map(|chunk| (chunk, follower)))
        })
        .boxed())
    }

    async fn find(&self, wanted: Wanted) -> Result<Option<LogId>, Status> {
        let store = Arc::clone(&self.store);
        let mut attempts = blocking(move || store.attempts(wanted.run)).await?;
        if self.store.is_far() {
            let sealed = self.owner.read(move |state| state.over(wanted.run).sealed);
            attempts.extend(sealed.await.map_err(stopped)?);
            attempts.sort_unstable();
        }
        let found = match wanted.attempt {
            Attempt(0) => attempts.last().copied(),
            attempt => attempts.contains(&attempt).then_some(attempt),
        };
        Ok(found.map(|attempt| LogId { run: wanted.run, attempt }))
    }

    /// A run may be so new that its submission was not folded yet; the event log knows it.
    async fn is_open(&self, run: RunId) -> Result<bool, Status> {
        let mut changes = self.owner.changes();
        loop {
            changes.borrow_and_update();
            if self.owner.read(move |state| state.is_open(run)).await.map_err(stopped)? {
                return Ok(true);
            }
            let mut history = State::default();
            let mut events = self.log.read_stream(codec::run_stream(run), 0, MOST_EVENTS);
            while let Some(event) = events.next().await {
                let event = event.map_err(|error| Status::unavailable(error.to_string()))?;
                let fact = codec::decode(&event);
                let fact = fact.map_err(|error| Status::data_loss(error.to_string()))?;
                if let Some(fact) = fact {
                    history.evolve(&fact);
                }
            }
            if !history.is_open(run) {
                return Ok(false);
            }
            changes.changed().await.map_err(|_| stopped(Stopped))?;
        }
    }

    async fn open(&self, log: LogId) -> Result<OpenLog, Status> {
        open(&self.store, &self.owner, log).await
    }
}

/// The log, opened if it is not.
pub(crate) async fn open(store: &Arc<Store>, owner: &Logs, log: LogId) -> Result<OpenLog, Status> {
    if let Some(open) = store.get(log) {
        return Ok(open);
    }
    let sealed = owner.read(move |state| state.seal(log)).await.map_err(stopped)?;
    Ok(store.get_or_open(log, sealed))
}

struct Follower {
    library: Library,
    wanted: Wanted,
    standing: watch::Receiver<Over>,
    offset: u64,
    /// Once the log has appeared.
    followed: Option<Followed>,
}

struct Followed {
    pages: Pages,
    progress: watch::Receiver<Progress>,
    generation: u64,
    /// Keeps the log open.
    _open: OpenLog,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<ReadLogResponse>, Status> {
        loop {
            let Some(followed) = &mut self.followed else {
                self.followed = self.appearance().await?;
                if self.followed.is_none() {
                    return Ok(None);
                }
                continue;
            };
            // In this order: what is stored when the attempt is over is all that will be read.
            let is_over = self.standing.borrow_and_update().contains(followed.pages.log.attempt);
            let progress = *followed.progress.borrow_and_update();
            if progress.generation != followed.generation {
                self.followed = None;
                continue;
            }
            let chunk = followed.pages.read(self.offset, progress.length).await?;
            if !chunk.data.is_empty() {
                self.offset += chunk.data.len() as u64;
                return Ok(Some(chunk));
            }
            if is_over {
                return Ok(None);
            }
            let is_closed = tokio::select! {
                changed = followed.progress.changed() => changed.is_err(),
                changed = self.standing.changed() => {
                    changed.map_err(|_| stopped(Stopped))?;
                    false
                }
            };
            if is_closed {
                self.followed = None;
            }
        }
    }

    /// `None`: the log will never appear.
    async fn appearance(&mut self) -> Result<Option<Followed>, Status> {
        loop {
            let over = self.standing.borrow_and_update().clone();
            if let Some(log) = self.library.find(self.wanted).await? {
                self.wanted.attempt = log.attempt;
                return self.followed(log).await.map(Some);
            }
            let is_over = match self.wanted.attempt {
                Attempt(0) => over.is_whole_run(),
                attempt => over.contains(attempt),
            };
            if is_over {
                return Ok(None);
            }
            self.standing.changed().await.map_err(|_| stopped(Stopped))?;
        }
    }

    async fn followed(&self, log: LogId) -> Result<Followed, Status> {
        let open = self.library.open(log).await?;
        let mut progress = open.progress();
        let generation = settled(&mut progress).await.generation;
        let place = self.library.store.place(log);
        let beside = self.wanted.spans.then(|| SpanReader::new(place.spans()));
        let content = Some(blocking(move || Content::open(&place)).await?);
        let pages = Pages { log, content, beside };
        Ok(Followed { pages, progress, generation, _open: open })
    }
}

/// The progress of a log that exists, once its task has opened it.
async fn settled(progress: &mut watch::Receiver<Progress>) -> Progress {
    match progress.wait_for(|progress| progress.exists).await {
        Ok(settled) => return *settled,
        Err(_closed) => {}
    }
    *progress.borrow()
}

/// A log that is read from one place to the next.
struct Pages {
    log: LogId,
    /// Always there but while it is read.
    content: Option<Content>,
    beside: Option<SpanReader>,
}

impl Pages {
    /// Empty: there is nothing between `at` and `end`.
    async fn read(&mut self, at: u64, end: u64) -> Result<ReadLogResponse, Status> {
        let wanted = end.saturating_sub(at).min(CHUNK) as usize;
        let attempt = self.log.attempt.0;
        if wanted == 0 {
            return Ok(ReadLogResponse { attempt, offset: at, ..ReadLogResponse::default() });
        }
        let (content, mut beside) = (self.content.take(), self.beside.take());
        let mut content = content.expect("no read is dropped and gone on with");
        let read = move || {
            let mut data = content.read(at, wanted)?;
            let mut spans = vec![];
            if let Some(beside) = &mut beside {
                spans = beside.read(at, data.len() as u64)?;
                // What is not told yet comes with the next answer.
                data.truncate(spans.iter().map(|span| span.length as usize).sum());
            }
            Ok((data, spans, content, beside))
        };
        let (data, spans, content, beside) = blocking(read).await?;
        (self.content, self.beside) = (Some(content), beside);
        Ok(ReadLogResponse { attempt, offset: at, data, spans })
    }
}

/// Who reads from a bucket holds a thread, and may need another one to find its address: so few do at
/// once that there always is one.
static READS: Semaphore = Semaphore::const_new(128);

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let _turn = READS.acquire().await.expect("it is never closed");
    let done = spawn_blocking(work).await.expect("work on files neither panics nor is aborted");
    done.map_err(|error| failed(&error))
}

fn failed(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::InvalidData => Status::data_loss(format!("read the log: {error}")),
        _ => Status::internal(format!("read the log: {error}")),
    }
}

fn unknown(wanted: Wanted) -> Status {
    Status::not_found(match wanted.attempt {
        Attempt(0) => format!("run {} has no log", wanted.run),
        attempt => format!("attempt {attempt} of run {} has no log", wanted.run),
    })
}

#[cfg(test)]
mod tests {
    use eventlog::{Clock, Expected, Metadata, NewEvent};
    use ids::{EventId, Timestamp};
    use prost::Message;
    use proto::scheduler::events::v1::RunSubmitted;
    use uuid::Uuid;

    use super::*;
    use crate::{Config, service::RULES};

    async fn submit(log: &Log, run: RunId) {
        let submitted = RunSubmitted { run_id: run.to_string(), ..RunSubmitted::default() };
        let event = NewEvent::new(
            EventId::from_uuid(Uuid::nil()),
            "RunSubmitted",
            submitted.encode_to_vec(),
            &Metadata::default(),
        );
        log.append(codec::run_stream(run), Expected::Any, vec![event]).await.unwrap();
    }

    #[tokio::test]
    async fn a_run_that_is_too_new_to_be_folded_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data: dir.path().into(), ..Config::default() };
        let standings = Arc::new(Standings::default());
        let store = Arc::new(Store::open(&config, Arc::clone(&standings)).unwrap());
        let clock = Clock::from_fn(|| Timestamp(1));
        // What the service has folded lags behind what is in the log.
        let (folded, log) = (Log::in_memory(clock.clone()), Log::in_memory(clock));
        let (owner, _task) = Logs::start(folded.clone(), RULES).await.unwrap();
        let library = Library { store, standings, owner, log: log.clone() };
        let run = RunId::from_uuid(Uuid::nil());
        let wanted = Wanted { run, attempt: Attempt(0), offset: 0, spans: false };

        submit(&log, run).await;
        let following = tokio::spawn(library.follow(wanted));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!following.is_finished());
        submit(&folded, run).await;
        assert!(following.await.unwrap().is_ok());
    }
}
