//! What every check uses: streams of its own, and the official client.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use ids::EventId;
use kurrentdb::{
    AppendToStreamOptions, BatchAppendClient, BatchAppendOptions, EventData, Position,
    ReadAllOptions, ReadStreamOptions, RecordedEvent, StreamPosition, StreamState, Subscription,
    SubscriptionEvent, SubscriptionFilter, WriteResult,
};
use uuid::Uuid;

use crate::{
    Log,
    esdb::{Esdb, pool::Lease, trouble::last_word},
    event::{Content, Expected, NewEvent},
    log::{AppendError, LogError},
};

/// Why an assumption was not seen to hold.
pub(super) enum Unmet {
    Fails(String),
    NotChecked(String),
}

impl<E: std::error::Error> From<E> for Unmet {
    fn from(error: E) -> Self {
        Self::Fails(error.to_string())
    }
}

/// Fails with what was seen.
pub(super) fn holds(is_so: bool, seen: impl fmt::Display) -> Result<(), Unmet> {
    if is_so { Ok(()) } else { Err(Unmet::Fails(seen.to_string())) }
}

pub(super) struct Probe {
    esdb: Esdb,
    pub(super) log: Log,
    pub(super) prefix: String,
    streams: Mutex<Vec<String>>,
}

impl Probe {
    pub(super) fn new(url: &str, identity: Option<&Path>) -> Result<Self, LogError> {
        let prefix = format!("conformance-{}-", identity::random_hex::<8>());
        let log = Log::esdb(url, identity)?;
        Ok(Self { esdb: Esdb::new(url, identity)?, log, prefix, streams: Mutex::default() })
    }

    /// Its version. Also whether there is one.
    pub(super) async fn server(&self) -> Result<String, LogError> {
        // Waits for a server that is away, and says why it is.
        self.log.next_position().await?;
        let asked = async { self.lease().await?.client().server_info().await };
        let info = asked.await.map_err(|error| {
            last_word(&error).unwrap_or_else(|| LogError::Unavailable(error.to_string()))
        })?;
        Ok(format!("version {}", info.version()))
    }

    /// The name of a stream of this check, ended when all is done.
    pub(super) fn stream(&self, what: &str) -> String {
        let name = format!("{}{what}", self.prefix);
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        name
    }

    /// Ends every stream; answers which it could not, and why.
    pub(super) async fn clean(&self) -> Vec<String> {
        let mut left = Vec::new();
        let streams =
            std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in streams {
            match self.log.tombstone(stream.as_str(), Expected::Any).await {
                Ok(()) | Err(AppendError::Deleted { .. }) => {}
                Err(error) => left.push(format!("{stream}: {error}")),
            }
        }
        left
    }

    pub(super) async fn lease(&self) -> kurrentdb::Result<Lease> {
        self.esdb.pool.lease().await
    }

    pub(super) async fn session(&self) -> kurrentdb::Result<Arc<BatchAppendClient>> {
        let lease = self.lease().await?;
        let session = lease.client().batch_append(&BatchAppendOptions::default()).await?;
        Ok(Arc::new(session))
    }

    /// Appends by a call of its own.
    pub(super) async fn append(
        &self,
        stream: &str,
        state: StreamState,
        events: Vec<EventData>,
    ) -> kurrentdb::Result<WriteResult> {
        let mut lease = self.lease().await?;
        let options = AppendToStreamOptions::default().stream_state(state);
        let answer = lease.client().append_to_stream(stream, &options, events).await;
        lease.look(answer)
    }

    /// A stream of so many small events, one an append; their positions.
    pub(super) async fn fill(&self, stream: &str, count: usize) -> Result<Vec<u64>, Unmet> {
        let mut positions = Vec::new();
        for _ in 0..count {
            let answer = self.append(stream, StreamState::Any, vec![small("Probed")]).await?;
            positions.push(answer.position.commit);
        }
        Ok(positions)
    }

    pub(super) async fn read(
        &self,
        stream: &str,
        options: ReadStreamOptions,
    ) -> kurrentdb::Result<Vec<RecordedEvent>> {
        let lease = self.lease().await?;
        let mut events = lease.client().read_stream(stream, &options).await?;
        let mut read = Vec::new();
        while let Some(event) = events.next().await? {
            read.extend(event.link.or(event.event));
        }
        Ok(read)
    }

    pub(super) async fn read_all(
        &self,
        options: ReadAllOptions,
    ) -> kurrentdb::Result<Vec<RecordedEvent>> {
        let lease = self.lease().await?;
        let mut events = lease.client().read_all(&options).await?;
        let mut read = Vec::new();
        while let Some(event) = events.next().await? {
            read.extend(event.link.or(event.event));
        }
        Ok(read)
    }
}

/// The next event of a subscription.
pub(super) async fn next(subscription: &mut Subscription) -> Result<RecordedEvent, Unmet> {
    loop {
        let event = subscription.next_subscription_event().await?;
        if let SubscriptionEvent::EventAppeared(event) = event
            && let Some(event) = event.link.or(event.event)
        {
            return Ok(event);
        }
    }
}

pub(super) fn on_streams(prefixes: &[&str]) -> SubscriptionFilter {
    prefixes.iter().fold(SubscriptionFilter::on_stream_name(), SubscriptionFilter::add_prefix)
}

pub(super) fn at(position: u64) -> StreamPosition<Position> {
    StreamPosition::Position(Position { commit: position, prepare: position })
}

pub(super) fn small(event_type: &str) -> EventData {
    sized(event_type, 16)
}

pub(super) fn sized(event_type: &str, bytes: usize) -> EventData {
    EventData::binary(event_type, vec![7; bytes].into()).id(id())
}

pub(super) fn id() -> Uuid {
    Uuid::from_bytes(identity::random())
}

/// As our services append.
pub(super) fn new(event_type: &str) -> NewEvent {
    NewEvent {
        id: EventId::from_uuid(id()),
        event_type: event_type.into(),
        content: Content::Binary,
        data: vec![7; 16].into(),
        metadata: "".into(),
    }
}
