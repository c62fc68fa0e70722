//! Calls within the process: the router is called directly, without a socket.
//!
//! Each call runs in a task of its own, and both bodies go through short queues, so that a handler
//! gets ahead of its client as it would over a network, and a pair that works here works there.
//! Dropping the response cancels the handler, and its request then ends with an error.

use crate::{Connection, Protocol, abort::AbortOnDrop, call};
use axum::{Router, body::Body};
use bytes::Bytes;
use futures::future::{self, Either};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use identity::Peer;
use std::{
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
        let (answer, answered) = oneshot::channel();
        let task = tokio::spawn(async move {
            let (body, upload) = pipe(body);
            let serve = async move {
                let request = Request::from_parts(parts, Body::new(body));
                let (parts, body) = call::handle(router, request).await.into_parts();
                let (body, download) = pipe(body);
                if answer.send(Response::from_parts(parts, body)).is_ok() {
                    download.await;
                }
            };
            // The handler may be done before it has read all of its request, or the other way round.
            if let Either::Right(((), serve)) = future::select(pin!(serve), pin!(upload)).await {
                serve.await;
            }
        });
        let task = AbortOnDrop(task.abort_handle());
        let response = answered.await.ok()?;
        Some(response.map(|body| tonic::body::Body::new(Held { body, _task: task })))
    }
}

/// `None` is the end. They wait in boxes: a channel has room for 32 from the start, and an idle worker keeps
/// two open.
type Piece = Option<Result<Frame<Bytes>, Status>>;

/// A body's two ends: what one side reads, and the work of filling it, to be driven by the other.
fn pipe<B>(body: B) -> (Pipe, impl Future<Output = ()>)
where
    B: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
{
    let (sender, frames) = mpsc::channel(QUEUE);
    let reader = Pipe { frames, size: body.size_hint(), ended: body.is_end_stream() };
    let fill = async move {
        let mut body = pin!(body);
        loop {
            let frame = body
                .frame()
                .await
                .map(|frame| frame.map_err(|error| Status::from_error(error.into())));
            let last = !matches!(frame, Some(Ok(_)));
            if sender.send(Box::new(frame)).await.is_err() || last {
                return;
            }
        }
    };
    (reader, fill)
}

/// The reading end. Only an end that was sent is an end; a writer that vanished is an error.
struct Pipe {
    frames: mpsc::Receiver<Box<Piece>>,
    size: SizeHint,
    ended: bool,
}

impl http_body::Body for Pipe {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.frames.poll_recv(cx).map(|received| {
            let frame = match received {
                Some(frame) => *frame,
                None => Some(Err(Status::aborted("the other side went away before the end"))),
            };
            self.ended = !matches!(frame, Some(Ok(_)));
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// The response's body, which keeps the handler alive.
struct Held {
    body: Pipe,
    _task: AbortOnDrop,
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
