//! The log as it is: every event, with who caused it, from where, and by which certificate.

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use eventlog::{LogError, Recorded};
use futures::{StreamExt, TryStreamExt, future};
use serde::{Deserialize, Serialize};

use super::{Query, User, is_on, keep_alive, wants_events};
use crate::{error::ApiError, gate::Gate, limits};

/// Events in one answer.
const USUAL: usize = 100;
const MOST: usize = 1_000;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// The first position wanted.
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
    /// The name of one stream, or a beginning of names that ends with `*`.
    #[serde(default)]
    stream: String,
    follow: Option<String>,
}

#[derive(Debug, Serialize)]
struct EventJson {
    position: u64,
    stream: String,
    revision: u64,
    /// Milliseconds since the epoch.
    recorded_at: u64,
    r#type: String,
    version: u32,
    actor: String,
    address: String,
    certificate: String,
    id: String,
    /// Base64 of the stored bytes; empty where they are withheld.
    data: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    withheld: bool,
}

impl From<Recorded> for EventJson {
    fn from(recorded: Recorded) -> Self {
        // Hashes of passwords and sealed secrets are for nobody's eyes.
        let withheld = ["user-", "secret-", "registration"]
            .iter()
            .any(|kind| recorded.stream.starts_with(kind));
        let event = recorded.event;
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
            id: event.id.to_string(),
            data: if withheld { String::new() } else { BASE64_STANDARD.encode(event.data) },
            withheld,
        }
    }
}

pub(super) async fn list(
    State(gate): State<Gate>,
    _: User,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    limits::text("stream", &wanted.stream, eventlog::Log::MAX_STREAM_NAME)?;
    if wants_events(&headers) || is_on(wanted.follow.as_deref()) {
        return follow(&gate, wanted, &headers);
    }
    let limit = wanted.limit.unwrap_or(USUAL).min(MOST);
    let (prefix, exact) = prefix(&wanted.stream);
    let prefixes: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let events = match exact {
        // One stream is found without walking the whole log.
        Some(stream) => gate.log().read_stream(stream, 0, usize::MAX),
        None => gate.log().read_all(wanted.from, &prefixes),
    };
    let events = events.try_filter(|event| future::ready(event.position >= wanted.from));
    let events: Vec<EventJson> =
        events.take(limit).map_ok(EventJson::from).try_collect().await.map_err(unreadable)?;
    Ok(Json(events).into_response())
}

fn follow(gate: &Gate, wanted: Wanted, headers: &HeaderMap) -> Result<Response, ApiError> {
    let last = match headers.get("last-event-id") {
        None => None,
        Some(id) => Some(position(id.to_str().unwrap_or_default())?),
    };
    let from = last.map_or(wanted.from, |last| last.saturating_add(1));
    let (prefix, exact) = prefix(&wanted.stream);
    let prefixes: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let events = gate.log().subscribe(from, &prefixes);
    let events = events.try_filter(move |event| future::ready(is_wanted(event, exact.as_deref())));
    let events = events.map(|recorded| match recorded {
        Ok(recorded) => {
            let id = recorded.position.to_string();
            Event::default().event("event").id(id).json_data(EventJson::from(recorded))
        }
        Err(error) => {
            let error = limits::one_line(&error.to_string());
            Ok(Event::default().event("error").data(error))
        }
    });
    Ok(Sse::new(events).keep_alive(keep_alive()).into_response())
}

fn position(id: &str) -> Result<u64, ApiError> {
    id.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "header `last-event-id`: `{}` is not a position: send the id of the last event",
            limits::cut(id.to_owned(), 60)
        ))
    })
}

/// Names to read by their beginning, and the only name wanted, if it is one.
fn prefix(stream: &str) -> (Option<String>, Option<String>) {
    match stream.strip_suffix('*') {
        _ if stream.is_empty() => (None, None),
        Some(prefix) => (Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty()), None),
        None => (Some(stream.to_owned()), Some(stream.to_owned())),
    }
}

fn is_wanted(event: &Recorded, exact: Option<&str>) -> bool {
    exact.is_none_or(|exact| event.stream == exact)
}

fn unreadable(error: LogError) -> ApiError {
    tonic::Status::unavailable(error.to_string()).into()
}
