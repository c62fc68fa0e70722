//! Calls within the process: the router is called directly, without a socket.
//!
//! What of a body is there at once is handed over at once: a call of one message each way costs neither a
//! task nor a queue. For whatever comes later there is a task and a short queue, so that each side gets
//! ahead of the other as it would over a network, and a pair that works here works there.
//! Dropping the call or its response cancels the handler, and its request then ends with an error.

use crate::{Connection, Protocol, abort::AbortOnDrop, call};
use axum::{Router, body::Body};
use bytes::Bytes;
use futures::future::{self, Either};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use identity::Peer;
use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    pin::{Pin, pin},
    task::{Context, Poll},
};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Frames that may wait between the two sides.
const QUEUE: usize = 8;

/// A router of this process, and as whom it is called.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    router: Router,
    connection: Connection,
}

impl Local {
    pub(crate) fn new(router: Router, peer: Peer) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let protocol = Protocol::Local;
        Self { router, connection: Connection { peer, certificate: None, address, protocol } }
    }

    /// Answers `None` if the handler's task was stopped, as it is when the runtime ends.
    pub(crate) async fn call(
        &self,
        request: Request<tonic::body::Body>,
    ) -> Option<Response<tonic::body::Body>> {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(self.connection.clone());
        let router = self.router.clone();
        let (body, upload) = pipe(body).await;
        let serve = async move {
            let request = Request::from_parts(parts, Body::new(body));
            let (parts, body) = call::handle(router, request).await.into_parts();
            let (body, download) = pipe(body).await;
            (Response::from_parts(parts, body), download)
        };
        let Some(upload) = upload else {
            let (response, download) = serve.await;
            let task = download.map(|download| AbortOnDrop(tokio::spawn(download).abort_handle()));
            return Some(held(response, task));
        };
        let (answer, answered) = oneshot::channel();
        let task = tokio::spawn(async move {
            let serve = async move {
                let (response, download) = serve.await;
                if answer.send(response).is_ok()
                    && let Some(download) = download
                {
                    download.await;
                }
            };
            // The handler may be done before it has read all of its request, or the other way round.
            if let Either::Right(((), serve)) = future::select(pin!(serve), pin!(upload)).await {
                serve.await;
            }
        });
        let task = AbortOnDrop(task.abort_handle());
        Some(held(answered.await.ok()?, Some(task)))
    }
}

fn held(response: Response<Pipe>, task: Option<AbortOnDrop>) -> Response<tonic::body::Body> {
    response.map(|body| tonic::body::Body::new(Held { body, _task: task }))
}

/// `None` is the end. They wait in boxes: a channel has room for 32 from the start, and an idle worker keeps
/// two open.
type Piece = Option<Result<Frame<Bytes>, Status>>;

/// A body's two ends: what one side reads, and the work of filling it, to be driven by the other, if not
/// all is there at once.
async fn pipe<B>(mut body: B) -> (Pipe, Option<impl Future<Output = ()>>)
where
    B: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError>>
        + Send
        + Unpin
        + 'static,
{
    let size = body.size_hint();
    let mut ready = VecDeque::new();
    let mut ended = body.is_end_stream();
    future::poll_fn(|cx| {
        while !ended && ready.len() < QUEUE {
            let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) else { break };
            let is_last = !matches!(frame, Some(Ok(_)));
            ready.extend(frame.map(told));
            ended = is_last || body.is_end_stream();
        }
        Poll::Ready(())
    })
    .await;
    if ended {
        return (Pipe { ready, more: None, size }, None);
    }
    let (sender, frames) = mpsc::channel(QUEUE);
    let fill = async move {
        loop {
            let frame = body.frame().await.map(told);
            let last = !matches!(frame, Some(Ok(_)));
            if sender.send(Box::new(frame)).await.is_err() || last {
                return;
            }
        }
    };
    (Pipe { ready, more: Some(frames), size }, Some(fill))
}

fn told<E: Into<tonic::codegen::StdError>>(
    frame: Result<Frame<Bytes>, E>,
) -> Result<Frame<Bytes>, Status> {
    frame.map_err(|error| Status::from_error(error.into()))
}

/// The reading end. Only an end that was sent is an end; a writer that vanished is an error.
struct Pipe {
    ready: VecDeque<Result<Frame<Bytes>, Status>>,
    /// What comes after those; `None`: nothing.
    more: Option<mpsc::Receiver<Box<Piece>>>,
    size: SizeHint,
}

impl http_body::Body for Pipe {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(frame) = self.ready.pop_front() {
            return Poll::Ready(Some(frame));
        }
        let Some(more) = &mut self.more else { return Poll::Ready(None) };
        more.poll_recv(cx).map(|received| {
            let frame = match received {
                Some(frame) => *frame,
                None => Some(Err(Status::aborted("the other side went away before the end"))),
            };
            if !matches!(frame, Some(Ok(_))) {
                self.more = None;
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.more.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// The response's body, which keeps the handler alive.
struct Held {
    body: Pipe,
    _task: Option<AbortOnDrop>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
