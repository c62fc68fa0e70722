//! Services of the house's own protocols whose methods do what the request's `stream` says.

use crate::house::DAY;
use axum::{Extension, Router, body::Body, http::HeaderMap, routing};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use proto::worker::{
    FileChunk, GitRepo, LogChunk, PipelineId, PipelineRun, WorkerInstance,
    worker_server::{Worker, WorkerServer},
};
use std::{
    collections::HashSet,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};
use transport::Connection;

/// Committed, not built: see tests/generated.rs.
#[allow(warnings, clippy::all, clippy::pedantic)]
pub mod rpc {
    include!("vehicle/generated.rs");
}

use rpc::{
    AppendRequest, AppendResponse, Event, HeadRequest, HeadResponse, ReadStreamRequest,
    RecordedEvent,
    vehicle_server::{Vehicle as Calls, VehicleServer},
};

/// Larger than any message of the tests.
pub const MESSAGE: usize = 16 << 20;

/// What the handlers lived through.
#[derive(Debug)]
pub struct Seen {
    /** Handlers that began to wait or to stream. */
    pub begun: watch::Sender<u64>,
    /** Handlers and streams that began and are gone. */
    pub cancelled: watch::Sender<u64>,
    /** Uploads that were read to their end. */
    pub whole: watch::Sender<u64>,
    /** Uploads that broke off. */
    pub broken: watch::Sender<u64>,
    /** Bytes that uploads brought. */
    pub received: watch::Sender<u64>,
    /** Lets the call "until told" go on. */
    pub told: CancellationToken,
    /** Where calls of `head` came from. */
    pub addresses: Mutex<HashSet<SocketAddr>>,
}

impl Default for Seen {
    fn default() -> Self {
        let counter = || watch::Sender::new(0);
        Self {
            begun: counter(),
            cancelled: counter(),
            whole: counter(),
            broken: counter(),
            received: counter(),
            told: CancellationToken::new(),
            addresses: Mutex::default(),
        }
    }
}

/// Counts its own drop.
struct Notice(Arc<Seen>);

impl Drop for Notice {
    fn drop(&mut self) {
        self.0.cancelled.send_modify(|count| *count += 1);
    }
}

impl Seen {
    fn begin(self: &Arc<Self>) -> Notice {
        self.begun.send_modify(|count| *count += 1);
        Notice(self.clone())
    }
}

#[derive(Clone)]
struct Vehicle(Arc<Seen>);

pub fn router(seen: Arc<Seen>) -> Router {
    let vehicle = Vehicle(seen.clone());
    let log = VehicleServer::new(vehicle.clone())
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    tonic::service::Routes::new(log)
        .add_service(WorkerServer::new(vehicle))
        .into_axum_router()
        .route("/whoami", routing::get(whoami))
        .route("/panic", routing::get(|| async { panic!("on purpose") as () }))
        .route("/bytes/{count}", routing::get(bytes))
        .route("/length", routing::post(|body: Bytes| async move { body.len().to_string() }))
        .route("/refuse", routing::post(|| async { "unread" }))
        .route("/header", routing::get(header))
        .layer(axum::extract::DefaultBodyLimit::disable())
}

async fn whoami(Extension(connection): Extension<Connection>) -> String {
    format!("{:?} {:?} {:?}", connection.peer, connection.protocol, connection.certificate)
}

async fn header(headers: HeaderMap) -> HeaderMap {
    headers
        .into_iter()
        .filter(|(name, _)| name.as_ref().is_some_and(|n| n == "big"))
        .map(|(n, v)| (n.unwrap(), v))
        .collect()
}

async fn bytes(axum::extract::Path(count): axum::extract::Path<usize>) -> Body {
    const CHUNK: usize = 64 << 10;
    let chunks = (0..count.div_ceil(CHUNK)).map(move |index| {
        Ok::<_, std::io::Error>(Bytes::from(vec![7; CHUNK.min(count - index * CHUNK)]))
    });
    Body::from_stream(stream::iter(chunks))
}

pub fn event(data: Bytes) -> Event {
    Event { data }
}

fn recorded(position: u64, data: Bytes) -> RecordedEvent {
    RecordedEvent { position, event: Some(event(data)) }
}

