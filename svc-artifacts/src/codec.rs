//! The stored form of the events.

use eventlog::{DecodeError, Recorded, owner::Encoded};
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
    let stored = stored::ArtifactStored::decode(recorded.event.data.clone())
        .map_err(|error| DecodeError::new(recorded, error))?;
    let digest = Digest::try_from(&stored.digest[..]);
    Ok(Some(Event::ArtifactStored {
        digest: digest.map_err(|error| DecodeError::new(recorded, error))?,
        size: stored.size,
        at: Timestamp(stored.at),
    }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use eventlog::{Metadata, NewEvent};
    use ids::EventId;
    use uuid::Uuid;

    use super::*;

    fn recorded(stream: &str, event_type: &str, data: Vec<u8>) -> Recorded {
        Recorded {
            position: 0,
            stream: stream.into(),
            revision: 0,
            recorded_at: Timestamp(0),
            event: NewEvent::new(
                EventId::from_uuid(Uuid::nil()),
                event_type,
                data,
                &Metadata::default(),
            ),
        }
    }

    /// What was written once is read for ever.
    #[test]
    fn events_are_stored_as_they_always_were() {
        let digest = Digest::from_bytes([9; 32]);
        let event = Event::ArtifactStored { digest, size: 300, at: Timestamp(1_000) };
        let encoded = encode(&event);
        let hex = format!("{:x}", Bytes::from(encoded.data.clone()));
        assert_eq!(
            (encoded.version, hex.as_str()),
            (1, "0a20090909090909090909090909090909090909090909090909090909090909090910ac0218e807")
        );
        assert_eq!(stream(&event), format!("artifact-{}", "09".repeat(32)));
        let back = decode(&recorded(&stream(&event), encoded.event_type, encoded.data)).unwrap();
        assert_eq!(back, Some(event));
    }

    #[test]
    fn an_unknown_event_is_skipped_and_a_broken_one_is_not() {
        assert_eq!(decode(&recorded("artifact-1", "ArtifactSeen", vec![1])).unwrap(), None);
        assert_eq!(decode(&recorded("run-1", "ArtifactStored", vec![1])).unwrap(), None);
        for broken in [vec![0xff], vec![]] {
            assert!(decode(&recorded("artifact-1", "ArtifactStored", broken)).is_err());
        }
    }
}
