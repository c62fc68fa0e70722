//! Events between the house and the client.

use bytestring::ByteString;
use ids::{EventId, Timestamp};
use kurrentdb::{EventData, RecordedEvent};
use serde_json::value::RawValue;

use crate::{
    event::{Content, NewEvent, Recorded},
    log::LogError,
};

/// The client writes JSON itself, and only JSON, so what calls itself that must be so.
pub(super) fn to_event_data(event: &NewEvent) -> Result<EventData, LogError> {
    let data = match event.content {
        Content::Binary => EventData::binary(&event.event_type, event.data.clone()),
        Content::Json => {
            let raw = serde_json::from_slice::<&RawValue>(&event.data);
            raw.and_then(|raw| EventData::json(&event.event_type, &raw)).map_err(|error| {
                let (id, event_type) = (event.id, &event.event_type);
                LogError::Invalid(format!("event {id} ({event_type}) is to be JSON, but: {error}"))
            })?
        }
    };
    Ok(data.id(event.id.as_uuid()).metadata(event.metadata.clone()))
}

pub(super) fn to_recorded(mut event: RecordedEvent) -> Result<Recorded, LogError> {
    let position = event.position.commit;
    let stream = ByteString::try_from(event.stream_id().as_bytes()).map_err(|_| {
        LogError::Corrupt(format!("event {position}: its stream's name is not UTF-8"))
    })?;
    // 100 ns since the epoch.
    let created = event.metadata.get("created").and_then(|ticks| ticks.parse::<u64>().ok());
    Ok(Recorded {
        position,
        stream,
        revision: event.revision,
        recorded_at: Timestamp(created.unwrap_or(0) / 10_000),
        event: NewEvent {
            id: EventId::from_uuid(event.id),
            event_type: std::mem::take(&mut event.event_type).into(),
            content: if event.is_json { Content::Json } else { Content::Binary },
            data: event.data,
            metadata: event.custom_metadata,
        },
    })
}
