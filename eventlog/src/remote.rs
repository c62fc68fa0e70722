//! A log that another process serves.
//!
//! All appends go through one call, so they keep their order without waiting for each other. When
//! it breaks, whatever has no answer yet is sent again in the same order by a new call; the ids of
//! events make that harmless. Reads and subscriptions that break go on after the last event seen.

use std::{collections::VecDeque, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use ids::EventId;
use proto::log::v1::{
    AppendRequest, AppendResponse, HeadRequest, ReadAllRequest, ReadStreamRequest, RecordedEvent,
    append_response, event_log_client::EventLogClient,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use transport::Channel;

use crate::{
    event::{Expected, NewEvent, Recorded},
    filter::{Direction, Filter},
    log::{AppendError, Appended, Engine, LogError},
    retention::StreamMetadata,
    wire,
};

/// How long an append or a read is tried before the caller hears that the log is away.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause after the first failure; each further one doubles it, up to the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Appends that are on their way in one call at most; further ones wait for answers.
const IN_FLIGHT: usize = 1_024;

type Client = EventLogClient<Channel>;

pub(crate) struct Remote {
    client: Client,
    appends: mpsc::UnboundedSender<Pending>,
}

impl Remote {
    /// Starts the task that sends appends, so it needs a runtime.
    pub(crate) fn new(channel: Channel) -> Self {
        let client = EventLogClient::new(channel)
            .max_decoding_message_size(wire::MESSAGE)
            .max_encoding_message_size(wire::MESSAGE);
        let (appends, inbox) = mpsc::unbounded_channel();
        let appender = Appender {
            client: client.clone(),
            inbox,
            pending: VecDeque::new(),
            trouble: Trouble::default(),
        };
        tokio::spawn(appender.run());
        Self { client, appends }
    }
}

impl Engine for Remote {
    fn append(
        &self,
        stream: String,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let (reply, answer) = oneshot::channel();
        let events = events.into_iter().map(Into::into).collect();
        let request = AppendRequest { stream, expected: Some(expected.into()), events };
        let pending = Pending { request, reply, until: Instant::now() + PATIENCE };
        // A task that is gone drops the request, and with it the reply.
        self.appends.send(pending).ok();
        let gone = || LogError::Stopped("the client's runtime has ended".into());
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(gone().into())) })
    }

    fn read_stream(
        &self,
        stream: String,
        from: Option<u64>,
        direction: Direction,
        limit: usize,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        if direction == Direction::Backward {
            return stream::once(async { Err(unsupported()) }).boxed();
        }
        let what = What::Stream { stream, next: from.unwrap_or(0), left: limit };
        Reading::new(self.client.clone(), what).run()
    }

    fn read_all(
        &self,
        from: Option<u64>,
        direction: Direction,
        filter: Filter,
        follow: bool,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        if direction == Direction::Backward || !filter.event_types.is_empty() {
            return stream::once(async { Err(unsupported()) }).boxed();
        }
        let end = if follow { End::Never } else { End::AsOfNow };
        let what = What::All { next: from.unwrap_or(0), prefixes: filter.streams, end };
        Reading::new(self.client.clone(), what).run()
    }

    fn stream_metadata(
        &self,
        _: String,
    ) -> BoxFuture<'static, Result<(StreamMetadata, Option<u64>), LogError>> {
        Box::pin(async { Err(unsupported()) })
    }

    fn set_stream_metadata(
        &self,
        _: String,
        _: Expected,
        _: StreamMetadata,
        _: EventId,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        Box::pin(async { Err(unsupported().into()) })
    }

    fn delete(&self, _: String, _: Expected) -> BoxFuture<'static, Result<(), AppendError>> {
        Box::pin(async { Err(unsupported().into()) })
    }

    fn tombstone(&self, _: String, _: Expected) -> BoxFuture<'static, Result<(), AppendError>> {
        Box::pin(async { Err(unsupported().into()) })
    }

    fn next_position(&self) -> BoxFuture<'static, Result<u64, LogError>> {
        let client = self.client.clone();
        async move {
            let mut trouble = Trouble::default();
            loop {
                match client.clone().head(HeadRequest {}).await {
                    Ok(head) => return Ok(head.into_inner().next_position),
                    Err(status) => trouble.wait(&status, Some(PATIENCE)).await?,
                }
            }
        }
        .boxed()
    }
}

