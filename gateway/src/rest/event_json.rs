//! An event as the REST API shows it: who, when, from where, under which certificate, and what.

use base64::{Engine, prelude::BASE64_STANDARD};
use eventlog::Recorded;
use serde::Serialize;
use serde_json::Value;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct EventJson {
    pub(super) position: u64,
    pub(super) stream: String,
    revision: u64,
    /// Milliseconds since the epoch.
    recorded_at: u64,
    r#type: String,
    version: u32,
    actor: String,
    address: String,
    certificate: String,
    /// Id of the event that led to this one; empty: a command from outside.
    #[serde(skip_serializing_if = "String::is_empty")]
    causation: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    correlation: String,
    id: String,
    /// The fields by name; absent: a type that this program does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload: Option<Value>,
    /// Base64 of the stored bytes, with everything secret blanked; empty where nothing may be shown.
    data: String,
    /// Something secret is not shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redacted: bool,
}

impl From<&Recorded> for EventJson {
    fn from(recorded: &Recorded) -> Self {
        let schema::Payload { fields, data, redacted } = schema::payload(recorded);
        let event = &recorded.event;
        let metadata = event.metadata();
        Self {
            position: recorded.position,
            stream: recorded.stream.to_string(),
            revision: recorded.revision,
            recorded_at: recorded.recorded_at.as_millis(),
            r#type: event.event_type.to_string(),
            version: metadata.version,
            actor: metadata.actor,
            address: metadata.address,
            certificate: metadata.certificate,
            causation: metadata.causation_id,
            correlation: metadata.correlation_id,
            id: event.id.to_string(),
            payload: fields,
            data: BASE64_STANDARD.encode(data),
            redacted,
        }
    }
}

impl EventJson {
    /// The words that whoever caused the event gave for it; empty: none.
    pub(super) fn why(&self) -> &str {
        let said =
            |field| self.payload.as_ref()?.get(field)?.as_str().filter(|text| !text.is_empty());
        ["reason", "note", "start_reason", "message"].into_iter().find_map(said).unwrap_or_default()
    }
}
