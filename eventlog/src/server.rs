//! The log for other processes: gRPC service `gaia.log.v1.EventLog` over any engine.
//!
//! Appends of one call take their place in order of arrival, and answers come in the same order.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use proto::log::v1::{
    AppendRequest, AppendResponse, HeadRequest, HeadResponse, ReadAllRequest, ReadStreamRequest,
    RecordedEvent,
    append_response::{self, Conflict},
    event_log_server::{EventLog, EventLogServer},
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    event::NewEvent,
    log::{AppendError, Appended, Log, LogError},
    wire,
};

/// Appends of one call that wait for the disk at most.
const IN_FLIGHT: usize = 1_024;
/// KiB of appends that wait for the disk at most, of all calls together.
const WAITING: usize = 64 << 10;

/// Serves the log to the services of the house, and to nobody else.
pub fn router(log: Log) -> axum::Router {
    let waiting = Arc::new(Semaphore::new(WAITING));
    let server = EventLogServer::new(Served { log, waiting })
        .max_decoding_message_size(wire::MESSAGE)
        .max_encoding_message_size(wire::MESSAGE);
    transport::services_only(tonic::service::Routes::new(server).into_axum_router())
}

struct Served {
    log: Log,
    waiting: Arc<Semaphore>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl EventLog for Served {
    type AppendAllStream = Answers<AppendResponse>;
    type ReadStreamStream = Answers<RecordedEvent>;
    type ReadAllStream = Answers<RecordedEvent>;

    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let waiting = Arc::clone(&self.waiting);
        let answer = append(self.log.clone(), waiting, request.into_inner()).await?;
        answer.await.map(Response::new)
    }

    async fn append_all(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendAllStream>, Status> {
        let (log, waiting) = (self.log.clone(), Arc::clone(&self.waiting));
        let answers = request
            .into_inner()
            .and_then(move |request| append(log.clone(), Arc::clone(&waiting), request))
            .try_buffered(IN_FLIGHT);
        Ok(Response::new(answers.boxed()))
    }

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let ReadStreamRequest { stream, from_revision, limit } = request.into_inner();
        let read = self.log.read_stream(stream, from_revision, limit_of(limit));
        Ok(Response::new(read.map_ok(Into::into).map_err(Into::into).boxed()))
    }

    async fn read_all(
        &self,
        request: Request<ReadAllRequest>,
    ) -> Result<Response<Self::ReadAllStream>, Status> {
        let request = request.into_inner();
        let prefixes: Vec<_> = request.stream_prefixes.iter().map(String::as_str).collect();
        let read = if request.follow {
            self.log.subscribe(request.from_position, &prefixes)
        } else {
            self.log.read_all(request.from_position, &prefixes)
        };
        let read = read.take(limit_of(request.limit));
        Ok(Response::new(read.map_ok(Into::into).map_err(Into::into).boxed()))
    }

    async fn head(&self, _: Request<HeadRequest>) -> Result<Response<HeadResponse>, Status> {
        let next_position = self.log.next_position().await?;
        Ok(Response::new(HeadResponse { next_position }))
    }
}

fn limit_of(limit: u64) -> usize {
    if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) }
}

/// Once this is ready, the append has its place; what it gives then waits for the answer.
async fn append(
    log: Log,
    waiting: Arc<Semaphore>,
    request: AppendRequest,
) -> Result<impl Future<Output = Result<AppendResponse, Status>> + Send, Status> {
    let kib = request.encoded_len().div_ceil(1_024).min(WAITING);
    let permit = waiting.acquire_many_owned(kib as u32).await;
    let permit = permit.expect("the semaphore is never closed");
    let AppendRequest { stream, expected, events } = request;
    let expected = expected.ok_or_else(|| LogError::Invalid("nothing is expected".into()))?;
    let events: Vec<_> = events.into_iter().map(NewEvent::try_from).collect::<Result<_, _>>()?;
    let appended = log.append(stream, expected.into(), events);
    Ok(async move {
        let answer = appended.await;
        drop(permit);
        answer_to(answer)
    })
}

fn answer_to(answer: Result<Appended, AppendError>) -> Result<AppendResponse, Status> {
    let result = match answer {
        Ok(Appended { position, revision }) => {
            append_response::Result::Appended(append_response::Appended { position, revision })
        }
        // An answer, not a failure of the call.
        Err(AppendError::Conflict { current, .. }) => {
            append_response::Result::Conflict(Conflict { revision: current })
        }
        Err(error @ AppendError::Deleted { .. }) => {
            return Err(Status::failed_precondition(error.to_string()));
        }
        Err(AppendError::Log(error)) => return Err(error.into()),
    };
    Ok(AppendResponse { result: Some(result) })
}
