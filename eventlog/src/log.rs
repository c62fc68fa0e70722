//! The contract of the log, over whichever engine holds it.

use std::{fmt, path::Path, sync::Arc};

use futures::{future::BoxFuture, stream::BoxStream};
use ids::EventId;

use crate::{
    Clock,
    embedded::{Embedded, OpenError, Options},
    event::{Expected, NewEvent, Recorded},
    filter::{Direction, Filter},
    memory::Memory,
    retention::{self, StreamMetadata},
    store::Stored,
};

/// Events as they come.
pub type Subscription = BoxStream<'static, Result<Recorded, LogError>>;

/// Where the last event of a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub position: u64,
    pub revision: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else wrote to the stream. Nothing was appended.
    #[error("append to `{stream}`: expected {expected:?}, but its last revision is {current:?}")]
    Conflict { stream: String, expected: Expected, current: Option<u64> },
    /// The stream has a tombstone: nothing is appended to it any more.
    #[error("append to `{stream}`: it was deleted for good; use another name")]
    Deleted { stream: String },
    /// It is not known whether the batch was appended.
    #[error(transparent)]
    Log(#[from] LogError),
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log has stopped: {0}")]
    Stopped(String),
    #[error("read the log: {0}")]
    Corrupt(String),
    #[error("reach the log: {0}")]
    Unavailable(String),
    #[error("the log refuses this: {0}")]
    Invalid(String),
    /// The stream has a tombstone.
    #[error("read `{stream}`: it was deleted for good")]
    Deleted { stream: String },
}

/// A handle to a log; cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<dyn Engine>);

/// What an engine must do. Limits are checked in [`Log`] before an engine sees anything.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Must take its place in the order of appends when called, not when first polled.
    fn append(
        &self,
        stream: String,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>>;

    /// From a revision on, inclusive; `None`: from the first or the last. Hides what the stream does
    /// not keep.
    fn read_stream(
        &self,
        stream: String,
        from: Option<u64>,
        direction: Direction,
        limit: usize,
    ) -> BoxStream<'static, Result<Recorded, LogError>>;

    /// From a position on, inclusive; `None`: from the first or the last. With `follow`, which goes
    /// forward, never ends by itself.
    fn read_all(
        &self,
        from: Option<u64>,
        direction: Direction,
        filter: Filter,
        follow: bool,
    ) -> BoxStream<'static, Result<Recorded, LogError>>;

    fn next_position(&self) -> BoxFuture<'static, Result<u64, LogError>>;

    fn stream_metadata(
        &self,
        stream: String,
    ) -> BoxFuture<'static, Result<(StreamMetadata, Option<u64>), LogError>>;

    fn set_stream_metadata(
        &self,
        stream: String,
        expected: Expected,
        metadata: StreamMetadata,
        id: EventId,
    ) -> BoxFuture<'static, Result<Appended, AppendError>>;

    fn delete(
        &self,
        stream: String,
        expected: Expected,
    ) -> BoxFuture<'static, Result<(), AppendError>>;

    fn tombstone(
        &self,
        stream: String,
        expected: Expected,
    ) -> BoxFuture<'static, Result<(), AppendError>>;
}

impl Log {
    /// Most events in one append, and most bytes of their data, metadata and types together (see
    /// [`NewEvent::size`]): what every server of the EventStoreDB protocol takes.
    pub const MAX_BATCH_EVENTS: usize = 1_000;
    pub const MAX_BATCH_BYTES: usize = 1 << 20;
    /// Longest name of a stream, in bytes.
    pub const MAX_STREAM_NAME: usize = 256;
    /// Longest type of an event, in bytes.
    pub const MAX_EVENT_TYPE: usize = 256;

    pub(crate) fn new(engine: impl Engine) -> Self {
        Self(Arc::new(engine))
    }

    /// A log that is gone with the process; for tests.
    #[must_use]
    pub fn in_memory(clock: Clock) -> Self {
        Self::new(Stored::new(Memory::new(clock.clone()), clock))
    }

