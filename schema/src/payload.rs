//! An event's data as people may see it: its fields by name, and its bytes without what is secret.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use eventlog::{Content, Recorded};
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use crate::events;

/// What stands where something secret stood.
pub const REDACTED: &str = "[redacted]";

/// Streams of whose unknown events nothing is shown: they are where secrets are kept.
const KEEPERS: [&str; 6] =
    ["user-", "secret-", "registration", "environment-", "pipeline-", "jointoken-"];

/// An event's data as people may see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Payload {
    /// The fields by their names in the .proto file, or the JSON that another client stored. `None`:
    /// this program does not know the type.
    pub fields: Option<Json>,
    /// The stored bytes. Where something secret was blanked they can still be decoded: an id reads as
    /// the nil id, anything else as empty. Empty where nothing may be shown.
    pub data: Bytes,
    /// Something is not shown.
    pub redacted: bool,
}

/// What of the event may be seen.
#[must_use]
pub fn payload(recorded: &Recorded) -> Payload {
    let event = &recorded.event;
    let withheld = || Payload { fields: None, data: Bytes::new(), redacted: true };
    if event.content == Content::Json && !keeps_secrets(recorded) {
        let fields = serde_json::from_slice(&event.data).ok();
        return Payload { fields, data: event.data.clone(), redacted: false };
    }
    let Some(descriptor) = events::message(&event.event_type) else {
        if keeps_secrets(recorded) {
            return withheld();
        }
        return Payload { fields: None, data: event.data.clone(), redacted: false };
    };
    let is_secret = events::has_secrets(&descriptor);
    let newest = eventlog::owner::newest_version(&event.event_type).unwrap_or(0);
    let Ok(message) = DynamicMessage::decode(descriptor, event.data.clone()) else {
        if is_secret {
            return withheld();
        }
        return Payload { fields: None, data: event.data.clone(), redacted: false };
    };
    let fields = Some(Json::Object(object(&message)));
    if !is_secret {
        return Payload { fields, data: event.data.clone(), redacted: false };
    }
    // A newer version may have secrets where this program knows of none.
    let data = if event.version() > newest { Bytes::new() } else { blanked(message) };
    Payload { fields, data, redacted: true }
}

fn keeps_secrets(recorded: &Recorded) -> bool {
    KEEPERS.iter().any(|keeper| recorded.stream.starts_with(keeper))
}

fn object(message: &DynamicMessage) -> Map<String, Json> {
    let mut object = Map::new();
    for field in message.descriptor().fields() {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        let value = message.get_field(&field);
        let shown = if events::is_secret(&field) && !value.is_default_for_field(&field) {
            REDACTED.into()
        } else {
            json_of(&field, &value)
        };
        object.insert(field.name().to_owned(), shown);
    }
    object
}

fn json_of(field: &FieldDescriptor, value: &Value) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::I32(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(value) => value.as_str().into(),
        Value::Bytes(value) => bytes_of(value).into(),
        Value::EnumNumber(number) => enum_of(field, *number),
        Value::Message(message) => Json::Object(object(message)),
        Value::List(values) => values.iter().map(|value| json_of(field, value)).collect(),
        Value::Map(entries) => Json::Object(
            entries.iter().map(|(key, value)| (key_of(key), json_of(field, value))).collect(),
        ),
    }
}

/// Digests as people know them, anything else in Base64.
fn bytes_of(bytes: &[u8]) -> String {
    match ids::Digest::try_from(bytes) {
        Ok(digest) => digest.to_string(),
        Err(_) => BASE64_STANDARD.encode(bytes),
    }
}

fn enum_of(field: &FieldDescriptor, number: i32) -> Json {
    let name = match field.kind() {
        Kind::Enum(values) => values.get_value(number).map(|value| value.name().to_owned()),
        _ => None,
    };
    name.map_or(number.into(), Json::String)
}

