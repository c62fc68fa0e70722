//! The log as it is: every event, with who caused it, from where, and by which certificate.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use eventlog::{Filter, Log, LogError, Recorded, Subscription};
use futures::{StreamExt, TryStreamExt, future};
use ids::{EventId, Timestamp};
use serde::Deserialize;

use super::{
    Params, Query, event_json::EventJson, is_on, keep_alive, moment::Place, names::Names,
    wants_events,
};
use crate::{error::ApiError, gate::Gate, limits};

/// Events in one answer.
const USUAL: usize = 100;
const MOST: usize = 1_000;
/// Bytes of all names of a filter.
const NAMES: usize = 4 << 10;

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    /// The first and the last wanted: positions or times.
    from: Option<String>,
    to: Option<String>,
    /// As of this position or time: the same as `to`, newest first.
    at: Option<String>,
    /// `asc` or `desc`.
    order: Option<String>,
    limit: Option<usize>,
    /// Names, or beginnings of names that end with `*`; separated by commas.
    #[serde(default)]
    stream: String,
    #[serde(default)]
    r#type: String,
    follow: Option<String>,
}

/// What the query says, understood.
struct Range {
    from: u64,
    /// The first position behind it.
    end: u64,
    backward: bool,
    limit: usize,
    streams: Names,
    types: Names,
}

impl Range {
    async fn of(wanted: &Wanted, log: &Log) -> Result<Self, ApiError> {
        if wanted.at.is_some() && wanted.to.is_some() {
            return Err(ApiError::bad_request("`at` and `to` say the same: give one of them"));
        }
        let backward = match wanted.order.as_deref() {
            None => wanted.at.is_some(),
            Some("asc") => false,
            Some("desc") => true,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "`order`: `{}` is neither `asc` nor `desc`",
                    limits::cut(other.to_owned(), 60)
                )));
            }
        };
        limits::text("stream", &wanted.stream, NAMES)?;
        limits::text("type", &wanted.r#type, NAMES)?;
        let from = match place("from", wanted.from.as_deref())? {
            Some(place) => place.from(log).await.map_err(unreadable)?,
            None => 0,
        };
        let end = match place("to", wanted.to.as_deref().or(wanted.at.as_deref()))? {
            Some(place) => place.end(log).await.map_err(unreadable)?,
            None => u64::MAX,
        };
        Ok(Self {
            from,
            end,
            backward,
            limit: wanted.limit.unwrap_or(USUAL).min(MOST),
            streams: Names::parse(&wanted.stream),
            types: Names::parse(&wanted.r#type),
        })
    }

    fn filter(&self) -> Filter {
        Filter { streams: self.streams.prefixes(), event_types: self.types.prefixes() }
    }

    fn holds(&self, event: &Recorded) -> bool {
        (self.from..self.end).contains(&event.position)
            && self.streams.hold(&event.stream)
            && self.types.hold(&event.event.event_type)
    }

    /// The events from one end of the range on, with others among them.
    fn read(&self, log: &Log) -> Subscription {
        match (self.streams.only(), self.backward) {
            // One stream is found without walking the whole log.
            (Some(stream), false) => log.read_stream(stream, 0, usize::MAX),
            (Some(stream), true) => log.read_stream_backward(stream, None, usize::MAX),
            (None, false) => log.read_all(self.from, self.filter()),
            (None, true) => {
                let last = (self.end < u64::MAX).then(|| self.end.saturating_sub(1));
                log.read_all_backward(last, self.filter())
            }
        }
    }

    /// Whether nothing behind this event can be in the range.
    fn ends_before(&self, event: &Recorded) -> bool {
        if self.backward { event.position < self.from } else { event.position >= self.end }
    }
}

fn place(field: &str, text: Option<&str>) -> Result<Option<Place>, ApiError> {
    let place = text.map(str::parse).transpose();
    place.map_err(|error| ApiError::bad_request(format!("`{field}`: {error}")))
}

