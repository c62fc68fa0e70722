//! One call's two bodies as the client holds them, and what its errors mean.

use crate::{call, deadline::Timer};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body, codegen::StdError};

/// Why a call got no answer, from one connection.
pub(crate) enum Failure {
    /// Nothing was sent; here the request is again.
    Unsent(Box<http::Request<Upload>>, Status),
    /// The server said that it did not handle it.
    Refused(Status),
    /// The server may have handled it.
    Lost(Status),
}

/// A request's body that breaks off as soon as nobody waits for the response.
pub(crate) struct Upload {
    body: Body,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Upload {
    /// The body, and what must be kept for as long as the call is wanted.
    pub(crate) fn new(body: Body) -> (Self, DropGuard) {
        let token = CancellationToken::new();
        let given_up = Box::pin(token.clone().cancelled_owned());
        (Self { body, given_up }, token.drop_guard())
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if self.given_up.as_mut().poll(cx).is_ready() {
            // hyper looks for an h2 error to learn the code of the reset.
            return Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body: dropping it cancels the call, and it ends at the call's deadline.
pub(crate) struct Download<B> {
    pub(crate) body: B,
    pub(crate) timer: Timer,
    pub(crate) _wanted: DropGuard,
}

impl<B> http_body::Body for Download<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // What has arrived comes first: the server's own word on the deadline may be among it.
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending if self.timer.is_over(cx) => Poll::Ready(Some(Err(call::expired()))),
            polled => polled.map_err(|error| status(&*error.into())),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The gRPC status that tells best what went wrong.
pub(crate) fn status(error: &(dyn Error + 'static)) -> Status {
    let text = chain(error);
    for cause in causes(error) {
        if let Some(status) = cause.downcast_ref::<Status>() {
            return Status::new(status.code(), status.message());
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return of_h2(error, text);
        }
    }
    Status::unavailable(text)
}

/// Whether the server told that it did not handle the request.
pub(crate) fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<h2::Error>().is_some_and(|error| {
            error.reason() == Some(h2::Reason::REFUSED_STREAM)
                    // Streams beyond the last one that a stopping server promises to handle.
                    || error.is_go_away()
                        && error.is_remote()
                        && error.reason() == Some(h2::Reason::NO_ERROR)
        })
    })
}

fn of_h2(error: &h2::Error, text: String) -> Status {
    if error.is_io() || error.is_go_away() {
        return Status::unavailable(text);
    }
    match error.reason() {
        Some(h2::Reason::CANCEL) => Status::cancelled(text),
        Some(h2::Reason::REFUSED_STREAM) => Status::unavailable(text),
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Status::resource_exhausted(text),
        _ => Status::internal(text),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let next = |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> {
        let error: &'a (dyn Error + 'static) = *error;
        // What an `io::Error` was made of is not its source, and would be left out.
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(made_of) => Some(made_of),
            None => error.source(),
        }
    };
    std::iter::successors(Some(error), next)
}

/// The error and its causes; one that only repeats its cause is left out.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for part in causes(error).map(ToString::to_string) {
        if text.is_empty() {
            text = part;
        } else if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
    }
    text
}
