//! Follows what a run prints, through its attempts, as server-sent events.

use axum::response::sse::Event;
use bytes::Bytes;
use futures::Stream;
use proto::{
    logs::v1::ReadLogRequest,
    scheduler::v1::{Attempt, GetRunRequest, Run},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::view::View;
use crate::{
    error::ApiError,
    gate::{Gate, is_terminal},
    limits,
    rest::run_json,
    watch::Watch,
};

/// Events on their way to a reader; when it reads no further, neither does the gateway.
const WAITING_EVENTS: usize = 16;

/// A place in the logs of a run, and the id of an event: `<attempt>:<offset>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// 0: the newest attempt.
    pub(super) attempt: u32,
    pub(super) offset: u64,
}

impl Place {
    fn id(self) -> String {
        format!("{}:{}", self.attempt, self.offset)
    }

    /// Also a bare offset, in the newest attempt.
    pub(super) fn parse(id: &str) -> Result<Self, ApiError> {
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
pub(super) fn follow(
    gate: Gate,
    run: Run,
    place: Place,
    view: Option<View>,
) -> impl Stream<Item = Result<Event, axum::Error>> {
    let (events, receiver) = mpsc::channel(WAITING_EVENTS);
    tokio::spawn(async move {
        let mut follower = Follower { gate, run, place, view, told: 0, events: events.clone() };
        let outcome = tokio::select! {
            outcome = follower.run() => outcome,
            () = events.closed() => Err(Stopped::ByReader),
        };
        if let Err(Stopped::ByFault(fault)) = outcome {
            let lasting = matches!(fault.code(), Code::DataLoss | Code::NotFound);
            let message = json!({ "message": fault.message(), "lasting": lasting });
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
    view: Option<View>,
    /// The attempt that was announced last.
    told: u32,
    events: Events,
}

impl Follower {
    async fn run(&mut self) -> Result<(), Stopped> {
        let wanted = GetRunRequest { run_id: self.run.run_id.clone(), ..GetRunRequest::default() };
        let mut changes = Watch::start(&self.gate, wanted.clone()).await?;
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
    async fn wait(&mut self, changes: &mut Watch) -> Result<(), Stopped> {
        loop {
            let run = changes.next().await?;
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
            // How the byte before it ends tells a view whether a line begins.
            offset: self.place.offset.saturating_sub(self.view.is_some().into()),
            follow: true,
            spans: self.view.is_some(),
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
            let known = piece.data.len().min(known as usize);
            let held = text.kept();
            let new = match &mut self.view {
                Some(view) => view.push(&piece, known).into(),
                None => piece.data.slice(known..),
            };
            let (_, whole) = text.push(&new);
            let passed = held + (piece.data.len() - known) as u64 - text.kept();
            self.tell_log(passed, whole).await?;
        }
        let (bytes, rest) = text.finish();
        self.tell_log(bytes, rest).await
    }

    /// The text of so many bytes of the log; with a view it may be shorter, or longer.
    async fn tell_log(&mut self, bytes: u64, text: String) -> Result<(), Stopped> {
        self.place.offset += bytes;
        if text.is_empty() {
            return Ok(());
        }
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
