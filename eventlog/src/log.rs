//! The contract of the log, over whichever engine holds it.

use std::{fmt, path::Path, pin::Pin, sync::Arc};

use futures::{
    future::BoxFuture,
    stream::{BoxStream, Stream},
};

use crate::{
    Clock,
    embedded::{Embedded, OpenError, Options},
    event::{Expected, NewEvent, Recorded},
    memory::Memory,
    remote::Remote,
};

/// Events as they come, oldest first; after what is stored, what is appended.
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

    fn read_stream(
        &self,
        stream: String,
        from_revision: u64,
        limit: usize,
    ) -> BoxStream<'static, Result<Recorded, LogError>>;

    /// With `follow`, never ends by itself.
    fn read_all(
        &self,
        from_position: u64,
        prefixes: Vec<String>,
        follow: bool,
    ) -> BoxStream<'static, Result<Recorded, LogError>>;

    fn next_position(&self) -> BoxFuture<'static, Result<u64, LogError>>;
}

impl Log {
    /// Most events in one append, and most bytes of their data together: what every server of the
    /// EventStoreDB protocol takes.
    pub const MAX_BATCH_EVENTS: usize = 1_000;
    pub const MAX_BATCH_BYTES: usize = 1 << 20;
    /// Longest name of a stream, in bytes.
    pub const MAX_STREAM_NAME: usize = 256;
    /// Longest type of an event, in bytes.
    pub const MAX_EVENT_TYPE: usize = 256;
    /// Most bytes of the encoded metadata of all events in one append.
    pub const MAX_BATCH_METADATA: usize = 2 << 20;

    pub(crate) fn new(engine: impl Engine) -> Self {
        Self(Arc::new(engine))
    }

    /// A log that is gone with the process; for tests.
    #[must_use]
    pub fn in_memory(clock: Clock) -> Self {
        Self::new(Memory::new(clock))
    }

    /// The log in a folder, which is made if it is not there. Reads what is stored, so it blocks for
    /// a while when that is much. One handle per folder, on one machine: clone it.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, OpenError> {
        Self::open_with(dir, clock, Options::default())
    }

    pub fn open_with(dir: &Path, clock: Clock, options: Options) -> Result<Self, OpenError> {
        Ok(Self::new(Embedded::open(dir, clock, options)?))
    }

    /// The log that another process serves with [`crate::server::router`]. It need not be there yet;
    /// whoever asks waits for it for a while. Must be called within a runtime.
    #[must_use]
    pub fn remote(channel: transport::Channel) -> Self {
        Self::new(Remote::new(channel))
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
        match check(&stream, &events) {
            Ok(()) => self.0.append(stream, expected, events),
            Err(error) => Box::pin(async { Err(error.into()) }),
        }
    }

    /// The events of one stream, oldest first.
    pub fn read_stream(
        &self,
        stream: impl Into<String>,
        from_revision: u64,
        limit: usize,
    ) -> Pin<Box<dyn Stream<Item = Result<Recorded, LogError>> + Send>> {
        self.0.read_stream(stream.into(), from_revision, limit)
    }

    /// All events from a position to the present end whose stream starts with one of `prefixes`
    /// (with none given: all of them), oldest first. The present is the moment of the call, or for a
    /// remote log that of the first poll.
    #[must_use]
    pub fn read_all(&self, from_position: u64, prefixes: &[&str]) -> Subscription {
        self.0.read_all(from_position, owned(prefixes), false)
    }

    /// Like [`Log::read_all`], but goes on with what is appended later, without gap or repetition.
    #[must_use]
    pub fn subscribe(&self, from_position: u64, prefixes: &[&str]) -> Subscription {
        self.0.read_all(from_position, owned(prefixes), true)
    }

    /// The position that the next event will get.
    pub async fn next_position(&self) -> Result<u64, LogError> {
        self.0.next_position().await
    }
}

fn owned(prefixes: &[&str]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

fn check(stream: &str, events: &[NewEvent]) -> Result<(), LogError> {
    let invalid = |message: String| Err(LogError::Invalid(message));
    let within = |length: usize, most: usize| (1..=most).contains(&length);
    if !within(stream.len(), Log::MAX_STREAM_NAME) {
        let (most, length) = (Log::MAX_STREAM_NAME, stream.len());
        return invalid(format!("a stream's name has 1 to {most} bytes, this one {length}"));
    }
    if !within(events.len(), Log::MAX_BATCH_EVENTS) {
        let (most, count) = (Log::MAX_BATCH_EVENTS, events.len());
        return invalid(format!("a batch has 1 to {most} events, this one {count}"));
    }
    let bytes: usize = events.iter().map(|event| event.data.len()).sum();
    if bytes > Log::MAX_BATCH_BYTES {
        let most = Log::MAX_BATCH_BYTES;
        return invalid(format!("a batch has at most {most} bytes of data, this one {bytes}"));
    }
    let mut metadata = 0;
    for event in events {
        if !within(event.event_type.len(), Log::MAX_EVENT_TYPE) {
            let (most, length) = (Log::MAX_EVENT_TYPE, event.event_type.len());
            return invalid(format!("an event's type has 1 to {most} bytes, this one {length}"));
        }
        metadata += event.metadata.len();
    }
    if metadata > Log::MAX_BATCH_METADATA {
        let most = Log::MAX_BATCH_METADATA;
        return invalid(format!(
            "a batch has at most {most} bytes of metadata, this one {metadata}"
        ));
    }
    Ok(())
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}
