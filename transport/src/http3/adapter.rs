//! quinn beneath h3's traits.
//!
//! Unlike h3-quinn 0.0.10 it does not panic when a stream is dropped while it waits, it resets what
//! is dropped unfinished (quinn would end it, so that half a message looked whole), it tells the
//! bridge when the peer wants no more, and it refuses a message that is cut off.

use super::framing::Framing;
use bytes::{Buf, Bytes};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::{ConnectionError, ReadError, StoppedError, VarInt, WriteError};
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

type Pending<T> = Option<Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send + Sync>>>;
type Pair = (quinn::SendStream, quinn::RecvStream);

/// Completes when the peer wants no more of a stream, has all of it, or is gone.
pub(super) type Stopped =
    Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

/// Where the bridge finds the `Stopped` of the stream that was accepted last, since h3 does not hand
/// its streams' own methods on.
#[derive(Clone, Default)]
pub(super) struct Latest(Arc<Mutex<Option<Stopped>>>);

impl Latest {
    fn set(&self, stopped: Stopped) {
        *self.0.lock().expect("nothing panics while it holds the lock") = Some(stopped);
    }

    pub(super) fn take(&self) -> Option<Stopped> {
        self.0.lock().expect("nothing panics while it holds the lock").take()
    }
}

/// With what codes streams are dropped.
#[derive(Clone, Copy)]
struct Codes {
    reset: Code,
    stop: Code,
}

/// A server that reads no further is content; a client that does so cancels.
const SERVER: Codes = Codes { reset: Code::H3_INTERNAL_ERROR, stop: Code::H3_NO_ERROR };
const CLIENT: Codes = Codes { reset: Code::H3_REQUEST_CANCELLED, stop: Code::H3_REQUEST_CANCELLED };

/// A connection.
pub(super) struct Quic {
    connection: quinn::Connection,
    bidi: Pending<Pair>,
    uni: Pending<quinn::RecvStream>,
    opener: Opener,
    latest: Latest,
}

impl Quic {
    pub(super) fn server(connection: quinn::Connection) -> (Self, Latest) {
        let quic = Self::new(connection, SERVER);
        let latest = quic.latest.clone();
        (quic, latest)
    }

    pub(super) fn client(connection: quinn::Connection) -> Self {
        Self::new(connection, CLIENT)
    }

    fn new(connection: quinn::Connection, codes: Codes) -> Self {
        let opener = Opener { connection: connection.clone(), codes, bidi: None, uni: None };
        Self { connection, bidi: None, uni: None, opener, latest: Latest::default() }
    }
}

/// Polls the operation that is under way, or the one that `start` begins.
fn poll_pending<T, F>(
    pending: &mut Pending<T>,
    cx: &mut Context<'_>,
    start: impl FnOnce() -> F,
) -> Poll<Result<T, ConnectionError>>
where
    F: Future<Output = Result<T, ConnectionError>> + Send + Sync + 'static,
{
    let done = ready!(pending.get_or_insert_with(|| Box::pin(start())).as_mut().poll(cx));
    *pending = None;
    Poll::Ready(done)
}

impl quic::Connection<Bytes> for Quic {
    type RecvStream = Receiving;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Receiving, ConnectionErrorIncoming>> {
        let connection = &self.connection;
        let accept = || {
            let connection = connection.clone();
            async move { connection.accept_uni().await }
        };
        let accepted = ready!(poll_pending(&mut self.uni, cx, accept));
        Poll::Ready(accepted.map(|stream| Receiving::new(stream, None)).map_err(lost))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Both, ConnectionErrorIncoming>> {
        let connection = &self.connection;
        let accept = || {
            let connection = connection.clone();
            async move { connection.accept_bi().await }
        };
        let pair = ready!(poll_pending(&mut self.bidi, cx, accept)).map_err(lost)?;
        self.latest.set(Box::pin(pair.0.stopped()));
        Poll::Ready(Ok(Both::new(pair, self.opener.codes)))
    }

    fn opener(&self) -> Opener {
        self.opener.clone()
    }
}

impl quic::OpenStreams<Bytes> for Quic {
    type BidiStream = Both;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Sending, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

/// Opens streams of a connection.
pub(super) struct Opener {
    connection: quinn::Connection,
    codes: Codes,
    bidi: Pending<Pair>,
    uni: Pending<quinn::SendStream>,
}

impl Clone for Opener {
    fn clone(&self) -> Self {
        let connection = self.connection.clone();
        Self { connection, codes: self.codes, bidi: None, uni: None }
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Both;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        let connection = &self.connection;
        let open = || {
            let connection = connection.clone();
            async move { connection.open_bi().await }
        };
        let opened = ready!(poll_pending(&mut self.bidi, cx, open));
        Poll::Ready(opened.map(|pair| Both::new(pair, self.codes)).map_err(stream_lost))
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Sending, StreamErrorIncoming>> {
        let connection = &self.connection;
        let open = || {
            let connection = connection.clone();
            async move { connection.open_uni().await }
        };
        let opened = ready!(poll_pending(&mut self.uni, cx, open));
        Poll::Ready(opened.map(|stream| Sending::new(stream, None)).map_err(stream_lost))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(varint(code.value()), reason);
    }
}

/// A stream both ways: one call.
pub(super) struct Both {
    sending: Sending,
    receiving: Receiving,
}

impl Both {
    fn new((send, receive): Pair, codes: Codes) -> Self {
        let sending = Sending::new(send, Some(codes.reset));
        Self { sending, receiving: Receiving::new(receive, Some(codes.stop)) }
    }
}

impl quic::BidiStream<Bytes> for Both {
    type SendStream = Sending;
    type RecvStream = Receiving;

