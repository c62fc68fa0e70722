//! What the log stores.

use bytes::Bytes;
use ids::{EventId, Timestamp};
pub use proto::log::v1::Metadata;

/// An event on its way into the log.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// A retry with the same id is answered as the first append was.
    pub id: EventId,
    /// `RunAssigned`
    pub event_type: String,
    pub data: Bytes,
    pub metadata: Metadata,
}

/// An event as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Place in the whole log, from 0, without gaps.
    pub position: u64,
    pub stream: String,
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
