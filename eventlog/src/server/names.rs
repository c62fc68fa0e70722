//! How names, ids, times and metadata travel.

use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use bytestring::ByteString;
use ids::{EventId, Timestamp};
use proto::event_store::client::{StreamIdentifier, Uuid as WireUuid, uuid as wire_uuid};
use tonic::Status;
use uuid::Uuid;

use crate::event::{Content, NewEvent};

pub(super) const TYPE: &str = "type";
pub(super) const CONTENT_TYPE: &str = "content-type";
pub(super) const CREATED: &str = "created";
pub(super) const JSON: &str = "application/json";
pub(super) const BINARY: &str = "application/octet-stream";

pub(super) fn stream_name(identifier: Option<StreamIdentifier>) -> Result<String, Status> {
    let name = identifier
        .ok_or_else(|| Status::invalid_argument("the request names no stream"))?
        .stream_name;
    String::from_utf8(name.into())
        .map_err(|_| Status::invalid_argument("the stream's name is not UTF-8"))
}

pub(super) fn identifier(stream: impl Into<Bytes>) -> StreamIdentifier {
    StreamIdentifier { stream_name: stream.into() }
}

pub(super) fn uuid(id: Option<&WireUuid>) -> Result<Uuid, Status> {
    match id.and_then(|id| id.value.as_ref()) {
        Some(wire_uuid::Value::Structured(halves)) => Ok(Uuid::from_u64_pair(
            halves.most_significant_bits.cast_unsigned(),
            halves.least_significant_bits.cast_unsigned(),
        )),
        Some(wire_uuid::Value::String(text)) => text
            .parse()
            .map_err(|_| Status::invalid_argument(format!("`{}` is no UUID", text.escape_debug()))),
        None => Err(Status::invalid_argument("an id is missing")),
    }
}

pub(super) fn structured(id: Uuid) -> WireUuid {
    let (most, least) = id.as_u64_pair();
    let value = wire_uuid::Structured {
        most_significant_bits: most.cast_signed(),
        least_significant_bits: least.cast_signed(),
    };
    WireUuid { value: Some(wire_uuid::Value::Structured(value)) }
}

pub(super) fn text(id: Uuid) -> WireUuid {
    WireUuid { value: Some(wire_uuid::Value::String(id.to_string())) }
}

/// 100 ns since the epoch.
pub(super) fn ticks(time: Timestamp) -> u64 {
    time.as_millis().saturating_mul(10_000)
}

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    (UNIX_EPOCH + Duration::from_millis(time.as_millis())).into()
}

/// An event as a client proposes it, in either kind of append.
pub(super) fn event(
    id: Option<&WireUuid>,
    mut metadata: HashMap<String, String>,
    custom: Bytes,
    data: Bytes,
) -> Result<NewEvent, Status> {
    let mut take = |name| metadata.remove(name).ok_or_else(|| super::refusal::lacks(name));
    let event_type = take(TYPE)?;
    let content = if take(CONTENT_TYPE)? == JSON { Content::Json } else { Content::Binary };
    Ok(NewEvent {
        id: EventId::from_uuid(uuid(id)?),
        event_type: ByteString::from(event_type),
        content,
        data,
        metadata: custom,
    })
}