    fn split(self) -> (Sending, Receiving) {
        (self.sending, self.receiving)
    }
}

impl quic::SendStream<Bytes> for Both {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.sending.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.sending.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.sending.send_id()
    }
}

impl quic::RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receiving.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.receiving.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receiving.recv_id()
    }
}

/// A stream's sending half.
pub(super) struct Sending {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    // `None` once the stream was finished or reset, and for streams that live as long as the
    // connection.
    reset: Option<Code>,
}

impl Sending {
    fn new(stream: quinn::SendStream, reset: Option<Code>) -> Self {
        Self { stream, writing: None, reset }
    }
}

impl quic::SendStream<Bytes> for Sending {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(data) = &mut self.writing {
            while data.has_remaining() {
                let write = Pin::new(&mut self.stream).poll_write(cx, data.chunk());
                data.advance(ready!(write).map_err(unwritten)?);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            let connection_error =
                ConnectionErrorIncoming::InternalError("a write is still under way".to_owned());
            return Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error });
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.reset = None;
        let finished = self.stream.finish();
        Poll::Ready(finished.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, code: u64) {
        self.reset = None;
        // Refused only for a stream that is over anyway.
        self.stream.reset(varint(code)).ok();
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(code) = self.reset {
            self.stream.reset(varint(code.value())).ok();
        }
    }
}

/// A stream's receiving half.
pub(super) struct Receiving {
    stream: quinn::RecvStream,
    framing: Framing,
    // `None` once all was read, and for streams that live as long as the connection.
    stop: Option<Code>,
}

impl Receiving {
    fn new(stream: quinn::RecvStream, stop: Option<Code>) -> Self {
        Self { stream, framing: Framing::default(), stop }
    }

    /// The stream's end is a message's end only between two frames.
    fn end(&mut self) -> Result<Option<Bytes>, StreamErrorIncoming> {
        // Streams of one direction hold more than frames, and h3 lets none of them end.
        let whole = self.stop.take().is_none() || self.framing.is_whole();
        let error_code = Code::H3_REQUEST_INCOMPLETE.value();
        if whole { Ok(None) } else { Err(StreamErrorIncoming::StreamTerminated { error_code }) }
    }
}

impl quic::RecvStream for Receiving {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let chunk = ready!(pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx));
        Poll::Ready(match chunk.map_err(unread)? {
            Some(chunk) => {
                if self.stop.is_some() {
                    self.framing.feed(&chunk.bytes);
                }
                Ok(Some(chunk.bytes))
            }
            None => self.end(),
        })
    }

    fn stop_sending(&mut self, code: u64) {
        self.stop = None;
        self.stream.stop(varint(code)).ok();
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(code) = self.stop {
            self.stream.stop(varint(code.value())).ok();
        }
    }
}

fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn id(id: quinn::StreamId) -> StreamId {
    u64::from(id).try_into().expect("quinn's stream ids are valid ones")
}

fn lost(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn stream_lost(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) }
}

fn unwritten(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => {
            StreamErrorIncoming::StreamTerminated { error_code: code.into() }
        }
        WriteError::ConnectionLost(error) => stream_lost(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

fn unread(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        ReadError::ConnectionLost(error) => stream_lost(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}
