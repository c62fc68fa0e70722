//! The stored form of the events.

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::{Digest, Timestamp};
use prost::Message;
use proto::artifacts::events::v1 as stored;

use crate::domain::Event;

/// Streams that this service alone writes.
pub(crate) const OWNS: &[&str] = &["artifact-"];

pub(crate) fn stream(event: &Event) -> String {
    let Event::ArtifactStored { digest, .. } = event;
    format!("artifact-{digest}")
}

pub(crate) fn encode(event: &Event) -> Encoded {
    let Event::ArtifactStored { digest, size, at } = event;
    let digest = digest.as_bytes().to_vec().into();
    let data = stored::ArtifactStored { digest, size: *size, at: at.0 }.encode_to_vec();
    Encoded { event_type: "ArtifactStored", version: 1, data }
}

/// What the state folds of an event of the log; `None`: nothing.
pub fn decode(recorded: &Recorded) -> Result<Option<Event>, DecodeError> {
    let is_own = OWNS.iter().any(|prefix| recorded.stream.starts_with(prefix));
    if !is_own || recorded.event.event_type != "ArtifactStored" {
        return Ok(None);
    }
    check_version(recorded)?;
    let stored = stored::ArtifactStored::decode(&recorded.event.data[..])
        .map_err(|error| DecodeError::new(recorded, error))?;
    let digest = Digest::try_from(&stored.digest[..]);
    Ok(Some(Event::ArtifactStored {
        digest: digest.map_err(|error| DecodeError::new(recorded, error))?,
        size: stored.size,
        at: Timestamp(stored.at),
    }))
}

#[cfg(test)]
mod tests;
