//! An event as a line of an export: whole, for an import; as people may see it; as a CloudEvent.

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, SecondsFormat};
use eventlog::{
    Content, NewEvent, Recorded,
    files::{Entry, Imported},
};
use ids::{Digest, EventId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Everything that is stored of an event: secrets in their sealed forms, hashes, lease tokens.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    position: u64,
    stream: String,
    revision: u64,
    /// Milliseconds since the epoch.
    recorded_at: u64,
    id: Uuid,
    #[serde(rename = "type")]
    event_type: String,
    json: bool,
    data_base64: String,
    metadata_base64: String,
    /// Events of the same append that follow.
    left: u16,
    /// Hash of what was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed: Option<String>,
}

pub(super) fn raw(entry: &Entry) -> Result<String> {
    let Recorded { position, stream, revision, recorded_at, event } = &entry.recorded;
    Ok(serde_json::to_string(&Raw {
        position: *position,
        stream: stream.to_string(),
        revision: *revision,
        recorded_at: recorded_at.as_millis(),
        id: event.id.as_uuid(),
        event_type: event.event_type.to_string(),
        json: event.content == Content::Json,
        data_base64: BASE64_STANDARD.encode(&event.data),
        metadata_base64: BASE64_STANDARD.encode(&event.metadata),
        left: entry.left,
        removed: entry.removed.map(|digest| digest.to_string()),
    })?)
}

/// What [`raw`] wrote.
pub(super) fn imported(line: &str) -> Result<Imported> {
    let value: Value = serde_json::from_str(line).context("it is not JSON")?;
    ensure!(
        value.get("data_base64").is_some() && value.get("left").is_some(),
        "it is not whole: only what `gaia log export --raw` writes can be imported"
    );
    let raw: Raw = serde_json::from_value(value).context("it is no event of an export")?;
    let bytes = |text: &str| BASE64_STANDARD.decode(text).context("it holds no base64");
    let removed: Option<Digest> = raw.removed.map(|digest| digest.parse()).transpose()?;
    let event = NewEvent {
        id: EventId::from_uuid(raw.id),
        event_type: raw.event_type.into(),
        content: if raw.json { Content::Json } else { Content::Binary },
        data: bytes(&raw.data_base64)?.into(),
        metadata: bytes(&raw.metadata_base64)?.into(),
    };
    let recorded = Recorded {
        position: raw.position,
        stream: raw.stream.into(),
        revision: raw.revision,
        recorded_at: Timestamp(raw.recorded_at),
        event,
    };
    Ok(Imported { recorded, removed, left: raw.left })
}

/// As people may see it.
pub(super) fn shown(recorded: &Recorded) -> Result<String> {
    let Recorded { position, stream, revision, event, .. } = recorded;
    let metadata = event.metadata();
    let mut line = object(json!({
        "position": position,
        "stream": &stream[..],
        "revision": revision,
        "recorded_at": rfc3339(recorded)?,
        "id": event.id.as_uuid(),
        "type": &event.event_type[..],
        "version": event.version(),
        "actor": metadata.actor,
        "address": metadata.address,
        "certificate": metadata.certificate,
        "causation": metadata.causation_id,
        "correlation": metadata.correlation_id,
    }));
    line.retain(|_, value| value.as_str() != Some(""));
    say(recorded, &mut line);
    Ok(Value::Object(line).to_string())
}

/// CloudEvents 1.0, structured.
pub(super) fn cloud_event(recorded: &Recorded) -> Result<String> {
    let Recorded { position, stream, revision, event, .. } = recorded;
    let metadata = event.metadata();
    // A CloudEvent's type is never empty; what was removed said its own no more.
    let event_type = if event.event_type.is_empty() { "removed" } else { &event.event_type };
    let mut line = object(json!({
        "specversion": "1.0",
        "id": event.id.as_uuid(),
        "source": "urn:gaia:log",
        "type": event_type,
        "subject": &stream[..],
        "time": rfc3339(recorded)?,
        // Extensions: names of lower-case letters, and texts, since their numbers end at 2^31.
        "sequence": format!("{position:020}"),
        "revision": revision.to_string(),
        "actor": metadata.actor,
        "address": metadata.address,
        "certificate": metadata.certificate,
        "causation": metadata.causation_id,
        "correlation": metadata.correlation_id,
        "traceparent": metadata.trace_parent,
    }));
    line.retain(|_, value| value.as_str() != Some(""));
    say(recorded, &mut line);
    if line.contains_key("data") {
        line.insert("datacontenttype".into(), "application/json".into());
    }
    Ok(Value::Object(line).to_string())
}

/// What the event says, without what is secret.
fn say(recorded: &Recorded, line: &mut Map<String, Value>) {
    // What was removed has no type any more.
    if recorded.event.event_type.is_empty() {
        line.insert("removed".into(), true.into());
        return;
    }
    let payload = schema::payload(recorded);
    if payload.redacted {
        line.insert("redacted".into(), true.into());
    }
    match payload.fields {
        Some(fields) => drop(line.insert("data".into(), fields)),
        None if payload.data.is_empty() => {}
        None => {
            let data = BASE64_STANDARD.encode(&payload.data);
            line.insert("data_base64".into(), data.into());
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn rfc3339(recorded: &Recorded) -> Result<String> {
    let time = i64::try_from(recorded.recorded_at.as_millis()).ok();
    let time = time.and_then(DateTime::from_timestamp_millis);
    let time = time.with_context(|| format!("event {} has no time", recorded.position))?;
    Ok(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
