//! What a run prints: as Gaia's JSON, as plain text, or live; and the lines of it that hold a text.

mod search;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use proto::{
    logs::v1::{ReadLogRequest, ReadLogResponse},
    scheduler::v1::{Attempt, GetRunRequest, Run},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use search::{MOST, Search};

use super::{Params, Query, is_on, keep_alive, run_json, runs, wants_events};
use crate::{
    error::ApiError,
    gate::{Gate, is_terminal},
    limits,
};

/// Events on their way to a reader; when it reads no further, neither does the gateway.
const WAITING_EVENTS: usize = 16;

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    raw: Option<String>,
    follow: Option<String>,
    search: Option<String>,
    /// 0 or absent: the newest.
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    offset: u64,
}

/// Gaia's answer, and which attempt it is of.
#[derive(Debug, Serialize)]
struct LogJson {
    log: String,
    finished: bool,
    attempt: u32,
    /// The log is longer; `?raw=1` gives all of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

pub(crate) async fn show(
    State(gate): State<Gate>,
    params: Params,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let run = gate.scheduler().get_run(runs::named(&params)?).await?.into_inner();
    let place = Place { attempt: wanted.attempt, offset: wanted.offset };
    if wants_events(&headers) || is_on(wanted.follow.as_deref()) {
        let place = headers
            .get("last-event-id")
            .map_or(Ok(place), |id| Place::parse(id.to_str().unwrap_or_default()))?;
        return Ok(Sse::new(follow(gate, run, place)).keep_alive(keep_alive()).into_response());
    }
    if let Some(text) = wanted.search {
        return Ok(Json(find(&gate, &run, wanted.attempt, &text).await?).into_response());
    }
    let pieces = read(&gate, &run, place).await?;
    if is_on(wanted.raw.as_deref()) {
        let headers = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        return Ok((headers, Body::from_stream(pieces.map_ok(|piece| piece.data))).into_response());
    }
    Ok(Json(whole(&gate, &run, pieces).await?).into_response())
}

/// The lines of the log as it is now that hold the text.
async fn find(gate: &Gate, run: &Run, attempt: u32, text: &str) -> Result<Value, ApiError> {
    limits::text("search", text, limits::NAME)?;
    if text.is_empty() || text.contains('\n') {
        return Err(ApiError::bad_request(
            "`search`: is looked for in each line: give a text without a line break",
        ));
    }
    let mut pieces = read(gate, run, Place { attempt, offset: 0 }).await?;
    let (mut search, mut attempt) = (Search::new(text), attempt);
    while let Some(piece) = pieces.try_next().await? {
        attempt = piece.attempt;
        search.push(&piece.data);
        if search.is_full() {
            break;
        }
    }
    search.finish();
    let truncated = search.is_full();
    search.matches.truncate(MOST);
    Ok(json!({ "attempt": attempt, "matches": search.matches, "truncated": truncated }))
}

/// The log as it is now; without pieces if there is none yet.
async fn read(
    gate: &Gate,
    run: &Run,
    place: Place,
) -> Result<impl Stream<Item = Result<ReadLogResponse, Status>> + Unpin + Send + use<>, ApiError> {
    let request = ReadLogRequest {
        run_id: run.run_id.clone(),
        attempt: place.attempt,
        offset: place.offset,
        follow: false,
    };
    let pieces = match gate.logs().read_log(request).await {
        Ok(pieces) => Some(pieces.into_inner()),
        Err(refusal) if refusal.code() == Code::NotFound => None,
        Err(fault) => return Err(fault.into()),
    };
    Ok(stream::iter(pieces).flatten())
}

async fn whole(
    gate: &Gate,
    run: &Run,
    mut pieces: impl Stream<Item = Result<ReadLogResponse, Status>> + Unpin,
) -> Result<LogJson, ApiError> {
    let most = gate.config().max_json_log_bytes;
    let (mut log, mut attempt, mut truncated) = (Vec::new(), 0, false);
    while let Some(piece) = pieces.try_next().await? {
        attempt = piece.attempt;
        let room = most - log.len();
        truncated = piece.data.len() > room;
        log.extend_from_slice(&piece.data[..piece.data.len().min(room)]);
        if truncated {
            break;
        }
    }
    let log = String::from_utf8_lossy(&log).into_owned();
    Ok(LogJson { log, finished: is_terminal(run), attempt, truncated })
}

/// A place in the logs of a run, and the id of an event: `<attempt>:<offset>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// 0: the newest attempt.
    attempt: u32,
    offset: u64,
}

