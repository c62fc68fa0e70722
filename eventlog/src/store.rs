//! What holds events, and what makes a log's engine of it: retention, metadata and deletion are the
//! same over every store of ours.

use futures::{
    StreamExt, TryStreamExt, future,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use ids::{EventId, Timestamp};
use std::sync::Arc;
use uuid::Uuid;

use crate::{
    Clock,
    event::{Content, Expected, NewEvent, Recorded},
    filter::{Direction, Filter},
    log::{AppendError, Appended, Engine, LogError},
    retention::{
        DELETED, METADATA_TYPE, Standing, StreamMetadata, TOMBSTONE_TYPE, metadata_stream,
    },
};

/// An append as a store takes it.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) stream: String,
    pub(crate) expected: Expected,
    pub(crate) events: Vec<NewEvent>,
    /// What must hold of another stream, or also of this one, unless the append is a retry.
    pub(crate) guard: Option<(String, Expected)>,
}

/// What holds events. It knows where each stream stands, refuses appends that do not meet it, and
/// hides nothing.
pub(crate) trait Store: Send + Sync + 'static {
    /// Must take its place in the order of appends when called, not when first polled.
    fn append(&self, append: Append) -> BoxFuture<'static, Result<Appended, AppendError>>;

    /// As of what is durable, but for how many events the stream has: that is left at 0.
    fn standing(&self, stream: &str) -> Standing;

    /// How many events the stream has.
    fn length(&self, stream: String) -> BoxFuture<'static, Result<u64, LogError>>;

    /// From a revision on, inclusive; `None`: from the first or the last.
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
}

/// A store of ours as the engine of a log.
pub(crate) struct Stored<S> {
    store: Arc<S>,
    clock: Clock,
}

impl<S: Store> Stored<S> {
    pub(crate) fn new(store: S, clock: Clock) -> Self {
        Self { store: Arc::new(store), clock }
    }
}

impl<S: Store> Engine for Stored<S> {
    fn append(
        &self,
        stream: String,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        self.store.append(Append { stream, expected, events, guard: None })
    }

    fn read_stream(
        &self,
        stream: String,
        from: Option<u64>,
        direction: Direction,
        limit: usize,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        let standing = self.store.standing(&stream);
        if standing.tombstoned {
            return stream::once(async { Err(LogError::Deleted { stream }) }).boxed();
        }
        let read = Read { stream, from, direction, limit, now: self.clock.now() };
        if !standing.counts(&read.stream) {
            return read.visible(&*self.store, &standing);
        }
        let (store, length) = (Arc::clone(&self.store), self.store.length(read.stream.clone()));
        let events = stream::once(length).map_ok(move |next_revision| {
            read.visible(&*store, &Standing { next_revision, ..standing.clone() })
        });
        events.try_flatten().boxed()
    }

    fn read_all(
        &self,
        from: Option<u64>,
        direction: Direction,
        filter: Filter,
        follow: bool,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        self.store.read_all(from, direction, filter, follow)
    }

    fn next_position(&self) -> BoxFuture<'static, Result<u64, LogError>> {
        self.store.next_position()
    }

    fn stream_metadata(
        &self,
        stream: String,
    ) -> BoxFuture<'static, Result<(StreamMetadata, Option<u64>), LogError>> {
        let standing = self.store.standing(&stream);
        Box::pin(async move {
            if standing.tombstoned {
                return Err(LogError::Deleted { stream });
            }
            Ok((standing.metadata, standing.metadata_revision))
        })
    }

    fn set_stream_metadata(
        &self,
        stream: String,
        expected: Expected,
        metadata: StreamMetadata,
        id: EventId,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let target = metadata_stream(&stream);
            loop {
                let standing = store.standing(&stream);
                let mut metadata = metadata.clone();
                // What was deleted stays so.
                if let Some(deleted) = standing.deleted_before {
                    let before = metadata.truncate_before.unwrap_or(0).max(deleted);
                    metadata.truncate_before = Some(before);
                }
                let seen = exactly(standing.metadata_revision);
                let answer = store.append(Append {
                    stream: target.clone(),
                    expected,
                    events: vec![metadata_event(id, &metadata)],
                    guard: Some((target.clone(), seen)),
                });
                match answer.await {
                    // Somebody else set it meanwhile, which this expectation allows.
                    Err(AppendError::Conflict { current, .. }) if expected.is_met_by(current) => {}
                    Err(AppendError::Conflict { stream, current, .. }) => {
                        return Err(AppendError::Conflict { stream, expected, current });
                    }
                    answer => return answer,
                }
            }
        })
    }

    fn delete(
        &self,
        stream: String,
        expected: Expected,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let target = metadata_stream(&stream);
            loop {
                let standing = store.standing(&stream);
                let metadata =
                    StreamMetadata { truncate_before: Some(DELETED), ..standing.metadata };
                let answer = store.append(Append {
                    stream: target.clone(),
                    expected: exactly(standing.metadata_revision),
                    events: vec![metadata_event(fresh_id(), &metadata)],
                    guard: Some((stream.clone(), expected)),
                });
                match answer.await {
                    // Somebody else set it meanwhile.
                    Err(AppendError::Conflict { stream, .. }) if stream == target => {}
                    answer => return answer.map(drop),
                }
            }
        })
    }

    fn tombstone(
        &self,
        stream: String,
        expected: Expected,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        let end = NewEvent {
            id: fresh_id(),
            event_type: TOMBSTONE_TYPE.into(),
            content: Content::Json,
            data: "{}".into(),
            metadata: "".into(),
        };
        let answer = self.store.append(Append { stream, expected, events: vec![end], guard: None });
        Box::pin(async move { answer.await.map(drop) })
    }
}

/// A read of one stream.
struct Read {
    stream: String,
    from: Option<u64>,
    direction: Direction,
    limit: usize,
    now: Timestamp,
}

impl Read {
    /// The events that are to be seen.
    fn visible(
        &self,
        store: &impl Store,
        standing: &Standing,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        let visible = standing.visible(&self.stream, self.now);
        let from = match self.direction {
            Direction::Forward => Some(self.from.unwrap_or(0).max(visible.from)),
            Direction::Backward => self.from,
        };
        let most = if standing.metadata.max_age.is_some() { usize::MAX } else { self.limit };
        let events = store.read_stream(self.stream.clone(), from, self.direction, most);
        events
            // Going backward, nothing that is to be seen lies behind.
            .take_while(move |event| {
                future::ready(event.as_ref().map_or(true, |event| event.revision >= visible.from))
            })
            .filter(move |event| {
                future::ready(event.as_ref().map_or(true, |event| visible.shows(event)))
            })
            .take(self.limit)
            .boxed()
    }
}

fn exactly(revision: Option<u64>) -> Expected {
    revision.map_or(Expected::None, Expected::Revision)
}

fn metadata_event(id: EventId, metadata: &StreamMetadata) -> NewEvent {
    NewEvent {
        id,
        event_type: METADATA_TYPE.into(),
        content: Content::Json,
        data: metadata.to_json().into(),
        metadata: "".into(),
    }
}

fn fresh_id() -> EventId {
    #[expect(clippy::disallowed_methods, reason = "the edge where events get their ids")]
    let id = Uuid::now_v7();
    EventId::from_uuid(id)
}
