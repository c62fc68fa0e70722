//! What the log stores.

use bytes::Bytes;
use bytestring::ByteString;
use ids::{EventId, Timestamp};
use prost::Message;
pub use proto::log::v1::Metadata;

/// An event on its way into the log.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// A retry with the same id is answered as the first append was.
    pub id: EventId,
    /// `RunAssigned`
    pub event_type: ByteString,
    pub content: Content,
    pub data: Bytes,
    /// [`Metadata`] in protobuf where a service of the house wrote it; what other clients write is
    /// kept as it came.
    pub metadata: Bytes,
}

/// What the data of an event is, as far as the log cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    #[default]
    Binary,
    Json,
}

impl NewEvent {
    /// An event of the house.
    pub fn new(
        id: EventId,
        event_type: impl Into<ByteString>,
        data: impl Into<Bytes>,
        metadata: &Metadata,
    ) -> Self {
        Self {
            id,
            event_type: event_type.into(),
            content: Content::Binary,
            data: data.into(),
            metadata: metadata.encode_to_vec().into(),
        }
    }

    /// What it counts against [`Log::MAX_BATCH_BYTES`](crate::Log::MAX_BATCH_BYTES): data, metadata, and
    /// its type in UTF-16, as clusters of EventStoreDB count.
    #[must_use]
    pub fn size(&self) -> usize {
        self.data.len() + self.metadata.len() + 2 * self.event_type.len()
    }

    /// Nothing but defaults if somebody else wrote it.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        Metadata::decode(self.metadata.clone()).unwrap_or_default()
    }

    /// Version of the stored form, from 1; 0 if the writer did not say.
    #[must_use]
    pub fn version(&self) -> u32 {
        Version::decode(self.metadata.clone()).map_or(0, |only| only.version)
    }
}

/// The first field of [`Metadata`], read without making texts of the others.
#[derive(Clone, PartialEq, Message)]
struct Version {
    #[prost(uint32, tag = "1")]
    version: u32,
}

/// An event as it stands in the log. One that was read may be a part of what was read at once, up to 1 MiB,
/// which stays in memory as long as any text or data of it: who keeps something for long copies it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Place in the whole log: larger than that of every event before.
    pub position: u64,
    pub stream: ByteString,
    /// Place in its stream, from 0, without gaps.
    pub revision: u64,
    pub recorded_at: Timestamp,
    pub event: NewEvent,
}

/// What the writer of a stream believes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Any,
    /// The stream has no events yet.
    None,
    Exists,
    /// Its last event has this revision.
    Revision(u64),
}

impl Expected {
    /// Whether a stream whose last revision is `current` is as expected.
    #[must_use]
    pub fn is_met_by(self, current: Option<u64>) -> bool {
        match self {
            Self::Any => true,
            Self::None => current.is_none(),
            Self::Exists => current.is_some(),
            Self::Revision(revision) => current == Some(revision),
        }
    }
}