impl Place {
    fn id(self) -> String {
        format!("{}:{}", self.attempt, self.offset)
    }

    /// Also a bare offset, in the newest attempt.
    fn parse(id: &str) -> Result<Self, ApiError> {
        let (attempt, offset) = id.split_once(':').unwrap_or(("0", id));
        match (attempt.parse(), offset.parse()) {
            (Ok(attempt), Ok(offset)) => Ok(Self { attempt, offset }),
            _ => Err(ApiError::bad_request(format!(
                "header `last-event-id`: `{}` is not a place in a log: send the id of the last event",
                limits::cut(id.to_owned(), 60)
            ))),
        }
    }
}

type Events = mpsc::Sender<Result<Event, axum::Error>>;

/// The reader is gone, or a service failed.
enum Stopped {
    ByReader,
    ByFault(Status),
}

impl From<Status> for Stopped {
    fn from(fault: Status) -> Self {
        Self::ByFault(fault)
    }
}

/// `attempt` when one begins, `log` with its text, and `end` when the run is over.
fn follow(gate: Gate, run: Run, place: Place) -> impl Stream<Item = Result<Event, axum::Error>> {
    let (events, receiver) = mpsc::channel(WAITING_EVENTS);
    tokio::spawn(async move {
        let mut follower = Follower { gate, run, place, told: 0, events: events.clone() };
        let outcome = tokio::select! {
            outcome = follower.run() => outcome,
            () = events.closed() => Err(Stopped::ByReader),
        };
        if let Err(Stopped::ByFault(fault)) = outcome {
            let message = json!({ "message": fault.message() });
            let event = Event::default().event("error").json_data(message);
            // The reader may be gone too.
            events.send(event).await.ok();
        }
    });
    ReceiverStream::new(receiver)
}

struct Follower {
    gate: Gate,
    run: Run,
    place: Place,
    /// The attempt that was announced last.
    told: u32,
    events: Events,
}

impl Follower {
    async fn run(&mut self) -> Result<(), Stopped> {
        let wanted = GetRunRequest { run_id: self.run.run_id.clone(), ..GetRunRequest::default() };
        let mut changes = self.gate.scheduler().watch_run(wanted.clone()).await?.into_inner();
        loop {
            if let Some(attempt) = self.next_attempt() {
                if self.place.offset == 0 && self.told != attempt.attempt {
                    self.tell_attempt(&attempt).await?;
                }
                self.told = attempt.attempt;
                self.copy().await?;
                // What happened while the log was copied.
                self.run = self.gate.scheduler().get_run(wanted.clone()).await?.into_inner();
            }
            let newest = self.run.attempts.last().map_or(0, |attempt| attempt.attempt);
            if newest > self.place.attempt {
                if self.place.attempt != 0 {
                    self.place = Place { attempt: self.place.attempt + 1, offset: 0 };
                }
            } else if is_terminal(&self.run) {
                return self.tell_end().await;
            } else {
                self.wait(&mut changes).await?;
            }
        }
    }

    /// The attempt to copy from, if it exists yet.
    fn next_attempt(&mut self) -> Option<Attempt> {
        if self.place.attempt == 0 {
            self.place.attempt = self.run.attempts.last()?.attempt;
        }
        let wanted = self.place.attempt;
        self.run.attempts.iter().find(|attempt| attempt.attempt == wanted).cloned()
    }

    /// Until the run has another attempt, or ended. A log that is complete before its attempt is over
    /// has nothing more to say.
    async fn wait(&mut self, changes: &mut Streaming<Run>) -> Result<(), Stopped> {
        loop {
            let run = changes.message().await?;
            let run = run.ok_or_else(|| Status::unavailable("the run is no longer watched"))?;
            let newest = run.attempts.last().map_or(0, |attempt| attempt.attempt);
            let over = is_terminal(&run);
            self.run = run;
            if over || newest > self.place.attempt {
                return Ok(());
            }
        }
    }