fn key_of(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn blanked(mut message: DynamicMessage) -> Bytes {
    blank(&mut message);
    message.encode_to_vec().into()
}

fn blank(message: &mut DynamicMessage) {
    for (field, value) in message.fields_mut() {
        match value {
            Value::String(text) if events::is_secret(&field) => {
                let is_id = Uuid::try_parse(text).is_ok();
                *text = if is_id { Uuid::nil().to_string() } else { String::new() };
            }
            value if events::is_secret(&field) => *value = Value::default_value_for_field(&field),
            Value::Message(part) => blank(part),
            Value::List(values) => values.iter_mut().for_each(|value| {
                if let Value::Message(part) = value {
                    blank(part);
                }
            }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use eventlog::{Metadata, NewEvent};
    use ids::{EventId, Timestamp};
    use proto::{access, common::v1::Build, scheduler};

    use super::*;

    fn recorded(stream: &str, event_type: &str, version: u32, data: Vec<u8>) -> Recorded {
        let metadata = Metadata { version, ..Metadata::default() };
        Recorded {
            position: 3,
            stream: stream.into(),
            revision: 0,
            recorded_at: Timestamp(0),
            event: NewEvent::new(EventId::from_uuid(Uuid::nil()), event_type, data, &metadata),
        }
    }

    #[test]
    fn fields_are_shown_by_name_with_digests_and_states_as_people_know_them() {
        let finished = scheduler::events::v1::RunFinished {
            run_id: "r".into(),
            state: scheduler::v1::RunState::Failed.into(),
            build: Some(Build { digest: vec![9; 32].into(), ..Build::default() }),
            at: u64::MAX,
            ..Default::default()
        };
        let shown = payload(&recorded("run-1", "RunFinished", 1, finished.encode_to_vec()));
        let fields = shown.fields.unwrap();
        assert_eq!(
            (&fields["run_id"], &fields["state"], &fields["at"], &fields["stopped_early"]),
            (&json!("r"), &json!("RUN_STATE_FAILED"), &json!(u64::MAX), &json!(false))
        );
        assert_eq!(fields["build"]["digest"], "09".repeat(32));
        assert_eq!((shown.data, shown.redacted), (finished.encode_to_vec().into(), false));
    }

    #[test]
    fn a_lease_token_is_blanked_so_that_the_event_can_still_be_folded() {
        let token = "0d9ec94c-7a0e-4c4f-9f3c-5b4b7b6d2f10";
        let assigned = scheduler::events::v1::RunAssigned {
            run_id: "r".into(),
            lease_token: token.into(),
            ..Default::default()
        };
        let shown = payload(&recorded("run-1", "RunAssigned", 1, assigned.encode_to_vec()));
        assert_eq!(shown.fields.unwrap()["lease_token"], REDACTED);
        let read = scheduler::events::v1::RunAssigned::decode(shown.data).unwrap();
        assert_eq!((read.run_id, read.lease_token), ("r".into(), Uuid::nil().to_string()));
        assert!(shown.redacted);
    }

    #[test]
    fn sealed_values_and_hashes_are_never_shown() {
        let put =
            access::events::v1::SecretPut { key: "k".into(), sealed: vec![1, 2, 3].into(), at: 5 };
        let shown = payload(&recorded("secret-k", "SecretPut", 1, put.encode_to_vec()));
        assert_eq!(shown.fields.unwrap(), json!({ "key": "k", "sealed": REDACTED, "at": 5 }));
        assert_eq!(access::events::v1::SecretPut::decode(shown.data).unwrap().sealed, vec![]);
        let newer = payload(&recorded("secret-k", "SecretPut", 9, put.encode_to_vec()));
        assert_eq!((newer.data, newer.redacted), (Bytes::new(), true));
        let damaged = payload(&recorded("secret-k", "SecretPut", 1, vec![0xff]));
        assert_eq!((damaged.fields, damaged.data, damaged.redacted), (None, Bytes::new(), true));
    }

    #[test]
    fn what_is_unknown_is_shown_as_it_is_except_where_secrets_are_kept() {
        let unknown = payload(&recorded("weather-1", "RainFell", 1, vec![7]));
        assert_eq!((unknown.fields, &unknown.data[..]), (None, &[7][..]));
        let kept = payload(&recorded("secret-k", "SecretTurned", 1, vec![7]));
        assert_eq!((kept.data, kept.redacted), (Bytes::new(), true));
        let mut other = recorded("weather-1", "RainFell", 1, br#"{"mm":3}"#.to_vec());
        other.event.content = Content::Json;
        assert_eq!(payload(&other).fields, Some(json!({ "mm": 3 })));
    }
}
