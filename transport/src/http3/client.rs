//! The client's end: a connection that many calls share.

use super::{
    adapter::{Opener, Quic, Receiving, Sending},
    body::{Received, strip},
    pulse::Pulse,
    status,
};
use crate::{
    abort::AbortOnDrop,
    channel::{Failure, Upload},
    limits,
};
use bytes::Bytes;
use futures::future::{Either, select};
use h3::{
    client::RequestStream,
    error::{Code, StreamError},
};
use http::{HeaderMap, Method, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tonic::Status;

/// A connection; many calls share it.
#[derive(Clone)]
pub(crate) struct Client {
    http: h3::client::SendRequest<Opener, Bytes>,
    quic: quinn::Connection,
    /// The server said that it takes no more.
    leaving: Arc<AtomicBool>,
}

/// QUIC's handshake, then HTTP/3's settings. Each connection has a socket of its own.
pub(crate) async fn connect(
    address: SocketAddr,
    name: &str,
    config: quinn::ClientConfig,
) -> io::Result<Client> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = quinn::Endpoint::client(any)?;
    let connecting = endpoint.connect_with(config, address, name).map_err(io::Error::other)?;
    let quic = tokio::time::timeout(limits::HANDSHAKE, connecting).await??;
    let mut builder = h3::client::builder();
    builder.max_field_section_size(limits::HEADERS.into());
    let built = builder.build(Quic::client(quic.clone())).await;
    let refused = |error| refusal(&quic).map_or_else(|| io::Error::other(error), io::Error::other);
    let (mut driver, http) = built.map_err(refused)?;
    tokio::spawn(async move {
        let ended = poll_fn(|cx| driver.poll_close(cx)).await;
        tracing::debug!(error = %ended, "HTTP/3 connection ended");
    });
    Ok(Client { http, quic, leaving: Arc::default() })
}

impl Client {
    pub(crate) fn is_open(&self) -> bool {
        self.quic.close_reason().is_none() && !self.leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn pulse(&self) -> Pulse {
        Pulse::new(self.quic.clone())
    }

    pub(crate) fn is_of(&self, pulse: &Pulse) -> bool {
        self.quic.stable_id() == pulse.id()
    }

    pub(crate) async fn send(
        mut self,
        request: Request<Upload>,
    ) -> Result<Response<Answer>, Failure> {
        let (mut head, body) = request.into_parts();
        let is_head = head.method == Method::HEAD;
        strip(&mut head.headers);
        let stream = match self.http.send_request(Request::from_parts(head.clone(), ())).await {
            Ok(stream) => stream,
            Err(error) => return Err(self.unsent(&error, Request::from_parts(head, body))),
        };
        let (send, mut receive) = stream.split();
        let mut upload = Box::pin(upload(send, body));
        let (head, rest) = match select(&mut upload, pin!(receive.recv_response())).await {
            Either::Left(((), head)) => (head.await, None),
            Either::Right((head, _)) => (head, Some(())),
        };
        let (head, ()) = head.map_err(|error| self.unanswered(&error))?.into_parts();
        let rest = rest.map(|()| AbortOnDrop(tokio::spawn(upload).abort_handle()));
        // The length that it tells is that of what a GET would answer (RFC 9110, section 9.3.2).
        let body = if is_head { &HeaderMap::new() } else { &head.headers };
        let body = Received::new(receive, body);
        let body = Answer { body, _upload: rest, _connection: self.http };
        Ok(Response::from_parts(head, body))
    }

    /// No stream was opened, or nothing of it got out.
    fn unsent(&self, error: &StreamError, request: Request<Upload>) -> Failure {
        match error {
            StreamError::RemoteClosing { .. } | StreamError::ConnectionError { .. } => {
                self.leaving.store(true, Ordering::Relaxed);
                Failure::Unsent(Box::new(request), self.explain(error))
            }
            _ => Failure::Refused(self.explain(error)),
        }
    }

    fn unanswered(&self, error: &StreamError) -> Failure {
        let why = self.explain(error);
        let rejected =
            matches!(error, StreamError::RemoteTerminate { code: Code::H3_REQUEST_REJECTED, .. });
        // A handshake that the server did not finish handed it no request.
        if rejected || why.code() == tonic::Code::Unauthenticated {
            return Failure::Refused(why);
        }
        Failure::Lost(why)
    }

    fn explain(&self, error: &StreamError) -> Status {
        if let Some(refusal) = refusal(&self.quic) {
            return refusal;
        }
        match self.quic.close_reason() {
            Some(lost) if matches!(error, StreamError::ConnectionError { .. }) => {
                Status::unavailable(lost.to_string())
            }
            _ => status(error),
        }
    }
}

/// Why the server ended the handshake, if it did. That comes when our side of it is done already, so any
/// call may be the one that hears of it.
fn refusal(quic: &quinn::Connection) -> Option<Status> {
    let Some(quinn::ConnectionError::ConnectionClosed(close)) = quic.close_reason() else {
        return None;
    };
    let alert = is_alert(close.error_code).then(|| u64::from(close.error_code) as u8)?;
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::from(alert));
    Some(Status::unauthenticated(format!("the server refused our certificate: {alert}")))
}

/// QUIC carries TLS's alerts in codes from 0x100 (RFC 9001, section 4.8).
fn is_alert(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// Sends the request's body. A server that wants no more of it stops it without harm; a body that
/// breaks off is reset, so that the server cannot take it for a whole one.
async fn upload(mut send: RequestStream<Sending, Bytes>, mut body: Upload) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            send.stop_stream(Code::H3_REQUEST_CANCELLED);
            return;
        };
        let outcome = match frame.into_data() {
            // h3 takes an empty frame for the end.
            Ok(data) if data.is_empty() => Ok(()),
            Ok(data) => send.send_data(data).await,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => send.send_trailers(trailers).await,
                Err(_) => Ok(()),
            },
        };
        if let Err(error) = outcome {
            tracing::trace!(%error, "the request was not sent to its end");
            return;
        }
    }
    if let Err(error) = send.finish().await {
        tracing::trace!(%error, "the request was not sent to its end");
    }
}

/// A response's body; dropping it stops the upload, if that still goes on.
pub(crate) struct Answer {
    body: Received<RequestStream<Receiving, Bytes>>,
    _upload: Option<AbortOnDrop>,
    /// h3 closes the connection when the last of these goes.
    _connection: h3::client::SendRequest<Opener, Bytes>,
}

impl http_body::Body for Answer {
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