pub(crate) async fn list(
    State(gate): State<Gate>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let range = Range::of(&wanted, gate.log()).await?;
    if wants_events(&headers) || is_on(wanted.follow.as_deref()) {
        return follow(&gate, range, &headers);
    }
    let events: Vec<EventJson> = range
        .read(gate.log())
        .try_take_while(|event| future::ready(Ok(!range.ends_before(event))))
        .try_filter(|event| future::ready(range.holds(event)))
        .take(range.limit)
        .map_ok(|event| EventJson::from(&event))
        .try_collect()
        .await
        .map_err(unreadable)?;
    Ok(Json(events).into_response())
}

fn follow(gate: &Gate, range: Range, headers: &HeaderMap) -> Result<Response, ApiError> {
    let last = match headers.get("last-event-id") {
        None => None,
        Some(id) => Some(position(id.to_str().unwrap_or_default())?),
    };
    let from = last.map_or(range.from, |last| last.saturating_add(1));
    let range = Range { from, ..range };
    let events = gate.log().subscribe(from, range.filter());
    let events = events.try_filter(move |event| future::ready(range.holds(event)));
    let events = events.map(|recorded| match recorded {
        Ok(recorded) => {
            let id = recorded.position.to_string();
            Event::default().event("event").id(id).json_data(EventJson::from(&recorded))
        }
        Err(error) => {
            let error = limits::one_line(&error.to_string());
            Ok(Event::default().event("error").data(error))
        }
    });
    Ok(Sse::new(events).keep_alive(keep_alive()).into_response())
}

/// One event, by its position or its id.
pub(crate) async fn show(
    State(gate): State<Gate>,
    params: Params,
) -> Result<Json<EventJson>, ApiError> {
    let text = params.find("event").unwrap_or_default();
    let found = match (text.parse::<u64>(), text.parse::<EventId>()) {
        (Ok(position), _) => {
            let event = gate.log().read_all(position, &[]).try_next().await.map_err(unreadable)?;
            event.filter(|event| event.position == position)
        }
        (_, Ok(id)) => find(gate.log(), id).await.map_err(unreadable)?,
        _ => {
            return Err(ApiError::bad_request(format!(
                "`{}` is neither a position nor the id of an event: correct the path",
                limits::cut(text.to_owned(), 60)
            )));
        }
    };
    found.map(|event| Json(EventJson::from(&event))).ok_or_else(|| {
        let text = limits::cut(text.to_owned(), 60);
        ApiError::new(StatusCode::NOT_FOUND, format!("the log has no event `{text}`"))
    })
}

/// How much earlier than its id says an event may have been recorded, in milliseconds.
const EARLIER: u64 = 60_000;

/// The ids of the house tell when they were made, so the search begins there; ids of others are
/// looked for everywhere.
async fn find(log: &Log, id: EventId) -> Result<Option<Recorded>, LogError> {
    let start = match id.as_uuid().get_timestamp() {
        Some(made) => {
            let (seconds, nanos) = made.to_unix();
            let millis = seconds.saturating_mul(1_000).saturating_add(u64::from(nanos) / 1_000_000);
            log.position_after(Timestamp(millis.saturating_sub(EARLIER))).await?
        }
        None => 0,
    };
    let is_it = |event: &Recorded| future::ready(event.event.id == id);
    let mut later = log.read_all(start, &[]).try_filter(is_it);
    if let Some(found) = later.try_next().await? {
        return Ok(Some(found));
    }
    let earlier = log.read_all(0, &[]);
    let earlier = earlier.try_take_while(|event| future::ready(Ok(event.position < start)));
    Box::pin(earlier.try_filter(is_it)).try_next().await
}

fn position(id: &str) -> Result<u64, ApiError> {
    id.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "header `last-event-id`: `{}` is not a position: send the id of the last event",
            limits::cut(id.to_owned(), 60)
        ))
    })
}

pub(super) fn unreadable(error: LogError) -> ApiError {
    tonic::Status::unavailable(error.to_string()).into()
}
