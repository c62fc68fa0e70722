//! A log behind the EventStoreDB protocol: one that `gaia log serve` serves, or a cluster of
//! EventStoreDB or KurrentDB, through the official client.
//!
//! In reading order: `settings` (the connection string), `pool` (clients, made anew when they broke),
//! `trouble` (which errors pass), `appends` (one session, which keeps the order of the calls), `reads`.
//! What a cluster must do for this to be right stands in the crate's README and is checked by
//! [`crate::conformance`].
//!
//! What the client (`kurrentdb` 1.2) does that must be made good here:
//! - Once the member that it chose is gone, or if none was there at its first call, every further call
//!   fails: a client that failed is thrown away.
//! - A batch session ends at its first refused append, without telling what became of the others: they
//!   are sent again in their order, which their ids make harmless. The refusal's details are dropped: the
//!   stream's last revision is read.
//! - All calls of a client share one connection, whose window a few readers that do not read use up:
//!   every open read has a client of its own.
//! - Times are cut to seconds, and names are not checked to be UTF-8: both are read again.

mod appends;
mod convert;
pub(crate) mod pool;
mod reads;
mod settings;
pub(crate) mod trouble;

use std::{path::Path, sync::Arc};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
    stream::BoxStream,
};
use ids::EventId;
use kurrentdb::{DeleteStreamOptions, StreamState, TombstoneStreamOptions};
use tokio::sync::mpsc;

use crate::{
    event::{Content, Expected, NewEvent, Recorded},
    filter::{Direction, Filter},
    log::{AppendError, Appended, Engine, LogError},
    retention::{METADATA_TYPE, StreamMetadata, metadata_stream},
};
use appends::{Appender, Pending};
use pool::Pool;
use reads::{Reading, What};
use trouble::{PATIENCE, Trouble, is_conflict};

/// The engine.
pub(crate) struct Esdb {
    pub(crate) pool: Arc<Pool>,
    appends: mpsc::UnboundedSender<Pending>,
}

impl Esdb {
    /// Starts the task that sends appends, so it needs a runtime. `identity`: a folder whose certificate
    /// is shown, and whose CA is trusted, where the connection string says nothing of it.
    pub(crate) fn new(url: &str, identity: Option<&Path>) -> Result<Self, LogError> {
        let pool = Arc::new(Pool::new(settings::parse(url, identity)?));
        let (appends, inbox) = mpsc::unbounded_channel();
        tokio::spawn(Appender::new(Arc::clone(&pool), inbox).run());
        Ok(Self { pool, appends })
    }

    fn read(&self, what: What) -> BoxStream<'static, Result<Recorded, LogError>> {
        Reading::new(Arc::clone(&self.pool), what).run()
    }

    /// Deletes softly, or for good.
    fn remove(
        &self,
        stream: String,
        expected: Expected,
        for_good: bool,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        let pool = Arc::clone(&self.pool);
        async move {
            let mut trouble = Trouble::default();
            loop {
                let error = match remove(&pool, &stream, expected, for_good).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                };
                if matches!(error, kurrentdb::Error::ResourceDeleted) {
                    // What this very call did before its answer was lost.
                    let done = for_good && trouble.is_there();
                    return if done { Ok(()) } else { Err(AppendError::Deleted { stream }) };
                }
                if is_conflict(&error) {
                    let current = reads::last_revision(&pool, &stream).await?;
                    return Err(AppendError::Conflict { stream, expected, current });
                }
                trouble.wait(&error, Some(PATIENCE)).await?;
            }
        }
        .boxed()
    }
}

async fn remove(
    pool: &Arc<Pool>,
    stream: &str,
    expected: Expected,
    for_good: bool,
) -> kurrentdb::Result<()> {
    let mut lease = pool.lease().await?;
    let state = state_of(expected);
    let removed = if for_good {
        let options = TombstoneStreamOptions::default().stream_state(state);
        lease.client().tombstone_stream(stream, &options).await
    } else {
        let options = DeleteStreamOptions::default().stream_state(state);
        lease.client().delete_stream(stream, &options).await
    };
    lease.look(removed).map(drop)
}

fn state_of(expected: Expected) -> StreamState {
    match expected {
        Expected::Any => StreamState::Any,
        Expected::None => StreamState::NoStream,
        Expected::Exists => StreamState::StreamExists,
        Expected::Revision(revision) => StreamState::StreamRevision(revision),
    }
}

impl Engine for Esdb {
    fn append(
        &self,
        stream: String,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let (pending, answer) = Pending::new(stream, expected, events);
        // A task that is gone drops the request, and with it the reply.
        self.appends.send(pending).ok();
        let gone = || LogError::Stopped("the client's runtime has ended".into());
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(gone().into())) })
    }

    fn read_stream(
        &self,
        stream: String,
        from: Option<u64>,
        direction: Direction,
        limit: usize,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        if limit == 0 {
            // Whether it may be read is asked all the same.
            let asked = self.read_stream(stream, from, direction, 1);
            return asked.filter(|answer| ready(answer.is_err())).boxed();
        }
        self.read(What::Stream { stream, from, direction, left: limit })
    }

    fn read_all(
        &self,
        from: Option<u64>,
        direction: Direction,
        filter: Filter,
        follow: bool,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        match direction {
            Direction::Forward if follow => {
                self.read(What::Following { next: from.unwrap_or(0), filter })
            }
            Direction::Forward => {
                let next = from.unwrap_or(0);
                self.read(What::Forward { next, filter, end: None })
            }
            Direction::Backward => self.read(What::Backward { from, seen: None, filter }),
        }
    }

    fn next_position(&self) -> BoxFuture<'static, Result<u64, LogError>> {
        let pool = Arc::clone(&self.pool);
        async move { reads::next_position(&pool).await }.boxed()
    }

    fn stream_metadata(
        &self,
        stream: String,
    ) -> BoxFuture<'static, Result<(StreamMetadata, Option<u64>), LogError>> {
        let last = self.read_stream(metadata_stream(&stream), None, Direction::Backward, 1);
        async move {
            let mut last = last;
            match last.next().await {
                None => Ok((StreamMetadata::default(), None)),
                Some(Ok(event)) => {
                    // What is no metadata hides nothing.
                    let metadata = StreamMetadata::from_json(&event.event.data).unwrap_or_default();
                    Ok((metadata, Some(event.revision)))
                }
                Some(Err(LogError::Deleted { .. })) => Err(LogError::Deleted { stream }),
                Some(Err(error)) => Err(error),
            }
        }
        .boxed()
    }

    fn set_stream_metadata(
        &self,
        stream: String,
        expected: Expected,
        metadata: StreamMetadata,
        id: EventId,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let event = NewEvent {
            id,
            event_type: METADATA_TYPE.into(),
            content: Content::Json,
            data: metadata.to_json().into(),
            metadata: "".into(),
        };
        let appended = self.append(metadata_stream(&stream), expected, vec![event]);
        async move {
            appended.await.map_err(|error| match error {
                AppendError::Deleted { .. } => AppendError::Deleted { stream },
                error => error,
            })
        }
        .boxed()
    }

    fn delete(
        &self,
        stream: String,
        expected: Expected,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        self.remove(stream, expected, false)
    }

    fn tombstone(
        &self,
        stream: String,
        expected: Expected,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        self.remove(stream, expected, true)
    }
}
