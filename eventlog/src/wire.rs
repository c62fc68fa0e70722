//! Events and errors as they travel between a log's server and its clients.

use ids::{EventId, Timestamp};
use proto::log::v1 as wire;
use tonic::Status;
use uuid::Uuid;

use crate::{
    event::{Content, Expected, NewEvent, Recorded},
    log::LogError,
};

/// Longest message: the largest batch, with its metadata and names.
pub(crate) const MESSAGE: usize = 8 << 20;

impl From<NewEvent> for wire::NewEvent {
    fn from(event: NewEvent) -> Self {
        Self {
            id: event.id.as_uuid().into_bytes().to_vec().into(),
            r#type: event.event_type.to_string(),
            json: event.content == Content::Json,
            data: event.data,
            metadata: event.metadata,
        }
    }
}

impl TryFrom<wire::NewEvent> for NewEvent {
    type Error = LogError;

    fn try_from(event: wire::NewEvent) -> Result<Self, LogError> {
        let id = Uuid::from_slice(&event.id).map_err(|_| {
            let length = event.id.len();
            LogError::Invalid(format!("an event's id has 16 bytes, this one {length}"))
        })?;
        Ok(Self {
            id: EventId::from_uuid(id),
            event_type: event.r#type.into(),
            content: if event.json { Content::Json } else { Content::Binary },
            data: event.data,
            metadata: event.metadata,
        })
    }
}

impl From<Recorded> for wire::RecordedEvent {
    fn from(recorded: Recorded) -> Self {
        Self {
            position: recorded.position,
            stream: recorded.stream.to_string(),
            revision: recorded.revision,
            recorded_at: recorded.recorded_at.as_millis(),
            event: Some(recorded.event.into()),
        }
    }
}

impl TryFrom<wire::RecordedEvent> for Recorded {
    type Error = LogError;

    fn try_from(recorded: wire::RecordedEvent) -> Result<Self, LogError> {
        let (position, event) = (recorded.position, recorded.event);
        let event = event.ok_or_else(|| LogError::Corrupt(format!("event {position} is empty")))?;
        Ok(Self {
            position,
            stream: recorded.stream.into(),
            revision: recorded.revision,
            recorded_at: Timestamp(recorded.recorded_at),
            event: event.try_into()?,
        })
    }
}

impl From<Expected> for wire::append_request::Expected {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Any => Self::Any(true),
            Expected::None => Self::None(true),
            Expected::Exists => Self::Exists(true),
            Expected::Revision(revision) => Self::Revision(revision),
        }
    }
}

impl From<wire::append_request::Expected> for Expected {
    fn from(expected: wire::append_request::Expected) -> Self {
        match expected {
            wire::append_request::Expected::Any(_) => Self::Any,
            wire::append_request::Expected::None(_) => Self::None,
            wire::append_request::Expected::Exists(_) => Self::Exists,
            wire::append_request::Expected::Revision(revision) => Self::Revision(revision),
        }
    }
}

impl From<LogError> for Status {
    fn from(error: LogError) -> Self {
        let message = error.to_string();
        match error {
            LogError::Invalid(_) => Self::invalid_argument(message),
            LogError::Deleted { .. } => Self::failed_precondition(message),
            LogError::Corrupt(_) => Self::data_loss(message),
            LogError::Stopped(_) | LogError::Unavailable(_) => Self::unavailable(message),
        }
    }
}
