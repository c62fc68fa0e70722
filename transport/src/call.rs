//! How every call is handled, whatever it came over: the one place where the pitfalls of the
//! libraries beneath are made harmless.
//!
//! - A deadline (`grpc-timeout`) covers the handler, the request's body and the response's body.
//! - A request's body that breaks off is an error, never an end: tonic takes `Cancelled` for the end
//!   of the stream, so it is told `Aborted`.
//! - A handler that panics, before its answer or while it streams, harms only its own call.

use crate::{
    deadline::{self, Timer},
    standing::NotBelieved,
};
use axum::{Router, body::Body, http::StatusCode, response::IntoResponse};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Request, Response, header::CONTENT_TYPE};
use http_body::{Frame, SizeHint};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Code, Status};
use tower::ServiceExt;

/// Whether gRPC is spoken: then errors go into `grpc-status`.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/grpc"))
}

/// Lets the router answer. Dropping the future, or the response's body, cancels the handler.
pub(crate) async fn handle(router: Router, request: Request<Body>) -> Response<Body> {
    let grpc = is_grpc(request.headers());
    let deadline = deadline::of(request.headers());
    let request = request.map(|body| Body::new(RequestBody { body, timer: Timer::new(deadline) }));
    let answer = AssertUnwindSafe(router.oneshot(request)).catch_unwind();
    let answer = match deadline {
        Some(at) => tokio::time::timeout_at(at, answer).await,
        None => Ok(answer.await),
    };
    match answer {
        Ok(Ok(Ok(response))) => response.map(|body| {
            Body::new(ResponseBody { body: Some(body), timer: Timer::new(deadline), grpc })
        }),
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(_)) => refuse(grpc, panicked(), StatusCode::INTERNAL_SERVER_ERROR),
        Err(_) => refuse(grpc, expired(), StatusCode::GATEWAY_TIMEOUT),
    }
}

/// What is answered on a connection that is about to end.
pub(crate) fn not_believed(headers: &HeaderMap, why: NotBelieved) -> Response<Body> {
    let (status, code) = match why {
        NotBelieved::Ended => (
            Status::unauthenticated("the client certificate is not accepted any more"),
            StatusCode::UNAUTHORIZED,
        ),
        NotBelieved::InDoubt => (
            Status::unavailable("it is not known yet which certificates are revoked; try again"),
            StatusCode::SERVICE_UNAVAILABLE,
        ),
    };
    refuse(is_grpc(headers), status, code)
}

fn refuse(grpc: bool, status: Status, code: StatusCode) -> Response<Body> {
    if grpc { status.into_http() } else { (code, status.message().to_owned()).into_response() }
}

pub(crate) fn expired() -> Status {
    Status::deadline_exceeded("the call's deadline has passed")
}

fn panicked() -> Status {
    Status::internal("the handler panicked; the server's log says where")
}

/// What the handler reads: an end only if the client ended it.
struct RequestBody {
    body: Body,
    timer: Timer,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.timer.is_over(cx) {
            return Poll::Ready(Some(Err(expired())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(broken_off)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn broken_off(error: axum::Error) -> Status {
    let status = Status::from_error(error.into_inner());
    if matches!(status.code(), Code::Cancelled | Code::Unknown | Code::Internal) {
        return Status::aborted(format!("the request broke off: {}", status.message()));
    }
    status
}

/// What the client reads: it ends in time, and with an error if the handler panicked.
struct ResponseBody {
    body: Option<Body>,
    timer: Timer,
    grpc: bool,
}

impl ResponseBody {
    /// Ends with the status: in trailers if gRPC is spoken, else by breaking off. The handler's
    /// stream is dropped, which cancels it.
    fn fail(&mut self, status: Status) -> Result<Frame<Bytes>, Status> {
        self.body = None;
        if !self.grpc {
            return Err(status);
        }
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if this.timer.is_over(cx) {
            return Poll::Ready(Some(this.fail(expired())));
        }
        match catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx))) {
            Err(_) => Poll::Ready(Some(this.fail(panicked()))),
            Ok(polled) => polled.map_err(|error| Status::from_error(error.into_inner())),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}
