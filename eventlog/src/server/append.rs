//! Append, delete, tombstone.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{
    FutureExt, Stream, StreamExt, TryStreamExt,
    future::{self, BoxFuture},
    stream,
};
use prost::Message;
use proto::event_store::client::{
    AllStreamPosition, Empty,
    streams::{
        AppendReq, AppendResp, BatchAppendReq, BatchAppendResp,
        append_req::{self, options::ExpectedStreamRevision},
        append_resp::{
            self, Position, Success, WrongExpectedVersion,
            success::{CurrentRevisionOption, PositionOption},
            wrong_expected_version as wrong,
        },
        batch_append_req::{
            self,
            options::{DeadlineOption, ExpectedStreamPosition},
        },
        batch_append_resp as batch, delete_req, tombstone_req,
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{access::Caller, names, refusal::Refusal};
use crate::{
    Filter,
    event::{Expected, NewEvent},
    log::{AppendError, Appended, Log, LogError},
    retention::{METADATA_TYPE, StreamMetadata, metadata_stream, subject},
};

/// Appends of one session that wait for the disk at most.
const IN_FLIGHT: usize = 1_024;
/// Appends of one session that have begun and have not come to their end.
const UNFINISHED: usize = 16;
/// Deadlines beyond this are none: one client sends the time since the epoch.
const LONGEST_DEADLINE: Duration = Duration::from_hours(1);

/// KiB of appends that are held, of all calls together, each kind for itself: a session waits when there
/// are too many, a single call is refused, since it would hold what it has while it waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    sessions: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

const SESSIONS: usize = 64 << 10;
const CALLS: usize = 256 << 10;

impl Default for Waiting {
    fn default() -> Self {
        Self {
            sessions: Arc::new(Semaphore::new(SESSIONS)),
            calls: Arc::new(Semaphore::new(CALLS)),
        }
    }
}

fn kib(bytes: usize, most: usize) -> u32 {
    bytes.div_ceil(1_024).min(most) as u32
}

/// An append on its way in.
#[derive(Debug)]
struct Batch {
    stream: String,
    expected: Expected,
    events: Vec<NewEvent>,
    bytes: usize,
}

impl Batch {
    fn new(stream: String, expected: Expected) -> Self {
        Self { stream, expected, events: Vec::new(), bytes: 0 }
    }

    fn push(&mut self, event: NewEvent) -> Result<(), Refusal> {
        self.bytes += event.size();
        if self.bytes > Log::MAX_BATCH_BYTES {
            return Err(Refusal::TooLarge);
        }
        if self.events.len() == Log::MAX_BATCH_EVENTS {
            let most = Log::MAX_BATCH_EVENTS;
            let why = format!("an append has at most {most} events; send more in further appends");
            return Err(Status::invalid_argument(why).into());
        }
        self.events.push(event);
        Ok(())
    }
}

impl super::Served {
    pub(super) async fn append_one(
        &self,
        caller: Caller,
        mut requests: Streaming<AppendReq>,
    ) -> Result<AppendResp, Status> {
        let Some(AppendReq { content: Some(append_req::Content::Options(options)) }) =
            requests.message().await?
        else {
            return Err(Status::invalid_argument("an append begins with its options"));
        };
        let stream = names::stream_name(options.stream_identifier)?;
        caller.may_write(&stream)?;
        let expected = match options.expected_stream_revision {
            Some(ExpectedStreamRevision::Revision(revision)) => Expected::Revision(revision),
            Some(ExpectedStreamRevision::NoStream(Empty {})) => Expected::None,
            Some(ExpectedStreamRevision::Any(Empty {})) => Expected::Any,
            Some(ExpectedStreamRevision::StreamExists(Empty {})) => Expected::Exists,
            None => return Err(expects_nothing()),
        };
        let mut batch = Batch::new(stream, expected);
        let mut held = Vec::new();
        while let Some(request) = requests.message().await? {
            let kib = kib(request.encoded_len(), CALLS);
            let permit = Arc::clone(&self.waiting.calls).try_acquire_many_owned(kib);
            held.push(permit.map_err(|_| {
                Status::resource_exhausted("too many appends are on their way; try again")
            })?);
            let Some(append_req::Content::ProposedMessage(message)) = request.content else {
                return Err(Status::invalid_argument("after an append's options come its events"));
            };
            let append_req::ProposedMessage { id, metadata, custom_metadata, data } = message;
            let event = names::event(id.as_ref(), metadata, custom_metadata, data)?;
            batch.push(event).map_err(|refusal| refusal.status("Append"))?;
        }
        let result = match holding(held, write(&self.log, batch)).await {
            Ok(appended) => append_resp::Result::Success(success(appended)),
            Err(AppendError::Conflict { expected, current, .. }) => {
                let wrong = wrong_version(expected, current);
                append_resp::Result::WrongExpectedVersion(wrong)
            }
            Err(error) => return Err(Refusal::from(error).status("Append")),
        };
        Ok(AppendResp { result: Some(result) })
    }

    /// Where the delete stands in the log.
    pub(super) async fn delete_stream(
        &self,
        caller: Caller,
        options: Option<delete_req::Options>,
    ) -> Result<u64, Status> {
        use delete_req::options::ExpectedStreamRevision as Wanted;
        let options = options.ok_or_else(|| Status::invalid_argument("the options are missing"))?;
        let stream = names::stream_name(options.stream_identifier)?;
        caller.may_write(&stream)?;
        let expected = match options.expected_stream_revision {
            Some(Wanted::Revision(revision)) => Expected::Revision(revision),
            Some(Wanted::NoStream(Empty {})) => Expected::None,
            Some(Wanted::StreamExists(Empty {})) => Expected::Exists,
            Some(Wanted::Any(Empty {})) => Expected::Any,
            None => return Err(expects_nothing()),
        };
        let deleted = self.log.delete(stream.as_str(), expected).await;
        deleted.map_err(|error| Refusal::from(error).status("Delete"))?;
        self.last_position(&metadata_stream(&stream)).await
    }

    /// Where the tombstone stands in the log.
    pub(super) async fn tombstone_stream(
        &self,
        caller: Caller,
        options: Option<tombstone_req::Options>,
    ) -> Result<u64, Status> {
        use tombstone_req::options::ExpectedStreamRevision as Wanted;
        let options = options.ok_or_else(|| Status::invalid_argument("the options are missing"))?;
        let stream = names::stream_name(options.stream_identifier)?;
        caller.may_write(&stream)?;
        let expected = match options.expected_stream_revision {
            Some(Wanted::Revision(revision)) => Expected::Revision(revision),
            Some(Wanted::NoStream(Empty {})) => Expected::None,
            Some(Wanted::StreamExists(Empty {})) => Expected::Exists,
            Some(Wanted::Any(Empty {})) => Expected::Any,
            None => return Err(expects_nothing()),
        };
        let deleted = self.log.tombstone(stream.as_str(), expected).await;
        deleted.map_err(|error| Refusal::from(error).status("Delete"))?;
        self.last_position(&stream).await
    }

    /// Of the event just written, so it is near the end.
    async fn last_position(&self, stream: &str) -> Result<u64, Status> {
        let mut events = self.log.read_all_backward(None, Filter::streams(&[stream]));
        while let Some(event) = events.try_next().await? {
            if event.stream == stream {
                return Ok(event.position);
            }
        }
        Err(Status::data_loss(format!("`{stream}` was changed, but shows no change")))
    }

    /// The answers of a session, in order of its requests.
    pub(super) fn append_many(
        &self,
        caller: Caller,
        requests: Streaming<BatchAppendReq>,
    ) -> impl Stream<Item = Result<BatchAppendResp, Status>> + Send + use<> {
        let session = Session {
            log: self.log.clone(),
            caller,
            requests: Some(requests),
            unfinished: HashMap::new(),
            waiting: Arc::clone(&self.waiting.sessions),
            stop: self.stop.clone(),
        };
        let answers = stream::unfold(session, |mut session| async move {
            let answer = session.next().await?;
            Some((answer, session))
        });
        answers.buffered(IN_FLIGHT)
    }
}

/// Takes its place in the order of appends when called. Clients set a stream's metadata by an append to
/// the stream that holds them.
fn write(
    log: &Log,
    Batch { stream, expected, mut events, .. }: Batch,
) -> BoxFuture<'static, Result<Appended, AppendError>> {
    let Some(subject) = subject(&stream).map(str::to_owned) else {
        return log.append(stream, expected, events);
    };
    let only = events.pop().filter(|event| events.is_empty() && event.event_type == METADATA_TYPE);
    let log = log.clone();
    async move {
        let event = only.ok_or_else(|| {
            LogError::Invalid(format!(
                "`{stream}` holds the metadata of `{subject}`: append one event of type {METADATA_TYPE}"
            ))
        })?;
        let metadata = StreamMetadata::from_json(&event.data)?;
        let set = log.set_stream_metadata(subject, expected, metadata, event.id).await;
        set.map_err(|error| match error {
            AppendError::Conflict { expected, current, .. } => {
                AppendError::Conflict { stream, expected, current }
            }
            error => error,
        })
    }
    .boxed()
}

/// What an append holds, it holds until it is written: whether or not its caller still waits, and whether
/// or not anybody reads the answers before it.
fn holding(
    held: Vec<OwnedSemaphorePermit>,
    append: BoxFuture<'static, Result<Appended, AppendError>>,
) -> BoxFuture<'static, Result<Appended, AppendError>> {
    let append = tokio::spawn(async move {
        let appended = append.await;
        drop(held);
        appended
    });
    let ended = |error| LogError::Stopped(format!("an append did not finish: {error}")).into();
    append.map(move |appended| appended.unwrap_or_else(|error| Err(ended(error)))).boxed()
}