fn unsupported() -> LogError {
    LogError::Invalid("this does not go over this protocol yet".into())
}

/// An append without an answer.
struct Pending {
    request: AppendRequest,
    reply: oneshot::Sender<Result<Appended, AppendError>>,
    until: Instant,
}

impl Pending {
    fn answer(self, answer: AppendResponse) {
        let answer = match answer.result {
            Some(append_response::Result::Appended(appended)) => {
                Ok(Appended { position: appended.position, revision: appended.revision })
            }
            Some(append_response::Result::Conflict(conflict)) => Err(AppendError::Conflict {
                stream: self.request.stream,
                expected: self.request.expected.map_or(Expected::Any, Into::into),
                current: conflict.revision,
            }),
            None => Err(LogError::Unavailable("its answer is empty".into()).into()),
        };
        // The caller may have gone away.
        self.reply.send(answer).ok();
    }
}

/// The task that sends appends.
struct Appender {
    client: Client,
    inbox: mpsc::UnboundedReceiver<Pending>,
    /// In order of the calls; the first ones may have been sent.
    pending: VecDeque<Pending>,
    trouble: Trouble,
}

impl Appender {
    async fn run(mut self) {
        loop {
            if self.pending.is_empty() {
                let Some(first) = self.inbox.recv().await else { return };
                self.pending.push_back(first);
            }
            let Err(status) = self.call().await else { return };
            // A call that breaks while nobody waits for an answer is no trouble.
            if !self.pending.is_empty() {
                self.get_over(&status).await;
            }
        }
    }

    /// After a call broke: gives up what there is no hope or no time for.
    async fn get_over(&mut self, status: &Status) {
        if matches!(
            status.code(),
            Code::InvalidArgument | Code::DataLoss | Code::FailedPrecondition
        ) {
            // The first one is to blame, since answers come in order; the rest is sent again.
            self.give_up(1, status);
        } else if self.trouble.wait(status, None).await.is_err() {
            self.give_up(self.pending.len(), status);
        } else {
            let now = Instant::now();
            let late = self.pending.iter().take_while(|pending| pending.until <= now).count();
            self.give_up(late, status);
        }
    }

    fn give_up(&mut self, count: usize, status: &Status) {
        for pending in self.pending.drain(..count) {
            // The caller may have gone away.
            pending.reply.send(Err(error_of(status).into())).ok();
        }
    }

    /// Sends what is pending and what comes, until the call breaks, or nobody can append any more.
    async fn call(&mut self) -> Result<(), Status> {
        let (requests, outgoing) = mpsc::channel(IN_FLIGHT);
        let mut answers = None;
        let mut opening = Box::pin({
            let mut client = self.client.clone();
            async move { client.append_all(ReceiverStream::new(outgoing)).await }
        });
        let (mut sent, mut open) = (0, true);
        while open || !self.pending.is_empty() {
            let until = self.pending.front().map_or_else(far_away, |first| first.until);
            tokio::select! {
                opened = &mut opening, if answers.is_none() => answers = Some(opened?.into_inner()),
                answer = next(&mut answers) => {
                    let answer = answer?.ok_or_else(|| Status::unavailable("the call ended"))?;
                    if sent == 0 {
                        return Err(Status::internal("the log answered what nobody asked"));
                    }
                    sent -= 1;
                    self.pending.pop_front().expect("it was sent").answer(answer);
                    self.trouble = Trouble::default();
                }
                Ok(permit) = requests.reserve(), if sent < self.pending.len() => {
                    permit.send(self.pending[sent].request.clone());
                    sent += 1;
                }
                new = self.inbox.recv(), if open && self.pending.len() < IN_FLIGHT => match new {
                    Some(new) => self.pending.push_back(new),
                    None => open = false,
                },
                () = sleep_until(until) => return Err(Status::deadline_exceeded("no answer in time")),
            }
        }
        Ok(())
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_hours(24)
}

async fn next(
    answers: &mut Option<Streaming<AppendResponse>>,
) -> Result<Option<AppendResponse>, Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => std::future::pending().await,
    }
}

/// Failures in a row.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    failures: u32,
}