    /// The log in a folder, which is made if it is not there. Reads what is stored, so it blocks for
    /// a while when that is much. One handle per folder, on one machine: clone it.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, OpenError> {
        Self::open_with(dir, clock, Options::default())
    }

    pub fn open_with(dir: &Path, clock: Clock, options: Options) -> Result<Self, OpenError> {
        let embedded = Embedded::open(dir, clock.clone(), options)?;
        Ok(Self::new(Stored::new(embedded, clock)))
    }

    /// The log behind the EventStoreDB protocol: one that `gaia log serve` serves, or a cluster. `url` is
    /// `esdb://[user:password@]host:port[,host:port…]?options`; where it names no certificate and no CA,
    /// those in the folder `identity` are used (`cert.pem`, `key.pem`, `caCert.pem`). The log need not be
    /// there yet; whoever asks waits for it for a while. Must be called within a runtime.
    #[cfg(feature = "esdb")]
    pub fn esdb(url: &str, identity: Option<&Path>) -> Result<Self, LogError> {
        Ok(Self::new(crate::esdb::Esdb::new(url, identity)?))
    }

    /// Appends the batch as a whole or not at all, and answers when it is durable.
    ///
    /// Appends take effect in the order of the calls, not of the first polls. If the first event's id
    /// is already in the stream at the place the expectation gives it, the batch is a retry and is
    /// answered as the first append was.
    pub fn append(
        &self,
        stream: impl Into<String>,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let stream = stream.into();
        match check(&stream).and_then(|()| check_batch(&events)) {
            Ok(()) => self.0.append(stream, expected, events),
            Err(error) => Box::pin(async { Err(error.into()) }),
        }
    }

    /// The events of one stream from a revision on, oldest first, as far as the stream keeps them.
    pub fn read_stream(
        &self,
        stream: impl Into<String>,
        from_revision: u64,
        limit: usize,
    ) -> Subscription {
        self.0.read_stream(stream.into(), Some(from_revision), Direction::Forward, limit)
    }

    /// The events of one stream from a revision (`None`: the last one) back, newest first, as far as
    /// the stream keeps them.
    pub fn read_stream_backward(
        &self,
        stream: impl Into<String>,
        from_revision: Option<u64>,
        limit: usize,
    ) -> Subscription {
        self.0.read_stream(stream.into(), from_revision, Direction::Backward, limit)
    }

    /// All events from a position to the present end that match the filter, oldest first, as they are
    /// stored: those that their streams hide are there until a scavenge removes them. The present is
    /// the moment of the call, or for a remote log that of the first poll.
    #[must_use]
    pub fn read_all(&self, from_position: u64, filter: impl Into<Filter>) -> Subscription {
        self.0.read_all(Some(from_position), Direction::Forward, filter.into(), false)
    }

    /// Like [`Log::read_all`], but from a position (`None`: the present end) back, newest first.
    #[must_use]
    pub fn read_all_backward(
        &self,
        from_position: Option<u64>,
        filter: impl Into<Filter>,
    ) -> Subscription {
        self.0.read_all(from_position, Direction::Backward, filter.into(), false)
    }

    /// Like [`Log::read_all`], but goes on with what is appended later, without gap or repetition.
    #[must_use]
    pub fn subscribe(&self, from_position: u64, filter: impl Into<Filter>) -> Subscription {
        self.0.read_all(Some(from_position), Direction::Forward, filter.into(), true)
    }

    /// Larger than every position that exists; whatever is appended later gets this one or a larger
    /// one.
    pub async fn next_position(&self) -> Result<u64, LogError> {
        self.0.next_position().await
    }

    /// What a stream keeps, and the last revision of this metadata, if it was ever set.
    pub async fn stream_metadata(
        &self,
        stream: impl Into<String>,
    ) -> Result<(StreamMetadata, Option<u64>), LogError> {
        let stream = stream.into();
        check(&stream)?;
        self.0.stream_metadata(stream).await
    }

    /// Sets what a stream keeps; `expected` is about the metadata. A retry with the same id is
    /// answered as the first call was, as [`Log::append`] does.
    pub async fn set_stream_metadata(
        &self,
        stream: impl Into<String>,
        expected: Expected,
        metadata: StreamMetadata,
        id: EventId,
    ) -> Result<Appended, AppendError> {
        let stream = stream.into();
        check(&stream)?;
        metadata.check()?;
        let bytes = metadata.to_json().len();
        if bytes > Self::MAX_BATCH_BYTES {
            return Err(
                over("a stream's metadata has at most", Self::MAX_BATCH_BYTES, bytes).into()
            );
        }
        self.0.set_stream_metadata(stream, expected, metadata, id).await
    }

    /// Hides all events that the stream has. It may be appended to again: revisions go on, and a
    /// writer that expects no stream is right until then.
    pub async fn delete(
        &self,
        stream: impl Into<String>,
        expected: Expected,
    ) -> Result<(), AppendError> {
        let stream = stream.into();
        check(&stream)?;
        self.0.delete(stream, expected).await
    }

    /// Ends the stream for good: it is neither read nor appended to any more.
    pub async fn tombstone(
        &self,
        stream: impl Into<String>,
        expected: Expected,
    ) -> Result<(), AppendError> {
        let stream = stream.into();
        check(&stream)?;
        self.0.tombstone(stream, expected).await
    }
}

/// Whether this is the name of a stream that is not the log's own.
fn check(stream: &str) -> Result<(), LogError> {
    let (most, length) = (Log::MAX_STREAM_NAME, stream.len());
    if !(1..=most).contains(&length) {
        let message = format!("a stream's name has 1 to {most} bytes, this one {length}");
        return Err(LogError::Invalid(message));
    }
    if let Some(subject) = retention::subject(stream) {
        let message = format!(
            "`{stream}` holds the metadata of `{subject}`: use what sets metadata or deletes a stream"
        );
        return Err(LogError::Invalid(message));
    }
    Ok(())
}

fn over(what: &str, most: usize, found: usize) -> LogError {
    LogError::Invalid(format!("{what} {most} bytes, this one {found}"))
}

fn check_batch(events: &[NewEvent]) -> Result<(), LogError> {
    let invalid = |message: String| Err(LogError::Invalid(message));
    if !(1..=Log::MAX_BATCH_EVENTS).contains(&events.len()) {
        let (most, count) = (Log::MAX_BATCH_EVENTS, events.len());
        return invalid(format!("a batch has 1 to {most} events, this one {count}"));
    }
    let mut bytes = 0;
    for event in events {
        let (most, length) = (Log::MAX_EVENT_TYPE, event.event_type.len());
        if !(1..=most).contains(&length) {
            return invalid(format!("an event's type has 1 to {most} bytes, this one {length}"));
        }
        if event.event_type == retention::TOMBSTONE_TYPE {
            let own = retention::TOMBSTONE_TYPE;
            return invalid(format!(
                "`{own}` is a type of the log's own: delete the stream for good"
            ));
        }
        bytes += event.size();
    }
    if bytes > Log::MAX_BATCH_BYTES {
        let what = "data, metadata and types of a batch have at most";
        return Err(over(what, Log::MAX_BATCH_BYTES, bytes));
    }
    Ok(())
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}