fn success(Appended { position, revision }: Appended) -> Success {
    let position = Position { commit_position: position, prepare_position: position };
    Success {
        current_revision_option: Some(CurrentRevisionOption::CurrentRevision(revision)),
        position_option: Some(PositionOption::Position(position)),
    }
}

fn wrong_version(expected: Expected, current: Option<u64>) -> WrongExpectedVersion {
    use wrong::{
        CurrentRevisionOption as Current, CurrentRevisionOption2060 as OldCurrent,
        ExpectedRevisionOption as Wanted, ExpectedRevisionOption2060 as OldWanted,
    };
    let (current, old_current) = match current {
        Some(revision) => {
            (Current::CurrentRevision(revision), OldCurrent::CurrentRevision2060(revision))
        }
        None => (Current::CurrentNoStream(Empty {}), OldCurrent::NoStream2060(Empty {})),
    };
    let (wanted, old_wanted) = match expected {
        Expected::Any => (Wanted::ExpectedAny(Empty {}), OldWanted::Any2060(Empty {})),
        Expected::Exists => {
            (Wanted::ExpectedStreamExists(Empty {}), OldWanted::StreamExists2060(Empty {}))
        }
        Expected::None => {
            (Wanted::ExpectedNoStream(Empty {}), OldWanted::ExpectedRevision2060(u64::MAX))
        }
        Expected::Revision(revision) => {
            (Wanted::ExpectedRevision(revision), OldWanted::ExpectedRevision2060(revision))
        }
    };
    WrongExpectedVersion {
        current_revision_option: Some(current),
        current_revision_option_20_6_0: Some(old_current),
        expected_revision_option: Some(wanted),
        expected_revision_option_20_6_0: Some(old_wanted),
    }
}