impl Trouble {
    /// Waits before the next try, or says why there should be none.
    async fn wait(&mut self, status: &Status, patience: Option<Duration>) -> Result<(), LogError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if is_final(status) || patience.is_some_and(|patience| since.elapsed() > patience) {
            return Err(error_of(status));
        }
        if self.failures == 0 {
            tracing::warn!(%status, "the log is out of reach, trying again");
        }
        sleep((PAUSE * 2_u32.saturating_pow(self.failures.min(8))).min(LONGEST_PAUSE)).await;
        self.failures += 1;
        Ok(())
    }
}

/// Whether another try would be answered alike.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::DataLoss
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

fn error_of(status: &Status) -> LogError {
    let message = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition => LogError::Invalid(message),
        Code::DataLoss => LogError::Corrupt(message),
        code => LogError::Unavailable(format!("{message} ({code:?})")),
    }
}

/// What is still to be read.
enum What {
    Stream { stream: String, next: u64, left: usize },
    All { next: u64, prefixes: Vec<String>, end: End },
}

enum End {
    Never,
    /// To be asked for.
    AsOfNow,
    /// The first position that is not wanted.
    At(u64),
}

struct Reading {
    client: Client,
    what: What,
    events: Option<Streaming<RecordedEvent>>,
    trouble: Trouble,
}

impl Reading {
    fn new(client: Client, what: What) -> Self {
        Self { client, what, events: None, trouble: Trouble::default() }
    }

    fn run(self) -> BoxStream<'static, Result<Recorded, LogError>> {
        stream::try_unfold(self, |mut reading| async move {
            Ok(reading.next().await?.map(|event| (event, reading)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Recorded>, LogError> {
        let patience = if self.follows() { None } else { Some(PATIENCE) };
        while !self.is_done() {
            match self.message().await {
                Ok(Some(event)) => {
                    self.trouble = Trouble::default();
                    let event = event.try_into()?;
                    return Ok(self.take(event));
                }
                Ok(None) if self.follows() => {
                    self.events = None;
                    let ended = Status::unavailable("the call ended");
                    self.trouble.wait(&ended, patience).await?;
                }
                Ok(None) => return Ok(None),
                Err(status) => {
                    self.events = None;
                    self.trouble.wait(&status, patience).await?;
                }
            }
        }
        Ok(None)
    }

    fn follows(&self) -> bool {
        matches!(self.what, What::All { end: End::Never, .. })
    }

    fn is_done(&self) -> bool {
        match &self.what {
            What::Stream { left, .. } => *left == 0,
            What::All { next, end: End::At(end), .. } => next >= end,
            What::All { .. } => false,
        }
    }

    async fn message(&mut self) -> Result<Option<RecordedEvent>, Status> {
        if let What::All { end: end @ End::AsOfNow, .. } = &mut self.what {
            let head = self.client.head(HeadRequest {}).await?.into_inner();
            *end = End::At(head.next_position);
        }
        if self.is_done() {
            return Ok(None);
        }
        let events = match &mut self.events {
            Some(events) => events,
            events => events.insert(call(&mut self.client, &self.what).await?),
        };
        events.message().await
    }

    /// Notes that the event was seen; `None`: it lies beyond the end.
    fn take(&mut self, event: Recorded) -> Option<Recorded> {
        match &mut self.what {
            What::Stream { next, left, .. } => {
                *next = event.revision + 1;
                *left -= 1;
            }
            What::All { next, end, .. } => {
                *next = event.position + 1;
                if matches!(end, End::At(end) if event.position >= *end) {
                    return None;
                }
            }
        }
        Some(event)
    }
}

async fn call(client: &mut Client, what: &What) -> Result<Streaming<RecordedEvent>, Status> {
    let answer = match what {
        What::Stream { stream, next, left } => {
            let limit = *left as u64;
            let request = ReadStreamRequest { stream: stream.clone(), from_revision: *next, limit };
            client.read_stream(request).await?
        }
        What::All { next, prefixes, end } => {
            let request = ReadAllRequest {
                from_position: *next,
                stream_prefixes: prefixes.clone(),
                follow: matches!(end, End::Never),
                limit: 0,
            };
            client.read_all(request).await?
        }
    };
    Ok(answer.into_inner())
}
