//! Plain HTTP beside the Worker API: joining, binaries, logs.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, TryStreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use serde::de::DeserializeOwned;
use tokio::{fs::File, io::AsyncReadExt as _, time::timeout};
use tonic::body::Body;
use tower::ServiceExt as _;
use transport::{Channel, ChannelError};

use crate::order::Lease;

/// For the head of an answer, and between two pieces of its body.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The numbers of all chunks of a large binary.
const LONGEST_ANSWER: usize = 4 << 20;
/// Bytes that are read of a file at once.
const PIECE: usize = 128 * 1024;

/// Nobody knows whether the request was handled: try again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("no answer in time")]
    Silence,
    #[error("the answer broke off: {0}")]
    Broken(String),
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// What the server says, for people.
    pub(crate) fn text(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Message {
            message: String,
        }
        let text = match self.json::<Message>() {
            Some(Message { message }) => message,
            None => String::from_utf8_lossy(&self.body).trim().chars().take(500).collect(),
        };
        if text.is_empty() { self.status.to_string() } else { format!("{text} ({})", self.status) }
    }

    /// The same request may be answered differently later.
    pub(crate) fn is_passing(&self) -> bool {
        self.status.is_server_error()
            || self.status == StatusCode::TOO_MANY_REQUESTS
            || self.status == StatusCode::REQUEST_TIMEOUT
    }

    /// The same for a worker's request: that its certificate is not accepted is said of the
    /// connection, and the next one may show a renewed certificate. A worker that is not wanted any
    /// more learns that from its session, which ends all of its work.
    pub(crate) fn is_passing_for_worker(&self) -> bool {
        self.is_passing() || self.status == StatusCode::UNAUTHORIZED
    }
}

pub(crate) fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path)
}

/// A request that an attempt's lease allows.
pub(crate) fn leased(method: Method, path: &str, lease: &Lease) -> http::request::Builder {
    request(method, path)
        .header("x-gaia-run", lease.run.to_string())
        .header("x-gaia-attempt", lease.attempt)
        .header("x-gaia-lease", &lease.token)
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Body::new(Full::new(bytes.into()))
}

/// The head of the answer; its body is still to come.
pub(crate) async fn open(
    channel: &Channel,
    request: Request<Body>,
) -> Result<Response<Body>, HttpError> {
    match timeout(PATIENCE, channel.clone().oneshot(request)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(HttpError::Silence),
    }
}

pub(crate) async fn read(response: Response<Body>) -> Result<Answer, HttpError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect();
    match timeout(PATIENCE, body).await {
        Ok(Ok(body)) => Ok(Answer { status, body: body.to_bytes() }),
        Ok(Err(error)) => Err(HttpError::Broken(error.to_string())),
        Err(_) => Err(HttpError::Silence),
    }
}

/// Sends a request and reads the whole answer.
pub(crate) async fn call(channel: &Channel, request: Request<Body>) -> Result<Answer, HttpError> {
    read(open(channel, request).await?).await
}

/// For an answer that the server has to work for.
pub(crate) async fn call_within(
    channel: &Channel,
    request: Request<Body>,
    patience: Duration,
) -> Result<Answer, HttpError> {
    match timeout(patience, channel.clone().oneshot(request)).await {
        Ok(answer) => read(answer?).await,
        Err(_) => Err(HttpError::Silence),
    }
}

/// Sends a body, however long it takes, as long as it advances.
pub(crate) async fn upload(
    channel: &Channel,
    request: http::request::Builder,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Result<Answer, HttpError> {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let body = body.map_ok(move |piece| {
        counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Frame::data(piece)
    });
    let request = request.body(Body::new(StreamBody::new(body)));
    let request = request.expect("ids and numbers make a valid request");
    let answering = channel.clone().oneshot(request);
    tokio::pin!(answering);
    let mut before = 0;
    loop {
        match timeout(PATIENCE, &mut answering).await {
            Ok(answer) => return read(answer?).await,
            Err(_) => match sent.load(Ordering::Relaxed) {
                now if now == before => return Err(HttpError::Silence),
                now => before = now,
            },
        }
    }
}

/// A file's bytes.
pub(crate) fn pieces(file: File) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures::stream::try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE);
        match file.read_buf(&mut piece).await? {
            0 => Ok(None),
            _ => Ok(Some((piece.freeze(), file))),
        }
    })
}