/// A batch session: requests in, answers out.
struct Session {
    log: Log,
    caller: Caller,
    /// `None`: they have ended.
    requests: Option<Streaming<BatchAppendReq>>,
    unfinished: HashMap<Uuid, Unfinished>,
    waiting: Arc<Semaphore>,
    stop: CancellationToken,
}

/// An append that comes in parts.
struct Unfinished {
    batch: Batch,
    deadline: Option<Duration>,
}

type Answer = BoxFuture<'static, Result<BatchAppendResp, Status>>;

impl Session {
    /// Once this is ready, the append has its place; what it gives then waits for the answer. An end of
    /// the session comes behind all answers.
    async fn next(&mut self) -> Option<Answer> {
        loop {
            let requests = self.requests.as_mut()?;
            let message = tokio::select! {
                message = requests.message() => message,
                () = self.stop.cancelled() => Err(stopping()),
            };
            match message {
                Ok(Some(request)) => {
                    if let Some(answer) = self.take(request).await {
                        return Some(answer);
                    }
                }
                Ok(None) => self.requests = None,
                Err(status) => {
                    self.requests = None;
                    return Some(future::ready(Err(status)).boxed());
                }
            }
        }
    }

    async fn take(&mut self, request: BatchAppendReq) -> Option<Answer> {
        let correlation_id = match names::uuid(request.correlation_id.as_ref()) {
            Ok(id) => id,
            Err(status) => return Some(future::ready(Err(status)).boxed()),
        };
        let name = request.options.as_ref().and_then(|options| options.stream_identifier.clone());
        let stream_identifier = name.or_else(|| {
            let known = self.unfinished.get(&correlation_id)?;
            Some(names::identifier(known.batch.stream.clone().into_bytes()))
        });
        let answer = BatchAppendResp {
            correlation_id: request.correlation_id.clone(),
            stream_identifier: stream_identifier.or_else(|| Some(names::identifier(""))),
            ..BatchAppendResp::default()
        };
        let taken = self.gather(correlation_id, request);
        if taken.is_err() {
            self.unfinished.remove(&correlation_id);
        }
        let append = match taken.transpose()? {
            Ok(Unfinished { batch, deadline }) => {
                let kib = kib(batch.bytes, SESSIONS);
                let permit = Arc::clone(&self.waiting).acquire_many_owned(kib).await;
                let held = permit.into_iter().collect();
                within(deadline, holding(held, write(&self.log, batch))).boxed()
            }
            Err(refusal) => future::ready(Err(refusal)).boxed(),
        };
        Some(append.map(move |appended| Ok(answered(answer, appended))).boxed())
    }