/// At the position that is the events' length in bytes.
fn appended(request: &AppendRequest) -> AppendResponse {
    let position = request.events.iter().map(|event| event.data.len() as u64).sum();
    AppendResponse { position }
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Calls for Vehicle {
    type ReadStreamStream = Answer<RecordedEvent>;
    type AppendAllStream = Answer<AppendResponse>;

    /// Answers each message with its length.
    async fn append_all(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendAllStream>, Status> {
        let replies = request.into_inner().map(|request| request.map(|request| appended(&request)));
        Ok(Response::new(replies.boxed()))
    }

    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let connection = request.extensions().get::<Connection>().cloned();
        let request = request.into_inner();
        match request.stream.as_str() {
            "never" => {
                let _notice = self.0.begin();
                tokio::time::sleep(DAY).await;
            }
            "until told" => {
                self.0.begun.send_modify(|count| *count += 1);
                self.0.told.cancelled().await;
            }
            "fail" => {
                let mut status = Status::failed_precondition("not today – nöt");
                status.metadata_mut().insert("reason", MetadataValue::from_static("tuesday"));
                return Err(status);
            }
            "panic" => panic!("on purpose"),
            "whoami" => return Err(Status::already_exists(format!("{:?}", connection.unwrap()))),
            _ => {}
        }
        let mut response = Response::new(appended(&request));
        response.metadata_mut().insert("seen", MetadataValue::from_static("yes"));
        Ok(response)
    }

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let request = request.into_inner();
        let some = stream::iter(0..request.limit).map(|n| Ok(recorded(n, Bytes::new())));
        let notice = self.0.begin();
        Ok(Response::new(match request.stream.as_str() {
            "count" => some.boxed(),
            "fail" => some.chain(stream::iter([Err(Status::data_loss("midway"))])).boxed(),
            "panic" => {
                // tonic sends what is ready in one piece; so the panic must come later.
                let panic = async {
                    tokio::task::yield_now().await;
                    panic!("on purpose")
                };
                some.chain(stream::once(panic)).boxed()
            }
            "idle" => some.chain(stream::pending()).map(keeping(notice)).boxed(),
            "flow" => {
                let data = Bytes::from(vec![1; 16 << 10]);
                stream::iter(0..)
                    .map(move |n| Ok(recorded(n, data.clone())))
                    .map(keeping(notice))
                    .boxed()
            }
            "huge" => {
                let data = Bytes::from(vec![1; request.limit as usize]);
                stream::iter([Ok(recorded(0, data))]).boxed()
            }
            other => return Err(Status::unimplemented(other.to_owned())),
        }))
    }

    async fn head(&self, request: Request<HeadRequest>) -> Result<Response<HeadResponse>, Status> {
        let connection = request.extensions().get::<Connection>().unwrap();
        self.0.addresses.lock().unwrap().insert(connection.address);
        Ok(Response::new(HeadResponse { next_position: 42 }))
    }
}

/// Keeps the notice for as long as the stream lives.
fn keeping<T>(notice: Notice) -> impl FnMut(T) -> T {
    move |item| {
        let _ = &notice;
        item
    }
}

#[tonic::async_trait]
impl Worker for Vehicle {
    type GetWorkStream = Answer<PipelineRun>;
    type StreamBinaryStream = Answer<FileChunk>;

    async fn stream_logs(
        &self,
        request: Request<Streaming<LogChunk>>,
    ) -> Result<Response<()>, Status> {
        let early = request.metadata().contains_key("early");
        let mut chunks = request.into_inner();
        let _notice = self.0.begin();
        if early {
            return Err(Status::resource_exhausted("enough"));
        }
        loop {
            match chunks.message().await {
                Ok(Some(chunk)) => {
                    let length = chunk.chunk.len() as u64;
                    self.0.received.send_modify(|bytes| *bytes += length);
                }
                Ok(None) => {
                    self.0.whole.send_modify(|count| *count += 1);
                    return Ok(Response::new(()));
                }
                Err(status) => {
                    self.0.broken.send_modify(|count| *count += 1);
                    return Err(status);
                }
            }
        }
    }

    async fn get_work(
        &self,
        _: Request<WorkerInstance>,
    ) -> Result<Response<Self::GetWorkStream>, Status> {
        Ok(Response::new(stream::empty().boxed()))
    }

    async fn update_work(&self, _: Request<PipelineRun>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }

    async fn stream_binary(
        &self,
        _: Request<PipelineRun>,
    ) -> Result<Response<Self::StreamBinaryStream>, Status> {
        Ok(Response::new(stream::empty().boxed()))
    }

    async fn deregister(&self, _: Request<WorkerInstance>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }

    async fn get_git_repo(&self, _: Request<PipelineId>) -> Result<Response<GitRepo>, Status> {
        Ok(Response::new(GitRepo::default()))
    }
}