    /// The attempt's log from the present place to its end.
    async fn copy(&mut self) -> Result<(), Stopped> {
        let request = ReadLogRequest {
            run_id: self.run.run_id.clone(),
            attempt: self.place.attempt,
            offset: self.place.offset,
            follow: true,
        };
        let mut pieces = match self.gate.logs().read_log(request).await {
            Ok(pieces) => pieces.into_inner(),
            Err(refusal) if refusal.code() == Code::NotFound => return Ok(()),
            Err(fault) => return Err(fault.into()),
        };
        let mut text = Text::default();
        while let Some(piece) = pieces.message().await? {
            // A log that a Gaia agent replaces can only have grown.
            let known = self.place.offset + text.kept() - piece.offset.min(self.place.offset);
            let new = piece.data.slice(piece.data.len().min(known as usize)..);
            let whole = text.push(&new);
            self.tell_log(whole).await?;
        }
        let rest = text.finish();
        self.tell_log(rest).await
    }

    async fn tell_log(&mut self, (bytes, text): (u64, String)) -> Result<(), Stopped> {
        if bytes == 0 {
            return Ok(());
        }
        self.place.offset += bytes;
        // A JSON string, so that no byte of it is taken for the stream's own framing.
        self.tell(Event::default().event("log").id(self.place.id()).json_data(text)).await
    }

    async fn tell_attempt(&self, attempt: &Attempt) -> Result<(), Stopped> {
        let number = attempt.attempt.to_string();
        self.tell(Ok(Event::default().event("attempt").id(self.place.id()).data(number))).await
    }

    async fn tell_end(&self) -> Result<(), Stopped> {
        let data = json!({ "status": run_json::status(&self.run), "reason": self.run.reason });
        self.tell(Event::default().event("end").id(self.place.id()).json_data(data)).await
    }

    async fn tell(&self, event: Result<Event, axum::Error>) -> Result<(), Stopped> {
        self.events.send(event).await.map_err(|_| Stopped::ByReader)
    }
}

/// Cuts bytes into whole characters; what is no text is shown as the replacement character.
#[derive(Debug, Default)]
struct Text {
    /// Beginning of a character whose end has not arrived.
    open: Vec<u8>,
}

impl Text {
    fn kept(&self) -> u64 {
        self.open.len() as u64
    }

    /// How many bytes have become text, and the text.
    fn push(&mut self, data: &Bytes) -> (u64, String) {
        self.open.extend_from_slice(data);
        let whole = self.open.len() - unfinished(&self.open);
        let rest = self.open.split_off(whole);
        let text = std::mem::replace(&mut self.open, rest);
        (text.len() as u64, String::from_utf8_lossy(&text).into_owned())
    }

    fn finish(self) -> (u64, String) {
        (self.open.len() as u64, String::from_utf8_lossy(&self.open).into_owned())
    }
}

/// Bytes at the end that may be the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    let invalid = last.map(|chunk| chunk.invalid()).unwrap_or_default();
    // `invalid` at the end is a cut character exactly if more bytes could complete it.
    match std::str::from_utf8(invalid) {
        Err(error) if error.error_len().is_none() => invalid.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_reads_its_own_id() {
        let place = Place { attempt: 2, offset: 77 };
        assert_eq!(Place::parse(&place.id()).unwrap(), place);
        assert_eq!(Place::parse("77").unwrap(), Place { attempt: 0, offset: 77 });
        assert!(Place::parse("x").is_err());
    }

    #[test]
    fn a_cut_character_waits_for_its_rest() {
        let mut text = Text::default();
        let euro = Bytes::from_static("a€".as_bytes());
        assert_eq!(text.push(&euro.slice(..3)), (1, "a".to_owned()));
        assert_eq!(text.push(&euro.slice(3..)), (3, "€".to_owned()));
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hold_up_the_rest() {
        let mut text = Text::default();
        assert_eq!(text.push(&Bytes::from_static(b"a\xff")), (2, "a\u{fffd}".to_owned()));
    }

    proptest! {
        #[test]
        fn text_cut_anywhere_arrives_whole(log in "\\PC{0,40}", cuts: Vec<u8>) {
            let (mut text, mut seen, mut bytes) = (Text::default(), String::new(), 0);
            let mut rest = Bytes::from(log.clone());
            for cut in cuts {
                let (count, more) = text.push(&rest.split_to(rest.len().min(cut as usize % 8)));
                seen += &more;
                bytes += count;
            }
            let (count, more) = text.push(&rest);
            let (last, end) = text.finish();
            prop_assert_eq!(seen + &more + &end, log.clone());
            prop_assert_eq!(bytes + count + last, log.len() as u64);
        }
    }
}