    /// The whole append, once its last part has come.
    fn gather(&mut self, id: Uuid, request: BatchAppendReq) -> Result<Option<Unfinished>, Refusal> {
        let mut append = match (self.unfinished.remove(&id), request.options) {
            (Some(begun), _) => begun,
            (None, Some(options)) => self.begin(options)?,
            (None, None) => {
                return Err(Status::invalid_argument("an append begins with its options").into());
            }
        };
        for message in request.proposed_messages {
            let batch_append_req::ProposedMessage { id, metadata, custom_metadata, data } = message;
            append.batch.push(names::event(id.as_ref(), metadata, custom_metadata, data)?)?;
        }
        if request.is_final {
            return Ok(Some(append));
        }
        if self.unfinished.len() == UNFINISHED {
            let why = format!("a session has at most {UNFINISHED} appends in parts at once");
            return Err(Status::resource_exhausted(why).into());
        }
        self.unfinished.insert(id, append);
        Ok(None)
    }

    fn begin(&self, options: batch_append_req::Options) -> Result<Unfinished, Refusal> {
        let stream = names::stream_name(options.stream_identifier)?;
        self.caller.may_write(&stream)?;
        let expected = match options.expected_stream_position {
            Some(ExpectedStreamPosition::StreamPosition(revision)) => Expected::Revision(revision),
            Some(ExpectedStreamPosition::NoStream(())) => Expected::None,
            Some(ExpectedStreamPosition::Any(())) => Expected::Any,
            Some(ExpectedStreamPosition::StreamExists(())) => Expected::Exists,
            None => return Err(expects_nothing().into()),
        };
        let deadline = deadline(options.deadline_option)?;
        Ok(Unfinished { batch: Batch::new(stream, expected), deadline })
    }
}

fn expects_nothing() -> Status {
    Status::invalid_argument("it is not said what the stream is expected to be, not even any")
}

pub(super) fn stopping() -> Status {
    Status::unavailable("the log server is stopping; connect again")
}

fn deadline(option: Option<DeadlineOption>) -> Result<Option<Duration>, Refusal> {
    let left = match option {
        None => return Ok(None),
        Some(DeadlineOption::Deadline(span)) => Duration::try_from(span).ok(),
        Some(DeadlineOption::Deadline21100(time)) => {
            let now = Duration::from_millis(crate::Clock::system().now().as_millis());
            let time = SystemTime::try_from(time).ok();
            time.and_then(|time| (time - now).duration_since(SystemTime::UNIX_EPOCH).ok())
        }
    };
    match left.filter(|left| !left.is_zero()) {
        Some(left) if left < LONGEST_DEADLINE => Ok(Some(left)),
        Some(_) => Ok(None),
        None => Err(Refusal::Late),
    }
}

async fn within(
    deadline: Option<Duration>,
    append: BoxFuture<'static, Result<Appended, AppendError>>,
) -> Result<Appended, Refusal> {
    let Some(deadline) = deadline else { return Ok(append.await?) };
    match tokio::time::timeout(deadline, append).await {
        Ok(appended) => Ok(appended?),
        Err(_) => Err(Refusal::Late),
    }
}

fn answered(mut answer: BatchAppendResp, appended: Result<Appended, Refusal>) -> BatchAppendResp {
    use batch::success::{CurrentRevisionOption, PositionOption};
    answer.result = Some(match appended {
        Ok(Appended { position, revision }) => {
            let position =
                AllStreamPosition { commit_position: position, prepare_position: position };
            batch::Result::Success(batch::Success {
                current_revision_option: Some(CurrentRevisionOption::CurrentRevision(revision)),
                position_option: Some(PositionOption::Position(position)),
            })
        }
        Err(refusal) => batch::Result::Error(refusal.answer()),
    });
    answer
}

#[cfg(test)]
mod tests;
