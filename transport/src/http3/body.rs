//! Messages' bodies, read from h3 and written to it.

use super::{adapter, status};
use bytes::{Buf, Bytes, BytesMut};
use h3::error::StreamError;
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tonic::Status;

/// What both ends' streams can do, though h3 gives them no common trait.
pub(super) trait Receive {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>>;
    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, StreamError>>;
}

macro_rules! receive {
    ($stream:ty) => {
        impl Receive for $stream {
            fn poll_data(
                &mut self,
                cx: &mut Context<'_>,
            ) -> Poll<Result<Option<Bytes>, StreamError>> {
                let data = ready!(self.poll_recv_data(cx))?;
                Poll::Ready(Ok(data.map(|mut data| data.copy_to_bytes(data.remaining()))))
            }

            fn poll_trailers(
                &mut self,
                cx: &mut Context<'_>,
            ) -> Poll<Result<Option<HeaderMap>, StreamError>> {
                self.poll_recv_trailers(cx)
            }
        }
    };
}
receive!(h3::server::RequestStream<adapter::Receiving, Bytes>);
receive!(h3::client::RequestStream<adapter::Receiving, Bytes>);

/// How much is gathered into one frame, if it is there: as much as a large read of a file.
const GATHER: usize = 64 << 10;

/// A body as it arrives.
pub(super) struct Received<S> {
    stream: S,
    /// What `content-length` promised and has not come yet.
    missing: Option<u64>,
    state: Reading,
    /// An error that came behind data.
    failed: Option<Status>,
}

enum Reading {
    Data,
    Trailers,
    Done,
}

impl<S> Received<S> {
    pub(super) fn new(stream: S, headers: &HeaderMap) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let missing = length.and_then(|text| text.parse().ok());
        Self { stream, missing, state: Reading::Data, failed: None }
    }

    fn check(&mut self, arrived: u64) -> Result<(), Status> {
        let Some(missing) = &mut self.missing else { return Ok(()) };
        *missing = missing
            .checked_sub(arrived)
            .ok_or_else(|| Status::data_loss("the message is longer than its content-length"))?;
        Ok(())
    }
}

impl<S: Receive + Unpin> http_body::Body for Received<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if matches!(this.state, Reading::Data)
            && let Some(data) = ready!(this.poll_gathered(cx))
        {
            return Poll::Ready(Some(data.map(Frame::data)));
        }
        if matches!(this.state, Reading::Done) {
            return Poll::Ready(None);
        }
        let trailers = ready!(this.stream.poll_trailers(cx));
        match trailers {
            Ok(trailers) => {
                this.state = Reading::Done;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => Poll::Ready(Some(Err(this.fail(&error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, Reading::Done) && self.failed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.missing.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl<S: Receive> Received<S> {
    /// What has arrived, in one piece: quinn hands on packets, and whoever reads pays for each frame.
    /// `None` at the end of the data.
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let first = match ready!(self.poll_data(cx)) {
            Some(Ok(first)) if first.len() < GATHER => first,
            other => return Poll::Ready(other),
        };
        let mut gathered = BytesMut::new();
        while gathered.len() < GATHER {
            match self.poll_data(cx) {
                Poll::Ready(Some(Ok(more))) => {
                    if gathered.is_empty() {
                        gathered.reserve(GATHER);
                        gathered.extend_from_slice(&first);
                    }
                    gathered.extend_from_slice(&more);
                }
                // Told with the next frame.
                Poll::Ready(Some(Err(error))) => {
                    self.failed = Some(error);
                    break;
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        let data = if gathered.is_empty() { first } else { gathered.freeze() };
        Poll::Ready(Some(Ok(data)))
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if !matches!(self.state, Reading::Data) {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.stream.poll_data(cx)) {
            Ok(Some(data)) => Some(self.check(data.len() as u64).map(|()| data)),
            Ok(None) if self.missing.is_some_and(|missing| missing > 0) => {
                self.state = Reading::Done;
                Some(Err(Status::data_loss("the message is shorter than its content-length")))
            }
            Ok(None) => {
                self.state = Reading::Trailers;
                None
            }
            Err(error) => Some(Err(self.fail(&error))),
        })
    }

    fn fail(&mut self, error: &StreamError) -> Status {
        self.state = Reading::Done;
        status(error)
    }
}

/// Removes what belongs to a connection of HTTP/1.1 and must not be sent (RFC 9114, section 4.2).
pub(super) fn strip(headers: &mut HeaderMap) {
    for name in ["connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}
